//! Real replicas with real threads and disks in one process; only the network between them is a function call.

use std::{collections::BTreeMap, sync::Weak, time::Duration};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::{disk::tests as disk, *};
use crate::store::{Error, List, Operation, Options, Store, Transaction};

pub(in crate::store) use disk::directory;

/// Who can be reached in this process.
#[derive(Default)]
struct Net {
    replicas: Mutex<BTreeMap<ReplicaId, Weak<Replica>>>,
    cut: Mutex<Vec<ReplicaId>>,
}

struct Line {
    net: Arc<Net>,
    me: ReplicaId,
}

impl Line {
    fn to(&self, id: ReplicaId) -> Result<Arc<Replica>, Refusal> {
        let unreachable = || Refusal::Unreachable { to: id, why: "cut".into() };
        let cut = self.net.cut.lock();
        if cut.contains(&id) || cut.contains(&self.me) {
            return Err(unreachable());
        }
        self.net.replicas.lock().get(&id).and_then(Weak::upgrade).ok_or_else(unreachable)
    }
}

#[async_trait]
impl Peers for Line {
    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            if let Ok(replica) = self.to(message.to) {
                replica.receive(message);
                drop_elsewhere(replica);
            }
        }
    }

    async fn commit(&self, leader: ReplicaId, command: bytes::Bytes) -> Result<Outcome, Refusal> {
        self.to(leader)?.commit_here(command).await
    }

    async fn fetch(&self, from: ReplicaId, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal> {
        self.to(from)?.chunk(snapshot, after)
    }
}

/// The last handle waits for the threads, so it must not go on one of them.
fn drop_elsewhere(replica: Arc<Replica>) {
    if Arc::strong_count(&replica) == 1 {
        std::thread::spawn(move || drop(replica));
    }
}

pub(in crate::store) struct Group {
    net: Arc<Net>,
    dirs: BTreeMap<ReplicaId, TempDir>,
    replicas: BTreeMap<ReplicaId, Arc<Replica>>,
    options: Options,
}

impl Group {
    pub async fn of_three(options: Options) -> Self {
        let mut group = Self { net: Arc::default(), dirs: BTreeMap::new(), replicas: BTreeMap::new(), options };
        let incarnation = group.start(1, &Start::Found).expect("opened").incarnation().clone();
        for id in [2, 3] {
            group.start(id, &Start::Join { id, incarnation: incarnation.clone() }).expect("opened");
            group.leader().await.change(Change::Add(id)).await.expect("added");
            group.until_voting(id).await;
        }
        group
    }

    fn start(&mut self, id: ReplicaId, start: &Start) -> Result<Arc<Replica>, OpenError> {
        let dir = self.dirs.entry(id).or_insert_with(directory).path().to_owned();
        let config = Config { dir, timing: Timing::default(), reads: Reads::default(), options: self.options.clone() };
        let replica = open(config, start, Arc::new(Line { net: self.net.clone(), me: id }))?;
        self.net.replicas.lock().insert(id, Arc::downgrade(&replica));
        self.replicas.insert(id, replica.clone());
        Ok(replica)
    }

    async fn until_voting(&self, id: ReplicaId) {
        eventually(async || {
            let status = self.leader().await.status().await.expect("status");
            status.members.get(&id).is_some_and(|member| !member.learner)
        })
        .await;
    }

