//! Standing: how each cluster stands to a group of components, and what the policy has set for it.
//!
//! Owns: the filters, in their order, and their reasons. Everything here is a column over the fleet that many
//! Applications share; what one decision alone knows (held clusters, other Applications) is laid over it by the solver.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    expression::Expression,
    fleet::{Candidate, Id},
};
use crate::model::{
    Timestamp,
    application::{ClusterSet, ClusterToleration, PlacementPolicy, PreferenceOrder, Topology},
    cluster::{ClusterTaint, Property, TaintEffect},
    placement::Why,
    selector::LabelSelector,
};

/// How a cluster stands to a component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

/// A place in the order of preference; the smallest is filled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tier {
    /// The policy's group.
    pub group: u16,
    /// Whether a `PreferNoSchedule` taint speaks against it.
    avoided: bool,
    /// The preferences' sum; what a cluster does not say counts as the worst.
    unknown: u8,
    cost: i64,
}

/// Bounds of the replicas in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub min: u32,
    pub max: u32,
}

impl Limit {
    pub const NONE: Self = Self { min: 0, max: u32::MAX };
}

/// By id. Columns that the policy says nothing of are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standings {
    codes: Vec<u16>,
    /// What the codes mean; the first is `Open`.
    meanings: Vec<Standing>,
    tiers: Vec<Tier>,
    weights: Vec<u32>,
    limits: Vec<Limit>,
    /// Clusters whose taint is tolerated, and until when.
    ends: BTreeMap<Id, Timestamp>,
    as_of: Option<Timestamp>,
}

/// What chooses the clusters of a group of components.
pub struct Rules<'p> {
    topologies: Vec<(BTreeSet<&'p str>, LabelSelector)>,
    /// What a cluster is told that no topology chooses.
    beyond: Option<Why>,
    policy: Option<&'p PlacementPolicy>,
    names: BTreeSet<&'p str>,
    expression: Option<Arc<Result<Expression, String>>>,
    /// Whether any component counts on room.
    counts: bool,
}

impl Standings {
    pub const OPEN: u16 = 0;

    /// By id, for scanning.
    pub fn codes(&self) -> &[u16] {
        &self.codes
    }

    pub fn of(&self, id: Id) -> &Standing {
        &self.meanings[self.codes[id as usize] as usize]
    }

    pub fn tier(&self, id: Id) -> Tier {
        self.tiers.get(id as usize).copied().unwrap_or_default()
    }

    pub fn weight(&self, id: Id) -> u32 {
        self.weights.get(id as usize).copied().unwrap_or(0)
    }

    pub fn limit(&self, id: Id) -> Limit {
        self.limits.get(id as usize).copied().unwrap_or(Limit::NONE)
    }

    /// Whether all open clusters are alike but for their room and weight.
    pub fn is_flat(&self) -> bool {
        self.tiers.is_empty() && self.limits.is_empty()
    }

    /// By code: whether what it means holds.
    pub fn holding(&self, holds: impl Fn(&Standing) -> bool) -> Vec<bool> {
        self.meanings.iter().map(holds).collect()
    }

    /// When the cluster's taint is no longer tolerated.
    pub fn end(&self, id: Id) -> Option<Timestamp> {
        self.ends.get(&id).copied()
    }

    /// Whether no toleration has ended or begun between the time it was made and now.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.ends.is_empty() && self.as_of.is_none()
            || self.as_of.is_some_and(|as_of| as_of <= now) && self.ends.values().all(|&end| now < end)
    }

    fn code(&mut self, standing: Standing) -> u16 {
        match self.meanings.iter().position(|known| *known == standing) {
            Some(code) => code as u16,
            // Only clusters with reasons of their own could use so many; the first of them speaks for the rest.
            None if self.meanings.len() > u16::MAX as usize => 1,
            None => {
                self.meanings.push(standing);
                (self.meanings.len() - 1) as u16
            }
        }
    }
}

