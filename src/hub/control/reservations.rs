//! Reservations: what is decided and not yet seen in a sketch (rule 6).
//!
//! Derived from stored placements, stored reports and the decisions under way, so they survive a change of leader. A
//! replica is seen once its agent reported it bound: the sketch that was sent before that report counts it already. A
//! pod that a rollout has yet to replace is seen with what it asks for, not with what its successor will.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    flow::schedule::Room,
    model::{Demand, Report, Sketch, Uid, placement::Row, revision::Revision},
};

pub type Reserved = Vec<(Demand, u32)>;

#[derive(Debug, Default)]
pub struct Reservations {
    clusters: BTreeMap<Uid, Held>,
    /// Application → clusters that it is held in.
    homes: BTreeMap<Uid, BTreeSet<Uid>>,
    /// Clusters whose room has to be made anew.
    stale: BTreeSet<Uid>,
}

/// What is reserved in one cluster.
#[derive(Debug, Default)]
struct Held {
    /// What each Application still has to come.
    applications: BTreeMap<Uid, Reserved>,
    /// The same, by demand: a thousand small Applications of one shape cost one.
    sums: BTreeMap<Demand, u64>,
}

impl Reservations {
    /// Replaces all that an Application still has to come.
    pub fn set_all(&mut self, application: &Uid, reserved: BTreeMap<Uid, Reserved>) {
        let before = self.homes.get(application).cloned().unwrap_or_default();
        for cluster in before.iter().filter(|cluster| !reserved.contains_key(*cluster)) {
            self.set(cluster, application, Vec::new());
        }
        for (cluster, reserved) in reserved {
            self.set(&cluster, application, reserved);
        }
    }

    pub fn set(&mut self, cluster: &Uid, application: &Uid, reserved: Reserved) {
        match self.homes.get_mut(application) {
            Some(homes) if reserved.is_empty() => {
                homes.remove(cluster);
                if homes.is_empty() {
                    self.homes.remove(application);
                }
            }
            Some(homes) => drop(homes.insert(cluster.clone())),
            None if reserved.is_empty() => {}
            None => drop(self.homes.insert(application.clone(), [cluster.clone()].into())),
        }
        let held = match self.clusters.get_mut(cluster) {
            Some(held) => held,
            None if reserved.is_empty() => return,
            None => self.clusters.entry(cluster.clone()).or_default(),
        };
        if held.set(application, reserved) {
            self.stale.insert(cluster.clone());
        }
    }

    pub fn mark_stale(&mut self, cluster: &Uid) {
        self.stale.insert(cluster.clone());
    }

    pub fn take_stale(&mut self) -> BTreeSet<Uid> {
        std::mem::take(&mut self.stale)
    }

    pub fn room(&self, cluster: &Uid, sketch: &Sketch) -> Room {
        let mut room = Room::of(sketch);
        for (demand, replicas) in self.clusters.get(cluster).into_iter().flat_map(|held| &held.sums) {
            room.take(demand, u32::try_from(*replicas).unwrap_or(u32::MAX));
        }
        room
    }
}

impl Held {
    /// Whether that changed anything.
    fn set(&mut self, application: &Uid, reserved: Reserved) -> bool {
        let before = self.applications.get(application).map(Vec::as_slice).unwrap_or_default();
        if before == reserved {
            return false;
        }
        for (demand, replicas) in before {
            let Some(sum) = self.sums.get_mut(demand) else { continue };
            *sum = sum.saturating_sub(u64::from(*replicas));
            if *sum == 0 {
                self.sums.remove(demand);
            }
        }
        for (demand, replicas) in &reserved {
            *self.sums.entry(demand.clone()).or_default() += u64::from(*replicas);
        }
        match reserved.is_empty() {
            true => self.applications.remove(application),
            false => self.applications.insert(application.clone(), reserved),
        };
        true
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
        let missing = share.replicas.unwrap_or(0).saturating_sub(line.map_or(0, |line| line.seen(demand)));
        if missing > 0 {
            reserved.push((demand.clone(), missing));
        }
    }
    reserved
}

