//! One [`Kind`] value drives everything about a kind.
//!
//! Owns: what the hub serves, as data: names, scope, verbs, schema, table columns, selectable fields and the hooks that
//! are particular to a kind. Must never: read the store, know who asks, or be consulted by name (`if plural == …`):
//! whatever differs between kinds stands in the value. Definitions that users bring load the same value later, so
//! everything in it is owned.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod application;
pub mod cluster;
mod core;
pub mod metadata;
pub mod placement;
pub mod priority;
pub mod profile;
mod replica;
mod reviews;
pub mod schema;
pub mod strict;
mod token;
mod validate;

use std::sync::LazyLock;

use serde_json::Value;

pub use self::{
    cluster::CLUSTER_FINALIZER, metadata::check as check_metadata, replica::REPLICA_FINALIZER, schema::Schema,
    validate::excerpt,
};
use crate::model::{FieldError, GroupVersionKind, Timestamp};

pub static APPLICATION: LazyLock<Kind> = LazyLock::new(application::application);
pub static APPLICATION_REVISION: LazyLock<Kind> = LazyLock::new(application::application_revision);
pub static CLUSTER: LazyLock<Kind> = LazyLock::new(cluster::cluster);
pub static WORK: LazyLock<Kind> = LazyLock::new(cluster::work);
pub static JOIN_TOKEN: LazyLock<Kind> = LazyLock::new(token::join_token);
pub static PLACEMENT_PROFILE: LazyLock<Kind> = LazyLock::new(profile::placement_profile);
pub static PRIORITY_CLASS: LazyLock<Kind> = LazyLock::new(priority::priority_class);
pub static REPLICA: LazyLock<Kind> = LazyLock::new(replica::replica);
pub static PLACEMENT_REVIEW: LazyLock<Kind> = LazyLock::new(placement::placement_review);
pub static PLACEMENT_DECISION: LazyLock<Kind> = LazyLock::new(placement::placement_decision);
pub static DRILL_REVIEW: LazyLock<Kind> = LazyLock::new(placement::drill_review);
pub static NAMESPACE: LazyLock<Kind> = LazyLock::new(core::namespace);
pub static EVENT: LazyLock<Kind> = LazyLock::new(core::event);
pub static SELF_SUBJECT_REVIEW: LazyLock<Kind> = LazyLock::new(reviews::self_subject_review);
pub static SELF_SUBJECT_ACCESS_REVIEW: LazyLock<Kind> = LazyLock::new(reviews::self_subject_access_review);
pub static SELF_SUBJECT_RULES_REVIEW: LazyLock<Kind> = LazyLock::new(reviews::self_subject_rules_review);

/// Labels and annotations that hub and agent keep on objects for themselves.
pub const OWN_PREFIX: &str = "hanse.dev/";

/// Every kind the hub serves, in order of group, then plural.
pub fn all() -> [&'static Kind; 16] {
    [
        &EVENT,
        &NAMESPACE,
        &SELF_SUBJECT_REVIEW,
        &SELF_SUBJECT_ACCESS_REVIEW,
        &SELF_SUBJECT_RULES_REVIEW,
        &APPLICATION_REVISION,
        &APPLICATION,
        &CLUSTER,
        &DRILL_REVIEW,
        &JOIN_TOKEN,
        &PLACEMENT_PROFILE,
        &PLACEMENT_REVIEW,
        &REPLICA,
        &WORK,
        &PLACEMENT_DECISION,
        &PRIORITY_CLASS,
    ]
}

