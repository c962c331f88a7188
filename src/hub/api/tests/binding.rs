//! `…/binding`: who may post what, and when.

use super::*;
use crate::{
    hub::{auth::VIEWER_GROUP, keys, records::Record},
    kinds::CLUSTER,
    model::{Uid, binding::Binding},
    store::{Key, Transaction, object},
};

const URL: &str = "/apis/core.oam.dev/v1beta1/namespaces/default/applications/web/binding";

async fn hub(scheduler: &str) -> (Hub, Uid) {
    let hub = Hub::new().await;
    for name in ["eu", "us"] {
        let cluster = json!({"metadata": {"name": name, "uid": name}, "spec": {"accepted": true}});
        let put = Transaction::put(keys::key(&CLUSTER, "", name), object::encode(&cluster));
        hub.store.commit(put).await.expect("stored");
    }
    let mut app = app("web");
    app["spec"]["policies"] = json!([{"name": "p", "type": "placement", "properties": {"mode": "Divided"}}]);
    app["spec"]["schedulerName"] = json!(scheduler);
    let made = hub.post(APPS, &app).await.expect(201);
    (hub, Uid::from(made["metadata"]["uid"].as_str().expect("a uid")))
}

fn body(generation: i64, parts: Value) -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "ApplicationBinding", "metadata": {"name": "web"},
        "spec": {"generation": generation, "clusters": parts},
    })
}

fn in_eu(replicas: u32) -> Value {
    json!([{"name": "eu", "components": [{"name": "web", "replicas": replicas}]}])
}

async fn stored(hub: &Hub, application: &Uid) -> Option<Binding> {
    let entry = hub.store.get(&Record::Binding(application.clone()).key()).await.expect("read")?;
    Some(object::view(&entry.value).expect("a binding"))
}

#[tokio::test]
async fn a_binding_is_kept_with_its_author_and_counts_for_what_was_decided_on() {
    let (hub, uid) = hub("mine").await;
    assert_eq!(hub.post(URL, &body(1, in_eu(1))).await.expect(201)["status"], "Success");
    let binding = stored(&hub, &uid).await.expect("a binding");
    assert_eq!((binding.author.as_str(), binding.generation), ("ann", 1));
    assert_eq!(binding.shares[&Uid::from("eu")]["web"], Some(1));
    hub.post(URL, &body(2, in_eu(1))).await.refused(409, "Conflict", "generation 2 was decided on, and it is 1 now");
    let mut stale = body(1, in_eu(1));
    stale["metadata"]["resourceVersion"] = json!("1");
    hub.post(URL, &stale).await.refused(409, "Conflict", "has been modified");
    stale["metadata"] = json!({"uid": "another"});
    hub.post(URL, &stale).await.refused(409, "Conflict", "UID in precondition");
    let audit = hub.audit();
    let line = audit.iter().find(|line| line["subresource"] == "binding").expect("a line in the audit log");
    assert_eq!((&line["verb"], &line["name"]), (&json!("create"), &json!("web")));
}

#[tokio::test]
async fn what_is_wrong_with_a_binding_is_refused_and_nothing_is_kept() {
    let (hub, uid) = hub("mine").await;
    hub.post(URL, &body(1, in_eu(2))).await.refused(422, "Invalid", "come to 2, and its total is 1");
    let mars = json!([{"name": "mars", "components": [{"name": "web", "replicas": 1}]}]);
    hub.post(URL, &body(1, mars)).await.refused(422, "Invalid", "no cluster \"mars\" has joined");
    let many = json!([{"name": "eu", "components": [{"name": "web", "replicas": -1}]}]);
    hub.post(URL, &body(1, many)).await.refused(422, "Invalid", "spec.clusters[0].components[0].replicas");
    let mut unknown = body(1, in_eu(1));
    unknown["spec"]["force"] = json!(true);
    hub.post(URL, &unknown).await.refused(400, "BadRequest", "unknown field \"spec.force\"");
    hub.post(URL, &app("web")).await.refused(400, "BadRequest", "this URL takes \"ApplicationBinding\"");
    hub.post(URL, &json!([])).await.refused(400, "BadRequest", "apiVersion in the body");
    hub.get(URL).await.expect(405);
    let viewer = |request: http::request::Builder| request.header("content-type", "application/json");
    let request = viewer(Request::builder().method(Method::POST).uri(URL)).body(body(1, in_eu(1)).to_string().into());
    let answer = hub.send(person(&[VIEWER_GROUP]), request.expect("a request")).await;
    answer.refused(403, "Forbidden", "cannot create resource \"applications/binding\"");
    let dry = format!("{URL}?dryRun=All");
    hub.post(&dry, &body(1, in_eu(1))).await.expect(201);
    assert_eq!(stored(&hub, &uid).await, None);
    let key = Key::new("/hanse/internal/bindings/other");
    assert_eq!(Record::of(&key), Some(Record::Binding("other".into())));
}

#[tokio::test]
async fn what_the_hub_places_itself_takes_no_binding() {
    for scheduler in ["", "hanse"] {
        let (hub, _) = hub(scheduler).await;
        hub.post(URL, &body(1, in_eu(1))).await.refused(409, "Conflict", "names no other scheduler");
    }
}
