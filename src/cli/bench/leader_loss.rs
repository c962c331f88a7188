//! `leader-loss`: how long nobody can write after the leader is lost, and whether what was acknowledged is still there.
//!
//! Writers write all the time, each to one replica and, where that one refuses, does not answer in time or is gone, to the
//! next: the same write until it is acknowledged, as clients of a Kubernetes API do. The time of a trial is from the fault to
//! the first write that another replica acknowledges. The proxies between replicas are there for every fault alike.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::ValueEnum;
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{
    Row,
    load::Samples,
    proxy::Net,
    replicas::Replicas,
    store::client::{Client, Written},
};

const WRITERS: usize = 4;
const VALUE_BYTES: usize = 256;
/// Writes go on for as long before a fault, and after the first write after it.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_millis(100);
/// How long a writer waits for one answer before it asks the next replica.
const PATIENCE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(2);
/// A write that nobody acknowledged by then has failed.
const FAILED: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// SIGKILL
    Kill,
    /// SIGSTOP
    Stop,
    /// No byte passes between the leader and the others; clients reach it still
    Partition,
    /// SIGTERM: it hands the lead over and ends
    Handover,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Partition => "partition",
            Self::Handover => "handover",
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Of each fault.
    #[arg(long, default_value_t = 200)]
    trials: usize,
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["kill", "stop", "partition", "handover"])]
    fault: Vec<Fault>,
}

/// An acknowledged write: when it was answered, and by which replica.
struct Acknowledged {
    key: String,
    value: Bytes,
    at: Instant,
    by: usize,
}

/// What writers saw.
#[derive(Default)]
struct Record {
    acknowledged: Vec<Acknowledged>,
    failed: u64,
}

/// What one trial found.
struct Trial {
    /// Until the first acknowledgement of another replica.
    time: Duration,
    written: u64,
    failed: u64,
    lost: u64,
}

pub async fn run(directory: &Path, options: &Options) -> anyhow::Result<Vec<Row>> {
    let net = Net::new();
    let mut replicas = Replicas::start(directory, Some(&net)).await?;
    let mut rows = vec![];
    for &fault in &options.fault {
        let (mut times, mut written, mut failed, mut lost) = (vec![], 0, 0, 0);
        for number in 0..options.trials {
            let trial = trial(&mut replicas, &net, fault, number).await;
            let trial = trial.with_context(|| format!("trial {number} of {}", fault.name()))?;
            times.push(trial.time);
            written += trial.written;
            failed += trial.failed;
            lost += trial.lost;
        }
        let mut row = Row::new();
        row.insert("system".into(), json!("hanse"));
        row.insert("fault".into(), json!(fault.name()));
        row.insert("trials".into(), json!(options.trials));
        row.insert("writes".into(), json!(written));
        row.insert("failed".into(), json!(failed));
        row.insert("lost".into(), json!(lost));
        times.into_iter().collect::<Samples>().into_row("", &mut row);
        eprintln!("{}", serde_json::to_string(&row)?);
        rows.push(row);
    }
    Ok(rows)
}

async fn trial(replicas: &mut Replicas, net: &Arc<Net>, fault: Fault, number: usize) -> anyhow::Result<Trial> {
    let leader = replicas.leader().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (acknowledgements, mut newest) = tokio::sync::watch::channel((Instant::now(), leader));
    let acknowledgements = Arc::new(acknowledgements);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut ways = vec![];
        for index in 0..replicas.members.len() {
            ways.push(replicas.client(index).await?);
        }
        let (stop, acknowledgements) = (stop.clone(), acknowledgements.clone());
        let name = format!("/hanse/bench.hanse.dev/trials/default/{writer}-");
        let mark = format!("{} {number} {writer}", fault.name());
        writers.spawn(async move { write(ways, leader, &name, &mark, &stop, &acknowledgements).await });
    }
    tokio::time::sleep(BEFORE).await;

    let begin = Instant::now();
    let process = &mut replicas.members[leader].process;
    match fault {
        Fault::Kill => process.child.start_kill()?,
        Fault::Stop => process.signal("STOP").await?,
        Fault::Handover => process.signal("TERM").await?,
        Fault::Partition => net.cut(leader),
    }
    timeout(FAILED, newest.wait_for(|(_, by)| *by != leader)).await.context("nobody acknowledged a write")??;
    tokio::time::sleep(AFTER).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Record::default();
    while let Some(writer) = writers.join_next().await {
        let written = writer.context("a writer panicked")?;
        all.acknowledged.extend(written.acknowledged);
        all.failed += written.failed;
    }
    let time = gap(&all.acknowledged, leader, begin).context("nobody acknowledged a write")?;

    match fault {
        Fault::Kill | Fault::Handover => {
            replicas.restart(leader).await?;
            net.name(leader, replicas.members[leader].process.pid());
        }
        Fault::Stop => replicas.members[leader].process.signal("CONT").await?,
        Fault::Partition => net.heal(),
    }
    replicas.wait_until_whole().await?;
    let lost = lost(replicas, &all.acknowledged).await?;
    Ok(Trial { time, written: all.acknowledged.len() as u64, failed: all.failed, lost })
}

