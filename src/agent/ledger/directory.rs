//! A ledger in a directory: one file per entry, blobs shared by digest.
//!
//! ```text
//! DIR/lock             held while an agent runs
//! DIR/session          a checked file: digest, newline, JSON
//! DIR/entries/UID      the same, one per Application
//! DIR/blobs/DIGEST     the bytes themselves
//! ```
//! A file is written beside its place, synced and renamed, and then its directory is synced: after power loss there is
//! the old file or the new one. What cannot be read is told in words and left where it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{Broken, Entry, Error, Ledger, Loaded, Session, Write};
use crate::model::{Digest, Uid};

#[derive(Debug)]
pub struct DirectoryLedger {
    root: PathBuf,
    /// Held until this is dropped; the system releases it when the process dies.
    _lock: File,
    /// Blobs that each entry lists.
    listed: BTreeMap<Uid, BTreeSet<Digest>>,
    /// While an entry is broken nobody knows which blobs it lists, so none is swept.
    has_broken: bool,
}

impl DirectoryLedger {
    /// Takes the directory for this process, making it where it is missing.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for directory in [root.to_owned(), root.join("entries"), root.join("blobs")] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(|source| failed(&directory, source))?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|source| failed(&path, source))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Locked { path: root.display().to_string() },
            TryLockError::Error(source) => failed(&path, source),
        })?;
        Ok(Self { root: root.to_owned(), _lock: lock, listed: BTreeMap::new(), has_broken: false })
    }

    fn entry_path(&self, application: &Uid) -> Result<PathBuf, Error> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if application.0.is_empty() || !application.0.chars().all(is_plain) {
            return Err(Error::Other(format!("{:?} is not a uid", application.0)));
        }
        Ok(self.root.join("entries").join(&application.0))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.to_string())
    }

    fn blob(&self, digest: &Digest) -> Result<Bytes, String> {
        let bytes = fs::read(self.blob_path(digest)).map_err(|error| format!("blob {}: {error}", digest.short()))?;
        if Digest::of(&bytes) != *digest {
            return Err(format!("blob {}: its bytes are not what its name says", digest.short()));
        }
        Ok(Bytes::from(bytes))
    }

    /// The entry and the bytes of its manifests, if all is whole.
    fn entry(&self, path: &Path, application: &Uid) -> Result<(Entry, BTreeMap<Digest, Bytes>), String> {
        let entry: Entry = read_checked(path)?;
        if entry.work.application_uid != *application {
            return Err(format!("it is of Application {}", entry.work.application_uid));
        }
        self.blob(&entry.work.application_blob)?;
        let mut blobs = BTreeMap::new();
        for manifest in &entry.work.manifests {
            blobs.insert(manifest.blob, self.blob(&manifest.blob)?);
        }
        Ok((entry, blobs))
    }

    fn is_listed(&self, digest: &Digest) -> bool {
        self.listed.values().any(|blobs| blobs.contains(digest))
    }

    fn put_entry(&mut self, entry: &Arc<Entry>, blobs: &[(Digest, Bytes)]) -> Result<BTreeSet<Digest>, Error> {
        let application = &entry.work.application_uid;
        let path = self.entry_path(application)?;
        let mut is_new = false;
        for (digest, bytes) in blobs {
            if !self.is_listed(digest) {
                put(&self.blob_path(digest), bytes)?;
                is_new = true;
            }
        }
        if is_new {
            sync(&self.root.join("blobs"))?;
        }
        put_checked(&path, entry.as_ref())?;
        Ok(self.listed.insert(application.clone(), entry.work.blobs().collect()).unwrap_or_default())
    }

    /// Removes those of `candidates` that nothing lists any more.
    fn sweep(&self, candidates: BTreeSet<Digest>) -> Result<(), Error> {
        if self.has_broken {
            return Ok(());
        }
        for digest in candidates.iter().filter(|digest| !self.is_listed(digest)) {
            remove(&self.blob_path(digest))?;
        }
        Ok(())
    }
}

