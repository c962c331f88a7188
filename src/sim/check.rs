//! Reads the whole state of a simulated world and lists which of the rules that never break are broken.
//!
//! Owns: what is remembered to tell it. Derived from what was stored, sent and written, never from what a part says of
//! itself. Must never: change the world.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    handing::{Fall, Handing},
    member::template_requests,
    world::{Site, World},
};
use crate::{
    agent::{cluster::OWNER_LABEL, ledger::Write},
    hub::{control, keys, records::Record, slices::Slices},
    kinds,
    model::{Digest, ObjectRef, Resources, Uid, Work, cluster::DRAINED, pointer, quantity::PODS, work::Manifest},
    store::{Change, Key, Operation, Revision, Transaction, mvcc::Mvcc, object, raft::ReplicaId},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at_ms: u64,
    /// Of DESIGN §6.
    pub rule: u8,
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {} ms, rule {}: {}", self.at_ms, self.rule, self.what)
    }
}

/// Who wrote to the hub's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    Person,
    Hub,
}

#[derive(Debug, Default)]
pub struct Checker {
    pub violations: Vec<Violation>,
    /// Transactions that the hub itself committed.
    pub hub_writes: u64,
    /// Per (cluster, application).
    works: BTreeMap<(Uid, Uid), Arc<Work>>,
    /// Per (cluster, application, generation), in each life of the store.
    decided: BTreeMap<(Uid, Uid, u64), BTreeMap<u32, Digest>>,
    store_life: u32,
    listed: BTreeSet<(Uid, Uid, ObjectRef)>,
    ordered: BTreeSet<(Uid, Uid, ObjectRef)>,
    /// Per (site, application): what its ledger said last.
    ledgers: BTreeMap<(String, Uid), u64>,
    /// Clusters that a person deleted.
    departed: BTreeSet<Uid>,
    last_intent_ms: u64,
    /// Per (cluster, application): when a placement said last that a part moves from there, or makes room for others. That it
    /// goes was decided then.
    moving: BTreeMap<(Uid, Uid), u64>,
    pub handing: Handing,
    /// Of the transaction that is looked at.
    falls: Vec<Fall>,
    /// Of every manifest ever decided, by the digest of its result.
    shapes: BTreeMap<Digest, Shape>,
    /// Works or rooms changed since rule 6 was checked.
    unchecked: bool,
    /// Every turn at leading.
    pub turns: BTreeMap<u64, Reign>,
    /// The turn whose transaction is looked at.
    pub deciding: Option<u64>,
    /// When each cluster's agent was last heard by any replica.
    heard: BTreeMap<Uid, u64>,
    /// Clusters that are stored as silent.
    silent: BTreeSet<Key>,
    /// Names of clusters, and since when they are there.
    joined_ms: BTreeMap<String, u64>,
    /// Every Application is divided by room.
    pub divided_only: bool,
}

/// One turn at leading.
#[derive(Debug)]
pub struct Reign {
    pub replica: ReplicaId,
    /// When the leader's key was written, as a revision of the store.
    pub key: Revision,
    pub began_ms: u64,
    /// Clusters of which it has a sketch, and whose agents have spoken since it began.
    pub fresh: BTreeSet<Uid>,
}

/// What a manifest asks of a cluster.
#[derive(Debug, Default)]
struct Shape {
    replicas: Option<u32>,
    /// Of one pod.
    requests: Option<Resources>,
}

/// A person's word explains what happens within this time.
pub const INTENT_MS: u64 = 60_000;
/// So long a cluster may be there before every status speaks of it.
const SEEN_MS: u64 = 10_000;

impl Checker {
    pub fn violate(&mut self, at_ms: u64, rule: u8, what: String) {
        self.violations.push(Violation { at_ms, rule, what });
    }

