//! A ledger in Secrets: `session`, one `entry-UID` per Application, and blobs in pieces `blob-DIGEST-N`.
//!
//! Pieces are written first and what names them last, so an entry is never there without its bytes. An entry too large
//! for a Secret is itself a blob, and its Secret holds only the digest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Broken, Entry, Error, Ledger, Loaded, Session, Write};
use crate::{
    agent::{
        dial::chain,
        secrets::{Secrets, VALUE_BYTES_MAX},
    },
    model::{Digest, Uid},
};

pub struct SecretsLedger {
    secrets: Secrets,
    /// Blobs that each entry lists, and the one that it is.
    listed: BTreeMap<Uid, BTreeSet<Digest>>,
    /// Number of pieces of every blob that is there.
    pieces: BTreeMap<Digest, usize>,
    has_broken: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredEntry {
    Whole(Box<Entry>),
    Blob(Digest),
}

impl SecretsLedger {
    pub fn new(secrets: Secrets) -> Self {
        Self { secrets, listed: BTreeMap::new(), pieces: BTreeMap::new(), has_broken: false }
    }

    fn put_blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), Error> {
        if self.pieces.contains_key(&digest) {
            return Ok(());
        }
        let pieces = bytes.chunks(VALUE_BYTES_MAX).chain(bytes.is_empty().then_some(&[][..]));
        let mut count = 0;
        for piece in pieces {
            self.secrets.put("blob", &format!("blob-{digest}-{count}"), piece).map_err(failed)?;
            count += 1;
        }
        self.pieces.insert(digest, count);
        Ok(())
    }

    fn put_entry(&mut self, entry: &Arc<Entry>, blobs: &[(Digest, Bytes)]) -> Result<BTreeSet<Digest>, Error> {
        for (digest, bytes) in blobs {
            self.put_blob(*digest, bytes)?;
        }
        let mut listed: BTreeSet<Digest> = entry.work.blobs().collect();
        let mut stored = to_json(&StoredEntry::Whole(Box::new(Entry::clone(entry))))?;
        if stored.len() > VALUE_BYTES_MAX {
            let (digest, whole) = (Digest::of(&stored), stored);
            self.put_blob(digest, &whole)?;
            listed.insert(digest);
            stored = to_json(&StoredEntry::Blob(digest))?;
        }
        let application = &entry.work.application_uid;
        self.secrets.put("entry", &format!("entry-{application}"), &stored).map_err(failed)?;
        Ok(self.listed.insert(application.clone(), listed).unwrap_or_default())
    }

