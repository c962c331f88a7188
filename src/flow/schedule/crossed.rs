//! Crossed: sets of clusters for several constraints that each bound a skew.
//!
//! For every constraint a level is tried, the least that a group of it has, and with the levels of all the replicas of each
//! cell are found together ([`super::cells`]). Sets are looked at in the order of what they could come to at best, so that most
//! need no look. Up to [`super::spread::EXHAUSTIVE_MAX`] clusters every set is among them. Beyond, sets are those of the
//! roomiest groups of each constraint, of every number of groups: best effort, and its "no" may be wrong. What comes of it
//! is looked at like any answer, so its "yes" never is.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cells::{Bound, Bounds, Cell, fill},
    integer::share_out,
    spread::{Choice, Fit, LEVELS_MAX, Search, halves},
};

/// Levels of all constraints that are tried together, the most even ones first.
const COMBINATIONS_MAX: usize = 256;
/// Sets of groups beyond which not every number of groups is tried.
const NUMBERS_MAX: usize = 512;
/// Sets whose replicas are found, in the order of what they could come to.
const SETS_MAX: usize = 2_000;
/// Clusters × sets, and clusters × levels of a set, are bounded beside that: where there are thousands of clusters, fewer
/// are tried.
const WORK_MAX: usize = 300_000;
const TRIES_MIN: usize = 16;

/// A constraint with a skew, and the levels that it leaves open.
struct Skew {
    /// `None`: every cluster is a group.
    by: Option<usize>,
    most: u64,
    levels: Vec<u64>,
}

