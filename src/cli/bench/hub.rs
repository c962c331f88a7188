//! A hub of its own for one measurement, and the calls that a client makes on it.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use super::process::{Process, Usage, until};
use crate::{
    agent::join::Token,
    hub::pki::Pki,
    model::{Digest, Timestamp},
};

pub const SOON: Duration = Duration::from_secs(120);
const APPLICATIONS: &str = "/apis/core.oam.dev/v1beta1";
const HUB: &str = "/apis/hub.hanse.dev/v1alpha1";

pub struct Hub {
    pub url: String,
    process: Process,
    data: PathBuf,
    client: Client,
    address: String,
    peer_address: String,
}

fn spawn(directory: &Path, data: &Path, address: &str, peer_address: &str) -> anyhow::Result<Process> {
    let data = data.to_str().context("a directory's name that is not UTF-8")?;
    let arguments = ["hub", "--dir", data, "--listen", address, "--peer-listen", peer_address];
    Process::start("hub", directory, &arguments)
}

impl Hub {
    /// Starts one in a process of its own, with an empty store under `directory`, and waits until it is ready.
    pub async fn start(directory: &Path) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        // The same after a restart, or the hub would have to write down where it is now.
        let peer_address = format!("127.0.0.1:{}", free_port()?);
        let data = directory.join("hub");
        let process = spawn(directory, &data, &address, &peer_address)?;
        let kubeconfig = data.join("admin.kubeconfig");
        until("the hub's kubeconfig", SOON, async || Ok(kubeconfig.try_exists()?)).await?;
        let client = client(&kubeconfig).await?;
        let hub = Self { url: format!("https://{address}"), process, data, client, address, peer_address };
        hub.wait_until_it_answers().await?;
        Ok(hub)
    }

    /// Ends it as a loss of power would, but for the disk.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.process.child.kill().await?)
    }

    /// Starts it with the store that it left.
    pub fn begin_again(&mut self, directory: &Path) -> anyhow::Result<()> {
        let logs = directory.join("again");
        std::fs::create_dir_all(&logs)?;
        self.process = spawn(&logs, &self.data, &self.address, &self.peer_address)?;
        Ok(())
    }

    /// Until a read is answered over HTTPS.
    pub async fn wait_until_it_answers(&self) -> anyhow::Result<()> {
        const PAUSE: Duration = Duration::from_millis(5);
        let begin = Instant::now();
        while let Err(error) = self.revision().await {
            if begin.elapsed() > SOON {
                return Err(error.context("the hub does not answer"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Bytes under the hub's directory.
    pub fn disk_bytes(&self) -> anyhow::Result<u64> {
        let mut open = vec![self.data.clone()];
        let mut bytes = 0;
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory)? {
                let entry = entry?;
                // A file may go between the listing and the look: compaction does that.
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => open.push(entry.path()),
                    Ok(metadata) => bytes += metadata.len(),
                    Err(_) => {}
                }
            }
        }
        Ok(bytes)
    }

    /// A token for each name, good for joining at once.
    pub async fn invite(&self, names: impl Iterator<Item = String>) -> anyhow::Result<Vec<String>> {
        let now = Timestamp(jiff::Timestamp::now());
        let pin = Pki::open(&self.data.join("pki"), now)?.pin();
        let mut tokens = vec![];
        for name in names {
            let secret = uuid::Uuid::new_v4().simple().to_string();
            let spec = json!({
                "secretDigest": Digest::of(secret.as_bytes()),
                "cluster": name,
                "autoApprove": true,
                "expiresAt": now.plus_seconds(3600),
            });
            let token = json!({ "apiVersion": "hub.hanse.dev/v1alpha1", "kind": "JoinToken", "metadata": { "name": name }, "spec": spec });
            create(&self.client, &format!("{HUB}/jointokens"), &token).await?;
            tokens.push(Token::new(&name, &secret, pin).reveal());
        }
        Ok(tokens)
    }

    /// Waits until that many clusters are ready.
    pub async fn wait_for_clusters(&self, count: usize) -> anyhow::Result<()> {
        until("all clusters to be ready", SOON, async || {
            let list = get(&self.client, &format!("{HUB}/clusters")).await?;
            let ready = |cluster: &&Value| {
                cluster["status"]["conditions"].as_array().is_some_and(|conditions| {
                    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
                })
            };
            Ok(list["items"].as_array().is_some_and(|items| items.iter().filter(ready).count() == count))
        })
        .await
    }

    pub async fn make_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        create(&self.client, "/api/v1/namespaces", &namespace).await
    }

    /// Until `count` Applications run, as their status says. Lists only when nothing was written for a while: whoever
    /// polls lists measures the lists.
    pub async fn wait_for_running(&self, namespace: &str, count: usize, within: Duration) -> anyhow::Result<()> {
        const QUIET: Duration = Duration::from_secs(2);
        let running = format!("{}?fieldSelector=status.status%3Drunning", applications(namespace));
        let mut known = (self.revision().await?, Instant::now());
        until("all applications to run", within, async || {
            let revision = self.revision().await?;
            if revision != known.0 {
                known = (revision, Instant::now());
            }
            if known.1.elapsed() < QUIET {
                return Ok(false);
            }
            known.1 = Instant::now();
            let found = get(&self.client, &running).await?["items"].as_array().map_or(0, Vec::len);
            Ok(found >= count)
        })
        .await
    }

    /// The store's revision: it goes up by one for each write.
    pub async fn revision(&self) -> anyhow::Result<u64> {
        let list = get(&self.client, "/api/v1/namespaces?limit=1").await?;
        let revision = list["metadata"]["resourceVersion"].as_str().context("a list without resourceVersion")?;
        Ok(revision.parse()?)
    }
}

