//! Bind: what another scheduler decided, in the place of our own decision.
//!
//! Owns: which of it can be carried out. It is taken as a whole or not at all, and goes the same way as a decision of
//! ours: reserved, sliced, with a reason for every share. Must never: choose anything itself, put more into a cluster
//! than fits there unless the binding says so, or take away what runs because nothing is bound.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Problem, Solution,
    explain::misfit,
    filter::{Chosen, Draining, Filter, Membership, View},
    fleet::{Fleet, Id},
    policies::Policies,
    sort,
    standing::Standing,
};
use crate::model::{
    Uid,
    binding::Binding,
    placement::{Refusal, Share, Why},
    revision::RenderedComponent,
};

/// Refusals spelled out in one sentence.
const NAMED_MAX: usize = 3;

/// Who decides, and what was decided.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    pub scheduler: &'a str,
    /// Of the Application.
    pub generation: i64,
    pub binding: Option<&'a Binding>,
}

type Shares = BTreeMap<Uid, BTreeMap<String, Share>>;

pub fn bind(fleet: &mut Fleet, problem: &Problem<'_>, bound: &Bound<'_>) -> Solution {
    fleet.settle();
    let Bound { scheduler, generation, .. } = bound;
    let Some(binding) = bound.binding.filter(|binding| binding.generation == *generation) else {
        let what = format!("waits for the scheduler {scheduler:?} to bind generation {generation}");
        return keep(fleet, problem, &what, Vec::new());
    };
    let policies = match Policies::read(problem.policies) {
        Ok(policies) => policies,
        Err(fault) => return keep(fleet, problem, &fault, Vec::new()),
    };
    let (mut refusals, mut left) = (Vec::new(), BTreeSet::new());
    let mut shares = Shares::new();
    for (uid, bound_here) in &binding.shares {
        let Some(id) = fleet.id(uid).filter(|&id| !fleet.at(id).deleting) else {
            left.extend(bound_here.keys().cloned());
            continue;
        };
        let place = Place { fleet, problem, id, bound: bound_here };
        refusals.extend(place.refusals(&policies.chosen(), binding.overcommit));
        let known = problem.components.iter().filter_map(|component| {
            let replicas = *bound_here.get(&component.name)?;
            Some((component.name.clone(), place.share(component, replicas, (&binding.author, scheduler))))
        });
        shares.insert(uid.clone(), known.collect());
    }
    if !refusals.is_empty() {
        let told: Vec<String> =
            refusals.iter().take(NAMED_MAX).map(|no| format!("{}: {}", no.cluster_name, no.why)).collect();
        let more = refusals.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let author = &binding.author;
        let what = format!("the binding by {author} cannot be carried out: {}{more}", told.join("; "));
        return keep(fleet, problem, &what, refusals);
    }
    hold(&mut shares, fleet, problem);
    let gone = |name: String| (name, format!("a cluster that it was bound to is gone; waits for {scheduler:?}"));
    Solution { shares, unplaced: left.into_iter().map(gone).collect(), ..Solution::default() }
}

/// What waits for a person's yes stays.
fn hold(shares: &mut Shares, fleet: &Fleet, problem: &Problem<'_>) {
    let rows = problem.previous.iter().flat_map(|placement| &placement.rows);
    for row in rows.filter(|row| problem.held.contains(&row.cluster) && fleet.id(&row.cluster).is_some()) {
        let known = |name: &&String| problem.components.iter().any(|component| component.name == **name);
        for (name, share) in row.components.iter().filter(|(name, _)| known(name)) {
            let here = shares.entry(row.cluster.clone()).or_default();
            here.entry(name.clone()).or_insert_with(|| share.clone());
        }
    }
}

/// All that runs goes on as it runs, in the revision that it runs, where its cluster is still there.
fn keep(fleet: &Fleet, problem: &Problem<'_>, what: &str, mut refusals: Vec<Refusal>) -> Solution {
    let is_there = |uid: &Uid| fleet.id(uid).is_some_and(|id| !fleet.at(id).deleting);
    let rows = problem.previous.iter().flat_map(|placement| &placement.rows);
    let runs = rows.filter(|row| !row.components.is_empty() && is_there(&row.cluster));
    let shares = runs.map(|row| (row.cluster.clone(), row.components.clone())).collect();
    let names = || problem.components.iter().map(|component| component.name.clone());
    let outgrown = if problem.running.is_some() { names().collect() } else { BTreeSet::new() };
    sort(&mut refusals);
    let unplaced = names().map(|name| (name, what.to_owned())).collect();
    Solution { shares, refusals, unplaced, waiting: true, outgrown, ..Solution::default() }
}

