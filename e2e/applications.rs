//! Applications that scenarios apply, and what becomes of them in a member.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::control_plane::Member;
use crate::federation::SOON;
use crate::wait;

/// One web server of that many replicas, each asking for so much CPU; its Deployment has the Application's name.
pub fn web(namespace: &str, name: &str, replicas: u32, cpu: &str, policies: Value) -> Value {
    let component = json!({
        "name": name,
        "type": "webservice",
        "properties": { "image": "web:1", "cpu": cpu, "memory": "16Mi", "ports": [{ "port": 80, "expose": true }] },
        "traits": [{ "type": "scaler", "properties": { "replicas": replicas } }],
    });
    application(namespace, name, json!([component]), policies)
}

/// Plain objects.
pub fn objects(namespace: &str, name: &str, objects: Value, policies: Value) -> Value {
    let component = json!({ "name": name, "type": "k8s-objects", "properties": { "objects": objects } });
    application(namespace, name, json!([component]), policies)
}

pub fn application(namespace: &str, name: &str, components: Value, policies: Value) -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "components": components, "policies": policies },
    })
}

/// Replicas are a total, divided over all clusters.
pub fn divided() -> Value {
    json!([{ "name": "spread", "type": "placement", "properties": { "mode": "Divided" } }])
}

/// All of it in each of these clusters.
pub fn within(clusters: &[&str]) -> Value {
    json!([{ "name": "here", "type": "topology", "properties": { "clusters": clusters } }])
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "value": value } })
}

/// One object of a member; nothing where it is not there.
#[track_caller]
pub fn get(member: &Member, namespace: &str, kind: &str, name: &str) -> Option<Value> {
    let arguments = ["get", kind, name, "--ignore-not-found", "--output=json"];
    let printed = member.kubectl().namespace(namespace).args(arguments).ok();
    (!printed.trim().is_empty()).then(|| serde_json::from_str(&printed).expect("JSON of kubectl"))
}

/// What a member's Deployment of this name asks for.
#[track_caller]
pub fn replicas(member: &Member, namespace: &str, name: &str) -> u64 {
    let deployment = get(member, namespace, "deployment", name);
    deployment.map_or(0, |deployment| deployment["spec"]["replicas"].as_u64().expect("replicas"))
}

/// Waits until so many pods of the namespace run in the member, and no other is there.
#[track_caller]
pub fn wait_for_pods(member: &Member, namespace: &str, count: usize) {
    wait::until(&format!("{count} running pods in {namespace} of {}", member.name), SOON, || {
        let phases = ["get", "pods", "--output=jsonpath={.items[*].status.phase}"];
        let found = member.kubectl().namespace(namespace).args(phases).ok();
        let running = found.split_whitespace().filter(|phase| *phase == "Running").count();
        if running == count && found.split_whitespace().count() == count { Ok(()) } else { Err(found) }
    });
}

/// Everything in a namespace of a member that an agent could have written, with its resourceVersion: equal before and
/// after means that nothing was written between.
#[track_caller]
pub fn versions(member: &Member, namespace: &str) -> BTreeMap<String, String> {
    let kinds = "deployments,replicasets,pods,services,configmaps,serviceaccounts,rolebindings";
    let list = member.kubectl().namespace(namespace).args(["get", kinds]).json();
    let version = |object: &Value| {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (format!("{}/{}", text("/kind"), text("/metadata/name")), text("/metadata/resourceVersion"))
    };
    list["items"].as_array().expect("a list").iter().map(version).collect()
}
