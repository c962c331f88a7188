//! Joining: from a token to an identity.
//!
//! Owns: the token's text, the exchange with the hub until it says yes or no, and renewal. Must never: send the secret
//! before the hub is known by the token's pin, or make a second key while an answer to the first may be under way.

use std::{fmt, time::Duration};

use bytes::Bytes;

use super::{
    dial::{self, Trust, dial},
    identity::{self, Identity, Keep, Key, Stored},
};
use crate::{
    model::{Digest, Timestamp},
    wire::{
        Invalid, JoinAnswer, JoinCall, RenewCall, limits,
        proto::{self, joining_client::JoiningClient},
    },
};

const TOKEN_PREFIX: &str = "hanse1.";
/// One call, from sending to the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_MS_MIN: u64 = 500;
const RETRY_MS_MAX: u64 = 10_000;

/// What `hanse token create` prints: `hanse1.NAME.SECRET.PIN`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub name: String,
    secret: String,
    /// SHA-256 of the public key of the hub's serving authority.
    pub pin: Digest,
}

impl Token {
    pub fn new(name: &str, secret: &str, pin: Digest) -> Self {
        Self { name: name.into(), secret: secret.into(), pin }
    }

    /// What the hub stores of the secret.
    pub fn secret_digest(&self) -> Digest {
        Digest::of(self.secret.as_bytes())
    }

    /// The whole of it: for the one who is to join, and nobody else.
    pub fn reveal(&self) -> String {
        format!("{TOKEN_PREFIX}{}.{}.{}", self.name, self.secret, self.pin)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, …)", self.name)
    }
}

impl std::str::FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = || {
            let (rest, pin) = text.trim().strip_prefix(TOKEN_PREFIX)?.rsplit_once('.')?;
            let (name, secret) = rest.rsplit_once('.')?;
            let whole = !name.is_empty() && !secret.is_empty();
            whole.then_some(Self { name: name.into(), secret: secret.into(), pin: pin.parse().ok()? })
        };
        parts().ok_or(Error::Token)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a join token (expected hanse1.NAME.SECRET.PIN, as `hanse token create` prints it, whole)")]
    Token,
    #[error(transparent)]
    Dial(#[from] dial::Error),
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(
        "there is an identity already, of cluster {0}: an agent that is to join anew begins with an empty directory"
    )]
    Joined(String),
    #[error("the hub answered what cannot be understood: {0}")]
    Invalid(#[from] Invalid),
    /// The hub's no; asking again the same way will not help.
    #[error("the hub refuses: {0}")]
    Refused(String),
    #[error("the hub could not answer: {0}")]
    Unanswered(String),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::Dial(dial::Error::Unreachable { .. }))
    }
}

/// What a member says of itself when it joins.
#[derive(Debug, Clone)]
pub struct Request {
    /// `https://HOST:PORT`, tried in order.
    pub urls: Vec<String>,
    pub token: Token,
    /// The name wanted; empty takes the token's.
    pub cluster: String,
    /// UID of the member's `kube-system` namespace.
    pub system_uid: String,
}

/// Asks until the hub says yes or no. `told` hears what is waited for, in words, each time that changes. Ends early,
/// harmlessly, when dropped: asked again with the same `keep` and token it goes on where it was.
pub async fn join(request: &Request, keep: &dyn Keep, mut told: impl FnMut(&str)) -> Result<Identity, Error> {
    let kept = keep.load()?.unwrap_or_default();
    if let Some(identity) = kept.identity {
        return Err(Error::Joined(identity.cluster_name));
    }
    let begun = kept.next_key.filter(|_| kept.token == request.token.name);
    let key = match begun {
        Some(key) => key,
        None => Key::generate()?,
    };
    let begun = Stored { identity: None, next_key: Some(key.clone()), token: request.token.name.clone() };
    keep.save(&begun)?;
    let (mut last, mut retry_ms) = (String::new(), RETRY_MS_MIN);
    for url in request.urls.iter().cycle() {
        let waiting = match ask(url, request, &key).await {
            Ok(JoinAnswer::Identity(granted)) => {
                let identity = Identity::new(key, granted);
                keep.save(&Stored { identity: Some(identity.clone()), next_key: None, ..begun })?;
                return Ok(identity);
            }
            Ok(JoinAnswer::Pending { message, retry_after_ms, .. }) => {
                retry_ms = retry_after_ms.clamp(RETRY_MS_MIN, RETRY_MS_MAX);
                message
            }
            Err(error) if error.is_passing() => {
                retry_ms = (retry_ms * 2).min(RETRY_MS_MAX);
                error.to_string()
            }
            Err(error) => return Err(error),
        };
        if waiting != last {
            told(&waiting);
            last = waiting;
        }
        tokio::time::sleep(Duration::from_millis(retry_ms)).await;
    }
    Err(Error::Dial(dial::Error::Url(String::new())))
}

