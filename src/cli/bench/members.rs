//! Simulated members with ordinary agents, many in one process that is not the hub's: what they use is theirs alone.
//!
//! The process is this same program, told what to do on its stdin ([`Orders`]) and telling what happens on its stdout
//! ([`Told`], one line each).

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, BufWriter},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::process::{Process, Usage};
use crate::{
    agent::{
        self,
        cluster::{Capacity, Cluster, Deletion, Live, NamespaceFacts, Rejection},
        identity::Memory,
        join, ledger, link,
    },
    model::{GroupVersionKind, ObjectRef, Timestamp, Uid, cluster::Facts},
    sim::member::{Config, adapter::SimulatedCluster},
};

/// Label by which a rendered object names its Application.
const APPLICATION_LABEL: &str = "app.oam.dev/name";
/// The one kind whose arrival counts: an Application of one component has one.
const COUNTED_KIND: &str = "Deployment";
/// Each has 110 pod slots: room for the burst, and for what ran before it.
const NODES: usize = 10;
const NODE_CPU_MILLI: i64 = 64_000;
const NODE_MEMORY_BYTES: i64 = 256 << 30;
/// Joining costs two signatures and a handshake each; more at once only wait for the same cores.
const JOINING_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// The hub's URL.
    pub hub: String,
    /// One for each member.
    pub tokens: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    Joined,
    /// The Deployment of an Application is in a member; microseconds since 1970 UTC.
    Applied {
        member: usize,
        application: String,
        at_us: u64,
    },
    /// Answers a line on stdin: write requests to all members so far.
    Writes(u64),
}

/// The process with the members in it.
#[derive(Debug)]
pub struct Members {
    process: Process,
    stdin: tokio::process::ChildStdin,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Members {
    pub async fn start(directory: &std::path::Path, orders: &Orders) -> anyhow::Result<Self> {
        let mut process = Process::start("members", directory, &["bench", "members"])?;
        let mut stdin = process.child.stdin.take().context("no stdin")?;
        let stdout = process.child.stdout.take().context("no stdout")?;
        stdin.write_all(format!("{}\n", serde_json::to_string(orders)?).as_bytes()).await?;
        // Unbounded: a reader that waits for its caller would slow the members down.
        let (sender, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(told) = serde_json::from_str(&line) else { continue };
                if sender.send(told).is_err() {
                    return;
                }
            }
        });
        let mut members = Self { process, stdin, told };
        for _ in &orders.tokens {
            while members.next().await? != Told::Joined {}
        }
        Ok(members)
    }

    async fn next(&mut self) -> anyhow::Result<Told> {
        self.told.recv().await.context("the members ended; see members.log")
    }

    /// The next Application that is in a member, and when that was.
    pub async fn arrival(&mut self) -> anyhow::Result<(String, u64)> {
        loop {
            if let Told::Applied { application, at_us, .. } = self.next().await? {
                return Ok((application, at_us));
            }
        }
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }

    /// None of them runs any more.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.process.signal("STOP").await
    }

    pub async fn writes(&mut self) -> anyhow::Result<u64> {
        self.stdin.write_all(b"\n").await?;
        loop {
            if let Told::Writes(count) = self.next().await? {
                return Ok(count);
            }
        }
    }
}

/// The other side: what `hanse bench members` does, until its stdin ends.
pub async fn serve() -> anyhow::Result<ExitCode> {
    // Each agent's ledger has a thread of its own, and the usual runtime ends at 512.
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let result = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .max_blocking_threads(16_384)
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| {
                let result = runtime.block_on(follow_orders());
                runtime.shutdown_background();
                result
            });
        let _ = done.send(result);
    });
    ended.await.unwrap_or_else(|_| Err(anyhow!("the members' thread panicked")))?;
    Ok(ExitCode::SUCCESS)
}

async fn follow_orders() -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let orders = lines.next_line().await?.context("no orders")?;
    let orders: Orders = serde_json::from_str(&orders).context("orders that cannot be read")?;
    let (told, queue) = mpsc::unbounded_channel();
    tokio::spawn(tell(queue));
    let writes = Arc::new(AtomicU64::new(0));
    let joining = Arc::new(tokio::sync::Semaphore::new(JOINING_MAX));
    let mut members = tokio::task::JoinSet::new();
    for (number, token) in orders.tokens.iter().enumerate() {
        let member = Member {
            number,
            hub: orders.hub.clone(),
            token: token.parse()?,
            told: told.clone(),
            writes: writes.clone(),
        };
        let joining = joining.clone();
        members.spawn(async move { member.run(&joining).await.with_context(|| name(number)) });
    }
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(_) => drop(told.send(Told::Writes(writes.load(Ordering::Relaxed)))),
                None => return Ok(()),
            },
            // None ends by itself while all is well.
            Some(ended) = members.join_next() => ended??,
        }
    }
}

