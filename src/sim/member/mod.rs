//! A simulated member cluster: an API server, controllers, a scheduler and nodes, small enough for a thousand of them
//! in one process, and deterministic.
//!
//! Owns: what a member answers to the agent's [`Cluster`](crate::agent::cluster::Cluster) port, in Kubernetes' own
//! words. Must never: know the hub, keep time (callers say what time it is), or do anything a real API server, its
//! controllers or its scheduler would not do.
//!
//! [`Member`] is a synchronous core: each call is a request at some moment, and everything that follows from it without
//! time passing has happened when the call returns. What needs time waits for [`Member::step`] at [`Member::due`].
//! [`adapter`] puts it behind the async port.

pub mod adapter;
mod apply;
mod catalogue;
mod controllers;
mod nodes;
mod objects;
mod quota;
mod schema;
mod template;
mod workload;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use self::{
    catalogue::{Served, served},
    nodes::Nodes,
    objects::{Intent, Objects, Written},
    workload::{Pod, Workload},
};
use crate::{
    agent::cluster::{Deletion, EXECUTOR, FIELD_MANAGER, NamespaceFacts, PAUSED_UNTIL, Rejection},
    model::{
        Digest, GroupVersionKind, NodeFacts, Now, ObjectName, ObjectRef, PodFacts, Resources, Uid, cluster::Facts,
    },
};

/// Namespaces that nobody places an Application in.
const PROTECTED: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "hanse-system"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Tells this member's uids from another's.
    pub name: String,
    pub facts: Facts,
    pub nodes: Vec<NodeFacts>,
    /// From being bound to being ready.
    pub pod_start_ms: u64,
    /// Added to that, differently for each pod.
    pub pod_jitter_ms: u64,
}

impl Config {
    /// `count` equal nodes in `region`, each with 110 pod slots.
    pub fn uniform(name: &str, region: &str, count: usize, cpu_milli: i64, memory_bytes: i64) -> Self {
        let node = |index: usize| NodeFacts {
            name: format!("{name}-node-{}", index + 1),
            allocatable: Resources::of([("cpu", cpu_milli), ("memory", memory_bytes), ("pods", 110)]),
            labels: BTreeMap::from([
                ("kubernetes.io/hostname".to_owned(), format!("{name}-node-{}", index + 1)),
                (crate::model::cluster::REGION_LABEL.to_owned(), region.to_owned()),
                (
                    crate::model::cluster::ZONE_LABEL.to_owned(),
                    format!("{region}-{}", (b'a' + (index % 3) as u8) as char),
                ),
            ]),
            taints: vec![],
            schedulable: true,
        };
        let facts = Facts {
            kubernetes_version: "v1.36.0+simulated".into(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            region: region.into(),
            zone: format!("{region}-a"),
            system_uid: String::new(),
        };
        Self { name: name.into(), facts, nodes: (0..count).map(node).collect(), pod_start_ms: 300, pod_jitter_ms: 200 }
    }
}

/// What changed since it was last asked; the caller looks up what is there now, so changes of one thing coalesce.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// An object that carries the owner label was written.
    Object(ObjectRef),
    /// One is gone, or lost the label.
    ObjectGone(ObjectRef),
    Node(String),
    NodeGone(String),
    Pod(ObjectName),
    PodGone(ObjectName),
}

/// Write requests from agents: what rule 13 (converged means silent) counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub applies: u64,
    /// Applies that changed something.
    pub changes: u64,
    pub deletes: u64,
}

#[derive(Debug)]
pub struct Member {
    config: Config,
    objects: Objects,
    nodes: Nodes,
    quotas: BTreeMap<ObjectRef, Resources>,
    workloads: BTreeMap<ObjectRef, Workload>,
    /// The workload of every pod.
    pods: BTreeMap<ObjectName, ObjectRef>,
    dirty: BTreeSet<ObjectRef>,
    /// Workloads with a pod that found no node or no quota.
    starved: BTreeSet<ObjectRef>,
    timers: BTreeSet<(u64, ObjectRef)>,
    changes: Vec<Change>,
    counts: Counts,
}

