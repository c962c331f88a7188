//! Clusters: what is heard of them, and what their status says.
//!
//! Liveness is this process's own receive time on the monotonic clock. A new leader gives every cluster a fresh term of
//! grace. Silence makes a cluster Unknown and nothing else.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Controller, Effect, FromAgent, Settings,
    applications::{cause, deletion},
    brake::Confirmation,
    draining::TELL_MS,
    index::StoredCluster,
    lanes::{Plan, unchanged},
};
use crate::{
    flow::{measure, schedule::Candidate, slice::Cause},
    hub::{
        agents::roster::FROZEN,
        events::{About, Note},
    },
    kinds::{
        CLUSTER,
        cluster::{
            CLUSTER_FINALIZER, CONFIRM_ANNOTATION, CONFIRM_AUTHOR_ANNOTATION, DRAIN_AUTHOR_ANNOTATION,
            DRAIN_TRACE_ANNOTATION, FORGET_ANNOTATION,
        },
    },
    model::{
        Cluster, Condition, Conditions, Now, Resources, Sketch, Timestamp, Uid,
        cluster::{DRAINED, DeletionPolicy, Facts, READY},
        condition::Truth,
    },
    store::{Operation, Transaction, object},
};

const HELD: &str = "RemovalsHeld";
/// A changed sketch is stored at most this often, and only when it changed by this part of what is allocatable.
const SKETCH_MS_MIN: u64 = 30_000;
const SKETCH_PART: i64 = 20;
/// The stored sketch is for people and for asking "what if": coarser than the one that is placed by.
const STORED_SHAPES_MAX: usize = 256;
const STORED_SKETCH_BYTES_MAX: usize = 512 << 10;
/// False while what an agent says of its capacity cannot be true; absent otherwise.
const CAPACITY: &str = "CapacityKnown";
/// What was heard of a cluster since this process leads.
#[derive(Debug, Clone, Default)]
pub struct Member {
    heard: Option<(u64, Timestamp)>,
    /// Since when it is waited for, where nothing was heard yet.
    awaited_ms: u64,
    silent: bool,
    pub sketch: Option<Sketch>,
    facts: Option<Facts>,
    /// Two holders of its identity were alive, and that is not stored yet.
    freezes: bool,
    sketch_written_ms: Option<u64>,
}

impl Member {
    /// Whether its agent may still come to say what is free.
    pub fn is_awaited(&self, now: Now, settings: &Settings) -> bool {
        self.sketch.is_none() && now.monotonic_ms < self.awaited_ms + settings.grace_ms
    }
}

impl Controller {
    pub(super) fn on_agent(&mut self, now: Now, message: FromAgent) {
        match message {
            FromAgent::Connected { cluster } | FromAgent::Beat { cluster } => self.on_voice(now, &cluster),
            // The stream may come back before the grace is over; only silence counts.
            FromAgent::Disconnected { .. } => {}
            FromAgent::Sketch { cluster, sketch } => {
                self.on_voice(now, &cluster);
                self.on_sketch(now, &cluster, sketch);
            }
            FromAgent::Facts { cluster, facts } => {
                self.on_voice(now, &cluster);
                if let Some(member) = self.members.get_mut(&cluster)
                    && member.facts.as_ref() != Some(&facts)
                {
                    member.facts = Some(facts);
                    self.clusters_due.insert(cluster, now.monotonic_ms);
                }
            }
            FromAgent::Report { cluster, report } => {
                self.on_voice(now, &cluster);
                self.on_report(now, &cluster, *report);
            }
            FromAgent::Frozen { cluster } => {
                let message = "two agents used this identity at once; a person decides which one goes on".to_owned();
                self.tell_of_cluster(now, &cluster, true, "IdentityFrozen", message);
                let stored = self.index.clusters.get(&cluster);
                let frozen = stored.is_some_and(|stored| stored.view.metadata.annotations.contains_key(FROZEN));
                self.member(&cluster).freezes = !frozen;
                self.clusters_due.insert(cluster, now.monotonic_ms);
            }
            FromAgent::StoreWentBack { cluster, revision } => {
                let message = format!(
                    "the store was at revision {revision} before and is at {}: it went back in time; nothing is decided until \
                     a person has looked and restarts the hub",
                    self.index.revision
                );
                if !self.halted {
                    self.effects.push(Effect::Fault(message.clone()));
                }
                self.halted = true;
                self.tell_of_cluster(now, &cluster, true, "StoreWentBack", message);
            }
        }
    }

