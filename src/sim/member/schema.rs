//! What the API server does to an object before it stores it: defaults, and refusing what is not valid.
//!
//! Only the fields that matter to a federation are here: those that change what is compared (a default filled in, a
//! quantity rewritten) and those whose faults people meet (a selector that does not match, a container without image).

use serde_json::{Map, Value, json};

use super::{
    catalogue::Served,
    template::{amounts, list, quantity_text},
};
use crate::{
    agent::cluster::Rejection,
    model::{quantity::Quantity, selector::check_key, selector::check_value},
};

/// Where the pod template of a kind stands; `None` where it has none.
pub fn template_pointer(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        "Pod" => Some(""),
        _ => None,
    }
}

/// Fills in what the API server would.
pub fn default_object(kind: &str, object: &mut Value) {
    match kind {
        "Deployment" => fill(
            &mut object["spec"],
            json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                "strategy": {"type": "RollingUpdate"}}),
        ),
        "StatefulSet" => fill(
            &mut object["spec"],
            json!({"replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}),
        ),
        "DaemonSet" => fill(
            &mut object["spec"],
            json!({"revisionHistoryLimit": 10, "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}),
        ),
        "Job" => fill(&mut object["spec"], json!({"completions": 1, "parallelism": 1, "backoffLimit": 6})),
        "Service" => default_service(&mut object["spec"]),
        _ => {}
    }
    if kind == "Deployment" && object["spec"]["strategy"]["type"] == "RollingUpdate" {
        fill(&mut object["spec"]["strategy"], json!({"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}));
    }
    if let Some(template) = template_pointer(kind).and_then(|pointer| object.pointer_mut(pointer)) {
        default_pod(&mut template["spec"]);
    }
}

fn default_service(spec: &mut Value) {
    fill(
        spec,
        json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ipFamilyPolicy": "SingleStack"}),
    );
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        let target = port["port"].clone();
        fill(port, json!({"protocol": "TCP", "targetPort": target}));
    }
}

fn default_pod(spec: &mut Value) {
    fill(
        spec,
        json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler", "securityContext": {}}),
    );
    for field in ["containers", "initContainers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            default_container(container);
        }
    }
}

fn default_container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let tag = image.rsplit('/').next().and_then(|name| name.split_once(':')).map(|(_, tag)| tag);
    let pull = if image.contains('@') || tag.is_some_and(|tag| tag != "latest") { "IfNotPresent" } else { "Always" };
    fill(
        container,
        json!({"imagePullPolicy": pull, "resources": {}, "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File"}),
    );
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        fill(port, json!({"protocol": "TCP"}));
    }
    let resources = &mut container["resources"];
    for which in ["limits", "requests"] {
        for (name, value) in resources.get_mut(which).and_then(Value::as_object_mut).into_iter().flatten() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if text.parse::<Quantity>().is_ok() {
                let amount = amounts(&json!({ name.as_str(): text })).get(name);
                *value = quantity_text(name, amount).into();
            }
        }
    }
    // Limits stand in for missing requests.
    if let Some(limits) = resources.get("limits").filter(|limits| limits.is_object()).cloned() {
        fill(resources, json!({"requests": limits}));
    }
}

/// Adds what is missing, map by map; whatever is there stays.
fn fill(target: &mut Value, defaults: Value) {
    if target.is_null() {
        *target = json!({});
    }
    let (Value::Object(target), Value::Object(defaults)) = (target, defaults) else { return };
    for (key, value) in defaults {
        match target.get_mut(&key) {
            Some(slot @ Value::Object(_)) => fill(slot, value),
            Some(_) => {}
            None => drop(target.insert(key, value)),
        }
    }
}

/// Refuses what the API server would, with all faults in one message.
pub fn validate(kind: &Served, object: &Value, before: Option<&Value>) -> Result<(), Rejection> {
    let mut faults = Vec::new();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    check_name(kind.kind, name, &mut faults);
    check_labels(&object["metadata"]["labels"], "metadata.labels", &mut faults);
    match kind.kind {
        "Deployment" | "StatefulSet" | "DaemonSet" => check_workload(object, before, &mut faults),
        "Service" => check_service(&object["spec"], &mut faults),
        _ => {}
    }
    if let Some(pointer) = template_pointer(kind.kind) {
        let path = format!("{}.spec", pointer.trim_start_matches('/').replace('/', "."));
        let spec = object.pointer(pointer).map_or(&Value::Null, |template| &template["spec"]);
        check_pod(spec, path.trim_start_matches('.'), &mut faults);
    }
    let message = match faults.as_slice() {
        [] => return Ok(()),
        [fault] => fault.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let message = format!("{} {name:?} is invalid: {message}", kind.qualified_kind());
    Err(Rejection { reason: "Invalid".into(), message })
}

fn check_name(kind: &str, name: &str, faults: &mut Vec<String>) {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let subdomain = name
        .split('.')
        .all(|label| label.starts_with(word) && label.ends_with(word) && label.chars().all(|c| word(c) || c == '-'));
    let length_max = if matches!(kind, "Service" | "Namespace") { 63 } else { 253 };
    // Names of RBAC objects are path segments and may hold colons.
    if name.len() > length_max || !(subdomain || kind.contains("Role")) {
        faults.push(format!("metadata.name: Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"));
    }
}

fn check_labels(labels: &Value, path: &str, faults: &mut Vec<String>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if let Err(error) = check_key(key).and_then(|()| check_value(value.as_str().unwrap_or(" "))) {
            faults.push(format!("{path}: Invalid value: {error}"));
        }
    }
}

