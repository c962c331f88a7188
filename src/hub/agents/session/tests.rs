use super::*;
use crate::model::{
    ObjectName, ObjectRef, Sketch, Timestamp,
    object::GroupVersionKind,
    protocol::{LedgerLine, ResumeToken},
    report::ObjectReport,
    work::{Manifest, Removal, RemovalReason},
};

const KEY: &str = "key";

fn at(seconds: u64) -> Now {
    Now { wall: Timestamp::from_seconds(1_000_000 + seconds as i64), monotonic_ms: seconds * 1000 }
}

fn member() -> Arc<Member> {
    Arc::new(Member {
        uid: "eu-uid".into(),
        name: "eu".into(),
        accepted: true,
        key: KEY.into(),
        system_uid: "system".into(),
        ..Member::default()
    })
}

fn config() -> Config {
    let stamp = Stamp::new(b"key", &"hub".into(), &"one".into(), &"eu-uid".into());
    Config {
        hub: "hub".into(),
        incarnation: "one".into(),
        stamp,
        key_fingerprint: KEY.into(),
        urls: vec!["https://hub".into()],
    }
}

fn object(name: &str) -> ObjectRef {
    ObjectRef { gvk: GroupVersionKind::new("apps", "v1", "Deployment"), name: ObjectName::new("shop", name) }
}

