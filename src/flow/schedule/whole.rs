//! Whole: components that a cluster gets in full and together, in one cluster or in every target.

use std::cmp::Reverse;

use super::{
    Candidate, Room,
    candidates::{Group, Policies, Standing},
    solver::Solver,
};
use crate::model::{Uid, placement::Why, quantity::CPU, revision::RenderedComponent};

type Standings<'a> = [(&'a Uid, &'a Candidate, Standing)];

impl<'a> Solver<'a> {
    /// One cluster for the whole group: the one it is in already, else the one with most room.
    pub fn single(&mut self, group: &Group<'a>, standings: &Standings<'a>) {
        let mut open = Vec::new();
        let mut refused = Vec::new();
        let mut home = None;
        let mut also_here = Vec::new();
        let mut leaving = None;
        for (uid, cluster, standing) in standings {
            let here = group.components.iter().any(|component| self.has(component, uid).is_some());
            match standing {
                Standing::Open | Standing::Keeps(_) if here && home.is_none() => home = Some(*uid),
                Standing::Open | Standing::Keeps(_) if here => also_here.push((*uid, cluster.name.as_str())),
                Standing::Open => match self.fit(group, uid) {
                    Ok(room) => open.push((self.spare(group, uid), *uid, cluster.name.as_str(), room)),
                    Err((component, why)) => refused.push((*uid, cluster.name.as_str(), Some(component), why)),
                },
                Standing::Keeps(why) => refused.push((*uid, cluster.name.as_str(), None, why.clone())),
                Standing::Leaves(why) => {
                    leaving = leaving.or(here.then_some(*uid));
                    refused.push((*uid, cluster.name.as_str(), None, why.clone()));
                }
                Standing::Gone => refused.push((*uid, cluster.name.as_str(), None, Why::Deleting)),
            }
        }
        open.sort_by_key(|(spare, uid, name, _)| (Reverse(*spare), *name, *uid));
        let name_of =
            |wanted: &Uid| standings.iter().find(|(uid, ..)| *uid == wanted).map(|(_, cluster, _)| &*cluster.name);
        let (chosen, detail) = if let Some(uid) = home {
            let name = name_of(uid).unwrap_or_default();
            for component in &group.components {
                let had = self.has(component, uid).and_then(|share| share.replicas);
                let reason = match had {
                    Some(_) => in_full(had, full(component)),
                    None => "where the application runs already".to_owned(),
                };
                self.give(uid, component, full(component), reason);
            }
            (name, "the application runs there already".to_owned())
        } else if let Some((spare, uid, name, room)) = open.first().cloned() {
            let next = open.get(1).map(|(spare, _, name, _)| format!(", next is {name} with {spare}"));
            let reason = format!("most room: {spare}{}", next.unwrap_or_default());
            for component in &group.components {
                self.give(uid, component, full(component), reason.clone());
            }
            self.take(uid, room);
            (name, format!("it has most room, {spare}"))
        } else {
            // It stays until it fits somewhere else.
            if let Some(uid) = leaving {
                group.components.iter().for_each(|component| self.keep(uid, component));
            }
            for component in &group.components {
                self.lack(component, nobody_fits(standings.len(), refused.iter().map(|(.., why)| why)));
            }
            ("", String::new())
        };
        for (uid, name, faulty, why) in refused {
            self.refuse_group(uid, name, &group.components, (faulty, &why));
        }
        for (uid, name) in open.into_iter().map(|(_, uid, name, _)| (uid, name)).chain(also_here) {
            if name != chosen {
                let why = Why::OutScored { other: chosen.to_owned(), detail: detail.clone() };
                self.refuse_group(uid, name, &group.components, (None, &why));
            }
        }
    }

