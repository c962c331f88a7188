//! Applications that another scheduler binds, from the binding to what runs.

use serde_json::{Value, json};

use super::world::World;
use crate::{
    hub::records::{self, Record},
    kinds::APPLICATION,
    model::{Uid, binding::Binding},
    store::{Operation, Transaction},
};

fn divided() -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided"}}])
}

/// As the API stores it.
fn bind(world: &mut World, name: &str, parts: &[(&str, u32)]) {
    let app = world.app(name);
    let uid = |cluster: &str| Uid::from(world.cluster(cluster)["metadata"]["uid"].as_str().expect("a cluster"));
    let share = |&(cluster, replicas): &(&str, u32)| (uid(cluster), [(name.to_owned(), Some(replicas))].into());
    let binding = Binding {
        generation: app["metadata"]["generation"].as_i64().expect("a generation"),
        shares: parts.iter().map(share).collect(),
        overcommit: false,
        author: "carol".into(),
    };
    let record = Record::Binding(app["metadata"]["uid"].as_str().expect("a uid").into()).key();
    let operations = vec![Operation::Put(record, records::value(&binding))];
    world.store.commit(Transaction { compares: vec![], operations }).expect("stored");
    world.settle();
}

fn set_scheduler(world: &mut World, name: &str, scheduler: &str) {
    world.edit(&APPLICATION, "default", name, |object| {
        object["spec"]["schedulerName"] = json!(scheduler);
        object["metadata"]["generation"] = json!(object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
    });
    world.settle();
}

fn says(world: &World, name: &str) -> String {
    World::condition(&world.app(name), "Placed")["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn another_scheduler_places_and_ours_takes_over_from_what_runs() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 4, divided());
    world.settle();
    set_scheduler(&mut world, "web", "mine");
    let before = world.shares(&web);
    assert_eq!(before.values().sum::<u32>(), 4, "ours had placed it, and it runs on");
    assert!(says(&world, "web").contains("waits for the scheduler \"mine\" to bind generation 2"));
    bind(&mut world, "web", &[("us", 4)]);
    assert_eq!(world.shares(&web), [("us".to_owned(), 4)].into());
    assert_eq!(World::condition(&world.app("web"), "Ready")["reason"], "Available");
    assert!(world.running("eu").is_empty(), "its removal was ordered and done");
    // Freed room and joining clusters are nothing to it.
    world.join("ap", 90);
    world.settle();
    assert_eq!(world.shares(&web), [("us".to_owned(), 4)].into());
    set_scheduler(&mut world, "web", "");
    assert_eq!(world.shares(&web), [("us".to_owned(), 4)].into(), "sticky");
    world.delete(&APPLICATION, "default", "web");
    world.settle();
    assert_eq!(world.keys("/hanse/internal/bindings/"), []);
}

#[test]
fn rule_2_what_a_binding_takes_away_has_its_reason_and_its_author() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 4, divided());
    world.settle();
    set_scheduler(&mut world, "web", "mine");
    bind(&mut world, "web", &[("eu", 3), ("us", 1)]);
    let reason = |world: &World, cluster: &str| {
        let rows = world.placement(&web).expect("a placement").rows;
        rows.iter().find(|row| row.cluster_name == cluster).map(|row| row.components["web"].reason.clone())
    };
    assert_eq!(reason(&world, "us").as_deref(), Some("1, down from 2: bound by carol for mine"));
    world.agent("us").up = false;
    bind(&mut world, "web", &[("eu", 4)]);
    let removals = world.removals(&web);
    assert!(
        !removals.is_empty()
            && removals.iter().all(|(cluster, removal)| { cluster == "us" && removal.author == "carol" }),
        "{removals:?}"
    );
}

#[test]
fn rule_6_a_binding_never_exceeds_the_room_and_is_reserved() {
    let mut world = World::with(&[("eu", 10), ("us", 10)]);
    let web = world.apply("web", 12, divided());
    world.settle();
    set_scheduler(&mut world, "web", "mine");
    bind(&mut world, "web", &[("eu", 12)]);
    let told = says(&world, "web");
    assert!(told.contains("the binding by carol cannot be carried out: eu: room for"), "{told}");
    assert_eq!(world.shares(&web).values().sum::<u32>(), 12, "what runs goes on");
    // What is bound is reserved before its pods are seen.
    for cluster in ["eu", "us"] {
        world.agent(cluster).up = false;
    }
    bind(&mut world, "web", &[("eu", 9), ("us", 3)]);
    let other = world.apply("other", 5, divided());
    world.settle();
    assert_eq!(world.shares(&other), [("eu".to_owned(), 1), ("us".to_owned(), 4)].into());
}

#[test]
fn rule_14_what_bindings_would_take_away_by_the_dozen_is_held() {
    let mut world = World::with(&[("eu", 400), ("us", 400)]);
    let names: Vec<String> = (0..12).map(|number| format!("web-{number:02}")).collect();
    for name in &names {
        world.apply(name, 1, json!([{"type": "topology", "properties": {"clusters": ["eu", "us"]}}]));
        set_scheduler(&mut world, name, "mine");
        bind(&mut world, name, &[("eu", 1), ("us", 1)]);
    }
    let in_us = |world: &mut World| world.running("us").len();
    assert_eq!(in_us(&mut world), 12);
    for name in &names {
        bind(&mut world, name, &[("eu", 1)]);
    }
    assert_eq!(in_us(&mut world), 2, "ten go, the rest waits for a person");
    assert_eq!(World::condition(&world.app("web-11"), "RemovalsHeld")["status"], "True");
}
