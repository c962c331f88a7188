//! Many watchers of one object: how long a change takes to reach each of them, and what they cost the servers.
//!
//! etcd's are watches of its gRPC API; hanse's are watches of the Kubernetes API, which is what its clients watch: a change is
//! a new label on a namespace, sent to every watcher as JSON of about 500 bytes. On both sides the watchers are spread
//! evenly over the three processes, and many share a connection.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::BodyExt;
use kube::client::ConfigExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tower::ServiceExt;

use super::{
    client::{
        connect,
        etcd::{WatchCreateRequest, WatchRequest, watch_client::WatchClient, watch_request::RequestUnion},
    },
    etcd::Etcd,
    rounded,
};
use crate::cli::bench::{
    Row,
    hub::{SOON, create, get},
    load::Samples,
    process::Usage,
    replicas::Replicas,
};

const CHANGES: u64 = 20;
const STREAMS_PER_CONNECTION: usize = 100;
const NAMESPACE: &str = "watched";
const KEY: &str = "/hanse/bench.hanse.dev/watched";
const VALUE_BYTES: usize = 500;

/// A watcher heard of this change, then; or it is standing.
enum Heard {
    Standing,
    Change(u64, Instant),
}

type Ears = mpsc::UnboundedSender<Heard>;

pub async fn hanse(replicas: &Replicas, watchers: usize) -> anyhow::Result<Row> {
    let rest = replicas.rest(0).await?;
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    create(&rest, "/api/v1/namespaces", &namespace).await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    let made = get(&rest, &path).await?;
    let revision = made["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?.to_owned();
    let before = replicas.usage()?;
    let (ears, heard) = mpsc::unbounded_channel();
    let count = replicas.members.len();
    for number in 0..watchers.div_ceil(STREAMS_PER_CONNECTION) {
        let config = replicas.rest_config(number % count).await?;
        let address = config.cluster_url.authority().context("a kubeconfig without an address")?.to_string();
        let channel = connect(&address, "127.0.0.1", config.rustls_client_config()?).await?;
        for _ in number * STREAMS_PER_CONNECTION..watchers.min((number + 1) * STREAMS_PER_CONNECTION) {
            let query = format!("watch=true&fieldSelector=metadata.name%3D{NAMESPACE}&resourceVersion={revision}");
            let uri = format!("https://{address}/api/v1/namespaces?{query}");
            tokio::spawn(listen(channel.clone(), uri, ears.clone()));
        }
    }
    let change = async |number: u64| {
        let body = serde_json::to_vec(&json!({ "metadata": { "labels": { "change": number.to_string() } } }))?;
        let request = http::Request::patch(&path).header("content-type", "application/merge-patch+json").body(body)?;
        rest.request::<Value>(request).await?;
        Ok(())
    };
    let row = hear("hanse", watchers, heard, before, || replicas.usage(), change).await?;
    Ok(row)
}

/// One watch of the Kubernetes API, read until it ends.
async fn listen(channel: Channel, uri: String, ears: Ears) -> anyhow::Result<()> {
    const MARK: &str = "\"change\":\"";
    let request = http::Request::get(uri).body(tonic::body::Body::empty())?;
    let response = channel.oneshot(request).await?;
    if !response.status().is_success() {
        bail!("a watch was refused: {}", response.status());
    }
    ears.send(Heard::Standing)?;
    let (mut body, mut line) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        line.extend_from_slice(&data);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let at = Instant::now();
            let text = String::from_utf8_lossy(&line[..end]).into_owned();
            line.drain(..=end);
            let number = text.split_once(MARK).and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
            if let Some(number) = number {
                ears.send(Heard::Change(number, at))?;
            }
        }
    }
    Ok(())
}

pub async fn etcd(etcd: &Etcd, watchers: usize) -> anyhow::Result<Row> {
    let before = etcd.usage()?;
    let (ears, heard) = mpsc::unbounded_channel();
    let addresses: Vec<&str> = etcd.addresses().collect();
    for number in 0..watchers.div_ceil(STREAMS_PER_CONNECTION) {
        let client = WatchClient::new(etcd.connect(addresses[number % addresses.len()]).await?);
        for _ in number * STREAMS_PER_CONNECTION..watchers.min((number + 1) * STREAMS_PER_CONNECTION) {
            tokio::spawn(listen_to_etcd(client.clone(), ears.clone()));
        }
    }
    let writer = etcd.clients(1).await?.pop().context("no connection")?;
    let change = async |number: u64| {
        let mut value = number.to_string().into_bytes();
        value.resize(VALUE_BYTES, b' ');
        match writer.clone().put(KEY, Bytes::from(value)).await {
            super::client::Written::Yes => Ok(()),
            other => bail!("cannot change what is watched: {other:?}"),
        }
    };
    hear("etcd", watchers, heard, before, || etcd.usage(), change).await
}

async fn listen_to_etcd(mut client: WatchClient<Channel>, ears: Ears) -> anyhow::Result<()> {
    let create = WatchCreateRequest { key: KEY.into(), range_end: Bytes::new() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open, as the watch lives no longer than it.
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let mut answers = client.watch(requests).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let at = Instant::now();
        if answer.created {
            ears.send(Heard::Standing)?;
        }
        for event in answer.events {
            let value = event.kv.context("an event without a key")?.value;
            ears.send(Heard::Change(std::str::from_utf8(&value)?.trim().parse()?, at))?;
        }
    }
    Ok(())
}

/// Waits until all stand, then makes the changes one after the other.
async fn hear(
    system: &str,
    watchers: usize,
    mut heard: mpsc::UnboundedReceiver<Heard>,
    idle: Usage,
    usage: impl Fn() -> anyhow::Result<Usage>,
    change: impl AsyncFn(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Row> {
    const STILL: Duration = Duration::from_secs(2);
    let mut next = async || tokio::time::timeout(SOON, heard.recv()).await?.context("all watches ended");
    for _ in 0..watchers {
        let Heard::Standing = next().await? else { bail!("a change before any was made") };
    }
    tokio::time::sleep(STILL).await;
    let standing = usage()?;
    let (mut each, mut last) = (vec![], vec![]);
    for number in 1..=CHANGES {
        let begin = Instant::now();
        change(number).await?;
        let mut latest = Duration::ZERO;
        let mut missing = watchers;
        while missing > 0 {
            if let Heard::Change(heard, at) = next().await?
                && heard == number
            {
                each.push(at - begin);
                latest = latest.max(at - begin);
                missing -= 1;
            }
        }
        last.push(latest);
    }
    let after = usage()?;
    let events = (CHANGES * watchers as u64) as f64;
    let mut row = Row::new();
    row.insert("system".into(), json!(system));
    row.insert("op".into(), json!("watch"));
    row.insert("watchers".into(), json!(watchers));
    row.insert("rss_mb".into(), json!(rounded(standing.rss_bytes as f64 / 1e6)));
    let grown = standing.rss_bytes.saturating_sub(idle.rss_bytes) as f64;
    row.insert("rss_kb_per_watcher".into(), json!(rounded(grown / 1e3 / watchers as f64)));
    row.insert("cpu_ms_per_1000".into(), json!(rounded(1000.0 * after.since(standing).cpu_ms as f64 / events)));
    each.into_iter().collect::<Samples>().into_row("", &mut row);
    last.into_iter().collect::<Samples>().into_row("last_", &mut row);
    Ok(row)
}
