//! `POST …/applications/NAME/binding`: what a scheduler that is not the hub's own decided.
//!
//! Here the binding is checked against the Application and the clusters that are stored, and kept; whether there is room
//! is for the leader to say, in the Application's conditions. A binding that is kept takes the place of the one before.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{
    Api, body, read,
    status::{Refusal, Result},
    write::{Request, Written},
};
use crate::{
    flow::admit::{Asked, admit_binding},
    hub::{
        keys, limits,
        records::{self, Record},
    },
    kinds::{CLUSTER, Kind, application::binding_schema, strict},
    model::{Application, FieldError, Uid, object::FieldErrorKind::Invalid},
    store::{Compare, Operation, Outcome, Transaction},
};

const KIND: &str = "ApplicationBinding";

pub async fn bind(api: &Api, request: &Request<'_>, headers: &HeaderMap, bytes: &[u8]) -> Result<Written> {
    let (kind, target) = (request.target.kind, request.target);
    let value = decode(kind, target.name(), body::decode(bytes, body::encoding(headers)?)?)?;
    let asked: Asked = serde_json::from_value(value["spec"].clone())
        .map_err(|error| Refusal::bad_request(format!("spec cannot be read: {error}")))?;
    for _ in 0..limits::PATCH_ATTEMPTS_MAX {
        let (object, entry) = read::stored(api, target).await?;
        let metadata = &value["metadata"];
        let (version, uid) = (metadata["resourceVersion"].as_str(), metadata["uid"].as_str());
        super::delete::hold(kind, target.name(), &object, version, uid)?;
        let application: Application =
            serde_json::from_value(object).map_err(|error| Refusal::internal(error.to_string()))?;
        hold(kind, &application, &asked)?;
        let clusters = clusters(api, &asked).await?;
        let binding = admit_binding(&asked, &application, &clusters, &request.origin.user)
            .map_err(|faults| Refusal::invalid(kind, target.name(), &faults))?;
        let answer = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
        let written = |revision| Written { code: StatusCode::CREATED, object: answer, revision, warnings: vec![] };
        if request.options.dry_run {
            return Ok(written(None));
        }
        let record = Record::Binding(application.metadata.uid.clone()).key();
        let bytes = records::value(&binding);
        if bytes.len() > limits::OBJECT_BYTES_MAX {
            return Err(Refusal::too_large("the binding is too large to be stored"));
        }
        let compares = vec![Compare::Modified(entry.key.clone(), entry.modified)];
        let operations = vec![Operation::Put(record, bytes)];
        match api.commit(Transaction { compares, operations }).await? {
            Outcome::Committed(revision) => return Ok(written(Some(revision))),
            // Most of what changes an Application is its status, which is nothing to a binding.
            Outcome::Conflict(_) if version.is_none() => {}
            Outcome::Conflict(_) => break,
            Outcome::Unknown => return Err(Refusal::outcome_unknown()),
        }
    }
    Err(Refusal::modified(kind, target.name()))
}

/// The body, if it has the shape of a binding: nothing in it is left unread.
fn decode(kind: &Kind, name: &str, decoded: strict::Decoded) -> Result<Value> {
    let value = decoded.value;
    for (field, expected) in [("apiVersion", kind.gvk.api_version().as_str()), ("kind", KIND)] {
        if value[field].as_str() != Some(expected) {
            let found = crate::kinds::excerpt(&value[field]);
            return Err(Refusal::bad_request(format!("{field} in the body is {found}, this URL takes {expected:?}")));
        }
    }
    let schema = binding_schema();
    let mut unknown = strict::unknown_fields(&schema, &value, limits::FAULTS_MAX);
    unknown.extend(decoded.duplicates);
    if !unknown.is_empty() {
        let texts: Vec<_> = unknown.iter().map(ToString::to_string).collect();
        return Err(Refusal::bad_request(format!("strict decoding error: {}", texts.join(", "))));
    }
    let mut faults = schema.validate(&value, limits::FAULTS_MAX);
    let own = &value["metadata"]["name"];
    if own.as_str().is_some_and(|own| own != name) {
        faults.push(FieldError::new("metadata.name", Invalid, format!("must be {name:?}, as in the URL")));
    }
    if faults.is_empty() { Ok(value) } else { Err(Refusal::invalid(kind, name, &faults)) }
}

/// Whether this Application, as it is now, is another scheduler's to bind.
fn hold(kind: &Kind, application: &Application, asked: &Asked) -> Result<()> {
    let metadata = &application.metadata;
    let detail = if metadata.deletion_timestamp.is_some() {
        "it is being deleted".to_owned()
    } else if application.spec.other_scheduler().is_none() {
        "the hub itself places it: its spec.schedulerName names no other scheduler".to_owned()
    } else if asked.generation != metadata.generation {
        format!("generation {} was decided on, and it is {} now", asked.generation, metadata.generation)
    } else {
        return Ok(());
    };
    Err(Refusal::conflict(kind, &metadata.name, &detail))
}

/// Those of the named clusters that are there.
async fn clusters(api: &Api, asked: &Asked) -> Result<BTreeMap<String, Uid>> {
    let mut known = BTreeMap::new();
    for cluster in &asked.clusters {
        if let Some(entry) = api.store.get(&keys::key(&CLUSTER, "", &cluster.name)).await? {
            let object = read::decode(&entry)?;
            if !object["metadata"]["deletionTimestamp"].is_string() {
                known.insert(cluster.name.clone(), Uid::from(object["metadata"]["uid"].as_str().unwrap_or_default()));
            }
        }
    }
    Ok(known)
}
