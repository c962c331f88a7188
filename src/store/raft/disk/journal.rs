//! The journal is read here before fjall reads it.
//!
//! Owns: the verdict that fjall's replay will find every write that was acknowledged, and the cut of a last write that was
//! not. fjall ends its replay at the first thing that it cannot read and cuts the file off there, without a word about
//! what follows. Must never: change anything where something acknowledged may be missing, or cut what may have been.
//!
//! Each batch of this store is fsynced before the next one begins. So only the very last one can be torn, by power
//! failure or by the end of the process, and what is torn was not acknowledged. Torn is what stops short, or has a
//! sector that was never written, which reads as zeros. Whatever else cannot be read is damage, and what follows it proves
//! that it is not the last. fjall's checksum covers the items of a batch; all else is held to what it must be: the
//! number of items, and sequence numbers that only rise.
//!
//! The layout is that of fjall 3 (format version 3), integers are little-endian:
//!
//! ```text
//! start  1u8 | items u32 | sequence u64
//! item   2u8 | type u8 | compression u8 | keyspace u64 | key u16 | value u32 | stored value u32 | key | stored value
//! end    3u8 | xxh3 of the items u64 | "FJL" 3u8
//! clear  4u8 | keyspace u64
//! ```

#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use bytes::Buf;

const SECTOR_BYTES: usize = 512;
/// Journals are allocated ahead, so most of a young one is zeros: they are read in pieces, and dropped.
const PIECE_BYTES: usize = 64 << 10;
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";
/// The highest bit marks what fjall would never write to a journal.
const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// Whoever closed the database may take a moment to let go of its lock; fjall is as patient.
const LOCK_ATTEMPTS: u32 = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Why fjall must not open the directory.
pub(super) enum Refusal {
    Locked,
    Damaged(Damage),
    Io(io::Error),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub journal: String,
    /// Where what cannot be read begins, in bytes.
    pub at: usize,
    /// Batches from there on, at least: acknowledged, and lost to a replay that ends there.
    pub lost: usize,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Sees to it that fjall will replay all that was acknowledged. Only the torn end of the newest journal is cut off.
pub(super) fn check(dir: &Path) -> Result<(), Refusal> {
    // Without a lock there is no database yet. With it, nobody writes while this reads.
    let Some(_lock) = lock(dir)? else { return Ok(()) };
    let journals = journals(dir)?;
    let mut sequence = None;
    for (n, journal) in journals.iter().enumerate() {
        let bytes = used(journal)?;
        match end(&bytes, &mut sequence) {
            End::Whole => {}
            End::Torn { at } if n + 1 == journals.len() => cut(journal, at)?,
            End::Torn { at } => return Err(damaged(journal, at, 1)),
            End::Damaged { at, lost } => return Err(damaged(journal, at, lost)),
        }
    }
    Ok(())
}

fn damaged(journal: &Path, at: usize, lost: usize) -> Refusal {
    let journal = journal.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Refusal::Damaged(Damage { journal, at, lost })
}

fn cut(journal: &Path, at: usize) -> io::Result<()> {
    tracing::warn!(journal = %journal.display(), at, "the last write was torn before it was acknowledged: cut off");
    let file = OpenOptions::new().write(true).open(journal)?;
    file.set_len(at as u64)?;
    file.sync_all()
}

fn lock(dir: &Path) -> Result<Option<File>, Refusal> {
    let file = match OpenOptions::new().read(true).write(true).open(dir.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(Refusal::Locked)
}

/// Oldest first.
pub(super) fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals: Vec<(u64, PathBuf)> = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl"));
        if let Some(id) = name.and_then(|id| id.parse().ok()) {
            journals.push((id, path));
        }
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// A journal without the zeros after its last byte.
pub(super) fn used(journal: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(journal)?;
    let (mut used, mut zeros) = (Vec::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = match file.read(&mut piece) {
            Ok(0) => return Ok(used),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => &piece[..read?],
        };
        // The comparison of slices is as fast as memory is, which a search for the last byte is not.
        if *read == ZEROS[..read.len()] {
            zeros += read.len();
            continue;
        }
        let last = read.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        used.resize(used.len() + zeros, 0);
        used.extend_from_slice(&read[..last]);
        zeros = read.len() - last;
    }
}

static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// How a journal ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Whole,
    /// From here on there is a batch that was never acknowledged.
    Torn {
        at: usize,
    },
    /// Here is something that cannot be read, though it was written; so many batches would be lost with it.
    Damaged {
        at: usize,
        lost: usize,
    },
}

/// The verdict on what [`used`] read. `sequence` is the number of the last batch before, and of the last one in it after.
pub(super) fn end(journal: &[u8], sequence: &mut Option<u64>) -> End {
    let mut at = 0;
    while at < journal.len() {
        let torn = match Batch::read(&journal[at..]) {
            Ok(batch) if sequence.is_none_or(|last| last < batch.sequence) => {
                *sequence = Some(batch.sequence);
                at += batch.length;
                continue;
            }
            Ok(_) => false,
            Err(unreadable) => torn(journal, at, unreadable),
        };
        let follow = batches_within(&journal[at + 1..]);
        return if torn && follow == 0 { End::Torn { at } } else { End::Damaged { at, lost: 1 + follow } };
    }
    End::Whole
}

/// Wherever they begin: the length of the one before them cannot be trusted.
fn batches_within(bytes: &[u8]) -> usize {
    let (mut found, mut at) = (0, 0);
    while at < bytes.len() {
        match Batch::read(&bytes[at..]) {
            Ok(batch) => {
                found += 1;
                at += batch.length;
            }
            Err(_) => at += 1,
        }
    }
    found
}

/// Whether what cannot be read was never written to its end. A bit that flips in a batch that was leaves it all its sectors
/// and its trailer.
fn torn(journal: &[u8], start: usize, unreadable: Unreadable) -> bool {
    let batch = &journal[start..];
    let (first, rest) = batch.split_at((start.next_multiple_of(SECTOR_BYTES) - start).min(batch.len()));
    let unwritten = match first {
        // One byte of a sector is a start that was not written or that flipped: then all the rest is there.
        [0] => Batch::read(&[&[START], rest].concat()).is_err(),
        first => !first.is_empty() && is_zero(first),
    };
    unwritten
        || rest.chunks(SECTOR_BYTES).any(is_zero)
        || unreadable == Unreadable::CutShort && !batch.ends_with(TRAILER)
}

fn is_zero(sector: &[u8]) -> bool {
    sector.iter().all(|byte| *byte == 0)
}

struct Batch {
    length: usize,
    sequence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    /// More should follow.
    CutShort,
    Wrong,
}

impl Batch {
    /// The batch from its start to its end, if that is what these bytes begin with.
    fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        if reader.u8()? != START {
            return Err(Unreadable::Wrong);
        }
        let count = reader.take(4)?.get_u32_le();
        let sequence = reader.take(8)?.get_u64_le();
        let items = reader.0;
        let mut found = 0;
        loop {
            let checked = &items[..items.len() - reader.0.len()];
            match reader.u8()? {
                ITEM => {
                    reader.take(1 + 1 + 8)?;
                    let key = reader.take(2)?.get_u16_le() as usize;
                    reader.take(4)?;
                    let value = reader.take(4)?.get_u32_le() as usize;
                    reader.take(key + value)?;
                    found += 1;
                }
                CLEAR => {
                    reader.take(8)?;
                    found += 1;
                }
                END => {
                    let checksum = reader.take(8)?.get_u64_le();
                    let trailer = reader.take(TRAILER.len())?;
                    let sound = found == count
                        && sequence <= SEQUENCE_MAX
                        && checksum == xxhash_rust::xxh3::xxh3_64(checked)
                        && trailer == TRAILER;
                    let length = bytes.len() - reader.0.len();
                    return if sound { Ok(Self { length, sequence }) } else { Err(Unreadable::Wrong) };
                }
                _ => return Err(Unreadable::Wrong),
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Unreadable::CutShort)?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Unreadable> {
        self.take(1).map(|byte| byte[0])
    }
}
