//! What a replica has on its disk: a directory with one fjall database, and the ballot beside it.
//!
//! Owns: where log, rows and checkpoint lie, and what is refused at the door: a directory of another format, one that
//! another process holds, one that has lost or damaged something. Must never: say that something is durable before it is
//! fsynced, or repair what it does not understand.
//!
//! The keyspace `log` holds the entries since the last checkpoint, by index; `rows.0` or `rows.1` one row per key as of that
//! checkpoint; `meta` says which of them, and which checkpoint it is. So the history that can be read survives a restart,
//! and a key that is written often costs one row per compaction. All keyspaces share one journal, which keeps their
//! order. Each batch is fsynced before the next one begins, so that power failure can tear no more than one that was not
//! acknowledged; what else is wrong with the journal is found before fjall passes over it ([`journal`]).
//!
//! ```text
//! log    index u64 => term u64 | kind u8 | data | crc32 of index and all before, u32
//! rows   key       => created u64 | modified u64 | value
//! ```

mod journal;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
pub(in crate::store) mod tests;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use bytes::{Buf, BufMut, Bytes};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use self::journal::{Damage, Refusal};
use super::{
    ReplicaId, Start,
    ballot::{BallotError, BallotFile},
    core::{Forget, Install, Recovered, Write},
    crash,
    log::{Ballot, Checkpoint, Kind, LogEntry},
};
use crate::{
    model::Uid,
    store::{Entry, Key, mvcc::StateHash},
};

/// Raised when an older binary could no longer read the directory rightly.
const FORMAT: u32 = 2;

const META_FORMAT: &str = "format";
const META_INCARNATION: &str = "incarnation";
const META_REPLICA: &str = "replica";
const META_CHECKPOINT: &str = "checkpoint";
const META_COMMITTED: &str = "committed";
const ROWS: [&str; 2] = ["rows.0", "rows.1"];
const DATABASE: &str = "db";
const BALLOT: &str = "ballot";
/// Says why, in a directory that must not be started from again.
const DISTRUSTED: &str = "distrusted";
/// Of a replica that takes the place of another one in this directory; see [`Disk::replace`].
const BALLOT_NEXT: &str = "ballot.next";

/// Reads are served from memory, so all that fjall may cache is what compaction and the start read: little.
const CACHE_BYTES: u64 = 4 << 20;
const MEMTABLE_BYTES: u64 = 4 << 20;
/// The least that fjall allows. A start replays at most this much.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// An installed snapshot reaches the disk in batches of about this size.
const INSTALL_BYTES: usize = 4 << 20;
/// Two revisions before the value of a row.
const ROW_HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

pub(super) type LogError = Box<dyn std::error::Error + Send + Sync>;

/// Where a replica's log and rows are kept. After an error it is not used again.
pub trait RaftLogStore: Send {
    /// All of it is durable, in order, when this returns: power may fail afterwards.
    fn write(&mut self, orders: Vec<Order>) -> Result<(), LogError>;
}

