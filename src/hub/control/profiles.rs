//! Profiles: who is decided anew when what the platform has to say changes.

use std::collections::BTreeSet;

use super::Controller;
use crate::{
    flow::schedule::profiles_of,
    model::{Now, Uid},
};

impl Controller {
    /// Wakes those that go by one of these profiles, and nobody else.
    pub(super) fn on_profiles(&mut self, now: Now, changed: &BTreeSet<String>) {
        if changed.is_empty() {
            return;
        }
        let goes_by = |application: &crate::model::Application| {
            let names = application.spec.components.iter().map(|component| component.name.as_str());
            profiles_of(&application.spec.policies, names).iter().any(|name| changed.contains(name))
        };
        let applications = self.index.applications.iter();
        let woken: Vec<Uid> =
            applications.filter(|(_, stored)| goes_by(&stored.view)).map(|(uid, _)| uid.clone()).collect();
        for application in woken {
            self.mark(&application, now.monotonic_ms, true);
        }
    }
}
