//! Delete and deletecollection.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Api,
    body::{self, Encoding},
    namespaces,
    path::Target,
    query::Query,
    read,
    status::{self, Refusal, Result},
    write::{self, Written},
};
use crate::{
    hub::{keys, limits},
    kinds::{Kind, Origin, metadata::mark_deleted},
    store::{Compare, Entry, Operation, Outcome, Transaction, object},
};

/// Of the body or the query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl DeleteOptions {
    pub fn of(query: &Query, bytes: &[u8], encoding: Encoding) -> Result<Self> {
        let body = match bytes.is_empty() {
            true => json!({}),
            false => body::decode(bytes, encoding)?.value,
        };
        if !body.is_object() {
            return Err(Refusal::bad_request("the body must be DeleteOptions"));
        }
        let mut dry_run = query.dry_run()?;
        for value in body["dryRun"].as_array().into_iter().flatten() {
            if value != "All" {
                return Err(Refusal::bad_request("dryRun: the only supported value is \"All\""));
            }
            dry_run = true;
        }
        let propagation = body["propagationPolicy"].as_str().or_else(|| query.get("propagationPolicy"));
        let orphans = body["orphanDependents"] == true || query.get("orphanDependents") == Some("true");
        match propagation {
            // With finalizers an object stays until what hangs on it is gone: that is what Foreground asks for.
            None | Some("" | "Background" | "Foreground") if !orphans => {}
            None | Some("" | "Background" | "Foreground" | "Orphan") => {
                return Err(Refusal::bad_request(
                    "propagationPolicy Orphan is not supported: deleting an Application removes what it runs (a Cluster \
                     keeps it by its own spec.deletionPolicy)",
                ));
            }
            Some(other) => return Err(Refusal::bad_request(format!("propagationPolicy: {other:?} is not supported"))),
        }
        let precondition = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
        Ok(Self { dry_run, uid: precondition("uid"), resource_version: precondition("resourceVersion") })
    }
}

/// Holds preconditions against an object: 409 in words where they do not hold.
pub fn hold(kind: &Kind, name: &str, object: &Value, resource_version: Option<&str>, uid: Option<&str>) -> Result<()> {
    let actual = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    if let Some(asked) = uid
        && asked != actual("uid")
    {
        let found = actual("uid");
        let detail = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
        return Err(Refusal::conflict(kind, name, &detail));
    }
    match resource_version {
        Some(asked) if asked != actual("resourceVersion") => Err(Refusal::modified(kind, name)),
        _ => Ok(()),
    }
}

pub async fn delete(api: &Api, target: &Target, options: &DeleteOptions, origin: &Origin) -> Result<Written> {
    let kind = target.kind;
    for _ in 0..limits::PATCH_ATTEMPTS_MAX {
        let (object, entry) = read::stored(api, target).await?;
        hold(kind, target.name(), &object, options.resource_version.as_deref(), options.uid.as_deref())?;
        if kind.holds_objects {
            return namespaces::delete(api, target, (&object, &entry), options.dry_run, origin).await;
        }
        if let Some(written) = remove(api, target, (object, &entry), options.dry_run, origin).await? {
            return Ok(written);
        }
    }
    Err(Refusal::modified(kind, target.name()))
}

/// Deletes, or marks for deletion where finalizers hold it. `None` where somebody else was faster.
async fn remove(
    api: &Api,
    target: &Target,
    (object, entry): (Value, &Entry),
    dry_run: bool,
    origin: &Origin,
) -> Result<Option<Written>> {
    let kind = target.kind;
    let finalizers = object["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
    let (answer, operation) = if finalizers == 0 {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        (status::deleted(kind, target.name(), uid), Operation::Delete(entry.key.clone()))
    } else if object["metadata"]["deletionTimestamp"].is_string() {
        return Ok(Some(Written { code: StatusCode::OK, object, revision: None, warnings: vec![] }));
    } else {
        let mut marked = object;
        mark_deleted(&mut marked, api.now(), origin);
        let operation = Operation::Put(entry.key.clone(), write::encode(&marked)?);
        (marked, operation)
    };
    let written = |object, revision| Written { code: StatusCode::OK, object, revision, warnings: vec![] };
    if dry_run {
        return Ok(Some(written(answer, None)));
    }
    let compares = vec![Compare::Modified(entry.key.clone(), entry.modified)];
    match api.commit(Transaction { compares, operations: vec![operation] }).await? {
        Outcome::Committed(revision) => {
            let mut answer = answer;
            if finalizers > 0 {
                object::set_resource_version(&mut answer, revision);
            }
            Ok(Some(written(answer, Some(revision))))
        }
        Outcome::Conflict(_) => Ok(None),
        Outcome::Unknown => Err(Refusal::outcome_unknown()),
    }
}

/// Every object that the selectors match, one by one; answered as the list of what was found.
pub async fn delete_collection(
    api: &Api,
    target: &Target,
    query: &Query,
    options: &DeleteOptions,
    origin: &Origin,
) -> Result<Written> {
    let kind = target.kind;
    let found = read::select(api, target, &query.list_options(kind)?).await?;
    if let Some(most) = kind.collection_deletion_max
        && found.objects.len() > most
    {
        // Rule 14: what nobody named one by one is not removed by the dozen.
        let count = found.objects.len();
        let detail = format!(
            "this would delete {count} {} that nobody named, more than {most} at once: delete them by name",
            kind.plural
        );
        return Err(Refusal::conflict(kind, "", &detail));
    }
    let mut last = None;
    for object in &found.objects {
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().map(str::to_owned);
        let one = Target { name: text("name"), namespace: text("namespace"), ..target.clone() };
        let of_this_one = DeleteOptions { uid: text("uid"), ..options.clone() };
        match delete(api, &one, &of_this_one, origin).await {
            Ok(written) => last = written.revision.or(last),
            // Gone already, or another of that name: neither is what was selected.
            Err(refusal) if [StatusCode::NOT_FOUND, StatusCode::CONFLICT].contains(&refusal.code) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    let object = json!({
        "kind": format!("{}List", kind.gvk.kind), "apiVersion": kind.gvk.api_version(),
        "metadata": {"resourceVersion": found.revision.to_string()}, "items": found.objects,
    });
    Ok(Written { code: StatusCode::OK, object, revision: last, warnings: vec![] })
}

/// Deletes keys without looking at them, as many to a transaction as it takes.
pub async fn sweep(api: &Api, kind: &Kind, namespace: &str) -> Result<()> {
    use crate::store::{List, OPERATIONS_MAX};
    loop {
        let prefix = keys::prefix(kind, Some(namespace));
        let page = api.store.list(List { prefix, after: None, limit: OPERATIONS_MAX, at: None }).await?;
        if page.entries.is_empty() {
            return Ok(());
        }
        let operations = page.entries.into_iter().map(|entry| Operation::Delete(entry.key)).collect();
        api.store.commit(Transaction { compares: vec![], operations }).await?;
    }
}
