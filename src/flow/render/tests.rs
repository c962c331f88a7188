//! Applications and what KubeVela v1.10.9 makes of them (`vela dry-run`), one case a line; and Applications that are
//! refused, with everything that is wrong with each.

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::model::{
    Resources,
    quantity::{CPU, MEMORY},
    revision::ReplicasAt,
};

#[derive(Deserialize)]
struct Case {
    name: String,
    application: Value,
    /// What it renders to, in order; of a refused one nothing.
    #[serde(default)]
    objects: Vec<Value>,
    /// What is wrong with it, in order.
    #[serde(default)]
    faults: Vec<String>,
}

const CASES: [(&str, &str); 7] = [
    ("webservice", include_str!("../../../testdata/render/webservice.jsonl")),
    ("worker", include_str!("../../../testdata/render/worker.jsonl")),
    ("k8s-objects", include_str!("../../../testdata/render/k8s-objects.jsonl")),
    ("traits", include_str!("../../../testdata/render/traits.jsonl")),
    ("metadata", include_str!("../../../testdata/render/metadata.jsonl")),
    ("odd", include_str!("../../../testdata/render/odd.jsonl")),
    ("refused", include_str!("../../../testdata/render/refused.jsonl")),
];

#[test]
fn renders_and_refuses_what_kubevela_does() {
    for (topic, lines) in CASES {
        for line in lines.lines() {
            let case: Case = serde_json::from_str(line).unwrap();
            let expected = if case.faults.is_empty() { Ok(case.objects) } else { Err(case.faults) };
            assert_eq!(outcome(&case.application, ""), expected, "{topic}: {}", case.name);
        }
    }
}

/// Objects of all components, or faults as people read them.
fn outcome(application: &Value, revision: &str) -> Result<Vec<Value>, Vec<String>> {
    let objects = |rendered: Rendered| rendered.components.into_iter().flat_map(|component| component.objects);
    match render(&read(application), revision) {
        Ok(rendered) => Ok(objects(rendered).collect()),
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
    }
}

fn read(application: &Value) -> Application {
    serde_json::from_value(application.clone()).unwrap()
}

/// An Application `app` of one component.
fn of_component(component: Value) -> Value {
    json!({"metadata": {"name": "app", "namespace": "prod"}, "spec": {"components": [component]}})
}

fn web(properties: Value) -> Value {
    of_component(json!({"name": "web", "type": "webservice", "properties": properties}))
}

#[test]
fn the_revision_is_a_label_of_every_object_and_of_no_pod() {
    let application = web(json!({"image": "i", "ports": [{"port": 80, "expose": true}]}));
    let objects = outcome(&application, "app-v7").unwrap();
    assert_eq!(objects.len(), 2);
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["app.oam.dev/appRevision"], "app-v7");
    }
    assert!(!objects[0]["spec"].to_string().contains("app-v7"), "a new revision restarts nothing");
}

#[test]
fn the_revision_label_of_pods_changes_with_the_component_alone() {
    let label = |image: &str, revision: &str| {
        let objects = outcome(&web(json!({"image": image, "addRevisionLabel": true})), revision).unwrap();
        objects[0]["spec"]["template"]["metadata"]["labels"]["app.oam.dev/revision"].clone()
    };
    assert_eq!(label("i", "app-v1"), label("i", "app-v2"));
    assert_ne!(label("i", "app-v1"), label("j", "app-v1"));
    assert_eq!(label("i", ""), "");
}

#[test]
fn what_the_hub_notes_on_the_application_stays_there() {
    let mut application = web(json!({"image": "i"}));
    application["metadata"]["annotations"] = json!({"hanse.dev/trace": "abc", "note": "kept"});
    application["metadata"]["labels"] = json!({"hanse.dev/application-uid": "forged", "team": "kept"});
    let object = outcome(&application, "").unwrap().remove(0);
    assert_eq!(object["metadata"]["annotations"], json!({"note": "kept"}));
    assert_eq!(object["metadata"]["labels"]["team"], "kept");
    assert!(!object.to_string().contains("forged"));
}

#[test]
fn the_traits_of_a_component_that_failed_are_checked_too() {
    let application = of_component(json!({
        "name": "web", "type": "webservce", "traits": [{"type": "scaler", "properties": {"replicas": -1}}, {"type": "x"}]
    }));
    let paths: Vec<_> = render(&read(&application), "").unwrap_err().into_iter().map(|fault| fault.path).collect();
    let components = ["type", "traits[0].properties.replicas", "traits[1].type"];
    assert_eq!(paths, components.map(|path| format!("spec.components[0].{path}")));
}

#[test]
fn a_webservice_asks_for_its_requests_and_counts_its_replicas() {
    let mut application = web(json!({"image": "i", "cpu": "250m", "memory": "1Gi", "limit": {"cpu": "1"}}));
    let component = |application: &Value| render(&read(application), "").unwrap().components.remove(0);
    let demand = component(&application).demand.unwrap();
    assert_eq!(demand.requests, Resources::of([(CPU, 250), (MEMORY, 1 << 30)]));
    let at = |count| Some(ReplicasAt { manifest: 0, pointer: "/spec/replicas".into(), count });
    assert_eq!(component(&application).replicas, at(1), "the default of a Deployment");
    application["spec"]["components"][0]["traits"] = json!([{"type": "scaler", "properties": {"replicas": 30}}]);
    assert_eq!(component(&application).replicas, at(30));
}

#[test]
fn quantities_that_do_not_parse_are_refused_where_they_stand() {
    let application = web(json!({"image": "i", "cpu": "half", "memory": "1Gi", "limit": {"memory": "2 Gi"}}));
    let faults = outcome(&application, "").unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("spec.components[0].properties.cpu: Invalid value: not a quantity: \"half\""));
    assert!(faults[1].starts_with("spec.components[0].properties.limit.memory: Invalid value: not a quantity"));
}
