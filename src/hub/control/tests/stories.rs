//! What people do, and what becomes of it.

use serde_json::{Value, json};

use super::world::World;
use crate::{
    hub::control::{Effect, Event, Settings, applications::LANES_MAX},
    kinds::{
        APPLICATION, CLUSTER,
        cluster::{FORGET_ANNOTATION, FORGET_AUTHOR_ANNOTATION},
    },
    store::{Key, Operation, Outcome, Transaction},
};

fn divided() -> Value {
    json!([{"name": "spread", "type": "placement", "properties": {"mode": "Divided"}}])
}

#[test]
fn an_application_is_placed_by_room_runs_and_reports_back() {
    let mut world = World::with(&[("ap", 20), ("eu", 40), ("us", 40)]);
    let web = world.apply("web", 30, divided());
    world.settle();
    assert_eq!(world.shares(&web), [("ap".to_owned(), 6), ("eu".to_owned(), 12), ("us".to_owned(), 12)].into());
    let status = world.app("web")["status"].clone();
    assert_eq!((&status["status"], &status["placement"]["sum"]), (&json!("running"), &json!("30 = 6 + 12 + 12")));
    assert_eq!(status["services"].as_array().map(Vec::len), Some(3));
    let events = world.events();
    for expected in
        ["web Rendered: web-v1: 1 objects", "web Placed: 30 = 6 + 12 + 12 in ap, eu, us", "web Running: 3 of 3"]
    {
        assert!(events.iter().any(|event| event.starts_with(expected)), "{expected}: {events:?}");
    }
}

#[test]
fn joining_shows_in_conditions_events_and_a_stored_sketch() {
    let world = World::with(&[("eu", 40)]);
    let eu = world.cluster("eu");
    assert_eq!(World::condition(&eu, "Ready")["reason"], "AgentConnected");
    assert_eq!(eu["status"]["sketch"]["free"]["cpu"], 4000);
    assert!(world.events().iter().any(|event| event.starts_with("eu ClusterJoined")));
}

#[test]
fn an_application_waits_for_room_and_gets_it_when_a_cluster_joins() {
    let mut world = World::with(&[("eu", 10)]);
    let web = world.apply("web", 30, divided());
    world.settle();
    assert!(world.shares(&web).is_empty());
    assert_eq!(World::condition(&world.app("web"), "Ready")["reason"], "Unplaced");
    world.join("us", 40);
    world.settle();
    assert_eq!(world.shares(&web).values().sum::<u32>(), 30);
    assert_eq!(world.app("web")["status"]["status"], "running");
}

#[test]
fn an_edit_that_asks_for_more_than_there_is_waits_and_says_why() {
    let mut world = World::with(&[("eu", 10), ("us", 10)]);
    let web = world.apply("web", 7, divided());
    world.settle();
    let before = world.placement(&web).expect("a placement").rows;
    let resize = |world: &mut World, cpu: &str| {
        world.edit(&APPLICATION, "default", "web", |app| {
            app["spec"]["components"][0]["properties"]["cpu"] = json!(cpu);
            app["spec"]["policies"] = json!([{"name": "spread", "type": "placement",
                "properties": {"mode": "Divided", "clusters": ["us"]}}]);
        });
        world.settle();
    };
    resize(&mut world, "300m");
    let placement = world.placement(&web).expect("a placement");
    assert_eq!(placement.rows, before, "the revision that runs goes on, policies and all");
    let status = world.app("web")["status"].clone();
    assert_eq!(status["latestRevision"]["name"], "web-v2");
    let words = "web: room for 3 of 7 replicas as they are asked for now; the revision that runs goes on until all fit";
    assert_eq!(World::condition(&world.app("web"), "Ready")["message"], words);
    let reasons: Vec<_> = placement.refusals.iter().map(|r| format!("{}: {}", r.cluster_name, r.why)).collect();
    assert_eq!(reasons, ["eu: not among the named clusters", "us: room for 3 of 7 replicas: cpu"]);
    world.pass(60_000);
    let written = world.store.revision();
    world.restart();
    world.pass(60_000);
    assert_eq!(world.store.revision(), written, "waiting is silent");
    resize(&mut world, "100m");
    assert_eq!(world.shares(&web), [("us".to_owned(), 7)].into());
    assert_eq!(world.app("web")["status"]["status"], "running");
}

#[test]
fn a_cordoned_cluster_keeps_what_it_has_and_gets_nothing_new() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 10, divided());
    world.settle();
    world.edit(&CLUSTER, "", "eu", |cluster| cluster["spec"]["unschedulable"] = json!(true));
    world.apply("web", 20, divided());
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 5), ("us".to_owned(), 15)].into());
}

