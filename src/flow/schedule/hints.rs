//! Hints: what a person could change so that what is not placed would be, and by how much.
//!
//! Must never: say what would not help. Every hint has been decided with ([`Change::solve`]), and its number is the
//! smallest one found that does as much.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::{
    Fleet, Problem, Solution,
    change::{Bound, Change, labels_for, policy_of},
    fleet::Id,
    mode_of,
};
use crate::model::{
    application::PlacementPolicy,
    placement::{Refusal, Why},
    revision::RenderedComponent,
};

/// Hints told for one component.
const HINTS_MAX: usize = 6;
/// Decisions made in search of them, for one component.
const TRIALS_MAX: u32 = 200;
/// Clusters looked at for each kind of change that concerns one cluster, the roomiest first; and those told of.
const CLUSTERS_TRIED: usize = 6;
const CLUSTERS_TOLD: usize = 2;

/// A change, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hint {
    pub component: String,
    #[serde(flatten)]
    pub change: Change,
    /// The component lacks nothing then.
    pub all: bool,
    /// Replicas that run then and would not otherwise. (`replicas` is a field of some changes.)
    pub more: u64,
    pub message: String,
}

/// For every component of `solution` that is not placed: what would help, what helps most first. `solution` is what
/// `problem` has on this fleet, with all its reasons.
pub fn hints(fleet: &mut Fleet, problem: &Problem<'_>, solution: &Solution) -> Vec<Hint> {
    let mut hints: Vec<Hint> = Vec::new();
    for component in problem.components.iter().filter(|component| solution.unplaced.contains_key(&component.name)) {
        let mut search = Search { fleet: &mut *fleet, problem, component, solution, trials: TRIALS_MAX };
        let mut found = search.all();
        // A sum of changes is in nobody's hand: the whole first, then the most.
        found.sort_by_key(|(_, effect)| (!effect.all, Reverse(effect.replicas)));
        found.truncate(HINTS_MAX);
        hints.extend(found.into_iter().map(|(change, effect)| {
            let what = match effect.all {
                true => format!("all of {}", component.name),
                false => format!("{} more of {}", effect.replicas, component.name),
            };
            let message = format!("{change} would place {what}");
            Hint { component: component.name.clone(), change, all: effect.all, more: effect.replicas, message }
        }));
    }
    hints
}

/// What a change does to one component; more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Effect {
    all: bool,
    replicas: u64,
}

struct Search<'a> {
    fleet: &'a mut Fleet,
    problem: &'a Problem<'a>,
    component: &'a RenderedComponent,
    solution: &'a Solution,
    trials: u32,
}

type Found = Vec<(Change, Effect)>;

