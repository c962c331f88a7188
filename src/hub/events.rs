//! Events (core/v1): the story of each Application and cluster, short and bounded.
//!
//! Owns: the names, caps, counting and expiry of Event objects. One recorder for all of the hub, inside control. Must
//! never: write because something still is as it was, or grow without bound.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

pub use crate::model::{About, Note};

use super::keys;
use crate::{
    kinds::EVENT,
    model::{Digest, Timestamp, Uid},
    store::{Entry, Key, Operation, object},
};

/// Events of one object; the oldest gives way.
pub const PER_OBJECT_MAX: usize = 32;
/// Events of the hub; beyond, what is new is dropped until some expire.
pub const PER_HUB_MAX: usize = 10_000;
pub const EXPIRY_SECONDS: i64 = 3600;
const MESSAGE_BYTES_MAX: usize = 1024;
/// A repeated event is written again at most this often.
const REPEAT_SECONDS: i64 = 10;
/// Cluster-scoped objects have their events here, as in Kubernetes.
const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, Default)]
pub struct Recorder {
    events: BTreeMap<Key, Known>,
    /// Object → its events.
    by_object: BTreeMap<Uid, BTreeSet<Key>>,
}

#[derive(Debug, Clone)]
struct Known {
    about: Uid,
    first: Timestamp,
    last: Timestamp,
    count: u64,
    /// Seen again since it was written.
    unwritten: u64,
}

impl Recorder {
    /// Takes note of a stored event, or that it is gone.
    pub fn learn(&mut self, key: &Key, entry: Option<&Entry>) {
        let Some(event) = entry.and_then(|entry| object::decode(&entry.value).ok()) else { return self.forget(key) };
        let time = |field: &str| event[field].as_str().and_then(|text| text.parse().ok()).map(Timestamp);
        let created = || event["metadata"]["creationTimestamp"].as_str()?.parse().ok().map(Timestamp);
        let last =
            time("lastTimestamp").or_else(|| time("eventTime")).or_else(created).unwrap_or(Timestamp::from_seconds(0));
        let about = Uid::from(event["involvedObject"]["uid"].as_str().unwrap_or_default());
        let known = Known {
            about: about.clone(),
            first: time("firstTimestamp").unwrap_or(last),
            last,
            count: event["count"].as_u64().unwrap_or(1),
            unwritten: self.events.get(key).map_or(0, |known| known.unwritten),
        };
        self.by_object.entry(about).or_default().insert(key.clone());
        self.events.insert(key.clone(), known);
    }

    fn forget(&mut self, key: &Key) {
        let Some(known) = self.events.remove(key) else { return };
        if let Some(events) = self.by_object.get_mut(&known.about) {
            events.remove(key);
            if events.is_empty() {
                self.by_object.remove(&known.about);
            }
        }
    }

    /// What to write for something that happened: nothing where it was said a moment ago or where the caps are reached.
    pub fn record(&mut self, now: Timestamp, note: &Note) -> Vec<Operation> {
        let message = shortened(&note.message);
        let identity = format!("{}\n{}\n{message}", note.about.uid, note.reason);
        let hash = Digest::of(identity.as_bytes()).to_string();
        let stem: String = note.about.name.name.chars().take(230).collect();
        let name = format!("{}.{}", stem.trim_end_matches(['.', '-']), &hash[..16]);
        let namespace = match note.about.name.namespace.as_str() {
            "" => DEFAULT_NAMESPACE,
            namespace => namespace,
        };
        let key = keys::key(&EVENT, namespace, &name);
        let mut operations = Vec::new();
        let known = match self.events.get_mut(&key) {
            Some(known) => {
                known.unwritten += 1;
                if now.seconds() - known.last.seconds() < REPEAT_SECONDS {
                    return operations;
                }
                known.count += std::mem::take(&mut known.unwritten);
                known.last = now;
                known.clone()
            }
            None => {
                operations.extend(self.make_way(&note.about.uid).map(Operation::Delete));
                if self.events.len() >= PER_HUB_MAX {
                    return operations;
                }
                let known = Known { about: note.about.uid.clone(), first: now, last: now, count: 1, unwritten: 0 };
                self.by_object.entry(known.about.clone()).or_default().insert(key.clone());
                self.events.insert(key.clone(), known.clone());
                known
            }
        };
        let event = event(note, &message, namespace, &name, &hash, &known);
        operations.push(Operation::Put(key, object::encode(&event)));
        operations
    }

    /// The oldest event of an object that has too many.
    fn make_way(&mut self, about: &Uid) -> Option<Key> {
        let events = self.by_object.get(about).filter(|events| events.len() >= PER_OBJECT_MAX)?;
        let oldest = events.iter().min_by_key(|key| (self.events.get(*key).map(|known| known.last), *key))?.clone();
        self.forget(&oldest);
        Some(oldest)
    }

