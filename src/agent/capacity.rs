//! Nodes, pods and what bounds them, kept so that one change costs no look at the others.
//!
//! Owns: what the sketch and the reports need to know of pods. Must never: give a sketch before it has seen all nodes
//! and all pods; unknown is not empty (rule 15). Quotas and the like are another matter: an agent that may not read them
//! measures room without, as it did before it knew of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    agent::cluster::Capacity,
    flow::{measure, observe::Pods},
    model::{NodeFacts, ObjectRef, PodFacts, Resources, Sketch},
};

mod rules;
pub mod scalers;

use rules::Rules;
use scalers::Scalers;

type PodKey = (String, String);

#[derive(Debug, Default)]
pub struct Index {
    nodes: BTreeMap<String, NodeFacts>,
    pods: BTreeMap<PodKey, Slot>,
    /// By node: the requests of its unfinished pods, and how many they are.
    used: BTreeMap<String, (Resources, u32)>,
    workloads: BTreeMap<ObjectRef, Crew>,
    rules: Rules,
    pub scalers: Scalers,
    /// Labels of nodes that placement may ask for beside those that everybody knows.
    declared: BTreeSet<String>,
    nodes_known: bool,
    pods_known: bool,
}

/// A pod, as far as it is still needed.
#[derive(Debug, PartialEq)]
struct Slot {
    node: String,
    requests: Resources,
    /// Bound and not finished: it holds room.
    bound: bool,
    workload: Option<ObjectRef>,
    trouble: Option<String>,
}

/// The pods of one workload.
#[derive(Debug, Default)]
struct Crew {
    bound: u32,
    /// What the bound ones ask for.
    held: Resources,
    troubled: BTreeMap<PodKey, String>,
    pods: u32,
}

/// What a change touched.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The sketch may be another.
    pub room: bool,
    pub workloads: BTreeSet<ObjectRef>,
    /// Workloads whose replicas have become the member's, or ours again.
    pub scaled: BTreeSet<scalers::Target>,
}

impl Index {
    pub fn new(declared: BTreeSet<String>) -> Self {
        Self { declared, ..Self::default() }
    }

    pub fn apply(&mut self, change: Capacity) -> Touched {
        let mut touched = Touched::default();
        match change {
            Capacity::NodesReset(nodes) => {
                let nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
                touched.room = !self.nodes_known || self.nodes != nodes;
                (self.nodes, self.nodes_known) = (nodes, true);
            }
            Capacity::Node(node) => {
                touched.room = self.nodes.get(&node.name) != Some(&node);
                self.nodes.insert(node.name.clone(), node);
            }
            Capacity::NodeGone(name) => touched.room = self.nodes.remove(&name).is_some(),
            Capacity::PodsReset(pods) => {
                let listed: BTreeSet<PodKey> = pods.iter().map(key_of).collect();
                let gone: Vec<PodKey> = self.pods.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                gone.into_iter().for_each(|key| self.replace(key, None, &mut touched));
                pods.into_iter().for_each(|pod| self.replace(key_of(&pod), Some(slot(pod)), &mut touched));
                touched.room |= !self.pods_known;
                self.pods_known = true;
            }
            Capacity::Pod(pod) => self.replace(key_of(&pod), Some(slot(pod)), &mut touched),
            Capacity::PodGone { namespace, name } => self.replace((namespace, name), None, &mut touched),
            Capacity::RulesReset(kind, rules) => touched.room = self.rules.reset(kind, rules),
            Capacity::Rule(kind, rule) => touched.room = self.rules.put(kind, rule),
            Capacity::ScalersReset(scalers) => touched.scaled = self.scalers.reset(scalers),
            Capacity::Scaler(scaler) => touched.scaled = self.scalers.put(scaler),
            Capacity::ScalerGone { namespace, name } => touched.scaled = self.scalers.remove(namespace, name),
            Capacity::RuleGone(kind, namespace, name) => touched.room = self.rules.remove((kind, namespace, name)),
        }
        touched
    }

    fn replace(&mut self, key: PodKey, new: Option<Slot>, touched: &mut Touched) {
        let old = self.pods.remove(&key);
        if old != new {
            if let Some(old) = &old {
                self.count(&key, old, false, touched);
            }
            if let Some(new) = &new {
                self.count(&key, new, true, touched);
            }
        }
        if let Some(new) = new {
            self.pods.insert(key, new);
        }
    }

    /// Adds a pod to the sums, or takes it out.
    fn count(&mut self, key: &PodKey, slot: &Slot, joins: bool, touched: &mut Touched) {
        if slot.bound {
            touched.room = true;
            let (used, pods) = self.used.entry(slot.node.clone()).or_default();
            used.add(&slot.requests, if joins { 1 } else { -1 });
            *pods = if joins { *pods + 1 } else { pods.saturating_sub(1) };
            if *pods == 0 {
                self.used.remove(&slot.node);
            }
        }
        let Some(workload) = &slot.workload else { return };
        touched.workloads.insert(workload.clone());
        let crew = self.workloads.entry(workload.clone()).or_default();
        let bound = u32::from(slot.bound);
        if slot.bound {
            crew.held.add(&slot.requests, if joins { 1 } else { -1 });
        }
        (crew.pods, crew.bound) = match joins {
            true => (crew.pods + 1, crew.bound + bound),
            false => (crew.pods.saturating_sub(1), crew.bound.saturating_sub(bound)),
        };
        match &slot.trouble {
            Some(trouble) if joins => crew.troubled.insert(key.clone(), trouble.clone()),
            _ => crew.troubled.remove(key),
        };
        if crew.pods == 0 {
            self.workloads.remove(workload);
        }
    }

