//! Blobs: immutable bytes under the digest of what they hold, shared by whoever lists that digest.
//!
//! Owns: how a blob lies in the store, and when one that nobody lists is swept. A blob that does not fit one transaction
//! is written as pieces first and its head last, so a head that can be read is complete. Must never: hand out bytes that
//! do not have the digest, or sweep what is listed or was written within the grace.
//!
//! ```text
//! /hanse/blob/<digest>         0 | the bytes            or   1 | number of pieces, u32 | length, u64
//! /hanse/blob/<digest>/<n>     a piece, n in eight digits
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Compare, Error, Key, List, OPERATIONS_MAX, Operation, Outcome, Revision, Store, Transaction};
use crate::model::Digest;

/// Pieces larger than this would leave no room for keys in a transaction.
const PIECE_BYTES_MAX: usize = 768 << 10;
/// Larger ones are pieces even alone, so that renewing the head of a blob that is there stays cheap.
const INLINE_BYTES_MAX: usize = 16 << 10;
pub const BLOB_BYTES_MAX: usize = 64 << 20;
const WHOLE: u8 = 0;
const PIECES: u8 = 1;
const PREFIX: &str = "/hanse/blob/";

#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("blob {0} does not have that digest")]
    Digest(Digest),
    #[error("blob {0} is not stored as blobs are")]
    Malformed(Digest),
    #[error("a blob of {0} bytes is over the limit of {BLOB_BYTES_MAX}")]
    TooLarge(usize),
    #[error("whether blob {0} was written is unknown")]
    Unknown(Digest),
    #[error(transparent)]
    Store(#[from] Error),
}

/// The transactions that store a blob, to be committed in order. Repeating them changes nothing that can be read.
pub fn transactions(digest: &Digest, bytes: &Bytes) -> Result<Vec<Transaction>, Invalid> {
    if Digest::of(bytes) != *digest {
        return Err(Invalid::Digest(*digest));
    }
    if bytes.len() > BLOB_BYTES_MAX {
        return Err(Invalid::TooLarge(bytes.len()));
    }
    let mut head = BytesMut::new();
    if bytes.len() <= INLINE_BYTES_MAX {
        head.put_u8(WHOLE);
        head.put_slice(bytes);
        return Ok(vec![Transaction::put(Key::blob(digest), head.freeze())]);
    }
    let mut transactions = Vec::new();
    for (n, start) in (0..bytes.len()).step_by(PIECE_BYTES_MAX).enumerate() {
        let end = bytes.len().min(start + PIECE_BYTES_MAX);
        transactions.push(Transaction::put(piece(digest, n as u32), bytes.slice(start..end)));
    }
    head.put_u8(PIECES);
    head.put_u32(transactions.len() as u32);
    head.put_u64(bytes.len() as u64);
    transactions.push(Transaction::put(Key::blob(digest), head.freeze()));
    Ok(transactions)
}

/// Stores a blob, or renews the one that is there: either way it is safe from the sweep for the length of the grace,
/// which is the time to list it. Idempotent.
pub async fn put(store: &dyn Store, digest: &Digest, bytes: &Bytes) -> Result<(), Invalid> {
    let mut transactions = transactions(digest, bytes)?;
    let key = Key::blob(digest);
    let head = store.get(&key).await?;
    if let (Some(head), Some(last)) = (head, transactions.last_mut())
        && last.operations == [Operation::Put(key.clone(), head.value)]
    {
        last.compares = vec![Compare::Modified(key, head.modified)];
        if let Outcome::Committed(_) = store.commit(last.clone()).await? {
            return Ok(());
        }
        // Swept or renewed by another meanwhile.
        last.compares = vec![];
    }
    for transaction in transactions {
        match store.commit(transaction).await? {
            Outcome::Committed(_) => {}
            Outcome::Conflict(_) | Outcome::Unknown => return Err(Invalid::Unknown(*digest)),
        }
    }
    Ok(())
}

/// The bytes of a blob, verified; `None` where it is not there (yet, or any more).
pub async fn get(store: &dyn Store, digest: &Digest) -> Result<Option<Bytes>, Invalid> {
    // One listing sees head and pieces as of one revision, so a sweep cannot get in between.
    let list = List { prefix: Key::blob(digest).to_string(), after: None, limit: 0, at: None };
    let entries = store.list(list).await?.entries;
    let Some(head) = entries.first().filter(|head| head.key == Key::blob(digest)) else { return Ok(None) };
    let pieces: Vec<Bytes> = entries[1..].iter().map(|entry| entry.value.clone()).collect();
    let bytes = joined(&head.value, &pieces).ok_or(Invalid::Malformed(*digest))?;
    if Digest::of(&bytes) != *digest {
        return Err(Invalid::Digest(*digest));
    }
    Ok(Some(bytes))
}

