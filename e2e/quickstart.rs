//! `hanse quickstart` as a newcomer runs it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::control_plane::Member;
use crate::federation::HANSE;
use crate::run;

/// Far more than the tour takes, so that one that hangs is told from one on a busy machine.
const SECONDS_MAX: &str = "240";

/// Runs the tour; what it says of each step, and what is left of it on disk.
#[track_caller]
fn tour(arguments: &[&str], member: Option<&Member>) -> Vec<Value> {
    let directory = run::current().new_directory("quickstart");
    let mut command = Command::new("timeout");
    command.args([SECONDS_MAX, HANSE, "quickstart", "--once", "--json"]).args(arguments).env("TMPDIR", &directory);
    if let Some(member) = member {
        command.env("KUBECONFIG", &member.kubeconfig);
    }
    let Output { status, stdout, stderr } = command.output().expect("the tour runs");
    let text = String::from_utf8_lossy(&stdout);
    assert!(status.success(), "{status}\n{text}\n{}", String::from_utf8_lossy(&stderr));
    let left = std::fs::read_dir(&directory).expect("the temporary directory").count();
    assert_eq!(left, 0, "something is left in {}", directory.display());
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON object per line"));
    lines.filter(|line| line["event"] == "step").collect()
}

#[test]
fn the_tour_checks_every_step_and_leaves_nothing() {
    let steps = tour(&[], None);
    assert_eq!(steps.len(), 9, "{steps:?}");
    assert!(steps.iter().all(|step| step["passed"] == true), "{steps:?}");
}

#[test]
fn a_real_cluster_joins_beside_the_simulated_ones_and_is_left_as_it_was() {
    let member = Member::create("attached");
    member.add_nodes(2, "4", "16Gi", &[]);
    let context = member.kubectl().args(["config", "current-context"]).ok();
    let steps = tour(&["--members", "2", "--attach", context.trim()], Some(&member));
    let joined = steps[0]["detail"].as_str().expect("a detail");
    assert!(joined.starts_with("eu, us, "), "{joined}");
    let ours = ["-A", "-l", "hanse.dev/application-uid", "-o", "name"];
    assert_eq!(member.kubectl().args(["get", "deployments,services,configmaps"]).args(ours).ok(), "");
    let executors = ["get", "clusterroles,rolebindings,serviceaccounts", "-A", "-o", "name"];
    let executors = member.kubectl().args(executors).ok();
    assert!(!executors.contains("hanse-executor"), "{executors}");
}
