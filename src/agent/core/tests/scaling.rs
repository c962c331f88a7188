//! Workloads whose replicas an autoscaler of the member sets.

use serde_json::{Value, json};

use super::rig::{Rig, deployment, start};
use crate::{
    agent::{cluster::Capacity, core::Event},
    model::{
        Digest, GroupVersionKind, ObjectName, ObjectRef, Work, node::ScalerFacts, placement::Patch, pointer,
        report::ObjectState,
    },
};

/// Generation and image of `web` in so many replicas.
fn work(rig: &mut Rig, generation: u64, image: &str, replicas: u32) -> Work {
    let mut work = rig.work("app", generation, &[("web", image)]);
    let manifest = &mut work.manifests[0];
    let mut object: Value = serde_json::from_slice(&rig.blobs[&manifest.blob]).expect("JSON");
    pointer::set(&mut object, "/spec/replicas", replicas.into());
    manifest.patches = vec![Patch { pointer: "/spec/replicas".into(), value: replicas.into() }];
    manifest.result = Digest::of_json(&object);
    work
}

fn send(rig: &mut Rig, generation: u64, image: &str, replicas: u32) {
    let work = work(rig, generation, image, replicas);
    rig.send(&work);
    rig.pass(5_000);
}

/// An autoscaler that speaks of another version than the manifest.
fn scaler() -> ScalerFacts {
    let gvk = GroupVersionKind::new("apps", "v1beta2", "Deployment");
    ScalerFacts { name: "web".into(), target: ObjectRef { gvk, name: ObjectName::new("shop", "web") } }
}

/// `web` in three replicas, which an autoscaler has made seven.
fn scaled() -> Rig {
    let mut rig = start();
    rig.connect();
    send(&mut rig, 1, "v1", 3);
    rig.tell(Event::Capacity(Capacity::ScalersReset(vec![scaler()])));
    rig.pass(1_000);
    scale(&mut rig, 7);
    rig
}

fn scale(rig: &mut Rig, replicas: u32) {
    rig.touch(&deployment("web"), |live| live["spec"]["replicas"] = replicas.into());
    rig.pass(60_000);
}

fn replicas(rig: &Rig) -> Value {
    rig.member.objects[&deployment("web")]["spec"]["replicas"].clone()
}

#[test]
fn what_an_autoscaler_sets_is_left_alone() {
    let mut rig = scaled();
    let writes = rig.member.writes.len();
    for count in [12, 1, 0, 4] {
        scale(&mut rig, count);
        assert_eq!(replicas(&rig), count);
    }
    assert_eq!(rig.member.writes.len(), writes);
    let component = rig.report("app").components[0].clone();
    assert!(component.scaled && component.replicas.is_some_and(|count| count.desired == 4), "{component:?}");
}

#[test]
fn what_is_written_for_other_reasons_keeps_its_number() {
    let mut rig = scaled();
    rig.touch(&deployment("web"), |live| live["spec"]["image"] = json!("someone's"));
    rig.pass(60_000);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v1");
    assert_eq!(replicas(&rig), 7);
    send(&mut rig, 2, "v2", 5);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v2");
    assert_eq!((replicas(&rig), rig.report("app").applied), (json!(7), true));
}

/// At zero an autoscaler does not act, so it is the hub that stops and starts it.
#[test]
fn an_order_of_zero_and_the_one_after_it_count() {
    let mut rig = scaled();
    send(&mut rig, 2, "v1", 0);
    assert_eq!(replicas(&rig), 0);
    send(&mut rig, 3, "v1", 4);
    assert_eq!(replicas(&rig), 4);
}

#[test]
fn without_its_autoscaler_it_has_what_the_hub_says_again() {
    let mut rig = scaled();
    rig.tell(Event::Capacity(Capacity::ScalerGone { namespace: "shop".into(), name: "web".into() }));
    rig.pass(60_000);
    assert_eq!(replicas(&rig), 3);
    assert!(!rig.report("app").components[0].scaled);
}

#[test]
fn an_agent_that_starts_waits_for_the_autoscalers() {
    let mut rig = scaled();
    let writes = rig.member.writes.len();
    rig.restart();
    rig.pass(60_000);
    assert_eq!((rig.member.writes.len(), replicas(&rig)), (writes, json!(7)), "not known yet");
    rig.tell(Event::Capacity(Capacity::ScalersReset(vec![scaler()])));
    rig.pass(60_000);
    assert_eq!((rig.member.writes.len(), replicas(&rig)), (writes, json!(7)));
    rig.tell(Event::Capacity(Capacity::ScalersReset(vec![])));
    rig.pass(60_000);
    assert_eq!(replicas(&rig), 3, "it went while nobody looked");
}

/// Between the look and the write the autoscaler acted.
#[test]
fn a_write_that_comes_too_late_is_made_anew() {
    let mut rig = scaled();
    rig.slow_applies = Some(Vec::new());
    let next = work(&mut rig, 2, "v2", 5);
    rig.send(&next);
    rig.pass(1_000);
    rig.touch(&deployment("web"), |live| live["spec"]["replicas"] = json!(9));
    rig.let_applies_through(false);
    rig.pass(60_000);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v2");
    assert_eq!(replicas(&rig), 9);
    assert_eq!(rig.report("app").objects[0].state, ObjectState::Applied);
}
