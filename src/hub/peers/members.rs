//! Who belongs to the group: the Replica objects in the store, the number that the next one gets, and what this process
//! remembers of it on its own disk.
//!
//! Owns: `DIR/replica.json`, which is read before the store can be, and the leader's loop that makes the group what the
//! Replica objects say. Must never: give a number twice, take a missing object for an order to remove (rule 1: only a
//! deletion with a name on it is), or remove a replica without which the others could not go on.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Local, Network};
use crate::{
    hub::{feed, keys, pki::write_durably, records},
    kinds::{REPLICA, REPLICA_FINALIZER},
    model::{Digest, Timestamp, Uid},
    store::{
        Compare, Entry, Error, Key, List, Operation, Outcome, Store, Transaction,
        mvcc::Mvcc,
        object,
        raft::{Change, ReplicaId, Status},
    },
};

const FILE: &str = "replica.json";
pub(super) const GROUP: &str = "/hanse/internal/replicas";
pub const PREFIX: &str = "/hanse/hub.hanse.dev/replicas/";
const RETRY: Duration = Duration::from_millis(200);
/// How often the leader looks whether something is left to be done.
const INTERVAL: Duration = Duration::from_secs(1);

/// What this directory is: written when it is founded or has joined, and whenever another address becomes known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Belonging {
    pub replica: ReplicaId,
    pub hub: Uid,
    pub incarnation: Uid,
    /// The store has been there: from then on an empty one is a lost one.
    pub opened: bool,
    /// `HOST:PORT` of all of them: without an address there is no quorum, and without a quorum no address to read.
    pub members: BTreeMap<ReplicaId, String>,
}

impl Belonging {
    pub fn read(dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let read = serde_json::from_slice(&bytes);
                Ok(Some(read.with_context(|| format!("{} is damaged", path.display()))?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        Ok(write_durably(&dir.join(FILE), &bytes, 0o600)?)
    }
}

/// What the store knows of the group beside its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The life of the store that the Replica objects are of.
    pub incarnation: Uid,
    /// The number of the next replica.
    pub next: ReplicaId,
}

impl Group {
    pub fn encode(&self) -> Bytes {
        records::value(self)
    }
}

pub async fn read_group(store: &dyn Store) -> Result<Option<(Entry, Group)>, Error> {
    let Some(entry) = store.get(&Key::new(GROUP)).await? else { return Ok(None) };
    let group = object::view(&entry.value).map_err(|error| Error::Malformed(format!("{GROUP}: {error}")))?;
    Ok(Some((entry, group)))
}

/// A Replica object, as far as the hub itself reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: ReplicaId,
    pub peer_address: String,
    pub url: String,
    /// SHA-256 of the public key of the authority for peers.
    pub peer_authority: Digest,
}

impl Member {
    pub fn read(entry: &Entry) -> Option<Self> {
        let object = object::decode(&entry.value).ok()?;
        let text = |field: &str| object["spec"][field].as_str().map(str::to_owned);
        Some(Self {
            id: id_of(&object)?,
            peer_address: text("peerAddress")?,
            url: text("url")?,
            peer_authority: text("peerAuthority")?.parse().ok()?,
        })
    }

    pub fn object(&self, uid: &str, now: Timestamp) -> Value {
        json!({
            "apiVersion": REPLICA.gvk.api_version(),
            "kind": REPLICA.gvk.kind,
            "metadata": {
                "name": self.id.to_string(),
                "uid": uid,
                "generation": 1,
                "creationTimestamp": now,
                "finalizers": [REPLICA_FINALIZER],
            },
            "spec": self.spec(),
        })
    }

    fn spec(&self) -> Value {
        json!({"peerAddress": self.peer_address, "url": self.url, "peerAuthority": self.peer_authority})
    }

    fn key(&self) -> Key {
        keys::key(&REPLICA, "", &self.id.to_string())
    }
}

fn id_of(object: &Value) -> Option<ReplicaId> {
    let name = object["metadata"]["name"].as_str()?;
    let id: ReplicaId = name.parse().ok()?;
    (id > 0 && id.to_string() == name).then_some(id)
}

