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
mod members;
mod proposals;
mod reads;
mod snapshots;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;
use raft::{
    ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole,
    eraftpb::{self, ConfState, MessageType},
};

use self::{
    compare::Comparison,
    proposals::Pending,
    reads::Rounds,
    snapshots::{Incoming, Installing},
};
use super::{
    Body, Change, Leadership, MemberStatus, Message, Refusal, ReplicaId, Role, SnapshotId, Status,
    log::{Ballot, Checkpoint, LogEntry, Tail},
};
use crate::{
    model::Uid,
    store::{
        Entry, Key, Options, Outcome,
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

impl Timing {
    pub const HEARTBEAT: Duration = Duration::from_millis(30);

    /// An election begins after four to eight heartbeats of silence.
    pub fn with_heartbeat(heartbeat: Duration) -> Self {
        let heartbeat_ms = u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX);
        Self { tick_ms: heartbeat_ms.div_ceil(3).max(1), heartbeat_ticks: 3, election_ticks: 12..24 }
    }
}

impl Default for Timing {
    /// Replicas close to each other: heartbeats every 30 ms, an election after 120 to 240 ms of silence. More than ten
    /// times the slowest round trip and fsync that is ordinary (8 ms).
    fn default() -> Self {
        Self::with_heartbeat(Self::HEARTBEAT)
    }
}

/// How a linearizable read knows that the leader still leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reads {
    /// By asking most voters: one round trip, shared by all reads that wait for it.
    #[default]
    Index,
    /// By its lease: for a while after most voters answered, nobody else can have been elected. Trusts that clocks do not
    /// differ in speed by more than a quarter.
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
    /// What was known to be committed; more may have been.
    pub committed: u64,
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
    /// What this replica has is not what it should have: it must not start from it again. Followed by [`Effect::Stop`].
    Distrust(String),
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
    /// Known to be committed by now. In the same atomic step as the entries: whoever has the entry of a change of the group on its disk must
    /// know that the change before it was committed, or it could elect itself among members of long ago.
    pub committed: u64,
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
    started_ms: u64,
    /// When each of the others was last heard of. The library's own mark is taken away at each check of the quorum.
    heard_ms: BTreeMap<ReplicaId, u64>,
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

const MESSAGE_BYTES_MAX: u64 = 1 << 20;
const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Proposed and not yet committed; more is refused until there is room.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;

impl Core {
    /// A replica as it was left, before it has said anything. The rows are checked against their checkpoint.
    pub fn start(settings: Settings, recovered: Recovered, now_ms: u64) -> Result<(Self, Vec<Effect>), Invalid> {
        let Recovered { ballot, checkpoint, rows, entries, committed } = recovered;
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
            read_only_option: ReadOnlyOption::Safe,
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
        let tail = Tail::new(ballot, checkpoint, entries, committed, snapshot);
        let raw = RawNode::new(&config, tail, &settings.logger)?;
        let mut core = Self {
            draw: settings.seed | 1,
            raw,
            state: Arc::new(RwLock::new(state)),
            started_ms: now_ms,
            heard_ms: BTreeMap::new(),
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
        // What is known to be committed is applied first: who belongs to the group is in it.
        let mut effects = core.step(now_ms, Vec::new());
        if core.is_alone() {
            // There is nobody to wait for.
            core.raw.campaign()?;
            effects.extend(core.step(now_ms, Vec::new()));
        }
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
                member.active = Some(self.answers(*id));
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

    /// Whether a replica was heard of lately.
    fn answers(&self, id: ReplicaId) -> bool {
        let Timing { tick_ms, election_ticks, .. } = &self.settings.timing;
        let lately = |heard_ms: &u64| self.now_ms < heard_ms + election_ticks.end as u64 * tick_ms;
        id == self.settings.id || self.heard_ms.get(&id).is_some_and(lately)
    }

    fn others(&self) -> Vec<ReplicaId> {
        let conf = self.conf();
        conf.voters.iter().chain(&conf.learners).copied().filter(|id| *id != self.settings.id).collect()
    }

    fn stop(&mut self, why: String) {
        self.stopped.get_or_insert(why);
    }

    fn distrust(&mut self, why: String) {
        self.effects.push(Effect::Distrust(why.clone()));
        self.stop(why);
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
        // Who is left alone as a follower elects itself on the spot, for which the library wants its whole log on the disk.
        let must_wait = self.is_alone() && !self.is_leader() && !self.writing.is_empty();
        if passed == 0 || self.installing.is_some() || must_wait {
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

    fn receive(&mut self, message: Message) {
        let from = message.from;
        self.heard_ms.insert(from, self.now_ms);
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
                    Err(guard::Refused::Contradiction(why)) => return self.distrust(why),
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
            // A replica that is being removed stops as soon as it hears that it was. Until that is on the disk here too, its vote may
            // be needed to find it out again.
            let changes = members::changes(ready.committed_entries());
            let leaving = members::removed(&changes);
            let (last_words, messages) =
                ready.take_messages().into_iter().partition(|message| leaving.contains(&message.to));
            self.send_all(messages);
            for read in ready.take_read_states() {
                self.rounds.confirmed(&read.request_ctx, read.index, self.raw.raft.term);
            }
            if !ready.snapshot().is_empty() {
                self.install(ready);
                break;
            }
            let entries: Vec<_> = ready.entries().iter().map(LogEntry::of).collect();
            let (now, after) = guard::by_durability(ready.take_persisted_messages());
            self.send_all(now);
            let mut after = self.wrap(after);
            after.extend(self.wrap(last_words));
            let committed = ready.take_committed_entries();
            self.raw.mut_store().append(&entries);
            self.raw.advance_append_async(ready);
            if !entries.is_empty() || !changes.is_empty() {
                self.writing.insert(self.number);
                let committed = self.raw.raft.raft_log.committed;
                self.effects.push(Effect::Write(Write { number: self.number, install: None, entries, committed }));
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