    async fn leader(&self) -> Arc<Replica> {
        loop {
            let leads = |replica: &&Arc<Replica>| replica.leadership().borrow().here;
            let cut = self.net.cut.lock().clone();
            let reachable = self.replicas.values().filter(|replica| !cut.contains(&replica.id()));
            if let Some(leader) = reachable.clone().find(leads) {
                return leader.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn follower(&self) -> Arc<Replica> {
        let leader = self.leader().await.id();
        self.replicas.values().find(|replica| replica.id() != leader).expect("a follower").clone()
    }

    fn stop(&mut self, id: ReplicaId) {
        self.replicas.remove(&id);
    }
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it never came about");
}

fn put(key: &str, value: &str) -> Transaction {
    Transaction { compares: vec![], operations: vec![Operation::Put(Key::new(key), value.to_owned().into())] }
}

async fn value(replica: &Replica, key: &str) -> Option<bytes::Bytes> {
    replica.get(&Key::new(key)).await.expect("read").map(|entry| entry.value)
}

fn committed(outcome: Result<Outcome, Error>) -> Revision {
    match outcome {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_takes_writes_and_every_other_reads_them_at_once() {
    let group = Group::of_three(Options::default()).await;
    for (n, writer) in group.replicas.values().enumerate() {
        let text = n.to_string();
        committed(writer.commit(put("/k", &text)).await);
        for reader in group.replicas.values() {
            assert_eq!(value(reader, "/k").await.as_deref(), Some(text.as_bytes()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_takes_over_and_the_old_one_follows_when_it_is_back() {
    let mut group = Group::of_three(Options::default()).await;
    committed(group.leader().await.commit(put("/k", "before")).await);
    let old = group.leader().await.id();
    group.stop(old);
    let leader = group.leader().await;
    assert_eq!(value(&leader, "/k").await.as_deref(), Some(&b"before"[..]));
    committed(leader.commit(put("/k", "after")).await);
    drop(leader);
    let back = group.start(old, &Start::Found).expect("opened");
    assert_eq!(value(&back, "/k").await.as_deref(), Some(&b"after"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_for_long_heals_from_a_snapshot() {
    let options = Options { history_revisions_max: 50, ..Options::default() };
    let mut group = Group::of_three(options).await;
    let away = group.follower().await.id();
    group.stop(away);
    let leader = group.leader().await;
    for n in 0..500 {
        committed(leader.commit(put(&format!("/{}", n % 20), &n.to_string())).await);
    }
    let back = group.start(away, &Start::Found).expect("opened");
    eventually(async || {
        let (theirs, ours) = (leader.status().await.expect("status"), back.status().await.expect("status"));
        ours.hash == theirs.hash && ours.checkpoint > 400
    })
    .await;
    // And what it installed is what it finds on its disk.
    drop(back);
    group.stop(away);
    let again = group.start(away, &Start::Found).expect("opened");
    assert_eq!(value(&again, "/19").await.as_deref(), Some(&b"499"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_handed_over_without_a_failed_write() {
    let group = Group::of_three(Options::default()).await;
    let writer = group.follower().await;
    let writing = {
        let writer = writer.clone();
        tokio::spawn(async move {
            for n in 0..200 {
                committed(writer.commit(put("/k", &n.to_string())).await);
            }
        })
    };
    for _ in 0..3 {
        let leader = group.leader().await;
        assert!(leader.hand_over().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    writing.await.expect("every write is committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_answered_and_it_says_so() {
    let group = Group::of_three(Options::default()).await;
    let leader = group.leader().await;
    *group.net.cut.lock() = group.replicas.keys().copied().filter(|id| *id != leader.id()).collect();
    let answer = leader.get(&Key::new("/k")).await;
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    let list = List { prefix: "/".into(), after: None, limit: 0, at: Some(0) };
    assert!(leader.list(list).await.is_ok(), "what is past can still be read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_state_went_wrong_stops_and_does_not_start_from_it_again() {
    let mut group = Group::of_three(Options::default()).await;
    let wrong = group.follower().await;
    wrong.shared_state().write().commit(put("/rot", "")).expect("committed");
    committed(group.leader().await.commit(put("/k", "v")).await);
    eventually(async || wrong.stopped().is_some()).await;
    let why = wrong.stopped().expect("stopped").to_string();
    assert!(why.contains("differs from the others'"), "{why}");
    let id = wrong.id();
    drop(wrong);
    group.stop(id);
    let refused = group.start(id, &Start::Found).err().expect("refused");
    assert!(refused.distrusts_disk() && refused.to_string().contains("differs from the others'"), "{refused}");
    committed(group.leader().await.commit(put("/k", "the others go on")).await);
}
