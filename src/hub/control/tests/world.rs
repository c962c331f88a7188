//! A hub without sockets, clocks or threads: store, controller, slices, and agents that do what their works say.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    hub::{
        control::{Controller, Effect, Event, FromAgent, Settings},
        feed::Feed,
        keys,
        records::{Placements, Record},
        slices::Slices,
    },
    kinds::{
        APPLICATION, CLUSTER, EVENT, Kind, Origin, application::WORKS_FINALIZER, cluster::CLUSTER_FINALIZER,
        metadata::mark_deleted,
    },
    model::{
        Now, ObjectRef, Placement, Report, Resources, Sketch, Timestamp, Uid, Work,
        plugin::{Judgements, Question},
        quantity::{CPU, PODS},
        report::{ComponentReport, Health, ObjectReport, ObjectState, ReplicaCount, WorkloadReport},
        sketch::Shape,
        work::Removal,
    },
    store::{Compare, Key, Operation, Outcome, Revision, Transaction, WatchEvent, mvcc::Mvcc, object},
};

/// What one replica of the Applications here asks for.
pub const REQUEST: i64 = 100;
const STEP_MS: u64 = 5;

pub struct World {
    pub store: Mvcc,
    pub controller: Controller,
    pub slices: Slices,
    pub agents: BTreeMap<Uid, Agent>,
    pub now_ms: u64,
    /// Every removal that a work ever listed, by cluster.
    pub ordered: BTreeSet<(Uid, String)>,
    told: Revision,
    uids: u32,
    pub tolerates_faults: bool,
    /// The next placement is stored, and the answer to that is lost.
    pub loses_answer: bool,
    /// While it is there the store is busy: what is to be written waits here.
    pub backlog: Option<Vec<(u64, Transaction)>>,
    /// What is in the place of every placement plug-in, and what it was asked.
    pub plugin: Option<Plugin>,
    pub asked: Vec<Question>,
}

pub type Plugin = fn(&Question) -> Result<Judgements, String>;

/// One member: what runs there, and whether its agent can be heard.
#[derive(Default, Clone)]
pub struct Agent {
    pub up: bool,
    pub room: i64,
    /// What it starts does not become ready.
    pub unready: bool,
    /// Pods that nobody wants any more and that are still there: of each Deployment, as reports say, and in all.
    pub ending: i64,
    /// Its member has autoscalers for all that runs there.
    pub scales: bool,
    /// Its member says no to whatever is applied.
    pub refuses: bool,
    pub works: BTreeMap<Uid, Work>,
    pub objects: BTreeMap<ObjectRef, (Uid, u32)>,
    sent: BTreeMap<Uid, Report>,
    sketch: Option<Sketch>,
    beat_ms: u64,
}

impl World {
    pub fn new() -> Self {
        Self {
            store: Mvcc::default(),
            controller: Controller::new(Settings::default()),
            slices: Slices::new(),
            agents: BTreeMap::new(),
            now_ms: 1,
            ordered: BTreeSet::new(),
            told: 0,
            uids: 0,
            tolerates_faults: false,
            loses_answer: false,
            backlog: None,
            plugin: None,
            asked: Vec::new(),
        }
    }

    /// With joined clusters, each with room for so many replicas.
    pub fn with(clusters: &[(&str, i64)]) -> Self {
        let mut world = Self::new();
        world.restart();
        for (name, room) in clusters {
            world.join(name, *room);
        }
        world.settle();
        world
    }

    pub fn now(&self) -> Now {
        Now { wall: Timestamp::from_millis(1_800_000_000_000 + self.now_ms as i64), monotonic_ms: self.now_ms }
    }

    /// A new process leads: what was only in memory is gone.
    pub fn restart(&mut self) {
        self.controller = Controller::new(Settings::default());
        let entries: Vec<_> = self.store.entries().collect();
        self.told = self.store.revision();
        let feed = Feed::Reset { entries: entries.into(), revision: self.told };
        self.slices.apply(&feed);
        self.step(Event::Store(feed));
        for agent in self.agents.values_mut() {
            agent.sketch = None;
            agent.sent.clear();
        }
    }

