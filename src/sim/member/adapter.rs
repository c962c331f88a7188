//! The simulated member behind the agent's async port, for `hanse quickstart` and `hanse bench`.
//!
//! Cheap when idle: no task and no timer runs while nothing waits for time, so a thousand members fit in one process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{Change, Config, Counts, Member};
use crate::{
    agent::cluster::{Capacity, Cluster, Deletion, Live, NamespaceFacts, Rejection},
    model::{GroupVersionKind, Now, ObjectRef, Timestamp, Uid, cluster::Facts},
};

/// A handle; clones are the same member.
#[derive(Clone)]
pub struct SimulatedCluster(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    started: Instant,
    /// What a step is told about wall time at `started`.
    wall_start_ms: i64,
    /// Set while the API server does not answer.
    unreachable: AtomicBool,
}

struct State {
    member: Member,
    /// Unbounded: a watcher in the same process that never reads is a bug, and dropping events would hide it.
    watches: Vec<(GroupVersionKind, mpsc::UnboundedSender<Live>)>,
    capacity: Vec<mpsc::UnboundedSender<Capacity>>,
    /// The earliest moment a task already waits for.
    armed: Option<u64>,
}

impl SimulatedCluster {
    /// Must be called within a tokio runtime: what takes time in the member happens on it.
    pub fn new(config: Config, wall: Timestamp) -> Self {
        let now = Now { wall, monotonic_ms: 0 };
        let state = State { member: Member::new(config, now), watches: vec![], capacity: vec![], armed: None };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            started: Instant::now(),
            wall_start_ms: wall.millis(),
            unreachable: AtomicBool::new(false),
        }))
    }

    pub fn counts(&self) -> Counts {
        self.0.state.lock().member.counts()
    }

    /// Reads the member as it is now.
    pub fn read<T>(&self, read: impl FnOnce(&Member) -> T) -> T {
        read(&self.0.state.lock().member)
    }

    /// Does something to the member as somebody other than the agent: an edit, a new node.
    pub fn change<T>(&self, change: impl FnOnce(&mut Member, Now) -> T) -> T {
        let mut state = self.0.state.lock();
        let result = change(&mut state.member, self.0.now());
        Shared::publish(&self.0, &mut state);
        result
    }

    /// Makes the API server answer nothing, or answer again. Watches stay open and simply tell nothing new.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.0.unreachable.store(unreachable, Ordering::Relaxed);
    }

    fn reach(&self) -> Result<(), Rejection> {
        if self.0.unreachable.load(Ordering::Relaxed) {
            let message = format!("the API server of {} does not answer", self.read(|member| member.name().to_owned()));
            return Err(Rejection { reason: "Unreachable".into(), message });
        }
        Ok(())
    }
}

impl Shared {
    fn now(&self) -> Now {
        let monotonic_ms = self.started.elapsed().as_millis() as u64;
        Now { wall: Timestamp::from_millis(self.wall_start_ms + monotonic_ms as i64), monotonic_ms }
    }

    /// Tells watchers what changed and waits for what is due next.
    fn publish(shared: &Arc<Self>, state: &mut State) {
        for change in state.member.take_changes() {
            state.tell(&change);
        }
        let Some(due) = state.member.due() else { return };
        if state.armed.is_some_and(|armed| armed <= due) {
            return;
        }
        state.armed = Some(due);
        let weak = Arc::downgrade(shared);
        let at = shared.started + Duration::from_millis(due);
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            // A dropped member takes its future with it.
            let Some(shared) = weak.upgrade() else { return };
            let mut state = shared.state.lock();
            if state.armed == Some(due) {
                state.armed = None;
            }
            state.member.step(shared.now());
            Self::publish(&shared, &mut state);
        });
    }
}

impl State {
    fn tell(&mut self, change: &Change) {
        let member = &self.member;
        match change {
            Change::Object(object) => {
                let watched = |(gvk, _): &&(GroupVersionKind, _)| *gvk == object.gvk;
                if !self.watches.iter().any(|watch| watched(&watch)) {
                    return;
                }
                let Some(value) = member.get(object) else { return };
                self.watches
                    .retain(|(gvk, watcher)| *gvk != object.gvk || watcher.send(Live::Applied(value.clone())).is_ok());
            }
            Change::ObjectGone(object) => self
                .watches
                .retain(|(gvk, watcher)| *gvk != object.gvk || watcher.send(Live::Deleted(object.clone())).is_ok()),
            Change::Node(name) => self.tell_capacity(member.node(name).cloned().map(Capacity::Node)),
            Change::NodeGone(name) => self.tell_capacity(Some(Capacity::NodeGone(name.clone()))),
            Change::Pod(name) => self.tell_capacity(member.pod(name).map(Capacity::Pod)),
            Change::PodGone(name) => {
                let (namespace, name) = (name.namespace.clone(), name.name.clone());
                self.tell_capacity(Some(Capacity::PodGone { namespace, name }));
            }
        }
    }

