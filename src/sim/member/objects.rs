//! The objects a simulated member stores, with uid, resourceVersion, generation and who owns which fields.
//!
//! Kept as compact JSON: a thousand members in one process hold thousands of objects, and a parsed one weighs ten times
//! its text.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{apply, template::list};
use crate::{
    agent::cluster::OWNER_LABEL,
    model::{Digest, Now, ObjectRef, Uid},
};

#[derive(Debug, Default)]
pub struct Objects {
    /// Makes uids of different members differ, and those of one member the same in every run.
    seed: String,
    map: BTreeMap<ObjectRef, Stored>,
    /// The resourceVersion of the last write.
    revision: u64,
    uids: u64,
}

#[derive(Debug)]
struct Stored {
    uid: Uid,
    owner: Option<String>,
    body: Box<str>,
    /// Per manager, the fields it listed or took over.
    intents: BTreeMap<String, Box<str>>,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub changed: bool,
    /// The owner label before and after.
    pub owner_before: Option<String>,
    pub owner: Option<String>,
}

impl Objects {
    pub fn new(seed: &str) -> Self {
        Self { seed: seed.to_owned(), ..Self::default() }
    }

    pub fn get(&self, object: &ObjectRef) -> Option<Value> {
        self.map.get(object).map(|stored| parse(&stored.body))
    }

    pub fn uid(&self, object: &ObjectRef) -> Option<&Uid> {
        self.map.get(object).map(|stored| &stored.uid)
    }

    /// The value of the owner label.
    pub fn owner(&self, object: &ObjectRef) -> Option<&str> {
        self.map.get(object)?.owner.as_deref()
    }

