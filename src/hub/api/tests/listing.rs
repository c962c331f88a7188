//! Get and list in all their forms; discovery.

use http::Request;
use serde_json::json;

use super::*;

async fn with_events(count: usize) -> Hub {
    let hub = Hub::new().await;
    for n in 0..count {
        let third = json!({"third": format!("{}", n % 3)});
        hub.post(EVENTS, &event(&format!("e{n:02}"), third)).await.expect(201);
    }
    hub
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

async fn accepting(hub: &Hub, path: &str, accept: &str) -> Answer {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).expect("request");
    hub.send(person(&[ADMIN_GROUP]), request).await
}

#[tokio::test]
async fn pages_are_of_one_state_and_miss_nothing() {
    let hub = with_events(7).await;
    for selector in ["", "&labelSelector=third%20notin%20(9)"] {
        let mut seen = vec![];
        let mut page = hub.get(&format!("{EVENTS}?limit=3{selector}")).await.expect(200);
        let revision = page["metadata"]["resourceVersion"].clone();
        let expected = if selector.is_empty() { json!(4) } else { json!(null) };
        assert_eq!(page["metadata"]["remainingItemCount"], expected, "only known where nothing is selected");
        loop {
            seen.extend(names(&page));
            assert_eq!(page["metadata"]["resourceVersion"], revision);
            let Some(token) = page["metadata"]["continue"].as_str().map(str::to_owned) else { break };
            let late = format!("late-{}", seen.len());
            hub.post(EVENTS, &event(&late, json!({}))).await.expect(201);
            page = hub.get(&format!("{EVENTS}?limit=3{selector}&continue={token}")).await.expect(200);
            hub.delete(&format!("{EVENTS}/{late}")).await.expect(200);
        }
        assert_eq!(seen, ["e00", "e01", "e02", "e03", "e04", "e05", "e06"]);
    }
    hub.get(&format!("{EVENTS}?continue=nonsense")).await.refused(400, "BadRequest", "continue key is not valid");
}

