//! `webservice`: a Deployment, and a Service for the ports that are exposed.

use serde_json::{Map, Value, json};

use crate::model::{Digest, object::FieldErrorKind};

use super::{
    ComponentType, Context, Draft,
    container::{self, Flavour},
    metadata,
    ports::{self, Port},
    properties::Properties,
};

pub const TYPE: ComponentType = ComponentType { name: "webservice", draft };

const REVISION: &str = "app.oam.dev/revision";

fn draft(context: &Context<'_>, properties: &Properties<'_>) -> Vec<Draft> {
    let ports = ports::read(properties);
    let (mut container, mut pod) = container::parts(context, properties, Flavour::Webservice);
    container::set(&mut container, "args", properties.texts("args").cloned());
    container::set(&mut container, "ports", container_ports(properties, ports.as_deref()));
    container::set(&mut pod, "hostAliases", host_aliases(properties));

    let mut template = Map::new();
    template.insert("labels".into(), Value::Object(pod_labels(context, properties)));
    container::set(&mut template, "annotations", properties.text_map("annotations").cloned());

    let expose_type =
        properties.choice("exposeType", &["ClusterIP", "LoadBalancer", "NodePort"]).unwrap_or("ClusterIP");
    let service = service(context, expose_type, ports.as_deref().unwrap_or_default());
    [container::deployment(context, template, container, pod)].into_iter().chain(service).collect()
}

/// `port` is what `ports` replaced; it counts only without the latter.
fn container_ports(properties: &Properties<'_>, ports: Option<&[Port<'_>]>) -> Option<Vec<Value>> {
    let port = properties.integer("port");
    match ports {
        Some(ports) => Some(ports.iter().map(Port::of_container).collect()),
        None => port.map(|port| vec![json!({"containerPort": port})]),
    }
}

fn service(context: &Context<'_>, expose_type: &str, ports: &[Port<'_>]) -> Option<Draft> {
    let exposed = ports.iter().filter(|port| port.expose);
    let ports: Vec<Value> = exposed.map(|port| port.of_service(expose_type)).collect();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": context.component.name},
        "spec": {"selector": metadata::selector_labels(context), "type": expose_type, "ports": ports},
    });
    (!ports.is_empty()).then(|| Draft { key: "webserviceExpose".into(), path: None, object })
}

fn pod_labels(context: &Context<'_>, properties: &Properties<'_>) -> Map<String, Value> {
    let mut labels = metadata::pod_labels(context);
    if properties.flag("addRevisionLabel") == Some(true) {
        labels.insert(REVISION.into(), component_revision(context).into());
    }
    for (key, value) in properties.text_map("labels").into_iter().flatten() {
        match labels.get(key).filter(|fixed| *fixed != value) {
            Some(fixed) => {
                let detail = format!("the pods of this component have it with the value {fixed}");
                properties.fault(&format!("labels[{key}]"), FieldErrorKind::Invalid, detail);
            }
            None => drop(labels.insert(key.clone(), value.clone())),
        }
    }
    labels
}

/// Changes with everything the component says, and with nothing else; empty where no revision is made.
fn component_revision(context: &Context<'_>) -> String {
    match (context.revision, serde_json::to_value(context.component)) {
        ("", _) | (_, Err(_)) => String::new(),
        (_, Ok(component)) => Digest::of_json(&component).short(),
    }
}

fn host_aliases(properties: &Properties<'_>) -> Option<Vec<Value>> {
    let aliases = properties.items("hostAliases")?;
    let alias = |alias: &Properties<'_>| {
        alias.required_text("ip");
        alias.texts("hostnames");
        let mut rendered = alias.as_map().clone();
        rendered.entry("hostnames").or_insert_with(|| json!([]));
        Value::Object(rendered)
    };
    Some(aliases.iter().map(alias).collect())
}
