//! The controllers of a simulated member: from a workload object to pods, and from pods back to its status.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{schema::template_pointer, template::Template};
use crate::model::{Digest, Now, ObjectRef};

/// One Deployment, StatefulSet, DaemonSet, Job or bare Pod, with its pods.
#[derive(Debug)]
pub struct Workload {
    pub object: ObjectRef,
    pub template: Arc<Template>,
    pub pods: BTreeMap<String, Pod>,
    /// Why the last pod could not be made, in the API server's words (a quota).
    pub failure: Option<String>,
    style: Style,
    generation: i64,
    /// Pods made so far: names and ages.
    serial: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Style {
    Replicas { count: usize, surge: usize, unavailable: usize, recreate: bool },
    Ordered { count: usize, parallel: bool },
    EveryNode,
    Once { completions: usize, parallelism: usize },
    Single,
}

#[derive(Debug, Clone)]
pub struct Pod {
    pub template: Arc<Template>,
    pub node: Option<String>,
    /// The only node it may run on (DaemonSets).
    pub pinned: Option<String>,
    pub phase: Phase,
    serial: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Unbound, and why.
    Pending(String),
    /// Bound; runs from this time on (monotonic).
    Starting {
        until_ms: u64,
    },
    /// Bound; its image cannot be pulled.
    Broken,
    Ready,
    /// A Job's pod at work until this time.
    Working {
        until_ms: u64,
    },
    Finished,
}

impl Pod {
    pub fn trouble(&self) -> Option<String> {
        match &self.phase {
            Phase::Pending(why) if !why.is_empty() => Some(format!("FailedScheduling: {why}")),
            Phase::Broken => {
                let image = self.template.broken_image.as_deref().unwrap_or_default();
                Some(format!("ImagePullBackOff: Back-off pulling image {image:?}"))
            }
            _ => None,
        }
    }

    pub fn due(&self) -> Option<u64> {
        match self.phase {
            Phase::Starting { until_ms } | Phase::Working { until_ms } => Some(until_ms),
            _ => None,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }
}

impl Workload {
    /// `None` where objects of this kind run no pods. The object has been defaulted and validated.
    pub fn of(object: &ObjectRef, value: &Value) -> Option<Self> {
        let style = Style::of(&object.gvk.kind, &value["spec"])?;
        let template = Arc::new(Template::of(value.pointer(template_pointer(&object.gvk.kind)?)?));
        let generation = value["metadata"]["generation"].as_i64().unwrap_or_default();
        Some(Self {
            object: object.clone(),
            template,
            pods: BTreeMap::new(),
            failure: None,
            style,
            generation,
            serial: 0,
        })
    }

    /// The object was written: what it asks for may have changed, its pods are still there.
    pub fn adopt(&mut self, newer: Self) {
        if newer.template.hash != self.template.hash {
            self.template = newer.template;
        }
        self.style = newer.style;
        self.generation = newer.generation;
    }

    fn is_current(&self, pod: &Pod) -> bool {
        pod.template.hash == self.template.hash
    }

    fn count(&self, which: impl Fn(&Pod) -> bool) -> usize {
        self.pods.values().filter(|pod| which(pod)).count()
    }

    /// Pods to delete now. `nodes` are those a DaemonSet runs on.
    pub fn surplus(&self, nodes: &[String]) -> Vec<String> {
        let desired = match self.style {
            Style::Replicas { count, unavailable, recreate, .. } => return self.retire(count, unavailable, recreate),
            Style::Once { .. } | Style::Single => return vec![],
            Style::Ordered { count, .. } => (0..count).map(|ordinal| self.ordinal_name(ordinal)).collect::<Vec<_>>(),
            Style::EveryNode => nodes.iter().map(|node| self.node_pod_name(node)).collect(),
        };
        let gone = |(name, pod): &(&String, &Pod)| !desired.contains(name) || !self.is_current(pod);
        let stale = self.pods.iter().filter(gone).map(|(name, _)| name.clone());
        match self.style {
            // One at a time, the highest ordinal first, and none while another is not ready.
            Style::Ordered { .. } => {
                let extra = self.pods.keys().rev().find(|name| !desired.contains(name)).cloned();
                let all_ready = self.pods.values().all(Pod::is_ready);
                let broken = || stale.clone().find(|name| !self.pods[name].is_ready());
                let oldest = || stale.clone().next_back().filter(|_| all_ready);
                extra.or_else(broken).or_else(oldest).into_iter().collect()
            }
            _ => stale.collect(),
        }
    }

