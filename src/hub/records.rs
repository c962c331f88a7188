//! Records: what the hub stores for itself beside the objects people see, and how it is read back.
//!
//! Owns: the keys and shapes of placements and reports, and the views that put pieces together again. Must never: show a
//! placement of which a piece is missing.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        Digest, ObjectName, Placement, Uid,
        placement::{Claim, Move, ROWS_PER_CHUNK, Refusal, Row, Why},
    },
    store::{Change, Entry, Key, Revision, blobs, object},
};

const PLACEMENTS: &str = "/hanse/internal/placements/";
const BINDINGS: &str = "/hanse/internal/bindings/";
const REPORTS: &str = "/hanse/internal/reports/";

/// What a key of the hub's own records speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Head(Uid),
    Chunk {
        application: Uid,
        decision: u64,
        index: usize,
    },
    Report {
        cluster: Uid,
        application: Uid,
    },
    /// What another scheduler decided for an Application.
    Binding(Uid),
}

impl Record {
    pub fn of(key: &Key) -> Option<Self> {
        if let Some(rest) = key.as_str().strip_prefix(PLACEMENTS) {
            let (application, piece) = rest.split_once('/')?;
            let application = Uid::from(application);
            if piece == "head" {
                return Some(Self::Head(application));
            }
            let (decision, index) = piece.split_once('-')?;
            return Some(Self::Chunk { application, decision: decision.parse().ok()?, index: index.parse().ok()? });
        }
        if let Some(application) = key.as_str().strip_prefix(BINDINGS) {
            return Some(Self::Binding(application.into()));
        }
        let (cluster, application) = key.as_str().strip_prefix(REPORTS)?.split_once('/')?;
        Some(Self::Report { cluster: cluster.into(), application: application.into() })
    }

    pub fn key(&self) -> Key {
        Key::new(match self {
            Self::Head(application) => format!("{PLACEMENTS}{application}/head"),
            Self::Chunk { application, decision, index } => format!("{PLACEMENTS}{application}/{decision}-{index}"),
            Self::Binding(application) => format!("{BINDINGS}{application}"),
            Self::Report { cluster, application } => format!("{REPORTS}{cluster}/{application}"),
        })
    }
}

/// The pointer that makes a placement valid: written last, in one transaction with the compare on its predecessor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    application: ObjectName,
    application_uid: Uid,
    decision: u64,
    chunks: usize,
    refusals: Vec<Said>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unplaced: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moves: Vec<Move>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    rebalanced: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    claims: Vec<Claim>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    preempted: BTreeMap<String, String>,
}

/// One reason, and all the clusters that it is said of: many have the same.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    component: String,
    why: Why,
    /// Uid and name, in order of names.
    clusters: Vec<(Uid, String)>,
}

fn said(refusals: &[Refusal]) -> Vec<Said> {
    let mut said: BTreeMap<(&str, &Why), Vec<(Uid, String)>> = BTreeMap::new();
    for Refusal { cluster, cluster_name, component, why } in refusals {
        said.entry((component, why)).or_default().push((cluster.clone(), cluster_name.clone()));
    }
    let one = |((component, why), clusters): ((&str, &Why), _)| Said {
        component: component.into(),
        why: why.clone(),
        clusters,
    };
    said.into_iter().map(one).collect()
}

/// In order of component, cluster name and uid, as decisions have them.
fn unsaid(said: Vec<Said>) -> Vec<Refusal> {
    let each = |Said { component, why, clusters }: Said| {
        clusters.into_iter().map(move |(cluster, cluster_name)| {
            let (component, why) = (component.clone(), why.clone());
            Refusal { cluster, cluster_name, component, why }
        })
    };
    let mut refusals: Vec<Refusal> = said.into_iter().flat_map(each).collect();
    refusals.sort_by(|one, other| {
        (&one.component, &one.cluster_name, &one.cluster).cmp(&(&other.component, &other.cluster_name, &other.cluster))
    });
    refusals
}