    /// A transaction was committed.
    pub fn committed(&mut self, now_ms: u64, author: Author, changes: &[Change], sites: &[Site]) {
        match author {
            Author::Person => self.last_intent_ms = now_ms,
            Author::Hub => self.hub_writes += 1,
        }
        for change in changes {
            if let Some(Record::Head(application)) = Record::of(&change.key) {
                self.note_moves(now_ms, &application, change);
                let (before, after) = (read(&change.previous), read(&change.current));
                self.handing.told(&application, before.as_ref(), after.as_ref(), sites);
            }
            if change.key.as_str().starts_with(&keys::prefix(&kinds::CLUSTER, None)) {
                self.cluster_changed(now_ms, author, change);
            }
            let is_application = change.key.as_str().starts_with(&keys::prefix(&kinds::APPLICATION, None));
            if author == Author::Person && is_application {
                let (before, after) = (read(&change.previous), read(&change.current));
                let spec = |value: &Option<Value>| value.as_ref().map(|value| value["spec"].clone());
                if let Some(written) = after.as_ref().or(before.as_ref()).filter(|_| spec(&before) != spec(&after)) {
                    self.handing.person_changed(now_ms, uid_of(written));
                }
            }
            if author == Author::Hub && is_application {
                self.told(now_ms, read(&change.current));
                let spec = |entry: &Option<crate::store::Entry>| read(entry).map(|value| value["spec"].clone());
                if let Some(after) = spec(&change.current)
                    && spec(&change.previous) != Some(after)
                {
                    self.violate(now_ms, 16, format!("the hub wrote into the spec of {}", change.key));
                }
            }
        }
    }

    /// An agent spoke to a replica.
    pub fn heard(&mut self, now_ms: u64, cluster: &Uid) {
        self.heard.insert(cluster.clone(), now_ms);
    }

    /// The leader was told of a cluster's sketch. It is fresh if the agent has spoken since the turn began, or if its
    /// stream was told to no leader before.
    pub fn sketch_told(&mut self, turn: u64, cluster: &Uid, stream_is_new: bool) {
        let heard_ms = self.heard.get(cluster).copied().unwrap_or_default();
        let fresh = |reign: &&mut Reign| stream_is_new || heard_ms >= reign.began_ms;
        if let Some(reign) = self.turns.get_mut(&turn).filter(fresh) {
            reign.fresh.insert(cluster.clone());
        }
    }

    /// A turn wants to write, so many milliseconds after it began by its own clock. Rule 4: it gives every cluster a fresh
    /// term of grace.
    pub fn proposed(&mut self, now_ms: u64, turn: u64, age_ms: u64, transaction: &Transaction) {
        if age_ms >= control::Settings::default().grace_ms {
            return;
        }
        let clusters = keys::prefix(&kinds::CLUSTER, None);
        for operation in &transaction.operations {
            let Operation::Put(key, value) = operation else { continue };
            let is_cluster = key.as_str().starts_with(&clusters);
            if is_cluster && !self.silent.contains(key) && object::decode(value).is_ok_and(|value| is_silent(&value)) {
                let replica = self.turns.get(&turn).map_or(0, |reign| reign.replica);
                let what = format!("replica {replica} calls {key} silent {age_ms} ms after it began to lead");
                self.violate(now_ms, 4, what);
            }
        }
    }

    /// Rule 6: a new leader decides on no cluster before its agent has been heard anew.
    fn rise(&mut self, now_ms: u64, old: Option<&Work>, new: &Work) {
        let Some(reign) = self.deciding.and_then(|turn| self.turns.get(&turn)) else { return };
        let total = |work: &Work| work.manifests.iter().map(|manifest| self.replicas(manifest)).sum::<u32>();
        let (before, after) = (old.map_or(0, total), total(new));
        // What is given in full to each place is given to one that has it already, whatever its room.
        let concerns = self.divided_only || old.is_none_or(Work::is_removal);
        if concerns && after > before && !reign.fresh.contains(&new.cluster) {
            let (application, cluster, replica) = (&new.application, &new.cluster, reign.replica);
            let what = format!(
                "{application} in {cluster}: {before} became {after} by replica {replica}, which had not heard of its agent"
            );
            self.violate(now_ms, 6, what);
        }
    }

