//! Scalers: which workloads have their replicas set by an autoscaler of the member.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ObjectRef, node::ScalerFacts};

type Key = (String, String);
/// Kinds are compared without their version: an autoscaler may speak of another than the manifest.
pub type Target = (String, String, String, String);

#[derive(Debug, Default)]
pub struct Scalers {
    /// Namespace and name of an autoscaler → what it scales.
    targets: BTreeMap<Key, Target>,
    known: bool,
}

impl Scalers {
    /// Absent until the autoscalers were seen once, or where this agent may not see them.
    pub fn scales(&self, workload: &ObjectRef) -> Option<bool> {
        let target = target_of(workload);
        self.known.then(|| self.targets.values().any(|known| *known == target))
    }

    /// Workloads that are scaled now and were not, or the other way round; so with the others.
    pub fn reset(&mut self, scalers: Vec<ScalerFacts>) -> BTreeSet<Target> {
        let before: BTreeSet<Target> = std::mem::take(&mut self.targets).into_values().collect();
        self.targets = scalers.into_iter().map(entry).collect();
        self.known = true;
        let now: BTreeSet<Target> = self.targets.values().cloned().collect();
        before.symmetric_difference(&now).cloned().collect()
    }

    pub fn put(&mut self, scaler: ScalerFacts) -> BTreeSet<Target> {
        let (key, target) = entry(scaler);
        let before = self.targets.insert(key, target.clone());
        match before {
            Some(before) if before == target => BTreeSet::new(),
            before => before.into_iter().chain([target]).collect(),
        }
    }

    pub fn remove(&mut self, namespace: String, name: String) -> BTreeSet<Target> {
        self.targets.remove(&(namespace, name)).into_iter().collect()
    }
}

pub fn is_target(workload: &ObjectRef, targets: &BTreeSet<Target>) -> bool {
    !targets.is_empty() && targets.contains(&target_of(workload))
}

fn entry(scaler: ScalerFacts) -> (Key, Target) {
    ((scaler.target.name.namespace.clone(), scaler.name), target_of(&scaler.target))
}

fn target_of(workload: &ObjectRef) -> Target {
    let ObjectRef { gvk, name } = workload;
    (gvk.group.clone(), gvk.kind.clone(), name.namespace.clone(), name.name.clone())
}