impl Search<'_> {
    /// Whether more than one constraint bounds a skew.
    pub fn is_crossed(&self) -> bool {
        self.skew.iter().count() + self.counts.iter().filter(|count| count.skew.is_some()).count() > 1
    }

    fn tries(&self, most: usize) -> usize {
        (WORK_MAX / self.units.len().max(1)).clamp(TRIES_MIN, most)
    }

    pub fn best_crossed(&self, sets: impl Iterator<Item = Vec<usize>>) -> Option<Fit> {
        let mut drafts: Vec<_> = sets.filter_map(|set| self.draft(set)).map(|fit| (self.badness(&fit), fit)).collect();
        drafts.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut best: Option<Fit> = None;
        for (at_best, draft) in drafts.into_iter().take(self.tries(SETS_MAX)) {
            if best.as_ref().is_some_and(|best| self.badness(best) <= at_best) {
                break;
            }
            let fit = self.even_out(draft);
            best = best.into_iter().chain(fit).min_by_key(|fit| self.badness(fit));
        }
        best
    }

    /// Replicas of a set such that all skews hold.
    pub fn even_out(&self, draft: Fit) -> Option<Fit> {
        let skews = self.skews(&draft)?;
        let targets = self.targets(&draft);
        let mut combinations: Vec<Vec<usize>> = vec![Vec::new()];
        for skew in &skews {
            let longer = |short: Vec<usize>| (0..skew.levels.len()).map(move |next| [&short[..], &[next]].concat());
            combinations = combinations.into_iter().flat_map(longer).collect();
            combinations.sort_by_key(|combination| combination.iter().sum::<usize>());
            combinations.truncate(self.tries(COMBINATIONS_MAX));
        }
        let levels = |combination: Vec<usize>| -> Vec<u64> {
            combination.into_iter().zip(&skews).map(|(place, skew)| skew.levels[place]).collect()
        };
        let mut best: Option<Fit> = None;
        for combination in combinations {
            if best.as_ref().is_some_and(|best| best.kept >= draft.kept) {
                break;
            }
            let fit = self.at(&draft, &targets, &skews, &levels(combination));
            // The first of the best: it is the most even one.
            best = match (best, fit) {
                (Some(best), Some(fit)) if fit.kept <= best.kept => Some(best),
                (best, fit) => fit.or(best),
            };
        }
        best
    }

    /// `None` where one of them alone cannot hold.
    fn skews(&self, draft: &Fit) -> Option<Vec<Skew>> {
        let of_groups = self.counts.iter().enumerate().filter_map(|(by, count)| Some((Some(by), count.skew?)));
        let all = self.skew.map(|skew| (None, skew)).into_iter().chain(of_groups);
        let skew = |(by, most): (Option<usize>, u32)| {
            let mut groups: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
            for (&unit, &low) in draft.set.iter().zip(&draft.low) {
                let of = &self.units[unit];
                let group = groups.entry(by.map_or(unit as u32, |by| of.groups[by])).or_default();
                *group = (group.0 + u64::from(low), group.1 + of.high);
            }
            let (wanted, count, most) = (self.wanted(), groups.len() as u64, u64::from(most));
            let bottom = wanted.div_ceil(count).saturating_sub(most);
            let holds = |level: &u64| {
                let within = |&(low, high): &(u64, u64)| (low.max(*level), high.min(level + most));
                let sums = groups
                    .values()
                    .map(within)
                    .try_fold((0, 0), |(lows, highs), (low, high)| (low <= high).then_some((lows + low, highs + high)));
                sums.is_some_and(|(lows, highs)| lows <= wanted && wanted <= highs)
            };
            let levels: Vec<u64> = (bottom..=wanted / count).rev().filter(holds).take(LEVELS_MAX).collect();
            (!levels.is_empty()).then_some(Skew { by, most, levels })
        };
        all.map(skew).collect()
    }

    /// What the division would give each slot without the skews.
    fn targets(&self, draft: &Fit) -> Vec<u32> {
        let mut choice = Choice::all(self.task.slots.len());
        choice.chosen.fill(false);
        for (&unit, &low) in draft.set.iter().zip(&draft.low) {
            for &slot in &self.units[unit].slots {
                (choice.chosen[slot], choice.low[slot]) = (true, low);
            }
        }
        share_out(self.task, &choice)
    }

    fn at(&self, draft: &Fit, targets: &[u32], skews: &[Skew], levels: &[u64]) -> Option<Fit> {
        let (mut low, mut high) = (draft.low.clone(), draft.high.clone());
        let mut bounds: Vec<(usize, Bounds)> = Vec::new();
        for (skew, &level) in skews.iter().zip(levels) {
            match skew.by {
                None => {
                    low.iter_mut().for_each(|low| *low = (*low).max(level as u32));
                    high.fill(u32::try_from(level + skew.most).unwrap_or(u32::MAX));
                }
                Some(by) => {
                    let groups = draft.set.iter().map(|&unit| self.units[unit].groups[by]);
                    bounds.push((by, groups.map(|group| (group, (level, level + skew.most))).collect()));
                }
            }
        }
        let mut numbers: BTreeMap<&[u32], u32> = BTreeMap::new();
        let mut cells: Vec<Cell> = Vec::new();
        // By cell: what is there, and what lower bounds ask for beyond that.
        let mut there: Vec<(u64, u64)> = Vec::new();
        let mut of = Vec::new();
        for (place, &unit) in draft.set.iter().enumerate() {
            let known = &self.units[unit];
            let (low, high) = (u64::from(low[place]), known.high.min(high[place].into()));
            if low > high {
                return None;
            }
            let number = *numbers.entry(&known.groups).or_insert(cells.len() as u32);
            if number as usize == cells.len() {
                cells.push(Cell { groups: known.groups.clone(), ..Cell::default() });
                there.push((0, 0));
            }
            let (cell, there) = (&mut cells[number as usize], &mut there[number as usize]);
            cell.low += low;
            cell.high += high;
            cell.keeps += known.kept.clamp(low, high);
            cell.target += known.slots.iter().map(|&slot| u64::from(targets[slot])).sum::<u64>();
            *there = (there.0 + known.kept.min(high), there.1 + low.saturating_sub(known.kept));
            of.push(number);
        }
        let bounds: Vec<Bound<'_>> = bounds.iter().map(|(number, groups)| Bound { number: *number, groups }).collect();
        let shares = fill(&cells, &bounds, (self.wanted(), self.wanted()))?;
        let kept =
            shares.iter().zip(&there).map(|(share, (has, asked))| (*has).min(share.saturating_sub(*asked))).sum();
        let bounds = shares.into_iter().zip(0..).map(|(share, cell)| (cell, (share, share))).collect();
        Some(Fit { set: draft.set.clone(), kept, low, high, levels: Some((of, bounds)) })
    }

    /// Sets of units in an order, from so many of the best groups of every constraint.
    pub fn narrowed(&self, order: &[usize], (low, high): (usize, usize)) -> Vec<Vec<usize>> {
        let sizes = match low == 1 && self.skew.is_none() {
            true => vec![high],
            false => halves(low, high),
        };
        let numbers = |count: usize| {
            let groups: BTreeSet<u32> = self.units.iter().map(|unit| unit.groups[count]).collect();
            let of = self.counts[count];
            let most = groups.len().min(of.max as usize);
            match of.skew {
                Some(_) => (self.at_least(of.min as usize).max(1)..=most).rev().collect::<Vec<_>>(),
                None => vec![most],
            }
        };
        let mut numbers: Vec<Vec<usize>> = (0..self.counts.len()).map(numbers).collect();
        let numbers_max = self.tries(NUMBERS_MAX);
        if numbers.iter().map(Vec::len).fold(1, usize::saturating_mul) > numbers_max {
            for of in &mut numbers {
                *of = of.first().zip(of.last()).map(|(&most, &least)| halves(least, most)).unwrap_or_default();
            }
        }
        let mut combinations: Vec<Vec<usize>> = vec![Vec::new()];
        for of in &numbers {
            let longer = |short: Vec<usize>| of.iter().map(move |&next| [&short[..], &[next]].concat());
            combinations = combinations.into_iter().flat_map(longer).take(numbers_max).collect();
        }
        let set = |(combination, &size): (&Vec<usize>, &usize)| {
            let best = |(count, &number): (usize, &usize)| self.best_groups(count, order, size, number);
            self.build_within(order, size, &combination.iter().enumerate().map(best).collect::<Vec<_>>())
        };
        combinations.iter().flat_map(|combination| sizes.iter().map(move |size| (combination, size))).map(set).collect()
    }
}
