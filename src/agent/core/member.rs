//! The core towards the member: turns, calls and what is seen.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Answer, Call, Core, Effect, Link, Wrote, brake,
    holding::{Holding, Step, Thing},
};
use crate::{
    agent::{
        capacity::scalers::{Target, is_target},
        cluster::{Capacity, Deletion, Live, NamespaceFacts, OWNER_LABEL, PAUSED_UNTIL, Rejection},
        ledger::{Made, Write},
    },
    flow::{
        diff::{self, Cause, Known, Seen},
        observe,
    },
    model::{Digest, GroupVersionKind, Now, ObjectRef, Timestamp, Uid},
};

/// How long a namespace counts as looked at.
const NAMESPACE_FRESH_MS: u64 = 30_000;

/// A call that is under way.
#[derive(Debug)]
pub(super) enum Doing {
    Namespace(String),
    Look { application: Uid, object: ObjectRef },
    Apply { application: Uid, object: ObjectRef, result: Digest, written: Box<Value>, cause: Cause },
    Delete { application: Uid, object: ObjectRef },
}

impl Core {
    /// Gives every work that is ready its turn, as far as calls and the budget reach.
    pub(super) fn act(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.budget_at_ms = None;
        if !self.may_act() {
            // Nothing is lost: facts, or a welcome, make every work ready again.
            self.ready.clear();
            return;
        }
        self.brake.forget_old(now.monotonic_ms);
        while self.calls.len() < self.config.calls_max {
            let Some(application) = self.ready.pop() else { return };
            if !self.turn(now, &application, effects) {
                self.ready.push_first(application);
                return;
            }
        }
    }

    /// Whether the work had all it could use; otherwise it waits for a free call or for the budget.
    fn turn(&mut self, now: Now, application: &Uid, effects: &mut Vec<Effect>) -> bool {
        let may_remove = !matches!(&self.link, Link::Open(standing) if standing.foreign);
        let Some(holding) = self.works.get_mut(application) else { return true };
        let namespace = holding.work.application.namespace.clone();
        let paused = self.namespaces.get(&namespace).and_then(|known| known.facts.as_ref());
        let paused = diff::paused_until(paused.and_then(|facts| facts.paused_until.as_deref()));
        let watches = &self.watches;
        let is_synced = |gvk: &GroupVersionKind| watches.get(gvk) == Some(&true);
        let turn = holding.turn(now, paused, is_synced, may_remove, &mut self.jitter);
        if let Some(at) = turn.wake_at_ms {
            self.timers.insert((at, application.clone()));
        }
        if turn.changed {
            self.unsaved(now, application);
        }
        self.mark(now, application, turn.changed);
        let namespace_ready = !turn.wants_namespace || self.has_namespace(now, application, &namespace, effects);
        for (object, step) in turn.steps {
            if !namespace_ready && step != Step::Look {
                continue;
            }
            if self.calls.len() >= self.config.calls_max || !self.affords(now, &step) {
                return false;
            }
            match step {
                Step::Look => self.look(application, object, effects),
                Step::Apply(cause) => self.apply(now, application, object, cause, effects),
                Step::Delete(uid) => self.delete(now, application, object, uid, effects),
            }
        }
        true
    }

    fn affords(&mut self, now: Now, step: &Step) -> bool {
        if *step == Step::Look {
            return true;
        }
        let taken = self.budget.take(now.monotonic_ms);
        self.budget_at_ms = taken.err();
        taken.is_ok()
    }

    /// Whether the namespace was looked at lately and may be written to; otherwise it is looked at, and its works are
    /// made ready again by the answer.
    fn has_namespace(&mut self, now: Now, application: &Uid, name: &str, effects: &mut Vec<Effect>) -> bool {
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        if namespace.facts.is_some() && namespace.fresh_until_ms > now.monotonic_ms {
            return true;
        }
        if namespace.busy {
            return false;
        }
        if namespace.retry.not_before_ms > now.monotonic_ms {
            self.timers.insert((namespace.retry.not_before_ms, application.clone()));
            return false;
        }
        namespace.busy = true;
        self.call(Doing::Namespace(name.to_owned()), Call::EnsureNamespace(name.to_owned()), effects);
        false
    }