fn blob(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// A work with one manifest for each name.
fn work(application: &str, generation: u64, names: &[&str]) -> Arc<Work> {
    let manifest = |name: &&str| Manifest {
        component: "web".into(),
        object: object(name),
        blob: blob(name),
        patches: vec![],
        result: blob(name),
    };
    Arc::new(Work {
        application: ObjectName::new("shop", application),
        application_uid: application.into(),
        cluster: "eu-uid".into(),
        generation,
        revision: format!("{application}-v{generation}"),
        application_blob: blob(application),
        manifests: names.iter().map(manifest).collect(),
        removals: vec![],
        features: vec![],
        trace: String::new(),
    })
}

fn removal(application: &str, generation: u64, name: &str) -> Arc<Work> {
    let removal = Removal {
        object: object(name),
        uid: None,
        revision: "a-v1".into(),
        reason: RemovalReason::ApplicationDeleted,
        author: "ann".into(),
    };
    Arc::new(Work { removals: vec![removal], ..work(application, generation, &[]).as_ref().clone() })
}

fn slice(revision: u64, works: &[Arc<Work>]) -> Event {
    Event::Slice(Slice { revision, works: works.to_vec() })
}

fn hello() -> Hello {
    Hello { protocol_min: 1, protocol_max: 1, instance: "a".into(), session_epoch: 1, ..Hello::default() }
}

fn say(message: ToHub) -> Event {
    Event::Message { message, bytes: 100 }
}

fn open(works: &[Arc<Work>], hello: Hello) -> (Session, Vec<Effect>) {
    let (mut session, effects) = Session::open(config(), member(), at(0));
    assert_eq!(effects, []);
    session.step(at(0), slice(10, works));
    let claim = session.step(at(0), say(ToHub::Hello(Box::new(hello))));
    assert_eq!(claim, [Effect::Claim { instance: "a".into(), epoch: 1 }]);
    assert_eq!(session.step(at(0), Event::Admitted), [Effect::CatchUp]);
    let effects = session.step(at(0), Event::CaughtUp { revision: 10 });
    (session, effects)
}

/// Everything that is due now.
fn drain(session: &mut Session) -> Vec<ToAgent> {
    let mut messages = Vec::new();
    while session.has_due() {
        for effect in session.step(at(1), Event::Room) {
            match effect {
                Effect::Send(message) => messages.push(message),
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    messages
}

fn works(messages: &[ToAgent]) -> Vec<(String, u64)> {
    let line = |message: &ToAgent| match message {
        ToAgent::Work(work) => Some((work.application_uid.0.clone(), work.generation)),
        _ => None,
    };
    messages.iter().filter_map(line).collect()
}

fn refused(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close(refuse) => Some(refuse.reason.as_str()),
        _ => None,
    })
}

fn report(application: &str, generation: u64) -> Report {
    Report { application: application.into(), cluster: "eu-uid".into(), generation, ..Report::default() }
}

#[test]
fn the_welcome_comes_first_and_then_what_the_ledger_lacks() {
    let (kept, changed, new) = (work("a", 1, &["x"]), work("b", 2, &["y"]), work("c", 1, &["z"]));
    let line = |work: &Work, generation| LedgerLine {
        application: work.application_uid.clone(),
        generation,
        digest: work.digest(),
    };
    let ledger = vec![line(&kept, 1), line(&changed, 1)];
    let hello = Hello { ledger, incarnation: Some("one".into()), ..hello() };
    let (mut session, effects) = open(&[kept, changed, new], hello);
    assert_eq!(effects.first(), Some(&Effect::Forward(FromAgent::Connected { cluster: "eu-uid".into() })));
    let messages = drain(&mut session);
    assert!(matches!(&messages[0], ToAgent::Welcome(welcome) if welcome.cluster_name == "eu" && welcome.protocol == 1));
    assert_eq!(works(&messages), [("b".into(), 2), ("c".into(), 1)]);
}

#[test]
fn a_ledger_line_with_the_right_generation_and_other_content_is_sent_again() {
    let current = work("a", 1, &["x"]);
    let ledger = vec![LedgerLine { application: "a".into(), generation: 1, digest: blob("other") }];
    let (mut session, _) = open(&[current], Hello { ledger, ..hello() });
    assert_eq!(works(&drain(&mut session)), [("a".into(), 1)]);
}

#[test]
fn generations_of_another_incarnation_count_for_nothing() {
    let current = work("a", 1, &["x"]);
    let line = LedgerLine { application: "a".into(), generation: 1, digest: current.digest() };
    let hello = Hello { ledger: vec![line], incarnation: Some("zero".into()), ..hello() };
    let (mut session, _) = open(&[current], hello);
    assert_eq!(works(&drain(&mut session)), [("a".into(), 1)]);
}

#[test]
fn of_many_changes_only_the_newest_goes_out() {
    let (mut session, _) = open(&[], hello());
    drain(&mut session);
    for generation in 1..=50 {
        session.step(at(1), slice(10 + generation, &[work("a", generation, &["x"])]));
    }
    assert_eq!(works(&drain(&mut session)), [("a".into(), 50)]);
    session.step(at(1), slice(99, &[work("a", 50, &["x"])]));
    assert!(!session.has_due(), "an unchanged slice sends nothing");
}

/// Rule 1.
#[test]
fn a_work_that_went_from_the_slice_says_nothing_to_the_agent() {
    let (mut session, _) = open(&[work("a", 1, &["x"])], hello());
    drain(&mut session);
    assert_eq!(session.step(at(1), slice(11, &[])), []);
    assert_eq!(drain(&mut session), []);
}

#[test]
fn an_application_is_released_when_its_removals_are_confirmed_and_its_row_is_gone() {
    let going = removal("a", 3, "x");
    let (mut session, _) = open(std::slice::from_ref(&going), hello());
    drain(&mut session);
    let done = Report { removed: vec![object("x")], ..report("a", 3) };
    let effects = session.step(at(1), say(ToHub::Report(Box::new(done))));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Forward(FromAgent::Report { .. }))));
    assert_eq!(drain(&mut session), [], "the row stands, so the ledger must too");
    let gone = session.step(at(2), slice(12, &[]));
    assert_eq!(gone, [Effect::AskReleased { application: "a".into(), generation: 3 }]);
    assert_eq!(drain(&mut session), [], "the row may stand though its work cannot be made");
    session.step(at(2), Event::Released { application: "a".into(), generation: 3 });
    assert_eq!(drain(&mut session), [ToAgent::Release { application: "a".into(), generation: 3 }]);
}

