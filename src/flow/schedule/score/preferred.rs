//! A preference of a placement policy: a number that a cluster says of itself, as it says it.

use super::{Score, View};
use crate::{
    flow::schedule::fleet::Candidate,
    model::{
        application::{Preference, PreferenceOrder},
        cluster::Property,
    },
};

#[derive(Debug)]
pub struct Preferred<'p>(pub &'p Preference);

impl Score for Preferred<'_> {
    fn of(&self, view: &View<'_>) -> Option<i64> {
        let worth = number(view.cluster, &self.0.by)?.saturating_mul(self.0.weight.into());
        Some(match self.0.order {
            PreferenceOrder::Lowest => worth.saturating_neg(),
            PreferenceOrder::Highest => worth,
        })
    }
}

/// Among its properties, else its labels.
pub fn number(cluster: &Candidate, name: &str) -> Option<i64> {
    match cluster.properties.get(name) {
        Some(Property::Integer(number)) => Some(*number),
        Some(Property::Text(text)) => text.parse().ok(),
        None => cluster.labels.get(name)?.parse().ok(),
    }
}
