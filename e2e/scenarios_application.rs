//! The life of an Application in real clusters: applied, repaired, changed, refused, deleted.

use std::time::Duration;

use serde_json::{Value, json};

use crate::applications::{config_map, get, objects, replicas, versions, wait_for_pods, web, within};
use crate::control_plane::fleet;
use crate::federation::{Federation, SOON};
use crate::wait;

#[test]
fn drift_is_repaired_and_what_is_not_ours_is_left_alone() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let _agent = federation.join(member, "eu");
    federation.make_namespace("drift");
    federation.apply(&web("drift", "web", 2, "50m", within(&["eu"])));
    federation.wait_until_running("drift", "web");
    let kubectl = || member.kubectl().namespace("drift");
    let deployment = || get(member, "drift", "deployment", "web");
    let original = deployment().expect("the Deployment")["metadata"]["uid"].clone();

    // Somebody else's label, annotation and field, one of which others depend on.
    kubectl().args(["label", "deployment", "web", "team=storefront"]).ok();
    let deadline = r#"{"spec":{"progressDeadlineSeconds":321}}"#;
    kubectl().args(["patch", "deployment", "web", "--patch", deadline]).ok();
    // A field of ours.
    kubectl().args(["scale", "deployment", "web", "--replicas=5"]).ok();
    wait::until("the replicas to be repaired", SOON, || match replicas(member, "drift", "web") {
        2 => Ok(()),
        other => Err(other),
    });
    wait_for_pods(member, "drift", 2);
    let repaired = deployment().expect("the Deployment");
    assert_eq!(repaired["metadata"]["uid"], original);
    assert_eq!(repaired["metadata"]["labels"]["team"], "storefront");
    assert_eq!(repaired["spec"]["progressDeadlineSeconds"], 321);

    kubectl().args(["delete", "deployment", "web"]).ok();
    wait::until("the Deployment to be back", SOON, || match deployment() {
        Some(back) if back["metadata"]["uid"] != original => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_for_pods(member, "drift", 2);
    federation.wait_until_running("drift", "web");
}

#[test]
fn an_autoscaler_of_the_member_says_how_many_replicas_there_are() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let mut agent = federation.join(member, "eu");
    federation.make_namespace("scaled");
    let mut application = web("scaled", "web", 1, "50m", within(&["eu"]));
    federation.apply(&application);
    federation.wait_until_running("scaled", "web");
    let kubectl = || member.kubectl().namespace("scaled");
    // It needs no metrics to keep its bounds.
    kubectl().args(["autoscale", "deployment", "web", "--min=3", "--max=5", "--cpu=80%"]).ok();
    wait_for_pods(member, "scaled", 3);
    federation.wait_until_status_says("scaled", "web", &["Ready:3/3"]);

    let generation =
        || get(member, "scaled", "deployment", "web").expect("the Deployment")["metadata"]["generation"].clone();
    let scaled = generation();
    agent.kill();
    agent.start(member);
    federation.wait_for_cluster("eu", "Ready");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(generation(), scaled, "nobody changed the Deployment since");

    application["spec"]["components"][0]["properties"]["image"] = "web:2".into();
    federation.apply(&application);
    wait::until("the new image", SOON, || {
        let deployment = get(member, "scaled", "deployment", "web").expect("the Deployment");
        let spec = &deployment["spec"];
        let is_new = spec["template"]["spec"]["containers"][0]["image"] == "web:2";
        if is_new { Ok(()) } else { Err(spec.to_string()) }
    });
    assert_eq!(replicas(member, "scaled", "web"), 3);
    federation.wait_until_running("scaled", "web");

    kubectl().args(["delete", "hpa", "web"]).ok();
    wait_for_pods(member, "scaled", 1);
}

