//! What is due to one agent, most urgent first. State, not a queue: whatever is due twice goes out once, as it is then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    hub::agents::resume::Stamp,
    model::{
        Digest, Uid, Work,
        protocol::{ToAgent, Welcome},
    },
    wire::limits::{CHUNK_BYTES_MAX, FETCH_MAX},
};

#[derive(Debug, Default)]
pub struct Outbox {
    pub welcome: Option<Welcome>,
    /// A beat to be answered.
    pub ack: bool,
    /// The store revision of a resume token.
    pub resume: Option<u64>,
    /// Generations by Application.
    pub releases: BTreeMap<Uid, u64>,
    /// Applications whose work is not as the agent has it.
    pub works: BTreeSet<Uid>,
    wanted: BTreeSet<Digest>,
    reading: Option<Digest>,
    /// The blob on its way, and how much of it went.
    blob: Option<(Digest, Bytes, usize)>,
}

impl Outbox {
    pub fn has_due(&self) -> bool {
        let small = self.welcome.is_some() || self.ack || self.resume.is_some();
        small || !self.releases.is_empty() || !self.works.is_empty() || self.blob.is_some()
    }

    /// The most urgent of what is due. `work` gives the newest work of an Application, if there is one.
    pub fn next(&mut self, work: impl Fn(&Uid) -> Option<Arc<Work>>, stamp: &Stamp) -> Option<ToAgent> {
        if let Some(welcome) = self.welcome.take() {
            return Some(ToAgent::Welcome(welcome));
        }
        if std::mem::take(&mut self.ack) {
            return Some(ToAgent::BeatAck);
        }
        if let Some((application, generation)) = self.releases.pop_first() {
            return Some(ToAgent::Release { application, generation });
        }
        // Before further works: a work that waits for its bytes is nearer to its end than one that was not sent.
        if let Some(chunk) = self.next_chunk() {
            return Some(chunk);
        }
        while let Some(application) = self.works.pop_first() {
            if let Some(work) = work(&application) {
                return Some(ToAgent::Work(work));
            }
        }
        self.resume.take().map(|revision| ToAgent::Resume(stamp.token(revision)))
    }

    /// Whoever wants more at once than a message can ask for has to ask again.
    pub fn want(&mut self, digest: Digest) {
        if self.wanted.len() < FETCH_MAX {
            self.wanted.insert(digest);
        }
    }

    /// The next blob to be read, unless one is read or on its way: one at a time bounds what a slow agent costs.
    pub fn read_next(&mut self) -> Option<Digest> {
        if self.reading.is_some() || self.blob.is_some() {
            return None;
        }
        self.reading = self.wanted.pop_first();
        self.reading
    }

    pub fn take_blob(&mut self, digest: Digest, bytes: Option<Bytes>) {
        if self.reading.take_if(|reading| *reading == digest).is_some() {
            self.blob = bytes.map(|bytes| (digest, bytes, 0));
        }
    }

    fn next_chunk(&mut self) -> Option<ToAgent> {
        let (digest, bytes, offset) = self.blob.as_mut()?;
        let end = bytes.len().min(*offset + CHUNK_BYTES_MAX);
        let chunk = ToAgent::Blob {
            digest: *digest,
            offset: *offset as u64,
            total: bytes.len() as u64,
            bytes: bytes.slice(*offset..end),
        };
        *offset = end;
        if end == bytes.len() {
            self.blob = None;
        }
        Some(chunk)
    }
}
