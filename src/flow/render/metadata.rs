//! The metadata that every rendered object gets, whatever its type: OAM's labels, the Application's own labels and
//! annotations, a name and a namespace.

use serde_json::{Map, Value};

use super::{Context, Draft, names};
use crate::kinds::{OWN_PREFIX, application::LAST_APPLIED_ANNOTATION};

const NAME: &str = "app.oam.dev/name";
const NAMESPACE: &str = "app.oam.dev/namespace";
const COMPONENT: &str = "app.oam.dev/component";
const REVISION: &str = "app.oam.dev/appRevision";
const RESOURCE_TYPE: &str = "app.oam.dev/resourceType";
/// Comma-separated keys of the Application's labels that its objects do not get.
const LABEL_FILTER: &str = "filter.oam.dev/label-keys";
const ANNOTATION_FILTER: &str = "filter.oam.dev/annotation-keys";

/// Annotations that no object keeps.
const NEVER_COPIED: [&str; 4] =
    ["app.oam.dev/inplace-upgrade", LABEL_FILTER, ANNOTATION_FILTER, LAST_APPLIED_ANNOTATION];

type Texts = Map<String, Value>;

/// The labels that a pod template has, and by which its Deployment finds its pods.
pub fn selector_labels(context: &Context<'_>) -> Texts {
    texts([(COMPONENT, &context.component.name)])
}

pub fn pod_labels(context: &Context<'_>) -> Texts {
    texts([(NAME, &context.application.metadata.name), (COMPONENT, &context.component.name)])
}

pub fn complete(context: &Context<'_>, draft: Draft) -> Value {
    let Draft { key, mut object, .. } = draft;
    let is_namespace = object["apiVersion"] == "v1" && object["kind"] == "Namespace";
    let Value::Object(fields) = &mut object else { return object };
    let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    // KubeVela lets an object pass whose metadata is no map; admission refuses it for having no name.
    let Value::Object(metadata) = metadata else { return object };

    let mut labels = own_texts(metadata, "labels");
    labels.extend(identifying_labels(context, &key));
    let annotations = annotations(context, own_texts(metadata, "annotations"));
    metadata.insert("labels".into(), Value::Object(labels.clone()));

    if !is_filled(metadata.get("name")) {
        match (key.as_str(), context.component.name.as_str()) {
            ("", "") => drop(metadata.remove("name")),
            ("", component) => drop(metadata.insert("name".into(), component.into())),
            (_, component) => {
                // The hash is taken before anything that is the same for all objects of the Application is added.
                if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
                    labels.remove(REVISION);
                }
                let hash = names::hash(&object);
                object["metadata"]["name"] = format!("{component}-auxiliaryworkload-{hash}").into();
            }
        }
    }

    labels.insert(RESOURCE_TYPE.into(), if key.is_empty() { "WORKLOAD" } else { "TRAIT" }.into());
    labels.extend(common_labels(context));
    object["metadata"]["labels"] = Value::Object(labels);
    object["metadata"]["annotations"] = Value::Object(annotations);
    if !is_filled(object["metadata"].get("namespace")) && !is_namespace {
        object["metadata"]["namespace"] = namespace(context).into();
    }
    object
}

/// Which component it is of, and as what.
fn identifying_labels(context: &Context<'_>, key: &str) -> Texts {
    let mut labels = pod_labels(context);
    labels.insert(REVISION.into(), context.revision.into());
    if key.is_empty() {
        labels.insert("workload.oam.dev/type".into(), context.component.type_.as_str().into());
    } else {
        labels.insert("trait.oam.dev/type".into(), "AuxiliaryWorkload".into());
        labels.insert("trait.oam.dev/resource".into(), key.into());
    }
    labels
}

/// What all objects of the component have: the Application's own labels, and over them who it is.
fn common_labels(context: &Context<'_>) -> Texts {
    let application = &context.application.metadata;
    let own = application.labels.iter().filter(|(key, _)| !key.starts_with(OWN_PREFIX));
    let mut labels: Texts = own.map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    labels.extend(pod_labels(context));
    labels.insert(NAMESPACE.into(), namespace(context).into());
    labels.insert(REVISION.into(), context.revision.into());
    for key in application.annotations.get(LABEL_FILTER).into_iter().flat_map(|keys| keys.split(',')) {
        labels.remove(key.trim());
    }
    labels
}

fn annotations(context: &Context<'_>, own: Texts) -> Texts {
    let application = &context.application.metadata.annotations;
    let copied = application.iter().filter(|(key, _)| !key.starts_with(OWN_PREFIX));
    let mut annotations = own;
    annotations.extend(copied.map(|(key, value)| (key.clone(), Value::from(value.as_str()))));
    NEVER_COPIED.iter().for_each(|key| drop(annotations.remove(*key)));
    // Not trimmed, unlike the label keys: so KubeVela does.
    for key in application.get(ANNOTATION_FILTER).into_iter().flat_map(|keys| keys.split(',')) {
        annotations.remove(key);
    }
    annotations
}

/// A map of the object's own metadata; nothing of it counts where one value is no string.
fn own_texts(metadata: &Map<String, Value>, field: &str) -> Texts {
    let own = metadata.get(field).and_then(Value::as_object);
    own.filter(|own| own.values().all(Value::is_string)).cloned().unwrap_or_default()
}

/// An Application that was never stored may have no namespace.
fn namespace<'a>(context: &Context<'a>) -> &'a str {
    match context.application.metadata.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    }
}

fn is_filled(value: Option<&Value>) -> bool {
    value.and_then(Value::as_str).is_some_and(|text| !text.is_empty())
}

fn texts<const N: usize>(pairs: [(&str, &String); N]) -> Texts {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.as_str().into())).collect()
}
