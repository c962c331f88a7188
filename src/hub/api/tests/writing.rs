//! Create, update, patch, delete.

use http::Method;
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_new_object_gets_what_only_the_hub_gives() {
    let hub = Hub::new().await;
    let mut sent = app("web");
    sent["metadata"]["uid"] = json!("mine");
    sent["metadata"]["generation"] = json!(7);
    sent["status"] = json!({"status": "running"});
    let made = hub.post(APPS, &sent).await.expect(201);
    let metadata = &made["metadata"];
    assert_ne!(metadata["uid"], "mine");
    assert_eq!((&metadata["generation"], &metadata["namespace"]), (&json!(1), &json!("default")));
    assert_eq!(metadata["finalizers"], json!(["hanse.dev/works"]));
    assert_eq!(metadata["annotations"]["hanse.dev/trace"].as_str().map(str::len), Some(32));
    assert_eq!(made["status"], json!(null), "status is written at /status only");
    assert_eq!(hub.get(&format!("{APPS}/web")).await.expect(200), made);
    hub.post(APPS, &sent).await.refused(409, "AlreadyExists", "applications.core.oam.dev \"web\" already exists");
}

#[tokio::test]
async fn an_update_is_of_the_state_its_author_saw() {
    let hub = Hub::new().await;
    let made = hub.post(APPS, &app("web")).await.expect(201);
    let url = format!("{APPS}/web");
    let mut newer = made.clone();
    newer["spec"]["components"][0]["properties"]["image"] = json!("nginx:2");
    let updated = hub.put(&url, &newer).await.expect(200);
    assert_eq!(updated["metadata"]["generation"], 2);
    hub.put(&url, &newer).await.refused(409, "Conflict", "the object has been modified");
    hub.put(&url, &app("web")).await.refused(422, "Invalid", "must be specified for an update");
    hub.put(&format!("{APPS}/other"), &newer).await.refused(400, "BadRequest", "does not match the name on the URL");
    let mut foreign = updated.clone();
    foreign["metadata"]["uid"] = json!("another");
    hub.put(&url, &foreign).await.refused(409, "Conflict", "UID in precondition: another");
    hub.put(
        &format!("{APPS}/none"),
        &json!({"apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": {"name": "none", "resourceVersion": "1"}, "spec": {"components": []}}),
    )
    .await
    .expect(404);
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let hub = Hub::new().await;
    let made = hub.post(APPS, &app("web")).await.expect(201);
    let before = hub.store.revision().await.expect("revision");
    let url = format!("{APPS}/web");
    assert_eq!(hub.put(&url, &made).await.expect(200), made);
    let same = hub.merge(&url, json!({"spec": {"components": made["spec"]["components"]}})).await.expect(200);
    assert_eq!(same, made);
    assert_eq!(hub.store.revision().await.expect("revision"), before);
}

