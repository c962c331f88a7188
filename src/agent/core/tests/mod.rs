//! The rules that the core keeps, each on a core with a hub, a ledger and a member by hand.

use bytes::Bytes;
use serde_json::json;

use super::Event;
use crate::{
    agent::cluster::{Capacity, Live, OWNER_LABEL, Rejection},
    model::{
        Digest, NodeFacts, PodFacts, Resources,
        protocol::{ToAgent, ToHub},
        report::{Health, ObjectState},
        work::RemovalReason::{ApplicationDeleted, ClusterDrained, NotInRevision, PlacedElsewhere},
    },
};

mod rig;
mod scaling;

use rig::{Rig, at, deployment, removal, start};

/// A rig that runs one Deployment `web`, connected and at rest.
fn running() -> Rig {
    let mut rig = start();
    rig.connect();
    let work = rig.work("app", 1, &[("web", "v1")]);
    rig.send(&work);
    rig.pass(2_000);
    assert!(rig.report("app").applied);
    rig
}

#[test]
fn a_hub_that_never_answers_the_hello_is_given_up() {
    let mut rig = start();
    rig.tell(Event::LinkOpened);
    rig.pass(29_000);
    assert!(rig.closed.is_empty(), "an identity that is contested waits for its welcome");
    rig.pass(2_000);
    assert_eq!(rig.closed, ["the hub has not answered the hello"]);
}

#[test]
fn a_work_is_durable_before_anything_is_written_to_the_member() {
    let mut rig = start();
    rig.connect();
    let work = rig.work("app", 1, &[("web", "v1")]);
    rig.ledger_fails = true;
    rig.send(&work);
    rig.pass(3_000);
    assert!(rig.member.writes.is_empty());
    assert_eq!(rig.refusal("app"), "LedgerUnwritable");
    rig.ledger_fails = false;
    rig.pass(3_000);
    assert_eq!(rig.member.writes, ["apply Deployment shop/web"]);
    assert_eq!((rig.held(), rig.refusal("app").as_str()), (vec![("app".into(), 1)], ""));
}

#[test]
fn a_work_enters_the_ledger_only_with_all_its_bytes_whole_and_true() {
    let mut rig = start();
    rig.connect();
    let mut work = rig.work("app", 1, &[("web", "v1"), ("api", "v1")]);
    let bytes = rig.blobs.remove(&work.manifests[1].blob).expect("is there");
    rig.send(&work);
    rig.pass(60_000);
    assert!(rig.held().is_empty() && rig.member.writes.is_empty(), "one blob is missing");
    let blob = |digest, bytes: &Bytes| {
        Event::LinkMessage(ToAgent::Blob { digest, offset: 0, total: bytes.len() as u64, bytes: bytes.clone() })
    };
    rig.tell(blob(work.manifests[1].blob, &Bytes::from_static(b"{}")));
    assert_eq!(rig.refusal("app"), "DigestMismatch");
    rig.blobs.insert(work.manifests[1].blob, bytes);
    work.manifests[1].result = Digest::of(b"another");
    rig.send(&work);
    assert_eq!(rig.refusal("app"), "DigestMismatch");
    assert!(rig.held().is_empty() && rig.member.writes.is_empty());
}

#[test]
fn rule_01_silence_absence_emptiness_errors_and_restarts_delete_nothing() {
    let mut rig = running();
    let other = rig.work("other", 1, &[("api", "v1")]);
    rig.send(&other);
    rig.pass(2_000);
    // A hub that is silent for three days, that comes back and sends nothing, that lost everything.
    rig.disconnect();
    rig.pass(3 * 86_400_000);
    rig.connect();
    rig.pass(60_000);
    rig.restart();
    rig.connect_to("incarnation-2");
    rig.pass(60_000);
    // A newer generation without one object, without a removal; a release of what runs; an empty list; errors.
    rig.connect();
    let next = rig.work("app", 2, &[]);
    rig.send(&next);
    rig.release(&next);
    rig.release(&other);
    let gvk = deployment("web").gvk;
    rig.tell(Event::Live { gvk: gvk.clone(), live: Live::Reset(vec![]) });
    rig.tell(Event::Live { gvk, live: Live::Deleted(deployment("web")) });
    rig.pass(600_000);
    rig.restart();
    rig.pass(600_000);
    assert_eq!(rig.member.deletes, []);
    assert_eq!(rig.member.objects.len(), 2);
    assert_eq!(rig.held(), [("app".into(), 2), ("other".into(), 1)]);
}

