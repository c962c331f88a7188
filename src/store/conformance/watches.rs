//! Watches: the past and what is to come, whole, in order, without a gap.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt;

use super::*;
use crate::store::{Change, Watch, WatchEvent};

on_every_store!(
    past_and_future_join_without_a_gap,
    a_watch_sees_whole_transactions_with_what_was_before,
    only_the_watched_prefix_is_seen,
    progress_follows_the_past,
    progress_comes_while_others_write,
    progress_comes_when_asked_for,
    a_watch_at_rest_is_silent,
    a_watch_from_before_compaction_or_from_the_future_is_refused,
    a_reader_slower_than_compaction_is_told,
    watchers_rebuild_the_state_while_it_is_written,
);

async fn next(watch: &mut Watch) -> Result<WatchEvent, Error> {
    let waited = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    waited.expect("an event in time").expect("the watch goes on")
}

async fn next_transaction(watch: &mut Watch) -> (Revision, Arc<[Change]>) {
    loop {
        match next(watch).await.unwrap() {
            WatchEvent::Transaction { revision, changes } => return (revision, changes),
            WatchEvent::Progress(_) => {}
        }
    }
}

async fn past_and_future_join_without_a_gap(store: Arc<dyn Store>) {
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..300 {
                write(&*store, [put("a", &n.to_string())]).await;
            }
        }
    });
    while store.revision().await.unwrap() < 20 {
        tokio::task::yield_now().await;
    }
    let mut watches = Vec::new();
    for from in [0, 7, 20] {
        watches.push((from, store.watch("/", from).await.unwrap()));
    }
    for (from, mut watch) in watches {
        for expected in from + 1..=300 {
            assert_eq!(next_transaction(&mut watch).await.0, expected, "watch from {from}");
        }
    }
    writer.await.unwrap();
}

async fn a_watch_sees_whole_transactions_with_what_was_before(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1"), put("b", "1")]).await;
    let a = store.get(&key("a")).await.unwrap();
    let b = store.get(&key("b")).await.unwrap();
    let mut watch = store.watch("/", 1).await.unwrap();
    write(&*store, [delete("a"), delete("absent"), put("b", "2"), put("c", "2")]).await;
    let (revision, changes) = next_transaction(&mut watch).await;
    let current = |name: &str| {
        let store = store.clone();
        let key = key(name);
        async move { store.get(&key).await.unwrap() }
    };
    assert_eq!(revision, 2);
    let expected = [
        Change { key: key("a"), current: None, previous: a },
        Change { key: key("b"), current: current("b").await, previous: b },
        Change { key: key("c"), current: current("c").await, previous: None },
    ];
    assert_eq!(*changes, expected);
}

async fn only_the_watched_prefix_is_seen(store: Arc<dyn Store>) {
    let mut watch = store.watch(key("b").as_str(), 0).await.unwrap();
    write(&*store, [put("a", "1")]).await;
    write(&*store, [put("a", "2"), put("b", "2"), put("bb", "2")]).await;
    write(&*store, [put("c", "3")]).await;
    write(&*store, [delete("b")]).await;
    let names = |changes: &[Change]| changes.iter().map(|change| change.key.clone()).collect::<Vec<_>>();
    let (revision, changes) = next_transaction(&mut watch).await;
    assert_eq!((revision, names(&changes)), (2, vec![key("b"), key("bb")]));
    let (revision, changes) = next_transaction(&mut watch).await;
    assert_eq!((revision, names(&changes)), (4, vec![key("b")]));
}

async fn progress_follows_the_past(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1")]).await;
    write(&*store, [Operation::Put(Key::new("/other"), "".into())]).await;
    let mut watch = store.watch(key("").as_str(), 0).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Transaction { revision: 1, .. })));
    assert_eq!(next(&mut watch).await, Ok(WatchEvent::Progress(2)));
}

