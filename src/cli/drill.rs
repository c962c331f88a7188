//! `hanse drill`: what would move where, and what would not fit, if clusters were lost. Nothing is written.

use std::{collections::BTreeSet, io::Write, path::PathBuf, process::ExitCode};

use serde_json::json;

use super::{
    admin::Connection,
    offline,
    told::{self, Output},
};
use crate::{
    flow::schedule::{
        drill::{self, Drill},
        fleet::label_of,
    },
    kinds::DRILL_REVIEW,
    model::{Timestamp, Uid, application::ClusterSet, selector::LabelSelector},
};

/// Tell what would move where, and what would not fit, if clusters were lost
#[derive(clap::Args)]
pub struct Args {
    /// A cluster, or a label selector such as region=eu; may be given several times, all are lost at once
    #[arg(long, value_name = "CLUSTER|SELECTOR", required = true)]
    lose: Vec<String>,

    /// Without a hub: clusters, Applications and their placements, as `kubectl get clusters,applications,works -A -o yaml`
    /// prints them
    #[arg(long, value_name = "FLEET.yaml")]
    fleet: Option<PathBuf>,

    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sets = args.lose.iter().map(|text| set(text)).collect::<Result<Vec<_>, _>>()?;
    let told: Drill = match &args.fleet {
        Some(path) => {
            let known = offline::read(path)?;
            let mut fleet = known.fleet();
            let lost: BTreeSet<Uid> = drill::lost(&fleet, &sets).map_err(anyhow::Error::msg)?;
            drill::drill(&mut fleet, Timestamp(jiff::Timestamp::now()), &lost, &known.tenants())
        }
        None => args.connection.open().await?.review(&DRILL_REVIEW, "", &json!({"lose": sets})).await?,
    };
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&told)?,
        Output::Table => told::drill(&told),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(told::code(told.total.short == 0))
}

/// A name, or a selector in which `region`, `zone` and `provider` stand for their labels.
fn set(text: &str) -> anyhow::Result<ClusterSet> {
    if !text.contains(['=', '!', '<', '>', '(', ' ', ',']) {
        return Ok(ClusterSet { clusters: vec![text.to_owned()], cluster_selector: None });
    }
    let mut selector = LabelSelector::parse(text)?;
    for requirement in &mut selector.match_expressions {
        requirement.key = label_of(&requirement.key).to_owned();
    }
    Ok(ClusterSet { clusters: Vec::new(), cluster_selector: Some(selector) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_a_name_or_a_selector() {
        assert_eq!(set("eu").unwrap().clusters, ["eu"]);
        let selector = set("region=eu,tier in (gold,silver)").unwrap().cluster_selector.unwrap();
        assert_eq!(selector.to_string(), "topology.kubernetes.io/region in (eu),tier in (gold,silver)");
        assert!(set("region=").is_ok() && set("=eu").is_err());
    }
}
