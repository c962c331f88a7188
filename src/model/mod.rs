//! The nouns. Plain values with serde, shared by every other module.
//!
//! Owns: names, shapes, units and the small algebra that belongs to a single noun (adding resources, matching a
//! selector, merging conditions). Must never: read a clock, do IO, log, or decide anything about the fleet.
//!
//! Objects that users see are stored as JSON ([`object`]); the typed views here are *read* from that JSON and never
//! written back whole, so that fields of a newer replica survive an older one.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod application;
pub mod binding;
pub mod cluster;
pub mod condition;
pub mod demand;
pub mod digest;
pub mod node;
pub mod note;
pub mod object;
pub mod placement;
pub mod plugin;
pub mod pointer;
pub mod priority;
pub mod profile;
pub mod protocol;
pub mod quantity;
pub mod report;
pub mod revision;
pub mod selector;
pub mod sketch;
pub mod time;
pub mod token;
pub mod work;

pub use application::{Application, Component, Policy, Trait};
pub use cluster::Cluster;
pub use condition::{Condition, Conditions};
pub use demand::Demand;
pub use digest::Digest;
pub use node::{NodeFacts, PodFacts};
pub use note::{About, Note};
pub use object::{FieldError, GroupVersionKind, ObjectName, ObjectRef, Uid};
pub use placement::Placement;
pub use quantity::Resources;
pub use report::Report;
pub use sketch::Sketch;
pub use time::{Now, Timestamp};
pub use work::Work;
