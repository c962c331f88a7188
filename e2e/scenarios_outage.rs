//! Hub and agents away, separately and together: what runs keeps running, nothing is rewritten, everything comes back.

use serde_json::{Value, json};

use crate::applications::{config_map, get, objects, replicas, versions, wait_for_pods, web, within};
use crate::control_plane::{Member, fleet};
use crate::federation::{Agent, Federation, SOON};
use crate::network::Namespace;
use crate::wait;

/// What the hub has written of an Application: its own version, and those of its revisions and works.
#[track_caller]
fn written(federation: &Federation, namespace: &str) -> Vec<Value> {
    let list = |kinds: &str| {
        let list = federation.kubectl().namespace(namespace).args(["get", kinds]).json();
        list["items"].as_array().expect("a list").clone()
    };
    let version = |object: &Value| {
        let metadata = &object["metadata"];
        json!([object["kind"], metadata["name"], metadata["resourceVersion"], metadata["generation"]])
    };
    let stored = list("applications").into_iter().chain(list("applicationrevisions"));
    let works = list("works");
    let generation =
        |work: &Value| json!([work["metadata"]["name"], work["spec"]["generation"], work["spec"]["digest"]]);
    stored.map(|object| version(&object)).chain(works.iter().map(generation)).collect()
}

/// Runs one more Application through hub and agents: when it is there, they have seen everything before it.
#[track_caller]
fn prove_that_all_is_well(federation: &Federation, namespace: &str, clusters: &[&str]) {
    federation.apply(&objects(namespace, "proof", json!([config_map("proof", "x")]), within(clusters)));
    federation.wait_until_running(namespace, "proof");
    federation.kubectl().namespace(namespace).args(["delete", "application", "proof"]).ok();
}

#[test]
fn a_hub_that_is_killed_comes_back_and_rewrites_nothing() {
    let members = fleet(2);
    let mut federation = Federation::start();
    let _agents = [federation.join(members[0], "eu"), federation.join(members[1], "us")];
    federation.make_namespace("hubkill");
    federation.apply(&web("hubkill", "web", 2, "50m", within(&["eu", "us"])));
    federation.wait_until_running("hubkill", "web");
    for member in &members {
        wait_for_pods(member, "hubkill", 2);
    }
    let before: Vec<_> = members.iter().map(|member| versions(member, "hubkill")).collect();
    let written_before = written(&federation, "hubkill");

    federation.kill_hub();
    federation.start_hub();
    for cluster in ["eu", "us"] {
        federation.wait_for_cluster(cluster, "Ready");
    }
    federation.wait_until_running("hubkill", "web");
    assert_eq!(written(&federation, "hubkill"), written_before);
    prove_that_all_is_well(&federation, "hubkill", &["eu", "us"]);
    let after: Vec<_> = members.iter().map(|member| versions(member, "hubkill")).collect();
    assert_eq!(after, before);
    assert_eq!(written(&federation, "hubkill"), written_before);

    assert!(federation.stop_hub(), "SIGTERM ends the hub well");
    federation.start_hub();
    assert_eq!(written(&federation, "hubkill"), written_before);
}

#[test]
fn an_agent_that_was_killed_repairs_drift_from_its_ledger_while_the_hub_is_away() {
    let member = fleet(1)[0];
    let mut federation = Federation::start();
    let mut agent = federation.join(member, "eu");
    federation.make_namespace("ledger");
    federation.apply(&web("ledger", "web", 2, "50m", within(&["eu"])));
    federation.wait_until_running("ledger", "web");
    let before = versions(member, "ledger");

    federation.kill_hub();
    agent.kill();
    let service = get(member, "ledger", "service", "web").expect("the Service");
    member.kubectl().namespace("ledger").args(["scale", "deployment", "web", "--replicas=0"]).ok();
    member.kubectl().namespace("ledger").args(["delete", "service", "web"]).ok();
    agent.start(member);
    wait::until("the drift to be repaired without a hub", SOON, || {
        let back = get(member, "ledger", "service", "web");
        let back = back.is_some_and(|back| back["metadata"]["uid"] != service["metadata"]["uid"]);
        match (replicas(member, "ledger", "web"), back) {
            (2, true) => Ok(()),
            seen => Err(format!("replicas and Service: {seen:?}")),
        }
    });
    wait_for_pods(member, "ledger", 2);

    federation.start_hub();
    federation.wait_for_cluster("eu", "Ready");
    federation.wait_until_running("ledger", "web");
    let after = versions(member, "ledger");
    let kept =
        |versions: &std::collections::BTreeMap<String, String>| versions.get("RoleBinding/hanse-executor").cloned();
    assert_eq!(kept(&after), kept(&before));
}

