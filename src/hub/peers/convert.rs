//! Consensus messages between our own protobuf and the values of crate `raft`, field by field.
//!
//! Owns: what a message may look like to be handed to consensus. Must never: let the protobuf of crate `raft` decode bytes
//! from outside (RUSTSEC-2024-0437), or let through what consensus takes from itself only: it would believe a
//! stranger's tick, or stop the process on a message that no replica sends.

use raft::eraftpb::{self, EntryType, MessageType};

use super::{limits, proto};
use crate::{
    store::{
        mvcc::StateHash,
        raft::{Body, Message, ReplicaId},
    },
    wire::Invalid,
};

/// The kinds that go from replica to replica. Those that are missing never leave one.
const KINDS: [(MessageType, proto::Kind); 13] = [
    (MessageType::MsgAppend, proto::Kind::Append),
    (MessageType::MsgAppendResponse, proto::Kind::AppendResponse),
    (MessageType::MsgRequestVote, proto::Kind::RequestVote),
    (MessageType::MsgRequestVoteResponse, proto::Kind::RequestVoteResponse),
    (MessageType::MsgSnapshot, proto::Kind::Snapshot),
    (MessageType::MsgHeartbeat, proto::Kind::Heartbeat),
    (MessageType::MsgHeartbeatResponse, proto::Kind::HeartbeatResponse),
    (MessageType::MsgTransferLeader, proto::Kind::TransferLeader),
    (MessageType::MsgTimeoutNow, proto::Kind::TimeoutNow),
    (MessageType::MsgReadIndex, proto::Kind::ReadIndex),
    (MessageType::MsgReadIndexResp, proto::Kind::ReadIndexResponse),
    (MessageType::MsgRequestPreVote, proto::Kind::RequestPreVote),
    (MessageType::MsgRequestPreVoteResponse, proto::Kind::RequestPreVoteResponse),
];

/// `None` for what must not leave this replica.
pub fn encode(message: Message) -> Option<proto::Message> {
    use proto::message::Body as Wire;
    let body = match message.body {
        Body::Raft(raft) => Wire::Raft(encode_raft(*raft)?),
        Body::Hash { index, hash } => Wire::Hash(proto::Hash { index, hash: encode_hash(hash) }),
        Body::SnapshotFailed => Wire::SnapshotFailed(proto::SnapshotFailed {}),
    };
    Some(proto::Message { from: message.from, to: message.to, body: Some(body) })
}

/// A message that the replica `from`, as TLS knows it, sent to the replica `to`, which is this one.
pub fn decode(message: proto::Message, from: ReplicaId, to: ReplicaId) -> Result<Message, Invalid> {
    use proto::message::Body as Wire;
    if message.from != from {
        return Err(Invalid::Malformed { field: "from", expected: "the replica that the connection is of" });
    }
    if message.to != to {
        return Err(Invalid::Malformed { field: "to", expected: "this replica" });
    }
    let body = match message.body.ok_or(Invalid::Missing("body"))? {
        Wire::Raft(raft) => Body::Raft(Box::new(decode_raft(raft, from, to)?)),
        Wire::Hash(hash) => Body::Hash { index: hash.index, hash: decode_hash(&hash.hash)? },
        Wire::SnapshotFailed(proto::SnapshotFailed {}) => Body::SnapshotFailed,
    };
    Ok(Message { from, to, body })
}

pub fn encode_hash(hash: StateHash) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&hash.0.to_be_bytes())
}

pub fn decode_hash(bytes: &[u8]) -> Result<StateHash, Invalid> {
    let bytes = bytes.try_into().map_err(|_| Invalid::Malformed { field: "hash", expected: "16 bytes" })?;
    Ok(StateHash(u128::from_be_bytes(bytes)))
}

fn encode_raft(mut raft: eraftpb::Message) -> Option<proto::Raft> {
    let kind = KINDS.iter().find(|(kind, _)| *kind == raft.msg_type).map(|(_, wire)| *wire)?;
    let snapshot = raft.has_snapshot().then(|| encode_snapshot(raft.take_snapshot()));
    Some(proto::Raft {
        kind: kind.into(),
        term: raft.term,
        log_term: raft.log_term,
        index: raft.index,
        entries: raft.take_entries().into_iter().map(encode_entry).collect(),
        commit: raft.commit,
        commit_term: raft.commit_term,
        snapshot,
        request_snapshot: raft.request_snapshot,
        reject: raft.reject,
        reject_hint: raft.reject_hint,
        context: std::mem::take(&mut raft.context),
        priority: raft.priority,
        old_priority: raft.deprecated_priority,
    })
}

