//! `hanse bench AREA`: figures about this very program on this very machine.
//!
//! Owns: what is measured, how, and the shape of what is printed. Must never: assert anything about a figure, or measure
//! other code than the product's.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args as Arguments, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};

use machine::{Floor, Machine};

mod control_plane;
mod decide;
mod deliver;
mod hub;
mod leader_loss;
mod list;
mod load;
mod machine;
mod members;
mod placement;
mod process;
mod proxy;
mod real;
mod replan;
mod replicas;
mod rest;
mod restart;
mod sim;
mod sketch;
mod store;

/// One measurement: names with their unit → figures, and what was measured.
pub type Row = Map<String, Value>;

#[derive(Debug, Arguments)]
pub struct Args {
    #[command(subcommand)]
    area: Area,
    /// Print one JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// Where the hub's store lies while it is measured: the disk is part of the figures. A directory of its own is made
    /// in it, and removed.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Area {
    /// From applying an Application until it is in every member: latency, CPU, and a burst of 500.
    Deliver {
        /// Numbers of embedded members, one row for each.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000])]
        members: Vec<usize>,
        /// So many real control planes instead, as in e2e/ (which must be there), beside a direct server-side apply.
        #[arg(long, value_name = "N", conflicts_with = "members")]
        real: Option<usize>,
        /// Leave the burst of 500 out.
        #[arg(long)]
        no_burst: bool,
    },
    /// What hub and agents hold and do in a minute in which nothing changes.
    Rest {
        #[arg(long, default_value_t = 1000)]
        applications: usize,
        #[arg(long, default_value_t = 3)]
        members: usize,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// With one real control plane and the agent in a process of its own: the only way to tell its memory.
        #[arg(long)]
        real: bool,
    },
    /// Listing and watching many objects.
    List {
        #[arg(long, default_value_t = 10_000)]
        objects: usize,
        /// Clients that watch at once.
        #[arg(long, default_value_t = 100)]
        watchers: usize,
    },
    /// Durable writes and linearizable reads of three replicas, and of etcd beside them.
    Store(store::Options),
    /// How long nobody can write after the leader of three replicas is lost, and whether anything acknowledged is.
    LeaderLoss(leader_loss::Options),
    /// From the start of a hub with a full store until it serves, and until all agents are back.
    Restart {
        #[arg(long, default_value_t = 1000)]
        applications: usize,
        /// Each Application is in each of them.
        #[arg(long, default_value_t = 100)]
        members: usize,
    },
    /// Deciding where Applications go: of five kinds, cold and incremental, without store and members; or durably.
    Placement {
        /// Sizes of fleets, some rows for each.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 5000, 10_000])]
        clusters: Vec<usize>,
        #[arg(long = "apps", value_name = "N", default_value_t = 10_000)]
        applications: usize,
        /// Instead: by a hub that stores each decision, with so many embedded members.
        #[arg(long, value_name = "MEMBERS", conflicts_with = "clusters")]
        durable: Option<usize>,
    },
    /// Replanning a fleet that lost one of its clusters, at grades of fill: time, what moves, and what finds no room.
    Replan {
        #[arg(long, default_value_t = 1000)]
        clusters: usize,
        #[arg(long = "apps", value_name = "N", default_value_t = 10_000)]
        applications: usize,
        /// Percent of the cores that are asked for, one row for each.
        #[arg(long, value_delimiter = ',', default_values_t = [60, 80, 95], value_parser = clap::value_parser!(u32).range(1..=100))]
        fill: Vec<u32>,
    },
    /// How much time a second is enough to simulate: groups of replicas, and all that goes wrong between them.
    Sim {
        #[arg(long, default_value_t = 20_000)]
        seeds: u64,
    },
    /// How long an agent measures its nodes, how large the sketch is, and what it loses of the room there is.
    Sketch {
        /// Numbers of nodes, one row for each.
        #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000])]
        nodes: Vec<usize>,
    },
    /// The process with the embedded members; started by the other areas.
    #[command(hide = true)]
    Members,
}

