//! Change: one thing that a person could change so that more is placed, as a value that can be said and tried.
//!
//! Must never: stay applied. A trial puts the fleet back as it was.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Candidate, Fleet, Problem, Solution, policies::Policies, solve_telling};
use crate::model::{
    Policy, Resources, Uid,
    application::{PlacementPolicy, Topology},
    cluster::TaintEffect,
    revision::RenderedComponent,
    selector::{LabelSelector, Operator},
};

/// The stable words of hints; fields are only ever added. Clusters are named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "change", rename_all_fields = "camelCase")]
pub enum Change {
    /// `limits[rule].max`, by which `clusters` take more.
    RaiseMaximum { rule: usize, from: u32, to: u32, clusters: Vec<String> },
    /// `limits[rule].min`.
    LowerMinimum { rule: usize, from: u32, to: u32 },
    /// A field of `spreadConstraints[constraint]`.
    Spread { constraint: usize, by: String, bound: Bound, from: u32, to: u32 },
    /// `maxMoves`.
    RaiseMoves { from: u32, to: u32 },
    /// So many replicas more have room in the cluster. `lacks`: what the node that comes nearest lacks for the next one.
    AddRoom { cluster: String, replicas: u32, each: Resources, lacks: Resources },
    /// `spec.unschedulable` of the cluster.
    Uncordon { cluster: String },
    /// `spec.accepted` of the cluster.
    Accept { cluster: String },
    /// Its agent is heard again, with the room that it told of last.
    Reconnect { cluster: String },
    /// The taints go, or the policy tolerates them.
    Untaint { cluster: String, taints: Vec<String> },
    /// The cluster gets labels that the policies select.
    Label { cluster: String, labels: BTreeMap<String, String> },
    /// The policies name the cluster.
    Name { cluster: String },
    /// The policy gives it a weight.
    Weigh { cluster: String, weight: u32 },
    /// The Application asks for fewer.
    FewerReplicas { from: u32, to: u32 },
}

/// Which number of a spread constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    MinGroups,
    MaxGroups,
    MaxSkew,
}

impl Bound {
    pub fn name(self) -> &'static str {
        match self {
            Self::MinGroups => "minGroups",
            Self::MaxGroups => "maxGroups",
            Self::MaxSkew => "maxSkew",
        }
    }
}

/// In the words that go before "would place".
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RaiseMaximum { rule, from, to, clusters } => {
                write!(f, "raising limits[{rule}].max from {from} to {to} (of {})", some(clusters))
            }
            Self::LowerMinimum { rule, from, to } => write!(f, "lowering limits[{rule}].min from {from} to {to}"),
            Self::Spread { constraint, by, bound, from, to } => {
                let how = if to > from { "raising" } else { "lowering" };
                write!(f, "{how} spreadConstraints[{constraint}].{} over {by} from {from} to {to}", bound.name())
            }
            Self::RaiseMoves { from, to } => write!(f, "raising maxMoves from {from} to {to}"),
            Self::AddRoom { cluster, replicas, each, lacks } => {
                write!(f, "room for {replicas} more in {cluster} ({each} each")?;
                match lacks.is_empty() {
                    true => write!(f, ")"),
                    false => write!(f, "; the next one lacks {lacks} on a node)"),
                }
            }
            Self::Uncordon { cluster } => write!(f, "uncordoning {cluster}"),
            Self::Accept { cluster } => write!(f, "accepting {cluster}"),
            Self::Reconnect { cluster } => write!(f, "hearing of {cluster} again"),
            Self::Untaint { cluster, taints } => {
                write!(f, "tolerating, or taking off, the taint {} of {cluster}", taints.join(" and "))
            }
            Self::Label { cluster, labels } => {
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(f, "labelling {cluster} {}", labels.join(" "))
            }
            Self::Name { cluster } => write!(f, "naming {cluster} in the policies"),
            Self::Weigh { cluster, weight } => write!(f, "giving {cluster} the weight {weight}"),
            Self::FewerReplicas { from, to } => write!(f, "asking for {to} replicas instead of {from}"),
        }
    }
}

const NAMED_MAX: usize = 3;

fn some(names: &[String]) -> String {
    match names.len() {
        0..=NAMED_MAX => names.join(", "),
        all => format!("{} and {} others", names[..NAMED_MAX].join(", "), all - NAMED_MAX),
    }
}

/// A problem with one thing changed.
struct Trial {
    policies: Vec<Policy>,
    components: Vec<RenderedComponent>,
    cluster: Option<(Uid, Candidate)>,
}

impl Change {
    /// Decides with the change, which is about this component. `None` where it cannot be made. The fleet is as before then.
    pub fn solve(&self, fleet: &mut Fleet, problem: &Problem<'_>, component: &str) -> Option<Solution> {
        let trial = self.apply(fleet, problem, component)?;
        let swapped = trial.cluster.and_then(|(uid, candidate)| {
            let before = fleet.get(&uid).cloned()?;
            fleet.upsert(&uid, candidate);
            Some((uid, before))
        });
        let changed = Problem { policies: &trial.policies, components: &trial.components, ..*problem };
        let solution = solve_telling(fleet, &changed, 0);
        if let Some((uid, before)) = swapped {
            fleet.upsert(&uid, before);
        }
        Some(solution)
    }

