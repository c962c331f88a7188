//! The state of one decision: room that is left, shares given so far, and the "no"s.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Candidate, Problem, Room, Solution,
    candidates::{Group, Policies, Spread, Standing},
};
use crate::model::{
    Demand, Uid,
    placement::{Refusal, Share, Why},
    revision::RenderedComponent,
};

pub struct Solver<'a> {
    pub problem: &'a Problem<'a>,
    /// In order of name, then uid: the order in which every tie ends.
    pub clusters: Vec<(&'a Uid, &'a Candidate)>,
    /// Room of clusters from which this very decision has taken something.
    rooms: BTreeMap<&'a Uid, Room>,
    /// Component → cluster → what it has.
    previous: BTreeMap<&'a str, BTreeMap<&'a Uid, &'a Share>>,
    solution: Solution,
}

impl<'a> Solver<'a> {
    pub fn new(problem: &'a Problem<'a>) -> Self {
        let mut clusters: Vec<_> = problem.fleet.iter().collect();
        clusters.sort_by(|(uid, cluster), (other_uid, other)| (&cluster.name, uid).cmp(&(&other.name, other_uid)));
        let mut previous: BTreeMap<&str, BTreeMap<&Uid, &Share>> = BTreeMap::new();
        for row in problem.previous.iter().flat_map(|placement| &placement.rows) {
            for (component, share) in &row.components {
                previous.entry(component).or_default().insert(&row.cluster, share);
            }
        }
        Self { problem, clusters, rooms: BTreeMap::new(), previous, solution: Solution::default() }
    }

    pub fn run(mut self) -> Solution {
        match Policies::read(self.problem.policies) {
            Ok(policies) => {
                for group in policies.groups(self.problem.components) {
                    self.place(&policies, &group);
                }
            }
            // Nothing can be decided, so nothing changes.
            Err(fault) => {
                for component in self.problem.components {
                    self.keep_all(component);
                    self.lack(component, fault.clone());
                }
            }
        }
        sort(&mut self.solution.refusals);
        self.solution
    }

    fn place(&mut self, policies: &Policies, group: &Group<'a>) {
        let stand = |&(uid, cluster): &(&'a Uid, &'a Candidate)| {
            (uid, cluster, policies.standing(self.problem, group, uid, cluster))
        };
        let standings: Vec<_> = self.clusters.iter().map(stand).collect();
        let present: BTreeSet<&str> = self.clusters.iter().map(|(_, cluster)| cluster.name.as_str()).collect();
        let strangers: Vec<&str> = policies.named(group).into_iter().filter(|&name| !present.contains(name)).collect();
        for component in &group.components {
            for &name in &strangers {
                self.refuse(&Uid::default(), name, component, Why::NoSuchCluster);
            }
        }
        match group.spread {
            Spread::Single => self.single(group, &standings),
            Spread::Duplicated => self.duplicated(policies, group, &standings),
            Spread::Divided => self.divided(group, &standings),
        }
        let nobody = standings.iter().all(|(_, _, standing)| matches!(standing, Standing::Leaves(_) | Standing::Gone));
        for component in &group.components {
            if !strangers.is_empty() {
                self.lack(component, format!("no cluster named {} has joined", strangers.join(", ")));
            } else if nobody && !policies.allows_empty() {
                self.lack(component, nobody_chosen(&standings));
            }
        }
    }

    pub fn room(&self, uid: &Uid) -> Option<&Room> {
        self.rooms.get(uid).or_else(|| self.problem.fleet.get(uid)?.room.as_ref())
    }

    pub fn take(&mut self, uid: &'a Uid, room: Room) {
        self.rooms.insert(uid, room);
    }

