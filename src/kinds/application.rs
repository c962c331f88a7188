//! `core.oam.dev/v1beta1`: Application and ApplicationRevision, in the fields of KubeVela.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Backing, Column, ColumnType, Hooks, Kind, NameRule, OWN_PREFIX, Origin, Scope, Status, Verb, age, metadata, name,
    schema::{Format, Schema},
    text_at,
};
use crate::model::{Digest, FieldError, GroupVersionKind, object::FieldErrorKind::Forbidden};

/// Held by an Application until its works are gone from every cluster.
pub const WORKS_FINALIZER: &str = "hanse.dev/works";
/// Trace id of the request that last changed what is rendered; written by the hub alone.
pub const TRACE_ANNOTATION: &str = "hanse.dev/trace";
/// Who last changed what is rendered: the author of the removals that follow from it; written by the hub alone.
pub const AUTHOR_ANNOTATION: &str = "hanse.dev/author";
/// A person asks by it for a rebalance: any text that was not there before, such as the time.
pub const REBALANCE_ANNOTATION: &str = "hanse.dev/rebalance";

/// What `kubectl apply` remembers of the last file it was given.
pub const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations by which KubeVela lets an Application choose whom it acts as. Whoever may create an Application could
/// thereby become anyone (kubevela#7139): identity never comes from the object.
const IDENTITY_ANNOTATIONS: [&str; 3] =
    ["app.oam.dev/group", "app.oam.dev/username", "app.oam.dev/service-account-name"];

pub fn application() -> Kind {
    Kind {
        gvk: GroupVersionKind::new("core.oam.dev", "v1beta1", "Application"),
        plural: "applications".into(),
        singular: "application".into(),
        short_names: vec!["app".into(), "apps".into()],
        // `all` for the command that everybody tries first.
        categories: vec!["all".into(), "oam".into(), "hanse".into()],
        scope: Scope::Namespaced,
        backing: Backing::Store,
        verbs: Verb::ALL.into(),
        refusals: vec![],
        status: Status::Served,
        schema: metadata::root([("spec", spec()), ("status", status())])
            .required(["spec"])
            .describe("What to run, and under which policies; the hub chooses where."),
        columns: vec![
            name(),
            Column {
                name: "Components",
                type_: ColumnType::String,
                description: "Names of the components.",
                priority: 0,
                cell: |app| names(&app["spec"]["components"], "name"),
            },
            Column {
                name: "Types",
                type_: ColumnType::String,
                description: "Types of the components.",
                priority: 1,
                cell: |app| names(&app["spec"]["components"], "type"),
            },
            Column {
                name: "Phase",
                type_: ColumnType::String,
                description: "Where it is on its way.",
                priority: 0,
                cell: |app| text_at(app, "/status/status"),
            },
            Column {
                name: "Healthy",
                type_: ColumnType::String,
                description: "Healthy services out of all, over all clusters.",
                priority: 0,
                cell: healthy,
            },
            Column {
                name: "Clusters",
                type_: ColumnType::String,
                description: "Clusters that it runs in.",
                priority: 0,
                cell: clusters,
            },
            Column {
                name: "Placement",
                type_: ColumnType::String,
                description: "Replicas as a sum over the clusters.",
                priority: 1,
                cell: |app| text_at(app, "/status/placement/sum"),
            },
            Column {
                name: "Revision",
                type_: ColumnType::String,
                description: "The newest revision.",
                priority: 1,
                cell: |app| text_at(app, "/status/latestRevision/name"),
            },
            age(),
            Column {
                name: "Message",
                type_: ColumnType::String,
                description: "What keeps it from being ready.",
                priority: 0,
                cell: message,
            },
        ],
        selectable: vec!["status.status".into()],
        name: NameRule::Subdomain,
        hub_finalizer: Some(WORKS_FINALIZER),
        holds_objects: false,
        keeps_namespace: true,
        collection_deletion_max: Some(10),
        hooks: Hooks { prepare, check, posted: &["binding"] },
    }
}

