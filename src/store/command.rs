//! The commands that replicas agree on, and their bytes.
//!
//! Owns: the encoded form, which logs and, later, consensus messages carry. Must never: panic or allocate more than it
//! was given, whatever the bytes; accept bytes whose checksum does not fit; guess at a version it does not know.
//!
//! ```text
//! version u8 = 1 | kind u8 | body | crc32 of all before, u32
//! commit   compares u32 { tag u8, key, [revision u64] } operations u32 { tag u8, key, [value] }
//! compact  revision u64
//! key      length u16, UTF-8        value    length u32, bytes        integers are big-endian
//! ```

use bytes::{BufMut, Bytes};

use super::{Compare, Key, Operation, Revision, Transaction};

const VERSION: u8 = 1;
const COMMIT: u8 = 1;
const COMPACT: u8 = 2;
const MODIFIED: u8 = 1;
const ABSENT: u8 = 2;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const CHECKSUM_BYTES: usize = 4;

/// What changes the state: the same commands in the same order give the same state everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Commit(Transaction),
    /// Forget what was before this revision.
    Compact(Revision),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("a command does not match its checksum")]
    Checksum,
    #[error("a command of version {0} is newer than this binary, which knows version {VERSION}")]
    Newer(u8),
    #[error("a command is malformed: {0}")]
    Malformed(&'static str),
}

impl Command {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Commit(transaction) => {
                out.put_u8(COMMIT);
                out.put_u32(transaction.compares.len() as u32);
                transaction.compares.iter().for_each(|compare| put_compare(&mut out, compare));
                out.put_u32(transaction.operations.len() as u32);
                transaction.operations.iter().for_each(|operation| put_operation(&mut out, operation));
            }
            Self::Compact(revision) => {
                out.put_u8(COMPACT);
                out.put_u64(*revision);
            }
        }
        out.put_u32(crc32fast::hash(&out));
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let split = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(Invalid::Malformed("too short"))?;
        let (body, checksum) = bytes.split_at(split);
        if crc32fast::hash(body).to_be_bytes() != checksum {
            return Err(Invalid::Checksum);
        }
        let mut reader = Reader(body);
        match reader.u8()? {
            VERSION => {}
            newer if newer > VERSION => return Err(Invalid::Newer(newer)),
            _ => return Err(Invalid::Malformed("unknown version")),
        }
        let command = match reader.u8()? {
            COMMIT => Self::Commit(Transaction {
                compares: reader.sequence(Reader::compare)?,
                operations: reader.sequence(Reader::operation)?,
            }),
            COMPACT => Self::Compact(reader.u64()?),
            _ => return Err(Invalid::Malformed("unknown kind")),
        };
        if reader.0.is_empty() { Ok(command) } else { Err(Invalid::Malformed("trailing bytes")) }
    }
}

fn put_compare(out: &mut Vec<u8>, compare: &Compare) {
    match compare {
        Compare::Modified(key, revision) => {
            out.put_u8(MODIFIED);
            put_key(out, key);
            out.put_u64(*revision);
        }
        Compare::Absent(key) => {
            out.put_u8(ABSENT);
            put_key(out, key);
        }
    }
}

fn put_operation(out: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Put(key, value) => {
            out.put_u8(PUT);
            put_key(out, key);
            out.put_u32(value.len() as u32);
            out.put_slice(value);
        }
        Operation::Delete(key) => {
            out.put_u8(DELETE);
            put_key(out, key);
        }
    }
}

/// The lengths fit: [`Transaction::check`] comes before any encoding.
fn put_key(out: &mut Vec<u8>, key: &Key) {
    out.put_u16(key.as_str().len() as u16);
    out.put_slice(key.as_str().as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Invalid> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Invalid::Malformed("cut short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Invalid::Malformed("cut short"))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Invalid> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, Invalid> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Invalid> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Invalid> {
        self.array().map(u64::from_be_bytes)
    }

    /// Collects without reserving for the length it read: that length may be a lie.
    fn sequence<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
        let count = self.u32()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn key(&mut self) -> Result<Key, Invalid> {
        let length = self.u16()? as usize;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| Invalid::Malformed("a key is not UTF-8"))?;
        Ok(Key::new(text))
    }

    fn compare(&mut self) -> Result<Compare, Invalid> {
        match self.u8()? {
            MODIFIED => Ok(Compare::Modified(self.key()?, self.u64()?)),
            ABSENT => Ok(Compare::Absent(self.key()?)),
            _ => Err(Invalid::Malformed("unknown compare")),
        }
    }

    /// Values are copied out: a slice would keep the whole command alive for as long as one small value lives.
    fn operation(&mut self) -> Result<Operation, Invalid> {
        match self.u8()? {
            PUT => {
                let key = self.key()?;
                let length = self.u32()? as usize;
                Ok(Operation::Put(key, Bytes::copy_from_slice(self.take(length)?)))
            }
            DELETE => Ok(Operation::Delete(self.key()?)),
            _ => Err(Invalid::Malformed("unknown operation")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        "[a-zé/]{1,12}".prop_map(Key::new)
    }

    fn command() -> impl Strategy<Value = Command> {
        let compare = prop_oneof![
            (key(), any::<u64>()).prop_map(|(key, revision)| Compare::Modified(key, revision)),
            key().prop_map(Compare::Absent)
        ];
        let operation = prop_oneof![
            (key(), any::<Vec<u8>>()).prop_map(|(key, value)| Operation::Put(key, value.into())),
            key().prop_map(Operation::Delete)
        ];
        let transaction = (prop::collection::vec(compare, 0..4), prop::collection::vec(operation, 0..4))
            .prop_map(|(compares, operations)| Command::Commit(Transaction { compares, operations }));
        prop_oneof![transaction, any::<u64>().prop_map(Command::Compact)]
    }

    proptest! {
        #[test]
        fn a_command_survives_its_bytes(command in command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn a_flipped_bit_is_noticed(command in command(), bit in any::<prop::sample::Index>()) {
            let mut bytes = command.encode();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Command::decode(&bytes).is_err());
        }

        /// A valid checksum over garbage: what a hostile or broken writer could produce.
        #[test]
        fn garbage_is_rejected_without_a_panic(mut body in prop::collection::vec(0u8..4, 0..64)) {
            let checksum = crc32fast::hash(&body);
            body.put_u32(checksum);
            if let Ok(command) = Command::decode(&body) {
                prop_assert_eq!(command.encode(), body);
            }
        }
    }

    #[test]
    fn a_cut_command_is_rejected() {
        let bytes = Command::Compact(7).encode();
        for length in 0..bytes.len() {
            assert!(Command::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = vec![VERSION + 1, COMMIT];
        bytes.put_u32(crc32fast::hash(&bytes));
        assert_eq!(Command::decode(&bytes), Err(Invalid::Newer(2)));
    }
}