#[test]
fn a_deleted_application_leaves_nothing_behind() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 10, divided());
    world.settle();
    assert_eq!(world.running("eu"), ["web"]);
    world.delete(&APPLICATION, "default", "web");
    world.settle();
    assert!(world.running("eu").is_empty() && world.running("us").is_empty());
    assert_eq!(world.app("web"), json!(null));
    for prefix in
        ["/hanse/internal/placements/", "/hanse/internal/reports/", "/hanse/core.oam.dev/applicationrevisions/"]
    {
        assert_eq!(world.keys(prefix), [], "{web}");
    }
    assert!(world.events().iter().any(|event| event.starts_with("web Removed")));
}

#[test]
fn deletion_waits_for_a_dead_cluster_until_it_is_forgotten() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 10, divided());
    world.settle();
    world.agent("us").up = false;
    world.delete(&APPLICATION, "default", "web");
    world.pass(60_000);
    let app = world.app("web");
    assert_eq!(app["status"]["status"], "deleting");
    assert_eq!(World::condition(&app, "Ready")["message"], "waiting for us to confirm the removals");
    let waiting = world.placement(&web).expect("a placement").rows[0].clone();
    assert_eq!((waiting.removals[0].author.as_str(), waiting.trace.as_str()), ("bob", "t2"), "who deleted it");
    assert!(world.running("eu").is_empty(), "the others do not wait");

    let uid = world.cluster("us")["metadata"]["uid"].clone();
    let word = json!({FORGET_ANNOTATION: uid, FORGET_AUTHOR_ANNOTATION: "carol"});
    world.edit(&CLUSTER, "", "us", |us| us["metadata"]["annotations"] = word);
    world.delete(&CLUSTER, "", "us");
    world.settle();
    assert_eq!((world.app("web"), world.cluster("us")), (json!(null), json!(null)));
    let told = |words: &str| world.events().iter().any(|event| event.starts_with(words));
    assert!(told("web Deleting: deleted by bob: ") && told("us ClusterRemoved: deleted by bob, forgotten by carol: "));
}

#[test]
fn deleting_a_cluster_orphans_what_runs_there() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 10, divided());
    world.settle();
    let us = world.agent("us").clone();
    world.delete(&CLUSTER, "", "us");
    world.settle();
    assert_eq!(world.cluster("us"), json!(null));
    assert_eq!(world.shares(&web), [("eu".to_owned(), 10)].into());
    assert!(world.ordered.is_empty(), "{:?}", world.ordered);
    assert_eq!(us.objects.len(), 1);
}

#[test]
fn a_drained_cluster_goes_when_its_removals_are_confirmed() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let web = world.apply("web", 10, divided());
    world.settle();
    world.agent("us").up = false;
    world.edit(&CLUSTER, "", "us", |us| us["spec"]["deletionPolicy"] = json!("Drain"));
    world.delete(&CLUSTER, "", "us");
    world.settle();
    let (cluster, removal) = world.removals(&web).remove(0);
    assert_eq!((cluster.as_str(), removal.reason), ("us", crate::model::work::RemovalReason::ClusterDrained));
    assert_eq!(removal.author, "bob", "who drains the cluster, not who changed the Application last");
    assert_ne!(world.cluster("us"), json!(null), "its agent has not confirmed");
    world.agent("us").up = true;
    world.settle();
    assert_eq!(world.cluster("us"), json!(null));
    assert_eq!(world.shares(&web), [("eu".to_owned(), 10)].into());
}

#[test]
fn a_newly_joined_cluster_that_the_selector_matches_gets_the_application() {
    let topology = json!([{"name": "t", "type": "topology", "properties": {"clusterLabelSelector": {}}}]);
    let mut world = World::with(&[("eu", 40)]);
    let web = world.apply("web", 2, topology);
    world.settle();
    world.join("us", 40);
    world.settle();
    assert_eq!(world.shares(&web), [("eu".to_owned(), 2), ("us".to_owned(), 2)].into());
}

#[test]
fn a_spec_that_cannot_be_rendered_says_so_and_changes_nothing_else() {
    let mut world = World::with(&[("eu", 40)]);
    let web = world.apply("web", 2, json!([]));
    world.settle();
    world.edit(&APPLICATION, "default", "web", |app| app["spec"]["components"][0]["type"] = json!("mystery"));
    world.settle();
    let app = world.app("web");
    assert_eq!(app["status"]["status"], "rendering");
    assert!(World::condition(&app, "Render")["message"].as_str().is_some_and(|message| message.contains("mystery")));
    assert_eq!(world.shares(&web), [("eu".to_owned(), 2)].into());
    assert!(world.ordered.is_empty());
}

