//! How a replica joins: with the secret of a token it gets all that makes a replica of this hub.
//!
//! Owns: the exchange on both sides and the token's text. Must never: send the secret before the hub is known by the
//! token's pin, give keys for a token that is unknown, used by another, or out of time, or give a number twice.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::{
    calls::decode_uid,
    dial::{dial, words},
    limits,
    members::{self, Belonging, Member},
    proto::{self, peers_client::PeersClient},
    tls,
};
use crate::{
    hub::{
        join::{
            self, Called,
            decide::{Refusal, proved},
            limiter::Limiter,
        },
        keys,
        pki::{self, write_durably, write_secrets},
    },
    kinds::{JOIN_TOKEN, REPLICA, schema::check_label},
    model::{Digest, Timestamp, Uid, token::JoinToken},
    store::{Compare, Entry, List, Operation, Outcome, Store, Transaction, object, raft::ReplicaId},
    wire::limits::WORD_BYTES_MAX,
};

const PREFIX: &str = "hanse-replica1.";
const KEY_BYTES: usize = 32;
const KEY_FILE: &str = "join.key";
const ATTEMPTS_MAX: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// What `hanse hub invite` prints: `hanse-replica1.NAME.SECRET.PIN.HOST:PORT[,HOST:PORT…]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Of the JoinToken.
    pub name: String,
    secret: String,
    /// SHA-256 of the public key of the authority for peers.
    pub pin: Digest,
    /// Any of them will do.
    pub addresses: Vec<String>,
}

impl Invitation {
    pub fn new(name: &str, secret: &str, pin: Digest, addresses: Vec<String>) -> Self {
        Self { name: name.into(), secret: secret.into(), pin, addresses }
    }

    /// What the hub stores of the secret.
    pub fn secret_digest(&self) -> Digest {
        Digest::of(self.secret.as_bytes())
    }

    /// The whole of it: for the one who is to join, and nobody else.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}.{}.{}.{}", self.name, self.secret, self.pin, self.addresses.join(","))
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invitation({}, …)", self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an invitation for a replica (expected {PREFIX}NAME.SECRET.PIN.HOST:PORT, as `hanse hub invite` prints it, whole)"
)]
pub struct InvalidInvitation;

impl FromStr for Invitation {
    type Err = InvalidInvitation;

    fn from_str(text: &str) -> Result<Self, InvalidInvitation> {
        let parse = || {
            let mut parts = text.trim().strip_prefix(PREFIX)?.splitn(4, '.');
            let (name, secret) = (parts.next()?, parts.next()?);
            let pin = parts.next()?.parse().ok()?;
            let addresses: Vec<String> = parts.next()?.split(',').map(str::to_owned).collect();
            let whole = !name.is_empty() && !secret.is_empty() && addresses.iter().all(|address| is_address(address));
            whole.then(|| Self::new(name, secret, pin, addresses))
        };
        parse().ok_or(InvalidInvitation)
    }
}

