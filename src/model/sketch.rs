//! An agent's compact picture of its cluster's free capacity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    demand::{Demand, Taint},
    quantity::{PODS, Resources},
};

/// Free room grouped by node shape. Bounded: at most [`SHAPES_MAX`] shapes, whatever the number of nodes; grouping
/// always rounds free room *down*, so a sketch never promises what no node has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sketch {
    /// Counts up with each change; compared within one session only.
    pub sequence: u64,
    /// Nodes that exist, ready or not.
    pub nodes: u32,
    pub shapes: Vec<Shape>,
    /// Sums over ready, schedulable nodes, for people.
    pub allocatable: Resources,
    pub free: Resources,
}

pub const SHAPES_MAX: usize = 256;

/// `count` nodes that each have at least `free`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shape {
    pub count: u32,
    /// Allocatable minus the requests of bound, unfinished pods; `pods` counts free pod slots.
    pub free: Resources,
    /// Node labels that placement may ask for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

impl Sketch {
    /// How many replicas of `demand` fit, node by node, ignoring every other demand. Saturates at `u32::MAX`.
    pub fn room_for(&self, demand: &Demand) -> u32 {
        let admits = |shape: &&Shape| shape.admits(demand);
        let room = self.shapes.iter().filter(admits).map(|shape| shape.room_for(demand)).sum::<u64>();
        room.min(u32::MAX.into()) as u32
    }
}

impl Shape {
    pub fn admits(&self, demand: &Demand) -> bool {
        let selected = demand.node_selector.iter().all(|(key, value)| self.labels.get(key) == Some(value));
        let tolerated = |taint: &Taint| demand.tolerations.iter().any(|toleration| toleration.tolerates(taint));
        selected && self.taints.iter().filter(|taint| taint.repels()).all(tolerated)
    }

    /// Replicas of `demand` on all its nodes together, whether or not the shape admits it.
    pub fn room_for(&self, demand: &Demand) -> u64 {
        let slots = self.free.get(PODS).max(0) as u64;
        let each = self.free.fits(&demand.requests).map_or(slots, |fits| fits.min(slots));
        each.saturating_mul(self.count.into())
    }
}
