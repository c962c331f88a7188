//! `hanse drain` and `hanse undrain`: everything off a cluster, new before old, and back.
//!
//! The hub does it and goes on with it whether or not this command runs: here it is only asked for and watched.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    admin::{Admin, Connection},
    token::parse_ttl,
};
use crate::{kinds::CLUSTER, model::cluster::DRAINED};

/// How often the hub is asked how far it is.
const ASK: Duration = Duration::from_secs(1);
/// So often in a row nothing more can leave: then nobody waits for it here.
const STUCK_MAX: u32 = 3;

/// Move everything off a cluster: what can run elsewhere leaves when its replacement is healthy
#[derive(clap::Args)]
pub struct Args {
    /// The cluster's name
    name: String,

    /// Do not wait for the end: the hub goes on by itself
    #[arg(long)]
    no_wait: bool,

    /// Wait no longer than so: 90s, 30m, 1h; the hub goes on by itself
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    timeout: Option<Duration>,

    #[command(flatten)]
    connection: Connection,
}

/// Let a drained cluster get new work again; what has not left it stays
#[derive(clap::Args)]
pub struct Undrain {
    /// The cluster's name
    name: String,

    #[command(flatten)]
    connection: Connection,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let admin = args.connection.open().await?;
    ask(&admin, &args.name, true).await?;
    println!("cluster {} is being drained: it gets nothing new", args.name);
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    watch(&admin, &args.name, args.timeout.map(|timeout| Instant::now() + timeout)).await
}

pub async fn undo(args: Undrain) -> anyhow::Result<ExitCode> {
    let admin = args.connection.open().await?;
    ask(&admin, &args.name, false).await?;
    println!("cluster {} is drained no more: what has not left stays, and it may get new work again", args.name);
    Ok(ExitCode::SUCCESS)
}

async fn ask(admin: &Admin, name: &str, drain: bool) -> anyhow::Result<()> {
    admin.patch(&CLUSTER, name, &json!({"spec": {"drain": drain}})).await?;
    Ok(())
}

/// Prints what is left whenever that changes, until nothing is.
async fn watch(admin: &Admin, name: &str, until: Option<Instant>) -> anyhow::Result<ExitCode> {
    let (mut told, mut stuck) = (String::new(), 0);
    loop {
        let cluster = admin.get(&CLUSTER, name).await?;
        if cluster["spec"]["drain"] != true {
            bail!("somebody else ended the drain of {name}");
        }
        let mut conditions = cluster["status"]["conditions"].as_array().into_iter().flatten();
        let drained = conditions.find(|condition| condition["type"] == DRAINED).unwrap_or(&Value::Null);
        let message = drained["message"].as_str().unwrap_or_default();
        if message != told {
            println!("{message}");
            told = message.to_owned();
        }
        if drained["status"] == "True" {
            return Ok(ExitCode::SUCCESS);
        }
        stuck = if drained["reason"] == "FitsNowhereElse" { stuck + 1 } else { 0 };
        if stuck >= STUCK_MAX {
            println!(
                "nothing more can leave now; it does when there is room, and `hanse undrain {name}` ends the drain"
            );
            return Ok(ExitCode::FAILURE);
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            println!("the hub goes on draining {name}; `hanse undrain {name}` ends that");
            return Ok(ExitCode::FAILURE);
        }
        sleep(ASK).await;
    }
}
