//! Outposts and desks, with leaders that come and go between them.

mod shells;

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::{
    leader::{self, Desk, Line},
    outpost::{self, CUT_OFF_MS, Outpost},
};
use crate::{
    hub::control::FromAgent,
    model::{Now, Report, Sketch, Timestamp, Uid},
    store::raft::ReplicaId,
    wire::{Fact, FromDesk, Ruling, ToDesk, limits::BEAT_INTERVAL_MS},
};

/// Two outposts, and whichever desk is open.
#[derive(Default)]
struct World {
    now_ms: u64,
    outposts: BTreeMap<ReplicaId, Outpost>,
    /// One per term.
    desk: Option<Desk>,
    lines: BTreeMap<ReplicaId, Line>,
    last_line: u64,
    /// What control heard, in order, since the desk opened.
    heard: Vec<FromAgent>,
    /// Reports handed on by this desk and not stored.
    handed: VecDeque<(u64, Uid, Report)>,
    counted: u64,
    stored: BTreeMap<(Uid, Uid), u64>,
    rulings: Vec<(ReplicaId, u64, Ruling)>,
    cut_off: Vec<bool>,
}

fn eu() -> Uid {
    "eu".into()
}

impl World {
    fn new() -> Self {
        let mut world = Self { now_ms: 1, ..Self::default() };
        world.outposts = [(1, Outpost::default()), (2, Outpost::default())].into();
        world.lead();
        world
    }

    fn now(&self) -> Now {
        Now { wall: Timestamp::from_millis(self.now_ms as i64), monotonic_ms: self.now_ms }
    }

    /// Another leader, who knows nothing but the store; all lines are made anew.
    fn lead(&mut self) {
        self.lose();
        self.desk = Some(Desk::default());
        for replica in [1, 2] {
            self.connect(replica);
        }
    }

    fn lose(&mut self) {
        self.desk = None;
        self.heard.clear();
        self.handed.clear();
        self.counted = 0;
        for replica in [1, 2] {
            self.disconnect(replica);
        }
    }

    fn connect(&mut self, replica: ReplicaId) {
        if self.desk.is_none() {
            return;
        }
        self.disconnect(replica);
        self.last_line += 1;
        let line = Line { replica, line: self.last_line };
        self.lines.insert(replica, line);
        self.at_desk(leader::Event::Opened(line));
        self.at(replica, outpost::Event::Connected);
    }

    fn disconnect(&mut self, replica: ReplicaId) {
        if let Some(line) = self.lines.remove(&replica) {
            self.at_desk(leader::Event::Closed(line));
            self.at(replica, outpost::Event::Disconnected);
        }
    }

    fn at(&mut self, replica: ReplicaId, event: outpost::Event) {
        let Some(outpost) = self.outposts.get_mut(&replica) else { return };
        for effect in outpost.step(self.now_ms, event) {
            match effect {
                outpost::Effect::Rule { session, ruling } => self.rulings.push((replica, session, ruling)),
                outpost::Effect::CutOff(cut_off) => self.cut_off.push(cut_off),
                outpost::Effect::Beats(_) => {}
            }
        }
    }

    fn at_desk(&mut self, event: leader::Event) {
        let now = self.now();
        let Some(desk) = &mut self.desk else { return };
        for effect in desk.step(now, event) {
            match effect {
                leader::Effect::Tell(line, told) if self.lines.get(&line.replica) == Some(&line) => {
                    self.at(line.replica, outpost::Event::Told(told));
                }
                leader::Effect::HandOn(from) => {
                    if let FromAgent::Report { cluster, report } = &from {
                        self.counted += 1;
                        self.handed.push_back((self.counted, cluster.clone(), report.as_ref().clone()));
                    }
                    self.heard.push(from);
                }
                leader::Effect::Tell(..) | leader::Effect::Note(_) => {}
            }
        }
    }

