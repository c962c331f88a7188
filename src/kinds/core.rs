//! What the hub takes over from Kubernetes itself: Namespace and Event of `v1`.

use serde_json::{Value, json};

use super::{
    Backing, Column, ColumnType, Hooks, Kind, NameRule, Origin, Scope, Status, Verb, age, cluster::text_column,
    metadata, name, schema::Schema, text_at,
};
use crate::model::GroupVersionKind;

pub fn namespace() -> Kind {
    let phase = Schema::string().describe("Active, or Terminating once it is being deleted.");
    Kind {
        gvk: GroupVersionKind::new("", "v1", "Namespace"),
        plural: "namespaces".into(),
        singular: "namespace".into(),
        short_names: vec!["ns".into()],
        categories: vec![],
        scope: Scope::Cluster,
        backing: Backing::Store,
        verbs: Verb::ALL.into_iter().filter(|&verb| verb != Verb::DeleteCollection).collect(),
        refusals: vec![(Verb::DeleteCollection, "namespaces are deleted one by one, by name")],
        status: Status::Served,
        schema: metadata::root([
            ("spec", Schema::object([("finalizers", Schema::array(Schema::string()))])),
            (
                "status",
                Schema::object([
                    ("phase", phase),
                    ("conditions", Schema::array(super::application::condition()).list_keys(["type"])),
                ]),
            ),
        ])
        .describe("A scope for names. Applications of a namespace run in the namespace of that name in each member."),
        columns: vec![name(), text_column("Status", 0, "Its phase.", |object| text_at(object, "/status/phase")), age()],
        selectable: vec!["status.phase".into()],
        name: NameRule::Label,
        hub_finalizer: None,
        holds_objects: true,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks { prepare: activate, ..Hooks::default() },
    }
}

/// A namespace is usable from its first moment; the label is what selectors by name match.
fn activate(new: &mut Value, old: Option<&Value>, _: &Origin) {
    let name = new["metadata"]["name"].clone();
    if let Some(metadata) = new["metadata"].as_object_mut() {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Value::Object(labels) = labels {
            labels.insert("kubernetes.io/metadata.name".into(), name);
        }
    }
    if old.is_none() {
        new["status"] = json!({"phase": "Active"});
    }
}

pub fn event() -> Kind {
    let text = Schema::string;
    let reference = || {
        Schema::object([
            ("apiVersion", text()),
            ("kind", text()),
            ("namespace", text()),
            ("name", text()),
            ("uid", text()),
            ("resourceVersion", text()),
            ("fieldPath", text()),
        ])
    };
    let series = Schema::object([("count", Schema::integer()), ("lastObservedTime", Schema::time().nullable())]);
    Kind {
        gvk: GroupVersionKind::new("", "v1", "Event"),
        plural: "events".into(),
        singular: "event".into(),
        short_names: vec!["ev".into()],
        categories: vec![],
        scope: Scope::Namespaced,
        backing: Backing::Store,
        verbs: Verb::ALL.into(),
        refusals: vec![],
        status: Status::None,
        schema: metadata::root([
            ("involvedObject", reference().describe("What the event is about.")),
            ("related", reference()),
            ("reason", text().describe("A stable CamelCase word.")),
            ("message", text()),
            ("type", text().describe("Normal or Warning.")),
            ("action", text()),
            ("source", Schema::object([("component", text()), ("host", text())])),
            ("firstTimestamp", Schema::time().nullable()),
            ("lastTimestamp", Schema::time().nullable()),
            ("eventTime", Schema::time().nullable()),
            ("count", Schema::integer()),
            ("series", series),
            ("reportingComponent", text()),
            ("reportingInstance", text()),
        ])
        .required(["involvedObject"])
        .describe("A report that something happened. Events expire."),
        columns: event_columns(),
        selectable: [
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
        .map(str::to_owned)
        .into(),
        name: NameRule::Subdomain,
        hub_finalizer: None,
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks::default(),
    }
}

fn event_columns() -> Vec<Column> {
    let seen = |name, priority, description, cell| Column {
        type_: ColumnType::Date,
        ..text_column(name, priority, description, cell)
    };
    vec![
        seen("Last Seen", 0, "When it happened last.", |event| {
            first_of(
                event,
                &["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"],
            )
        }),
        text_column("Type", 0, "Normal or Warning.", |event| text_at(event, "/type")),
        text_column("Reason", 0, "A stable word.", |event| text_at(event, "/reason")),
        text_column("Object", 0, "What it is about.", |event| {
            let object = &event["involvedObject"];
            let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
            format!("{kind}/{}", object["name"].as_str().unwrap_or_default()).into()
        }),
        text_column("Source", 1, "Who says so.", |event| {
            first_of(event, &["/source/component", "/reportingComponent"])
        }),
        text_column("Message", 0, "In words.", |event| text_at(event, "/message")),
        seen("First Seen", 1, "When it happened first.", |event| first_of(event, &["/firstTimestamp", "/eventTime"])),
        text_column("Count", 1, "How often.", |event| first_of(event, &["/series/count", "/count"])),
        Column { priority: 1, ..name() },
    ]
}

fn first_of(object: &Value, pointers: &[&str]) -> Value {
    let found = pointers.iter().map(|pointer| text_at(object, pointer)).find(|value| !value.is_null());
    found.unwrap_or(Value::Null)
}