pub fn application_revision() -> Kind {
    Kind {
        gvk: GroupVersionKind::new("core.oam.dev", "v1beta1", "ApplicationRevision"),
        plural: "applicationrevisions".into(),
        singular: "applicationrevision".into(),
        short_names: vec!["apprev".into()],
        categories: vec!["oam".into()],
        scope: Scope::Namespaced,
        backing: Backing::Store,
        verbs: Verb::READ.into(),
        refusals: [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection]
            .map(|verb| {
                (verb, "revisions are immutable snapshots that the hub makes and sweeps; change the Application")
            })
            .into(),
        status: Status::None,
        schema: metadata::root([
            (
                "spec",
                Schema::free_form().describe("The Application as it was, and the digests of what it was rendered to."),
            ),
            ("status", Schema::free_form()),
        ])
        .describe("An immutable snapshot of an Application and all it was rendered to."),
        columns: vec![
            name(),
            Column {
                name: "Application",
                type_: ColumnType::String,
                description: "The Application that it is a snapshot of.",
                priority: 0,
                cell: |revision| match text_at(revision, "/spec/application/name") {
                    Value::Null => text_at(revision, "/spec/application/metadata/name"),
                    name => name,
                },
            },
            Column {
                name: "Spec",
                type_: ColumnType::String,
                description: "Digest of the spec with labels and annotations, shortened.",
                priority: 1,
                cell: |revision| match text_at(revision, "/spec/specDigest") {
                    Value::String(digest) => Value::String(digest.chars().take(12).collect()),
                    other => other,
                },
            },
            age(),
        ],
        selectable: vec![],
        name: NameRule::Subdomain,
        hub_finalizer: None,
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks::default(),
    }
}

fn prepare(new: &mut Value, old: Option<&Value>, origin: &Origin) {
    let changed = old.is_none_or(|old| source_digest(old) != source_digest(new));
    let Some(metadata) = new["metadata"].as_object_mut() else { return };
    // Whatever the client sent, they are of the request that last changed what is rendered.
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Default::default()));
    let Value::Object(annotations) = annotations else { return };
    for (key, fresh) in [(TRACE_ANNOTATION, &origin.trace), (AUTHOR_ANNOTATION, &origin.user)] {
        let value = match old {
            Some(old) if !changed => old["metadata"]["annotations"].get(key).cloned(),
            _ => Some(Value::String(fresh.clone())),
        };
        match value {
            Some(value) => drop(annotations.insert(key.into(), value)),
            None => drop(annotations.remove(key)),
        }
    }
}