#[test]
fn rule_08_removals_come_last_and_stay_until_they_are_confirmed() {
    let mut rig = running();
    let mut next = rig.work("app", 2, &[("api", "v1")]);
    let uid = rig.member.uid(&deployment("web"));
    next.removals = vec![removal("web", Some(&uid), NotInRevision, "ann")];
    let invalid = Rejection { reason: "Invalid".into(), message: "spec.image: no".into() };
    rig.member.refusals.insert(deployment("api"), invalid);
    rig.send(&next);
    rig.pass(600_000);
    assert_eq!(rig.member.deletes, [], "the replacement is not written yet");
    assert_eq!(rig.report("app").objects[0].message, "spec.image: no");
    rig.member.refusals.clear();
    rig.pass(600_000);
    assert_eq!(rig.member.deletes, [deployment("web")]);
    assert_eq!(rig.member.writes.last().map(String::as_str), Some("delete Deployment shop/web"));
    assert_eq!(rig.report("app").removed, [deployment("web")]);
    // Until the hub has confirmed, every new stream hears of it again.
    rig.disconnect();
    rig.restart();
    rig.sent.clear();
    rig.connect();
    rig.pass(2_000);
    assert_eq!(rig.report("app").removed, [deployment("web")]);
    assert_eq!(rig.member.deletes.len(), 1);
}

#[test]
fn rule_08_nothing_is_confirmed_as_gone_while_an_apply_of_it_is_under_way() {
    for is_lost in [false, true] {
        let mut rig = start();
        rig.connect();
        rig.slow_applies = Some(Vec::new());
        let work = rig.work("app", 1, &[("web", "v1")]);
        rig.send(&work);
        rig.pass(1_000);
        let mut last = rig.work("app", 2, &[]);
        last.removals = vec![removal("web", None, ApplicationDeleted, "ann")];
        rig.send(&last);
        rig.pass(1_000);
        assert_eq!((rig.held(), rig.report("app").removed), (vec![("app".into(), 2)], vec![]));
        rig.let_applies_through(is_lost);
        rig.pass(5_000);
        assert_eq!(rig.member.deletes, [deployment("web")], "the late apply is undone");
        assert_eq!(rig.report("app").removed, [deployment("web")]);
    }
}

#[test]
fn rule_08_the_ledger_forgets_only_finished_removals_that_the_hub_released() {
    let mut rig = running();
    let mut last = rig.work("app", 2, &[]);
    last.removals = vec![removal("web", None, ApplicationDeleted, "ann")];
    rig.member.paused_until = Some(at(500_000).wall.to_string());
    rig.pass(31_000);
    rig.send(&last);
    rig.release(&last);
    rig.pass(1_000);
    assert_eq!(rig.held(), [("app".into(), 2)], "not removed yet");
    rig.member.paused_until = None;
    rig.pass(60_000);
    assert_eq!(rig.member.deletes, [deployment("web")]);
    let mut wrong = last.clone();
    wrong.generation = 1;
    rig.release(&wrong);
    assert_eq!(rig.held(), [("app".into(), 2)], "another generation");
    rig.release(&last);
    assert!(rig.held().is_empty());
}

#[test]
fn rule_08_going_back_to_what_was_removed_keeps_it() {
    let mut rig = running();
    let uid = rig.member.uid(&deployment("web"));
    // A→B→A, where the hub still carries B's removal.
    let mut again = rig.work("app", 3, &[("web", "v1")]);
    again.removals = vec![removal("web", Some(&uid), NotInRevision, "ann")];
    rig.send(&again);
    rig.pass(60_000);
    assert_eq!(rig.member.deletes, []);
    assert_eq!(rig.member.uid(&deployment("web")), uid);
}

