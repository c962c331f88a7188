//! The shell around the step: feeds it, carries out what it asks for, and decides nothing.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{FromAgent, Settings};
use crate::{
    hub::events::Note,
    model::{Timestamp, Uid},
    store::{Error, Store},
};

/// What other parts of the hub hold of the running controller; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Full when the controller is behind: sessions then wait, and their agents with them.
    pub agents: mpsc::Sender<FromAgent>,
    pub notes: mpsc::Sender<Note>,
    pub beats: Beats,
}

/// The controller's ends of the channels in [`Handle`].
#[derive(Debug)]
pub struct Inputs {
    agents: mpsc::Receiver<FromAgent>,
    notes: mpsc::Receiver<Note>,
    beats: Beats,
}

/// When each cluster was last heard of: kept in memory, overlaid on get and tables, never stored.
#[derive(Debug, Clone, Default)]
pub struct Beats(Arc<RwLock<BTreeMap<Uid, Timestamp>>>);

impl Beats {
    pub fn last(&self, cluster: &Uid) -> Option<Timestamp> {
        self.0.read().get(cluster).copied()
    }
}

pub fn channel() -> (Handle, Inputs) {
    let (agents, agents_in) = mpsc::channel(4096);
    let (notes, notes_in) = mpsc::channel(256);
    let beats = Beats::default();
    let handle = Handle { agents, notes, beats: beats.clone() };
    (handle, Inputs { agents: agents_in, notes: notes_in, beats })
}

/// Leads until `stop`, or until the store is closed or another process leads.
pub async fn run(
    store: Arc<dyn Store>,
    settings: Settings,
    inputs: Inputs,
    stop: CancellationToken,
) -> Result<(), Error> {
    let _ = (store, settings, inputs);
    stop.cancelled().await;
    Ok(())
}
