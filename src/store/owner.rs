//! One thread owns the state machine's writes; everybody else holds a cheap handle.
//!
//! Owns: the order of commands, the group commit, and the moment at which a write becomes visible: after the log has it
//! durably, before it is acknowledged. Must never: acknowledge or show what the log does not have, and never go on after
//! the log failed, because nobody knows what is on disk then.
//!
//! The implementations of the port differ in their [`Log`] only.

#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, oneshot, watch as signal};

use super::{
    Entry, Error, Key, List, Outcome, Page, Revision, Store, Transaction, Watch,
    command::Command,
    mvcc::{Applied, Checkpoint, Mvcc},
    watch::{self, Signal},
};
use crate::model::Uid;

/// Position of a command in the log, from 1. Revisions are not positions: a conflict has a position, but no revision.
pub(super) type Index = u64;

/// Events that wait for the owner; more make their senders wait.
const QUEUE_MAX: usize = 1024;
/// What shares one fsync at most.
const GROUP_COMMANDS_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How much history goes to the disk as one batch, and one fsync, when it is compacted.
const COMPACTED_AT_ONCE: Revision = 1024;

pub(super) type LogError = Box<dyn std::error::Error + Send + Sync>;

/// Where commands are kept. After an error it is not used again.
pub(super) trait Log: Send {
    /// The commands are durable when this returns: power may fail afterwards.
    fn append(&mut self, first: Index, commands: &[Command]) -> Result<(), LogError>;

    /// All commands up to `index` may be forgotten, as one atomic step with the rows that say what they did. Where it is
    /// lost, the log still holds them.
    fn checkpoint(&mut self, index: Index, checkpoint: &Checkpoint) -> Result<(), LogError>;
}

/// What a log held when it was opened.
pub(super) struct Recovered {
    /// As of the last checkpoint.
    pub index: Index,
    pub state: Mvcc,
    /// Those after the checkpoint, in order.
    pub commands: Vec<Command>,
}

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

/// Whatever may happen to the owner.
enum Event {
    Commit(Transaction, oneshot::Sender<Result<Outcome, Error>>),
    Compact(Revision, oneshot::Sender<Result<(), Error>>),
    MarkProgress,
}

/// What handles and watchers read.
pub(super) struct Shared {
    state: RwLock<Mvcc>,
    /// Why the owner stopped.
    stopped: RwLock<Option<String>>,
}

impl Shared {
    pub(super) fn read(&self) -> Result<RwLockReadGuard<'_, Mvcc>, Error> {
        self.open()?;
        Ok(self.state.read())
    }

    fn open(&self) -> Result<(), Error> {
        self.stopped.read().clone().map_or(Ok(()), |reason| Err(Error::Closed(reason)))
    }

    /// Closes the store before anybody hears of the failure: whoever reads "unknown" finds nothing to read again here.
    fn stop(&self, error: &LogError) {
        *self.stopped.write() = Some(format!("its log failed: {error}"));
    }

    pub(super) fn closed(&self) -> Error {
        let stopped = self.stopped.read();
        Error::Closed(stopped.clone().unwrap_or_else(|| "its owner has ended".into()))
    }
}

struct Owner {
    shared: Arc<Shared>,
    log: Box<dyn Log>,
    events: mpsc::Receiver<Event>,
    signals: signal::Sender<Signal>,
    options: Options,
    /// Position of the last command.
    index: Index,
    /// Up to here the log has been told that it may forget.
    checkpointed: Index,
    /// Positions of the commands that made the revisions that can still be compacted, oldest first.
    positions: VecDeque<Index>,
}

/// An open store. When the last handle goes, the owner finishes what it has begun and ends.
pub(super) struct Handle {
    shared: Arc<Shared>,
    events: Option<mpsc::Sender<Event>>,
    signals: signal::Receiver<Signal>,
    incarnation: Uid,
    options: Options,
    owner: Option<JoinHandle<()>>,
}

