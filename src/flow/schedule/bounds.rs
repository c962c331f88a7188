//! Bounds: what beside free amounts says how many pods of one kind can run: which nodes they choose, how they keep apart
//! from each other, quotas and LimitRanges.
//!
//! Must never: count on what is not known. A label that no sketch tells of gives one certain place and no more.

use std::collections::{BTreeMap, BTreeSet};

use super::room::{Frame, Slot};
use crate::model::{
    Demand, Resources,
    cluster::ZONE_LABEL,
    demand::{HOSTNAME_LABEL, SpreadRule},
    quantity::PODS,
    sketch::NodeKind,
};

/// Prefix of the name by which quotas and LimitRanges know a limit.
pub const LIMITS: &str = "limits.";

/// How the kinds of a cluster's nodes stand to a demand.
pub struct Chosen(Vec<Standing>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Not chosen by node selector or affinity, or its volume is elsewhere.
    Out,
    /// Chosen, but for a taint: no pod gets there, and spreading counts it as a place all the same.
    Tainted,
    In,
}

impl Chosen {
    pub fn of(frame: &Frame, demand: &Demand) -> Self {
        let rules = frame.namespaces.get(&demand.namespace);
        let claims = demand.claims.iter().filter_map(|claim| rules?.claims.get(claim));
        let zones: Vec<&Vec<String>> = claims.collect();
        let standing = |kind: &NodeKind| {
            let reaches = |zones: &&Vec<String>| kind.labels.get(ZONE_LABEL).is_some_and(|zone| zones.contains(zone));
            match kind.is_chosen(demand, &frame.labels) && zones.iter().all(reaches) {
                false => Standing::Out,
                true if demand.tolerates(&kind.taints) => Standing::In,
                true => Standing::Tainted,
            }
        };
        Self(frame.kinds.iter().map(standing).collect())
    }

    pub fn admits(&self, kind: u32) -> bool {
        self.0[kind as usize] == Standing::In
    }

    /// Whether some kind of node admits both.
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|standings| standings == (&Standing::In, &Standing::In))
    }

    fn counts(&self, kind: u32) -> bool {
        self.0[kind as usize] != Standing::Out
    }

    /// Why no node at all admits the demand.
    pub fn nothing(&self, demand: &Demand, frame: &Frame) -> String {
        let asked = demand.node_selector.keys().chain(demand.node_terms.iter().flatten().map(|rule| &rule.key));
        let untold: BTreeSet<&str> = asked
            .filter(|key| !frame.labels.is_empty() && !frame.labels.contains(key))
            .filter(|key| !frame.kinds.iter().any(|kind| kind.labels.contains_key(*key)))
            .map(String::as_str)
            .collect();
        if untold.is_empty() {
            return "no node matches its node selector and tolerations".into();
        }
        let keys: Vec<_> = untold.into_iter().collect();
        format!("its agent does not tell of the node label {}", keys.join(", "))
    }
}

/// How many pods of the demand one node takes at most for being one host; `None` where they do not keep apart at all.
pub fn per_node(demand: &Demand, shapes: &[Slot], chosen: &Chosen, fits: impl Fn(usize) -> u64) -> Option<u64> {
    let rules = demand.spread.iter().filter(|spread| spread.topology == HOSTNAME_LABEL).map(|spread| spread.rule);
    let most = |rule| match rule {
        SpreadRule::OnePer => 1,
        SpreadRule::Skew { most, places } => {
            let counted = || (0..shapes.len()).filter(|&index| chosen.counts(shapes[index].kind));
            let nodes: u64 = counted().map(|index| u64::from(shapes[index].count)).sum();
            let on = |index: usize| if chosen.admits(shapes[index].kind) { fits(index) } else { 0 };
            let least = counted().filter(|&index| shapes[index].count > 0).map(on).min().unwrap_or(0);
            let least = if nodes < places.into() { 0 } else { least };
            least.saturating_add(most.into())
        }
    };
    let hosts = rules.map(most).min();
    hosts.or((!demand.spread.is_empty()).then_some(u64::MAX))
}

/// How many fit where they keep apart by labels that several nodes share. `on` says how many the nodes of one shape take.
pub fn over_places(demand: &Demand, frame: &Frame, shapes: &[Slot], chosen: &Chosen, on: impl Fn(usize) -> u64) -> u64 {
    let all = (0..shapes.len()).map(&on).fold(0, u64::saturating_add);
    let by_rule = demand.spread.iter().filter(|spread| spread.topology != HOSTNAME_LABEL).map(|spread| {
        let told = frame.labels.contains(&spread.topology);
        let mut places: BTreeMap<&str, u64> = BTreeMap::new();
        let mut nowhere = 0u64;
        for (index, slot) in shapes.iter().enumerate().filter(|(_, slot)| chosen.counts(slot.kind) && slot.count > 0) {
            let kind = &frame.kinds[slot.kind as usize];
            match kind.labels.get(&spread.topology) {
                Some(value) => {
                    let sum = places.entry(value).or_default();
                    *sum = sum.saturating_add(on(index));
                }
                // A node that lacks the label keeps nobody apart.
                None if told && !kind.mixed => nowhere = nowhere.saturating_add(on(index)),
                // It may be in any place, the emptiest included.
                None => drop(places.entry("").or_insert(on(index).min(1))),
            }
        }
        match spread.rule {
            SpreadRule::OnePer => places.values().map(|&fits| fits.min(1)).fold(nowhere, u64::saturating_add),
            // Nodes without the label get none of the pods that are to be spread over it.
            SpreadRule::Skew { most, places: wanted } => {
                let least = places.values().copied().min().unwrap_or(0);
                let least = if (places.len() as u64) < wanted.into() { 0 } else { least };
                let bound = least.saturating_add(most.into());
                places.values().map(|&fits| fits.min(bound)).fold(0, u64::saturating_add)
            }
        }
    });
    by_rule.fold(all, u64::min)
}

/// A demand with what LimitRanges give containers that say nothing.
pub fn granted(demand: &Demand, defaults: &Resources) -> Demand {
    let mut granted = demand.clone();
    for (name, containers) in &demand.unsaid.0 {
        let more = defaults.get(name).saturating_mul(*containers);
        match name.strip_prefix(LIMITS) {
            Some(limit) => granted.limits.add(&Resources::of([(limit, more)]), 1),
            None => granted.requests.add(&Resources::of([(name, more)]), 1),
        }
    }
    granted
}

/// What one pod asks of a quota by the quota's name of it.
pub fn asked_of_quota(demand: &Demand, name: &str) -> i64 {
    match name.strip_prefix(LIMITS) {
        Some(limit) => demand.limits.get(limit),
        None if name == PODS => 1,
        None => demand.requests.get(name),
    }
}

/// How many pods a quota that leaves `left` lets in; `None` where it does not concern them. A member refuses pods that do
/// not say how much they ask for of what a quota bounds by request or limit of CPU and memory.
pub fn by_quota(demand: &Demand, name: &str, left: i64) -> Option<u64> {
    match asked_of_quota(demand, name) {
        0 => ["cpu", "memory", "limits.cpu", "limits.memory"].contains(&name).then_some(0),
        asked => Some((left.max(0) / asked) as u64),
    }
}
