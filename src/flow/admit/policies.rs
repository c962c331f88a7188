//! Policies: where an Application may run, and how its replicas are meant.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    flow::render::{
        known,
        properties::{Faults, Properties},
    },
    model::{
        Application, FieldError, Policy,
        object::FieldErrorKind::{Duplicate, Forbidden, Invalid, NotFound, NotSupported, Required},
        selector,
    },
};

use super::{placement, shortened};

const KNOWN: [&str; 2] = ["placement", "topology"];

/// Policies of KubeVela that say how objects are kept, not what is rendered.
const KEEPING: [&str; 6] =
    ["apply-once", "garbage-collect", "read-only", "resource-update", "shared-resource", "take-over"];
/// Policies of KubeVela that change what is rendered.
const CHANGING: [&str; 3] = ["env-binding", "override", "replication"];

pub fn not_there_yet(type_: &str) -> Option<String> {
    KEEPING.contains(&type_).then(|| absent(type_))
}

fn absent(type_: &str) -> String {
    format!("policies of type {type_:?} are not there yet; known: {}", KNOWN.map(|name| format!("{name:?}")).join(", "))
}

pub fn check(application: &Application, found: &mut Vec<FieldError>) {
    let faults = Faults::default();
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    // Component → the placement policy that is for it.
    let mut placed: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, policy) in application.spec.policies.iter().enumerate() {
        let path = format!("spec.policies[{index}]");
        if let Some(other) = names.insert(&policy.name, index).filter(|_| !policy.name.is_empty()) {
            let detail = format!("{:?} is the name of spec.policies[{other}] too", shortened(&policy.name));
            faults.push(FieldError::new(format!("{path}.name"), Duplicate, detail));
        }
        let properties = format!("{path}.properties");
        match policy.type_.as_str() {
            "topology" => Properties::visit(&policy.properties, &properties, &faults, |properties| {
                check_topology(application, properties);
            }),
            "placement" => {
                Properties::visit(&policy.properties, &properties, &faults, placement::check);
                check_components(application, index, policy, &mut placed, &faults);
            }
            type_ if KEEPING.contains(&type_) => {}
            type_ => faults.push(unknown(type_, &path)),
        }
    }
    found.extend(faults.into_vec());
}

fn unknown(type_: &str, path: &str) -> FieldError {
    let path = format!("{path}.type");
    match type_ {
        "" => FieldError::new(path, Required, ""),
        type_ if CHANGING.contains(&type_) => FieldError::new(path, NotSupported, absent(type_)),
        type_ => FieldError::new(path, NotSupported, known::unknown("policy type", type_, &KNOWN)),
    }
}

fn check_topology(application: &Application, topology: &Properties<'_>) {
    topology.allow_only(&["allowEmpty", "clusterLabelSelector", "clusters", "namespace"]);
    topology.flag("allowEmpty");
    let clusters = check_clusters(topology);
    if let Some(labels) = topology.properties("clusterLabelSelector") {
        check_labels(&labels);
    }
    match (clusters, topology.has("clusterLabelSelector")) {
        (true, true) => {
            topology.fault("clusterLabelSelector", Forbidden, "clusters are chosen by name or by labels, not by both");
        }
        (false, false) => {
            topology.fault("clusters", Required, "name clusters, or choose them by clusterLabelSelector ({} for all)");
        }
        _ => {}
    }
    let own = &application.metadata.namespace;
    let is_other = |namespace: &&str| !own.is_empty() && namespace != own;
    if let Some(namespace) = topology.text("namespace").filter(is_other) {
        let detail = format!(
            "{:?} is not the Application's own; other namespaces need a grant, which is not there yet",
            shortened(namespace)
        );
        topology.fault("namespace", Forbidden, detail);
    }
}

/// Whether clusters are named. An empty list could be read as none and as all.
pub fn check_clusters(policy: &Properties<'_>) -> bool {
    let Some(clusters) = policy.texts("clusters") else { return policy.has("clusters") };
    if clusters.is_empty() {
        policy.fault("clusters", Invalid, "names no cluster; leave it out where names do not matter");
    }
    for (index, name) in clusters.iter().enumerate() {
        if name.as_str().is_some_and(str::is_empty) {
            policy.fault(&format!("clusters[{index}]"), Required, "");
        }
    }
    true
}

/// Each component has one placement policy at most, and a policy names components that exist.
fn check_components<'a>(
    application: &'a Application,
    index: usize,
    policy: &Policy,
    placed: &mut BTreeMap<&'a str, usize>,
    faults: &Faults,
) {
    let path = format!("spec.policies[{index}].properties.components");
    let components = application.spec.components.iter().map(|component| component.name.as_str());
    let named = policy.properties["components"].as_array();
    for (number, name) in named.into_iter().flatten().enumerate() {
        let Some(name) = name.as_str() else { continue };
        if !components.clone().any(|component| component == name) {
            let detail = format!("there is no component {:?}", shortened(name));
            faults.push(FieldError::new(format!("{path}[{number}]"), NotFound, detail));
        }
    }
    let is_meant =
        |component: &&str| named.is_none_or(|named| named.is_empty() || named.iter().any(|name| name == component));
    for component in components.filter(is_meant).collect::<std::collections::BTreeSet<_>>() {
        if let Some(other) = placed.get(component) {
            let detail = format!("component {:?} is placed by spec.policies[{other}] already", shortened(component));
            faults.push(FieldError::new(&path, Duplicate, detail));
        } else {
            placed.insert(component, index);
        }
    }
}

fn check_labels(labels: &Properties<'_>) {
    labels.check_values("a string", Value::is_string);
    for (key, value) in labels.as_map() {
        let value = value.as_str().map_or(Ok(()), selector::check_value);
        if let Err(detail) = selector::check_key(key).and(value) {
            labels.fault(&shortened(key), Invalid, shortened(&detail));
        }
    }
}

/// A label selector as Kubernetes has it.
pub fn check_selector(selector: &Properties<'_>) {
    selector.allow_only(&["matchExpressions", "matchLabels"]);
    if let Some(labels) = selector.properties("matchLabels") {
        check_labels(&labels);
    }
    for requirement in selector.items("matchExpressions").into_iter().flatten() {
        requirement.allow_only(&["key", "operator", "values"]);
        let key = requirement.required_text("key");
        if !key.is_empty()
            && let Err(detail) = selector::check_key(key)
        {
            requirement.fault("key", Invalid, shortened(&detail));
        }
        requirement.require("operator");
        let operator = requirement.choice("operator", &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"]);
        let values: Vec<&str> = requirement.texts("values").into_iter().flatten().filter_map(Value::as_str).collect();
        let fault = match operator {
            Some("In" | "NotIn") if values.is_empty() => Some("at least one value".to_owned()),
            Some("In" | "NotIn") => values.iter().find_map(|value| selector::check_value(value).err()),
            Some("Exists" | "DoesNotExist") if !values.is_empty() => Some("no values with this operator".to_owned()),
            Some("Gt" | "Lt") if !matches!(values[..], [bound] if bound.parse::<i64>().is_ok()) => {
                Some("one integer with this operator".to_owned())
            }
            _ => None,
        };
        if let Some(detail) = fault {
            requirement.fault("values", Invalid, shortened(&detail));
        }
    }
}
