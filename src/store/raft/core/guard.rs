//! What may reach the consensus library, and when its messages may leave.
//!
//! Owns: the checks without which a peer's message could make the library panic: it trusts that its peers and its disk are
//! sound. What cannot be right is dropped; what proves that this replica's disk has lost something stops it.

use raft::eraftpb::{self, MessageType};

use super::{Core, Reads};
use crate::store::raft::ReplicaId;

/// No term or index gets there by counting, and the library counts on from whatever it is told.
const NUMBER_MAX: u64 = 1 << 62;

pub(super) enum Refused {
    /// No replica of ours says that.
    Ignored,
    /// It is true, so something here is not.
    Contradiction(String),
}

impl Core {
    pub(super) fn guard(&self, from: ReplicaId, message: &eraftpb::Message) -> Result<(), Refused> {
        if message.from != from || message.to != self.settings.id || message.from == message.to {
            return Err(Refused::Ignored);
        }
        // No term is the library's sign for what comes from itself; only questions for a read travel like that.
        if (message.term == 0) != (message.msg_type == MessageType::MsgReadIndex) {
            return Err(Refused::Ignored);
        }
        // What it promised before it was started it has forgotten: until that is over, it promises nothing else.
        let asks_for_vote = matches!(message.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        let forgetful =
            self.settings.reads == Reads::Lease && self.now_ms < self.started_ms + self.shortest_election_ms();
        if asks_for_vote && forgetful {
            return Err(Refused::Ignored);
        }
        let numbers = [message.term, message.log_term, message.index, message.commit, message.commit_term];
        let of_entries = message.entries.iter().flat_map(|entry| [entry.term, entry.index]);
        if numbers.into_iter().chain(of_entries).any(|number| number > NUMBER_MAX) {
            return Err(Refused::Ignored);
        }
        let follows = |(n, entry): (u64, &eraftpb::Entry)| message.index.checked_add(n) == Some(entry.index);
        let entries_follow = (1..).zip(&message.entries).all(follows);
        let log = &self.raw.raft.raft_log;
        match message.msg_type {
            // The library takes term 0 for that of any entry it does not have.
            MessageType::MsgAppend if !entries_follow || (message.index > 0 && message.log_term == 0) => {
                Err(Refused::Ignored)
            }
            MessageType::MsgAppend => {
                // The log as the library has it, not as it was when this step began: an earlier message of the same step may have
                // replaced what was never committed. Term 0 is that of entries that it does not have.
                let contradicts = |entry: &&eraftpb::Entry| {
                    entry.index <= log.committed
                        && log.term(entry.index).is_ok_and(|term| term != 0 && term != entry.term)
                };
                match message.entries.iter().find(contradicts) {
                    Some(entry) if message.term >= self.raw.raft.term => Err(Refused::Contradiction(format!(
                        "log entry {} is committed here, but the leader has another one there",
                        entry.index
                    ))),
                    Some(_) => Err(Refused::Ignored),
                    None => Ok(()),
                }
            }
            MessageType::MsgHeartbeat if message.commit > log.last_index() && message.term >= self.raw.raft.term => {
                let (had, has) = (message.commit, log.last_index());
                Err(Refused::Contradiction(format!(
                    "the leader knows that this replica had the log up to entry {had} on its disk, which ends at {has}: the \
                     disk has lost acknowledged writes"
                )))
            }
            MessageType::MsgSnapshot => {
                let metadata = message.get_snapshot().get_metadata();
                let conf = metadata.get_conf_state();
                let mut members: Vec<_> = conf.voters.iter().chain(&conf.learners).collect();
                let count = members.len();
                members.sort_unstable();
                members.dedup();
                let joint = !conf.voters_outgoing.is_empty() || !conf.learners_next.is_empty() || conf.auto_leave;
                let sound = metadata.index > 0
                    && metadata.term > 0
                    && !conf.voters.is_empty()
                    && members.len() == count
                    && !joint;
                if sound && !members.contains(&&0) { Ok(()) } else { Err(Refused::Ignored) }
            }
            // Alone, it would lead on the spot, for which the library wants its whole log on the disk.
            MessageType::MsgTimeoutNow if self.is_alone() => Err(Refused::Ignored),
            MessageType::MsgReadIndex if message.entries.len() != 1 => Err(Refused::Ignored),
            MessageType::MsgAppendResponse
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgTimeoutNow
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp => Ok(()),
            // Proposals are forwarded as commands, and the rest never leaves a process.
            _ => Err(Refused::Ignored),
        }
    }
}

/// Which of a follower's or candidate's messages may leave at once, and which only when the log is durable: those that speak
/// of it. The library also relies on it that a candidate asks for votes with nothing left to write.
pub(super) fn by_durability(messages: Vec<eraftpb::Message>) -> (Vec<eraftpb::Message>, Vec<eraftpb::Message>) {
    messages.into_iter().partition(|message| match message.msg_type {
        MessageType::MsgAppendResponse => message.reject,
        MessageType::MsgRequestVote => false,
        _ => true,
    })
}
