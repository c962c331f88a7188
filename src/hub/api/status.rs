//! Refusals as Kubernetes `Status` objects: the only place where the hub speaks that language of errors.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::{hub::limits, kinds::Kind, model::FieldError, store};

/// A request that was not done, with what a client can read off it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub code: StatusCode,
    /// A word of apimachinery meta/v1 `StatusReason`.
    pub reason: &'static str,
    pub message: String,
    /// Boxed: every fallible function of the API would carry its size.
    details: Box<Details>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Details {
    name: String,
    group: String,
    kind: String,
    causes: Vec<Value>,
    retry_after_seconds: Option<u64>,
    continuation: Option<String>,
}

pub type Result<T, E = Refusal> = std::result::Result<T, E>;

impl Refusal {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Box::default() }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details.name = name.to_owned();
        self.details.group = kind.gvk.group.clone();
        self.details.kind = kind.plural.clone();
        self
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.details.retry_after_seconds = Some(seconds);
        self
    }

    /// Where a list can be taken up again, on a newer state, after its pages have expired.
    pub fn continued_by(mut self, token: String) -> Self {
        self.details.continuation = Some(token);
        self
    }

    fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.details.causes.push(json!({"reason": reason, "message": message, "field": field}));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    pub fn forbidden_object(kind: &Kind, name: &str, message: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {message}", kind.resource());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(kind, name)
    }

    /// A namespace that is being deleted takes nothing new.
    pub fn terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let message = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = format!("namespace {namespace} is being terminated");
        Self::forbidden_object(kind, name, &message).cause("NamespaceTerminating", &cause, "metadata.namespace")
    }

    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub fn no_such_subresource(kind: &Kind, name: &str, subresource: &str) -> Self {
        let message = format!("{} have no subresource {subresource:?}: change the spec of {name:?}", kind.resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// No name could be drawn for a `generateName`: the client may try again.
    pub fn names_exhausted(kind: &Kind, base: &str) -> Self {
        let message = format!("{} {base:?}: no free name could be generated, please try again", kind.resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, base).retry_after(1)
    }

    pub fn conflict(kind: &Kind, name: &str, detail: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {detail}", kind.resource());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    pub fn modified(kind: &Kind, name: &str) -> Self {
        let detail = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, detail)
    }

    /// Every field error at once, the first [`limits::FAULTS_MAX`] by name.
    pub fn invalid(kind: &Kind, name: &str, faults: &[FieldError]) -> Self {
        let (named, rest) = faults.split_at(faults.len().min(limits::FAULTS_MAX));
        let mut texts: Vec<_> = named.iter().map(ToString::to_string).collect();
        if !rest.is_empty() {
            texts.push(format!("and {} more", rest.len()));
        }
        let texts = if let [text] = &texts[..] { text.clone() } else { format!("[{}]", texts.join(", ")) };
        let group = if kind.gvk.group.is_empty() { String::new() } else { format!(".{}", kind.gvk.group) };
        let message = format!("{}{group} {name:?} is invalid: {texts}", kind.gvk.kind);
        let mut refusal = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).about(kind, name);
        refusal.details.kind = kind.gvk.kind.clone();
        for fault in named {
            let message = format!("{}: {}", fault.kind.title(), fault.detail);
            refusal = refusal.cause(fault.kind.reason(), message.trim_end_matches([':', ' ']), &fault.path);
        }
        refusal
    }

    /// Query options that cannot be served as asked.
    pub fn invalid_options(field: &str, message: &str) -> Self {
        let text = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {message}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text).cause("FieldValueForbidden", message, field)
    }

    pub fn method_not_allowed(kind: &Kind, verb: &str, why: Option<&str>) -> Self {
        let mut message = format!("{verb} is not supported on {}", kind.resource());
        if let Some(why) = why {
            message = format!("{message}: {why}");
        }
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).about(kind, "")
    }

    pub fn method_unknown() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub fn not_acceptable(offered: &str) -> Self {
        let message = format!("only the following media types are accepted: {offered}");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub fn too_many() -> Self {
        let message = "the hub is busy with too many requests, please try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).retry_after(limits::RETRY_AFTER_SECONDS)
    }

    /// History that a list or watch asks for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub fn ahead(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).retry_after(1).cause(
            "ResourceVersionTooLarge",
            "Too large resource version",
            "",
        )
    }

    pub fn request_timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", message)
    }

    /// Whether a write was done cannot be said.
    pub fn outcome_unknown() -> Self {
        let message =
            "the write was sent to the store but its answer was lost: read the object again to see whether it was done";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message).retry_after(1)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The Status object itself; also the object of a watch's ERROR event.
    pub fn body(&self) -> Value {
        let mut details = json!({});
        for (name, text) in [("name", &self.details.name), ("group", &self.details.group), ("kind", &self.details.kind)]
        {
            if !text.is_empty() {
                details[name] = json!(text);
            }
        }
        if !self.details.causes.is_empty() {
            details["causes"] = json!(self.details.causes);
        }
        if let Some(seconds) = self.details.retry_after_seconds {
            details["retryAfterSeconds"] = json!(seconds);
        }
        let metadata = match &self.details.continuation {
            Some(token) => json!({"continue": token}),
            None => json!({}),
        };
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code.as_u16(),
        })
    }

    pub fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.details.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hanse\""));
        }
        response
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Compacted(_) => {
                Self::expired("The provided resource version is too old: its history has been compacted.")
            }
            store::Error::Future { asked, current } => Self::ahead(asked, current),
            store::Error::TooLarge(detail) => {
                Self::too_large(format!("the object is too large to be stored: {detail}"))
            }
            store::Error::Malformed(detail) => Self::internal(detail),
            store::Error::Lagged => Self::expired("The watch was read too slowly and has been cut off."),
            store::Error::Unavailable(detail) => Self::unavailable(format!("the store is unavailable: {detail}")),
            store::Error::Closed(detail) => Self::unavailable(format!("the store is closed: {detail}")),
        }
    }
}

/// What a deletion that leaves nothing behind answers.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural, "uid": uid});
    if !kind.gvk.group.is_empty() {
        details["group"] = json!(kind.gvk.group);
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
