//! Second implementation of every port, and the scenario runner.
//!
//! Owns: [`member`], a simulated Kubernetes cluster, which `hanse quickstart` and `hanse bench` run on too; [`world`], a
//! whole federation under one seed; [`check`], the rules that never break, held against it. Must never: be needed by a
//! hub or an agent that serves real clusters.

#[cfg(test)]
mod chance;
#[cfg(test)]
mod check;
pub mod member;
#[cfg(test)]
mod mutant;
#[cfg(test)]
mod script;
#[cfg(test)]
mod story;
#[cfg(test)]
mod world;
