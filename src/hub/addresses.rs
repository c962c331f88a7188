//! Where agents can reach the hub: the URLs of its replicas, as the store has them.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    feed::{self, Feed},
    peers::members::{self, Member},
};
use crate::{
    store::{Entry, Error, Key, Store, raft::ReplicaId},
    wire::limits::URLS_MAX,
};

/// Tells `urls` until the store is closed or `stop`. What was known stays while the store names no replica: that is what
/// a new hub, or one without replicas, looks like.
pub async fn follow(
    store: Arc<dyn Store>,
    urls: watch::Sender<Vec<String>>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut feed = feed::follow(store, members::PREFIX);
    let mut known: BTreeMap<Key, (ReplicaId, String)> = BTreeMap::new();
    let read = |entry: &Entry| Member::read(entry).map(|member| (member.id, member.url));
    while let Some(Some(told)) = stop.run_until_cancelled(feed.next()).await {
        match told? {
            Feed::Reset { entries, .. } => {
                known = entries.iter().filter_map(|entry| Some((entry.key.clone(), read(entry)?))).collect();
            }
            Feed::Changed { changes, .. } => {
                for change in changes.iter() {
                    match change.current.as_ref().and_then(read) {
                        Some(member) => drop(known.insert(change.key.clone(), member)),
                        None => drop(known.remove(&change.key)),
                    }
                }
            }
            Feed::Progress(_) => continue,
        }
        let by_id: BTreeMap<&ReplicaId, &String> = known.values().map(|(id, url)| (id, url)).collect();
        let fresh: Vec<String> = by_id.into_values().take(URLS_MAX).cloned().collect();
        urls.send_if_modified(|urls| {
            let changes = !fresh.is_empty() && *urls != fresh;
            if changes {
                urls.clone_from(&fresh);
            }
            changes
        });
    }
    Ok(())
}
