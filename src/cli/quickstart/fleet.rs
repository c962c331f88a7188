//! The members of a quickstart and their agents: ordinary ones, in this process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{attached::Attached, client::Hub};
use crate::{
    agent::{
        self,
        cluster::Cluster,
        core,
        identity::{self, Keep},
        join,
        ledger::{self, directory::DirectoryLedger},
        link,
    },
    model::{Digest, Timestamp},
    sim::member::{Config, adapter::SimulatedCluster},
};

/// Names, regions and sizes of the first members; further ones repeat the sizes.
const FIRST: [(&str, usize, i64); 3] = [("eu", 3, 4000), ("us", 2, 4000), ("ap", 2, 3000)];
const NODE_MEMORY: i64 = 8 << 30;

/// One member cluster with its agent.
pub struct Member {
    pub name: String,
    pub region: String,
    /// Absent where it is a real one.
    pub simulated: Option<SimulatedCluster>,
    /// Present where it is.
    pub attached: Option<Attached>,
    cluster: Arc<dyn Cluster>,
    keep: Arc<dyn Keep>,
    /// Where its agent keeps its identity and ledger.
    dir: PathBuf,
    agent: Option<(CancellationToken, JoinHandle<Result<(), ledger::Error>>)>,
}

/// Simulated members, each with a directory of its own under `dir`; nothing has joined yet.
pub fn simulated(count: usize, dir: &Path) -> anyhow::Result<Vec<Member>> {
    let member = |index: usize| {
        let (base, nodes, cpu) = FIRST[index % FIRST.len()];
        let name = if index < FIRST.len() { base.to_owned() } else { format!("{base}-{}", index / FIRST.len() + 1) };
        let config = Config::uniform(&name, base, nodes, cpu, NODE_MEMORY);
        let cluster = SimulatedCluster::new(config, Timestamp(jiff::Timestamp::now()));
        let port = Arc::new(cluster.clone());
        Ok(Member { region: base.to_owned(), simulated: Some(cluster), ..Member::new(&name, port, dir)? })
    };
    (0..count).map(member).collect()
}

impl Member {
    fn new(name: &str, cluster: Arc<dyn Cluster>, dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.join(name);
        let keep: Arc<dyn Keep> = Arc::new(identity::Directory::open(&dir)?);
        let (simulated, attached) = (None, None);
        Ok(Self { name: name.to_owned(), region: String::new(), simulated, attached, cluster, keep, dir, agent: None })
    }

    /// A real cluster of the user's kubeconfig, named after its context.
    pub async fn attached(context: &str, dir: &Path) -> anyhow::Result<Self> {
        let attached = Attached::open(context).await?;
        let cluster = Arc::new(attached.cluster.clone());
        let facts = cluster.facts().await.with_context(|| format!("cannot reach the cluster of context {context}"))?;
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name = context.chars().map(word).take(63).collect::<String>();
        let member = Self::new(name.trim_matches('-'), cluster, dir)?;
        Ok(Self { region: facts.region, attached: Some(attached), ..member })
    }

    /// Joins by an ordinary token, unless it did in an earlier run, and starts the agent.
    pub async fn join(&mut self, hub: &Hub, urls: &[String], pin: Digest) -> anyhow::Result<()> {
        if self.keep.load()?.is_some_and(|kept| kept.identity.is_some()) {
            return self.start(urls);
        }
        let token = hub.token(&self.name, &self.region, pin).await?;
        let system_uid = self.cluster.facts().await.with_context(|| format!("cannot read {}", self.name))?.system_uid;
        let request = join::Request { urls: urls.to_vec(), token, cluster: self.name.clone(), system_uid };
        let joined = join::join(&request, &*self.keep, |_| ()).await;
        joined.with_context(|| format!("{} cannot join", self.name))?;
        self.start(urls)
    }

    /// Starts the agent with the identity and the ledger that it has.
    pub fn start(&mut self, urls: &[String]) -> anyhow::Result<()> {
        let identity = self.keep.load()?.unwrap_or_default().identity;
        let identity = identity.with_context(|| format!("{} has not joined", self.name))?;
        let seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let link = link::start(link::Config { urls: urls.to_vec(), keep: self.keep.clone(), seed }, identity);
        let config = core::Config { instance: uuid::Uuid::new_v4().to_string(), seed, ..core::Config::default() };
        let (stop, ledger) = (CancellationToken::new(), DirectoryLedger::open(&self.dir.join("ledger"))?);
        let agent = tokio::spawn(agent::run(config, self.cluster.clone(), Box::new(ledger), link, stop.clone()));
        self.agent = Some((stop, agent));
        Ok(())
    }

    /// Stops the agent; the member goes on by itself.
    pub async fn stop(&mut self) {
        let Some((stop, agent)) = self.agent.take() else { return };
        stop.cancel();
        if let Ok(Err(error)) = agent.await {
            tracing::warn!(%error, member = self.name, "the agent ended with an error");
        }
    }
}
