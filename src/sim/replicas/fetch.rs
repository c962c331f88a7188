//! A replica fetches a snapshot from another, piece by piece.
//!
//! A piece that does not come is asked for again, from where the last one ended; who asks in vain too often gives up.

use super::{Happening, World, plant::Plant};
use crate::store::{
    Entry, Key, List,
    raft::{ReplicaId, SnapshotId, core::Event},
};

#[derive(Debug, Clone)]
pub struct Fetching {
    from: ReplicaId,
    snapshot: SnapshotId,
    rows: Vec<Entry>,
    number: u64,
    failures: u32,
}

/// So many rows go over at once.
const ROWS_MAX: usize = 2;
const PATIENCE_US: u64 = 60_000;
const FAILURES_MAX: u32 = 4;

/// A piece; nothing where the sender's history is gone.
pub type Piece = Option<(Vec<Entry>, bool)>;

impl World {
    pub(super) fn fetch(&mut self, id: ReplicaId, from: ReplicaId, snapshot: SnapshotId) {
        self.trace.line(self.now_us, format_args!("{id} fetches {} from {from}", snapshot.index));
        let Some(node) = self.node(id) else { return };
        node.fetching = Some(Fetching { from, snapshot, rows: Vec::new(), number: 0, failures: 0 });
        self.ask_for_piece(id);
    }

    fn ask_for_piece(&mut self, id: ReplicaId) {
        self.sequence += 1;
        let number = self.sequence;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(fetching) = &mut node.fetching else { return };
        fetching.number = number;
        let after = fetching.rows.last().map(|row| row.key.clone());
        let (to, snapshot) = (fetching.from, fetching.snapshot.clone());
        if let Some(delay_us) = self.network.travel_us(&mut self.chance, id, to) {
            self.after(delay_us, Happening::AskPiece { id, life, to, number, snapshot, after });
        }
        self.after(PATIENCE_US, Happening::PieceLate { id, life, number });
    }

    pub(super) fn serve_piece(
        &mut self,
        (id, life): (ReplicaId, u64),
        to: ReplicaId,
        number: u64,
        snapshot: &SnapshotId,
        after: Option<Key>,
    ) {
        let last_left_out = self.settings.plant == Some(Plant::SnapshotLacksRow);
        let Some(node) = self.nodes.get(&to).filter(|node| node.is_running()) else { return };
        let Some(core) = &node.core else { return };
        let list = List { prefix: String::new(), after, limit: ROWS_MAX, at: Some(snapshot.revision) };
        let mut piece = core.state().read().list(&list).ok().map(|page| (page.entries, page.remaining > 0));
        if let Some((rows, more)) = &mut piece {
            if last_left_out && !*more {
                rows.pop();
            }
            if self.chance.happens(self.weather.mangled_permille)
                && let Some(row) = rows.first_mut()
            {
                row.value = "mangled".into();
            }
        }
        if let Some(delay_us) = self.network.travel_us(&mut self.chance, to, id) {
            self.after(delay_us, Happening::Piece { id, life, number, piece });
        }
    }

    pub(super) fn piece(&mut self, id: ReplicaId, life: u64, number: u64, piece: Piece) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        let Some(fetching) = node.fetching.as_mut().filter(|fetching| fetching.number == number) else { return };
        match piece {
            Some((rows, more)) => {
                fetching.failures = 0;
                fetching.rows.extend(rows);
                if more {
                    return self.ask_for_piece(id);
                }
                if let Some(Fetching { snapshot, rows, .. }) = node.fetching.take() {
                    self.tell(id, Event::Fetched { snapshot, rows });
                }
            }
            None => self.give_up_fetching(id),
        }
    }

    pub(super) fn piece_late(&mut self, id: ReplicaId, life: u64, number: u64) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return };
        let Some(fetching) = node.fetching.as_mut().filter(|fetching| fetching.number == number) else { return };
        fetching.failures += 1;
        if fetching.failures > FAILURES_MAX { self.give_up_fetching(id) } else { self.ask_for_piece(id) }
    }

    fn give_up_fetching(&mut self, id: ReplicaId) {
        if let Some(Fetching { snapshot, .. }) = self.node(id).and_then(|node| node.fetching.take()) {
            self.tell(id, Event::FetchFailed(snapshot));
        }
    }
}
