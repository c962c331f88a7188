//! A work: the manifests and removals of one Application for one cluster. Complete: whoever executes has no choice left.

use serde::{Deserialize, Serialize};

use super::{
    digest::Digest,
    object::{ObjectName, ObjectRef, Uid},
    placement::Patch,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    pub application: ObjectName,
    pub application_uid: Uid,
    pub cluster: Uid,
    /// Counts per (application uid, cluster uid) within one incarnation; an agent only goes forward.
    pub generation: u64,
    pub revision: String,
    /// Blob of the Application itself.
    pub application_blob: Digest,
    /// Applied in this order, before any removal.
    pub manifests: Vec<Manifest>,
    /// Executed last, and only these: nothing is ever removed for being absent.
    pub removals: Vec<Removal>,
    /// An agent that lacks one of these refuses the work instead of ignoring fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Trace id of the request that caused this generation, 32 hex characters; leads from apply to report.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace: String,
}

/// Blob + patches = the object, whose digest must be `result`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub component: String,
    pub object: ObjectRef,
    pub blob: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
    pub result: Digest,
}

/// The only order to delete there is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    pub object: ObjectRef,
    /// The object's UID in the member, where a report named it. Without it the agent removes only what its own
    /// ledger says it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Uid>,
    /// The revision that last listed the object.
    pub revision: String,
    pub reason: RemovalReason,
    /// Who caused it: the user of the request, who agreed to it, or [`PLACEMENT_AUTHOR`].
    pub author: String,
}

/// Author of what the hub decided by itself. Any other author is a person, or a tool of theirs, who named it or agreed to
/// that very set (rule 14).
pub const PLACEMENT_AUTHOR: &str = "placement";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RemovalReason {
    /// A newer revision no longer lists it.
    NotInRevision,
    /// The component no longer runs in this cluster.
    PlacedElsewhere,
    /// The Application was deleted by name.
    ApplicationDeleted,
    /// The cluster is being drained.
    ClusterDrained,
}

impl Work {
    /// The identity of its content, compared by hub and agent on resume.
    pub fn digest(&self) -> Digest {
        Digest::of_json(&serde_json::to_value(self).unwrap_or_default())
    }

    /// Every blob an agent needs before the work may enter its ledger.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.manifests.iter().map(|manifest| manifest.blob).chain([self.application_blob])
    }

    /// Nothing left to run: once its removals are confirmed it is finished.
    pub fn is_removal(&self) -> bool {
        self.manifests.is_empty()
    }
}