#[test]
fn rule_08_what_is_not_ours_is_neither_changed_nor_removed() {
    let mut rig = start();
    rig.connect();
    let foreign = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"image": "theirs"}});
    rig.member.store(&deployment("web"), foreign);
    let work = rig.work("app", 1, &[("web", "v1")]);
    rig.send(&work);
    rig.pass(60_000);
    let object = rig.report("app").objects[0].clone();
    assert_eq!((object.state, object.reason.as_str()), (ObjectState::Refused, "NotOurs"));
    let mut last = rig.work("app", 2, &[]);
    last.removals = vec![removal("web", Some(&rig.member.uid(&deployment("web"))), ApplicationDeleted, "ann")];
    rig.send(&last);
    rig.pass(60_000);
    assert_eq!(rig.report("app").removed, [deployment("web")], "not ours any more is as good as gone");
    assert!(rig.member.writes.is_empty());
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "theirs");
}

#[test]
fn what_stood_in_the_way_and_goes_is_followed_by_ours() {
    let mut rig = start();
    rig.connect();
    let foreign = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop",
        "labels": {OWNER_LABEL: "other-app"}}});
    rig.member.store(&deployment("web"), foreign);
    let work = rig.work("app", 1, &[("web", "v1")]);
    rig.send(&work);
    rig.pass(60_000);
    assert!(rig.report("app").objects[0].message.contains("other-app"));
    rig.vanish(&deployment("web"));
    rig.pass(600_000);
    assert!(rig.report("app").applied);
}

#[test]
fn rule_09_the_agent_acts_only_forward_within_an_incarnation() {
    let mut rig = running();
    let third = rig.work("app", 3, &[("web", "v3")]);
    rig.send(&third);
    rig.pass(1_000);
    let older = rig.work("app", 2, &[("web", "v2")]);
    rig.send(&older);
    rig.pass(1_000);
    assert_eq!(rig.refusal("app"), "Outdated");
    let other = rig.work("app", 3, &[("web", "other")]);
    rig.send(&other);
    rig.pass(1_000);
    assert_eq!(rig.refusal("app"), "Conflicting");
    rig.restart();
    rig.connect();
    rig.send(&older);
    rig.pass(1_000);
    assert_eq!(rig.refusal("app"), "Outdated");
    rig.restart();
    rig.connect_to("incarnation-2");
    let mut foreign = rig.work("app", 9, &[]);
    foreign.removals = vec![removal("web", None, ApplicationDeleted, "ann")];
    rig.send(&foreign);
    let stranger = rig.work("new", 1, &[("new", "v1")]);
    rig.send(&stranger);
    rig.pass(60_000);
    assert_eq!([rig.refusal("app"), rig.refusal("new")], ["ForeignIncarnation", "ForeignIncarnation"]);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v3");
    assert_eq!(rig.held(), [("app".into(), 3)]);
    assert_eq!(rig.member.deletes, []);
}

#[test]
fn rule_09_pending_removals_wait_while_the_hub_is_foreign() {
    let mut rig = running();
    rig.member.paused_until = Some(at(300_000).wall.to_string());
    rig.pass(31_000);
    let mut last = rig.work("app", 2, &[]);
    last.removals = vec![removal("web", None, ApplicationDeleted, "ann")];
    rig.send(&last);
    rig.disconnect();
    rig.connect_to("incarnation-2");
    rig.pass(900_000);
    assert_eq!(rig.member.deletes, []);
    rig.disconnect();
    rig.connect();
    rig.pass(60_000);
    assert_eq!(rig.member.deletes, [deployment("web")]);
}

#[test]
fn rule_11_without_the_hub_it_goes_on_from_the_ledger_after_its_own_restart_too() {
    let mut rig = running();
    rig.disconnect();
    rig.touch(&deployment("web"), |live| live["spec"]["image"] = json!("evil"));
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v1");
    rig.restart();
    rig.vanish(&deployment("web"));
    rig.pass(10_000);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v1");
    // A work that was taken but not begun is finished by the next process alone.
    rig.connect();
    let api = Rejection { reason: "Unreachable".into(), message: "no route".into() };
    rig.member.refusals.insert(deployment("api"), api);
    let mut next = rig.work("app", 2, &[("api", "v2")]);
    next.removals = vec![removal("web", None, NotInRevision, "ann")];
    rig.send(&next);
    rig.restart();
    rig.member.refusals.clear();
    rig.pass(10_000);
    assert_eq!(rig.member.objects.keys().cloned().collect::<Vec<_>>(), [deployment("api")]);
}

