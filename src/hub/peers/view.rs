//! The group as this replica sees it: what it says of itself, and what the others answered last.
//!
//! Owns: the status that is shown with Replica objects. Must never: ask the store for it, or wait: it is what is left to
//! look at when there is no quorum.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Network, Report};
use crate::{
    hub::api::ports::{Group, Overlay},
    model::Uid,
    store::raft::{ReplicaId, Role},
};

/// How often the others are asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the disk is measured, in rounds of asking.
const DISK_ROUNDS: u32 = 10;
/// In which POSIX counts what a file takes.
const BLOCK_BYTES: u64 = 512;

pub struct View {
    network: Arc<Network>,
    /// This one among them.
    answers: RwLock<BTreeMap<ReplicaId, Answer>>,
}

/// What a replica said of itself, or why it says nothing.
type Answer = Result<Report, String>;

impl View {
    pub fn new(network: Arc<Network>) -> Arc<Self> {
        Arc::new(Self { network, answers: RwLock::default() })
    }

    /// Asks the others, over and over, and measures this one's directory. Ends early where they are a group without it.
    pub async fn run(self: Arc<Self>, dir: PathBuf, stop: CancellationToken) -> anyhow::Result<()> {
        for round in 0u32.. {
            if round.is_multiple_of(DISK_ROUNDS) {
                let dir = dir.clone();
                if let Ok(bytes) = tokio::task::spawn_blocking(move || bytes_below(&dir)).await {
                    self.network.set_disk_bytes(bytes);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.ask() => {}
            }
            if let Some(id) = self.network.replica()
                && is_removed(id, &self.answers.read())
            {
                bail!(
                    "replica {id} was removed from its group: its directory is of no use any more; to be one of them again, join \
                     with an empty one (hanse hub invite)"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
        Ok(())
    }

    /// One round: whoever does not answer within the interval does not answer.
    async fn ask(&self) {
        let ids = self.network.others();
        let ask = async |id| {
            let answer = match tokio::time::timeout(INTERVAL, self.network.ask(id)).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            (id, answer)
        };
        let mut answers: BTreeMap<_, _> = ids.into_iter().map(ask).collect::<FuturesUnordered<_>>().collect().await;
        if let Some(id) = self.network.replica() {
            answers.insert(id, self.network.report().await.map_err(|error| error.to_string()));
        }
        *self.answers.write() = answers;
    }
}

/// Whether a replica that was in the group is no more: it has seen so itself, or the one that leads, and knows no less, says
/// so. One that only just joined has nothing yet that it could have been removed from.
fn is_removed(id: ReplicaId, answers: &BTreeMap<ReplicaId, Answer>) -> bool {
    let Some(Ok(own)) = answers.get(&id) else { return false };
    let was_in = own.status.applied > 0 && own.status.role != Role::Leader;
    let without = |report: &Report| !report.status.members.is_empty() && !report.status.members.contains_key(&id);
    let leads = |report: &&Report| report.status.leadership.here && report.status.applied >= own.status.applied;
    was_in && (without(own) || answers.values().flatten().filter(leads).any(without))
}

/// What is shown of each replica, by id: those that were asked, and those that the group is of.
fn statuses(reports: &BTreeMap<ReplicaId, Answer>) -> BTreeMap<ReplicaId, Value> {
    let heard = || reports.values().flatten();
    let leader = heard().filter(|report| report.status.role == Role::Leader).max_by_key(|r| r.status.leadership.term);
    let last = heard().map(|report| report.status.committed).max().unwrap_or(0);
    let known = heard().flat_map(|report| report.status.members.keys());
    let ids: BTreeSet<ReplicaId> = reports.keys().chain(known).copied().collect();
    let status = |id: ReplicaId| match reports.get(&id) {
        Some(Ok(report)) => shown(report, last),
        Some(Err(why)) => {
            // What the leader last knew it to have: how much it will have to catch up on. A new one knows nothing.
            let matched = leader.and_then(|leader| leader.status.members.get(&id)?.matched).filter(|index| *index > 0);
            json!({"role": "Unreachable", "lag": matched.map(|matched| last.saturating_sub(matched)), "message": why})
        }
        None => json!({"role": "Unreachable", "message": "its address is not known here"}),
    };
    ids.into_iter().map(|id| (id, status(id))).collect()
}

fn shown(report: &Report, last: u64) -> Value {
    let status = &report.status;
    let role = match (status.role, &status.stopped) {
        (_, Some(_)) => "Stopped",
        (Role::Leader, None) => "Leader",
        (Role::Follower, None) => "Follower",
        (Role::Candidate, None) => "Candidate",
        (Role::Learner, None) => "Learner",
    };
    let mut shown = json!({
        "role": role,
        "term": status.leadership.term,
        "lag": last.saturating_sub(status.applied),
        "committed": status.committed,
        "applied": status.applied,
        "revision": status.revision,
        "hash": {"index": status.hash.0, "value": status.hash.1.to_string()},
        "snapshot": status.checkpoint,
        "diskBytes": report.disk_bytes,
        "version": report.version,
    });
    if let Some(leader) = status.leadership.leader {
        shown["leader"] = json!(leader);
    }
    if let Some(stopped) = &status.stopped {
        shown["message"] = json!(stopped);
    }
    shown
}

impl Overlay for View {
    fn apply(&self, _: &Uid, object: &mut Value) {
        let id = object["metadata"]["name"].as_str().and_then(|name| name.parse().ok());
        let status = id.and_then(|id: ReplicaId| statuses(&self.answers.read()).remove(&id));
        object["status"] =
            status.unwrap_or_else(|| json!({"role": "Unreachable", "message": "nothing was heard of it"}));
    }
}

impl Group for View {
    fn show(&self) -> Value {
        let answers = self.answers.read();
        let own = self.network.replica().and_then(|id| answers.get(&id)?.as_ref().ok());
        let voters = own.iter().flat_map(|own| &own.status.members).filter(|(_, member)| !member.learner);
        let voters: BTreeSet<ReplicaId> = voters.map(|(id, _)| *id).collect();
        let answering =
            voters.iter().filter(|id| matches!(answers.get(id), Some(Ok(report)) if report.status.stopped.is_none()));
        json!({
            "replica": self.network.replica(),
            "leader": own.and_then(|own| own.status.leadership.leader),
            "term": own.map(|own| own.status.leadership.term),
            "voters": voters.len(),
            "answering": answering.count(),
            "replicas": statuses(&answers).into_iter().map(|(id, status)| {
                json!({"name": id.to_string(), "peerAddress": self.network.address(id), "status": status})
            }).collect::<Vec<_>>(),
        })
    }
}

/// What is taken of the disk, which is less than the length of files with holes. Files come and go meanwhile: what cannot be
/// read counts nothing.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        mvcc::StateHash,
        raft::{Leadership, MemberStatus, Status},
    };

    fn report(id: ReplicaId, role: Role, applied: u64) -> Report {
        let member = |matched| MemberStatus { matched, ..MemberStatus::default() };
        let status = Status {
            id,
            role,
            leadership: Leadership { term: 4, leader: Some(1), here: role == Role::Leader },
            committed: applied,
            applied,
            revision: 3,
            hash: (2, StateHash(0xab)),
            checkpoint: 1,
            members: [(1, member(Some(10))), (2, member(Some(9))), (3, member(Some(4))), (4, member(Some(0)))].into(),
            stopped: None,
        };
        Report { status, disk_bytes: 7, version: "1".into() }
    }

    #[test]
    fn each_replica_is_shown_with_what_it_says_and_the_silent_ones_with_why() {
        let reports = [
            (1, Ok(report(1, Role::Leader, 10))),
            (2, Ok(report(2, Role::Follower, 8))),
            (3, Err("replica 3 cannot be reached: connection refused".to_owned())),
            (4, Err("replica 4 cannot be reached: connection refused".to_owned())),
        ];
        let shown = statuses(&reports.into());
        let field = |id: ReplicaId, pointer: &str| shown[&id].pointer(pointer).cloned().unwrap_or_default();
        assert_eq!([field(1, "/role"), field(2, "/role"), field(3, "/role")], ["Leader", "Follower", "Unreachable"]);
        assert_eq!([field(1, "/lag"), field(2, "/lag"), field(3, "/lag")], [0, 2, 6]);
        assert_eq!(field(4, "/lag"), Value::Null, "nothing is known, which is not all of it");
        assert_eq!(field(1, "/hash/value"), "000000000000000000000000000000ab");
        assert!(field(3, "/message").as_str().is_some_and(|why| why.contains("refused")));
    }

    #[test]
    fn members_that_nobody_could_be_asked_are_not_left_out() {
        let shown = statuses(&[(1, Ok(report(1, Role::Candidate, 10)))].into());
        assert_eq!(shown.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(shown[&2]["role"], "Unreachable");
    }

    #[test]
    fn a_replica_knows_that_it_was_removed_and_does_not_guess() {
        let group = |own: Report, leader: Report| [(5, Ok(own)), (1, Ok(leader))].into();
        let own = |applied| {
            let mut own = report(5, Role::Follower, applied);
            own.status.members.insert(5, MemberStatus::default());
            own
        };
        let leader = |applied| report(1, Role::Leader, applied);
        assert!(is_removed(5, &group(own(8), leader(10))), "the leader says so");
        assert!(is_removed(5, &group(report(5, Role::Follower, 8), leader(0))), "it has seen so itself");
        assert!(!is_removed(5, &group(own(0), leader(10))), "it is not in it yet");
        assert!(!is_removed(5, &group(own(12), leader(10))), "that leader may not have heard of it yet");
        assert!(!is_removed(5, &group(own(8), report(1, Role::Follower, 10))), "that one does not lead");
        assert!(!is_removed(1, &group(own(8), leader(10))));
        assert!(!is_removed(5, &[(5, Ok(own(8))), (1, Err("away".to_owned()))].into()), "silence says nothing");
    }

    #[test]
    fn what_is_shown_fits_the_schema() {
        let kind = &*crate::kinds::REPLICA;
        let mut stopped = report(1, Role::Leader, 10);
        stopped.status.stopped = Some("the disk failed".into());
        for status in statuses(&[(1, Ok(stopped)), (2, Err("away".into()))].into()).into_values() {
            let object = json!({"metadata": {"name": "1"}, "status": status});
            let declared = kind.schema.property("status").expect("a status");
            for name in object["status"].as_object().expect("an object").keys() {
                assert!(declared.property(name).is_some(), "{name}");
            }
        }
    }
}
