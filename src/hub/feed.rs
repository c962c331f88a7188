//! The one adaptor from a store's watch to sync indexes: reset, then whole transactions, then reset again after a gap.

use std::sync::Arc;

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

/// Follows `prefix`. Compaction or a slow reader costs a new listing, never a lost change. Ends when the store is
/// closed.
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
                        Err(error) => return Some((Err(error), State::Ended)),
                    },
                    State::Watch(mut watch) => match watch.next().await {
                        Some(Ok(WatchEvent::Transaction { revision, changes })) => {
                            return Some((Ok(Feed::Changed { revision, changes }), State::Watch(watch)));
                        }
                        Some(Ok(WatchEvent::Progress(revision))) => {
                            return Some((Ok(Feed::Progress(revision)), State::Watch(watch)));
                        }
                        Some(Err(Error::Compacted(_) | Error::Lagged)) => state = State::List,
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
