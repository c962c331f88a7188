//! The store that forgets: for tests, the quickstart's dry runs and the simulator.
//!
//! Owns: nothing but a log that keeps nothing; all behaviour is the owner's and the state machine's.

use std::sync::Arc;

use super::{
    Store,
    command::Command,
    mvcc::{Checkpoint, Mvcc},
    owner::{self, Index, Log, LogError, Options, Recovered},
};
use crate::model::Uid;

/// An empty store with an incarnation of its own. Lives as long as the last handle.
pub fn open() -> Arc<dyn Store> {
    open_with(Options::default(), Uid(uuid::Uuid::new_v4().to_string()))
}

pub fn open_with(options: Options, incarnation: Uid) -> Arc<dyn Store> {
    let recovered = Recovered { index: 0, state: Mvcc::default(), commands: Vec::new() };
    let handle = owner::start(recovered, Box::new(Oblivion), incarnation, options);
    // There is nothing to replay, so what can fail is the start of a thread: no process that cannot do that goes on.
    Arc::new(handle.expect("start the thread of a store"))
}

struct Oblivion;

impl Log for Oblivion {
    fn append(&mut self, _first: Index, _commands: &[Command]) -> Result<(), LogError> {
        Ok(())
    }

    fn checkpoint(&mut self, _index: Index, _checkpoint: &Checkpoint) -> Result<(), LogError> {
        Ok(())
    }
}
