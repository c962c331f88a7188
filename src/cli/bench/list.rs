//! `list`: reading many objects, whole and in pieces, and hearing of changes to them.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use futures::{AsyncBufReadExt, StreamExt};
use kube::Client;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Barrier, mpsc},
    time::{Instant, timeout},
};

use super::{
    Row,
    hub::{Hub, SOON, application, applications, create, each, everywhere, get},
    load::Samples,
};

const NAMESPACE: &str = "bench";
const CREATES_AT_ONCE: usize = 16;
const LISTS: usize = 20;
const PIECE: usize = 500;
/// Changes that every watcher hears of.
const CHANGES: usize = 50;

pub async fn run(directory: &Path, objects: usize, watchers: usize) -> anyhow::Result<Vec<Row>> {
    let hub = Hub::start(directory).await?;
    hub.make_namespace(NAMESPACE).await?;
    let (client, start) = (hub.client(), Instant::now());
    each(objects, CREATES_AT_ONCE, move |number| {
        let (client, object) = (client.clone(), application(&format!("app-{number:05}"), &everywhere()));
        async move { create(&client, &applications(NAMESPACE), &object).await }
    })
    .await?;
    let created = start.elapsed();
    let mut filled = row("create", objects);
    filled.insert("clients".into(), json!(CREATES_AT_ONCE));
    filled.insert("ops_per_s".into(), json!((objects as f64 / created.as_secs_f64()).round()));
    wait_until_quiet(&hub).await?;

    let mut rows = vec![filled];
    for (what, path) in [
        ("list", applications(NAMESPACE)),
        ("list_piece", format!("{}?limit={PIECE}", applications(NAMESPACE))),
        ("get", format!("{}/app-00000", applications(NAMESPACE))),
    ] {
        rows.push(read(&hub, what, &path, objects).await?);
    }
    rows.push(watch_all(&hub, objects).await?);
    rows.push(hear(&hub, objects, watchers).await?);
    Ok(rows)
}

fn row(what: &str, objects: usize) -> Row {
    let mut row = Map::new();
    row.insert("system".into(), json!("hanse"));
    row.insert("what".into(), json!(what));
    row.insert("objects".into(), json!(objects));
    row
}

/// The controllers have work to do on new Applications; it is not what is measured.
async fn wait_until_quiet(hub: &Hub) -> anyhow::Result<()> {
    const STILL: Duration = Duration::from_secs(2);
    loop {
        let before = hub.revision().await?;
        tokio::time::sleep(STILL).await;
        if hub.revision().await? == before {
            return Ok(());
        }
    }
}

async fn read(hub: &Hub, what: &str, path: &str, objects: usize) -> anyhow::Result<Row> {
    let mut row = row(what, objects);
    let before = hub.usage()?;
    let (mut times, mut bytes) = (vec![], 0);
    for _ in 0..LISTS {
        let request = http::Request::get(path).body(vec![])?;
        let start = Instant::now();
        // As text: parsing it is the client's own business.
        bytes = hub.client().request_text(request).await?.len();
        times.push(start.elapsed());
    }
    let cpu_ms = hub.usage()?.cpu_ms - before.cpu_ms;
    row.insert("response_bytes".into(), json!(bytes));
    row.insert("hub_cpu_ms".into(), json!(cpu_ms as f64 / LISTS as f64));
    row.insert("hub_rss_bytes".into(), json!(hub.usage()?.rss_bytes));
    times.into_iter().collect::<Samples>().into_row("", &mut row);
    Ok(row)
}

/// Lines of a watch, as they come.
async fn watch(
    client: &Client,
    query: &str,
) -> anyhow::Result<impl futures::Stream<Item = std::io::Result<String>> + use<>> {
    let request = http::Request::get(format!("{}?watch=true&{query}", applications(NAMESPACE))).body(vec![])?;
    Ok(client.request_stream(request).await.context("cannot watch")?.lines())
}

