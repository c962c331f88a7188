//! The hub: REST for people, gRPC for agents, and the loops that decide.
//!
//! [`Hub::start`] is the one place where its parts are put together.

mod addresses;
pub mod agents;
pub mod api;
pub mod auth;
pub mod config;
pub mod control;
pub mod desk;
pub mod events;
pub mod feed;
mod identity;
pub mod join;
pub mod keys;
pub mod limits;
pub mod listen;
pub mod peers;
pub mod pki;
mod plugins;
pub mod records;
mod replica;
pub mod slices;

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{net::TcpListener, signal::unix::SignalKind, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::config::{Config, Storage};
use self::{
    agents::Agents,
    api::{
        Api,
        ports::{Overlay, View},
    },
    auth::{Audit, Tokens},
    control::Beats,
    desk::{Post, Questions, Reception},
    join::Joining,
    listen::{Services, Tls},
    peers::members::Waits,
    pki::Pki,
    slices::Slices,
};
use crate::{
    flow, kinds,
    model::{GroupVersionKind, ObjectName, Timestamp, Uid},
    store::{
        self, Store,
        raft::{self, Leadership, ReplicaId},
    },
};

/// The number of the only replica that a store in memory has.
const ALONE: ReplicaId = 1;
/// How long a start waits for a leader, before it goes on without one.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLING_RETRY: Duration = Duration::from_millis(100);

/// A running hub.
pub struct Hub {
    pub address: SocketAddr,
    /// What clients and agents connect to.
    pub url: String,
    pub kubeconfig: PathBuf,
    pub uid: Uid,
    pub store: Arc<dyn Store>,
    pub pki: Arc<Pki>,
    replica: Option<Arc<replica::Running>>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Hub {
    /// Puts the parts together and starts them. When this returns, the hub answers.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let now = Timestamp(jiff::Timestamp::now());
        make_directory(&config.dir)?;
        make_directory(&config.dir.join("plugins"))?;
        let listener = TcpListener::bind(&config.listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let url = config.url(address)?;
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let reception = Reception::default();
        let replica = match config.storage {
            Storage::Memory => None,
            Storage::Durable => {
                let started = replica::start(&config, &url, now, &reception, &mut tasks, &stop);
                Some(Arc::new(started.await?))
            }
        };
        let (store, uid, pki): (Arc<dyn Store>, _, _) = match &replica {
            Some(running) => (running.replica.clone(), running.hub.clone(), running.pki.clone()),
            None => {
                let store = store::memory::open();
                let uid = identity::hub_uid(&*store).await?;
                (store, uid, Arc::new(Pki::open(&config.dir.join("pki"), now)?))
            }
        };
        let settling = stop.clone().run_until_cancelled_owned(settle(store.clone(), replica.clone()));
        let settling = tokio::spawn(settling);
        let names = config.server_names(address, &url);
        let tls = Arc::new(Tls::new(&pki, &uid, pki.server_certificate(&names, now)?)?);
        let kubeconfig = config.dir.join("admin.kubeconfig");
        identity::ensure_kubeconfig(&pki, &kubeconfig, &url, now)?;

        let slices = Slices::new();
        tasks.spawn(named("slices", slices::run(store.clone(), slices.clone(), stop.clone())));
        // A store without replicas has nobody else to lead.
        let alone = || watch::channel(Leadership { term: 1, leader: Some(ALONE), here: true }).1;
        let leadership = replica.as_ref().map_or_else(alone, |running| running.replica.leadership());
        let settings = control::Settings {
            grace_ms: config.grace.as_millis() as u64,
            plugins: Some(config.dir.join("plugins")),
            ..Default::default()
        };
        let leading = control::run(store.clone(), settings, leadership.clone(), reception.clone(), stop.clone());
        tasks.spawn(named("control", leading));
        let beats = Beats::default();
        let (post, ends, rulings) = desk::post::post();
        let questions = Questions {
            replica: replica.as_ref().map_or(ALONE, |running| running.replica.id()),
            leadership: leadership.clone(),
            reception: reception.clone(),
            doors: replica.as_ref().map(|running| running.doors()),
        };
        let posting = desk::post::Config {
            replica: questions.replica,
            leadership,
            reception,
            doors: questions.doors.clone(),
            beats: beats.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(async move {
            desk::post::run(posting, ends).await;
            Ok(())
        });
        let (addresses, urls) = watch::channel(vec![url.clone()]);
        tasks.spawn(named("addresses", addresses::follow(store.clone(), addresses, stop.clone())));
        tasks.spawn(renew_certificate(pki.clone(), tls.clone(), names, stop.clone()));

        let audit = Audit::open(&config.dir.join("audit.log")).context("cannot open the audit log")?;
        let audit = Arc::new(audit);
        let api = Api::new(api::Setup {
            store: store.clone(),
            tokens: read_tokens(&config.dir.join("tokens.csv"))?,
            audit: audit.clone(),
            views: views(&slices),
            group: replica.as_ref().map(|running| running.view.clone() as _),
            questions: Some(questions),
            overlays: overlays(&beats, replica.as_deref()),
            admissions: [
                (kinds::APPLICATION.gvk.clone(), flow::admit::admit as _),
                (kinds::PLACEMENT_PROFILE.gvk.clone(), flow::admit::admit_profile as _),
            ]
            .into(),
            address: url.trim_start_matches("https://").to_owned(),
            stop: stop.clone(),
        });
        let agents = Agents::new(agents::Config {
            hub: uid.clone(),
            resume_key: identity::resume_key(&config.dir.join("pki/resume.key"))?,
            store: store.clone(),
            slices,
            post: post.clone(),
            urls: urls.clone(),
            stop: stop.clone(),
        });
        let following = agents.clone();
        tasks.spawn(named("agents", async move { following.run(rulings).await }));
        let joining = Joining::service(join::Config {
            hub: uid.clone(),
            store: store.clone(),
            pki: pki.clone(),
            tls: tls.clone(),
            agents: agents.clone(),
            post: post.clone(),
            urls,
            certificate_lifetime: config.agent_certificate_lifetime,
            audit: audit_of_joins(audit.clone(), &kinds::CLUSTER),
        });
        if let Some(running) = &replica {
            let audit = audit_of_joins(audit, &kinds::REPLICA);
            running.tend(&config.dir, audit, tell_of_waits(post), &mut tasks, &stop);
        }
        let routes = tonic::service::Routes::new(agents.service()).add_service(joining).prepare();
        let services = Services { rest: api.router(), agents: routes.into_axum_router() };
        let serving = listen::serve(listener, tls, services, stop.clone());
        tasks.spawn(async move {
            serving.await;
            Ok(())
        });
        match tokio::time::timeout(SETTLING, settling).await {
            Ok(settled) => settled?.unwrap_or(Ok(()))?,
            Err(_) => tracing::warn!("no replica leads yet: nothing can be read or written until most of them answer"),
        }
        tracing::info!(%url, %uid, "the hub is ready");
        Ok(Self { address, url, kubeconfig, uid, store, pki, replica, stop, tasks })
    }

    /// Ends when a part of it fails, which none does while the hub is well.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a part of the hub panicked"),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the hub ended by itself"),
        }
    }

    /// Gives the lead to another replica, lets requests under way finish, then ends everything.
    pub async fn shutdown(mut self) {
        if let Some(running) = &self.replica {
            running.hand_over().await;
        }
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limits::SHUTDOWN_GRACE + Duration::from_secs(5), ended).await.is_err() {
            tracing::warn!("parts of the hub did not end in time");
        }
    }
}

