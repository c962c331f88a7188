//! The shell around the core: two threads and the handle that everybody holds.
//!
//! Owns: the clock, the channels, and who waits for which answer. The thread `raft` steps the core and never waits for the
//! log's fsync; the thread `raft-log` writes the log, all that has queued up with one fsync. Must never: decide anything.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, mpsc as calls},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    runtime::Handle as Runtime,
    sync::{Semaphore, oneshot, watch as signal},
    task::AbortHandle,
};

use super::{
    Change, Chunk, Leadership, MemberStatus, Message, Peers, Refusal, ReplicaId, SnapshotId, Start, Status,
    ballot::BallotFile,
    core::{Core, Effect, Event, Reads, Settings, Timing},
    crash,
    disk::{self, Disk, LogError, OpenError, Opened, Order, RaftLogStore},
    logger::logger,
    snapshot,
};
use crate::{
    model::Uid,
    store::{
        Entry, Error, Key, List, Outcome, Page, Revision, Store, Transaction, Watch, command::Command, shared::Shared,
    },
};

/// How a replica is opened.
#[derive(Debug, Clone)]
pub struct Config {
    pub dir: PathBuf,
    pub timing: Timing,
    pub reads: Reads,
    pub options: crate::store::Options,
}

/// Writes and reads under way in this process; more wait.
const UNDER_WAY_MAX: usize = 8192;
/// What is taken in one step at most.
const BATCH_MAX: usize = 1024;
/// What shares one fsync at most.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// How long a write looks for a leader that takes it.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks, where nothing says that the leader changed.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// An open replica. When the last handle goes, its threads end and its directory is free.
pub struct Replica {
    id: ReplicaId,
    incarnation: Uid,
    shared: Arc<Shared>,
    calls: calls::Sender<Call>,
    slots: Semaphore,
    leadership: signal::Receiver<Leadership>,
    peers: Arc<dyn Peers>,
    threads: Vec<JoinHandle<()>>,
}

/// What comes to the core's thread.
enum Call {
    Event(Event),
    Propose(Bytes, oneshot::Sender<Result<Outcome, Refusal>>),
    Change(Change, oneshot::Sender<Result<Outcome, Refusal>>),
    Read(oneshot::Sender<Result<(), Refusal>>),
    Status(oneshot::Sender<Status>),
    Close,
}

/// Opens the replica in a directory, which is made where it is missing. Blocks for as long as the disk takes. Needs a tokio
/// runtime, on which it fetches snapshots.
pub fn open(config: Config, start: &Start, peers: Arc<dyn Peers>) -> Result<Arc<Replica>, OpenError> {
    begin(Disk::open(&config.dir, start)?, config, peers).map_err(OpenError::Start)
}

pub(super) fn begin(opened: Opened, config: Config, peers: Arc<dyn Peers>) -> Result<Arc<Replica>, LogError> {
    let Opened { disk, ballots, id, incarnation, recovered } = opened;
    let settings = Settings {
        id,
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
        incarnation: incarnation.clone(),
        timing: config.timing,
        reads: config.reads,
        options: config.options.clone(),
        logger: logger(),
    };
    let (core, effects) = Core::start(settings, recovered, 0)?;
    let shared = Shared::new(core.state().clone(), config.options);
    let (sender, receiver) = calls::channel();
    let (orders, orders_in) = calls::channel();
    let (leadership, leadership_out) = signal::channel(Leadership::default());
    let answers = sender.clone();
    let writer = thread::Builder::new().name("raft-log".into()).spawn(move || write_log(disk, &orders_in, &answers))?;
    let owner = Owner {
        core,
        dir: config.dir,
        started: Instant::now(),
        shared: shared.clone(),
        calls: receiver,
        answers: sender.clone(),
        orders,
        ballots,
        leadership,
        peers: peers.clone(),
        runtime: Runtime::current(),
        fetch: None,
        number: 0,
        writes: HashMap::new(),
        reads: HashMap::new(),
    };
    let owner = thread::Builder::new().name("raft".into()).spawn(move || owner.outlive(effects))?;
    let threads = vec![owner, writer];
    let slots = Semaphore::new(UNDER_WAY_MAX);
    Ok(Arc::new(Replica { id, incarnation, shared, calls: sender, slots, leadership: leadership_out, peers, threads }))
}

