//! What one replica of a component asks for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::quantity::Resources;

/// Requests of one pod (containers summed, the larger of that and any init container; limits stand in for missing
/// requests, as the API server defaults them) and the constraints that a sketch can answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    pub requests: Resources,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// A pod's toleration, as Kubernetes spells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Toleration {
    pub key: String,
    /// `Exists` or `Equal` (the default when empty).
    pub operator: String,
    pub value: String,
    /// Empty tolerates every effect.
    pub effect: String,
}

/// A node's taint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

impl Toleration {
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let same_key = self.key == taint.key || (self.key.is_empty() && self.operator == "Exists");
        let same_value = self.operator == "Exists" || self.value == taint.value;
        same_key && same_value && (self.effect.is_empty() || self.effect == taint.effect)
    }
}

impl Taint {
    /// Taints that keep new pods away; `PreferNoSchedule` does not.
    pub fn repels(&self) -> bool {
        self.effect == "NoSchedule" || self.effect == "NoExecute"
    }
}
