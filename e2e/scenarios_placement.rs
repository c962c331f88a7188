//! Members of known size: what they show of themselves, and how Applications are divided over them.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::applications::{divided, replicas, wait_for_pods, web};
use crate::control_plane::Member;
use crate::federation::{Federation, SOON};
use crate::wait;

/// Name, region, nodes and cores of each node.
const SIZED: [(&str, &str, u32, &str); 4] =
    [("eu", "europe", 1, "4"), ("us", "america", 2, "4"), ("ap", "asia", 3, "4"), ("sa", "america", 3, "3")];

/// Members whose capacity is nobody else's while this is held.
pub struct Sized {
    members: &'static [Member],
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Sized {
    type Target = [Member];

    fn deref(&self) -> &[Member] {
        self.members
    }
}

#[track_caller]
pub fn sized() -> Sized {
    static MEMBERS: OnceLock<Vec<Member>> = OnceLock::new();
    static ALONE: Mutex<()> = Mutex::new(());
    let start = |&(name, region, nodes, cpu): &(&str, &str, u32, &str)| {
        let member = Member::create(name);
        member.add_nodes(nodes, cpu, "16Gi", &[("topology.kubernetes.io/region", region)]);
        member
    };
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Sized { members: MEMBERS.get_or_init(|| SIZED.iter().map(start).collect()), _alone: alone }
}

/// The row of a cluster in `kubectl get clusters`, by column.
#[track_caller]
fn row(federation: &Federation, cluster: &str) -> Vec<(String, String)> {
    let table = federation.kubectl().args(["get", "clusters"]).ok();
    let mut lines = table.lines();
    // Columns are told apart by two blanks; a name of two words has one.
    let cells = |line: &str| -> Vec<String> {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let header = cells(lines.next().expect("a header"));
    let row = lines.map(cells).find(|row| row[0] == cluster).unwrap_or_else(|| panic!("no {cluster} in\n{table}"));
    assert_eq!(header.len(), row.len(), "a cell for every column in\n{table}");
    header.into_iter().zip(row).collect()
}

#[test]
fn three_clusters_join_and_show_what_they_have() {
    let members = sized();
    let federation = Federation::start();
    let _agents: Vec<_> = members[..3].iter().map(|member| federation.join(member, &member.name)).collect();

    for (name, region, nodes, _) in &SIZED[..3] {
        let row = row(&federation, name);
        let cell = |column: &str| row.iter().find(|(header, _)| header == column).map(|(_, cell)| cell.as_str());
        assert_eq!(cell("STATUS"), Some("Ready"), "{row:?}");
        assert!(cell("VERSION").is_some_and(|version| version.starts_with("v1.")), "{row:?}");
        assert_eq!(cell("REGION"), Some(*region), "{row:?}");
        assert_eq!(cell("NODES"), Some(nodes.to_string().as_str()), "{row:?}");
        assert_eq!(cell("FREE CPU"), Some((nodes * 4).to_string().as_str()), "{row:?}");
        assert_eq!(cell("FREE MEMORY"), Some(format!("{}.0Gi", nodes * 16).as_str()), "{row:?}");
        let beat = cell("LAST BEAT").unwrap_or_default();
        assert!(beat.ends_with('s') && !beat.contains('-'), "a beat moments ago in {row:?}");
    }
    let ask = |selector| federation.kubectl().args(["get", "clusters", "--output=name", selector]).ok();
    federation.kubectl().args(["label", "cluster", "eu", "tier=gold"]).ok();
    assert_eq!(ask("--selector=tier=gold").trim(), "cluster.hub.hanse.dev/eu");
}

#[test]
fn replicas_divide_by_free_capacity_and_a_cluster_that_joins_takes_its_part_of_the_next() {
    let members = sized();
    let federation = Federation::start();
    let mut agents: Vec<_> = members[..3].iter().map(|member| federation.join(member, &member.name)).collect();
    federation.make_namespace("divided");
    let shares = |name: &str| members.iter().map(|member| replicas(member, "divided", name)).collect::<Vec<_>>();

    // Half a core each: there is room for 8, 16 and 24.
    federation.apply(&web("divided", "thirty", 30, "500m", divided()));
    let running = federation.wait_until_running("divided", "thirty");
    assert_eq!(shares("thirty"), [5, 10, 15, 0]);
    assert!(running["status"].to_string().contains("30 = 15 + 5 + 10"), "the sum in {:#}", running["status"]);
    for (member, pods) in members.iter().zip([5, 10, 15]) {
        wait_for_pods(member, "divided", pods);
    }

    agents.push(federation.join(&members[3], "sa"));
    // What runs has not moved. There is room for 3, 6, 9 and 18.
    assert_eq!(shares("thirty"), [5, 10, 15, 0]);
    federation.apply(&web("divided", "twelve", 12, "500m", divided()));
    federation.wait_until_running("divided", "twelve");
    assert_eq!(shares("twelve"), [1, 2, 3, 6]);
    assert_eq!(shares("thirty"), [5, 10, 15, 0]);

    for name in ["thirty", "twelve"] {
        federation.kubectl().namespace("divided").args(["delete", "application", name]).ok();
    }
    for member in members.iter() {
        wait_for_pods(member, "divided", 0);
    }
}

#[test]
fn more_replicas_than_there_is_room_for_are_refused_with_a_reason_for_every_cluster() {
    let members = sized();
    let federation = Federation::start();
    let _agents: Vec<_> = members[..2].iter().map(|member| federation.join(member, &member.name)).collect();
    federation.make_namespace("crowded");

    federation.apply(&web("crowded", "huge", 3, "5", divided()));
    federation.wait_until_status_says("crowded", "huge", &["eu", "us", "room for 0", "cpu"]);
    for member in members.iter() {
        assert_eq!(replicas(member, "crowded", "huge"), 0);
    }
    // Now it fits, four times a node.
    federation.apply(&web("crowded", "huge", 3, "1", divided()));
    federation.wait_until_running("crowded", "huge");
    assert_eq!([replicas(&members[0], "crowded", "huge"), replicas(&members[1], "crowded", "huge")], [1, 2]);

    federation.kubectl().namespace("crowded").args(["delete", "application", "huge"]).ok();
    for member in members.iter() {
        wait_for_pods(member, "crowded", 0);
    }
}

#[test]
fn a_cordoned_cluster_keeps_what_it_runs_and_gets_nothing_new() {
    let members = sized();
    let federation = Federation::start();
    let _agents: Vec<_> = members[..2].iter().map(|member| federation.join(member, &member.name)).collect();
    federation.make_namespace("cordon");
    let shares = |name: &str| members[..2].iter().map(|member| replicas(member, "cordon", name)).collect::<Vec<_>>();

    federation.apply(&web("cordon", "before", 6, "100m", divided()));
    federation.wait_until_running("cordon", "before");
    assert_eq!(shares("before"), [2, 4]);

    let cordon = r#"{"spec":{"unschedulable":true}}"#;
    federation.kubectl().args(["patch", "cluster", "us", "--type=merge", "--patch", cordon]).ok();
    wait::until("the cluster to show that it is cordoned", SOON, || {
        let table = federation.kubectl().args(["get", "clusters", "us"]).ok();
        if table.contains("SchedulingDisabled") { Ok(()) } else { Err(table) }
    });
    federation.apply(&web("cordon", "after", 6, "100m", divided()));
    let running = federation.wait_until_running("cordon", "after");
    assert_eq!(shares("after"), [6, 0]);
    assert!(running["status"].to_string().contains("cordoned"), "why not us in {:#}", running["status"]);
    assert_eq!(shares("before"), [2, 4]);

    for name in ["before", "after"] {
        federation.kubectl().namespace("cordon").args(["delete", "application", name]).ok();
    }
    for member in members.iter() {
        wait_for_pods(member, "cordon", 0);
    }
}
