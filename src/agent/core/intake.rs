//! Works on their way into the ledger.
//!
//! Owns: which works are taken, and their bytes until they are durable. Must never: take a step back within an
//! incarnation, take anything of a foreign one, or take a work whose bytes are not all here and whole (rule 9).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    model::{Digest, ObjectRef, Uid, Work, pointer, report::Refused, work::Manifest},
    wire::limits::BLOB_BYTES_MAX,
};

/// Features of works that this agent knows. None so far: every field of [`Work`] is understood.
const FEATURES: [&str; 0] = [];

/// A work that is to be taken and still lacks bytes, or waits to become durable.
#[derive(Debug, Clone)]
pub struct Offer {
    pub work: Arc<Work>,
    pub missing: BTreeSet<Digest>,
    pub stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Fetching,
    Writing,
    /// The ledger could not be written; tried again then.
    RetryAt(u64),
}

/// What the ledger, or an offer, holds of the Application already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLine {
    pub generation: u64,
    pub digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    Take,
    /// It is the one that is held.
    Same,
    Refuse(Refused),
}

/// Whether an offered work may follow what is held.
pub fn judge(work: &Work, cluster: &Uid, foreign: Option<(&Uid, &Uid)>, held: Option<HeldLine>) -> Judgement {
    let refuse = |reason: &str, message: String| Judgement::Refuse(Refused { reason: reason.into(), message });
    if let Some((theirs, ours)) = foreign {
        return refuse(
            "ForeignIncarnation",
            format!(
                "the hub is of incarnation {theirs}, what runs here is of {ours}: nothing is taken until an admin adopts it"
            ),
        );
    }
    if work.cluster != *cluster {
        return refuse("ForeignCluster", format!("the work is for cluster {}, this is {cluster}", work.cluster));
    }
    let unknown: Vec<&str> =
        work.features.iter().map(String::as_str).filter(|feature| !FEATURES.contains(feature)).collect();
    if !unknown.is_empty() {
        return refuse("FeatureMissing", format!("this agent does not know {}: upgrade it", unknown.join(", ")));
    }
    let Some(held) = held else { return Judgement::Take };
    match work.generation.cmp(&held.generation) {
        std::cmp::Ordering::Greater => Judgement::Take,
        std::cmp::Ordering::Less => refuse(
            "Outdated",
            format!("generation {} was sent, generation {} is held", work.generation, held.generation),
        ),
        std::cmp::Ordering::Equal if work.digest() == held.digest => Judgement::Same,
        std::cmp::Ordering::Equal => {
            refuse("Conflicting", format!("generation {} is held with other contents", held.generation))
        }
    }
}

/// The bytes of manifests, shared by digest, and blobs that are arriving.
#[derive(Debug, Default)]
pub struct Blobs {
    whole: BTreeMap<Digest, Bytes>,
    /// Chunks arrive in order; a stream that breaks begins anew.
    partial: BTreeMap<Digest, Vec<u8>>,
}

impl Blobs {
    pub fn new(whole: BTreeMap<Digest, Bytes>) -> Self {
        Self { whole, partial: BTreeMap::new() }
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.whole.contains_key(digest)
    }

    pub fn get(&self, digest: &Digest) -> Option<&Bytes> {
        self.whole.get(digest)
    }

    pub fn insert(&mut self, digest: Digest, bytes: Bytes) {
        self.whole.insert(digest, bytes);
    }

    /// Adds a chunk of a blob that was asked for. Answers once with the whole, checked; `Err` where the bytes are not
    /// what the digest names.
    pub fn chunk(&mut self, digest: Digest, offset: u64, total: u64, bytes: &[u8]) -> Result<Option<Bytes>, String> {
        if total > BLOB_BYTES_MAX {
            return Err(format!("blob {} of {total} bytes is over the limit of {BLOB_BYTES_MAX}", digest.short()));
        }
        let partial = self.partial.entry(digest).or_default();
        if offset == 0 {
            partial.clear();
        }
        if offset != partial.len() as u64 || offset + bytes.len() as u64 > total {
            let have = partial.len();
            self.partial.remove(&digest);
            return Err(format!("blob {}: a chunk at {offset} follows {have} of {total} bytes", digest.short()));
        }
        partial.extend_from_slice(bytes);
        if (partial.len() as u64) < total {
            return Ok(None);
        }
        let whole = Bytes::from(self.partial.remove(&digest).unwrap_or_default());
        if Digest::of(&whole) != digest {
            return Err(format!("blob {}: the bytes that came are of another digest", digest.short()));
        }
        Ok(Some(whole))
    }

    pub fn forget_partial(&mut self) {
        self.partial.clear();
    }

    pub fn remove(&mut self, digest: &Digest) {
        self.whole.remove(digest);
    }

