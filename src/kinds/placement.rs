//! Placement in the API: questions about it, answered by the leader and forgotten, and decisions, published as others know
//! them.

use serde_json::{Value, json};

use super::{
    Backing, Column, ColumnType, Hooks, Kind, NameRule, Review, Scope, Status, Verb,
    cluster::{GROUP, VERSION, text_column},
    metadata, name,
    reviews::review,
    schema::Schema,
    text_at,
};
use crate::model::{
    FieldError, GroupVersionKind,
    object::FieldErrorKind::{Invalid, Required},
};

/// Slices of one decision have it in common; the Application's uid.
pub const DECISION_KEY_LABEL: &str = "multicluster.x-k8s.io/decision-key";
/// The place of a slice among them, from 0.
pub const DECISION_INDEX_LABEL: &str = "multicluster.x-k8s.io/decision-index";
/// The Application's name.
pub const PLACEMENT_KEY_LABEL: &str = "multicluster.x-k8s.io/placement-key";
/// Clusters in one slice (SIG-Multicluster KEP-5313).
pub const DECISIONS_MAX: usize = 100;

/// The clusters of one Application, as SIG-Multicluster's KEP-5313 shapes it. Derived from placements, never stored.
pub fn placement_decision() -> Kind {
    let reference = Schema::object([("name", Schema::string()), ("namespace", Schema::string())]).required(["name"]);
    let decision = Schema::object([
        ("clusterProfileRef", reference.describe("The cluster; a ClusterProfile of it has its name.")),
        ("reason", Schema::string().describe("How many replicas of each component, and why.")),
    ]);
    let schema = metadata::root([(
        "decisions",
        Schema::array(decision.required(["clusterProfileRef"])).describe("At most 100; the rest is in more slices."),
    )]);
    let derived = "what was decided is derived from placements; change the Application or its policies";
    Kind {
        gvk: GroupVersionKind::new("multicluster.x-k8s.io", "v1alpha1", "PlacementDecision"),
        plural: "placementdecisions".into(),
        singular: "placementdecision".into(),
        short_names: vec![],
        categories: vec!["hanse".into()],
        scope: Scope::Namespaced,
        backing: Backing::View,
        verbs: Verb::READ.into(),
        refusals: [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection]
            .map(|verb| (verb, derived))
            .into(),
        status: Status::None,
        schema: schema.required(["decisions"]).describe(
            "The clusters that one Application was given, for others to follow. A read-only view; slices of one decision \
             have the same label multicluster.x-k8s.io/decision-key.",
        ),
        columns: vec![
            name(),
            text_column("Application", 0, "The Application.", |decision| {
                text_at(decision, "/metadata/labels/multicluster.x-k8s.io~1placement-key")
            }),
            Column {
                type_: ColumnType::Integer,
                ..text_column("Clusters", 0, "In this slice.", |decision| {
                    json!(decision["decisions"].as_array().map_or(0, Vec::len))
                })
            },
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

/// `hanse explain` and `hanse plan`.
pub fn placement_review() -> Kind {
    let application =
        Schema::free_form().describe("An Application as it would be applied: where it would go is answered.");
    let spec = Schema::object([
        ("name", Schema::string().describe("An Application that is there: where it is and why is answered.")),
        ("application", application),
        ("rebalance", Schema::boolean().describe("With name: where a rebalance would have it is answered.")),
    ]);
    let hint = Schema::free_form().describe("A change with which the hub has decided that it helps, and what it does.");
    let status = Schema::object([
        ("revision", Schema::integer().describe("Of the store: the answer is as of it.")),
        ("application", Schema::string()),
        ("namespace", Schema::string()),
        ("settled", Schema::boolean().describe("Whether nothing would change.")),
        (
            "components",
            Schema::array(Schema::free_form()).describe(
                "For every cluster: how many replicas it has and would have, and why; or a stable word and a sentence \
                 why none.",
            ),
        ),
        ("unplaced", Schema::map(Schema::string()).describe("By component: what is missing.")),
        ("hints", Schema::array(hint)),
    ]);
    let gvk = GroupVersionKind::new(GROUP, VERSION, "PlacementReview");
    let schema = metadata::root([("spec", spec), ("status", status)]).required(["spec"]);
    let description = "Where an Application is or would be, and why, for every cluster. It takes the right to get the \
                       Application.";
    Kind {
        scope: Scope::Namespaced,
        hooks: Hooks { check: one_application, ..Hooks::default() },
        ..review(Review::Placement, gvk, schema.describe(description))
    }
}

/// `hanse drill`.
pub fn drill_review() -> Kind {
    let set = Schema::object([("clusters", Schema::array(Schema::string())), ("clusterSelector", label_selector())]);
    let lose = Schema::array(set).describe("Sets of clusters, by name or labels; all of them are lost at once.");
    let status = Schema::object([
        ("revision", Schema::integer().describe("Of the store: the answer is as of it.")),
        ("lost", Schema::array(Schema::string())),
        ("total", Schema::map(Schema::integer())),
        (
            "applications",
            Schema::array(Schema::free_form()).describe(
                "Those with a part in a lost cluster that the caller may get, in the order in which they are decided.",
            ),
        ),
    ]);
    let gvk = GroupVersionKind::new(GROUP, VERSION, "DrillReview");
    let schema = metadata::root([("spec", Schema::object([("lose", lose)])), ("status", status)]).required(["spec"]);
    let description = "What would move where, and what would not fit, if clusters were lost. It takes the right to list \
                       clusters, and tells of Applications that the caller may get.";
    Kind {
        hooks: Hooks { check: some_clusters, ..Hooks::default() },
        ..review(Review::Drill, gvk, schema.describe(description))
    }
}

fn label_selector() -> Schema {
    let requirement = Schema::object([
        ("key", Schema::string()),
        ("operator", Schema::string()),
        ("values", Schema::array(Schema::string())),
    ]);
    Schema::object([("matchLabels", Schema::map(Schema::string())), ("matchExpressions", Schema::array(requirement))])
}

fn one_application(review: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let named = review["spec"]["name"].as_str().is_some_and(|name| !name.is_empty());
    if review["spec"]["rebalance"] == true && !named {
        let detail = "only an Application that is there can be rebalanced: name it";
        return vec![FieldError::new("spec.rebalance", Invalid, detail)];
    }
    match (named, review["spec"]["application"].is_object()) {
        (true, false) | (false, true) => vec![],
        _ => vec![FieldError::new("spec", Invalid, "exactly one of name and application must be specified")],
    }
}

fn some_clusters(review: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let sets = review["spec"]["lose"].as_array().map(Vec::as_slice).unwrap_or_default();
    if sets.is_empty() {
        return vec![FieldError::new("spec.lose", Required, "at least one set of clusters must be specified")];
    }
    let says_nothing =
        |set: &Value| set["clusters"].as_array().is_none_or(Vec::is_empty) && set["clusterSelector"].is_null();
    let faulty = (0..sets.len()).filter(|&place| says_nothing(&sets[place]));
    let detail = "clusters or clusterSelector must be specified";
    faulty.map(|place| FieldError::new(format!("spec.lose[{place}]"), Required, detail)).collect()
}
