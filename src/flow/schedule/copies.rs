//! Copies: which clusters get one of what every cluster gets in full, so that spread constraints hold.
//!
//! What runs stays where it may; then as many clusters get a copy as the constraints allow. Up to [`EXHAUSTIVE_MAX`] clusters
//! every set is looked at. Beyond, the clusters of one cell are alike, and how many copies each cell gets is found as for
//! replicas ([`super::cells`]), for every number of groups and every level of a skew: exact for one constraint on groups,
//! beside bounds on clusters. Of several the sets of groups are tried in the order of what they could come to: "no" may be
//! said where there is an answer, and fewer copies than there could be; "yes" is looked at again.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    cells::{Bound, Bounds, Cell, fill},
    integer::Count,
    spread::{EXHAUSTIVE_MAX, LEVELS_MAX},
};

/// Groups of which every set is looked at, where several constraints are on groups.
const GROUPS_MAX: usize = 5;
/// Ways to choose groups of several constraints, the best at best first.
const WAYS_MAX: usize = 4_096;
/// Numbers of copies that are tried one by one.
const NUMBERS_MAX: u64 = 16;
/// How often copies are shared out, in one choice.
const FILLS_MAX: usize = 2_000;
/// Clusters × ways that are looked at, in one choice of several constraints on groups.
const WORK_MAX: usize = 1_000_000;
/// Ways that are looked at however many clusters there are.
const TRIES_MIN: usize = 32;

/// A cluster that has a copy or could take one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copy {
    /// Has one that may stay.
    pub stays: bool,
    /// Keeps it, whatever is chosen.
    pub pinned: bool,
    /// In the order of preference.
    pub rank: usize,
}

/// Groups of one constraint, and how many copies each of them may have.
#[derive(Debug, Clone)]
struct Way {
    groups: Bounds,
    /// No more than so many stay, and are there in all.
    at_best: (u64, u64),
}

/// By cluster whether it gets one; `None` where no choice keeps the constraints.
pub fn choose(copies: &[Copy], counts: &[Count]) -> Option<Vec<bool>> {
    match copies.len() {
        0..=EXHAUSTIVE_MAX => of_every_set(copies, counts),
        _ => of_groups(copies, counts),
    }
}

/// Whether a choice keeps a constraint. Groups without a copy do not count for the skew.
pub fn keeps(count: &Count, chosen: &[bool]) -> bool {
    let mut groups: BTreeMap<u32, u32> = BTreeMap::new();
    for place in (0..chosen.len()).filter(|&place| chosen[place]) {
        *groups.entry(count.of.get(place).copied().unwrap_or(place as u32)).or_default() += 1;
    }
    let skew = groups.values().max().zip(groups.values().min()).map_or(0, |(most, least)| most - least);
    (count.min as usize..=count.max as usize).contains(&groups.len()) && count.skew.is_none_or(|most| skew <= most)
}

fn is_choice(copies: &[Copy], counts: &[Count], chosen: &[bool]) -> bool {
    copies.iter().zip(chosen).all(|(copy, chosen)| *chosen || !copy.pinned)
        && counts.iter().all(|count| keeps(count, chosen))
}

/// The smaller, the better: many stay, many are there, early in the policy's order, then names.
fn badness(copies: &[Copy], chosen: &[bool]) -> (Reverse<usize>, Reverse<usize>, usize, Vec<Reverse<bool>>) {
    let of = || copies.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(copy, _)| copy);
    let stays = of().filter(|copy| copy.stays).count();
    let rank = of().map(|copy| copy.rank).sum();
    (Reverse(stays), Reverse(of().count()), rank, chosen.iter().map(|&chosen| Reverse(chosen)).collect())
}

fn of_every_set(copies: &[Copy], counts: &[Count]) -> Option<Vec<bool>> {
    let sets = 1u32..1 << copies.len();
    let choices = sets.map(|set| (0..copies.len()).map(|place| set & (1 << place) != 0).collect::<Vec<_>>());
    choices.filter(|chosen| is_choice(copies, counts, chosen)).min_by_key(|chosen| badness(copies, chosen))
}

