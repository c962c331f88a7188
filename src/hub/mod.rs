//! The hub: REST for people, gRPC for agents, and the loops that decide.

pub mod control;
pub mod events;
pub mod feed;
pub mod slices;