    fn tell_capacity(&mut self, event: Option<Capacity>) {
        let Some(event) = event else { return };
        self.capacity.retain(|watcher| watcher.send(event.clone()).is_ok());
    }
}

#[async_trait]
impl Cluster for SimulatedCluster {
    async fn apply(&self, namespace: &str, object: &Value) -> Result<Value, Rejection> {
        self.reach()?;
        self.change(|member, now| member.apply(now, namespace, object))
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Value>, Rejection> {
        self.reach()?;
        Ok(self.read(|member| member.get(object)))
    }

    async fn delete(&self, namespace: &str, object: &ObjectRef, uid: &Uid) -> Result<Deletion, Rejection> {
        self.reach()?;
        self.change(|member, now| member.delete(now, namespace, object, uid))
    }

    async fn ensure_namespace(&self, namespace: &str) -> Result<NamespaceFacts, Rejection> {
        self.reach()?;
        self.change(|member, now| member.ensure_namespace(now, namespace))
    }

    fn watch(&self, gvk: &GroupVersionKind) -> BoxStream<'static, Live> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.state.lock();
        let reset = Live::Reset(state.member.owned(gvk));
        if sender.send(reset).is_ok() {
            state.watches.push((gvk.clone(), sender));
        }
        UnboundedReceiverStream::new(receiver).boxed()
    }

    fn watch_capacity(&self) -> BoxStream<'static, Capacity> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.state.lock();
        let nodes = Capacity::NodesReset(state.member.nodes().cloned().collect());
        let pods = Capacity::PodsReset(state.member.pods().collect());
        if sender.send(nodes).is_ok() && sender.send(pods).is_ok() {
            state.capacity.push(sender);
        }
        UnboundedReceiverStream::new(receiver).boxed()
    }

    async fn facts(&self) -> Result<Facts, Rejection> {
        self.reach()?;
        Ok(self.read(|member| member.facts().clone()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::cluster::OWNER_LABEL;

    fn cluster() -> SimulatedCluster {
        let config = Config { pod_start_ms: 5, pod_jitter_ms: 5, ..Config::uniform("eu", "eu", 1, 4000, 8 << 30) };
        SimulatedCluster::new(config, Timestamp::from_seconds(1_700_000_000))
    }

    fn deployment(replicas: u32) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop", "labels": {OWNER_LABEL: "app-1"}},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}}}})
    }

    #[tokio::test]
    async fn a_watch_begins_with_all_there_is_and_then_tells_each_change() {
        let cluster = cluster();
        cluster.ensure_namespace("shop").await.expect("namespace");
        cluster.apply("shop", &deployment(2)).await.expect("applied");
        let gvk = GroupVersionKind::new("apps", "v1", "Deployment");
        let mut watch = cluster.watch(&gvk);
        let Some(Live::Reset(all)) = watch.next().await else { panic!("a watch begins with a reset") };
        assert_eq!(all.len(), 1);
        // Nobody steps the member: it becomes ready by itself.
        loop {
            let Some(Live::Applied(object)) = watch.next().await else { panic!("a change of the status") };
            if object["status"]["readyReplicas"] == 2 {
                break;
            }
        }
        let uid = cluster.read(|member| member.uid(&ObjectRef::of(&all[0]).expect("ref")).cloned()).expect("uid");
        let reference = ObjectRef::of(&all[0]).expect("ref");
        assert_eq!(cluster.delete("shop", &reference, &uid).await, Ok(Deletion::Gone));
        assert_eq!(watch.next().await, Some(Live::Deleted(reference)));
        assert_eq!(cluster.read(|member| member.pods().count()), 0);
    }

    #[tokio::test]
    async fn an_unreachable_member_says_so_and_changes_nothing() {
        let cluster = cluster();
        cluster.set_unreachable(true);
        let rejection = cluster.ensure_namespace("shop").await.expect_err("refused");
        assert_eq!(rejection.reason, "Unreachable");
        assert_eq!(cluster.counts(), Counts::default());
    }
}
