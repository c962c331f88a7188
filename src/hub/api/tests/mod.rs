//! The API over a store in memory, asked by raw requests: what kubectl cannot be made to send.

mod binding;
mod hostile;
mod listing;
mod reviews;
mod watching;
mod writing;

use std::sync::Arc;

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{Api, Setup, namespaces};
use crate::{
    flow,
    hub::{
        auth::{ADMIN_GROUP, Audit, Tokens},
        listen::{Peer, Person},
    },
    kinds,
    model::Timestamp,
    store::{self, Store},
};

pub const APPS: &str = "/apis/core.oam.dev/v1beta1/namespaces/default/applications";

pub struct Hub {
    router: Router,
    pub store: Arc<dyn Store>,
    directory: tempfile::TempDir,
}

pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("not JSON: {:?}", self.bytes))
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{:?}", self.bytes);
        self.json()
    }

    /// A refusal in the API's own form.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str, words: &str) -> Value {
        let value = self.expect(code);
        assert_eq!(
            (&value["kind"], &value["reason"], &value["code"]),
            (&json!("Status"), &json!(reason), &json!(code))
        );
        assert!(value["message"].as_str().is_some_and(|text| text.contains(words)), "{value}");
        value
    }
}

pub fn person(groups: &[&str]) -> Peer {
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Peer::Person(Person { user: "ann".into(), groups, expired: None })
}

impl Hub {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = store::memory::open();
        namespaces::ensure_default(&*store, "uid", Timestamp::from_seconds(0)).await.expect("a namespace");
        let api = Api::new(Setup {
            store: store.clone(),
            tokens: Tokens::default(),
            audit: Arc::new(Audit::open(&directory.path().join("audit.log")).expect("an audit log")),
            views: Default::default(),
            group: None,
            questions: None,
            overlays: Default::default(),
            admissions: [(kinds::APPLICATION.gvk.clone(), flow::admit::admit as _)].into(),
            address: "hub:1".into(),
            stop: CancellationToken::new(),
        });
        Self { router: api.router(), store, directory }
    }

    pub async fn send(&self, peer: Peer, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(peer);
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        Answer { code: parts.status, headers: parts.headers, bytes: body.collect().await.expect("a body").to_bytes() }
    }

    /// As an admin.
    pub async fn call(&self, method: Method, path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        self.send(person(&[ADMIN_GROUP]), request.body(body.into()).expect("a request")).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "", Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PATCH, path, "application/merge-patch+json", body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, "", Body::empty()).await
    }

    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("audit.log")).expect("an audit log");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

pub fn app(name: &str) -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": {"name": name},
        "spec": {"components": [{"name": "web", "type": "webservice", "properties": {"image": "nginx"}}]},
    })
}

pub fn event(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "labels": labels},
        "involvedObject": {"kind": "Application", "name": "web"}, "reason": "Placed", "type": "Normal",
    })
}

pub const EVENTS: &str = "/api/v1/namespaces/default/events";
