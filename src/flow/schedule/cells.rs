//! Cells: clusters that are in the same groups of every spread constraint, and how many replicas each cell gets so that the
//! constraints hold together.
//!
//! Constraints whose groups are nested (zones within regions) are a chain. Two chains, also where they cross (provider and
//! region), are a [`Network`]: what it finds is exact. A constraint that fits neither chain is looked at afterwards: then
//! "no" may be said where there is an answer, never "yes" where there is none.

use std::collections::{BTreeMap, btree_map::Entry};

use super::network::Network;

/// What every cell, group or cluster has to have comes before all else; then what need not move; then what the division
/// would give. A path has far fewer arcs than lie between them.
const DUE: i64 = -(1 << 50);
const KEPT: i64 = -(1 << 25);
const GOOD: i64 = -1;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cell {
    /// By constraint.
    pub groups: Vec<u32>,
    pub low: u64,
    pub high: u64,
    /// With so many all that is there stays.
    pub keeps: u64,
    /// What it would get if groups were not bound.
    pub target: u64,
}

/// Group → at least, at most.
pub type Bounds = BTreeMap<u32, (u64, u64)>;

/// The constraints that bound groups, by number and what they bound them to.
pub struct Bound<'b> {
    pub number: usize,
    pub groups: &'b Bounds,
}

