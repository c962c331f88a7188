//! Divided: a component's replicas as a total over the targets, by free capacity.
//!
//! Only the difference to the previous answer is divided. More replicas go where room is, in proportion to it; fewer
//! are taken in proportion to what is there; those of a cluster that leaves move. Where the difference does not fit,
//! nothing new is placed and what runs stays, because half a scale-up nobody asked for is worse than a clear no.
//!
//! Where a replica asks for something else than before, all of them are the difference: each cluster is looked at as if
//! what runs there were gone. What fits stays, the rest moves, and where not all fit the edit is outgrown.

use super::{
    Candidate,
    candidates::{Group, Standing},
    divide::apportion,
    solver::Solver,
    whole::nobody_fits,
};
use crate::model::{Demand, Uid, placement::Why, revision::RenderedComponent};

/// A cluster's part in the small integer problem.
struct Part<'a> {
    uid: &'a Uid,
    name: &'a str,
    had: u32,
    /// Of those, what may stay where it is.
    stays: u32,
    /// What it may get more; 0 where it is not open.
    room: u32,
    /// More than this do not fit as they are asked for now; no bound where that is as before.
    bound: u32,
    standing: Standing,
}

impl<'a> Solver<'a> {
    pub fn divided(&mut self, group: &Group<'a>, standings: &[(&'a Uid, &'a Candidate, Standing)]) {
        let counted: Vec<_> =
            group.components.iter().copied().filter(|component| component.replicas.is_some()).collect();
        for component in &counted {
            self.divide_one(component, standings);
        }
        // What has no replicas to count (a ConfigMap, a Job) goes wherever the counted components of its group run.
        for component in group.components.iter().filter(|component| component.replicas.is_none()) {
            let targets: Vec<Uid> = match counted.is_empty() {
                true => standings
                    .iter()
                    .filter(|(.., standing)| *standing == Standing::Open)
                    .map(|(uid, ..)| (*uid).clone())
                    .collect(),
                false => counted.iter().flat_map(|counted| self.holders(counted)).cloned().collect(),
            };
            for uid in targets {
                self.give(&uid, component, None, "where the divided components run".into());
            }
            for (uid, _, standing) in standings {
                if counted.is_empty() && matches!(standing, Standing::Keeps(_)) {
                    self.keep(uid, component);
                }
            }
            for (uid, cluster, standing) in standings {
                if self.gets(component, uid) {
                    continue;
                }
                let why = match (standing, counted.first()) {
                    (Standing::Keeps(why) | Standing::Leaves(why), _) => why.clone(),
                    (Standing::Gone, _) => Why::Deleting,
                    (Standing::Open, Some(counted)) => Why::Together { component: counted.name.clone() },
                    (Standing::Open, None) => continue,
                };
                self.refuse(uid, &cluster.name, component, why);
            }
        }
    }

