//! The hub as its admin's commands reach it: a kubeconfig, and REST as every other client speaks it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, anyhow, bail};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    hub::auth::REPLICAS_PATH,
    kinds::Kind,
    model::{Digest, ObjectName},
};

/// Objects of one piece of a list.
const PIECE: usize = 500;

/// Which hub, and as whom.
#[derive(clap::Args)]
pub struct Connection {
    /// Kubeconfig of the hub's admin; else $KUBECONFIG, else ~/.kube/config
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The hub's directory: takes admin.kubeconfig from there
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    dir: Option<PathBuf>,

    /// Context of the kubeconfig; else its current one
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
}

pub struct Admin {
    client: Client,
    /// The hub's address, as the kubeconfig says.
    pub url: String,
    /// Of the kubeconfig's context.
    pub namespace: String,
    /// SHA-256 of the public key of the hub's serving authority, which join tokens carry.
    pub pin: Digest,
}

impl Connection {
    /// With the current context of this file.
    pub fn of(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig: Some(kubeconfig), dir: None, context: None }
    }

    pub async fn open(&self) -> anyhow::Result<Admin> {
        let file = self.kubeconfig.clone().or(self.dir.as_ref().map(|dir| dir.join("admin.kubeconfig")));
        let kubeconfig = match &file {
            Some(path) => Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => Kubeconfig::read().context("no kubeconfig of a hub: use --kubeconfig, --dir or $KUBECONFIG")?,
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.context("the kubeconfig is not usable")?;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let authority = config.root_cert.as_ref().and_then(|authorities| authorities.first());
        let authority =
            authority.context("the kubeconfig names no certificate authority, so no token can carry its pin")?;
        let pin = Digest::of_key(authority).context("the kubeconfig's certificate authority is no certificate")?;
        let namespace = config.default_namespace.clone();
        Ok(Admin { client: Client::try_from(config)?, url, namespace, pin })
    }
}

impl Admin {
    pub async fn get(&self, kind: &Kind, name: &str) -> anyhow::Result<Value> {
        self.call(http::Request::get(path(kind, name)), None).await
    }

    pub async fn list(&self, kind: &Kind) -> anyhow::Result<Value> {
        self.call(http::Request::get(path(kind, "")), None).await
    }

    /// As the hub prints it for people.
    pub async fn table(&self, kind: &Kind) -> anyhow::Result<Value> {
        let request = http::Request::get(path(kind, ""));
        self.call(request.header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1"), None).await
    }

    /// The replicas, as the one that answers sees them; needs no quorum.
    pub async fn replicas(&self) -> anyhow::Result<Value> {
        self.call(http::Request::get(REPLICAS_PATH), None).await
    }

    pub async fn create(&self, kind: &Kind, object: &Value) -> anyhow::Result<Value> {
        self.call(http::Request::post(path(kind, "")), Some(("application/json", object))).await
    }

    /// What the hub answers to a question: the status of a review of this kind, in this namespace where it has one.
    pub async fn review<T: DeserializeOwned>(&self, kind: &Kind, namespace: &str, spec: &Value) -> anyhow::Result<T> {
        let review = json!({"apiVersion": kind.gvk.api_version(), "kind": kind.gvk.kind, "spec": spec});
        let place = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let path = format!("/apis/{}{place}/{}", kind.gvk.api_version(), kind.plural);
        let mut answer = self.call(http::Request::post(path), Some(("application/json", &review))).await?;
        serde_json::from_value(answer["status"].take()).context("the hub's answer cannot be read")
    }

    /// A JSON merge patch.
    pub async fn patch(&self, kind: &Kind, name: &str, patch: &Value) -> anyhow::Result<Value> {
        self.call(http::Request::patch(path(kind, name)), Some(("application/merge-patch+json", patch))).await
    }

    pub async fn get_in(&self, kind: &Kind, name: &ObjectName) -> anyhow::Result<Value> {
        self.call(http::Request::get(path_in(kind, name)), None).await
    }

    /// A JSON merge patch.
    pub async fn patch_in(&self, kind: &Kind, name: &ObjectName, patch: &Value) -> anyhow::Result<Value> {
        let request = http::Request::patch(path_in(kind, name));
        self.call(request, Some(("application/merge-patch+json", patch))).await
    }

    /// Names of all objects of a namespace; an empty one means all of them.
    pub async fn names_in(&self, kind: &Kind, namespace: &str) -> anyhow::Result<Vec<ObjectName>> {
        let all = match namespace {
            "" => path(kind, ""),
            namespace => path_in(kind, &ObjectName::new(namespace, "")),
        };
        let (mut names, mut next) = (Vec::new(), String::new());
        loop {
            let piece = self.call(http::Request::get(format!("{all}?limit={PIECE}&continue={next}")), None).await?;
            for item in piece["items"].as_array().into_iter().flatten() {
                let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
                names.push(ObjectName::new(text("namespace"), text("name")));
            }
            match piece["metadata"]["continue"].as_str() {
                Some(more) if !more.is_empty() => next = more.to_owned(),
                _ => return Ok(names),
            }
        }
    }

    pub async fn delete(&self, kind: &Kind, name: &str) -> anyhow::Result<Value> {
        self.call(http::Request::delete(path(kind, name)), None).await
    }

    async fn call(&self, request: http::request::Builder, body: Option<(&str, &Value)>) -> anyhow::Result<Value> {
        let request = match body {
            Some((type_, body)) => request.header("content-type", type_).body(serde_json::to_vec(body)?)?,
            None => request.body(Vec::new())?,
        };
        match self.client.request(request).await {
            Ok(answer) => Ok(answer),
            // The hub's own words, without the wrapping.
            Err(kube::Error::Api(status)) => bail!("the hub refuses: {}", status.message),
            Err(error) => Err(anyhow!(error).context(format!("cannot talk to the hub at {}", self.url))),
        }
    }
}

/// Of one object, or with an empty name of all.
fn path(kind: &Kind, name: &str) -> String {
    let path = format!("/apis/{}/{}", kind.gvk.api_version(), kind.plural);
    if name.is_empty() { path } else { format!("{path}/{name}") }
}

/// Of one object in a namespace, or with an empty name of all in it.
fn path_in(kind: &Kind, name: &ObjectName) -> String {
    let path = format!("/apis/{}/namespaces/{}/{}", kind.gvk.api_version(), name.namespace, kind.plural);
    if name.name.is_empty() { path } else { format!("{path}/{}", name.name) }
}

/// A `Table` of the API, in aligned columns; those of wide output are left out, as kubectl does.
pub fn print_table(table: &Value) -> ExitCode {
    let columns = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<usize> =
        (0..columns.len()).filter(|index| columns[*index]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let mut lines = vec![shown.iter().map(|index| text(&columns[*index]["name"]).to_uppercase()).collect::<Vec<_>>()];
    for row in table["rows"].as_array().into_iter().flatten() {
        lines.push(shown.iter().map(|index| text(&row["cells"][*index])).collect());
    }
    if lines.len() == 1 {
        eprintln!("none");
        return ExitCode::SUCCESS;
    }
    print_lines(lines);
    ExitCode::SUCCESS
}

/// Aligned columns, the first line being their names.
pub fn print_lines(lines: Vec<Vec<String>>) {
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len))
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("   ").trim_end());
    }
}

pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