    /// Carries one message to the desk; whether there was one.
    fn carry(&mut self, replica: ReplicaId) -> bool {
        let Some(line) = self.lines.get(&replica).copied() else { return false };
        let said = self.outposts.get_mut(&replica).and_then(|outpost| outpost.next(self.now_ms));
        let any = said.is_some();
        if let Some(said) = said {
            self.at_desk(leader::Event::Said(line, said));
        }
        any
    }

    fn carry_all(&mut self) {
        while self.carry(1) || self.carry(2) {}
    }

    /// Control has stored the reports it heard first.
    fn store(&mut self, count: usize) {
        let count = count.min(self.handed.len());
        let mut settled = 0;
        for (number, cluster, report) in self.handed.drain(..count) {
            self.stored.insert((cluster, report.application), report.generation);
            settled = number;
        }
        if settled > 0 {
            self.at_desk(leader::Event::Settled(settled));
        }
    }

    fn claim(&mut self, replica: ReplicaId, session: u64, cluster: &Uid, instance: &str, epoch: u64) {
        let (cluster, instance) = (cluster.clone(), instance.to_owned());
        self.at(replica, outpost::Event::Claimed { session, cluster, instance, epoch });
        self.carry_all();
    }

    fn say(&mut self, replica: ReplicaId, session: u64, from: FromAgent) {
        self.at(replica, outpost::Event::Said { session, from });
    }

    fn beat(&mut self, replica: ReplicaId, session: u64) {
        self.say(replica, session, FromAgent::Beat { cluster: eu() });
        self.carry_all();
    }

    /// Beats of both until that time is over.
    fn pass(&mut self, ms: u64, living: &[(ReplicaId, u64)]) {
        for _ in 0..ms.div_ceil(BEAT_INTERVAL_MS) {
            self.now_ms += BEAT_INTERVAL_MS;
            living.iter().for_each(|(replica, session)| self.beat(*replica, *session));
            self.at_desk(leader::Event::Tick);
            self.carry_all();
        }
    }
}

fn sketch(sequence: u64) -> FromAgent {
    FromAgent::Sketch { cluster: eu(), sketch: Sketch { sequence, ..Sketch::default() } }
}

fn report(application: &str, generation: u64) -> FromAgent {
    let report = Report { application: application.into(), cluster: eu(), generation, ..Report::default() };
    FromAgent::Report { cluster: eu(), report: report.into() }
}

#[test]
fn a_new_leader_hears_of_a_stream_only_what_comes_with_a_fresh_sign_of_life() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    assert_eq!(world.rulings, [(1, 7, Ruling::Granted)]);
    world.say(1, 7, sketch(1));
    world.say(1, 7, report("web", 3));
    world.carry_all();
    assert_eq!(world.heard, [sketch(1), report("web", 3)]);
    world.lead();
    world.carry_all();
    assert_eq!(world.heard, [], "the stream may be dead");
    world.beat(1, 7);
    assert_eq!(world.heard, [FromAgent::Beat { cluster: eu() }, sketch(1), report("web", 3)]);
}

#[test]
fn what_was_stored_is_not_told_again() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.say(1, 7, report("web", 3));
    world.say(1, 7, report("db", 1));
    world.carry_all();
    world.store(1);
    world.lead();
    world.beat(1, 7);
    assert_eq!(world.heard, [FromAgent::Beat { cluster: eu() }, report("web", 3)], "reports go in order of their name");
    world.store(1);
    world.say(1, 7, report("web", 4));
    world.carry_all();
    world.say(1, 7, report("web", 5));
    world.store(1);
    world.lead();
    world.beat(1, 7);
    assert_eq!(world.heard.last(), Some(&report("web", 5)), "that the one before is stored does not make it so");
}

