//! Nodes and pods as capacity and health see them, from the whole objects.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{
    GroupVersionKind, NodeFacts, ObjectName, ObjectRef, PodFacts, Resources,
    demand::Taint,
    quantity::{PODS, Quantity},
};

pub fn node(node: &Value) -> NodeFacts {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let taints = items(node, "/spec/taints").map(|taint| Taint {
        key: text(taint, "key"),
        value: text(taint, "value"),
        effect: text(taint, "effect"),
    });
    let cordoned = node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false);
    NodeFacts {
        name: string(node, "/metadata/name"),
        allocatable: amounts(node.pointer("/status/allocatable"), Resources::amount_down),
        labels: strings(node.pointer("/metadata/labels")),
        taints: taints.collect(),
        schedulable: !cordoned && condition(node, "Ready").is_some_and(truth),
    }
}

pub fn pod(pod: &Value) -> PodFacts {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let finished = matches!(phase, "Succeeded" | "Failed");
    PodFacts {
        namespace: string(pod, "/metadata/namespace"),
        name: string(pod, "/metadata/name"),
        node: string(pod, "/spec/nodeName"),
        requests: requests(pod),
        finished,
        ready: !finished && condition(pod, "Ready").is_some_and(truth),
        workload: workload(pod),
        trouble: trouble(pod, phase),
    }
}

fn string(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn strings(map: Option<&Value>) -> BTreeMap<String, String> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").find(|found| found.get("type").and_then(Value::as_str) == Some(type_))
}

fn truth(condition: &Value) -> bool {
    condition.get("status").and_then(Value::as_str) == Some("True")
}

fn amounts(map: Option<&Value>, rounded: fn(&str, Quantity) -> i64) -> Resources {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    let parsed = entries.filter_map(|(name, quantity)| {
        let quantity: Quantity = match quantity {
            Value::String(text) => text.parse().ok()?,
            number => number.to_string().parse().ok()?,
        };
        Some((name.clone(), rounded(name, quantity)))
    });
    Resources(parsed.collect())
}

/// What the scheduler counts: containers and sidecars summed; an init container runs beside the sidecars before it;
/// the larger of the two, plus the overhead of the sandbox. (Kubernetes `resourcehelper.PodRequests`.)
fn requests(pod: &Value) -> Resources {
    let of = |container: &Value| amounts(container.pointer("/resources/requests"), Resources::amount_up);
    let mut running = BTreeMap::new();
    for container in items(pod, "/spec/containers") {
        add(&mut running, &of(container));
    }
    let (mut starting, mut sidecars) = (BTreeMap::new(), BTreeMap::new());
    for container in items(pod, "/spec/initContainers") {
        let mut beside = sidecars.clone();
        add(&mut beside, &of(container));
        for (name, amount) in &beside {
            let most = starting.entry(name.clone()).or_insert(0);
            *most = (*most).max(*amount);
        }
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            sidecars = beside;
        }
    }
    add(&mut running, &Resources(sidecars));
    for (name, amount) in starting {
        let most = running.entry(name).or_insert(0);
        *most = (*most).max(amount);
    }
    add(&mut running, &amounts(pod.pointer("/spec/overhead"), Resources::amount_up));
    running.remove(PODS);
    Resources(running)
}

fn add(sum: &mut BTreeMap<String, i64>, amounts: &Resources) {
    for (name, amount) in &amounts.0 {
        let total = sum.entry(name.clone()).or_insert(0);
        *total = total.saturating_add(*amount);
    }
}

/// The controlling owner; a ReplicaSet whose name ends in the pod-template hash stands for its Deployment.
fn workload(pod: &Value) -> Option<ObjectRef> {
    let controls = |owner: &&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    let owner = items(pod, "/metadata/ownerReferences").find(controls)?;
    let text = |field| owner.get(field).and_then(Value::as_str);
    let (kind, name) = (text("kind")?, text("name")?);
    let namespace = string(pod, "/metadata/namespace");
    let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
    let deployment = hash.filter(|_| kind == "ReplicaSet").and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    let (kind, name) = deployment.map_or((kind, name), |deployment| ("Deployment", deployment));
    Some(ObjectRef {
        gvk: GroupVersionKind::from_api_version(text("apiVersion")?, kind),
        name: ObjectName::new(&namespace, name),
    })
}

/// Why a pod does not run. Free of what changes by itself, such as the length of a back-off, so that an unchanged
/// trouble stays an unchanged text.
fn trouble(pod: &Value, phase: &str) -> Option<String> {
    if phase == "Succeeded" {
        return None;
    }
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|found| !truth(found)) {
        let (reason, message) = (string(scheduled, "/reason"), string(scheduled, "/message"));
        // The word under which people know it: that of the event.
        let word = if reason == "Unschedulable" || reason.is_empty() { "FailedScheduling" } else { &reason };
        return (!message.is_empty()).then(|| format!("{word}: {message}"));
    }
    let statuses = items(pod, "/status/initContainerStatuses").chain(items(pod, "/status/containerStatuses"));
    if let Some(trouble) = statuses.filter_map(container_trouble).next() {
        return Some(trouble);
    }
    let (reason, message) = (string(pod, "/status/reason"), string(pod, "/status/message"));
    (phase == "Failed" && !reason.is_empty()).then(|| format!("{reason}: {message}"))
}