#[test]
fn a_member_that_answers_again_is_not_left_waiting() {
    let mut rig = running();
    for reason in ["Unreachable", "Invalid"] {
        let rejection = Rejection { reason: reason.into(), message: "not now".into() };
        rig.member.refusals.insert(deployment("web"), rejection);
        rig.vanish(&deployment("web"));
        rig.pass(3_600_000);
        rig.member.refusals.clear();
        rig.pass(20_000);
        let there = rig.member.objects.contains_key(&deployment("web"));
        assert_eq!(there, reason == "Unreachable", "what was refused for a reason is tried ever more rarely");
        rig.pass(600_000);
    }
}

#[test]
fn rule_13_converged_means_silent() {
    let mut rig = running();
    rig.pass(10_000);
    let (writes, looks, ledger, sent) = (rig.member.writes.len(), rig.member.looks, rig.ledger_writes, rig.sent.len());
    rig.pass(3_600_000);
    assert_eq!((rig.member.writes.len(), rig.member.looks, rig.ledger_writes), (writes, looks, ledger));
    assert!(rig.sent[sent..].iter().all(|message| *message == ToHub::Beat));
    // What others do to their own fields changes nothing, and is no news.
    rig.touch(&deployment("web"), |live| live["spec"]["theirs"] = json!(1));
    rig.touch(&deployment("web"), |live| live["metadata"]["annotations"] = json!({"a": "b"}));
    rig.pass(60_000);
    assert!(rig.sent[sent..].iter().all(|message| *message == ToHub::Beat));
    // A restart rewrites nothing, and a hub that sends the same again neither.
    rig.restart();
    rig.connect();
    let same = rig.work("app", 1, &[("web", "v1")]);
    rig.send(&same);
    rig.pass(60_000);
    assert_eq!((rig.member.writes.len(), rig.member.looks), (writes, looks));
}

#[test]
fn what_the_watch_tells_late_is_not_taken_for_drift() {
    let mut rig = running();
    let late = rig.member.objects[&deployment("web")].clone();
    let next = rig.work("app", 2, &[("web", "v2")]);
    rig.send(&next);
    let writes = rig.member.writes.len();
    rig.tell(Event::Live { gvk: deployment("web").gvk, live: Live::Applied(late) });
    rig.pass(600_000);
    assert_eq!(rig.member.writes.len(), writes);
}

#[test]
fn only_what_changed_is_written() {
    let mut rig = start();
    rig.connect();
    let first = rig.work("app", 1, &[("web", "v1"), ("api", "v1")]);
    rig.send(&first);
    rig.pass(2_000);
    let second = rig.work("app", 2, &[("web", "v1"), ("api", "v2")]);
    rig.send(&second);
    rig.pass(2_000);
    let applies = |name: &str| rig.member.writes.iter().filter(|write| write.ends_with(name)).count();
    assert_eq!((applies("web"), applies("api")), (1, 2));
}

fn placed_elsewhere(rig: &mut Rig, count: usize, author: &str) {
    for index in 0..count {
        let name = format!("app-{index}");
        let mut last = rig.work(&name, 2, &[]);
        last.removals = vec![removal(&name, None, PlacedElsewhere, author)];
        rig.send(&last);
    }
    rig.pass(5_000);
}

fn many(count: usize) -> Rig {
    let mut rig = start();
    rig.connect();
    for index in 0..count {
        let name = format!("app-{index}");
        let work = rig.work(&name, 1, &[(&name, "v1")]);
        rig.send(&work);
    }
    rig.pass(5_000);
    assert_eq!(rig.member.objects.len(), count);
    rig
}

#[test]
fn rule_14_removals_that_nobody_named_are_held_beyond_ten_works_and_a_tenth() {
    let mut rig = many(40);
    placed_elsewhere(&mut rig, 12, "placement");
    assert_eq!(rig.member.deletes.len(), 10);
    let held = rig.report("app-11");
    assert_eq!(held.objects[0].reason, "Held");
    // Neither time nor a restart confirms anything, though two alone would be few enough.
    rig.pass(3_600_000);
    rig.restart();
    rig.connect();
    rig.pass(3_600_000);
    assert_eq!(rig.member.deletes.len(), 10);
    // A person does, by name.
    let mut confirmed = rig.work("app-11", 3, &[]);
    confirmed.removals = vec![removal("app-11", None, PlacedElsewhere, "ann")];
    rig.send(&confirmed);
    rig.pass(5_000);
    assert_eq!(rig.member.deletes.len(), 11);
}

