//! Joining: how a member gets its identity, and how it keeps it.
//!
//! Owns: the gRPC service that needs no client certificate, and the Clusters, used tokens and certificates it writes.
//! What may be done is decided in [`decide`]; this is the shell. Must never: take a name or an identity from what a
//! caller says where a token, a certificate or the store says it, or leave a call unaudited.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tonic::{Code, Request, Response, Status};

use self::{
    decide::{Facts, Refusal, Renewal, Step},
    limiter::Limiter,
};
use super::{
    agents::Agents,
    desk::Post,
    events::{About, Note},
    keys,
    listen::{Remote, Tls},
    pki::{AgentCertificate, Pki},
};
use crate::{
    kinds::{self, Kind, Origin, schema::check_subdomain},
    model::{Cluster, Timestamp, Uid, token::JoinToken},
    store::{Compare, Entry, Operation, Outcome, Store, Transaction, object},
    wire::{
        self, JoinAnswer, JoinCall, RenewCall, limits,
        proto::{self, joining_server::JoiningServer},
    },
};

pub mod decide;
pub mod limiter;
pub mod objects;
mod proof;

/// How often a decision is taken anew because the store moved on under it.
const ATTEMPTS_MAX: usize = 8;
const PENDING_RETRY_MS: u64 = 1_000;

/// One call, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// `join` or `renew`.
    pub verb: &'static str,
    pub remote: Option<IpAddr>,
    /// The cluster's name or uid, or the replica's number, as far as the call got.
    pub cluster: String,
    pub token: String,
    /// Of the public key, hex.
    pub key_fingerprint: String,
    /// `Created`, `Signed`, …, or the reason of the refusal.
    pub outcome: &'static str,
    pub message: String,
}

/// Where calls are audited.
pub type Audit = Arc<dyn Fn(Called) + Send + Sync>;

#[derive(Clone)]
pub struct Config {
    pub hub: Uid,
    pub store: Arc<dyn Store>,
    pub pki: Arc<Pki>,
    pub tls: Arc<Tls>,
    pub agents: Agents,
    /// To the leader, which records events.
    pub post: Post,
    /// Where agents may connect: every replica.
    pub urls: tokio::sync::watch::Receiver<Vec<String>>,
    /// Hours, not days: renewal costs one call, and a stolen certificate should be worth little.
    pub certificate_lifetime: Duration,
    pub audit: Audit,
}

pub struct Joining {
    config: Config,
    limiter: Mutex<Limiter>,
    started: std::time::Instant,
    /// Held while a Cluster is made: two joins of one member under two names must see each other. What was made lately,
    /// by `kube-system` uid, because the roster may not show it yet.
    making: tokio::sync::Mutex<BTreeMap<String, String>>,
}

impl Joining {
    pub fn service(config: Config) -> JoiningServer<Self> {
        let joining = Self {
            config,
            limiter: Mutex::default(),
            started: std::time::Instant::now(),
            making: tokio::sync::Mutex::default(),
        };
        JoiningServer::new(joining).max_decoding_message_size(limits::JOIN_BYTES_MAX)
    }

