//! Tables for the words of an answer, properties for its sense.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{
    Demand, Resources, Sketch,
    object::ObjectName,
    placement::{Row, Why},
    quantity::{CPU, PODS},
    revision::ReplicasAt,
    sketch::Shape,
};

mod beside;
mod bind;
mod drill;
mod exact;
mod hints;
mod neighbours;
mod policies;
mod preempting;
mod profiles;
mod spreading;

const STEP: i64 = 100;

fn component(name: &str, replicas: u32) -> RenderedComponent {
    RenderedComponent {
        name: name.into(),
        type_: "webservice".into(),
        manifests: Vec::new(),
        demand: Some(Demand { requests: Resources::of([(CPU, STEP)]), ..Demand::default() }),
        replicas: Some(ReplicasAt { manifest: 0, pointer: "/spec/replicas".into(), count: replicas }),
        ..RenderedComponent::default()
    }
}

fn policy(type_: &str, properties: serde_json::Value) -> Policy {
    Policy { name: type_.into(), type_: type_.into(), properties }
}

fn divided() -> Vec<Policy> {
    vec![policy("placement", json!({"mode": "Divided"}))]
}

fn cluster(name: &str, room: u32) -> Candidate {
    let free = Resources::of([(CPU, i64::from(room) * STEP), (PODS, 10_000)]);
    let sketch = Sketch { shapes: vec![Shape { count: 1, free, ..Shape::default() }], ..Sketch::default() };
    Candidate { name: name.into(), accepted: true, room: Some(Room::of(&sketch)), ..Candidate::default() }
}

/// Uids that order the other way round than names do, so that an order by uid cannot pass for one by name.
fn uid_of(name: &str) -> Uid {
    Uid(name.chars().map(|c| char::from(b'a' + (b'z' - c as u8 % 26) % 26)).collect())
}

fn fleet(clusters: &[(&str, u32)]) -> BTreeMap<Uid, Candidate> {
    clusters.iter().map(|&(name, room)| (uid_of(name), cluster(name, room))).collect()
}

struct Case {
    policies: Vec<Policy>,
    components: Vec<RenderedComponent>,
    fleet: BTreeMap<Uid, Candidate>,
    previous: Option<Placement>,
    held: BTreeSet<Uid>,
    neighbours: Neighbours,
    profiles: Profiles,
    /// What the previous answer runs.
    ran: Option<(Vec<Policy>, Vec<RenderedComponent>)>,
    rebalance: Rebalance,
    cessions: Cessions,
    now: Timestamp,
    /// The same fleet, kept from one decision to the next.
    kept: RefCell<Fleet>,
}

impl Case {
    fn new(policies: Vec<Policy>, replicas: u32, clusters: &[(&str, u32)]) -> Self {
        let components = vec![component("web", replicas)];
        Self {
            policies,
            components,
            fleet: fleet(clusters),
            previous: None,
            held: BTreeSet::new(),
            neighbours: Neighbours::default(),
            profiles: Profiles::default(),
            ran: None,
            rebalance: Rebalance::No,
            cessions: Cessions::new(),
            now: Timestamp::from_seconds(1_000_000),
            kept: RefCell::default(),
        }
    }

