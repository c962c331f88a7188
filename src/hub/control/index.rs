//! What the store says, in the shapes that decisions need. Fed by the one adaptor; the only state that is trusted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    flow::schedule::{Profile, Profiles, neighbours::affinity_of},
    hub::{
        feed::Feed,
        keys,
        records::{Blobs, Placements, Record, changes_of},
    },
    kinds::{
        APPLICATION, APPLICATION_REVISION, CLUSTER, EVENT, JOIN_TOKEN, PLACEMENT_PROFILE, PRIORITY_CLASS,
        application::source_digest,
    },
    model::{
        Application, Cluster, Digest, Placement, Report, Timestamp, Uid, application::Affinity, binding::Binding,
        object::Metadata, placement::Row, priority::PriorityClasses, revision::Revision as Rendered, token::JoinToken,
    },
    store::{Entry, Key, Revision, object},
};

#[derive(Default)]
pub struct Index {
    pub revision: Revision,
    /// Nothing is known before the first reset, and nothing is decided on it.
    pub ready: bool,
    pub applications: BTreeMap<Uid, StoredApplication>,
    pub clusters: BTreeMap<Uid, StoredCluster>,
    /// Application → number → revision.
    pub snapshots: BTreeMap<Uid, BTreeMap<u64, Snapshot>>,
    pub placements: Placements,
    /// Application → cluster → report.
    pub reports: BTreeMap<Uid, BTreeMap<Uid, Arc<Report>>>,
    /// Cluster → Applications that have a row there.
    pub tenants: BTreeMap<Uid, BTreeSet<Uid>>,
    pub blobs: Blobs,
    /// What other schedulers decided, by Application.
    pub bindings: BTreeMap<Uid, Arc<Binding>>,
    /// What the platform has to say in placements.
    pub profiles: Profiles,
    pub classes: PriorityClasses,
    priorities: BTreeMap<Uid, i32>,
    by_priority: BTreeMap<i32, BTreeSet<Uid>>,
    /// What Applications say of others, by those that do.
    pub affinities: BTreeMap<Uid, Affinity>,
    /// Expiry of join tokens.
    pub tokens: BTreeMap<Key, Option<Timestamp>>,
    /// Application → clusters it has a row in, and whether anything is to run there.
    homes: BTreeMap<Uid, BTreeMap<Uid, bool>>,
    uids: BTreeMap<Key, Uid>,
    snapshot_keys: BTreeMap<Key, (Uid, u64)>,
}

#[derive(Clone)]
pub struct StoredApplication {
    pub entry: Entry,
    pub view: Arc<Application>,
    pub spec_digest: Digest,
}

#[derive(Clone)]
pub struct StoredCluster {
    pub entry: Entry,
    pub view: Arc<Cluster>,
}

#[derive(Clone)]
pub struct Snapshot {
    pub name: String,
    pub key: Key,
    pub revision: Arc<Rendered>,
}

/// What a feed event changed.
#[derive(Debug, Default)]
pub struct Touched {
    /// Applications whose spec or metadata changed, or that came.
    pub applications: BTreeSet<Uid>,
    pub gone: BTreeSet<Uid>,
    /// Clusters that came, went, or whose spec or metadata changed.
    pub clusters: BTreeSet<Uid>,
    pub placements: BTreeSet<Uid>,
    /// Applications that got a cluster or left one, or whose name or labels are others while they run.
    pub moved: BTreeSet<Uid>,
    /// Names of profiles that came, went or changed.
    pub profiles: BTreeSet<String>,
    /// Names of priority classes that came or went.
    pub classes: BTreeSet<String>,
    /// (cluster, application).
    pub reports: BTreeSet<(Uid, Uid)>,
    pub events: Vec<(Key, Option<Entry>)>,
    pub faults: Vec<String>,
}

impl Index {
    pub fn priority(&self, application: &Uid) -> i32 {
        self.priorities.get(application).copied().unwrap_or(0)
    }

