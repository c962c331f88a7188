//! The Kubernetes API: generic over [`Kind`], so that kubectl, client-go and their like work on the hub's kinds as on
//! any.
//!
//! Owns: routing, content negotiation, the write pipeline, watches, discovery, and `Status` errors. Must never: decide
//! where anything runs, write what control owns, or ignore what it does not serve: that is refused in words.

mod bind;
mod body;
mod commit;
mod delete;
mod discovery;
mod names;
pub mod namespaces;
mod openapi;
mod patch;
mod path;
pub mod ports;
mod protobuf;
mod query;
mod questions;
mod read;
mod reviews;
mod selector;
mod serve;
mod status;
mod table;
mod views;
mod watch;
mod write;

use std::{collections::BTreeMap, sync::Arc};

use axum::Router;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::ports::{Admit, Group, Overlay, View};
pub use self::views::Decisions;
use super::{
    auth::{Audit, Tokens},
    desk::Questions,
    limits,
};
use crate::{
    kinds::Kind,
    model::{FieldError, GroupVersionKind, Timestamp, Uid},
    store::{self, Outcome, Store, Transaction},
};

/// What the API is made of.
pub struct Setup {
    pub store: Arc<dyn Store>,
    pub tokens: Tokens,
    pub audit: Arc<Audit>,
    pub views: BTreeMap<GroupVersionKind, Arc<dyn View>>,
    /// Where the hub has replicas.
    pub group: Option<Arc<dyn Group>>,
    /// The way to the leader, for what only it can answer.
    pub questions: Option<Questions>,
    pub overlays: BTreeMap<GroupVersionKind, Arc<dyn Overlay>>,
    pub admissions: BTreeMap<GroupVersionKind, Admit>,
    /// `HOST:PORT`, as discovery names the server.
    pub address: String,
    /// Ends watches.
    pub stop: CancellationToken,
}

pub struct Api {
    setup: Setup,
    /// Requests under way, by lane.
    people: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl std::ops::Deref for Api {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}

impl Api {
    pub fn new(setup: Setup) -> Arc<Self> {
        Arc::new(Self {
            setup,
            people: Arc::new(Semaphore::new(limits::PEOPLE_REQUESTS_MAX)),
            anonymous: Arc::new(Semaphore::new(limits::ANONYMOUS_REQUESTS_MAX)),
            watches: Arc::new(Semaphore::new(limits::WATCHES_MAX)),
        })
    }

    /// Everything that is not gRPC.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(serve::handle).with_state(self.clone())
    }

    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, store::Error> {
        commit::commit(&*self.store, transaction).await
    }

    fn view(&self, kind: &Kind) -> Option<Arc<dyn View>> {
        self.views.get(&kind.gvk).cloned()
    }

    fn overlay(&self, kind: &Kind, object: &mut Value) {
        if let Some(overlay) = self.overlays.get(&kind.gvk) {
            let uid = Uid(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
            overlay.apply(&uid, object);
        }
    }

    fn admit(&self, kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.admissions.get(&kind.gvk).map(|admit| admit(object, old)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
