//! Input that is wrong, too much or without end: refused in the API's own form, and the next request is served.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::hub::limits;

#[tokio::test]
async fn every_fault_of_an_application_is_named_at_once() {
    let hub = Hub::new().await;
    let mut sent = app("web");
    sent["metadata"]["name"] = json!("Web");
    sent["metadata"]["labels"] = json!({"a b": "c", "d": "!"});
    sent["metadata"]["annotations"] = json!({"app.oam.dev/username": "root"});
    sent["spec"] = json!({"components": [{"name": "x", "type": 5}, {"type": "worker"}], "policies": {}});
    let refusal = hub.post(APPS, &sent).await.refused(422, "Invalid", "Application.core.oam.dev \"Web\" is invalid: [");
    let causes = refusal["details"]["causes"].as_array().cloned().unwrap_or_default();
    let fields: Vec<_> = causes.iter().filter_map(|cause| cause["field"].as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.components[0].type",
            "spec.components[1].name",
            "spec.policies",
            "metadata.name",
            "metadata.labels",
            "metadata.labels",
            "metadata.annotations[app.oam.dev/username]",
        ]
    );
    assert_eq!(refusal["details"]["kind"], "Application");
}

#[tokio::test]
async fn admission_speaks_in_field_errors_too() {
    let hub = Hub::new().await;
    let mut sent = app("web");
    sent["spec"]["components"][0]["type"] = json!("nonsense");
    let refusal = hub.post(APPS, &sent).await.refused(422, "Invalid", "nonsense");
    assert_eq!(refusal["details"]["causes"][0]["field"], "spec.components[0].type");
}

#[tokio::test]
async fn ten_thousand_unknown_fields_are_counted_not_listed() {
    let hub = Hub::new().await;
    let mut sent = app("web");
    for n in 0..10_000 {
        sent["spec"][format!("odd{n}")] = json!(n);
    }
    let strict = hub.post(&format!("{APPS}?fieldValidation=Strict"), &sent).await;
    let message = strict.refused(400, "BadRequest", "strict decoding error: unknown field \"spec.odd0\"");
    assert!(message.to_string().len() < 10_000 && message.to_string().contains("more"), "{message}");
    let warned = hub.post(APPS, &sent).await;
    let warnings: usize = warned.headers.get_all("warning").iter().map(|value| value.len()).sum();
    assert!((1..=4096).contains(&warnings), "{warnings}");
    assert!(warned.expect(201)["spec"].as_object().is_some_and(|spec| spec.len() == 1), "unknown fields are dropped");
    let ignored = hub.post(&format!("{APPS}?fieldValidation=Ignore"), &app("other")).await;
    assert!(ignored.headers.get("warning").is_none());
}

/// Over HTTP/2, letting a body go that is still coming resets the stream, and with it an answer that is not sent yet.
#[tokio::test]
async fn a_body_that_is_not_read_to_its_end_is_let_go_after_the_answer() {
    let hub = Hub::new().await;
    for (groups, code) in [(&[ADMIN_GROUP][..], 413), (&[], 403)] {
        let held = Arc::new(());
        let holds = held.clone();
        let endless = futures::stream::repeat_with(move || {
            let _ = &holds;
            Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b' '; 1 << 16]))
        });
        let mut request = Request::post(APPS).body(Body::from_stream(endless)).expect("a request");
        request.extensions_mut().insert(person(groups));
        let response = hub.router.clone().oneshot(request).await.expect("infallible");
        assert_eq!((response.status().as_u16(), Arc::strong_count(&held)), (code, 2));
        let answer = response.into_body().collect().await.expect("a body").to_bytes();
        assert!(answer.starts_with(b"{") && Arc::strong_count(&held) == 1);
    }
}

#[tokio::test]
async fn duplicate_keys_are_found_in_json_and_yaml() {
    let hub = Hub::new().await;
    let body = |name: &str| {
        format!(
            r#"{{"apiVersion":"core.oam.dev/v1beta1","kind":"Application","metadata":{{"name":"{name}"}},"spec":{{"components":
            [{{"name":"a","type":"worker","properties":{{"image":"x","image":"y"}}}}]}}}}"#
        )
    };
    let strict = format!("{APPS}?fieldValidation=Strict");
    let words = "duplicate field \"spec.components[0].properties.image\"";
    for content_type in ["application/json", "application/yaml"] {
        hub.call(Method::POST, &strict, content_type, body("web")).await.refused(400, "BadRequest", words);
    }
    let warned = hub.call(Method::POST, APPS, "application/json", body("web")).await;
    let warning = warned.headers["warning"].to_str().expect("text").to_owned();
    assert_eq!(warning, r#"299 - "duplicate field \"spec.components[0].properties.image\"""#);
    assert_eq!(warned.expect(201)["spec"]["components"][0]["properties"]["image"], "y");
}

