//! Plug-ins: what is asked of them before a decision, and what becomes of a decision without their answer.
//!
//! Owns: which Application waits for which answer, and which plug-ins are left alone for a while because they fail. An
//! answer is for one decision of one Application on one state of the fleet. Must never: keep a decision waiting beyond the
//! time that the profile gives, or ask without end.

use std::{collections::BTreeMap, sync::Arc};

use super::{Controller, Effect, index::StoredApplication};
use crate::{
    flow::schedule::{Ask, Profiles, questions},
    hub::plugins::too_late,
    model::{
        Now, Placement, Uid,
        plugin::{Answered, Judgements},
        revision::RenderedComponent,
    },
};

/// An answer is for the decision that asked for it; the Application may be busy for a moment.
const FRESH_MS: u64 = 1_000;
/// Questions under way at once. Whoever comes later waits so long before it tries again.
const UNDER_WAY_MAX: usize = 32;
const CROWDED_MS: u64 = 20;
/// The shell answers when the time is over; if it does not, this later it counts as that.
const GRACE_MS: u64 = 1_000;
/// Without an answer to go by the decision is made again after this.
const RETRY_MS: u64 = 5_000;
/// After so many failures in a row a plug-in is asked by one Application at a time, and not before a pause.
const FAILURES_MAX: u32 = 3;
const PAUSE_MS_MAX: u64 = 60_000;

#[derive(Debug, Default)]
pub struct Plugins {
    next_id: u64,
    under_way: BTreeMap<u64, UnderWay>,
    told: BTreeMap<Uid, Told>,
    /// By socket.
    breakers: BTreeMap<String, Breaker>,
    /// Applications that were last decided without an answer, and why.
    failures: BTreeMap<Uid, String>,
}

#[derive(Debug)]
struct UnderWay {
    application: Uid,
    ask: Arc<Ask>,
    until_ms: u64,
}

/// What an Application was told.
#[derive(Debug)]
struct Told {
    /// Its revision, and the profiles with what they said.
    about: Vec<String>,
    at_ms: u64,
    answers: BTreeMap<String, Answered>,
    missing: usize,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    until_ms: u64,
    last: String,
}

impl Plugins {
    /// Why the last decision for an Application went without a plug-in.
    pub fn failure(&self, application: &Uid) -> Option<&str> {
        self.failures.get(application).map(String::as_str)
    }

    pub fn forget(&mut self, application: &Uid) {
        self.withdraw(application);
        self.failures.remove(application);
    }

    /// What it was told last stays told until there is an answer to what it asks next.
    fn withdraw(&mut self, application: &Uid) {
        self.told.remove(application);
        self.under_way.retain(|_, known| known.application != *application);
    }

    /// The fleet is another one: what is asked and what was told is about one that is gone. All are decided anew.
    pub fn start_over(&mut self) {
        self.told.clear();
        self.under_way.clear();
    }

    pub fn deadline(&self) -> Option<u64> {
        self.under_way.values().map(|known| known.until_ms).min()
    }

    fn overdue(&self, now_ms: u64) -> Vec<(u64, String)> {
        let over = self.under_way.iter().filter(|(_, known)| known.until_ms <= now_ms);
        over.map(|(id, known)| (*id, too_late(&known.ask))).collect()
    }

    /// The last failure, where the plug-in is not to be asked now.
    fn broken(&mut self, now_ms: u64, ask: &Ask) -> Option<String> {
        let breaker = self.breakers.get_mut(&ask.plugin.socket)?;
        if breaker.failures < FAILURES_MAX {
            return None;
        }
        if now_ms < breaker.until_ms {
            return Some(breaker.last.clone());
        }
        // One tries; the others go by what comes of it.
        breaker.until_ms = now_ms + u64::from(ask.plugin.timeout_milliseconds) + GRACE_MS;
        None
    }

    fn learn(&mut self, now_ms: u64, socket: &str, answer: &Result<Judgements, String>) {
        match answer {
            Ok(_) => drop(self.breakers.remove(socket)),
            Err(error) => {
                let breaker = self.breakers.entry(socket.to_owned()).or_default();
                breaker.failures = breaker.failures.saturating_add(1);
                let pause = RETRY_MS << breaker.failures.saturating_sub(FAILURES_MAX).min(8);
                breaker.until_ms = now_ms + pause.min(PAUSE_MS_MAX);
                breaker.last = error.clone();
            }
        }
    }
}