    async fn join(&self, call: &JoinCall, called: &mut Called) -> Result<JoinAnswer, Refusal> {
        let key = proof::key_of_request(&call.csr)?;
        called.key_fingerprint.clone_from(&key);
        for _ in 0..ATTEMPTS_MAX {
            let mut making = self.making.lock().await;
            let token_entry = match check_subdomain(&call.token) {
                Ok(()) => self.get(&kinds::JOIN_TOKEN, &call.token).await?,
                Err(_) => None,
            };
            let token: Option<JoinToken> = token_entry.as_ref().map(view).transpose()?;
            let proved = decide::check_token(call, token.as_ref())?;
            let name = decide::wanted_name(call, proved)?;
            called.cluster.clone_from(&name);
            let existing_entry = self.get(&kinds::CLUSTER, &name).await?;
            let existing: Option<Cluster> = existing_entry.as_ref().map(view).transpose()?;
            let twin = self.twin(&making, &call.system_uid, &name).await?;
            let now = Timestamp(jiff::Timestamp::now());
            let facts = Facts {
                call,
                key: &key,
                token: Some(proved),
                existing: existing.as_ref(),
                twin: twin.as_deref(),
                hub_time: now,
            };
            let step = match decide::join(&facts) {
                Ok(step) => step,
                Err(refusal) => {
                    let about = about(&kinds::JOIN_TOKEN, &proved.metadata.name, &proved.metadata.uid);
                    self.note(about, true, refusal.reason, refusal.message.clone());
                    return Err(refusal);
                }
            };
            let Some(token_entry) = &token_entry else { continue };
            match step {
                Step::Wait { name, message } => {
                    called.outcome = "Waiting";
                    return Ok(JoinAnswer::Pending { cluster: name, message, retry_after_ms: PENDING_RETRY_MS });
                }
                Step::Create { name, accepted } => {
                    let uid = Uid(uuid::Uuid::new_v4().to_string());
                    let cluster = objects::cluster(&name, &uid, accepted, call, &key, proved, now);
                    let mut used = decode(token_entry)?;
                    objects::use_token(&mut used, &name, Some(&uid), &key, now);
                    let cluster_key = keys::key(&kinds::CLUSTER, "", &name);
                    let transaction = Transaction {
                        compares: vec![unchanged(token_entry), Compare::Absent(cluster_key.clone())],
                        operations: vec![
                            put(token_entry, &used),
                            Operation::Put(cluster_key, object::encode(&cluster)),
                        ],
                    };
                    if self.commit(transaction).await? {
                        making.insert(call.system_uid.clone(), name.clone());
                        called.outcome = "Created";
                        let message = format!("asked to join with token {}", call.token);
                        self.note(about(&kinds::CLUSTER, &name, &uid), false, "JoinRequested", message);
                    }
                }
                Step::Replace { name } => {
                    let (Some(old), Some(cluster)) = (&existing_entry, &existing) else { continue };
                    let mut used = decode(token_entry)?;
                    objects::use_token(&mut used, &name, None, &key, now);
                    let mut forgotten = decode(old)?;
                    // The token is what an admin gave away for this; what follows is of whoever holds it.
                    let origin = Origin { user: format!("token {}", call.token), ..Origin::default() };
                    objects::forget(&mut forgotten, &cluster.metadata.uid, now, &origin);
                    let transaction = Transaction {
                        compares: vec![unchanged(token_entry), unchanged(old)],
                        operations: vec![put(token_entry, &used), put(old, &forgotten)],
                    };
                    if self.commit(transaction).await? {
                        let message = format!("forgotten, to be replaced with token {}", call.token);
                        self.note(about(&kinds::CLUSTER, &name, &cluster.metadata.uid), false, "Replaced", message);
                    }
                }
                Step::Sign { name } => {
                    drop(making);
                    let (Some(entry), Some(cluster)) = (&existing_entry, &existing) else { continue };
                    if let Some(certificate) = self.certify(entry, cluster, &call.csr, None, now).await? {
                        called.outcome = "Signed";
                        let message = format!("certificate {} until {}", certificate.serial, certificate.not_after);
                        self.note(about(&kinds::CLUSTER, &name, &cluster.metadata.uid), false, "Joined", message);
                        return Ok(JoinAnswer::Identity(self.identity(certificate, cluster, now)));
                    }
                }
            }
        }
        Err(busy())
    }

