//! `hub.hanse.dev/v1alpha1 JoinToken`: an invitation for one cluster, or one replica of the hub. The secret itself is never stored.

use serde_json::Value;

use super::{
    Backing, Hooks, Kind, NameRule, Scope, Status, Verb, age,
    cluster::{GROUP, VERSION, digest, text_column},
    metadata, name,
    schema::{Format, Schema},
    text_at,
};
use crate::model::{
    FieldError, GroupVersionKind,
    object::FieldErrorKind::{Forbidden, Invalid},
    selector,
};

pub fn join_token() -> Kind {
    Kind {
        gvk: GroupVersionKind::new(GROUP, VERSION, "JoinToken"),
        plural: "jointokens".into(),
        singular: "jointoken".into(),
        short_names: vec![],
        categories: vec!["hanse".into()],
        scope: Scope::Cluster,
        backing: Backing::Store,
        verbs: Verb::ALL.into(),
        refusals: vec![],
        status: Status::HubOnly,
        schema: metadata::root([("spec", spec()), ("status", status())]).required(["spec"]).describe(
            "An invitation for one cluster to join, used once; `hanse token create` makes it and prints the secret. Or for one \
             replica of the hub: then `hanse hub invite` does.",
        ),
        columns: vec![
            name(),
            text_column("Cluster", 0, "The only name that may join with it.", |token| text_at(token, "/spec/cluster")),
            text_column("Expires", 0, "Until when it may be used.", |token| text_at(token, "/spec/expiresAt")),
            text_column("Used By", 0, "The cluster, or the replica, that used it.", |token| {
                match text_at(token, "/status/usedBy/cluster") {
                    Value::Null => text_at(token, "/status/usedBy/replica"),
                    cluster => cluster,
                }
            }),
            text_column("Replica", 1, "Whether it is for a replica of the hub.", |token| text_at(token, "/spec/replica")),
            text_column("Auto Approve", 0, "Whether it accepts the cluster at once.", |token| {
                text_at(token, "/spec/autoApprove")
            }),
            text_column("Replace", 1, "Whether it may take the place of a cluster of that name.", |token| {
                text_at(token, "/spec/replace")
            }),
            age(),
        ],
        selectable: vec!["spec.cluster".into()],
        name: NameRule::Subdomain,
        hub_finalizer: None,
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks { check, ..Hooks::default() },
    }
}

fn spec() -> Schema {
    Schema::object([
        ("secretDigest", digest().describe("SHA-256 of the secret, hex.")),
        (
            "cluster",
            Schema::string().describe("The only name that may join with it; empty leaves the choice to the member."),
        ),
        (
            "replace",
            Schema::boolean().describe("May take the place of a cluster of that name, which then gets a new uid."),
        ),
        ("autoApprove", Schema::boolean().describe("Accepts the cluster at once, without an admin's yes.")),
        ("expiresAt", Schema::time()),
        (
            "replica",
            Schema::boolean().describe(
                "Invites a replica of the hub instead of a cluster. Whoever uses it gets every key of the hub.",
            ),
        ),
        ("labels", Schema::map(Schema::string().format(Format::LabelValue)).describe("Labels for the new cluster.")),
    ])
    .required(["secretDigest", "expiresAt"])
}

fn status() -> Schema {
    let used = Schema::object([
        ("cluster", Schema::string()),
        ("clusterUid", Schema::string()),
        ("replica", Schema::integer().nullable()),
        ("keyFingerprint", Schema::string()),
        ("at", Schema::time().nullable()),
    ]);
    Schema::object([("usedBy", used.nullable())]).open()
}

fn check(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut faults = vec![];
    if old.is_some_and(|old| old["spec"] != new["spec"]) {
        let detail = "a token is what its secret was printed with; delete it and create another";
        faults.push(FieldError::new("spec", Forbidden, detail));
    }
    if new["spec"]["replica"] == true {
        for field in ["cluster", "labels", "replace", "autoApprove"] {
            let value = &new["spec"][field];
            let says_nothing = value.is_null() || *value == false || value.as_str() == Some("");
            if !says_nothing && value.as_object().is_none_or(|labels| !labels.is_empty()) {
                faults.push(FieldError::new(
                    format!("spec.{field}"),
                    Forbidden,
                    "it is for a replica, not for a cluster",
                ));
            }
        }
    }
    if let Some(name) = new["spec"]["cluster"].as_str()
        && !name.is_empty()
        && let Err(detail) = super::schema::check_label(name)
    {
        faults.push(FieldError::new("spec.cluster", Invalid, detail));
    }
    for key in new["spec"]["labels"].as_object().into_iter().flat_map(|labels| labels.keys()) {
        if let Err(detail) = selector::check_key(key) {
            faults.push(FieldError::new("spec.labels", Invalid, detail));
        }
    }
    faults
}