    fn divide_one(&mut self, component: &'a RenderedComponent, standings: &[(&'a Uid, &'a Candidate, Standing)]) {
        let wanted = component.replicas.as_ref().map_or(0, |replicas| replicas.count);
        let nothing = Demand::default();
        let demand = component.demand.as_ref().unwrap_or(&nothing);
        let before = self.demand_before(component);
        let part = |(uid, cluster, standing): &(&'a Uid, &'a Candidate, Standing)| {
            self.part((uid, &cluster.name, standing), component, demand, before)
        };
        let parts: Vec<Part<'a>> = standings.iter().map(part).collect();
        let stays = |part: &Part<'_>| matches!(part.standing, Standing::Open | Standing::Keeps(_));
        let kept: Vec<u32> = parts.iter().map(|part| part.stays).collect();
        let sum = kept.iter().fold(0u32, |sum, &had| sum.saturating_add(had));
        let room = parts.iter().map(|part| part.room).fold(0u32, u32::saturating_add);

        let shares = if wanted <= sum {
            apportion(wanted, &kept)
        } else if wanted - sum <= room {
            let rooms: Vec<u32> = parts.iter().map(|part| part.room).collect();
            let more = apportion(wanted - sum, &rooms);
            kept.iter().zip(&more).map(|(had, more)| had + more).collect()
        } else {
            self.stay_put(&parts, &kept, wanted - sum)
        };
        let placed: u32 = shares.iter().sum();
        let runs = parts.iter().any(|part| part.had > 0);
        let beyond = parts.iter().zip(&shares).any(|(part, &share)| share > part.bound);
        if before.is_some() && runs && (placed < wanted || beyond) {
            return self.outgrown(component, demand, wanted, &parts);
        }
        if wanted > sum && wanted - sum > room {
            let fits = sum.saturating_add(room);
            let whys: Vec<Why> = parts.iter().filter_map(|part| self.shortage(part, demand, wanted)).collect();
            self.lack(
                component,
                match (fits, room) {
                    (0, 0) => nobody_fits(parts.len(), whys.iter()),
                    _ => format!(
                        "room for {fits} of {wanted} replicas; {placed} run, nothing new is placed until all fit"
                    ),
                },
            );
        }

        let figures = Figures { wanted, room, had: parts.iter().map(|part| part.had).fold(0, u32::saturating_add) };
        for (part, &share) in parts.iter().zip(&shares) {
            // At a total of zero the holders keep the workload, scaled to nothing: it is still placed there.
            let present = share > 0 || (wanted == 0 && stays(part) && self.has(component, part.uid).is_some());
            if present {
                self.give(part.uid, component, Some(share), figures.reason(part, share));
            }
            let more = share.saturating_sub(part.had);
            if (more > 0 || before.is_some_and(|_| part.had > 0))
                && let Some(mut left) = self.room(part.uid).cloned()
            {
                match before {
                    Some(before) => {
                        left.give_back(before, part.had);
                        left.take(demand, share);
                    }
                    None => left.take(demand, more),
                }
                self.take(part.uid, left);
            }
            if !present {
                let why = self.shortage(part, demand, wanted).unwrap_or_else(|| Why::OutScored {
                    other: largest(&parts, &shares),
                    detail: match placed < wanted {
                        true => format!("all {wanted} or nothing new, and only {} fit", sum.saturating_add(room)),
                        false => format!("all {wanted} replicas are placed, and what runs stays"),
                    },
                });
                self.refuse(part.uid, part.name, component, why);
            }
        }
        if wanted == 0 && self.holders(component).is_empty() {
            self.place_nothing(component, &parts);
        }
    }

