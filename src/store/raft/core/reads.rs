//! Linearizable reads: many share one question to the group.
//!
//! Owns: which reads wait for which round. One round is under way at a time; what comes meanwhile shares the next one. A
//! round that nobody answers (a lost message, a leader that just changed) is asked again, with its reads.

use std::collections::VecDeque;

use super::{Core, Effect};

#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Not asked for yet, oldest first, with when they give up.
    waiting: VecDeque<Waiting>,
    asked: Option<Round>,
    /// Confirmed: readable once the state has reached the index.
    confirmed: VecDeque<(u64, Vec<Waiting>)>,
    number: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    deadline_ms: u64,
}

#[derive(Debug)]
struct Round {
    number: u64,
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
    pub fn confirmed(&mut self, context: &[u8], index: u64) {
        let is_it = |round: &mut Round| context == round.number.to_be_bytes();
        if let Some(round) = self.asked.take_if(is_it) {
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
    fn next(&mut self, now_ms: u64, patience_ms: u64) -> Option<[u8; 8]> {
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
        self.asked = Some(Round { number: self.number, asked_ms: now_ms, reads: self.waiting.drain(..).collect() });
        Some(self.number.to_be_bytes())
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
        if let Some(context) = self.rounds.next(self.now_ms, patience_ms) {
            self.raw.read_index(context.to_vec());
        }
    }

    pub(super) fn tell_readers(&mut self) {
        let readable = self.rounds.readable(self.applied);
        self.effects.extend(readable.into_iter().map(|id| Effect::Readable { id, answer: Ok(()) }));
    }
}
