//! Spread: which clusters a divided component may use, so that its spread constraints and minimums can be kept.
//!
//! Owns: the choice of clusters. What is chosen is a set of *units*: the groups of the one constraint, or single clusters
//! where there are several constraints, a bound on clusters, or a minimum per cluster. Of the sets that can hold all
//! replicas the one that moves fewest is taken.
//!
//! Up to [`EXHAUSTIVE_MAX`] units every set is looked at, so the choice is exact, and so is its "no". Beyond, sets are built
//! greedily in two orders (what runs first, most room first) and for every size, then bettered by swaps. For a single
//! constraint the order by room makes the "no" exact still: of all sets of one size the roomiest can hold whatever any
//! other can, for each level of the skew. The search is polynomial and has no luck in it. Several constraints with a skew
//! are [`super::crossed`]'s.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    cells::Bounds,
    integer::{Count, Slot, Task},
};
use crate::model::application::Division;

/// Units of which every set is looked at.
pub const EXHAUSTIVE_MAX: usize = 10;
/// Levels of one skew that are tried, the most even ones first.
pub const LEVELS_MAX: usize = 64;
/// Sizes are tried one by one as long as sizes × units stay below.
const WORK_MAX: usize = 100_000;
/// Swaps tried to move less.
const SWAPS_MAX: usize = 500;

/// Which slots may be used, and between which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub chosen: Vec<bool>,
    /// By slot: so many at least, and at most.
    pub low: Vec<u32>,
    pub high: Vec<u32>,
    pub groups: Groups,
}

/// Bounds by group of one constraint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// By slot; all zero where no constraint bounds groups.
    pub of: Vec<u32>,
    /// A group that is not here is not bound.
    pub bounds: Bounds,
}

/// What is chosen or not as a whole.
pub struct Unit {
    pub slots: Vec<usize>,
    /// Holds at most.
    pub high: u64,
    /// Holds at least, where it is chosen.
    low: u32,
    pub kept: u64,
    /// Keeps what it has, whatever is chosen.
    pub must: bool,
    /// Its groups, by constraint.
    pub groups: Vec<u32>,
    rank: usize,
}

pub struct Search<'t> {
    pub task: &'t Task<'t>,
    pub units: Vec<Unit>,
    /// Bounds of the number of units.
    pub size: (usize, usize),
    /// Constraints on groups of units.
    pub counts: Vec<&'t Count>,
    /// Of the units: the groups of the only constraint, which is then told by this and `size` alone, or single clusters.
    pub skew: Option<u32>,
}

/// A set that can hold all replicas.
pub struct Fit {
    pub set: Vec<usize>,
    /// Replicas that need not move.
    pub kept: u64,
    /// By place in `set`: at least, at most.
    pub low: Vec<u32>,
    pub high: Vec<u32>,
    /// By place in `set` its group, and group → bounds.
    pub levels: Option<(Vec<u32>, Bounds)>,
}

/// `None` where no set of clusters can hold all replicas.
pub fn choose(task: &Task<'_>) -> Option<Choice> {
    let search = Search::new(task);
    let fit = match search.units.len() {
        0..=EXHAUSTIVE_MAX => search.every_set(),
        _ => search.greedy(),
    }?;
    Some(search.choice(&fit))
}

impl<'t> Search<'t> {
    fn new(task: &'t Task<'t>) -> Self {
        let usable: Vec<usize> = (0..task.slots.len()).filter(|&slot| task.slots[slot].high() > 0).collect();
        let ranks: BTreeSet<_> = usable.iter().map(|&slot| task.slots[slot].tier).collect();
        let ranks: BTreeMap<_, usize> = ranks.into_iter().zip(0..).collect();
        let unit = |slots: Vec<usize>, groups: Vec<u32>| {
            let of = |slot: usize| &task.slots[slot];
            Unit {
                high: slots.iter().map(|&slot| u64::from(of(slot).high())).sum(),
                low: slots.iter().map(|&slot| of(slot).min).max().unwrap_or(0),
                kept: slots.iter().map(|&slot| u64::from(of(slot).stays)).sum(),
                must: slots.iter().any(|&slot| of(slot).pinned && of(slot).stays > 0),
                rank: slots.iter().map(|&slot| ranks[&of(slot).tier]).min().unwrap_or(0),
                slots,
                groups,
            }
        };
        let minimums = usable.iter().any(|&slot| task.slots[slot].min > 0);
        let (own, others): (Vec<&Count>, Vec<&Count>) = task.counts.iter().partition(|count| count.of.is_empty());
        let size =
            |count: Option<&&Count>| count.map_or((0, usize::MAX), |count| (count.min as usize, count.max as usize));
        if let ([count], [], false) = (&others[..], &own[..], minimums) {
            let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            usable.iter().for_each(|&slot| groups.entry(count.of[slot]).or_default().push(slot));
            let units = groups.into_values().map(|slots| unit(slots, Vec::new())).collect();
            return Self { task, units, size: size(Some(count)), counts: Vec::new(), skew: count.skew };
        }
        let groups = |slot: usize| others.iter().map(|count| count.of[slot]).collect();
        let units = usable.iter().map(|&slot| unit(vec![slot], groups(slot))).collect();
        let skew = own.first().and_then(|count| count.skew);
        Self { task, units, size: size(own.first()), counts: others, skew }
    }

