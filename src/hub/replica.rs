//! The replica in this process: its directory, its store, and the port for the others, put together.
//!
//! Owns: what a directory is started as: the first of a new hub, one that joins, or one that goes on. Must never: begin
//! anew where something is missing, for what is missing may be the acknowledged writes of others.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    desk::{Doors, Reception},
    identity, join,
    peers::{
        Local, Network,
        joining::{self, Addresses, Joining},
        members::{self, Belonging, Member, Waits},
        replacing, service,
        tls::Tls,
        view::View,
    },
    pki::{self, Pki},
};
use crate::{
    model::{Timestamp, Uid},
    store::{
        Error, Key, Options, Outcome, Store,
        raft::{
            self, Change, Chunk, Leadership, Message, OpenError, Refusal, Replica, ReplicaId, SnapshotId, Start,
            Status, Timing,
        },
    },
};

/// Where the store is, below the hub's directory.
pub const STORE: &str = "store";

/// A replica that runs, and what the rest of the hub needs of it.
pub struct Running {
    pub replica: Arc<Replica>,
    pub pki: Arc<Pki>,
    pub hub: Uid,
    pub view: Arc<View>,
    network: Arc<Network>,
    belonging: Belonging,
    here: Member,
}

/// Opens the replica in the hub's directory, which founds, joins or goes on. Other replicas can reach it from then on.
pub async fn start(
    config: &Config,
    url: &str,
    now: Timestamp,
    reception: &Reception,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<Running> {
    let dir = &config.dir;
    let listener = TcpListener::bind(&config.peer_listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {} for replicas", config.peer_listen))?;
    let peer_address = config.peer_address(listener.local_addr()?)?;
    let belonging = match (Belonging::read(dir)?, &config.join) {
        (Some(known), Some(_)) => bail!(
            "{} is replica {} of hub {} already: start it without --join, or join with an empty directory",
            dir.display(),
            known.replica,
            known.hub
        ),
        (None, Some(_)) if !is_empty(&dir.join(STORE)) => {
            bail!("{} holds the store of a hub: a replica joins with an empty directory", dir.display())
        }
        (None, Some(invitation)) => {
            let here = Addresses { peer: peer_address.clone(), url: url.to_owned() };
            let joined = joining::join(invitation, dir, &here).await?;
            tracing::info!(replica = joined.replica, hub = %joined.hub, "this replica has joined");
            Some(joined)
        }
        (Some(known), None) if known.opened && is_empty(&dir.join(STORE)) => bail!(
            "the store of replica {} is gone from {}, and with it what it acknowledged: it must not come back under its \
             number. Join a new one, with an empty directory (hanse hub invite), then: hanse hub remove {}",
            known.replica,
            dir.display(),
            known.replica
        ),
        (known, None) => known,
    };

    let network = Network::new(stop.clone());
    let pki = Arc::new(Pki::open(&dir.join("pki"), now)?);
    let opened = open(config, belonging.as_ref(), network.clone()).await;
    let (replica, belonging) = match (opened, belonging) {
        (Err(error), Some(known)) if distrusts_disk(&error) && known.members.len() > 1 => {
            let replaced = begin_anew(dir, &known, &pki, now, &error).await?;
            (open(config, Some(&replaced), network.clone()).await?, Some(replaced))
        }
        (opened, belonging) => (opened?, belonging),
    };
    let belonging = match belonging {
        Some(known) => go_on(dir, known, &replica)?,
        None => found(dir, &replica, &peer_address).await?,
    };
    let tls = Arc::new(Tls::new(pki.clone(), &belonging.hub, belonging.replica, now)?);
    network.identify(tls.clone(), &peer_address);
    let local: Arc<dyn Local> = replica.clone();
    network.attach(Arc::downgrade(&local));
    network.know(&belonging.members);
    let serving = service::serve(listener, network.clone(), tls.clone(), reception.clone(), stop.clone());
    tasks.spawn(async move {
        serving.await;
        Ok(())
    });
    tasks.spawn(renew_certificate(tls, stop.clone()));
    tracing::info!(replica = belonging.replica, peer_address, "this replica can be reached by others");
    let (id, url, peer_authority) = (belonging.replica, url.to_owned(), pki.peers.pin());
    let here = Member { id, peer_address, url, peer_authority };
    let (hub, view) = (belonging.hub.clone(), View::new(network.clone()));
    Ok(Running { replica, pki, hub, view, network, belonging, here })
}

impl Running {
    /// What goes on for as long as the replica runs. `waits` hears of removals that cannot be done.
    pub fn tend(
        &self,
        dir: &Path,
        audit: join::Audit,
        waits: impl FnMut(&Waits) + Send + 'static,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        stop: &CancellationToken,
    ) {
        let store: Arc<dyn Store> = self.replica.clone();
        let secrets = dir.join("pki");
        let authority = self.here.peer_authority;
        self.network.admit(Joining::new(self.hub.clone(), &secrets, authority, audit));
        let view = self.view.clone().run(dir.join(STORE), stop.clone());
        tasks.spawn(view);
        let (belonging, network, dir) = (self.belonging.clone(), self.network.clone(), dir.to_owned());
        let ended = stop.clone();
        tasks.spawn(async move {
            let following = members::follow(store, network, dir, belonging);
            ended.run_until_cancelled(following).await.unwrap_or(Ok(()))
        });
        tasks.spawn(members::lead(self.replica.clone(), waits, stop.clone()));
    }

    /// The way to the other replicas.
    pub fn doors(&self) -> Arc<dyn Doors> {
        self.network.clone()
    }

    /// Says in the store where this replica is.
    pub async fn announce(&self, now: Timestamp) -> Result<(), Error> {
        members::announce(&*self.replica, &self.here, now).await
    }

    /// Gives the lead away, where there is somebody to take it.
    pub async fn hand_over(&self) {
        let Ok(status) = self.replica.status().await else { return };
        let voters = status.members.values().filter(|member| !member.learner).count();
        if voters > 1 && !self.replica.hand_over().await {
            tracing::warn!("no other replica took the lead in time");
        }
    }
}

async fn open(config: &Config, belonging: Option<&Belonging>, network: Arc<Network>) -> anyhow::Result<Arc<Replica>> {
    let start = match belonging {
        Some(known) if !known.opened => Start::Join { id: known.replica, incarnation: known.incarnation.clone() },
        Some(_) | None => Start::Found,
    };
    let config = raft::Config {
        dir: config.dir.join(STORE),
        timing: Timing::with_heartbeat(config.heartbeat),
        reads: config.reads,
        options: Options::default(),
    };
    Ok(tokio::task::spawn_blocking(move || raft::open(config, &start, network)).await??)
}

fn distrusts_disk(error: &anyhow::Error) -> bool {
    error.downcast_ref::<OpenError>().is_some_and(OpenError::distrusts_disk)
}

/// The store is put aside, and the others give this replica a new number and later a snapshot.
async fn begin_anew(
    dir: &Path,
    known: &Belonging,
    pki: &Arc<Pki>,
    now: Timestamp,
    error: &anyhow::Error,
) -> anyhow::Result<Belonging> {
    let old = known.replica;
    tracing::error!(
        replica = old,
        error = format!("{error:#}"),
        "the disk is not to be trusted: a new replica takes its place"
    );
    let tls = Arc::new(Tls::new(pki.clone(), &known.hub, old, now)?);
    let replaced = replacing::ask(&tls, known).await;
    let replaced = replaced.with_context(|| format!("replica {old} does not trust its disk ({error:#})"))?;
    let aside = dir.join(format!("{STORE}.distrusted-{old}"));
    fs::rename(dir.join(STORE), &aside)
        .with_context(|| format!("cannot put the store aside as {}", aside.display()))?;
    replaced.write(dir)?;
    tracing::warn!(old, new = replaced.replica, aside = %aside.display(), "this replica goes on under a new number");
    Ok(replaced)
}

fn go_on(dir: &Path, mut known: Belonging, replica: &Replica) -> anyhow::Result<Belonging> {
    if (replica.id(), replica.incarnation()) != (known.replica, &known.incarnation) {
        bail!(
            "{} says that it is replica {}, but its store is that of replica {}, or of another life of the hub: put back the \
             files that belong together",
            dir.display(),
            known.replica,
            replica.id()
        );
    }
    if !known.opened {
        known.opened = true;
        known.write(dir)?;
    }
    Ok(known)
}

/// The first replica of a hub knows who it is only once it has written it down.
async fn found(dir: &Path, replica: &Arc<Replica>, peer_address: &str) -> anyhow::Result<Belonging> {
    if replica.id() != 1 || replica.status().await?.members.len() > 1 {
        bail!("{} is the directory of a replica, but its replica.json is missing: put it back", dir.display());
    }
    let hub = identity::hub_uid(&**replica).await?;
    let belonging = Belonging {
        replica: replica.id(),
        hub,
        incarnation: replica.incarnation().clone(),
        opened: true,
        members: [(replica.id(), peer_address.to_owned())].into(),
    };
    belonging.write(dir)?;
    Ok(belonging)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Shows the other replicas a new certificate when half of the old one's life is over.
async fn renew_certificate(tls: Arc<Tls>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pki::REPLICA_LIFETIME / 2) => {}
        }
        tls.renew(Timestamp(jiff::Timestamp::now()))?;
    }
}

#[async_trait]
impl Local for Replica {
    fn receive(&self, message: Message) {
        Self::receive(self, message);
    }

    fn unreachable(&self, id: ReplicaId) {
        Self::unreachable(self, id);
    }

    async fn status(&self) -> Result<Status, Error> {
        Self::status(self).await
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        Self::leadership(self)
    }

    async fn commit_here(&self, command: Bytes) -> Result<Outcome, Refusal> {
        Self::commit_here(self, command).await
    }

    fn chunk(&self, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal> {
        Self::chunk(self, snapshot, after)
    }

    async fn change(&self, change: Change) -> Result<(), Refusal> {
        Self::change(self, change).await
    }

    async fn hand_over(&self) -> bool {
        Self::hand_over(self).await
    }

    fn store(&self) -> &dyn Store {
        self
    }
}