/// Prints in batches: what waits goes out in one write.
async fn tell(mut queue: mpsc::UnboundedReceiver<Told>) {
    const BATCH: usize = 256;
    let mut stdout = BufWriter::new(tokio::io::stdout());
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        for told in batch.drain(..) {
            let Ok(mut line) = serde_json::to_vec(&told) else { continue };
            line.push(b'\n');
            if stdout.write_all(&line).await.is_err() {
                return;
            }
        }
        if stdout.flush().await.is_err() {
            return;
        }
    }
}

struct Member {
    number: usize,
    hub: String,
    token: join::Token,
    told: mpsc::UnboundedSender<Told>,
    writes: Arc<AtomicU64>,
}

impl Member {
    async fn run(self, joining: &tokio::sync::Semaphore) -> anyhow::Result<()> {
        let name = name(self.number);
        let config = Config::uniform(&name, "bench", NODES, NODE_CPU_MILLI, NODE_MEMORY_BYTES);
        let cluster = SimulatedCluster::new(config, Timestamp(jiff::Timestamp::now()));
        let keep = Arc::new(Memory::default());
        let request = join::Request {
            urls: vec![self.hub.clone()],
            token: self.token.clone(),
            cluster: String::new(),
            system_uid: cluster.facts().await?.system_uid,
        };
        let turn = joining.acquire().await?;
        let identity = join::join(&request, &*keep, |_| {}).await?;
        drop(turn);
        let _ = self.told.send(Told::Joined);
        let seed = self.number as u64;
        let link = link::start(link::Config { urls: request.urls, keep, seed }, identity);
        let core = agent::core::Config { instance: name, seed, ..Default::default() };
        let watched = Arc::new(Watched { cluster, number: self.number, told: self.told, writes: self.writes });
        let ledger = Box::new(ledger::memory::MemoryLedger::default());
        Ok(agent::run(core, watched, ledger, link, CancellationToken::new()).await?)
    }
}

/// What the member of this number is called on the hub.
pub fn name(number: usize) -> String {
    format!("member-{number:04}")
}

/// A simulated member that tells when a Deployment arrives, and counts writes.
struct Watched {
    cluster: SimulatedCluster,
    number: usize,
    told: mpsc::UnboundedSender<Told>,
    writes: Arc<AtomicU64>,
}

#[async_trait]
impl Cluster for Watched {
    async fn apply(&self, namespace: &str, object: &Value) -> Result<Value, Rejection> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let stored = self.cluster.apply(namespace, object).await?;
        if let (Some(COUNTED_KIND), Some(application)) =
            (object["kind"].as_str(), object["metadata"]["labels"][APPLICATION_LABEL].as_str())
        {
            let at_us = micros(SystemTime::now());
            let _ = self.told.send(Told::Applied { member: self.number, application: application.into(), at_us });
        }
        Ok(stored)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Value>, Rejection> {
        self.cluster.get(object).await
    }

    async fn delete(&self, namespace: &str, object: &ObjectRef, uid: &Uid) -> Result<Deletion, Rejection> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.cluster.delete(namespace, object, uid).await
    }

    async fn ensure_namespace(&self, namespace: &str) -> Result<NamespaceFacts, Rejection> {
        self.cluster.ensure_namespace(namespace).await
    }

    fn watch(&self, gvk: &GroupVersionKind) -> BoxStream<'static, Live> {
        self.cluster.watch(gvk)
    }

    fn watch_capacity(&self) -> BoxStream<'static, Capacity> {
        self.cluster.watch_capacity()
    }

    async fn facts(&self) -> Result<Facts, Rejection> {
        self.cluster.facts().await
    }
}

/// The wall clock, which all processes of one machine share.
pub fn micros(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_members_tell_fits_on_a_line_and_is_read_back() {
        let told = [
            Told::Joined,
            Told::Applied { member: 3, application: "app-1".into(), at_us: 1_700_000_000_000_000 },
            Told::Writes(7),
        ];
        for told in told {
            let line = serde_json::to_string(&told).expect("JSON");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Told>(&line).expect("read back"), told);
        }
    }
}
