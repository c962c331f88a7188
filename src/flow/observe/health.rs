//! How healthy one object is, by the rules of kstatus (sigs.k8s.io/cli-utils, pkg/kstatus), in four words.

use serde_json::Value;

use super::Observed;
use crate::model::report::{Health, ReplicaCount};

/// Judges a whole live object. Never reads absence of status as health where the kind has a status to give.
pub fn observe(object: &Value) -> Observed {
    let live = Live(object);
    if object.pointer("/metadata/deletionTimestamp").is_some() {
        return progressing("Terminating", "is being deleted").with(live.replicas());
    }
    if let (Some(generation), Some(observed)) =
        (live.int("/metadata/generation"), live.int("/status/observedGeneration"))
        && observed < generation
    {
        return progressing("NotObserved", &format!("generation {generation} is not observed yet"))
            .with(live.replicas());
    }
    let group = object.get("apiVersion").and_then(Value::as_str).and_then(|text| text.split_once('/'));
    let judged = match (group.map_or("", |(group, _)| group), live.text("/kind")) {
        ("apps", "Deployment") => deployment(live),
        ("apps", "StatefulSet") => stateful_set(live),
        ("apps", "DaemonSet") => daemon_set(live),
        ("apps", "ReplicaSet") => replica_set(live),
        ("batch", "Job") => job(live),
        ("", "Pod") => pod(live),
        ("", "Service") => service(live),
        ("", "PersistentVolumeClaim") => volume_claim(live),
        ("batch", "CronJob") | ("policy", "PodDisruptionBudget") => healthy(""),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaler(live),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => definition(live),
        ("apiregistration.k8s.io", "APIService") => conditioned(live, &["Available"]),
        _ => conditioned(live, &["Ready", "Available"]),
    };
    judged.with(live.replicas())
}

fn healthy(message: &str) -> Observed {
    Observed { health: Health::Healthy, message: message.to_owned(), ..Observed::default() }
}

fn progressing(reason: &str, message: &str) -> Observed {
    Observed { health: Health::Progressing, reason: reason.into(), message: message.into(), replicas: None }
}

fn unhealthy(reason: &str, message: &str) -> Observed {
    Observed { health: Health::Unhealthy, reason: reason.into(), message: message.into(), replicas: None }
}

impl Observed {
    fn with(mut self, replicas: Option<ReplicaCount>) -> Self {
        self.replicas = replicas;
        self
    }
}

/// A live object with the few ways it is read.
#[derive(Clone, Copy)]
struct Live<'a>(&'a Value);

/// One of its conditions.
struct Found<'a> {
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

impl<'a> Live<'a> {
    fn text(self, pointer: &str) -> &'a str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn int(self, pointer: &str) -> Option<i64> {
        self.0.pointer(pointer).and_then(Value::as_i64)
    }

    fn count(self, pointer: &str) -> i64 {
        self.int(pointer).unwrap_or(0)
    }

    /// `spec.replicas`, which the API server defaults to one.
    fn desired(self) -> i64 {
        self.int("/spec/replicas").unwrap_or(1)
    }

    fn condition(self, type_: &str) -> Option<Found<'a>> {
        let conditions = self.0.pointer("/status/conditions").and_then(Value::as_array)?;
        let found = conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(type_))?;
        let text = |field| found.get(field).and_then(Value::as_str).unwrap_or_default();
        Some(Found { status: text("status"), reason: text("reason"), message: text("message") })
    }

    /// The condition, where it says yes.
    fn holds(self, type_: &str) -> Option<Found<'a>> {
        self.condition(type_).filter(|condition| condition.status == "True")
    }

    /// How many pods a Job still runs or will run at once.
    fn pods_of_job(self) -> i64 {
        if self.holds("Complete").is_some() || self.holds("Failed").is_some() || self.holds("Suspended").is_some() {
            return 0;
        }
        let parallel = self.int("/spec/parallelism").unwrap_or(1);
        let completions = self.int("/spec/completions");
        completions.map_or(parallel, |all| parallel.min(all - self.count("/status/succeeded")))
    }

    fn replicas(self) -> Option<ReplicaCount> {
        let whole = |count: i64| u32::try_from(count).unwrap_or(0);
        let (desired, ready, updated) = match (self.text("/apiVersion"), self.text("/kind")) {
            ("apps/v1", "Deployment" | "StatefulSet") => {
                (self.desired(), self.count("/status/readyReplicas"), self.count("/status/updatedReplicas"))
            }
            ("apps/v1", "ReplicaSet") => {
                (self.desired(), self.count("/status/readyReplicas"), self.count("/status/fullyLabeledReplicas"))
            }
            ("apps/v1", "DaemonSet") => (
                self.count("/status/desiredNumberScheduled"),
                self.count("/status/numberReady"),
                self.count("/status/updatedNumberScheduled"),
            ),
            ("batch/v1", "Job") => (self.pods_of_job(), self.count("/status/ready"), self.count("/status/active")),
            ("v1", "Pod") => {
                let ends = i64::from(!matches!(self.text("/status/phase"), "Succeeded" | "Failed"));
                (ends, i64::from(super::facts::pod(self.0).ready), ends)
            }
            _ => return None,
        };
        Some(ReplicaCount { desired: whole(desired), ready: whole(ready), updated: whole(updated), bound: 0 })
    }
}

