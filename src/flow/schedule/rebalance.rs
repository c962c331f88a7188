//! Rebalance: which replicas of a settled total are worth moving, where nothing has to move.
//!
//! Owns: what a move gains. A cluster's *part* is what it would have if the total were shared out anew; a replica that
//! moves gains by how many percent of their parts the one cluster was fuller than the other one will be. One that moves to
//! where the policy would rather have it gains [`PREFERRED`]; the last `n` of a cluster that an `Aggregated` total can do
//! without gain `100 / n` each.
//!
//! The best move is made first, one at a time, as long as it gains more than it costs: so stopping after some and going on
//! later ends where going on would have, and who is asked twice moves nothing the second time. Must never: leave the
//! bounds, the minimums or the spread, or touch a cluster that gets nothing new.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    integer::{Count, Task, keeps},
    standing::Tier,
};
use crate::model::{Timestamp, Uid, application::Division};

/// Gained by a replica that leaves a later group of the policy, or a less preferred cluster, in percent.
const PREFERRED: i128 = 100;
/// Where the policy states no cost, in percent.
const COST: u32 = 10;
/// Of a total, where the policy does not bound its moves: one in so many at once.
const PART_AT_ONCE: u32 = 5;
/// Thousandths of a percent.
const SCALE: i128 = 1_000;
const FAR: i128 = i64::MAX as i128;

/// Whether what could stay is to move where that is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Rebalance {
    #[default]
    No,
    /// Of those totals whose policy has it from time to time.
    Periodic,
    /// Somebody asked for it.
    Asked,
    /// All that would follow, to be looked at.
    Whole,
}

/// What one decision may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Percent.
    pub cost: u32,
    pub most: u32,
}

impl Rebalance {
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }
}

impl Terms {
    pub fn new(cost: Option<u32>, max_moves: Option<u32>, wanted: u32, whole: bool) -> Self {
        let at_once = max_moves.unwrap_or_else(|| wanted.div_ceil(PART_AT_ONCE));
        Self { cost: cost.unwrap_or(COST), most: if whole { wanted } else { at_once } }
    }
}

/// When the next one of every `period` comes, after `now`. Applications take turns: their periods do not begin together.
pub fn next(application: &Uid, period_seconds: u32, now: Timestamp) -> Timestamp {
    let period = i64::from(period_seconds.max(1)) * 1000;
    let digest = crate::model::Digest::of(application.0.as_bytes()).to_string();
    let offset = digest.bytes().fold(0i64, |sum, byte| (sum * 31 + i64::from(byte)) % period);
    let since = (now.millis() - offset).rem_euclid(period);
    Timestamp::from_millis(now.millis() - since + period)
}

/// The shares after the moves that are worth it; `shares` is an answer to the task.
pub fn rebalance(task: &Task<'_>, shares: &[u32], terms: &Terms) -> Vec<u32> {
    let mut shares = shares.to_vec();
    let mut left = terms.most;
    while left > 0 {
        let balance = Balance { task, shares: &shares, cost: i128::from(terms.cost) * SCALE };
        let Some(moved) = balance.best(left) else { break };
        left -= moved.replicas;
        shares[moved.from] -= moved.replicas;
        shares[moved.to] += moved.replicas;
    }
    shares
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shift {
    /// Of all its replicas.
    gain: i128,
    from: usize,
    to: usize,
    replicas: u32,
}

struct Balance<'a> {
    task: &'a Task<'a>,
    shares: &'a [u32],
    /// Of one replica.
    cost: i128,
}

