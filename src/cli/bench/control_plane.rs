//! A real control plane for measurements: kube-apiserver, kube-controller-manager and kube-scheduler on a shared etcd,
//! with kwok for its nodes. Leaner than e2e's: one token is all its security, and it ends with its value.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use kube::Client;
use rcgen::KeyPair;
use serde_json::json;
use tokio::process::Command;

use super::{
    hub::{SOON, client, create, free_port},
    process::{Process, until},
};

const NODES: usize = 10;
const NODE_PODS: usize = 300;
/// Enough for Deployments to run and for namespaces to have their ServiceAccounts.
const CONTROLLERS: &str = "namespace-controller,garbage-collector-controller,serviceaccount-controller,\
    deployment-controller,replicaset-controller,pod-garbage-collector-controller,root-ca-certificate-publisher-controller";

pub struct ControlPlane {
    pub kubeconfig: PathBuf,
    pub client: Client,
    // In this order: what needs the API server goes first.
    parts: Vec<Process>,
}

impl ControlPlane {
    /// The etcd that control planes share, and its URL.
    pub async fn start_etcd(programs: &Path, directory: &Path) -> anyhow::Result<Etcd> {
        let url = format!("http://127.0.0.1:{}", free_port()?);
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        let mut command = Command::new(programs.join("etcd"));
        command.arg("--data-dir").arg(directory.join("etcd-data"));
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"]);
        command.args(["--quota-backend-bytes", "2147483648"]).stdout(Stdio::null());
        Ok(Etcd { process: Process::spawn("etcd", directory, &mut command)?, url })
    }

    pub async fn start(programs: &Path, directory: &Path, etcd: &Etcd, number: usize) -> anyhow::Result<Self> {
        let port = free_port()?;
        let token = uuid::Uuid::new_v4().simple().to_string();
        let tokens = directory.join("tokens.csv");
        fs::write(&tokens, format!("{token},admin,admin,system:masters\n"))?;
        // ServiceAccount tokens are signed with it.
        let accounts = KeyPair::generate()?;
        let (key, public) = (directory.join("accounts.key"), directory.join("accounts.pub"));
        fs::write(&key, accounts.serialize_pem())?;
        fs::write(&public, accounts.public_key_pem())?;
        let server = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let (certificate, key_of_server) = (directory.join("server.crt"), directory.join("server.key"));
        fs::write(&certificate, server.cert.pem())?;
        fs::write(&key_of_server, server.signing_key.serialize_pem())?;
        let kubeconfig = directory.join("kubeconfig");
        fs::write(&kubeconfig, self::kubeconfig(port, &certificate, &token).to_string())?;

        let spawn = |name: &'static str, flags: Vec<String>| {
            let mut command = Command::new(programs.join(name));
            // kwok reads a configuration from home when there is one.
            command.args(flags).env("HOME", directory).stdout(Stdio::null());
            Process::spawn(name, directory, &mut command)
        };
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let server = [
            format!("--etcd-servers={}", etcd.url),
            format!("--etcd-prefix=/member-{number}"),
            format!("--secure-port={port}"),
            flag("tls-cert-file", &certificate),
            flag("tls-private-key-file", &key_of_server),
            flag("token-auth-file", &tokens),
            flag("service-account-key-file", &public),
            flag("service-account-signing-key-file", &key),
        ];
        let fixed = [
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            // Without the node-lifecycle controller nobody would take the not-ready taint off again.
            "--disable-admission-plugins=TaintNodesByCondition",
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
        ];
        let server = spawn("kube-apiserver", fixed.map(str::to_owned).into_iter().chain(server).collect())?;
        let client = client(&kubeconfig).await?;
        let ready = http::Request::get("/readyz").body(vec![])?;
        let answers = async || Ok(client.request_text(ready.clone()).await.is_ok());
        until("a control plane to be ready", SOON, answers).await?;

        let here = flag("kubeconfig", &kubeconfig);
        let off = ["--leader-elect=false", "--secure-port=0"].map(str::to_owned);
        let manager = [
            here.clone(),
            flag("service-account-private-key-file", &key),
            format!("--controllers={CONTROLLERS}"),
            "--kube-api-qps=500".into(),
            "--kube-api-burst=1000".into(),
        ];
        let stages = flag("config", &programs.join("kwok-stages.yaml"));
        let kwok =
            [&here, "--manage-all-nodes=true", &stages, "--node-ip=127.0.0.1", "--node-lease-duration-seconds=0"];
        let parts = vec![
            spawn("kube-controller-manager", manager.into_iter().chain(off.clone()).collect())?,
            spawn("kube-scheduler", [here.clone()].into_iter().chain(off).collect())?,
            spawn("kwok", kwok.map(str::to_owned).into())?,
            server,
        ];
        let plane = Self { kubeconfig, client, parts };
        plane.add_nodes().await?;
        Ok(plane)
    }

    /// Keeps the etcd running for as long as this control plane does.
    pub fn keep(&mut self, etcd: Etcd) {
        self.parts.push(etcd.process);
    }

    async fn add_nodes(&self) -> anyhow::Result<()> {
        for number in 0..NODES {
            let name = format!("node-{number}");
            let capacity = json!({ "cpu": "64", "memory": "256Gi", "pods": NODE_PODS.to_string() });
            let node = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" } },
                "status": { "capacity": capacity, "allocatable": capacity },
            });
            create(&self.client, "/api/v1/nodes", &node).await?;
        }
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "bench" } });
        create(&self.client, "/api/v1/namespaces", &namespace).await?;
        // Without its default ServiceAccount no pod is admitted to it.
        let account = http::Request::get("/api/v1/namespaces/bench/serviceaccounts/default").body(vec![])?;
        let there = async || Ok(self.client.request_text(account.clone()).await.is_ok());
        until("the default ServiceAccount", Duration::from_secs(60), there).await
    }
}

pub struct Etcd {
    process: Process,
    url: String,
}

fn kubeconfig(port: u16, certificate: &Path, token: &str) -> serde_json::Value {
    let cluster = json!({ "server": format!("https://127.0.0.1:{port}"), "certificate-authority": certificate });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "member", "cluster": cluster }],
        "users": [{ "name": "admin", "user": { "token": token } }],
        "contexts": [{ "name": "member", "context": { "cluster": "member", "user": "admin" } }],
        "current-context": "member",
    })
}
