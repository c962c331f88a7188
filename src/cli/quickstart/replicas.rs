//! The hub of a quickstart: three replicas, each a process of this very program, as on three machines.
//!
//! Owns: starting, stopping and killing them. Must never: outlive the quickstart: a replica here also ends when its standard input does.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

use crate::{
    cli::{
        admin::{Admin, Connection},
        hub::replicas::invite,
    },
    hub::peers::members::Belonging,
};

const REPLICAS: usize = 3;
/// How long one may take to answer after it was started.
const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(20);
const ADDRESSES: &str = "addresses";
const POLL: Duration = Duration::from_millis(20);
const INVITATION: Duration = Duration::from_secs(600);

pub struct Replicas(Vec<Replica>);

pub struct Replica {
    pub url: String,
    dir: PathBuf,
    /// For people and agents, and for the other replicas: the same at each start, or nobody would find anybody.
    addresses: [String; 2],
    grace: Duration,
    process: Option<Child>,
}

impl Replicas {
    /// Founds the hub in `dir`, or goes on with the one that is there.
    pub async fn start(dir: &Path, grace: Duration) -> anyhow::Result<Self> {
        let replica = |number: usize| {
            let dir = dir.join(format!("hub-{number}"));
            let addresses = addresses(&dir)?;
            anyhow::Ok(Replica { url: format!("https://{}", addresses[0]), dir, addresses, grace, process: None })
        };
        let mut replicas = Self((1..=REPLICAS).map(replica).collect::<Result<_, _>>()?);
        if replicas.0[0].kubeconfig().exists() {
            replicas.start_all().await?;
        } else {
            replicas.found().await?;
        }
        Ok(replicas)
    }

    async fn found(&mut self) -> anyhow::Result<()> {
        self.0[0].spawn(None)?;
        self.0[0].answers().await?;
        let admin = self.0[0].admin().await?;
        for replica in &mut self.0[1..] {
            let (invitation, _) = invite(&admin, INVITATION, &[]).await?;
            replica.spawn(Some(&invitation.reveal()))?;
        }
        for replica in &mut self.0[1..] {
            replica.answers().await?;
        }
        // Until all have a vote, the loss of one may be the loss of all.
        let deadline = Instant::now() + START_MAX;
        while admin.replicas().await?["voters"] != REPLICAS {
            if Instant::now() > deadline {
                bail!("not all replicas got a vote within {} s", START_MAX.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for replica in self.0.iter_mut().filter(|replica| replica.process.is_none()) {
            replica.spawn(None)?;
        }
        for replica in &mut self.0 {
            replica.answers().await?;
        }
        Ok(())
    }

    pub async fn stop_all(&mut self) {
        futures::future::join_all(self.0.iter_mut().map(Replica::stop)).await;
    }

    pub fn urls(&self) -> Vec<String> {
        self.0.iter().map(|replica| replica.url.clone()).collect()
    }

    pub fn kubeconfigs(&self) -> Vec<PathBuf> {
        self.0.iter().map(Replica::kubeconfig).collect()
    }

    pub async fn admin(&self) -> anyhow::Result<Admin> {
        let running = self.0.iter().find(|replica| replica.process.is_some()).context("no replica runs")?;
        running.admin().await
    }

    /// The number of whoever leads now.
    pub async fn leader(&self) -> anyhow::Result<Option<u64>> {
        Ok(self.admin().await?.replicas().await?["leader"].as_u64())
    }

    /// SIGKILL, as if the machine had lost power. Returns the number of the replica that led.
    pub async fn kill_leader(&mut self) -> anyhow::Result<u64> {
        let leader = self.leader().await?.context("no replica leads")?;
        for replica in &mut self.0 {
            // Which of them joined first was for them to find out.
            if Belonging::read(&replica.dir)?.is_some_and(|known| known.replica == leader) {
                let process = replica.process.take();
                process.context("the leader does not run here")?.kill().await?;
                return Ok(leader);
            }
        }
        bail!("replica {leader} leads, and is not one of ours")
    }
}

impl Replica {
    fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    async fn admin(&self) -> anyhow::Result<Admin> {
        Connection::of(self.kubeconfig()).open().await
    }

    fn spawn(&mut self, invitation: Option<&str>) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(program);
        let [listen, peer_listen] = &self.addresses;
        command.args(["hub", "--listen", listen, "--peer-listen", peer_listen, "--stop-with-stdin"]);
        command.arg("--grace-seconds").arg(self.grace.as_secs().to_string()).arg("--dir").arg(&self.dir);
        if let Some(invitation) = invitation {
            command.args(["--join", invitation]);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.dir.join("hub.log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        // Ctrl-C is for the quickstart, which stops them in order.
        command.process_group(0);
        self.process = Some(command.spawn().context("a replica of the hub does not start")?);
        Ok(())
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            if let Some(ended) = self.process.as_mut().and_then(|process| process.try_wait().transpose()) {
                bail!("a replica of the hub ended: {}", ended?);
            }
            let answer = match self.kubeconfig().exists() {
                true => self.admin().await?.replicas().await.map(drop),
                false => Err(anyhow::anyhow!("it has not written its kubeconfig")),
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("a replica of the hub does not answer"));
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Its input ends, which it takes for a request to stop.
    async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        drop(process.stdin.take());
        if tokio::time::timeout(STOP_MAX, process.wait()).await.is_err() {
            tracing::warn!(url = self.url, "a replica did not stop in time");
        }
    }
}

/// Where a replica listens: as before in a directory that was used before.
fn addresses(dir: &Path) -> anyhow::Result<[String; 2]> {
    let path = dir.join(ADDRESSES);
    if let Ok(text) = std::fs::read_to_string(&path)
        && let Some((one, other)) = text.trim().split_once(' ')
    {
        return Ok([one.to_owned(), other.to_owned()]);
    }
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free");
    // Both are held until both are known.
    let listeners = [free()?, free()?];
    let [one, other] = [listeners[0].local_addr()?, listeners[1].local_addr()?].map(|address| address.to_string());
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    std::fs::write(&path, format!("{one} {other}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    Ok([one, other])
}
