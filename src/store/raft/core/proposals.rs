//! Writes: who proposed what, and who waits for it.
//!
//! Owns: the clients that wait, by the place in the log that their entry was given. Must never: propose what no replica could
//! read, or tell that something did not happen that still may.

use bytes::Bytes;
use raft::eraftpb::{self, MessageType};

use super::{Core, Effect};
use crate::store::{Error, Outcome, command::Command, raft::Refusal};

/// How long a client waits for an entry whose fate nobody tells.
const ANSWER_MS: u64 = 10_000;

pub(super) struct Pending {
    pub term: u64,
    pub id: u64,
    pub deadline_ms: u64,
    /// Decoded already when it was proposed.
    pub command: Option<Command>,
}

impl Core {
    pub(super) fn propose(&mut self, proposals: Vec<(u64, Bytes)>) {
        let mut message =
            eraftpb::Message { msg_type: MessageType::MsgPropose, from: self.settings.id, ..Default::default() };
        let mut waiting = Vec::with_capacity(proposals.len());
        for (id, data) in proposals {
            if !self.is_leader() {
                self.answer(id, Err(Refusal::NotLeader(self.settings.id)));
                continue;
            }
            match Command::decode(&data) {
                Ok(command) => {
                    message.entries.push(eraftpb::Entry { data, ..Default::default() });
                    waiting.push((id, Some(command)));
                }
                Err(invalid) => self.answer(id, Err(Error::Malformed(invalid.to_string()).into())),
            }
        }
        if !waiting.is_empty() {
            self.propose_message(message, waiting);
        }
    }

    fn propose_message(&mut self, message: eraftpb::Message, waiting: Vec<(u64, Option<Command>)>) {
        let before = self.raw.raft.raft_log.last_index();
        let handing_over = self.raw.raft.lead_transferee.is_some();
        if self.raw.raft.step(message).is_err() {
            for (id, _) in waiting {
                let refusal = match handing_over {
                    true => Refusal::NotLeader(self.settings.id),
                    false => Error::Unavailable("too many writes wait for the other replicas".into()).into(),
                };
                self.answer(id, Err(refusal));
            }
            return;
        }
        for (index, (id, command)) in (before + 1..).zip(waiting) {
            self.wait_for(index, id, command);
        }
    }

    /// The client gets its answer when the entry at this index is applied.
    pub(super) fn wait_for(&mut self, index: u64, id: u64, command: Option<Command>) {
        let (term, deadline_ms) = (self.raw.raft.term, self.now_ms + ANSWER_MS);
        let replaced = self.pending.insert(index, Pending { term, id, deadline_ms, command });
        // It waits since an earlier term of this leader. Whatever was committed is in a leader's log, and that is not.
        if let Some(Pending { id, .. }) = replaced {
            self.answer(id, Err(Refusal::NotLeader(self.settings.id)));
        }
    }

    /// Clients whose entry's fate nobody told in time.
    pub(super) fn expire(&mut self) {
        let now_ms = self.now_ms;
        let late = self.pending.extract_if(.., |_, pending| pending.deadline_ms <= now_ms);
        let late: Vec<_> = late.map(|(_, pending)| pending.id).collect();
        for id in late {
            self.answer(id, Ok(Outcome::Unknown));
        }
        for id in self.rounds.expire(now_ms) {
            let why = "no leader answered in time".to_owned();
            self.effects.push(Effect::Readable { id, answer: Err(Error::Unavailable(why).into()) });
        }
    }
}