    fn call(&mut self, doing: Doing, call: Call, effects: &mut Vec<Effect>) {
        let id = self.next_id();
        self.calls.insert(id, doing);
        effects.push(Effect::Call { id, call });
    }

    fn look(&mut self, application: &Uid, object: ObjectRef, effects: &mut Vec<Effect>) {
        self.set_busy(application, &object);
        let doing = Doing::Look { application: application.clone(), object: object.clone() };
        self.call(doing, Call::Get(object), effects);
    }

    fn apply(&mut self, now: Now, application: &Uid, object: ObjectRef, cause: Cause, effects: &mut Vec<Effect>) {
        let Some(holding) = self.works.get(application) else { return };
        let Some(manifest) = holding.work.manifests.iter().find(|manifest| manifest.object == object) else { return };
        let (namespace, result) = (holding.work.application.namespace.clone(), manifest.result);
        let written = self.blobs.manifest(manifest);
        let written = match written {
            Ok(value) => {
                let prepared = diff::prepared(value, OWNER_LABEL, application);
                match holding.things.get(&object).and_then(Thing::replicas) {
                    Some(live) if self.capacity.scalers.scales(&object) == Some(true) => {
                        diff::with_live_replicas(prepared, live, cause, holding.things[&object].version)
                    }
                    _ => prepared,
                }
            }
            // It was proved when it was taken; only a broken memory ends here.
            Err(refused) => {
                let rejection = Rejection { reason: refused.reason, message: refused.message };
                return self.reject(now, application, &object, &rejection);
            }
        };
        self.set_busy(application, &object);
        let doing = Doing::Apply {
            application: application.clone(),
            object,
            result,
            written: Box::new(written.clone()),
            cause,
        };
        self.call(doing, Call::Apply { namespace, object: written }, effects);
    }

    /// Deletes, unless too much that nobody named would go (rule 14).
    fn delete(&mut self, now: Now, application: &Uid, object: ObjectRef, uid: Uid, effects: &mut Vec<Effect>) {
        let Some(holding) = self.works.get(application) else { return };
        let namespace = holding.work.application.namespace.clone();
        if brake::removes_unnamed(&holding.work) {
            if self.is_braked(now, application) {
                if let Some(holding) = self.works.get_mut(application) {
                    holding.held = true;
                }
                self.unsaved(now, application);
                self.mark(now, application, true);
                return;
            }
            self.brake.ran(application, now.monotonic_ms);
            self.session.unnamed_removals.retain(|_, at| at.plus_seconds(600) > now.wall);
            // Once per work is enough: the brake counts works.
            if self.session.unnamed_removals.insert(application.clone(), now.wall).is_none() {
                self.write(vec![Write::Session(self.session.clone())], Wrote::Session, effects);
            }
        }
        self.set_busy(application, &object);
        let doing = Doing::Delete { application: application.clone(), object: object.clone() };
        self.call(doing, Call::Delete { namespace, object, uid }, effects);
    }

    fn is_braked(&self, now: Now, application: &Uid) -> bool {
        let waits = |holding: &Holding| {
            !holding.held
                && brake::removes_unnamed(&holding.work)
                && holding.work.removals.iter().any(|removal| !holding.removed.contains(&removal.object))
        };
        let waiting = self.works.iter().filter(|(_, holding)| waits(holding)).map(|(application, _)| application);
        let held = self.works.iter().filter(|(_, holding)| holding.held).map(|(application, _)| application);
        // What is held already counts: otherwise the last ones of a large set would slip through.
        let touched: BTreeSet<&Uid> = waiting.chain(held).chain([application]).collect();
        self.brake.holds(&touched, self.works.len(), now.monotonic_ms)
    }

    fn set_busy(&mut self, application: &Uid, object: &ObjectRef) {
        if let Some(thing) = self.works.get_mut(application).and_then(|holding| holding.things.get_mut(object)) {
            thing.busy = true;
        }
    }

