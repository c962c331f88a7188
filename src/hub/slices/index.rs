//! The sync core: from the store's feed to works.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;

use super::Entry;
use crate::{
    flow::slice::{self, Results},
    hub::{
        feed::Feed,
        keys,
        records::{Blobs, Placements, Record, changes_of},
    },
    kinds::APPLICATION_REVISION,
    model::{Report, Uid, object::Metadata, revision::Revision as Snapshot},
    store::{Entry as StoreEntry, Key, Revision, object},
};

#[derive(Default)]
pub struct Index {
    pub revision: Revision,
    pub blobs: Blobs,
    pub works: BTreeMap<Uid, BTreeMap<Uid, Entry>>,
    placements: Placements,
    /// Application → name of the revision.
    snapshots: BTreeMap<Uid, BTreeMap<String, Arc<Snapshot>>>,
    snapshot_keys: BTreeMap<Key, (Uid, String)>,
    reports: BTreeMap<(Uid, Uid), Arc<Report>>,
    /// Where each Application has works, to find those that went.
    clusters: BTreeMap<Uid, BTreeSet<Uid>>,
    results: Results,
    /// Applications whose works could not be made, for something was missing; tried again with each change.
    incomplete: BTreeSet<Uid>,
}

/// What a feed event did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Clusters whose slice changed.
    pub touched: BTreeSet<Uid>,
    /// What could not be read or made, in words; what was known before stays.
    pub faults: Vec<String>,
}

#[derive(Deserialize)]
struct Stored {
    metadata: Metadata,
    spec: Snapshot,
}

impl Index {
    pub fn apply(&mut self, feed: &Feed) -> Outcome {
        let mut outcome = Outcome::default();
        match feed {
            Feed::Progress(revision) => self.revision = *revision,
            Feed::Changed { revision, changes } => {
                self.revision = *revision;
                for (key, entry) in changes_of(changes) {
                    self.read(key, entry, &mut outcome);
                }
                self.settle(&mut outcome);
            }
            Feed::Reset { entries, revision } => {
                // Works are kept until the new state says otherwise, so that an unchanged one is not announced.
                let old = std::mem::take(self);
                (self.works, self.clusters, self.results) = (old.works, old.clusters, old.results);
                self.revision = *revision;
                for entry in entries.iter() {
                    self.read(&entry.key, Some(entry), &mut outcome);
                }
                self.settle(&mut outcome);
                let gone: Vec<Uid> = self.clusters.keys().cloned().collect();
                for application in gone {
                    if self.placements.get(&application).is_none() {
                        self.build(&application, &mut outcome);
                    }
                }
            }
        }
        outcome
    }

    fn read(&mut self, key: &Key, entry: Option<&StoreEntry>, outcome: &mut Outcome) {
        if self.blobs.set(key, entry) {
            return;
        }
        let read = match Record::of(key) {
            Some(Record::Head(application)) => self.placements.set_head(application, entry),
            Some(Record::Chunk { application, decision, index }) => {
                self.placements.set_chunk((application, decision, index), entry)
            }
            // What comes of it is a placement.
            Some(Record::Binding(_)) => Ok(()),
            Some(Record::Report { cluster, application }) => self.read_report(cluster, application, entry),
            None if key.as_str().starts_with(&keys::prefix(&APPLICATION_REVISION, None)) => {
                self.read_snapshot(key, entry)
            }
            None => Ok(()),
        };
        if let Err(error) = read {
            outcome.faults.push(format!("{key}: {error}"));
        }
    }

    fn read_report(
        &mut self,
        cluster: Uid,
        application: Uid,
        entry: Option<&StoreEntry>,
    ) -> Result<(), object::Invalid> {
        let report = entry.map(|entry| object::view(&entry.value).map(Arc::new)).transpose()?;
        if let Some(known) = self.works.get_mut(&cluster).and_then(|works| works.get_mut(&application)) {
            known.report = report.clone();
            known.modified = self.revision;
        }
        match report {
            Some(report) => drop(self.reports.insert((cluster, application), report)),
            None => drop(self.reports.remove(&(cluster, application))),
        }
        Ok(())
    }

    fn read_snapshot(&mut self, key: &Key, entry: Option<&StoreEntry>) -> Result<(), object::Invalid> {
        if let Some((application, name)) = self.snapshot_keys.remove(key)
            && let Some(snapshots) = self.snapshots.get_mut(&application)
        {
            snapshots.remove(&name);
            if snapshots.is_empty() {
                self.snapshots.remove(&application);
            }
        }
        if let Some(entry) = entry {
            let Stored { metadata, spec } = object::view(&entry.value)?;
            self.snapshot_keys.insert(key.clone(), (spec.application_uid.clone(), metadata.name.clone()));
            self.snapshots.entry(spec.application_uid.clone()).or_default().insert(metadata.name, Arc::new(spec));
        }
        Ok(())
    }

    fn settle(&mut self, outcome: &mut Outcome) {
        let mut changed: BTreeSet<Uid> = self.placements.settle().into_iter().collect();
        changed.append(&mut self.incomplete);
        for application in changed {
            self.build(&application, outcome);
        }
    }

    /// Makes the works of one Application that are new or have a new generation, and forgets those whose row went.
    fn build(&mut self, application: &Uid, outcome: &mut Outcome) {
        let placement = self.placements.get(application).map(|stored| stored.placement.clone());
        let rows = placement.as_ref().map(|placement| placement.rows.as_slice()).unwrap_or_default();
        let here: BTreeSet<Uid> = rows.iter().map(|row| row.cluster.clone()).collect();
        for cluster in self.clusters.remove(application).unwrap_or_default().difference(&here) {
            if let Some(works) = self.works.get_mut(cluster) {
                works.remove(application);
                outcome.touched.insert(cluster.clone());
            }
        }
        for row in rows {
            let works = self.works.entry(row.cluster.clone()).or_default();
            if works.get(application).is_some_and(|known| known.work.generation == row.generation) {
                continue;
            }
            let snapshot = self.snapshots.get(application).and_then(|snapshots| snapshots.get(&row.revision));
            let work = match snapshot {
                None => Err(format!("revision {} is missing", row.revision)),
                Some(snapshot) => slice::work(snapshot, row, &mut self.results, |digest| self.blobs.get(digest))
                    .map_err(|error| error.to_string()),
            };
            match work {
                Ok(work) => {
                    let report = self.reports.get(&(row.cluster.clone(), application.clone())).cloned();
                    let cluster_name = row.cluster_name.as_str().into();
                    let entry = Entry { cluster_name, work, report, modified: self.revision };
                    works.insert(application.clone(), entry);
                    outcome.touched.insert(row.cluster.clone());
                }
                Err(fault) => {
                    outcome.faults.push(format!("application {application} in {}: {fault}", row.cluster_name));
                    self.incomplete.insert(application.clone());
                }
            }
        }
        if !here.is_empty() {
            self.clusters.insert(application.clone(), here);
        }
    }

    pub fn placements(&self) -> impl Iterator<Item = &crate::hub::records::Stored> {
        self.placements.iter().map(|(_, stored)| stored)
    }

    /// Whether a placement of the Application is known, and none of its rows is the cluster's.
    pub fn has_no_row(&self, application: &Uid, cluster: &Uid) -> bool {
        let placement = self.placements.get(application).map(|stored| &stored.placement);
        self.revision > 0 && placement.is_none_or(|placement| placement.rows.iter().all(|row| row.cluster != *cluster))
    }
}
