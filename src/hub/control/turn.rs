//! One turn at leading: the controllers and the desk, as long as this process leads.
//!
//! Owns: what goes from the one to the other. A turn begins with the leader's key just written, and knows nothing but the
//! store: every cluster has a fresh term of grace, and no room before its agent has been heard anew. It is dropped whole when
//! the lead is lost. Must never: outlive it, or be started under a key that it did not write.

use std::sync::Arc;

use super::{Controller, Settings, inquiry::Inquiry, lanes::unchanged};
use crate::{
    flow::schedule::Ask,
    hub::{
        desk::{
            Unanswered,
            leader::{self, Desk, Line},
        },
        feed::Feed,
    },
    model::{Now, plugin::Judgements},
    store::{Entry, Error, Key, Operation, Outcome, Revision, Transaction},
    wire::{FromDesk, Question},
};

/// Who leads: its key is compared in every transaction of the controllers.
pub const LEADER: &str = "/hanse/internal/leader";

#[derive(Debug)]
pub enum Event {
    /// What the store says, in its order.
    Store(Feed),
    /// The answer to [`Effect::Commit`].
    Done { id: u64, outcome: Result<Outcome, Error> },
    /// The answer to [`Effect::Ask`].
    Answered { id: u64, answer: Result<Judgements, String> },
    /// What happened on a line, and when. Not before [`Turn::is_ready`]: it would be said to nobody.
    Desk { heard: Now, event: leader::Event },
    /// The time of [`Turn::deadline`]; harmless at any other.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Commit {
        id: u64,
        transaction: Transaction,
    },
    Ask {
        id: u64,
        ask: Arc<Ask>,
    },
    Compact(Revision),
    Tell(Line, FromDesk),
    Fault(String),
    /// Another process leads: the turn is over.
    StepDown,
}

pub struct Turn {
    controller: Controller,
    desk: Desk,
    settled: u64,
}

impl Turn {
    /// `leader` is the leader's key as this process wrote it.
    pub fn new(settings: &Settings, leader: (Key, Revision)) -> Self {
        let settings = Settings { leader: Some(leader), ..settings.clone() };
        Self { controller: Controller::new(settings), desk: Desk::default(), settled: 0 }
    }

    pub fn is_ready(&self) -> bool {
        self.controller.is_ready()
    }

    pub fn deadline(&self) -> u64 {
        self.controller.deadline().map_or(self.desk.deadline(), |at| at.min(self.desk.deadline()))
    }

    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Store(feed) => self.control(now, super::Event::Store(feed), &mut effects),
            Event::Done { id, outcome } => self.control(now, super::Event::Done { id, outcome }, &mut effects),
            Event::Answered { id, answer } => self.control(now, super::Event::Answered { id, answer }, &mut effects),
            Event::Desk { heard, event } => self.desk(now, heard, event, &mut effects),
            Event::Tick => {
                self.desk(now, now, leader::Event::Tick, &mut effects);
                self.control(now, super::Event::Tick, &mut effects);
            }
        }
        let settled = self.controller.settled();
        if std::mem::replace(&mut self.settled, settled) != settled {
            self.desk(now, now, leader::Event::Settled(settled), &mut effects);
        }
        effects
    }

    /// All that an answer is made from, as of now. Nothing changes by it.
    pub fn inquire(&mut self, now: Now, question: &Question) -> Result<Inquiry, Unanswered> {
        self.controller.inquire(now, question)
    }

    fn desk(&mut self, now: Now, heard: Now, event: leader::Event, effects: &mut Vec<Effect>) {
        for effect in self.desk.step(heard, event) {
            match effect {
                leader::Effect::Tell(line, told) => effects.push(Effect::Tell(line, told)),
                leader::Effect::HandOn(from) => self.control(now, super::Event::Agent(from), effects),
                leader::Effect::Note(note) => self.control(now, super::Event::Note(note), effects),
            }
        }
    }

    fn control(&mut self, now: Now, event: super::Event, effects: &mut Vec<Effect>) {
        effects.extend(self.controller.step(now, event).into_iter().map(|effect| match effect {
            super::Effect::Commit { id, transaction } => Effect::Commit { id, transaction },
            super::Effect::Ask { id, ask } => Effect::Ask { id, ask },
            super::Effect::Compact(revision) => Effect::Compact(revision),
            super::Effect::Fault(fault) => Effect::Fault(fault),
            super::Effect::StepDown => Effect::StepDown,
        }));
    }
}

/// Takes the lead from whoever had it: writes the leader's key, which was read as `known`, one term on. Whoever led before
/// can no longer write.
pub fn take_over(known: Option<&Entry>) -> Transaction {
    let term = known.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse::<u64>().ok()).unwrap_or(0);
    let key = Key::new(LEADER);
    Transaction {
        compares: vec![unchanged(key.clone(), known.map(|entry| entry.modified))],
        operations: vec![Operation::Put(key, (term + 1).to_string().into())],
    }
}