    fn note_moves(&mut self, now_ms: u64, application: &Uid, change: &Change) {
        for head in [&change.previous, &change.current].into_iter().filter_map(read) {
            for known in head["moves"].as_array().into_iter().flatten() {
                let from = Uid::from(known["from"].as_str().unwrap_or_default());
                self.moving.insert((from, application.clone()), now_ms);
            }
            for claim in head["claims"].as_array().into_iter().flatten() {
                let cluster = Uid::from(claim["cluster"].as_str().unwrap_or_default());
                for victim in claim["victims"].as_array().into_iter().flatten() {
                    let victim = Uid::from(victim["applicationUid"].as_str().unwrap_or_default());
                    self.moving.insert((cluster.clone(), victim), now_ms);
                }
            }
        }
    }

    /// Rule 12, of what the hub says of an Application: of every cluster that it has had time to see.
    fn told(&mut self, now_ms: u64, application: Option<Value>) {
        let Some(application) = application.filter(is_decided) else { return };
        let seen = self.joined_ms.iter().filter(|(_, joined_ms)| **joined_ms + SEEN_MS <= now_ms);
        let untold = unexplained(&application, seen.map(|(name, _)| name.as_str()));
        untold.into_iter().for_each(|what| self.violate(now_ms, 12, what));
    }

    fn cluster_changed(&mut self, now_ms: u64, author: Author, change: &Change) {
        let name = |value: Value| value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match (read(&change.previous).map(name), read(&change.current).map(name)) {
            (None, Some(name)) => drop(self.joined_ms.insert(name, now_ms)),
            (Some(name), None) => drop(self.joined_ms.remove(&name)),
            _ => {}
        }
        if read(&change.current).is_some_and(|value| is_silent(&value)) {
            self.silent.insert(change.key.clone());
        } else {
            self.silent.remove(&change.key);
        }
        let deleting = |value: &Value| value["metadata"].get("deletionTimestamp").is_some();
        let gone = read(&change.current).is_none_or(|value| deleting(&value));
        if author == Author::Person
            && gone
            && let Some(previous) = read(&change.previous)
        {
            self.departed.insert(uid_of(&previous));
        }
    }

    /// The index of works followed the store.
    pub fn sliced(&mut self, now_ms: u64, slices: &Slices, store: &Mvcc, sites: &[Site]) {
        let (revision, entries) = slices.list(None);
        if revision == 0 {
            return;
        }
        let mut before = std::mem::take(&mut self.works);
        for entry in entries {
            let work = entry.work;
            let key = (work.cluster.clone(), work.application_uid.clone());
            let old = before.remove(&key);
            if !old.as_ref().is_some_and(|old| Arc::ptr_eq(old, &work)) {
                self.unchecked = true;
                self.learn(&work, slices);
                self.work_changed(now_ms, old.as_deref(), &work, store, sites);
            }
            self.works.insert(key, work);
        }
        for ((cluster, application), old) in before {
            if self.departed.contains(&cluster) {
                continue;
            }
            if !old.is_removal() {
                let what = format!("{application} lost its place in {cluster} though nobody ordered anything removed");
                self.violate(now_ms, 1, what);
            }
            self.unconfirmed(now_ms, &old, None, sites);
        }
        self.handed_over(now_ms);
    }

    /// Rule 3.
    fn handed_over(&mut self, now_ms: u64) {
        for fall in std::mem::take(&mut self.falls) {
            let decided = |cluster: &Uid| {
                let work = self.works.get(&(cluster.clone(), fall.application.clone()));
                let same = |manifest: &&Manifest| manifest.object.name.name == fall.component;
                work.and_then(|work| work.manifests.iter().find(same)).map_or(0, |manifest| self.replicas(manifest))
            };
            if let Some(what) = self.handing.fault(now_ms, &fall, decided) {
                self.violate(now_ms, 3, what);
            }
        }
    }

