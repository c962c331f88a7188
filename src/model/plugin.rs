//! What a placement plug-in is asked, and what it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    object::{ObjectName, Uid},
    quantity::Resources,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub application: ObjectName,
    /// Components that go by the same profile.
    pub parts: Vec<Part>,
    /// In order of names.
    pub clusters: Vec<ClusterFacts>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub component: String,
    pub replicas: Option<u32>,
    /// Of one replica.
    pub requests: Resources,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    pub uid: Uid,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub properties: BTreeMap<String, String>,
    pub free: Resources,
    pub allocatable: Resources,
    /// A part of the Application is there.
    pub runs: bool,
}

/// Of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Judgement {
    Refused(String),
    /// Within [`super::profile::SCORE_MAX`].
    Score(i64),
}

pub type Judgements = BTreeMap<Uid, Judgement>;

/// What came of a question: an input of the decision like any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    Judged(Judgements),
    /// No answer, or none that one could go by: why, for people.
    Failed(String),
}
