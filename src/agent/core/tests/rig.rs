//! A hub, a ledger and a member by hand around one core: every effect is carried out at once, unless the test says no.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    agent::{
        cluster::{Deletion, Live, NamespaceFacts, OWNER_LABEL, Rejection},
        core::{Answer, Call, Config, Core, Effect, Event},
        ledger::{Ledger, memory::MemoryLedger},
    },
    model::{
        Digest, GroupVersionKind, Now, ObjectName, ObjectRef, Report, Timestamp, Uid, Work,
        cluster::Facts,
        protocol::{Refuse, ToAgent, ToHub, Welcome},
        work::{Manifest, Removal, RemovalReason},
    },
};

pub struct Rig {
    pub core: Core,
    pub ledger: MemoryLedger,
    pub ledger_fails: bool,
    pub ms: u64,
    pub member: Member,
    pub sent: Vec<ToHub>,
    pub ledger_writes: usize,
    /// What the hub serves; a blob that is missing here never arrives.
    pub blobs: BTreeMap<Digest, Bytes>,
    pub connected: bool,
    pub closed: Vec<String>,
    /// Applies that are on their way to the member, while they take so long.
    pub slow_applies: Option<Vec<(u64, Call)>>,
    /// What the core is told next: no event arrives inside the step of another.
    queue: VecDeque<Event>,
}

/// As little of an API server as the core can tell apart.
#[derive(Default)]
pub struct Member {
    pub objects: BTreeMap<ObjectRef, Value>,
    pub version: u64,
    pub paused_until: Option<String>,
    pub refusals: BTreeMap<ObjectRef, Rejection>,
    pub namespace_refusal: Option<Rejection>,
    pub writes: Vec<String>,
    pub deletes: Vec<ObjectRef>,
    pub looks: usize,
    watched: Vec<GroupVersionKind>,
    news: Vec<(GroupVersionKind, Live)>,
}

pub fn start() -> Rig {
    let ledger = MemoryLedger::default();
    let (core, effects) = Core::start(Config::default(), at(0), ledger.clone().load().expect("loads"));
    let mut rig = Rig {
        core,
        ledger,
        ledger_fails: false,
        ms: 0,
        member: Member::default(),
        sent: Vec::new(),
        ledger_writes: 0,
        blobs: BTreeMap::new(),
        connected: false,
        closed: Vec::new(),
        slow_applies: None,
        queue: VecDeque::new(),
    };
    rig.carry_out(effects);
    rig.facts("member-1");
    rig
}

pub fn at(ms: u64) -> Now {
    Now { wall: Timestamp::from_millis(1_800_000_000_000 + ms as i64), monotonic_ms: ms }
}

impl Rig {
    pub fn facts(&mut self, system_uid: &str) {
        self.tell(Event::Facts(Facts { system_uid: system_uid.into(), ..Facts::default() }));
    }

    pub fn tell(&mut self, event: Event) {
        self.queue.push_back(event);
        loop {
            let news = self.member.news.drain(..).map(|(gvk, live)| Event::Live { gvk, live });
            self.queue.extend(news);
            let Some(event) = self.queue.pop_front() else { return };
            let effects = self.core.step(at(self.ms), event);
            self.carry_out(effects);
        }
    }

    /// Lets time pass, waking the core when it wants.
    pub fn pass(&mut self, ms: u64) {
        let end = self.ms + ms;
        while let Some(at) = self.core.wake_at().filter(|at| *at <= end) {
            self.ms = self.ms.max(at);
            self.tell(Event::Tick);
            if self.connected {
                self.tell(Event::LinkMessage(ToAgent::BeatAck));
            }
        }
        self.ms = end;
        self.tell(Event::Tick);
    }

    pub fn connect(&mut self) {
        self.connect_to("incarnation-1");
    }

    pub fn connect_to(&mut self, incarnation: &str) {
        self.connected = true;
        self.tell(Event::LinkOpened);
        self.tell(Event::LinkMessage(ToAgent::Welcome(Welcome {
            urls: Vec::new(),
            protocol: 1,
            features: vec![],
            hub: "hub".into(),
            incarnation: incarnation.into(),
            cluster: "eu".into(),
            cluster_name: "eu".into(),
            hub_time: at(self.ms).wall,
            beat_interval_ms: 5_000,
        })));
    }

    /// What was on its way reaches the member; its answers are lost where `is_lost`.
    pub fn let_applies_through(&mut self, is_lost: bool) {
        for (id, call) in self.slow_applies.take().unwrap_or_default() {
            let lost = Rejection { reason: "Timeout".into(), message: "no answer".into() };
            let answer = self.member.answer(call);
            self.tell(Event::Answered { id, answer: if is_lost { Answer::Applied(Err(lost)) } else { answer } });
        }
    }

