//! Fleet: every cluster as placement sees it, and what is derived of them, kept up to date change by change.
//!
//! Owns: the clusters' dense ids, and columns over them: how much room each has for a demand, how each stands to a
//! policy, which group of a label each is in. Must never: let an answer depend on what happened to be derived before;
//! a column is what making it anew would give.
//!
//! A cluster's id is its place in the order of names and uids, in which every tie ends. Ids hold until a cluster joins or
//! leaves; then everything derived is dropped. What changes in a cluster is noted in a log, and a column that is asked
//! for again looks at what was noted since.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Room,
    columns::{Columns, Log},
    expression::Expression,
    filter::{Needed, View},
    standing::{Rules, Standings},
};
use crate::model::{
    Cluster, Demand, Timestamp, Uid,
    cluster::{ClusterTaint, PROVIDER_LABEL, Property, REGION_LABEL, TaintEffect, ZONE_LABEL},
};

/// A cluster as placement sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Candidate {
    pub name: String,
    /// The hub's labels; what the agent says of its cluster is never matched (rule 10).
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<ClusterTaint>,
    pub properties: BTreeMap<String, Property>,
    pub accepted: bool,
    pub cordoned: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    pub deleting: bool,
    pub silent: bool,
    /// What is free after everything that is decided has been taken off; absent without a fresh sketch.
    pub room: Option<Room>,
}

/// The place of a cluster in the order of names and uids.
pub type Id = u32;

/// A copy shares what is derived until one of them changes.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    clusters: Vec<(Uid, Candidate)>,
    ids: BTreeMap<Uid, Id>,
    /// Clusters without an id yet.
    joined: BTreeMap<Uid, Candidate>,
    /// A cluster left, and took the ids with it.
    unsettled: bool,
    deleting: BTreeSet<Id>,
    /// Changes of anything but amounts of room.
    facts: Log,
    rooms: Log,
    capacities: Columns<Demand, Vec<u32>>,
    /// Namespace → where something beside room bounds its pods.
    ruled: Columns<String, Ruled>,
    standings: Columns<String, Standings>,
    domains: Columns<String, Domains>,
    expressions: Columns<String, Result<Expression, String>>,
    /// Some filter or score asks for room: what changes a room may change who is chosen.
    rooms_choose: bool,
}

/// Which group of one label each cluster is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Domains {
    /// By id: index into `names`, or [`Domains::NONE`].
    pub of: Vec<u32>,
    pub names: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

impl Fleet {
    pub fn of(clusters: impl IntoIterator<Item = (Uid, Candidate)>) -> Self {
        let mut fleet = Self { joined: clusters.into_iter().collect(), ..Self::default() };
        fleet.settle();
        fleet
    }

    /// As `kubectl get clusters -o yaml` prints it, for asking "what if" away from a hub: a cluster that is not Ready
    /// counts as silent, and a stored sketch as fresh.
    pub fn of_clusters(clusters: &[Cluster]) -> Self {
        let candidate = |cluster: &Cluster| Candidate {
            silent: !cluster.status.conditions.is_true(crate::model::cluster::READY),
            room: cluster.status.sketch.as_ref().map(Room::of),
            ..Candidate::of(cluster)
        };
        Self::of(clusters.iter().map(|cluster| (cluster.metadata.uid.clone(), candidate(cluster))))
    }

    pub fn get(&self, uid: &Uid) -> Option<&Candidate> {
        match self.ids.get(uid) {
            Some(&id) => Some(&self.clusters[id as usize].1),
            None => self.joined.get(uid),
        }
    }

    /// In order of ids, those that have none yet last.
    pub fn iter(&self) -> impl Iterator<Item = (&Uid, &Candidate)> {
        self.clusters.iter().map(|(uid, candidate)| (uid, candidate)).chain(&self.joined)
    }

    pub fn len(&self) -> usize {
        self.clusters.len() + self.joined.len()
    }

