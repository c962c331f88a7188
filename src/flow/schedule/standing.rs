//! Standing: how each cluster stands to a group of components, and what the policy has set for it.
//!
//! Owns: which filters and scores there are for a group, in their order, and what they come to. Everything here is a column
//! over the fleet that many Applications share; what one decision alone knows (held clusters, other Applications) is laid
//! over it by the solver.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    expression::Expression,
    filter::{Asked, Chosen, Draining, Filter, Holds, Membership, Needed, Sketched, Taints, Verdict, View},
    fleet::{Candidate, Id},
    profile::Found,
    score::{Preferred, Score},
};
use crate::model::{
    Timestamp, Uid,
    application::{ClusterSet, PlacementPolicy, Topology},
    placement::Why,
    profile::SCORE_MAX,
};

/// How a cluster stands to a component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// May get more.
    Open,
    /// Keeps what it has, gets nothing new.
    Keeps(Why),
    /// Is no candidate: what it has moves away as soon as it fits elsewhere.
    Leaves(Why),
    /// What it has leaves whether or not it fits elsewhere: it is being deleted, or makes room.
    Gone(Why),
}

/// A place in the order of preference; the smallest is filled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tier {
    /// The policy's group.
    pub group: u16,
    /// Whether a `PreferNoSchedule` taint speaks against it.
    avoided: bool,
    /// The preferences' sum; what a cluster does not say counts as the worst.
    unknown: u8,
    cost: i64,
    /// What the platform's scores come to, turned round: they decide where the policy has no preference.
    demerit: i64,
}

impl Tier {
    /// What the policy itself wishes for. What the platform's scores say changes with every pod: nothing moves for it.
    pub fn wished(self) -> Self {
        Self { demerit: 0, ..self }
    }
}

/// Bounds of the replicas in one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub min: u32,
    pub max: u32,
}

impl Limit {
    pub const NONE: Self = Self { min: 0, max: u32::MAX };
}

/// By id. Columns that the policy says nothing of are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standings {
    codes: Vec<u16>,
    /// What the codes mean; the first is `Open`.
    meanings: Vec<Standing>,
    tiers: Vec<Tier>,
    weights: Vec<u32>,
    limits: Vec<Limit>,
    /// Clusters whose taint is tolerated, and until when.
    ends: BTreeMap<Id, Timestamp>,
    as_of: Option<Timestamp>,
}

/// Who may get a part of a group of components, and who gets it first.
pub struct Rules<'p> {
    policy: Option<&'p PlacementPolicy>,
    /// In the order in which they speak.
    filters: Vec<Arc<dyn Filter + 'p>>,
    /// Of those, the one by which most clusters are no candidates.
    chosen: Option<Arc<Chosen<'p>>>,
    /// The policy's own, each already weighed.
    preferences: Vec<Preferred<'p>>,
    /// The platform's.
    scores: &'p [(Arc<dyn Score>, u32)],
    /// What a plug-in said, for this decision alone.
    judged: Option<(Asked<'p>, u32)>,
    /// Where taints count.
    taints: Option<Arc<Taints<'p>>>,
    reads_time: bool,
}

impl Standings {
    pub const OPEN: u16 = 0;

    /// By id, for scanning.
    pub fn codes(&self) -> &[u16] {
        &self.codes
    }

    pub fn of(&self, id: Id) -> &Standing {
        &self.meanings[self.codes[id as usize] as usize]
    }

    pub fn tier(&self, id: Id) -> Tier {
        self.tiers.get(id as usize).copied().unwrap_or_default()
    }

    pub fn weight(&self, id: Id) -> u32 {
        self.weights.get(id as usize).copied().unwrap_or(0)
    }

    pub fn limit(&self, id: Id) -> Limit {
        self.limits.get(id as usize).copied().unwrap_or(Limit::NONE)
    }

    /// Whether all open clusters are alike but for their room and weight.
    pub fn is_flat(&self) -> bool {
        self.tiers.is_empty() && self.limits.is_empty()
    }

    /// By code: whether what it means holds.
    pub fn holding(&self, holds: impl Fn(&Standing) -> bool) -> Vec<bool> {
        self.meanings.iter().map(holds).collect()
    }

