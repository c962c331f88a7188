//! What is particular to namespaces: nothing is created in a missing or ending one, and none is deleted while it holds
//! what people put there.
//!
//! Kubernetes empties a namespace that is deleted. Here every Application in it stands for works in many clusters, so
//! the hub refuses instead and names what is there (rule 14: nothing is removed that nobody named).

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Api, delete,
    path::Target,
    read,
    status::{self, Refusal, Result},
    write::{self, Written},
};
use crate::{
    hub::keys,
    kinds::{self, Backing, Kind, Origin, metadata::mark_deleted},
    model::Timestamp,
    store::{Compare, Entry, List, Operation, Outcome, Store, Transaction, object},
};

pub const DEFAULT: &str = "default";

/// How many of each kind are named in a refusal.
const NAMED: usize = 3;

/// What must hold of the namespace when an object is created in it.
pub async fn admit(api: &Api, kind: &Kind, namespace: &str, name: &str) -> Result<Compare> {
    let key = keys::key(&kinds::NAMESPACE, "", namespace);
    let entry = api.store.get(&key).await?.ok_or_else(|| Refusal::not_found(&kinds::NAMESPACE, namespace))?;
    if read::decode(&entry)?["metadata"]["deletionTimestamp"].is_string() {
        return Err(Refusal::terminating(kind, name, namespace));
    }
    Ok(Compare::Modified(key, entry.modified))
}

/// Refuses while it holds something. Otherwise: closed first (creations that looked before now fail their compare),
/// looked at once more, emptied of what the hub itself put there, gone.
pub async fn delete(
    api: &Api,
    target: &Target,
    (object, entry): (&Value, &Entry),
    dry_run: bool,
    origin: &Origin,
) -> Result<Written> {
    let name = target.name();
    if name == DEFAULT {
        return Err(Refusal::forbidden_object(target.kind, name, "this namespace may not be deleted"));
    }
    refuse_if_held(api, target.kind, name).await?;
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let answer = status::deleted(target.kind, name, uid);
    if dry_run {
        return Ok(Written { code: StatusCode::OK, object: answer, revision: None, warnings: vec![] });
    }
    let mut closed = object.clone();
    mark_deleted(&mut closed, api.now(), origin);
    closed["status"]["phase"] = json!("Terminating");
    let closing = swap(entry, Operation::Put(entry.key.clone(), write::encode(&closed)?));
    let Outcome::Committed(revision) = api.commit(closing).await? else {
        return Err(Refusal::modified(target.kind, name));
    };
    let closed_entry = Entry { modified: revision, ..entry.clone() };
    if let Err(refusal) = refuse_if_held(api, target.kind, name).await {
        let reopening = swap(&closed_entry, Operation::Put(entry.key.clone(), entry.value.clone()));
        api.commit(reopening).await?;
        return Err(refusal);
    }
    for kind in kinds::all().into_iter().filter(|kind| kind.is_namespaced() && kind.backing == Backing::Store) {
        delete::sweep(api, kind, name).await?;
    }
    match api.commit(swap(&closed_entry, Operation::Delete(entry.key.clone()))).await? {
        Outcome::Committed(revision) => {
            Ok(Written { code: StatusCode::OK, object: answer, revision: Some(revision), warnings: vec![] })
        }
        Outcome::Conflict(_) => Err(Refusal::modified(target.kind, name)),
        Outcome::Unknown => Err(Refusal::outcome_unknown()),
    }
}

fn swap(entry: &Entry, operation: Operation) -> Transaction {
    Transaction { compares: vec![Compare::Modified(entry.key.clone(), entry.modified)], operations: vec![operation] }
}

async fn refuse_if_held(api: &Api, namespaces: &Kind, name: &str) -> Result<()> {
    let mut held = vec![];
    for kind in kinds::all().into_iter().filter(|kind| kind.keeps_namespace) {
        let prefix = keys::prefix(kind, Some(name));
        let page = api.store.list(List { prefix: prefix.clone(), after: None, limit: NAMED, at: None }).await?;
        if page.entries.is_empty() {
            continue;
        }
        let names = page.entries.iter().filter_map(|entry| entry.key.as_str().strip_prefix(&prefix));
        let names = names.collect::<Vec<_>>().join(", ");
        let more = if page.remaining > 0 { format!(" and {} more", page.remaining) } else { String::new() };
        held.push(format!("{} {names}{more}", kind.plural));
    }
    if held.is_empty() {
        return Ok(());
    }
    let detail = format!("it still holds {}; delete them first", held.join("; "));
    Err(Refusal::conflict(namespaces, name, &detail))
}

/// Made at first start.
pub async fn ensure_default(store: &dyn Store, uid: &str, now: Timestamp) -> Result<(), crate::store::Error> {
    let kind = &kinds::NAMESPACE;
    let key = keys::key(kind, "", DEFAULT);
    let value = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": DEFAULT, "uid": uid, "creationTimestamp": now, "generation": 1,
            "labels": {"kubernetes.io/metadata.name": DEFAULT},
        },
        "spec": {}, "status": {"phase": "Active"},
    });
    let mut transaction = Transaction::put(key.clone(), object::encode(&value));
    transaction.compares.push(Compare::Absent(key));
    store.commit(transaction).await.map(drop)
}
