//! The decision: component → cluster → replicas, with the reasons.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Demand, Timestamp,
    object::{ObjectName, Uid},
    work::Removal,
};

/// Where one Application runs. Stored as a head and chunks of at most [`ROWS_PER_CHUNK`] rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    pub application: ObjectName,
    pub application_uid: Uid,
    /// Counts the decisions for this Application.
    pub decision: u64,
    /// In order of cluster name, then uid.
    pub rows: Vec<Row>,
    /// Clusters that got nothing, each with its reason; in order of cluster name.
    pub refusals: Vec<Refusal>,
    /// Components that could not be placed, with what was missing. Their previous rows are kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unplaced: BTreeMap<String, String>,
    /// What changes its place. Rows hold both ends of a move until it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// The request to rebalance ([`crate::kinds::application::REBALANCE_ANNOTATION`]) that was carried out last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rebalanced: String,
    /// Room that is kept, or made, for what could not be placed yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// Component → for whom it makes or made room, as long as it lacks what it lost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preempted: BTreeMap<String, String>,
}

impl Placement {
    /// Whether anything moves from or to this cluster.
    pub fn has_move_at(&self, cluster: &Uid) -> bool {
        self.moves.iter().any(|known| known.to == *cluster || known.from == *cluster)
    }
}

/// Room in one cluster that nobody else gets until the Application that claims it is placed, or asks for it no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    pub cluster: Uid,
    pub cluster_name: String,
    /// What is to come: pods of these demands, so many of each.
    pub pods: Vec<(Demand, u32)>,
    /// Parts of Applications of lower priority that leave for it; none where there is room already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<Victim>,
    /// The ApplicationRevision that asks for it.
    pub revision: String,
    pub made: Timestamp,
}

/// A component of another Application that makes room in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Victim {
    pub application: ObjectName,
    pub application_uid: Uid,
    pub component: String,
    /// Replicas that it had there, and that it may keep; absent where it has none to count, and keeps nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<(u32, u32)>,
}

impl Victim {
    /// Replicas that may stay.
    pub fn keeps(&self) -> u32 {
        self.replicas.map_or(0, |(_, keeps)| keeps)
    }

    /// Replicas that leave; what has none to count is one.
    pub fn leaves(&self) -> u32 {
        self.replicas.map_or(1, |(had, keeps)| had.saturating_sub(keeps))
    }
}

/// A part of a component that leaves a cluster, and goes from there when what comes in its stead is healthy (rule 3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    pub component: String,
    pub from: Uid,
    pub to: Uid,
    /// Absent where the component has no replicas to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Of what stays there: why it is less. It is the share's reason once this is done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Because `from` is being drained, or is tainted so: it ends when that does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
}

pub const ROWS_PER_CHUNK: usize = 256;

/// One cluster's part. A row whose components are empty only carries removals, and goes when they are confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub cluster: Uid,
    pub cluster_name: String,
    /// The decision that last changed this row: so it only ever goes up per (application uid, cluster uid), also where
    /// a row went and came back.
    pub generation: u64,
    /// Name of the ApplicationRevision that this cluster is to run.
    pub revision: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, Share>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removals: Vec<Removal>,
    /// Trace id of the request that caused this generation; part of the work, so it changes only with it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace: String,
}

/// What one component gets in one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Absent where the component has no replicas to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// One sentence with the figures it was decided from.
    pub reason: String,
}

/// Why a cluster got nothing: a typed reason with one stable message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub cluster: Uid,
    pub cluster_name: String,
    pub component: String,
    pub why: Why,
}

/// The stable words of "no". `Display` gives the message people read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all_fields = "camelCase")]
pub enum Why {
    #[error("not accepted by the hub")]
    NotAccepted,
    #[error("is being deleted")]
    Deleting,
    #[error("is being drained")]
    Draining,
    #[error("cordoned")]
    Cordoned,
    #[error("its agent is silent")]
    Silent,
    #[error("not among the named clusters")]
    NotNamed,
    #[error("no cluster of this name has joined")]
    NoSuchCluster,
    #[error("its labels do not match {selector}")]
    SelectorMismatch { selector: String },
    #[error("has not reported its capacity yet")]
    NoSketch,
    #[error("room for {room} of {wanted} replicas: {scarce}")]
    NoRoom { room: u32, wanted: u32, scarce: String },
    #[error("{other} took it: {detail}")]
    OutScored { other: String, detail: String },
    #[error("placed together with {component}, which has no part there")]
    Together { component: String },
    #[error("does not satisfy {expression}")]
    ExpressionFalse { expression: String },
    #[error("the policy's expression fails on it: {detail}")]
    ExpressionFailed { detail: String },
    #[error("is in none of the policy's groups")]
    NoGroup,
    #[error("tainted {taint}, which the policy does not tolerate")]
    Tainted { taint: String },
    #[error("no weight of the policy is for it")]
    NoWeight,
    #[error("room for {room}, and a part is of at least {min}")]
    BelowMinimum { room: u32, min: u32 },
    #[error("left out by the spread over {by}: {detail}")]
    Spread { by: String, detail: String },
    #[error("nothing new is placed until {component} is")]
    AllOrNothing { component: String },
    #[error("{message} (a rule of the platform)")]
    RuleFalse { message: String },
    #[error("a rule of the platform fails on it: {detail} ({expression})")]
    RuleFailed { expression: String, detail: String },
    #[error("its {topology} has nothing of {with}: {detail}")]
    Affinity { topology: String, with: String, detail: String },
    #[error("its {topology} has {other}, and the two are to be apart")]
    AntiAffinity { topology: String, other: String },
    #[error("{free} % of its {resource} are free, and the platform keeps {percent} % free")]
    NoHeadroom { resource: String, free: i64, percent: u32 },
    #[error("{message} (a plug-in of the platform)")]
    PluginRefused { message: String },
    #[error("makes room for {by}")]
    Preempted { by: String },
}

impl Why {
    /// The stable word alone.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAccepted => "NotAccepted",
            Self::Deleting => "Deleting",
            Self::Draining => "Draining",
            Self::Cordoned => "Cordoned",
            Self::Silent => "Silent",
            Self::NotNamed => "NotNamed",
            Self::NoSuchCluster => "NoSuchCluster",
            Self::SelectorMismatch { .. } => "SelectorMismatch",
            Self::NoSketch => "NoSketch",
            Self::NoRoom { .. } => "NoRoom",
            Self::OutScored { .. } => "OutScored",
            Self::Together { .. } => "Together",
            Self::ExpressionFalse { .. } => "ExpressionFalse",
            Self::ExpressionFailed { .. } => "ExpressionFailed",
            Self::NoGroup => "NoGroup",
            Self::Tainted { .. } => "Tainted",
            Self::NoWeight => "NoWeight",
            Self::BelowMinimum { .. } => "BelowMinimum",
            Self::Spread { .. } => "Spread",
            Self::AllOrNothing { .. } => "AllOrNothing",
            Self::RuleFalse { .. } => "RuleFalse",
            Self::RuleFailed { .. } => "RuleFailed",
            Self::NoHeadroom { .. } => "NoHeadroom",
            Self::PluginRefused { .. } => "PluginRefused",
            Self::Affinity { .. } => "Affinity",
            Self::AntiAffinity { .. } => "AntiAffinity",
            Self::Preempted { .. } => "Preempted",
        }
    }
}

/// One value set in a manifest for one cluster, so that clusters share bytes though their replicas differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Patch {
    /// RFC 6901.
    pub pointer: String,
    pub value: Value,
}
