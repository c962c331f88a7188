//! The agent: acts in one member cluster, on its own slice only.

pub mod cluster;