#[test]
fn a_sketch_goes_before_the_reports_that_count_on_it() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.lose();
    world.say(1, 7, report("web", 1));
    world.say(1, 7, sketch(2));
    world.say(1, 7, report("db", 1));
    world.lead();
    world.beat(1, 7);
    assert_eq!(world.heard, [FromAgent::Beat { cluster: eu() }, sketch(2), report("db", 1), report("web", 1)]);
}

#[test]
fn two_holders_of_one_identity_at_two_replicas_are_both_frozen() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.claim(2, 7, &eu(), "b", 1);
    assert_eq!(world.rulings, [(1, 7, Ruling::Granted)], "the second waits");
    world.pass(BEAT_INTERVAL_MS, &[(1, 7)]);
    assert_eq!(world.rulings[1..], [(1, 7, Ruling::Frozen), (2, 7, Ruling::Frozen)]);
    assert!(world.heard.contains(&FromAgent::Frozen { cluster: eu() }));
}

#[test]
fn clones_are_found_though_the_leader_changes_between_their_claims() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.beat(1, 7);
    world.lead();
    world.claim(2, 9, &eu(), "b", 5);
    assert_eq!(world.rulings.last(), Some(&(2, 9, Ruling::Granted)), "nobody else is known to be alive");
    world.say(2, 9, FromAgent::Connected { cluster: eu() });
    world.pass(2 * BEAT_INTERVAL_MS, &[(1, 7), (2, 9)]);
    let frozen: Vec<_> = world.rulings.iter().filter(|(.., ruling)| *ruling == Ruling::Frozen).collect();
    assert_eq!(frozen, [&(2, 9, Ruling::Frozen), &(1, 7, Ruling::Frozen)]);
}

#[test]
fn a_restarted_agent_is_not_taken_for_a_clone_of_its_dead_stream() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.beat(1, 7);
    // The machine of the agent and the leader die at once; its stream hangs on replica 1.
    world.lead();
    world.claim(2, 9, &eu(), "b", 2);
    world.say(2, 9, FromAgent::Connected { cluster: eu() });
    world.pass(30_000, &[(2, 9)]);
    world.at(1, outpost::Event::Left { session: 7 });
    world.pass(10_000, &[(2, 9)]);
    assert_eq!(world.rulings[1..], [(2, 9, Ruling::Granted)]);
}

#[test]
fn what_a_holder_said_before_it_died_proves_nothing_when_it_arrives_late() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    // The replica cannot get rid of the last beat.
    world.say(1, 7, FromAgent::Beat { cluster: eu() });
    let claimed = outpost::Event::Claimed { session: 9, cluster: eu(), instance: "b".into(), epoch: 2 };
    world.at(2, claimed);
    while world.carry(2) {}
    world.now_ms += 6_000;
    while world.carry(1) {}
    assert_eq!(world.rulings, [(1, 7, Ruling::Granted)]);
    world.pass(10_000, &[]);
    assert_eq!(world.rulings[1..], [(1, 7, Ruling::Superseded), (2, 9, Ruling::Granted)]);
}

#[test]
fn an_agent_that_moves_to_another_replica_is_let_in_at_once() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.disconnect(1);
    world.claim(2, 3, &eu(), "a", 2);
    assert_eq!(world.rulings, [(1, 7, Ruling::Granted), (2, 3, Ruling::Granted)]);
    world.beat(2, 3);
    assert_eq!(world.heard.last(), Some(&FromAgent::Beat { cluster: eu() }));
    // The stream it left, which its replica still believes in, speaks for nobody.
    world.connect(1);
    world.say(1, 7, sketch(9));
    world.carry_all();
    assert_eq!(world.rulings.last(), Some(&(1, 7, Ruling::Superseded)));
    assert!(!world.heard.contains(&sketch(9)));
}

