//! The hub: REST for people, gRPC for agents, and the loops that decide.

pub mod agents;
pub mod api;
pub mod auth;
pub mod control;
pub mod events;
pub mod feed;
pub mod join;
pub mod keys;
pub mod limits;
pub mod listen;
pub mod pki;
pub mod records;
pub mod slices;
