//! What a replica does for its clients: it forwards writes to the leader, and reads once the group has said that it may.

use bytes::Bytes;

use super::{Happening, World, outside::Told, plant::Plant};
use crate::store::{
    Entry, Key, Outcome, Revision,
    raft::{Change, Refusal, ReplicaId, core::Event},
};

/// Who asks: a client of this world, or the world around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Client(usize),
    Outside,
}

/// Who waits for an answer.
#[derive(Debug, Clone)]
pub enum Ticket {
    Write {
        client: Asker,
        number: u64,
        command: Bytes,
        attempts: u32,
    },
    Read {
        client: Asker,
        number: u64,
        key: Key,
        early: Option<Found>,
    },
    /// Another replica that forwarded a write.
    Peer {
        id: ReplicaId,
        life: u64,
        ticket: u64,
    },
    Operator,
}

pub type Found = (Revision, Option<Entry>);

/// What a client asks for.
#[derive(Debug, Clone)]
pub enum Request {
    Write(Bytes),
    Read(Key),
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Wrote(Outcome),
    /// Nothing was done.
    Refused,
    Read(Revision, Option<Entry>),
}

const FORWARD_US: u64 = 400_000;
const ATTEMPTS_MAX: u32 = 4;

impl World {
    pub(super) fn request(&mut self, to: ReplicaId, client: Asker, number: u64, request: Request) {
        if self.nodes.get(&to).is_none_or(|node| node.core.is_none()) {
            return self.reply(client, number, Reply::Refused);
        }
        match request {
            Request::Write(command) => self.serve_write(to, client, number, command, 0),
            Request::Read(key) => self.serve_read(to, client, number, key),
        }
    }

    fn ticket(&mut self, id: ReplicaId, ticket: Ticket) -> u64 {
        self.sequence += 1;
        let number = self.sequence;
        if let Some(node) = self.node(id) {
            node.tickets.insert(number, ticket);
        }
        number
    }

    fn serve_write(&mut self, id: ReplicaId, client: Asker, number: u64, command: Bytes, attempts: u32) {
        let Some(node) = self.nodes.get(&id) else { return };
        let life = node.life;
        match node.core.as_ref().and_then(|core| core.leadership().leader) {
            Some(leader) => {
                let ticket = self.ticket(id, Ticket::Write { client, number, command: command.clone(), attempts });
                if leader == id {
                    return self.tell(id, Event::Propose { id: ticket, command });
                }
                self.forward(id, life, ticket, leader, command);
                self.after(FORWARD_US * self.tempo, Happening::ForwardLate { id, life, ticket });
            }
            None => self.reply(client, number, Reply::Refused),
        }
    }

    fn forward(&mut self, id: ReplicaId, life: u64, ticket: u64, to: ReplicaId, command: Bytes) {
        if let Some(delay_us) = self.network.travel_us(&mut self.chance, id, to) {
            self.after(delay_us, Happening::Forward { id, life, ticket, to, command });
        }
    }

    pub(super) fn forwarded(&mut self, id: ReplicaId, life: u64, ticket: u64, to: ReplicaId, command: Bytes) {
        if self.nodes.get(&to).is_none_or(|node| node.core.is_none()) {
            return;
        }
        let ticket = self.ticket(to, Ticket::Peer { id, life, ticket });
        if self.settings.plant == Some(Plant::ForwardedTwice) {
            self.tell(to, Event::Propose { id: u64::MAX, command: command.clone() });
        }
        self.tell(to, Event::Propose { id: ticket, command });
    }

    /// The leader did not answer: nobody knows whether it was done.
    pub(super) fn forward_late(&mut self, id: ReplicaId, life: u64, ticket: u64) {
        let plant = self.settings.plant;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        let Some(Ticket::Write { client, number, command, attempts }) = node.tickets.remove(&ticket) else { return };
        match plant {
            Some(Plant::ForwardedAgain) if attempts < ATTEMPTS_MAX => {
                self.serve_write(id, client, number, command, attempts + 1);
            }
            _ => self.wrote(id, client, number, Outcome::Unknown),
        }
    }

