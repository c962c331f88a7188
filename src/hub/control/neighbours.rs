//! Neighbours: what the controller knows of the other Applications of a namespace, and whom it wakes when one of them
//! moves.
//!
//! What is being written counts as much as what is stored (rule 6): of two that are decided one after the other the second
//! sees the first.

use std::collections::BTreeSet;

use super::Controller;
use crate::{
    flow::schedule::{
        Named, Neighbour, Neighbours,
        neighbours::{affinity_of, matters},
    },
    model::{Application, Now, Placement, Uid},
};

impl Controller {
    /// Nobody, where nothing is said of others.
    pub(super) fn neighbours(&self, application: &Application) -> Neighbours {
        let (own, asks) = (Named::of(application), affinity_of(&application.spec.policies));
        let matters = |other: &&Uid| {
            let Some(known) = self.index.applications.get(*other).filter(|_| self.is_beside(other, application)) else {
                return false;
            };
            matters(&own, asks.as_ref(), &Named::of(&known.view), self.index.affinities.get(*other))
        };
        let meant: BTreeSet<&Uid> = match asks {
            Some(_) => self.index.applications.keys().filter(matters).collect(),
            None => self.index.affinities.keys().filter(matters).collect(),
        };
        if meant.is_empty() {
            return Neighbours { own: if asks.is_some() { own } else { Named::default() }, others: Vec::new() };
        }
        let mut others: Vec<Neighbour> = meant.into_iter().filter_map(|other| self.neighbour(other)).collect();
        others.sort_by(|one, other| one.named.name.cmp(&other.named.name));
        Neighbours { own, others }
    }

    fn neighbour(&self, uid: &Uid) -> Option<Neighbour> {
        let named = Named::of(&self.index.applications.get(uid)?.view);
        let stored = self.index.placement(uid);
        let written = self.lanes.get(uid).and_then(|lane| lane.placement.clone());
        let doubted = self.reservations.doubted(uid).map(|doubt| doubt.placement.clone());
        let rows = |placement: &Placement| placement.rows.clone();
        let placed = written.as_deref().or(stored.as_deref()).map(rows).unwrap_or_default().into_iter();
        let placed = placed.filter(|row| !row.components.is_empty()).map(|row| row.cluster).collect();
        let any = [stored, written, doubted].into_iter().flatten();
        let present = any.flat_map(|placement| rows(&placement)).map(|row| row.cluster).collect();
        let affinity = self.index.affinities.get(uid).cloned().unwrap_or_default();
        Some(Neighbour { named, affinity, placed, present })
    }

    /// `moved` got a cluster or left one, or is called otherwise: wakes whom that concerns, and nobody else.
    pub(super) fn on_moved(&mut self, now: Now, moved: &BTreeSet<Uid>) {
        if self.index.affinities.is_empty() {
            return;
        }
        let mut woken: BTreeSet<Uid> = BTreeSet::new();
        for uid in moved {
            // What is gone concerns all who speak of anybody: its name is gone too.
            let application = self.index.applications.get(uid).map(|stored| stored.view.clone());
            let known = application.as_deref().map(Named::of);
            let reached = |other: &Uid| application.as_deref().is_none_or(|moved| self.is_beside(other, moved));
            for (other, said) in self.index.affinities.iter().filter(|(other, _)| reached(other)) {
                if known.as_ref().is_none_or(|known| said.speaks_of(known)) {
                    woken.insert(other.clone());
                }
            }
            let (Some(said), Some(application)) = (self.index.affinities.get(uid), &application) else { continue };
            for (other, stored) in
                self.index.applications.iter().filter(|(other, _)| self.is_beside(other, application))
            {
                if self.waiting.contains(other) && said.apart.iter().any(|term| term.means(&Named::of(&stored.view))) {
                    woken.insert(other.clone());
                }
            }
        }
        for application in &woken {
            self.mark(application, now.monotonic_ms, true);
        }
    }

    /// Whether it is another one of the same namespace.
    fn is_beside(&self, other: &Uid, application: &Application) -> bool {
        let Some(other) = self.index.applications.get(other) else { return false };
        let (one, other) = (&application.metadata, &other.view.metadata);
        one.namespace == other.namespace && one.name != other.name
    }
}
