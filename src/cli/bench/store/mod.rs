//! `store`: the replicated store beside etcd: three processes each, fsync on, TLS, unary gRPC, one load generator for both.
//!
//! Both groups are up all the time and only one of them has work. Runs come in pairs, one system after the other, and every
//! other pair the other way round; a probe of the disk before and after each pair says whether the machine was the same.

pub mod client;
mod etcd;
mod load;
mod watchers;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::ValueEnum;
use serde_json::{Map, json};

use self::{
    client::Client,
    etcd::Etcd,
    load::{Filling, Operation, Plan, Seen},
};
use super::{
    Row,
    hub::SOON,
    load::milliseconds,
    machine::fsyncs,
    process::{Usage, until},
    real::programs,
    replicas::Replicas,
};

/// Clients share so few connections in one run of each pair, and have one each, up to so many, in another.
const CONNECTIONS_FEW: usize = 8;
const CONNECTIONS_MANY: usize = 256;
const WARMING: Duration = Duration::from_millis(700);
/// A run whose leader lost the lead is repeated so often.
const AGAIN_MAX: u64 = 4;
/// A pair whose probes differ by more says more about the disk than about the systems.
const STEADY: f64 = 1.3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    Etcd,
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Measure this one too, in the same run. It is built by e2e/tools, which must be there.
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// Numbers of clients that each send one request after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
    clients: Vec<usize>,
    /// Sizes of values.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1024])]
    bytes: Vec<usize>,
    /// Runs of each kind.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// Of each run, without its warming up.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// All of it again after so many updates.
    #[arg(long, value_name = "UPDATES")]
    aged: Option<u64>,
    /// So many watchers hear of each of 20 changes.
    #[arg(long, value_name = "N")]
    watchers: Option<usize>,
}

/// A system under measurement.
enum System {
    Hanse(Replicas),
    Etcd(Etcd),
}

impl System {
    fn name(&self) -> &'static str {
        match self {
            Self::Hanse(_) => "hanse",
            Self::Etcd(_) => "etcd",
        }
    }

    /// To the replica that leads: the other way costs a hop that both would have to take.
    async fn clients(&self, connections: usize) -> anyhow::Result<Vec<Client>> {
        match self {
            Self::Hanse(replicas) => replicas.clients(connections).await,
            Self::Etcd(etcd) => etcd.clients(connections).await,
        }
    }

    /// Waits until there is a leader, and all that were left behind have caught up.
    async fn settle(&self) -> anyhow::Result<()> {
        match self {
            Self::Hanse(replicas) => replicas.wait_until_whole().await,
            Self::Etcd(etcd) => until("etcd to have a leader", SOON, async || Ok(etcd.leader().await.is_ok())).await,
        }
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        match self {
            Self::Hanse(replicas) => replicas.usage(),
            Self::Etcd(etcd) => etcd.usage(),
        }
    }
}

/// One kind of run.
#[derive(Debug, Clone, Copy)]
struct Cell {
    operation: Operation,
    clients: usize,
    connections: usize,
    bytes: usize,
}

/// One run, and what the servers used in it.
struct Run {
    seen: Seen,
    used: Usage,
    client_cpu_ms: u64,
    rss_bytes: u64,
    /// Runs before this one that did not count, because their leader lost the lead.
    leader_changes: u64,
}

pub async fn run(directory: &Path, options: &Options) -> anyhow::Result<Vec<Row>> {
    let mut systems = vec![System::Hanse(Replicas::start(directory, None).await?)];
    if let Some(Peer::Etcd) = options.peer {
        systems.push(System::Etcd(Etcd::start(&programs().await?, directory).await?));
    }
    let mut rows = grid(directory, options, &systems, 0).await?;
    if let Some(watchers) = options.watchers {
        for system in &systems {
            rows.push(match system {
                System::Hanse(replicas) => watchers::hanse(replicas, watchers).await?,
                System::Etcd(etcd) => watchers::etcd(etcd, watchers).await?,
            });
        }
    }
    if let Some(updates) = options.aged {
        let bytes = options.bytes.iter().copied().max().unwrap_or_default();
        for system in &systems {
            let begin = Instant::now();
            fill(system, bytes, updates).await?;
            eprintln!("{}: {updates} updates in {:.0} s", system.name(), begin.elapsed().as_secs_f64());
        }
        rows.extend(grid(directory, options, &systems, updates).await?);
    }
    Ok(rows)
}

async fn grid(directory: &Path, options: &Options, systems: &[System], aged: u64) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![];
    for &bytes in &options.bytes {
        for system in systems {
            fill(system, bytes, 0).await?;
        }
        for &clients in &options.clients {
            let mut connections = vec![clients.min(CONNECTIONS_FEW), clients.min(CONNECTIONS_MANY)];
            connections.dedup();
            for connections in connections {
                for operation in [Operation::Put, Operation::Read] {
                    let cell = Cell { operation, clients, connections, bytes };
                    rows.extend(pairs(directory, options, systems, cell, aged).await?);
                }
            }
        }
    }
    Ok(rows)
}

/// Goes on with the next leader where one is lost on the way.
async fn fill(system: &System, bytes: usize, updates: u64) -> anyhow::Result<()> {
    let mut filling = Filling::new(bytes, updates);
    let mut changes = 0;
    while let Err(why) = filling.run(&system.clients(CONNECTIONS_FEW).await?).await? {
        if changes == AGAIN_MAX {
            bail!("cannot fill the store: {why}");
        }
        changes += 1;
        system.settle().await?;
    }
    Ok(())
}

