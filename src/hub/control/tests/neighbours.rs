//! Applications that are to be with others, or apart from them.

use serde_json::{Value, json};

use super::world::World;
use crate::kinds::APPLICATION;

fn placed(affinity: Value) -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided", "affinity": affinity}}])
}

fn names(world: &World, application: &crate::model::Uid) -> Vec<String> {
    world.shares(application).into_keys().collect()
}

#[test]
fn two_that_are_decided_at_once_are_apart() {
    let mut world = World::with(&[("ap", 40), ("eu", 40), ("us", 40)]);
    // Both are decided before either is stored; only one of them says that they are to be apart.
    let one = world.apply("one", 1, placed(json!({"apart": [{"selector": {}}]})));
    let two = world.apply("two", 1, json!([]));
    let three = world.apply("three", 1, json!([]));
    world.settle();
    let alone = names(&world, &one);
    assert_eq!(alone.len(), 1);
    for other in [&two, &three] {
        assert!(names(&world, other).len() == 1 && names(&world, other) != alone, "{alone:?}");
    }
}

#[test]
fn who_follows_waits_comes_along_and_stays() {
    let mut world = World::with(&[("eu", 40), ("us", 20)]);
    let web = world.apply("web", 4, placed(json!({"with": [{"application": "db"}]})));
    world.settle();
    assert!(world.shares(&web).is_empty());
    let condition = World::condition(&world.app("web"), "Ready");
    assert_eq!(
        (&condition["reason"], &condition["message"]),
        (&json!("Unplaced"), &json!("web: no cluster can take it: 2 away from what it is to be with"))
    );
    let db = world.apply("db", 1, json!([{"name": "us", "type": "topology", "properties": {"clusters": ["us"]}}]));
    world.settle();
    assert_eq!((names(&world, &db), names(&world, &web)), (vec!["us".to_owned()], vec!["us".to_owned()]));
    assert_eq!(world.app("web")["status"]["status"], "running");
    world.delete(&APPLICATION, "default", "db");
    world.settle();
    assert_eq!(names(&world, &web), ["us"], "what runs stays");
    world.pass(60_000);
    let written = world.store.revision();
    world.restart();
    world.pass(60_000);
    assert_eq!(world.store.revision(), written, "and nothing is written about it");
}

#[test]
fn who_is_avoided_makes_room_when_he_leaves() {
    let mut world = World::with(&[("eu", 40)]);
    world.apply("db", 1, json!([]));
    world.settle();
    let web = world.apply("web", 2, placed(json!({"apart": [{"application": "db"}]})));
    world.settle();
    assert!(world.shares(&web).is_empty());
    world.delete(&APPLICATION, "default", "db");
    world.settle();
    assert_eq!(names(&world, &web), ["eu"]);
}

#[test]
fn nobody_outside_its_namespace_is_meant() {
    let mut world = World::with(&[("eu", 40)]);
    let db = world.apply("db", 1, json!([]));
    world.settle();
    let object = world.app("db");
    let mut elsewhere = object.clone();
    elsewhere["metadata"]["namespace"] = json!("shop");
    elsewhere["metadata"]["name"] = json!("web");
    elsewhere["metadata"]["uid"] = json!(world.uid());
    elsewhere["metadata"]["finalizers"] = json!([]);
    elsewhere["spec"]["policies"] = placed(json!({"apart": [{"selector": {}}]}));
    elsewhere.as_object_mut().expect("an object").remove("status");
    let uid = crate::model::Uid::from(elsewhere["metadata"]["uid"].as_str().expect("a uid"));
    world.put(&APPLICATION, "shop", "web", elsewhere);
    world.settle();
    assert_eq!((names(&world, &db), names(&world, &uid)), (vec!["eu".to_owned()], vec!["eu".to_owned()]));
}
