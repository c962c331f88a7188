//! Who am I, and what may I do.

use super::*;
use crate::hub::auth::VIEWER_GROUP;

async fn ask(hub: &Hub, groups: &[&str], group: &str, kind: &str, spec: Value) -> Answer {
    let body = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {}, "spec": spec});
    let url = format!("/apis/{group}/v1/{}s", kind.to_lowercase());
    let request = Request::post(url).header("content-type", "application/json").body(Body::from(body.to_string()));
    hub.send(person(groups), request.expect("a request")).await
}

async fn may(hub: &Hub, groups: &[&str], spec: Value) -> Value {
    let answer = ask(hub, groups, "authorization.k8s.io", "SelfSubjectAccessReview", spec).await;
    answer.expect(201)["status"].clone()
}

fn applications(verb: &str) -> Value {
    let of = json!({"verb": verb, "group": "core.oam.dev", "resource": "applications", "namespace": "x"});
    json!({ "resourceAttributes": of })
}

#[tokio::test]
async fn a_caller_learns_who_the_hub_takes_it_for() {
    let hub = Hub::new().await;
    let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview","metadata":{}}"#;
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").body(Body::from(body));
    let answer = hub.send(person(&["dev"]), request.expect("a request")).await.expect(201);
    assert_eq!(answer["status"]["userInfo"], json!({"username": "ann", "groups": ["dev", "system:authenticated"]}));
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").body(Body::from(body));
    let anonymous = hub.send(Peer::Anonymous, request.expect("a request")).await;
    anonymous.refused(403, "Forbidden", "cannot create resource");
    assert_eq!(hub.store.revision().await.expect("a revision"), 1, "nothing is kept");
}

#[tokio::test]
async fn what_a_review_answers_is_what_a_request_would_meet() {
    let hub = Hub::new().await;
    for (groups, verb, allowed) in [
        (&[ADMIN_GROUP][..], "delete", true),
        (&[VIEWER_GROUP], "watch", true),
        (&[VIEWER_GROUP], "delete", false),
        (&[VIEWER_GROUP], "*", false),
        (&["dev"], "get", false),
    ] {
        let status = may(&hub, groups, applications(verb)).await;
        assert_eq!(status["allowed"], allowed, "{groups:?} {verb}");
        assert_eq!(status["reason"].as_str().is_some_and(|why| why.contains("cannot")), !allowed, "{status}");
    }
    let path = |path: &str| json!({"nonResourceAttributes": {"path": path, "verb": "get"}});
    assert_eq!(may(&hub, &["dev"], path("/version")).await["allowed"], true);
    let (group, kind) = ("authorization.k8s.io", "SelfSubjectAccessReview");
    ask(&hub, &["dev"], group, kind, json!({})).await.refused(422, "Invalid", "exactly one of");
    ask(&hub, &["dev"], group, kind, json!({"resourceAttributes": {"verb": 5}})).await.refused(422, "Invalid", "verb");
    let url = format!("/apis/{group}/v1/selfsubjectaccessreviews");
    hub.get(&url).await.refused(405, "MethodNotAllowed", "not kept");
}

#[tokio::test]
async fn all_that_one_may_do_is_listed() {
    let hub = Hub::new().await;
    let rules = |groups: &'static [&'static str]| {
        let asked =
            ask(&hub, groups, "authorization.k8s.io", "SelfSubjectRulesReview", json!({"namespace": "default"}));
        async move {
            let status = asked.await.expect(201)["status"].clone();
            let rules = status["resourceRules"].as_array().cloned().unwrap_or_default();
            let of =
                |name: &str| rules.iter().find(|rule| rule["resources"][0] == name).map(|rule| rule["verbs"].clone());
            (of("applications"), of("clusters/status"), of("selfsubjectreviews"), status["incomplete"].clone())
        }
    };
    let create = Some(json!(["create"]));
    assert_eq!(rules(&["dev"]).await, (None, None, create.clone(), json!(false)));
    let read = Some(json!(["get", "list", "watch"]));
    assert_eq!(rules(&[VIEWER_GROUP]).await, (read, Some(json!(["get"])), create, json!(false)));
}

async fn review(hub: &Hub, groups: &[&str], path: &str, kind: &str, spec: Value) -> Answer {
    let body = json!({"apiVersion": "hub.hanse.dev/v1alpha1", "kind": kind, "metadata": {}, "spec": spec});
    let url = format!("/apis/hub.hanse.dev/v1alpha1/{path}");
    let request = Request::post(url).header("content-type", "application/json").body(Body::from(body.to_string()));
    hub.send(person(groups), request.expect("a request")).await
}

#[tokio::test]
async fn placement_is_asked_about_by_those_who_may_read_it() {
    let hub = Hub::new().await;
    let ask = |groups: &'static [&'static str], spec| {
        review(&hub, groups, "namespaces/default/placementreviews", "PlacementReview", spec)
    };
    let named = json!({"name": "web"});
    // Whether it is there is not for a stranger to know.
    ask(&["dev"], named.clone()).await.refused(403, "Forbidden", "cannot get resource \"applications\"");
    ask(&[VIEWER_GROUP], named).await.refused(404, "NotFound", "\"web\" not found");
    ask(&[VIEWER_GROUP], json!({})).await.refused(422, "Invalid", "exactly one of");
    let application = |spec: Value| json!({"application": {"apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": {"name": "web"}, "spec": spec}});
    let faulty = application(json!({"components": [{"name": "web", "type": "wroker"}]}));
    ask(&[ADMIN_GROUP], faulty.clone()).await.refused(422, "Invalid", "wroker");
    ask(&["dev"], faulty).await.refused(403, "Forbidden", "cannot get resource");
    let sound = application(json!({"components": [{"name": "web", "type": "worker", "properties": {"image": "i"}}]}));
    ask(&[ADMIN_GROUP], sound).await.refused(503, "ServiceUnavailable", "nobody here decides");
    assert_eq!(hub.store.revision().await.expect("a revision"), 1, "nothing is kept");
}

#[tokio::test]
async fn a_drill_is_for_those_who_may_list_clusters() {
    let hub = Hub::new().await;
    let ask = |groups: &'static [&'static str], lose: Value| {
        review(&hub, groups, "drillreviews", "DrillReview", json!({ "lose": lose }))
    };
    ask(&["dev"], json!([{"clusters": ["eu"]}])).await.refused(403, "Forbidden", "cannot list resource \"clusters\"");
    ask(&[VIEWER_GROUP], json!([])).await.refused(422, "Invalid", "at least one set");
    ask(&[VIEWER_GROUP], json!([{}])).await.refused(422, "Invalid", "clusters or clusterSelector");
    let odd = json!([{"clusterSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]);
    ask(&[VIEWER_GROUP], odd).await.refused(400, "BadRequest", "Near");
    ask(&[VIEWER_GROUP], json!([{"clusters": ["eu"]}])).await.refused(503, "ServiceUnavailable", "nobody here decides");
}
