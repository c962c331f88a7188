//! `rest`: what hub and agents hold, and do, while nothing changes. Converged means silent: no writes anywhere.

use std::{path::Path, time::Duration};

use serde_json::{Map, json};
use tokio::time::sleep;

use super::{
    Row,
    hub::{Hub, application, applications, create, each},
    members::{Members, Orders, name},
};

pub const NAMESPACE: &str = "bench";
/// Creating is not what is measured.
const CREATES_AT_ONCE: usize = 16;
/// Statuses, capacity and events of the last changes are written by then.
const SETTLING: Duration = Duration::from_secs(45);

pub async fn run(directory: &Path, count: usize, members: usize, seconds: u64) -> anyhow::Result<Row> {
    let hub = Hub::start(directory).await?;
    let tokens = hub.invite((0..members).map(name)).await?;
    let mut agents = Members::start(directory, &Orders { hub: hub.url.clone(), tokens }).await?;
    hub.wait_for_clusters(members).await?;
    fill(&hub, count, (0..members).map(name).collect()).await?;

    let (hub_before, agents_before) = (hub.usage()?, agents.usage()?);
    let (revision, writes) = (hub.revision().await?, agents.writes().await?);
    sleep(Duration::from_secs(seconds)).await;
    let (hub_after, agents_after) = (hub.usage()?, agents.usage()?);

    let mut row = Map::new();
    row.insert("system".into(), json!("hanse"));
    row.insert("applications".into(), json!(count));
    row.insert("members".into(), json!(members));
    row.insert("member_kind".into(), json!("embedded"));
    row.insert("seconds".into(), json!(seconds));
    row.insert("hub_rss_bytes".into(), json!(hub_after.rss_bytes));
    row.insert("hub_cpu_ms".into(), json!(hub_after.cpu_ms - hub_before.cpu_ms));
    row.insert("hub_writes".into(), json!(hub.revision().await? - revision));
    row.insert("hub_disk_bytes".into(), json!(hub.disk_bytes()?));
    // All agents and their simulated members together; `rest --real` tells one agent's memory.
    row.insert("agents_and_members_rss_bytes".into(), json!(agents_after.rss_bytes));
    row.insert("agents_and_members_cpu_ms".into(), json!(agents_after.cpu_ms - agents_before.cpu_ms));
    row.insert("member_writes".into(), json!(agents.writes().await? - writes));
    Ok(row)
}

/// Applies that many, each in one of the clusters, and waits until all run and nothing is left to write.
pub async fn fill(hub: &Hub, count: usize, clusters: Vec<String>) -> anyhow::Result<()> {
    hub.make_namespace(NAMESPACE).await?;
    let client = hub.client();
    each(count, CREATES_AT_ONCE, move |number| {
        let cluster = &clusters[number % clusters.len()];
        let policies = json!([{ "name": "here", "type": "topology", "properties": { "clusters": [cluster] } }]);
        let (client, object) = (client.clone(), application(&format!("app-{number:05}"), &policies));
        async move { create(&client, &applications(NAMESPACE), &object).await }
    })
    .await?;
    hub.wait_for_running(NAMESPACE, count, Duration::from_secs(600)).await?;
    sleep(SETTLING).await;
    Ok(())
}
