//! Calls and answers between replicas, and the values of the store that they stand for.
//!
//! Owns: what an answer may look like to be believed. Must never: turn an answer that cannot be read into one that says
//! nothing was done.

use super::{
    convert::{bounded, decode_hash, encode_hash},
    limits, proto,
};
use crate::{
    model::Uid,
    store::{
        Entry, Error, KEY_BYTES_MAX, Key, OPERATIONS_MAX, Outcome,
        raft::{Chunk, Leadership, MemberStatus, Refusal, ReplicaId, Role, SnapshotId, Status},
    },
    wire::Invalid,
};

/// What a replica says of itself, and what the process around it adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub status: Status,
    pub disk_bytes: u64,
    pub version: String,
}

pub fn encode_commit(answer: Result<Outcome, Refusal>) -> proto::CommitReply {
    use proto::commit_reply::Answer;
    let answer = match answer {
        Ok(Outcome::Committed(revision)) => Answer::Committed(revision),
        Ok(Outcome::Conflict(current)) => {
            let current = current.into_iter().map(|entry| proto::Current { row: entry.map(encode_row) });
            Answer::Conflict(proto::Conflict { current: current.collect() })
        }
        Ok(Outcome::Unknown) => Answer::Unknown(proto::Unknown {}),
        Err(refusal) => Answer::Refusal(encode_refusal(refusal)),
    };
    proto::CommitReply { answer: Some(answer) }
}

/// An answer that cannot be read is a lost one: the command may have been committed.
pub fn decode_commit(reply: proto::CommitReply) -> Result<Outcome, Refusal> {
    use proto::commit_reply::Answer;
    match reply.answer {
        Some(Answer::Committed(revision)) => Ok(Outcome::Committed(revision)),
        Some(Answer::Conflict(conflict)) if conflict.current.len() <= OPERATIONS_MAX => {
            let rows = conflict.current.into_iter().map(|current| current.row.map(decode_row).transpose());
            Ok(rows.collect::<Result<_, _>>().map_or(Outcome::Unknown, Outcome::Conflict))
        }
        Some(Answer::Refusal(refusal)) => match decode_refusal(refusal) {
            Ok(refusal) => Err(refusal),
            Err(_) => Ok(Outcome::Unknown),
        },
        Some(Answer::Conflict(_) | Answer::Unknown(_)) | None => Ok(Outcome::Unknown),
    }
}

pub fn encode_refusal(refusal: Refusal) -> proto::Refusal {
    use proto::refusal::Why;
    let why = match refusal {
        Refusal::NotLeader(id) => Why::NotLeader(id),
        Refusal::Unreachable { to, why } => Why::Unavailable(format!("replica {to} cannot be reached: {why}")),
        Refusal::SnapshotGone => Why::SnapshotGone(proto::SnapshotGone {}),
        Refusal::Store(Error::Compacted(revision)) => Why::Compacted(revision),
        Refusal::Store(Error::Future { asked, current }) => Why::Future(proto::Future { asked, current }),
        Refusal::Store(Error::TooLarge(what)) => Why::TooLarge(what),
        Refusal::Store(Error::Unavailable(why)) => Why::Unavailable(why),
        Refusal::Store(Error::Closed(why)) => Why::Closed(why),
        Refusal::Store(Error::Malformed(why)) => Why::Malformed(why),
        // Of watches, which do not cross from replica to replica.
        Refusal::Store(error @ Error::Lagged) => Why::Unavailable(error.to_string()),
    };
    proto::Refusal { why: Some(why) }
}

pub fn decode_refusal(refusal: proto::Refusal) -> Result<Refusal, Invalid> {
    use proto::refusal::Why;
    Ok(match refusal.why.ok_or(Invalid::Missing("refusal"))? {
        Why::NotLeader(id) => Refusal::NotLeader(id),
        Why::SnapshotGone(proto::SnapshotGone {}) => Refusal::SnapshotGone,
        Why::Compacted(revision) => Refusal::Store(Error::Compacted(revision)),
        Why::Future(proto::Future { asked, current }) => Refusal::Store(Error::Future { asked, current }),
        Why::TooLarge(what) => Refusal::Store(Error::TooLarge(what)),
        Why::Unavailable(why) => Refusal::Store(Error::Unavailable(why)),
        Why::Closed(why) => Refusal::Store(Error::Closed(why)),
        Why::Malformed(why) => Refusal::Store(Error::Malformed(why)),
    })
}

