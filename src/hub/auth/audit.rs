//! The audit log: one JSON line per write request, done, denied or failed, in the file before the client has its answer.
//!
//! Each line is one write to the file, so a killed process leaves whole lines; a line that was cut off all the same (a
//! full disk, power loss) spoils no other. Beyond [`limits::AUDIT_BYTES_MAX`] a new file begins and one old one is kept:
//! who must keep more ships the lines elsewhere.
//!
//! The line is handed to the operating system, not forced to the disk: the objects themselves are durable in the store,
//! and a second fsync per write would halve what the hub can take.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::hub::limits;

/// What is recorded of a write.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub time: String,
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace: String,
    pub user: String,
    pub groups: Vec<String>,
    pub source_ip: String,
    pub user_agent: String,
    pub verb: &'static str,
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    pub dry_run: bool,
    /// `allow` or `forbid`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub decision: &'static str,
    /// HTTP status of the answer; 0 where `outcome` says it in a word: for calls of agents, and for requests that were
    /// given up half way (`Unknown`).
    pub code: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// Name of the JoinToken that a join used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_fingerprint: String,
    /// Why it was not done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Store revision that the write was committed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// SHA-256 of the request body.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
}

pub struct Audit {
    path: PathBuf,
    file: Mutex<Open>,
}

struct Open {
    file: File,
    bytes: u64,
    /// The file does not end with a whole line.
    torn: bool,
}

impl Audit {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(open(path)?) })
    }

    /// Appends one line; the file before is kept as `audit.log.1`.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let mut open_file = self.file.lock();
        let mut line = if open_file.torn { vec![b'\n'] } else { vec![] };
        serde_json::to_writer(&mut line, record)?;
        line.push(b'\n');
        if open_file.bytes > 0 && open_file.bytes + line.len() as u64 > limits::AUDIT_BYTES_MAX {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *open_file = open(&self.path)?;
        }
        open_file.torn = true;
        open_file.file.write_all(&line)?;
        open_file.torn = false;
        open_file.bytes += line.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    let mut last = *b"\n";
    if bytes > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(Open { file, bytes, torn: last != *b"\n" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<bool> {
        let text = std::fs::read_to_string(path).expect("the log");
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).collect()
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        Audit::open(&path).expect("a log").write(&Record::default()).expect("a line");
        let whole = std::fs::read(&path).expect("the log");
        std::fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).expect("a torn line");
        let audit = Audit::open(&path).expect("a log");
        audit.write(&Record::default()).expect("a line");
        audit.write(&Record::default()).expect("a line");
        assert_eq!(lines(&path), [true, false, true, true]);
    }
}