    pub fn pods_of(&self, workload: &ObjectRef) -> Pods {
        let scaled = self.scalers.scales(workload) == Some(true);
        let crew = self.workloads.get(workload);
        let trouble = |crew: &Crew| crew.troubled.values().next().cloned();
        Pods {
            bound: crew.map_or(0, |crew| crew.bound),
            held: crew.map(|crew| crew.held.clone()).unwrap_or_default(),
            trouble: crew.and_then(trouble),
            scaled,
        }
    }

    pub fn nodes(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// `None` until all nodes and all pods were seen once. Of the namespaces, those that are `hosted` come first where
    /// there are more than can be told.
    pub fn sketch(&self, hosted: &BTreeSet<&str>) -> Option<Sketch> {
        if !self.nodes_known || !self.pods_known {
            return None;
        }
        let nothing = (Resources::default(), 0);
        let used = |node: &NodeFacts| self.used.get(&node.name).unwrap_or(&nothing);
        let nodes = self.nodes.values().map(|node| (node, &used(node).0, used(node).1));
        let sketch = measure::sketch(nodes, &self.declared);
        Some(Sketch { namespaces: self.rules.told(hosted), ..sketch })
    }
}

fn key_of(pod: &PodFacts) -> PodKey {
    (pod.namespace.clone(), pod.name.clone())
}

fn slot(pod: PodFacts) -> Slot {
    let bound = !pod.node.is_empty() && !pod.finished;
    Slot { bound, node: pod.node, requests: pod.requests, workload: pod.workload, trouble: pod.trouble }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GroupVersionKind, ObjectName};

    fn web() -> ObjectRef {
        ObjectRef { gvk: GroupVersionKind::new("apps", "v1", "Deployment"), name: ObjectName::new("shop", "web") }
    }

    fn pod(name: &str, node: &str, trouble: Option<&str>) -> PodFacts {
        PodFacts {
            namespace: "shop".into(),
            name: name.into(),
            node: node.into(),
            requests: Resources::of([("cpu", 100)]),
            workload: Some(web()),
            trouble: trouble.map(str::to_owned),
            ..PodFacts::default()
        }
    }

    fn node(name: &str) -> NodeFacts {
        let allocatable = Resources::of([("cpu", 1000), ("pods", 10)]);
        NodeFacts { name: name.into(), allocatable, schedulable: true, ..NodeFacts::default() }
    }

    #[test]
    fn there_is_no_sketch_before_all_nodes_and_pods_were_seen() {
        let mut index = Index::default();
        index.apply(Capacity::Node(node("n1")));
        assert_eq!(index.sketch(&BTreeSet::new()), None);
        index.apply(Capacity::NodesReset(vec![node("n1")]));
        assert_eq!(index.sketch(&BTreeSet::new()), None);
        assert!(index.apply(Capacity::PodsReset(vec![])).room);
        assert!(index.sketch(&BTreeSet::new()).is_some());
    }

    #[test]
    fn sums_follow_every_change_of_a_pod() {
        let mut index = Index::default();
        index.apply(Capacity::NodesReset(vec![node("n1")]));
        index.apply(Capacity::PodsReset(vec![pod("a", "n1", None), pod("b", "", Some("FailedScheduling: no room"))]));
        assert_eq!(
            index.pods_of(&web()),
            Pods {
                bound: 1,
                held: Resources::of([("cpu", 100)]),
                trouble: Some("FailedScheduling: no room".into()),
                scaled: false
            }
        );
        let touched = index.apply(Capacity::Pod(pod("b", "n1", None)));
        assert!(touched.room && touched.workloads.contains(&web()));
        assert_eq!(index.pods_of(&web()), Pods { bound: 2, held: Resources::of([("cpu", 200)]), ..Pods::default() });
        assert_eq!(index.used["n1"], (Resources::of([("cpu", 200)]), 2));
        assert_eq!(index.apply(Capacity::Pod(pod("b", "n1", None))), Touched::default(), "nothing changed");
        index.apply(Capacity::Pod(PodFacts { finished: true, ..pod("b", "n1", None) }));
        assert_eq!(index.used["n1"], (Resources::of([("cpu", 100)]), 1));
        index.apply(Capacity::PodsReset(vec![pod("b", "n1", None)]));
        assert_eq!(index.used["n1"].1, 1, "a is gone, b runs");
        index.apply(Capacity::PodGone { namespace: "shop".into(), name: "b".into() });
        assert!(index.used.is_empty() && index.workloads.is_empty() && index.pods.is_empty());
    }
}
