//! `hanse hub`: one process of the control plane.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use crate::hub::{self, Config};

/// Runs the hub until SIGTERM.
#[derive(clap::Args)]
pub struct Args {
    /// Where everything is kept; admin.kubeconfig is written there at first start
    #[arg(long, value_name = "DIR", env = "HANSE_DIR")]
    dir: PathBuf,

    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = hub::config::LISTEN)]
    listen: String,

    /// What clients and agents are told to connect to
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,

    /// One more name or address for the server certificate; may be given several times
    #[arg(long = "tls-san", value_name = "NAME")]
    tls_sans: Vec<String>,

    /// Life of agents' certificates, in seconds
    #[arg(long, value_name = "SECONDS", hide = true)]
    agent_certificate_seconds: Option<u64>,

    /// Silence after which a cluster is Unknown, in seconds
    #[arg(long, value_name = "SECONDS", hide = true)]
    grace_seconds: Option<u64>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config =
        Config { listen: args.listen, advertise: args.advertise, tls_sans: args.tls_sans, ..Config::new(args.dir) };
    if let Some(seconds) = args.agent_certificate_seconds {
        config.agent_certificate_lifetime = Duration::from_secs(seconds);
    }
    if let Some(seconds) = args.grace_seconds {
        config.grace = Duration::from_secs(seconds);
    }
    hub::run(config, |hub| {
        println!("the hub is ready at {}", hub.url);
        println!("try: KUBECONFIG={} kubectl get clusters", hub.kubeconfig.display());
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
