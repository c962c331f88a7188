//! Admit: everything that is wrong with an Application, at once, before it is stored.
//!
//! Owns: what an Application may say. Must never: stop at the first fault, change what was written, or let through what
//! nobody would carry out: that is refused in words, never ignored.
//!
//! Where KubeVela takes an Application and this does not, the Application could never run as it says: an object
//! without a name or an apiVersion, two objects of one name, a name that cannot be a label.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{
    Application, Component, FieldError,
    object::FieldErrorKind::{self, Duplicate, Forbidden, Invalid, Required, TooLong, TooMany, TypeInvalid},
    selector,
};

use super::render::render;

mod binding;
mod modes;
mod objects;
mod placement;
mod policies;
mod profiles;
#[cfg(test)]
mod tests;

pub use self::{
    binding::{Asked, admit_binding},
    profiles::admit_profile,
};

/// Faults that one answer lists.
pub const FAULTS_MAX: usize = 100;
/// What the wire carries in one work.
pub const COMPONENTS_MAX: usize = 1_000;
pub const OBJECTS_MAX: usize = 5_000;
/// One rendered object. It is stored in one transaction, whose bound of 1 MiB leaves room for the rest of it.
pub const OBJECT_BYTES_MAX: usize = 1_000_000;

/// All faults in order of their paths; empty where the Application is good. What the schema of the kind says (unknown
/// fields, types) is taken as checked. `old` is what it replaces.
pub fn admit(application: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut all = wrong(application);
    all.extend(not_there_yet(application));
    let typed = |application: &Value| serde_json::from_value::<Application>(application.clone()).ok();
    if let Some((old, new)) = old.and_then(typed).zip(typed(application)) {
        modes::check_change(&old, &new, &mut all);
    }
    ordered(all)
}

/// What is wrong, with this hub and with any other; without what is merely not there yet.
pub fn faults(application: &Value) -> Vec<FieldError> {
    ordered(wrong(application))
}

fn wrong(application: &Value) -> Vec<FieldError> {
    // A list would pass for a map of whose fields none is given.
    if !application.is_object() {
        return vec![FieldError::new("spec", Required, "")];
    }
    let application: Application = match serde_json::from_value(application.clone()) {
        Ok(application) => application,
        Err(error) => return vec![FieldError::new("spec", TypeInvalid, error.to_string())],
    };
    let mut faults = Vec::new();
    check_application_name(&application, &mut faults);
    check_component_names(&application.spec.components, &mut faults);
    policies::check(&application, &mut faults);
    match render(&application, "") {
        Ok(rendered) => {
            objects::check(&application, &rendered, &mut faults);
            modes::check_totals(&application, &rendered, &mut faults);
        }
        Err(more) => faults.extend(more),
    }
    faults
}

/// What is sound, and would be ignored by this version of the hub; nothing of it changes what is rendered.
pub fn not_there_yet(application: &Value) -> Vec<FieldError> {
    let spec = &application["spec"];
    let mut faults = Vec::new();
    let mut refuse = |value: &Value, path: String, detail: &str| {
        let says_nothing = match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !says_nothing {
            faults.push(FieldError::new(path, Forbidden, detail));
        }
    };
    for (index, component) in spec["components"].as_array().into_iter().flatten().enumerate() {
        for (field, detail) in [
            ("dependsOn", "an order between components is not kept yet; all are applied at once"),
            ("inputs", "values are not passed between components yet"),
            ("outputs", "values are not passed between components yet"),
            ("externalRevision", "revisions of single components are not there yet"),
            ("scopes", "scopes are not there"),
        ] {
            refuse(&component[field], format!("spec.components[{index}].{field}"), detail);
        }
    }
    let workflow = &spec["workflow"];
    refuse(&workflow["steps"], "spec.workflow.steps".into(), "workflow steps are not run yet; leave the workflow out");
    refuse(&workflow["ref"], "spec.workflow.ref".into(), "workflows are not run yet; leave the workflow out");
    for (index, policy) in spec["policies"].as_array().into_iter().flatten().enumerate() {
        if let Some(detail) = policies::not_there_yet(policy["type"].as_str().unwrap_or_default()) {
            faults.push(FieldError::new(format!("spec.policies[{index}].type"), FieldErrorKind::NotSupported, detail));
        }
    }
    faults
}

/// The name is a label of every object, so it is held to what labels may be.
fn check_application_name(application: &Application, faults: &mut Vec<FieldError>) {
    let name = &application.metadata.name;
    if let Err(detail) = selector::check_value(name) {
        let detail = format!("{} (it becomes the label app.oam.dev/name of every object)", shortened(&detail));
        faults.push(FieldError::new("metadata.name", Invalid, detail));
    }
}

fn check_component_names(components: &[Component], faults: &mut Vec<FieldError>) {
    if components.len() > COMPONENTS_MAX {
        let detail = format!("{}; at most {COMPONENTS_MAX}", components.len());
        faults.push(FieldError::new("spec.components", TooMany, detail));
    }
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, component) in components.iter().enumerate() {
        let path = format!("spec.components[{index}].name");
        let name = component.name.as_str();
        if name.is_empty() {
            faults.push(FieldError::new(path, Required, ""));
            continue;
        }
        if let Some(fault) = name_fault(component) {
            faults.push(FieldError::new(&path, fault.0, fault.1));
        }
        match first.get(name) {
            Some(other) => {
                let detail = format!("{:?} is the name of spec.components[{other}] too", shortened(name));
                faults.push(FieldError::new(path, Duplicate, detail));
            }
            None => drop(first.insert(name, index)),
        }
    }
}

/// A component's name is a label of its objects, and of webservice and worker it names a container.
fn name_fault(component: &Component) -> Option<(FieldErrorKind, String)> {
    let name = component.name.as_str();
    if name.len() > NAME_BYTES_MAX {
        return Some((TooLong, format!("{} bytes; at most {NAME_BYTES_MAX}", name.len())));
    }
    let runs_a_container = matches!(component.type_.as_str(), "webservice" | "worker");
    if runs_a_container && !is_dns_label(name) {
        let detail =
            format!("{name:?} must be lowercase letters, digits and \"-\", beginning and ending with no \"-\"");
        return Some((Invalid, detail));
    }
    let as_label = selector::check_value(name).err()?;
    Some((Invalid, format!("{as_label} (it becomes the label app.oam.dev/component of its objects)")))
}

/// Kubernetes' bound on label values and on names of containers.
const NAME_BYTES_MAX: usize = 63;

/// RFC 1123, as Kubernetes reads it.
fn is_dns_label(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.chars().all(allowed) && !name.starts_with('-') && !name.ends_with('-')
}

/// What an error repeats of something that may be of any length.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// In order of paths, `[2]` before `[10]`; the last one tells of those that are left out.
fn ordered(mut faults: Vec<FieldError>) -> Vec<FieldError> {
    faults.sort_by_cached_key(|fault| (order(&fault.path), fault.clone()));
    faults.dedup();
    let more = faults.len().saturating_sub(FAULTS_MAX);
    if more > 0 {
        faults.truncate(FAULTS_MAX - 1);
        faults.push(FieldError::new("spec", TooMany, format!("{} more faults are not shown", more + 1)));
    }
    faults
}

/// The path with its numbers in one width.
fn order(path: &str) -> String {
    let mut order = String::with_capacity(path.len() + 16);
    for (index, part) in path.split('[').enumerate() {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let width = if index > 0 && digits > 0 { 9usize.saturating_sub(digits) } else { 0 };
        order.push('[');
        order.extend(std::iter::repeat_n('0', width));
        order.push_str(part);
    }
    order
}
