//! The replicated store: 1, 3 or 5 replicas that agree on one log of commands.
//!
//! The life of a write:
//! 1. [`Replica`] hands the transaction to the replica that leads, over [`Peers`] where that is another one.
//! 2. Its core ([`core::Core`]) proposes it: it gets an index in the log, and the entries of the leader's log go out to the others at once,
//!    before the leader's own disk has them.
//! 3. Each replica's log writer makes them durable, with one fsync for all that has queued up, and says so.
//! 4. Once most voters have an entry durably it is committed: every replica applies it to its own state, in the order of the log.
//! 5. The leader answers what applying it said.
//!
//! A replica alone is the same with nobody to ask.
//!
//! Owns: consensus (crate `raft`), what is on the disk of a replica, membership, and when a read may be answered. Must
//! never: acknowledge what most voters have not made durable, let a vote leave before it is durable itself, go on after
//! the disk failed, or come back under an old id after its disk was lost.
//!
//! The core is one synchronous step; threads, channels and the disk are shells around it, and the simulator drives the
//! same step.

mod ballot;
pub mod core;
mod crash;
mod disk;
pub mod log;
mod logger;
mod message;
mod recovery;
mod shell;
mod snapshot;
#[cfg(test)]
pub(super) mod tests;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;

pub use self::{
    core::{Reads, Timing},
    disk::{OpenError, is_distrusted},
    message::{Body, Message},
    recovery::{Forced, force_new, inspect},
    shell::{Config, Replica, open},
};
use super::{Key, Outcome, Revision, mvcc::StateHash};
use crate::model::Uid;

/// Never given out twice, and never 0: a replica that lost its disk comes back under a new one.
pub type ReplicaId = u64;

/// How a directory that holds no replica yet becomes one; one that does goes on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// As the first of its group, alone, with id 1.
    Found,
    /// As a learner of a group that has, or will have, added this id.
    Join { id: ReplicaId, incarnation: Uid },
}

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<ReplicaId>,
    /// This replica leads and has applied all that was committed before its term: it may decide.
    pub here: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    /// Asks for votes, because no leader is heard.
    Candidate,
    /// Follows without a vote until it has caught up.
    Learner,
}

/// What a replica can say about itself and, where it leads, about the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub id: ReplicaId,
    pub role: Role,
    pub leadership: Leadership,
    pub committed: u64,
    pub applied: u64,
    pub revision: Revision,
    /// The state's hash after the entry at this index, as it was last compared.
    pub hash: (u64, StateHash),
    /// Index that the last snapshot (checkpoint) on disk covers; the log begins after it.
    pub checkpoint: u64,
    /// By id; `matched` and `active` are known where this replica leads.
    pub members: BTreeMap<ReplicaId, MemberStatus>,
    /// Why it stopped, in words.
    pub stopped: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberStatus {
    pub learner: bool,
    /// The last index that it is known to have durably.
    pub matched: Option<u64>,
    /// It answered within the last election timeout.
    pub active: Option<bool>,
    /// It is being sent a snapshot.
    pub snapshot: bool,
}

/// A change of who belongs to the group; one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Takes part without a vote; becomes a voter by itself once it has caught up.
    Add(ReplicaId),
    Promote(ReplicaId),
    Remove(ReplicaId),
}

/// Which snapshot: the rows as of a checkpoint of the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotId {
    pub incarnation: Uid,
    /// Index and term of the last log entry in it.
    pub index: u64,
    pub term: u64,
    pub revision: Revision,
    /// Of the state as of `revision`.
    pub hash: StateHash,
}

/// A piece of a snapshot: rows in order of their keys, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub rows: bytes::Bytes,
    /// The last key in it, to go on after; absent where this is the last chunk.
    pub next: Option<Key>,
}

/// Why another replica did not take what was sent to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It was not done.
    #[error("replica {0} does not lead")]
    NotLeader(ReplicaId),
    /// It was not done: the replica cannot be reached.
    #[error("replica {to} cannot be reached: {why}")]
    Unreachable { to: ReplicaId, why: String },
    /// The sender's history is gone by now.
    #[error("the snapshot is no longer there")]
    SnapshotGone,
    #[error(transparent)]
    Store(#[from] super::Error),
}

/// The way to the other replicas. The sender of what arrives is the authenticated peer.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Never waits: what cannot be sent now is dropped, for consensus sends it again.
    fn send(&self, messages: Vec<Message>);

    /// Has the leader commit an encoded command ([`super::command`]). [`Outcome::Unknown`] where the answer was lost.
    async fn commit(&self, leader: ReplicaId, command: bytes::Bytes) -> Result<Outcome, Refusal>;

    /// The rows of a snapshot after a key.
    async fn fetch(&self, from: ReplicaId, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal>;
}

/// A replica that belongs to no group but its own. Blocks like [`open`], and needs a tokio runtime like it.
pub fn alone(dir: impl Into<PathBuf>, options: super::Options) -> Result<Arc<Replica>, OpenError> {
    let config = Config { dir: dir.into(), timing: Timing::default(), reads: Reads::default(), options };
    open(config, &Start::Found, Arc::new(Nobody))
}

/// The way to no other replica.
struct Nobody;

#[async_trait]
impl Peers for Nobody {
    fn send(&self, _messages: Vec<Message>) {}

    async fn commit(&self, leader: ReplicaId, _command: bytes::Bytes) -> Result<Outcome, Refusal> {
        Err(Refusal::Unreachable { to: leader, why: "this replica knows no other".into() })
    }

    async fn fetch(&self, from: ReplicaId, _snapshot: &SnapshotId, _after: Option<&Key>) -> Result<Chunk, Refusal> {
        Err(Refusal::Unreachable { to: from, why: "this replica knows no other".into() })
    }
}
