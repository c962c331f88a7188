//! What one replica of a component asks for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{quantity::Resources, selector::Requirement};

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
    /// Required node affinity: all of one of these terms must hold. Empty: any node will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_terms: Vec<Vec<Requirement>>,
    /// How pods of this kind keep apart from each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<Spread>,
    /// Limits of one pod, summed up as its requests are: quotas may bound them.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub limits: Resources,
    /// How many containers leave a request (`cpu`) or a limit (`limits.cpu`) to the member, where a LimitRange may set it.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub unsaid: Resources,
    /// PersistentVolumeClaims that it mounts, by name: a bound one ties it to where its volume is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// Where its pods run: quotas and LimitRanges are a namespace's. Last, so that demands which differ in nothing else
    /// stand side by side.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// The label that tells every node from every other one.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// How pods of one kind are spread over the values of a node label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spread {
    pub topology: String,
    pub rule: SpreadRule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SpreadRule {
    /// Required anti-affinity to its own kind.
    OnePer,
    /// A topology spread constraint that must hold: nowhere more than `most` above the emptiest place. With fewer
    /// places than `places` the emptiest counts as empty.
    Skew { most: u32, places: u32 },
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

impl Demand {
    pub fn tolerates(&self, taints: &[Taint]) -> bool {
        let tolerated = |taint: &Taint| self.tolerations.iter().any(|toleration| toleration.tolerates(taint));
        taints.iter().filter(|taint| taint.repels()).all(tolerated)
    }

    /// Whether it asks for the same but, at most, in another namespace.
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { requests, node_selector, tolerations, node_terms, spread, limits, unsaid, claims, namespace: _ } =
            self;
        (requests, node_selector, tolerations, node_terms)
            == (&other.requests, &other.node_selector, &other.tolerations, &other.node_terms)
            && (spread, limits, unsaid, claims) == (&other.spread, &other.limits, &other.unsaid, &other.claims)
    }
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
