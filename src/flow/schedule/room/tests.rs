//! What fits, what is held, and whom a promise may not harm.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::{
    demand::{HOSTNAME_LABEL, Spread, SpreadRule, Taint, Toleration},
    quantity::{CPU, MEMORY},
    sketch::Shape,
};

fn cpu(milli: i64) -> Demand {
    Demand { requests: Resources::of([(CPU, milli)]), ..Demand::default() }
}

fn room(shapes: &[(u32, i64)]) -> Room {
    Room::of(&sketch(shapes))
}

fn sketch(shapes: &[(u32, i64)]) -> Sketch {
    let shape = |&(count, milli): &(u32, i64)| Shape {
        count,
        free: Resources::of([(CPU, milli), (PODS, 110)]),
        ..Shape::default()
    };
    Sketch { shapes: shapes.iter().map(shape).collect(), ..Sketch::default() }
}

#[test]
fn taken_replicas_leave_exactly_the_rest() {
    let mut room = room(&[(2, 4000), (3, 1000)]);
    assert_eq!(room.for_demand(&cpu(1000)), 11);
    room.take(&cpu(1000), 5);
    assert_eq!(room.for_demand(&cpu(1000)), 6);
    assert_eq!(room.for_demand(&cpu(2000)), 1, "wherever they land: at worst one large node has 2000m left");
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
    let mut sketch = sketch(&[(1, 2000)]);
    sketch.shapes[0].kind.taints = vec![Taint { key: "gpu".into(), value: String::new(), effect: "NoSchedule".into() }];
    let room = Room::of(&sketch);
    assert_eq!(room.for_demand(&cpu(1000)), 0);
    let toleration = Toleration { key: "gpu".into(), operator: "Exists".into(), ..Toleration::default() };
    assert_eq!(room.for_demand(&Demand { tolerations: vec![toleration], ..cpu(1000) }), 2);
}

#[test]
fn what_fits_no_node_holds_its_room_in_pieces() {
    let mut room = room(&[(3, 4000)]);
    room.take(&cpu(2500), 4);
    assert_eq!(room.free(CPU), 2000, "three fit, the fourth holds what it asks for all the same");
    assert_eq!(room.for_demand(&cpu(500)), 4);
    room.take(&cpu(2500), 1);
    assert_eq!((room.free(CPU), room.for_demand(&cpu(1))), (0, 0));
    room.give_back(&cpu(2500), 1);
    assert_eq!(room.free(CPU), 2000);
}

#[test]
fn what_is_given_back_lies_where_it_was_spread() {
    let mut full = room(&[(4, 0)]);
    full.give_back(&cpu(500), 4);
    assert_eq!((full.for_demand(&cpu(500)), full.for_demand(&cpu(1000))), (4, 0), "one on each node");
    full.give_back(&cpu(500), 2);
    assert_eq!(full.for_demand(&cpu(1000)), 2);
}

const ZONE: &str = "topology.kubernetes.io/zone";

/// Nodes by zone: how many, and what each has free.
fn zones(shapes: &[(&str, u32, i64)]) -> Sketch {
    let mut sketch = sketch(&shapes.iter().map(|&(_, count, milli)| (count, milli)).collect::<Vec<_>>());
    for (shape, (zone, ..)) in sketch.shapes.iter_mut().zip(shapes) {
        shape.kind.labels = [(ZONE.to_owned(), (*zone).to_owned())].into();
    }
    sketch.labels = vec![ZONE.to_owned()];
    sketch
}

fn apart(topology: &str, rule: SpreadRule) -> Demand {
    Demand { spread: vec![Spread { topology: topology.into(), rule }], ..cpu(500) }
}

fn skew(most: u32) -> SpreadRule {
    SpreadRule::Skew { most, places: 0 }
}

#[test]
fn pods_that_keep_apart_get_a_place_of_their_own() {
    let room = Room::of(&zones(&[("a", 2, 4000), ("b", 1, 600), ("c", 1, 100)]));
    for (topology, rule, expected) in [
        (HOSTNAME_LABEL, SpreadRule::OnePer, 3),
        (ZONE, SpreadRule::OnePer, 2),
        // No pod fits into c, so nowhere may there be more than the skew.
        (ZONE, skew(1), 2),
        (ZONE, skew(3), 4),
        (HOSTNAME_LABEL, skew(2), 5),
        // Nothing is known of racks: one place is certain.
        ("rack", SpreadRule::OnePer, 1),
        ("rack", skew(1), 1),
    ] {
        assert_eq!(room.for_demand(&apart(topology, rule)), expected, "{topology} {rule:?}");
    }
    let even = Room::of(&zones(&[("a", 1, 4000), ("b", 1, 2000)]));
    assert_eq!(even.for_demand(&apart(ZONE, skew(1))), 9, "four in b, five in a");
    let wide = apart(ZONE, SpreadRule::Skew { most: 1, places: 3 });
    assert_eq!(even.for_demand(&wide), 2, "with two zones of three the emptiest counts as empty");
}