impl Ledger for DirectoryLedger {
    fn load(&mut self) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        match read_checked(&self.root.join("session")) {
            Ok(session) => loaded.session = session,
            Err(why) if self.root.join("session").exists() => {
                loaded.broken.push(Broken { application: None, why: format!("session: {why}") });
            }
            Err(_) => {}
        }
        for (name, path) in files(&self.root.join("entries"))? {
            let application = Uid(name);
            match self.entry(&path, &application) {
                Ok((entry, blobs)) => {
                    self.listed.insert(application, entry.work.blobs().collect());
                    loaded.entries.push(entry);
                    loaded.blobs.extend(blobs);
                }
                Err(why) => loaded.broken.push(Broken { application: Some(application), why }),
            }
        }
        self.has_broken = loaded.broken.iter().any(|broken| broken.application.is_some());
        let blobs = files(&self.root.join("blobs"))?;
        self.sweep(blobs.into_keys().filter_map(|name| name.parse().ok()).collect())?;
        Ok(loaded)
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), Error> {
        let mut dropped = BTreeSet::new();
        for write in writes {
            match write {
                Write::Entry { entry, blobs } => dropped.extend(self.put_entry(entry, blobs)?),
                Write::Forget(application) => {
                    remove(&self.entry_path(application)?)?;
                    dropped.extend(self.listed.remove(application).unwrap_or_default());
                }
                Write::Session(session) => put_session(&self.root, session)?,
            }
        }
        // One sync makes every rename and removal of the batch durable; before it nothing is promised.
        if writes.iter().any(|write| !matches!(write, Write::Session(_))) {
            sync(&self.root.join("entries"))?;
        }
        self.sweep(dropped)
    }
}

fn put_session(root: &Path, session: &Session) -> Result<(), Error> {
    put_checked(&root.join("session"), session)?;
    sync(root)
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.display().to_string(), source }
}

/// Name and path of every whole file; what a crash left half written has another name and is cleared away.
fn files(directory: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(|source| failed(directory, source))? {
        let path = entry.map_err(|source| failed(directory, source))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.ends_with(UNFINISHED) {
            remove(&path)?;
        } else {
            found.insert(name, path);
        }
    }
    Ok(found)
}

const UNFINISHED: &str = ".new";

fn put(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(UNFINISHED);
    let beside = path.with_file_name(name);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|source| failed(path, source))
}

