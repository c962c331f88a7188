//! Measure: nodes and pods of a member → the sketch of its free room.
//!
//! Owns: what counts as free, which labels of a node placement may ask for, and how thousands of nodes become a few
//! hundred shapes. Must never: promise what no node has; every simplification rounds down.

use std::collections::BTreeMap;

use crate::model::{
    NodeFacts, Resources, Sketch,
    demand::Taint,
    quantity::PODS,
    sketch::{SHAPES_MAX, Shape},
};

/// Labels of nodes that placement may ask for. A host's name is not among them: it would make every node a shape of
/// its own. (<https://kubernetes.io/docs/reference/labels-annotations-taints/>)
const LABELS: [&str; 5] = [
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Kinds of nodes that are told apart by labels and taints; what is beyond is measured as one kind. It leaves shapes
/// enough to tell fuller nodes of a kind from emptier ones.
const KINDS_MAX: usize = SHAPES_MAX / 2;

/// What tells nodes apart besides their room.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
}

/// How many nodes have exactly this much room.
type Rooms = Vec<(Resources, u32)>;

/// The free room of nodes that may take pods, whatever the order they come in. Each comes with the requests of its
/// bound, unfinished pods and their number. Pods that are not bound yet hold no room here: the hub reserves what it
/// decided until it is. The sender counts `sequence`.
pub fn sketch<'a>(nodes: impl IntoIterator<Item = (&'a NodeFacts, &'a Resources, u32)>) -> Sketch {
    let mut sketch = Sketch::default();
    let mut kinds: BTreeMap<Kind, BTreeMap<Resources, u32>> = BTreeMap::new();
    for (node, requests, pods) in nodes {
        sketch.nodes += 1;
        if !node.schedulable {
            continue;
        }
        let free = free(node, requests, pods);
        sketch.allocatable.add(&node.allocatable, 1);
        sketch.free.add(&free, 1);
        *kinds.entry(Kind::of(node)).or_default().entry(free).or_default() += 1;
    }
    let kinds = kinds.into_iter().map(|(kind, rooms)| (kind, rooms.into_iter().collect())).collect();
    sketch.shapes = shapes(kinds, &sketch.free);
    sketch
}

impl Kind {
    fn of(node: &NodeFacts) -> Self {
        let labels = LABELS.iter().filter_map(|label| node.labels.get_key_value(*label));
        let mut taints: Vec<_> = node.taints.iter().filter(|taint| taint.repels()).cloned().collect();
        taints.sort();
        taints.dedup();
        Self { labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(), taints }
    }

    /// What is true of both: the labels they share, and the taints of either.
    fn or(mut self, other: Self) -> Self {
        self.labels.retain(|key, value| other.labels.get(key) == Some(value));
        self.taints.extend(other.taints);
        self.taints.sort();
        self.taints.dedup();
        self
    }
}

/// A node that is asked for more than it has is full, not worse. What it has nothing of is left out.
fn free(node: &NodeFacts, requests: &Resources, pods: u32) -> Resources {
    let mut free = node.allocatable.clone();
    free.add(requests, -1);
    free.add(&Resources::of([(PODS, pods.into())]), -1);
    free.0.retain(|_, amount| *amount > 0);
    free
}

fn shapes(mut kinds: BTreeMap<Kind, Rooms>, total: &Resources) -> Vec<Shape> {
    if kinds.values().map(Vec::len).sum::<usize>() > SHAPES_MAX {
        let groups = limited(kinds).into_iter().map(|(kind, rooms)| Group::new(kind, rooms, total)).collect();
        return split(groups, total).iter().map(Group::shape).collect();
    }
    let mut exact = Vec::new();
    while let Some((Kind { labels, taints }, rooms)) = kinds.pop_first() {
        let shape = |(free, count)| Shape { count, free, labels: labels.clone(), taints: taints.clone() };
        exact.extend(rooms.into_iter().map(shape));
    }
    exact
}

/// Keeps the kinds with most nodes.
fn limited(kinds: BTreeMap<Kind, Rooms>) -> Vec<(Kind, Rooms)> {
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    if kinds.len() <= KINDS_MAX {
        return kinds;
    }
    // Stable, so that kinds of one size stay in their order.
    kinds.sort_by_key(|(_, rooms)| std::cmp::Reverse(rooms.iter().map(|(_, count)| count).sum::<u32>()));
    let others = kinds.split_off(KINDS_MAX - 1);
    kinds.extend(others.into_iter().reduce(|(kind, mut rooms), (other, more)| {
        rooms.extend(more);
        (kind.or(other), rooms)
    }));
    kinds
}

/// Nodes that become one shape, with the least that any of them has.
struct Group {
    kind: Kind,
    rooms: Rooms,
    best: Option<Cut>,
}

/// Where a group is best divided: those with less than `amount` of `resource`, and the rest.
struct Cut {
    resource: String,
    amount: i64,
    /// What the rest gains, as a part of all there is of the resource.
    gain: f64,
}

