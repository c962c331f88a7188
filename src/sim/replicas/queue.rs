//! What is to happen, in order of time; what was scheduled first comes first where the time is the same.

use std::{cmp::Ordering, collections::BinaryHeap};

#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Scheduled<T>>,
    sequence: u64,
}

#[derive(Debug)]
struct Scheduled<T> {
    at: u64,
    sequence: u64,
    what: T,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, at: u64, what: T) {
        self.sequence += 1;
        self.heap.push(Scheduled { at, sequence: self.sequence, what });
    }

    /// When the next is.
    pub fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|scheduled| scheduled.at)
    }

    /// The next, unless it is later than `until`.
    pub fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|scheduled| (scheduled.at, scheduled.what))
    }
}

impl<T> PartialEq for Scheduled<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Scheduled<T> {}

impl<T> PartialOrd for Scheduled<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Reversed: the heap gives the greatest first.
impl<T> Ord for Scheduled<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}