    fn learn(&mut self, work: &Work, slices: &Slices) {
        for manifest in &work.manifests {
            if self.shapes.contains_key(&manifest.result) {
                continue;
            }
            let bytes = slices.blob(&work.cluster, &manifest.blob);
            let Some(mut object) = bytes.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else {
                continue;
            };
            for patch in &manifest.patches {
                pointer::set(&mut object, &patch.pointer, patch.value.clone());
            }
            let replicas = object.pointer("/spec/replicas").and_then(Value::as_u64).map(|count| count as u32);
            let requests = object.pointer("/spec/template").map(template_requests);
            self.shapes.insert(manifest.result, Shape { replicas, requests });
        }
    }

    fn replicas(&self, manifest: &Manifest) -> u32 {
        self.shapes.get(&manifest.result).and_then(|shape| shape.replicas).unwrap_or_default()
    }

    fn work_changed(&mut self, now_ms: u64, old: Option<&Work>, work: &Work, store: &Mvcc, sites: &[Site]) {
        let name = format!("{} in {}", work.application, work.cluster);
        let (cluster, application) = (work.cluster.clone(), work.application_uid.clone());
        let digest = work.digest();
        let decided = self.decided.entry((cluster.clone(), application.clone(), work.generation)).or_default();
        let known = decided.insert(self.store_life, digest);
        if known.is_some_and(|known| known != digest) {
            let what = format!("{name}: generation {} has two contents", work.generation);
            self.violate(now_ms, 9, what);
        }
        if let Some(old) = old.filter(|old| old.generation > work.generation) {
            let what = format!("{name}: generation fell from {} to {}", old.generation, work.generation);
            self.violate(now_ms, 9, what);
        }
        for blob in work.blobs().filter(|blob| store.get(&Key::blob(blob)).is_none()) {
            self.violate(now_ms, 11, format!("{name}: blob {} is not in the store", blob.short()));
        }
        for manifest in &work.manifests {
            self.listed.insert((cluster.clone(), application.clone(), manifest.object.clone()));
        }
        for removal in &work.removals {
            if removal.author.is_empty() || removal.revision.is_empty() {
                self.violate(now_ms, 1, format!("{name}: the removal of {} has no author or revision", removal.object));
            }
            if work.manifests.iter().any(|manifest| manifest.object == removal.object) {
                self.violate(now_ms, 8, format!("{name}: {} is both listed and removed", removal.object));
            }
            self.ordered.insert((cluster.clone(), application.clone(), removal.object.clone()));
        }
        self.rise(now_ms, old, work);
        let Some(old) = old else { return };
        for manifest in &old.manifests {
            let kept = work.manifests.iter().any(|new| new.object == manifest.object)
                || work.removals.iter().any(|removal| removal.object == manifest.object);
            if !kept && is_owned(sites, old, &manifest.object) {
                self.violate(now_ms, 8, format!("{name}: {} is neither listed nor removed", manifest.object));
            }
            self.fall(now_ms, work, manifest);
        }
        self.unconfirmed(now_ms, old, Some(work), sites);
    }

    /// Rule 8: a removal stays until the object is gone, or is listed again.
    fn unconfirmed(&mut self, now_ms: u64, old: &Work, new: Option<&Work>, sites: &[Site]) {
        for removal in &old.removals {
            let kept = new.is_some_and(|new| {
                new.removals.iter().any(|kept| kept.object == removal.object)
                    || new.manifests.iter().any(|manifest| manifest.object == removal.object)
            });
            if !kept && is_owned(sites, old, &removal.object) {
                let what = format!(
                    "{} in {}: the removal of {} was dropped while it is there",
                    old.application, old.cluster, removal.object
                );
                self.violate(now_ms, 8, what);
            }
        }
    }

