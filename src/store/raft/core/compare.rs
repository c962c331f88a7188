//! Replicas that applied the same log must be in the same state; whether they are is compared all the time.
//!
//! Owns: the hash after each of the last entries, and what a difference means. The leader names an index once a second while
//! anything was written, and everybody tells everybody what it held there. Whoever differs from most voters stops. Where
//! there is no "most", whoever differs from the leader does: better too few replicas than two truths.

use std::collections::{BTreeMap, VecDeque};

use super::Core;
use crate::store::{
    mvcc::StateHash,
    raft::{Body, ReplicaId},
};

const REMEMBERED: usize = 4096;
const INTERVAL_MS: u64 = 1_000;
/// How long the hashes of all voters are waited for before a difference is judged without them.
const PATIENCE_MS: u64 = 3_000;

#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// After each entry up to the last applied one.
    hashes: VecDeque<(u64, StateHash)>,
    /// The index under comparison.
    index: u64,
    since_ms: u64,
    told: BTreeMap<ReplicaId, StateHash>,
}

impl Comparison {
    pub fn applied(&mut self, index: u64, hash: StateHash) {
        self.hashes.push_back((index, hash));
        if self.hashes.len() > REMEMBERED {
            self.hashes.pop_front();
        }
    }

    fn hash_at(&self, index: u64) -> Option<StateHash> {
        let (first, _) = self.hashes.front()?;
        self.hashes.get(index.checked_sub(*first)? as usize).map(|(_, hash)| *hash)
    }
}

/// Whether a replica with the state `mine` has to stop: what it differs from.
fn verdict(
    me: ReplicaId,
    leader: Option<ReplicaId>,
    voters: &[ReplicaId],
    told: &BTreeMap<ReplicaId, StateHash>,
    waited: bool,
) -> Option<StateHash> {
    let mine = told.get(&me)?;
    let mut counts: BTreeMap<StateHash, usize> = BTreeMap::new();
    for hash in voters.iter().filter_map(|voter| told.get(voter)) {
        *counts.entry(*hash).or_default() += 1;
    }
    let majority = voters.len() / 2 + 1;
    if let Some((most, _)) = counts.iter().find(|(_, count)| **count >= majority) {
        return (most != mine).then_some(*most);
    }
    let complete = voters.iter().all(|voter| told.contains_key(voter));
    let leaders = leader.filter(|leader| *leader != me).and_then(|leader| told.get(&leader))?;
    ((complete || waited) && leaders != mine).then_some(*leaders)
}

impl Core {
    /// Called with each tick.
    pub(super) fn compare(&mut self) {
        let due = self.now_ms >= self.comparison.since_ms + INTERVAL_MS;
        if self.is_leader() && due && self.applied > self.comparison.index {
            self.begin_comparison(self.applied);
        }
        self.judge();
    }

    pub(super) fn heard_hash(&mut self, from: ReplicaId, index: u64, hash: StateHash) {
        if index < self.comparison.index {
            return;
        }
        if index > self.comparison.index {
            self.begin_comparison(index);
        }
        self.comparison.told.insert(from, hash);
        self.judge();
    }

    fn begin_comparison(&mut self, index: u64) {
        self.comparison.index = index;
        self.comparison.since_ms = self.now_ms;
        self.comparison.told.clear();
    }

    fn judge(&mut self) {
        let me = self.settings.id;
        let index = self.comparison.index;
        if !self.comparison.told.contains_key(&me) {
            // Not there yet, or long past it.
            let Some(hash) = self.comparison.hash_at(index) else { return };
            self.comparison.told.insert(me, hash);
            for other in self.others() {
                self.send(other, Body::Hash { index, hash });
            }
        }
        let waited = self.now_ms >= self.comparison.since_ms + PATIENCE_MS;
        let leader = Some(self.raw.raft.leader_id).filter(|leader| *leader != 0);
        let told = &self.comparison.told;
        if let Some(other) = verdict(me, leader, &self.conf().voters, told, waited) {
            let mine = told.get(&me).copied().unwrap_or_default();
            self.distrust(format!(
                "the state of this replica differs from the others': after log entry {index} its hash is {mine}, theirs is {other}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(me: ReplicaId, leader: ReplicaId, hashes: &[(ReplicaId, u128)], waited: bool) -> bool {
        let told = hashes.iter().map(|(id, hash)| (*id, StateHash(*hash))).collect();
        verdict(me, Some(leader), &[1, 2, 3], &told, waited).is_some()
    }

    #[test]
    fn whoever_differs_from_most_voters_stops() {
        for (me, stops) in [(1, false), (2, true), (3, false)] {
            assert_eq!(judged(me, 1, &[(1, 7), (2, 8), (3, 7)], false), stops, "a follower differs; replica {me}");
        }
        for (me, stops) in [(1, true), (2, false), (3, false)] {
            assert_eq!(judged(me, 1, &[(1, 8), (2, 7), (3, 7)], false), stops, "the leader differs; replica {me}");
        }
    }

    #[test]
    fn without_a_majority_whoever_differs_from_the_leader_stops_once_all_were_waited_for() {
        assert!(!judged(2, 1, &[(1, 7), (2, 8)], false), "the third may agree with it");
        assert!(judged(2, 1, &[(1, 7), (2, 8)], true));
        assert!(!judged(1, 1, &[(1, 7), (2, 8)], true), "the leader goes on");
        assert!(judged(2, 1, &[(1, 7), (2, 8), (3, 9)], false));
    }

    #[test]
    fn equal_states_go_on() {
        assert!(!judged(2, 1, &[(1, 7), (2, 7), (3, 7)], true));
        assert!(!judged(2, 1, &[(2, 7)], true), "nobody else spoke");
    }
}
