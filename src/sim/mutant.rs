//! Bugs planted on purpose: what the rules are worth is shown by what they find.
//!
//! Each mutant changes what passes between two honest parts, as a faulty part would.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    agent::ledger::Entry,
    hub::control::FromAgent,
    model::{Resources, Uid, protocol::ToHub},
    store::{Operation, Transaction, object},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The agent takes what a fresh stream does not repeat for what is to be deleted.
    AbsentIsDeleted,
    /// The agent takes an older generation for the newest.
    StaleAccepted,
    /// The agent removes before it applies.
    RemovalFirst,
    /// The agent says of every removal at once that it is done.
    RemovalsConfirmedUnseen,
    /// The agent starts with an empty ledger.
    LedgerForgets,
    /// The agent applies over what is not ours.
    OwnershipIgnored,
    /// The agent repairs what is not broken, with every beat.
    RepairsForever,
    /// What is decided but not yet bound counts as free.
    ReservationsIgnored,
    /// The hub forgets a cluster that falls silent.
    SilenceEvicts,
    /// The hub writes into what people wrote.
    HubWritesSpec,
    /// The hub says no without its reasons, but for the first.
    RefusalsUntold,
}

impl Mutant {
    /// Each with the number of seeds within which it must be found.
    pub const ALL: [(Self, u64); 11] = [
        (Self::AbsentIsDeleted, 10),
        (Self::StaleAccepted, 60),
        (Self::RemovalFirst, 20),
        (Self::RemovalsConfirmedUnseen, 60),
        (Self::LedgerForgets, 20),
        (Self::OwnershipIgnored, 40),
        (Self::RepairsForever, 10),
        (Self::ReservationsIgnored, 60),
        (Self::SilenceEvicts, 10),
        (Self::HubWritesSpec, 10),
        (Self::RefusalsUntold, 10),
    ];

    pub(super) fn on_the_way_up(self, message: ToHub, ledger: &BTreeMap<Uid, Entry>) -> ToHub {
        match (self, message) {
            (Self::RemovalsConfirmedUnseen, ToHub::Report(mut report)) => {
                if let Some(entry) = ledger.get(&report.application) {
                    report.removed = entry.work.removals.iter().map(|removal| removal.object.clone()).collect();
                }
                ToHub::Report(report)
            }
            (_, message) => message,
        }
    }

    pub(super) fn claim_everything_bound(from: FromAgent) -> FromAgent {
        match from {
            FromAgent::Report { cluster, mut report } => {
                for component in &mut report.components {
                    component.held = Resources::default();
                    if let Some(count) = &mut component.replicas {
                        count.bound = count.desired;
                    }
                }
                FromAgent::Report { cluster, report }
            }
            from => from,
        }
    }

    /// What the hub writes of Applications, changed.
    pub(super) fn on_commit(self, mut transaction: Transaction) -> Transaction {
        for operation in &mut transaction.operations {
            let Operation::Put(key, value) = operation else { continue };
            if !key.as_str().contains("/applications/") {
                continue;
            }
            let Some(mut application) = object::json(value).ok().and_then(|json| serde_json::from_slice(&json).ok())
            else {
                continue;
            };
            let application: &mut Value = &mut application;
            match self {
                Self::HubWritesSpec => application["spec"]["touched"] = true.into(),
                Self::RefusalsUntold => {
                    if let Some(refusals) = application["status"]["placement"]["refusals"].as_array_mut() {
                        refusals.truncate(1);
                    }
                }
                _ => continue,
            }
            *value = object::encode(application);
        }
        transaction
    }
}