    /// Rule 2: replicas fall by a person's word only.
    fn fall(&mut self, now_ms: u64, new: &Work, manifest: &Manifest) {
        let before = self.replicas(manifest);
        let same = new.manifests.iter().find(|new| new.object == manifest.object);
        let after = same.map_or(0, |same| self.replicas(same));
        let moved_ms =
            self.moving.get(&(new.cluster.clone(), new.application_uid.clone())).copied().unwrap_or_default();
        if after < before && self.divided_only && !self.departed.contains(&new.cluster) {
            let (cluster, application) = (new.cluster.clone(), new.application_uid.clone());
            self.falls.push(Fall { cluster, application, component: manifest.object.name.name.clone(), before, after });
        }
        if after < before && now_ms > self.last_intent_ms.max(moved_ms) + INTENT_MS {
            let (application, cluster, object) = (&new.application, &new.cluster, &manifest.object);
            let what =
                format!("{application} in {cluster}: {object} fell from {before} to {after}, and nobody said so");
            self.violate(now_ms, 2, what);
        }
    }

    /// An agent's delete hit an object of this owner.
    pub fn deleted(&mut self, now_ms: u64, site: &Site, object: &ObjectRef, owner: Option<&str>) {
        let place = &site.name;
        let Some(owner) = owner else {
            return self.violate(now_ms, 1, format!("{place}: {object} was deleted, which is not ours"));
        };
        let owner = Uid::from(owner);
        if !self.ordered.contains(&(site.cluster.clone(), owner.clone(), object.clone())) {
            return self.violate(now_ms, 1, format!("{place}: {object} was deleted, which no removal ordered"));
        }
        let entries = site.ledger_entries();
        let Some(entry) = entries.get(&owner) else {
            return self.violate(now_ms, 8, format!("{place}: {object} was deleted, of which the ledger says nothing"));
        };
        if !entry.work.removals.iter().any(|removal| removal.object == *object) {
            let what = format!("{place}: {object} was deleted, which generation {} lists", entry.work.generation);
            return self.violate(now_ms, 8, what);
        }
        let unapplied = entry.work.manifests.iter().map(|manifest| &manifest.object);
        let mut unapplied = unapplied.filter(|object| site.member.uid(&located(&entry.work, object)).is_none());
        if let Some(missing) = unapplied.next().cloned() {
            self.violate(now_ms, 8, format!("{place}: {object} was removed before {missing} was applied"));
        }
    }

    /// An agent's apply succeeded; `before` is the owner of what was there.
    pub fn applied(
        &mut self,
        now_ms: u64,
        site: &Site,
        object: &ObjectRef,
        before: Option<Option<String>>,
        value: &Value,
    ) {
        let place = &site.name;
        let Some(owner) = value["metadata"]["labels"][OWNER_LABEL].as_str() else {
            return self.violate(now_ms, 8, format!("{place}: {object} was applied without its owner"));
        };
        if before.is_some_and(|before| before.as_deref() != Some(owner)) {
            self.violate(now_ms, 8, format!("{place}: {object} was applied over what is not ours"));
        }
        if !self.listed.contains(&(site.cluster.clone(), Uid::from(owner), object.clone())) {
            self.violate(now_ms, 11, format!("{place}: {object} was applied, which no work lists"));
        }
    }

    /// The hub's store is an old one: what it says of works begins anew, what agents did stays.
    pub fn went_back(&mut self) {
        self.works.clear();
        self.store_life += 1;
    }

    /// An agent starts, with what its ledger holds.
    pub fn agent_started(&mut self, now_ms: u64, site: &Site) {
        let entries = site.ledger_entries();
        let known = self.ledgers.iter().filter(|((name, _), _)| *name == site.name);
        let lost = known.filter(|((_, application), generation)| {
            entries.get(application).is_none_or(|entry| entry.work.generation < **generation)
        });
        let lost = lost.map(|((_, application), generation)| (application.clone(), *generation)).collect::<Vec<_>>();
        for (application, generation) in lost {
            self.violate(now_ms, 7, format!("{}: the ledger lost {application} at generation {generation}", site.name));
        }
    }

    /// An agent joined anew, with an empty ledger.
    pub fn ledger_discarded(&mut self, site: &str) {
        self.ledgers.retain(|(name, _), _| name != site);
    }

