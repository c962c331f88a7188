use std::fs;

use futures::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::store::{Error, List, Operation, Outcome, Transaction, WatchEvent};

fn put(key: &str, value: impl Into<Bytes>) -> Transaction {
    Transaction::put(Key::new(key), value.into())
}

async fn write(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.commit(transaction).await.unwrap() {
        Outcome::Committed(revision) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

fn list(at: Option<Revision>) -> List {
    List { prefix: "/".into(), after: None, limit: 0, at }
}

/// The directory of a store that was written to and closed.
async fn closed_after(writes: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for n in 0..writes {
        write(&*store, put("/a", n.to_string())).await;
    }
    dir
}

/// Changes a keyspace behind the store's back.
fn tamper(dir: &TempDir, name: &str, change: impl FnOnce(&Keyspace)) {
    let database = Database::builder(dir.path()).open().unwrap();
    change(&database.keyspace(name, KeyspaceCreateOptions::default).unwrap());
    database.persist(PersistMode::SyncAll).unwrap();
}

fn refusal(dir: &TempDir) -> String {
    let error = open(dir.path()).err().expect("refused");
    error.to_string().replace(&dir.path().display().to_string(), "DIR")
}

#[tokio::test]
async fn a_start_continues_where_the_last_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for n in 0..6 {
        write(&*store, put(&format!("/{}", n % 3), n.to_string())).await;
    }
    write(&*store, Transaction { compares: vec![], operations: vec![Operation::Delete(Key::new("/0"))] }).await;
    store.compact(3).await.unwrap();
    let incarnation = store.incarnation().clone();
    let mut pages = Vec::new();
    for at in 3..=7 {
        pages.push(store.list(list(Some(at))).await.unwrap());
    }
    drop(store);

    let store = open(dir.path()).unwrap();
    assert_eq!(*store.incarnation(), incarnation);
    for page in pages {
        assert_eq!(store.list(list(Some(page.revision))).await, Ok(page));
    }
    assert_eq!(store.list(list(Some(2))).await, Err(Error::Compacted(3)));
    let mut watch = store.watch("/", 3).await.unwrap();
    for expected in 4..=7 {
        let event = watch.next().await.unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Transaction { revision, .. } if revision == expected), "{event:?}");
    }
    assert_eq!(write(&*store, put("/b", "")).await, 8);
}

#[tokio::test]
async fn two_stores_have_two_incarnations() {
    let incarnation = |dir: &TempDir| open(dir.path()).unwrap().incarnation().clone();
    let (one, other) = (closed_after(0).await, closed_after(0).await);
    assert_ne!(incarnation(&one), incarnation(&other));
}

#[tokio::test]
async fn compaction_shortens_the_log() {
    let dir = closed_after(50).await;
    let store = open(dir.path()).unwrap();
    store.compact(40).await.unwrap();
    drop(store);
    let mut left = 0;
    tamper(&dir, "log", |log| left = log.iter().count());
    assert_eq!(left, 11, "ten writes and the compaction itself");
}

#[tokio::test]
async fn a_directory_of_a_newer_format_is_refused() {
    let dir = closed_after(1).await;
    tamper(&dir, "meta", |meta| meta.insert(META_FORMAT, "2").unwrap());
    assert_eq!(refusal(&dir), "store DIR is of format 2, but this binary knows formats up to 1: use a newer one");
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _holder = open(dir.path()).unwrap();
    assert_eq!(refusal(&dir), "store DIR is in use by another process");
}

#[tokio::test]
async fn a_damaged_log_entry_is_refused() {
    let dir = closed_after(5).await;
    tamper(&dir, "log", |log| {
        let mut entry = log.get(position(3)).unwrap().unwrap().to_vec();
        entry[20] ^= 1;
        log.insert(position(3), entry).unwrap();
    });
    assert_eq!(refusal(&dir), "store DIR: log entry 3 cannot be read");
}

#[tokio::test]
async fn a_missing_log_entry_is_refused() {
    let dir = closed_after(5).await;
    tamper(&dir, "log", |log| log.remove(position(3)).unwrap());
    assert_eq!(refusal(&dir), "store DIR: log entry 3 is missing");
}

