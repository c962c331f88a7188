//! What becomes of what could run in a better place.

use serde_json::{Value, json};

use super::world::World;
use crate::{
    kinds::{APPLICATION, CLUSTER, application::REBALANCE_ANNOTATION},
    model::Uid,
};

fn policy(more: Value) -> Value {
    let mut properties = json!({"mode": "Divided"});
    more.as_object().into_iter().flatten().for_each(|(name, value)| properties[name] = value.clone());
    json!([{"name": "spread", "type": "placement", "properties": properties}])
}

fn ask(world: &mut World, request: &str) {
    world.edit(&APPLICATION, "default", "web", |object| {
        object["metadata"]["annotations"][REBALANCE_ANNOTATION] = json!(request);
    });
}

fn ended(world: &World) -> Value {
    world.app("web")["status"]["placement"]["rebalanced"].clone()
}

/// Nine replicas in two clusters, and a third that came later.
fn beside_a_new_cluster(more: Value) -> (World, Uid) {
    let mut world = World::with(&[("eu", 20), ("us", 20)]);
    let web = world.apply("web", 9, policy(more));
    world.settle();
    world.join("ap", 20);
    world.settle();
    assert_eq!(shares(&world, &web), [("eu", 5), ("us", 4)]);
    (world, web)
}

fn shares(world: &World, application: &Uid) -> Vec<(&'static str, u32)> {
    let known = world.shares(application);
    ["ap", "eu", "us"].into_iter().filter_map(|name| Some((name, *known.get(name)?))).collect()
}

#[test]
fn a_request_is_carried_out_once_a_few_at_a_time() {
    let (mut world, web) = beside_a_new_cluster(json!({}));
    world.agent("ap").unready = true;
    ask(&mut world, "first");
    world.settle();
    // Two of nine at once, and both ends of them run.
    assert_eq!(shares(&world, &web), [("ap", 2), ("eu", 5), ("us", 4)]);
    assert_eq!(world.app("web")["status"]["placement"]["moves"][0]["replicas"], 2);
    assert_eq!(ended(&world), Value::Null);
    world.agent("ap").unready = false;
    world.pass(20_000);
    assert_eq!(shares(&world, &web), [("ap", 3), ("eu", 3), ("us", 3)]);
    assert_eq!(ended(&world), "first");
    assert!(
        world.events().iter().any(|event| event.contains("web Rebalancing: 2 replicas move")),
        "{:?}",
        world.events()
    );
    // The same request is nothing new, and another one finds nothing to do.
    let decision = world.placement(&web).map(|placement| placement.decision);
    world.pass(600_000);
    assert_eq!(world.placement(&web).map(|placement| placement.decision), decision);
    ask(&mut world, "second");
    world.settle();
    assert_eq!((shares(&world, &web), ended(&world)), (vec![("ap", 3), ("eu", 3), ("us", 3)], json!("second")));
    assert_eq!(world.placement(&web).map(|placement| placement.rows[0].generation < placement.decision), Some(true));
}

#[test]
fn a_new_leader_goes_on_with_a_request() {
    let (mut world, web) = beside_a_new_cluster(json!({"maxMoves": 1}));
    world.agent("ap").unready = true;
    ask(&mut world, "first");
    world.settle();
    assert_eq!(shares(&world, &web), [("ap", 1), ("eu", 5), ("us", 4)]);
    world.restart();
    world.settle();
    assert_eq!(shares(&world, &web), [("ap", 1), ("eu", 5), ("us", 4)]);
    world.agent("ap").unready = false;
    world.pass(20_000);
    assert_eq!((shares(&world, &web), ended(&world)), (vec![("ap", 3), ("eu", 3), ("us", 3)], json!("first")));
    world.restart();
    world.pass(60_000);
    assert_eq!(shares(&world, &web), [("ap", 3), ("eu", 3), ("us", 3)]);
}

