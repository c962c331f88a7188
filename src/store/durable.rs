//! The store of one durable replica: a directory with one fjall database.
//!
//! Owns: where commands and rows lie on the disk, and what is refused at the door: a directory of a newer format, one
//! that another process holds, a log that does not check out. Must never: answer before the commands are fsynced, or
//! repair what it does not understand.
//!
//! The keyspace `log` holds every command since the last checkpoint, by position; `state` holds one row per key as of that
//! checkpoint; `meta` says which one it is. So the history that can be read survives a restart, and a key that is written
//! often costs one row per compaction. All keyspaces share one journal, which keeps their order. Each batch is fsynced
//! before the next one begins, so that power failure can tear no more than one that was not acknowledged; what else is wrong with the journal is found
//! before fjall passes over it ([`journal`]).

mod journal;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
pub(super) mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use super::{
    Entry, Key, Options, Revision, Store,
    command::{self, Command},
    mvcc::{Checkpoint, Mvcc},
    owner::{self, Index, Log, LogError, Recovered},
};
use crate::model::Uid;
use journal::{Damage, Refusal};

/// Raised when an older binary could no longer read the directory rightly.
const FORMAT: u32 = 1;

const META_FORMAT: &str = "format";
const META_INCARNATION: &str = "incarnation";
const META_CHECKPOINT: &str = "checkpoint";

/// Reads are served from memory, so all that fjall may cache is what compaction and the start read: little.
const CACHE_BYTES: u64 = 4 << 20;
const MEMTABLE_BYTES: u64 = 4 << 20;
/// The least that fjall allows. A start replays at most this much.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// Two revisions before the value of a row.
const ROW_HEADER_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("store {} is of format {found}, but this binary knows formats up to {FORMAT}: use a newer one", dir.display())]
    Newer { dir: PathBuf, found: String },
    #[error("store {} is in use by another process", dir.display())]
    Locked { dir: PathBuf },
    #[error("store {} holds a database, but none of hanse: {what}", dir.display())]
    Foreign { dir: PathBuf, what: &'static str },
    #[error("store {}: log entry {index} cannot be read", dir.display())]
    Entry { dir: PathBuf, index: Index, source: command::Invalid },
    #[error("store {}: log entry {index} is missing", dir.display())]
    Gap { dir: PathBuf, index: Index },
    #[error(
        "store {}: {journal} is damaged at byte {at}, and at least {lost} acknowledged write(s) from there on would be lost: \
         nothing was changed; restore the directory from a backup",
        dir.display()
    )]
    Journal { dir: PathBuf, journal: String, at: usize, lost: usize },
    #[error("store {}: {what} is damaged", dir.display())]
    Damaged { dir: PathBuf, what: String },
    #[error("store {}: cannot {doing}", dir.display())]
    Database { dir: PathBuf, doing: &'static str, source: LogError },
}

/// Opens the store in a directory, which is made where it is missing. Blocks for as long as the log takes to be replayed.
pub fn open(dir: impl AsRef<Path>) -> Result<Arc<dyn Store>, OpenError> {
    open_with(dir, Options::default())
}

pub fn open_with(dir: impl AsRef<Path>, options: Options) -> Result<Arc<dyn Store>, OpenError> {
    let dir = dir.as_ref();
    let (log, incarnation, recovered) = Disk::open(dir)?;
    let failed = |source| OpenError::Database { dir: dir.to_owned(), doing: "replay the log", source };
    Ok(Arc::new(owner::start(recovered, Box::new(log), incarnation, options).map_err(failed)?))
}

/// Writes a batch and returns when it is as durable as asked for.
type Commit = dyn FnMut(OwnedWriteBatch, PersistMode) -> fjall::Result<()> + Send;

fn commit(batch: OwnedWriteBatch, durability: PersistMode) -> fjall::Result<()> {
    batch.durability(Some(durability)).commit()
}

struct Disk {
    database: Database,
    /// [`commit`]; in tests, power fails in it.
    commit: Box<Commit>,
    log: Keyspace,
    state: Keyspace,
    meta: Keyspace,
    /// Position of the last command that the log no longer needs.
    checkpoint: Index,
}

