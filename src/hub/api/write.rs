//! Create, update and patch: one pipeline from a body to a committed object.
//!
//! read → decode (findings) → system metadata → hooks → normalise → validate, every fault at once → commit on the state
//! it was computed from. A patch that loses a race is computed again on the newer state; an update is not: its author
//! must look first.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{
    Api, body, namespaces,
    patch::Patch,
    path::{Subresource, Target},
    protobuf,
    query::{Validation, WriteOptions},
    read,
    status::{Refusal, Result},
};
use crate::{
    hub::{keys, limits},
    kinds::{
        Hooks, Kind, Origin,
        metadata::keep_deletion,
        strict::{self, Decoded, Finding},
    },
    model::{FieldError, object::FieldErrorKind},
    store::{Compare, Entry, Operation, Outcome, Revision, Transaction, object},
};

/// What a write came to.
#[derive(Debug)]
pub struct Written {
    pub code: StatusCode,
    /// What is answered: the object, or a Status.
    pub object: Value,
    /// Absent where nothing was stored: dry run, or nothing changed.
    pub revision: Option<Revision>,
    pub warnings: Vec<Finding>,
}

/// One write request.
pub struct Request<'a> {
    pub target: &'a Target,
    pub options: WriteOptions,
    pub origin: Origin,
}

/// Faults that are looked for; more than are named, so that the rest can be counted.
const FAULTS_COUNTED: usize = 10 * limits::FAULTS_MAX;

/// A whole object of a body, with what strict decoding found.
pub fn decode(kind: &Kind, headers: &HeaderMap, bytes: &[u8], validation: Validation) -> Result<(Value, Vec<Finding>)> {
    let decoded = match body::media_type(headers) {
        protobuf::MEDIA_TYPE => Decoded { value: protobuf::decode(kind, bytes)?, duplicates: vec![] },
        _ => body::decode(bytes, body::encoding(headers)?)?,
    };
    let value = decoded.value;
    if !value.is_object() {
        return Err(Refusal::bad_request("the body must be an object"));
    }
    let expected = [("apiVersion", kind.gvk.api_version()), ("kind", kind.gvk.kind.clone())];
    for (field, expected) in expected {
        if value[field].as_str() != Some(expected.as_str()) {
            let found = crate::kinds::excerpt(&value[field]);
            return Err(Refusal::bad_request(format!("{field} in the body is {found}, this URL takes {expected:?}")));
        }
    }
    let findings = findings(kind, &value, decoded.duplicates, validation)?;
    Ok((value, findings))
}

/// Findings as warnings, or as a refusal where the client asked to be strict.
fn findings(kind: &Kind, value: &Value, duplicates: Vec<Finding>, validation: Validation) -> Result<Vec<Finding>> {
    if validation == Validation::Ignore {
        return Ok(vec![]);
    }
    let unknown = strict::unknown_fields(&kind.schema, value, FAULTS_COUNTED);
    let found: Vec<_> = duplicates.into_iter().chain(unknown).collect();
    if validation == Validation::Warn || found.is_empty() {
        return Ok(found);
    }
    let (named, rest) = found.split_at(found.len().min(limits::FAULTS_MAX));
    let mut texts: Vec<_> = named.iter().map(ToString::to_string).collect();
    if !rest.is_empty() {
        texts.push(format!("and {} more", rest.len()));
    }
    Err(Refusal::bad_request(format!("strict decoding error: {}", texts.join(", "))))
}

pub async fn create(api: &Api, request: &Request<'_>, headers: &HeaderMap, bytes: &[u8]) -> Result<Written> {
    let (kind, namespace) = (request.target.kind, request.target.namespace());
    let (mut value, warnings) = decode(kind, headers, bytes, request.options.validation)?;
    let base = begin(kind, namespace, &mut value, api.now())?;
    if value["metadata"]["name"].as_str().unwrap_or_default().is_empty() && !base.is_empty() {
        for _ in 0..limits::NAME_ATTEMPTS_MAX {
            let mut named = value.clone();
            named["metadata"]["name"] = json!(super::names::generate(&base));
            match insert(api, request, named).await {
                Err(refusal) if refusal.reason == "AlreadyExists" => continue,
                other => return other.map(|written| Written { warnings, ..written }),
            }
        }
        return Err(Refusal::names_exhausted(kind, &base));
    }
    insert(api, request, value).await.map(|written| Written { warnings, ..written })
}

