//! Applications: spec → revision → placement → status, one decision at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Controller, Effect,
    agenda::Due,
    clusters::confirmed,
    handing,
    index::StoredApplication,
    lanes::{Plan, unchanged},
};
use crate::{
    flow::{
        render::render,
        rollup,
        schedule::{
            Bound, Cessions, Fleet, Neighbours, Problem, Profiles, Rebalance, Running, Solution, bind,
            handover::leaves_wholly, preempt, solve_telling,
        },
        slice::{self, Cause, Change},
    },
    hub::{
        events::{About, Note, uid_of},
        keys, records,
    },
    kinds::{
        APPLICATION, APPLICATION_REVISION,
        application::{AUTHOR_ANNOTATION, TRACE_ANNOTATION, WORKS_FINALIZER},
        metadata::{DELETION_AUTHOR_ANNOTATION, DELETION_TRACE_ANNOTATION},
    },
    model::{
        Digest, FieldError, Now, ObjectRef, Placement, Policy, Timestamp, Uid,
        application::ApplicationSpec,
        object::Metadata,
        placement::{Claim, Refusal, Why},
        revision::{RenderedComponent, RenderedManifest, Revision},
    },
    store::{Key, Operation, Transaction, blobs, object},
};

/// What a placement says beside what its solution says.
struct Notes {
    rebalanced: String,
    claims: Vec<Claim>,
    preempted: BTreeMap<String, String>,
}

/// Why a spec could not be rendered; rendered again only when the spec changes.
#[derive(Debug, Clone)]
pub struct RenderFaults {
    spec: Digest,
    faults: Vec<FieldError>,
}

/// Between two statuses of an Application: a thousand reports cost a few writes, and whoever looks sees no delay. The
/// more Applications wait for theirs, the longer each does, so that a burst is delivered before it is told of.
const PACE_MS: u64 = 200;
const PACE_MS_PER_ROW: u64 = 1;
const PACE_MS_PER_WAITING: u64 = 2;
/// Decisions of one step: while the next ones are made these are being stored, and agents are heard in between.
const DECISIONS_MAX: usize = 64;
/// Objects that are being written at once. Beyond that nothing is decided: what is decided early is stored late, and costs
/// memory until then.
pub const LANES_MAX: usize = 256;
/// Refusals kept with a placement: those that say most come first.
const REFUSALS_MAX: usize = 256;
/// A status is cut down to its conditions and counts where the object would not fit a transaction otherwise.
const OBJECT_BYTES_MAX: usize = 900 << 10;

/// What an Application was rendered to, and what has to be stored for it where it is new.
struct Snapshot {
    name: String,
    revision: Arc<Revision>,
    pieces: Vec<Operation>,
}

/// The revision that an Application's rows run, where another is to be decided.
pub(super) struct RunningRevision {
    pub name: String,
    pub revision: Arc<Revision>,
    pub policies: Vec<Policy>,
}

/// All that a decision about an Application is made from, beside the fleet.
pub(super) struct Matter<'a> {
    pub stored: &'a StoredApplication,
    snapshot: &'a Snapshot,
    pub previous: Option<&'a Placement>,
    running: Option<&'a RunningRevision>,
    neighbours: Neighbours,
    profiles: &'a Profiles,
    rebalance: Rebalance,
    cessions: Cessions,
}

impl Matter<'_> {
    /// `held`: clusters that keep what they have until a person says yes.
    pub fn problem<'p>(&'p self, now: Timestamp, held: &'p BTreeSet<Uid>) -> Problem<'p> {
        let running = self.running;
        Problem {
            now,
            policies: &self.stored.view.spec.policies,
            components: &self.snapshot.revision.components,
            previous: self.previous,
            running: running.map(|known| Running { policies: &known.policies, components: &known.revision.components }),
            held,
            neighbours: &self.neighbours,
            profiles: self.profiles,
            rebalance: self.rebalance,
            cessions: &self.cessions,
        }
    }

    /// Name of the revision that is asked for.
    pub fn revision_name(&self) -> &str {
        &self.snapshot.name
    }
}

