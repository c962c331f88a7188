use std::fs;

use futures::StreamExt;
use tempfile::TempDir;

use super::*;
use crate::store::{
    Error, List, Operation, Options, Outcome, Revision, Store, Transaction, WatchEvent,
    raft::{Replica, alone, force_new},
};

pub(super) fn open(dir: &Path) -> Result<std::sync::Arc<Replica>, OpenError> {
    alone(dir, Options::default())
}

/// In memory where there is such a place: what power failure does to a disk is simulated, and its fsyncs cost seconds.
pub(in crate::store) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

pub(super) fn put(key: &str, value: impl Into<Bytes>) -> Transaction {
    Transaction::put(Key::new(key), value.into())
}

pub(super) async fn write(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.commit(transaction).await.unwrap() {
        Outcome::Committed(revision) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

pub(super) fn list(at: Option<Revision>) -> List {
    List { prefix: "/".into(), after: None, limit: 0, at }
}

/// The directory of a store that was written to and closed.
pub(super) async fn closed_after(writes: usize) -> TempDir {
    let dir = directory();
    let store = open(dir.path()).unwrap();
    for n in 0..writes {
        write(&*store, put("/a", n.to_string())).await;
    }
    dir
}

/// Changes a keyspace behind the store's back.
fn tamper(dir: &TempDir, name: &str, change: impl FnOnce(&Keyspace)) {
    let database = Database::builder(dir.path().join(DATABASE)).open().unwrap();
    change(&database.keyspace(name, KeyspaceCreateOptions::default).unwrap());
    database.persist(PersistMode::SyncAll).unwrap();
}

fn refusal(dir: &TempDir) -> String {
    let error = open(dir.path()).err().expect("refused");
    error.to_string().replace(&dir.path().display().to_string(), "DIR")
}

#[tokio::test]
async fn a_start_continues_where_the_last_one_ended() {
    let dir = directory();
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
    assert_eq!(left, 12, "ten writes, the beginning of a leader's term, and the compaction itself");
}

#[tokio::test]
async fn a_directory_of_another_format_is_refused() {
    let dir = closed_after(1).await;
    tamper(&dir, "meta", |meta| meta.insert(META_FORMAT, "3").unwrap());
    assert_eq!(refusal(&dir), "store DIR is of format 3, but this binary knows format 2 only");
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = directory();
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
    assert_eq!(refusal(&dir), "store DIR: log entry 3 is damaged: nothing was changed");
}

#[tokio::test]
async fn a_missing_log_entry_is_refused() {
    let dir = closed_after(5).await;
    tamper(&dir, "log", |log| log.remove(position(3)).unwrap());
    assert_eq!(refusal(&dir), "store DIR: log entry 3 is missing: nothing was changed");
}

#[tokio::test]
async fn a_damaged_row_is_refused() {
    let dir = closed_after(5).await;
    tamper(&dir, ROWS[0], |rows| rows.insert("/a", "short").unwrap());
    assert_eq!(refusal(&dir), "store DIR: row /a is damaged: nothing was changed");
}

#[tokio::test]
async fn rows_that_changed_on_the_disk_are_refused() {
    let dir = closed_after(5).await;
    let store = open(dir.path()).unwrap();
    store.compact(5).await.unwrap();
    drop(store);
    tamper(&dir, ROWS[0], |rows| {
        let mut row = rows.get("/a").unwrap().unwrap().to_vec();
        *row.last_mut().unwrap() ^= 1;
        rows.insert("/a", row).unwrap();
    });
    assert!(refusal(&dir).starts_with("store DIR: its rows do not match their checkpoint: hash "));
}

#[tokio::test]
async fn a_replica_without_its_ballot_does_not_come_back() {
    let dir = closed_after(1).await;
    fs::remove_file(dir.path().join(BALLOT)).unwrap();
    assert_eq!(refusal(&dir), "store DIR: its ballot is missing: nothing was changed");
}

#[tokio::test]
async fn what_is_left_of_a_group_goes_on_as_another_one() {
    let dir = closed_after(5).await;
    let old = open(dir.path()).unwrap().incarnation().clone();
    let forced = force_new(dir.path(), |_, least| least + 10).unwrap();
    assert_eq!((forced.old, forced.new, forced.revision, &forced.voters), (1, 12, 5, &vec![1]));
    let store = open(dir.path()).unwrap();
    assert_eq!(store.id(), 12);
    assert_ne!(*store.incarnation(), old, "what it has may not be all there was");
    assert_eq!(store.list(list(None)).await.unwrap().entries[0].value, "4");
    assert_eq!(write(&*store, put("/b", "")).await, 6);
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused() {
    let dir = directory();
    fs::create_dir(dir.path().join(DATABASE)).unwrap();
    tamper(&dir, "log", |log| log.insert("theirs", "").unwrap());
    assert_eq!(refusal(&dir), "store DIR holds a database, but none of hanse: it does not say its format");
}

#[tokio::test]
async fn damage_that_is_not_a_torn_end_is_refused() {
    let dir = closed_after(0).await;
    let store = open(dir.path()).unwrap();
    // By then it has begun to lead, which is an entry too.
    store.revision().await.unwrap();
    let used_before = read_journal(&dir).len();
    write(&*store, put("/a", noise(1, 3000))).await;
    let first = read_journal(&dir);
    write(&*store, put("/b", noise(2, 3000))).await;
    let whole = read_journal(&dir);
    // An unwritten sector in a batch that others follow; and one flipped bit in the last.
    let (mut inside, mut flipped) = (whole.clone(), whole.clone());
    let sector = (first.len() - 1500).next_multiple_of(512);
    inside[sector..sector + 512].fill(0);
    flipped[whole.len() - 1500] ^= 1;
    for (journal, at, lost) in [(inside, used_before, 2), (flipped, first.len(), 1)] {
        let copy = copy_with_journal(&dir, &journal);
        let refusal = refusal(&copy);
        let expected = format!(
            "store DIR: 0.jnl is damaged at byte {at}, and at least {lost} acknowledged write(s) from there on would be \
             lost: nothing was changed"
        );
        assert_eq!(refusal, expected);
        assert!(read_journal(&copy) == journal, "and nothing was changed");
    }
}

/// Bytes of every kind there are in a batch, one after the other: each either does no harm or is refused.
#[tokio::test]
async fn rule_07_a_flipped_bit_loses_no_acknowledged_write_unnoticed() {
    let dir = closed_after(0).await;
    let store = open(dir.path()).unwrap();
    store.revision().await.unwrap();
    let before = read_journal(&dir).len();
    write(&*store, put("/a", "1")).await;
    let after = read_journal(&dir).len();
    for key in ["/b", "/c"] {
        write(&*store, put(key, "2")).await;
    }
    let acknowledged = store.list(list(None)).await.unwrap();
    let journal = read_journal(&dir);
    for at in before..after {
        let mut flipped = journal.clone();
        flipped[at] ^= 1 << (at % 8);
        let copy = copy_with_journal(&dir, &flipped);
        match open(copy.path()) {
            Ok(opened) => assert_eq!(opened.list(list(None)).await.unwrap(), acknowledged, "byte {}", at - before),
            Err(error) => assert!(matches!(error, OpenError::Journal { .. }), "byte {}: {error}", at - before),
        }
    }
}

/// Bytes that do not compress.
pub(super) fn noise(seed: u64, length: usize) -> Bytes {
    let blocks = (0..length.div_ceil(32)).map(|n| crate::model::Digest::of(format!("{seed} {n}").as_bytes()).0);
    Bytes::from(blocks.flatten().take(length).collect::<Vec<u8>>())
}

fn journal_path(dir: &TempDir) -> PathBuf {
    journal::journals(&dir.path().join(DATABASE)).unwrap().pop().unwrap()
}

pub(super) fn read_journal(dir: &TempDir) -> Vec<u8> {
    journal::used(&journal_path(dir)).unwrap()
}

/// The directory as it would be found with this journal, allocated ahead as journals are.
pub(super) fn copy_with_journal(dir: &TempDir, journal: &[u8]) -> TempDir {
    let copy = directory();
    copy_all(dir.path(), copy.path());
    let file = copy.path().join(DATABASE).join(journal_path(dir).file_name().unwrap());
    fs::write(&file, journal).unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(journal.len() as u64 + 5000).unwrap();
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