/// Sets what the hub sets on every new object. Returns the `generateName`.
fn begin(kind: &Kind, namespace: &str, value: &mut Value, now: crate::model::Timestamp) -> Result<String> {
    let Some(metadata) = object::metadata_mut(value) else {
        return Err(Refusal::bad_request("the body must be an object"));
    };
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !text("resourceVersion").is_empty() {
        return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let own = text("namespace");
    if kind.is_namespaced() && !own.is_empty() && own != namespace {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let base = text("generateName");
    for field in ["resourceVersion", "selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".into(), json!(now));
    metadata.insert("generation".into(), json!(1));
    if kind.is_namespaced() {
        metadata.insert("namespace".into(), json!(namespace));
    }
    if kind.has_status() {
        value.as_object_mut().map(|fields| fields.remove("status"));
    }
    keep_deletion(None, value);
    Ok(base)
}

async fn insert(api: &Api, request: &Request<'_>, mut value: Value) -> Result<Written> {
    let kind = request.target.kind;
    kind.schema.normalise(&mut value);
    if let Some(finalizer) = kind.hub_finalizer {
        add_finalizer(&mut value, finalizer);
    }
    (kind.hooks.prepare)(&mut value, None, &request.origin);
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // Size first: what is too large to be kept is not rendered to find its faults.
    let bytes = encode(&value)?;
    check(api, kind, &value, None)?;
    let key = keys::key(kind, request.target.namespace(), &name);
    for _ in 0..limits::PATCH_ATTEMPTS_MAX {
        let mut transaction = Transaction::put(key.clone(), bytes.clone());
        transaction.compares.push(Compare::Absent(key.clone()));
        if kind.is_namespaced() {
            transaction.compares.push(namespaces::admit(api, kind, request.target.namespace(), &name).await?);
        }
        let revision = if request.options.dry_run {
            if api.store.get(&key).await?.is_some() {
                return Err(Refusal::already_exists(kind, &name));
            }
            None
        } else {
            match api.commit(transaction).await? {
                Outcome::Committed(revision) => Some(revision),
                Outcome::Conflict(found) if found.first().is_some_and(Option::is_some) => {
                    return Err(Refusal::already_exists(kind, &name));
                }
                // The namespace changed meanwhile: look at it again.
                Outcome::Conflict(_) => continue,
                Outcome::Unknown => return Err(Refusal::outcome_unknown()),
            }
        };
        if let Some(revision) = revision {
            object::set_resource_version(&mut value, revision);
        }
        return Ok(Written { code: StatusCode::CREATED, object: value, revision, warnings: vec![] });
    }
    Err(Refusal::modified(kind, &name))
}

pub async fn update(api: &Api, request: &Request<'_>, headers: &HeaderMap, bytes: &[u8]) -> Result<Written> {
    let (kind, target) = (request.target.kind, request.target);
    let (value, warnings) = decode(kind, headers, bytes, request.options.validation)?;
    let metadata = &value["metadata"];
    if metadata["name"].as_str() != Some(target.name()) {
        return Err(Refusal::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({:?})",
            crate::kinds::excerpt(&metadata["name"]),
            target.name()
        )));
    }
    let own = metadata["namespace"].as_str().unwrap_or_default();
    if kind.is_namespaced() && !own.is_empty() && own != target.namespace() {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let conditional = metadata["resourceVersion"].as_str().is_some_and(|text| !text.is_empty());
    if !conditional && !kind.gvk.group.is_empty() {
        let fault =
            FieldError::new("metadata.resourceVersion", FieldErrorKind::Invalid, "must be specified for an update");
        return Err(Refusal::invalid(kind, target.name(), &[fault]));
    }
    for _ in 0..limits::PATCH_ATTEMPTS_MAX {
        let (old, entry) = read::stored(api, target).await?;
        let mut value = value.clone();
        // A file that a person keeps says nothing of finalizers: silence does not take the hub's away.
        if let Some(finalizer) = kind.hub_finalizer
            && value["metadata"]["finalizers"].is_null()
            && has_finalizer(&old, finalizer)
        {
            add_finalizer(&mut value, finalizer);
        }
        if let Some(written) = replace(api, request, &old, &entry, value).await? {
            return Ok(Written { warnings, ..written });
        }
        if conditional {
            break;
        }
    }
    Err(Refusal::modified(kind, target.name()))
}

pub async fn patch(api: &Api, request: &Request<'_>, headers: &HeaderMap, bytes: &[u8]) -> Result<Written> {
    let (kind, target) = (request.target.kind, request.target);
    let (patch, duplicates) = Patch::of(kind, body::media_type(headers), bytes)?;
    for _ in 0..limits::PATCH_ATTEMPTS_MAX {
        let (old, entry) = read::stored(api, target).await?;
        let new = patch.apply(kind, target.name(), &old)?;
        for field in ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace"] {
            if new.pointer(field) != old.pointer(field) {
                let field = field.trim_start_matches('/').replace('/', ".");
                return Err(Refusal::bad_request(format!("a patch cannot change {field}")));
            }
        }
        let warnings = findings(kind, &new, duplicates.clone(), request.options.validation)?;
        if let Some(written) = replace(api, request, &old, &entry, new).await? {
            return Ok(Written { warnings, ..written });
        }
    }
    Err(Refusal::modified(kind, target.name()))
}