/// Clusters where an Application would lose a component that nobody named.
pub type Losses = BTreeSet<Uid>;

impl Controller {
    pub(super) fn mark(&mut self, application: &Uid, at_ms: u64, decide: bool) {
        self.due.mark(application, at_ms, decide);
    }

    /// A stored report changes the status soon, and the placement where it confirms removals.
    pub(super) fn on_report_stored(&mut self, now: Now, application: &Uid, cluster: &Uid) {
        let Some(placement) = self.index.placement(application) else { return };
        let row = placement.rows.iter().find(|row| row.cluster == *cluster);
        let report = self.index.report(application, cluster).map(Arc::as_ref);
        let confirms = row.is_some_and(|row| !slice::confirmed(row, report).is_empty() && !row.removals.is_empty());
        // Whether what comes is healthy, or what goes is not.
        let hands_over = placement.has_move_at(cluster);
        let rows = placement.rows.len() as u64;
        let pace = PACE_MS + PACE_MS_PER_ROW * rows + PACE_MS_PER_WAITING * self.due.len() as u64;
        let earliest = self.written_ms.get(application).map_or(0, |written| written + pace);
        let goes_on = self.is_rebalancing(application);
        self.mark(application, earliest.max(now.monotonic_ms), confirms || hands_over || goes_on);
        self.on_victim(now, application);
    }

    pub(super) fn forget_application(&mut self, uid: &Uid) {
        self.due.remove(uid);
        self.losing.remove(uid);
        self.waiting.remove(uid);
        self.wide.remove(uid);
        self.render_faults.remove(uid);
        self.written_ms.remove(uid);
        self.plugins.forget(uid);
        self.rounds.forget(uid);
        self.claims.forget(uid);
        self.retries.remove(uid);
        for cluster in self.brake.clusters_of(uid) {
            self.brake.release(&cluster, uid);
        }
        self.lanes.remove(uid);
        self.reservations.take_doubt(uid);
        self.reserve(uid);
    }

    pub(super) fn settle_applications(&mut self, now: Now) {
        self.claims.begin_step();
        let (index, due) = (&self.index, &mut self.due);
        due.ripen(now.monotonic_ms, |uid| index.priority(uid));
        let ripe = self.due.ripe().filter(|(uid, _)| !self.lanes.contains_key(*uid));
        let most = DECISIONS_MAX.min(LANES_MAX.saturating_sub(self.lanes.len()));
        let mut due: Vec<(Uid, Due)> = ripe.map(|(uid, due)| (uid.clone(), due)).take(most + 1).collect();
        let more = due.len() > most;
        due.truncate(most);
        for (uid, due) in due {
            self.due.remove(&uid);
            let losses = self.settle_application(now, &uid, due.decide, false);
            match losses.is_empty() {
                true => drop(self.losing.remove(&uid)),
                false => drop(self.losing.insert(uid, losses)),
            }
        }
        if more {
            return;
        }
        // All that would go at once is judged together (rule 14), then decided with the verdict.
        let braked = std::mem::take(&mut self.losing);
        let mut by_cluster: BTreeMap<Uid, BTreeSet<Uid>> = BTreeMap::new();
        for (application, clusters) in &braked {
            for cluster in clusters {
                by_cluster.entry(cluster.clone()).or_default().insert(application.clone());
            }
        }
        for (cluster, losing) in &by_cluster {
            let works = self.index.tenants.get(cluster).map_or(0, BTreeSet::len);
            let confirmed = self.index.clusters.get(cluster).and_then(|stored| confirmed(&stored.view));
            self.brake.judge(now.monotonic_ms, cluster, losing, works, confirmed);
            self.clusters_due.insert(cluster.clone(), now.monotonic_ms);
        }
        for application in braked.keys() {
            self.settle_application(now, application, true, true);
        }
    }

