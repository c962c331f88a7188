//! What a status says of what it was told.

use super::*;
use crate::model::{
    Component, Digest, ObjectRef, Timestamp,
    application::ApplicationSpec,
    object::{GroupVersionKind, Metadata, ObjectName},
    placement::{Refusal, Why},
    report::{ComponentReport, Health, ObjectReport, ReplicaCount},
    revision::{RenderedComponent, RenderedManifest, ReplicasAt},
    work::{Removal, RemovalReason},
};

const NOW: Now = Now { wall: Timestamp(jiff::Timestamp::UNIX_EPOCH), monotonic_ms: 0 };

fn later() -> Now {
    Now { wall: Timestamp::from_seconds(1000), monotonic_ms: 1_000_000 }
}

fn deployment() -> ObjectRef {
    ObjectRef { gvk: GroupVersionKind::new("apps", "v1", "Deployment"), name: ObjectName::new("default", "web") }
}

struct Scene {
    application: Application,
    previous: Value,
    revision: Revision,
    placement: Option<Placement>,
    reports: BTreeMap<Uid, Arc<Report>>,
    clusters: BTreeMap<Uid, Truth>,
    faults: Vec<FieldError>,
    held: BTreeMap<String, String>,
}

impl Scene {
    /// `web` placed as (cluster, replicas), all heard of, nothing reported yet.
    fn new(shares: &[(&str, u32)]) -> Self {
        let component = Component { name: "web".into(), type_: "webservice".into(), ..Component::default() };
        let rendered = RenderedComponent {
            name: "web".into(),
            type_: "webservice".into(),
            manifests: vec![RenderedManifest { object: deployment(), blob: Digest::of(b"web") }],
            demand: None,
            replicas: Some(ReplicasAt { manifest: 0, pointer: "/spec/replicas".into(), count: 1 }),
            ..RenderedComponent::default()
        };
        let row = |&(name, replicas): &(&str, u32)| Row {
            cluster: name.into(),
            cluster_name: name.into(),
            generation: 1,
            revision: "web-v1".into(),
            components: [("web".to_owned(), Share { replicas: Some(replicas), reason: "because".into() })].into(),
            removals: Vec::new(),
            trace: String::new(),
        };
        let name = ObjectName::new("default", "web");
        Self {
            application: Application {
                metadata: Metadata {
                    name: "web".into(),
                    namespace: "default".into(),
                    generation: 3,
                    ..Metadata::default()
                },
                spec: ApplicationSpec { components: vec![component], ..ApplicationSpec::default() },
            },
            previous: Value::Null,
            revision: Revision {
                application: name.clone(),
                application_uid: "app".into(),
                number: 1,
                spec_digest: Digest::of(b"spec"),
                application_blob: Digest::of(b"app"),
                components: vec![rendered],
            },
            placement: Some(Placement {
                application: name,
                application_uid: "app".into(),
                decision: 1,
                rows: shares.iter().map(row).collect(),
                refusals: Vec::new(),
                unplaced: BTreeMap::new(),
                moves: Vec::new(),
                rebalanced: String::new(),
                claims: Vec::new(),
                preempted: BTreeMap::new(),
            }),
            reports: BTreeMap::new(),
            clusters: shares.iter().map(|&(name, _)| (name.into(), Truth::True)).collect(),
            faults: Vec::new(),
            held: BTreeMap::new(),
        }
    }

    fn report(&mut self, cluster: &str, ready: u32, healthy: bool, message: &str) {
        let object = ObjectReport {
            object: deployment(),
            uid: Some("uid".into()),
            state: ObjectState::Applied,
            health: if healthy { Health::Healthy } else { Health::Progressing },
            reason: String::new(),
            message: String::new(),
        };
        let replicas = Some(ReplicaCount { desired: 3, ready, updated: ready, bound: ready });
        let component = ComponentReport {
            name: "web".into(),
            healthy,
            message: message.into(),
            replicas,
            ..ComponentReport::default()
        };
        let report = Report {
            generation: 1,
            applied: true,
            components: vec![component],
            objects: vec![object],
            ..Report::default()
        };
        self.reports.insert(cluster.into(), Arc::new(report));
    }

