//! A whole federation in one thread, under one seed: the replicas of a hub, agents, members, and all that can go wrong
//! between them.
//!
//! Owns: time, chance, the network between agents and replicas, and crashes; [`replicas`] has those of the store below the
//! hub. Everything that decides is the product's own code: the replicated store,
//! [`Turn`](crate::hub::control::turn::Turn), [`Outpost`](crate::hub::desk::outpost::Outpost),
//! [`Slices`](crate::hub::slices::Slices), [`Session`](crate::hub::agents::session::Session),
//! [`Course`](crate::agent::link::course::Course) and [`Core`](crate::agent::core::Core) are stepped here as their shells
//! step them. Must never: read a clock, use tokio, or let two runs of one seed differ.

mod admin;
mod group;
mod hub;
mod lead;
mod link;
mod post;
mod site;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;

pub use self::site::Site;
use self::{
    group::{Ask, Truth},
    hub::{Consumer, Hub, Process},
    link::Stream,
    post::Way,
};
use super::{
    chance::Chance,
    check::Checker,
    mutant::Mutant,
    replicas::{self, outside::Reply},
};
use crate::{
    agent::{
        cluster::Capacity,
        cluster::Live,
        core::{Answer, Call},
        ledger::Write,
        link::course::{self, Ended},
    },
    model::{GroupVersionKind, Now, Timestamp, Uid},
    store::{
        Transaction,
        mvcc::Mvcc,
        raft::{Leadership, ReplicaId},
    },
};

/// Index of a site: a member with its agent.
pub type At = usize;

/// When the simulated world begins, in wall time.
const DAWN_MS: i64 = 1_800_000_000_000;

#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    /// Of the hub.
    pub replicas: usize,
    /// What goes wrong by itself, in thousandths: answers lost, ledger writes failed, messages repeated.
    pub mishaps: u64,
    /// A bug planted on purpose, to see whether the rules find it.
    pub mutant: Option<Mutant>,
    /// Keep every line of the trace.
    pub verbose: bool,
}

impl Settings {
    pub fn quiet(seed: u64) -> Self {
        Self { seed, replicas: 1, mishaps: 0, mutant: None, verbose: false }
    }
}

pub struct World {
    pub settings: Settings,
    pub chance: Chance,
    pub check: Checker,
    pub trace: Trace,
    pub(super) now_ms: u64,
    pub group: replicas::World,
    hubs: BTreeMap<ReplicaId, Hub>,
    hub_uid: Uid,
    incarnation: Uid,
    truth: Truth,
    /// Who waits for which answer of the store.
    asks: BTreeMap<u64, (Process, Ask)>,
    /// Commands of the hub itself, with the turn at leading that each is of.
    authors: BTreeMap<Bytes, Option<u64>>,
    /// What a person waits for, and the answer.
    awaited: Option<u64>,
    answer: Option<Reply>,
    pub(super) sites: Vec<Site>,
    backup: Option<Mvcc>,
    streams: BTreeMap<u64, Stream>,
    /// Between replicas.
    ways: BTreeMap<u64, Way>,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
}

/// What has been scheduled. `life` is that of the process it is for: what reaches a dead process is lost.
#[derive(Debug)]
enum Happening {
    Leadership {
        process: Process,
        leadership: Leadership,
    },
    LeadAgain {
        process: Process,
    },
    TakeLead {
        process: Process,
        turn: u64,
    },
    TurnTick {
        process: Process,
        turn: u64,
    },
    Commit {
        process: Process,
        turn: u64,
        id: u64,
        transaction: Transaction,
    },
    Answer {
        process: Process,
        ask: Ask,
        reply: Reply,
    },
    List {
        process: Process,
        consumer: Consumer,
        number: u64,
    },
    Feed {
        process: Process,
        consumer: Consumer,
    },
    SessionTick {
        process: Process,
        stream: u64,
    },
    CatchUpAgain {
        process: Process,
        stream: u64,
    },
    CatchUpLate {
        process: Process,
        stream: u64,
    },
    PostTick {
        process: Process,
    },
    OpenWay {
        process: Process,
    },
    WayLost {
        process: Process,
        number: u64,
    },
    HangUp {
        number: u64,
    },
    /// `to` is the end that reads.
    Way {
        number: u64,
        to: ReplicaId,
        up: bool,
    },
    Pump {
        stream: u64,
        up: bool,
    },
    LinkTick {
        at: At,
        life: u64,
    },
    /// To any replica where none is named.
    Dial {
        at: At,
        life: u64,
        replica: Option<ReplicaId>,
    },
    Undialled {
        at: At,
        life: u64,
    },
    Sent {
        at: At,
        life: u64,
    },
    Ledger {
        at: At,
        life: u64,
        id: u64,
        writes: Vec<Write>,
    },
    Written {
        at: At,
        life: u64,
        id: u64,
        result: Result<(), String>,
    },
    Request {
        at: At,
        life: u64,
        id: u64,
        call: Call,
    },
    Answered {
        at: At,
        life: u64,
        id: u64,
        answer: Answer,
    },
    Live {
        at: At,
        life: u64,
        gvk: GroupVersionKind,
        live: Live,
    },
    Capacity {
        at: At,
        life: u64,
        capacity: Capacity,
    },
    AgentTick {
        at: At,
        life: u64,
    },
    MemberDue {
        at: At,
    },
}

