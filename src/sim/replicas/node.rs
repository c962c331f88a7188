//! One replica: the process around a core, its clock and its disk.
//!
//! Owns: what the real shell owns: what is done in which order, what waits for the disk, and what dies with the process.

use std::collections::{BTreeMap, VecDeque};

use super::{Happening, World, disk::Disk, fetch::Fetching, outside::Told, plant::Plant, shell::Ticket};
use crate::store::raft::{
    Body, ReplicaId,
    core::{Core, Effect, Event, Reads},
    log::Ballot,
};

pub struct Node {
    pub id: ReplicaId,
    /// Of the process: what reaches a dead one is lost.
    pub life: u64,
    pub core: Option<Core>,
    pub disk: Disk,
    pub clock: Clock,
    pub inbox: Vec<Event>,
    pub effects: VecDeque<Effect>,
    saving: Option<Ballot>,
    pub paused: bool,
    waking: bool,
    tick_at: Option<u64>,
    pub tickets: BTreeMap<u64, Ticket>,
    pub fetching: Option<Fetching>,
    /// Why it never comes back: its disk is lost or distrusted, or it was removed.
    pub gone: Option<String>,
    /// It has been a member.
    pub joined: bool,
    /// The world did something for which it may well stop.
    pub excused: bool,
}

/// A monotonic clock that runs too fast or too slow, and may jump.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base_us: u64,
    since_us: u64,
    rate_permille: u64,
}

impl Clock {
    pub fn new(base_us: u64) -> Self {
        Self { base_us, since_us: 0, rate_permille: 1000 }
    }

    pub fn now_us(&self, world_us: u64) -> u64 {
        self.base_us + (world_us - self.since_us) * self.rate_permille / 1000
    }

    pub fn set_rate(&mut self, world_us: u64, permille: u64) {
        (self.base_us, self.since_us, self.rate_permille) = (self.now_us(world_us), world_us, permille);
    }

    pub fn jump(&mut self, us: i64) {
        self.base_us = self.base_us.saturating_add_signed(us);
    }

    /// When in the world's time it shows `us`.
    pub fn when(&self, us: u64) -> u64 {
        self.since_us + us.saturating_sub(self.base_us) * 1000 / self.rate_permille + 1
    }
}

impl Node {
    pub fn new(id: ReplicaId, disk: Disk, clock: Clock) -> Self {
        Self {
            id,
            life: 0,
            core: None,
            disk,
            clock,
            inbox: Vec::new(),
            effects: VecDeque::new(),
            saving: None,
            paused: false,
            waking: false,
            tick_at: None,
            tickets: BTreeMap::new(),
            fetching: None,
            gone: None,
            joined: false,
            excused: false,
        }
    }

    pub fn is_running(&self) -> bool {
        self.core.is_some() && !self.paused
    }

    fn is_blocked(&self) -> bool {
        self.paused || self.saving.is_some()
    }

    fn now_ms(&self, world_us: u64) -> u64 {
        self.clock.now_us(world_us) / 1000
    }
}

impl World {
    pub(super) fn node(&mut self, id: ReplicaId) -> Option<&mut Node> {
        self.nodes.get_mut(&id)
    }