    /// An agent may be heard a moment before the store's feed tells of its Cluster. One that never does is forgotten once
    /// it is silent.
    fn member(&mut self, cluster: &Uid) -> &mut Member {
        self.members.entry(cluster.clone()).or_default()
    }

    fn on_voice(&mut self, now: Now, cluster: &Uid) {
        let member = self.member(cluster);
        let news = member.heard.is_none() || member.silent;
        member.heard = Some((now.monotonic_ms, now.wall));
        member.silent = false;
        if news {
            self.on_truth(now, cluster);
        }
    }

    /// One that cannot be true is not believed: nothing new is placed there, and the Cluster says why.
    fn on_sketch(&mut self, now: Now, cluster: &Uid, sketch: Sketch) {
        let sketch = match measure::fault(&sketch) {
            Some(fault) if sketch.fault.is_empty() => Sketch::unbelieved(fault),
            _ => sketch,
        };
        let member = self.member(cluster);
        if member.sketch.as_ref() == Some(&sketch) {
            return;
        }
        let other_fault = member.sketch.as_ref().map_or("", |known| &known.fault) != sketch.fault;
        let due = match (other_fault, member.sketch_written_ms) {
            (false, Some(written)) => written + SKETCH_MS_MIN,
            _ => now.monotonic_ms,
        };
        if other_fault && !sketch.fault.is_empty() {
            self.tell_of_cluster(now, cluster, true, "SketchRefused", sketch.fault.clone());
        }
        let member = self.member(cluster);
        member.sketch = Some(sketch);
        self.reservations.mark_stale(cluster);
        let due = due.max(now.monotonic_ms);
        let known = self.clusters_due.entry(cluster.clone()).or_insert(due);
        *known = due.min(*known);
    }

    /// A Cluster came, went or changed; wakes whom a change concerns. One that came or went is told of to everybody.
    pub(super) fn on_cluster(&mut self, now: Now, uid: &Uid) -> bool {
        let Some(stored) = self.index.clusters.get(uid).cloned() else {
            self.members.remove(uid);
            self.truths.remove(uid);
            self.clusters_due.remove(uid);
            self.lanes.remove(uid);
            self.retries.remove(uid);
            return self.fleet.remove(uid);
        };
        let frozen = stored.view.metadata.annotations.contains_key(FROZEN);
        let member = self.members.entry(uid.clone()).or_default();
        // Written once: a person who removes the annotation has decided.
        member.freezes &= !frozen;
        if member.heard.is_none() && member.awaited_ms == 0 {
            member.awaited_ms = now.monotonic_ms.max(1);
        }
        self.clusters_due.insert(uid.clone(), now.monotonic_ms);
        // What is heard of it stays as it was heard.
        let known = self.fleet.get(uid).cloned();
        let heard = known.as_ref().map(|known| (known.silent, known.room.clone())).unwrap_or_default();
        let candidate = Candidate { silent: heard.0, room: heard.1, ..Candidate::of(&stored.view) };
        self.fleet.upsert(uid, candidate.clone());
        self.reservations.mark_stale(uid);
        self.on_truth(now, uid);
        for application in self.brake.held(uid).cloned().unwrap_or_default() {
            self.mark(&application, now.monotonic_ms, true);
        }
        match known {
            Some(known) => self.wake_for_facts(now, uid, &known, &candidate),
            None => return true,
        }
        false
    }