    /// Applications of lower priorities than this, the lowest first.
    pub fn lower(&self, priority: i32) -> impl Iterator<Item = &Uid> {
        self.by_priority.range(..priority).flat_map(|(_, applications)| applications)
    }

    fn rank(&mut self, application: &Uid) {
        let stored = self.applications.get(application);
        let priority = stored.map(|stored| self.classes.of(&stored.view.spec.policies));
        let before = self.priorities.get(application).copied();
        if before == priority {
            return;
        }
        if let Some(before) = before
            && let Some(others) = self.by_priority.get_mut(&before)
        {
            others.remove(application);
            if others.is_empty() {
                self.by_priority.remove(&before);
            }
        }
        match priority {
            Some(priority) => {
                self.priorities.insert(application.clone(), priority);
                self.by_priority.entry(priority).or_default().insert(application.clone());
            }
            None => drop(self.priorities.remove(application)),
        }
    }

    pub fn apply(&mut self, feed: &Feed) -> Touched {
        let mut touched = Touched::default();
        match feed {
            Feed::Progress(revision) => self.revision = *revision,
            Feed::Changed { revision, changes } => {
                self.revision = *revision;
                for (key, entry) in changes_of(changes) {
                    self.read(key, entry, &mut touched);
                }
            }
            Feed::Reset { entries, revision } => {
                *self = Self { revision: *revision, ready: true, ..Self::default() };
                for entry in entries.iter() {
                    self.read(&entry.key, Some(entry), &mut touched);
                }
            }
        }
        for application in self.placements.settle() {
            if self.settle_tenants(&application) {
                touched.moved.insert(application.clone());
            }
            touched.placements.insert(application);
        }
        touched
    }

    /// Whether it got a cluster or left one.
    fn settle_tenants(&mut self, application: &Uid) -> bool {
        let before = self.homes.remove(application).unwrap_or_default();
        for cluster in before.keys() {
            if let Some(tenants) = self.tenants.get_mut(cluster) {
                tenants.remove(application);
                if tenants.is_empty() {
                    self.tenants.remove(cluster);
                }
            }
        }
        let Some(placement) = self.placement(application) else { return !before.is_empty() };
        let home = |row: &Row| (row.cluster.clone(), !row.components.is_empty());
        let homes: BTreeMap<Uid, bool> = placement.rows.iter().map(home).collect();
        for cluster in homes.keys() {
            self.tenants.entry(cluster.clone()).or_default().insert(application.clone());
        }
        let moved = homes != before;
        self.homes.insert(application.clone(), homes);
        moved
    }

    /// The Application under this key.
    pub fn named(&self, key: &Key) -> Option<&StoredApplication> {
        self.applications.get(self.uids.get(key)?)
    }

    pub fn placement(&self, application: &Uid) -> Option<Arc<Placement>> {
        self.placements.get(application).map(|stored| stored.placement.clone())
    }

    pub fn newest(&self, application: &Uid) -> Option<&Snapshot> {
        self.snapshots.get(application)?.values().next_back()
    }

    pub fn snapshot(&self, application: &Uid, name: &str) -> Option<&Snapshot> {
        self.snapshots.get(application)?.values().find(|snapshot| snapshot.name == name)
    }

    pub fn report(&self, application: &Uid, cluster: &Uid) -> Option<&Arc<Report>> {
        self.reports.get(application)?.get(cluster)
    }

    /// Whether a revision of this name is stored, of whichever Application.
    pub fn has_snapshot_key(&self, key: &Key) -> bool {
        self.snapshot_keys.contains_key(key)
    }