async fn progress_comes_while_others_write(store: Arc<dyn Store>) {
    let mut watch = store.watch(key("").as_str(), 0).await.unwrap();
    assert_eq!(next(&mut watch).await, Ok(WatchEvent::Progress(0)));
    write(&*store, [Operation::Put(Key::new("/other"), "".into())]).await;
    assert_eq!(next(&mut watch).await, Ok(WatchEvent::Progress(1)));
}

async fn progress_comes_when_asked_for(store: Arc<dyn Store>) {
    let mut watch = store.watch("/", 0).await.unwrap();
    assert_eq!(next(&mut watch).await, Ok(WatchEvent::Progress(0)));
    write(&*store, [put("a", "1")]).await;
    store.mark_progress().await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Transaction { revision: 1, .. })));
    assert_eq!(next(&mut watch).await, Ok(WatchEvent::Progress(1)), "also where the reader knows");
}

async fn a_watch_at_rest_is_silent(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1")]).await;
    let mut watch = store.watch("/", 1).await.unwrap();
    assert_eq!(next(&mut watch).await, Ok(WatchEvent::Progress(1)));
    write(&*store, [put("a", "2")]).await;
    assert_eq!(next_transaction(&mut watch).await.0, 2);
    // The transaction itself said how far the watch is.
    let heard = tokio::time::timeout(options().progress * 4, watch.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

async fn a_watch_from_before_compaction_or_from_the_future_is_refused(store: Arc<dyn Store>) {
    for value in ["1", "2", "3"] {
        write(&*store, [put("a", value)]).await;
    }
    store.compact(2).await.unwrap();
    let refused = |answer: Result<Watch, Error>| answer.err().expect("refused");
    assert_eq!(refused(store.watch("/", 1).await), Error::Compacted(2));
    assert_eq!(refused(store.watch("/", 4).await), Error::Future { asked: 4, current: 3 });
    let mut watch = store.watch("/", 2).await.unwrap();
    assert_eq!(next_transaction(&mut watch).await.0, 3);
}

async fn a_reader_slower_than_compaction_is_told(store: Arc<dyn Store>) {
    let mut watch = store.watch("/", 0).await.unwrap();
    for n in 0..600 {
        write(&*store, [put("a", &n.to_string())]).await;
    }
    assert_eq!(next_transaction(&mut watch).await.0, 1);
    store.compact(600).await.unwrap();
    // What was read ahead still comes, in order; then the truth, and nothing after it.
    let mut last = 1;
    let error = loop {
        match next(&mut watch).await {
            Ok(WatchEvent::Transaction { revision, .. }) => {
                assert_eq!(revision, last + 1);
                last = revision;
            }
            Ok(other) => panic!("{other:?} would claim that all was sent"),
            Err(error) => break error,
        }
    };
    assert_eq!(error, Error::Lagged);
    assert_eq!(watch.next().await, None);
}

async fn watchers_rebuild_the_state_while_it_is_written(store: Arc<dyn Store>) {
    const WRITERS: usize = 4;
    const TIMES: usize = 40;
    let rebuild = |store: Arc<dyn Store>| async move {
        let mut watch = store.watch("/", 0).await.unwrap();
        let (mut state, mut last) = (BTreeMap::new(), 0);
        while last < (WRITERS * TIMES) as Revision {
            let (revision, changes) = next_transaction(&mut watch).await;
            assert_eq!(revision, last + 1);
            last = revision;
            for change in changes.iter() {
                let before = match change.current.clone() {
                    Some(entry) => state.insert(change.key.clone(), entry),
                    None => state.remove(&change.key),
                };
                assert_eq!(before, change.previous);
            }
        }
        state
    };
    let watchers: Vec<_> = (0..3).map(|_| tokio::spawn(rebuild(store.clone()))).collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..TIMES {
                    let (own, shared) = (format!("{writer}-{}", n % 3), (n % 5).to_string());
                    write(&*store, [put(&own, &n.to_string()), put(&shared, &own)]).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let stored: BTreeMap<_, _> =
        store.list(all("/")).await.unwrap().entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), stored);
    }
}
