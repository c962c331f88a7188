//! A group of replicas that hear each other at once and whose disks are never late; what else may happen is the
//! simulator's.

mod abuse;

use super::*;
use crate::store::{Operation, Transaction, command::Command};

struct Group {
    reads: Reads,
    cores: BTreeMap<ReplicaId, Core>,
    now_ms: u64,
    /// Who hears nobody and is heard by nobody.
    silent: BTreeSet<ReplicaId>,
    answers: BTreeMap<u64, Result<Outcome, Refusal>>,
    readable: BTreeMap<u64, Result<(), Refusal>>,
    stopped: BTreeMap<ReplicaId, String>,
    /// Of replica 1, in order.
    writes: Vec<Write>,
}

fn settings(id: ReplicaId) -> Settings {
    Settings {
        id,
        seed: id * 7919,
        incarnation: Uid::from("incarnation"),
        timing: Timing::default(),
        reads: Reads::Index,
        options: Options { history_revisions_max: 64, ..Options::default() },
        logger: slog::Logger::root(slog::Discard, slog::o!()),
    }
}

fn founded(voters: &[ReplicaId]) -> Recovered {
    let checkpoint = Checkpoint { index: 1, term: 1, voters: voters.to_vec(), ..Checkpoint::default() };
    Recovered { ballot: Ballot { term: 1, vote: 0 }, checkpoint, ..Recovered::default() }
}

fn put(key: &str, value: &str) -> Bytes {
    let operations = vec![Operation::Put(Key::new(key), value.to_owned().into())];
    Command::Commit(Transaction { compares: vec![], operations }).encode().into()
}

impl Group {
    fn of(voters: &[ReplicaId]) -> Self {
        Self::with_reads(voters, Reads::Index)
    }

    fn with_reads(voters: &[ReplicaId], reads: Reads) -> Self {
        let mut group = Self {
            reads,
            cores: BTreeMap::new(),
            now_ms: 0,
            silent: BTreeSet::new(),
            answers: BTreeMap::new(),
            readable: BTreeMap::new(),
            stopped: BTreeMap::new(),
            writes: Vec::new(),
        };
        for id in voters {
            group.start(*id, founded(voters));
        }
        group
    }

    fn start(&mut self, id: ReplicaId, recovered: Recovered) {
        let (core, effects) =
            Core::start(Settings { reads: self.reads, ..settings(id) }, recovered, self.now_ms).expect("a core");
        self.cores.insert(id, core);
        self.carry_out(id, effects);
    }

    fn tell(&mut self, id: ReplicaId, event: Event) {
        let Some(core) = self.cores.get_mut(&id) else { return };
        let effects = core.step(self.now_ms, vec![event]);
        self.carry_out(id, effects);
    }

    fn carry_out(&mut self, id: ReplicaId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    if !self.silent.contains(&id) && !self.silent.contains(&message.to) {
                        self.tell(message.to, Event::Message(message));
                    }
                }
                Effect::Write(write) => {
                    let number = write.number;
                    if id == 1 {
                        self.writes.push(write);
                    }
                    self.tell(id, Event::Persisted { number });
                }
                Effect::Fetch { from, snapshot } => {
                    let page = self.cores[&from].state().read().list(&crate::store::List {
                        prefix: String::new(),
                        after: None,
                        limit: 0,
                        at: Some(snapshot.revision),
                    });
                    let rows = page.expect("a snapshot").entries;
                    self.tell(id, Event::Fetched { snapshot, rows });
                }
                Effect::Answer { id, answer } => drop(self.answers.insert(id, answer)),
                Effect::Readable { id, answer } => drop(self.readable.insert(id, answer)),
                Effect::Stop(why) => drop(self.stopped.insert(id, why)),
                Effect::SaveBallot(_)
                | Effect::Forget(_)
                | Effect::Lead(_)
                | Effect::Applied(_)
                | Effect::Distrust(_) => {}
            }
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            for id in self.cores.keys().copied().collect::<Vec<_>>() {
                self.tell(id, Event::Tick);
            }
        }
    }

    fn leader(&self) -> ReplicaId {
        let leads = |(id, core): (&ReplicaId, &Core)| {
            (core.leadership().here && !self.silent.contains(id)).then_some((core.leadership().term, *id))
        };
        self.cores.iter().filter_map(leads).max().expect("a leader").1
    }

    fn commit(&mut self, id: u64, key: &str, value: &str) {
        let leader = self.leader();
        self.tell(leader, Event::Propose { id, command: put(key, value) });
    }

    fn value(&self, id: ReplicaId, key: &str) -> Option<Bytes> {
        self.cores[&id].state().read().get(&Key::new(key)).map(|entry| entry.value)
    }
}

