//! The manifests that put an agent into a member cluster.

/// What an Application may do inside its namespace; the member's to change.
pub const EXECUTOR: &str = include_str!("../../deploy/executor.yaml");
const MEMBER: &str = include_str!("../../deploy/member.yaml");

/// Image of the agent, where nobody names another.
pub const IMAGE: &str = concat!("hanse:", env!("CARGO_PKG_VERSION"));

/// All that `kubectl apply -f -` needs in the member. `cluster` may be empty: then the token's name is taken.
pub fn member_manifests(hub_url: &str, token: &str, cluster: &str, image: &str) -> String {
    let filled = MEMBER
        .replace("\"HUB_URL\"", &quoted(hub_url))
        .replace("\"TOKEN\"", &quoted(token))
        .replace("\"CLUSTER\"", &quoted(cluster))
        .replace("\"IMAGE\"", &quoted(image));
    format!("{EXECUTOR}---\n{filled}")
}

/// JSON strings are YAML strings, so no value can become another field.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn objects(yaml: &str) -> Vec<Value> {
        let documents = yaml.split("\n---\n");
        documents.map(|document| serde_saphyr::from_str(document).expect("is YAML")).collect()
    }

    fn of_kind<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
        let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        objects.iter().find(is).expect("is there")
    }

    #[test]
    fn values_are_filled_in_and_cannot_break_out() {
        let yaml = member_manifests("https://hub:7443", "hanse1.t.s\"\nkind: Evil", "eu", "hanse:1");
        let objects = objects(&yaml);
        let secret = of_kind(&objects, "Secret", "hanse-join");
        assert_eq!(secret["stringData"]["token"], "hanse1.t.s\"\nkind: Evil");
        let deployment = of_kind(&objects, "Deployment", "hanse-agent");
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "hanse:1");
        assert_eq!(container["args"][2], "https://hub:7443");
        assert_eq!(container["args"][4], "eu");
    }

    fn rules(role: &Value) -> Vec<(Vec<String>, Vec<String>, Vec<String>)> {
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let rules = role["rules"].as_array().expect("has rules").iter();
        rules.map(|rule| (texts(&rule["resources"]), texts(&rule["verbs"]), texts(&rule["resourceNames"]))).collect()
    }

    #[test]
    fn nothing_is_granted_by_wildcard_and_the_agent_writes_no_workload() {
        let yaml = member_manifests("https://hub", "t", "", IMAGE);
        assert!(!yaml.contains('*'), "a wildcard");
        let objects = objects(&yaml);
        for (resources, verbs, names) in rules(of_kind(&objects, "ClusterRole", "hanse-agent")) {
            let writes = verbs.iter().any(|verb| !matches!(verb.as_str(), "get" | "list" | "watch"));
            let own = ["namespaces", "serviceaccounts", "rolebindings"].contains(&resources[0].as_str());
            assert!(!writes || own || names == ["hanse-executor"], "{resources:?} {verbs:?}");
            let sharp = verbs.iter().any(|verb| matches!(verb.as_str(), "impersonate" | "bind" | "escalate"));
            assert!(!sharp || names == ["hanse-executor"], "{resources:?} {verbs:?}");
        }
        for (resources, ..) in rules(of_kind(&objects, "ClusterRole", "hanse-executor")) {
            assert!(resources.iter().all(|resource| !resource.contains("role")), "{resources:?}");
        }
    }

    #[test]
    fn the_agent_can_read_whatever_executors_can_write() {
        let objects = objects(&member_manifests("https://hub", "t", "", IMAGE));
        let readable: Vec<String> =
            rules(of_kind(&objects, "ClusterRole", "hanse-agent")).into_iter().flat_map(|rule| rule.0).collect();
        for (resources, ..) in rules(of_kind(&objects, "ClusterRole", "hanse-executor")) {
            assert!(resources.iter().all(|resource| readable.contains(resource)), "{resources:?}");
        }
    }
}
