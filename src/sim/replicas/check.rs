//! Reads what every replica does and lists what must never be: the safety of consensus and of the state it feeds.
//!
//! Owns: the one true log, which grows as entries are first applied anywhere, and the state it makes. What replicas say of
//! themselves is believed only of what they hold in memory. Must never: change the world.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::MessageType;

use super::answers::Answers;
use crate::store::{
    Revision,
    command::Command,
    mvcc::{Mvcc, StateHash},
    raft::{
        Body, Leadership, Message, ReplicaId,
        core::{Core, Effect, Recovered},
        log::{Ballot, Checkpoint, Kind, LogEntry},
    },
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at_us: u64,
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "after {:.3} s: {}", self.at_us as f64 / 1e6, self.what)
    }
}

#[derive(Debug, Default)]
pub struct Checker {
    pub violations: Vec<Violation>,
    /// Its first entry follows `base`.
    log: Vec<Committed>,
    base: u64,
    /// What the log makes, never compacted.
    state: Mvcc,
    pub answers: Answers,
    leaders: BTreeMap<u64, ReplicaId>,
    /// Whom each replica voted for in each term.
    votes: BTreeMap<(ReplicaId, u64), ReplicaId>,
    /// Whatever any replica ever had in its log, by index and term, with the term of the entry before it.
    entries: BTreeMap<(u64, u64), (u64, Kind, Bytes)>,
    replicas: BTreeMap<ReplicaId, Replica>,
    /// As of the last entry of the log; true for learners.
    members: BTreeMap<ReplicaId, bool>,
    /// Before the last change.
    members_before: BTreeMap<ReplicaId, bool>,
    /// Index of the last change of members.
    last_change: u64,
    compactions: u64,
    /// Its state was changed behind its back.
    pub differing: Option<ReplicaId>,
}

#[derive(Debug)]
struct Committed {
    entry: LogEntry,
    revision: Revision,
    hash: StateHash,
}

/// The log of a replica as it is in its memory.
#[derive(Debug, Default)]
struct Replica {
    base: (u64, u64),
    entries: VecDeque<LogEntry>,
    applied: u64,
    ballot: Ballot,
    /// The highest term in which it said anything.
    spoken: u64,
    installing: Option<Checkpoint>,
    /// As it knows them; true for learners.
    members: BTreeMap<ReplicaId, bool>,
}

/// An entry was applied for the first time anywhere.
#[derive(Debug)]
pub struct News {
    pub index: u64,
    pub term: u64,
    /// The voters when it was committed, one of these groups: whoever leads may not know of the last change yet.
    pub groups: [Vec<ReplicaId>; 3],
}

impl Replica {
    fn at(&self, index: u64) -> Option<&LogEntry> {
        self.entries.get(index.checked_sub(self.base.0 + 1)? as usize)
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.0 { Some(self.base.1) } else { self.at(index).map(|entry| entry.term) }
    }
}

fn voters(members: &BTreeMap<ReplicaId, bool>) -> Vec<ReplicaId> {
    members.iter().filter(|(_, learner)| !**learner).map(|(id, _)| *id).collect()
}

impl Checker {
    /// `state` is what the founding checkpoint holds.
    pub fn new(founding: &Checkpoint, state: Mvcc) -> Self {
        let members = founding.voters.iter().map(|id| (*id, false)).collect();
        let answers = Answers::after(state.revision());
        Self { base: founding.index, members, state, answers, ..Self::default() }
    }

    pub fn violate(&mut self, at_us: u64, what: String) {
        self.violations.push(Violation { at_us, what });
    }

    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// What all that was committed has made.
    pub fn state(&self) -> &Mvcc {
        &self.state
    }