    fn reject(&mut self, now: Now, application: &Uid, object: &ObjectRef, rejection: &Rejection) {
        if let Some(thing) = self.works.get_mut(application).and_then(|holding| holding.things.get_mut(object)) {
            thing.reject(rejection, now.monotonic_ms, &mut self.jitter);
        }
        self.mark(now, application, true);
    }

    pub(super) fn answered(&mut self, now: Now, id: u64, answer: Answer) {
        let Some(doing) = self.calls.remove(&id) else { return };
        match (doing, answer) {
            (Doing::Namespace(name), Answer::Namespace(result)) => self.namespace_answered(now, &name, result),
            (Doing::Look { application, object }, Answer::Got(result)) => {
                self.idle(&application, &object);
                match result {
                    Ok(live) => self.see(now, &application, &object, live.as_ref(), true),
                    Err(rejection) => self.reject(now, &application, &object, &rejection),
                }
            }
            (Doing::Apply { application, object, result, written, cause }, Answer::Applied(answer)) => {
                self.idle(&application, &object);
                match answer {
                    Ok(live) => self.applied(now, &application, &object, result, &written, cause, &live),
                    Err(rejection) => {
                        if let Some(holding) = self.works.get_mut(&application)
                            && let Some(thing) = holding.things.get_mut(&object)
                        {
                            thing.doubt(&rejection);
                        }
                        self.doubt_namespace(&application, &rejection);
                        self.reject(now, &application, &object, &rejection);
                    }
                }
            }
            (Doing::Delete { application, object }, Answer::Deleted(result)) => {
                self.idle(&application, &object);
                match result {
                    Ok(Deletion::Gone) => self.see(now, &application, &object, None, true),
                    Ok(Deletion::Pending) => self.going(&application, &object),
                    Err(rejection) => self.reject(now, &application, &object, &rejection),
                }
            }
            // An answer of another kind than the call: a broken shell. The object is looked at again.
            (Doing::Namespace(name), _) => {
                self.namespaces.remove(&name);
            }
            (Doing::Look { application, object }, _)
            | (Doing::Apply { application, object, .. }, _)
            | (Doing::Delete { application, object }, _) => self.idle(&application, &object),
        }
    }

    /// A namespace that was deleted is made again.
    fn doubt_namespace(&mut self, application: &Uid, rejection: &Rejection) {
        let namespace = self.works.get(application).map(|holding| &holding.work.application.namespace);
        let known = namespace.and_then(|namespace| self.namespaces.get_mut(namespace));
        if let Some(known) = known.filter(|_| rejection.reason == "NotFound" || rejection.reason == "Forbidden") {
            known.fresh_until_ms = 0;
        }
    }

    fn idle(&mut self, application: &Uid, object: &ObjectRef) {
        if let Some(thing) = self.works.get_mut(application).and_then(|holding| holding.things.get_mut(object)) {
            thing.busy = false;
        }
        self.get_ready(application);
    }

