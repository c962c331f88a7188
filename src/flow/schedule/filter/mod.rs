//! Filters: who may get a part. One small trait, and a file for each that comes with the hub.
//!
//! Owns: the order in which they speak. Of what they say the most severe counts, and of equals the first: that a cluster
//! is no candidate comes before that it merely gets nothing new. What decides over membership and silence always speaks
//! first and cannot be left out; nor can what says that a cluster is being drained. Must never: see more than one cluster at a time, or remember what it saw.

use std::fmt;

use super::{fleet::Candidate, standing::Standing};
use crate::model::{Timestamp, Uid};

mod asked;
mod chosen;
mod draining;
mod expression;
mod headroom;
mod membership;
mod rule;
mod sketch;
mod taints;

pub use self::{
    asked::Asked,
    chosen::{Chosen, Needed},
    draining::Draining,
    expression::Holds,
    headroom::Headroom,
    membership::Membership,
    rule::Rule,
    sketch::Sketched,
    taints::Taints,
};

/// What a filter or a score sees.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub uid: &'a Uid,
    pub cluster: &'a Candidate,
    pub now: Timestamp,
}

/// One reason for a "no".
pub trait Filter: fmt::Debug + Send + Sync {
    /// The stable words with which it refuses ([`crate::model::placement::Why::reason`]).
    fn words(&self) -> &'static [&'static str];

    /// Says [`Standing::Open`] where it has nothing against the cluster.
    fn judge(&self, view: &View<'_>) -> Verdict;

    /// Whether what it says changes with the room of a cluster.
    fn reads_room(&self) -> bool {
        false
    }

    /// Whether what it says changes with time alone.
    fn reads_time(&self) -> bool {
        false
    }
}

/// What one filter says of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub standing: Standing,
    /// When it has to be asked again.
    pub until: Option<Timestamp>,
}

impl From<Standing> for Verdict {
    fn from(standing: Standing) -> Self {
        Self { standing, until: None }
    }
}

impl Verdict {
    pub const OPEN: Self = Self { standing: Standing::Open, until: None };
}
