//! Power fails at any moment: a simulated disk loses and tears what was not synced, and the owner starts again.
//!
//! The owner's very code is driven without threads or clocks, so a seed says all that happens. What a fjall database
//! makes of torn sectors is the durable store's test.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;

use super::*;
use crate::store::{Compare, Operation};

const SEEDS: u64 = 600;
const LIVES: usize = 4;
const GROUPS_PER_LIFE: u64 = 12;

#[test]
fn rule_07_an_acknowledged_write_survives_power_loss() {
    for seed in 0..SEEDS {
        World::new(seed).run();
    }
}

/// splitmix64: https://prng.di.unimi.it/splitmix64.c
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// One atomic write, as the bytes that would be on the disk.
enum Write {
    Append { first: Index, commands: Vec<Vec<u8>> },
    Checkpoint { index: Index, checkpoint: Checkpoint },
}

/// What the disk holds. Writes reach it in order; a sync makes all before it durable.
#[derive(Default)]
struct Platter {
    durable: Durable,
    unsynced: Vec<Write>,
    /// Power fails in this many appends.
    fails_in: Option<u64>,
}

#[derive(Default)]
struct Durable {
    log: BTreeMap<Index, Vec<u8>>,
    rows: BTreeMap<Key, Option<Entry>>,
    index: Index,
    revision: Revision,
}

impl Extend<Write> for Durable {
    fn extend<W: IntoIterator<Item = Write>>(&mut self, writes: W) {
        for write in writes {
            match write {
                Write::Append { first, commands } => self.log.extend((first..).zip(commands)),
                Write::Checkpoint { index, checkpoint } => {
                    (self.index, self.revision) = (index, checkpoint.revision);
                    self.log.retain(|position, _| *position > index);
                    self.rows.extend(checkpoint.rows);
                }
            }
        }
    }
}

impl Platter {
    /// Of what was not synced a prefix may have arrived; a write that arrived in part does not check out and is dropped
    /// with all behind it.
    fn power_fails(&mut self, dice: &mut Dice) {
        let arrived = dice.roll(self.unsynced.len() as u64 + 1) as usize;
        self.durable.extend(self.unsynced.drain(..).take(arrived));
        self.fails_in = None;
    }

    fn recover(&self) -> Recovered {
        let Durable { log, rows, index, revision } = &self.durable;
        let commands = (index + 1..).zip(log).map(|(expected, (position, bytes))| {
            assert_eq!(*position, expected, "the log has no gaps");
            Command::decode(bytes).unwrap()
        });
        let commands = commands.collect();
        let state = Mvcc::restore(*revision, rows.values().flatten().cloned());
        Recovered { index: *index, state, commands }
    }
}

struct LossyDisk(Arc<Mutex<Platter>>);

impl Log for LossyDisk {
    fn append(&mut self, first: Index, commands: &[Command]) -> Result<(), LogError> {
        let mut platter = self.0.lock();
        let commands = commands.iter().map(Command::encode).collect();
        platter.unsynced.push(Write::Append { first, commands });
        match &mut platter.fails_in {
            Some(0) => return Err("power failed".into()),
            Some(left) => *left -= 1,
            None => {}
        }
        let Platter { durable, unsynced, .. } = &mut *platter;
        durable.extend(unsynced.drain(..));
        Ok(())
    }

    fn checkpoint(&mut self, index: Index, checkpoint: &Checkpoint) -> Result<(), LogError> {
        self.0.lock().unsynced.push(Write::Checkpoint { index, checkpoint: checkpoint.clone() });
        Ok(())
    }
}

