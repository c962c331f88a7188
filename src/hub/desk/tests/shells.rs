//! Three hubs on one store, each with its control and its post as they are; gRPC between them, without a network.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::{
    hub::{
        agents::roster::FROZEN,
        control::{self, Beats, FromAgent, LEADER, Settings},
        desk::{Doors, Post, Reception, outpost::Event, post, service::service},
        keys,
        records::Record,
    },
    kinds::{APPLICATION, CLUSTER, application::WORKS_FINALIZER, cluster::CLUSTER_FINALIZER},
    model::{
        Report, Resources, Sketch, Uid,
        quantity::{CPU, PODS},
        sketch::Shape,
    },
    store::{
        Key, List, Outcome, Store, Transaction, memory, object,
        raft::{Leadership, ReplicaId},
    },
    wire::Ruling,
};

const SOON: Duration = Duration::from_secs(30);

struct Hub {
    leadership: watch::Sender<Leadership>,
    post: Post,
    rulings: mpsc::UnboundedReceiver<(u64, Ruling)>,
    beats: Beats,
}

struct Group {
    store: Arc<dyn Store>,
    hubs: BTreeMap<ReplicaId, Hub>,
    term: u64,
    stop: CancellationToken,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// To the others of a group, from one of them.
struct Lobby {
    here: ReplicaId,
    receptions: BTreeMap<ReplicaId, Reception>,
}

#[async_trait]
impl Doors for Lobby {
    async fn channel(&self, replica: ReplicaId) -> Result<Channel, String> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let here = self.here;
        let desk = service(self.receptions[&replica].clone(), Arc::new(move |_| Ok(here)));
        let router = tonic::service::Routes::new(desk).prepare().into_axum_router();
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new()).http2_only();
            let _ended = server.serve_connection(TokioIo::new(far), TowerToHyperService::new(router)).await;
        });
        let mut near = Some(TokioIo::new(near));
        let take = tower::service_fn(move |_: http::Uri| {
            std::future::ready(near.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)))
        });
        let endpoint = Endpoint::from_static("http://replica");
        endpoint.connect_with_connector(take).await.map_err(|error| error.to_string())
    }
}

fn eu() -> Uid {
    "eu-uid".into()
}

fn web() -> Uid {
    "web-uid".into()
}

fn sketch() -> FromAgent {
    let free = Resources::of([(CPU, 4_000), (PODS, 100)]);
    let shapes = vec![Shape { count: 1, free: free.clone(), ..Shape::default() }];
    let sketch = Sketch { sequence: 1, nodes: 1, shapes, allocatable: free.clone(), free, ..Sketch::default() };
    FromAgent::Sketch { cluster: eu(), sketch }
}

fn report(generation: u64) -> FromAgent {
    let report = Report { application: web(), cluster: eu(), generation, ..Report::default() };
    FromAgent::Report { cluster: eu(), report: report.into() }
}

