//! The loop that runs the controllers and the scheduler of a [`Member`] until it is at rest.

use super::{
    Change, Member, quota,
    workload::{Phase, Pod, Workload},
};
use crate::model::{Digest, Now, ObjectName, Resources};

impl Member {
    /// Runs the controllers until nothing changes without time passing.
    pub(super) fn settle(&mut self, now: Now) {
        while let Some(object) = self.dirty.pop_first() {
            let Some(mut workload) = self.workloads.remove(&object) else { continue };
            let freed = self.reconcile(now, &mut workload);
            self.workloads.insert(object, workload);
            if freed {
                self.dirty.append(&mut self.starved);
            }
        }
    }

    /// One workload; says whether it gave room back.
    fn reconcile(&mut self, now: Now, workload: &mut Workload) -> bool {
        let nodes = self.nodes.admitting(&workload.template).map(str::to_owned).collect::<Vec<_>>();
        let mut freed = self.advance(now, workload);
        // Deleting old pods makes room for new ones, which may let more old ones go once ready.
        loop {
            let surplus = workload.surplus(&nodes);
            for name in &surplus {
                if let Some(pod) = workload.pods.remove(name) {
                    freed |= pod.node.is_some();
                    self.drop_pod(ObjectName::new(&workload.object.name.namespace, name), &pod);
                }
            }
            let made = self.make_pods(workload, &nodes);
            if surplus.is_empty() && made == 0 {
                break;
            }
        }
        self.bind_pods(now, workload);
        let timers = workload.pods.values().filter_map(Pod::due).min();
        self.timers.retain(|(_, object)| *object != workload.object);
        self.timers.extend(timers.map(|at| (at, workload.object.clone())));
        let waits = workload.failure.is_some() || workload.pods.values().any(|pod| pod.node.is_none());
        if waits {
            self.starved.insert(workload.object.clone());
        } else {
            self.starved.remove(&workload.object);
        }
        let before = self.objects.get(&workload.object).unwrap_or_default();
        let status = workload.status(&before["status"], nodes.len(), now);
        if self.objects.write_status(&workload.object, status) && self.objects.owner(&workload.object).is_some() {
            self.changes.push(Change::Object(workload.object.clone()));
        }
        freed
    }

    /// Pods whose time has come start, or finish; says whether one finished.
    fn advance(&mut self, now: Now, workload: &mut Workload) -> bool {
        let mut freed = false;
        let after_start = workload.after_start(now.monotonic_ms, self.config.pod_start_ms);
        for (name, pod) in &mut workload.pods {
            if pod.due().is_none_or(|due| due > now.monotonic_ms) {
                continue;
            }
            let working = matches!(pod.phase, Phase::Working { .. });
            pod.phase = if working { Phase::Finished } else { after_start.clone() };
            if let Some(node) = pod.node.as_deref().filter(|_| working) {
                self.nodes.release(node, &pod.template);
                freed = true;
            }
            self.changes.push(Change::Pod(ObjectName::new(&workload.object.name.namespace, name)));
        }
        freed
    }

    fn make_pods(&mut self, workload: &mut Workload, nodes: &[String]) -> usize {
        let namespace = workload.object.name.namespace.clone();
        workload.failure = None;
        let mut made = 0;
        for (name, pinned) in workload.missing(nodes) {
            workload.failure = self.quota_refusal(&namespace, &name, workload);
            if workload.failure.is_some() {
                break;
            }
            let pod = ObjectName::new(&namespace, &name);
            self.changes.push(Change::Pod(pod.clone()));
            self.pods.insert(pod, workload.object.clone());
            workload.add(name, pinned);
            made += 1;
        }
        made
    }

    fn quota_refusal(&self, namespace: &str, pod: &str, workload: &Workload) -> Option<String> {
        let mut quotas = self.quotas.iter().filter(|(quota, _)| quota.name.namespace == namespace).peekable();
        quotas.peek()?;
        let mut used = Resources::default();
        let others = self.workloads.values().filter(|other| other.object.name.namespace == namespace);
        for pod in others.chain([workload]).flat_map(|workload| workload.pods.values()).filter(|pod| !pod.is_finished())
        {
            used.add(&quota::charge(&pod.template), 1);
        }
        quotas.find_map(|(quota, hard)| quota::refusal(&quota.name.name, hard, &used, pod, &workload.template))
    }

    fn bind_pods(&mut self, now: Now, workload: &mut Workload) {
        let namespace = &workload.object.name.namespace;
        for (name, pod) in workload.pods.iter_mut().filter(|(_, pod)| pod.node.is_none()) {
            let phase = match self.nodes.choose(&pod.template, pod.pinned.as_deref()) {
                Ok(node) => {
                    self.nodes.bind(&node, &pod.template);
                    pod.node = Some(node);
                    let Digest(bytes) = Digest::of(name.as_bytes());
                    let jitter = u64::from(bytes[0]) * self.config.pod_jitter_ms / 255;
                    let until_ms = now.monotonic_ms + self.config.pod_start_ms + jitter;
                    if pod.template.broken_image.is_some() { Phase::Broken } else { Phase::Starting { until_ms } }
                }
                Err(why) => Phase::Pending(why),
            };
            if pod.phase != phase {
                pod.phase = phase;
                self.changes.push(Change::Pod(ObjectName::new(namespace, name)));
            }
        }
    }
}
