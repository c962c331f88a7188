//! ResourceQuota: how many pods and how much CPU and memory a namespace may ask for.

use serde_json::Value;

use super::template::{Template, amounts, quantity_text};
use crate::model::{
    Resources,
    quantity::{CPU, MEMORY},
};

/// What one pod counts against a quota, by the names quotas use.
pub fn charge(template: &Template) -> Resources {
    let mut charge = Resources::of([("pods", 1), ("count/pods", 1)]);
    for resource in [CPU, MEMORY] {
        let requested = template.demand.requests.get(resource);
        charge.0.insert(resource.into(), requested);
        charge.0.insert(format!("requests.{resource}"), requested);
        charge.0.insert(format!("limits.{resource}"), template.limits.get(resource));
    }
    charge
}

/// A quota's limits, from the ResourceQuota object. CPU is in thousandths under all of its names.
pub fn hard(quota: &Value) -> Resources {
    let hard = &quota["spec"]["hard"];
    let mut limits = amounts(hard);
    for name in ["requests.cpu", "limits.cpu"] {
        if let Some(value) = hard.get(name) {
            limits.0.insert(name.into(), amounts(&serde_json::json!({ CPU: value })).get(CPU));
        }
    }
    limits
}

/// The API server's words where one more pod would exceed the quota.
pub fn refusal(quota: &str, hard: &Resources, used: &Resources, pod: &str, template: &Template) -> Option<String> {
    let asked = charge(template);
    let silent = |name: &&String| name.as_str() != "pods" && asked.0.get(*name) == Some(&0);
    let unnamed = hard.0.keys().filter(silent).map(String::as_str).collect::<Vec<_>>();
    if !unnamed.is_empty() {
        let container = &template.first_container;
        let what = unnamed.iter().map(|name| format!("{name} for: {container}")).collect::<Vec<_>>().join("; ");
        return Some(format!("pods {pod:?} is forbidden: failed quota: {quota}: must specify {what}"));
    }
    let exceeds =
        |(name, limit): &(&String, &i64)| asked.0.get(*name).is_some_and(|asked| used.get(name) + asked > **limit);
    let exceeded = hard.0.iter().filter(exceeds).map(|(name, _)| name).collect::<Vec<_>>();
    if exceeded.is_empty() {
        return None;
    }
    let words = |of: &Resources| {
        let each = exceeded.iter().map(|name| format!("{name}={}", quantity_text(name, of.get(name))));
        each.collect::<Vec<_>>().join(",")
    };
    Some(format!(
        "pods {pod:?} is forbidden: exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
        words(&asked),
        words(used),
        words(hard)
    ))
}
