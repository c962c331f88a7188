//! One work that the ledger holds, and what is known of its objects.
//!
//! Owns: what has to happen next to each object, in which order. Must never: let a removal begin before every
//! manifest of its work stands as written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::pace::{Backoff, Jitter, Repairs};
use crate::{
    agent::{
        cluster::Rejection,
        ledger::{Entry, Made},
    },
    flow::{
        diff::{self, Action, Cause, Known, Remembered},
        observe::{self, Observed, Pods, Standing},
    },
    model::{
        Digest, GroupVersionKind, Now, ObjectRef, Report, Timestamp, Uid, Work,
        report::{ObjectState, Refused},
    },
};

/// A pause is looked at again this often, because nobody tells when the annotation of a namespace goes.
const PAUSE_LOOK_MS: u64 = 30_000;
/// What the member refuses while things settle: a binding that its authorizer has not seen yet, a kind whose
/// definition is not established. Told only when it stays.
const PASSING: [&str; 6] = ["Forbidden", "NotFound", "KindUnknown", "Conflict", "Unreachable", "Timeout"];
const PASSING_FAILURES: u32 = 3;

#[derive(Debug, Clone)]
pub struct Holding {
    pub work: Arc<Work>,
    /// Everything that the work names, by manifest or by removal.
    pub things: BTreeMap<ObjectRef, Thing>,
    pub made: BTreeMap<ObjectRef, Made>,
    pub removed: BTreeSet<ObjectRef>,
    pub held: bool,
    /// A newer offer that could not be taken.
    pub refused: Option<Refused>,
}

/// One object in the member.
#[derive(Debug, Clone)]
pub struct Thing {
    pub known: Known,
    pub observed: Option<Observed>,
    /// Resource version of what is known; what is older says nothing new.
    pub version: u64,
    /// A call is under way.
    pub busy: bool,
    pub retry: Backoff,
    pub repairs: Repairs,
    pub obstacle: Option<(String, String)>,
}

impl Default for Thing {
    fn default() -> Self {
        Self {
            known: Known::Nothing,
            observed: None,
            version: 0,
            busy: false,
            retry: Backoff::default(),
            repairs: Repairs::default(),
            obstacle: None,
        }
    }
}

impl Thing {
    pub fn reject(&mut self, rejection: &Rejection, now_ms: u64, jitter: &mut Jitter) {
        self.retry.reject(rejection, now_ms, jitter);
        if self.retry.failures >= PASSING_FAILURES || !PASSING.contains(&rejection.reason.as_str()) {
            self.obstacle = Some((rejection.reason.clone(), rejection.message.clone()));
        }
    }

    /// An apply went unanswered: it may have been carried out all the same, so what was absent has to be looked at.
    pub fn doubt(&mut self, rejection: &Rejection) {
        if self.known == Known::Absent && rejection.is_unanswered() {
            self.known = Known::Nothing;
        }
    }

    /// How many replicas it asks for as it is; absent where it has none or is not there.
    pub fn replicas(&self) -> Option<u32> {
        let present = matches!(self.known, Known::Present(_));
        self.observed.as_ref().filter(|_| present).and_then(|observed| observed.replicas).map(|count| count.desired)
    }

    pub fn accept(&mut self) {
        self.retry.clear();
        self.obstacle = None;
    }

    /// Whether this resource version, or a later one, is what is known.
    pub fn has_seen(&self, version: u64) -> bool {
        matches!(self.known, Known::Present(_)) && version <= self.version
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Look,
    Apply(Cause),
    Delete(Uid),
}

/// What may happen now, in order.
#[derive(Debug, Default, PartialEq)]
pub struct Turn {
    pub steps: Vec<(ObjectRef, Step)>,
    pub wake_at_ms: Option<u64>,
    /// Something waits for a pause to end, or for a write.
    pub wants_namespace: bool,
    /// The ledger has to be told.
    pub changed: bool,
}

impl Turn {
    fn wake(&mut self, at_ms: u64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
    }
}

impl Holding {
    pub fn from_entry(entry: Entry) -> Self {
        let things = names(&entry.work).map(|object| (object.clone(), Thing::default())).collect();
        Self {
            things,
            made: entry.made.into_iter().map(|made| (made.object.clone(), made)).collect(),
            removed: entry.removed.into_iter().collect(),
            held: entry.held,
            refused: None,
            work: entry.work,
        }
    }

    /// The entry of a newer work, keeping what is known of the objects of this one.
    pub fn entry_for(previous: Option<&Self>, work: Arc<Work>, held: bool) -> Entry {
        let mut made = previous.map(|previous| previous.made.clone()).unwrap_or_default();
        for manifest in &work.manifests {
            let line = || Made { object: manifest.object.clone(), uid: None, result: None, projection: None };
            made.entry(manifest.object.clone()).or_insert_with(line);
        }
        Entry { work, made: made.into_values().collect(), removed: Vec::new(), held }
    }

