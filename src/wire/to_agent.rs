//! What the hub sends.

use std::sync::Arc;

use super::{
    Invalid, limits,
    parts::{
        digest, digest_bytes, features, list, message, object_name, object_ref, optional_uid, text, time, uid, urls,
        word,
    },
    proto,
};
use crate::model::{
    Work,
    placement::Patch,
    protocol::{Refuse, ToAgent, Welcome},
    work::{Manifest, Removal, RemovalReason},
};

impl From<&ToAgent> for proto::ToAgent {
    fn from(value: &ToAgent) -> Self {
        use proto::to_agent::Message;
        let message = match value {
            ToAgent::Welcome(welcome) => Message::Welcome(welcome.into()),
            ToAgent::Refuse(refuse) => Message::Refuse(proto::Refuse {
                reason: refuse.reason.clone(),
                message: refuse.message.clone(),
                retry: refuse.retry,
            }),
            ToAgent::Work(work) => Message::Work(work.as_ref().into()),
            ToAgent::Blob { digest, offset, total, bytes } => Message::Blob(proto::BlobChunk {
                digest: digest_bytes(digest),
                offset: *offset,
                total: *total,
                bytes: bytes.clone(),
            }),
            ToAgent::Release { application, generation } => {
                Message::Release(proto::Release { application: application.0.clone(), generation: *generation })
            }
            ToAgent::Resume(token) => Message::Resume(token.into()),
            ToAgent::BeatAck => Message::BeatAck(proto::BeatAck {}),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::ToAgent> for ToAgent {
    type Error = Invalid;

    fn try_from(value: proto::ToAgent) -> Result<Self, Invalid> {
        use proto::to_agent::Message;
        Ok(match value.message.ok_or(Invalid::Missing("message"))? {
            Message::Welcome(welcome) => Self::Welcome(welcome.try_into()?),
            Message::Refuse(refuse) => Self::Refuse(Refuse {
                reason: word("refuse reason", refuse.reason)?,
                message: message("refuse message", refuse.message)?,
                retry: refuse.retry,
            }),
            Message::Work(work) => Self::Work(Arc::new(work.try_into()?)),
            Message::Blob(chunk) => blob(chunk)?,
            Message::Release(release) => Self::Release {
                application: uid("release application", release.application)?,
                generation: release.generation,
            },
            Message::Resume(token) => Self::Resume(token.try_into()?),
            Message::BeatAck(proto::BeatAck {}) => Self::BeatAck,
        })
    }
}

/// A chunk lies inside its blob, and a blob inside the limit, so that the receiver may add up without looking.
fn blob(chunk: proto::BlobChunk) -> Result<ToAgent, Invalid> {
    let outside =
        |field, value: u64, max: u64| Invalid::OutOfRange { field, value: value.into(), min: 0, max: max.into() };
    if chunk.total > limits::BLOB_BYTES_MAX {
        return Err(outside("blob total", chunk.total, limits::BLOB_BYTES_MAX));
    }
    let room = chunk.total.checked_sub(chunk.offset).ok_or(outside("blob offset", chunk.offset, chunk.total))?;
    if chunk.bytes.len() as u64 > room {
        return Err(outside("blob chunk", chunk.bytes.len() as u64, room));
    }
    Ok(ToAgent::Blob {
        digest: digest("blob digest", &chunk.digest)?,
        offset: chunk.offset,
        total: chunk.total,
        bytes: chunk.bytes,
    })
}

impl From<&Welcome> for proto::Welcome {
    fn from(welcome: &Welcome) -> Self {
        Self {
            protocol: welcome.protocol,
            features: welcome.features.clone(),
            hub: welcome.hub.0.clone(),
            incarnation: welcome.incarnation.0.clone(),
            cluster: welcome.cluster.0.clone(),
            cluster_name: welcome.cluster_name.clone(),
            hub_time_ms: welcome.hub_time.millis(),
            beat_interval_ms: welcome.beat_interval_ms,
            urls: welcome.urls.clone(),
        }
    }
}

impl TryFrom<proto::Welcome> for Welcome {
    type Error = Invalid;

    fn try_from(welcome: proto::Welcome) -> Result<Self, Invalid> {
        Ok(Self {
            protocol: welcome.protocol,
            features: features(welcome.features)?,
            hub: uid("hub", welcome.hub)?,
            incarnation: uid("incarnation", welcome.incarnation)?,
            cluster: uid("cluster", welcome.cluster)?,
            cluster_name: word("cluster name", welcome.cluster_name)?,
            hub_time: time("hub time", welcome.hub_time_ms)?,
            beat_interval_ms: welcome.beat_interval_ms,
            urls: urls(welcome.urls)?,
        })
    }
}

impl From<&Work> for proto::Work {
    fn from(work: &Work) -> Self {
        Self {
            application: Some((&work.application).into()),
            application_uid: work.application_uid.0.clone(),
            cluster: work.cluster.0.clone(),
            generation: work.generation,
            revision: work.revision.clone(),
            application_blob: digest_bytes(&work.application_blob),
            manifests: work.manifests.iter().map(Into::into).collect(),
            removals: work.removals.iter().map(Into::into).collect(),
            features: work.features.clone(),
            trace: work.trace.clone(),
            digest: digest_bytes(&work.digest()),
        }
    }
}

impl TryFrom<proto::Work> for Work {
    type Error = Invalid;

    fn try_from(work: proto::Work) -> Result<Self, Invalid> {
        let said = digest("work digest", &work.digest)?;
        let work = Self {
            application: object_name(work.application, "work application")?,
            application_uid: uid("work application uid", work.application_uid)?,
            cluster: uid("work cluster", work.cluster)?,
            generation: work.generation,
            revision: word("work revision", work.revision)?,
            application_blob: digest("application blob", &work.application_blob)?,
            manifests: list("manifests", limits::MANIFESTS_MAX, work.manifests, TryInto::try_into)?,
            removals: list("removals", limits::REMOVALS_MAX, work.removals, TryInto::try_into)?,
            features: features(work.features)?,
            trace: word("trace", work.trace)?,
        };
        let found = work.digest();
        if found == said { Ok(work) } else { Err(Invalid::DigestMismatch { said, found }) }
    }
}

impl From<&Manifest> for proto::Manifest {
    fn from(manifest: &Manifest) -> Self {
        let patch = |patch: &Patch| proto::Patch { pointer: patch.pointer.clone(), value: patch.value.to_string() };
        Self {
            component: manifest.component.clone(),
            object: Some((&manifest.object).into()),
            blob: digest_bytes(&manifest.blob),
            patches: manifest.patches.iter().map(patch).collect(),
            result: digest_bytes(&manifest.result),
        }
    }
}

impl TryFrom<proto::Manifest> for Manifest {
    type Error = Invalid;

    fn try_from(manifest: proto::Manifest) -> Result<Self, Invalid> {
        let patch = |patch: proto::Patch| {
            let value = text("patch value", limits::PATCH_BYTES_MAX, patch.value)?;
            Ok(Patch {
                pointer: text("patch pointer", limits::TEXT_BYTES_MAX, patch.pointer)?,
                value: serde_json::from_str(&value)
                    .map_err(|_| Invalid::Malformed { field: "patch value", expected: "JSON" })?,
            })
        };
        Ok(Self {
            component: word("component", manifest.component)?,
            object: object_ref(manifest.object)?,
            blob: digest("manifest blob", &manifest.blob)?,
            patches: list("patches", limits::PATCHES_MAX, manifest.patches, patch)?,
            result: digest("manifest result", &manifest.result)?,
        })
    }
}

impl From<&Removal> for proto::Removal {
    fn from(removal: &Removal) -> Self {
        let reason = match removal.reason {
            RemovalReason::NotInRevision => proto::RemovalReason::NotInRevision,
            RemovalReason::PlacedElsewhere => proto::RemovalReason::PlacedElsewhere,
            RemovalReason::ApplicationDeleted => proto::RemovalReason::ApplicationDeleted,
            RemovalReason::ClusterDrained => proto::RemovalReason::ClusterDrained,
        };
        Self {
            object: Some((&removal.object).into()),
            uid: removal.uid.as_ref().map(|uid| uid.0.clone()).unwrap_or_default(),
            revision: removal.revision.clone(),
            reason: reason.into(),
            author: removal.author.clone(),
        }
    }
}

impl TryFrom<proto::Removal> for Removal {
    type Error = Invalid;

    /// An order to delete is complete or it is none: revision, a known reason and an author (rule 1).
    fn try_from(removal: proto::Removal) -> Result<Self, Invalid> {
        let reason = match proto::RemovalReason::try_from(removal.reason) {
            Ok(proto::RemovalReason::NotInRevision) => RemovalReason::NotInRevision,
            Ok(proto::RemovalReason::PlacedElsewhere) => RemovalReason::PlacedElsewhere,
            Ok(proto::RemovalReason::ApplicationDeleted) => RemovalReason::ApplicationDeleted,
            Ok(proto::RemovalReason::ClusterDrained) => RemovalReason::ClusterDrained,
            Ok(proto::RemovalReason::Unspecified) | Err(_) => {
                return Err(Invalid::Malformed { field: "removal reason", expected: "a reason of this protocol" });
            }
        };
        if removal.author.is_empty() || removal.revision.is_empty() {
            return Err(Invalid::Missing("removal author or revision"));
        }
        Ok(Self {
            object: object_ref(removal.object)?,
            uid: optional_uid("removal uid", removal.uid)?,
            revision: word("removal revision", removal.revision)?,
            reason,
            author: text("removal author", limits::TEXT_BYTES_MAX, removal.author)?,
        })
    }
}