    pub fn wanted(&self) -> u64 {
        self.task.wanted.into()
    }

    /// No more groups can be used than there are replicas.
    pub fn at_least(&self, min: usize) -> usize {
        min.min(self.task.wanted as usize)
    }

    fn every_set(&self) -> Option<Fit> {
        let sets = 1u32..1 << self.units.len();
        let members = |set: u32| (0..self.units.len()).filter(|&unit| set & (1 << unit) != 0).collect::<Vec<_>>();
        self.best(sets.map(members))
    }

    fn best(&self, sets: impl Iterator<Item = Vec<usize>>) -> Option<Fit> {
        match self.is_crossed() {
            true => self.best_crossed(sets),
            false => sets.filter_map(|set| self.fit(set)).min_by_key(|fit| self.badness(fit)),
        }
    }

    /// The smaller, the better: few moves, then as wide as may be (or as narrow, where replicas are aggregated), then the
    /// policy's order, then room, then names.
    pub fn badness(&self, fit: &Fit) -> (Reverse<u64>, usize, usize, Reverse<u64>, Vec<usize>) {
        let size = match self.task.division {
            Division::Aggregated => fit.set.len(),
            Division::FreeCapacity | Division::Weighted => usize::MAX - fit.set.len(),
        };
        let rank = fit.set.iter().map(|&unit| self.units[unit].rank).sum();
        let high = fit.set.iter().map(|&unit| self.units[unit].high).sum();
        (Reverse(fit.kept), size, rank, Reverse(high), fit.set.clone())
    }

    fn greedy(&self) -> Option<Fit> {
        let units = self.units.len();
        let (low, high) = (self.at_least(self.size.0).max(1), self.size.1.min(units));
        if low > high {
            return None;
        }
        let sizes: Vec<usize> = match (high - low).saturating_mul(units) <= WORK_MAX {
            true => (low..=high).rev().collect(),
            false => halves(low, high),
        };
        let by_habit = |&unit: &usize| {
            let of = &self.units[unit];
            (!of.must, Reverse(of.kept), of.rank, Reverse(of.high), unit)
        };
        let by_room = |&unit: &usize| (!self.units[unit].must, Reverse(self.units[unit].high), unit);
        let (mut habit, mut room): (Vec<usize>, Vec<usize>) = ((0..units).collect(), (0..units).collect());
        habit.sort_by_key(by_habit);
        room.sort_by_key(by_room);
        if self.is_crossed() {
            let sets = [&habit, &room].into_iter().flat_map(|order| self.narrowed(order, (low, high)));
            return self.best(sets.collect::<BTreeSet<_>>().into_iter());
        }
        let sets = sizes.into_iter().flat_map(|size| [self.build(&habit, size), self.build(&room, size)]);
        self.best(sets).map(|fit| self.swap(fit, &habit))
    }

    /// So many units in an order, as far as the constraints on groups let them: first one of each group that is needed,
    /// then the rest.
    fn build(&self, order: &[usize], size: usize) -> Vec<usize> {
        // A constraint on few groups takes those that hold most with as many units as there may be.
        let best = |count: usize| self.best_groups(count, order, size, self.counts[count].max as usize);
        self.build_within(order, size, &(0..self.counts.len()).map(best).collect::<Vec<_>>())
    }

