//! How the replicas of a hub reach each other.
//!
//! Owns: a listener of its own with its own authority, one long stream of consensus messages to each other replica, the
//! calls between them ([`Network`] is the store's way to its peers), who belongs to the group and how one joins. Must
//! never: decide what consensus decides, let a certificate of people or agents act here, or call a command undone of
//! which only the answer was lost.

mod calls;
mod convert;
mod dial;
pub mod joining;
mod link;
pub mod members;
pub mod replacing;
pub mod service;
pub mod tls;
pub mod view;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use self::calls::Report;
use self::{joining::Joining, link::Link, tls::Tls};
use super::{desk::Doors, limits};
use crate::store::{
    Entry, Error, Key, Outcome, Revision, Store,
    raft::{Change, Chunk, Leadership, Message, Peers, Refusal, ReplicaId, SnapshotId, Status},
};

/// Generated code.
#[expect(clippy::large_enum_variant, reason = "its oneofs are as the messages are")]
pub mod proto {
    tonic::include_proto!("hanse.peers.v1");
}

/// The replica of this process, as the others use it.
#[async_trait]
pub trait Local: Send + Sync + 'static {
    /// Never blocks. Sender and recipient have been checked against the connection.
    fn receive(&self, message: Message);

    /// The connection to another replica was lost, or there is none.
    fn unreachable(&self, id: ReplicaId);

    async fn status(&self) -> Result<Status, Error>;

    fn leadership(&self) -> watch::Receiver<Leadership>;

    async fn commit_here(&self, command: Bytes) -> Result<Outcome, Refusal>;

    fn chunk(&self, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal>;

    async fn change(&self, change: Change) -> Result<(), Refusal>;

    /// True when another replica leads.
    async fn hand_over(&self) -> bool;

    fn store(&self) -> &dyn Store;
}

/// Where the replicas are (`HOST:PORT`), this one too.
#[derive(Default)]
struct Whereabouts {
    stored: BTreeMap<ReplicaId, String>,
    /// What replicas said of themselves since: one that has moved can be heard again only after it was found.
    told: BTreeMap<ReplicaId, String>,
}

impl Whereabouts {
    fn store(&mut self, members: &BTreeMap<ReplicaId, String>) {
        let stored = &self.stored;
        self.told.retain(|id, _| members.contains_key(id) && members.get(id) == stored.get(id));
        self.stored.clone_from(members);
    }

    fn get(&self, id: ReplicaId) -> Option<&String> {
        self.told.get(&id).or_else(|| self.stored.get(&id))
    }
}

/// All connections of this replica to others. The store is opened with it and holds it, so it must not hold the store: its
/// directory would never be free again. And so it begins without knowing the replica it
/// is of: [`Network::identify`] comes before anything is sent, [`Network::attach`] before anything is received.
pub struct Network {
    tls: OnceLock<Arc<Tls>>,
    /// Where this replica can be reached.
    here: OnceLock<String>,
    local: OnceLock<Weak<dyn Local>>,
    joining: OnceLock<Joining>,
    links: RwLock<BTreeMap<ReplicaId, Arc<Link>>>,
    addresses: RwLock<Whereabouts>,
    /// As it was measured last.
    disk_bytes: AtomicU64,
    stop: CancellationToken,
}

