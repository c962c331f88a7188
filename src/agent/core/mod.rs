//! The agent's decisions: works in, calls on the member and reports out.
//!
//! Owns: which works are taken, what is written to the member and when, what is reported. One synchronous
//! [`Core::step`]; the shell in [`super::run`] and the simulator drive the same code. Must never: do IO, read a clock,
//! or delete anything that no removal names.

use serde_json::Value;

use crate::{
    agent::{
        cluster::{Capacity, Deletion, Live, NamespaceFacts, Rejection},
        ledger::{Loaded, Write},
    },
    model::{
        GroupVersionKind, Now, ObjectRef, Uid,
        cluster::Facts,
        protocol::{ToAgent, ToHub},
    },
};

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
}

impl Default for Config {
    fn default() -> Self {
        Self { instance: String::new(), seed: 0, calls_max: 8, writes_per_second: 200, writes_burst: 400 }
    }
}

/// One agent. Synchronous and deterministic: the same events give the same effects.
#[derive(Debug)]
pub struct Core {
    config: Config,
}

impl Core {
    /// Begins with what the ledger holds; the effects start its watches.
    pub fn start(config: Config, _now: Now, _loaded: Loaded) -> (Self, Vec<Effect>) {
        (Self { config }, Vec::new())
    }

    pub fn step(&mut self, _now: Now, _event: Event) -> Vec<Effect> {
        Vec::new()
    }

    /// When the next [`Event::Tick`] is due, in milliseconds of [`Now::monotonic_ms`].
    pub fn wake_at(&self) -> Option<u64> {
        None
    }

    pub fn config(&self) -> &Config {
        &self.config
    }
}