    /// An agent wrote its ledger.
    pub fn ledger_written(&mut self, now_ms: u64, site: &Site, writes: &[Write]) {
        let name = &site.name;
        for write in writes {
            match write {
                Write::Entry { entry, .. } => {
                    let (application, generation) = (&entry.work.application_uid, entry.work.generation);
                    let known = self.ledgers.insert((name.clone(), application.clone()), generation);
                    if let Some(known) = known.filter(|known| *known > generation) {
                        let what = format!("{name}: {application} went back from generation {known} to {generation}");
                        self.violate(now_ms, 9, what);
                    }
                    let decided = self.decided.get(&(site.cluster.clone(), application.clone(), generation));
                    let digest = entry.work.digest();
                    if !decided.is_some_and(|decided| decided.values().any(|decided| *decided == digest)) {
                        let what = format!("{name}: generation {generation} of {application} is not what was decided");
                        self.violate(now_ms, 9, what);
                    }
                }
                Write::Forget(application) => {
                    self.ledgers.remove(&(name.clone(), application.clone()));
                    let mut left = site.member.objects();
                    if let Some(left) = left.find(|object| site.member.owner(object) == Some(&application.0)) {
                        self.violate(now_ms, 8, format!("{name}: {application} was forgotten while {left} is there"));
                    }
                }
                Write::Session(_) => {}
            }
        }
    }

    /// Rule 6, where only what the hub divided runs in a cluster: what is decided never exceeds what is there.
    pub fn oversubscribed(&mut self, now_ms: u64, site: &Site) {
        let (mut decided, mut parts) = (Resources::default(), Vec::new());
        for work in self.works.values().filter(|work| work.cluster == site.cluster) {
            for manifest in &work.manifests {
                let Some(shape) = self.shapes.get(&manifest.result) else { continue };
                let Some(requests) = &shape.requests else { continue };
                let count = shape.replicas.unwrap_or(1);
                parts.push(format!("{} {count} of {:?}", manifest.object.name.name, requests.0));
                decided.add(requests, count.into());
                decided.add(&Resources::of([(PODS, 1)]), count.into());
            }
        }
        let mut allocatable = Resources::default();
        for node in site.member.nodes() {
            allocatable.add(&node.allocatable, 1);
        }
        for (name, amount) in decided.0.iter().filter(|(name, amount)| **amount > allocatable.get(name)) {
            let (place, there) = (&site.name, allocatable.get(name));
            let parts = parts.join(", ");
            self.violate(now_ms, 6, format!("{place}: {amount} of {name} is decided where {there} is: {parts}"));
        }
    }

    /// Replicas that are decided for an Application, by cluster uid.
    pub fn placement(&self, application: &str) -> BTreeMap<Uid, u32> {
        let works = self.works.values().filter(|work| work.application.name == application && !work.is_removal());
        works.map(|work| (work.cluster.clone(), work.manifests.iter().map(|m| self.replicas(m)).sum())).collect()
    }

    pub fn works(&self) -> &BTreeMap<(Uid, Uid), Arc<Work>> {
        &self.works
    }

    pub fn has_departed(&self, cluster: &Uid) -> bool {
        self.departed.contains(cluster)
    }
}