#[test]
fn certificates_renew_after_the_hub_was_away_for_longer_than_they_live() {
    let member = fleet(1)[0];
    let mut federation = Federation::start_with(std::net::Ipv4Addr::LOCALHOST, &["--agent-certificate-seconds", "10"]);
    let mut agent = federation.join(member, "eu");
    federation.make_namespace("expired");
    federation.apply(&web("expired", "web", 1, "50m", within(&["eu"])));
    federation.wait_until_running("expired", "web");
    let certificate = |federation: &Federation| {
        federation.kubectl().args(["get", "cluster", "eu"]).json()["status"]["certificate"].clone()
    };
    let old = certificate(&federation);

    federation.kill_hub();
    wait::until_wall_clock_passes(old["notAfter"].as_str().expect("the end of the certificate"), SOON);
    assert!(agent.runs(), "an agent outlives its hub and its certificate");
    federation.start_hub();
    wait::until("another certificate", SOON, || {
        let new = certificate(&federation);
        if new["serial"] != old["serial"] { Ok(()) } else { Err(new) }
    });
    federation.wait_for_cluster("eu", "Ready");
    prove_that_all_is_well(&federation, "expired", &["eu"]);
}

#[test]
fn a_silent_cluster_becomes_unknown_and_nothing_else() {
    let members = fleet(2);
    let federation = Federation::start();
    let _loud = federation.join(members[0], "eu");
    let mut silent = federation.join(members[1], "us");
    federation.make_namespace("hush");
    federation.apply(&web("hush", "web", 2, "50m", within(&["eu", "us"])));
    federation.wait_until_running("hush", "web");
    let before: Vec<_> = members.iter().map(|member| versions(member, "hush")).collect();
    let generations = works(&federation, "hush");

    silent.kill();
    federation.wait_for_cluster("us", "Unknown");
    federation.wait_for_cluster("eu", "Ready");
    assert_eq!(works(&federation, "hush"), generations);
    let after: Vec<_> = members.iter().map(|member| versions(member, "hush")).collect();
    assert_eq!(after, before);

    silent.start(members[1]);
    federation.wait_for_cluster("us", "Ready");
    federation.wait_until_running("hush", "web");
    assert_eq!(works(&federation, "hush"), generations);
    let after: Vec<_> = members.iter().map(|member| versions(member, "hush")).collect();
    assert_eq!(after, before);
}

/// Name and generation of each work in a namespace.
#[track_caller]
fn works(federation: &Federation, namespace: &str) -> String {
    let columns = "--output=custom-columns=NAME:.metadata.name,GENERATION:.spec.generation";
    federation.kubectl().namespace(namespace).args(["get", "works", columns]).ok()
}

#[test]
fn a_cluster_behind_a_network_of_its_own_joins_with_outgoing_connections_only() {
    let member = Member::create_within(Namespace::create(), "behind-nat");
    member.add_nodes(1, "4", "8Gi", &[]);
    let namespace = member.namespace.as_ref().expect("a namespace");
    let federation = Federation::start_with(namespace.host, &[]);
    let agent: Agent = federation.join(&member, "inside");
    federation.make_namespace("nat");
    federation.apply(&web("nat", "web", 2, "50m", within(&["inside"])));
    federation.wait_until_running("nat", "web");
    wait_for_pods(&member, "nat", 2);
    assert_eq!(namespace.open_ports(), Vec::<u16>::new(), "nothing listens where others could reach it");

    namespace.cut();
    federation.wait_for_cluster("inside", "Unknown");
    federation.apply(&web("nat", "web", 3, "50m", within(&["inside"])));
    assert_eq!(replicas(&member, "nat", "web"), 2);
    namespace.restore();
    federation.wait_for_cluster("inside", "Ready");
    federation.wait_until_running("nat", "web");
    wait_for_pods(&member, "nat", 3);
    drop(agent);
}