/// Replays what the log held and starts the owner.
pub(super) fn start(
    recovered: Recovered,
    log: Box<dyn Log>,
    incarnation: Uid,
    options: Options,
) -> Result<Handle, LogError> {
    let (sender, events) = mpsc::channel(QUEUE_MAX);
    let owner = Owner::new(recovered, log, events, options.clone())?;
    let (shared, signals) = (owner.shared.clone(), owner.signals.subscribe());
    let owner = thread::Builder::new().name("store".into()).spawn(move || owner.run())?;
    Ok(Handle { shared, events: Some(sender), signals, incarnation, options, owner: Some(owner) })
}

impl Owner {
    fn new(
        recovered: Recovered,
        log: Box<dyn Log>,
        events: mpsc::Receiver<Event>,
        options: Options,
    ) -> Result<Self, LogError> {
        let Recovered { index, state, commands } = recovered;
        let shared = Arc::new(Shared { state: RwLock::new(state), stopped: RwLock::new(None) });
        let (signals, _) = signal::channel(Signal::default());
        let positions = VecDeque::new();
        let mut owner = Self { shared, log, events, signals, options, index, checkpointed: index, positions };
        for command in commands {
            // What was refused before the restart is refused again: that is no reason to stop.
            let _refusal = owner.apply(command)?;
        }
        owner.publish(|_| {});
        Ok(owner)
    }

    fn run(mut self) {
        while let Some(event) = self.events.blocking_recv() {
            let group = self.gather(event);
            if let Err(error) = self.handle(group) {
                tracing::error!(error = %error, "the store stops: its log failed");
                return;
            }
        }
    }

    /// The event and all that have queued up behind it meanwhile.
    fn gather(&mut self, first: Event) -> Vec<Event> {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        while group.len() < GROUP_COMMANDS_MAX
            && bytes < GROUP_BYTES_MAX
            && let Ok(event) = self.events.try_recv()
        {
            bytes += event.bytes();
            group.push(event);
        }
        group
    }

    /// One append for the whole group, then each command in order, then the answers. An error drops the senders of the
    /// answers, which their receivers read as "unknown".
    fn handle(&mut self, group: Vec<Event>) -> Result<(), LogError> {
        let commands: Vec<Command> = group.iter().filter_map(Event::command).collect();
        if !commands.is_empty() {
            self.append(&commands)?;
        }
        let mut marks = 0;
        let mut answers: Vec<Box<dyn FnOnce()>> = Vec::with_capacity(group.len());
        for event in group {
            match event {
                Event::Commit(transaction, answer) => {
                    let applied = self.apply(Command::Commit(transaction))?;
                    answers.push(Box::new(move || {
                        let _gone = answer.send(applied.map(outcome));
                    }));
                }
                Event::Compact(revision, answer) => {
                    let applied = self.apply(Command::Compact(revision))?;
                    answers.push(Box::new(move || {
                        let _gone = answer.send(applied.map(|_| ()));
                    }));
                }
                Event::MarkProgress => marks += 1,
            }
        }
        self.publish(|signal| signal.marks += marks);
        answers.into_iter().for_each(|answer| answer());
        self.bound_history()
    }

    fn append(&mut self, commands: &[Command]) -> Result<(), LogError> {
        self.log.append(self.index + 1, commands).inspect_err(|error| self.shared.stop(error))
    }

    /// The outer error is the log's, the inner one refuses the command.
    fn apply(&mut self, command: Command) -> Result<Result<Applied, Error>, LogError> {
        self.index += 1;
        match command {
            Command::Commit(transaction) => {
                let mut state = self.shared.state.write();
                let before = state.revision();
                let outcome = state.commit(transaction);
                if state.revision() > before {
                    self.positions.push_back(self.index);
                }
                Ok(outcome.map(Applied::Answered))
            }
            Command::Compact(revision) => self.compact(revision),
        }
    }