/// What the core wants on the disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    Write(Write),
    Forget(Forget),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("store {} is of format {found}, but this binary knows format {FORMAT} only", dir.display())]
    Format { dir: PathBuf, found: String },
    #[error("store {} is in use by another process", dir.display())]
    Locked { dir: PathBuf },
    #[error("store {} holds a database, but none of hanse: {what}", dir.display())]
    Foreign { dir: PathBuf, what: &'static str },
    #[error(
        "store {}: {journal} is damaged at byte {at}, and at least {lost} acknowledged write(s) from there on would be lost: \
         nothing was changed",
        dir.display()
    )]
    Journal { dir: PathBuf, journal: String, at: usize, lost: usize },
    #[error("store {}: {what}: nothing was changed", dir.display())]
    Damaged { dir: PathBuf, what: String },
    #[error("store {}: cannot {doing}", dir.display())]
    Database { dir: PathBuf, doing: &'static str, source: LogError },
    #[error("the store cannot start")]
    Start(#[source] LogError),
}

impl OpenError {
    /// The disk has lost or damaged something: the replica must not come back under its id, but a new one can take its
    /// place.
    pub fn distrusts_disk(&self) -> bool {
        matches!(self, Self::Journal { .. } | Self::Damaged { .. })
    }
}

/// Writes a batch and returns when it is as durable as asked for.
type Commit = dyn FnMut(OwnedWriteBatch, PersistMode) -> fjall::Result<()> + Send;

fn commit(batch: OwnedWriteBatch, durability: PersistMode) -> fjall::Result<()> {
    batch.durability(Some(durability)).commit()
}

/// An open directory.
pub(super) struct Opened {
    pub disk: Disk,
    pub ballots: BallotFile,
    pub id: ReplicaId,
    pub incarnation: Uid,
    pub recovered: Recovered,
}

pub(super) struct Disk {
    database: Database,
    /// [`commit`]; in tests, power fails in it.
    commit: Box<Commit>,
    log: Keyspace,
    rows: [Keyspace; 2],
    meta: Keyspace,
    /// Which of `rows` counts.
    active: usize,
    checkpoint: Checkpoint,
    /// Index of the last entry of the log.
    last: u64,
}

impl Disk {
    /// Opens what a directory holds; a directory without a store gets one as `start` says.
    pub fn open(dir: &Path, start: &Start) -> Result<Opened, OpenError> {
        let failed = |doing| {
            move |error: fjall::Error| match error {
                fjall::Error::Locked => OpenError::Locked { dir: dir.to_owned() },
                fjall::Error::JournalRecovery(_) => damaged(dir, "its journal is damaged"),
                error => OpenError::Database { dir: dir.to_owned(), doing, source: error.into() },
            }
        };
        if let Ok(why) = fs::read_to_string(dir.join(DISTRUSTED)) {
            return Err(damaged(dir, why));
        }
        let place = dir.join(DATABASE);
        fs::create_dir_all(&place).map_err(|error| failed("make its directory")(error.into()))?;
        journal::check(&place).map_err(|refusal| match refusal {
            Refusal::Locked => OpenError::Locked { dir: dir.to_owned() },
            Refusal::Damaged(Damage { journal, at, lost }) => {
                OpenError::Journal { dir: dir.to_owned(), journal, at, lost }
            }
            Refusal::Io(error) => failed("read its journal")(error.into()),
        })?;
        let database = open_database(&place).map_err(failed("open its database"))?;
        let keyspace = |name| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            database.keyspace(name, options).map_err(failed("open a keyspace"))
        };
        let (log, rows, meta) = (keyspace("log")?, [keyspace(ROWS[0])?, keyspace(ROWS[1])?], keyspace("meta")?);
        let disk = Self {
            database,
            commit: Box::new(commit),
            log,
            rows,
            meta,
            active: 0,
            checkpoint: Checkpoint::default(),
            last: 0,
        };
        if disk.meta.get(META_FORMAT).map_err(failed("read its format"))?.is_none() {
            let empty = disk.log.is_empty().and_then(|log| Ok(log && disk.rows[0].is_empty()?));
            if !empty.map_err(failed("look into its database"))? {
                return Err(OpenError::Foreign { dir: dir.to_owned(), what: "it does not say its format" });
            }
            disk.found(dir, start)?;
        }
        disk.recover(dir)
    }

    /// The first start: ballot, format and identity are on the disk before anything else is.
    fn found(&self, dir: &Path, start: &Start) -> Result<(), OpenError> {
        let failed = |source: LogError| OpenError::Database { dir: dir.to_owned(), doing: "found it", source };
        let (id, incarnation, ballot, checkpoint) = match start {
            Start::Found => {
                // Not the very beginning: whoever joins later is behind it, and gets the founders by snapshot.
                let checkpoint = Checkpoint { index: 1, term: 1, voters: vec![1], ..Checkpoint::default() };
                (1, Uid(uuid::Uuid::new_v4().to_string()), Ballot { term: 1, vote: 0 }, checkpoint)
            }
            Start::Join { id, incarnation } => (*id, incarnation.clone(), Ballot::default(), Checkpoint::default()),
        };
        BallotFile::create(&dir.join(BALLOT), id, ballot).map_err(|error| failed(error.into()))?;
        let mut batch = self.database.batch();
        batch.insert(&self.meta, META_FORMAT, FORMAT.to_string());
        batch.insert(&self.meta, META_INCARNATION, incarnation.0);
        batch.insert(&self.meta, META_REPLICA, id.to_be_bytes());
        batch.insert(&self.meta, META_CHECKPOINT, encode_checkpoint(&checkpoint, 0));
        batch.insert(&self.meta, META_COMMITTED, position(checkpoint.index));
        commit(batch, PersistMode::SyncAll).map_err(|error| failed(error.into()))
    }

    fn recover(mut self, dir: &Path) -> Result<Opened, OpenError> {
        let failed =
            |doing| move |error: fjall::Error| OpenError::Database { dir: dir.to_owned(), doing, source: error.into() };
        let meta = |key: &str| {
            let value = self.meta.get(key).map_err(failed("read its meta data"))?;
            value.ok_or_else(|| damaged(dir, format!("its {key} is missing")))
        };
        let format = String::from_utf8_lossy(&meta(META_FORMAT)?).into_owned();
        if format != FORMAT.to_string() {
            return Err(OpenError::Format { dir: dir.to_owned(), found: format });
        }
        let incarnation = Uid(String::from_utf8_lossy(&meta(META_INCARNATION)?).into_owned());
        let id = meta(META_REPLICA)?.as_ref().try_into().map(ReplicaId::from_be_bytes);
        let id = id.map_err(|_| damaged(dir, "its id is damaged"))?;
        let (checkpoint, active) =
            decode_checkpoint(&meta(META_CHECKPOINT)?).ok_or_else(|| damaged(dir, "its checkpoint is damaged"))?;
        if BallotFile::open(&dir.join(BALLOT_NEXT), id).is_ok() {
            let taken = fs::rename(dir.join(BALLOT_NEXT), dir.join(BALLOT));
            taken.map_err(|error| failed("take its next ballot")(error.into()))?;
        }
        let (ballots, ballot) = BallotFile::open(&dir.join(BALLOT), id).map_err(|error| match error {
            BallotError::Io(error) => failed("read its ballot")(error.into()),
            error => damaged(dir, error.to_string()),
        })?;

        let mut rows = Vec::new();
        let mut hash = StateHash::default();
        for row in self.rows[active].iter() {
            let (key, value) = row.into_inner().map_err(failed("read a row"))?;
            let row = read_row(&key, &value);
            let row = row.ok_or_else(|| damaged(dir, format!("row {} is damaged", key.escape_ascii())))?;
            hash.add(&row);
            rows.push(row);
        }
        if hash != checkpoint.hash {
            let expected = checkpoint.hash;
            return Err(damaged(
                dir,
                format!("its rows do not match their checkpoint: hash {hash}, expected {expected}"),
            ));
        }
        let mut entries = Vec::new();
        for entry in self.log.range(position(checkpoint.index + 1)..) {
            let (key, value) = entry.into_inner().map_err(failed("read its log"))?;
            let expected = checkpoint.index + 1 + entries.len() as u64;
            if *key != position(expected) {
                return Err(damaged(dir, format!("log entry {expected} is missing")));
            }
            let entry = decode_entry(expected, &value);
            entries.push(entry.ok_or_else(|| damaged(dir, format!("log entry {expected} is damaged")))?);
        }
        self.last = checkpoint.index + entries.len() as u64;
        let committed = meta(META_COMMITTED)?.as_ref().try_into().map(u64::from_be_bytes);
        let committed = committed.map_err(|_| damaged(dir, "what was committed is damaged"))?;
        if committed > self.last {
            return Err(damaged(dir, format!("its log ends at {} though {committed} was committed", self.last)));
        }
        self.checkpoint = checkpoint.clone();
        self.active = active;
        let recovered = Recovered { ballot, checkpoint, rows, entries, committed };
        Ok(Opened { disk: self, ballots, id, incarnation, recovered })
    }

    /// Everything as of a snapshot, under the other name for rows; the last batch makes it count.
    fn install(&mut self, install: Install) -> Result<(), LogError> {
        let Install { checkpoint, rows } = install;
        let next = 1 - self.active;
        self.clear(next)?;
        let mut batch = self.database.batch();
        let mut bytes = 0;
        for entry in &rows {
            batch.insert(&self.rows[next], entry.key.as_str(), row(entry));
            bytes += entry.key.as_str().len() + entry.value.len();
            if bytes > INSTALL_BYTES {
                (self.commit)(std::mem::replace(&mut batch, self.database.batch()), PersistMode::SyncData)?;
                bytes = 0;
                crash::point("install-half-way");
            }
        }
        (self.commit)(batch, PersistMode::SyncData)?;
        crash::point("install-before-switch");
        let mut batch = self.database.batch();
        for gone in self.checkpoint.index + 1..=self.last {
            batch.remove(&self.log, position(gone));
        }
        batch.insert(&self.meta, META_CHECKPOINT, encode_checkpoint(&checkpoint, next));
        batch.insert(&self.meta, META_COMMITTED, position(checkpoint.index));
        (self.commit)(batch, PersistMode::SyncData)?;
        self.last = checkpoint.index;
        self.checkpoint = checkpoint;
        self.active = next;
        self.clear(1 - next)
    }

    /// Another replica, alone in its group, goes on from this state. The ballot's name changes last: where this is cut short,
    /// it is either not done, or finished by the next opening.
    pub fn replace(&mut self, dir: &Path, id: ReplicaId, incarnation: &Uid, install: Install) -> Result<(), LogError> {
        let ballot = Ballot { term: install.checkpoint.term, vote: 0 };
        BallotFile::create(&dir.join(BALLOT_NEXT), id, ballot)?;
        self.install(install)?;
        let mut batch = self.database.batch();
        batch.insert(&self.meta, META_REPLICA, id.to_be_bytes());
        batch.insert(&self.meta, META_INCARNATION, incarnation.0.as_str());
        (self.commit)(batch, PersistMode::SyncAll)?;
        fs::rename(dir.join(BALLOT_NEXT), dir.join(BALLOT))?;
        Ok(fs::File::open(dir)?.sync_all()?)
    }

    fn clear(&mut self, rows: usize) -> Result<(), LogError> {
        let keys = self.rows[rows].iter().map(|row| row.key()).collect::<fjall::Result<Vec<_>>>()?;
        for keys in keys.chunks(1024) {
            let mut batch = self.database.batch();
            keys.iter().for_each(|key| batch.remove(&self.rows[rows], key.clone()));
            (self.commit)(batch, PersistMode::SyncData)?;
        }
        Ok(())
    }

    /// Entries and checkpoints as one batch. No key is in it twice: nothing says which one would count.
    fn write_batch(&mut self, group: Group) -> Result<(), LogError> {
        let Group { entries, forgets, committed } = group;
        let mut batch = self.database.batch();
        if let Some(committed) = committed {
            batch.insert(&self.meta, META_COMMITTED, position(committed));
        }
        for entry in &entries {
            batch.insert(&self.log, position(entry.index), encode_entry(entry));
        }
        if let Some(last) = entries.last() {
            for gone in last.index + 1..=self.last {
                batch.remove(&self.log, position(gone));
            }
            self.last = last.index;
        }
        let mut rows: BTreeMap<Key, Option<Entry>> = BTreeMap::new();
        let mut checkpoint = None;
        for forget in forgets {
            rows.extend(forget.rows);
            checkpoint = Some(forget.checkpoint);
        }
        for (key, entry) in &rows {
            match entry {
                Some(entry) => batch.insert(&self.rows[self.active], key.as_str(), row(entry)),
                None => batch.remove(&self.rows[self.active], key.as_str()),
            }
        }
        if let Some(checkpoint) = checkpoint {
            for gone in self.checkpoint.index + 1..=checkpoint.index {
                batch.remove(&self.log, position(gone));
            }
            batch.insert(&self.meta, META_CHECKPOINT, encode_checkpoint(&checkpoint, self.active));
            self.checkpoint = checkpoint;
        }
        crash::point("log-before-sync");
        (self.commit)(batch, PersistMode::SyncData)?;
        crash::point("log-after-sync");
        Ok(())
    }
}

