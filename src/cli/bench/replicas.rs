//! Three replicas of one hub, each a process of this very program, as an operator would start them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use kube::Client as Rest;
use serde_json::json;
use tonic::transport::Channel;

use super::{
    hub::{SOON, client, config, create, free_port},
    process::{Process, Usage, until},
    proxy::{Net, Proxy},
    store::client::{Client, connect},
};
use crate::{
    hub::{
        peers::{
            joining::Invitation,
            members::Belonging,
            proto::{StatusReply, StatusRequest, peers_client::PeersClient},
            tls::Tls,
        },
        pki::Pki,
    },
    kinds::JOIN_TOKEN,
    model::Timestamp,
    store::raft::ReplicaId,
};

const COUNT: usize = 3;
/// Whom the bench's own connections are of. A replica's certificate is what the port for peers asks for, and this is the
/// number of none of them.
const VISITOR: ReplicaId = 1_000_000;
const NAMES: [&str; COUNT] = ["replica-1", "replica-2", "replica-3"];
/// What TLS is told; replicas are known by their number, not by this.
const HOST: &str = "replica.hanse.internal";

pub struct Replicas {
    pub members: Vec<Member>,
    directory: PathBuf,
    tls: Tls,
}

pub struct Member {
    pub id: ReplicaId,
    /// Where it listens for peers, past any proxy.
    pub address: String,
    pub process: Process,
    data: PathBuf,
    arguments: Vec<String>,
    starts: usize,
}

impl Replicas {
    /// Starts them and waits until all three vote. With a net they reach each other through it alone.
    pub async fn start(directory: &std::path::Path, net: Option<&Arc<Net>>) -> anyhow::Result<Self> {
        let mut members: Vec<Member> = vec![];
        let mut first = None;
        for (index, name) in NAMES.into_iter().enumerate() {
            let (listen, address) = (free_port()?, format!("127.0.0.1:{}", free_port()?));
            let data = directory.join(name);
            let path = data.to_str().context("a directory's name that is not UTF-8")?;
            let listen = format!("127.0.0.1:{listen}");
            let advertised = match net {
                Some(net) => Proxy::open(net.clone(), index, address.clone()).await?,
                None => address.clone(),
            };
            let arguments: Vec<String> =
                ["hub", "--dir", path, "--listen", &listen, "--peer-listen", &address, "--peer-advertise", &advertised]
                    .map(str::to_owned)
                    .into();
            let mut joining = arguments.clone();
            if let Some((rest, pki)) = &first {
                let token = invite(rest, pki, name, &members[0].address).await?;
                joining.extend(["--join".to_owned(), token]);
            }
            let process = Process::start(name, directory, &strings(&joining))?;
            if let Some(net) = net {
                net.name(index, process.pid());
            }
            // The number that it was given: that of who joined before it, and one more.
            let joined = async || Ok(Belonging::read(&data)?.is_some());
            until("the replica to have a number", SOON, joined).await?;
            let id = index as ReplicaId + 1;
            members.push(Member { id, address, process, data, arguments, starts: 1 });
            if first.is_none() {
                let member = &members[0];
                let kubeconfig = member.data.join("admin.kubeconfig");
                until("the hub's kubeconfig", SOON, async || Ok(kubeconfig.try_exists()?)).await?;
                let rest = client(&kubeconfig).await?;
                let ready = http::Request::get("/readyz").body(vec![])?;
                until("the hub to be ready", SOON, async || Ok(rest.request_text(ready.clone()).await.is_ok())).await?;
                first = Some((rest, Pki::open(&member.data.join("pki"), Timestamp(jiff::Timestamp::now()))?));
            }
        }
        let (_, pki) = first.context("no replica was started")?;
        let belonging = Belonging::read(&members[0].data)?.context("the first replica wrote no replica.json")?;
        let tls = Tls::new(Arc::new(pki), &belonging.hub, VISITOR, Timestamp(jiff::Timestamp::now()))?;
        let replicas = Self { members, directory: directory.to_owned(), tls };
        replicas.wait_until_whole().await?;
        Ok(replicas)
    }

