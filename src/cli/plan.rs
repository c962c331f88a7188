//! `hanse plan`: where an Application would go in a fleet, without a hub. Decides with the hub's own `flow::schedule`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;

use crate::{
    flow::{
        render::render,
        schedule::{self, Fleet, Problem, Profiles, Record, Solution},
    },
    model::{Application, Cluster, Timestamp, Uid, placement::Refusal, revision::RenderedComponent},
};

use super::{input, render::refuse};

/// Tell where an Application would run, and why, without a hub
#[derive(clap::Args)]
pub struct Args {
    /// The fleet, as `kubectl get clusters -o yaml` prints it
    #[arg(long, value_name = "FLEET.yaml", required_unless_present = "replay")]
    fleet: Option<PathBuf>,

    /// The Application; - reads standard input
    #[arg(short = 'f', long = "filename", value_name = "APP.yaml", required_unless_present = "replay")]
    filename: Option<PathBuf>,

    /// Write down all that the decision is made from
    #[arg(long, value_name = "RECORD.json")]
    record: Option<PathBuf>,

    /// Decide again from what was written down
    #[arg(long, value_name = "RECORD.json", conflicts_with_all = ["fleet", "filename"])]
    replay: Option<PathBuf>,

    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Json,
    Table,
}

/// What is printed; scripts read it, so fields are only ever added.
#[derive(Serialize)]
struct Plan {
    application: String,
    components: Vec<Component>,
    /// Component → what was missing.
    unplaced: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Component {
    name: String,
    mode: &'static str,
    /// Replicas in all clusters; absent where the component has none to count.
    total: Option<u64>,
    /// `30 = 12 + 10 + 8`, in the order of `clusters`.
    sum: Option<String>,
    clusters: Vec<Share>,
    refusals: Vec<No>,
}

#[derive(Serialize)]
struct Share {
    cluster: String,
    replicas: Option<u32>,
    reason: String,
}

#[derive(Serialize)]
struct No {
    cluster: String,
    /// A stable CamelCase word.
    reason: String,
    message: String,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let planned = match (&args.fleet, &args.filename, &args.replay) {
        (Some(fleet), Some(filename), _) => asked(fleet, filename)?,
        (_, _, Some(replay)) => Ok(recorded(replay)?),
        _ => bail!("a fleet and an Application, or a record, must be given"),
    };
    let (name, record) = match planned {
        Ok(planned) => planned,
        Err(faults) => return Ok(refuse(&faults)),
    };
    if let Some(path) = &args.record {
        let text = serde_json::to_string_pretty(&json!({"application": name, "record": record}))?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let plan = plan(&name, &record);
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&plan)?,
        Output::Table => plan.table(),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(if plan.unplaced.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Asked = (String, Record);

/// What a decision on the files is made from, or what is wrong with the Application.
fn asked(fleet: &Path, filename: &Path) -> anyhow::Result<Result<Asked, Vec<String>>> {
    let mut checked = match input::applications(filename)? {
        Ok(checked) => checked,
        Err(faults) => return Ok(Err(faults)),
    };
    let Some(input::Checked { application, warnings }) = checked.pop().filter(|_| checked.is_empty()) else {
        bail!("{} holds several Applications; plan one at a time", filename.display());
    };
    for warning in warnings {
        eprintln!("warning: the hub refuses this: {warning}");
    }
    let application: Application = serde_json::from_value(application)?;
    let fleet = Fleet::of_clusters(&clusters(fleet)?);
    Ok(record(&application, &fleet, Timestamp(jiff::Timestamp::now())))
}

fn recorded(path: &Path) -> anyhow::Result<Asked> {
    #[derive(serde::Deserialize)]
    struct Written {
        application: String,
        record: Record,
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let written: Written =
        serde_json::from_str(&text).with_context(|| format!("{} is no record of a decision", path.display()))?;
    Ok((written.application, written.record))
}

/// A fleet that was written by hand need not have uids: then a cluster's name does.
fn clusters(path: &Path) -> anyhow::Result<Vec<Cluster>> {
    let mut names = BTreeSet::new();
    let mut clusters = Vec::new();
    for document in input::documents(path)? {
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if document["kind"] != "Cluster" || name.is_empty() {
            bail!("{} holds an object that is no Cluster with a name: kind {}", path.display(), document["kind"]);
        }
        let mut cluster: Cluster = serde_json::from_value(document)
            .with_context(|| format!("cluster {name:?} in {} cannot be read", path.display()))?;
        if !names.insert(name.clone()) {
            bail!("{} holds two clusters named {name:?}", path.display());
        }
        if cluster.metadata.uid == Uid::default() {
            cluster.metadata.uid = Uid(name);
        }
        clusters.push(cluster);
    }
    Ok(clusters)
}

fn record(application: &Application, fleet: &Fleet, now: Timestamp) -> Result<Asked, Vec<String>> {
    let rendered =
        render(application, "").map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let component = |rendered: crate::model::revision::RenderedObjects| RenderedComponent {
        name: rendered.name,
        type_: rendered.type_,
        manifests: Vec::new(),
        demand: rendered.demand,
        replicas: rendered.replicas,
        references: rendered.references,
    };
    let components: Vec<_> = rendered.components.into_iter().map(component).collect();
    let problem = Problem {
        now,
        policies: &application.spec.policies,
        components: &components,
        previous: None,
        running: None,
        held: &BTreeSet::new(),
        profiles: &Profiles::default(),
    };
    Ok((application.metadata.name.clone(), Record::of(fleet, &problem)))
}

fn plan(application: &str, record: &Record) -> Plan {
    let solution = record.replay();
    let component = |component: &RenderedComponent| {
        let clusters = shares(&component.name, &solution, record);
        let counts: Option<Vec<u32>> = clusters.iter().map(|share| share.replicas).collect();
        let counts = counts.filter(|_| component.replicas.is_some());
        Component {
            name: component.name.clone(),
            mode: schedule::mode_of(&record.policies, &component.name),
            total: counts.as_deref().map(total),
            sum: counts.as_deref().map(sum),
            clusters,
            refusals: refusals(&component.name, &solution),
        }
    };
    let components = record.components.iter().map(component).collect();
    Plan { application: application.to_owned(), components, unplaced: solution.unplaced.clone() }
}

/// In order of cluster names.
fn shares(component: &str, solution: &Solution, record: &Record) -> Vec<Share> {
    let share = |(uid, shares): (&Uid, &BTreeMap<String, crate::model::placement::Share>)| {
        let share = shares.get(component)?;
        let cluster = record.fleet.get(uid).map_or_else(|| uid.to_string(), |cluster| cluster.name.clone());
        Some(Share { cluster, replicas: share.replicas, reason: share.reason.clone() })
    };
    let mut shares: Vec<_> = solution.shares.iter().filter_map(share).collect();
    shares.sort_by(|one, other| one.cluster.cmp(&other.cluster));
    shares
}

fn refusals(component: &str, solution: &Solution) -> Vec<No> {
    let no = |refusal: &Refusal| No {
        cluster: refusal.cluster_name.clone(),
        reason: serde_json::to_value(&refusal.why)
            .ok()
            .and_then(|why| why["reason"].as_str().map(str::to_owned))
            .unwrap_or_default(),
        message: refusal.why.to_string(),
    };
    solution.refusals.iter().filter(|refusal| refusal.component == component).map(no).collect()
}

fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|&count| u64::from(count)).sum()
}

fn sum(counts: &[u32]) -> String {
    let parts: Vec<_> = counts.iter().map(ToString::to_string).collect();
    format!("{} = {}", total(counts), if parts.is_empty() { "0".to_owned() } else { parts.join(" + ") })
}

impl Plan {
    /// One line for every cluster that was asked, yes or no.
    fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["COMPONENT", "CLUSTER", "REPLICAS", "WHY"]);
        let mut notes = Vec::new();
        for component in &self.components {
            for share in &component.clusters {
                let replicas = share.replicas.map_or_else(|| "all".to_owned(), |count| count.to_string());
                table.add_row([&component.name, &share.cluster, &replicas, &share.reason]);
            }
            for no in &component.refusals {
                table.add_row([&component.name, &no.cluster, "-", &no.message]);
            }
            notes.extend(component.sum.as_ref().map(|sum| format!("{}: {} ({})", component.name, sum, component.mode)));
        }
        let unplaced = self.unplaced.iter().map(|(component, what)| format!("{component}: not placed: {what}"));
        format!("{table}\n\n{}", notes.into_iter().chain(unplaced).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Two clusters of one node each, one with twice the room.
    fn fleet() -> Fleet {
        let cluster = |name: &str, cpu: i64| {
            json!({
                "metadata": {"name": name, "uid": name},
                "spec": {"accepted": true},
                "status": {
                    "conditions": [{
                        "type": "Ready", "status": "True", "reason": "Beating", "lastTransitionTime": "2026-01-01T00:00:00Z"
                    }],
                    "sketch": {
                        "sequence": 1, "nodes": 1, "allocatable": {}, "free": {},
                        "shapes": [{"count": 1, "free": {"cpu": cpu, "memory": 1 << 30, "pods": 110}}],
                    },
                },
            })
        };
        let clusters =
            [cluster("eu", 4000), cluster("us", 2000)].map(|cluster| serde_json::from_value(cluster).unwrap());
        Fleet::of_clusters(&clusters)
    }

    fn planned(replicas: u32, policies: Value) -> Plan {
        let application = json!({
            "metadata": {"name": "shop"},
            "spec": {
                "components": [{
                    "name": "web", "type": "worker", "properties": {"image": "i", "cpu": "500m"},
                    "traits": [{"type": "scaler", "properties": {"replicas": replicas}}],
                }],
                "policies": policies,
            },
        });
        let application = serde_json::from_value(application).unwrap();
        let (name, record) = record(&application, &fleet(), Timestamp::from_seconds(0)).unwrap();
        plan(&name, &record)
    }

    #[test]
    fn a_plan_shows_every_share_and_their_sum() {
        let plan = planned(6, json!([{"type": "placement", "properties": {"mode": "Divided"}}]));
        let web = &plan.components[0];
        assert_eq!((web.mode, web.total, web.sum.as_deref()), ("Divided", Some(6), Some("6 = 4 + 2")));
        assert!(plan.unplaced.is_empty());
        assert!(plan.table().contains("web: 6 = 4 + 2 (Divided)"));
    }

    #[test]
    fn a_plan_says_why_not() {
        let plan = planned(1, json!([{"type": "topology", "properties": {"clusters": ["us", "mars"]}}]));
        let shown = serde_json::to_value(&plan).unwrap();
        let refusals = |reason: &str| {
            let refusals = shown["components"][0]["refusals"].as_array().unwrap();
            refusals.iter().filter(|no| no["reason"] == reason).map(|no| no["cluster"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(refusals("NotNamed"), ["eu"]);
        assert_eq!(refusals("NoSuchCluster"), ["mars"]);
        assert!(plan.unplaced.contains_key("web"));
        assert_eq!(planned(100, json!([{"type": "placement", "properties": {"mode": "Divided"}}])).unplaced.len(), 1);
    }
}
