//! `placement --durable`: how many decisions a hub makes and stores in a second, all at once.
//!
//! Applications wait for clusters that are cordoned; then the clusters are uncordoned. The members do not run while that is
//! measured: what is measured is the hub deciding, encoding and committing, with every status, on its own disk.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::{
    Row,
    hub::{Hub, application, applications, create, each, get},
    members::{Members, Orders, name},
};

const NAMESPACE: &str = "bench";
const CLUSTERS: &str = "/apis/hub.hanse.dev/v1alpha1/clusters";
const CREATES_AT_ONCE: usize = 16;
const REPLICAS: u32 = 4;
/// Between looks at the store's revision.
const LOOK: Duration = Duration::from_millis(5);
/// Nothing comes any more when nothing came for so long.
const QUIET: Duration = Duration::from_secs(2);
/// Objects of one piece of a list.
const PIECE: usize = 500;

pub async fn run(directory: &Path, clusters: usize, count: usize) -> anyhow::Result<Row> {
    let hub = Hub::start(directory).await?;
    let tokens = hub.invite((0..clusters).map(name)).await?;
    let agents = Members::start(directory, &Orders { hub: hub.url.clone(), tokens }).await?;
    hub.wait_for_clusters(clusters).await?;
    hub.make_namespace(NAMESPACE).await?;
    cordon(&hub, clusters, true).await?;
    let client = hub.client();
    each(count, CREATES_AT_ONCE, move |number| {
        let (client, object) = (client.clone(), divided(&format!("app-{number:05}")));
        async move { create(&client, &applications(NAMESPACE), &object).await }
    })
    .await?;
    last_write(&hub).await?;
    agents.stop().await?;

    let (before, revision, begin) = (hub.usage()?, hub.revision().await?, Instant::now());
    cordon(&hub, clusters, false).await?;
    let took = last_write(&hub).await?.duration_since(begin);
    let used = hub.usage()?.since(before);
    let (placed, writes) = (placed(&hub).await?, hub.revision().await? - revision);

    Ok(Map::from_iter([
        ("kind".to_owned(), json!("durable, free capacity")),
        ("clusters".to_owned(), json!(clusters)),
        ("applications".to_owned(), json!(count)),
        ("placed".to_owned(), json!(placed)),
        ("took_ms".to_owned(), json!(took.as_millis())),
        ("durable_decisions_per_s".to_owned(), json!((placed as f64 / took.as_secs_f64()).round())),
        ("hub_cpu_us_per_decision".to_owned(), json!(used.cpu_ms * 1000 / (placed as u64).max(1))),
        ("hub_writes_per_decision".to_owned(), json!(writes as f64 / (placed as f64).max(1.0))),
    ]))
}

fn divided(name: &str) -> Value {
    let policies = json!([{ "name": "spread", "type": "placement", "properties": { "mode": "Divided" } }]);
    let mut application = application(name, &policies);
    application["spec"]["components"][0]["traits"] =
        json!([{ "type": "scaler", "properties": { "replicas": REPLICAS } }]);
    application
}

async fn cordon(hub: &Hub, clusters: usize, cordoned: bool) -> anyhow::Result<()> {
    let body = serde_json::to_vec(&json!({ "spec": { "unschedulable": cordoned } }))?;
    for number in 0..clusters {
        let path = format!("{CLUSTERS}/{}", name(number));
        let request = http::Request::patch(&path).header("content-type", "application/merge-patch+json");
        let patched = hub.client().request::<Value>(request.body(body.clone())?).await;
        patched.with_context(|| format!("cannot patch {path}"))?;
    }
    Ok(())
}

/// When the last write before a quiet while was seen.
async fn last_write(hub: &Hub) -> anyhow::Result<Instant> {
    let mut last = (hub.revision().await?, Instant::now());
    while last.1.elapsed() < QUIET {
        sleep(LOOK).await;
        let revision = hub.revision().await?;
        if revision != last.0 {
            last = (revision, Instant::now());
        }
    }
    Ok(last.1)
}

/// Applications that have a place.
async fn placed(hub: &Hub) -> anyhow::Result<usize> {
    let (mut placed, mut next) = (0, String::new());
    loop {
        let list = get(&hub.client(), &format!("{}?limit={PIECE}&continue={next}", applications(NAMESPACE))).await?;
        let items = list["items"].as_array().context("a list without items")?;
        let has_services = |item: &&Value| item["status"]["services"].as_array().is_some_and(|rows| !rows.is_empty());
        placed += items.iter().filter(has_services).count();
        match list["metadata"]["continue"].as_str() {
            Some(more) if !more.is_empty() => next = more.to_owned(),
            _ => return Ok(placed),
        }
    }
}
