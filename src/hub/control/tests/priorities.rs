//! Who gets the room that is not enough for all.

use serde_json::{Value, json};

use super::world::World;
use crate::{
    flow::schedule::drill::Drill,
    kinds::{APPLICATION, CLUSTER, PRIORITY_CLASS},
    model::{ObjectName, Uid, application::ClusterSet},
    wire::{Asked, Question},
};

pub fn class(world: &mut World, name: &str, value: i32, preemption: &str) {
    let object = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name, "uid": name}, "value": value,
        "preemptionPolicy": preemption,
    });
    world.put(&PRIORITY_CLASS, "", name, object);
}

fn of(class: &str) -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided", "priorityClassName": class}}])
}

fn is_placed(world: &World, application: &Uid) -> bool {
    !world.shares(application).is_empty()
}

/// Three that wait, the most important of them last in every other order.
fn waiting() -> (World, [Uid; 3]) {
    let mut world = World::with(&[("eu", 10)]);
    class(&mut world, "high", 100, "Never");
    class(&mut world, "low", -10, "Never");
    world.apply("first", 10, json!([]));
    world.settle();
    let applications =
        [("a", of("low")), ("b", json!([])), ("c", of("high"))].map(|(name, policies)| world.apply(name, 6, policies));
    world.settle();
    assert!(!applications.iter().any(|application| is_placed(&world, application)));
    (world, applications)
}

#[test]
fn what_is_freed_goes_to_the_highest_class_that_waits() {
    let (mut world, [low, usual, high]) = waiting();
    world.delete(&APPLICATION, "default", "first");
    world.settle();
    assert_eq!([&low, &usual, &high].map(|application| is_placed(&world, application)), [false, false, true]);
    world.join("us", 6);
    world.settle();
    assert_eq!([&low, &usual, &high].map(|application| is_placed(&world, application)), [false, true, true]);
}

#[test]
fn a_new_leader_keeps_the_order() {
    let (mut world, [low, usual, high]) = waiting();
    world.edit(&CLUSTER, "", "eu", |object| object["spec"]["unschedulable"] = json!(true));
    world.delete(&APPLICATION, "default", "first");
    world.settle();
    world.edit(&CLUSTER, "", "eu", |object| object["spec"]["unschedulable"] = json!(false));
    world.restart();
    world.settle();
    assert_eq!([&low, &usual, &high].map(|application| is_placed(&world, application)), [false, false, true]);
}

#[test]
fn a_class_that_is_not_there_is_told_of_until_it_is() {
    let mut world = World::with(&[("eu", 10)]);
    let web = world.apply("web", 1, of("gold"));
    world.settle();
    let missing = World::condition(&world.app("web"), "PriorityClassMissing");
    assert!(missing["message"].as_str().is_some_and(|message| message.contains("\"gold\"")), "{missing}");
    assert!(is_placed(&world, &web));
    let decisions = world.controller.decisions;
    class(&mut world, "gold", 7, "Never");
    world.settle();
    assert_eq!(World::condition(&world.app("web"), "PriorityClassMissing"), Value::Null);
    assert_eq!(world.controller.decisions, decisions, "it is told, not decided");
}

#[test]
fn a_drill_decides_the_highest_class_first() {
    let mut world = World::with(&[("eu", 12), ("us", 6)]);
    class(&mut world, "high", 100, "Never");
    world.edit(&CLUSTER, "", "us", |object| object["spec"]["unschedulable"] = json!(true));
    world.apply("a", 6, json!([]));
    world.apply("b", 6, of("high"));
    world.settle();
    world.edit(&CLUSTER, "", "us", |object| object["spec"]["unschedulable"] = json!(false));
    world.settle();
    let lose = ClusterSet { clusters: vec!["eu".into()], cluster_selector: None };
    let question = Question { least: world.store.revision(), asked: Asked::Drill(vec![lose]) };
    let now = world.now();
    let answer = world.controller.inquire(now, &question).expect("an inquiry").answer().expect("an answer");
    let drill: Drill = serde_json::from_value(answer).expect("a drill");
    let order: Vec<ObjectName> =
        drill.applications.iter().map(|known| ObjectName::new(&known.namespace, &known.name)).collect();
    assert_eq!(order, [ObjectName::new("default", "b"), ObjectName::new("default", "a")]);
    assert_eq!(drill.applications[0].components[0].unplaced, 0);
}
