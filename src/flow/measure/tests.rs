//! Seeded fleets, measured and counted node by node.

use proptest::prelude::*;

use super::*;
use crate::{
    flow::schedule::Room,
    model::{
        Demand,
        demand::Toleration,
        quantity::{CPU, MEMORY},
    },
};

const GIB: i64 = 1 << 30;
const ZONE: &str = "topology.kubernetes.io/zone";
const GPU: &str = "nvidia.com/gpu";

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
    sketch(machines.iter().map(|(node, requests, pods)| (node, requests, *pods)), &BTreeSet::new())
}

fn room_for(sketch: &Sketch, demand: &Demand) -> u64 {
    Room::of(sketch).for_demand(demand).into()
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
fn nodes_that_take_no_pods_are_places_without_room() {
    let mut machines = [machine(4000, GIB), machine(1000, GIB)];
    machines[0].0.schedulable = false;
    let sketch = measure(&machines);
    assert_eq!((sketch.nodes, sketch.allocatable.get(CPU), sketch.free.get(CPU)), (2, 1000, 1000));
    let closed = sketch.shapes.iter().find(|shape| !shape.kind.taints.is_empty()).expect("a shape");
    assert_eq!((closed.count, &closed.free), (1, &Resources::default()));
    assert_eq!(room_for(&sketch, &demand(100, 0)), 10);
}

#[test]
fn the_debt_of_one_node_is_not_taken_from_another() {
    let mut machines = [machine(1000, GIB), machine(1000, GIB)];
    machines[0].1 = Resources::of([(CPU, 3000)]);
    let sketch = measure(&machines);
    assert_eq!(sketch.free.get(CPU), 1000);
    assert_eq!(room_for(&sketch, &demand(100, 0)), 10);
}

#[test]
fn only_known_and_declared_labels_make_a_shape() {
    let mut machines = [machine(1000, GIB), machine(1000, GIB)];
    for (index, (node, ..)) in machines.iter_mut().enumerate() {
        let labels =
            [(ZONE, "eu-1".to_owned()), ("rack", index.to_string()), ("kubernetes.io/hostname", format!("n{index}"))];
        node.labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
    }
    let plain = measure(&machines);
    assert_eq!(plain.shapes.len(), 1);
    assert_eq!(plain.shapes[0].kind.labels.keys().collect::<Vec<_>>(), [ZONE]);
    let declared = ["rack".to_owned()].into();
    let told = sketch(machines.iter().map(|(node, requests, pods)| (node, requests, *pods)), &declared);
    assert_eq!(told.shapes.iter().map(|shape| &*shape.kind.labels["rack"]).collect::<Vec<_>>(), ["0", "1"]);
    assert!(told.labels.contains(&"rack".to_owned()) && !plain.labels.contains(&"rack".to_owned()));
}

#[test]
fn beyond_the_bound_rare_kinds_are_measured_as_one() {
    let owners = 2 * SHAPES_MAX;
    let mut machines = vec![machine(1000, GIB); owners];
    for (index, (node, ..)) in machines.iter_mut().enumerate() {
        node.taints = vec![Taint { key: format!("owner-{index}"), effect: "NoSchedule".into(), ..Taint::default() }];
    }
    let sketch = measure(&machines);
    assert_eq!(sketch.shapes.iter().map(|shape| shape.count as usize).sum::<usize>(), owners);
    assert_eq!(sketch.shapes.len(), KINDS_MAX);
    let taints: usize = sketch.shapes.iter().map(|shape| shape.kind.taints.len()).sum();
    assert_eq!(taints, owners, "none is forgotten");
    assert_eq!(sketch.shapes.iter().filter(|shape| shape.kind.mixed).count(), 1);
}

#[derive(Debug, Clone, Copy)]
enum Fleet {
    /// Thousands of small machines.
    SmallMachines,
    /// A dozen with 128 cores.
    BigNodes,
    /// A third with four or eight GPUs, tainted.
    Gpus,
    /// Two thousand with less than two cores left.
    Fragmented,
    /// Of four types in three zones; cores, memory and slots used up independently of each other, so that no two are alike.
    Independent(usize),
    /// Machines of four types, two architectures, three zones, some dedicated.
    Mixed(usize),
}

/// Knuth's numbers (MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Pods of a few sizes, up to a part of the machine in percent.
    fn fill(&mut self, machine: &mut Machine, percent: u64) {
        let (node, requests, pods) = machine;
        let target = |name| node.allocatable.get(name) * percent as i64 / 100;
        loop {
            let size = 1 << self.below(5);
            let cpu = 50 * size + 10 * self.below(3) as i64;
            let memory = ((64 << self.below(4)) * size) << 18;
            let full = requests.get(CPU) + cpu > target(CPU) || requests.get(MEMORY) + memory > target(MEMORY);
            if full || *pods >= 108 {
                return;
            }
            requests.add(&Resources::of([(CPU, cpu), (MEMORY, memory)]), 1);
            *pods += 1;
        }
    }
}

fn label(machine: &mut Machine, key: &str, value: String) {
    machine.0.labels.insert(key.to_owned(), value);
}