#[test]
fn a_half_done_removal_releases_nothing() {
    for report in [report("a", 3), Report { removed: vec![object("x")], ..report("a", 2) }] {
        let (mut session, _) = open(&[removal("a", 3, "x")], hello());
        drain(&mut session);
        session.step(at(1), say(ToHub::Report(Box::new(report))));
        assert_eq!(session.step(at(2), slice(12, &[])), []);
        assert_eq!(drain(&mut session), []);
    }
}

#[test]
fn a_reconnecting_agent_with_a_finished_work_is_released() {
    let (mut session, _) = open(&[], hello());
    drain(&mut session);
    let effects = session.step(at(1), say(ToHub::Report(Box::new(report("gone", 4)))));
    assert!(effects.contains(&Effect::AskReleased { application: "gone".into(), generation: 4 }));
    let running = ObjectReport {
        object: object("x"),
        uid: None,
        state: crate::model::report::ObjectState::Applied,
        health: crate::model::report::Health::Healthy,
        reason: String::new(),
        message: String::new(),
    };
    let still = Report { objects: vec![running], ..report("gone", 4) };
    let effects = session.step(at(1), say(ToHub::Report(Box::new(still))));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Denied(_))), "something runs: nothing is forgotten");
    assert_eq!(drain(&mut session), []);
}

#[test]
fn rule_10_own_blobs_come_in_chunks_and_foreign_ones_do_not_come() {
    let (mut session, _) = open(&[work("a", 1, &["x"])], hello());
    drain(&mut session);
    let foreign = blob("of another cluster");
    let effects = session.step(at(1), say(ToHub::FetchBlobs(vec![blob("x"), foreign])));
    assert_eq!(effects[0], Effect::ReadBlob(blob("x")));
    assert!(matches!(&effects[1], Effect::Denied(_)));
    assert_eq!(session.step(at(1), Event::Blob { digest: foreign, bytes: Some(Bytes::from_static(b"no")) }), []);
    let bytes = Bytes::from(vec![7; crate::wire::limits::CHUNK_BYTES_MAX + 5]);
    session.step(at(1), Event::Blob { digest: blob("x"), bytes: Some(bytes.clone()) });
    let chunks = drain(&mut session);
    let mut together = Vec::new();
    for chunk in &chunks {
        let ToAgent::Blob { digest, offset, total, bytes } = chunk else { panic!("unexpected {chunk:?}") };
        assert_eq!((*digest, *offset, *total), (blob("x"), together.len() as u64, 5 + (256 << 10)));
        together.extend_from_slice(bytes);
    }
    assert_eq!((chunks.len(), Bytes::from(together)), (2, bytes));
}

#[test]
fn a_work_that_changes_while_it_is_fetched_is_no_offence_and_fishing_is() {
    let (mut session, _) = open(&[work("a", 1, &["x"])], hello());
    drain(&mut session);
    session.step(at(1), slice(11, &[work("a", 2, &["y"])]));
    assert_eq!(session.step(at(1), say(ToHub::FetchBlobs(vec![blob("x")]))), [Effect::ReadBlob(blob("x"))]);
    let last = (0..=DENIALS_MAX).map(|_| session.step(at(1), say(ToHub::FetchBlobs(vec![blob("foreign")]))));
    let last = last.last().expect("some");
    assert_eq!(refused(&last), Some("PermissionDenied"));
    assert!(last.contains(&Effect::Forward(FromAgent::Disconnected { cluster: "eu-uid".into() })));
}

#[test]
fn rule_10_a_report_in_anothers_name_ends_the_stream_and_goes_nowhere() {
    let (mut session, _) = open(&[work("a", 1, &["x"])], hello());
    let forged = Report { cluster: "eu-uid-2".into(), ..report("a", 1) };
    let effects = session.step(at(1), say(ToHub::Report(Box::new(forged))));
    assert_eq!(refused(&effects), Some("PermissionDenied"));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Forward(FromAgent::Report { .. }))));
}

