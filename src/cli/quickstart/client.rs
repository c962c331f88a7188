//! The hub's API as any client of Kubernetes sees it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    agent::join::Token,
    kinds::{self, Kind},
    model::{Digest, Timestamp, cluster::REGION_LABEL},
};

const TOKEN_SECONDS: i64 = 600;

/// A client that goes on at another replica when the one it talks to is gone.
pub struct Hub {
    clients: Vec<Client>,
    /// Which one answered last.
    current: AtomicUsize,
}

/// How often all replicas are asked before it is an error.
const ROUNDS: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

impl Hub {
    pub async fn connect(kubeconfigs: &[PathBuf]) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for kubeconfig in kubeconfigs {
            let read = Kubeconfig::read_from(kubeconfig);
            let read = read.with_context(|| format!("cannot read {}", kubeconfig.display()))?;
            let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
            clients.push(Client::try_from(config)?);
        }
        Ok(Self { clients, current: AtomicUsize::new(0) })
    }

    /// At one replica after the other, until one answers.
    async fn anywhere<T>(
        &self,
        kind: &Kind,
        namespace: &str,
        call: impl AsyncFn(Api<DynamicObject>) -> kube::Result<T>,
    ) -> kube::Result<T> {
        let mut attempts = ROUNDS * self.clients.len();
        loop {
            let current = self.current.load(Ordering::Relaxed);
            attempts -= 1;
            match call(self.api(&self.clients[current], kind, namespace)).await {
                Err(kube::Error::Service(_) | kube::Error::HyperError(_)) if attempts > 0 => {
                    self.current.store((current + 1) % self.clients.len(), Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    fn api(&self, client: &Client, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: kind.gvk.group.clone(),
            version: kind.gvk.version.clone(),
            api_version: kind.gvk.api_version(),
            kind: kind.gvk.kind.clone(),
            plural: kind.plural.clone(),
        };
        match (kind.is_namespaced(), namespace) {
            (true, "") | (false, _) => Api::all_with(client.clone(), &resource),
            (true, namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        }
    }

    pub async fn list(&self, kind: &Kind) -> anyhow::Result<Vec<Value>> {
        let list = self.anywhere(kind, "", async |api| api.list(&ListParams::default()).await).await;
        let list = list.with_context(|| format!("cannot list {}", kind.plural))?;
        Ok(list.items.into_iter().map(|object| serde_json::to_value(object).unwrap_or_default()).collect())
    }

    pub async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> anyhow::Result<Option<Value>> {
        let found = self.anywhere(kind, namespace, async |api| api.get_opt(name).await).await;
        let found = found.with_context(|| format!("cannot get {} {name}", kind.singular))?;
        Ok(found.map(|object| serde_json::to_value(object).unwrap_or_default()))
    }

    /// Creates the object, or merges it into the one that is there.
    pub async fn apply(&self, kind: &Kind, object: &Value) -> anyhow::Result<()> {
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        let namespace = metadata["namespace"].as_str().unwrap_or("default");
        if self.get(kind, namespace, name).await?.is_some() {
            return self.patch(kind, namespace, name, object).await;
        }
        let object = serde_json::from_value(object.clone()).with_context(|| format!("{name} is no object"))?;
        let create = async |api: Api<_>| api.create(&PostParams::default(), &object).await;
        let created = self.anywhere(kind, namespace, create).await;
        created.map(drop).with_context(|| format!("cannot create {} {name}", kind.singular))
    }

    pub async fn patch(&self, kind: &Kind, namespace: &str, name: &str, patch: &Value) -> anyhow::Result<()> {
        let patch = Patch::Merge(patch);
        let apply = async |api: Api<DynamicObject>| api.patch(name, &PatchParams::default(), &patch).await;
        let patched = self.anywhere(kind, namespace, apply).await;
        patched.map(drop).with_context(|| format!("cannot change {} {name}", kind.singular))
    }

    pub async fn delete(&self, kind: &Kind, namespace: &str, name: &str) -> anyhow::Result<()> {
        let delete = async |api: Api<DynamicObject>| api.delete(name, &DeleteParams::default()).await;
        let deleted = self.anywhere(kind, namespace, delete).await;
        deleted.map(drop).with_context(|| format!("cannot delete {} {name}", kind.singular))
    }

    /// What `hanse token create NAME --auto-approve` does.
    pub async fn token(&self, cluster: &str, region: &str, pin: Digest) -> anyhow::Result<Token> {
        let name = format!("quickstart-{cluster}");
        let token = Token::new(&name, &uuid::Uuid::new_v4().simple().to_string(), pin);
        let mut labels = BTreeMap::new();
        if !region.is_empty() {
            labels.insert(REGION_LABEL, region);
        }
        let expires = Timestamp(jiff::Timestamp::now()).plus_seconds(TOKEN_SECONDS);
        let object = json!({
            "apiVersion": kinds::JOIN_TOKEN.gvk.api_version(), "kind": kinds::JOIN_TOKEN.gvk.kind,
            "metadata": {"name": name},
            "spec": {"secretDigest": token.secret_digest(), "cluster": cluster, "autoApprove": true,
                "expiresAt": expires.to_string(), "labels": labels},
        });
        self.apply(&kinds::JOIN_TOKEN, &object).await?;
        Ok(token)
    }
}