#[test]
fn nodes_that_are_not_tolerated_count_as_places_all_the_same() {
    let mut sketch = zones(&[("a", 1, 4000), ("b", 1, 4000)]);
    sketch.shapes[1].kind.taints = vec![Taint { key: "x".into(), effect: "NoSchedule".into(), ..Taint::default() }];
    assert_eq!(Room::of(&sketch).for_demand(&apart(ZONE, skew(2))), 2);
    let chosen = Demand { node_selector: [(ZONE.to_owned(), "a".to_owned())].into(), ..apart(ZONE, skew(2)) };
    assert_eq!(Room::of(&sketch).for_demand(&chosen), 8, "a node that is not chosen is no place");
}

#[test]
fn what_runs_of_a_kind_takes_its_places() {
    let mut room = Room::of(&zones(&[("a", 3, 4000), ("b", 2, 4000)]));
    let web = apart(HOSTNAME_LABEL, SpreadRule::OnePer);
    room.take(&web, 2);
    assert_eq!((room.for_more(&web, 2), room.for_more(&web, 5)), (3, 0));
    assert_eq!(room.for_demand(&web), 3);
    assert_eq!(room.for_more(&cpu(500), 7), room.for_demand(&cpu(500)));
}

#[test]
fn a_quota_bounds_its_namespace_alone() {
    let mut sketch = sketch(&[(4, 4000)]);
    let quota = Resources::of([(CPU, 1200), (PODS, 9)]);
    sketch.namespaces = [("shop".to_owned(), NamespaceRules { quota, ..NamespaceRules::default() })].into();
    let mut room = Room::of(&sketch);
    let shop = |milli| Demand { namespace: "shop".into(), ..cpu(milli) };
    assert_eq!((room.for_demand(&shop(500)), room.for_demand(&cpu(500))), (2, 32));
    assert_eq!(room.for_demand(&shop(100)), 9);
    assert_eq!(room.for_demand(&shop(0)), 0, "the member refuses pods that do not say what the quota bounds");
    assert_eq!(room.scarce(&shop(0)), "a quota of namespace shop bounds cpu, and the pods do not say theirs");
    room.take(&shop(500), 2);
    assert_eq!((room.for_demand(&shop(500)), room.for_demand(&shop(200))), (0, 1));
    assert_eq!(room.scarce(&shop(500)), "a quota of namespace shop leaves too little cpu");
    room.give_back(&shop(500), 1);
    assert_eq!(room.for_demand(&shop(500)), 1);
}

#[test]
fn a_limit_range_says_what_a_container_leaves_unsaid() {
    let mut sketch = sketch(&[(1, 4000)]);
    let rules = NamespaceRules {
        defaults: Resources::of([(CPU, 250), ("limits.cpu", 1000)]),
        quota: Resources::of([("limits.cpu", 5000)]),
        ..NamespaceRules::default()
    };
    sketch.namespaces = [("shop".to_owned(), rules)].into();
    let room = Room::of(&sketch);
    let unsaid = Resources::of([(CPU, 2), ("limits.cpu", 2), (MEMORY, 2)]);
    let shop = Demand { namespace: "shop".into(), unsaid: unsaid.clone(), ..cpu(100) };
    assert_eq!(room.for_demand(&shop), 2, "600m each, and limits of 2000m each within 5000m");
    assert_eq!(room.for_demand(&Demand { unsaid, ..cpu(100) }), 40, "elsewhere nobody fills it in");
}

#[test]
fn a_bound_volume_ties_its_pods_to_its_zone() {
    let mut sketch = zones(&[("a", 1, 4000), ("b", 1, 1000)]);
    let claims = [("data".to_owned(), vec!["b".to_owned()])].into();
    sketch.namespaces = [("shop".to_owned(), NamespaceRules { claims, ..NamespaceRules::default() })].into();
    let room = Room::of(&sketch);
    let shop = |claim: &str| Demand { namespace: "shop".into(), claims: vec![claim.into()], ..cpu(500) };
    assert_eq!((room.for_demand(&shop("data")), room.for_demand(&shop("other"))), (2, 10));
}

#[test]
fn what_is_decided_is_not_crowded_out_by_what_is_promised_after_it() {
    let mut room = room(&[(1, 200), (1, 100)]);
    room.take(&cpu(200), 1);
    assert_eq!(room.for_demand(&cpu(100)), 0, "it might land where only the other one fits");
    assert!(room.scarce(&cpu(100)).contains("not seen there yet"));
    room.take(&cpu(400), 1);
    assert_eq!(room.for_demand(&cpu(100)), 0);
}

#[test]
fn what_fits_nowhere_keeps_nobody_else_out() {
    let mut room = room(&[(4, 1000)]);
    room.take(&cpu(2000), 1);
    assert_eq!((room.for_demand(&cpu(100)), room.for_demand(&cpu(1000))), (20, 2), "but from what it holds");
}

