//! `metadata`, which is alike for all kinds: its schema and its rules.

use serde_json::{Value, json};

use super::{
    Kind, NameRule, Origin, Scope,
    schema::{Schema, Shape, check_label, check_subdomain},
    validate::excerpt,
};
use crate::model::{
    FieldError, Timestamp,
    object::FieldErrorKind::{Forbidden, Invalid, Required, TooLong},
    selector,
};

/// Who deleted the object: the author of the removals that follow from it (rule 1); written by the hub alone.
pub const DELETION_AUTHOR_ANNOTATION: &str = "hanse.dev/deletion-author";
/// Trace id of the request that deleted it; written by the hub alone.
pub const DELETION_TRACE_ANNOTATION: &str = "hanse.dev/deletion-trace";

/// Gives an object its time of deletion and notes by whose request. A new generation, so that what watches generations
/// sees that something is asked of it.
pub fn mark_deleted(object: &mut Value, now: Timestamp, origin: &Origin) {
    let metadata = &mut object["metadata"];
    metadata["deletionTimestamp"] = json!(now);
    metadata["deletionGracePeriodSeconds"] = json!(0);
    metadata["generation"] = json!(metadata["generation"].as_i64().unwrap_or(0) + 1);
    if !metadata["annotations"].is_object() {
        metadata["annotations"] = json!({});
    }
    metadata["annotations"][DELETION_AUTHOR_ANNOTATION] = json!(origin.user);
    metadata["annotations"][DELETION_TRACE_ANNOTATION] = json!(origin.trace);
}

/// Whatever a client sent, what is noted of a deletion is what the hub noted.
pub fn keep_deletion(old: Option<&Value>, new: &mut Value) {
    for key in [DELETION_AUTHOR_ANNOTATION, DELETION_TRACE_ANNOTATION] {
        match old.and_then(|old| old["metadata"]["annotations"].get(key)) {
            Some(noted) => {
                if !new["metadata"]["annotations"].is_object() {
                    new["metadata"]["annotations"] = json!({});
                }
                new["metadata"]["annotations"][key] = noted.clone();
            }
            None => {
                if let Some(annotations) = new.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
                    annotations.remove(key);
                }
            }
        }
    }
}

/// Of the whole object: `apiVersion`, `kind`, `metadata` and the properties of the kind.
pub fn root<const N: usize>(properties: [(&str, Schema); N]) -> Schema {
    let mut root = Schema::object(properties);
    if let Shape::Object(object) = &mut root.shape {
        let version = Schema::string().describe("Version of the API that the object is written in.");
        object.properties.insert("apiVersion".into(), version);
        object.properties.insert("kind".into(), Schema::string().describe("What the object is."));
        object.properties.insert("metadata".into(), schema());
    }
    root
}

/// Of ObjectMeta (apimachinery meta/v1).
pub fn schema() -> Schema {
    let owner = Schema::object([
        ("apiVersion", Schema::string()),
        ("kind", Schema::string()),
        ("name", Schema::string()),
        ("uid", Schema::string()),
        ("controller", Schema::boolean()),
        ("blockOwnerDeletion", Schema::boolean()),
    ])
    .required(["apiVersion", "kind", "name", "uid"]);
    Schema::object([
        ("name", Schema::string()),
        ("generateName", Schema::string()),
        ("namespace", Schema::string()),
        ("selfLink", Schema::string()),
        ("uid", Schema::string()),
        ("resourceVersion", Schema::string()),
        ("generation", Schema::integer()),
        ("creationTimestamp", Schema::time()),
        ("deletionTimestamp", Schema::time()),
        ("deletionGracePeriodSeconds", Schema::integer()),
        ("labels", Schema::map(Schema::string())),
        ("annotations", Schema::map(Schema::string())),
        ("ownerReferences", Schema::array(owner).list_keys(["uid"])),
        ("finalizers", Schema::array(Schema::string())),
        ("managedFields", Schema::array(Schema::free_form())),
    ])
    .describe("Standard metadata of the object.")
}

const ANNOTATION_BYTES_MAX: usize = 256 << 10;

/// Every fault of an object's metadata once its name is chosen.
pub fn check(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let mut faults = vec![];
    let metadata = &object["metadata"];
    check_name(kind, metadata, &mut faults);
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    match kind.scope {
        Scope::Namespaced if namespace.is_empty() => {
            faults.push(FieldError::new("metadata.namespace", Required, ""));
        }
        Scope::Namespaced => {
            if let Err(detail) = check_label(namespace) {
                let detail = format!("{}: {detail}", excerpt(&metadata["namespace"]));
                faults.push(FieldError::new("metadata.namespace", Invalid, detail));
            }
        }
        Scope::Cluster if !namespace.is_empty() => {
            faults.push(FieldError::new("metadata.namespace", Forbidden, "not allowed on this type"));
        }
        Scope::Cluster => {}
    }
    check_labels(metadata, &mut faults);
    check_annotations(metadata, &mut faults);
    for (index, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let text = finalizer.as_str().unwrap_or_default();
        if !text.contains('/') || selector::check_key(text).is_err() {
            let detail = format!("{}: must be a name with a domain, such as example.com/cleanup", excerpt(finalizer));
            // The one finalizer of Kubernetes itself without a domain that clients set.
            if !["foregroundDeletion", "orphan"].contains(&text) {
                faults.push(FieldError::new(format!("metadata.finalizers[{index}]"), Invalid, detail));
            }
        }
    }
    faults
}

fn check_name(kind: &Kind, metadata: &Value, faults: &mut Vec<FieldError>) {
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return faults.push(FieldError::new("metadata.name", Required, "name or generateName is required"));
    }
    let verdict = match kind.name {
        NameRule::Label => check_label(name),
        NameRule::Subdomain => check_subdomain(name),
    };
    if let Err(detail) = verdict {
        faults.push(FieldError::new("metadata.name", Invalid, format!("{}: {detail}", excerpt(&metadata["name"]))));
    }
}

fn check_labels(metadata: &Value, faults: &mut Vec<FieldError>) {
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        if let Err(detail) = selector::check_key(key) {
            faults.push(FieldError::new("metadata.labels", Invalid, detail));
        }
        if let Some(Err(detail)) = value.as_str().map(selector::check_value) {
            faults.push(FieldError::new("metadata.labels", Invalid, detail));
        }
    }
}

fn check_annotations(metadata: &Value, faults: &mut Vec<FieldError>) {
    let mut bytes = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        // Kubernetes takes upper case in the domain of annotation keys, unlike that of labels.
        if let Err(detail) = selector::check_key(&key.to_ascii_lowercase()) {
            let detail = detail.replace("label key", "annotation key");
            faults.push(FieldError::new("metadata.annotations", Invalid, detail));
        }
    }
    if bytes > ANNOTATION_BYTES_MAX {
        let detail = format!("{bytes} bytes: must have at most {ANNOTATION_BYTES_MAX}");
        faults.push(FieldError::new("metadata.annotations", TooLong, detail));
    }
}
