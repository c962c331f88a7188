//! A hub of three processes: any of them takes writes, the loss of any one is survived, and who is lost for good is replaced.

use crate::federation::SOON;
use crate::group::Replica;
use crate::wait;

/// Three replicas that agree, each under its number less one.
#[track_caller]
fn group() -> Vec<Replica> {
    let mut replicas: Vec<Replica> = (0..3).map(|_| Replica::new()).collect();
    replicas[0].start(&[]);
    for index in 1..3 {
        let token = replicas[0].invite();
        replicas[index].start(&["--join", &token]);
    }
    replicas[0].wait_for_group(&["1", "2", "3"]);
    replicas
}

/// A write that is tried again as clients do, until it is done.
#[track_caller]
fn write(replica: &Replica, name: &str) {
    wait::until(&format!("namespace {name} to be made"), SOON, || {
        let call = replica.kubectl().args(["create", "namespace", name, "--request-timeout=20s"]).call();
        let done = call.status.success() || call.stderr.contains("AlreadyExists");
        if done { Ok(()) } else { Err(call.to_string()) }
    });
}

#[track_caller]
fn namespaces(replica: &Replica) -> String {
    replica.kubectl().args(["get", "namespaces", "--output=name"]).ok()
}

fn index_of(name: &str) -> usize {
    name.parse::<usize>().expect("a number") - 1
}

#[test]
fn any_replica_takes_writes_and_the_loss_of_the_leader_is_survived() {
    let mut replicas = group();
    for (index, replica) in replicas.iter().enumerate() {
        replica.kubectl().args(["create", "namespace", &format!("by-{index}")]).ok();
        for other in &replicas {
            assert!(namespaces(other).contains(&format!("by-{index}")), "what was acknowledged is read everywhere");
        }
    }
    // One kubeconfig is good for all of them.
    let elsewhere = ["get", "namespaces", "--output=name", "--server", &replicas[2].url].map(str::to_owned);
    assert!(replicas[0].kubectl().args(elsewhere.iter().map(String::as_str)).ok().contains("by-1"));
    let table = replicas[1].kubectl().args(["get", "replicas"]).ok();
    assert!(table.contains("Leader") && table.matches("Follower").count() == 2, "{table}");
    // Nobody makes a replica by hand, and what is shown of one is not stored.
    let stored = replicas[0].kubectl().args(["get", "replicas", "2", "--output=json"]).json();
    assert_eq!(stored["status"]["role"], "Follower");

    let leader = index_of(&replicas[0].wait_for_group(&["1", "2", "3"]));
    replicas[leader].kill();
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    for index in &others {
        write(&replicas[*index], &format!("without-{index}"));
    }
    let name = (leader + 1).to_string();
    wait::until("the status to show the loss", SOON, || {
        let roles = replicas[others[0]].roles();
        if roles[&name] == "Unreachable" { Ok(()) } else { Err(format!("{roles:?}")) }
    });
    let call = replicas[others[0]].hanse(&["hub", "status"]);
    assert!(call.status.success() && call.stdout.contains("not one more may be lost"), "{call}");

    replicas[leader].start(&[]);
    replicas[leader].wait_for_group(&["1", "2", "3"]);
    for index in &others {
        assert!(namespaces(&replicas[leader]).contains(&format!("without-{index}")), "it has caught up");
    }
}

#[test]
fn a_replica_that_is_told_to_stop_gives_the_lead_away_first() {
    let mut replicas = group();
    let leader = index_of(&replicas[0].wait_for_group(&["1", "2", "3"]));
    let mut process = replicas[leader].process.take().expect("it runs");
    assert!(process.stop().success(), "{}", process.log_tail());
    let other = &replicas[(leader + 1) % 3];
    write(other, "after");
    let roles = other.roles();
    assert!(roles.values().any(|role| role == "Leader"), "{roles:?}");
    replicas[leader].start(&[]);
    replicas[leader].wait_for_group(&["1", "2", "3"]);
}

#[test]
fn a_replica_that_comes_back_at_another_address_is_found() {
    let mut replicas = group();
    replicas[2].kill();
    write(&replicas[0], "meanwhile");
    replicas[2].move_away();
    replicas[2].start(&[]);
    replicas[0].wait_for_group(&["1", "2", "3"]);
    assert!(namespaces(&replicas[2]).contains("meanwhile"));
    // All that others know of it is what they have learned: so they find it after their own restart, too.
    for replica in &mut replicas {
        replica.kill();
    }
    for replica in &mut replicas {
        replica.process = Some(replica.spawn(&[]));
    }
    replicas[0].wait_until_ready();
    replicas[0].wait_for_group(&["1", "2", "3"]);
}

