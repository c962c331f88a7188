//! Connecting to a replica.

use std::{error::Error, io, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::{limits, tls};

/// Certificates name replicas, not machines; this is what TLS is told instead of a name.
const NAME: &str = "replica.hanse.internal";
pub const WINDOW_BYTES: u32 = 4 << 20;

/// Connects once to `HOST:PORT`, or says why not.
pub async fn dial(address: &str, config: ClientConfig) -> Result<Channel, String> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let stream = tokio::time::timeout(limits::PEER_CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| format!("no answer within {} s", limits::PEER_CONNECT_TIMEOUT.as_secs()))?
        .map_err(|error: io::Error| tls::in_words(&error))?;
    // TLS is ours, so that the identity can be checked; tonic is told of plain HTTP on top of it.
    let endpoint = Endpoint::from_static("http://replica.hanse.internal")
        .http2_keep_alive_interval(limits::PEER_KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(limits::PEER_KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES);
    let mut stream = Some(TokioIo::new(stream));
    let take = tower::service_fn(move |_: http::Uri| {
        // One connection, once: a request after its end is told so before anything of it is sent.
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset));
        std::future::ready(stream)
    });
    endpoint.connect_with_connector(take).await.map_err(|error| words(&error))
}

/// Whether a call failed before anything of it left.
pub fn is_unsent(status: &tonic::Status) -> bool {
    sources(status).any(|error| error.is::<tonic::ConnectError>())
}

/// Whether the connection is what failed, rather than the call.
pub fn is_disconnect(status: &tonic::Status) -> bool {
    sources(status).any(|error| error.is::<tonic::transport::Error>() || error.is::<hyper::Error>())
}

/// Why a call failed: what TLS said, if it was that.
pub fn words(error: &(dyn Error + 'static)) -> String {
    let said = sources(error)
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find(|error| error.get_ref().is_some_and(|source| source.is::<rustls::Error>()));
    match said {
        Some(error) => tls::in_words(error),
        None => sources(error).last().map(ToString::to_string).unwrap_or_default(),
    }
}

/// An error and its causes.
fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    fn cause<'a>(error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        (**error).source()
    }
    std::iter::successors(Some(error), cause)
}
