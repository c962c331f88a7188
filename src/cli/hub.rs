//! `hanse hub`: one process of the control plane, and what an admin does to the group of them.

mod recover;
pub mod replicas;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Subcommand, ValueEnum};

use crate::{
    hub::{self, Config, peers::joining::Invitation},
    store::raft,
};

const HEARTBEAT_MS: u64 = raft::Timing::HEARTBEAT.as_millis() as u64;

/// Runs the hub until SIGTERM; or, with a command, tends to its replicas.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// Make a token and print the command that starts one more replica of the hub with it
    Invite(replicas::Invite),
    /// Show the replicas: who leads, how far the others are, what their states hash to
    Status(replicas::Status),
    /// Remove a replica from the group for good
    Remove(replicas::Remove),
    /// Go on alone with what one replica has, after most of the others are lost for good
    Recover(recover::Recover),
}

#[derive(clap::Args)]
struct Run {
    /// Where everything is kept; admin.kubeconfig is written there at first start
    #[arg(long, value_name = "DIR", env = "HANSE_DIR")]
    dir: Option<PathBuf>,

    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = hub::config::LISTEN)]
    listen: String,

    /// What clients and agents are told to connect to
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,

    /// One more name or address for the server certificate; may be given several times
    #[arg(long = "tls-san", value_name = "NAME")]
    tls_sans: Vec<String>,

    /// Address to listen on for the other replicas; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = hub::config::PEER_LISTEN)]
    peer_listen: String,

    /// Where the other replicas reach this one; else where it listens
    #[arg(long, value_name = "HOST:PORT")]
    peer_advertise: Option<String>,

    /// Join the hub of this invitation, which `hanse hub invite` prints; at first start only
    #[arg(long, value_name = "TOKEN")]
    join: Option<Invitation>,

    /// How often a leader lets itself be heard: at least the slowest round trip between replicas, and the same on all of
    /// them. After four to eight times as long without it another one is elected
    #[arg(long, value_name = "MS", default_value_t = HEARTBEAT_MS, value_parser = clap::value_parser!(u64).range(10..=5000))]
    heartbeat_ms: u64,

    /// How reads are kept linearizable while this replica leads: by asking the others each time, or by a lease, which
    /// trusts that clocks run alike within a quarter
    #[arg(long, value_enum, default_value_t = Reads::Index)]
    reads: Reads,

    /// Life of agents' certificates, in seconds
    #[arg(long, value_name = "SECONDS", hide = true)]
    agent_certificate_seconds: Option<u64>,

    /// End when the standard input does: for whoever starts it as a part of something
    #[arg(long, hide = true)]
    stop_with_stdin: bool,

    /// Silence after which a cluster is Unknown, in seconds
    #[arg(long, value_name = "SECONDS", hide = true)]
    grace_seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reads {
    Index,
    Lease,
}

impl From<Reads> for raft::Reads {
    fn from(reads: Reads) -> Self {
        match reads {
            Reads::Index => Self::Index,
            Reads::Lease => Self::Lease,
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        None => args.run.run().await,
        Some(Command::Invite(invite)) => invite.run().await,
        Some(Command::Status(status)) => status.run().await,
        Some(Command::Remove(remove)) => remove.run().await,
        Some(Command::Recover(recover)) => recover.run(),
    }
}

impl Run {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut config = Config {
            listen: self.listen,
            advertise: self.advertise,
            tls_sans: self.tls_sans,
            peer_listen: self.peer_listen,
            peer_advertise: self.peer_advertise,
            heartbeat: Duration::from_millis(self.heartbeat_ms),
            reads: self.reads.into(),
            join: self.join,
            ..Config::new(self.dir.context("where is everything to be kept? --dir DIR")?)
        };
        if let Some(seconds) = self.agent_certificate_seconds {
            config.agent_certificate_lifetime = Duration::from_secs(seconds);
        }
        if let Some(seconds) = self.grace_seconds {
            config.grace = Duration::from_secs(seconds);
        }
        let stop = async {
            match self.stop_with_stdin {
                true => drop(tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await),
                false => std::future::pending().await,
            }
        };
        hub::run(config, stop, |hub| {
            println!("the hub is ready at {}", hub.url);
            println!("try: KUBECONFIG={} kubectl get clusters", hub.kubeconfig.display());
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    }
}
