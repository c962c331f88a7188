//! What replicas say to each other.

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::{self, ConfChangeSingle, ConfChangeType, ConfChangeV2};

use super::{Change, ReplicaId, SnapshotId};
use crate::{model::Uid, store::mvcc::StateHash};

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

const SNAPSHOT_NUMBERS_BYTES: usize = 40;

impl SnapshotId {
    /// Index, term, revision and hash, big-endian, then the incarnation.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(SNAPSHOT_NUMBERS_BYTES + self.incarnation.0.len());
        for number in [self.index, self.term, self.revision] {
            out.put_u64(number);
        }
        out.put_u128(self.hash.0);
        out.put_slice(self.incarnation.0.as_bytes());
        out.into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, incarnation) = bytes.split_first_chunk::<SNAPSHOT_NUMBERS_BYTES>()?;
        let mut numbers = &numbers[..];
        Some(Self {
            index: numbers.get_u64(),
            term: numbers.get_u64(),
            revision: numbers.get_u64(),
            hash: StateHash(numbers.get_u128()),
            incarnation: Uid(std::str::from_utf8(incarnation).ok()?.to_owned()),
        })
    }
}

const ADD: u8 = 1;
const PROMOTE: u8 = 2;
const REMOVE: u8 = 3;

impl Change {
    pub fn replica(self) -> ReplicaId {
        match self {
            Self::Add(id) | Self::Promote(id) | Self::Remove(id) => id,
        }
    }

    /// A byte for what, eight for whom.
    pub(super) fn encode(self) -> Vec<u8> {
        let kind = match self {
            Self::Add(_) => ADD,
            Self::Promote(_) => PROMOTE,
            Self::Remove(_) => REMOVE,
        };
        [&[kind][..], &self.replica().to_be_bytes()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, id) = bytes.split_first()?;
        let id = ReplicaId::from_be_bytes(id.try_into().ok()?);
        match *kind {
            ADD => Some(Self::Add(id)),
            PROMOTE => Some(Self::Promote(id)),
            REMOVE => Some(Self::Remove(id)),
            _ => None,
        }
    }

    pub(super) fn conf_change(self) -> ConfChangeV2 {
        let kind = match self {
            Self::Add(_) => ConfChangeType::AddLearnerNode,
            Self::Promote(_) => ConfChangeType::AddNode,
            Self::Remove(_) => ConfChangeType::RemoveNode,
        };
        let single = ConfChangeSingle { node_id: self.replica(), change_type: kind, ..Default::default() };
        ConfChangeV2 { changes: vec![single].into(), ..Default::default() }
    }
}