/// Divides, one group after another, where most is gained; as colours of a picture are reduced by median cut (Heckbert
/// 1982), but at the place that loses least.
fn split(mut groups: Vec<Group>, total: &Resources) -> Vec<Group> {
    while groups.len() < SHAPES_MAX {
        let gain = |group: &Group| group.best.as_ref().map_or(0.0, |cut| cut.gain);
        let first_best =
            (0..groups.len()).rev().max_by(|&one, &other| gain(&groups[one]).total_cmp(&gain(&groups[other])));
        let Some(index) = first_best else { break };
        let Some(cut) = groups[index].best.take() else { break };
        let Group { kind, rooms, .. } = groups.swap_remove(index);
        let (below, above) = rooms.into_iter().partition(|(free, _)| free.get(&cut.resource) < cut.amount);
        groups.push(Group::new(kind.clone(), below, total));
        groups.push(Group::new(kind, above, total));
    }
    groups
}

impl Group {
    fn new(kind: Kind, rooms: Rooms, total: &Resources) -> Self {
        let cuts = total.0.iter().filter_map(|(resource, &of)| Cut::best(&rooms, resource, of));
        let best = cuts.reduce(|one, other| if other.gain > one.gain { other } else { one });
        Self { kind, rooms, best }
    }

    fn shape(&self) -> Shape {
        let mut free: Option<Resources> = None;
        for (room, _) in &self.rooms {
            let least = free.get_or_insert_with(|| room.clone());
            least.0.retain(|resource, amount| {
                *amount = room.get(resource).min(*amount);
                *amount > 0
            });
        }
        Shape {
            count: self.rooms.iter().map(|(_, count)| count).sum(),
            free: free.unwrap_or_default(),
            labels: self.kind.labels.clone(),
            taints: self.kind.taints.clone(),
        }
    }
}

