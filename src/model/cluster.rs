//! A member cluster as the hub knows it: `hub.hanse.dev/v1alpha1 Cluster`.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{condition::Conditions, object::Metadata, sketch::Sketch, time::Timestamp};

pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
pub const PROVIDER_LABEL: &str = "topology.hanse.dev/provider";

/// A typed view of the stored object. The cluster's identity is `metadata.uid`; its labels belong to the hub.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    pub metadata: Metadata,
    pub spec: ClusterSpec,
    pub status: ClusterStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Keep away what does not tolerate them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<ClusterTaint>,
    /// What the platform knows of the cluster: `cost`, `latency`, … Numbers in them are scores.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Property>,
    /// The hub's yes to the join request: until then no certificate is signed. Setting it back to false cuts the
    /// agent off at once (revocation).
    pub accepted: bool,
    /// Cordoned: keeps what it runs, gets nothing new.
    pub unschedulable: bool,
    /// Drained: what can run elsewhere leaves, new before old.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
    /// What deleting the Cluster does to what runs there; `Orphan` unless told otherwise.
    pub deletion_policy: DeletionPolicy,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterTaint {
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub effect: TaintEffect,
    /// Noted by the hub when it is set; tolerations that end are counted from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TaintEffect {
    /// Gets nothing new.
    #[default]
    NoSchedule,
    /// Gets something new only where others have no room.
    PreferNoSchedule,
    /// Gets nothing new, and what runs there moves.
    NoExecute,
}

/// A number or a word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Property {
    Integer(i64),
    Text(String),
}

impl fmt::Display for ClusterTaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, effect, .. } = self;
        let equals = if value.is_empty() { "" } else { "=" };
        write!(f, "{key}{equals}{value}:{effect:?}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// Everything keeps running, unmanaged.
    #[default]
    Orphan,
    /// The works are removed first; the Cluster goes when the agent has confirmed the removals.
    Drain,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterStatus {
    pub conditions: Conditions,
    /// Facts as the agent reports them; never used to match selectors.
    pub facts: Facts,
    /// The join request that waits for, or was granted, acceptance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<JoinRequest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// Quantised: written on a change of at least 5 % and at most every 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sketch: Option<Sketch>,
    /// Overlaid from memory on get and in tables; in the store it is the time of the last written change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_beat: Option<Timestamp>,
}

/// What an agent says of its cluster; changes rarely.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Facts {
    /// As `/version` of the member says, `v1.36.3`.
    pub kubernetes_version: String,
    pub agent_version: String,
    /// The most frequent topology labels of its nodes; empty where they have none.
    pub region: String,
    pub zone: String,
    /// UID of the member's `kube-system` namespace: tells a cloned identity from a moved one.
    pub system_uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JoinRequest {
    /// Name of the JoinToken that was used.
    pub token: String,
    /// SHA-256 of the public key (SubjectPublicKeyInfo) that asked, hex.
    pub key_fingerprint: String,
    pub system_uid: String,
    pub requested_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CertificateStatus {
    /// SHA-256 of the certificate's public key (SubjectPublicKeyInfo), hex.
    pub key_fingerprint: String,
    /// The key before it, good until the new one is used: the answer to a renewal may get lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_key_fingerprint: Option<String>,
    pub serial: String,
    pub not_after: Option<Timestamp>,
}

/// Condition types of a Cluster.
pub const ACCEPTED: &str = "Accepted";
/// False while something is left in a cluster that is being drained, True once nothing is; absent where it is not.
pub const DRAINED: &str = "Drained";
/// True: beats arrive. Unknown: they stopped; what runs there stays decided. False: frozen or refused.
pub const READY: &str = "Ready";
