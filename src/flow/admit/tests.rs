use serde_json::json;

use super::*;

fn faults_of(application: Value) -> Vec<String> {
    admit(&application, None).iter().map(ToString::to_string).collect()
}

fn paths_of(application: Value) -> Vec<String> {
    admit(&application, None).into_iter().map(|fault| fault.path).collect()
}

fn application(spec: Value) -> Value {
    json!({"metadata": {"name": "shop", "namespace": "prod"}, "spec": spec})
}

fn web(name: &str) -> Value {
    json!({"name": name, "type": "webservice", "properties": {"image": "nginx:1.29"}})
}

/// The paths of what is wrong with one policy of an Application with components `web` and `orders`.
fn policy(type_: &str, properties: Value) -> Vec<String> {
    policies(json!([{"name": "p", "type": type_, "properties": properties}]))
}

fn policies(policies: Value) -> Vec<String> {
    let paths = paths_of(application(json!({"components": [web("web"), web("orders")], "policies": policies})));
    paths.iter().map(|path| path.trim_start_matches("spec.policies[0].").to_owned()).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn sound_policies_pass() {
    for (type_, properties) in [
        ("topology", json!({"clusters": ["eu"], "namespace": "prod", "allowEmpty": true})),
        ("topology", json!({"clusterLabelSelector": {}})),
        ("placement", json!({"mode": "Duplicated"})),
        ("placement", json!({"mode": "Divided", "clusters": ["eu", "us"], "components": ["web"]})),
        (
            "placement",
            json!({"mode": "Divided", "clusterSelector": {
                "matchLabels": {"region": "eu"},
                "matchExpressions": [
                    {"key": "tier", "operator": "NotIn", "values": ["test"]},
                    {"key": "example.com/gpu", "operator": "Exists"},
                    {"key": "generation", "operator": "Gt", "values": ["3"]},
                ],
            }}),
        ),
    ] {
        assert_eq!(policy(type_, properties.clone()), NOTHING, "{type_} {properties}");
    }
}

#[test]
fn faulty_policies_are_refused_where_they_are_wrong() {
    let expressions =
        |requirement: Value| json!({"mode": "Divided", "clusterSelector": {"matchExpressions": [requirement]}});
    let expression = "properties.clusterSelector.matchExpressions[0]";
    for (type_, properties, path) in [
        ("harpoon", json!({}), "type".to_owned()),
        ("override", json!({}), "type".to_owned()),
        ("garbage-collect", json!({}), "type".to_owned()),
        ("", json!({}), "type".to_owned()),
        ("topology", json!("eu"), "properties".to_owned()),
        ("topology", json!({}), "properties.clusters".to_owned()),
        ("topology", json!({"clusters": []}), "properties.clusters".to_owned()),
        ("topology", json!({"clusters": [""]}), "properties.clusters[0]".to_owned()),
        ("topology", json!({"clusters": "eu"}), "properties.clusters".to_owned()),
        (
            "topology",
            json!({"clusters": ["eu"], "clusterLabelSelector": {}}),
            "properties.clusterLabelSelector".to_owned(),
        ),
        ("topology", json!({"clusterLabelSelector": {"-a": "b"}}), "properties.clusterLabelSelector.-a".to_owned()),
        ("topology", json!({"clusterLabelSelector": {"a": "b c"}}), "properties.clusterLabelSelector.a".to_owned()),
        ("topology", json!({"clusters": ["eu"], "namespace": "kube-system"}), "properties.namespace".to_owned()),
        ("topology", json!({"clusterSelector": {}, "clusters": ["eu"]}), "properties.clusterSelector".to_owned()),
        ("placement", json!({}), "properties.mode".to_owned()),
        ("placement", json!({"mode": "Weighted"}), "properties.mode".to_owned()),
        ("placement", json!({"mode": "Divided", "components": ["wbe"]}), "properties.components[0]".to_owned()),
        ("placement", json!({"mode": "Divided", "clusters": []}), "properties.clusters".to_owned()),
        ("placement", expressions(json!({"key": "a"})), format!("{expression}.operator")),
        ("placement", expressions(json!({"operator": "Exists"})), format!("{expression}.key")),
        (
            "placement",
            expressions(json!({"key": "a", "operator": "in", "values": ["b"]})),
            format!("{expression}.operator"),
        ),
        ("placement", expressions(json!({"key": "a", "operator": "In"})), format!("{expression}.values")),
        (
            "placement",
            expressions(json!({"key": "a", "operator": "In", "values": ["b c"]})),
            format!("{expression}.values"),
        ),
        (
            "placement",
            expressions(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
            format!("{expression}.values"),
        ),
        (
            "placement",
            expressions(json!({"key": "a", "operator": "Gt", "values": ["b"]})),
            format!("{expression}.values"),
        ),
    ] {
        assert_eq!(policy(type_, properties.clone()), [path], "{type_} {properties}");
    }
}

#[test]
fn what_a_placement_policy_bounds_is_checked_at_once() {
    let divided = |properties: Value| {
        let mut all = json!({"mode": "Divided"});
        properties.as_object().expect("a map").iter().for_each(|(name, value)| all[name] = value.clone());
        policy("placement", all)
    };
    let sound = json!({
        "division": "Weighted",
        "weights": [{"clusters": ["eu"], "weight": 3}, {"clusterSelector": {}, "weight": 0}],
        "groups": [{"name": "own", "clusters": ["eu"]}, {"clusterSelector": {"matchLabels": {"a": "b"}}}],
        "tolerations": [{"operator": "Exists"}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 0}],
        "spreadConstraints": [{"by": "region", "minGroups": 2, "maxSkew": 1}, {"by": "cluster", "maxGroups": 3, "maxSkew": 2}],
        "limits": [{"clusters": ["eu"], "min": 1, "max": 4}],
        "maxMoves": 0,
        "rebalance": {"periodSeconds": 3600, "cost": 0},
        "allOrNothing": true,
        "affinity": {
            "with": [{"application": "db", "topology": "region"}, {"selector": {"matchLabels": {"tier": "back"}}}],
            "apart": [{"application": "db"}, {"selector": {}, "topology": "rack"}],
        },
    });
    assert_eq!(divided(sound), NOTHING);
    for (properties, expected) in [
        (json!({"division": "Weighted"}), vec!["weights"]),
        (json!({"weights": [{"clusters": ["eu"], "weight": 1}]}), vec!["weights"]),
        (json!({"division": "Weighted", "weights": [{"clusters": ["eu"], "weight": 0}]}), vec!["weights"]),
        (
            json!({"division": "Weighted", "weights": [{"weight": -1}]}),
            vec!["weights[0].clusters", "weights[0].weight"],
        ),
        (
            json!({"division": "Weighted", "weights": [{"clusters": ["a"], "weight": 99_999_999_999i64}]}),
            vec!["weights[0].weight"],
        ),
        (json!({"groups": [{"name": "all"}]}), vec!["groups[0].clusters"]),
        (json!({"groups": [{"clusters": ["a"], "weight": 1}]}), vec!["groups[0].weight"]),
        (json!({"tolerations": [{"value": "x"}]}), vec!["tolerations[0].key"]),
        (json!({"tolerations": [{"key": "a", "tolerationSeconds": 5}]}), vec!["tolerations[0].effect"]),
        (json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}), vec!["tolerations[0].value"]),
        (json!({"tolerations": [{"key": "a", "effect": "Never"}]}), vec!["tolerations[0].effect"]),
        (json!({"spreadConstraints": [{"by": "region"}]}), vec!["spreadConstraints[0].minGroups"]),
        (
            json!({"spreadConstraints": [{"by": "zone", "minGroups": 3, "maxGroups": 2}]}),
            vec!["spreadConstraints[0].maxGroups"],
        ),
        (
            json!({"spreadConstraints": [{"by": "zone", "maxSkew": 1}, {"by": "zone", "maxSkew": 1}]}),
            vec!["spreadConstraints[1].by"],
        ),
        (
            json!({"clusters": ["eu"], "spreadConstraints": [{"by": "cluster", "minGroups": 2}]}),
            vec!["spreadConstraints[0].minGroups"],
        ),
        (
            json!({"spreadConstraints": [{"by": "a b", "maxSkew": 0}]}),
            vec!["spreadConstraints[0].by", "spreadConstraints[0].maxSkew"],
        ),
        (json!({"limits": [{"clusters": ["a"]}]}), vec!["limits[0].max"]),
        (json!({"limits": [{"clusters": ["a"], "min": 5, "max": 4}]}), vec!["limits[0].max"]),
        (json!({"limits": [{"clusters": ["a"], "max": 1i64 << 40}]}), vec!["limits[0].max"]),
        (json!({"preferences": [{"by": "cost"}]}), vec!["preferences[0].order"]),
        (json!({"maxMoves": -1}), vec!["maxMoves"]),
        (json!({"priorityClassName": "No Name"}), vec!["priorityClassName"]),
        (
            json!({"rebalance": {"periodSeconds": 59, "cost": -1, "every": "1h"}}),
            vec!["rebalance.cost", "rebalance.every", "rebalance.periodSeconds"],
        ),
        (json!({"affinity": {}}), vec!["affinity.with"]),
        (json!({"affinity": {"near": []}}), vec!["affinity.near", "affinity.with"]),
        (json!({"affinity": {"with": [{}]}}), vec!["affinity.with[0].application"]),
        (json!({"affinity": {"with": [{"application": ""}]}}), vec!["affinity.with[0].application"]),
        (json!({"affinity": {"with": [{"application": "a", "selector": {}}]}}), vec!["affinity.with[0].selector"]),
        (json!({"affinity": {"apart": [{"selector": {}, "topology": "a b"}]}}), vec!["affinity.apart[0].topology"]),
        (
            json!({"affinity": {"with": [{"application": "a"}], "apart": [{"application": "a", "topology": "cluster"}]}}),
            vec!["affinity.apart[0].topology"],
        ),
        (
            json!({"affinity": {"with": [{"application": "a"}, {"application": "a"}]}}),
            vec!["affinity.with[1].topology"],
        ),
        (json!({"affinity": {"apart": vec![json!({"application": "a"}); 101]}}), vec!["affinity.apart"]),
        (json!({"total": 7}), vec!["total"]),
    ] {
        let expected: Vec<String> = expected.iter().map(|path| format!("properties.{path}")).collect();
        let mut found = divided(properties.clone());
        found.sort();
        assert_eq!(found, expected, "{properties}");
    }
    let duplicated = json!({"mode": "Duplicated", "division": "Aggregated", "maxMoves": 1, "limits": []});
    assert_eq!(policy("placement", duplicated), ["properties.division", "properties.limits", "properties.maxMoves"]);
    let spread = |by: &str| json!({"mode": "Duplicated", "spreadConstraints": [{"by": by, "maxSkew": 1}]});
    assert_eq!(policy("placement", spread("zone")), NOTHING);
    assert_eq!(policy("placement", spread("cluster")), ["properties.spreadConstraints[0].maxSkew"]);
}

