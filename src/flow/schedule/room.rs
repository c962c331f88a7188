//! Room: what still fits into a cluster, node by node, after everything that is decided has been taken off.
//!
//! Which node a replica will run on is the member's choice. A reserved replica is therefore taken from the nodes with
//! most room and spread over them, as the member's scheduler does by default: exact for demands of one size, and on
//! the careful side for larger ones.
//!
//! Must never: let go of what is decided. A replica that no node could take holds its amounts all the same, in pieces,
//! so that nobody else is promised them; what not even the pieces add up to stays owed.

use std::cmp::Reverse;

use crate::model::{
    Demand, Resources, Sketch,
    quantity::PODS,
    sketch::{SHAPES_MAX, Shape},
};

/// Free capacity by node shape, from which demands are taken one after another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Room {
    shapes: Vec<Shape>,
    /// What was taken and is nowhere: the first that is given back goes here.
    owed: Resources,
}

impl Room {
    pub fn of(sketch: &Sketch) -> Self {
        Self { shapes: sketch.shapes.clone(), owed: Resources::default() }
    }

    /// How many replicas of `demand` still fit. Saturates at `u32::MAX`.
    pub fn for_demand(&self, demand: &Demand) -> u32 {
        let admitting = self.shapes.iter().filter(|shape| shape.admits(demand));
        admitting.map(|shape| shape.room_for(demand)).fold(0, u64::saturating_add).min(u32::MAX.into()) as u32
    }

    /// Takes `replicas` of `demand` off. What fits no node as a whole is taken in pieces.
    pub fn take(&mut self, demand: &Demand, replicas: u32) {
        let mut left = u64::from(replicas);
        for index in self.most_first(demand, |shape| per_node(shape, demand)) {
            let shape = &self.shapes[index];
            let nodes = u64::from(shape.count);
            let taken = left.min(per_node(shape, demand).saturating_mul(nodes));
            if taken == 0 {
                continue;
            }
            left -= taken;
            let (each, more) = (taken / nodes, taken % nodes);
            // Beyond the bound of shapes every node of this one counts as the fullest: less room than there is, never
            // more.
            let fuller = if more > 0 { self.split(index, more as u32) } else { None };
            let rest = if more == 0 || fuller.is_some() { each } else { each + 1 };
            if let Some(fuller) = fuller {
                shift(&mut self.shapes[fuller], demand, each + 1, -1);
            }
            shift(&mut self.shapes[index], demand, rest, -1);
        }
        if left > 0 {
            let times = i64::try_from(left).unwrap_or(i64::MAX);
            for (name, amount) in whole(demand) {
                self.take_pieces(demand, name, amount.saturating_mul(times));
            }
        }
    }

    /// Takes an amount of one resource from the nodes that admit `demand`, whole nodes first, and owes the rest.
    fn take_pieces(&mut self, demand: &Demand, name: &str, amount: i64) {
        let mut left = amount;
        for index in self.most_first(demand, |shape| shape.free.get(name).max(0) as u64) {
            let free = self.shapes[index].free.get(name);
            let nodes = i64::from(self.shapes[index].count);
            if left <= 0 || free <= 0 || nodes == 0 {
                continue;
            }
            let piece = |amount: i64| Resources::of([(name, amount)]);
            if left >= free.saturating_mul(nodes) {
                left -= free.saturating_mul(nodes);
                self.shapes[index].free.add(&piece(free), -1);
                continue;
            }
            let (emptied, part, each) = (left / free, left % free, (left + nodes - 1) / nodes);
            left = 0;
            let hit = if emptied > 0 { self.split(index, emptied as u32) } else { None };
            match hit {
                Some(hit) => self.shapes[hit].free.add(&piece(free), -1),
                // Beyond the bound of shapes as much is taken from each node, rounded up.
                None if emptied > 0 => {
                    self.shapes[index].free.add(&piece(each), -1);
                    continue;
                }
                None => {}
            }
            if part > 0 {
                let last = self.split(index, 1).unwrap_or(index);
                self.shapes[last].free.add(&piece(part), -1);
            }
        }
        if left > 0 {
            self.owed.add(&Resources::of([(name, left)]), 1);
        }
    }

