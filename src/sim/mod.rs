//! Second implementation of every port, and the scenario runner.
//!
//! Owns: [`member`], a simulated Kubernetes cluster, which `hanse quickstart` and `hanse bench` run on too; [`replicas`],
//! a group of replicas of the store under one seed; [`world`], a whole federation under another; [`check`], the rules that never
//! break, held against it. Must never: be needed by a
//! hub or an agent that serves real clusters.

mod chance;
#[cfg(test)]
mod check;
#[cfg(test)]
mod handing;
pub mod member;
#[cfg(test)]
mod mutant;
pub mod replicas;
#[cfg(test)]
mod script;
#[cfg(test)]
mod story;
#[cfg(test)]
mod world;
