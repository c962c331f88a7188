//! From stored values to works, and who is told.

use serde_json::json;

use super::*;
use crate::{
    hub::records::{self, Record},
    model::{
        ObjectName, ObjectRef, Placement,
        object::GroupVersionKind,
        placement::{Row, Share},
        revision::{RenderedComponent, RenderedManifest, ReplicasAt, Revision as Snapshot},
    },
    store::{Change, Entry as StoreEntry, Key, blobs, object},
};

/// A hand-driven store: values by key, one transaction at a time.
#[derive(Default)]
struct Script {
    values: BTreeMap<Key, StoreEntry>,
    revision: Revision,
    slices: Slices,
}

impl Script {
    fn put(&mut self, puts: Vec<(Key, Option<Bytes>)>) {
        self.revision += 1;
        let modified = self.revision;
        let entry = |key: &Key, value: Bytes| StoreEntry { key: key.clone(), value, created: modified, modified };
        let changes = puts.into_iter().map(|(key, value)| {
            let current = value.map(|value| entry(&key, value));
            let previous = match &current {
                Some(entry) => self.values.insert(key.clone(), entry.clone()),
                None => self.values.remove(&key),
            };
            Change { key, current, previous }
        });
        let changes: Arc<[Change]> = changes.collect();
        self.slices.apply(&Feed::Changed { revision: modified, changes });
    }

    fn reset(&mut self) {
        let entries = self.values.values().cloned().collect();
        self.slices.apply(&Feed::Reset { entries, revision: self.revision });
    }

    fn store_revision(&mut self) {
        let content = manifest();
        let digest = Digest::of(&content);
        let snapshot = Snapshot {
            application: ObjectName::new("default", "web"),
            application_uid: "app".into(),
            number: 1,
            spec_digest: Digest::of(b"spec"),
            application_blob: Digest::of(b"application"),
            components: vec![RenderedComponent {
                name: "web".into(),
                type_: "webservice".into(),
                manifests: vec![RenderedManifest {
                    object: ObjectRef {
                        gvk: GroupVersionKind::new("apps", "v1", "Deployment"),
                        name: ObjectName::new("default", "web"),
                    },
                    blob: digest,
                }],
                demand: None,
                replicas: Some(ReplicasAt { manifest: 0, pointer: "/spec/replicas".into(), count: 1 }),
                ..RenderedComponent::default()
            }],
        };
        let object = json!({"metadata": {"name": "web-v1", "namespace": "default"}, "spec": snapshot});
        let mut puts: Vec<(Key, Option<Bytes>)> = Vec::new();
        for transaction in blobs::transactions(&digest, &content).expect("a blob") {
            for operation in transaction.operations {
                if let crate::store::Operation::Put(key, value) = operation {
                    puts.push((key, Some(value)));
                }
            }
        }
        let key = Key::object("core.oam.dev", "applicationrevisions", "default", "web-v1");
        puts.push((key, Some(object::encode(&object))));
        self.put(puts);
    }

    fn place(&mut self, decision: u64, rows: &[(&str, u64, u32)]) {
        let row = |&(cluster, generation, replicas): &(&str, u64, u32)| Row {
            cluster: cluster.into(),
            cluster_name: cluster.into(),
            generation,
            revision: "web-v1".into(),
            components: [("web".to_owned(), Share { replicas: Some(replicas), reason: String::new() })].into(),
            removals: Vec::new(),
            trace: String::new(),
        };
        let placement = Placement {
            application: ObjectName::new("default", "web"),
            application_uid: "app".into(),
            decision,
            rows: rows.iter().map(row).collect(),
            refusals: Vec::new(),
            unplaced: BTreeMap::new(),
            moves: Vec::new(),
            rebalanced: String::new(),
            claims: Vec::new(),
            preempted: BTreeMap::new(),
        };
        let (chunks, head) = records::encode(&placement);
        self.put(chunks.into_iter().chain([head]).map(|(key, value)| (key, Some(value))).collect());
    }

    fn generations(&self, cluster: &str) -> Vec<u64> {
        self.slices.slice(&cluster.into()).works.iter().map(|work| work.generation).collect()
    }
}

fn manifest() -> Bytes {
    Bytes::from(json!({"kind": "Deployment", "spec": {"template": {}}}).to_string())
}

#[test]
fn a_placement_becomes_works_and_only_changed_slices_are_announced() {
    let mut script = Script::default();
    let (mut eu, mut us) = (script.slices.subscribe(&"eu".into()), script.slices.subscribe(&"us".into()));
    script.store_revision();
    script.place(1, &[("eu", 1, 3), ("us", 1, 1)]);
    assert!(eu.has_changed().expect("open") && us.has_changed().expect("open"));
    let work = script.slices.slice(&"eu".into()).works[0].clone();
    assert_eq!(work.manifests[0].patches[0].value, json!(3));
    eu.mark_unchanged();
    us.mark_unchanged();
    script.place(2, &[("eu", 2, 5), ("us", 1, 1)]);
    assert_eq!((*eu.borrow(), us.has_changed().expect("open")), (3, false));
    script.place(3, &[("eu", 2, 5)]);
    assert!(us.has_changed().expect("open") && !script.generations("eu").is_empty());
    assert!(script.generations("us").is_empty());
    assert!(script.slices.is_released(&"app".into(), &"us".into()));
    assert!(!script.slices.is_released(&"app".into(), &"eu".into()));
}

#[test]
fn a_reset_to_the_same_state_announces_nothing() {
    let mut script = Script::default();
    script.store_revision();
    script.place(1, &[("eu", 1, 3), ("us", 1, 1)]);
    let eu = script.slices.subscribe(&"eu".into());
    script.reset();
    assert!(!eu.has_changed().expect("open"));
    assert_eq!(script.generations("eu"), [1]);
    let head = Record::Head("app".into()).key();
    script.values.remove(&head);
    script.reset();
    assert!(eu.has_changed().expect("open"));
    assert!(script.generations("eu").is_empty());
}

#[test]
fn nothing_known_is_not_nothing() {
    let slices = Slices::new();
    assert_eq!(slices.slice(&"eu".into()).revision, 0);
    assert!(!slices.is_released(&"app".into(), &"eu".into()));
}

#[test]
fn a_blob_is_handed_to_those_whose_works_list_it() {
    let mut script = Script::default();
    script.store_revision();
    script.place(1, &[("eu", 1, 3)]);
    let digest = Digest::of(&manifest());
    assert_eq!(script.slices.blob(&"eu".into(), &digest), Some(manifest()));
    assert_eq!(script.slices.blob(&"us".into(), &digest), None);
}

#[test]
fn a_missing_revision_keeps_what_was_known_until_it_comes() {
    let mut script = Script::default();
    script.place(1, &[("eu", 1, 3)]);
    assert!(script.generations("eu").is_empty());
    assert!(!script.slices.is_released(&"app".into(), &"eu".into()), "its row is known though its work is not");
    script.store_revision();
    assert_eq!(script.generations("eu"), [1]);
}

#[test]
fn reports_stand_beside_their_work() {
    let mut script = Script::default();
    script.store_revision();
    script.place(1, &[("eu", 1, 3)]);
    let report = Report { generation: 1, applied: true, ..Report::default() };
    let key = Record::Report { cluster: "eu".into(), application: "app".into() }.key();
    script.put(vec![(key, Some(records::value(&report)))]);
    let (revision, list) = script.slices.list(Some("default"));
    assert_eq!((revision, list.len(), list[0].modified), (3, 1, 3));
    assert_eq!(list[0].report.as_deref(), Some(&report));
    assert_eq!(script.slices.list(Some("other")).1.len(), 0);
}
