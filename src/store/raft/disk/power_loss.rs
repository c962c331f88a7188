//! Power fails in the middle of an fsync, or right after it: what was not synced may be lost, in any of its sectors.
//!
//! The database is real and its journal is looked at from below: at each commit, as the sectors that may be on the disk;
//! after each answer, as what must be.

use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::{
    journal::End,
    tests::{closed_after, copy_with_journal, list, noise, open, put, read_journal, write},
    *,
};
use crate::store::{
    Operation, Options, Store, Transaction,
    raft::{Config, Nobody, Reads, Timing, shell},
};

const ROUNDS: u64 = 24;
const TEARS: u64 = 3;
const SECTOR_BYTES: usize = 512;

/// The journal, as it lies on the disk below the cache.
#[derive(Default)]
struct Platter {
    synced: Vec<u8>,
    /// What power failure may have left since somebody last asked.
    torn: Vec<Vec<u8>>,
    commits: u64,
}

impl Platter {
    fn commit(&mut self, dir: &TempDir, batch: OwnedWriteBatch, durability: PersistMode) -> fjall::Result<()> {
        commit(batch, durability)?;
        self.commits += 1;
        let written = read_journal(dir);
        self.torn.extend((0..TEARS).map(|n| tear(&self.synced, &written, self.commits * TEARS + n)));
        if matches!(durability, PersistMode::SyncData | PersistMode::SyncAll) {
            self.synced = written;
        }
        Ok(())
    }
}

/// Of the sectors that changed, any may have reached the disk: all but one, only one, or about half of them.
fn tear(before: &[u8], after: &[u8], seed: u64) -> Vec<u8> {
    let mut torn = after.to_vec();
    let mut before = before.to_vec();
    before.resize(after.len(), 0);
    let mut changed: Vec<(&mut [u8], &[u8])> = torn.chunks_mut(SECTOR_BYTES).zip(before.chunks(SECTOR_BYTES)).collect();
    changed.retain(|(torn, before)| torn != before);
    let chance = |n: usize| crate::model::Digest::of(format!("{seed} {n}").as_bytes()).0[0] as usize;
    let chosen = chance(changed.len()) % changed.len().max(1);
    for (n, (torn, before)) in changed.into_iter().enumerate() {
        let lost = match seed % TEARS {
            0 => n == chosen,
            1 => n != chosen,
            _ => chance(n).is_multiple_of(2),
        };
        if lost {
            torn.copy_from_slice(before);
        }
    }
    torn.truncate(torn.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    torn
}

#[tokio::test]
async fn rule_07_an_acknowledged_write_survives_torn_sectors() {
    // Opened for the second time, a journal has lost the zeros that it was allocated with, which cost time to look at.
    let dir = Arc::new(closed_after(0).await);
    let mut opened = Disk::open(dir.path(), &Start::Found).unwrap();
    let platter = Arc::new(Mutex::new(Platter { synced: read_journal(&dir), ..Platter::default() }));
    let (below, place) = (platter.clone(), dir.clone());
    opened.disk.commit = Box::new(move |batch, durability| below.lock().commit(&place, batch, durability));
    let config = Config {
        dir: dir.path().to_owned(),
        timing: Timing::default(),
        reads: Reads::default(),
        options: Options::default(),
    };
    let store = shell::begin(opened, config, Arc::new(Nobody)).unwrap();

    let mut torn_inside = 0;
    for round in 0..ROUNDS {
        let operations = ["first", "second"]
            .map(|half| Operation::Put(Key::new(format!("/{half}/{round:03}")), noise(round, 300 * round as usize)));
        write(&*store, Transaction { compares: vec![], operations: operations.into() }).await;
        if round % 4 == 3 {
            store.compact(round).await.unwrap();
        }
        let (torn, synced) = {
            let mut platter = platter.lock();
            (std::mem::take(&mut platter.torn), platter.synced.clone())
        };
        for journal in torn {
            torn_inside += u64::from(matches!(journal::end(&journal, &mut None), End::Torn { .. }));
            survives(&dir, &journal, round..=round + 1).await;
        }
        survives(&dir, &synced, round + 1..=round + 1).await;
    }
    assert!(torn_inside > ROUNDS, "no more than {torn_inside} journals were torn inside of a batch");
}

/// So many rounds are there, none by halves.
async fn survives(dir: &TempDir, journal: &[u8], rounds: std::ops::RangeInclusive<u64>) {
    let copy = copy_with_journal(dir, journal);
    // Twice: what was repaired must stay readable after more writes.
    for reopened in 0..2 {
        let survivor = open(copy.path()).unwrap_or_else(|error| panic!("{rounds:?} rounds: {error}"));
        let found = survivor.list(list(None)).await.unwrap().entries;
        let count = |prefix: &str| found.iter().filter(|entry| entry.key.as_str().starts_with(prefix)).count() as u64;
        assert!(rounds.contains(&count("/first")), "{} instead of {rounds:?} rounds", count("/first"));
        assert_eq!(count("/first"), count("/second"));
        assert_eq!(count("/more"), reopened);
        write(&*survivor, put("/more", "")).await;
    }
}
