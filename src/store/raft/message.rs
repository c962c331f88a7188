//! What replicas say to each other.

use raft::eraftpb;

use super::ReplicaId;
use crate::store::mvcc::StateHash;

/// One message from replica to replica. Any of them may be lost, come twice, or be overtaken.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub from: ReplicaId,
    pub to: ReplicaId,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Consensus. A snapshot's message carries what it is ([`super::SnapshotId`]) but not its rows: those are fetched.
    Raft(Box<eraftpb::Message>),
    /// The sender's state after the log entry at this index.
    Hash { index: u64, hash: StateHash },
    /// The sender gave up fetching the snapshot that it was told to take: send another.
    SnapshotFailed,
}
