//! Who belongs to the group, and who leads it, as far as people and the leader ask for it.
//!
//! Owns: which change may be made, the promotion of those who have caught up, and who gets the lead that is given away.

use std::collections::BTreeSet;

use raft::{
    ProgressState, SnapshotStatus,
    eraftpb::{self, EntryType},
};

use super::Core;
use crate::store::{
    Error,
    raft::{Change, Refusal, ReplicaId},
};

/// A member that was told to fetch a snapshot and says nothing for so long is told again.
const SNAPSHOT_MS: u64 = 30_000;
/// A learner this close to the leader becomes a voter.
const PROMOTE_BEHIND_MAX: u64 = 256;

/// The changes among these entries.
pub(super) fn changes(entries: &[eraftpb::Entry]) -> Vec<Change> {
    let changes = entries.iter().filter(|entry| entry.entry_type != EntryType::EntryNormal);
    changes.filter_map(|entry| Change::decode(&entry.context)).collect()
}

/// Who is removed by them.
pub(super) fn removed(changes: &[Change]) -> Vec<ReplicaId> {
    let removed = |change: &Change| match change {
        Change::Remove(id) => Some(*id),
        Change::Add(_) | Change::Promote(_) => None,
    };
    changes.iter().filter_map(removed).collect()
}

impl Core {
    pub(super) fn change(&mut self, id: u64, change: Change) {
        if let Err(refusal) = self.may_change(change) {
            return self.answer(id, Err(refusal));
        }
        let before = self.raw.raft.raft_log.last_index();
        match self.raw.propose_conf_change(change.encode(), change.conf_change()) {
            Ok(()) => self.wait_for(before + 1, id, None),
            Err(error) => self.answer(id, Err(Error::Unavailable(error.to_string()).into())),
        }
    }

    fn may_change(&mut self, change: Change) -> Result<(), Refusal> {
        let me = self.settings.id;
        if !self.is_leader() {
            return Err(Refusal::NotLeader(me));
        }
        let refuse = |why: String| Err(Error::Unavailable(why).into());
        if let Change::Remove(id) = change {
            if id == me {
                self.hand_over();
                return if self.raw.raft.lead_transferee.is_some() {
                    Err(Refusal::NotLeader(me))
                } else {
                    refuse(format!("replica {id} leads, and no other could"))
                };
            }
            let left = self.conf().voters.iter().filter(|voter| **voter != id);
            let alive = |voter: &&&ReplicaId| self.answers(***voter);
            let (left, alive) = (left.clone().count(), left.clone().filter(|voter| alive(&voter)).count());
            if alive < left / 2 + 1 {
                return refuse(format!(
                    "without replica {id}, {left} would vote and {alive} of them answer: no write could be committed"
                ));
            }
        }
        Ok(())
    }

    /// To the voter that lacks least.
    pub(super) fn hand_over(&mut self) {
        if !self.is_leader() {
            return;
        }
        let me = self.settings.id;
        let prs = self.raw.raft.prs();
        let voters = self.conf().voters.iter().filter(|id| **id != me);
        let answering = voters.filter_map(|id| Some((prs.get(*id).filter(|_| self.answers(*id))?.matched, *id)));
        if let Some((_, id)) = answering.max() {
            self.rounds.give_away(self.raw.raft.term);
            self.raw.transfer_leader(id);
        }
    }

    /// Learners that have caught up become voters; who was told to fetch a snapshot and fell silent is told again.
    pub(super) fn care_for_members(&mut self) {
        let committed = self.raw.raft.raft_log.committed;
        let prs = self.raw.raft.prs();
        let close = |id: &&ReplicaId| {
            prs.get(**id).is_some_and(|progress| {
                let behind = committed.saturating_sub(progress.matched);
                progress.matched > 0 && self.answers(**id) && behind <= PROMOTE_BEHIND_MAX
            })
        };
        let promoted = self.conf().learners.iter().find(close).copied();
        let sending = prs.iter().filter(|(_, progress)| progress.state == ProgressState::Snapshot);
        let sending: BTreeSet<ReplicaId> = sending.map(|(id, _)| *id).collect();
        if let Some(id) = promoted
            && !self.raw.raft.has_pending_conf()
        {
            let change = Change::Promote(id);
            // Where it is dropped, the next tick proposes it again.
            let _dropped = self.raw.propose_conf_change(change.encode(), change.conf_change());
        }
        self.snapshots.retain(|id, _| sending.contains(id));
        for id in sending {
            let since = *self.snapshots.entry(id).or_insert(self.now_ms);
            if self.now_ms - since > SNAPSHOT_MS {
                self.snapshots.remove(&id);
                self.raw.report_snapshot(id, SnapshotStatus::Failure);
            }
        }
    }
}
