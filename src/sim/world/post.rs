//! The way of what agents say from each replica to the desk of whoever leads: as `hub::desk::post` does, around the same
//! `Outpost`, over a network that delays, stalls and breaks.

use std::collections::VecDeque;

use super::{Happening, World, hub::Process};
use crate::{
    hub::{
        agents,
        desk::{
            leader::{self, Line},
            outpost::{self, Effect},
        },
    },
    sim::mutant::Mutant,
    wire::{FromDesk, ToDesk},
};

/// One stream between two replicas: what is on its way, with its time of arrival.
pub struct Way {
    from: Process,
    to: Process,
    line: Line,
    up: VecDeque<(u64, ToDesk)>,
    down: VecDeque<(u64, FromDesk)>,
    /// Nothing has come through since.
    stalled_ms: Option<u64>,
}

const WAY_MAX: usize = 64;
const RETRY_MS_MIN: u64 = 20;
const RETRY_MS_MAX: u64 = 500;
/// A way through which nothing comes is given up after this time.
const KEEP_ALIVE_MS: u64 = 3_000;
/// How often what is stalled is looked at.
const STALLED_MS: u64 = 100;

impl World {
    pub(super) fn post(&mut self, process: Process, event: outpost::Event) {
        let now_ms = self.now_at(process).monotonic_ms;
        let Some(hub) = self.hub(process) else { return };
        for effect in hub.outpost.step(now_ms, event) {
            match effect {
                Effect::Rule { session, ruling } => self.rule(process, session, ruling),
                Effect::Beats(_) => {}
                Effect::CutOff(cut_off) => {
                    if let Some(hub) = self.hub(process) {
                        hub.cut_off = cut_off;
                    }
                    if cut_off {
                        self.refuse_all(process, &agents::cut_off());
                    }
                }
            }
        }
        self.arm_post(process);
        self.pump_up(process);
    }

    pub(super) fn arm_post(&mut self, process: Process) {
        let Some(hub) = self.hub(process) else { return };
        let Some(deadline) = hub.outpost.deadline() else { return };
        if hub.post_armed.is_none_or(|armed| deadline < armed) {
            hub.post_armed = Some(deadline);
            let delay = self.until_ms(process.id, deadline);
            self.after(delay, Happening::PostTick { process });
        }
    }

    pub(super) fn post_tick(&mut self, process: Process) {
        if let Some(hub) = self.hub(process) {
            hub.post_armed = None;
            self.post(process, outpost::Event::Tick);
        }
    }

    /// Another one leads, or nobody: what is said goes there from now on.
    pub(super) fn leader_changed(&mut self, process: Process, moved: bool) {
        let forever = self.settings.mutant == Some(Mutant::OldDeskForever);
        let Some(hub) = self.hub(process) else { return };
        if !moved && hub.line.is_some() || forever && hub.line.is_some() {
            return;
        }
        if let Some(line) = hub.line.take() {
            self.hang_up(line, true);
        }
        self.post(process, outpost::Event::Disconnected);
        self.open_way_after(process, 0);
    }

    fn open_way_after(&mut self, process: Process, delay: u64) {
        if let Some(hub) = self.hub(process) {
            hub.retry_ms = if delay == 0 { RETRY_MS_MIN } else { (hub.retry_ms * 2).clamp(RETRY_MS_MIN, RETRY_MS_MAX) };
            self.after(delay, Happening::OpenWay { process });
        }
    }

    pub(super) fn open_way(&mut self, process: Process) {
        let Some(hub) = self.hub(process).filter(|hub| hub.line.is_none()) else { return };
        let (Some(leader), retry_ms) = (hub.leadership.leader, hub.retry_ms) else { return };
        let to = self.hubs.get(&leader).filter(|hub| hub.lead.as_ref().is_some_and(super::lead::Lead::is_open));
        let to = to.map(|hub| hub.process).filter(|_| !self.group.is_paused(leader));
        let way = self.group.way_us(process.id, leader);
        let (Some(to), Some(_)) = (to, way) else { return self.open_way_after(process, retry_ms.max(RETRY_MS_MIN)) };
        let number = self.number();
        let line = Line { replica: process.id, line: number };
        self.ways.insert(
            number,
            Way { from: process, to, line, up: VecDeque::new(), down: VecDeque::new(), stalled_ms: None },
        );
        let Some(lead) = self.hubs.get_mut(&leader).and_then(|hub| hub.lead.as_mut()) else { return };
        lead.lines.retain(|known, _| known.replica != process.id);
        lead.lines.insert(line, number);
        self.at_desk(to, leader::Event::Opened(line));
        if let Some(hub) = self.hub(process) {
            hub.line = Some(number);
            hub.retry_ms = RETRY_MS_MIN;
        }
        self.post(process, outpost::Event::Connected);
        if self.settings.mutant == Some(Mutant::DeadStreamsSpeak) {
            self.speak_for_all(process);
        }
    }

