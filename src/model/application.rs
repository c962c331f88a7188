//! The Application as OAM / KubeVela `core.oam.dev/v1beta1` shapes it, as far as the product reads it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{binding::OWN_SCHEDULER, object::Metadata, selector::LabelSelector};

/// A typed view; read from stored JSON that has passed admission, never written back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Application {
    pub metadata: Metadata,
    pub spec: ApplicationSpec,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApplicationSpec {
    pub components: Vec<Component>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Policy>,
    /// Who places it, where that is not the hub itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheduler_name: String,
    /// Accepted only where empty so far; admission refuses steps in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Component {
    pub name: String,
    #[serde(rename = "type")]
    pub type_: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub properties: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traits: Vec<Trait>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Trait {
    #[serde(rename = "type")]
    pub type_: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub properties: Value,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "type")]
    pub type_: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub properties: Value,
}

/// Properties of a `topology` policy (KubeVela): a hard constraint on target clusters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// An equality map; present and empty selects every cluster. Exclusive with `clusters`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_label_selector: Option<std::collections::BTreeMap<String, String>>,
    pub allow_empty: bool,
    /// Must be the Application's own namespace; others need a grant that is not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Properties of our `placement` policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementPolicy {
    /// No default: what `replicas` means must be said.
    pub mode: Mode,
    /// The replicas of its components in all clusters together. Needed where the mode of a live Application changes,
    /// and held to be true wherever it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The components it is for; empty means all. A component has at most one placement policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// The PlacementProfile that they go by; the one named `default` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(flatten)]
    pub target: ClusterSet,
    /// CEL over `name`, `labels`, `properties` and `free` of a cluster; holds for those that are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// In order of preference: a later group is used for what the ones before it have no room for. Empty means one
    /// group of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ClusterGroup>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<ClusterToleration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread_constraints: Vec<SpreadConstraint>,
    /// How a divided total is shared out.
    #[serde(default, skip_serializing_if = "Division::is_default")]
    pub division: Division,
    /// Static weights; the first that names a cluster counts, and one that none names gets nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<ClusterWeight>,
    /// Bounds of the replicas in one cluster; the first that names a cluster counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<ClusterLimit>,
    /// What makes one cluster better than another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<Preference>,
    /// Nothing new of the Application is placed unless all of it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_or_nothing: bool,
    /// Replicas of one component that one decision may take from clusters that could keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_moves: Option<u32>,
    /// Who is decided first of those that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// What a rebalance may do, and how often one comes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalancePolicy>,
    /// Other Applications of the namespace to be with, or apart from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RebalancePolicy {
    /// Between two; absent where only a person asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u32>,
    /// What moving a replica costs, in percent of a cluster's part: what gains no more is not moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
}

/// Hard, and for what is new: what runs stays. All terms hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Affinity {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<AffinityTerm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<AffinityTerm>,
}

/// Applications by name or by their labels; one of the two is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AffinityTerm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What the two share or do not: `cluster`, `region`, `zone`, `provider` or a label of clusters.
    #[serde(default = "AffinityTerm::topology")]
    pub topology: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// Every target gets the component's replicas in full.
    Duplicated,
    /// The component's replicas are a total, divided over the targets.
    Divided,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Division {
    /// More replicas in proportion to free room.
    #[default]
    FreeCapacity,
    /// In proportion to `weights`.
    Weighted,
    /// Into as few clusters as hold them.
    Aggregated,
}

/// Clusters by name and labels, all of which must hold; empty means all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<LabelSelector>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterGroup {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(flatten)]
    pub target: ClusterSet,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterWeight {
    #[serde(flatten)]
    pub target: ClusterSet,
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterLimit {
    #[serde(flatten)]
    pub target: ClusterSet,
    /// A cluster that gets any gets at least so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// As a pod's toleration, of a cluster's taints.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClusterToleration {
    pub key: String,
    /// `Exists` or `Equal` (the default when empty).
    pub operator: String,
    pub value: String,
    /// Empty tolerates every effect.
    pub effect: String,
    /// For so long after the taint was set; only of `NoExecute`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpreadConstraint {
    /// `cluster`, `region`, `zone`, `provider` or a label of clusters. One that lacks it is in no group and is not used.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_groups: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_groups: Option<u32>,
    /// Between the fullest and the emptiest of the groups that are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_skew: Option<u32>,
}

/// By a number in a cluster's properties (`cost`, `latency`, …), else in its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preference {
    pub by: String,
    pub order: PreferenceOrder,
    #[serde(default = "Preference::weight")]
    pub weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreferenceOrder {
    Lowest,
    Highest,
}

impl ApplicationSpec {
    /// The scheduler that binds it, where it is not the hub's own.
    pub fn other_scheduler(&self) -> Option<&str> {
        let name = self.scheduler_name.as_str();
        (!name.is_empty() && name != OWN_SCHEDULER).then_some(name)
    }
}

impl AffinityTerm {
    fn topology() -> String {
        "cluster".to_owned()
    }
}

impl fmt::Display for AffinityTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.application, &self.selector) {
            (Some(name), _) => f.write_str(name),
            (None, Some(selector)) if !selector.is_empty() => write!(f, "applications with {selector}"),
            (None, _) => f.write_str("any application"),
        }
    }
}

impl Preference {
    fn weight() -> u32 {
        1
    }
}

impl Division {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl ClusterSet {
    pub fn is_all(&self) -> bool {
        self.clusters.is_empty() && self.cluster_selector.is_none()
    }
}
