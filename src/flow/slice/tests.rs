//! Removals over sequences of edits, generations, and works.

use serde_json::{Value, json};

use super::*;
use crate::model::{
    object::{GroupVersionKind, ObjectName},
    report::{Health, ObjectReport},
    revision::{RenderedManifest, ReplicasAt},
};

const EU: &str = "eu-uid";

fn config_map(name: &str) -> ObjectRef {
    ObjectRef { gvk: GroupVersionKind::new("", "v1", "ConfigMap"), name: ObjectName::new("default", name) }
}

fn blob_of(name: &str) -> (Digest, Bytes) {
    let bytes = Bytes::from(json!({"kind": "ConfigMap", "metadata": {"name": name}}).to_string());
    (Digest::of(&bytes), bytes)
}

/// A revision whose components each have one object of the same name.
fn revision(components: &[&str]) -> Revision {
    let component = |name: &&str| RenderedComponent {
        name: name.to_string(),
        type_: "worker".into(),
        manifests: vec![RenderedManifest { object: config_map(name), blob: blob_of(name).0 }],
        demand: None,
        replicas: Some(ReplicasAt { manifest: 0, pointer: "/spec/replicas".into(), count: 1 }),
        ..RenderedComponent::default()
    };
    Revision {
        application: ObjectName::new("default", "app"),
        application_uid: "app-uid".into(),
        number: 1,
        spec_digest: Digest::of(b"spec"),
        application_blob: Digest::of(b"app"),
        components: components.iter().map(component).collect(),
    }
}

/// One Application in one cluster through a sequence of decisions.
struct Story {
    revisions: BTreeMap<String, Revision>,
    placement: Placement,
    reports: BTreeMap<Uid, Arc<Report>>,
    deleted: Option<Cause<'static>>,
    drained: BTreeMap<Uid, Cause<'static>>,
    dropped: BTreeSet<Uid>,
    agreed: BTreeMap<Uid, &'static str>,
}

impl Story {
    fn new() -> Self {
        let placement = Placement {
            application: ObjectName::new("default", "app"),
            application_uid: "app-uid".into(),
            decision: 0,
            rows: Vec::new(),
            refusals: Vec::new(),
            unplaced: BTreeMap::new(),
            moves: Vec::new(),
            rebalanced: String::new(),
            claims: Vec::new(),
            preempted: BTreeMap::new(),
        };
        Self {
            revisions: BTreeMap::new(),
            placement,
            reports: BTreeMap::new(),
            deleted: None,
            drained: BTreeMap::new(),
            dropped: BTreeSet::new(),
            agreed: BTreeMap::new(),
        }
    }

    /// Decides that `placed` of a new revision with `components` run in the cluster.
    fn decide(&mut self, components: &[&str], placed: &[(&str, u32)]) -> Option<&Row> {
        let name = format!("app-v{}", self.placement.decision + 1);
        self.revisions.insert(name.clone(), revision(components));
        self.decide_on(&name, placed)
    }

    fn decide_on(&mut self, name: &str, placed: &[(&str, u32)]) -> Option<&Row> {
        let share = |&(name, replicas): &(&str, u32)| {
            (name.to_owned(), Share { replicas: Some(replicas), reason: "because".into() })
        };
        let shares: BTreeMap<String, Share> = placed.iter().map(share).collect();
        let mut solution = Solution::default();
        if !shares.is_empty() {
            solution.shares.insert(EU.into(), shares);
        }
        let change = Change {
            previous: &self.placement,
            revision: (name, &self.revisions[name]),
            revisions: &|name| self.revisions.get(name),
            reports: &self.reports,
            names: &|_| "eu".into(),
            dropped: &self.dropped,
            drained: &self.drained,
            agreed: &self.agreed,
            deleted: self.deleted,
            changed: Cause { author: "alice", trace: "changed" },
        };
        self.placement = place(&change, solution);
        self.row()
    }

    fn row(&self) -> Option<&Row> {
        self.placement.rows.first()
    }

    /// Author of the first removal, and the trace of the row.
    fn cause(&self) -> (&str, &str) {
        self.row().map(|row| (row.removals[0].author.as_str(), row.trace.as_str())).expect("a row")
    }