    /// Looks who has fallen silent, a few times within the grace.
    pub(super) fn watch_silence(&mut self, now: Now) {
        if now.monotonic_ms < self.silence_check_ms {
            return;
        }
        self.silence_check_ms = now.monotonic_ms + (self.settings.grace_ms / 5).max(1);
        let grace_ms = self.settings.grace_ms;
        let over = |member: &Member| {
            let since = member.heard.map_or(member.awaited_ms, |(at_ms, _)| at_ms);
            !member.silent && now.monotonic_ms.saturating_sub(since) >= grace_ms
        };
        let silent: Vec<Uid> =
            self.members.iter().filter(|(_, member)| over(member)).map(|(uid, _)| uid.clone()).collect();
        for uid in silent {
            if let Some(member) = self.members.get_mut(&uid) {
                member.silent = true;
            }
            self.on_truth(now, &uid);
        }
        let clusters = &self.index.clusters;
        self.members.retain(|uid, member| !member.silent || clusters.contains_key(uid));
    }

    /// Whether a cluster is heard of. In a fresh term, before anything was heard, what is stored counts.
    fn truth(&self, stored: &StoredCluster, member: &Member) -> Truth {
        let stored_ready = stored.view.status.conditions.get(READY).map(|condition| condition.status);
        match (member.heard, member.silent) {
            _ if stored.view.metadata.annotations.contains_key(FROZEN) => Truth::False,
            (Some(_), false) => Truth::True,
            (_, true) => Truth::Unknown,
            (None, false) => stored_ready.unwrap_or(Truth::Unknown),
        }
    }

    fn on_truth(&mut self, now: Now, uid: &Uid) {
        let (Some(stored), Some(member)) = (self.index.clusters.get(uid), self.members.get(uid)) else { return };
        let truth = self.truth(stored, member);
        if self.truths.insert(uid.clone(), truth) == Some(truth) {
            return;
        }
        let known = self.fleet.get(uid).cloned();
        self.fleet.set_silent(uid, truth != Truth::True);
        self.clusters_due.insert(uid.clone(), now.monotonic_ms);
        for application in self.index.tenants.get(uid).cloned().unwrap_or_default() {
            // What moves from or to there waits for its voice.
            let hands_over = self.index.placement(&application).is_some_and(|placement| placement.has_move_at(uid));
            self.mark(&application, now.monotonic_ms, hands_over);
        }
        if let Some((known, heard)) = known.zip(self.fleet.get(uid).cloned()) {
            self.wake_waiting(now, uid, &known, &heard);
        }
    }

    /// What is left in clusters that are to be empty may have changed.
    pub(super) fn tell_of_leaving(&mut self, now: Now) {
        for (uid, cluster) in self.fleet.iter() {
            if cluster.deleting {
                self.clusters_due.insert(uid.clone(), now.monotonic_ms);
            } else if cluster.draining {
                self.clusters_due.entry(uid.clone()).or_insert(now.monotonic_ms + TELL_MS);
            }
        }
    }

    /// Whether nobody waits for what runs there: its Cluster is gone, orphans it, or is to be forgotten.
    pub(super) fn is_dropped(&self, uid: &Uid) -> bool {
        let Some(stored) = self.index.clusters.get(uid) else { return true };
        let metadata = &stored.view.metadata;
        let forgotten = metadata.annotations.get(FORGET_ANNOTATION).is_some_and(|of| *of == uid.0);
        metadata.deletion_timestamp.is_some()
            && (forgotten || stored.view.spec.deletion_policy == DeletionPolicy::Orphan)
    }

