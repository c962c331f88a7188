//! Wake: whom a change concerns, so that it costs in proportion to itself.
//!
//! Owns: when an Application that has no part in a cluster is decided anew because of it. One that has all it asks for
//! stays where it is, whatever becomes of the others: only who waits for something, or has a copy in every cluster that it
//! may have, looks. Must never: leave out one whose answer would be another.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Candidate, Profiles, Room, Solution,
    expression::Expression,
    filter::View,
    policies::{Policies, Spread},
    standing::Standing,
};
use crate::model::{Demand, Policy, Timestamp, Uid, revision::RenderedComponent};

/// The room that an Application waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nobody can say beforehand: any other room may do.
    Any,
    /// So many at once of any of these.
    Room(Vec<(Demand, u32)>),
}

impl Needs {
    /// Of an Application whose solution waits.
    pub fn of(policies: &[Policy], components: &[RenderedComponent], profiles: &Profiles, solution: &Solution) -> Self {
        // What runs gives its room back to the edit, so less than one more may do.
        let Some(policies) = Policies::read(policies).ok().filter(|_| solution.outgrown.is_empty()) else {
            return Self::Any;
        };
        if components.iter().any(|component| policies.may_read_room(&component.name, profiles)) {
            return Self::Any;
        }
        let lacks = |component: &&RenderedComponent| {
            solution.unplaced.is_empty() || solution.unplaced.contains_key(&component.name)
        };
        let need = |component: &RenderedComponent| {
            let whole = component.replicas.as_ref().map_or(1, |replicas| replicas.count.max(1));
            let number = if policies.spread(&component.name).1 == Spread::Divided { 1 } else { whole };
            component.pods(Some(number)).map(|(demand, number)| (demand.clone(), number.max(1))).collect::<Vec<_>>()
        };
        Self::Room(components.iter().filter(lacks).flat_map(need).collect())
    }

    /// Whether a cluster that had this room, and has that, may serve it now.
    pub fn met(&self, before: Option<&Room>, after: &Room) -> bool {
        match (self, before) {
            // The first that is heard of its room.
            (_, None) | (Self::Any, _) => true,
            (Self::Room(demands), Some(before)) => demands.iter().any(|(demand, number)| {
                let now = after.for_demand(demand);
                now >= *number && now > before.for_demand(demand)
            }),
        }
    }
}

/// Whether some of its components have a part of their own in every cluster that they may have.
pub fn is_wide(policies: &[Policy], components: &[RenderedComponent]) -> bool {
    let Ok(policies) = Policies::read(policies) else { return false };
    policies.groups(components.iter()).iter().any(|group| match group.spread {
        Spread::Single => false,
        Spread::Duplicated => true,
        Spread::Divided => group.components.iter().all(|component| component.replicas.is_none()),
    })
}

/// A cluster whose facts changed, as those see it who have no part there.
pub struct Change<'a> {
    pub uid: &'a Uid,
    pub before: &'a Candidate,
    pub after: &'a Candidate,
    pub now: Timestamp,
    pub profiles: &'a Profiles,
    /// By the rules' text: many Applications have the same.
    known: BTreeMap<String, (Standing, Standing)>,
}

impl<'a> Change<'a> {
    pub fn new(
        uid: &'a Uid,
        (before, after): (&'a Candidate, &'a Candidate),
        now: Timestamp,
        profiles: &'a Profiles,
    ) -> Self {
        Self { uid, before, after, now, profiles, known: BTreeMap::new() }
    }

    /// Whether it may change the decision of such an Application; `waits` says that it lacks something.
    pub fn concerns(&mut self, policies: &[Policy], components: &[RenderedComponent], waits: bool) -> bool {
        let Ok(policies) = Policies::read(policies) else { return false };
        for group in &policies.groups(components.iter()) {
            // What a plug-in says is known when it is asked.
            let Ok(platform) = self.profiles.find(policies.profile(group)) else { return true };
            let expression = policies.of(group).and_then(|policy| policy.expression.as_deref());
            let expression = expression.map(|text| Arc::new(Expression::read(text)));
            let (key, rules) = policies.rules(group, expression, platform);
            let (uid, now) = (self.uid, self.now);
            let stands = |cluster: &Candidate| rules.judge(&View { uid, cluster, now }).standing;
            let (before, after) = (self.before, self.after);
            let (old, new) = self.known.entry(key).or_insert_with(|| (stands(before), stands(after)));
            let opens = old != new && *new == Standing::Open;
            // One that waits is told another reason, too, and may prefer it now, or need its labels for a spread.
            if opens || waits && (old != new || *new == Standing::Open) {
                return true;
            }
        }
        false
    }
}
