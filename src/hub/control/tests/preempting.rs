//! Making room for what is more important: from the claim to the placement, whatever happens in between.

use serde_json::{Value, json};

use super::{priorities, world::World};
use crate::{
    kinds::{APPLICATION, PRIORITY_CLASS},
    model::{ObjectName, Uid},
    wire::{Asked, Question},
};

fn divided(class: &str) -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided", "priorityClassName": class}}])
}

fn class(world: &mut World, name: &str, value: i32) {
    priorities::class(world, name, value, "PreemptLowerPriority");
}

/// A full cluster with one Application without a class, and the class `high`.
fn full(replicas: u32, room: i64) -> (World, Uid) {
    let mut world = World::with(&[("eu", room)]);
    class(&mut world, "high", 100);
    let low = world.apply("low", replicas, divided(""));
    world.settle();
    assert_eq!(sum(&world, &low), replicas);
    (world, low)
}

fn sum(world: &World, application: &Uid) -> u32 {
    world.shares(application).values().sum()
}

fn message(world: &World, name: &str, condition: &str) -> String {
    World::condition(&world.app(name), condition)["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_lacks_room_gets_it_from_a_lower_class_and_gives_it_back() {
    let (mut world, low) = full(8, 10);
    world.agent("eu").up = false;
    let high = world.apply("high", 6, divided("high"));
    world.settle();
    assert_eq!((sum(&world, &low), sum(&world, &high)), (4, 0), "the room is not seen yet");
    assert_eq!(message(&world, "high", "Preempting"), "4 of default/low leave eu");
    assert_eq!(message(&world, "low", "Preempted"), "low: room in eu for default/high (priority 100 over 0)");
    let placement = world.app("high")["status"]["placement"].clone();
    let victim = json!({"namespace": "default", "application": "low", "component": "low", "replicas": 8, "keeps": 4});
    assert_eq!(placement["claims"], json!([{"cluster": "eu", "victims": [victim]}]));
    let row = &world.app("low")["status"]["placement"]["rows"][0];
    assert_eq!(row["reason"], "4 of 8, down from 8: makes room for default/high (priority 100 over 0)");

    world.agent("eu").up = true;
    world.settle();
    assert_eq!((sum(&world, &low), sum(&world, &high)), (4, 6));
    assert_eq!(message(&world, "high", "Preempting"), "");
    assert_eq!(world.placement(&high).expect("a placement").claims, []);
    assert_ne!(message(&world, "low", "Preempted"), "", "it still lacks what it lost");
    world.pass(60_000);
    let quiet = world.store.revision();
    world.pass(120_000);
    assert_eq!(world.store.revision(), quiet, "nothing is written when nothing changes");

    world.join("us", 5);
    world.settle();
    assert_eq!((sum(&world, &low), sum(&world, &high)), (8, 6));
    assert_eq!(message(&world, "low", "Preempted"), "");
    let events = world.events().join("\n");
    assert!(events.contains("high Preempting: 4 of default/low leave eu"), "{events}");
    assert!(events.contains("low Preempted: low: room in eu for default/high"), "{events}");
}

/// A new leader has not heard yet of the cluster with room.
#[test]
fn nobody_leaves_while_there_may_be_room_that_is_not_known_yet() {
    let (mut world, low) = full(10, 10);
    world.join("us", 10);
    world.settle();
    world.agent("us").up = false;
    world.restart();
    let high = world.apply("high", 6, divided("high"));
    world.pass(20_000);
    assert_eq!((sum(&world, &low), sum(&world, &high)), (10, 0));
    world.agent("us").up = true;
    world.settle();
    assert_eq!((sum(&world, &low), world.shares(&high)), (10, [("us".to_owned(), 6)].into()));
    // One that stays away is not waited for.
    world.agent("us").up = false;
    world.restart();
    let more = world.apply("more", 6, divided("high"));
    world.pass(60_000);
    assert_eq!((sum(&world, &low), sum(&world, &more)), (4, 6));
}

/// Somebody else has waited for that very room.
#[test]
fn rule_06_room_that_is_made_goes_to_nobody_else() {
    for restarts in [false, true] {
        let (mut world, low) = full(10, 10);
        let other = world.apply("other", 3, divided(""));
        world.settle();
        world.agent("eu").up = false;
        let high = world.apply("high", 6, divided("high"));
        world.settle();
        assert_eq!((sum(&world, &low), sum(&world, &other), sum(&world, &high)), (4, 0, 0));
        if restarts {
            world.restart();
        }
        // The pods end one after the other.
        world.agent("eu").up = true;
        for ending in [6, 3, 1] {
            world.agent("eu").ending = ending;
            world.settle();
            assert_eq!((sum(&world, &low), sum(&world, &other), sum(&world, &high)), (4, 0, 0), "restarts: {restarts}");
        }
        world.agent("eu").ending = 0;
        world.settle();
        assert_eq!((sum(&world, &low), sum(&world, &other), sum(&world, &high)), (4, 0, 6), "restarts: {restarts}");
    }
}

#[test]
fn nobody_leaves_for_an_equal_for_who_never_preempts_or_in_vain() {
    let (mut world, low) = full(10, 10);
    let object = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "kind", "uid": "kind"},
        "value": 200, "preemptionPolicy": "Never",
    });
    world.put(&PRIORITY_CLASS, "", "kind", object);
    world.apply("equal", 2, divided(""));
    world.apply("kind", 2, divided("kind"));
    world.apply("huge", 11, divided("high"));
    world.pass(60_000);
    assert_eq!(sum(&world, &low), 10);
    assert_eq!(message(&world, "huge", "Preempting"), "");
    // Known from now on, and no longer in vain.
    world.edit(&PRIORITY_CLASS, "", "kind", |class| {
        drop(class.as_object_mut().expect("a class").remove("preemptionPolicy"))
    });
    world.settle();
    assert_eq!(sum(&world, &low), 8);
}

