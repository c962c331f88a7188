//! kill -9 of a real process that writes to a durable store under load.
//!
//! The writer is this very binary, started anew with the ignored test [`writer`] as its only one. It prints each write
//! after its acknowledgement; whatever it printed must be there when the next one opens the directory.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hanse::store::{Key, List, Operation, Options, Outcome, Revision, Store, Transaction, raft};

const DIRECTORY: &str = "HANSE_STORE_CRASH_DIRECTORY";
const KILLS: u64 = 36;
const WRITERS: usize = 4;
/// Looking after every kill would hide what several crashes in a row do.
const KILLS_PER_LOOK: u64 = 3;

#[tokio::test]
async fn rule_07_an_acknowledged_write_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for kill in 1..=KILLS {
        // Spread over start, replay, load and compaction; the same moments in every run, as far as the machine allows.
        let load = Duration::from_millis(kill * 37 % 120);
        acknowledged.extend(killed_under_load(dir.path(), kill, load));
        if kill % KILLS_PER_LOOK == 0 {
            check(dir.path(), &acknowledged).await;
        }
    }
    assert!(acknowledged.len() as u64 > KILLS, "{} writes are no load", acknowledged.len());
}

/// What a writer had acknowledged, by name, when it was killed.
fn killed_under_load(dir: &Path, life: u64, load: Duration) -> Vec<(String, Revision)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["store_crash::writer", "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, dir)
        .env("HANSE_STORE_CRASH_LIFE", life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    // Every third life is killed while it starts.
    if !life.is_multiple_of(3) {
        while acknowledged.is_empty() {
            acknowledged.extend(read_acknowledgement(&mut lines).expect("the writer lives"));
        }
    }
    std::thread::sleep(load);
    kill(&mut child);
    while let Some(line) = read_acknowledgement(&mut lines) {
        acknowledged.extend(line);
    }
    acknowledged
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `None` at the end; an empty answer for a line of the test runner. A line without its end was never finished.
fn read_acknowledgement(lines: &mut impl BufRead) -> Option<Option<(String, Revision)>> {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let line = line.strip_suffix('\n')?;
    Some(line.strip_prefix("acknowledged ").map(|rest| {
        let (name, revision) = rest.split_once(' ').unwrap();
        (name.to_owned(), revision.parse().unwrap())
    }))
}

async fn check(dir: &Path, acknowledged: &BTreeMap<String, Revision>) {
    let store = raft::alone(dir, Options::default()).unwrap();
    let mut marks = BTreeMap::new();
    for half in ["first", "second"] {
        let list = List { prefix: format!("/{half}/"), after: None, limit: 0, at: None };
        for entry in store.list(list).await.unwrap().entries {
            let name = entry.key.as_str().rsplit('/').next().unwrap().to_owned();
            assert_eq!(entry.value, name, "{half} half of {name}");
            marks.entry(name).or_insert_with(Vec::new).push(entry.modified);
        }
    }
    for (name, halves) in &marks {
        assert!(halves.len() == 2 && halves[0] == halves[1], "{name} is there by halves: {halves:?}");
    }
    for (name, revision) in acknowledged {
        let found = marks.get(name).map(|halves| halves[0]);
        assert_eq!(found, Some(*revision), "acknowledged write {name} is lost or moved");
    }
    let newest = acknowledged.values().max().copied().unwrap_or_default();
    assert!(store.revision().await.unwrap() >= newest, "the store went back in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the process that the crash test kills"]
async fn writer() {
    let dir = std::env::var(DIRECTORY).unwrap();
    let life = std::env::var("HANSE_STORE_CRASH_LIFE").unwrap();
    // So little history that compaction and checkpoints are always under way.
    let options = Options { history_revisions_max: 64, ..Options::default() };
    let store = raft::alone(dir, options).unwrap();
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write_on(store.clone(), format!("{life}-{writer}")))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write_on(store: Arc<dyn Store>, writer: String) {
    for n in 0.. {
        let name = format!("{writer}-{n}");
        let mark = |half: &str| Operation::Put(Key::new(format!("/{half}/{name}")), name.clone().into());
        let fought = Operation::Put(Key::new(format!("/fought/{}", n % 5)), name.repeat(n % 400).into());
        let transaction = Transaction { compares: vec![], operations: vec![mark("first"), fought, mark("second")] };
        match store.commit(transaction).await.unwrap() {
            Outcome::Committed(revision) => {
                // One write call per line: what is printed was acknowledged, whenever the process dies.
                let mut out = std::io::stdout().lock();
                out.write_all(format!("acknowledged {name} {revision}\n").as_bytes()).unwrap();
                out.flush().unwrap();
            }
            other => panic!("{name} was not committed: {other:?}"),
        }
    }
}