    async fn renew(&self, call: &RenewCall, called: &mut Called) -> Result<wire::Identity, Refusal> {
        let certificate = CertificateDer::from(&call.certificate[..]);
        let Some(peer) = self.config.tls.agent_of(&certificate) else {
            let message = "the certificate is none of this hub's for agents";
            return Err(Refusal {
                code: Code::PermissionDenied,
                reason: "CertificateForeign",
                message: message.into(),
            });
        };
        called.cluster.clone_from(&peer.cluster.0);
        proof::check_renewal(call)?;
        let key = proof::key_of_request(&call.csr)?;
        called.key_fingerprint.clone_from(&key);
        for _ in 0..ATTEMPTS_MAX {
            let now = Timestamp(jiff::Timestamp::now());
            let entry = self.config.agents.cluster(&peer.cluster).await.map_err(|error| unavailable(&error))?;
            let cluster: Option<Cluster> = entry.as_ref().map(view).transpose()?;
            let renewal = Renewal {
                old_key: &peer.key_fingerprint,
                not_after: peer.expired.unwrap_or(now),
                new_key: &key,
                cluster: cluster.as_ref(),
                hub_time: now,
            };
            let previous = decide::renew(&renewal)?;
            let (Some(entry), Some(cluster)) = (&entry, &cluster) else { continue };
            called.cluster.clone_from(&cluster.metadata.name);
            if let Some(certificate) = self.certify(entry, cluster, &call.csr, previous, now).await? {
                called.outcome = "Signed";
                return Ok(self.identity(certificate, cluster, now));
            }
        }
        Err(busy())
    }

