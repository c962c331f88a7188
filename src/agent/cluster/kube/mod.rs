//! A real member cluster, over its API server.
//!
//! Owns: paths, impersonation and the translation of the member's errors. Must never: write as the agent itself
//! what an Application asked for; only namespaces and the executors in them are the agent's own to write.

use std::path::Path;

use async_trait::async_trait;
use futures::stream::BoxStream;
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use super::{Capacity, Cluster, Deletion, EXECUTOR, FIELD_MANAGER, Live, NamespaceFacts, PAUSED_UNTIL, Rejection};
use crate::model::{
    GroupVersionKind, ObjectRef, Uid,
    cluster::{Facts, REGION_LABEL, ZONE_LABEL},
};

mod discovery;
mod watch;

use discovery::{Discovery, Resource};

/// Label on namespaces that the agent made.
pub const MANAGED_LABEL: &str = "app.kubernetes.io/managed-by";
/// ClusterRole that each namespace's executor is bound to; whoever runs the member decides what is in it.
pub const EXECUTOR_ROLE: &str = "hanse-executor";
/// Where the agent itself lives.
pub const SYSTEM_NAMESPACE: &str = "hanse-system";

#[derive(Clone)]
pub struct KubeCluster {
    client: Client,
    discovery: std::sync::Arc<Discovery>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("kubeconfig {path}")]
    Kubeconfig {
        path: String,
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("no kubeconfig, and not inside a cluster")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    #[error("client for the member cluster")]
    Client(#[source] Box<kube::Error>),
}

impl KubeCluster {
    pub fn new(client: Client) -> Self {
        Self { client, discovery: std::sync::Arc::default() }
    }

    /// With a kubeconfig and one of its contexts, or with what the environment offers: `KUBECONFIG`, the home
    /// directory, the ServiceAccount of the pod it runs in.
    pub async fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self, ConnectError> {
        let options = kube::config::KubeConfigOptions { context: context.map(str::to_owned), ..Default::default() };
        let config = match (kubeconfig, context) {
            (Some(path), _) => {
                let failed =
                    |source| ConnectError::Kubeconfig { path: path.display().to_string(), source: Box::new(source) };
                let read = kube::config::Kubeconfig::read_from(path).map_err(failed)?;
                kube::Config::from_custom_kubeconfig(read, &options).await.map_err(failed)?
            }
            (None, Some(_)) => kube::Config::from_kubeconfig(&options).await.map_err(|source| {
                ConnectError::Kubeconfig { path: "of the environment".into(), source: Box::new(source) }
            })?,
            (None, None) => kube::Config::infer().await.map_err(|source| ConnectError::Infer(Box::new(source)))?,
        };
        let client = Client::try_from(config).map_err(|source| ConnectError::Client(Box::new(source)))?;
        Ok(Self::new(client))
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn send(&self, call: Call<'_>) -> Result<Value, Rejection> {
        let mut request = Request::builder().method(call.method).uri(call.path);
        if let Some(namespace) = call.executor {
            // One connection pool serves all executors: who acts is said in each request.
            request = request.header("Impersonate-User", format!("system:serviceaccount:{namespace}:{EXECUTOR}"));
        }
        let body = match call.body {
            Some((content_type, body)) => {
                request = request.header(http::header::CONTENT_TYPE, content_type);
                serde_json::to_vec(body).map_err(|error| rejection("BadRequest", error))?
            }
            None => Vec::new(),
        };
        let request = request.body(body).map_err(|error| rejection("BadRequest", error))?;
        self.client.request::<Value>(request).await.map_err(rejected)
    }

    async fn read(&self, path: String) -> Result<Option<Value>, Rejection> {
        let call = Call { method: Method::GET, path, executor: None, body: None };
        match self.send(call).await {
            Ok(object) => Ok(Some(object)),
            Err(rejection) if rejection.reason == "NotFound" => Ok(None),
            Err(rejection) => Err(rejection),
        }
    }

    async fn resource(&self, gvk: &GroupVersionKind) -> Result<Resource, Rejection> {
        self.discovery.resource(&self.client, gvk).await
    }

    /// Writes what belongs to the agent itself: the namespace and its executor.
    async fn own(&self, path: String, object: &Value) -> Result<Value, Rejection> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}-agent&force=true");
        self.send(Call { method: Method::PATCH, path, executor: None, body: Some((APPLY, object)) }).await
    }
}

struct Call<'a> {
    method: Method,
    path: String,
    /// The namespace whose executor acts; without one the agent itself.
    executor: Option<&'a str>,
    body: Option<(&'static str, &'a Value)>,
}

