//! What a simulated member reads from a pod template: enough to schedule and to run it.

use serde_json::Value;

use crate::model::{
    Demand, Digest, Resources,
    demand::Toleration,
    quantity::{CPU, MEMORY, Quantity},
};

/// Images whose name contains this can never be pulled.
const BROKEN: &str = "broken";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Tells one template from another, as a ReplicaSet's hash does.
    pub hash: String,
    pub demand: Demand,
    pub limits: Resources,
    /// The first image that cannot be pulled.
    pub broken_image: Option<String>,
    /// A container that asks for no CPU or memory: a quota on it then refuses the pod.
    pub first_container: String,
}

impl Template {
    /// Reads a whole template (`metadata`, `spec`), which has passed validation.
    pub fn of(template: &Value) -> Self {
        let spec = &template["spec"];
        let containers = || list(&spec["containers"]);
        let images = containers().chain(list(&spec["initContainers"])).filter_map(|c| c["image"].as_str());
        Self {
            hash: Digest::of_json(template).to_string()[..10].to_owned(),
            demand: Demand {
                requests: total(spec, "requests"),
                node_selector: serde_json::from_value(spec["nodeSelector"].clone()).unwrap_or_default(),
                tolerations: list(&spec["tolerations"]).map(toleration).collect(),
                ..Demand::default()
            },
            limits: total(spec, "limits"),
            broken_image: images.filter(|image| image.contains(BROKEN)).map(str::to_owned).next(),
            first_container: containers().next().and_then(|c| c["name"].as_str()).unwrap_or_default().to_owned(),
        }
    }
}

fn toleration(value: &Value) -> Toleration {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

/// Containers summed; an init container that asks for more than their sum decides.
fn total(spec: &Value, which: &str) -> Resources {
    let mut sum = Resources::default();
    for container in list(&spec["containers"]) {
        sum.add(&amounts(&container["resources"][which]), 1);
    }
    for container in list(&spec["initContainers"]) {
        for (name, amount) in amounts(&container["resources"][which]).0 {
            let slot = sum.0.entry(name).or_default();
            *slot = amount.max(*slot);
        }
    }
    sum
}

/// Unparsable quantities are refused by validation, so here they count as nothing.
pub fn amounts(list: &Value) -> Resources {
    let amount = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((name.clone(), Resources::amount_up(name, text.parse::<Quantity>().ok()?)))
    };
    Resources(list.as_object().into_iter().flatten().filter_map(amount).collect())
}

/// An amount in the words of the API server: `500m` and `2` for CPU, `512Mi` for memory.
pub fn quantity_text(name: &str, amount: i64) -> String {
    const STEPS: [(&str, i64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match name.trim_start_matches("requests.").trim_start_matches("limits.") {
        CPU if amount % 1000 != 0 => format!("{amount}m"),
        CPU => (amount / 1000).to_string(),
        MEMORY | "ephemeral-storage" | "storage" if amount > 0 => STEPS
            .iter()
            .find(|(_, size)| amount % size == 0)
            .map_or_else(|| amount.to_string(), |(suffix, size)| format!("{}{suffix}", amount / size)),
        _ => amount.to_string(),
    }
}

pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_the_sum_of_its_containers_or_for_its_largest_init_container() {
        let template = Template::of(&json!({"spec": {
            "containers": [
                {"name": "a", "image": "x", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}}},
                {"name": "b", "image": "x", "resources": {"requests": {"cpu": 1}}}],
            "initContainers": [{"name": "i", "image": "x", "resources": {"requests": {"memory": "1Gi"}}}]}}));
        assert_eq!(template.demand.requests, Resources::of([(CPU, 1250), (MEMORY, 1 << 30)]));
        assert_eq!(template.broken_image, None);
    }

    #[test]
    fn amounts_read_as_the_api_server_prints_them() {
        assert_eq!(quantity_text(CPU, 1500), "1500m");
        assert_eq!(quantity_text("requests.cpu", 2000), "2");
        assert_eq!(quantity_text(MEMORY, 3 << 29), "1536Mi");
        assert_eq!(quantity_text("pods", 3), "3");
    }
}