    fn sweep(&mut self, candidates: BTreeSet<Digest>) -> Result<(), Error> {
        for digest in candidates {
            if self.has_broken || self.listed.values().any(|listed| listed.contains(&digest)) {
                continue;
            }
            for piece in 0..self.pieces.remove(&digest).unwrap_or(0) {
                self.secrets.delete(&format!("blob-{digest}-{piece}")).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Ledger for SecretsLedger {
    fn load(&mut self) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        if let Some(bytes) = self.secrets.get("session").map_err(failed)? {
            match serde_json::from_slice(&bytes) {
                Ok(session) => loaded.session = session,
                Err(error) => loaded.broken.push(Broken { application: None, why: format!("session: {error}") }),
            }
        }
        let (blobs, pieces) = joined(self.secrets.list("blob").map_err(failed)?);
        self.pieces = pieces;
        for (name, bytes) in self.secrets.list("entry").map_err(failed)? {
            let application = Uid(name.strip_prefix("entry-").unwrap_or(&name).to_owned());
            match whole(&application, &bytes, &blobs) {
                Ok((entry, listed)) => {
                    let manifests =
                        entry.work.manifests.iter().filter_map(|manifest| blobs.get_key_value(&manifest.blob));
                    loaded.blobs.extend(manifests.map(|(digest, bytes)| (*digest, bytes.clone())));
                    self.listed.insert(application, listed);
                    loaded.entries.push(entry);
                }
                Err(why) => loaded.broken.push(Broken { application: Some(application), why }),
            }
        }
        self.has_broken = loaded.broken.iter().any(|broken| broken.application.is_some());
        self.sweep(self.pieces.keys().copied().collect())?;
        Ok(loaded)
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), Error> {
        let mut dropped = BTreeSet::new();
        for write in writes {
            match write {
                Write::Entry { entry, blobs } => dropped.extend(self.put_entry(entry, blobs)?),
                Write::Forget(application) => {
                    self.secrets.delete(&format!("entry-{application}")).map_err(failed)?;
                    dropped.extend(self.listed.remove(application).unwrap_or_default());
                }
                Write::Session(session) => self.put_session(session)?,
            }
        }
        self.sweep(dropped)
    }
}

impl SecretsLedger {
    fn put_session(&self, session: &Session) -> Result<(), Error> {
        self.secrets.put("session", "session", &to_json(session)?).map_err(failed)
    }
}

/// Blobs from their pieces, those that are what their name says, and how many pieces each has.
fn joined(pieces: BTreeMap<String, Vec<u8>>) -> (BTreeMap<Digest, Bytes>, BTreeMap<Digest, usize>) {
    let mut parts: BTreeMap<Digest, BTreeMap<usize, Vec<u8>>> = BTreeMap::new();
    for (name, bytes) in pieces {
        let parsed = name.strip_prefix("blob-").and_then(|name| name.split_once('-'));
        let Some((Ok(digest), Ok(index))) = parsed.map(|(digest, index)| (digest.parse(), index.parse())) else {
            continue;
        };
        parts.entry(digest).or_default().insert(index, bytes);
    }
    let counts =
        parts.iter().map(|(digest, parts)| (*digest, parts.keys().last().map_or(0, |last| last + 1))).collect();
    let whole = parts.into_iter().map(|(digest, parts)| (digest, parts.into_values().collect::<Vec<_>>().concat()));
    (
        whole
            .filter(|(digest, bytes)| Digest::of(bytes) == *digest)
            .map(|(digest, bytes)| (digest, bytes.into()))
            .collect(),
        counts,
    )
}

fn whole(
    application: &Uid,
    bytes: &[u8],
    blobs: &BTreeMap<Digest, Bytes>,
) -> Result<(Entry, BTreeSet<Digest>), String> {
    let parse = |bytes: &[u8]| serde_json::from_slice::<StoredEntry>(bytes).map_err(|error| error.to_string());
    let missing = |digest: &Digest| format!("blob {} is not there, or not whole", digest.short());
    let (entry, own) = match parse(bytes)? {
        StoredEntry::Whole(entry) => (entry, None),
        StoredEntry::Blob(digest) => match parse(blobs.get(&digest).ok_or_else(|| missing(&digest))?)? {
            StoredEntry::Whole(entry) => (entry, Some(digest)),
            StoredEntry::Blob(_) => return Err("it names another name".to_owned()),
        },
    };
    if entry.work.application_uid != *application {
        return Err(format!("it is of Application {}", entry.work.application_uid));
    }
    let listed: BTreeSet<Digest> = entry.work.blobs().chain(own).collect();
    match listed.iter().find(|digest| !blobs.contains_key(digest)) {
        Some(digest) => Err(missing(digest)),
        None => Ok((*entry, listed)),
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Other(error.to_string()))
}

fn failed(error: kube::Error) -> Error {
    Error::Other(chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_joined_from_their_pieces_in_order_and_proved() {
        let (good, broken) = (Digest::of(b"abc"), Digest::of(b"xyz"));
        let piece = |digest: &Digest, index: usize, bytes: &[u8]| (format!("blob-{digest}-{index}"), bytes.to_vec());
        let pieces = [piece(&good, 1, b"c"), piece(&good, 0, b"ab"), piece(&broken, 0, b"xy"), ("odd".into(), vec![])];
        let (whole, counts) = joined(pieces.into());
        assert_eq!(whole, BTreeMap::from([(good, Bytes::from_static(b"abc"))]));
        assert_eq!(counts, BTreeMap::from([(good, 2), (broken, 1)]));
    }
}
