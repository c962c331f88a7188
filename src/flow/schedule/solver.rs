//! The state of one decision: room that is left, shares given so far, and the "no"s.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Cession, Decision, Problem, Room,
    explain::No,
    fleet::{Fleet, Id},
    integer::Broken,
    neighbours::{circle, closed},
    policies::{Group, Policies, Spread},
    profile::Found,
    standing::{Standing, Standings},
    whole::word,
};
use crate::model::{
    Demand,
    placement::{Share, Why},
    revision::{Beside, RenderedComponent},
};

pub struct Solver<'a> {
    pub problem: &'a Problem<'a>,
    pub fleet: &'a mut Fleet,
    /// Whether anything that is still to be placed asks how much room this decision has left.
    pub counts_on: bool,
    /// Room of clusters from which this very decision has taken something.
    rooms: BTreeMap<Id, Room>,
    /// Component → cluster → what it has.
    previous: BTreeMap<&'a str, BTreeMap<Id, &'a Share>>,
    decision: Decision,
}

/// How the clusters stand to a group of components in this decision.
#[derive(Debug, Clone)]
pub struct Placing {
    pub standings: Arc<Standings>,
    /// What this decision alone knows.
    over: BTreeMap<Id, Standing>,
}

impl Placing {
    pub fn of(&self, id: Id) -> &Standing {
        self.over.get(&id).unwrap_or_else(|| self.standings.of(id))
    }

    pub fn laid_over(&self) -> impl Iterator<Item = Id> {
        self.over.keys().copied()
    }
}

impl<'a> Solver<'a> {
    pub fn new(problem: &'a Problem<'a>, fleet: &'a mut Fleet) -> Self {
        fleet.settle();
        let mut previous: BTreeMap<&str, BTreeMap<Id, &Share>> = BTreeMap::new();
        for row in problem.previous.iter().flat_map(|placement| &placement.rows) {
            let Some(id) = fleet.id(&row.cluster) else { continue };
            for (component, share) in &row.components {
                previous.entry(component).or_default().insert(id, share);
            }
        }
        let counts_on = problem.components.len() > 1;
        Self { problem, fleet, counts_on, rooms: BTreeMap::new(), previous, decision: Decision::default() }
    }

    pub fn run(mut self) -> Decision {
        match Policies::read(self.problem.policies) {
            Ok(policies) => {
                let components = self.problem.components;
                let followers = policies.followers(components);
                let leading = components.iter().filter(|component| !followers.contains_key(component.name.as_str()));
                let mut placings: BTreeMap<&str, Placing> = BTreeMap::new();
                for group in &policies.groups(leading) {
                    let placing = self.place(&policies, group);
                    placings
                        .extend(group.components.iter().map(|component| (component.name.as_str(), placing.clone())));
                }
                for component in components {
                    if let Some(leaders) = followers.get(component.name.as_str()) {
                        self.follow(component, leaders, &placings);
                    }
                }
            }
            // Nothing can be decided, so nothing changes.
            Err(fault) => self.change_nothing(&self.problem.components.iter().collect::<Vec<_>>(), &fault),
        }
        self.decision
    }

    /// All of them stay as they are, for this reason.
    fn change_nothing(&mut self, components: &[&RenderedComponent], reason: &str) {
        for component in components {
            for id in self.previous(component).keys().copied().collect::<Vec<_>>() {
                self.keep(id, component);
            }
            self.lack(component, reason.to_owned());
        }
    }

    /// Wherever any of `leaders` is: what their pods name must be there.
    fn follow(
        &mut self,
        component: &'a RenderedComponent,
        leaders: &BTreeSet<&str>,
        placings: &BTreeMap<&str, Placing>,
    ) {
        let shares = self.decision.shares.iter();
        let leader_in =
            |shares: &BTreeMap<String, Share>| leaders.iter().find(|name| shares.contains_key(**name)).copied();
        let targets: Vec<(Id, &str)> = shares.filter_map(|(&id, shares)| Some((id, leader_in(shares)?))).collect();
        for &(id, leader) in &targets {
            self.give(id, component, None, || format!("{leader} needs it"));
        }
        let Some((first, placing)) = leaders.iter().find_map(|name| Some((*name, placings.get(name)?))) else { return };
        if targets.is_empty() {
            self.lack(component, format!("{first} needs it, and runs nowhere"));
        }
        self.refuse(No::new(component, placing).otherwise(Why::Together { component: first.to_owned() }));
    }