#[test]
fn an_application_is_updated_scaled_and_deleted_and_leaves_nothing_behind() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let _agent = federation.join(member, "eu");
    federation.make_namespace("life");
    let image = || {
        let deployment = get(member, "life", "deployment", "web").expect("the Deployment");
        deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };

    let mut application = web("life", "web", 1, "50m", within(&["eu"]));
    let more = json!({ "name": "more", "type": "worker", "properties": { "image": "worker:1", "cpu": "50m" } });
    application["spec"]["components"].as_array_mut().unwrap().push(more);
    federation.apply(&application);
    let first = federation.wait_until_running("life", "web");
    wait_for_pods(member, "life", 2);
    assert_eq!(first["status"]["latestRevision"]["name"], "web-v1");

    application["spec"]["components"][0]["properties"]["image"] = "web:2".into();
    application["spec"]["components"][0]["traits"][0]["properties"]["replicas"] = 3.into();
    federation.apply(&application);
    let second = federation.wait_until_running("life", "web");
    assert_eq!(second["status"]["latestRevision"]["name"], "web-v2");
    assert_eq!((image(), replicas(member, "life", "web")), ("web:2".into(), 3));
    wait_for_pods(member, "life", 4);

    // What is noted on the Application reaches its objects, and what kubectl notes there for itself makes no revision.
    let on_hub = |what: &str, note: &str| {
        federation.kubectl().namespace("life").args([what, "application", "web", "--overwrite", note]).ok()
    };
    on_hub("label", "team=storefront");
    on_hub("annotate", "note=to-whom-it-concerns");
    on_hub("annotate", "kubectl.kubernetes.io/last-applied-configuration={}");
    wait::until("label and annotation to reach the Deployment", SOON, || {
        let metadata = get(member, "life", "deployment", "web").expect("the Deployment")["metadata"].clone();
        let seen = (&metadata["labels"]["team"], &metadata["annotations"]["note"]);
        if seen == (&"storefront".into(), &"to-whom-it-concerns".into()) { Ok(()) } else { Err(metadata.to_string()) }
    });
    let noted = federation.wait_until_running("life", "web");
    assert_eq!(noted["status"]["latestRevision"]["name"], "web-v4");
    on_hub("label", "team-");
    on_hub("annotate", "note-");

    // A component that goes takes its objects with it, and nothing else.
    application["spec"]["components"].as_array_mut().unwrap().pop();
    federation.apply(&application);
    federation.wait_until_running("life", "web");
    wait::until("the second component to be gone", SOON, || match get(member, "life", "deployment", "more") {
        None => Ok(()),
        Some(_) => Err("it is there"),
    });
    wait_for_pods(member, "life", 3);

    // A stranger in the namespace, to be left alone.
    member.kubectl().namespace("life").args(["create", "configmap", "stranger"]).ok();
    federation.kubectl().namespace("life").args(["delete", "application", "web"]).ok();
    wait_for_pods(member, "life", 0);
    for kind in ["deployments", "services", "replicasets"] {
        let left = member.kubectl().namespace("life").args(["get", kind, "--output=name"]).ok();
        assert_eq!(left, "", "{kind} of the deleted Application");
    }
    assert!(get(member, "life", "configmap", "stranger").is_some());
    for kind in ["applications", "applicationrevisions", "works"] {
        wait::until(&format!("no {kind} on the hub"), SOON, || {
            let left = federation.kubectl().namespace("life").args(["get", kind, "--output=name"]).ok();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

#[test]
fn an_edit_there_and_back_loses_nothing() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let _agent = federation.join(member, "eu");
    federation.make_namespace("back");
    let a = objects("back", "pages", json!([config_map("one", "a"), config_map("kept", "a")]), within(&["eu"]));
    let b = objects("back", "pages", json!([config_map("two", "b"), config_map("kept", "b")]), within(&["eu"]));

    federation.apply(&a);
    federation.wait_until_running("back", "pages");
    // Fast enough for the removals of the one to meet the objects of the other.
    for _ in 0..5 {
        federation.apply(&b);
        federation.apply(&a);
    }
    federation.wait_until_running("back", "pages");
    wait::until("the objects of the last edit, and only these", SOON, || {
        let seen = ["one", "two", "kept"]
            .map(|name| get(member, "back", "configmap", name).map(|map| map["data"]["value"].clone()));
        if seen == [Some("a".into()), None, Some("a".into())] { Ok(()) } else { Err(format!("{seen:?}")) }
    });

    federation.apply(&b);
    federation.wait_until_running("back", "pages");
    wait::until("the first object to be removed", SOON, || match get(member, "back", "configmap", "one") {
        None => Ok(()),
        Some(map) => Err(map),
    });
    federation.apply(&a);
    federation.wait_until_running("back", "pages");
    assert!(get(member, "back", "configmap", "one").is_some());
}

#[test]
fn what_a_member_refuses_shows_in_the_status() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let _agent = federation.join(member, "eu");
    let apply = |namespace: &str, name: &str, refused: Value| {
        let good = config_map(&format!("{name}-good"), "here");
        federation.apply(&objects(namespace, name, json!([good, refused]), within(&["eu"])));
    };
    federation.make_namespace("refused");

    let metadata = json!({ "name": "broken" });
    let invalid = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": { "ports": [{ "port": 99999 }] } });
    apply("refused", "invalid", invalid);
    let status = federation.wait_until_status_says("refused", "invalid", &["Invalid", "99999"]);
    assert!(!status.contains(r#""status":"running""#), "{status}");
    // The refused object holds nothing else back.
    wait::until("the good object to be there", SOON, || match get(member, "refused", "configmap", "invalid-good") {
        Some(_) => Ok(()),
        None => Err("it is not"),
    });

    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "grab-all" }, "rules": [] });
    apply("refused", "cluster-scoped", role);
    federation.wait_until_status_says("refused", "cluster-scoped", &["ClusterRole", "grab-all"]);
    member.kubectl().args(["get", "clusterrole", "grab-all"]).fails();

    federation.make_namespace("full");
    member.kubectl().args(["create", "namespace", "full"]).ok();
    member.kubectl().namespace("full").args(["create", "quota", "tight", "--hard=pods=1"]).ok();
    federation.apply(&web("full", "web", 3, "50m", within(&["eu"])));
    federation.wait_until_status_says("full", "web", &["exceeded quota"]);

    // Fixed, it runs.
    member.kubectl().namespace("full").args(["delete", "quota", "tight"]).ok();
    federation.wait_until_running("full", "web");
}

