//! One request from its head to its answer: who, what, may they, within the limits, done, recorded.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::{Body, HttpBody},
    extract::State,
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request::Parts};
use serde_json::{Value, json};

use super::{
    Api, bind, body,
    body::{Encoding, Shape},
    delete::{self, DeleteOptions},
    discovery, openapi,
    path::{self, Route, Subresource, Target},
    query::Query,
    questions, read, reviews,
    status::{Refusal, Result},
    watch,
    write::{self, Written},
};
use crate::{
    hub::{
        auth::{self, Attributes, Audit, Decision, Record, Subject},
        limits,
        listen::{Peer, Remote},
    },
    kinds::{Backing, Origin, Review, Status, Verb, strict::Finding},
    model::Digest,
    store,
};

/// Who asks, and what their answer is to be found under.
struct Caller {
    subject: Subject,
    trace: String,
    audit_id: String,
}

pub async fn handle(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let (parts, mut body) = request.into_parts();
    let audit_id = uuid::Uuid::new_v4().to_string();
    let served = serve(&api, &parts, &mut body, &audit_id).await;
    let mut response = served.unwrap_or_else(|refusal| refusal.response());
    if !body.is_end_stream() {
        response = body::outlasted(response, body);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&audit_id) {
        headers.insert("audit-id", value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

async fn serve(api: &Arc<Api>, parts: &Parts, body: &mut Body, audit_id: &str) -> Result<Response> {
    let caller = identify(api, parts, audit_id)?;
    let lane = if caller.subject.is_anonymous() { &api.anonymous } else { &api.people };
    let slot = lane.clone().try_acquire_owned().map_err(|_| Refusal::too_many())?;
    let query = Query::of(&parts.uri)?;
    let route = path::parse(parts.uri.path());
    let Ok(Route::Resource(target)) = route else {
        let verb = if [Method::GET, Method::HEAD].contains(&parts.method) { "get" } else { "post" };
        let attributes =
            Attributes { verb: verb.to_owned(), path: path_of(&route, parts.uri.path()), ..Attributes::default() };
        permit(&caller.subject, &attributes)?;
        return pages(api, parts, &query, route?).await;
    };
    let verb = path::verb(&parts.method, &target, query.is_watch()?)?;
    if verb == Verb::Watch {
        // Watches have a lane of their own: they last, and would fill any other.
        drop(slot);
        permit(&caller.subject, &attributes_of(&target, verb))?;
        serves(&target, verb)?;
        return watch::watch(api.clone(), &target, &query, body::wanted(&parts.headers)?).await;
    }
    let doing = async {
        if let (Backing::Review(review), Verb::Create) = (target.kind.backing, verb) {
            self::review(api, parts, body, &caller, (&target, review), &query).await
        } else if verb.writes() {
            change(api, parts, body, &caller, &target, verb, &query).await
        } else {
            permit(&caller.subject, &attributes_of(&target, verb))?;
            serves(&target, verb)?;
            let form = body::wanted(&parts.headers)?;
            match verb {
                Verb::Get => read::get(api, &target, &query, form).await,
                _ => read::list(api, &target, &query, form).await,
            }
        }
    };
    match tokio::time::timeout(limits::REQUEST_TIMEOUT, doing).await {
        Ok(done) => done,
        Err(_) => Err(Refusal::outcome_unknown()),
    }
}

fn identify(api: &Api, parts: &Parts, audit_id: &str) -> Result<Caller> {
    let peer = parts.extensions.get::<Peer>().cloned().unwrap_or(Peer::Anonymous);
    let subject = match auth::authenticate(&peer, &parts.headers, &api.tokens) {
        Ok(subject) => subject,
        // Health is for everybody, whatever they present.
        Err(_) if matches!(path::parse(parts.uri.path()), Ok(Route::Health)) => Subject::anonymous(),
        Err(error) => return Err(Refusal::unauthorized(format!("Unauthorized: {error}"))),
    };
    if parts.headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Err(Refusal::forbidden("impersonation is not supported: nobody acts as somebody else here"));
    }
    let trace = traceparent(&parts.headers).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    Ok(Caller { subject, trace, audit_id: audit_id.to_owned() })
}

/// The trace id of a W3C `traceparent`.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let id = text.split('-').nth(1)?;
    let valid = id.len() == 32 && id.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    (valid && id.bytes().any(|c| c != b'0')).then(|| id.to_owned())
}

/// What rights are about: one spelling for what has several.
fn path_of(route: &Result<Route>, path: &str) -> String {
    match route {
        Ok(Route::Replicas) => auth::REPLICAS_PATH.to_owned(),
        Ok(_) | Err(_) => path.to_owned(),
    }
}

fn attributes_of(target: &Target, verb: Verb) -> Attributes {
    let subresource = match target.subresource {
        Some(Subresource::Binding) => "binding",
        Some(Subresource::Status) => "status",
        None => "",
    };
    Attributes {
        verb: verb.name().to_owned(),
        group: target.kind.gvk.group.clone(),
        resource: target.kind.plural.clone(),
        subresource: subresource.to_owned(),
        namespace: target.namespace().to_owned(),
        name: target.name().to_owned(),
        path: String::new(),
    }
}

pub(super) fn permit(subject: &Subject, attributes: &Attributes) -> Result<()> {
    match auth::authorize(subject, attributes) {
        Decision::Allow => Ok(()),
        Decision::Deny(message) if subject.is_anonymous() && attributes.resource.is_empty() => {
            Err(Refusal::unauthorized(format!(
                "Unauthorized: a client certificate or a bearer token is needed ({message})"
            )))
        }
        Decision::Deny(message) => Err(Refusal::forbidden(message)),
    }
}

/// 405 in words for what the kind does not offer.
fn serves(target: &Target, verb: Verb) -> Result<()> {
    let kind = target.kind;
    if target.is_status() {
        return match (verb, kind.status) {
            (Verb::Get, _) | (Verb::Update | Verb::Patch, Status::Served) => Ok(()),
            (Verb::Update | Verb::Patch, Status::HubOnly) => {
                let why = format!("the status of {} is written by the hub alone", kind.plural);
                Err(Refusal::method_not_allowed(kind, verb.name(), Some(&why)))
            }
            _ => Err(Refusal::method_unknown()),
        };
    }
    // What its URL takes was told from the method.
    if kind.serves(verb) || target.subresource == Some(Subresource::Binding) {
        return Ok(());
    }
    let why = kind.refusals.iter().find(|(refused, _)| *refused == verb).map(|(_, why)| *why);
    Err(Refusal::method_not_allowed(kind, verb.name(), why))
}

/// A question: nothing is written, so nothing is recorded.
async fn review(
    api: &Api,
    parts: &Parts,
    body: &mut Body,
    caller: &Caller,
    (target, review): (&Target, Review),
    query: &Query,
) -> Result<Response> {
    permit(&caller.subject, &attributes_of(target, Verb::Create))?;
    let (form, options) = (body::wanted(&parts.headers)?, query.write_options()?);
    let bytes = body::read(&parts.headers, body, limits::BODY_TIMEOUT).await?;
    let asked = (&bytes[..], options.validation);
    let (mut answer, mut findings) = reviews::read(target, &parts.headers, asked)?;
    answer["status"] = match reviews::answer(&caller.subject, review, &answer["spec"]) {
        Some(status) => status,
        None => {
            let told = questions::answer(api, &caller.subject, target, review, &mut answer["spec"]).await?;
            findings.extend(told.warnings);
            told.status
        }
    };
    let mut response = read::respond(api, target.kind, StatusCode::CREATED, form, query.include_object()?, answer);
    warn(response.headers_mut(), &findings);
    Ok(response)
}

/// What is to be recorded of a write. It is when this goes, so also where the client or the clock gives the request up half
/// way: it may have been done all the same, and the record says `Unknown`.
struct Recording<'a> {
    audit: &'a Audit,
    record: Record,
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        // The write is done and cannot be taken back; that it is not recorded is for whoever watches the hub's log.
        if let Err(error) = self.audit.write(&self.record) {
            tracing::error!(%error, id = %self.record.id, user = %self.record.user, "cannot write the audit log");
        }
    }
}