async fn ask(url: &str, request: &Request, key: &Key) -> Result<JoinAnswer, Error> {
    let call = JoinCall {
        token: request.token.name.clone(),
        secret: Bytes::from(request.token.secret.clone()),
        csr: key.request()?,
        cluster: request.cluster.clone(),
        system_uid: request.system_uid.clone(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        agent_time: Timestamp(jiff::Timestamp::now()),
    };
    let mut client = client(url, &Trust::Pin(request.token.pin)).await?;
    let answer = tokio::time::timeout(CALL_TIMEOUT, client.join(proto::JoinRequest::from(&call))).await;
    Ok(answered(answer)?.try_into()?)
}

/// A renewed identity, already kept. It needs no connection with the old certificate, so one that has expired will do.
pub async fn renew(url: &str, keep: &dyn Keep) -> Result<Identity, Error> {
    let mut stored = keep.load()?.unwrap_or_default();
    let old = stored.identity.clone().ok_or(Error::Refused("there is no identity to renew".into()))?;
    let key = match stored.next_key.clone() {
        Some(key) => key,
        None => Key::generate()?,
    };
    if stored.next_key.is_none() {
        stored.next_key = Some(key.clone());
        keep.save(&stored)?;
    }
    let csr = key.request()?;
    let call = RenewCall {
        certificate: old.certificate.0.clone(),
        signature: old.key.sign(&RenewCall::signed_bytes(&csr))?,
        csr,
        agent_time: Timestamp(jiff::Timestamp::now()),
    };
    let authorities = old.serving_authorities.iter().map(|authority| authority.0.clone()).collect();
    let mut client = client(url, &Trust::Authorities(authorities)).await?;
    let answer = tokio::time::timeout(CALL_TIMEOUT, client.renew(proto::RenewRequest::from(&call))).await;
    let granted = answered(answer)?.identity.ok_or(Invalid::Missing("identity"))?;
    let mut identity = Identity::new(key, granted.try_into()?);
    if identity.urls.is_empty() {
        identity.urls.clone_from(&old.urls);
    }
    if identity.cluster != old.cluster || identity.hub != old.hub {
        return Err(Error::Refused("the renewed certificate is another cluster's".into()));
    }
    keep.save(&Stored { identity: Some(identity.clone()), next_key: None, ..stored })?;
    Ok(identity)
}

async fn client(url: &str, trust: &Trust) -> Result<JoiningClient<tonic::transport::Channel>, Error> {
    let channel = dial(url, trust, None).await?;
    Ok(JoiningClient::new(channel).max_decoding_message_size(limits::JOIN_BYTES_MAX))
}

fn answered<T>(
    answer: Result<Result<tonic::Response<T>, tonic::Status>, tokio::time::error::Elapsed>,
) -> Result<T, Error> {
    use tonic::Code;
    let status = match answer {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => return Err(Error::Unanswered(format!("nothing within {} s", CALL_TIMEOUT.as_secs()))),
    };
    let message = status.message().to_owned();
    Err(match status.code() {
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::AlreadyExists
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::Unimplemented => Error::Refused(message),
        _ if message.is_empty() => Error::Unanswered(status.code().to_string()),
        _ => Error::Unanswered(message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_hides_its_secret() {
        let token = Token::new("eu.prod", "c2VjcmV0", Digest::of(b"ca"));
        assert_eq!(token.reveal().parse::<Token>().expect("token"), token);
        assert_eq!(format!(" {}\n", token.reveal()).parse::<Token>().expect("pasted"), token);
        assert!(!format!("{token:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn a_cut_token_is_not_one() {
        let token = Token::new("eu", "c2VjcmV0", Digest::of(b"ca")).reveal();
        for cut in [&token[1..], &token[..token.len() - 1], "hanse1.eu", "hanse1...", ""] {
            assert!(cut.parse::<Token>().is_err(), "{cut}");
        }
    }
}
