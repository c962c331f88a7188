//! Applications: spec → revision → placement → status, one decision at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Controller, Effect,
    agenda::Due,
    clusters::confirmed,
    handing,
    index::StoredApplication,
    revisions::{RunningRevision, Snapshot, decided_revision},
};
use crate::{
    flow::{
        schedule::{
            Bound, Cessions, Fleet, Neighbours, Problem, Profiles, Rebalance, Running, Solution, bind,
            handover::leaves_wholly, preempt, solve_telling,
        },
        slice::{self, Cause, Change},
    },
    kinds::{
        application::{AUTHOR_ANNOTATION, TRACE_ANNOTATION},
        metadata::{DELETION_AUTHOR_ANNOTATION, DELETION_TRACE_ANNOTATION},
    },
    model::{
        Now, Placement, Timestamp, Uid,
        object::Metadata,
        placement::{Claim, Refusal, Why},
        revision::Revision,
    },
};

/// What a placement says beside what its solution says.
struct Notes {
    rebalanced: String,
    claims: Vec<Claim>,
    preempted: BTreeMap<String, String>,
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