    /// Of a placement that may or may not be stored and its successor only one will be, so the room of the one is free for
    /// the other, and for nobody else.
    fn settle_application(&mut self, now: Now, uid: &Uid, decide: bool, judged: bool) -> Losses {
        let doubt = self.reservations.take_doubt(uid);
        if doubt.is_some() {
            self.reserve(uid);
        }
        let losses = self.decide_application(now, uid, decide, judged);
        if let Some(doubt) = doubt {
            self.reservations.doubt(uid, doubt);
            self.reserve(uid);
        }
        losses
    }

    /// Decides, where asked to, and writes what is new. What it would lose unnamed is answered instead of done unless it
    /// has been `judged`.
    fn decide_application(&mut self, now: Now, uid: &Uid, decide: bool, judged: bool) -> Losses {
        let Some(stored) = self.index.applications.get(uid).cloned() else { return Losses::new() };
        if stored.view.metadata.deletion_timestamp.is_some() {
            self.settle_deleted(now, &stored);
            return Losses::new();
        }
        let Some(snapshot) = self.snapshot(now, &stored) else {
            self.write(now, &stored, None, None);
            return Losses::new();
        };
        if !decide && snapshot.pieces.is_empty() {
            self.write(now, &stored, Some(snapshot), None);
            return Losses::new();
        }
        self.refresh_rooms(now);
        let previous = self.index.placement(uid);
        let parts = (snapshot.name.as_str(), snapshot.revision.components.as_slice());
        let Some(profiles) = self.consult(now, &stored, parts, previous.as_deref()) else { return Losses::new() };
        let mut held = BTreeSet::new();
        let running = previous.as_deref().and_then(|previous| self.running(uid, previous, &snapshot));
        let matter = Matter {
            stored: &stored,
            snapshot: &snapshot,
            previous: previous.as_deref(),
            running: running.as_ref(),
            neighbours: self.neighbours(&stored.view),
            profiles: &profiles,
            rebalance: self.rebalance(&stored, previous.as_deref()),
            cessions: self.cessions(uid),
        };
        let mut solution = self.solve(now, &matter, &held);
        let decided = decided_revision(&snapshot, running.as_ref(), &solution);
        let losses = previous.iter().flat_map(|previous| losses(previous, decided, &solution)).collect::<Losses>();
        let unnamed = |cluster: &Uid| self.is_present(cluster) && !self.is_draining(cluster);
        let losses: Losses = losses.into_iter().filter(unnamed).collect();
        for cluster in self.brake.clusters_of(uid).difference(&losses) {
            self.brake.release(cluster, uid);
            self.clusters_due.insert(cluster.clone(), now.monotonic_ms);
        }
        if !judged && !losses.is_empty() {
            return losses;
        }
        held.extend(losses.into_iter().filter(|cluster| self.brake.holds(cluster, uid)));
        if !held.is_empty() {
            solution = self.solve(now, &matter, &held);
        }
        self.note_needs(&stored, &snapshot.revision.components, &solution);
        if let Some(until) = solution.until {
            let in_ms = until.millis().saturating_sub(now.wall.millis()).max(0) as u64;
            self.mark(uid, now.monotonic_ms + in_ms, true);
        }
        let decided = decided_revision(&snapshot, running.as_ref(), &solution);
        let is_new = !snapshot.pieces.is_empty();
        let notes = Notes {
            rebalanced: self.end_rebalance(now, &stored, previous.as_deref(), matter.rebalance, &solution),
            claims: self.claim(now, &matter, &held, &solution),
            preempted: self.preempted(&matter.cessions, previous.as_deref(), &solution),
        };
        let next = self.place(&stored, (decided, is_new), previous.as_deref(), (solution, notes));
        self.write(now, &stored, Some(snapshot), next);
        Losses::new()
    }

    fn is_present(&self, cluster: &Uid) -> bool {
        self.fleet.get(cluster).is_some_and(|candidate| !candidate.deleting)
    }

    fn is_draining(&self, cluster: &Uid) -> bool {
        self.fleet.get(cluster).is_some_and(|candidate| candidate.draining)
    }

