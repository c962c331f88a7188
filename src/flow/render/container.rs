//! What webservice and worker have in common: one container in the pods of a Deployment.

use serde_json::{Map, Value, json};

use crate::model::{object::FieldErrorKind, quantity::Quantity};

use super::{Context, Draft, metadata, probes, properties::Properties, volumes};

/// Where the two types declare the same property differently.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Webservice,
    Worker,
}

/// The container and the rest of the pod's spec.
pub fn parts(
    context: &Context<'_>,
    properties: &Properties<'_>,
    flavour: Flavour,
) -> (Map<String, Value>, Map<String, Value>) {
    let mut container = Map::new();
    container.insert("name".into(), context.component.name.as_str().into());
    container.insert("image".into(), properties.required_text("image").into());
    set(&mut container, "imagePullPolicy", pull_policy(properties, flavour));
    set(&mut container, "command", properties.texts("cmd").cloned());
    set(&mut container, "env", env(properties));
    set(&mut container, "resources", resources(properties, flavour));
    set(&mut container, "livenessProbe", probes::probe(properties, "livenessProbe", flavour));
    set(&mut container, "readinessProbe", probes::probe(properties, "readinessProbe", flavour));

    let mut pod = Map::new();
    let secrets = properties.texts("imagePullSecrets");
    let secrets = secrets.map(|names| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>());
    set(&mut pod, "imagePullSecrets", secrets);
    if let Some(volumes) = volumes::read(properties, flavour) {
        container.insert("volumeMounts".into(), volumes.mounts.into());
        pod.insert("volumes".into(), volumes.volumes.into());
    }
    (container, pod)
}

/// `template` is the metadata of its pods.
pub fn deployment(
    context: &Context<'_>,
    template: Map<String, Value>,
    container: Map<String, Value>,
    mut pod: Map<String, Value>,
) -> Draft {
    pod.insert("containers".into(), json!([container]));
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {
            "selector": {"matchLabels": metadata::selector_labels(context)},
            "template": {"metadata": template, "spec": pod},
        },
    });
    Draft { key: String::new(), path: None, object }
}

/// A field that is there only if it was given; an empty list that was given is there.
pub fn set(map: &mut Map<String, Value>, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(field.to_owned(), value.into());
    }
}

fn pull_policy<'a>(properties: &Properties<'a>, flavour: Flavour) -> Option<&'a str> {
    match flavour {
        Flavour::Webservice => properties.choice("imagePullPolicy", &["Always", "IfNotPresent", "Never"]),
        Flavour::Worker => properties.text("imagePullPolicy"),
    }
}

/// As written, once its declared fields are checked.
fn env(properties: &Properties<'_>) -> Option<Value> {
    for variable in properties.items("env")? {
        variable.required_text("name");
        variable.text("value");
        let Some(source) = variable.properties("valueFrom") else { continue };
        for reference in ["configMapKeyRef", "secretKeyRef"].iter().filter_map(|name| source.properties(name)) {
            reference.required_text("name");
            reference.required_text("key");
        }
    }
    properties.as_map().get("env").cloned()
}

/// What is asked for is also the limit, unless a webservice says another.
fn resources(properties: &Properties<'_>, flavour: Flavour) -> Option<Value> {
    let limit = match flavour {
        Flavour::Webservice => properties.properties("limit"),
        Flavour::Worker => None,
    };
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for resource in ["cpu", "memory"] {
        let request = quantity(properties, resource);
        let limit = limit.as_ref().and_then(|limit| quantity(limit, resource));
        // A limit of what is not asked for is ignored.
        set(&mut limits, resource, request.map(|request| limit.unwrap_or(request)));
        set(&mut requests, resource, request);
    }
    (!requests.is_empty()).then(|| json!({"requests": requests, "limits": limits}))
}

fn quantity<'a>(properties: &Properties<'a>, resource: &str) -> Option<&'a str> {
    let written = properties.text(resource)?;
    match written.parse::<Quantity>() {
        Ok(_) => Some(written),
        Err(error) => {
            properties.fault(resource, FieldErrorKind::Invalid, error.to_string());
            None
        }
    }
}