    /// `before` is what each replica that runs asks for, where that is another demand.
    fn part(
        &self,
        (uid, name, standing): (&'a Uid, &'a str, &Standing),
        component: &RenderedComponent,
        demand: &Demand,
        before: Option<&Demand>,
    ) -> Part<'a> {
        let had = self.has(component, uid).and_then(|share| share.replicas).unwrap_or(0);
        let is_open = *standing == Standing::Open;
        let (mut stays, mut bound) = (had, u32::MAX);
        let room = match before {
            None => self.room(uid).filter(|_| is_open).map_or(0, |room| room.for_demand(demand)),
            Some(before) => {
                let emptied = self.room(uid).cloned().map(|mut room| {
                    room.give_back(before, had);
                    room
                });
                let fits = emptied.map_or(0, |room| room.for_demand(demand));
                // What shrinks fits where it is, whatever is known of the rest.
                bound = if is_within(demand, before) { fits.max(had) } else { fits };
                stays = if is_open { had.min(bound) } else { had };
                if is_open { bound - stays } else { 0 }
            }
        };
        if matches!(standing, Standing::Leaves(_) | Standing::Gone) {
            stays = 0;
        }
        Part { uid, name, had, stays, room, bound, standing: standing.clone() }
    }

    /// As they are asked for now the replicas fit nowhere; every cluster says how many it could take.
    fn outgrown(&mut self, component: &'a RenderedComponent, demand: &Demand, wanted: u32, parts: &[Part<'a>]) {
        let stays = |part: &&Part<'_>| matches!(part.standing, Standing::Open | Standing::Keeps(_));
        let fits = |part: &Part<'_>| part.stays.saturating_add(part.room).min(part.bound);
        let all = parts.iter().filter(stays).map(fits).fold(0, u32::saturating_add);
        self.outgrow(
            component,
            format!(
                "room for {all} of {wanted} replicas as they are asked for now; the revision that runs goes on until all fit"
            ),
        );
        for part in parts {
            let why = match &part.standing {
                Standing::Open => {
                    let scarce = self.room(part.uid).map(|room| room.scarce(demand)).unwrap_or_default();
                    Why::NoRoom { room: fits(part), wanted, scarce }
                }
                Standing::Keeps(why) | Standing::Leaves(why) => why.clone(),
                Standing::Gone => Why::Deleting,
            };
            self.refuse(part.uid, part.name, component, why);
        }
    }

    /// A total of zero on first placement: the cluster with most room gets the workload without replicas.
    fn place_nothing(&mut self, component: &RenderedComponent, parts: &[Part<'a>]) {
        let open = parts.iter().filter(|part| part.standing == Standing::Open);
        match open.min_by_key(|part| (std::cmp::Reverse(part.room), part.name, part.uid)) {
            Some(part) => self.give(part.uid, component, Some(0), "0 of 0: most room".into()),
            None => self.lack(component, "no cluster can take it".into()),
        }
    }

    /// The difference does not fit: holders keep what they have, also those that should leave, as far as `lacking`
    /// replicas are missing without them. Only a cluster that is being deleted loses its part all the same.
    fn stay_put(&self, parts: &[Part<'_>], kept: &[u32], mut lacking: u32) -> Vec<u32> {
        let mut shares = kept.to_vec();
        for (share, part) in shares.iter_mut().zip(parts) {
            if matches!(part.standing, Standing::Leaves(_)) {
                *share = part.had.min(lacking);
                lacking -= *share;
            }
        }
        shares
    }

    fn shortage(&self, part: &Part<'_>, demand: &Demand, wanted: u32) -> Option<Why> {
        match &part.standing {
            Standing::Keeps(why) | Standing::Leaves(why) => Some(why.clone()),
            Standing::Gone => Some(Why::Deleting),
            Standing::Open if part.room == 0 => {
                let scarce = self.room(part.uid).map(|room| room.scarce(demand)).unwrap_or_default();
                Some(Why::NoRoom { room: 0, wanted, scarce })
            }
            Standing::Open => None,
        }
    }
}

/// Whether one demand asks for no more than the other, and for no other nodes.
fn is_within(demand: &Demand, other: &Demand) -> bool {
    let requests = &demand.requests.0;
    requests.iter().all(|(name, &amount)| amount <= other.requests.get(name))
        && (&demand.node_selector, &demand.tolerations) == (&other.node_selector, &other.tolerations)
}

fn largest(parts: &[Part<'_>], shares: &[u32]) -> String {
    let most = parts
        .iter()
        .zip(shares)
        .filter(|&(_, &share)| share > 0)
        .min_by_key(|&(part, &share)| (std::cmp::Reverse(share), part.name));
    most.map_or_else(|| "nobody".to_owned(), |(part, _)| part.name.to_owned())
}

/// What the reasons quote.
struct Figures {
    wanted: u32,
    had: u32,
    room: u32,
}

impl Figures {
    fn reason(&self, part: &Part<'_>, share: u32) -> String {
        let Self { wanted, had, room } = self;
        let by_room = || format!("by free capacity, {} of {room}", part.room);
        match (part.had, share) {
            (0, share) => format!("{share} of {wanted} {}", by_room()),
            (before, share) if share > before => {
                format!("{share} of {wanted}, up from {before}: {} more {}", share - before, by_room())
            }
            (before, share) if share < before && wanted < had => {
                format!("{share} of {wanted}, down from {before}: the total went from {had} to {wanted}")
            }
            (before, share) if share < before => {
                format!("{share} of {wanted}, down from {before}: no more fit as they are asked for now")
            }
            (_, share) => format!("{share} of {wanted}"),
        }
    }
}
