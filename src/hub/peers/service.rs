//! The peers' port: what other replicas may ask of this one.
//!
//! Owns: the checks before anything reaches consensus; whether a command can be read is the store's to check. Must never:
//! serve anything but joining to who is not a replica of this hub.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use axum::Router;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::{
    Local, Network, calls, convert, dial,
    joining::is_address,
    limits,
    proto::{self, peers_server::PeersServer},
    replacing,
    tls::{self, Peer, Tls},
};
use crate::{
    hub::{
        desk::{self, Reception},
        listen::{
            Remote,
            port::{self, Http2, Surface},
        },
    },
    model::Uid,
    store::{List, raft::ReplicaId},
    wire::Invalid,
};

/// Different complaints that are remembered, so that each is logged once.
const SAID_MAX: usize = 64;

/// Serves the other replicas until `stop`.
pub async fn serve(
    listener: TcpListener,
    network: Arc<Network>,
    tls: Arc<Tls>,
    reception: Reception,
    stop: CancellationToken,
) {
    let replica = tls.replica();
    let desk = desk::service::service(reception, Arc::new(move |extensions| sender(extensions, replica)));
    let said = Arc::new(Said::default());
    let service = Service { network, hub: tls.hub().clone(), replica, said: said.clone(), stop: stop.clone() };
    let service = PeersServer::new(service)
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
    let router = tonic::service::Routes::new(service).add_service(desk).prepare().into_axum_router();
    port::serve(listener, Arc::new(Port { tls, router, said }), stop).await;
}

struct Port {
    tls: Arc<Tls>,
    router: Router,
    said: Arc<Said>,
}

impl Surface for Port {
    type Peer = Peer;

    fn config(&self) -> Arc<ServerConfig> {
        self.tls.server()
    }

    fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        self.tls.peer(chain)
    }

    fn router(&self, _: &http::Request<hyper::body::Incoming>) -> Router {
        self.router.clone()
    }

    fn http2(&self) -> Http2 {
        Http2 {
            streams_max: limits::PEER_STREAMS_MAX,
            keep_alive_interval: limits::PEER_KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: limits::PEER_KEEP_ALIVE_TIMEOUT,
            window_bytes: Some(dial::WINDOW_BYTES),
        }
    }

    fn refused(&self, address: SocketAddr, error: &std::io::Error) {
        let why = tls::in_words(error);
        if self.said.is_new(format!("{} {why}", address.ip())) {
            tracing::warn!(%address, why, "a connection to the port for replicas was refused");
        }
    }
}

/// What was complained of already.
#[derive(Default)]
struct Said(Mutex<BTreeSet<String>>);

impl Said {
    fn is_new(&self, complaint: String) -> bool {
        let mut said = self.0.lock();
        if said.len() >= SAID_MAX {
            said.clear();
        }
        said.insert(complaint)
    }
}

/// Which other replica asks.
fn sender(extensions: &Extensions, here: ReplicaId) -> Result<ReplicaId, Status> {
    match extensions.get() {
        Some(Peer::Replica(id)) if *id != here => Ok(*id),
        Some(Peer::Replica(_)) => Err(Status::permission_denied("two processes have the identity of one replica")),
        Some(Peer::Stranger) | None => {
            Err(Status::unauthenticated("only a replica of this hub may ask that, with its certificate"))
        }
    }
}

struct Service {
    network: Arc<Network>,
    hub: Uid,
    replica: ReplicaId,
    said: Arc<Said>,
    stop: CancellationToken,
}

impl Service {
    fn sender<T>(&self, request: &Request<T>) -> Result<ReplicaId, Status> {
        sender(request.extensions(), self.replica)
    }

    fn local(&self) -> Result<Arc<dyn Local>, Status> {
        self.network.local().ok_or_else(|| Status::unavailable("this replica is starting or stopping"))
    }

    fn invalid(&self, from: ReplicaId, invalid: &Invalid) -> Status {
        if self.said.is_new(format!("{from} {invalid}")) {
            tracing::warn!(replica = from, %invalid, "a replica sent what cannot be understood");
        }
        Status::invalid_argument(invalid.to_string())
    }
}