#[test]
fn a_changed_mode_needs_the_total_that_it_comes_to() {
    let with = |policies: Value| application(json!({"components": [web("web")], "policies": policies}));
    let placement = |properties: Value| json!([{"name": "p", "type": "placement", "properties": properties}]);
    let change = |old: &Value, new: &Value| {
        admit(&with(new.clone()), Some(&with(old.clone()))).into_iter().map(|fault| fault.path).collect::<Vec<_>>()
    };
    let divided = placement(json!({"mode": "Divided"}));
    let duplicated = placement(json!({"mode": "Duplicated"}));
    let total = ["spec.policies[0].properties.total"];
    assert_eq!(change(&divided, &duplicated), total);
    assert_eq!(change(&duplicated, &divided), total);
    assert_eq!(change(&json!([]), &divided), total);
    assert_eq!(change(&divided, &json!([])), ["spec.policies"]);
    assert_eq!(change(&json!([]), &duplicated), NOTHING, "replicas stay those of each cluster");
    assert_eq!(change(&divided, &placement(json!({"mode": "Duplicated", "total": 3}))), NOTHING);
    assert_eq!(change(&duplicated, &placement(json!({"mode": "Divided", "total": 1}))), NOTHING);
    assert_eq!(change(&duplicated, &placement(json!({"mode": "Divided", "total": 2}))), total, "web has one replica");
}

