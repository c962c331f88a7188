//! The agent's decisions: works in, calls on the member and reports out.
//!
//! Owns: which works are taken, what is written to the member and when, what is reported. One synchronous
//! [`Core::step`]; the shell in [`super::run`] and the simulator drive the same code. Must never: do IO, read a clock,
//! or delete anything that no removal names.

//!
//! The parts: [`intake`] takes works, [`holding`] orders what happens to their objects, `member` carries calls out and
//! takes in what is seen, `hub` speaks on the stream, [`brake`] and [`pace`] say how much at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    agent::{
        capacity,
        cluster::{Capacity, Deletion, Live, NamespaceFacts, Rejection},
        ledger::{Broken, Entry, Loaded, Session, Write},
    },
    model::{
        Digest, GroupVersionKind, Now, ObjectRef, Sketch, Uid,
        cluster::Facts,
        protocol::{ToAgent, ToHub, Welcome},
        report::Refused,
    },
};

pub mod brake;
pub mod holding;
mod hub;
pub mod intake;
mod member;
pub mod pace;
#[cfg(test)]
mod tests;

use brake::Brake;
use holding::Holding;
use intake::{Blobs, Offer};
use pace::{Backoff, Budget, Jitter, Ready};

/// What the core is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A stream to the hub stands; it is answered with a `Hello`.
    LinkOpened,
    LinkMessage(ToAgent),
    LinkClosed(String),
    /// The stream took one [`Effect::Send`]. Only so many are on their way at once; what waits is state, not a queue.
    Sent,
    /// Answers [`Effect::Write`].
    Written {
        id: u64,
        result: Result<(), String>,
    },
    /// Answers [`Effect::Call`].
    Answered {
        id: u64,
        answer: Answer,
    },
    Live {
        gvk: GroupVersionKind,
        live: Live,
    },
    Capacity(Capacity),
    Facts(Facts),
    /// The time that [`Core::wake_at`] named has come; harmless at any other time.
    Tick,
}

/// What the core asks for. Effects are carried out in order; each `Call` and `Write` is answered exactly once.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// To the stream that stands. Answered with [`Event::Sent`] once the stream took it.
    Send(ToHub),
    /// Give the stream up and connect anew.
    CloseLink(String),
    /// To the ledger, in order with all other writes.
    Write {
        id: u64,
        writes: Vec<Write>,
    },
    Call {
        id: u64,
        call: Call,
    },
    Watch(GroupVersionKind),
    Unwatch(GroupVersionKind),
}

/// A call on [`super::cluster::Cluster`].
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    EnsureNamespace(String),
    Get(ObjectRef),
    Apply { namespace: String, object: Value },
    Delete { namespace: String, object: ObjectRef, uid: Uid },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Namespace(Result<NamespaceFacts, Rejection>),
    Got(Result<Option<Value>, Rejection>),
    Applied(Result<Value, Rejection>),
    Deleted(Result<Deletion, Rejection>),
}

/// Figures of the core. The defaults are the product's.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Random per process: tells a restarted agent from a second holder of its identity.
    pub instance: String,
    /// Where jitter comes from.
    pub seed: u64,
    /// Calls on the member that may be under way at once.
    pub calls_max: usize,
    /// Writes to the member per second, on average; `writes_burst` at once.
    pub writes_per_second: u64,
    pub writes_burst: u64,
    /// Labels of nodes that placement may ask for beside those that everybody knows.
    pub node_labels: BTreeSet<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: String::new(),
            seed: 0,
            calls_max: 8,
            writes_per_second: 200,
            writes_burst: 400,
            node_labels: BTreeSet::new(),
        }
    }
}

/// The ledger is told this much later of what was applied, so that many applies are one write. Lost with a crash, it
/// costs applies that change nothing.
const LEDGER_DELAY_MS: u64 = 500;
/// Between attempts to write a ledger that cannot be written.
const LEDGER_RETRY_MS: u64 = 1_000;

/// One agent. Synchronous and deterministic: the same events give the same effects.
#[derive(Debug)]
pub struct Core {
    config: Config,
    session: Session,
    link: Link,
    works: BTreeMap<Uid, Holding>,
    offers: BTreeMap<Uid, Offer>,
    /// Refusals of works of which nothing is held, each with the generation that was refused.
    turned_away: BTreeMap<Uid, Refused>,
    broken: Vec<Broken>,
    blobs: Blobs,
    /// Which works name an object of this kind and name.
    named: BTreeMap<(GroupVersionKind, String), BTreeSet<Uid>>,
    /// Kinds in use, and whether their watch has begun.
    watches: BTreeMap<GroupVersionKind, bool>,
    namespaces: BTreeMap<String, Namespace>,
    capacity: capacity::Index,
    facts: Option<Facts>,
    outbox: Outbox,
    calls: BTreeMap<u64, member::Doing>,
    writes: BTreeMap<u64, Wrote>,
    last_id: u64,
    ready: Ready,
    /// Works to be looked at again, by time.
    timers: BTreeSet<(u64, Uid)>,
    unsaved: BTreeSet<Uid>,
    save_at_ms: Option<u64>,
    budget: Budget,
    budget_at_ms: Option<u64>,
    brake: Brake,
    jitter: Jitter,
}