/// One cluster's part.
struct Place<'a> {
    fleet: &'a Fleet,
    problem: &'a Problem<'a>,
    id: Id,
    bound: &'a BTreeMap<String, Option<u32>>,
}

impl Place<'_> {
    fn had(&self, name: &str) -> Option<&Share> {
        let row = self.problem.previous?.rows.iter().find(|row| row.cluster == *self.fleet.uid(self.id))?;
        row.components.get(name)
    }

    /// What it asked for before, where that was something else.
    fn before(&self, component: &RenderedComponent) -> Option<&crate::model::Demand> {
        let running = self.problem.running?.components;
        let before = running.iter().find(|known| known.name == component.name)?.demand.as_ref()?;
        (Some(before) != component.demand.as_ref()).then_some(before)
    }

    fn share(&self, component: &RenderedComponent, replicas: Option<u32>, (author, scheduler): (&str, &str)) -> Share {
        let reason = match (self.had(&component.name), replicas) {
            // An unchanged share keeps the reason it was decided for.
            (Some(share), _) if share.replicas == replicas => return share.clone(),
            (Some(Share { replicas: Some(had), .. }), Some(now)) if now < *had => {
                format!("{now}, down from {had}: bound by {author} for {scheduler}")
            }
            (Some(Share { replicas: Some(had), .. }), Some(now)) => {
                format!("{now}, up from {had}: bound by {author} for {scheduler}")
            }
            _ => format!("bound by {author} for {scheduler}"),
        };
        Share { replicas, reason }
    }

    /// Why not all of it can be there. What runs already needs no leave to stay.
    fn refusals(&self, chosen: &Chosen<'_>, overcommit: bool) -> Vec<Refusal> {
        let (uid, cluster) = (self.fleet.uid(self.id), self.fleet.at(self.id));
        let view = View { uid, cluster, now: self.problem.now };
        let filters: [&dyn Filter; 3] = [&Membership, &Draining, chosen];
        let closed = filters.iter().find_map(|filter| match filter.judge(&view).standing {
            Standing::Open => None,
            Standing::Keeps(why) | Standing::Leaves(why) | Standing::Gone(why) => Some(why),
        });
        let mut room = cluster.room.clone();
        let bound = || self.problem.components.iter().filter(|component| self.bound.contains_key(&component.name));
        let count = |share: &Share| share.replicas.unwrap_or(1);
        for component in bound() {
            if let (Some(room), Some(before), Some(had)) =
                (&mut room, self.before(component), self.had(&component.name))
            {
                room.give_back(before, count(had));
            }
        }
        let mut refusals = Vec::new();
        for component in bound() {
            let now = self.bound[&component.name].unwrap_or(1);
            let had = self.had(&component.name).map(count);
            // Of another demand each of them is new; room for those that ran was given back.
            let (new, stays) = match (had, self.before(component)) {
                (Some(had), None) => (now.saturating_sub(had), had),
                (_, Some(_)) | (None, None) => (now, 0),
            };
            if had.is_some() && new == 0 {
                continue;
            }
            let why = match (&closed, &component.demand, &mut room) {
                (Some(why), _, _) if had.is_none_or(|had| now > had) => Some(why.clone()),
                (_, None, _) => None,
                (_, Some(_), _) if overcommit => None,
                (_, Some(_), None) => Some(Why::NoSketch),
                (_, Some(_), Some(room)) if had.is_none() && !component.beside.is_empty() => {
                    let pods =
                        component.pods(Some(new)).map(|(demand, count)| (component.name.as_str(), demand, count));
                    match misfit(pods, room) {
                        Ok(left) => {
                            *room = left;
                            None
                        }
                        Err((_, why)) => Some(why),
                    }
                }
                (_, Some(demand), Some(room)) => {
                    let fits = room.for_more(demand, stays);
                    let why = Why::NoRoom { room: fits, wanted: new, scarce: room.scarce(demand) };
                    room.take(demand, new.min(fits));
                    (fits < new).then_some(why)
                }
            };
            refusals.extend(why.map(|why| Refusal {
                cluster: uid.clone(),
                cluster_name: cluster.name.clone(),
                component: component.name.clone(),
                why,
            }));
        }
        refusals
    }
}
