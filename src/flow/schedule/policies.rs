//! Policies: what an Application's policies say of placement, read, and the components they are for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    expression::Expression,
    filter::Chosen,
    profile::{Found, Profiles},
    standing::Rules,
};
use crate::model::{
    application::{Mode, PlacementPolicy, Policy, Topology},
    profile::DEFAULT,
    revision::RenderedComponent,
};

/// How the components' replicas are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// One cluster for all of them.
    Single,
    /// Every target gets all of them in full.
    Duplicated,
    /// Each component's total is divided over the targets.
    Divided,
}

impl Spread {
    /// As a placement policy spells it, where it does.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "Single",
            Self::Duplicated => "Duplicated",
            Self::Divided => "Divided",
        }
    }
}

/// Components that are placed together, and what chooses their targets.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    pub spread: Spread,
    pub components: Vec<&'a RenderedComponent>,
    policy: Option<usize>,
}

/// The placement policies of an Application, read.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    topologies: Vec<Topology>,
    placements: Vec<PlacementPolicy>,
    /// What was read, as text: Applications of equal policies share what is derived of them.
    texts: Vec<String>,
}

impl Policies {
    /// Reads what concerns placement. The error says which policy cannot be read; admission refuses such ones first.
    pub fn read(policies: &[Policy]) -> Result<Self, String> {
        let mut read = Self::default();
        for policy in policies {
            let faulty = |error: serde_json::Error| format!("policy {:?} cannot be read: {error}", policy.name);
            match policy.type_.as_str() {
                "topology" => {
                    read.topologies.push(properties(&policy.properties).map_err(faulty)?);
                    // In front, so that the texts of the placements stay in their places.
                    read.texts.insert(read.topologies.len() - 1, policy.properties.to_string());
                }
                "placement" => {
                    read.placements.push(properties(&policy.properties).map_err(faulty)?);
                    read.texts.push(policy.properties.to_string());
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// Groups in the order in which they take room: what must fit whole first, what can be divided last.
    pub fn groups<'a>(&self, components: impl Iterator<Item = &'a RenderedComponent>) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for component in components {
            let (policy, spread) = self.spread(&component.name);
            match groups.iter_mut().find(|group| group.policy == policy && group.spread == spread) {
                Some(group) => group.components.push(component),
                None => groups.push(Group { spread, components: vec![component], policy }),
            }
        }
        groups.sort_by_key(|group| group.spread);
        groups
    }

    /// Components that go where others run: no placement policy is for them, they run nothing that is counted, and what
    /// others name is in them. Each with those others, in order of names.
    pub fn followers<'a>(&self, components: &'a [RenderedComponent]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        if components.iter().all(|component| component.references.is_empty()) {
            return BTreeMap::new();
        }
        let could = |component: &RenderedComponent| {
            component.demand.is_none() && component.replicas.is_none() && self.spread(&component.name).0.is_none()
        };
        let by_name: BTreeMap<&str, &RenderedComponent> =
            components.iter().map(|component| (component.name.as_str(), component)).collect();
        let mut naming: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for component in components {
            for named in &component.references {
                naming.entry(named).or_default().insert(&component.name);
            }
        }
        // One that follows another that follows goes where the first of them runs.
        let leaders = |component: &'a RenderedComponent| {
            let (mut leaders, mut seen) = (BTreeSet::new(), BTreeSet::new());
            let mut ask = vec![component.name.as_str()];
            while let Some(name) = ask.pop() {
                for &other in naming.get(name).into_iter().flatten().filter(|&&other| seen.insert(other)) {
                    let follows = by_name.get(other).is_some_and(|other| could(other)) && naming.contains_key(other);
                    match follows {
                        true => ask.push(other),
                        false => drop(leaders.insert(other)),
                    }
                }
            }
            leaders
        };
        let following = components.iter().filter(|component| could(component));
        following
            .map(|component| (component.name.as_str(), leaders(component)))
            .filter(|(_, leaders)| !leaders.is_empty())
            .collect()
    }

