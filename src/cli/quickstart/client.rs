//! The hub's API as any client of Kubernetes sees it.

use std::{collections::BTreeMap, path::Path};

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

#[derive(Clone)]
pub struct Hub {
    client: Client,
}

impl Hub {
    pub async fn connect(kubeconfig: &Path) -> anyhow::Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig);
        let read = read.with_context(|| format!("cannot read {}", kubeconfig.display()))?;
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)? })
    }

    fn api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: kind.gvk.group.clone(),
            version: kind.gvk.version.clone(),
            api_version: kind.gvk.api_version(),
            kind: kind.gvk.kind.clone(),
            plural: kind.plural.clone(),
        };
        match (kind.is_namespaced(), namespace) {
            (true, "") | (false, _) => Api::all_with(self.client.clone(), &resource),
            (true, namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    pub async fn list(&self, kind: &Kind) -> anyhow::Result<Vec<Value>> {
        let list = self.api(kind, "").list(&ListParams::default()).await;
        let list = list.with_context(|| format!("cannot list {}", kind.plural))?;
        Ok(list.items.into_iter().map(|object| serde_json::to_value(object).unwrap_or_default()).collect())
    }

    pub async fn get(&self, kind: &Kind, namespace: &str, name: &str) -> anyhow::Result<Option<Value>> {
        let found = self.api(kind, namespace).get_opt(name).await;
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
        let created = self.api(kind, namespace).create(&PostParams::default(), &object).await;
        created.map(drop).with_context(|| format!("cannot create {} {name}", kind.singular))
    }

    pub async fn patch(&self, kind: &Kind, namespace: &str, name: &str, patch: &Value) -> anyhow::Result<()> {
        let api = self.api(kind, namespace);
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).with_context(|| format!("cannot change {} {name}", kind.singular))
    }

    pub async fn delete(&self, kind: &Kind, namespace: &str, name: &str) -> anyhow::Result<()> {
        let deleted = self.api(kind, namespace).delete(name, &DeleteParams::default()).await;
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
