//! `hub.hanse.dev/v1alpha1 PlacementProfile`: what the platform has to say in every placement.

use serde_json::{Value, json};

use super::{
    Backing, Hooks, Kind, NameRule, Scope, Status, Verb, age,
    cluster::{GROUP, VERSION, text_column},
    metadata, name,
    schema::{Format, Schema},
};
use crate::model::{GroupVersionKind, profile::SCORE_MAX};

/// Of one list.
const RULES_MAX: usize = 32;
pub const WEIGHT_MAX: i64 = 1_000;
pub const TEXT_MAX: usize = 253;

pub fn placement_profile() -> Kind {
    Kind {
        gvk: GroupVersionKind::new(GROUP, VERSION, "PlacementProfile"),
        plural: "placementprofiles".into(),
        singular: "placementprofile".into(),
        short_names: vec![],
        categories: vec!["hanse".into()],
        scope: Scope::Cluster,
        backing: Backing::Store,
        verbs: Verb::ALL.into(),
        refusals: vec![],
        status: Status::None,
        schema: metadata::root([("spec", spec())]).required(["spec"]).describe(
            "What the platform has to say in placements: who may get something new, and who gets it first. Placement \
             policies choose one by name; the one named default is for those that choose none.",
        ),
        columns: vec![
            name(),
            text_column("Filters", 0, "Kinds of its filters.", |profile| types(&profile["spec"]["filters"])),
            text_column("Scores", 0, "Kinds of its scores.", |profile| types(&profile["spec"]["scores"])),
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

fn types(rules: &Value) -> Value {
    let types: Vec<&str> = rules.as_array().into_iter().flatten().filter_map(|rule| rule["type"].as_str()).collect();
    if types.is_empty() { Value::Null } else { types.join(",").into() }
}

fn spec() -> Schema {
    let expression = || {
        Schema::string().describe("CEL over name, labels, properties and free of a cluster, as in placement policies.")
    };
    let filter = Schema::object([
        (
            "type",
            Schema::string().choices(["Expression", "Headroom", "Taints"]).or(json!("Expression")).describe(
                "Expression: by CEL. Headroom: a share of every cluster stays free. Taints: those of clusters, which count \
                 unless enabled is false here.",
            ),
        ),
        ("expression", expression()),
        ("message", Schema::string().length_max(TEXT_MAX).describe("What is told of clusters for which it does not hold.")),
        ("percent", Schema::integer().minimum(1).maximum(99).describe("Of CPU and of memory that stay free.")),
        ("enabled", Schema::boolean()),
    ]);
    let range = || Schema::integer();
    let score = Schema::object([
        (
            "type",
            Schema::string()
                .choices(["Balanced", "Expression", "LeastAllocated", "MostAllocated", "Property"])
                .or(json!("Expression"))
                .describe(
                    "From 0 to 100, Expression from -100. LeastAllocated: hundredths of CPU and memory that are free. \
                     MostAllocated: that are taken. Balanced: 100 where both are taken to the same degree. Property: a \
                     number among the cluster's properties, between worst (0) and best (100).",
                ),
        ),
        ("expression", expression()),
        ("property", Schema::string().length_max(TEXT_MAX)),
        ("worst", range()),
        ("best", range()),
        ("weight", Schema::integer().minimum(1).maximum(WEIGHT_MAX).or(json!(1))),
    ]);
    let plugin = Schema::object([
        (
            "socket",
            Schema::string()
                .format(Format::DnsLabel)
                .describe("Of the unix socket plugins/NAME.sock in the directory of each replica of the hub."),
        ),
        (
            "timeoutMilliseconds",
            Schema::integer().minimum(1).maximum(2_000).or(json!(200)).describe("Within which it has to answer."),
        ),
        (
            "failurePolicy",
            Schema::string().choices(["Ignore", "Keep"]).describe(
                "Without an answer to go by. Ignore: decided as if there were no plug-in. Keep: all stays where it is.",
            ),
        ),
        ("weight", Schema::integer().minimum(1).maximum(WEIGHT_MAX).or(json!(1)).describe("Of its score.")),
    ])
    .required(["socket", "failurePolicy"])
    .describe("A process beside the hub that filters and scores, too: docs/reference/placement-plugins.md");
    Schema::object([
        ("plugin", plugin),
        (
            "filters",
            Schema::array(filter).length_max(RULES_MAX).describe(
                "Who may get something new; what runs stays. Clusters that are not accepted, being deleted, silent or \
                 cordoned never get anything.",
            ),
        ),
        (
            "scores",
            Schema::array(score).length_max(RULES_MAX).describe(&format!(
                "Who gets it first, where the Application has no preference: each from -{SCORE_MAX} to {SCORE_MAX}, times its \
                 weight, added up. Nothing that runs moves for a score."
            )),
        ),
    ])
}