#[test]
fn a_component_has_one_placement_policy() {
    let placement =
        |components: Value| json!({"type": "placement", "properties": {"mode": "Divided", "components": components}});
    assert_eq!(policies(json!([placement(json!(["web"])), placement(json!(["orders"]))])), NOTHING);
    let twice = ["spec.policies[1].properties.components"];
    assert_eq!(policies(json!([placement(json!(["web"])), placement(json!(["web", "orders"]))])), twice);
    assert_eq!(policies(json!([placement(json!(["web"])), placement(json!([]))])), twice);
}

#[test]
fn names_are_held_to_what_they_become() {
    let long = "a".repeat(64);
    for (component, fault) in [
        (web(""), "Required value"),
        (web(&long), "Too long"),
        (web("Web"), "Invalid value"),
        (web("a.b"), "Invalid value"),
        (
            json!({"name": "a b", "type": "k8s-objects", "properties": {"objects": [{"apiVersion": "v1", "kind": "ConfigMap"}]}}),
            "Invalid value",
        ),
    ] {
        let faults = faults_of(application(json!({"components": [component]})));
        assert!(
            matches!(&faults[..], [one] if one.starts_with(&format!("spec.components[0].name: {fault}"))),
            "{faults:?}"
        );
    }
    let mut shop = application(json!({"components": [web("web")]}));
    shop["metadata"]["name"] = long.into();
    assert_eq!(paths_of(shop), ["metadata.name"]);
}