#[test]
fn the_system_namespace_of_a_member_is_out_of_reach() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let _agent = federation.join(member, "eu");
    let call = federation.kubectl().args(["create", "namespace", "kube-system"]).call();
    let intruder = objects("kube-system", "intruder", json!([config_map("intruder", "x")]), within(&["eu"]));
    let applied = federation.kubectl().args(["apply", "-f", "-"]).stdin(&intruder).call();
    // Whether the hub itself says no or the member does: in words, and nothing is written.
    if call.status.success() && applied.status.success() {
        federation.wait_until_status_says("kube-system", "intruder", &["kube-system"]);
    } else {
        assert!(format!("{call}{applied}").contains("kube-system"), "{call}\n{applied}");
    }

    federation.make_namespace("outside");
    let mut elsewhere = config_map("intruder", "x");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    let intruder = objects("outside", "intruder", json!([elsewhere]), within(&["eu"]));
    let applied = federation.kubectl().args(["apply", "-f", "-"]).stdin(&intruder).call();
    if applied.status.success() {
        federation.wait_until_status_says("outside", "intruder", &["kube-system"]);
    } else {
        assert!(applied.stderr.contains("kube-system") || applied.stderr.contains("namespace"), "{applied}");
    }
    assert!(get(member, "kube-system", "configmap", "intruder").is_none());
}

#[test]
fn an_object_that_is_not_ours_is_refused_and_untouched() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let _agent = federation.join(member, "eu");
    federation.make_namespace("foreign");
    member.kubectl().args(["create", "namespace", "foreign"]).ok();
    let theirs = config_map("taken", "theirs");
    member.kubectl().namespace("foreign").args(["create", "-f", "-"]).stdin(&theirs).ok();
    let before = get(member, "foreign", "configmap", "taken");

    federation.apply(&objects("foreign", "pages", json!([config_map("taken", "ours")]), within(&["eu"])));
    federation.wait_until_status_says("foreign", "pages", &["NotOurs", "taken"]);
    assert_eq!(get(member, "foreign", "configmap", "taken"), before);

    // Nor does deleting the Application touch it.
    federation.kubectl().namespace("foreign").args(["delete", "application", "pages"]).ok();
    assert_eq!(get(member, "foreign", "configmap", "taken"), before);

    // Another Application's object is refused no less.
    federation.apply(&objects("foreign", "first", json!([config_map("mine", "first")]), within(&["eu"])));
    federation.wait_until_running("foreign", "first");
    federation.apply(&objects("foreign", "second", json!([config_map("mine", "second")]), within(&["eu"])));
    federation.wait_until_status_says("foreign", "second", &["NotOurs", "mine"]);
    let mine = get(member, "foreign", "configmap", "mine").expect("the first one's object");
    assert_eq!(mine["data"]["value"], "first");
}

#[test]
fn converged_means_silent() {
    let member = fleet(1)[0];
    let federation = Federation::start();
    let _agent = federation.join(member, "eu");
    federation.make_namespace("silent");
    federation.apply(&web("silent", "web", 2, "50m", within(&["eu"])));
    let running = federation.wait_until_running("silent", "web");
    let before = versions(member, "silent");

    // The same again, and something else, whose arrival shows that all this was seen.
    federation.apply(&web("silent", "web", 2, "50m", within(&["eu"])));
    federation.apply(&objects("silent", "other", json!([config_map("other", "x")]), within(&["eu"])));
    federation.wait_until_running("silent", "other");
    let mut after = versions(member, "silent");
    after.remove("ConfigMap/other");
    assert_eq!(after, before);
    let again = federation.application("silent", "web");
    assert_eq!(again["metadata"]["resourceVersion"], running["metadata"]["resourceVersion"]);
}