    /// By constraint the groups that may be used, where not all may.
    pub fn build_within(&self, order: &[usize], size: usize, allowed: &[Option<BTreeSet<u32>>]) -> Vec<usize> {
        let mut set = BTreeSet::new();
        let mut used: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); self.counts.len()];
        let may = |unit: usize| {
            let groups = self.units[unit].groups.iter().zip(allowed);
            groups.into_iter().all(|(group, allowed)| allowed.as_ref().is_none_or(|allowed| allowed.contains(group)))
        };
        for first in [true, false] {
            for &unit in order.iter().filter(|&&unit| may(unit)) {
                let groups = &self.units[unit].groups;
                let opens = (0..groups.len()).any(|count| {
                    !used[count].contains(&groups[count]) && used[count].len() < self.counts[count].min as usize
                });
                if set.len() < size && (opens || !first || self.units[unit].must) && set.insert(unit) {
                    enter(&mut used, groups);
                }
            }
        }
        set.into_iter().collect()
    }

    /// So many groups of a constraint: those of which the first units in the order hold most.
    pub fn best_groups(&self, count: usize, order: &[usize], size: usize, max: usize) -> Option<BTreeSet<u32>> {
        let mut groups: BTreeMap<u32, (bool, u64, usize)> = BTreeMap::new();
        for (place, &unit) in order.iter().enumerate() {
            let of = &self.units[unit];
            let (must, high, units) = groups.entry(of.groups[count]).or_insert((false, 0, 0));
            *must |= of.must;
            // What comes late in the order counts only while the set is not full without it.
            if *units < size && (place < size || *units < size.div_ceil(max.max(1))) {
                *high += of.high;
                *units += 1;
            }
        }
        if groups.len() <= max {
            return None;
        }
        let mut ranked: Vec<_> = groups.into_iter().collect();
        ranked.sort_by_key(|&(group, (must, high, _))| (!must, Reverse(high), group));
        Some(ranked.into_iter().take(max).map(|(group, _)| group).collect())
    }

    /// Brings back what runs, one unit for another, as long as the set still holds all.
    fn swap(&self, mut fit: Fit, habit: &[usize]) -> Fit {
        let mut tries = 0;
        for &unit in habit.iter().filter(|&&unit| self.units[unit].kept > 0) {
            let mut members = fit.set.clone();
            members.sort_by_key(|&member| (self.units[member].kept, self.units[member].high, member));
            for member in members {
                if fit.set.contains(&unit) || tries == SWAPS_MAX || self.units[member].kept >= self.units[unit].kept {
                    break;
                }
                tries += 1;
                let mut set: Vec<usize> = fit.set.iter().copied().filter(|&known| known != member).collect();
                set.push(unit);
                set.sort_unstable();
                if let Some(better) = self.fit(set).filter(|better| better.kept > fit.kept) {
                    fit = better;
                }
            }
        }
        fit
    }

    /// Whether a set keeps every constraint, and with which bounds.
    fn fit(&self, set: Vec<usize>) -> Option<Fit> {
        let draft = self.draft(set)?;
        match (self.skew, self.counts.iter().position(|count| count.skew.is_some())) {
            _ if self.is_crossed() => self.even_out(draft),
            (Some(skew), _) => self.even(draft, None, skew),
            (None, Some(count)) => self.even(draft, Some(count), self.counts[count].skew?),
            (None, None) => Some(draft),
        }
    }

    /// Whether a set keeps every constraint but for the skews.
    pub fn draft(&self, set: Vec<usize>) -> Option<Fit> {
        let of = |&unit: &usize| &self.units[unit];
        let musts = self.units.iter().filter(|unit| unit.must).count();
        if set.len() > self.size.1
            || set.len() < self.at_least(self.size.0)
            || set.iter().map(of).filter(|unit| unit.must).count() < musts
            || set.iter().map(of).map(|unit| unit.high).sum::<u64>() < self.wanted()
        {
            return None;
        }
        let low = self.seeds(&set)?;
        let lows: u64 = low.iter().map(|&low| u64::from(low)).sum();
        if lows > self.wanted() {
            return None;
        }
        let parts = set.iter().map(of).zip(&low).map(|(unit, &low)| (low.into(), u64::MAX, unit.kept));
        let kept = self.staying(parts);
        Some(Fit { high: vec![u32::MAX; set.len()], set, kept, low, levels: None })
    }

    /// With the groups of one constraint, or the units themselves, within its skew.
    pub fn even(&self, draft: Fit, by: Option<usize>, skew: u32) -> Option<Fit> {
        let group = |&unit: &usize| by.map_or(unit as u32, |count| self.units[unit].groups[count]);
        let of: Vec<u32> = draft.set.iter().map(group).collect();
        let mut groups: BTreeMap<u32, (u64, u64, u64)> = BTreeMap::new();
        for ((unit, low), group) in draft.set.iter().zip(&draft.low).zip(&of) {
            let unit = &self.units[*unit];
            let group = groups.entry(*group).or_default();
            *group = (group.0 + u64::from(*low), group.1 + unit.high, group.2 + unit.kept);
        }
        let (kept, bounds) = self.level(&groups, skew.into())?;
        Some(Fit { kept, levels: Some((of, bounds)), ..draft })
    }

    /// The smallest share of a group, such that no group has more than that and the skew: of the levels at which all
    /// replicas can be held the one that moves fewest, of these the most even one.
    fn level(&self, groups: &BTreeMap<u32, (u64, u64, u64)>, skew: u64) -> Option<(u64, Bounds)> {
        let (wanted, count) = (self.wanted(), groups.len() as u64);
        let (top, bottom) = (wanted / count, wanted.div_ceil(count).saturating_sub(skew));
        let levels = (bottom..=top).rev().take(LEVELS_MAX).chain([bottom]);
        let bounds_at = |level: u64| {
            let bounds =
                groups.iter().map(|(&group, &(low, high, _))| (group, (low.max(level), high.min(level + skew))));
            let bounds: Bounds = bounds.collect();
            let (low, high) = bounds.values().fold((0, 0), |(lows, highs), (low, high)| (lows + low, highs + high));
            let holds = bounds.values().all(|(low, high)| low <= high) && low <= wanted && wanted <= high;
            let parts = groups.iter().map(|(group, &(.., kept))| (bounds[group].0, bounds[group].1, kept));
            let kept = self.staying(parts);
            holds.then_some((kept, bounds))
        };
        // The first of the best: `max_by_key` would take the last.
        levels.filter_map(bounds_at).reduce(|best, next| if next.0 > best.0 { next } else { best })
    }

    /// How many replicas need not move, given bounds and what is kept: no more than the bounds and the others' lower bounds
    /// leave.
    fn staying(&self, parts: impl Iterator<Item = (u64, u64, u64)>) -> u64 {
        let (kept, needed) = parts
            .fold((0, 0), |(kept, needed), (low, high, has)| (kept + has.min(high), needed + low.saturating_sub(has)));
        kept.min(self.wanted().saturating_sub(needed))
    }

    /// Lower bounds of a set's units: their own, and one replica where a constraint needs another group.
    fn seeds(&self, set: &[usize]) -> Option<Vec<u32>> {
        let mut low: Vec<u32> = set.iter().map(|&unit| self.units[unit].low).collect();
        let mut used: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); self.counts.len()];
        let mut all = used.clone();
        let mut order: Vec<usize> = (0..set.len()).collect();
        order.sort_by_key(|&place| {
            let unit = &self.units[set[place]];
            (low[place] == 0, Reverse(unit.kept), unit.rank, Reverse(unit.high), place)
        });
        let mut seeded = 0;
        for place in order {
            let groups = &self.units[set[place]].groups;
            let opens = (0..groups.len()).any(|count| {
                let min = self.at_least(self.counts[count].min as usize);
                !used[count].contains(&groups[count]) && used[count].len() < min
            });
            if opens || seeded < self.at_least(self.size.0) {
                low[place] = low[place].max(1);
            }
            if low[place] > 0 {
                seeded += 1;
                enter(&mut used, groups);
            }
            enter(&mut all, groups);
        }
        let holds = self.counts.iter().zip(used.iter().zip(&all)).all(|(count, (used, all))| {
            used.len() >= self.at_least(count.min as usize) && all.len() <= count.max as usize
        });
        holds.then_some(low)
    }

    fn choice(&self, fit: &Fit) -> Choice {
        let mut choice = Choice::all(self.task.slots.len());
        choice.chosen.fill(false);
        let mut of = vec![u32::MAX; self.task.slots.len()];
        let mut bounds = BTreeMap::new();
        for (place, &unit) in fit.set.iter().enumerate() {
            let low = fit.low[place];
            let group = fit.levels.as_ref().map_or(unit as u32, |(groups, _)| groups[place]);
            let slots = &self.units[unit].slots;
            for &slot in slots {
                choice.chosen[slot] = true;
                choice.high[slot] = fit.high[place];
                of[slot] = group;
            }
            match slots[..] {
                [slot] => choice.low[slot] = low,
                // A group's one replica may be in any of its clusters.
                _ if low > 0 => drop(bounds.insert(group, (low.into(), u64::MAX))),
                _ => {}
            }
        }
        if let Some((_, levels)) = &fit.levels {
            bounds = levels.clone();
        }
        if !bounds.is_empty() {
            choice.groups = Groups { of, bounds };
        }
        choice
    }
}

impl Choice {
    /// Every slot, unbound.
    pub fn all(slots: usize) -> Self {
        Self { chosen: vec![true; slots], low: vec![0; slots], high: vec![u32::MAX; slots], groups: Groups::default() }
    }
}

/// Sizes from the largest down, each half of the one before.
pub fn halves(low: usize, high: usize) -> Vec<usize> {
    std::iter::successors(Some(high), |size| (*size > low).then(|| (size / 2).max(low))).collect()
}

/// Notes a unit's groups as used.
fn enter(used: &mut [BTreeSet<u32>], groups: &[u32]) {
    for (used, &group) in used.iter_mut().zip(groups) {
        used.insert(group);
    }
}

impl Slot {
    /// Holds at most.
    pub fn high(&self) -> u32 {
        self.stays.saturating_add(self.room)
    }
}
