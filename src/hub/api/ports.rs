//! What other parts of the hub hand to the API.

use serde_json::Value;

use crate::{
    model::{FieldError, Uid},
    store::Revision,
};

/// Objects that are derived rather than stored (kinds with `Backing::View`). Sync and quick: it is asked on every
/// request, and by watches whenever `revision` has moved.
pub trait View: Send + Sync {
    /// The store revision that the view has seen (rule 15). Every object in it is as of this revision.
    fn revision(&self) -> Revision;

    /// All of it as of the revision, in order of namespace and name; all namespaces where absent. Each object is whole (`apiVersion`, `kind`,
    /// `metadata` with name, namespace and uid) but for the resourceVersion, which stands beside.
    fn list(&self, namespace: Option<&str>) -> (Revision, Vec<Derived>);

    fn get(&self, namespace: &str, name: &str) -> Option<Derived>;
}

#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    /// The store revision that last changed it.
    pub modified: Revision,
    pub object: Value,
}

/// Facts that live in memory and are shown on get and in tables, never on watch: `Cluster.status.lastBeat`, a Replica's
/// status.
pub trait Overlay: Send + Sync {
    /// Changes an object that is about to be answered.
    fn apply(&self, cluster: &Uid, object: &mut Value);
}

/// The replicas of the hub, as this one sees them. Sync, and of what is in memory: it has to answer when nothing else does.
pub trait Group: Send + Sync {
    fn show(&self) -> Value;
}

/// The part of admission that is not in the kind: `flow::admit`. Every error at once.
pub type Admit = fn(&Value, Option<&Value>) -> Vec<FieldError>;