/// The stream to the hub.
#[derive(Debug)]
enum Link {
    Away,
    /// It stands; the new epoch is not durable yet.
    Opening {
        retry_at_ms: Option<u64>,
    },
    /// The hello is out. A hub that lost power says nothing at all, not even that it is gone.
    Greeting {
        until_ms: u64,
    },
    Open(Box<Standing>),
}

#[derive(Debug)]
struct Standing {
    welcome: Welcome,
    /// The hub is of another incarnation than what the ledger holds.
    foreign: bool,
    beat_at_ms: u64,
    heard_at_ms: u64,
}

/// What a namespace of ours is known to be.
#[derive(Debug, Default)]
struct Namespace {
    facts: Option<NamespaceFacts>,
    fresh_until_ms: u64,
    busy: bool,
    retry: Backoff,
}

/// What waits for the hub: state, not a queue.
#[derive(Debug, Default)]
struct Outbox {
    under_way: usize,
    facts: bool,
    fetch: BTreeSet<Digest>,
    /// Works whose report may have changed, and when it is due.
    reports: BTreeMap<Uid, u64>,
    /// Digest of the report that this stream took last.
    sent: BTreeMap<Uid, Digest>,
    sketch_due_at_ms: Option<u64>,
    sketch: Option<Sketch>,
    sequence: u64,
}

/// A write to the ledger that is under way.
#[derive(Debug)]
enum Wrote {
    /// The new epoch; the hello follows.
    Epoch,
    Taken(Arc<Entry>),
    Saved(Vec<Uid>),
    Forgotten(Uid),
    Session,
}

