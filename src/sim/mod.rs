//! Second implementation of every port, and the scenario runner.

pub mod member;
