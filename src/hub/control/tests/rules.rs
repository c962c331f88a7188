//! The rules that never break, as far as they live in the controller. Each was seen failing on a mutant.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::World;
use crate::{
    hub::{
        control::{Controller, Event, FromAgent, Settings},
        feed::Feed,
        keys,
    },
    kinds::{
        APPLICATION, CLUSTER,
        cluster::{CONFIRM_ANNOTATION, CONFIRM_AUTHOR_ANNOTATION},
    },
    model::{Placement, Uid, placement::Refusal, work::RemovalReason},
    store::{Change, WatchEvent},
};

fn divided() -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided"}}])
}

fn duplicated() -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Duplicated"}}])
}

fn by_label() -> Value {
    json!([{"name": "t", "type": "topology", "properties": {"clusterLabelSelector": {"tier": "prod"}}}])
}

#[test]
fn rule_01_silence_never_removes() {
    for policies in [divided(), duplicated(), json!([])] {
        let mut world = World::with(&[("ap", 40), ("eu", 40), ("us", 40)]);
        let web = world.apply("web", 12, policies);
        world.settle();
        let before = world.shares(&web);
        for agent in world.agents.values_mut() {
            agent.up = false;
        }
        world.pass(3600 * 1000);
        world.restart();
        world.pass(3600 * 1000);
        assert_eq!(World::condition(&world.cluster("eu"), "Ready")["status"], "Unknown");
        // A scale-up and a new cluster meanwhile are no reason either.
        world.join("new", 400);
        world.settle();
        assert_eq!(
            world.shares(&web).into_iter().filter(|(name, _)| name != "new").collect::<BTreeMap<_, _>>(),
            before
        );
        for agent in world.agents.values_mut() {
            agent.up = true;
        }
        world.settle();
        assert!(world.ordered.is_empty(), "{:?}", world.ordered);
    }
}

#[test]
fn rule_01_an_error_or_a_missing_cluster_is_no_order_either() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 10, divided());
    world.settle();
    // The Cluster object is gone without a word, as after a restored backup.
    let key = crate::hub::keys::key(&CLUSTER, "", "us");
    let delete = crate::store::Operation::Delete(key);
    let gone = world.store.commit(crate::store::Transaction { compares: vec![], operations: vec![delete] });
    assert!(gone.is_ok());
    world.settle();
    world.edit(&APPLICATION, "default", "web", |app| {
        app["spec"]["policies"] = json!([{"type": "placement", "properties": 7}])
    });
    world.settle();
    world.restart();
    world.settle();
    assert!(world.ordered.is_empty(), "{:?}", world.ordered);
    assert!(world.shares(&web).contains_key("eu"));
}

/// What may happen to a fleet.
#[derive(Debug, Clone)]
enum Turn {
    Scale(u32),
    Silence(usize),
    Cordon(usize, bool),
    Label(usize, bool),
    Restart,
    Drain(usize),
    Policies(usize),
    Quiet,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        prop_oneof![0u32..4, 0u32..60].prop_map(Turn::Scale),
        (0usize..3).prop_map(Turn::Silence),
        (0usize..3, any::<bool>()).prop_map(|(cluster, on)| Turn::Cordon(cluster, on)),
        (0usize..3, any::<bool>()).prop_map(|(cluster, on)| Turn::Label(cluster, on)),
        Just(Turn::Restart),
        (0usize..3).prop_map(Turn::Drain),
        (0usize..3).prop_map(Turn::Policies),
        Just(Turn::Quiet),
    ];
    prop::collection::vec(turn, 1..12)
}

const NAMES: [&str; 3] = ["ap", "eu", "us"];

struct Played {
    world: World,
    web: Uid,
    replicas: u32,
    policies: Value,
    /// Components beside `web`.
    others: Vec<(&'static str, u32)>,
}

impl Played {
    fn new() -> Self {
        let mut world = World::with(&[("ap", 20), ("eu", 20), ("us", 20)]);
        let web = world.apply("web", 9, divided());
        world.settle();
        Self { world, web, replicas: 9, policies: divided(), others: Vec::new() }
    }

