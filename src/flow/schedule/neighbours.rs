//! Neighbours: which clusters other Applications close to this one, by what the policies say of being with or apart.
//!
//! Owns: the meaning of `affinity`. Must never: take anything away: a cluster that is closed keeps what it has. Who is
//! apart from somebody keeps him apart too, whichever of them came first.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::fleet::{Domains, Fleet, Id};
use crate::model::{
    Application, Uid,
    application::{Affinity, AffinityTerm, PlacementPolicy, Policy},
    placement::Why,
};

/// Other Applications of the namespace that may matter, and who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Neighbours {
    pub own: Named,
    /// In order of names. Those that follow or avoid somebody are all here, so that circles show.
    pub others: Vec<Neighbour>,
}

/// What terms look at in an Application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Named {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Neighbour {
    #[serde(flatten)]
    pub named: Named,
    pub affinity: Affinity,
    /// Clusters that some component of it is decided for.
    pub placed: BTreeSet<Uid>,
    /// The same, those that it has yet to leave, and those that it may turn out to be in.
    pub present: BTreeSet<Uid>,
}

/// What all placement policies of an Application say of others; absent where that is nothing. What cannot be read says
/// nothing: admission refuses it first.
pub fn affinity_of(policies: &[Policy]) -> Option<Affinity> {
    let of = |policy: &Policy| {
        let says = policy.type_ == "placement" && policy.properties.get("affinity").is_some();
        says.then(|| serde_json::from_value::<PlacementPolicy>(policy.properties.clone()).ok()?.affinity)?
    };
    policies.iter().filter_map(of).reduce(|mut all, more| {
        all.with.extend(more.with);
        all.apart.extend(more.apart);
        all
    })
}

impl Affinity {
    /// Whether it says anything of this one.
    pub fn speaks_of(&self, named: &Named) -> bool {
        self.with.iter().chain(&self.apart).any(|term| term.means(named))
    }
}

/// Whether another Application matters to one that is called `own` and says `asks` of others.
pub fn matters(own: &Named, asks: Option<&Affinity>, other: &Named, says: Option<&Affinity>) -> bool {
    // Whoever says something is looked at by those who do, so that circles show.
    let speaks = says.is_some_and(|says| asks.is_some() || says.apart.iter().any(|term| term.means(own)));
    speaks || asks.is_some_and(|asks| asks.speaks_of(other))
}

impl Named {
    pub fn of(application: &Application) -> Self {
        Self { name: application.metadata.name.clone(), labels: application.metadata.labels.clone() }
    }
}

impl Neighbour {
    /// It turned out to be, or will be, in these clusters and no others.
    pub fn moved_to(&mut self, clusters: &BTreeSet<Uid>) {
        self.placed.clone_from(clusters);
        self.present.clone_from(clusters);
    }

    /// These clusters are no more.
    pub fn bereft_of(&mut self, lost: &BTreeSet<Uid>) {
        self.placed.retain(|cluster| !lost.contains(cluster));
        self.present.retain(|cluster| !lost.contains(cluster));
    }
}

impl Neighbours {
    pub const NONE: Self = Self { own: Named { name: String::new(), labels: BTreeMap::new() }, others: Vec::new() };

    /// Whether nothing is said of others, by anybody.
    pub fn is_nobody(&self) -> bool {
        *self == Self::NONE
    }
}

impl AffinityTerm {
    pub fn means(&self, named: &Named) -> bool {
        match &self.application {
            Some(name) => *name == named.name,
            None => self.selector.as_ref().is_some_and(|selector| selector.matches(&named.labels)),
        }
    }
}

