//! Candidates: which clusters the policies choose for a component, and how each stands to it.

use std::collections::BTreeSet;

use super::{Candidate, Problem};
use crate::model::{
    application::{Mode, PlacementPolicy, Policy, Topology},
    object::Uid,
    placement::Why,
    revision::RenderedComponent,
    selector::LabelSelector,
};

/// How a cluster stands to a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// May get more.
    Open,
    /// Keeps what it has, gets nothing new.
    Keeps(Why),
    /// Is no candidate: what it has moves away as soon as it fits elsewhere.
    Leaves(Why),
    /// Is being deleted: what it has leaves whether or not it fits elsewhere.
    Gone,
}

/// How the components' replicas are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// One cluster for all of them.
    Single,
    /// Every target gets all of them in full.
    Duplicated,
    /// Each component's total is divided over the targets.
    Divided,
}

impl Spread {
    /// As a placement policy spells it, where it does.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "Single",
            Self::Duplicated => "Duplicated",
            Self::Divided => "Divided",
        }
    }
}

/// Components that are placed together, and what chooses their targets.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    pub spread: Spread,
    pub components: Vec<&'a RenderedComponent>,
    policy: Option<usize>,
}

/// The placement policies of an Application, read.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    topologies: Vec<Topology>,
    placements: Vec<PlacementPolicy>,
}

impl Policies {
    /// Reads what concerns placement. The error says which policy cannot be read; admission refuses such ones first.
    pub fn read(policies: &[Policy]) -> Result<Self, String> {
        let mut read = Self::default();
        for policy in policies {
            let faulty = |error: serde_json::Error| format!("policy {:?} cannot be read: {error}", policy.name);
            let properties = || match &policy.properties {
                serde_json::Value::Null => serde_json::Value::Object(Default::default()),
                properties => properties.clone(),
            };
            match policy.type_.as_str() {
                "topology" => read.topologies.push(serde_json::from_value(properties()).map_err(faulty)?),
                "placement" => read.placements.push(serde_json::from_value(properties()).map_err(faulty)?),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Groups in the order in which they take room: what must fit whole first, what can be divided last.
    pub fn groups<'a>(&self, components: &'a [RenderedComponent]) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for component in components {
            let names =
                |policy: &PlacementPolicy| policy.components.is_empty() || policy.components.contains(&component.name);
            let policy = self.placements.iter().position(names);
            let spread = match policy.map(|index| self.placements[index].mode) {
                Some(Mode::Divided) => Spread::Divided,
                Some(Mode::Duplicated) => Spread::Duplicated,
                None if self.topologies.is_empty() => Spread::Single,
                None => Spread::Duplicated,
            };
            match groups.iter_mut().find(|group| group.policy == policy && group.spread == spread) {
                Some(group) => group.components.push(component),
                None => groups.push(Group { spread, components: vec![component], policy }),
            }
        }
        groups.sort_by_key(|group| group.spread);
        groups
    }

    /// How `cluster` stands to the group. `holds` says that it has a part already.
    pub fn standing(&self, problem: &Problem<'_>, group: &Group<'_>, uid: &Uid, cluster: &Candidate) -> Standing {
        if cluster.deleting {
            return Standing::Gone;
        }
        if let Some(why) = self.refuses(group, cluster) {
            return if problem.held.contains(uid) { Standing::Keeps(why) } else { Standing::Leaves(why) };
        }
        let counts = group.components.iter().any(|component| component.demand.is_some());
        match cluster {
            Candidate { accepted: false, .. } => Standing::Keeps(Why::NotAccepted),
            Candidate { silent: true, .. } => Standing::Keeps(Why::Silent),
            Candidate { cordoned: true, .. } => Standing::Keeps(Why::Cordoned),
            Candidate { room: None, .. } if counts => Standing::Keeps(Why::NoSketch),
            _ => Standing::Open,
        }
    }

    /// Why the policies do not choose this cluster. Several topologies choose the union of their targets; a placement
    /// policy chooses among those.
    fn refuses(&self, group: &Group<'_>, cluster: &Candidate) -> Option<Why> {
        let by_topology: Vec<_> = self.topologies.iter().map(|topology| by_topology(topology, cluster)).collect();
        if !by_topology.is_empty() && by_topology.iter().all(Option::is_some) {
            return by_topology.into_iter().flatten().reduce(either);
        }
        let policy = &self.placements[group.policy?];
        if !policy.clusters.is_empty() && !policy.clusters.contains(&cluster.name) {
            return Some(Why::NotNamed);
        }
        match &policy.cluster_selector {
            Some(selector) if !selector.matches(&cluster.labels) => Some(mismatch(selector)),
            _ => None,
        }
    }

    /// Cluster names that the policies of this group ask for by name.
    pub fn named(&self, group: &Group<'_>) -> BTreeSet<&str> {
        let topologies = self.topologies.iter().flat_map(|topology| &topology.clusters);
        let policy = group.policy.map(|index| &self.placements[index]);
        let by_policy = policy.into_iter().flat_map(|policy| &policy.clusters);
        topologies.chain(by_policy).map(String::as_str).collect()
    }

    /// Whether finding no target at all is all right.
    pub fn allows_empty(&self) -> bool {
        self.topologies.iter().any(|topology| topology.allow_empty)
    }
}

fn by_topology(topology: &Topology, cluster: &Candidate) -> Option<Why> {
    if !topology.clusters.is_empty() {
        return (!topology.clusters.contains(&cluster.name)).then_some(Why::NotNamed);
    }
    let labels = topology.cluster_label_selector.clone().unwrap_or_default();
    let selector = LabelSelector { match_labels: labels, match_expressions: Vec::new() };
    (!selector.matches(&cluster.labels)).then(|| mismatch(&selector))
}

fn mismatch(selector: &LabelSelector) -> Why {
    Why::SelectorMismatch { selector: selector.to_string() }
}

/// Two topologies that both do not choose a cluster, as one reason.
fn either(one: Why, other: Why) -> Why {
    match (one, other) {
        (Why::SelectorMismatch { selector: a }, Why::SelectorMismatch { selector: b }) if a != b => {
            Why::SelectorMismatch { selector: format!("{a} or {b}") }
        }
        (Why::NotNamed, why) | (why, _) => why,
    }
}
