//! What a scheduler that is not the hub's own decided for one Application.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::object::Uid;

/// The scheduler of the hub itself, as `spec.schedulerName` may name it.
pub const OWN_SCHEDULER: &str = "hanse";

/// Stored by Application; a later one takes the place of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Of the Application as it was decided on. Of any other it says nothing.
    pub generation: i64,
    /// Cluster → component → replicas; absent where the component has none to count.
    pub shares: BTreeMap<Uid, BTreeMap<String, Option<u32>>>,
    /// It counts also where more is asked of a cluster than it has room for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overcommit: bool,
    /// Who bound it: the author of the removals that follow.
    pub author: String,
}
