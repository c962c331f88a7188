//! Clients of the store: they write, read and watch at any replica, and go to another one when theirs is silent.
//!
//! Owns: what a client remembers. What it is told is checked by [`super::answers`].

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};

use super::{
    Happening, World,
    answers::Kind,
    plant::Plant,
    shell::{Asker, Reply, Request},
};
use crate::store::{Compare, Error, Key, Operation, Outcome, Revision, Transaction, command::Command, raft::ReplicaId};

#[derive(Debug, Default)]
pub struct Client {
    /// Where it asks.
    home: Option<ReplicaId>,
    /// The number and keys of what it waits for.
    pending: Option<(u64, Vec<Key>)>,
    /// When each key was last modified, as far as it knows.
    known: BTreeMap<Key, Revision>,
    watch: Watch,
}

#[derive(Debug, Default)]
struct Watch {
    prefix: &'static str,
    at: Option<ReplicaId>,
    seen: Revision,
}

const KEYS: [&str; 5] = ["/k/0", "/k/1", "/k/2", "/k/3", "/k/4"];
const PATIENCE_US: u64 = 600_000;
const SCANNED_MAX: usize = 256;

impl World {
    pub(super) fn add_client(&mut self) {
        let client = self.clients.len();
        let prefix = if self.chance.happens(500) { "/k/" } else { "/k/1" };
        self.clients.push(Client { watch: Watch { prefix, ..Watch::default() }, ..Client::default() });
        self.after(0, Happening::ClientTurn { client });
        self.after(0, Happening::WatchTurn { client });
    }

    /// Any replica whose process lives.
    fn some_replica(&mut self) -> Option<ReplicaId> {
        let alive: Vec<_> = self.nodes.values().filter(|node| node.core.is_some() && node.joined).collect();
        self.chance.pick(&alive).map(|node| node.id)
    }

    pub(super) fn client_turn(&mut self, client: usize) {
        if self.quiet || self.clients[client].pending.is_some() {
            return;
        }
        if self.clients[client].home.is_none() || self.chance.happens(30) {
            self.clients[client].home = self.some_replica();
        }
        let Some(home) = self.clients[client].home else {
            return self.after(20_000, Happening::ClientTurn { client });
        };
        self.sequence += 1;
        let number = self.sequence;
        let (keys, kind, request) = self.invent(client, number);
        self.trace.line(self.now_us, format_args!("client {client} asks {home}: {number} {kind:?} {keys:?}"));
        let command = match &request {
            Request::Write(command) => command.clone(),
            Request::Read(_) => Bytes::new(),
        };
        self.check.invoked(number, client, kind, &keys, command);
        self.clients[client].pending = Some((number, keys));
        let delay_us = self.chance.between(50, 400);
        if !self.chance.happens(self.weather.replies_lost_permille) {
            self.after(delay_us, Happening::Request { to: home, client: Asker::Client(client), number, request });
        }
        self.after(PATIENCE_US, Happening::GiveUp { client, number });
    }

    fn invent(&mut self, client: usize, number: u64) -> (Vec<Key>, Kind, Request) {
        let key = |name: &&str| Key::new(*name);
        let one = key(self.chance.pick(&KEYS).unwrap_or(&KEYS[0]));
        let reads = self.chance.happens(self.weather.reads_permille);
        let draw = self.chance.between(35, 99);
        let known = |key: &Key| self.clients[client].known.get(key).copied();
        let compare = |key: &Key| match known(key) {
            Some(revision) if revision > 0 => Compare::Modified(key.clone(), revision),
            _ => Compare::Absent(key.clone()),
        };
        let expected = known(&one).unwrap_or_default();
        let put = |key: &Key| Operation::Put(key.clone(), Bytes::copy_from_slice(&number.to_be_bytes()));
        let write = |keys: Vec<Key>, kind, compares, operations| {
            let command = Command::Commit(Transaction { compares, operations }).encode().into();
            (keys, kind, Request::Write(command))
        };
        match draw {
            _ if reads => (vec![one.clone()], Kind::Read, Request::Read(one)),
            35..60 => write(vec![one.clone()], Kind::Put, vec![], vec![put(&one)]),
            60..80 => write(vec![one.clone()], Kind::Swap { expected }, vec![compare(&one)], vec![put(&one)]),
            80..87 => write(vec![one.clone()], Kind::Delete, vec![], vec![Operation::Delete(one)]),
            87..95 => {
                let pair = vec![key(&KEYS[1]), key(&KEYS[2])];
                let compares = pair.iter().map(compare).collect();
                let operations = vec![put(&pair[0]), put(&pair[1]), Operation::Delete(key(&KEYS[3]))];
                write(pair, Kind::Many, compares, operations)
            }
            95..97 => {
                let revision = self.check.revision() / 2;
                (vec![], Kind::Other, Request::Write(Command::Compact(revision).encode().into()))
            }
            _ => (vec![], Kind::Other, Request::Write(self.odd(one))),
        }
    }