/// `ready` of `desired` replicas, as KubeVela's webservice words it.
fn counted(ready: i64, desired: i64) -> String {
    format!("Ready:{ready}/{desired}")
}

fn deployment(live: Live<'_>) -> Observed {
    if let Some(failure) = live.holds("ReplicaFailure") {
        return unhealthy(failure.reason, failure.message);
    }
    if let Some(progress) = live.condition("Progressing").filter(|found| found.reason == "ProgressDeadlineExceeded") {
        return unhealthy(progress.reason, progress.message);
    }
    let desired = live.desired();
    let (replicas, updated) = (live.count("/status/replicas"), live.count("/status/updatedReplicas"));
    let (ready, available) = (live.count("/status/readyReplicas"), live.count("/status/availableReplicas"));
    if live.int("/status/observedGeneration").is_none() {
        progressing("NotObserved", &counted(ready, desired))
    } else if updated < desired {
        progressing("LessReplicas", &format!("{}, {updated} updated", counted(ready, desired)))
    } else if replicas > updated {
        progressing("ExtraReplicas", &format!("{}, {} to go", counted(ready, desired), replicas - updated))
    } else if ready < desired || available < desired || live.holds("Available").is_none() {
        progressing("LessReady", &counted(ready, desired))
    } else {
        healthy(&counted(ready, desired))
    }
}

fn stateful_set(live: Live<'_>) -> Observed {
    let (desired, ready) = (live.desired(), live.count("/status/readyReplicas"));
    let (replicas, updated) = (live.count("/status/replicas"), live.count("/status/updatedReplicas"));
    if live.int("/status/observedGeneration").is_none() {
        return progressing("NotObserved", &counted(ready, desired));
    }
    // Pods are replaced by hand: nothing to wait for.
    if live.text("/spec/updateStrategy/type") == "OnDelete" {
        return healthy(&counted(ready, desired));
    }
    let partition = live.count("/spec/updateStrategy/rollingUpdate/partition");
    let rolling = partition == 0 && live.text("/status/currentRevision") != live.text("/status/updateRevision");
    if replicas < desired || ready < desired {
        progressing("LessReady", &counted(ready, desired))
    } else if replicas > desired {
        progressing("ExtraReplicas", &format!("{}, {} to go", counted(ready, desired), replicas - desired))
    } else if updated < desired - partition || rolling {
        progressing("LessReplicas", &format!("{}, {updated} updated", counted(ready, desired)))
    } else {
        healthy(&counted(ready, desired))
    }
}

fn daemon_set(live: Live<'_>) -> Observed {
    let (desired, ready) = (live.count("/status/desiredNumberScheduled"), live.count("/status/numberReady"));
    if live.int("/status/observedGeneration").is_none() || live.int("/status/desiredNumberScheduled").is_none() {
        progressing("NotObserved", "its controller has not looked at it yet")
    } else if live.count("/status/updatedNumberScheduled") < desired
        && live.text("/spec/updateStrategy/type") != "OnDelete"
    {
        let updated = live.count("/status/updatedNumberScheduled");
        progressing("LessReplicas", &format!("{}, {updated} updated", counted(ready, desired)))
    } else if ready < desired || live.count("/status/numberAvailable") < desired {
        progressing("LessReady", &counted(ready, desired))
    } else {
        healthy(&counted(ready, desired))
    }
}

