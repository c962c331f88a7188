//! Three real replicas under load while everything that can happen to processes, disks and networks happens to them.
//!
//! Clients write and read registers (annotations of Namespaces) at any replica. Every answer carries the revision of what it is about, so a
//! history is judged exactly and in linear time: an operation that began after another one ended must not be about
//! something older. What was acknowledged must be there at the end, and all replicas in the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use crate::group::{Group, REPLICAS};

const CLIENTS: usize = 6;
const REGISTERS: usize = 4;
/// Of which so many are in the ordinary run.
const ROUNDS: usize = 26;
const FAULT: Duration = Duration::from_millis(700);
const PEACE: Duration = Duration::from_millis(300);

/// What a client knows of one operation on one register.
#[derive(Debug, Clone)]
struct Operation {
    began: Instant,
    ended: Instant,
    register: usize,
    /// Of the object as it was read or as it was written.
    revision: u64,
    value: String,
    writes: bool,
}

#[derive(Default)]
struct History {
    operations: Mutex<Vec<Operation>>,
    /// Names of objects whose creation was acknowledged.
    created: Mutex<BTreeSet<String>>,
    /// Values of writes of which nobody knows whether they happened.
    unknown: Mutex<BTreeSet<String>>,
    refused: Mutex<BTreeMap<String, usize>>,
}

#[test]
fn rule_07_no_fault_of_a_minority_costs_an_acknowledged_write_or_shows_an_old_one() {
    torture(|rounds, _| rounds == ROUNDS);
}

/// `make torture` runs it, and prints how often something was killed.
#[test]
#[ignore = "takes an hour or two"]
fn rule_07_a_thousand_kills() {
    let kills = std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    torture(|_, killed| killed >= kills);
}

/// Until it is enough, by the number of faults and that of kills among them.
fn torture(enough: impl Fn(usize, usize) -> bool) {
    let mut group = Group::start();
    let history = Arc::new(History::default());
    let over = Arc::new(AtomicBool::new(false));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let clients = runtime.block_on(async {
        let mut clients = Vec::new();
        for replica in &group.replicas {
            clients.push(client(&replica.kubeconfig()).await);
        }
        clients
    });
    runtime.block_on(make_registers(&clients[0]));
    let work: Vec<_> = (0..CLIENTS)
        .map(|number| runtime.spawn(work(number, clients.clone(), history.clone(), over.clone())))
        .collect();
    let (mut rounds, mut kills) = (0, 0);
    while !enough(rounds, kills) {
        kills += fault(&mut group, rounds);
        rounds += 1;
        if rounds % 100 == 0 {
            println!("{rounds} faults, {kills} kills so far");
        }
        std::thread::sleep(PEACE);
    }
    over.store(true, Ordering::SeqCst);
    for client in work {
        runtime.block_on(client).expect("no client panicked");
    }
    group.heal();
    runtime.block_on(judge(&clients, &history));
    same_state(&mut group);
    let operations = history.operations.lock().unwrap().len();
    let refused = history.refused.lock().unwrap().clone();
    println!("{rounds} faults, {kills} kills, {operations} answered operations, 0 lost; refused: {refused:?}");
    assert!(operations > rounds * 10, "{operations} operations are no load");
}

