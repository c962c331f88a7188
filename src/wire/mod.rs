//! The wire: protobuf types generated from `proto/`, and the only conversions between them and the model.
//!
//! Owns: what a message may look like to be taken for a value of the model, and how large it may be. Must never: decide
//! anything, or let through a message that the model cannot hold. A message that breaks a limit or a shape is refused
//! whole, with the field's name: half of a message is never acted on.

use crate::model::Digest;

mod desk;
mod join;
pub mod limits;
mod parts;
pub mod plugin;
mod sketch;
#[cfg(test)]
mod tests;
mod to_agent;
mod to_hub;

pub use desk::{Asked, Fact, FromDesk, Question, Ruling, ToDesk};
pub use join::{Identity, JoinAnswer, JoinCall, RenewCall};

/// Generated code.
#[expect(clippy::large_enum_variant, reason = "its oneofs are as the messages are")]
pub mod proto {
    tonic::include_proto!("hanse.v1");
}

/// Generated code: what the hub asks placement plug-ins.
pub mod placement_proto {
    tonic::include_proto!("hanse.placement.v1");
}

/// Why a message is not a value of the model. Whoever sent it is broken or hostile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} holds {found}, the limit is {limit}")]
    TooMany { field: &'static str, found: usize, limit: usize },
    #[error("{field} is not {expected}")]
    Malformed { field: &'static str, expected: &'static str },
    #[error("{field} {value} lies outside {min}..={max}")]
    OutOfRange { field: &'static str, value: i128, min: i128, max: i128 },
    /// A field got lost on the way, or one of the two sides does not know it.
    #[error("the work's digest is {found}, it says {said}")]
    DigestMismatch { said: Digest, found: Digest },
}
