//! Nothing is lost on the way, and nothing that arrives can hurt.

use std::sync::Arc;

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use prost::Message;
use serde_json::json;

use super::{Identity, Invalid, JoinAnswer, JoinCall, RenewCall, limits, proto};
use crate::model::{
    Digest, GroupVersionKind, ObjectName, ObjectRef, Report, Resources, Sketch, Timestamp, Uid, Work,
    cluster::Facts,
    demand::Taint,
    placement::Patch,
    protocol::{Hello, LedgerLine, Refuse, ResumeToken, ToAgent, ToHub, Welcome},
    report::{ComponentReport, Health, ObjectReport, ObjectState, Refused, ReplicaCount, WorkloadReport},
    sketch::{NamespaceRules, NodeKind, SHAPES_MAX, Shape},
    work::{Manifest, Removal, RemovalReason},
};

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 äß/.:-]{0,12}"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9.-]{0,12}"
}

fn uid() -> impl Strategy<Value = Uid> {
    "[0-9a-f]{8}-[0-9a-f]{4}".prop_map(Uid)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn object_ref() -> impl Strategy<Value = ObjectRef> {
    (text(), name(), name(), text(), name()).prop_map(|(group, version, kind, namespace, name)| ObjectRef {
        gvk: GroupVersionKind { group, version, kind },
        name: ObjectName { namespace, name },
    })
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        any::<i64>().prop_map(|number| json!(number)),
        text().prop_map(|text| json!(text)),
        (name(), any::<bool>()).prop_map(|(name, value)| json!({name: [value, null]})),
    ]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let patch = (text(), value()).prop_map(|(pointer, value)| Patch { pointer, value });
    (name(), object_ref(), digest(), vec(patch, 0..3), digest())
        .prop_map(|(component, object, blob, patches, result)| Manifest { component, object, blob, patches, result })
}

fn removal() -> impl Strategy<Value = Removal> {
    use RemovalReason::{ApplicationDeleted, ClusterDrained, NotInRevision, PlacedElsewhere};
    let reason = prop::sample::select(vec![NotInRevision, PlacedElsewhere, ApplicationDeleted, ClusterDrained]);
    (object_ref(), option::of(uid()), name(), reason, name())
        .prop_map(|(object, uid, revision, reason, author)| Removal { object, uid, revision, reason, author })
}

fn work() -> impl Strategy<Value = Work> {
    let head = (text(), name(), uid(), uid(), any::<u64>(), name(), digest());
    let body = (vec(manifest(), 0..4), vec(removal(), 0..4), vec(name(), 0..3), text());
    (head, body).prop_map(|(head, (manifests, removals, features, trace))| {
        let (namespace, name, application_uid, cluster, generation, revision, application_blob) = head;
        let application = ObjectName { namespace, name };
        Work {
            application,
            application_uid,
            cluster,
            generation,
            revision,
            application_blob,
            manifests,
            removals,
            features,
            trace,
        }
    })
}

fn resources() -> impl Strategy<Value = Resources> {
    prop::collection::btree_map(name(), -limits::AMOUNT_MAX..=limits::AMOUNT_MAX, 0..3).prop_map(Resources)
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let taint = (text(), text(), text()).prop_map(|(key, value, effect)| Taint { key, value, effect });
    let labels = prop::collection::btree_map(name(), text(), 0..3);
    let kind = (labels, vec(taint, 0..2), any::<bool>());
    let kind = kind.prop_map(|(labels, taints, mixed)| NodeKind { labels, taints, mixed });
    let shape = (0..100u32, resources(), kind).prop_map(|(count, mut free, kind)| {
        free.0.retain(|_, amount| *amount != 0);
        Shape { count, free, kind }
    });
    let claims = prop::collection::btree_map(name(), vec(text(), 0..2), 0..2);
    let rules = (resources(), resources(), claims);
    let rules = rules.prop_map(|(quota, defaults, claims)| NamespaceRules { quota, defaults, claims });
    let rest = (vec(text(), 0..3), prop::collection::btree_map(name(), rules, 0..3));
    (any::<u64>(), 0..1000u32, vec(shape, 0..4), resources(), resources(), rest).prop_map(
        |(sequence, nodes, shapes, allocatable, free, (labels, namespaces))| Sketch {
            sequence,
            nodes,
            shapes,
            allocatable,
            free,
            labels,
            namespaces,
            fault: String::new(),
        },
    )
}

fn facts() -> impl Strategy<Value = Facts> {
    (text(), text(), text(), text(), text()).prop_map(
        |(kubernetes_version, agent_version, region, zone, system_uid)| Facts {
            kubernetes_version,
            agent_version,
            region,
            zone,
            system_uid,
        },
    )
}