    pub fn disconnect(&mut self) {
        self.connected = false;
        self.tell(Event::LinkClosed("cut".into()));
    }

    pub fn refuse(&mut self, reason: &str) {
        let refuse = Refuse { reason: reason.into(), message: String::new(), retry: false };
        self.tell(Event::LinkOpened);
        self.tell(Event::LinkMessage(ToAgent::Refuse(refuse)));
        self.disconnect();
    }

    /// The process dies and another begins on the same ledger, in the same member.
    pub fn restart(&mut self) {
        self.member.watched.clear();
        let (core, effects) = Core::start(Config::default(), at(self.ms), self.ledger.clone().load().expect("loads"));
        self.core = core;
        self.connected = false;
        self.carry_out(effects);
        self.facts("member-1");
    }

    pub fn send(&mut self, work: &Work) {
        self.tell(Event::LinkMessage(ToAgent::Work(Arc::new(work.clone()))));
    }

    pub fn release(&mut self, work: &Work) {
        let (application, generation) = (work.application_uid.clone(), work.generation);
        self.tell(Event::LinkMessage(ToAgent::Release { application, generation }));
    }

    /// What the hub heard last of an Application.
    pub fn report(&self, application: &str) -> Report {
        let reports = self.sent.iter().rev().filter_map(|message| match message {
            ToHub::Report(report) if report.application.0 == application => Some(Report::clone(report)),
            _ => None,
        });
        reports.into_iter().next().expect("a report")
    }

    pub fn refusal(&self, application: &str) -> String {
        self.report(application).refused.map(|refused| refused.reason).unwrap_or_default()
    }

    pub fn held(&self) -> Vec<(String, u64)> {
        let loaded = self.ledger.clone().load().expect("loads");
        loaded.entries.iter().map(|entry| (entry.work.application_uid.0.clone(), entry.work.generation)).collect()
    }

    /// A person changes something in the member.
    pub fn touch(&mut self, object: &ObjectRef, change: impl FnOnce(&mut Value)) {
        let mut live = self.member.objects.get(object).cloned().expect("is there");
        change(&mut live);
        self.member.store(object, live);
        self.tell(Event::Tick);
    }

    pub fn vanish(&mut self, object: &ObjectRef) {
        self.member.remove(object);
        self.tell(Event::Tick);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => self.hear(message),
                Effect::CloseLink(why) => self.closed.push(why),
                Effect::Write { id, writes } => {
                    self.ledger_writes += 1;
                    let result = if self.ledger_fails { Err("no space left".to_owned()) } else { Ok(()) };
                    if result.is_ok() {
                        self.ledger.write(&writes).expect("memory writes");
                    }
                    self.queue.push_back(Event::Written { id, result });
                }
                Effect::Call { id, call: call @ Call::Apply { .. } } if self.slow_applies.is_some() => {
                    self.slow_applies.iter_mut().for_each(|calls| calls.push((id, call.clone())));
                }
                Effect::Call { id, call } => {
                    let answer = self.member.answer(call);
                    self.queue.push_back(Event::Answered { id, answer });
                }
                Effect::Watch(gvk) => {
                    let owned = |object: &&Value| {
                        object.pointer("/metadata/labels").is_some_and(|l| l.get(OWNER_LABEL).is_some())
                    };
                    let all = self.member.objects.iter().filter(|(object, _)| object.gvk == gvk);
                    let live = Live::Reset(all.map(|(_, live)| live).filter(owned).cloned().collect());
                    self.member.watched.push(gvk.clone());
                    self.member.news.push((gvk, live));
                }
                Effect::Unwatch(gvk) => self.member.watched.retain(|watched| *watched != gvk),
            }
        }
    }

    fn hear(&mut self, message: ToHub) {
        self.sent.push(message.clone());
        self.queue.push_back(Event::Sent);
        if let ToHub::FetchBlobs(digests) = message {
            for digest in digests {
                let Some(bytes) = self.blobs.get(&digest).cloned() else { continue };
                let total = bytes.len() as u64;
                self.queue.push_back(Event::LinkMessage(ToAgent::Blob { digest, offset: 0, total, bytes }));
            }
        }
    }

    /// A work of Deployments with these names and images, its blobs at the hub.
    pub fn work(&mut self, application: &str, generation: u64, objects: &[(&str, &str)]) -> Work {
        let application_blob = Bytes::from(format!("{{\"name\":\"{application}\"}}"));
        let mut work = Work {
            application: ObjectName::new("shop", application),
            application_uid: application.into(),
            cluster: "eu".into(),
            generation,
            revision: format!("{application}-v{generation}"),
            application_blob: Digest::of(&application_blob),
            manifests: vec![],
            removals: vec![],
            features: vec![],
            trace: String::new(),
        };
        self.blobs.insert(work.application_blob, application_blob);
        for (name, image) in objects {
            let object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "namespace": "shop"}, "spec": {"image": image}});
            let bytes = Bytes::from(object.to_string());
            work.manifests.push(Manifest {
                component: "web".into(),
                object: deployment(name),
                blob: Digest::of(&bytes),
                patches: vec![],
                result: Digest::of_json(&object),
            });
            self.blobs.insert(Digest::of(&bytes), bytes);
        }
        work
    }
}