/// Of all that rendering reads of an Application, its own labels and annotations included: a change that leaves it as
/// it is makes no new revision. What the hub and kubectl note for themselves is never rendered.
pub fn source_digest(application: &Value) -> Digest {
    let texts = |field: &str| -> Value {
        let texts = application["metadata"][field].as_object().into_iter().flatten();
        let rendered = texts.filter(|(key, _)| !key.starts_with(OWN_PREFIX) && *key != LAST_APPLIED_ANNOTATION);
        rendered.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    // Compact JSON has no line breaks, so no two sources read alike.
    Digest::of(format!("{}\n{}\n{}", application["spec"], texts("labels"), texts("annotations")).as_bytes())
}

fn check(new: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let annotations = new["metadata"]["annotations"].as_object();
    let identity = |key: &&&str| annotations.is_some_and(|annotations| annotations.contains_key(**key));
    let detail = "an Application cannot choose whom it acts as; it acts with the rights of its namespace's executor";
    let fault = |key| FieldError::new(format!("metadata.annotations[{key}]"), Forbidden, detail);
    IDENTITY_ANNOTATIONS.iter().filter(identity).map(fault).collect()
}

fn spec() -> Schema {
    let port = || Schema::object([("from", Schema::string()), ("parameterKey", Schema::string())]).required(["from"]);
    let output = Schema::object([("name", Schema::string()), ("valueFrom", Schema::string())]).required(["name"]);
    let trait_ = Schema::object([
        ("type", Schema::string().describe("scaler, labels or annotations.")),
        ("properties", Schema::free_form()),
    ])
    .required(["type"]);
    let component = Schema::object([
        ("name", Schema::string().describe("Unique within the Application.").format(Format::DnsSubdomain)),
        ("type", Schema::string().describe("webservice, worker or k8s-objects.")),
        ("properties", Schema::free_form().describe("As the type asks for them.")),
        ("traits", Schema::array(trait_).describe("Applied in this order.")),
        ("dependsOn", Schema::array(Schema::string())),
        ("inputs", Schema::array(port())),
        ("outputs", Schema::array(output.clone())),
        ("scopes", Schema::map(Schema::string())),
        ("externalRevision", Schema::string()),
    ])
    .required(["name", "type"]);
    let policy = Schema::object([
        ("name", Schema::string()),
        ("type", Schema::string().describe("topology or placement.")),
        ("properties", Schema::free_form().describe("As the type asks for them.")),
    ])
    .required(["type"]);
    Schema::object([
        ("components", Schema::array(component).describe("What to run.")),
        ("policies", Schema::array(policy).describe("Where and how to run it.")),
        (
            "schedulerName",
            Schema::string().length_max(253).describe(
                "Who places it, by POST to its subresource binding; the hub itself where it is left out, or hanse.",
            ),
        ),
        ("workflow", workflow(output)),
    ])
    .required(["components"])
    .describe("Components with their traits, and the policies that say where they run.")
}

/// Of what is posted to the subresource `binding`: one Application's parts.
pub fn binding_schema() -> Schema {
    let share = Schema::object([
        ("name", Schema::string().describe("The component.")),
        ("replicas", Schema::integer().minimum(0).maximum(i64::from(u32::MAX)).describe("Where it has any to count.")),
    ])
    .required(["name"]);
    let cluster = Schema::object([("name", Schema::string()), ("components", Schema::array(share).length_min(1))])
        .required(["name", "components"]);
    let spec = Schema::object([
        ("generation", Schema::integer().minimum(1).describe("Of the Application as it was decided on.")),
        ("overcommit", Schema::boolean().describe("Also where more is asked of a cluster than it has room for.")),
        ("clusters", Schema::array(cluster)),
    ])
    .required(["generation", "clusters"]);
    let metadata = Schema::object([
        ("name", Schema::string()),
        ("namespace", Schema::string()),
        ("resourceVersion", Schema::string()),
        ("uid", Schema::string()),
    ]);
    Schema::object([
        ("apiVersion", Schema::string()),
        ("kind", Schema::string()),
        ("metadata", metadata),
        ("spec", spec),
    ])
    .required(["spec"])
}

fn workflow(output: Schema) -> Schema {
    let input = Schema::object([("from", Schema::string()), ("parameterKey", Schema::string())]).required(["from"]);
    let step = |more: [(&str, Schema); 2]| {
        let mut step = Schema::object([
            ("name", Schema::string()),
            ("type", Schema::string()),
            ("meta", Schema::object([("alias", Schema::string())])),
            ("if", Schema::string()),
            ("timeout", Schema::string()),
            ("dependsOn", Schema::array(Schema::string())),
            ("inputs", Schema::array(input.clone())),
            ("outputs", Schema::array(output.clone())),
            ("properties", Schema::free_form()),
        ])
        .required(["type"]);
        if let super::schema::Shape::Object(object) = &mut step.shape {
            object.properties.extend(more.map(|(name, schema)| (name.to_owned(), schema)));
        }
        step
    };
    let sub_step = step([("mode", Schema::string()), ("alias", Schema::string())]);
    let mode = || Schema::string().choices(["DAG", "StepByStep"]);
    Schema::object([
        ("ref", Schema::string()),
        ("mode", Schema::object([("steps", mode()), ("subSteps", mode())])),
        ("steps", Schema::array(step([("mode", mode()), ("subSteps", Schema::array(sub_step))]))),
    ])
}

/// Fields of a newer replica, and those beyond KubeVela's, are kept wherever the hub writes.
fn status() -> Schema {
    let text = Schema::string;
    let service_trait = Schema::object([
        ("type", text()),
        ("healthy", Schema::boolean()),
        ("pending", Schema::boolean()),
        ("message", text()),
        ("details", Schema::map(text())),
    ]);
    let service = Schema::object([
        ("name", text().describe("The component.")),
        ("namespace", text()),
        ("cluster", text()),
        ("env", text()),
        ("workloadDefinition", Schema::object([("apiVersion", text()), ("kind", text())])),
        ("healthy", Schema::boolean()),
        ("workloadHealthy", Schema::boolean()),
        ("message", text().describe("In the member's words.")),
        ("details", Schema::map(text())),
        ("traits", Schema::array(service_trait)),
    ])
    .open();
    let resource = Schema::object([
        ("apiVersion", text()),
        ("kind", text()),
        ("namespace", text()),
        ("name", text()),
        ("uid", text()),
        ("cluster", text()),
        ("creator", text()),
    ])
    .open();
    Schema::object([
        ("conditions", Schema::array(condition()).list_keys(["type"])),
        ("observedGeneration", Schema::integer()),
        ("status", text().describe("The phase: starting, rendering, runningWorkflow, running, unhealthy, deleting, …")),
        ("services", Schema::array(service).describe("One per component and cluster; unhealthy first.")),
        (
            "latestRevision",
            Schema::object([("name", text()), ("revision", Schema::integer()), ("revisionHash", text())]),
        ),
        ("appliedResources", Schema::array(resource)),
        ("workflow", Schema::free_form()),
        ("policy", Schema::any()),
        (
            "serviceCounts",
            Schema::object([("healthy", Schema::integer()), ("total", Schema::integer())])
                .open()
                .describe("Of all services, also those beyond the ones listed."),
        ),
        (
            "placement",
            Schema::free_form().describe("What was decided: replicas by cluster and their sum, refusals with reasons."),
        ),
    ])
    .open()
    .describe(
        "What became of it: the phase, a service per component and cluster, and why each cluster got what it got.",
    )
}

pub(super) fn condition() -> Schema {
    Schema::object([
        ("type", Schema::string()),
        ("status", Schema::string().choices(["True", "False", "Unknown"])),
        ("reason", Schema::string()),
        ("message", Schema::string()),
        ("lastTransitionTime", Schema::time()),
        ("lastProbeTime", Schema::time().nullable()),
        ("observedGeneration", Schema::integer()),
    ])
    .required(["type", "status"])
}

const NAMES_SHOWN: usize = 3;

fn names(list: &Value, field: &str) -> Value {
    let names: Vec<_> = list.as_array().into_iter().flatten().filter_map(|item| item[field].as_str()).collect();
    match names.len().checked_sub(NAMES_SHOWN) {
        Some(more @ 1..) => format!("{},+{more}", names[..NAMES_SHOWN].join(",")).into(),
        _ => names.join(",").into(),
    }
}

fn services(app: &Value) -> impl Iterator<Item = &Value> {
    app["status"]["services"].as_array().into_iter().flatten()
}

fn healthy(app: &Value) -> Value {
    let (total, healthy) = services(app)
        .fold((0, 0), |(total, healthy), service| (total + 1, healthy + usize::from(service["healthy"] == true)));
    if total == 0 { Value::Null } else { format!("{healthy}/{total}").into() }
}

fn clusters(app: &Value) -> Value {
    let clusters: BTreeSet<_> = services(app).filter_map(|service| service["cluster"].as_str()).collect();
    let names: Vec<_> = clusters.into_iter().collect();
    match names.len() {
        0 => Value::Null,
        1..=NAMES_SHOWN => names.join(",").into(),
        count => format!("{count} clusters").into(),
    }
}

/// The first thing that is wrong: a service's message, or the reason of a condition that is not met.
fn message(app: &Value) -> Value {
    let service = services(app).find(|service| service["healthy"] == false && service["message"] != "");
    let condition = || {
        let conditions = app["status"]["conditions"].as_array().into_iter().flatten();
        conditions.filter(|condition| condition["type"] == "Ready").find(|condition| condition["status"] == "False")
    };
    match service.or_else(condition).and_then(|found| found["message"].as_str()) {
        Some(text) => text.lines().next().unwrap_or_default().chars().take(120).collect::<String>().into(),
        None => "".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_source_is_all_that_rendering_reads_and_nothing_else() {
        let source = json!({
            "metadata": {"name": "web", "labels": {"team": "a"}, "annotations": {"note": "b"}},
            "spec": {"components": []},
        });
        let digest = source_digest(&source);
        let changed = |pointer: &str, value: Value| {
            let mut other = source.clone();
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            other.pointer_mut(parent).expect("the parent")[field.replace("~1", "/")] = value;
            source_digest(&other) != digest
        };
        for pointer in
            ["/metadata/labels/team", "/metadata/annotations/note", "/metadata/labels/more", "/spec/policies"]
        {
            assert!(changed(pointer, json!("x")), "{pointer}");
        }
        for pointer in [
            "/status",
            "/metadata/resourceVersion",
            "/metadata/finalizers",
            "/metadata/annotations/hanse.dev~1author",
            "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
        ] {
            assert!(!changed(pointer, json!("x")), "{pointer}");
        }
        // What an annotation says is not what a label says, nor is nothing different from an empty map.
        let moved =
            json!({"metadata": {"labels": {"note": "b"}, "annotations": {"team": "a"}}, "spec": source["spec"]});
        assert_ne!(source_digest(&moved), digest);
        let bare = |metadata: Value| source_digest(&json!({"metadata": metadata, "spec": {}}));
        assert_eq!(bare(json!({})), bare(json!({"labels": {}, "annotations": null})));
    }
}