#[test]
fn rule_03_a_rebalance_never_lowers_what_is_healthy() {
    let (mut world, web) = beside_a_new_cluster(json!({}));
    ask(&mut world, "first");
    world.agent("ap").unready = true;
    for step in 0..400 {
        // What is started there is not ready for a while.
        world.agent("ap").unready = step < 100;
        world.pass(50);
        let running = |agent: &super::world::Agent| agent.objects.values().map(|(_, count)| *count).sum::<u32>();
        let healthy: u32 = world.agents.values().filter(|agent| !agent.unready).map(running).sum();
        assert!(healthy >= 9, "{healthy} of 9 in step {step}");
    }
    assert_eq!(shares(&world, &web), [("ap", 3), ("eu", 3), ("us", 3)]);
}

#[test]
fn a_policy_rebalances_from_time_to_time_and_silently_else() {
    let (mut world, web) = beside_a_new_cluster(json!({"rebalance": {"periodSeconds": 3600}}));
    world.pass(3_700_000);
    assert_eq!(shares(&world, &web), [("ap", 3), ("eu", 3), ("us", 3)]);
    assert_eq!(ended(&world), Value::Null);
    let decision = world.placement(&web).map(|placement| placement.decision);
    let written = world.app("web");
    world.pass(3 * 3_600_000);
    assert_eq!(world.placement(&web).map(|placement| placement.decision), decision);
    assert_eq!(world.app("web"), written, "nothing is written where nothing moves");
    let (mut world, web) = beside_a_new_cluster(json!({"rebalance": {"cost": 90}}));
    world.pass(3 * 3_600_000);
    assert_eq!(shares(&world, &web), [("eu", 5), ("us", 4)], "nobody asked");
    ask(&mut world, "dear");
    world.settle();
    assert_eq!((shares(&world, &web), ended(&world)), (vec![("ap", 1), ("eu", 4), ("us", 4)], json!("dear")));
}

#[test]
fn what_is_asked_for_with_the_first_placement_is_done_with_it() {
    let mut world = World::with(&[("eu", 20)]);
    let web = world.apply("web", 4, policy(json!({})));
    ask(&mut world, "early");
    world.settle();
    assert_eq!((shares(&world, &web), ended(&world)), (vec![("eu", 4)], json!("early")));
    world.join("us", 20);
    world.pass(60_000);
    assert_eq!(shares(&world, &web), [("eu", 4)]);
}

#[test]
fn a_cordoned_cluster_is_neither_left_nor_entered() {
    let (mut world, web) = beside_a_new_cluster(json!({}));
    let cordon = |world: &mut World, name: &str| {
        world.edit(&CLUSTER, "", name, |object| object["spec"]["unschedulable"] = json!(true));
    };
    cordon(&mut world, "eu");
    ask(&mut world, "first");
    world.settle();
    assert_eq!(shares(&world, &web), [("ap", 2), ("eu", 5), ("us", 2)]);
    cordon(&mut world, "ap");
    world.edit(&APPLICATION, "default", "web", |object| object["metadata"]["annotations"] = json!({}));
    ask(&mut world, "second");
    world.settle();
    assert_eq!(shares(&world, &web), [("ap", 2), ("eu", 5), ("us", 2)]);
}

#[test]
fn the_next_go_when_nothing_is_left_of_those_before() {
    let (mut world, web) = beside_a_new_cluster(json!({}));
    ask(&mut world, "first");
    world.pass(20_000);
    // Each cluster is as full as it looks: none gave more than its part.
    assert_eq!(shares(&world, &web), [("ap", 3), ("eu", 3), ("us", 3)]);
    let falls: Vec<String> = world.events().into_iter().filter(|event| event.contains("Rebalancing")).collect();
    assert_eq!(falls.len(), 2, "{falls:?}");
    // One that nobody hears is not waited for, and keeps what it has.
    world.agent("eu").up = false;
    world.join("sa", 60);
    world.pass(60_000);
    ask(&mut world, "second");
    world.pass(60_000);
    assert_eq!((world.shares(&web).get("eu"), ended(&world)), (Some(&3), json!("second")));
    assert!(world.shares(&web).get("sa") > Some(&1), "{:?}", world.shares(&web));
}