    /// By whose request a cluster is being drained; absent where it is not.
    pub(super) fn drain(&self, uid: &Uid) -> Option<Cause<'_>> {
        let view = &self.index.clusters.get(uid)?.view;
        let metadata = &view.metadata;
        match metadata.deletion_timestamp {
            Some(_) => (!self.is_dropped(uid)).then(|| deletion(metadata)),
            None => view.spec.drain.then(|| cause(metadata, DRAIN_AUTHOR_ANNOTATION, DRAIN_TRACE_ANNOTATION)),
        }
    }

    pub(super) fn settle_clusters(&mut self, now: Now) {
        let due = |(uid, at_ms): &(&Uid, &u64)| **at_ms <= now.monotonic_ms && !self.lanes.contains_key(*uid);
        let due: Vec<Uid> = self.clusters_due.iter().filter(due).map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            self.clusters_due.remove(&uid);
            self.settle_cluster(now, &uid);
        }
    }

    fn settle_cluster(&mut self, now: Now, uid: &Uid) {
        let Some(stored) = self.index.clusters.get(uid).cloned() else { return };
        let metadata = &stored.view.metadata;
        let ours = metadata.finalizers.iter().any(|finalizer| finalizer == CLUSTER_FINALIZER);
        if metadata.deletion_timestamp.is_some() && ours && !self.index.tenants.contains_key(uid) {
            return self.finish_cluster(now, &stored);
        }
        if self.is_drain_open(&stored.view) {
            self.clusters_due.insert(uid.clone(), now.monotonic_ms + TELL_MS);
        }
        let mut object = stored.object();
        let sketched = self.write_status(now, uid, &stored.view, &mut object);
        if self.members.get(uid).is_some_and(|member| member.freezes)
            && let Some(annotations) = object::annotations_mut(&mut object)
        {
            annotations.entry(FROZEN).or_insert_with(|| now.wall.to_string().into());
        }
        if metadata.deletion_timestamp.is_none() && !ours {
            let mut finalizers = metadata.finalizers.clone();
            finalizers.push(CLUSTER_FINALIZER.to_owned());
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        if object == stored.object() {
            return;
        }
        if let Some(member) = self.members.get_mut(uid)
            && let Some((_, heard)) = member.heard
        {
            object["status"]["lastBeat"] = json!(heard.to_string());
            if sketched {
                member.sketch_written_ms = Some(now.monotonic_ms);
            }
        }
        self.tell_of_ready(now, uid, &stored.view, &object);
        let key = stored.entry.key.clone();
        let pointer = Transaction {
            compares: vec![unchanged(key.clone(), Some(stored.entry.modified))],
            operations: vec![Operation::Put(key, object::encode(&object))],
        };
        self.begin(uid, Plan { pointer, ..Plan::default() });
    }

    /// Patches what is known into the object; whether the sketch was among it.
    fn write_status(&self, now: Now, uid: &Uid, view: &Cluster, object: &mut Value) -> bool {
        let Some(member) = self.members.get(uid) else { return false };
        let mut conditions = view.status.conditions.clone();
        let set = |conditions: &mut Conditions, type_: &str, (status, reason, message): (Truth, &str, String)| {
            conditions.set(Condition {
                type_: type_.to_owned(),
                status,
                reason: reason.to_owned(),
                message,
                last_transition_time: now.wall,
                observed_generation: None,
            });
        };
        let frozen = view.metadata.annotations.get(FROZEN);
        match (frozen, member.heard, member.silent) {
            (Some(message), ..) => set(&mut conditions, READY, (Truth::False, "IdentityFrozen", message.clone())),
            (None, Some(_), false) => set(&mut conditions, READY, (Truth::True, "AgentConnected", String::new())),
            (None, _, true) if view.spec.accepted || view.status.conditions.get(READY).is_some() => {
                let message = "its agent is silent; what runs there stays as it was decided".to_owned();
                set(&mut conditions, READY, (Truth::Unknown, "AgentSilent", message));
            }
            (None, ..) => {}
        }
        let works = self.index.tenants.get(uid).map_or(0, BTreeSet::len);
        match self.brake.words(uid, &view.metadata.name, works) {
            Some(words) => set(&mut conditions, HELD, (Truth::True, "NotConfirmed", words)),
            None => conditions.0.retain(|condition| condition.type_ != HELD),
        }
        match self.drained(view) {
            Some(told) => set(&mut conditions, DRAINED, told),
            None => conditions.0.retain(|condition| condition.type_ != DRAINED),
        }
        match member.sketch.as_ref().filter(|sketch| !sketch.fault.is_empty()) {
            Some(sketch) => {
                let message = format!("what its agent says of its capacity is not believed: {}", sketch.fault);
                set(&mut conditions, CAPACITY, (Truth::False, "SketchRefused", message));
            }
            None => conditions.0.retain(|condition| condition.type_ != CAPACITY),
        }
        put_if_changed(object, "conditions", &view.status.conditions, &conditions);
        if let Some(facts) = &member.facts {
            put_if_changed(object, "facts", &view.status.facts, facts);
        }
        let may_write = member.sketch_written_ms.is_none_or(|at_ms| now.monotonic_ms >= at_ms + SKETCH_MS_MIN);
        match &member.sketch {
            Some(sketch) if may_write && differs(view.status.sketch.as_ref(), sketch) => {
                object["status"]["sketch"] = stored(sketch);
                true
            }
            _ => false,
        }
    }

    fn tell_of_ready(&mut self, now: Now, uid: &Uid, before: &Cluster, object: &Value) {
        let conditions: Conditions = serde_json::from_value(object["status"]["conditions"].clone()).unwrap_or_default();
        let old = before.status.conditions.get(READY).map(|condition| condition.status);
        let Some(ready) = conditions.get(READY).filter(|ready| Some(ready.status) != old) else { return };
        match (old, ready.status) {
            (None, Truth::True) => {
                self.tell_of_cluster(now, uid, false, "ClusterJoined", "its agent is connected".into())
            }
            (_, Truth::True) => {
                self.tell_of_cluster(now, uid, false, "ClusterReady", "its agent is heard again".into())
            }
            (_, Truth::Unknown) => self.tell_of_cluster(now, uid, true, "ClusterSilent", ready.message.clone()),
            (_, Truth::False) => self.tell_of_cluster(now, uid, true, "ClusterNotReady", ready.message.clone()),
        }
    }

    pub(super) fn tell_of_cluster(
        &mut self,
        now: Now,
        uid: &Uid,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let Some(stored) = self.index.clusters.get(uid) else { return };
        let about = About { gvk: CLUSTER.gvk.clone(), name: stored.view.metadata.object_name(), uid: uid.clone() };
        self.note(now, &Note { about, warning, reason: reason.into(), message });
    }
}