/// Clusters that may get nothing new, each with the first reason.
pub fn closed(fleet: &mut Fleet, affinity: Option<&Affinity>, neighbours: &Neighbours) -> BTreeMap<Id, Why> {
    let mut closed = BTreeMap::new();
    let Neighbours { own, others } = neighbours;
    for other in others {
        let ours = affinity.iter().flat_map(|affinity| &affinity.apart).filter(|term| term.means(&other.named));
        let theirs = other.affinity.apart.iter().filter(|term| term.means(own));
        let topologies: BTreeSet<&str> = ours.chain(theirs).map(|term| term.topology.as_str()).collect();
        for topology in topologies {
            let area = Area::of(fleet, topology, &other.present);
            let why = Why::AntiAffinity { topology: topology.to_owned(), other: other.named.name.clone() };
            for id in area.ids(fleet.settled_len()) {
                closed.entry(id).or_insert_with(|| why.clone());
            }
        }
    }
    for term in affinity.iter().flat_map(|affinity| &affinity.with) {
        let wanted = || others.iter().filter(|other| term.means(&other.named));
        let placed: BTreeSet<Uid> = wanted().flat_map(|other| other.placed.iter().cloned()).collect();
        // The first of a group would wait for itself.
        if placed.is_empty() && term.means(own) {
            continue;
        }
        let detail = match (wanted().next(), placed.is_empty()) {
            (None, _) => "there is none".to_owned(),
            (Some(_), true) => circle(affinity, neighbours).unwrap_or_else(|| "it runs nowhere yet".to_owned()),
            (Some(_), false) => "it runs elsewhere".to_owned(),
        };
        let area = Area::of(fleet, &term.topology, &placed);
        let why = Why::Affinity { topology: term.topology.clone(), with: term.to_string(), detail };
        let outside = (0..fleet.settled_len()).filter(|id| !area.has(*id) && !closed.contains_key(id));
        let outside: Vec<_> = outside.map(|id| (id, why.clone())).collect();
        closed.extend(outside);
    }
    closed
}

/// A chain of Applications of which each waits for the next and the last for the one that asks: none of them runs.
pub fn circle(affinity: Option<&Affinity>, neighbours: &Neighbours) -> Option<String> {
    let Neighbours { own, others } = neighbours;
    // Of those that a term means, whoever runs ends the wait.
    let awaited = |affinity: &Affinity, of: &Named| {
        let mut next = Vec::new();
        for term in affinity.with.iter().filter(|term| !term.means(of)) {
            let meant: Vec<usize> = (0..others.len()).filter(|&index| term.means(&others[index].named)).collect();
            if meant.iter().all(|&index| others[index].placed.is_empty()) {
                next.extend(meant);
            }
        }
        next
    };
    let mut seen = BTreeSet::new();
    let mut paths: Vec<Vec<usize>> = awaited(affinity?, own).into_iter().rev().map(|index| vec![index]).collect();
    while let Some(path) = paths.pop() {
        let last = &others[*path.last()?];
        if !seen.insert(*path.last()?) {
            continue;
        }
        let waits = |term: &AffinityTerm| term.means(own) && !term.means(&last.named);
        if last.affinity.with.iter().any(waits) {
            let names: Vec<&str> = path.iter().map(|&index| others[index].named.name.as_str()).collect();
            return Some(format!("it waits for {}, which waits for {}", names.join(", which waits for "), own.name));
        }
        for index in awaited(&last.affinity, &last.named).into_iter().rev() {
            paths.push(path.iter().copied().chain([index]).collect());
        }
    }
    None
}

/// The clusters of some groups of a topology.
enum Area {
    Clusters(BTreeSet<Id>),
    Groups { of: std::sync::Arc<Domains>, groups: BTreeSet<u32> },
}

impl Area {
    fn of(fleet: &mut Fleet, topology: &str, clusters: &BTreeSet<Uid>) -> Self {
        let ids: BTreeSet<Id> = clusters.iter().filter_map(|uid| fleet.id(uid)).collect();
        if topology == "cluster" {
            return Self::Clusters(ids);
        }
        let of = fleet.domains(topology);
        let groups = ids.iter().map(|&id| of.of[id as usize]).filter(|&group| group != Domains::NONE).collect();
        Self::Groups { of, groups }
    }

    fn has(&self, id: Id) -> bool {
        match self {
            Self::Clusters(ids) => ids.contains(&id),
            Self::Groups { of, groups } => groups.contains(&of.of[id as usize]),
        }
    }

    fn ids(&self, end: Id) -> Vec<Id> {
        match self {
            Self::Clusters(ids) => ids.iter().copied().collect(),
            Self::Groups { .. } => (0..end).filter(|&id| self.has(id)).collect(),
        }
    }
}