fn of_groups(copies: &[Copy], counts: &[Count]) -> Option<Vec<bool>> {
    let (by_cluster, by_group): (Vec<&Count>, Vec<&Count>) = counts.iter().partition(|count| count.of.is_empty());
    let least = by_cluster.iter().map(|count| u64::from(count.min)).fold(1, u64::max);
    let most = by_cluster.iter().map(|count| u64::from(count.max)).fold(copies.len() as u64, u64::min);
    if least > most {
        return None;
    }
    let search = Search { copies, counts: by_group, least, most, best: None, fills: 0 };
    let chosen = match search.counts.len() {
        0 | 1 => search.of_one(),
        _ => search.of_several(),
    };
    chosen.filter(|chosen| is_choice(copies, counts, chosen))
}

struct Search<'c> {
    copies: &'c [Copy],
    /// Constraints on groups.
    counts: Vec<&'c Count>,
    least: u64,
    most: u64,
    /// With what it comes to: how many stay, and are there in all.
    best: Option<(Vec<bool>, (u64, u64))>,
    fills: usize,
}

impl Search<'_> {
    fn of_one(mut self) -> Option<Vec<bool>> {
        let mut ways: Vec<Way> = match self.counts[..] {
            [count] => ways(self.copies, count),
            _ => vec![Way { groups: Bounds::new(), at_best: (u64::MAX, u64::MAX) }],
        };
        // Stable, so that what is equally good stays in its order.
        ways.sort_by_key(|way| Reverse(way.at_best));
        for way in ways {
            if self.is_best(way.at_best) {
                break;
            }
            let places = self.places(std::slice::from_ref(&way));
            let bounds: Vec<Bound<'_>> = self.counts.iter().map(|_| Bound { number: 0, groups: &way.groups }).collect();
            let numbers = fill(&self.cells(&places), &bounds, (self.least, self.most));
            numbers.into_iter().for_each(|numbers| self.offer(places.values(), &numbers));
        }
        self.best.map(|(chosen, _)| chosen)
    }

    /// Groups of every constraint, then the largest number of copies for which levels are found.
    fn of_several(mut self) -> Option<Vec<bool>> {
        let mut together: Vec<(Vec<Way>, (u64, u64))> = vec![(Vec::new(), (u64::MAX, self.most))];
        for count in &self.counts {
            let ways = ways_without_levels(self.copies, count);
            let longer = |(short, best): (Vec<Way>, (u64, u64))| {
                ways.iter().map(move |way| {
                    let at_best = (best.0.min(way.at_best.0), best.1.min(way.at_best.1));
                    (short.iter().chain([way]).cloned().collect::<Vec<_>>(), at_best)
                })
            };
            together = together.into_iter().flat_map(longer).collect();
            together.sort_by_key(|(_, at_best)| Reverse(*at_best));
            together.truncate(WAYS_MAX);
        }
        let tries = (WORK_MAX / self.copies.len()).max(TRIES_MIN);
        for (ways, at_best) in together.into_iter().take(tries) {
            if self.is_best(at_best) || self.fills >= FILLS_MAX {
                break;
            }
            let places = self.places(&ways);
            let (least, most) = (self.least, self.most.min(places.values().map(|of| of.len() as u64).sum()));
            let cells = self.cells(&places);
            if most < least {
                continue;
            }
            // From the largest number down, in steps that halve where there are many.
            let mut step = ((most - least) / NUMBERS_MAX).max(1).next_power_of_two();
            let (mut number, mut top) = (most, most);
            loop {
                match self.levelled(&cells, number) {
                    Some(numbers) => {
                        self.offer(places.values(), &numbers);
                        if step == 1 {
                            break;
                        }
                        step /= 2;
                        number = (number + step).min(top);
                    }
                    None => {
                        top = number.saturating_sub(1).max(least);
                        if number == least || self.fills >= FILLS_MAX {
                            break;
                        }
                        number = number.saturating_sub(step).max(least);
                    }
                }
            }
        }
        self.best.map(|(chosen, _)| chosen)
    }

    /// So many copies, at some level of every skew.
    fn levelled(&mut self, cells: &[Cell], number: u64) -> Option<Vec<u64>> {
        let mut combinations: Vec<Vec<(u64, u64)>> = vec![Vec::new()];
        for (place, count) in self.counts.iter().enumerate() {
            let mut groups: BTreeMap<u32, u64> = BTreeMap::new();
            cells.iter().for_each(|cell| *groups.entry(cell.groups[place]).or_default() += cell.high);
            let even = number / groups.len().max(1) as u64;
            let levels: Vec<(u64, u64)> = match count.skew.map(u64::from) {
                None => vec![(1, u64::MAX)],
                Some(skew) => {
                    let lowest = number.div_ceil(groups.len().max(1) as u64).saturating_sub(skew).max(1);
                    let holds = |&(low, high): &(u64, u64)| {
                        groups.values().all(|&all| all >= low)
                            && groups.values().map(|&all| all.min(high)).sum::<u64>() >= number
                    };
                    (lowest..=even).rev().map(|low| (low, low + skew)).filter(holds).take(LEVELS_MAX).collect()
                }
            };
            let longer = |short: Vec<(u64, u64)>| levels.iter().map(move |&level| [&short[..], &[level]].concat());
            combinations = combinations.into_iter().flat_map(longer).take(LEVELS_MAX).collect();
        }
        combinations.into_iter().find_map(|levels| {
            self.fills += 1;
            let bounds: Vec<Bounds> = levels
                .iter()
                .enumerate()
                .map(|(place, &level)| cells.iter().map(|cell| (cell.groups[place], level)).collect())
                .collect();
            let bounds: Vec<Bound<'_>> =
                bounds.iter().enumerate().map(|(number, groups)| Bound { number, groups }).collect();
            fill(cells, &bounds, (number, number))
        })
    }

    fn is_best(&self, at_best: (u64, u64)) -> bool {
        self.best.as_ref().is_some_and(|(_, known)| *known >= at_best)
    }

    /// Clusters by cell, of the groups that a way allows.
    fn places(&self, ways: &[Way]) -> BTreeMap<Vec<u32>, Vec<usize>> {
        let allowed = |(count, way): (&&Count, &Way), place: usize| way.groups.contains_key(&count.of[place]);
        let mut places: BTreeMap<Vec<u32>, Vec<usize>> = BTreeMap::new();
        for place in 0..self.copies.len() {
            if self.counts.iter().zip(ways).all(|of| allowed(of, place)) {
                let groups = self.counts.iter().map(|count| count.of[place]).collect();
                places.entry(groups).or_default().push(place);
            }
        }
        places
    }

    fn cells(&self, places: &BTreeMap<Vec<u32>, Vec<usize>>) -> Vec<Cell> {
        let cell = |(groups, places): (&Vec<u32>, &Vec<usize>)| {
            let count =
                |holds: fn(&Copy) -> bool| places.iter().filter(|&&place| holds(&self.copies[place])).count() as u64;
            let low = count(|copy| copy.pinned);
            Cell { groups: groups.clone(), low, high: places.len() as u64, keeps: count(|copy| copy.stays), target: 0 }
        };
        places.iter().map(cell).collect()
    }

    /// So many of each cell: what is pinned first, then what runs, then in the policy's order.
    fn offer<'p>(&mut self, cells: impl Iterator<Item = &'p Vec<usize>>, numbers: &[u64]) {
        let mut chosen = vec![false; self.copies.len()];
        for (places, &number) in cells.zip(numbers) {
            let mut places = places.clone();
            let of = |place: usize| &self.copies[place];
            places.sort_by_key(|&place| (!of(place).pinned, !of(place).stays, of(place).rank, place));
            places.into_iter().take(number as usize).for_each(|place| chosen[place] = true);
        }
        let (Reverse(stays), Reverse(all), ..) = badness(self.copies, &chosen);
        let comes_to = (stays as u64, all as u64);
        let holds = || {
            let pinned = self.copies.iter().zip(&chosen).all(|(copy, chosen)| *chosen || !copy.pinned);
            pinned && self.counts.iter().all(|count| keeps(count, &chosen))
        };
        if self.best.as_ref().is_none_or(|(_, known)| *known < comes_to) && holds() {
            self.best = Some((chosen, comes_to));
        }
    }
}