    fn problem(&self) -> Problem<'_> {
        Problem {
            now: self.now,
            policies: &self.policies,
            components: &self.components,
            previous: self.previous.as_ref(),
            running: self.ran.as_ref().map(|(policies, components)| Running { policies, components }),
            held: &self.held,
            neighbours: &self.neighbours,
            profiles: &self.profiles,
            rebalance: self.rebalance,
            cessions: &self.cessions,
        }
    }

    /// Decides on a fleet made for it, on one kept up to date change by change, and from its record: one answer.
    fn solve(&self) -> Solution {
        let mut fleet = Fleet::of(self.fleet.clone());
        let solution = solve(&mut fleet, &self.problem());
        assert_eq!(solution.broken, None);
        let mut kept = self.kept.borrow_mut();
        let gone: Vec<Uid> =
            kept.iter().map(|(uid, _)| uid.clone()).filter(|uid| !self.fleet.contains_key(uid)).collect();
        gone.iter().for_each(|uid| assert!(kept.remove(uid)));
        for (uid, candidate) in &self.fleet {
            kept.upsert(uid, candidate.clone());
        }
        assert_eq!(solve(&mut kept, &self.problem()), solution, "a kept fleet gives the same answer");
        let record = serde_json::to_string(&Record::of(&fleet, &self.problem())).expect("JSON");
        let record: Record = serde_json::from_str(&record).expect("a record");
        assert_eq!(record.replay(), solution, "a record replays");
        solution
    }

    /// Decides, and takes what is new off the rooms, as reservations do.
    fn settle(&mut self) -> Solution {
        let solution = self.solve();
        let before = self.previous.take();
        let (ran_policies, ran) = self.ran.take().unwrap_or_else(|| (self.policies.clone(), self.components.clone()));
        let held_back = !solution.outgrown.is_empty();
        let decided = if held_back { &ran } else { &self.components };
        for (uid, cluster) in &mut self.fleet {
            let Some(room) = &mut cluster.room else { continue };
            for component in decided {
                let Some(demand) = &component.demand else { continue };
                let count = |share: Option<&Share>| share.and_then(|share| share.replicas).unwrap_or(0);
                let now = count(solution.shares.get(uid).and_then(|shares| shares.get(&component.name)));
                let rows = before.iter().flat_map(|placement| &placement.rows).filter(|row| row.cluster == *uid);
                let had: u32 = rows.map(|row| count(row.components.get(&component.name))).sum();
                let old = ran.iter().find(|known| known.name == component.name).and_then(|known| known.demand.as_ref());
                match old {
                    Some(old) if old != demand => {
                        room.give_back(old, had);
                        room.take(demand, now);
                    }
                    _ => room.take(demand, now.saturating_sub(had)),
                }
            }
        }
        self.ran = Some(if held_back { (ran_policies, ran) } else { (self.policies.clone(), self.components.clone()) });
        self.previous = Some(placement(&self.fleet, &solution));
        solution
    }

    /// Each replica of `web` asks for so many steps from now on.
    fn resize(&mut self, steps: i64) {
        let demand = self.components[0].demand.as_mut().expect("a demand");
        demand.requests = Resources::of([(CPU, steps * STEP)]);
    }

    fn at(&mut self, name: &str) -> &mut Candidate {
        self.fleet.get_mut(&uid_of(name)).expect("a known cluster")
    }

    fn scale(&mut self, replicas: u32) {
        self.components[0].replicas.as_mut().expect("replicas").count = replicas;
    }
}

fn placement(fleet: &BTreeMap<Uid, Candidate>, solution: &Solution) -> Placement {
    let row = |(uid, components): (&Uid, &BTreeMap<String, Share>)| Row {
        cluster: uid.clone(),
        cluster_name: fleet[uid].name.clone(),
        generation: 1,
        revision: "web-v1".into(),
        components: components.clone(),
        removals: Vec::new(),
        trace: String::new(),
    };
    Placement {
        application: ObjectName::new("default", "web"),
        application_uid: "app".into(),
        decision: 1,
        rows: solution.shares.iter().map(row).collect(),
        refusals: Vec::new(),
        unplaced: BTreeMap::new(),
        moves: Vec::new(),
        rebalanced: String::new(),
        claims: Vec::new(),
        preempted: BTreeMap::new(),
    }
}

/// Replicas of `web` by cluster name.
fn counts(case: &Case, solution: &Solution) -> BTreeMap<String, u32> {
    let count = |shares: &BTreeMap<String, Share>| shares.get("web").and_then(|share| share.replicas);
    let named = |(uid, shares)| Some((case.fleet[uid].name.clone(), count(shares)?));
    solution.shares.iter().filter_map(named).collect()
}

#[track_caller]
fn expect(case: &Case, solution: &Solution, expected: &[(&str, u32)]) {
    let expected: BTreeMap<String, u32> = expected.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
    assert_eq!(counts(case, solution), expected, "{solution:#?}");
}

fn refusals(solution: &Solution) -> Vec<String> {
    solution.refusals.iter().map(|refusal| format!("{}: {}", refusal.cluster_name, refusal.why)).collect()
}

#[test]
fn a_total_is_divided_by_free_capacity_with_its_figures() {
    let mut case = Case::new(divided(), 30, &[("ap", 20), ("eu", 40), ("us", 40)]);
    let solution = case.settle();
    expect(&case, &solution, &[("ap", 6), ("eu", 12), ("us", 12)]);
    assert_eq!(solution.shares[&uid_of("eu")]["web"].reason, "12 of 30 by free capacity, 40 of 100");
    assert_eq!(solution.unplaced, BTreeMap::new());
}