impl Cut {
    /// Every node above the cut gains the distance from the least of all to the least above it.
    fn best(rooms: &Rooms, resource: &str, of: i64) -> Option<Self> {
        let mut amounts: Vec<(i64, u32)> = rooms.iter().map(|(free, count)| (free.get(resource), *count)).collect();
        amounts.sort_unstable();
        let least = amounts.first()?.0;
        let mut above: u64 = amounts.iter().map(|(_, count)| u64::from(*count)).sum();
        let mut best: Option<Self> = None;
        for (amount, count) in amounts {
            let gain = (amount - least) as f64 * above as f64 / of.max(1) as f64;
            if gain > best.as_ref().map_or(0.0, |best| best.gain) {
                best = Some(Self { resource: resource.to_owned(), amount, gain });
            }
            above -= u64::from(count);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        Demand,
        quantity::{CPU, MEMORY},
    };

    const GIB: i64 = 1 << 30;

    /// A node, what its pods ask for, and how many they are.
    type Machine = (NodeFacts, Resources, u32);

    fn machine(cpu: i64, memory: i64) -> Machine {
        let node = NodeFacts {
            allocatable: Resources::of([(CPU, cpu), (MEMORY, memory), (PODS, 110)]),
            schedulable: true,
            ..NodeFacts::default()
        };
        (node, Resources::default(), 0)
    }

    fn measure(machines: &[Machine]) -> Sketch {
        sketch(machines.iter().map(|(node, requests, pods)| (node, requests, *pods)))
    }

    fn demand(cpu: i64, memory: i64) -> Demand {
        Demand { requests: Resources::of([(CPU, cpu), (MEMORY, memory)]), ..Demand::default() }
    }

    #[test]
    fn free_is_allocatable_minus_requests() {
        let mut machines = [machine(4000, 8 * GIB), machine(4000, 8 * GIB)];
        (machines[0].1, machines[0].2) = (Resources::of([(CPU, 1500), (MEMORY, GIB)]), 1);
        let sketch = measure(&machines);
        let amounts = |cpu, memory, pods| Resources::of([(CPU, cpu), (MEMORY, memory), (PODS, pods)]);
        let shapes: Vec<_> = sketch.shapes.iter().map(|shape| (shape.count, shape.free.clone())).collect();
        assert_eq!(shapes, [(1, amounts(2500, 7 * GIB, 109)), (1, amounts(4000, 8 * GIB, 110))]);
        assert_eq!(sketch.free, amounts(6500, 15 * GIB, 219));
        assert_eq!(sketch.allocatable, amounts(8000, 16 * GIB, 220));
    }

    #[test]
    fn equal_nodes_are_one_shape() {
        let sketch = measure(&vec![machine(4000, GIB); 1000]);
        assert_eq!((sketch.shapes.len(), sketch.shapes[0].count), (1, 1000));
    }

    #[test]
    fn nodes_that_take_no_pods_are_counted_and_not_measured() {
        let mut machines = [machine(4000, GIB), machine(1000, GIB)];
        machines[0].0.schedulable = false;
        let sketch = measure(&machines);
        assert_eq!((sketch.nodes, sketch.shapes.len(), sketch.free.get(CPU)), (2, 1, 1000));
    }

    #[test]
    fn the_debt_of_one_node_is_not_taken_from_another() {
        let mut machines = [machine(1000, GIB), machine(1000, GIB)];
        machines[0].1 = Resources::of([(CPU, 3000)]);
        let sketch = measure(&machines);
        assert_eq!(sketch.free.get(CPU), 1000);
        assert_eq!(sketch.room_for(&demand(100, 0)), 10);
    }

    #[test]
    fn the_name_of_a_host_does_not_make_a_shape() {
        let mut machines = [machine(1000, GIB), machine(1000, GIB)];
        for (index, (node, ..)) in machines.iter_mut().enumerate() {
            let zone = ("topology.kubernetes.io/zone".to_owned(), "eu-1".to_owned());
            node.labels = [("kubernetes.io/hostname".to_owned(), format!("n{index}")), zone].into();
        }
        let sketch = measure(&machines);
        assert_eq!(sketch.shapes.len(), 1);
        assert_eq!(sketch.shapes[0].labels.keys().collect::<Vec<_>>(), ["topology.kubernetes.io/zone"]);
    }

    #[test]
    fn beyond_the_bound_rare_kinds_are_measured_as_one() {
        let mut machines = vec![machine(1000, GIB); 400];
        for (index, (node, ..)) in machines.iter_mut().enumerate() {
            node.taints =
                vec![Taint { key: format!("owner-{index}"), effect: "NoSchedule".into(), ..Taint::default() }];
        }
        let sketch = measure(&machines);
        assert_eq!(sketch.shapes.iter().map(|shape| shape.count).sum::<u32>(), 400);
        assert_eq!(sketch.shapes.len(), KINDS_MAX);
        let taints: usize = sketch.shapes.iter().map(|shape| shape.taints.len()).sum();
        assert_eq!(taints, 400, "none is forgotten");
    }

    /// Machines of a few sizes in three zones, filled with pods of a few sizes. The numbers are Knuth's (MMIX).
    fn fleet(seed: u64, nodes: usize) -> Vec<Machine> {
        let mut state = seed;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut fleet = Vec::new();
        for _ in 0..nodes {
            let cores = 4 << next(3);
            let (mut node, mut requests, pods) = machine(cores * 1000 - 80, cores * 4 * GIB - GIB / 3);
            node.labels = [("topology.kubernetes.io/zone".to_owned(), format!("z{}", next(3)))].into();
            let pods = pods + next(8 * cores as u64) as u32;
            for _ in 0..pods {
                let size = 1 << next(5);
                requests.add(&Resources::of([(CPU, 50 * size), (MEMORY, ((64 << next(4)) * size) << 18)]), 1);
            }
            fleet.push((node, requests, pods));
        }
        fleet
    }

    /// Room node by node, as the member's scheduler would find it.
    fn exact_room(fleet: &[Machine], demand: &Demand) -> u64 {
        let room = |(node, requests, pods): &Machine| {
            let mut free = node.allocatable.clone();
            free.add(requests, -1);
            let slots = (free.get(PODS) - i64::from(*pods)).max(0) as u64;
            free.fits(&demand.requests).unwrap().min(slots)
        };
        fleet.iter().map(room).sum()
    }

    #[test]
    fn merging_loses_at_most_a_twentieth() {
        for seed in 0..2 {
            let fleet = fleet(seed, 800);
            let merged = measure(&fleet);
            assert_eq!(merged.shapes.len(), SHAPES_MAX);
            for (cpu, memory) in [(100, GIB / 8), (250, GIB / 2), (1000, 2 * GIB), (500, 4 * GIB)] {
                let demand = demand(cpu, memory);
                let (room, exact) = (merged.room_for(&demand), exact_room(&fleet, &demand));
                assert!(u64::from(room) * 20 >= exact * 19, "{room} of {exact} of {demand:?}, seed {seed}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn never_promises_what_no_node_has(seed: u64, nodes in 1usize..360, cpu in 1i64..9000, memory in 1i64..40) {
            let fleet = fleet(seed, nodes);
            let sketch = measure(&fleet);
            prop_assert!(sketch.shapes.len() <= SHAPES_MAX);
            prop_assert_eq!(sketch.shapes.iter().map(|shape| shape.count as usize).sum::<usize>(), nodes);
            let demand = demand(cpu, memory * GIB / 4);
            prop_assert!(u64::from(sketch.room_for(&demand)) <= exact_room(&fleet, &demand));
        }

        #[test]
        fn the_order_of_nodes_does_not_matter(seed: u64, nodes in 1usize..300) {
            let mut fleet = fleet(seed, nodes);
            let one = measure(&fleet);
            fleet.reverse();
            prop_assert_eq!(measure(&fleet), one);
        }
    }
}
