//! Agents: their streams, who may open one, and which of several acts.
//!
//! Owns: the gRPC service for authenticated agents. Must never: decide what a cluster is to run (that is control's), or
//! let one identity see or touch what is another's.

pub mod claims;
mod pace;
pub mod resume;
pub mod roster;
pub mod session;