    fn ordered(&self) -> Vec<(String, RemovalReason)> {
        let removals = self.row().map(|row| row.removals.clone()).unwrap_or_default();
        removals.into_iter().map(|removal| (removal.object.name.name, removal.reason)).collect()
    }

    /// The agent reports the current generation: these objects applied, those removed.
    fn report(&mut self, applied: &[&str], removed: &[&str]) {
        let generation = self.row().map_or(0, |row| row.generation);
        let object = |name: &&str| ObjectReport {
            object: config_map(name),
            uid: Some(Uid(format!("{name}-uid"))),
            state: ObjectState::Applied,
            health: Health::Healthy,
            reason: String::new(),
            message: String::new(),
        };
        let report = Report {
            generation,
            objects: applied.iter().map(object).collect(),
            removed: removed.iter().map(|name| config_map(name)).collect(),
            ..Report::default()
        };
        self.reports.insert(EU.into(), Arc::new(report));
    }
}

#[test]
fn what_a_newer_revision_no_longer_lists_is_removed_with_its_author_and_uid() {
    let mut story = Story::new();
    story.decide(&["a", "b"], &[("a", 1), ("b", 1)]);
    story.report(&["a", "b"], &[]);
    let row = story.decide(&["a"], &[("a", 1)]).expect("a row").clone();
    let expected = Removal {
        object: config_map("b"),
        uid: Some("b-uid".into()),
        revision: "app-v1".into(),
        reason: RemovalReason::NotInRevision,
        author: "alice".into(),
    };
    assert_eq!(row.removals, [expected]);
    assert_eq!(row.generation, 2);
}

#[test]
fn editing_there_and_back_removes_nothing() {
    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    story.report(&["a"], &[]);
    story.decide(&["b"], &[("b", 1)]);
    assert_eq!(story.ordered(), [("a".to_owned(), RemovalReason::NotInRevision)]);
    story.decide(&["a"], &[("a", 1)]);
    assert_eq!(story.ordered(), [("b".to_owned(), RemovalReason::NotInRevision)], "b may have been applied meanwhile");
}

#[test]
fn a_removal_stays_until_this_generation_confirms_it() {
    let mut story = Story::new();
    story.decide(&["a", "b"], &[("a", 1), ("b", 1)]);
    story.decide(&["a"], &[("a", 1)]);
    story.decide(&["a", "c"], &[("a", 1), ("c", 1)]);
    assert_eq!(story.ordered(), [("b".to_owned(), RemovalReason::NotInRevision)]);
    let stale = Report { generation: 2, removed: vec![config_map("b")], ..Report::default() };
    story.reports.insert(EU.into(), Arc::new(stale));
    story.decide_on("app-v3", &[("a", 1), ("c", 1)]);
    assert_eq!(story.ordered().len(), 1, "an older generation's word does not count");
    story.report(&["a", "c"], &["b"]);
    story.decide_on("app-v3", &[("a", 1), ("c", 1)]);
    assert_eq!(story.ordered(), []);
}

#[test]
fn what_moved_away_is_removed_by_placement_and_the_row_goes_once_confirmed() {
    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    story.decide_on("app-v1", &[]);
    assert_eq!(story.ordered(), [("a".to_owned(), RemovalReason::PlacedElsewhere)]);
    assert_eq!(story.row().map(|row| row.removals[0].author.as_str()), Some("placement"));
    assert!(!all_confirmed(story.row().expect("a row"), None));
    story.report(&[], &["a"]);
    assert!(story.decide_on("app-v1", &[]).is_none());
    let back = story.decide_on("app-v1", &[("a", 1)]).map(|row| row.generation);
    assert_eq!(back, Some(4), "a row that comes back is newer than the one that went");
}

#[test]
fn what_a_person_agreed_to_is_of_that_persons_doing() {
    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    story.agreed = [(EU.into(), "dora")].into();
    story.decide_on("app-v1", &[]);
    assert_eq!(story.ordered(), [("a".to_owned(), RemovalReason::PlacedElsewhere)]);
    assert_eq!(story.cause().0, "dora");
}

#[test]
fn generations_go_up_with_content_only() {
    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    let first = story.row().cloned();
    story.decide_on("app-v1", &[("a", 1)]);
    assert_eq!(story.row().cloned(), first);
    story.decide_on("app-v1", &[("a", 2)]);
    assert_eq!(story.row().map(|row| row.generation), Some(3));
}