pub fn encode_row(entry: Entry) -> proto::Row {
    let Entry { key, value, created, modified } = entry;
    proto::Row { key: key.as_str().to_owned(), value, created, modified }
}

pub fn decode_row(row: proto::Row) -> Result<Entry, Invalid> {
    let proto::Row { key, value, created, modified } = row;
    Ok(Entry { key: decode_key(key)?, value, created, modified })
}

pub fn decode_key(key: String) -> Result<Key, Invalid> {
    bounded("key", KEY_BYTES_MAX, key.len())?;
    if key.is_empty() { Err(Invalid::Missing("key")) } else { Ok(Key::new(key)) }
}

pub fn encode_snapshot_id(snapshot: &SnapshotId) -> proto::SnapshotId {
    proto::SnapshotId {
        incarnation: snapshot.incarnation.0.clone(),
        index: snapshot.index,
        term: snapshot.term,
        revision: snapshot.revision,
        hash: encode_hash(snapshot.hash),
    }
}

pub fn decode_snapshot_id(snapshot: proto::SnapshotId) -> Result<SnapshotId, Invalid> {
    Ok(SnapshotId {
        incarnation: decode_uid("incarnation", snapshot.incarnation)?,
        index: snapshot.index,
        term: snapshot.term,
        revision: snapshot.revision,
        hash: decode_hash(&snapshot.hash)?,
    })
}

pub fn decode_uid(field: &'static str, uid: String) -> Result<Uid, Invalid> {
    bounded(field, crate::wire::limits::WORD_BYTES_MAX, uid.len())?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match uid.is_empty() || !uid.bytes().all(plain) {
        true => Err(Invalid::Malformed { field, expected: "a uid" }),
        false => Ok(Uid(uid)),
    }
}

pub fn encode_fetch(answer: Result<Chunk, Refusal>) -> proto::FetchReply {
    match answer {
        Ok(Chunk { rows, next }) => {
            proto::FetchReply { rows, next: next.map(|key| key.as_str().to_owned()), refusal: None }
        }
        Err(refusal) => proto::FetchReply { refusal: Some(encode_refusal(refusal)), ..proto::FetchReply::default() },
    }
}

pub fn decode_fetch(reply: proto::FetchReply) -> Result<Result<Chunk, Refusal>, Invalid> {
    if let Some(refusal) = reply.refusal {
        return decode_refusal(refusal).map(Err);
    }
    Ok(Ok(Chunk { rows: reply.rows, next: reply.next.map(decode_key).transpose()? }))
}

pub fn encode_report(report: Report) -> proto::StatusReply {
    let Report { status, disk_bytes, version } = report;
    let role = match status.role {
        Role::Leader => proto::Role::Leader,
        Role::Follower => proto::Role::Follower,
        Role::Candidate => proto::Role::Candidate,
        Role::Learner => proto::Role::Learner,
    };
    let member = |(id, member): (ReplicaId, MemberStatus)| {
        let MemberStatus { learner, matched, active, snapshot } = member;
        proto::Member { id, learner, matched, active, snapshot }
    };
    proto::StatusReply {
        id: status.id,
        role: role.into(),
        term: status.leadership.term,
        leader: status.leadership.leader.unwrap_or(0),
        leads: status.leadership.here,
        committed: status.committed,
        applied: status.applied,
        revision: status.revision,
        hash_index: status.hash.0,
        hash: encode_hash(status.hash.1),
        checkpoint: status.checkpoint,
        members: status.members.into_iter().map(member).collect(),
        stopped: status.stopped.unwrap_or_default(),
        disk_bytes,
        version,
    }
}