/// A write, done or refused; recorded before it is answered.
async fn change(
    api: &Arc<Api>,
    parts: &Parts,
    body: &mut Body,
    caller: &Caller,
    target: &Target,
    verb: Verb,
    query: &Query,
) -> Result<Response> {
    let attributes = attributes_of(target, verb);
    let mut recording = Recording { audit: &api.audit, record: Record::default() };
    let record = &mut recording.record;
    *record = Record {
        time: jiff::Timestamp::now().to_string(),
        id: caller.audit_id.clone(),
        trace: caller.trace.clone(),
        user: caller.subject.user.clone(),
        groups: caller.subject.groups.clone(),
        source_ip: parts.extensions.get::<Remote>().map(|remote| remote.0.ip().to_string()).unwrap_or_default(),
        user_agent: header_text(&parts.headers, header::USER_AGENT).chars().take(200).collect(),
        verb: verb.name(),
        resource: target.kind.resource(),
        subresource: attributes.subresource.clone(),
        namespace: target.namespace().to_owned(),
        name: target.name().to_owned(),
        decision: "allow",
        dry_run: query.get("dryRun").is_some(),
        outcome: "Unknown".to_owned(),
        ..Record::default()
    };
    let done = match permit(&caller.subject, &attributes) {
        Err(refusal) => {
            record.decision = "forbid";
            Err(refusal)
        }
        Ok(()) => {
            let bytes = body::read(&parts.headers, body, limits::BODY_TIMEOUT).await;
            if let Ok(bytes) = &bytes {
                record.digest = Digest::of(bytes).to_string();
            }
            match bytes {
                Ok(bytes) => write(api, parts, caller, target, verb, query, &bytes).await,
                Err(refusal) => Err(refusal),
            }
        }
    };
    record.outcome.clear();
    match &done {
        Ok(written) => {
            let metadata = &written.object["metadata"];
            record.code = written.code.as_u16();
            record.revision = written.revision;
            record.uid = metadata["uid"].as_str().unwrap_or_default().to_owned();
            if record.name.is_empty() {
                record.name = metadata["name"].as_str().unwrap_or_default().to_owned();
            }
        }
        Err(refusal) => {
            record.code = refusal.code.as_u16();
            record.reason = refusal.message.chars().take(1000).collect();
        }
    }
    tracing::debug!(trace = %record.trace, user = %record.user, verb = record.verb, resource = %record.resource,
        namespace = %record.namespace, name = %record.name, code = record.code, "write");
    drop(recording);
    let written = done?;
    let form = body::wanted(&parts.headers)?;
    // A Status is a Status in any form.
    let form = if written.object["kind"] == "Status" { body::Form { shape: Shape::Whole, ..form } } else { form };
    let include = query.include_object()?;
    let mut response = read::respond(api, target.kind, written.code, form, include, written.object);
    warn(response.headers_mut(), &written.warnings);
    Ok(response)
}