/// (pinned, that stay, all)
type Sums = (u64, u64, u64);

fn groups_of(copies: &[Copy], count: &Count) -> BTreeMap<u32, Sums> {
    let mut groups: BTreeMap<u32, Sums> = BTreeMap::new();
    for (copy, &group) in copies.iter().zip(&count.of) {
        let (pinned, stays, all) = groups.entry(group).or_default();
        (*pinned, *stays, *all) = (*pinned + u64::from(copy.pinned), *stays + u64::from(copy.stays), *all + 1);
    }
    groups
}

/// How many groups there are to be at least.
fn least_number(count: &Count, groups: &BTreeMap<u32, Sums>) -> usize {
    (count.min as usize).max(groups.values().filter(|(pinned, ..)| *pinned > 0).count()).max(1)
}

/// For each number of groups and each level those of which most stay, best first.
fn ways(copies: &[Copy], count: &Count) -> Vec<Way> {
    let groups = groups_of(copies, count);
    let most = groups.values().map(|&(.., all)| all).max().unwrap_or(0);
    let levels: BTreeSet<u64> = match count.skew {
        None => [1].into(),
        Some(_) if most <= LEVELS_MAX as u64 => (1..=most).collect(),
        Some(skew) => {
            let near = |&(_, stays, all): &Sums| [all, stays.saturating_sub(skew.into()), stays];
            groups.values().flat_map(near).chain([1]).filter(|&level| level > 0).collect()
        }
    };
    let mut ways: Vec<Way> = Vec::new();
    for level in levels.into_iter().rev() {
        let high = count.skew.map_or(u64::MAX, |skew| level + u64::from(skew));
        let mut able: Vec<(u32, Sums)> = groups.iter().map(|(&group, &sums)| (group, sums)).collect();
        able.retain(|&(_, (pinned, _, all))| pinned > 0 || all >= level);
        for by_size in [false, true] {
            able.sort_by_key(|&(group, (pinned, stays, all))| {
                let (stays, all) = (Reverse(stays.min(high)), Reverse(all.min(high)));
                let worth = if by_size { (all, stays) } else { (stays, all) };
                (pinned == 0, worth, group)
            });
            for number in least_number(count, &groups)..=able.len().min(count.max as usize) {
                ways.push(Way::of(able[..number].iter().copied(), (level, high)));
            }
        }
    }
    ways
}