    pub async fn connect(&self, index: usize) -> anyhow::Result<Channel> {
        let member = &self.members[index];
        connect(&member.address, HOST, self.tls.client(member.id)?).await
    }

    pub async fn client(&self, index: usize) -> anyhow::Result<Client> {
        Ok(Client::Hanse(PeersClient::new(self.connect(index).await?)))
    }

    /// So many connections to the replica that leads.
    pub async fn clients(&self, connections: usize) -> anyhow::Result<Vec<Client>> {
        let leader = self.leader().await?;
        let mut clients = vec![];
        for _ in 0..connections {
            clients.push(self.client(leader).await?);
        }
        Ok(clients)
    }

    async fn status(&self, index: usize) -> anyhow::Result<StatusReply> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let ask = async {
            let mut client = PeersClient::new(self.connect(index).await?);
            anyhow::Ok(client.status(StatusRequest {}).await?.into_inner())
        };
        tokio::time::timeout(PATIENCE, ask).await.context("no status in time")?
    }

    pub async fn leader(&self) -> anyhow::Result<usize> {
        for index in 0..self.members.len() {
            if self.status(index).await.is_ok_and(|status| status.leads) {
                return Ok(index);
            }
        }
        bail!("no replica leads")
    }

    /// All three vote, answer, and have all that the leader has.
    pub async fn wait_until_whole(&self) -> anyhow::Result<()> {
        const LAG_MAX: u64 = 1000;
        until("the replicas to be whole", SOON, async || {
            let Ok(leader) = self.leader().await else { return Ok(false) };
            let Ok(status) = self.status(leader).await else { return Ok(false) };
            let well = |member: &crate::hub::peers::proto::Member| {
                let near = member.id == status.id || member.matched.is_some_and(|at| at + LAG_MAX > status.committed);
                !member.learner && near && (member.id == status.id || member.active == Some(true))
            };
            Ok(status.members.len() == COUNT && status.members.iter().all(well))
        })
        .await
    }

    /// Starts it again in its directory, as it was started first, after it has ended.
    pub async fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        let member = &mut self.members[index];
        member.process.child.wait().await?;
        member.starts += 1;
        let logs = self.directory.join(format!("start-{}", member.starts));
        std::fs::create_dir_all(&logs)?;
        member.process = Process::start(NAMES[index], &logs, &strings(&member.arguments))?;
        Ok(())
    }

    /// Of all three together.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.members.iter().try_fold(Usage::default(), |sum, member| Ok(sum + member.process.usage()?))
    }

    /// The REST API of one of them, as its admin.
    pub async fn rest(&self, index: usize) -> anyhow::Result<Rest> {
        Ok(Rest::try_from(self.rest_config(index).await?)?)
    }

    pub async fn rest_config(&self, index: usize) -> anyhow::Result<kube::Config> {
        config(&self.members[index].data.join("admin.kubeconfig")).await
    }
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A token with which one replica may join.
async fn invite(rest: &Rest, pki: &Pki, name: &str, peer: &str) -> anyhow::Result<String> {
    let secret = uuid::Uuid::new_v4().simple().to_string();
    let invitation = Invitation::new(name, &secret, pki.peers.pin(), vec![peer.to_owned()]);
    let expires_at = Timestamp(jiff::Timestamp::now()).plus_seconds(3600);
    let token = json!({
        "apiVersion": JOIN_TOKEN.gvk.api_version(),
        "kind": JOIN_TOKEN.gvk.kind,
        "metadata": { "name": name },
        "spec": { "secretDigest": invitation.secret_digest(), "expiresAt": expires_at, "replica": true },
    });
    create(rest, "/apis/hub.hanse.dev/v1alpha1/jointokens", &token).await?;
    Ok(invitation.reveal())
}
