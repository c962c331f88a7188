//! What pods name and other components of the same Application bring: ConfigMaps, Secrets, ServiceAccounts and claims.
//!
//! A pod without one of them does not start, so a component that brings one follows those that name it
//! (`flow::schedule`). What nobody in the Application brings is the member's: it is there, or the member says in its own
//! words that it is not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::demand::pod_spec;
use crate::model::{ObjectRef, revision::RenderedObjects};

/// Kind, namespace and name of an object of the core group.
type Name = (&'static str, String, String);

const KINDS: [&str; 4] = ["ConfigMap", "PersistentVolumeClaim", "Secret", "ServiceAccount"];

/// Notes with every component which others it names, in order of names.
pub fn resolve(components: &mut [RenderedObjects]) {
    let mut bringers: BTreeMap<Name, BTreeSet<&str>> = BTreeMap::new();
    for component in components.iter() {
        for object in component.objects.iter().filter_map(ObjectRef::of) {
            let kind = KINDS.into_iter().find(|kind| *kind == object.gvk.kind && object.gvk.group.is_empty());
            let Some(kind) = kind else { continue };
            let name = (kind, object.name.namespace, object.name.name);
            bringers.entry(name).or_default().insert(&component.name);
        }
    }
    let named = |component: &RenderedObjects| -> Vec<String> {
        let names: BTreeSet<Name> = component.objects.iter().flat_map(named_by).collect();
        let others: BTreeSet<&str> = names.iter().filter_map(|name| bringers.get(name)).flatten().copied().collect();
        others.into_iter().filter(|other| *other != component.name).map(str::to_owned).collect()
    };
    let references: Vec<Vec<String>> = components.iter().map(named).collect();
    for (component, references) in components.iter_mut().zip(references) {
        component.references = references;
    }
}

/// Optional references too: what the Application brings is meant to be there.
fn named_by(object: &Value) -> BTreeSet<Name> {
    let Some(spec) = pod_spec(object) else { return BTreeSet::new() };
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let mut names = BTreeSet::new();
    let mut note = |kind: &'static str, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str) {
            names.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    note("ServiceAccount", spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")));
    for secret in items(spec, "imagePullSecrets") {
        note("Secret", secret.get("name"));
    }
    for container in ["initContainers", "containers"].into_iter().flat_map(|list| items(spec, list)) {
        for source in items(container, "envFrom") {
            note("ConfigMap", source.pointer("/configMapRef/name"));
            note("Secret", source.pointer("/secretRef/name"));
        }
        for variable in items(container, "env") {
            note("ConfigMap", variable.pointer("/valueFrom/configMapKeyRef/name"));
            note("Secret", variable.pointer("/valueFrom/secretKeyRef/name"));
        }
    }
    for volume in items(spec, "volumes") {
        note("ConfigMap", volume.pointer("/configMap/name"));
        note("Secret", volume.pointer("/secret/secretName"));
        note("PersistentVolumeClaim", volume.pointer("/persistentVolumeClaim/claimName"));
        for source in volume.get("projected").into_iter().flat_map(|projected| items(projected, "sources")) {
            note("ConfigMap", source.pointer("/configMap/name"));
            note("Secret", source.pointer("/secret/name"));
        }
    }
    names
}

fn items<'v>(of: &'v Value, list: &str) -> impl Iterator<Item = &'v Value> {
    of.get(list).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn component(name: &str, objects: Vec<Value>) -> RenderedObjects {
        RenderedObjects { name: name.into(), objects, ..RenderedObjects::default() }
    }

    fn object(api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    }

    #[test]
    fn every_way_to_name_an_object_is_a_reference() {
        let ways = [
            ("ServiceAccount", json!({"serviceAccountName": "it"})),
            ("ServiceAccount", json!({"serviceAccount": "it"})),
            ("Secret", json!({"imagePullSecrets": [{"name": "it"}]})),
            ("ConfigMap", json!({"containers": [{"envFrom": [{"configMapRef": {"name": "it"}}]}]})),
            ("Secret", json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "it"}}]}]})),
            ("ConfigMap", json!({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "it"}}}]}]})),
            ("Secret", json!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "it"}}}]}]})),
            ("ConfigMap", json!({"volumes": [{"configMap": {"name": "it"}}]})),
            ("Secret", json!({"volumes": [{"secret": {"secretName": "it"}}]})),
            ("PersistentVolumeClaim", json!({"volumes": [{"persistentVolumeClaim": {"claimName": "it"}}]})),
            ("ConfigMap", json!({"volumes": [{"projected": {"sources": [{"configMap": {"name": "it"}}]}}]})),
            ("Secret", json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "it"}}]}}]})),
        ];
        for (kind, spec) in ways {
            let brought = |name: &str| component("brings", vec![object("v1", kind, name, json!({}))]);
            let deployment = object("apps/v1", "Deployment", "web", json!({"template": {"spec": spec}}));
            let mut components = [component("web", vec![deployment]), brought("it")];
            resolve(&mut components);
            assert_eq!(components[0].references, ["brings"], "{kind} by {spec}");
            components[1] = brought("other");
            resolve(&mut components);
            assert!(components[0].references.is_empty(), "{kind} by {spec}");
        }
    }

    #[test]
    fn only_what_another_component_brings_into_the_same_namespace_counts() {
        let pod = object("v1", "Pod", "web", json!({"volumes": [{"configMap": {"name": "it"}}]}));
        let mut elsewhere = object("v1", "ConfigMap", "it", json!({}));
        elsewhere["metadata"]["namespace"] = "other".into();
        let config = object("v1", "ConfigMap", "it", json!({}));
        let mut components = [component("web", vec![pod.clone(), config]), component("far", vec![elsewhere])];
        resolve(&mut components);
        assert!(components.iter().all(|component| component.references.is_empty()));
        let own = object("example.com/v1", "ConfigMap", "it", json!({}));
        let mut components = [component("web", vec![pod]), component("own", vec![own])];
        resolve(&mut components);
        assert!(components[0].references.is_empty(), "a kind of the same name in another group");
    }
}
