//! Events (core/v1): the story of each Application and cluster, short and bounded.

use crate::model::{GroupVersionKind, ObjectName, Uid};

/// One thing that happened, before it is an Event object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub about: About,
    pub warning: bool,
    /// A stable CamelCase word: `Placed`, `Unplaced`, `ClusterSilent`.
    pub reason: &'static str,
    pub message: String,
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    pub gvk: GroupVersionKind,
    pub name: ObjectName,
    pub uid: Uid,
}