fn taint(machine: &mut Machine, key: &str) {
    machine.0.taints.push(Taint { key: key.into(), value: String::new(), effect: "NoSchedule".into() });
}

fn fleet(fleet: Fleet, seed: u64) -> Vec<Machine> {
    let mut numbers = Numbers(seed);
    let nodes = match fleet {
        Fleet::SmallMachines => 3000,
        Fleet::BigNodes => 12,
        Fleet::Gpus => 900,
        Fleet::Fragmented => 2000,
        Fleet::Mixed(nodes) | Fleet::Independent(nodes) => nodes,
    };
    (0..nodes).map(|index| one_of(fleet, index, &mut numbers)).collect()
}

fn one_of(fleet: Fleet, index: usize, numbers: &mut Numbers) -> Machine {
    let zone = format!("z{}", numbers.below(3));
    let mut one = match fleet {
        Fleet::SmallMachines => {
            let cores = 2 << numbers.below(2);
            machine(cores * 1000 - 80, cores * 4 * GIB - GIB / 3)
        }
        Fleet::BigNodes => machine(128_000, 512 * GIB),
        Fleet::Gpus if index.is_multiple_of(3) => machine(96_000, 768 * GIB),
        Fleet::Gpus => machine(32_000, 128 * GIB),
        Fleet::Fragmented => machine(8000, 32 * GIB),
        Fleet::Mixed(_) | Fleet::Independent(_) => {
            let type_ = numbers.below(4);
            let (cores, gib_per_core) = [(4, 4), (16, 4), (64, 2), (32, 8)][type_ as usize];
            let mut one = machine(cores * 1000 - 100, cores * gib_per_core * GIB - GIB / 2);
            if let Fleet::Independent(_) = fleet {
                label(&mut one, "node.kubernetes.io/instance-type", format!("t{type_}"));
                label(&mut one, ZONE, zone);
                let mut used = |name| one.0.allocatable.get(name) * numbers.below(100) as i64 / 100;
                one.1 = Resources::of([(CPU, used(CPU)), (MEMORY, used(MEMORY))]);
                one.2 = numbers.below(90) as u32;
                return one;
            }
            let arm = type_ < 2 && numbers.below(5) == 0;
            label(&mut one, "kubernetes.io/arch", if arm { "arm64" } else { "amd64" }.to_owned());
            label(&mut one, "node.kubernetes.io/instance-type", format!("t{type_}"));
            if numbers.below(12) == 0 {
                taint(&mut one, "dedicated");
            }
            one
        }
    };
    label(&mut one, ZONE, zone);
    match fleet {
        Fleet::Gpus if index.is_multiple_of(3) => {
            let gpus = if index.is_multiple_of(2) { 8 } else { 4 };
            one.0.allocatable.0.insert(GPU.into(), gpus);
            taint(&mut one, "gpu");
            let used = numbers.below(gpus as u64 + 1) as i64;
            let percent = numbers.below(50);
            numbers.fill(&mut one, percent);
            one.1.add(&Resources::of([(GPU, 1), (CPU, 4000), (MEMORY, 32 * GIB)]), used);
            one.2 += used as u32;
        }
        Fleet::Fragmented => {
            let (cpu, memory) = (numbers.below(1900) as i64, numbers.below(6000) as i64 * (1 << 20));
            one.1 = Resources::of([(CPU, 8000 - cpu), (MEMORY, 32 * GIB - memory)]);
            one.2 = 20 + numbers.below(80) as u32;
        }
        _ => {
            let percent = 10 + numbers.below(90);
            numbers.fill(&mut one, percent);
        }
    }
    one
}

fn demands(fleet: Fleet) -> Vec<Demand> {
    const SIZES: [(i64, i64); 12] = [
        (50, GIB / 16),
        (100, GIB / 8),
        (100, GIB),
        (250, GIB / 2),
        (250, 2 * GIB),
        (500, GIB / 2),
        (500, 4 * GIB),
        (1000, 2 * GIB),
        (2000, 4 * GIB),
        (4000, 16 * GIB),
        (300, 0),
        (0, 3 * GIB),
    ];
    let mut demands: Vec<_> = SIZES.iter().map(|&(cpu, memory)| demand(cpu, memory)).collect();
    if let Fleet::Independent(_) = fleet {
        // Sizes that no yardstick has.
        const ODD: [(i64, i64); 4] = [(700, 3 * GIB / 2), (3000, 6 * GIB), (3000, 10 * GIB), (8000, 32 * GIB)];
        demands.extend(ODD.iter().map(|&(cpu, memory)| demand(cpu, memory)));
    }
    demands.push(Demand { node_selector: [(ZONE.to_owned(), "z1".to_owned())].into(), ..demand(500, GIB) });
    if let Fleet::Gpus = fleet {
        let toleration = Toleration { key: "gpu".into(), operator: "Exists".into(), ..Toleration::default() };
        for (gpus, cpu) in [(1, 1000), (1, 4000), (2, 8000), (4, 16_000)] {
            let mut asked = demand(cpu, cpu / 1000 * 8 * GIB);
            asked.requests.0.insert(GPU.into(), gpus);
            demands.push(Demand { tolerations: vec![toleration.clone()], ..asked });
        }
    }
    demands
}

