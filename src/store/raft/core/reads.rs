//! Linearizable reads: many share one question to the group.
//!
//! Owns: which reads wait for which round. One round is under way at a time; what comes meanwhile shares the next one. A
//! round that nobody answers (a lost message, a leader that just changed) is asked again, with its reads.
//!
//! With [`Reads::Lease`] a round that was answered also says that nobody else can be elected for a while: whoever answered
//! gives no vote until the shortest election timeout is over. The library has leases as well, but lets a leader that was
//! cut off keep its own for longer than that. What a lease here rests on: clocks of replicas do not differ in speed by more
//! than a quarter; a replica that has just started gives no vote for as long ([`Core::guard`]); and there is none in a
//! term in which the lead was given away, because that vote waits for nobody.

use std::collections::VecDeque;

use super::{Core, Effect, Reads};

#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Not asked for yet, oldest first, with when they give up.
    waiting: VecDeque<Waiting>,
    asked: Option<Round>,
    /// Confirmed: readable once the state has reached the index.
    confirmed: VecDeque<(u64, Vec<Waiting>)>,
    number: u64,
    /// When the last round that was answered was asked, and in which term.
    answered: Option<(u64, u64)>,
    /// There is no lease in this term.
    given_away: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    deadline_ms: u64,
}

#[derive(Debug)]
struct Round {
    number: u64,
    term: u64,
    asked_ms: u64,
    reads: Vec<Waiting>,
}

/// How long a read waits for a leader.
const READ_MS: u64 = 5_000;
/// A round without an answer is asked again after so many heartbeats.
const PATIENCE_HEARTBEATS: u64 = 3;

impl Rounds {
    pub fn wait(&mut self, id: u64, now_ms: u64) {
        self.waiting.push_back(Waiting { id, deadline_ms: now_ms + READ_MS });
    }

    /// The group said: whoever asked in this round may read at this index.
    pub fn confirmed(&mut self, context: &[u8], index: u64, term: u64) {
        let is_it = |round: &mut Round| context == round.number.to_be_bytes();
        if let Some(round) = self.asked.take_if(is_it) {
            self.answered = (round.term == term).then_some((round.asked_ms, term));
            self.confirmed.push_back((index, round.reads));
        }
    }

    /// The reads that nobody answered in time.
    pub fn expire(&mut self, now_ms: u64) -> Vec<u64> {
        let mut late = Vec::new();
        let mut expire = |waiting: &Waiting| {
            let is_late = waiting.deadline_ms <= now_ms;
            if is_late {
                late.push(waiting.id);
            }
            !is_late
        };
        self.waiting.retain(&mut expire);
        if let Some(round) = &mut self.asked {
            round.reads.retain(&mut expire);
        }
        self.confirmed.iter_mut().for_each(|(_, reads)| reads.retain(&mut expire));
        late
    }

    /// The next question, if there is one to ask now.
    fn next(&mut self, now_ms: u64, term: u64, patience_ms: u64) -> Option<[u8; 8]> {
        let overdue = |round: &mut Round| now_ms >= round.asked_ms + patience_ms;
        if let Some(round) = self.asked.take_if(overdue) {
            for waiting in round.reads.into_iter().rev() {
                self.waiting.push_front(waiting);
            }
        }
        if self.asked.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.number += 1;
        let reads = self.waiting.drain(..).collect();
        self.asked = Some(Round { number: self.number, term, asked_ms: now_ms, reads });
        Some(self.number.to_be_bytes())
    }

    /// The lead is being given away: whoever gets it may have it at any time.
    pub fn give_away(&mut self, term: u64) {
        self.given_away = term;
    }

    /// Whether a leader of this term still is one, for certain.
    fn holds_lease(&self, now_ms: u64, term: u64, lease_ms: u64) -> bool {
        let held = |(since_ms, of)| of == term && now_ms < since_ms + lease_ms;
        self.given_away != term && self.answered.is_some_and(held)
    }

    fn readable(&mut self, applied: u64) -> Vec<u64> {
        let mut readable = Vec::new();
        self.confirmed.retain_mut(|(index, reads)| {
            let there = *index <= applied;
            if there {
                readable.extend(reads.drain(..).map(|waiting| waiting.id));
            }
            !there
        });
        readable
    }
}

impl Core {
    /// Nobody who has just heard a leader votes for another one any sooner.
    pub(super) fn shortest_election_ms(&self) -> u64 {
        self.settings.timing.election_ticks.start as u64 * self.settings.timing.tick_ms
    }

    pub(super) fn ask_rounds(&mut self) {
        let timing = &self.settings.timing;
        let patience_ms = PATIENCE_HEARTBEATS * timing.heartbeat_ticks as u64 * timing.tick_ms;
        // Nobody could answer: the reads wait for a leader.
        if self.raw.raft.leader_id == 0 || self.installing.is_some() {
            return;
        }
        // A leader that has committed nothing in its term does not know yet what is committed; the library drops the
        // question.
        if self.is_leader() && !self.raw.raft.commit_to_current_term() {
            return;
        }
        let term = self.raw.raft.term;
        if self.settings.reads == Reads::Lease
            && self.is_leader()
            && self.rounds.holds_lease(self.now_ms, term, self.shortest_election_ms() * 3 / 4)
        {
            let reads = self.rounds.waiting.drain(..).collect();
            return self.rounds.confirmed.push_back((self.raw.raft.raft_log.committed, reads));
        }
        if let Some(context) = self.rounds.next(self.now_ms, term, patience_ms) {
            self.raw.read_index(context.to_vec());
        }
    }

    pub(super) fn tell_readers(&mut self) {
        let readable = self.rounds.readable(self.applied);
        self.effects.extend(readable.into_iter().map(|id| Effect::Readable { id, answer: Ok(()) }));
    }
}
