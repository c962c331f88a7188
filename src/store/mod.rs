//! The store: a small versioned map with transactions and watches, and everything the hub remembers is in it.
//!
//! Owns: the port below, its limits, and its implementations, which all pass one conformance suite. Must never: know
//! what is stored (keys and bytes only), decide anything, or choose a uid, time or nonce: commands carry final bytes.
//!
//! Values are a format byte followed by JSON without `resourceVersion`, which is spliced in when an object is sent:
//! bytes are encoded once and shared by all readers.
//!
//! From the inside out: [`mvcc`] is what a command ([`command`]) does to the state; what puts commands in order, and into a
//! log first, is all that [`memory`] and [`raft`] do not share; watches are cursors over the history, which [`compaction`]
//! ends. [`object`] and [`blobs`] say what lies in the values.

pub mod blobs;
pub mod command;
pub mod compaction;
#[cfg(test)]
mod conformance;
pub mod memory;
pub mod mvcc;
pub mod object;
pub mod raft;
mod shared;
mod watch;

pub use shared::Options;

use std::{borrow::Borrow, collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::model::{Digest, Uid};

/// +1 per committed transaction that writes. 0 is the empty store.
pub type Revision = u64;

pub const OPERATIONS_MAX: usize = 100;
/// Keys and values of one transaction together.
pub const TRANSACTION_BYTES_MAX: usize = 1 << 20;
pub const KEY_BYTES_MAX: usize = 1024;

/// `/hanse/<group>/<resource>/<namespace>/<name>`; the core group is `core`, cluster-scoped objects have an empty
/// namespace. Ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn object(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{}{name}", prefix(group, resource, Some(namespace))).into())
    }

    /// Blobs are content-addressed, so their key says all there is to say about them.
    pub fn blob(digest: &Digest) -> Self {
        Self(format!("/hanse/blob/{digest}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The prefix of all keys of a resource, or of its part in one namespace.
pub fn prefix(group: &str, resource: &str, namespace: Option<&str>) -> String {
    let group = if group.is_empty() { "core" } else { group };
    match namespace {
        None => format!("/hanse/{group}/{resource}/"),
        Some(namespace) => format!("/hanse/{group}/{resource}/{namespace}/"),
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    /// Revision of the transaction that created the key (after its last deletion).
    pub created: Revision,
    /// Revision of the transaction that last wrote it.
    pub modified: Revision,
}

/// What must hold of single keys for a transaction to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    Modified(Key, Revision),
    Absent(Key),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Put(Key, Bytes),
    /// Deleting an absent key changes nothing.
    Delete(Key),
}

/// All or nothing: every compare holds and every operation is done, or nothing is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    /// At most one per key.
    pub operations: Vec<Operation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Durable. The revision it was committed at; the current one where it changed nothing.
    Committed(Revision),
    /// Nothing was done. What the compared keys hold now, in the order of the compares.
    Conflict(Vec<Option<Entry>>),
    /// Whether it was done cannot be said (the answer was lost): read again, never blindly retry.
    Unknown,
}

/// One page of a listing, all of it as of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    pub revision: Revision,
    /// How many keys follow the last entry of this page.
    pub remaining: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// 0 is no limit.
    pub limit: usize,
    /// As of this revision; the newest where absent.
    pub at: Option<Revision>,
}

/// One key's part of a committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: Key,
    /// What it holds from now on; absent when it was deleted.
    pub current: Option<Entry>,
    pub previous: Option<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The whole of a transaction, as far as the watched prefix goes; each revision at most once, in order.
    Transaction { revision: Revision, changes: Arc<[Change]> },
    /// Everything up to this revision has been sent.
    Progress(Revision),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What was before this revision is gone; list again.
    #[error("history before revision {0} is compacted")]
    Compacted(Revision),
    #[error("revision {asked} is ahead of the store, which is at {current}")]
    Future { asked: Revision, current: Revision },
    #[error("a transaction may hold {OPERATIONS_MAX} operations, one per key, and {TRANSACTION_BYTES_MAX} bytes: {0}")]
    TooLarge(String),
    /// What was to be committed is no command of this store.
    #[error("a command cannot be read: {0}")]
    Malformed(String),
    /// The watcher read too slowly and was cut off; resume from the last revision it saw.
    #[error("the watcher fell behind")]
    Lagged,
    #[error("the store is closed: {0}")]
    Closed(String),
    /// Nothing was done, and the same may succeed in a moment: no replica leads, or too few of them answer.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

pub type Watch = BoxStream<'static, Result<WatchEvent, Error>>;

/// The port. Reads are linearizable: they see every transaction acknowledged before they began.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    async fn list(&self, list: List) -> Result<Page, Error>;

    /// Errors are for transactions that no store would take; what may happen to a good one is in [`Outcome`].
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error>;

    /// Whole transactions after `from` that touch `prefix`, then those to come, without a gap. A progress mark follows
    /// when the past has been sent, and from then on now and then while other keys are written. Ends after an error.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error>;

    async fn revision(&self) -> Result<Revision, Error>;

    /// Asks every watch of this store for a progress mark now, after all that was committed before this call.
    async fn mark_progress(&self) -> Result<(), Error>;

    /// Forgets what was before `revision`: lists at and watches from an earlier one answer [`Error::Compacted`]. Those at
    /// `revision` itself still work. Watches that have not been read up to there end with [`Error::Lagged`].
    async fn compact(&self, revision: Revision) -> Result<(), Error>;

    /// The life of this store; a restored one has another.
    fn incarnation(&self) -> &Uid;
}

impl Transaction {
    pub fn put(key: Key, value: Bytes) -> Self {
        Self { compares: vec![], operations: vec![Operation::Put(key, value)] }
    }

    /// Holds the limits of the port; the same on every implementation.
    pub fn check(&self) -> Result<(), Error> {
        let too_large = |what: String| Err(Error::TooLarge(what));
        if self.operations.len() > OPERATIONS_MAX {
            return too_large(format!("{} operations", self.operations.len()));
        }
        if self.compares.len() > OPERATIONS_MAX {
            return too_large(format!("{} compares", self.compares.len()));
        }
        let written = self.operations.iter().map(Operation::key).collect::<BTreeSet<_>>();
        if written.len() < self.operations.len() {
            return too_large("two operations on one key".into());
        }
        let mut keys = written.into_iter().chain(self.compares.iter().map(Compare::key));
        if let Some(key) = keys.find(|key| key.as_str().is_empty() || key.as_str().len() > KEY_BYTES_MAX) {
            return too_large(format!("a key of {} bytes (1 to {KEY_BYTES_MAX})", key.as_str().len()));
        }
        let bytes = self.bytes();
        if bytes > TRANSACTION_BYTES_MAX {
            return too_large(format!("{bytes} bytes"));
        }
        Ok(())
    }

    /// Keys and values that it writes.
    pub fn bytes(&self) -> usize {
        self.operations.iter().map(Operation::bytes).sum()
    }
}

impl Operation {
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) => key.as_str().len() + value.len(),
            Self::Delete(key) => key.as_str().len(),
        }
    }
}

impl Compare {
    pub fn key(&self) -> &Key {
        match self {
            Self::Modified(key, _) | Self::Absent(key) => key,
        }
    }
}