#[test]
fn a_proof_that_the_store_was_further_stops_everything() {
    let hello = Hello { resume: Some(config().stamp.token(11)), ..hello() };
    let (mut session, effects) = open(&[work("a", 1, &["x"])], hello);
    let went_back = FromAgent::StoreWentBack { cluster: "eu-uid".into(), revision: 11 };
    assert_eq!(effects[0], Effect::Forward(went_back));
    assert_eq!(refused(&effects), Some("StoreWentBack"));
    assert!(drain(&mut session).is_empty());
}

#[test]
fn a_replica_that_is_merely_behind_is_no_proof_that_the_store_went_back() {
    let hello = Hello { resume: Some(config().stamp.token(11)), ..hello() };
    let (mut session, _) = Session::open(config(), member(), at(0));
    session.step(at(0), slice(7, &[work("a", 1, &["x"])]));
    session.step(at(0), say(ToHub::Hello(Box::new(hello))));
    assert_eq!(session.step(at(0), Event::Admitted), [Effect::CatchUp]);
    assert!(drain(&mut session).is_empty(), "what is held here may be older than what the agent has");
    session.step(at(1), slice(12, &[work("a", 2, &["x"])]));
    let effects = session.step(at(1), Event::CaughtUp { revision: 12 });
    assert_eq!(
        (refused(&effects), effects.first()),
        (None, Some(&Effect::Forward(FromAgent::Connected { cluster: "eu-uid".into() })))
    );
    assert_eq!(works(&drain(&mut session)), [("a".into(), 2)]);
}

#[test]
fn a_resume_token_that_is_not_ours_or_not_ahead_proves_nothing() {
    let forged = ResumeToken { revision: 11, mac: vec![0; 32] };
    for resume in [forged, config().stamp.token(10)] {
        let (_, effects) = open(&[], Hello { resume: Some(resume), ..hello() });
        assert_eq!(refused(&effects), None);
    }
}

#[test]
fn resume_tokens_go_out_when_the_store_moved_and_only_then() {
    let (mut session, _) = open(&[], hello());
    drain(&mut session);
    let mut beat = |seconds| session_beats(&mut session, seconds);
    beat(30);
    beat(50);
    session.step(at(60), Event::Tick { revision: 20 });
    assert_eq!(drain(&mut session), [ToAgent::Resume(config().stamp.token(20))]);
    let mut beat = |seconds| session_beats(&mut session, seconds);
    beat(80);
    beat(100);
    beat(119);
    session.step(at(120), Event::Tick { revision: 20 });
    assert_eq!(drain(&mut session), []);
}

fn session_beats(session: &mut Session, seconds: u64) {
    session.step(at(seconds), say(ToHub::Beat));
    assert_eq!(drain(session), [ToAgent::BeatAck]);
}

#[test]
fn beats_are_answered_and_a_flood_of_them_is_not_passed_on() {
    let (mut session, _) = open(&[], hello());
    drain(&mut session);
    let forwarded = (0..100).flat_map(|_| session.step(at(5), say(ToHub::Beat))).count();
    assert_eq!(forwarded, 1);
    assert_eq!(drain(&mut session), [ToAgent::BeatAck]);
}

#[test]
fn a_flood_is_read_more_slowly_and_not_cut_off() {
    let (mut session, _) = open(&[], hello());
    let effects = (0..10_000).flat_map(|_| session.step(at(1), say(ToHub::Sketch(Sketch::default()))));
    let effects: Vec<Effect> = effects.collect();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::PauseUntil(until) if *until > 1000)));
    assert_eq!(refused(&effects), None);
}

#[test]
fn revocation_ends_an_open_stream_at_once() {
    let now = |change: fn(&mut Member)| {
        let mut member = member().as_ref().clone();
        change(&mut member);
        Arc::new(member)
    };
    let changes = [
        ("NotAccepted", now(|member| member.accepted = false)),
        ("Revoked", now(|member| member.key = "another".into())),
        ("IdentityFrozen", now(|member| member.frozen = Some("now".into()))),
    ];
    for (reason, changed) in changes {
        let (mut session, _) = open(&[work("a", 1, &["x"])], hello());
        let effects = session.step(at(1), Event::Member(Some(changed)));
        assert_eq!(refused(&effects), Some(reason));
        assert!(!session.has_due());
        assert_eq!(session.step(at(1), say(ToHub::FetchBlobs(vec![blob("x")]))), [], "nothing is heard any more");
    }
    let (mut session, _) = open(&[], hello());
    assert_eq!(refused(&session.step(at(1), Event::Member(None))), Some("Revoked"));
}

