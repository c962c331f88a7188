//! Rendered objects: each must be one that a member can be asked to apply, and one that nobody else renders.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    flow::render,
    kinds::OWN_PREFIX,
    model::{
        Application, Component, FieldError, GroupVersionKind, ObjectRef,
        application::{Mode, PlacementPolicy},
        object::FieldErrorKind::{Duplicate, Forbidden, Invalid, Required, TooLong, TooMany},
        revision::{Rendered, RenderedObjects},
    },
};

use super::{OBJECT_BYTES_MAX, OBJECTS_MAX, shortened};

pub fn check(application: &Application, rendered: &Rendered, faults: &mut Vec<FieldError>) {
    let components = application.spec.components.iter().zip(&rendered.components).enumerate();
    let mut first: BTreeMap<ObjectRef, String> = BTreeMap::new();
    for (index, (component, rendered)) in components {
        for (number, object) in rendered.objects.iter().enumerate() {
            let path = path_of(index, component, number);
            check_object(object, &path, faults);
            if ObjectRef::of(object).is_none() && GroupVersionKind::of(object).is_some() && !component.name.is_empty() {
                // Its name is given unless metadata is no map, or the component has none either.
                faults.push(FieldError::new(format!("{path}.metadata"), Invalid, "expected a map"));
            }
            let Some(identity) = identity(object) else { continue };
            if let Some(other) = first.get(&identity) {
                let detail = format!("{} is rendered by {other} too", shortened(&identity.to_string()));
                faults.push(FieldError::new(path, Duplicate, detail));
            } else {
                first.insert(identity, path);
            }
        }
        check_divided(application, index, rendered, faults);
    }
    let count: usize = rendered.components.iter().map(|component| component.objects.len()).sum();
    if count > OBJECTS_MAX {
        let detail = format!("they render {count} objects; at most {OBJECTS_MAX}");
        faults.push(FieldError::new("spec.components", TooMany, detail));
    }
}

/// Where the object was written, or the component that makes it.
fn path_of(index: usize, component: &Component, number: usize) -> String {
    match component.type_.as_str() {
        "k8s-objects" => format!("spec.components[{index}].properties.objects[{number}]"),
        _ => format!("spec.components[{index}]"),
    }
}

fn check_object(object: &Value, path: &str, faults: &mut Vec<FieldError>) {
    let mut fault =
        |field: &str, kind, detail: String| faults.push(FieldError::new(format!("{path}{field}"), kind, detail));
    match GroupVersionKind::of(object) {
        None => fault(".apiVersion", Required, String::new()),
        Some(gvk) if gvk == GroupVersionKind::new("", "v1", "List") => {
            fault(".kind", Invalid, "a List is no object; write its items here".into());
        }
        Some(_) => {}
    }
    for key in object["metadata"]["labels"].as_object().into_iter().flat_map(|labels| labels.keys()) {
        if key.starts_with(OWN_PREFIX) {
            let detail = format!("labels under {} are set by the agent", OWN_PREFIX);
            fault(&format!(".metadata.labels[{}]", shortened(key)), Forbidden, detail);
        }
    }
    let bytes = object.to_string().len();
    if bytes > OBJECT_BYTES_MAX {
        fault("", TooLong, format!("renders an object of {bytes} bytes; at most {OBJECT_BYTES_MAX}"));
    }
}

/// What an API server holds to be one object, whatever the version it is written in.
fn identity(object: &Value) -> Option<ObjectRef> {
    let mut identity = ObjectRef::of(object)?;
    identity.gvk.version.clear();
    Some(identity)
}

/// Of two workloads in one component nobody could say whose replicas the total is.
fn check_divided(application: &Application, index: usize, rendered: &RenderedObjects, faults: &mut Vec<FieldError>) {
    let divides = |policy: PlacementPolicy| {
        policy.mode == Mode::Divided && (policy.components.is_empty() || policy.components.contains(&rendered.name))
    };
    let placements = application.spec.policies.iter().filter(|policy| policy.type_ == "placement");
    if !placements.filter_map(|policy| serde_json::from_value(policy.properties.clone()).ok()).any(divides) {
        return;
    }
    let component = &application.spec.components[index];
    let counted = (0..rendered.objects.len()).filter(|&number| render::has_replicas(&rendered.objects[number]));
    for number in counted.skip(1) {
        let detail = "a placement policy divides this component's replicas, and an object before this one has \
                      replicas too; make it a component of its own";
        faults.push(FieldError::new(path_of(index, component, number), Invalid, detail));
    }
}
