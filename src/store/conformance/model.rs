//! Random histories against a naive model: one whole copy of the state per revision.

use std::collections::BTreeMap;

use futures::StreamExt;
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::store::{Change, Entry, Page, WatchEvent};

#[test]
fn memory_does_what_the_model_does() {
    check(192, on_memory);
}

#[test]
fn a_replica_does_what_the_model_does() {
    check(24, on_one_replica);
}

#[derive(Debug, Clone)]
enum Step {
    Commit { compares: Vec<(u8, Guess)>, operations: BTreeMap<u8, Option<u8>> },
    Compact { back: u64 },
    List { back: u64, after: Option<u8>, limit: usize },
    Watch { back: u64, key: Option<u8> },
}

/// What a compare expects; often right, so that many transactions pass.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Right,
    Absent,
    Modified(Revision),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..6u8;
    let guess =
        prop_oneof![3 => Just(Guess::Right), 1 => Just(Guess::Absent), 1 => (0..9u64).prop_map(Guess::Modified)];
    let compares = prop::collection::vec((key.clone(), guess), 0..3);
    let operations = prop::collection::btree_map(key.clone(), prop::option::weighted(0.7, any::<u8>()), 0..4);
    let back = 0..8u64;
    prop_oneof![
        6 => (compares, operations).prop_map(|(compares, operations)| Step::Commit { compares, operations }),
        1 => back.clone().prop_map(|back| Step::Compact { back }),
        2 => (back.clone(), prop::option::of(key.clone()), 0..4usize)
            .prop_map(|(back, after, limit)| Step::List { back, after, limit }),
        1 => (back, prop::option::of(key)).prop_map(|(back, key)| Step::Watch { back, key }),
    ]
}

type State = BTreeMap<Key, Entry>;

#[derive(Default)]
struct Model {
    /// By revision.
    states: Vec<State>,
    compacted: Revision,
}

impl Model {
    fn now(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    fn revision(&self) -> Revision {
        self.states.len() as Revision - 1
    }

    fn readable(&self, revision: Revision) -> Result<&State, Error> {
        if revision < self.compacted {
            return Err(Error::Compacted(self.compacted));
        }
        let current = self.revision();
        self.states.get(revision as usize).ok_or(Error::Future { asked: revision, current })
    }

    fn commit(&mut self, transaction: &Transaction) -> Outcome {
        let modified = |key: &Key| self.now().get(key).map(|entry| entry.modified);
        let holds = transaction.compares.iter().all(|compare| match compare {
            Compare::Modified(key, revision) => modified(key) == Some(*revision),
            Compare::Absent(key) => modified(key).is_none(),
        });
        if !holds {
            let current = transaction.compares.iter().map(|compare| self.now().get(compare.key()).cloned());
            return Outcome::Conflict(current.collect());
        }
        let revision = self.revision() + 1;
        let mut next = self.now().clone();
        for operation in &transaction.operations {
            match operation {
                Operation::Put(key, value) => {
                    let created = next.get(key).map_or(revision, |entry| entry.created);
                    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision };
                    next.insert(key.clone(), entry);
                }
                Operation::Delete(key) => {
                    next.remove(key);
                }
            }
        }
        if next == *self.now() {
            return Outcome::Committed(self.revision());
        }
        self.states.push(next);
        Outcome::Committed(revision)
    }

    fn list(&self, list: &List) -> Result<Page, Error> {
        let revision = list.at.unwrap_or(self.revision());
        let state = self.readable(revision)?;
        let found: Vec<Entry> = state
            .values()
            .filter(|entry| entry.key.as_str().starts_with(&list.prefix))
            .filter(|entry| list.after.as_ref().is_none_or(|after| entry.key > *after))
            .cloned()
            .collect();
        let shown = if list.limit == 0 { found.len() } else { found.len().min(list.limit) };
        Ok(Page { entries: found[..shown].to_vec(), revision, remaining: (found.len() - shown) as u64 })
    }

