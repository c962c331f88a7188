//! Waking: who is decided anew when a cluster's facts or room change, and nobody else.
//!
//! Those that have a part in the cluster always are. Of the others [`crate::flow::schedule::wake`] says who.

use std::collections::BTreeMap;

use super::{Controller, index::StoredApplication};
use crate::{
    flow::schedule::{
        Candidate, Room, Solution,
        wake::{self, Change, Needs},
    },
    model::{Now, Uid, revision::RenderedComponent},
};

/// More room may be good for those who wait; a fleet that settles is asked once.
const WAITING_MS: u64 = 100;

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
            true => {
                drop(self.waiting.insert(uid.clone(), Needs::of(policies, components, &self.index.profiles, solution)))
            }
            false => drop(self.waiting.remove(uid)),
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
        let wide = self.wide.iter().filter(|application| !self.waiting.contains_key(*application));
        let wide: Vec<Uid> = wide.cloned().collect();
        self.wake_concerned(now, cluster, (before, after), wide, false);
        self.wake_waiting(now, cluster, before, after);
    }

    pub(super) fn wake_waiting(&mut self, now: Now, cluster: &Uid, before: &Candidate, after: &Candidate) {
        let waiting = self.waiting.keys().cloned().collect();
        self.wake_concerned(now, cluster, (before, after), waiting, true);
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
        for application in asked {
            self.mark(&application, now.monotonic_ms + WAITING_MS, true);
        }
    }

    /// The room of a cluster is about to be this.
    pub(super) fn wake_for_room(&mut self, now: Now, cluster: &Uid, room: Option<&Room>) {
        let Some(room) = room.filter(|_| !self.waiting.is_empty()) else { return };
        let before = self.fleet.get(cluster).and_then(|known| known.room.as_ref());
        // Many that wait ask for the same.
        let mut known: BTreeMap<&Needs, bool> = BTreeMap::new();
        let met =
            self.waiting.iter().filter(|(_, needs)| *known.entry(needs).or_insert_with(|| needs.met(before, room)));
        for application in met.map(|(application, _)| application.clone()).collect::<Vec<_>>() {
            self.mark(&application, now.monotonic_ms + WAITING_MS, true);
        }
    }
}
