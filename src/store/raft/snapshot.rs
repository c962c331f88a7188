//! Snapshots on their way from replica to replica: rows in pieces, each with its checksum, and where to go on.
//!
//! Owns: the bytes of a piece and the fetching of all of them. A fetch that breaks off goes on after the last row that
//! arrived. Must never: hand on rows that do not check out.
//!
//! ```text
//! piece  rows { key length u16, key, created u64, modified u64, value length u32, value }, crc32 of all before, u32
//! ```

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes};

use super::{Chunk, Peers, Refusal, ReplicaId, SnapshotId};
use crate::store::{Entry, Error, Key, List, mvcc::Mvcc};

/// One piece is about as large; a row is never cut.
const PIECE_BYTES: usize = 1 << 20;
const PIECE_ROWS_MAX: usize = 4096;
const CHECKSUM_BYTES: usize = 4;
/// How often in a row, and with which pause, a sender that cannot be reached is tried again.
const ATTEMPTS_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// The rows of a snapshot after a key, as far as one piece goes.
pub(super) fn piece(state: &Mvcc, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal> {
    let list =
        List { prefix: String::new(), after: after.cloned(), limit: PIECE_ROWS_MAX, at: Some(snapshot.revision) };
    let page = state.list(&list).map_err(|error| match error {
        Error::Compacted(_) | Error::Future { .. } => Refusal::SnapshotGone,
        other => other.into(),
    })?;
    let mut rows = Vec::new();
    let mut next = None;
    let mut left = page.entries.len() as u64 + page.remaining;
    for entry in &page.entries {
        put_row(&mut rows, entry);
        left -= 1;
        next = (left > 0).then(|| entry.key.clone());
        if rows.len() >= PIECE_BYTES {
            break;
        }
    }
    rows.put_u32(crc32fast::hash(&rows));
    Ok(Chunk { rows: rows.into(), next })
}

/// All rows of a snapshot. Gives up when the sender no longer has it, or stays away for long.
pub(super) async fn fetch(peers: Arc<dyn Peers>, from: ReplicaId, snapshot: SnapshotId) -> Result<Vec<Entry>, Refusal> {
    let mut rows = Vec::new();
    let mut after: Option<Key> = None;
    let mut failures = 0;
    loop {
        let chunk = match peers.fetch(from, &snapshot, after.as_ref()).await {
            Ok(chunk) => chunk,
            Err(refusal @ Refusal::Unreachable { .. }) => {
                failures += 1;
                if failures > ATTEMPTS_MAX {
                    return Err(refusal);
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(refusal) => return Err(refusal),
        };
        failures = 0;
        rows.extend(read_rows(chunk.rows)?);
        match chunk.next {
            // Anything else would begin again for ever.
            Some(next) if after.as_ref().is_none_or(|after| next > *after) => after = Some(next),
            Some(_) => return Err(malformed()),
            None => return Ok(rows),
        }
    }
}

fn malformed() -> Refusal {
    Error::Malformed("a piece of a snapshot is damaged".into()).into()
}

fn put_row(out: &mut Vec<u8>, entry: &Entry) {
    out.put_u16(entry.key.as_str().len() as u16);
    out.put_slice(entry.key.as_str().as_bytes());
    out.put_u64(entry.created);
    out.put_u64(entry.modified);
    out.put_u32(entry.value.len() as u32);
    out.put_slice(&entry.value);
}

fn read_rows(mut bytes: Bytes) -> Result<Vec<Entry>, Refusal> {
    let body = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or_else(malformed)?;
    let mut sum = bytes.split_off(body);
    if sum.get_u32() != crc32fast::hash(&bytes) {
        return Err(malformed());
    }
    let mut rows = Vec::new();
    while bytes.has_remaining() {
        rows.push(read_row(&mut bytes).ok_or_else(malformed)?);
    }
    Ok(rows)
}

/// Copies the value out: a slice would keep a whole piece in memory for as long as any of its rows lives.
fn read_row(bytes: &mut Bytes) -> Option<Entry> {
    let length = bytes.try_get_u16().ok()? as usize;
    let key = take(bytes, length)?;
    let (created, modified) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
    let length = bytes.try_get_u32().ok()? as usize;
    let value = Bytes::copy_from_slice(&take(bytes, length)?);
    Some(Entry { key: Key::new(std::str::from_utf8(&key).ok()?), value, created, modified })
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Uid,
        store::{Operation, Transaction},
    };

    fn state(rows: usize, value_bytes: usize) -> Mvcc {
        let mut state = Mvcc::default();
        for n in 0..rows {
            let put = Operation::Put(Key::new(format!("/{n:05}")), vec![n as u8; value_bytes].into());
            state.commit(Transaction { compares: vec![], operations: vec![put] }).expect("committed");
        }
        state
    }

    fn id(state: &Mvcc) -> SnapshotId {
        SnapshotId { incarnation: Uid::from("i"), index: 1, term: 1, revision: state.revision(), hash: state.hash() }
    }

    #[test]
    fn pieces_hold_every_row_once_though_the_state_goes_on() {
        for (rows, value_bytes) in [(0, 0), (1, 0), (100, 50_000), (PIECE_ROWS_MAX, 1), (PIECE_ROWS_MAX + 1, 1)] {
            let mut state = state(rows, value_bytes);
            let snapshot = id(&state);
            let expected: Vec<_> = state.entries().collect();
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let chunk = piece(&state, &snapshot, after.as_ref()).expect("a piece");
                assert!(chunk.rows.len() < PIECE_BYTES + value_bytes + 100);
                found.extend(read_rows(chunk.rows).expect("rows"));
                state.commit(Transaction::put(Key::new("/00000"), "later".into())).expect("committed");
                after = chunk.next;
                if after.is_none() {
                    break;
                }
            }
            assert!(found == expected, "{rows} rows of {value_bytes} bytes");
        }
    }

    #[test]
    fn a_snapshot_whose_history_is_gone_is_refused() {
        let mut state = state(10, 1);
        let snapshot = id(&state);
        state.commit(Transaction::put(Key::new("/x"), "".into())).expect("committed");
        state.compact(11).expect("compacted");
        assert_eq!(piece(&state, &snapshot, None), Err(Refusal::SnapshotGone));
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let state = state(3, 5);
        let whole = piece(&state, &id(&state), None).expect("a piece").rows;
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << (at % 8);
            assert!(read_rows(flipped.into()).is_err(), "byte {at}");
            assert!(read_rows(whole.slice(..at)).is_err(), "cut at {at}");
        }
    }
}