async fn write(
    api: &Arc<Api>,
    parts: &Parts,
    caller: &Caller,
    target: &Target,
    verb: Verb,
    query: &Query,
    bytes: &Bytes,
) -> Result<Written> {
    serves(target, verb)?;
    // Before anything is done: an answer that cannot be given must not follow a write.
    body::wanted(&parts.headers)?;
    let origin = Origin { user: caller.subject.user.clone(), trace: caller.trace.clone(), at: Some(api.now()) };
    let headers = &parts.headers;
    match verb {
        Verb::Delete | Verb::DeleteCollection => {
            let encoding = if bytes.is_empty() { Encoding::Json } else { body::encoding(headers)? };
            let options = DeleteOptions::of(query, bytes, encoding)?;
            match verb {
                Verb::Delete => delete::delete(api, target, &options, &origin).await,
                _ => delete::delete_collection(api, target, query, &options, &origin).await,
            }
        }
        _ => {
            let request = write::Request { target, options: query.write_options()?, origin };
            match verb {
                Verb::Create if target.subresource == Some(Subresource::Binding) => {
                    bind::bind(api, &request, headers, bytes).await
                }
                Verb::Create => write::create(api, &request, headers, bytes).await,
                Verb::Update => write::update(api, &request, headers, bytes).await,
                _ => write::patch(api, &request, headers, bytes).await,
            }
        }
    }
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// How much of the warnings is sent (apiserver `warning`: 4 KiB in all).
const WARNING_BYTES_MAX: usize = 4096;

fn warn(headers: &mut HeaderMap, findings: &[Finding]) {
    let mut bytes = 0;
    let mut told = std::collections::BTreeSet::new();
    for finding in findings {
        let text: String = finding.to_string().chars().take(256).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let value = format!("299 - \"{quoted}\"");
        bytes += value.len();
        if bytes > WARNING_BYTES_MAX {
            return;
        }
        if told.insert(text)
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.append(header::WARNING, value);
        }
    }
}

