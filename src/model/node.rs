//! Nodes, pods and what bounds them, as far as capacity and health can see them.

use std::collections::BTreeMap;

use super::{demand::Taint, object::ObjectRef, quantity::Resources};

/// A node, as far as placement can see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    pub name: String,
    pub allocatable: Resources,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Ready and not cordoned.
    pub schedulable: bool,
}

/// A pod, as far as capacity and health can see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodFacts {
    pub namespace: String,
    pub name: String,
    /// Empty until it is bound.
    pub node: String,
    pub requests: Resources,
    /// Succeeded or Failed: holds no room.
    pub finished: bool,
    pub ready: bool,
    /// The workload it belongs to: a Deployment found through its ReplicaSet's name, else the controller itself.
    pub workload: Option<ObjectRef>,
    /// Why it does not run, in the member's words: `ImagePullBackOff: …`, `FailedScheduling: …`, `CrashLoopBackOff: …`.
    pub trouble: Option<String>,
}

/// An object of the member that sets the replicas of a workload: a HorizontalPodAutoscaler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalerFacts {
    pub name: String,
    /// In the scaler's own namespace.
    pub target: ObjectRef,
}

/// What bounds the pods of a namespace beside the nodes' room, from one object of the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFacts {
    /// Empty for a volume that no claim is bound to.
    pub namespace: String,
    pub name: String,
    pub rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// What a ResourceQuota leaves.
    Quota(Resources),
    /// What a LimitRange gives containers that say nothing.
    Defaults(Resources),
    /// Where the volume of a claim is; empty where it can be reached from everywhere.
    Zones { claim: String, zones: Vec<String> },
}

/// The kinds of objects that rules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleKind {
    Quota,
    LimitRange,
    Volume,
}