#[test]
fn a_replica_alone_leads_and_answers_at_once() {
    let mut group = Group::of(&[1]);
    assert!(group.cores[&1].leadership().here);
    group.commit(7, "k", "v");
    assert_eq!(group.answers[&7], Ok(Outcome::Committed(1)));
    group.tell(1, Event::Read { id: 8 });
    assert_eq!(group.readable[&8], Ok(()));
    assert_eq!(group.cores[&1].deadline(), None, "at rest it needs no clock");
}

#[test]
fn three_replicas_elect_one_and_apply_the_same() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    group.commit(1, "k", "v");
    assert_eq!(group.answers[&1], Ok(Outcome::Committed(1)));
    group.run(100);
    for id in [1, 2, 3] {
        assert_eq!(group.value(id, "k").as_deref(), Some(&b"v"[..]), "replica {id}");
    }
}

#[test]
fn only_the_leader_takes_proposals() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    let follower = [1, 2, 3].into_iter().find(|id| *id != group.leader()).expect("a follower");
    group.tell(follower, Event::Propose { id: 1, command: put("k", "v") });
    assert_eq!(group.answers[&1], Err(Refusal::NotLeader(follower)));
}

#[test]
fn a_read_anywhere_sees_what_was_acknowledged_before() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    group.commit(1, "k", "v");
    for id in [1, 2, 3] {
        group.tell(id, Event::Read { id: 10 + id });
        assert_eq!(group.readable[&(10 + id)], Ok(()), "replica {id}");
        assert!(group.value(id, "k").is_some(), "replica {id}");
    }
}

#[test]
fn a_leader_that_nobody_hears_answers_nothing_and_another_takes_over() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    let old = group.leader();
    group.silent.insert(old);
    group.tell(old, Event::Propose { id: 1, command: put("k", "lost") });
    group.tell(old, Event::Read { id: 2 });
    group.run(500);
    assert!(!group.answers.contains_key(&1) && !group.readable.contains_key(&2));
    group.commit(3, "k", "won");
    assert_eq!(group.answers[&3], Ok(Outcome::Committed(1)));
    group.silent.clear();
    group.run(500);
    assert_eq!(group.answers[&1], Err(Refusal::NotLeader(old)), "its place in the log was taken: it never happened");
    assert_eq!(group.value(old, "k").as_deref(), Some(&b"won"[..]));
}

#[test]
fn reproduce_a_client_whose_place_in_the_log_was_given_away_twice_is_never_answered() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    let old = group.leader();
    group.silent.insert(old);
    (1..=4).for_each(|id| group.tell(old, Event::Propose { id, command: put("k", "lost") }));
    group.run(500);
    group.silent.clear();
    group.run(100);
    // The lead comes back to it while the places of the last ones are still free.
    while group.leader() != old {
        let leader = group.leader();
        group.tell(leader, Event::HandOver);
    }
    (11..=16).for_each(|id| group.commit(id, "k", "won"));
    for id in 1..=4 {
        assert_eq!(group.answers.get(&id), Some(&Err(Refusal::NotLeader(old))), "write {id}");
    }
}

#[test]
fn a_new_replica_gets_a_snapshot_and_then_a_vote() {
    let mut group = Group::of(&[1]);
    (0..200).for_each(|n| group.commit(n, &format!("k{}", n % 10), "v"));
    assert!(group.cores[&1].status().checkpoint > 100, "its log was cut");
    group.start(2, Recovered::default());
    group.tell(1, Event::Change { id: 1000, change: Change::Add(2) });
    assert!(matches!(group.answers[&1000], Ok(Outcome::Committed(_))));
    group.run(1000);
    let status = group.cores[&1].status();
    assert!(!status.members[&2].learner, "{status:?}");
    assert_eq!(group.cores[&2].status().hash.1, status.hash.1);
}

#[test]
fn a_lease_answers_without_asking_and_ends_before_another_can_lead() {
    let mut group = Group::with_reads(&[1, 2, 3], Reads::Lease);
    group.run(800);
    let leader = group.leader();
    group.tell(leader, Event::Read { id: 1 });
    assert_eq!(group.readable[&1], Ok(()), "asked of the others");
    group.silent.insert(leader);
    group.tell(leader, Event::Read { id: 2 });
    assert_eq!(group.readable.get(&2), Some(&Ok(())), "nobody else can lead yet");
    group.run(100);
    group.tell(leader, Event::Read { id: 3 });
    assert!(!group.readable.contains_key(&3), "somebody might by now");
    assert!(group.cores.values().all(|core| core.leadership().leader.is_none_or(|other| other == leader)));
}

#[test]
fn there_is_no_lease_while_the_lead_is_given_away() {
    let mut group = Group::with_reads(&[1, 2, 3], Reads::Lease);
    group.run(800);
    let leader = group.leader();
    group.tell(leader, Event::Read { id: 1 });
    group.silent.extend([1, 2, 3]);
    group.tell(leader, Event::HandOver);
    group.tell(leader, Event::Read { id: 2 });
    assert!(!group.readable.contains_key(&2), "the other may lead already");
}

