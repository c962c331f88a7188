//! The state machine of the store: keys, their versions and the history of transactions, all in memory.
//!
//! Owns: what a command does. Every replica applies the same commands in the same order and must arrive at the same
//! state, so nothing here may read a clock, draw a random number, do IO, or depend on anything but its arguments. A
//! command that breaks a limit is refused, on every replica alike; no command panics.
//!
//! Values are shared (`Bytes`): a version, its place in the history and every reader hold the same allocation.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Change, Compare, Entry, Error, Key, List, Operation, Outcome, Page, Revision, Transaction, WatchEvent,
    command::Command,
};
use crate::model::Digest;

/// The state as of `revision`, with the history back to `compacted`.
#[derive(Debug, Clone, Default)]
pub struct Mvcc {
    revision: Revision,
    /// The oldest revision that can still be read.
    compacted: Revision,
    keys: BTreeMap<Key, Versions>,
    /// Of the revisions `compacted + 1 ..= revision`, in order.
    history: VecDeque<Arc<[Change]>>,
    history_bytes: usize,
    hash: StateHash,
    /// As of `compacted`.
    compacted_hash: StateHash,
}

/// Most keys have one version: only others pay for a vector.
#[derive(Debug, Clone)]
struct Versions {
    newest: Version,
    /// In order of revision.
    older: Vec<Version>,
}

#[derive(Debug, Clone)]
struct Version {
    created: Revision,
    modified: Revision,
    /// Absent: the key was deleted at `modified`.
    value: Option<Bytes>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The answer to a transaction.
    Answered(Outcome),
    /// History was forgotten: what the keys that changed in it hold as of the revision that is now the oldest one.
    Compacted(Checkpoint),
}

/// The difference between the states at two revisions: of the keys that were written in between, what they hold at
/// the later one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub revision: Revision,
    /// Of the state as of `revision`.
    pub hash: StateHash,
    pub rows: BTreeMap<Key, Option<Entry>>,
}

/// The sum of the hashes of all rows, and so the same however the state came about: changed by what a change takes away
/// and adds. It finds faults of disks, memory and programs; it is no proof against somebody who wants two states to look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct StateHash(pub u128);

/// Part of the history, as far as one prefix goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    pub events: Vec<WatchEvent>,
    /// The events are all there are up to this revision.
    pub until: Revision,
}

impl Mvcc {
    /// The state that a snapshot holds: all entries as of `revision`, and no history before it.
    pub fn restore(revision: Revision, entries: impl IntoIterator<Item = Entry>) -> Self {
        let version =
            |entry: Entry| Version { created: entry.created, modified: entry.modified, value: Some(entry.value) };
        let mut hash = StateHash::default();
        let keys = entries
            .into_iter()
            .inspect(|entry| hash.add(entry))
            .map(|entry| (entry.key.clone(), Versions { newest: version(entry), older: Vec::new() }))
            .collect();
        Self { revision, compacted: revision, keys, hash, compacted_hash: hash, ..Self::default() }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can still be read.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// What the history holds alive: the values that were written in it.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// Of the state as of the newest revision.
    pub fn hash(&self) -> StateHash {
        self.hash
    }

    /// Of the state as of the oldest revision that can still be read.
    pub fn compacted_hash(&self) -> StateHash {
        self.compacted_hash
    }

    pub fn apply(&mut self, command: Command) -> Result<Applied, Error> {
        match command {
            Command::Commit(transaction) => self.commit(transaction).map(Applied::Answered),
            Command::Compact(revision) => self.compact(revision).map(Applied::Compacted),
        }
    }

    pub fn commit(&mut self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        if !transaction.compares.iter().all(|compare| self.holds(compare)) {
            let current = transaction.compares.iter().map(|compare| self.get(compare.key())).collect();
            return Ok(Outcome::Conflict(current));
        }
        let revision = self.revision + 1;
        let changes: Vec<Change> =
            transaction.operations.into_iter().filter_map(|operation| self.change(operation, revision)).collect();
        if changes.is_empty() {
            return Ok(Outcome::Committed(self.revision));
        }
        for change in &changes {
            self.hash.change(change);
            self.record(change, revision);
        }
        self.history_bytes += bytes_of(&changes);
        self.history.push_back(changes.into());
        self.revision = revision;
        Ok(Outcome::Committed(revision))
    }

    /// Forgets what was before `revision`. Costs as much as the history that goes.
    pub fn compact(&mut self, revision: Revision) -> Result<Checkpoint, Error> {
        if revision > self.revision {
            return Err(Error::Future { asked: revision, current: self.revision });
        }
        let mut rows = BTreeMap::new();
        while self.compacted < revision
            && let Some(changes) = self.history.pop_front()
        {
            self.compacted += 1;
            self.history_bytes -= bytes_of(&changes);
            changes.iter().for_each(|change| self.compacted_hash.change(change));
            rows.extend(changes.iter().map(|change| (change.key.clone(), change.current.clone())));
        }
        for key in rows.keys() {
            let gone = self.keys.get_mut(key).is_some_and(|versions| versions.forget_before(self.compacted));
            if gone {
                self.keys.remove(key);
            }
        }
        Ok(Checkpoint { revision: self.compacted, hash: self.compacted_hash, rows })
    }

    pub fn get(&self, key: &Key) -> Option<Entry> {
        self.keys.get(key)?.newest.entry(key)
    }

    pub fn list(&self, list: &List) -> Result<Page, Error> {
        let at = list.at.unwrap_or(self.revision);
        self.readable(at)?;
        let first = match &list.after {
            Some(after) if after.as_str() >= list.prefix.as_str() => Bound::Excluded(after.as_str()),
            _ => Bound::Included(list.prefix.as_str()),
        };
        let mut found = self
            .keys
            .range::<str, _>((first, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(&list.prefix))
            .filter_map(|(key, versions)| Some((key, versions.at(at).filter(|version| version.value.is_some())?)));
        let limit = if list.limit == 0 { usize::MAX } else { list.limit };
        let entries = found.by_ref().take(limit).filter_map(|(key, version)| version.entry(key)).collect();
        Ok(Page { entries, revision: at, remaining: found.count() as u64 })
    }

    /// The transactions after `from` that touch `prefix`, from at most `scanned_max` revisions.
    pub fn past(&self, prefix: &str, from: Revision, scanned_max: usize) -> Result<Past, Error> {
        self.readable(from)?;
        let mut past = Past { events: Vec::new(), until: from };
        let skipped = (from - self.compacted) as usize;
        for changes in self.history.iter().skip(skipped).take(scanned_max) {
            past.until += 1;
            if let Some(changes) = part(changes, prefix) {
                past.events.push(WatchEvent::Transaction { revision: past.until, changes });
            }
        }
        Ok(past)
    }

    /// All that is stored now, in order of keys: with the revision, what [`Mvcc::restore`] takes.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.keys.iter().filter_map(|(key, versions)| versions.newest.entry(key))
    }

    /// Equal on replicas that hold the same state.
    pub fn digest(&self) -> Digest {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&self.revision.to_be_bytes());
        for entry in self.entries() {
            // Lengths first: otherwise the end of a key could pass for the start of a value.
            for part in [entry.key.as_str().as_bytes(), &entry.value] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part);
            }
            context.update(&entry.created.to_be_bytes());
            context.update(&entry.modified.to_be_bytes());
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Digest(out)
    }

    fn readable(&self, revision: Revision) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::Future { asked: revision, current: self.revision });
        }
        if revision < self.compacted {
            return Err(Error::Compacted(self.compacted));
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Modified(key, revision) => self.get(key).is_some_and(|entry| entry.modified == *revision),
            Compare::Absent(key) => self.get(key).is_none(),
        }
    }

    /// What an operation would change; nothing where it deletes what is not there.
    fn change(&self, operation: Operation, revision: Revision) -> Option<Change> {
        let previous = self.get(operation.key());
        match operation {
            Operation::Put(key, value) => {
                let created = previous.as_ref().map_or(revision, |entry| entry.created);
                let current = Some(Entry { key: key.clone(), value, created, modified: revision });
                Some(Change { key, current, previous })
            }
            Operation::Delete(key) => previous.map(|entry| Change { key, current: None, previous: Some(entry) }),
        }
    }

    fn record(&mut self, change: &Change, revision: Revision) {
        let newest = match &change.current {
            Some(entry) => Version { created: entry.created, modified: revision, value: Some(entry.value.clone()) },
            None => Version { created: 0, modified: revision, value: None },
        };
        match self.keys.get_mut(&change.key) {
            Some(versions) => {
                let older = std::mem::replace(&mut versions.newest, newest);
                versions.older.push(older);
            }
            None => {
                self.keys.insert(change.key.clone(), Versions { newest, older: Vec::new() });
            }
        }
    }
}

