//! Profiles: what the platform has to say in placements, read into filters and scores.
//!
//! Owns: which profile a component goes by, and what of a profile can be carried out. Must never: switch off what decides
//! over membership, or let a profile that cannot be read be taken for one that says nothing.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use super::{
    expression::Expression,
    filter::{Filter, Headroom, Rule},
    score::{Balanced, InRange, LeastAllocated, MostAllocated, Score, Worth},
};
use crate::model::profile::{DEFAULT, FilterRule, ProfileSpec, ScoreRule};

/// Profiles by name.
#[derive(Debug, Clone, Default)]
pub struct Profiles(BTreeMap<String, Arc<Profile>>);

/// One profile, as stored and as read.
#[derive(Debug)]
pub struct Profile {
    /// Its `spec`.
    source: Value,
    /// Of `source`: those that read alike decide alike.
    text: String,
    read: Result<Platform, String>,
}

/// What a profile adds to the filters and scores of every Application.
#[derive(Debug)]
pub struct Platform {
    /// Whether taints count.
    pub taints: bool,
    pub filters: Vec<Arc<dyn Filter>>,
    pub scores: Vec<(Arc<dyn Score>, u32)>,
}

impl Profiles {
    pub fn insert(&mut self, name: &str, profile: Profile) {
        self.0.insert(name.to_owned(), Arc::new(profile));
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Name and `spec`, for keeping and reading again.
    pub fn sources(&self) -> BTreeMap<String, Value> {
        self.0.iter().map(|(name, profile)| (name.clone(), profile.source.clone())).collect()
    }

    pub fn of(sources: &BTreeMap<String, Value>) -> Self {
        Self(sources.iter().map(|(name, source)| (name.clone(), Arc::new(Profile::of(source)))).collect())
    }

    /// What a component goes by whose policy asks for `name`, with the text that it is known by; nothing where it asks for
    /// none and there is no default. The error says why nobody can tell.
    pub fn find(&self, name: Option<&str>) -> Result<Option<(&str, &Platform)>, String> {
        let asked = name.unwrap_or(DEFAULT);
        let Some(profile) = self.0.get(asked) else {
            return match name {
                Some(name) => Err(format!("there is no PlacementProfile {name:?}")),
                None => Ok(None),
            };
        };
        match &profile.read {
            Ok(platform) => Ok(Some((&profile.text, platform))),
            Err(fault) => Err(format!("the PlacementProfile {asked:?} cannot be carried out: {fault}")),
        }
    }
}

impl Profile {
    pub fn of(source: &Value) -> Self {
        // A list would pass for a map of whose fields none is given.
        let spec = match source.is_object() {
            true => ProfileSpec::deserialize(source).map_err(|error| error.to_string()),
            false => Err("its spec is no map".to_owned()),
        };
        let read = spec.and_then(|spec| Platform::read(&spec));
        Self { source: source.clone(), text: source.to_string(), read }
    }
}

impl Platform {
    fn read(spec: &ProfileSpec) -> Result<Self, String> {
        let mut platform = Self { taints: true, filters: Vec::new(), scores: Vec::new() };
        for rule in &spec.filters {
            match rule {
                FilterRule::Taints { enabled } => platform.taints = *enabled,
                FilterRule::Headroom { percent } => platform.filters.push(Arc::new(Headroom { percent: *percent })),
                FilterRule::Expression { expression, message } => {
                    let rule = Rule { expression: Expression::read(expression)?, message: message.clone() };
                    platform.filters.push(Arc::new(rule));
                }
            }
        }
        for rule in &spec.scores {
            let (score, weight): (Arc<dyn Score>, u32) = match rule {
                ScoreRule::Balanced { weight } => (Arc::new(Balanced), *weight),
                ScoreRule::LeastAllocated { weight } => (Arc::new(LeastAllocated), *weight),
                ScoreRule::MostAllocated { weight } => (Arc::new(MostAllocated), *weight),
                ScoreRule::Property { property, worst, best, weight } => {
                    (Arc::new(InRange { property: property.clone(), worst: *worst, best: *best }), *weight)
                }
                ScoreRule::Expression { expression, weight } => {
                    let worth = Arc::new(Worth(Expression::read(expression)?));
                    platform.filters.push(worth.clone());
                    (worth, *weight)
                }
            };
            platform.scores.push((score, weight));
        }
        Ok(platform)
    }
}
