//! Room: what still fits into a cluster, node by node, after everything that is decided has been taken off.
//!
//! Which node a replica will run on, and which of two comes first, is the member's choice. Replicas that are decided and
//! not yet seen on a node are therefore counted where they do most harm ([`floating`]): nobody is promised a place that
//! one of them may take, nor theirs taken by whoever is promised another. Exact for demands of one size; of several
//! sizes the rest is promised once the first are seen.
//!
//! Must never: let go of what is decided. A replica that no node could take holds its amounts all the same.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    bounds,
    floating::{self, Floating, Group},
};
use crate::model::{
    Demand, Resources, Sketch,
    quantity::PODS,
    sketch::{NamespaceRules, NodeKind},
};

mod growth;
mod namespaces;
mod nodes;
#[cfg(test)]
mod tests;

/// Shapes up to which it is looked at every node whether several demands fit beside each other.
const LOOKED_AT_MAX: usize = 512;

/// Free capacity by node shape, from which demands are taken one after another. Amounts stand in rows of one column for
/// each resource, because they are read a million times where a fleet is large.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Room {
    frame: Arc<Frame>,
    shapes: Vec<Slot>,
    /// Of one node of each shape.
    free: Vec<i64>,
    /// What was taken.
    floating: Vec<Floating>,
    /// What the quotas of each namespace leave.
    quotas: BTreeMap<String, Resources>,
}

/// What stays as it is while room is taken.
#[derive(Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Frame {
    /// Sorted. What is not here no node has.
    resources: Vec<String>,
    pub kinds: Vec<NodeKind>,
    /// Keys of the node labels that are told of.
    pub labels: Vec<String>,
    pub namespaces: BTreeMap<String, NamespaceRules>,
    /// Of all nodes together, taken or not.
    allocatable: Resources,
}

/// `count` nodes of one kind with the same room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Slot {
    pub count: u32,
    pub kind: u32,
}

impl Room {
    pub fn of(sketch: &Sketch) -> Self {
        let mut resources: Vec<String> = sketch.allocatable.0.keys().cloned().chain([PODS.to_owned()]).collect();
        resources.extend(sketch.shapes.iter().flat_map(|shape| shape.free.0.keys().cloned()));
        resources.sort();
        resources.dedup();
        let mut kinds: Vec<NodeKind> = sketch.shapes.iter().map(|shape| shape.kind.clone()).collect();
        kinds.sort();
        kinds.dedup();
        let slot = |kind: &NodeKind, count| Slot { count, kind: kinds.partition_point(|known| known < kind) as u32 };
        let shapes = sketch.shapes.iter().map(|shape| slot(&shape.kind, shape.count)).collect();
        let row = |free: &Resources| resources.iter().map(|name| free.get(name)).collect::<Vec<_>>();
        let free = sketch.shapes.iter().flat_map(|shape| row(&shape.free)).collect();
        let quotas = sketch.namespaces.iter().filter(|(_, rules)| !rules.quota.is_empty());
        let quotas = quotas.map(|(name, rules)| (name.clone(), rules.quota.clone())).collect();
        let frame = Frame {
            resources,
            kinds,
            labels: sketch.labels.clone(),
            namespaces: sketch.namespaces.clone(),
            allocatable: sketch.allocatable.clone(),
        };
        Self { frame: Arc::new(frame), shapes, free, floating: Vec::new(), quotas }
    }

    /// How many replicas of `demand` still fit, where none of their kind run. Saturates at `u32::MAX`.
    pub fn for_demand(&self, demand: &Demand) -> u32 {
        let demand = &*self.granted(demand);
        let fits = self.on_nodes(demand);
        let fits = match self.floating.is_empty() || fits == 0 {
            true => fits,
            false => self.beside_floating(demand, fits),
        };
        fits.min(self.by_quota(demand).unwrap_or(u64::MAX)).min(u32::MAX.into()) as u32
    }