#[test]
fn deletion_and_drain_say_so_and_an_orphan_keeps_running() {
    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    story.drained = [(EU.into(), Cause { author: "bob", trace: "drained" })].into();
    story.decide_on("app-v1", &[]);
    assert_eq!(story.ordered(), [("a".to_owned(), RemovalReason::ClusterDrained)]);
    assert_eq!(story.cause(), ("bob", "drained"));

    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    story.deleted = Some(Cause { author: "carol", trace: "deleted" });
    story.decide_on("app-v1", &[]);
    assert_eq!(story.ordered(), [("a".to_owned(), RemovalReason::ApplicationDeleted)]);
    assert_eq!(story.cause(), ("carol", "deleted"), "who deleted it, not who changed it last");

    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    story.dropped = [EU.into()].into();
    assert!(story.decide_on("app-v1", &[]).is_none());
}

#[test]
fn what_only_a_report_names_is_removed_too_and_what_is_not_ours_never() {
    let mut story = Story::new();
    story.decide(&["a"], &[("a", 1)]);
    story.report(&["a", "stray"], &[]);
    let mut report = (*story.reports[&Uid::from(EU)]).clone();
    let foreign =
        ObjectReport { object: config_map("foreign"), state: ObjectState::Refused, ..report.objects[0].clone() };
    report.objects.push(foreign);
    story.reports.insert(EU.into(), Arc::new(report));
    story.decide_on("app-v1", &[("a", 2)]);
    assert_eq!(story.ordered(), [("stray".to_owned(), RemovalReason::NotInRevision)]);
}

#[test]
fn clusters_share_blobs_though_their_replicas_differ() {
    let revision = revision(&["a"]);
    let (blob, bytes) = blob_of("a");
    let mut row = Story::new().decide(&["a"], &[("a", 3)]).cloned().expect("a row");
    let mut results = Results::default();
    let find = |digest: &Digest| (*digest == blob).then(|| bytes.clone());
    let three = work(&revision, &row, &mut results, find).expect("a work");
    let mut patched: Value = serde_json::from_slice(&bytes).expect("json");
    patched["spec"] = json!({"replicas": 3});
    assert_eq!(three.manifests[0].blob, blob);
    assert_eq!(three.manifests[0].result, Digest::of_json(&patched));
    assert_eq!(work(&revision, &row, &mut results, |_| None).as_ref(), Ok(&three), "remembered");

    row.components.insert("a".into(), Share { replicas: Some(1), reason: String::new() });
    let one = work(&revision, &row, &mut results, |_| None).expect("no bytes are needed where nothing is patched");
    assert_eq!((one.manifests[0].result, one.manifests[0].patches.len()), (blob, 0));
    row.components.insert("a".into(), Share { replicas: Some(9), reason: String::new() });
    assert_eq!(work(&revision, &row, &mut results, |_| None), Err(Error::MissingBlob(blob)));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the sequence of edits and of reports, every object that may be in the member is either listed by
        /// the newest work or ordered away by it.
        #[test]
        fn nothing_is_lost_over_any_sequence_of_edits(
            edits in prop::collection::vec((prop::collection::btree_set(0usize..4, 0..4), any::<bool>()), 1..10),
        ) {
            let names = ["a", "b", "c", "d"];
            let mut story = Story::new();
            let mut present: BTreeSet<&str> = BTreeSet::new();
            for (chosen, reports) in edits {
                let components: Vec<&str> = chosen.iter().map(|&index| names[index]).collect();
                let placed: Vec<(&str, u32)> = components.iter().map(|name| (*name, 1)).collect();
                story.decide(&components, &placed);
                let removed: BTreeSet<String> = story.ordered().into_iter().map(|(name, _)| name).collect();
                present.extend(&components);
                for name in &present {
                    prop_assert!(components.contains(name) != removed.contains(*name), "{name} of {present:?}");
                }
                if reports {
                    let gone: Vec<&str> = present.iter().copied().filter(|name| removed.contains(*name)).collect();
                    story.report(&components, &gone);
                    present.retain(|name| !gone.contains(name));
                }
            }
        }
    }
}