fn object_report() -> impl Strategy<Value = ObjectReport> {
    use Health::{Healthy, Progressing, Unhealthy, Unknown};
    use ObjectState::{Applied, Paused, Pending, Refused, Removing};
    let state = prop::sample::select(vec![Pending, Applied, Refused, Paused, Removing]);
    let health = prop::sample::select(vec![Healthy, Progressing, Unhealthy, Unknown]);
    (object_ref(), option::of(uid()), state, health, text(), text()).prop_map(
        |(object, uid, state, health, reason, message)| ObjectReport { object, uid, state, health, reason, message },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let replicas =
        any::<[u32; 4]>().prop_map(|[desired, ready, updated, bound]| ReplicaCount { desired, ready, updated, bound });
    let workload = (object_ref(), replicas.clone(), resources(), any::<bool>())
        .prop_map(|(object, replicas, held, scaled)| WorkloadReport { object, replicas, held, scaled });
    let component = (name(), any::<bool>(), text(), option::of(replicas), resources(), vec(workload, 0..3)).prop_map(
        |(name, healthy, message, replicas, held, workloads)| ComponentReport {
            workloads,
            name,
            healthy,
            message,
            replicas,
            held,
            scaled: healthy,
        },
    );
    let refused = (text(), text()).prop_map(|(reason, message)| Refused { reason, message });
    let head = (uid(), uid(), any::<u64>(), name(), any::<bool>(), option::of(refused));
    let body = (vec(component, 0..3), vec(object_report(), 0..3), vec(object_ref(), 0..3), text());
    (head, body).prop_map(|(head, (components, objects, removed, trace))| {
        let (application, cluster, generation, revision, applied, refused) = head;
        Report { application, cluster, generation, revision, applied, refused, components, objects, removed, trace }
    })
}

fn resume() -> impl Strategy<Value = ResumeToken> {
    (any::<u64>(), any::<[u8; 32]>()).prop_map(|(revision, mac)| ResumeToken { revision, mac: mac.to_vec() })
}

fn hello() -> impl Strategy<Value = Hello> {
    let line = (uid(), any::<u64>(), digest()).prop_map(|(application, generation, digest)| LedgerLine {
        application,
        generation,
        digest,
    });
    let head = (any::<u32>(), any::<u32>(), vec(name(), 0..3), any::<u64>(), text(), option::of(uid()));
    let body = (option::of(resume()), vec(line, 0..4), facts(), option::of(sketch()));
    (head, body).prop_map(|(head, (resume, ledger, facts, sketch))| {
        let (protocol_min, protocol_max, features, session_epoch, instance, incarnation) = head;
        Hello {
            protocol_min,
            protocol_max,
            features,
            session_epoch,
            instance,
            incarnation,
            resume,
            ledger,
            facts,
            sketch,
        }
    })
}

fn to_hub() -> impl Strategy<Value = ToHub> {
    prop_oneof![
        hello().prop_map(|hello| ToHub::Hello(Box::new(hello))),
        vec(digest(), 0..4).prop_map(ToHub::FetchBlobs),
        report().prop_map(|report| ToHub::Report(Box::new(report))),
        sketch().prop_map(ToHub::Sketch),
        facts().prop_map(ToHub::Facts),
        Just(ToHub::Beat),
    ]
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    let welcome = (any::<u32>(), vec(name(), 0..3), uid(), uid(), uid(), name(), 0..1i64 << 40, any::<u64>()).prop_map(
        |(protocol, features, hub, incarnation, cluster, cluster_name, millis, beat_interval_ms)| Welcome {
            urls: vec!["https://one:1".into(), "https://two:2".into()],
            protocol,
            features,
            hub,
            incarnation,
            cluster,
            cluster_name,
            hub_time: Timestamp::from_millis(millis),
            beat_interval_ms,
        },
    );
    let refuse = (text(), text(), any::<bool>()).prop_map(|(reason, message, retry)| Refuse { reason, message, retry });
    let blob = (digest(), 0..1000u64, vec(any::<u8>(), 0..64)).prop_map(|(digest, offset, bytes)| ToAgent::Blob {
        digest,
        offset,
        total: offset + bytes.len() as u64 + 1,
        bytes: bytes.into(),
    });
    prop_oneof![
        welcome.prop_map(ToAgent::Welcome),
        refuse.prop_map(ToAgent::Refuse),
        work().prop_map(|work| ToAgent::Work(Arc::new(work))),
        blob,
        (uid(), any::<u64>()).prop_map(|(application, generation)| ToAgent::Release { application, generation }),
        resume().prop_map(ToAgent::Resume),
        Just(ToAgent::BeatAck),
    ]
}

fn over_the_wire<M: Message + Default>(message: M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).expect("our own bytes")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_agents_send_arrives_whole(message in to_hub()) {
        let arrived = ToHub::try_from(over_the_wire(proto::ToHub::from(&message)));
        prop_assert_eq!(arrived, Ok(message));
    }

    #[test]
    fn what_the_hub_sends_arrives_whole(message in to_agent()) {
        let arrived = ToAgent::try_from(over_the_wire(proto::ToAgent::from(&message)));
        prop_assert_eq!(arrived, Ok(message));
    }

    #[test]
    fn random_bytes_are_a_message_or_an_error_and_never_a_panic(bytes in vec(any::<u8>(), 0..512)) {
        if let Ok(message) = proto::ToHub::decode(&bytes[..]) {
            let _either = ToHub::try_from(message);
        }
        if let Ok(message) = proto::ToAgent::decode(&bytes[..]) {
            let _either = ToAgent::try_from(message);
        }
        if let Ok(message) = proto::JoinRequest::decode(&bytes[..]) {
            let _either = JoinCall::try_from(message);
        }
        if let Ok(message) = proto::JoinReply::decode(&bytes[..]) {
            let _either = JoinAnswer::try_from(message);
        }
        if let Ok(message) = proto::RenewRequest::decode(&bytes[..]) {
            let _either = RenewCall::try_from(message);
        }
    }

    /// Nearer to the mark than random bytes: one byte of a good message is another.
    #[test]
    fn a_bent_message_is_a_message_or_an_error_and_never_a_panic(
        hub in to_hub(), agent in to_agent(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let bend = |mut bytes: Vec<u8>| {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        };
        if let Ok(message) = proto::ToHub::decode(&bend(proto::ToHub::from(&hub).encode_to_vec())[..]) {
            let _either = ToHub::try_from(message);
        }
        if let Ok(message) = proto::ToAgent::decode(&bend(proto::ToAgent::from(&agent).encode_to_vec())[..]) {
            let _either = ToAgent::try_from(message);
        }
    }

    /// A field that an older side does not know, or drops, must not go unseen.
    #[test]
    fn a_work_that_lost_anything_is_refused(work in work()) {
        let sent = proto::Work::from(&work);
        let mut lost = vec![
            proto::Work { generation: sent.generation.wrapping_add(1), ..sent.clone() },
            proto::Work { trace: format!("{}x", sent.trace), ..sent.clone() },
        ];
        if !sent.removals.is_empty() {
            lost.push(proto::Work { removals: vec![], ..sent.clone() });
        }
        if !sent.manifests.is_empty() {
            lost.push(proto::Work { manifests: vec![], ..sent.clone() });
        }
        for lost in lost {
            let refused = matches!(Work::try_from(lost), Err(Invalid::DigestMismatch { .. }));
            prop_assert!(refused);
        }
    }
}

fn beat(message: proto::to_hub::Message) -> Result<ToHub, Invalid> {
    ToHub::try_from(proto::ToHub { message: Some(message) })
}

#[test]
fn lists_and_figures_beyond_their_limits_are_named() {
    use proto::to_hub::Message;
    let digests = vec![Bytes::from_static(&[0; 32]); limits::FETCH_MAX + 1];
    let error = beat(Message::FetchBlobs(proto::FetchBlobs { digests })).expect_err("too many");
    assert_eq!(error.to_string(), "digests holds 10001, the limit is 10000");

    let region = "x".repeat(limits::WORD_BYTES_MAX + 1);
    let wordy = proto::Facts { region, ..proto::Facts::default() };
    assert!(matches!(beat(Message::Facts(wordy)), Err(Invalid::TooMany { field: "region", .. })));
}

/// A stream that ended with it would leave a silent cluster and no word why.
#[test]
fn a_sketch_beyond_the_limits_comes_as_one_that_nobody_believes() {
    use proto::to_hub::Message;
    let plain = proto::Sketch::default;
    let columns = |shapes: usize| proto::Sketch {
        kinds: vec![proto::NodeKind::default()],
        resources: vec!["cpu".into()],
        counts: vec![1; shapes],
        kind_of: vec![0; shapes],
        amounts: vec![1; shapes],
        ..plain()
    };
    for (sketch, expected) in [
        (columns(SHAPES_MAX), ""),
        (columns(1_000_000), "shapes holds 1000000"),
        (proto::Sketch { nodes: limits::NODES_MAX + 1, ..plain() }, "nodes 100001 lies"),
        (proto::Sketch { counts: vec![u32::MAX; 2], ..columns(2) }, "nodes of all shapes"),
        (proto::Sketch { free: [("cpu".to_owned(), i64::MIN)].into(), ..plain() }, "amount -9223372036854775808 lies"),
        (proto::Sketch { amounts: vec![i64::MAX], ..columns(1) }, "amount 9223372036854775807 lies"),
        (proto::Sketch { amounts: vec![1; 3], ..columns(2) }, "shapes is not a kind and all amounts for each"),
        (proto::Sketch { kind_of: vec![1], ..columns(1) }, "shapes is not a known kind"),
    ] {
        let Ok(ToHub::Sketch(told)) = beat(Message::Sketch(sketch)) else { panic!("a sketch: {expected}") };
        assert!(told.fault.starts_with(expected), "{:?} is not {expected:?}", told.fault);
        assert_eq!(told.fault.is_empty(), expected.is_empty());
        assert!(told.fault.is_empty() || told.shapes.is_empty());
    }
}

#[test]
fn an_unknown_state_is_refused_and_not_read_as_another() {
    let object =
        || Some(proto::ObjectRef { version: "v1".into(), kind: "Pod".into(), name: "a".into(), ..Default::default() });
    let report = |state, health| {
        let object = proto::ObjectReport { object: object(), state, health, ..Default::default() };
        beat(proto::to_hub::Message::Report(proto::Report {
            application: "a".into(),
            cluster: "c".into(),
            objects: vec![object],
            ..Default::default()
        }))
    };
    assert!(report(2, 1).is_ok());
    for (state, health) in [(0, 1), (99, 1), (2, 0), (2, 99), (-1, 1)] {
        assert!(matches!(report(state, health), Err(Invalid::Malformed { .. })), "{state} {health}");
    }
}

/// Rule 1: an order to delete has a revision, a reason and an author, or it is none.
#[test]
fn an_incomplete_removal_is_no_removal() {
    let whole = proto::Removal {
        object: Some(proto::ObjectRef {
            version: "v1".into(),
            kind: "Pod".into(),
            name: "a".into(),
            ..Default::default()
        }),
        uid: String::new(),
        revision: "a-v1".into(),
        reason: proto::RemovalReason::NotInRevision.into(),
        author: "ann".into(),
    };
    assert!(Removal::try_from(whole.clone()).is_ok());
    let halves = [
        proto::Removal { object: None, ..whole.clone() },
        proto::Removal { revision: String::new(), ..whole.clone() },
        proto::Removal { reason: 0, ..whole.clone() },
        proto::Removal { reason: 77, ..whole.clone() },
        proto::Removal { author: String::new(), ..whole },
    ];
    for half in halves {
        assert!(Removal::try_from(half.clone()).is_err(), "{half:?}");
    }
}

#[test]
fn a_chunk_lies_inside_its_blob() {
    let chunk = |offset, total, length| {
        let bytes = Bytes::from(vec![0; length]);
        let chunk = proto::BlobChunk { digest: Bytes::from_static(&[0; 32]), offset, total, bytes };
        ToAgent::try_from(proto::ToAgent { message: Some(proto::to_agent::Message::Blob(chunk)) })
    };
    assert!(chunk(0, 4, 4).is_ok() && chunk(4, 4, 0).is_ok());
    for (offset, total, length) in [(1, 4, 4), (5, 4, 0), (u64::MAX, 4, 1), (0, limits::BLOB_BYTES_MAX + 1, 1)] {
        assert!(matches!(chunk(offset, total, length), Err(Invalid::OutOfRange { .. })), "{offset} {total} {length}");
    }
}

#[test]
fn joining_arrives_whole() {
    let at = Timestamp::from_millis(1_700_000_000_123);
    let join = JoinCall {
        token: "t".into(),
        secret: Bytes::from_static(b"secret"),
        csr: Bytes::from_static(b"csr"),
        cluster: "eu".into(),
        system_uid: "system".into(),
        agent_version: "0.1.0".into(),
        agent_time: at,
    };
    assert_eq!(JoinCall::try_from(over_the_wire(proto::JoinRequest::from(&join))), Ok(join));
    let identity = Identity {
        certificate: Bytes::from_static(b"certificate"),
        hub: "hub".into(),
        incarnation: "one".into(),
        cluster: "eu-uid".into(),
        cluster_name: "eu".into(),
        serving_authorities: vec![Bytes::from_static(b"ca")],
        not_before: at,
        not_after: at,
        urls: vec!["https://one:1".into(), "https://two:2".into()],
    };
    let pending = JoinAnswer::Pending { cluster: "eu".into(), message: "waits".into(), retry_after_ms: 5 };
    for answer in [JoinAnswer::Identity(identity), pending] {
        assert_eq!(JoinAnswer::try_from(over_the_wire(answer.reply(at))), Ok(answer));
    }
    let renew = RenewCall {
        certificate: Bytes::from_static(b"certificate"),
        csr: Bytes::from_static(b"csr"),
        signature: Bytes::from_static(b"signature"),
        agent_time: at,
    };
    assert_eq!(RenewCall::try_from(over_the_wire(proto::RenewRequest::from(&renew))), Ok(renew));
}