#[tokio::test]
async fn a_damaged_row_is_refused() {
    let dir = closed_after(5).await;
    tamper(&dir, "state", |state| state.insert("/a", "short").unwrap());
    assert_eq!(refusal(&dir), "store DIR: row /a is damaged");
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    tamper(&dir, "log", |log| log.insert("theirs", "").unwrap());
    assert_eq!(refusal(&dir), "store DIR holds a database, but none of hanse: it does not say its format");
}

/// Of the sectors of the write that was under way when power failed, any may have reached the disk.
#[tokio::test]
async fn rule_07_an_acknowledged_write_survives_torn_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut torn_inside = 0;
    for round in 0..24u64 {
        let values = |half: &str| (format!("/{half}/{round:03}"), noise(round, 300 * round as usize));
        let before = read_journal(&dir);
        let operations = ["first", "second"].map(|half| {
            let (key, value) = values(half);
            Operation::Put(Key::new(key), value)
        });
        write(&*store, Transaction { compares: vec![], operations: operations.into() }).await;
        let after = read_journal(&dir);
        for variant in 0..3 {
            let torn = tear(&before, &after, round << 8 | variant);
            let copy = copy_with_journal(&dir, &torn);
            torn_inside += u64::from(torn::torn_tail(&torn).is_some());
            // Twice: what was repaired must stay readable after more writes.
            for reopened in 0..2 {
                let survivor = open(copy.path()).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
                let found = survivor.list(list(None)).await.unwrap().entries;
                let halves = found.iter().filter(|entry| !entry.key.as_str().starts_with("/more")).count() as u64;
                assert!(halves == 2 * round || halves == 2 * (round + 1), "round {round}: {halves} halves");
                assert_eq!(found.len() as u64 - halves, reopened);
                write(&*survivor, put("/more", "")).await;
            }
        }
    }
    assert!(torn_inside > 5, "no more than {torn_inside} journals were torn inside of a batch");
}

#[tokio::test]
async fn damage_that_is_not_a_torn_end_is_refused() {
    let dir = closed_after(0).await;
    let store = open(dir.path()).unwrap();
    write(&*store, put("/a", noise(1, 3000))).await;
    let first = read_journal(&dir);
    write(&*store, put("/b", noise(2, 3000))).await;
    let whole = read_journal(&dir);
    // An unwritten sector in a batch that others follow; and one flipped bit in the last.
    let (mut inside, mut flipped) = (whole.clone(), whole.clone());
    let sector = (used(&first) - 1500).next_multiple_of(512);
    inside[sector..sector + 512].fill(0);
    flipped[used(&whole) - 1500] ^= 1;
    for journal in [inside, flipped] {
        let copy = copy_with_journal(&dir, &journal);
        assert_eq!(refusal(&copy), "store DIR: its journal is damaged");
        assert_eq!(used(&read_journal(&copy)), used(&whole), "and nothing was cut off");
    }
}

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Bytes {
    let blocks = (0..length.div_ceil(32)).map(|n| crate::model::Digest::of(format!("{seed} {n}").as_bytes()).0);
    Bytes::from(blocks.flatten().take(length).collect::<Vec<u8>>())
}

/// Journals are preallocated and stay far below this in the tests here.
const JOURNAL_READ_BYTES: u64 = 1 << 20;

fn journal_path(dir: &TempDir) -> PathBuf {
    torn::newest_journal(dir.path()).unwrap().unwrap()
}

fn read_journal(dir: &TempDir) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(journal_path(dir)).unwrap().take(JOURNAL_READ_BYTES).read_to_end(&mut bytes).unwrap();
    bytes
}

fn used(journal: &[u8]) -> usize {
    journal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn tear(before: &[u8], after: &[u8], seed: u64) -> Vec<u8> {
    let mut torn = after.to_vec();
    for at in (0..after.len()).step_by(512) {
        let sector = at..at + 512;
        let lost = crate::model::Digest::of(format!("{seed} {at}").as_bytes()).0[0].is_multiple_of(4);
        if before[sector.clone()] != after[sector.clone()] && lost {
            torn[sector.clone()].copy_from_slice(&before[sector]);
        }
    }
    torn
}

fn copy_with_journal(dir: &TempDir, journal: &[u8]) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(dir.path(), copy.path());
    let file = copy.path().join(journal_path(dir).file_name().unwrap());
    fs::write(&file, journal).unwrap();
    copy
}

fn copy_all(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy_all(&path, &target);
        } else if path.extension().is_none_or(|extension| extension != "jnl") {
            fs::copy(&path, &target).unwrap();
        }
    }
}