    /// What no careful client would send.
    fn odd(&mut self, one: Key) -> Bytes {
        let chance = &mut self.chance;
        let odd = |compares, operations| Command::Commit(Transaction { compares, operations }).encode().into();
        match chance.between(0, 6) {
            0 => odd(vec![], vec![]),
            1 => odd(vec![], vec![Operation::Delete(one.clone()), Operation::Delete(one)]),
            2 => odd(vec![], vec![Operation::Put(Key::new(""), Bytes::new())]),
            3 => odd(vec![Compare::Modified(one.clone(), u64::MAX), Compare::Absent(one)], vec![]),
            4 => Command::Compact(u64::MAX).encode().into(),
            5 => Bytes::new(),
            _ => {
                let mut bytes: Vec<u8> = (0..chance.between(1, 20)).map(|_| chance.between(0, 3) as u8).collect();
                bytes.put_u32(crc32fast::hash(&bytes));
                bytes.into()
            }
        }
    }

    pub(super) fn replied(&mut self, client: usize, number: u64, reply: Reply) {
        let here = &mut self.clients[client];
        let Some((_, keys)) = here.pending.take_if(|(waiting, _)| *waiting == number) else { return };
        self.trace.line(self.now_us, format_args!("client {client} is told of {number}: {reply:?}"));
        match &reply {
            Reply::Wrote(Outcome::Committed(revision)) => {
                here.known.extend(keys.into_iter().map(|key| (key, *revision)));
            }
            Reply::Wrote(Outcome::Conflict(current)) => {
                let modified = current.iter().map(|entry| entry.as_ref().map_or(0, |entry| entry.modified));
                here.known.extend(keys.into_iter().zip(modified));
            }
            Reply::Read(_, entry) => {
                let modified = entry.as_ref().map_or(0, |entry| entry.modified);
                here.known.extend(keys.into_iter().map(|key| (key, modified)));
            }
            Reply::Refused | Reply::Wrote(Outcome::Unknown) => here.home = None,
        }
        self.check.replied(self.now_us, number, &reply);
        let pause_us = if self.chance.happens(300) { 100 } else { self.chance.between(1_000, self.weather.think_us) };
        self.after(pause_us, Happening::ClientTurn { client });
    }

    pub(super) fn give_up(&mut self, client: usize, number: u64) {
        let here = &mut self.clients[client];
        if here.pending.take_if(|(waiting, _)| *waiting == number).is_some() {
            here.home = None;
            self.after(1_000, Happening::ClientTurn { client });
        }
    }

    pub(super) fn watch_turn(&mut self, client: usize) {
        if !self.quiet {
            let delay_us = self.chance.between(10_000, 2 * self.weather.think_us + 20_000);
            self.after(delay_us, Happening::WatchTurn { client });
        }
        let plant = self.settings.plant;
        let moves = self.chance.happens(150);
        let here = &self.clients[client];
        let alive = here.watch.at.is_some_and(|at| self.nodes.get(&at).is_some_and(|node| node.core.is_some()));
        if moves || !alive {
            let at = self.some_replica();
            let revision = at.and_then(|at| self.nodes[&at].core.as_ref()).map(|core| core.state().read().revision());
            let watch = &mut self.clients[client].watch;
            watch.at = at;
            match (plant, revision) {
                (Some(Plant::WatchSkips), Some(revision)) => watch.seen = revision,
                (Some(Plant::WatchRepeats), _) => watch.seen = watch.seen.saturating_sub(1),
                _ => {}
            }
        }
        let watch = &self.clients[client].watch;
        let Some(at) = watch.at.filter(|at| self.nodes[at].is_running()) else { return };
        let Some(core) = &self.nodes[&at].core else { return };
        let state = core.state().read();
        // A replica that is behind has nothing to say to who has seen more.
        if state.revision() < watch.seen {
            return;
        }
        let told = state.past(watch.prefix, watch.seen, SCANNED_MAX);
        let revision = state.revision();
        drop(state);
        let watch = &mut self.clients[client].watch;
        match told {
            Ok(past) => {
                watch.seen = past.until;
                self.check.watched(self.now_us, client, watch.prefix, &past);
            }
            Err(Error::Compacted(oldest)) if plant == Some(Plant::CompactionUntold) => watch.seen = oldest,
            // It lists, and goes on from there.
            Err(_) => {
                watch.seen = revision;
                self.check.listed(client, revision);
            }
        }
    }
}
