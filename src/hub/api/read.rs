//! Get and list.

use std::collections::VecDeque;

use axum::{body::Body, response::Response};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Api,
    body::{self, Form, Shape},
    path::Target,
    query::{At, ListOptions, Query},
    status::{Refusal, Result},
    table::{self, Include},
};
use crate::{
    hub::{keys, limits},
    kinds::{Backing, Kind},
    store::{Entry, Key, List, Page, Revision, object},
};

/// How many entries are read from the store at once while a selector picks among them.
const PAGE: usize = 500;

pub async fn get(api: &Api, target: &Target, query: &Query, form: Form) -> Result<Response> {
    let mut value = match target.kind.backing {
        Backing::Store => stored(api, target).await?.0,
        Backing::View | Backing::Review(_) => viewed(api, target)?,
    };
    api.overlay(target.kind, &mut value);
    Ok(respond(api, target.kind, StatusCode::OK, form, query.include_object()?, value))
}

/// One object in the form that was asked for.
pub fn respond(api: &Api, kind: &Kind, code: StatusCode, form: Form, include: Include, value: Value) -> Response {
    let value = match form.shape {
        Shape::Whole => value,
        Shape::Metadata => table::partial(&value),
        Shape::Table => {
            let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
            table::table(kind, metadata, &[value], include, true, api.now())
        }
    };
    body::answer(code, form, &value)
}

/// The stored object with its resource version, and its entry.
pub async fn stored(api: &Api, target: &Target) -> Result<(Value, Entry)> {
    let key = keys::key(target.kind, target.namespace(), target.name());
    let entry = api.store.get(&key).await?.ok_or_else(|| Refusal::not_found(target.kind, target.name()))?;
    Ok((decode(&entry)?, entry))
}

pub fn decode(entry: &Entry) -> Result<Value> {
    object::decode_entry(entry).map_err(|error| Refusal::internal(format!("{}: {error}", entry.key)))
}

fn viewed(api: &Api, target: &Target) -> Result<Value> {
    let derived = api.view(target.kind).and_then(|view| view.get(target.namespace(), target.name()));
    derived.map(super::views::with_revision).ok_or_else(|| Refusal::not_found(target.kind, target.name()))
}