/// Writes what has queued up with one fsync, until the core's thread has ended.
fn write_log(mut log: impl RaftLogStore, orders: &calls::Receiver<Order>, answers: &calls::Sender<Call>) {
    while let Ok(first) = orders.recv() {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        while bytes < GROUP_BYTES_MAX
            && let Ok(order) = orders.try_recv()
        {
            bytes += order.bytes();
            group.push(order);
        }
        let number = group.iter().filter_map(Order::number).max();
        let event = match log.write(group) {
            Ok(()) => number.map(|number| Event::Persisted { number }),
            Err(error) => Some(Event::Fault(format!("its log failed: {error}"))),
        };
        let failed = matches!(event, Some(Event::Fault(_)));
        if let Some(event) = event
            && (answers.send(Call::Event(event)).is_err() || failed)
        {
            return;
        }
    }
}

impl Order {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Write(write) => Some(write.number),
            Self::Forget(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Write(write) => write.entries.iter().map(|entry| entry.data.len()).sum(),
            Self::Forget(_) => 0,
        }
    }
}

struct Owner {
    core: Core,
    dir: PathBuf,
    started: Instant,
    shared: Arc<Shared>,
    calls: calls::Receiver<Call>,
    answers: calls::Sender<Call>,
    orders: calls::Sender<Order>,
    ballots: BallotFile,
    leadership: signal::Sender<Leadership>,
    peers: Arc<dyn Peers>,
    runtime: Runtime,
    fetch: Option<AbortHandle>,
    number: u64,
    writes: HashMap<u64, oneshot::Sender<Result<Outcome, Refusal>>>,
    reads: HashMap<u64, oneshot::Sender<Result<(), Refusal>>>,
}

impl Owner {
    /// A panic is a bug, here or in the consensus library. It stops the replica, in words, and not the process that it is in:
    /// the others go on.
    fn outlive(mut self, effects: Vec<Effect>) {
        let shared = self.shared.clone();
        let run = std::panic::AssertUnwindSafe(|| self.run(effects));
        if std::panic::catch_unwind(run).is_err() {
            shared.stop("it panicked; the process's log says where".into());
        }
        shared.stop("its last handle is gone".into());
        self.leadership.send_replace(Leadership::default());
    }

