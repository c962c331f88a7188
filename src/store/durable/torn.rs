//! The end of the journal after power failed in the middle of an fsync.
//!
//! Owns: the one repair that fjall leaves to others. It drops a last batch that is cut off, but refuses to open where a
//! sector *inside* of it never reached the disk, although such a batch was never acknowledged either. Must never: cut what
//! may have been acknowledged. Each batch of this store is fsynced before the next one begins, so only the very last one
//! can be torn; and a sector that was never written reads as zeros. What does not look like that is damage, and stays.
//!
//! The layout is that of fjall 3 (format version 3), integers are little-endian:
//!
//! ```text
//! start  1u8 | items u32 | sequence u64
//! item   2u8 | type u8 | compression u8 | keyspace u64 | key u16 | value u32 | stored value u32 | key | stored value
//! end    3u8 | xxh3 of the items u64 | "FJL" 3u8
//! clear  4u8 | keyspace u64
//! ```

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use bytes::Buf;

const SECTOR_BYTES: usize = 512;
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// Cuts a torn last batch off the journal. True: there was one, so opening is worth another try.
pub(super) fn cut(dir: &Path) -> io::Result<bool> {
    let Some(journal) = newest_journal(dir)? else { return Ok(false) };
    let Some(start) = torn_tail(&fs::read(&journal)?) else { return Ok(false) };
    tracing::warn!(journal = %journal.display(), start, "power failed during a write that was not acknowledged: cut off");
    let file = OpenOptions::new().write(true).open(&journal)?;
    file.set_len(start as u64)?;
    file.sync_all()?;
    Ok(true)
}

pub(super) fn newest_journal(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl"));
        if let Some(id) = name.and_then(|id| id.parse().ok())
            && newest.as_ref().is_none_or(|(newest, _)| *newest < id)
        {
            newest = Some((id, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the last batch begins, if it is torn and nothing follows it.
pub(super) fn torn_tail(journal: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let batch = Batch::read(&journal[start..])?;
        let end = start + batch.length;
        if batch.whole {
            start = end;
            continue;
        }
        let last = journal[end..].iter().all(|byte| *byte == 0);
        let mut sectors = (start.next_multiple_of(SECTOR_BYTES)..end).step_by(SECTOR_BYTES);
        let unwritten =
            sectors.any(|at| at + SECTOR_BYTES <= end && journal[at..at + SECTOR_BYTES] == [0; SECTOR_BYTES]);
        return (last && unwritten).then_some(start);
    }
}

struct Batch {
    length: usize,
    /// Its items have the checksum that it ends with.
    whole: bool,
}

impl Batch {
    /// `None` where there is no batch from start to end: fjall drops such a tail by itself.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if rest.try_get_u8().ok()? != START {
            return None;
        }
        skip(&mut rest, 4 + 8)?;
        let items = rest;
        loop {
            let checked = items.len() - rest.len();
            match rest.try_get_u8().ok()? {
                ITEM => {
                    skip(&mut rest, 1 + 1 + 8)?;
                    let key = rest.try_get_u16_le().ok()? as usize;
                    skip(&mut rest, 4)?;
                    let value = rest.try_get_u32_le().ok()? as usize;
                    skip(&mut rest, key + value)?;
                }
                CLEAR => skip(&mut rest, 8)?,
                END => {
                    let whole = rest.try_get_u64_le().ok()? == xxhash_rust::xxh3::xxh3_64(&items[..checked]);
                    rest = rest.strip_prefix(TRAILER)?;
                    return Some(Self { length: bytes.len() - rest.len(), whole });
                }
                _ => return None,
            }
        }
    }
}

fn skip(rest: &mut &[u8], count: usize) -> Option<()> {
    *rest = rest.get(count..)?;
    Some(())
}