/// All sets of few groups; of many, for each number, those of which most stay, and the largest.
fn ways_without_levels(copies: &[Copy], count: &Count) -> Vec<Way> {
    let groups = groups_of(copies, count);
    let numbers = least_number(count, &groups)..=groups.len().min(count.max as usize);
    let mut all: Vec<(u32, Sums)> = groups.into_iter().collect();
    let within = (1, u64::MAX);
    if all.len() <= GROUPS_MAX {
        let sets = (1u32..1 << all.len()).filter(|set| numbers.contains(&(set.count_ones() as usize)));
        let of = |set: u32| all.iter().enumerate().filter(move |(place, _)| set & (1 << place) != 0);
        return sets.map(|set| Way::of(of(set).map(|(_, &group)| group), within)).collect();
    }
    let mut ways = Vec::new();
    for by_size in [false, true] {
        all.sort_by_key(|&(group, (pinned, stays, all))| {
            let worth = if by_size { (Reverse(all), Reverse(stays)) } else { (Reverse(stays), Reverse(all)) };
            (pinned == 0, worth, group)
        });
        ways.extend(numbers.clone().map(|number| Way::of(all[..number].iter().copied(), within)));
    }
    ways
}

impl Way {
    fn of(groups: impl Iterator<Item = (u32, Sums)> + Clone, (level, high): (u64, u64)) -> Self {
        let stays = groups.clone().map(|(_, (_, stays, _))| stays.min(high)).sum();
        let all = groups.clone().map(|(_, (.., all))| all.min(high)).sum();
        Self { groups: groups.map(|(group, _)| (group, (level, high))).collect(), at_best: (stays, all) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) % u64::from(sides)) as u32
        }

        fn copies(&mut self, clusters: u32) -> Vec<Copy> {
            let mut copy = || {
                let stays = self.roll(3) == 0;
                Copy { stays, pinned: stays && self.roll(6) == 0, rank: 0 }
            };
            (0..clusters).map(|_| copy()).collect()
        }

        fn count(&mut self, of: Vec<u32>) -> Count {
            let (min, skew) = (self.roll(4), (!of.is_empty() && self.roll(2) == 0).then(|| 1 + self.roll(2)));
            let max = if self.roll(2) == 0 { min.max(1) + self.roll(3) } else { u32::MAX };
            Count { of, min, max, skew }
        }

        fn groups(&mut self, clusters: u32, sides: u32) -> Vec<u32> {
            (0..clusters).map(|_| self.roll(sides)).collect()
        }
    }

    /// (that stay, all) of a choice.
    fn worth(copies: &[Copy], chosen: &[bool]) -> (usize, usize) {
        let (Reverse(stays), Reverse(all), ..) = badness(copies, chosen);
        (stays, all)
    }

    /// Cases by what is lost against looking at every set: (that stay, in all), and the wrong refusals.
    fn gaps(cases: u32, clusters: u32, groups: usize) -> (BTreeMap<(usize, i64), u32>, u32, u32) {
        let mut dice = Dice(u64::from(clusters) + groups as u64);
        let (mut gaps, mut refused, mut wrongly) = (BTreeMap::new(), 0, 0);
        for _ in 0..cases {
            let copies = dice.copies(clusters);
            let mut counts: Vec<Count> = (0..groups)
                .map(|_| {
                    let of = dice.groups(clusters, 4);
                    dice.count(of)
                })
                .collect();
            if dice.roll(2) == 0 {
                counts.push(dice.count(Vec::new()));
            }
            match (of_groups(&copies, &counts), of_every_set(&copies, &counts)) {
                (Some(chosen), Some(exact)) => {
                    assert!(is_choice(&copies, &counts, &chosen));
                    let (found, best) = (worth(&copies, &chosen), worth(&copies, &exact));
                    *gaps.entry((best.0 - found.0, best.1 as i64 - found.1 as i64)).or_default() += 1;
                }
                (Some(chosen), None) => panic!("a choice that is none: {chosen:?}"),
                (None, None) => refused += 1,
                (None, Some(_)) => wrongly += 1,
            }
        }
        println!(
            "copies, {clusters} clusters, {groups} constraints on groups: {cases} cases, {refused} refused, {wrongly} more \
             wrongly, gap in what stays and in all {gaps:?}"
        );
        (gaps, refused, wrongly)
    }

    #[test]
    fn one_constraint_on_groups_is_kept_exactly_at_any_size() {
        for (clusters, cases) in [(5, 2_000), (9, 1_000), (12, 100)] {
            let (gaps, refused, wrongly) = gaps(cases, clusters, 1);
            assert_eq!((wrongly, gaps.keys().collect::<Vec<_>>()), (0, vec![&(0, 0)]), "{clusters}");
            assert!(refused > 0);
        }
    }

    #[test]
    fn several_constraints_on_groups_are_kept_mostly() {
        for (clusters, groups, cases) in [(9, 2, 500), (12, 2, 60), (12, 3, 60)] {
            let (gaps, _, wrongly) = gaps(cases, clusters, groups);
            let all: u32 = gaps.values().sum();
            assert!(wrongly * 20 <= cases, "{wrongly} of {cases}");
            assert!(gaps.get(&(0, 0)).copied().unwrap_or(0) * 100 >= all * 90, "{gaps:?}");
        }
    }

    #[test]
    fn ten_thousand_clusters_are_chosen_from() {
        let clusters = 10_000;
        let copies = vec![Copy::default(); clusters as usize];
        let mut dice = Dice(1);
        let (zone, half) = (dice.groups(clusters, 60), dice.groups(clusters, 2));
        let region = zone.iter().map(|zone| zone / 3).collect();
        let count = |of: Vec<u32>, min, max, skew| Count { of, min, max, skew };
        let counts = [count(zone, 3, u32::MAX, Some(5)), count(region, 2, 4, None), count(half, 1, 2, Some(1))];
        let chosen = choose(&copies, &counts).expect("a choice");
        assert!(is_choice(&copies, &counts, &chosen));
    }
}