    fn solve(&mut self, now: Now, matter: &Matter<'_>, held: &BTreeSet<Uid>) -> Solution {
        #[cfg(test)]
        {
            self.decisions += 1;
        }
        let (stored, problem) = (matter.stored, matter.problem(now.wall, held));
        let claimed = matter.previous.map(|previous| self.claims_of(previous)).unwrap_or_default();
        let rooms = preempt::release(&mut self.fleet, claimed);
        let binding = self.index.bindings.get(&stored.view.metadata.uid).map(Arc::as_ref);
        let decide = |fleet: &mut Fleet, problem: &Problem<'_>| match stored.view.spec.other_scheduler() {
            Some(scheduler) => {
                bind(fleet, problem, &Bound { scheduler, generation: stored.view.metadata.generation, binding })
            }
            None => solve_telling(fleet, problem, REFUSALS_MAX),
        };
        let nothing = BTreeMap::new();
        let reports = self.index.reports.get(&stored.view.metadata.uid).unwrap_or(&nothing);
        let solution = handing::decided(&mut self.fleet, &problem, reports, decide);
        preempt::put_back(&mut self.fleet, rooms);
        if let Some(broken) = &solution.broken {
            self.effects.push(Effect::Fault(format!("{}: {broken}", stored.view.metadata.object_name())));
        }
        solution
    }

    /// What runs while `snapshot` is decided; every row that runs something runs the same. Absent where that is it.
    fn running(&self, uid: &Uid, previous: &Placement, snapshot: &Snapshot) -> Option<RunningRevision> {
        self.runs(uid, previous).filter(|running| running.name != snapshot.name)
    }

    /// What the rows of a placement run.
    pub(super) fn runs(&self, uid: &Uid, placement: &Placement) -> Option<RunningRevision> {
        let name = &placement.rows.iter().find(|row| !row.components.is_empty())?.revision;
        let known = self.index.snapshot(uid, name)?;
        let application = self.index.blobs.get(&known.revision.application_blob)?;
        let mut application: Value = serde_json::from_slice(&application).ok()?;
        let ApplicationSpec { policies, .. } = serde_json::from_value(application["spec"].take()).ok()?;
        Some(RunningRevision { name: name.clone(), revision: known.revision.clone(), policies })
    }

    /// The next placement, where it differs in what matters. `is_new` says that the Application's revision is: then what
    /// its status said before is no answer to it.
    fn place(
        &self,
        stored: &StoredApplication,
        (revision, is_new): ((&str, &Revision), bool),
        previous: Option<&Placement>,
        (solution, notes): (Solution, Notes),
    ) -> Option<Placement> {
        let waiting = solution.waiting;
        let none = nowhere(stored);
        let old = previous.unwrap_or(&none);
        let Notes { rebalanced, claims, preempted } = notes;
        let next = self.next_placement(stored, old, revision, solution);
        let next = Placement { rebalanced, claims, preempted, ..next };
        let same = previous.is_some()
            && !is_new
            && next.rows == old.rows
            && next.moves == old.moves
            && next.rebalanced == old.rebalanced
            && (&next.claims, &next.preempted) == (&old.claims, &old.preempted)
            && same_answers(old, &next, waiting);
        (!same).then_some(next)
    }

    pub(super) fn next_placement(
        &self,
        stored: &StoredApplication,
        previous: &Placement,
        revision: (&str, &Revision),
        solution: Solution,
    ) -> Placement {
        let metadata = &stored.view.metadata;
        let clusters = || previous.rows.iter().map(|row| row.cluster.clone());
        // What another scheduler bound elsewhere is its author's to answer for.
        let bound = self.index.bindings.get(&metadata.uid).filter(|binding| binding.generation == metadata.generation);
        let bound = bound.filter(|_| stored.view.spec.other_scheduler().is_some());
        let agreed = |cluster: Uid| {
            let author = self.brake.agreed(&cluster, &metadata.uid);
            Some((cluster.clone(), author.or(bound.map(|binding| binding.author.as_str()))?))
        };
        let nothing = BTreeMap::new();
        slice::place(
            &Change {
                previous,
                revision,
                revisions: &|name| {
                    let known = self.index.snapshot(&metadata.uid, name).map(|snapshot| snapshot.revision.as_ref());
                    known.or((name == revision.0).then_some(revision.1))
                },
                reports: self.index.reports.get(&metadata.uid).unwrap_or(&nothing),
                names: &|uid| self.fleet.get(uid).map(|candidate| candidate.name.clone()).unwrap_or_default(),
                dropped: &clusters().filter(|cluster| self.is_dropped(cluster)).collect(),
                drained: &clusters().filter_map(|cluster| Some((cluster.clone(), self.drain(&cluster)?))).collect(),
                agreed: &clusters().filter_map(agreed).collect(),
                deleted: metadata.deletion_timestamp.map(|_| deletion(metadata)),
                changed: cause(metadata, AUTHOR_ANNOTATION, TRACE_ANNOTATION),
            },
            solution,
        )
    }

    /// The newest revision if it is of this spec, else a new one. `None` where the spec cannot be rendered.
    fn snapshot(&mut self, now: Now, stored: &StoredApplication) -> Option<Snapshot> {
        let uid = &stored.view.metadata.uid;
        let newest = self.index.newest(uid);
        if let Some(newest) = newest.filter(|newest| newest.revision.spec_digest == stored.spec_digest) {
            let (name, revision) = (newest.name.clone(), newest.revision.clone());
            self.render_faults.remove(uid);
            return Some(Snapshot { name, revision, pieces: Vec::new() });
        }
        if self.render_faults.get(uid).is_some_and(|known| known.spec == stored.spec_digest) {
            return None;
        }
        let metadata = &stored.view.metadata;
        // An older Application of the same name may have left revisions that are still to be swept.
        let mut number = newest.map_or(0, |newest| newest.revision.number) + 1;
        let key_of =
            |number| keys::key(&APPLICATION_REVISION, &metadata.namespace, &format!("{}-v{number}", metadata.name));
        while self.index.has_snapshot_key(&key_of(number)) {
            number += 1;
        }
        match make_snapshot(now, stored, number, key_of(number)) {
            Ok(snapshot) => {
                self.render_faults.remove(uid);
                Some(snapshot)
            }
            Err(faults) => {
                let message = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                self.tell(now, stored, true, "RenderFailed", message);
                self.render_faults.insert(uid.clone(), RenderFaults { spec: stored.spec_digest, faults });
                None
            }
        }
    }

    /// Writes the decision, if there is one, and the status, if it changed, in one transaction that holds only if the
    /// Application is as it was read.
    fn write(&mut self, now: Now, stored: &StoredApplication, snapshot: Option<Snapshot>, next: Option<Placement>) {
        let uid = &stored.view.metadata.uid;
        let mut object = stored.object();
        let before = object["status"].take();
        let known = self.index.placement(uid);
        let placement = next.as_ref().or(known.as_deref());
        let status = self.status(now, stored, &before, snapshot.as_ref(), placement);
        let finalizers = &stored.view.metadata.finalizers;
        let ours = finalizers.iter().any(|finalizer| finalizer == WORKS_FINALIZER);
        let fresh = snapshot.as_ref().is_some_and(|snapshot| !snapshot.pieces.is_empty());
        if status == before && next.is_none() && !fresh && ours {
            return;
        }
        self.tell_of_change(now, stored, snapshot.as_ref().filter(|_| fresh), next.as_ref(), &before, &status);
        if !ours {
            let mut finalizers = finalizers.clone();
            finalizers.push(WORKS_FINALIZER.to_owned());
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        object["status"] = status;
        let mut plan = self.application_plan(stored, encode(object));
        if let Some(snapshot) = snapshot.filter(|_| fresh) {
            plan.revision = Some((snapshot.name, snapshot.revision));
            plan.pieces = snapshot.pieces;
        }
        if let Some(next) = next {
            self.add_placement(&mut plan, uid, next);
        }
        self.written_ms.insert(uid.clone(), now.monotonic_ms);
        self.begin(uid, plan);
    }

    pub(super) fn application_plan(&self, stored: &StoredApplication, value: Bytes) -> Plan {
        let key = stored.entry.key.clone();
        let pointer = Transaction {
            compares: vec![unchanged(key.clone(), Some(stored.entry.modified))],
            operations: vec![Operation::Put(key, value)],
        };
        Plan { pointer, ..Plan::default() }
    }

    /// Chunks first, the head with a compare on its predecessor, and the predecessor's chunks deleted with it.
    pub(super) fn add_placement(&self, plan: &mut Plan, uid: &Uid, next: Placement) {
        let (chunks, (head, value)) = records::encode(&next);
        plan.pieces.extend(chunks.into_iter().map(|(key, value)| Operation::Put(key, value)));
        let known = self.index.placements.get(uid);
        plan.pointer.compares.push(unchanged(head.clone(), known.map(|known| known.modified)));
        plan.pointer.operations.push(Operation::Put(head, value));
        let old = known.into_iter().flat_map(|known| records::chunk_keys(&known.placement));
        plan.pointer.operations.extend(old.map(Operation::Delete));
        plan.placement = Some(Arc::new(next));
    }

    fn status(
        &self,
        now: Now,
        stored: &StoredApplication,
        previous: &Value,
        snapshot: Option<&Snapshot>,
        placement: Option<&Placement>,
    ) -> Value {
        let uid = &stored.view.metadata.uid;
        let newest = self.index.newest(uid).map(|newest| (newest.name.as_str(), newest.revision.as_ref()));
        let revision = snapshot.map(|snapshot| (snapshot.name.as_str(), snapshot.revision.as_ref())).or(newest);
        let nothing = BTreeMap::new();
        let words = |cluster: Uid| {
            let name = self.fleet.get(&cluster)?.name.clone();
            let works = self.index.tenants.get(&cluster).map_or(0, BTreeSet::len);
            let words = self.brake.words(&cluster, &name, works)?;
            Some((name, words))
        };
        let held = self.brake.clusters_of(uid).into_iter().filter_map(words).collect();
        rollup::status(
            now,
            &rollup::Facts {
                application: &stored.view,
                previous,
                revision,
                placement,
                reports: self.index.reports.get(uid).unwrap_or(&nothing),
                clusters: &self.truths,
                faults: self.render_faults.get(uid).map(|known| known.faults.as_slice()).unwrap_or_default(),
                plugin: self.plugins.failure(uid),
                class: self.index.classes.missing(&stored.view.spec.policies),
                held: &held,
            },
        )
    }

    pub(super) fn status_of_deleted(&self, now: Now, stored: &StoredApplication, placement: &Placement) -> Value {
        let previous = stored.object()["status"].take();
        self.status(now, stored, &previous, None, Some(placement))
    }

    fn tell_of_change(
        &mut self,
        now: Now,
        stored: &StoredApplication,
        fresh: Option<&Snapshot>,
        next: Option<&Placement>,
        before: &Value,
        after: &Value,
    ) {
        if let Some(snapshot) = fresh {
            let objects: usize = snapshot.revision.components.iter().map(|component| component.manifests.len()).sum();
            self.tell(now, stored, false, "Rendered", format!("{}: {objects} objects", snapshot.name));
        }
        if let Some(next) = next {
            let sum = after["placement"]["sum"].as_str().unwrap_or_default();
            if next.unplaced.is_empty() {
                let names: Vec<_> = next.rows.iter().map(|row| row.cluster_name.as_str()).take(10).collect();
                self.tell(now, stored, false, "Placed", format!("{sum} in {}", names.join(", ")));
            }
            for (component, what) in &next.unplaced {
                self.tell(now, stored, true, "Unplaced", format!("{component}: {what}"));
            }
            if let Some(words) = rollup::making_room(next) {
                self.tell(now, stored, false, "Preempting", words);
            }
            for (component, words) in &next.preempted {
                self.tell(now, stored, true, "Preempted", format!("{component}: {words}"));
            }
        }
        let (old, new) = (before["status"].as_str().unwrap_or_default(), after["status"].as_str().unwrap_or_default());
        let message = || {
            let conditions = after["conditions"].as_array().into_iter().flatten();
            let ready =
                conditions.filter(|condition| condition["type"] == "Ready").find_map(|ready| ready["message"].as_str());
            ready.unwrap_or_default().to_owned()
        };
        match new {
            _ if old == new => {}
            "running" => self.tell(now, stored, false, "Running", message()),
            "unhealthy" => self.tell(now, stored, true, "Unhealthy", message()),
            _ => {}
        }
    }

    pub(super) fn tell(
        &mut self,
        now: Now,
        stored: &StoredApplication,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let metadata = &stored.view.metadata;
        let about = About { gvk: APPLICATION.gvk.clone(), name: metadata.object_name(), uid: metadata.uid.clone() };
        self.note(now, &Note { about, warning, reason: reason.into(), message });
    }
}

