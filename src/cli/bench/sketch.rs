//! How long a sketch takes, how large it is, and what it loses, by number of nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use prost::Message;
use serde_json::json;

use super::Row;
use crate::{
    flow::{measure, schedule::Room},
    model::{
        Demand, NodeFacts, Resources,
        quantity::{CPU, MEMORY, PODS},
    },
    wire::proto,
};

const GIB: i64 = 1 << 30;
/// Each is measured so often; the middle one is told.
const ROUNDS: usize = 9;

/// Nodes of four types in three zones, filled at random from one seed, measured as an agent does.
pub fn run(nodes: usize) -> Row {
    let fleet = fleet(nodes);
    let declared = BTreeSet::new();
    let measured = || measure::sketch(fleet.iter().map(|(node, used, pods)| (node, used, *pods)), &declared);
    let sketch = measured();
    let room = Room::of(&sketch);
    let demand = |cpu, memory| Demand { requests: Resources::of([(CPU, cpu), (MEMORY, memory)]), ..Demand::default() };
    let demands = [demand(100, GIB / 8), demand(500, GIB), demand(1000, 4 * GIB), demand(4000, 8 * GIB)];
    let lost = demands.iter().map(|demand| {
        let on = |(node, used, pods): &(NodeFacts, Resources, u32)| free(node, used, *pods).fits(&with_slot(demand));
        let exact: u64 = fleet.iter().filter_map(on).sum();
        100.0 * (exact as f64 - f64::from(room.for_demand(demand))) / exact.max(1) as f64
    });
    let lost = lost.fold(0.0, f64::max);
    Row::from_iter([
        ("nodes".to_owned(), json!(nodes)),
        ("shapes".to_owned(), json!(sketch.shapes.len())),
        ("sketch_ms".to_owned(), json!(micros(|| drop(measured())) / 1000.0)),
        ("bytes".to_owned(), json!(proto::Sketch::from(&sketch).encoded_len())),
        ("lost_percent_max".to_owned(), json!((lost * 100.0).round() / 100.0)),
        ("room_us".to_owned(), json!(micros(|| drop(Room::of(&sketch))))),
        (
            "for_demand_us".to_owned(),
            json!(micros(|| {
                std::hint::black_box(room.for_demand(&demands[1]));
            })),
        ),
    ])
}

/// Of the middle round, to a tenth.
fn micros(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[ROUNDS / 2] * 10.0).round() / 10.0
}

fn free(node: &NodeFacts, used: &Resources, pods: u32) -> Resources {
    let mut free = node.allocatable.clone();
    free.add(used, -1);
    free.add(&Resources::of([(PODS, i64::from(pods))]), -1);
    free
}

fn with_slot(demand: &Demand) -> Resources {
    let mut asked = demand.requests.clone();
    asked.add(&Resources::of([(PODS, 1)]), 1);
    asked
}

/// The numbers are Knuth's (MMIX).
fn fleet(nodes: usize) -> Vec<(NodeFacts, Resources, u32)> {
    let mut state = 7u64;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % bound) as i64
    };
    let mut one = |index: usize| {
        let type_ = below(4);
        let (cores, gib_per_core) = [(4, 4), (16, 4), (64, 2), (32, 8)][type_ as usize];
        let (cpu, memory) = (cores * 1000 - 100, cores * gib_per_core * GIB - GIB / 2);
        let labels = [
            ("node.kubernetes.io/instance-type", format!("t{type_}")),
            ("topology.kubernetes.io/zone", format!("z{}", below(3))),
        ];
        let node = NodeFacts {
            name: format!("n{index}"),
            allocatable: Resources::of([(CPU, cpu), (MEMORY, memory), (PODS, 110)]),
            labels: BTreeMap::from(labels.map(|(key, value)| (key.to_owned(), value))),
            schedulable: true,
            ..NodeFacts::default()
        };
        let used = Resources::of([(CPU, cpu * below(100) / 100), (MEMORY, memory * below(100) / 100)]);
        (node, used, below(90) as u32)
    };
    (0..nodes).map(&mut one).collect()
}
