//! Who is decided anew when something changes: those whom it concerns, and nobody else (counted, not timed).

use serde_json::{Value, json};

use super::world::World;
use crate::{
    kinds::{APPLICATION, CLUSTER},
    model::Uid,
};

fn by(properties: Value) -> Value {
    json!([{"name": "spread", "type": "placement", "properties": properties}])
}

/// How many decisions follow from this.
fn decisions(world: &mut World, change: impl FnOnce(&mut World)) -> u64 {
    let before = world.controller.decisions;
    change(world);
    world.settle();
    world.controller.decisions - before
}

fn spec(world: &mut World, cluster: &str, field: &str, value: Value) {
    world.edit(&CLUSTER, "", cluster, |object| object["spec"][field] = value);
}

#[test]
fn a_cluster_that_changes_is_looked_at_by_those_whom_it_concerns() {
    let names: Vec<String> = (0..12).map(|n| format!("c{n:02}")).collect();
    let clusters: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 20)).collect();
    let mut world = World::with(&clusters);
    let applications: Vec<Uid> = (0..48)
        .map(|n| {
            world.apply(&format!("app-{n:03}"), 2, if n % 2 == 0 { by(json!({"mode": "Divided"})) } else { json!([]) })
        })
        .collect();
    let gold = json!({"mode": "Duplicated", "clusterSelector": {"matchLabels": {"tier": "gold"}}});
    let wide = world.apply("wide", 1, by(gold.clone()));
    let all = world.apply("everywhere", 1, by(json!({"mode": "Duplicated"})));
    world.settle();
    world.pass(60_000);
    let tenants = |world: &World, cluster: &str| {
        applications.iter().filter(|application| world.shares(application).contains_key(cluster)).count() as u64
    };
    let concerned = tenants(&world, "c07") + 1;
    assert!((2..20).contains(&concerned), "{concerned} of 50");
    assert_eq!(world.shares(&all).len(), 12);
    let taint = |effect: &str| json!([{"key": "maintenance", "effect": effect}]);
    assert_eq!(decisions(&mut world, |world| spec(world, "c07", "taints", taint("NoSchedule"))), concerned);
    assert_eq!(decisions(&mut world, |world| spec(world, "c07", "taints", json!([]))), concerned);
    assert_eq!(decisions(&mut world, |world| spec(world, "c07", "properties", json!({"cost": 3}))), concerned);
    // A label that one other waits for: it has a part wherever the label is.
    assert_eq!(world.shares(&wide).len(), 0);
    let label = |world: &mut World| {
        world.edit(&CLUSTER, "", "c07", |object| object["metadata"]["labels"] = json!({"tier": "gold"}))
    };
    let made = decisions(&mut world, label);
    assert!((concerned + 1..concerned + 3).contains(&made), "{made}, and {concerned} have a part there");
    assert_eq!(world.shares(&wide).len(), 1);
    // Nothing new in it.
    assert_eq!(decisions(&mut world, |world| spec(world, "c07", "accepted", json!(true))), 0);
}

#[test]
fn freed_room_wakes_who_waits_for_as_much_and_nobody_else() {
    let mut world = World::with(&[("eu", 10), ("us", 3)]);
    let first = world.apply("first", 10, json!([]));
    world.settle();
    let small = world.apply("small", 5, json!([]));
    let large = world.apply("large", 50, json!([]));
    let total = world.apply("total", 30, by(json!({"mode": "Divided"})));
    world.settle();
    let waits = [&small, &large, &total].map(|application| world.shares(application).len());
    assert_eq!((world.shares(&first).len(), waits), (1, [0, 0, 0]));
    world.pass(60_000);
    assert_eq!(decisions(&mut world, |world| world.pass(600_000)), 0, "nothing wakes anybody");
    // Less room is no news to them.
    assert_eq!(decisions(&mut world, |world| world.agent("us").room = 2), 0);
    assert_eq!(decisions(&mut world, |world| world.agent("us").room = 4), 1, "any more may do for a total alone");
    let made = decisions(&mut world, |world| world.delete(&APPLICATION, "default", "first"));
    assert_eq!(world.shares(&small).get("eu"), Some(&5));
    assert!(made <= 4, "{made} decisions");
    assert_eq!(world.shares(&large).len(), 0);
    let before = world.controller.decisions;
    world.agent("us").room = 60;
    world.settle();
    assert!(world.controller.decisions - before <= 3);
    assert_eq!(world.shares(&large).get("us"), Some(&50));
}
