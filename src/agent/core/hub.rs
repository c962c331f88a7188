//! The core towards the hub: the stream's life, works on their way in, reports on their way out.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{
    Core, Effect, Link, Standing, Wrote, brake,
    holding::Holding,
    intake::{self, HeldLine, Judgement, Offer, Stage},
};
use crate::{
    agent::ledger::{Entry, Write},
    model::{
        Digest, Now, Report, Sketch, Uid, Work,
        protocol::{Hello, LedgerLine, PROTOCOL, PROTOCOL_MIN, Refuse, ToAgent, ToHub, Welcome},
        report::Refused,
    },
    wire::limits::{FETCH_MAX, LEDGER_LINES_MAX, SILENCE_MS_MAX},
};

/// Messages that the stream may hold at once; everything else waits as state and is replaced by what is newer.
const UNDER_WAY_MAX: usize = 32;
/// Changes of health are gathered this long; what the hub waits for is told at once.
const REPORT_DELAY_MS: u64 = 100;
const SKETCH_DELAY_MS: u64 = 200;
/// Measuring takes longer the more nodes there are: with ten thousand it is put off for a second more.
const SKETCH_NODES_PER_MS: u64 = 10;
/// So many are measured whenever a report is due.
const NODES_AT_ONCE_MAX: u64 = 1000;
/// Beats without any answer before the stream counts as dead.
const BEATS_UNHEARD_MAX: u64 = 3;
/// The hub's refusals that end acting in the member: this identity is no more, or not for this cluster. Under all others
/// (an unaccepted join, a frozen identity, a hub that went back in time) the agent goes on as with no hub at all.
const STAND_DOWN: [&str; 2] = ["Revoked", "WrongCluster"];

impl Core {
    pub(super) fn link_opened(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.link_closed();
        self.link = Link::Opening { retry_at_ms: Some(now.monotonic_ms) };
        self.open(now, effects);
    }

    /// The epoch goes up and is durable before the hub hears of it: two processes can never use the same.
    fn open(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Link::Opening { retry_at_ms } = &mut self.link
            && retry_at_ms.is_some_and(|at| at <= now.monotonic_ms)
        {
            *retry_at_ms = None;
            self.session.epoch += 1;
            self.write(vec![Write::Session(self.session.clone())], Wrote::Epoch, effects);
        }
    }