    fn place(&mut self, policies: &Policies, group: &Group<'a>) -> Placing {
        let found = match self.problem.profiles.find(policies.profile(group)) {
            Ok(found) => found,
            Err(fault) => {
                self.change_nothing(&group.components, &fault);
                return self.placing(policies, group, None);
            }
        };
        let placing = self.placing(policies, group, found);
        let affinity = policies.of(group).and_then(|policy| policy.affinity.as_ref());
        if let Some(circle) = affinity.and_then(|affinity| circle(Some(affinity), self.problem.neighbours)) {
            let homeless = |component: &&&RenderedComponent| self.previous(component).is_empty();
            for component in group.components.iter().filter(homeless).copied().collect::<Vec<_>>() {
                self.lack(component, circle.clone());
            }
        }
        let named = policies.named(group);
        let strangers: Vec<&str> = named.into_iter().filter(|name| self.fleet.named(name).is_none()).collect();
        for component in &group.components {
            for name in &strangers {
                self.decision.strangers.push((component.name.clone(), (*name).to_owned()));
            }
        }
        match (group.spread, policies.of(group)) {
            (Spread::Single, _) => self.single(group, &placing),
            (Spread::Divided, Some(policy)) => self.divided(group, policy, &placing),
            _ => self.duplicated(policies, group, &placing),
        }
        if strangers.is_empty() && (policies.allows_empty() || self.is_chosen(&placing)) {
            return placing;
        }
        for component in &group.components {
            match strangers.is_empty() {
                false => self.lack(component, format!("no cluster named {} has joined", strangers.join(", "))),
                true => self.lack(component, self.nobody_chosen(&placing)),
            }
        }
        placing
    }

    fn placing(&mut self, policies: &Policies, group: &Group<'a>, found: Option<Found<'_>>) -> Placing {
        let expression = policies.of(group).and_then(|policy| policy.expression.as_deref());
        let expression = expression.map(|text| self.fleet.expression(text));
        let (key, rules) = policies.rules(group, expression, found);
        let standings = self.fleet.standings(&key, &rules, self.problem.now);
        let mut over = BTreeMap::new();
        for id in self.problem.held.iter().filter_map(|uid| self.fleet.id(uid)) {
            if let Standing::Leaves(why) = standings.of(id) {
                over.insert(id, Standing::Keeps(why.clone()));
            }
        }
        self.lay_cessions_over(group, &standings, &mut over);
        let affinity = policies.of(group).and_then(|policy| policy.affinity.as_ref());
        if affinity.is_some() || !self.problem.neighbours.is_nobody() {
            for (id, why) in closed(self.fleet, affinity, self.problem.neighbours) {
                if *standings.of(id) == Standing::Open {
                    over.insert(id, Standing::Keeps(why));
                }
            }
        }
        let placing = Placing { standings, over };
        let holders = group.components.iter().flat_map(|component| self.previous(component).keys());
        let end = holders.filter_map(|&id| placing.standings.end(id)).min();
        self.decision.until = self.decision.until.into_iter().chain(end).min();
        placing
    }

    /// Where it makes room for others: a part that goes as a whole is gone, a total gets nothing new there.
    fn lay_cessions_over(&self, group: &Group<'a>, standings: &Standings, over: &mut BTreeMap<Id, Standing>) {
        for (uid, components) in self.problem.cessions {
            let Some(id) = self.fleet.id(uid).filter(|_| !self.problem.held.contains(uid)) else { continue };
            let Some(cession) = group.components.iter().find_map(|component| components.get(&component.name)) else {
                continue;
            };
            let why = Why::Preempted { by: cession.by.clone() };
            match (group.spread, standings.of(id)) {
                (_, Standing::Gone(_)) => {}
                (Spread::Divided, Standing::Open) => drop(over.insert(id, Standing::Keeps(why))),
                (Spread::Divided, _) => {}
                (Spread::Single | Spread::Duplicated, _) => drop(over.insert(id, Standing::Gone(why))),
            }
        }
    }