impl StateHash {
    pub fn add(&mut self, entry: &Entry) {
        self.0 = self.0.wrapping_add(hash_of(entry));
    }

    fn change(&mut self, change: &Change) {
        if let Some(previous) = &change.previous {
            self.0 = self.0.wrapping_sub(hash_of(previous));
        }
        if let Some(current) = &change.current {
            self.add(current);
        }
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The key's length comes first: otherwise the end of a key could pass for the start of a value.
fn hash_of(entry: &Entry) -> u128 {
    let mut hasher = Xxh3::new();
    let numbers = [entry.key.as_str().len() as u64, entry.created, entry.modified];
    numbers.iter().for_each(|number| hasher.update(&number.to_be_bytes()));
    hasher.update(entry.key.as_str().as_bytes());
    hasher.update(&entry.value);
    hasher.digest128()
}

impl Versions {
    /// What the key held as of a revision.
    fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.modified <= revision {
            return Some(&self.newest);
        }
        let later = self.older.partition_point(|version| version.modified <= revision);
        self.older[..later].last()
    }

    /// Keeps what can be read from `revision` on; true where that is nothing.
    fn forget_before(&mut self, revision: Revision) -> bool {
        if self.newest.modified <= revision {
            self.older = Vec::new();
            return self.newest.value.is_none();
        }
        let later = self.older.partition_point(|version| version.modified <= revision);
        // The last one at or before `revision` is what is read there, unless it says "deleted".
        let kept = later - usize::from(later > 0 && self.older[later - 1].value.is_some());
        self.older.drain(..kept);
        self.older.shrink_to_fit();
        false
    }
}

impl Version {
    fn entry(&self, key: &Key) -> Option<Entry> {
        let value = self.value.clone()?;
        Some(Entry { key: key.clone(), value, created: self.created, modified: self.modified })
    }
}

fn bytes_of(changes: &[Change]) -> usize {
    changes.iter().filter_map(|change| change.current.as_ref()).map(|entry| entry.value.len()).sum()
}

/// The changes under a prefix: the very same slice where that is all of them.
fn part(changes: &Arc<[Change]>, prefix: &str) -> Option<Arc<[Change]>> {
    let touches = |change: &&Change| change.key.as_str().starts_with(prefix);
    match changes.iter().filter(touches).count() {
        0 => None,
        all if all == changes.len() => Some(changes.clone()),
        _ => Some(changes.iter().filter(touches).cloned().collect()),
    }
}