const APPLY: &str = "application/apply-patch+yaml";

#[async_trait]
impl Cluster for KubeCluster {
    async fn apply(&self, namespace: &str, object: &Value) -> Result<Value, Rejection> {
        let reference = ObjectRef::of(object)
            .ok_or_else(|| rejection("BadRequest", "the manifest lacks apiVersion, kind or metadata.name"))?;
        let resource = self.resource(&reference.gvk).await?;
        let target = placed(&reference, namespace);
        let path = format!("{}?fieldManager={FIELD_MANAGER}&force=true", resource.path(&reference.gvk, &target)?);
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            match resource.namespaced {
                true => metadata.insert("namespace".into(), Value::String(target.name.namespace.clone())),
                false => metadata.remove("namespace"),
            };
        }
        let body = Some((APPLY, &object));
        self.send(Call { method: Method::PATCH, path, executor: Some(namespace), body }).await.map(trimmed)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Value>, Rejection> {
        let path = self.resource(&object.gvk).await?.path(&object.gvk, object)?;
        Ok(self.read(path).await?.map(trimmed))
    }

    async fn delete(&self, namespace: &str, object: &ObjectRef, uid: &Uid) -> Result<Deletion, Rejection> {
        let path = self.resource(&object.gvk).await?.path(&object.gvk, &placed(object, namespace))?;
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background",
            "preconditions": {"uid": uid.0}});
        let body = Some(("application/json", &options));
        match self.send(Call { method: Method::DELETE, path, executor: Some(namespace), body }).await {
            // A Status says that it is gone, the object itself that it is still on its way.
            Ok(answer) if answer.get("kind").and_then(Value::as_str) == Some("Status") => Ok(Deletion::Gone),
            Ok(answer) if answer.pointer("/metadata/deletionTimestamp").is_some() => Ok(Deletion::Pending),
            Ok(_) => Ok(Deletion::Gone),
            // Conflict: the name belongs to an object with another uid.
            Err(rejection) if matches!(rejection.reason.as_str(), "NotFound" | "Conflict") => Ok(Deletion::Gone),
            Err(rejection) => Err(rejection),
        }
    }

    async fn ensure_namespace(&self, namespace: &str) -> Result<NamespaceFacts, Rejection> {
        if is_protected(namespace) {
            let message = format!("namespace {namespace:?} is the system's own: Applications may not run in it");
            return Err(rejection("ProtectedNamespace", message));
        }
        let path = format!("/api/v1/namespaces/{namespace}");
        let live = match self.read(path.clone()).await? {
            Some(live) => live,
            None => {
                let metadata = json!({"name": namespace, "labels": {MANAGED_LABEL: "hanse"}});
                self.own(path, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await?
            }
        };
        if live.pointer("/metadata/deletionTimestamp").is_some() {
            return Err(rejection("NamespaceTerminating", format!("namespace {namespace} is being deleted")));
        }
        self.ensure_executor(namespace).await?;
        let annotations = live.pointer("/metadata/annotations");
        let paused_until = annotations.and_then(|map| map.get(PAUSED_UNTIL)).and_then(Value::as_str);
        Ok(NamespaceFacts { paused_until: paused_until.map(str::to_owned) })
    }

    fn watch(&self, gvk: &GroupVersionKind) -> BoxStream<'static, Live> {
        watch::kind(self.clone(), gvk.clone())
    }

    fn watch_capacity(&self) -> BoxStream<'static, Capacity> {
        watch::capacity(self.client.clone())
    }

    async fn facts(&self) -> Result<Facts, Rejection> {
        let version = self.read("/version".to_owned()).await?.unwrap_or_default();
        let system = self.read("/api/v1/namespaces/kube-system".to_owned()).await?;
        let system = system.ok_or_else(|| rejection("NotFound", "the member has no namespace kube-system"))?;
        let text = |object: &Value, pointer: &str| {
            object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let nodes = self.node_labels().await?;
        Ok(Facts {
            kubernetes_version: text(&version, "/gitVersion"),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            region: most_frequent(&nodes, REGION_LABEL),
            zone: most_frequent(&nodes, ZONE_LABEL),
            system_uid: text(&system, "/metadata/uid"),
        })
    }
}

impl KubeCluster {
    /// Makes the ClusterRole that executors are bound to where there is none; needs the rights that it gives. One that
    /// is there is the member's own and stays as it is.
    pub async fn ensure_executor_role(&self, manifest: &str) -> Result<(), Rejection> {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{EXECUTOR_ROLE}");
        if self.read(path.clone()).await?.is_none() {
            let role: Value = serde_saphyr::from_str(manifest).map_err(|error| rejection("BadRequest", error))?;
            self.own(path, &role).await?;
        }
        Ok(())
    }

