//! Agents: their streams, who may open one, and which of several acts.
//!
//! Owns: the gRPC service for authenticated agents. Must never: decide what a cluster is to run (that is control's), or
//! let one identity see or touch what is another's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{debug, error, info, warn};

use self::{
    roster::{Member, Roster},
    stream::{Mail, Stream},
};
use super::{
    desk::{Post, outpost},
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
        Ruling, limits,
        proto::{self, agents_server::AgentsServer},
    },
};

pub mod claims;
mod pace;
pub mod resume;
pub mod roster;
pub mod session;
mod stream;

const ATTEMPTS_MAX: usize = 8;
/// How long an agent waits for this replica to be as far as the others are; then it may find another one faster.
pub const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);
const CATCH_UP_POLL: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub struct Config {
    pub hub: Uid,
    /// For resume tokens; kept outside the store, so that a restored store does not bring it.
    pub resume_key: Arc<[u8]>,
    pub store: Arc<dyn Store>,
    pub slices: Slices,
    /// To the leader.
    pub post: Post,
    /// Where agents may connect: every replica.
    pub urls: watch::Receiver<Vec<String>>,
    /// Ends all streams.
    pub stop: CancellationToken,
}

/// A shared handle; cheap to clone.
#[derive(Clone)]
pub struct Agents(Arc<Shared>);

struct Shared {
    config: Config,
    started: Instant,
    board: Mutex<Board>,
}

/// Everything that sessions share. Held for moments, never across an await.
#[derive(Default)]
struct Board {
    roster: Roster,
    sessions: BTreeMap<u64, Listed>,
    last_session: u64,
}

struct Listed {
    cluster: Uid,
    mailbox: mpsc::UnboundedSender<Mail>,
}

impl Agents {
    pub fn new(config: Config) -> Self {
        // Counted from the time, so that a number of an earlier life of this replica does not come again.
        let last_session = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or_default();
        let board = Board { last_session, ..Board::default() };
        Self(Arc::new(Shared { config, started: Instant::now(), board: Mutex::new(board) }))
    }

    /// Follows the stored Clusters and passes on what the leader rules, until the store is closed or the hub stops. Without
    /// it nobody is admitted.
    pub async fn run(&self, mut rulings: mpsc::UnboundedReceiver<(u64, Ruling)>) -> Result<(), store::Error> {
        let mut clusters = feed::follow(self.0.config.store.clone(), "/hanse/hub.hanse.dev/clusters/");
        let mut cut_off = self.0.config.post.cut_off();
        loop {
            tokio::select! {
                () = self.0.config.stop.cancelled() => return Ok(()),
                Some((session, ruling)) = rulings.recv() => self.rule(session, ruling),
                Ok(()) = cut_off.changed() => {
                    if *cut_off.borrow_and_update() {
                        warn!("no leader is heard of here: agents are asked to try another replica");
                        self.send_away();
                    }
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
        let known = self.0.board.lock().roster.get(cluster).map(|(_, member)| member.name.clone());
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
        self.0.board.lock().roster.named_by_system_uid(system_uid)
    }

    fn now(&self) -> Now {
        let monotonic_ms = self.0.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        Now { wall: Timestamp(jiff::Timestamp::now()), monotonic_ms }
    }

    /// Sessions hear of their cluster's change at once: revocation ends open streams.
    fn follow(&self, feed: &Feed) {
        let mut board = self.0.board.lock();
        for cluster in board.roster.apply(feed) {
            let member = board.roster.get(&cluster);
            for listed in board.sessions.values().filter(|listed| listed.cluster == cluster) {
                let _ = listed.mailbox.send(Mail::Member(member.clone()));
            }
        }
    }

    /// Who the certificate says it is, as the store has it.
    async fn member(&self, peer: &AgentPeer) -> Result<(Revision, Arc<Member>), Refuse> {
        let known = self.0.board.lock().roster.get(&peer.cluster);
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
                Err(refuse("Unavailable", "the hub cannot use its store"))
            }
        }
    }

    fn enter(&self, cluster: &Uid, mailbox: mpsc::UnboundedSender<Mail>) -> u64 {
        let mut board = self.0.board.lock();
        board.last_session += 1;
        let id = board.last_session;
        board.sessions.insert(id, Listed { cluster: cluster.clone(), mailbox });
        id
    }

    async fn leave(&self, session: u64) {
        self.0.board.lock().sessions.remove(&session);
        self.0.config.post.send(outpost::Event::Left { session }).await;
    }

    fn rule(&self, session: u64, ruling: Ruling) {
        if ruling == Ruling::Frozen {
            warn!(session, "two holders of one identity: frozen");
        }
        self.mail(session, refusal(ruling).map_or(Mail::Admitted, Mail::Refused));
    }

    /// When the works here are as the store is now: what an agent is sent is never older than what another replica has
    /// sent it before.
    async fn caught_up(&self) -> Mail {
        let config = &self.0.config;
        let reached = async {
            let revision = loop {
                match config.store.revision().await {
                    Ok(revision) => break revision,
                    Err(error) => debug!(%error, "an agent waits for the store"),
                }
                tokio::time::sleep(CATCH_UP_POLL).await;
            };
            while config.slices.revision() < revision {
                tokio::time::sleep(CATCH_UP_POLL).await;
            }
            revision
        };
        match tokio::time::timeout(CATCH_UP_TIMEOUT, reached).await {
            Ok(revision) => Mail::CaughtUp(revision),
            Err(_) => Mail::Refused(behind()),
        }
    }

    fn mail(&self, session: u64, mail: Mail) {
        if let Some(listed) = self.0.board.lock().sessions.get(&session) {
            let _ = listed.mailbox.send(mail);
        }
    }

    /// This replica hears of no leader, so what its agents say is lost on it: another one may do better.
    fn send_away(&self) {
        let board = self.0.board.lock();
        for listed in board.sessions.values() {
            let _ = listed.mailbox.send(Mail::Refused(cut_off()));
        }
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
        if !self.0.board.lock().roster.is_synced() || self.0.config.slices.revision() == 0 {
            return Err(Status::unavailable("the hub is starting; try again"));
        }
        if *self.0.config.post.cut_off().borrow() {
            return Err(Status::unavailable(cut_off().message));
        }
        if self.0.config.stop.is_cancelled() {
            return Err(Status::unavailable("the hub is stopping; try again"));
        }
        let (outbox, messages) = mpsc::channel(stream::OUTBOX_MAX);
        tokio::spawn(Stream::serve(self.clone(), peer, request.into_inner(), outbox));
        Ok(Response::new(messages.into()))
    }
}

/// What a stream is told that may not act.
pub fn refusal(ruling: Ruling) -> Option<Refuse> {
    match ruling {
        Ruling::Granted => None,
        Ruling::Superseded => Some(refuse("Superseded", "another stream of the same agent acts instead")),
        Ruling::Frozen => {
            let message = "two agents used this identity at once; a person decides which one goes on";
            Some(refuse("IdentityFrozen", message))
        }
    }
}

/// What a stream is told where this replica hears of no leader.
pub fn cut_off() -> Refuse {
    refuse("Unavailable", "this replica of the hub hears of no leader; try another")
}

/// What a stream is told that has waited [`CATCH_UP_TIMEOUT`].
pub fn behind() -> Refuse {
    refuse("Unavailable", "this replica of the hub is behind; try another")
}

fn refuse(reason: &str, message: &str) -> Refuse {
    Refuse { reason: reason.into(), message: message.into(), retry: true }
}
