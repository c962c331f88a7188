//! Watches on the member, reconnecting by themselves, trimmed to what the core reads.

use std::{pin::pin, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use super::KubeCluster;
use crate::{
    agent::cluster::{Capacity, Live, OWNER_LABEL},
    flow::observe::facts,
    model::{GroupVersionKind, ObjectRef, node::RuleKind},
};

/// Objects per page of a first list: what is in memory at once, beyond what is kept.
const PAGE: u32 = 100;
/// Between looks for a kind that the member does not serve (yet), doubling.
const KIND_PAUSE: Duration = Duration::from_millis(500);
const KIND_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Changes that wait for their reader; then the watch itself waits.
const WAITING_MAX: usize = 16;

/// Everything of one kind that carries our label.
pub fn kind(cluster: KubeCluster, gvk: GroupVersionKind) -> BoxStream<'static, Live> {
    spawn(move |out| async move {
        let mut pause = KIND_PAUSE;
        loop {
            let resource = match cluster.resource(&gvk).await {
                Ok(resource) => resource,
                Err(rejection) => {
                    debug!(%gvk, %rejection, "no watch yet");
                    tokio::time::sleep(pause).await;
                    pause = KIND_PAUSE_MAX.min(pause * 2);
                    continue;
                }
            };
            pause = KIND_PAUSE;
            let api = all(&cluster.client, &gvk, &resource.plural);
            let config = watcher::Config::default().labels(OWNER_LABEL).page_size(PAGE);
            let mut events = pin!(watcher::watcher(api, config).default_backoff());
            let mut listed = Vec::new();
            while let Some(event) = events.next().await {
                let live = match event {
                    Ok(Event::Init) => {
                        listed.clear();
                        continue;
                    }
                    Ok(Event::InitApply(object)) => {
                        listed.push(whole(&gvk, object));
                        continue;
                    }
                    Ok(Event::InitDone) => Live::Reset(std::mem::take(&mut listed)),
                    Ok(Event::Apply(object)) => Live::Applied(whole(&gvk, object)),
                    Ok(Event::Delete(object)) => match ObjectRef::of(&whole(&gvk, object)) {
                        Some(object) => Live::Deleted(object),
                        None => continue,
                    },
                    Err(error) => {
                        debug!(%gvk, %error, "watch interrupted");
                        // The kind itself may be gone: then it is looked for again.
                        if is_not_found(&error) {
                            cluster.discovery.forget(&gvk);
                            tokio::time::sleep(KIND_PAUSE).await;
                            break;
                        }
                        continue;
                    }
                };
                if out.send(live).await.is_err() {
                    return;
                }
            }
        }
    })
}

fn is_not_found(error: &watcher::Error) -> bool {
    let source = match error {
        watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source) => source,
        _ => return false,
    };
    matches!(source, kube::Error::Api(status) if status.code == 404)
}

/// Nodes and pods of the whole cluster, what bounds pods and what scales workloads, reduced to facts as they arrive.
pub fn capacity(client: Client) -> BoxStream<'static, Capacity> {
    let nodes = facts_of(&client, ("", "v1", "Node"), "nodes", facts::node, |news| match news {
        News::Reset(nodes) => Capacity::NodesReset(nodes),
        News::One(node) => Capacity::Node(node),
        News::Gone(node) => Capacity::NodeGone(node.name),
    });
    let pods = facts_of(&client, ("", "v1", "Pod"), "pods", facts::pod, |news| match news {
        News::Reset(pods) => Capacity::PodsReset(pods),
        News::One(pod) => Capacity::Pod(pod),
        News::Gone(pod) => Capacity::PodGone { namespace: pod.namespace, name: pod.name },
    });
    let rules = |of: RuleKind, kind, plural, read| {
        facts_of(&client, ("", "v1", kind), plural, read, move |news| match news {
            News::Reset(rules) => Capacity::RulesReset(of, rules),
            News::One(rule) => Capacity::Rule(of, rule),
            News::Gone(rule) => Capacity::RuleGone(of, rule.namespace, rule.name),
        })
    };
    let quotas = rules(RuleKind::Quota, "ResourceQuota", "resourcequotas", facts::quota);
    let ranges = rules(RuleKind::LimitRange, "LimitRange", "limitranges", facts::limit_range);
    let volumes = rules(RuleKind::Volume, "PersistentVolume", "persistentvolumes", facts::volume);
    let (gvk, plural) = (("autoscaling", "v2", "HorizontalPodAutoscaler"), "horizontalpodautoscalers");
    let scalers = facts_of(&client, gvk, plural, facts::scaler, |news| match news {
        News::Reset(scalers) => Capacity::ScalersReset(scalers),
        News::One(scaler) => Capacity::Scaler(scaler),
        News::Gone(scaler) => Capacity::ScalerGone { namespace: scaler.target.name.namespace, name: scaler.name },
    });
    futures::stream::select_all([nodes, pods, quotas, ranges, volumes, scalers]).boxed()
}

/// What a watch says of objects of one kind.
enum News<T> {
    /// All there are: what else was known is gone.
    Reset(Vec<T>),
    One(T),
    Gone(T),
}

fn facts_of<T: Send + 'static>(
    client: &Client,
    (group, version, kind): (&'static str, &'static str, &'static str),
    plural: &'static str,
    read: fn(&Value) -> T,
    tell: impl Fn(News<T>) -> Capacity + Send + 'static,
) -> BoxStream<'static, Capacity> {
    let client = client.clone();
    spawn(move |out| async move {
        let gvk = GroupVersionKind::new(group, version, kind);
        let config = watcher::Config::default().page_size(PAGE);
        let mut events = pin!(watcher::watcher(all(&client, &gvk, plural), config).default_backoff());
        let mut listed = Vec::new();
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.push(read(&whole(&gvk, object)));
                    continue;
                }
                Ok(Event::InitDone) => News::Reset(std::mem::take(&mut listed)),
                Ok(Event::Apply(object)) => News::One(read(&whole(&gvk, object))),
                Ok(Event::Delete(object)) => News::Gone(read(&whole(&gvk, object))),
                Err(error) => {
                    debug!(kind, %error, "watch interrupted");
                    continue;
                }
            };
            if out.send(tell(news)).await.is_err() {
                return;
            }
        }
    })
}

fn all(client: &Client, gvk: &GroupVersionKind, plural: &str) -> Api<DynamicObject> {
    let gvk = kube::api::GroupVersionKind::gvk(&gvk.group, &gvk.version, &gvk.kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural))
}

/// The object as it is on the wire: items of lists come without their kind, and nobody here reads managed fields.
fn whole(gvk: &GroupVersionKind, object: DynamicObject) -> Value {
    let DynamicObject { mut metadata, data, .. } = object;
    metadata.managed_fields = None;
    let mut whole = match data {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    whole.insert("apiVersion".into(), Value::String(gvk.api_version()));
    whole.insert("kind".into(), Value::String(gvk.kind.clone()));
    whole.insert("metadata".into(), serde_json::to_value(metadata).unwrap_or_default());
    Value::Object(whole)
}

/// Runs a source in a task of its own, which ends with its reader.
fn spawn<T, F>(source: impl FnOnce(mpsc::Sender<T>) -> F) -> BoxStream<'static, T>
where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (out, changes) = mpsc::channel(WAITING_MAX);
    let closed = out.clone();
    let source = source(out);
    tokio::spawn(async move {
        tokio::select! {
            () = source => {}
            () = closed.closed() => {}
        }
    });
    ReceiverStream::new(changes).boxed()
}