fn container_trouble(status: &Value) -> Option<String> {
    let name = string(status, "/name");
    let ended = |state: &str| {
        let exit = status.pointer(&format!("{state}/terminated/exitCode")).and_then(Value::as_i64)?;
        Some((exit, string(status, &format!("{state}/terminated/reason"))))
    };
    if let Some(waiting) = status.pointer("/state/waiting") {
        let (reason, message) = (string(waiting, "/reason"), string(waiting, "/message"));
        return match (reason.as_str(), ended("/lastState")) {
            ("" | "ContainerCreating" | "PodInitializing", _) => None,
            ("CrashLoopBackOff", Some((exit, why))) => {
                Some(format!("CrashLoopBackOff: container {name} exited with {exit} ({why})"))
            }
            (reason, _) if message.is_empty() => Some(format!("{reason}: container {name}")),
            (reason, _) => Some(format!("{reason}: container {name}: {message}")),
        };
    }
    let (exit, why) = ended("/state").filter(|(exit, _)| *exit != 0)?;
    let word = if why.is_empty() { "Error" } else { &why };
    Some(format!("{word}: container {name} exited with {exit}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_count_only_when_ready_and_not_cordoned() {
        let of = |ready: &str, cordoned: bool| {
            node(&json!({"metadata": {"name": "n1", "labels": {"zone": "a"}},
                "spec": {"unschedulable": cordoned, "taints": [{"key": "gpu", "effect": "NoSchedule"}]},
                "status": {"allocatable": {"cpu": "3920m", "memory": "1Gi", "pods": "110"},
                    "conditions": [{"type": "Ready", "status": ready}]}}))
        };
        let facts = of("True", false);
        assert!(facts.schedulable);
        assert_eq!(facts.allocatable, Resources::of([("cpu", 3920), ("memory", 1 << 30), ("pods", 110)]));
        assert_eq!(facts.taints[0].effect, "NoSchedule");
        assert_eq!(facts.labels["zone"], "a");
        assert!(!of("Unknown", false).schedulable);
        assert!(!of("True", true).schedulable);
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn requests_are_what_the_scheduler_counts() {
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}});
        for (name, spec, cpu) in [
            ("summed", json!({"containers": [container("a", "100m"), container("b", "0.2")]}), 300),
            (
                "a larger init container",
                json!({"containers": [container("a", "100m")], "initContainers": [container("i", "1")]}),
                1000,
            ),
            (
                "sidecars run beside both",
                json!({"containers": [container("a", "100m")], "initContainers": [sidecar, container("i", "200m")]}),
                250,
            ),
            ("overhead", json!({"containers": [container("a", "100m")], "overhead": {"cpu": "10m"}}), 110),
        ] {
            assert_eq!(pod(&json!({"spec": spec})).requests.get("cpu"), cpu, "{name}");
        }
    }

    #[test]
    fn a_pod_belongs_to_the_deployment_of_its_replica_set() {
        let owned = |kind: &str, name: &str, hash: Option<&str>| {
            pod(&json!({"metadata": {"namespace": "n", "name": "p", "labels": {"pod-template-hash": hash},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": name, "controller": true}]}}))
            .workload
            .map(|workload| workload.to_string())
        };
        assert_eq!(owned("ReplicaSet", "web-api-5d9c", Some("5d9c")).as_deref(), Some("Deployment n/web-api"));
        assert_eq!(owned("ReplicaSet", "alone", None).as_deref(), Some("ReplicaSet n/alone"));
        assert_eq!(owned("StatefulSet", "db", None).as_deref(), Some("StatefulSet n/db"));
        assert_eq!(pod(&json!({})).workload, None);
    }

    #[test]
    fn trouble_speaks_in_the_members_words() {
        let scheduled = |message: &str| {
            json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]})
        };
        let waiting = |reason: &str, message: &str, last: Value| {
            json!({"phase": "Running", "containerStatuses": [
            {"name": "web", "state": {"waiting": {"reason": reason, "message": message}}, "lastState": last}]})
        };
        let exited = |reason: &str, code: i64| json!({"terminated": {"exitCode": code, "reason": reason}});
        for (status, expected) in [
            (json!({"phase": "Running"}), None),
            (json!({"phase": "Pending"}), None),
            (waiting("ContainerCreating", "", json!({})), None),
            (
                scheduled("0/3 nodes are available: 3 Insufficient cpu."),
                Some("FailedScheduling: 0/3 nodes are available: 3 Insufficient cpu."),
            ),
            (
                waiting("ImagePullBackOff", "Back-off pulling image \"x\"", json!({})),
                Some("ImagePullBackOff: container web: Back-off pulling image \"x\""),
            ),
            (
                waiting("CrashLoopBackOff", "back-off 40s", exited("Error", 3)),
                Some("CrashLoopBackOff: container web exited with 3 (Error)"),
            ),
            (
                waiting("CrashLoopBackOff", "back-off 5m0s", exited("OOMKilled", 137)),
                Some("CrashLoopBackOff: container web exited with 137 (OOMKilled)"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "web", "state": exited("OOMKilled", 137)}]}),
                Some("OOMKilled: container web exited with 137"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "web", "state": exited("Completed", 0)}]}),
                None,
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
                Some("Evicted: low on memory"),
            ),
        ] {
            let facts = pod(&json!({"status": status}));
            assert_eq!(facts.trouble.as_deref(), expected, "{status}");
        }
        assert!(pod(&json!({"status": {"phase": "Failed"}})).finished);
    }
}
