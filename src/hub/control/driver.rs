//! The shell around the step: feeds it, carries out what it asks for, and decides nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Controller, Effect, Event, FromAgent, Settings};
use crate::{
    hub::{events::Note, feed},
    model::{Now, Timestamp, Uid},
    store::{Error, Key, Operation, Outcome, Revision, Store, Transaction},
};

/// Who leads: its key is compared in every transaction of the controllers.
const LEADER: &str = "/hanse/internal/leader";
/// Messages of agents taken in one go before the store is listened to again.
const BURST: usize = 64;

/// What other parts of the hub hold of the running controller; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Full when the controller is behind: sessions then wait, and their agents with them.
    pub agents: mpsc::Sender<FromAgent>,
    pub notes: mpsc::Sender<Note>,
    pub beats: Beats,
}

/// The controller's ends of the channels in [`Handle`].
#[derive(Debug)]
pub struct Inputs {
    agents: mpsc::Receiver<FromAgent>,
    notes: mpsc::Receiver<Note>,
    beats: Beats,
}

/// When each cluster was last heard of: kept in memory, overlaid on get and tables, never stored.
#[derive(Debug, Clone, Default)]
pub struct Beats(Arc<RwLock<BTreeMap<Uid, Timestamp>>>);

impl Beats {
    pub fn last(&self, cluster: &Uid) -> Option<Timestamp> {
        self.0.read().get(cluster).copied()
    }

    fn heard(&self, message: &FromAgent, at: Timestamp) {
        let cluster = match message {
            FromAgent::Connected { cluster }
            | FromAgent::Beat { cluster }
            | FromAgent::Sketch { cluster, .. }
            | FromAgent::Facts { cluster, .. }
            | FromAgent::Report { cluster, .. } => cluster,
            FromAgent::Disconnected { .. } | FromAgent::Frozen { .. } | FromAgent::StoreWentBack { .. } => return,
        };
        self.0.write().insert(cluster.clone(), at);
    }
}

impl Inputs {
    /// Takes what comes in and does nothing with it, for who does not lead: senders must not wait for one that does not
    /// decide.
    pub async fn ignore(&mut self) {
        let mut messages = Vec::with_capacity(BURST);
        tokio::select! {
            count = self.agents.recv_many(&mut messages, BURST), if !self.agents.is_closed() => {
                if count == 0 {
                    std::future::pending::<()>().await;
                }
            }
            note = self.notes.recv(), if !self.notes.is_closed() => {
                if note.is_none() {
                    std::future::pending::<()>().await;
                }
            }
            else => std::future::pending().await,
        }
        let at = Timestamp(jiff::Timestamp::now());
        messages.iter().for_each(|message| self.beats.heard(message, at));
    }
}

pub fn channel() -> (Handle, Inputs) {
    let (agents, agents_in) = mpsc::channel(4096);
    let (notes, notes_in) = mpsc::channel(256);
    let beats = Beats::default();
    let handle = Handle { agents, notes, beats: beats.clone() };
    (handle, Inputs { agents: agents_in, notes: notes_in, beats })
}

/// Leads until `stop`, or until the store is closed or another process leads.
pub async fn run(
    store: Arc<dyn Store>,
    settings: Settings,
    inputs: &mut Inputs,
    stop: CancellationToken,
) -> Result<(), Error> {
    let leader = take_the_lead(&*store).await?;
    let mut controller = Controller::new(Settings { leader: Some(leader), ..settings });
    let mut feed = feed::follow(store.clone(), "/hanse/");
    let started = Instant::now();
    let clock = || Now {
        wall: Timestamp(jiff::Timestamp::now()),
        monotonic_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let mut commits = FuturesUnordered::new();
    let mut messages = Vec::with_capacity(BURST);
    loop {
        let tick = async {
            match controller.deadline() {
                Some(at_ms) => tokio::time::sleep_until((started + Duration::from_millis(at_ms)).into()).await,
                None => std::future::pending().await,
            }
        };
        let events = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some((id, outcome)) = commits.next() => vec![Event::Done { id, outcome }],
            told = feed.next() => match told {
                Some(told) => vec![Event::Store(told?)],
                None => return Ok(()),
            },
            count = inputs.agents.recv_many(&mut messages, BURST), if !inputs.agents.is_closed() || !inputs.agents.is_empty() => {
                if count == 0 {
                    continue;
                }
                let at = clock().wall;
                messages.iter().for_each(|message| inputs.beats.heard(message, at));
                messages.drain(..).map(Event::Agent).collect()
            }
            Some(note) = inputs.notes.recv() => vec![Event::Note(note)],
            () = tick => vec![Event::Tick],
        };
        for event in events {
            for effect in controller.step(clock(), event) {
                match effect {
                    Effect::Commit { id, transaction } => {
                        let store = store.clone();
                        commits.push(async move { (id, store.commit(transaction).await) });
                    }
                    Effect::Compact(revision) => {
                        if let Err(error) = store.compact(revision).await {
                            tracing::warn!(%error, revision, "the store's history cannot be compacted");
                        }
                    }
                    Effect::Fault(fault) => tracing::error!(fault, "control"),
                    Effect::StepDown => {
                        tracing::warn!("another process leads; this one stops deciding");
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Writes the leader's key, one term on: whoever led before can no longer write.
async fn take_the_lead(store: &dyn Store) -> Result<(Key, Revision), Error> {
    let key = Key::new(LEADER);
    loop {
        let known = store.get(&key).await?;
        let term =
            known.as_ref().and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse::<u64>().ok()).unwrap_or(0);
        let transaction = Transaction {
            compares: vec![super::lanes::unchanged(key.clone(), known.map(|entry| entry.modified))],
            operations: vec![Operation::Put(key.clone(), (term + 1).to_string().into())],
        };
        if let Outcome::Committed(revision) = store.commit(transaction).await? {
            return Ok((key, revision));
        }
    }
}
