//! `hanse quickstart`: a real hub with simulated members on this machine, in seconds.
//!
//! The hub, its API, the tokens, the agents and their streams are the ordinary ones; only the Kubernetes clusters at
//! the far end are simulated, and it says so. With `--attach` real ones join beside them.

mod attached;
mod client;
mod fleet;
mod replicas;
mod screen;
mod stage;
mod tour;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use self::{screen::Screen, stage::Stage};

/// What `docs/examples/` holds: applied at the start, in this order.
const EXAMPLES: [(&str, &str); 4] = [
    ("hello.yaml", include_str!("../../docs/examples/hello.yaml")),
    ("everywhere.yaml", include_str!("../../docs/examples/everywhere.yaml")),
    ("shop.yaml", include_str!("../../docs/examples/shop.yaml")),
    ("raw.yaml", include_str!("../../docs/examples/raw.yaml")),
];
/// How often the table is brought up to date.
const REFRESH: Duration = Duration::from_millis(500);

/// Tries hanse on this machine: a hub and simulated member clusters
#[derive(clap::Args)]
pub struct Args {
    /// Number of simulated members
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    members: u16,

    /// Keep everything here; a temporary directory, removed at the end, where absent
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Join a real cluster of your kubeconfig beside the simulated ones; may be given several times
    #[arg(long, value_name = "CONTEXT")]
    attach: Vec<String>,

    /// Run the tour, check each step, clean up and exit
    #[arg(long)]
    once: bool,

    /// One JSON object per line, for programs
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let screen = Screen::new(args.json, std::io::stdout().is_terminal());
    let home = Home::open(args.dir.as_deref())?;
    let stage = Stage::open(home.path(), usize::from(args.members), screen).await?;
    // Ctrl-C ends either part; what was started is stopped in order all the same.
    let (mut stage, outcome) = interruptible(stage, &args, home.is_temporary()).await;
    stage.close().await;
    home.close()?;
    outcome
}

async fn interruptible(mut stage: Stage, args: &Args, temporary: bool) -> (Stage, anyhow::Result<ExitCode>) {
    let outcome = tokio::select! {
        outcome = show(&mut stage, args, temporary) => outcome,
        interrupted = interrupted() => interrupted.map(|()| {
            // A tour that was broken off has not shown what it should; a table that was watched has.
            if args.once { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }),
    };
    (stage, outcome)
}

/// Ctrl-C, or a polite kill.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn show(stage: &mut Stage, args: &Args, temporary: bool) -> anyhow::Result<ExitCode> {
    if args.once {
        let passed = tour::run(stage, &args.attach).await;
        return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    stage.begin(&args.attach).await?;
    stage.screen.hints(&stage.kubeconfig, temporary);
    loop {
        let picture = stage.picture().await?;
        stage.screen.draw(&picture);
        tokio::time::sleep(REFRESH).await;
    }
}

/// Where everything is kept.
enum Home {
    Given(PathBuf),
    Temporary(PathBuf),
}

impl Home {
    fn open(given: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = given {
            std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
            return Ok(Self::Given(path.to_owned()));
        }
        let path = std::env::temp_dir().join(format!("hanse-quickstart-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self::Temporary(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Temporary(path) => path,
        }
    }

    fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary(_))
    }

    fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Given(_) => Ok(()),
            Self::Temporary(path) => {
                std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))
            }
        }
    }
}