/// A hub until SIGTERM or SIGINT, or until `stop` ends. `ready` is told once it answers.
pub async fn run(config: Config, stop: impl Future<Output = ()>, ready: impl FnOnce(&Hub)) -> anyhow::Result<()> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    let mut hub = Hub::start(config.clone()).await?;
    ready(&hub);
    let mut stop = std::pin::pin!(stop);
    loop {
        let outcome = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = &mut stop => Ok(()),
            error = hub.failed() => Err(error),
        };
        hub.shutdown().await;
        match outcome {
            // A new replica takes the place of this one, in the same process.
            Err(error) if raft::is_distrusted(&config.dir.join(replica::STORE)) => {
                tracing::error!(error = format!("{error:#}"), "the replica stopped: it begins anew");
                hub = Hub::start(Config { join: None, ..config.clone() }).await?;
            }
            outcome => return outcome,
        }
    }
}

async fn named<E: std::error::Error + Send + Sync + 'static>(
    name: &'static str,
    part: impl Future<Output = Result<(), E>>,
) -> anyhow::Result<()> {
    part.await.with_context(|| format!("{name} ended"))
}

fn make_directory(dir: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make the directory {}", dir.display()))
}

/// What every hub has in its store, as soon as the store can be written.
async fn settle(store: Arc<dyn Store>, replica: Option<Arc<replica::Running>>) -> Result<(), store::Error> {
    let uid = uuid::Uuid::new_v4().to_string();
    loop {
        let now = Timestamp(jiff::Timestamp::now());
        let settled = async {
            api::namespaces::ensure_default(&*store, &uid, now).await?;
            match &replica {
                Some(running) => running.announce(now).await,
                None => Ok(()),
            }
        };
        match settled.await {
            Err(store::Error::Unavailable(_)) => tokio::time::sleep(SETTLING_RETRY).await,
            settled => return settled,
        }
    }
}

