//! Deletion: an Application goes when every cluster confirmed its removals, a Cluster when nothing is decided there.
//!
//! Only an Application that a person or tool deleted by name orders its objects away (rule 1); what does not answer is
//! waited for, or forgotten by a person.

use serde_json::{Value, json};

use super::{
    Controller,
    applications::{deletion, nowhere},
    index::{StoredApplication, StoredCluster},
    lanes::{Plan, unchanged},
};
use crate::{
    flow::schedule::Solution,
    hub::records::{self, Record},
    kinds::{
        application::WORKS_FINALIZER,
        cluster::{CLUSTER_FINALIZER, FORGET_AUTHOR_ANNOTATION},
    },
    model::{Now, Placement, Uid},
    store::{Operation, Transaction, object},
};

impl Controller {
    pub(super) fn settle_deleted(&mut self, now: Now, stored: &StoredApplication) {
        let metadata = &stored.view.metadata;
        // Without our finalizer nothing of it is ours any more; whoever else holds it lets it go.
        if !metadata.finalizers.iter().any(|finalizer| finalizer == WORKS_FINALIZER) {
            return;
        }
        let previous = self.index.placement(&metadata.uid);
        let next = previous.as_deref().and_then(|previous| self.without_rows(stored, previous));
        let placement = next.as_ref().or(previous.as_deref());
        if placement.is_none_or(|placement| placement.rows.is_empty()) {
            return self.finish_application(now, stored);
        }
        let status = self.status_of_deleted(now, stored, placement.unwrap_or(&nowhere(stored)));
        let mut object = stored.object();
        if next.is_none() && object["status"] == status {
            return;
        }
        if next.is_some() && object["status"]["status"] != "deleting" {
            let by = deletion(metadata).author;
            let message = format!("deleted by {by}: its removals are ordered in every cluster it runs in");
            self.tell(now, stored, false, "Deleting", message);
        }
        object["status"] = status;
        let mut plan = self.application_plan(stored, object::encode(&object));
        if let Some(next) = next {
            self.add_placement(&mut plan, &metadata.uid, next);
        }
        self.written_ms.insert(metadata.uid.clone(), now.monotonic_ms);
        self.begin(&metadata.uid, plan);
    }

    /// Every row with nothing but removals; `None` where it is so already.
    fn without_rows(&self, stored: &StoredApplication, previous: &Placement) -> Option<Placement> {
        let newest = self.index.newest(&stored.view.metadata.uid)?;
        let revision = (newest.name.as_str(), newest.revision.as_ref());
        let next = self.next_placement(stored, previous, revision, Solution::default());
        (next.rows != previous.rows).then_some(next)
    }

    /// Nothing of it runs anywhere: what the hub remembers of it goes, and the Application with the last of it.
    fn finish_application(&mut self, now: Now, stored: &StoredApplication) {
        let metadata = &stored.view.metadata;
        let uid = &metadata.uid;
        let reports = self.index.reports.get(uid).into_iter().flatten();
        let report = |cluster: &Uid| Record::Report { cluster: cluster.clone(), application: uid.clone() }.key();
        let mut plan = Plan {
            pieces: reports.map(|(cluster, _)| Operation::Delete(report(cluster))).collect(),
            ..Plan::default()
        };
        let snapshots = self.index.snapshots.get(uid).into_iter().flat_map(|snapshots| snapshots.values());
        plan.pieces.extend(snapshots.map(|snapshot| Operation::Delete(snapshot.key.clone())));
        let binding = self.index.bindings.contains_key(uid).then(|| Record::Binding(uid.clone()).key());
        plan.pieces.extend(binding.map(Operation::Delete));
        plan.pointer = without_finalizer(&stored.entry.key, stored.entry.modified, stored.object(), WORKS_FINALIZER);
        if let Some(known) = self.index.placements.get(uid) {
            let head = Record::Head(uid.clone()).key();
            plan.pointer.compares.push(unchanged(head.clone(), Some(known.modified)));
            plan.pointer.operations.push(Operation::Delete(head));
            plan.pointer.operations.extend(records::chunk_keys(&known.placement).map(Operation::Delete));
        }
        self.tell(now, stored, false, "Removed", "nothing of it is left in any cluster".into());
        self.begin(uid, plan);
    }

    /// No Application has a row there any more.
    pub(super) fn finish_cluster(&mut self, now: Now, stored: &StoredCluster) {
        let uid = &stored.view.metadata.uid;
        let of_it = self.index.reports.iter().filter(|(_, reports)| reports.contains_key(uid));
        let report =
            |application: &Uid| Record::Report { cluster: uid.clone(), application: application.clone() }.key();
        let pieces = of_it.map(|(application, _)| Operation::Delete(report(application))).collect();
        let pointer = without_finalizer(&stored.entry.key, stored.entry.modified, stored.object(), CLUSTER_FINALIZER);
        let metadata = &stored.view.metadata;
        let mut by = format!("deleted by {}", deletion(metadata).author);
        if let Some(author) = metadata.annotations.get(FORGET_AUTHOR_ANNOTATION) {
            by = format!("{by}, forgotten by {author}");
        }
        let message = format!("{by}: nothing is decided for it any more; what runs there is no longer the hub's");
        self.tell_of_cluster(now, uid, false, "ClusterRemoved", message);
        self.begin(uid, Plan { pieces, pointer, ..Plan::default() });
    }
}

/// The object goes with its last finalizer, as in Kubernetes.
fn without_finalizer(key: &crate::store::Key, modified: u64, mut object: Value, finalizer: &str) -> Transaction {
    let finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let others: Vec<Value> = finalizers.into_iter().filter(|known| known != finalizer).collect();
    let operation = match others.is_empty() {
        true => Operation::Delete(key.clone()),
        false => {
            object["metadata"]["finalizers"] = json!(others);
            Operation::Put(key.clone(), object::encode(&object))
        }
    };
    Transaction { compares: vec![unchanged(key.clone(), Some(modified))], operations: vec![operation] }
}
