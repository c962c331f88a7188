//! Profiles come, change and go while the hub runs.

use serde_json::{Value, json};

use super::world::World;
use crate::{
    hub::control::Event,
    kinds::PLACEMENT_PROFILE,
    model::{
        Uid,
        plugin::{ClusterFacts, Judgement, Judgements, Question},
    },
};

fn by(profile: &str) -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided", "profile": profile}}])
}

fn put(world: &mut World, name: &str, spec: Value) {
    let uid = world.uid();
    let object = json!({"metadata": {"name": name, "uid": uid}, "spec": spec});
    world.put(&PLACEMENT_PROFILE, "", name, object);
}

/// Only the cluster of this name.
fn only(cluster: &str) -> Value {
    json!({"filters": [{"type": "Expression", "expression": format!("name == '{cluster}'"), "message": "another one"}]})
}

#[test]
fn a_profile_takes_effect_when_it_comes_and_leaves_the_last_good_placement_when_it_goes() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 4, by("gold"));
    world.settle();
    assert!(world.shares(&web).is_empty());
    let ready = World::condition(&world.app("web"), "Ready");
    assert_eq!(
        (&ready["reason"], &ready["message"]),
        (&json!("Unplaced"), &json!("web: there is no PlacementProfile \"gold\""))
    );
    put(&mut world, "gold", only("eu"));
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 4)].into());
    assert_eq!(World::condition(&world.app("web"), "Ready")["reason"], "Available");
    put(&mut world, "gold", only("us"));
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 4)].into(), "nothing that runs moves");
    put(&mut world, "gold", json!({"filters": [{"type": "Astrology"}]}));
    world.apply("web", 6, by("gold"));
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 4)].into());
    let placed = World::condition(&world.app("web"), "Placed");
    assert!(placed["message"].as_str().is_some_and(|told| told.contains("cannot be carried out")), "{placed}");
    put(&mut world, "gold", json!({}));
    world.settle();
    assert_eq!(world.shares(&web).values().sum::<u32>(), 6);
}

#[test]
fn a_profile_wakes_those_who_go_by_it_and_nobody_else() {
    let mut world = World::with(&[("eu", 40)]);
    put(&mut world, "gold", json!({}));
    let gold = world.apply("gold", 1, by("gold"));
    let plain = world.apply("plain", 1, json!([]));
    let silver = world.apply("silver", 1, by("silver"));
    world.settle();
    let woken = |world: &mut World, name: &str| -> Vec<Uid> {
        world.controller.due = Default::default();
        let now = world.now();
        world.controller.on_profiles(now, &[name.to_owned()].into());
        world.controller.due.ripen(u64::MAX, |_| 0);
        world.controller.due.ripe().map(|(uid, _)| uid.clone()).collect()
    };
    assert_eq!(woken(&mut world, "gold"), [gold]);
    assert_eq!(woken(&mut world, "silver"), [silver]);
    assert_eq!(woken(&mut world, "default"), [plain]);
    assert_eq!(woken(&mut world, "bronze"), []);
}

fn asking(failure_policy: &str) -> Value {
    let plugin = json!({"socket": "p", "timeoutMilliseconds": 200, "failurePolicy": failure_policy, "weight": 1});
    json!({"plugin": plugin})
}

/// Refuses `eu`, and likes the others the better the later their names are.
fn picky(question: &Question) -> Result<Judgements, String> {
    let judge = |(number, cluster): (usize, &ClusterFacts)| match cluster.name.as_str() {
        "eu" => (cluster.uid.clone(), Judgement::Refused("closed".into())),
        _ => (cluster.uid.clone(), Judgement::Score(number as i64)),
    };
    Ok(question.clusters.iter().enumerate().map(judge).collect())
}

