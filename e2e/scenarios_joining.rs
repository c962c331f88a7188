//! How a cluster comes in and goes out: tokens, acceptance, replacement, revocation, deletion.

use serde_json::{Value, json};

use crate::applications::{config_map, get, objects, wait_for_pods, web, within};
use crate::control_plane::fleet;
use crate::federation::{Federation, SOON};
use crate::wait;

#[track_caller]
fn set(federation: &Federation, cluster: &str, spec: Value) {
    let patch = json!({ "spec": spec }).to_string();
    federation.kubectl().args(["patch", "cluster", cluster, "--type=merge", "--patch", &patch]).ok();
}

/// Empty where there is no such cluster.
#[track_caller]
fn uid(federation: &Federation, cluster: &str) -> String {
    let arguments = ["get", "cluster", cluster, "--ignore-not-found", "--output=jsonpath={.metadata.uid}"];
    federation.kubectl().args(arguments).ok()
}

#[test]
fn a_token_is_printed_with_the_one_command_that_joins() {
    let federation = Federation::start();
    let call = federation.hanse(&["token", "create", "eu"]);
    assert!(call.status.success(), "{call}");
    let command = call.stdout.lines().find(|line| line.contains("hanse agent")).unwrap_or_else(|| panic!("{call}"));
    for part in ["--hub", federation.url.as_str(), "--token"] {
        assert!(command.contains(part), "{part} is not in {command}");
    }
    let manifests = federation.hanse(&["token", "create", "us", "-o", "yaml"]);
    assert!(manifests.status.success() && manifests.stdout.contains("kind: Deployment"), "{manifests}");
    // A real API server takes them.
    fleet(1)[0].kubectl().args(["apply", "--dry-run=client", "-f", "-"]).stdin(&manifests.stdout).ok();
}

#[test]
fn an_admin_accepts_a_cluster() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let agent = federation.begin_to_join(member, "eu", federation.invite("eu", &[]));
    federation.wait_for_cluster("eu", "Pending");
    agent.wait_until_it_says(&["accept"]);
    let call = federation.hanse(&["cluster", "accept", "eu"]);
    assert!(call.status.success(), "{call}");
    federation.wait_for_cluster("eu", "Ready");
}

#[test]
fn a_token_works_once() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let invitation = federation.invite("eu", &["--auto-approve"]);
    let again = invitation.clone();
    let _agent = federation.begin_to_join(member, "eu", invitation);
    federation.wait_for_cluster("eu", "Ready");
    let eu = uid(&federation, "eu");

    let thief = federation.begin_to_join(fleet(2)[1], "thief", again);
    thief.wait_until_it_says(&["token", "was used"]);
    assert_eq!(uid(&federation, "eu"), eu);
    let clusters = federation.kubectl().args(["get", "clusters", "--output=name"]).ok();
    assert_eq!(clusters.trim(), "cluster.hub.hanse.dev/eu");
}

#[test]
fn a_token_that_is_too_old_or_unknown_joins_nothing() {
    let federation = Federation::start();
    let old = federation.invite("eu", &["--auto-approve", "--ttl", "1s"]);
    let token = federation.kubectl().args(["get", "jointokens"]).json()["items"][0].clone();
    wait::until_wall_clock_passes(token["spec"]["expiresAt"].as_str().expect("an end"), SOON);
    let agent = federation.begin_to_join(fleet(1)[0], "eu", old);
    agent.wait_until_it_says(&["token", "expired"]);

    let unknown = federation.invite("eu", &["--auto-approve"]);
    federation.kubectl().args(["delete", "jointokens", "--all"]).ok();
    let agent = federation.begin_to_join(fleet(1)[0], "eu", unknown);
    agent.wait_until_it_says(&["the hub refuses", "token"]);
    let clusters = federation.kubectl().args(["get", "clusters", "--output=name"]).ok();
    assert_eq!(clusters, "");
}

#[test]
fn the_member_and_the_hub_can_be_checked_before_joining() {
    let federation = Federation::start();
    let invitation = federation.invite("eu", &[]);
    let kubeconfig = fleet(1)[0].kubeconfig.to_str().expect("a path in UTF-8");
    let check = |hub: &str| {
        let arguments = ["agent", "check", "--hub", hub, "--token", &invitation.token, "--kubeconfig", kubeconfig];
        federation.hanse(&arguments)
    };
    let good = check(&invitation.hub);
    assert!(good.status.success(), "{good}");
    let nobody = check("https://127.0.0.1:1");
    assert_eq!(nobody.status.code(), Some(1), "{nobody}");
    assert_eq!(federation.kubectl().args(["get", "clusters", "--output=name"]).ok(), "");
}

#[test]
fn an_agent_talks_to_no_hub_but_the_one_its_token_names() {
    let federation = Federation::start();
    let other = Federation::start();
    let mut invitation = federation.invite("eu", &["--auto-approve"]);
    // To the agent, whoever answers there is somebody else: the token carries the digest of the right one's key.
    invitation.hub = other.url.clone();
    let agent = federation.begin_to_join(fleet(1)[0], "eu", invitation);
    agent.wait_until_it_says(&["pin"]);
    for hub in [&federation, &other] {
        assert_eq!(hub.kubectl().args(["get", "clusters", "--output=name"]).ok(), "");
    }
}

