//! Reservations: what is decided and not yet seen in a sketch (rule 6).
//!
//! Derived from stored placements, stored reports and the decisions under way, so they survive a change of leader. A
//! replica is seen once its agent reported it bound: the sketch that was sent before that report counts it already. A
//! pod that a rollout has yet to replace is seen with what it asks for, not with what its successor will.
//!
//! Room is given back when the decision is another, when the pods are seen, when the write that nobody knew the end of
//! has had its time, and when the member or its agent has refused the work for [`REFUSED_MS`] (decision 14). It is never
//! given back because something is silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    flow::schedule::Room,
    model::{
        Demand, ObjectRef, Placement, Report, Resources, Sketch, Uid,
        placement::Row,
        report::{ComponentReport, ObjectState, ReplicaCount},
        revision::{RenderedComponent, Revision},
    },
};

pub type Reserved = Vec<(Demand, u32)>;

/// A work that is refused as long as this gives its room back; it is taken again when it is refused no more.
pub const REFUSED_MS: u64 = 60_000;

/// A placement that may or may not be stored.
#[derive(Debug, Clone)]
pub struct Doubt {
    pub placement: Arc<Placement>,
    /// The revision that it stores, by name.
    pub revision: Option<(String, Arc<Revision>)>,
    pub until_ms: u64,
}

#[derive(Debug, Default)]
pub struct Reservations {
    clusters: BTreeMap<Uid, Held>,
    /// Application → clusters that it is held in.
    homes: BTreeMap<Uid, BTreeSet<Uid>>,
    /// Clusters whose room has to be made anew.
    stale: BTreeSet<Uid>,
    doubts: BTreeMap<Uid, Doubt>,
    /// (cluster, Application) → since when it is refused there; absent once its room is given back.
    refused: BTreeMap<(Uid, Uid), u64>,
    given_up: BTreeSet<(Uid, Uid)>,
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
    pub fn with(doubts: BTreeMap<Uid, Doubt>) -> Self {
        Self { doubts, ..Self::default() }
    }

    pub fn into_doubts(self) -> BTreeMap<Uid, Doubt> {
        self.doubts
    }

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

    pub fn doubt(&mut self, application: &Uid, doubt: Doubt) {
        self.doubts.insert(application.clone(), doubt);
    }

    pub fn take_doubt(&mut self, application: &Uid) -> Option<Doubt> {
        self.doubts.remove(application)
    }

    pub fn doubted(&self, application: &Uid) -> Option<&Doubt> {
        self.doubts.get(application)
    }

    /// A stored decision settles all doubts about those up to it: only one of a number is ever stored.
    pub fn settle(&mut self, application: &Uid, stored: Option<&Placement>) {
        let decision = stored.map_or(0, |placement| placement.decision);
        if self.doubts.get(application).is_some_and(|doubt| doubt.placement.decision <= decision) {
            self.doubts.remove(application);
        }
    }

    /// Whether a work is refused, as its agent said last.
    pub fn refused(&mut self, now_ms: u64, (cluster, application): (&Uid, &Uid), refused: bool) {
        let key = (cluster.clone(), application.clone());
        match refused {
            false => {
                self.refused.remove(&key);
                self.given_up.remove(&key);
            }
            true if !self.given_up.contains(&key) => drop(self.refused.entry(key).or_insert(now_ms)),
            true => {}
        }
    }

    pub fn has_given_up(&self, cluster: &Uid, application: &Uid) -> bool {
        !self.given_up.is_empty() && self.given_up.contains(&(cluster.clone(), application.clone()))
    }

    /// When [`Self::lapse`] has something to say.
    pub fn deadline(&self) -> Option<u64> {
        let doubts = self.doubts.values().map(|doubt| doubt.until_ms);
        doubts.chain(self.refused.values().map(|since| since + REFUSED_MS)).min()
    }