impl Search<'_> {
    fn all(&mut self) -> Found {
        let policy = policy_of(self.problem.policies, &self.component.name);
        let mut found = Found::new();
        if let Some(policy) = &policy {
            self.limits(policy, &mut found);
            self.spread(policy, &mut found);
            if let Some(from) = policy.max_moves {
                let most = self.wanted().max(from);
                found.extend(self.least(from, most, |to| Change::RaiseMoves { from, to }));
            }
        }
        self.clusters(&mut found);
        self.rooms(&mut found);
        self.fewer(&mut found);
        found
    }

    fn wanted(&self) -> u32 {
        self.component.replicas.as_ref().map_or(1, |replicas| replicas.count)
    }

    /// Replicas that run nowhere; at least one, because something is lacking.
    fn missing(&self) -> u32 {
        let placed = u32::try_from(replicas(self.solution, &self.component.name)).unwrap_or(u32::MAX);
        self.wanted().saturating_sub(placed).max(1)
    }

    /// What a change does, where it helps and harms no other component.
    fn effect(&mut self, change: &Change) -> Option<Effect> {
        self.trials = self.trials.checked_sub(1)?;
        let name = &self.component.name;
        let tried = change.solve(self.fleet, self.problem, name)?;
        helps(self.solution, &tried, name).map(|(all, replicas)| Effect { all, replicas })
    }

    /// The smallest step from `from` towards `to` that does as much as all of it.
    fn least(&mut self, from: u32, to: u32, change: impl Fn(u32) -> Change) -> Option<(Change, Effect)> {
        if from == to {
            return None;
        }
        let most = self.effect(&change(to))?;
        let (mut little, mut enough, mut best) = (from, to, (change(to), most));
        while enough.abs_diff(little) > 1 {
            let middle = little.midpoint(enough);
            match self.effect(&change(middle)) {
                Some(effect) if effect >= most => (enough, best) = (middle, (change(middle), effect)),
                _ => little = middle,
            }
        }
        Some(best)
    }

    fn limits(&mut self, policy: &PlacementPolicy, found: &mut Found) {
        for (rule, limit) in policy.limits.iter().enumerate() {
            if let Some(from) = limit.max {
                let raise = |to| Change::RaiseMaximum { rule, from, to, clusters: Vec::new() };
                let raised = self.least(from, from.saturating_add(self.missing()), raise);
                found.extend(raised.and_then(|(change, effect)| Some((self.naming(policy, change)?, effect))));
            }
            if let Some(from) = limit.min {
                found.extend(self.least(from, 0, |to| Change::LowerMinimum { rule, from, to }));
            }
        }
    }

    /// Says which clusters take more than the old maximum of a rule.
    fn naming(&mut self, policy: &PlacementPolicy, change: Change) -> Option<Change> {
        let tried = change.solve(self.fleet, self.problem, &self.component.name)?;
        let Change::RaiseMaximum { rule, from, to, .. } = change else { return None };
        let beyond = tried.shares.iter().filter(|(_, shares)| {
            let share = shares.get(&self.component.name).and_then(|share| share.replicas);
            share.is_some_and(|replicas| replicas > from)
        });
        let bounded = beyond
            .filter_map(|(uid, _)| self.fleet.get(uid))
            .filter(|candidate| policy.limits.iter().position(|limit| limit.target.chooses(candidate)) == Some(rule));
        let mut clusters: Vec<String> = bounded.map(|candidate| candidate.name.clone()).collect();
        clusters.sort();
        Some(Change::RaiseMaximum { rule, from, to, clusters })
    }

    fn spread(&mut self, policy: &PlacementPolicy, found: &mut Found) {
        let (clusters, missing) = (self.fleet.len() as u32, self.missing());
        for (constraint, asked) in policy.spread_constraints.iter().enumerate() {
            let bounds = [
                (Bound::MaxSkew, asked.max_skew, asked.max_skew.map(|from| from.saturating_add(self.wanted()))),
                (Bound::MaxGroups, asked.max_groups, asked.max_groups.map(|from| from.max(clusters))),
                (Bound::MinGroups, asked.min_groups, asked.min_groups.map(|from| from.min(1))),
            ];
            for (bound, from, to) in bounds {
                let Some((from, to)) = from.zip(to).filter(|_| missing > 0) else { continue };
                let change = |to| Change::Spread { constraint, by: asked.by.clone(), bound, from, to };
                found.extend(self.least(from, to, change));
            }
        }
    }

    /// Changes that let one cluster more take part.
    fn clusters(&mut self, found: &mut Found) {
        let of = |refusal: &Refusal| match refusal.why {
            Why::Cordoned => Some(0),
            Why::Tainted { .. } => Some(1),
            Why::NotAccepted => Some(2),
            Why::Silent => Some(3),
            Why::NotNamed => Some(4),
            Why::SelectorMismatch { .. } => Some(5),
            Why::NoWeight => Some(6),
            _ => None,
        };
        for kind in 0..7 {
            let mut ids = self.refused(|refusal| of(refusal) == Some(kind));
            ids.truncate(CLUSTERS_TRIED);
            let mut told = 0;
            for id in ids {
                let Some(change) = self.admitting(kind, id) else { continue };
                if let Some(effect) = self.effect(&change) {
                    found.push((change, effect));
                    told += 1;
                }
                if told == CLUSTERS_TOLD {
                    break;
                }
            }
        }
    }

    fn admitting(&self, kind: u8, id: Id) -> Option<Change> {
        let candidate = self.fleet.at(id);
        let cluster = candidate.name.clone();
        Some(match kind {
            0 => Change::Uncordon { cluster },
            1 => Change::Untaint { cluster, taints: candidate.taints.iter().map(ToString::to_string).collect() },
            2 => Change::Accept { cluster },
            3 => Change::Reconnect { cluster },
            4 => Change::Name { cluster },
            5 => {
                let labels = labels_for(self.problem.policies, &self.component.name, candidate)?;
                Change::Label { cluster, labels }
            }
            _ => Change::Weigh { cluster, weight: 1 },
        })
    }

    /// Clusters that were told no for such reasons, the roomiest first.
    fn refused(&self, such: impl Fn(&Refusal) -> bool) -> Vec<Id> {
        let mine = self.solution.refusals.iter().filter(|refusal| refusal.component == self.component.name);
        let mut ids: Vec<Id> =
            mine.filter(|refusal| such(refusal)).filter_map(|no| self.fleet.id(&no.cluster)).collect();
        ids.sort_by_key(|&id| (Reverse(self.room_in(id)), id));
        ids
    }

    fn room_in(&self, id: Id) -> u32 {
        let room = self.fleet.at(id).room.as_ref();
        room.map_or(0, |room| self.component.demand.as_ref().map_or(0, |demand| room.for_demand(demand)))
    }

    /// The clusters that are nearest to fitting, and by how much.
    fn rooms(&mut self, found: &mut Found) {
        let Some(demand) = self.component.demand.clone() else { return };
        let name = &self.component.name;
        let open = |refusal: &Refusal| match refusal.why {
            Why::NoRoom { .. } | Why::BelowMinimum { .. } | Why::Together { .. } => true,
            // There is room in it, and not enough in all of them.
            Why::OutScored { .. } | Why::Spread { .. } => true,
            _ => false,
        };
        let mut ids = self.refused(open);
        let holders = self.solution.shares.iter().filter(|(_, shares)| shares.contains_key(name));
        ids.extend(holders.filter_map(|(uid, _)| self.fleet.id(uid)));
        let lacks =
            |fleet: &Fleet, id: Id| fleet.at(id).room.as_ref().map(|room| room.shortfall(&demand)).unwrap_or_default();
        // What is divided lacks the same number wherever it is made room for; the whole lacks least where most fit.
        let divided = mode_of(self.problem.policies, name) == "Divided";
        ids.sort_by_cached_key(|&id| {
            let room = Reverse(self.room_in(id));
            let lacks = lacks(self.fleet, id);
            (if divided { None } else { Some(room) }, lacks, room, id)
        });
        ids.dedup();
        ids.truncate(CLUSTERS_TRIED);
        let mut told = 0;
        for id in ids {
            let (cluster, lacks, each) =
                (self.fleet.at(id).name.clone(), lacks(self.fleet, id), demand.requests.clone());
            let change = |replicas| Change::AddRoom {
                cluster: cluster.clone(),
                replicas,
                each: each.clone(),
                lacks: lacks.clone(),
            };
            if let Some(added) = self.least(0, self.wanted(), change) {
                found.push(added);
                told += 1;
            }
            if told == CLUSTERS_TOLD {
                return;
            }
        }
    }

    /// How many would all be placed, where not all are.
    fn fewer(&mut self, found: &mut Found) {
        let from = self.wanted();
        let placed = from - self.missing().min(from);
        let fewer = |to| Change::FewerReplicas { from, to };
        // As many as run may be too many too, where each asks for more than before.
        let mut all = |to| Some((to, self.effect(&fewer(to)).filter(|effect| effect.all && to < from)?));
        let Some((mut fits, mut best)) = all(placed.max(1)).or_else(|| all(1)) else { return };
        // The most that are still all placed.
        let mut beyond = from;
        while beyond - fits > 1 {
            let middle = fits.midpoint(beyond);
            match self.effect(&fewer(middle)) {
                Some(effect) if effect.all => (fits, best) = (middle, effect),
                _ => beyond = middle,
            }
        }
        found.push((fewer(fits), best));
    }
}

/// Whether a component is better off, and by how many replicas, with no other one worse off.
pub fn helps(before: &Solution, after: &Solution, component: &str) -> Option<(bool, u64)> {
    let unplaced = |solution: &Solution, name: &str| solution.unplaced.contains_key(name);
    let names = before.shares.values().flat_map(|shares| shares.keys());
    let worse = |name: &str| name != component && replicas(after, name) < replicas(before, name);
    let harmed = after.unplaced.keys().any(|name| name != component && !unplaced(before, name))
        || names.into_iter().any(|name| worse(name));
    let (had, has) = (replicas(before, component), replicas(after, component));
    let all = unplaced(before, component) && !unplaced(after, component);
    ((all || has > had) && !harmed).then_some((all, has.saturating_sub(had)))
}

/// Replicas of a component in all clusters; what has none to count is one in each.
fn replicas(solution: &Solution, component: &str) -> u64 {
    let shares = solution.shares.values().filter_map(|shares| shares.get(component));
    shares.map(|share| u64::from(share.replicas.unwrap_or(1))).sum()
}