#[test]
fn more_replicas_are_added_and_fewer_are_taken_in_proportion() {
    let mut case = Case::new(divided(), 10, &[("ap", 10), ("eu", 10)]);
    case.settle();
    case.fleet.insert(uid_of("us"), cluster("us", 40));
    case.scale(20);
    let grown = case.settle();
    expect(&case, &grown, &[("ap", 6), ("eu", 6), ("us", 8)]);
    assert_eq!(grown.shares[&uid_of("ap")]["web"].reason, "6 of 20, up from 5: 1 more by free capacity, 5 of 50");
    case.scale(10);
    let shrunk = case.settle();
    expect(&case, &shrunk, &[("ap", 3), ("eu", 3), ("us", 4)]);
    assert_eq!(shrunk.shares[&uid_of("us")]["web"].reason, "4 of 10, down from 8: the total went from 20 to 10");
    case.scale(0);
    let none = case.settle();
    expect(&case, &none, &[("ap", 0), ("eu", 0), ("us", 0)]);
}

#[test]
fn what_does_not_fit_as_a_whole_is_not_begun() {
    let mut case = Case::new(divided(), 30, &[("eu", 15), ("us", 10)]);
    let first = case.settle();
    expect(&case, &first, &[]);
    assert_eq!(first.unplaced["web"], "room for 25 of 30 replicas; 0 run, nothing new is placed until all fit");
    assert_eq!(refusals(&first)[0], "eu: nobody took it: all 30 or nothing new, and only 25 fit");

    case.scale(20);
    expect(&case, &case.solve(), &[("eu", 12), ("us", 8)]);
    case.settle();
    case.scale(30);
    let more = case.settle();
    expect(&case, &more, &[("eu", 12), ("us", 8)]);
    assert_eq!(more.unplaced["web"], "room for 25 of 30 replicas; 20 run, nothing new is placed until all fit");
}

#[test]
fn every_cluster_that_gets_nothing_has_its_reason() {
    let policies = vec![
        policy("topology", json!({"clusterLabelSelector": {"tier": "prod"}})),
        policy("placement", json!({"mode": "Divided"})),
    ];
    let names = ["cordoned", "full", "labelless", "leaving", "new", "silent", "stranger", "works"];
    let mut case = Case::new(policies, 3, &names.map(|name| (name, 10)));
    for name in names.iter().filter(|&&name| name != "labelless") {
        case.at(name).labels.insert("tier".into(), "prod".into());
    }
    case.at("cordoned").cordoned = true;
    case.at("full").room = Some(Room::default());
    case.at("leaving").deleting = true;
    case.at("new").room = None;
    case.at("silent").silent = true;
    case.at("stranger").accepted = false;
    let solution = case.solve();
    expect(&case, &solution, &[("works", 3)]);
    assert_eq!(
        refusals(&solution),
        [
            "cordoned: cordoned",
            "full: room for 0 of 3 replicas: no node is ready",
            "labelless: its labels do not match tier=prod",
            "leaving: is being deleted",
            "new: has not reported its capacity yet",
            "silent: its agent is silent",
            "stranger: not accepted by the hub",
        ]
    );
}

#[test]
fn a_topology_naming_no_existing_cluster_says_so() {
    let policies = vec![policy("topology", json!({"clusters": ["eu", "mars"]}))];
    let case = Case::new(policies, 2, &[("eu", 10), ("us", 10)]);
    let solution = case.solve();
    expect(&case, &solution, &[("eu", 2)]);
    assert_eq!(solution.unplaced["web"], "no cluster named mars has joined");
    assert_eq!(refusals(&solution), ["mars: no cluster of this name has joined", "us: not among the named clusters"]);
}

#[test]
fn a_selector_without_a_match_is_a_refusal_unless_empty_is_allowed() {
    let topology = |allow| vec![policy("topology", json!({"clusterLabelSelector": {"a": "b"}, "allowEmpty": allow}))];
    let refused = Case::new(topology(false), 1, &[("eu", 10)]).solve();
    assert_eq!(refused.unplaced["web"], "no cluster can take it: 1 not chosen by the policies");
    let allowed = Case::new(topology(true), 1, &[("eu", 10)]).solve();
    assert_eq!((allowed.unplaced.len(), allowed.shares.len()), (0, 0));
}