impl<'p> Rules<'p> {
    pub fn new(topologies: &'p [Topology], policy: Option<&'p PlacementPolicy>, counts: bool) -> Self {
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
        Self { topologies, beyond, policy, names, expression: None, counts }
    }

    /// With the policy's expression, read.
    pub fn with(self, expression: Option<Arc<Result<Expression, String>>>) -> Self {
        Self { expression, ..self }
    }

    pub fn stand_all<'c>(&self, clusters: impl Iterator<Item = &'c Candidate>, now: Timestamp) -> Standings {
        let mut column = Standings { meanings: vec![Standing::Open], ..Standings::default() };
        for (cluster, id) in clusters.zip(0..) {
            column.codes.push(Standings::OPEN);
            if let Some(policy) = self.policy {
                if !policy.weights.is_empty() {
                    column.weights.push(0);
                }
                if !policy.limits.is_empty() {
                    column.limits.push(Limit::NONE);
                }
            }
            self.stand(&mut column, id, cluster, now);
        }
        column
    }

    /// Looks at one cluster anew.
    pub fn stand(&self, column: &mut Standings, id: Id, cluster: &Candidate, now: Timestamp) {
        column.ends.remove(&id);
        let standing = self.standing(column, id, cluster, now);
        column.codes[id as usize] = match standing {
            Standing::Open => Standings::OPEN,
            other => column.code(other),
        };
        let Some(policy) = self.policy else {
            return self.set_tier(column, id, 0, cluster);
        };
        let group = policy.groups.iter().position(|group| group.target.chooses(cluster)).unwrap_or_default();
        self.set_tier(column, id, group as u16, cluster);
        if let Some(weight) = column.weights.get_mut(id as usize) {
            *weight = policy.weights.iter().find(|rule| rule.target.chooses(cluster)).map_or(0, |rule| rule.weight);
        }
        if let Some(limit) = column.limits.get_mut(id as usize) {
            let rule = policy.limits.iter().find(|rule| rule.target.chooses(cluster));
            *limit = rule
                .map_or(Limit::NONE, |rule| Limit { min: rule.min.unwrap_or(0), max: rule.max.unwrap_or(u32::MAX) });
        }
    }

    /// The filters, in order: the first that speaks gives the reason.
    fn standing(&self, column: &mut Standings, id: Id, cluster: &Candidate, now: Timestamp) -> Standing {
        if cluster.deleting {
            return Standing::Gone;
        }
        if let Some(why) = self.refuses(cluster) {
            return Standing::Leaves(why);
        }
        let judged = self.judged(cluster);
        if let Some(Standing::Leaves(_)) = judged {
            return judged.unwrap_or(Standing::Gone);
        }
        let mut repelled = None;
        for taint in cluster.taints.iter().filter(|taint| taint.effect != TaintEffect::PreferNoSchedule) {
            let tolerance = self.tolerance(taint);
            let why = || Why::Tainted { taint: taint.to_string() };
            match (taint.effect, tolerance) {
                (_, Tolerance::Always) => {}
                (TaintEffect::NoExecute, Tolerance::Seconds(seconds)) => {
                    column.as_of = Some(column.as_of.map_or(now, |as_of| as_of.max(now)));
                    // Nobody knows how long one without a time has been there.
                    let Some(added) = taint.time_added else { continue };
                    let end = added.plus_seconds(seconds.into());
                    if end <= now {
                        return Standing::Leaves(why());
                    }
                    let known = column.ends.entry(id).or_insert(end);
                    *known = end.min(*known);
                }
                (TaintEffect::NoExecute, Tolerance::Never) => return Standing::Leaves(why()),
                _ => repelled = repelled.or_else(|| Some(why())),
            }
        }
        match cluster {
            Candidate { accepted: false, .. } => Standing::Keeps(Why::NotAccepted),
            Candidate { silent: true, .. } => Standing::Keeps(Why::Silent),
            Candidate { cordoned: true, .. } => Standing::Keeps(Why::Cordoned),
            _ if judged.is_some() => judged.unwrap_or(Standing::Gone),
            _ if repelled.is_some() => repelled.map_or(Standing::Gone, Standing::Keeps),
            Candidate { room: None, .. } if self.counts => Standing::Keeps(Why::NoSketch),
            _ => Standing::Open,
        }
    }

    /// Why the policies do not choose this cluster. Several topologies choose the union of their targets; a placement
    /// policy chooses among those.
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

    /// What the expression says of a cluster that is not chosen by it. What it says by the cluster's room, which the very
    /// Application takes, and that it fails, is no reason for what runs to leave.
    fn judged(&self, cluster: &Candidate) -> Option<Standing> {
        let failed = |detail: &String| Some(Standing::Keeps(Why::ExpressionFailed { detail: detail.clone() }));
        let expression = match self.expression.as_deref()? {
            Ok(expression) => expression,
            Err(detail) => return failed(detail),
        };
        let why = || Why::ExpressionFalse { expression: expression.text().to_owned() };
        match expression.holds(cluster) {
            Ok(true) => None,
            Ok(false) if expression.reads_room() => Some(Standing::Keeps(why())),
            Ok(false) => Some(Standing::Leaves(why())),
            Err(detail) => failed(&detail),
        }
    }

    fn tolerance(&self, taint: &ClusterTaint) -> Tolerance {
        let tolerations = self.policy.map(|policy| policy.tolerations.as_slice()).unwrap_or_default();
        let matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint));
        // The longest counts, as for pods any one that matches does.
        matching
            .map(|toleration| toleration.toleration_seconds.map_or(Tolerance::Always, Tolerance::Seconds))
            .max()
            .unwrap_or(Tolerance::Never)
    }

    fn set_tier(&self, column: &mut Standings, id: Id, group: u16, cluster: &Candidate) {
        let is_avoided = |taint: &ClusterTaint| {
            taint.effect == TaintEffect::PreferNoSchedule && self.tolerance(taint) == Tolerance::Never
        };
        let mut tier = Tier { group, avoided: cluster.taints.iter().any(is_avoided), ..Tier::default() };
        for preference in self.policy.iter().flat_map(|policy| &policy.preferences) {
            let Some(value) = number(cluster, &preference.by) else {
                tier.unknown = tier.unknown.saturating_add(1);
                continue;
            };
            let cost = value.saturating_mul(preference.weight.into());
            tier.cost = match preference.order {
                PreferenceOrder::Lowest => tier.cost.saturating_add(cost),
                PreferenceOrder::Highest => tier.cost.saturating_sub(cost),
            };
        }
        // As long as all are alike there is no column.
        if !column.tiers.is_empty() || tier != Tier::default() {
            column.tiers.resize(column.codes.len(), Tier::default());
            column.tiers[id as usize] = tier;
        }
    }
}

