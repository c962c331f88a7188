//! Account: a decision told to people and scripts, for every cluster: what changes, why, why not, and what would help.
//!
//! One shape for all who ask: `hanse explain`, `hanse plan` with a hub and without, and the PlacementReview of the API.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Fleet, Hint, Problem, Solution, hints, mode_of, solve};
use crate::model::{
    Placement, Resources, Uid,
    placement::{Claim, Refusal, Share, Victim, Why},
    revision::RenderedComponent,
};

/// Scripts read it, so fields are only ever added.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    pub application: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Of the store; absent where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Whether what is decided now is what is stored: nothing would change.
    pub settled: bool,
    pub components: Vec<Component>,
    /// Component → what was missing.
    pub unplaced: BTreeMap<String, String>,
    pub hints: Vec<Hint>,
    /// Parts of other Applications that leave, or would, to make room for what is missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<Leaving>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Leaving {
    pub namespace: String,
    pub application: String,
    pub component: String,
    pub cluster: String,
    /// Replicas it had there; absent where it has none to count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// Replicas it may keep there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Component {
    pub name: String,
    pub mode: String,
    /// Replicas in all clusters; absent where the component has none to count.
    pub total: Option<u64>,
    /// `30 = 12 + 10 + 8`, in the order of `clusters`.
    pub sum: Option<String>,
    /// Replicas that leave a cluster which had them, and come in another.
    pub moves: u64,
    /// In order of names.
    pub clusters: Vec<Chosen>,
    /// Every other cluster.
    pub refusals: Vec<Refused>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Chosen {
    pub cluster: String,
    pub replicas: Option<u32>,
    /// What it has now; absent where it has no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    pub is_new: bool,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refused {
    pub cluster: String,
    /// A stable CamelCase word.
    pub reason: String,
    pub message: String,
    /// It has a part now, which it loses.
    pub leaves: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// Where it has too little room: what its nearest node lacks for one more replica, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lacks: String,
}

/// Decides, and tells all of it.
pub fn account(fleet: &mut Fleet, problem: &Problem<'_>) -> Account {
    let solution = solve(fleet, problem);
    let hints = hints(fleet, problem, &solution);
    Account { hints, ..told(fleet, problem, &solution) }
}

/// Who makes room, by these claims.
pub fn leaving(claims: &[Claim]) -> Vec<Leaving> {
    let of = |claim: &Claim, victim: &Victim| Leaving {
        namespace: victim.application.namespace.clone(),
        application: victim.application.name.clone(),
        component: victim.component.clone(),
        cluster: claim.cluster_name.clone(),
        from: victim.replicas.map(|(had, _)| had),
        to: victim.replicas.map(|(_, keeps)| keeps),
    };
    claims.iter().flat_map(|claim| claim.victims.iter().map(move |victim| of(claim, victim))).collect()
}

/// Tells of what is decided.
pub fn told(fleet: &Fleet, problem: &Problem<'_>, solution: &Solution) -> Account {
    let mut names: Vec<&str> = problem.components.iter().map(|component| component.name.as_str()).collect();
    let before = problem.previous.into_iter().flat_map(|placement| &placement.rows);
    // Components that an edit takes away are told of as well.
    let gone: BTreeSet<&str> = before.flat_map(|row| row.components.keys().map(String::as_str)).collect();
    names.extend(gone.into_iter().filter(|name| problem.components.iter().all(|component| component.name != **name)));
    let components: Vec<Component> =
        names.into_iter().map(|name| Teller { fleet, problem, solution, name }.component()).collect();
    let same = |component: &Component| {
        let kept = component.clusters.iter().all(|chosen| !chosen.is_new && chosen.from == chosen.replicas);
        kept && component.refusals.iter().all(|refused| !refused.leaves)
    };
    Account {
        settled: problem.previous.is_some() && components.iter().all(same),
        components,
        unplaced: solution.unplaced.clone(),
        ..Account::default()
    }
}

struct Teller<'a> {
    fleet: &'a Fleet,
    problem: &'a Problem<'a>,
    solution: &'a Solution,
    name: &'a str,
}

