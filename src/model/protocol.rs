//! What hub and agent say to each other on their one stream. `wire` turns these into protobuf and back.
//!
//! Sends are state, not a queue: for each Application only the newest generation matters, so either side may drop
//! what a newer message replaces. Silence and absence order nothing (rule 1): an Application missing from what the
//! hub sends stays as it is.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{cluster::Facts, digest::Digest, object::Uid, report::Report, sketch::Sketch, time::Timestamp, work::Work};

/// The protocol this binary speaks; one older minor is understood too.
pub const PROTOCOL: u32 = 1;
pub const PROTOCOL_MIN: u32 = 1;

#[derive(Debug, Clone, PartialEq)]
pub enum ToHub {
    /// Always first.
    Hello(Box<Hello>),
    /// Which bytes the agent lacks; answered with [`ToAgent::Blob`]s, for blobs its own works list only.
    FetchBlobs(Vec<Digest>),
    Report(Box<Report>),
    Sketch(Sketch),
    Facts(Facts),
    /// Sign of life; its time is the hub's receive time.
    Beat,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hello {
    pub protocol_min: u32,
    pub protocol_max: u32,
    pub features: Vec<String>,
    /// Counts this agent's connections; of two streams of one identity the higher epoch acts.
    pub session_epoch: u64,
    /// Random per agent process: tells a restarted agent from a second holder of the same identity.
    pub instance: String,
    /// Incarnation of the hub that the ledger is from; absent on an empty ledger.
    pub incarnation: Option<Uid>,
    /// Resume token of the last session: the store revision the hub had reached, under the hub's MAC.
    pub resume: Option<ResumeToken>,
    /// What the ledger holds.
    pub ledger: Vec<LedgerLine>,
    pub facts: Facts,
    pub sketch: Option<Sketch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerLine {
    pub application: Uid,
    pub generation: u64,
    /// [`Work::digest`] of the work held.
    pub digest: Digest,
}

/// A store revision that the hub once reached. A valid one ahead of the store proves that the store went back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeToken {
    pub revision: u64,
    /// HMAC-SHA-256 of hub uid, incarnation, cluster uid and revision.
    pub mac: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ToAgent {
    /// Always first when the stream is accepted.
    Welcome(Welcome),
    /// The stream is refused and closed; nothing changes in the member.
    Refuse(Refuse),
    Work(Arc<Work>),
    /// A chunk of a blob; the last has `offset + bytes.len() == total`.
    Blob {
        digest: Digest,
        offset: u64,
        total: u64,
        bytes: Bytes,
    },
    /// The removals of this generation are confirmed and nothing runs: the ledger may forget the Application.
    Release {
        application: Uid,
        generation: u64,
    },
    Resume(ResumeToken),
    /// Answers a beat; a stream without them is dead.
    BeatAck,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    pub protocol: u32,
    pub features: Vec<String>,
    pub hub: Uid,
    pub incarnation: Uid,
    pub cluster: Uid,
    pub cluster_name: String,
    /// The hub's clock, to tell a skewed member clock in words.
    pub hub_time: Timestamp,
    pub beat_interval_ms: u64,
    /// Where the hub's replicas can be reached; empty where it does not say.
    pub urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refuse {
    /// Stable: `Revoked`, `NotAccepted`, `ProtocolTooOld`, `ProtocolTooNew`, `IdentityFrozen`, `WrongCluster`,
    /// `Superseded`, `StoreWentBack`, `PermissionDenied`, `Invalid`, `Silent`, `Stopping`, `Unavailable`.
    pub reason: String,
    pub message: String,
    /// Whether trying again can help.
    pub retry: bool,
}
