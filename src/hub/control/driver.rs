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
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    turn::{Effect, Event, LEADER, Turn, take_over},
};
use crate::{
    hub::{
        desk::{
            Reception, Unanswered,
            leader::{self, Line},
            reception::Word,
        },
        feed, limits,
        plugins::Plugins,
    },
    model::{Now, Timestamp, Uid, plugin::Judgements},
    store::{Error, Key, Outcome, Revision, Store, raft::Leadership},
    wire::{FromDesk, Question},
};

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
    let mut shell = Shell {
        store,
        turn: Turn::new(settings, leader),
        lines: BTreeMap::new(),
        commits: FuturesUnordered::new(),
        plugins: Arc::new(Plugins::new(settings.plugins.clone())),
        asks: FuturesUnordered::new(),
        started: Instant::now(),
        inquiries: Arc::new(Semaphore::new(limits::INQUIRIES_MAX)),
    };
    let mut words = Vec::with_capacity(BURST);
    loop {
        // Before the store is known, what agents say would be said to nobody.
        let ready = shell.turn.is_ready();
        let tick = tokio::time::sleep_until((shell.started + Duration::from_millis(shell.turn.deadline())).into());
        let goes_on = tokio::select! {
            Some((id, outcome)) = shell.commits.next() => shell.step(Event::Done { id, outcome }).await,
            Some((id, answer)) = shell.asks.next() => shell.step(Event::Answered { id, answer }).await,
            told = feed.next() => match told {
                Some(told) => shell.step(Event::Store(told?)).await,
                None => return Err(Error::Closed("its feed has ended".into())),
            },
            _ = opened.words.recv_many(&mut words, BURST), if ready => shell.hear(&mut words).await,
            () = tick, if ready => shell.step(Event::Tick).await,
        };
        if !goes_on {
            return Ok(());
        }
    }
}

type Commit = futures::future::BoxFuture<'static, (u64, Result<Outcome, Error>)>;

type Answer = futures::future::BoxFuture<'static, (u64, Result<Judgements, String>)>;

/// What lives as long as one turn at leading.
struct Shell<'a> {
    store: &'a Arc<dyn Store>,
    turn: Turn,
    lines: BTreeMap<Line, mpsc::Sender<FromDesk>>,
    commits: FuturesUnordered<Commit>,
    plugins: Arc<Plugins>,
    asks: FuturesUnordered<Answer>,
    started: Instant,
    /// For answers that are being worked out, beside deciding.
    inquiries: Arc<Semaphore>,
}

impl Shell<'_> {
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
                Word::Asked { question, answer } => {
                    self.inquire(&question, answer);
                    continue;
                }
                Word::Closed { line } => {
                    self.lines.remove(&line);
                    (Instant::now(), leader::Event::Closed(line))
                }
            };
            let heard = self.now(at);
            if !self.step(Event::Desk { heard, event }).await {
                return false;
            }
        }
        true
    }

    /// Only what an answer is made from is taken here; the work is done while deciding goes on.
    fn inquire(&mut self, question: &Question, answer: oneshot::Sender<Result<Value, Unanswered>>) {
        let slot = self.inquiries.clone().try_acquire_owned().map_err(|_| Unanswered::Busy);
        let begun = slot.and_then(|slot| Ok((slot, self.turn.inquire(self.now(Instant::now()), question)?)));
        match begun {
            Ok((slot, inquiry)) => drop(tokio::task::spawn_blocking(move || {
                let _gone = answer.send(inquiry.answer());
                drop(slot);
            })),
            Err(why) => drop(answer.send(Err(why))),
        }
    }

    /// False where another process leads.
    async fn step(&mut self, event: Event) -> bool {
        for effect in self.turn.step(self.now(Instant::now()), event) {
            match effect {
                Effect::Commit { id, transaction } => {
                    let store = self.store.clone();
                    self.commits.push(Box::pin(async move { (id, store.commit(transaction).await) }));
                }
                Effect::Ask { id, ask } => {
                    let plugins = self.plugins.clone();
                    self.asks.push(Box::pin(async move { (id, plugins.ask(&ask).await) }));
                }
                Effect::Compact(revision) => {
                    if let Err(error) = self.store.compact(revision).await {
                        tracing::warn!(%error, revision, "the store's history cannot be compacted");
                    }
                }
                Effect::Tell(line, told) => self.tell(line, told),
                Effect::Fault(fault) => tracing::error!(fault, "control"),
                Effect::StepDown => return false,
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
}

async fn take_the_lead(store: &dyn Store) -> Result<(Key, Revision), Error> {
    let key = Key::new(LEADER);
    loop {
        let known = store.get(&key).await?;
        if let Outcome::Committed(revision) = store.commit(take_over(known.as_ref())).await? {
            return Ok((key, revision));
        }
    }
}
