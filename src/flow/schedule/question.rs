//! Questions: what plug-ins are asked before a decision. Their answers are inputs of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Candidate, Fleet, Profiles, policies::Policies};
use crate::model::{
    ObjectName, Placement, Policy, Resources, Uid,
    cluster::Property,
    plugin::{ClusterFacts, Part, Question},
    profile::PluginRule,
    quantity::{CPU, MEMORY, PODS},
    revision::RenderedComponent,
};

/// One question to the plug-in of one profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub profile: String,
    pub plugin: PluginRule,
    pub question: Question,
}

/// What has to be asked before these components are placed, by profile.
pub fn questions(
    fleet: &Fleet,
    profiles: &Profiles,
    application: &ObjectName,
    (policies, components): (&[Policy], &[RenderedComponent]),
    previous: Option<&Placement>,
) -> Vec<Ask> {
    // Unreadable policies decide nothing, so nobody is asked.
    let Ok(policies) = Policies::read(policies) else { return Vec::new() };
    let mut parts: BTreeMap<&str, Vec<Part>> = BTreeMap::new();
    for component in components {
        let demand = component.demand.as_ref();
        let part = Part {
            component: component.name.clone(),
            replicas: component.replicas.as_ref().map(|replicas| replicas.count),
            requests: demand.map(|demand| demand.requests.clone()).unwrap_or_default(),
        };
        for profile in policies.profiles(std::iter::once(component.name.as_str())) {
            parts.entry(profile).or_default().push(part.clone());
        }
    }
    let rows = previous.iter().flat_map(|placement| &placement.rows).filter(|row| !row.components.is_empty());
    let homes: BTreeSet<&Uid> = rows.map(|row| &row.cluster).collect();
    let ask = |(profile, parts): (&str, Vec<Part>)| {
        let plugin = profiles.plugin(profile)?.clone();
        let names: BTreeSet<&str> = [CPU, MEMORY, PODS]
            .into_iter()
            .chain(parts.iter().flat_map(|part| part.requests.0.keys().map(|name| &**name)))
            .collect();
        let asked = fleet.iter().filter(|(_, cluster)| cluster.accepted && !cluster.deleting);
        let mut clusters: Vec<_> =
            asked.map(|(uid, cluster)| facts(uid, cluster, &names, homes.contains(uid))).collect();
        clusters.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
        let question = Question { application: application.clone(), parts, clusters };
        Some(Ask { profile: profile.to_owned(), plugin, question })
    };
    parts.into_iter().filter_map(ask).collect()
}

fn facts(uid: &Uid, cluster: &Candidate, resources: &BTreeSet<&str>, runs: bool) -> ClusterFacts {
    let text = |property: &Property| match property {
        Property::Integer(number) => number.to_string(),
        Property::Text(text) => text.clone(),
    };
    let amounts = |amount: &dyn Fn(&str) -> i64| {
        let all = resources.iter().map(|name| ((*name).to_owned(), amount(name)));
        Resources(all.filter(|(_, amount)| *amount > 0).collect())
    };
    let room = cluster.room.as_ref();
    ClusterFacts {
        uid: uid.clone(),
        name: cluster.name.clone(),
        labels: cluster.labels.clone(),
        properties: cluster.properties.iter().map(|(name, property)| (name.clone(), text(property))).collect(),
        free: amounts(&|name| room.map_or(0, |room| room.free(name))),
        allocatable: amounts(&|name| room.map_or(0, |room| room.allocatable(name))),
        runs,
    }
}
