//! The loop that carries out what the core asks for, on tokio.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Link, LinkEvent,
    cluster::Cluster,
    core::{Answer, Call, Config, Core, Effect, Event},
    ledger::{self, Ledger, Write},
};
use crate::model::{GroupVersionKind, Now, Timestamp, cluster::Facts, protocol::ToHub};

/// Facts are read again this often; they are sent when they changed.
const FACTS_INTERVAL: Duration = Duration::from_secs(60);
/// Events that may wait for the core; watches and calls pause beyond it.
const EVENTS_MAX: usize = 256;

pub async fn run(
    config: Config,
    cluster: Arc<dyn Cluster>,
    ledger: Box<dyn Ledger>,
    mut link: Link,
    stop: CancellationToken,
) -> Result<(), ledger::Error> {
    let started = Instant::now();
    let (ledger, loaded) = open(ledger).await?;
    for broken in &loaded.broken {
        warn!(application = ?broken.application, why = broken.why, "a ledger entry cannot be used");
    }
    let (core, effects) = Core::start(config, now(started), loaded);
    let (events, mut inbox) = mpsc::channel(EVENTS_MAX);
    let (writes, ledger_done) = own(ledger, events.clone());
    let mut shell = Shell { cluster, events, writes, hub: None, watches: BTreeMap::new(), tasks: JoinSet::new() };
    shell.observe_member();
    let mut core = core;
    shell.carry_out(effects);
    loop {
        let wake_at = core.wake_at().map(|at| started + Duration::from_millis(at));
        let event = tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = link.events.recv() => shell.take_link(event),
            Some(event) = inbox.recv() => event,
            Some(_) = shell.tasks.join_next() => continue,
            () = tokio::time::sleep_until(wake_at.unwrap_or(started)), if wake_at.is_some() => Event::Tick,
        };
        let effects = core.step(now(started), event);
        shell.carry_out(effects);
    }
    drop(link);
    // The member is left as it is; what was decided is in the ledger once its thread has drained its queue.
    drop(inbox);
    drop(shell);
    if let Err(error) = ledger_done.await {
        warn!(%error, "the ledger's thread did not end in order");
    }
    Ok(())
}

fn now(started: Instant) -> Now {
    Now { wall: Timestamp(jiff::Timestamp::now()), monotonic_ms: started.elapsed().as_millis() as u64 }
}

async fn open(mut ledger: Box<dyn Ledger>) -> Result<(Box<dyn Ledger>, ledger::Loaded), ledger::Error> {
    let opened = tokio::task::spawn_blocking(move || ledger.load().map(|loaded| (ledger, loaded))).await;
    opened.unwrap_or_else(|error| Err(ledger::Error::Other(error.to_string())))
}

struct Batch {
    id: u64,
    writes: Vec<Write>,
}

/// Gives the ledger to a thread of its own. What waits there is written as one batch.
fn own(
    mut ledger: Box<dyn Ledger>,
    events: mpsc::Sender<Event>,
) -> (mpsc::UnboundedSender<Batch>, tokio::task::JoinHandle<()>) {
    // Unbounded, because the core has at most one write per Application on its way.
    let (writes, mut queue) = mpsc::unbounded_channel::<Batch>();
    let done = tokio::task::spawn_blocking(move || {
        while let Some(first) = queue.blocking_recv() {
            let mut batches = vec![first];
            while let Ok(next) = queue.try_recv() {
                batches.push(next);
            }
            let ids: Vec<u64> = batches.iter().map(|batch| batch.id).collect();
            let writes: Vec<Write> = batches.into_iter().flat_map(|batch| batch.writes).collect();
            let result = ledger.write(&writes).map_err(|error| in_words(&error));
            if let Err(why) = &result {
                warn!(why, "the ledger was not written");
            }
            for id in ids {
                // Nobody listens any more once the agent stops; the queue is drained all the same.
                let _ = events.blocking_send(Event::Written { id, result: result.clone() });
            }
        }
    });
    (writes, done)
}

fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

