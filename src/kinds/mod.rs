//! One [`Kind`] value drives everything about a kind.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
