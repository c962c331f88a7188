//! The outbox: reports and events, written together a little later.
//!
//! Only the newest report of a work counts, so what is replaced before it was written is never written. One transaction
//! is under way at a time; what comes meanwhile shares the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Controller, Purpose, lanes};
use crate::{
    hub::records::{self, Record},
    model::{Now, Report, Uid},
    store::{Key, OPERATIONS_MAX, Operation, Transaction},
};

/// How long the first waits for others to share its transaction.
const DELAY_MS: u64 = 5;
/// After a failure.
const RETRY_MS: u64 = 200;

#[derive(Debug, Default)]
pub struct Outbox {
    reports: BTreeMap<(Uid, Uid), Waiting>,
    operations: BTreeMap<Key, Operation>,
    due_ms: Option<u64>,
    /// Reports heard.
    heard: u64,
    /// Which of them are not stored, and not replaced by newer ones.
    waiting: BTreeSet<u64>,
    flying: Option<Flight>,
}

#[derive(Debug)]
struct Flight {
    reports: BTreeMap<(Uid, Uid), Waiting>,
    operations: Vec<Operation>,
}

#[derive(Debug, Clone)]
struct Waiting {
    report: Arc<Report>,
    /// Counts the reports heard.
    number: u64,
}

impl Outbox {
    /// Reports up to this one are stored, or replaced by newer ones, or were never worth storing.
    pub fn settled(&self) -> u64 {
        self.waiting.first().map_or(self.heard, |first| first - 1)
    }

    pub fn add_operations(&mut self, now: Now, operations: Vec<Operation>) {
        if !operations.is_empty() {
            self.operations.extend(operations.into_iter().map(|operation| (operation.key().clone(), operation)));
            self.due_ms.get_or_insert(now.monotonic_ms + DELAY_MS);
        }
    }

    fn add_report(&mut self, now: Now, cluster: &Uid, application: &Uid, report: Report) {
        let waiting = Waiting { report: Arc::new(report), number: self.heard };
        self.waiting.insert(self.heard);
        if let Some(replaced) = self.reports.insert((cluster.clone(), application.clone()), waiting) {
            self.waiting.remove(&replaced.number);
        }
        self.due_ms.get_or_insert(now.monotonic_ms + DELAY_MS);
    }

    /// What is being written or will be.
    pub fn latest(&self, cluster: &Uid, application: &Uid) -> Option<&Arc<Report>> {
        let key = (cluster.clone(), application.clone());
        let waiting = self.reports.get(&key).or_else(|| self.flying.as_ref()?.reports.get(&key));
        waiting.map(|waiting| &waiting.report)
    }

    pub fn deadline(&self) -> Option<u64> {
        self.due_ms.filter(|_| self.flying.is_none())
    }

    /// What can be written now, within the limits of a transaction; the rest follows.
    fn take(&mut self, now: Now) -> Option<Vec<Operation>> {
        if self.flying.is_some() || self.due_ms.is_none_or(|due| due > now.monotonic_ms) {
            return None;
        }
        let report = |((cluster, application), waiting): (&(Uid, Uid), &Waiting)| {
            let record = Record::Report { cluster: cluster.clone(), application: application.clone() };
            Operation::Put(record.key(), records::value(&*waiting.report))
        };
        let wanted: Vec<Operation> =
            self.reports.iter().take(OPERATIONS_MAX).map(report).chain(self.operations.values().cloned()).collect();
        let batch = lanes::batches(wanted).into_iter().next().unwrap_or_default();
        let mut flight = Flight { reports: BTreeMap::new(), operations: Vec::new() };
        for operation in &batch {
            match Record::of(operation.key()) {
                Some(Record::Report { cluster, application }) => {
                    let key = (cluster, application);
                    flight.reports.extend(self.reports.remove(&key).map(|report| (key, report)));
                }
                _ => flight.operations.extend(self.operations.remove(operation.key())),
            }
        }
        self.due_ms = (!self.reports.is_empty() || !self.operations.is_empty()).then_some(now.monotonic_ms);
        self.flying = Some(flight);
        Some(batch)
    }

    /// What was under way is written, or waits again unless something newer does.
    pub fn done(&mut self, now: Now, written: bool) {
        let Some(flight) = self.flying.take() else { return };
        for (key, waiting) in flight.reports {
            if written || self.reports.contains_key(&key) {
                self.waiting.remove(&waiting.number);
            } else {
                self.reports.insert(key, waiting);
            }
        }
        if !written {
            for operation in flight.operations {
                self.operations.entry(operation.key().clone()).or_insert(operation);
            }
            self.due_ms = Some(now.monotonic_ms + RETRY_MS);
        }
    }
}

impl Controller {
    /// A report is stored when it says something new about a work that is decided.
    pub(super) fn on_report(&mut self, now: Now, cluster: &Uid, mut report: Report) {
        report.cluster = cluster.clone();
        self.outbox.heard += 1;
        let application = report.application.clone();
        let placed = self.placement(&application);
        if !placed.is_some_and(|placement| placement.rows.iter().any(|row| row.cluster == *cluster)) {
            return;
        }
        let known = self.outbox.latest(cluster, &application).or_else(|| self.index.report(&application, cluster));
        if known.is_none_or(|known| **known != report) {
            self.outbox.add_report(now, cluster, &application, report);
            self.reserve_in(&application, cluster);
        }
    }

    pub(super) fn flush(&mut self, now: Now) {
        if let Some(operations) = self.outbox.take(now) {
            let compares = self.leader_compare().into_iter().collect();
            self.commit(Purpose::Outbox, Transaction { compares, operations });
        }
    }
}
