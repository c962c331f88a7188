//! What a quickstart runs: the hub, its members, and what is seen of them through the hub's API.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::{
    EXAMPLES, client,
    fleet::{self, Member},
    replicas::Replicas,
    screen::{Cluster, Line, Picture, Screen},
};
use crate::kinds::{self, application::LAST_APPLIED_ANNOTATION};

/// Silence after which a cluster is Unknown here: short, so that one sees it happen, and longer than a beat.
const GRACE: Duration = Duration::from_secs(7);
/// How long attached clusters have to confirm that everything is removed.
const WITHDRAWAL_MAX: Duration = Duration::from_secs(30);
/// Nothing that is waited for may take longer.
pub const STEP_MAX: Duration = Duration::from_secs(30);
pub const POLL: Duration = Duration::from_millis(100);
/// Members that join at the same time.
const JOINING_MAX: usize = 16;

pub struct Stage {
    pub screen: Screen,
    pub kubeconfig: PathBuf,
    pub members: Vec<Member>,
    pub api: client::Hub,
    pub urls: Vec<String>,
    pub replicas: Replicas,
    /// Where members' agents keep theirs.
    fleet_dir: PathBuf,
}

impl Stage {
    /// Starts the hub; nothing has joined yet.
    pub async fn open(dir: &Path, members: usize, screen: Screen) -> anyhow::Result<Self> {
        let replicas = Replicas::start(dir, GRACE).await.context("the hub does not start")?;
        let fleet_dir = dir.join("members");
        let kubeconfigs = replicas.kubeconfigs();
        Ok(Self {
            screen,
            kubeconfig: kubeconfigs[0].clone(),
            members: fleet::simulated(members, &fleet_dir)?,
            fleet_dir,
            api: client::Hub::connect(&kubeconfigs).await?,
            urls: replicas.urls(),
            replicas,
        })
    }

    /// Joins every member and applies the examples.
    pub async fn begin(&mut self, attach: &[String]) -> anyhow::Result<()> {
        self.screen.note(&format!("hub at {}", self.urls.join(", ")));
        self.join(attach).await?;
        let (count, simulated) = (self.members.len(), self.members.iter().filter(|m| m.simulated.is_some()).count());
        self.screen.note(&format!("{count} member clusters joined, {simulated} of them simulated"));
        let applied = self.apply_examples().await?;
        self.screen.note(&format!("applied {}", applied.join(", ")));
        Ok(())
    }

    pub async fn join(&mut self, attach: &[String]) -> anyhow::Result<()> {
        for context in attach {
            self.members.push(Member::attached(context, &self.fleet_dir).await?);
        }
        let (api, urls, pin) = (&self.api, &self.urls, self.replicas.admin().await?.pin);
        let joins = self.members.iter_mut().map(|member| member.join(api, urls, pin));
        futures::stream::iter(joins).buffer_unordered(JOINING_MAX).try_collect::<Vec<_>>().await?;
        // What is applied before a cluster has said how much room it has is placed without it.
        let count = self.members.len();
        self.until("every cluster is Ready and measured", |picture| picture.available() == count).await.map(drop)
    }

