//! What committed entries do: to the state, to the members, to those who wait, and to the history.

use bytes::Bytes;
use raft::{
    ProgressState,
    eraftpb::{self, ConfState},
};

use super::{Core, Effect, Forget, Pending};
use crate::store::{
    Error, Outcome, Revision,
    command::{Command, Invalid},
    raft::{
        Change, Refusal, SnapshotId,
        log::{Checkpoint, Kind, LogEntry},
    },
};

/// How much history goes to the disk as one batch when it is compacted.
const COMPACTED_AT_ONCE: Revision = 1024;
/// While a member lacks what compaction would forget, history may grow this many times over its limits.
const PATIENCE: u64 = 4;

impl Core {
    pub(super) fn apply(&mut self, committed: Vec<eraftpb::Entry>) {
        let Some(last) = committed.last() else { return };
        let (last, last_term) = (last.index, last.term);
        for entry in committed {
            self.apply_one(&LogEntry::of(&entry));
            if self.stopped.is_some() {
                return;
            }
        }
        self.raw.advance_apply_to(last);
        self.applied_term = last_term;
        let (revision, hash) = {
            let state = self.state.read();
            (state.revision(), state.hash())
        };
        let incarnation = self.settings.incarnation.clone();
        let conf = self.conf().clone();
        let id = SnapshotId { incarnation, index: last, term: last_term, revision, hash };
        self.raw.mut_store().snapshot = (id, conf);
        self.effects.push(Effect::Applied(revision));
        if self.is_leader() {
            self.bound_history();
        }
    }

    fn apply_one(&mut self, entry: &LogEntry) {
        self.applied = entry.index;
        let waiting = self.pending.remove(&entry.index);
        let (waiting, mine) = match waiting {
            Some(pending) if pending.term == entry.term => (Some(pending.id), pending.command),
            // Another leader's entry took the place of the one proposed here, which therefore never happens.
            Some(Pending { id, .. }) => {
                self.answer(id, Err(Refusal::NotLeader(self.settings.id)));
                (None, None)
            }
            None => (None, None),
        };
        let answer = match entry.kind {
            Kind::Command if entry.data.is_empty() => {
                Err(Error::Unavailable("another change of the group is under way".into()).into())
            }
            Kind::Command => self.apply_command(entry, mine),
            Kind::Change => self.apply_change(entry),
        };
        self.comparison.applied(entry.index, self.state.read().hash());
        if let Some(id) = waiting {
            self.answer(id, answer);
        }
    }

    fn apply_command(&mut self, entry: &LogEntry, decoded: Option<Command>) -> Result<Outcome, Refusal> {
        let command = match decoded.map_or_else(|| Command::decode(&entry.data), Ok) {
            Ok(command) => command,
            // The leader took it, so it makes sense to whoever can read it.
            Err(error @ Invalid::Newer(_)) => {
                self.stop(format!("log entry {}: {error}", entry.index));
                return Err(Error::Closed(error.to_string()).into());
            }
            Err(error @ Invalid::Checksum) => {
                self.distrust(format!("log entry {}: {error}", entry.index));
                return Err(Error::Closed(error.to_string()).into());
            }
            // Every replica refuses it alike.
            Err(error @ Invalid::Malformed(_)) => return Err(Error::Malformed(error.to_string()).into()),
        };
        match command {
            Command::Commit(transaction) => {
                let mut state = self.state.write();
                let before = state.revision();
                let outcome = state.commit(transaction);
                if state.revision() > before {
                    self.positions.push_back(entry.index);
                }
                Ok(outcome?)
            }
            Command::Compact(revision) => self.compact(revision),
        }
    }

    fn apply_change(&mut self, entry: &LogEntry) -> Result<Outcome, Refusal> {
        let malformed = || Refusal::from(Error::Malformed("a change of the group cannot be read".into()));
        let change = Change::decode(&entry.data).ok_or_else(malformed)?;
        let refused = |error: raft::Error| Refusal::from(Error::Unavailable(error.to_string()));
        let conf = self.raw.apply_conf_change(&change.conf_change()).map_err(refused)?;
        self.members.push_back((entry.index, conf));
        if change == Change::Remove(self.settings.id) {
            self.stop("this replica was removed from the group".into());
        }
        Ok(Outcome::Committed(self.state.read().revision()))
    }

    /// In steps, so that readers get in between and no batch for the disk grows with the history.
    fn compact(&mut self, revision: Revision) -> Result<Outcome, Refusal> {
        loop {
            let mut state = self.state.write();
            let before = state.compacted();
            let step = state.compact(revision.min(before + COMPACTED_AT_ONCE))?;
            drop(state);
            self.positions.drain(..(step.revision - before) as usize);
            // Up to the entry that made the next revision; those before it changed nothing.
            let index = self.positions.front().map_or(self.applied, |next| next - 1);
            if index >= self.raw.store().first()
                && let Some(term) = self.raw.store().term_at(index)
            {
                let conf = self.members_at(index);
                let (revision, hash) = (step.revision, step.hash);
                let checkpoint =
                    Checkpoint { index, term, voters: conf.voters, learners: conf.learners, revision, hash };
                self.raw.mut_store().forget(checkpoint.clone());
                self.effects.push(Effect::Forget(Forget { checkpoint, rows: step.rows }));
            }
            if step.revision >= revision {
                return Ok(Outcome::Committed(step.revision));
            }
        }
    }

    /// The members as of an index; those before it are forgotten.
    fn members_at(&mut self, index: u64) -> ConfState {
        while self.members.get(1).is_some_and(|(since, _)| *since <= index) {
            self.members.pop_front();
        }
        self.members[0].1.clone()
    }

    /// History is memory, and the log is what a start replays: both must stay bounded even where nobody asks for
    /// compaction. The leader asks, so that all do it at the same place.
    fn bound_history(&mut self) {
        if self.compacting > self.applied {
            return;
        }
        let (compacted, revision, bytes) = {
            let state = self.state.read();
            (state.compacted(), state.revision(), state.history_bytes() as u64)
        };
        let options = &self.settings.options;
        // Conflicts are in the log without making history.
        let logged = self.applied - (self.raw.store().first() - 1);
        let over = |times: u64| {
            revision - compacted > times * options.history_revisions_max
                || logged > times * 2 * options.history_revisions_max
                || bytes > times * options.history_bytes_max as u64
        };
        if !over(1) {
            return;
        }
        let target = compacted + (revision - compacted).div_ceil(2);
        // The entry that made it is the first of those that stay.
        let kept = (target - compacted) as usize;
        let first_kept = self.positions.get(kept).copied().unwrap_or(self.applied);
        let prs = self.raw.raft.prs();
        let lacks = |id: u64, progress: &raft::Progress| {
            self.answers(id) && (progress.state == ProgressState::Snapshot || progress.matched < first_kept)
        };
        if prs.iter().any(|(id, progress)| lacks(*id, progress)) && !over(PATIENCE) {
            return;
        }
        self.compacting = self.raw.raft.raft_log.last_index() + 1;
        let data: Bytes = Command::Compact(target).encode().into();
        // Where it is dropped, the next entry that is applied asks again.
        if self.raw.propose(Vec::new(), data.to_vec()).is_err() {
            self.compacting = 0;
        }
    }
}
