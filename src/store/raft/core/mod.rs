//! One replica, as a synchronous step: events in, effects out.
//!
//! Owns: the state of consensus, the state machine it feeds, who waits for which answer, and what may leave before what is
//! durable. Must never: read a clock, do IO, draw a random number that its seed does not give, or panic, whatever a
//! peer says.
//!
//! What leaves when:
//! - a leader's messages at once: its own disk is one vote among others;
//! - a vote once the ballot is on disk ([`Effect::SaveBallot`] is done before the effects after it);
//! - a follower's "I have it" and a candidate's request once the log is on disk as far as they speak of it;
//! - answers to heartbeats at once: they say nothing about the log.

mod apply;
mod compare;
mod guard;
mod reads;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::RwLock;
use raft::{
    ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole,
    eraftpb::{self, ConfState, MessageType},
};

use self::{compare::Comparison, reads::Rounds};
use super::{
    Body, Change, Leadership, MemberStatus, Message, Refusal, ReplicaId, Role, SnapshotId, Status,
    log::{Ballot, Checkpoint, LogEntry, Tail},
};
use crate::{
    model::Uid,
    store::{
        Entry, Error, Key, Options, Outcome,
        command::Command,
        mvcc::{Mvcc, StateHash},
    },
};

/// Consensus counts time in ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    pub tick_ms: u64,
    pub heartbeat_ticks: usize,
    /// A follower that hears no leader for this long asks for votes; drawn anew each time, so that two seldom ask at once.
    pub election_ticks: Range<usize>,
}

impl Default for Timing {
    /// Replicas close to each other: heartbeats every 30 ms, an election after 120 to 240 ms of silence. More than ten
    /// times the slowest round trip and fsync that is ordinary (8 ms).
    fn default() -> Self {
        Self { tick_ms: 10, heartbeat_ticks: 3, election_ticks: 12..24 }
    }
}

/// How a linearizable read knows that the leader still leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reads {
    /// By asking most voters: one round trip, shared by all reads that wait for it.
    #[default]
    Index,
    /// By its lease: as long as clocks drift little, nobody else can have been elected yet.
    Lease,
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub id: ReplicaId,
    /// Of election timeouts.
    pub seed: u64,
    pub incarnation: Uid,
    pub timing: Timing,
    pub reads: Reads,
    pub options: Options,
    /// Where the consensus library writes what it does.
    pub logger: slog::Logger,
}

/// What the disk held.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    pub ballot: Ballot,
    pub checkpoint: Checkpoint,
    /// As of the checkpoint.
    pub rows: Vec<Entry>,
    /// After it.
    pub entries: Vec<LogEntry>,
}

#[derive(Debug)]
pub enum Event {
    /// [`Core::deadline`] is reached; harmless at any other time.
    Tick,
    /// An encoded command of a client. Answered by [`Effect::Answer`].
    Propose {
        id: u64,
        command: Bytes,
    },
    /// Answered by [`Effect::Readable`].
    Read {
        id: u64,
    },
    Message(Message),
    /// [`Effect::Write`] of this number and all before it are durable.
    Persisted {
        number: u64,
    },
    /// Answers [`Effect::Fetch`].
    Fetched {
        snapshot: SnapshotId,
        rows: Vec<Entry>,
    },
    FetchFailed(SnapshotId),
    /// The connection to this replica broke.
    Unreachable(ReplicaId),
    /// Answered by [`Effect::Answer`].
    Change {
        id: u64,
        change: Change,
    },
    /// Give the lead to another replica.
    HandOver,
    /// The disk failed, or distrusts itself.
    Fault(String),
}

