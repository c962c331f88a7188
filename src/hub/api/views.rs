//! Kinds that are derived rather than stored: the Work view over `hub::slices`.

use serde_json::{Value, json};

use super::ports::{Derived, View};
use crate::{
    hub::slices::{Entry, Slices},
    kinds,
    model::Uid,
    store::{Revision, object},
};

pub fn with_revision(derived: Derived) -> Value {
    let mut value = derived.object;
    object::set_resource_version(&mut value, derived.modified);
    value
}

impl View for Slices {
    fn revision(&self) -> Revision {
        Slices::revision(self)
    }

    fn list(&self, namespace: Option<&str>) -> (Revision, Vec<Derived>) {
        let (revision, entries) = Slices::list(self, namespace);
        (revision, entries.iter().map(derived).collect())
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Derived> {
        let (_, entries) = Slices::list(self, Some(namespace));
        entries.iter().find(|entry| work_name(entry) == name).map(derived)
    }
}

fn work_name(entry: &Entry) -> String {
    format!("{}.{}", entry.work.application.name, entry.cluster_name)
}

fn derived(entry: &Entry) -> Derived {
    let work = &entry.work;
    let mut spec = serde_json::to_value(&**work).unwrap_or_default();
    spec["clusterName"] = json!(&*entry.cluster_name);
    let report = entry.report.as_ref().map(|report| serde_json::to_value(&**report).unwrap_or_default());
    let object = json!({
        "apiVersion": kinds::WORK.gvk.api_version(), "kind": kinds::WORK.gvk.kind,
        "metadata": {
            "name": work_name(entry), "namespace": work.application.namespace,
            "uid": uid(&work.application_uid, &work.cluster), "generation": work.generation,
            "labels": {"hanse.dev/application": work.application.name, "hanse.dev/cluster": &*entry.cluster_name},
        },
        "spec": spec, "status": report.unwrap_or_else(|| json!({})),
    });
    Derived { modified: entry.modified, object }
}

/// The same for the same pair on every replica, in the form of a UUID.
fn uid(application: &Uid, cluster: &Uid) -> String {
    let digest = crate::model::Digest::of(format!("{application}/{cluster}").as_bytes()).to_string();
    format!("{}-{}-8{}-8{}-{}", &digest[..8], &digest[8..12], &digest[13..16], &digest[17..20], &digest[20..32])
}
