//! Schedule: demand, fleet and previous placement → shares per cluster, or a reason for every "no".
//!
//! Owns: who may get what ([`standing`]), how much fits ([`room`], [`fleet`]) and how it is shared out (`whole`,
//! `divided`). Must never: take anything away because of silence, exceed a cluster's room, or depend on the order of its
//! input.
//!
//! The previous answer is where it starts: what runs stays, and only the difference is decided. So solving twice
//! changes nothing, a recovered or a new cluster moves nothing that is already divided, and a cluster that leaves moves
//! its own part only.
//!
//! An edit of what a divided replica asks for is fitted as a whole: what no longer fits where it is moves, and where it
//! fits nowhere the whole edit waits and the revision that runs goes on. A cluster that gets the replicas in full
//! (Duplicated, or the single one) is checked for room when it is chosen; from then on it runs what was asked for, and
//! what finds no node there is said in the member's words.
//!
//! A decision copies nothing of clusters that it does not touch: it reads columns that the [`Fleet`] keeps (decision 13),
//! and its reasons stay numbers until somebody reads them ([`Decision::tell`]).

use std::collections::{BTreeMap, BTreeSet};

pub use self::{
    bind::{Bound, bind},
    change::Change,
    fleet::{Candidate, Fleet},
    hints::{Hint, hints},
    neighbours::{Named, Neighbour, Neighbours},
    preempt::{Cession, Cessions, Tenancy},
    profile::{Profile, Profiles},
    question::{Ask, questions},
    rebalance::Rebalance,
    record::Record,
    room::Room,
};
use self::{
    explain::{No, is_by_choice},
    integer::Broken,
    solver::Placing,
};
use crate::model::{
    Placement, Policy, Timestamp, Uid,
    placement::{Move, Refusal, Share, Why},
    revision::RenderedComponent,
};

pub mod account;
mod bind;
mod bounds;
mod cells;
mod change;
mod columns;
mod copies;
mod crossed;
mod divide;
mod divided;
pub mod drill;
mod explain;
pub mod expression;
mod filter;
pub mod fleet;
mod floating;
pub mod handover;
pub mod hints;
mod integer;
pub mod neighbours;
mod network;
mod policies;
pub mod preempt;
mod profile;
mod question;
pub mod rebalance;
pub mod record;
pub mod room;
mod score;
mod shortlist;
mod solver;
mod spread;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod wake;
mod whole;

/// Everything a decision is made from, beside the fleet.
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a> {
    /// Tolerations that end are measured by it.
    pub now: Timestamp,
    /// `spec.policies` of an admitted Application; policies of other types are ignored here.
    pub policies: &'a [Policy],
    pub components: &'a [RenderedComponent],
    pub previous: Option<&'a Placement>,
    /// What the rows of `previous` run, where that is another revision than this one.
    pub running: Option<Running<'a>>,
    /// Clusters that keep what they have although the policies no longer choose them, because the removals wait for a
    /// person's yes (rule 14).
    pub held: &'a BTreeSet<Uid>,
    /// Other Applications, where they may matter.
    pub neighbours: &'a Neighbours,
    /// What the platform has to say.
    pub profiles: &'a Profiles,
    pub rebalance: Rebalance,
    /// What it gives up for others.
    pub cessions: &'a Cessions,
}

/// The revision that runs while another is decided.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    pub policies: &'a [Policy],
    pub components: &'a [RenderedComponent],
}

/// The answer, with its reasons untold.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    shares: BTreeMap<fleet::Id, BTreeMap<String, Share>>,
    nos: Vec<No>,
    /// Component and name of clusters that are asked for and have not joined.
    strangers: Vec<(String, String)>,
    /// What is said instead of what `nos` would say.
    told: Vec<(fleet::Id, String, Why)>,
    unplaced: BTreeMap<String, String>,
    waiting: bool,
    outgrown: BTreeSet<String>,
    until: Option<Timestamp>,
    broken: Option<Broken>,
    rebalanced: u64,
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
    /// When a toleration ends on which some share stands: worth asking again then.
    pub until: Option<Timestamp>,
    /// A defect of the solver, for the log; what it concerns stays as it is.
    pub broken: Option<Broken>,
    /// What changes its place and has yet to come; [`handover`] says which.
    pub moves: Vec<Move>,
    /// Replicas that move because that is better, and for no other reason.
    pub rebalanced: u64,
}

/// Decides, and tells every reason.
pub fn solve(fleet: &mut Fleet, problem: &Problem<'_>) -> Solution {
    solve_telling(fleet, problem, usize::MAX)
}

