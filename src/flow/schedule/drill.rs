//! Drill: what would become of Applications if clusters were lost, decided one after another on a fleet without them.
//!
//! Owns: the order, and what one decision leaves to the next. Must never: change anything but the fleet it is given, which
//! is a copy.
//!
//! A lost cluster counts as one that is being deleted: what it had has to run elsewhere, whatever the reason. Those of a
//! higher priority class come first, of one class those that would run nowhere, then those that lose the larger part, then by name: whoever has least left is helped
//! first. What one gets is taken off the room of the next; what a healthy cluster gives up is free for nobody yet. Who is to be
//! with or apart from others sees them where they are decided to be by then.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use super::{
    Cessions, Fleet, Hint, Neighbours, Problem, Profiles, Rebalance, Running, Solution, hints, solve, solve_telling,
};
use crate::model::{
    ObjectName, Placement, Policy, Timestamp, Uid,
    application::ClusterSet,
    placement::{Row, Share},
    revision::RenderedComponent,
};

/// Applications for which hints are looked for: in a fleet that is too small all of them need the same.
const HINTED_MAX: usize = 10;

/// An Application with a part in the fleet.
#[derive(Debug, Clone, Copy)]
pub struct Tenant<'a> {
    pub name: &'a ObjectName,
    pub policies: &'a [Policy],
    pub components: &'a [RenderedComponent],
    pub placement: &'a Placement,
    pub running: Option<Running<'a>>,
    pub profiles: &'a Profiles,
    /// As they are before anything is lost.
    pub neighbours: &'a Neighbours,
    /// Who decides, where it is not us: what it loses waits for that.
    pub scheduler: Option<&'a str>,
    /// Of its class: the higher is decided first.
    pub priority: i32,
}