#[test]
fn rule_14_the_brake_survives_a_restart() {
    let mut rig = many(40);
    placed_elsewhere(&mut rig, 10, "placement");
    assert_eq!(rig.member.deletes.len(), 10);
    rig.restart();
    rig.connect();
    let mut next = rig.work("app-10", 2, &[]);
    next.removals = vec![removal("app-10", None, PlacedElsewhere, "placement")];
    rig.send(&next);
    rig.pass(5_000);
    assert_eq!(rig.member.deletes.len(), 10);
}

#[test]
fn rule_14_what_somebody_named_is_not_held() {
    for (reason, author) in [
        (ApplicationDeleted, "placement"),
        (ClusterDrained, "placement"),
        (PlacedElsewhere, "ann"),
        (NotInRevision, "ann"),
    ] {
        let mut rig = many(30);
        for index in 0..30 {
            let name = format!("app-{index}");
            let mut last = rig.work(&name, 2, &[]);
            last.removals = vec![removal(&name, None, reason, author)];
            rig.send(&last);
        }
        rig.pass(5_000);
        assert_eq!(rig.member.deletes.len(), 30, "{reason:?} by {author}");
    }
}

#[test]
fn whoever_keeps_changing_our_fields_costs_few_writes() {
    let mut rig = running();
    let before = rig.member.writes.len();
    for _ in 0..3_600 {
        rig.touch(&deployment("web"), |live| live["spec"]["image"] = json!("theirs"));
        rig.pass(1_000);
    }
    let repairs = rig.member.writes.len() - before;
    assert!((5..40).contains(&repairs), "{repairs} repairs in an hour of fighting");
}

#[test]
fn a_pause_in_the_member_stops_writes_until_it_expires() {
    let mut rig = running();
    let until = at(rig.ms + 100_000).wall.to_string();
    rig.touch(&deployment("web"), |live| live["metadata"]["annotations"] = json!({"hanse.dev/paused-until": until}));
    rig.touch(&deployment("web"), |live| live["spec"]["image"] = json!("by hand"));
    rig.pass(90_000);
    assert_eq!(rig.report("app").objects[0].state, ObjectState::Paused);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "by hand");
    rig.pass(20_000);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v1");
    assert!(rig.report("app").applied);
}

#[test]
fn an_agent_that_was_revoked_leaves_everything_as_it_is() {
    let mut rig = running();
    rig.disconnect();
    rig.refuse("Revoked");
    rig.touch(&deployment("web"), |live| live["spec"]["image"] = json!("theirs now"));
    rig.restart();
    rig.pass(600_000);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "theirs now");
    rig.connect();
    rig.pass(60_000);
    assert_eq!(rig.member.objects[&deployment("web")]["spec"]["image"], "v1", "a welcome ends it");
    // Every other refusal is as no hub at all.
    rig.disconnect();
    rig.refuse("IdentityFrozen");
    rig.vanish(&deployment("web"));
    rig.pass(60_000);
    assert!(rig.member.objects.contains_key(&deployment("web")));
}

#[test]
fn a_ledger_that_was_carried_to_another_cluster_does_nothing_there() {
    let mut rig = running();
    rig.restart();
    rig.facts("member-2");
    rig.vanish(&deployment("web"));
    rig.pass(600_000);
    assert!(rig.member.objects.is_empty());
    rig.facts("member-1");
    rig.pass(1_000);
    assert_eq!(rig.member.objects.len(), 1);
}

#[test]
fn what_the_member_refuses_is_told_in_its_words_and_tried_again_with_growing_pauses() {
    let mut rig = start();
    rig.connect();
    let message = "deployments is forbidden: exceeded quota";
    let quota = Rejection { reason: "Forbidden".into(), message: message.into() };
    rig.member.refusals.insert(deployment("web"), quota);
    let work = rig.work("app", 1, &[("web", "v1")]);
    rig.send(&work);
    assert!(rig.report("app").objects[0].message.is_empty(), "it may pass by itself");
    rig.pass(3_600_000);
    let report = rig.report("app");
    assert_eq!((report.applied, report.objects[0].message.as_str()), (false, message));
    assert_eq!(report.components[0].message, format!("Deployment shop/web: Forbidden: {message}"));
    assert!((10..40).contains(&rig.member.writes.len()), "{} attempts in an hour", rig.member.writes.len());
}

