//! A whole federation in one thread, under one seed: a hub replica, agents, members, and all that can go wrong between
//! them.
//!
//! Owns: time, chance, the network, disks and crashes. Everything that decides is the product's own code: the store's
//! state machine, [`Controller`](crate::hub::control::Controller), [`Slices`](crate::hub::slices::Slices),
//! [`Session`](crate::hub::agents::session::Session) and [`Core`](crate::agent::core::Core) are stepped here as their
//! shells step them. Must never: read a clock, use tokio, or let two runs of one seed differ.

mod admin;
mod hub;
mod link;
mod site;

use std::{collections::BTreeMap, fmt};

pub use self::site::Site;
use self::{
    hub::{Disk, Hub},
    link::Stream,
};
use super::{chance::Chance, check::Checker, mutant::Mutant};
use crate::{
    agent::{
        cluster::Capacity,
        cluster::Live,
        core::{Answer, Call},
        ledger::Write,
    },
    model::{GroupVersionKind, Now, Timestamp},
    store::{Error, Outcome, Transaction, mvcc::Mvcc},
};

/// Index of a site: a member with its agent.
pub type At = usize;

/// When the simulated world begins, in wall time.
const DAWN_MS: i64 = 1_800_000_000_000;

#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    /// What goes wrong by itself, in thousandths: answers lost, ledger writes failed, messages repeated.
    pub mishaps: u64,
    /// A bug planted on purpose, to see whether the rules find it.
    pub mutant: Option<Mutant>,
    /// Keep every line of the trace.
    pub verbose: bool,
}

impl Settings {
    pub fn quiet(seed: u64) -> Self {
        Self { seed, mishaps: 0, mutant: None, verbose: false }
    }
}

pub struct World {
    pub settings: Settings,
    pub chance: Chance,
    pub check: Checker,
    pub trace: Trace,
    pub(super) now_ms: u64,
    pub(super) disk: Disk,
    pub(super) hub: Option<Hub>,
    pub(super) sites: Vec<Site>,
    hub_life: u64,
    backup: Option<Mvcc>,
    streams: BTreeMap<u64, Stream>,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
}

/// What has been scheduled. `life` is that of the process it is for: what reaches a dead process is lost.
#[derive(Debug)]
enum Happening {
    Commit { life: u64, id: u64, transaction: Transaction },
    Done { life: u64, id: u64, outcome: Result<Outcome, Error> },
    Feed { life: u64, consumer: hub::Consumer },
    HubTick { life: u64 },
    SessionTick { stream: u64 },
    Pump { stream: u64, up: bool },
    Dial { at: At, life: u64 },
    Sent { at: At, life: u64 },
    Ledger { at: At, life: u64, id: u64, writes: Vec<Write> },
    Written { at: At, life: u64, id: u64, result: Result<(), String> },
    Request { at: At, life: u64, id: u64, call: Call },
    Answered { at: At, life: u64, id: u64, answer: Answer },
    Live { at: At, life: u64, gvk: GroupVersionKind, live: Live },
    Capacity { at: At, life: u64, capacity: Capacity },
    AgentTick { at: At, life: u64 },
    MemberDue { at: At },
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
        let mut world = Self {
            chance: Chance::new(settings.seed),
            check: Checker::default(),
            trace: Trace { verbose: settings.verbose, ..Trace::default() },
            now_ms: 1,
            disk: Disk::new(settings.seed),
            hub: None,
            sites: Vec::new(),
            hub_life: 0,
            backup: None,
            streams: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            settings,
        };
        world.start_hub();
        world
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
        let Some(((at, _), happening)) = self.queue.pop_first() else { return false };
        self.now_ms = self.now_ms.max(at);
        self.trace.steps += 1;
        self.happen(happening);
        true
    }

    /// Lets `ms` pass.
    pub fn run_for(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.check.violations.is_empty() && self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until)
        {
            self.step();
        }
        self.now_ms = self.now_ms.max(until);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Commit { life, id, transaction } => self.commit(life, id, transaction),
            Happening::Done { life, id, outcome } => self.done(life, id, outcome),
            Happening::Feed { life, consumer } => self.feed(life, consumer),
            Happening::HubTick { life } => self.hub_tick(life),
            Happening::SessionTick { stream } => self.session_tick(stream),
            Happening::Pump { stream, up } => self.pump(stream, up),
            Happening::Dial { at, life } => self.dial(at, life),
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
