//! Three etcd members over TLS, as their own guide has them: nothing about fsync, snapshots or timing is changed.

use std::{fs, path::Path, process::Stdio, sync::Arc};

use anyhow::Context;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio::process::Command;
use tonic::transport::Channel;

use super::client::{
    Client, connect,
    etcd::{StatusRequest, kv_client::KvClient, maintenance_client::MaintenanceClient},
};
use crate::cli::bench::{
    hub::{SOON, free_port},
    process::{Process, Usage, until},
};

const HOST: &str = "127.0.0.1";
const NAMES: [&str; 3] = ["etcd-1", "etcd-2", "etcd-3"];

pub struct Etcd {
    members: Vec<(String, Process)>,
    authority: CertificateDer<'static>,
}

impl Etcd {
    pub async fn start(programs: &Path, directory: &Path) -> anyhow::Result<Self> {
        let server = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let (certificate, key) = (directory.join("etcd.crt"), directory.join("etcd.key"));
        fs::write(&certificate, server.cert.pem())?;
        fs::write(&key, server.signing_key.serialize_pem())?;
        let mut places = vec![];
        for name in NAMES {
            places.push((name, format!("https://{HOST}:{}", free_port()?), format!("{HOST}:{}", free_port()?)));
        }
        let cluster: Vec<_> = places.iter().map(|(name, peer, _)| format!("{name}={peer}")).collect();
        let mut members = vec![];
        for (name, peer, client) in places {
            let url = format!("https://{client}");
            let mut command = Command::new(programs.join("etcd"));
            command.args(["--name", name, "--initial-cluster", &cluster.join(","), "--log-level", "error"]);
            command.arg("--data-dir").arg(directory.join(name));
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--peer-auto-tls"]);
            command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
            command.arg("--cert-file").arg(&certificate).arg("--key-file").arg(&key);
            // A million updates of 1 KiB are more than it takes unasked.
            command.args(["--quota-backend-bytes", "8589934592"]).stdout(Stdio::null());
            members.push((client, Process::spawn(name, directory, &mut command)?));
        }
        let etcd = Self { members, authority: server.cert.der().clone() };
        until("etcd to have a leader", SOON, async || Ok(etcd.leader().await.is_ok())).await?;
        Ok(etcd)
    }

    /// The address of the member that leads.
    pub async fn leader(&self) -> anyhow::Result<String> {
        for (address, _) in &self.members {
            let mut client = MaintenanceClient::new(self.connect(address).await?);
            let status = client.status(StatusRequest {}).await?.into_inner();
            let member = status.header.context("a status without a header")?.member_id;
            if status.leader == member {
                return Ok(address.clone());
            }
        }
        anyhow::bail!("no member of etcd leads")
    }

    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|(address, _)| address.as_str())
    }

    pub async fn connect(&self, address: &str) -> anyhow::Result<Channel> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        connect(address, HOST, builder.with_root_certificates(roots).with_no_client_auth()).await
    }

    /// So many connections to the member that leads.
    pub async fn clients(&self, connections: usize) -> anyhow::Result<Vec<Client>> {
        let leader = self.leader().await?;
        let mut clients = vec![];
        for _ in 0..connections {
            clients.push(Client::Etcd(KvClient::new(self.connect(&leader).await?)));
        }
        Ok(clients)
    }

    /// Of all three together.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.members.iter().try_fold(Usage::default(), |sum, (_, process)| Ok(sum + process.usage()?))
    }
}
