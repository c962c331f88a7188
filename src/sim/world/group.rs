//! The replicas of the store below the hubs: what is asked of them, and what they tell.
//!
//! Owns: who waits for which answer, and what the checker learns of the one true log as it grows.

use bytes::Bytes;

use super::{Happening, World, hub::Consumer, hub::Process};
use crate::{
    hub::{control::turn::LEADER, feed::Feed, slices::Slices},
    model::Uid,
    sim::{
        check::Author,
        replicas::{
            self,
            outside::{Founding, Reply, Told},
        },
    },
    store::{
        Compare, Error, Key, Operation, Outcome, Revision, Transaction, WatchEvent, command::Command, mvcc::Mvcc,
        raft::core::Timing,
    },
};

/// What a process asked its replica for.
#[derive(Debug)]
pub enum Ask {
    List { consumer: Consumer, number: u64 },
    Member { stream: u64 },
    CatchUp { stream: u64, floor: Revision },
    LeaderKey { turn: u64 },
    TakeOver { turn: u64 },
    Commit { turn: u64, id: u64, command: Bytes },
    Nothing,
}

/// What all that was committed says, in the order of the log.
#[derive(Default)]
pub struct Truth {
    seen: Revision,
    pub slices: Slices,
    /// When the leader's key was last written.
    leader: Revision,
}

impl Truth {
    pub fn of(state: &Mvcc) -> Self {
        let slices = Slices::new();
        slices.apply(&Feed::Reset { entries: state.entries().collect(), revision: state.revision() });
        let leader = state.get(&Key::new(LEADER)).map_or(0, |entry| entry.modified);
        Self { seen: state.revision(), slices, leader }
    }
}

/// How long a person waits for an answer.
const PATIENCE_MS: u64 = 10_000;
const ATTEMPTS_MAX: usize = 5;

/// Replicas that hold `state`. Far slower than real ones: a story lasts minutes, in which nothing would happen most of the
/// time.
pub fn found(seed: u64, replicas: usize, incarnation: &Uid, state: Mvcc, now_ms: u64) -> replicas::World {
    let settings = replicas::Settings { seed, plant: None, verbose: false };
    let timing = Timing { tick_ms: 100, heartbeat_ticks: 3, election_ticks: 10..20 };
    let reads = Founding::reads(seed);
    let (incarnation, now_us) = (incarnation.clone(), now_ms * 1000);
    let founding = Founding { replicas, timing, reads, incarnation, state, now_us, tempo: 10, ..Founding::default() };
    replicas::World::within(settings, founding)
}

impl World {
    /// The store as all that was committed made it.
    pub fn store(&self) -> &Mvcc {
        self.group.check.state()
    }

    pub(super) fn number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(super) fn ask_to_read(&mut self, process: Process, key: Key, ask: Ask) {
        let number = self.number();
        self.asks.insert(number, (process, ask));
        self.group.read(process.id, number, key);
    }

    /// A transaction of the hub itself: of a turn, or of nobody who leads.
    pub(super) fn submit(&mut self, process: Process, turn: Option<u64>, transaction: Transaction, ask: Ask) {
        let command: Bytes = Command::Commit(transaction).encode().into();
        self.authors.insert(command.clone(), turn);
        let ask = match ask {
            Ask::Commit { turn, id, .. } => Ask::Commit { turn, id, command: command.clone() },
            ask => ask,
        };
        let number = self.number();
        self.asks.insert(number, (process, ask));
        self.group.write(process.id, number, command);
    }

    /// Commits as a person, at any replica; the world goes on until there is an answer.
    pub(super) fn write(&mut self, transaction: Transaction) -> Result<Outcome, Error> {
        let command: Bytes = Command::Commit(transaction).encode().into();
        let up = self.group.up();
        let number = self.number();
        let late = self.now_ms + PATIENCE_MS;
        self.awaited = Some(number);
        if let Some(id) = self.chance.pick(&up).copied() {
            self.group.write(id, number, command.clone());
        }
        self.follow_group();
        let answer = loop {
            if let Some(answer) = self.answer.take() {
                break answer;
            }
            if self.now_ms >= late || !self.check.violations.is_empty() || !self.step() {
                break Reply::Wrote(Outcome::Unknown);
            }
        };
        self.awaited = None;
        if let Reply::Wrote(outcome) = &answer {
            self.acknowledged(&command, outcome);
        }
        match answer {
            Reply::Wrote(outcome) => Ok(outcome),
            _ => Err(Error::Unavailable("no leader takes it".into())),
        }
    }

    /// Writes one object as a careful person does: what `make` makes of what is there, until it is there; nothing is left
    /// to do where it makes nothing. False where the person gave up.
    pub(super) fn write_object(&mut self, key: &Key, mut make: impl FnMut(&mut Self) -> Option<Operation>) -> bool {
        for _ in 0..ATTEMPTS_MAX {
            let compare = match self.store().get(key) {
                Some(entry) => Compare::Modified(key.clone(), entry.modified),
                None => Compare::Absent(key.clone()),
            };
            let Some(operation) = make(self) else { return true };
            let transaction = Transaction { compares: vec![compare], operations: vec![operation] };
            if let Ok(Outcome::Committed(_)) = self.write(transaction) {
                return true;
            }
            if !self.check.violations.is_empty() {
                return false;
            }
            self.run_for(500);
        }
        false
    }