/// What becomes one batch.
#[derive(Default)]
struct Group {
    entries: Vec<LogEntry>,
    forgets: Vec<Forget>,
    committed: Option<u64>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.forgets.is_empty() && self.committed.is_none()
    }
}

impl RaftLogStore for Disk {
    fn write(&mut self, orders: Vec<Order>) -> Result<(), LogError> {
        let mut group = Group::default();
        for order in orders {
            match order {
                Order::Forget(forget) => group.forgets.push(forget),
                Order::Write(Write { install: Some(install), .. }) => {
                    if !group.is_empty() {
                        self.write_batch(std::mem::take(&mut group))?;
                    }
                    self.install(install)?;
                }
                Order::Write(write) => {
                    // What replaces earlier entries follows them in a batch of its own.
                    let replaces =
                        |last: &LogEntry| write.entries.first().is_some_and(|first| first.index <= last.index);
                    if group.entries.last().is_some_and(replaces) {
                        self.write_batch(std::mem::take(&mut group))?;
                    }
                    group.entries.extend(write.entries);
                    group.committed = Some(write.committed);
                }
            }
        }
        if group.is_empty() { Ok(()) } else { self.write_batch(group) }
    }
}

/// Whether a replica found that it must not start from this directory again.
pub fn is_distrusted(dir: &Path) -> bool {
    dir.join(DISTRUSTED).exists()
}

