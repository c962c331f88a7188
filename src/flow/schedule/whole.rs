//! Whole: components that a cluster gets in full and together, in one cluster or in every target.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

use super::{
    Placing, Room,
    explain::{No, misfit},
    fleet::Id,
    policies::{Group, Policies, Spread},
    solver::Solver,
    standing::{Standing, Standings, Tier},
};
use crate::model::{Demand, placement::Why, quantity::CPU, revision::RenderedComponent};

use self::spreading::Spreading;

mod spreading;

/// For a sentence: the refusals tell of all.
const NAMED_MAX: usize = 3;

/// How much room a cluster offers, which one it is, and what would be left.
type Best = (u64, Id, Room);

/// What a cluster must take at once.
struct Whole<'a> {
    /// Component, demand, replicas.
    parts: Vec<(&'a str, &'a Demand, u32)>,
    /// By part: how many of it fit each cluster.
    capacities: Vec<Arc<Vec<u32>>>,
}

impl<'a> Solver<'a> {
    /// One cluster for the whole group: the one it is in already, else the one with most room.
    pub fn single(&mut self, group: &Group<'a>, placing: &Placing) {
        let whole = self.whole(group);
        let here = self.here(group);
        let stays = |id: &&Id| matches!(placing.of(**id), Standing::Open | Standing::Keeps(_));
        let leaves = |id: &&Id| matches!(placing.of(**id), Standing::Leaves(_));
        let home = here.iter().find(stays).copied();
        let (other, detail) = if let Some(id) = home {
            for component in &group.components {
                let had = self.has(component, id).and_then(|share| share.replicas);
                self.give(id, component, full(component), || match had {
                    Some(_) => in_full(had, full(component)),
                    None => "where the application runs already".to_owned(),
                });
            }
            (self.fleet.at(id).name.clone(), "the application runs there already".to_owned())
        } else if let (Some((spare, id, room)), next) = self.roomiest(&whole, placing) {
            let next = next.map(|(spare, id)| format!(", next is {} with {spare}", self.fleet.at(id).name));
            let reason = format!("most room: {spare}{}", next.unwrap_or_default());
            for component in &group.components {
                self.give(id, component, full(component), || reason.clone());
            }
            self.take(id, room);
            (self.fleet.at(id).name.clone(), format!("it has most room, {spare}"))
        } else {
            // It stays until it fits somewhere else.
            if let Some(id) = here.iter().find(leaves).copied() {
                group.components.iter().for_each(|component| self.keep(id, component));
            }
            for component in &group.components {
                self.lack(component, nobody_fits(self.fleet.len(), self.tally(placing)));
            }
            Default::default()
        };
        self.refuse_group(group, placing, &whole, &BTreeMap::new(), &Why::OutScored { other, detail });
    }