fn decode_raft(wire: proto::Raft, from: ReplicaId, to: ReplicaId) -> Result<eraftpb::Message, Invalid> {
    let kind = KINDS.iter().find(|(_, known)| i32::from(*known) == wire.kind).map(|(kind, _)| *kind);
    let kind = kind.ok_or(Invalid::Malformed { field: "kind", expected: "one that replicas send each other" })?;
    bounded("context", limits::PEER_CONTEXT_BYTES_MAX, wire.context.len())?;
    check_entries(kind, &wire)?;
    let snapshot = match (kind, wire.snapshot) {
        (MessageType::MsgSnapshot, Some(snapshot)) => Some(decode_snapshot(snapshot)?),
        (MessageType::MsgSnapshot, None) => return Err(Invalid::Missing("snapshot")),
        (_, None) => None,
        (_, Some(_)) => return Err(Invalid::Malformed { field: "snapshot", expected: "absent from such a message" }),
    };
    Ok(eraftpb::Message {
        msg_type: kind,
        from,
        to,
        term: wire.term,
        log_term: wire.log_term,
        index: wire.index,
        entries: wire.entries.into_iter().map(decode_entry).collect::<Result<Vec<_>, _>>()?.into(),
        commit: wire.commit,
        commit_term: wire.commit_term,
        snapshot: snapshot.into(),
        request_snapshot: wire.request_snapshot,
        reject: wire.reject,
        reject_hint: wire.reject_hint,
        context: wire.context,
        priority: wire.priority,
        deprecated_priority: wire.old_priority,
        ..Default::default()
    })
}

/// Crate `raft` reads the first entry of a read index without looking, and takes it for granted that the entries of an
/// append follow each other.
fn check_entries(kind: MessageType, wire: &proto::Raft) -> Result<(), Invalid> {
    let expected = |expected| Err(Invalid::Malformed { field: "entries", expected });
    match kind {
        MessageType::MsgAppend => {
            bounded("entries", limits::PEER_ENTRIES_MAX, wire.entries.len())?;
            let mut before = (wire.index, wire.log_term);
            for entry in &wire.entries {
                if before.0.checked_add(1) != Some(entry.index) || entry.term < before.1 || entry.term > wire.term {
                    return expected("in the order of their indexes and terms");
                }
                before = (entry.index, entry.term);
            }
            Ok(())
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if wire.entries.len() == 1 => Ok(()),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => expected("one"),
        _ if wire.entries.is_empty() => Ok(()),
        _ => expected("absent from such a message"),
    }
}

fn encode_entry(entry: eraftpb::Entry) -> proto::Entry {
    let kind = match entry.entry_type {
        EntryType::EntryNormal => proto::EntryKind::Normal,
        EntryType::EntryConfChange => proto::EntryKind::Change,
        EntryType::EntryConfChangeV2 => proto::EntryKind::ChangeV2,
    };
    proto::Entry { kind: kind.into(), term: entry.term, index: entry.index, data: entry.data, context: entry.context }
}

fn decode_entry(wire: proto::Entry) -> Result<eraftpb::Entry, Invalid> {
    bounded("entry context", limits::PEER_CONTEXT_BYTES_MAX, wire.context.len())?;
    bounded("entry", limits::COMMAND_BYTES_MAX, wire.data.len())?;
    let kind = match proto::EntryKind::try_from(wire.kind) {
        Ok(proto::EntryKind::Normal) => EntryType::EntryNormal,
        Ok(proto::EntryKind::Change) => EntryType::EntryConfChange,
        Ok(proto::EntryKind::ChangeV2) => EntryType::EntryConfChangeV2,
        Ok(proto::EntryKind::Unspecified) | Err(_) => {
            return Err(Invalid::Malformed { field: "entry kind", expected: "a known one" });
        }
    };
    let proto::Entry { term, index, data, context, .. } = wire;
    Ok(eraftpb::Entry { entry_type: kind, term, index, data, context, ..Default::default() })
}

fn encode_snapshot(mut snapshot: eraftpb::Snapshot) -> proto::Snapshot {
    let mut metadata = snapshot.take_metadata();
    let members = metadata.take_conf_state();
    proto::Snapshot {
        index: metadata.index,
        term: metadata.term,
        voters: members.voters,
        learners: members.learners,
        voters_outgoing: members.voters_outgoing,
        learners_next: members.learners_next,
        auto_leave: members.auto_leave,
        data: snapshot.data,
    }
}

fn decode_snapshot(wire: proto::Snapshot) -> Result<eraftpb::Snapshot, Invalid> {
    bounded("snapshot", limits::PEER_CONTEXT_BYTES_MAX, wire.data.len())?;
    if wire.index == 0 || wire.term == 0 {
        return Err(Invalid::Missing("snapshot index"));
    }
    let members = [&wire.voters, &wire.learners, &wire.voters_outgoing, &wire.learners_next];
    members.iter().try_for_each(|ids| bounded("members", limits::MEMBERS_MAX, ids.len()))?;
    let is_voter = |id: &u64| wire.voters.contains(id);
    if wire.voters.is_empty() || members.iter().any(|ids| ids.contains(&0)) || wire.learners.iter().any(is_voter) {
        return Err(Invalid::Malformed { field: "members", expected: "a group of replicas" });
    }
    let proto::Snapshot { voters, learners, voters_outgoing, learners_next, auto_leave, .. } = wire;
    let state =
        eraftpb::ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..Default::default() };
    let metadata = eraftpb::SnapshotMetadata {
        conf_state: Some(state).into(),
        index: wire.index,
        term: wire.term,
        ..Default::default()
    };
    Ok(eraftpb::Snapshot { data: wire.data, metadata: Some(metadata).into(), ..Default::default() })
}