    fn read(&mut self, key: &Key, entry: Option<&Entry>, touched: &mut Touched) {
        if self.blobs.set(key, entry) {
            return;
        }
        let is = |kind: &crate::kinds::Kind| key.as_str().starts_with(&keys::prefix(kind, None));
        let read = match Record::of(key) {
            Some(Record::Head(application)) => self.placements.set_head(application, entry),
            Some(Record::Chunk { application, decision, index }) => {
                self.placements.set_chunk((application, decision, index), entry)
            }
            Some(Record::Report { cluster, application }) => self.read_report(cluster, application, entry, touched),
            Some(Record::Binding(application)) => self.read_binding(application, entry, touched),
            None if is(&APPLICATION_REVISION) => self.read_snapshot(key, entry),
            None if is(&APPLICATION) => self.read_application(key, entry, touched),
            None if is(&CLUSTER) => self.read_cluster(key, entry, touched),
            None if is(&PLACEMENT_PROFILE) => self.read_profile(key, entry, touched),
            None if is(&PRIORITY_CLASS) => self.read_class(key, entry, touched),
            None if is(&JOIN_TOKEN) => self.read_token(key, entry),
            None if is(&EVENT) => {
                touched.events.push((key.clone(), entry.cloned()));
                Ok(())
            }
            None => Ok(()),
        };
        if let Err(error) = read {
            touched.faults.push(format!("{key}: {error}"));
        }
    }

    fn read_application(
        &mut self,
        key: &Key,
        entry: Option<&Entry>,
        touched: &mut Touched,
    ) -> Result<(), object::Invalid> {
        let Some(entry) = entry else {
            if let Some(uid) = self.uids.remove(key) {
                self.remove_application(uid, touched);
            }
            return Ok(());
        };
        let known = self.uids.get(key).and_then(|uid| self.applications.get_mut(uid));
        if let Some(known) = known.filter(|known| object::same_but_status(&known.entry.value, &entry.value)) {
            // Most of what comes is our own status, come back.
            known.entry = entry.clone();
            return Ok(());
        }
        let value = object::decode(&entry.value)?;
        let spec_digest = source_digest(&value);
        let view: Application = object::view(&entry.value)?;
        let uid = view.metadata.uid.clone();
        // A name that was deleted and made again within one transaction's sight is another Application.
        if let Some(old) = self.uids.insert(key.clone(), uid.clone()).filter(|old| *old != uid) {
            self.remove_application(old, touched);
        }
        let same = |known: &StoredApplication| known.spec_digest == spec_digest && known.view.metadata == view.metadata;
        if !self.applications.get(&uid).is_some_and(same) {
            touched.applications.insert(uid.clone());
            if self.homes.contains_key(&uid) {
                touched.moved.insert(uid.clone());
            }
        }
        match affinity_of(&view.spec.policies) {
            Some(affinity) => drop(self.affinities.insert(uid.clone(), affinity)),
            None => drop(self.affinities.remove(&uid)),
        }
        let stored = StoredApplication { entry: entry.clone(), view: Arc::new(view), spec_digest };
        self.applications.insert(uid.clone(), stored);
        self.rank(&uid);
        Ok(())
    }

    fn remove_application(&mut self, uid: Uid, touched: &mut Touched) {
        self.applications.remove(&uid);
        self.affinities.remove(&uid);
        self.rank(&uid);
        touched.gone.insert(uid);
    }

    fn read_cluster(&mut self, key: &Key, entry: Option<&Entry>, touched: &mut Touched) -> Result<(), object::Invalid> {
        let Some(entry) = entry else {
            if let Some(uid) = self.uids.remove(key) {
                self.clusters.remove(&uid);
                touched.clusters.insert(uid);
            }
            return Ok(());
        };
        let view: Cluster = object::view(&entry.value)?;
        let uid = view.metadata.uid.clone();
        if let Some(old) = self.uids.insert(key.clone(), uid.clone()).filter(|old| *old != uid) {
            self.clusters.remove(&old);
            touched.clusters.insert(old);
        }
        let same = |known: &StoredCluster| known.view.metadata == view.metadata && known.view.spec == view.spec;
        if !self.clusters.get(&uid).is_some_and(same) {
            touched.clusters.insert(uid.clone());
        }
        self.clusters.insert(uid, StoredCluster { entry: entry.clone(), view: Arc::new(view) });
        Ok(())
    }