    /// Every target in full. A target that has the group keeps it, whatever its room; a new one must have room for all
    /// of it. Of ordered groups of clusters the first counts that has it or could take it. Where the policy spreads, it
    /// says which of these targets there are.
    pub fn duplicated(&mut self, policies: &Policies, group: &Group<'a>, placing: &Placing) {
        let whole = self.whole(group);
        let here: BTreeSet<Id> = self.here(group).into_iter().collect();
        let stays = |id: Id| matches!(placing.of(id), Standing::Open | Standing::Keeps(_));
        let tier = |id: Id| placing.standings.tier(id).group;
        let fitting: Vec<Id> = self.open(placing).filter(|id| !here.contains(id) && self.fits(&whole, *id)).collect();
        let constraints = policies.of(group).map(|policy| policy.spread_constraints.as_slice()).unwrap_or_default();
        let Spreading { targets, first, left_out } = match constraints.is_empty() {
            true => {
                let targets = here.iter().copied().filter(|&id| stays(id));
                let first = targets.clone().map(tier).min().or_else(|| fitting.iter().copied().map(tier).min());
                let more = fitting.into_iter().filter(|&id| Some(tier(id)) == first);
                Spreading { targets: targets.chain(more).collect(), first, ..Spreading::default() }
            }
            false => self.spread_copies(group, constraints, placing, (&here, &fitting)),
        };
        if let Some(fault) = self.total_fault(policies, group, targets.len()) {
            group.components.iter().for_each(|component| self.outgrow(component, fault.clone()));
        }
        if targets.is_empty() {
            self.stay_for_lack(group, placing, &here);
        }
        for &id in &targets {
            for component in &group.components {
                let had = self.has(component, id).and_then(|share| share.replicas);
                self.give(id, component, full(component), || in_full(had, full(component)));
            }
            if !here.contains(&id)
                && self.counts_on
                && let Some(Ok(room)) = self.room(id).map(|room| misfit(whole.parts.iter().copied(), room))
            {
                self.take(id, room);
            }
        }
        let named: BTreeSet<Id> = policies.named(group).iter().filter_map(|name| self.fleet.named(name)).collect();
        let in_a_later = |id: Id| first.is_some_and(|first| tier(id) > first);
        match constraints.is_empty() {
            true => self.tell_of_lacks(group, placing, (&whole, first), (&targets, &named)),
            // Who has no room is not missed where the spread holds without him, and may come when he has.
            false => {
                let without = |id: Id| !targets.contains(&id) && !left_out.contains_key(&id) && !in_a_later(id);
                if self.is_waited_for(placing, &targets) || self.open(placing).any(without) {
                    self.wait();
                }
            }
        }
        for component in &group.components {
            if targets.is_empty() && !policies.allows_empty() {
                self.lack(component, nobody_fits(self.fleet.len(), self.tally(placing)));
            }
        }
        let other = targets.first().map_or_else(|| "nobody".to_owned(), |&id| self.fleet.at(id).name.clone());
        let detail = "an earlier group of the policy has it".to_owned();
        self.refuse_group(group, placing, &whole, &left_out, &Why::OutScored { other, detail });
    }

    /// Nobody else has it or can take it: who is to lose it because its cluster is taken out of service keeps it.
    fn stay_for_lack(&mut self, group: &Group<'a>, placing: &Placing, here: &BTreeSet<Id>) {
        let leaves = |id: &&Id| matches!(placing.of(**id), Standing::Leaves(Why::Draining | Why::Tainted { .. }));
        for &id in here.iter().filter(leaves) {
            group.components.iter().for_each(|component| self.keep(id, component));
        }
    }

    /// Where replicas were a total and are now those of each cluster, the total that the policy says must come of it.
    fn total_fault(&self, policies: &Policies, group: &Group<'a>, targets: usize) -> Option<String> {
        let total = policies.of(group)?.total?;
        let before = Policies::read(self.problem.running?.policies).ok()?;
        let was_divided = |component: &&RenderedComponent| before.spread(&component.name).1 == Spread::Divided;
        let counts = group.components.iter().filter_map(|component| full(component)).map(u64::from);
        let each: u64 = counts.sum();
        let sum = each.saturating_mul(targets as u64);
        (group.components.iter().any(was_divided) && sum != total).then(|| {
            format!(
                "{each} replicas in each of {targets} clusters are {sum}, and the policy says a total of {total}; the revision \
                 that runs goes on"
            )
        })
    }

    /// Whether a cluster that is silent, or closed by other Applications, may become a target.
    fn is_waited_for(&self, placing: &Placing, targets: &BTreeSet<Id>) -> bool {
        let unheard = |standing: &Standing| match standing {
            Standing::Keeps(why) | Standing::Leaves(why) => {
                matches!(why, Why::NoSketch | Why::Silent | Why::NotAccepted)
            }
            Standing::Open | Standing::Gone(_) => false,
        };
        let aside = |id: Id| {
            matches!(placing.of(id), Standing::Keeps(Why::Affinity { .. } | Why::AntiAffinity { .. }))
                && !targets.contains(&id)
        };
        placing.standings.any(unheard) || placing.laid_over().any(aside)
    }

