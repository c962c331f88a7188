//! The agent's durable copy of its slice: a port, with a directory and memory behind it.
//!
//! Owns: what survives a restart of the agent. Must never: hand out an entry whose blobs are not all there and
//! whole, or take a lost or broken entry for an order to delete anything in the member.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{Digest, ObjectRef, Timestamp, Uid, Work, protocol::ResumeToken};

pub mod directory;
pub mod memory;
pub mod secrets;

/// Called from one thread that owns it; blocking is fine.
pub trait Ledger: Send + 'static {
    /// Everything that is whole, and in words what is not.
    fn load(&mut self) -> Result<Loaded, Error>;

    /// Durable, in this order, once it answers; on an error any part may or may not have been written, and the same
    /// writes are tried again. Blobs that no entry lists any more may be swept.
    fn write(&mut self, writes: &[Write]) -> Result<(), Error>;
}

#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Replaces the entry of its Application. `blobs` are those of the work that the ledger may not have yet; they
    /// become durable before the entry does.
    Entry {
        entry: Arc<Entry>,
        blobs: Vec<(Digest, Bytes)>,
    },
    /// Forgets the Application.
    Forget(Uid),
    Session(Session),
}

/// What the ledger holds of one Application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub work: Arc<Work>,
    /// Every object that was written, or was about to be, for this Application and is not confirmed gone.
    pub made: Vec<Made>,
    /// Removals of the work that are done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<ObjectRef>,
    /// Its removals are held by the brake (rule 14), until a newer generation names them one by one.
    #[serde(default)]
    pub held: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    #[serde(flatten)]
    pub object: ObjectRef,
    /// As the member answered; absent while the first write has not been answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Uid>,
    /// Digest of the manifest that was written last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Digest>,
    /// Digest of the fields of that manifest as the member stored them: what drift is told from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<Digest>,
}

/// What outlives a process besides the entries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Session {
    /// Counts connections.
    pub epoch: u64,
    /// The incarnation that the entries are from.
    pub incarnation: Option<Uid>,
    pub resume: Option<ResumeToken>,
    /// UID of the member's kube-system namespace: the entries are for that cluster and no other.
    pub member: Option<Uid>,
    /// The hub said that this agent acts no more; only a new welcome ends it.
    pub stood_down: bool,
    /// When removals that nobody named were last executed, by Application (rule 14).
    pub unnamed_removals: BTreeMap<Uid, Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    pub session: Session,
    pub entries: Vec<Entry>,
    /// Bytes of every manifest that the entries list.
    pub blobs: BTreeMap<Digest, Bytes>,
    pub broken: Vec<Broken>,
}

/// An entry that cannot be used. It is reported and left alone until the hub sends its work again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which Application, where that can still be told.
    pub application: Option<Uid>,
    pub why: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ledger {path}")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("ledger {path} is in use by another agent")]
    Locked { path: String },
    #[error("ledger: {0}")]
    Other(String),
}
