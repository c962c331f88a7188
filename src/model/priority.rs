//! Priority classes: who is placed first where there is not room for all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::application::Policy;

/// As in Kubernetes, where higher ones are the system's own.
pub const VALUE_MAX: i64 = 1_000_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PriorityClass {
    pub value: i32,
    pub global_default: bool,
    pub preemption_policy: PreemptionPolicy,
}

/// Whether Applications of a class take room from those of lower ones. As in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PreemptionPolicy {
    Never,
    #[default]
    PreemptLowerPriority,
}

/// All there are, by name.
#[derive(Debug, Clone, Default)]
pub struct PriorityClasses(pub BTreeMap<String, PriorityClass>);

/// Names that the placement policies of an Application give.
pub fn named(policies: &[Policy]) -> impl Iterator<Item = &str> {
    let placements = policies.iter().filter(|policy| policy.type_ == "placement");
    placements.filter_map(|policy| policy.properties.get("priorityClassName")?.as_str())
}

impl PriorityClasses {
    /// Of an Application with these policies: the highest that they name and that is there, else the default one's, else 0.
    pub fn of(&self, policies: &[Policy]) -> i32 {
        self.class_of(policies).map_or(0, |class| class.value)
    }

    /// Whether an Application with these policies takes room from those of lower priority.
    pub fn preempts(&self, policies: &[Policy]) -> bool {
        let policy = self.class_of(policies).map(|class| class.preemption_policy).unwrap_or_default();
        policy == PreemptionPolicy::PreemptLowerPriority
    }

    fn class_of(&self, policies: &[Policy]) -> Option<&PriorityClass> {
        let known = named(policies).filter_map(|name| self.0.get(name)).max_by_key(|class| class.value);
        // As in Kubernetes: of several defaults the one with the lowest value.
        let default = || self.0.values().filter(|class| class.global_default).min_by_key(|class| class.value);
        known.or_else(default)
    }

    /// A class that they name, and that is not there.
    pub fn missing<'p>(&self, policies: &'p [Policy]) -> Option<&'p str> {
        named(policies).find(|name| !self.0.contains_key(*name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_highest_class_that_is_named_counts_and_else_the_lowest_default() {
        let class =
            |value: i32, global_default: bool| PriorityClass { value, global_default, ..PriorityClass::default() };
        let all = [
            ("high", class(100, false)),
            ("low", class(-5, false)),
            ("usual", class(10, true)),
            ("odd", class(20, true)),
        ];
        let classes = PriorityClasses(all.map(|(name, class)| (name.to_owned(), class)).into());
        let policies = |names: &[Option<&str>]| -> Vec<Policy> {
            let policy = |name: &Option<&str>| {
                let properties = name.map_or_else(|| json!({}), |name| json!({"priorityClassName": name}));
                json!({"name": "p", "type": "placement", "properties": properties})
            };
            serde_json::from_value(Value::Array(names.iter().map(policy).collect())).expect("policies")
        };
        let of = |names: &[Option<&str>]| {
            (classes.of(&policies(names)), classes.missing(&policies(names)).map(str::to_owned))
        };
        assert_eq!(of(&[]), (10, None));
        assert_eq!(of(&[None]), (10, None));
        assert_eq!(of(&[Some("low")]), (-5, None));
        assert_eq!(of(&[Some("low"), Some("high")]), (100, None));
        assert_eq!(of(&[Some("gone")]), (10, Some("gone".into())));
        assert_eq!(of(&[Some("gone"), Some("low")]), (-5, Some("gone".into())));
        assert_eq!(PriorityClasses::default().of(&[]), 0);
    }
}