/// Decides, and tells of no more than so many "no"s: what clusters lack before what the user chose.
pub fn solve_telling(fleet: &mut Fleet, problem: &Problem<'_>, refusals_max: usize) -> Solution {
    let edit = decide(fleet, problem);
    match problem.running {
        Some(Running { policies, components }) if !edit.outgrown.is_empty() => {
            let edit = edit.tell(fleet, usize::MAX);
            let running = Problem { policies, components, ..*problem };
            let kept = decide(fleet, &running).tell(fleet, usize::MAX);
            let mut solution = hold_back(problem, fleet, edit, kept);
            cut(&mut solution.refusals, refusals_max);
            solution
        }
        _ => edit.tell(fleet, refusals_max),
    }
}

/// Decides alone. An edit that is outgrown is answered with what it would be: [`solve`] answers with what runs.
pub fn decide(fleet: &mut Fleet, problem: &Problem<'_>) -> Decision {
    let decision = solver::Solver::new(problem, fleet).run();
    let whole = || policies::Policies::read(problem.policies).is_ok_and(|policies| policies.all_or_nothing());
    match !decision.unplaced.is_empty() && decision.outgrown.is_empty() && whole() {
        true => solver::keep_all(problem, fleet, decision),
        false => decision,
    }
}

impl Decision {
    /// Puts the reasons into words, no more than so many: what clusters lack before what the user chose. The fleet is the
    /// one that was decided on.
    pub fn tell(self, fleet: &Fleet, refusals_max: usize) -> Solution {
        let Self { shares, nos, strangers, told, unplaced, waiting, outgrown, until, broken, rebalanced } = self;
        let refusal = |id: fleet::Id, component: String, why: Why| Refusal {
            cluster: fleet.uid(id).clone(),
            cluster_name: fleet.at(id).name.clone(),
            component,
            why,
        };
        let stranger = |(component, name): (String, String)| Refusal {
            cluster: Uid::default(),
            cluster_name: name,
            component,
            why: Why::NoSuchCluster,
        };
        let mut refusals: Vec<Refusal> = strangers.into_iter().map(stranger).collect();
        let instead: BTreeSet<(fleet::Id, String)> = told.iter().map(|(id, name, _)| (*id, name.clone())).collect();
        refusals.extend(told.into_iter().map(|(id, component, why)| refusal(id, component, why)));
        for by_choice in [false, true] {
            for no in &nos {
                let has = |id: &fleet::Id| shares.get(id).is_some_and(|shares| shares.contains_key(&no.component));
                for id in (0..fleet.settled_len()).filter(|&id| no.is_by_choice(id) == by_choice) {
                    if refusals.len() >= refusals_max {
                        break;
                    }
                    if !has(&id) && (instead.is_empty() || !instead.contains(&(id, no.component.clone()))) {
                        refusals.push(refusal(id, no.component.clone(), no.why(id, fleet)));
                    }
                }
            }
        }
        cut(&mut refusals, refusals_max);
        let shares = shares.into_iter().map(|(id, shares)| (fleet.uid(id).clone(), shares)).collect();
        Solution { shares, refusals, unplaced, waiting, outgrown, until, broken, moves: Vec::new(), rebalanced }
    }
}

/// The shares of what runs, with the reasons why the edit does not.
fn hold_back(problem: &Problem<'_>, fleet: &Fleet, edit: Solution, kept: Solution) -> Solution {
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
            let cluster_name = fleet.get(cluster).map(|known| known.name.clone()).unwrap_or_default();
            let why = Why::Together { component: cause.clone() };
            refusals.push(Refusal { cluster: cluster.clone(), cluster_name, component: component.clone(), why });
        }
    }
    sort(&mut refusals);
    let mut solution = Solution { refusals, waiting: true, outgrown: edit.outgrown, ..kept };
    solution.unplaced.extend(edit.unplaced);
    solution
}

/// Those that say most first, up to a bound; then in their order.
fn cut(refusals: &mut Vec<Refusal>, max: usize) {
    sort(refusals);
    if refusals.len() > max {
        let by_choice = |refusal: &Refusal| is_by_choice(&refusal.why);
        refusals.sort_by_key(by_choice);
        refusals.truncate(max);
        sort(refusals);
    }
}

/// In order of component, cluster name and uid.
fn sort(refusals: &mut [Refusal]) {
    refusals.sort_by(|one, other| {
        (&one.component, &one.cluster_name, &one.cluster).cmp(&(&other.component, &other.cluster_name, &other.cluster))
    });
}

/// How the policies mean a component's replicas: `Divided`, `Duplicated`, or `Single` where one cluster gets them all.
pub fn mode_of(policies: &[Policy], component: &str) -> &'static str {
    policies::Policies::read(policies).unwrap_or_default().spread(component).1.name()
}

/// Names of the profiles by which components are placed under these policies.
pub fn profiles_of<'n>(policies: &[Policy], components: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
    let policies = policies::Policies::read(policies).unwrap_or_default();
    policies.profiles(components).into_iter().map(str::to_owned).collect()
}