/// What happened, in order: equal for equal seeds.
#[derive(Debug, Default)]
pub struct Trace {
    pub lines: Vec<String>,
    pub steps: u64,
    verbose: bool,
}

impl Trace {
    pub fn line(&mut self, now_ms: u64, line: fmt::Arguments<'_>) {
        if self.verbose {
            self.lines.push(format!("{now_ms:>9} {line}"));
        }
    }
}

impl World {
    /// A running hub and no clusters.
    pub fn new(settings: Settings) -> Self {
        let uid = |kind: &str| Uid(format!("{kind}-{:016x}", settings.seed));
        let incarnation = uid("incarnation");
        let group = group::found(settings.seed, settings.replicas, &incarnation, Mvcc::default(), 1);
        let truth = Truth::of(group.check.state());
        let mut world = Self {
            chance: Chance::new(settings.seed),
            check: Checker::default(),
            trace: Trace { verbose: settings.verbose, ..Trace::default() },
            now_ms: 1,
            group,
            hubs: BTreeMap::new(),
            hub_uid: uid("hub"),
            incarnation,
            truth,
            asks: BTreeMap::new(),
            authors: BTreeMap::new(),
            awaited: None,
            answer: None,
            sites: Vec::new(),
            backup: None,
            streams: BTreeMap::new(),
            ways: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            settings,
        };
        world.follow_group();
        world.wait_for_a_leader();
        world
    }

    fn wait_for_a_leader(&mut self) {
        let leads = |world: &Self| world.hubs.values().any(|hub| hub.lead.as_ref().is_some_and(lead::Lead::is_open));
        for _ in 0..100 {
            if leads(self) {
                return self.run_for(1_000);
            }
            self.run_for(100);
        }
    }

    /// Every replica dies.
    pub fn crash_hub(&mut self, power_cut: bool) {
        for id in self.group.all() {
            self.crash_replica(id, power_cut);
        }
    }

    pub fn crash_replica(&mut self, id: ReplicaId, power_cut: bool) {
        self.group.kill(id, power_cut);
        self.follow_group();
    }

    /// Every replica that is down comes back.
    pub fn start_hub(&mut self) {
        for id in self.group.all() {
            self.group.boot(id);
        }
        self.follow_group();
    }

    /// Things go wrong between and in replicas from now on.
    pub fn foul(&mut self) {
        self.group.foul();
    }

    /// The replicas are all well again.
    pub fn heal_replicas(&mut self) {
        self.group.heal();
        self.follow_group();
    }

    /// What the hub has on disk now, to go back to.
    pub fn back_up(&mut self) {
        self.backup = Some(self.store().clone());
    }