/// The number of a replica that goes on alone from this state: none that was given out, as far as that is known.
pub fn next_id(state: &Mvcc, least: ReplicaId) -> ReplicaId {
    let group = state.get(&Key::new(GROUP)).and_then(|entry| object::view::<Group>(&entry.value).ok());
    group.map_or(least, |group| group.next.max(least))
}

/// Makes the store say where this replica is. The first one founds the group; one that was recovered alone is, in its new
/// life, all there is of it.
pub async fn announce(store: &dyn Store, here: &Member, now: Timestamp) -> Result<(), Error> {
    let uid = uuid::Uuid::new_v4().to_string();
    loop {
        let page = store.list(List { prefix: PREFIX.into(), after: None, limit: 0, at: None }).await?;
        let (incarnation, group) = (store.incarnation(), read_group(store).await?);
        let object = here.object(&uid, now);
        let Some(transaction) = announcement(incarnation, group, &page.entries, here, &object) else { return Ok(()) };
        store.commit(transaction).await?;
    }
}

/// What is still to be written; nothing where all is said.
fn announcement(
    incarnation: &Uid,
    group: Option<(Entry, Group)>,
    replicas: &[Entry],
    here: &Member,
    object: &Value,
) -> Option<Transaction> {
    let key = here.key();
    let unchanged = |entry: &Entry| Compare::Modified(entry.key.clone(), entry.modified);
    let found = |next: ReplicaId, first: Compare| {
        let group = Group { incarnation: incarnation.clone(), next: next.max(here.id + 1) };
        let mut operations = vec![Operation::Put(Key::new(GROUP), group.encode())];
        operations.extend(replicas.iter().filter(|entry| entry.key != key).map(|e| Operation::Delete(e.key.clone())));
        operations.push(Operation::Put(key.clone(), object::encode(object)));
        Some(Transaction { compares: vec![first], operations })
    };
    match group {
        None => found(1, Compare::Absent(Key::new(GROUP))),
        Some((entry, group)) if group.incarnation != *incarnation => found(group.next, unchanged(&entry)),
        Some(_) => {
            // Without an object it was removed, and it is not for itself to come back.
            let own = replicas.iter().find(|entry| entry.key == key)?;
            let mut object = object::decode(&own.value).ok()?;
            if object["spec"] == here.spec() {
                return None;
            }
            object["spec"] = here.spec();
            let operations = vec![Operation::Put(key.clone(), object::encode(&object))];
            Some(Transaction { compares: vec![unchanged(own)], operations })
        }
    }
}

/// Follows the Replica objects: tells the network where everybody is, and keeps that on disk for the next start.
pub async fn follow(
    store: Arc<dyn Store>,
    network: Arc<Network>,
    dir: PathBuf,
    mut belonging: Belonging,
) -> anyhow::Result<()> {
    let mut feed = feed::follow(store.clone(), PREFIX);
    let mut known: BTreeMap<Key, Member> = BTreeMap::new();
    while let Some(told) = feed.next().await {
        match told? {
            feed::Feed::Reset { entries, .. } => {
                known = entries.iter().filter_map(|entry| Some((entry.key.clone(), Member::read(entry)?))).collect();
            }
            feed::Feed::Changed { changes, .. } => {
                for change in changes.iter() {
                    match change.current.as_ref().and_then(Member::read) {
                        Some(member) => drop(known.insert(change.key.clone(), member)),
                        None => drop(known.remove(&change.key)),
                    }
                }
            }
            feed::Feed::Progress(_) => continue,
        }
        let members: BTreeMap<_, _> = known.values().map(|member| (member.id, member.peer_address.clone())).collect();
        // Before the group is founded there are none, which is not the same as nobody (rule 15).
        if members.is_empty() || members == belonging.members {
            continue;
        }
        network.know(&members);
        belonging.members = members;
        let (dir, written) = (dir.clone(), belonging.clone());
        tokio::task::spawn_blocking(move || written.write(&dir)).await??;
    }
    bail!("the store was closed")
}

