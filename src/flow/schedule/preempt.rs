//! Preempt: who makes room for what could not be placed.
//!
//! Owns: which parts of Applications of lower priority leave which clusters, and how much of each. Must never: choose
//! anybody where that would not help, or more than is needed as far as the sketches tell.
//!
//! Searched with the solver itself, so a choice helps under every policy, or is none: it decides as if all the lower ones
//! were gone. Where that places more, it looks in this order for less that does the same:
//!
//! 1. **whom**: the lowest priorities that suffice. *Nobody of a higher one is touched.*
//! 2. **where**: the clusters that gain most, as few as suffice.
//! 3. **what**: all are spared that can be, the highest priority first, of one priority the smaller parts first, then
//!    single replicas of those that can leave one by one.
//!
//! What runs in a member is given back as [`Room::give_back`] does: spread over its nodes, as its scheduler spread it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use super::{Decision, Fleet, Problem, Room, decide, fleet::Id};
use crate::model::{
    Demand, ObjectName, Timestamp, Uid,
    placement::{Claim, Share, Victim},
};

/// They are stored in one value.
const CLAIMS_MAX: usize = 256;
/// Choices that are tried one by one after the searches by halves.
const TRIES_MAX: usize = 64;

/// What an Application gives up: cluster → component.
pub type Cessions = BTreeMap<Uid, BTreeMap<String, Cession>>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cession {
    /// Replicas that may stay.
    pub keeps: u32,
    /// For whom, in words.
    pub by: String,
    /// What has room elsewhere moves there, new before old (decision 16), and from then on without waiting.
    pub patient_until: Timestamp,
}

/// What leaves a cluster together: a part of an Application of lower priority.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenancy {
    pub application: ObjectName,
    pub application_uid: Uid,
    pub priority: i32,
    pub cluster: Uid,
    /// With their replicas there.
    pub components: Vec<(String, Option<u32>)>,
    /// What their pods ask for. Of replicas that can leave one by one the first are theirs.
    pub pods: Vec<(Demand, u32)>,
    /// The one component's replicas can leave one by one.
    pub divisible: bool,
}

/// Claims to the room that `problem` lacks, in order of cluster ids; none where nobody's leaving would help, or where more
/// than [`CLAIMS_MAX`] clusters would have to be claimed. Every cluster is that would get more than it gets now, so that
/// what is free already is not lost while the rest is waited for.
pub fn choose(fleet: &mut Fleet, problem: &Problem<'_>, tenancies: &[Tenancy], revision: &str) -> Vec<Claim> {
    if tenancies.is_empty() {
        return Vec::new();
    }
    let before = decide(fleet, problem);
    // An edit that fits nowhere goes on as it was: nobody leaves for it.
    if before.unplaced.is_empty() || !before.outgrown.is_empty() {
        return Vec::new();
    }
    let mut search = Search::new(fleet, problem, tenancies);
    let claims = search.run(&before).map(|decision| search.claims(&before, &decision, revision)).unwrap_or_default();
    search.end();
    if claims.len() > CLAIMS_MAX { Vec::new() } else { claims }
}

/// Gives a fleet the room that is claimed, for the decision of whoever claims it; what it was before.
pub fn release(fleet: &mut Fleet, claims: &[Claim]) -> Vec<(Uid, Room)> {
    let mut before = Vec::with_capacity(claims.len());
    for claim in claims {
        let Some(room) = fleet.get(&claim.cluster).and_then(|known| known.room.clone()) else { continue };
        let mut released = room.clone();
        claim.pods.iter().for_each(|(demand, number)| released.give_back(demand, *number));
        fleet.set_room(&claim.cluster, Some(released));
        before.push((claim.cluster.clone(), room));
    }
    before
}

pub fn put_back(fleet: &mut Fleet, rooms: Vec<(Uid, Room)>) {
    rooms.into_iter().for_each(|(cluster, room)| fleet.set_room(&cluster, Some(room)));
}

struct Search<'s> {
    fleet: &'s mut Fleet,
    problem: &'s Problem<'s>,
    tenancies: Vec<&'s Tenancy>,
    sites: Vec<Site>,
    /// By tenancy: how much of it leaves; its replicas, or 1.
    leaves: Vec<u32>,
    goal: Vec<u64>,
}

/// A cluster, and who could leave it.
struct Site {
    id: Id,
    room: Room,
    tenancies: Vec<usize>,
}

impl<'s> Search<'s> {
    fn new(fleet: &'s mut Fleet, problem: &'s Problem<'s>, tenancies: &'s [Tenancy]) -> Self {
        let mut tenancies: Vec<&Tenancy> = tenancies.iter().collect();
        let order = |one: &&Tenancy| (one.cluster.clone(), one.application.clone(), one.components.first().cloned());
        tenancies.sort_by_cached_key(order);
        let mut by_cluster: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
        for (index, tenancy) in tenancies.iter().enumerate() {
            if let Some(id) = fleet.id(&tenancy.cluster) {
                by_cluster.entry(id).or_default().push(index);
            }
        }
        let site = |(id, tenancies): (Id, Vec<usize>)| Some(Site { id, room: fleet.at(id).room.clone()?, tenancies });
        let sites = by_cluster.into_iter().filter_map(site).collect();
        let leaves = vec![0; tenancies.len()];
        Self { fleet, problem, tenancies, sites, leaves, goal: Vec::new() }
    }