#[tokio::test]
async fn expired_pages_can_be_taken_up_on_a_newer_state() {
    let hub = with_events(4).await;
    let first = hub.get(&format!("{EVENTS}?limit=2")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    hub.post(EVENTS, &event("e99", json!({}))).await.expect(201);
    let now = hub.store.revision().await.expect("revision");
    hub.store.compact(now).await.expect("compacted");
    let expired = hub.get(&format!("{EVENTS}?limit=2&continue={token}")).await.refused(410, "Expired", "too old");
    let again = expired["metadata"]["continue"].as_str().expect("a token to go on with").to_owned();
    let rest = hub.get(&format!("{EVENTS}?continue={again}")).await.expect(200);
    assert_eq!(names(&rest), ["e02", "e03", "e99"]);
}

#[tokio::test]
async fn selectors_and_revisions_are_read_as_kubernetes_reads_them() {
    let hub = with_events(4).await;
    let old = hub.get(EVENTS).await.expect(200)["metadata"]["resourceVersion"].as_str().expect("one").to_owned();
    hub.delete(&format!("{EVENTS}/e00")).await.expect(200);
    let list = |query: &str| format!("{EVENTS}?{query}");
    assert_eq!(names(&hub.get(&list("labelSelector=third%3D0")).await.expect(200)), ["e03"]);
    assert_eq!(names(&hub.get(&list("fieldSelector=metadata.name%3De02")).await.expect(200)), ["e02"]);
    assert_eq!(names(&hub.get(&list("fieldSelector=reason!%3DPlaced")).await.expect(200)), Vec::<String>::new());
    let exact = list(&format!("resourceVersion={old}&resourceVersionMatch=Exact"));
    assert_eq!(names(&hub.get(&exact).await.expect(200)), ["e00", "e01", "e02", "e03"]);
    assert_eq!(names(&hub.get(&list(&format!("resourceVersion={old}"))).await.expect(200)).len(), 3);
    let refusal = hub.get(&list("resourceVersion=999")).await.refused(504, "Timeout", "Too large resource version");
    assert_eq!(refusal["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    for (query, code) in [
        ("labelSelector=a%20b", 400),
        ("fieldSelector=spec.x%3D1", 400),
        ("limit=x", 400),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=0&resourceVersionMatch=Exact", 422),
        ("sendInitialEvents=true", 422),
        ("watch=maybe", 400),
        ("shardSelector=x", 400),
        ("nothing=known", 200),
    ] {
        assert_eq!(hub.get(&list(query)).await.code, code, "{query}");
    }
}

#[tokio::test]
async fn answers_come_in_the_form_that_was_asked_for() {
    let hub = with_events(2).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let found = accepting(&hub, EVENTS, table).await.expect(200);
    assert_eq!((&found["kind"], found["rows"].as_array().map(Vec::len)), (&json!("Table"), Some(2)));
    assert_eq!(found["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert!(found["rows"][0]["object"]["reason"].is_null());
    let whole = accepting(&hub, &format!("{EVENTS}?includeObject=Object"), table).await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["reason"], "Placed");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    assert_eq!(accepting(&hub, EVENTS, partial).await.expect(200)["kind"], "PartialObjectMetadataList");
    let yaml = accepting(&hub, &format!("{EVENTS}/e00"), "application/yaml").await;
    assert!(yaml.bytes.starts_with(b"apiVersion: v1\n"), "{:?}", yaml.bytes);
    accepting(&hub, EVENTS, "text/html").await.refused(406, "NotAcceptable", "application/json");
    let plain = hub.get(EVENTS).await.expect(200);
    assert_eq!((&plain["kind"], &plain["items"][1]["kind"]), (&json!("EventList"), &json!("Event")));
    let single = hub.get(&format!("{EVENTS}/e01")).await.expect(200);
    assert_eq!(plain["items"][1], single, "spliced bytes and decoded objects are the same");
}

#[tokio::test]
async fn discovery_tells_the_same_in_both_forms() {
    let hub = Hub::new().await;
    let ask = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList;profile=nopeer,application/json";
    let aggregated = accepting(&hub, "/apis", ask).await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let tag = aggregated.headers["etag"].clone();
    let aggregated = aggregated.expect(200);
    let groups = hub.get("/apis").await.expect(200);
    let group_names = |list: &Value, pointer: &str| -> Vec<Value> {
        list.as_array().into_iter().flatten().filter_map(|group| group.pointer(pointer).cloned()).collect()
    };
    assert_eq!(group_names(&aggregated["items"], "/metadata/name"), group_names(&groups["groups"], "/name"));
    for kind in kinds::all().into_iter().filter(|kind| !kind.gvk.group.is_empty()) {
        let list = hub.get(&format!("/apis/{}", kind.gvk.api_version())).await.expect(200);
        let resources = list["resources"].as_array().cloned().unwrap_or_default();
        let found = resources.iter().find(|resource| resource["name"] == kind.plural.as_str()).expect("a resource");
        assert!(aggregated.to_string().contains(&format!("\"resource\":\"{}\"", kind.plural)));
        assert_eq!(found["verbs"].as_array().map(Vec::len), Some(kind.verbs.len()));
    }
    let mut request = Request::get("/apis").header("accept", ask).header("if-none-match", tag);
    request = request.header("x", "y");
    let unchanged = hub.send(person(&[]), request.body(Body::empty()).expect("request")).await;
    assert_eq!(unchanged.code, 304);
    let version = hub.get("/version/").await.expect(200);
    assert!(version["minor"].as_str().is_some_and(|minor| minor.parse::<u32>().is_ok()), "{version}");
    hub.get("/apis/nothing.example").await.expect(404);
}

#[tokio::test]
async fn open_api_documents_are_immutable_under_their_hash() {
    let hub = Hub::new().await;
    let index = hub.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/core.oam.dev/v1beta1"]["serverRelativeURL"].as_str().expect("a URL").to_owned();
    let document = hub.get(&url).await;
    assert!(document.headers["cache-control"].to_str().is_ok_and(|value| value.contains("immutable")));
    let document = document.expect(200);
    let schema = &document["components"]["schemas"]["dev.oam.core.v1beta1.Application"];
    assert_eq!(schema["properties"]["spec"]["required"], json!(["components"]));
    let wrong = hub.get("/openapi/v3/apis/core.oam.dev/v1beta1?hash=0").await;
    assert_eq!((wrong.code.as_u16(), wrong.headers["location"].to_str().ok()), (301, Some(url.as_str())));
}