    /// Puts on the way what it has room for.
    fn pump_up(&mut self, process: Process) {
        loop {
            let now_ms = self.now_at(process).monotonic_ms;
            let Some(hub) = self.hubs.get_mut(&process.id).filter(|hub| hub.process == process) else { return };
            let Some(number) = hub.line else { return };
            let Some(way) = self.ways.get_mut(&number).filter(|way| way.up.len() < WAY_MAX) else { return };
            if !hub.outpost.has_due() {
                return;
            }
            let Some(message) = hub.outpost.next(now_ms) else { continue };
            let (from, to) = (way.from.id, way.to.id);
            let delay = self.group.way_us(from, to).unwrap_or_default() / 1000;
            let Some(way) = self.ways.get_mut(&number) else { return };
            let arrival = way.up.back().map_or(0, |(at, _)| *at).max(self.now_ms + delay);
            way.up.push_back((arrival, message));
            self.after(arrival - self.now_ms, Happening::Way { number, to, up: true });
        }
    }

    pub(super) fn tell_line(&mut self, process: Process, line: Line, told: FromDesk) {
        let Some(lead) = self.hub(process).and_then(|hub| hub.lead.as_ref()) else { return };
        let Some(number) = lead.lines.get(&line).copied() else { return };
        let Some((from, to)) = self.ways.get(&number).map(|way| (way.from.id, way.to.id)) else { return };
        let delay = self.group.way_us(to, from).unwrap_or_default() / 1000;
        let Some(way) = self.ways.get_mut(&number) else { return };
        let arrival = way.down.back().map_or(0, |(at, _)| *at).max(self.now_ms + delay);
        way.down.push_back((arrival, told));
        self.after(arrival - self.now_ms, Happening::Way { number, to: from, up: false });
    }

    /// Lets what has arrived out of a way, in order, unless the network is cut.
    pub(super) fn pump_way(&mut self, number: u64, up: bool) {
        loop {
            let now_ms = self.now_ms;
            let Some((from, to)) = self.ways.get(&number).map(|way| (way.from.id, way.to.id)) else { return };
            let is_open = self.group.way_us(from, to).is_some();
            let Some(way) = self.ways.get_mut(&number) else { return };
            let arrival = if up { way.up.front().map(|(at, _)| *at) } else { way.down.front().map(|(at, _)| *at) };
            let Some(_) = arrival.filter(|arrival| *arrival <= now_ms) else { return };
            if !is_open {
                let since = *way.stalled_ms.get_or_insert(now_ms);
                if now_ms >= since + KEEP_ALIVE_MS {
                    return self.hang_up(number, false);
                }
                return self.after(STALLED_MS, Happening::Way { number, to: if up { to } else { from }, up });
            }
            way.stalled_ms = None;
            let (from, to, line) = (way.from, way.to, way.line);
            if up {
                let Some((_, said)) = way.up.pop_front() else { return };
                let is_there = self.hubs.get(&to.id).and_then(|hub| hub.lead.as_ref());
                if is_there.is_some_and(|lead| lead.lines.contains_key(&line)) && self.is_alive(to) {
                    self.at_desk(to, leader::Event::Said(line, said));
                }
                self.pump_up(from);
            } else if let Some((_, told)) = way.down.pop_front() {
                self.post(from, outpost::Event::Told(told));
            }
        }
    }

    /// The way is gone; each end that lives learns of it. `by_outpost` is the end that did it.
    pub(super) fn hang_up(&mut self, number: u64, by_outpost: bool) {
        let Some(way) = self.ways.remove(&number) else { return };
        let lead = self.hubs.get_mut(&way.to.id).filter(|hub| hub.process == way.to).and_then(|hub| hub.lead.as_mut());
        if lead.is_some_and(|lead| lead.lines.remove(&way.line).is_some()) {
            self.at_desk(way.to, leader::Event::Closed(way.line));
        }
        if !by_outpost {
            let delay = match self.group.way_us(way.to.id, way.from.id) {
                Some(us) => us / 1000 + 1,
                None => KEEP_ALIVE_MS,
            };
            self.after(delay, Happening::WayLost { process: way.from, number });
        }
    }

    pub(super) fn way_lost(&mut self, process: Process, number: u64) {
        let Some(hub) = self.hub(process) else { return };
        if hub.line.take_if(|line| *line == number).is_some() {
            let retry_ms = hub.retry_ms.max(RETRY_MS_MIN);
            self.post(process, outpost::Event::Disconnected);
            self.open_way_after(process, retry_ms);
        }
    }

    /// A process is gone, with its ends of ways.
    pub(super) fn lines_of_the_dead(&mut self, dead: Process, power: bool) {
        let ends = |way: &Way| way.from == dead || way.to == dead;
        let ways = self.ways.iter().filter(|(_, way)| ends(way)).map(|(number, _)| *number).collect::<Vec<_>>();
        for number in ways {
            let forever = self.settings.mutant == Some(Mutant::OldDeskForever);
            if !forever {
                self.after(if power { KEEP_ALIVE_MS } else { 1 }, Happening::HangUp { number });
            }
        }
    }
}