/// Stores `new` in the place of `old`. `None` where somebody else was faster: read again.
pub async fn replace(
    api: &Api,
    request: &Request<'_>,
    old: &Value,
    entry: &Entry,
    new: Value,
) -> Result<Option<Written>> {
    let (kind, target) = (request.target.kind, request.target);
    let preconditions = (text(&new, "resourceVersion"), text(&new, "uid"));
    super::delete::hold(kind, target.name(), old, preconditions.0, preconditions.1)?;
    let mut new = carry_over(kind, target.subresource, old, new);
    kind.schema.normalise(&mut new);
    if target.subresource.is_none() {
        (kind.hooks.prepare)(&mut new, Some(old), &request.origin);
    }
    object::set_resource_version(&mut new, entry.modified);
    // Not even what the hub itself adds would differ: nothing is written, and no revision is spent.
    if *old == new {
        return Ok(Some(Written { code: StatusCode::OK, object: old.clone(), revision: None, warnings: vec![] }));
    }
    let bytes = encode(&new)?;
    check(api, kind, &new, Some(old))?;
    // Its last finalizer gone, an object that is being deleted goes.
    let operation = match is_finished(&new) {
        true => Operation::Delete(entry.key.clone()),
        false => Operation::Put(entry.key.clone(), bytes),
    };
    if request.options.dry_run {
        return Ok(Some(Written { code: StatusCode::OK, object: new, revision: None, warnings: vec![] }));
    }
    let compares = vec![Compare::Modified(entry.key.clone(), entry.modified)];
    match api.commit(Transaction { compares, operations: vec![operation] }).await? {
        Outcome::Committed(revision) => {
            object::set_resource_version(&mut new, revision);
            Ok(Some(Written { code: StatusCode::OK, object: new, revision: Some(revision), warnings: vec![] }))
        }
        Outcome::Conflict(_) => Ok(None),
        Outcome::Unknown => Err(Refusal::outcome_unknown()),
    }
}

/// Keeps of the old object what a write through this endpoint cannot change, and counts the generation.
fn carry_over(kind: &Kind, subresource: Option<Subresource>, old: &Value, mut new: Value) -> Value {
    if subresource == Some(Subresource::Status) {
        let mut kept = old.clone();
        kept["status"] = new["status"].take();
        return kept;
    }
    if let Some(fields) = new.as_object_mut()
        && kind.has_status()
    {
        match old.get("status") {
            Some(status) => drop(fields.insert("status".into(), status.clone())),
            None => drop(fields.remove("status")),
        }
    }
    if let Some(metadata) = object::metadata_mut(&mut new) {
        metadata.remove("managedFields");
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "generateName",
            "selfLink",
        ] {
            match old["metadata"].get(field) {
                Some(value) => drop(metadata.insert(field.into(), value.clone())),
                None => drop(metadata.remove(field)),
            }
        }
    }
    keep_deletion(Some(old), &mut new);
    if content_differs(kind, old, &new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = json!(generation + 1);
    }
    new
}

