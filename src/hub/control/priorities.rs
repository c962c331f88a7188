//! Priorities: who looks again when a priority class comes or goes: whoever names it and waits, for it may take room from
//! others now, or no longer. Who has all he asked for is only told.

use std::collections::BTreeSet;

use super::Controller;
use crate::model::{Now, Uid, priority::named};

impl Controller {
    pub(super) fn on_classes(&mut self, now: Now, changed: &BTreeSet<String>) {
        if changed.is_empty() {
            return;
        }
        let names = |policies| named(policies).any(|name| changed.contains(name));
        let applications = self.index.applications.iter();
        let told: Vec<Uid> = applications
            .filter(|(_, stored)| names(stored.view.spec.policies.as_slice()))
            .map(|(uid, _)| uid.clone())
            .collect();
        for application in told {
            self.mark(&application, now.monotonic_ms, self.waiting.contains(&application));
            self.on_victim(now, &application);
        }
    }
}
