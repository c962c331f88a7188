//! What is left when most replicas are lost for good.
//!
//! Owns: looking into the directory of a replica that is not running, and making a new group of what it has. Must never: do that
//! unasked, or let the new group pass for the old one: acknowledged writes may be missing from it, so it begins another
//! incarnation, and its replica has another id.

use std::path::Path;

use super::{
    OpenError, ReplicaId, Start,
    core::{Install, Recovered},
    disk::{Disk, Opened},
    log::{Checkpoint, Kind},
};
use crate::{
    model::Uid,
    store::{Revision, command::Command, mvcc::Mvcc},
};

/// What a replica holds, and, of [`force_new`], what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    pub old: ReplicaId,
    pub new: ReplicaId,
    pub incarnation: Uid,
    /// The last entry of its log; whether it was committed cannot be said. What came after it is lost.
    pub index: u64,
    pub term: u64,
    /// Known to have been committed.
    pub committed: u64,
    pub revision: Revision,
    /// Those of its group, as it knew them.
    pub voters: Vec<ReplicaId>,
}

/// What [`force_new`] would make, changing nothing.
pub fn inspect(dir: &Path) -> Result<Forced, OpenError> {
    let (_, forced, _) = read(dir, |_, least| least)?;
    Ok(forced)
}

/// Makes the replica in this directory the only one of a new group, with all that is in its log. `id` chooses its new id from
/// the state and the least that no member has had as far as the log tells.
pub fn force_new(dir: &Path, id: impl FnOnce(&Mvcc, ReplicaId) -> ReplicaId) -> Result<Forced, OpenError> {
    let (mut disk, mut forced, state) = read(dir, id)?;
    forced.incarnation = Uid(uuid::Uuid::new_v4().to_string());
    let checkpoint = Checkpoint {
        // Nothing of the old group can be mistaken for what comes now.
        index: forced.index + 1,
        term: forced.term + 1,
        voters: vec![forced.new],
        learners: Vec::new(),
        revision: state.revision(),
        hash: state.hash(),
    };
    let install = Install { checkpoint, rows: state.entries().collect() };
    let replaced = disk.replace(dir, forced.new, &forced.incarnation, install);
    replaced.map_err(|source| OpenError::Database { dir: dir.to_owned(), doing: "make a new group", source })?;
    Ok(forced)
}

fn read(dir: &Path, id: impl FnOnce(&Mvcc, ReplicaId) -> ReplicaId) -> Result<(Disk, Forced, Mvcc), OpenError> {
    if !dir.is_dir() {
        return Err(OpenError::Foreign { dir: dir.to_owned(), what: "there is no such directory" });
    }
    let Opened { disk, id: old, incarnation, recovered, .. } = Disk::open(dir, &Start::Found)?;
    let Recovered { ballot, checkpoint, rows, entries, committed } = recovered;
    let mut state = Mvcc::restore(checkpoint.revision, rows);
    let mut known = [&checkpoint.voters[..], &checkpoint.learners, &[old]].concat();
    let mut voters = checkpoint.voters.clone();
    let index = checkpoint.index + entries.len() as u64;
    for entry in &entries {
        match entry.kind {
            Kind::Command => {
                if let Ok(command) = Command::decode(&entry.data) {
                    // What was refused when it was applied is refused again.
                    let _refusal = state.apply(command);
                }
            }
            Kind::Change => {
                let Some(change) = super::Change::decode(&entry.data) else { continue };
                known.push(change.replica());
                match change {
                    super::Change::Add(_) => {}
                    super::Change::Promote(id) => voters.push(id),
                    super::Change::Remove(id) => voters.retain(|voter| *voter != id),
                }
            }
        }
    }
    let least = known.into_iter().max().unwrap_or(old) + 1;
    let term = entries.last().map_or(checkpoint.term, |last| last.term).max(ballot.term);
    let new = id(&state, least);
    let forced = Forced { old, new, incarnation, index, term, committed, revision: state.revision(), voters };
    Ok((disk, forced, state))
}