/// What the leader does next to make the group what the Replica objects say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Change(Change),
    /// The leader itself is to go: another one does the rest.
    HandOver,
    /// The group is without it: nothing holds the object any more.
    Forget(Entry),
    /// A removal that has to wait, and why.
    Wait(Waits),
}

/// A removal that cannot be done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    pub replica: ReplicaId,
    /// Of the Replica object.
    pub uid: Uid,
    pub why: String,
}

/// Pure. At most one change at a time, removals last; a removal that waits holds up nothing else.
fn next(replicas: &[Entry], status: &Status) -> Option<Step> {
    let read = |entry: &Entry| {
        let object = object::decode(&entry.value).ok()?;
        let uid = Uid(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        Some((id_of(&object)?, object["metadata"]["deletionTimestamp"].is_string(), uid, entry.clone()))
    };
    let objects: Vec<(ReplicaId, bool, Uid, Entry)> = replicas.iter().filter_map(read).collect();
    let belongs = |id: &ReplicaId| status.members.contains_key(id);
    if let Some((id, ..)) = objects.iter().find(|(id, goes, ..)| !goes && !belongs(id)) {
        return Some(Step::Change(Change::Add(*id)));
    }
    if let Some((.., entry)) = objects.iter().find(|(id, goes, ..)| *goes && !belongs(id)) {
        return Some(Step::Forget(entry.clone()));
    }
    let mut waits = None;
    for (id, _, uid, _) in objects.iter().filter(|(_, goes, ..)| *goes) {
        match removal(*id, status) {
            Ok(step) => return Some(step),
            Err(why) => waits = Some(Step::Wait(Waits { replica: *id, uid: uid.clone(), why })),
        }
    }
    waits
}

fn removal(id: ReplicaId, status: &Status) -> Result<Step, String> {
    let voters = || status.members.iter().filter(|(_, member)| !member.learner).map(|(id, member)| (*id, member));
    if voters().all(|(voter, _)| voter != id) {
        return Ok(Step::Change(Change::Remove(id)));
    }
    let rest = || voters().filter(|(voter, _)| *voter != id);
    let count = rest().count();
    if count == 0 {
        return Err("it is the only one with a vote".into());
    }
    let answering = rest().filter(|(voter, member)| *voter == status.id || member.active == Some(true)).count();
    let needed = count / 2 + 1;
    if answering < needed {
        return Err(format!(
            "without it, {needed} of the other {count} would have to answer, and {answering} do: bring one back, or add one first"
        ));
    }
    if id == status.id { Ok(Step::HandOver) } else { Ok(Step::Change(Change::Remove(id))) }
}

/// Acts while this replica leads. `waits` is told of a removal that cannot be done, in words, each time that changes.
pub async fn lead(
    local: Arc<dyn Local>,
    mut waits: impl FnMut(&Waits) + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut leadership = local.leadership();
    let mut said = None;
    loop {
        let leads = leadership.borrow_and_update().here;
        let pause = match leads {
            true => step(&*local, &mut waits, &mut said).await,
            false => None,
        };
        // While it does not lead there is nothing to look at until that changes.
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = leadership.changed() => {
                if changed.is_err() {
                    bail!("the store was closed");
                }
            }
            () = tokio::time::sleep(pause.unwrap_or(INTERVAL)), if leads => {}
        }
    }
}