impl Group {
    /// Three replicas and one accepted cluster; nobody leads.
    async fn new() -> Self {
        let (store, stop) = (memory::open(), CancellationToken::new());
        let receptions: BTreeMap<ReplicaId, Reception> = (1..=3).map(|id| (id, Reception::default())).collect();
        let hub = |id: ReplicaId| {
            let (leadership, seen) = watch::channel(Leadership::default());
            let (post, ends, rulings) = post::post();
            let reception = receptions[&id].clone();
            let lobby = Lobby { here: id, receptions: receptions.clone() };
            tokio::spawn(control::run(
                store.clone(),
                Settings::default(),
                seen.clone(),
                reception.clone(),
                stop.clone(),
            ));
            let beats = Beats::default();
            let config = post::Config {
                replica: id,
                leadership: seen,
                reception,
                doors: Some(Arc::new(lobby)),
                beats: beats.clone(),
                stop: stop.clone(),
            };
            tokio::spawn(post::run(config, ends));
            (id, Hub { leadership, post, rulings, beats })
        };
        let hubs = (1..=3).map(hub).collect();
        let group = Self { store, hubs, term: 0, stop };
        let cluster = json!({
            "metadata": {
                "name": "eu", "uid": eu(), "finalizers": [CLUSTER_FINALIZER], "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"accepted": true},
        });
        group.put(&CLUSTER, "", "eu", &cluster).await;
        group
    }

    async fn put(&self, kind: &crate::kinds::Kind, namespace: &str, name: &str, object: &Value) {
        let transaction = Transaction::put(keys::key(kind, namespace, name), object::encode(object));
        assert!(matches!(self.store.commit(transaction).await, Ok(Outcome::Committed(_))));
    }

    async fn apply_web(&self) {
        let application = json!({
            "metadata": {
                "name": "web", "namespace": "default", "uid": web(), "generation": 1, "finalizers": [WORKS_FINALIZER],
                "annotations": {"hanse.dev/author": "alice", "hanse.dev/trace": "t"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"components": [{
                "name": "web", "type": "webservice", "properties": {"image": "nginx", "cpu": "100m"},
            }]},
        });
        self.put(&APPLICATION, "default", "web", &application).await;
    }

    /// Until the leader has taken the lead: before that, the one before it may still decide on what it has heard.
    async fn lead_for_certain(&mut self, leader: ReplicaId) {
        let key = Key::new(LEADER);
        let before = self.store.get(&key).await.expect("a read");
        self.lead(leader);
        until("the lead is taken", async || self.store.get(&key).await.expect("a read") != before).await;
    }

    /// All hear at once who leads now.
    fn lead(&mut self, leader: ReplicaId) {
        self.term += 1;
        for (id, hub) in &self.hubs {
            hub.leadership.send_replace(Leadership { term: self.term, leader: Some(leader), here: *id == leader });
        }
    }

    async fn claim(&self, at: ReplicaId, session: u64, instance: &str) {
        let claimed = Event::Claimed { session, cluster: eu(), instance: instance.into(), epoch: 1 };
        self.hubs[&at].post.send(claimed).await;
    }

    async fn say(&self, at: ReplicaId, session: u64, from: FromAgent) {
        self.hubs[&at].post.send(Event::Said { session, from }).await;
    }

    async fn ruling(&mut self, at: ReplicaId) -> (u64, Ruling) {
        let hub = self.hubs.get_mut(&at).expect("a replica");
        tokio::time::timeout(SOON, hub.rulings.recv()).await.expect("soon").expect("a ruling")
    }

    /// A stream at a replica that acts for the cluster.
    async fn connect(&mut self, at: ReplicaId, session: u64) {
        self.claim(at, session, "a").await;
        assert_eq!(self.ruling(at).await, (session, Ruling::Granted));
        self.say(at, session, FromAgent::Connected { cluster: eu() }).await;
        self.say(at, session, sketch()).await;
    }

    async fn is_placed(&self) -> bool {
        let list = List { prefix: "/hanse/".into(), after: None, limit: 0, at: None };
        let page = self.store.list(list).await.expect("a list");
        let is_row = |record| matches!(record, Some(Record::Chunk { application, .. }) if application == web());
        page.entries.iter().any(|entry| is_row(Record::of(&entry.key)))
    }

    async fn reported(&self) -> u64 {
        let key = Record::Report { cluster: eu(), application: web() }.key();
        let entry = self.store.get(&key).await.expect("a read");
        entry.map_or(0, |entry| object::view::<Report>(&entry.value).expect("a report").generation)
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn leaders_that_change_in_mid_report_lose_none() {
    let mut group = Group::new().await;
    group.lead(1);
    group.connect(2, 5).await;
    group.apply_web().await;
    until("it is placed", async || group.is_placed().await).await;
    for generation in 1..=40 {
        group.say(2, 5, report(generation)).await;
        if generation % 4 == 0 {
            group.lead(generation / 4 % 3 + 1);
        }
        tokio::time::sleep(Duration::from_millis(generation % 5)).await;
    }
    until("the last report is stored", async || {
        group.say(2, 5, FromAgent::Beat { cluster: eu() }).await;
        group.reported().await == 40
    })
    .await;
    until("every replica knows that the cluster was heard of", async || {
        group.hubs.values().all(|hub| hub.beats.last(&eu()).is_some())
    })
    .await;
}

#[tokio::test]
async fn a_new_leader_places_on_no_cluster_before_its_agent_is_heard_anew() {
    let mut group = Group::new().await;
    group.lead(1);
    group.connect(2, 5).await;
    until("the sketch is stored", async || {
        let entry = group.store.get(&keys::key(&CLUSTER, "", "eu")).await.expect("a read").expect("the cluster");
        !object::decode(&entry.value).expect("an object")["status"]["sketch"].is_null()
    })
    .await;
    group.lead_for_certain(3).await;
    group.apply_web().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!group.is_placed().await, "its stream may be dead");
    group.say(2, 5, FromAgent::Beat { cluster: eu() }).await;
    until("it is placed", async || group.is_placed().await).await;
}

#[tokio::test]
async fn two_clones_at_two_replicas_are_frozen() {
    let mut group = Group::new().await;
    group.lead(1);
    group.connect(2, 5).await;
    group.claim(3, 5, "b").await;
    let mut rulings = Vec::new();
    until("both are frozen", async || {
        group.say(2, 5, FromAgent::Beat { cluster: eu() }).await;
        for at in [2, 3] {
            let hub = group.hubs.get_mut(&at).expect("a replica");
            rulings.extend(hub.rulings.try_recv().map(|(session, ruling)| (at, session, ruling)));
        }
        rulings.len() == 2
    })
    .await;
    assert_eq!(rulings, [(2, 5, Ruling::Frozen), (3, 5, Ruling::Frozen)]);
    until("it is stored", async || {
        let entry = group.store.get(&keys::key(&CLUSTER, "", "eu")).await.expect("a read").expect("the cluster");
        object::decode(&entry.value).expect("an object")["metadata"]["annotations"][FROZEN].is_string()
    })
    .await;
}
