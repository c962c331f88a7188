//! The replica's side: what its agents said, until the leader has it.
//!
//! State, not a queue: per stream the newest facts, the newest sketch, and per Application the newest report that the
//! leader has not called settled. So it is bounded by what the agents themselves hold, however long no replica leads, and
//! whatever was lost with a leader is told to the next one.
//!
//! Must never: speak for a stream that may be dead. To a new leader nothing is said of a stream, not even that it holds its
//! cluster, before that stream has said something itself: a new term of grace must not be spent on what an agent said
//! before it died, and a restarted agent must not find its own dead stream claiming against it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
};

use crate::{
    hub::control::FromAgent,
    model::{Note, Report, Sketch, Timestamp, Uid, cluster::Facts},
    wire::{Fact, FromDesk, Ruling, ToDesk},
};

/// Notes that may wait; the oldest give way. An event is one thing less to read when it is lost, nothing worse.
const NOTES_MAX: usize = 256;
/// A replica that has had no leader for as long cannot serve its agents; another one may.
pub const CUT_OFF_MS: u64 = 10_000;

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A stream asks to act for its cluster.
    Claimed {
        session: u64,
        cluster: Uid,
        instance: String,
        epoch: u64,
    },
    /// What a session passes on.
    Said {
        session: u64,
        from: FromAgent,
    },
    /// The stream is gone.
    Left {
        session: u64,
    },
    Note(Note),
    /// A way to the desk of the leader stands.
    Connected,
    Disconnected,
    Told(FromDesk),
    /// The time of [`Outpost::deadline`]; harmless at any other.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// To the session.
    Rule { session: u64, ruling: Ruling },
    /// When clusters were last heard of, at whichever replica.
    Beats(Vec<(Uid, Timestamp)>),
    /// No leader was found for too long (true), or one is there again.
    CutOff(bool),
}

#[derive(Debug, Default)]
pub struct Outpost {
    sessions: BTreeMap<u64, Live>,
    /// Sessions that may have something to tell.
    due: BTreeSet<u64>,
    /// Whose turn was last, so that nobody is starved by a session with many reports.
    served: u64,
    left: BTreeSet<u64>,
    /// Proof that the store went back, by cluster; every leader hears of it.
    went_back: BTreeMap<Uid, u64>,
    went_back_due: BTreeSet<Uid>,
    notes: VecDeque<Note>,
    way: Way,
    /// Counts the reports told on this way.
    number: u64,
    /// Reports told on this way and not settled: of which session and Application.
    unsettled: BTreeMap<u64, (u64, Uid)>,
    cut_off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    None {
        since_ms: u64,
    },
    /// It stands; the first message is still to go.
    Fresh,
    Begun,
}

impl Default for Way {
    fn default() -> Self {
        Self::None { since_ms: 0 }
    }
}

/// One stream of an agent.
#[derive(Debug)]
struct Live {
    cluster: Uid,
    instance: String,
    epoch: u64,
    /// It has been granted by some leader: it is told to the next one only with proof of life.
    granted_before: bool,
    claim: Claim,
    /// When it last said anything on this way.
    heard_ms: Option<u64>,
    beat: bool,
    facts: Option<Facts>,
    facts_due: bool,
    sketch: Option<Sketch>,
    sketch_due: bool,
    /// Newest reports that are not settled.
    reports: BTreeMap<Uid, Held>,
    reports_due: BTreeSet<Uid>,
}

/// What the desk at the end of this way knows of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Untold,
    Told,
    Granted,
}

#[derive(Debug)]
struct Held {
    report: Box<Report>,
    /// Under which it was told on this way.
    number: Option<u64>,
}