/// The request that deleted an object.
pub fn deletion(metadata: &Metadata) -> Cause<'_> {
    cause(metadata, DELETION_AUTHOR_ANNOTATION, DELETION_TRACE_ANNOTATION)
}

pub fn cause<'a>(metadata: &'a Metadata, author: &str, trace: &str) -> Cause<'a> {
    let annotation = |key: &str| metadata.annotations.get(key).map(String::as_str).unwrap_or_default();
    Cause { author: annotation(author), trace: annotation(trace) }
}

/// Before the first decision.
pub fn nowhere(stored: &StoredApplication) -> Placement {
    Placement {
        application: stored.view.metadata.object_name(),
        application_uid: stored.view.metadata.uid.clone(),
        decision: 0,
        rows: Vec::new(),
        refusals: Vec::new(),
        unplaced: BTreeMap::new(),
        moves: Vec::new(),
        rebalanced: String::new(),
        claims: Vec::new(),
        preempted: BTreeMap::new(),
    }
}

/// The revision that a solution's shares are of.
fn decided_revision<'s>(
    snapshot: &'s Snapshot,
    running: Option<&'s RunningRevision>,
    solution: &Solution,
) -> (&'s str, &'s Revision) {
    match running.filter(|_| !solution.outgrown.is_empty()) {
        Some(running) => (&running.name, &running.revision),
        None => (&snapshot.name, &snapshot.revision),
    }
}