/// One step, and how soon the next one may follow.
async fn step(
    local: &dyn Local,
    waits: &mut (impl FnMut(&Waits) + Send),
    said: &mut Option<Waits>,
) -> Option<Duration> {
    let store = local.store();
    // Read before the objects: those of an earlier life of the store, which are still there until this replica has said that
    // it is alone now, are no order to add anybody.
    let (_, group) = read_group(store).await.ok()??;
    if group.incarnation != *store.incarnation() {
        return Some(RETRY);
    }
    let list = List { prefix: PREFIX.into(), after: None, limit: 0, at: None };
    let page = store.list(list).await.ok()?;
    let failed = match next(&page.entries, &local.status().await.ok()?)? {
        Step::Change(change) => {
            tracing::info!(?change, "the group of replicas changes");
            local.change(change).await.err().map(|error| error.to_string())
        }
        Step::HandOver => {
            local.hand_over().await;
            None
        }
        Step::Forget(entry) => {
            let compares = vec![Compare::Modified(entry.key.clone(), entry.modified)];
            let transaction = Transaction { compares, operations: vec![Operation::Delete(entry.key)] };
            match store.commit(transaction).await {
                Ok(Outcome::Committed(_) | Outcome::Conflict(_) | Outcome::Unknown) => None,
                Err(error) => Some(error.to_string()),
            }
        }
        Step::Wait(removal) => {
            if said.as_ref() != Some(&removal) {
                tracing::warn!(replica = removal.replica, why = removal.why, "a replica cannot be removed yet");
                waits(&removal);
                *said = Some(removal);
            }
            return None;
        }
    };
    *said = None;
    match failed {
        Some(error) => {
            tracing::debug!(error, "the group could not be changed now");
            None
        }
        None => Some(RETRY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        mvcc::StateHash,
        raft::{Leadership, MemberStatus, Role},
    };

    const NOW: Timestamp = Timestamp(jiff::Timestamp::constant(1_800_000_000, 0));

    fn member(id: ReplicaId, address: &str) -> Member {
        let url = format!("https://{address}");
        Member { id, peer_address: address.into(), url, peer_authority: Digest::of(b"ca") }
    }

    fn entry(id: ReplicaId, goes: bool) -> Entry {
        let mut object = member(id, "a:1").object(&format!("uid-{id}"), NOW);
        if goes {
            object["metadata"]["deletionTimestamp"] = json!(NOW);
        }
        Entry { key: member(id, "a:1").key(), value: object::encode(&object), created: 1, modified: 2 }
    }

    /// Replica 1 leads; of the others each with whether it answers, and `None` for a learner.
    fn status(others: &[(ReplicaId, Option<bool>)]) -> Status {
        let other = |(id, active): &(ReplicaId, Option<bool>)| {
            (*id, MemberStatus { learner: active.is_none(), active: *active, ..MemberStatus::default() })
        };
        let members = others.iter().map(other).chain([(1, MemberStatus::default())]).collect();
        Status {
            id: 1,
            role: Role::Leader,
            leadership: Leadership { term: 1, leader: Some(1), here: true },
            committed: 1,
            applied: 1,
            revision: 1,
            hash: (1, StateHash(1)),
            checkpoint: 1,
            members,
            stopped: None,
        }
    }

    #[test]
    fn whoever_has_an_object_is_added_and_whoever_has_none_is_left_alone() {
        let two = status(&[(2, Some(true))]);
        assert_eq!(next(&[entry(1, false), entry(2, false)], &two), None);
        let added = next(&[entry(1, false), entry(2, false), entry(3, false)], &two);
        assert_eq!(added, Some(Step::Change(Change::Add(3))));
        assert_eq!(next(&[entry(1, false)], &two), None, "absence is no order");
        assert_eq!(next(&[], &two), None);
    }

    #[test]
    fn a_deleted_replica_leaves_the_group_and_then_the_store() {
        let all = [entry(1, false), entry(2, false), entry(3, true)];
        let three = status(&[(2, Some(true)), (3, Some(false))]);
        assert_eq!(next(&all, &three), Some(Step::Change(Change::Remove(3))));
        let two = status(&[(2, Some(true))]);
        assert_eq!(next(&all, &two), Some(Step::Forget(entry(3, true))));
        let learner = status(&[(2, Some(false)), (3, None)]);
        assert_eq!(next(&all, &learner), Some(Step::Change(Change::Remove(3))), "it had no vote");
        let leader = [entry(1, true), entry(2, false)];
        assert_eq!(next(&leader, &two), Some(Step::HandOver), "another one removes the leader");
    }

    #[test]
    fn a_removal_that_would_cost_the_quorum_waits() {
        let waits = |objects: &[Entry], others: &[(ReplicaId, Option<bool>)]| {
            matches!(next(objects, &status(others)), Some(Step::Wait(..)))
        };
        assert!(waits(&[entry(1, true)], &[]), "the last one");
        assert!(waits(&[entry(1, true), entry(2, false)], &[(2, None)]), "the others have no vote");
        let all = [entry(1, false), entry(2, true), entry(3, false)];
        assert!(waits(&all, &[(2, Some(true)), (3, Some(false))]), "the other one is away");
        assert!(!waits(&all, &[(2, Some(false)), (3, Some(true))]));
        let added = [entry(1, false), entry(2, true), entry(3, false), entry(4, false)];
        let step = next(&added, &status(&[(2, Some(true)), (3, Some(false))]));
        assert_eq!(step, Some(Step::Change(Change::Add(4))), "what waits holds up nothing");
    }

    fn group(incarnation: &str, next: ReplicaId) -> Option<(Entry, Group)> {
        let group = Group { incarnation: incarnation.into(), next };
        Some((Entry { key: Key::new(GROUP), value: group.encode(), created: 1, modified: 7 }, group))
    }

    fn operations(transaction: Option<Transaction>) -> Vec<String> {
        let operation = |operation: &Operation| match operation {
            Operation::Put(key, _) => format!("put {key}"),
            Operation::Delete(key) => format!("delete {key}"),
        };
        transaction.map(|t| t.operations.iter().map(operation).collect()).unwrap_or_default()
    }

    #[test]
    fn the_first_replica_founds_the_group_and_the_others_say_where_they_are() {
        let here = member(1, "a:1");
        let life = Uid::from("life-1");
        let own = format!("put {PREFIX}/1");
        let new = json!({});
        assert_eq!(operations(announcement(&life, None, &[], &here, &new)), [format!("put {GROUP}"), own.clone()]);
        let same = announcement(&life, group("life-1", 2), &[entry(1, false)], &here, &new);
        assert_eq!(same, None, "silent where nothing changed");
        let moved = announcement(&life, group("life-1", 2), &[entry(1, false)], &member(1, "b:1"), &new);
        assert_eq!(operations(moved), [own]);
        let removed = announcement(&life, group("life-1", 3), &[entry(2, false)], &here, &new);
        assert_eq!(removed, None, "who was removed does not come back by itself");
    }

    #[test]
    fn a_recovered_replica_is_all_there_is_of_the_group() {
        let all = [entry(1, false), entry(2, false), entry(3, false)];
        let here = member(4, "a:1");
        let recovered = announcement(&"life-2".into(), group("life-1", 4), &all, &here, &json!({}));
        let expected = [
            format!("put {GROUP}"),
            format!("delete {PREFIX}/1"),
            format!("delete {PREFIX}/2"),
            format!("delete {PREFIX}/3"),
            format!("put {PREFIX}/4"),
        ];
        assert_eq!(operations(recovered.clone()), expected);
        let Some(Operation::Put(_, value)) = recovered.and_then(|t| t.operations.into_iter().next()) else { panic!() };
        assert_eq!(object::view::<Group>(&value).map(|group| group.next).ok(), Some(5), "its own number is given out");
    }

    #[test]
    fn what_a_directory_is_survives_the_disk() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Belonging::read(dir.path()).expect("read"), None);
        let belonging = Belonging {
            replica: 2,
            hub: "hub".into(),
            incarnation: "life".into(),
            opened: false,
            members: [(1, "a:1".to_owned()), (2, "b:1".to_owned())].into(),
        };
        belonging.write(dir.path()).expect("written");
        assert_eq!(Belonging::read(dir.path()).expect("read"), Some(belonging));
        fs::write(dir.path().join(FILE), "{").expect("written");
        assert!(Belonging::read(dir.path()).is_err(), "half a file is not nothing");
    }
}
