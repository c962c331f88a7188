//! Revisions: what an Application was rendered to, what its rows run, and what is stored of a new one.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Controller, index::StoredApplication};
use crate::{
    flow::{render::render, schedule::Solution},
    hub::{events::uid_of, keys},
    kinds::{APPLICATION, APPLICATION_REVISION},
    model::{
        Digest, FieldError, Now, ObjectRef, Placement, Policy, Uid,
        application::ApplicationSpec,
        revision::{RenderedComponent, RenderedManifest, Revision},
    },
    store::{Key, Operation, blobs, object},
};

/// Why a spec could not be rendered; rendered again only when the spec changes.
#[derive(Debug, Clone)]
pub struct RenderFaults {
    spec: Digest,
    pub faults: Vec<FieldError>,
}

/// What an Application was rendered to, and what has to be stored for it where it is new.
pub struct Snapshot {
    pub name: String,
    pub revision: Arc<Revision>,
    pub pieces: Vec<Operation>,
}

/// The revision that an Application's rows run, where another is to be decided.
pub struct RunningRevision {
    pub name: String,
    pub revision: Arc<Revision>,
    pub policies: Vec<Policy>,
}

impl Controller {
    /// What runs while `snapshot` is decided; every row that runs something runs the same. Absent where that is it.
    pub(super) fn running(&self, uid: &Uid, previous: &Placement, snapshot: &Snapshot) -> Option<RunningRevision> {
        self.runs(uid, previous).filter(|running| running.name != snapshot.name)
    }

    /// What the rows of a placement run.
    pub(super) fn runs(&self, uid: &Uid, placement: &Placement) -> Option<RunningRevision> {
        let name = &placement.rows.iter().find(|row| !row.components.is_empty())?.revision;
        let known = self.index.snapshot(uid, name)?;
        let application = self.index.blobs.get(&known.revision.application_blob)?;
        let mut application: Value = serde_json::from_slice(&application).ok()?;
        let ApplicationSpec { policies, .. } = serde_json::from_value(application["spec"].take()).ok()?;
        Some(RunningRevision { name: name.clone(), revision: known.revision.clone(), policies })
    }

    /// The newest revision if it is of this spec, else a new one. `None` where the spec cannot be rendered.
    pub(super) fn snapshot(&mut self, now: Now, stored: &StoredApplication) -> Option<Snapshot> {
        let uid = &stored.view.metadata.uid;
        let newest = self.index.newest(uid);
        if let Some(newest) = newest.filter(|newest| newest.revision.spec_digest == stored.spec_digest) {
            let (name, revision) = (newest.name.clone(), newest.revision.clone());
            self.render_faults.remove(uid);
            return Some(Snapshot { name, revision, pieces: Vec::new() });
        }
        if self.render_faults.get(uid).is_some_and(|known| known.spec == stored.spec_digest) {
            return None;
        }
        let metadata = &stored.view.metadata;
        // An older Application of the same name may have left revisions that are still to be swept.
        let mut number = newest.map_or(0, |newest| newest.revision.number) + 1;
        let key_of =
            |number| keys::key(&APPLICATION_REVISION, &metadata.namespace, &format!("{}-v{number}", metadata.name));
        while self.index.has_snapshot_key(&key_of(number)) {
            number += 1;
        }
        match make_snapshot(now, stored, number, key_of(number)) {
            Ok(snapshot) => {
                self.render_faults.remove(uid);
                Some(snapshot)
            }
            Err(faults) => {
                let message = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                self.tell(now, stored, true, "RenderFailed", message);
                self.render_faults.insert(uid.clone(), RenderFaults { spec: stored.spec_digest, faults });
                None
            }
        }
    }
}

/// The revision that a solution's shares are of.
pub fn decided_revision<'s>(
    snapshot: &'s Snapshot,
    running: Option<&'s RunningRevision>,
    solution: &Solution,
) -> (&'s str, &'s Revision) {
    match running.filter(|_| !solution.outgrown.is_empty()) {
        Some(running) => (&running.name, &running.revision),
        None => (&snapshot.name, &snapshot.revision),
    }
}

fn make_snapshot(now: Now, stored: &StoredApplication, number: u64, key: Key) -> Result<Snapshot, Vec<FieldError>> {
    let application = &stored.view;
    let metadata = &application.metadata;
    let name = format!("{}-v{number}", metadata.name);
    let rendered = render(application, &name)?;
    let mut contents: BTreeMap<Digest, Bytes> = BTreeMap::new();
    let mut address = |value: &Value| {
        let bytes = Bytes::from(value.to_string());
        let digest = Digest::of(&bytes);
        contents.insert(digest, bytes);
        digest
    };
    let components = rendered.components.into_iter().map(|component| RenderedComponent {
        manifests: component
            .objects
            .iter()
            .filter_map(|object| Some(RenderedManifest { object: ObjectRef::of(object)?, blob: address(object) }))
            .collect(),
        name: component.name,
        type_: component.type_,
        demand: component.demand,
        replicas: component.replicas,
        beside: component.beside,
        references: component.references,
    });
    let components = components.collect();
    let application_blob = address(&carried(stored));
    let revision = Revision {
        application: metadata.object_name(),
        application_uid: metadata.uid.clone(),
        number,
        spec_digest: stored.spec_digest,
        application_blob,
        components,
    };
    let object = revision_object(now, stored, &name, &revision);
    let mut pieces: Vec<Operation> = Vec::new();
    for (digest, bytes) in &contents {
        let transactions = blobs::transactions(digest, bytes).map_err(|error| {
            vec![FieldError::new("spec", crate::model::object::FieldErrorKind::TooLong, error.to_string())]
        })?;
        pieces.extend(transactions.into_iter().flat_map(|transaction| transaction.operations));
    }
    pieces.push(Operation::Put(key, object::encode(&object)));
    Ok(Snapshot { name, revision: Arc::new(revision), pieces })
}

/// The Application as every work carries it: enough to make it anew in an empty hub.
fn carried(stored: &StoredApplication) -> Value {
    let object = stored.object();
    let mut metadata = json!({"name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"]});
    for field in ["labels", "annotations"] {
        if let Some(map) = object["metadata"].get(field) {
            metadata[field] = map.clone();
        }
    }
    json!({
        "apiVersion": APPLICATION.gvk.api_version(),
        "kind": APPLICATION.gvk.kind,
        "metadata": metadata,
        "spec": object["spec"],
    })
}

fn revision_object(now: Now, stored: &StoredApplication, name: &str, revision: &Revision) -> Value {
    let metadata = &stored.view.metadata;
    let hash = Digest::of(format!("{}\n{name}", metadata.uid).as_bytes()).to_string();
    json!({
        "apiVersion": APPLICATION_REVISION.gvk.api_version(),
        "kind": APPLICATION_REVISION.gvk.kind,
        "metadata": {
            "name": name,
            "namespace": metadata.namespace,
            "uid": uid_of(&hash),
            "generation": 1,
            "creationTimestamp": now.wall.to_string(),
            "labels": {"app.oam.dev/name": metadata.name},
            "ownerReferences": [{
                "apiVersion": APPLICATION.gvk.api_version(),
                "kind": APPLICATION.gvk.kind,
                "name": metadata.name,
                "uid": metadata.uid,
                "controller": true,
            }],
        },
        "spec": revision,
    })
}