fn views(slices: &Slices) -> BTreeMap<GroupVersionKind, Arc<dyn View>> {
    let mut views: BTreeMap<_, Arc<dyn View>> = BTreeMap::new();
    views.insert(kinds::WORK.gvk.clone(), Arc::new(slices.clone()));
    views.insert(kinds::PLACEMENT_DECISION.gvk.clone(), Arc::new(api::Decisions(slices.clone())));
    views
}

fn overlays(beats: &Beats, replica: Option<&replica::Running>) -> BTreeMap<GroupVersionKind, Arc<dyn Overlay>> {
    let mut overlays: BTreeMap<_, Arc<dyn Overlay>> = BTreeMap::new();
    overlays.insert(kinds::CLUSTER.gvk.clone(), Arc::new(beats.clone()));
    if let Some(running) = replica {
        overlays.insert(kinds::REPLICA.gvk.clone(), running.view.clone());
    }
    overlays
}

/// A removal of a replica that has to wait, as an Event.
fn tell_of_waits(post: Post) -> impl FnMut(&Waits) + Send {
    move |waits| {
        let name = ObjectName::new("", &waits.replica.to_string());
        let about = events::About { gvk: kinds::REPLICA.gvk.clone(), name, uid: waits.uid.clone() };
        let message = format!("it cannot be removed yet: {}", waits.why);
        post.note(events::Note { about, warning: true, reason: "RemovalWaits".into(), message });
    }
}

fn read_tokens(path: &Path) -> anyhow::Result<Tokens> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Tokens::parse(&text).with_context(|| path.display().to_string())?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Tokens::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Calls of joining agents and replicas stand in the same log as the writes of people.
fn audit_of_joins(audit: Arc<Audit>, kind: &'static kinds::Kind) -> join::Audit {
    Arc::new(move |called: join::Called| {
        let record = auth::Record {
            time: jiff::Timestamp::now().to_string(),
            id: uuid::Uuid::new_v4().to_string(),
            user: auth::ANONYMOUS.into(),
            source_ip: called.remote.map(|address| address.to_string()).unwrap_or_default(),
            verb: called.verb,
            resource: kind.resource(),
            name: called.cluster,
            outcome: called.outcome.into(),
            token: called.token,
            key_fingerprint: called.key_fingerprint,
            reason: called.message,
            ..auth::Record::default()
        };
        if let Err(error) = audit.write(&record) {
            tracing::error!(%error, id = %record.id, "cannot write the audit log");
        }
    })
}

/// Shows a new server certificate when two thirds of the old one's life are over.
async fn renew_certificate(
    pki: Arc<Pki>,
    tls: Arc<Tls>,
    names: Vec<String>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pki::SERVER_LIFETIME * 2 / 3) => {}
        }
        tls.replace_certificate(pki.server_certificate(&names, Timestamp(jiff::Timestamp::now()))?)?;
    }
}

impl Overlay for Beats {
    fn apply(&self, cluster: &Uid, object: &mut Value) {
        if let (Some(at), Some(status)) = (self.last(cluster), object["status"].as_object_mut()) {
            status.insert("lastBeat".into(), json!(at));
        }
    }
}
