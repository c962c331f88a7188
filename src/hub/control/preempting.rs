//! Preempting: how room is made for what could not be placed, from the decision that claims it to the one that uses it.
//!
//! A claim is stored with the placement of whoever waits, so a new leader goes on where the old one stopped. While it
//! stands, its room is reserved (rule 6): what is freed goes to nobody else. Those that are named in it are decided anew
//! with what they give up, once it is stored; whoever waits is decided anew with every change of the room that it claims,
//! and placed there or elsewhere as soon as all of it fits. That ends its claims.
//!
//! As long as anybody named in them has more pods than he may keep, claims stand as they are: nobody else is named because
//! pods take their time to end. A cluster makes room for one Application at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::{Controller, applications::Matter, index::StoredApplication};
use crate::{
    flow::{
        schedule::{Candidate, Cession, Cessions, Problem, Solution, Tenancy, handover, mode_of, preempt},
        slice,
    },
    model::{
        Now, Placement, Timestamp, Uid,
        placement::{Claim, Row, Victim},
    },
};

/// From the moment that all have left: so long the last of their pods may still be ending.
const SETTLE_MS: u64 = 60_000;
/// So long a replacement elsewhere is waited for before what makes room goes without it.
const PATIENCE_MS: i64 = 300_000;
/// So long something has to lack room before anybody leaves for it: what is written or ends just now may be enough.
const LACKS_MS: u64 = 1_000;
/// Between two searches of one Application that found nobody.
const PAUSE_MS: u64 = 10_000;
/// Each looks at a large part of the fleet.
const SEARCHES_MAX: usize = 4;

#[derive(Debug, Default)]
pub struct Claims {
    /// By Application that waits: stored ones. Whoever is named in them gives way.
    stored: BTreeMap<Uid, Vec<Claim>>,
    by_victim: BTreeMap<Uid, BTreeSet<Uid>>,
    /// Cluster → who claims room there, by what is stored, being written or in doubt.
    by_cluster: BTreeMap<Uid, BTreeSet<Uid>>,
    clusters: BTreeMap<Uid, BTreeSet<Uid>>,
    /// Since when all that an Application waits for have left.
    left_ms: BTreeMap<Uid, u64>,
    /// By Application that lacks room: when it is searched next, and no sooner.
    search_ms: BTreeMap<Uid, u64>,
    /// In this step.
    searches: usize,
}

impl Claims {
    pub fn begin_step(&mut self) {
        self.searches = 0;
    }

    /// The clusters in which an Application claims room.
    pub fn hold(&mut self, application: &Uid, clusters: BTreeSet<Uid>) {
        let before = self.clusters.remove(application).unwrap_or_default();
        for cluster in before.difference(&clusters) {
            if let Some(holders) = self.by_cluster.get_mut(cluster) {
                holders.remove(application);
                if holders.is_empty() {
                    self.by_cluster.remove(cluster);
                }
            }
        }
        if clusters.is_empty() {
            self.left_ms.remove(application);
            return;
        }
        for cluster in &clusters {
            self.by_cluster.entry(cluster.clone()).or_default().insert(application.clone());
        }
        self.clusters.insert(application.clone(), clusters);
    }

    /// What is stored of an Application; who is told anew because of it.
    fn store(&mut self, application: &Uid, claims: &[Claim]) -> BTreeSet<Uid> {
        let known = self.stored.get(application).map(Vec::as_slice).unwrap_or_default();
        if known == claims {
            return BTreeSet::new();
        }
        let named = |claims: &[Claim]| -> BTreeSet<Uid> {
            claims.iter().flat_map(|claim| &claim.victims).map(|victim| victim.application_uid.clone()).collect()
        };
        let (before, after) = (named(known), named(claims));
        for victim in before.difference(&after) {
            if let Some(of) = self.by_victim.get_mut(victim) {
                of.remove(application);
                if of.is_empty() {
                    self.by_victim.remove(victim);
                }
            }
        }
        for victim in &after {
            self.by_victim.entry(victim.clone()).or_default().insert(application.clone());
        }
        match claims.is_empty() {
            true => drop(self.stored.remove(application)),
            false => drop(self.stored.insert(application.clone(), claims.to_vec())),
        }
        before.union(&after).cloned().collect()
    }