fn check_workload(object: &Value, before: Option<&Value>, faults: &mut Vec<String>) {
    let spec = &object["spec"];
    let selector = &spec["selector"];
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = selector["matchLabels"].as_object();
    if selector.is_null() {
        faults.push("spec.selector: Required value".into());
    } else if wanted.is_some_and(|wanted| wanted.iter().any(|(key, value)| labels.get(key) != Some(value))) {
        faults.push(format!(
            "spec.template.metadata.labels: Invalid value: {labels}: `selector` does not match template `labels`"
        ));
    }
    if before.is_some_and(|before| before["spec"]["selector"] != *selector) {
        faults.push(format!("spec.selector: Invalid value: {selector}: field is immutable"));
    }
    if let Some(replicas) = spec["replicas"].as_i64().filter(|&replicas| replicas < 0) {
        faults.push(format!("spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0"));
    }
}

fn check_service(spec: &Value, faults: &mut Vec<String>) {
    if spec["type"] != "ExternalName" && list(&spec["ports"]).next().is_none() && spec["clusterIP"] != "None" {
        faults.push("spec.ports: Required value".into());
    }
    for (index, port) in list(&spec["ports"]).enumerate() {
        check_port(&port["port"], &format!("spec.ports[{index}].port"), faults);
    }
}

fn check_port(port: &Value, path: &str, faults: &mut Vec<String>) {
    if !port.as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
        faults.push(format!("{path}: Invalid value: {port}: must be between 1 and 65535, inclusive"));
    }
}

fn check_pod(spec: &Value, path: &str, faults: &mut Vec<String>) {
    if list(&spec["containers"]).next().is_none() {
        faults.push(format!("{path}.containers: Required value"));
    }
    let mut names = std::collections::BTreeSet::new();
    for field in ["containers", "initContainers"] {
        for (index, container) in list(&spec[field]).enumerate() {
            let path = format!("{path}.{field}[{index}]");
            let name = container["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                faults.push(format!("{path}.name: Required value"));
            } else if !names.insert(name) {
                faults.push(format!("{path}.name: Duplicate value: {name:?}"));
            }
            if container["image"].as_str().unwrap_or_default().is_empty() {
                faults.push(format!("{path}.image: Required value"));
            }
            for (index, port) in list(&container["ports"]).enumerate() {
                check_port(&port["containerPort"], &format!("{path}.ports[{index}].containerPort"), faults);
            }
            check_resources(&container["resources"], &format!("{path}.resources"), faults);
        }
    }
}

fn check_resources(resources: &Value, path: &str, faults: &mut Vec<String>) {
    for which in ["limits", "requests"] {
        for (name, value) in resources[which].as_object().unwrap_or(&Map::new()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if text.parse::<Quantity>().is_err() {
                faults.push(format!("{path}.{which}.{name}: Invalid value: {text:?}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"));
            }
        }
    }
    let limits = amounts(&resources["limits"]);
    for (name, amount) in &amounts(&resources["requests"]).0 {
        if limits.0.get(name).is_some_and(|limit| amount > limit) {
            let (asked, limit) = (quantity_text(name, *amount), quantity_text(name, limits.get(name)));
            faults.push(format!(
                "{path}.requests: Invalid value: {asked:?}: must be less than or equal to {name} limit of {limit}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::GroupVersionKind;

    fn deployment() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "web", "image": "nginx", "ports": [{"containerPort": 80}],
                 "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}}]}}}})
    }

    fn refusal(object: &Value, before: Option<&Value>) -> String {
        let gvk = GroupVersionKind::of(object).expect("gvk");
        let kind = super::super::catalogue::served(&gvk).expect("served");
        validate(kind, object, before).map_or_else(|rejection| rejection.message, |()| String::new())
    }

    #[test]
    fn a_deployment_is_filled_in_as_the_api_server_does() {
        let mut object = deployment();
        default_object("Deployment", &mut object);
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
        let once = object.clone();
        default_object("Deployment", &mut object);
        assert_eq!(object, once, "defaulting twice changes nothing");
    }

    #[test]
    fn recreate_gets_no_rolling_parameters() {
        let mut object = deployment();
        object["spec"]["strategy"] = json!({"type": "Recreate"});
        default_object("Deployment", &mut object);
        assert_eq!(object["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn faults_are_named_all_at_once_in_the_words_of_kubernetes() {
        let mut object = deployment();
        object["spec"]["replicas"] = json!(-1);
        object["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("");
        assert_eq!(
            refusal(&object, None),
            "Deployment.apps \"web\" is invalid: [spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: \
             `selector` does not match template `labels`, spec.replicas: Invalid value: -1: must be greater than or \
             equal to 0, spec.template.spec.containers[0].image: Required value]"
        );
        assert_eq!(refusal(&deployment(), None), "");
    }

    #[test]
    fn a_selector_cannot_be_changed_later() {
        let before = deployment();
        let mut after = deployment();
        after["spec"]["selector"] = json!({"matchLabels": {}});
        assert!(refusal(&after, Some(&before)).contains("field is immutable"));
    }

    #[test]
    fn requests_over_limits_and_bad_quantities_are_refused() {
        let mut object = deployment();
        object["spec"]["template"]["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": "2", "memory": "much"}, "limits": {"cpu": "1500m"}});
        let message = refusal(&object, None);
        assert!(message.contains("must be less than or equal to cpu limit of 1500m"), "{message}");
        assert!(message.contains("resources.requests.memory: Invalid value: \"much\""), "{message}");
    }
}
