//! Room: what still fits into a cluster, node by node, after everything that is decided has been taken off.
//!
//! Which node a replica will run on is the member's choice. A reserved replica is therefore taken from the nodes with
//! most room and spread over them, as the member's scheduler does by default: exact for demands of one size, and on
//! the careful side for larger ones.

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
}

impl Room {
    pub fn of(sketch: &Sketch) -> Self {
        Self { shapes: sketch.shapes.clone() }
    }

    /// How many replicas of `demand` still fit. Saturates at `u32::MAX`.
    pub fn for_demand(&self, demand: &Demand) -> u32 {
        let admitting = self.shapes.iter().filter(|shape| shape.admits(demand));
        admitting.map(|shape| shape.room_for(demand)).fold(0, u64::saturating_add).min(u32::MAX.into()) as u32
    }

    /// Takes `replicas` of `demand` off, as far as they fit. What does not fit is taken from nowhere: then the sketch
    /// already counts it, or nothing of this demand fits any more either way.
    pub fn take(&mut self, demand: &Demand, replicas: u32) {
        let mut left = u64::from(replicas);
        let mut order: Vec<usize> = (0..self.shapes.len()).filter(|&index| self.shapes[index].admits(demand)).collect();
        order.sort_by_key(|&index| (Reverse(per_node(&self.shapes[index], demand)), index));
        for index in order {
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
            let split = more > 0 && self.shapes.len() < 2 * SHAPES_MAX;
            if split {
                let mut fuller = shape.clone();
                fuller.count = more as u32;
                occupy(&mut fuller, demand, each + 1);
                self.shapes.push(fuller);
                self.shapes[index].count -= more as u32;
            }
            let rest = if split { each } else { each + u64::from(more > 0) };
            occupy(&mut self.shapes[index], demand, rest);
        }
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

fn occupy(shape: &mut Shape, demand: &Demand, replicas: u64) {
    let times = i64::try_from(replicas).unwrap_or(i64::MAX);
    shape.free.add(&demand.requests, times.saturating_neg());
    shape.free.add(&Resources::of([(PODS, 1)]), times.saturating_neg());
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
        Room { shapes: shapes.iter().map(shape).collect() }
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

    proptest! {
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
                prop_assert_eq!(free - room.free(CPU), milli * i64::from(replicas.min(before)));
                prop_assert!(i64::from(room.for_demand(&cpu(asked))) * asked <= room.free(CPU));
            }
        }
    }
}
