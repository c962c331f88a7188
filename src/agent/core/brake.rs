//! The brake on removals that nobody named one by one (rule 14), as the agent checks it.
//!
//! The hub checks the same; the agent's check stands when the hub is wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Uid,
    work::{PLACEMENT_AUTHOR, Removal, RemovalReason, Work},
};

/// Works whose unnamed removals may run within one [`WINDOW_MS`] in any case.
const WORKS_FREE: usize = 10;
const WINDOW_MS: u64 = 600_000;

/// When unnamed removals last ran, by Application.
#[derive(Debug, Clone, Default)]
pub struct Brake {
    ran_at_ms: BTreeMap<Uid, i64>,
}

impl Brake {
    /// `ran` are ages in milliseconds at `now_ms`.
    pub fn new(ran: impl Iterator<Item = (Uid, i64)>, now_ms: u64) -> Self {
        Self { ran_at_ms: ran.map(|(application, age)| (application, now_ms as i64 - age)).collect() }
    }

    pub fn ran(&mut self, application: &Uid, now_ms: u64) {
        self.ran_at_ms.insert(application.clone(), now_ms as i64);
    }

    pub fn forget_old(&mut self, now_ms: u64) {
        self.ran_at_ms.retain(|_, at| now_ms as i64 - *at <= WINDOW_MS as i64);
    }

    /// Whether this many works at once are too many: `waiting` are those whose unnamed removals are to run, `works`
    /// counts all works of the cluster.
    pub fn holds(&self, waiting: &BTreeSet<&Uid>, works: usize, now_ms: u64) -> bool {
        let within = |at: &i64| now_ms as i64 - *at <= WINDOW_MS as i64;
        let ran = self.ran_at_ms.iter().filter(|(_, at)| within(at)).map(|(application, _)| application);
        let touched = waiting.iter().copied().chain(ran).collect::<BTreeSet<_>>().len();
        touched > WORKS_FREE && touched * 10 > works
    }
}

/// Whether the work removes something that nobody named.
pub fn removes_unnamed(work: &Work) -> bool {
    work.removals.iter().any(is_unnamed)
}

/// A held set is confirmed by removals that carry the name of whoever confirmed it.
fn is_unnamed(removal: &Removal) -> bool {
    match removal.reason {
        RemovalReason::ApplicationDeleted | RemovalReason::ClusterDrained => false,
        RemovalReason::NotInRevision | RemovalReason::PlacedElsewhere => removal.author == PLACEMENT_AUTHOR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uids(count: usize) -> Vec<Uid> {
        (0..count).map(|index| Uid(format!("app-{index:03}"))).collect()
    }

    #[test]
    fn holds_only_beyond_both_ten_works_and_a_tenth() {
        for (waiting, works, expected) in
            [(1, 1, false), (10, 10, false), (11, 11, true), (11, 109, true), (11, 110, false), (12, 110, true)]
        {
            let applications = uids(waiting);
            assert_eq!(
                Brake::default().holds(&applications.iter().collect(), works, 0),
                expected,
                "{waiting} of {works}"
            );
        }
    }

    #[test]
    fn what_ran_within_ten_minutes_counts() {
        let applications = uids(11);
        let mut brake = Brake::default();
        applications[..10].iter().for_each(|application| brake.ran(application, 1000));
        let last = BTreeSet::from([&applications[10]]);
        assert!(brake.holds(&last, 20, 1000 + WINDOW_MS));
        assert!(!brake.holds(&last, 20, 1001 + WINDOW_MS));
        assert!(!brake.holds(&BTreeSet::from([&applications[0]]), 20, 1000), "the same work counts once");
    }

    #[test]
    fn a_restart_does_not_reset_the_brake() {
        let applications = uids(11);
        let brake = Brake::new(applications[..10].iter().map(|application| (application.clone(), 60_000)), 5);
        assert!(brake.holds(&BTreeSet::from([&applications[10]]), 20, 5));
    }
}