#[tokio::test]
async fn the_generation_counts_changes_of_content_only() {
    let hub = Hub::new().await;
    hub.post(APPS, &app("web")).await.expect(201);
    let url = format!("{APPS}/web");
    let labelled = hub.merge(&url, json!({"metadata": {"labels": {"a": "b"}, "generation": 9}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 1);
    let trace = labelled["metadata"]["annotations"]["hanse.dev/trace"].clone();
    let status = hub.merge(&format!("{url}/status"), json!({"status": {"status": "running"}, "spec": 1})).await;
    let status = status.expect(200);
    assert_eq!((&status["metadata"]["generation"], &status["status"]["status"]), (&json!(1), &json!("running")));
    let image = json!({"spec": {"components": [{"name": "web", "type": "worker", "properties": {"image": "x"}}]}});
    let changed = hub.merge(&url, image).await.expect(200);
    assert_eq!((&changed["metadata"]["generation"], &changed["status"]["status"]), (&json!(2), &json!("running")));
    assert_ne!(changed["metadata"]["annotations"]["hanse.dev/trace"], trace, "the trace is of the newest spec");
}

#[tokio::test]
async fn author_and_trace_are_of_the_request_that_changed_what_is_rendered() {
    let hub = Hub::new().await;
    let made = hub.post(APPS, &app("web")).await.expect(201);
    let url = format!("{APPS}/web");
    let noted = |object: &Value| object["metadata"]["annotations"]["hanse.dev/trace"].clone();
    let annotate = |key: &str| hub.merge(&url, json!({"metadata": {"annotations": {key: "x"}}}));
    let applied = annotate("kubectl.kubernetes.io/last-applied-configuration").await.expect(200);
    assert_eq!(noted(&applied), noted(&made), "nothing that is rendered changed");
    let labelled = hub.merge(&url, json!({"metadata": {"labels": {"team": "a"}}})).await.expect(200);
    assert_ne!(noted(&labelled), noted(&made));
    let annotated = annotate("note").await.expect(200);
    assert_ne!(noted(&annotated), noted(&labelled));
    let forged = annotate("hanse.dev/trace").await.expect(200);
    assert_eq!(noted(&forged), noted(&annotated));
}

#[tokio::test]
async fn a_dry_run_answers_like_the_write_and_stores_nothing() {
    let hub = Hub::new().await;
    hub.post(APPS, &app("web")).await.expect(201);
    let before = hub.store.revision().await.expect("revision");
    let dry = |path: &str| format!("{path}?dryRun=All");
    assert_eq!(hub.post(&dry(APPS), &app("new")).await.expect(201)["metadata"]["name"], "new");
    hub.post(&dry(APPS), &app("web")).await.refused(409, "AlreadyExists", "already exists");
    let url = dry(&format!("{APPS}/web"));
    let changed = hub.merge(&url, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(changed["metadata"]["labels"], json!({"a": "b"}));
    assert!(hub.delete(&url).await.expect(200)["metadata"]["deletionTimestamp"].is_string());
    let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}).to_string();
    hub.call(Method::DELETE, &format!("{APPS}/web"), "application/json", body).await.expect(200);
    assert_eq!(hub.store.revision().await.expect("revision"), before);
    hub.post(&format!("{APPS}?dryRun=some"), &app("x")).await.refused(400, "BadRequest", "dryRun");
}

#[tokio::test]
async fn finalizers_hold_what_is_deleted() {
    let hub = Hub::new().await;
    let mut held = event("e", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    let made = hub.post(EVENTS, &held).await.expect(201);
    let url = format!("{EVENTS}/e");
    let marked = hub.delete(&url).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(
        marked["metadata"]["generation"],
        made["metadata"]["generation"].as_i64().map_or(json!(0), |g| json!(g + 1))
    );
    assert_eq!(hub.delete(&url).await.expect(200), marked, "deleting twice is deleting once");
    let more = json!({"metadata": {"finalizers": ["example.com/a", "example.com/c"]}});
    hub.merge(&url, more).await.refused(422, "Invalid", "no new finalizers can be added");
    hub.merge(&url, json!({"metadata": {"finalizers": ["example.com/b"]}})).await.expect(200);
    hub.get(&url).await.expect(200);
    hub.merge(&url, json!({"metadata": {"finalizers": []}})).await.expect(200);
    hub.get(&url).await.refused(404, "NotFound", "events \"e\" not found");
}

#[tokio::test]
async fn the_hubs_finalizer_is_not_a_clients_to_take() {
    let hub = Hub::new().await;
    let made = hub.post(APPS, &app("web")).await.expect(201);
    let url = format!("{APPS}/web");
    hub.merge(&url, json!({"metadata": {"finalizers": null}})).await.refused(422, "Invalid", "is taken off by the hub");
    let mut silent = made.clone();
    silent["metadata"].as_object_mut().expect("metadata").remove("finalizers");
    let kept = hub.put(&url, &silent).await.expect(200);
    assert_eq!(kept["metadata"]["finalizers"], json!(["hanse.dev/works"]), "leaving it out is not taking it away");
}

#[tokio::test]
async fn who_deleted_is_noted_and_nobody_forges_it() {
    let hub = Hub::new().await;
    let forged = json!({"hanse.dev/deletion-author": "mallory", "hanse.dev/deletion-trace": "m", "kept": "yes"});
    let mut sent = app("web");
    sent["metadata"]["annotations"] = forged.clone();
    let noted = |object: &Value| {
        let annotations = &object["metadata"]["annotations"];
        ["author", "trace"].map(|what| annotations[format!("hanse.dev/deletion-{what}")].clone())
    };
    let made = hub.post(APPS, &sent).await.expect(201);
    assert_eq!((noted(&made), &made["metadata"]["annotations"]["kept"]), ([Value::Null, Value::Null], &json!("yes")));
    let url = format!("{APPS}/web");
    assert_eq!(noted(&hub.merge(&url, json!({"metadata": {"annotations": forged}})).await.expect(200)), noted(&made));

    let marked = hub.delete(&url).await.expect(200);
    assert_eq!((&noted(&marked)[0], noted(&marked)[1].as_str().map(str::len)), (&json!("ann"), Some(32)));
    for annotations in [forged, json!({"hanse.dev/deletion-author": null}), Value::Null] {
        let after = hub.merge(&url, json!({"metadata": {"annotations": annotations}})).await.expect(200);
        assert_eq!(noted(&after), noted(&marked));
    }
    let mut silent = hub.get(&url).await.expect(200);
    silent["metadata"]["annotations"] = Value::Null;
    assert_eq!(noted(&hub.put(&url, &silent).await.expect(200)), noted(&marked));
    let bob = Peer::Person(Person { user: "bob".into(), groups: vec![ADMIN_GROUP.into()], expired: None });
    let again = Request::delete(&url).body(Body::empty()).expect("a request");
    let again = hub.send(bob, again).await.expect(200);
    assert_eq!(noted(&again), noted(&marked), "the first one deleted it");
    let audit = hub.audit();
    let deletion = audit.iter().find(|line| line["verb"] == "delete").expect("a line");
    assert_eq!((&deletion["user"], &deletion["trace"]), (&noted(&marked)[0], &noted(&marked)[1]));
}

#[tokio::test]
async fn preconditions_are_held() {
    let hub = Hub::new().await;
    let made = hub.post(EVENTS, &event("e", json!({}))).await.expect(201);
    let url = format!("{EVENTS}/e");
    let delete = |preconditions: Value| {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}).to_string();
        hub.call(Method::DELETE, &url, "application/json", body)
    };
    delete(json!({"uid": "x"})).await.refused(409, "Conflict", "UID in precondition");
    delete(json!({"resourceVersion": "1"})).await.refused(409, "Conflict", "has been modified");
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}});
    hub.merge(&url, stale).await.refused(409, "Conflict", "has been modified");
    let gone = delete(json!({"uid": made["metadata"]["uid"]})).await.expect(200);
    assert_eq!((&gone["status"], &gone["details"]["uid"]), (&json!("Success"), &made["metadata"]["uid"]));
}