    /// A cluster that a selector chooses may be cordoned or silent; one that is named, or lacks room, is a part of the
    /// Application that does not run.
    fn tell_of_lacks(
        &mut self,
        group: &Group<'a>,
        placing: &Placing,
        (whole, first): (&Whole<'a>, Option<u16>),
        (targets, named): (&BTreeSet<Id>, &BTreeSet<Id>),
    ) {
        let mut waits = self.is_waited_for(placing, targets);
        let (mut without, mut more) = (Vec::new(), 0);
        let asked: BTreeSet<Id> = self.open(placing).chain(named.iter().copied()).collect();
        for &id in asked.difference(targets) {
            let standing = placing.of(id);
            if *standing == Standing::Open {
                if first.is_some_and(|first| placing.standings.tier(id).group > first) {
                    continue;
                }
                waits = true;
            }
            if without.len() == NAMED_MAX {
                more += 1;
                continue;
            }
            let why = match standing {
                Standing::Keeps(why) | Standing::Leaves(why) | Standing::Gone(why) => why.clone(),
                Standing::Open => match self.left(whole, id) {
                    Err((_, why)) => why,
                    // Room it has, but the group of clusters before its own has the Application.
                    Ok(_) => continue,
                },
            };
            without.push(format!("{}: {why}", self.fleet.at(id).name));
        }
        if waits {
            self.wait();
        }
        if without.is_empty() {
            return;
        }
        let mut told = without.join("; ");
        if more > 0 {
            told = format!("{told}; and {more} more");
        }
        for component in &group.components {
            self.lack(component, format!("not in every chosen cluster: {told}"));
        }
    }

    fn whole(&mut self, group: &Group<'a>) -> Whole<'a> {
        let parts = |component: &&'a RenderedComponent| {
            let component: &'a RenderedComponent = component;
            component.pods(full(component)).map(|(demand, wanted)| (component.name.as_str(), demand, wanted))
        };
        let parts: Vec<_> = group.components.iter().flat_map(parts).collect();
        let capacities = parts.iter().map(|(_, demand, _)| self.fleet.capacities(demand)).collect();
        Whole { parts, capacities }
    }

    /// Clusters that have any of the group.
    fn here(&self, group: &Group<'a>) -> Vec<Id> {
        let ids: BTreeSet<Id> =
            group.components.iter().flat_map(|component| self.previous(component).keys().copied()).collect();
        ids.into_iter().collect()
    }

    /// Of the clusters that the whole fits: the best one, with what room is left there, and the next.
    fn roomiest(&self, whole: &Whole<'a>, placing: &Placing) -> (Option<Best>, Option<(u64, Id)>) {
        let claim = |id: Id| (Reverse(placing.standings.tier(id)), self.spare(whole, id), Reverse(id));
        let could = |id: &Id| self.is_taken_from(*id) || whole.could(*id);
        let mut claims: BinaryHeap<(Reverse<Tier>, u64, Reverse<Id>)> =
            self.open(placing).filter(could).map(claim).collect();
        let mut best = None;
        while let Some((_, spare, Reverse(id))) = claims.pop() {
            match (self.left(whole, id), &best) {
                (Ok(room), None) => best = Some((spare, id, room)),
                (Ok(_), Some(_)) => return (best, Some((spare, id))),
                (Err(_), _) => {}
            }
        }
        (best, None)
    }

    fn fits(&self, whole: &Whole<'a>, id: Id) -> bool {
        match self.is_taken_from(id) {
            true => self.left(whole, id).is_ok(),
            // What fits alone fits: only several parts may be in each other's way.
            false => whole.could(id) && (whole.parts.len() < 2 || self.left(whole, id).is_ok()),
        }
    }

    /// What is left of a cluster's room after the whole, or what does not fit.
    fn left(&self, whole: &Whole<'a>, id: Id) -> Result<Room, (&'a str, Why)> {
        let nothing = Room::default();
        misfit(whole.parts.iter().copied(), self.room(id).unwrap_or(&nothing))
    }

    /// How much room a cluster offers: replicas of the group's hungriest component, or free thousandths of a core.
    fn spare(&self, whole: &Whole<'a>, id: Id) -> u64 {
        let Some(room) = self.room(id) else { return 0 };
        let counts = |place: usize| match self.is_taken_from(id) {
            true => room.for_demand(whole.parts[place].1),
            false => whole.capacities[place][id as usize],
        };
        let replicas = (0..whole.parts.len()).map(counts).min();
        replicas.map_or_else(|| room.free(CPU).max(0) as u64, u64::from)
    }

    fn refuse_group(
        &mut self,
        group: &Group<'a>,
        placing: &Placing,
        whole: &Whole<'a>,
        explicit: &BTreeMap<Id, Why>,
        otherwise: &Why,
    ) {
        let parts: Vec<_> =
            whole.parts.iter().map(|&(name, demand, wanted)| (name.to_owned(), demand.clone(), wanted)).collect();
        let taken: Vec<(Id, &str, Why)> = self
            .taken_from()
            .filter(|&id| *placing.of(id) == Standing::Open)
            .filter_map(|id| self.left(whole, id).err().map(|(faulty, why)| (id, faulty, why)))
            .collect();
        for component in &group.components {
            let mut no = No::new(component, placing).otherwise(otherwise.clone());
            no.whole = parts.clone();
            no.explicit = explicit.clone();
            for (id, faulty, why) in &taken {
                let why = match *faulty == component.name {
                    true => why.clone(),
                    false => Why::Together { component: (*faulty).to_owned() },
                };
                no.explicit.insert(*id, why);
            }
            self.refuse(no);
        }
    }
}

impl Whole<'_> {
    /// Whether each part would fit the cluster alone.
    fn could(&self, id: Id) -> bool {
        self.parts.iter().zip(&self.capacities).all(|(&(_, _, wanted), fits)| fits[id as usize] >= wanted)
    }
}