pub fn deployment(name: &str) -> ObjectRef {
    ObjectRef { gvk: GroupVersionKind::new("apps", "v1", "Deployment"), name: ObjectName::new("shop", name) }
}

pub fn removal(name: &str, uid: Option<&str>, reason: RemovalReason, author: &str) -> Removal {
    Removal { object: deployment(name), uid: uid.map(Uid::from), revision: "v1".into(), reason, author: author.into() }
}

impl Member {
    /// The uid of an object that is there.
    pub fn uid(&self, object: &ObjectRef) -> String {
        let uid = self.objects[object].pointer("/metadata/uid").and_then(Value::as_str);
        uid.expect("has a uid").to_owned()
    }

    pub fn store(&mut self, object: &ObjectRef, mut live: Value) {
        self.version += 1;
        let uid = format!("uid-{}", self.version);
        let metadata = live["metadata"].as_object_mut().expect("has metadata");
        metadata.entry("uid").or_insert(json!(uid));
        metadata.insert("resourceVersion".into(), json!(self.version.to_string()));
        let owned = live.pointer("/metadata/labels").is_some_and(|labels| labels.get(OWNER_LABEL).is_some());
        self.objects.insert(object.clone(), live.clone());
        let news = if owned { Live::Applied(live) } else { Live::Deleted(object.clone()) };
        self.tell(object, news);
    }

    pub fn remove(&mut self, object: &ObjectRef) {
        if self.objects.remove(object).is_some() {
            self.version += 1;
            self.tell(object, Live::Deleted(object.clone()));
        }
    }

    fn tell(&mut self, object: &ObjectRef, news: Live) {
        if self.watched.contains(&object.gvk) {
            self.news.push((object.gvk.clone(), news));
        }
    }

    fn answer(&mut self, call: Call) -> Answer {
        match call {
            Call::EnsureNamespace(_) => Answer::Namespace(match &self.namespace_refusal {
                Some(rejection) => Err(rejection.clone()),
                None => Ok(NamespaceFacts { paused_until: self.paused_until.clone() }),
            }),
            Call::Get(object) => {
                self.looks += 1;
                // Who cannot be reached cannot be asked either.
                if let Some(rejection) = self.refusals.get(&object).filter(|rejection| rejection.is_unanswered()) {
                    return Answer::Got(Err(rejection.clone()));
                }
                Answer::Got(Ok(self.objects.get(&object).cloned()))
            }
            Call::Apply { object, .. } => {
                let reference = ObjectRef::of(&object).expect("an object");
                self.writes.push(format!("apply {reference}"));
                if let Some(rejection) = self.refusals.get(&reference) {
                    return Answer::Applied(Err(rejection.clone()));
                }
                let before = self.objects.get(&reference).cloned();
                let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
                if let Some(expected) = version(&object)
                    && before.as_ref().and_then(version) != Some(expected)
                {
                    let message = "the object has been modified".to_owned();
                    return Answer::Applied(Err(Rejection { reason: "Conflict".into(), message }));
                }
                let mut live = before.clone().unwrap_or_else(|| json!({"metadata": {}, "spec": {"defaulted": true}}));
                merge(&mut live, &object);
                if before.as_ref() != Some(&live) {
                    self.store(&reference, live);
                }
                Answer::Applied(Ok(self.objects[&reference].clone()))
            }
            Call::Delete { object, uid, .. } => {
                assert_eq!(self.uid(&object), uid.0, "deletes name the object that is there");
                self.writes.push(format!("delete {object}"));
                self.deletes.push(object.clone());
                self.remove(&object);
                Answer::Deleted(Ok(Deletion::Gone))
            }
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