/// Head and pieces (in order) → content, not verified. Pieces beyond the number that the head says are left from an
/// attempt that was cut into other pieces.
pub fn joined(head: &Bytes, pieces: &[Bytes]) -> Option<Bytes> {
    match head.split_first()? {
        (&WHOLE, _) => Some(head.slice(1..)),
        (&PIECES, mut rest) => {
            let count = rest.try_get_u32().ok()? as usize;
            let length = rest.try_get_u64().ok()? as usize;
            let pieces = pieces.get(..count)?;
            let present: usize = pieces.iter().map(Bytes::len).sum();
            (present == length).then(|| pieces.concat().into())
        }
        _ => None,
    }
}

/// A blob as the sweep sees it: all of its keys and when each was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub digest: Digest,
    pub keys: Vec<(Key, Revision)>,
}

/// All blobs, whole ones and those whose head is missing.
pub async fn find(store: &dyn Store) -> Result<Vec<Found>, Error> {
    let list = List { prefix: PREFIX.into(), after: None, limit: 0, at: None };
    let mut found: BTreeMap<Digest, Vec<(Key, Revision)>> = BTreeMap::new();
    for entry in store.list(list).await?.entries {
        if let Some(digest) = digest_in(&entry.key) {
            found.entry(digest).or_default().push((entry.key, entry.modified));
        }
    }
    Ok(found.into_iter().map(|(digest, keys)| Found { digest, keys }).collect())
}

/// The digest that a blob's key, or the key of one of its pieces, speaks of; `None` for all other keys.
pub fn digest_in(key: &Key) -> Option<Digest> {
    key.as_str().strip_prefix(PREFIX)?.get(..64)?.parse().ok()
}

/// Remembers since when which blobs are listed by nobody. Forgetting it (a restart) only makes them live longer.
#[derive(Debug, Default)]
pub struct Sweeper {
    unlisted: BTreeMap<Digest, Unlisted>,
}

#[derive(Debug)]
struct Unlisted {
    since_ms: u64,
    keys: Vec<(Key, Revision)>,
}

impl Sweeper {
    /// What to delete now: blobs that were found in every step for the length of the grace, unchanged and not listed. The
    /// transactions compare that they are unchanged still; a conflict needs no answer, the next step sees why. They
    /// leave room for one compare more, by which a controller says that it is the leader.
    pub fn step(
        &mut self,
        now_ms: u64,
        grace_ms: u64,
        found: Vec<Found>,
        listed: &BTreeSet<Digest>,
    ) -> Vec<Transaction> {
        let mut before = std::mem::take(&mut self.unlisted);
        for Found { digest, keys } in found {
            if listed.contains(&digest) {
                continue;
            }
            let since_ms = match before.remove(&digest) {
                Some(known) if known.keys == keys => known.since_ms,
                _ => now_ms,
            };
            self.unlisted.insert(digest, Unlisted { since_ms, keys });
        }
        let due = self.unlisted.values().filter(|blob| now_ms.saturating_sub(blob.since_ms) >= grace_ms);
        deletions(due.map(|blob| blob.keys.as_slice()))
    }
}

/// Several blobs share a transaction, but no blob is spread over two: a head whose pieces are gone would be a lie.
fn deletions<'a>(blobs: impl Iterator<Item = &'a [(Key, Revision)]>) -> Vec<Transaction> {
    let mut transactions: Vec<Transaction> = Vec::new();
    for keys in blobs {
        if transactions.last().is_none_or(|last| last.operations.len() + keys.len() >= OPERATIONS_MAX) {
            transactions.push(Transaction::default());
        }
        let Some(last) = transactions.last_mut() else { continue };
        for (key, revision) in keys {
            last.compares.push(Compare::Modified(key.clone(), *revision));
            last.operations.push(Operation::Delete(key.clone()));
        }
    }
    transactions
}

