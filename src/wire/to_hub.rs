//! What agents send.

use super::{
    Invalid, limits,
    parts::{digest, digest_bytes, features, list, message, object_ref, optional_uid, resources, uid, word},
    proto,
};
use crate::model::{
    Report,
    cluster::Facts,
    protocol::{Hello, LedgerLine, ResumeToken, ToHub},
    report::{ComponentReport, Health, ObjectReport, ObjectState, Refused, ReplicaCount, WorkloadReport},
};

impl From<&ToHub> for proto::ToHub {
    fn from(value: &ToHub) -> Self {
        use proto::to_hub::Message;
        let message = match value {
            ToHub::Hello(hello) => Message::Hello(hello.as_ref().into()),
            ToHub::FetchBlobs(digests) => {
                Message::FetchBlobs(proto::FetchBlobs { digests: digests.iter().map(digest_bytes).collect() })
            }
            ToHub::Report(report) => Message::Report(report.as_ref().into()),
            ToHub::Sketch(sketch) => Message::Sketch(sketch.into()),
            ToHub::Facts(facts) => Message::Facts(facts.into()),
            ToHub::Beat => Message::Beat(proto::Beat {}),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::ToHub> for ToHub {
    type Error = Invalid;

    fn try_from(value: proto::ToHub) -> Result<Self, Invalid> {
        use proto::to_hub::Message;
        Ok(match value.message.ok_or(Invalid::Missing("message"))? {
            Message::Hello(hello) => Self::Hello(Box::new(hello.try_into()?)),
            Message::FetchBlobs(fetch) => {
                Self::FetchBlobs(list("digests", limits::FETCH_MAX, fetch.digests, |bytes| {
                    digest("blob digest", &bytes)
                })?)
            }
            Message::Report(report) => Self::Report(Box::new(report.try_into()?)),
            Message::Sketch(sketch) => Self::Sketch(sketch.into()),
            Message::Facts(facts) => Self::Facts(facts.try_into()?),
            Message::Beat(proto::Beat {}) => Self::Beat,
        })
    }
}

impl From<&Hello> for proto::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol_min: hello.protocol_min,
            protocol_max: hello.protocol_max,
            features: hello.features.clone(),
            session_epoch: hello.session_epoch,
            instance: hello.instance.clone(),
            incarnation: hello.incarnation.as_ref().map(|uid| uid.0.clone()).unwrap_or_default(),
            resume: hello.resume.as_ref().map(Into::into),
            ledger: hello.ledger.iter().map(Into::into).collect(),
            facts: Some((&hello.facts).into()),
            sketch: hello.sketch.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = Invalid;

    fn try_from(hello: proto::Hello) -> Result<Self, Invalid> {
        Ok(Self {
            protocol_min: hello.protocol_min,
            protocol_max: hello.protocol_max,
            features: features(hello.features)?,
            session_epoch: hello.session_epoch,
            instance: word("instance", hello.instance)?,
            incarnation: optional_uid("incarnation", hello.incarnation)?,
            resume: hello.resume.map(TryInto::try_into).transpose()?,
            ledger: list("ledger", limits::LEDGER_LINES_MAX, hello.ledger, TryInto::try_into)?,
            facts: hello.facts.ok_or(Invalid::Missing("facts"))?.try_into()?,
            sketch: hello.sketch.map(Into::into),
        })
    }
}

impl From<&LedgerLine> for proto::LedgerLine {
    fn from(line: &LedgerLine) -> Self {
        Self {
            application: line.application.0.clone(),
            generation: line.generation,
            digest: digest_bytes(&line.digest),
        }
    }
}

impl TryFrom<proto::LedgerLine> for LedgerLine {
    type Error = Invalid;

    fn try_from(line: proto::LedgerLine) -> Result<Self, Invalid> {
        Ok(Self {
            application: uid("ledger application", line.application)?,
            generation: line.generation,
            digest: digest("ledger digest", &line.digest)?,
        })
    }
}

impl From<&ResumeToken> for proto::ResumeToken {
    fn from(token: &ResumeToken) -> Self {
        Self { revision: token.revision, mac: token.mac.clone().into() }
    }
}

impl TryFrom<proto::ResumeToken> for ResumeToken {
    type Error = Invalid;

    fn try_from(token: proto::ResumeToken) -> Result<Self, Invalid> {
        // SHA-256 and nothing else: a MAC of another length cannot be one of ours.
        digest("resume token", &token.mac)?;
        Ok(Self { revision: token.revision, mac: token.mac.into() })
    }
}

impl From<&Facts> for proto::Facts {
    fn from(facts: &Facts) -> Self {
        Self {
            kubernetes_version: facts.kubernetes_version.clone(),
            agent_version: facts.agent_version.clone(),
            region: facts.region.clone(),
            zone: facts.zone.clone(),
            system_uid: facts.system_uid.clone(),
        }
    }
}

impl TryFrom<proto::Facts> for Facts {
    type Error = Invalid;

    fn try_from(facts: proto::Facts) -> Result<Self, Invalid> {
        Ok(Self {
            kubernetes_version: word("kubernetes version", facts.kubernetes_version)?,
            agent_version: word("agent version", facts.agent_version)?,
            region: word("region", facts.region)?,
            zone: word("zone", facts.zone)?,
            system_uid: word("system uid", facts.system_uid)?,
        })
    }
}

impl From<&Report> for proto::Report {
    fn from(report: &Report) -> Self {
        let refused =
            |refused: &Refused| proto::Refused { reason: refused.reason.clone(), message: refused.message.clone() };
        Self {
            application: report.application.0.clone(),
            cluster: report.cluster.0.clone(),
            generation: report.generation,
            revision: report.revision.clone(),
            applied: report.applied,
            refused: report.refused.as_ref().map(refused),
            components: report.components.iter().map(Into::into).collect(),
            objects: report.objects.iter().map(Into::into).collect(),
            removed: report.removed.iter().map(Into::into).collect(),
            trace: report.trace.clone(),
        }
    }
}

impl TryFrom<proto::Report> for Report {
    type Error = Invalid;

    fn try_from(report: proto::Report) -> Result<Self, Invalid> {
        let refused = |refused: proto::Refused| {
            Ok(Refused {
                reason: word("refused reason", refused.reason)?,
                message: message("refused message", refused.message)?,
            })
        };
        Ok(Self {
            application: uid("report application", report.application)?,
            cluster: uid("report cluster", report.cluster)?,
            generation: report.generation,
            revision: word("report revision", report.revision)?,
            applied: report.applied,
            refused: report.refused.map(refused).transpose()?,
            components: list("components", limits::COMPONENTS_MAX, report.components, TryInto::try_into)?,
            objects: list("objects", limits::MANIFESTS_MAX + limits::REMOVALS_MAX, report.objects, TryInto::try_into)?,
            removed: list("removed", limits::REMOVALS_MAX, report.removed, |object| object_ref(Some(object)))?,
            trace: word("trace", report.trace)?,
        })
    }
}

impl From<&ComponentReport> for proto::ComponentReport {
    fn from(component: &ComponentReport) -> Self {
        let workload = |workload: &WorkloadReport| proto::WorkloadReport {
            object: Some((&workload.object).into()),
            replicas: Some(workload.replicas.into()),
            held: workload.held.0.clone().into_iter().collect(),
            scaled: workload.scaled,
        };
        Self {
            name: component.name.clone(),
            healthy: component.healthy,
            message: component.message.clone(),
            replicas: component.replicas.map(Into::into),
            held: component.held.0.clone().into_iter().collect(),
            scaled: component.scaled,
            workloads: component.workloads.iter().map(workload).collect(),
        }
    }
}

impl TryFrom<proto::ComponentReport> for ComponentReport {
    type Error = Invalid;

    fn try_from(component: proto::ComponentReport) -> Result<Self, Invalid> {
        let workload = |workload: proto::WorkloadReport| {
            Ok(WorkloadReport {
                object: object_ref(workload.object)?,
                replicas: workload.replicas.unwrap_or_default().into(),
                held: resources(workload.held)?,
                scaled: workload.scaled,
            })
        };
        Ok(Self {
            name: word("component name", component.name)?,
            healthy: component.healthy,
            message: message("component message", component.message)?,
            replicas: component.replicas.map(Into::into),
            held: resources(component.held)?,
            scaled: component.scaled,
            workloads: list("workloads", limits::MANIFESTS_MAX, component.workloads, workload)?,
        })
    }
}

impl From<ReplicaCount> for proto::ReplicaCount {
    fn from(ReplicaCount { desired, ready, updated, bound }: ReplicaCount) -> Self {
        Self { desired, ready, updated, bound }
    }
}

impl From<proto::ReplicaCount> for ReplicaCount {
    fn from(count: proto::ReplicaCount) -> Self {
        let proto::ReplicaCount { desired, ready, updated, bound } = count;
        Self { desired, ready, updated, bound }
    }
}

impl From<&ObjectReport> for proto::ObjectReport {
    fn from(object: &ObjectReport) -> Self {
        let state = match object.state {
            ObjectState::Pending => proto::ObjectState::Pending,
            ObjectState::Applied => proto::ObjectState::Applied,
            ObjectState::Refused => proto::ObjectState::Refused,
            ObjectState::Paused => proto::ObjectState::Paused,
            ObjectState::Removing => proto::ObjectState::Removing,
        };
        let health = match object.health {
            Health::Healthy => proto::Health::Healthy,
            Health::Progressing => proto::Health::Progressing,
            Health::Unhealthy => proto::Health::Unhealthy,
            Health::Unknown => proto::Health::Unknown,
        };
        Self {
            object: Some((&object.object).into()),
            uid: object.uid.as_ref().map(|uid| uid.0.clone()).unwrap_or_default(),
            state: state.into(),
            health: health.into(),
            reason: object.reason.clone(),
            message: object.message.clone(),
        }
    }
}

impl TryFrom<proto::ObjectReport> for ObjectReport {
    type Error = Invalid;

    fn try_from(object: proto::ObjectReport) -> Result<Self, Invalid> {
        let state = match proto::ObjectState::try_from(object.state) {
            Ok(proto::ObjectState::Pending) => ObjectState::Pending,
            Ok(proto::ObjectState::Applied) => ObjectState::Applied,
            Ok(proto::ObjectState::Refused) => ObjectState::Refused,
            Ok(proto::ObjectState::Paused) => ObjectState::Paused,
            Ok(proto::ObjectState::Removing) => ObjectState::Removing,
            Ok(proto::ObjectState::Unspecified) | Err(_) => {
                return Err(Invalid::Malformed { field: "object state", expected: "a state of this protocol" });
            }
        };
        let health = match proto::Health::try_from(object.health) {
            Ok(proto::Health::Healthy) => Health::Healthy,
            Ok(proto::Health::Progressing) => Health::Progressing,
            Ok(proto::Health::Unhealthy) => Health::Unhealthy,
            Ok(proto::Health::Unknown) => Health::Unknown,
            Ok(proto::Health::Unspecified) | Err(_) => {
                return Err(Invalid::Malformed { field: "object health", expected: "a health of this protocol" });
            }
        };
        Ok(Self {
            object: object_ref(object.object)?,
            uid: optional_uid("object uid", object.uid)?,
            state,
            health,
            reason: word("object reason", object.reason)?,
            message: message("object message", object.message)?,
        })
    }
}