#[test]
fn several_topologies_choose_the_union_and_placement_chooses_among_it() {
    let topologies = [
        policy("topology", json!({"clusters": ["ap"]})),
        policy("topology", json!({"clusterLabelSelector": {"a": "b"}})),
    ];
    let mut case = Case::new(topologies.to_vec(), 2, &[("ap", 10), ("eu", 10), ("us", 10)]);
    case.at("us").labels.insert("a".into(), "b".into());
    expect(&case, &case.solve(), &[("ap", 2), ("us", 2)]);
    case.policies.push(policy("placement", json!({"mode": "Duplicated", "clusters": ["eu", "us"]})));
    expect(&case, &case.solve(), &[("us", 2)]);
}

#[test]
fn a_chosen_cluster_without_room_is_a_part_that_does_not_run() {
    let everywhere = policy("topology", json!({"clusterLabelSelector": {}}));
    let rooms = [("ap", 10), ("eu", 1), ("na", 1), ("sa", 0), ("us", 1)];
    let mut case = Case::new(vec![everywhere], 2, &rooms);
    expect(&case, &case.solve(), &[("ap", 2)]);
    let lack = "not in every chosen cluster: eu: room for 1 of 2 replicas: cpu; na: room for 1 of 2 replicas: cpu; \
        sa: room for 0 of 2 replicas: no node has enough cpu left; and 1 more";
    assert_eq!(case.solve().unplaced["web"], lack);
    rooms[1..].iter().for_each(|(name, _)| case.at(name).cordoned = true);
    assert!(case.solve().unplaced.is_empty(), "a selector passes over what a person took out of service");
}

#[test]
fn without_a_policy_the_roomiest_cluster_gets_it_and_keeps_it() {
    let mut case = Case::new(vec![], 2, &[("ap", 10), ("eu", 30), ("us", 20)]);
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 2)]);
    assert_eq!(solution.shares[&uid_of("eu")]["web"].reason, "most room: 30, next is us with 20");
    assert_eq!(refusals(&solution), ["ap: eu took it: it has most room, 30", "us: eu took it: it has most room, 30"]);
    case.at("us").room = cluster("us", 500).room;
    case.at("eu").cordoned = true;
    expect(&case, &case.solve(), &[("eu", 2)]);
}

#[test]
fn a_new_cluster_that_the_selector_matches_gets_a_duplicated_application() {
    let mut case = Case::new(vec![policy("topology", json!({"clusterLabelSelector": {}}))], 2, &[("eu", 10)]);
    case.settle();
    case.fleet.insert(uid_of("us"), cluster("us", 10));
    case.fleet.insert(uid_of("ap"), cluster("ap", 1));
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 2), ("us", 2)]);
    assert_eq!(refusals(&solution), ["ap: room for 1 of 2 replicas: cpu"]);
}

#[test]
fn duplicated_stays_where_it_is_though_the_room_is_gone() {
    let mut case = Case::new(vec![policy("topology", json!({"clusters": ["eu"]}))], 2, &[("eu", 10)]);
    case.settle();
    case.at("eu").room = Some(Room::default());
    case.scale(4);
    expect(&case, &case.solve(), &[("eu", 4)]);
}

#[test]
fn components_share_one_room() {
    let mut case = Case::new(vec![policy("placement", json!({"mode": "Duplicated"}))], 6, &[("eu", 10), ("us", 20)]);
    case.components.push(component("api", 6));
    let solution = case.solve();
    expect(&case, &solution, &[("us", 6)]);
    assert_eq!(
        refusals(&solution),
        ["eu: room for 4 of 6 replicas: cpu", "eu: placed together with api, which has no part there"]
    );
}

#[test]
fn what_has_no_replicas_goes_where_the_divided_components_run() {
    let mut case = Case::new(divided(), 4, &[("ap", 0), ("eu", 10), ("us", 10)]);
    case.components.push(RenderedComponent { demand: None, replicas: None, ..component("settings", 0) });
    let solution = case.solve();
    let with_settings: BTreeSet<_> = solution
        .shares
        .iter()
        .filter(|(_, shares)| shares.contains_key("settings"))
        .map(|(uid, _)| uid.clone())
        .collect();
    assert_eq!(with_settings, BTreeSet::from([uid_of("eu"), uid_of("us")]));
}