impl Outpost {
    pub fn step(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        match event {
            Event::Claimed { session, cluster, instance, epoch } => {
                self.sessions.insert(session, Live::new(cluster, instance, epoch));
                self.due.insert(session);
            }
            Event::Said { session, from } => self.said(now_ms, session, from),
            Event::Left { session } => {
                self.due.remove(&session);
                if self.sessions.remove(&session).is_some_and(|live| live.claim != Claim::Untold) {
                    self.left.insert(session);
                }
            }
            Event::Note(note) => {
                self.notes.push_back(note);
                let surplus = self.notes.len().saturating_sub(NOTES_MAX);
                self.notes.drain(..surplus);
            }
            Event::Connected => {
                self.begin();
                if std::mem::take(&mut self.cut_off) {
                    return vec![Effect::CutOff(false)];
                }
            }
            Event::Disconnected => {
                if !matches!(self.way, Way::None { .. }) {
                    self.way = Way::None { since_ms: now_ms };
                }
            }
            Event::Told(told) => return self.told(told),
            Event::Tick => {
                if self.deadline().is_some_and(|at_ms| at_ms <= now_ms) {
                    self.cut_off = true;
                    return vec![Effect::CutOff(true)];
                }
            }
        }
        Vec::new()
    }

    pub fn deadline(&self) -> Option<u64> {
        match self.way {
            Way::None { since_ms } if !self.cut_off => Some(since_ms + CUT_OFF_MS),
            Way::None { .. } | Way::Fresh | Way::Begun => None,
        }
    }

    /// How many sessions wait to be heard; many, where the leader is behind.
    pub fn backlog(&self) -> usize {
        self.due.len()
    }

    /// The most urgent of what is to be told. The way has room for it.
    pub fn next(&mut self, now_ms: u64) -> Option<ToDesk> {
        match self.way {
            Way::None { .. } => return None,
            Way::Fresh => {
                self.way = Way::Begun;
                return Some(ToDesk::Begin { sessions: self.sessions.keys().copied().collect() });
            }
            Way::Begun => {}
        }
        if let Some(session) = self.left.pop_first() {
            return Some(ToDesk::Left { session });
        }
        if let Some(cluster) = self.went_back_due.pop_first() {
            let revision = self.went_back.get(&cluster).copied().unwrap_or_default();
            return Some(ToDesk::WentBack { cluster, revision });
        }
        while let Some(session) = self.turn() {
            self.served = session;
            let told = self.sessions.get_mut(&session).and_then(|live| live.next(session, now_ms, &mut self.number));
            match told {
                Some(told) => {
                    if let ToDesk::Said { fact: Fact::Report { number, report }, .. } = &told {
                        self.unsettled.insert(*number, (session, report.application.clone()));
                    }
                    return Some(told);
                }
                None => drop(self.due.remove(&session)),
            }
        }
        self.notes.pop_front().map(ToDesk::Note)
    }

    /// Whether [`Outpost::next`] may have something; it may still say no, once.
    pub fn has_due(&self) -> bool {
        match self.way {
            Way::None { .. } => false,
            Way::Fresh => true,
            Way::Begun => {
                !(self.left.is_empty() && self.went_back_due.is_empty() && self.due.is_empty() && self.notes.is_empty())
            }
        }
    }

    fn turn(&self) -> Option<u64> {
        let after = (Bound::Excluded(self.served), Bound::Unbounded);
        self.due.range(after).next().or_else(|| self.due.first()).copied()
    }

    fn said(&mut self, now_ms: u64, session: u64, from: FromAgent) {
        if let FromAgent::StoreWentBack { cluster, revision } = from {
            let known = self.went_back.entry(cluster.clone()).or_default();
            *known = revision.max(*known);
            self.went_back_due.insert(cluster);
            return;
        }
        let Some(live) = self.sessions.get_mut(&session) else { return };
        live.heard_ms = Some(now_ms);
        match from {
            FromAgent::Connected { .. } | FromAgent::Beat { .. } => live.beat = true,
            FromAgent::Facts { facts, .. } => {
                live.facts = Some(facts);
                live.facts_due = true;
            }
            FromAgent::Sketch { sketch, .. } => {
                live.sketch = Some(sketch);
                live.sketch_due = true;
            }
            FromAgent::Report { report, .. } => {
                let application = report.application.clone();
                live.reports_due.insert(application.clone());
                live.reports.insert(application, Held { report, number: None });
            }
            // The end of the stream says as much; the others are the leader's own words.
            FromAgent::Disconnected { .. } | FromAgent::Frozen { .. } | FromAgent::StoreWentBack { .. } => {}
        }
        self.due.insert(session);
    }

