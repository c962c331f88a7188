//! `restart`: a hub with a full store is killed and started again: how soon it serves, how soon all agents are back and have
//! nothing to do, and that nothing is written because of it.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::{
    Row,
    hub::{Hub, SOON, application, applications, create, each, everywhere, get},
    load::milliseconds,
    members::{Members, Orders, name},
    process::until,
};

const NAMESPACE: &str = "bench";
const CREATES_AT_ONCE: usize = 4;
/// A hundred thousand deliveries take their time; they are not what is measured.
const FILLING: Duration = Duration::from_secs(3600);
/// Statuses, capacity and events of the last changes are written by then.
const SETTLING: Duration = Duration::from_secs(45);
/// What a restart causes to be written would be written by then.
const WATCHED: Duration = Duration::from_secs(30);
const CLUSTERS: &str = "/apis/hub.hanse.dev/v1alpha1/clusters";

pub async fn run(directory: &Path, count: usize, members: usize) -> anyhow::Result<Row> {
    let mut hub = Hub::start(directory).await?;
    let tokens = hub.invite((0..members).map(name)).await?;
    let mut agents = Members::start(directory, &Orders { hub: hub.url.clone(), tokens }).await?;
    hub.wait_for_clusters(members).await?;
    hub.make_namespace(NAMESPACE).await?;
    let (client, begin) = (hub.client(), Instant::now());
    each(count, CREATES_AT_ONCE, move |number| {
        let (client, object) = (client.clone(), application(&format!("app-{number:05}"), &everywhere()));
        async move { create(&client, &applications(NAMESPACE), &object).await }
    })
    .await?;
    hub.wait_for_running(NAMESPACE, count, FILLING).await?;
    let filled = begin.elapsed();
    sleep(SETTLING).await;

    let (revision, writes, disk_bytes) = (hub.revision().await?, agents.writes().await?, hub.disk_bytes()?);
    let before = beats(&hub, members).await?;
    hub.kill().await?;
    let begin = Instant::now();
    hub.begin_again(directory)?;
    hub.wait_until_it_answers().await?;
    let serving = begin.elapsed();
    let served = hub.revision().await?;
    until("all agents to be back", SOON, async || {
        // As text, times of one form are in their order.
        Ok(beats(&hub, members).await?.iter().all(|(cluster, beat)| Some(beat) > before.get(cluster)))
    })
    .await?;
    let verified = begin.elapsed();
    sleep(WATCHED).await;

    let mut row = Map::new();
    row.insert("system".into(), json!("hanse"));
    row.insert("applications".into(), json!(count));
    row.insert("works".into(), json!(count * members));
    row.insert("filled_s".into(), json!(filled.as_secs()));
    row.insert("hub_disk_bytes".into(), json!(disk_bytes));
    row.insert("serving_ms".into(), json!(milliseconds(serving)));
    row.insert("verified_ms".into(), json!(milliseconds(verified)));
    row.insert("writes".into(), json!(hub.revision().await? - revision));
    row.insert("writes_before_serving".into(), json!(served - revision));
    row.insert("member_writes".into(), json!(agents.writes().await? - writes));
    let usage = hub.usage()?;
    row.insert("hub_cpu_ms".into(), json!(usage.cpu_ms));
    row.insert("hub_rss_bytes".into(), json!(usage.rss_bytes));
    Ok(row)
}

/// When each cluster was heard last. Only a get tells; a list says what is stored.
async fn beats(hub: &Hub, members: usize) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let mut beats = BTreeMap::new();
    for cluster in (0..members).map(name) {
        let found = get(&hub.client(), &format!("{CLUSTERS}/{cluster}")).await?;
        beats.insert(cluster, found.pointer("/status/lastBeat").and_then(Value::as_str).map(str::to_owned));
    }
    Ok(beats)
}