pub fn decode_report(reply: proto::StatusReply) -> Result<Report, Invalid> {
    let role = match proto::Role::try_from(reply.role) {
        Ok(proto::Role::Leader) => Role::Leader,
        Ok(proto::Role::Follower) => Role::Follower,
        Ok(proto::Role::Candidate) => Role::Candidate,
        Ok(proto::Role::Learner) => Role::Learner,
        Ok(proto::Role::Unspecified) | Err(_) => return Err(Invalid::Malformed { field: "role", expected: "a role" }),
    };
    bounded("members", limits::MEMBERS_MAX, reply.members.len())?;
    bounded("version", crate::wire::limits::WORD_BYTES_MAX, reply.version.len())?;
    let member = |member: proto::Member| {
        let proto::Member { id, learner, matched, active, snapshot } = member;
        (id, MemberStatus { learner, matched, active, snapshot })
    };
    let leadership =
        Leadership { term: reply.term, leader: (reply.leader != 0).then_some(reply.leader), here: reply.leads };
    let status = Status {
        id: reply.id,
        role,
        leadership,
        committed: reply.committed,
        applied: reply.applied,
        revision: reply.revision,
        hash: (reply.hash_index, decode_hash(&reply.hash)?),
        checkpoint: reply.checkpoint,
        members: reply.members.into_iter().map(member).collect(),
        stopped: (!reply.stopped.is_empty()).then_some(reply.stopped),
    };
    Ok(Report { status, disk_bytes: reply.disk_bytes, version: reply.version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mvcc::StateHash;

    fn entry(name: &str) -> Entry {
        Entry { key: Key::new(name), value: bytes::Bytes::from_static(b"v"), created: 1, modified: 2 }
    }

    #[test]
    fn answers_to_commands_survive_the_wire() {
        let answers = [
            Ok(Outcome::Committed(7)),
            Ok(Outcome::Conflict(vec![Some(entry("a")), None])),
            Ok(Outcome::Unknown),
            Err(Refusal::NotLeader(3)),
            Err(Refusal::SnapshotGone),
            Err(Refusal::Store(Error::Compacted(4))),
            Err(Refusal::Store(Error::Future { asked: 5, current: 4 })),
            Err(Refusal::Store(Error::TooLarge("much".into()))),
            Err(Refusal::Store(Error::Unavailable("later".into()))),
            Err(Refusal::Store(Error::Closed("over".into()))),
            Err(Refusal::Store(Error::Malformed("odd".into()))),
        ];
        for answer in answers {
            assert_eq!(decode_commit(encode_commit(answer.clone())), answer);
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_a_lost_one() {
        use proto::commit_reply::Answer;
        let nameless = proto::Current { row: Some(proto::Row::default()) };
        let wordless = proto::Refusal { why: None };
        for answer in [
            None,
            Some(Answer::Conflict(proto::Conflict { current: vec![nameless] })),
            Some(Answer::Conflict(proto::Conflict { current: vec![proto::Current::default(); OPERATIONS_MAX + 1] })),
            Some(Answer::Refusal(wordless)),
        ] {
            assert_eq!(decode_commit(proto::CommitReply { answer }), Ok(Outcome::Unknown));
        }
    }

    #[test]
    fn snapshots_and_reports_survive_the_wire() {
        let snapshot =
            SnapshotId { incarnation: "life-1".into(), index: 9, term: 2, revision: 5, hash: StateHash(u128::MAX - 1) };
        assert_eq!(decode_snapshot_id(encode_snapshot_id(&snapshot)), Ok(snapshot));
        for chunk in [
            Ok(Chunk { rows: bytes::Bytes::from_static(b"rows"), next: Some(Key::new("k")) }),
            Ok(Chunk { rows: bytes::Bytes::new(), next: None }),
            Err(Refusal::SnapshotGone),
        ] {
            assert_eq!(decode_fetch(encode_fetch(chunk.clone())), Ok(chunk));
        }
        let member = MemberStatus { learner: true, matched: Some(3), active: Some(false), snapshot: true };
        let status = Status {
            id: 2,
            role: Role::Learner,
            leadership: Leadership { term: 4, leader: Some(1), here: false },
            committed: 10,
            applied: 9,
            revision: 8,
            hash: (7, StateHash(6)),
            checkpoint: 5,
            members: [(1, MemberStatus::default()), (2, member)].into(),
            stopped: Some("the disk failed".into()),
        };
        let report = Report { status, disk_bytes: 1 << 40, version: "1.2.3".into() };
        assert_eq!(decode_report(encode_report(report.clone())), Ok(report));
    }
}
