//! Bindings: what another scheduler decided for an Application, with every fault of it at once. Room is not looked at here:
//! only who leads knows it.

use std::collections::{BTreeMap, BTreeSet};

use super::shortened;
use crate::{
    flow::{render::render, schedule::mode_of},
    model::{
        Application, FieldError, Uid,
        binding::Binding,
        object::FieldErrorKind::{Duplicate, Forbidden, Invalid, NotFound, Required},
    },
};

/// As a client posts it: the `spec` of the body, types and unknown fields checked by its schema.
#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Asked {
    pub generation: i64,
    pub overcommit: bool,
    pub clusters: Vec<AskedCluster>,
}

#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize)]
#[serde(default)]
pub struct AskedCluster {
    pub name: String,
    pub components: Vec<AskedShare>,
}

#[derive(Debug, Clone, PartialEq, Default, serde::Deserialize)]
#[serde(default)]
pub struct AskedShare {
    pub name: String,
    pub replicas: Option<u32>,
}

/// The binding that was asked for; `clusters` are those that may be named.
pub fn admit_binding(
    asked: &Asked,
    application: &Application,
    clusters: &BTreeMap<String, Uid>,
    author: &str,
) -> Result<Binding, Vec<FieldError>> {
    let rendered = render(application, "")?;
    // Absent: the component has no replicas to count.
    let counts: BTreeMap<&str, Option<u32>> = rendered
        .components
        .iter()
        .map(|component| (component.name.as_str(), component.replicas.as_ref().map(|replicas| replicas.count)))
        .collect();
    let mut faults = Vec::new();
    let mut shares: BTreeMap<Uid, BTreeMap<String, Option<u32>>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for (index, cluster) in asked.clusters.iter().enumerate() {
        let path = format!("spec.clusters[{index}]");
        if !names.insert(cluster.name.as_str()) {
            let detail = format!("{:?} is named before", shortened(&cluster.name));
            faults.push(FieldError::new(format!("{path}.name"), Duplicate, detail));
        }
        let Some(uid) = clusters.get(&cluster.name) else {
            let detail = format!("no cluster {:?} has joined", shortened(&cluster.name));
            faults.push(FieldError::new(format!("{path}.name"), NotFound, detail));
            continue;
        };
        let here = shares.entry(uid.clone()).or_default();
        for (number, share) in cluster.components.iter().enumerate() {
            let path = format!("{path}.components[{number}]");
            let fault = match (counts.get(share.name.as_str()), share.replicas) {
                (None, _) => Some(("name", NotFound, format!("there is no component {:?}", shortened(&share.name)))),
                (Some(Some(_)), None) => Some(("replicas", Required, format!("{} has replicas", share.name))),
                (Some(None), Some(_)) => Some(("replicas", Forbidden, format!("{} has no replicas", share.name))),
                (Some(_), replicas) => here
                    .insert(share.name.clone(), replicas)
                    .map(|_| ("name", Duplicate, format!("{:?} is named before", share.name))),
            };
            faults.extend(fault.map(|(field, kind, detail)| FieldError::new(format!("{path}.{field}"), kind, detail)));
        }
    }
    for (name, count) in counts {
        let parts: Vec<Option<u32>> = shares.values().filter_map(|shares| shares.get(name).copied()).collect();
        if let Some((kind, detail)) = fault_of(name, mode_of(&application.spec.policies, name), count, &parts) {
            faults.push(FieldError::new("spec.clusters", kind, detail));
        }
    }
    shares.retain(|_, shares| !shares.is_empty());
    match faults.is_empty() {
        true => Ok(Binding {
            generation: asked.generation,
            shares,
            overcommit: asked.overcommit,
            author: author.to_owned(),
        }),
        false => Err(faults),
    }
}