    /// The manifest as the hub means it, proved by its digests.
    pub fn manifest(&self, manifest: &Manifest) -> Result<Value, Refused> {
        let refuse = |message: String| Refused { reason: "DigestMismatch".into(), message };
        let bytes = self.whole.get(&manifest.blob);
        let bytes = bytes.ok_or_else(|| refuse(format!("{}: its bytes are not here", manifest.object)))?;
        let mut value: Value = serde_json::from_slice(bytes)
            .map_err(|error| refuse(format!("{}: its bytes are not JSON: {error}", manifest.object)))?;
        for patch in &manifest.patches {
            if !pointer::set(&mut value, &patch.pointer, patch.value.clone()) {
                return Err(refuse(format!("{}: nothing to patch at {}", manifest.object, patch.pointer)));
            }
        }
        if Digest::of_json(&value) != manifest.result {
            return Err(refuse(format!("{}: blob and patches do not give the promised digest", manifest.object)));
        }
        let named = ObjectRef::of(&value).is_some_and(|found| {
            let namespace = &found.name.namespace;
            found.gvk == manifest.object.gvk
                && found.name.name == manifest.object.name.name
                && (namespace.is_empty() || *namespace == manifest.object.name.namespace)
        });
        if !named {
            return Err(refuse(format!("{}: the manifest is of another object", manifest.object)));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{GroupVersionKind, ObjectName, placement::Patch};

    fn work(generation: u64) -> Work {
        Work {
            application: ObjectName::new("shop", "web"),
            application_uid: "app".into(),
            cluster: "eu".into(),
            generation,
            revision: "web-v1".into(),
            application_blob: Digest::of(b""),
            manifests: vec![],
            removals: vec![],
            features: vec![],
            trace: String::new(),
        }
    }

    fn reason(judgement: Judgement) -> String {
        match judgement {
            Judgement::Take => "take".into(),
            Judgement::Same => "same".into(),
            Judgement::Refuse(refused) => refused.reason,
        }
    }

    #[test]
    fn works_only_go_forward() {
        let held = |generation| Some(HeldLine { generation, digest: work(5).digest() });
        let other = Work { revision: "other".into(), ..work(5) };
        let abroad = Work { cluster: "us".into(), ..work(5) };
        let newer = Work { features: vec!["fences".into()], ..work(5) };
        let (old, new) = (Uid::from("old"), Uid::from("new"));
        for (name, work, foreign, held, expected) in [
            ("first", &work(5), None, None, "take"),
            ("newer", &work(6), None, held(5), "take"),
            ("same", &work(5), None, held(5), "same"),
            ("older", &work(4), None, held(5), "Outdated"),
            ("same number, other contents", &other, None, held(5), "Conflicting"),
            ("another cluster's", &abroad, None, None, "ForeignCluster"),
            ("unknown feature", &newer, None, None, "FeatureMissing"),
            ("foreign incarnation", &work(9), Some((&new, &old)), held(5), "ForeignIncarnation"),
        ] {
            assert_eq!(reason(judge(work, &"eu".into(), foreign, held)), expected, "{name}");
        }
    }

    #[test]
    fn blobs_are_taken_whole_and_true_or_not_at_all() {
        let digest = Digest::of(b"abcdef");
        let mut blobs = Blobs::default();
        assert_eq!(blobs.chunk(digest, 0, 6, b"abc"), Ok(None));
        assert_eq!(blobs.chunk(digest, 3, 6, b"def"), Ok(Some(Bytes::from_static(b"abcdef"))));
        for (name, chunks) in [
            ("a gap", vec![(0, 6, &b"abc"[..]), (4, 6, b"ef")]),
            ("too much", vec![(0, 6, b"abcdefg")]),
            ("other bytes", vec![(0, 6, b"abcdeX")]),
            ("over the limit", vec![(0, BLOB_BYTES_MAX + 1, b"abc")]),
            ("from the middle", vec![(3, 6, b"def")]),
        ] {
            let mut blobs = Blobs::default();
            let last =
                chunks.into_iter().map(|(offset, total, bytes)| blobs.chunk(digest, offset, total, bytes)).last();
            assert!(matches!(last, Some(Err(_))), "{name}");
        }
        assert_eq!(blobs.chunk(digest, 0, 6, b"abc"), Ok(None));
        assert_eq!(blobs.chunk(digest, 0, 6, b"abcdef").map(|whole| whole.is_some()), Ok(true), "begun anew");
    }

    #[test]
    fn a_manifest_is_proved_by_its_digests() {
        let blob = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {}});
        let mut patched = blob.clone();
        patched["spec"]["replicas"] = json!(3);
        let manifest = Manifest {
            component: "web".into(),
            object: ObjectRef {
                gvk: GroupVersionKind::new("apps", "v1", "Deployment"),
                name: ObjectName::new("shop", "web"),
            },
            blob: Digest::of(blob.to_string().as_bytes()),
            patches: vec![Patch { pointer: "/spec/replicas".into(), value: json!(3) }],
            result: Digest::of_json(&patched),
        };
        let mut blobs = Blobs::default();
        assert!(blobs.manifest(&manifest).is_err(), "no bytes");
        blobs.insert(manifest.blob, Bytes::from(blob.to_string()));
        assert_eq!(blobs.manifest(&manifest), Ok(patched));
        let with = |change: &dyn Fn(&mut Manifest)| {
            let mut changed = manifest.clone();
            change(&mut changed);
            blobs.manifest(&changed).is_err()
        };
        assert!(with(&|m| m.patches[0].value = json!(4)), "another value");
        assert!(with(&|m| m.patches[0].pointer = "/kind/x".into()), "an impossible patch");
        assert!(with(&|m| m.object.name.name = "api".into()), "another name");
        assert!(with(&|m| m.object.gvk.kind = "StatefulSet".into()), "another kind");
    }
}