    /// Every target in full. A target that has the group keeps it, whatever its room; a new one must have room for all
    /// of it.
    pub fn duplicated(&mut self, policies: &Policies, group: &Group<'a>, standings: &Standings<'a>) {
        let named = policies.named(group);
        let mut refused = Vec::new();
        let mut without = Vec::new();
        for (uid, cluster, standing) in standings {
            let here = group.components.iter().any(|component| self.has(component, uid).is_some());
            let fit = match standing {
                Standing::Open | Standing::Keeps(_) if here => Ok(None),
                Standing::Open => self.fit(group, uid).map(Some).map_err(|(component, why)| (Some(component), why)),
                Standing::Keeps(why) | Standing::Leaves(why) => Err((None, why.clone())),
                Standing::Gone => Err((None, Why::Deleting)),
            };
            match fit {
                Ok(room) => {
                    for component in &group.components {
                        let had = self.has(component, uid).and_then(|share| share.replicas);
                        self.give(uid, component, full(component), in_full(had, full(component)));
                    }
                    if let Some(room) = room {
                        self.take(uid, room);
                    }
                }
                Err((faulty, why)) => {
                    // A cluster that a selector chooses may be cordoned or silent; one that lacks room is a part of the
                    // Application that does not run.
                    if named.contains(cluster.name.as_str()) || matches!(why, Why::NoRoom { .. }) {
                        without.push(format!("{}: {why}", cluster.name));
                    }
                    if matches!(why, Why::NoRoom { .. } | Why::NoSketch | Why::Silent | Why::NotAccepted) {
                        self.wait();
                    }
                    self.refuse_group(uid, &cluster.name, &group.components, (faulty, &why));
                    refused.push(why);
                }
            }
        }
        for component in &group.components {
            if !without.is_empty() {
                self.lack(component, format!("not in every chosen cluster: {}", first_of(&without)));
            } else if self.holders(component).is_empty() && !policies.allows_empty() {
                self.lack(component, nobody_fits(standings.len(), refused.iter()));
            }
        }
    }

    /// What is left of a cluster's room after the whole group, or what does not fit.
    fn fit(&self, group: &Group<'a>, uid: &Uid) -> Result<Room, (&'a RenderedComponent, Why)> {
        let mut room = self.room(uid).cloned().unwrap_or_default();
        for component in &group.components {
            let Some(demand) = &component.demand else { continue };
            let wanted = component.replicas.as_ref().map_or(1, |replicas| replicas.count);
            let free = room.for_demand(demand);
            if free < wanted {
                return Err((component, Why::NoRoom { room: free, wanted, scarce: room.scarce(demand) }));
            }
            room.take(demand, wanted);
        }
        Ok(room)
    }

    /// How much room a cluster offers: replicas of the group's hungriest component, or free thousandths of a core.
    fn spare(&self, group: &Group<'a>, uid: &Uid) -> u64 {
        let Some(room) = self.room(uid) else { return 0 };
        let demands = group.components.iter().filter_map(|component| component.demand.as_ref());
        let replicas = demands.map(|demand| u64::from(room.for_demand(demand))).min();
        replicas.unwrap_or_else(|| room.free(CPU).max(0) as u64)
    }
}

/// For a sentence: the refusals tell of all.
fn first_of(clusters: &[String]) -> String {
    const NAMED_MAX: usize = 3;
    match clusters.len() {
        0..=NAMED_MAX => clusters.join("; "),
        more => format!("{}; and {} more", clusters[..NAMED_MAX].join("; "), more - NAMED_MAX),
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

/// Why nobody got it, counted: `no cluster can take it: 2 without room, 1 silent`.
pub fn nobody_fits<'w>(clusters: usize, whys: impl Iterator<Item = &'w Why>) -> String {
    if clusters == 0 {
        return "no cluster has joined".into();
    }
    let mut counts: Vec<(&str, u32)> = Vec::new();
    for why in whys {
        let word = match why {
            Why::NotAccepted => "not accepted",
            Why::Deleting => "being deleted",
            Why::Cordoned => "cordoned",
            Why::Silent => "silent",
            Why::NoSketch => "without a report of their capacity",
            Why::NoRoom { .. } => "without room",
            Why::NotNamed | Why::SelectorMismatch { .. } => "not chosen by the policies",
            Why::NoSuchCluster => "unknown",
            Why::OutScored { .. } => "behind another",
            Why::Together { .. } => "without room for all components",
        };
        match counts.iter_mut().find(|(known, _)| *known == word) {
            Some((_, count)) => *count += 1,
            None => counts.push((word, 1)),
        }
    }
    counts.sort_by_key(|&(word, count)| (Reverse(count), word));
    let words: Vec<_> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!("no cluster can take it: {}", words.join(", "))
}