impl Standings {
    /// Whether any cluster stands so.
    pub fn any(&self, holds: impl Fn(&Standing) -> bool) -> bool {
        let meant = self.holding(holds);
        self.codes().iter().any(|&code| meant[code as usize])
    }
}

fn in_full(had: Option<u32>, now: Option<u32>) -> String {
    match had.zip(now) {
        Some((had, now)) if now < had => format!("all replicas, down from {had}: the application asks for {now}"),
        Some((had, now)) if now > had => format!("all replicas, up from {had}: the application asks for {now}"),
        _ => "all replicas".into(),
    }
}

fn full(component: &RenderedComponent) -> Option<u32> {
    component.replicas.as_ref().map(|replicas| replicas.count)
}

/// A reason as part of a sentence that counts.
pub fn word(why: &Why) -> &'static str {
    match why {
        Why::NotAccepted => "not accepted",
        Why::Deleting => "being deleted",
        Why::Draining => "being drained",
        Why::Cordoned => "cordoned",
        Why::Silent => "silent",
        Why::NoSketch => "without a report of their capacity",
        Why::NoRoom { .. } | Why::BelowMinimum { .. } => "without room",
        Why::NotNamed | Why::SelectorMismatch { .. } | Why::ExpressionFalse { .. } | Why::NoGroup | Why::NoWeight => {
            "not chosen by the policies"
        }
        Why::RuleFalse { .. } | Why::NoHeadroom { .. } | Why::PluginRefused { .. } => {
            "refused by a rule of the platform"
        }
        Why::RuleFailed { .. } => "on which a rule of the platform fails",
        Why::Affinity { .. } => "away from what it is to be with",
        Why::AntiAffinity { .. } => "taken by what it is to be apart from",
        Why::ExpressionFailed { .. } => "on which the policy's expression fails",
        Why::NoSuchCluster => "unknown",
        Why::OutScored { .. } => "behind another",
        Why::Together { .. } | Why::AllOrNothing { .. } => "without room for all components",
        Why::Tainted { .. } => "tainted",
        Why::Spread { .. } => "left out by the spread",
        Why::Preempted { .. } => "making room for others",
    }
}

/// Why nobody got it, counted: `no cluster can take it: 2 without room, 1 silent`.
pub fn nobody_fits(clusters: usize, counts: BTreeMap<&'static str, usize>) -> String {
    if clusters == 0 {
        return "no cluster has joined".into();
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(word, count)| (Reverse(count), word));
    let words: Vec<_> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!("no cluster can take it: {}", words.join(", "))
}