    /// Events whose time has come.
    pub fn expired(&self, now: Timestamp) -> Vec<Key> {
        let old = |known: &Known| known.last.plus_seconds(EXPIRY_SECONDS) <= now;
        self.events.iter().filter(|(_, known)| old(known)).map(|(key, _)| key.clone()).collect()
    }
}

fn event(note: &Note, message: &str, namespace: &str, name: &str, hash: &str, known: &Known) -> Value {
    let about = &note.about;
    let mut involved = json!({
        "apiVersion": about.gvk.api_version(),
        "kind": about.gvk.kind,
        "name": about.name.name,
        "uid": about.uid,
    });
    if !about.name.namespace.is_empty() {
        involved["namespace"] = about.name.namespace.as_str().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid_of(hash),
            "creationTimestamp": known.first.to_string(),
        },
        "involvedObject": involved,
        "reason": note.reason,
        "message": message,
        "type": if note.warning { "Warning" } else { "Normal" },
        "count": known.count,
        "firstTimestamp": known.first.to_string(),
        "lastTimestamp": known.last.to_string(),
        "source": {"component": "hanse-hub"},
        "reportingComponent": "hanse-hub",
        "reportingInstance": "",
    })
}

/// A UID made from a digest, for objects whose identity is what they say: the same thing gets the same one, and deciding
/// needs no randomness. Marked as version 8 (RFC 9562: custom).
pub fn uid_of(hash: &str) -> Uid {
    let part = |from: usize, to: usize| hash.get(from..to).unwrap_or("0");
    Uid(format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32)))
}

fn shortened(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GroupVersionKind, ObjectName};

    fn note(reason: &'static str, message: &str) -> Note {
        let about = About {
            gvk: GroupVersionKind::new("core.oam.dev", "v1beta1", "Application"),
            name: ObjectName::new("default", "web"),
            uid: "app".into(),
        };
        Note { about, warning: false, reason: reason.into(), message: message.into() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn puts(operations: &[Operation]) -> Vec<Value> {
        let put = |operation: &Operation| match operation {
            Operation::Put(_, value) => object::decode(value).ok(),
            Operation::Delete(_) => None,
        };
        operations.iter().filter_map(put).collect()
    }

    #[test]
    fn a_repeated_event_is_counted_and_not_written_each_time() {
        let mut recorder = Recorder::default();
        assert_eq!(puts(&recorder.record(at(100), &note("Placed", "9 = 3 + 4 + 2")))[0]["count"], 1);
        assert_eq!(recorder.record(at(101), &note("Placed", "9 = 3 + 4 + 2")), []);
        assert_eq!(puts(&recorder.record(at(111), &note("Placed", "9 = 3 + 4 + 2")))[0]["count"], 3);
        assert_eq!(puts(&recorder.record(at(111), &note("Placed", "2 = 2")))[0]["count"], 1);
    }

    #[test]
    fn the_oldest_event_of_an_object_gives_way() {
        let mut recorder = Recorder::default();
        for second in 0..PER_OBJECT_MAX {
            recorder.record(at(second as i64), &note("Placed", &second.to_string()));
        }
        let operations = recorder.record(at(1000), &note("Placed", "one more"));
        assert!(matches!(operations.as_slice(), [Operation::Delete(_), Operation::Put(..)]));
        assert_eq!(recorder.events.len(), PER_OBJECT_MAX);
    }

    #[test]
    fn what_was_stored_is_known_again_and_expires() {
        let mut first = Recorder::default();
        let operations = first.record(at(100), &note("Placed", "x"));
        let [Operation::Put(key, value)] = operations.as_slice() else { panic!("one event") };
        let entry = Entry { key: key.clone(), value: value.clone(), created: 1, modified: 1 };
        let mut second = Recorder::default();
        second.learn(key, Some(&entry));
        assert_eq!(second.record(at(105), &note("Placed", "x")), [], "said a moment ago");
        assert!(second.expired(at(100 + EXPIRY_SECONDS - 1)).is_empty());
        assert_eq!(second.expired(at(100 + EXPIRY_SECONDS)), vec![key.clone()]);
        second.learn(key, None);
        assert!(second.expired(at(1_000_000)).is_empty());
    }

    #[test]
    fn a_name_of_any_length_makes_a_valid_event() {
        let mut long = note("Placed", &"ä".repeat(2000));
        long.about.name.name = "x".repeat(253);
        let operations = Recorder::default().record(at(1), &long);
        let event = puts(&operations).remove(0);
        assert!(event["metadata"]["name"].as_str().is_some_and(|name| name.len() <= 253));
        assert!(event["message"].as_str().is_some_and(|message| message.len() <= MESSAGE_BYTES_MAX));
        assert!(uuid::Uuid::parse_str(event["metadata"]["uid"].as_str().unwrap_or_default()).is_ok());
    }
}
