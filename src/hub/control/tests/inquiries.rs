//! What the leader would decide, asked before it does.

use serde_json::{Value, json};

use super::world::World;
use crate::{
    flow::schedule::{account::Account, drill::Drill},
    hub::desk::Unanswered,
    kinds::{APPLICATION, CLUSTER, application::REBALANCE_ANNOTATION},
    model::{ObjectName, application::ClusterSet},
    wire::{Asked, Question},
};

fn divided() -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided"}}])
}

fn ask(world: &mut World, asked: Asked) -> Result<Value, Unanswered> {
    let now = world.now();
    let question = Question { least: world.store.revision(), asked };
    let (before, due) = (world.store.revision(), world.controller.deadline());
    let answer = world.controller.inquire(now, &question)?.answer();
    assert_eq!((world.store.revision(), world.controller.deadline()), (before, due), "a question changes nothing");
    answer
}

fn explain(world: &mut World, name: &str) -> Account {
    let asked = Asked::Explain(ObjectName::new("default", name));
    serde_json::from_value(ask(world, asked).expect("an answer")).expect("an account")
}

#[test]
fn a_plan_sees_the_rooms_that_the_leader_knows() {
    let mut world = World::with(&[("eu", 10)]);
    world.agents.values_mut().for_each(|agent| agent.up = false);
    world.apply("one", 6, divided());
    world.settle();
    let mut two = world.app("one");
    two["metadata"] = json!({"name": "two", "namespace": "default"});
    let application = Box::new(serde_json::from_value(two).expect("an Application"));
    let told = ask(&mut world, Asked::Plan(application)).expect("an answer");
    let told: Account = serde_json::from_value(told).expect("an account");
    assert!(told.unplaced["one"].starts_with("room for 4 of 6 replicas"), "no pod of the first is seen yet: {told:?}");
    assert!(told.hints.iter().any(|hint| hint.message.contains("asking for 4 replicas instead of 6")), "{told:?}");
    assert_eq!(world.object(&APPLICATION, "default", "two"), None);
}

#[test]
fn an_explanation_is_complete_where_the_placement_is_not() {
    let names: Vec<String> = (0..300).map(|number| format!("c{number:03}")).collect();
    let clusters: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut world = World::with(&clusters);
    let one =
        world.apply("one", 2, json!([{"name": "here", "type": "topology", "properties": {"clusters": ["c007"]}}]));
    world.settle();
    assert_eq!(world.placement(&one).expect("a placement").refusals.len(), 256, "so many are kept");
    let told = explain(&mut world, "one");
    let component = &told.components[0];
    assert_eq!((component.clusters.len(), component.refusals.len()), (0, 300));
    assert_eq!(told.revision, Some(world.store.revision()));
    let refused = |name: &str| component.refusals.iter().find(|refused| refused.cluster == name).expect("a reason");
    assert_eq!((refused("c008").reason.as_str(), refused("c007").reason.as_str()), ("NotNamed", "NoRoom"));
    assert_eq!(refused("c007").lacks, "100m cpu");
}

#[test]
fn what_is_settled_says_so_and_what_is_not_known_is_refused() {
    let mut world = World::with(&[("eu", 10), ("us", 20)]);
    world.apply("one", 6, divided());
    world.settle();
    let told = explain(&mut world, "one");
    assert!(told.settled, "{told:?}");
    assert_eq!(told.components[0].sum.as_deref(), Some("6 = 2 + 4"));
    let nobody = Asked::Explain(ObjectName::new("default", "nobody"));
    assert!(matches!(ask(&mut world, nobody), Err(Unanswered::Refused(_))));
    let later = Question { least: u64::MAX, asked: Asked::Explain(ObjectName::new("default", "one")) };
    let now = world.now();
    assert_eq!(world.controller.inquire(now, &later).err(), Some(Unanswered::Behind), "never an older answer");
}

#[test]
fn what_is_on_its_way_counts_where_it_goes() {
    let mut world = World::with(&[("eu", 10), ("us", 20)]);
    let one = world.apply("one", 6, divided());
    world.settle();
    world.agent("us").unready = true;
    world.edit(&CLUSTER, "", "eu", |object| object["spec"]["drain"] = json!(true));
    world.settle();
    assert_eq!(world.shares(&one), [("eu".to_owned(), 2), ("us".to_owned(), 6)].into(), "both ends of the move");
    let told = explain(&mut world, "one");
    assert_eq!((told.settled, told.components[0].sum.as_deref()), (true, Some("6 = 6")), "{told:?}");
    let lose = ClusterSet { clusters: vec!["us".into()], cluster_selector: None };
    let told = ask(&mut world, Asked::Drill(vec![lose])).expect("an answer");
    assert_eq!((&told["total"]["lost"], &told["total"]["unplaced"]), (&json!(6), &json!(6)));
}

#[test]
fn a_rebalance_is_foreseen_as_it_comes() {
    let mut world = World::with(&[("eu", 20)]);
    let one = world.apply("one", 9, divided());
    world.settle();
    world.join("us", 20);
    world.settle();
    let foreseen = ask(&mut world, Asked::Rebalance(ObjectName::new("default", "one"))).expect("an answer");
    let foreseen: Account = serde_json::from_value(foreseen).expect("an account");
    assert_eq!((foreseen.components[0].sum.as_deref(), foreseen.components[0].moves), (Some("9 = 5 + 4"), 4));
    assert!(explain(&mut world, "one").settled, "nobody asked for it");
    world.edit(&APPLICATION, "default", "one", |object| {
        object["metadata"]["annotations"][REBALANCE_ANNOTATION] = json!("now");
    });
    world.settle();
    let found: Vec<u32> = world.shares(&one).into_values().collect();
    assert_eq!(found, [5, 4]);
}

#[test]
fn a_drill_tells_of_those_that_are_there_and_moves_nothing() {
    let mut world = World::with(&[("eu", 10), ("us", 20)]);
    let one = world.apply("one", 6, divided());
    world.settle();
    let lose = ClusterSet { clusters: vec!["us".into()], cluster_selector: None };
    let told: Drill =
        serde_json::from_value(ask(&mut world, Asked::Drill(vec![lose])).expect("an answer")).expect("a drill");
    assert_eq!((told.total.lost, told.total.replaced, told.total.unplaced), (4, 4, 0));
    assert_eq!(told.applications[0].components[0].left, 6);
    world.settle();
    assert_eq!(world.shares(&one).get("us"), Some(&4));
    assert!(matches!(ask(&mut world, Asked::Drill(Vec::new())), Err(Unanswered::Refused(_))));
}