#[test]
fn what_is_claimed_is_given_back_with_who_claimed_it() {
    for deleted in [true, false] {
        let (mut world, low) = full(10, 10);
        world.agent("eu").up = false;
        let high = world.apply("high", 6, divided("high"));
        world.settle();
        assert_eq!(sum(&world, &low), 4);
        match deleted {
            true => world.delete(&APPLICATION, "default", "high"),
            false => drop(world.apply("high", 0, divided("high"))),
        }
        world.settle();
        assert_eq!(message(&world, "high", "Preempting"), "");
        world.agent("eu").up = true;
        world.settle();
        assert_eq!((sum(&world, &low), sum(&world, &high)), (10, 0), "deleted: {deleted}");
        assert_eq!(message(&world, "low", "Preempted"), "");
    }
}

#[test]
fn what_has_room_elsewhere_moves_there_new_before_old() {
    let (mut world, low) = full(10, 10);
    let us = world.join("us", 20);
    world.settle();
    world.agents.get_mut(&us).expect("an agent").unready = true;
    let in_eu = json!([{"name": "p", "type": "placement",
        "properties": {"mode": "Divided", "priorityClassName": "high", "clusters": ["eu"]}}]);
    let high = world.apply("high", 6, in_eu);
    world.settle();
    assert_eq!(world.shares(&low), [("eu".to_owned(), 10), ("us".to_owned(), 6)].into(), "none is well yet");
    assert_eq!(sum(&world, &high), 0);
    world.agents.get_mut(&us).expect("an agent").unready = false;
    world.settle();
    assert_eq!(world.shares(&low), [("eu".to_owned(), 4), ("us".to_owned(), 6)].into());
    assert_eq!(world.shares(&high), [("eu".to_owned(), 6)].into());
    assert_eq!(message(&world, "low", "Preempted"), "", "it has all it asked for");
}