#[test]
fn the_end_of_a_replicas_line_ends_no_stream() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.disconnect(1);
    world.connect(1);
    world.beat(1, 7);
    assert_eq!(world.heard.last(), Some(&FromAgent::Beat { cluster: eu() }));
    assert!(!world.heard.contains(&FromAgent::Disconnected { cluster: eu() }));
    // What ended while there was no line is known to have ended on the next.
    world.disconnect(1);
    world.at(1, outpost::Event::Left { session: 7 });
    world.connect(1);
    world.carry_all();
    assert_eq!(world.heard.last(), Some(&FromAgent::Disconnected { cluster: eu() }));
}

#[test]
fn proof_that_the_store_went_back_is_told_to_every_leader() {
    let mut world = World::new();
    world.say(1, 7, FromAgent::StoreWentBack { cluster: eu(), revision: 40 });
    for _ in 0..2 {
        world.carry_all();
        assert_eq!(world.heard, [FromAgent::StoreWentBack { cluster: eu(), revision: 40 }]);
        world.lead();
    }
}

#[test]
fn a_replica_without_a_leader_says_so_once() {
    let mut world = World::new();
    world.lose();
    world.now_ms += CUT_OFF_MS - 1;
    world.at(1, outpost::Event::Tick);
    assert!(world.cut_off.is_empty());
    world.now_ms += 1;
    world.at(1, outpost::Event::Tick);
    world.now_ms += CUT_OFF_MS;
    world.at(1, outpost::Event::Tick);
    world.lead();
    assert_eq!(world.cut_off, [true, false]);
}

#[test]
fn a_session_with_much_to_say_starves_nobody() {
    let mut world = World::new();
    world.claim(1, 7, &eu(), "a", 1);
    world.claim(1, 8, &"us".into(), "b", 1);
    for number in 0..100 {
        world.say(1, 7, report(&format!("app-{number}"), 1));
    }
    world.say(1, 8, FromAgent::Beat { cluster: "us".into() });
    world.carry(1);
    world.carry(1);
    assert!(world.heard.contains(&FromAgent::Beat { cluster: "us".into() }));
}

#[test]
fn followers_hear_when_clusters_were_last_heard_of() {
    let mut desk = Desk::default();
    let (one, two) = (Line { replica: 1, line: 1 }, Line { replica: 2, line: 2 });
    let at = |ms: u64| Now { wall: Timestamp::from_millis(ms as i64), monotonic_ms: ms };
    desk.step(at(0), leader::Event::Opened(one));
    desk.step(at(0), leader::Event::Tick);
    let claim = ToDesk::Claim { session: 7, cluster: eu(), instance: "a".into(), epoch: 1 };
    desk.step(at(0), leader::Event::Said(one, claim));
    desk.step(at(10), leader::Event::Said(one, ToDesk::Said { session: 7, age_ms: 0, fact: Fact::Beat }));
    let beats = FromDesk::Beats(vec![(eu(), at(10).wall)]);
    assert_eq!(desk.step(at(1_000), leader::Event::Tick), [leader::Effect::Tell(one, beats.clone())]);
    assert_eq!(desk.step(at(2_000), leader::Event::Tick), [], "nothing was heard since");
    desk.step(at(2_000), leader::Event::Opened(two));
    let begun = desk.step(at(2_000), leader::Event::Said(two, ToDesk::Begin { sessions: vec![] }));
    assert_eq!(begun, [leader::Effect::Tell(two, beats)], "who comes later hears all");
}

#[derive(Debug, Clone)]
enum Turn {
    Report {
        agent: usize,
        application: u8,
    },
    Beat(usize),
    /// The agent's stream ends, and it connects to the other replica: a new stream reports all there is.
    Move(usize),
    Carry(ReplicaId, u8),
    Store(u8),
    Break(ReplicaId),
    Mend(ReplicaId),
    Lead,
    Lose,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let replica = 1..3_u64;
    let turn = prop_oneof![
        6 => (0..2_usize, 0..3_u8).prop_map(|(agent, application)| Turn::Report { agent, application }),
        2 => (0..2_usize).prop_map(Turn::Beat),
        1 => (0..2_usize).prop_map(Turn::Move),
        6 => (replica.clone(), 1..6_u8).prop_map(|(replica, count)| Turn::Carry(replica, count)),
        4 => (1..4_u8).prop_map(Turn::Store),
        1 => replica.clone().prop_map(Turn::Break),
        2 => replica.prop_map(Turn::Mend),
        1 => Just(Turn::Lead),
        1 => Just(Turn::Lose),
    ];
    prop::collection::vec(turn, 1..80)
}

