//! Control: the leader's loops as one synchronous step. Everything the hub decides is decided here.
//!
//! Owns: revisions, placements, statuses, the Ready of clusters, deletion, expiry. Must never: write a user's `spec`
//! (rule 16), order a removal because something is silent, missing or unknown (rule 1), or write when nothing changed
//! (rule 13).
//!
//! [`Controller::step`] is told what happened and asks for what is to be done; [`run`] is the shell around it. What the
//! store's feed says is the truth ([`index`]); beside it only what agents said since this process leads ([`clusters`])
//! and what is being written ([`lanes`]) is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

pub use self::driver::{Beats, run};
#[cfg(test)]
pub use self::turn::LEADER;
use self::{
    agenda::{Agenda, Due},
    applications::{LANES_MAX, Losses},
    brake::Brake,
    clusters::Member,
    expiry::Housekeeping,
    index::{Index, Touched},
    lanes::{Lane, Plan},
    outbox::Outbox,
    plugins::Plugins,
    preempting::Claims,
    rebalancing::Rounds,
    reservations::Reservations,
    revisions::RenderFaults,
    waking::Waiting,
};
use super::{
    events::{Note, Recorder},
    feed::Feed,
    limits::CLUSTER_GRACE,
};
use crate::{
    flow::schedule::{Ask, Fleet},
    model::{Now, Report, Sketch, Uid, cluster::Facts, condition::Truth, plugin::Judgements},
    store::{Compare, Error, Key, Outcome, Revision, Transaction},
};

mod agenda;
mod applications;
mod brake;
mod clusters;
mod deletion;
mod draining;
mod driver;
mod expiry;
mod handing;
mod index;
mod inquiry;
mod lanes;
mod neighbours;
mod outbox;
mod plugins;
mod preempting;
mod priorities;
mod profiles;
mod rebalancing;
mod reservations;
mod revisions;
mod rooms;
#[cfg(test)]
mod tests;
pub mod turn;
mod waking;
mod writing;

/// Asked of [`Controller::step`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// What the store says, in its order.
    Store(Feed),
    Agent(FromAgent),
    /// The answer to [`Effect::Commit`].
    Done {
        id: u64,
        outcome: Result<Outcome, Error>,
    },
    /// The answer to [`Effect::Ask`], or why there is none.
    Answered {
        id: u64,
        answer: Result<Judgements, String>,
    },
    /// Somebody else's event about an object, to be recorded under the same limits.
    Note(Note),
    /// [`Controller::deadline`] is reached; harmless at any other time.
    Tick,
}

/// Done by the driver, in order; only commits and questions are answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Commit {
        id: u64,
        transaction: Transaction,
    },
    /// A plug-in is to be asked; answered once, within the time it says.
    Ask {
        id: u64,
        ask: Arc<Ask>,
    },
    Compact(Revision),
    /// Another process leads: stop deciding at once.
    StepDown,
    /// Something stored cannot be read, or something decided cannot be stored: for the log.
    Fault(String),
}

/// What the agents' sessions pass on. The cluster is always the authenticated one.
#[derive(Debug, Clone, PartialEq)]
pub enum FromAgent {
    Connected {
        cluster: Uid,
    },
    Disconnected {
        cluster: Uid,
    },
    /// Any sign of life; its time is the step's.
    Beat {
        cluster: Uid,
    },
    Sketch {
        cluster: Uid,
        sketch: Sketch,
    },
    Facts {
        cluster: Uid,
        facts: Facts,
    },
    Report {
        cluster: Uid,
        report: Box<Report>,
    },
    /// Two holders of one identity: the cluster is frozen until a person decides. An annotation on the Cluster
    /// (`hub::agents::roster::FROZEN`) keeps both out until a person removes it.
    Frozen {
        cluster: Uid,
    },
    /// An agent proved that the store once was at `revision`, which it has not reached (again): it went back in time.
    /// Nothing may be decided from it until a person has looked.
    StoreWentBack {
        cluster: Uid,
        revision: Revision,
    },
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// Silence of this length makes a cluster Unknown.
    pub grace_ms: u64,
    /// Where the sockets of placement plug-ins are.
    pub plugins: Option<PathBuf>,
    /// The leader's key and the revision at which this process wrote it; compared in every transaction.
    pub leader: Option<(Key, Revision)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { grace_ms: CLUSTER_GRACE.as_millis() as u64, plugins: None, leader: None }
    }
}

