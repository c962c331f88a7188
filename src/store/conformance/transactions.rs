//! Transactions, limits, reads and lists.

use std::sync::Arc;

use super::*;
use crate::store::{KEY_BYTES_MAX, OPERATIONS_MAX, TRANSACTION_BYTES_MAX};

on_every_store!(
    each_writing_transaction_is_one_revision,
    deleting_what_is_absent_changes_nothing,
    a_key_that_comes_back_is_created_anew,
    a_conflict_shows_what_is_and_does_nothing,
    compares_that_hold_let_the_transaction_pass,
    limits_are_kept_to_the_byte,
    a_list_is_paged_as_of_one_revision,
    a_prefix_is_exact,
    what_is_not_readable_is_refused,
    compaction_keeps_what_is_readable_at_its_revision,
    every_handle_reads_what_was_acknowledged,
    concurrent_writers_lose_no_update,
);

async fn each_writing_transaction_is_one_revision(store: Arc<dyn Store>) {
    assert_eq!(store.revision().await.unwrap(), 0);
    assert_eq!(write(&*store, [put("a", "1")]).await, 1);
    assert_eq!(write(&*store, [put("a", "2"), put("b", "2")]).await, 2);
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.created, entry.modified, &*entry.value), (1, 2, b"2".as_slice()));
    let entry = store.get(&key("b")).await.unwrap().unwrap();
    assert_eq!((entry.created, entry.modified), (2, 2));
    assert_eq!(write(&*store, [put("b", "2")]).await, 3, "writing what is there is a write");
    assert_eq!(store.revision().await.unwrap(), 3);
}

async fn deleting_what_is_absent_changes_nothing(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1")]).await;
    assert_eq!(write(&*store, [delete("b")]).await, 1);
    assert_eq!(write(&*store, []).await, 1);
    assert_eq!(write(&*store, [delete("a"), delete("b")]).await, 2);
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

async fn a_key_that_comes_back_is_created_anew(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1")]).await;
    write(&*store, [delete("a")]).await;
    write(&*store, [put("a", "3")]).await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.created, entry.modified), (3, 3));
}

async fn a_conflict_shows_what_is_and_does_nothing(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1")]).await;
    write(&*store, [put("b", "1")]).await;
    let held = store.get(&key("a")).await.unwrap();
    let refused = [
        [Compare::Absent(key("c")), Compare::Modified(key("a"), 2)],
        [Compare::Modified(key("c"), 0), Compare::Absent(key("a"))],
        [Compare::Absent(key("c")), Compare::Absent(key("a"))],
    ];
    for compares in refused {
        let answer = store.commit(transaction(compares, [put("a", "2"), delete("b")])).await;
        assert_eq!(answer, Ok(Outcome::Conflict(vec![None, held.clone()])));
    }
    assert_eq!(store.revision().await.unwrap(), 2);
    assert_eq!(value_of(&*store, "b").await.as_deref(), Some("1"));
}

async fn compares_that_hold_let_the_transaction_pass(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1")]).await;
    let compares = [Compare::Modified(key("a"), 1), Compare::Absent(key("b"))];
    let answer = store.commit(transaction(compares, [put("b", "2")])).await;
    assert_eq!(answer, Ok(Outcome::Committed(2)));
    assert_eq!(store.commit(transaction([Compare::Modified(key("b"), 2)], [])).await, Ok(Outcome::Committed(2)));
}

async fn limits_are_kept_to_the_byte(store: Arc<dyn Store>) {
    let many = |count: usize| (0..count).map(|n| put(&n.to_string(), "")).collect::<Vec<_>>();
    assert!(too_large(store.commit(transaction([], many(OPERATIONS_MAX + 1))).await));
    write(&*store, many(OPERATIONS_MAX)).await;

    let compares = |count: usize| (0..count).map(|n| Compare::Absent(key(&format!("-{n}")))).collect::<Vec<_>>();
    assert!(too_large(store.commit(transaction(compares(OPERATIONS_MAX + 1), [])).await));
    assert_eq!(store.commit(transaction(compares(OPERATIONS_MAX), [])).await, Ok(Outcome::Committed(1)));

    assert!(too_large(store.commit(transaction([], [put("a", "1"), delete("a")])).await));

    let sized = |bytes: usize| Operation::Put(key("a"), vec![7; bytes - key("a").as_str().len()].into());
    assert!(too_large(store.commit(transaction([], [sized(TRANSACTION_BYTES_MAX + 1)])).await));
    write(&*store, [sized(TRANSACTION_BYTES_MAX)]).await;

    let named = |bytes: usize| Operation::Put(Key::new("k".repeat(bytes)), "".into());
    assert!(too_large(store.commit(transaction([], [named(KEY_BYTES_MAX + 1)])).await));
    assert!(too_large(store.commit(transaction([], [named(0)])).await));
    assert!(too_large(store.commit(transaction([Compare::Absent(Key::new(""))], [])).await));
    write(&*store, [named(KEY_BYTES_MAX)]).await;
    assert_eq!(store.revision().await.unwrap(), 3, "what is refused makes no revision");
}

