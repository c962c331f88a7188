//! Kinds that are derived rather than stored: Work and PlacementDecision over `hub::slices`.

use serde_json::{Value, json};

use super::ports::{Derived, View};
use crate::{
    hub::slices::{Entry, Slices},
    kinds::{
        self,
        placement::{DECISION_INDEX_LABEL, DECISION_KEY_LABEL, DECISIONS_MAX, PLACEMENT_KEY_LABEL},
    },
    model::{Placement, Uid, placement::Row},
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

/// The PlacementDecisions of all Applications.
pub struct Decisions(pub Slices);

impl View for Decisions {
    fn revision(&self) -> Revision {
        self.0.revision()
    }

    fn list(&self, namespace: Option<&str>) -> (Revision, Vec<Derived>) {
        let (revision, mut placements) = self.0.placements(namespace);
        placements.sort_by(|(one, _), (other, _)| one.application.cmp(&other.application));
        let all = placements.iter().flat_map(|(placement, modified)| decisions(placement, *modified));
        let mut all: Vec<Derived> = all.collect();
        // Names of slices do not sort as their Applications' names do.
        all.sort_by_cached_key(|derived| {
            let text = |field: &str| derived.object["metadata"][field].as_str().unwrap_or_default().to_owned();
            (text("namespace"), text("name"))
        });
        (revision, all)
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Derived> {
        let (application, _) = name.rsplit_once(SLICE)?;
        let (_, placements) = self.0.placements(Some(namespace));
        let (placement, modified) = placements.iter().find(|(known, _)| known.application.name == application)?;
        decisions(placement, *modified).into_iter().find(|derived| derived.object["metadata"]["name"] == name)
    }
}

const SLICE: &str = "-decision-";
/// Kubernetes' bound on the value of a label.
const LABEL_BYTES_MAX: usize = 63;

/// The slices of one placement; one without clusters where it has none, for "nowhere" is a decision too.
fn decisions(placement: &Placement, modified: Revision) -> Vec<Derived> {
    let mut rows: Vec<&Row> = placement.rows.iter().filter(|row| !row.components.is_empty()).collect();
    rows.sort_by(|one, other| one.cluster_name.cmp(&other.cluster_name));
    let mut slices: Vec<&[&Row]> = rows.chunks(DECISIONS_MAX).collect();
    if slices.is_empty() {
        slices.push(&[]);
    }
    let key = &placement.application_uid;
    let name = &placement.application.name;
    let placement_key = if name.len() > LABEL_BYTES_MAX { &key.0 } else { name };
    let slice = |(index, rows): (usize, &[&Row])| {
        let object = json!({
            "apiVersion": kinds::PLACEMENT_DECISION.gvk.api_version(), "kind": kinds::PLACEMENT_DECISION.gvk.kind,
            "metadata": {
                "name": format!("{name}{SLICE}{index}"), "namespace": placement.application.namespace,
                "uid": uid(key, &Uid(format!("decision {index}"))), "generation": placement.decision,
                "labels": {
                    DECISION_KEY_LABEL: key, DECISION_INDEX_LABEL: index.to_string(),
                    PLACEMENT_KEY_LABEL: placement_key,
                },
            },
            "decisions": rows.iter().map(|row| decision(row)).collect::<Vec<_>>(),
        });
        Derived { modified, object }
    };
    slices.into_iter().enumerate().map(slice).collect()
}

fn decision(row: &Row) -> Value {
    let reasons = row.components.iter().map(|(component, share)| match share.replicas {
        Some(replicas) => format!("{component}: {replicas}: {}", share.reason),
        None => format!("{component}: {}", share.reason),
    });
    json!({"clusterProfileRef": {"name": row.cluster_name}, "reason": reasons.collect::<Vec<_>>().join("; ")})
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectName, placement::Share};

    fn placement(clusters: usize) -> Placement {
        let row = |number: usize| Row {
            cluster: Uid(number.to_string()),
            cluster_name: format!("c{:03}", clusters - number),
            generation: 1,
            revision: "web-v1".into(),
            components: [("web".to_owned(), Share { replicas: Some(2), reason: "room for 4".into() })].into(),
            removals: Vec::new(),
            trace: String::new(),
        };
        let mut rows: Vec<Row> = (0..clusters).map(row).collect();
        // One that only carries removals is no target any more.
        rows.push(Row { components: Default::default(), ..row(0) });
        Placement {
            application: ObjectName::new("shop", "web"),
            application_uid: "app".into(),
            decision: 7,
            rows,
            refusals: Vec::new(),
            unplaced: Default::default(),
            moves: Vec::new(),
            rebalanced: String::new(),
            claims: Vec::new(),
            preempted: Default::default(),
        }
    }

    #[test]
    fn a_decision_is_published_in_slices_of_a_hundred_clusters() {
        for (clusters, sizes) in [(0, vec![0]), (1, vec![1]), (100, vec![100]), (201, vec![100, 100, 1])] {
            let slices = decisions(&placement(clusters), 5);
            let found: Vec<usize> =
                slices.iter().map(|slice| slice.object["decisions"].as_array().map_or(0, Vec::len)).collect();
            assert_eq!(found, sizes);
            for (index, slice) in slices.iter().enumerate() {
                let metadata = &slice.object["metadata"];
                assert_eq!(metadata["name"], format!("web-decision-{index}"));
                assert_eq!(metadata["labels"][DECISION_INDEX_LABEL], index.to_string());
                assert_eq!(metadata["labels"][DECISION_KEY_LABEL], "app");
                assert_eq!(metadata["labels"][PLACEMENT_KEY_LABEL], "web");
                assert_eq!(kinds::PLACEMENT_DECISION.schema.validate(&slice.object, 10), []);
            }
            let names =
                slices.iter().flat_map(|slice| slice.object["decisions"].as_array().cloned().unwrap_or_default());
            let names: Vec<String> = names.map(|it| it["clusterProfileRef"]["name"].to_string()).collect();
            assert!(names.is_sorted() && names.len() == clusters);
        }
        let slices = decisions(&placement(1), 5);
        assert_eq!(slices[0].object["decisions"][0]["reason"], "web: 2: room for 4");
    }
}