#[test]
fn labels_and_annotations_of_an_application_reach_what_it_runs() {
    let mut world = World::with(&[("eu", 40)]);
    let web = world.apply("web", 2, json!([]));
    world.settle();
    let plain = world.placement(&web).expect("a placement").rows[0].clone();
    let note = |world: &mut World, field: &'static str, key: &'static str, value: Value| {
        let change = json!({"metadata": {field: {key: value}}});
        world.edit(&APPLICATION, "default", "web", |app| json_patch::merge(app, &change));
        world.settle();
        let row = world.placement(&web).expect("a placement").rows[0].clone();
        let work = world.slices.slice(&row.cluster).works[0].clone();
        let blob = world.slices.blob(&row.cluster, &work.manifests[0].blob).expect("its blob");
        let object: Value = serde_json::from_slice(&blob).expect("a manifest");
        (row.revision, object["metadata"].clone())
    };
    assert_eq!(plain.revision, "web-v1");
    let (revision, metadata) = note(&mut world, "labels", "team", json!("a"));
    assert_eq!((revision.as_str(), &metadata["labels"]["team"]), ("web-v2", &json!("a")));
    let (revision, metadata) = note(&mut world, "annotations", "note", json!("b"));
    assert_eq!((revision.as_str(), &metadata["annotations"]["note"]), ("web-v3", &json!("b")));
    // There and back is a new revision too: the newest one says what runs.
    let (revision, metadata) = note(&mut world, "labels", "team", Value::Null);
    assert_eq!((revision.as_str(), &metadata["labels"]["team"]), ("web-v4", &Value::Null));
    for key in ["kubectl.kubernetes.io/last-applied-configuration", "hanse.dev/trace"] {
        let (revision, _) = note(&mut world, "annotations", key, json!("{}"));
        assert_eq!(revision, "web-v4", "{key} is not rendered");
    }
    assert_eq!(world.shares(&web), [("eu".to_owned(), 2)].into());
    assert!(world.ordered.is_empty(), "{:?}", world.ordered);
}

#[test]
fn an_edit_between_decision_and_commit_is_decided_anew() {
    let mut world = World::with(&[("eu", 40)]);
    world.apply("web", 2, divided());
    // The controller sees the first edit only; the second is in the store by the time it commits.
    let page = world.store.past("/hanse/", world.store.revision() - 1, 10).expect("history");
    world.apply("web", 3, divided());
    for event in page.events {
        if let crate::store::WatchEvent::Transaction { revision, changes } = event {
            world.step(Event::Store(crate::hub::feed::Feed::Changed { revision, changes }));
        }
    }
    world.settle();
    let app = world.app("web");
    assert_eq!(app["status"]["placement"]["sum"], "3 = 3");
    assert_eq!(app["spec"]["components"][0]["traits"][0]["properties"]["replicas"], 3);
}

#[test]
fn a_former_leader_cannot_write_and_stops() {
    let mut world = World::with(&[("eu", 40)]);
    let key = Key::new("/hanse/internal/leader");
    let lead = |world: &mut World| match world.store.commit(Transaction::put(key.clone(), "1".into())) {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("{other:?}"),
    };
    let term = lead(&mut world);
    let mut former =
        crate::hub::control::Controller::new(Settings { leader: Some((key.clone(), term)), ..Settings::default() });
    lead(&mut world);
    let entries: Vec<_> = world.store.entries().collect();
    world.apply("web", 2, divided());
    let entries = [entries, world.store.entries().collect()].concat();
    let feed = crate::hub::feed::Feed::Reset { entries: entries.into(), revision: world.store.revision() };
    let effects = former.step(world.now(), Event::Store(feed));
    let commit = effects.into_iter().find_map(|effect| match effect {
        Effect::Commit { id, transaction } => Some((id, transaction)),
        _ => None,
    });
    let (id, transaction) = commit.expect("the former leader still tries to write");
    let outcome = world.store.commit(transaction);
    assert!(matches!(outcome, Ok(Outcome::Conflict(_))));
    assert_eq!(former.step(world.now(), Event::Done { id, outcome }), [Effect::StepDown]);
    assert_eq!(former.step(world.now(), Event::Tick), []);
}

