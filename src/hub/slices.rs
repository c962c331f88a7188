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

use super::feed::Feed;
use crate::{
    model::{Digest, Report, Uid, Work},
    store::{Error, Revision, Store},
};

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
        let touched = self.0.index.write().apply(feed);
        let _ = touched;
    }

    /// The store revision that everything here is from; 0 until the first reset.
    pub fn revision(&self) -> Revision {
        self.0.index.read().revision
    }

    pub fn slice(&self, cluster: &Uid) -> Slice {
        let _ = cluster;
        Slice { revision: self.revision(), works: Vec::new() }
    }

    pub fn get(&self, application: &Uid, cluster: &Uid) -> Option<Entry> {
        let _ = (application, cluster);
        None
    }

    /// Every work there is, or those of one namespace, in order of application name and cluster name.
    pub fn list(&self, namespace: Option<&str>) -> (Revision, Vec<Entry>) {
        let _ = namespace;
        (self.revision(), Vec::new())
    }

    /// Wakes on each change of the cluster's slice; the value is the store revision of that change.
    pub fn subscribe(&self, cluster: &Uid) -> watch::Receiver<Revision> {
        self.0.changed.write().entry(cluster.clone()).or_default().subscribe()
    }

    /// Bytes of a blob, for a cluster whose own works list it and for no other (rule 10).
    pub fn blob(&self, cluster: &Uid, digest: &Digest) -> Option<Bytes> {
        let _ = (cluster, digest);
        None
    }

    /// Whether nothing of this Application is decided for the cluster (any more): its row went once its removals were
    /// confirmed. False while nothing is known. An agent may then forget a work that has nothing but done removals.
    pub fn is_released(&self, application: &Uid, cluster: &Uid) -> bool {
        let _ = (application, cluster);
        false
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

/// The sync core.
#[derive(Default)]
struct Index {
    revision: Revision,
}

impl Index {
    /// Clusters whose slice changed.
    fn apply(&mut self, feed: &Feed) -> Vec<Uid> {
        self.revision = match feed {
            Feed::Reset { revision, .. } | Feed::Changed { revision, .. } | Feed::Progress(revision) => *revision,
        };
        Vec::new()
    }
}
