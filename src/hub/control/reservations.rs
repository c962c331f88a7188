//! Reservations: what is decided and not yet seen in a sketch (rule 6).
//!
//! Derived from stored placements, stored reports and the decisions under way, so they survive a change of leader. A
//! replica is seen once its agent reported it bound: the sketch that was sent before that report counts it already.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    flow::schedule::Room,
    model::{Demand, Report, Sketch, Uid, placement::Row, revision::Revision},
};

pub type Reserved = Vec<(Demand, u32)>;

#[derive(Debug, Default)]
pub struct Reservations {
    /// Cluster → Application → what it still has to come.
    held: BTreeMap<Uid, BTreeMap<Uid, Reserved>>,
    /// Application → clusters that it is held in.
    homes: BTreeMap<Uid, BTreeSet<Uid>>,
    /// Clusters whose room has to be made anew.
    stale: BTreeSet<Uid>,
}

impl Reservations {
    /// Replaces all that an Application still has to come.
    pub fn set_all(&mut self, application: &Uid, reserved: BTreeMap<Uid, Reserved>) {
        let before = self.homes.remove(application).unwrap_or_default();
        for cluster in before.iter().filter(|cluster| !reserved.contains_key(*cluster)) {
            self.set(cluster, application, Vec::new());
        }
        for (cluster, reserved) in reserved {
            self.set(&cluster, application, reserved);
        }
    }

    pub fn set(&mut self, cluster: &Uid, application: &Uid, reserved: Reserved) {
        if !reserved.is_empty() {
            self.homes.entry(application.clone()).or_default().insert(cluster.clone());
        }
        let held = self.held.entry(cluster.clone()).or_default();
        let before = match reserved.is_empty() {
            true => held.remove(application),
            false => held.insert(application.clone(), reserved.clone()),
        };
        if before.unwrap_or_default() != reserved {
            self.stale.insert(cluster.clone());
        }
    }

    pub fn mark_stale(&mut self, cluster: &Uid) {
        self.stale.insert(cluster.clone());
    }

    pub fn take_stale(&mut self) -> BTreeSet<Uid> {
        std::mem::take(&mut self.stale)
    }

    /// Equal demands of many Applications are taken at once: a thousand small Applications cost one.
    pub fn room(&self, cluster: &Uid, sketch: &Sketch) -> Room {
        let mut room = Room::of(sketch);
        let mut sums: BTreeMap<&Demand, u32> = BTreeMap::new();
        for (demand, replicas) in self.held.get(cluster).into_iter().flat_map(BTreeMap::values).flatten() {
            let sum = sums.entry(demand).or_default();
            *sum = sum.saturating_add(*replicas);
        }
        for (demand, replicas) in sums {
            room.take(demand, replicas);
        }
        room
    }
}

/// What of a row is still to come. `reported` is the revision that the report speaks of, where it is still known.
pub fn outstanding(row: &Row, revision: &Revision, report: Option<&Report>, reported: Option<&Revision>) -> Reserved {
    let mut reserved = Vec::new();
    for (name, share) in &row.components {
        let Some(demand) = demand_of(revision, name) else { continue };
        // Pods of an older generation hold room for the demand they had; only an equal demand is the same room.
        let before = reported.and_then(|revision| demand_of(revision, name));
        let counts = |report: &&Report| report.generation == row.generation || before == Some(demand);
        let line = report.filter(counts).and_then(|report| report.components.iter().find(|line| line.name == *name));
        let bound = line.and_then(|line| line.replicas).map_or(0, |replicas| replicas.bound);
        let missing = share.replicas.unwrap_or(0).saturating_sub(bound);
        if missing > 0 {
            reserved.push((demand.clone(), missing));
        }
    }
    reserved
}

fn demand_of<'a>(revision: &'a Revision, component: &str) -> Option<&'a Demand> {
    revision.components.iter().find(|known| known.name == component)?.demand.as_ref()
}