#[test]
fn elections_wait_for_several_heartbeats() {
    for heartbeat_ms in [10, 30, 100, 5000] {
        let Timing { tick_ms, heartbeat_ticks, election_ticks } =
            Timing::with_heartbeat(Duration::from_millis(heartbeat_ms));
        let heard_ms = tick_ms * heartbeat_ticks as u64;
        assert!((heartbeat_ms..heartbeat_ms + 3).contains(&heard_ms), "{heard_ms} for {heartbeat_ms}");
        assert!(election_ticks.start as u64 * tick_ms >= 4 * heartbeat_ms);
    }
}

#[test]
fn hand_over_moves_the_lead_at_once() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    let old = group.leader();
    group.tell(old, Event::HandOver);
    assert_ne!(group.leader(), old);
}

/// The library forgets who answered whenever it checks its quorum; whoever wants to give the lead away then finds nobody.
#[test]
fn reproduce_hand_over_finds_nobody_just_after_the_quorum_was_checked() {
    for ms in (500..800).step_by(10) {
        let mut group = Group::of(&[1, 2, 3]);
        group.run(ms);
        let old = group.leader();
        let core = group.cores.get_mut(&old).expect("the leader");
        // Nobody has answered yet when the lead is to be given away.
        let mut effects = core.step(group.now_ms + 10, vec![Event::Tick]);
        effects.extend(core.step(group.now_ms + 10, vec![Event::HandOver]));
        assert!(core.status().members.values().all(|member| member.active == Some(true)), "after {ms} ms");
        group.carry_out(old, effects);
        assert_ne!(group.leader(), old, "after {ms} ms");
    }
}

#[test]
fn a_replica_that_is_removed_stops() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    let leader = group.leader();
    let removed = [1, 2, 3].into_iter().find(|id| *id != leader).expect("a follower");
    group.tell(leader, Event::Change { id: 1, change: Change::Remove(removed) });
    group.run(100);
    assert!(group.stopped[&removed].contains("removed"), "{:?}", group.stopped);
    group.commit(2, "k", "v");
    assert!(matches!(group.answers[&2], Ok(Outcome::Committed(_))));
}

#[test]
fn a_removal_that_would_leave_no_quorum_is_refused() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    let leader = group.leader();
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    group.silent.insert(others[0]);
    group.run(250);
    group.tell(leader, Event::Change { id: 1, change: Change::Remove(others[1]) });
    let Err(refusal) = &group.answers[&1] else { panic!("{:?}", group.answers[&1]) };
    assert!(refusal.to_string().contains("no write could be committed"), "{refusal}");
}

#[test]
fn a_replica_whose_state_differs_stops_with_both_hashes() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    let follower = [1, 2, 3].into_iter().find(|id| *id != group.leader()).expect("a follower");
    let wrong = Transaction { compares: vec![], operations: vec![Operation::Put(Key::new("x"), "rot".into())] };
    group.cores[&follower].state().write().commit(wrong).expect("committed");
    group.commit(1, "k", "v");
    group.run(2_000);
    assert_eq!(group.stopped.keys().collect::<Vec<_>>(), [&follower]);
    assert!(group.stopped[&follower].contains("its hash is"), "{:?}", group.stopped);
}

/// The members that it started with are those of its checkpoint, and long gone.
#[test]
fn reproduce_a_founder_that_restarts_elects_itself_among_members_of_long_ago() {
    let mut group = Group::of(&[1]);
    for id in [2, 3] {
        group.start(id, Recovered::default());
        group.tell(1, Event::Change { id, change: Change::Add(id) });
        group.run(500);
    }
    group.commit(9, "k", "v");
    let entries = group.writes.iter().flat_map(|write: &Write| write.entries.clone()).collect();
    let committed = group.writes.last().map_or(1, |write| write.committed);
    group.cores.remove(&1);
    group.start(1, Recovered { entries, committed, ..founded(&[1]) });
    assert!(!group.cores[&1].leadership().here, "it asks the others first");
}

/// A leader that was cut off hears of the new one: what it had alone is replaced and committed within one step, and then told
/// once more.
#[test]
fn reproduce_a_replica_that_distrusts_an_entry_replaced_in_the_same_step() {
    let mut group = Group::of(&[1, 2, 3]);
    let append = |from, term, index, log_term, entry: Option<u64>, commit| {
        let mut message = eraftpb::Message { from, to: 2, term, index, log_term, commit, ..Default::default() };
        message.set_msg_type(MessageType::MsgAppend);
        let entry = entry.map(|term| eraftpb::Entry { term, index: index + 1, ..Default::default() });
        message.entries = entry.into_iter().collect::<Vec<_>>().into();
        Event::Message(Message { from, to: 2, body: Body::Raft(Box::new(message)) })
    };
    group.tell(2, append(1, 2, 1, 1, Some(2), 1));
    let told = vec![append(3, 3, 1, 1, Some(3), 1), append(3, 3, 2, 3, None, 2), append(3, 3, 1, 1, Some(3), 2)];
    let effects = group.cores.get_mut(&2).expect("replica 2").step(0, told);
    group.carry_out(2, effects);
    assert_eq!(group.stopped, BTreeMap::new());
    assert_eq!(group.cores[&2].status().committed, 2);
}

