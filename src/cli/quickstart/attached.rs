//! A real cluster of the user's kubeconfig: what the agent needs in it, and leaving it as it was.

use anyhow::Context;
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
};
use serde_json::Value;

use crate::{
    agent::{
        cluster::{EXECUTOR, kube::KubeCluster},
        deploy,
    },
    model::GroupVersionKind,
};

/// Where the examples run.
const NAMESPACE: &str = "default";
const RBAC: &str = "rbac.authorization.k8s.io";

pub struct Attached {
    pub cluster: KubeCluster,
    /// What was not there before, in the order in which it goes.
    new: Vec<Api<DynamicObject>>,
}

impl Attached {
    /// Connects by a context of the kubeconfig, and makes the executors' role where it is missing, as
    /// `deploy/executor.yaml` has it. Needs the rights of an admin there, as joining by hand does.
    pub async fn open(context: &str) -> anyhow::Result<Self> {
        let cluster = KubeCluster::connect(None, Some(context)).await;
        let cluster = cluster.with_context(|| format!("cannot use the context {context}"))?;
        let client = cluster.client().clone();
        // The agent makes the last two; all three carry the executor's name.
        let all = [api(&client, RBAC, "ClusterRole", ""), api(&client, RBAC, "RoleBinding", NAMESPACE)];
        let mut new = Vec::new();
        for api in all.into_iter().chain([api(&client, "", "ServiceAccount", NAMESPACE)]) {
            let found = api.get_opt(EXECUTOR).await;
            if found.with_context(|| format!("cannot read the cluster of context {context}"))?.is_none() {
                new.push(api);
            }
        }
        let role: Value = serde_saphyr::from_str(deploy::EXECUTOR).context("the executor's role is not YAML")?;
        let role = serde_json::from_value(role).context("the executor's role is no object")?;
        let roles = api(&client, RBAC, "ClusterRole", "");
        if roles.get_opt(EXECUTOR).await?.is_none() {
            roles.create(&PostParams::default(), &role).await.context("cannot make the executors' role")?;
        }
        Ok(Self { cluster, new })
    }

    /// Takes away what was not there before. The Applications' own objects are the agent's to remove, and went first.
    pub async fn close(&self) -> anyhow::Result<()> {
        for api in &self.new {
            match api.delete(EXECUTOR, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                outcome => drop(outcome.with_context(|| format!("cannot remove {EXECUTOR}"))?),
            }
        }
        Ok(())
    }
}

fn api(client: &Client, group: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::new(group, "v1", kind);
    let resource = ApiResource {
        api_version: gvk.api_version(),
        plural: format!("{}s", kind.to_lowercase()),
        group: gvk.group,
        version: gvk.version,
        kind: gvk.kind,
    };
    match namespace {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    }
}
