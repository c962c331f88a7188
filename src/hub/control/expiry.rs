//! Housekeeping: what has had its time goes. Tokens, events, old revisions, blobs that nobody lists, records whose object
//! is gone, and the store's history. Nothing here reaches a member cluster.

use std::collections::BTreeSet;

use super::{Controller, Effect, Purpose, lanes};
use crate::{
    hub::records::Record,
    model::{Digest, Now, Uid},
    store::{Key, Operation, Transaction, blobs::Sweeper, compaction::Compactor},
};

const INTERVAL_MS: u64 = 60_000;
/// Revisions kept of an Application, beside those that a cluster runs.
const REVISIONS_KEPT: usize = 10;
/// Blobs that nobody lists live this long: the time to list them.
const BLOB_GRACE_MS: u64 = 10 * 60_000;
/// A token that expired is still known for a while, so that who uses it late is told why.
const TOKEN_KEPT_SECONDS: i64 = 3600;

#[derive(Default)]
pub struct Housekeeping {
    pub next_ms: u64,
    sweeper: Sweeper,
    compactor: Compactor,
}

impl Housekeeping {
    pub fn start(&mut self, now: Now) {
        self.next_ms = now.monotonic_ms + INTERVAL_MS;
    }
}

impl Controller {
    pub(super) fn housekeep(&mut self, now: Now) {
        if now.monotonic_ms < self.house.next_ms {
            return;
        }
        self.house.next_ms = now.monotonic_ms + INTERVAL_MS;
        let mut gone: Vec<Key> = self.expired_tokens(now);
        gone.extend(self.recorder.expired(now.wall));
        gone.extend(self.old_revisions());
        gone.extend(self.orphans());
        let leader: Vec<_> = self.leader_compare().into_iter().collect();
        for operations in lanes::batches(gone.into_iter().map(Operation::Delete).collect()) {
            self.commit(Purpose::Sweep, Transaction { compares: leader.clone(), operations });
        }
        let listed = self.listed_blobs();
        for mut transaction in
            self.house.sweeper.step(now.monotonic_ms, BLOB_GRACE_MS, self.index.blobs.found(), &listed)
        {
            transaction.compares.splice(0..0, leader.iter().cloned());
            self.commit(Purpose::Sweep, transaction);
        }
        if let Some(revision) = self.house.compactor.step(now, self.index.revision) {
            self.effects.push(Effect::Compact(revision));
        }
    }

    fn expired_tokens(&self, now: Now) -> Vec<Key> {
        let tokens = self.index.tokens.iter();
        let over = tokens
            .filter(|(_, expires)| expires.is_some_and(|expires| expires.plus_seconds(TOKEN_KEPT_SECONDS) <= now.wall));
        over.map(|(key, _)| key.clone()).collect()
    }

    /// Beyond the newest, and run by no cluster. Those of an Application that is being written wait for the next round.
    fn old_revisions(&self) -> Vec<Key> {
        let mut old = Vec::new();
        for (application, snapshots) in &self.index.snapshots {
            if self.lanes.contains_key(application) || snapshots.len() <= REVISIONS_KEPT {
                continue;
            }
            let placement = self.index.placement(application);
            let rows = placement.as_ref().map(|placement| placement.rows.as_slice()).unwrap_or_default();
            let run: BTreeSet<&str> = rows.iter().map(|row| row.revision.as_str()).collect();
            let beyond = snapshots.values().rev().skip(REVISIONS_KEPT);
            old.extend(
                beyond.filter(|snapshot| !run.contains(snapshot.name.as_str())).map(|snapshot| snapshot.key.clone()),
            );
        }
        old
    }

    /// Revisions and bindings of Applications that are gone, and reports of what is placed nowhere any more.
    fn orphans(&self) -> Vec<Key> {
        let known = |application: &Uid| self.index.applications.contains_key(application);
        let snapshots = self.index.snapshots.iter().filter(|(application, _)| !known(application));
        let mut orphans: Vec<Key> =
            snapshots.flat_map(|(_, snapshots)| snapshots.values().map(|snapshot| snapshot.key.clone())).collect();
        for (application, reports) in &self.index.reports {
            let placement = self.placement(application);
            let homes: BTreeSet<&Uid> =
                placement.iter().flat_map(|placement| &placement.rows).map(|row| &row.cluster).collect();
            let strays = reports.keys().filter(|cluster| !homes.contains(cluster));
            let record = |cluster: &Uid| Record::Report { cluster: cluster.clone(), application: application.clone() };
            orphans.extend(strays.map(|cluster| record(cluster).key()));
        }
        let unbound = self.index.bindings.keys().filter(|application| !known(application));
        orphans.extend(unbound.map(|application| Record::Binding(application.clone()).key()));
        orphans
    }

    /// By stored revisions, and by those that are being written.
    fn listed_blobs(&self) -> BTreeSet<Digest> {
        let stored =
            self.index.snapshots.values().flat_map(|snapshots| snapshots.values()).map(|known| &known.revision);
        let written = self.lanes.values().filter_map(|lane| lane.revision.as_ref()).map(|(_, revision)| revision);
        let mut listed = BTreeSet::new();
        for revision in stored.chain(written) {
            listed.insert(revision.application_blob);
            listed.extend(revision.components.iter().flat_map(|component| &component.manifests).map(|line| line.blob));
        }
        listed
    }
}
