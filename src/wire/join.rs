//! Joining and renewing.

use bytes::Bytes;

use super::{
    Invalid, limits,
    parts::{bounded, list, message, text, time, uid, urls, word},
    proto,
};
use crate::model::{Timestamp, Uid};

/// What a member says to get an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinCall {
    /// Name of the JoinToken.
    pub token: String,
    pub secret: Bytes,
    /// PKCS #10, DER.
    pub csr: Bytes,
    /// Empty takes the name that the token says.
    pub cluster: String,
    pub system_uid: String,
    pub agent_version: String,
    pub agent_time: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinAnswer {
    Pending { cluster: String, message: String, retry_after_ms: u64 },
    Identity(Identity),
}

/// A certificate and what its holder needs to know with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// DER.
    pub certificate: Bytes,
    pub hub: Uid,
    pub incarnation: Uid,
    pub cluster: Uid,
    pub cluster_name: String,
    /// DER; what the hub's serving certificate may chain to.
    pub serving_authorities: Vec<Bytes>,
    /// By the hub's clock, as is `not_after`.
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Where the hub's replicas can be reached; empty where it does not say.
    pub urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewCall {
    /// DER.
    pub certificate: Bytes,
    /// PKCS #10, DER.
    pub csr: Bytes,
    pub signature: Bytes,
    pub agent_time: Timestamp,
}

impl RenewCall {
    /// What the old key signs: words first, so that no other signature of the key can be taken for this one.
    pub fn signed_bytes(csr: &[u8]) -> Vec<u8> {
        [b"hanse renew 1\0", csr].concat()
    }
}

fn der(field: &'static str, bytes: Bytes) -> Result<Bytes, Invalid> {
    bounded(field, limits::DER_BYTES_MAX, bytes.len())?;
    if bytes.is_empty() { Err(Invalid::Missing(field)) } else { Ok(bytes) }
}

impl From<&JoinCall> for proto::JoinRequest {
    fn from(call: &JoinCall) -> Self {
        Self {
            token: call.token.clone(),
            secret: call.secret.clone(),
            csr: call.csr.clone(),
            cluster: call.cluster.clone(),
            system_uid: call.system_uid.clone(),
            agent_version: call.agent_version.clone(),
            agent_time_ms: call.agent_time.millis(),
        }
    }
}

impl TryFrom<proto::JoinRequest> for JoinCall {
    type Error = Invalid;

    fn try_from(request: proto::JoinRequest) -> Result<Self, Invalid> {
        bounded("secret", limits::WORD_BYTES_MAX, request.secret.len())?;
        Ok(Self {
            token: word("token", request.token)?,
            secret: request.secret,
            csr: der("csr", request.csr)?,
            cluster: text("cluster", limits::NAME_BYTES_MAX, request.cluster)?,
            system_uid: word("system uid", request.system_uid)?,
            agent_version: word("agent version", request.agent_version)?,
            agent_time: time("agent time", request.agent_time_ms)?,
        })
    }
}

impl From<&Identity> for proto::Identity {
    fn from(identity: &Identity) -> Self {
        Self {
            certificate: identity.certificate.clone(),
            hub: identity.hub.0.clone(),
            incarnation: identity.incarnation.0.clone(),
            cluster: identity.cluster.0.clone(),
            cluster_name: identity.cluster_name.clone(),
            serving_authorities: identity.serving_authorities.clone(),
            not_before_ms: identity.not_before.millis(),
            not_after_ms: identity.not_after.millis(),
            urls: identity.urls.clone(),
        }
    }
}

impl TryFrom<proto::Identity> for Identity {
    type Error = Invalid;

    fn try_from(identity: proto::Identity) -> Result<Self, Invalid> {
        let authorities = identity.serving_authorities;
        if authorities.is_empty() {
            return Err(Invalid::Missing("serving authorities"));
        }
        Ok(Self {
            certificate: der("certificate", identity.certificate)?,
            hub: uid("hub", identity.hub)?,
            incarnation: uid("incarnation", identity.incarnation)?,
            cluster: uid("cluster", identity.cluster)?,
            cluster_name: text("cluster name", limits::NAME_BYTES_MAX, identity.cluster_name)?,
            serving_authorities: list("serving authorities", limits::AUTHORITIES_MAX, authorities, |authority| {
                der("serving authority", authority)
            })?,
            not_before: time("not before", identity.not_before_ms)?,
            not_after: time("not after", identity.not_after_ms)?,
            urls: urls(identity.urls)?,
        })
    }
}

impl JoinAnswer {
    pub fn reply(&self, hub_time: Timestamp) -> proto::JoinReply {
        use proto::join_reply::Answer;
        let answer = match self {
            Self::Pending { cluster, message, retry_after_ms } => Answer::Pending(proto::Pending {
                cluster: cluster.clone(),
                message: message.clone(),
                retry_after_ms: *retry_after_ms,
            }),
            Self::Identity(identity) => Answer::Identity(identity.into()),
        };
        proto::JoinReply { answer: Some(answer), hub_time_ms: hub_time.millis() }
    }
}

impl TryFrom<proto::JoinReply> for JoinAnswer {
    type Error = Invalid;

    fn try_from(reply: proto::JoinReply) -> Result<Self, Invalid> {
        use proto::join_reply::Answer;
        Ok(match reply.answer.ok_or(Invalid::Missing("answer"))? {
            Answer::Pending(pending) => Self::Pending {
                cluster: text("cluster", limits::NAME_BYTES_MAX, pending.cluster)?,
                message: message("pending message", pending.message)?,
                retry_after_ms: pending.retry_after_ms,
            },
            Answer::Identity(identity) => Self::Identity(identity.try_into()?),
        })
    }
}

impl From<&RenewCall> for proto::RenewRequest {
    fn from(call: &RenewCall) -> Self {
        Self {
            certificate: call.certificate.clone(),
            csr: call.csr.clone(),
            signature: call.signature.clone(),
            agent_time_ms: call.agent_time.millis(),
        }
    }
}

impl TryFrom<proto::RenewRequest> for RenewCall {
    type Error = Invalid;

    fn try_from(request: proto::RenewRequest) -> Result<Self, Invalid> {
        Ok(Self {
            certificate: der("certificate", request.certificate)?,
            csr: der("csr", request.csr)?,
            signature: der("signature", request.signature)?,
            agent_time: time("agent time", request.agent_time_ms)?,
        })
    }
}
