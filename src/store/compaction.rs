//! How long history is kept.
//!
//! Owns: the one decision which revision to compact to. Whoever runs a timer asks it and calls [`super::Store::compact`].
//! Must never: read a clock.

use std::collections::VecDeque;

use super::Revision;
use crate::model::Now;

/// Both hold: what is younger than `age_ms` is kept, but never more than `revisions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub age_ms: u64,
    pub revisions: u64,
}

impl Default for Retention {
    /// Five minutes: a client that lost its watch comes back within that, or lists again.
    fn default() -> Self {
        Self { age_ms: 5 * 60 * 1000, revisions: 10_000 }
    }
}

/// Remembers when the store was at which revision.
#[derive(Debug, Default)]
pub struct Compactor {
    retention: Retention,
    /// In order; each revision once, with the time at which it was first seen.
    seen: VecDeque<(u64, Revision)>,
    compacted: Revision,
}

impl Compactor {
    pub fn new(retention: Retention) -> Self {
        Self { retention, ..Self::default() }
    }

    /// The revision to compact to now, if any.
    pub fn step(&mut self, now: Now, revision: Revision) -> Option<Revision> {
        if self.seen.back().is_none_or(|(_, last)| *last < revision) {
            self.seen.push_back((now.monotonic_ms, revision));
        }
        let mut target = revision.saturating_sub(self.retention.revisions);
        // What was current when the retained time began can be read still: readers may hold it.
        while let Some((at_ms, seen)) = self.seen.front()
            && now.monotonic_ms.saturating_sub(*at_ms) >= self.retention.age_ms
        {
            target = target.max(*seen);
            self.seen.pop_front();
        }
        let news = target > self.compacted;
        self.compacted = self.compacted.max(target);
        news.then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn at(monotonic_ms: u64) -> Now {
        Now { wall: Timestamp::from_seconds(0), monotonic_ms }
    }

    #[test]
    fn what_is_younger_than_the_age_is_kept() {
        let mut compactor = Compactor::new(Retention { age_ms: 100, revisions: 1000 });
        assert_eq!(compactor.step(at(0), 10), None);
        assert_eq!(compactor.step(at(50), 20), None);
        assert_eq!(compactor.step(at(100), 30), Some(10));
        assert_eq!(compactor.step(at(149), 40), None);
        assert_eq!(compactor.step(at(150), 40), Some(20));
    }

    #[test]
    fn no_more_revisions_are_kept_than_allowed() {
        let mut compactor = Compactor::new(Retention { age_ms: 100, revisions: 5 });
        assert_eq!(compactor.step(at(0), 12), Some(7));
    }

    #[test]
    fn a_store_at_rest_is_not_compacted_again() {
        let mut compactor = Compactor::new(Retention { age_ms: 100, revisions: 5 });
        compactor.step(at(0), 3);
        assert_eq!(compactor.step(at(100), 3), Some(3));
        assert_eq!(compactor.step(at(900), 3), None, "converged means silent");
    }
}
