//! The shell around the step: feeds it while this replica leads, carries out what it asks for, and decides nothing.
//!
//! Each time this replica begins to lead it takes the leader's key, which every transaction of the controllers compares,
//! and starts a controller that knows nothing but the store: every cluster has a fresh term of grace, and no room before
//! its agent has been heard anew. When the lead is lost all of it is dropped at once, in the middle of whatever it is at;
//! what was on its way to the store either finds the leader's key unchanged or does nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Controller, Effect, Event, Settings};
use crate::{
    hub::{
        desk::{
            Reception,
            leader::{self, Desk, Line},
            reception::Word,
        },
        feed,
    },
    model::{Now, Timestamp, Uid},
    store::{Error, Key, Operation, Outcome, Revision, Store, Transaction, raft::Leadership},
    wire::FromDesk,
};

/// Who leads: its key is compared in every transaction of the controllers.
pub(in crate::hub) const LEADER: &str = "/hanse/internal/leader";
/// Words of replicas taken in one go before the store is listened to again.
const BURST: usize = 64;
/// After the store said no, or another process took the lead from one that still believes to have it.
const PAUSE: Duration = Duration::from_millis(500);

/// When each cluster was last heard of, by whichever replica: kept in memory, overlaid on get and tables, never stored.
#[derive(Debug, Clone, Default)]
pub struct Beats(Arc<RwLock<BTreeMap<Uid, Timestamp>>>);

impl Beats {
    pub fn last(&self, cluster: &Uid) -> Option<Timestamp> {
        self.0.read().get(cluster).copied()
    }

    pub fn learn(&self, beats: impl IntoIterator<Item = (Uid, Timestamp)>) {
        self.0.write().extend(beats);
    }
}

/// Leads whenever it is this replica's turn, until `stop` or until the store is closed.
pub async fn run(
    store: Arc<dyn Store>,
    settings: Settings,
    mut leadership: watch::Receiver<Leadership>,
    reception: Reception,
    stop: CancellationToken,
) -> Result<(), Error> {
    let leading = async {
        loop {
            let Ok(now) = leadership.wait_for(|now| now.here).await.map(|now| *now) else {
                // The store is closed, and says so to those who use it.
                return std::future::pending().await;
            };
            tracing::info!(term = now.term, "this replica leads");
            let mut lost = leadership.clone();
            let ended = tokio::select! {
                biased;
                Ok(_) = lost.wait_for(|lost| !lost.here || lost.term != now.term) => {
                    tracing::info!(term = now.term, "this replica leads no more");
                    continue;
                }
                ended = lead(&store, &settings, &reception) => ended,
            };
            match ended {
                Err(error @ Error::Closed(_)) => return error,
                Err(error) => tracing::warn!(%error, "leading is interrupted"),
                Ok(()) => tracing::warn!("another process leads; this one stops deciding"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match stop.run_until_cancelled(leading).await {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// One turn at leading. Ends when another process has taken the lead; dropped when the lead is lost.
async fn lead(store: &Arc<dyn Store>, settings: &Settings, reception: &Reception) -> Result<(), Error> {
    let leader = take_the_lead(&**store).await?;
    let mut feed = feed::follow(store.clone(), "/hanse/");
    let mut opened = reception.open();
    let mut turn = Turn {
        store,
        controller: Controller::new(Settings { leader: Some(leader), ..settings.clone() }),
        desk: Desk::default(),
        lines: BTreeMap::new(),
        settled: 0,
        commits: FuturesUnordered::new(),
        started: Instant::now(),
    };
    let mut words = Vec::with_capacity(BURST);
    loop {
        // Before the store is known, what agents say would be said to nobody.
        let ready = turn.controller.is_ready();
        let deadline = turn.controller.deadline().map_or(turn.desk.deadline(), |at| at.min(turn.desk.deadline()));
        let tick = tokio::time::sleep_until((turn.started + Duration::from_millis(deadline)).into());
        let goes_on = tokio::select! {
            Some((id, outcome)) = turn.commits.next() => turn.control(Event::Done { id, outcome }).await,
            told = feed.next() => match told {
                Some(told) => turn.control(Event::Store(told?)).await,
                None => return Err(Error::Closed("its feed has ended".into())),
            },
            _ = opened.words.recv_many(&mut words, BURST), if ready => turn.hear(&mut words).await,
            () = tick, if ready => turn.tick().await,
        };
        if !goes_on {
            return Ok(());
        }
        turn.settle();
    }
}

type Commit = futures::future::BoxFuture<'static, (u64, Result<Outcome, Error>)>;

/// What lives as long as one turn at leading.
struct Turn<'a> {
    store: &'a Arc<dyn Store>,
    controller: Controller,
    desk: Desk,
    lines: BTreeMap<Line, mpsc::Sender<FromDesk>>,
    settled: u64,
    commits: FuturesUnordered<Commit>,
    started: Instant,
}

impl Turn<'_> {
    fn now(&self, at: Instant) -> Now {
        let elapsed = at.saturating_duration_since(self.started);
        Now {
            wall: Timestamp(jiff::Timestamp::now()),
            monotonic_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn hear(&mut self, words: &mut Vec<Word>) -> bool {
        for word in words.drain(..) {
            let (at, event) = match word {
                Word::Opened { line, tell } => {
                    self.lines.retain(|known, _| known.replica != line.replica);
                    self.lines.insert(line, tell);
                    (Instant::now(), leader::Event::Opened(line))
                }
                Word::Said { line, at, said } => (at.into_std(), leader::Event::Said(line, *said)),
                Word::Closed { line } => {
                    self.lines.remove(&line);
                    (Instant::now(), leader::Event::Closed(line))
                }
            };
            if !self.desk(at, event).await {
                return false;
            }
        }
        true
    }

    async fn tick(&mut self) -> bool {
        self.desk(Instant::now(), leader::Event::Tick).await && self.control(Event::Tick).await
    }

    async fn desk(&mut self, at: Instant, event: leader::Event) -> bool {
        for effect in self.desk.step(self.now(at), event) {
            let goes_on = match effect {
                leader::Effect::Tell(line, told) => {
                    self.tell(line, told);
                    true
                }
                leader::Effect::HandOn(from) => self.control(Event::Agent(from)).await,
                leader::Effect::Note(note) => self.control(Event::Note(note)).await,
            };
            if !goes_on {
                return false;
            }
        }
        true
    }

    /// A replica that reads too slowly is cut off; on its next line it says anew what it holds.
    fn tell(&mut self, line: Line, told: FromDesk) {
        if self.lines.get(&line).is_some_and(|tell| tell.try_send(told).is_err()) {
            self.lines.remove(&line);
        }
    }

    fn settle(&mut self) {
        let settled = self.controller.settled();
        if settled != self.settled {
            self.settled = settled;
            let now = self.now(Instant::now());
            for effect in self.desk.step(now, leader::Event::Settled(settled)) {
                if let leader::Effect::Tell(line, told) = effect {
                    self.tell(line, told);
                }
            }
        }
    }

    /// False where another process leads.
    async fn control(&mut self, event: Event) -> bool {
        for effect in self.controller.step(self.now(Instant::now()), event) {
            match effect {
                Effect::Commit { id, transaction } => {
                    let store = self.store.clone();
                    self.commits.push(Box::pin(async move { (id, store.commit(transaction).await) }));
                }
                Effect::Compact(revision) => {
                    if let Err(error) = self.store.compact(revision).await {
                        tracing::warn!(%error, revision, "the store's history cannot be compacted");
                    }
                }
                Effect::Fault(fault) => tracing::error!(fault, "control"),
                Effect::StepDown => return false,
            }
        }
        true
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
