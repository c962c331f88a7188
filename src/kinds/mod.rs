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
mod metadata;
pub mod schema;
pub mod strict;
mod token;
mod validate;

use std::sync::LazyLock;

use serde_json::Value;

pub use self::{cluster::CLUSTER_FINALIZER, metadata::check as check_metadata, schema::Schema, validate::excerpt};
use crate::model::{FieldError, GroupVersionKind};

pub static APPLICATION: LazyLock<Kind> = LazyLock::new(application::application);
pub static APPLICATION_REVISION: LazyLock<Kind> = LazyLock::new(application::application_revision);
pub static CLUSTER: LazyLock<Kind> = LazyLock::new(cluster::cluster);
pub static WORK: LazyLock<Kind> = LazyLock::new(cluster::work);
pub static JOIN_TOKEN: LazyLock<Kind> = LazyLock::new(token::join_token);
pub static NAMESPACE: LazyLock<Kind> = LazyLock::new(core::namespace);
pub static EVENT: LazyLock<Kind> = LazyLock::new(core::event);

/// Every kind the hub serves, in order of group, then plural.
pub fn all() -> [&'static Kind; 7] {
    [&EVENT, &NAMESPACE, &APPLICATION, &APPLICATION_REVISION, &CLUSTER, &JOIN_TOKEN, &WORK]
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
}

/// What a write request brings along.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub user: String,
    /// 32 hex characters.
    pub trace: String,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({})", self.gvk)
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self { prepare: |_, _, _| (), check: |_, _| vec![] }
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