/// All that is not a resource.
async fn pages(api: &Api, parts: &Parts, query: &Query, route: Route) -> Result<Response> {
    if ![Method::GET, Method::HEAD].contains(&parts.method) {
        return Err(Refusal::method_unknown());
    }
    let aggregated = discovery::wants_aggregated(header_text(&parts.headers, header::ACCEPT));
    let found = |value: Option<Value>| value.ok_or_else(Refusal::no_such_path);
    let value = match route {
        Route::Health => return health(api, parts.uri.path(), query).await,
        Route::Version => version(),
        Route::Replicas => found(api.group.as_ref().map(|group| group.show()))?,
        Route::CoreVersions | Route::Groups if aggregated => {
            let value = discovery::aggregated(matches!(route, Route::CoreVersions));
            return Ok(page(&parts.headers, discovery::AGGREGATED, value.to_string().into()));
        }
        Route::CoreVersions => discovery::core_versions(&api.address),
        Route::Groups => discovery::group_list(),
        Route::Group(group) => found(discovery::group(&group))?,
        Route::Resources { group, version } => found(discovery::resource_list(&group, &version))?,
        Route::OpenApiIndex => openapi::index(),
        Route::OpenApiV2 if header_text(&parts.headers, header::ACCEPT).contains(openapi::V2_PROTOBUF_ASKED) => {
            return Ok(page(&parts.headers, openapi::V2_PROTOBUF, openapi::v2_protobuf()));
        }
        Route::OpenApiV2 => openapi::v2(),
        Route::OpenApi(path) => return open_api(&parts.headers, query, &path),
        Route::Resource(_) => return Err(Refusal::no_such_path()),
    };
    Ok(page(&parts.headers, "application/json", value.to_string().into()))
}

/// A document that clients may keep, revalidating by its ETag.
fn page(headers: &HeaderMap, content_type: &'static str, bytes: Bytes) -> Response {
    let tag = format!("\"{}\"", Digest::of(&bytes).to_string().to_uppercase());
    let known = header_text(headers, header::IF_NONE_MATCH) == tag;
    let mut response = Response::new(if known { Body::empty() } else { Body::from(bytes) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(header::ETAG, tag);
    }
    response
}

/// A document under its right hash never changes; under a wrong one the client is sent to the right one.
fn open_api(headers: &HeaderMap, query: &Query, path: &str) -> Result<Response> {
    let document = openapi::find(path).ok_or_else(Refusal::no_such_path)?;
    if let Some(hash) = query.get("hash")
        && hash != document.hash
    {
        let location = format!("/openapi/v3/{path}?hash={}", document.hash);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return Ok(response);
    }
    let mut response = page(headers, "application/json", document.bytes.clone());
    if query.get("hash").is_some() {
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}

fn version() -> Value {
    let release = env!("CARGO_PKG_VERSION");
    json!({
        "major": "1", "minor": "36", "gitVersion": format!("v1.36.0+hanse.{release}"), "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

async fn health(api: &Api, path: &str, query: &Query) -> Result<Response> {
    let asked = path.trim_start_matches('/').split('/').filter(|part| !part.is_empty()).nth(1);
    let store = match api.store.revision().await {
        _ if api.stop.is_cancelled() => Err("the hub is stopping".to_owned()),
        Ok(_) => Ok(()),
        // A process that waits for the other replicas is alive: ending it would only make one less.
        Err(store::Error::Unavailable(_)) if path.trim_start_matches('/').starts_with("livez") => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let checks: Vec<_> = [("ping", Ok(())), ("store", store)]
        .into_iter()
        .filter(|(name, _)| asked.is_none_or(|asked| asked == *name))
        .collect();
    if checks.is_empty() {
        return Err(Refusal::no_such_path());
    }
    let healthy = checks.iter().all(|(_, state)| state.is_ok());
    let text: Cow<'static, str> = if healthy && query.get("verbose").is_none() {
        "ok".into()
    } else {
        let line = |(name, state): &(&str, Result<(), String>)| match state {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(why) => format!("[-]{name} failed: {why}\n"),
        };
        let lines: String = checks.iter().map(line).collect();
        format!("{lines}{}\n", if healthy { "healthz check passed" } else { "healthz check failed" }).into()
    };
    let mut response = Response::new(Body::from(text.into_owned()));
    if !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}
