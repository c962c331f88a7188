//! Something that happened, before it is an Event object.

use std::borrow::Cow;

use super::{GroupVersionKind, ObjectName, Uid};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub about: About,
    pub warning: bool,
    /// A stable CamelCase word: `Placed`, `Unplaced`, `ClusterSilent`.
    pub reason: Cow<'static, str>,
    pub message: String,
}

/// The object that it happened to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    pub gvk: GroupVersionKind,
    pub name: ObjectName,
    pub uid: Uid,
}