    /// Clusters that have an id: all of them, once the fleet is settled.
    pub fn settled_len(&self) -> Id {
        self.clusters.len() as Id
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A cluster joined or changed. Whether anything but its room did.
    pub fn upsert(&mut self, uid: &Uid, candidate: Candidate) -> bool {
        let Some(&id) = self.ids.get(uid) else {
            return self.joined.insert(uid.clone(), candidate.clone()).as_ref() != Some(&candidate);
        };
        let known = &mut self.clusters[id as usize].1;
        if known.name != candidate.name {
            self.remove(uid);
            self.joined.insert(uid.clone(), candidate);
            return true;
        }
        let (room, mut fresh) = (known.room.take(), candidate);
        let fresh_room = fresh.room.take();
        let facts_changed = *known != fresh || room.is_some() != fresh_room.is_some();
        let room_changed = room != fresh_room;
        match fresh.deleting {
            true => drop(self.deleting.insert(id)),
            false => drop(self.deleting.remove(&id)),
        }
        *known = Candidate { room: fresh_room, ..fresh };
        if facts_changed {
            self.facts.note(id);
        }
        if room_changed {
            self.note_room(id);
        }
        facts_changed
    }

    /// Whether it was known.
    pub fn remove(&mut self, uid: &Uid) -> bool {
        if self.joined.remove(uid).is_some() {
            return true;
        }
        if !self.ids.contains_key(uid) {
            return false;
        }
        let clusters = std::mem::take(&mut self.clusters);
        self.joined.extend(clusters.into_iter().filter(|(known, _)| known != uid));
        self.ids.clear();
        self.unsettled = true;
        true
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn set_room(&mut self, uid: &Uid, room: Option<Room>) {
        let Some(&id) = self.ids.get(uid) else {
            if let Some(known) = self.joined.get_mut(uid) {
                known.room = room;
            }
            return;
        };
        let known = &mut self.clusters[id as usize].1.room;
        if *known == room {
            return;
        }
        if known.is_some() != room.is_some() {
            self.facts.note(id);
        }
        *known = room;
        self.note_room(id);
    }

    fn note_room(&mut self, id: Id) {
        self.rooms.note(id);
        if self.rooms_choose {
            self.facts.note(id);
        }
    }

    pub fn set_silent(&mut self, uid: &Uid, silent: bool) {
        let Some(&id) = self.ids.get(uid) else {
            if let Some(known) = self.joined.get_mut(uid) {
                known.silent = silent;
            }
            return;
        };
        let known = &mut self.clusters[id as usize].1.silent;
        if *known != silent {
            *known = silent;
            self.facts.note(id);
        }
    }

    /// Gives every cluster its id. Before anything is decided.
    pub fn settle(&mut self) {
        if self.joined.is_empty() && !self.unsettled {
            return;
        }
        self.unsettled = false;
        self.clusters.extend(std::mem::take(&mut self.joined));
        self.clusters.sort_by(|(uid, one), (other_uid, other)| (&one.name, uid).cmp(&(&other.name, other_uid)));
        self.ids = self.clusters.iter().zip(0..).map(|((uid, _), id)| (uid.clone(), id)).collect();
        let deleting = self.clusters.iter().zip(0..).filter(|((_, candidate), _)| candidate.deleting);
        self.deleting = deleting.map(|(_, id)| id).collect();
        let bound = self.clusters.len().max(1024);
        (self.facts, self.rooms) = (Log::bounded(bound), Log::bounded(2 * bound));
        (self.capacities, self.ruled, self.standings, self.domains) = Default::default();
    }

    pub fn id(&self, uid: &Uid) -> Option<Id> {
        self.ids.get(uid).copied()
    }

    pub fn uid(&self, id: Id) -> &Uid {
        &self.clusters[id as usize].0
    }

    pub fn at(&self, id: Id) -> &Candidate {
        &self.clusters[id as usize].1
    }

    /// A cluster of this name, whichever uid it has.
    pub fn named(&self, name: &str) -> Option<Id> {
        let at = self.clusters.partition_point(|(_, candidate)| candidate.name.as_str() < name);
        self.clusters.get(at).filter(|(_, candidate)| candidate.name == name).map(|_| at as Id)
    }

    /// By id: how many replicas of `demand` fit.
    pub fn capacities(&mut self, demand: &Demand) -> Arc<Vec<u32>> {
        let Self { clusters, capacities, ruled, rooms, .. } = self;
        let is_ruled =
            |id: Id| clusters[id as usize].1.room.as_ref().is_some_and(|room| room.has_rules(&demand.namespace));
        let ruled = ruled.get(
            &demand.namespace,
            rooms.end,
            || Ruled::of((0..clusters.len() as Id).map(is_ruled).collect()),
            |column: &mut Ruled, since| rooms.since(since, |id| column.set(id, is_ruled(id))),
        );
        // Where no cluster has rules for its namespace, all demands that differ in nothing else share a column.
        let anywhere;
        let demand = match ruled.count > 0 || demand.namespace.is_empty() {
            true => demand,
            false => {
                anywhere = Demand { namespace: String::new(), ..demand.clone() };
                &anywhere
            }
        };
        let fits = |id: Id| clusters[id as usize].1.room.as_ref().map_or(0, |room| room.for_demand(demand));
        capacities.get(
            demand,
            rooms.end,
            || (0..clusters.len() as Id).map(fits).collect(),
            |column: &mut Vec<u32>, since| rooms.since(since, |id| column[id as usize] = fits(id)),
        )
    }

    /// How each cluster stands to `rules`, whose text is `key`. Where names or a label say who is chosen, only those are
    /// looked at.
    pub fn standings(&mut self, key: &str, rules: &Rules<'_>, now: Timestamp) -> Arc<Standings> {
        self.rooms_choose |= rules.read_room();
        if self.standings.peek(key).is_some_and(|known| !known.holds_at(now)) {
            self.standings.forget(key);
        }
        let (needed, otherwise) = rules.needs().unzip();
        let fresh = rules.are_of_one_decision() || self.standings.peek(key).is_none();
        let looked_at = needed.filter(|_| fresh).map(|needed| self.who_has(&needed));
        let Self { clusters, standings, facts, .. } = self;
        let at = |id: Id| (id, &clusters[id as usize]);
        let make = || match looked_at {
            Some(ids) => rules.stand_all(clusters.len(), otherwise, ids.into_iter().map(at), now),
            None => rules.stand_all(clusters.len(), None, (0..clusters.len() as Id).map(at), now),
        };
        if rules.are_of_one_decision() {
            return Arc::new(make());
        }
        standings.get(key, facts.end, make, |column, since| {
            facts.since(since, |id| {
                let (uid, cluster) = &clusters[id as usize];
                rules.stand(column, id, &View { uid, cluster, now });
            })
        })
    }

    /// Clusters that have what is needed, and those that are being deleted whatever they have; in order.
    fn who_has(&mut self, needed: &Needed<'_>) -> BTreeSet<Id> {
        let mut ids = self.deleting.clone();
        match needed {
            Needed::Name(names) => {
                for name in *names {
                    let first = self.clusters.partition_point(|(_, known)| known.name.as_str() < *name);
                    let same = self.clusters[first..].iter().take_while(|(_, known)| known.name == *name).count();
                    ids.extend(first as Id..(first + same) as Id);
                }
            }
            Needed::Label { key, values } => {
                let domains = self.domain_of(key);
                let numbers: Vec<u32> =
                    values.iter().filter_map(|value| domains.numbers.get(*value)).copied().collect();
                let has = |(of, _): &(&u32, Id)| numbers.contains(of);
                ids.extend(domains.of.iter().zip(0..).filter(has).map(|(_, id)| id));
            }
        }
        ids
    }

    /// An expression, read once.
    pub fn expression(&mut self, text: &str) -> Arc<Result<Expression, String>> {
        self.expressions.get(text, 0, || Expression::read(text), |_, _| true)
    }

    /// Which group of a spread constraint each cluster is in. Clusters themselves are no column: each is its own group.
    pub fn domains(&mut self, by: &str) -> Arc<Domains> {
        self.domain_of(label_of(by))
    }

    fn domain_of(&mut self, key: &str) -> Arc<Domains> {
        let Self { clusters, domains, facts, .. } = self;
        let value = |id: Id| clusters[id as usize].1.labels.get(key).map(String::as_str);
        let make = || {
            let mut column = Domains { of: vec![Domains::NONE; clusters.len()], ..Domains::default() };
            (0..clusters.len() as Id).for_each(|id| column.set(id, value(id)));
            column
        };
        domains.get(key, facts.end, make, |column, since| facts.since(since, |id| column.set(id, value(id))))
    }
}

/// The label behind a word of spread constraints.
pub fn label_of(by: &str) -> &str {
    match by {
        "region" => REGION_LABEL,
        "zone" => ZONE_LABEL,
        "provider" => PROVIDER_LABEL,
        label => label,
    }
}

impl Candidate {
    /// Whether what runs there is to leave for now: it is drained, or tainted so.
    pub fn is_to_be_left(&self) -> bool {
        self.draining || self.taints.iter().any(|taint| taint.effect == TaintEffect::NoExecute)
    }

    /// What the object says; silence and room are heard, not stored.
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            name: cluster.metadata.name.clone(),
            labels: cluster.metadata.labels.clone(),
            taints: cluster.spec.taints.clone(),
            properties: cluster.spec.properties.clone(),
            accepted: cluster.spec.accepted,
            cordoned: cluster.spec.unschedulable,
            draining: cluster.spec.drain,
            deleting: cluster.metadata.deletion_timestamp.is_some(),
            silent: false,
            room: None,
        }
    }
}

impl Domains {
    pub const NONE: u32 = u32::MAX;

    fn set(&mut self, id: Id, value: Option<&str>) {
        self.of[id as usize] = match value {
            None => Self::NONE,
            Some(value) => match self.numbers.get(value) {
                Some(&number) => number,
                None => {
                    let number = self.names.len() as u32;
                    self.names.push(value.to_owned());
                    self.numbers.insert(value.to_owned(), number);
                    number
                }
            },
        };
    }
}

/// Clusters with rules for one namespace.
#[derive(Debug, Clone, Default)]
struct Ruled {
    of: Vec<bool>,
    count: usize,
}

impl Ruled {
    fn of(of: Vec<bool>) -> Self {
        Self { count: of.iter().filter(|ruled| **ruled).count(), of }
    }

    fn set(&mut self, id: Id, ruled: bool) {
        let before = std::mem::replace(&mut self.of[id as usize], ruled);
        self.count = self.count + usize::from(ruled) - usize::from(before);
    }
}