/// From now on the directory is refused, for this reason.
pub(super) fn distrust(dir: &Path, why: &str) -> std::io::Result<()> {
    fs::write(dir.join(DISTRUSTED), why)?;
    fs::File::open(dir.join(DISTRUSTED))?.sync_all()?;
    fs::File::open(dir)?.sync_all()
}

fn open_database(place: &Path) -> fjall::Result<Database> {
    Database::builder(place).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES_MAX).worker_threads(1).open()
}

fn damaged(dir: &Path, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { dir: dir.to_owned(), what: what.into() }
}

/// Big-endian: the order of the bytes is the order of the log.
fn position(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn encode_entry(entry: &LogEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(entry.data.len() + 13);
    out.put_u64(entry.term);
    out.put_u8(match entry.kind {
        Kind::Command => 0,
        Kind::Change => 1,
    });
    out.put_slice(&entry.data);
    out.put_u32(checksum(entry.index, &out));
    out
}

fn decode_entry(index: u64, bytes: &[u8]) -> Option<LogEntry> {
    let (body, mut sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    if sum.get_u32() != checksum(index, body) {
        return None;
    }
    let (mut term, rest) = body.split_at_checked(8)?;
    let (kind, data) = rest.split_first()?;
    let kind = match kind {
        0 => Kind::Command,
        1 => Kind::Change,
        _ => return None,
    };
    Some(LogEntry { index, term: term.get_u64(), kind, data: Bytes::copy_from_slice(data) })
}

/// With the index, so that no entry passes for another.
fn checksum(index: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&index.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// Index, term, revision, hash, which rows, then voters and learners, each with their number before them, and a checksum.
fn encode_checkpoint(checkpoint: &Checkpoint, rows: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [checkpoint.index, checkpoint.term, checkpoint.revision] {
        out.put_u64(number);
    }
    out.put_u128(checkpoint.hash.0);
    out.put_u8(rows as u8);
    for members in [&checkpoint.voters, &checkpoint.learners] {
        out.put_u32(members.len() as u32);
        members.iter().for_each(|id| out.put_u64(*id));
    }
    out.put_u32(crc32fast::hash(&out));
    out
}

fn decode_checkpoint(bytes: &[u8]) -> Option<(Checkpoint, usize)> {
    let (mut body, mut sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    if sum.get_u32() != crc32fast::hash(body) || body.len() < 41 {
        return None;
    }
    let (index, term, revision) = (body.get_u64(), body.get_u64(), body.get_u64());
    let (hash, rows) = (StateHash(body.get_u128()), usize::from(body.get_u8()));
    let mut members = || {
        let count = body.try_get_u32().ok()? as usize;
        (0..count).map(|_| body.try_get_u64().ok()).collect::<Option<Vec<_>>>()
    };
    let (voters, learners) = (members()?, members()?);
    (rows < ROWS.len()).then_some((Checkpoint { index, term, voters, learners, revision, hash }, rows))
}

fn row(entry: &Entry) -> Vec<u8> {
    [&entry.created.to_be_bytes(), &entry.modified.to_be_bytes(), entry.value.as_ref()].concat()
}

/// Copies the value out: a slice would keep a whole block of the database in memory.
fn read_row(key: &[u8], bytes: &[u8]) -> Option<Entry> {
    let (mut header, value) = bytes.split_at_checked(ROW_HEADER_BYTES)?;
    let (created, modified) = (header.get_u64(), header.get_u64());
    let key = Key::new(std::str::from_utf8(key).ok()?);
    Some(Entry { key, value: Bytes::copy_from_slice(value), created, modified })
}