/// Done in order.
#[derive(Debug)]
pub enum Effect {
    /// Durable before anything after it is done.
    SaveBallot(Ballot),
    Send(Message),
    /// For the writer of the log, which answers with [`Event::Persisted`].
    Write(Write),
    /// For the writer of the log, in order with the others and without an answer: where it is lost, the log still holds all of it.
    Forget(Forget),
    Fetch {
        from: ReplicaId,
        snapshot: SnapshotId,
    },
    Answer {
        id: u64,
        answer: Result<Outcome, Refusal>,
    },
    /// The state holds all that was acknowledged before the read was asked for.
    Readable {
        id: u64,
        answer: Result<(), Refusal>,
    },
    Lead(Leadership),
    /// The revision that [`Core::state`] has reached.
    Applied(u64),
    /// Nothing more comes from this replica. Why, in words.
    Stop(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub number: u64,
    /// Replaces rows and log; there are no entries then.
    pub install: Option<Install>,
    /// Replace all entries from the first one's index on.
    pub entries: Vec<LogEntry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Install {
    pub checkpoint: Checkpoint,
    pub rows: Vec<Entry>,
}

/// The log up to a checkpoint goes, and the rows that changed up to there take its place, in one atomic step.
#[derive(Debug, Clone, PartialEq)]
pub struct Forget {
    pub checkpoint: Checkpoint,
    pub rows: BTreeMap<Key, Option<Entry>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("consensus cannot start from what the disk holds")]
    Consensus(#[from] raft::Error),
    #[error("the rows of the store do not match their checkpoint: hash {found}, expected {expected}")]
    Rows { found: StateHash, expected: StateHash },
}

pub struct Core {
    settings: Settings,
    raw: RawNode<Tail>,
    state: Arc<RwLock<Mvcc>>,
    now_ms: u64,
    ticked_ms: u64,
    draw: u64,
    /// For which term and role the election timeout was drawn.
    drawn: (u64, StateRole),
    applied: u64,
    /// Of the last applied entry.
    applied_term: u64,
    /// In the log, of the commands that made the revisions that can still be compacted, oldest first.
    positions: VecDeque<u64>,
    /// The members as of each change since the checkpoint, by index; the last is in force.
    members: VecDeque<(u64, ConfState)>,
    /// Who waits for which entry.
    pending: BTreeMap<u64, Pending>,
    rounds: Rounds,
    /// Numbers of [`Effect::Write`] that are not durable yet.
    writing: BTreeSet<u64>,
    number: u64,
    /// What may leave once the write of this number is durable.
    held: VecDeque<(u64, Vec<Message>)>,
    incoming: Option<Incoming>,
    installing: Option<Installing>,
    /// Since when each replica is being sent a snapshot.
    snapshots: BTreeMap<ReplicaId, u64>,
    comparison: Comparison,
    /// Until this entry is applied, no other compaction is proposed.
    compacting: u64,
    leadership: Leadership,
    stopped: Option<String>,
    effects: Vec<Effect>,
}

struct Pending {
    term: u64,
    id: u64,
    deadline_ms: u64,
    /// Decoded already when it was proposed.
    command: Option<Command>,
}

/// A snapshot that is being fetched.
struct Incoming {
    id: SnapshotId,
    message: eraftpb::Message,
    rows: Option<Vec<Entry>>,
}

/// A snapshot that is being written.
struct Installing {
    ready: raft::Ready,
    number: u64,
}

/// How long a client waits for an entry whose fate nobody tells.
const ANSWER_MS: u64 = 10_000;
/// A member that was told to fetch a snapshot and says nothing for so long is told again.
const SNAPSHOT_MS: u64 = 30_000;
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Proposed and not yet committed; more is refused until there is room.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// A learner this close to the leader becomes a voter.
const PROMOTE_BEHIND_MAX: u64 = 256;

impl Core {
    /// A replica as it was left, before it has said anything. The rows are checked against their checkpoint.
    pub fn start(settings: Settings, recovered: Recovered, now_ms: u64) -> Result<(Self, Vec<Effect>), Invalid> {
        let Recovered { ballot, checkpoint, rows, entries } = recovered;
        let state = Mvcc::restore(checkpoint.revision, rows);
        if state.hash() != checkpoint.hash {
            return Err(Invalid::Rows { found: state.hash(), expected: checkpoint.hash });
        }
        let Timing { heartbeat_ticks, election_ticks, .. } = &settings.timing;
        let config = raft::Config {
            id: settings.id,
            heartbeat_tick: *heartbeat_ticks,
            election_tick: election_ticks.start,
            min_election_tick: election_ticks.start,
            max_election_tick: election_ticks.end,
            applied: checkpoint.index,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            read_only_option: match settings.reads {
                Reads::Index => ReadOnlyOption::Safe,
                Reads::Lease => ReadOnlyOption::LeaseBased,
            },
            ..Default::default()
        };
        let (index, term, conf) = (checkpoint.index, checkpoint.term, checkpoint.conf_state());
        let snapshot = SnapshotId {
            incarnation: settings.incarnation.clone(),
            index,
            term,
            revision: checkpoint.revision,
            hash: checkpoint.hash,
        };
        let tail = Tail::new(ballot, checkpoint, entries, snapshot);
        let raw = RawNode::new(&config, tail, &settings.logger)?;
        let mut core = Self {
            draw: settings.seed | 1,
            raw,
            state: Arc::new(RwLock::new(state)),
            now_ms,
            ticked_ms: now_ms,
            drawn: (u64::MAX, StateRole::Follower),
            applied: index,
            applied_term: term,
            positions: VecDeque::new(),
            members: [(index, conf)].into(),
            pending: BTreeMap::new(),
            rounds: Rounds::default(),
            writing: BTreeSet::new(),
            number: 0,
            held: VecDeque::new(),
            incoming: None,
            installing: None,
            snapshots: BTreeMap::new(),
            comparison: Comparison::default(),
            compacting: 0,
            leadership: Leadership::default(),
            stopped: None,
            effects: Vec::new(),
            settings,
        };
        if core.is_alone() {
            // There is nobody to wait for.
            core.raw.campaign()?;
        }
        let effects = core.step(now_ms, Vec::new());
        Ok((core, effects))
    }

    /// Takes all that has happened, in order. What is proposed together shares one round and one fsync.
    pub fn step(&mut self, now_ms: u64, events: Vec<Event>) -> Vec<Effect> {
        if self.stopped.is_some() {
            return Vec::new();
        }
        self.now_ms = self.now_ms.max(now_ms);
        let mut proposals = Vec::new();
        for event in events {
            match event {
                Event::Propose { id, command } => proposals.push((id, command)),
                event => self.take(event),
            }
        }
        self.propose(proposals);
        self.tick();
        self.ask_rounds();
        self.settle();
        if let Some(why) = &self.stopped {
            self.effects.push(Effect::Stop(why.clone()));
        }
        std::mem::take(&mut self.effects)
    }

    /// When to send [`Event::Tick`]; absent while there is nobody to hear or to be heard by.
    pub fn deadline(&self) -> Option<u64> {
        let at_rest = self.is_alone() && self.is_leader() && self.pending.is_empty();
        (!at_rest && self.stopped.is_none()).then_some(self.ticked_ms + self.settings.timing.tick_ms)
    }

    /// What all committed commands have made.
    pub fn state(&self) -> &Arc<RwLock<Mvcc>> {
        &self.state
    }

    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    pub fn status(&self) -> Status {
        let conf = self.conf();
        let learner = |id: &ReplicaId| (*id, MemberStatus { learner: true, ..MemberStatus::default() });
        let mut members: BTreeMap<_, _> = conf.learners.iter().map(learner).collect();
        members.extend(conf.voters.iter().map(|id| (*id, MemberStatus::default())));
        if self.is_leader() {
            for (id, progress) in self.raw.raft.prs().iter() {
                let Some(member) = members.get_mut(id) else { continue };
                member.matched = Some(progress.matched);
                member.active = Some(progress.recent_active || *id == self.settings.id);
                member.snapshot = progress.state == ProgressState::Snapshot;
            }
        }
        let state = self.state.read();
        Status {
            id: self.settings.id,
            role: match self.raw.raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
                StateRole::Follower if members.get(&self.settings.id).is_none_or(|member| member.learner) => {
                    Role::Learner
                }
                StateRole::Follower => Role::Follower,
            },
            leadership: self.leadership,
            committed: self.raw.raft.raft_log.committed,
            applied: self.applied,
            revision: state.revision(),
            hash: (self.applied, state.hash()),
            checkpoint: self.raw.store().first() - 1,
            members,
            stopped: self.stopped.clone(),
        }
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn is_alone(&self) -> bool {
        let conf = self.conf();
        conf.voters == [self.settings.id] && conf.learners.is_empty()
    }

    /// The members in force.
    fn conf(&self) -> &ConfState {
        // There is always one: what the log begins with.
        &self.members[self.members.len() - 1].1
    }

    fn others(&self) -> Vec<ReplicaId> {
        let conf = self.conf();
        conf.voters.iter().chain(&conf.learners).copied().filter(|id| *id != self.settings.id).collect()
    }

    fn stop(&mut self, why: String) {
        self.stopped.get_or_insert(why);
    }

    fn answer(&mut self, id: u64, answer: Result<Outcome, Refusal>) {
        self.effects.push(Effect::Answer { id, answer });
    }

    fn send(&mut self, to: ReplicaId, body: Body) {
        self.effects.push(Effect::Send(Message { from: self.settings.id, to, body }));
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            // Proposals are taken together, by the caller.
            Event::Propose { id, command } => self.propose(vec![(id, command)]),
            Event::Read { id } => self.rounds.wait(id, self.now_ms),
            Event::Message(message) => self.receive(message),
            Event::Persisted { number } => self.persisted(number),
            Event::Fetched { snapshot, rows } => self.fetched(snapshot, rows),
            Event::FetchFailed(snapshot) => self.fetch_failed(&snapshot),
            Event::Unreachable(id) => self.raw.report_unreachable(id),
            Event::Change { id, change } => self.change(id, change),
            Event::HandOver => self.hand_over(),
            Event::Fault(why) => self.stop(why),
        }
    }

    /// As many ticks as have passed. After a pause of the process only one: time in which nobody could be heard says
    /// nothing about who is alive.
    fn tick(&mut self) {
        let tick_ms = self.settings.timing.tick_ms;
        let passed = (self.now_ms - self.ticked_ms) / tick_ms;
        if passed == 0 || self.installing.is_some() {
            return;
        }
        self.ticked_ms = if passed > self.settings.timing.heartbeat_ticks as u64 {
            self.raw.tick();
            self.now_ms
        } else {
            for _ in 0..passed {
                self.raw.tick();
            }
            self.ticked_ms + passed * tick_ms
        };
        self.draw_timeout();
        self.expire();
        self.compare();
        if self.is_leader() {
            self.care_for_members();
        }
    }

    /// The library would draw from the thread's generator; a seed makes a run repeatable.
    fn draw_timeout(&mut self) {
        let position = (self.raw.raft.term, self.raw.raft.state);
        if self.drawn == position {
            return;
        }
        self.drawn = position;
        // xorshift64
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        let Range { start, end } = self.settings.timing.election_ticks;
        let ticks = start + (self.draw % (end - start) as u64) as usize;
        self.raw.raft.set_randomized_election_timeout(ticks);
    }

    fn propose(&mut self, proposals: Vec<(u64, Bytes)>) {
        let mut message =
            eraftpb::Message { msg_type: MessageType::MsgPropose, from: self.settings.id, ..Default::default() };
        let mut waiting = Vec::with_capacity(proposals.len());
        for (id, data) in proposals {
            if !self.is_leader() {
                self.answer(id, Err(Refusal::NotLeader(self.settings.id)));
                continue;
            }
            match Command::decode(&data) {
                Ok(command) => {
                    message.entries.push(eraftpb::Entry { data, ..Default::default() });
                    waiting.push((id, Some(command)));
                }
                Err(invalid) => self.answer(id, Err(Error::Malformed(invalid.to_string()).into())),
            }
        }
        if !waiting.is_empty() {
            self.propose_message(message, waiting);
        }
    }

    fn propose_message(&mut self, message: eraftpb::Message, waiting: Vec<(u64, Option<Command>)>) {
        let before = self.raw.raft.raft_log.last_index();
        let handing_over = self.raw.raft.lead_transferee.is_some();
        if self.raw.raft.step(message).is_err() {
            for (id, _) in waiting {
                let refusal = match handing_over {
                    true => Refusal::NotLeader(self.settings.id),
                    false => Error::Unavailable("too many writes wait for the other replicas".into()).into(),
                };
                self.answer(id, Err(refusal));
            }
            return;
        }
        let (term, deadline_ms) = (self.raw.raft.term, self.now_ms + ANSWER_MS);
        for (index, (id, command)) in (before + 1..).zip(waiting) {
            self.pending.insert(index, Pending { term, id, deadline_ms, command });
        }
    }

    fn change(&mut self, id: u64, change: Change) {
        if let Err(refusal) = self.may_change(change) {
            return self.answer(id, Err(refusal));
        }
        let before = self.raw.raft.raft_log.last_index();
        match self.raw.propose_conf_change(change.encode(), change.conf_change()) {
            Ok(()) => {
                let (term, deadline_ms) = (self.raw.raft.term, self.now_ms + ANSWER_MS);
                self.pending.insert(before + 1, Pending { term, id, deadline_ms, command: None });
            }
            Err(error) => self.answer(id, Err(Error::Unavailable(error.to_string()).into())),
        }
    }

    fn may_change(&mut self, change: Change) -> Result<(), Refusal> {
        let me = self.settings.id;
        if !self.is_leader() {
            return Err(Refusal::NotLeader(me));
        }
        let refuse = |why: String| Err(Error::Unavailable(why).into());
        if let Change::Remove(id) = change {
            if id == me {
                self.hand_over();
                return if self.raw.raft.lead_transferee.is_some() {
                    Err(Refusal::NotLeader(me))
                } else {
                    refuse(format!("replica {id} leads, and no other could"))
                };
            }
            let prs = self.raw.raft.prs();
            let left = self.conf().voters.iter().filter(|voter| **voter != id);
            let alive = |voter: &&&ReplicaId| **voter == &me || prs.get(***voter).is_some_and(|p| p.recent_active);
            let (left, alive) = (left.clone().count(), left.clone().filter(|voter| alive(&voter)).count());
            if alive < left / 2 + 1 {
                return refuse(format!(
                    "without replica {id}, {left} would vote and {alive} of them answer: no write could be committed"
                ));
            }
        }
        Ok(())
    }

    /// To the voter that lacks least.
    fn hand_over(&mut self) {
        if !self.is_leader() {
            return;
        }
        let me = self.settings.id;
        let prs = self.raw.raft.prs();
        let voters = self.conf().voters.iter().filter(|id| **id != me);
        let answering = voters.filter_map(|id| Some((prs.get(*id).filter(|p| p.recent_active)?.matched, *id)));
        if let Some((_, id)) = answering.max() {
            self.raw.transfer_leader(id);
        }
    }

    fn receive(&mut self, message: Message) {
        let from = message.from;
        match message.body {
            Body::Hash { index, hash } => self.heard_hash(from, index, hash),
            Body::SnapshotFailed => {
                self.snapshots.remove(&from);
                self.raw.report_snapshot(from, SnapshotStatus::Failure);
            }
            Body::Raft(message) => {
                // While a snapshot is being written, there is no log to speak of; they will say it again.
                if self.installing.is_some() {
                    return;
                }
                match self.guard(from, &message) {
                    Ok(()) => {}
                    Err(guard::Refused::Ignored) => return,
                    Err(guard::Refused::Contradiction(why)) => return self.stop(why),
                }
                if message.msg_type == MessageType::MsgSnapshot {
                    return self.offered(*message);
                }
                // What it refuses is stale, or of one that is no member: neither is for us to act on.
                let _stale = self.raw.step(*message);
                self.draw_timeout();
            }
        }
    }

    /// A snapshot's message is kept until its rows are here.
    fn offered(&mut self, message: eraftpb::Message) {
        let Some(id) = SnapshotId::decode(&message.get_snapshot().data) else { return };
        if id.incarnation != self.settings.incarnation {
            let (ours, theirs) = (&self.settings.incarnation, &id.incarnation);
            return self
                .stop(format!("a snapshot of incarnation {theirs} was sent to a replica of incarnation {ours}"));
        }
        match &mut self.incoming {
            // A fetch under way goes on: a newer snapshot would only begin it anew.
            Some(incoming) if incoming.rows.is_none() => {
                incoming.message.term = message.term;
                incoming.message.from = message.from;
            }
            _ => {
                self.effects.push(Effect::Fetch { from: message.from, snapshot: id.clone() });
                self.incoming = Some(Incoming { id, message, rows: None });
            }
        }
    }

    fn fetched(&mut self, snapshot: SnapshotId, rows: Vec<Entry>) {
        let mut hash = StateHash::default();
        rows.iter().for_each(|row| hash.add(row));
        if hash != snapshot.hash {
            return self.fetch_failed(&snapshot);
        }
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.id == snapshot) else { return };
        incoming.rows = Some(rows);
        let message = incoming.message.clone();
        let _stale = self.raw.step(message);
        if self.raw.snap().is_none() {
            // It was overtaken by the log itself.
            self.incoming = None;
        }
    }