    /// Index of the last entry that was committed.
    pub fn last(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    /// Entries that were committed, but for those that only forget history.
    pub fn entries(&self) -> u64 {
        self.log.len() as u64 - self.compactions
    }

    /// As of the last entry that was committed; true for learners.
    pub fn members(&self) -> &BTreeMap<ReplicaId, bool> {
        &self.members
    }

    /// Index of the last change of members that was committed.
    pub fn last_change(&self) -> u64 {
        self.last_change
    }

    /// This replica knows the members as they are, and no change of them is in its log.
    pub fn agrees(&self, id: ReplicaId) -> bool {
        let change = |entry: &LogEntry| entry.kind == Kind::Change && entry.index > self.last_change;
        self.replicas
            .get(&id)
            .is_some_and(|replica| replica.members == self.members && !replica.entries.iter().any(change))
    }

    fn committed(&self, index: u64) -> Option<&Committed> {
        self.log.get(index.checked_sub(self.base + 1)? as usize)
    }

    /// A process starts on what its disk holds.
    pub fn started(&mut self, now_us: u64, id: ReplicaId, recovered: &Recovered) {
        let Recovered { ballot, checkpoint, entries, .. } = recovered;
        let spoken = self.replicas.get(&id).map_or(0, |replica| replica.spoken);
        if ballot.term < spoken {
            self.violate(now_us, format!("replica {id} spoke in term {spoken} and comes back in term {}", ballot.term));
        }
        let replica = Replica {
            base: (checkpoint.index, checkpoint.term),
            applied: checkpoint.index,
            ballot: *ballot,
            spoken,
            members: checkpoint.voters.iter().map(|id| (*id, false)).collect(),
            ..Replica::default()
        };
        self.replicas.insert(id, replica);
        self.append(now_us, id, entries);
    }

    /// Something is about to leave a replica.
    pub fn sent(&mut self, now_us: u64, message: &Message) {
        let Body::Raft(raft) = &message.body else { return };
        let (from, term) = (message.from, raft.term);
        // Requests and grants of a pre-vote speak of a term that is not there yet.
        let pre = matches!(raft.msg_type, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse);
        if let Some(replica) = self.replicas.get_mut(&from).filter(|_| !pre) {
            replica.spoken = replica.spoken.max(term);
        }
        let vote = match raft.msg_type {
            MessageType::MsgRequestVote => from,
            MessageType::MsgRequestVoteResponse if !raft.reject => message.to,
            _ => return,
        };
        let before = *self.votes.entry((from, term)).or_insert(vote);
        if before != vote {
            self.violate(now_us, format!("replica {from} voted for {before} and for {vote} in term {term}"));
        }
    }

    /// Looks at what a step has done. Something comes back where an entry was applied for the first time.
    pub fn observe(&mut self, now_us: u64, id: ReplicaId, core: &Core, effects: &[Effect]) -> Option<News> {
        let mut applied = false;
        for effect in effects {
            match effect {
                Effect::SaveBallot(ballot) => self.voted(now_us, id, *ballot),
                Effect::Write(write) => {
                    if let Some(install) = &write.install
                        && let Some(replica) = self.replicas.get_mut(&id)
                    {
                        replica.installing = Some(install.checkpoint.clone());
                    }
                    self.append(now_us, id, &write.entries);
                }
                Effect::Forget(forget) => {
                    let Some(replica) = self.replicas.get_mut(&id) else { continue };
                    let gone = forget.checkpoint.index.saturating_sub(replica.base.0) as usize;
                    // What it forgets has been applied, so it is looked at before it goes.
                    if replica.applied < forget.checkpoint.index {
                        let checkpoint = forget.checkpoint.index;
                        self.apply(now_us, id, checkpoint);
                    }
                    let Some(replica) = self.replicas.get_mut(&id) else { continue };
                    replica.entries.drain(..gone.min(replica.entries.len()));
                    replica.base = (forget.checkpoint.index, forget.checkpoint.term);
                }
                Effect::Applied(_) => {
                    applied = true;
                    let Some(replica) = self.replicas.get_mut(&id) else { continue };
                    if let Some(checkpoint) = replica.installing.take() {
                        replica.entries.clear();
                        replica.base = (checkpoint.index, checkpoint.term);
                        replica.applied = checkpoint.index;
                    }
                }
                Effect::Lead(leadership) => self.leads(now_us, id, *leadership),
                _ => {}
            }
        }
        if applied { self.applied(now_us, id, core) } else { None }
    }

    fn voted(&mut self, now_us: u64, id: ReplicaId, ballot: Ballot) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let before = std::mem::replace(&mut replica.ballot, ballot);
        let changed = ballot.term == before.term && before.vote != 0 && before.vote != ballot.vote;
        if ballot.term < before.term || changed {
            self.violate(now_us, format!("the ballot of replica {id} goes back from {before:?} to {ballot:?}"));
        }
    }

    /// Entries with the same index and term are the same, and so are all before them.
    fn append(&mut self, now_us: u64, id: ReplicaId, entries: &[LogEntry]) {
        let Some(first) = entries.first() else { return };
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let mut before = replica.term_at(first.index.wrapping_sub(1));
        let mut wrong = None;
        replica.entries.truncate(first.index.saturating_sub(replica.base.0 + 1) as usize);
        for entry in entries {
            let Some(term) = before else {
                wrong = Some(format!("the log of replica {id} has a gap before entry {}", entry.index));
                break;
            };
            let this = (term, entry.kind, entry.data.clone());
            let known = self.entries.entry((entry.index, entry.term)).or_insert_with(|| this.clone());
            if *known != this {
                wrong = Some(format!("entry {} of term {} is not the same in all logs", entry.index, entry.term));
            }
            before = Some(entry.term);
            replica.entries.push_back(entry.clone());
        }
        if let Some(wrong) = wrong {
            self.violate(now_us, wrong);
        }
    }

