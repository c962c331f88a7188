//! Members that are real control planes, as in e2e/: the same programs, from the same cache. Their agents are processes
//! of their own. Beside every figure stands what writing to the same API servers directly takes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use futures::{AsyncBufReadExt, StreamExt};
use kube::Client;
use serde_json::{Map, Value, json};
use tokio::{
    process::Command,
    sync::{Semaphore, mpsc},
    time::sleep,
};

use super::{
    Row,
    control_plane::ControlPlane,
    deliver::{self, BURST, NAMESPACE, Times, apply_to_hub},
    hub::{Hub, get},
    load::Arrivals,
    members::{micros, name},
    process::{Process, Usage},
    rest,
};

/// Slow enough for six control planes on two cores to be idle in between.
const ARRIVALS: Arrivals = Arrivals { count: 40, per_second: 1.0 };
/// Objects that this process writes to all members at once: a burst of thousands of connections would measure them.
const DIRECT_AT_ONCE: usize = 8;
const KIND_PATH: &str = "/apis/apps/v1";

/// A control plane and its agent.
struct Member {
    plane: ControlPlane,
    agent: Process,
}

/// A Deployment that appeared in a member: its name, and when that was.
type Appeared = (String, u64);

pub async fn deliver(directory: &Path, count: usize, burst: bool) -> anyhow::Result<Vec<Row>> {
    let hub = Hub::start(directory).await?;
    let members = join(&hub, directory, count).await?;
    hub.make_namespace(NAMESPACE).await?;
    let (sender, mut appeared) = mpsc::unbounded_channel();
    for member in &members {
        tokio::spawn(watch(member.plane.client.clone(), sender.clone()));
    }
    let through_hub = async |prefix: &str, arrivals, appeared: &mut mpsc::UnboundedReceiver<Appeared>| {
        deliver::run(prefix, arrivals, count, |name| apply_to_hub(&hub, name), async || next(appeared).await).await
    };
    through_hub("warm", Arrivals { count: 1, per_second: 0.0 }, &mut appeared).await?;

    let mut rows = vec![];
    let mut arrivals = vec![("app", ARRIVALS)];
    if burst {
        arrivals.push(("burst", Arrivals { count: BURST, per_second: 0.0 }));
    }
    let mut running = 1;
    for (prefix, arrivals) in arrivals {
        let direct = directly(&members, &format!("direct-{prefix}"), arrivals, &mut appeared).await?;
        let mut row = row("direct server-side apply", count);
        direct.into_row(arrivals, &mut row);
        rows.push(row);

        let (hub_before, agents_before) = (hub.usage()?, agents(&members)?);
        let times = through_hub(prefix, arrivals, &mut appeared).await?;
        running += arrivals.count;
        hub.wait_for_running(NAMESPACE, running, Duration::from_secs(600)).await?;
        let (hub_after, agents_after) = (hub.usage()?, agents(&members)?);
        let mut row = self::row("hanse", count);
        times.into_row(arrivals, &mut row);
        let each = |before: Usage, after: Usage| (after.cpu_ms - before.cpu_ms) as f64 / arrivals.count as f64;
        row.insert("hub_cpu_ms_per_application".into(), json!(each(hub_before, hub_after)));
        row.insert("agents_cpu_ms_per_application".into(), json!(each(agents_before, agents_after)));
        row.insert("hub_rss_bytes".into(), json!(hub_after.rss_bytes));
        row.insert("agents_rss_bytes".into(), json!(agents_after.rss_bytes));
        rows.push(row);
    }
    Ok(rows)
}

/// `rest` with one real member, so that the agent is a process of its own.
pub async fn rest(directory: &Path, applications: usize, seconds: u64) -> anyhow::Result<Row> {
    let hub = Hub::start(directory).await?;
    let members = join(&hub, directory, 1).await?;
    rest::fill(&hub, applications, vec![name(0)]).await?;

    let (hub_before, agent_before) = (hub.usage()?, agents(&members)?);
    let (revision, written) = (hub.revision().await?, versions(&members[0].plane.client).await?);
    sleep(Duration::from_secs(seconds)).await;
    let (hub_after, agent_after) = (hub.usage()?, agents(&members)?);

    let mut row = row("hanse", 1);
    row.insert("applications".into(), json!(applications));
    row.insert("seconds".into(), json!(seconds));
    row.insert("hub_rss_bytes".into(), json!(hub_after.rss_bytes));
    row.insert("hub_cpu_ms".into(), json!(hub_after.cpu_ms - hub_before.cpu_ms));
    row.insert("hub_writes".into(), json!(hub.revision().await? - revision));
    row.insert("agent_rss_bytes".into(), json!(agent_after.rss_bytes));
    row.insert("agent_cpu_ms".into(), json!(agent_after.cpu_ms - agent_before.cpu_ms));
    let rewritten = versions(&members[0].plane.client).await?;
    let changed = rewritten.iter().filter(|(name, version)| written.get(*name) != Some(version)).count();
    // Objects whose resourceVersion is another; writes that change nothing leave it, and cost nothing but a request.
    row.insert("member_writes".into(), json!(changed));
    Ok(row)
}

