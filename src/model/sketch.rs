//! An agent's compact picture of its cluster's free capacity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    demand::{Demand, Taint},
    quantity::Resources,
    selector::{Operator, Requirement},
};

/// Free room grouped by node shape. Bounded: at most [`SHAPES_MAX`] shapes, whatever the number of nodes; grouping
/// always rounds free room *down*, so a sketch never promises what no node has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sketch {
    /// Counts up with each change; compared within one session only.
    pub sequence: u64,
    /// Nodes that exist, ready or not.
    pub nodes: u32,
    pub shapes: Vec<Shape>,
    /// Sums over ready, schedulable nodes, for people.
    pub allocatable: Resources,
    pub free: Resources,
    /// Keys of the node labels that its shapes tell of. Whether a node lacks another label is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Namespaces in which something beside room bounds what can run; at most [`NAMESPACES_MAX`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespaces: BTreeMap<String, NamespaceRules>,
    /// Why nothing of it is believed, where that is so; then it has no shapes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fault: String,
}

/// Enough that ten thousand nodes are measured with a loss below a twentieth, also where no two are alike.
pub const SHAPES_MAX: usize = 4096;
pub const NAMESPACES_MAX: usize = 256;
/// Claims of one namespace that are told of.
pub const CLAIMS_MAX: usize = 256;

/// `count` nodes that each have at least `free`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shape {
    pub count: u32,
    /// Allocatable minus the requests of bound, unfinished pods; `pods` counts free pod slots.
    pub free: Resources,
    #[serde(flatten)]
    pub kind: NodeKind,
}

/// What tells nodes apart besides their room.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeKind {
    /// Node labels that placement may ask for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Nodes of several kinds are measured as one: some may have labels that are not here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mixed: bool,
}

/// What bounds the pods of one namespace beside the nodes' room.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamespaceRules {
    /// What quotas leave, for each resource that any of them bounds: `cpu`, `limits.cpu`, `pods`, …
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub quota: Resources,
    /// What LimitRanges give a container that says nothing: `cpu` as a request, `limits.cpu` as a limit.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub defaults: Resources,
    /// Claims whose volume is in some zones only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Vec<String>>,
}

impl Sketch {
    pub fn unbelieved(fault: String) -> Self {
        Self { fault, ..Self::default() }
    }
}

impl NamespaceRules {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl NodeKind {
    /// Whether the node selector and the required affinity of `demand` choose nodes of this kind, as far as is certain.
    /// `told` are the labels that the sketch tells of.
    pub fn is_chosen(&self, demand: &Demand, told: &[String]) -> bool {
        let selected = demand.node_selector.iter().all(|(key, value)| self.labels.get(key) == Some(value));
        let holds = |requirement: &Requirement| self.meets(requirement, told);
        selected && (demand.node_terms.is_empty() || demand.node_terms.iter().any(|term| term.iter().all(holds)))
    }

    /// A label that is not here may be there unseen: then whoever asks for its absence is not promised it.
    fn meets(&self, requirement: &Requirement, told: &[String]) -> bool {
        let asks_absence = matches!(requirement.operator, Operator::NotIn | Operator::DoesNotExist);
        let unseen = !self.labels.contains_key(&requirement.key) && (self.mixed || !told.contains(&requirement.key));
        !(asks_absence && unseen) && requirement.matches(&self.labels)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_is_promised_only_where_it_is_certain() {
        let requirement = |operator| Requirement { key: "pool".into(), operator, values: vec!["a".into()] };
        let demand = |operator| Demand { node_terms: vec![vec![requirement(operator)]], ..Demand::default() };
        let told = ["pool".to_owned()];
        let plain = NodeKind::default();
        let mixed = NodeKind { mixed: true, ..NodeKind::default() };
        let other =
            NodeKind { labels: [("pool".to_owned(), "b".to_owned())].into(), mixed: true, ..NodeKind::default() };
        for (operator, kind, told, expected) in [
            (Operator::NotIn, &plain, &told[..], true),
            (Operator::NotIn, &plain, &[][..], false),
            (Operator::NotIn, &mixed, &told[..], false),
            (Operator::NotIn, &other, &told[..], true),
            (Operator::DoesNotExist, &plain, &told[..], true),
            (Operator::DoesNotExist, &other, &told[..], false),
            (Operator::In, &plain, &told[..], false),
            (Operator::Exists, &other, &[][..], true),
        ] {
            assert_eq!(kind.is_chosen(&demand(operator), told), expected, "{operator:?} {kind:?} {told:?}");
        }
        let one_of_two = Demand {
            node_terms: vec![vec![requirement(Operator::In)], vec![requirement(Operator::Exists)]],
            ..Demand::default()
        };
        assert!(other.is_chosen(&one_of_two, &told), "terms are alternatives");
    }
}
