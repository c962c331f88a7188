//! Agents of a hub of three processes: the one an agent is connected to dies, the one that leads dies, and the member sees
//! nothing of it but the edits.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::applications::{replicas, versions, wait_for_pods, web, within};
use crate::control_plane::fleet;
use crate::federation::{Agent, Federation, SOON};
use crate::wait;

/// Three replicas that know of each other.
#[track_caller]
fn group() -> Vec<Federation> {
    let mut hubs = vec![Federation::start()];
    for _ in 1..3 {
        let call = hubs[0].hanse(&["hub", "invite", "-o", "json"]);
        assert!(call.status.success(), "{call}");
        let printed: Value = serde_json::from_str(&call.stdout).unwrap_or_else(|error| panic!("{error} in {call}"));
        let token = printed["token"].as_str().expect("a token").to_owned();
        hubs.push(Federation::start_replica(&token));
    }
    wait_until_they_follow(&hubs[0]);
    hubs
}

/// Role by URL, as this replica sees it.
fn roles(hub: &Federation) -> BTreeMap<String, String> {
    let call = hub.kubectl().args(["get", "replicas", "--output=json", "--request-timeout=20s"]).call();
    let list: Value = serde_json::from_str(&call.stdout).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|replica| (text(&replica["spec"]["url"]), text(&role_of(hub, replica)))).collect()
}

/// What a replica is doing is shown on get, not in a list of whole objects.
fn role_of(hub: &Federation, replica: &Value) -> Value {
    let name = replica["metadata"]["name"].as_str().unwrap_or_default();
    let call = hub.kubectl().args(["get", "replica", name, "--output=json", "--request-timeout=20s"]).call();
    let object: Value = serde_json::from_str(&call.stdout).unwrap_or_default();
    object["status"]["role"].clone()
}

#[track_caller]
fn wait_until_they_follow(hub: &Federation) {
    wait::until("two replicas to follow the third", SOON, || {
        let roles = roles(hub);
        let count = |role: &str| roles.values().filter(|known| *known == role).count();
        if (count("Leader"), count("Follower")) == (1, 2) { Ok(()) } else { Err(format!("{roles:?}")) }
    });
}

/// Which replica leads, as another one sees it.
#[track_caller]
fn leader(hubs: &[Federation], seen_by: usize) -> usize {
    wait::until("a replica to lead", SOON, || {
        let roles = roles(&hubs[seen_by]);
        let url = roles.iter().find(|(_, role)| *role == "Leader").map(|(url, _)| url);
        url.and_then(|url| hubs.iter().position(|hub| hub.url == *url)).ok_or_else(|| format!("{roles:?}"))
    })
}

/// Which replica the agent's newest stream is to, once there are more than `streams` of them in its log; and how many.
#[track_caller]
fn connected(agent: &Agent, hubs: &[Federation], streams: usize) -> (usize, usize) {
    wait::until("the agent to open a stream", SOON, || {
        let log = agent.log();
        let opened: Vec<&str> = log.lines().filter(|line| line.contains("a stream to the hub stands")).collect();
        let at = opened.last().and_then(|line| hubs.iter().position(|hub| line.contains(&hub.url)));
        match at {
            Some(at) if opened.len() > streams => Ok((at, opened.len())),
            _ => Err(log),
        }
    })
}

/// What the agent keeps of its works.
fn ledger(agent: &Agent) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(agent.directory.join("data/ledger/entries")).expect("the ledger");
    let file = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file of the ledger"))
    };
    entries.map(|entry| file(entry.expect("an entry"))).collect()
}

/// The ledger once it holds what came of applying everything in it: that is written a moment after the member has it.
#[track_caller]
fn settled_ledger(agent: &Agent) -> BTreeMap<String, Vec<u8>> {
    wait::until("the ledger to hold what was made", SOON, || {
        let held = ledger(agent);
        let text = held.values().map(|bytes| String::from_utf8_lossy(bytes)).collect::<String>();
        let settled =
            text.contains("\"uid\":\"") && !text.contains("\"uid\":null") && !text.contains("\"result\":null");
        if settled { Ok(held) } else { Err(text) }
    })
}

#[test]
fn the_loss_of_its_replica_and_of_the_leader_costs_a_member_nothing() {
    let member = fleet(1)[0];
    let mut hubs = group();
    let agent = hubs[0].join(member, "eu");
    hubs[0].make_namespace("moves");
    hubs[0].apply(&web("moves", "web", 2, "50m", within(&["eu"])));
    hubs[0].wait_until_running("moves", "web");
    wait_for_pods(member, "moves", 2);
    let (before, held) = (versions(member, "moves"), settled_ledger(&agent));

    let (at, streams) = connected(&agent, &hubs, 0);
    hubs[at].kill_hub();
    let (moved, streams) = connected(&agent, &hubs, streams);
    assert_ne!(moved, at, "to one that lives");
    hubs[moved].wait_for_cluster("eu", "Ready");
    hubs[moved].wait_until_running("moves", "web");
    assert_eq!(versions(member, "moves"), before, "converged means silent");
    assert_eq!(ledger(&agent), held);
    hubs[moved].apply(&web("moves", "web", 3, "50m", within(&["eu"])));
    hubs[moved].wait_until_running("moves", "web");
    assert_eq!(replicas(member, "moves", "web"), 3);
    wait_for_pods(member, "moves", 3);

    hubs[at].start_hub();
    wait_until_they_follow(&hubs[moved]);
    let before = versions(member, "moves");
    let leads = leader(&hubs, moved);
    hubs[leads].kill_hub();
    let alive = (leads + 1) % hubs.len();
    if leads == moved {
        connected(&agent, &hubs, streams);
    }
    hubs[alive].wait_for_cluster("eu", "Ready");
    hubs[alive].wait_until_running("moves", "web");
    assert_eq!(versions(member, "moves"), before);
    hubs[alive].apply(&web("moves", "web", 1, "50m", within(&["eu"])));
    hubs[alive].wait_until_running("moves", "web");
    assert_eq!(replicas(member, "moves", "web"), 1);
}
