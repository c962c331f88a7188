//! Writing: what was decided of an Application and what is told of it, as one transaction and its events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Controller,
    index::StoredApplication,
    lanes::{Plan, unchanged},
    revisions::Snapshot,
};
use crate::{
    flow::rollup,
    hub::{
        events::{About, Note},
        records,
    },
    kinds::{APPLICATION, application::WORKS_FINALIZER},
    model::{Now, Placement, Uid},
    store::{Operation, Transaction, object},
};

/// A status is cut down to its conditions and counts where the object would not fit a transaction otherwise.
const OBJECT_BYTES_MAX: usize = 900 << 10;

impl Controller {
    /// Writes the decision, if there is one, and the status, if it changed, in one transaction that holds only if the
    /// Application is as it was read.
    pub(super) fn write(
        &mut self,
        now: Now,
        stored: &StoredApplication,
        snapshot: Option<Snapshot>,
        next: Option<Placement>,
    ) {
        let uid = &stored.view.metadata.uid;
        let mut object = stored.object();
        let before = object["status"].take();
        let known = self.index.placement(uid);
        let placement = next.as_ref().or(known.as_deref());
        let status = self.status(now, stored, &before, snapshot.as_ref(), placement);
        let finalizers = &stored.view.metadata.finalizers;
        let ours = finalizers.iter().any(|finalizer| finalizer == WORKS_FINALIZER);
        let fresh = snapshot.as_ref().is_some_and(|snapshot| !snapshot.pieces.is_empty());
        if status == before && next.is_none() && !fresh && ours {
            return;
        }
        self.tell_of_change(now, stored, snapshot.as_ref().filter(|_| fresh), next.as_ref(), &before, &status);
        if !ours {
            let mut finalizers = finalizers.clone();
            finalizers.push(WORKS_FINALIZER.to_owned());
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        object["status"] = status;
        let mut plan = self.application_plan(stored, encode(object));
        if let Some(snapshot) = snapshot.filter(|_| fresh) {
            plan.revision = Some((snapshot.name, snapshot.revision));
            plan.pieces = snapshot.pieces;
        }
        if let Some(next) = next {
            self.add_placement(&mut plan, uid, next);
        }
        self.written_ms.insert(uid.clone(), now.monotonic_ms);
        self.begin(uid, plan);
    }

    pub(super) fn application_plan(&self, stored: &StoredApplication, value: Bytes) -> Plan {
        let key = stored.entry.key.clone();
        let pointer = Transaction {
            compares: vec![unchanged(key.clone(), Some(stored.entry.modified))],
            operations: vec![Operation::Put(key, value)],
        };
        Plan { pointer, ..Plan::default() }
    }

    /// Chunks first, the head with a compare on its predecessor, and the predecessor's chunks deleted with it.
    pub(super) fn add_placement(&self, plan: &mut Plan, uid: &Uid, next: Placement) {
        let (chunks, (head, value)) = records::encode(&next);
        plan.pieces.extend(chunks.into_iter().map(|(key, value)| Operation::Put(key, value)));
        let known = self.index.placements.get(uid);
        plan.pointer.compares.push(unchanged(head.clone(), known.map(|known| known.modified)));
        plan.pointer.operations.push(Operation::Put(head, value));
        let old = known.into_iter().flat_map(|known| records::chunk_keys(&known.placement));
        plan.pointer.operations.extend(old.map(Operation::Delete));
        plan.placement = Some(Arc::new(next));
    }

    fn status(
        &self,
        now: Now,
        stored: &StoredApplication,
        previous: &Value,
        snapshot: Option<&Snapshot>,
        placement: Option<&Placement>,
    ) -> Value {
        let uid = &stored.view.metadata.uid;
        let newest = self.index.newest(uid).map(|newest| (newest.name.as_str(), newest.revision.as_ref()));
        let revision = snapshot.map(|snapshot| (snapshot.name.as_str(), snapshot.revision.as_ref())).or(newest);
        let nothing = BTreeMap::new();
        let words = |cluster: Uid| {
            let name = self.fleet.get(&cluster)?.name.clone();
            let works = self.index.tenants.get(&cluster).map_or(0, BTreeSet::len);
            let words = self.brake.words(&cluster, &name, works)?;
            Some((name, words))
        };
        let held = self.brake.clusters_of(uid).into_iter().filter_map(words).collect();
        rollup::status(
            now,
            &rollup::Facts {
                application: &stored.view,
                previous,
                revision,
                placement,
                reports: self.index.reports.get(uid).unwrap_or(&nothing),
                clusters: &self.truths,
                faults: self.render_faults.get(uid).map(|known| known.faults.as_slice()).unwrap_or_default(),
                plugin: self.plugins.failure(uid),
                class: self.index.classes.missing(&stored.view.spec.policies),
                held: &held,
            },
        )
    }

    pub(super) fn status_of_deleted(&self, now: Now, stored: &StoredApplication, placement: &Placement) -> Value {
        let previous = stored.object()["status"].take();
        self.status(now, stored, &previous, None, Some(placement))
    }

    fn tell_of_change(
        &mut self,
        now: Now,
        stored: &StoredApplication,
        fresh: Option<&Snapshot>,
        next: Option<&Placement>,
        before: &Value,
        after: &Value,
    ) {
        if let Some(snapshot) = fresh {
            let objects: usize = snapshot.revision.components.iter().map(|component| component.manifests.len()).sum();
            self.tell(now, stored, false, "Rendered", format!("{}: {objects} objects", snapshot.name));
        }
        if let Some(next) = next {
            let sum = after["placement"]["sum"].as_str().unwrap_or_default();
            if next.unplaced.is_empty() {
                let names: Vec<_> = next.rows.iter().map(|row| row.cluster_name.as_str()).take(10).collect();
                self.tell(now, stored, false, "Placed", format!("{sum} in {}", names.join(", ")));
            }
            for (component, what) in &next.unplaced {
                self.tell(now, stored, true, "Unplaced", format!("{component}: {what}"));
            }
            if let Some(words) = rollup::making_room(next) {
                self.tell(now, stored, false, "Preempting", words);
            }
            for (component, words) in &next.preempted {
                self.tell(now, stored, true, "Preempted", format!("{component}: {words}"));
            }
        }
        let (old, new) = (before["status"].as_str().unwrap_or_default(), after["status"].as_str().unwrap_or_default());
        let message = || {
            let conditions = after["conditions"].as_array().into_iter().flatten();
            let ready =
                conditions.filter(|condition| condition["type"] == "Ready").find_map(|ready| ready["message"].as_str());
            ready.unwrap_or_default().to_owned()
        };
        match new {
            _ if old == new => {}
            "running" => self.tell(now, stored, false, "Running", message()),
            "unhealthy" => self.tell(now, stored, true, "Unhealthy", message()),
            _ => {}
        }
    }

    pub(super) fn tell(
        &mut self,
        now: Now,
        stored: &StoredApplication,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let metadata = &stored.view.metadata;
        let about = About { gvk: APPLICATION.gvk.clone(), name: metadata.object_name(), uid: metadata.uid.clone() };
        self.note(now, &Note { about, warning, reason: reason.into(), message });
    }
}

/// The stored form; with a status that says less where the whole would not fit.
fn encode(mut object: Value) -> Bytes {
    let value = object::encode(&object);
    if value.len() <= OBJECT_BYTES_MAX {
        return value;
    }
    for (list, detail) in [("services", None), ("appliedResources", None), ("placement", Some("rows"))] {
        match detail {
            Some(detail) => object["status"][list][detail] = json!([]),
            None => object["status"][list] = json!([]),
        }
    }
    object::encode(&object)
}