/// Whether the parts are what the Application's policies say its replicas mean.
fn fault_of(
    name: &str,
    mode: &str,
    count: Option<u32>,
    parts: &[Option<u32>],
) -> Option<(crate::model::object::FieldErrorKind, String)> {
    if parts.is_empty() {
        return Some((Required, format!("component {name} is bound to no cluster")));
    }
    if mode == "Single" && parts.len() > 1 {
        return Some((Invalid, format!("component {name} is for one cluster, and is bound to {}", parts.len())));
    }
    let count = count?;
    let sum: u64 = parts.iter().flatten().map(|&part| u64::from(part)).sum();
    match mode {
        "Divided" if sum != u64::from(count) => {
            Some((Invalid, format!("the replicas of {name} come to {sum}, and its total is {count}")))
        }
        "Divided" => None,
        _ => parts.iter().flatten().find(|&&part| part != count).map(|part| {
            (Invalid, format!("every cluster gets the replicas of {name} in full: {count}, and one is given {part}"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn application(policies: Value) -> Application {
        let web = json!({"name": "web", "type": "webservice", "properties": {"image": "x"},
            "traits": [{"type": "scaler", "properties": {"replicas": 5}}]});
        let settings = json!({"name": "settings", "type": "k8s-objects", "properties": {"objects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}]}});
        let spec = json!({"components": [web, settings], "policies": policies});
        serde_json::from_value(json!({"metadata": {"name": "shop", "namespace": "default"}, "spec": spec}))
            .expect("an Application")
    }

    fn admitted(policies: Value, clusters: Value) -> Result<Binding, Vec<String>> {
        let known = ["eu", "us"].map(|name| (name.to_owned(), Uid::from(name))).into();
        let asked = serde_json::from_value(json!({"generation": 3, "clusters": clusters})).expect("a binding");
        let texts = |faults: Vec<FieldError>| faults.iter().map(ToString::to_string).collect();
        admit_binding(&asked, &application(policies), &known, "alice").map_err(texts)
    }

    fn part(cluster: &str, replicas: u32) -> Value {
        json!({"name": cluster, "components": [{"name": "web", "replicas": replicas}, {"name": "settings"}]})
    }

    #[test]
    fn the_parts_are_what_the_policies_say_replicas_mean() {
        let divided = json!([{"type": "placement", "properties": {"mode": "Divided"}}]);
        let everywhere = json!([{"type": "topology", "properties": {"clusterLabelSelector": {}}}]);
        let binding = admitted(divided.clone(), json!([part("eu", 2), part("us", 3)])).expect("a sound binding");
        assert_eq!((binding.shares[&Uid::from("us")]["web"], &*binding.author), (Some(3), "alice"));
        for (policies, clusters, told) in [
            (divided.clone(), json!([part("eu", 2), part("us", 2)]), "come to 4, and its total is 5"),
            (everywhere.clone(), json!([part("eu", 5), part("us", 4)]), "in full: 5, and one is given 4"),
            (json!([]), json!([part("eu", 5), part("us", 5)]), "is for one cluster, and is bound to 2"),
            (divided, json!([]), "component settings is bound to no cluster"),
        ] {
            let faults = admitted(policies, clusters).expect_err(told);
            assert!(faults.iter().any(|fault| fault.contains(told)), "{faults:?}");
        }
        assert!(admitted(everywhere, json!([part("eu", 5), part("us", 5)])).is_ok());
        assert!(admitted(json!([]), json!([part("eu", 5)])).is_ok());
    }

    #[test]
    fn every_fault_is_told_with_its_field() {
        let clusters = json!([
            {"name": "mars", "components": []},
            {"name": "eu", "components": [
                {"name": "web"}, {"name": "settings", "replicas": 1}, {"name": "nobody", "replicas": 1},
                {"name": "web", "replicas": 5}, {"name": "web", "replicas": 5}]},
            part("eu", 5),
        ]);
        let faults = admitted(json!([]), clusters).expect_err("faults");
        for path in [
            "spec.clusters[0].name: Not found",
            "spec.clusters[1].components[0].replicas: Required value",
            "spec.clusters[1].components[1].replicas: Forbidden",
            "spec.clusters[1].components[2].name: Not found",
            "spec.clusters[1].components[4].name: Duplicate value",
            "spec.clusters[2].name: Duplicate value",
        ] {
            assert!(faults.iter().any(|fault| fault.starts_with(path)), "{path} in {faults:#?}");
        }
    }
}