struct World {
    seed: u64,
    dice: Dice,
    platter: Arc<Mutex<Platter>>,
    /// Every transaction ever sent, by the name of the marks it leaves.
    sent: Vec<Transaction>,
    /// Those that were acknowledged, with their revision.
    acknowledged: BTreeMap<usize, Revision>,
    /// Those whose answer was lost. All others left no mark.
    unknown: BTreeSet<usize>,
    /// What the last start found, made by itself: so many were sent then, and what was found then must never go.
    model: Mvcc,
    checked: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let dice = Dice(seed);
        Self {
            seed,
            dice,
            platter: Arc::default(),
            sent: Vec::new(),
            acknowledged: BTreeMap::new(),
            unknown: BTreeSet::new(),
            model: Mvcc::default(),
            checked: 0,
        }
    }

    fn run(mut self) {
        for _ in 0..LIVES {
            let mut owner = self.start();
            self.check(&owner.shared.state.read());
            self.platter.lock().fails_in = Some(self.dice.roll(GROUPS_PER_LIFE));
            while self.write_group(&mut owner).is_ok() {}
            drop(owner);
            self.platter.lock().power_fails(&mut self.dice);
        }
        self.check(&self.start().shared.state.read());
    }

    fn start(&self) -> Owner {
        let (_, events) = mpsc::channel(1);
        // Small enough that the owner bounds its history by itself, too.
        let options = Options { history_revisions_max: 40, ..Options::default() };
        let recovered = self.platter.lock().recover();
        Owner::new(recovered, Box::new(LossyDisk(self.platter.clone())), events, options).unwrap()
    }

    fn write_group(&mut self, owner: &mut Owner) -> Result<(), LogError> {
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        let (compacted, revision) = {
            let state = owner.shared.state.read();
            (state.compacted(), state.revision())
        };
        for _ in 0..=self.dice.roll(4) {
            if self.dice.roll(8) == 0 {
                let (answer, _) = oneshot::channel();
                group.push(Event::Compact(compacted + self.dice.roll(revision - compacted + 1), answer));
                continue;
            }
            let (answer, outcome) = oneshot::channel();
            answers.push((self.sent.len(), outcome));
            let transaction = self.transaction(owner);
            self.sent.push(transaction.clone());
            group.push(Event::Commit(transaction, answer));
        }
        let done = owner.handle(group);
        for (id, mut outcome) in answers {
            match outcome.try_recv() {
                Ok(Ok(Outcome::Committed(revision))) => {
                    self.acknowledged.insert(id, revision);
                }
                Ok(Ok(Outcome::Conflict(_))) => {}
                Ok(other) => panic!("seed {}: {other:?}", self.seed),
                Err(_lost) => {
                    self.unknown.insert(id);
                }
            }
        }
        done
    }

    /// Two marks that are only ever written together, and a few keys that all transactions fight for.
    fn transaction(&mut self, owner: &Owner) -> Transaction {
        let id = self.sent.len();
        let mut operations: Vec<Operation> = marks(id).map(|mark| Operation::Put(mark, format!("{id}").into())).into();
        for n in 0..3 {
            let key = Key::new(format!("/fought/{n}"));
            match self.dice.roll(3) {
                0 => operations.push(Operation::Put(key, format!("{id}-{n}").into())),
                1 => operations.push(Operation::Delete(key)),
                _ => {}
            }
        }
        let compared = Key::new("/fought/0");
        let current = owner.shared.state.read().get(&compared);
        let compares = match (self.dice.roll(2), current) {
            (0, _) => vec![],
            (_, None) => vec![Compare::Absent(compared)],
            (_, Some(entry)) => vec![Compare::Modified(compared, entry.modified)],
        };
        Transaction { compares, operations }
    }

    /// What a start finds: all that was acknowledged, nothing by halves, and what any other replica would have made of it.
    fn check(&mut self, state: &Mvcc) {
        let seed = self.seed;
        let mut found: BTreeMap<Revision, usize> = BTreeMap::new();
        for id in self.checked..self.sent.len() {
            let [first, second] = marks(id).map(|mark| state.get(&mark).map(|entry| entry.modified));
            assert_eq!(first, second, "seed {seed}: transaction {id} is there by halves");
            let acknowledged = self.acknowledged.get(&id);
            if acknowledged.is_some() {
                assert_eq!(first.as_ref(), acknowledged, "seed {seed}: acknowledged transaction {id} is lost");
            }
            if let Some(revision) = first {
                assert!(acknowledged.is_some() || self.unknown.contains(&id), "seed {seed}: {id} was never committed");
                found.insert(revision, id);
            }
        }
        self.checked = self.sent.len();
        for (revision, id) in found {
            // The compares held when it was committed; how the groups fell is not repeated here.
            let transaction = Transaction { compares: vec![], ..self.sent[id].clone() };
            assert_eq!(self.model.commit(transaction), Ok(Outcome::Committed(revision)), "seed {seed}");
        }
        assert_eq!(self.model.digest(), state.digest(), "seed {seed}");
    }
}

fn marks(id: usize) -> [Key; 2] {
    [Key::new(format!("/first/{id}")), Key::new(format!("/second/{id}"))]
}