    fn edit(&mut self, cluster: &str, edit: impl FnOnce(&mut Report)) {
        let mut report = (*self.reports[&Uid::from(cluster)]).clone();
        edit(&mut report);
        self.reports.insert(cluster.into(), Arc::new(report));
    }

    fn status(&self, now: Now) -> Value {
        status(
            now,
            &Facts {
                application: &self.application,
                previous: &self.previous,
                revision: Some(("web-v1", &self.revision)),
                placement: self.placement.as_ref(),
                reports: &self.reports,
                clusters: &self.clusters,
                faults: &self.faults,
                plugin: None,
                class: None,
                held: &self.held,
            },
        )
    }
}

fn condition<'v>(status: &'v Value, type_: &str) -> &'v Value {
    let conditions = status["conditions"].as_array().expect("conditions");
    conditions.iter().find(|condition| condition["type"] == type_).unwrap_or(&Value::Null)
}

#[test]
fn an_application_that_runs_everywhere_is_running() {
    let mut scene = Scene::new(&[("ap", 3), ("eu", 4), ("us", 2)]);
    for (cluster, ready) in [("ap", 3), ("eu", 4), ("us", 2)] {
        scene.report(cluster, ready, true, "");
    }
    let status = scene.status(NOW);
    assert_eq!(status["status"], "running");
    assert_eq!(status["placement"]["sum"], "9 = 3 + 4 + 2");
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(condition(&status, "Reconciling")["status"], "False");
    assert_eq!(status["observedGeneration"], 3);
    assert_eq!(status["latestRevision"]["name"], "web-v1");
    assert_eq!(
        status["services"][1],
        json!({
            "name": "web", "namespace": "default", "cluster": "eu", "healthy": true, "workloadHealthy": true,
            "message": "Ready:4/4", "traits": [], "workloadDefinition": {"apiVersion": "apps/v1", "kind": "Deployment"},
        })
    );
    assert_eq!(
        status["appliedResources"][0],
        json!({
            "cluster": "ap", "creator": "workflow", "apiVersion": "apps/v1", "kind": "Deployment",
            "namespace": "default", "name": "web",
        })
    );
}

#[test]
fn why_a_pod_does_not_run_stands_in_the_members_words() {
    let mut scene = Scene::new(&[("eu", 3), ("us", 3)]);
    scene.report("eu", 3, true, "");
    scene.report("us", 0, false, "ImagePullBackOff: no such image");
    scene.edit("us", |report| report.objects[0].health = Health::Unhealthy);
    let status = scene.status(NOW);
    assert_eq!(status["status"], "unhealthy");
    assert_eq!(status["services"][0]["cluster"], "us", "unhealthy first");
    assert_eq!(status["services"][0]["message"], "Ready:0/3; ImagePullBackOff: no such image");
    assert_eq!(
        condition(&status, "Ready")["message"],
        "1 of 2 services are healthy; web in us: Ready:0/3; ImagePullBackOff: no such image"
    );
}

#[test]
fn what_a_member_refuses_is_told() {
    let mut scene = Scene::new(&[("eu", 3)]);
    scene.report("eu", 0, false, "");
    scene.edit("eu", |report| {
        report.applied = false;
        report.objects[0].state = ObjectState::Refused;
        report.objects[0].reason = "Forbidden".into();
        report.objects[0].message = "exceeded quota".into();
    });
    let status = scene.status(NOW);
    assert_eq!(status["status"], "unhealthy");
    assert_eq!(status["services"][0]["message"], "Deployment default/web: Forbidden: exceeded quota");
    assert_eq!(status["appliedResources"], json!([]));
}

#[test]
fn silence_is_neither_health_nor_absence() {
    let mut scene = Scene::new(&[("eu", 3), ("us", 3)]);
    scene.report("eu", 3, true, "");
    scene.report("us", 3, true, "");
    scene.clusters.insert("us".into(), Truth::Unknown);
    let status = scene.status(NOW);
    assert_eq!(condition(&status, "Ready")["status"], "Unknown");
    assert_eq!(condition(&status, "Ready")["reason"], "ClusterSilent");
    assert_eq!(status["services"][0]["message"], "the agent of us is silent; last known: Ready:3/3");
    assert_eq!(status["services"].as_array().map(Vec::len), Some(2), "it is still placed there");
}

