//! Becoming what another replica is, where its log no longer reaches back far enough.
//!
//! Owns: the snapshot that is offered, then fetched, then written, then in force. Must never: put rows into force that do not
//! have the hash that was promised, or that are not durable.

use raft::eraftpb;

use super::{Body, Comparison, Core, Effect, Install, Write};
use crate::store::{
    Entry, Outcome,
    mvcc::{Mvcc, StateHash},
    raft::{SnapshotId, log::Checkpoint},
};

/// A snapshot that is being fetched.
pub(super) struct Incoming {
    pub id: SnapshotId,
    pub message: eraftpb::Message,
    pub rows: Option<Vec<Entry>>,
}

/// A snapshot that is being written.
pub(super) struct Installing {
    pub ready: raft::Ready,
    pub number: u64,
    pub checkpoint: Checkpoint,
}

impl Core {
    /// A snapshot's message is kept until its rows are here.
    pub(super) fn offered(&mut self, message: eraftpb::Message) {
        let Some(id) = SnapshotId::decode(&message.get_snapshot().data) else { return };
        if id.incarnation != self.settings.incarnation {
            let (ours, theirs) = (&self.settings.incarnation, &id.incarnation);
            return self
                .stop(format!("a snapshot of incarnation {theirs} was sent to a replica of incarnation {ours}"));
        }
        match &mut self.incoming {
            // A fetch under way goes on: a newer snapshot would only begin it anew.
            Some(incoming) if incoming.rows.is_none() => {
                incoming.message.term = message.term;
                incoming.message.from = message.from;
            }
            // Consensus has it already: this one comes too late, or will be sent again.
            Some(_) => {}
            None => {
                self.effects.push(Effect::Fetch { from: message.from, snapshot: id.clone() });
                self.incoming = Some(Incoming { id, message, rows: None });
            }
        }
    }

    pub(super) fn fetched(&mut self, snapshot: SnapshotId, rows: Vec<Entry>) {
        let mut hash = StateHash::default();
        rows.iter().for_each(|row| hash.add(row));
        if hash != snapshot.hash {
            return self.fetch_failed(&snapshot);
        }
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| incoming.id == snapshot) else { return };
        incoming.rows = Some(rows);
        let message = incoming.message.clone();
        let _stale = self.raw.step(message);
        if self.raw.snap().is_none() {
            // It was overtaken by the log itself.
            self.incoming = None;
        }
    }

    pub(super) fn fetch_failed(&mut self, snapshot: &SnapshotId) {
        let Some(incoming) = self.incoming.take_if(|incoming| incoming.id == *snapshot) else { return };
        self.send(incoming.message.from, Body::SnapshotFailed);
    }

    pub(super) fn install(&mut self, ready: raft::Ready) {
        let metadata = ready.snapshot().get_metadata();
        let Some(Incoming { id, rows: Some(rows), .. }) = &mut self.incoming else {
            return self.stop("consensus took a snapshot that was never fetched".into());
        };
        let conf = metadata.get_conf_state();
        let checkpoint = Checkpoint {
            index: metadata.index,
            term: metadata.term,
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            revision: id.revision,
            hash: id.hash,
        };
        let committed = checkpoint.index;
        let install = Some(Install { checkpoint: checkpoint.clone(), rows: rows.clone() });
        self.writing.insert(self.number);
        self.effects.push(Effect::Write(Write { number: self.number, install, entries: Vec::new(), committed }));
        self.installing = Some(Installing { ready, number: self.number, checkpoint });
    }

    /// The snapshot is durable: it takes the place of all there was.
    pub(super) fn installed(&mut self, installing: Installing) {
        let Installing { mut ready, checkpoint, .. } = installing;
        let Some(Incoming { id, rows: Some(rows), .. }) = self.incoming.take() else { return };
        let conf = checkpoint.conf_state();
        let messages = ready.take_persisted_messages();
        self.raw.mut_store().install(checkpoint);
        self.raw.mut_store().snapshot = (id.clone(), conf.clone());
        self.raw.advance_append_async(ready);
        self.raw.on_persist_ready(self.number);
        *self.state.write() = Mvcc::restore(id.revision, rows);
        (self.applied, self.applied_term) = (id.index, id.term);
        self.raw.advance_apply_to(id.index);
        self.positions.clear();
        self.members = [(id.index, conf)].into();
        self.comparison = Comparison::default();
        // What was proposed here before may or may not be in it.
        let passed: Vec<_> = self.pending.extract_if(..=id.index, |_, _| true).map(|(_, pending)| pending.id).collect();
        passed.into_iter().for_each(|id| self.answer(id, Ok(Outcome::Unknown)));
        self.effects.push(Effect::Applied(id.revision));
        self.send_all(messages);
    }
}
