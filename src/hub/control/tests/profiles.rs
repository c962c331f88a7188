//! Profiles come, change and go while the hub runs.

use serde_json::{Value, json};

use super::world::World;
use crate::{kinds::PLACEMENT_PROFILE, model::Uid};

fn by(profile: &str) -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided", "profile": profile}}])
}

fn put(world: &mut World, name: &str, spec: Value) {
    let uid = world.uid();
    let object = json!({"metadata": {"name": name, "uid": uid}, "spec": spec});
    world.put(&PLACEMENT_PROFILE, "", name, object);
}

/// Only the cluster of this name.
fn only(cluster: &str) -> Value {
    json!({"filters": [{"type": "Expression", "expression": format!("name == '{cluster}'"), "message": "another one"}]})
}

#[test]
fn a_profile_takes_effect_when_it_comes_and_leaves_the_last_good_placement_when_it_goes() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 4, by("gold"));
    world.settle();
    assert!(world.shares(&web).is_empty());
    let ready = World::condition(&world.app("web"), "Ready");
    assert_eq!(
        (&ready["reason"], &ready["message"]),
        (&json!("Unplaced"), &json!("web: there is no PlacementProfile \"gold\""))
    );
    put(&mut world, "gold", only("eu"));
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 4)].into());
    assert_eq!(World::condition(&world.app("web"), "Ready")["reason"], "Available");
    put(&mut world, "gold", only("us"));
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 4)].into(), "nothing that runs moves");
    put(&mut world, "gold", json!({"filters": [{"type": "Astrology"}]}));
    world.apply("web", 6, by("gold"));
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 4)].into());
    let placed = World::condition(&world.app("web"), "Placed");
    assert!(placed["message"].as_str().is_some_and(|told| told.contains("cannot be carried out")), "{placed}");
    put(&mut world, "gold", json!({}));
    world.settle();
    assert_eq!(world.shares(&web).values().sum::<u32>(), 6);
}

#[test]
fn a_profile_wakes_those_who_go_by_it_and_nobody_else() {
    let mut world = World::with(&[("eu", 40)]);
    put(&mut world, "gold", json!({}));
    let gold = world.apply("gold", 1, by("gold"));
    let plain = world.apply("plain", 1, json!([]));
    let silver = world.apply("silver", 1, by("silver"));
    world.settle();
    let woken = |world: &mut World, name: &str| -> Vec<Uid> {
        world.controller.due.clear();
        let now = world.now();
        world.controller.on_profiles(now, &[name.to_owned()].into());
        world.controller.due.keys().cloned().collect()
    };
    assert_eq!(woken(&mut world, "gold"), [gold]);
    assert_eq!(woken(&mut world, "silver"), [silver]);
    assert_eq!(woken(&mut world, "default"), [plain]);
    assert_eq!(woken(&mut world, "bronze"), []);
}