    pub fn forget(&mut self, application: &Uid) {
        self.search_ms.remove(application);
        self.left_ms.remove(application);
    }

    pub fn is_claiming(&self, application: &Uid) -> bool {
        self.clusters.contains_key(application)
    }

    pub fn claims_in(&self, cluster: &Uid) -> impl Iterator<Item = &Uid> {
        self.by_cluster.get(cluster).into_iter().flatten()
    }

    pub fn waiting_for(&self, victim: &Uid) -> impl Iterator<Item = &Uid> {
        self.by_victim.get(victim).into_iter().flatten()
    }
}

impl Controller {
    /// The claims of a placement; none of an Application that is gone or going.
    pub(super) fn claims_of<'p>(&self, placement: &'p Placement) -> &'p [Claim] {
        let stored = self.index.applications.get(&placement.application_uid);
        let stays = stored.is_some_and(|stored| stored.view.metadata.deletion_timestamp.is_none());
        if stays { &placement.claims } else { &[] }
    }

    /// What is stored of an Application is another: whoever makes room for it is decided anew.
    pub(super) fn on_claims(&mut self, now: Now, application: &Uid) {
        let placement = self.index.placement(application);
        let claims = placement.as_deref().map(|placement| self.claims_of(placement)).unwrap_or_default();
        for victim in self.claims.store(application, claims) {
            self.mark(&victim, now.monotonic_ms, true);
        }
    }

    /// Something of an Application that makes room is another: whoever waits for that looks.
    pub(super) fn on_victim(&mut self, now: Now, victim: &Uid) {
        for application in self.claims.waiting_for(victim).cloned().collect::<Vec<_>>() {
            self.mark(&application, now.monotonic_ms, true);
        }
    }

    /// What an Application gives up for others.
    pub(super) fn cessions(&self, victim: &Uid) -> Cessions {
        let mut cessions = Cessions::new();
        let priority = self.index.priority(victim);
        for application in self.claims.waiting_for(victim) {
            let (over, stored) = (self.index.priority(application), self.index.applications.get(application));
            let Some(stored) = stored.filter(|_| over > priority) else { continue };
            let by = format!("{} (priority {over} over {priority})", stored.view.metadata.object_name());
            for claim in self.claims.stored.get(application).into_iter().flatten() {
                for named in claim.victims.iter().filter(|named| named.application_uid == *victim) {
                    let patient_until = Timestamp::from_millis(claim.made.millis() + PATIENCE_MS);
                    let cession = Cession { keeps: named.keeps(), by: by.clone(), patient_until };
                    let here = cessions.entry(claim.cluster.clone()).or_default();
                    let known = here.entry(named.component.clone()).or_insert_with(|| cession.clone());
                    if cession.keeps < known.keeps {
                        *known = cession;
                    }
                }
            }
        }
        cessions
    }

    /// What is claimed after this decision.
    pub(super) fn claim(
        &mut self,
        now: Now,
        matter: &Matter<'_>,
        held: &BTreeSet<Uid>,
        solution: &Solution,
    ) -> Vec<Claim> {
        let (uid, spec) = (&matter.stored.view.metadata.uid, &matter.stored.view.spec);
        let lacks = !solution.unplaced.is_empty() && solution.outgrown.is_empty() && spec.other_scheduler().is_none();
        if !lacks
            || !self.index.classes.preempts(&spec.policies)
            || self.index.lower(self.index.priority(uid)).next().is_none()
        {
            self.claims.forget(uid);
            return Vec::new();
        }
        let known = matter.previous.map(|previous| previous.claims.as_slice()).unwrap_or_default();
        if !known.is_empty() && self.stand(now, uid, matter.revision_name(), known) {
            return known.to_vec();
        }
        let rests_ms = if known.is_empty() { LACKS_MS } else { 0 };
        let at_ms = *self.claims.search_ms.entry(uid.clone()).or_insert(now.monotonic_ms + rests_ms);
        if at_ms > now.monotonic_ms || self.claims.searches >= SEARCHES_MAX || self.awaits_sketches(now) {
            self.mark(uid, at_ms.max(now.monotonic_ms + LACKS_MS / 4), true);
            return known.to_vec();
        }
        self.claims.searches += 1;
        let (tenancies, others) = self.tenancies(self.index.priority(uid), Some(uid));
        let problem = matter.problem(now.wall, held);
        let is_to_be_left = |cluster: &Uid| self.fleet.get(cluster).is_some_and(Candidate::is_to_be_left);
        let mode = |component: &str| mode_of(&spec.policies, component);
        let anchored = problem.previous.map(|previous| handover::anchored(previous, &mode, &is_to_be_left));
        let problem = Problem { previous: anchored.as_deref(), ..problem };
        let rooms = preempt::release(&mut self.fleet, known);
        let claims = preempt::choose(&mut self.fleet, &problem, &tenancies, matter.revision_name());
        preempt::put_back(&mut self.fleet, rooms);
        match claims.is_empty() {
            true => drop(self.claims.search_ms.insert(uid.clone(), now.monotonic_ms + PAUSE_MS)),
            false => self.claims.forget(uid),
        }
        // Somebody could not be asked while he moves, or while his cluster makes room for others.
        if claims.is_empty() && others {
            self.mark(uid, now.monotonic_ms + PAUSE_MS, true);
        }
        claims
    }

    /// Whether some cluster may have room of which nothing has been heard yet: a new leader knows of none at first.
    fn awaits_sketches(&self, now: Now) -> bool {
        self.fleet.iter().any(|(cluster, known)| {
            let is_awaited = || self.members.get(cluster).is_none_or(|member| member.is_awaited(now, &self.settings));
            known.room.is_none() && is_open(known) && is_awaited()
        })
    }

    /// Whether what is claimed is still to come: nobody else is named before that is clear.
    fn stand(&mut self, now: Now, application: &Uid, revision: &str, claims: &[Claim]) -> bool {
        let priority = self.index.priority(application);
        let is_lower = |victim: &Victim| {
            let known = self.index.applications.contains_key(&victim.application_uid);
            !known || self.index.priority(&victim.application_uid) < priority
        };
        let is_meant = |claim: &Claim| {
            let open = self.fleet.get(&claim.cluster).is_some_and(is_open);
            claim.revision == revision && open && claim.victims.iter().all(is_lower)
        };
        let meant = claims.iter().all(is_meant);
        let mut named =
            claims.iter().flat_map(|claim| claim.victims.iter().map(move |victim| (&claim.cluster, victim)));
        let waits = named.any(|(cluster, victim)| !self.has_left(cluster, victim));
        if !meant || waits {
            self.claims.left_ms.remove(application);
            return meant;
        }
        let until_ms = *self.claims.left_ms.entry(application.clone()).or_insert(now.monotonic_ms) + SETTLE_MS;
        if until_ms > now.monotonic_ms {
            self.mark(application, until_ms, true);
        }
        until_ms > now.monotonic_ms
    }

    /// Whether no more of it is there than it may keep, as its agent says.
    fn has_left(&self, cluster: &Uid, victim: &Victim) -> bool {
        let Some(placement) = self.placement(&victim.application_uid) else { return true };
        let Some(row) = placement.rows.iter().find(|row| row.cluster == *cluster) else { return true };
        let report = self.index.report(&victim.application_uid, cluster).map(AsRef::as_ref);
        let report = report.filter(|report| report.generation == row.generation);
        let Some(share) = row.components.get(&victim.component) else {
            return row.removals.is_empty() || slice::all_confirmed(row, report);
        };
        let line = report.and_then(|report| report.components.iter().find(|line| line.name == victim.component));
        let bound = line.and_then(|line| line.replicas).map(|count| count.bound);
        share.replicas.is_some_and(|replicas| replicas <= victim.keeps())
            && bound.is_some_and(|bound| bound <= victim.keeps())
    }

    /// What Applications of lower priorities have in clusters that could get something new, and whether there are more that
    /// cannot be asked now: those that move, and those in clusters where somebody else than `application` claims room.
    pub(super) fn tenancies(&self, priority: i32, application: Option<&Uid>) -> (Vec<Tenancy>, bool) {
        let (mut tenancies, mut others) = (Vec::new(), false);
        for uid in self.index.lower(priority) {
            let (Some(stored), Some(placement)) = (self.index.applications.get(uid), self.placement(uid)) else {
                continue;
            };
            if stored.view.metadata.deletion_timestamp.is_some() || stored.view.spec.other_scheduler().is_some() {
                continue;
            }
            if !placement.moves.is_empty() {
                others = true;
                continue;
            }
            for row in placement.rows.iter().filter(|row| !row.components.is_empty()) {
                if !self.fleet.get(&row.cluster).is_some_and(|known| is_open(known) && known.room.is_some()) {
                    continue;
                }
                match self.claims.claims_in(&row.cluster).any(|holder| Some(holder) != application) {
                    true => others = true,
                    false => tenancies.extend(self.tenancies_of(stored, row)),
                }
            }
        }
        (tenancies, others)
    }

    /// One for each component whose replicas can leave one by one, and one for all the others.
    fn tenancies_of(&self, stored: &StoredApplication, row: &Row) -> Vec<Tenancy> {
        let metadata = &stored.view.metadata;
        let written = self.lanes.get(&metadata.uid).and_then(|lane| lane.revision.as_ref());
        let written = written.filter(|(name, _)| *name == row.revision).map(|(_, revision)| revision);
        let known = || self.index.snapshot(&metadata.uid, &row.revision).map(|snapshot| &snapshot.revision);
        let Some(revision) = written.or_else(known) else { return Vec::new() };
        let report = self.index.report(&metadata.uid, &row.cluster);
        let tenancy = |divisible: bool| Tenancy {
            application: metadata.object_name(),
            application_uid: metadata.uid.clone(),
            priority: self.index.priority(&metadata.uid),
            cluster: row.cluster.clone(),
            components: Vec::new(),
            pods: Vec::new(),
            divisible,
        };
        let (mut tenancies, mut whole) = (Vec::new(), tenancy(false));
        for component in &revision.components {
            let Some(share) = row.components.get(&component.name) else { continue };
            let line = report.and_then(|report| report.components.iter().find(|line| line.name == component.name));
            // What the member scales leaves at nobody's word.
            if line.is_some_and(|line| line.scaled) {
                continue;
            }
            // Pods that are to go already hold their room until they have: nobody leaves for that once more.
            let bound = line.and_then(|line| line.replicas).map_or(0, |count| count.bound);
            let replicas = share.replicas.map(|replicas| replicas.max(bound));
            let divisible = replicas.is_some() && mode_of(&stored.view.spec.policies, &component.name) == "Divided";
            let mut own = tenancy(true);
            let to = if divisible { &mut own } else { &mut whole };
            to.components.push((component.name.clone(), replicas));
            to.pods.extend(component.pods(replicas).map(|(demand, number)| (demand.clone(), number)));
            if divisible && component.demand.is_some() {
                tenancies.push(own);
            }
        }
        tenancies.push(whole);
        tenancies.retain(|tenancy| tenancy.pods.iter().any(|(_, number)| *number > 0));
        tenancies
    }

    /// Component → for whom it makes or made room, while that can be seen.
    pub(super) fn preempted(
        &self,
        cessions: &Cessions,
        old: Option<&Placement>,
        solution: &Solution,
    ) -> BTreeMap<String, String> {
        let lacks = |name: &&String| solution.unplaced.contains_key(*name);
        let before = old.iter().flat_map(|old| &old.preempted).filter(|(name, _)| lacks(name));
        let mut told: BTreeMap<String, String> = before.map(|(name, words)| (name.clone(), words.clone())).collect();
        let mut words: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        for (cluster, components) in cessions {
            let cluster = self.fleet.get(cluster).map_or(cluster.0.as_str(), |known| known.name.as_str());
            for (component, cession) in components {
                words.entry(component).or_default().push(format!("room in {cluster} for {}", cession.by));
            }
        }
        told.extend(words.into_iter().map(|(name, words)| (name.clone(), words.join(", "))));
        told
    }
}

/// Whether anything new could be placed there. What a new leader has not heard yet is no reason against it.
fn is_open(cluster: &Candidate) -> bool {
    cluster.accepted && !cluster.cordoned && !cluster.deleting && !cluster.silent && !cluster.is_to_be_left()
}
