//! Who this agent is: its key, its certificate, and the hub it belongs to.
//!
//! Owns: what of that survives a restart, behind a port (a directory, memory; Secrets can follow). Must never: let a
//! key leave but through the port, or be half written: a key whose certificate is lost is a cluster that has to join
//! again.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use parking_lot::Mutex;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SigningKey};
use serde::{Deserialize, Serialize};

use crate::{
    model::{Timestamp, Uid},
    wire,
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read or write the identity {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the identity {path} cannot be read: {detail}")]
    Malformed { path: PathBuf, detail: String },
    #[error("cannot make or use a key")]
    Key(#[from] rcgen::Error),
}

/// Where an identity is kept. Calls block; they are few.
pub trait Keep: Send + Sync + 'static {
    fn load(&self) -> Result<Option<Stored>, Error>;

    /// Durable and whole once it answers; on an error what was kept before still is.
    fn save(&self, stored: &Stored) -> Result<(), Error>;
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Absent until the hub has accepted the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The key of a join or renewal that was begun. It is kept before it is shown to the hub, so that an answer that
    /// gets lost can be asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key: Option<Key>,
    /// Name of the join token that it was, or is being, joined with.
    #[serde(default)]
    pub token: String,
}

/// A granted identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub key: Key,
    pub certificate: Der,
    pub hub: Uid,
    pub cluster: Uid,
    pub cluster_name: String,
    /// What the hub's certificate may chain to.
    pub serving_authorities: Vec<Der>,
    /// When it was signed, by the hub's clock, as is `not_after`.
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Where the hub's replicas can be reached, as it said last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

impl Identity {
    pub fn new(key: Key, granted: wire::Identity) -> Self {
        Self {
            key,
            certificate: Der(granted.certificate),
            hub: granted.hub,
            cluster: granted.cluster,
            cluster_name: granted.cluster_name,
            serving_authorities: granted.serving_authorities.into_iter().map(Der).collect(),
            not_before: granted.not_before,
            not_after: granted.not_after,
            urls: granted.urls,
        }
    }

    /// When to renew, by the hub's clock: at two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.seconds().saturating_sub(self.not_before.seconds());
        self.not_before.plus_seconds(life / 3 * 2)
    }
}

/// Bytes of a certificate; base64 where serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Der(pub Bytes);

/// A private key (ECDSA P-256, PKCS #8). Never displayed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Der);

impl Key {
    pub fn generate() -> Result<Self, Error> {
        Ok(Self(Der(KeyPair::generate()?.serialize_der().into())))
    }

    pub fn pkcs8(&self) -> &[u8] {
        &self.0.0
    }

    /// A signing request (PKCS #10, DER) that names nobody: who the certificate is for is the hub's to say.
    pub fn request(&self) -> Result<Bytes, Error> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        Ok(Bytes::copy_from_slice(parameters.serialize_request(&self.pair()?)?.der()))
    }

    /// ECDSA P-256 with SHA-256, ASN.1.
    pub fn sign(&self, bytes: &[u8]) -> Result<Bytes, Error> {
        Ok(self.pair()?.sign(bytes)?.into())
    }

    fn pair(&self) -> Result<KeyPair, Error> {
        Ok(KeyPair::try_from(self.pkcs8())?)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl fmt::Debug for Der {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Der({} bytes)", self.0.len())
    }
}

impl Serialize for Der {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Der {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

/// One file, `identity.json`, readable by its owner only.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory where it is missing.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        Ok(Self { path: directory.join("identity.json") })
    }
}

impl Keep for Directory {
    fn load(&self) -> Result<Option<Stored>, Error> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path: self.path.clone(), source }),
        };
        let malformed =
            |error: serde_json::Error| Error::Malformed { path: self.path.clone(), detail: error.to_string() };
        serde_json::from_slice(&bytes).map(Some).map_err(malformed)
    }

    fn save(&self, stored: &Stored) -> Result<(), Error> {
        let malformed =
            |error: serde_json::Error| Error::Malformed { path: self.path.clone(), detail: error.to_string() };
        let bytes = serde_json::to_vec_pretty(stored).map_err(malformed)?;
        replace(&self.path, &bytes).map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

/// After a crash the file holds what it held, or all of the new.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let _ = fs::remove_file(&draft);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

/// For agents that live no longer than their process: the embedded members of quickstart and bench.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Option<Stored>>>);

impl Keep for Memory {
    fn load(&self) -> Result<Option<Stored>, Error> {
        Ok(self.0.lock().clone())
    }

    fn save(&self, stored: &Stored) -> Result<(), Error> {
        *self.0.lock() = Some(stored.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn stored() -> Stored {
        let identity = Identity {
            key: Key::generate().expect("key"),
            certificate: Der(Bytes::from_static(b"certificate")),
            hub: "hub".into(),
            cluster: "eu-uid".into(),
            cluster_name: "eu".into(),
            serving_authorities: vec![Der(Bytes::from_static(b"ca"))],
            not_before: Timestamp::from_seconds(1_000),
            not_after: Timestamp::from_seconds(4_000),
            urls: vec!["https://hub:6460".into()],
        };
        Stored { identity: Some(identity), next_key: Some(Key::generate().expect("key")), token: "t".into() }
    }

    #[test]
    fn an_identity_survives_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("agent");
        let keep = Directory::open(&path).expect("open");
        assert_eq!(keep.load().expect("load"), None);
        let stored = stored();
        keep.save(&Stored::default()).expect("save");
        keep.save(&stored).expect("save again");
        assert_eq!(Directory::open(&path).expect("open").load().expect("load"), Some(stored));
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&path.join("identity.json")), 0o600);
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_a_new_identity() {
        let directory = tempfile::tempdir().expect("directory");
        fs::write(directory.path().join("identity.json"), b"{\"identity\":").expect("write");
        let keep = Directory::open(directory.path()).expect("open");
        assert!(matches!(keep.load(), Err(Error::Malformed { .. })));
    }

    #[test]
    fn keys_do_not_show_in_logs() {
        let stored = stored();
        let text = BASE64_STANDARD.encode(stored.next_key.as_ref().expect("key").pkcs8());
        assert!(!format!("{stored:?}").contains(&text[..16]));
    }

    #[test]
    fn it_is_renewed_at_two_thirds_of_its_life() {
        assert_eq!(stored().identity.expect("identity").renew_at(), Timestamp::from_seconds(3_000));
    }
}