#[test]
fn what_never_gets_well_elsewhere_is_waited_for_no_longer_than_five_minutes() {
    let (mut world, low) = full(10, 10);
    let us = world.join("us", 20);
    world.settle();
    world.agents.get_mut(&us).expect("an agent").unready = true;
    let in_eu = json!([{"name": "p", "type": "placement",
        "properties": {"mode": "Divided", "priorityClassName": "high", "clusters": ["eu"]}}]);
    let high = world.apply("high", 6, in_eu);
    world.pass(290_000);
    assert_eq!((world.shares(&low).get("eu"), sum(&world, &high)), (Some(&10), 0));
    world.pass(20_000);
    assert_eq!((world.shares(&low).get("eu"), sum(&world, &high)), (Some(&4), 6));
}

#[test]
fn nobody_else_is_named_while_pods_take_their_time_to_end() {
    let mut world = World::with(&[("eu", 10)]);
    class(&mut world, "high", 100);
    class(&mut world, "mid", 50);
    let (low, mid) = (world.apply("low", 5, divided("")), world.apply("mid", 5, divided("mid")));
    world.settle();
    // Those of `low` take their time.
    world.agent("eu").up = false;
    let high = world.apply("high", 5, divided("high"));
    world.settle();
    world.agent("eu").ending = 5;
    world.agent("eu").up = true;
    world.pass(55_000);
    assert_eq!((sum(&world, &low), sum(&world, &mid), sum(&world, &high)), (0, 5, 0));
    world.agent("eu").ending = 0;
    world.settle();
    assert_eq!((sum(&world, &low), sum(&world, &mid), sum(&world, &high)), (0, 5, 5));
}

/// Longer than the last of them may take once all but those that stay have left.
#[test]
fn nobody_else_is_named_while_more_pods_are_bound_than_may_be() {
    let mut world = World::with(&[("eu", 10)]);
    class(&mut world, "high", 100);
    class(&mut world, "mid", 50);
    let (low, mid) = (world.apply("low", 5, divided("")), world.apply("mid", 5, divided("mid")));
    world.settle();
    world.agent("eu").up = false;
    let high = world.apply("high", 3, divided("high"));
    world.settle();
    world.agent("eu").ending = 3;
    world.agent("eu").up = true;
    world.pass(200_000);
    assert_eq!((sum(&world, &low), sum(&world, &mid), sum(&world, &high)), (2, 5, 0));
    world.agent("eu").ending = 0;
    world.settle();
    assert_eq!((sum(&world, &low), sum(&world, &mid), sum(&world, &high)), (2, 5, 3));
}

#[test]
fn who_was_named_and_is_more_important_by_now_stays() {
    let mut world = World::with(&[("eu", 10)]);
    class(&mut world, "high", 100);
    class(&mut world, "top", 200);
    let both = [world.apply("one", 5, divided("")), world.apply("two", 5, divided(""))];
    world.settle();
    // The claim is being written, and nobody has left.
    let high = world.apply("high", 5, divided("high"));
    world.pass(1_000);
    while world.placement(&high).is_none_or(|placement| placement.claims.is_empty()) {
        world.agent("eu").up = false;
        world.pass(5);
    }
    let named = world.placement(&high).expect("a placement").claims[0].victims[0].application.name.clone();
    world.apply(&named, 5, divided("top"));
    world.agent("eu").up = true;
    world.pass(6_000);
    let sums = both.each_ref().map(|application| sum(&world, application));
    assert_eq!((sums[usize::from(named == "two")], sums[usize::from(named == "one")], sum(&world, &high)), (5, 0, 5));
}

#[test]
fn an_edit_of_what_waits_is_an_edit_of_what_it_claims() {
    let (mut world, low) = full(10, 10);
    world.agent("eu").up = false;
    let high = world.apply("high", 6, divided("high"));
    world.settle();
    assert_eq!(sum(&world, &low), 4);
    world.apply("high", 2, divided("high"));
    world.pass(20_000);
    world.agent("eu").up = true;
    world.settle();
    assert_eq!((sum(&world, &low), sum(&world, &high)), (4, 2), "what leaves already is enough");
}

