//! Slices: what every cluster is to run, derived from the stored revisions and placements on every replica.
//!
//! Owns: the index from the store's feed to works, the right of a cluster to a blob, and who is told of a change. Must
//! never: decide anything, or take what is missing for what is ordered away (rule 1).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::index::Index;
use super::feed::Feed;
use crate::{
    model::{Digest, Placement, Report, Uid, Work},
    store::{Error, Revision, Store},
};

mod index;

/// A shared handle; cheap to clone. Fed by one task through [`Slices::apply`], read by many.
#[derive(Clone, Default)]
pub struct Slices(Arc<Shared>);

#[derive(Default)]
struct Shared {
    index: RwLock<Index>,
    /// Per cluster: the store revision of the last change of its slice.
    changed: RwLock<BTreeMap<Uid, watch::Sender<Revision>>>,
}

/// One cluster's part of one Application, with what the agent last reported of it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub cluster_name: Arc<str>,
    pub work: Arc<Work>,
    pub report: Option<Arc<Report>>,
    /// Store revision of the last change of work or report.
    pub modified: Revision,
}

/// All works of one cluster, as of one store revision.
#[derive(Debug, Clone, Default)]
pub struct Slice {
    /// 0 until the first reset: then nothing is known, which is not the same as nothing (rule 15).
    pub revision: Revision,
    /// In order of application uid.
    pub works: Vec<Arc<Work>>,
}

impl Slices {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn apply(&self, feed: &Feed) {
        let (outcome, revision) = {
            let mut index = self.0.index.write();
            (index.apply(feed), index.revision)
        };
        for fault in outcome.faults {
            tracing::error!(fault, "a work cannot be made");
        }
        let changed = self.0.changed.read();
        for sender in outcome.touched.iter().filter_map(|cluster| changed.get(cluster)) {
            sender.send_replace(revision);
        }
    }

    /// The store revision that everything here is from; 0 until the first reset.
    pub fn revision(&self) -> Revision {
        self.0.index.read().revision
    }

    pub fn slice(&self, cluster: &Uid) -> Slice {
        let index = self.0.index.read();
        let works = index.works.get(cluster).into_iter().flat_map(BTreeMap::values);
        Slice { revision: index.revision, works: works.map(|entry| entry.work.clone()).collect() }
    }

    pub fn get(&self, application: &Uid, cluster: &Uid) -> Option<Entry> {
        self.0.index.read().works.get(cluster)?.get(application).cloned()
    }

    /// Every work there is, or those of one namespace, in order of application name and cluster name.
    pub fn list(&self, namespace: Option<&str>) -> (Revision, Vec<Entry>) {
        let index = self.0.index.read();
        let entries = index.works.values().flat_map(BTreeMap::values);
        let wanted = entries.filter(|entry| namespace.is_none_or(|name| entry.work.application.namespace == name));
        let mut entries: Vec<Entry> = wanted.cloned().collect();
        entries.sort_by(|one, other| {
            let order = |entry: &Entry| (entry.work.application.clone(), entry.cluster_name.clone());
            order(one).cmp(&order(other))
        });
        (index.revision, entries)
    }

    /// Every placement, or those of one namespace, with the store revision of its last change.
    pub fn placements(&self, namespace: Option<&str>) -> (Revision, Vec<(Arc<Placement>, Revision)>) {
        let index = self.0.index.read();
        let stored = index.placements().map(|stored| (stored.placement.clone(), stored.modified));
        let wanted = |(placement, _): &(Arc<Placement>, Revision)| {
            namespace.is_none_or(|name| placement.application.namespace == name)
        };
        (index.revision, stored.filter(wanted).collect())
    }

    /// Wakes on each change of the cluster's slice; the value is the store revision of that change.
    pub fn subscribe(&self, cluster: &Uid) -> watch::Receiver<Revision> {
        self.0.changed.write().entry(cluster.clone()).or_default().subscribe()
    }

    /// Bytes of a blob, for a cluster whose own works list it and for no other (rule 10).
    pub fn blob(&self, cluster: &Uid, digest: &Digest) -> Option<Bytes> {
        let index = self.0.index.read();
        let listed = index.works.get(cluster)?.values().any(|entry| entry.work.blobs().any(|blob| blob == *digest));
        listed.then(|| index.blobs.get(digest))?
    }

    /// Whether nothing of this Application is decided for the cluster (any more): its row went once its removals were
    /// confirmed. False while nothing is known. An agent may then forget a work that has nothing but done removals, and
    /// only such a one: an Orphan keeps running.
    pub fn is_released(&self, application: &Uid, cluster: &Uid) -> bool {
        self.0.index.read().has_no_row(application, cluster)
    }
}

/// Feeds `slices` from the store until it is closed or `stop`.
pub async fn run(store: Arc<dyn Store>, slices: Slices, stop: CancellationToken) -> Result<(), Error> {
    let mut feed = super::feed::follow(store, "/hanse/");
    while let Some(Some(event)) = stop.run_until_cancelled(feed.next()).await {
        slices.apply(&event?);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
