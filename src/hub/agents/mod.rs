//! Agents: their streams, who may open one, and which of several acts.
//!
//! Owns: the gRPC service for authenticated agents. Must never: decide what a cluster is to run (that is control's), or
//! let one identity see or touch what is another's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use self::{
    claims::{Claim, Claims, SessionId, Verdict},
    roster::{FROZEN, Member, Roster},
    stream::{Mail, Stream},
};
use super::{
    control,
    feed::{self, Feed},
    keys,
    listen::{AgentPeer, Peer},
    slices::Slices,
};
use crate::{
    kinds,
    model::{Now, Timestamp, Uid, protocol::Refuse},
    store::{self, Compare, Entry, Key, List, Operation, Outcome, Revision, Store, Transaction, object},
    wire::{
        limits,
        proto::{self, agents_server::AgentsServer},
    },
};

pub mod claims;
mod pace;
pub mod resume;
pub mod roster;
pub mod session;
mod stream;

/// How often contests are looked at.
const CONTEST_TICK: Duration = Duration::from_secs(1);
const ATTEMPTS_MAX: usize = 8;

#[derive(Clone)]
pub struct Config {
    pub hub: Uid,
    /// For resume tokens; kept outside the store, so that a restored store does not bring it.
    pub resume_key: Arc<[u8]>,
    pub store: Arc<dyn Store>,
    pub slices: Slices,
    pub control: control::Handle,
    /// Ends all streams.
    pub stop: CancellationToken,
}

/// A shared handle; cheap to clone.
#[derive(Clone)]
pub struct Agents(Arc<Shared>);

struct Shared {
    config: Config,
    started: Instant,
    desk: Mutex<Desk>,
}

/// Everything that sessions share. Held for moments, never across an await.
#[derive(Default)]
struct Desk {
    roster: Roster,
    claims: Claims,
    sessions: BTreeMap<SessionId, Listed>,
    last_session: SessionId,
}

struct Listed {
    cluster: Uid,
    mailbox: mpsc::UnboundedSender<Mail>,
}