/// From the fault, or from the last write that the old leader acknowledged after it (a planned hand-over stops nobody until it
/// is done), to the first that another one did.
fn gap(acknowledged: &[Acknowledged], leader: usize, fault: Instant) -> Option<Duration> {
    let first = acknowledged.iter().filter(|write| write.by != leader).map(|write| write.at).min()?;
    let last = acknowledged.iter().filter(|write| write.by == leader && write.at < first).map(|write| write.at).max();
    Some(first - last.map_or(fault, |last| last.max(fault)))
}

/// Every key of a trial is written once in it, so that it can be told afterwards.
async fn write(
    mut ways: Vec<Client>,
    leader: usize,
    name: &str,
    mark: &str,
    stop: &AtomicBool,
    acknowledgements: &tokio::sync::watch::Sender<(Instant, usize)>,
) -> Record {
    let mut written = Record::default();
    let mut way = leader;
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{name}{number:08}");
        number += 1;
        let mut value = format!("{mark} {key} ").into_bytes();
        value.resize(VALUE_BYTES, b'.');
        let value = Bytes::from(value);
        let begin = Instant::now();
        loop {
            if matches!(timeout(PATIENCE, ways[way].put(&key, value.clone())).await, Ok(Written::Yes)) {
                let at = Instant::now();
                acknowledgements.send_replace((at, way));
                written.acknowledged.push(Acknowledged { key, value, at, by: way });
                break;
            }
            if begin.elapsed() > FAILED {
                written.failed += 1;
                break;
            }
            way = (way + 1) % ways.len();
            tokio::time::sleep(PAUSE).await;
        }
    }
    written
}

/// How many acknowledged writes are not there.
async fn lost(replicas: &Replicas, acknowledged: &[Acknowledged]) -> anyhow::Result<u64> {
    const AT_ONCE: usize = 16;
    let wanted: BTreeMap<String, Bytes> =
        acknowledged.iter().map(|write| (write.key.clone(), write.value.clone())).collect();
    if wanted.len() != acknowledged.len() {
        bail!("a key was written twice");
    }
    let leader = replicas.leader().await?;
    let client = replicas.client(leader).await?;
    let mut checks = JoinSet::new();
    let wanted: Vec<_> = wanted.into_iter().collect();
    for part in wanted.chunks(wanted.len().div_ceil(AT_ONCE).max(1)) {
        let (part, mut client) = (part.to_vec(), client.clone());
        checks.spawn(async move {
            let mut lost = 0;
            for (key, value) in part {
                lost += u64::from(client.read(&key).await?.as_ref() != Some(&value));
            }
            anyhow::Ok(lost)
        });
    }
    let mut lost = 0;
    while let Some(check) = checks.join_next().await {
        lost += check.context("a check panicked")??;
    }
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_begins_with_the_fault_or_with_what_the_old_leader_still_acknowledged() {
        let start = Instant::now();
        let write = |by, ms| Acknowledged {
            key: String::new(),
            value: Bytes::new(),
            at: start + Duration::from_millis(ms),
            by,
        };
        let fault = start + Duration::from_millis(100);
        assert_eq!(gap(&[write(0, 99), write(1, 250)], 0, fault), Some(Duration::from_millis(150)));
        let handed_over = [write(0, 99), write(0, 130), write(1, 140), write(2, 141)];
        assert_eq!(gap(&handed_over, 0, fault), Some(Duration::from_millis(10)));
        assert_eq!(gap(&[write(0, 99)], 0, fault), None);
    }
}