#[test]
fn who_may_not_act_is_refused_before_anything_is_heard() {
    let unaccepted = Arc::new(Member { accepted: false, ..member().as_ref().clone() });
    let (mut session, effects) = Session::open(config(), unaccepted, at(0));
    assert_eq!(refused(&effects), Some("NotAccepted"));
    assert_eq!(session.step(at(0), say(ToHub::Hello(Box::new(hello())))), []);
    let without_key = Arc::new(Member { key: String::new(), ..member().as_ref().clone() });
    let blank = Config { key_fingerprint: String::new(), ..config() };
    assert_eq!(refused(&Session::open(blank, without_key, at(0)).1), Some("Revoked"));
}

#[test]
fn the_key_before_a_renewal_holds_until_the_next_is_used() {
    let renewed = Arc::new(Member { key: "new".into(), previous_key: Some(KEY.into()), ..member().as_ref().clone() });
    let (mut session, effects) = Session::open(config(), renewed, at(0));
    assert_eq!(effects, []);
    let used = Arc::new(Member { key: "new".into(), previous_key: None, ..member().as_ref().clone() });
    assert_eq!(refused(&session.step(at(1), Event::Member(Some(used)))), Some("Revoked"));
}

#[test]
fn versions_that_do_not_meet_are_told_which_side_to_upgrade() {
    for (min, max, reason) in [(0, 0, "ProtocolTooOld"), (2, 9, "ProtocolTooNew"), (3, 1, "ProtocolTooNew")] {
        let (mut session, _) = Session::open(config(), member(), at(0));
        let hello = Hello { protocol_min: min, protocol_max: max, ..hello() };
        assert_eq!(refused(&session.step(at(0), say(ToHub::Hello(Box::new(hello))))), Some(reason));
    }
    let (_, effects) = open(&[], Hello { protocol_max: 9, ..hello() });
    assert_eq!(refused(&effects), None, "a newer agent that still speaks ours");
}

#[test]
fn an_identity_carried_to_another_cluster_is_refused() {
    let facts = Facts { system_uid: "another".into(), ..Facts::default() };
    let (mut session, _) = Session::open(config(), member(), at(0));
    let moved = Hello { facts: facts.clone(), ..hello() };
    assert_eq!(refused(&session.step(at(0), say(ToHub::Hello(Box::new(moved))))), Some("WrongCluster"));
    let (mut session, _) = open(&[], hello());
    assert_eq!(refused(&session.step(at(1), say(ToHub::Facts(facts)))), Some("WrongCluster"));
}

#[test]
fn nothing_but_a_hello_opens_and_only_once() {
    let (mut session, _) = Session::open(config(), member(), at(0));
    assert_eq!(refused(&session.step(at(0), say(ToHub::FetchBlobs(vec![blob("x")])))), Some("Invalid"));
    let (mut session, _) = open(&[], hello());
    assert_eq!(refused(&session.step(at(0), say(ToHub::Hello(Box::new(hello()))))), Some("Invalid"));
    let (mut session, _) = open(&[], hello());
    let garbage = Event::Garbage(Invalid::Missing("message"));
    assert_eq!(refused(&session.step(at(0), garbage)), Some("Invalid"));
}

#[test]
fn a_stream_that_says_nothing_is_ended() {
    let (mut session, _) = Session::open(config(), member(), at(0));
    let deadline = session.wake_at() / 1000;
    assert_eq!(session.step(at(deadline - 1), Event::Tick { revision: 1 }), []);
    assert_eq!(refused(&session.step(at(deadline), Event::Tick { revision: 1 })), Some("Silent"));
    let (mut session, _) = open(&[], hello());
    assert_eq!(refused(&session.step(at(300), Event::Tick { revision: 1 })), Some("Silent"));
}
