//! Clusters that are drained, and drains that are undone: rule 3 at each moment.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::World;
use crate::{
    kinds::{
        CLUSTER,
        cluster::{DRAIN_AUTHOR_ANNOTATION, DRAIN_TRACE_ANNOTATION},
    },
    model::{Uid, work::RemovalReason},
};

fn policy(mode: &str) -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": mode}}])
}

fn named(clusters: &[&str]) -> Value {
    json!([{"name": "t", "type": "topology", "properties": {"clusters": clusters}}])
}

/// As the API stores what a person named carol asks for.
fn drain(world: &mut World, cluster: &str, on: bool) {
    world.edit(&CLUSTER, "", cluster, |object| {
        object["spec"]["drain"] = on.into();
        let signed = json!({DRAIN_AUTHOR_ANNOTATION: "carol", DRAIN_TRACE_ANNOTATION: "t9"});
        object["metadata"]["annotations"] = if on { signed } else { json!({}) };
    });
    world.settle();
}

fn drained(world: &World, cluster: &str) -> (Value, String) {
    let condition = World::condition(&world.cluster(cluster), "Drained");
    (condition["reason"].clone(), condition["message"].as_str().unwrap_or_default().to_owned())
}

fn shares(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    pairs.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn rule_03_what_is_drained_stays_until_its_replacement_is_healthy() {
    for (policies, moved) in [(policy("Divided"), 6), (json!([]), 6)] {
        let mut world = World::with(&[("eu", 40)]);
        let web = world.apply("web", 6, policies);
        world.settle();
        world.join("us", 40);
        world.settle();
        world.agent("us").unready = true;
        drain(&mut world, "eu", true);
        world.pass(3_600_000);
        assert_eq!(world.shares(&web), shares(&[("eu", 6), ("us", moved)]));
        assert!(world.ordered.is_empty());
        assert_eq!(drained(&world, "eu").0, "Moving");
        assert_eq!(drained(&world, "eu").1, "1 applications are left; 1 are moving, new before old (default/web)");
        let status = &world.app("web")["status"];
        assert_eq!(status["placement"]["sum"], "6 = 6", "what is asked for, not what runs meanwhile");
        assert_eq!(
            status["placement"]["moves"],
            json!([{"component": "web", "from": "eu", "to": "us", "replicas": 6}])
        );
        let reconciling = World::condition(&world.app("web"), "Reconciling");
        assert_eq!(reconciling["message"], "6 of web stay in eu until they are healthy in us");
        // A new leader goes on where the old one was.
        world.restart();
        world.settle();
        assert_eq!(world.shares(&web), shares(&[("eu", 6), ("us", moved)]));
        world.agent("us").unready = false;
        world.settle();
        assert_eq!(world.shares(&web), shares(&[("us", 6)]));
        assert!(world.running("eu").is_empty());
        assert_eq!(drained(&world, "eu"), (json!("NothingLeft"), "nothing of the hub runs there".into()));
        world.pass(60_000);
        let revision = world.store.revision();
        world.pass(600_000);
        assert_eq!(world.store.revision(), revision, "rule 13");
    }
}

#[test]
fn the_removals_of_a_drain_are_signed_by_who_asked_for_it_and_need_no_other_yes() {
    let mut world = World::with(&[("eu", 100), ("us", 100)]);
    world.edit(&CLUSTER, "", "us", |object| object["spec"]["unschedulable"] = true.into());
    world.settle();
    let applications: Vec<Uid> = (0..20).map(|n| world.apply(&format!("app-{n:02}"), 1, json!([]))).collect();
    world.settle();
    world.edit(&CLUSTER, "", "us", |object| object["spec"]["unschedulable"] = false.into());
    world.settle();
    let eu = Uid::from(world.cluster("eu")["metadata"]["uid"].as_str().expect("a uid"));
    // Its agent hears nothing for now, so that the orders can be read.
    world.agents.get_mut(&eu).expect("an agent").up = false;
    drain(&mut world, "eu", true);
    world.pass(5_000);
    for application in &applications {
        let removals = world.removals(application);
        assert_eq!(removals.len(), 1, "rule 14 holds none of them");
        let (cluster, removal) = &removals[0];
        let said = (cluster.as_str(), removal.reason, removal.author.as_str());
        assert_eq!(said, ("eu", RemovalReason::ClusterDrained, "carol"));
    }
}

#[test]
fn undoing_a_drain_leaves_what_has_not_left() {
    let mut world = World::with(&[("ap", 40), ("eu", 40), ("us", 40)]);
    let web = world.apply("web", 9, policy("Divided"));
    let one = world.apply("one", 2, named(&["eu", "us"]));
    world.settle();
    let before = world.shares(&web);
    assert_eq!(before, shares(&[("ap", 3), ("eu", 3), ("us", 3)]));
    world.agents.values_mut().for_each(|agent| agent.unready = true);
    world.agent("eu").unready = false;
    drain(&mut world, "eu", true);
    assert_eq!(world.shares(&web)["eu"], 3);
    assert_eq!(world.shares(&web).values().sum::<u32>(), 12);
    drain(&mut world, "eu", false);
    assert_eq!(world.shares(&web), before, "as if nothing had been asked");
    assert_eq!(world.shares(&one), shares(&[("eu", 2), ("us", 2)]));
    assert_eq!(drained(&world, "eu").0, Value::Null);
    // Half done: what has left stays away, and nothing else goes.
    world.agent("us").unready = false;
    drain(&mut world, "eu", true);
    let half = world.shares(&web);
    assert!(half["eu"] < 3 && half["eu"] > 0, "{half:?}");
    drain(&mut world, "eu", false);
    let after = world.shares(&web);
    assert_eq!((after["eu"], after.values().sum::<u32>()), (half["eu"], 9), "{half:?} {after:?}");
}

#[test]
fn what_fits_nowhere_else_stays_and_is_named_and_leaves_when_there_is_room() {
    let mut world = World::with(&[("eu", 20), ("us", 4)]);
    world.edit(&CLUSTER, "", "us", |object| object["spec"]["unschedulable"] = true.into());
    world.settle();
    let web = world.apply("web", 9, policy("Divided"));
    let here = world.apply("here", 2, named(&["eu"]));
    let both = world.apply("both", 1, named(&["eu", "us"]));
    world.settle();
    world.edit(&CLUSTER, "", "us", |object| object["spec"]["unschedulable"] = false.into());
    world.settle();
    assert_eq!(world.shares(&both), shares(&[("eu", 1), ("us", 1)]));
    drain(&mut world, "eu", true);
    assert_eq!(world.shares(&web), shares(&[("eu", 6), ("us", 3)]), "what can leave has left");
    assert_eq!(world.shares(&here), shares(&[("eu", 2)]));
    assert_eq!(world.shares(&both), shares(&[("us", 1)]), "a copy of its own in each cluster: another one is healthy");
    let (reason, message) = drained(&world, "eu");
    assert_eq!(reason, "FitsNowhereElse");
    assert!(
        message.contains(
            "default/web: web: 6 of 9 replicas fit nowhere else, and stay in clusters that they are to leave"
        ),
        "{message}"
    );
    assert!(message.contains("default/here: here: not in every chosen cluster: eu: is being drained"), "{message}");
    world.join("ap", 40);
    world.settle();
    assert_eq!(world.shares(&web), shares(&[("ap", 6), ("us", 3)]));
    assert_eq!(drained(&world, "eu").1.split(';').next(), Some("1 applications are left"));
}

/// Four replicas in one cluster, and another where nothing becomes ready.
fn beside_a_place_that_is_not_ready() -> (World, Uid) {
    let mut world = World::with(&[("eu", 20)]);
    let web = world.apply("web", 4, policy("Divided"));
    world.settle();
    world.join("us", 20);
    world.settle();
    world.agent("us").unready = true;
    (world, web)
}

#[test]
fn a_taint_that_moves_waits_for_healthy_replacements_too() {
    let (mut world, web) = beside_a_place_that_is_not_ready();
    let taints = json!([{"key": "maintenance", "effect": "NoExecute"}]);
    world.edit(&CLUSTER, "", "eu", |object| object["spec"]["taints"] = taints);
    world.settle();
    assert_eq!(world.shares(&web), shares(&[("eu", 4), ("us", 4)]));
    world.agent("us").unready = false;
    world.settle();
    assert_eq!(world.shares(&web), shares(&[("us", 4)]));
}

#[test]
fn a_taint_that_is_taken_away_half_way_turns_its_moves_round() {
    let (mut world, web) = beside_a_place_that_is_not_ready();
    let taint = |world: &mut World, taints: Value| {
        world.edit(&CLUSTER, "", "eu", |object| object["spec"]["taints"] = taints);
        world.settle();
    };
    taint(&mut world, json!([{"key": "maintenance", "effect": "NoExecute"}]));
    assert_eq!(world.shares(&web), shares(&[("eu", 4), ("us", 4)]));
    taint(&mut world, json!([]));
    assert_eq!(world.shares(&web), shares(&[("eu", 4)]));
}

#[test]
fn a_place_that_is_drained_itself_hands_what_was_coming_to_another() {
    let (mut world, web) = beside_a_place_that_is_not_ready();
    drain(&mut world, "eu", true);
    world.join("ap", 20);
    world.settle();
    drain(&mut world, "us", true);
    assert_eq!(world.shares(&web), shares(&[("ap", 4)]));
}

#[test]
fn rule_03_who_is_not_heard_is_let_go_of_when_he_is_heard_again() {
    let mut world = World::with(&[("ap", 20), ("eu", 20), ("us", 20)]);
    let web = world.apply("web", 6, policy("Divided"));
    world.settle();
    world.agent("ap").up = false;
    world.pass(60_000);
    drain(&mut world, "ap", true);
    world.pass(10_000);
    assert_eq!(world.shares(&web), shares(&[("ap", 2), ("eu", 3), ("us", 3)]));
    world.agent("eu").unready = true;
    world.pass(10_000);
    world.agent("ap").up = true;
    world.pass(10_000);
    assert_eq!(world.shares(&web).get("ap"), Some(&1), "one of its replacements is healthy, and one is not");
    world.agent("eu").unready = false;
    world.pass(10_000);
    assert_eq!(world.shares(&web), shares(&[("eu", 3), ("us", 3)]));
}

#[derive(Debug, Clone)]
enum Turn {
    Drain(usize, bool),
    Ready(usize, bool),
    Voice(usize, bool),
    Scale(u32),
    Restart,
}

const NAMES: [&str; 3] = ["ap", "eu", "us"];

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        (0usize..3, any::<bool>()).prop_map(|(cluster, on)| Turn::Drain(cluster, on)),
        (0usize..3, any::<bool>()).prop_map(|(cluster, on)| Turn::Ready(cluster, on)),
        (0usize..3, any::<bool>()).prop_map(|(cluster, on)| Turn::Voice(cluster, on)),
        (1u32..15).prop_map(Turn::Scale),
        Just(Turn::Restart),
    ];
    prop::collection::vec(turn, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Of what was healthy, no more goes than is healthy elsewhere, whatever is drained, undone or scaled meanwhile.
    #[test]
    fn rule_03_drains_never_lower_what_is_healthy(mode in 0usize..3, turns in turns()) {
        let mut world = World::with(&[("ap", 20), ("eu", 20), ("us", 20)]);
        let policies = [policy("Divided"), policy("Duplicated"), json!([])][mode].clone();
        let mut wanted = 6;
        let web = world.apply("web", wanted, policies.clone());
        world.settle();
        let healthy = |world: &mut World| -> u32 {
            let running = |agent: &super::world::Agent| agent.objects.values().map(|(_, count)| *count).sum::<u32>();
            world.agents.values().filter(|agent| !agent.unready).map(running).sum()
        };
        for turn in turns {
            let text = format!("{turn:?}");
            let mut floor = wanted;
            match turn {
                Turn::Drain(cluster, on) => world.edit(&CLUSTER, "", NAMES[cluster], |object| object["spec"]["drain"] = on.into()),
                Turn::Ready(cluster, ready) => world.agent(NAMES[cluster]).unready = !ready,
                Turn::Voice(cluster, up) => world.agent(NAMES[cluster]).up = up,
                Turn::Scale(total) => {
                    // Which of them go when fewer are asked for is no move.
                    floor = if total < wanted { 0 } else { wanted };
                    wanted = total;
                    world.apply("web", total, policies.clone());
                }
                Turn::Restart => world.restart(),
            }
            let before = healthy(&mut world).min(floor);
            for _ in 0..100 {
                world.pass(50);
                let now = healthy(&mut world);
                prop_assert!(now >= before, "{text}: {before} were healthy, {now} are; {:?}", world.placement(&web));
            }
        }
    }
}