fn demand_of<'a>(revision: &'a Revision, component: &str) -> Option<&'a Demand> {
    revision.components.iter().find(|known| known.name == component)?.demand.as_ref()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        Digest, ObjectName, Resources,
        placement::Share,
        quantity::{CPU, PODS},
        report::{ComponentReport, ReplicaCount},
        revision::RenderedComponent,
        sketch::Shape,
    };

    fn cpu(milli: i64) -> Demand {
        Demand { requests: Resources::of([(CPU, milli)]), ..Demand::default() }
    }

    proptest! {
        #[test]
        fn sums_are_what_the_applications_add_up_to(
            changes in prop::collection::vec((0u8..3, 0u8..3, prop::collection::vec((1i64..3, 1u32..5), 0..3)), 0..30),
        ) {
            let mut reservations = Reservations::default();
            let mut expected: BTreeMap<(u8, u8), Reserved> = BTreeMap::new();
            for (cluster, application, reserved) in changes {
                let reserved: Reserved = reserved.into_iter().map(|(milli, count)| (cpu(milli), count)).collect();
                reservations.set(&Uid(cluster.to_string()), &Uid(application.to_string()), reserved.clone());
                expected.insert((cluster, application), reserved);
            }
            for cluster in 0..3 {
                let mut sums: BTreeMap<Demand, u64> = BTreeMap::new();
                for ((_, _), reserved) in expected.iter().filter(|((of, _), _)| *of == cluster) {
                    reserved.iter().for_each(|(demand, count)| *sums.entry(demand.clone()).or_default() += u64::from(*count));
                }
                let held = reservations.clusters.get(&Uid(cluster.to_string()));
                prop_assert_eq!(held.map(|held| held.sums.clone()).unwrap_or_default(), sums);
            }
        }
    }

    /// A rollout to pods that ask for more: those still bound from before hold less than what is decided.
    #[test]
    fn a_pod_to_be_replaced_is_seen_with_what_it_asks_for() {
        let name = "web".to_owned();
        let component = RenderedComponent {
            name: name.clone(),
            type_: "webservice".into(),
            manifests: Vec::new(),
            demand: Some(cpu(1000)),
            replicas: None,
        };
        let revision = Revision {
            application: ObjectName::new("default", "shop"),
            application_uid: Uid::from("shop"),
            number: 2,
            spec_digest: Digest::of(b"spec"),
            application_blob: Digest::of(b"application"),
            components: vec![component],
        };
        let row = Row {
            cluster: Uid::from("eu"),
            cluster_name: "eu".into(),
            generation: 7,
            revision: "shop-v2".into(),
            components: [(name.clone(), Share { replicas: Some(5), reason: String::new() })].into(),
            removals: Vec::new(),
            trace: String::new(),
        };
        let still = |bound: u32, milli: i64| {
            let replicas = Some(ReplicaCount { desired: 5, bound, ..ReplicaCount::default() });
            let held = Resources::of([(CPU, milli), (PODS, bound.into())]);
            let line = ComponentReport { name: name.clone(), replicas, held, ..ComponentReport::default() };
            let report = Report { generation: 7, components: vec![line], ..Report::default() };
            outstanding(&row, &revision, Some(&report), None).iter().map(|(_, replicas)| replicas).sum::<u32>()
        };
        assert_eq!(still(5, 5 * 400), 3, "five of 400m hold the room of two");
        assert_eq!(still(6, 5 * 400 + 1000), 2, "a pod beyond the count is no replica more");
        assert_eq!(still(5, 5 * 1000), 0);
        assert_eq!(still(4, 4 * 1200), 1, "what the member adds to pods makes them no more");
    }

    #[test]
    fn what_an_application_no_longer_has_to_come_is_given_back() {
        let (eu, us, shop) = (Uid::from("eu"), Uid::from("us"), Uid::from("shop"));
        let mut reservations = Reservations::default();
        let sketch = Sketch {
            shapes: vec![Shape {
                count: 1,
                free: Resources::of([(CPU, 4000), (crate::model::quantity::PODS, 110)]),
                ..Shape::default()
            }],
            ..Sketch::default()
        };
        reservations.set_all(&shop, [(eu.clone(), vec![(cpu(1000), 3)]), (us.clone(), vec![(cpu(1000), 1)])].into());
        assert_eq!(reservations.room(&eu, &sketch).for_demand(&cpu(1000)), 1);
        assert_eq!(reservations.take_stale().len(), 2);
        reservations.set_all(&shop, [(us.clone(), vec![(cpu(1000), 1)])].into());
        assert_eq!(reservations.room(&eu, &sketch).for_demand(&cpu(1000)), 4);
        assert_eq!(reservations.take_stale(), [eu].into(), "what did not change is not made anew");
        reservations.set_all(&shop, BTreeMap::new());
        assert!(reservations.homes.is_empty());
    }
}