fn replica_set(live: Live<'_>) -> Observed {
    if let Some(failure) = live.holds("ReplicaFailure") {
        return unhealthy(failure.reason, failure.message);
    }
    let (desired, ready) = (live.desired(), live.count("/status/readyReplicas"));
    if live.int("/status/observedGeneration").is_none() {
        progressing("NotObserved", &counted(ready, desired))
    } else if live.count("/status/availableReplicas") < desired || ready < desired {
        progressing("LessReady", &counted(ready, desired))
    } else if live.count("/status/replicas") > desired {
        progressing("ExtraReplicas", &counted(ready, desired))
    } else {
        healthy(&counted(ready, desired))
    }
}

fn job(live: Live<'_>) -> Observed {
    if let Some(failed) = live.holds("Failed") {
        return unhealthy(failed.reason, failed.message);
    }
    if live.holds("Complete").is_some() {
        return healthy("completed");
    }
    if live.text("/status/startTime").is_empty() && live.holds("Suspended").is_none() {
        return progressing("NotStarted", "has not started");
    }
    healthy("running")
}

fn pod(live: Live<'_>) -> Observed {
    let facts = super::facts::pod(live.0);
    let trouble = facts.trouble.as_deref().and_then(|trouble| trouble.split_once(": "));
    match (live.text("/status/phase"), trouble) {
        ("Succeeded", _) => healthy("completed"),
        ("Failed", Some((reason, message))) => unhealthy(reason, message),
        ("Failed", None) => unhealthy("Failed", live.text("/status/message")),
        ("Running", None) if facts.ready => healthy("ready"),
        ("Pending", Some((reason @ "FailedScheduling", message))) => progressing(reason, message),
        (_, Some((reason, message))) => unhealthy(reason, message),
        (_, None) => progressing("NotReady", "is not ready"),
    }
}

fn service(live: Live<'_>) -> Observed {
    let balancer = live.0.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    if live.text("/spec/type") == "LoadBalancer" && balancer.is_none_or(Vec::is_empty) {
        return progressing("NoAddress", "waits for the address of its load balancer");
    }
    healthy("")
}

fn volume_claim(live: Live<'_>) -> Observed {
    match live.text("/status/phase") {
        "Bound" => healthy("bound"),
        "Lost" => unhealthy("Lost", "its volume is lost"),
        _ => progressing("Pending", "is not bound to a volume"),
    }
}

fn autoscaler(live: Live<'_>) -> Observed {
    for type_ in ["AbleToScale", "ScalingActive"] {
        let refused = live.condition(type_).filter(|found| found.status == "False");
        // Scaling is off while the target has no replicas: by intent.
        if let Some(found) = refused.filter(|found| found.reason != "ScalingDisabled") {
            return unhealthy(found.reason, found.message);
        }
    }
    healthy("")
}

fn definition(live: Live<'_>) -> Observed {
    match live.condition("NamesAccepted").filter(|found| found.status == "False") {
        Some(refused) => unhealthy(refused.reason, refused.message),
        None if live.holds("Established").is_some() => healthy("established"),
        None => progressing("NotEstablished", "is not established"),
    }
}

