//! Scores: who gets it first, of those that may. One small trait, and a file for each that comes with the hub.
//!
//! Must never: move what runs. A score orders those that get something new and those that give; the solver starts from
//! the previous answer whatever the scores say.

use std::fmt;

use super::{filter::View, room::Room};

mod allocated;
mod preferred;
mod property;
mod rule;

pub use self::{
    allocated::{Balanced, LeastAllocated, MostAllocated, free_share},
    preferred::Preferred,
    property::InRange,
    rule::Worth,
};

/// What makes one cluster better than another.
pub trait Score: fmt::Debug + Send + Sync {
    /// The larger, the better; `None` where the cluster does not say, which counts as the worst.
    fn of(&self, view: &View<'_>) -> Option<i64>;

    /// Whether it changes with the room of a cluster.
    fn reads_room(&self) -> bool {
        false
    }
}

fn room<'a>(view: &View<'a>) -> Option<&'a Room> {
    view.cluster.room.as_ref()
}