/// The one that was removed stops and votes no more: whoever is left has to know by itself that it is alone.
#[test]
fn reproduce_the_last_of_two_that_restarts_and_waits_for_the_one_that_was_removed() {
    let mut group = Group::of(&[1, 2]);
    group.run(500);
    if group.leader() == 2 {
        group.tell(2, Event::HandOver);
    }
    group.tell(1, Event::Change { id: 1, change: Change::Remove(2) });
    group.run(100);
    assert!(group.stopped.contains_key(&2));
    let entries = group.writes.iter().flat_map(|write| write.entries.clone()).collect();
    let committed = group.writes.last().map_or(1, |write| write.committed);
    group.cores.remove(&1);
    let ballot = Ballot { term: 9, vote: 1 };
    group.start(1, Recovered { ballot, entries, committed, ..founded(&[1, 2]) });
    assert!(group.cores[&1].leadership().here);
}

/// Its log is not all on the disk yet, and the library panics where such a one is elected.
#[test]
fn reproduce_a_follower_that_is_left_alone_and_elects_itself_too_early() {
    let mut group = Group::of(&[1, 2]);
    let core = group.cores.get_mut(&2).expect("replica 2");
    let append = |index, log_term, entry: eraftpb::Entry, commit| {
        let mut message = eraftpb::Message { from: 1, to: 2, term: 2, index, log_term, commit, ..Default::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries = vec![entry].into();
        Event::Message(Message { from: 1, to: 2, body: Body::Raft(Box::new(message)) })
    };
    let removal = eraftpb::Entry {
        term: 2,
        index: 2,
        entry_type: eraftpb::EntryType::EntryConfChangeV2,
        context: Change::Remove(1).encode().into(),
        ..Default::default()
    };
    let mut writes: Vec<u64> = Vec::new();
    let mut step = |now_ms, event| {
        let effects = core.step(now_ms, vec![event]);
        writes.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Write(write) => Some(write.number),
            _ => None,
        }));
        writes.last().copied()
    };
    let number = step(0, append(1, 1, removal, 1)).expect("a write");
    step(0, append(2, 2, eraftpb::Entry { term: 2, index: 3, ..Default::default() }, 2));
    step(0, Event::Persisted { number });
    let last = (1..100).fold(None, |last, tick| step(tick * 10, Event::Tick).or(last)).expect("a write");
    assert!(!group.cores[&2].leadership().here);
    group.tell(2, Event::Persisted { number: last });
    group.now_ms = 1_000;
    group.run(500);
    assert!(group.cores[&2].leadership().here, "now nothing is in its way");
}

/// The leader says it once more while the rows come in.
#[test]
fn reproduce_a_snapshot_that_is_offered_again_as_its_rows_arrive() {
    let mut group = Group::of(&[1]);
    group.start(2, Recovered::default());
    let id = SnapshotId {
        incarnation: Uid::from("incarnation"),
        index: 5,
        term: 2,
        revision: 0,
        hash: StateHash::default(),
    };
    let offer = || {
        let mut message = eraftpb::Message { from: 1, to: 2, term: 2, ..Default::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        let snapshot = message.mut_snapshot();
        snapshot.data = id.encode();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (id.index, id.term);
        metadata.set_conf_state(ConfState::from((vec![1], vec![2])));
        Event::Message(Message { from: 1, to: 2, body: Body::Raft(Box::new(message)) })
    };
    let core = group.cores.get_mut(&2).expect("replica 2");
    core.step(0, vec![offer()]);
    let effects = core.step(1, vec![Event::Fetched { snapshot: id.clone(), rows: vec![] }, offer()]);
    let installs = |effect: &Effect| matches!(effect, Effect::Write(write) if write.install.is_some());
    assert!(effects.iter().any(installs), "{effects:?}");
}

#[test]
fn history_is_cut_at_the_same_place_everywhere() {
    let mut group = Group::of(&[1, 2, 3]);
    group.run(500);
    (0..300).for_each(|n| group.commit(n, &format!("k{}", n % 7), "v"));
    group.run(200);
    let compacted = |id| group.cores[&id].state().read().compacted();
    assert!(compacted(1) > 0);
    assert!([2, 3].iter().all(|id| compacted(*id) == compacted(1)));
}