    fn fetch_failed(&mut self, snapshot: &SnapshotId) {
        let Some(incoming) = self.incoming.take_if(|incoming| incoming.id == *snapshot) else { return };
        self.send(incoming.message.from, Body::SnapshotFailed);
    }

    /// Clients whose entry's fate nobody told in time.
    fn expire(&mut self) {
        let now_ms = self.now_ms;
        let late = self.pending.extract_if(.., |_, pending| pending.deadline_ms <= now_ms);
        let late: Vec<_> = late.map(|(_, pending)| pending.id).collect();
        for id in late {
            self.answer(id, Ok(Outcome::Unknown));
        }
        for id in self.rounds.expire(now_ms) {
            let why = "no leader answered in time".to_owned();
            self.effects.push(Effect::Readable { id, answer: Err(Error::Unavailable(why).into()) });
        }
    }

    /// Learners that have caught up become voters; who was told to fetch a snapshot and fell silent is told again.
    fn care_for_members(&mut self) {
        let committed = self.raw.raft.raft_log.committed;
        let prs = self.raw.raft.prs();
        let close = |id: &&ReplicaId| {
            prs.get(**id).is_some_and(|progress| {
                let behind = committed.saturating_sub(progress.matched);
                progress.matched > 0 && progress.recent_active && behind <= PROMOTE_BEHIND_MAX
            })
        };
        let promoted = self.conf().learners.iter().find(close).copied();
        let sending = prs.iter().filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let sending: BTreeSet<ReplicaId> = sending.map(|(id, _)| *id).collect();
        if let Some(id) = promoted
            && !self.raw.raft.has_pending_conf()
        {
            let change = Change::Promote(id);
            // Where it is dropped, the next tick proposes it again.
            let _dropped = self.raw.propose_conf_change(change.encode(), change.conf_change());
        }
        self.snapshots.retain(|id, _| sending.contains(id));
        for id in sending {
            let since = *self.snapshots.entry(id).or_insert(self.now_ms);
            if self.now_ms - since > SNAPSHOT_MS {
                self.snapshots.remove(&id);
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }

    fn persisted(&mut self, number: u64) {
        self.writing = self.writing.split_off(&(number + 1));
        if let Some(installing) = self.installing.take_if(|installing| installing.number <= number) {
            self.installed(installing);
        }
        let until = self.writing.first().map_or(self.number, |first| first - 1);
        self.raw.on_persist_ready(until);
        while let Some((number, _)) = self.held.front()
            && *number <= until
        {
            let messages = self.held.pop_front().map(|(_, messages)| messages).unwrap_or_default();
            self.effects.extend(messages.into_iter().map(Effect::Send));
        }
    }

    /// Carries out what consensus asks for until it asks for nothing more.
    fn settle(&mut self) {
        while self.stopped.is_none() && self.installing.is_none() && self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.number = ready.number();
            if let Some(hard) = ready.hs()
                && ready.must_sync()
            {
                let ballot = Ballot { term: hard.term, vote: hard.vote };
                self.effects.push(Effect::SaveBallot(ballot));
            }
            self.send_all(ready.take_messages());
            for read in ready.take_read_states() {
                self.rounds.confirmed(&read.request_ctx, read.index);
            }
            if !ready.snapshot().is_empty() {
                self.install(ready);
                break;
            }
            let entries: Vec<_> = ready.entries().iter().map(LogEntry::of).collect();
            let (now, after) = guard::by_durability(ready.take_persisted_messages());
            self.send_all(now);
            let after = self.wrap(after);
            let committed = ready.take_committed_entries();
            self.raw.mut_store().append(&entries);
            self.raw.advance_append_async(ready);
            if !entries.is_empty() {
                self.writing.insert(self.number);
                self.effects.push(Effect::Write(Write { number: self.number, install: None, entries }));
            }
            if self.writing.is_empty() {
                self.raw.on_persist_ready(self.number);
                self.effects.extend(after.into_iter().map(Effect::Send));
            } else if !after.is_empty() {
                self.held.push_back((self.number, after));
            }
            self.apply(committed);
        }
        self.draw_timeout();
        self.tell_readers();
        self.tell_leadership();
    }

    fn wrap(&self, messages: Vec<eraftpb::Message>) -> Vec<Message> {
        let wrapped = |message: eraftpb::Message| Message {
            from: self.settings.id,
            to: message.to,
            body: Body::Raft(Box::new(message)),
        };
        messages.into_iter().map(wrapped).collect()
    }

    fn send_all(&mut self, messages: Vec<eraftpb::Message>) {
        let messages = self.wrap(messages);
        self.effects.extend(messages.into_iter().map(Effect::Send));
    }

    fn install(&mut self, ready: raft::Ready) {
        let metadata = ready.snapshot().get_metadata();
        let Some(Incoming { id, rows: Some(rows), .. }) = &mut self.incoming else {
            return self.stop("consensus took a snapshot that was never fetched".into());
        };
        let conf = metadata.get_conf_state();
        let checkpoint = Checkpoint {
            index: metadata.index,
            term: metadata.term,
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            revision: id.revision,
            hash: id.hash,
        };
        let install = Install { checkpoint, rows: rows.clone() };
        self.writing.insert(self.number);
        self.effects.push(Effect::Write(Write { number: self.number, install: Some(install), entries: Vec::new() }));
        self.installing = Some(Installing { ready, number: self.number });
    }

    /// The snapshot is durable: it takes the place of all there was.
    fn installed(&mut self, installing: Installing) {
        let Installing { mut ready, .. } = installing;
        let Some(Incoming { id, rows: Some(rows), .. }) = self.incoming.take() else { return };
        let conf = ready.snapshot().get_metadata().get_conf_state().clone();
        let messages = ready.take_persisted_messages();
        let checkpoint = Checkpoint {
            index: id.index,
            term: id.term,
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            revision: id.revision,
            hash: id.hash,
        };
        self.raw.mut_store().install(checkpoint);
        self.raw.mut_store().snapshot = (id.clone(), conf.clone());
        self.raw.advance_append_async(ready);
        self.raw.on_persist_ready(self.number);
        *self.state.write() = Mvcc::restore(id.revision, rows);
        (self.applied, self.applied_term) = (id.index, id.term);
        self.raw.advance_apply_to(id.index);
        self.positions.clear();
        self.members = [(id.index, conf)].into();
        self.comparison = Comparison::default();
        // What was proposed here before may or may not be in it.
        let passed: Vec<_> = self.pending.extract_if(..=id.index, |_, _| true).map(|(_, pending)| pending.id).collect();
        passed.into_iter().for_each(|id| self.answer(id, Ok(Outcome::Unknown)));
        self.effects.push(Effect::Applied(id.revision));
        self.send_all(messages);
    }

    fn tell_leadership(&mut self) {
        let raft = &self.raw.raft;
        let leadership = Leadership {
            term: raft.term,
            leader: (raft.leader_id != 0).then_some(raft.leader_id),
            here: raft.state == StateRole::Leader && self.applied_term == raft.term,
        };
        if leadership != self.leadership {
            self.leadership = leadership;
            self.effects.push(Effect::Lead(leadership));
        }
    }
}
