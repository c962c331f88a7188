//! `k8s-objects`: Kubernetes objects, verbatim.

use serde_json::Value;

use crate::model::object::FieldErrorKind;

use super::{ComponentType, Context, Draft, properties::Properties};

pub const TYPE: ComponentType = ComponentType { name: "k8s-objects", draft };

fn draft(_: &Context<'_>, properties: &Properties<'_>) -> Vec<Draft> {
    properties.require("objects");
    let Some(objects) = properties.items("objects") else { return Vec::new() };
    if properties.as_map().get("objects").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        properties.fault("objects", FieldErrorKind::Required, "at least one object");
    }
    let draft = |(index, object): (usize, &Properties<'_>)| {
        if object.required_text("kind").is_empty() && object.has("kind") {
            object.fault("kind", FieldErrorKind::Required, "");
        }
        let key = if index == 0 { String::new() } else { format!("objects-{index}") };
        Draft { key, path: Some(object.path().to_owned()), object: Value::Object(object.as_map().clone()) }
    };
    objects.iter().enumerate().map(draft).collect()
}