#[test]
fn an_old_generation_is_not_current() {
    let mut scene = Scene::new(&[("eu", 3)]);
    scene.report("eu", 3, true, "");
    scene.edit("eu", |report| report.generation = 0);
    let status = scene.status(NOW);
    assert_eq!(status["status"], "runningWorkflow");
    assert_eq!(status["services"][0]["healthy"], false);
    assert_eq!(condition(&status, "Reconciling")["reason"], "Applying");
}

#[test]
fn removals_that_wait_for_a_refused_object_are_said_to_wait() {
    let mut scene = Scene::new(&[("eu", 3)]);
    scene.report("eu", 3, true, "");
    let removal = Removal {
        object: deployment(),
        uid: None,
        revision: "web-v0".into(),
        reason: RemovalReason::NotInRevision,
        author: "alice".into(),
    };
    scene.placement.as_mut().expect("a placement").rows[0].removals.push(removal);
    scene.edit("eu", |report| {
        report.applied = false;
        report.objects[0].state = ObjectState::Refused;
    });
    let message = condition(&scene.status(NOW), "Reconciling")["message"].clone();
    assert_eq!(message, "1 services are not applied yet; until they are, nothing is removed in eu");
}

#[test]
fn what_has_no_place_says_what_is_missing() {
    let mut scene = Scene::new(&[]);
    let placement = scene.placement.as_mut().expect("a placement");
    placement.unplaced.insert("web".into(), "room for 25 of 30 replicas".into());
    placement.refusals.push(Refusal {
        cluster: "eu".into(),
        cluster_name: "eu".into(),
        component: "web".into(),
        why: Why::NoRoom { room: 0, wanted: 30, scarce: "cpu".into() },
    });
    let status = scene.status(NOW);
    assert_eq!(status["status"], "runningWorkflow");
    assert_eq!(condition(&status, "Stalled")["status"], "True");
    assert_eq!(condition(&status, "Ready")["message"], "web: room for 25 of 30 replicas");
    assert_eq!(
        status["placement"]["refusals"][0],
        json!({"cluster": "eu", "component": "web", "reason": "NoRoom", "message": "room for 0 of 30 replicas: cpu"})
    );
}

#[test]
fn faults_of_rendering_stand_in_a_condition_and_what_runs_stays_listed() {
    let mut scene = Scene::new(&[("eu", 3)]);
    scene.report("eu", 3, true, "");
    scene.faults =
        vec![FieldError::new("spec.components[0].type", crate::model::object::FieldErrorKind::NotSupported, "x")];
    let status = scene.status(NOW);
    assert_eq!(status["status"], "rendering");
    assert_eq!(condition(&status, "Render")["message"], "spec.components[0].type: Unsupported value: x");
    assert_eq!(status["services"][0]["healthy"], true);
}

#[test]
fn unchanged_facts_change_no_byte() {
    let mut scene = Scene::new(&[("eu", 3), ("us", 3)]);
    scene.report("eu", 3, true, "");
    scene.clusters.insert("us".into(), Truth::Unknown);
    scene.held.insert("us".into(), "12 works".into());
    let first = scene.status(NOW);
    scene.previous = first.clone();
    assert_eq!(first.to_string(), scene.status(later()).to_string());
    scene.report("us", 3, true, "");
    assert_ne!(first.to_string(), scene.status(later()).to_string());
}

#[test]
fn a_large_fleet_shows_its_unhealthy_ones_and_counts_the_rest() {
    let names: Vec<String> = (0..600).map(|index| format!("c{index:03}")).collect();
    let shares: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut scene = Scene::new(&shares);
    for name in &names {
        scene.report(name, 1, name != "c599", "");
    }
    let status = scene.status(NOW);
    assert_eq!(status["services"].as_array().map(Vec::len), Some(SERVICES_MAX));
    assert_eq!(status["services"][0]["cluster"], "c599");
    assert_eq!(status["serviceCounts"], json!({"total": 600, "healthy": 599}));
    assert_eq!(status["placement"]["sum"].as_str().map(|sum| sum.ends_with("… in 600 clusters")), Some(true));
}