/// `web` and `api` by policies of their own, `settings` for `web`, `keys` for `settings` and `api`, `alone` for nobody.
fn following() -> Case {
    let only = |name: &str, cluster: &str| {
        policy("placement", json!({"mode": "Divided", "components": [name], "clusters": [cluster]}))
    };
    let mut case = Case::new(vec![only("web", "eu"), only("api", "us")], 4, &[("ap", 90), ("eu", 10), ("us", 10)]);
    let naming = |name: &str, named: &[&str]| RenderedComponent {
        references: named.iter().map(|name| (*name).to_owned()).collect(),
        ..component(name, 4)
    };
    let plain = |name: &str, named: &[&str]| RenderedComponent { demand: None, replicas: None, ..naming(name, named) };
    case.components = vec![plain("settings", &["keys"]), plain("keys", &[]), plain("alone", &[])];
    case.components.extend([naming("web", &["settings"]), naming("api", &["keys"])]);
    case
}

#[test]
fn what_pods_name_follows_them() {
    let mut case = following();
    let names = case.fleet.clone();
    let found = |solution: &Solution| -> Vec<String> {
        let all = solution.shares.iter().flat_map(|(uid, shares)| shares.keys().map(move |name| (uid, name)));
        let mut all: Vec<_> = all.map(|(uid, name)| format!("{name} in {}", names[uid].name)).collect();
        all.sort();
        all
    };
    let solution = case.settle();
    let expected = ["alone in ap", "api in us", "keys in eu", "keys in us", "settings in eu", "web in eu"];
    assert_eq!(found(&solution), expected);
    assert_eq!(solution.shares[&uid_of("eu")]["keys"].reason, "web needs it");
    let no = |refusal: &&Refusal| refusal.component == "settings";
    let told: Vec<String> = solution
        .refusals
        .iter()
        .filter(no)
        .map(|refusal| format!("{}: {}", refusal.cluster_name, refusal.why))
        .collect();
    assert_eq!(told, ["ap: not among the named clusters", "us: not among the named clusters"]);
    // It moves with them, also where a policy says more of the leader later.
    case.policies[0] = policy("placement", json!({"mode": "Divided", "components": ["web"], "clusters": ["ap"]}));
    let solution = case.settle();
    let expected = ["alone in ap", "api in us", "keys in ap", "keys in us", "settings in ap", "web in ap"];
    assert_eq!(found(&solution), expected);
}

#[test]
fn what_follows_one_that_runs_nowhere_says_so() {
    let mut case = following();
    case.components[3].demand = Some(Demand { requests: Resources::of([(CPU, 1000 * STEP)]), ..Demand::default() });
    let solution = case.solve();
    assert_eq!(solution.unplaced["settings"], "web needs it, and runs nowhere");
    assert!(!solution.unplaced.contains_key("keys"), "api needs it too: {:?}", solution.unplaced);
}

#[test]
fn a_policy_of_its_own_or_a_circle_is_no_following() {
    let mut case = following();
    case.policies
        .push(policy("placement", json!({"mode": "Duplicated", "components": ["settings"], "clusters": ["us"]})));
    let solution = case.solve();
    let holders: Vec<&Uid> =
        solution.shares.iter().filter(|(_, shares)| shares.contains_key("settings")).map(|(uid, _)| uid).collect();
    assert_eq!(holders, [&uid_of("us")], "a person said where it goes");
    // Two that name each other and that nobody else names.
    case.components[2].references = vec!["other".into()];
    case.components.push(RenderedComponent {
        name: "other".into(),
        references: vec!["alone".into()],
        ..case.components[2].clone()
    });
    let solution = case.solve();
    let placed = |name: &str| solution.shares.values().any(|shares| shares.contains_key(name));
    assert!(placed("alone") && placed("other"), "{solution:#?}");
}

#[test]
fn only_the_replicas_of_a_cluster_that_leaves_move() {
    let mut case = Case::new(divided(), 12, &[("ap", 20), ("eu", 20), ("us", 20)]);
    case.settle();
    case.at("us").deleting = true;
    let solution = case.settle();
    expect(&case, &solution, &[("ap", 6), ("eu", 6)]);
}