async fn client(kubeconfig: &std::path::Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    config.connect_timeout = Some(Duration::from_millis(500));
    config.read_timeout = Some(Duration::from_secs(3));
    // It would try a write again of which nobody knows whether it was done.
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

fn register(number: usize, value: &str) -> Namespace {
    let name = Some(format!("register-{number}"));
    let annotations = Some(noted(value));
    Namespace { metadata: ObjectMeta { name, annotations, ..ObjectMeta::default() }, ..Namespace::default() }
}

fn noted(value: &str) -> BTreeMap<String, String> {
    [("value".to_owned(), value.to_owned())].into()
}

async fn make_registers(client: &Client) {
    let api: Api<Namespace> = Api::all(client.clone());
    for number in 0..REGISTERS {
        api.create(&PostParams::default(), &register(number, "first")).await.expect("created");
    }
}

/// One client: at any replica, one operation after the other.
async fn work(number: usize, clients: Vec<Client>, history: Arc<History>, over: Arc<AtomicBool>) {
    let mut dice = number as u64 * 7919 + 1;
    let mut roll = move |sides: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice % sides
    };
    let mut seen: BTreeMap<usize, Namespace> = BTreeMap::new();
    for n in 0.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let at = roll(REPLICAS as u64) as usize;
        let api: Api<Namespace> = Api::all(clients[at].clone());
        let which = roll(REGISTERS as u64) as usize;
        let value = format!("{number}-{n}");
        let began = Instant::now();
        let kind = roll(8);
        let answer = match kind {
            0 => {
                let name = format!("made-{value}");
                let mut object = register(0, &value);
                object.metadata.name = Some(name.clone());
                let made = api.create(&PostParams::default(), &object).await;
                if made.is_ok() {
                    history.created.lock().unwrap().insert(name);
                }
                made.map(|_| None)
            }
            // Only over what it has seen.
            1 | 2 if seen.contains_key(&which) => {
                let mut object = seen[&which].clone();
                object.metadata.annotations = Some(noted(&value));
                api.replace(&format!("register-{which}"), &PostParams::default(), &object).await.map(Some)
            }
            // Over whatever is there.
            3 => {
                let patch = Patch::Merge(json!({"metadata": {"annotations": {"value": value}}}));
                api.patch(&format!("register-{which}"), &PatchParams::default(), &patch).await.map(Some)
            }
            _ => api.get(&format!("register-{which}")).await.map(Some),
        };
        let ended = Instant::now();
        let writes = kind <= 3 && kind > 0 && (kind == 3 || seen.contains_key(&which));
        match answer {
            Ok(Some(object)) => {
                let revision = object.metadata.resource_version.as_deref().unwrap_or_default();
                let revision = revision.parse().expect("a revision");
                let notes = object.metadata.annotations.iter().flatten();
                let value = notes.filter(|(key, _)| *key == "value").map(|(_, value)| value.clone()).collect();
                let operation = Operation { began, ended, register: which, revision, value, writes };
                history.operations.lock().unwrap().push(operation);
                seen.insert(which, object);
            }
            Ok(None) => {}
            Err(error) => {
                seen.remove(&which);
                let what = match &error {
                    kube::Error::Api(status) => format!("{} {}", status.code, status.reason),
                    other => format!("{other:.20}"),
                };
                let is_answer = matches!(&error, kube::Error::Api(status) if matches!(status.code, 409 | 429 | 503));
                if writes && !is_answer {
                    history.unknown.lock().unwrap().insert(value);
                }
                *history.refused.lock().unwrap().entry(what).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// One fault, and its end. How many processes it killed.
fn fault(group: &mut Group, round: usize) -> usize {
    let leader = group.leader().unwrap_or(round % REPLICAS);
    let others: Vec<usize> = (0..REPLICAS).filter(|at| *at != leader).collect();
    let follower = others[round / 2 % others.len()];
    let all: Vec<usize> = (0..REPLICAS).collect();
    let kill = |group: &mut Group, at: usize| {
        if let Some(process) = &mut group.replicas[at].process {
            process.kill();
        }
    };
    let mut kills = 0;
    match round % 13 {
        0 | 7 => {
            kill(group, leader);
            kills = 1;
        }
        1 => {
            kill(group, follower);
            kills = 1;
        }
        2 | 8 => group.replicas[leader].process.as_mut().expect("it runs").pause(),
        3 => {
            group.doors.shut(&[leader], &others);
            group.doors.shut(&others, &[leader]);
        }
        // It is heard and hears nobody.
        4 => group.doors.shut(&others, &[leader]),
        5 => group.doors.shut(&[leader], &[follower]),
        // It hears and is not heard.
        6 => group.doors.shut(&[leader], &others),
        9 => {
            all.iter().for_each(|at| kill(group, *at));
            kills = REPLICAS;
        }
        10 => group.doors.shut(&[others[0]], &[others[1], leader]),
        // A disk that is slow, or a process that dies at the worst moment.
        n => {
            let at = if n == 11 { leader } else { follower };
            const POINTS: [&str; 6] = [
                "log-before-sync=40*off->return",
                "log-after-sync=40*off->return",
                "log-before-sync=sleep(60)",
                "ballot-before-sync=return",
                "ballot-after-sync=return",
                "answer=60*off->return",
            ];
            kill(group, at);
            group.replicas[at].failpoints = POINTS[round / 13 % POINTS.len()].to_owned();
            group.begin(at, &[]);
            kills = 1;
        }
    }
    std::thread::sleep(FAULT);
    group.heal();
    kills
}

async fn judge(clients: &[Client], history: &History) {
    let operations = history.operations.lock().unwrap().clone();
    let unknown = history.unknown.lock().unwrap().clone();
    for number in 0..REGISTERS {
        let mut ours: Vec<&Operation> = operations.iter().filter(|operation| operation.register == number).collect();
        // Of what may be read at a revision there is one value.
        let mut values: BTreeMap<u64, &str> = BTreeMap::new();
        let mut written = BTreeSet::new();
        for operation in &ours {
            let known = values.entry(operation.revision).or_insert(&operation.value);
            assert_eq!(*known, operation.value, "two values at revision {}", operation.revision);
            if operation.writes {
                assert!(written.insert(operation.revision), "two writes at revision {}", operation.revision);
            }
        }
        let acknowledged: BTreeSet<&str> =
            ours.iter().filter(|operation| operation.writes).map(|operation| operation.value.as_str()).collect();
        for value in values.values() {
            let explained = *value == "first" || acknowledged.contains(value) || unknown.contains(*value);
            assert!(explained, "{value} was read, and nobody wrote it");
        }
        // Whatever began after another one had ended is not about anything older.
        let mut by_end = ours.clone();
        by_end.sort_by_key(|operation| operation.ended);
        ours.sort_by_key(|operation| operation.began);
        let (mut ended, mut newest) = (by_end.iter().peekable(), 0);
        for operation in ours {
            while let Some(before) = ended.next_if(|before| before.ended < operation.began) {
                newest = newest.max(before.revision);
            }
            let fits = if operation.writes { operation.revision > newest } else { operation.revision >= newest };
            assert!(fits, "{operation:?} came after revision {newest} was answered");
        }
    }
    let created = history.created.lock().unwrap().clone();
    for client in clients {
        let api: Api<Namespace> = Api::all(client.clone());
        let found = api.list(&kube::api::ListParams::default()).await.expect("listed").items;
        let found: BTreeSet<String> = found.into_iter().filter_map(|object| object.metadata.name).collect();
        let lost: Vec<_> = created.difference(&found).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    }
}

fn same_state(group: &mut Group) {
    // Compared by the replicas themselves: whoever differs has stopped.
    std::thread::sleep(Duration::from_secs(2));
    for at in 0..REPLICAS {
        assert!(group.replicas[at].runs(), "replica {at} ended");
    }
    let status = group.replicas[0].status();
    let hashes: BTreeSet<String> = (0..REPLICAS)
        .map(|at| {
            let hash = &status["replicas"][at]["status"]["hash"];
            assert!(hash["value"].is_string(), "no hash of replica {at}: {status}");
            format!("{} {}", hash["index"], hash["value"])
        })
        .collect();
    assert_eq!(hashes.len(), 1, "{status}");
}

/// Replicas are restarted one after the other, as for an update, while somebody writes and somebody watches.
#[test]
fn a_rolling_restart_fails_no_write_and_leaves_no_gap_in_a_watch() {
    let mut group = Group::start();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let clients: Vec<Client> = runtime.block_on(async {
        let kubeconfigs: Vec<_> = group.replicas.iter().map(|replica| replica.kubeconfig()).collect();
        let mut clients = Vec::new();
        for kubeconfig in kubeconfigs {
            clients.push(client(&kubeconfig).await);
        }
        clients
    });
    runtime.block_on(make_registers(&clients[0]));
    let over = Arc::new(AtomicBool::new(false));
    // From before the first write: what the watch begins with it would not be told of.
    let version = runtime.block_on(async {
        let api: Api<Namespace> = Api::all(clients[0].clone());
        api.list(&kube::api::ListParams::default()).await.expect("listed").metadata.resource_version.expect("a version")
    });
    let watching = runtime.spawn(watch(clients.clone(), version, over.clone()));
    let writing = runtime.spawn(count(clients, over.clone()));
    for at in 0..REPLICAS {
        std::thread::sleep(PEACE);
        group.replicas[at].process.as_mut().expect("it runs").stop();
        group.heal();
    }
    over.store(true, Ordering::SeqCst);
    let written = runtime.block_on(writing).expect("no write failed");
    let seen = runtime.block_on(watching).expect("the watch went on");
    assert!(written > 50, "{written} writes are no load");
    let expected: Vec<u64> = (1..=written).collect();
    assert!(seen == expected, "{written} writes, but the watch saw {} of them: {seen:?}", seen.len());
}

/// Writes 1, 2, 3, … into one register. Tries again as client-go does: after a refusal with Retry-After, and elsewhere when the
/// connection cannot be made. Anything else is a failed write.
async fn count(clients: Vec<Client>, over: Arc<AtomicBool>) -> u64 {
    let (mut written, mut at) = (0, 0);
    while !over.load(Ordering::SeqCst) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"value": (written + 1).to_string()}}}));
        let mut attempts = 0;
        loop {
            let api: Api<Namespace> = Api::all(clients[at].clone());
            match api.patch("register-0", &PatchParams::default(), &patch).await {
                Ok(_) => break,
                // The balancer before the replicas sends the next one elsewhere.
                Err(kube::Error::Service(_) | kube::Error::HyperError(_)) => at = (at + 1) % clients.len(),
                Err(kube::Error::Api(status)) if matches!(status.code, 429 | 503) => at = (at + 1) % clients.len(),
                Err(error) => panic!("write {} failed: {error}", written + 1),
            }
            attempts += 1;
            assert!(attempts < 300, "write {} was refused for ever", written + 1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        written += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

/// All values of the register, in the order in which a watch told of them that moves on when its replica stops.
async fn watch(clients: Vec<Client>, mut version: String, over: Arc<AtomicBool>) -> Vec<u64> {
    use futures::StreamExt;
    let (mut seen, mut at, mut quiet) = (Vec::new(), 0, 0);
    // A little longer than the writer, for what is still to be told.
    while quiet < 20 {
        let api: Api<Namespace> = Api::all(clients[at].clone());
        let from = kube::api::WatchParams::default().fields("metadata.name=register-0").timeout(20);
        let Ok(stream) = api.watch(&from, &version).await else {
            at = (at + 1) % clients.len();
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut stream = std::pin::pin!(stream);
        loop {
            match tokio::time::timeout(Duration::from_millis(100), stream.next()).await {
                Err(_) if over.load(Ordering::SeqCst) => {
                    quiet += 1;
                    if quiet >= 20 {
                        break;
                    }
                }
                Err(_) => {}
                Ok(Some(Ok(kube::api::WatchEvent::Modified(object) | kube::api::WatchEvent::Added(object)))) => {
                    let value = object.metadata.annotations.iter().flatten().find(|(key, _)| *key == "value");
                    seen.extend(value.and_then(|(_, value)| value.parse::<u64>().ok()));
                    version = object.metadata.resource_version.expect("a version");
                }
                Ok(Some(Ok(kube::api::WatchEvent::Bookmark(mark)))) => version = mark.metadata.resource_version,
                Ok(Some(Ok(kube::api::WatchEvent::Error(error)))) if matches!(error.code, 429 | 503 | 504) => break,
                Ok(Some(Ok(other))) => panic!("{other:?}"),
                Ok(Some(Err(_)) | None) => break,
            }
        }
        at = (at + 1) % clients.len();
    }
    seen
}

/// A disk that is full stops one replica, in words; the others go on, and it comes back when there is room.
#[test]
fn a_full_disk_stops_one_replica_and_nothing_is_lost() {
    let mut group = Group::start();
    let leader = group.leader().expect("a leader");
    let at = (0..REPLICAS).find(|at| *at != leader).expect("a follower");
    group.replicas[at].process.as_mut().expect("it runs").stop();
    let store = group.replicas[at].data().join("store");
    let mount = Mount::over(&store);
    group.begin(at, &[]);
    group.replicas[at].wait_until_ready();
    mount.fill_but(2 << 20);
    let text = "x".repeat(200_000);
    let mut written = 0;
    crate::wait::until("the disk to be full", Duration::from_secs(60), || {
        let name = format!("large-{written}");
        group.replicas[leader]
            .kubectl()
            .args(["create", "-f", "-"])
            .stdin(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": {"text": text}}}))
            .ok();
        written += 1;
        if group.replicas[at].runs() { Err(format!("{written} objects fit")) } else { Ok(()) }
    });
    let log = group.replicas[at].process.as_ref().expect("it was started").log_tail();
    assert!(log.contains("No space left on device"), "{log}");
    mount.make_room();
    group.heal();
    let listed = group.replicas[at].kubectl().args(["get", "namespaces", "-o", "name"]).ok();
    assert_eq!(listed.lines().filter(|line| line.contains("large-")).count(), written);
    for replica in &mut group.replicas {
        replica.process.as_mut().expect("it runs").stop();
    }
}

/// Its old number had acknowledged what the disk no longer has; so it comes back as another one, by itself.
#[test]
fn a_replica_whose_disk_rotted_comes_back_under_a_new_number() {
    let mut group = Group::start();
    let leader = group.leader().expect("a leader");
    let at = (0..REPLICAS).find(|at| *at != leader).expect("a follower");
    for name in ["written-before", "rotten-bytes", "written-after"] {
        group.replicas[leader].kubectl().args(["create", "namespace", name]).ok();
    }
    group.wait_until_whole();
    group.replicas[at].process.as_mut().expect("it runs").kill();
    let db = group.replicas[at].data().join("store/db");
    let journals = std::fs::read_dir(&db).expect("its database").flatten().map(|file| file.path());
    let mut flipped = 0;
    for journal in journals.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")) {
        let mut bytes = std::fs::read(&journal).expect("a journal");
        let found = bytes.windows(12).position(|window| window == b"rotten-bytes");
        if let Some(position) = found {
            bytes[position] ^= 1;
            std::fs::write(&journal, bytes).expect("written");
            flipped += 1;
        }
    }
    assert!(flipped > 0, "its name is in no journal");
    group.begin(at, &[]);
    let status = crate::wait::until("another replica to take its place", Duration::from_secs(60), || {
        let status = group.replicas[leader].status();
        let roles: Vec<_> = status["replicas"].as_array().into_iter().flatten().collect();
        let votes = |role: &serde_json::Value| matches!(role["status"]["role"].as_str(), Some("Leader" | "Follower"));
        let names: BTreeSet<_> = roles.iter().filter_map(|replica| replica["name"].as_str()).collect();
        let old = (at + 1).to_string();
        let whole = roles.len() == REPLICAS && roles.iter().all(|role| votes(role)) && !names.contains(&*old);
        if whole && names.contains("4") { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["voters"], REPLICAS, "{status}");
    let found = group.replicas[at].kubectl().args(["get", "namespaces", "-o", "name"]).ok();
    for name in ["written-before", "rotten-bytes", "written-after"] {
        assert!(found.contains(name), "{found}");
    }
    let log = group.replicas[at].process.as_ref().expect("it runs").log_tail();
    assert!(log.contains("goes on under a new number"), "{log}");
}

/// A file system of its own over a directory, with what the directory holds.
struct Mount(std::path::PathBuf);

impl Mount {
    fn over(directory: &std::path::Path) -> Mount {
        let path = directory.display();
        sh(&format!(
            "cp -a {path} {path}.copy && mount -t tmpfs -o size=400m tmpfs {path} && cp -a {path}.copy/. {path}/"
        ));
        Mount(directory.to_owned())
    }

    /// Leaves so many bytes of the disk free.
    fn fill_but(&self, free: u64) {
        let (path, ballast) = (self.0.display(), self.ballast());
        sh(&format!("fallocate -l $(($(df --output=avail -B1 {path} | tail -1) - {free})) {}", ballast.display()));
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[track_caller]
fn sh(script: &str) {
    let status = Command::new("sh").args(["-c", script]).status().expect("run sh");
    assert!(status.success(), "{script}");
}
