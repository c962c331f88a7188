//! Rebalancing: when what could stay is looked at for a better place: because somebody asked for it, or from time to time.
//!
//! A request is an annotation of the Application, and carried out once: what was asked for last and is done stands in the
//! placement, so a new leader goes on where the old one stopped. Each decision moves so many as the policy lets at once, and
//! the next one comes when those are healthy at their new place (rule 3); a request ends with the decision that finds
//! nothing worth moving. A round of a period is not written down: a new leader waits for the next one.

use std::collections::BTreeSet;

use super::{Controller, agenda::Agenda, index::StoredApplication};
use crate::{
    flow::schedule::{Rebalance, Solution, rebalance},
    kinds::application::REBALANCE_ANNOTATION,
    model::{Application, Now, Placement, Uid, application::PlacementPolicy, placement::Row, report::ComponentReport},
};

/// Of the Applications that are rebalanced from time to time.
#[derive(Default)]
pub struct Rounds {
    pub next: Agenda,
    /// Those whose round is not over.
    open: BTreeSet<Uid>,
}

impl Rounds {
    pub fn forget(&mut self, application: &Uid) {
        self.next.remove(application);
        self.open.remove(application);
    }
}

impl Controller {
    /// Begins the rounds that are due.
    pub(super) fn begin_rounds(&mut self, now: Now) {
        let index = &self.index;
        self.rounds.next.ripen(now.monotonic_ms, |uid| index.priority(uid));
        let ripe: Vec<Uid> = self.rounds.next.ripe().map(|(uid, _)| uid.clone()).collect();
        for application in ripe {
            self.rounds.next.remove(&application);
            self.rounds.open.insert(application.clone());
            self.mark(&application, now.monotonic_ms, true);
        }
    }

    /// What an Application's next decision is to look at. While something moves, nothing else is moved.
    pub(super) fn rebalance(&self, stored: &StoredApplication, previous: Option<&Placement>) -> Rebalance {
        let Some(previous) = previous.filter(|previous| self.has_come_to_rest(previous)) else { return Rebalance::No };
        match requested(&stored.view) {
            Some(request) if *request != previous.rebalanced => Rebalance::Asked,
            _ if self.rounds.open.contains(&stored.view.metadata.uid) => Rebalance::Periodic,
            _ => Rebalance::No,
        }
    }

    /// Whether one of its rebalances is not over.
    pub(super) fn is_rebalancing(&self, application: &Uid) -> bool {
        let asked = || {
            let known = self.index.applications.get(application)?;
            Some(*requested(&known.view)? != self.index.placement(application)?.rebalanced)
        };
        self.rounds.open.contains(application) || asked().unwrap_or(false)
    }

    /// Whether nothing moves, and no pod is left of what has moved: until then its room is not seen, and the cluster that
    /// it left looks fuller than it is.
    fn has_come_to_rest(&self, placement: &Placement) -> bool {
        let rests = |row: &Row| {
            let report = self.index.report(&placement.application_uid, &row.cluster);
            let report = report.filter(|report| report.generation == row.generation);
            row.components.iter().all(|(name, share)| {
                let line = report.and_then(|report| report.components.iter().find(|line| line.name == *name));
                let has_left = |line: &ComponentReport| match (line.replicas, share.replicas) {
                    (Some(count), Some(decided)) => line.scaled || count.bound <= decided,
                    _ => true,
                };
                line.is_some_and(has_left)
            })
        };
        let is_silent = |row: &&Row| self.fleet.get(&row.cluster).is_none_or(|cluster| cluster.silent);
        let mut heard = placement.rows.iter().filter(|row| !is_silent(row));
        placement.moves.is_empty() && heard.all(rests)
    }

    /// The request that this decision ends; else the one that was ended before.
    pub(super) fn end_rebalance(
        &mut self,
        now: Now,
        stored: &StoredApplication,
        previous: Option<&Placement>,
        asked: Rebalance,
        solution: &Solution,
    ) -> String {
        let uid = &stored.view.metadata.uid;
        let is_over = asked != Rebalance::No && solution.rebalanced == 0 && solution.moves.is_empty();
        if is_over && asked == Rebalance::Periodic {
            self.rounds.open.remove(uid);
        }
        match period(&stored.view) {
            None => self.rounds.forget(uid),
            Some(_) if self.rounds.open.contains(uid) || self.rounds.next.get(uid).is_some() => {}
            Some(seconds) => {
                let in_ms = rebalance::next(uid, seconds, now.wall).millis() - now.wall.millis();
                self.rounds.next.mark(uid, now.monotonic_ms + in_ms.max(0) as u64, true);
            }
        }
        if solution.rebalanced > 0 {
            let why = if asked == Rebalance::Asked { "somebody asked for it" } else { "its policy has it so" };
            let message = format!("{} replicas move to better places: {why}", solution.rebalanced);
            self.tell(now, stored, false, "Rebalancing", message);
        }
        let request = requested(&stored.view);
        let ended = request.filter(|_| asked == Rebalance::Asked && is_over);
        ended.cloned().unwrap_or_else(|| previous.map(|known| known.rebalanced.clone()).unwrap_or_default())
    }
}

fn requested(application: &Application) -> Option<&String> {
    application.metadata.annotations.get(REBALANCE_ANNOTATION).filter(|request| !request.is_empty())
}

/// The shortest of its policies'.
fn period(application: &Application) -> Option<u32> {
    let placements = application.spec.policies.iter().filter(|policy| policy.type_ == "placement");
    let read = placements.filter_map(|policy| {
        policy.properties.get("rebalance")?;
        serde_json::from_value::<PlacementPolicy>(policy.properties.clone()).ok()?.rebalance?.period_seconds
    });
    read.min()
}
