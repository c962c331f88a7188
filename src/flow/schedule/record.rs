//! Record: all that a decision was made from, as one value that can be kept and decided again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Candidate, Cessions, Fleet, Neighbours, Problem, Profiles, Rebalance, Running, Solution, solve};
use crate::model::{Placement, Policy, Timestamp, Uid, plugin::Answered, revision::RenderedComponent};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub now: Timestamp,
    pub policies: Vec<Policy>,
    pub components: Vec<RenderedComponent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Placement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningRecord>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub held: BTreeSet<Uid>,
    #[serde(default, skip_serializing_if = "Neighbours::is_nobody")]
    pub neighbours: Neighbours,
    /// By name: the `spec` of each profile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, Value>,
    /// By profile: what its plug-in said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<String, Answered>,
    #[serde(default, skip_serializing_if = "Rebalance::is_no")]
    pub rebalance: Rebalance,
    #[serde(default, skip_serializing_if = "Cessions::is_empty")]
    pub cessions: Cessions,
    pub fleet: BTreeMap<Uid, Candidate>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningRecord {
    pub policies: Vec<Policy>,
    pub components: Vec<RenderedComponent>,
}

impl Record {
    pub fn of(fleet: &Fleet, problem: &Problem<'_>) -> Self {
        let running = |running: Running<'_>| RunningRecord {
            policies: running.policies.to_vec(),
            components: running.components.to_vec(),
        };
        Self {
            now: problem.now,
            policies: problem.policies.to_vec(),
            components: problem.components.to_vec(),
            previous: problem.previous.cloned(),
            running: problem.running.map(running),
            held: problem.held.clone(),
            neighbours: problem.neighbours.clone(),
            profiles: problem.profiles.sources(),
            answers: problem.profiles.answers().clone(),
            rebalance: problem.rebalance,
            cessions: problem.cessions.clone(),
            fleet: fleet.iter().map(|(uid, candidate)| (uid.clone(), candidate.clone())).collect(),
        }
    }

    /// The same decision, from nothing but what was recorded.
    pub fn replay(&self) -> Solution {
        solve(&mut Fleet::of(self.fleet.clone()), &self.problem(&self.profiles()))
    }

    pub fn profiles(&self) -> Profiles {
        Profiles::of(&self.profiles).with(self.answers.clone())
    }

    pub fn problem<'a>(&'a self, profiles: &'a Profiles) -> Problem<'a> {
        let running =
            self.running.as_ref().map(|known| Running { policies: &known.policies, components: &known.components });
        Problem {
            now: self.now,
            policies: &self.policies,
            components: &self.components,
            previous: self.previous.as_ref(),
            running,
            held: &self.held,
            neighbours: &self.neighbours,
            profiles,
            rebalance: self.rebalance,
            cessions: &self.cessions,
        }
    }
}
