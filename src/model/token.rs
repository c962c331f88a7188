//! Join tokens: `hub.hanse.dev/v1alpha1 JoinToken`. The secret itself is never stored, only its digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    digest::Digest,
    object::{Metadata, Uid},
    time::Timestamp,
};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinToken {
    pub metadata: Metadata,
    pub spec: JoinTokenSpec,
    pub status: JoinTokenStatus,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JoinTokenSpec {
    /// SHA-256 of the secret, hex.
    pub secret_digest: Option<Digest>,
    /// The only name that may join with it; empty leaves the choice to the member.
    pub cluster: String,
    /// May take the place of a Cluster of that name, which then gets a new uid.
    pub replace: bool,
    /// Accepts the cluster at once, without an admin's yes.
    pub auto_approve: bool,
    pub expires_at: Option<Timestamp>,
    /// Labels for the new Cluster: the hub's, not the agent's.
    pub labels: BTreeMap<String, String>,
    /// Invites a replica of the hub, which gets every key of it; no cluster then.
    pub replica: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JoinTokenStatus {
    /// Set on first use; from then on only the same key may ask again with it, to fetch its answer.
    pub used_by: Option<UsedBy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UsedBy {
    pub cluster: String,
    /// The Cluster it made; absent while the one it replaces is still being forgotten. A token makes one, ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<Uid>,
    /// The replica it made, where it was for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica: Option<u64>,
    pub key_fingerprint: String,
    pub at: Option<Timestamp>,
}