pub fn applications(namespace: &str) -> String {
    format!("{APPLICATIONS}/namespaces/{namespace}/applications")
}

/// One web server of one replica, wherever `policies` say.
pub fn application(name: &str, policies: &Value) -> Value {
    let properties =
        json!({ "image": "nginx:1.29", "cpu": "10m", "memory": "16Mi", "env": [{ "name": "MODE", "value": "bench" }] });
    json!({
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": { "name": name },
        "spec": { "components": [{ "name": name, "type": "webservice", "properties": properties }], "policies": policies },
    })
}

/// In every cluster.
pub fn everywhere() -> Value {
    json!([{ "name": "all", "type": "topology", "properties": { "clusterLabelSelector": {} } }])
}

pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

pub async fn config(kubeconfig: &Path) -> anyhow::Result<kube::Config> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    Ok(kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)
}

pub async fn create(client: &Client, path: &str, object: &Value) -> anyhow::Result<()> {
    let request =
        http::Request::post(path).header("content-type", "application/json").body(serde_json::to_vec(object)?)?;
    client.request::<Value>(request).await.map(drop).with_context(|| format!("cannot create in {path}"))
}

pub async fn get(client: &Client, path: &str) -> anyhow::Result<Value> {
    let request = http::Request::get(path).body(vec![])?;
    client.request(request).await.with_context(|| format!("cannot get {path}"))
}

/// Runs `call` for every number below `count`, so many at a time.
pub async fn each<Call, Future>(count: usize, at_once: usize, call: Call) -> anyhow::Result<()>
where
    Call: Fn(usize) -> Future + Send + Sync + 'static,
    Future: std::future::Future<Output = anyhow::Result<()>> + Send,
{
    let call = Arc::new(call);
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::<anyhow::Result<()>>::new();
    for _ in 0..at_once {
        let (call, next) = (call.clone(), next.clone());
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                call(number).await?;
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.map_err(|error| anyhow!("a worker panicked: {error}"))??;
    }
    Ok(())
}

/// Free a moment ago; the hub takes it at once.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