impl Member {
    pub fn new(config: Config, now: Now) -> Self {
        let mut member = Self {
            objects: Objects::new(&config.name),
            config,
            nodes: Nodes::default(),
            quotas: BTreeMap::new(),
            workloads: BTreeMap::new(),
            pods: BTreeMap::new(),
            dirty: BTreeSet::new(),
            starved: BTreeSet::new(),
            timers: BTreeSet::new(),
            changes: Vec::new(),
            counts: Counts::default(),
        };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            member.make_namespace(now, name, "kubernetes");
        }
        let system = namespace_ref("kube-system");
        let uid = member.objects.uid(&system).map(|uid| uid.0.clone()).unwrap_or_default();
        member.config.facts.system_uid = uid;
        for node in member.config.nodes.clone() {
            member.put_node(now, node);
        }
        member
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn facts(&self) -> &Facts {
        &self.config.facts
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The resourceVersion of the last write of anybody.
    pub fn revision(&self) -> u64 {
        self.objects.revision()
    }

    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// When [`Member::step`] has something to do next (monotonic); `None` while nothing waits for time.
    pub fn due(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Server-side apply by the executor of `namespace`.
    pub fn apply(&mut self, now: Now, namespace: &str, object: &Value) -> Result<Value, Rejection> {
        self.counts.applies += 1;
        let (kind, reference) = self.locate(object, namespace)?;
        self.authorize(kind, &reference, namespace, "patch")?;
        let (value, changed) = self.write_applied(now, kind, &reference, FIELD_MANAGER, object)?;
        self.counts.changes += u64::from(changed);
        Ok(value)
    }

    /// Server-side apply by anybody else, with every right.
    pub fn apply_as(&mut self, now: Now, manager: &str, object: &Value) -> Result<Value, Rejection> {
        let (kind, reference) = self.locate(object, "default")?;
        self.write_applied(now, kind, &reference, manager, object).map(|(value, _)| value)
    }

    pub fn get(&self, object: &ObjectRef) -> Option<Value> {
        self.objects.get(object)
    }

    pub fn uid(&self, object: &ObjectRef) -> Option<&Uid> {
        self.objects.uid(object)
    }

    /// The Application uid on the owner label.
    pub fn owner(&self, object: &ObjectRef) -> Option<&str> {
        self.objects.owner(object)
    }

    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.refs()
    }

    /// Everything of a kind that carries the owner label.
    pub fn owned(&self, gvk: &GroupVersionKind) -> Vec<Value> {
        let owned = self.objects.refs().filter(|object| object.gvk == *gvk && self.owner(object).is_some());
        owned.filter_map(|object| self.get(object)).collect()
    }

    /// Deletes as the executor of `namespace`, only the object with this uid.
    pub fn delete(&mut self, now: Now, namespace: &str, object: &ObjectRef, uid: &Uid) -> Result<Deletion, Rejection> {
        self.counts.deletes += 1;
        let kind = served(&object.gvk).ok_or_else(|| kind_unknown(&object.gvk))?;
        self.authorize(kind, object, namespace, "delete")?;
        if self.objects.uid(object) != Some(uid) {
            return Ok(Deletion::Gone);
        }
        Ok(self.remove(now, object))
    }

    /// Deletes with every right, whatever its uid.
    pub fn remove(&mut self, now: Now, object: &ObjectRef) -> Deletion {
        let owned = self.objects.owner(object).is_some();
        let existed = self.objects.uid(object).is_some();
        if !self.objects.delete(now, object) {
            if owned {
                self.changes.push(Change::Object(object.clone()));
            }
            return Deletion::Pending;
        }
        if owned {
            self.changes.push(Change::ObjectGone(object.clone()));
        }
        if existed {
            self.forget(object);
            self.settle(now);
        }
        Deletion::Gone
    }

    /// Changes an object in place, as somebody who edits it; `false` where it is not there. What is changed belongs to
    /// `manager` from then on. Clearing the last finalizer of an object that is being deleted lets it go.
    pub fn edit(&mut self, now: Now, object: &ObjectRef, manager: &str, change: impl FnOnce(&mut Value)) -> bool {
        let Some(mut value) = self.objects.get(object) else { return false };
        change(&mut value);
        let deleting = value["metadata"].get("deletionTimestamp").is_some();
        if deleting && template::list(&value["metadata"]["finalizers"]).next().is_none() {
            self.write(now, object, value, manager, Intent::Changed);
            self.remove(now, object);
            return true;
        }
        self.write(now, object, value, manager, Intent::Changed);
        self.settle(now);
        true
    }

    /// See [`Cluster::ensure_namespace`](crate::agent::cluster::Cluster::ensure_namespace).
    pub fn ensure_namespace(&mut self, now: Now, namespace: &str) -> Result<NamespaceFacts, Rejection> {
        if PROTECTED.contains(&namespace) {
            let message = format!("namespace {namespace} belongs to the system; no Application may run there");
            return Err(Rejection { reason: "ProtectedNamespace".into(), message });
        }
        if self.objects.uid(&namespace_ref(namespace)).is_none() {
            self.counts.changes += 1;
            self.make_namespace(now, namespace, FIELD_MANAGER);
        }
        for (group, kind) in [("", "ServiceAccount"), ("rbac.authorization.k8s.io", "RoleBinding")] {
            let gvk = GroupVersionKind::new(group, "v1", kind);
            let object = ObjectRef { gvk, name: ObjectName::new(namespace, EXECUTOR) };
            if self.objects.uid(&object).is_none() {
                self.counts.changes += 1;
                let value = json!({"apiVersion": object.gvk.api_version(), "kind": kind});
                self.write(now, &object, value.clone(), FIELD_MANAGER, Intent::Applied(value));
            }
        }
        let namespace = self.objects.get(&namespace_ref(namespace)).unwrap_or_default();
        let paused_until = namespace["metadata"]["annotations"][PAUSED_UNTIL].as_str().map(str::to_owned);
        Ok(NamespaceFacts { paused_until })
    }

    /// Adds a node or changes one; binds what waited for it.
    pub fn put_node(&mut self, now: Now, node: NodeFacts) {
        self.changes.push(Change::Node(node.name.clone()));
        self.nodes.put(node);
        self.dirty.append(&mut self.starved);
        self.dirty_every_node();
        self.settle(now);
    }

    /// Takes a node away; its pods are lost and made again elsewhere.
    pub fn remove_node(&mut self, now: Now, name: &str) {
        if !self.nodes.remove(name) {
            return;
        }
        self.changes.push(Change::NodeGone(name.to_owned()));
        for (object, workload) in &mut self.workloads {
            let lost = workload.pods.iter().filter(|(_, pod)| pod.node.as_deref() == Some(name));
            for pod in lost.map(|(pod, _)| pod.clone()).collect::<Vec<_>>() {
                workload.pods.remove(&pod);
                let pod = ObjectName::new(&object.name.namespace, &pod);
                self.pods.remove(&pod);
                self.changes.push(Change::PodGone(pod));
                self.dirty.insert(object.clone());
            }
        }
        self.dirty_every_node();
        self.settle(now);
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeFacts> {
        self.nodes.facts()
    }

    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// Nodes that promise more than they have; a scheduler never lets that happen.
    pub fn oversubscribed(&self) -> impl Iterator<Item = &str> {
        self.nodes.oversubscribed()
    }

    pub fn pods(&self) -> impl Iterator<Item = PodFacts> + '_ {
        self.pods.keys().filter_map(|name| self.pod(name))
    }

    pub fn pod(&self, name: &ObjectName) -> Option<PodFacts> {
        let workload = self.workloads.get(self.pods.get(name)?)?;
        let pod = workload.pods.get(&name.name)?;
        Some(PodFacts {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            node: pod.node.clone().unwrap_or_default(),
            requests: pod.template.demand.requests.clone(),
            finished: pod.is_finished(),
            ready: pod.is_ready(),
            workload: Some(workload.object.clone()),
            trouble: pod.trouble(),
        })
    }

    /// Lets everything happen that was due by now.
    pub fn step(&mut self, now: Now) {
        while let Some((at, object)) = self.timers.pop_first() {
            if at > now.monotonic_ms {
                self.timers.insert((at, object));
                break;
            }
            self.dirty.insert(object);
        }
        self.settle(now);
    }

    fn locate(&self, object: &Value, namespace: &str) -> Result<(&'static Served, ObjectRef), Rejection> {
        let invalid =
            || Rejection { reason: "Invalid".into(), message: "apiVersion, kind and metadata.name must be set".into() };
        let mut reference = ObjectRef::of(object).ok_or_else(invalid)?;
        let kind = served(&reference.gvk).ok_or_else(|| kind_unknown(&reference.gvk))?;
        if !kind.namespaced {
            reference.name.namespace.clear();
        } else if reference.name.namespace.is_empty() {
            reference.name.namespace = namespace.to_owned();
        }
        Ok((kind, reference))
    }

    /// The rights of the executor ServiceAccount: everything namespaced in its own namespace, but for rights themselves.
    fn authorize(&self, kind: &Served, object: &ObjectRef, namespace: &str, verb: &str) -> Result<(), Rejection> {
        let inside = kind.namespaced && object.name.namespace == namespace;
        if inside && kind.group != "rbac.authorization.k8s.io" && !PROTECTED.contains(&namespace) {
            return Ok(());
        }
        let place = if kind.namespaced {
            format!("in the namespace {:?}", object.name.namespace)
        } else {
            "at the cluster scope".to_owned()
        };
        let user = format!("system:serviceaccount:{namespace}:{EXECUTOR}");
        let message = format!(
            "{} {:?} is forbidden: User {user:?} cannot {verb} resource {:?} in API group {:?} {place}",
            kind.resource(),
            object.name.name,
            kind.plural,
            kind.group
        );
        Err(Rejection { reason: "Forbidden".into(), message })
    }

    fn write_applied(
        &mut self,
        now: Now,
        kind: &Served,
        object: &ObjectRef,
        manager: &str,
        given: &Value,
    ) -> Result<(Value, bool), Rejection> {
        let namespace = &object.name.namespace;
        if kind.namespaced && self.objects.uid(&namespace_ref(namespace)).is_none() {
            return Err(Rejection {
                reason: "NotFound".into(),
                message: format!("namespaces {namespace:?} not found"),
            });
        }
        let intent = intent_of(given);
        let before = self.objects.get(object);
        let mut value = self.objects.applied(object, manager, &intent);
        schema::default_object(kind.kind, &mut value);
        if kind.kind == "Service" {
            self.assign_address(object, &mut value["spec"]);
        }
        schema::validate(kind, &value, before.as_ref())?;
        let written = self.write(now, object, value, manager, Intent::Applied(intent));
        self.settle(now);
        Ok((self.objects.get(object).unwrap_or_default(), written.changed))
    }

    fn assign_address(&self, object: &ObjectRef, spec: &mut Value) {
        if spec.get("clusterIP").is_none() && spec["type"] != "ExternalName" {
            let Digest(bytes) = Digest::of(object.to_string().as_bytes());
            let address = format!("10.96.{}.{}", bytes[0], bytes[1]);
            spec["clusterIPs"] = json!([address]);
            spec["clusterIP"] = address.into();
        }
    }

    fn write(&mut self, now: Now, object: &ObjectRef, value: Value, manager: &str, intent: Intent) -> Written {
        let written = self.objects.write(now, object, value, manager, intent);
        if !written.changed {
            return written;
        }
        let value = self.objects.get(object).unwrap_or_default();
        if let Some(newer) = Workload::of(object, &value) {
            match self.workloads.get_mut(object) {
                Some(workload) => workload.adopt(newer),
                None => drop(self.workloads.insert(object.clone(), newer)),
            }
            self.dirty.insert(object.clone());
        }
        match object.gvk.kind.as_str() {
            "ResourceQuota" => {
                self.quotas.insert(object.clone(), quota::hard(&value));
                self.dirty.append(&mut self.starved);
            }
            "PersistentVolumeClaim" => drop(self.objects.write_status(object, json!({"phase": "Bound"}))),
            "Service" if value["spec"]["type"] == "LoadBalancer" => {
                let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
                self.objects.write_status(object, ingress);
            }
            _ => {}
        }
        match (&written.owner_before, &written.owner) {
            (_, Some(_)) => self.changes.push(Change::Object(object.clone())),
            (Some(_), None) => self.changes.push(Change::ObjectGone(object.clone())),
            (None, None) => {}
        }
        written
    }

    fn make_namespace(&mut self, now: Now, name: &str, manager: &str) {
        let mut value = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"labels": {"kubernetes.io/metadata.name": name}}});
        if manager == FIELD_MANAGER {
            value["metadata"]["labels"]["app.kubernetes.io/managed-by"] = FIELD_MANAGER.into();
        }
        let object = namespace_ref(name);
        self.write(now, &object, value.clone(), manager, Intent::Applied(value));
        self.objects.write_status(&object, json!({"phase": "Active"}));
    }

    /// What goes with a deleted object: its pods, its limits.
    fn forget(&mut self, object: &ObjectRef) {
        self.quotas.remove(object);
        self.starved.remove(object);
        self.dirty.remove(object);
        self.timers.retain(|(_, timer)| timer != object);
        let Some(workload) = self.workloads.remove(object) else {
            // A quota went, or nothing that pods wait for.
            self.dirty.append(&mut self.starved);
            return;
        };
        for (name, pod) in workload.pods {
            self.drop_pod(ObjectName::new(&object.name.namespace, &name), &pod);
        }
        self.dirty.append(&mut self.starved);
    }

    fn drop_pod(&mut self, name: ObjectName, pod: &Pod) {
        if let Some(node) = pod.node.as_deref().filter(|_| !pod.is_finished()) {
            self.nodes.release(node, &pod.template);
        }
        self.pods.remove(&name);
        self.changes.push(Change::PodGone(name));
    }

    fn dirty_every_node(&mut self) {
        self.dirty.extend(self.workloads.keys().filter(|object| object.gvk.kind == "DaemonSet").cloned());
    }
}

/// What one pod of this template asks for.
pub fn template_requests(template: &Value) -> Resources {
    template::Template::of(template).demand.requests
}

fn namespace_ref(name: &str) -> ObjectRef {
    ObjectRef { gvk: GroupVersionKind::new("", "v1", "Namespace"), name: ObjectName::new("", name) }
}

fn kind_unknown(gvk: &GroupVersionKind) -> Rejection {
    let message = format!("no matches for kind {:?} in version {:?}", gvk.kind, gvk.api_version());
    Rejection { reason: "KindUnknown".into(), message }
}

/// What an apply lists, without the fields that are the server's.
fn intent_of(object: &Value) -> Value {
    let mut intent = object.clone();
    if let Some(fields) = intent.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = intent.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "deletionTimestamp"]
        {
            metadata.remove(field);
        }
    }
    intent
}

#[cfg(test)]
mod tests;
