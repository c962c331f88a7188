//! The shell around the [`Outpost`]: finds the leader's desk, moves messages, decides nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::{
    Reception,
    outpost::{Effect, Event, Outpost},
    service,
};
use crate::{
    hub::control::Beats,
    store::raft::{Leadership, ReplicaId},
    wire::{FromDesk, Ruling, ToDesk},
};

/// Messages that may wait for the way.
const LINE_MAX: usize = 64;
/// Events taken in one go.
const BURST: usize = 64;
const EVENTS_MAX: usize = 4096;
/// Sessions that may wait to be heard before agents are read more slowly.
const BACKLOG_MAX: usize = 4096;
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// The way to other replicas.
#[async_trait]
pub trait Doors: Send + Sync + 'static {
    /// A connection to the listener for replicas, or why there is none, in words.
    async fn channel(&self, replica: ReplicaId) -> Result<Channel, String>;
}

pub struct Config {
    pub replica: ReplicaId,
    pub leadership: watch::Receiver<Leadership>,
    /// Of this replica, for when it leads.
    pub reception: Reception,
    /// Absent where there is one replica.
    pub doors: Option<Arc<dyn Doors>>,
    pub beats: Beats,
    pub stop: CancellationToken,
}

/// What sessions and joining hold; cheap to clone.
#[derive(Debug, Clone)]
pub struct Post {
    events: mpsc::Sender<Event>,
    cut_off: watch::Receiver<bool>,
}

impl Post {
    /// Waits while the leader is behind: then an agent is read more slowly.
    pub async fn send(&self, event: Event) {
        let _stopping = self.events.send(event).await;
    }

    /// An event that finds no room is one less to read, nothing worse.
    pub fn note(&self, note: crate::model::Note) {
        let _dropped = self.events.try_send(Event::Note(note));
    }

    /// Whether no leader has been found for so long that another replica may serve agents better.
    pub fn cut_off(&self) -> watch::Receiver<bool> {
        self.cut_off.clone()
    }
}

/// The other ends of a [`Post`].
pub struct Ends {
    events: mpsc::Receiver<Event>,
    cut_off: watch::Sender<bool>,
    rulings: mpsc::UnboundedSender<(u64, Ruling)>,
}

/// With it comes where rulings for sessions arrive. Unbounded, because a session gets few.
pub fn post() -> (Post, Ends, mpsc::UnboundedReceiver<(u64, Ruling)>) {
    let (events, events_in) = mpsc::channel(EVENTS_MAX);
    let (cut_off, is_cut_off) = watch::channel(false);
    let (rulings, rulings_in) = mpsc::unbounded_channel();
    (Post { events, cut_off: is_cut_off }, Ends { events: events_in, cut_off, rulings }, rulings_in)
}

struct Line {
    sender: mpsc::Sender<ToDesk>,
    told: BoxStream<'static, FromDesk>,
}