    /// Another Cluster with this `kube-system` uid.
    async fn twin(
        &self,
        making: &BTreeMap<String, String>,
        system_uid: &str,
        name: &str,
    ) -> Result<Option<String>, Refusal> {
        if system_uid.is_empty() {
            return Ok(None);
        }
        let candidates = self.config.agents.named_by_system_uid(system_uid).into_iter();
        for candidate in candidates.chain(making.get(system_uid).cloned()).filter(|candidate| candidate != name) {
            let entry = self.get(&kinds::CLUSTER, &candidate).await?;
            let cluster: Option<Cluster> = entry.as_ref().map(view).transpose()?;
            let joined = cluster.and_then(|cluster| cluster.status.join);
            if joined.is_some_and(|join| join.system_uid == system_uid) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    /// Signs and stores; `None` where the Cluster changed meanwhile. Stored first, so that a certificate which nobody
    /// knows of is never out.
    async fn certify(
        &self,
        entry: &Entry,
        cluster: &Cluster,
        csr: &Bytes,
        previous: Option<String>,
        now: Timestamp,
    ) -> Result<Option<AgentCertificate>, Refusal> {
        let config = &self.config;
        let signed = config.pki.sign_agent(csr, &config.hub, &cluster.metadata.uid, config.certificate_lifetime, now);
        let certificate = signed.map_err(|error| Refusal {
            code: Code::InvalidArgument,
            reason: "RequestInvalid",
            message: error.to_string(),
        })?;
        let mut certified = decode(entry)?;
        let (key, serial) = (certificate.key_fingerprint.clone(), certificate.serial.clone());
        objects::certify(&mut certified, &decide::certificate(key, previous, serial, certificate.not_after));
        let transaction = Transaction { compares: vec![unchanged(entry)], operations: vec![put(entry, &certified)] };
        Ok(self.commit(transaction).await?.then_some(certificate))
    }

    fn identity(&self, certificate: AgentCertificate, cluster: &Cluster, now: Timestamp) -> wire::Identity {
        wire::Identity {
            certificate: certificate.der.into(),
            hub: self.config.hub.clone(),
            incarnation: self.config.store.incarnation().clone(),
            cluster: cluster.metadata.uid.clone(),
            cluster_name: cluster.metadata.name.clone(),
            serving_authorities: vec![Bytes::copy_from_slice(&self.config.pki.serving.certificate)],
            // The certificate itself begins earlier, for clocks that are behind; counted from there, one that lives for
            // minutes would be due for renewal as soon as it is signed.
            not_before: now,
            not_after: certificate.not_after,
            urls: self.config.urls.borrow().clone(),
        }
    }

    async fn get(&self, kind: &Kind, name: &str) -> Result<Option<Entry>, Refusal> {
        self.config.store.get(&keys::key(kind, "", name)).await.map_err(|error| unavailable(&error))
    }

    /// False where something compared has changed, or the answer was lost: then all is read again.
    async fn commit(&self, transaction: Transaction) -> Result<bool, Refusal> {
        match self.config.store.commit(transaction).await {
            Ok(Outcome::Committed(_)) => Ok(true),
            Ok(Outcome::Conflict(_) | Outcome::Unknown) => Ok(false),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// An event that finds no room is one less to read, nothing worse.
    fn note(&self, about: About, warning: bool, reason: &'static str, message: String) {
        self.config.post.note(Note { about, warning, reason: reason.into(), message });
    }

    fn called<T>(&self, verb: &'static str, request: &Request<T>) -> Result<Called, Status> {
        let remote = request.extensions().get::<Remote>().map(|remote| remote.0.ip());
        let now_ms = self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        if remote.is_some_and(|address| !self.limiter.lock().admits(now_ms, address)) {
            return Err(Status::resource_exhausted("too many calls from this address; try again later"));
        }
        let [cluster, token, key_fingerprint, message] = [const { String::new() }; 4];
        Ok(Called { verb, remote, cluster, token, key_fingerprint, outcome: "", message })
    }

    fn audit<T>(&self, mut called: Called, result: Result<T, Refusal>) -> Result<T, Status> {
        if let Err(refusal) = &result {
            called.outcome = refusal.reason;
            called.message.clone_from(&refusal.message);
        }
        (self.config.audit)(called);
        result.map_err(|refusal| Status::new(refusal.code, refusal.message))
    }
}

#[tonic::async_trait]
impl proto::joining_server::Joining for Joining {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        let mut called = self.called("join", &request)?;
        let call =
            JoinCall::try_from(request.into_inner()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        called.token.clone_from(&call.token);
        let answer = self.join(&call, &mut called).await;
        let answer = self.audit(called, answer)?;
        Ok(Response::new(answer.reply(Timestamp(jiff::Timestamp::now()))))
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Result<Response<proto::RenewReply>, Status> {
        let mut called = self.called("renew", &request)?;
        let call =
            RenewCall::try_from(request.into_inner()).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let identity = self.renew(&call, &mut called).await;
        let identity = self.audit(called, identity)?;
        let hub_time_ms = jiff::Timestamp::now().as_millisecond();
        Ok(Response::new(proto::RenewReply { identity: Some((&identity).into()), hub_time_ms }))
    }
}

fn about(kind: &Kind, name: &str, uid: &Uid) -> About {
    About { gvk: kind.gvk.clone(), name: crate::model::ObjectName::new("", name), uid: uid.clone() }
}

fn unchanged(entry: &Entry) -> Compare {
    Compare::Modified(entry.key.clone(), entry.modified)
}

fn put(entry: &Entry, object: &serde_json::Value) -> Operation {
    Operation::Put(entry.key.clone(), object::encode(object))
}

fn decode(entry: &Entry) -> Result<serde_json::Value, Refusal> {
    object::decode(&entry.value).map_err(|error| unavailable(&error))
}

fn view<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, Refusal> {
    object::view(&entry.value).map_err(|error| unavailable(&error))
}

/// What happened stays in the hub's log; strangers are told to come back.
fn unavailable(error: &dyn std::error::Error) -> Refusal {
    tracing::error!(%error, "joining cannot use the store");
    Refusal {
        code: Code::Unavailable,
        reason: "Unavailable",
        message: "the hub cannot use its store; try again".into(),
    }
}

fn busy() -> Refusal {
    Refusal { code: Code::Unavailable, reason: "Busy", message: "the cluster keeps changing; try again".into() }
}
