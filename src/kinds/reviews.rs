//! The review kinds of Kubernetes: questions about oneself that are answered and forgotten, for `kubectl auth`.

use serde_json::Value;

use super::{Backing, Hooks, Kind, NameRule, Review, Scope, Status, Verb, metadata, name, schema::Schema};
use crate::model::{FieldError, GroupVersionKind, object::FieldErrorKind::Invalid};

/// `kubectl auth whoami`.
pub fn self_subject_review() -> Kind {
    let user = Schema::object([
        ("username", Schema::string()),
        ("uid", Schema::string()),
        ("groups", Schema::array(Schema::string())),
        ("extra", Schema::map(Schema::array(Schema::string()))),
    ]);
    let status = Schema::object([("userInfo", user)]);
    review(
        Review::Subject,
        GroupVersionKind::new("authentication.k8s.io", "v1", "SelfSubjectReview"),
        metadata::root([("status", status)]).describe("Who the hub takes the caller for."),
    )
}

/// `kubectl auth can-i VERB RESOURCE`.
pub fn self_subject_access_review() -> Kind {
    let text = Schema::string;
    let resource_attributes = Schema::object([
        ("namespace", text()),
        ("verb", text()),
        ("group", text()),
        ("version", text()),
        ("resource", text()),
        ("subresource", text()),
        ("name", text()),
        ("fieldSelector", Schema::free_form()),
        ("labelSelector", Schema::free_form()),
    ]);
    let path_attributes = Schema::object([("path", Schema::string()), ("verb", Schema::string())]);
    let spec =
        Schema::object([("resourceAttributes", resource_attributes), ("nonResourceAttributes", path_attributes)]);
    let status = Schema::object([
        ("allowed", Schema::boolean()),
        ("denied", Schema::boolean()),
        ("reason", Schema::string()),
        ("evaluationError", Schema::string()),
    ]);
    let schema = metadata::root([("spec", spec), ("status", status)]).required(["spec"]);
    Kind {
        hooks: Hooks { check: one_question, ..Hooks::default() },
        ..review(
            Review::Access,
            GroupVersionKind::new("authorization.k8s.io", "v1", "SelfSubjectAccessReview"),
            schema.describe("Whether the caller may do something."),
        )
    }
}

/// `kubectl auth can-i --list`.
pub fn self_subject_rules_review() -> Kind {
    let texts = || Schema::array(Schema::string());
    let resource_rule = Schema::object([
        ("verbs", texts()),
        ("apiGroups", texts()),
        ("resources", texts()),
        ("resourceNames", texts()),
    ]);
    let path_rule = Schema::object([("verbs", texts()), ("nonResourceURLs", texts())]);
    let status = Schema::object([
        ("resourceRules", Schema::array(resource_rule)),
        ("nonResourceRules", Schema::array(path_rule)),
        ("incomplete", Schema::boolean()),
        ("evaluationError", Schema::string()),
    ]);
    let spec = Schema::object([("namespace", Schema::string())]);
    review(
        Review::Rules,
        GroupVersionKind::new("authorization.k8s.io", "v1", "SelfSubjectRulesReview"),
        metadata::root([("spec", spec), ("status", status)])
            .required(["spec"])
            .describe("All that the caller may do in a namespace."),
    )
}

pub(super) fn review(review: Review, gvk: GroupVersionKind, schema: Schema) -> Kind {
    let singular = gvk.kind.to_lowercase();
    let others = Verb::ALL.into_iter().filter(|&verb| verb != Verb::Create);
    Kind {
        gvk,
        plural: format!("{singular}s"),
        singular,
        short_names: vec![],
        categories: vec![],
        scope: Scope::Cluster,
        backing: Backing::Review(review),
        verbs: vec![Verb::Create],
        refusals: others.map(|verb| (verb, "a review is answered when it is created, and not kept")).collect(),
        status: Status::None,
        schema,
        columns: vec![name()],
        selectable: vec![],
        name: NameRule::Subdomain,
        hub_finalizer: None,
        holds_objects: false,
        keeps_namespace: false,
        collection_deletion_max: None,
        hooks: Hooks::default(),
    }
}

fn one_question(review: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let asked = ["resourceAttributes", "nonResourceAttributes"].map(|field| review["spec"][field].is_object());
    match asked {
        [true, false] | [false, true] => vec![],
        _ => {
            let detail = "exactly one of resourceAttributes and nonResourceAttributes must be specified";
            vec![FieldError::new("spec", Invalid, detail)]
        }
    }
}
