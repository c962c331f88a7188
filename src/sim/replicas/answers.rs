//! Whether what clients are told is true: of writes, of reads, and of watches.
//!
//! Revisions make it exact and cheap: an acknowledged write is at its revision and nowhere else, and nobody who asks after
//! somebody was told of a revision may be told of an older state.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{check::Checker, shell::Reply};
use crate::store::{Entry, Key, Outcome, Revision, mvcc::Past};

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Put,
    /// A put where the key was last modified at this revision; 0 is never.
    Swap {
        expected: Revision,
    },
    Delete,
    /// Several keys at once.
    Many,
    /// Odd ones, and compaction.
    Other,
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub client: usize,
    pub kind: Kind,
    keys: Vec<Key>,
    command: Bytes,
    /// Somebody was told of this revision before it was asked.
    floor: Revision,
    /// Its client was told that nothing was done.
    undone: bool,
}

/// The history of one key, for whoever wants to look for an order in which it could have happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    Asked { number: u64, client: usize, kind: Kind },
    Told { number: u64, reply: Reply },
}

#[derive(Debug, Default)]
pub struct Answers {
    asked: BTreeMap<u64, Asked>,
    /// The newest revision that anybody was told of.
    floor: Revision,
    /// What each key held, in order of revisions.
    versions: BTreeMap<Key, Vec<(Revision, Option<Bytes>)>>,
    /// By revision, after `base`: the command that made it.
    commands: Vec<Bytes>,
    base: Revision,
    /// The revisions of the writes with a number in them.
    written: BTreeMap<u64, Revision>,
    /// Revisions of commands without a number, that somebody was told of.
    claimed: BTreeMap<Revision, u64>,
    /// Up to where each watch was told everything.
    watched: BTreeMap<usize, Revision>,
    pub moments: Vec<Moment>,
}

/// The key whose history is kept.
pub const WITNESS: &str = "/k/0";

impl Answers {
    /// A transaction was committed, for the first time anywhere.
    pub fn committed(
        &mut self,
        revision: Revision,
        command: &Bytes,
        changes: &[(Key, Option<Bytes>)],
    ) -> Option<String> {
        self.commands.push(command.clone());
        let mut wrong = None;
        for (key, value) in changes {
            self.versions.entry(key.clone()).or_default().push((revision, value.clone()));
            let Some(number) = value.as_ref().and_then(|value| Some(u64::from_be_bytes(value[..].try_into().ok()?)))
            else {
                continue;
            };
            if let Some(earlier) = self.written.insert(number, revision).filter(|earlier| *earlier != revision) {
                wrong = Some(format!("write {number} was done twice, at revisions {earlier} and {revision}"));
            }
            if self.asked.get(&number).is_some_and(|asked| asked.undone) {
                wrong = Some(format!("write {number} was done at {revision} after its client was told it was not"));
            }
        }
        wrong
    }

    pub fn written(&self, number: u64) -> Option<Revision> {
        self.written.get(&number).copied()
    }

    /// Whose command without a number made this revision.
    pub fn claimed(&self, revision: Revision) -> Option<u64> {
        self.claimed.get(&revision).copied()
    }

    /// All that follows this revision will be told.
    pub fn after(base: Revision) -> Self {
        Self { base, floor: base, ..Self::default() }
    }

    /// The command that made this revision.
    pub fn command(&self, revision: Revision) -> Option<&Bytes> {
        self.commands.get(revision.checked_sub(self.base + 1)? as usize)
    }

    fn now(&self) -> Revision {
        self.base + self.commands.len() as Revision
    }

    /// What the key held as of a revision, with when that was written and overwritten.
    fn version(&self, key: &Key, at: Revision) -> (Revision, Revision, Option<&Bytes>) {
        let versions = self.versions.get(key).map_or(&[][..], Vec::as_slice);
        let next = versions.partition_point(|(revision, _)| *revision <= at);
        let until = versions.get(next).map_or(Revision::MAX, |(revision, _)| *revision);
        match next.checked_sub(1).and_then(|at| versions.get(at)) {
            Some((revision, value)) => (*revision, until, value.as_ref()),
            None => (0, until, None),
        }
    }

    fn is_at(&self, key: &Key, entry: Option<&Entry>, at: Revision) -> bool {
        let (modified, _, value) = self.version(key, at);
        match entry {
            Some(entry) => entry.key == *key && entry.modified == modified && Some(&entry.value) == value,
            None => value.is_none(),
        }
    }