impl Network {
    pub fn new(stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            tls: OnceLock::new(),
            here: OnceLock::new(),
            local: OnceLock::new(),
            joining: OnceLock::new(),
            links: RwLock::default(),
            addresses: RwLock::default(),
            disk_bytes: AtomicU64::new(0),
            stop,
        })
    }

    /// Says once who this replica is, and where the others can reach it (`HOST:PORT`).
    pub fn identify(&self, tls: Arc<Tls>, here: &str) {
        let _ = self.tls.set(tls);
        let _ = self.here.set(here.to_owned());
    }

    /// Says once whose network this is.
    pub fn attach(&self, local: Weak<dyn Local>) {
        let _ = self.local.set(local);
    }

    /// From now on replicas may join here.
    pub fn admit(&self, joining: Joining) {
        let _ = self.joining.set(joining);
    }

    /// Who the replicas are and where (`HOST:PORT`), this one or not. Connections to those that are not among them, or
    /// somewhere else now, end.
    pub fn know(self: &Arc<Self>, members: &BTreeMap<ReplicaId, String>) {
        let mut addresses = self.addresses.write();
        addresses.store(members);
        self.relink(&addresses);
    }

    /// Another replica says where it is now: what is stored may be where it was before its last start.
    fn found(self: &Arc<Self>, id: ReplicaId, address: String) {
        let mut addresses = self.addresses.write();
        if addresses.get(id).is_some_and(|known| *known != address) {
            tracing::info!(replica = id, address, "a replica has moved");
            addresses.told.insert(id, address);
            self.relink(&addresses);
        }
    }

    fn relink(self: &Arc<Self>, addresses: &Whereabouts) {
        let (Some(tls), Some(here)) = (self.tls.get(), self.here.get()) else { return };
        let mut links = self.links.write();
        links.retain(|id, link| {
            let stays = addresses.get(*id) == Some(&link.address);
            if !stays {
                link.stop.cancel();
            }
            stays
        });
        for id in addresses.stored.keys().filter(|id| **id != tls.replica()) {
            let Some(address) = addresses.get(*id) else { continue };
            links.entry(*id).or_insert_with(|| {
                let (stop, here) = (self.stop.child_token(), here.clone());
                let link = Arc::new(Link::new(*id, address.clone(), here, tls.clone(), stop));
                tokio::spawn(link.clone().run(self.local.get().cloned()));
                link
            });
        }
    }

    pub fn others(&self) -> Vec<ReplicaId> {
        self.links.read().keys().copied().collect()
    }

    pub fn address(&self, id: ReplicaId) -> Option<String> {
        self.addresses.read().get(id).cloned()
    }

    /// What this replica says of itself; an error once it has stopped.
    pub async fn report(&self) -> Result<Report, Error> {
        let local = self.local().ok_or_else(|| Error::Closed("this replica is starting or stopping".into()))?;
        let status = local.status().await?;
        let disk_bytes = self.disk_bytes.load(Ordering::Relaxed);
        Ok(Report { status, disk_bytes, version: env!("CARGO_PKG_VERSION").to_owned() })
    }

    /// Of this replica, once it is known.
    pub fn replica(&self) -> Option<ReplicaId> {
        self.tls.get().map(|tls| tls.replica())
    }

    pub fn set_disk_bytes(&self, bytes: u64) {
        self.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What another replica says of itself.
    pub async fn ask(&self, id: ReplicaId) -> Result<Report, Refusal> {
        self.link(id)?.status().await
    }

    /// A linearizable read, on another replica.
    pub async fn read(&self, id: ReplicaId, key: &Key) -> Result<(Option<Entry>, Revision), Refusal> {
        self.link(id)?.read(key).await
    }

    /// Ends once a replica other than this one leads. One that hangs would be waited for in vain: what it was asked may have been
    /// done or not, and who asks again is answered by the next one.
    async fn another_leads(&self, leader: ReplicaId) {
        let leadership = self.local().map(|local| local.leadership());
        if let Some(mut leadership) = leadership
            && leadership.wait_for(|now| now.leader.is_some_and(|other| other != leader)).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    fn local(&self) -> Option<Arc<dyn Local>> {
        self.local.get().and_then(Weak::upgrade)
    }

    fn link(&self, id: ReplicaId) -> Result<Arc<Link>, Refusal> {
        let link = self.links.read().get(&id).cloned();
        link.ok_or_else(|| Refusal::Unreachable { to: id, why: "its address is not known here".into() })
    }
}

#[async_trait]
impl Doors for Network {
    async fn channel(&self, replica: ReplicaId) -> Result<Channel, String> {
        let link = self.link(replica).map_err(|refusal| refusal.to_string())?;
        link.connect().await
    }
}

#[async_trait]
impl Peers for Network {
    fn send(&self, messages: Vec<Message>) {
        let links = self.links.read();
        for message in messages {
            if let Some(link) = links.get(&message.to) {
                link.send(message);
            }
        }
    }

    async fn commit(&self, leader: ReplicaId, command: Bytes) -> Result<Outcome, Refusal> {
        self.link(leader)?.commit(command, self.another_leads(leader)).await
    }

    async fn fetch(&self, from: ReplicaId, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal> {
        self.link(from)?.fetch(snapshot, after).await
    }
}
