//! The one integration-test binary: hanse and its surroundings as they are, with real Kubernetes
//! control planes as members and real kubectl as the user. How to run it: `README.md` beside this file.
//!
//! The first modules are the harness, from the bottom up; scenarios follow.

// The rules against clocks, files and environment keep the pure modules pure; this is all edge. And a test that finds
// its surroundings broken has nothing better to do than to panic where it stands.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod run;
mod wait;

mod assets;
mod keys;
mod network;
mod process;

mod control_plane;
mod kubectl;

mod applications;
mod doors;
mod federation;
mod group;
mod kubectl_api;

mod agent_kube;
mod faults;
mod hostile_agent;
mod quickstart;
mod replicas;
mod replicas_agents;
mod scenarios_application;
mod scenarios_burst;
mod scenarios_draining;
mod scenarios_joining;
mod scenarios_outage;
mod scenarios_placement;
mod scenarios_plugins;
mod scenarios_priority;
mod scenarios_why;
mod smoke;
mod store_crash;
