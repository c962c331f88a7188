//! What a platform has to say in every placement: `hub.hanse.dev/v1alpha1 PlacementProfile`.

use serde::{Deserialize, Serialize};

/// The profile of those that ask for none; it need not exist.
pub const DEFAULT: &str = "default";

/// A score lies between minus this and this.
pub const SCORE_MAX: i64 = 100;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProfileSpec {
    /// Who may get something new.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterRule>,
    /// Who gets it first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<ScoreRule>,
    /// A process beside the hub that is asked, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginRule {
    /// The name of its unix socket in the hub's own directory, `plugins/NAME.sock`.
    pub socket: String,
    /// Within which it has to answer.
    pub timeout_milliseconds: u32,
    /// What a decision does without an answer.
    pub failure_policy: FailurePolicy,
    /// Of its score.
    pub weight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailurePolicy {
    /// Decides as if there were no plug-in.
    Ignore,
    /// Leaves all where it is.
    Keep,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum FilterRule {
    /// CEL that holds for those that may.
    Expression { expression: String, message: String },
    /// So many hundredths of CPU and of memory stay free.
    Headroom { percent: u32 },
    /// The clusters' taints, which count unless they are switched off.
    Taints { enabled: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum ScoreRule {
    /// CPU and memory are used to the same degree.
    Balanced { weight: u32 },
    /// CEL that gives a number.
    Expression { expression: String, weight: u32 },
    /// Much is free, of what there is.
    LeastAllocated { weight: u32 },
    /// Little is free.
    MostAllocated { weight: u32 },
    /// A number among the cluster's properties: `worst` gives 0, `best` 100, between them in proportion.
    Property { property: String, worst: i64, best: i64, weight: u32 },
}
