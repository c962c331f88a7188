//! Room: what still fits into a cluster, node by node, after everything that is decided has been taken off.

use crate::model::{Demand, Sketch, sketch::Shape};

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
        admitting.map(|shape| shape.room_for(demand)).sum::<u64>().min(u32::MAX.into()) as u32
    }
}
