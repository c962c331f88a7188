//! A replica's disk: what is synced, what is only written, and what a crash leaves of it.
//!
//! Owns: the difference between the two. The log's writer writes in order and syncs all that is written at once; a crash takes
//! a suffix of what was not synced. A write that was torn does not match its checksum, and so is taken with the rest.

use std::collections::{BTreeMap, VecDeque};

use super::plant::Plant;
use crate::{
    sim::chance::Chance,
    store::{
        Entry, Key,
        raft::{
            core::{Forget, Recovered, Write},
            log::{Ballot, Checkpoint, Kind, LogEntry},
        },
    },
};

/// What the disk holds, were it read now.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub checkpoint: Checkpoint,
    pub rows: BTreeMap<Key, Entry>,
    pub entries: VecDeque<LogEntry>,
    pub committed: u64,
}

#[derive(Debug, Clone)]
enum Piece {
    Write(Write),
    Forget(Forget),
}

#[derive(Debug, Default)]
pub struct Disk {
    pub ballot: Ballot,
    /// Only while a planted bug does not sync it.
    ballot_unsynced: Option<Ballot>,
    synced: Image,
    unsynced: VecDeque<Piece>,
    /// So many of them are in the sync under way.
    syncing: usize,
    /// The checksum of a log entry at this index is wrong.
    rotten: Option<u64>,
    /// Someone changed a bit of a row.
    pub rotten_rows: bool,
    pub full: bool,
    pub slow: bool,
}

impl Disk {
    pub fn holding(ballot: Ballot, checkpoint: Checkpoint, rows: Vec<Entry>) -> Self {
        let rows = rows.into_iter().map(|row| (row.key.clone(), row)).collect();
        Self { ballot, synced: Image { checkpoint, rows, ..Image::default() }, ..Self::default() }
    }

    /// How long one sync takes.
    pub fn sync_us(&self, chance: &mut Chance) -> u64 {
        if self.slow { chance.between(20_000, 250_000) } else { chance.between(100, 900) }
    }

    pub fn save_ballot(&mut self, ballot: Ballot, plant: Option<Plant>) {
        match plant {
            Some(Plant::BallotUnsynced) => self.ballot_unsynced = Some(ballot),
            _ => self.ballot = ballot,
        }
    }

    pub fn write(&mut self, write: Write) {
        self.unsynced.push_back(Piece::Write(write));
    }

    pub fn forget(&mut self, forget: Forget, plant: Option<Plant>) {
        if plant == Some(Plant::CheckpointApart) && self.synced.end() >= forget.checkpoint.index {
            self.synced.checkpoint.index = forget.checkpoint.index;
            self.synced.checkpoint.term = forget.checkpoint.term;
            self.synced.checkpoint.hash = forget.checkpoint.hash;
            self.synced.checkpoint.revision = forget.checkpoint.revision;
        }
        self.unsynced.push_back(Piece::Forget(forget));
    }

    /// Begins a sync unless one is under way or nothing is to be synced.
    pub fn begin_sync(&mut self) -> bool {
        let begins = self.syncing == 0 && self.unsynced.iter().any(|piece| matches!(piece, Piece::Write(_)));
        if begins {
            self.syncing = self.unsynced.len();
        }
        begins
    }

    /// The sync under way is done: the number of the last write in it.
    pub fn synced(&mut self, plant: Option<Plant>) -> Option<u64> {
        let mut last = None;
        let counted: Vec<_> = self.unsynced.drain(..std::mem::take(&mut self.syncing)).collect();
        for piece in counted {
            if let Piece::Write(write) = &piece {
                last = Some(write.number);
            }
            self.synced.take(piece, plant);
        }
        if plant == Some(Plant::SyncCountsLater) {
            last = self.last_written().or(last);
        }
        last
    }

    /// The number of the last write, synced or not.
    pub fn last_written(&self) -> Option<u64> {
        self.unsynced.iter().rev().find_map(|piece| match piece {
            Piece::Write(write) => Some(write.number),
            Piece::Forget(_) => None,
        })
    }

    /// The machine lost its power, or (`power` false) only the process died, and what it had written is still there.
    pub fn crash(&mut self, chance: &mut Chance, power: bool, plant: Option<Plant>) {
        let count = self.unsynced.len() as u64;
        let kept = if power { chance.between(0, count) } else { count };
        let pieces: Vec<_> = self.unsynced.drain(..).take(kept as usize).collect();
        pieces.into_iter().for_each(|piece| self.synced.take(piece, plant));
        self.syncing = 0;
        if let Some(ballot) = self.ballot_unsynced.take().filter(|_| !power) {
            self.ballot = ballot;
        }
    }

