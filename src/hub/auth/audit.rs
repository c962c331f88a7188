//! The audit log: one JSON line per write request, in the file before the client has its answer.
//!
//! The line is handed to the operating system, not forced to the disk: the objects themselves are durable in the store,
//! and a second fsync per write would halve what the hub can take.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
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
    /// HTTP status of the answer; 0 for calls of agents, which say their `outcome` in a word.
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
}

impl Audit {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(open(path)?) })
    }

    /// Appends one line; the file before is kept as `audit.log.1`.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut open_file = self.file.lock();
        if open_file.bytes > 0 && open_file.bytes + line.len() as u64 > limits::AUDIT_BYTES_MAX {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *open_file = open(&self.path)?;
        }
        open_file.file.write_all(&line)?;
        open_file.bytes += line.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}