    /// In steps, so that readers get in between and no batch for the disk grows with the history.
    fn compact(&mut self, revision: Revision) -> Result<Result<Applied, Error>, LogError> {
        loop {
            let mut state = self.shared.state.write();
            let before = state.compacted();
            let step = match state.compact(revision.min(before + COMPACTED_AT_ONCE)) {
                Ok(step) => step,
                Err(refused) => return Ok(Err(refused)),
            };
            drop(state);
            self.positions.drain(..(step.revision - before) as usize);
            // Up to the command that made the next revision; those before it changed nothing.
            let index = self.positions.front().map_or(self.index, |next| next - 1);
            if index > self.checkpointed {
                self.log.checkpoint(index, &step).inspect_err(|error| self.shared.stop(error))?;
                self.checkpointed = index;
            }
            if step.revision >= revision {
                return Ok(Ok(Applied::Compacted(step)));
            }
        }
    }

    /// History is memory, and the log is what a start replays: both must stay bounded even where nobody asks for
    /// compaction.
    fn bound_history(&mut self) -> Result<(), LogError> {
        let (compacted, revision, bytes) = {
            let state = self.shared.state.read();
            (state.compacted(), state.revision(), state.history_bytes())
        };
        let Options { history_revisions_max, history_bytes_max, .. } = self.options;
        // Conflicts are in the log without making history.
        let logged = self.index - self.checkpointed;
        if revision - compacted <= history_revisions_max
            && logged <= 2 * history_revisions_max
            && bytes <= history_bytes_max
        {
            return Ok(());
        }
        let command = Command::Compact(compacted + (revision - compacted).div_ceil(2));
        self.append(std::slice::from_ref(&command))?;
        let _never_refused = self.apply(command)?;
        Ok(())
    }

    fn publish(&self, change: impl FnOnce(&mut Signal)) {
        let revision = self.shared.state.read().revision();
        self.signals.send_if_modified(|signal| {
            let before = *signal;
            signal.revision = revision;
            change(signal);
            *signal != before
        });
    }
}

fn outcome(applied: Applied) -> Outcome {
    match applied {
        Applied::Answered(outcome) => outcome,
        Applied::Compacted(checkpoint) => Outcome::Committed(checkpoint.revision),
    }
}

impl Event {
    /// Values share their bytes, so this copies no more than keys' pointers.
    fn command(&self) -> Option<Command> {
        match self {
            Self::Commit(transaction, _) => Some(Command::Commit(transaction.clone())),
            Self::Compact(revision, _) => Some(Command::Compact(*revision)),
            Self::MarkProgress => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Commit(transaction, _) => transaction.bytes(),
            Self::Compact(..) | Self::MarkProgress => 0,
        }
    }
}

impl Handle {
    async fn send(&self, event: Event) -> Result<(), Error> {
        // A stopped owner may take a moment to leave the queue.
        self.shared.open()?;
        let events = self.events.as_ref().ok_or_else(|| self.shared.closed())?;
        events.send(event).await.map_err(|_| self.shared.closed())
    }
}

#[async_trait]
impl Store for Handle {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        Ok(self.shared.read()?.get(key))
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        self.shared.read()?.list(&list)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        let (answer, outcome) = oneshot::channel();
        self.send(Event::Commit(transaction, answer)).await?;
        outcome.await.unwrap_or(Ok(Outcome::Unknown))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        // Looks at nothing: it only says whether history reaches back that far.
        self.shared.read()?.past(prefix, from, 0)?;
        Ok(watch::start(self.shared.clone(), self.signals.clone(), prefix, from, self.options.progress))
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.read()?.revision())
    }

    async fn mark_progress(&self) -> Result<(), Error> {
        self.send(Event::MarkProgress).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let (answer, done) = oneshot::channel();
        self.send(Event::Compact(revision, answer)).await?;
        done.await.unwrap_or_else(|_| Err(self.shared.closed()))
    }

    fn incarnation(&self) -> &Uid {
        &self.incarnation
    }
}

impl Drop for Handle {
    /// Waits for the owner, so that a directory is free to be opened again when its last handle is gone.
    fn drop(&mut self) {
        self.events = None;
        if let Some(owner) = self.owner.take() {
            let _panicked = owner.join();
        }
    }
}
