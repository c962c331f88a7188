//! `hanse agent`: the agent of one member cluster, and `hanse agent check` before it joins.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        self, check,
        cluster::{Cluster, kube::KubeCluster},
        core,
        dial::Trust,
        identity::{self, Identity, Keep, Stored},
        join,
        lease::Lease,
        ledger::{Ledger, directory::DirectoryLedger, secrets::SecretsLedger},
        link,
        secrets::Secrets,
    },
    model::Timestamp,
};

/// Runs the agent of a member cluster until SIGTERM; joins first if it has to.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    to: To,
    /// Where key, certificate and ledger are kept
    #[arg(long, value_name = "DIR", env = "HANSE_AGENT_DIR", required_unless_present = "state_namespace")]
    dir: Option<PathBuf>,
    /// Keep them as Secrets of this namespace in the member instead; of several replicas one acts
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "dir")]
    state_namespace: Option<String>,
    #[command(flatten)]
    own: Own,
}

/// What the agent says of its cluster.
#[derive(clap::Args)]
struct Own {
    /// Name for the cluster; the token's where it names one
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// A node label that Applications may select nodes by, beside the well-known ones; may be given several times
    #[arg(long = "node-label", value_name = "KEY", env = "HANSE_NODE_LABELS", value_delimiter = ',')]
    node_labels: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Says whether an agent could work here, and what to do where not; changes nothing
    Check {
        #[command(flatten)]
        to: To,
        /// Of an agent that has joined already, in place of a token
        #[arg(long, value_name = "DIR", env = "HANSE_AGENT_DIR")]
        dir: Option<PathBuf>,
    },
}

/// The two ends.
#[derive(clap::Args)]
struct To {
    /// Where the hub is; may be given several times
    #[arg(long = "hub", value_name = "URL", env = "HANSE_HUB", required = true)]
    hubs: Vec<String>,
    /// Join token, as `hanse token create` prints it; needed once
    #[arg(long, value_name = "TOKEN", env = "HANSE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Of the member cluster; without it KUBECONFIG, ~/.kube/config or the pod's ServiceAccount
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in that kubeconfig
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let state = match (args.command, args.state_namespace, args.dir) {
        (Some(Command::Check { to, dir }), ..) => return check(to, dir).await,
        (None, Some(namespace), _) => State::Secrets(namespace),
        (None, None, Some(dir)) => State::Directory(dir),
        (None, None, None) => bail!("--dir is missing"),
    };
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    act(args.to, state, args.own, stop).await
}

/// Where what outlives the process is kept.
enum State {
    Directory(PathBuf),
    Secrets(String),
}

impl To {
    async fn member(&self) -> anyhow::Result<KubeCluster> {
        Ok(KubeCluster::connect(self.kubeconfig.as_deref(), self.context.as_deref()).await?)
    }

    fn token(&self) -> anyhow::Result<Option<join::Token>> {
        Ok(self.token.as_deref().filter(|token| !token.is_empty()).map(str::parse).transpose()?)
    }
}

async fn check(to: To, dir: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let joined = match &dir {
        Some(dir) => identity::Directory::open(dir)?.load()?.and_then(|stored| stored.identity),
        None => None,
    };
    let trust = match (to.token()?, joined) {
        (Some(token), _) => Some(Trust::Pin(token.pin)),
        (None, Some(identity)) => {
            Some(Trust::Authorities(identity.serving_authorities.into_iter().map(|der| der.0).collect()))
        }
        (None, None) => None,
    };
    let mut findings = check::member(&to.member().await?).await;
    for url in &to.hubs {
        match &trust {
            Some(trust) => findings.extend(check::hub(url, trust, Timestamp(jiff::Timestamp::now())).await),
            None => bail!("--token, or --dir of an agent that has joined, is needed to tell the hub from anybody else"),
        }
    }
    print!("{}", check::table(&findings));
    let all_good = findings.iter().all(check::Finding::is_good);
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn act(to: To, state: State, own: Own, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let instance = uuid::Uuid::new_v4().to_string();
    match state {
        State::Directory(dir) => {
            // Before anything else: a second agent on the same directory must not even connect.
            let ledger = DirectoryLedger::open(&dir.join("ledger"))?;
            let keep = Arc::new(identity::Directory::open(&dir)?);
            let cluster = to.member().await?;
            serve(to, cluster, Box::new(ledger), keep, own, instance, stop).await?;
        }
        State::Secrets(namespace) => {
            let cluster = to.member().await?;
            let lease = Lease::new(cluster.client().clone(), &namespace, &instance);
            if !lease.acquire(&stop).await {
                return Ok(ExitCode::SUCCESS);
            }
            let secrets = Secrets::new(cluster.client().clone(), &namespace);
            let (ledger, acting) = (SecretsLedger::new(secrets.clone()), stop.child_token());
            let held = lease.clone();
            let holding = tokio::spawn({
                let (acting, stop) = (acting.clone(), stop.clone());
                async move { held.hold(acting, stop).await }
            });
            serve(to, cluster, Box::new(ledger), Arc::new(secrets), own, instance, acting).await?;
            holding.abort();
            if !stop.is_cancelled() {
                bail!("the lease was lost; another replica acts");
            }
            lease.release().await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(
    to: To,
    cluster: KubeCluster,
    ledger: Box<dyn Ledger>,
    keep: Arc<dyn Keep>,
    own: Own,
    instance: String,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if let Err(rejection) = cluster.ensure_executor_role(agent::deploy::EXECUTOR).await {
        eprintln!("warning: ClusterRole hanse-executor: {rejection}\n  apply deploy/executor.yaml in the member");
    }
    let joined = tokio::select! {
        joined = identity(&to, &*keep, &cluster, own.name) => joined?,
        () = stop.cancelled() => return Ok(()),
    };
    println!("cluster {} of hub {}", joined.cluster_name, joined.hub);
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let link = link::start(link::Config { urls: to.hubs, keep, seed }, joined);
    let node_labels = own.node_labels.into_iter().collect();
    let config = core::Config { instance, seed, node_labels, ..core::Config::default() };
    Ok(agent::run(config, Arc::new(cluster), ledger, link, stop).await?)
}

/// What is kept, or what joining gives.
async fn identity(to: &To, keep: &dyn Keep, cluster: &KubeCluster, name: String) -> anyhow::Result<Identity> {
    if let Some(Stored { identity: Some(identity), token, .. }) = keep.load()? {
        if to.token()?.is_some_and(|given| given.name != token) {
            eprintln!(
                "this directory belongs to cluster {} already, so the token is not used; a rebuilt cluster joins from an empty --dir",
                identity.cluster_name
            );
        }
        return Ok(identity);
    }
    let token = to.token()?.context("not joined yet: --token is missing (`hanse token create` prints one)")?;
    let facts = cluster.facts().await.context("the member cluster")?;
    let request = join::Request { urls: to.hubs.clone(), token, cluster: name, system_uid: facts.system_uid };
    Ok(join::join(&request, keep, |waiting| println!("{waiting}")).await?)
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
