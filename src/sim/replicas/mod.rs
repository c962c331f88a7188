//! A group of replicas of the store under one seed: their network, disks, clocks and clients, and all that can go wrong.
//!
//! Owns: time, chance, and what surrounds the product's own [`Core`](crate::store::raft::core::Core), which is stepped here as its
//! shell steps it. Must never: read a clock, use tokio or threads, or let two runs of one seed differ.
//!
//! A world lives through faults for a few seconds of its own time; then all heals, and it has to come to rest: with a leader,
//! as many replicas as wanted, all in the same state, and with every acknowledged write. [`check`] looks at every step of every
//! replica, [`answers`] at everything that a client is told. [`plant`] holds the bugs that show what the checks are worth.

pub mod answers;
pub mod check;
mod client;
mod disk;
mod faults;
mod fetch;
#[cfg(test)]
mod history;
mod network;
mod node;
mod operator;
pub mod outside;
pub mod plant;
mod queue;
mod shell;
mod story;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;

use self::{
    check::{Checker, News},
    client::Client,
    disk::Disk,
    faults::Weather,
    fetch::Piece,
    network::Network,
    node::{Clock, Node},
    outside::{Founding, Told},
    plant::Plant,
    queue::Queue,
    shell::{Asker, Reply, Request},
};
use super::chance::Chance;
use crate::{
    model::Uid,
    store::{
        Entry, Key, Options, Outcome,
        mvcc::Mvcc,
        raft::{
            Message, Refusal, ReplicaId, SnapshotId,
            core::{Event, Reads, Settings as CoreSettings, Timing},
            log::{Ballot, Checkpoint},
        },
    },
};

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub seed: u64,
    /// A bug planted on purpose, to see whether the checks find it.
    pub plant: Option<Plant>,
    /// Keep every line of the trace.
    pub verbose: bool,
}

pub struct World {
    settings: Settings,
    chance: Chance,
    pub check: Checker,
    pub trace: Trace,
    now_us: u64,
    queue: Queue<Happening>,
    nodes: BTreeMap<ReplicaId, Node>,
    network: Network,
    clients: Vec<Client>,
    weather: Weather,
    timing: Timing,
    history_revisions_max: u64,
    /// How many replicas there are to be.
    target: usize,
    next_id: ReplicaId,
    /// Numbers of requests of all sorts.
    sequence: u64,
    /// Clients ask for nothing more.
    quiet: bool,
    /// For the world around this one.
    told: Vec<Told>,
    reads: Reads,
    /// How many times as slow as elsewhere faults come and go.
    tempo: u64,
    incarnation: Uid,
    logger: slog::Logger,
}

/// What has been scheduled. `life` is that of the process it is for: what reaches a dead process is lost.
#[derive(Debug)]
enum Happening {
    Deliver(Message),
    Wake { id: ReplicaId, life: u64 },
    Tick { id: ReplicaId, life: u64 },
    BallotSaved { id: ReplicaId, life: u64 },
    BallotLate { id: ReplicaId, life: u64, ballot: Ballot },
    Synced { id: ReplicaId, life: u64 },
    AskPiece { id: ReplicaId, life: u64, to: ReplicaId, number: u64, snapshot: SnapshotId, after: Option<Key> },
    Piece { id: ReplicaId, life: u64, number: u64, piece: Piece },
    PieceLate { id: ReplicaId, life: u64, number: u64 },
    Request { to: ReplicaId, client: Asker, number: u64, request: Request },
    WriteAgain { id: ReplicaId, life: u64, client: Asker, number: u64, command: Bytes, attempts: u32 },
    Forward { id: ReplicaId, life: u64, ticket: u64, to: ReplicaId, command: Bytes },
    ForwardAnswer { id: ReplicaId, life: u64, ticket: u64, answer: Result<Outcome, Refusal> },
    ForwardLate { id: ReplicaId, life: u64, ticket: u64 },
    Reply { client: usize, number: u64, reply: Reply },
    GiveUp { client: usize, number: u64 },
    ClientTurn { client: usize },
    WatchTurn { client: usize },
    Operate,
    Fault,
    HealNetwork,
    DiskWell { id: ReplicaId },
    Resume { id: ReplicaId },
    Crash { id: ReplicaId, power: bool, back_us: u64 },
    Restart { id: ReplicaId, life: u64 },
}