/// Replicas by cell: `least` at any cost, and up to `most` where nothing that could stay moves for it.
pub fn fill(cells: &[Cell], bounds: &[Bound<'_>], (least, most): (u64, u64)) -> Option<Vec<u64>> {
    let (coarse, crossing) = chains(cells, bounds);
    let mut network = Network::default();
    let (from, to) = (network.node(), network.node());
    let (mut due, mut sum) = (Vec::new(), 0);
    // What must go through an arc, and what may.
    let mut within = |network: &mut Network, (tail, head): (usize, usize), (low, high): (u64, u64)| {
        if low > 0 {
            due.push((network.arc(tail, head, low, DUE), low));
        }
        if high > low {
            network.arc(tail, head, high - low, 0);
        }
        low <= high
    };
    let ins = tree(&mut network, from, cells, &coarse, &mut within, true)?;
    let outs = tree(&mut network, to, cells, &crossing, &mut within, false)?;
    let mut arcs = Vec::new();
    for (cell, (&tail, &head)) in cells.iter().zip(ins.iter().zip(&outs)) {
        let Cell { low, high, keeps, target, .. } = *cell;
        if low > high {
            return None;
        }
        // The worth of one more falls with every step, so that arcs are filled in their order.
        let mut steps = [low, keeps.clamp(low, high), target.clamp(low, high), high];
        steps.sort_unstable();
        let mut own = Vec::new();
        let mut before = 0;
        for step in steps {
            if step > before {
                let worth = |bound: u64, worth: i64| if step <= bound { worth } else { 0 };
                let cost = worth(low, DUE) + worth(keeps, KEPT) + worth(target, GOOD);
                own.push(network.arc(tail, head, step - before, cost));
                before = step;
            }
        }
        sum += low;
        arcs.push(own);
    }
    if network.send(from, to, least, i64::MAX) < least {
        return None;
    }
    network.send(from, to, most - least, 0);
    let shares: Vec<u64> = arcs.iter().map(|own| own.iter().map(|&arc| network.through(arc)).sum()).collect();
    let paid = due.iter().all(|&(arc, low)| network.through(arc) == low);
    let lows = cells.iter().zip(&shares).all(|(cell, &share)| share >= cell.low);
    (sum <= most && paid && lows && bounds.iter().all(|bound| holds(cells, bound, &shares))).then_some(shares)
}

fn holds(cells: &[Cell], bound: &Bound<'_>, shares: &[u64]) -> bool {
    let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
    for (cell, share) in cells.iter().zip(shares) {
        *sums.entry(cell.groups[bound.number]).or_default() += share;
    }
    sums.iter().all(|(group, sum)| bound.groups.get(group).is_none_or(|(low, high)| low <= sum && sum <= high))
}

/// Two chains of constraints, each from the coarsest to the finest. What fits neither is in none.
fn chains<'b>(cells: &[Cell], bounds: &'b [Bound<'b>]) -> (Vec<&'b Bound<'b>>, Vec<&'b Bound<'b>>) {
    let mut order: Vec<&Bound<'_>> = bounds.iter().collect();
    order.sort_by_key(|bound| (bound.groups.len(), bound.number));
    let (mut coarse, mut crossing): (Vec<&Bound<'_>>, Vec<&Bound<'_>>) = Default::default();
    for bound in order {
        let fits = |chain: &[&Bound<'_>]| chain.last().is_none_or(|last| is_nested(cells, bound.number, last.number));
        if fits(&coarse) {
            coarse.push(bound);
        } else if fits(&crossing) {
            crossing.push(bound);
        }
    }
    (coarse, crossing)
}

/// Whether each group of one constraint lies in one group of another.
fn is_nested(cells: &[Cell], fine: usize, coarse: usize) -> bool {
    let mut within: BTreeMap<u32, u32> = BTreeMap::new();
    cells.iter().all(|cell| *within.entry(cell.groups[fine]).or_insert(cell.groups[coarse]) == cell.groups[coarse])
}

/// A node for every group, hung below the one that it lies in; by cell the node that it hangs from.
fn tree(
    network: &mut Network,
    root: usize,
    cells: &[Cell],
    chain: &[&Bound<'_>],
    within: &mut impl FnMut(&mut Network, (usize, usize), (u64, u64)) -> bool,
    down: bool,
) -> Option<Vec<usize>> {
    let mut above = vec![root; cells.len()];
    for bound in chain {
        let mut nodes: BTreeMap<u32, usize> = BTreeMap::new();
        for (cell, above) in cells.iter().zip(&mut above) {
            let group = cell.groups[bound.number];
            *above = match nodes.entry(group) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let node = *new.insert(network.node());
                    let ends = if down { (*above, node) } else { (node, *above) };
                    let bounds = bound.groups.get(&group).copied().unwrap_or((0, u64::from(u32::MAX)));
                    if !within(network, ends, bounds) {
                        return None;
                    }
                    node
                }
            };
        }
    }
    Some(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(groups: [u32; 2], low: u64, high: u64) -> Cell {
        Cell { groups: groups.to_vec(), low, high, keeps: 0, target: 0 }
    }

    fn even(groups: impl IntoIterator<Item = u32>, low: u64, high: u64) -> Bounds {
        groups.into_iter().map(|group| (group, (low, high))).collect()
    }

    #[test]
    fn constraints_that_cross_hold_together() {
        // Two providers in two regions; one of the four has no room.
        let cells = [cell([0, 0], 0, 9), cell([0, 1], 0, 9), cell([1, 0], 0, 9), cell([1, 1], 0, 0)];
        let halves = even(0..2, 3, 3);
        let bounds = || [Bound { number: 0, groups: &halves }, Bound { number: 1, groups: &halves }];
        assert_eq!(fill(&cells, &bounds(), (6, 6)), Some(vec![0, 3, 3, 0]));
        assert_eq!(fill(&cells, &bounds(), (7, 7)), None);
        let tight = [cell([0, 0], 1, 9), cell([0, 1], 0, 9), cell([1, 0], 0, 9), cell([1, 1], 0, 0)];
        assert_eq!(fill(&tight, &bounds(), (6, 6)), None, "the first has to have one");
    }

    #[test]
    fn what_runs_stays_where_it_may_and_the_rest_goes_where_it_would() {
        let mut cells = [cell([0, 0], 0, 9), cell([0, 1], 0, 9), cell([1, 2], 0, 9)];
        (cells[1].keeps, cells[0].target, cells[2].target) = (2, 2, 5);
        let regions = even(0..2, 4, 5);
        let zones = even(0..3, 1, 5);
        let bounds = [Bound { number: 0, groups: &regions }, Bound { number: 1, groups: &zones }];
        assert_eq!(fill(&cells, &bounds, (9, 9)), Some(vec![2, 2, 5]));
    }
}