#[tonic::async_trait]
impl proto::peers_server::Peers for Service {
    async fn messages(
        &self,
        request: Request<Streaming<proto::Batch>>,
    ) -> Result<Response<proto::BatchesReply>, Status> {
        let from = self.sender(&request)?;
        let mut batches = request.into_inner();
        loop {
            let batch = tokio::select! {
                batch = batches.message() => batch?,
                () = self.stop.cancelled() => None,
            };
            let Some(batch) = batch else { return Ok(Response::new(proto::BatchesReply {})) };
            let local = self.local()?;
            if !batch.address.is_empty() {
                if !is_address(&batch.address) {
                    return Err(self.invalid(from, &Invalid::Malformed { field: "address", expected: "HOST:PORT" }));
                }
                self.network.found(from, batch.address);
            }
            for message in batch.messages {
                let message = convert::decode(message, from, self.replica);
                local.receive(message.map_err(|invalid| self.invalid(from, &invalid))?);
            }
        }
    }

    async fn commit(&self, request: Request<proto::CommitRequest>) -> Result<Response<proto::CommitReply>, Status> {
        let from = self.sender(&request)?;
        let command = request.into_inner().command;
        let checked = convert::bounded("command", limits::COMMAND_BYTES_MAX, command.len());
        checked.map_err(|invalid| self.invalid(from, &invalid))?;
        let answer = self.local()?.commit_here(command).await;
        Ok(Response::new(calls::encode_commit(answer)))
    }

    async fn read(&self, request: Request<proto::ReadRequest>) -> Result<Response<proto::ReadReply>, Status> {
        let from = self.sender(&request)?;
        let key = calls::decode_key(request.into_inner().key).map_err(|invalid| self.invalid(from, &invalid))?;
        // A listing of one: it says the revision that the entry is read at, and a key comes first below itself.
        let list = List { prefix: key.as_str().to_owned(), after: None, limit: 1, at: None };
        Ok(Response::new(match self.local()?.store().list(list).await {
            Ok(page) => proto::ReadReply {
                row: page.entries.into_iter().find(|entry| entry.key == key).map(calls::encode_row),
                revision: page.revision,
                refusal: None,
            },
            Err(error) => {
                let refusal = Some(calls::encode_refusal(error.into()));
                proto::ReadReply { refusal, ..proto::ReadReply::default() }
            }
        }))
    }

    async fn fetch(&self, request: Request<proto::FetchRequest>) -> Result<Response<proto::FetchReply>, Status> {
        let from = self.sender(&request)?;
        let request = request.into_inner();
        let parse = || {
            let snapshot = calls::decode_snapshot_id(request.snapshot.ok_or(Invalid::Missing("snapshot"))?)?;
            Ok((snapshot, request.after.map(calls::decode_key).transpose()?))
        };
        let (snapshot, after) = parse().map_err(|invalid: Invalid| self.invalid(from, &invalid))?;
        let local = self.local()?;
        let chunk = tokio::task::spawn_blocking(move || local.chunk(&snapshot, after.as_ref())).await;
        let chunk = chunk.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(calls::encode_fetch(chunk)))
    }

    async fn status(&self, request: Request<proto::StatusRequest>) -> Result<Response<proto::StatusReply>, Status> {
        self.sender(&request)?;
        let report = self.network.report().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(calls::encode_report(report)))
    }

    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        let remote = request.extensions().get::<Remote>().map(|remote| remote.0.ip());
        let joining = self.network.joining.get();
        let joining = joining.ok_or_else(|| Status::unavailable("this replica is starting"))?;
        let local = self.local()?;
        joining.call(local.store(), request.into_inner(), remote).await.map(Response::new)
    }

    async fn replace(&self, request: Request<proto::ReplaceRequest>) -> Result<Response<proto::JoinReply>, Status> {
        let old = self.sender(&request)?;
        replacing::replace(self.local()?.store(), &self.hub, old).await.map(Response::new)
    }
}
