//! The vote of a replica, in a small file of its own.
//!
//! Owns: two slots that are written in turn, each in a sector of its own, so that a write that power failure tears leaves
//! the one before it whole. A file of its own, because a vote must not wait for the log's fsync. Must never: forget a vote
//! that was asked to be kept, or make one up: a replica that voted twice in one term can cost acknowledged writes.
//!
//! ```text
//! slot   "hanse-b1" | sequence u64 | replica u64 | term u64 | vote u64 | crc32 of all before, u32
//! ```
//! Integers are big-endian; the slots begin at bytes 0 and 4096.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use bytes::{Buf, BufMut};

use super::{ReplicaId, log::Ballot};

const MAGIC: &[u8; 8] = b"hanse-b1";
const SLOT_BYTES: usize = 44;
const SLOTS: u64 = 2;
const SLOT_DISTANCE: u64 = 4096;

pub(super) struct BallotFile {
    file: File,
    replica: ReplicaId,
    sequence: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum BallotError {
    #[error("its ballot is missing")]
    Missing,
    #[error("its ballot is damaged")]
    Damaged,
    #[error("its ballot is of replica {0}")]
    Foreign(ReplicaId),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl BallotFile {
    /// A new file, durable with its name when this returns.
    pub fn create(path: &Path, replica: ReplicaId, ballot: Ballot) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.set_len(SLOTS * SLOT_DISTANCE)?;
        let mut ballots = Self { file, replica, sequence: 0 };
        ballots.save(ballot)?;
        ballots.file.sync_all()?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(ballots)
    }

    pub fn open(path: &Path, replica: ReplicaId) -> Result<(Self, Ballot), BallotError> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BallotError::Missing),
            opened => opened?,
        };
        let bytes = fs::read(path)?;
        let slot = |n: u64| read_slot(bytes.get((n * SLOT_DISTANCE) as usize..)?);
        let newest = (0..SLOTS).filter_map(slot).max_by_key(|slot| slot.0).ok_or(BallotError::Damaged)?;
        let (sequence, holder, ballot) = newest;
        if holder != replica {
            return Err(BallotError::Foreign(holder));
        }
        Ok((Self { file, replica, sequence }, ballot))
    }

    /// Durable when this returns.
    pub fn save(&mut self, ballot: Ballot) -> io::Result<()> {
        self.sequence += 1;
        let mut slot = MAGIC.to_vec();
        for number in [self.sequence, self.replica, ballot.term, ballot.vote] {
            slot.put_u64(number);
        }
        slot.put_u32(crc32fast::hash(&slot));
        super::crash::point("ballot-before-write");
        self.file.write_all_at(&slot, self.sequence % SLOTS * SLOT_DISTANCE)?;
        super::crash::point("ballot-before-sync");
        self.file.sync_data()
    }
}

fn read_slot(bytes: &[u8]) -> Option<(u64, ReplicaId, Ballot)> {
    let (slot, mut checksum) = bytes.get(..SLOT_BYTES)?.split_at(SLOT_BYTES - 4);
    if crc32fast::hash(slot) != checksum.get_u32() {
        return None;
    }
    let mut numbers = slot.strip_prefix(MAGIC)?;
    let (sequence, replica) = (numbers.get_u64(), numbers.get_u64());
    Some((sequence, replica, Ballot { term: numbers.get_u64(), vote: numbers.get_u64() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ballot(term: u64) -> Ballot {
        Ballot { term, vote: term % 3 }
    }

    #[test]
    fn the_newest_ballot_is_read_again() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("ballot");
        let mut ballots = BallotFile::create(&path, 7, ballot(1)).expect("created");
        for term in 2..6 {
            ballots.save(ballot(term)).expect("saved");
            assert_eq!(BallotFile::open(&path, 7).ok().map(|opened| opened.1), Some(ballot(term)));
        }
        assert!(matches!(BallotFile::open(&path, 8), Err(BallotError::Foreign(7))));
    }

    #[test]
    fn rule_07_a_torn_ballot_leaves_the_one_before_it() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("ballot");
        let mut ballots = BallotFile::create(&path, 7, ballot(1)).expect("created");
        ballots.save(ballot(2)).expect("saved");
        let before = fs::read(&path).expect("read");
        ballots.save(ballot(3)).expect("saved");
        let after = fs::read(&path).expect("read");
        let changed: Vec<_> = (0..after.len()).filter(|at| after[*at] != before[*at]).collect();
        for at in &changed {
            let mut torn = after.clone();
            torn[*at..=changed[changed.len() - 1]].copy_from_slice(&before[*at..=changed[changed.len() - 1]]);
            fs::write(&path, &torn).expect("written");
            let (_, found) = BallotFile::open(&path, 7).expect("opened");
            assert_eq!(found, ballot(2), "torn at byte {at}");
        }
        fs::write(&path, vec![0; after.len()]).expect("written");
        assert!(matches!(BallotFile::open(&path, 7), Err(BallotError::Damaged)));
        fs::remove_file(&path).expect("removed");
        assert!(matches!(BallotFile::open(&path, 7), Err(BallotError::Missing)));
    }
}