impl Agents {
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Shared { config, started: Instant::now(), desk: Mutex::default() }))
    }

    /// Follows the stored Clusters until the store is closed or the hub stops. Without it nobody is admitted.
    pub async fn run(&self) -> Result<(), store::Error> {
        let mut clusters = feed::follow(self.0.config.store.clone(), "/hanse/hub.hanse.dev/clusters/");
        let mut ticks = tokio::time::interval(CONTEST_TICK);
        loop {
            tokio::select! {
                () = self.0.config.stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {
                    let verdicts = self.0.desk.lock().claims.tick(self.now().monotonic_ms);
                    self.tell(verdicts);
                }
                feed = clusters.next() => match feed {
                    Some(feed) => self.follow(&feed?),
                    None => return Ok(()),
                },
            }
        }
    }

    pub fn service(&self) -> AgentsServer<Self> {
        AgentsServer::new(self.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::MESSAGE_BYTES_MAX)
    }

    /// The stored Cluster of this uid, read from the store where the roster lags behind it.
    pub async fn cluster(&self, cluster: &Uid) -> Result<Option<Entry>, store::Error> {
        let known = self.0.desk.lock().roster.get(cluster).map(|(_, member)| member.name.clone());
        let store = &self.0.config.store;
        let is_it = |entry: &Entry| roster::read(entry).is_some_and(|member| member.uid == *cluster);
        if let Some(name) = known
            && let Some(entry) = store.get(&keys::key(&kinds::CLUSTER, "", &name)).await?.filter(is_it)
        {
            return Ok(Some(entry));
        }
        let prefix = keys::prefix(&kinds::CLUSTER, None);
        let page = store.list(List { prefix, after: None, limit: 0, at: None }).await?;
        Ok(page.entries.into_iter().find(is_it))
    }

    /// Names of clusters whose `kube-system` namespace has this uid, as far as the roster knows.
    pub fn named_by_system_uid(&self, system_uid: &str) -> Vec<String> {
        self.0.desk.lock().roster.named_by_system_uid(system_uid)
    }

    fn now(&self) -> Now {
        let monotonic_ms = self.0.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        Now { wall: Timestamp(jiff::Timestamp::now()), monotonic_ms }
    }

    /// Sessions hear of their cluster's change at once: revocation ends open streams.
    fn follow(&self, feed: &Feed) {
        let mut desk = self.0.desk.lock();
        for cluster in desk.roster.apply(feed) {
            let member = desk.roster.get(&cluster);
            for listed in desk.sessions.values().filter(|listed| listed.cluster == cluster) {
                let _ = listed.mailbox.send(Mail::Member(member.clone()));
            }
        }
    }

    /// Who the certificate says it is, as the store has it.
    async fn member(&self, peer: &AgentPeer) -> Result<(Revision, Arc<Member>), Refuse> {
        let known = self.0.desk.lock().roster.get(&peer.cluster);
        if let Some((revision, member)) = known
            && member.admits(&peer.key_fingerprint).is_ok()
        {
            return Ok((revision, member));
        }
        // The roster may be a moment behind a certificate that was signed just now.
        match self.cluster(&peer.cluster).await {
            Ok(Some(entry)) => match roster::read(&entry) {
                Some(member) => Ok((entry.modified, Arc::new(member))),
                None => Err(roster::unknown(&peer.cluster)),
            },
            Ok(None) => Err(roster::unknown(&peer.cluster)),
            Err(error) => {
                error!(%error, "the store cannot be read");
                Err(Refuse {
                    reason: "Unavailable".into(),
                    message: "the hub cannot use its store".into(),
                    retry: true,
                })
            }
        }
    }

    fn enter(&self, cluster: &Uid, mailbox: mpsc::UnboundedSender<Mail>) -> SessionId {
        let mut desk = self.0.desk.lock();
        desk.last_session += 1;
        let id = desk.last_session;
        desk.sessions.insert(id, Listed { cluster: cluster.clone(), mailbox });
        id
    }

    fn claim(&self, cluster: &Uid, claim: Claim) {
        let verdicts = self.0.desk.lock().claims.claim(self.now().monotonic_ms, cluster, claim);
        self.tell(verdicts);
    }

    fn heard(&self, cluster: &Uid, session: SessionId) {
        let verdicts = self.0.desk.lock().claims.heard(self.now().monotonic_ms, cluster, session);
        self.tell(verdicts);
    }

    fn leave(&self, cluster: &Uid, session: SessionId) {
        let mut desk = self.0.desk.lock();
        desk.sessions.remove(&session);
        let verdicts = desk.claims.closed(cluster, session);
        drop(desk);
        self.tell(verdicts);
    }

    fn tell(&self, verdicts: Vec<Verdict>) {
        for verdict in verdicts {
            match verdict {
                Verdict::Admitted(session) => self.mail(session, Mail::Admitted),
                Verdict::Superseded(session) => {
                    let message = "another stream of the same agent acts instead".into();
                    let refuse = Refuse { reason: "Superseded".into(), message, retry: true };
                    self.mail(session, Mail::Refused(refuse));
                }
                Verdict::Frozen { holder, challenger } => {
                    let cluster = self.0.desk.lock().sessions.get(&holder).map(|listed| listed.cluster.clone());
                    let message =
                        "two agents used this identity at once; a person decides which one goes on".to_owned();
                    for session in [holder, challenger] {
                        let refuse = Refuse { reason: "IdentityFrozen".into(), message: message.clone(), retry: true };
                        self.mail(session, Mail::Refused(refuse));
                    }
                    if let Some(cluster) = cluster {
                        warn!(%cluster, "two holders of one identity: frozen");
                        let agents = self.clone();
                        tokio::spawn(async move { agents.freeze(&cluster, message).await });
                    }
                }
            }
        }
    }

    fn mail(&self, session: SessionId, mail: Mail) {
        if let Some(listed) = self.0.desk.lock().sessions.get(&session) {
            let _ = listed.mailbox.send(mail);
        }
    }

    async fn freeze(&self, cluster: &Uid, message: String) {
        let at = self.now().wall;
        let written = self
            .patch(cluster, |object| {
                let Some(annotations) = object::annotations_mut(object) else { return false };
                annotations.insert(FROZEN.into(), at.to_string().into()).is_none()
            })
            .await;
        if let Err(error) = written {
            error!(%error, %cluster, "a frozen identity could not be recorded");
        }
        let frozen = control::FromAgent::Frozen { cluster: cluster.clone(), message };
        let _ = self.0.config.control.agents.send(frozen).await;
    }

    /// The new key was used: the one before it is void from now on, whoever has a copy.
    async fn retire_previous_key(&self, cluster: &Uid, key: &str) {
        let written = self
            .patch(cluster, |object| {
                let Some(certificate) = object.pointer_mut("/status/certificate").and_then(|c| c.as_object_mut())
                else {
                    return false;
                };
                let is_current = certificate.get("keyFingerprint").and_then(|key| key.as_str()) == Some(key);
                is_current && certificate.remove("previousKeyFingerprint").is_some()
            })
            .await;
        match written {
            Ok(()) => info!(%cluster, "the key before the last renewal is void"),
            Err(error) => error!(%error, %cluster, "the key before the last renewal could not be retired"),
        }
    }

    /// Writes what `change` made of the stored Cluster, where it says that it changed something.
    async fn patch(&self, cluster: &Uid, change: impl Fn(&mut serde_json::Value) -> bool) -> Result<(), store::Error> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(entry) = self.cluster(cluster).await? else { return Ok(()) };
            let Ok(mut object) = object::decode(&entry.value) else { return Ok(()) };
            if !change(&mut object) {
                return Ok(());
            }
            let key: Key = entry.key.clone();
            let transaction = Transaction {
                compares: vec![Compare::Modified(key.clone(), entry.modified)],
                operations: vec![Operation::Put(key, object::encode(&object))],
            };
            if let Outcome::Committed(_) = self.0.config.store.commit(transaction).await? {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl proto::agents_server::Agents for Agents {
    type SessionStream = tokio_stream::wrappers::ReceiverStream<Result<proto::ToAgent, Status>>;

    async fn session(
        &self,
        request: Request<tonic::Streaming<proto::ToHub>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = match request.extensions().get::<Peer>() {
            Some(Peer::Agent(peer)) => peer.clone(),
            Some(Peer::Person(person)) => {
                let message = format!("the certificate of a person ({}) opens no agent's stream", person.user);
                return Err(Status::permission_denied(message));
            }
            Some(Peer::Anonymous) | None => {
                return Err(Status::permission_denied("an agent's certificate is needed; join first"));
            }
        };
        if let Some(end) = peer.expired {
            let now = self.now().wall;
            return Err(Status::unauthenticated(format!(
                "the agent's certificate ended at {end}, the hub's clock says {now}: it may do nothing but renew"
            )));
        }
        if !self.0.desk.lock().roster.is_synced() || self.0.config.slices.revision() == 0 {
            return Err(Status::unavailable("the hub is starting; try again"));
        }
        if self.0.config.stop.is_cancelled() {
            return Err(Status::unavailable("the hub is stopping; try again"));
        }
        let (outbox, messages) = mpsc::channel(stream::OUTBOX_MAX);
        tokio::spawn(Stream::serve(self.clone(), peer, request.into_inner(), outbox));
        Ok(Response::new(messages.into()))
    }
}
