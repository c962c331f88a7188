//! `hanse rebalance`: replicas to where they would go if they were placed today, as far as that is worth moving them.
//!
//! The hub does it, so many at a time and new before old, and goes on with it whether or not this command runs: here it is
//! only asked for, Application after Application, and watched.

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use anyhow::bail;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    admin::{Admin, Connection},
    token::parse_ttl,
    told::{self, Output},
};
use crate::{
    flow::schedule::account::Account,
    kinds::{APPLICATION, PLACEMENT_REVIEW, application::REBALANCE_ANNOTATION},
    model::{ObjectName, Timestamp},
};

/// How often the hub is asked how far it is.
const ASK: Duration = Duration::from_millis(500);

/// Move divided replicas to better places: new before old, and only what gains more than it costs
#[derive(clap::Args)]
pub struct Args {
    /// The Application; else all of the namespace
    #[arg(value_name = "APP", conflicts_with = "all_namespaces")]
    name: Option<String>,

    /// Its namespace; else that of the kubeconfig's context
    #[arg(short = 'n', long, conflicts_with = "all_namespaces")]
    namespace: Option<String>,

    /// The Applications of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,

    /// Tell what would move, and move nothing
    #[arg(long)]
    dry_run: bool,

    /// Applications that are rebalanced at the same time
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,

    /// Ask for all of them and do not wait: the hub goes on by itself
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,

    /// Wait no longer than so: 90s, 30m, 1h; the hub goes on by itself with those it was asked for
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    timeout: Option<Duration>,

    /// Of --dry-run
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table, requires = "dry_run")]
    output: Output,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let admin = args.connection.open().await?;
    let namespace = match args.all_namespaces {
        true => "",
        false => args.namespace.as_deref().unwrap_or(&admin.namespace),
    };
    let names = match &args.name {
        Some(name) => vec![ObjectName::new(namespace, name)],
        None => admin.names_in(&APPLICATION, namespace).await?,
    };
    if args.dry_run {
        return look(&admin, &names, args.output).await;
    }
    let until = args.timeout.map(|timeout| Instant::now() + timeout);
    // Not the time of the hub: any text does that was not there before.
    let request = Timestamp(jiff::Timestamp::now()).to_string();
    let mut watch = Watch { admin: &admin, request, until, running: BTreeMap::new(), stranded: 0 };
    for name in names {
        while watch.running.len() >= args.at_once.into() && !args.no_wait {
            watch.look().await?;
        }
        watch.begin(name).await?;
    }
    while !args.no_wait && !watch.running.is_empty() {
        watch.look().await?;
    }
    Ok(told::code(watch.stranded == 0))
}

async fn look(admin: &Admin, names: &[ObjectName], output: Output) -> anyhow::Result<ExitCode> {
    let mut accounts: Vec<Account> = Vec::new();
    for name in names {
        let spec = json!({"name": name.name, "rebalance": true});
        accounts.push(admin.review(&PLACEMENT_REVIEW, &name.namespace, &spec).await?);
    }
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&accounts)?,
        Output::Table => told::rebalances(&accounts),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}

struct Watch<'a> {
    admin: &'a Admin,
    request: String,
    until: Option<Instant>,
    running: BTreeMap<ObjectName, Told>,
    /// Those that nobody waits for any longer.
    stranded: usize,
}

/// What was told of an Application: with the request, and last.
struct Told {
    first: String,
    last: String,
}

impl Watch<'_> {
    async fn begin(&mut self, name: ObjectName) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {REBALANCE_ANNOTATION: self.request}}});
        let application = self.admin.patch_in(&APPLICATION, &name, &patch).await?;
        let sum = sum(&application);
        println!("{name}: {sum}: asked for");
        self.running.insert(name, Told { last: sum.clone(), first: sum });
        Ok(())
    }

    /// Waits a moment, and tells of those that have come further.
    async fn look(&mut self) -> anyhow::Result<()> {
        sleep(ASK).await;
        for (name, told) in std::mem::take(&mut self.running) {
            let application = self.admin.get_in(&APPLICATION, &name).await?;
            if application["metadata"]["annotations"][REBALANCE_ANNOTATION] != *self.request {
                bail!("somebody else asked for a rebalance of {name}, or took the request back");
            }
            let (sum, placement) = (sum(&application), &application["status"]["placement"]);
            let moves = placement["moves"].as_array().map_or(0, Vec::len);
            let now = match moves {
                0 => sum,
                _ => format!("{sum}, of which {} replicas are on their way", replicas_of(&placement["moves"])),
            };
            if placement["rebalanced"] == *self.request {
                match now == told.first {
                    true => println!("{name}: {now}: nothing gains more than it costs"),
                    false => println!("{name}: {now}: done"),
                }
                continue;
            }
            if self.until.is_some_and(|until| Instant::now() >= until) {
                println!("{name}: {now}: the hub goes on with it");
                self.stranded += 1;
                continue;
            }
            if now != told.last {
                println!("{name}: {now}");
            }
            self.running.insert(name, Told { last: now, ..told });
        }
        Ok(())
    }
}

fn sum(application: &Value) -> String {
    application["status"]["placement"]["sum"].as_str().unwrap_or("not placed").to_owned()
}

fn replicas_of(moves: &Value) -> u64 {
    moves.as_array().into_iter().flatten().filter_map(|known| known["replicas"].as_u64()).sum()
}
