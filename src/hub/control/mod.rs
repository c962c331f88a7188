//! Control: the leader's loops as one synchronous step. Everything the hub decides is decided here.
//!
//! Owns: revisions, placements, statuses, the Ready of clusters, deletion, expiry. Must never: write a user's `spec`
//! (rule 16), order a removal because something is silent, missing or unknown (rule 1), or write when nothing changed
//! (rule 13).

pub use driver::{Beats, Handle, Inputs, channel, run};

use super::{events::Note, feed::Feed};
use crate::{
    model::{Now, Report, Sketch, Uid, cluster::Facts},
    store::{Error, Outcome, Revision, Transaction},
};

mod driver;

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
    /// Somebody else's event about an object, to be recorded under the same limits.
    Note(Note),
    /// [`Controller::deadline`] is reached.
    Tick,
}

/// Done by the driver, in order; only commits are answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Commit {
        id: u64,
        transaction: Transaction,
    },
    Compact(Revision),
    /// Another process leads: stop deciding at once.
    StepDown,
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
    /// Two holders of one identity: the cluster is frozen until a person decides.
    /// The annotation `hub::agents::roster::FROZEN` is on the Cluster already and keeps both out until a person removes
    /// it; what is left is to say so in Ready.
    Frozen {
        cluster: Uid,
        message: String,
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
    /// The leader's key and the revision at which this process wrote it; compared in every transaction.
    pub leader: Option<(crate::store::Key, Revision)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { grace_ms: 10_000, leader: None }
    }
}

pub struct Controller {
    settings: Settings,
}

impl Controller {
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let _ = (now, event, &self.settings);
        Vec::new()
    }

    /// When to send the next [`Event::Tick`], in `monotonic_ms`; absent while there is nothing to wait for.
    pub fn deadline(&self) -> Option<u64> {
        None
    }
}