/// `HOST:PORT`, with a port that can be dialled.
pub fn is_address(text: &str) -> bool {
    let plain = |host: &str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    text.len() <= WORD_BYTES_MAX
        && text
            .rsplit_once(':')
            .is_some_and(|(host, port)| plain(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Where a new replica is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub peer: String,
    pub url: String,
}

/// The side that is asked; any replica is. It holds no store: the store holds the network, and that holds this.
pub struct Joining {
    hub: Uid,
    /// `DIR/pki`.
    secrets: PathBuf,
    pin: Digest,
    audit: join::Audit,
    limiter: Mutex<Limiter>,
    started: std::time::Instant,
}

/// What a call leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A new number, and with it the token used.
    Make,
    /// The answer was lost: the same once more.
    Again(ReplicaId),
}

fn decide(token: &JoinToken, key: &str, now: Timestamp) -> Result<Step, Refusal> {
    let name = &token.metadata.name;
    let no = |code, reason, message: String| Err(Refusal { code, reason, message });
    if !token.spec.replica {
        let message =
            format!("token {name} is for a cluster, not for a replica of the hub: `hanse hub invite` makes one");
        return no(Code::PermissionDenied, "TokenForCluster", message);
    }
    match &token.status.used_by {
        Some(used) if used.key_fingerprint == key => match used.replica {
            Some(id) => Ok(Step::Again(id)),
            None => no(Code::PermissionDenied, "TokenUsed", format!("token {name} was used")),
        },
        Some(used) => {
            let replica = used.replica.unwrap_or_default();
            let message = format!(
                "token {name} was used, for replica {replica}: a token is good for one; `hanse hub invite` makes another"
            );
            no(Code::PermissionDenied, "TokenUsed", message)
        }
        None => match token.spec.expires_at {
            Some(end) if end <= now => {
                let message = format!(
                    "token {name} expired at {end}; the hub's clock says {now}: `hanse hub invite` makes a new one"
                );
                no(Code::FailedPrecondition, "TokenExpired", message)
            }
            Some(_) | None => Ok(Step::Make),
        },
    }
}

impl Joining {
    pub fn new(hub: Uid, secrets: &Path, pin: Digest, audit: join::Audit) -> Self {
        let (secrets, started) = (secrets.to_owned(), std::time::Instant::now());
        Self { hub, secrets, pin, audit, limiter: Mutex::default(), started }
    }

    pub async fn call(
        &self,
        store: &dyn Store,
        request: proto::JoinRequest,
        remote: Option<std::net::IpAddr>,
    ) -> Result<proto::JoinReply, Status> {
        let now_ms = self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        if remote.is_some_and(|address| !self.limiter.lock().admits(now_ms, address)) {
            return Err(Status::resource_exhausted("too many calls from this address; try again later"));
        }
        let key_fingerprint = Digest::of(&request.key).to_string();
        let mut called = Called {
            verb: "join",
            remote,
            cluster: String::new(),
            // What a stranger sends goes into the log: no more of it than a name can be.
            token: if check_label(&request.token).is_ok() { request.token.clone() } else { String::new() },
            key_fingerprint,
            outcome: "Created",
            message: format!("at {:.253}", request.peer_address),
        };
        let answer = self.admit(store, &request, &called.key_fingerprint).await;
        match &answer {
            Ok(reply) => called.cluster = reply.replica.to_string(),
            Err(refusal) => {
                called.outcome = refusal.reason;
                called.message.clone_from(&refusal.message);
            }
        }
        (self.audit)(called);
        answer.map_err(|refusal| Status::new(refusal.code, refusal.message))
    }

    async fn admit(
        &self,
        store: &dyn Store,
        request: &proto::JoinRequest,
        key: &str,
    ) -> Result<proto::JoinReply, Refusal> {
        let invalid = |message: &str| {
            Err(Refusal { code: Code::InvalidArgument, reason: "RequestInvalid", message: message.into() })
        };
        if request.key.len() != KEY_BYTES || request.secret.len() > WORD_BYTES_MAX {
            return invalid("the call is malformed");
        }
        if !is_address(&request.peer_address) {
            return invalid("the replica's peer address is not HOST:PORT: start it with --peer-advertise");
        }
        if !request.url.starts_with("https://") || request.url.len() > WORD_BYTES_MAX {
            return invalid("the replica's URL is not https://HOST:PORT: start it with --advertise");
        }
        for _ in 0..ATTEMPTS_MAX {
            let now = Timestamp(jiff::Timestamp::now());
            let entry = match check_label(&request.token) {
                Ok(()) => store.get(&keys::key(&JOIN_TOKEN, "", &request.token)).await.map_err(unavailable)?,
                Err(_) => None,
            };
            let token: Option<JoinToken> =
                entry.as_ref().map(|entry| object::view(&entry.value)).transpose().map_err(unavailable)?;
            let token = proved(request.secret.as_bytes(), token.as_ref())?;
            let Some(entry) = &entry else { continue };
            let id = match decide(token, key, now)? {
                Step::Again(id) => id,
                Step::Make => match self.make(store, request, key, entry, now).await? {
                    Some(id) => id,
                    None => continue,
                },
            };
            return self.reply(store, id).await;
        }
        Err(Refusal { code: Code::Unavailable, reason: "Busy", message: "the group keeps changing; try again".into() })
    }

    /// The next number, the Replica and the used token in one transaction; `None` where something changed meanwhile.
    async fn make(
        &self,
        store: &dyn Store,
        request: &proto::JoinRequest,
        key: &str,
        token: &Entry,
        now: Timestamp,
    ) -> Result<Option<ReplicaId>, Refusal> {
        let group = members::read_group(store).await.map_err(unavailable)?;
        let Some((group_entry, group)) = group else {
            return Err(Refusal {
                code: Code::Unavailable,
                reason: "Starting",
                message: "the hub is just being founded; try again".into(),
            });
        };
        let id = group.next;
        let member = Member {
            id,
            peer_address: request.peer_address.clone(),
            url: request.url.clone(),
            peer_authority: self.pin,
        };
        let replica_key = keys::key(&REPLICA, "", &id.to_string());
        let mut used = object::decode(&token.value).map_err(unavailable)?;
        join::objects::use_token_for_replica(&mut used, id, key, now);
        let unchanged = |entry: &Entry| Compare::Modified(entry.key.clone(), entry.modified);
        let transaction = Transaction {
            compares: vec![unchanged(token), unchanged(&group_entry), Compare::Absent(replica_key.clone())],
            operations: vec![
                Operation::Put(token.key.clone(), object::encode(&used)),
                Operation::Put(group_entry.key.clone(), members::Group { next: id + 1, ..group }.encode()),
                Operation::Put(replica_key, object::encode(&member.object(&uuid::Uuid::new_v4().to_string(), now))),
            ],
        };
        match store.commit(transaction).await.map_err(unavailable)? {
            Outcome::Committed(_) => Ok(Some(id)),
            Outcome::Conflict(_) | Outcome::Unknown => Ok(None),
        }
    }

    async fn reply(&self, store: &dyn Store, id: ReplicaId) -> Result<proto::JoinReply, Refusal> {
        let prefix = keys::prefix(&REPLICA, Some(""));
        let page = store.list(List { prefix, after: None, limit: 0, at: None }).await.map_err(unavailable)?;
        let members: Vec<Member> = page.entries.iter().filter_map(Member::read).collect();
        if members.iter().all(|member| member.id != id) {
            let message = format!("replica {id}, which this token made, was removed since: a new token is needed");
            return Err(Refusal { code: Code::PermissionDenied, reason: "ReplicaGone", message });
        }
        let secrets = pki::secrets(&self.secrets).map_err(unavailable)?;
        let secret = |(name, content): (&str, Vec<u8>)| proto::Secret { name: name.into(), content: content.into() };
        let address = |member: Member| proto::Address { replica: member.id, peer_address: member.peer_address };
        Ok(proto::JoinReply {
            replica: id,
            hub: self.hub.0.clone(),
            incarnation: store.incarnation().0.clone(),
            members: members.into_iter().map(address).collect(),
            secrets: secrets.into_iter().map(secret).collect(),
        })
    }
}

/// What happened stays in the hub's log; strangers are told to come back.
fn unavailable(error: impl std::error::Error) -> Refusal {
    tracing::warn!(%error, "a replica cannot join now");
    Refusal { code: Code::Unavailable, reason: "Unavailable", message: "the hub cannot do that now; try again".into() }
}

/// The side that asks: everything a replica needs is in `dir` afterwards. Where the answer was lost, the same directory asks
/// again and gets the same answer.
pub async fn join(invitation: &Invitation, dir: &Path, here: &Addresses) -> anyhow::Result<Belonging> {
    let key = join_key(&dir.join(KEY_FILE))?;
    let began = std::time::Instant::now();
    let mut said = String::new();
    for address in invitation.addresses.iter().cycle() {
        let why = match ask(invitation, address, here, &key).await {
            Ok(reply) => return keep(reply, dir).context("what the hub answered cannot be kept"),
            Err(Failed::Refused(why)) => bail!("the hub refuses: {why}"),
            Err(Failed::Passing(why)) => why,
        };
        if began.elapsed() > PATIENCE {
            bail!("cannot join at {address}: {why}");
        }
        if why != said {
            tracing::info!(address, why, "cannot join yet");
            said = why;
        }
        tokio::time::sleep(RETRY).await;
    }
    bail!("the invitation names no replica to ask")
}

enum Failed {
    Refused(String),
    /// The same may succeed in a moment.
    Passing(String),
}

async fn ask(invitation: &Invitation, address: &str, here: &Addresses, key: &[u8]) -> Result<proto::JoinReply, Failed> {
    let config = tls::pinned(invitation.pin).map_err(|error| Failed::Refused(error.to_string()))?;
    let channel = dial(address, config).await.map_err(Failed::Passing)?;
    let mut client = PeersClient::new(channel).max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    let request = proto::JoinRequest {
        token: invitation.name.clone(),
        secret: invitation.secret.clone(),
        peer_address: here.peer.clone(),
        url: here.url.clone(),
        key: Bytes::copy_from_slice(key),
    };
    match tokio::time::timeout(limits::PEER_CALL_TIMEOUT, client.join(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(match status.code() {
            Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition => {
                Failed::Refused(status.message().to_owned())
            }
            _ if status.message().is_empty() => Failed::Passing(words(&status)),
            _ => Failed::Passing(status.message().to_owned()),
        }),
        Err(_) => Err(Failed::Passing("no answer in time".into())),
    }
}

/// The keys first, and last of all that this directory belongs: without that it is nobody's.
fn keep(reply: proto::JoinReply, dir: &Path) -> anyhow::Result<Belonging> {
    let members: BTreeMap<ReplicaId, String> =
        reply.members.into_iter().map(|member| (member.replica, member.peer_address)).collect();
    if reply.replica == 0 || !members.contains_key(&reply.replica) || !members.values().all(|at| is_address(at)) {
        bail!("it does not name this replica and the others");
    }
    let belonging = Belonging {
        replica: reply.replica,
        hub: decode_uid("hub", reply.hub)?,
        incarnation: decode_uid("incarnation", reply.incarnation)?,
        opened: false,
        members,
    };
    let secrets: Vec<_> = reply.secrets.into_iter().map(|secret| (secret.name, secret.content)).collect();
    write_secrets(&dir.join("pki"), &secrets)?;
    belonging.write(dir)?;
    let _ = fs::remove_file(dir.join(KEY_FILE));
    Ok(belonging)
}

/// Made once for a directory, so that asking again is known to be the same one.
fn join_key(path: &Path) -> anyhow::Result<Vec<u8>> {
    use ring::rand::SecureRandom;
    match fs::read(path) {
        Ok(key) if key.len() == KEY_BYTES => return Ok(key),
        Ok(key) => bail!("{} holds {} bytes, not {KEY_BYTES}", path.display(), key.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let mut key = vec![0; KEY_BYTES];
    let filled = ring::rand::SystemRandom::new().fill(&mut key);
    filled.map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    write_durably(path, &key, 0o600)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::token::UsedBy;

    const NOW: i64 = 1_000_000;

    fn token() -> JoinToken {
        let mut token = JoinToken::default();
        token.spec.replica = true;
        token.spec.expires_at = Some(Timestamp::from_seconds(NOW + 1));
        token
    }

    fn decided(token: &JoinToken) -> Result<Step, &'static str> {
        decide(token, "key", Timestamp::from_seconds(NOW)).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_token_makes_one_replica_and_answers_its_holder_again() {
        assert_eq!(decided(&token()), Ok(Step::Make));
        let used = |key: &str| {
            let used_by = UsedBy { replica: Some(3), key_fingerprint: key.into(), ..UsedBy::default() };
            let mut token = token();
            token.status.used_by = Some(used_by);
            token.spec.expires_at = Some(Timestamp::from_seconds(NOW - 1));
            token
        };
        assert_eq!(decided(&used("key")), Ok(Step::Again(3)), "late, but the first");
        assert_eq!(decided(&used("other")), Err("TokenUsed"));
    }

    #[test]
    fn a_token_out_of_time_or_for_a_cluster_makes_none() {
        let mut late = token();
        late.spec.expires_at = Some(Timestamp::from_seconds(NOW));
        assert_eq!(decided(&late), Err("TokenExpired"));
        let mut for_cluster = token();
        for_cluster.spec.replica = false;
        assert_eq!(decided(&for_cluster), Err("TokenForCluster"));
    }

    #[test]
    fn an_invitation_survives_its_text_and_hides_its_secret() {
        let addresses = vec!["10.0.0.1:6461".to_owned(), "[::1]:6461".to_owned(), "hub-2.example:1".to_owned()];
        let invitation = Invitation::new("replica-1", "c2VjcmV0", Digest::of(b"ca"), addresses);
        let text = invitation.reveal();
        assert_eq!(format!(" {text}\n").parse(), Ok(invitation.clone()));
        assert!(!format!("{invitation:?}").contains("c2VjcmV0"));
        for cut in [&text[1..], &text[..text.len() - 2], "hanse-replica1.a.b", "hanse-replica1....:1", ""] {
            assert_eq!(cut.parse::<Invitation>(), Err(InvalidInvitation), "{cut}");
        }
    }
}
