//! Shortlist: of all open clusters those that may get any of a divided total.
//!
//! A thousand clusters that cannot get a replica before others have theirs need not be looked at one by one: of those that
//! are alike but for their room (or their weight) only as many count as there are replicas. They are found in one pass over
//! columns of numbers. Must never: change the answer; where clusters differ in more than that, all are listed.

use std::{cmp::Reverse, sync::Arc};

use super::{
    fleet::{Domains, Id},
    integer::Slot,
    standing::Standings,
};

pub struct Shortlist<'a> {
    pub standings: &'a Standings,
    pub capacities: &'a [u32],
    /// Of the constraints; empty for those that count clusters.
    pub domains: &'a [Arc<Domains>],
    /// Clusters that are looked at one by one anyway, in order.
    pub looked_at: &'a [Id],
    /// No more than so many can get anything.
    pub needed: u32,
    pub weighted: bool,
}

pub struct Listed {
    pub slots: Vec<Slot>,
    /// Room of those that are not listed.
    pub beyond: u64,
}

/// The best of clusters that are in the same groups.
#[derive(Default)]
struct Cell {
    /// Amount, then id.
    best: Vec<(Reverse<u32>, Id)>,
    /// What is smaller than this is not among the best.
    least: u32,
}

impl Shortlist<'_> {
    pub fn list(&self) -> Listed {
        let whole = !self.standings.is_flat();
        let most = if whole { usize::MAX } else { self.needed as usize + self.looked_at.len() };
        let mut sum = 0u64;
        let ids: Vec<Id> = match self.domains.iter().filter(|domains| !domains.of.is_empty()).collect::<Vec<_>>()[..] {
            [] => self.best(most, &mut sum),
            [only] if !whole => self.best_of_each(only, most, &mut sum),
            _ => self.best(usize::MAX, &mut sum),
        };
        let slot = |id: Id| Slot {
            id,
            room: self.capacities[id as usize],
            weight: self.standings.weight(id),
            tier: self.standings.tier(id),
            ..Slot::default()
        };
        let looked_at = |id: &Id| self.looked_at.binary_search(id).is_ok();
        let slots: Vec<Slot> = ids.into_iter().filter(|id| !looked_at(id)).map(slot).collect();
        let listed: u64 = slots.iter().map(|slot| u64::from(slot.room)).sum();
        let counted = |&&id: &&Id| {
            let id = id as usize;
            self.standings.codes()[id] == Standings::OPEN && self.amount(id, self.capacities[id]) > 0
        };
        let known: u64 = self.looked_at.iter().filter(counted).map(|&id| u64::from(self.capacities[id as usize])).sum();
        Listed { slots, beyond: sum.saturating_sub(listed).saturating_sub(known) }
    }

    /// What ranks a cluster; 0 where it gets nothing.
    fn amount(&self, id: usize, capacity: u32) -> u32 {
        match self.weighted {
            true if capacity > 0 => self.standings.weight(id as Id),
            true => 0,
            false => capacity,
        }
    }

    fn best(&self, most: usize, sum: &mut u64) -> Vec<Id> {
        let mut cell = Cell::default();
        for (id, (&code, &capacity)) in self.standings.codes().iter().zip(self.capacities).enumerate() {
            if code == Standings::OPEN {
                let amount = self.amount(id, capacity);
                // Room of a cluster without a weight is of no use.
                *sum += if amount > 0 { u64::from(capacity) } else { 0 };
                cell.offer(amount, id as Id, most);
            }
        }
        cell.take(most)
    }

    fn best_of_each(&self, domains: &Domains, most: usize, sum: &mut u64) -> Vec<Id> {
        let mut cells: Vec<Cell> = Vec::new();
        cells.resize_with(domains.names.len(), Cell::default);
        let columns = self.standings.codes().iter().zip(self.capacities).zip(&domains.of);
        for (id, ((&code, &capacity), &domain)) in columns.enumerate() {
            if code == Standings::OPEN && domain != Domains::NONE {
                let amount = self.amount(id, capacity);
                *sum += if amount > 0 { u64::from(capacity) } else { 0 };
                cells[domain as usize].offer(amount, id as Id, most);
            }
        }
        cells.into_iter().flat_map(|cell| cell.take(most)).collect()
    }
}

impl Cell {
    #[inline]
    fn offer(&mut self, amount: u32, id: Id, most: usize) {
        // Of equal amounts the first ids are the best, and they come first.
        if amount > self.least || (amount > 0 && self.best.len() < most) {
            self.best.push((Reverse(amount), id));
            if self.best.len() >= most.saturating_mul(2).max(64) {
                self.cut(most);
            }
        }
    }

    fn cut(&mut self, most: usize) {
        if most > 0 && self.best.len() > most {
            let (_, &mut (Reverse(least), _), _) = self.best.select_nth_unstable(most - 1);
            self.best.truncate(most);
            self.least = least;
        }
    }

    fn take(mut self, most: usize) -> Vec<Id> {
        self.cut(most);
        match most {
            0 => Vec::new(),
            _ => self.best.into_iter().map(|(_, id)| id).collect(),
        }
    }
}