/// A watch that begins with everything there is.
async fn watch_all(hub: &Hub, objects: usize) -> anyhow::Result<Row> {
    let start = Instant::now();
    let lines = watch(&hub.client(), "resourceVersion=0").await?;
    let mut lines = std::pin::pin!(lines);
    for _ in 0..objects {
        timeout(SOON, lines.next()).await?.context("the watch ended")??;
    }
    let took = start.elapsed();
    let mut row = row("watch_from_nothing", objects);
    row.insert("events_per_s".into(), json!((objects as f64 / took.as_secs_f64()).round()));
    [took].into_iter().collect::<Samples>().into_row("", &mut row);
    Ok(row)
}

/// How long a change takes to reach every one of many watchers.
async fn hear(hub: &Hub, objects: usize, watchers: usize) -> anyhow::Result<Row> {
    let revision = hub.revision().await?;
    let (sender, mut heard) = mpsc::unbounded_channel();
    let standing = Arc::new(Barrier::new(watchers + 1));
    for _ in 0..watchers {
        let (client, sender, standing) = (hub.client(), sender.clone(), standing.clone());
        tokio::spawn(async move {
            let lines = watch(&client, &format!("resourceVersion={revision}")).await;
            standing.wait().await;
            let mut lines = std::pin::pin!(lines?);
            while let Some(line) = lines.next().await {
                let at = Instant::now();
                let event: Value = serde_json::from_str(&line?)?;
                let Some(label) = event.pointer("/object/metadata/labels/change").and_then(Value::as_str) else {
                    continue;
                };
                if event["object"]["metadata"]["name"] == "app-00000" {
                    sender.send((label.to_owned(), at)).map_err(|_| anyhow!("nobody listens"))?;
                }
            }
            anyhow::Ok(())
        });
    }
    standing.wait().await;

    let before = hub.usage()?;
    let (mut each, mut last) = (vec![], vec![]);
    let path = format!("{}/app-00000", applications(NAMESPACE));
    for number in 0..CHANGES {
        let change = number.to_string();
        let body = serde_json::to_vec(&json!({ "metadata": { "labels": { "change": change } } }))?;
        let request = http::Request::patch(&path).header("content-type", "application/merge-patch+json").body(body)?;
        let start = Instant::now();
        hub.client().request::<Value>(request).await?;
        let mut missing = std::collections::BTreeSet::from_iter(0..watchers);
        let mut latest = Duration::ZERO;
        while !missing.is_empty() {
            let (label, at) = timeout(SOON, heard.recv()).await?.context("all watches ended")?;
            // The hub's own writes to the object, such as its status, carry the label too: only the first counts.
            if label == change {
                missing.pop_first();
                latest = latest.max(at - start);
                each.push(at - start);
            }
        }
        last.push(latest);
        wait_until_it_stays(&hub.client(), &path, &mut heard).await?;
    }
    let cpu_ms = hub.usage()?.cpu_ms - before.cpu_ms;
    let mut row = row("watch_change", objects);
    row.insert("clients".into(), json!(watchers));
    row.insert("changes".into(), json!(CHANGES));
    row.insert("hub_cpu_ms_per_change".into(), json!(cpu_ms as f64 / CHANGES as f64));
    row.insert("hub_rss_bytes".into(), json!(hub.usage()?.rss_bytes));
    each.into_iter().collect::<Samples>().into_row("", &mut row);
    last.into_iter().collect::<Samples>().into_row("last_", &mut row);
    Ok(row)
}

/// What the hub makes of a change is over when the object stays as it is; events of that are thrown away.
async fn wait_until_it_stays<T>(
    client: &Client,
    path: &str,
    heard: &mut mpsc::UnboundedReceiver<T>,
) -> anyhow::Result<()> {
    const STILL: Duration = Duration::from_millis(100);
    loop {
        let before = get(client, path).await?["metadata"]["resourceVersion"].clone();
        tokio::time::sleep(STILL).await;
        if get(client, path).await?["metadata"]["resourceVersion"] == before {
            while heard.try_recv().is_ok() {}
            return Ok(());
        }
    }
}