    pub fn refs(&self) -> impl Iterator<Item = &ObjectRef> {
        self.map.keys()
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn next_uid(&mut self) -> Uid {
        self.uids += 1;
        let hex = Digest::of(format!("{}/{}", self.seed, self.uids).as_bytes()).to_string();
        Uid(format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32]))
    }

    /// What the object becomes when `manager` applies `intent`, before defaults; nothing is stored yet.
    pub fn applied(&self, object: &ObjectRef, manager: &str, intent: &Value) -> Value {
        let Some(stored) = self.map.get(object) else { return intent.clone() };
        let mut live = parse(&stored.body);
        let intents = stored.intents.iter().map(|(name, text)| (name, parse(text))).collect::<Vec<_>>();
        let old = intents.iter().find(|(name, _)| *name == manager).map_or(Value::Null, |(_, old)| old.clone());
        let others = intents.iter().filter(|(name, _)| *name != manager).map(|(_, other)| other).collect::<Vec<_>>();
        apply::apply(&mut live, &old, intent, &others);
        live
    }

    /// Stores `value` as the object's whole content; `intent` is what `manager` owns in it from now on. The fields that
    /// the server keeps (uid, times, generation, status) are carried over.
    pub fn write(&mut self, now: Now, object: &ObjectRef, mut value: Value, manager: &str, intent: Intent) -> Written {
        let before = self.map.get(object);
        let previous = before.map_or(Value::Null, |stored| parse(&stored.body));
        let owner_before = before.and_then(|stored| stored.owner.clone());
        let uid = match before {
            Some(stored) => stored.uid.clone(),
            None => self.next_uid(),
        };
        let kept = &previous["metadata"];
        let metadata = &mut value["metadata"];
        metadata["name"] = object.name.name.clone().into();
        if !object.name.namespace.is_empty() {
            metadata["namespace"] = object.name.namespace.clone().into();
        }
        metadata["uid"] = uid.0.clone().into();
        metadata["creationTimestamp"] =
            kept.get("creationTimestamp").cloned().unwrap_or_else(|| now.wall.to_string().into());
        for field in ["resourceVersion", "generation", "deletionTimestamp"] {
            match kept.get(field) {
                Some(kept) => metadata[field] = kept.clone(),
                None => drop(metadata.as_object_mut().and_then(|metadata| metadata.remove(field))),
            }
        }
        if let Some(status) = previous.get("status") {
            value["status"] = status.clone();
        }
        if counts_generations(object) && spec_of(&value) != spec_of(&previous) {
            let generation = previous["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
            value["metadata"]["generation"] = generation.into();
        }
        let changed = value != previous;
        self.own(object, manager, intent, &previous, &value);
        let owner = self.store(object, uid, value, changed);
        Written { changed, owner_before, owner }
    }

    fn own(&mut self, object: &ObjectRef, manager: &str, intent: Intent, previous: &Value, value: &Value) {
        let Some(stored) = self.map.get_mut(object) else {
            // Filled in by `store`.
            let text = match intent {
                Intent::Applied(intent) => intent.to_string(),
                Intent::Changed => value.to_string(),
            };
            let intents = BTreeMap::from([(manager.to_owned(), text.into())]);
            let empty = Stored { uid: Uid::default(), owner: None, body: "null".into(), intents };
            self.map.insert(object.clone(), empty);
            return;
        };
        match intent {
            Intent::Applied(intent) => drop(stored.intents.insert(manager.to_owned(), intent.to_string().into())),
            Intent::Changed => {
                let Some(claimed) = apply::claim(previous, value, "") else { return };
                for (name, text) in &mut stored.intents {
                    if name != manager {
                        let mut rest = parse(text);
                        apply::disown(&mut rest, &claimed, "");
                        *text = rest.to_string().into();
                    }
                }
                let mut own = stored.intents.get(manager).map_or_else(|| json!({}), |text| parse(text));
                apply::apply(&mut own, &Value::Null, &claimed, &[]);
                stored.intents.insert(manager.to_owned(), own.to_string().into());
            }
        }
    }

    fn store(&mut self, object: &ObjectRef, uid: Uid, mut value: Value, changed: bool) -> Option<String> {
        if changed {
            self.revision += 1;
            value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        }
        let owner = value["metadata"]["labels"][OWNER_LABEL].as_str().map(str::to_owned);
        if let Some(stored) = self.map.get_mut(object) {
            stored.uid = uid;
            stored.owner.clone_from(&owner);
            stored.body = value.to_string().into();
        }
        owner
    }

    /// Writes a status; false where it says so already.
    pub fn write_status(&mut self, object: &ObjectRef, status: Value) -> bool {
        let Some(stored) = self.map.get(object) else { return false };
        let mut value = parse(&stored.body);
        let changed = value["status"] != status;
        if changed {
            value["status"] = status;
            let uid = stored.uid.clone();
            self.store(object, uid, value, true);
        }
        changed
    }

    /// Deletes, or, while there are finalizers, marks as being deleted (`false`).
    pub fn delete(&mut self, now: Now, object: &ObjectRef) -> bool {
        let Some(stored) = self.map.get(object) else { return true };
        let mut value = parse(&stored.body);
        if list(&value["metadata"]["finalizers"]).next().is_none() {
            self.map.remove(object);
            self.revision += 1;
            return true;
        }
        if value["metadata"].get("deletionTimestamp").is_none() {
            value["metadata"]["deletionTimestamp"] = now.wall.to_string().into();
            let uid = stored.uid.clone();
            self.store(object, uid, value, true);
        }
        false
    }
}

/// What a write makes its manager own.
#[derive(Debug, Clone, PartialEq)]
pub enum Intent {
    /// Exactly these fields (server-side apply).
    Applied(Value),
    /// What it changed (an update).
    Changed,
}

/// Core kinds carry no generation, but for pods.
fn counts_generations(object: &ObjectRef) -> bool {
    !object.gvk.group.is_empty() || object.gvk.kind == "Pod"
}

/// Everything a generation counts: all but metadata and status.
fn spec_of(value: &Value) -> BTreeMap<&String, &Value> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status")).collect()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}
