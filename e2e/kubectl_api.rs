//! The hub's API as kubectl meets it: every command that a person uses on the hub's kinds, and every refusal in words.

use serde_json::json;

use crate::federation::Federation;
use crate::kubectl::{Kubectl, kubectl};

fn application(name: &str, image: &str) -> String {
    json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": {"name": name},
        "spec": {"components": [{"name": "web", "type": "webservice", "properties": {"image": image}}]},
    })
    .to_string()
}

struct User<'a>(&'a Federation);

impl User<'_> {
    fn kubectl(&self, line: &str) -> Kubectl {
        kubectl(&self.0.kubeconfig).args(line.split_whitespace())
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        self.kubectl(line).ok()
    }

    #[track_caller]
    fn expect(&self, line: &str, words: &str) -> String {
        let said = self.ok(line);
        assert!(said.contains(words), "kubectl {line} said: {said}");
        said
    }

    #[track_caller]
    fn refused(&self, line: &str, words: &str) {
        let said = self.kubectl(line).fails();
        assert!(said.contains(words), "kubectl {line} said: {said}");
    }

    #[track_caller]
    fn send(&self, line: &str, input: impl std::fmt::Display) -> String {
        self.kubectl(line).stdin(input).ok()
    }

    #[track_caller]
    fn send_refused(&self, line: &str, input: impl std::fmt::Display, words: &[&str]) {
        let said = self.kubectl(line).stdin(input).fails();
        for words in words {
            assert!(said.contains(words), "kubectl {line} said: {said}");
        }
    }
}

#[test]
fn kubectl_finds_its_way_around() {
    let hub = Federation::start();
    let user = User(&hub);
    user.expect("version", "+hanse");
    let resources = user.ok("api-resources");
    for name in ["applications", "applicationrevisions", "clusters", "works", "jointokens", "namespaces", "events"] {
        assert!(resources.contains(name), "{resources}");
    }
    user.expect("api-resources --api-group=core.oam.dev -o wide", "deletecollection");
    user.expect("api-versions", "hub.hanse.dev/v1alpha1");
    user.expect("explain application.spec.components.traits", "-required-");
    user.expect("explain clusters.spec", "unschedulable");
    user.expect("explain application --recursive", "appliedResources");
    user.expect("explain application.spec", "the policies that say where they run");
    user.expect("auth whoami", "system:masters");
    user.expect("auth can-i create applications", "yes");
    user.expect("auth can-i get /version", "yes");
    user.expect("auth can-i --list", "applications.core.oam.dev");
    user.expect("get namespaces", "default");
    user.expect("get --raw /readyz", "ok");
    user.expect("get --raw /readyz?verbose", "[+]store ok");
    user.expect("get clusters -o wide", "");
    user.expect("get applications -A", "");
    user.refused("get deployments", "the server doesn't have a resource type");
}

#[test]
fn an_application_lives_its_life_under_kubectl() {
    let hub = Federation::start();
    let user = User(&hub);
    assert!(user.send("apply -f -", application("web", "nginx")).contains("created"));
    assert!(user.send("apply -f -", application("web", "nginx")).contains("unchanged"));
    let generation = || user.ok("get app web -o jsonpath={.metadata.generation}");
    assert_eq!(generation(), "1");

    // What is only asked about is not done.
    let difference = user.kubectl("diff -f -").stdin(application("web", "nginx:2")).call();
    assert_eq!(difference.status.code(), Some(1), "{difference}");
    assert!(difference.stdout.contains("nginx:2"), "{difference}");
    assert!(user.send("apply --dry-run=server -f -", application("web", "nginx:2")).contains("dry run"));
    assert_eq!(generation(), "1");

    assert!(user.send("apply -f -", application("web", "nginx:2")).contains("configured"));
    assert_eq!(generation(), "2");
    user.expect("label app web team=a", "labeled");
    user.expect("annotate app web note=b", "annotated");
    user.expect("get app -l team=a -o name", "application.core.oam.dev/web");
    user.expect("get app --field-selector=metadata.name=web -o name", "application.core.oam.dev/web");
    assert_eq!(generation(), "2", "labels are no change of content");
    let image = r#"{"spec":{"components":[{"name":"web","type":"worker","properties":{"image":"x"}}]}}"#;
    user.kubectl("patch app web --type=merge -p").args([image]).ok();
    let replace = r#"[{"op":"replace","path":"/spec/components/0/properties/image","value":"y"}]"#;
    user.kubectl("patch app web --type=json -p").args([replace]).ok();
    user.expect("get app web -o jsonpath={.spec.components[0].properties.image}", "y");
    assert!(user.send("replace -f -", application("web", "nginx:3")).contains("replaced"));
    user.expect("get app web -o wide", "webservice");
    user.expect("describe app web", "hanse.dev/works");
    user.expect("get all -o name", "application.core.oam.dev/web");
    user.refused("scale app web --replicas=2", "have no subresource \"scale\"");
    user.expect("events --for application/web", "");
    user.kubectl("wait app/web --timeout=20s --for=jsonpath={.metadata.name}=web").ok();

    user.expect("delete app web --wait=false", "deleted");
    user.refused("delete app web --cascade=orphan", "propagationPolicy Orphan is not supported");
}