    /// Whose doubts are over, and who has been refused for long enough.
    pub fn lapse(&mut self, now_ms: u64) -> (Vec<Uid>, Vec<(Uid, Uid)>) {
        if self.deadline().is_none_or(|at_ms| at_ms > now_ms) {
            return Default::default();
        }
        let over = |(_, doubt): &(&Uid, &Doubt)| doubt.until_ms <= now_ms;
        let doubts: Vec<Uid> = self.doubts.iter().filter(over).map(|(application, _)| application.clone()).collect();
        doubts.iter().for_each(|application| drop(self.doubts.remove(application)));
        let long = |(_, since): &(&(Uid, Uid), &u64)| **since + REFUSED_MS <= now_ms;
        let refused: Vec<_> = self.refused.iter().filter(long).map(|(key, _)| key.clone()).collect();
        for key in &refused {
            self.refused.remove(key);
            self.given_up.insert(key.clone());
        }
        (doubts, refused)
    }

    pub fn mark_stale(&mut self, cluster: &Uid) {
        self.stale.insert(cluster.clone());
    }

    pub fn take_stale(&mut self) -> BTreeSet<Uid> {
        std::mem::take(&mut self.stale)
    }

    pub fn room(&self, cluster: &Uid, sketch: &Sketch) -> Room {
        let mut room = Room::of(sketch);
        let Some(held) = self.clusters.get(cluster) else { return room };
        let mut sums = held.sums.iter().peekable();
        while let Some((demand, replicas)) = sums.next() {
            let mut sum = *replicas;
            // Where nothing bounds their namespaces, demands that differ in them alone are one; they stand side by side.
            while let Some((_, more)) = sums.next_if(|(next, _)| {
                next.is_like(demand) && !room.has_rules(&next.namespace) && !room.has_rules(&demand.namespace)
            }) {
                sum += more;
            }
            room.take(demand, u32::try_from(sum).unwrap_or(u32::MAX));
        }
        room
    }
}

impl Held {
    /// Whether that is another amount.
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

/// By demand, in order.
fn summed(reserved: &Reserved) -> Reserved {
    let mut sums: BTreeMap<&Demand, u32> = BTreeMap::new();
    for (demand, replicas) in reserved {
        let sum = sums.entry(demand).or_default();
        *sum = sum.saturating_add(*replicas);
    }
    sums.into_iter().map(|(demand, replicas)| (demand.clone(), replicas)).collect()
}

/// All that is needed whichever of the two turns out to be true. Of different demands both are held: a large one is not
/// less than many small ones.
pub fn either(one: Reserved, other: Reserved) -> Reserved {
    if one.is_empty() || one == other {
        return summed(&other);
    }
    let mut most: BTreeMap<Demand, u32> = summed(&one).into_iter().collect();
    for (demand, replicas) in summed(&other) {
        let known = most.entry(demand).or_default();
        *known = replicas.max(*known);
    }
    most.into_iter().collect()
}

/// What of a row is still to come. `reported` is the revision that the report speaks of, where it is still known. What is
/// refused is not to come where it was `given_up`.
pub fn outstanding(
    row: &Row,
    revision: &Revision,
    report: Option<&Report>,
    reported: Option<&Revision>,
    given_up: bool,
) -> Reserved {
    let mut reserved = Vec::new();
    for (name, share) in &row.components {
        let Some(component) = component_of(revision, name) else { continue };
        let Some(demand) = &component.demand else { continue };
        let line = report.and_then(|report| report.components.iter().find(|line| line.name == *name));
        let before = reported.and_then(|revision| component_of(revision, name));
        let is_of_row = report.is_some_and(|report| report.generation == row.generation);
        let mut expect =
            |manifest: Option<usize>, demand: &Demand, seen: Option<Seen>, wanted: &dyn Fn(Option<&Seen>) -> u32| {
                let object = manifest.and_then(|index| component.manifests.get(index)).map(|manifest| &manifest.object);
                if given_up && report.is_some_and(|report| refuses(row, report, object)) {
                    return;
                }
                let known = seen.as_ref().map_or(0, |seen| seen.replicas.seen(&seen.held, demand));
                let missing = wanted(seen.as_ref()).saturating_sub(known);
                if missing > 0 {
                    reserved.push((demand.clone(), missing));
                }
            };
        // Pods of an older generation hold room for the demand they had; only an equal demand is the same room.
        let counts = is_of_row || before.is_some_and(|before| before.demand.as_ref() == Some(demand));
        let seen = line.filter(|_| counts).and_then(|line| Seen::of_workload(line, component));
        // What has no replicas to count, a Job or a Pod, wants one pod until its agent says how many still; what the
        // member scales wants what its agent says.
        expect(component.workload(), demand, seen, &|seen| {
            let said = || seen.map_or(1, |seen| seen.replicas.desired);
            share.replicas.filter(|_| !seen.is_some_and(|seen| seen.scaled)).unwrap_or_else(said)
        });
        for beside in &component.beside {
            let was_so = |before: &RenderedComponent| before.beside.iter().any(|known| known.demand == beside.demand);
            let seen = line.filter(|_| is_of_row || before.is_some_and(was_so));
            let seen = seen.and_then(|line| Seen::of(line, component, beside.manifest));
            expect(Some(beside.manifest), &beside.demand, seen, &|seen| {
                let said = seen.filter(|seen| beside.ends || seen.scaled).map(|seen| seen.replicas.desired);
                said.unwrap_or(beside.count)
            });
        }
    }
    reserved
}

/// What a report says of the pods of one object.
struct Seen {
    replicas: ReplicaCount,
    held: Resources,
    scaled: bool,
}

impl Seen {
    /// Of one of several objects. An agent that does not tell them apart tells nothing of it, and all of it stays reserved.
    fn of(line: &ComponentReport, component: &RenderedComponent, manifest: usize) -> Option<Self> {
        let object = &component.manifests.get(manifest)?.object;
        let told = line.workloads.iter().find(|told| told.object == *object)?;
        Some(Self { replicas: told.replicas, held: told.held.clone(), scaled: told.scaled })
    }