    fn read_snapshot(&mut self, key: &Key, entry: Option<&Entry>) -> Result<(), object::Invalid> {
        if let Some((application, number)) = self.snapshot_keys.remove(key)
            && let Some(snapshots) = self.snapshots.get_mut(&application)
        {
            snapshots.remove(&number);
            if snapshots.is_empty() {
                self.snapshots.remove(&application);
            }
        }
        if let Some(entry) = entry {
            let Object { metadata, spec } = object::view(&entry.value)?;
            let (application, number) = (spec.application_uid.clone(), spec.number);
            self.snapshot_keys.insert(key.clone(), (application.clone(), number));
            let snapshot = Snapshot { name: metadata.name, key: key.clone(), revision: Arc::new(spec) };
            self.snapshots.entry(application).or_default().insert(number, snapshot);
        }
        Ok(())
    }

    fn read_report(
        &mut self,
        cluster: Uid,
        application: Uid,
        entry: Option<&Entry>,
        touched: &mut Touched,
    ) -> Result<(), object::Invalid> {
        let reports = self.reports.entry(application.clone()).or_default();
        match entry {
            Some(entry) => drop(reports.insert(cluster.clone(), Arc::new(object::view(&entry.value)?))),
            None => drop(reports.remove(&cluster)),
        }
        if reports.is_empty() {
            self.reports.remove(&application);
        }
        touched.reports.insert((cluster, application));
        Ok(())
    }

    fn read_binding(
        &mut self,
        application: Uid,
        entry: Option<&Entry>,
        touched: &mut Touched,
    ) -> Result<(), object::Invalid> {
        match entry {
            Some(entry) => drop(self.bindings.insert(application.clone(), Arc::new(object::view(&entry.value)?))),
            None => drop(self.bindings.remove(&application)),
        }
        touched.applications.insert(application);
        Ok(())
    }

    fn read_profile(&mut self, key: &Key, entry: Option<&Entry>, touched: &mut Touched) -> Result<(), object::Invalid> {
        let name = key.as_str().strip_prefix(&keys::prefix(&PLACEMENT_PROFILE, Some(""))).unwrap_or_default();
        touched.profiles.insert(name.to_owned());
        match entry {
            Some(entry) => self.profiles.insert(name, Profile::of(&object::decode(&entry.value)?["spec"])),
            None => self.profiles.remove(name),
        }
        Ok(())
    }

    fn read_class(&mut self, key: &Key, entry: Option<&Entry>, touched: &mut Touched) -> Result<(), object::Invalid> {
        let name = key.as_str().strip_prefix(&keys::prefix(&PRIORITY_CLASS, Some(""))).unwrap_or_default().to_owned();
        touched.classes.insert(name.clone());
        match entry {
            Some(entry) => drop(self.classes.0.insert(name, object::view(&entry.value)?)),
            None => drop(self.classes.0.remove(&name)),
        }
        for application in self.applications.keys().cloned().collect::<Vec<_>>() {
            self.rank(&application);
        }
        Ok(())
    }

    fn read_token(&mut self, key: &Key, entry: Option<&Entry>) -> Result<(), object::Invalid> {
        match entry {
            Some(entry) => {
                let token: JoinToken = object::view(&entry.value)?;
                self.tokens.insert(key.clone(), token.spec.expires_at);
            }
            None => drop(self.tokens.remove(key)),
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Rendered,
}

impl StoredApplication {
    pub fn object(&self) -> Value {
        // Its typed view was read from the same bytes.
        object::decode(&self.entry.value).unwrap_or_default()
    }
}

impl StoredCluster {
    pub fn object(&self) -> Value {
        object::decode(&self.entry.value).unwrap_or_default()
    }
}
