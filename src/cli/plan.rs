//! `hanse plan`: where an Application would go if it were applied, before it is. Asked of the hub, whose leader decides with
//! the rooms that it knows, or of a fleet in a file, with the hub's own `flow::schedule`.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::{
    admin::Connection,
    input,
    offline::{self, components},
    render::refuse,
    told::{self, Output},
};
use crate::{
    flow::schedule::{
        Cessions, Fleet, Named, Problem, Rebalance, Record,
        account::{Account, account},
    },
    kinds::PLACEMENT_REVIEW,
    model::{Application, ObjectName, Timestamp},
};

/// Tell where an Application would run, and why, before it is applied
#[derive(clap::Args)]
pub struct Args {
    /// Without a hub: the fleet, as `kubectl get clusters -o yaml` prints it; with the Applications that are in it, as
    /// `kubectl get clusters,applications -A -o yaml`, also what would change
    #[arg(long, value_name = "FLEET.yaml")]
    fleet: Option<PathBuf>,

    /// The Application; - reads standard input
    #[arg(short = 'f', long = "filename", value_name = "APP.yaml", required_unless_present = "replay")]
    filename: Option<PathBuf>,

    /// Where the file says none: the namespace; else that of the kubeconfig's context
    #[arg(short = 'n', long)]
    namespace: Option<String>,

    /// Write down all that the decision is made from
    #[arg(long, value_name = "RECORD.json", requires = "fleet")]
    record: Option<PathBuf>,

    /// Decide again from what was written down
    #[arg(long, value_name = "RECORD.json", conflicts_with_all = ["fleet", "filename"])]
    replay: Option<PathBuf>,

    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let told = match (&args.replay, &args.filename) {
        (Some(replay), _) => {
            let (name, record) = recorded(replay)?;
            decided(&name, &record)
        }
        (None, Some(filename)) => {
            let application = match application(filename)? {
                Ok(application) => application,
                Err(faults) => return Ok(refuse(&faults)),
            };
            match &args.fleet {
                Some(fleet) => offline(&args, fleet, application)?,
                None => live(&args, application).await?,
            }
        }
        (None, None) => bail!("an Application, or a record, must be given"),
    };
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&told)?,
        Output::Table => told::account(&told),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(told::code(told.unplaced.is_empty()))
}

/// The one Application of a file, or what is wrong with it.
fn application(filename: &Path) -> anyhow::Result<Result<Value, Vec<String>>> {
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
    Ok(Ok(application))
}

async fn live(args: &Args, application: Value) -> anyhow::Result<Account> {
    let admin = args.connection.open().await?;
    let own = application["metadata"]["namespace"].as_str().filter(|own| !own.is_empty());
    let namespace = args.namespace.as_deref().or(own).unwrap_or(&admin.namespace).to_owned();
    admin.review(&PLACEMENT_REVIEW, &namespace, &json!({ "application": application })).await
}