    /// What a component gives up in a cluster, where a person's yes is not waited for.
    pub fn cession(&self, id: Id, component: &RenderedComponent) -> Option<&'a Cession> {
        let uid = self.fleet.uid(id);
        let cession = self.problem.cessions.get(uid)?.get(&component.name)?;
        (!self.problem.held.contains(uid)).then_some(cession)
    }

    /// Whether the policies choose any cluster at all.
    fn is_chosen(&self, placing: &Placing) -> bool {
        let stays = |standing: &Standing| matches!(standing, Standing::Open | Standing::Keeps(_));
        placing.over.values().any(stays) || placing.standings.any(stays)
    }

    /// Open clusters, in order of ids.
    pub fn open<'p>(&self, placing: &'p Placing) -> impl Iterator<Item = Id> + use<'p> {
        let codes = placing.standings.codes().iter().zip(0..);
        codes.filter(|&(&code, id)| code == Standings::OPEN && !placing.over.contains_key(&id)).map(|(_, id)| id)
    }

    pub fn room(&self, id: Id) -> Option<&Room> {
        self.rooms.get(&id).or(self.fleet.at(id).room.as_ref())
    }

    pub fn scarce(&self, id: Id, demand: &Demand) -> String {
        self.room(id).map(|room| room.scarce(demand)).unwrap_or_default()
    }

    pub fn take(&mut self, id: Id, room: Room) {
        self.rooms.insert(id, room);
    }

    pub fn is_taken_from(&self, id: Id) -> bool {
        self.rooms.contains_key(&id)
    }

    pub fn taken_from(&self) -> impl Iterator<Item = Id> {
        self.rooms.keys().copied()
    }

    pub fn previous(&self, component: &RenderedComponent) -> &BTreeMap<Id, &'a Share> {
        static NONE: BTreeMap<Id, &Share> = BTreeMap::new();
        self.previous.get(component.name.as_str()).unwrap_or(&NONE)
    }

    /// Cluster → replicas it has.
    pub fn counts(&self, component: &RenderedComponent) -> Vec<(Id, u32)> {
        self.previous(component).iter().map(|(&id, share)| (id, share.replicas.unwrap_or(0))).collect()
    }

    pub fn has(&self, component: &RenderedComponent, id: Id) -> Option<&'a Share> {
        self.previous(component).get(&id).copied()
    }

    pub fn give(
        &mut self,
        id: Id,
        component: &RenderedComponent,
        replicas: Option<u32>,
        reason: impl FnOnce() -> String,
    ) {
        // An unchanged share keeps the reason it was decided for: the decision is the old one.
        let share = match self.has(component, id) {
            Some(share) if share.replicas == replicas => share.clone(),
            _ => Share { replicas, reason: reason() },
        };
        self.decision.shares.entry(id).or_default().insert(component.name.clone(), share);
    }

    /// It stays as it is, but for what leaves whether or not it fits elsewhere.
    pub fn keep(&mut self, id: Id, component: &RenderedComponent) {
        let Some(share) = self.has(component, id).filter(|_| !self.fleet.at(id).deleting) else { return };
        let Some(Cession { keeps, by, .. }) = self.cession(id, component) else {
            return self.give(id, component, share.replicas, String::new);
        };
        let stays = share.replicas.map(|had| had.min(*keeps)).filter(|stays| *stays > 0);
        if stays.is_some() {
            self.give(id, component, stays, || makes_room(by));
        }
    }

    pub fn refuse(&mut self, no: No) {
        self.decision.nos.push(no);
    }

    /// What a replica of this component asks for in the revision that runs, where it or what runs beside it asks for
    /// something else now.
    pub fn demand_before(&self, component: &RenderedComponent) -> Option<&'a Demand> {
        let before = self.before(component)?;
        let demand = before.demand.as_ref()?;
        (Some(demand) != component.demand.as_ref() || before.beside != component.beside).then_some(demand)
    }

    /// What runs beside it in the revision that runs.
    pub fn beside_before(&self, component: &RenderedComponent) -> Option<&'a [Beside]> {
        self.before(component).map(|before| before.beside.as_slice())
    }

    fn before(&self, component: &RenderedComponent) -> Option<&'a RenderedComponent> {
        self.problem.running?.components.iter().find(|known| known.name == component.name)
    }

    /// The edit of this component fits nowhere.
    pub fn outgrow(&mut self, component: &RenderedComponent, what: String) {
        self.lack(component, what);
        self.decision.outgrown.insert(component.name.clone());
    }

    /// The solver itself is at fault: the component stays where it is, and the fault is told.
    pub fn broke(&mut self, component: &RenderedComponent, broken: Broken) {
        for id in self.previous(component).keys().copied().collect::<Vec<_>>() {
            self.keep(id, component);
        }
        self.lack(component, broken.to_string());
        self.decision.broken = Some(broken);
    }

    /// The first reason stays: it is the most specific one.
    pub fn lack(&mut self, component: &RenderedComponent, what: String) {
        self.wait();
        self.decision.unplaced.entry(component.name.clone()).or_insert(what);
    }

    pub fn wait(&mut self) {
        self.decision.waiting = true;
    }

    pub fn holders(&self, component: &RenderedComponent) -> Vec<Id> {
        let shares = self.decision.shares.iter();
        shares.filter(|(_, shares)| shares.contains_key(&component.name)).map(|(&id, _)| id).collect()
    }

    pub fn count_rebalanced(&mut self, replicas: u64) {
        self.decision.rebalanced += replicas;
    }

    /// How many clusters there are for each word of "no"; open ones are without room.
    pub fn tally(&self, placing: &Placing) -> BTreeMap<&'static str, usize> {
        let word = |standing: &Standing| match standing {
            Standing::Open => "without room",
            Standing::Keeps(why) | Standing::Leaves(why) | Standing::Gone(why) => word(why),
        };
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (standing, count) in placing.standings.counts() {
            *counts.entry(word(standing)).or_default() += count;
        }
        for (&id, over) in &placing.over {
            *counts.entry(word(over)).or_default() += 1;
            *counts.entry(word(placing.standings.of(id))).or_default() -= 1;
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    fn nobody_chosen(&self, placing: &Placing) -> String {
        let by_labels = |standing: &Standing| matches!(standing, Standing::Leaves(Why::SelectorMismatch { .. }));
        match placing.standings.any(by_labels) {
            _ if self.fleet.is_empty() => "no cluster has joined".into(),
            true => "the policies choose no cluster: no labels match".into(),
            false => "the policies choose no cluster".into(),
        }
    }
}