impl World {
    /// What must hold once everything is healed and at rest.
    pub fn check_at_rest(&mut self) {
        let now_ms = self.now_ms();
        let mut found: Vec<(u8, String)> = Vec::new();
        for site in self.sites() {
            if self.check.has_departed(&site.cluster) {
                continue;
            }
            let works = self.check.works().iter().filter(|((cluster, _), _)| *cluster == site.cluster);
            let works = works.map(|((_, application), work)| (application, work)).collect::<BTreeMap<_, _>>();
            let ledger = site.ledger_entries();
            for (application, work) in &works {
                let held = ledger.get(*application).map(|entry| entry.work.generation);
                if held != Some(work.generation) {
                    let what = format!(
                        "generation {} of {} is decided, the ledger holds {held:?}",
                        work.generation, work.application
                    );
                    found.push((11, format!("{}: {what}", site.name)));
                }
                for manifest in &work.manifests {
                    let object = located(work, &manifest.object);
                    let foreign = site.member.uid(&object).is_some() && site.member.owner(&object).is_none();
                    if site.member.owner(&object) != Some(&application.0) && !foreign {
                        found.push((11, format!("{}: {object} is decided and not there", site.name)));
                    }
                }
            }
            for object in site.member.objects() {
                let Some(owner) = site.member.owner(object) else { continue };
                let listed = |work: &&Arc<Work>| work.manifests.iter().any(|m| located(work, &m.object) == *object);
                // An agent removes last: while somebody else's object has the name of what it is to apply, it waits.
                let waits = |work: &&Arc<Work>| {
                    let is_foreign = |manifest: &Manifest| {
                        let object = located(work, &manifest.object);
                        site.member.uid(&object).is_some() && site.member.owner(&object).is_none()
                    };
                    let is_ordered = work.removals.iter().any(|removal| located(work, &removal.object) == *object);
                    is_ordered && work.manifests.iter().any(is_foreign)
                };
                let work = works.get(&Uid::from(owner)).copied();
                if !site.was_orphaned && !work.is_some_and(|work| listed(&work) || waits(&work)) {
                    found.push((8, format!("{}: {object} of {owner} was left behind", site.name)));
                }
            }
        }
        if let Some(why) = self.group.restless() {
            found.push((7, format!("the replicas do not come to rest: {why}")));
        }
        self.group.check_states();
        found.extend(self.group.check.violations.drain(..).map(|violation| (7, violation.to_string())));
        found.extend(self.untold().into_iter().map(|what| (15, what)));
        let name = |cluster: Value| cluster["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let clusters: Vec<String> = self.objects(&kinds::CLUSTER).into_iter().map(name).collect();
        for application in self.objects(&kinds::APPLICATION) {
            if application["metadata"].get("deletionTimestamp").is_some() {
                found.push((8, format!("{} is still being deleted", application["metadata"]["name"])));
            } else {
                found.extend(
                    unexplained(&application, clusters.iter().map(String::as_str)).into_iter().map(|what| (12, what)),
                );
            }
        }
        found.extend(self.said_empty().into_iter().map(|what| (15, what)));
        for (rule, what) in found {
            self.check.violate(now_ms, rule, what);
        }
    }

    /// Clusters of which the hub says that a drain has left nothing, and where something runs.
    fn said_empty(&self) -> Vec<String> {
        let is_drained = |cluster: &Value| {
            let mut conditions = cluster["status"]["conditions"].as_array().into_iter().flatten();
            conditions.any(|condition| condition["type"] == DRAINED && condition["status"] == "True")
        };
        let drained = self.objects(&kinds::CLUSTER).into_iter().filter(is_drained).map(|cluster| uid_of(&cluster));
        let drained: BTreeSet<Uid> = drained.collect();
        let left = self.check.works().values().filter(|work| drained.contains(&work.cluster));
        left.map(|work| format!("{} is drained, as the hub says, and has {}", work.cluster, work.application)).collect()
    }

    /// What the hub does not know, though it was told.
    fn untold(&self) -> Vec<String> {
        let mut untold = Vec::new();
        for site in self.sites() {
            let Some(cluster) = self.object(&kinds::CLUSTER, "", &site.name) else { continue };
            if cluster["metadata"]["uid"] != site.cluster.0 || self.check.has_departed(&site.cluster) {
                continue;
            }
            if is_silent(&cluster) {
                untold.push(format!("{} speaks, and is called silent", site.name));
            }
            for work in self.check.works().values().filter(|work| work.cluster == site.cluster) {
                let application = work.application_uid.clone();
                let key = Record::Report { cluster: site.cluster.clone(), application }.key();
                let report = self.store().get(&key).and_then(|entry| object::decode(&entry.value).ok());
                let reported = report.as_ref().and_then(|report| report["generation"].as_u64());
                if reported != Some(work.generation) {
                    let (name, application, generation) = (&site.name, &work.application, work.generation);
                    let what = "the last report that the hub has";
                    untold.push(format!("{name}: {what} of {application} is on {reported:?} of {generation}"));
                }
            }
        }
        untold
    }

    /// Rule 6, for fleets where only what the hub divided runs.
    pub fn check_room(&mut self) {
        if !std::mem::take(&mut self.check.unchecked) {
            return;
        }
        let now_ms = self.now_ms();
        let mut check = std::mem::take(&mut self.check);
        for site in self.sites() {
            check.oversubscribed(now_ms, site);
        }
        self.check = check;
    }

    /// Rule 13: lets `ms` pass in which nothing may be written, by the hub or in a member.
    pub fn check_silence(&mut self, ms: u64) {
        let counts = |world: &Self| world.sites().iter().map(|site| site.member.counts()).collect::<Vec<_>>();
        let (writes, members, log) = (self.check.hub_writes, counts(self), self.group.check.entries());
        self.run_for(ms);
        // Forgetting history follows the writes after a while.
        if self.group.check.entries() > log {
            let what = format!("{} log entries when nothing changed", self.group.check.entries() - log);
            self.check.violate(self.now_ms(), 13, what);
        }
        let now_ms = self.now_ms();
        if self.check.hub_writes > writes {
            let what = format!("the hub wrote {} times when nothing changed", self.check.hub_writes - writes);
            self.check.violate(now_ms, 13, what);
        }
        if counts(self) != members {
            self.check.violate(now_ms, 13, "an agent wrote to its member when nothing changed".to_owned());
        }
    }
}

/// Rule 12: a status says of every component and cluster that it is placed there, or why not.
fn unexplained<'c>(application: &Value, clusters: impl Iterator<Item = &'c str>) -> Vec<String> {
    let placement = &application["status"]["placement"];
    let told = |cluster: &str, component: &Value| {
        let lines = ["rows", "refusals"].iter().flat_map(|list| placement[list].as_array().into_iter().flatten());
        let explains = |line: &&Value| line["reason"].as_str().is_some_and(|reason| !reason.is_empty());
        lines.filter(explains).any(|line| line["cluster"] == *cluster && line["component"] == *component)
    };
    let components = application["spec"]["components"].as_array().into_iter().flatten();
    let names: Vec<&Value> = components.map(|component| &component["name"]).collect();
    let pairs = clusters.flat_map(|cluster| names.iter().map(move |name| (cluster, *name)));
    let untold = pairs.filter(|(cluster, name)| !told(cluster, name));
    untold.map(|(cluster, name)| format!("nothing says why {cluster} got nothing of {name}: {placement}")).collect()
}

