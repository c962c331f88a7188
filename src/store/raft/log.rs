//! The log in memory: what consensus reads, while the disk is written behind it.
//!
//! Owns: the entries since the checkpoint and the description of the state they begin with. Bounded like the history that
//! they are ([`crate::store::Options`]), so nobody reads a disk to send them. Must never: say what is durable; that is asked
//! of whoever writes the disk.

use std::collections::VecDeque;

use bytes::Bytes;
use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{self, ConfState, EntryType, HardState},
};

use super::{ReplicaId, SnapshotId};
use crate::store::{Revision, mvcc::StateHash};

/// One position of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub kind: Kind,
    /// A [`super::super::command::Command`], encoded; empty for the entry with which a leader begins its term. Of a
    /// [`Kind::Change`], its own encoding.
    pub data: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Command,
    Change,
}

/// What a log begins with: the state after the entry at `index`, which is the last one forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    pub index: u64,
    pub term: u64,
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    pub revision: Revision,
    /// Of the rows as of `revision`.
    pub hash: StateHash,
}

/// The vote of a replica: on disk before anybody hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ballot {
    pub term: u64,
    /// 0 for none.
    pub vote: ReplicaId,
}

impl LogEntry {
    pub(super) fn of(entry: &eraftpb::Entry) -> Self {
        let (kind, data) = match entry.entry_type {
            EntryType::EntryNormal => (Kind::Command, entry.data.clone()),
            // What consensus made of it for itself is in `data`; ours went along in `context`.
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => (Kind::Change, entry.context.clone()),
        };
        Self { index: entry.index, term: entry.term, kind, data }
    }

    fn entry(&self) -> eraftpb::Entry {
        let mut entry = eraftpb::Entry { index: self.index, term: self.term, ..Default::default() };
        match self.kind {
            Kind::Command => entry.data = self.data.clone(),
            Kind::Change => {
                entry.entry_type = EntryType::EntryConfChangeV2;
                entry.context = self.data.clone();
            }
        }
        entry
    }
}

impl Checkpoint {
    pub(super) fn conf_state(&self) -> ConfState {
        ConfState::from((self.voters.clone(), self.learners.clone()))
    }
}

/// [`LogEntry`]s in memory, as consensus wants to read them.
pub(super) struct Tail {
    ballot: Ballot,
    /// As it was known at the start.
    committed: u64,
    /// Where it begins, with the members as of then.
    checkpoint: Checkpoint,
    entries: VecDeque<LogEntry>,
    /// What a replica that needs a snapshot is told to fetch, and the members by then.
    pub snapshot: (SnapshotId, ConfState),
}

impl Tail {
    pub fn new(
        ballot: Ballot,
        checkpoint: Checkpoint,
        entries: Vec<LogEntry>,
        committed: u64,
        snapshot: SnapshotId,
    ) -> Self {
        let conf = checkpoint.conf_state();
        let committed = committed.max(checkpoint.index);
        Self { ballot, committed, checkpoint, entries: entries.into(), snapshot: (snapshot, conf) }
    }

    pub fn first(&self) -> u64 {
        self.checkpoint.index + 1
    }

    pub fn last(&self) -> u64 {
        self.checkpoint.index + self.entries.len() as u64
    }

    /// The log begins anew with an installed snapshot.
    pub fn install(&mut self, checkpoint: Checkpoint) {
        self.checkpoint = checkpoint;
        self.entries.clear();
    }

    /// The new entries replace all from the first one's index on.
    pub fn append(&mut self, entries: &[LogEntry]) {
        let Some(first) = entries.first() else { return };
        self.entries.truncate((first.index - self.first()) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    pub fn forget(&mut self, checkpoint: Checkpoint) {
        self.entries.drain(..(checkpoint.index - self.checkpoint.index) as usize);
        self.checkpoint = checkpoint;
    }

    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.checkpoint.index {
            return Some(self.checkpoint.term);
        }
        let at = index.checked_sub(self.first())?;
        self.entries.get(at as usize).map(|entry| entry.term)
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let hard_state =
            HardState { term: self.ballot.term, vote: self.ballot.vote, commit: self.committed, ..Default::default() };
        Ok(RaftState { hard_state, conf_state: self.checkpoint.conf_state() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        if low < self.first() {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let fits = |entry: &&LogEntry| {
            let first = bytes == 0;
            bytes += entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES;
            first || bytes <= bytes_max
        };
        Ok(self.entries.range(range).take_while(fits).map(LogEntry::entry).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let gone = || if index < self.first() { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_at(index).ok_or_else(|| gone().into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        let (id, conf) = &self.snapshot;
        let mut snapshot = eraftpb::Snapshot { data: id.encode(), ..Default::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (id.index, id.term);
        metadata.set_conf_state(conf.clone());
        Ok(snapshot)
    }
}

/// What an entry takes in a message besides its data, generously.
const ENTRY_OVERHEAD_BYTES: u64 = 32;