#[test]
fn a_cluster_that_is_no_longer_chosen_keeps_its_replicas_until_they_fit_elsewhere() {
    let policies =
        vec![policy("placement", json!({"mode": "Divided", "clusterSelector": {"matchLabels": {"a": "b"}}}))];
    let mut case = Case::new(policies, 10, &[("eu", 5), ("us", 10)]);
    for name in ["eu", "us"] {
        case.at(name).labels.insert("a".into(), "b".into());
    }
    case.settle();
    case.at("us").labels.clear();
    let solution = case.settle();
    assert_eq!(counts(&case, &solution).values().sum::<u32>(), 10);
    let stay = "5 of 10 replicas fit nowhere else, and stay in clusters that they are to leave";
    assert_eq!(solution.unplaced["web"], stay);
    case.at("eu").room = cluster("eu", 50).room;
    expect(&case, &case.solve(), &[("eu", 10)]);
}

#[test]
fn held_clusters_keep_what_the_policies_took_from_them() {
    let mut case = Case::new(vec![policy("topology", json!({"clusters": ["eu", "us"]}))], 2, &[("eu", 10), ("us", 10)]);
    case.settle();
    case.policies = vec![policy("topology", json!({"clusters": ["eu"]}))];
    case.held = [uid_of("us")].into();
    expect(&case, &case.solve(), &[("eu", 2), ("us", 2)]);
    case.held.clear();
    expect(&case, &case.solve(), &[("eu", 2)]);
}

#[test]
fn replicas_that_ask_for_more_stay_where_they_fit_and_move_where_they_do_not() {
    let mut case = Case::new(divided(), 8, &[("eu", 40), ("us", 5)]);
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 7), ("us", 1)]);
    case.resize(5);
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 7), ("us", 1)]);
    case.resize(6);
    case.scale(6);
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 6)]);
    assert_eq!(refusals(&solution), ["us: room for 0 of 6 replicas: no node has enough cpu left"]);
    case.resize(1);
    case.scale(45);
    let solution = case.settle();
    expect(&case, &solution, &[("eu", 40), ("us", 5)]);
}

#[test]
fn an_edit_that_fits_nowhere_leaves_what_runs_and_every_cluster_says_why() {
    let mut case = Case::new(divided(), 7, &[("ap", 10), ("eu", 10), ("us", 0)]);
    let before = case.settle();
    expect(&case, &before, &[("ap", 4), ("eu", 3)]);
    case.resize(3);
    case.policies = vec![policy("placement", json!({"mode": "Divided", "clusters": ["ap", "eu", "us"]}))];
    let solution = case.settle();
    assert_eq!((&solution.shares, solution.waiting), (&before.shares, true));
    assert_eq!(
        solution.unplaced["web"],
        "room for 6 of 7 replicas as they are asked for now; the revision that runs goes on until all fit"
    );
    assert_eq!(
        refusals(&solution),
        [
            "ap: room for 3 of 7 replicas: cpu",
            "eu: room for 3 of 7 replicas: cpu",
            "us: room for 0 of 7 replicas: no node has enough cpu left",
        ]
    );
    assert_eq!(case.solve(), solution, "asked again it is the same");
    // What the edit says of targets waits as well.
    case.policies = vec![policy("placement", json!({"mode": "Divided", "clusters": ["us"]}))];
    assert_eq!(case.settle().shares, before.shares);
    case.at("us").room = cluster("us", 21).room;
    let moved = case.settle();
    expect(&case, &moved, &[("us", 7)]);
    assert!(moved.outgrown.is_empty());
}

#[test]
fn what_nothing_is_known_of_may_shrink_and_not_grow() {
    let mut case = Case::new(divided(), 4, &[("eu", 10), ("us", 10)]);
    case.settle();
    let us = case.at("us");
    (us.silent, us.room) = (true, None);
    case.components[0].demand = Some(Demand { requests: Resources::of([(CPU, STEP / 2)]), ..Demand::default() });
    let solution = case.solve();
    expect(&case, &solution, &[("eu", 2), ("us", 2)]);
    assert!(solution.outgrown.is_empty());
    case.resize(2);
    let solution = case.solve();
    expect(&case, &solution, &[("eu", 2), ("us", 2)]);
    assert_eq!(solution.outgrown, BTreeSet::from(["web".to_owned()]));
    assert_eq!(refusals(&solution)[1], "us: its agent is silent");
}

