//! What a replica does while it leads: as `hub::control::run` does, around the same [`Turn`].

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Happening, World,
    group::Ask,
    hub::{Consumer, Cursor, Process},
};
use crate::{
    hub::{
        control::{
            self,
            turn::{self, LEADER, Turn, take_over},
        },
        desk::leader::{self, Line},
    },
    model::Now,
    sim::{check::Reign, mutant::Mutant, replicas::outside::Reply},
    store::{Error, Key, Outcome, Transaction, command::Command, raft::Leadership},
};

pub struct Lead {
    /// Tells this turn from every other.
    pub number: u64,
    pub term: u64,
    /// Absent until the leader's key is written.
    turn: Option<Turn>,
    began_ms: u64,
    pub lines: BTreeMap<Line, u64>,
    /// What was said before the store was known, in order.
    waiting: Vec<(Now, leader::Event)>,
    armed: Option<u64>,
}

/// After the store said no, or another process took the lead from one that still believes to have it.
const PAUSE_MS: u64 = 500;

impl Lead {
    /// Other replicas are let in.
    pub fn is_open(&self) -> bool {
        self.turn.is_some()
    }
}

impl World {
    pub(super) fn leadership(&mut self, process: Process, leadership: Leadership) {
        let Some(hub) = self.hub(process) else { return };
        let moved = hub.leadership.leader != leadership.leader;
        hub.leadership = leadership;
        let over = hub.lead.as_ref().is_some_and(|lead| !leadership.here || lead.term != leadership.term);
        if over {
            self.end_turn(process);
        }
        if leadership.here && self.hub(process).is_some_and(|hub| hub.lead.is_none()) {
            self.begin_turn(process);
        }
        self.leader_changed(process, moved);
    }

    pub(super) fn begin_turn(&mut self, process: Process) {
        let number = self.number();
        let Some(hub) = self.hub(process) else { return };
        if !hub.leadership.here || hub.lead.is_some() {
            return;
        }
        let term = hub.leadership.term;
        hub.lead = Some(Lead {
            number,
            term,
            turn: None,
            began_ms: 0,
            lines: BTreeMap::new(),
            waiting: Vec::new(),
            armed: None,
        });
        self.trace.line(self.now_ms, format_args!("hub {} leads term {term}", process.id));
        self.read_leader_key(process, number);
    }

    fn is_turn(&mut self, process: Process, turn: u64) -> bool {
        self.hub(process).and_then(|hub| hub.lead.as_ref()).is_some_and(|lead| lead.number == turn)
    }

    pub(super) fn read_leader_key(&mut self, process: Process, turn: u64) {
        if self.is_turn(process, turn) {
            self.ask_to_read(process, Key::new(LEADER), Ask::LeaderKey { turn });
        }
    }

    pub(super) fn leader_key_read(&mut self, process: Process, turn: u64, reply: &Reply) {
        match reply {
            Reply::Read(_, entry) if self.is_turn(process, turn) => {
                self.submit(process, None, take_over(entry.as_ref()), Ask::TakeOver { turn });
            }
            _ => self.after(PAUSE_MS, Happening::TakeLead { process, turn }),
        }
    }

    pub(super) fn took_over(&mut self, process: Process, number: u64, reply: &Reply) {
        if !self.is_turn(process, number) {
            return;
        }
        let revision = match reply {
            Reply::Wrote(Outcome::Committed(revision)) => *revision,
            Reply::Wrote(_) => return self.read_leader_key(process, number),
            _ => return self.after(PAUSE_MS, Happening::TakeLead { process, turn: number }),
        };
        let mut settings = control::Settings::default();
        let first = self.check.turns.is_empty();
        if self.settings.mutant == Some(Mutant::GraceNotFresh) && !first {
            settings.grace_ms = 1_000;
        }
        let reign = Reign { replica: process.id, key: revision, began_ms: self.now_ms, fresh: BTreeSet::new() };
        self.check.turns.insert(number, reign);
        let began_ms = self.now_at(process).monotonic_ms;
        let Some(hub) = self.hub(process) else { return };
        let Some(lead) = &mut hub.lead else { return };
        lead.turn = Some(Turn::new(&settings, (Key::new(LEADER), revision)));
        lead.began_ms = began_ms;
        hub.feeds.insert(Consumer::Control, Cursor::new(number));
        self.list(process, Consumer::Control, number);
    }

    /// All of it is dropped, in the middle of whatever it is at.
    pub(super) fn end_turn(&mut self, process: Process) {
        let Some(hub) = self.hub(process) else { return };
        hub.feeds.remove(&Consumer::Control);
        let Some(lead) = hub.lead.take() else { return };
        self.trace.line(self.now_ms, format_args!("hub {} leads no more", process.id));
        if self.settings.mutant == Some(Mutant::OldDeskForever) {
            return;
        }
        for line in lead.lines.into_values() {
            self.hang_up(line, false);
        }
    }