impl Balance<'_> {
    fn best(&self, most: u32) -> Option<Shift> {
        let preferred = self.preferred(most);
        preferred.or_else(|| match self.task.division {
            Division::Aggregated => self.gathered(most),
            Division::FreeCapacity | Division::Weighted => self.levelled(most),
        })
    }

    /// Who may lose a replica, and who may get one.
    fn is_open(&self, place: usize) -> bool {
        let slot = &self.task.slots[place];
        !slot.pinned && !slot.leaves
    }

    fn free(&self, place: usize) -> u32 {
        self.task.slots[place].high().saturating_sub(self.shares[place])
    }

    fn wish(&self, place: usize) -> Tier {
        self.task.slots[place].tier.wished()
    }

    fn sources(&self) -> Vec<usize> {
        (0..self.shares.len()).filter(|&place| self.is_open(place) && self.shares[place] > 0).collect()
    }

    fn targets(&self) -> Vec<usize> {
        (0..self.shares.len()).filter(|&place| self.is_open(place) && self.free(place) > 0).collect()
    }

    /// From the least preferred to the most.
    fn preferred(&self, most: u32) -> Option<Shift> {
        if self.cost >= PREFERRED * SCALE {
            return None;
        }
        let (mut sources, mut targets) = (self.sources(), self.targets());
        sources.sort_by_key(|&place| std::cmp::Reverse(self.wish(place)));
        targets.sort_by_key(|&place| (self.wish(place), self.turn(place), place));
        for &from in &sources {
            let better = targets.iter().take_while(|&&to| self.wish(to) < self.wish(from));
            let shift = |&to: &usize| self.block(from, to, most).map(|replicas| (to, replicas));
            if let Some((to, replicas)) = better.filter(|&&to| to != from).find_map(shift) {
                return Some(Shift { gain: PREFERRED * SCALE * i128::from(replicas), from, to, replicas });
            }
        }
        None
    }

    /// Of clusters that are as preferred, who gets the next replica first.
    fn turn(&self, place: usize) -> i128 {
        let (share, votes) = (i128::from(self.shares[place]), i128::from(self.votes(place)));
        match (self.task.division, votes) {
            (Division::Aggregated, _) => -share,
            (_, 0) => FAR,
            (_, votes) => (share + 1) * FAR / i128::from(u32::MAX) / votes,
        }
    }

    /// From the fullest to the emptiest.
    fn levelled(&self, most: u32) -> Option<Shift> {
        let (sources, targets) = (self.sources(), self.targets());
        let mut sums: BTreeMap<Tier, (u64, u64)> = BTreeMap::new();
        for place in (0..self.shares.len()).filter(|&place| self.is_open(place)) {
            let sum = sums.entry(self.wish(place)).or_default();
            *sum = (sum.0 + u64::from(self.shares[place]), sum.1 + self.votes(place));
        }
        let mut best: Option<Shift> = None;
        for (tier, sum) in &sums {
            let of_tier = |places: &[usize]| -> Vec<usize> {
                places.iter().copied().filter(|&place| self.wish(place) == *tier).collect()
            };
            let (mut from, mut to) = (of_tier(&sources), of_tier(&targets));
            from.sort_by_cached_key(|&place| (-self.fullness(place, self.shares[place], *sum), place));
            to.sort_by_cached_key(|&place| (self.fullness(place, self.shares[place] + 1, *sum), place));
            for &source in &from {
                for &target in to.iter().filter(|&&target| target != source) {
                    let single = self.fullness(source, self.shares[source], *sum)
                        - self.fullness(target, self.shares[target] + 1, *sum);
                    // Those that come are no emptier, and more replicas at once gain less each.
                    if single <= self.cost || best.is_some_and(|best| best.gain >= single) {
                        break;
                    }
                    let Some(replicas) = self.block(source, target, most) else { continue };
                    let gain = self.gain(source, target, replicas, *sum);
                    if gain > self.cost * i128::from(replicas) {
                        let shift = Shift { gain: gain / i128::from(replicas), from: source, to: target, replicas };
                        best = best.into_iter().chain([shift]).max_by_key(|shift| (shift.gain, -(shift.from as i128)));
                        break;
                    }
                }
            }
        }
        best
    }

    /// By which a cluster's part is measured.
    fn votes(&self, place: usize) -> u64 {
        let slot = &self.task.slots[place];
        match self.task.division {
            Division::Weighted => slot.weight.into(),
            _ => slot.high().into(),
        }
    }

    /// How full a cluster is with so many, of its part.
    fn fullness(&self, place: usize, share: u32, (total, votes): (u64, u64)) -> i128 {
        let own = i128::from(self.votes(place)) * i128::from(total);
        match own {
            0 if share == 0 => 0,
            0 => FAR,
            own => (i128::from(share) * i128::from(votes) * 100 * SCALE / own).min(FAR),
        }
    }

    fn gain(&self, from: usize, to: usize, replicas: u32, sum: (u64, u64)) -> i128 {
        let left = (0..replicas).map(|gone| self.fullness(from, self.shares[from] - gone, sum));
        let come = (1..=replicas).map(|more| self.fullness(to, self.shares[to] + more, sum));
        left.sum::<i128>() - come.sum::<i128>()
    }

    /// From the cluster with the fewest to those with the most, if they can take all of it.
    fn gathered(&self, most: u32) -> Option<Shift> {
        let mut holders = self.sources();
        holders.sort_by_key(|&place| (self.shares[place], std::cmp::Reverse(place)));
        for &from in &holders {
            let share = self.shares[from];
            let others = holders.iter().rev().copied().filter(|&to| to != from && self.wish(to) == self.wish(from));
            let takers: Vec<usize> = others.filter(|&to| self.free(to) > 0).collect();
            let room: u64 = takers.iter().map(|&to| u64::from(self.free(to))).sum();
            if 100 * SCALE <= self.cost * i128::from(share) || room < u64::from(share) || !self.can_empty(from, &takers)
            {
                continue;
            }
            let Some(to) = takers.into_iter().next() else { continue };
            let replicas = share.min(self.free(to)).min(most);
            if self.holds(from, to, replicas) {
                return Some(Shift { gain: 100 * SCALE / i128::from(share), from, to, replicas });
            }
        }
        None
    }

    /// Whether the constraints hold without it.
    fn can_empty(&self, from: usize, takers: &[usize]) -> bool {
        let mut shares = self.shares.to_vec();
        let mut left = std::mem::take(&mut shares[from]);
        for &to in takers {
            let part = left.min(self.free(to));
            shares[to] += part;
            left -= part;
        }
        left == 0 && self.hold(&shares)
    }

    /// How many go at once: one, or what a minimum asks for at either end; absent where none may.
    fn block(&self, from: usize, to: usize, most: u32) -> Option<u32> {
        let few = self.task.slots[to].min.saturating_sub(self.shares[to]).max(1);
        let fits = |&replicas: &u32| {
            replicas <= most
                && replicas <= self.shares[from]
                && replicas <= self.free(to)
                && self.holds(from, to, replicas)
        };
        [few, self.shares[from].max(few)].into_iter().find(fits)
    }

    fn holds(&self, from: usize, to: usize, replicas: u32) -> bool {
        let mut shares = self.shares.to_vec();
        shares[from] -= replicas;
        shares[to] += replicas;
        let enough = |place: usize| shares[place] == 0 || shares[place] >= self.task.slots[place].min;
        enough(from) && enough(to) && self.hold(&shares)
    }

    fn hold(&self, shares: &[u32]) -> bool {
        self.task.counts.iter().all(|count: &Count| keeps(count, self.task, shares, |_| false))
    }
}

#[cfg(test)]
mod tests;
