//! hanse: a multi-cluster federation control plane.
//!
//! A **hub** stores OAM Applications, picks target clusters by free capacity, and an **agent** in each member cluster pulls its
//! slice and reconciles it locally. One binary; `docs/architecture.md` has the picture.
//!
//! # The life of one Application
//!
//! 1. `kubectl apply` reaches the hub's API ([`hub::api`]); [`flow::admit`] checks it, every field error at once, and it
//!    is stored as the bytes it came in ([`store`]). Its `spec` is the user's and is never written again.
//! 2. The control loop ([`hub::control`]) sees the change. [`flow::render`] makes manifests and demand of it, once; they
//!    are kept as content-addressed blobs, listed by an immutable [`model::revision::Revision`].
//! 3. [`flow::schedule`] divides it over the fleet, by what agents said is free less what is promised already, and gives
//!    a typed reason for every cluster, yes or no. The answer is a [`model::Placement`].
//! 4. [`flow::slice`] makes of revision and placement one [`model::Work`] for each cluster: blobs, patches, removals, a
//!    generation. [`hub::slices`] holds them as an index; nothing of it is stored.
//! 5. The cluster's session ([`hub::agents`]) sends the newest generation over the agent's stream ([`wire`]).
//! 6. The agent ([`agent::core`]) fetches the blobs it lacks, verifies every digest, and writes work and blobs to its
//!    ledger ([`agent::ledger`]). From here on it needs no hub.
//! 7. [`flow::diff`] compares manifest, memory and live object; the agent applies as the executor of the namespace
//!    ([`agent::cluster`]), and removes last, and only what a removal names.
//! 8. [`flow::observe`] reads health from live objects and pods, in the member's words; a [`model::Report`] goes back
//!    when it changes.
//! 9. [`flow::rollup`] makes the Application's status of the reports.
//!
//! # Who may use whom
//!
//! `model` ← `kinds` ← `flow` ← {`hub`, `agent`}; `store` and `wire` know `model` only; `sim` is a second implementation of
//! every port, used by `cli::quickstart`, `cli::bench` and its own tests. `model`, `kinds` and `flow` are pure. The tests
//! in `tidy.rs` hold this true.
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