    pub fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.controller.step(self.now(), event) {
                match effect {
                    Effect::Commit { id, transaction } if let Some(backlog) = &mut self.backlog => {
                        backlog.push((id, transaction));
                    }
                    Effect::Commit { id, transaction } => {
                        let places =
                            |operation: &Operation| matches!(Record::of(operation.key()), Some(Record::Head(_)));
                        let lost = self.loses_answer && transaction.operations.iter().any(places);
                        self.loses_answer &= !lost;
                        let outcome = self.store.commit(transaction);
                        events.push(Event::Done { id, outcome: if lost { Ok(Outcome::Unknown) } else { outcome } });
                    }
                    Effect::Ask { id, ask } => {
                        self.asked.push(ask.question.clone());
                        // A plug-in that is not there says nothing, and its time passes.
                        if let Some(answer) = self.plugin.map(|plugin| plugin(&ask.question)) {
                            events.push(Event::Answered { id, answer });
                        }
                    }
                    Effect::Compact(revision) => drop(self.store.compact(revision).expect("compacts")),
                    Effect::Fault(fault) => assert!(self.tolerates_faults, "{fault}"),
                    Effect::StepDown => {}
                }
            }
        }
    }

    /// The store works off what waits for it.
    pub fn catch_up(&mut self) {
        for (id, transaction) in self.backlog.take().unwrap_or_default() {
            let outcome = self.store.commit(transaction);
            self.step(Event::Done { id, outcome });
        }
    }

    /// Tells what was committed; whether there was anything.
    fn tell(&mut self) -> bool {
        let past = self.store.past("/hanse/", self.told, usize::MAX).expect("history");
        self.told = past.until;
        for event in &past.events {
            if let WatchEvent::Transaction { revision, changes } = event {
                let feed = Feed::Changed { revision: *revision, changes: changes.clone() };
                self.slices.apply(&feed);
                self.step(Event::Store(feed));
            }
        }
        !past.events.is_empty()
    }

    /// Lets time pass in small steps; agents that are up work and beat.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            while self.tell() {}
            let due = self.controller.deadline().unwrap_or(u64::MAX);
            // Nothing happens before somebody is due, so long quiet times cost little.
            let next = due.max(self.now_ms + STEP_MS).min(self.now_ms + 1000).min(until);
            self.now_ms = next;
            for uid in self.agents.keys().cloned().collect::<Vec<_>>() {
                self.work(&uid);
            }
            self.step(Event::Tick);
        }
        while self.tell() {}
    }

    /// Until all that follows from what happened has happened.
    pub fn settle(&mut self) {
        self.pass(3000);
    }

    fn work(&mut self, uid: &Uid) {
        let slice = self.slices.slice(uid);
        for work in &slice.works {
            for removal in &work.removals {
                self.ordered.insert((uid.clone(), removal.object.name.name.clone()));
            }
        }
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(uid).filter(|agent| agent.up) else { return };
        let mut messages = Vec::new();
        for work in &slice.works {
            let held = agent.works.get(&work.application_uid).map_or(0, |held| held.generation);
            if work.generation > held {
                agent.carry_out(work, &self.slices);
            }
            let report = agent.report(work);
            if agent.sent.get(&work.application_uid) != Some(&report) {
                agent.sent.insert(work.application_uid.clone(), report.clone());
                messages.push(FromAgent::Report { cluster: uid.clone(), report: Box::new(report) });
            }
        }
        let sketch = agent.measure();
        if agent.sketch.as_ref() != Some(&sketch) {
            agent.sketch = Some(sketch.clone());
            messages.insert(0, FromAgent::Sketch { cluster: uid.clone(), sketch });
        }
        if now_ms >= agent.beat_ms + 1000 {
            agent.beat_ms = now_ms;
            messages.push(FromAgent::Beat { cluster: uid.clone() });
        }
        for message in messages {
            self.step(Event::Agent(message));
        }
    }

    pub fn uid(&mut self) -> Uid {
        self.uids += 1;
        Uid(format!("00000000-0000-4000-8000-{:012}", self.uids))
    }

    pub fn join(&mut self, name: &str, room: i64) -> Uid {
        let uid = self.uid();
        let metadata = json!({
            "name": name, "uid": uid, "finalizers": [CLUSTER_FINALIZER], "labels": {"name": name},
            "creationTimestamp": self.now().wall.to_string(),
        });
        self.put(&CLUSTER, "", name, json!({"metadata": metadata, "spec": {"accepted": true}}));
        self.agents.insert(uid.clone(), Agent { up: true, room, ..Agent::default() });
        uid
    }

    /// An Application of one webservice, as the API would store it.
    pub fn apply(&mut self, name: &str, replicas: u32, policies: Value) -> Uid {
        self.apply_components(name, &[(name, replicas)], policies)
    }

    pub fn apply_components(&mut self, name: &str, components: &[(&str, u32)], policies: Value) -> Uid {
        let component = |(name, replicas): &(&str, u32)| {
            json!({
                "name": name, "type": "webservice", "properties": {"image": "nginx", "cpu": "100m"},
                "traits": [{"type": "scaler", "properties": {"replicas": replicas}}],
            })
        };
        let components: Vec<Value> = components.iter().map(component).collect();
        let spec = json!({"components": components, "policies": policies});
        let known = self.object(&APPLICATION, "default", name);
        let mut object = match known {
            Some(object) => object,
            None => json!({"metadata": {
                "name": name, "namespace": "default", "uid": self.uid(), "generation": 0,
                "finalizers": [WORKS_FINALIZER], "annotations": {"hanse.dev/author": "alice", "hanse.dev/trace": "t"},
                "creationTimestamp": self.now().wall.to_string(),
            }}),
        };
        if object["spec"] != spec {
            object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        object["spec"] = spec;
        let uid = Uid::from(object["metadata"]["uid"].as_str().expect("a uid"));
        self.put(&APPLICATION, "default", name, object);
        uid
    }

    /// An Application of one component: a Deployment of so many replicas, and beside it, of pods of the same size, another
    /// one or a Pod.
    pub fn apply_bundle(&mut self, name: &str, (replicas, beside): (u32, Option<u32>), policies: Value) -> Uid {
        let uid = self.apply(name, replicas, policies);
        let pod = json!({"containers": [{"image": "nginx", "resources": {"requests": {"cpu": "100m"}}}]});
        let deployment = |name: String, replicas: u32| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
                "spec": {"replicas": replicas, "template": {"spec": pod}}})
        };
        let other = match beside {
            Some(replicas) => deployment(format!("{name}-cache"), replicas),
            None => {
                json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{name}-pod")}, "spec": pod})
            }
        };
        let objects = [deployment(name.to_owned(), replicas), other];
        self.edit(&APPLICATION, "default", name, |application| {
            application["spec"]["components"] =
                json!([{"name": name, "type": "k8s-objects", "properties": {"objects": objects}}]);
        });
        uid
    }

    /// As the API does it for a person named bob: an object with finalizers only gets its time of deletion.
    pub fn delete(&mut self, kind: &Kind, namespace: &str, name: &str) {
        let now = self.now().wall;
        let origin = Origin { user: "bob".into(), trace: "t2".into(), ..Origin::default() };
        self.edit(kind, namespace, name, |object| mark_deleted(object, now, &origin));
    }

    pub fn edit(&mut self, kind: &Kind, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self.object(kind, namespace, name).expect("an object to edit");
        edit(&mut object);
        self.put(kind, namespace, name, object);
    }

    pub fn put(&mut self, kind: &Kind, namespace: &str, name: &str, object: Value) {
        let key = keys::key(kind, namespace, name);
        let compares = match self.store.get(&key) {
            Some(entry) => vec![Compare::Modified(key.clone(), entry.modified)],
            None => vec![Compare::Absent(key.clone())],
        };
        let operations = vec![Operation::Put(key, object::encode(&object))];
        let outcome = self.store.commit(Transaction { compares, operations });
        assert!(matches!(outcome, Ok(Outcome::Committed(_))), "{outcome:?}");
    }

    pub fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Value> {
        let entry = self.store.get(&keys::key(kind, namespace, name))?;
        object::decode(&entry.value).ok()
    }

    pub fn app(&self, name: &str) -> Value {
        self.object(&APPLICATION, "default", name).unwrap_or_default()
    }

    pub fn cluster(&self, name: &str) -> Value {
        self.object(&CLUSTER, "", name).unwrap_or_default()
    }

    pub fn condition(object: &Value, type_: &str) -> Value {
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.find(|condition| condition["type"] == type_).cloned().unwrap_or_default()
    }

    pub fn agent(&mut self, name: &str) -> &mut Agent {
        let uid = Uid::from(self.cluster(name)["metadata"]["uid"].as_str().expect("a cluster"));
        self.agents.get_mut(&uid).expect("its agent")
    }

    pub fn placement(&self, application: &Uid) -> Option<Placement> {
        let mut placements = Placements::default();
        for entry in self.store.entries() {
            match Record::of(&entry.key) {
                Some(Record::Head(uid)) => placements.set_head(uid, Some(&entry)).expect("a head"),
                Some(Record::Chunk { application, decision, index }) => {
                    placements.set_chunk((application, decision, index), Some(&entry)).expect("a chunk");
                }
                _ => {}
            }
        }
        placements.settle();
        placements.get(application).map(|stored| (*stored.placement).clone())
    }

    /// Decided replicas by cluster name.
    pub fn shares(&self, application: &Uid) -> BTreeMap<String, u32> {
        let rows = self.placement(application).map(|placement| placement.rows).unwrap_or_default();
        let count =
            |row: &crate::model::placement::Row| row.components.values().filter_map(|share| share.replicas).sum();
        let placed = rows.iter().filter(|row| !row.components.is_empty());
        placed.map(|row| (row.cluster_name.clone(), count(row))).collect()
    }

    pub fn removals(&self, application: &Uid) -> Vec<(String, Removal)> {
        let rows = self.placement(application).map(|placement| placement.rows).unwrap_or_default();
        let of = |row: crate::model::placement::Row| {
            row.removals.into_iter().map(move |removal| (row.cluster_name.clone(), removal))
        };
        rows.into_iter().flat_map(of).collect()
    }

    /// Names of what runs in a cluster.
    pub fn running(&mut self, cluster: &str) -> Vec<String> {
        self.agent(cluster).objects.keys().map(|object| object.name.name.clone()).collect()
    }

    pub fn events(&self) -> Vec<String> {
        let prefix = keys::prefix(&EVENT, None);
        let events = self.store.entries().filter(|entry| entry.key.as_str().starts_with(&prefix));
        let text = |event: Value| {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{} {}: {}", text("/involvedObject/name"), text("/reason"), text("/message"))
        };
        events.filter_map(|entry| object::decode(&entry.value).ok()).map(text).collect()
    }

    pub fn keys(&self, prefix: &str) -> Vec<Key> {
        self.store.entries().map(|entry| entry.key).filter(|key| key.as_str().starts_with(prefix)).collect()
    }
}