impl Area {
    fn name(&self) -> &'static str {
        match self {
            Self::Deliver { .. } => "deliver",
            Self::Rest { .. } => "rest",
            Self::List { .. } => "list",
            Self::Store(_) => "store",
            Self::LeaderLoss(_) => "leader-loss",
            Self::Restart { .. } => "restart",
            Self::Placement { .. } => "placement",
            Self::Replan { .. } => "replan",
            Self::Sim { .. } => "sim",
            Self::Sketch { .. } => "sketch",
            Self::Members => "members",
        }
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Figures {
    area: &'static str,
    machine: Machine,
    floor: Floor,
    rows: Vec<Row>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    if matches!(args.area, Area::Members) {
        return members::serve().await;
    }
    let parent = args.dir.unwrap_or_else(std::env::temp_dir);
    let directory = parent.join(format!("hanse-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let measured = tokio::select! {
        measured = measure(&args.area, &directory) => measured,
        // Values are dropped on the way out, and with them go the processes that were started.
        stopped = stop_signal() => stopped.and_then(|signal| bail!("stopped by {signal}")),
    };
    // Logs are worth keeping only where something failed.
    if let Err(error) = measured {
        return Err(error.context(format!("the logs are in {}", directory.display())));
    }
    std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    let figures = measured?;
    if args.json {
        println!("{}", serde_json::to_string(&figures)?);
    } else {
        print_table(&figures);
    }
    Ok(ExitCode::SUCCESS)
}

async fn stop_signal() -> anyhow::Result<&'static str> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

async fn measure(area: &Area, directory: &std::path::Path) -> anyhow::Result<Figures> {
    let (machine, floor) = (Machine::look()?, Floor::measure(directory)?);
    let mut rows = vec![];
    // Each row starts from nothing.
    let mut begin = 0;
    let mut place = || {
        begin += 1;
        let place = directory.join(format!("{begin}"));
        std::fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
        anyhow::Ok(place)
    };
    match area {
        Area::Deliver { members, real: None, no_burst } => {
            for count in members {
                rows.push(deliver::embedded(&place()?, *count, deliver::arrivals(*count)).await?);
            }
            if !no_burst {
                let burst = load::Arrivals { count: deliver::BURST, per_second: 0.0 };
                rows.push(deliver::embedded(&place()?, deliver::BURST_MEMBERS, burst).await?);
            }
        }
        Area::Deliver { real: Some(count), no_burst, .. } => {
            rows.extend(real::deliver(&place()?, *count, !no_burst).await?);
        }
        Area::Rest { applications, members, seconds, real } => {
            rows.push(match real {
                true => real::rest(&place()?, *applications, *seconds).await?,
                false => rest::run(&place()?, *applications, *members, *seconds).await?,
            });
        }
        Area::List { objects, watchers } => rows.extend(list::run(&place()?, *objects, *watchers).await?),
        Area::Store(options) => rows.extend(store::run(&place()?, options).await?),
        Area::LeaderLoss(options) => rows.extend(leader_loss::run(&place()?, options).await?),
        Area::Restart { applications, members } => {
            rows.push(restart::run(&place()?, *applications, *members).await?);
        }
        Area::Placement { durable: Some(members), applications, .. } => {
            rows.push(decide::run(&place()?, *members, *applications).await?);
        }
        Area::Placement { clusters, applications, durable: None } => {
            for count in clusters {
                rows.extend(placement::run((*count).max(1), *applications)?);
            }
        }
        Area::Replan { clusters, applications, fill } => {
            rows.extend(replan::run((*clusters).max(2), *applications, fill)?);
        }
        Area::Sim { seeds } => rows.push(sim::run(*seeds)),
        Area::Sketch { nodes } => rows.extend(nodes.iter().map(|&nodes| sketch::run(nodes))),
        Area::Members => {}
    }
    Ok(Figures { area: area.name(), machine, floor, rows })
}

fn print_table(figures: &Figures) {
    let Figures { area, machine, floor, rows } = figures;
    let gibibytes = machine.memory_bytes as f64 / (1u64 << 30) as f64;
    println!("{area} on {} cores, {gibibytes:.1} GiB", machine.cores);
    println!(
        "floor: fsync p50 {} ms, p99 {} ms; round trip {} us",
        floor.fsync_p50_ms, floor.fsync_p99_ms, floor.rtt_us
    );
    for row in rows {
        let width = row.keys().map(String::len).max().unwrap_or_default();
        println!();
        for (name, figure) in row {
            println!("{name:width$}  {}", readable(figure));
        }
    }
}

fn readable(figure: &Value) -> String {
    match figure {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_have_the_documented_shape() {
        let figures = Figures {
            area: "deliver",
            machine: Machine { cores: 2, memory_bytes: 1 << 30 },
            floor: Floor { fsync_p50_ms: 1.0, fsync_p99_ms: 2.0, rtt_us: 9.5 },
            rows: vec![Map::from_iter([("p99_ms".to_owned(), json!(1.5))])],
        };
        let expected = json!({
            "area": "deliver",
            "machine": { "cores": 2, "memory_bytes": 1_073_741_824u64 },
            "floor": { "fsync_p50_ms": 1.0, "fsync_p99_ms": 2.0, "rtt_us": 9.5 },
            "rows": [{ "p99_ms": 1.5 }],
        });
        assert_eq!(serde_json::to_value(&figures).expect("JSON"), expected);
    }
}