/// Whether a status tells of a decision about what is asked for now.
fn is_decided(application: &Value) -> bool {
    application["metadata"].get("deletionTimestamp").is_none()
        && application["status"].get("placement").is_some()
        && application["status"]["observedGeneration"] == application["metadata"]["generation"]
}

/// The object as it is called in the member.
fn located(work: &Work, object: &ObjectRef) -> ObjectRef {
    let mut object = object.clone();
    if object.name.namespace.is_empty() {
        object.name.namespace.clone_from(&work.application.namespace);
    }
    object
}

fn is_owned(sites: &[Site], work: &Work, object: &ObjectRef) -> bool {
    let site = sites.iter().find(|site| site.cluster == work.cluster);
    site.is_some_and(|site| site.member.owner(&located(work, object)) == Some(&work.application_uid.0))
}

/// Whether a Cluster's status says that nothing is heard of it.
fn is_silent(cluster: &Value) -> bool {
    let mut conditions = cluster["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["reason"] == "AgentSilent")
}

fn read(entry: &Option<crate::store::Entry>) -> Option<Value> {
    serde_json::from_slice(&object::json(&entry.as_ref()?.value).ok()?).ok()
}

fn uid_of(value: &Value) -> Uid {
    Uid::from(value["metadata"]["uid"].as_str().unwrap_or_default())
}