#[test]
fn a_name_that_is_taken_stays_taken_unless_it_is_to_be_replaced() {
    let members = fleet(2);
    let federation = Federation::start();
    let mut old = federation.join(members[0], "eu");
    let before = uid(&federation, "eu");
    federation.make_namespace("rebuilt");
    federation.apply(&web("rebuilt", "web", 1, "50m", within(&["eu"])));
    federation.wait_until_running("rebuilt", "web");

    let call = federation.hanse(&["token", "create", "eu", "--auto-approve", "-o", "json"]);
    if call.status.success() {
        let printed: Value = serde_json::from_str(&call.stdout).expect("JSON");
        let text = |name: &str| printed[name].as_str().expect("text").to_owned();
        let invitation = crate::federation::Invitation { hub: text("hub"), token: text("token") };
        let second = federation.begin_to_join(members[1], "eu", invitation);
        second.wait_until_it_says(&["eu", "replace"]);
    } else {
        assert!(call.stderr.contains("--replace"), "{call}");
    }
    assert_eq!(uid(&federation, "eu"), before);

    old.kill();
    let invitation = federation.invite("eu", &["--auto-approve", "--replace"]);
    let _new = federation.begin_to_join(members[1], "eu", invitation);
    wait::until("a cluster of that name with another uid", SOON, || {
        // In between there is none.
        let now = uid(&federation, "eu");
        if !now.is_empty() && now != before { Ok(()) } else { Err(now) }
    });
    federation.wait_for_cluster("eu", "Ready");
    // What was placed by name is placed again, in the new one.
    wait_for_pods(members[1], "rebuilt", 1);
    federation.wait_until_running("rebuilt", "web");

    // The old one's identity is worth nothing any more.
    old.start(members[0]);
    old.wait_until_it_says(&["replaced"]);
    assert_ne!(uid(&federation, "eu"), before);
}

#[test]
fn a_revoked_cluster_is_cut_off_and_keeps_what_it_runs() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let agent = federation.join(member, "eu");
    federation.make_namespace("revoked");
    federation.apply(&web("revoked", "web", 1, "50m", within(&["eu"])));
    federation.wait_until_running("revoked", "web");

    set(&federation, "eu", json!({ "accepted": false }));
    agent.wait_until_it_says(&["does not accept"]);
    federation.wait_for_cluster("eu", "Pending");
    wait_for_pods(member, "revoked", 1);

    set(&federation, "eu", json!({ "accepted": true }));
    federation.wait_for_cluster("eu", "Ready");
}

#[test]
fn deleting_a_cluster_orphans_what_runs_there() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let agent = federation.join(member, "eu");
    federation.make_namespace("orphan");
    federation.apply(&web("orphan", "web", 1, "50m", within(&["eu"])));
    federation.wait_until_running("orphan", "web");

    federation.kubectl().args(["delete", "cluster", "eu"]).ok();
    agent.wait_until_it_says(&["deleted"]);
    wait_for_pods(member, "orphan", 1);
    // Nor does the Application's end reach it any more.
    federation.kubectl().namespace("orphan").args(["delete", "application", "web"]).ok();
    wait_for_pods(member, "orphan", 1);
}

#[test]
fn draining_a_cluster_removes_what_runs_there_first() {
    let members = fleet(2);
    let federation = Federation::start();
    let _agents = [federation.join(members[0], "eu"), federation.join(members[1], "us")];
    federation.make_namespace("drain");
    federation.apply(&web("drain", "web", 1, "50m", within(&["eu", "us"])));
    federation.wait_until_running("drain", "web");

    set(&federation, "us", json!({ "deletionPolicy": "Drain" }));
    federation.kubectl().args(["delete", "cluster", "us"]).ok();
    wait_for_pods(members[1], "drain", 0);
    assert!(get(members[1], "drain", "deployment", "web").is_none());
    wait_for_pods(members[0], "drain", 1);
}

#[test]
fn a_dead_cluster_is_forgotten_and_unblocks_what_waits_for_it() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let mut agent = federation.join(member, "eu");
    federation.make_namespace("dead");
    federation.apply(&objects("dead", "pages", json!([config_map("page", "x")]), within(&["eu"])));
    federation.wait_until_running("dead", "pages");

    agent.kill();
    federation.kubectl().namespace("dead").args(["delete", "application", "pages", "--wait=false"]).ok();
    federation.wait_for_application("dead", "pages", "wait for its cluster", |application| {
        application["status"]["status"] == "deleting"
    });
    let call = federation.hanse(&["cluster", "forget", "eu"]);
    assert!(call.status.success(), "{call}");
    wait::until("the Application to be gone", SOON, || {
        let left = federation.kubectl().namespace("dead").args(["get", "applications", "--output=name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(federation.kubectl().args(["get", "clusters", "--output=name"]).ok(), "");
    assert!(get(member, "dead", "configmap", "page").is_some(), "nobody was there to remove it");
}
