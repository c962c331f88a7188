//! Writing to a store that may lose its answer, because the replica that led died with it.
//!
//! A transaction that compares what it writes can be sent again without harm: at most one of the two is done, and what
//! the second finds in its way tells what became of the first. So a client sees an answer that was lost only where
//! somebody else has written the same object since; it is never told that a write failed that may have been done.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::store::{Compare, Entry, Error, Operation, Outcome, Revision, Store, Transaction, object};

/// For as long as another replica needs to lead.
const ATTEMPTS_MAX: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Like [`Store::commit`], for a transaction that compares each key it writes.
pub async fn commit(store: &dyn Store, transaction: Transaction) -> Result<Outcome, Error> {
    let mut lost = false;
    for _ in 0..ATTEMPTS_MAX {
        match store.commit(transaction.clone()).await {
            Ok(Outcome::Unknown) => lost = true,
            Ok(Outcome::Conflict(found)) if lost => return Ok(after_the_first(&transaction, found)),
            // This one was not done, which says nothing of the first.
            Err(Error::Unavailable(_)) if lost => {}
            answered => return answered,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Outcome::Unknown)
}

/// What became of a transaction whose repetition found other values than it compares.
fn after_the_first(transaction: &Transaction, found: Vec<Option<Entry>>) -> Outcome {
    let mut done: Option<Revision> = None;
    for operation in &transaction.operations {
        let of_it = |(compare, _): &(&Compare, &Option<Entry>)| compare.key() == operation.key();
        let Some((compare, current)) = transaction.compares.iter().zip(&found).find(of_it) else {
            return Outcome::Unknown;
        };
        let holds = match (compare, current) {
            (Compare::Absent(_), None) => true,
            (Compare::Modified(_, revision), Some(entry)) => entry.modified == *revision,
            (Compare::Absent(_), Some(_)) | (Compare::Modified(..), None) => false,
        };
        match (operation, current) {
            // As it was before: something else that is compared was in the way of both.
            _ if holds => return Outcome::Conflict(found),
            (Operation::Put(_, value), Some(entry)) if entry.value == *value => done = done.max(Some(entry.modified)),
            (Operation::Put(_, value), Some(entry))
                if matches!(compare, Compare::Absent(_)) && uid(&entry.value) == uid(value) =>
            {
                done = done.max(Some(entry.created));
            }
            // Gone is gone, whoever did it; the revision is not known, so none is claimed beyond what was compared.
            (Operation::Delete(_), None) => {
                let before = match compare {
                    Compare::Modified(_, revision) => *revision,
                    Compare::Absent(_) => 0,
                };
                done = done.max(Some(before));
            }
            _ => return Outcome::Unknown,
        }
    }
    done.map_or(Outcome::Unknown, Outcome::Committed)
}

/// Every object has one of its own, chosen by who creates it.
fn uid(value: &Bytes) -> Option<String> {
    let object: Value = object::decode(value).ok()?;
    object["metadata"]["uid"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use async_trait::async_trait;
    use serde_json::json;

    use super::*;
    use crate::{
        model::Uid,
        store::{Key, List, Page, Watch, memory},
    };

    /// Loses so many answers, of writes that are done or not.
    struct Forgetful {
        store: Arc<dyn Store>,
        losses: AtomicUsize,
        done: bool,
        /// Done by somebody else before the second attempt.
        meanwhile: Option<Transaction>,
    }

    #[async_trait]
    impl Store for Forgetful {
        async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
            self.store.get(key).await
        }

        async fn list(&self, list: List) -> Result<Page, Error> {
            self.store.list(list).await
        }

        async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
            let losses = self.losses.fetch_sub(1, Ordering::Relaxed);
            if losses == 0 {
                self.losses.store(0, Ordering::Relaxed);
                return self.store.commit(transaction).await;
            }
            if self.done {
                self.store.commit(transaction).await?;
            }
            if let Some(other) = self.meanwhile.clone() {
                self.store.commit(other).await?;
            }
            Ok(Outcome::Unknown)
        }

        async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
            self.store.watch(prefix, from).await
        }

        async fn revision(&self) -> Result<Revision, Error> {
            self.store.revision().await
        }

        async fn mark_progress(&self) -> Result<(), Error> {
            self.store.mark_progress().await
        }

        async fn compact(&self, revision: Revision) -> Result<(), Error> {
            self.store.compact(revision).await
        }

        fn incarnation(&self) -> &Uid {
            self.store.incarnation()
        }
    }

    fn key() -> Key {
        Key::new("/hanse/core/things/a/b")
    }

    fn put(uid: &str, text: &str) -> Operation {
        Operation::Put(key(), object::encode(&json!({"metadata": {"uid": uid}, "text": text})))
    }

    fn create(uid: &str) -> Transaction {
        Transaction { compares: vec![Compare::Absent(key())], operations: vec![put(uid, "one")] }
    }

    fn update(revision: Revision, operation: Operation) -> Transaction {
        Transaction { compares: vec![Compare::Modified(key(), revision)], operations: vec![operation] }
    }

    async fn after(
        stored: Option<Transaction>,
        transaction: Transaction,
        done: bool,
        meanwhile: Option<Transaction>,
    ) -> Outcome {
        let store = memory::open();
        if let Some(stored) = stored {
            store.commit(stored).await.expect("stored");
        }
        let forgetful = Forgetful { store, losses: AtomicUsize::new(1), done, meanwhile };
        commit(&forgetful, transaction).await.expect("answer")
    }

    #[tokio::test]
    async fn a_write_whose_answer_was_lost_is_done_once_and_answered() {
        for done in [true, false] {
            assert_eq!(after(None, create("u"), done, None).await, Outcome::Committed(1), "{done}");
            let changed = update(1, put("u", "two"));
            assert_eq!(after(Some(create("u")), changed, done, None).await, Outcome::Committed(2), "{done}");
        }
        let deleted = update(1, Operation::Delete(key()));
        assert_eq!(after(Some(create("u")), deleted, true, None).await, Outcome::Committed(1));
    }

    #[tokio::test]
    async fn what_others_wrote_since_is_not_taken_for_ours() {
        let other = after(None, create("u"), false, Some(create("v"))).await;
        assert_eq!(other, Outcome::Unknown, "ours may have been made and deleted before");
        let overwritten =
            after(Some(create("u")), update(1, put("u", "two")), true, Some(update(2, put("u", "x")))).await;
        assert_eq!(overwritten, Outcome::Unknown);
        let made = after(None, create("u"), true, Some(update(1, put("u", "x")))).await;
        assert_eq!(made, Outcome::Committed(1), "it has our uid, so we made it");
    }

    #[tokio::test]
    async fn what_was_in_the_way_before_still_is() {
        let mut transaction = create("u");
        transaction.compares.push(Compare::Modified(Key::new("/hanse/core/namespaces//a"), 9));
        let outcome = after(None, transaction, false, None).await;
        assert_eq!(outcome, Outcome::Conflict(vec![None, None]));
    }
}