    fn of_workload(line: &ComponentReport, component: &RenderedComponent) -> Option<Self> {
        if line.workloads.is_empty() && component.beside.is_empty() {
            return Some(Self { replicas: line.replicas?, held: line.held.clone(), scaled: line.scaled });
        }
        Self::of(line, component, component.workload()?)
    }
}

/// Whether the agent refuses the work, or the member an object of this component that runs pods.
pub fn is_refused(row: &Row, revision: &Revision, report: &Report, component: &str) -> bool {
    let known = component_of(revision, component).filter(|known| known.demand.is_some());
    let beside = known.iter().flat_map(|known| &known.beside).map(|beside| beside.manifest);
    let mut manifests = known.and_then(RenderedComponent::workload).into_iter().chain(beside);
    let object = |index: usize| known?.manifests.get(index).map(|manifest| &manifest.object);
    refuses(row, report, None) || manifests.any(|index| refuses(row, report, object(index)))
}

/// Whether the agent refuses the work, or the member this object of it.
fn refuses(row: &Row, report: &Report, object: Option<&ObjectRef>) -> bool {
    let refused = |object: &ObjectRef| {
        report.objects.iter().any(|known| known.object == *object && known.state == ObjectState::Refused)
    };
    report.refused.is_some() || report.generation == row.generation && object.is_some_and(refused)
}

fn component_of<'a>(revision: &'a Revision, name: &str) -> Option<&'a RenderedComponent> {
    revision.components.iter().find(|known| known.name == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        Digest, GroupVersionKind, ObjectName,
        demand::{HOSTNAME_LABEL, Spread, SpreadRule},
        placement::Share,
        quantity::{CPU, PODS},
        report::{ObjectReport, WorkloadReport},
        revision::{Beside, RenderedManifest, ReplicasAt},
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

    /// A component of one part in `eu`, and the revision that it is of.
    fn part(type_: &str, replicas: Option<u32>) -> (Row, Revision) {
        let name = "web".to_owned();
        let component = RenderedComponent {
            name: name.clone(),
            type_: type_.into(),
            manifests: Vec::new(),
            demand: Some(cpu(1000)),
            replicas: None,
            ..RenderedComponent::default()
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
            components: [(name, Share { replicas, reason: String::new() })].into(),
            removals: Vec::new(),
            trace: String::new(),
        };
        (row, revision)
    }

    /// A rollout to pods that ask for more: those still bound from before hold less than what is decided.
    #[test]
    fn a_pod_to_be_replaced_is_seen_with_what_it_asks_for() {
        let (row, revision) = part("webservice", Some(5));
        let still = |bound: u32, milli: i64| {
            let replicas = Some(ReplicaCount { desired: 5, bound, ..ReplicaCount::default() });
            let held = Resources::of([(CPU, milli), (PODS, bound.into())]);
            let line = ComponentReport { name: "web".into(), replicas, held, ..ComponentReport::default() };
            let report = Report { generation: 7, components: vec![line], ..Report::default() };
            outstanding(&row, &revision, Some(&report), None, false).iter().map(|(_, replicas)| replicas).sum::<u32>()
        };
        assert_eq!(still(5, 5 * 400), 3, "five of 400m hold the room of two");
        assert_eq!(still(6, 5 * 400 + 1000), 2, "a pod beyond the count is no replica more");
        assert_eq!(still(5, 5 * 1000), 0);
        assert_eq!(still(4, 4 * 1200), 1, "what the member adds to pods makes them no more");
    }

    #[test]
    fn pods_that_asked_for_something_else_are_not_those_to_come() {
        let (row, revision) = part("webservice", Some(5));
        let still = |generation: u64, milli: i64| {
            let mut reported = revision.clone();
            reported.components[0].demand = Some(cpu(milli));
            let replicas = Some(ReplicaCount { desired: 5, bound: 5, ..ReplicaCount::default() });
            let line = ComponentReport { name: "web".into(), replicas, ..ComponentReport::default() };
            let report = Report { generation, components: vec![line], ..Report::default() };
            let reserved = outstanding(&row, &revision, Some(&report), Some(&reported), false);
            reserved.iter().map(|(_, count)| count).sum::<u32>()
        };
        assert_eq!([still(6, 1000), still(6, 400), still(7, 1000)], [0, 5, 0]);
    }

    #[test]
    fn what_the_member_scales_is_held_as_the_member_scales_it() {
        let (row, revision) = part("webservice", Some(5));
        let still = |desired: u32, scaled: bool| {
            let replicas = Some(ReplicaCount { desired, bound: 1, ..ReplicaCount::default() });
            let line = ComponentReport { name: "web".into(), replicas, scaled, ..ComponentReport::default() };
            let report = Report { generation: 7, components: vec![line], ..Report::default() };
            outstanding(&row, &revision, Some(&report), None, false).iter().map(|(_, count)| count).sum::<u32>()
        };
        assert_eq!([still(2, false), still(2, true), still(9, true)], [4, 1, 8]);
    }

    #[test]
    fn what_has_no_replicas_is_one_pod_until_its_agent_says_how_many() {
        let (row, revision) = part("k8s-objects", None);
        let still = |desired: u32, bound: u32| {
            let replicas = Some(ReplicaCount { desired, bound, ..ReplicaCount::default() });
            let line = ComponentReport { name: "web".into(), replicas, ..ComponentReport::default() };
            let report = Report { generation: 7, components: vec![line], ..Report::default() };
            summed(&outstanding(&row, &revision, Some(&report), None, false))
                .iter()
                .map(|(_, replicas)| *replicas)
                .sum()
        };
        assert_eq!(outstanding(&row, &revision, None, None, false), [(cpu(1000), 1)]);
        let counts: [u32; 4] = [still(1, 0), still(1, 1), still(0, 0), still(10, 4)];
        assert_eq!(counts, [1, 0, 0, 6], "to come, bound, completed, and many at once");
    }

    /// Two Deployments and a Job: the pods of one are not those of another.
    #[test]
    fn every_object_of_a_component_is_held_and_seen_by_itself() {
        let (row, mut revision) = part("k8s-objects", Some(3));
        let object = |kind: &str, name: &str| {
            let group = if kind == "Job" { "batch" } else { "apps" };
            ObjectRef { gvk: GroupVersionKind::new(group, "v1", kind), name: ObjectName::new("default", name) }
        };
        let objects = [object("Deployment", "web"), object("Deployment", "cache"), object("Job", "seed")];
        let component = &mut revision.components[0];
        component.manifests =
            objects.iter().map(|object| RenderedManifest { object: object.clone(), blob: Digest::of(b"") }).collect();
        component.replicas = Some(ReplicasAt { manifest: 0, pointer: "/spec/replicas".into(), count: 3 });
        let beside = |manifest, milli, count, ends| Beside { manifest, demand: cpu(milli), count, ends };
        component.beside = vec![beside(1, 500, 2, false), beside(2, 200, 4, true)];
        let still = |bound: Option<[(u32, u32); 3]>| {
            let told = |(object, (desired, bound)): (&ObjectRef, (u32, u32))| WorkloadReport {
                object: object.clone(),
                replicas: ReplicaCount { desired, bound, ..ReplicaCount::default() },
                held: Resources::default(),
                scaled: false,
            };
            let workloads = objects.iter().zip(bound.into_iter().flatten()).map(told).collect();
            let all = Some(ReplicaCount { desired: 9, bound: 9, ..ReplicaCount::default() });
            let line = ComponentReport { name: "web".into(), replicas: all, workloads, ..ComponentReport::default() };
            let report = Report { generation: 7, components: vec![line], ..Report::default() };
            outstanding(&row, &revision, Some(&report), None, false)
        };
        let (web, cache, seed) = (cpu(1000), cpu(500), cpu(200));
        let all = vec![(web.clone(), 3), (cache.clone(), 2), (seed.clone(), 4)];
        assert_eq!(outstanding(&row, &revision, None, None, false), all);
        assert_eq!(still(None), all, "an agent that does not tell them apart");
        assert_eq!(still(Some([(3, 3), (2, 0), (4, 1)])), [(cache.clone(), 2), (seed.clone(), 3)]);
        assert_eq!(still(Some([(3, 1), (2, 2), (0, 0)])), [(web.clone(), 2)], "the Job is done");
        let refused = |object: &ObjectRef| {
            let objects = vec![ObjectReport {
                object: object.clone(),
                uid: None,
                state: ObjectState::Refused,
                health: crate::model::report::Health::Unknown,
                reason: String::new(),
                message: String::new(),
            }];
            let report = Report { generation: 7, objects, ..Report::default() };
            assert!(is_refused(&row, &revision, &report, "web"));
            outstanding(&row, &revision, Some(&report), None, true)
        };
        assert_eq!(refused(&objects[1]), [(web.clone(), 3), (seed, 4)], "what is refused alone gives its room back");
        assert_eq!(refused(&objects[2]), [(web, 3), (cache, 2)]);
    }

    #[test]
    fn of_two_placements_all_that_either_needs_is_held() {
        let (small, large) = (vec![(cpu(100), 10)], vec![(cpu(300), 5)]);
        assert_eq!(either(small.clone(), large), [(cpu(100), 10), (cpu(300), 5)]);
        assert_eq!(either(small.clone(), vec![(cpu(100), 4), (cpu(100), 3)]), small);
        assert_eq!(either(Vec::new(), small.clone()), small);
    }

    #[test]
    fn what_keeps_apart_from_its_own_kind_stands_beside_another_kind() {
        let reservations = |demand: &Demand| {
            let mut reservations = Reservations::default();
            for application in ["shop", "blog"] {
                reservations.set(&Uid::from("eu"), &Uid::from(application), vec![(demand.clone(), 2)]);
            }
            reservations
        };
        let free = Resources::of([(CPU, 1000), (PODS, 110)]);
        let sketch = Sketch { shapes: vec![Shape { count: 2, free, ..Shape::default() }], ..Sketch::default() };
        let spread = vec![Spread { topology: HOSTNAME_LABEL.into(), rule: SpreadRule::OnePer }];
        let apart = Demand { spread, ..cpu(500) };
        let room = reservations(&apart).room(&Uid::from("eu"), &sketch);
        assert_eq!((room.free(CPU), room.for_demand(&cpu(1))), (0, 0), "two on each node");
        let elsewhere = Demand { namespace: "blog".into(), ..cpu(500) };
        let mut reservations = reservations(&cpu(500));
        reservations.set(&Uid::from("eu"), &Uid::from("third"), vec![(elsewhere, 0)]);
        assert_eq!(reservations.room(&Uid::from("eu"), &sketch).free(CPU), 0);
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