impl Teller<'_> {
    fn component(&self) -> Component {
        let component = self.problem.components.iter().find(|component| component.name == self.name);
        let before = shares_of(self.problem.previous, self.name);
        let mut clusters: Vec<Chosen> = self
            .solution
            .shares
            .iter()
            .filter_map(|(uid, shares)| Some(self.chosen(uid, shares.get(self.name)?, before.get(uid).copied())))
            .collect();
        clusters.sort_by(|one, other| one.cluster.cmp(&other.cluster));
        let mine = self.solution.refusals.iter().filter(|refusal| refusal.component == self.name);
        let mut refusals: Vec<Refused> =
            mine.map(|refusal| self.refused(refusal, component, before.get(&refusal.cluster).copied())).collect();
        if component.is_none() {
            let leaving = |(uid, share): (&&Uid, &&Share)| Refused {
                cluster: self.name_of(uid),
                reason: "Removed".into(),
                message: "the application has no such component any more".into(),
                leaves: true,
                from: share.replicas,
                ..Refused::default()
            };
            refusals.extend(before.iter().map(leaving));
        }
        let counts: Option<Vec<u32>> = clusters.iter().map(|share| share.replicas).collect();
        let counts = counts.filter(|_| component.is_some_and(|component| component.replicas.is_some()));
        let had: u64 = before.values().map(|share| u64::from(share.replicas.unwrap_or(0))).sum();
        Component {
            name: self.name.to_owned(),
            mode: mode_of(self.problem.policies, self.name).to_owned(),
            total: counts.as_deref().map(total),
            sum: counts.as_deref().map(sum),
            moves: moves(&clusters, had),
            clusters,
            refusals,
        }
    }

    fn name_of(&self, uid: &Uid) -> String {
        let known = self.fleet.get(uid).map(|cluster| cluster.name.clone());
        let row = || {
            let mut rows = self.problem.previous.into_iter().flat_map(|placement| &placement.rows);
            rows.find(|row| row.cluster == *uid).map(|row| row.cluster_name.clone())
        };
        known.or_else(row).unwrap_or_else(|| uid.to_string())
    }

    fn chosen(&self, uid: &Uid, share: &Share, before: Option<&Share>) -> Chosen {
        Chosen {
            cluster: self.name_of(uid),
            replicas: share.replicas,
            from: before.and_then(|share| share.replicas),
            is_new: before.is_none(),
            reason: share.reason.clone(),
        }
    }

    fn refused(&self, refusal: &Refusal, component: Option<&RenderedComponent>, before: Option<&Share>) -> Refused {
        let room = || self.fleet.get(&refusal.cluster)?.room.as_ref();
        let demand = || component.and_then(|component| component.demand.as_ref());
        let lacks = match refusal.why {
            Why::NoRoom { .. } | Why::BelowMinimum { .. } => {
                room().zip(demand()).map(|(room, demand)| room.shortfall(demand)).filter(|lacks| !lacks.is_empty())
            }
            _ => None,
        };
        Refused {
            cluster: refusal.cluster_name.clone(),
            reason: refusal.why.reason().to_owned(),
            message: refusal.why.to_string(),
            leaves: before.is_some(),
            from: before.and_then(|share| share.replicas),
            lacks: lacks.as_ref().map(Resources::to_string).unwrap_or_default(),
        }
    }
}

fn shares_of<'a>(placement: Option<&'a Placement>, component: &str) -> BTreeMap<&'a Uid, &'a Share> {
    let rows = placement.into_iter().flat_map(|placement| &placement.rows);
    rows.filter_map(|row| Some((&row.cluster, row.components.get(component)?))).collect()
}

/// Of what leaves, what comes elsewhere.
fn moves(clusters: &[Chosen], had: u64) -> u64 {
    let pairs = || clusters.iter().map(|chosen| (u64::from(chosen.from.unwrap_or(0)), chosen.replicas.unwrap_or(0)));
    let stays: u64 = pairs().map(|(from, to)| from.min(to.into())).sum();
    let comes: u64 = pairs().map(|(from, to)| u64::from(to).saturating_sub(from)).sum();
    comes.min(had.saturating_sub(stays))
}

fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|&count| u64::from(count)).sum()
}

fn sum(counts: &[u32]) -> String {
    let parts: Vec<_> = counts.iter().map(ToString::to_string).collect();
    format!("{} = {}", total(counts), if parts.is_empty() { "0".to_owned() } else { parts.join(" + ") })
}