    /// As if nothing had been taken.
    fn on_nodes(&self, demand: &Demand) -> u64 {
        let ask = self.ask(demand);
        let chosen = bounds::Chosen::of(&self.frame, demand);
        match bounds::per_node(demand, &self.shapes, &chosen, |index| self.per_node(index, &ask)) {
            None => {
                let admitted = (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind));
                let on = |index: usize| self.per_node(index, &ask).saturating_mul(self.shapes[index].count.into());
                admitted.map(on).fold(0, u64::saturating_add)
            }
            Some(each) => {
                let on = |index: usize| {
                    let fits = if chosen.admits(self.shapes[index].kind) { self.per_node(index, &ask) } else { 0 };
                    fits.min(each).saturating_mul(self.shapes[index].count.into())
                };
                bounds::over_places(demand, &self.frame, &self.shapes, &chosen, on)
            }
        }
    }

    /// Of `fits` replicas, those that find their place wherever what was taken may land, and leave it its own.
    fn beside_floating(&self, demand: &Demand, fits: u64) -> u64 {
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let near: Vec<&Floating> = self
            .floating
            .iter()
            .filter(|float| chosen.meets(&bounds::Chosen::of(&self.frame, &float.demand)))
            .collect();
        let groups: Vec<Group<'_>> = near.iter().map(|float| (&*float.demand, float.replicas)).collect();
        let mut left = fits.saturating_sub(self.lost(demand, &groups));
        for (name, amount) in whole(demand) {
            left = left.min((self.free(name).max(0) / amount).unsigned_abs());
        }
        for (index, float) in near.iter().enumerate() {
            // One that does not find its place anyway keeps nobody else out, but from what it holds.
            if float.demand.is_like(demand) || float.fits < float.replicas {
                continue;
            }
            let mut groups = groups.clone();
            groups[index] = (demand, 0);
            let mut spares = |replicas: u64| {
                groups[index].1 = replicas;
                float.fits.saturating_sub(self.lost(&float.demand, &groups)) >= float.replicas
            };
            if !spares(left) {
                // The first so many do no harm, the next one does.
                let (mut good, mut bad) = (0, left);
                while bad - good > 1 {
                    let middle = good + (bad - good) / 2;
                    if spares(middle) { good = middle } else { bad = middle }
                }
                left = good;
            }
        }
        left
    }

    /// Places of `demand` that `groups` cost at most, wherever they land.
    fn lost(&self, demand: &Demand, groups: &[Group<'_>]) -> u64 {
        let by_pods = floating::lost_pods(demand, groups);
        // Counting heads is exact where none is smaller; beyond the bound it has to do, for this looks at every node.
        let smaller = groups.iter().any(|(other, replicas)| *replicas > 0 && floating::is_smaller(other, demand));
        if !smaller || self.shapes.len() > LOOKED_AT_MAX {
            return by_pods;
        }
        let ask = self.ask(demand);
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let admitted = (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind));
        let nodes: Vec<_> = admitted
            .map(|index| (u64::from(self.shapes[index].count), self.per_node(index, &ask), self.row(index)))
            .collect();
        let name = |&(column, amount): &(usize, i64)| (&*self.frame.resources[column], column, amount);
        let columns: Vec<_> = ask.amounts.iter().map(name).collect();
        by_pods.min(floating::lost_amounts(&columns, &nodes, groups))
    }

    /// How many more replicas of `demand` fit where `had` of their kind run or are reserved here. That is what is asked
    /// of kinds that keep apart from each other: a node that has one is not free for another.
    pub fn for_more(&self, demand: &Demand, had: u32) -> u32 {
        let more = self.for_demand(demand);
        if demand.spread.is_empty() || had == 0 {
            return more;
        }
        let mut without = self.clone();
        without.give_back(demand, had);
        more.min(without.for_demand(demand).saturating_sub(had))
    }

    /// Takes `replicas` of `demand` off, whether or not they fit.
    pub fn take(&mut self, demand: &Demand, replicas: u32) {
        if replicas == 0 {
            return;
        }
        let demand = self.granted(demand).into_owned();
        self.charge(&demand, replicas, -1);
        match self.floating.iter_mut().find(|float| float.demand.is_like(&demand)) {
            Some(float) => float.replicas += u64::from(replicas),
            None => {
                let fits = self.on_nodes(&demand);
                self.floating.push(Floating { demand: Arc::new(demand), replicas: replicas.into(), fits });
            }
        }
    }

    /// Puts back what `replicas` of `demand` hold: what was taken first, then what runs, on all nodes that admit them alike,
    /// for that is where the member's scheduler spread them.
    pub fn give_back(&mut self, demand: &Demand, replicas: u32) {
        let demand = &*self.granted(demand);
        let ask = self.ask(demand);
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let admitting: Vec<usize> = self.most_first(&chosen, |room, index| u64::from(room.shapes[index].count));
        let nodes: u64 = admitting.iter().map(|&index| u64::from(self.shapes[index].count)).sum();
        let mut left = u64::from(replicas);
        if let Some(float) = self.floating.iter_mut().find(|float| float.demand.is_like(demand)) {
            let taken = left.min(float.replicas);
            float.replicas -= taken;
            left -= taken;
        }
        self.floating.retain(|float| float.replicas > 0);
        self.charge(demand, replicas, 1);
        if nodes == 0 || left == 0 {
            return;
        }
        let (each, mut more) = (left / nodes, left % nodes);
        for index in admitting {
            let count = u64::from(self.shapes[index].count);
            let here = more.min(count);
            more -= here;
            let emptier = if here > 0 && here < count { self.split(index, here as u32) } else { None };
            if let Some(emptier) = emptier {
                self.shift(emptier, &ask, each + 1, 1);
            }
            self.shift(index, &ask, each + u64::from(here == count), 1);
        }
        for index in 0..self.floating.len() {
            self.floating[index].fits = self.on_nodes(&self.floating[index].demand.clone());
        }
    }

    /// What one more replica of `demand` lacks, for people: `cpu`, or that no node admits it.
    pub fn scarce(&self, demand: &Demand) -> String {
        let demand = &*self.granted(demand);
        if self.shapes.iter().all(|shape| shape.count == 0) {
            return "no node is ready".into();
        }
        let chosen = bounds::Chosen::of(&self.frame, demand);
        let admitting: Vec<usize> =
            (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind)).collect();
        if admitting.is_empty() {
            return chosen.nothing(demand, &self.frame);
        }
        if let Some(lack) = self.lack_of_quota(demand) {
            return lack;
        }
        let amount = |index: usize, name: &str| self.column(name).map_or(0, |column| self.row(index)[column]);
        let lacks = |name: &str, asked: i64| {
            self.free(name) < asked || admitting.iter().all(|&index| amount(index, name) < asked)
        };
        let lacking = |(name, asked): &(&String, &i64)| **asked > 0 && lacks(name, **asked);
        if let Some((name, _)) = demand.requests.0.iter().find(lacking) {
            return format!("no node has enough {name} left");
        }
        if lacks(PODS, 1) {
            return "no node has a pod slot left".into();
        }
        if self.for_demand(demand) == 0 && self.on_nodes(demand) > 0 {
            return "what is left may be needed by what is decided and not seen there yet".into();
        }
        if !demand.spread.is_empty() {
            let places: Vec<_> = demand.spread.iter().map(|spread| spread.topology.as_str()).collect();
            return format!("its replicas keep apart by {}", places.join(" and "));
        }
        let names: Vec<_> =
            demand.requests.0.iter().filter(|&(_, &amount)| amount > 0).map(|(name, _)| &**name).collect();
        if names.is_empty() { "pod slots".into() } else { names.join(" and ") }
    }

    /// Free amount of one resource on all nodes together, for comparing clusters when no demand tells them apart.
    pub fn free(&self, resource: &str) -> i64 {
        let Some(column) = self.column(resource) else { return 0 };
        let on = |index: usize| self.row(index)[column].max(0).saturating_mul(i64::from(self.shapes[index].count));
        let all = (0..self.shapes.len()).map(on).fold(0, i64::saturating_add);
        let taken = self.floating.iter().map(|float| float.amount(resource)).fold(0, i64::saturating_add);
        all.saturating_sub(taken).max(0)
    }

    /// What there is of one resource on all nodes together, taken or not.
    pub fn allocatable(&self, resource: &str) -> i64 {
        self.frame.allocatable.get(resource)
    }
}

/// What one replica takes: its requests and a slot.
pub(super) fn whole(demand: &Demand) -> impl Iterator<Item = (&str, i64)> {
    let requests = demand.requests.0.iter().map(|(name, amount)| (name.as_str(), *amount));
    requests.filter(|&(name, amount)| amount > 0 && name != PODS).chain([(PODS, 1)])
}