    /// Puts back what `replicas` of `demand` hold, on all nodes that admit them alike: that is where the member's
    /// scheduler spread them. What is owed is paid first.
    pub fn give_back(&mut self, demand: &Demand, replicas: u32) {
        let admitting: Vec<usize> = self.most_first(demand, |shape| u64::from(shape.count));
        let nodes: u64 = admitting.iter().map(|&index| u64::from(self.shapes[index].count)).sum();
        let mut left = u64::from(replicas);
        // A replica pays for as much as is owed, and only one that pays nothing is put back.
        for (name, amount) in whole(demand) {
            let owed = self.owed.get(name);
            let given = amount.saturating_mul(replicas.into()).min(owed);
            self.owed.add(&Resources::of([(name, given)]), -1);
            left = left.min(u64::from(replicas).saturating_sub(given.unsigned_abs().div_ceil(amount.unsigned_abs())));
        }
        if nodes == 0 {
            return;
        }
        let (each, mut more) = (left / nodes, left % nodes);
        for index in admitting {
            let count = u64::from(self.shapes[index].count);
            let here = more.min(count);
            more -= here;
            let emptier = if here > 0 && here < count { self.split(index, here as u32) } else { None };
            if let Some(emptier) = emptier {
                shift(&mut self.shapes[emptier], demand, each + 1, 1);
            }
            shift(&mut self.shapes[index], demand, each + u64::from(here == count), 1);
        }
    }

    /// Shapes that admit `demand`, by falling `amount`, then by place.
    fn most_first(&self, demand: &Demand, amount: impl Fn(&Shape) -> u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.shapes.len()).filter(|&index| self.shapes[index].admits(demand)).collect();
        order.sort_by_key(|&index| (Reverse(amount(&self.shapes[index])), index));
        order
    }

    /// Makes `nodes` of a shape a shape of their own; `None` where they are all of it, or the bound of shapes is
    /// reached.
    fn split(&mut self, index: usize, nodes: u32) -> Option<usize> {
        if nodes >= self.shapes[index].count || self.shapes.len() >= 2 * SHAPES_MAX {
            return None;
        }
        self.shapes[index].count -= nodes;
        self.shapes.push(Shape { count: nodes, ..self.shapes[index].clone() });
        Some(self.shapes.len() - 1)
    }

    /// What one more replica of `demand` lacks, for people: `cpu`, or that no node admits it.
    pub fn scarce(&self, demand: &Demand) -> String {
        if self.shapes.iter().all(|shape| shape.count == 0) {
            return "no node is ready".into();
        }
        let admitting: Vec<_> = self.shapes.iter().filter(|shape| shape.admits(demand)).collect();
        if admitting.is_empty() {
            return "no node matches its node selector and tolerations".into();
        }
        let asked = |name: &String| Resources([(name.clone(), demand.requests.get(name))].into());
        let lacking = |name: &&String| admitting.iter().all(|shape| shape.free.fits(&asked(name)) == Some(0));
        if let Some(name) = demand.requests.0.keys().find(lacking) {
            return format!("no node has enough {name} left");
        }
        if admitting.iter().all(|shape| shape.free.get(PODS) <= 0) {
            return "no node has a pod slot left".into();
        }
        let names: Vec<_> =
            demand.requests.0.iter().filter(|&(_, &amount)| amount > 0).map(|(name, _)| &**name).collect();
        if names.is_empty() { "pod slots".into() } else { names.join(" and ") }
    }

    /// Free amount of one resource on all nodes together, for comparing clusters when no demand tells them apart.
    pub fn free(&self, resource: &str) -> i64 {
        let amounts =
            self.shapes.iter().map(|shape| shape.free.get(resource).max(0).saturating_mul(shape.count.into()));
        amounts.fold(0, i64::saturating_add)
    }
}

fn per_node(shape: &Shape, demand: &Demand) -> u64 {
    shape.room_for(demand).checked_div(shape.count.into()).unwrap_or(0)
}

/// What one replica takes: its requests and a slot.
fn whole(demand: &Demand) -> impl Iterator<Item = (&str, i64)> {
    let requests = demand.requests.0.iter().map(|(name, amount)| (name.as_str(), *amount));
    requests.filter(|&(_, amount)| amount > 0).chain([(PODS, 1)])
}