    /// The differences between the states after `from`.
    fn history(&self, prefix: &str, from: Revision) -> Result<Vec<(Revision, Vec<Change>)>, Error> {
        self.readable(from)?;
        let mut history = Vec::new();
        for revision in from + 1..=self.revision() {
            let (before, after) = (&self.states[revision as usize - 1], &self.states[revision as usize]);
            let keys = before.keys().chain(after.keys()).filter(|key| key.as_str().starts_with(prefix));
            let keys: std::collections::BTreeSet<&Key> =
                keys.filter(|key| before.get(*key) != after.get(*key)).collect();
            let change = |key: &Key| Change {
                key: key.clone(),
                current: after.get(key).cloned(),
                previous: before.get(key).cloned(),
            };
            if !keys.is_empty() {
                history.push((revision, keys.into_iter().map(change).collect()));
            }
        }
        Ok(history)
    }
}

fn check(cases: u32, open: fn() -> Fixture) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let run = TestRunner::new(config).run(&prop::collection::vec(step(), 1..40), |steps| {
        let fixture = open();
        let mut model = Model { states: vec![State::new()], compacted: 0 };
        for step in steps {
            runtime.block_on(take(&*fixture.store, &mut model, step));
        }
        Ok(())
    });
    run.unwrap();
}

async fn take(store: &dyn Store, model: &mut Model, step: Step) {
    let named = |n: u8| key(&n.to_string());
    // From a little in the future to well into the past.
    let at = |back: u64, model: &Model| (model.revision() + 1).saturating_sub(back);
    match step {
        Step::Commit { compares, operations } => {
            let guessed = |(n, guess): (u8, Guess)| match guess {
                Guess::Absent => Compare::Absent(named(n)),
                Guess::Modified(revision) => Compare::Modified(named(n), revision),
                Guess::Right => match model.now().get(&named(n)) {
                    Some(entry) => Compare::Modified(named(n), entry.modified),
                    None => Compare::Absent(named(n)),
                },
            };
            let operation = |(n, value): (u8, Option<u8>)| match value {
                Some(value) => Operation::Put(named(n), vec![value].into()),
                None => Operation::Delete(named(n)),
            };
            let transaction = Transaction {
                compares: compares.into_iter().map(guessed).collect(),
                operations: operations.into_iter().map(operation).collect(),
            };
            let expected = model.commit(&transaction);
            assert_eq!(store.commit(transaction).await, Ok(expected));
        }
        Step::Compact { back } => {
            let revision = at(back, model);
            let expected = if revision > model.revision() {
                Err(Error::Future { asked: revision, current: model.revision() })
            } else {
                model.compacted = model.compacted.max(revision);
                Ok(())
            };
            assert_eq!(store.compact(revision).await, expected);
        }
        Step::List { back, after, limit } => {
            let list = List { prefix: key("").to_string(), after: after.map(named), limit, at: Some(at(back, model)) };
            assert_eq!(store.list(list.clone()).await, model.list(&list));
        }
        Step::Watch { back, key: only } => {
            let prefix = only.map_or_else(|| key(""), named);
            let expected = model.history(prefix.as_str(), at(back, model));
            let watch = store.watch(prefix.as_str(), at(back, model)).await;
            let seen = match watch {
                Err(error) => Err(error),
                Ok(watch) => Ok(until_progress(watch, model.revision()).await),
            };
            assert_eq!(seen, expected);
        }
    }
    assert_eq!(store.revision().await, Ok(model.revision()));
}

async fn until_progress(mut watch: crate::store::Watch, newest: Revision) -> Vec<(Revision, Vec<Change>)> {
    let mut seen = Vec::new();
    loop {
        match watch.next().await.unwrap().unwrap() {
            WatchEvent::Transaction { revision, changes } => seen.push((revision, changes.to_vec())),
            WatchEvent::Progress(revision) => {
                assert_eq!(revision, newest);
                return seen;
            }
        }
    }
}