/// One row for each system: medians of all pairs.
async fn pairs(
    directory: &Path,
    options: &Options,
    systems: &[System],
    cell: Cell,
    aged: u64,
) -> anyhow::Result<Vec<Row>> {
    let mut runs: Vec<Vec<Run>> = systems.iter().map(|_| vec![]).collect();
    let mut probes = vec![];
    let mut unsteady = 0;
    for pair in 0..options.pairs {
        let before = probe(directory)?;
        let mut order: Vec<usize> = (0..systems.len()).collect();
        if pair % 2 == 1 {
            order.reverse();
        }
        for index in order {
            runs[index].push(measure(&systems[index], cell, options, pair as u64).await?);
        }
        let after = probe(directory)?;
        unsteady += usize::from(before.max(after) > STEADY * before.min(after));
        probes.extend([before, after]);
    }
    let mut rows = vec![];
    let rates: Vec<f64> = runs.iter().map(|runs| median(runs.iter().map(|run| run.seen.per_second()))).collect();
    for (index, runs) in runs.into_iter().enumerate() {
        let mut row = row(systems[index].name(), cell, aged, runs);
        row.insert("fsync_ms".into(), json!(probes));
        row.insert("unsteady_pairs".into(), json!(unsteady));
        if let [ours, peers] = rates[..]
            && index == 0
        {
            row.insert("times_peer".into(), json!(rounded(ours / peers)));
        }
        eprintln!("{}", serde_json::to_string(&row)?);
        rows.push(row);
    }
    Ok(rows)
}

/// Median of making a page durable, now.
fn probe(directory: &Path) -> anyhow::Result<f64> {
    Ok(milliseconds(fsyncs(directory)?.percentile(50.0)))
}

/// Again where another one led before its end: clients stay with whom they began, as the figures are of the way to the leader.
async fn measure(system: &System, cell: Cell, options: &Options, seed: u64) -> anyhow::Result<Run> {
    let mut changes = 0;
    loop {
        let run = measure_once(system, cell, options, seed).await?;
        if run.seen.failed == 0 || changes == AGAIN_MAX {
            return Ok(Run { leader_changes: changes, ..run });
        }
        changes += 1;
        system.settle().await?;
    }
}

async fn measure_once(system: &System, cell: Cell, options: &Options, seed: u64) -> anyhow::Result<Run> {
    let clients = system.clients(cell.connections).await?;
    let Cell { operation, clients: count, bytes, .. } = cell;
    let duration = Duration::from_secs(options.seconds);
    let plan = Plan { operation, clients: count, bytes, warming: WARMING, duration, seed: seed * 10_000 };
    let mut edges = vec![];
    let edge = || {
        edges.push((system.usage()?, Usage::of(std::process::id())?));
        Ok(())
    };
    let seen = load::run(&clients, plan, edge).await?;
    let (before, own_before) = edges[0];
    let (after, own_after) = edges[1];
    Ok(Run {
        seen,
        used: after.since(before),
        client_cpu_ms: own_after.cpu_ms - own_before.cpu_ms,
        rss_bytes: after.rss_bytes,
        leader_changes: 0,
    })
}

fn row(system: &str, cell: Cell, aged: u64, mut runs: Vec<Run>) -> Row {
    let mut row = Map::new();
    row.insert("system".into(), json!(system));
    row.insert("op".into(), json!(cell.operation.name()));
    row.insert("clients".into(), json!(cell.clients));
    row.insert("connections".into(), json!(cell.connections));
    row.insert("bytes".into(), json!(cell.bytes));
    row.insert("aged".into(), json!(aged));
    let each = |figure: &dyn Fn(&Run) -> f64| median(runs.iter().map(figure));
    let per = |run: &Run, figure: u64| figure as f64 / run.seen.answered.max(1) as f64;
    row.insert("ops_per_s".into(), json!(each(&|run| run.seen.per_second()).round()));
    let all: Vec<f64> = runs.iter().map(|run| run.seen.per_second().round()).collect();
    row.insert("runs_ops_per_s".into(), json!(all));
    row.insert("cpu_ms_per_1000".into(), json!(rounded(each(&|run| 1000.0 * per(run, run.used.cpu_ms)))));
    row.insert("client_cpu_ms_per_1000".into(), json!(rounded(each(&|run| 1000.0 * per(run, run.client_cpu_ms)))));
    row.insert("disk_bytes_per_op".into(), json!(each(&|run| per(run, run.used.written_bytes)).round()));
    row.insert("rss_mb".into(), json!(rounded(each(&|run| run.rss_bytes as f64 / 1e6))));
    row.insert("leader_changes".into(), json!(runs.iter().map(|run| run.leader_changes).sum::<u64>()));
    row.insert("failed".into(), json!(runs.iter().map(|run| run.seen.failed).sum::<u64>()));
    for (name, percent) in [("p50_ms", 50.0), ("p99_ms", 99.0), ("max_ms", 100.0)] {
        let times: Vec<f64> = runs.iter_mut().map(|run| milliseconds(run.seen.times.percentile(percent))).collect();
        row.insert(name.into(), json!(median(times.into_iter())));
    }
    row
}

fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}