async fn a_list_is_paged_as_of_one_revision(store: Arc<dyn Store>) {
    for name in ["a", "b", "c", "d", "e"] {
        write(&*store, [put(name, "old")]).await;
    }
    let prefix = crate::store::prefix("g", "things", None);
    let first = store.list(List { limit: 2, ..all(&prefix) }).await.unwrap();
    let names = |page: &crate::store::Page| page.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
    assert_eq!((names(&first), first.revision, first.remaining), (vec![key("a"), key("b")], 5, 3));

    write(&*store, [put("bb", "new"), delete("c"), put("d", "new")]).await;
    let next = List { limit: 2, after: Some(key("b")), at: Some(5), ..all(&prefix) };
    let second = store.list(next.clone()).await.unwrap();
    assert_eq!((names(&second), second.revision, second.remaining), (vec![key("c"), key("d")], 5, 1));
    assert!(second.entries.iter().all(|entry| entry.value == "old"));
    let now = store.list(List { at: None, limit: 0, ..next }).await.unwrap();
    assert_eq!((names(&now), now.revision, now.remaining), (vec![key("bb"), key("d"), key("e")], 6, 0));
    let none = store.list(List { after: Some(key("e")), ..all(&prefix) }).await.unwrap();
    assert_eq!((none.entries.len(), none.remaining), (0, 0));
}

async fn a_prefix_is_exact(store: Arc<dyn Store>) {
    let keys = ["/hanse/g/things/ns/a", "/hanse/g/things/ns-2/a", "/hanse/g/thing/ns/a", "/hanse/h/things/ns/a"];
    write(&*store, keys.map(|key| Operation::Put(Key::new(key), "".into()))).await;
    let counted = |prefix: String| {
        let store = store.clone();
        async move { store.list(all(&prefix)).await.unwrap().entries.len() }
    };
    assert_eq!(counted(crate::store::prefix("g", "things", Some("ns"))).await, 1);
    assert_eq!(counted(crate::store::prefix("g", "things", None)).await, 2);
    assert_eq!(counted("/hanse/".into()).await, 4);
    assert_eq!(counted(String::new()).await, 4);
}

async fn what_is_not_readable_is_refused(store: Arc<dyn Store>) {
    for value in ["1", "2", "3"] {
        write(&*store, [put("a", value)]).await;
    }
    let at = |revision| List { at: Some(revision), ..all("/") };
    assert_eq!(store.list(at(4)).await, Err(Error::Future { asked: 4, current: 3 }));
    assert_eq!(store.compact(4).await, Err(Error::Future { asked: 4, current: 3 }));
    store.compact(2).await.unwrap();
    store.compact(1).await.unwrap();
    assert_eq!(store.list(at(1)).await, Err(Error::Compacted(2)));
    assert_eq!(store.list(at(0)).await, Err(Error::Compacted(2)));
}

async fn compaction_keeps_what_is_readable_at_its_revision(store: Arc<dyn Store>) {
    write(&*store, [put("a", "1"), put("b", "1"), put("gone", "1")]).await;
    write(&*store, [put("a", "2"), delete("gone")]).await;
    write(&*store, [put("a", "3"), delete("b")]).await;
    let mut before = Vec::new();
    for at in [2, 3] {
        before.push(store.list(List { at: Some(at), ..all("/") }).await.unwrap());
    }
    store.compact(2).await.unwrap();
    for page in before {
        let at = page.revision;
        assert_eq!(store.list(List { at: Some(at), ..all("/") }).await, Ok(page));
    }
    assert_eq!(store.revision().await.unwrap(), 3, "compaction is no revision");
}

async fn every_handle_reads_what_was_acknowledged(store: Arc<dyn Store>) {
    let (acknowledged, mut reader) = tokio::sync::watch::channel(0u64);
    let reading = tokio::spawn({
        let store = store.clone();
        async move {
            while reader.changed().await.is_ok() {
                let expected = *reader.borrow_and_update();
                let seen: u64 = value_of(&*store, "a").await.unwrap().parse().unwrap();
                assert!(seen >= expected, "acknowledged {expected}, read {seen}");
                assert!(store.revision().await.unwrap() >= expected);
            }
        }
    });
    for n in 1..=100u64 {
        write(&*store, [put("a", &n.to_string())]).await;
        acknowledged.send(n).unwrap();
    }
    drop(acknowledged);
    reading.await.unwrap();
}

async fn concurrent_writers_lose_no_update(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const TIMES: u64 = 20;
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(count_up(store.clone(), TIMES))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(value_of(&*store, "counter").await, Some((WRITERS * TIMES).to_string()));
    assert_eq!(store.revision().await.unwrap(), WRITERS * TIMES, "conflicts make no revision");
}

/// Adds one as often as told, by optimistic concurrency.
async fn count_up(store: Arc<dyn Store>, times: u64) {
    let mut held = store.get(&key("counter")).await.unwrap();
    for _ in 0..times {
        loop {
            let (compare, count) = match &held {
                None => (Compare::Absent(key("counter")), 0),
                Some(entry) => {
                    let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    (Compare::Modified(key("counter"), entry.modified), count)
                }
            };
            let answer = store.commit(transaction([compare], [put("counter", &(count + 1).to_string())])).await;
            match answer.unwrap() {
                Outcome::Committed(_) => break,
                Outcome::Conflict(mut current) => held = current.remove(0),
                Outcome::Unknown => panic!("no answer was lost"),
            }
        }
        held = store.get(&key("counter")).await.unwrap();
    }
}