impl Controller {
    /// What the platform has to say, with the answers of its plug-ins; `None` while they are being asked.
    pub(super) fn consult(
        &mut self,
        now: Now,
        stored: &StoredApplication,
        (revision, components): (&str, &[RenderedComponent]),
        previous: Option<&Placement>,
    ) -> Option<Profiles> {
        let application = &stored.view.metadata.uid;
        let profiles = &self.index.profiles;
        if !profiles.have_plugins() || stored.view.spec.other_scheduler().is_some() {
            self.plugins.forget(application);
            return Some(profiles.clone());
        }
        let name = stored.view.metadata.object_name();
        let policies = &stored.view.spec.policies;
        let asks = questions(&self.fleet, profiles, &name, (policies, components), previous);
        let text = |ask: &Ask| format!("{} {:?}", ask.profile, ask.plugin);
        let about: Vec<String> = std::iter::once(revision.to_owned()).chain(asks.iter().map(text)).collect();
        let known = self.plugins.told.get(application).filter(|told| told.about == about);
        match known {
            Some(told) if told.missing > 0 => return None,
            Some(told) if now.monotonic_ms <= told.at_ms + FRESH_MS => {
                let answers = told.answers.clone();
                return Some(self.go_by(now, application, answers));
            }
            _ => {}
        }
        if self.plugins.under_way.len() + asks.len() > UNDER_WAY_MAX && !self.plugins.under_way.is_empty() {
            self.mark(application, now.monotonic_ms + CROWDED_MS, true);
            return None;
        }
        self.plugins.withdraw(application);
        let mut told = Told { about, at_ms: now.monotonic_ms, answers: BTreeMap::new(), missing: 0 };
        for ask in asks {
            match self.plugins.broken(now.monotonic_ms, &ask) {
                Some(failure) => drop(told.answers.insert(ask.profile, Answered::Failed(failure))),
                None => {
                    told.missing += 1;
                    self.ask(now, application, ask);
                }
            }
        }
        let complete = told.missing == 0;
        let answers = told.answers.clone();
        self.plugins.told.insert(application.clone(), told);
        complete.then(|| self.go_by(now, application, answers))
    }

    fn ask(&mut self, now: Now, application: &Uid, ask: Ask) {
        let plugins = &mut self.plugins;
        plugins.next_id += 1;
        let ask = Arc::new(ask);
        let until_ms = now.monotonic_ms + u64::from(ask.plugin.timeout_milliseconds) + GRACE_MS;
        let under_way = UnderWay { application: application.clone(), ask: ask.clone(), until_ms };
        plugins.under_way.insert(plugins.next_id, under_way);
        self.effects.push(Effect::Ask { id: plugins.next_id, ask });
    }

    /// The answer to a question; of one that is no longer asked it says nothing.
    pub(super) fn on_answer(&mut self, now: Now, id: u64, answer: Result<Judgements, String>) {
        let Some(UnderWay { application, ask, .. }) = self.plugins.under_way.remove(&id) else { return };
        self.plugins.learn(now.monotonic_ms, &ask.plugin.socket, &answer);
        let Some(told) = self.plugins.told.get_mut(&application) else { return };
        told.at_ms = now.monotonic_ms;
        told.missing = told.missing.saturating_sub(1);
        let answer = answer.map_or_else(Answered::Failed, Answered::Judged);
        told.answers.insert(ask.profile.clone(), answer);
        if told.missing == 0 {
            self.mark(&application, now.monotonic_ms, true);
        }
    }

    pub(super) fn lapse_questions(&mut self, now: Now) {
        for (id, failure) in self.plugins.overdue(now.monotonic_ms) {
            self.on_answer(now, id, Err(failure));
        }
    }

    /// The profiles with these answers. Failures are told of, and asked about again later.
    fn go_by(&mut self, now: Now, application: &Uid, answers: BTreeMap<String, Answered>) -> Profiles {
        let failed = answers.iter().filter_map(|(profile, answer)| match answer {
            Answered::Failed(why) => Some(format!("the plug-in of the PlacementProfile {profile:?}: {why}")),
            Answered::Judged(_) => None,
        });
        let failed: Vec<String> = failed.collect();
        match failed.is_empty() {
            true => drop(self.plugins.failures.remove(application)),
            false => {
                self.plugins.failures.insert(application.clone(), failed.join("; "));
                let pause = self.plugins.breakers.values().map(|breaker| breaker.until_ms).max().unwrap_or(0);
                self.mark(application, pause.max(now.monotonic_ms + RETRY_MS), true);
            }
        }
        self.index.profiles.with(answers)
    }
}