pub async fn list(api: &Api, target: &Target, query: &Query, form: Form) -> Result<Response> {
    let options = query.list_options(target.kind)?;
    let plain = form == Form::default() && options.selects_all() && target.kind.backing == Backing::Store;
    if plain {
        let (page, continuation) = page(api, target, &options).await?;
        return spliced(target.kind, &page, continuation);
    }
    let found = match target.kind.backing {
        Backing::Store => select(api, target, &options).await?,
        Backing::View | Backing::Review(_) => {
            catch_up(api, target.kind, &options).await;
            view_list(api, target, &options)?
        }
    };
    let mut metadata = json!({"resourceVersion": found.revision.to_string()});
    if let Some(token) = found.continuation {
        metadata["continue"] = json!(token);
    }
    if found.remaining > 0 {
        metadata["remainingItemCount"] = json!(found.remaining);
    }
    let kind = target.kind;
    let value = match form.shape {
        Shape::Table => {
            let mut objects = found.objects;
            objects.iter_mut().for_each(|object| api.overlay(kind, object));
            table::table(kind, metadata, &objects, query.include_object()?, true, api.now())
        }
        Shape::Metadata => {
            let items: Vec<_> = found.objects.iter().map(table::partial).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
        Shape::Whole => json!({
            "kind": format!("{}List", kind.gvk.kind), "apiVersion": kind.gvk.api_version(),
            "metadata": metadata, "items": found.objects,
        }),
    };
    Ok(body::answer(StatusCode::OK, form, &value))
}

/// What a list found.
pub struct Found {
    pub objects: Vec<Value>,
    pub revision: Revision,
    continuation: Option<String>,
    /// Objects that follow; only known where nothing is selected.
    remaining: u64,
}

/// Reads page after page until the limit is reached.
pub async fn select(api: &Api, target: &Target, options: &ListOptions) -> Result<Found> {
    let start = Start::of(target, options)?;
    let mut found = Found { objects: vec![], revision: 0, continuation: None, remaining: 0 };
    let mut list = List {
        prefix: prefix(target, options.fields.name()),
        after: start.after,
        limit: if options.selects_all() { options.limit } else { PAGE },
        at: start.at,
    };
    loop {
        let page = fetch(api, target, &list, start.least).await?;
        (found.revision, list.at) = (page.revision, Some(page.revision));
        let last = page.entries.last().map(|entry| entry.key.clone());
        let mut entries = VecDeque::from(page.entries);
        while let Some(entry) = entries.pop_front() {
            let object = decode(&entry)?;
            if !options.matches(&object) {
                continue;
            }
            found.objects.push(object);
            if options.limit > 0 && found.objects.len() == options.limit {
                let remaining = entries.len() as u64 + page.remaining;
                if remaining > 0 {
                    found.continuation = Some(token(target, found.revision, &entry.key));
                    found.remaining = if options.selects_all() { remaining } else { 0 };
                }
                return Ok(found);
            }
        }
        match last {
            Some(last) if page.remaining > 0 => list.after = Some(last),
            _ => return Ok(found),
        }
    }
}

async fn page(api: &Api, target: &Target, options: &ListOptions) -> Result<(Page, Option<String>)> {
    let start = Start::of(target, options)?;
    let list = List { prefix: prefix(target, None), after: start.after, limit: options.limit, at: start.at };
    let page = fetch(api, target, &list, start.least).await?;
    let next = page.entries.last().filter(|_| page.remaining > 0);
    let continuation = next.map(|last| token(target, page.revision, &last.key));
    Ok((page, continuation))
}

async fn fetch(api: &Api, target: &Target, list: &List, least: Revision) -> Result<Page> {
    match api.store.list(list.clone()).await {
        Ok(page) if page.revision < least => Err(Refusal::ahead(least, page.revision)),
        Ok(page) => Ok(page),
        Err(error) => {
            let refusal = Refusal::from(error);
            // Pages that expired can be taken up again where they stopped, on a newer state.
            match &list.after {
                Some(after) if refusal.code == StatusCode::GONE => Err(refusal.continued_by(token(target, 0, after))),
                _ => Err(refusal),
            }
        }
    }
}

/// The keys that a target names; all keys that begin with a name where only one can match.
pub fn prefix(target: &Target, name: Option<&str>) -> String {
    let namespace = if target.kind.is_namespaced() { target.namespace.as_deref() } else { Some("") };
    let prefix = keys::prefix(target.kind, namespace);
    match (namespace, name) {
        (Some(_), Some(name)) => prefix + name,
        _ => prefix,
    }
}

/// A list of stored bytes as they are: nothing is parsed.
fn spliced(kind: &Kind, page: &Page, continuation: Option<String>) -> Result<Response> {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(token) = continuation {
        metadata["continue"] = json!(token);
        metadata["remainingItemCount"] = json!(page.remaining);
    }
    let size: usize = page.entries.iter().map(|entry| entry.value.len() + 32).sum();
    let mut out = Vec::with_capacity(size + 256);
    let (list_kind, version) = (format!("{}List", kind.gvk.kind), kind.gvk.api_version());
    let head = format!(r#"{{"kind":"{list_kind}","apiVersion":"{version}","metadata":{metadata},"items":["#);
    out.extend_from_slice(head.as_bytes());
    for (index, entry) in page.entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let pieces = object::pieces(&entry.value, entry.modified);
        let pieces = pieces.map_err(|error| Refusal::internal(format!("{}: {error}", entry.key)))?;
        pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    }
    out.extend_from_slice(b"]}");
    let mut response = Response::new(Body::from(Bytes::from(out)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A client that comes from another replica may know of more than this one's view has seen.
async fn catch_up(api: &Api, kind: &Kind, options: &ListOptions) {
    let (Some(view), At::Newest { least }) = (api.view(kind), options.at) else { return };
    let reached = async {
        while view.revision() < least {
            tokio::time::sleep(limits::CATCH_UP_POLL).await;
        }
    };
    let _behind = tokio::time::timeout(limits::CATCH_UP_TIMEOUT, reached).await;
}

fn view_list(api: &Api, target: &Target, options: &ListOptions) -> Result<Found> {
    let Some(view) = api.view(target.kind) else {
        return Err(Refusal::unavailable(format!("{} are not ready to be shown yet", target.kind.plural)));
    };
    let (revision, objects) = view.list(target.namespace.as_deref());
    if options.continuation.is_some() || matches!(options.at, At::Exactly(at) if at != revision) {
        return Err(Refusal::expired("a view is only known as it is now: list it again without continue"));
    }
    if let At::Newest { least } = options.at
        && least > revision
    {
        return Err(Refusal::ahead(least, revision));
    }
    // Whole, whatever the limit: there is no older state of a view that further pages could be taken from.
    let objects = objects.into_iter().map(super::views::with_revision).filter(|object| options.matches(object));
    Ok(Found { objects: objects.collect(), revision, continuation: None, remaining: 0 })
}

/// Where a list begins.
struct Start {
    after: Option<Key>,
    at: Option<Revision>,
    least: Revision,
}

impl Start {
    fn of(target: &Target, options: &ListOptions) -> Result<Self> {
        let Some(token) = &options.continuation else {
            return Ok(match options.at {
                At::Newest { least } => Self { after: None, at: None, least },
                At::Exactly(at) => Self { after: None, at: Some(at), least: 0 },
            });
        };
        let refusal = || Refusal::bad_request("continue key is not valid");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| refusal())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| refusal())?;
        let (start, revision) = (value["start"].as_str(), value["rv"].as_u64());
        let (start, revision) = start.zip(revision).filter(|_| value["v"] == "meta.k8s.io/v1").ok_or_else(refusal)?;
        // The token says where within the resource, never which resource: it cannot be used to look elsewhere.
        let after = Some(Key::new(format!("{}{start}", prefix(target, None))));
        Ok(Self { after, at: (revision > 0).then_some(revision), least: 0 })
    }
}

/// `rv` 0 continues on the newest state.
fn token(target: &Target, revision: Revision, last: &Key) -> String {
    let start = last.as_str().strip_prefix(&prefix(target, None)).unwrap_or_default();
    BASE64_URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}
