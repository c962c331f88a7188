//! A watch: a cursor over the history of the state machine.
//!
//! Owns: what one watcher has seen. There is no queue per watcher, so a slow one costs nothing and holds nobody up: it
//! reads the shared history when it gets to it, and past and future join without a gap. Bounded is the history itself;
//! a watcher that is still reading what compaction takes away is told that it lagged. Must never: write, or hold the
//! lock of the state across an await.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use super::{
    Error, Revision, Watch, WatchEvent,
    shared::{Shared, Signal},
};

/// How much of the history is looked through under one hold of the lock.
const SCANNED_MAX: usize = 256;

struct Cursor {
    shared: Arc<Shared>,
    signals: watch::Receiver<Signal>,
    prefix: String,
    /// All up to this revision is sent or waits in `ready`.
    seen: Revision,
    ready: VecDeque<WatchEvent>,
    /// The newest revision the reader knows of; absent until it was told that the past is over.
    told: Option<Revision>,
    marks: u64,
    progress: Duration,
    progress_at: Instant,
    over: bool,
}

/// Starts a watch. The caller has checked that `from` can be read.
pub(super) fn start(
    shared: Arc<Shared>,
    signals: watch::Receiver<Signal>,
    prefix: &str,
    from: Revision,
    progress: Duration,
) -> Watch {
    let marks = signals.borrow().marks;
    let cursor = Cursor {
        shared,
        signals,
        prefix: prefix.to_owned(),
        seen: from,
        ready: VecDeque::new(),
        told: None,
        marks,
        progress,
        progress_at: Instant::now() + progress,
        over: false,
    };
    stream::unfold(cursor, |mut cursor| async move {
        if cursor.over {
            return None;
        }
        let next = cursor.next().await;
        cursor.over = next.is_err();
        Some((next, cursor))
    })
    .boxed()
}

impl Cursor {
    async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if let WatchEvent::Transaction { revision, .. } = &event {
                    self.told = self.told.map(|told| told.max(*revision));
                }
                return Ok(event);
            }
            // Before the history is read, so that what comes in between wakes us.
            let signal = *self.signals.borrow_and_update();
            self.read()?;
            if !self.ready.is_empty() || self.seen < signal.revision {
                continue;
            }
            if self.mark_due(signal) {
                self.marks = signal.marks;
                self.told = Some(self.seen);
                self.progress_at = Instant::now() + self.progress;
                return Ok(WatchEvent::Progress(self.seen));
            }
            self.wait().await?;
        }
    }

    fn read(&mut self) -> Result<(), Error> {
        let past = self.shared.read()?.past(&self.prefix, self.seen, SCANNED_MAX);
        let past = past.map_err(|_| Error::Lagged)?;
        self.seen = past.until;
        self.ready.extend(past.events);
        Ok(())
    }

    /// The past is over, somebody asked, or the reader has not heard for a while of what it need not see.
    fn mark_due(&self, signal: Signal) -> bool {
        let Some(told) = self.told else { return true };
        signal.marks != self.marks || (self.seen > told && Instant::now() >= self.progress_at)
    }

    async fn wait(&mut self) -> Result<(), Error> {
        let behind = self.told.is_some_and(|told| self.seen > told);
        let closed = |_| self.shared.closed();
        if behind {
            match tokio::time::timeout_at(self.progress_at, self.signals.changed()).await {
                Ok(changed) => changed.map_err(closed),
                Err(_elapsed) => Ok(()),
            }
        } else {
            self.signals.changed().await.map_err(closed)
        }
    }
}
