//! Network: amounts sent through a network at least cost, the cheapest path first (successive shortest paths, Ahuja,
//! Magnanti, Orlin: Network Flows, 9.7).
//!
//! What bounds groups of clusters that are nested in one way or in two is such a network, and what goes through it is whole:
//! so an answer is found wherever there is one. Must never: be given a cycle whose cost is below zero.

/// Arcs stand in pairs, each beside the one that takes back what went through it.
#[derive(Debug, Clone, Default)]
pub struct Network {
    arcs: Vec<Arc>,
    /// By node: arcs that leave it.
    leaving: Vec<Vec<usize>>,
}

#[derive(Debug, Clone, Copy)]
struct Arc {
    to: usize,
    left: u64,
    cost: i64,
}

impl Network {
    pub fn node(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.leaving.len() - 1
    }

    /// What goes through it is told by [`Self::through`] of the number returned.
    pub fn arc(&mut self, from: usize, to: usize, most: u64, cost: i64) -> usize {
        let number = self.arcs.len();
        self.arcs.extend([Arc { to, left: most, cost }, Arc { to: from, left: 0, cost: -cost }]);
        self.leaving[from].push(number);
        self.leaving[to].push(number + 1);
        number
    }

    pub fn through(&self, arc: usize) -> u64 {
        self.arcs[arc + 1].left
    }

    /// Sends up to `most`, as long as a path costs no more than `dearest`; tells how much.
    pub fn send(&mut self, from: usize, to: usize, most: u64, dearest: i64) -> u64 {
        let mut sent = 0;
        while sent < most
            && let Some((path, cost)) = self.cheapest(from, to)
            && cost <= dearest
        {
            let part = path.iter().map(|&arc| self.arcs[arc].left).fold(most - sent, u64::min);
            for arc in path {
                self.arcs[arc].left -= part;
                self.arcs[arc ^ 1].left += part;
            }
            sent += part;
        }
        sent
    }

    fn cheapest(&self, from: usize, to: usize) -> Option<(Vec<usize>, i64)> {
        let mut costs: Vec<Option<i64>> = vec![None; self.leaving.len()];
        let mut by: Vec<usize> = vec![0; self.leaving.len()];
        let mut waits = vec![false; self.leaving.len()];
        let mut queue = std::collections::VecDeque::from([from]);
        costs[from] = Some(0);
        while let Some(node) = queue.pop_front() {
            waits[node] = false;
            let Some(here) = costs[node] else { continue };
            for &number in &self.leaving[node] {
                let Arc { to, left, cost } = self.arcs[number];
                if left > 0 && costs[to].is_none_or(|known| here + cost < known) {
                    costs[to] = Some(here + cost);
                    by[to] = number;
                    if !std::mem::replace(&mut waits[to], true) {
                        queue.push_back(to);
                    }
                }
            }
        }
        let cost = costs[to]?;
        let (mut path, mut node) = (Vec::new(), to);
        while node != from {
            path.push(by[node]);
            node = self.arcs[by[node] ^ 1].to;
        }
        Some((path, cost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cheap_goes_first_and_gives_way_where_more_goes_through() {
        let mut network = Network::default();
        let [from, one, other, to] = [0; 4].map(|_| network.node());
        let narrow = network.arc(from, one, 1, 0);
        let wide = network.arc(from, other, 2, 5);
        let across = network.arc(one, other, 1, -3);
        network.arc(one, to, 1, 1);
        network.arc(other, to, 2, 0);
        assert_eq!(network.clone().send(from, to, 9, -1), 1, "by the arc across, and no dearer path");
        assert_eq!(network.send(from, to, 2, i64::MAX), 2);
        assert_eq!([narrow, wide, across].map(|arc| network.through(arc)), [1, 1, 1]);
        assert_eq!(network.send(from, to, 9, i64::MAX), 1, "what went across is taken back");
        assert_eq!([narrow, wide, across].map(|arc| network.through(arc)), [1, 2, 0]);
    }
}
