//! Rooms: what the controller holds of each cluster's room, and for whom; made anew where that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Controller, DOUBT_MS,
    lanes::Lane,
    reservations::{Doubt, Reserved, either, is_refused, outstanding},
};
use crate::model::{Now, Placement, Report, Uid, placement::Row};

impl Controller {
    /// Nobody knows whether what a lane writes is stored: its room is held until that shows.
    pub(super) fn doubt(&mut self, now: Now, uid: &Uid, lane: &Lane) {
        if let Some(placement) = lane.placement.clone() {
            let revision = lane.revision.clone();
            self.reservations.doubt(uid, Doubt { placement, revision, until_ms: now.monotonic_ms + DOUBT_MS });
        }
    }

    pub(super) fn doubt_lane(&mut self, now: Now, uid: &Uid) {
        if let Some(lane) = self.lanes.remove(uid) {
            self.doubt(now, uid, &lane);
            self.lanes.insert(uid.clone(), lane);
        }
    }

    /// Gives back what has been held for long enough.
    pub(super) fn lapse(&mut self, now: Now) {
        let (doubts, refused) = self.reservations.lapse(now.monotonic_ms);
        for application in doubts {
            self.reserve(&application);
        }
        for (cluster, application) in refused {
            self.reserve_in(&application, &cluster);
        }
    }

    /// The placement that counts: the one being written, else the stored one.
    pub(super) fn placement(&self, application: &Uid) -> Option<Arc<Placement>> {
        let written = self.lanes.get(application).and_then(|lane| lane.placement.clone());
        written.or_else(|| self.index.placement(application))
    }

    /// Reserves what of an Application's placement is still to come. While another one is being written, or nobody knows
    /// whether it was, all that either may turn out to need is held.
    pub(super) fn reserve(&mut self, application: &Uid) {
        let written = self.lanes.get(application).and_then(|lane| lane.placement.clone());
        let stored = self.index.placement(application);
        self.reservations.settle(application, stored.as_deref());
        let doubted = self.reservations.doubted(application).map(|doubt| doubt.placement.clone());
        let mut reserved: BTreeMap<Uid, Reserved> = BTreeMap::new();
        let mut claimed: BTreeSet<Uid> = BTreeSet::new();
        for placement in [stored, written, doubted].into_iter().flatten() {
            let rows = placement.rows.iter().map(|row| (row.cluster.clone(), self.outstanding(application, row)));
            let mut needed: BTreeMap<Uid, Reserved> = rows.collect();
            for claim in self.claims_of(&placement) {
                needed.entry(claim.cluster.clone()).or_default().extend(claim.pods.iter().cloned());
                claimed.insert(claim.cluster.clone());
            }
            for (cluster, more) in needed {
                let known = reserved.remove(&cluster).unwrap_or_default();
                reserved.insert(cluster, either(known, more));
            }
        }
        self.claims.hold(application, claimed);
        reserved.retain(|_, reserved| !reserved.is_empty());
        self.reservations.set_all(application, reserved);
    }

    pub(super) fn reserve_in(&mut self, application: &Uid, cluster: &Uid) {
        let being_written = self.lanes.get(application).is_some_and(|lane| lane.placement.is_some());
        let is_certain = !being_written && self.reservations.doubted(application).is_none();
        if !is_certain || self.claims.is_claiming(application) {
            return self.reserve(application);
        }
        let placement = self.index.placement(application);
        let row = placement.as_ref().and_then(|placement| placement.rows.iter().find(|row| row.cluster == *cluster));
        let reserved = row.map(|row| self.outstanding(application, row)).unwrap_or_default();
        self.reservations.set(cluster, application, reserved);
    }

    /// By the report that is stored and by the one that was heard since, whichever has seen less: a pod that is gone is to
    /// come again from the moment that its agent says so.
    pub(super) fn outstanding(&self, application: &Uid, row: &Row) -> Reserved {
        let fresh = self.lanes.get(application).and_then(|lane| lane.revision.as_ref());
        let doubted = self.reservations.doubted(application).and_then(|doubt| doubt.revision.as_ref());
        let fresh = fresh.into_iter().chain(doubted).find(|(name, _)| *name == row.revision);
        let stored = || self.index.snapshot(application, &row.revision).map(|snapshot| snapshot.revision.clone());
        let Some(revision) = fresh.map(|(_, revision)| revision.clone()).or_else(stored) else { return Vec::new() };
        let given_up = self.reservations.has_given_up(&row.cluster, application);
        let by = |report: Option<&Arc<Report>>| {
            let reported = report.and_then(|report| self.index.snapshot(application, &report.revision));
            let reported = reported.map(|snapshot| snapshot.revision.as_ref());
            outstanding(row, &revision, report.map(Arc::as_ref), reported, given_up)
        };
        let known = by(self.index.report(application, &row.cluster));
        match self.outbox.latest(&row.cluster, application) {
            Some(heard) => either(known, by(Some(heard))),
            None => known,
        }
    }

    /// Whether the member or its agent refuses a part of what is decided for it.
    pub(super) fn is_refused(&self, application: &Uid, cluster: &Uid) -> bool {
        let Some(placement) = self.index.placement(application) else { return false };
        let Some(row) = placement.rows.iter().find(|row| row.cluster == *cluster) else { return false };
        let snapshot = self.index.snapshot(application, &row.revision);
        let report = self.index.report(application, cluster);
        snapshot.zip(report).is_some_and(|(snapshot, report)| {
            row.components.keys().any(|component| is_refused(row, &snapshot.revision, report, component))
        })
    }

    /// What is free by now may be what somebody waits for.
    pub(super) fn look_for_those_that_wait(&mut self, now: Now) {
        if !self.waiting.is_empty() {
            self.refresh_rooms(now);
        }
    }

    /// Makes the rooms that changed anew, from sketches and reservations, and wakes whom they may serve.
    pub(super) fn refresh_rooms(&mut self, now: Now) {
        for cluster in self.reservations.take_stale() {
            let sketch = self.members.get(&cluster).and_then(|member| member.sketch.as_ref());
            let sketch = sketch.filter(|sketch| sketch.fault.is_empty());
            let room = sketch.map(|sketch| self.reservations.room(&cluster, sketch));
            self.wake_for_room(now, &cluster, room.as_ref());
            self.fleet.set_room(&cluster, room);
        }
    }
}