pub struct Kind {
    pub gvk: GroupVersionKind,
    /// Lowercase, as in URLs and keys.
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub scope: Scope,
    /// Where its objects come from.
    pub backing: Backing,
    /// What people may ask for; all else is answered 405.
    pub verbs: Vec<Verb>,
    /// Why a verb that one would expect is missing: said in the 405.
    pub refusals: Vec<(Verb, &'static str)>,
    pub status: Status,
    /// Of the whole object but `metadata`, `apiVersion` and `kind`, which are alike for all kinds.
    pub schema: Schema,
    /// Of `kubectl get`, in order.
    pub columns: Vec<Column>,
    /// Field selectors besides `metadata.name` and `metadata.namespace`: dotted paths.
    pub selectable: Vec<String>,
    /// What `metadata.name` must be.
    pub name: NameRule,
    /// Put on every new object by the hub, and taken off by the hub alone: it stands for something that is still to be
    /// cleaned up. What a client leaves out of an update without a word stays; taking it away is refused.
    pub hub_finalizer: Option<&'static str>,
    /// Other objects are in it (Namespace): it is not deleted while it holds any.
    pub holds_objects: bool,
    /// Keeps its namespace from being deleted. What the hub itself puts into a namespace does not.
    pub keeps_namespace: bool,
    /// How many of them deletecollection takes at most; absent: any number.
    pub collection_deletion_max: Option<usize>,
    pub hooks: Hooks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Objects in the store.
    Store,
    /// Objects derived from what is stored; nothing can be written.
    View,
    /// None: what is created is a question, answered and forgotten.
    Review(Review),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Review {
    /// Who am I?
    Subject,
    /// May I do this?
    Access,
    /// What may I do in this namespace?
    Rules,
    /// Where is this Application, or would it be, and why?
    Placement,
    /// What if these clusters were lost?
    Drill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

/// The `status` subresource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The kind has none; a `status` in the object is an ordinary field.
    None,
    /// Read and written at `/status`, ignored on the main endpoint.
    Served,
    /// As `Served`, but only the hub writes it: identities hang on it.
    HubOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// Lowercase DNS labels joined by dots, ≤ 253 characters.
    Subdomain,
    /// One lowercase DNS label, ≤ 63 characters.
    Label,
}

/// A column of `kubectl get`.
pub struct Column {
    pub name: &'static str,
    pub type_: ColumnType,
    pub description: &'static str,
    /// 0 always; else with `-o wide` only.
    pub priority: i32,
    /// What the cell shows; `Null` is shown as `<none>`.
    pub cell: fn(&Value) -> Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    String,
    Integer,
    /// The cell is a time stamp; shown as an age.
    Date,
}

/// What is particular to a kind on a write. All pure; `origin` says what a request brings along.
pub struct Hooks {
    /// Completes an object before it is validated: what the hub adds to `metadata` itself.
    pub prepare: fn(&mut Value, Option<&Value>, &Origin),
    /// Rules that no schema can say: immutable fields, reserved names. Every error at once.
    pub check: fn(&Value, Option<&Value>) -> Vec<FieldError>,
    /// Subresources to which something is posted.
    pub posted: &'static [&'static str],
}

/// What a write request brings along.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub user: String,
    /// 32 hex characters.
    pub trace: String,
    /// When it came.
    pub at: Option<Timestamp>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({})", self.gvk)
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self { prepare: |_, _, _| (), check: |_, _| vec![], posted: &[] }
    }
}

impl Verb {
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Delete,
        Self::DeleteCollection,
        Self::Get,
        Self::List,
        Self::Patch,
        Self::Update,
        Self::Watch,
    ];
    pub const READ: [Self; 3] = [Self::Get, Self::List, Self::Watch];

    /// As discovery, audit and `authorize` name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }

    pub fn writes(self) -> bool {
        !Self::READ.contains(&self)
    }
}

impl ColumnType {
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Date => "date",
        }
    }
}

impl Kind {
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn has_status(&self) -> bool {
        self.status != Status::None
    }

    /// `applications.core.oam.dev`, as messages name it.
    pub fn resource(&self) -> String {
        if self.gvk.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.gvk.group) }
    }

    pub fn serves(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }
}

/// The kind of a group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().into_iter().find(|kind| kind.gvk.group == group && kind.gvk.version == version && kind.plural == plural)
}

/// A text field under a JSON pointer, as columns show it.
pub(crate) fn text_at(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::String(text)) if !text.is_empty() => Value::String(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Value::String(value.to_string()),
        _ => Value::Null,
    }
}

pub(crate) fn name() -> Column {
    Column {
        name: "Name",
        type_: ColumnType::String,
        description: "Unique within its namespace.",
        priority: 0,
        cell: |object| text_at(object, "/metadata/name"),
    }
}