#[derive(Default)]
pub struct Controller {
    settings: Settings,
    index: Index,
    /// Every Cluster as placement sees it.
    fleet: Fleet,
    /// What was heard of each Cluster since this process leads.
    members: BTreeMap<Uid, Member>,
    truths: BTreeMap<Uid, Truth>,
    reservations: Reservations,
    brake: Brake,
    recorder: Recorder,
    outbox: Outbox,
    house: Housekeeping,
    /// By Application or Cluster: what is being written.
    lanes: BTreeMap<Uid, Lane>,
    commits: BTreeMap<u64, Purpose>,
    commit_id: u64,
    /// Conflicts in a row, by object.
    retries: BTreeMap<Uid, u32>,
    due: Agenda,
    /// Applications that would lose something unnamed, until all that are due have been looked at.
    losing: BTreeMap<Uid, Losses>,
    clusters_due: BTreeMap<Uid, u64>,
    silence_check_ms: u64,
    /// Applications for which more room, or a voice, may change the answer, and what room.
    waiting: Waiting,
    /// Applications that have a part in every cluster that they may have.
    wide: BTreeSet<Uid>,
    /// Decisions made, for tests of who is decided anew.
    #[cfg(test)]
    decisions: u64,
    render_faults: BTreeMap<Uid, RenderFaults>,
    plugins: Plugins,
    rounds: Rounds,
    claims: Claims,
    /// When each Application was last written, for pacing.
    written_ms: BTreeMap<Uid, u64>,
    deposed: bool,
    /// The store went back in time: what it says may be old, so nothing is decided on it.
    halted: bool,
    effects: Vec<Effect>,
}

/// What a commit was for.
#[derive(Debug, Clone)]
enum Purpose {
    Lane(Uid),
    Outbox,
    Sweep,
}

/// A write whose end nobody knows has ended after this long, one way or the other.
const DOUBT_MS: u64 = 10_000;
/// First pause after a conflict; doubles up to a hundred times that.
const RETRY_MS: u64 = 10;

