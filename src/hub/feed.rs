//! The one adaptor from a store's watch to sync indexes: reset, then whole transactions, then reset again after a gap.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};

use crate::store::{Change, Entry, Error, List, Revision, Store, WatchEvent};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// All there is under the prefix, as of `revision`; what was known before is replaced.
    Reset { entries: Arc<[Entry]>, revision: Revision },
    /// One committed transaction.
    Changed { revision: Revision, changes: Arc<[Change]> },
    /// Everything up to this revision has been told.
    Progress(Revision),
}

/// Until a store that cannot be read now is asked again.
const RETRY: Duration = Duration::from_millis(50);

/// Follows `prefix`. Compaction, a slow reader, or a while without a leader costs a new listing, never a lost change. Ends
/// when the store is closed.
pub fn follow(store: Arc<dyn Store>, prefix: &'static str) -> BoxStream<'static, Result<Feed, Error>> {
    enum State {
        List,
        Watch(crate::store::Watch),
        Ended,
    }
    futures::stream::unfold(State::List, move |mut state| {
        let store = store.clone();
        async move {
            loop {
                match state {
                    State::Ended => return None,
                    State::List => match list(&*store, prefix).await {
                        Ok((feed, watch)) => return Some((Ok(feed), State::Watch(watch))),
                        Err(Error::Compacted(_) | Error::Lagged) => state = State::List,
                        Err(Error::Unavailable(_)) => {
                            tokio::time::sleep(RETRY).await;
                            state = State::List;
                        }
                        Err(error) => return Some((Err(error), State::Ended)),
                    },
                    State::Watch(mut watch) => match watch.next().await {
                        Some(Ok(WatchEvent::Transaction { revision, changes })) => {
                            return Some((Ok(Feed::Changed { revision, changes }), State::Watch(watch)));
                        }
                        Some(Ok(WatchEvent::Progress(revision))) => {
                            return Some((Ok(Feed::Progress(revision)), State::Watch(watch)));
                        }
                        Some(Err(Error::Compacted(_) | Error::Lagged | Error::Unavailable(_))) => state = State::List,
                        Some(Err(error)) => return Some((Err(error), State::Ended)),
                        None => return None,
                    },
                }
            }
        }
    })
    .boxed()
}

async fn list(store: &dyn Store, prefix: &str) -> Result<(Feed, crate::store::Watch), Error> {
    let page = store.list(List { prefix: prefix.to_owned(), after: None, limit: 0, at: None }).await?;
    let watch = store.watch(prefix, page.revision).await?;
    Ok((Feed::Reset { entries: page.entries.into(), revision: page.revision }, watch))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::{
        model::Uid,
        store::{Entry, Key, Outcome, Page, Transaction, Watch, memory},
    };

    /// Has no leader for a while.
    struct Leaderless {
        store: Arc<dyn Store>,
        refusals: AtomicU32,
    }

    impl Leaderless {
        fn refuse(&self) -> Result<(), Error> {
            let left = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_ok() { Err(Error::Unavailable("no leader".into())) } else { Ok(()) }
        }
    }

    #[async_trait]
    impl Store for Leaderless {
        async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
            self.store.get(key).await
        }

        async fn list(&self, list: List) -> Result<Page, Error> {
            self.refuse()?;
            self.store.list(list).await
        }

        async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
            self.store.commit(transaction).await
        }

        async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
            self.refuse()?;
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

    #[tokio::test]
    async fn a_while_without_a_leader_is_waited_out() {
        let store = memory::open();
        store.commit(Transaction::put(Key::new("/a"), "1".into())).await.expect("committed");
        let mut feed = follow(Arc::new(Leaderless { store, refusals: AtomicU32::new(5) }), "/");
        match feed.next().await {
            Some(Ok(Feed::Reset { entries, revision: 1 })) => assert_eq!(entries.len(), 1),
            other => panic!("{other:?}"),
        }
    }
}
