//! Nodes and pods as capacity and health see them, from the whole objects.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{
    GroupVersionKind, NodeFacts, ObjectName, ObjectRef, PodFacts, Resources,
    cluster::ZONE_LABEL,
    demand::Taint,
    node::{Rule, RuleFacts, ScalerFacts},
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

/// What a ResourceQuota leaves, by the words in which [`crate::model::sketch::NamespaceRules`] has it. A quota for some
/// pods only bounds those: of the scopes, only `NotTerminating` and `NotBestEffort` take in pods that run on and ask for
/// something.
pub fn quota(quota: &Value) -> RuleFacts {
    let ordinary = |scope: &Value| matches!(scope.as_str(), Some("NotTerminating" | "NotBestEffort"));
    let scoped = quota.pointer("/spec/scopeSelector").is_some_and(|selector| !selector.is_null());
    let bounds = !scoped && items(quota, "/spec/scopes").all(ordinary);
    let used = amounts_by(quota.pointer("/status/used"), Resources::amount_up);
    let mut left = Resources::default();
    for (name, hard) in amounts_by(quota.pointer("/status/hard"), Resources::amount_down).0 {
        let left = left.0.entry(name.clone()).or_insert(i64::MAX);
        *left = (*left).min(hard.saturating_sub(used.get(&name)).max(0));
    }
    if !bounds {
        left = Resources::default();
    }
    RuleFacts {
        namespace: string(quota, "/metadata/namespace"),
        name: string(quota, "/metadata/name"),
        rule: Rule::Quota(left),
    }
}

/// What the LimitRange gives a container that says nothing. (The member's API fills in `defaultRequest` from `default`,
/// and `default` from `max`.)
pub fn limit_range(range: &Value) -> RuleFacts {
    let mut defaults = Resources::default();
    for item in
        items(range, "/spec/limits").filter(|item| item.get("type").and_then(Value::as_str) == Some("Container"))
    {
        defaults.0.extend(amounts(item.get("defaultRequest"), Resources::amount_up).0);
        let limits = amounts(item.get("default"), Resources::amount_up).0;
        defaults.0.extend(limits.into_iter().map(|(name, amount)| (format!("limits.{name}"), amount)));
    }
    RuleFacts {
        namespace: string(range, "/metadata/namespace"),
        name: string(range, "/metadata/name"),
        rule: Rule::Defaults(defaults),
    }
}

/// Where a PersistentVolume is that a claim is bound to, as a rule of the claim's namespace. One that can be reached from
/// everywhere has no zones.
pub fn volume(volume: &Value) -> RuleFacts {
    let mut zones: Vec<String> = Vec::new();
    for term in items(volume, "/spec/nodeAffinity/required/nodeSelectorTerms") {
        let of_zone = |rule: &&Value| {
            let text = |field| rule.get(field).and_then(Value::as_str);
            text("operator") == Some("In") && text("key").is_some_and(|key| key == ZONE_LABEL || key.ends_with("/zone"))
        };
        let values = items(term, "/matchExpressions").filter(of_zone).flat_map(|rule| items(rule, "/values"));
        zones.extend(values.filter_map(|zone| zone.as_str().map(str::to_owned)));
    }
    if zones.is_empty() {
        zones.extend(strings(volume.pointer("/metadata/labels")).remove(ZONE_LABEL));
    }
    zones.sort();
    zones.dedup();
    let claim = string(volume, "/spec/claimRef/name");
    RuleFacts {
        namespace: string(volume, "/spec/claimRef/namespace"),
        name: string(volume, "/metadata/name"),
        rule: Rule::Zones { claim, zones },
    }
}