#[test]
fn one_name_and_one_object_belong_to_one_component() {
    let faults = faults_of(application(json!({"components": [web("web"), web("web")]})));
    assert_eq!(
        faults,
        [
            r#"spec.components[1]: Duplicate value: Deployment prod/web is rendered by spec.components[0] too"#,
            r#"spec.components[1].name: Duplicate value: "web" is the name of spec.components[0] too"#,
        ]
    );
    let map = |version: &str| json!({"apiVersion": format!("example.com/{version}"), "kind": "Map", "metadata": {"name": "m"}});
    let objects =
        json!({"name": "maps", "type": "k8s-objects", "properties": {"objects": [map("v1"), map("v1beta1")]}});
    assert_eq!(paths_of(application(json!({"components": [objects]}))), ["spec.components[0].properties.objects[1]"]);
}

#[test]
fn objects_that_no_member_could_apply_are_refused() {
    for (object, path) in [
        (json!({"kind": "ConfigMap", "metadata": {"name": "a"}}), ".apiVersion"),
        (json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": []}), ".metadata"),
        (json!({"apiVersion": "v1", "kind": "List", "items": []}), ".kind"),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"labels": {"hanse.dev/application-uid": "x"}}}),
            ".metadata.labels[hanse.dev/application-uid]",
        ),
        (json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "x".repeat(OBJECT_BYTES_MAX)}}), ""),
    ] {
        let component = json!({"name": "a", "type": "k8s-objects", "properties": {"objects": [object]}});
        let expected = format!("spec.components[0].properties.objects[0]{path}");
        assert_eq!(paths_of(application(json!({"components": [component]}))), [expected]);
    }
}

#[test]
fn a_total_belongs_to_one_workload() {
    let deployment = |name: &str| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}});
    let component =
        json!({"name": "two", "type": "k8s-objects", "properties": {"objects": [deployment("a"), deployment("b")]}});
    let spread = |mode: &str| json!({"components": [component], "policies": [{"type": "placement", "properties": {"mode": mode}}]});
    assert_eq!(paths_of(application(spread("Duplicated"))), NOTHING);
    assert_eq!(paths_of(application(spread("Divided"))), ["spec.components[0].properties.objects[1]"]);
}

#[test]
fn what_would_be_ignored_is_refused() {
    let mut component = web("web");
    for (field, value) in [
        ("dependsOn", json!(["x"])),
        ("inputs", json!([{}])),
        ("outputs", json!([{}])),
        ("externalRevision", json!("v1")),
    ] {
        component[field] = value;
    }
    let spec =
        json!({"components": [component], "workflow": {"mode": {"steps": "DAG"}, "steps": [{"type": "deploy"}]}});
    let refused =
        ["dependsOn", "externalRevision", "inputs", "outputs"].map(|field| format!("spec.components[0].{field}"));
    let refused: Vec<_> = refused.into_iter().chain(["spec.workflow.steps".to_owned()]).collect();
    assert_eq!(paths_of(application(spec.clone())), refused);
    assert_eq!(faults(&application(spec)), [], "it renders all the same");

    let empty =
        json!({"name": "web", "type": "worker", "properties": {"image": "i"}, "dependsOn": [], "externalRevision": ""});
    assert_eq!(paths_of(application(json!({"components": [empty], "workflow": {"steps": []}}))), NOTHING);
}

#[test]
fn everything_is_told_at_once_in_order_and_within_bounds() {
    let mut components: Vec<_> = (0..12).map(|index| web(&format!("web-{index}"))).collect();
    components[2]["type"] = "submarine".into();
    components[10]["properties"]["image"] = 5.into();
    let spec = json!({"components": components, "policies": [{"type": "topology"}]});
    let expected =
        ["spec.components[2].type", "spec.components[10].properties.image", "spec.policies[0].properties.clusters"];
    assert_eq!(paths_of(application(spec)), expected);

    let many = json!({"components": (0..500).map(|_| json!({"name": "a", "type": "worker"})).collect::<Vec<_>>()});
    let faults = faults_of(application(many));
    assert_eq!(faults.len(), FAULTS_MAX);
    assert_eq!(faults[99], "spec: Too many: 900 more faults are not shown");

    let too_many =
        json!({"components": (0..=COMPONENTS_MAX).map(|index| web(&format!("w{index}"))).collect::<Vec<_>>()});
    assert_eq!(paths_of(application(too_many)), ["spec.components"]);
}

#[test]
fn what_is_no_application_at_all_is_refused() {
    for nonsense in [json!(null), json!([]), json!({"spec": {"components": "x"}}), json!({"metadata": 5})] {
        assert_eq!(admit(&nonsense, None).len(), 1, "{nonsense}");
    }
}
