//! The member cluster as the agent sees it: a port, implemented over kube and by the simulator.
//!
//! Owns: what can be asked of a member and how it says no. Must never: decide what to apply or remove.

pub mod kube;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::model::{
    GroupVersionKind, NodeFacts, ObjectRef, PodFacts, Uid,
    cluster::Facts,
    node::{RuleFacts, RuleKind, ScalerFacts},
};

/// Field manager of every write.
pub const FIELD_MANAGER: &str = "hanse";
/// Label on every object we made: the uid of its Application. Ownership is by this uid, never by name.
pub const OWNER_LABEL: &str = "hanse.dev/application-uid";
/// Annotation (RFC 3339 time) on an object or its namespace that stops our writes until then.
pub const PAUSED_UNTIL: &str = "hanse.dev/paused-until";
/// ServiceAccount that the agent impersonates in each namespace.
pub const EXECUTOR: &str = "hanse-executor";

#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Server-side apply (forced, field manager [`FIELD_MANAGER`]) as the executor of `namespace`. Answers with the
    /// object as the member stored it. The namespace of a cluster-scoped object is ignored.
    async fn apply(&self, namespace: &str, object: &Value) -> Result<Value, Rejection>;

    /// As the agent itself; `None` where there is no such object.
    async fn get(&self, object: &ObjectRef) -> Result<Option<Value>, Rejection>;

    /// Deletes as the executor of `namespace`, only while the object has this uid; background propagation.
    async fn delete(&self, namespace: &str, object: &ObjectRef, uid: &Uid) -> Result<Deletion, Rejection>;

    /// Makes the namespace where it is missing (labelled as ours), and in it the executor ServiceAccount and its
    /// RoleBinding. Refuses namespaces of the system. Writes nothing where all is there.
    async fn ensure_namespace(&self, namespace: &str) -> Result<NamespaceFacts, Rejection>;

    /// Everything of this kind that carries [`OWNER_LABEL`]. Reconnects by itself; begins, and begins again after a
    /// gap, with a [`Live::Reset`].
    fn watch(&self, gvk: &GroupVersionKind) -> BoxStream<'static, Live>;

    /// Nodes and pods of the whole cluster, what bounds the pods of each namespace, and what scales workloads.
    fn watch_capacity(&self) -> BoxStream<'static, Capacity>;

    async fn facts(&self) -> Result<Facts, Rejection>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone, or was not there, or the name now belongs to an object with another uid.
    Gone,
    /// It has finalizers: it will go, and the watch will say so.
    Pending,
}

/// The member's no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Rejection {
    /// A stable CamelCase word: Kubernetes' own (`Forbidden`, `Invalid`, `NotFound`, …), or `Unreachable`,
    /// `KindUnknown`, `ProtectedNamespace`.
    pub reason: String,
    pub message: String,
}

impl Rejection {
    /// Whether it says nothing of what the member did.
    pub fn is_unanswered(&self) -> bool {
        ["Unreachable", "Timeout"].contains(&self.reason.as_str())
    }
}

/// A namespace that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceFacts {
    /// Its annotation [`PAUSED_UNTIL`], as it stands.
    pub paused_until: Option<String>,
}

/// What a watch on one kind tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Live {
    /// All there is, as of now. Only after this does an absent object count as absent.
    Reset(Vec<Value>),
    Applied(Value),
    Deleted(ObjectRef),
}

/// What the capacity watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Capacity {
    NodesReset(Vec<NodeFacts>),
    Node(NodeFacts),
    NodeGone(String),
    PodsReset(Vec<PodFacts>),
    Pod(PodFacts),
    PodGone {
        namespace: String,
        name: String,
    },
    /// All there is of one kind of rules, or that the agent may not read them.
    RulesReset(RuleKind, Vec<RuleFacts>),
    Rule(RuleKind, RuleFacts),
    RuleGone(RuleKind, String, String),
    /// All autoscalers there are; never told where the agent may not read them.
    ScalersReset(Vec<ScalerFacts>),
    Scaler(ScalerFacts),
    ScalerGone {
        namespace: String,
        name: String,
    },
}