    /// How many clusters stand in each way.
    pub fn counts(&self) -> impl Iterator<Item = (&Standing, usize)> {
        let mut counts = vec![0; self.meanings.len()];
        for &code in &self.codes {
            counts[code as usize] += 1;
        }
        self.meanings.iter().zip(counts)
    }

    /// When the cluster's taint is no longer tolerated.
    pub fn end(&self, id: Id) -> Option<Timestamp> {
        self.ends.get(&id).copied()
    }

    /// Whether no toleration has ended or begun between the time it was made and now.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.ends.is_empty() && self.as_of.is_none()
            || self.as_of.is_some_and(|as_of| as_of <= now) && self.ends.values().all(|&end| now < end)
    }

    fn code(&mut self, standing: Standing) -> u16 {
        match self.meanings.iter().position(|known| *known == standing) {
            Some(code) => code as u16,
            // Only clusters with reasons of their own could use so many; the first of them speaks for the rest.
            None if self.meanings.len() > u16::MAX as usize => 1,
            None => {
                self.meanings.push(standing);
                (self.meanings.len() - 1) as u16
            }
        }
    }
}

impl<'p> Rules<'p> {
    /// `counts` says whether any component counts on room.
    pub fn new(
        topologies: &'p [Topology],
        policy: Option<&'p PlacementPolicy>,
        expression: Option<Arc<Result<Expression, String>>>,
        found: Option<Found<'p>>,
        counts: bool,
    ) -> Self {
        let platform = found.map(|found| found.platform);
        let judged = found.and_then(|found| found.judged);
        let mut filters: Vec<Arc<dyn Filter + 'p>> = vec![Arc::new(Membership)];
        let chosen = (policy.is_some() || !topologies.is_empty()).then(|| Arc::new(Chosen::new(topologies, policy)));
        if let Some(chosen) = &chosen {
            filters.push(chosen.clone());
        }
        if let Some(expression) = expression {
            filters.push(Arc::new(Holds(expression)));
        }
        filters.push(Arc::new(Draining));
        let tolerations = policy.map(|policy| policy.tolerations.as_slice()).unwrap_or_default();
        let taints = platform.is_none_or(|platform| platform.taints).then(|| Arc::new(Taints { tolerations }));
        if let Some(taints) = &taints {
            filters.push(taints.clone());
        }
        for filter in platform.iter().flat_map(|platform| &platform.filters) {
            filters.push(filter.clone());
        }
        if let Some((asked, _)) = judged {
            filters.push(Arc::new(asked));
        }
        if counts {
            filters.push(Arc::new(Sketched));
        }
        let preferences = policy.iter().flat_map(|policy| &policy.preferences).map(Preferred).collect();
        let scores = platform.map(|platform| platform.scores.as_slice()).unwrap_or_default();
        let reads_time = filters.iter().any(|filter| filter.reads_time());
        Self { policy, filters, chosen, preferences, scores, judged, taints, reads_time }
    }

    /// Whether nobody else will stand to them as this decision does.
    pub fn are_of_one_decision(&self) -> bool {
        self.judged.is_some()
    }

    /// Whether what they say of a cluster changes with its room.
    pub fn read_room(&self) -> bool {
        self.filters.iter().any(|filter| filter.reads_room()) || self.scores.iter().any(|(score, _)| score.reads_room())
    }

    /// What every cluster that is no candidate by its name or labels lacks, and the reason of all that lack it but those
    /// that are being deleted.
    pub fn needs(&self) -> Option<(Needed<'_>, Why)> {
        self.chosen.as_ref()?.needs()
    }

    /// A column over `len` clusters, of which `looked_at` are looked at; all others leave for the reason `otherwise`.
    pub fn stand_all<'c>(
        &self,
        len: usize,
        otherwise: Option<Why>,
        looked_at: impl Iterator<Item = (Id, &'c (Uid, Candidate))>,
        now: Timestamp,
    ) -> Standings {
        let mut column = Standings { meanings: vec![Standing::Open], ..Standings::default() };
        let code = otherwise.map_or(Standings::OPEN, |why| column.code(Standing::Leaves(why)));
        column.codes = vec![code; len];
        if let Some(policy) = self.policy {
            column.weights = vec![0; if policy.weights.is_empty() { 0 } else { len }];
            column.limits = vec![Limit::NONE; if policy.limits.is_empty() { 0 } else { len }];
        }
        column.as_of = self.reads_time.then_some(now);
        for (id, (uid, cluster)) in looked_at {
            self.stand(&mut column, id, &View { uid, cluster, now });
        }
        column
    }