/// What would be. Scripts read it, so fields are only ever added.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drill {
    /// Of the store; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Names of the clusters that are lost.
    pub lost: Vec<String>,
    pub total: Total,
    /// Those with a part in a lost cluster, in the order in which they are decided.
    pub applications: Vec<Affected>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Total {
    pub applications: usize,
    /// Replicas in the lost clusters.
    pub lost: u64,
    /// Of those, what would run elsewhere.
    pub replaced: u64,
    /// Of those, what would have to run elsewhere and finds no place. What is neither runs in full elsewhere already.
    pub unplaced: u64,
    /// Replicas that would leave clusters that are not lost.
    pub moved: u64,
    /// Applications with a component that does not fit.
    pub short: usize,
    /// Applications of which nothing would run.
    pub down: usize,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affected {
    pub namespace: String,
    pub name: String,
    pub components: Vec<Component>,
    pub hints: Vec<Hint>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Component {
    pub name: String,
    /// Replicas in the lost clusters; 1 for each where there are none to count.
    pub lost: u64,
    /// Of those, what would run elsewhere.
    pub replaced: u64,
    /// Of those, what would have to and finds no place.
    pub unplaced: u64,
    /// Replicas that would leave clusters that are not lost.
    pub moved: u64,
    /// Replicas that would run.
    pub left: u64,
    /// Clusters whose replicas would change, the lost ones among them; in order of names.
    pub changes: Vec<Move>,
    /// What is missing, where it does not fit.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Move {
    pub cluster: String,
    pub from: u32,
    pub to: u32,
}

/// What is decided for each tenant that has a part in a lost cluster, in the order in which it is.
pub struct Replanned {
    /// Place among the tenants.
    pub tenant: usize,
    pub solution: Solution,
}

/// The clusters that are in any of the sets; why there are none, in words.
pub fn lost(fleet: &Fleet, sets: &[ClusterSet]) -> Result<BTreeSet<Uid>, String> {
    let mut lost = BTreeSet::new();
    for set in sets {
        if let Some(stranger) = set.clusters.iter().find(|name| fleet.named(name).is_none()) {
            return Err(format!("no cluster named {stranger} has joined"));
        }
        let before = lost.len();
        let chosen = fleet.iter().filter(|(_, candidate)| set.chooses(candidate));
        lost.extend(chosen.map(|(uid, _)| uid.clone()));
        if let (true, Some(selector)) = (lost.len() == before, &set.cluster_selector) {
            return Err(format!("no cluster has the labels {selector}"));
        }
    }
    if lost.is_empty() { Err("no cluster is said to be lost".into()) } else { Ok(lost) }
}

/// Takes the clusters out of the fleet, and decides anew what was there.
pub fn replan(fleet: &mut Fleet, now: Timestamp, lost: &BTreeSet<Uid>, tenants: &[Tenant<'_>]) -> Vec<Replanned> {
    for uid in lost {
        if let Some(mut candidate) = fleet.get(uid).cloned() {
            candidate.deleting = true;
            fleet.upsert(uid, candidate);
        }
    }
    let mut order: Vec<(Reverse<i32>, Reverse<u64>, &ObjectName, usize)> = Vec::new();
    for (place, tenant) in tenants.iter().enumerate() {
        if let Some(urgency) = urgency(tenant, lost) {
            order.push((Reverse(tenant.priority), Reverse(urgency), tenant.name, place));
        }
    }
    order.sort_unstable();
    let mut replanned = Vec::with_capacity(order.len());
    let mut moved = Moved::default();
    for (_, _, _, place) in order {
        let neighbours = moved.neighbours(&tenants[place], lost);
        let solution = match tenants[place].scheduler {
            Some(scheduler) => bereft(&tenants[place], lost, scheduler),
            None => solve_telling(fleet, &problem(&tenants[place], now, None, &neighbours), 0),
        };
        take(fleet, &tenants[place], &solution);
        moved.0.insert(tenants[place].name, solution.shares.keys().cloned().collect());
        replanned.push(Replanned { tenant: place, solution });
    }
    replanned
}

/// All of it, told.
pub fn drill(fleet: &mut Fleet, now: Timestamp, lost: &BTreeSet<Uid>, tenants: &[Tenant<'_>]) -> Drill {
    let mut names: Vec<String> = lost.iter().filter_map(|uid| Some(fleet.get(uid)?.name.clone())).collect();
    names.sort();
    let replanned = replan(fleet, now, lost, tenants);
    let shares = |known: &Replanned| known.solution.shares.keys().cloned().collect();
    let moved = Moved(replanned.iter().map(|known| (tenants[known.tenant].name, shares(known))).collect());
    let mut hinted = 0;
    let mut applications = Vec::with_capacity(replanned.len());
    for Replanned { tenant, solution } in &replanned {
        let tenant = &tenants[*tenant];
        let components = tenant.components.iter().map(|component| told(fleet, tenant, &component.name, lost, solution));
        let components: Vec<Component> = components.filter(|component| !component.changes.is_empty()).collect();
        let short = !solution.unplaced.is_empty() && tenant.scheduler.is_none();
        hinted += usize::from(short);
        let hints = match short && hinted <= HINTED_MAX {
            true => hints_after(fleet, now, (tenant, &moved.neighbours(tenant, lost)), solution),
            false => Vec::new(),
        };
        let ObjectName { namespace, name } = tenant.name.clone();
        applications.push(Affected { namespace, name, components, hints });
    }
    let mut drill = Drill { lost: names, applications, ..Drill::default() };
    drill.add_up();
    drill
}

impl Drill {
    /// Sums of the Applications that are in it.
    pub fn add_up(&mut self) {
        let components = || self.applications.iter().flat_map(|application| &application.components);
        let any = |such: fn(&Component) -> bool| {
            self.applications.iter().filter(|application| application.components.iter().any(such)).count()
        };
        let down = |application: &&Affected| application.components.iter().all(|component| component.left == 0);
        self.total = Total {
            applications: self.applications.len(),
            lost: components().map(|component| component.lost).sum(),
            replaced: components().map(|component| component.replaced).sum(),
            unplaced: components().map(|component| component.unplaced).sum(),
            moved: components().map(|component| component.moved).sum(),
            short: any(|component| !component.message.is_empty()),
            down: self.applications.iter().filter(down).count(),
        };
    }
}

/// Where those are that have been decided.
#[derive(Default)]
struct Moved<'a>(BTreeMap<&'a ObjectName, BTreeSet<Uid>>);

impl Moved<'_> {
    /// What a tenant sees of others by now.
    fn neighbours<'n>(&self, tenant: &Tenant<'n>, lost: &BTreeSet<Uid>) -> Cow<'n, Neighbours> {
        if tenant.neighbours.others.is_empty() {
            return Cow::Borrowed(tenant.neighbours);
        }
        let mut neighbours = tenant.neighbours.clone();
        for other in &mut neighbours.others {
            match self.0.get(&ObjectName::new(&tenant.name.namespace, &other.named.name)) {
                Some(clusters) => other.moved_to(clusters),
                None => other.bereft_of(lost),
            }
        }
        Cow::Owned(neighbours)
    }
}

fn problem<'a>(
    tenant: &Tenant<'a>,
    now: Timestamp,
    instead: Option<&'a Placement>,
    neighbours: &'a Neighbours,
) -> Problem<'a> {
    static NOBODY: BTreeSet<Uid> = BTreeSet::new();
    static UNTOUCHED: Cessions = Cessions::new();
    Problem {
        now,
        policies: tenant.policies,
        components: tenant.components,
        previous: instead.or(Some(tenant.placement)),
        running: tenant.running,
        held: &NOBODY,
        neighbours,
        profiles: tenant.profiles,
        rebalance: Rebalance::No,
        cessions: &UNTOUCHED,
    }
}

/// What is left of a tenant for which somebody else decides.
fn bereft(tenant: &Tenant<'_>, lost: &BTreeSet<Uid>, scheduler: &str) -> Solution {
    let rows = || tenant.placement.rows.iter();
    let left = rows().filter(|row| !lost.contains(&row.cluster));
    let shares = left.map(|row| (row.cluster.clone(), row.components.clone())).collect();
    let gone: BTreeSet<&String> =
        rows().filter(|row| lost.contains(&row.cluster)).flat_map(|row| row.components.keys()).collect();
    let what = |name: &String| (name.clone(), format!("waits for the scheduler {scheduler:?}"));
    Solution { shares, unplaced: gone.into_iter().map(what).collect(), ..Solution::default() }
}