/// What a HorizontalPodAutoscaler scales.
pub fn scaler(scaler: &Value) -> ScalerFacts {
    let target = |field: &str| string(scaler, &format!("/spec/scaleTargetRef/{field}"));
    let (api_version, kind) = (target("apiVersion"), target("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    ScalerFacts {
        name: string(scaler, "/metadata/name"),
        target: ObjectRef {
            gvk: GroupVersionKind::new(group, version, &kind),
            name: ObjectName::new(&string(scaler, "/metadata/namespace"), &target("name")),
        },
    }
}

/// Amounts by a quota's words: `requests.cpu` and `cpu` are one, and so are `count/pods` and `pods`. Counts of other
/// kinds bound no replicas.
fn amounts_by(map: Option<&Value>, rounded: fn(&str, Quantity) -> i64) -> Resources {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    let mut amounts = Resources::default();
    for (word, quantity) in entries {
        let name = match word.strip_prefix("requests.").unwrap_or(word) {
            "count/pods" => PODS,
            // `requests.storage` is of claims, and so is what names a storage class.
            other if other.contains("storageclass") || other.starts_with("count/") || other == "storage" => continue,
            other => other,
        };
        let unit = name.strip_prefix("limits.").unwrap_or(name);
        let Some(amount) = parsed(quantity).map(|quantity| rounded(unit, quantity)) else { continue };
        let known = amounts.0.entry(name.to_owned()).or_insert(amount);
        *known = (*known).min(amount);
    }
    amounts
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
    Resources(entries.filter_map(|(name, quantity)| Some((name.clone(), rounded(name, parsed(quantity)?)))).collect())
}

fn parsed(quantity: &Value) -> Option<Quantity> {
    match quantity {
        Value::String(text) => text.parse().ok(),
        number => number.to_string().parse().ok(),
    }
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

/// The controlling owner; a ReplicaSet whose name ends in the pod-template hash stands for its Deployment, and a pod
/// without an owner for itself.
fn workload(pod: &Value) -> Option<ObjectRef> {
    let controls = |owner: &&Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    let namespace = string(pod, "/metadata/namespace");
    let Some(owner) = items(pod, "/metadata/ownerReferences").find(controls) else {
        let name = ObjectName::new(&namespace, &string(pod, "/metadata/name"));
        return Some(ObjectRef { gvk: GroupVersionKind::new("", "v1", "Pod"), name });
    };
    let text = |field| owner.get(field).and_then(Value::as_str);
    let (kind, name) = (text("kind")?, text("name")?);
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
    fn a_quota_leaves_what_it_does_not_count_as_used() {
        let of = |spec: Value, hard: Value, used: Value| {
            let object = json!({"metadata": {"namespace": "n", "name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}});
            match quota(&object).rule {
                Rule::Quota(left) => left,
                other => panic!("{other:?}"),
            }
        };
        let hard = json!({"requests.cpu": "2", "limits.cpu": "4", "pods": "10", "count/pods": "8", "requests.nvidia.com/gpu": "1",
            "count/secrets": "5", "requests.storage": "1Gi", "x.storageclass.storage.k8s.io/requests.storage": "1Gi"});
        let used = json!({"requests.cpu": "1500m", "limits.cpu": "5", "count/pods": "3", "requests.nvidia.com/gpu": 0});
        let expected = [("cpu", 500), ("limits.cpu", 0), ("pods", 5), ("nvidia.com/gpu", 1)];
        assert_eq!(of(json!({}), hard.clone(), used.clone()), Resources::of(expected));
        assert_eq!(of(json!({"scopes": ["NotTerminating"]}), hard.clone(), used.clone()), Resources::of(expected));
        assert!(of(json!({"scopes": ["BestEffort"]}), hard.clone(), used.clone()).is_empty());
        assert!(of(json!({"scopeSelector": {"matchExpressions": []}}), hard, used).is_empty());
    }

    #[test]
    fn a_limit_range_tells_what_it_gives_containers() {
        let object = json!({"metadata": {"namespace": "n", "name": "l"}, "spec": {"limits": [
            {"type": "Pod", "max": {"cpu": "8"}},
            {"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]}});
        let expected = Resources::of([("cpu", 100), ("limits.cpu", 1000), ("limits.memory", 1 << 30)]);
        assert_eq!(limit_range(&object).rule, Rule::Defaults(expected));
    }

    #[test]
    fn a_volume_is_in_the_zones_of_its_affinity() {
        let of = |spec: Value| {
            let labels = json!({"topology.kubernetes.io/zone": "z9"});
            let facts = volume(&json!({"metadata": {"name": "pv", "labels": labels}, "spec": spec}));
            (facts.namespace, facts.rule)
        };
        let claim = json!({"namespace": "n", "name": "data"});
        let zones = |zones: &[&str]| Rule::Zones {
            claim: "data".into(),
            zones: zones.iter().map(|&zone| zone.to_owned()).collect(),
        };
        let rule = |key: &str| json!({"key": key, "operator": "In", "values": ["z2", "z1"]});
        let affine = |key: &str| json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [rule(key)]}]}});
        for (affinity, expected) in [
            (affine("topology.kubernetes.io/zone"), zones(&["z1", "z2"])),
            (affine("topology.gke.io/zone"), zones(&["z1", "z2"])),
            (json!({}), zones(&["z9"])),
        ] {
            assert_eq!(of(json!({"claimRef": claim, "nodeAffinity": affinity})), ("n".to_owned(), expected));
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
        let bare = pod(&json!({"metadata": {"namespace": "n", "name": "p"}}));
        assert_eq!(bare.workload.map(|workload| workload.to_string()).as_deref(), Some("Pod n/p"));
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