/// What happened, in order: equal for equal seeds.
#[derive(Debug, Default)]
pub struct Trace {
    pub lines: Vec<String>,
    /// Of everything that happened, whether or not lines are kept.
    pub digest: u64,
    /// Of cores.
    pub steps: u64,
    verbose: bool,
}

impl Trace {
    fn line(&mut self, now_us: u64, line: fmt::Arguments<'_>) {
        if self.verbose {
            self.lines.push(format!("{:>10.3} {line}", now_us as f64 / 1e3));
        }
    }

    fn mix(&mut self, numbers: [u64; 4]) {
        for number in numbers {
            self.digest = (self.digest.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}

impl World {
    /// Replicas that have just been founded, and nobody who asks anything of them yet.
    pub fn new(settings: Settings) -> Self {
        let mut chance = Chance::new(settings.seed);
        let replicas = *chance.pick(&[1, 3, 3, 3, 3, 3, 3, 5]).unwrap_or(&3);
        let timing = match chance.between(0, 5) {
            0 => Timing::default(),
            1 => Timing { tick_ms: 15, heartbeat_ticks: 2, election_ticks: 8..16 },
            _ => Timing { tick_ms: 30, heartbeat_ticks: 1, election_ticks: 4..9 },
        };
        let founding = Founding {
            replicas,
            timing,
            reads: Founding::reads(settings.seed),
            history_revisions_max: *chance.pick(&[8, 30, 1000]).unwrap_or(&30),
            incarnation: Uid::from("incarnation"),
            ..Founding::default()
        };
        let mut world = Self::found(settings, chance, founding);
        world.draw_weather();
        world.start_all();
        world
    }

    fn found(settings: Settings, chance: Chance, founding: Founding) -> Self {
        let voters: Vec<ReplicaId> = (1..=founding.replicas as u64).collect();
        let rows: Vec<Entry> = founding.state.entries().collect();
        let state = Mvcc::restore(founding.state.revision(), rows.clone());
        let checkpoint = Checkpoint {
            index: 1,
            term: 1,
            voters: voters.clone(),
            revision: state.revision(),
            hash: state.compacted_hash(),
            ..Checkpoint::default()
        };
        let mut world = Self {
            settings,
            check: Checker::new(&checkpoint, state),
            trace: Trace { verbose: settings.verbose, ..Trace::default() },
            now_us: founding.now_us,
            queue: Queue::default(),
            nodes: BTreeMap::new(),
            network: Network::default(),
            clients: Vec::new(),
            weather: Weather::default(),
            timing: founding.timing,
            history_revisions_max: founding.history_revisions_max,
            target: founding.replicas,
            next_id: founding.replicas as u64 + 1,
            sequence: 0,
            quiet: false,
            told: Vec::new(),
            reads: founding.reads,
            tempo: founding.tempo,
            incarnation: founding.incarnation,
            logger: slog::Logger::root(slog::Discard, slog::o!()),
            chance,
        };
        for id in voters {
            let clock = Clock::new(world.chance.between(0, 1 << 30));
            let disk = Disk::holding(Ballot { term: 1, vote: 0 }, checkpoint.clone(), rows.clone());
            let mut node = Node::new(id, disk, clock);
            node.joined = true;
            world.nodes.insert(id, node);
        }
        world
    }

    fn start_all(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start(id);
        }
    }

    fn core_settings(&self, id: ReplicaId, seed: u64) -> CoreSettings {
        CoreSettings {
            id,
            seed,
            incarnation: self.incarnation.clone(),
            timing: self.timing.clone(),
            reads: self.reads,
            options: Options { history_revisions_max: self.history_revisions_max, ..Options::default() },
            logger: self.logger.clone(),
        }
    }

    pub fn simulated_us(&self) -> u64 {
        self.now_us
    }

    fn after(&mut self, delay_us: u64, happening: Happening) {
        self.queue.push(self.now_us + delay_us, happening);
    }

    /// Lets time pass until then, or until something is wrong.
    fn run_until(&mut self, until_us: u64) {
        while self.check.violations.is_empty()
            && let Some((at, happening)) = self.queue.pop(until_us)
        {
            self.now_us = at;
            self.happen(happening);
        }
        self.now_us = self.now_us.max(until_us);
    }

    fn happen(&mut self, happening: Happening) {
        self.trace.mix(self.summary(&happening));
        match happening {
            Happening::Deliver(message) => self.tell(message.to, Event::Message(message)),
            Happening::Wake { id, life } => self.wake(id, life),
            Happening::Tick { id, life } => self.tick(id, life),
            Happening::BallotSaved { id, life } => self.ballot_saved(id, life),
            Happening::BallotLate { id, life, ballot } => self.ballot_late(id, life, ballot),
            Happening::Synced { id, life } => self.synced(id, life),
            Happening::AskPiece { id, life, to, number, snapshot, after } => {
                self.serve_piece((id, life), to, number, &snapshot, after);
            }
            Happening::Piece { id, life, number, piece } => self.piece(id, life, number, piece),
            Happening::PieceLate { id, life, number } => self.piece_late(id, life, number),
            Happening::Request { to, client, number, request } => self.request(to, client, number, request),
            Happening::WriteAgain { id, life, client, number, command, attempts } => {
                self.write_again((id, life), client, number, command, attempts);
            }
            Happening::Forward { id, life, ticket, to, command } => self.forwarded(id, life, ticket, to, command),
            Happening::ForwardAnswer { id, life, ticket, answer } => self.forward_answer(id, life, ticket, answer),
            Happening::ForwardLate { id, life, ticket } => self.forward_late(id, life, ticket),
            Happening::Reply { client, number, reply } => self.replied(client, number, reply),
            Happening::GiveUp { client, number } => self.give_up(client, number),
            Happening::ClientTurn { client } => self.client_turn(client),
            Happening::WatchTurn { client } => self.watch_turn(client),
            Happening::Operate => self.operate(),
            Happening::Fault => self.fault(),
            Happening::HealNetwork => self.network.heal(),
            Happening::DiskWell { id } => {
                if let Some(node) = self.node(id) {
                    (node.disk.slow, node.disk.full) = (false, false);
                }
            }
            Happening::Resume { id } => self.resume(id),
            Happening::Crash { id, power, back_us } => {
                if self.weather.is_foul() {
                    self.crash_for(id, power, back_us);
                }
            }
            Happening::Restart { id, life } => {
                if self.nodes.get(&id).is_some_and(|node| node.life == life) {
                    self.start(id);
                }
            }
        }
    }

    /// What tells this happening from others, for the digest of the trace.
    fn summary(&self, happening: &Happening) -> [u64; 4] {
        let (tag, a, b) = match happening {
            Happening::Deliver(message) => (1, message.from, message.to),
            Happening::Wake { id, life } => (2, *id, *life),
            Happening::Tick { id, life } => (3, *id, *life),
            Happening::BallotSaved { id, life } | Happening::BallotLate { id, life, .. } => (4, *id, *life),
            Happening::Synced { id, life } => (5, *id, *life),
            Happening::AskPiece { id, number, .. }
            | Happening::Piece { id, number, .. }
            | Happening::PieceLate { id, number, .. } => (6, *id, *number),
            Happening::Request { to, number, .. } => (7, *to, *number),
            Happening::WriteAgain { id, number, .. } => (8, *id, *number),
            Happening::Forward { id, ticket, .. }
            | Happening::ForwardAnswer { id, ticket, .. }
            | Happening::ForwardLate { id, ticket, .. } => (9, *id, *ticket),
            Happening::Reply { number, .. } => (10, *number, 0),
            Happening::GiveUp { number, .. } => (11, *number, 0),
            Happening::ClientTurn { client } | Happening::WatchTurn { client } => (12, *client as u64, 0),
            Happening::Operate | Happening::Fault | Happening::HealNetwork => (13, 0, 0),
            Happening::DiskWell { id } | Happening::Resume { id } | Happening::Crash { id, .. } => (14, *id, 0),
            Happening::Restart { id, life } => (15, *id, *life),
        };
        [self.now_us, tag, a, b]
    }

    /// What was committed is on the disks of most voters.
    fn check_durable(&mut self, news: &News) {
        // A disk that is lost may well have held it.
        let holds = |id: &&ReplicaId| {
            self.nodes.get(id).is_some_and(|node| node.gone.is_some() || node.disk.holds(news.index, news.term))
        };
        let durable = news.groups.iter().any(|voters| voters.iter().filter(holds).count() > voters.len() / 2);
        if !durable {
            let (index, groups) = (news.index, &news.groups);
            let holders: Vec<_> = self.nodes.keys().filter(holds).collect();
            let what =
                format!("entry {index} was committed by most of {groups:?}, but only {holders:?} have it on disk");
            self.check.violate(self.now_us, what);
        }
    }
}