fn admits(node: &NodeFacts, demand: &Demand) -> bool {
    let selected = demand.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    selected && demand.tolerates(&node.taints)
}

fn left_of((node, requests, pods): &Machine) -> Resources {
    let mut left = node.allocatable.clone();
    left.add(requests, -1);
    left.add(&Resources::of([(PODS, i64::from(*pods))]), -1);
    left
}

fn with_slot(demand: &Demand) -> Resources {
    let mut asked = demand.requests.clone();
    asked.add(&Resources::of([(PODS, 1)]), 1);
    asked
}

/// Room node by node, as the member's scheduler would find it.
fn exact_room(fleet: &[Machine], demand: &Demand) -> u64 {
    let admitting = fleet.iter().filter(|(node, ..)| admits(node, demand));
    admitting.map(|machine| left_of(machine).fits(&with_slot(demand)).unwrap_or(0)).sum()
}

const FLEETS: [Fleet; 7] = [
    Fleet::SmallMachines,
    Fleet::BigNodes,
    Fleet::Gpus,
    Fleet::Fragmented,
    Fleet::Mixed(1500),
    Fleet::Mixed(10_000),
    Fleet::Independent(10_000),
];

#[test]
fn a_sketch_is_never_over_and_at_most_a_twentieth_under_what_fits_node_by_node() {
    for kind in FLEETS {
        let machines = fleet(kind, 7);
        let merged = measure(&machines);
        assert!(merged.shapes.len() <= SHAPES_MAX);
        for demand in demands(kind) {
            let (room, exact) = (room_for(&merged, &demand), exact_room(&machines, &demand));
            assert!(room <= exact, "{room} of {exact} of {demand:?} on {kind:?}");
            assert!(room * 20 >= exact * 19, "{room} of {exact} of {demand:?} on {kind:?}");
        }
    }
}

/// Demands of several sizes, each seen in the next sketch: first-fit on the nodes, and as far as the sketches tell.
#[test]
fn several_demands_fill_a_sketch_as_they_fill_the_nodes() {
    for kind in [Fleet::SmallMachines, Fleet::BigNodes, Fleet::Gpus, Fleet::Fragmented, Fleet::Mixed(1500)] {
        let mut machines = fleet(kind, 11);
        let (mut by_sketch, mut by_nodes) = (0u64, 0u64);
        // Larger ones first, each for a part of what there is room for, so that every size has its turn.
        let mut demands = demands(kind);
        demands.sort_by_key(|demand| std::cmp::Reverse(demand.requests.clone()));
        for (index, demand) in demands.iter().enumerate() {
            let part = exact_room(&machines, demand).div_ceil((demands.len() - index) as u64);
            by_nodes += part;
            let given = part.min(room_for(&measure(&machines), demand));
            by_sketch += given;
            let mut left = given;
            for machine in machines.iter_mut().filter(|(node, ..)| admits(node, demand)) {
                let here = left_of(machine).fits(&with_slot(demand)).unwrap_or(0).min(left);
                machine.1.add(&demand.requests, here as i64);
                machine.2 += here as u32;
                left -= here;
            }
            assert_eq!(left, 0, "{demand:?} on {kind:?}");
        }
        assert!(by_sketch * 20 >= by_nodes * 19, "{by_sketch} of {by_nodes} on {kind:?}");
    }
}

#[test]
fn a_coarser_sketch_is_bounded_and_promises_no_more() {
    let sketch = measure(&fleet(Fleet::Gpus, 3));
    let coarse = coarser(&sketch, 64);
    assert!(coarse.shapes.len() <= 64);
    let count = |sketch: &Sketch| sketch.shapes.iter().map(|shape| shape.count).sum::<u32>();
    assert_eq!((count(&coarse), &coarse.free), (count(&sketch), &sketch.free));
    for demand in demands(Fleet::Gpus) {
        assert!(room_for(&coarse, &demand) <= room_for(&sketch, &demand), "{demand:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn never_promises_what_no_node_has(seed: u64, nodes in 1usize..300, cpu in 1i64..9000, memory in 1i64..40) {
        let machines = fleet(Fleet::Mixed(nodes), seed);
        let demand = demand(cpu, memory * GIB / 4);
        let exact = exact_room(&machines, &demand);
        for sketch in [measure(&machines), coarser(&measure(&machines), 40)] {
            prop_assert_eq!(sketch.shapes.iter().map(|shape| shape.count as usize).sum::<usize>(), nodes);
            prop_assert!(room_for(&sketch, &demand) <= exact);
        }
    }

    #[test]
    fn the_order_of_nodes_does_not_matter(seed: u64, nodes in 1usize..300) {
        let mut machines = fleet(Fleet::Mixed(nodes), seed);
        let one = coarser(&measure(&machines), 50);
        machines.reverse();
        prop_assert_eq!(coarser(&measure(&machines), 50), one);
    }
}