    pub fn has(&self, component: &RenderedComponent, uid: &Uid) -> Option<&'a Share> {
        self.previous.get(component.name.as_str())?.get(uid).copied()
    }

    pub fn give(&mut self, uid: &Uid, component: &RenderedComponent, replicas: Option<u32>, reason: String) {
        // An unchanged share keeps the reason it was decided for: the decision is the old one.
        let share = match self.has(component, uid) {
            Some(share) if share.replicas == replicas => share.clone(),
            _ => Share { replicas, reason },
        };
        self.solution.shares.entry(uid.clone()).or_default().insert(component.name.clone(), share);
    }

    pub fn keep(&mut self, uid: &Uid, component: &RenderedComponent) {
        if let Some(share) = self.has(component, uid) {
            self.give(uid, component, share.replicas, String::new());
        }
    }

    fn keep_all(&mut self, component: &RenderedComponent) {
        for (uid, _) in self.clusters.clone() {
            self.keep(uid, component);
        }
    }

    pub fn refuse(&mut self, uid: &Uid, name: &str, component: &RenderedComponent, why: Why) {
        self.solution.refusals.push(Refusal {
            cluster: uid.clone(),
            cluster_name: name.to_owned(),
            component: component.name.clone(),
            why,
        });
    }

    /// A whole group's "no": `faulty` says why, and the others that they are placed together with it.
    pub fn refuse_group(
        &mut self,
        uid: &Uid,
        name: &str,
        components: &[&RenderedComponent],
        (faulty, why): (Option<&RenderedComponent>, &Why),
    ) {
        for component in components {
            let why = match faulty {
                Some(faulty) if faulty.name != component.name => Why::Together { component: faulty.name.clone() },
                _ => why.clone(),
            };
            self.refuse(uid, name, component, why);
        }
    }

    /// What a replica of this component asks for in the revision that runs, where that is another demand.
    pub fn demand_before(&self, component: &RenderedComponent) -> Option<&'a Demand> {
        let running = self.problem.running?.components;
        let before = running.iter().find(|known| known.name == component.name)?.demand.as_ref()?;
        (Some(before) != component.demand.as_ref()).then_some(before)
    }

    /// The edit of this component fits nowhere.
    pub fn outgrow(&mut self, component: &RenderedComponent, what: String) {
        self.lack(component, what);
        self.solution.outgrown.insert(component.name.clone());
    }

    /// The first reason stays: it is the most specific one.
    pub fn lack(&mut self, component: &RenderedComponent, what: String) {
        self.wait();
        self.solution.unplaced.entry(component.name.clone()).or_insert(what);
    }

    pub fn wait(&mut self) {
        self.solution.waiting = true;
    }

    /// Whether this decision gives the cluster a part of the component.
    pub fn gets(&self, component: &RenderedComponent, uid: &Uid) -> bool {
        self.solution.shares.get(uid).is_some_and(|shares| shares.contains_key(&component.name))
    }

    pub fn holders(&self, component: &RenderedComponent) -> Vec<&Uid> {
        let holds =
            |(uid, shares): (&'a Uid, &BTreeMap<String, Share>)| shares.contains_key(&component.name).then_some(uid);
        self.clusters.iter().filter_map(|(uid, _)| holds((uid, self.solution.shares.get(*uid)?))).collect()
    }
}

/// In order of component, cluster name and uid.
pub fn sort(refusals: &mut [Refusal]) {
    refusals.sort_by(|one, other| {
        (&one.component, &one.cluster_name, &one.cluster).cmp(&(&other.component, &other.cluster_name, &other.cluster))
    });
}

fn nobody_chosen(standings: &[(&Uid, &Candidate, Standing)]) -> String {
    let selector = standings.iter().find_map(|(_, _, standing)| match standing {
        Standing::Leaves(why @ Why::SelectorMismatch { .. }) => Some(why.to_string()),
        _ => None,
    });
    match selector {
        _ if standings.is_empty() => "no cluster has joined".into(),
        Some(_) => "the policies choose no cluster: no labels match".into(),
        None => "the policies choose no cluster".into(),
    }
}
