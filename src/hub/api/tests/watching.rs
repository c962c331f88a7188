//! Watches: order, selection, beginnings and ends.

use http::Request;
use serde_json::json;

use super::*;

/// What a watch of a second says, as (type, name) pairs, with its lines.
async fn watch(hub: &Hub, query: &str, accept: &str) -> Vec<Value> {
    let path = format!("{EVENTS}?watch=true&timeoutSeconds=1&{query}");
    let request = Request::get(path).header("accept", accept).body(Body::empty()).expect("request");
    let answer = hub.send(person(&[ADMIN_GROUP]), request).await;
    assert_eq!(answer.code, 200, "{:?}", answer.bytes);
    let text = String::from_utf8(answer.bytes.to_vec()).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn told(lines: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines.iter().map(|line| (text(&line["type"]), text(&line["object"]["metadata"]["name"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(type_, name)| ((*type_).to_owned(), (*name).to_owned())).collect()
}

async fn revision(hub: &Hub) -> u64 {
    hub.store.revision().await.expect("revision")
}

#[tokio::test]
async fn changes_after_a_revision_come_in_order_with_their_revision() {
    let hub = Hub::new().await;
    hub.post(EVENTS, &event("a", json!({}))).await.expect(201);
    let from = revision(&hub).await;
    hub.post(EVENTS, &event("b", json!({}))).await.expect(201);
    hub.merge(&format!("{EVENTS}/a"), json!({"reason": "Moved"})).await.expect(200);
    hub.delete(&format!("{EVENTS}/b")).await.expect(200);
    let lines = watch(&hub, &format!("resourceVersion={from}"), "application/json").await;
    assert_eq!(told(&lines), pairs(&[("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]));
    let revisions: Vec<_> = lines.iter().map(|line| line["object"]["metadata"]["resourceVersion"].clone()).collect();
    assert_eq!(revisions, [from + 1, from + 2, from + 3].map(|revision| json!(revision.to_string())));
}

#[tokio::test]
async fn a_watch_without_a_revision_begins_with_what_is_there() {
    let hub = Hub::new().await;
    hub.post(EVENTS, &event("a", json!({"x": "1"}))).await.expect(201);
    hub.post(EVENTS, &event("b", json!({}))).await.expect(201);
    for query in ["", "resourceVersion=0"] {
        let lines = watch(&hub, query, "application/json").await;
        assert_eq!(told(&lines), pairs(&[("ADDED", "a"), ("ADDED", "b")]), "{query}");
    }
    assert_eq!(told(&watch(&hub, "labelSelector=x", "application/json").await), pairs(&[("ADDED", "a")]));
    let one = watch(&hub, "fieldSelector=metadata.name%3Db", "application/json").await;
    assert_eq!(told(&one), pairs(&[("ADDED", "b")]));
}

#[tokio::test]
async fn what_leaves_a_selection_is_deleted_for_its_watcher() {
    let hub = Hub::new().await;
    hub.post(EVENTS, &event("a", json!({"x": "1"}))).await.expect(201);
    let from = revision(&hub).await;
    let label =
        |value: Value| hub.merge("/api/v1/namespaces/default/events/a", json!({"metadata": {"labels": {"x": value}}}));
    label(json!("2")).await.expect(200);
    label(json!(null)).await.expect(200);
    label(json!("3")).await.expect(200);
    let lines = watch(&hub, &format!("resourceVersion={from}&labelSelector=x"), "application/json").await;
    assert_eq!(told(&lines), pairs(&[("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "a")]));
    let gone = &lines[1]["object"]["metadata"];
    assert_eq!((&gone["labels"]["x"], &gone["resourceVersion"]), (&json!("2"), &json!((from + 2).to_string())));
}

#[tokio::test]
async fn a_watch_list_says_where_its_beginning_ends() {
    let hub = Hub::new().await;
    hub.post(EVENTS, &event("a", json!({}))).await.expect(201);
    let asked = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let lines = watch(&hub, asked, "application/json").await;
    assert_eq!(told(&lines), pairs(&[("ADDED", "a"), ("BOOKMARK", ""), ("BOOKMARK", "")]));
    assert_eq!(lines[2]["object"]["metadata"]["annotations"], json!(null), "the end is told once");
    let mark = &lines[1]["object"]["metadata"];
    assert_eq!(mark["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(mark["resourceVersion"], revision(&hub).await.to_string());
    hub.get(&format!("{EVENTS}?watch=true&sendInitialEvents=true")).await.refused(422, "Invalid", "NotOlderThan");
    hub.get(&format!("{EVENTS}?watch=true&resourceVersionMatch=NotOlderThan")).await.expect(422);
}

#[tokio::test]
async fn a_quiet_watch_ends_with_a_bookmark_when_it_asked_for_them() {
    let hub = Hub::new().await;
    hub.post(EVENTS, &event("a", json!({}))).await.expect(201);
    let from = revision(&hub).await;
    let query = format!("resourceVersion={from}");
    assert_eq!(watch(&hub, &query, "application/json").await, Vec::<Value>::new());
    let lines = watch(&hub, &format!("{query}&allowWatchBookmarks=true"), "application/json").await;
    assert_eq!(told(&lines), pairs(&[("BOOKMARK", "")]));
    assert_eq!(lines[0]["object"]["metadata"]["resourceVersion"], from.to_string());
}

#[tokio::test]
async fn history_that_is_gone_and_revisions_to_come_are_said_to_be() {
    let hub = Hub::new().await;
    for name in ["a", "b", "c"] {
        hub.post(EVENTS, &event(name, json!({}))).await.expect(201);
    }
    let now = revision(&hub).await;
    hub.store.compact(now).await.expect("compacted");
    hub.get(&format!("{EVENTS}?watch=true&resourceVersion=1")).await.refused(410, "Expired", "too old");
    hub.get(&format!("{EVENTS}?watch=true&resourceVersion={}", now + 50)).await.refused(504, "Timeout", "Too large");
}

#[tokio::test]
async fn a_watch_of_tables_names_its_columns_once() {
    let hub = Hub::new().await;
    hub.post(EVENTS, &event("a", json!({}))).await.expect(201);
    hub.post(EVENTS, &event("b", json!({}))).await.expect(201);
    let lines = watch(&hub, "", "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let columns: Vec<_> = lines.iter().map(|line| line["object"]["columnDefinitions"].is_array()).collect();
    assert_eq!(columns, [true, false]);
    assert_eq!(lines[1]["object"]["rows"][0]["object"]["metadata"]["name"], "b");
}