#[test]
fn a_priority_class_is_made_as_in_kubernetes_and_named_by_a_policy() {
    let hub = Federation::start();
    let user = User(&hub);
    user.ok("create priorityclass high --value=1000 --description=first");
    user.expect("get pc", "GLOBAL-DEFAULT");
    user.expect("get priorityclass high -o jsonpath={.value}", "1000");
    user.expect("describe priorityclass high", "1000");
    let class = |value: i64| json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": value});
    user.send_refused("replace -f -", class(7), &["value", "may not be changed"]);
    user.send_refused("create -f -", class(5_000_000_000), &["value"]);
    let of = |class: &str| {
        let mut application: serde_json::Value = serde_json::from_str(&application(class, "nginx:1.27")).expect("JSON");
        let properties = json!({"mode": "Divided", "priorityClassName": class});
        application["spec"]["policies"] = json!([{"name": "spread", "type": "placement", "properties": properties}]);
        application
    };
    user.send("apply -f -", of("high"));
    user.send("apply -f -", of("gone"));
    let missing = "wait --for=condition=PriorityClassMissing --timeout=30s app/gone";
    user.expect(missing, "condition met");
    user.ok("create priorityclass gone --value=1");
    hub.wait_for_application("default", "gone", "its class is there", |application| {
        let mut conditions = application["status"]["conditions"].as_array().into_iter().flatten();
        conditions.all(|condition| condition["type"] != "PriorityClassMissing")
    });
    user.ok("delete priorityclass gone high");
}

#[test]
fn namespaces_are_made_used_and_kept_while_they_hold_something() {
    let hub = Federation::start();
    let user = User(&hub);
    user.expect("create namespace shop", "created");
    let labelled =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "front", "labels": {"a": "b"}}});
    assert!(user.send("apply -f -", &labelled).contains("created"));
    let relabelled =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "front", "labels": {"c": "d"}}});
    assert!(user.send("apply -f -", &relabelled).contains("configured"));
    user.expect("get ns front --show-labels", "c=d");
    user.send("-n shop apply -f -", application("web", "nginx"));
    user.refused("delete namespace shop", "it still holds applications web");
    user.refused("delete namespace default", "may not be deleted");
    user.expect("delete namespace front", "deleted");
    user.send_refused("-n front apply -f -", application("web", "nginx"), &["namespaces \"front\" not found"]);
}

#[test]
fn bad_input_is_answered_in_words_and_loses_nothing() {
    let hub = Federation::start();
    let user = User(&hub);
    user.send("apply -f -", application("good", "nginx"));

    let twice = json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application",
        "metadata": {"name": "Bad_Name", "annotations": {"app.oam.dev/group": "system:masters"}},
        "spec": {"components": [{"name": "a", "type": 5}, {"type": "worker"}], "policies": "x"},
    });
    let words = [
        "spec.components[0].type: Invalid value: 5: must be a string",
        "spec.components[1].name: Required value",
        "spec.policies: Invalid value: \"x\": must be an array",
        "metadata.name: Invalid value",
        "metadata.annotations[app.oam.dev/group]: Forbidden",
    ];
    user.send_refused("create --validate=false -f -", twice, &words);
    let unknown = application("web", "nginx").replace("\"spec\":{", "\"spec\":{\"oops\":1,");
    user.send_refused("apply -f -", &unknown, &["strict decoding error: unknown field \"spec.oops\""]);
    let warned = user.kubectl("apply --validate=warn -f -").stdin(&unknown).call();
    assert!(warned.stderr.contains("Warning: unknown field \"spec.oops\""), "{warned}");

    let mut many = json!({"components": []});
    for n in 0..10_000 {
        many[format!("odd{n}")] = json!(n);
    }
    let many =
        json!({"apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": {"name": "m"}, "spec": many});
    user.send_refused("create -f -", &many, &["unknown field \"spec.odd0\"", "more"]);
    let type_ = application("web", "nginx").replace("webservice", "nonsense");
    user.send_refused("apply -f -", type_, &["spec.components[0].type", "nonsense"]);
    let long = application(&"a".repeat(254), "nginx");
    user.send_refused("apply -f -", long, &["no more than 253 characters"]);
    let large = application("large", &"x".repeat(1_100_000));
    user.send_refused("create -f -", large, &["the object takes"]);
    let larger = application("larger", &"x".repeat(3_200_000));
    user.send_refused("create -f -", larger, &["larger than the limit of 3145728 bytes"]);
    user.refused("get app -l a==b==c", "unable to parse");
    user.refused("get app --field-selector=spec.x=1", "field label not supported");

    user.refused("patch app good -p {}", "--type=merge");
    user.send_refused("apply --server-side -f -", application("good", "x"), &["server-side apply"]);
    let cluster = json!({"apiVersion": "hub.hanse.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "eu"}});
    user.send_refused("create -f -", cluster, &["hanse token create"]);
    user.refused("get app --as=root", "impersonation is not supported");
    user.expect("get app -o name", "application.core.oam.dev/good");
    assert_eq!(user.ok("get app -o name").lines().count(), 2, "good, and the one that was only warned about");
}