    /// The hub comes back on an old disk: as a new incarnation where it was restored by the book, and as if nothing had
    /// happened where somebody copied files.
    pub fn restore(&mut self, by_the_book: bool) -> bool {
        let Some(store) = self.backup.clone() else { return false };
        self.crash_hub(false);
        if by_the_book {
            self.incarnation = self.new_uid("incarnation");
        }
        let (seed, replicas) = (self.settings.seed, self.settings.replicas);
        self.group = group::found(seed, replicas, &self.incarnation, store, self.now_ms);
        self.truth = Truth::of(self.group.check.state());
        self.asks.clear();
        self.authors.clear();
        self.check.went_back();
        self.follow_group();
        self.wait_for_a_leader();
        true
    }

    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The member's API server stops answering its agent, or answers again.
    pub fn set_unreachable(&mut self, at: At, unreachable: bool) {
        self.sites[at].unreachable = unreachable;
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// As the hub's clock and the members' API servers see it; agents' clocks are wrong by their own skew.
    fn now(&self) -> Now {
        Now { wall: Timestamp::from_millis(DAWN_MS + self.now_ms as i64), monotonic_ms: self.now_ms }
    }

    fn after(&mut self, delay_ms: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now_ms + delay_ms, self.sequence), happening);
    }

    fn mishap(&mut self) -> bool {
        self.settings.mishaps > 0 && self.chance.happens(self.settings.mishaps)
    }

    /// Lets the next thing happen; false where nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let ours = self.queue.first_key_value().map(|((at, _), _)| at * 1000);
        let theirs = self.group.next_us();
        self.trace.steps += 1;
        if theirs.is_some_and(|theirs| ours.is_none_or(|ours| theirs < ours)) {
            self.group.step();
            self.now_ms = self.now_ms.max(theirs.unwrap_or_default() / 1000);
        } else {
            let Some(((at, _), happening)) = self.queue.pop_first() else { return false };
            self.now_ms = self.now_ms.max(at);
            self.group.set_time(self.now_ms * 1000);
            match self.reader_of(&happening).filter(|id| self.group.is_paused(*id)) {
                Some(id) => self.hubs.entry(id).and_modify(|hub| hub.held.push(happening)),
                None => {
                    self.happen(happening);
                    self.follow_group();
                    return true;
                }
            };
        }
        self.follow_group();
        true
    }

    fn next_ms(&self) -> u64 {
        let ours = self.queue.first_key_value().map(|((at, _), _)| *at);
        let theirs = self.group.next_us().map(|us| us / 1000);
        ours.into_iter().chain(theirs).min().unwrap_or(u64::MAX)
    }

    /// The replica whose process has to run for it.
    fn reader_of(&self, happening: &Happening) -> Option<ReplicaId> {
        match happening {
            Happening::Leadership { process, .. }
            | Happening::LeadAgain { process }
            | Happening::TakeLead { process, .. }
            | Happening::TurnTick { process, .. }
            | Happening::Commit { process, .. }
            | Happening::Answer { process, .. }
            | Happening::List { process, .. }
            | Happening::Feed { process, .. }
            | Happening::SessionTick { process, .. }
            | Happening::CatchUpAgain { process, .. }
            | Happening::CatchUpLate { process, .. }
            | Happening::PostTick { process }
            | Happening::OpenWay { process }
            | Happening::WayLost { process, .. } => self.is_alive(*process).then_some(process.id),
            Happening::Way { to, .. } => Some(*to),
            Happening::Pump { stream, up: true } => self.reader(*stream).map(|process| process.id),
            _ => None,
        }
    }

    /// Lets `ms` pass.
    pub fn run_for(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.check.violations.is_empty() && self.next_ms() <= until {
            self.step();
        }
        self.now_ms = self.now_ms.max(until);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Leadership { process, leadership } => self.leadership(process, leadership),
            Happening::LeadAgain { process } => self.begin_turn(process),
            Happening::TakeLead { process, turn } => self.read_leader_key(process, turn),
            Happening::TurnTick { process, turn } => self.turn_tick(process, turn),
            Happening::Commit { process, turn, id, transaction } => self.commit(process, turn, id, transaction),
            Happening::Answer { process, ask, reply } => self.answer(process, ask, reply),
            Happening::List { process, consumer, number } => {
                if self.is_alive(process) {
                    self.list(process, consumer, number);
                }
            }
            Happening::Feed { process, consumer } => self.feed(process, consumer),
            Happening::SessionTick { process, stream } => self.session_tick(process, stream),
            Happening::CatchUpAgain { process, stream } => self.catch_up_again(process, stream),
            Happening::CatchUpLate { process, stream } => self.catch_up_late(process, stream),
            Happening::PostTick { process } => self.post_tick(process),
            Happening::OpenWay { process } => self.open_way(process),
            Happening::WayLost { process, number } => self.way_lost(process, number),
            Happening::HangUp { number } => self.hang_up(number, false),
            Happening::Way { number, up, .. } => self.pump_way(number, up),
            Happening::Pump { stream, up } => self.pump(stream, up),
            Happening::LinkTick { at, life } => {
                let site = &mut self.sites[at];
                if let Some(agent) = site.agent.as_mut().filter(|_| site.life == life) {
                    agent.course_armed = None;
                }
                self.steer(at, life, course::Event::Tick);
            }
            Happening::Dial { at, life, replica } => self.dial(at, life, replica),
            Happening::Undialled { at, life } => self.steer(at, life, course::Event::Ended(Ended::Lost)),
            Happening::Sent { at, life } => self.agent_step(at, life, crate::agent::core::Event::Sent),
            Happening::Ledger { at, life, id, writes } => self.write_ledger(at, life, id, &writes),
            Happening::Written { at, life, id, result } => {
                self.agent_step(at, life, crate::agent::core::Event::Written { id, result });
            }
            Happening::Request { at, life, id, call } => self.request(at, life, id, call),
            Happening::Answered { at, life, id, answer } => {
                self.agent_step(at, life, crate::agent::core::Event::Answered { id, answer });
            }
            Happening::Live { at, life, gvk, live } => {
                self.agent_step(at, life, crate::agent::core::Event::Live { gvk, live });
            }
            Happening::Capacity { at, life, capacity } => {
                self.agent_step(at, life, crate::agent::core::Event::Capacity(capacity));
            }
            Happening::AgentTick { at, life } => self.agent_tick(at, life),
            Happening::MemberDue { at } => self.member_due(at),
        }
    }
}
