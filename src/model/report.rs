//! What an agent observed of a work: one small value per (cluster, application), written on change.

use serde::{Deserialize, Serialize};

use super::{
    Demand, Resources,
    object::{ObjectRef, Uid},
};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Report {
    pub application: Uid,
    pub cluster: Uid,
    /// The generation that the agent works on, and has in its ledger.
    pub generation: u64,
    pub revision: String,
    /// Every manifest of the generation is applied as it says.
    pub applied: bool,
    /// The work as a whole cannot be taken: an unknown feature, a bad digest, an older generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    pub components: Vec<ComponentReport>,
    pub objects: Vec<ObjectReport>,
    /// Removals of this generation that are done: the object is gone or is not ours any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<ObjectRef>,
    /// Trace id of the work.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// A stable CamelCase word: `Outdated`, `Conflicting`, `DigestMismatch`, `FeatureMissing`, `ForeignIncarnation`.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ComponentReport {
    pub name: String,
    pub healthy: bool,
    /// In the member's words where something is wrong: `ImagePullBackOff: …`, `FailedScheduling: …`.
    pub message: String,
    pub replicas: Option<ReplicaCount>,
    /// What the bound pods ask for together: while a rollout replaces them, some ask for what an older revision said.
    /// Empty where an agent did not tell.
    pub held: Resources,
    /// An autoscaler of the member says how many replicas there are: `replicas.desired` is what is wanted here, whatever
    /// was decided.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scaled: bool,
    /// Of what it sums up, each object that runs pods, where it has more objects than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<WorkloadReport>,
}

/// The pods of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadReport {
    pub object: ObjectRef,
    pub replicas: ReplicaCount,
    /// As of [`ComponentReport`].
    #[serde(default)]
    pub held: Resources,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scaled: bool,
}

impl ReplicaCount {
    /// How many replicas of `demand` the sketch that was sent before this report certainly counts already, of bound pods
    /// that hold so much.
    pub fn seen(&self, held: &Resources, demand: &Demand) -> u32 {
        match held.fits(&demand.requests) {
            Some(fits) if !held.0.is_empty() => self.bound.min(u32::try_from(fits).unwrap_or(u32::MAX)),
            _ => self.bound,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaCount {
    pub desired: u32,
    pub ready: u32,
    pub updated: u32,
    /// Pods bound to a node: these the sketch that was sent before this report already counts.
    pub bound: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReport {
    pub object: ObjectRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<Uid>,
    pub state: ObjectState,
    pub health: Health,
    /// A stable CamelCase word where the state or health needs one: `Forbidden`, `Invalid`, `NotOurs`, `Paused`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ObjectState {
    /// Not yet written, or written and not yet answered.
    Pending,
    Applied,
    /// The member, or ownership, says no; tried again with growing pauses.
    Refused,
    /// Writes to it are paused in the member.
    Paused,
    /// Ordered away, still there (its finalizers run).
    Removing,
}

/// kstatus in four words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Health {
    Healthy,
    Progressing,
    Unhealthy,
    /// Not observed; never read as healthy, never as gone.
    Unknown,
}