    async fn ensure_executor(&self, namespace: &str) -> Result<(), Rejection> {
        let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{EXECUTOR}");
        let binding = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{EXECUTOR}");
        let (has_account, has_binding) = tokio::try_join!(self.read(account.clone()), self.read(binding.clone()))?;
        let metadata = json!({"name": EXECUTOR, "namespace": namespace, "labels": {MANAGED_LABEL: "hanse"}});
        if has_account.is_none() {
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata,
                "automountServiceAccountToken": false});
            self.own(account, &object).await?;
        }
        if has_binding.is_none() {
            let object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": EXECUTOR_ROLE},
                "subjects": [{"kind": "ServiceAccount", "name": EXECUTOR, "namespace": namespace}]});
            self.own(binding, &object).await?;
        }
        Ok(())
    }

    /// Labels of every node; a fact about the member, so metadata is enough.
    async fn node_labels(&self) -> Result<Vec<Value>, Rejection> {
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let request = Request::get("/api/v1/nodes?limit=500&resourceVersion=0").header(http::header::ACCEPT, accept);
        let request = request.body(Vec::new()).map_err(|error| rejection("BadRequest", error))?;
        let list: Value = self.client.request(request).await.map_err(rejected)?;
        let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
        Ok(items.filter_map(|node| node.pointer("/metadata/labels").cloned()).collect())
    }
}

/// The most frequent value, of equally frequent ones the first in order; empty where no node has the label.
fn most_frequent(labels: &[Value], key: &str) -> String {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for value in labels.iter().filter_map(|labels| labels.get(key)?.as_str()) {
        *counts.entry(value).or_default() += 1;
    }
    let most = counts.into_iter().max_by(|(a, one), (b, other)| one.cmp(other).then(b.cmp(a)));
    most.map(|(value, _)| value.to_owned()).unwrap_or_default()
}

/// Objects without a namespace of their own live in that of their Application.
fn placed(object: &ObjectRef, namespace: &str) -> ObjectRef {
    let mut placed = object.clone();
    if placed.name.namespace.is_empty() {
        placed.name.namespace = namespace.to_owned();
    }
    placed
}

pub fn is_protected(namespace: &str) -> bool {
    namespace.is_empty() || namespace.starts_with("kube-") || namespace == SYSTEM_NAMESPACE
}

/// Without what nobody here reads and what is often the larger half of an object.
fn trimmed(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

fn rejection(reason: &str, message: impl std::fmt::Display) -> Rejection {
    Rejection { reason: reason.to_owned(), message: message.to_string() }
}

/// The member's own words where it answered; otherwise that it could not be reached, and why.
fn rejected(error: kube::Error) -> Rejection {
    match error {
        kube::Error::Api(status) if is_word(&status.reason) => rejection(&status.reason, &status.message),
        kube::Error::Api(status) => rejection(reason_of(status.code), &status.message),
        other => {
            let (mut message, mut source) = (other.to_string(), std::error::Error::source(&other));
            while let Some(cause) = source {
                if !message.ends_with(&cause.to_string()) {
                    message = format!("{message}: {cause}");
                }
                source = cause.source();
            }
            rejection("Unreachable", message)
        }
    }
}

/// Answers that are no Status, such as the plain text for a group that is not served, come with a sentence here.
fn is_word(reason: &str) -> bool {
    !reason.is_empty() && reason.chars().all(|c| c.is_ascii_alphanumeric())
}

fn reason_of(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        400..=499 => "BadRequest",
        _ => "Unreachable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_the_system_are_protected() {
        for namespace in ["", "kube-system", "kube-public", "kube-node-lease", "hanse-system"] {
            assert!(is_protected(namespace), "{namespace:?}");
        }
        for namespace in ["default", "shop", "kubeapps", "hanse"] {
            assert!(!is_protected(namespace), "{namespace:?}");
        }
    }

    #[test]
    fn the_region_is_that_of_most_nodes() {
        let nodes: Vec<Value> = ["b", "a", "b", "a", ""].iter().map(|region| json!({REGION_LABEL: region})).collect();
        assert_eq!(most_frequent(&nodes, REGION_LABEL), "a");
        assert_eq!(most_frequent(&nodes[..1], REGION_LABEL), "b");
        assert_eq!(most_frequent(&nodes, ZONE_LABEL), "");
    }
}