    /// Rule 7: what was acknowledged is in the log, where the answer says.
    fn acknowledged(&mut self, command: &Bytes, outcome: &Outcome) {
        if let Outcome::Committed(revision) = outcome
            && self.group.check.answers.command(*revision) != Some(command)
            && !self.is_without_effect(command)
        {
            let what = format!("a write was acknowledged at revision {revision}, where it is not");
            self.check.violate(self.now_ms, 7, what);
        }
    }

    /// Deleting what is not there makes no revision.
    fn is_without_effect(&self, command: &Bytes) -> bool {
        match Command::decode(command) {
            Ok(Command::Commit(transaction)) => {
                transaction.operations.iter().all(|operation| matches!(operation, Operation::Delete(_)))
            }
            _ => true,
        }
    }

    /// Takes in what the replicas have told.
    pub(super) fn follow_group(&mut self) {
        loop {
            let told = self.group.take_told();
            if told.is_empty() {
                break;
            }
            for told in told {
                self.told(told);
            }
        }
        self.learn_truth();
        if let Some(violation) = self.group.check.violations.first() {
            let what = format!("in the store, {violation}");
            self.check.violate(self.now_ms, 7, what);
            self.group.check.violations.clear();
        }
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Started { id, .. } => self.hub_starts(id),
            Told::Died { id, power } => self.hub_dies(id, power),
            Told::Resumed { id } => {
                let held = self.hubs.get_mut(&id).map(|hub| std::mem::take(&mut hub.held));
                held.into_iter().flatten().for_each(|happening| self.after(0, happening));
            }
            Told::Lead { id, leadership } => {
                if let Some(process) = self.hubs.get(&id).map(|hub| hub.process) {
                    self.after(0, Happening::Leadership { process, leadership });
                }
            }
            Told::Applied { id } => self.applied(id),
            Told::Answered { number, reply } => match self.asks.remove(&number) {
                Some((process, ask)) => self.after(0, Happening::Answer { process, ask, reply }),
                None if self.awaited == Some(number) => self.answer = Some(reply),
                None => {}
            },
        }
    }

    pub(super) fn answer(&mut self, process: Process, ask: Ask, reply: Reply) {
        match ask {
            Ask::List { consumer, number } => self.listed(process, consumer, number, &reply),
            Ask::Member { stream } => self.member_read(process, stream, &reply),
            Ask::CatchUp { stream, floor } => self.caught_up(process, stream, floor, &reply),
            Ask::LeaderKey { turn } => self.leader_key_read(process, turn, &reply),
            Ask::TakeOver { turn } => self.took_over(process, turn, &reply),
            Ask::Commit { turn, id, command } => {
                let outcome = match reply {
                    Reply::Wrote(outcome) => Ok(outcome),
                    _ => Err(Error::Unavailable("no leader takes it".into())),
                };
                if let Ok(outcome) = &outcome {
                    self.acknowledged(&command, outcome);
                }
                self.committed(process, turn, id, outcome);
            }
            Ask::Nothing => {}
        }
    }

    /// What has been committed since, in order; the checker looks at each transaction.
    fn learn_truth(&mut self) {
        let newest = self.group.check.revision();
        while self.truth.seen < newest && self.check.violations.is_empty() {
            let Ok(past) = self.group.check.state().past("/hanse/", self.truth.seen, 64) else { return };
            self.truth.seen = past.until;
            for event in past.events {
                if let WatchEvent::Transaction { revision, changes } = event {
                    let feed = Feed::Changed { revision, changes };
                    self.learn(&feed);
                }
            }
        }
    }

    fn learn(&mut self, feed: &Feed) {
        let Feed::Changed { revision, changes } = feed else { return };
        let command = self.group.check.answers.command(*revision);
        let origin = command.and_then(|command| self.authors.get(command)).copied();
        let author = if origin.is_some() { Author::Hub } else { Author::Person };
        for change in changes.iter() {
            self.trace.line(self.now_ms, format_args!("r{revision} {author:?} {}", change.key));
        }
        let turn = origin.flatten();
        if changes.iter().any(|change| change.key.as_str() == LEADER) {
            self.truth.leader = *revision;
        } else {
            let deposed =
                turn.and_then(|turn| self.check.turns.get(&turn)).filter(|turn| turn.key != self.truth.leader);
            if let Some(turn) = deposed {
                let what = format!("replica {} wrote revision {revision} after another one led", turn.replica);
                self.check.violate(self.now_ms, 6, what);
            }
            self.check.committed(self.now_ms, author, changes, &self.sites);
        }
        self.truth.slices.apply(feed);
        self.check.deciding = turn;
        self.check.sliced(self.now_ms, &self.truth.slices, self.group.check.state(), &self.sites);
        self.check.deciding = None;
    }
}
