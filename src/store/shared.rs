//! What the handles and watches of a store read.
//!
//! Owns: the state machine behind its lock, the news of it, and why the store stopped. Must never: show a state that is not
//! durable yet: whoever applies commands does so only then.

use std::{sync::Arc, time::Duration};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch as signal;

use super::{Error, List, Page, Revision, Watch, mvcc::Mvcc, watch};

/// How a store behaves, whatever keeps it.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a watcher may hear nothing while keys that it does not watch are written.
    pub progress: Duration,
    /// When history grows over either of these, the older half of it is compacted without being asked.
    pub history_revisions_max: u64,
    pub history_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { progress: Duration::from_secs(5), history_revisions_max: 20_000, history_bytes_max: 32 << 20 }
    }
}

/// What all watchers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Signal {
    /// The newest revision.
    pub revision: Revision,
    /// How often progress marks were asked for.
    pub marks: u64,
}

pub(super) struct Shared {
    state: Arc<RwLock<Mvcc>>,
    stopped: RwLock<Option<String>>,
    signals: signal::Sender<Signal>,
    pub options: Options,
}

impl Shared {
    pub fn new(state: Arc<RwLock<Mvcc>>, options: Options) -> Arc<Self> {
        let signal = Signal { revision: state.read().revision(), marks: 0 };
        Arc::new(Self { state, stopped: RwLock::default(), signals: signal::Sender::new(signal), options })
    }

    pub fn read(&self) -> Result<RwLockReadGuard<'_, Mvcc>, Error> {
        self.open()?;
        Ok(self.state.read())
    }

    /// For whoever applies commands.
    pub fn state(&self) -> &RwLock<Mvcc> {
        &self.state
    }

    pub fn open(&self) -> Result<(), Error> {
        self.stopped.read().clone().map_or(Ok(()), |reason| Err(Error::Closed(reason)))
    }

    /// Closes the store, with the reason for whoever asks next.
    pub fn stop(&self, why: String) {
        self.stopped.write().get_or_insert(why);
        // Watchers look again, and find it closed.
        self.signals.send_modify(|_| {});
    }

    pub fn closed(&self) -> Error {
        let stopped = self.stopped.read();
        Error::Closed(stopped.clone().unwrap_or_else(|| "it has ended".into()))
    }

    /// Tells the watchers what the state has reached.
    pub fn publish(&self, revision: Revision) {
        self.signals.send_if_modified(|signal| std::mem::replace(&mut signal.revision, revision) != revision);
    }

    pub fn mark_progress(&self) {
        self.signals.send_modify(|signal| signal.marks += 1);
    }

    pub fn list(&self, list: &List) -> Result<Page, Error> {
        self.read()?.list(list)
    }

    pub fn watch(self: &Arc<Self>, prefix: &str, from: Revision) -> Result<Watch, Error> {
        // Looks at nothing: it only says whether history reaches back that far.
        self.read()?.past(prefix, from, 0)?;
        Ok(watch::start(self.clone(), self.signals.subscribe(), prefix, from, self.options.progress))
    }
}