impl Disk {
    fn open(dir: &Path) -> Result<(Self, Uid, Recovered), OpenError> {
        let failed = |doing| {
            move |error: fjall::Error| match error {
                fjall::Error::Locked => OpenError::Locked { dir: dir.to_owned() },
                fjall::Error::JournalRecovery(_) => damaged(dir, "its journal"),
                error => OpenError::Database { dir: dir.to_owned(), doing, source: error.into() },
            }
        };
        journal::check(dir).map_err(|refusal| match refusal {
            Refusal::Locked => OpenError::Locked { dir: dir.to_owned() },
            Refusal::Damaged(Damage { journal, at, lost }) => {
                OpenError::Journal { dir: dir.to_owned(), journal, at, lost }
            }
            Refusal::Io(error) => failed("read its journal")(error.into()),
        })?;
        let database = open_database(dir).map_err(failed("open its database"))?;
        let keyspace = |name| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            database.keyspace(name, options).map_err(failed("open a keyspace"))
        };
        let (log, state, meta) = (keyspace("log")?, keyspace("state")?, keyspace("meta")?);
        let disk = Self { database, commit: Box::new(commit), log, state, meta, checkpoint: 0 };
        if disk.meta.get(META_FORMAT).map_err(failed("read its format"))?.is_none() {
            let empty = disk.log.is_empty().and_then(|log| Ok(log && disk.state.is_empty()?));
            if !empty.map_err(failed("look into its database"))? {
                return Err(OpenError::Foreign { dir: dir.to_owned(), what: "it does not say its format" });
            }
            disk.found().map_err(failed("write its format"))?;
        }
        disk.recover(dir)
    }

    /// The first start: format and incarnation are on the disk before anything else is.
    fn found(&self) -> fjall::Result<()> {
        let mut batch = self.database.batch();
        batch.insert(&self.meta, META_FORMAT, FORMAT.to_string());
        batch.insert(&self.meta, META_INCARNATION, uuid::Uuid::new_v4().to_string());
        put_checkpoint(&mut batch, &self.meta, 0, 0);
        commit(batch, PersistMode::SyncAll)
    }

    fn recover(mut self, dir: &Path) -> Result<(Self, Uid, Recovered), OpenError> {
        let failed =
            |doing| move |error: fjall::Error| OpenError::Database { dir: dir.to_owned(), doing, source: error.into() };
        let meta = |key: &str| {
            let value = self.meta.get(key).map_err(failed("read its meta data"))?;
            value.ok_or_else(|| damaged(dir, key))
        };

        let format = String::from_utf8_lossy(&meta(META_FORMAT)?).into_owned();
        if format != FORMAT.to_string() {
            return Err(OpenError::Newer { dir: dir.to_owned(), found: format });
        }
        let incarnation = Uid(String::from_utf8_lossy(&meta(META_INCARNATION)?).into_owned());
        let (index, revision) = pair(&meta(META_CHECKPOINT)?).ok_or_else(|| damaged(dir, META_CHECKPOINT))?;

        let mut entries = Vec::new();
        for row in self.state.iter() {
            let (key, value) = row.into_inner().map_err(failed("read a row"))?;
            entries.push(read_row(&key, &value).ok_or_else(|| damaged(dir, &format!("row {}", key.escape_ascii())))?);
        }
        let mut commands = Vec::new();
        for entry in self.log.range(position(index + 1)..) {
            let (key, value) = entry.into_inner().map_err(failed("read its log"))?;
            let expected = index + 1 + commands.len() as Index;
            if *key != position(expected) {
                return Err(OpenError::Gap { dir: dir.to_owned(), index: expected });
            }
            let command = Command::decode(&value);
            commands.push(command.map_err(|source| OpenError::Entry {
                dir: dir.to_owned(),
                index: expected,
                source,
            })?);
        }
        let recovered = Recovered { index, state: Mvcc::restore(revision, entries), commands };
        self.checkpoint = index;
        Ok((self, incarnation, recovered))
    }
}

impl Log for Disk {
    fn append(&mut self, first: Index, commands: &[Command]) -> Result<(), LogError> {
        let mut batch = self.database.batch();
        for (index, command) in (first..).zip(commands) {
            batch.insert(&self.log, position(index), command.encode());
        }
        Ok((self.commit)(batch, PersistMode::SyncData)?)
    }

    fn checkpoint(&mut self, index: Index, checkpoint: &Checkpoint) -> Result<(), LogError> {
        let mut batch = self.database.batch();
        for (key, entry) in &checkpoint.rows {
            match entry {
                Some(entry) => batch.insert(&self.state, key.as_str(), row(entry)),
                None => batch.remove(&self.state, key.as_str()),
            }
        }
        for gone in self.checkpoint + 1..=index {
            batch.remove(&self.log, position(gone));
        }
        put_checkpoint(&mut batch, &self.meta, index, checkpoint.revision);
        // The log still holds all of it, but the next batch must not begin before this one is whole.
        (self.commit)(batch, PersistMode::SyncData)?;
        self.checkpoint = index;
        Ok(())
    }
}

fn open_database(dir: &Path) -> fjall::Result<Database> {
    Database::builder(dir).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES_MAX).worker_threads(1).open()
}

fn damaged(dir: &Path, what: &str) -> OpenError {
    OpenError::Damaged { dir: dir.to_owned(), what: what.to_owned() }
}

/// Big-endian: the order of the bytes is the order of the log.
fn position(index: Index) -> [u8; 8] {
    index.to_be_bytes()
}

fn put_checkpoint(batch: &mut OwnedWriteBatch, meta: &Keyspace, index: Index, revision: Revision) {
    batch.insert(meta, META_CHECKPOINT, [index.to_be_bytes(), revision.to_be_bytes()].concat());
}

fn pair(bytes: &[u8]) -> Option<(u64, u64)> {
    let (first, second) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*first), u64::from_be_bytes(second.try_into().ok()?)))
}

fn row(entry: &Entry) -> Vec<u8> {
    [&entry.created.to_be_bytes(), &entry.modified.to_be_bytes(), entry.value.as_ref()].concat()
}

/// Copies the value out: a slice would keep a whole block of the database in memory.
fn read_row(key: &[u8], bytes: &[u8]) -> Option<Entry> {
    let (header, value) = bytes.split_at_checked(ROW_HEADER_BYTES)?;
    let (created, modified) = pair(header)?;
    let key = Key::new(std::str::from_utf8(key).ok()?);
    Some(Entry { key, value: Bytes::copy_from_slice(value), created, modified })
}
