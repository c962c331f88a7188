//! Which clusters an Application's policies choose by name, by labels and by groups.
//!
//! Several topologies choose the union of their targets; a placement policy chooses among those.

use std::collections::BTreeSet;

use super::{Filter, Verdict, View};
use crate::{
    flow::schedule::{fleet::Candidate, standing::Standing},
    model::{
        application::{PlacementPolicy, Topology},
        placement::Why,
        selector::{LabelSelector, Operator},
    },
};

#[derive(Debug)]
pub struct Chosen<'p> {
    topologies: Vec<(BTreeSet<&'p str>, LabelSelector)>,
    /// What a cluster is told that no topology chooses.
    beyond: Option<Why>,
    policy: Option<&'p PlacementPolicy>,
    names: BTreeSet<&'p str>,
}

/// What a cluster must have to be chosen.
#[derive(Debug, PartialEq, Eq)]
pub enum Needed<'a> {
    Name(&'a BTreeSet<&'a str>),
    /// The label `key` with one of `values`.
    Label {
        key: &'a str,
        values: Vec<&'a str>,
    },
}

impl<'p> Chosen<'p> {
    pub fn new(topologies: &'p [Topology], policy: Option<&'p PlacementPolicy>) -> Self {
        let rule = |topology: &'p Topology| {
            let labels = topology.cluster_label_selector.clone().unwrap_or_default();
            (names(&topology.clusters), LabelSelector { match_labels: labels, match_expressions: Vec::new() })
        };
        let topologies: Vec<_> = topologies.iter().map(rule).collect();
        let why = |(names, selector): &(BTreeSet<&str>, LabelSelector)| match names.is_empty() {
            true => mismatch(selector),
            false => Why::NotNamed,
        };
        let beyond = topologies.iter().map(why).reduce(either);
        let names = policy.map(|policy| names(&policy.target.clusters)).unwrap_or_default();
        Self { topologies, beyond, policy, names }
    }

    /// What every cluster that is chosen has, where that can be looked up, and what all others are told.
    pub fn needs(&self) -> Option<(Needed<'_>, Why)> {
        let by_names = |names| Some((Needed::Name(names), Why::NotNamed));
        match &self.topologies[..] {
            [(names, selector)] if names.is_empty() => Some((label(selector)?, self.beyond.clone()?)),
            [(names, _)] => by_names(names),
            [] if !self.names.is_empty() => by_names(&self.names),
            [] => {
                let selector = self.policy?.target.cluster_selector.as_ref()?;
                Some((label(selector)?, mismatch(selector)))
            }
            _ => None,
        }
    }

    fn refuses(&self, cluster: &Candidate) -> Option<Why> {
        let chosen = |(names, selector): &(BTreeSet<&str>, LabelSelector)| match names.is_empty() {
            true => selector.matches(&cluster.labels),
            false => names.contains(cluster.name.as_str()),
        };
        if self.beyond.is_some() && !self.topologies.iter().any(chosen) {
            return self.beyond.clone();
        }
        let policy = self.policy?;
        if !self.names.is_empty() && !self.names.contains(cluster.name.as_str()) {
            return Some(Why::NotNamed);
        }
        if let Some(selector) = &policy.target.cluster_selector
            && !selector.matches(&cluster.labels)
        {
            return Some(mismatch(selector));
        }
        let grouped = policy.groups.is_empty() || policy.groups.iter().any(|group| group.target.chooses(cluster));
        (!grouped).then_some(Why::NoGroup)
    }
}

impl Filter for Chosen<'_> {
    fn words(&self) -> &'static [&'static str] {
        &["NotNamed", "SelectorMismatch", "NoGroup"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        self.refuses(view.cluster).map_or(Verdict::OPEN, |why| Standing::Leaves(why).into())
    }
}

fn names(names: &[String]) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}

fn label(selector: &LabelSelector) -> Option<Needed<'_>> {
    if let Some((key, value)) = selector.match_labels.first_key_value() {
        return Some(Needed::Label { key, values: vec![value] });
    }
    let listed = selector.match_expressions.iter().find(|rule| rule.operator == Operator::In)?;
    Some(Needed::Label { key: &listed.key, values: listed.values.iter().map(String::as_str).collect() })
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