fn row(system: &str, members: usize) -> Row {
    let mut row = Map::new();
    row.insert("system".into(), json!(system));
    row.insert("members".into(), json!(members));
    row.insert("member_kind".into(), json!("kube-apiserver"));
    row
}

async fn join(hub: &Hub, directory: &Path, count: usize) -> anyhow::Result<Vec<Member>> {
    let programs = programs().await?;
    let etcd = ControlPlane::start_etcd(&programs, directory).await?;
    let tokens = hub.invite((0..count).map(name)).await?;
    let mut members = vec![];
    for (number, token) in tokens.iter().enumerate() {
        let directory = directory.join(name(number));
        std::fs::create_dir(&directory)?;
        let plane = ControlPlane::start(&programs, &directory, &etcd, number).await?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["agent", "--hub", &hub.url, "--token", token, "--kubeconfig"]).arg(&plane.kubeconfig);
        command.arg("--dir").arg(directory.join("agent")).stdout(std::process::Stdio::null());
        members.push(Member { agent: Process::spawn("agent", &directory, &mut command)?, plane });
    }
    // It lives as long as the last control plane does.
    if let Some(last) = members.last_mut() {
        last.plane.keep(etcd);
    }
    hub.wait_for_clusters(count).await?;
    Ok(members)
}

/// The directory that e2e/tools/build.sh prints; it builds what is missing.
pub async fn programs() -> anyhow::Result<PathBuf> {
    const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/tools/build.sh");
    let output = Command::new(BUILD)
        .stderr(std::process::Stdio::inherit())
        .output()
        .await
        .with_context(|| format!("real programs need the source tree: cannot run {BUILD}"))?;
    if !output.status.success() {
        bail!("{BUILD} failed; it says why above");
    }
    let printed = String::from_utf8(output.stdout)?;
    Ok(printed.lines().last().context("e2e/tools/build.sh printed nothing")?.into())
}

/// What all agents have used together.
fn agents(members: &[Member]) -> anyhow::Result<Usage> {
    members.iter().try_fold(Usage::default(), |sum, member| Ok(sum + member.agent.usage()?))
}

/// The same Deployment, written to all members by this process.
async fn directly(
    members: &[Member],
    prefix: &str,
    arrivals: Arrivals,
    appeared: &mut mpsc::UnboundedReceiver<Appeared>,
) -> anyhow::Result<Times> {
    let clients: Vec<Client> = members.iter().map(|member| member.plane.client.clone()).collect();
    let turns = Arc::new(Semaphore::new(DIRECT_AT_ONCE));
    let apply = |name: String| {
        let (clients, turns) = (clients.clone(), turns.clone());
        async move {
            let _turn = turns.acquire().await?;
            futures::future::try_join_all(clients.iter().map(|client| apply_deployment(client, &name))).await.map(drop)
        }
    };
    deliver::run(prefix, arrivals, members.len(), apply, async || next(appeared).await).await
}

async fn apply_deployment(client: &Client, name: &str) -> anyhow::Result<()> {
    let labels = json!({ "app.oam.dev/component": name });
    let requests = json!({ "cpu": "10m", "memory": "16Mi" });
    let container = json!({ "name": name, "image": "nginx:1.29", "env": [{ "name": "MODE", "value": "bench" }],
        "resources": { "requests": requests, "limits": requests } });
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels },
        "spec": { "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } } },
    });
    let path = format!("{KIND_PATH}/namespaces/{NAMESPACE}/deployments/{name}?fieldManager=bench&force=true");
    let body = serde_json::to_vec(&deployment)?;
    let request = http::Request::patch(path).header("content-type", "application/apply-patch+yaml").body(body)?;
    client.request::<Value>(request).await.map(drop).context("cannot apply directly")
}

async fn next(appeared: &mut mpsc::UnboundedReceiver<Appeared>) -> anyhow::Result<Appeared> {
    appeared.recv().await.context("all watches on the members ended")
}

/// Tells of each Deployment that appears, until nobody listens. One that reaches this process late is counted late, on
/// either way alike.
async fn watch(client: Client, sender: mpsc::UnboundedSender<Appeared>) -> anyhow::Result<()> {
    const ADDED: &str = r#"{"type":"ADDED""#;
    let request = http::Request::get(format!("{KIND_PATH}/deployments?watch=true&timeoutSeconds=3600")).body(vec![])?;
    let mut lines = client.request_stream(request).await?.lines();
    while let Some(line) = lines.next().await {
        let (line, at_us) = (line?, micros(SystemTime::now()));
        // Most events are of the controllers' making.
        if line.starts_with(ADDED) {
            let event: Value = serde_json::from_str(&line)?;
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            sender.send((name, at_us)).context("nobody listens")?;
        }
    }
    Ok(())
}

/// Name → resourceVersion of everything of an agent's making.
async fn versions(client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for path in [
        "/apis/apps/v1/deployments",
        "/api/v1/serviceaccounts",
        "/apis/rbac.authorization.k8s.io/v1/rolebindings",
        "/api/v1/namespaces",
    ] {
        for object in get(client, path).await?["items"].as_array().into_iter().flatten() {
            let metadata = &object["metadata"];
            let name = format!("{path}/{}/{}", metadata["namespace"], metadata["name"]);
            versions.insert(name, metadata["resourceVersion"].to_string());
        }
    }
    Ok(versions)
}