impl Core {
    /// Begins with what the ledger holds; the effects start its watches.
    pub fn start(config: Config, now: Now, loaded: Loaded) -> (Self, Vec<Effect>) {
        let ages = loaded
            .session
            .unnamed_removals
            .iter()
            .map(|(application, at)| (application.clone(), now.wall.millis().saturating_sub(at.millis()).max(0)));
        let mut core = Self {
            brake: Brake::new(ages, now.monotonic_ms),
            jitter: Jitter(config.seed),
            budget: Budget::new(config.writes_per_second, config.writes_burst, now.monotonic_ms),
            capacity: capacity::Index::new(config.node_labels.clone()),
            config,
            session: loaded.session,
            link: Link::Away,
            works: BTreeMap::new(),
            offers: BTreeMap::new(),
            turned_away: BTreeMap::new(),
            broken: loaded.broken,
            blobs: Blobs::new(loaded.blobs),
            named: BTreeMap::new(),
            watches: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            facts: None,
            outbox: Outbox::default(),
            calls: BTreeMap::new(),
            writes: BTreeMap::new(),
            last_id: 0,
            ready: Ready::default(),
            timers: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            save_at_ms: None,
            budget_at_ms: None,
        };
        let mut effects = Vec::new();
        for entry in loaded.entries {
            let application = entry.work.application_uid.clone();
            core.works.insert(application.clone(), Holding::from_entry(entry));
            core.enlist(&application);
            core.get_ready(&application);
        }
        core.renew_watches(&mut effects);
        core.go_on(now, &mut effects);
        (core, effects)
    }

    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::LinkOpened => self.link_opened(now, &mut effects),
            Event::LinkMessage(message) => self.link_message(now, message, &mut effects),
            Event::LinkClosed(_) => self.link_closed(),
            Event::Sent => self.outbox.under_way = self.outbox.under_way.saturating_sub(1),
            Event::Written { id, result } => self.written(now, id, result, &mut effects),
            Event::Answered { id, answer } => self.answered(now, id, answer),
            Event::Live { gvk, live } => self.live(now, &gvk, live),
            Event::Capacity(change) => self.capacity(now, change),
            Event::Facts(facts) => self.take_facts(facts, &mut effects),
            Event::Tick => {}
        }
        self.go_on(now, &mut effects);
        effects
    }

    /// When the next [`Event::Tick`] is due, in milliseconds of [`Now::monotonic_ms`].
    pub fn wake_at(&self) -> Option<u64> {
        let works = self.timers.first().map(|(at, _)| *at);
        let offers = self.offers.values().filter_map(|offer| match offer.stage {
            intake::Stage::RetryAt(at) => Some(at),
            intake::Stage::Fetching | intake::Stage::Writing => None,
        });
        [works, self.save_at_ms, self.budget_at_ms, self.link_wake_at()].into_iter().flatten().chain(offers).min()
    }

    /// Whatever is due, whatever the event was.
    fn go_on(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((at, application)) = self.timers.first().cloned() {
            if at > now.monotonic_ms {
                break;
            }
            self.timers.pop_first();
            self.get_ready(&application);
        }
        self.retry_offers(now, effects);
        self.act(now, effects);
        if self.save_at_ms.is_some_and(|at| at <= now.monotonic_ms) {
            self.save(effects);
        }
        self.speak(now, effects);
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn write(&mut self, writes: Vec<Write>, wrote: Wrote, effects: &mut Vec<Effect>) {
        let id = self.next_id();
        self.writes.insert(id, wrote);
        effects.push(Effect::Write { id, writes });
    }

    fn get_ready(&mut self, application: &Uid) {
        self.ready.push(application.clone());
    }

    fn unsaved(&mut self, now: Now, application: &Uid) {
        self.unsaved.insert(application.clone());
        self.save_at_ms.get_or_insert(now.monotonic_ms + LEDGER_DELAY_MS);
    }

    /// Writes down what was applied and removed since. A work with a newer offer under way is written with that.
    fn save(&mut self, effects: &mut Vec<Effect>) {
        self.save_at_ms = None;
        let written = |offer: &Offer| offer.stage == intake::Stage::Writing;
        let (later, now): (BTreeSet<Uid>, BTreeSet<Uid>) = std::mem::take(&mut self.unsaved)
            .into_iter()
            .partition(|application| self.offers.get(application).is_some_and(written));
        self.unsaved = later;
        let entries = now.iter().filter_map(|application| self.works.get(application));
        let writes: Vec<Write> =
            entries.map(|holding| Write::Entry { entry: Arc::new(holding.entry()), blobs: Vec::new() }).collect();
        if !writes.is_empty() {
            self.write(writes, Wrote::Saved(now.into_iter().collect()), effects);
        }
    }

    fn written(&mut self, now: Now, id: u64, result: Result<(), String>, effects: &mut Vec<Effect>) {
        let Some(wrote) = self.writes.remove(&id) else { return };
        match (wrote, result) {
            (Wrote::Epoch, Ok(())) => self.greet(now, effects),
            (Wrote::Epoch, Err(_)) => {
                if let Link::Opening { retry_at_ms } = &mut self.link {
                    *retry_at_ms = Some(now.monotonic_ms + LEDGER_RETRY_MS);
                }
            }
            (Wrote::Taken(entry), result) => self.taken(now, &entry, result, effects),
            (Wrote::Forgotten(application), Ok(())) => self.forget(&application, effects),
            // It is still held: the hub sends its release again.
            (Wrote::Forgotten(_) | Wrote::Session, _) | (Wrote::Saved(_), Ok(())) => {}
            (Wrote::Saved(applications), Err(_)) => {
                self.unsaved.extend(applications);
                self.save_at_ms = Some(now.monotonic_ms + LEDGER_RETRY_MS);
            }
        }
    }

    /// Makes the objects of a work findable.
    fn enlist(&mut self, application: &Uid) {
        let Some(holding) = self.works.get(application) else { return };
        for object in holding.things.keys() {
            let name = (object.gvk.clone(), object.name.name.clone());
            self.named.entry(name).or_default().insert(application.clone());
        }
    }

    fn delist(&mut self, application: &Uid) {
        let Some(holding) = self.works.get(application) else { return };
        for object in holding.things.keys() {
            let name = (object.gvk.clone(), object.name.name.clone());
            if let Some(works) = self.named.get_mut(&name) {
                works.remove(application);
                if works.is_empty() {
                    self.named.remove(&name);
                }
            }
        }
    }

    /// Watches the kinds that works name, and no others.
    fn renew_watches(&mut self, effects: &mut Vec<Effect>) {
        let used: BTreeSet<&GroupVersionKind> = self.named.keys().map(|(gvk, _)| gvk).collect();
        effects.extend(self.watches.keys().filter(|gvk| !used.contains(gvk)).map(|gvk| Effect::Unwatch(gvk.clone())));
        effects.extend(
            used.iter().filter(|gvk| !self.watches.contains_key(**gvk)).map(|gvk| Effect::Watch((*gvk).clone())),
        );
        self.watches =
            used.into_iter().map(|gvk| (gvk.clone(), self.watches.get(gvk).copied().unwrap_or(false))).collect();
    }

    fn take_facts(&mut self, facts: Facts, effects: &mut Vec<Effect>) {
        if self.facts.as_ref() == Some(&facts) {
            return;
        }
        if self.session.member.is_none() && !facts.system_uid.is_empty() {
            self.session.member = Some(Uid(facts.system_uid.clone()));
            self.write(vec![Write::Session(self.session.clone())], Wrote::Session, effects);
        }
        self.facts = Some(facts);
        self.outbox.facts = true;
        let works: Vec<Uid> = self.works.keys().cloned().collect();
        works.iter().for_each(|application| self.get_ready(application));
    }

    /// Whether it may write to the member: not while the hub told it to stand down, nor before it knows that this is
    /// the cluster that the ledger is for. A copied directory must not act elsewhere.
    fn may_act(&self) -> bool {
        let here = self.facts.as_ref().map(|facts| facts.system_uid.as_str());
        !self.session.stood_down && here.is_some() && here == self.session.member.as_ref().map(|uid| uid.0.as_str())
    }
}