/// Clusters that would lose a component although nobody changed the Application: its newest revision, which still has
/// the component, runs there already.
fn losses(previous: &Placement, (revision_name, revision): (&str, &Revision), solution: &Solution) -> Losses {
    let known = |name: &str| revision.components.iter().any(|component| component.name == name);
    let mut losses = Losses::new();
    for row in previous.rows.iter().filter(|row| row.revision == revision_name) {
        let lost = |name: &String| known(name) && leaves_wholly(solution, &row.cluster, name);
        if row.components.keys().any(lost) {
            losses.insert(row.cluster.clone());
        }
    }
    losses
}

/// Whether two decisions say no to the same clusters, and, while the Application waits for one of them, for the same kind
/// of reason. Figures alone, and a sketch that is not there yet after a restart, are no news: they are told with the next
/// change. One that has all it asked for keeps the reasons it was decided with.
fn same_answers(old: &Placement, new: &Placement, waiting: bool) -> bool {
    let kind = |why: &Why| match why {
        Why::NoRoom { .. } | Why::Together { .. } => "OutScored",
        other => other.reason(),
    };
    let same = |(one, other): (&Refusal, &Refusal)| {
        let unknown_yet = other.why == Why::NoSketch;
        one.cluster == other.cluster
            && one.component == other.component
            && (!waiting || unknown_yet || kind(&one.why) == kind(&other.why))
    };
    old.unplaced.keys().eq(new.unplaced.keys())
        && old.refusals.len() == new.refusals.len()
        && old.refusals.iter().zip(&new.refusals).all(same)
}

