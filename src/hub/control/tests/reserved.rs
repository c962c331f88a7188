//! Reservations as the controller keeps them: what is held, and when it is given back.

use serde_json::{Value, json};

use super::world::{REQUEST, World};
use crate::{
    hub::control::{Event, FromAgent},
    kinds::APPLICATION,
    model::{Resources, Sketch, quantity::CPU, sketch::Shape},
};

fn divided() -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided"}}])
}

/// Its agents are heard, and nothing of what is decided from now on comes to run.
fn idle(clusters: &[(&str, i64)]) -> World {
    let mut world = World::with(clusters);
    world.agents.values_mut().for_each(|agent| agent.up = false);
    world
}

#[test]
fn a_write_of_which_nobody_knows_the_end_holds_its_room() {
    let mut world = idle(&[("eu", 10)]);
    world.loses_answer = true;
    let (one, two) = (world.apply("one", 10, divided()), world.apply("two", 10, divided()));
    world.settle();
    assert!(!world.loses_answer, "an answer was lost");
    let sums = [one, two].map(|application| world.shares(&application).values().sum::<u32>());
    assert_eq!(sums, [10, 0]);
}

#[test]
fn a_write_that_did_not_happen_gives_its_room_back() {
    let mut world = idle(&[("eu", 10)]);
    let (one, two) = (world.apply("one", 10, divided()), world.apply("two", 10, divided()));
    world.settle();
    world.delete(&APPLICATION, "default", "one");
    world.settle();
    assert_eq!(world.shares(&two).get("eu"), Some(&10), "whoever waits asks again when less is held");
    assert_eq!(world.shares(&one).values().sum::<u32>(), 0);
}

#[test]
fn rule_06_every_workload_of_a_component_is_counted() {
    for up in [false, true] {
        for policies in [json!([]), json!([{"name": "p", "type": "placement", "properties": {"mode": "Duplicated"}}])] {
            let mut world = World::with(&[("eu", 6)]);
            world.agent("eu").up = up;
            let one = world.apply_bundle("one", (2, Some(2)), policies.clone());
            world.settle();
            let two = world.apply_bundle("two", (2, Some(2)), policies.clone());
            world.settle();
            assert_eq!(world.shares(&one).get("eu"), Some(&2), "up: {up}, {policies}");
            assert_eq!(world.shares(&two).get("eu"), None, "two more than there is room for: {up}, {policies}");
            let small = world.apply("small", 2, divided());
            world.settle();
            assert_eq!(world.shares(&small).get("eu"), Some(&2), "what is left is not lost: {up}, {policies}");
            world.delete(&APPLICATION, "default", "one");
            if up {
                world.settle();
                assert_eq!(world.shares(&two).get("eu"), Some(&2), "freed room wakes it");
            }
        }
    }
}

/// Five of 300m are more than ten of 100m.
#[test]
fn while_a_placement_is_written_the_amounts_of_both_are_held() {
    let mut world = idle(&[("eu", 20)]);
    let one = world.apply("one", 10, divided());
    world.pass(200);
    assert_eq!(world.shares(&one).get("eu"), Some(&10));
    world.edit(&APPLICATION, "default", "one", |object| {
        object["metadata"]["generation"] = 2.into();
        object["spec"]["components"][0]["properties"]["cpu"] = "300m".into();
        object["spec"]["components"][0]["traits"][0]["properties"]["replicas"] = 5.into();
    });
    // Decided while the feed has not told of the other decision yet.
    let two = world.apply("two", 10, divided());
    world.pass(50);
    assert_eq!(world.shares(&one).get("eu"), Some(&5), "the edit is decided");
    assert_eq!(world.shares(&two).get("eu"), None, "500m are left, and 1000m asked for");
}

#[test]
fn a_work_that_its_member_refuses_gives_its_room_back_after_a_minute() {
    let mut world = World::with(&[("eu", 10)]);
    world.agent("eu").refuses = true;
    let one = world.apply("one", 10, divided());
    world.settle();
    let two = world.apply("two", 10, divided());
    world.pass(50_000);
    assert_eq!((world.shares(&one).get("eu"), world.shares(&two).get("eu")), (Some(&10), None));
    world.pass(20_000);
    assert_eq!(world.shares(&two).get("eu"), Some(&10));
    assert_eq!(world.shares(&one).get("eu"), Some(&10), "and stays decided");
}

/// Its member has room again in the same moment, and wants it back in the next.
#[test]
fn a_pod_that_is_gone_is_reserved_anew_as_soon_as_its_agent_says_so() {
    let mut world = World::with(&[("eu", 10)]);
    let one = world.apply("one", 10, divided());
    world.settle();
    world.agent("eu").objects.values_mut().for_each(|(_, replicas)| *replicas = 6);
    // Heard, and not stored yet.
    world.pass(1);
    let two = world.apply("two", 4, divided());
    world.pass(1);
    assert_eq!((world.shares(&one).get("eu"), world.shares(&two).get("eu")), (Some(&10), None));
}

#[test]
fn a_sketch_that_cannot_be_true_is_not_believed_and_the_cluster_says_why() {
    let mut world = World::with(&[("eu", 5), ("us", 5)]);
    let eu = world.cluster("eu")["metadata"]["uid"].as_str().map(Into::into).expect("a uid");
    world.agent("eu").up = false;
    let free = Resources::of([(CPU, 1_000_000 * REQUEST)]);
    let shapes = vec![Shape { count: 1, free: free.clone(), ..Shape::default() }];
    let allocatable = Resources::of([(CPU, 5 * REQUEST)]);
    let sketch = Sketch { sequence: 9, nodes: 1, shapes, allocatable, free, ..Sketch::default() };
    world.step(Event::Agent(FromAgent::Sketch { cluster: eu, sketch }));
    let web = world.apply("web", 4, divided());
    world.settle();
    assert_eq!(world.shares(&web), [("us".to_owned(), 4)].into());
    let condition = World::condition(&world.cluster("eu"), "CapacityKnown");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("SketchRefused")));
    let message = condition["message"].as_str().unwrap_or_default();
    assert!(message.contains("100000000 of cpu free, and 500 is allocatable"), "{message}");

    world.agent("eu").up = true;
    world.agent("eu").forget();
    world.settle();
    assert_eq!(World::condition(&world.cluster("eu"), "CapacityKnown"), Value::Null);
    let more = world.apply("more", 4, divided());
    world.settle();
    assert!(world.shares(&more).contains_key("eu"));
}