    fn leads(&mut self, now_us: u64, id: ReplicaId, leadership: Leadership) {
        let Some(leader) = leadership.leader else { return };
        let term = leadership.term;
        let known = *self.leaders.entry(term).or_insert(leader);
        if known != leader {
            self.violate(now_us, format!("{known} and {leader} both lead term {term}"));
        }
        let earlier = self.log.partition_point(|committed| committed.entry.term < term) as u64;
        let last = self.base + earlier;
        if leader == id
            && earlier > 0
            && let Some(replica) = self.replicas.get(&id)
            && replica.base.0 < last
            && replica.term_at(last) != self.committed(last).map(|committed| committed.entry.term)
        {
            self.violate(now_us, format!("replica {id} leads term {term} without the committed entry {last}"));
        }
    }

    fn applied(&mut self, now_us: u64, id: ReplicaId, core: &Core) -> Option<News> {
        let status = core.status();
        let (applied, hash) = status.hash;
        let known = self.last();
        self.apply(now_us, id, applied);
        let members: BTreeMap<_, _> = status.members.iter().map(|(id, member)| (*id, member.learner)).collect();
        if self.last() > known && self.members != members {
            self.members_before = std::mem::replace(&mut self.members, members.clone());
        }
        let replica = self.replicas.get_mut(&id)?;
        let after = voters(&members);
        let before = voters(&std::mem::replace(&mut replica.members, members));
        let found = self.committed(applied).map(|committed| (committed.revision, committed.hash));
        let wrong = match found {
            _ if self.differing == Some(id) => None,
            None if applied == self.base => None,
            None => Some(format!("replica {id} has applied {applied}, which nobody committed")),
            Some((revision, _)) if revision != status.revision => {
                Some(format!("replica {id} is at revision {} after entry {applied}, not {revision}", status.revision))
            }
            Some((_, expected)) if expected != hash => {
                Some(format!("the state of replica {id} after entry {applied} differs: {hash}, not {expected}"))
            }
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            self.violate(now_us, wrong);
        }
        let last = self.last();
        let term = self.committed(last)?.entry.term;
        (last > known).then(|| News { index: last, term, groups: [before, after, voters(&self.members_before)] })
    }

    /// A replica has applied all up to there.
    fn apply(&mut self, now_us: u64, id: ReplicaId, until: u64) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let from = replica.applied + 1;
        replica.applied = until.max(replica.applied);
        for index in from..=until {
            let Some(entry) = self.replicas[&id].at(index) else {
                return self.violate(now_us, format!("replica {id} applied entry {index}, which is not in its log"));
            };
            match self.committed(index) {
                Some(committed) if committed.entry != *entry => {
                    let (ours, theirs) = (entry.term, committed.entry.term);
                    return self.violate(
                        now_us,
                        format!(
                            "replica {id} applied entry {index} of term {ours}; that of term {theirs} was committed"
                        ),
                    );
                }
                Some(_) => {}
                None => {
                    let entry = entry.clone();
                    self.commit(now_us, entry);
                }
            }
        }
    }

    fn commit(&mut self, now_us: u64, entry: LogEntry) {
        let before = self.state.revision();
        if entry.kind == Kind::Command {
            match Command::decode(&entry.data) {
                // What breaks a limit changes nothing, on every replica alike.
                Ok(Command::Commit(transaction)) => drop(self.state.commit(transaction)),
                Ok(Command::Compact(_)) => self.compactions += 1,
                Err(_) => {}
            }
        }
        let revision = self.state.revision();
        if revision > before
            && let Ok(past) = self.state.past("", before, 1)
        {
            let changes: Vec<_> = past
                .events
                .iter()
                .filter_map(|event| match event {
                    crate::store::WatchEvent::Transaction { changes, .. } => Some(changes),
                    crate::store::WatchEvent::Progress(_) => None,
                })
                .flat_map(|changes| changes.iter())
                .map(|change| (change.key.clone(), change.current.as_ref().map(|entry| entry.value.clone())))
                .collect();
            if let Some(wrong) = self.answers.committed(revision, &entry.data, &changes) {
                self.violate(now_us, wrong);
            }
        }
        if entry.kind == Kind::Change {
            self.last_change = entry.index;
        }
        self.log.push(Committed { entry, revision, hash: self.state.hash() });
    }
}
