//! hanse: a multi-cluster federation control plane.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod flow;
pub mod hub;
pub mod kinds;
pub mod model;
pub mod sim;
pub mod store;
pub mod wire;

#[cfg(test)]
mod tidy;