#[test]
fn components_that_are_placed_together_each_say_why_not() {
    let mut case = Case::new(vec![policy("placement", json!({"mode": "Duplicated"}))], 6, &[("eu", 10), ("us", 20)]);
    case.components.push(component("api", 6));
    case.at("us").cordoned = true;
    let told: Vec<_> =
        case.solve().refusals.iter().map(|r| format!("{} {}: {}", r.component, r.cluster_name, r.why)).collect();
    assert_eq!(
        told,
        [
            "api eu: room for 4 of 6 replicas: cpu",
            "api us: cordoned",
            "web eu: placed together with api, which has no part there",
            "web us: cordoned",
        ]
    );
}

#[test]
fn an_unreadable_policy_changes_nothing() {
    let mut case = Case::new(divided(), 4, &[("eu", 10)]);
    case.settle();
    case.policies = vec![policy("placement", json!({"mode": "Guess"}))];
    let solution = case.solve();
    expect(&case, &solution, &[("eu", 4)]);
    assert!(solution.unplaced["web"].contains("cannot be read"));
}

fn clusters() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0u32..60, 1..7)
}

const NAMES: [&str; 7] = ["ap", "br", "cn", "de", "eu", "fr", "gb"];

fn divided_case(rooms: &[u32], replicas: u32) -> Case {
    let named: Vec<_> = NAMES.into_iter().zip(rooms.iter().copied()).collect();
    Case::new(divided(), replicas, &named)
}