#[test]
fn a_replica_that_lost_its_disk_is_replaced_by_one_with_a_new_number() {
    let mut replicas = group();
    write(&replicas[0], "before");
    replicas[2].kill();
    std::fs::remove_dir_all(replicas[2].data().join("store")).unwrap();
    let words = replicas[2].refuses_to_start(&[]);
    assert!(words.contains("store of replica 3 is gone"), "{words}");
    let words = replicas[2].refuses_to_start(&["--join", &replicas[0].invite()]);
    assert!(words.contains("already"), "{words}");

    let token = replicas[1].invite();
    let mut new = Replica::new();
    new.start(&["--join", &token]);
    let thief = Replica::new();
    let words = thief.refuses_to_start(&["--join", &token]);
    assert!(words.contains("was used, for replica 4"), "{words}");
    let mut same = Replica::new();
    same.directory.clone_from(&new.directory);
    let words = same.refuses_to_start(&[]);
    assert!(words.contains("in use by another process"), "{words}");

    wait::until("the new one to have a vote", SOON, || {
        let roles = replicas[0].roles();
        if roles.get("4").is_some_and(|role| role == "Follower") { Ok(()) } else { Err(format!("{roles:?}")) }
    });
    let call = replicas[0].hanse(&["hub", "remove", "3"]);
    assert!(call.status.success(), "{call}");
    replicas[0].wait_for_group(&["1", "2", "4"]);
    assert!(namespaces(&new).contains("before"));
    assert_eq!(new.kubectl().args(["get", "replicas", "--output=name"]).ok().lines().count(), 3);
}

#[test]
fn a_removal_that_would_cost_the_quorum_waits_until_it_would_not() {
    let mut replicas = group();
    replicas[2].kill();
    wait::until("the loss to be known", SOON, || {
        let roles = replicas[0].roles();
        if roles["3"] == "Unreachable" { Ok(()) } else { Err(format!("{roles:?}")) }
    });
    // Without replica 2, replica 1 would be left with a dead one.
    replicas[0].kubectl().args(["delete", "replica", "2", "--wait=false"]).ok();
    let leader = index_of(&replicas[0].status()["leader"].to_string());
    wait::until("the hub to say why it waits", SOON, || {
        let events = replicas[leader].kubectl().args(["get", "events", "--all-namespaces"]).ok();
        if events.contains("RemovalWaits") { Ok(()) } else { Err(events) }
    });
    write(&replicas[0], "still");
    replicas[2].start(&[]);
    replicas[0].wait_for_group(&["1", "3"]);
    write(&replicas[0], "two");
    let mut removed = replicas[1].process.take().expect("it was started");
    let status = wait::until("the removed one to end", SOON, || removed.ended().ok_or("it still runs"));
    assert_eq!(status.code(), Some(1));
    assert!(removed.log_tail().contains("was removed from"), "{}", removed.log_tail());
}

#[test]
fn what_is_left_of_a_lost_quorum_says_so_and_can_go_on_alone() {
    let mut replicas = group();
    write(&replicas[2], "before");
    replicas[0].wait_for_group(&["1", "2", "3"]);
    replicas[1].kill();
    replicas[2].kill();
    wait::until("the last one to say that nobody leads", SOON, || {
        let call = replicas[0].hanse(&["hub", "status"]);
        let says = call.status.code() == Some(1) && call.stdout.contains("no replica leads");
        if says { Ok(()) } else { Err(call.to_string()) }
    });
    let call = replicas[0].kubectl().args(["get", "namespaces", "--request-timeout=20s"]).call();
    assert!(!call.status.success(), "{call}");

    let call = replicas[0].hanse(&["hub", "recover", "--force-new"]);
    assert!(!call.status.success() && call.stderr.contains("in use by another process"), "{call}");
    replicas[0].kill();
    let call = replicas[0].hanse(&["hub", "recover"]);
    assert_eq!(call.status.code(), Some(1), "{call}");
    assert!(call.stderr.contains("Nothing was changed") && call.stderr.contains("lost"), "{call}");
    let call = replicas[0].hanse(&["hub", "recover", "--force-new"]);
    assert!(call.status.success() && call.stdout.contains("is replica 4 now"), "{call}");

    replicas[0].start(&[]);
    assert!(namespaces(&replicas[0]).contains("before"));
    write(&replicas[0], "alone");
    replicas[0].wait_for_group(&["4"]);
    assert_eq!(replicas[0].kubectl().args(["get", "replicas", "--output=name"]).ok().trim(), "replica.hub.hanse.dev/4");
    // One of the old group is nobody to it.
    let _old = replicas[1].spawn(&[]);
    let token = replicas[0].invite();
    let mut new = Replica::new();
    new.start(&["--join", &token]);
    replicas[0].wait_for_group(&["4", "5"]);
    assert!(namespaces(&new).contains("alone"));
}