    fn told(&mut self, told: FromDesk) -> Vec<Effect> {
        match told {
            FromDesk::Ruling { session, ruling } => {
                let Some(live) = self.sessions.get_mut(&session) else { return Vec::new() };
                if ruling == Ruling::Granted {
                    live.granted_before = true;
                    // A desk passes on only what holders say, and it may be that this one is one only now.
                    live.claim = Claim::Granted;
                    live.tell_all();
                    self.due.insert(session);
                }
                vec![Effect::Rule { session, ruling }]
            }
            FromDesk::Settled { number } => {
                let open = self.unsettled.split_off(&(number + 1));
                for (number, (session, application)) in std::mem::replace(&mut self.unsettled, open) {
                    let Some(live) = self.sessions.get_mut(&session) else { continue };
                    if live.reports.get(&application).is_some_and(|held| held.number == Some(number)) {
                        live.reports.remove(&application);
                    }
                }
                Vec::new()
            }
            FromDesk::Beats(beats) => vec![Effect::Beats(beats)],
        }
    }

    /// Whoever leads now knows nothing of what is here.
    fn begin(&mut self) {
        self.way = Way::Fresh;
        self.left.clear();
        self.unsettled.clear();
        self.number = 0;
        self.went_back_due = self.went_back.keys().cloned().collect();
        for live in self.sessions.values_mut() {
            live.claim = Claim::Untold;
            live.heard_ms = None;
            live.beat = false;
        }
        self.due = self.sessions.keys().copied().collect();
    }
}

impl Live {
    fn new(cluster: Uid, instance: String, epoch: u64) -> Self {
        Self {
            cluster,
            instance,
            epoch,
            granted_before: false,
            claim: Claim::Untold,
            heard_ms: None,
            beat: false,
            facts: None,
            facts_due: false,
            sketch: None,
            sketch_due: false,
            reports: BTreeMap::new(),
            reports_due: BTreeSet::new(),
        }
    }

    fn tell_all(&mut self) {
        self.beat = self.heard_ms.is_some();
        self.facts_due = self.facts.is_some();
        self.sketch_due = self.sketch.is_some();
        self.reports.values_mut().for_each(|held| held.number = None);
        self.reports_due = self.reports.keys().cloned().collect();
    }

    /// The sketch before the reports: what a report calls bound, the sketch that was sent before it counts already.
    fn next(&mut self, session: u64, now_ms: u64, number: &mut u64) -> Option<ToDesk> {
        if self.claim == Claim::Untold && (self.heard_ms.is_some() || !self.granted_before) {
            self.claim = Claim::Told;
            return Some(ToDesk::Claim {
                session,
                cluster: self.cluster.clone(),
                instance: self.instance.clone(),
                epoch: self.epoch,
            });
        }
        let heard_ms = self.heard_ms.filter(|_| self.claim == Claim::Granted)?;
        let fact = if std::mem::take(&mut self.beat) {
            Fact::Beat
        } else if std::mem::take(&mut self.facts_due) {
            Fact::Facts(self.facts.clone()?)
        } else if std::mem::take(&mut self.sketch_due) {
            Fact::Sketch(self.sketch.clone()?)
        } else {
            let held = self.reports.get_mut(&self.reports_due.pop_first()?)?;
            *number += 1;
            held.number = Some(*number);
            Fact::Report { number: *number, report: held.report.clone() }
        };
        Some(ToDesk::Said { session, age_ms: now_ms.saturating_sub(heard_ms), fact })
    }
}