    fn apply(&mut self) {
        let mut components = vec![("web", self.replicas)];
        components.extend(&self.others);
        self.world.apply_components("web", &components, self.policies.clone());
    }

    fn play(&mut self, turn: Turn) {
        let world = &mut self.world;
        match turn {
            Turn::Scale(replicas) => {
                self.replicas = replicas;
                self.apply();
            }
            Turn::Policies(which) => {
                self.policies = [divided(), duplicated(), by_label()][which].clone();
                self.apply();
            }
            Turn::Silence(cluster) if !world.cluster(NAMES[cluster]).is_null() => {
                let agent = world.agent(NAMES[cluster]);
                agent.up = !agent.up;
                world.pass(40_000);
            }
            Turn::Cordon(cluster, on) if !world.cluster(NAMES[cluster]).is_null() => {
                world.edit(&CLUSTER, "", NAMES[cluster], |cluster| cluster["spec"]["unschedulable"] = json!(on));
            }
            Turn::Label(cluster, on) if !world.cluster(NAMES[cluster]).is_null() => {
                let labels = if on { json!({"tier": "prod"}) } else { json!({}) };
                world.edit(&CLUSTER, "", NAMES[cluster], |cluster| cluster["metadata"]["labels"] = labels);
            }
            Turn::Drain(cluster) if !world.cluster(NAMES[cluster]).is_null() => {
                world.edit(&CLUSTER, "", NAMES[cluster], |cluster| cluster["spec"]["deletionPolicy"] = json!("Drain"));
                world.delete(&CLUSTER, "", NAMES[cluster]);
            }
            Turn::Restart => world.restart(),
            _ => {}
        }
        self.world.settle();
    }
}

/// Every fall between two placements, and whether it says why.
fn falls_without_reason(before: &Placement, after: &Placement) -> Vec<String> {
    let mut faults = Vec::new();
    for old in &before.rows {
        let new = after.rows.iter().find(|row| row.cluster == old.cluster);
        for (component, share) in &old.components {
            let had = share.replicas.unwrap_or(0);
            match new.and_then(|new| new.components.get(component)) {
                Some(now) if now.replicas.unwrap_or(0) < had => {
                    if !now.reason.contains("down from") || now.reason == share.reason {
                        faults.push(format!("{component} in {}: {had} to {:?}", old.cluster_name, now));
                    }
                }
                Some(_) => {}
                None => {
                    // Removals confirmed within one settling are gone with their row: then the refusal says why.
                    let removed = new.is_some_and(|new| !new.removals.is_empty());
                    let refused = after.refusals.iter().any(|refusal| refusal.cluster == old.cluster);
                    if !removed && !refused && had > 0 {
                        faults.push(format!("{component} in {}: {had} to nothing", old.cluster_name));
                    }
                }
            }
        }
    }
    faults
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rule_02_replicas_never_fall_without_a_reason(turns in turns()) {
        let mut played = Played::new();
        for turn in turns {
            let before = played.world.placement(&played.web).expect("a placement");
            let text = format!("{turn:?}");
            let drained = matches!(turn, Turn::Drain(_));
            played.play(turn);
            let after = played.world.placement(&played.web).expect("a placement");
            // A Cluster that is gone is its own reason: a person deleted it by name.
            let faults = falls_without_reason(&before, &after);
            prop_assert!(drained || faults.is_empty(), "{text}: {faults:?}");
        }
    }

    #[test]
    fn rule_06_concurrent_placements_never_oversubscribe(
        wanted in prop::collection::vec((1u32..12, any::<bool>(), any::<bool>()), 1..12),
        restart_after in 0usize..12,
        up in any::<bool>(),
    ) {
        let mut world = World::with(&[("eu", 20), ("us", 20)]);
        // Agents that measure once and then start nothing: all that is decided is still to come.
        for agent in world.agents.values_mut() {
            agent.up = up;
        }
        let mut applications = Vec::new();
        // What each has beside its replicas in every cluster of its own.
        let beside = |&(_, spread, bundle): &(u32, bool, bool)| match bundle {
            false => 0,
            true => if spread { 1 } else { 2 },
        };
        for (number, asked @ (replicas, spread, bundle)) in wanted.iter().enumerate() {
            if number == restart_after {
                world.restart();
                world.pass(200);
            }
            let policies = if *spread { divided() } else { json!([]) };
            let (name, more) = (format!("app-{number}"), (!spread).then_some(2));
            let application = match bundle {
                true => world.apply_bundle(&name, (*replicas, more), policies),
                false => world.apply(&name, *replicas, policies),
            };
            applications.push((application, beside(asked)));
        }
        world.pass(500);
        world.settle();
        let mut sums: BTreeMap<String, u32> = BTreeMap::new();
        for (application, beside) in &applications {
            for (cluster, share) in world.shares(application) {
                *sums.entry(cluster).or_default() += share + beside;
            }
        }
        prop_assert!(sums.values().all(|&sum| sum <= 20), "{sums:?}");
        let asked: u32 = wanted.iter().map(|(replicas, ..)| replicas).sum();
        if up && asked <= 20 && wanted.iter().all(|(.., bundle)| !bundle) {
            prop_assert_eq!(sums.values().sum::<u32>(), asked, "what fits is placed");
        }
    }
}

#[test]
fn rule_08_editing_there_and_back_loses_nothing() {
    let mut world = World::with(&[("eu", 40)]);
    let web = world.apply_components("web", &[("a", 1)], json!([]));
    world.settle();
    world.agent("eu").up = false;
    world.apply_components("web", &[("b", 1)], json!([]));
    world.settle();
    assert_eq!(world.removals(&web).len(), 1);
    world.apply_components("web", &[("a", 1)], json!([]));
    world.settle();
    world.agent("eu").up = true;
    world.settle();
    assert_eq!(world.running("eu"), ["a"]);
    assert!(world.removals(&web).is_empty(), "confirmed and no longer listed");
}

#[test]
fn rule_08_a_removal_stays_in_the_work_until_the_agent_confirmed_it() {
    let mut world = World::with(&[("eu", 40)]);
    let web = world.apply_components("web", &[("a", 1), ("b", 1)], json!([]));
    world.settle();
    world.agent("eu").up = false;
    for replicas in [1, 2, 3] {
        world.apply_components("web", &[("a", replicas)], json!([]));
        world.settle();
        world.restart();
        world.settle();
        let removals: Vec<_> = world.removals(&web).into_iter().map(|(_, removal)| removal).collect();
        assert_eq!(removals.len(), 1, "after {replicas}");
        assert_eq!((removals[0].object.name.name.as_str(), &removals[0].uid), ("b", &Some("b-uid".into())));
        assert_eq!((removals[0].reason, removals[0].author.as_str()), (RemovalReason::NotInRevision, "alice"));
    }
    world.agent("eu").up = true;
    world.settle();
    assert_eq!(world.running("eu"), ["a"]);
    assert!(world.removals(&web).is_empty());
}

#[test]
fn rule_08_what_was_ordered_away_before_any_report_stays_ordered() {
    let mut world = World::with(&[("eu", 40)]);
    world.agent("eu").up = false;
    let web = world.apply_components("web", &[("a", 1), ("b", 1)], json!([]));
    world.pass(1000);
    for replicas in [2, 3, 4] {
        world.apply_components("web", &[("a", replicas)], json!([]));
        world.pass(1000);
        let names: Vec<_> = world.removals(&web).into_iter().map(|(_, removal)| removal.object.name.name).collect();
        assert_eq!(names, ["b"], "the agent may have taken the first work and not told yet");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rule_12_no_comes_with_a_reason_for_every_candidate(turns in turns()) {
        let mut played = Played::new();
        played.others = vec![("api", 2), ("mail", 5)];
        played.apply();
        played.world.settle();
        for turn in turns {
            let text = format!("{turn:?}");
            played.play(turn);
            let placement = played.world.placement(&played.web).expect("a placement");
            for (name, component) in NAMES.iter().flat_map(|name| ["web", "api", "mail"].map(|component| (name, component))) {
                let cluster = played.world.cluster(name);
                if cluster.is_null() {
                    continue;
                }
                let uid = Uid::from(cluster["metadata"]["uid"].as_str().expect("a uid"));
                let has = placement.rows.iter().any(|row| row.cluster == uid && row.components.contains_key(component));
                let refused = |refusal: &Refusal| refusal.cluster == uid && refusal.component == component;
                let refused = placement.refusals.iter().any(refused);
                prop_assert!(has || refused, "{text}: {component} in {name} has neither a part nor a reason");
            }
        }
    }
}

#[test]
fn rule_13_converged_means_silent() {
    let mut world = World::with(&[("ap", 20), ("eu", 40), ("us", 40)]);
    world.apply("web", 30, divided());
    world.apply("api", 3, duplicated());
    world.apply("big", 500, divided());
    world.apply("one", 1, json!([]));
    world.pass(30_000);
    world.agent("ap").up = false;
    world.pass(3 * 60_000);
    let before = world.store.revision();
    world.pass(10 * 60_000);
    assert_eq!(world.store.revision(), before, "ten quiet minutes with beats");
    world.restart();
    world.pass(5 * 60_000);
    assert_eq!(world.store.revision(), before, "a restart");
}

#[test]
fn rule_14_removals_that_nobody_named_are_held_until_that_very_set_is_confirmed() {
    let mut world = World::with(&[("eu", 100), ("us", 100)]);
    for name in ["eu", "us"] {
        world.edit(&CLUSTER, "", name, |cluster| cluster["metadata"]["labels"] = json!({"tier": "prod"}));
    }
    let applications: Vec<Uid> = (0..12).map(|n| world.apply(&format!("app-{n:02}"), 1, by_label())).collect();
    world.settle();
    assert_eq!(world.running("us").len(), 12);
    world.edit(&CLUSTER, "", "us", |cluster| cluster["metadata"]["labels"] = json!({}));
    world.settle();
    world.restart();
    world.settle();
    assert!(world.ordered.is_empty(), "{:?}", world.ordered);
    assert_eq!(world.running("us").len(), 12);
    let condition = World::condition(&world.cluster("us"), "RemovalsHeld");
    assert_eq!(condition["status"], "True");
    assert_eq!(World::condition(&world.app("app-00"), "RemovalsHeld")["status"], "True");

    // Another set's digest is no yes.
    let annotate = |world: &mut World, digest: &str| {
        let word = json!({CONFIRM_ANNOTATION: digest, CONFIRM_AUTHOR_ANNOTATION: "dora"});
        world.edit(&CLUSTER, "", "us", |us| us["metadata"]["annotations"] = word);
        world.settle();
    };
    annotate(&mut world, "0123456789abcdef");
    assert!(world.ordered.is_empty());
    let message = condition["message"].as_str().expect("words");
    let digest = message.rsplit('=').next().expect("a digest").to_owned();
    annotate(&mut world, &digest);
    assert!(world.running("us").is_empty(), "{:?}", world.running("us"));
    assert_eq!(world.shares(&applications[0]), [("eu".to_owned(), 1)].into());
    assert_eq!(World::condition(&world.cluster("us"), "RemovalsHeld"), Value::Null);
}

/// Decisions are made some at a time; what goes is judged together all the same.
#[test]
fn rule_14_a_set_is_judged_whole_however_many_decisions_a_step_makes() {
    let mut world = World::with(&[("eu", 100), ("us", 100)]);
    for name in ["eu", "us"] {
        world.edit(&CLUSTER, "", name, |cluster| cluster["metadata"]["labels"] = json!({"tier": "prod"}));
    }
    let there = json!([{"type": "topology", "properties": {"clusters": ["us"]}}]);
    (0..58).for_each(|n| drop(world.apply(&format!("stays-{n:02}"), 1, there.clone())));
    (0..12).for_each(|n| drop(world.apply(&format!("leaves-{n:02}"), 1, by_label())));
    world.settle();
    assert_eq!(world.running("us").len(), 70);
    world.edit(&CLUSTER, "", "us", |cluster| cluster["metadata"]["labels"] = json!({}));
    world.settle();
    assert!(world.ordered.is_empty(), "{:?}", world.ordered);
    let condition = World::condition(&world.cluster("us"), "RemovalsHeld");
    assert!(condition["message"].as_str().is_some_and(|message| message.starts_with("12 of 70")), "{condition}");
}

#[test]
fn rule_14_what_a_person_named_is_not_held() {
    let mut world = World::with(&[("eu", 100), ("us", 100)]);
    let applications: Vec<Uid> = (0..12).map(|n| world.apply(&format!("app-{n:02}"), 1, duplicated())).collect();
    world.settle();
    for n in 0..12 {
        world.delete(&APPLICATION, "default", &format!("app-{n:02}"));
    }
    world.settle();
    assert!(world.running("us").is_empty());
    assert!(applications.iter().all(|application| world.placement(application).is_none()));
}

#[test]
fn rule_15_unknown_is_not_empty() {
    let mut world = World::with(&[("eu", 40)]);
    world.apply("web", 2, json!([]));
    world.settle();
    // A controller that has not heard the store decides nothing, whatever agents and clocks say.
    let mut deaf = Controller::new(Settings::default());
    let eu = Uid::from(world.cluster("eu")["metadata"]["uid"].as_str().expect("a uid"));
    assert_eq!(deaf.deadline(), None);
    for event in [Event::Tick, Event::Agent(FromAgent::Beat { cluster: eu.clone() }), Event::Tick] {
        world.now_ms += 3600 * 1000;
        assert_eq!(deaf.step(world.now(), event), []);
    }
    // Nor when it hears of the Application and where it runs before it hears of any cluster: that the cluster is not
    // known yet does not mean that it is gone.
    let past = world.store.past("/hanse/", 0, usize::MAX).expect("history");
    let of_cluster = |change: &Change| change.key.as_str().starts_with(&keys::prefix(&CLUSTER, None));
    let mut heard = 0;
    for event in &past.events {
        if let WatchEvent::Transaction { revision, changes } = event {
            let changes: Vec<Change> = changes.iter().filter(|change| !of_cluster(change)).cloned().collect();
            heard += changes.len();
            let feed = Feed::Changed { revision: *revision, changes: changes.into() };
            assert_eq!(deaf.step(world.now(), Event::Store(feed)), []);
        }
    }
    world.now_ms += 3600 * 1000;
    assert_eq!((heard > 0, deaf.step(world.now(), Event::Tick)), (true, vec![]));
    assert_eq!(deaf.deadline(), None);
    let unheard = crate::hub::slices::Slices::new();
    assert_eq!((unheard.slice(&eu).revision, world.slices.slice(&eu).revision), (0, world.store.revision()));
    assert_eq!(world.app("web")["status"]["observedGeneration"], world.app("web")["metadata"]["generation"]);
}

#[test]
fn rule_15_a_store_that_went_back_is_not_decided_on() {
    let mut world = World::with(&[("eu", 40)]);
    let web = world.apply("web", 2, json!([]));
    world.settle();
    let eu = Uid::from(world.cluster("eu")["metadata"]["uid"].as_str().expect("a uid"));
    let before = world.placement(&web);
    world.tolerates_faults = true;
    world.step(Event::Agent(FromAgent::StoreWentBack { cluster: eu, revision: 10_000 }));
    world.apply("web", 9, json!([]));
    world.delete(&APPLICATION, "default", "web");
    world.settle();
    assert_eq!(world.placement(&web), before);
    assert!(world.events().iter().any(|event| event.starts_with("eu StoreWentBack")));
    world.restart();
    world.settle();
    assert_eq!(world.app("web"), Value::Null, "a person restarted it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn rule_16_the_hub_never_writes_a_users_spec(turns in turns()) {
        let mut played = Played::new();
        for turn in turns {
            let written = |world: &World| {
                let app = world.app("web");
                (app["spec"].clone(), app["metadata"]["generation"].clone(), app["metadata"]["annotations"].clone())
            };
            let clusters = |world: &World| NAMES.map(|name| world.cluster(name)["spec"].clone());
            // Nobody but this test writes specs, so between two of its own writes they stay as they are.
            played.play(turn);
            let before = (written(&played.world), clusters(&played.world));
            played.world.pass(20_000);
            let after = (written(&played.world), clusters(&played.world));
            prop_assert_eq!(&before.0, &after.0);
            for (one, other) in before.1.iter().zip(&after.1) {
                prop_assert!(one == other || other.is_null());
            }
            let replicas = &played.world.app("web")["spec"]["components"][0]["traits"][0]["properties"]["replicas"];
            prop_assert_eq!(replicas.as_u64(), Some(u64::from(played.replicas)));
            prop_assert_eq!(&played.world.app("web")["spec"]["policies"], &played.policies);
        }
    }
}

#[test]
fn a_new_leader_places_on_no_cluster_before_its_fresh_sketch() {
    let mut world = World::with(&[("eu", 40)]);
    let eu = Uid::from(world.cluster("eu")["metadata"]["uid"].as_str().expect("a uid"));
    world.agent("eu").up = false;
    world.restart();
    assert_eq!(world.cluster("eu")["status"]["sketch"]["nodes"], 1, "what was known of it before is stored");
    world.step(Event::Agent(FromAgent::Beat { cluster: eu }));
    let web = world.apply("web", 2, json!([]));
    world.settle();
    assert_eq!(world.shares(&web), BTreeMap::new(), "what it has room for by now, nobody has said");
    world.agent("eu").up = true;
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 2)].into());
}