    /// The newer work is durable: it takes this one's place.
    pub fn replace(&mut self, entry: &Entry) {
        let mut things = std::mem::take(&mut self.things);
        self.work = entry.work.clone();
        self.things = names(&entry.work)
            .map(|object| {
                let mut thing = things.remove(object).unwrap_or_default();
                thing.accept();
                (object.clone(), thing)
            })
            .collect();
        for made in &entry.made {
            self.made.entry(made.object.clone()).or_insert_with(|| made.clone());
        }
        self.removed.clear();
        self.held = entry.held;
        self.refused = None;
    }

    pub fn entry(&self) -> Entry {
        Entry {
            work: self.work.clone(),
            made: self.made.values().cloned().collect(),
            removed: self.removed.iter().cloned().collect(),
            held: self.held,
        }
    }

    pub fn kinds(&self) -> impl Iterator<Item = &GroupVersionKind> {
        self.things.keys().map(|object| &object.gvk)
    }

    /// The name under which the work knows a live object. Cluster-scoped objects live without the namespace that
    /// they may have been rendered with.
    pub fn name_of(&self, live: &ObjectRef) -> Option<ObjectRef> {
        if self.things.contains_key(live) {
            return Some(live.clone());
        }
        let same = |known: &&ObjectRef| {
            known.gvk == live.gvk
                && known.name.name == live.name.name
                && (known.name.namespace.is_empty() || live.name.namespace.is_empty())
        };
        self.things.keys().find(same).cloned()
    }

    pub fn result_of(&self, object: &ObjectRef) -> Option<Digest> {
        self.work.manifests.iter().find(|manifest| manifest.object == *object).map(|manifest| manifest.result)
    }

    /// Whether its last removal is done and nothing that was made is left. A work that merely lists nothing is not
    /// finished: what it made still runs.
    pub fn is_finished(&self) -> bool {
        let all_removed = self.work.removals.iter().all(|removal| self.removed.contains(&removal.object));
        self.work.is_removal() && all_removed && self.made.is_empty()
    }

    /// What may happen next. Manifests go wave by wave; removals begin when every manifest stands, unless they may
    /// not begin at all. `paused` is the pause of the namespace; `is_synced` tells the kinds whose watch has begun, so
    /// that what the ledger wrote and the watch does not show is worth a look.
    pub fn turn(
        &mut self,
        now: Now,
        paused: Option<Timestamp>,
        is_synced: impl Fn(&GroupVersionKind) -> bool,
        may_remove: bool,
        jitter: &mut Jitter,
    ) -> Turn {
        let mut turn = Turn::default();
        let work = self.work.clone();
        for wave in 0..WAVES {
            let mut settled = true;
            for manifest in work.manifests.iter().filter(|manifest| wave_of(&manifest.object.gvk) == wave) {
                let action = self.manifest_action(&manifest.object, manifest.result, paused, now.wall);
                let unlooked = self.made.get(&manifest.object).and_then(|made| made.result) != Some(manifest.result);
                let may_look = unlooked || is_synced(&manifest.object.gvk);
                settled &= self.take(&mut turn, now, &manifest.object, action, may_look, jitter);
            }
            if !settled {
                return turn;
            }
        }
        if !may_remove || self.held {
            return turn;
        }
        for removal in &work.removals {
            // While a call on it is under way, an apply of an older generation perhaps, nobody can say that it is gone.
            let is_busy = self.things.get(&removal.object).is_some_and(|thing| thing.busy);
            if is_busy || self.removed.contains(&removal.object) {
                continue;
            }
            // What the work lists it does not remove, whatever else it says.
            let listed = work.manifests.iter().any(|manifest| manifest.object == removal.object);
            let action = if listed {
                Action::Done
            } else {
                let (application, known) = (&work.application_uid, &self.things[&removal.object].known);
                diff::removal(application, removal, self.remembered(&removal.object), known, paused, now.wall)
            };
            if action == Action::Done {
                self.removed.insert(removal.object.clone());
                if !listed {
                    self.made.remove(&removal.object);
                }
                turn.changed = true;
            } else {
                self.take(&mut turn, now, &removal.object, action, true, jitter);
            }
        }
        turn
    }

    fn remembered(&self, object: &ObjectRef) -> Option<Remembered<'_>> {
        let made = self.made.get(object)?;
        Some(Remembered { uid: made.uid.as_ref(), result: made.result, projection: made.projection })
    }

    fn manifest_action(&self, object: &ObjectRef, result: Digest, paused: Option<Timestamp>, now: Timestamp) -> Action {
        let known = self.things.get(object).map_or(&Known::Nothing, |thing| &thing.known);
        diff::manifest(&self.work.application_uid, result, self.remembered(object), known, paused, now)
    }