impl Agent {
    /// Says its capacity again.
    pub fn forget(&mut self) {
        self.sketch = None;
    }

    fn carry_out(&mut self, work: &Work, slices: &Slices) {
        if self.refuses {
            return drop(self.works.insert(work.application_uid.clone(), work.clone()));
        }
        for manifest in &work.manifests {
            let patched = manifest.patches.first().and_then(|patch| patch.value.as_u64());
            let written = || {
                let bytes = slices.blob(&work.cluster, &manifest.blob).expect("a blob that its work lists");
                let object: Value = serde_json::from_slice(&bytes).expect("a manifest");
                object["spec"]["replicas"].as_u64().unwrap_or(1)
            };
            let uid = Uid(format!("{}-uid", manifest.object.name.name));
            self.objects.insert(manifest.object.clone(), (uid, patched.unwrap_or_else(written) as u32));
        }
        for removal in &work.removals {
            self.objects.remove(&removal.object);
        }
        self.works.insert(work.application_uid.clone(), work.clone());
    }

    fn report(&self, work: &Work) -> Report {
        let object = |manifest: &crate::model::work::Manifest| ObjectReport {
            object: manifest.object.clone(),
            uid: self.objects.get(&manifest.object).map(|(uid, _)| uid.clone()),
            state: if self.refuses { ObjectState::Refused } else { ObjectState::Applied },
            health: Health::Healthy,
            reason: String::new(),
            message: String::new(),
        };
        let count = |object: &ObjectRef| {
            let replicas = self.objects.get(object).map_or(0, |(_, replicas)| *replicas);
            let ready = if self.unready { 0 } else { replicas };
            let bound = replicas + self.ending as u32;
            ReplicaCount { desired: replicas, ready, updated: replicas, bound }
        };
        let mut components: Vec<ComponentReport> = Vec::new();
        for manifest in &work.manifests {
            let of_it = work.manifests.iter().filter(|known| known.component == manifest.component);
            let told = |known: &crate::model::work::Manifest| WorkloadReport {
                object: known.object.clone(),
                replicas: count(&known.object),
                held: Resources::default(),
                scaled: false,
            };
            let workloads: Vec<WorkloadReport> = of_it.map(told).collect();
            let replicas =
                workloads.iter().map(|told| told.replicas).fold(ReplicaCount::default(), |sum, next| ReplicaCount {
                    desired: sum.desired + next.desired,
                    ready: sum.ready + next.ready,
                    updated: sum.updated + next.updated,
                    bound: sum.bound + next.bound,
                });
            if components.iter().all(|known| known.name != manifest.component) {
                components.push(ComponentReport {
                    name: manifest.component.clone(),
                    healthy: replicas.ready == replicas.desired,
                    replicas: Some(replicas),
                    scaled: self.scales,
                    workloads: if workloads.len() > 1 { workloads } else { Vec::new() },
                    ..ComponentReport::default()
                });
            }
        }
        Report {
            application: work.application_uid.clone(),
            cluster: work.cluster.clone(),
            generation: work.generation,
            revision: work.revision.clone(),
            applied: !self.refuses,
            refused: None,
            components,
            objects: work.manifests.iter().map(object).collect(),
            removed: work.removals.iter().map(|removal| removal.object.clone()).collect(),
            trace: work.trace.clone(),
        }
    }

    fn measure(&self) -> Sketch {
        let pods: i64 = self.objects.values().map(|(_, replicas)| i64::from(*replicas)).sum();
        let used = (pods + self.ending) * REQUEST;
        let free = Resources::of([(CPU, self.room * REQUEST - used), (PODS, 1000)]);
        let allocatable = Resources::of([(CPU, self.room * REQUEST), (PODS, 1000)]);
        let shapes = vec![Shape { count: 1, free: free.clone(), ..Shape::default() }];
        Sketch { sequence: 1, nodes: 1, shapes, allocatable, free, ..Sketch::default() }
    }
}