    fn apply(&self, fleet: &Fleet, problem: &Problem<'_>, component: &str) -> Option<Trial> {
        let mut trial =
            Trial { policies: problem.policies.to_vec(), components: problem.components.to_vec(), cluster: None };
        let at = trial.components.iter().position(|known| known.name == component)?;
        let properties = place_of(problem.policies, component).map(|place| &mut trial.policies[place].properties);
        match self {
            Self::RaiseMaximum { rule, to, .. } => properties?["limits"][*rule]["max"] = json!(to),
            Self::LowerMinimum { rule, to, .. } => properties?["limits"][*rule]["min"] = json!(to),
            Self::Spread { constraint, bound, to, .. } => {
                properties?["spreadConstraints"][*constraint][bound.name()] = json!(to);
            }
            Self::RaiseMoves { to, .. } => properties?["maxMoves"] = json!(to),
            Self::FewerReplicas { to, .. } => trial.components[at].replicas.as_mut()?.count = *to,
            Self::Weigh { cluster, weight } => {
                let weights = properties?["weights"].as_array_mut()?;
                weights.insert(0, json!({"clusters": [cluster], "weight": weight}));
            }
            Self::Name { cluster } => name(&mut trial.policies, problem.policies, component, cluster)?,
            Self::AddRoom { cluster, .. }
            | Self::Uncordon { cluster }
            | Self::Accept { cluster }
            | Self::Reconnect { cluster }
            | Self::Untaint { cluster, .. }
            | Self::Label { cluster, .. } => {
                let id = fleet.named(cluster)?;
                let mut candidate = fleet.at(id).clone();
                self.alter(&mut candidate, &trial.components[at])?;
                trial.cluster = Some((fleet.uid(id).clone(), candidate));
            }
        }
        Some(trial)
    }

    fn alter(&self, candidate: &mut Candidate, component: &RenderedComponent) -> Option<()> {
        match self {
            Self::AddRoom { replicas, .. } => {
                let room = candidate.room.as_ref()?.grown(component.demand.as_ref()?, *replicas)?;
                candidate.room = Some(room);
            }
            Self::Uncordon { .. } => candidate.cordoned = false,
            Self::Accept { .. } => candidate.accepted = true,
            Self::Reconnect { .. } => candidate.silent = false,
            Self::Untaint { .. } => candidate.taints.retain(|taint| taint.effect == TaintEffect::PreferNoSchedule),
            Self::Label { labels, .. } => candidate.labels.extend(labels.clone()),
            _ => return None,
        }
        Some(())
    }
}

/// Where among the policies the placement policy of a component stands.
fn place_of(policies: &[Policy], component: &str) -> Option<usize> {
    let (number, _) = Policies::read(policies).ok()?.spread(component);
    let placements = policies.iter().enumerate().filter(|(_, policy)| policy.type_ == "placement");
    placements.map(|(place, _)| place).nth(number?)
}

/// The placement policy of a component, read.
pub fn policy_of(policies: &[Policy], component: &str) -> Option<PlacementPolicy> {
    let place = place_of(policies, component)?;
    serde_json::from_value(policies[place].properties.clone()).ok()
}

fn topologies(policies: &[Policy]) -> impl Iterator<Item = (usize, Topology)> {
    let read = |(place, policy): (usize, &Policy)| {
        let topology = serde_json::from_value(policy.properties.clone()).ok()?;
        (policy.type_ == "topology").then_some((place, topology))
    };
    policies.iter().enumerate().filter_map(read)
}

/// Adds the cluster to every list of names that keeps it out.
fn name(changed: &mut [Policy], policies: &[Policy], component: &str, cluster: &str) -> Option<()> {
    let add = |properties: &mut Value| {
        properties["clusters"].as_array_mut()?.push(json!(cluster));
        Some(())
    };
    let lacks = |names: &[String]| !names.is_empty() && names.iter().all(|name| name != cluster);
    if let Some(place) = place_of(policies, component)
        && policy_of(policies, component).is_some_and(|policy| lacks(&policy.target.clusters))
    {
        add(&mut changed[place].properties)?;
    }
    let listing = |(_, topology): &(usize, Topology)| !topology.clusters.is_empty();
    if let Some((place, topology)) = topologies(policies).find(listing)
        && lacks(&topology.clusters)
    {
        add(&mut changed[place].properties)?;
    }
    Some(())
}

/// Labels that a cluster would have to get so that the policies of a component select it; `None` where labels alone
/// cannot do it.
pub fn labels_for(policies: &[Policy], component: &str, cluster: &Candidate) -> Option<BTreeMap<String, String>> {
    let mut wanted = BTreeMap::new();
    let mut add = |selector: &LabelSelector| {
        wanted.extend(selector.match_labels.clone());
        for asked in &selector.match_expressions {
            match (asked.operator, asked.values.first()) {
                _ if asked.matches(&cluster.labels) => {}
                (Operator::In, Some(value)) => drop(wanted.insert(asked.key.clone(), value.clone())),
                _ => return None,
            }
        }
        Some(())
    };
    if let Some(selector) = policy_of(policies, component).and_then(|policy| policy.target.cluster_selector) {
        add(&selector)?;
    }
    if let Some((_, topology)) = topologies(policies).next()
        && let Some(labels) = topology.cluster_label_selector
    {
        add(&LabelSelector { match_labels: labels, match_expressions: Vec::new() })?;
    }
    wanted.retain(|key, value| cluster.labels.get(key) != Some(value));
    (!wanted.is_empty()).then_some(wanted)
}