#[tokio::test]
async fn bodies_beyond_the_limits_are_refused() {
    let hub = Hub::new().await;
    let announced = hub.call(Method::POST, APPS, "application/json", "x".repeat(limits::BODY_BYTES_MAX + 1)).await;
    announced.refused(413, "RequestEntityTooLarge", "3145728 bytes");
    let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 16])));
    let endless = hub.call(Method::POST, APPS, "application/json", Body::from_stream(chunks)).await;
    endless.refused(413, "RequestEntityTooLarge", "3145728 bytes");
    let mut large = app("web");
    large["spec"]["components"][0]["properties"]["cmd"] = json!(["x".repeat(limits::OBJECT_BYTES_MAX)]);
    hub.post(APPS, &large).await.refused(413, "RequestEntityTooLarge", "the object takes");
    let nested = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    hub.call(Method::POST, APPS, "application/json", nested).await.refused(400, "BadRequest", "not valid JSON");
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let yaml = |text: &'static str| hub.call(Method::POST, APPS, "application/yaml", text);
    yaml(bomb).await.refused(400, "BadRequest", "too large or too complex");
    yaml("a: 1\n---\nb: 2\n").await.refused(400, "BadRequest", "only single YAML document expected");
    yaml("a: [b\nc: }").await.refused(400, "BadRequest", "line 2 column");
    hub.post(APPS, &app("web")).await.expect(201);
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let silence = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    let patience = Duration::from_millis(50);
    let refusal = super::super::body::read(&HeaderMap::new(), &mut Body::from_stream(silence), patience).await;
    let refusal = refusal.expect_err("no body");
    assert_eq!((refusal.code.as_u16(), refusal.reason), (408, "Timeout"));
}

#[tokio::test]
async fn a_write_whose_client_goes_away_is_recorded_all_the_same() {
    let hub = Hub::new().await;
    let silence = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    let call = hub.call(Method::POST, APPS, "application/json", Body::from_stream(silence));
    assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err(), "no answer yet");
    let audit = hub.audit();
    assert_eq!(audit.len(), 1, "{audit:?}");
    assert_eq!((&audit[0]["user"], &audit[0]["verb"]), (&json!("ann"), &json!("create")));
    assert_eq!((&audit[0]["outcome"], &audit[0]["code"]), (&json!("Unknown"), &json!(0)));
    hub.post(APPS, &app("web")).await.expect(201);
    let done = hub.audit().pop().expect("a line");
    assert_eq!((&done["code"], &done["outcome"]), (&json!(201), &Value::Null));
}

#[tokio::test]
async fn huge_names_and_odd_urls_are_refused() {
    let hub = Hub::new().await;
    let long = "a".repeat(254);
    hub.post(APPS, &app(&long)).await.refused(422, "Invalid", "no more than 253 characters");
    hub.get(&format!("{APPS}/{}", "a".repeat(5000))).await.refused(404, "NotFound", "not found");
    hub.get(&format!("{APPS}/..%2f..%2fetc")).await.refused(404, "NotFound", "not found");
    hub.get(&format!("{APPS}/%ff")).await.refused(400, "BadRequest", "encoded");
    hub.post("/apis/core.oam.dev/v1beta1/namespaces/a%2fb/applications", &app("web")).await.expect(422);
    hub.post(APPS, &json!([])).await.refused(400, "BadRequest", "must be an object");
    hub.post(APPS, &json!({"apiVersion": "v1", "kind": "Pod"})).await.refused(400, "BadRequest", "apiVersion");
    let mut odd = app("web");
    odd["metadata"] = json!("text");
    hub.post(APPS, &odd).await.expect(422);
}

#[tokio::test]
async fn who_one_is_decides_what_one_may() {
    let hub = Hub::new().await;
    let get = |path: &str| http::Request::get(path).body(Body::empty()).expect("request");
    let anonymous = || Peer::Anonymous;
    assert_eq!(hub.send(anonymous(), get("/readyz")).await.bytes, "ok");
    assert_eq!(hub.send(anonymous(), get("/livez/ping")).await.bytes, "ok");
    hub.send(anonymous(), get("/healthz/nothing")).await.expect(404);
    hub.send(anonymous(), get("/version")).await.refused(401, "Unauthorized", "client certificate");
    hub.send(anonymous(), get(APPS)).await.refused(403, "Forbidden", "User \"system:anonymous\" cannot list resource");
    hub.send(person(&["hanse:viewers"]), get(APPS)).await.expect(200);
    hub.send(person(&[]), get("/apis")).await.expect(200);
    for spelling in ["/replicas", "/replicas/", "//replicas", "/%72eplicas"] {
        hub.send(person(&[]), get(spelling)).await.refused(403, "Forbidden", "cannot get path");
        hub.send(person(&["hanse:viewers"]), get(spelling)).await.refused(404, "NotFound", "not find");
    }
    let expired =
        Person { user: "bob".into(), groups: vec![ADMIN_GROUP.into()], expired: Some(Timestamp::from_seconds(0)) };
    let expired = Peer::Person(expired);
    hub.send(expired.clone(), get(APPS)).await.refused(
        401,
        "Unauthorized",
        "of \"bob\" expired at 1970-01-01T00:00:00Z",
    );
    assert_eq!(hub.send(expired, get("/healthz")).await.bytes, "ok");
    let mut impersonating = get(APPS);
    impersonating.headers_mut().insert("impersonate-user", "root".parse().expect("header"));
    hub.send(person(&[ADMIN_GROUP]), impersonating).await.refused(403, "Forbidden", "impersonation");
}