struct Shell {
    cluster: Arc<dyn Cluster>,
    events: mpsc::Sender<Event>,
    writes: mpsc::UnboundedSender<Batch>,
    hub: Option<mpsc::UnboundedSender<ToHub>>,
    watches: BTreeMap<GroupVersionKind, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Shell {
    fn take_link(&mut self, event: LinkEvent) -> Event {
        match event {
            LinkEvent::Opened(stream) => {
                // The core has few messages on their way at once, so this queue stays short.
                let (hub, mut queue) = mpsc::unbounded_channel();
                self.hub = Some(hub);
                let events = self.events.clone();
                self.tasks.spawn(async move {
                    while let Some(message) = queue.recv().await {
                        if stream.send(message).await.is_err() || events.send(Event::Sent).await.is_err() {
                            return;
                        }
                    }
                });
                Event::LinkOpened
            }
            LinkEvent::Message(message) => Event::LinkMessage(message),
            LinkEvent::Closed(why) => {
                self.hub = None;
                info!(why, "the stream to the hub ended");
                Event::LinkClosed(why)
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    if let Some(hub) = &self.hub {
                        let _ = hub.send(message);
                    }
                }
                Effect::CloseLink(why) => {
                    warn!(why, "giving the stream to the hub up");
                    self.hub = None;
                }
                Effect::Write { id, writes } => {
                    let _ = self.writes.send(Batch { id, writes });
                }
                Effect::Call { id, call } => self.call(id, call),
                Effect::Watch(gvk) => self.watch(gvk),
                Effect::Unwatch(gvk) => {
                    if let Some(watch) = self.watches.remove(&gvk) {
                        watch.abort();
                    }
                }
            }
        }
    }

    fn call(&mut self, id: u64, call: Call) {
        let (cluster, events) = (self.cluster.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let answer = match call {
                Call::EnsureNamespace(namespace) => Answer::Namespace(cluster.ensure_namespace(&namespace).await),
                Call::Get(object) => Answer::Got(cluster.get(&object).await),
                Call::Apply { namespace, object } => Answer::Applied(cluster.apply(&namespace, &object).await),
                Call::Delete { namespace, object, uid } => {
                    info!(%object, %uid, "deleting, as a removal orders");
                    Answer::Deleted(cluster.delete(&namespace, &object, &uid).await)
                }
            };
            let rejection = match &answer {
                Answer::Namespace(result) => result.as_ref().err(),
                Answer::Got(result) => result.as_ref().err(),
                Answer::Applied(result) => result.as_ref().err(),
                Answer::Deleted(result) => result.as_ref().err(),
            };
            if let Some(rejection) = rejection {
                debug!(%rejection, "the member says no");
            }
            let _ = events.send(Event::Answered { id, answer }).await;
        });
    }

    fn watch(&mut self, gvk: GroupVersionKind) {
        let (mut stream, events, kind) = (self.cluster.watch(&gvk), self.events.clone(), gvk.clone());
        let task = self.tasks.spawn(async move {
            while let Some(live) = stream.next().await {
                if events.send(Event::Live { gvk: kind.clone(), live }).await.is_err() {
                    return;
                }
            }
        });
        if let Some(previous) = self.watches.insert(gvk, task) {
            previous.abort();
        }
    }

    /// Nodes, pods and facts are observed for as long as the agent runs.
    fn observe_member(&mut self) {
        let (mut capacity, events) = (self.cluster.watch_capacity(), self.events.clone());
        self.tasks.spawn(async move {
            while let Some(change) = capacity.next().await {
                if events.send(Event::Capacity(change)).await.is_err() {
                    return;
                }
            }
        });
        let (cluster, events) = (self.cluster.clone(), self.events.clone());
        self.tasks.spawn(async move {
            let mut known: Option<Facts> = None;
            loop {
                match cluster.facts().await {
                    Ok(facts) if known.as_ref() != Some(&facts) => {
                        known = Some(facts.clone());
                        if events.send(Event::Facts(facts)).await.is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(rejection) => debug!(%rejection, "the member's facts could not be read"),
                }
                tokio::time::sleep(FACTS_INTERVAL).await;
            }
        });
    }
}