    pub(super) fn greet(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !matches!(self.link, Link::Opening { .. }) {
            return;
        }
        self.link = Link::Greeting { until_ms: now.monotonic_ms + SILENCE_MS_MAX };
        let sketch = self.newest_sketch();
        let ledger = self.works.values().take(LEDGER_LINES_MAX).map(|holding| LedgerLine {
            application: holding.work.application_uid.clone(),
            generation: holding.work.generation,
            digest: holding.work.digest(),
        });
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            features: Vec::new(),
            session_epoch: self.session.epoch,
            instance: self.config.instance.clone(),
            incarnation: self.session.incarnation.clone().filter(|_| !self.is_empty()),
            resume: self.session.resume.clone(),
            ledger: ledger.collect(),
            facts: self.facts.clone().unwrap_or_default(),
            sketch,
        };
        self.outbox.facts = self.facts.is_none();
        self.send(ToHub::Hello(Box::new(hello)), effects);
    }

    fn is_empty(&self) -> bool {
        self.works.is_empty() && self.offers.is_empty() && self.broken.is_empty()
    }

    pub(super) fn link_closed(&mut self) {
        self.link = Link::Away;
        self.blobs.forget_partial();
        // What was not durable is offered again after the next hello.
        self.offers.retain(|_, offer| offer.stage != Stage::Fetching);
        self.outbox.under_way = 0;
        self.outbox.fetch.clear();
        self.outbox.sent.clear();
        self.outbox.reports.clear();
    }

    pub(super) fn link_wake_at(&self) -> Option<u64> {
        match &self.link {
            Link::Away => None,
            Link::Greeting { until_ms } => Some(*until_ms),
            Link::Opening { retry_at_ms } => *retry_at_ms,
            Link::Open(standing) if self.outbox.under_way >= UNDER_WAY_MAX => Some(standing.beat_at_ms),
            Link::Open(standing) => {
                let report = self.outbox.reports.values().min().copied();
                [Some(standing.beat_at_ms), report, self.outbox.sketch_due_at_ms].into_iter().flatten().min()
            }
        }
    }

    pub(super) fn link_message(&mut self, now: Now, message: ToAgent, effects: &mut Vec<Effect>) {
        if let Link::Open(standing) = &mut self.link {
            standing.heard_at_ms = now.monotonic_ms;
        }
        match message {
            ToAgent::Welcome(welcome) => self.welcomed(now, welcome, effects),
            ToAgent::Refuse(refuse) => self.refused(&refuse, effects),
            ToAgent::Work(work) => self.offered(now, work, effects),
            ToAgent::Blob { digest, offset, total, bytes } => self.blob(now, digest, offset, total, &bytes, effects),
            ToAgent::Release { application, generation } => self.release(&application, generation, effects),
            // Written with the next epoch: the hub needs it only when a stream begins.
            ToAgent::Resume(token) => self.session.resume = Some(token),
            ToAgent::BeatAck => {}
        }
    }

    fn welcomed(&mut self, now: Now, welcome: Welcome, effects: &mut Vec<Effect>) {
        if !matches!(self.link, Link::Greeting { .. }) {
            return;
        }
        let ours = self.session.incarnation.as_ref();
        let foreign = !self.is_empty() && ours.is_some_and(|ours| *ours != welcome.incarnation);
        let changed = self.session.stood_down || (!foreign && ours != Some(&welcome.incarnation));
        self.session.stood_down = false;
        if !foreign {
            self.session.incarnation = Some(welcome.incarnation.clone());
        }
        if changed {
            self.write(vec![Write::Session(self.session.clone())], Wrote::Session, effects);
        }
        let beat_at_ms = now.monotonic_ms + welcome.beat_interval_ms;
        self.link = Link::Open(Box::new(Standing { welcome, foreign, beat_at_ms, heard_at_ms: now.monotonic_ms }));
        // What the hub knows of the last stream may be older than what was on its way when that broke.
        let works: Vec<Uid> = self.works.keys().chain(self.turned_away.keys()).cloned().collect();
        let broken: Vec<Uid> = self.broken.iter().filter_map(|broken| broken.application.clone()).collect();
        for application in works.iter().chain(&broken) {
            self.get_ready(application);
            self.mark(now, application, true);
        }
    }

    fn refused(&mut self, refuse: &Refuse, effects: &mut Vec<Effect>) {
        if STAND_DOWN.contains(&refuse.reason.as_str()) && !self.session.stood_down {
            self.session.stood_down = true;
            self.write(vec![Write::Session(self.session.clone())], Wrote::Session, effects);
        }
    }

    fn offered(&mut self, now: Now, work: Arc<Work>, effects: &mut Vec<Effect>) {
        let Link::Open(standing) = &self.link else { return };
        let application = work.application_uid.clone();
        let line = |work: &Work| HeldLine { generation: work.generation, digest: work.digest() };
        let offered = self.offers.get(&application).map(|offer| line(&offer.work));
        let held = offered.or_else(|| self.works.get(&application).map(|holding| line(&holding.work)));
        let ours = self.session.incarnation.as_ref().filter(|_| standing.foreign);
        let foreign = ours.map(|ours| (&standing.welcome.incarnation, ours));
        match intake::judge(&work, &standing.welcome.cluster, foreign, held) {
            Judgement::Take => {
                let missing: BTreeSet<Digest> = work.blobs().filter(|digest| !self.has_blob(digest)).collect();
                self.outbox.fetch.extend(missing.iter().copied());
                self.offers.insert(application.clone(), Offer { work, missing, stage: Stage::Fetching });
                self.take_if_whole(now, &application, effects);
            }
            Judgement::Same => self.clear_refusal(now, &application),
            Judgement::Refuse(refused) => self.turn_away(now, &application, refused),
        }
    }

    /// In memory, or in the ledger: there the Application's own blob stays.
    fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.has(digest) || self.works.values().any(|holding| holding.work.application_blob == *digest)
    }

    fn turn_away(&mut self, now: Now, application: &Uid, refused: Refused) {
        match self.works.get_mut(application) {
            Some(holding) => holding.refused = Some(refused),
            None => {
                self.turned_away.insert(application.clone(), refused);
            }
        }
        self.mark(now, application, true);
    }

    fn clear_refusal(&mut self, now: Now, application: &Uid) {
        if let Some(holding) = self.works.get_mut(application) {
            holding.refused = None;
        }
        self.turned_away.remove(application);
        self.mark(now, application, true);
    }

    fn blob(&mut self, now: Now, digest: Digest, offset: u64, total: u64, bytes: &[u8], effects: &mut Vec<Effect>) {
        let waiting: Vec<Uid> = self
            .offers
            .iter()
            .filter(|(_, offer)| offer.missing.contains(&digest))
            .map(|(application, _)| application.clone())
            .collect();
        if waiting.is_empty() {
            return;
        }
        match self.blobs.chunk(digest, offset, total, bytes) {
            Ok(None) => {}
            Ok(Some(whole)) => {
                self.blobs.insert(digest, whole);
                for application in waiting {
                    if let Some(offer) = self.offers.get_mut(&application) {
                        offer.missing.remove(&digest);
                    }
                    self.take_if_whole(now, &application, effects);
                }
            }
            Err(message) => {
                let refused = Refused { reason: "DigestMismatch".into(), message };
                for application in waiting {
                    self.offers.remove(&application);
                    self.turn_away(now, &application, refused.clone());
                }
            }
        }
    }

    /// All its bytes are here: they are checked, and the work goes into the ledger. It acts only once it is there.
    fn take_if_whole(&mut self, now: Now, application: &Uid, effects: &mut Vec<Effect>) {
        let Some(offer) = self.offers.get_mut(application) else { return };
        if !offer.missing.is_empty() || offer.stage == Stage::Writing {
            return;
        }
        let work = offer.work.clone();
        let proved = work.manifests.iter().try_for_each(|manifest| self.blobs.manifest(manifest).map(drop));
        if let Err(refused) = proved {
            self.offers.remove(application);
            return self.turn_away(now, application, refused);
        }
        offer.stage = Stage::Writing;
        let unnamed = brake::removes_unnamed(&work);
        let previous = self.works.get(application);
        // A hold ends only with a generation that names its removals.
        let held = unnamed && previous.is_some_and(|previous| previous.held);
        let entry = Arc::new(Holding::entry_for(previous, work.clone(), held));
        let listed: BTreeSet<Digest> = work.blobs().collect();
        let bytes = |digest: Digest| Some((digest, self.blobs.get(&digest)?.clone()));
        let blobs: Vec<(Digest, Bytes)> = listed.into_iter().filter_map(bytes).collect();
        self.write(vec![Write::Entry { entry: entry.clone(), blobs }], Wrote::Taken(entry), effects);
    }

    pub(super) fn taken(
        &mut self,
        now: Now,
        entry: &Arc<Entry>,
        result: Result<(), String>,
        effects: &mut Vec<Effect>,
    ) {
        let application = &entry.work.application_uid;
        let is_newest = self.offers.get(application).is_some_and(|offer| Arc::ptr_eq(&offer.work, &entry.work));
        if let Err(why) = result {
            if let Some(offer) = self.offers.get_mut(application).filter(|_| is_newest) {
                offer.stage = Stage::RetryAt(now.monotonic_ms + super::LEDGER_RETRY_MS);
            }
            return self.turn_away(now, application, Refused { reason: "LedgerUnwritable".into(), message: why });
        }
        if is_newest {
            self.offers.remove(application);
        }
        self.delist(application);
        let replaced: Vec<Digest> = self.works.get(application).map(blobs_of).unwrap_or_default();
        match self.works.get_mut(application) {
            Some(holding) => holding.replace(entry),
            None => {
                self.works.insert(application.clone(), Holding::from_entry(Entry::clone(entry)));
            }
        }
        self.turned_away.remove(application);
        self.broken.retain(|broken| broken.application.as_ref() != Some(application));
        self.enlist(application);
        self.renew_watches(effects);
        self.drop_blobs(replaced.into_iter().chain([entry.work.application_blob]));
        self.get_ready(application);
        self.mark(now, application, true);
    }

    pub(super) fn retry_offers(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.open(now, effects);
        let is_due = |offer: &Offer| matches!(offer.stage, Stage::RetryAt(at) if at <= now.monotonic_ms);
        let due: Vec<Uid> =
            self.offers.iter().filter(|(_, offer)| is_due(offer)).map(|(application, _)| application.clone()).collect();
        due.iter().for_each(|application| self.take_if_whole(now, application, effects));
    }

    /// Drops those of `candidates` that no manifest needs any more. The Application's own blob stays in the ledger only.
    fn drop_blobs(&mut self, candidates: impl Iterator<Item = Digest>) {
        for digest in candidates {
            let holds = |holding: &Holding| holding.work.manifests.iter().any(|manifest| manifest.blob == digest);
            let offers = |offer: &Offer| offer.work.blobs().any(|blob| blob == digest);
            if !self.works.values().any(holds) && !self.offers.values().any(offers) {
                self.blobs.remove(&digest);
            }
        }
    }

    /// The hub has seen that nothing is left; only now may the ledger forget.
    fn release(&mut self, application: &Uid, generation: u64, effects: &mut Vec<Effect>) {
        let released = |holding: &Holding| holding.work.generation == generation && holding.is_finished();
        if self.works.get(application).is_some_and(released) && !self.offers.contains_key(application) {
            let wrote = Wrote::Forgotten(application.clone());
            self.write(vec![Write::Forget(application.clone())], wrote, effects);
        }
        self.turned_away.remove(application);
    }

    pub(super) fn forget(&mut self, application: &Uid, effects: &mut Vec<Effect>) {
        if self.offers.contains_key(application) {
            return;
        }
        self.delist(application);
        let dropped = self.works.remove(application).as_ref().map(blobs_of).unwrap_or_default();
        self.unsaved.remove(application);
        self.outbox.reports.remove(application);
        self.outbox.sent.remove(application);
        self.renew_watches(effects);
        self.drop_blobs(dropped.into_iter());
    }

    /// Its report may have changed. `urgent`: somebody waits for it.
    pub(super) fn mark(&mut self, now: Now, application: &Uid, urgent: bool) {
        if !matches!(self.link, Link::Open(_)) {
            return;
        }
        let due = now.monotonic_ms + if urgent { 0 } else { REPORT_DELAY_MS };
        let at = self.outbox.reports.entry(application.clone()).or_insert(due);
        *at = due.min(*at);
    }

    pub(super) fn sketch_changed(&mut self, now: Now) {
        let delay = SKETCH_DELAY_MS + self.capacity.nodes() / SKETCH_NODES_PER_MS;
        self.outbox.sketch_due_at_ms.get_or_insert(now.monotonic_ms + delay);
    }

    /// The sketch of now, where it differs from the last one.
    fn newest_sketch(&mut self) -> Option<Sketch> {
        self.outbox.sketch_due_at_ms = None;
        let hosted = self.namespaces.keys().map(String::as_str).collect();
        let sketch = Sketch { sequence: self.outbox.sequence, ..self.capacity.sketch(&hosted)? };
        if self.outbox.sketch.as_ref() == Some(&sketch) {
            return Some(sketch);
        }
        self.outbox.sequence += 1;
        let sketch = Sketch { sequence: self.outbox.sequence, ..sketch };
        self.outbox.sketch = Some(sketch.clone());
        Some(sketch)
    }

    fn send(&mut self, message: ToHub, effects: &mut Vec<Effect>) {
        self.outbox.under_way += 1;
        effects.push(Effect::Send(message));
    }

    /// Says what is due, as far as the stream takes it.
    pub(super) fn speak(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if matches!(self.link, Link::Greeting { until_ms } if until_ms <= now.monotonic_ms) {
            effects.push(Effect::CloseLink("the hub has not answered the hello".into()));
            return self.link_closed();
        }
        let Link::Open(standing) = &mut self.link else { return };
        if now.monotonic_ms >= standing.beat_at_ms {
            let interval = standing.welcome.beat_interval_ms.max(1);
            if now.monotonic_ms.saturating_sub(standing.heard_at_ms) > BEATS_UNHEARD_MAX * interval {
                effects.push(Effect::CloseLink("the hub has not answered the last beats".into()));
                return self.link_closed();
            }
            standing.beat_at_ms = now.monotonic_ms + interval;
            self.send(ToHub::Beat, effects);
        }
        if self.outbox.facts && self.outbox.under_way < UNDER_WAY_MAX {
            self.outbox.facts = false;
            effects.extend(self.facts.clone().map(|facts| Effect::Send(ToHub::Facts(facts))));
            self.outbox.under_way += 1;
        }
        while !self.outbox.fetch.is_empty() && self.outbox.under_way < UNDER_WAY_MAX {
            let rest = self.outbox.fetch.iter().nth(FETCH_MAX).copied();
            let rest = rest.map(|digest| self.outbox.fetch.split_off(&digest)).unwrap_or_default();
            let batch = std::mem::replace(&mut self.outbox.fetch, rest);
            self.send(ToHub::FetchBlobs(batch.into_iter().collect()), effects);
        }
        if self.outbox.sketch_due_at_ms.is_some_and(|at| at <= now.monotonic_ms) {
            self.say_sketch(effects);
        }
        self.say_reports(now, effects);
    }

    fn say_sketch(&mut self, effects: &mut Vec<Effect>) {
        let told = self.outbox.sketch.clone();
        let newest = self.newest_sketch();
        if newest != told {
            effects.extend(newest.map(|sketch| Effect::Send(ToHub::Sketch(sketch))));
            self.outbox.under_way += 1;
        }
    }

    fn say_reports(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let due: Vec<Uid> = self
            .outbox
            .reports
            .iter()
            .filter(|(_, at)| **at <= now.monotonic_ms)
            .map(|(application, _)| application.clone())
            .collect();
        for application in due {
            if self.outbox.under_way >= UNDER_WAY_MAX {
                return;
            }
            // Many nodes are measured once for many reports.
            if let Some(at) = self.outbox.sketch_due_at_ms.filter(|at| *at > now.monotonic_ms)
                && self.capacity.nodes() > NODES_AT_ONCE_MAX
            {
                self.outbox.reports.insert(application, at);
                continue;
            }
            self.outbox.reports.remove(&application);
            let Some(report) = self.report_of(&application) else { continue };
            let digest = Digest::of_json(&serde_json::to_value(&report).unwrap_or_default());
            if self.outbox.sent.get(&application) == Some(&digest) {
                continue;
            }
            // Bound pods of a report are counted by the sketch that went before it.
            if self.outbox.sketch_due_at_ms.is_some() {
                self.say_sketch(effects);
            }
            self.outbox.sent.insert(application, digest);
            self.send(ToHub::Report(Box::new(report)), effects);
        }
    }

    fn report_of(&self, application: &Uid) -> Option<Report> {
        if let Some(holding) = self.works.get(application) {
            return Some(holding.report(|object| self.capacity.pods_of(object)));
        }
        let Link::Open(standing) = &self.link else { return None };
        let broken = self.broken.iter().find(|broken| broken.application.as_ref() == Some(application));
        let broken = broken.map(|broken| Refused { reason: "LedgerBroken".into(), message: broken.why.clone() });
        let refused = self.turned_away.get(application).cloned().or(broken)?;
        Some(Report {
            application: application.clone(),
            cluster: standing.welcome.cluster.clone(),
            refused: Some(refused),
            ..Report::default()
        })
    }
}

fn blobs_of(holding: &Holding) -> Vec<Digest> {
    holding.work.blobs().collect()
}