/// Why a part is smaller than it was.
pub fn makes_room(by: &str) -> String {
    format!("makes room for {by}")
}

/// Components that got something, of an Application that is all or nothing.
pub fn keep_all<'a>(problem: &'a Problem<'a>, fleet: &'a mut Fleet, decided: Decision) -> Decision {
    let missing = decided.unplaced.keys().next().cloned().unwrap_or_default();
    let mut solver = Solver::new(problem, fleet);
    let components: BTreeSet<&str> = problem.components.iter().map(|component| component.name.as_str()).collect();
    for component in problem.components {
        for id in solver.previous(component).keys().copied().collect::<Vec<_>>() {
            solver.keep(id, component);
        }
    }
    let mut kept = solver.decision;
    for (id, shares) in &decided.shares {
        for name in shares.keys().filter(|name| components.contains(name.as_str())) {
            if kept.shares.get(id).is_none_or(|shares| !shares.contains_key(name)) {
                let why = match *name == missing {
                    true => Why::AllOrNothing { component: name.clone() },
                    false => Why::AllOrNothing { component: missing.clone() },
                };
                kept.told.push((*id, name.clone(), why));
            }
        }
    }
    let unplaced = problem.components.iter().map(|component| {
        let why = || format!("nothing new is placed until {missing} is: {}", decided.unplaced[&missing]);
        let what = decided.unplaced.get(&component.name).cloned().unwrap_or_else(why);
        (component.name.clone(), what)
    });
    kept.unplaced = unplaced.collect();
    Decision { shares: kept.shares, told: kept.told, unplaced: kept.unplaced, ..decided }
}