fn failed(world: &World, name: &str) -> String {
    World::condition(&world.app(name), "PluginFailed")["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_plugin_is_asked_before_a_decision_and_its_answer_decides() {
    let mut world = World::with(&[("ap", 40), ("eu", 40), ("us", 40)]);
    world.plugin = Some(picky);
    put(&mut world, "gold", asking("Keep"));
    world.apply("plain", 1, json!([]));
    world.settle();
    assert_eq!(world.asked, [], "those who do not go by it are not asked about");
    let web = world.apply("web", 4, by("gold"));
    world.settle();
    assert_eq!(world.shares(&web), [("us".to_owned(), 4)].into());
    let question = world.asked.last().expect("a question");
    assert_eq!((question.parts[0].component.as_str(), question.parts[0].replicas), ("web", Some(4)));
    let told: Vec<_> = question.clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.runs)).collect();
    assert_eq!(told, [("ap", false), ("eu", false), ("us", false)]);
    let refusals = world.placement(&web).expect("a placement").refusals;
    let eu = refusals.iter().find(|refusal| refusal.cluster_name == "eu").expect("a refusal");
    assert_eq!(eu.why.to_string(), "closed (a plug-in of the platform)");
    // Nothing is asked when nothing happens.
    let asked = world.asked.len();
    world.pass(60_000);
    assert_eq!(world.asked.len(), asked);
    world.join("zz", 40);
    world.settle();
    world.apply("web", 6, by("gold"));
    world.settle();
    assert_eq!(world.shares(&web), [("us".to_owned(), 4), ("zz".to_owned(), 2)].into());
}

#[test]
fn without_an_answer_the_profile_says_what_happens() {
    for (policy, shares) in [("Keep", 4), ("Ignore", 8)] {
        let mut world = World::with(&[("eu", 40), ("us", 40)]);
        world.plugin = Some(picky);
        put(&mut world, "gold", asking(policy));
        let web = world.apply("web", 4, by("gold"));
        world.settle();
        assert_eq!((world.shares(&web).values().sum::<u32>(), failed(&world, "web").as_str()), (4, ""));
        world.plugin = None;
        world.apply("web", 8, by("gold"));
        world.settle();
        assert_eq!(world.shares(&web).values().sum::<u32>(), shares, "{policy}");
        assert!(failed(&world, "web").ends_with("no answer within 200 ms"), "{}", failed(&world, "web"));
        let placed = World::condition(&world.app("web"), "Placed");
        assert_eq!(placed["status"] == "False", policy == "Keep", "{placed}");
        world.plugin = Some(|_| Err("its score of eu is NaN".into()));
        world.pass(70_000);
        assert!(failed(&world, "web").ends_with("its score of eu is NaN"));
        assert_eq!(world.shares(&web).values().sum::<u32>(), shares);
        // It comes back, and is asked again without anybody's doing.
        world.plugin = Some(picky);
        world.pass(70_000);
        assert_eq!(world.shares(&web).values().sum::<u32>(), 8, "{policy}");
        assert_eq!(failed(&world, "web"), "");
    }
}

#[test]
fn a_plugin_that_fails_is_left_alone_for_a_while() {
    let mut world = World::with(&[("eu", 400)]);
    world.plugin = Some(|_| Err("it cannot be reached".into()));
    put(&mut world, "default", asking("Ignore"));
    for number in 0..20 {
        world.apply(&format!("web-{number}"), 1, json!([]));
        world.settle();
    }
    assert!((3..12).contains(&world.asked.len()), "{} questions", world.asked.len());
    let revision = world.store.revision();
    world.pass(300_000);
    assert!(world.asked.len() < 40, "{} questions", world.asked.len());
    let written = world.store.past("/hanse/core.oam.dev/", revision, usize::MAX).expect("history");
    assert_eq!(written.events.len(), 0, "nothing changed, so nothing is written");
}

#[test]
fn an_answer_about_another_fleet_is_none() {
    let mut world = World::with(&[("eu", 40)]);
    put(&mut world, "gold", asking("Keep"));
    let web = world.apply("web", 1, by("gold"));
    world.settle();
    assert!(world.shares(&web).is_empty());
    let effects = world.controller.step(world.now(), Event::Answered { id: 1, answer: Ok(Judgements::new()) });
    assert_eq!(effects, [], "it came too late");
}