fn piece(digest: &Digest, n: u32) -> Key {
    Key::new(format!("{}/{n:08}", Key::blob(digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory;

    fn blob(length: usize) -> (Digest, Bytes) {
        let bytes: Bytes = (0..length).map(|n| (n * 31 % 251) as u8).collect();
        (Digest::of(&bytes), bytes)
    }

    async fn sweep(store: &dyn Store, sweeper: &mut Sweeper, now_ms: u64, listed: &[Digest]) {
        let found = find(store).await.unwrap();
        for transaction in sweeper.step(now_ms, 10, found, &listed.iter().copied().collect()) {
            transaction.check().unwrap();
            store.commit(transaction).await.unwrap();
        }
    }

    #[tokio::test]
    async fn blobs_of_any_size_come_back() {
        let store = memory::open();
        for length in [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, PIECE_BYTES_MAX, 2 * PIECE_BYTES_MAX + 1] {
            let (digest, bytes) = blob(length);
            assert_eq!(get(&*store, &digest).await.unwrap(), None);
            put(&*store, &digest, &bytes).await.unwrap();
            put(&*store, &digest, &bytes).await.unwrap();
            assert_eq!(get(&*store, &digest).await.unwrap(), Some(bytes), "{length} bytes");
        }
    }

    #[tokio::test]
    async fn wrong_bytes_are_neither_stored_nor_handed_out() {
        let store = memory::open();
        let (digest, bytes) = blob(2 * PIECE_BYTES_MAX);
        assert!(matches!(put(&*store, &digest, &bytes.slice(1..)).await, Err(Invalid::Digest(_))));
        put(&*store, &digest, &bytes).await.unwrap();
        let damaged: Bytes = vec![0; PIECE_BYTES_MAX].into();
        store.commit(Transaction::put(piece(&digest, 1), damaged)).await.unwrap();
        assert!(matches!(get(&*store, &digest).await, Err(Invalid::Digest(_))));
        let gone = Transaction { compares: vec![], operations: vec![Operation::Delete(piece(&digest, 1))] };
        store.commit(gone).await.unwrap();
        assert!(matches!(get(&*store, &digest).await, Err(Invalid::Malformed(_))));
    }

    #[tokio::test]
    async fn a_blob_is_absent_until_its_head_is_written() {
        let store = memory::open();
        let (digest, bytes) = blob(2 * PIECE_BYTES_MAX);
        for transaction in transactions(&digest, &bytes).unwrap() {
            assert_eq!(get(&*store, &digest).await.unwrap(), None);
            store.commit(transaction).await.unwrap();
        }
        assert_eq!(get(&*store, &digest).await.unwrap(), Some(bytes));
    }

    #[tokio::test]
    async fn only_what_nobody_lists_for_the_whole_grace_is_swept() {
        let (store, mut sweeper) = (memory::open(), Sweeper::default());
        let (kept, dropped) = (blob(20), blob(3 * PIECE_BYTES_MAX));
        for (digest, bytes) in [&kept, &dropped] {
            put(&*store, digest, bytes).await.unwrap();
        }
        sweep(&*store, &mut sweeper, 0, &[kept.0]).await;
        sweep(&*store, &mut sweeper, 9, &[kept.0]).await;
        assert!(get(&*store, &dropped.0).await.unwrap().is_some(), "within the grace");
        sweep(&*store, &mut sweeper, 10, &[kept.0]).await;
        let digests: Vec<Digest> = find(&*store).await.unwrap().into_iter().map(|found| found.digest).collect();
        assert_eq!(digests, [kept.0], "pieces are gone with their head");
    }

    #[tokio::test]
    async fn being_listed_or_renewed_starts_the_grace_anew() {
        let (store, mut sweeper) = (memory::open(), Sweeper::default());
        let (digest, bytes) = blob(20);
        put(&*store, &digest, &bytes).await.unwrap();
        sweep(&*store, &mut sweeper, 0, &[]).await;
        sweep(&*store, &mut sweeper, 8, &[digest]).await;
        sweep(&*store, &mut sweeper, 12, &[]).await;
        put(&*store, &digest, &bytes).await.unwrap();
        sweep(&*store, &mut sweeper, 23, &[]).await;
        assert!(get(&*store, &digest).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_blob_renewed_while_the_sweep_runs_stays() {
        let (store, mut sweeper) = (memory::open(), Sweeper::default());
        for length in [20, 2 * PIECE_BYTES_MAX] {
            let (digest, bytes) = blob(length);
            put(&*store, &digest, &bytes).await.unwrap();
            sweeper.step(0, 10, find(&*store).await.unwrap(), &BTreeSet::new());
            let decided = sweeper.step(10, 10, find(&*store).await.unwrap(), &BTreeSet::new());
            put(&*store, &digest, &bytes).await.unwrap();
            for transaction in decided {
                assert!(matches!(store.commit(transaction).await.unwrap(), Outcome::Conflict(_)));
            }
            assert_eq!(get(&*store, &digest).await.unwrap(), Some(bytes));
        }
    }

    #[test]
    fn sweeps_fit_a_transaction_with_room_for_the_leader() {
        let blobs: Vec<Vec<(Key, Revision)>> =
            (0..40).map(|blob| (0..blob % 7 + 1).map(|n| (Key::new(format!("/{blob}/{n}")), 1)).collect()).collect();
        let transactions = deletions(blobs.iter().map(Vec::as_slice));
        assert!(transactions.iter().all(|transaction| transaction.compares.len() < OPERATIONS_MAX));
        let deleted: usize = transactions.iter().map(|transaction| transaction.operations.len()).sum();
        assert_eq!(deleted, blobs.iter().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn the_largest_blob_is_deleted_in_one_transaction() {
        assert!(BLOB_BYTES_MAX.div_ceil(PIECE_BYTES_MAX) + 1 < OPERATIONS_MAX);
    }
}