fn sync(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(|source| failed(directory, source))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn put_checked(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let json = serde_json::to_vec(value).map_err(|error| Error::Other(format!("{}: {error}", path.display())))?;
    let mut bytes = format!("{}\n", Digest::of(&json)).into_bytes();
    bytes.extend(json);
    put(path, &bytes)
}

fn read_checked<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no digest")?;
    let (digest, json) = (&bytes[..end], &bytes[end + 1..]);
    if digest != Digest::of(json).to_string().as_bytes() {
        return Err("its contents do not match its digest".to_owned());
    }
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GroupVersionKind, ObjectName, ObjectRef, Work, work::Manifest};

    fn entry(application: &str, generation: u64, blobs: &[&'static [u8]]) -> Write {
        let manifest = |bytes: &&[u8]| Manifest {
            component: "web".into(),
            object: ObjectRef { gvk: GroupVersionKind::new("", "v1", "ConfigMap"), name: ObjectName::new("n", "c") },
            blob: Digest::of(bytes),
            patches: vec![],
            result: Digest::of(bytes),
        };
        let work = Work {
            application: ObjectName::new("n", application),
            application_uid: application.into(),
            cluster: "eu".into(),
            generation,
            revision: "v1".into(),
            application_blob: Digest::of(b"app"),
            manifests: blobs.iter().map(manifest).collect(),
            removals: vec![],
            features: vec![],
            trace: String::new(),
        };
        let application: &'static [u8] = b"app";
        let bytes = blobs.iter().chain([&application]).map(|bytes| (Digest::of(bytes), Bytes::from_static(bytes)));
        let entry = Entry { work: Arc::new(work), made: vec![], removed: vec![], held: false };
        Write::Entry { entry: Arc::new(entry), blobs: bytes.collect() }
    }

    fn reopen(root: &Path) -> (DirectoryLedger, Loaded) {
        let mut ledger = DirectoryLedger::open(root).expect("opens");
        let loaded = ledger.load().expect("loads");
        (ledger, loaded)
    }

    fn blobs(root: &Path) -> usize {
        fs::read_dir(root.join("blobs")).expect("is there").count()
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let root = tempfile::tempdir().expect("a directory");
        let (mut ledger, empty) = reopen(root.path());
        assert_eq!(empty, Loaded::default());
        let session = Session { epoch: 7, incarnation: Some("i".into()), ..Session::default() };
        ledger
            .write(&[Write::Session(session.clone()), entry("a", 1, &[b"x"]), entry("b", 1, &[b"x", b"y"])])
            .expect("writes");
        drop(ledger);
        let (mut ledger, loaded) = reopen(root.path());
        assert_eq!((loaded.session, loaded.entries.len(), loaded.blobs.len()), (session, 2, 2));
        ledger.write(&[entry("b", 2, &[b"z"])]).expect("writes");
        assert_eq!(blobs(root.path()), 3, "x, z and the Application: y is swept");
        ledger.write(&[Write::Forget("a".into())]).expect("writes");
        drop(ledger);
        let (_ledger, loaded) = reopen(root.path());
        assert_eq!((loaded.entries.len(), loaded.entries[0].work.generation, blobs(root.path())), (1, 2, 2));
    }

    #[test]
    fn a_broken_entry_is_told_and_left_and_the_others_go_on() {
        for damage in ["entries/a", "blobs"] {
            let root = tempfile::tempdir().expect("a directory");
            let (mut ledger, _) = reopen(root.path());
            ledger.write(&[entry("a", 1, &[b"x"]), entry("b", 1, &[b"y"])]).expect("writes");
            drop(ledger);
            let mut path = root.path().join(damage);
            if damage == "blobs" {
                path = path.join(Digest::of(b"x").to_string());
            }
            let mut bytes = fs::read(&path).expect("reads");
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            fs::write(&path, bytes).expect("damages");
            let (mut ledger, loaded) = reopen(root.path());
            assert_eq!(loaded.entries.len(), 1, "{damage}");
            assert_eq!(loaded.broken[0].application, Some("a".into()), "{damage}");
            assert!(root.path().join("entries/a").exists(), "{damage}");
            // The hub sends the work again: it heals.
            ledger.write(&[entry("a", 1, &[b"x"])]).expect("writes");
            drop(ledger);
            assert_eq!(reopen(root.path()).1.entries.len(), 2, "{damage}");
        }
    }

    #[test]
    fn a_crash_at_any_point_of_a_write_leaves_the_old_or_the_new() {
        let root = tempfile::tempdir().expect("a directory");
        let (mut ledger, _) = reopen(root.path());
        ledger.write(&[entry("a", 1, &[b"x"])]).expect("writes");
        drop(ledger);
        // Blobs of an entry that never came, and a file half written.
        fs::write(root.path().join("blobs").join(Digest::of(b"orphan").to_string()), b"orphan").expect("writes");
        fs::write(root.path().join("entries/a.new"), b"half").expect("writes");
        let (_ledger, loaded) = reopen(root.path());
        assert_eq!((loaded.entries.len(), loaded.broken.len()), (1, 0));
        assert_eq!(blobs(root.path()), 2);
        assert!(!root.path().join("entries/a.new").exists());
    }

    #[test]
    fn one_agent_at_a_time_has_the_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let first = DirectoryLedger::open(root.path()).expect("opens");
        assert!(matches!(DirectoryLedger::open(root.path()), Err(Error::Locked { .. })));
        drop(first);
        assert!(DirectoryLedger::open(root.path()).is_ok());
    }

    #[test]
    fn an_application_uid_never_leads_out_of_the_directory() {
        let root = tempfile::tempdir().expect("a directory");
        let (mut ledger, _) = reopen(root.path());
        for uid in ["", "../x", "a/b", ".."] {
            assert!(ledger.write(&[entry(uid, 1, &[])]).is_err(), "{uid:?}");
        }
    }
}