/// The column that every kind has.
pub(crate) fn age() -> Column {
    Column {
        name: "Age",
        type_: ColumnType::Date,
        description: "Time since the object was created.",
        priority: 0,
        cell: |object| text_at(object, "/metadata/creationTimestamp"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{
        Cluster, Digest, Resources, Sketch,
        cluster::{
            CertificateStatus, ClusterSpec, ClusterStatus, ClusterTaint, DeletionPolicy, Facts, JoinRequest, Property,
            TaintEffect,
        },
        condition::{Condition, Conditions, Truth},
        demand::Taint,
        sketch::{NamespaceRules, NodeKind, Shape},
        token::{JoinToken, JoinTokenSpec, JoinTokenStatus, UsedBy},
    };

    fn at() -> Option<Timestamp> {
        Some(Timestamp::from_seconds(1_800_000_000))
    }

    /// What the hub writes of a typed value passes the schema that people's writes pass, and loses nothing to pruning.
    #[track_caller]
    fn fits(kind: &Kind, part: &str, value: Value) {
        let mut object = json!({"metadata": {"name": "x"}, part: value});
        let faults = kind.schema.validate(&object, 100);
        let faults: Vec<_> = faults.iter().filter(|fault| fault.path.starts_with(part)).collect();
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(strict::unknown_fields(&kind.schema, &object, 100), []);
        // The open parts of a status hide a field that the schema forgot: each one must be declared.
        let declared = kind.schema.property(part).expect("a part of the schema");
        for name in object[part].as_object().into_iter().flatten().map(|(name, _)| name) {
            assert!(declared.property(name).is_some(), "{part}.{name} is not in the schema");
        }
        let before = object.clone();
        kind.schema.normalise(&mut object);
        assert_eq!(object, before);
    }

    #[test]
    fn clusters_as_the_hub_writes_them_fit_their_schema() {
        let condition = Condition {
            type_: "Ready".into(),
            status: Truth::Unknown,
            reason: "Silent".into(),
            message: "no beat".into(),
            last_transition_time: Timestamp::from_seconds(1),
            observed_generation: Some(3),
        };
        let taint = Taint { key: "a".into(), value: "b".into(), effect: "NoSchedule".into() };
        let amounts = || Resources::of([("cpu", 4000), ("memory", 1 << 34)]);
        let kind = NodeKind { labels: [("a".into(), "b".into())].into(), taints: vec![taint], mixed: true };
        let shape = Shape { count: 3, free: amounts(), kind };
        let claims = [("data".into(), vec!["a".into()])].into();
        let rules = NamespaceRules { quota: amounts(), defaults: amounts(), claims };
        let sketch = Sketch {
            sequence: 1,
            nodes: 3,
            shapes: vec![shape],
            allocatable: amounts(),
            free: amounts(),
            labels: vec!["a".into()],
            namespaces: [("shop".into(), rules)].into(),
            fault: "none".into(),
        };
        let text = String::from;
        let cluster = Cluster {
            spec: ClusterSpec {
                accepted: true,
                unschedulable: true,
                drain: true,
                deletion_policy: DeletionPolicy::Drain,
                taints: vec![ClusterTaint {
                    key: text("maintenance"),
                    value: text("now"),
                    effect: TaintEffect::NoExecute,
                    time_added: at(),
                }],
                properties: [(text("cost"), Property::Integer(3)), (text("tier"), Property::Text(text("gold")))].into(),
            },
            status: ClusterStatus {
                conditions: Conditions(vec![condition]),
                facts: Facts { kubernetes_version: text("v1.36.3"), region: text("eu"), ..Facts::default() },
                join: Some(JoinRequest { token: text("t"), requested_at: at(), ..JoinRequest::default() }),
                certificate: Some(CertificateStatus { serial: text("1"), not_after: at(), ..Default::default() }),
                sketch: Some(sketch),
                last_beat: at(),
            },
            ..Cluster::default()
        };
        fits(&CLUSTER, "spec", serde_json::to_value(cluster.spec).expect("JSON"));
        fits(&CLUSTER, "status", serde_json::to_value(cluster.status).expect("JSON"));
    }

    #[test]
    fn tokens_as_the_hub_writes_them_fit_their_schema() {
        let token = JoinToken {
            spec: JoinTokenSpec {
                secret_digest: Some(Digest::of(b"secret")),
                cluster: "eu".into(),
                replace: true,
                auto_approve: true,
                expires_at: at(),
                labels: [("a".into(), "b".into())].into(),
                replica: true,
            },
            status: JoinTokenStatus {
                used_by: Some(UsedBy {
                    cluster: "eu".into(),
                    key_fingerprint: "f".into(),
                    at: at(),
                    replica: Some(3),
                    ..UsedBy::default()
                }),
            },
            ..JoinToken::default()
        };
        fits(&JOIN_TOKEN, "spec", serde_json::to_value(&token.spec).expect("JSON"));
        fits(&JOIN_TOKEN, "status", serde_json::to_value(&token.status).expect("JSON"));
        let mut changed = json!({"spec": {"cluster": "eu"}});
        let old = changed.clone();
        changed["spec"]["autoApprove"] = json!(true);
        assert_eq!((JOIN_TOKEN.hooks.check)(&changed, Some(&old)).len(), 1, "a token's spec cannot be changed");
    }

    #[test]
    fn kinds_are_in_order_and_say_why_a_verb_is_missing() {
        let order: Vec<_> = all().iter().map(|kind| (&kind.gvk.group, &kind.plural)).collect();
        assert!(order.is_sorted());
        for kind in all() {
            for verb in Verb::ALL {
                let refused = kind.refusals.iter().any(|(refused, _)| *refused == verb);
                assert_ne!(kind.serves(verb), refused, "{} {}", verb.name(), kind.plural);
            }
            assert!(kind.backing != Backing::View || kind.verbs.iter().all(|verb| !verb.writes()), "{}", kind.plural);
        }
    }
}
