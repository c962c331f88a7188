//! Lanes: one chain of transactions at a time per object, and what becomes of it.
//!
//! What a decision writes is larger than a transaction at times: then its pieces go first, one transaction after the
//! other, and the pointer that makes them valid goes last, with the compares. A lane is free again once the store's feed
//! has told what the lane wrote, so the next decision is made on what is stored.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    model::{Placement, revision::Revision as Rendered},
    store::{Compare, Key, OPERATIONS_MAX, Operation, Revision, TRANSACTION_BYTES_MAX, Transaction},
};

/// Room for keys, and for what the leader's compare costs.
const BYTES_MAX: usize = TRANSACTION_BYTES_MAX - (64 << 10);

/// What one decision writes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Immutable values that mean nothing until the pointer is there.
    pub pieces: Vec<Operation>,
    /// All or nothing.
    pub pointer: Transaction,
    /// The placement that this makes valid, counted as reserved from now on.
    pub placement: Option<Arc<Placement>>,
    /// A revision that this stores, by name.
    pub revision: Option<(String, Arc<Rendered>)>,
}

#[derive(Debug)]
pub struct Lane {
    pub id: u64,
    queue: VecDeque<Transaction>,
    /// Set when the last transaction is committed.
    pub committed: Option<Revision>,
    pub placement: Option<Arc<Placement>>,
    pub revision: Option<(String, Arc<Rendered>)>,
}

impl Plan {
    /// In order of commit; every transaction begins with the leader's compare.
    fn transactions(self, leader: Option<&Compare>) -> VecDeque<Transaction> {
        let mut chain: VecDeque<Transaction> = VecDeque::new();
        let mut pointer = self.pointer;
        let bytes = |operations: &[Operation]| operations.iter().map(size).sum::<usize>();
        let fits = self.pieces.len() + pointer.operations.len() <= OPERATIONS_MAX
            && bytes(&self.pieces) + bytes(&pointer.operations) <= BYTES_MAX;
        if fits {
            pointer.operations.splice(0..0, self.pieces);
        } else {
            for batch in batches(self.pieces) {
                chain.push_back(Transaction { compares: Vec::new(), operations: batch });
            }
        }
        chain.push_back(pointer);
        for transaction in &mut chain {
            transaction.compares.splice(0..0, leader.cloned());
        }
        chain
    }
}

impl Lane {
    /// The lane and its first transaction.
    pub fn begin(id: u64, plan: Plan, leader: Option<&Compare>) -> (Self, Transaction) {
        let (placement, revision) = (plan.placement.clone(), plan.revision.clone());
        let mut queue = plan.transactions(leader);
        let first = queue.pop_front().unwrap_or_default();
        (Self { id, queue, committed: None, placement, revision }, first)
    }

    /// The transaction after one that was committed at `revision`; `None` when that was the last.
    pub fn advance(&mut self, id: u64, revision: Revision) -> Option<Transaction> {
        let next = self.queue.pop_front();
        match next {
            Some(_) => self.id = id,
            None => self.committed = Some(revision),
        }
        next
    }
}

/// Operations packed into as few transactions as their order and the limits allow.
pub fn batches(operations: Vec<Operation>) -> Vec<Vec<Operation>> {
    let mut batches: Vec<Vec<Operation>> = Vec::new();
    let mut bytes = 0;
    for operation in operations {
        bytes += size(&operation);
        match batches.last_mut() {
            Some(batch) if batch.len() < OPERATIONS_MAX - 1 && bytes <= BYTES_MAX => batch.push(operation),
            _ => {
                bytes = size(&operation);
                batches.push(vec![operation]);
            }
        }
    }
    batches
}

fn size(operation: &Operation) -> usize {
    match operation {
        Operation::Put(key, value) => key.as_str().len() + value.len(),
        Operation::Delete(key) => key.as_str().len(),
    }
}

/// The compare that a key is as it was when it was read; absent where it was not there.
pub fn unchanged(key: Key, modified: Option<Revision>) -> Compare {
    match modified {
        Some(modified) => Compare::Modified(key, modified),
        None => Compare::Absent(key),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(n: usize, bytes: usize) -> Operation {
        Operation::Put(Key::new(format!("/k/{n:05}")), Bytes::from(vec![b'x'; bytes]))
    }

    #[test]
    fn what_fits_is_one_transaction_and_what_does_not_ends_in_its_pointer() {
        let leader = Compare::Modified(Key::new("/leader"), 7);
        for (pieces, bytes, expected) in [(3, 10, 1), (250, 10, 4), (5, 400_000, 4)] {
            let pointer =
                Transaction { compares: vec![Compare::Absent(Key::new("/head"))], operations: vec![put(99_999, 1)] };
            let plan = Plan { pieces: (0..pieces).map(|n| put(n, bytes)).collect(), pointer, ..Plan::default() };
            let chain = plan.transactions(Some(&leader));
            assert_eq!(chain.len(), expected, "{pieces} pieces of {bytes} bytes");
            assert!(chain.iter().all(|transaction| transaction.check().is_ok() && transaction.compares[0] == leader));
            let last = chain.back().expect("a pointer");
            assert_eq!((last.compares.len(), last.operations.last()), (2, Some(&put(99_999, 1))));
            let written: usize = chain.iter().map(|transaction| transaction.operations.len()).sum();
            assert_eq!(written, pieces + 1);
        }
    }
}