    /// Looks at one cluster anew.
    pub fn stand(&self, column: &mut Standings, id: Id, view: &View<'_>) {
        if self.reads_time {
            column.as_of = Some(column.as_of.map_or(view.now, |as_of| as_of.max(view.now)));
        }
        let Verdict { standing, until } = self.judge(view);
        match until {
            Some(until) => drop(column.ends.insert(id, until)),
            None => drop(column.ends.remove(&id)),
        }
        column.codes[id as usize] = match standing {
            Standing::Open => Standings::OPEN,
            other => column.code(other),
        };
        self.rank(column, id, view);
    }

    /// Its place, weight and bounds. Who is no candidate has none.
    fn rank(&self, column: &mut Standings, id: Id, view: &View<'_>) {
        let candidate = matches!(column.of(id), Standing::Open | Standing::Keeps(_));
        let policy = self.policy.filter(|_| candidate);
        let chooses = |target: &ClusterSet| target.chooses(view.cluster);
        let group = policy.and_then(|policy| policy.groups.iter().position(|group| chooses(&group.target)));
        let tier = if candidate { self.tier(group.unwrap_or_default() as u16, view) } else { Tier::default() };
        // As long as all are alike there is no column.
        if !column.tiers.is_empty() || tier != Tier::default() {
            column.tiers.resize(column.codes.len(), Tier::default());
            column.tiers[id as usize] = tier;
        }
        if let Some(weight) = column.weights.get_mut(id as usize) {
            let rule = policy.and_then(|policy| policy.weights.iter().find(|rule| chooses(&rule.target)));
            *weight = rule.map_or(0, |rule| rule.weight);
        }
        if let Some(limit) = column.limits.get_mut(id as usize) {
            let rule = policy.and_then(|policy| policy.limits.iter().find(|rule| chooses(&rule.target)));
            *limit = rule
                .map_or(Limit::NONE, |rule| Limit { min: rule.min.unwrap_or(0), max: rule.max.unwrap_or(u32::MAX) });
        }
    }

    /// What all filters say together: the most severe, and of equals the first.
    pub fn judge(&self, view: &View<'_>) -> Verdict {
        let mut told = Verdict::OPEN;
        for filter in &self.filters {
            let Verdict { standing, until } = filter.judge(view);
            told.until = told.until.into_iter().chain(until).min();
            match standing {
                Standing::Open => {}
                Standing::Keeps(_) if told.standing != Standing::Open => {}
                Standing::Keeps(_) => told.standing = standing,
                // Nothing that comes after says more.
                Standing::Leaves(_) | Standing::Gone(_) => return Verdict { standing, until: told.until },
            }
        }
        told
    }

    fn tier(&self, group: u16, view: &View<'_>) -> Tier {
        let avoided = self.taints.as_ref().is_some_and(|taints| taints.avoids(view.cluster));
        let mut tier = Tier { group, avoided, ..Tier::default() };
        for preference in &self.preferences {
            match preference.of(view) {
                Some(worth) => tier.cost = tier.cost.saturating_sub(worth),
                None => tier.unknown = tier.unknown.saturating_add(1),
            }
        }
        let scores = self.scores.iter().map(|(score, weight)| (&**score as &dyn Score, weight));
        for (score, weight) in scores.chain(self.judged.iter().map(|(asked, weight)| (asked as &dyn Score, weight))) {
            let worth = score.of(view).unwrap_or(-SCORE_MAX);
            tier.demerit = tier.demerit.saturating_sub(worth.saturating_mul(i64::from(*weight)));
        }
        tier
    }
}

impl ClusterSet {
    pub fn chooses(&self, cluster: &Candidate) -> bool {
        (self.clusters.is_empty() || self.clusters.contains(&cluster.name))
            && self.cluster_selector.as_ref().is_none_or(|selector| selector.matches(&cluster.labels))
    }
}
