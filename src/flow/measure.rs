//! Measure: nodes and pods of a member → the sketch of its free room.
//!
//! Owns: what counts as free, which labels of a node placement may ask for, and how thousands of nodes become a bounded
//! number of shapes. Must never: promise what no node has; every simplification rounds down.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    NodeFacts, Resources, Sketch,
    demand::Taint,
    quantity::PODS,
    sketch::{NodeKind, SHAPES_MAX, Shape},
};

mod cut;
#[cfg(test)]
mod tests;

/// Labels of nodes that placement may ask for without a platform declaring them. A host's name is not among them: it
/// would make every node a shape of its own. (<https://kubernetes.io/docs/reference/labels-annotations-taints/>, and
/// those by which providers tell pools of nodes apart.)
const LABELS: [&str; 14] = [
    "cloud.google.com/gke-nodepool",
    "cloud.google.com/gke-spot",
    "eks.amazonaws.com/capacityType",
    "eks.amazonaws.com/nodegroup",
    "karpenter.sh/capacity-type",
    "karpenter.sh/nodepool",
    "kubernetes.azure.com/agentpool",
    "kubernetes.azure.com/scalesetpriority",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "nvidia.com/gpu.product",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Labels that a platform may declare.
pub const DECLARED_MAX: usize = 16;

/// Kinds of nodes that are told apart by labels and taints; what is beyond is measured as one kind. It leaves shapes
/// enough to tell fuller nodes of a kind from emptier ones.
pub const KINDS_MAX: usize = SHAPES_MAX / 8;

/// The taint of a node that takes no pods at all: cordoned, or not ready.
const CLOSED: &str = "node.kubernetes.io/unschedulable";

/// How many nodes have exactly this much room.
type Rooms = Vec<(Resources, u32)>;

/// The free room of nodes, whatever the order they come in. Each comes with the requests of its bound, unfinished pods
/// and their number. Pods that are not bound yet hold no room here: the hub reserves what it decided until it is.
/// `declared` are labels that the platform lets placement ask for beside [`LABELS`]. The sender counts `sequence` and
/// adds what it knows of namespaces.
pub fn sketch<'a>(
    nodes: impl IntoIterator<Item = (&'a NodeFacts, &'a Resources, u32)>,
    declared: &BTreeSet<String>,
) -> Sketch {
    let told: BTreeSet<&str> =
        LABELS.into_iter().chain(declared.iter().map(String::as_str).take(DECLARED_MAX)).collect();
    let mut sketch = Sketch { labels: told.iter().map(|&label| label.to_owned()).collect(), ..Sketch::default() };
    let mut kinds: BTreeMap<NodeKind, BTreeMap<Resources, u32>> = BTreeMap::new();
    for (node, requests, pods) in nodes {
        sketch.nodes += 1;
        // A node that takes no pods has no room, and is a place to spread pods over all the same.
        let free = if node.schedulable { free(node, requests, pods) } else { Resources::default() };
        if node.schedulable {
            sketch.allocatable.add(&node.allocatable, 1);
            sketch.free.add(&free, 1);
        }
        *kinds.entry(kind_of(node, &told)).or_default().entry(free).or_default() += 1;
    }
    let kinds = kinds.into_iter().map(|(kind, rooms)| (kind, rooms.into_iter().collect())).collect();
    sketch.shapes = shapes(kinds, SHAPES_MAX);
    sketch
}

/// Why a sketch cannot be true, where that is so: then nothing of it is believed. What is merely less than nothing is full.
pub fn fault(sketch: &Sketch) -> Option<String> {
    let mut shaped = Resources::default();
    for shape in &sketch.shapes {
        shaped.add(&shape.free, shape.count.into());
    }
    for (what, free) in [("its nodes have", &shaped), ("it has", &sketch.free)] {
        let more = |(name, amount): &(&String, &i64)| **amount > sketch.allocatable.get(name).max(0);
        if let Some((name, amount)) = free.0.iter().find(more) {
            let allocatable = sketch.allocatable.get(name);
            return Some(format!("{what} {amount} of {name} free, and {allocatable} is allocatable"));
        }
    }
    let nodes: u64 = sketch.shapes.iter().map(|shape| u64::from(shape.count)).sum();
    (nodes > sketch.nodes.into()).then(|| format!("it tells of {nodes} nodes, and has {}", sketch.nodes))
}

/// The same room in at most `shapes_max` shapes.
pub fn coarser(sketch: &Sketch, shapes_max: usize) -> Sketch {
    let mut kinds: BTreeMap<NodeKind, Rooms> = BTreeMap::new();
    for Shape { count, free, kind } in &sketch.shapes {
        kinds.entry(kind.clone()).or_default().push((free.clone(), *count));
    }
    Sketch { shapes: shapes(kinds, shapes_max), ..sketch.clone() }
}

fn kind_of(node: &NodeFacts, told: &BTreeSet<&str>) -> NodeKind {
    let labels = told.iter().filter_map(|label| node.labels.get_key_value(*label));
    let mut taints: Vec<_> = node.taints.iter().filter(|taint| taint.repels()).cloned().collect();
    if !node.schedulable {
        taints.push(Taint { key: CLOSED.into(), value: String::new(), effect: "NoSchedule".into() });
    }
    taints.sort();
    taints.dedup();
    NodeKind { labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(), taints, mixed: false }
}

/// What is true of both: the labels they share, and the taints of either.
fn either(mut one: NodeKind, other: NodeKind) -> NodeKind {
    one.labels.retain(|key, value| other.labels.get(key) == Some(value));
    one.taints.extend(other.taints);
    one.taints.sort();
    one.taints.dedup();
    NodeKind { mixed: true, ..one }
}

/// A node that is asked for more than it has is full, not worse. What it has nothing of is left out.
fn free(node: &NodeFacts, requests: &Resources, pods: u32) -> Resources {
    let mut free = node.allocatable.clone();
    free.add(requests, -1);
    free.add(&Resources::of([(PODS, pods.into())]), -1);
    free.0.retain(|_, amount| *amount > 0);
    free
}

fn shapes(kinds: BTreeMap<NodeKind, Rooms>, shapes_max: usize) -> Vec<Shape> {
    let kinds = if kinds.values().map(Vec::len).sum::<usize>() > shapes_max {
        cut::grouped(limited(kinds, KINDS_MAX.min(shapes_max / 2).max(1)), shapes_max)
    } else {
        kinds.into_iter().collect()
    };
    let shape = |kind: &NodeKind, (free, count)| Shape { count, free, kind: kind.clone() };
    kinds.into_iter().flat_map(|(kind, rooms)| rooms.into_iter().map(move |room| shape(&kind, room))).collect()
}

/// Keeps the kinds with most nodes.
fn limited(kinds: BTreeMap<NodeKind, Rooms>, kinds_max: usize) -> Vec<(NodeKind, Rooms)> {
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    if kinds.len() <= kinds_max {
        return kinds;
    }
    // Stable, so that kinds of one size stay in their order.
    kinds.sort_by_key(|(_, rooms)| std::cmp::Reverse(rooms.iter().map(|(_, count)| count).sum::<u32>()));
    let others = kinds.split_off(kinds_max - 1);
    kinds.extend(others.into_iter().reduce(|(kind, mut rooms), (other, more)| {
        rooms.extend(more);
        (either(kind, other), rooms)
    }));
    kinds
}