    /// Waits for the picture to be so.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Picture) -> bool) -> anyhow::Result<Picture> {
        let deadline = Instant::now() + STEP_MAX;
        loop {
            let picture = self.picture().await?;
            if is_so(&picture) {
                return Ok(picture);
            }
            if Instant::now() > deadline {
                bail!("not within {} s: {what}; last seen {picture:?}", STEP_MAX.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The names of what was applied.
    pub async fn apply_examples(&self) -> anyhow::Result<Vec<&'static str>> {
        for (file, text) in EXAMPLES {
            let mut application: Value = serde_saphyr::from_str(text).with_context(|| format!("{file} is not YAML"))?;
            // As kubectl leaves it, so that `kubectl apply` goes on from here without a warning.
            let applied = format!("{application}\n");
            application["metadata"]["annotations"][LAST_APPLIED_ANNOTATION] = applied.into();
            self.api.apply(&kinds::APPLICATION, &application).await?;
        }
        Ok(EXAMPLES.iter().map(|(file, _)| *file).collect())
    }

    /// Stops everything that was started. Simulated members are gone with it; what was applied to real ones is removed
    /// first, as far as they answer.
    pub async fn close(&mut self) {
        let attached = self.members.iter().any(|member| member.attached.is_some());
        let withdrawn = if attached { self.withdraw().await } else { Ok(()) };
        futures::future::join_all(self.members.iter_mut().map(Member::stop)).await;
        let mut outcomes = vec![withdrawn];
        for attached in self.members.iter().filter_map(|member| member.attached.as_ref()) {
            outcomes.push(attached.close().await);
        }
        for error in outcomes.into_iter().filter_map(Result::err) {
            self.screen.note(&format!("not everything was removed from the attached clusters: {error:#}"));
        }
        self.replicas.stop_all().await;
    }

    async fn withdraw(&self) -> anyhow::Result<()> {
        for application in self.api.list(&kinds::APPLICATION).await? {
            let metadata = &application["metadata"];
            self.api.delete(&kinds::APPLICATION, &text(&metadata["namespace"]), &text(&metadata["name"])).await?;
        }
        let emptied = async {
            while !self.api.list(&kinds::APPLICATION).await?.is_empty() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(())
        };
        tokio::time::timeout(WITHDRAWAL_MAX, emptied).await.context("they did not confirm in time")?
    }

    /// Requests that agents sent to simulated members: applies that changed something, and deletes.
    pub fn member_writes(&self) -> (u64, u64) {
        let counts = self.members.iter().filter_map(|member| member.simulated.as_ref()).map(|member| member.counts());
        counts.fold((0, 0), |(changes, deletes), counts| (changes + counts.changes, deletes + counts.deletes))
    }

    /// What the API says now.
    pub async fn picture(&self) -> anyhow::Result<Picture> {
        let clusters = self.api.list(&kinds::CLUSTER).await?;
        let applications = self.api.list(&kinds::APPLICATION).await?;
        let works = self.api.list(&kinds::WORK).await?;
        let state = |cluster: &Value| Cluster {
            name: text(&cluster["metadata"]["name"]),
            ready: ready(cluster),
            is_measured: cluster["status"].get("sketch").is_some(),
        };
        let clusters = clusters.iter().map(state).collect();
        let lines = applications.iter().flat_map(|application| lines(application, &works)).collect();
        Ok(Picture { clusters, lines })
    }
}

/// The status of the condition `Ready`: `True`, `False` or `Unknown`.
fn ready(object: &Value) -> String {
    let list = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut found = list.filter(|condition| condition["type"] == "Ready").map(|condition| text(&condition["status"]));
    found.next().unwrap_or_else(|| "Unknown".into())
}

/// One line per component, with ready and desired replicas by cluster.
fn lines(application: &Value, works: &[Value]) -> Vec<Line> {
    let name = text(&application["metadata"]["name"]);
    let phase = text(&application["status"]["status"]);
    let sum = text(&application["status"]["placement"]["sum"]);
    let works = works.iter().filter(|work| work["spec"]["application"]["name"] == name.as_str());
    let mut lines = BTreeMap::<String, BTreeMap<String, (u64, u64)>>::new();
    let components = application["spec"]["components"].as_array().into_iter().flatten();
    let order = components.map(|component| text(&component["name"])).collect::<Vec<_>>();
    for component in &order {
        lines.entry(component.clone()).or_default();
    }
    for work in works {
        let cluster = text(&work["spec"]["clusterName"]);
        for component in work["status"]["components"].as_array().into_iter().flatten() {
            let count = |field: &str| component["replicas"][field].as_u64();
            // What has no replicas is there or not.
            let whole = (u64::from(component["healthy"] == true), 1);
            let cell = count("ready").zip(count("desired")).unwrap_or(whole);
            lines.entry(text(&component["name"])).or_default().insert(cluster.clone(), cell);
        }
    }
    let line = |component: &String| Line {
        application: name.clone(),
        component: component.clone(),
        phase: phase.clone(),
        sum: sum.clone(),
        cells: lines.get(component).cloned().unwrap_or_default(),
    };
    order.iter().map(line).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_counts_ready_and_desired_replicas_by_cluster() {
        let application = json!({
            "metadata": {"name": "shop"}, "spec": {"components": [{"name": "web"}, {"name": "orders"}]},
            "status": {"status": "running", "placement": {"sum": "web 5 = 3 + 2"}}});
        let work = |cluster: &str, ready: u64, desired: u64| {
            json!({"spec": {"application": {"name": "shop"}, "clusterName": cluster}, "status": {"components": [
                {"name": "web", "healthy": ready == desired, "replicas": {"ready": ready, "desired": desired}}]}})
        };
        let other = json!({"spec": {"application": {"name": "blog"}, "clusterName": "eu"}, "status": {}});
        let lines = lines(&application, &[work("eu", 3, 3), work("us", 1, 2), other]);
        assert_eq!(lines.len(), 2, "a component without any work is shown too");
        assert_eq!(lines[0].cells, BTreeMap::from([("eu".to_owned(), (3, 3)), ("us".to_owned(), (1, 2))]));
        assert_eq!((lines[0].phase.as_str(), lines[1].component.as_str()), ("running", "orders"));
    }
}