/// Whether anything but metadata (and status, where it stands apart) differs.
fn content_differs(kind: &Kind, old: &Value, new: &Value) -> bool {
    let mut normal = new.clone();
    kind.schema.normalise(&mut normal);
    let apart = |name: &str| name == "metadata" || name == "status" && kind.has_status();
    let content = |value: &Value| {
        let fields = value.as_object().into_iter().flatten().filter(|(name, _)| !apart(name));
        fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    content(old) != content(&normal)
}

fn is_finished(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let finalizers = metadata["finalizers"].as_array().map_or(0, Vec::len);
    metadata["deletionTimestamp"].is_string() && finalizers == 0
}

fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object["metadata"][field].as_str().filter(|text| !text.is_empty())
}

/// Schema, metadata, the kind's own rules and the hub's admission: every fault at once.
pub(super) fn check(api: &Api, kind: &Kind, new: &Value, old: Option<&Value>) -> Result<()> {
    let mut faults = kind.schema.validate(new, FAULTS_COUNTED);
    // What the schema already faults is not said a second time by rules that read the same fields.
    faults.extend(crate::kinds::check_metadata(kind, new));
    let Hooks { check, .. } = &kind.hooks;
    faults.extend(check(new, old));
    if let Some(old) = old {
        faults.extend(new_finalizers(old, new));
        faults.extend(lost_finalizer(kind, old, new));
    }
    // An object admitted once is not refused for a change elsewhere: its finalizers must stay removable.
    let content_is_new = old.is_none_or(|old| old["spec"] != new["spec"]);
    if content_is_new && faults.is_empty() {
        faults.extend(api.admit(kind, new, old));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid(kind, new["metadata"]["name"].as_str().unwrap_or_default(), &faults))
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|held| held.iter().any(|finalizer| finalizer == name))
}

fn add_finalizer(object: &mut Value, name: &str) {
    if has_finalizer(object, name) {
        return;
    }
    match &mut object["metadata"]["finalizers"] {
        Value::Array(held) => held.push(json!(name)),
        other => *other = json!([name]),
    }
}

/// Who takes it away himself leaves behind what nobody cleans up.
fn lost_finalizer(kind: &Kind, old: &Value, new: &Value) -> Option<FieldError> {
    let name = kind.hub_finalizer.filter(|name| has_finalizer(old, name) && !has_finalizer(new, name))?;
    let detail = format!(
        "{name:?} is taken off by the hub, once what hangs on the object is cleaned up (`hanse cluster forget` unblocks \
         what waits for a lost cluster)"
    );
    Some(FieldError::new("metadata.finalizers", FieldErrorKind::Invalid, detail))
}

/// What is being deleted takes no new finalizers, or it might never go.
fn new_finalizers(old: &Value, new: &Value) -> Option<FieldError> {
    if !old["metadata"]["deletionTimestamp"].is_string() {
        return None;
    }
    let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let before = list(old);
    let added: Vec<_> = list(new).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
    let detail = || format!("no new finalizers can be added if the object is being deleted, found {}", json!(added));
    (!added.is_empty()).then(|| FieldError::new("metadata.finalizers", FieldErrorKind::Forbidden, detail()))
}

pub fn encode(value: &Value) -> Result<bytes::Bytes> {
    let bytes = object::encode(value);
    if bytes.len() > limits::OBJECT_BYTES_MAX {
        let (size, most) = (bytes.len(), limits::OBJECT_BYTES_MAX);
        return Err(Refusal::too_large(format!("the object takes {size} bytes, more than the limit of {most}")));
    }
    Ok(bytes)
}
