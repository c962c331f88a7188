//! What every implementation of the port does alike: the same sentences, run on each of them.

mod model;
mod transactions;
mod watches;

use std::{sync::Arc, time::Duration};

use super::{Compare, Error, Key, List, Operation, Options, Outcome, Revision, Store, Transaction, memory, raft};
use crate::model::Uid;

/// An empty store, and what must outlive it.
struct Fixture {
    store: Arc<dyn Store>,
    _behind: Option<Box<dyn std::any::Any + Send>>,
}

fn options() -> Options {
    Options { progress: Duration::from_millis(50), ..Options::default() }
}

fn on_memory() -> Fixture {
    Fixture { store: memory::open_with(options(), Uid::from("incarnation")), _behind: None }
}

fn on_one_replica() -> Fixture {
    let dir = raft::tests::directory();
    Fixture { store: raft::alone(dir.path(), options()).unwrap(), _behind: Some(Box::new(dir)) }
}

/// The handle is a follower's: what it writes is the leader's to commit.
async fn on_three_replicas() -> Fixture {
    let group = raft::tests::Group::of_three(options()).await;
    Fixture { store: group.follower().await, _behind: Some(Box::new(group)) }
}

/// Names each sentence once per implementation.
macro_rules! on_every_store {
    ($($sentence:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                let fixture = crate::store::conformance::on_memory();
                super::$sentence(fixture.store.clone()).await;
            })*
        }
        mod one_replica {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                let fixture = crate::store::conformance::on_one_replica();
                super::$sentence(fixture.store.clone()).await;
            })*
        }
        mod three_replicas {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $sentence() {
                let fixture = crate::store::conformance::on_three_replicas().await;
                super::$sentence(fixture.store.clone()).await;
            })*
        }
    };
}
use on_every_store;

fn key(name: &str) -> Key {
    Key::object("g", "things", "ns", name)
}

fn put(name: &str, value: &str) -> Operation {
    Operation::Put(key(name), value.to_owned().into())
}

fn delete(name: &str) -> Operation {
    Operation::Delete(key(name))
}

fn transaction(compares: impl Into<Vec<Compare>>, operations: impl Into<Vec<Operation>>) -> Transaction {
    Transaction { compares: compares.into(), operations: operations.into() }
}

fn all(prefix: &str) -> List {
    List { prefix: prefix.into(), after: None, limit: 0, at: None }
}

/// Commits what must not conflict.
async fn write(store: &dyn Store, operations: impl Into<Vec<Operation>>) -> Revision {
    match store.commit(transaction([], operations)).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

async fn value_of(store: &dyn Store, name: &str) -> Option<String> {
    let entry = store.get(&key(name)).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

fn too_large(answer: Result<Outcome, Error>) -> bool {
    matches!(answer, Err(Error::TooLarge(_)))
}