    pub(super) fn turn_tick(&mut self, process: Process, turn: u64) {
        if let Some(lead) = self.hub(process).and_then(|hub| hub.lead.as_mut()).filter(|lead| lead.number == turn) {
            lead.armed = None;
            if lead.turn.as_ref().is_some_and(Turn::is_ready) {
                self.turn_step(process, turn::Event::Tick);
            }
        }
    }

    /// What happened on a line; it waits until the store is known, for before it would be said to nobody.
    pub(super) fn at_desk(&mut self, process: Process, event: leader::Event) {
        let now = self.now_at(process);
        let Some(lead) = self.hub(process).and_then(|hub| hub.lead.as_mut()) else { return };
        lead.waiting.push((now, event));
        self.hear_lines(process);
    }

    fn hear_lines(&mut self, process: Process) {
        loop {
            let Some(lead) = self.hub(process).and_then(|hub| hub.lead.as_mut()) else { return };
            if lead.waiting.is_empty() || !lead.turn.as_ref().is_some_and(Turn::is_ready) {
                return;
            }
            let (heard, event) = lead.waiting.remove(0);
            let heard = Now { monotonic_ms: heard.monotonic_ms.saturating_sub(lead.began_ms), ..heard };
            self.note_fresh(process, &event);
            self.turn_step(process, turn::Event::Desk { heard, event });
        }
    }

    /// The checker's own view of whose sketch is fresh: of agents that spoke since the turn began.
    fn note_fresh(&mut self, process: Process, event: &leader::Event) {
        let leader::Event::Said(line, crate::wire::ToDesk::Said { session, fact: crate::wire::Fact::Sketch(_), .. }) =
            event
        else {
            return;
        };
        let Some(lead) = self.hubs.get(&process.id).and_then(|hub| hub.lead.as_ref()) else { return };
        let turn = lead.number;
        let seat = self.hubs.get_mut(&line.replica).and_then(|hub| hub.sessions.get_mut(session));
        if let Some(seat) = seat {
            let is_new = *seat.first_turn.get_or_insert(turn) == turn;
            self.check.sketch_told(turn, &seat.cluster, is_new);
        }
    }

    pub(super) fn turn_step(&mut self, process: Process, event: turn::Event) {
        let now = self.now_at(process);
        let Some(lead) = self.hub(process).and_then(|hub| hub.lead.as_mut()) else { return };
        let (number, began_ms) = (lead.number, lead.began_ms);
        let local = Now { monotonic_ms: now.monotonic_ms.saturating_sub(began_ms), ..now };
        let Some(turn) = &mut lead.turn else { return };
        let was_ready = turn.is_ready();
        let effects = turn.step(local, event);
        let deadline = began_ms + turn.deadline().max(local.monotonic_ms + 1);
        let became_ready = !was_ready && turn.is_ready();
        if turn.is_ready() && lead.armed.is_none_or(|armed| deadline < armed) {
            lead.armed = Some(deadline);
            let delay = self.until_ms(process.id, deadline);
            self.after(delay, Happening::TurnTick { process, turn: number });
        }
        for effect in effects {
            match effect {
                turn::Effect::Commit { id, transaction } => {
                    self.check.proposed(self.now_ms, number, local.monotonic_ms, &transaction);
                    let delay = self.chance.between(0, 3);
                    self.after(delay, Happening::Commit { process, turn: number, id, transaction });
                }
                // Nobody answers here, which the controller takes for that.
                turn::Effect::Ask { .. } => {}
                turn::Effect::Compact(revision) => {
                    let ask = self.number();
                    self.asks.insert(ask, (process, Ask::Nothing));
                    self.group.write(process.id, ask, Command::Compact(revision).encode().into());
                }
                turn::Effect::Tell(line, told) => self.tell_line(process, line, told),
                turn::Effect::Fault(what) => {
                    self.trace.line(self.now_ms, format_args!("control: {what:?}"));
                }
                turn::Effect::StepDown => {
                    self.end_turn(process);
                    return self.after(PAUSE_MS, Happening::LeadAgain { process });
                }
            }
        }
        if became_ready {
            self.hear_lines(process);
        }
    }

    /// It is sent even if the turn ends meanwhile, as a request that has left.
    pub(super) fn commit(&mut self, process: Process, turn: u64, id: u64, mut transaction: Transaction) {
        if let Some(mutant) = self.settings.mutant {
            transaction = mutant.on_commit(transaction);
        }
        if !self.is_alive(process) {
            return;
        }
        self.submit(process, Some(turn), transaction, Ask::Commit { turn, id, command: Default::default() });
    }

    pub(super) fn committed(&mut self, process: Process, turn: u64, id: u64, outcome: Result<Outcome, Error>) {
        if !self.is_turn(process, turn) {
            return;
        }
        let outcome = if self.mishap() { Ok(Outcome::Unknown) } else { outcome };
        self.turn_step(process, turn::Event::Done { id, outcome });
    }
}