proptest! {
    #[test]
    fn sum_is_exact(rooms in clusters(), totals in prop::collection::vec(0u32..200, 1..6)) {
        let mut case = divided_case(&rooms, 0);
        let mut placed = 0;
        for total in totals {
            case.scale(total);
            let solution = case.settle();
            let sum = counts(&case, &solution).values().sum::<u32>();
            prop_assert_eq!(sum, if solution.unplaced.is_empty() { total } else { placed });
            placed = sum;
        }
    }

    #[test]
    fn never_exceeds_capacity(rooms in clusters(), totals in prop::collection::vec(0u32..200, 1..6)) {
        let mut case = divided_case(&rooms, 0);
        for total in totals {
            // Nothing starts in the members, so every decided replica still counts against the room of the beginning.
            case.scale(total);
            let grown = counts(&case, &case.solve());
            let before: BTreeMap<String, u32> = case.previous.iter().flat_map(|p| &p.rows).map(|row| (row.cluster_name.clone(), row.components["web"].replicas.unwrap_or(0))).collect();
            for (name, share) in grown {
                let more = share.saturating_sub(before.get(&name).copied().unwrap_or(0));
                let room = case.at(&name).room.as_ref().map_or(0, |room| room.for_demand(&component("web", 1).demand.unwrap_or_default()));
                prop_assert!(more <= room);
            }
            case.settle();
        }
    }

    #[test]
    fn edits_never_exceed_capacity(
        rooms in clusters(),
        edits in prop::collection::vec((0u32..100, 1i64..9, prop::sample::subsequence(vec![0usize, 1, 2], 0..2)), 1..8),
    ) {
        let mut case = divided_case(&rooms, 0);
        let capacity: BTreeMap<Uid, i64> =
            case.fleet.iter().map(|(uid, cluster)| (uid.clone(), cluster.room.as_ref().map_or(0, |room| room.free(CPU)))).collect();
        for (total, steps, cordoned) in edits {
            case.scale(total);
            case.resize(steps);
            for (index, name) in NAMES.iter().enumerate().take(rooms.len()) {
                case.at(name).cordoned = cordoned.contains(&index);
            }
            let solution = case.settle();
            let ran = case.ran.as_ref().map(|(_, ran)| ran[0].clone()).expect("it ran");
            let each = ran.demand.expect("a demand").requests.get(CPU);
            for (uid, shares) in &solution.shares {
                let decided = i64::from(shares["web"].replicas.unwrap_or(0)) * each;
                prop_assert!(decided <= capacity[uid], "{decided} of {}: {solution:#?}", capacity[uid]);
            }
            prop_assert_eq!(case.solve().shares, solution.shares, "solving twice changes nothing");
        }
    }

    #[test]
    fn every_component_has_a_part_or_a_reason_everywhere(
        rooms in clusters(),
        states in prop::collection::vec(0u32..7, 7),
        counts in prop::collection::vec(1u32..30, 1..4),
        settings in any::<bool>(),
        policies in prop::sample::select(vec![
            vec![],
            divided(),
            vec![policy("placement", json!({"mode": "Duplicated"}))],
            vec![policy("topology", json!({"clusters": ["ap", "de"]}))],
            vec![policy("placement", json!({"mode": "Divided", "components": ["c0"]}))],
        ]),
        edit in (1u32..30, 1i64..5),
    ) {
        let mut case = divided_case(&rooms, 0);
        case.policies = policies;
        case.components = counts.iter().enumerate().map(|(index, &count)| component(&format!("c{index}"), count)).collect();
        if settings {
            case.components.push(RenderedComponent { demand: None, replicas: None, ..component("settings", 0) });
        }
        for round in 0..2 {
            let solution = case.settle();
            for (uid, cluster) in &case.fleet {
                for component in &case.components {
                    let has = solution.shares.get(uid).is_some_and(|shares| shares.contains_key(&component.name));
                    let no = |refusal: &Refusal| refusal.cluster == *uid && refusal.component == component.name;
                    let told = solution.refusals.iter().filter(|&refusal| no(refusal)).count();
                    prop_assert!(has || told == 1, "{round}: {} in {}: {solution:#?}", component.name, cluster.name);
                }
            }
            case.scale(edit.0);
            case.resize(edit.1);
            for (cluster, state) in case.fleet.values_mut().zip(&states) {
                match state {
                    0 => cluster.cordoned = true,
                    1 => cluster.silent = true,
                    2 => cluster.deleting = true,
                    3 => cluster.room = None,
                    4 => cluster.accepted = false,
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn solving_twice_changes_nothing(rooms in clusters(), totals in prop::collection::vec(0u32..200, 1..4)) {
        let mut case = divided_case(&rooms, 0);
        for total in totals {
            case.scale(total);
            let once = case.settle();
            let twice = case.solve();
            prop_assert_eq!(once.shares, twice.shares);
        }
    }

    #[test]
    fn order_of_input_is_irrelevant(rooms in clusters(), replicas in 0u32..100, turn in 0usize..7) {
        let case = divided_case(&rooms, replicas);
        let mut turned = divided_case(&rooms, replicas);
        let mut uids: Vec<Uid> = case.fleet.keys().cloned().collect();
        let by = turn % uids.len();
        uids.rotate_left(by);
        turned.fleet = uids.into_iter().zip(case.fleet.values().cloned()).collect();
        prop_assert_eq!(counts(&case, &case.solve()), counts(&turned, &turned.solve()));
    }

    #[test]
    fn silence_moves_nothing(
        rooms in clusters(),
        replicas in 0u32..100,
        silent in prop::collection::vec(any::<bool>(), 7),
        mode in prop::sample::select(vec!["Divided", "Duplicated"]),
    ) {
        let mut case = divided_case(&rooms, replicas);
        case.policies = vec![policy("placement", json!({"mode": mode}))];
        let before = case.settle();
        for (cluster, silent) in case.fleet.values_mut().zip(silent) {
            cluster.silent = silent;
            cluster.room = if silent { None } else { cluster.room.take() };
        }
        prop_assert_eq!(before.shares, case.solve().shares);
    }

    #[test]
    fn a_larger_total_lowers_nobody(rooms in clusters(), first in 0u32..100, more in 0u32..100) {
        let mut case = divided_case(&rooms, first);
        let before = case.settle();
        let before = counts(&case, &before);
        case.scale(first + more);
        let after = counts(&case, &case.solve());
        for (name, share) in before {
            prop_assert!(after.get(&name).copied().unwrap_or(0) >= share);
        }
    }

    #[test]
    fn every_fall_has_its_reason(rooms in clusters(), first in 0u32..100, second in 0u32..100) {
        let mut case = divided_case(&rooms, first);
        let before = case.settle();
        case.scale(second);
        let after = case.solve();
        for (uid, shares) in &before.shares {
            let now = after.shares.get(uid).and_then(|shares| shares.get("web"));
            match now {
                Some(share) if share.replicas < shares["web"].replicas => prop_assert!(share.reason.contains("down from")),
                Some(_) => {}
                None => prop_assert!(after.refusals.iter().any(|refusal| refusal.cluster == *uid)),
            }
        }
    }
}

#[test]
fn the_words_of_no_are_stable() {
    let why = Why::NoRoom { room: 1, wanted: 3, scarce: "cpu".into() };
    assert_eq!(
        serde_json::to_value(&why).expect("json"),
        json!({"reason": "NoRoom", "room": 1, "wanted": 3, "scarce": "cpu"})
    );
}
