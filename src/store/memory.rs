//! The store that forgets: for tests, the quickstart's dry runs and the simulator.
//!
//! Owns: nothing but the order of what is committed, which is that of the lock.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;

use super::{
    Entry, Error, Key, List, Options, Outcome, Page, Revision, Store, Transaction, Watch, mvcc::Mvcc, shared::Shared,
};
use crate::model::Uid;

/// An empty store with an incarnation of its own. Lives as long as the last handle.
pub fn open() -> Arc<dyn Store> {
    open_with(Options::default(), Uid(uuid::Uuid::new_v4().to_string()))
}

pub fn open_with(options: Options, incarnation: Uid) -> Arc<dyn Store> {
    let shared = Shared::new(Arc::new(RwLock::new(Mvcc::default())), options);
    Arc::new(Memory { shared, incarnation })
}

struct Memory {
    shared: Arc<Shared>,
    incarnation: Uid,
}

#[async_trait]
impl Store for Memory {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        Ok(self.shared.read()?.get(key))
    }

    async fn list(&self, list: List) -> Result<Page, Error> {
        self.shared.list(&list)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        let mut state = self.shared.state().write();
        let outcome = state.commit(transaction)?;
        let (compacted, revision) = (state.compacted(), state.revision());
        let Options { history_revisions_max, history_bytes_max, .. } = self.shared.options;
        // History is memory: it stays bounded though nobody asks for compaction.
        if revision - compacted > history_revisions_max || state.history_bytes() > history_bytes_max {
            state.compact(compacted + (revision - compacted).div_ceil(2))?;
        }
        drop(state);
        self.shared.publish(revision);
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.shared.watch(prefix, from)
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.shared.read()?.revision())
    }

    async fn mark_progress(&self) -> Result<(), Error> {
        self.shared.mark_progress();
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.shared.state().write().compact(revision)?;
        Ok(())
    }

    fn incarnation(&self) -> &Uid {
        &self.incarnation
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.stop("its last handle is gone".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn history_stays_bounded_though_nobody_compacts() {
        let by_revisions = Options { history_revisions_max: 10, ..Options::default() };
        let by_bytes = Options { history_bytes_max: 20, ..Options::default() };
        for options in [by_revisions, by_bytes] {
            let store = open_with(options, Uid::from("i"));
            for n in 0..100 {
                let put = Transaction::put(Key::new(format!("/{}", n % 3)), n.to_string().into());
                store.commit(put).await.expect("committed");
            }
            let list = |at| List { prefix: "/".into(), after: None, limit: 0, at: Some(at) };
            assert!(matches!(store.list(list(80)).await, Err(Error::Compacted(_))));
            assert!(store.list(list(99)).await.is_ok());
        }
    }
}