    /// The process starts on what its disk holds.
    pub(super) fn start(&mut self, id: ReplicaId) {
        let (plant, now_us, seed) = (self.settings.plant, self.now_us, self.chance.next());
        let mut settings = self.core_settings(id, seed);
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.core.is_none()) else { return };
        if plant == Some(Plant::OldIdReused) && node.gone.take_if(|why| why == "lost").is_some() {
            node.disk = Disk::default();
        }
        if node.gone.is_some() {
            return;
        }
        if plant == Some(Plant::LeaseUnderDrift) {
            settings.reads = Reads::Lease;
            node.clock.set_rate(now_us, *self.chance.pick(&[200, 1000, 4000]).unwrap_or(&1000));
        }
        node.life += 1;
        let opened = node.disk.open(plant);
        let rotten = node.disk.rotten_rows || opened.is_err();
        let now_ms = node.now_ms(now_us);
        let started = opened.and_then(|recovered| {
            self.check.started(now_us, id, &recovered);
            Core::start(settings, recovered, now_ms).map_err(|invalid| invalid.to_string())
        });
        match started {
            Ok((core, effects)) => {
                self.trace.line(now_us, format_args!("{id} starts"));
                node.disk.passed();
                node.core = Some(core);
                let life = node.life;
                self.told.push(Told::Started { id, life });
                self.stepped(id, effects);
            }
            Err(why) => {
                self.trace.line(now_us, format_args!("{id} distrusts its disk: {why}"));
                if !rotten {
                    self.check.violate(now_us, format!("replica {id} distrusts its disk, which is sound: {why}"));
                }
                node.gone = Some(why);
            }
        }
    }

    /// The process dies; with `power`, what was not synced may be lost.
    pub(super) fn crash(&mut self, id: ReplicaId, power: bool) {
        let (plant, now_us) = (self.settings.plant, self.now_us);
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.core.is_some()) else { return };
        self.trace.line(now_us, format_args!("{id} crashes, power cut: {power}"));
        self.told.push(Told::Died { id, power });
        // Whether the file of the ballot got its new content is anybody's guess until it is synced.
        if let Some(ballot) = node.saving.take()
            && self.chance.happens(500)
        {
            node.disk.save_ballot(ballot, plant);
        }
        node.disk.crash(&mut self.chance, power, plant);
        node.core = None;
        node.life += 1;
        node.inbox.clear();
        node.effects.clear();
        node.tickets.clear();
        node.fetching = None;
        (node.paused, node.waking, node.tick_at) = (false, false, None);
    }

    pub(super) fn tell(&mut self, id: ReplicaId, event: Event) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.core.is_some()) else { return };
        node.inbox.push(event);
        if node.waking || node.is_blocked() {
            return;
        }
        // Often enough something else keeps it busy, and then events come together.
        if self.chance.happens(self.weather.busy_permille) {
            node.waking = true;
            let life = node.life;
            let delay_us = self.chance.between(1, 1500);
            self.after(delay_us, Happening::Wake { id, life });
        } else {
            self.step_node(id);
        }
    }

    pub(super) fn wake(&mut self, id: ReplicaId, life: u64) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) {
            node.waking = false;
            self.step_node(id);
        }
    }

    pub(super) fn tick(&mut self, id: ReplicaId, life: u64) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        node.tick_at = None;
        let now_ms = node.now_ms(now_us);
        let due = node.core.as_ref().and_then(Core::deadline).is_some_and(|deadline| deadline <= now_ms);
        if due && !node.is_blocked() {
            self.step_node(id);
        } else if !node.is_blocked() {
            self.schedule_tick(id);
        }
    }

    pub(super) fn step_node(&mut self, id: ReplicaId) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.is_blocked()) else { return };
        let now_ms = node.now_ms(now_us);
        let events = std::mem::take(&mut node.inbox);
        let Some(core) = &mut node.core else { return };
        let effects = core.step(now_ms, events);
        self.trace.steps += 1;
        self.stepped(id, effects);
    }

    fn stepped(&mut self, id: ReplicaId, effects: Vec<Effect>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(core) = &node.core else { return };
        let news = self.check.observe(self.now_us, id, core, &effects);
        node.effects.extend(effects);
        if let Some(news) = news {
            self.check_durable(&news);
        }
        self.carry_out(id);
        self.schedule_tick(id);
    }

    fn schedule_tick(&mut self, id: ReplicaId) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(deadline) = node.core.as_ref().and_then(Core::deadline) else { return };
        let at = node.clock.when(deadline * 1000).max(now_us + 1);
        if node.tick_at.is_none_or(|scheduled| scheduled > at) {
            node.tick_at = Some(at);
            let life = node.life;
            self.queue.push(at, Happening::Tick { id, life });
        }
    }

    /// Does what the core asked for, until it has to wait for the ballot.
    fn carry_out(&mut self, id: ReplicaId) {
        let plant = self.settings.plant;
        while let Some(node) = self.nodes.get_mut(&id)
            && node.saving.is_none()
            && let Some(effect) = node.effects.pop_front()
        {
            match effect {
                Effect::SaveBallot(ballot) => {
                    let (life, delay_us) = (node.life, node.disk.sync_us(&mut self.chance));
                    if plant == Some(Plant::VoteBeforeBallot) {
                        self.after(delay_us, Happening::BallotLate { id, life, ballot });
                    } else {
                        node.saving = Some(ballot);
                        self.after(delay_us, Happening::BallotSaved { id, life });
                    }
                }
                Effect::Send(message) => self.send(message),
                Effect::Write(write) => {
                    if node.disk.full {
                        node.excused = true;
                        node.inbox.push(Event::Fault("no space left on device".into()));
                        let life = node.life;
                        self.after(1, Happening::Wake { id, life });
                        continue;
                    }
                    let number = write.number;
                    node.disk.write(write);
                    self.begin_sync(id);
                    if plant == Some(Plant::AppendBeforeSync) {
                        self.tell_later(id, Event::Persisted { number });
                    }
                }
                Effect::Forget(forget) => node.disk.forget(forget, plant),
                Effect::Fetch { from, snapshot } => self.fetch(id, from, snapshot),
                Effect::Answer { id: ticket, answer } => self.answered(id, ticket, answer),
                Effect::Readable { id: ticket, answer } => self.readable(id, ticket, answer),
                Effect::Lead(leadership) => {
                    self.told.push(Told::Lead { id, leadership });
                    self.trace.line(self.now_us, format_args!("{id} knows {leadership:?}"));
                }
                Effect::Applied(_) => self.told.push(Told::Applied { id }),
                // The stop that follows says why.
                Effect::Distrust(_) => {}
                Effect::Stop(why) => self.stopped(id, why),
            }
        }
    }

    /// From within its own effects: taken up once they are done.
    fn tell_later(&mut self, id: ReplicaId, event: Event) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.inbox.push(event);
        let life = node.life;
        self.after(1, Happening::Wake { id, life });
    }

    pub(super) fn ballot_saved(&mut self, id: ReplicaId, life: u64) {
        let plant = self.settings.plant;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        let Some(ballot) = node.saving.take() else { return };
        node.disk.save_ballot(ballot, plant);
        if node.paused {
            return;
        }
        self.carry_out(id);
        self.step_node(id);
    }

    pub(super) fn ballot_late(&mut self, id: ReplicaId, life: u64, ballot: Ballot) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) {
            node.disk.save_ballot(ballot, None);
        }
    }

    fn begin_sync(&mut self, id: ReplicaId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.disk.begin_sync() {
            let (life, delay_us) = (node.life, node.disk.sync_us(&mut self.chance));
            self.after(delay_us, Happening::Synced { id, life });
        }
    }

    pub(super) fn synced(&mut self, id: ReplicaId, life: u64) {
        let plant = self.settings.plant;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        let number = node.disk.synced(plant);
        self.begin_sync(id);
        if let Some(number) = number {
            self.tell(id, Event::Persisted { number });
        }
    }

    pub(super) fn pause(&mut self, id: ReplicaId) {
        self.trace.line(self.now_us, format_args!("{id} is paused"));
        if let Some(node) = self.node(id).filter(|node| node.core.is_some()) {
            node.paused = true;
        }
    }

    pub(super) fn resume(&mut self, id: ReplicaId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.paused) else { return };
        self.trace.line(self.now_us, format_args!("{id} goes on"));
        node.paused = false;
        self.told.push(Told::Resumed { id });
        self.carry_out(id);
        self.step_node(id);
        self.schedule_tick(id);
    }

    fn stopped(&mut self, id: ReplicaId, why: String) {
        let now_us = self.now_us;
        self.trace.line(now_us, format_args!("{id} stops: {why}"));
        self.crash(id, false);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if why.contains("was removed") {
            node.gone = Some("removed".into());
        } else if std::mem::take(&mut node.excused) {
            node.disk.full = false;
            let life = node.life;
            let delay_us = self.chance.between(20_000, 300_000) * self.tempo;
            self.after(delay_us, Happening::Restart { id, life });
        } else if self.check.differing == Some(id) {
            node.gone = Some("differs".into());
            self.check.differing = None;
        } else {
            self.check.violate(now_us, format!("replica {id} stopped: {why}"));
        }
    }

    fn send(&mut self, message: crate::store::raft::Message) {
        self.check.sent(self.now_us, &message);
        let (from, to) = (message.from, message.to);
        if self.settings.plant == Some(Plant::HashesIgnored) && matches!(message.body, Body::Hash { .. }) {
            return;
        }
        if self.network.is_cut(from, to) && self.chance.happens(50) {
            self.tell_later(from, Event::Unreachable(to));
        }
        if self.network.repeats(&mut self.chance)
            && let Some(delay_us) = self.network.travel_us(&mut self.chance, from, to)
        {
            self.after(delay_us * 3, Happening::Deliver(message.clone()));
        }
        if let Some(delay_us) = self.network.travel_us(&mut self.chance, from, to) {
            self.after(delay_us, Happening::Deliver(message));
        }
    }
}