    /// A bit flips in the log or in the rows; false where there is nothing to flip.
    pub fn rot(&mut self, chance: &mut Chance) -> bool {
        let rows: Vec<_> = self.synced.rows.keys().cloned().collect();
        let in_rows = chance.happens(500);
        if let Some(key) = chance.pick(&rows).filter(|_| in_rows)
            && let Some(entry) = self.synced.rows.get_mut(key)
        {
            let mut value = entry.value.to_vec();
            value.push(0);
            entry.value = value.into();
            self.rotten_rows = true;
            return true;
        }
        let indexes: Vec<_> = self.synced.entries.iter().map(|entry| entry.index).collect();
        self.rotten = chance.pick(&indexes).copied();
        self.rotten.is_some()
    }

    /// What whoever opens it finds; the checksum of every entry is looked at.
    pub fn open(&self, plant: Option<Plant>) -> Result<Recovered, String> {
        let Image { checkpoint, rows, entries, committed } = self.synced.clone();
        let mut entries: Vec<_> = entries.into_iter().filter(|entry| entry.index > checkpoint.index).collect();
        if let Some(entry) = entries.iter().find(|entry| Some(entry.index) == self.rotten) {
            return Err(format!("log entry {} does not match its checksum", entry.index));
        }
        let rows = rows.into_values().collect();
        let mut recovered = Recovered { ballot: self.ballot, checkpoint, rows, entries: Vec::new(), committed };
        match plant {
            Some(Plant::BallotForgotten) => recovered.ballot.vote = 0,
            Some(Plant::TailDropped) => drop(entries.pop()),
            Some(Plant::MembersForgotten) => {
                recovered.committed = 0;
                for entry in entries.iter_mut().filter(|entry| entry.kind == Kind::Change) {
                    (entry.kind, entry.data) = (Kind::Command, Default::default());
                }
            }
            _ => {}
        }
        let last = entries.last().map_or(recovered.checkpoint.index, |entry| entry.index);
        if committed > last {
            return Err(format!("the log ends at {last} though {committed} was committed"));
        }
        recovered.entries = entries;
        Ok(recovered)
    }

    /// Whether this log entry would survive whatever happens to the machine now.
    pub fn holds(&self, index: u64, term: u64) -> bool {
        let image = &self.synced;
        if index <= image.checkpoint.index {
            return true;
        }
        let at = (index - image.checkpoint.index - 1) as usize;
        image.entries.get(at).is_some_and(|entry| entry.term == term && entry.index == index)
    }

    /// The last entry that it says was committed.
    pub fn committed(&self) -> u64 {
        self.synced.committed
    }

    /// It was opened and found sound: what had rotted has been overwritten since.
    pub fn passed(&mut self) {
        (self.rotten, self.rotten_rows) = (None, false);
    }

    /// Whoever opens it will distrust it.
    pub fn is_rotten(&self) -> bool {
        self.rotten.is_some() || self.rotten_rows
    }
}

impl Image {
    fn end(&self) -> u64 {
        self.checkpoint.index + self.entries.len() as u64
    }

    fn take(&mut self, piece: Piece, plant: Option<Plant>) {
        match piece {
            Piece::Write(write) => {
                if let Some(install) = write.install {
                    self.checkpoint = install.checkpoint;
                    let lacking = usize::from(plant == Some(Plant::InstallLacksRow));
                    let rows = install.rows.into_iter().skip(lacking);
                    self.rows = rows.map(|row| (row.key.clone(), row)).collect();
                    if plant != Some(Plant::InstallKeepsLog) {
                        self.entries.clear();
                    }
                }
                self.append(write.entries, plant);
                self.committed = write.committed;
            }
            Piece::Forget(forget) => self.forget(forget, plant),
        }
    }

    fn append(&mut self, entries: Vec<LogEntry>, plant: Option<Plant>) {
        let Some(first) = entries.first() else { return };
        let begin = self.entries.front().map_or(self.checkpoint.index + 1, |entry| entry.index);
        let at = first.index.saturating_sub(begin) as usize;
        if plant == Some(Plant::TruncationIgnored) {
            for (at, entry) in (at..).zip(entries) {
                match self.entries.get_mut(at) {
                    Some(place) => *place = entry,
                    None => self.entries.push_back(entry),
                }
            }
            return;
        }
        self.entries.truncate(at);
        self.entries.extend(entries);
    }

    fn forget(&mut self, forget: Forget, plant: Option<Plant>) {
        let one_less = u64::from(plant == Some(Plant::CheckpointOneBehind));
        let mut last = None;
        while let Some(entry) = self.entries.front()
            && entry.index + one_less <= forget.checkpoint.index
        {
            last = Some((entry.index, entry.term));
            self.entries.pop_front();
        }
        self.checkpoint = forget.checkpoint;
        self.committed = self.committed.max(self.checkpoint.index);
        if let Some((index, term)) = last.filter(|_| one_less > 0) {
            (self.checkpoint.index, self.checkpoint.term) = (index, term);
        }
        for (key, entry) in forget.rows {
            match entry {
                Some(entry) => self.rows.insert(key, entry),
                None => self.rows.remove(&key),
            };
        }
    }
}