    /// Adds what the action asks for to the turn; whether the object stands as it should.
    fn take(
        &mut self,
        turn: &mut Turn,
        now: Now,
        object: &ObjectRef,
        action: Action,
        may_look: bool,
        jitter: &mut Jitter,
    ) -> bool {
        let Some(thing) = self.things.get_mut(object) else { return false };
        if thing.busy {
            return false;
        }
        if let Action::Paused(until) = action {
            let left = until.millis().saturating_sub(now.wall.millis()).max(0) as u64;
            turn.wake(now.monotonic_ms + left.min(PAUSE_LOOK_MS));
            turn.wants_namespace = true;
            thing.obstacle = Some(("Paused".into(), format!("writes are paused in the member until {until}")));
            return false;
        }
        if action == Action::Nothing {
            thing.accept();
            return true;
        }
        if thing.obstacle.as_ref().is_some_and(|(reason, _)| reason == "Paused") {
            thing.obstacle = None;
        }
        if thing.retry.not_before_ms > now.monotonic_ms {
            turn.wake(thing.retry.not_before_ms);
            return false;
        }
        match action {
            Action::Look if may_look => turn.steps.push((object.clone(), Step::Look)),
            Action::Apply(Cause::Drift | Cause::Missing) if thing.repairs.not_before_ms() > now.monotonic_ms => {
                turn.wake(thing.repairs.not_before_ms());
            }
            Action::Apply(cause) => {
                turn.wants_namespace = true;
                turn.steps.push((object.clone(), Step::Apply(cause)));
            }
            Action::Delete(uid) => {
                turn.wants_namespace = true;
                turn.steps.push((object.clone(), Step::Delete(uid)));
            }
            Action::Refuse(refusal) => {
                let is_known = thing.obstacle.as_ref().is_some_and(|(reason, _)| reason == refusal.reason());
                thing.obstacle = Some((refusal.reason().into(), refusal.to_string()));
                thing.retry.fail(now.monotonic_ms, jitter);
                turn.wake(thing.retry.not_before_ms);
                // It is looked at again now and then, because nobody tells when a foreign object goes.
                if is_known {
                    turn.steps.push((object.clone(), Step::Look));
                }
            }
            Action::Look | Action::AwaitGone | Action::Nothing | Action::Done | Action::Paused(_) => {}
        }
        false
    }

    /// What stands in the way of every write to the namespace stands in the way of each that is due.
    pub fn namespace_obstacle(&mut self, rejection: &Rejection) {
        let work = self.work.clone();
        for manifest in &work.manifests {
            if self.state(&manifest.object, manifest.result) != ObjectState::Applied
                && let Some(thing) = self.things.get_mut(&manifest.object)
            {
                thing.obstacle = Some((rejection.reason.clone(), rejection.message.clone()));
            }
        }
    }

    pub fn report(&self, pods: impl Fn(&ObjectRef) -> Pods) -> Report {
        let manifests = self.work.manifests.iter().map(|manifest| {
            let state = self.state(&manifest.object, manifest.result);
            self.standing(&manifest.object, &manifest.component, state, pods(&manifest.object))
        });
        let removals = self.work.removals.iter().filter(|removal| !self.removed.contains(&removal.object));
        let removals = removals.map(|removal| {
            let mut standing = self.standing(&removal.object, "", ObjectState::Removing, Pods::default());
            if self.held {
                standing.obstacle = Some((
                    "Held",
                    "nobody named this removal, and too many like it came within ten minutes: a person has to confirm it",
                ));
            }
            standing
        });
        let standings: Vec<Standing<'_>> = manifests.chain(removals).collect();
        let removed: Vec<ObjectRef> = self.removed.iter().cloned().collect();
        observe::report(&self.work, &standings, &removed, self.refused.clone())
    }

    fn standing<'a>(
        &'a self,
        object: &'a ObjectRef,
        component: &'a str,
        state: ObjectState,
        pods: Pods,
    ) -> Standing<'a> {
        let thing = self.things.get(object);
        let obstacle = thing.and_then(|thing| thing.obstacle.as_ref());
        let uid = match thing.map(|thing| &thing.known) {
            Some(Known::Present(seen)) => Some(&seen.uid),
            _ => self.made.get(object).and_then(|made| made.uid.as_ref()),
        };
        Standing {
            object,
            component,
            uid,
            state,
            obstacle: obstacle.map(|(reason, message)| (reason.as_str(), message.as_str())),
            observed: thing.and_then(|thing| thing.observed.as_ref()),
            pods,
        }
    }

    fn state(&self, object: &ObjectRef, result: Digest) -> ObjectState {
        let Some(thing) = self.things.get(object) else { return ObjectState::Pending };
        match &thing.obstacle {
            Some((reason, _)) if reason == "Paused" => return ObjectState::Paused,
            Some(_) => return ObjectState::Refused,
            None => {}
        }
        let made = self.made.get(object).filter(|made| made.result == Some(result) && made.projection.is_some());
        match (made, &thing.known) {
            // After a restart the ledger's word stands until the watch says otherwise.
            (Some(_), Known::Nothing) => ObjectState::Applied,
            (Some(made), Known::Present(seen)) if seen.projection == made.projection && !seen.terminating => {
                ObjectState::Applied
            }
            _ => ObjectState::Pending,
        }
    }
}

fn names(work: &Work) -> impl Iterator<Item = &ObjectRef> {
    work.manifests.iter().map(|manifest| &manifest.object).chain(work.removals.iter().map(|removal| &removal.object))
}

const WAVES: u8 = 3;

/// What others need to exist goes first; within a wave the work's own order.
fn wave_of(gvk: &GroupVersionKind) -> u8 {
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("", "Namespace") => 0,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => 1,
        _ => 2,
    }
}