#[test]
fn old_revisions_and_events_go_and_those_that_run_stay() {
    let mut world = World::with(&[("eu", 40), ("us", 40)]);
    let everywhere = json!([{"name": "t", "type": "topology", "properties": {"clusterLabelSelector": {}}}]);
    for replicas in 1..=15 {
        world.apply("web", replicas, everywhere.clone());
        world.settle();
    }
    world.pass(120_000);
    let revisions = world.keys("/hanse/core.oam.dev/applicationrevisions/");
    assert_eq!(revisions.len(), 10);
    assert!(revisions.iter().any(|key| key.as_str().ends_with("web-v15")));
    assert!(!world.events().is_empty());
    world.pass(2 * 3600 * 1000);
    assert_eq!(world.events(), Vec::<String>::new());
    let blobs = world.keys("/hanse/blob/").len();
    assert_eq!(blobs, 20, "a manifest and the Application for each revision that is kept");
}

#[test]
fn an_expired_token_is_swept_a_while_later() {
    let mut world = World::with(&[]);
    let expires = world.now().wall.to_string();
    let token = json!({"metadata": {"name": "t", "uid": "t"}, "spec": {"expiresAt": expires}});
    world.put(&crate::kinds::JOIN_TOKEN, "", "t", token);
    world.pass(1800 * 1000);
    assert_eq!(world.keys("/hanse/hub.hanse.dev/jointokens/").len(), 1);
    world.pass(2 * 3600 * 1000);
    assert_eq!(world.keys("/hanse/hub.hanse.dev/jointokens/").len(), 0);
}

#[test]
fn a_user_annotation_or_status_of_others_survives_every_write() {
    let mut world = World::with(&[("eu", 40)]);
    world.apply("web", 2, json!([]));
    world.edit(&APPLICATION, "default", "web", |app| app["metadata"]["futureField"] = json!({"a": 1}));
    world.settle();
    assert_eq!(world.app("web")["metadata"]["futureField"], json!({"a": 1}));
    let unknown = Operation::Put(Key::new("/hanse/internal/unknown"), "x".into());
    let outcome = world.store.commit(Transaction { compares: vec![], operations: vec![unknown] });
    assert!(outcome.is_ok());
    world.settle();
}

#[test]
fn a_sketch_is_stored_when_it_changed_by_a_twentieth_and_at_most_every_half_minute() {
    let mut world = World::with(&[("eu", 100)]);
    let stored = |world: &World| world.cluster("eu")["status"]["sketch"]["free"]["cpu"].as_i64();
    world.pass(60_000);
    assert_eq!(stored(&world), Some(10_000));
    world.agent("eu").room = 96;
    world.pass(60_000);
    assert_eq!(stored(&world), Some(10_000), "four hundredths are no news");
    world.agent("eu").room = 90;
    world.pass(1_000);
    assert_eq!(stored(&world), Some(9_000));
    world.agent("eu").room = 50;
    world.pass(20_000);
    assert_eq!(stored(&world), Some(9_000), "written a moment ago");
    world.pass(15_000);
    assert_eq!(stored(&world), Some(5_000));
}

#[test]
fn many_reports_share_few_transactions() {
    let names: Vec<String> = (0..60).map(|number| format!("c{number:02}")).collect();
    let clusters: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let mut world = World::with(&clusters);
    let before = world.store.revision();
    let everywhere = json!([{"name": "t", "type": "topology", "properties": {"clusterLabelSelector": {}}}]);
    world.apply("web", 1, everywhere);
    world.settle();
    assert_eq!(world.app("web")["status"]["serviceCounts"], json!({"total": 60, "healthy": 60}));
    let writes = world.store.revision() - before;
    // The Application itself, its decision, events, a few batches of sixty reports, and their statuses.
    assert!(writes <= 20, "{writes} writes");
}

#[test]
fn many_that_wait_are_all_placed_once_clusters_are_open() {
    let clusters: Vec<String> = (0..3).map(|n| format!("c{n}")).collect();
    let mut world = World::with(&clusters.iter().map(|name| (name.as_str(), 1000)).collect::<Vec<_>>());
    let cordon = |world: &mut World, cordoned: bool| {
        for name in &clusters {
            world.edit(&CLUSTER, "", name, |cluster| cluster["spec"]["unschedulable"] = json!(cordoned));
        }
    };
    cordon(&mut world, true);
    world.settle();
    // More than are decided in one step, and than are written at once.
    let applications: Vec<_> = (0..400).map(|n| world.apply(&format!("app-{n:03}"), 4, divided())).collect();
    world.settle();
    assert!(applications.iter().all(|application| world.shares(application).is_empty()));
    world.backlog = Some(Vec::new());
    cordon(&mut world, false);
    world.settle();
    let waits = world.backlog.as_ref().map_or(0, Vec::len);
    assert!((LANES_MAX / 2..LANES_MAX + 10).contains(&waits), "{waits} writes wait for a busy store");
    world.catch_up();
    world.settle();
    assert!(applications.iter().all(|application| world.shares(application).values().sum::<u32>() == 4));
}
