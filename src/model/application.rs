//! The Application as OAM / KubeVela `core.oam.dev/v1beta1` shapes it, as far as the product reads it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{object::Metadata, selector::LabelSelector};

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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<LabelSelector>,
    /// The components it is for; empty means all. A component has at most one placement policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// Every target gets the component's replicas in full.
    Duplicated,
    /// The component's replicas are a total, divided over the targets by free capacity.
    Divided,
}