fn make_snapshot(now: Now, stored: &StoredApplication, number: u64, key: Key) -> Result<Snapshot, Vec<FieldError>> {
    let application = &stored.view;
    let metadata = &application.metadata;
    let name = format!("{}-v{number}", metadata.name);
    let rendered = render(application, &name)?;
    let mut contents: BTreeMap<Digest, Bytes> = BTreeMap::new();
    let mut address = |value: &Value| {
        let bytes = Bytes::from(value.to_string());
        let digest = Digest::of(&bytes);
        contents.insert(digest, bytes);
        digest
    };
    let components = rendered.components.into_iter().map(|component| RenderedComponent {
        manifests: component
            .objects
            .iter()
            .filter_map(|object| Some(RenderedManifest { object: ObjectRef::of(object)?, blob: address(object) }))
            .collect(),
        name: component.name,
        type_: component.type_,
        demand: component.demand,
        replicas: component.replicas,
        beside: component.beside,
        references: component.references,
    });
    let components = components.collect();
    let application_blob = address(&carried(stored));
    let revision = Revision {
        application: metadata.object_name(),
        application_uid: metadata.uid.clone(),
        number,
        spec_digest: stored.spec_digest,
        application_blob,
        components,
    };
    let object = revision_object(now, stored, &name, &revision);
    let mut pieces: Vec<Operation> = Vec::new();
    for (digest, bytes) in &contents {
        let transactions = blobs::transactions(digest, bytes).map_err(|error| {
            vec![FieldError::new("spec", crate::model::object::FieldErrorKind::TooLong, error.to_string())]
        })?;
        pieces.extend(transactions.into_iter().flat_map(|transaction| transaction.operations));
    }
    pieces.push(Operation::Put(key, object::encode(&object)));
    Ok(Snapshot { name, revision: Arc::new(revision), pieces })
}