/// A placement as values to store: its chunks, then its head.
pub fn encode(placement: &Placement) -> (Vec<(Key, Bytes)>, (Key, Bytes)) {
    let application = &placement.application_uid;
    let chunk = |(index, rows): (usize, &[Row])| {
        let record = Record::Chunk { application: application.clone(), decision: placement.decision, index };
        (record.key(), value(&rows))
    };
    let chunks: Vec<_> = placement.rows.chunks(ROWS_PER_CHUNK).enumerate().map(chunk).collect();
    let head = Head {
        application: placement.application.clone(),
        application_uid: application.clone(),
        decision: placement.decision,
        chunks: chunks.len(),
        refusals: said(&placement.refusals),
        unplaced: placement.unplaced.clone(),
        moves: placement.moves.clone(),
        rebalanced: placement.rebalanced.clone(),
        claims: placement.claims.clone(),
        preempted: placement.preempted.clone(),
    };
    (chunks, (Record::Head(application.clone()).key(), value(&head)))
}

/// Keys of a placement's chunks.
pub fn chunk_keys(placement: &Placement) -> impl Iterator<Item = Key> + '_ {
    (0..placement.rows.len().div_ceil(ROWS_PER_CHUNK)).map(|index| {
        let application = placement.application_uid.clone();
        Record::Chunk { application, decision: placement.decision, index }.key()
    })
}

/// The stored form of one of our own values.
pub fn value<T: Serialize + ?Sized>(value: &T) -> Bytes {
    // Our own types serialise to plain JSON; a value that could not would be a defect of its type.
    object::encode(&serde_json::to_value(value).unwrap_or_default())
}

/// All placements, put together from what the store says. Fed with single changes, then told when a transaction is
/// whole.
#[derive(Debug, Default)]
pub struct Placements {
    chunks: BTreeMap<(Uid, u64, usize), Vec<Row>>,
    stored: BTreeMap<Uid, Stored>,
    /// Heads that changed in the transaction under way.
    fresh: BTreeMap<Uid, Option<(Head, Revision)>>,
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub placement: Arc<Placement>,
    /// Of the head.
    pub modified: Revision,
}

impl Placements {
    pub fn get(&self, application: &Uid) -> Option<&Stored> {
        self.stored.get(application)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Uid, &Stored)> {
        self.stored.iter()
    }

    pub fn set_chunk(&mut self, key: (Uid, u64, usize), entry: Option<&Entry>) -> Result<(), object::Invalid> {
        match entry {
            Some(entry) => drop(self.chunks.insert(key, object::view(&entry.value)?)),
            None => drop(self.chunks.remove(&key)),
        }
        Ok(())
    }

    pub fn set_head(&mut self, application: Uid, entry: Option<&Entry>) -> Result<(), object::Invalid> {
        let head = entry.map(|entry| Ok((object::view(&entry.value)?, entry.modified))).transpose()?;
        self.fresh.insert(application, head);
        Ok(())
    }

    /// Ends a transaction: the Applications whose placement changed. A head whose chunks are not there is not shown; what
    /// was known before stays.
    pub fn settle(&mut self) -> Vec<Uid> {
        let mut changed = Vec::new();
        for (application, head) in std::mem::take(&mut self.fresh) {
            let Some((head, modified)) = head else {
                self.stored.remove(&application);
                changed.push(application);
                continue;
            };
            let key = |index| (application.clone(), head.decision, index);
            if (0..head.chunks).any(|index| !self.chunks.contains_key(&key(index))) {
                self.fresh.insert(application, Some((head, modified)));
                continue;
            }
            let rows = (0..head.chunks).filter_map(|index| self.chunks.remove(&key(index))).flatten().collect();
            let placement = Placement {
                application: head.application,
                application_uid: head.application_uid,
                decision: head.decision,
                rows,
                refusals: unsaid(head.refusals),
                unplaced: head.unplaced,
                moves: head.moves,
                rebalanced: head.rebalanced,
                claims: head.claims,
                preempted: head.preempted,
            };
            self.stored.insert(application.clone(), Stored { placement: Arc::new(placement), modified });
            changed.push(application);
        }
        changed
    }
}

/// All blobs: their bytes, shared with the store, and the keys they lie under.
#[derive(Debug, Default)]
pub struct Blobs {
    found: BTreeMap<Digest, BTreeMap<Key, (Bytes, Revision)>>,
}

