//! Bugs planted on purpose: what the rules are worth is shown by what they find.
//!
//! Each mutant changes what passes between two honest parts, as a faulty part would.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde_json::Value;

use crate::{
    agent::ledger::Entry,
    hub::control::{FromAgent, turn::LEADER},
    model::{Resources, Uid, cluster::DRAINED, protocol::ToHub},
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
    /// The hub takes what is to come in the stead of others for ready at once.
    HealthAssumed,
    /// The hub says of a cluster that nothing is left in it when its drain begins.
    DrainsSaidDone,
    /// The hub forgets a cluster that falls silent.
    SilenceEvicts,
    /// The hub writes into what people wrote.
    HubWritesSpec,
    /// The hub says no without its reasons, but for the first.
    RefusalsUntold,
    /// Whoever led before goes on writing: the leader's key is not compared.
    LeaderKeyUncompared,
    /// A new leader calls clusters silent at once.
    GraceNotFresh,
    /// A replica tells a new leader what agents said before it, as if they said it now.
    DeadStreamsSpeak,
    /// A replica that is behind tells an agent that what it has is current.
    StaleServed,
    /// A replica goes on telling whoever led first, and nobody notices.
    OldDeskForever,
}

impl Mutant {
    /// Each with the seeds among which it must be found; those before are known to miss it, and cost time.
    pub const ALL: [(Self, RangeInclusive<u64>); 18] = [
        (Self::AbsentIsDeleted, 1..=10),
        (Self::StaleAccepted, 3..=62),
        (Self::RemovalFirst, 1..=20),
        (Self::RemovalsConfirmedUnseen, 30..=89),
        (Self::LedgerForgets, 1..=20),
        (Self::OwnershipIgnored, 90..=129),
        (Self::RepairsForever, 1..=10),
        (Self::ReservationsIgnored, 30..=89),
        (Self::HealthAssumed, 75..=129),
        (Self::DrainsSaidDone, 30..=89),
        (Self::SilenceEvicts, 3..=12),
        (Self::HubWritesSpec, 1..=10),
        (Self::RefusalsUntold, 1..=10),
        (Self::LeaderKeyUncompared, 25..=84),
        (Self::GraceNotFresh, 1..=60),
        (Self::DeadStreamsSpeak, 6..=65),
        (Self::StaleServed, 1..=60),
        (Self::OldDeskForever, 1..=60),
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

    pub(super) fn claim_everything_ready(from: FromAgent) -> FromAgent {
        match from {
            FromAgent::Report { cluster, mut report } => {
                for component in &mut report.components {
                    component.healthy = true;
                    if let Some(count) = &mut component.replicas {
                        count.ready = count.desired;
                    }
                }
                FromAgent::Report { cluster, report }
            }
            from => from,
        }
    }

    /// What the hub writes of Clusters, changed.
    fn on_cluster(self, cluster: &mut Value) -> bool {
        let mut conditions = cluster["status"]["conditions"].as_array_mut().into_iter().flatten();
        let drained = conditions.find(|condition| condition["type"] == DRAINED);
        match (self, drained) {
            (Self::DrainsSaidDone, Some(drained)) => {
                drained["status"] = "True".into();
                true
            }
            _ => false,
        }
    }

    /// What the hub writes of Applications and Clusters, changed.
    pub(super) fn on_commit(self, mut transaction: Transaction) -> Transaction {
        if self == Self::LeaderKeyUncompared {
            transaction.compares.retain(|compare| compare.key().as_str() != LEADER);
        }
        for operation in &mut transaction.operations {
            let Operation::Put(key, value) = operation else { continue };
            let (of_application, of_cluster) =
                (key.as_str().contains("/applications/"), key.as_str().contains("/clusters/"));
            if !of_application && !of_cluster {
                continue;
            }
            let Some(mut stored) = object::json(value).ok().and_then(|json| serde_json::from_slice(&json).ok()) else {
                continue;
            };
            let stored: &mut Value = &mut stored;
            match self {
                _ if of_cluster => {
                    if !self.on_cluster(stored) {
                        continue;
                    }
                }
                Self::HubWritesSpec => stored["spec"]["touched"] = true.into(),
                Self::RefusalsUntold => {
                    if let Some(refusals) = stored["status"]["placement"]["refusals"].as_array_mut() {
                        refusals.truncate(1);
                    }
                }
                _ => continue,
            }
            *value = object::encode(stored);
        }
        transaction
    }
}
