//! What a replica tells the one that leads of the agents connected to it, and what comes back.

use super::{
    Invalid, limits,
    parts::{bounded, list, message, object_name, time, uid, word},
    proto,
};
use crate::model::{
    About, Application, GroupVersionKind, Note, ObjectName, Report, Sketch, Timestamp, Uid, application::ClusterSet,
    cluster::Facts,
};

/// `session` names an agent's stream within its replica, across the replica's restarts.
#[derive(Debug, Clone, PartialEq)]
pub enum ToDesk {
    /// First: the streams that stand.
    Begin {
        sessions: Vec<u64>,
    },
    /// A stream wants to act for its cluster.
    Claim {
        session: u64,
        cluster: Uid,
        instance: String,
        epoch: u64,
    },
    /// What the agent of a granted stream said.
    Said {
        session: u64,
        /// For how long the replica has held it.
        age_ms: u64,
        fact: Fact,
    },
    Left {
        session: u64,
    },
    /// An agent proved that the store once was at `revision`, which it has not reached (again).
    WentBack {
        cluster: Uid,
        revision: u64,
    },
    Note(Note),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A sign of life and nothing else.
    Beat,
    Facts(Facts),
    Sketch(Sketch),
    /// Numbered, so that [`FromDesk::Settled`] can say which it is done with.
    Report {
        number: u64,
        report: Box<Report>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum FromDesk {
    Ruling {
        session: u64,
        ruling: Ruling,
    },
    /// Reports up to this number are stored, or say nothing new.
    Settled {
        number: u64,
    },
    /// When clusters were last heard of, by the leader's clock.
    Beats(Vec<(Uid, Timestamp)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    Granted,
    /// Another stream of the same identity acts instead.
    Superseded,
    /// Two holders of one identity are alive: neither acts.
    Frozen,
}

/// What the leader would decide, asked by another replica or itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The store's revision that the asker has seen: the answer is not to be older.
    pub least: u64,
    pub asked: Asked,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Where this Application is, and why.
    Explain(ObjectName),
    /// Where a rebalance would have it.
    Rebalance(ObjectName),
    /// Where it would be; admitted.
    Plan(Box<Application>),
    /// If all clusters of all these sets were lost at once.
    Drill(Vec<ClusterSet>),
}

impl From<&Question> for proto::DeskQuestion {
    fn from(value: &Question) -> Self {
        use proto::desk_question::Question as Of;
        let question = match &value.asked {
            Asked::Explain(name) => Of::Explain(name.into()),
            Asked::Rebalance(name) => Of::Rebalance(name.into()),
            Asked::Plan(application) => Of::Plan(json(application)),
            Asked::Drill(lose) => Of::Drill(json(lose)),
        };
        Self { least: value.least, question: Some(question) }
    }
}

impl TryFrom<proto::DeskQuestion> for Question {
    type Error = Invalid;

    fn try_from(value: proto::DeskQuestion) -> Result<Self, Invalid> {
        use proto::desk_question::Question as Of;
        let asked = match value.question.ok_or(Invalid::Missing("question"))? {
            Of::Explain(name) => Asked::Explain(object_name(Some(name), "application")?),
            Of::Rebalance(name) => Asked::Rebalance(object_name(Some(name), "application")?),
            Of::Plan(bytes) => Asked::Plan(Box::new(read(&bytes, "plan", "an Application")?)),
            Of::Drill(bytes) => Asked::Drill(read(&bytes, "drill", "a list of sets of clusters")?),
        };
        Ok(Self { least: value.least, asked })
    }
}

fn json(value: &impl serde::Serialize) -> bytes::Bytes {
    // Maps with text for keys always are JSON.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn read<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    field: &'static str,
    expected: &'static str,
) -> Result<T, Invalid> {
    serde_json::from_slice(bytes).map_err(|_| Invalid::Malformed { field, expected })
}

impl From<&ToDesk> for proto::ToDesk {
    fn from(value: &ToDesk) -> Self {
        use proto::to_desk::Message;
        let message = match value {
            ToDesk::Begin { sessions } => Message::Begin(proto::DeskBegin { sessions: sessions.clone() }),
            ToDesk::Claim { session, cluster, instance, epoch } => Message::Claim(proto::DeskClaim {
                session: *session,
                cluster: cluster.0.clone(),
                instance: instance.clone(),
                epoch: *epoch,
            }),
            ToDesk::Said { session, age_ms, fact } => {
                Message::Said(proto::DeskSaid { session: *session, age_ms: *age_ms, fact: Some(fact.into()) })
            }
            ToDesk::Left { session } => Message::Left(proto::DeskLeft { session: *session }),
            ToDesk::WentBack { cluster, revision } => {
                Message::WentBack(proto::DeskWentBack { cluster: cluster.0.clone(), revision: *revision })
            }
            ToDesk::Note(note) => Message::Note(note.into()),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::ToDesk> for ToDesk {
    type Error = Invalid;

    fn try_from(value: proto::ToDesk) -> Result<Self, Invalid> {
        use proto::to_desk::Message;
        Ok(match value.message.ok_or(Invalid::Missing("message"))? {
            Message::Begin(begin) => {
                bounded("sessions", limits::SESSIONS_MAX, begin.sessions.len())?;
                Self::Begin { sessions: begin.sessions }
            }
            Message::Claim(claim) => Self::Claim {
                session: claim.session,
                cluster: uid("claim cluster", claim.cluster)?,
                instance: word("instance", claim.instance)?,
                epoch: claim.epoch,
            },
            Message::Said(said) => Self::Said {
                session: said.session,
                age_ms: said.age_ms,
                fact: said.fact.ok_or(Invalid::Missing("fact"))?.try_into()?,
            },
            Message::Left(left) => Self::Left { session: left.session },
            Message::WentBack(back) => {
                Self::WentBack { cluster: uid("cluster", back.cluster)?, revision: back.revision }
            }
            Message::Note(note) => Self::Note(note.try_into()?),
        })
    }
}

impl From<&Fact> for proto::desk_said::Fact {
    fn from(fact: &Fact) -> Self {
        match fact {
            Fact::Beat => Self::Beat(proto::Beat {}),
            Fact::Facts(facts) => Self::Facts(facts.into()),
            Fact::Sketch(sketch) => Self::Sketch(sketch.into()),
            Fact::Report { number, report } => {
                Self::Report(proto::DeskReport { number: *number, report: Some(report.as_ref().into()) })
            }
        }
    }
}

impl TryFrom<proto::desk_said::Fact> for Fact {
    type Error = Invalid;

    fn try_from(fact: proto::desk_said::Fact) -> Result<Self, Invalid> {
        use proto::desk_said::Fact as Wire;
        Ok(match fact {
            Wire::Beat(proto::Beat {}) => Self::Beat,
            Wire::Facts(facts) => Self::Facts(facts.try_into()?),
            Wire::Sketch(sketch) => Self::Sketch(sketch.into()),
            Wire::Report(numbered) => {
                let report = numbered.report.ok_or(Invalid::Missing("report"))?;
                Self::Report { number: numbered.number, report: Box::new(report.try_into()?) }
            }
        })
    }
}

impl From<&Note> for proto::DeskNote {
    fn from(note: &Note) -> Self {
        let About { gvk, name, uid } = &note.about;
        Self {
            group: gvk.group.clone(),
            version: gvk.version.clone(),
            kind: gvk.kind.clone(),
            name: Some(name.into()),
            uid: uid.0.clone(),
            warning: note.warning,
            reason: note.reason.clone().into_owned(),
            text: note.message.clone(),
        }
    }
}

impl TryFrom<proto::DeskNote> for Note {
    type Error = Invalid;

    fn try_from(note: proto::DeskNote) -> Result<Self, Invalid> {
        let gvk = GroupVersionKind {
            group: word("group", note.group)?,
            version: word("version", note.version)?,
            kind: word("kind", note.kind)?,
        };
        Ok(Self {
            about: About { gvk, name: object_name(note.name, "name")?, uid: uid("uid", note.uid)? },
            warning: note.warning,
            reason: word("reason", note.reason)?.into(),
            message: message("text", note.text)?,
        })
    }
}

impl From<&FromDesk> for proto::FromDesk {
    fn from(value: &FromDesk) -> Self {
        use proto::from_desk::Message;
        let message = match value {
            FromDesk::Ruling { session, ruling } => {
                let ruling = match ruling {
                    Ruling::Granted => proto::Ruling::Granted,
                    Ruling::Superseded => proto::Ruling::Superseded,
                    Ruling::Frozen => proto::Ruling::Frozen,
                };
                Message::Ruling(proto::DeskRuling { session: *session, ruling: ruling.into() })
            }
            FromDesk::Settled { number } => Message::Settled(proto::DeskSettled { number: *number }),
            FromDesk::Beats(beats) => {
                let beat = |(cluster, at): &(Uid, Timestamp)| proto::DeskBeat {
                    cluster: cluster.0.clone(),
                    at_ms: at.millis(),
                };
                Message::Beats(proto::DeskBeats { beats: beats.iter().map(beat).collect() })
            }
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<proto::FromDesk> for FromDesk {
    type Error = Invalid;

    fn try_from(value: proto::FromDesk) -> Result<Self, Invalid> {
        use proto::from_desk::Message;
        Ok(match value.message.ok_or(Invalid::Missing("message"))? {
            Message::Ruling(ruled) => {
                let ruling = match proto::Ruling::try_from(ruled.ruling) {
                    Ok(proto::Ruling::Granted) => Ruling::Granted,
                    Ok(proto::Ruling::Superseded) => Ruling::Superseded,
                    Ok(proto::Ruling::Frozen) => Ruling::Frozen,
                    Ok(proto::Ruling::Unspecified) | Err(_) => {
                        return Err(Invalid::Malformed { field: "ruling", expected: "a ruling of this protocol" });
                    }
                };
                Self::Ruling { session: ruled.session, ruling }
            }
            Message::Settled(settled) => Self::Settled { number: settled.number },
            Message::Beats(beats) => Self::Beats(list("beats", limits::BEATS_MAX, beats.beats, |beat| {
                Ok((uid("beat cluster", beat.cluster)?, time("beat", beat.at_ms)?))
            })?),
        })
    }
}