impl Blobs {
    /// Takes note of a key if it is a blob's.
    pub fn set(&mut self, key: &Key, entry: Option<&Entry>) -> bool {
        let Some(digest) = blobs::digest_in(key) else { return false };
        let keys = self.found.entry(digest).or_default();
        match entry {
            Some(entry) => drop(keys.insert(key.clone(), (entry.value.clone(), entry.modified))),
            None => drop(keys.remove(key)),
        }
        if keys.is_empty() {
            self.found.remove(&digest);
        }
        true
    }

    /// The content, if all of it is there. Its digest was checked when it was written.
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        let mut keys = self.found.get(digest)?.iter();
        // The head's key is a prefix of its pieces' keys, so it comes first.
        let (key, (head, _)) = keys.next()?;
        if *key != Key::blob(digest) {
            return None;
        }
        let pieces: Vec<Bytes> = keys.map(|(_, (bytes, _))| bytes.clone()).collect();
        blobs::joined(head, &pieces)
    }

    /// As the sweep wants to see them.
    pub fn found(&self) -> Vec<blobs::Found> {
        let found = |(digest, keys): (&Digest, &BTreeMap<Key, (Bytes, Revision)>)| blobs::Found {
            digest: *digest,
            keys: keys.iter().map(|(key, (_, modified))| (key.clone(), *modified)).collect(),
        };
        self.found.iter().map(found).collect()
    }
}

/// A transaction's changes as (key, entry or none), and a listing the same way.
pub fn changes_of(changes: &[Change]) -> impl Iterator<Item = (&Key, Option<&Entry>)> {
    changes.iter().map(|change| (&change.key, change.current.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_text() {
        let application = Uid::from("app");
        for record in [
            Record::Head(application.clone()),
            Record::Binding(application.clone()),
            Record::Chunk { application: application.clone(), decision: 12, index: 3 },
            Record::Report { cluster: "eu".into(), application },
        ] {
            assert_eq!(Record::of(&record.key()), Some(record));
        }
        assert_eq!(Record::of(&Key::new("/hanse/internal/leader")), None);
    }

    #[test]
    fn a_placement_comes_back_whole_or_not_at_all() {
        let row = |index: usize| Row {
            cluster: Uid(format!("c{index:04}")),
            cluster_name: format!("c{index:04}"),
            generation: 1,
            revision: "web-v1".into(),
            components: BTreeMap::new(),
            removals: Vec::new(),
            trace: String::new(),
        };
        let refusal = |component: &str, index: usize| Refusal {
            cluster: Uid(format!("r{index:04}")),
            cluster_name: format!("r{index:04}"),
            component: component.into(),
            why: if index.is_multiple_of(3) {
                Why::Cordoned
            } else {
                Why::Spread { by: "region".into(), detail: "full".into() }
            },
        };
        let refusals: Vec<Refusal> =
            ["api", "web"].iter().flat_map(|component| (0..100).map(|index| refusal(component, index))).collect();
        let placement = Placement {
            application: ObjectName::new("default", "web"),
            application_uid: "app".into(),
            decision: 7,
            rows: (0..ROWS_PER_CHUNK + 1).map(row).collect(),
            refusals: refusals.clone(),
            unplaced: BTreeMap::new(),
            moves: Vec::new(),
            rebalanced: String::new(),
            claims: Vec::new(),
            preempted: BTreeMap::new(),
        };
        let (chunks, (key, value)) = encode(&placement);
        assert!(value.len() < 30 * refusals.len(), "a reason that many clusters have is stored once");
        assert_eq!(
            chunk_keys(&placement).collect::<Vec<_>>(),
            chunks.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>()
        );
        let entry =
            |key: &Key, value: &Bytes| Entry { key: key.clone(), value: value.clone(), created: 1, modified: 9 };
        let mut placements = Placements::default();
        placements.set_head("app".into(), Some(&entry(&key, &value))).expect("a head");
        assert_eq!(placements.settle(), []);
        assert!(placements.get(&"app".into()).is_none());
        for (index, (key, value)) in chunks.iter().enumerate() {
            placements.set_chunk(("app".into(), 7, index), Some(&entry(key, value))).expect("a chunk");
        }
        assert_eq!(placements.settle(), [Uid::from("app")]);
        let stored = placements.get(&"app".into()).expect("a placement");
        assert_eq!((&*stored.placement, stored.modified), (&placement, 9));
    }
}
