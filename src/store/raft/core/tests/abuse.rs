//! Peers and clients that say anything: the replica answers, ignores it, or stops with a reason, and never panics.

use proptest::prelude::*;
use raft::eraftpb::{Entry as RaftEntry, EntryType, Message as RaftMessage, MessageType, Snapshot};

use super::*;

/// Numbers near those that mean something, and some that mean nothing.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..12u64, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => any::<u64>()]
}

fn kind() -> impl Strategy<Value = MessageType> {
    use MessageType::*;
    prop::sample::select(vec![
        MsgHup,
        MsgBeat,
        MsgPropose,
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgSnapshot,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ])
}

fn data() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        2 => Just(put("k", "v")),
        1 => Just(Bytes::new()),
        1 => Just(Bytes::from(Change::Add(9).encode())),
        1 => Just(Bytes::from(Change::Remove(1).encode())),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
    ]
}

fn entry() -> impl Strategy<Value = RaftEntry> {
    (number(), number(), data(), any::<bool>()).prop_map(|(index, term, data, change)| {
        let entry_type = if change { EntryType::EntryConfChangeV2 } else { EntryType::EntryNormal };
        RaftEntry { index, term, context: data.clone(), data, entry_type, ..Default::default() }
    })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    (number(), number(), prop::collection::vec(0..5u64, 0..4), data()).prop_map(|(index, term, voters, data)| {
        let mut snapshot = Snapshot { data, ..Default::default() };
        let id =
            SnapshotId { incarnation: Uid::from("incarnation"), index, term, revision: 0, hash: StateHash::default() };
        if index.is_multiple_of(2) {
            snapshot.data = id.encode();
        }
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.mut_conf_state().voters = voters;
        snapshot
    })
}

fn message() -> impl Strategy<Value = RaftMessage> {
    let numbers = prop::array::uniform7(number());
    let rest = (any::<bool>(), prop::collection::vec(entry(), 0..4), any::<bool>(), snapshot(), data());
    (kind(), numbers, rest).prop_map(|(msg_type, numbers, (reject, mut entries, follow, snapshot, context))| {
        let [term, log_term, index, commit, commit_term, reject_hint, request_snapshot] = numbers;
        if follow {
            (1..).zip(&mut entries).for_each(|(n, entry): (u64, _)| entry.index = index.wrapping_add(n));
        }
        let mut message = RaftMessage {
            msg_type,
            from: 2,
            to: 1,
            term,
            log_term,
            index,
            commit,
            commit_term,
            reject,
            reject_hint,
            request_snapshot,
            context,
            ..Default::default()
        };
        message.entries = entries.into();
        message.set_snapshot(snapshot);
        message
    })
}

fn replica(lead: bool) -> Group {
    let mut group = Group::of(&[1, 2, 3]);
    if lead {
        group.run(100);
        group.cores.get_mut(&1).expect("replica 1").raw.campaign().expect("it may");
    }
    group.run(300);
    group.commit(1, "k", "v");
    group.silent.insert(2);
    group
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CASES").map_or(200, |n| n.parse().unwrap()), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_of_a_peer_makes_a_replica_panic(lead in any::<bool>(), messages in prop::collection::vec(message(), 1..12)) {
        let mut group = replica(lead);
        for message in messages {
            let message = Message { from: 2, to: 1, body: Body::Raft(Box::new(message)) };
            let effects = group.cores.get_mut(&1).expect("replica 1").step(group.now_ms, vec![Event::Message(message)]);
            for effect in effects {
                match effect {
                    Effect::Write(write) => drop(group.cores.get_mut(&1).expect("replica 1").step(group.now_ms, vec![Event::Persisted { number: write.number }])),
                    Effect::Fetch { snapshot, .. } => drop(group.cores.get_mut(&1).expect("replica 1").step(group.now_ms, vec![Event::Fetched { snapshot, rows: vec![] }])),
                    _ => {}
                }
            }
            group.now_ms += 40;
            group.cores.get_mut(&1).expect("replica 1").step(group.now_ms, vec![Event::Tick]);
        }
    }

    #[test]
    fn no_command_of_a_client_makes_a_replica_panic(commands in prop::collection::vec(prop_oneof![data(), odd_command()], 1..20)) {
        let mut group = Group::of(&[1, 2, 3]);
        group.run(500);
        for (id, command) in (1..).zip(commands) {
            let leader = group.leader();
            group.tell(leader, Event::Propose { id, command });
            prop_assert!(group.answers.contains_key(&id));
        }
        group.run(1500);
        prop_assert!(group.stopped.is_empty(), "{:?}", group.stopped);
        let hashes: BTreeSet<_> = group.cores.values().map(|core| core.status().hash).collect();
        prop_assert_eq!(hashes.len(), 1);
    }
}

/// Valid, but what nobody would send: breaking each limit, comparing with the future, compacting what is not there.
fn odd_command() -> impl Strategy<Value = Bytes> {
    let key = prop_oneof![Just(String::new()), Just("k".to_owned()), Just("x".repeat(2000)), "[a-c]{1,2}"];
    let operation = (key, any::<bool>(), 0..40usize).prop_map(|(key, delete, length)| match delete {
        true => Operation::Delete(Key::new(key)),
        false => Operation::Put(Key::new(key), vec![b'v'; length].into()),
    });
    let transaction = (prop::collection::vec(operation, 0..110), number()).prop_map(|(operations, revision)| {
        let compares = vec![crate::store::Compare::Modified(Key::new("k"), revision)];
        Command::Commit(Transaction { compares: if revision > 6 { vec![] } else { compares }, operations })
    });
    prop_oneof![transaction, number().prop_map(Command::Compact)].prop_map(|command| command.encode().into())
}
