//! Waking: who is decided anew when a cluster's facts or room change, and nobody else.
//!
//! Those that have a part in the cluster always are. Of the others [`crate::flow::schedule::wake`] says who.

use std::collections::{BTreeMap, BTreeSet};

use super::{Controller, agenda::Due, index::StoredApplication};
use crate::{
    flow::schedule::{
        Candidate, Room, Solution,
        wake::{self, Change, Needs},
    },
    model::{Now, Uid, revision::RenderedComponent},
};

/// More room may be good for those who wait; a fleet that settles is asked once.
const WAITING_MS: u64 = 100;

/// Applications that wait, and for what: many wait for the same, which is asked once.
#[derive(Default)]
pub struct Waiting {
    needs: BTreeMap<Uid, Needs>,
    by_needs: BTreeMap<Needs, BTreeSet<Uid>>,
    /// When those that were woken look.
    round_ms: u64,
}

impl Waiting {
    pub fn contains(&self, application: &Uid) -> bool {
        self.needs.contains_key(application)
    }

    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    pub fn remove(&mut self, application: &Uid) {
        let Some(needs) = self.needs.remove(application) else { return };
        if let Some(others) = self.by_needs.get_mut(&needs) {
            others.remove(application);
            if others.is_empty() {
                self.by_needs.remove(&needs);
            }
        }
    }

    fn insert(&mut self, application: &Uid, needs: Needs) {
        self.remove(application);
        self.by_needs.entry(needs.clone()).or_default().insert(application.clone());
        self.needs.insert(application.clone(), needs);
    }
}

impl Controller {
    /// What was just decided tells what the Application is woken for.
    pub(super) fn note_needs(
        &mut self,
        stored: &StoredApplication,
        components: &[RenderedComponent],
        solution: &Solution,
    ) {
        let (uid, policies) = (&stored.view.metadata.uid, &stored.view.spec.policies);
        match solution.waiting {
            true => self.waiting.insert(uid, Needs::of(policies, components, &self.index.profiles, solution)),
            false => self.waiting.remove(uid),
        }
        match wake::is_wide(policies, components) {
            true => self.wide.insert(uid.clone()),
            false => self.wide.remove(uid),
        };
    }

    pub(super) fn wake_for_facts(&mut self, now: Now, cluster: &Uid, before: &Candidate, after: &Candidate) {
        if before == after {
            return;
        }
        for application in self.index.tenants.get(cluster).cloned().unwrap_or_default() {
            self.mark(&application, now.monotonic_ms, true);
        }
        let wide = self.wide.iter().filter(|application| !self.waiting.contains(application));
        let wide = self.not_due_soon(now, wide);
        self.wake_concerned(now, cluster, (before, after), wide, false);
        self.wake_waiting(now, cluster, before, after);
    }

    pub(super) fn wake_waiting(&mut self, now: Now, cluster: &Uid, before: &Candidate, after: &Candidate) {
        let waiting = self.not_due_soon(now, self.waiting.needs.keys());
        self.wake_concerned(now, cluster, (before, after), waiting, true);
    }

    /// Those that wait look at what may serve them in the order of their priority: nobody sees it before the others because
    /// he was to look anyway.
    fn wake_together(&mut self, now: Now, applications: impl IntoIterator<Item = Uid>) {
        let some_look_now = self.due.next_ms(|_| true).is_some_and(|at_ms| at_ms <= now.monotonic_ms);
        if self.waiting.round_ms <= now.monotonic_ms {
            self.waiting.round_ms = now.monotonic_ms + WAITING_MS;
        }
        let at_ms = if some_look_now { now.monotonic_ms } else { self.waiting.round_ms };
        for application in applications {
            if self.due.get(&application).is_none_or(|due| due.at_ms > now.monotonic_ms || !due.decide) {
                self.due.set(&application, Due { at_ms, decide: true });
            }
        }
    }

    /// The others look anyway.
    fn not_due_soon<'a>(&self, now: Now, applications: impl Iterator<Item = &'a Uid>) -> Vec<Uid> {
        let soon_ms = now.monotonic_ms + WAITING_MS;
        let is_soon = |uid: &&Uid| self.due.get(uid).is_some_and(|due| due.decide && due.at_ms <= soon_ms);
        applications.filter(|uid| !is_soon(uid)).cloned().collect()
    }

    fn wake_concerned(
        &mut self,
        now: Now,
        cluster: &Uid,
        clusters: (&Candidate, &Candidate),
        mut asked: Vec<Uid>,
        waits: bool,
    ) {
        let mut change = Change::new(cluster, clusters, now.wall, &self.index.profiles);
        asked.retain(|application| {
            let stored = self.index.applications.get(application);
            let known = stored.zip(self.index.newest(application));
            known.is_some_and(|(stored, newest)| {
                change.concerns(&stored.view.spec.policies, &newest.revision.components, waits)
            })
        });
        self.wake_together(now, asked);
    }

    /// The room of a cluster is about to be this.
    pub(super) fn wake_for_room(&mut self, now: Now, cluster: &Uid, room: Option<&Room>) {
        let claiming: Vec<Uid> = self.claims.claims_in(cluster).cloned().collect();
        self.wake_together(now, claiming);
        let Some(room) = room else { return };
        let before = self.fleet.get(cluster).and_then(|known| known.room.as_ref());
        let met = self.waiting.by_needs.iter().filter(|(needs, _)| needs.met(before, room));
        let met: Vec<Uid> = met.flat_map(|(_, waiting)| waiting).cloned().collect();
        self.wake_together(now, met);
    }
}
