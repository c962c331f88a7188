//! An immutable snapshot of an Application and all it was rendered to.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    demand::Demand,
    digest::Digest,
    object::{ObjectName, ObjectRef, Uid},
};

/// Rendered once, stored, never re-rendered by a later binary (a new hub version must not restart the fleet).
/// Stored in `spec` of the ApplicationRevision object named `<application>-v<number>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    pub application: ObjectName,
    pub application_uid: Uid,
    pub number: u64,
    /// Digest of all that was rendered: the Application's `spec`, labels and annotations but for those that are never
    /// rendered. Where it is unchanged there is no new revision.
    pub spec_digest: Digest,
    /// Blob of the Application itself (metadata name, namespace, labels, annotations and spec), carried by every
    /// work so that a lost hub can be rebuilt from its agents.
    pub application_blob: Digest,
    pub components: Vec<RenderedComponent>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenderedComponent {
    pub name: String,
    #[serde(rename = "type")]
    pub type_: String,
    /// In the order in which they are applied; the workload first.
    pub manifests: Vec<RenderedManifest>,
    /// Of the workload; absent where it runs no pods that placement could count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Demand>,
    /// Where the workload's replicas stand; absent where it has none (a Job, a ConfigMap).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicasAt>,
    /// What its other objects run beside that, in every cluster that has the component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Beside>,
    /// Other components of the Application whose ConfigMaps, Secrets, ServiceAccounts or claims its pods name; in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedManifest {
    pub object: ObjectRef,
    /// Address of the manifest's bytes (compact JSON with sorted keys).
    pub blob: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicasAt {
    /// Index into `manifests`.
    pub manifest: usize,
    /// JSON pointer in that manifest: `/spec/replicas`.
    pub pointer: String,
    /// What the manifest says, or the kind's default of 1.
    pub count: u32,
}

/// Pods of an object of a component, beside those of its workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beside {
    /// Index into `manifests`.
    pub manifest: usize,
    pub demand: Demand,
    pub count: u32,
    /// They come to an end: there are as many still as the member says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

impl RenderedComponent {
    /// Index into `manifests` of the workload: what has the replicas, or the first that runs pods and has none.
    pub fn workload(&self) -> Option<usize> {
        let ends = |manifest: &RenderedManifest| {
            let gvk = &manifest.object.gvk;
            matches!((gvk.group.as_str(), gvk.kind.as_str()), ("", "Pod") | ("batch", "Job"))
        };
        let with_replicas = self.replicas.as_ref().map(|replicas| replicas.manifest);
        with_replicas.or_else(|| self.manifests.iter().position(ends))
    }

    /// All pods that a cluster runs with so many replicas of the workload; one, where it has no replicas to count.
    pub fn pods(&self, replicas: Option<u32>) -> impl Iterator<Item = (&Demand, u32)> {
        let workload = self.demand.iter().map(move |demand| (demand, replicas.unwrap_or(1)));
        workload.chain(self.beside.iter().map(|beside| (&beside.demand, beside.count)))
    }
}

/// What rendering yields before anything is stored: manifests as values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rendered {
    pub components: Vec<RenderedObjects>,
}

/// What placement needs to know of it; the objects themselves it never looks at.
impl From<RenderedObjects> for RenderedComponent {
    fn from(rendered: RenderedObjects) -> Self {
        let RenderedObjects { name, type_, objects: _, demand, replicas, beside, references } = rendered;
        Self { name, type_, manifests: Vec::new(), demand, replicas, beside, references }
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct RenderedObjects {
    pub name: String,
    pub type_: String,
    /// In the order in which they are applied; the workload first.
    pub objects: Vec<Value>,
    pub demand: Option<Demand>,
    pub replicas: Option<ReplicasAt>,
    pub beside: Vec<Beside>,
    /// As of [`RenderedComponent`].
    pub references: Vec<String>,
}
