//! The arrows: every step of an Application's life as one pure function from values to values.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod admit;
pub mod diff;
pub mod measure;
pub mod observe;
pub mod render;
pub mod rollup;
pub mod schedule;
pub mod slice;