#[tokio::test]
async fn json_patches_are_applied_whole_or_not_at_all() {
    let hub = Hub::new().await;
    hub.post(EVENTS, &event("e", json!({"a": "1"}))).await.expect(201);
    let url = format!("{EVENTS}/e");
    let patch = |patch: Value| hub.call(Method::PATCH, &url, "application/json-patch+json", patch.to_string());
    let changed = patch(json!([{"op": "replace", "path": "/metadata/labels/a", "value": "2"}])).await.expect(200);
    assert_eq!(changed["metadata"]["labels"], json!({"a": "2"}));
    patch(json!([{"op": "remove", "path": "/metadata/labels/a"}, {"op": "test", "path": "/reason", "value": "x"}]))
        .await
        .refused(422, "Invalid", "did not match");
    assert_eq!(hub.get(&url).await.expect(200), changed);
    patch(json!([{"op": "replace", "path": "", "value": 3}])).await.refused(400, "BadRequest", "no object");
    patch(json!({"op": "add"})).await.refused(400, "BadRequest", "not valid");
    patch(json!([{"op": "replace", "path": "/kind", "value": "Pod"}])).await.refused(
        400,
        "BadRequest",
        "cannot change kind",
    );
    let renamed = hub.merge(&url, json!({"metadata": {"name": "f"}})).await;
    renamed.refused(400, "BadRequest", "cannot change metadata.name");
    let many: Vec<_> = (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": "Event"})).collect();
    patch(json!(many)).await.refused(413, "RequestEntityTooLarge", "operations");
}

#[tokio::test]
async fn patches_that_race_all_take_effect() {
    let hub = Arc::new(Hub::new().await);
    hub.post(EVENTS, &event("e", json!({}))).await.expect(201);
    let patches = (0..8).map(|n| {
        let hub = hub.clone();
        tokio::spawn(async move {
            let label = json!({"metadata": {"labels": {format!("l{n}"): "x"}}});
            hub.merge(&format!("{EVENTS}/e"), label).await.code
        })
    });
    for done in futures::future::join_all(patches).await {
        assert_eq!(done.expect("no panic"), 200);
    }
    let labels = hub.get(&format!("{EVENTS}/e")).await.expect(200)["metadata"]["labels"].clone();
    assert_eq!(labels.as_object().map(|labels| labels.len()), Some(8));
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_words() {
    let hub = Hub::new().await;
    hub.post(APPS, &app("web")).await.expect(201);
    let url = format!("{APPS}/web");
    let patch = |content_type| hub.call(Method::PATCH, &url, content_type, "{}");
    let type_ = "UnsupportedMediaType";
    patch("application/apply-patch+yaml").await.refused(415, type_, "server-side apply");
    patch("application/strategic-merge-patch+json").await.refused(415, type_, "--type=merge");
    patch("application/json").await.refused(415, type_, "patch type");
    hub.call(Method::POST, APPS, "application/vnd.kubernetes.protobuf", "k8s\0").await.refused(415, type_, "protobuf");
    hub.call(Method::POST, APPS, "text/plain", "x").await.refused(415, type_, "text/plain");
    let clusters = "/apis/hub.hanse.dev/v1alpha1/clusters";
    hub.post(clusters, &json!({})).await.refused(405, "MethodNotAllowed", "hanse token create");
    hub.delete(clusters).await.refused(405, "MethodNotAllowed", "one by one");
    hub.put(&format!("{clusters}/eu/status"), &json!({})).await.refused(405, "MethodNotAllowed", "by the hub alone");
    hub.delete("/apis/core.oam.dev/v1beta1/namespaces/default/applicationrevisions/x").await.expect(405);
    hub.delete(&format!("{url}?propagationPolicy=Orphan")).await.refused(400, "BadRequest", "Orphan");
    hub.post(&url, &app("web")).await.expect(405);
    hub.get("/apis/apps/v1/deployments").await.refused(404, "NotFound", "could not find");
}

#[tokio::test]
async fn namespaces_hold_what_is_in_them() {
    let hub = Hub::new().await;
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let (namespaces, apps) = ("/api/v1/namespaces", "/apis/core.oam.dev/v1beta1/namespaces/shop/applications");
    hub.post(apps, &app("web")).await.refused(404, "NotFound", "namespaces \"shop\" not found");
    let made = hub.post(namespaces, &namespace("shop")).await.expect(201);
    assert_eq!(made["status"], json!({"phase": "Active"}));
    hub.post(apps, &app("web")).await.expect(201);
    hub.post("/api/v1/namespaces/shop/events", &event("e", json!({}))).await.expect(201);
    let shop = format!("{namespaces}/shop");
    hub.delete(&shop).await.refused(409, "Conflict", "applications web");
    assert_eq!(hub.get(&shop).await.expect(200)["status"]["phase"], "Active");
    // Without works to clean up, as control would do it.
    let key = crate::hub::keys::key(&kinds::APPLICATION, "shop", "web");
    let gone = store::Transaction { compares: vec![], operations: vec![store::Operation::Delete(key)] };
    hub.store.commit(gone).await.expect("committed");
    hub.delete(&shop).await.expect(200);
    hub.get(&shop).await.expect(404);
    hub.get("/api/v1/namespaces/shop/events/e").await.expect(404);
    hub.delete(&format!("{namespaces}/default")).await.refused(403, "Forbidden", "may not be deleted");
}

#[tokio::test]
async fn names_are_drawn_and_namespaces_must_agree() {
    let hub = Hub::new().await;
    let mut drawn = app("");
    drawn["metadata"] = json!({"generateName": "web-"});
    let (one, two) = (hub.post(APPS, &drawn).await.expect(201), hub.post(APPS, &drawn).await.expect(201));
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    assert!(name(&one).starts_with("web-") && name(&one) != name(&two));
    let mut elsewhere = app("web");
    elsewhere["metadata"]["namespace"] = json!("other");
    hub.post(APPS, &elsewhere).await.refused(400, "BadRequest", "namespace of the provided object does not match");
    let mut versioned = app("web");
    versioned["metadata"]["resourceVersion"] = json!("1");
    hub.post(APPS, &versioned).await.refused(400, "BadRequest", "resourceVersion should not be set");
}

#[tokio::test]
async fn collections_are_deleted_by_selector_but_never_by_the_dozen() {
    let hub = Hub::new().await;
    for n in 0..12 {
        hub.post(EVENTS, &event(&format!("e{n}"), json!({"half": format!("{}", n % 2)}))).await.expect(201);
        hub.post(APPS, &app(&format!("web-{n}"))).await.expect(201);
    }
    let gone = hub.delete(&format!("{EVENTS}?labelSelector=half%3D1")).await.expect(200);
    assert_eq!(gone["items"].as_array().map(Vec::len), Some(6));
    assert_eq!(hub.get(EVENTS).await.expect(200)["items"].as_array().map(Vec::len), Some(6));
    hub.delete(APPS).await.refused(409, "Conflict", "12 applications that nobody named");
    assert!(hub.get(&format!("{APPS}/web-1")).await.expect(200)["metadata"]["deletionTimestamp"].is_null());
    hub.delete(&format!("{APPS}?fieldSelector=metadata.name%3Dweb-1")).await.expect(200);
    assert!(hub.get(&format!("{APPS}/web-1")).await.expect(200)["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test]
async fn every_write_is_in_the_audit_log_and_no_read() {
    let hub = Hub::new().await;
    let request =
        http::Request::post(APPS).header("traceparent", format!("00-{}-{}-01", "ab".repeat(16), "c".repeat(16)));
    let body = app("web").to_string();
    let made = hub.send(person(&[ADMIN_GROUP]), request.body(body.clone().into()).expect("request")).await.expect(201);
    assert_eq!(made["metadata"]["annotations"]["hanse.dev/trace"], "ab".repeat(16));
    hub.get(APPS).await.expect(200);
    let refused = http::Request::delete(format!("{APPS}/web")).body(Body::empty()).expect("request");
    hub.send(person(&["nobody"]), refused).await.refused(403, "Forbidden", "User \"ann\" cannot delete resource");
    hub.post(APPS, &json!({"apiVersion": "v1"})).await.expect(400);
    let lines = hub.audit();
    assert_eq!(lines.iter().map(|line| line["code"].clone()).collect::<Vec<_>>(), [201, 403, 400]);
    let first = &lines[0];
    assert_eq!((&first["user"], &first["verb"], &first["name"]), (&json!("ann"), &json!("create"), &json!("web")));
    assert_eq!(first["digest"], crate::model::Digest::of(body.as_bytes()).to_string());
    assert_eq!((&first["trace"], &first["decision"]), (&json!("ab".repeat(16)), &json!("allow")));
    assert_eq!(first["revision"].to_string(), made["metadata"]["resourceVersion"].as_str().unwrap_or_default());
    assert_eq!(lines[1]["decision"], "forbid");
}