/// The Application as every work carries it: enough to make it anew in an empty hub.
fn carried(stored: &StoredApplication) -> Value {
    let object = stored.object();
    let mut metadata = json!({"name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"]});
    for field in ["labels", "annotations"] {
        if let Some(map) = object["metadata"].get(field) {
            metadata[field] = map.clone();
        }
    }
    json!({
        "apiVersion": APPLICATION.gvk.api_version(),
        "kind": APPLICATION.gvk.kind,
        "metadata": metadata,
        "spec": object["spec"],
    })
}

fn revision_object(now: Now, stored: &StoredApplication, name: &str, revision: &Revision) -> Value {
    let metadata = &stored.view.metadata;
    let hash = Digest::of(format!("{}\n{name}", metadata.uid).as_bytes()).to_string();
    json!({
        "apiVersion": APPLICATION_REVISION.gvk.api_version(),
        "kind": APPLICATION_REVISION.gvk.kind,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "uid": uid_of(&hash),
            "generation": 1,
            "creationTimestamp": now.wall.to_string(),
            "labels": {"app.oam.dev/name": metadata.name},
            "ownerReferences": [{
                "apiVersion": APPLICATION.gvk.api_version(),
                "kind": APPLICATION.gvk.kind,
                "name": metadata.name,
                "uid": metadata.uid,
                "controller": true,
            }],
        },
        "spec": revision,
    })
}

/// The stored form; with a status that says less where the whole would not fit.
fn encode(mut object: Value) -> Bytes {
    let value = object::encode(&object);
    if value.len() <= OBJECT_BYTES_MAX {
        return value;
    }
    for (list, detail) in [("services", None), ("appliedResources", None), ("placement", Some("rows"))] {
        match detail {
            Some(detail) => object["status"][list][detail] = json!([]),
            None => object["status"][list] = json!([]),
        }
    }
    object::encode(&object)
}
