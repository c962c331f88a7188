//! How much of a cluster is taken. In hundredths, so that small changes of room make no order.

use super::{Score, View, room};
use crate::{
    flow::schedule::room::Room,
    model::quantity::{CPU, MEMORY},
};

/// Where most is free.
#[derive(Debug)]
pub struct LeastAllocated;

/// Where least is free.
#[derive(Debug)]
pub struct MostAllocated;

/// Where CPU and memory are taken to the same degree.
#[derive(Debug)]
pub struct Balanced;

/// Hundredths of a resource that are free; `None` where the cluster has none of it.
pub fn free_share(room: &Room, resource: &str) -> Option<i64> {
    let all = room.allocatable(resource);
    let share = i128::from(room.free(resource)) * 100 / i128::from(all.max(1));
    (all > 0).then(|| share.clamp(0, 100) as i64)
}

/// Of CPU and memory together.
fn free(view: &View<'_>) -> Option<i64> {
    let room = room(view)?;
    Some((free_share(room, CPU)? + free_share(room, MEMORY)?) / 2)
}

impl Score for LeastAllocated {
    fn of(&self, view: &View<'_>) -> Option<i64> {
        free(view)
    }

    fn reads_room(&self) -> bool {
        true
    }
}

impl Score for MostAllocated {
    fn of(&self, view: &View<'_>) -> Option<i64> {
        Some(100 - free(view)?)
    }

    fn reads_room(&self) -> bool {
        true
    }
}

impl Score for Balanced {
    fn of(&self, view: &View<'_>) -> Option<i64> {
        let room = room(view)?;
        Some(100 - (free_share(room, CPU)? - free_share(room, MEMORY)?).abs())
    }

    fn reads_room(&self) -> bool {
        true
    }
}