#[test]
fn a_namespace_that_may_not_be_used_is_told_in_words() {
    let mut rig = start();
    rig.connect();
    let protected =
        Rejection { reason: "ProtectedNamespace".into(), message: "kube-system is the cluster's own".into() };
    rig.member.namespace_refusal = Some(protected);
    let work = rig.work("app", 1, &[("web", "v1")]);
    rig.send(&work);
    rig.pass(10_000);
    assert_eq!(rig.report("app").objects[0].reason, "ProtectedNamespace");
    assert!(rig.member.writes.is_empty());
}

#[test]
fn writes_keep_to_the_budget() {
    let mut rig = start();
    rig.connect();
    for index in 0..1_000 {
        let name = format!("app-{index}");
        let work = rig.work(&name, 1, &[(&name, "v1")]);
        rig.send(&work);
    }
    assert_eq!(rig.member.writes.len(), 400, "the burst");
    rig.pass(1_000);
    assert_eq!(rig.member.writes.len(), 600);
    rig.pass(3_000);
    assert_eq!(rig.member.writes.len(), 1_000);
}

#[test]
fn reports_follow_health_and_come_after_the_sketch_that_counts_their_pods() {
    let mut rig = measuring(1, 4000);
    pod_of_web(&mut rig, 1000);
    rig.pass(1_000);
    assert_eq!(counted(&rig, 3000), ["sketch", "report"]);
    assert_eq!(rig.report("app").objects[0].health, Health::Progressing);
}

/// Measuring ten thousand nodes takes a while: it is done less often, and the reports wait for it.
#[test]
fn where_nodes_are_many_they_are_measured_once_for_many_reports() {
    let mut rig = measuring(3000, 1);
    pod_of_web(&mut rig, 1);
    rig.pass(450);
    assert!(counted(&rig, 2999).is_empty(), "three thousand nodes wait 300 ms longer");
    rig.pass(200);
    assert_eq!(counted(&rig, 2999), ["sketch", "report"]);
}

/// An agent that runs `web` in a member of so many empty nodes, and has said so.
fn measuring(nodes: usize, cpu: i64) -> Rig {
    let mut rig = running();
    let node = |n: usize| NodeFacts {
        name: format!("n{n}"),
        allocatable: Resources::of([("cpu", cpu), ("pods", 10)]),
        schedulable: true,
        ..NodeFacts::default()
    };
    rig.tell(Event::Capacity(Capacity::NodesReset((0..nodes).map(node).collect())));
    rig.tell(Event::Capacity(Capacity::PodsReset(vec![])));
    rig.pass(1_000);
    rig.sent.clear();
    rig
}

/// A pod of `web` is bound to the first node.
fn pod_of_web(rig: &mut Rig, cpu: i64) {
    let pod = PodFacts {
        namespace: "shop".into(),
        name: "web-1".into(),
        node: "n0".into(),
        requests: Resources::of([("cpu", cpu)]),
        workload: Some(deployment("web")),
        ..PodFacts::default()
    };
    rig.tell(Event::Capacity(Capacity::Pod(pod)));
}

/// Sketches with so much CPU, and reports with one pod, in the order in which they were sent.
fn counted(rig: &Rig, cpu: i64) -> Vec<&'static str> {
    rig.sent
        .iter()
        .filter_map(|message| match message {
            ToHub::Sketch(sketch) if sketch.free.get("cpu") == cpu => Some("sketch"),
            ToHub::Report(report) if report.components[0].replicas.is_some_and(|count| count.bound == 1) => {
                Some("report")
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_hub_that_does_not_answer_beats_is_given_up() {
    let mut rig = running();
    rig.connected = false;
    rig.pass(30_000);
    assert_eq!(rig.closed.len(), 1);
    let sent = rig.sent.len();
    rig.pass(600_000);
    assert_eq!(rig.sent.len(), sent, "nothing goes into a stream that was given up");
}