/// The member's scheduler, at its worst: any order, any node that fits.
fn schedule(nodes: &mut [i64], mut pods: Vec<i64>, numbers: &mut impl FnMut(usize) -> usize) -> usize {
    let mut waiting = 0;
    while !pods.is_empty() {
        let pod = pods.swap_remove(numbers(pods.len()));
        let fitting: Vec<usize> = (0..nodes.len()).filter(|&node| nodes[node] >= pod).collect();
        match fitting.is_empty() {
            true => waiting += 1,
            false => nodes[fitting[numbers(fitting.len())]] -= pod,
        }
    }
    waiting
}

/// Cores and memory, in small numbers.
type Amounts = [i64; 2];

fn small(amounts: Amounts) -> Demand {
    Demand { requests: Resources::of([(CPU, amounts[0]), (MEMORY, amounts[1])]), ..Demand::default() }
}

/// Whether any order and any choice of nodes leaves a pod without one; `pods` are sizes and how many of each.
fn strands(nodes: Vec<Amounts>, pods: &[(Amounts, u32)], seen: &mut BTreeSet<(Vec<Amounts>, Vec<u32>)>) -> bool {
    let state = (nodes.clone(), pods.iter().map(|(_, left)| *left).collect());
    if !seen.insert(state) {
        return false;
    }
    (0..pods.len()).filter(|&next| pods[next].1 > 0).any(|next| {
        let size = pods[next].0;
        let fits = |node: &Amounts| (0..2).all(|resource| node[resource] >= size[resource]);
        let fitting: Vec<usize> = (0..nodes.len()).filter(|&node| fits(&nodes[node])).collect();
        fitting.is_empty()
            || fitting.into_iter().any(|node| {
                let (mut nodes, mut pods) = (nodes.clone(), pods.to_vec());
                nodes[node] = std::array::from_fn(|resource| nodes[node][resource] - size[resource]);
                nodes.sort_unstable();
                pods[next].1 -= 1;
                strands(nodes, &pods, seen)
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// The member at its very worst: every order and every choice of nodes is tried.
    #[test]
    fn rule_06_no_order_of_the_member_strands_what_is_promised(
        nodes in prop::collection::vec([0i64..9, 0i64..9], 1..4),
        asked in prop::collection::vec(([1i64..6, 0i64..6], 1u32..5), 1..4),
    ) {
        let shape = |&[cpu, memory]: &Amounts| {
            let free = Resources::of([(CPU, cpu), (MEMORY, memory), (PODS, 110)]);
            Shape { count: 1, free, ..Shape::default() }
        };
        let mut room = Room::of(&Sketch { shapes: nodes.iter().map(shape).collect(), ..Sketch::default() });
        let mut promised = Vec::new();
        for (size, wanted) in asked {
            let given = wanted.min(room.for_demand(&small(size)));
            room.take(&small(size), given);
            promised.push((size, given));
        }
        prop_assert!(!strands(nodes, &promised, &mut BTreeSet::new()), "{:?}", promised);
    }
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
        prop_assert_eq!(room.free(CPU), (free - taken).max(0));
        for &(milli, replicas) in &takes {
            room.give_back(&cpu(milli), replicas);
        }
        prop_assert!(room.free(CPU) <= free);
    }

    #[test]
    fn a_taken_replica_is_never_promised_again(
        shapes in prop::collection::vec((0u32..5, 0i64..5000), 0..5),
        milli in 1i64..3000,
        takes in prop::collection::vec(0u32..20, 0..8),
        asked in 1i64..3000,
    ) {
        let mut room = room(&shapes);
        for replicas in takes {
            let before = room.for_demand(&cpu(milli));
            let free = room.free(CPU);
            room.take(&cpu(milli), replicas);
            prop_assert_eq!(room.for_demand(&cpu(milli)), before.saturating_sub(replicas));
            prop_assert_eq!(free - room.free(CPU), (milli * i64::from(replicas)).min(free));
            prop_assert!(i64::from(room.for_demand(&cpu(asked))) * asked <= room.free(CPU));
        }
    }

    #[test]
    fn whatever_is_promised_finds_a_node_however_the_member_places_it(
        nodes in prop::collection::vec(0i64..2000, 1..6),
        sizes in prop::collection::vec(1i64..12, 1..30),
        wanted in prop::collection::vec(1u32..6, 30),
        seed: u64,
    ) {
        let shapes: Vec<(u32, i64)> = nodes.iter().map(|&milli| (1, milli)).collect();
        let mut room = room(&shapes);
        let mut pods = Vec::new();
        for (size, &wanted) in sizes.iter().map(|size| size * 50).zip(&wanted) {
            let given = wanted.min(room.for_demand(&cpu(size)));
            room.take(&cpu(size), given);
            pods.extend(std::iter::repeat_n(size, given as usize));
        }
        let mut state = seed;
        let mut numbers = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..20 {
            prop_assert_eq!(schedule(&mut nodes.clone(), pods.clone(), &mut numbers), 0, "{:?}", pods);
        }
    }
}