    fn run(&mut self, before: &Decision) -> Option<Decision> {
        let levels: BTreeSet<i32> = self.tenancies.iter().map(|tenancy| tenancy.priority).collect();
        let levels: Vec<i32> = levels.into_iter().collect();
        self.free_up_to(*levels.last()?);
        let at_best = decide(self.fleet, self.problem);
        let missing: Vec<&String> = before.unplaced.keys().collect();
        self.goal = missing.iter().map(|name| placed(&at_best, name)).collect();
        let is_more =
            |(name, best): (&&String, &u64)| !at_best.unplaced.contains_key(*name) || *best > placed(before, name);
        if !missing.iter().zip(&self.goal).any(is_more) {
            return None;
        }
        let missing: Vec<String> = missing.into_iter().cloned().collect();
        let still: BTreeSet<String> = at_best.unplaced.keys().cloned().collect();
        let suffices = |search: &mut Self| search.reaches(&missing, &still);

        let level = least(levels.len(), |number| {
            self.free_up_to(levels[number - 1]);
            suffices(self)
        });
        let level = levels[level - 1];
        let order = self.by_gain(&missing, level);
        let number = least(order.len(), |number| {
            self.free(|site, tenancy| tenancy.priority <= level && order[..number].contains(&site));
            suffices(self)
        });
        let mut chosen: BTreeSet<usize> = order[..number].iter().copied().collect();
        for &site in order[..number].iter().rev().take(TRIES_MAX).filter(|_| number > 1) {
            chosen.remove(&site);
            self.free(|site, tenancy| tenancy.priority <= level && chosen.contains(&site));
            if !suffices(self) {
                chosen.insert(site);
            }
        }
        self.free(|site, tenancy| tenancy.priority <= level && chosen.contains(&site));
        self.spare(suffices);
        suffices(self).then(|| decide(self.fleet, self.problem))
    }

    /// Lets stay who can.
    fn spare(&mut self, suffices: impl Fn(&mut Self) -> bool) {
        let mut leaving: Vec<usize> = (0..self.leaves.len()).filter(|&index| self.leaves[index] > 0).collect();
        leaving.sort_by_key(|&index| (Reverse(self.tenancies[index].priority), self.tenancies[index].size(), index));
        // So many of the last have to go.
        let go = least(leaving.len(), |number| {
            let stay = leaving.len() - number;
            self.set(leaving.iter().enumerate().map(|(place, &index)| (index, place >= stay)));
            suffices(self)
        });
        let stay = leaving.len() - go;
        self.set(leaving.iter().enumerate().map(|(place, &index)| (index, place >= stay)));
        for &index in leaving[stay..].iter().take(TRIES_MAX) {
            let all = self.tenancies[index].whole();
            let fewest = least_or_none(all, |number| {
                self.leave(index, number);
                suffices(self)
            });
            self.leave(index, fewest);
        }
    }

    fn free_up_to(&mut self, level: i32) {
        self.free(|_, tenancy| tenancy.priority <= level);
    }

    /// Exactly these leave. `leaves` is asked about the place of a site, and who is there.
    fn free(&mut self, leaves: impl Fn(usize, &Tenancy) -> bool) {
        let mut changes = Vec::new();
        for (place, site) in self.sites.iter().enumerate() {
            changes.extend(site.tenancies.iter().map(|&index| (index, leaves(place, self.tenancies[index]))));
        }
        self.set(changes.into_iter());
    }

    /// Whether they leave, wholly.
    fn set(&mut self, changes: impl Iterator<Item = (usize, bool)>) {
        let mut changed: BTreeSet<&Uid> = BTreeSet::new();
        for (index, leaves) in changes {
            let number = if leaves { self.tenancies[index].whole() } else { 0 };
            if self.leaves[index] != number {
                self.leaves[index] = number;
                changed.insert(&self.tenancies[index].cluster);
            }
        }
        let ids: Vec<Id> = changed.into_iter().filter_map(|cluster| self.fleet.id(cluster)).collect();
        ids.into_iter().for_each(|id| self.settle(id));
    }

    fn leave(&mut self, index: usize, number: u32) {
        self.leaves[index] = number;
        if let Some(id) = self.fleet.id(&self.tenancies[index].cluster) {
            self.settle(id);
        }
    }

    /// Makes the room of a site anew.
    fn settle(&mut self, id: Id) {
        let Ok(place) = self.sites.binary_search_by_key(&id, |site| site.id) else { return };
        let room = self.room_of(&self.sites[place]);
        let uid = self.fleet.uid(id).clone();
        self.fleet.set_room(&uid, Some(room));
    }

    fn room_of(&self, site: &Site) -> Room {
        let mut room = site.room.clone();
        for &index in site.tenancies.iter().filter(|&&index| self.leaves[index] > 0) {
            self.tenancies[index].give_back(&mut room, self.leaves[index]);
        }
        room
    }

