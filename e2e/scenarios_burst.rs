//! A burst of Applications onto members that are nearly full: what is placed runs, and what fits is placed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::applications::{divided, web};
use crate::control_plane::Member;
use crate::federation::{Federation, SOON};
use crate::wait;

const NAMESPACE: &str = "burst";

/// Name, nodes, cores of each, and how many thousandths of a core something else holds of each.
const MEMBERS: [(&str, u32, &str, &str); 3] =
    [("full-eu", 2, "4", "3"), ("full-us", 3, "4", "2500m"), ("full-ap", 2, "8", "7800m")];
const APPLICATIONS: u32 = 200;

/// Thousandths of a core.
fn milli(quantity: &Value) -> i64 {
    let text = quantity.as_str().unwrap_or_default();
    let number = |text: &str| text.parse::<i64>().unwrap_or_else(|_| panic!("{quantity} is no amount of CPU"));
    text.strip_suffix('m').map_or_else(|| 1000 * number(text), number)
}

fn start(&(name, nodes, cpu, held): &(&str, u32, &str, &str)) -> Member {
    let member = Member::create(name);
    member.add_nodes(nodes, cpu, "16Gi", &[]);
    let container = json!({"name": "c", "image": "c:1", "resources": {"requests": {"cpu": held}}});
    let labels = json!({"app": "others"});
    let others = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "others", "namespace": "default"},
        "spec": {"replicas": nodes, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}},
    });
    member.kubectl().args(["apply", "-f", "-"]).stdin(others).ok();
    let rollout = ["rollout", "status", "deployment/others", "--namespace=default", "--timeout=60s"];
    member.kubectl().args(rollout).ok();
    member
}

/// Free thousandths of a core by node, and the pods of the burst that wait.
fn look(member: &Member) -> (BTreeMap<String, i64>, Vec<String>) {
    let list =
        |arguments: &[&str]| member.kubectl().args(arguments).json()["items"].as_array().cloned().unwrap_or_default();
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let nodes = list(&["get", "nodes"]);
    let mut free: BTreeMap<String, i64> =
        nodes.iter().map(|node| (name(node), milli(&node["status"]["allocatable"]["cpu"]))).collect();
    let mut waiting = Vec::new();
    for pod in list(&["get", "pods", "--all-namespaces"]) {
        match pod["spec"]["nodeName"].as_str().and_then(|node| free.get_mut(node)) {
            Some(free) => {
                let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
                *free -= containers.map(|container| milli(&container["resources"]["requests"]["cpu"])).sum::<i64>();
            }
            None => waiting.push(name(&pod)),
        }
    }
    (free, waiting)
}

/// What an Application asks for: replicas, and thousandths of a core of each. Every third is divided.
fn asks(number: u32) -> (u32, i64, Value) {
    match number % 3 {
        0 => (2, 100, divided()),
        1 => (1, 100, json!([])),
        _ => (1, 200, json!([])),
    }
}

fn is_unplaced(status: &Value) -> bool {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["reason"] == "Unplaced")
}

#[test]
fn a_burst_onto_nearly_full_members_leaves_no_pod_waiting_and_no_room_unused() {
    let members: Vec<Member> = MEMBERS.iter().map(start).collect();
    let federation = Federation::start();
    let _agents: Vec<_> = members.iter().map(|member| federation.join(member, &member.name)).collect();
    federation.make_namespace(NAMESPACE);

    let name = |number: u32| format!("app-{number:03}");
    let application = |number: u32| {
        let (replicas, cpu, policies) = asks(number);
        web(NAMESPACE, &name(number), replicas, &format!("{cpu}m"), policies)
    };
    let all: Vec<String> = (0..APPLICATIONS).map(|number| application(number).to_string()).collect();
    federation.kubectl().args(["apply", "-f", "-"]).stdin(all.join("\n---\n")).ok();

    wait::until("every application to run, or to say why not, with no pod waiting and no room left", SOON, || {
        let applications = federation.kubectl().namespace(NAMESPACE).args(["get", "applications"]).json();
        let looks: Vec<_> = members.iter().map(look).collect();
        let waiting: Vec<&String> = looks.iter().flat_map(|(_, waiting)| waiting).collect();
        if !waiting.is_empty() {
            return Err(format!("pods wait: {waiting:?}"));
        }
        let mut unplaced = Vec::new();
        for number in 0..APPLICATIONS {
            let items = applications["items"].as_array().into_iter().flatten();
            let found = items.into_iter().find(|found| found["metadata"]["name"] == name(number).as_str());
            let status = found.map_or(&Value::Null, |found| &found["status"]);
            match status["status"].as_str() {
                Some("running") => {}
                _ if is_unplaced(status) => unplaced.push(number),
                _ => return Err(format!("{}: {status:#}", name(number))),
            }
        }
        let free = || looks.iter().flat_map(|(free, _)| free.values());
        for &number in &unplaced {
            let (replicas, cpu, policies) = asks(number);
            let room = |free: &i64| free / cpu;
            // Undivided ones need one cluster for all; each of these has one replica.
            let fits: i64 = free().map(room).sum();
            if fits >= i64::from(replicas) {
                return Err(format!("{} of {cpu}m is not placed ({policies}), and {:?} is free", name(number), looks));
            }
        }
        assert!(!unplaced.is_empty(), "more is asked for than there is");
        assert!(free().all(|free| *free >= 0), "{looks:?}");
        println!("{} of {APPLICATIONS} placed, free on each node: {looks:?}", APPLICATIONS - unplaced.len() as u32);
        Ok(())
    });
}
