//! A ledger in memory: for simulated members, whose agents start afresh.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Entry, Error, Ledger, Loaded, Session, Write};
use crate::model::{Digest, Uid};

/// Clones share their contents, so that a simulated agent can be restarted on what it had.
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    session: Session,
    entries: BTreeMap<Uid, Arc<Entry>>,
    blobs: BTreeMap<Digest, Bytes>,
}

impl Ledger for MemoryLedger {
    fn load(&mut self) -> Result<Loaded, Error> {
        let contents = self.0.lock();
        Ok(Loaded {
            session: contents.session.clone(),
            entries: contents.entries.values().map(|entry| Entry::clone(entry)).collect(),
            blobs: contents.blobs.clone(),
            broken: Vec::new(),
        })
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), Error> {
        let contents = &mut *self.0.lock();
        let mut dropped = Vec::new();
        for write in writes {
            match write {
                Write::Entry { entry, blobs } => {
                    contents.blobs.extend(blobs.iter().cloned());
                    let previous = contents.entries.insert(entry.work.application_uid.clone(), entry.clone());
                    dropped.extend(previous);
                }
                Write::Forget(application) => {
                    dropped.extend(contents.entries.remove(application));
                }
                Write::Session(session) => contents.session = session.clone(),
            }
        }
        for digest in dropped.iter().flat_map(|entry| entry.work.blobs()) {
            let lists = |entry: &Arc<Entry>| entry.work.blobs().any(|blob| blob == digest);
            if !contents.entries.values().any(lists) {
                contents.blobs.remove(&digest);
            }
        }
        Ok(())
    }
}