    /// A Deployment's pods to delete: too many new ones, and old ones as far as availability allows.
    fn retire(&self, count: usize, unavailable: usize, recreate: bool) -> Vec<String> {
        let mut gone = Vec::new();
        let mut current = self.pods.iter().filter(|(_, pod)| self.is_current(pod)).collect::<Vec<_>>();
        // The unbound first, then those not ready, then the youngest.
        current.sort_by_key(|(_, pod)| (pod.node.is_none(), !pod.is_ready(), pod.serial));
        gone.extend(current.iter().skip(count).map(|(name, _)| (*name).clone()));
        let mut ready = self.count(Pod::is_ready) - gone.iter().filter(|name| self.pods[*name].is_ready()).count();
        let mut old = self.pods.iter().filter(|(_, pod)| !self.is_current(pod)).collect::<Vec<_>>();
        old.sort_by_key(|(_, pod)| (pod.is_ready(), pod.serial));
        for (name, pod) in old {
            if pod.is_ready() && !recreate {
                if ready <= count.saturating_sub(unavailable) {
                    break;
                }
                ready -= 1;
            }
            gone.push(name.clone());
        }
        gone
    }

    /// The names of pods to make now, each with the node it is pinned to.
    pub fn missing(&self, nodes: &[String]) -> Vec<(String, Option<String>)> {
        match self.style {
            Style::Replicas { count, surge, recreate, .. } => {
                let current = self.count(|pod| self.is_current(pod));
                let old = self.pods.len() - current;
                let room = if recreate && old > 0 { 0 } else { (count + surge).saturating_sub(self.pods.len()) };
                let number = count.saturating_sub(current).min(room);
                (0..number).map(|offset| (self.random_name(offset as u64), None)).collect()
            }
            Style::Ordered { count, parallel } => {
                let absent = |ordinal: &usize| !self.pods.contains_key(&self.ordinal_name(*ordinal));
                let wanted = (0..count).filter(absent).map(|ordinal| (self.ordinal_name(ordinal), None));
                let may_start = parallel || self.pods.values().all(Pod::is_ready);
                wanted.take(if parallel { count } else { usize::from(may_start) }).collect()
            }
            Style::EveryNode => {
                let pinned = nodes.iter().map(|node| (self.node_pod_name(node), Some(node.clone())));
                pinned.filter(|(name, _)| !self.pods.contains_key(name)).collect()
            }
            Style::Once { completions, parallelism } => {
                let active = self.count(|pod| !pod.is_finished());
                let number = completions.saturating_sub(self.pods.len()).min(parallelism.saturating_sub(active));
                (0..number).map(|offset| (self.random_name(offset as u64), None)).collect()
            }
            Style::Single if self.pods.is_empty() => vec![(self.object.name.name.clone(), None)],
            Style::Single => vec![],
        }
    }

    pub fn add(&mut self, name: String, pinned: Option<String>) {
        self.serial += 1;
        let (template, phase) = (self.template.clone(), Phase::Pending(String::new()));
        self.pods.insert(name, Pod { template, node: None, pinned, phase, serial: self.serial });
    }

    /// What a pod does after it was started; a Job's works for as long as it took to start.
    pub fn after_start(&self, now_ms: u64, delay_ms: u64) -> Phase {
        match self.style {
            Style::Once { .. } => Phase::Working { until_ms: now_ms + delay_ms },
            _ => Phase::Ready,
        }
    }

    fn random_name(&self, offset: u64) -> String {
        let serial = self.serial + offset;
        let suffix = Digest::of(format!("{}/{}/{serial}", self.object, self.template.hash).as_bytes()).to_string();
        match self.style {
            Style::Once { .. } => format!("{}-{}", self.object.name.name, &suffix[..5]),
            _ => format!("{}-{}-{}", self.object.name.name, self.template.hash, &suffix[..5]),
        }
    }

    fn ordinal_name(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.object.name.name)
    }

    fn node_pod_name(&self, node: &str) -> String {
        let suffix = Digest::of(format!("{}/{node}", self.object).as_bytes()).to_string();
        format!("{}-{}", self.object.name.name, &suffix[..5])
    }