/// What leaves for the one is not seen yet, and is not asked of others again.
#[test]
fn a_cluster_makes_room_for_one_at_a_time() {
    let mut world = World::with(&[("eu", 20)]);
    class(&mut world, "high", 100);
    let low = [world.apply("one", 10, divided("")), world.apply("two", 10, divided(""))];
    world.settle();
    world.agent("eu").up = false;
    let first = world.apply("first", 6, divided("high"));
    world.settle();
    let second = world.apply("second", 2, divided("high"));
    world.pass(20_000);
    let left = |world: &World| low.iter().map(|application| sum(world, application)).sum::<u32>();
    assert_eq!(left(&world), 14);
    world.agent("eu").up = true;
    world.pass(30_000);
    assert_eq!((left(&world), sum(&world, &first), sum(&world, &second)), (12, 6, 2));
}

/// Nobody takes away what a member's autoscaler set.
#[test]
fn what_a_member_scales_is_no_victim() {
    let (mut world, low) = full(10, 10);
    world.agent("eu").scales = true;
    world.settle();
    world.apply("high", 6, divided("high"));
    world.pass(20_000);
    assert_eq!(sum(&world, &low), 10);
}

#[test]
fn what_lacks_room_for_a_moment_takes_none_from_anybody() {
    let (mut world, low) = full(10, 10);
    let high = world.apply("high", 6, divided("high"));
    world.pass(500);
    world.join("us", 10);
    world.settle();
    assert_eq!((sum(&world, &low), sum(&world, &high)), (10, 6));
}

/// One cluster makes room for one after the other.
#[test]
fn a_burst_of_important_ones_gets_what_it_needs_and_no_more_leave() {
    let mut world = World::with(&[("eu", 20), ("us", 20)]);
    class(&mut world, "high", 100);
    let low: Vec<Uid> = (0..10).map(|number| world.apply(&format!("low{number}"), 4, divided(""))).collect();
    world.settle();
    let high: Vec<Uid> = (0..6).map(|number| world.apply(&format!("high{number}"), 3, divided("high"))).collect();
    world.pass(120_000);
    let sums = |world: &World, all: &[Uid]| all.iter().map(|uid| sum(world, uid)).sum::<u32>();
    assert_eq!((sums(&world, &high), sums(&world, &low)), (18, 22));
}

#[test]
fn more_than_ten_that_would_lose_all_wait_for_a_person() {
    let mut world = World::with(&[("eu", 24)]);
    class(&mut world, "high", 100);
    let low: Vec<Uid> = (0..12).map(|number| world.apply(&format!("low{number}"), 2, divided(""))).collect();
    world.settle();
    let high = world.apply("high", 24, divided("high"));
    world.settle();
    let left: u32 = low.iter().map(|uid| sum(&world, uid)).sum();
    assert_eq!((left, sum(&world, &high)), (24, 0), "rule 14");
    assert_ne!(message(&world, "low0", "RemovalsHeld"), "");
}

#[test]
fn who_asks_is_told_who_would_leave() {
    let (mut world, _) = full(8, 10);
    let mut application = world.app("low");
    application["metadata"] = json!({"name": "new", "namespace": "default"});
    application["spec"]["policies"] = divided("high");
    application["spec"]["components"][0]["traits"][0]["properties"]["replicas"] = 6.into();
    let application = serde_json::from_value(application).expect("an application");
    let ask = |world: &mut World, asked: Asked| {
        let question = Question { least: world.store.revision(), asked };
        let now = world.now();
        let inquiry = world.controller.inquire(now, &question).expect("an inquiry");
        inquiry.answer().expect("an answer")
    };
    let told = ask(&mut world, Asked::Plan(Box::new(application)));
    let victims = json!([{"namespace": "default", "application": "low", "component": "low", "cluster": "eu", "from": 8, "to": 4}]);
    assert_eq!(
        (&told["victims"], &told["unplaced"]["low"]),
        (&victims, &json!("room for 2 of 6 replicas; 0 run, nothing new is placed until all fit"))
    );
    world.agent("eu").up = false;
    world.apply("high", 6, divided("high"));
    world.settle();
    let told = ask(&mut world, Asked::Explain(ObjectName::new("default", "high")));
    assert_eq!(told["victims"], victims);
}