    /// Places of sites; those that gain most for what is missing come first.
    fn by_gain(&self, missing: &[String], level: i32) -> Vec<usize> {
        let components = self.problem.components.iter().filter(|component| missing.contains(&component.name));
        let demand = components.filter_map(|component| component.demand.as_ref()).next();
        let gain = |site: &Site| {
            let mut room = site.room.clone();
            for tenancy in site.tenancies.iter().map(|&index| self.tenancies[index]) {
                if tenancy.priority <= level {
                    tenancy.give_back(&mut room, tenancy.whole());
                }
            }
            demand.map_or(0, |demand| room.for_demand(demand).saturating_sub(site.room.for_demand(demand)))
        };
        let mut order: Vec<(Reverse<u32>, usize)> =
            self.sites.iter().enumerate().map(|(place, site)| (Reverse(gain(site)), place)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, place)| place).collect()
    }

    /// Whether as much is placed as if all the lower ones were gone.
    fn reaches(&mut self, missing: &[String], still: &BTreeSet<String>) -> bool {
        let decision = decide(self.fleet, self.problem);
        let reached = |(name, goal): (&String, &u64)| placed(&decision, name) >= *goal;
        missing.iter().zip(&self.goal).all(reached) && decision.unplaced.keys().all(|name| still.contains(name))
    }

    fn claims(&self, before: &Decision, decision: &Decision, revision: &str) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (&id, shares) in &decision.shares {
            let pods = self.more_pods(before.shares.get(&id), shares);
            if pods.is_empty() {
                continue;
            }
            let place = self.sites.binary_search_by_key(&id, |site| site.id).ok();
            let here = place.map(|place| self.sites[place].tenancies.as_slice()).unwrap_or_default();
            let leaving = here.iter().filter(|&&index| self.leaves[index] > 0);
            claims.push(Claim {
                cluster: self.fleet.uid(id).clone(),
                cluster_name: self.fleet.at(id).name.clone(),
                pods,
                victims: leaving.flat_map(|&index| self.tenancies[index].victims(self.leaves[index])).collect(),
                revision: revision.to_owned(),
                made: self.problem.now,
            });
        }
        claims
    }

    fn more_pods(
        &self,
        before: Option<&BTreeMap<String, Share>>,
        after: &BTreeMap<String, Share>,
    ) -> Vec<(Demand, u32)> {
        let mut pods = Vec::new();
        for component in self.problem.components {
            let Some(share) = after.get(&component.name) else { continue };
            match before.and_then(|shares| shares.get(&component.name)) {
                None => pods.extend(component.pods(share.replicas).map(|(demand, number)| (demand.clone(), number))),
                Some(had) => {
                    let more = share.replicas.unwrap_or(0).saturating_sub(had.replicas.unwrap_or(0));
                    pods.extend(component.demand.iter().map(|demand| (demand.clone(), more)));
                }
            }
        }
        pods.retain(|(_, number)| *number > 0);
        pods
    }

    /// The fleet as it was.
    fn end(self) {
        for site in self.sites {
            let uid = self.fleet.uid(site.id).clone();
            self.fleet.set_room(&uid, Some(site.room));
        }
    }
}

impl Tenancy {
    /// All of it.
    fn whole(&self) -> u32 {
        match (self.divisible, self.components.first()) {
            (true, Some((_, replicas))) => replicas.unwrap_or(1),
            _ => 1,
        }
    }

    fn size(&self) -> u64 {
        self.pods.iter().map(|(_, number)| u64::from(*number)).sum()
    }

    fn give_back(&self, room: &mut Room, number: u32) {
        if !self.divisible || number >= self.whole() {
            self.pods.iter().for_each(|(demand, number)| room.give_back(demand, *number));
        } else if let Some((demand, _)) = self.pods.first() {
            room.give_back(demand, number);
        }
    }

    fn victims(&self, leaves: u32) -> impl Iterator<Item = Victim> {
        self.components.iter().map(move |(component, replicas)| Victim {
            application: self.application.clone(),
            application_uid: self.application_uid.clone(),
            component: component.clone(),
            replicas: replicas.map(|had| (had, if self.divisible { had.saturating_sub(leaves) } else { 0 })),
        })
    }
}

/// Replicas of a component that are placed; where there are none to count, clusters.
fn placed(decision: &Decision, component: &str) -> u64 {
    let shares = decision.shares.values().filter_map(|shares| shares.get(component));
    shares.map(|share| u64::from(share.replicas.unwrap_or(1).max(1))).sum()
}

/// The least number from 1 to `most` that suffices, if more than suffices does, too; `most` is known to.
fn least(most: usize, mut suffices: impl FnMut(usize) -> bool) -> usize {
    let (mut low, mut high) = (1, most.max(1));
    while low < high {
        let middle = low + (high - low) / 2;
        match suffices(middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    high
}

/// As [`least`], from 0.
fn least_or_none(most: u32, mut suffices: impl FnMut(u32) -> bool) -> u32 {
    match suffices(0) {
        true => 0,
        false => least(most as usize, |number| suffices(number as u32)) as u32,
    }
}
