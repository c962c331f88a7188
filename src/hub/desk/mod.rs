//! The desk: where the replica that leads hears of all agents, whichever replica each is connected to.
//!
//! Owns: the way of what is not worth a log entry (signs of life, sketches, facts, reports until they are stored, claims to
//! act for a cluster) from each replica to the leader, and back of what the leader rules. Must never: decide anything
//! about a cluster or an Application, lose a report of a living agent, or speak for a stream that may be dead.
//!
//! [`outpost::Outpost`] is the replica's side and [`leader::Desk`] the leader's; both are synchronous steps. The leader's
//! own agents go the same way, without a network. What people ask the leader ([`questions`]) goes beside it, one by one. [`reception`] and [`post`] are the shells, [`service`] is the way
//! between processes.

pub mod leader;
pub mod outpost;
pub mod post;
pub mod questions;
pub mod reception;
pub mod service;
#[cfg(test)]
mod tests;

pub use self::{
    post::{Doors, Post},
    questions::{Questions, Unanswered},
    reception::Reception,
};
