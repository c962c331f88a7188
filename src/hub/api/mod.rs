//! The Kubernetes API.

pub mod ports;
