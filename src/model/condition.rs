//! Conditions as kstatus and KubeVela's clients read them.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: Truth,
    /// A stable CamelCase word; scripts match on it.
    pub reason: String,
    #[serde(default)]
    pub message: String,
    pub last_transition_time: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// A set of conditions, one per type, in order of type.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(pub Vec<Condition>);

impl Conditions {
    pub fn get(&self, type_: &str) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.type_ == type_)
    }

    pub fn is_true(&self, type_: &str) -> bool {
        self.get(type_).is_some_and(|condition| condition.status == Truth::True)
    }

    /// Sets one condition. The transition time changes only when the status does, so that an unchanged fact is an
    /// unchanged value and writes nothing (rule 13).
    pub fn set(&mut self, mut condition: Condition) {
        match self.0.binary_search_by(|probe| probe.type_.cmp(&condition.type_)) {
            Ok(index) => {
                if self.0[index].status == condition.status {
                    condition.last_transition_time = self.0[index].last_transition_time;
                }
                self.0[index] = condition;
            }
            Err(index) => self.0.insert(index, condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: Truth, reason: &str, at: i64) -> Condition {
        Condition {
            type_: "Ready".into(),
            status,
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Timestamp::from_seconds(at),
            observed_generation: None,
        }
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut conditions = Conditions::default();
        conditions.set(ready(Truth::False, "Starting", 1));
        conditions.set(ready(Truth::False, "Applying", 2));
        assert_eq!(conditions.0, [ready(Truth::False, "Applying", 1)]);
        conditions.set(ready(Truth::True, "Healthy", 3));
        assert_eq!(conditions.0, [ready(Truth::True, "Healthy", 3)]);
    }
}