/// How long a taint is tolerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tolerance {
    Never,
    Seconds(u32),
    Always,
}

fn tolerates(toleration: &ClusterToleration, taint: &ClusterTaint) -> bool {
    let exists = toleration.operator == "Exists";
    let effect = match toleration.effect.as_str() {
        "" => true,
        "NoSchedule" => taint.effect == TaintEffect::NoSchedule,
        "PreferNoSchedule" => taint.effect == TaintEffect::PreferNoSchedule,
        _ => taint.effect == TaintEffect::NoExecute,
    };
    let key = toleration.key == taint.key || (toleration.key.is_empty() && exists);
    effect && key && (exists || toleration.value == taint.value)
}

fn number(cluster: &Candidate, name: &str) -> Option<i64> {
    match cluster.properties.get(name) {
        Some(Property::Integer(number)) => Some(*number),
        Some(Property::Text(text)) => text.parse().ok(),
        None => cluster.labels.get(name)?.parse().ok(),
    }
}

impl ClusterSet {
    pub fn chooses(&self, cluster: &Candidate) -> bool {
        (self.clusters.is_empty() || self.clusters.contains(&cluster.name))
            && self.cluster_selector.as_ref().is_none_or(|selector| selector.matches(&cluster.labels))
    }
}

fn names(names: &[String]) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
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
