//! The command line: one file per command, each an `Args` and a `run`.
//!
//! Owns: flags, exit codes and what is printed. Must never: decide anything that another surface would have to
//! decide again.
//!
//! Exit codes: 0 done, 1 the thing asked for failed or was refused, 2 usage.

mod admin;
mod agent;
mod bench;
mod cluster;
mod drain;
mod drill;
mod explain;
mod hub;
mod input;
mod offline;
mod plan;
mod quickstart;
mod rebalance;
mod render;
mod token;
mod told;

use std::{io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Multi-cluster federation: one Application, many clusters, placed by capacity.
#[derive(Parser)]
#[command(name = "hanse", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::Args),
    Hub(Box<hub::Args>),
    /// Invite clusters
    Token(token::Args),
    Agent(Box<agent::Args>),
    /// Accept, cordon, drain or forget member clusters
    Cluster(cluster::Args),
    Drain(drain::Args),
    Undrain(drain::Undrain),
    Rebalance(rebalance::Args),
    Render(render::Args),
    Explain(explain::Args),
    Plan(plan::Args),
    Drill(drill::Args),
    /// Measure this program on this machine
    Bench(bench::Args),
}

impl Command {
    /// What is logged unless `RUST_LOG` says otherwise. Servers tell what they do; a command that people watch, or
    /// that machines read, tells only what goes wrong.
    fn log(&self) -> &'static str {
        match self {
            Self::Hub(_) | Self::Agent(_) => "warn,hanse=info",
            // The tour kills what its client talks to.
            Self::Quickstart(_) => "warn,kube_client=off",
            _ => "warn",
        }
    }
}

/// The process's main function: parses, runs, and turns an error into one readable line.
pub fn main() -> ExitCode {
    // Where tests say that the process is to die; only their builds have such points (`FAILPOINTS`).
    let _points = fail::has_failpoints().then(fail::FailScenario::setup);
    let cli = Cli::parse();
    log_to_stderr(cli.command.log());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    runtime.block_on(run(cli.command)).unwrap_or_else(|error| fail(&error))
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Quickstart(args) => quickstart::run(args).await,
        Command::Hub(args) => hub::run(*args).await,
        Command::Token(args) => token::run(args).await,
        Command::Agent(args) => agent::run(*args).await,
        Command::Cluster(args) => cluster::run(args).await,
        Command::Drain(args) => drain::run(args).await,
        Command::Undrain(args) => drain::undo(args).await,
        Command::Rebalance(args) => rebalance::run(args).await,
        Command::Render(args) => render::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Drill(args) => drill::run(args).await,
        Command::Bench(args) => bench::run(args).await,
    }
}

/// What a command prints is on stdout; what it tells along the way is here. `RUST_LOG` says how much.
fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    log.with_writer(std::io::stderr).init();
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
