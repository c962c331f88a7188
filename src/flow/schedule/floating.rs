//! Floating: replicas that are decided and not yet seen on a node, counted where they do most harm to another demand.
//!
//! Must never: count on the order in which a member places them, or on the node it takes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::room::whole;
use crate::model::{Demand, quantity::PODS};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Floating {
    pub demand: Arc<Demand>,
    pub replicas: u64,
    /// How many of it would fit if nothing had been taken.
    pub fits: u64,
}

/// So many replicas of one demand.
pub(super) type Group<'a> = (&'a Demand, u64);

impl Floating {
    /// What all of it asks for.
    pub fn amount(&self, resource: &str) -> i64 {
        amount((&self.demand, self.replicas), resource)
    }
}

fn amount((demand, replicas): Group<'_>, resource: &str) -> i64 {
    asked(demand, resource).saturating_mul(i64::try_from(replicas).unwrap_or(i64::MAX))
}

fn asked(demand: &Demand, resource: &str) -> i64 {
    if resource == PODS { 1 } else { demand.requests.get(resource).max(0) }
}

/// Whether one pod of `other` asks for less of something than one of `demand`.
pub fn is_smaller(other: &Demand, demand: &Demand) -> bool {
    whole(demand).any(|(name, amount)| asked(other, name) < amount)
}

/// Places of `demand` that are lost at most, by the number of pods.
pub fn lost_pods(demand: &Demand, groups: &[Group<'_>]) -> u64 {
    let lost = groups.iter().map(|&(other, replicas)| {
        let cost = |(name, amount): (&str, i64)| asked(other, name).unsigned_abs().div_ceil(amount.unsigned_abs());
        whole(demand).map(cost).max().unwrap_or(1).saturating_mul(replicas)
    });
    lost.fold(0, u64::saturating_add)
}

/// Places that are lost at most, by amounts: a node loses one only when what was over is used up. `columns` are what the
/// demand asks for, by name and column; each of `nodes` comes with how many there are, how many places each has, and its
/// amounts. Each column is looked at as if the others cost nothing, so the sum is never too small.
pub fn lost_amounts(columns: &[(&str, usize, i64)], nodes: &[(u64, u64, &[i64])], groups: &[Group<'_>]) -> u64 {
    let groups = || groups.iter().filter(|(_, replicas)| *replicas > 0);
    let lost = columns.iter().map(|&(name, column, each)| {
        let sizes = || groups().map(|(demand, _)| asked(demand, name)).filter(|&size| size > 0);
        let budget = groups().map(|&group| amount(group, name)).fold(0, i64::saturating_add);
        let Some(least) = sizes().min() else { return 0 };
        if sizes().any(|size| size > each) {
            return u64::MAX;
        }
        let costs =
            nodes.iter().filter(|(count, places, _)| *count > 0 && *places > 0).flat_map(|&(count, places, row)| {
                let over = i128::from(row[column]) - i128::from(each) * i128::from(places) + 1;
                places_of(over, (least.into(), each.into()), (count, places), sizes().all(|size| size == least))
            });
        cheapest(costs.collect(), budget.into())
    });
    lost.fold(0, u64::saturating_add)
}

/// So many places that cost so much together.
type Costs = (i128, u64);

/// What the places of `count` nodes cost. The first of a node costs at least what is `over`, and one pod; in pods of one
/// size each costs so many whole ones.
fn places_of(over: i128, (least, each): (i128, i128), (count, places): (u64, u64), even: bool) -> [Costs; 2] {
    let (first, next) = match even {
        true => ((over + least - 1) / least * least, each / least * least),
        false => (over.max(least), (over + each - over.max(least)).clamp(0, each)),
    };
    let (nodes, more) = (i128::from(count), places - 1);
    if first <= each {
        return [(first * nodes, count), (next * nodes * i128::from(more), count.saturating_mul(more))];
    }
    // What comes first costs most; its share of the whole is what each costs at least.
    [((first + next * i128::from(more)) * nodes, count.saturating_mul(places)), (0, 0)]
}

/// How many places a budget pays for at most.
fn cheapest(mut costs: Vec<Costs>, budget: i128) -> u64 {
    costs.retain(|&(_, places)| places > 0);
    costs.sort_unstable_by(|&(cost, places), &(other, others)| {
        (cost * i128::from(others)).cmp(&(other * i128::from(places)))
    });
    let (mut left, mut lost) = (budget, 0u64);
    for (cost, places) in costs {
        if cost > left {
            return lost.saturating_add((left * i128::from(places) / cost) as u64);
        }
        left -= cost;
        lost = lost.saturating_add(places);
    }
    lost
}