fn offline(args: &Args, fleet: &Path, application: Value) -> anyhow::Result<Account> {
    let application: Application = serde_json::from_value(application)?;
    let mut name = application.metadata.object_name();
    if name.namespace.is_empty() {
        name.namespace = args.namespace.clone().unwrap_or_else(|| "default".into());
    }
    let known = offline::read(fleet)?;
    let now = Timestamp(jiff::Timestamp::now());
    let record = record(&application, &name, &known, now)?;
    if let Some(path) = &args.record {
        let text = serde_json::to_string_pretty(&json!({"application": name.name, "record": record}))?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(decided(&name, &record))
}

fn recorded(path: &Path) -> anyhow::Result<(ObjectName, Record)> {
    #[derive(serde::Deserialize)]
    struct Written {
        application: String,
        record: Record,
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let written: Written =
        serde_json::from_str(&text).with_context(|| format!("{} is no record of a decision", path.display()))?;
    Ok((ObjectName::new("", &written.application), written.record))
}

fn record(
    application: &Application,
    name: &ObjectName,
    known: &offline::Known,
    now: Timestamp,
) -> anyhow::Result<Record> {
    let policies = &application.spec.policies;
    let problem = Problem {
        now,
        policies,
        components: &components(application)?,
        previous: known.placement(name),
        running: None,
        held: &BTreeSet::new(),
        neighbours: &known.neighbours(&name.namespace, &Named::of(application), policies),
        profiles: known.profiles(),
        rebalance: Rebalance::No,
        cessions: &Cessions::new(),
    };
    Ok(Record::of(&known.fleet(), &problem))
}

fn decided(name: &ObjectName, record: &Record) -> Account {
    let told = account(&mut Fleet::of(record.fleet.clone()), &record.problem(&record.profiles()));
    let ObjectName { namespace, name } = name.clone();
    Account { application: name, namespace, ..told }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Two clusters of one node each, one with twice the room.
    fn fleet() -> Vec<Value> {
        let cluster = |name: &str, cpu: i64| {
            json!({
                "apiVersion": "hub.hanse.dev/v1alpha1", "kind": "Cluster",
                "metadata": {"name": name, "uid": name, "labels": {"topology.kubernetes.io/region": name}},
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
        vec![cluster("eu", 4000), cluster("us", 2000)]
    }

    fn shop(replicas: u32, policies: Value) -> Value {
        json!({
            "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
            "metadata": {"name": "shop", "namespace": "default"},
            "spec": {
                "components": [{
                    "name": "web", "type": "worker", "properties": {"image": "i", "cpu": "500m"},
                    "traits": [{"type": "scaler", "properties": {"replicas": replicas}}],
                }],
                "policies": policies,
            },
        })
    }

    fn known(documents: &[Value]) -> offline::Known {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{}", json!({"kind": "List", "items": documents})).unwrap();
        offline::read(file.path()).unwrap()
    }

    fn planned_in(known: &offline::Known, application: Value) -> Account {
        let application: Application = serde_json::from_value(application).unwrap();
        let name = application.metadata.object_name();
        let now = Timestamp::from_seconds(0);
        decided(&name, &record(&application, &name, known, now).unwrap())
    }

    fn planned(replicas: u32, policies: Value) -> Account {
        planned_in(&known(&fleet()), shop(replicas, policies))
    }

    fn divided() -> Value {
        json!([{"type": "placement", "properties": {"mode": "Divided"}}])
    }

    #[test]
    fn a_plan_shows_every_share_and_their_sum() {
        let plan = planned(6, divided());
        let web = &plan.components[0];
        assert_eq!((web.mode.as_str(), web.total, web.sum.as_deref()), ("Divided", Some(6), Some("6 = 4 + 2")));
        assert!(plan.unplaced.is_empty() && plan.hints.is_empty() && !plan.settled);
        assert!(told::account(&plan).contains("web: 6 = 4 + 2 (Divided)"));
    }

    #[test]
    fn a_plan_says_why_not_and_what_would_help() {
        let plan = planned(1, json!([{"type": "topology", "properties": {"clusters": ["us", "mars"]}}]));
        let shown = serde_json::to_value(&plan).unwrap();
        let refusals = |reason: &str| {
            let refusals = shown["components"][0]["refusals"].as_array().unwrap();
            refusals.iter().filter(|no| no["reason"] == reason).map(|no| no["cluster"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(refusals("NotNamed"), ["eu"]);
        assert_eq!(refusals("NoSuchCluster"), ["mars"]);
        assert!(plan.unplaced.contains_key("web"));
        let plan = planned(13, divided());
        assert_eq!(plan.unplaced.len(), 1);
        let shown = told::account(&plan);
        assert!(shown.contains("hint: room for 1 more in eu (500m cpu each"), "{shown}");
    }

    /// Others that are in the file are kept apart from, and what the platform says there holds.
    #[test]
    fn neighbours_and_profiles_of_the_file_count() {
        let mut other = shop(1, divided());
        other["metadata"]["name"] = "other".into();
        other["status"]["placement"] =
            json!({"decision": 1, "rows": [{"cluster": "eu", "component": "web", "replicas": 1, "reason": "r"}]});
        let apart = json!([{"name": "p", "type": "placement",
            "properties": {"mode": "Divided", "affinity": {"apart": [{"application": "other"}]}}}]);
        let plan = planned_in(&known(&[fleet(), vec![other]].concat()), shop(2, apart));
        let refused = &plan.components[0].refusals[0];
        assert_eq!((refused.cluster.as_str(), refused.reason.as_str()), ("eu", "AntiAffinity"));
        let profile = json!({"apiVersion": "hub.hanse.dev/v1alpha1", "kind": "PlacementProfile",
            "metadata": {"name": "default"},
            "spec": {"filters": [{"type": "Expression", "expression": "name != 'us'", "message": "not us"}]}});
        let plan = planned_in(&known(&[fleet(), vec![profile]].concat()), shop(2, divided()));
        assert!(told::account(&plan).contains("RuleFalse: not us"), "{}", told::account(&plan));
    }

    #[test]
    fn what_is_on_its_way_counts_where_it_goes() {
        let mut running = shop(4, divided());
        running["status"]["placement"] = json!({"decision": 3, "rows": [
            {"cluster": "eu", "component": "web", "replicas": 4, "reason": "r"},
            {"cluster": "us", "component": "web", "replicas": 2, "reason": "r"},
        ], "moves": [{"component": "web", "from": "eu", "to": "us", "replicas": 2}]});
        let plan = planned_in(&known(&[fleet(), vec![running]].concat()), shop(4, divided()));
        assert_eq!((plan.components[0].sum.as_deref(), plan.settled), (Some("4 = 2 + 2"), true));
    }

    #[test]
    fn a_fleet_with_applications_shows_what_changes_and_what_a_loss_would_do() {
        let mut running = shop(6, divided());
        running["status"]["placement"] = json!({"decision": 3, "rows": [
            {"cluster": "eu", "component": "web", "replicas": 4, "reason": "r"},
            {"cluster": "us", "component": "web", "replicas": 2, "reason": "r"},
        ]});
        let documents = [fleet(), vec![running]].concat();
        let known = known(&documents);
        let plan = planned_in(&known, shop(9, divided()));
        let shown = told::account(&plan);
        assert!(shown.contains("4 → 6") && shown.contains("2 → 3"), "{shown}");
        assert!(planned_in(&known, shop(6, divided())).settled);
        let mut fleet = known.fleet();
        let lost = [fleet.uid(1).clone()].into();
        let told = crate::flow::schedule::drill::drill(&mut fleet, Timestamp::from_seconds(0), &lost, &known.tenants());
        assert_eq!((told.lost[0].as_str(), told.total.lost, told.total.replaced), ("us", 2, 2));
        let table = super::told::drill(&told);
        assert!(table.contains("eu: 4 → 6, us: 2 → 0"), "{table}");
    }
}
