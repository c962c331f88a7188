//! Spread constraints of what every cluster gets in full, as the controller carries them out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::world::World;
use crate::kinds::{APPLICATION, CLUSTER};

fn duplicated(constraints: Value) -> Value {
    let properties = json!({"mode": "Duplicated", "spreadConstraints": constraints});
    json!([{"name": "spread", "type": "placement", "properties": properties}])
}

fn shares(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    pairs.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn rule_03_a_copy_goes_when_the_one_that_the_spread_chose_instead_is_healthy() {
    let mut world = World::with(&[("ap", 20), ("eu", 20)]);
    let web = world.apply("web", 4, duplicated(json!([{"by": "cluster", "maxGroups": 1}])));
    world.settle();
    assert_eq!(world.shares(&web), shares(&[("ap", 4)]));
    world.agent("eu").unready = true;
    world.edit(&CLUSTER, "", "ap", |object| object["spec"]["drain"] = true.into());
    world.settle();
    assert_eq!(world.shares(&web), shares(&[("ap", 4), ("eu", 4)]));
    world.agent("eu").unready = false;
    world.settle();
    assert_eq!(world.shares(&web), shares(&[("eu", 4)]));
}

#[test]
fn a_spread_that_lacks_room_is_kept_as_soon_as_there_is_some() {
    let mut world = World::with(&[("eu", 10), ("us", 10)]);
    world.apply("first", 8, json!([{"name": "t", "type": "topology", "properties": {"clusters": ["us"]}}]));
    world.settle();
    let web = world.apply("web", 4, duplicated(json!([{"by": "cluster", "minGroups": 2}])));
    world.settle();
    assert_eq!(world.shares(&web), shares(&[]));
    let says = World::condition(&world.app("web"), "Ready").to_string();
    assert!(says.contains("no choice of clusters keeps the spread"), "{says}");
    world.delete(&APPLICATION, "default", "first");
    world.settle();
    assert_eq!(world.shares(&web), shares(&[("eu", 4), ("us", 4)]));
}