#[test]
fn a_new_leader_gives_every_cluster_a_fresh_term_of_grace() {
    let grace_ms = Settings::default().grace_ms;
    let mut world = World::with(&[("eu", 40)]);
    world.agent("eu").up = false;
    world.pass(grace_ms - 10_000);
    world.restart();
    world.pass(grace_ms - 1_000);
    let ready = |world: &World| World::condition(&world.cluster("eu"), "Ready")["status"].clone();
    assert_eq!(ready(&world), "True", "silence before this process led does not count");
    world.pass(grace_ms / 5 + 1_000);
    assert_eq!(ready(&world), "Unknown");
}

#[test]
fn two_holders_of_one_identity_are_frozen_once_and_a_person_ends_it() {
    let mut world = World::with(&[("eu", 40)]);
    let eu = Uid::from(world.cluster("eu")["metadata"]["uid"].as_str().expect("a uid"));
    world.step(Event::Agent(FromAgent::Frozen { cluster: eu }));
    world.settle();
    assert_eq!(World::condition(&world.cluster("eu"), "Ready")["reason"], "IdentityFrozen");
    assert!(world.cluster("eu")["metadata"]["annotations"]["hanse.dev/identity-frozen"].is_string());
    world.edit(&CLUSTER, "", "eu", |object| object["metadata"]["annotations"] = json!({}));
    world.settle();
    assert_eq!(World::condition(&world.cluster("eu"), "Ready")["status"], "True");
    assert!(world.cluster("eu")["metadata"]["annotations"]["hanse.dev/identity-frozen"].is_null());
}