/// Any other kind: what its conditions say; without conditions that it exists is all that can be said.
fn conditioned(live: Live<'_>, positive: &[&str]) -> Observed {
    if let Some(stalled) = live.holds("Stalled") {
        return unhealthy(stalled.reason, stalled.message);
    }
    if let Some(reconciling) = live.holds("Reconciling") {
        return progressing(reconciling.reason, reconciling.message);
    }
    for type_ in positive {
        if let Some(found) = live.condition(type_) {
            return if found.status == "True" {
                healthy(found.message)
            } else {
                progressing(found.reason, found.message)
            };
        }
    }
    healthy("")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(object: Value) -> (Health, String) {
        let observed = observe(&object);
        (observed.health, observed.reason)
    }

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": format!("{type_} says {reason}")})
    }

    fn apps(kind: &str, spec: Value, status: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x", "generation": 2}, "spec": spec, "status": status})
    }

    fn of(api_version: &str, kind: &str, spec: Value, status: Value) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}, "spec": spec, "status": status})
    }

    const HEALTHY: (Health, &str) = (Health::Healthy, "");

    fn check(cases: Vec<(&str, Value, (Health, &str))>) {
        for (name, object, (health, reason)) in cases {
            assert_eq!(judge(object), (health, reason.to_owned()), "{name}");
        }
    }

    #[test]
    fn deployments() {
        let full = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3,
            "availableReplicas": 3, "conditions": [condition("Available", "True", "MinimumReplicasAvailable")]});
        let with = |pointer: &str, value: Value| {
            let mut status = full.clone();
            assert!(crate::model::pointer::set(&mut status, pointer, value));
            apps("Deployment", json!({"replicas": 3}), status)
        };
        let quota = json!([condition("ReplicaFailure", "True", "FailedCreate")]);
        let late = json!([condition("Progressing", "False", "ProgressDeadlineExceeded")]);
        check(vec![
            ("in order", with("/replicas", json!(3)), HEALTHY),
            ("no status", apps("Deployment", json!({}), json!({})), (Health::Progressing, "NotObserved")),
            ("old status", with("/observedGeneration", json!(1)), (Health::Progressing, "NotObserved")),
            ("not all updated", with("/updatedReplicas", json!(2)), (Health::Progressing, "LessReplicas")),
            ("old ones left", with("/replicas", json!(4)), (Health::Progressing, "ExtraReplicas")),
            ("not all ready", with("/readyReplicas", json!(2)), (Health::Progressing, "LessReady")),
            ("not all available", with("/availableReplicas", json!(2)), (Health::Progressing, "LessReady")),
            ("not available", with("/conditions", json!([])), (Health::Progressing, "LessReady")),
            ("quota", with("/conditions", quota), (Health::Unhealthy, "FailedCreate")),
            ("too late", with("/conditions", late), (Health::Unhealthy, "ProgressDeadlineExceeded")),
            (
                "scaled to nothing",
                apps(
                    "Deployment",
                    json!({"replicas": 0}),
                    json!({"observedGeneration": 2,
                    "conditions": [condition("Available", "True", "x")]}),
                ),
                HEALTHY,
            ),
        ]);
        let observed = observe(&with("/readyReplicas", json!(2)));
        assert_eq!(observed.message, "Ready:2/3");
        assert_eq!(observed.replicas, Some(ReplicaCount { desired: 3, ready: 2, updated: 3, bound: 0 }));
        let mut going = with("/replicas", json!(3));
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(judge(going), (Health::Progressing, "Terminating".into()));
    }

    #[test]
    fn other_workloads() {
        let set = json!({"observedGeneration": 2, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2,
            "currentRevision": "a", "updateRevision": "a"});
        let stateful = |spec: Value, pointer: &str, value: Value| {
            let mut status = set.clone();
            assert!(crate::model::pointer::set(&mut status, pointer, value));
            apps("StatefulSet", spec, status)
        };
        let two = || json!({"replicas": 2});
        let partitioned = json!({"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}});
        let daemons = |desired: i64, updated: i64, ready: i64| {
            apps(
                "DaemonSet",
                json!({}),
                json!({"observedGeneration": 2, "desiredNumberScheduled": desired,
                "updatedNumberScheduled": updated, "numberReady": ready, "numberAvailable": ready}),
            )
        };
        let replicas = |available: i64, all: i64| {
            apps(
                "ReplicaSet",
                two(),
                json!({"observedGeneration": 2, "availableReplicas": available,
                "readyReplicas": available, "replicas": all}),
            )
        };
        let jobs = |status: Value| of("batch/v1", "Job", json!({}), status);
        check(vec![
            ("statefulset in order", stateful(two(), "/replicas", json!(2)), HEALTHY),
            ("statefulset not ready", stateful(two(), "/readyReplicas", json!(1)), (Health::Progressing, "LessReady")),
            ("statefulset shrinking", stateful(two(), "/replicas", json!(3)), (Health::Progressing, "ExtraReplicas")),
            (
                "statefulset rolling",
                stateful(two(), "/updateRevision", json!("b")),
                (Health::Progressing, "LessReplicas"),
            ),
            ("statefulset partitioned", stateful(partitioned, "/updatedReplicas", json!(1)), HEALTHY),
            (
                "statefulset by hand",
                stateful(json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}}), "/updatedReplicas", json!(0)),
                HEALTHY,
            ),
            ("daemonset in order", daemons(3, 3, 3), HEALTHY),
            ("daemonset without nodes", daemons(0, 0, 0), HEALTHY),
            ("daemonset not updated", daemons(3, 2, 3), (Health::Progressing, "LessReplicas")),
            ("daemonset not ready", daemons(3, 3, 2), (Health::Progressing, "LessReady")),
            ("daemonset unseen", apps("DaemonSet", json!({}), json!({})), (Health::Progressing, "NotObserved")),
            ("replicaset in order", replicas(2, 2), HEALTHY),
            ("replicaset not ready", replicas(1, 2), (Health::Progressing, "LessReady")),
            ("replicaset shrinking", replicas(2, 3), (Health::Progressing, "ExtraReplicas")),
            ("job waiting", jobs(json!({})), (Health::Progressing, "NotStarted")),
            ("job running", jobs(json!({"startTime": "2026-01-01T00:00:00Z"})), HEALTHY),
            ("job done", jobs(json!({"conditions": [condition("Complete", "True", "")]})), HEALTHY),
            (
                "job failed",
                jobs(json!({"conditions": [condition("Failed", "True", "BackoffLimitExceeded")]})),
                (Health::Unhealthy, "BackoffLimitExceeded"),
            ),
            ("cronjob", of("batch/v1", "CronJob", json!({}), json!({})), HEALTHY),
        ]);
    }

    #[test]
    fn everything_else() {
        let balancer = json!({"type": "LoadBalancer"});
        let addressed = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        let claim = |phase: &str| of("v1", "PersistentVolumeClaim", json!({}), json!({"phase": phase}));
        let pods = |phase: &str, ready: &str| {
            of("v1", "Pod", json!({}), json!({"phase": phase, "conditions": [condition("Ready", ready, "")]}))
        };
        let conditions = |list: Value| of("example.com/v1", "Thing", json!({}), json!({"conditions": list}));
        let scaler =
            |found: Value| of("autoscaling/v2", "HorizontalPodAutoscaler", json!({}), json!({"conditions": [found]}));
        let crd = |found: Value| {
            of("apiextensions.k8s.io/v1", "CustomResourceDefinition", json!({}), json!({"conditions": [found]}))
        };
        let api = |status: &str| {
            let found = condition("Available", status, "x");
            of("apiregistration.k8s.io/v1", "APIService", json!({}), json!({"conditions": [found]}))
        };
        check(vec![
            ("config", of("v1", "ConfigMap", json!({}), json!({})), HEALTHY),
            ("service", of("v1", "Service", json!({"type": "ClusterIP"}), json!({})), HEALTHY),
            ("balancer waiting", of("v1", "Service", balancer.clone(), json!({})), (Health::Progressing, "NoAddress")),
            ("balancer", of("v1", "Service", balancer, addressed), HEALTHY),
            ("claim bound", claim("Bound"), HEALTHY),
            ("claim pending", claim("Pending"), (Health::Progressing, "Pending")),
            ("claim lost", claim("Lost"), (Health::Unhealthy, "Lost")),
            ("pod ready", pods("Running", "True"), HEALTHY),
            ("pod not ready", pods("Running", "False"), (Health::Progressing, "NotReady")),
            ("pod done", pods("Succeeded", "False"), HEALTHY),
            ("pod failed", pods("Failed", "False"), (Health::Unhealthy, "Failed")),
            ("budget", of("policy/v1", "PodDisruptionBudget", json!({}), json!({})), HEALTHY),
            ("scaler", scaler(condition("ScalingActive", "True", "x")), HEALTHY),
            ("scaler off", scaler(condition("ScalingActive", "False", "ScalingDisabled")), HEALTHY),
            (
                "scaler blind",
                scaler(condition("ScalingActive", "False", "FailedGetResourceMetric")),
                (Health::Unhealthy, "FailedGetResourceMetric"),
            ),
            ("crd", crd(condition("Established", "True", "x")), HEALTHY),
            ("crd new", crd(condition("Other", "True", "x")), (Health::Progressing, "NotEstablished")),
            ("crd refused", crd(condition("NamesAccepted", "False", "Taken")), (Health::Unhealthy, "Taken")),
            ("api", api("True"), HEALTHY),
            ("api away", api("False"), (Health::Progressing, "x")),
            ("ready", conditions(json!([condition("Ready", "True", "x")])), HEALTHY),
            (
                "unready",
                conditions(json!([condition("Ready", "False", "Starting")])),
                (Health::Progressing, "Starting"),
            ),
            ("unknown", conditions(json!([condition("Ready", "Unknown", "Lost")])), (Health::Progressing, "Lost")),
            (
                "stalled beats ready",
                conditions(json!([condition("Ready", "True", "x"), condition("Stalled", "True", "Stuck")])),
                (Health::Unhealthy, "Stuck"),
            ),
            ("busy", conditions(json!([condition("Reconciling", "True", "Busy")])), (Health::Progressing, "Busy")),
        ]);
    }
}
