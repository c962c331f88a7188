//! Nodes: amounts in rows of one column for each resource, and what of a demand they can take.

use std::cmp::Reverse;

use super::{Room, Slot, bounds, whole};
use crate::model::{Demand, sketch::SHAPES_MAX};

/// What one replica takes of a node, by column; the slot for its pod included.
pub(super) struct Ask {
    pub(super) amounts: Vec<(usize, i64)>,
    /// It asks for a resource that no node has.
    nowhere: bool,
}

impl Room {
    pub(super) fn ask(&self, demand: &Demand) -> Ask {
        let mut ask = Ask { amounts: Vec::new(), nowhere: false };
        for (name, amount) in whole(demand) {
            match self.column(name) {
                Some(column) => ask.amounts.push((column, amount)),
                None => ask.nowhere = true,
            }
        }
        ask
    }

    pub(super) fn per_node(&self, index: usize, ask: &Ask) -> u64 {
        if ask.nowhere {
            return 0;
        }
        let row = self.row(index);
        let fits = |&(column, amount): &(usize, i64)| (row[column].max(0) / amount) as u64;
        ask.amounts.iter().map(fits).min().unwrap_or(0)
    }

    /// Shapes that admit the demand, by falling `amount`, then by place.
    pub(super) fn most_first(&self, chosen: &bounds::Chosen, amount: impl Fn(&Self, usize) -> u64) -> Vec<usize> {
        let admitted = (0..self.shapes.len()).filter(|&index| chosen.admits(self.shapes[index].kind));
        let mut order: Vec<(Reverse<u64>, usize)> =
            admitted.map(|index| (Reverse(amount(self, index)), index)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, index)| index).collect()
    }

    /// Makes `nodes` of a shape a shape of their own; `None` where they are all of it, or the bound of shapes is
    /// reached.
    pub(super) fn split(&mut self, index: usize, nodes: u32) -> Option<usize> {
        let Slot { count, kind } = self.shapes[index];
        if nodes >= count || self.shapes.len() >= 2 * SHAPES_MAX {
            return None;
        }
        self.shapes[index].count -= nodes;
        self.shapes.push(Slot { count: nodes, kind });
        self.free.extend_from_within(self.span(index));
        Some(self.shapes.len() - 1)
    }

    pub(super) fn shift(&mut self, index: usize, ask: &Ask, replicas: u64, sign: i64) {
        let times = i64::try_from(replicas).unwrap_or(i64::MAX).saturating_mul(sign);
        let row = self.row_mut(index);
        for &(column, amount) in &ask.amounts {
            row[column] = row[column].saturating_add(amount.saturating_mul(times));
        }
    }

    pub(super) fn column(&self, resource: &str) -> Option<usize> {
        self.frame.resources.binary_search_by(|name| name.as_str().cmp(resource)).ok()
    }

    pub(super) fn span(&self, index: usize) -> std::ops::Range<usize> {
        let width = self.frame.resources.len();
        index * width..(index + 1) * width
    }

    pub(super) fn row(&self, index: usize) -> &[i64] {
        &self.free[self.span(index)]
    }

    pub(super) fn row_mut(&mut self, index: usize) -> &mut [i64] {
        let span = self.span(index);
        &mut self.free[span]
    }
}