    pub(super) fn answered(&mut self, id: ReplicaId, ticket: u64, answer: Result<Outcome, Refusal>) {
        let plant = self.settings.plant;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(mut waiting) = node.tickets.remove(&ticket) else { return };
        if plant == Some(Plant::AnswersSwapped)
            && let Some((_, other)) = node.tickets.iter_mut().find(|(_, other)| matches!(other, Ticket::Write { .. }))
        {
            std::mem::swap(other, &mut waiting);
        }
        match waiting {
            Ticket::Write { client, number, command, attempts } => match answer {
                Ok(outcome) => self.wrote(id, client, number, outcome),
                Err(Refusal::NotLeader(_)) if attempts < ATTEMPTS_MAX => {
                    let life = node.life;
                    let delay_us = self.chance.between(5_000, 60_000);
                    let again = Happening::WriteAgain { id, life, client, number, command, attempts: attempts + 1 };
                    self.after(delay_us, again);
                }
                Err(_) => self.reply(client, number, Reply::Refused),
            },
            Ticket::Peer { id: peer, life, ticket } => {
                if let Some(delay_us) = self.network.travel_us(&mut self.chance, id, peer) {
                    self.after(delay_us, Happening::ForwardAnswer { id: peer, life, ticket, answer });
                }
            }
            Ticket::Operator => {
                self.trace.line(self.now_us, format_args!("the operator is told {answer:?}"));
            }
            Ticket::Read { .. } => {}
        }
    }

    pub(super) fn write_again(
        &mut self,
        (id, life): (ReplicaId, u64),
        client: Asker,
        number: u64,
        command: Bytes,
        attempts: u32,
    ) {
        if self.nodes.get(&id).is_some_and(|node| node.life == life && node.core.is_some()) {
            self.serve_write(id, client, number, command, attempts);
        }
    }

    pub(super) fn forward_answer(&mut self, id: ReplicaId, life: u64, ticket: u64, answer: Result<Outcome, Refusal>) {
        if self.nodes.get(&id).is_some_and(|node| node.life == life && node.is_running()) {
            self.answered(id, ticket, answer);
        }
    }

    fn wrote(&mut self, id: ReplicaId, client: Asker, number: u64, outcome: Outcome) {
        let here = |world: &Self| {
            let core = world.nodes.get(&id).and_then(|node| node.core.as_ref());
            core.map_or(0, |core| core.state().read().revision())
        };
        let reply = match (self.settings.plant, outcome) {
            (Some(Plant::UnknownIsCommitted), Outcome::Unknown) => Reply::Wrote(Outcome::Committed(here(self))),
            (Some(Plant::UnknownIsRefused), Outcome::Unknown) => Reply::Refused,
            (Some(Plant::ConflictIsCommitted), Outcome::Conflict(_)) => Reply::Wrote(Outcome::Committed(here(self))),
            (_, outcome) => Reply::Wrote(outcome),
        };
        self.reply(client, number, reply);
    }

    fn serve_read(&mut self, id: ReplicaId, client: Asker, number: u64, key: Key) {
        let found = self.look(id, &key);
        if self.settings.plant == Some(Plant::StaleRead) {
            if let Some((revision, entry)) = found.filter(|_| self.nodes[&id].is_running()) {
                self.reply(client, number, Reply::Read(revision, entry));
            }
            return;
        }
        let early = found.filter(|_| self.settings.plant == Some(Plant::ReadEarly));
        let ticket = self.ticket(id, Ticket::Read { client, number, key, early });
        self.tell(id, Event::Read { id: ticket });
    }

    pub(super) fn readable(&mut self, id: ReplicaId, ticket: u64, answer: Result<(), Refusal>) {
        let Some(Ticket::Read { client, number, key, early }) =
            self.node(id).and_then(|node| node.tickets.remove(&ticket))
        else {
            return;
        };
        let found = early.or_else(|| self.look(id, &key));
        match (answer, found) {
            (Ok(()), Some((revision, entry))) => self.reply(client, number, Reply::Read(revision, entry)),
            _ => self.reply(client, number, Reply::Refused),
        }
    }

    fn look(&self, id: ReplicaId, key: &Key) -> Option<Found> {
        let state = self.nodes.get(&id)?.core.as_ref()?.state().read();
        Some((state.revision(), state.get(key)))
    }

    fn reply(&mut self, client: Asker, number: u64, reply: Reply) {
        let Asker::Client(client) = client else {
            return self.told.push(Told::Answered { number, reply });
        };
        if !self.chance.happens(self.weather.replies_lost_permille) {
            let delay_us = self.chance.between(50, 400);
            self.after(delay_us, Happening::Reply { client, number, reply });
        }
    }

    pub(super) fn change(&mut self, leader: ReplicaId, change: Change) {
        self.trace.line(self.now_us, format_args!("the operator asks {leader} for {change:?}"));
        let ticket = self.ticket(leader, Ticket::Operator);
        self.tell(leader, Event::Change { id: ticket, change });
    }
}
