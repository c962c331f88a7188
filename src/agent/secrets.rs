//! Bytes kept as Secrets of one namespace in the member: what an agent that runs as a Deployment has for a disk.
//!
//! Owns: names, sizes and the translation to the API. Must never: be written by two agents; the Lease of
//! [`super::lease`] sees to that.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Request, header::CONTENT_TYPE};
use kube::Client;
use serde_json::{Value, json};

use super::identity::{self, Keep, Stored};

/// A Secret holds at most 1 MiB; this leaves room for base64's metadata around it.
pub const VALUE_BYTES_MAX: usize = 700 << 10;
const PREFIX: &str = "hanse-agent-";
/// Which part of the state a Secret is.
const PART_LABEL: &str = "hanse.dev/agent-state";
const PAGE: usize = 50;

/// Synchronous, since its users are; must be used on a multi-threaded runtime.
#[derive(Clone)]
pub struct Secrets {
    client: Client,
    namespace: String,
    runtime: tokio::runtime::Handle,
}

impl Secrets {
    /// Within the runtime that is to carry the calls out.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), runtime: tokio::runtime::Handle::current() }
    }

    /// All values of one part, by name.
    pub fn list(&self, part: &str) -> Result<BTreeMap<String, Vec<u8>>, kube::Error> {
        let mut found = BTreeMap::new();
        let mut resume = String::new();
        loop {
            let path = format!(
                "/api/v1/namespaces/{}/secrets?labelSelector={PART_LABEL}%3D{part}&limit={PAGE}&continue={resume}",
                self.namespace
            );
            let list = self.call(Request::get(path), None)?;
            for secret in list["items"].as_array().into_iter().flatten() {
                let name = secret["metadata"]["name"].as_str().and_then(|name| name.strip_prefix(PREFIX));
                // What is no base64 is broken in a way that its reader will tell.
                let value = secret["data"]["value"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
                found.extend(name.map(|name| (name.to_owned(), value.unwrap_or_default())));
            }
            resume = list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if resume.is_empty() {
                return Ok(found);
            }
        }
    }

    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, kube::Error> {
        match self.call(Request::get(self.path(name)), None) {
            Ok(secret) => Ok(secret["data"]["value"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok())),
            Err(error) if is_code(&error, 404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `name` must be a DNS name's part; `value` at most [`VALUE_BYTES_MAX`].
    pub fn put(&self, part: &str, name: &str, value: &[u8]) -> Result<(), kube::Error> {
        let metadata =
            json!({"name": format!("{PREFIX}{name}"), "namespace": self.namespace, "labels": {PART_LABEL: part}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata,
            "data": {"value": BASE64_STANDARD.encode(value)}});
        match self.call(Request::put(self.path(name)), Some(&secret)) {
            Err(error) if is_code(&error, 404) => {
                let all = format!("/api/v1/namespaces/{}/secrets", self.namespace);
                self.call(Request::post(all), Some(&secret)).map(drop)
            }
            answer => answer.map(drop),
        }
    }

    pub fn delete(&self, name: &str) -> Result<(), kube::Error> {
        match self.call(Request::delete(self.path(name)), None) {
            Err(error) if !is_code(&error, 404) => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets/{PREFIX}{name}", self.namespace)
    }

    fn call(&self, request: http::request::Builder, body: Option<&Value>) -> Result<Value, kube::Error> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = request.header(CONTENT_TYPE, "application/json").body(body).map_err(kube::Error::HttpError)?;
        // Its callers are either on a thread for blocking work, or rare enough to hold a worker up.
        tokio::task::block_in_place(|| self.runtime.block_on(self.client.request::<Value>(request)))
    }
}

pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

impl Keep for Secrets {
    fn load(&self) -> Result<Option<Stored>, identity::Error> {
        let Some(bytes) = self.get("identity").map_err(|error| failed(&error))? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(&error))
    }

    fn save(&self, stored: &Stored) -> Result<(), identity::Error> {
        let bytes = serde_json::to_vec(stored).map_err(|error| failed(&error))?;
        self.put("identity", "identity", &bytes).map_err(|error| failed(&error))
    }
}

fn failed(error: &dyn std::error::Error) -> identity::Error {
    identity::Error::Malformed { path: "the Secret hanse-agent-identity".into(), detail: super::dial::chain(error) }
}
