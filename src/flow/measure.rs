//! Nodes and pods → sketch: how much room there is, by shape of node.

use std::collections::BTreeMap;

use crate::model::{
    NodeFacts, Resources, Sketch,
    quantity::PODS,
    sketch::{SHAPES_MAX, Shape},
};

/// Sums free room up. Each node comes with the requests of its bound, unfinished pods and their number.
pub fn sketch<'a>(nodes: impl Iterator<Item = (&'a NodeFacts, &'a Resources, u32)>) -> Sketch {
    let mut sketch = Sketch::default();
    let mut free_nodes = Vec::new();
    for (node, used, pods) in nodes {
        sketch.nodes += 1;
        if !node.schedulable {
            continue;
        }
        let left = node.allocatable.0.iter().map(|(name, amount)| {
            let taken = if name == PODS { pods.into() } else { used.get(name) };
            (name.clone(), amount.saturating_sub(taken).max(0))
        });
        let free = Resources(left.collect());
        add(&mut sketch.allocatable, &node.allocatable);
        add(&mut sketch.free, &free);
        free_nodes.push(Shape { count: 1, free, labels: node.labels.clone(), taints: node.taints.clone() });
    }
    // Coarser and coarser, always down, until few enough shapes are left.
    let mut kept_bits = 63;
    sketch.shapes = grouped(&free_nodes, kept_bits);
    while sketch.shapes.len() > SHAPES_MAX && kept_bits > 1 {
        kept_bits = if kept_bits == 63 { 5 } else { kept_bits - 1 };
        sketch.shapes = grouped(&free_nodes, kept_bits);
    }
    sketch.shapes.truncate(SHAPES_MAX);
    sketch
}

fn add(sum: &mut Resources, amounts: &Resources) {
    for (name, amount) in &amounts.0 {
        let total = sum.0.entry(name.clone()).or_insert(0);
        *total = total.saturating_add(*amount);
    }
}

fn grouped(nodes: &[Shape], kept_bits: u32) -> Vec<Shape> {
    let mut groups: BTreeMap<Shape, u32> = BTreeMap::new();
    for node in nodes {
        let free = node.free.0.iter().map(|(name, amount)| (name.clone(), round_down(*amount, kept_bits)));
        let shape = Shape { count: 0, free: Resources(free.collect()), ..node.clone() };
        *groups.entry(shape).or_insert(0) += 1;
    }
    groups.into_iter().map(|(shape, count)| Shape { count, ..shape }).collect()
}

/// Keeps the leading bits of an amount.
fn round_down(amount: i64, kept_bits: u32) -> i64 {
    let surplus = (64 - amount.max(0).leading_zeros()).saturating_sub(kept_bits);
    (amount.max(0) >> surplus) << surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cpu: i64, schedulable: bool) -> NodeFacts {
        let allocatable = Resources::of([("cpu", cpu), ("pods", 10)]);
        NodeFacts { name: name.into(), allocatable, schedulable, ..NodeFacts::default() }
    }

    #[test]
    fn equal_nodes_are_one_shape_and_unschedulable_ones_none() {
        let (a, b, c) = (node("a", 4000, true), node("b", 4000, true), node("c", 4000, false));
        let (used, nothing) = (Resources::of([("cpu", 1500)]), Resources::default());
        let sketch = sketch([(&a, &used, 2), (&b, &used, 2), (&c, &nothing, 0)].into_iter());
        assert_eq!((sketch.nodes, sketch.shapes.len(), sketch.shapes[0].count), (3, 1, 2));
        assert_eq!(sketch.shapes[0].free, Resources::of([("cpu", 2500), ("pods", 8)]));
        assert_eq!(sketch.free, Resources::of([("cpu", 5000), ("pods", 16)]));
    }

    #[test]
    fn many_shapes_are_rounded_down_to_few() {
        let nodes: Vec<NodeFacts> = (0..5000).map(|index| node("n", 1000 + index, true)).collect();
        let nothing = Resources::default();
        let sketch = sketch(nodes.iter().map(|node| (node, &nothing, 0)));
        assert!(sketch.shapes.len() <= SHAPES_MAX);
        assert_eq!(sketch.shapes.iter().map(|shape| shape.count).sum::<u32>(), 5000);
        let promised: i64 = sketch.shapes.iter().map(|shape| shape.free.get("cpu") * i64::from(shape.count)).sum();
        assert!(promised <= sketch.free.get("cpu"));
        assert_eq!(round_down(0b101_1011, 3), 0b101_0000);
    }
}
