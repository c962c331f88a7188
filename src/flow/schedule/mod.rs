//! Schedule: demand, fleet and previous placement → shares per cluster, or a reason for every "no".
//!
//! Owns: who may get what (`candidates`), how much fits ([`room`]) and how it is shared out (`whole`, `divided`).
//! Must never: take anything away because of silence, exceed a cluster's room, or depend on the order of its input.
//!
//! The previous answer is where it starts: what runs stays, and only the difference is decided. So solving twice
//! changes nothing, a recovered or a new cluster moves nothing that is already divided, and a cluster that leaves moves
//! its own part only.
//!
//! An edit of what a divided replica asks for is fitted as a whole: what no longer fits where it is moves, and where it
//! fits nowhere the whole edit waits and the revision that runs goes on. A cluster that gets the replicas in full
//! (Duplicated, or the single one) is checked for room when it is chosen; from then on it runs what was asked for, and
//! what finds no node there is said in the member's words.

use std::collections::{BTreeMap, BTreeSet};

pub use room::Room;

use crate::model::{
    Cluster, Placement, Policy, Uid,
    placement::{Refusal, Share, Why},
    revision::RenderedComponent,
};

mod bounds;
mod candidates;
mod divide;
mod divided;
mod floating;
pub mod room;
mod solver;
#[cfg(test)]
mod tests;
mod whole;

/// Everything a decision is made from.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// `spec.policies` of an admitted Application; policies of other types are ignored here.
    pub policies: &'a [Policy],
    pub components: &'a [RenderedComponent],
    pub fleet: &'a BTreeMap<Uid, Candidate>,
    pub previous: Option<&'a Placement>,
    /// What the rows of `previous` run, where that is another revision than this one.
    pub running: Option<Running<'a>>,
    /// Clusters that keep what they have although the policies no longer choose them, because the removals wait for a
    /// person's yes (rule 14).
    pub held: &'a BTreeSet<Uid>,
}

/// The revision that runs while another is decided.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    pub policies: &'a [Policy],
    pub components: &'a [RenderedComponent],
}

/// A cluster as placement sees it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Candidate {
    pub name: String,
    /// The hub's labels; what the agent says of its cluster is never matched (rule 10).
    pub labels: BTreeMap<String, String>,
    pub accepted: bool,
    pub cordoned: bool,
    pub deleting: bool,
    pub silent: bool,
    /// What is free after everything that is decided has been taken off; absent without a fresh sketch.
    pub room: Option<Room>,
}

/// The answer. Every component has shares, or an entry in `unplaced`, or both where only a part found room.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Solution {
    /// Cluster → component → share.
    pub shares: BTreeMap<Uid, BTreeMap<String, Share>>,
    /// In order of component, cluster name and uid.
    pub refusals: Vec<Refusal>,
    /// Component → what was missing, in one sentence.
    pub unplaced: BTreeMap<String, String>,
    /// Some target would get its part if it had room, or were heard of: worth asking again when that changes.
    pub waiting: bool,
    /// Components whose replicas fit nowhere as they are asked for now. While there are any, the shares are those of the
    /// revision that runs: an edit takes effect as a whole or not at all.
    pub outgrown: BTreeSet<String>,
}

pub fn solve(problem: &Problem<'_>) -> Solution {
    let edit = solver::Solver::new(problem).run();
    match problem.running {
        Some(Running { policies, components }) if !edit.outgrown.is_empty() => {
            let kept = solver::Solver::new(&Problem { policies, components, ..*problem }).run();
            hold_back(problem, edit, kept)
        }
        _ => edit,
    }
}

/// The shares of what runs, with the reasons why the edit does not.
fn hold_back(problem: &Problem<'_>, edit: Solution, kept: Solution) -> Solution {
    let keeps =
        |cluster: &Uid, component: &str| kept.shares.get(cluster).is_some_and(|shares| shares.contains_key(component));
    let edited = |name: &str| problem.components.iter().any(|component| component.name == name);
    let told = edit
        .refusals
        .iter()
        .filter(|refusal| edit.outgrown.contains(&refusal.component) || !keeps(&refusal.cluster, &refusal.component));
    let removed = kept.refusals.iter().filter(|refusal| !edited(&refusal.component));
    let mut refusals: Vec<Refusal> = told.chain(removed).cloned().collect();
    let cause = edit.outgrown.first().cloned().unwrap_or_default();
    for (cluster, component) in edit.shares.iter().flat_map(|(uid, shares)| shares.keys().map(move |name| (uid, name)))
    {
        if !keeps(cluster, component) {
            let cluster_name = problem.fleet.get(cluster).map(|known| known.name.clone()).unwrap_or_default();
            let why = Why::Together { component: cause.clone() };
            refusals.push(Refusal { cluster: cluster.clone(), cluster_name, component: component.clone(), why });
        }
    }
    solver::sort(&mut refusals);
    let mut unplaced = kept.unplaced;
    unplaced.extend(edit.unplaced);
    Solution { shares: kept.shares, refusals, unplaced, waiting: true, outgrown: edit.outgrown }
}

/// How the policies mean a component's replicas: `Divided`, `Duplicated`, or `Single` where one cluster gets them all.
pub fn mode_of(policies: &[Policy], component: &RenderedComponent) -> &'static str {
    let policies = candidates::Policies::read(policies).unwrap_or_default();
    policies.groups(std::slice::from_ref(component)).first().map_or("", |group| group.spread.name())
}

/// A fleet as `kubectl get clusters -o yaml` prints it, for asking "what if" away from a hub: a cluster that is not
/// Ready counts as silent, and a stored sketch as fresh.
pub fn fleet_of(clusters: &[Cluster]) -> BTreeMap<Uid, Candidate> {
    clusters.iter().map(|cluster| (cluster.metadata.uid.clone(), Candidate::of(cluster))).collect()
}

impl Candidate {
    fn of(cluster: &Cluster) -> Self {
        Self {
            name: cluster.metadata.name.clone(),
            labels: cluster.metadata.labels.clone(),
            accepted: cluster.spec.accepted,
            cordoned: cluster.spec.unschedulable,
            deleting: cluster.metadata.deletion_timestamp.is_some(),
            silent: !cluster.status.conditions.is_true(crate::model::cluster::READY),
            room: cluster.status.sketch.as_ref().map(Room::of),
        }
    }
}