/// An agent and what it would say if it were asked.
struct Agent {
    cluster: Uid,
    at: (ReplicaId, u64),
    epoch: u64,
    generations: BTreeMap<u8, u64>,
}

impl Agent {
    fn report(&self, application: u8) -> FromAgent {
        let generation = self.generations.get(&application).copied().unwrap_or_default();
        let application = Uid(format!("app-{application}"));
        let report = Report { application, cluster: self.cluster.clone(), generation, ..Report::default() };
        FromAgent::Report { cluster: self.cluster.clone(), report: report.into() }
    }

    fn enter(&self, world: &mut World) {
        let (replica, session) = self.at;
        let (cluster, instance) = (self.cluster.clone(), format!("agent of {}", self.cluster));
        world.at(replica, outpost::Event::Claimed { session, cluster, instance, epoch: self.epoch });
        world.say(replica, session, FromAgent::Connected { cluster: self.cluster.clone() });
        for application in self.generations.keys() {
            world.say(replica, session, self.report(*application));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is lost on the way (lines, leaders, streams), in the end the newest report of every living agent is stored.
    #[test]
    fn no_report_of_a_living_agent_is_lost(turns in turns()) {
        let mut world = World::new();
        let mut agents: Vec<Agent> = (0..2_u64)
            .map(|n| Agent {
                cluster: Uid(format!("cluster-{n}")),
                at: (n + 1, n + 1),
                epoch: 1,
                generations: BTreeMap::new(),
            })
            .collect();
        agents.iter().for_each(|agent| agent.enter(&mut world));
        for turn in turns {
            match turn {
                Turn::Report { agent, application } => {
                    *agents[agent].generations.entry(application).or_default() += 1;
                    let (replica, session) = agents[agent].at;
                    let report = agents[agent].report(application);
                    world.say(replica, session, report);
                }
                Turn::Beat(agent) => {
                    let (replica, session) = agents[agent].at;
                    world.say(replica, session, FromAgent::Beat { cluster: agents[agent].cluster.clone() });
                }
                Turn::Move(agent) => {
                    let (replica, session) = agents[agent].at;
                    world.at(replica, outpost::Event::Left { session });
                    agents[agent].at = (3 - replica, session + 10);
                    agents[agent].epoch += 1;
                    agents[agent].enter(&mut world);
                }
                Turn::Carry(replica, count) => {
                    let _carried = (0..count).take_while(|_| world.carry(replica)).count();
                }
                Turn::Store(count) => world.store(count.into()),
                Turn::Break(replica) => world.disconnect(replica),
                Turn::Mend(replica) => world.connect(replica),
                Turn::Lead => world.lead(),
                Turn::Lose => world.lose(),
            }
        }
        if world.desk.is_none() {
            world.lead();
        }
        for replica in [1, 2] {
            if !world.lines.contains_key(&replica) {
                world.connect(replica);
            }
        }
        for agent in &agents {
            world.say(agent.at.0, agent.at.1, FromAgent::Beat { cluster: agent.cluster.clone() });
        }
        world.carry_all();
        world.store(usize::MAX);
        for agent in &agents {
            for (application, generation) in &agent.generations {
                let key = (agent.cluster.clone(), Uid(format!("app-{application}")));
                prop_assert_eq!(world.stored.get(&key), Some(generation), "{:?}", key);
            }
        }
        prop_assert!(!world.rulings.iter().any(|(.., ruling)| *ruling == Ruling::Frozen));
    }
}