/// What a person agreed to on a cluster (rule 14).
pub fn confirmed(cluster: &Cluster) -> Option<Confirmation<'_>> {
    let annotation = |key: &str| cluster.metadata.annotations.get(key).map(String::as_str);
    let author = annotation(CONFIRM_AUTHOR_ANNOTATION)?;
    Some(Confirmation { digest: annotation(CONFIRM_ANNOTATION)?, author })
}

fn put_if_changed<T: PartialEq + serde::Serialize>(object: &mut Value, field: &str, before: &T, after: &T) {
    if before != after {
        object["status"][field] = json!(after);
    }
}

/// The form in which a sketch is stored; its sums alone where all of it would be too large.
fn stored(sketch: &Sketch) -> Value {
    let coarse = json!(measure::coarser(sketch, STORED_SHAPES_MAX));
    match coarse.to_string().len() {
        0..=STORED_SKETCH_BYTES_MAX => coarse,
        _ => {
            let Sketch { sequence, nodes, allocatable, free, .. } = sketch.clone();
            json!(Sketch { sequence, nodes, allocatable, free, ..Sketch::default() })
        }
    }
}

/// Whether a sketch is worth storing over the one that is: by a twentieth of what is allocatable in any resource, other
/// nodes, or other kinds of them. Its sequence is of no account.
fn differs(stored: Option<&Sketch>, fresh: &Sketch) -> bool {
    let Some(stored) = stored else { return true };
    let apart = |one: &Resources, other: &Resources| {
        let part = |name: &String| (stored.allocatable.get(name).max(fresh.allocatable.get(name)) / SKETCH_PART).max(1);
        let far = |name: &String| one.get(name).abs_diff(other.get(name)) >= part(name).unsigned_abs();
        one.0.keys().chain(other.0.keys()).any(far)
    };
    let kinds = |sketch: &Sketch| sketch.shapes.iter().map(|shape| shape.kind.clone()).collect::<BTreeSet<_>>();
    // One with more shapes than are stored has its kinds of nodes summed up.
    let other_kinds = || fresh.shapes.len() <= STORED_SHAPES_MAX && kinds(stored) != kinds(fresh);
    (stored.nodes, &stored.labels, &stored.fault) != (fresh.nodes, &fresh.labels, &fresh.fault)
        || apart(&stored.free, &fresh.free)
        || apart(&stored.allocatable, &fresh.allocatable)
        || other_kinds()
}