fn shift(shape: &mut Shape, demand: &Demand, replicas: u64, sign: i64) {
    let times = i64::try_from(replicas).unwrap_or(i64::MAX).saturating_mul(sign);
    shape.free.add(&demand.requests, times);
    shape.free.add(&Resources::of([(PODS, 1)]), times);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        demand::{Taint, Toleration},
        quantity::CPU,
    };

    fn cpu(milli: i64) -> Demand {
        Demand { requests: Resources::of([(CPU, milli)]), ..Demand::default() }
    }

    fn room(shapes: &[(u32, i64)]) -> Room {
        let shape = |&(count, milli): &(u32, i64)| Shape {
            count,
            free: Resources::of([(CPU, milli), (PODS, 110)]),
            ..Shape::default()
        };
        Room { shapes: shapes.iter().map(shape).collect(), owed: Resources::default() }
    }

    #[test]
    fn taken_replicas_leave_exactly_the_rest() {
        let mut room = room(&[(2, 4000), (3, 1000)]);
        assert_eq!(room.for_demand(&cpu(1000)), 11);
        room.take(&cpu(1000), 5);
        assert_eq!(room.for_demand(&cpu(1000)), 6);
        assert_eq!(room.for_demand(&cpu(2000)), 1, "spread over the large nodes: one has 2000m left, one 1000m");
    }

    #[test]
    fn slots_for_pods_bound_what_asks_for_nothing() {
        let mut room = room(&[(2, 4000)]);
        assert_eq!(room.for_demand(&cpu(0)), 220);
        room.take(&cpu(0), 219);
        assert_eq!(room.for_demand(&cpu(100)), 1);
        room.take(&cpu(100), 1);
        assert_eq!(room.scarce(&cpu(100)), "no node has a pod slot left");
    }

    #[test]
    fn a_scarce_resource_is_named() {
        let gpu = Demand { requests: Resources::of([(CPU, 1), ("nvidia.com/gpu", 1)]), ..Demand::default() };
        assert_eq!(room(&[(1, 1000)]).scarce(&gpu), "no node has enough nvidia.com/gpu left");
        assert_eq!(room(&[]).scarce(&gpu), "no node is ready");
        let chosen = Demand { node_selector: [("disk".to_owned(), "ssd".to_owned())].into(), ..cpu(1) };
        assert_eq!(room(&[(1, 1000)]).scarce(&chosen), "no node matches its node selector and tolerations");
    }

    #[test]
    fn taints_keep_room_for_those_who_tolerate_them() {
        let mut room = room(&[(1, 2000)]);
        room.shapes[0].taints = vec![Taint { key: "gpu".into(), value: String::new(), effect: "NoSchedule".into() }];
        assert_eq!(room.for_demand(&cpu(1000)), 0);
        let toleration = Toleration { key: "gpu".into(), operator: "Exists".into(), ..Toleration::default() };
        assert_eq!(room.for_demand(&Demand { tolerations: vec![toleration], ..cpu(1000) }), 2);
    }

    #[test]
    fn what_fits_no_node_holds_its_room_in_pieces() {
        let mut room = room(&[(3, 4000)]);
        room.take(&cpu(2500), 4);
        assert_eq!(room.free(CPU), 2000, "three fit, the fourth takes what is left of a node and a half");
        assert_eq!(room.for_demand(&cpu(500)), 4);
        room.take(&cpu(2500), 1);
        assert_eq!((room.free(CPU), room.owed.get(CPU)), (0, 500));
        room.give_back(&cpu(2500), 1);
        assert_eq!((room.owed.get(CPU), room.free(CPU)), (0, 0), "what was owed is paid first");
    }

    #[test]
    fn what_is_given_back_lies_where_it_was_spread() {
        let mut full = room(&[(4, 0)]);
        full.give_back(&cpu(500), 4);
        assert_eq!((full.for_demand(&cpu(500)), full.for_demand(&cpu(1000))), (4, 0), "one on each node");
        full.give_back(&cpu(500), 2);
        assert_eq!(full.for_demand(&cpu(1000)), 2);
    }

    proptest! {
        #[test]
        fn nothing_is_free_that_is_taken(
            shapes in prop::collection::vec((0u32..5, 0i64..5000), 0..5),
            takes in prop::collection::vec((1i64..3000, 0u32..20), 0..8),
        ) {
            let mut room = room(&shapes);
            let free = room.free(CPU);
            let taken: i64 = takes.iter().map(|&(milli, replicas)| milli * i64::from(replicas)).sum();
            for &(milli, replicas) in &takes {
                room.take(&cpu(milli), replicas);
            }
            prop_assert_eq!(room.free(CPU) - room.owed.get(CPU), free - taken);
            for &(milli, replicas) in &takes {
                room.give_back(&cpu(milli), replicas);
            }
            prop_assert!(room.free(CPU) <= free);
        }

        #[test]
        fn a_taken_replica_is_never_promised_again(
            shapes in prop::collection::vec((0u32..5, 0i64..5000), 0..5),
            takes in prop::collection::vec((1i64..3000, 0u32..20), 0..8),
            asked in 1i64..3000,
        ) {
            let mut room = room(&shapes);
            for (milli, replicas) in takes {
                let before = room.for_demand(&cpu(milli));
                let free = room.free(CPU);
                room.take(&cpu(milli), replicas);
                prop_assert_eq!(room.for_demand(&cpu(milli)), before.saturating_sub(replicas));
                prop_assert_eq!(free - room.free(CPU), (milli * i64::from(replicas)).min(free));
                prop_assert!(i64::from(room.for_demand(&cpu(asked))) * asked <= room.free(CPU));
            }
        }
    }
}
