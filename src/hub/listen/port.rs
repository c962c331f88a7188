//! A TLS port: connections, their handshake and their orderly end, whatever is served on it.
//!
//! Owns: how many connections there are, how long they may take, and that each request knows who sent it. Must never:
//! serve anything before the handshake is over.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::Remote;
use crate::hub::limits;

/// What is particular to a port.
pub trait Surface: Send + Sync + 'static {
    /// Who is at the other end; in the extensions of every request.
    type Peer: Clone + Send + Sync + 'static;

    fn config(&self) -> Arc<ServerConfig>;

    /// The handshake has proved that the other end holds the key of this certificate, and that it is one of ours.
    fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Self::Peer;

    fn router(&self, request: &http::Request<Incoming>) -> Router;

    /// How a connection of HTTP/2 is kept.
    fn http2(&self) -> Http2;

    /// A connection that came to nothing.
    fn refused(&self, address: SocketAddr, error: &io::Error);
}

pub struct Http2 {
    pub streams_max: u32,
    pub keep_alive_interval: Duration,
    pub keep_alive_timeout: Duration,
    /// Of one stream; of the connection it is twice as much. Absent: as the protocol has it.
    pub window_bytes: Option<u32>,
}

/// Serves until `shutdown`, then lets requests under way finish for a while; watches and streams are told to end by
/// the same token, which their handlers hold.
pub async fn serve<S: Surface>(listener: TcpListener, surface: Arc<S>, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let acceptor = TlsAcceptor::from(surface.config());
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, address, slot)) = accepted else { continue };
        let (acceptor, surface) = (acceptor.clone(), surface.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let _slot = slot;
            let handshake = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
            let stream = match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return surface.refused(address, &error),
                Err(_) => return surface.refused(address, &io::ErrorKind::TimedOut.into()),
            };
            let peer = surface.peer(stream.get_ref().1.peer_certificates());
            let settings = settings(&surface.http2());
            let service = hyper::service::service_fn(move |request| dispatch(request, &*surface, &peer, address));
            let connection = settings.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%address, error = %error, "connection ended");
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(limits::SHUTDOWN_GRACE, graceful.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => {
            let _ = stream.set_nodelay(true);
            Some((stream, address, slot))
        }
        Err(error) => {
            // Out of file descriptors, most likely: waiting is all that helps.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

fn settings(http2: &Http2) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits::HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(http2.streams_max)
        .initial_stream_window_size(http2.window_bytes)
        .initial_connection_window_size(http2.window_bytes.map(|bytes| bytes * 2))
        .keep_alive_interval(http2.keep_alive_interval)
        .keep_alive_timeout(http2.keep_alive_timeout);
    builder
}

fn dispatch<S: Surface>(
    request: http::Request<Incoming>,
    surface: &S,
    peer: &S::Peer,
    address: SocketAddr,
) -> impl Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + use<S> {
    let router = surface.router(&request);
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer.clone());
    request.extensions_mut().insert(Remote(address));
    router.oneshot(request)
}