    fn run(&mut self, effects: Vec<Effect>) {
        let mut alive = self.carry_out(effects);
        while alive {
            let Some(first) = self.next() else { break };
            let mut events = Vec::new();
            let mut closing = self.take(first, &mut events);
            while events.len() < BATCH_MAX
                && !closing
                && let Ok(call) = self.calls.try_recv()
            {
                closing = self.take(call, &mut events);
            }
            let effects = self.core.step(self.now_ms(), events);
            alive = self.carry_out(effects) && !closing;
        }
        if let Some(fetch) = &self.fetch {
            fetch.abort();
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn next(&self) -> Option<Call> {
        let Some(deadline) = self.core.deadline() else { return self.calls.recv().ok() };
        let pause = Duration::from_millis(deadline.saturating_sub(self.now_ms()));
        match self.calls.recv_timeout(pause) {
            Ok(call) => Some(call),
            Err(calls::RecvTimeoutError::Timeout) => Some(Call::Event(Event::Tick)),
            Err(calls::RecvTimeoutError::Disconnected) => None,
        }
    }

    /// True where this is the end.
    fn take(&mut self, call: Call, events: &mut Vec<Event>) -> bool {
        self.number += 1;
        let id = self.number;
        match call {
            Call::Event(event) => events.push(event),
            Call::Propose(command, answer) => {
                self.writes.insert(id, answer);
                events.push(Event::Propose { id, command });
            }
            Call::Change(change, answer) => {
                self.writes.insert(id, answer);
                events.push(Event::Change { id, change });
            }
            Call::Read(answer) => {
                self.reads.insert(id, answer);
                events.push(Event::Read { id });
            }
            Call::Status(answer) => {
                let _gone = answer.send(self.core.status());
            }
            Call::Close => return true,
        }
        false
    }

    /// False where the replica has stopped.
    fn carry_out(&mut self, effects: Vec<Effect>) -> bool {
        let mut messages: Vec<Message> = Vec::new();
        // Told last, when everybody can see what they say.
        let mut answered = Vec::new();
        for effect in effects {
            match effect {
                Effect::SaveBallot(ballot) => {
                    self.flush(&mut messages);
                    if let Err(error) = self.ballots.save(ballot) {
                        return self.stop(format!("its ballot cannot be written: {error}"));
                    }
                    crash::point("ballot-after-sync");
                }
                Effect::Send(message) => messages.push(message),
                Effect::Write(write) => self.order(Order::Write(write), &mut messages),
                Effect::Forget(forget) => self.order(Order::Forget(forget), &mut messages),
                Effect::Fetch { from, snapshot } => self.fetch(from, snapshot),
                Effect::Answer { id, answer } => answered.push((id, answer)),
                Effect::Readable { id, answer } => {
                    if let Some(reader) = self.reads.remove(&id) {
                        let _gone = reader.send(answer);
                    }
                }
                Effect::Lead(leadership) => {
                    tracing::info!(
                        replica = self.core.status().id,
                        term = leadership.term,
                        leader = leadership.leader,
                        here = leadership.here,
                        "who leads"
                    );
                    self.leadership.send_replace(leadership);
                }
                Effect::Applied(revision) => self.shared.publish(revision),
                Effect::Distrust(why) => {
                    if let Err(error) = disk::distrust(&self.dir, &why) {
                        tracing::error!(%error, "that this replica is not to be trusted cannot be written down");
                    }
                }
                Effect::Stop(why) => {
                    self.flush(&mut messages);
                    return self.stop(why);
                }
            }
        }
        self.flush(&mut messages);
        crash::point("answer");
        for (id, answer) in answered {
            if let Some(writer) = self.writes.remove(&id) {
                let _gone = writer.send(answer);
            }
        }
        true
    }

    fn flush(&self, messages: &mut Vec<Message>) {
        if !messages.is_empty() {
            self.peers.send(std::mem::take(messages));
        }
    }

    /// Messages leave before the disk begins.
    fn order(&self, order: Order, messages: &mut Vec<Message>) {
        self.flush(messages);
        // A writer that has ended has said why, or will: `Event::Fault`.
        let _ended = self.orders.send(order);
    }

    fn stop(&mut self, why: String) -> bool {
        tracing::error!(replica = self.core.status().id, %why, "the replica stops");
        self.shared.stop(why);
        false
    }

    fn fetch(&mut self, from: ReplicaId, snapshot: SnapshotId) {
        if let Some(fetch) = self.fetch.take() {
            fetch.abort();
        }
        tracing::info!(from, index = snapshot.index, "this replica is behind and fetches a snapshot");
        let (peers, answers) = (self.peers.clone(), self.answers.clone());
        let task = self.runtime.spawn(async move {
            let event = match snapshot::fetch(peers, from, snapshot.clone()).await {
                Ok(rows) => Event::Fetched { snapshot, rows },
                Err(refusal) => {
                    tracing::warn!(%refusal, from, "the snapshot cannot be fetched");
                    Event::FetchFailed(snapshot)
                }
            };
            let _ended = answers.send(Call::Event(event));
        });
        self.fetch = Some(task.abort_handle());
    }
}

impl Replica {
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// A message of another replica, whose name the transport has checked.
    pub fn receive(&self, message: Message) {
        let _ended = self.calls.send(Call::Event(Event::Message(message)));
    }

    /// The connection to another replica broke.
    pub fn unreachable(&self, id: ReplicaId) {
        let _ended = self.calls.send(Call::Event(Event::Unreachable(id)));
    }

    pub fn leadership(&self) -> signal::Receiver<Leadership> {
        self.leadership.clone()
    }

    pub async fn status(&self) -> Result<Status, Error> {
        let (answer, status) = oneshot::channel();
        self.call(Call::Status(answer))?;
        status.await.map_err(|_| self.shared.closed())
    }

    /// Why this replica stopped, if it has.
    pub fn stopped(&self) -> Option<Error> {
        self.shared.open().err()
    }

    /// Commits an encoded command where this replica leads.
    pub async fn commit_here(&self, command: Bytes) -> Result<Outcome, Refusal> {
        let _slot = self.slots.acquire().await.map_err(|_| self.shared.closed())?;
        let (answer, outcome) = oneshot::channel();
        self.call(Call::Propose(command, answer))?;
        // The replica stopped meanwhile: nobody knows.
        outcome.await.unwrap_or(Ok(Outcome::Unknown))
    }

    /// A piece of a snapshot, for another replica.
    pub fn chunk(&self, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal> {
        if snapshot.incarnation != self.incarnation {
            return Err(Refusal::SnapshotGone);
        }
        snapshot::piece(&*self.shared.read()?, snapshot, after)
    }

    /// Changes who belongs to the group, where this replica leads. Returns when most voters have the change.
    pub async fn change(&self, change: Change) -> Result<(), Refusal> {
        let (answer, outcome) = oneshot::channel();
        self.call(Call::Change(change, answer))?;
        match outcome.await.unwrap_or(Ok(Outcome::Unknown))? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict(_) | Outcome::Unknown => {
                Err(Error::Unavailable("nobody knows yet whether the change of the group was made".into()).into())
            }
        }
    }

    /// Gives the lead to another replica; true when one has it, or when this one has nothing to give.
    pub async fn hand_over(&self) -> bool {
        let mut leadership = self.leadership();
        if leadership.borrow().leader != Some(self.id) || self.call(Call::Event(Event::HandOver)).is_err() {
            return true;
        }
        let another = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != self.id));
        let nobody = async {
            // Where no other voter answers, there is none to wait for.
            loop {
                let status = self.status().await.ok();
                let takes = |(id, member): (&ReplicaId, &MemberStatus)| {
                    *id != self.id && !member.learner && member.active != Some(false)
                };
                if !status.is_some_and(|status| status.members.iter().any(takes)) {
                    return;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        tokio::select! {
            given = another => given.is_ok(),
            () = nobody => false,
            () = tokio::time::sleep(HAND_OVER_TIMEOUT) => false,
        }
    }

    #[cfg(test)]
    pub(super) fn shared_state(&self) -> &parking_lot::RwLock<crate::store::mvcc::Mvcc> {
        self.shared.state()
    }

    fn call(&self, call: Call) -> Result<(), Error> {
        self.shared.open()?;
        self.calls.send(call).map_err(|_| self.shared.closed())
    }

    /// Waits until this replica's state holds all that was acknowledged before this call.
    async fn confirm(&self) -> Result<(), Error> {
        let _slot = self.slots.acquire().await.map_err(|_| self.shared.closed())?;
        let (answer, readable) = oneshot::channel();
        self.call(Call::Read(answer))?;
        match readable.await {
            Ok(answer) => answer.map_err(error),
            Err(_) => Err(self.shared.closed()),
        }
    }

    /// Has whichever replica leads commit it.
    async fn submit(&self, command: &Command) -> Result<Outcome, Error> {
        let command: Bytes = command.encode().into();
        let mut leadership = self.leadership.clone();
        let deadline = tokio::time::Instant::now() + COMMIT_TIMEOUT;
        loop {
            let leader = leadership.borrow_and_update().leader;
            let answer = match leader {
                Some(leader) if leader == self.id => self.commit_here(command.clone()).await,
                Some(leader) => self.peers.commit(leader, command.clone()).await,
                None => Err(Refusal::NotLeader(self.id)),
            };
            match answer {
                Ok(outcome) => return Ok(outcome),
                Err(refusal @ (Refusal::Store(_) | Refusal::SnapshotGone)) => return Err(error(refusal)),
                // It was not done: whoever leads next may do it.
                Err(refusal @ (Refusal::NotLeader(_) | Refusal::Unreachable { .. })) => {
                    self.shared.open()?;
                    if tokio::time::Instant::now() >= deadline {
                        return Err(error(refusal));
                    }
                }
            }
            tokio::select! {
                changed = leadership.changed() => changed.map_err(|_| self.shared.closed())?,
                () = tokio::time::sleep(RETRY_PAUSE) => {}
            }
        }
    }
}

fn error(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Store(error) => error,
        other => Error::Unavailable(format!("no leader takes it: {other}")),
    }
}

#[async_trait]
impl Store for Replica {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.confirm().await?;
        Ok(self.shared.read()?.get(key))
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        // What is past cannot change any more.
        let past = list.at.is_some_and(|at| self.shared.state().read().revision() >= at);
        if !past {
            self.confirm().await?;
        }
        self.shared.list(&list)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        self.submit(&Command::Commit(transaction)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        // The past that it begins with holds all that was acknowledged, also by another replica.
        self.confirm().await?;
        self.shared.watch(prefix, from)
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.confirm().await?;
        Ok(self.shared.read()?.revision())
    }

    async fn mark_progress(&self) -> Result<(), Error> {
        self.confirm().await?;
        self.shared.mark_progress();
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.submit(&Command::Compact(revision)).await?;
        // Here too, not only where the leader is.
        self.confirm().await
    }

    fn incarnation(&self) -> &Uid {
        &self.incarnation
    }
}

impl Drop for Replica {
    /// Waits for the threads, so that a directory is free to be opened again when its last handle is gone.
    fn drop(&mut self) {
        let _ended = self.calls.send(Call::Close);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}