/// How much of a tenant is lost, in thousandths; `None` where nothing is.
fn urgency(tenant: &Tenant<'_>, lost: &BTreeSet<Uid>) -> Option<u64> {
    let (mut all, mut gone) = (0u64, 0u64);
    for row in tenant.placement.rows.iter().filter(|row| !row.components.is_empty()) {
        // One that is scaled to nothing is there all the same.
        let replicas: u64 = row.components.values().map(|share| u64::from(share.replicas.unwrap_or(1))).sum();
        all += replicas.max(1);
        if lost.contains(&row.cluster) {
            gone += replicas.max(1);
        }
    }
    (gone > 0).then(|| gone * 1000 / all)
}

/// Takes what is new off the rooms.
fn take(fleet: &mut Fleet, tenant: &Tenant<'_>, solution: &Solution) {
    for component in tenant.components {
        let had = counts(tenant.placement, &component.name);
        for (uid, shares) in &solution.shares {
            let now = shares.get(&component.name).map_or(0, |share| share.replicas.unwrap_or(1));
            let more = now.saturating_sub(had.get(uid).copied().unwrap_or(0));
            let Some(mut room) = fleet.get(uid).and_then(|candidate| candidate.room.clone()) else { continue };
            if more > 0 {
                let beside = if had.contains_key(uid) { &[][..] } else { &component.beside };
                component.demand.iter().for_each(|demand| room.take(demand, more));
                beside.iter().for_each(|beside| room.take(&beside.demand, beside.count));
                fleet.set_room(uid, Some(room));
            }
        }
    }
}

fn counts<'p>(placement: &'p Placement, component: &str) -> BTreeMap<&'p Uid, u32> {
    let count = |row: &'p Row| Some((&row.cluster, row.components.get(component)?.replicas.unwrap_or(1)));
    placement.rows.iter().filter_map(count).collect()
}

/// What becomes of one component.
pub fn told(
    fleet: &Fleet,
    tenant: &Tenant<'_>,
    component: &str,
    lost: &BTreeSet<Uid>,
    solution: &Solution,
) -> Component {
    let had = counts(tenant.placement, component);
    let share = |shares: &BTreeMap<String, Share>| Some(shares.get(component)?.replicas.unwrap_or(1));
    let has: BTreeMap<&Uid, u32> =
        solution.shares.iter().filter_map(|(uid, shares)| Some((uid, share(shares)?))).collect();
    let name = |uid: &Uid| fleet.get(uid).map_or_else(|| uid.to_string(), |candidate| candidate.name.clone());
    let clusters: BTreeSet<&Uid> = had.keys().chain(has.keys()).copied().collect();
    let mut told = Component { name: component.to_owned(), ..Component::default() };
    let mut gained = 0u64;
    for uid in clusters {
        let (from, to) = (had.get(uid).copied().unwrap_or(0), has.get(uid).copied().unwrap_or(0));
        told.left += u64::from(to);
        gained += u64::from(to.saturating_sub(from));
        match lost.contains(uid) {
            true => told.lost += u64::from(from),
            false => told.moved += u64::from(from.saturating_sub(to)),
        }
        if from != to || had.contains_key(uid) != has.contains_key(uid) {
            told.changes.push(Move { cluster: name(uid), from, to });
        }
    }
    told.changes.sort_by(|one, other| one.cluster.cmp(&other.cluster));
    told.replaced = gained.saturating_sub(told.moved).min(told.lost);
    told.message = solution.unplaced.get(component).cloned().unwrap_or_default();
    // What runs in full wherever it runs is not missing because it runs in one cluster less.
    told.unplaced = if told.message.is_empty() { 0 } else { told.lost - told.replaced };
    told
}

/// What would help once all have what they get: the room that others took is not offered again.
fn hints_after(
    fleet: &mut Fleet,
    now: Timestamp,
    (tenant, neighbours): (&Tenant<'_>, &Neighbours),
    solution: &Solution,
) -> Vec<Hint> {
    let row = |(cluster, components): (&Uid, &BTreeMap<String, Share>)| {
        let known = tenant.placement.rows.iter().find(|row| row.cluster == *cluster);
        Row {
            cluster: cluster.clone(),
            cluster_name: fleet.get(cluster).map(|known| known.name.clone()).unwrap_or_default(),
            generation: known.map_or(0, |row| row.generation),
            revision: known.map(|row| row.revision.clone()).unwrap_or_default(),
            components: components.clone(),
            removals: Vec::new(),
            trace: String::new(),
        }
    };
    let rows = solution.shares.iter().map(row).collect();
    let placement = Placement { rows, ..tenant.placement.clone() };
    let problem = problem(tenant, now, Some(&placement), neighbours);
    let solution = solve(fleet, &problem);
    hints(fleet, &problem, &solution)
}