    fn judge(&mut self, number: u64, reply: &Reply) -> Option<String> {
        let (floor, now) = (self.floor, self.now());
        let asked = self.asked.get_mut(&number)?;
        match reply {
            Reply::Refused => {
                asked.undone = true;
                let revision = self.written.get(&number)?;
                Some(format!("write {number} was refused, but done at revision {revision}"))
            }
            Reply::Wrote(Outcome::Unknown) => None,
            Reply::Wrote(Outcome::Committed(revision)) if asked.kind == Kind::Other => {
                (*revision > now).then(|| format!("{number} was answered with revision {revision}, ahead of all"))
            }
            Reply::Wrote(Outcome::Committed(revision)) => {
                let asked = asked.clone();
                self.floor = floor.max(*revision);
                self.committed_truly(number, &asked, *revision)
            }
            Reply::Wrote(Outcome::Conflict(current)) => {
                asked.undone = true;
                let asked = asked.clone();
                self.conflicted_truly(number, &asked, current)
            }
            Reply::Read(revision, entry) => {
                let asked = asked.clone();
                self.floor = floor.max(*revision);
                if *revision < asked.floor {
                    let before = asked.floor;
                    return Some(format!("read {number} saw revision {revision}, though {before} was known before"));
                }
                let truly = *revision <= now && self.is_at(asked.keys.first()?, entry.as_ref(), *revision);
                (!truly).then(|| format!("read {number} saw {entry:?} at revision {revision}, where it was not"))
            }
        }
    }

    fn committed_truly(&mut self, number: u64, asked: &Asked, revision: Revision) -> Option<String> {
        let at = self.command(revision);
        let is_there = match asked.kind {
            Kind::Put | Kind::Swap { .. } | Kind::Many => self.written.get(&number) == Some(&revision),
            _ => {
                let claimed = self.claimed.get(&revision).is_some_and(|by| *by != number);
                let mine = at == Some(&asked.command) && !claimed && revision > asked.floor;
                if mine {
                    self.claimed.insert(revision, number);
                }
                // Deleting what is not there changes nothing, and is answered with the newest revision.
                let nothing = revision >= asked.floor
                    && revision <= self.now()
                    && asked.keys.iter().all(|key| self.is_at(key, None, revision));
                mine || nothing
            }
        };
        if !is_there {
            return Some(format!("write {number} was acknowledged at revision {revision}, where it is not"));
        }
        let stale = revision < asked.floor || (asked.kind != Kind::Delete && revision == asked.floor);
        let before = asked.floor;
        stale.then(|| format!("write {number} was committed at {revision}, though {before} was known before it began"))
    }

    /// There must have been a moment since it was asked at which all the keys held that.
    fn conflicted_truly(&self, number: u64, asked: &Asked, current: &[Option<Entry>]) -> Option<String> {
        if let Some(revision) = self.written(number) {
            return Some(format!("write {number} was told of a conflict, but done at revision {revision}"));
        }
        // Between two writes of its keys nothing changes, so those are the moments to look at.
        let mut moments = vec![asked.floor];
        for key in &asked.keys {
            let versions = self.versions.get(key).map_or(&[][..], Vec::as_slice);
            moments.extend(versions.iter().map(|(revision, _)| *revision).filter(|revision| *revision > asked.floor));
        }
        let held =
            |at: &Revision| asked.keys.iter().zip(current).all(|(key, entry)| self.is_at(key, entry.as_ref(), *at));
        let truly = asked.kind == Kind::Other || moments.iter().any(held);
        (!truly).then(|| format!("write {number} was told of a conflict that never was: {current:?}"))
    }
}

impl Checker {
    pub fn invoked(&mut self, number: u64, client: usize, kind: Kind, keys: &[Key], command: Bytes) {
        let floor = self.answers.floor;
        if keys.len() == 1 && keys[0].as_str() == WITNESS {
            self.answers.moments.push(Moment::Asked { number, client, kind });
        }
        let asked = Asked { client, kind, keys: keys.to_vec(), command, floor, undone: false };
        self.answers.asked.insert(number, asked);
    }

    pub fn replied(&mut self, now_us: u64, number: u64, reply: &Reply) {
        if let Some(wrong) = self.answers.judge(number, reply) {
            self.violate(now_us, wrong);
        }
        let asked = self.answers.asked.get(&number);
        if asked.is_some_and(|asked| asked.keys.len() == 1 && asked.keys[0].as_str() == WITNESS) {
            self.answers.moments.push(Moment::Told { number, reply: reply.clone() });
        }
    }

    pub fn listed(&mut self, client: usize, revision: Revision) {
        self.answers.watched.insert(client, revision);
    }

    /// A watch was told of what came next: all of it, in order, and nothing twice.
    pub fn watched(&mut self, now_us: u64, client: usize, prefix: &str, past: &Past) {
        let told = self.answers.watched.insert(client, past.until).unwrap_or_default();
        let count = past.until.saturating_sub(told) as usize;
        let expected = self.state().past(prefix, told, count);
        if expected.as_ref() != Ok(past) {
            let until = past.until;
            self.violate(
                now_us,
                format!("watch {client} of {prefix} after {told} until {until} lacks or repeats something"),
            );
        }
    }
}