    fn namespace_answered(&mut self, now: Now, name: &str, result: Result<NamespaceFacts, Rejection>) {
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        namespace.busy = false;
        let rejected = match result {
            Ok(facts) => {
                namespace.facts = Some(facts);
                namespace.fresh_until_ms = now.monotonic_ms + NAMESPACE_FRESH_MS;
                namespace.retry.clear();
                None
            }
            Err(rejection) => {
                namespace.facts = None;
                namespace.retry.reject(&rejection, now.monotonic_ms, &mut self.jitter);
                Some(rejection)
            }
        };
        let mut touched = Vec::new();
        for (application, holding) in &mut self.works {
            if holding.work.application.namespace == name {
                rejected.iter().for_each(|rejection| holding.namespace_obstacle(rejection));
                touched.push(application.clone());
            }
        }
        for application in touched {
            self.get_ready(&application);
            self.mark(now, &application, rejected.is_some());
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one answered call")]
    fn applied(
        &mut self,
        now: Now,
        application: &Uid,
        object: &ObjectRef,
        result: Digest,
        written: &Value,
        cause: Cause,
        live: &Value,
    ) {
        let projection = self.projection(application, object, written.clone(), live);
        if let Some(holding) = self.works.get_mut(application) {
            let made = Made {
                object: object.clone(),
                uid: Some(uid_of(live)),
                result: Some(result),
                projection: Some(projection),
            };
            holding.made.insert(object.clone(), made);
            if let Some(thing) = holding.things.get_mut(object) {
                thing.accept();
                if cause != Cause::Changed {
                    thing.repairs.done(now.monotonic_ms, &mut self.jitter);
                }
                // The watch may have told of a later state already.
                let version = version_of(live);
                if version == 0 || version >= thing.version {
                    thing.version = version;
                    thing.known = Known::Present(Seen { projection: Some(projection), ..seen(live) });
                    thing.observed = Some(observe::observe(live));
                }
            }
        }
        self.unsaved(now, application);
        self.mark(now, application, true);
    }

    fn going(&mut self, application: &Uid, object: &ObjectRef) {
        let thing = self.works.get_mut(application).and_then(|holding| holding.things.get_mut(object));
        if let Some(Known::Present(seen)) = thing.map(|thing| &mut thing.known) {
            seen.terminating = true;
        }
    }

    /// Takes in how an object stands; `None` is known to be absent. `fresh`: it was asked for just now.
    fn see(&mut self, now: Now, application: &Uid, object: &ObjectRef, live: Option<&Value>, fresh: bool) {
        let Some(holding) = self.works.get(application) else { return };
        let version = live.map_or(0, version_of);
        if !fresh && version != 0 && holding.things.get(object).is_some_and(|thing| thing.has_seen(version)) {
            // The watch tells of our own write, or of what is older than that.
            return;
        }
        let manifest = holding.work.manifests.iter().find(|manifest| manifest.object == *object);
        let projection = manifest.zip(live).and_then(|(manifest, live)| {
            let written = diff::prepared(self.blobs.manifest(manifest).ok()?, OWNER_LABEL, application);
            Some(self.projection(application, object, written, live))
        });
        let Some(thing) = self.works.get_mut(application).and_then(|holding| holding.things.get_mut(object)) else {
            return;
        };
        match live {
            None => {
                thing.known = Known::Absent;
                thing.observed = None;
                thing.version = 0;
                if fresh {
                    thing.accept();
                }
            }
            Some(live) => {
                if version != 0 && version < thing.version {
                    return;
                }
                thing.version = version;
                thing.known = Known::Present(Seen { projection, ..seen(live) });
                thing.observed = Some(observe::observe(live));
            }
        }
        self.get_ready(application);
        self.mark(now, application, fresh);
    }

    /// What stands at our fields of an object. Replicas that the member scales are not ours; until its autoscalers are
    /// known they are not where all is as it was written without them.
    fn projection(&self, application: &Uid, object: &ObjectRef, written: Value, live: &Value) -> Digest {
        let digest = |written: &Value| Digest::of_json(&diff::projection(written, live));
        let scaled = self.capacity.scalers.scales(object);
        if scaled == Some(false) || diff::replicas(&written).is_none() {
            return digest(&written);
        }
        let with = digest(&written);
        let without = digest(&diff::without_replicas(written));
        let made = self.works.get(application).and_then(|holding| holding.made.get(object));
        let remembered = made.and_then(|made| made.projection);
        if scaled == Some(true) || remembered == Some(without) { without } else { with }
    }

    /// The watch no longer shows it: it may be gone, or only without our label. It has to be looked at.
    fn lose_sight(&mut self, now: Now, application: &Uid, object: &ObjectRef) {
        let thing = self.works.get_mut(application).and_then(|holding| holding.things.get_mut(object));
        let Some(thing) = thing else { return };
        if matches!(thing.known, Known::Present(_)) {
            thing.known = Known::Nothing;
            thing.version = 0;
            self.mark(now, application, false);
        }
        self.get_ready(application);
    }

    pub(super) fn live(&mut self, now: Now, gvk: &GroupVersionKind, live: Live) {
        if !self.watches.contains_key(gvk) {
            return;
        }
        match live {
            Live::Applied(object) => self.take_live(now, &object),
            Live::Deleted(object) => {
                for (application, known) in self.naming(&object) {
                    self.lose_sight(now, &application, &known);
                }
            }
            Live::Reset(objects) => {
                self.watches.insert(gvk.clone(), true);
                let listed: BTreeSet<ObjectRef> = objects.iter().filter_map(ObjectRef::of).collect();
                objects.iter().for_each(|object| self.take_live(now, object));
                let unlisted: Vec<(Uid, ObjectRef)> = self
                    .works
                    .iter()
                    .flat_map(|(application, holding)| {
                        let of_kind = holding.things.keys().filter(|object| object.gvk == *gvk);
                        of_kind.map(|object| (application.clone(), object.clone()))
                    })
                    .filter(|(_, object)| {
                        let anywhere =
                            ObjectRef { name: crate::model::ObjectName::new("", &object.name.name), ..object.clone() };
                        !listed.contains(object) && !listed.contains(&anywhere)
                    })
                    .collect();
                unlisted.iter().for_each(|(application, object)| self.lose_sight(now, application, object));
                // Some waited for this list alone, and nothing in it may be news.
                let of_kind = |holding: &Holding| holding.things.keys().any(|object| object.gvk == *gvk);
                let waiting = self.works.iter().filter(|(_, holding)| of_kind(holding));
                let waiting: Vec<Uid> = waiting.map(|(application, _)| application.clone()).collect();
                waiting.into_iter().for_each(|application| self.ready.push(application));
            }
        }
    }

    fn take_live(&mut self, now: Now, live: &Value) {
        let Some(object) = ObjectRef::of(live) else { return };
        for (application, known) in self.naming(&object) {
            self.see(now, &application, &known, Some(live), false);
        }
    }

    /// The works that name a live object, each with its name for it.
    fn naming(&self, live: &ObjectRef) -> Vec<(Uid, ObjectRef)> {
        let works = self.named.get(&(live.gvk.clone(), live.name.name.clone()));
        let named = works
            .into_iter()
            .flatten()
            .filter_map(|application| Some((application.clone(), self.works.get(application)?.name_of(live)?)));
        named.collect()
    }

    pub(super) fn capacity(&mut self, now: Now, change: Capacity) {
        let touched = self.capacity.apply(change);
        if touched.room {
            self.sketch_changed(now);
        }
        if !touched.scaled.is_empty() {
            self.scaling_changed(now, &touched.scaled);
        }
        for workload in touched.workloads {
            for (application, _) in self.naming(&workload) {
                self.mark(now, &application, false);
            }
        }
    }

    /// What of these workloads is ours to compare is another question now: they are looked at again.
    fn scaling_changed(&mut self, now: Now, targets: &BTreeSet<Target>) {
        let of_work = |(application, holding): (&Uid, &Holding)| -> Vec<(Uid, ObjectRef)> {
            let scaled = holding.things.keys().filter(|object| is_target(object, targets));
            scaled.map(|object| (application.clone(), object.clone())).collect()
        };
        let scaled: Vec<(Uid, ObjectRef)> = self.works.iter().flat_map(of_work).collect();
        for (application, object) in scaled {
            self.lose_sight(now, &application, &object);
        }
    }
}

fn seen(live: &Value) -> Seen {
    Seen {
        uid: uid_of(live),
        owner: text(live, "labels", OWNER_LABEL).map(Uid::from),
        projection: None,
        terminating: live.pointer("/metadata/deletionTimestamp").is_some(),
        paused_until: pause_of(live),
    }
}

fn pause_of(live: &Value) -> Option<Timestamp> {
    diff::paused_until(text(live, "annotations", PAUSED_UNTIL))
}

fn text<'a>(live: &'a Value, map: &str, key: &str) -> Option<&'a str> {
    live.get("metadata")?.get(map)?.get(key)?.as_str()
}

fn uid_of(live: &Value) -> Uid {
    Uid::from(live.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default())
}

/// Resource versions are decimal and grow (KEP-5504); zero where one is not.
fn version_of(live: &Value) -> u64 {
    let version = live.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}