pub fn bounded(field: &'static str, limit: usize, found: usize) -> Result<(), Invalid> {
    if found > limit { Err(Invalid::TooMany { field, found, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn bytes() -> impl Strategy<Value = bytes::Bytes> {
        prop::collection::vec(any::<u8>(), 0..8).prop_map(Into::into)
    }

    fn kind() -> impl Strategy<Value = MessageType> {
        (0..KINDS.len()).prop_map(|index| KINDS[index].0)
    }

    fn snapshot() -> impl Strategy<Value = eraftpb::Snapshot> {
        let ids = |range: std::ops::Range<u64>| prop::collection::vec(range, 1..4);
        (bytes(), 1..u64::MAX, 1..u64::MAX, ids(1..9), ids(10..19), ids(20..29), any::<bool>()).prop_map(
            |(data, index, term, voters, learners, next, auto_leave)| {
                let mut state = eraftpb::ConfState::default();
                (state.voters, state.learners, state.auto_leave) = (voters.clone(), learners, auto_leave);
                (state.voters_outgoing, state.learners_next) = (voters, next);
                let mut metadata = eraftpb::SnapshotMetadata::default();
                (metadata.index, metadata.term) = (index, term);
                metadata.set_conf_state(state);
                eraftpb::Snapshot { data, metadata: Some(metadata).into(), ..Default::default() }
            },
        )
    }

    prop_compose! {
        /// Every field set, as far as the kind has it.
        fn raft()(
            kind in kind(), term in any::<u64>(), log_term in any::<u64>(), index in any::<u32>(),
            numbers in any::<[u64; 4]>(), hint in any::<(bool, i64, u64)>(), context in bytes(),
            snapshot in snapshot(), entries in prop::collection::vec((bytes(), bytes(), 0..3usize), 0..4),
        ) -> eraftpb::Message {
            let mut raft = eraftpb::Message::default();
            raft.set_msg_type(kind);
            (raft.from, raft.to) = (1, 2);
            (raft.term, raft.log_term, raft.index) = (term, log_term.min(term), index.into());
            [raft.commit, raft.commit_term, raft.request_snapshot, raft.reject_hint] = numbers;
            (raft.reject, raft.priority, raft.deprecated_priority) = hint;
            raft.context = context;
            let count = match kind {
                MessageType::MsgAppend => entries.len(),
                MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => entries.len().min(1),
                _ => 0,
            };
            let numbered = entries.into_iter().take(count).zip(raft.index + 1..);
            let entries: Vec<_> = numbered.map(|((data, context, kind), index)| {
                let mut entry = eraftpb::Entry::default();
                let kinds = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
                entry.set_entry_type(kinds[kind]);
                (entry.term, entry.index, entry.data, entry.context) = (raft.term, index, data, context);
                entry
            }).collect();
            raft.set_entries(entries.into());
            if kind == MessageType::MsgSnapshot {
                raft.set_snapshot(snapshot);
            }
            raft
        }
    }

    fn message() -> impl Strategy<Value = Message> {
        let body = prop_oneof![
            8 => raft().prop_map(|raft| Body::Raft(Box::new(raft))),
            1 => any::<(u64, u128)>().prop_map(|(index, hash)| Body::Hash { index, hash: StateHash(hash) }),
            1 => Just(Body::SnapshotFailed),
        ];
        body.prop_map(|body| Message { from: 1, to: 2, body })
    }

    fn needs_one_entry(message: &Message) -> bool {
        let Body::Raft(raft) = &message.body else { return false };
        let reads = [MessageType::MsgReadIndex, MessageType::MsgReadIndexResp];
        reads.contains(&raft.msg_type) && raft.entries.is_empty()
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire(message in message()) {
            let bytes = encode(message.clone()).expect("a kind that is sent").encode_to_vec();
            let decoded = decode(proto::Message::decode(&bytes[..]).expect("protobuf"), 1, 2);
            if needs_one_entry(&message) {
                prop_assert!(decoded.is_err());
            } else {
                prop_assert_eq!(decoded, Ok(message));
            }
        }

        #[test]
        fn garbage_and_cut_messages_are_errors_at_most(
            message in message(), cut in any::<prop::sample::Index>(), flip in any::<(prop::sample::Index, u8)>(),
        ) {
            let mut bytes = encode(message).expect("a kind that is sent").encode_to_vec();
            let at = flip.0.index(bytes.len());
            bytes[at] ^= flip.1;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(wire) = proto::Message::decode(&bytes[..])
                && let Ok(decoded) = decode(wire, 1, 2)
            {
                prop_assert!(encode(decoded).is_some());
            }
        }
    }

    fn append(entries: &[(u64, u64)]) -> proto::Message {
        let entry = |&(index, term): &(u64, u64)| proto::Entry {
            kind: proto::EntryKind::Normal.into(),
            index,
            term,
            ..proto::Entry::default()
        };
        let kind = proto::Kind::Append.into();
        let entries = entries.iter().map(entry).collect();
        let raft = proto::Raft { kind, term: 5, log_term: 3, index: 7, entries, ..proto::Raft::default() };
        proto::Message { from: 1, to: 2, body: Some(proto::message::Body::Raft(raft)) }
    }

    #[test]
    fn what_only_the_replica_itself_may_say_is_not_taken_from_another() {
        use MessageType::*;
        for local in [MsgHup, MsgBeat, MsgPropose, MsgUnreachable, MsgSnapStatus, MsgCheckQuorum] {
            let mut raft = eraftpb::Message::default();
            raft.set_msg_type(local);
            assert_eq!(encode(Message { from: 1, to: 2, body: Body::Raft(Box::new(raft)) }), None, "{local:?}");
        }
        for unknown in [0, 14, -1, i32::MAX] {
            let mut message = append(&[]);
            let Some(proto::message::Body::Raft(raft)) = &mut message.body else { unreachable!() };
            raft.kind = unknown;
            assert!(decode(message, 1, 2).is_err(), "{unknown}");
        }
    }

    #[test]
    fn sender_and_recipient_are_those_of_the_connection() {
        assert!(decode(append(&[(8, 3)]), 1, 2).is_ok());
        assert!(decode(append(&[(8, 3)]), 3, 2).is_err());
        assert!(decode(append(&[(8, 3)]), 1, 3).is_err());
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        for entries in [&[(9, 3)][..], &[(7, 3)], &[(8, 3), (10, 3)], &[(8, 4), (9, 3)], &[(8, 2)], &[(8, 6)]] {
            assert!(decode(append(entries), 1, 2).is_err(), "{entries:?}");
        }
        assert!(decode(append(&[(8, 3), (9, 5)]), 1, 2).is_ok());
    }

    #[test]
    fn a_snapshot_of_no_group_is_refused() {
        let snapshot = |voters: &[u64], learners: &[u64], index| proto::Snapshot {
            voters: voters.into(),
            learners: learners.into(),
            index,
            term: 1,
            ..proto::Snapshot::default()
        };
        assert!(decode_snapshot(snapshot(&[1, 2], &[3], 9)).is_ok());
        let many: Vec<u64> = (1..=limits::MEMBERS_MAX as u64 + 1).collect();
        for (voters, learners, index) in
            [(&[][..], &[3][..], 9), (&[1, 0], &[], 9), (&[1], &[1], 9), (&[1], &[], 0), (&many, &[], 9)]
        {
            assert!(decode_snapshot(snapshot(voters, learners, index)).is_err(), "{voters:?} {learners:?} {index}");
        }
    }
}
