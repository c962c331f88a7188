//! Profiles: what the platform has to say in placements, read into filters and scores.
//!
//! Owns: which profile a component goes by, and what of a profile can be carried out. Must never: switch off what decides
//! over membership, or let a profile that cannot be read be taken for one that says nothing.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use super::{
    expression::Expression,
    filter::{Asked, Filter, Headroom, Rule},
    score::{Balanced, InRange, LeastAllocated, MostAllocated, Score, Worth},
};
use crate::model::{
    plugin::Answered,
    profile::{DEFAULT, FailurePolicy, FilterRule, PluginRule, ProfileSpec, ScoreRule},
};

/// Profiles by name, and what their plug-ins answered.
#[derive(Debug, Clone, Default)]
pub struct Profiles {
    known: BTreeMap<String, Arc<Profile>>,
    answers: BTreeMap<String, Answered>,
}

/// What a component goes by.
#[derive(Debug, Clone, Copy)]
pub struct Found<'p> {
    /// Those that read alike decide alike, as long as no plug-in is asked.
    pub text: &'p str,
    pub platform: &'p Platform,
    /// What the plug-in said, and the weight of it.
    pub judged: Option<(Asked<'p>, u32)>,
}

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
    plugin: Option<PluginRule>,
}

impl Profiles {
    pub fn insert(&mut self, name: &str, profile: Profile) {
        self.known.insert(name.to_owned(), Arc::new(profile));
    }

    pub fn remove(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// With what the plug-ins answered, by profile.
    pub fn with(&self, answers: BTreeMap<String, Answered>) -> Self {
        Self { known: self.known.clone(), answers }
    }

    pub fn answers(&self) -> &BTreeMap<String, Answered> {
        &self.answers
    }

    /// Name and `spec`, for keeping and reading again.
    pub fn sources(&self) -> BTreeMap<String, Value> {
        self.known.iter().map(|(name, profile)| (name.clone(), profile.source.clone())).collect()
    }

    pub fn of(sources: &BTreeMap<String, Value>) -> Self {
        let known = sources.iter().map(|(name, source)| (name.clone(), Arc::new(Profile::of(source)))).collect();
        Self { known, answers: BTreeMap::new() }
    }

    pub fn have_plugins(&self) -> bool {
        self.known.keys().any(|name| self.plugin(name).is_some())
    }

    /// The plug-in that a profile asks.
    pub fn plugin(&self, name: &str) -> Option<&PluginRule> {
        self.known.get(name)?.read.as_ref().ok()?.plugin.as_ref()
    }

    /// What a component goes by whose policy asks for `name`; nothing where it asks for none and there is no default. The
    /// error says why nobody can tell.
    pub fn find(&self, name: Option<&str>) -> Result<Option<Found<'_>>, String> {
        let asked = name.unwrap_or(DEFAULT);
        let Some(profile) = self.known.get(asked) else {
            return match name {
                Some(name) => Err(format!("there is no PlacementProfile {name:?}")),
                None => Ok(None),
            };
        };
        let faulty = |fault: &String| format!("the PlacementProfile {asked:?} cannot be carried out: {fault}");
        let platform = profile.read.as_ref().map_err(faulty)?;
        let mut found = Found { text: &profile.text, platform, judged: None };
        if let Some(plugin) = &platform.plugin {
            let failed = |why: &str| format!("the plug-in of the PlacementProfile {asked:?} gave no answer: {why}");
            match (self.answers.get(asked), plugin.failure_policy) {
                (Some(Answered::Judged(judgements)), _) => found.judged = Some((Asked(judgements), plugin.weight)),
                (_, FailurePolicy::Ignore) => {}
                (Some(Answered::Failed(why)), FailurePolicy::Keep) => return Err(failed(why)),
                (None, FailurePolicy::Keep) => return Err(failed("it was not asked")),
            }
        }
        Ok(Some(found))
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
        let mut platform = Self { taints: true, filters: Vec::new(), scores: Vec::new(), plugin: spec.plugin.clone() };
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