    /// The status as the kind's controller writes it; times stay where nothing changed.
    pub fn status(&self, before: &Value, nodes: usize, now: Now) -> Value {
        let total = self.pods.len();
        let ready = self.count(Pod::is_ready);
        let current = self.count(|pod| self.is_current(pod));
        let finished = self.count(Pod::is_finished);
        let mut status = Map::new();
        let mut number = |field: &str, count: usize| status.insert(field.into(), count.into());
        let mut conditions = Vec::new();
        match &self.style {
            Style::Replicas { count, unavailable, .. } => {
                // Zeroes are left out, as the API server leaves them out.
                let fields = [
                    ("replicas", total),
                    ("updatedReplicas", current),
                    ("readyReplicas", ready),
                    ("availableReplicas", ready),
                    ("unavailableReplicas", total.max(*count) - ready),
                ];
                for (field, count) in fields.into_iter().filter(|(_, count)| *count > 0) {
                    number(field, count);
                }
                let enough = ready >= count.saturating_sub(*unavailable);
                let complete = current == *count && total == *count && ready == *count;
                conditions.push(if enough {
                    ("Available", true, "MinimumReplicasAvailable", "Deployment has minimum availability.".into())
                } else {
                    let message = "Deployment does not have minimum availability.".into();
                    ("Available", false, "MinimumReplicasUnavailable", message)
                });
                let reason = if complete { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" };
                let words = if complete { "has successfully progressed" } else { "is progressing" };
                let set = format!("ReplicaSet \"{}-{}\" {words}.", self.object.name.name, self.template.hash);
                conditions.push(("Progressing", true, reason, set));
                if let Some(failure) = &self.failure {
                    conditions.push(("ReplicaFailure", true, "FailedCreate", failure.clone()));
                }
            }
            Style::Ordered { .. } => {
                number("replicas", total);
                number("availableReplicas", ready);
                number("readyReplicas", ready);
                number("updatedReplicas", current);
                number("currentReplicas", current);
                let revision = format!("{}-{}", self.object.name.name, self.template.hash);
                status.insert("updateRevision".into(), revision.clone().into());
                status.insert("currentRevision".into(), revision.into());
            }
            Style::EveryNode => {
                number("desiredNumberScheduled", nodes);
                number("currentNumberScheduled", total);
                number("updatedNumberScheduled", current);
                number("numberMisscheduled", 0);
                number("numberReady", ready);
                number("numberAvailable", ready);
                number("numberUnavailable", nodes.saturating_sub(ready));
            }
            Style::Once { completions, .. } => {
                number("active", total - finished);
                number("succeeded", finished);
                if finished >= *completions {
                    conditions.push(("SuccessCriteriaMet", true, "CompletionsReached", String::new()));
                    conditions.push(("Complete", true, "CompletionsReached", String::new()));
                }
            }
            Style::Single => {
                let phase = if ready > 0 { "Running" } else { "Pending" };
                status.insert("phase".into(), phase.into());
                conditions.push((
                    "Ready",
                    ready > 0,
                    "",
                    self.pods.values().find_map(Pod::trouble).unwrap_or_default(),
                ));
            }
        }
        if !matches!(self.style, Style::Once { .. } | Style::Single) {
            status.insert("observedGeneration".into(), self.generation.into());
        }
        if !conditions.is_empty() {
            let list = conditions.into_iter().map(|(type_, truth, reason, message)| {
                condition(&before["conditions"], type_, truth, reason, &message, now)
            });
            status.insert("conditions".into(), list.collect());
        }
        Value::Object(status)
    }
}

fn condition(before: &Value, type_: &str, truth: bool, reason: &str, message: &str, now: Now) -> Value {
    let status = if truth { "True" } else { "False" };
    let same = super::template::list(before).find(|before| before["type"] == type_ && before["status"] == status);
    let since = same.map_or_else(|| now.wall.to_string().into(), |before| before["lastTransitionTime"].clone());
    let mut condition = json!({"type": type_, "status": status, "lastTransitionTime": since});
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            condition[field] = text.into();
        }
    }
    condition
}

impl Style {
    fn of(kind: &str, spec: &Value) -> Option<Self> {
        let number = |field: &str| spec[field].as_u64().unwrap_or(1) as usize;
        Some(match kind {
            "Deployment" => {
                let (count, rolling) = (number("replicas"), &spec["strategy"]["rollingUpdate"]);
                Self::Replicas {
                    count,
                    surge: portion(&rolling["maxSurge"], count, true),
                    unavailable: portion(&rolling["maxUnavailable"], count, false),
                    recreate: spec["strategy"]["type"] == "Recreate",
                }
            }
            "StatefulSet" => {
                Self::Ordered { count: number("replicas"), parallel: spec["podManagementPolicy"] == "Parallel" }
            }
            "DaemonSet" => Self::EveryNode,
            "Job" => Self::Once { completions: number("completions"), parallelism: number("parallelism") },
            "Pod" => Self::Single,
            _ => return None,
        })
    }
}

/// `2` or `25%` of `count`; surge rounds up, unavailability down.
fn portion(value: &Value, count: usize, up: bool) -> usize {
    let Some(percent) = value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<usize>().ok()) else {
        return value.as_u64().unwrap_or_default() as usize;
    };
    (count.saturating_mul(percent) + if up { 99 } else { 0 }) / 100
}