    /// The placement policy of a component, and how its replicas are meant.
    pub fn spread(&self, component: &str) -> (Option<usize>, Spread) {
        let names = |policy: &PlacementPolicy| {
            policy.components.is_empty() || policy.components.iter().any(|name| name == component)
        };
        let policy = self.placements.iter().position(names);
        let spread = match policy.map(|index| self.placements[index].mode) {
            Some(Mode::Divided) => Spread::Divided,
            Some(Mode::Duplicated) => Spread::Duplicated,
            None if self.topologies.is_empty() => Spread::Single,
            None => Spread::Duplicated,
        };
        (policy, spread)
    }

    pub fn of(&self, group: &Group<'_>) -> Option<&PlacementPolicy> {
        group.policy.map(|index| &self.placements[index])
    }

    /// Who may get a part of a group and who gets it first, and the text that this is known by.
    pub fn rules<'p>(
        &'p self,
        group: &Group<'_>,
        expression: Option<Arc<Result<Expression, String>>>,
        found: Option<Found<'p>>,
    ) -> (String, Rules<'p>) {
        let counts = group.components.iter().any(|component| component.demand.is_some());
        let topologies = self.texts[..self.topologies.len()].iter();
        let policy = group.policy.map(|index| &self.texts[self.topologies.len() + index]);
        let mut key = if counts { "+".to_owned() } else { "-".to_owned() };
        for (mark, text) in topologies.map(|text| ('t', text)).chain(policy.map(|text| ('p', text))) {
            key.push(mark);
            key.push_str(text);
        }
        if let Some(found) = found {
            key.push('f');
            key.push_str(found.text);
        }
        (key, Rules::new(&self.topologies, self.of(group), expression, found, counts))
    }

    /// The clusters that an Application's topologies choose.
    pub fn chosen(&self) -> Chosen<'_> {
        Chosen::new(&self.topologies, None)
    }

    /// Whether who is chosen for a component may depend on the room of clusters: by an expression, or by what a profile says.
    pub fn may_read_room(&self, component: &str, profiles: &Profiles) -> bool {
        let policy = self.spread(component).0.map(|index| &self.placements[index]);
        let profile = policy.and_then(|policy| policy.profile.as_deref());
        policy.is_some_and(|policy| policy.expression.is_some()) || !matches!(profiles.find(profile), Ok(None))
    }

    /// The profile that a group asks for by name.
    pub fn profile(&self, group: &Group<'_>) -> Option<&str> {
        self.of(group).and_then(|policy| policy.profile.as_deref())
    }

    /// Names of the profiles that components go by; that of those that ask for none included.
    pub fn profiles<'n>(&self, components: impl Iterator<Item = &'n str>) -> BTreeSet<&str> {
        let by = |name: &str| self.spread(name).0.and_then(|index| self.placements[index].profile.as_deref());
        components.map(|name| by(name).unwrap_or(DEFAULT)).collect()
    }

    /// Cluster names that the policies of this group ask for by name.
    pub fn named(&self, group: &Group<'_>) -> BTreeSet<&str> {
        let topologies = self.topologies.iter().flat_map(|topology| &topology.clusters);
        let by_policy = self.of(group).into_iter().flat_map(|policy| &policy.target.clusters);
        topologies.chain(by_policy).map(String::as_str).collect()
    }

    /// Whether finding no target at all is all right.
    pub fn allows_empty(&self) -> bool {
        self.topologies.iter().any(|topology| topology.allow_empty)
    }

    /// Whether nothing new is to be placed unless all of the Application is.
    pub fn all_or_nothing(&self) -> bool {
        self.placements.iter().any(|policy| policy.all_or_nothing)
    }
}

fn properties<T: DeserializeOwned>(properties: &Value) -> Result<T, serde_json::Error> {
    match properties {
        Value::Null => T::deserialize(&Value::Object(Default::default())),
        properties => T::deserialize(properties),
    }
}