/// Keeps a way to whoever leads until `stop`.
pub async fn run(config: Config, mut ends: Ends) {
    let mut shell = Shell {
        outpost: Outpost::default(),
        started: Instant::now(),
        beats: config.beats.clone(),
        cut_off: ends.cut_off,
    };
    let mut leadership = config.leadership.clone();
    let mut line: Option<Line> = None;
    let mut opening: Option<BoxFuture<'static, Result<Line, String>>> = None;
    let mut retry = RETRY_MIN;
    let mut retry_at = Instant::now();
    let mut said = String::new();
    let mut events = Vec::with_capacity(BURST);
    loop {
        let leader = leadership.borrow().leader;
        let takes = line.is_none() || shell.outpost.backlog() < BACKLOG_MAX;
        let idle = line.is_none() && opening.is_none();
        let tick = shell.outpost.deadline().map(|at_ms| shell.started + Duration::from_millis(at_ms));
        tokio::select! {
            () = config.stop.cancelled() => return,
            Ok(()) = leadership.changed() => {
                let changed = leadership.borrow_and_update().leader != leader;
                if changed || line.is_none() {
                    (line, opening, retry, retry_at) = (None, None, RETRY_MIN, Instant::now());
                    shell.step(Event::Disconnected, &ends.rulings);
                }
            }
            count = ends.events.recv_many(&mut events, BURST), if takes => {
                if count == 0 {
                    return;
                }
                events.drain(..).for_each(|event| shell.step(event, &ends.rulings));
            }
            permit = room(line.as_ref().map(|line| line.sender.clone())), if line.is_some() && shell.outpost.has_due() => match permit {
                Some(permit) => if let Some(message) = shell.outpost.next(shell.now_ms()) {
                    permit.send(message);
                },
                None => {
                    line = None;
                    shell.step(Event::Disconnected, &ends.rulings);
                    retry_at = Instant::now() + retry;
                }
            },
            told = hear(&mut line) => match told {
                Some(told) => shell.step(Event::Told(told), &ends.rulings),
                None => {
                    line = None;
                    shell.step(Event::Disconnected, &ends.rulings);
                    retry_at = Instant::now() + retry;
                }
            },
            opened = pending(&mut opening) => {
                opening = None;
                match opened {
                    Ok(opened) => {
                        if !said.is_empty() {
                            info!(leader, "the leader is reached again");
                            said.clear();
                        }
                        (line, retry) = (Some(opened), RETRY_MIN);
                        shell.step(Event::Connected, &ends.rulings);
                    }
                    Err(why) => {
                        retry_at = Instant::now() + retry;
                        retry = (retry * 2).min(RETRY_MAX);
                        if said != why && retry == RETRY_MAX {
                            warn!(leader, why, "the leader cannot be told of the agents here");
                            said = why;
                        }
                    }
                }
            }
            () = tokio::time::sleep_until(retry_at), if idle && leader.is_some() => {
                opening = leader.map(|leader| open(&config, leader));
            }
            () = tokio::time::sleep_until(tick.unwrap_or(shell.started)), if tick.is_some() => {
                shell.step(Event::Tick, &ends.rulings);
            }
        }
    }
}

async fn room(sender: Option<mpsc::Sender<ToDesk>>) -> Option<mpsc::OwnedPermit<ToDesk>> {
    match sender {
        Some(sender) => sender.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

async fn hear(line: &mut Option<Line>) -> Option<FromDesk> {
    match line {
        Some(line) => line.told.next().await,
        None => std::future::pending().await,
    }
}

async fn pending(opening: &mut Option<BoxFuture<'static, Result<Line, String>>>) -> Result<Line, String> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

fn open(config: &Config, leader: ReplicaId) -> BoxFuture<'static, Result<Line, String>> {
    let (replica, reception, doors) = (config.replica, config.reception.clone(), config.doors.clone());
    let opened = async move {
        let (sender, queue) = mpsc::channel(LINE_MAX);
        let queue = ReceiverStream::new(queue);
        let told = if leader == replica {
            let told = reception.admit(replica, queue).await;
            ReceiverStream::new(told.ok_or_else(|| "this replica does not lead yet".to_owned())?).boxed()
        } else {
            let doors = doors.ok_or_else(|| format!("there is no way to replica {leader}"))?;
            service::meet(doors.channel(leader).await?, queue).await?
        };
        Ok(Line { sender, told })
    };
    Box::pin(async move {
        let late = |_| Err(format!("replica {leader} did not answer within {} s", OPEN_TIMEOUT.as_secs()));
        tokio::time::timeout(OPEN_TIMEOUT, opened).await.unwrap_or_else(late)
    })
}

struct Shell {
    outpost: Outpost,
    started: Instant,
    beats: Beats,
    cut_off: watch::Sender<bool>,
}

impl Shell {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    fn step(&mut self, event: Event, rulings: &mpsc::UnboundedSender<(u64, Ruling)>) {
        for effect in self.outpost.step(self.now_ms(), event) {
            match effect {
                Effect::Rule { session, ruling } => {
                    let _stopping = rulings.send((session, ruling));
                }
                Effect::Beats(beats) => self.beats.learn(beats),
                Effect::CutOff(cut_off) => {
                    self.cut_off.send_replace(cut_off);
                }
            }
        }
    }
}