impl Controller {
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        if self.deposed {
            return Vec::new();
        }
        match event {
            Event::Store(feed) => self.on_feed(now, &feed),
            Event::Agent(message) => self.on_agent(now, message),
            Event::Done { id, outcome } => self.on_done(now, id, outcome),
            Event::Answered { id, answer } => self.on_answer(now, id, answer),
            Event::Note(note) => self.note(now, &note),
            Event::Tick => {}
        }
        if self.index.ready && !self.deposed {
            self.lapse(now);
            self.lapse_questions(now);
            self.watch_silence(now);
            self.settle_clusters(now);
            self.look_for_those_that_wait(now);
            if !self.halted {
                self.begin_rounds(now);
                self.settle_applications(now);
                self.housekeep(now);
            }
            self.look_for_those_that_wait(now);
            self.flush(now);
        }
        std::mem::take(&mut self.effects)
    }

    /// When to send the next [`Event::Tick`], in `monotonic_ms`; absent while there is nothing to wait for.
    pub fn deadline(&self) -> Option<u64> {
        if !self.index.ready || self.deposed {
            return None;
        }
        let free = |uid: &Uid| !self.lanes.contains_key(uid);
        let decides = !self.halted && self.lanes.len() < LANES_MAX;
        let clusters = self.clusters_due.iter().filter(|(uid, _)| free(uid)).map(|(_, at_ms)| *at_ms);
        let others = [
            Some(self.silence_check_ms),
            self.outbox.deadline(),
            self.reservations.deadline(),
            self.plugins.deadline(),
            decides.then(|| self.due.next_ms(free)).flatten(),
            decides.then(|| self.rounds.next.next_ms(|_| true)).flatten(),
            (!self.halted).then_some(self.house.next_ms),
        ];
        clusters.chain(others.into_iter().flatten()).min()
    }

    /// Whether the store has been read: before that, what agents say cannot be told apart from what strangers would.
    pub fn is_ready(&self) -> bool {
        self.index.ready
    }

    /// Of the reports heard, the first so many are stored or say nothing new.
    pub fn settled(&self) -> u64 {
        self.outbox.settled()
    }

    /// Whether nothing is being written: for tests and the simulator.
    pub fn is_idle(&self) -> bool {
        self.commits.is_empty()
    }

    fn on_feed(&mut self, now: Now, feed: &Feed) {
        let mut touched = self.index.apply(feed);
        for fault in std::mem::take(&mut touched.faults) {
            self.effects.push(Effect::Fault(fault));
        }
        if matches!(feed, Feed::Reset { .. }) {
            self.on_reset(now);
        }
        for (key, entry) in &touched.events {
            self.recorder.learn(key, entry.as_ref());
        }
        self.on_touched(now, &touched);
        let revision = self.index.revision;
        let told = |lane: &Lane| lane.committed.is_some_and(|committed| committed <= revision);
        let done: Vec<Uid> = self.lanes.iter().filter(|(_, lane)| told(lane)).map(|(uid, _)| uid.clone()).collect();
        for uid in done {
            self.end_lane(&uid);
        }
    }

    /// All that was derived is derived anew; what agents said stays, for it does not come from the store.
    fn on_reset(&mut self, now: Now) {
        let lanes = std::mem::take(&mut self.lanes);
        let doubts = std::mem::take(&mut self.reservations).into_doubts();
        self.reservations = Reservations::with(doubts);
        // What was under way may be stored in a moment.
        for (uid, lane) in lanes {
            self.doubt(now, &uid, &lane);
        }
        self.recorder = Recorder::default();
        self.fleet.clear();
        self.truths.clear();
        self.waiting = Waiting::default();
        self.plugins.start_over();
        self.rounds = Rounds::default();
        self.claims = Claims::default();
        self.wide.clear();
        let clusters = &self.index.clusters;
        self.members.retain(|uid, _| clusters.contains_key(uid));
        self.house.start(now);
    }

    fn on_touched(&mut self, now: Now, touched: &Touched) {
        let mut chosen_anew = false;
        for cluster in &touched.clusters {
            chosen_anew |= self.on_cluster(now, cluster);
        }
        for application in &touched.gone {
            self.forget_application(application);
            self.on_claims(now, application);
            self.on_victim(now, application);
        }
        // One that is being deleted claims nothing any more, and another class is another priority.
        for application in &touched.applications {
            if self.claims.is_claiming(application) {
                self.reserve(application);
                self.on_claims(now, application);
            }
            self.on_victim(now, application);
        }
        for application in &touched.placements {
            self.reserve(application);
            self.on_claims(now, application);
            self.on_victim(now, application);
        }
        if !touched.placements.is_empty() {
            self.tell_of_leaving(now);
        }
        for (cluster, application) in &touched.reports {
            let refused = self.is_refused(application, cluster);
            self.reservations.refused(now.monotonic_ms, (cluster, application), refused);
            self.reserve_in(application, cluster);
            self.on_report_stored(now, application, cluster);
        }
        if chosen_anew {
            self.plugins.start_over();
            for application in self.index.applications.keys().cloned().collect::<Vec<_>>() {
                self.mark(&application, now.monotonic_ms, true);
            }
        } else {
            for application in &touched.applications {
                self.mark(application, now.monotonic_ms, true);
            }
            self.on_profiles(now, &touched.profiles);
            self.on_classes(now, &touched.classes);
            self.on_moved(now, &touched.moved);
        }
    }

    fn on_done(&mut self, now: Now, id: u64, outcome: Result<Outcome, Error>) {
        let Some(purpose) = self.commits.remove(&id) else { return };
        if let (Ok(Outcome::Conflict(held)), Some((_, modified))) = (&outcome, &self.settings.leader)
            && held.first().is_none_or(|entry| entry.as_ref().map(|entry| entry.modified) != Some(*modified))
        {
            self.deposed = true;
            self.effects.push(Effect::StepDown);
            return;
        }
        match purpose {
            Purpose::Lane(uid) => self.on_lane_done(now, &uid, id, outcome),
            Purpose::Outbox => self.outbox.done(now, matches!(outcome, Ok(Outcome::Committed(_)))),
            // The next round sees what became of it.
            Purpose::Sweep => {}
        }
    }

    fn on_lane_done(&mut self, now: Now, uid: &Uid, id: u64, outcome: Result<Outcome, Error>) {
        let next_id = self.commit_id + 1;
        let Some(lane) = self.lanes.get_mut(uid).filter(|lane| lane.id == id) else { return };
        match outcome {
            Ok(Outcome::Committed(revision)) => {
                self.retries.remove(uid);
                match lane.advance(next_id, revision) {
                    Some(transaction) => self.commit(Purpose::Lane(uid.clone()), transaction),
                    None if revision <= self.index.revision => self.end_lane(uid),
                    None => {}
                }
            }
            // Somebody else wrote what this was decided on, or nobody knows whether it is stored: decide anew on what the
            // store says by then.
            Ok(Outcome::Conflict(_)) => self.retry(now, uid),
            Ok(Outcome::Unknown) => {
                self.doubt_lane(now, uid);
                self.retry(now, uid);
            }
            Err(error) => {
                self.doubt_lane(now, uid);
                self.effects.push(Effect::Fault(format!("{uid}: {error}")));
                self.retry(now, uid);
            }
        }
    }

    fn retry(&mut self, now: Now, uid: &Uid) {
        let retries = self.retries.entry(uid.clone()).or_default();
        let pause = RETRY_MS << (*retries).min(7);
        *retries += 1;
        self.end_lane(uid);
        let at_ms = now.monotonic_ms + pause;
        if self.index.clusters.contains_key(uid) {
            self.clusters_due.insert(uid.clone(), at_ms);
        } else {
            self.due.set(uid, Due { at_ms, decide: true });
            // Others may have been decided on what it was about to get.
            self.on_moved(now, &[uid.clone()].into());
        }
    }

    fn begin(&mut self, uid: &Uid, plan: Plan) {
        let (lane, transaction) = Lane::begin(self.commit_id + 1, plan, self.leader_compare().as_ref());
        let places = lane.placement.is_some();
        self.lanes.insert(uid.clone(), lane);
        self.commit(Purpose::Lane(uid.clone()), transaction);
        if places {
            self.reserve(uid);
        }
    }

    fn end_lane(&mut self, uid: &Uid) {
        if self.lanes.remove(uid).is_some_and(|lane| lane.placement.is_some()) {
            self.reserve(uid);
        }
    }

    /// The transaction already has the leader's compare.
    fn commit(&mut self, purpose: Purpose, transaction: Transaction) {
        self.commit_id += 1;
        self.commits.insert(self.commit_id, purpose);
        self.effects.push(Effect::Commit { id: self.commit_id, transaction });
    }

    fn leader_compare(&self) -> Option<Compare> {
        self.settings.leader.as_ref().map(|(key, modified)| Compare::Modified(key.clone(), *modified))
    }

    fn note(&mut self, now: Now, note: &Note) {
        let operations = self.recorder.record(now.wall, note);
        self.outbox.add_operations(now, operations);
    }
}
