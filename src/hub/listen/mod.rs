//! The one TLS port: who is at the other end, and which of the two surfaces a request is for.
//!
//! Owns: the handshake, the [`Peer`] of a connection, dispatch by content type (gRPC for agents, REST for all else), the
//! limits of a connection and its orderly end. Must never: let a certificate of one authority act on the other's surface.
//!
//! Client certificates are optional (joining agents and token bearers have none). A certificate that was ours but has
//! expired is let through the handshake *as expired*, so that the surfaces can refuse it in words: agents may renew,
//! people are told when it ended.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use parking_lot::RwLock;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    limits,
    pki::{Authority, Pki, ServerCertificate},
};
use crate::model::{Digest, Timestamp, Uid};

/// Who is at the other end of a connection; in the extensions of every request, on both surfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// No client certificate. May join, ask for health, or show a bearer token.
    Anonymous,
    Person(Person),
    Agent(AgentPeer),
}

/// As the people's authority certified: CN is the user, O are the groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub user: String,
    pub groups: Vec<String>,
    /// Set where the certificate's time is over; it proves nothing any more.
    pub expired: Option<Timestamp>,
}

/// As the agents' authority certified. Whether the cluster still exists, is accepted and holds this key is for
/// `hub::agents` to check against the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPeer {
    pub cluster: Uid,
    /// SHA-256 of the public key (SubjectPublicKeyInfo), hex.
    pub key_fingerprint: String,
    /// Hex.
    pub serial: String,
    /// Set where the certificate's time is over: it may do nothing but renew.
    pub expired: Option<Timestamp>,
}

/// The address a request came from; in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote(pub SocketAddr);

/// What the port serves. `agents` gets every request of content type `application/grpc…`, `rest` all others. tonic's
/// `Routes::into_axum_router` (after `prepare`) makes the former.
#[derive(Clone)]
pub struct Services {
    pub rest: Router,
    pub agents: Router,
}

/// TLS settings of the port. The server certificate can be replaced while it serves.
pub struct Tls {
    config: Arc<ServerConfig>,
    identity: Arc<Identity>,
    certificate: Arc<Shown>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("cannot verify client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl Tls {
    /// `hub` is the uid that agents' certificates must name.
    pub fn new(pki: &Pki, hub: &Uid, certificate: ServerCertificate) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let identity = Arc::new(Identity {
            people: verifier(&pki.people, &provider)?,
            agents: verifier(&pki.agents, &provider)?,
            hub: hub.clone(),
        });
        let shown =
            Arc::new(Shown { provider: provider.clone(), key: RwLock::new(certified(&provider, certificate)?) });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(identity.clone())
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), identity, certificate: shown })
    }

    /// The agent that a certificate is of, also when its time is over; `None` for any that the agents' authority did not
    /// sign for this hub. Whoever shows it has proved nothing yet.
    pub fn agent_of(&self, certificate: &CertificateDer<'_>) -> Option<AgentPeer> {
        match self.identity.identify(certificate, &[], UnixTime::now()) {
            Ok(Peer::Agent(agent)) => Some(agent),
            Ok(Peer::Anonymous | Peer::Person(_)) | Err(_) => None,
        }
    }

    /// Connections from now on are shown this certificate.
    pub fn replace_certificate(&self, certificate: ServerCertificate) -> Result<(), Error> {
        let key = certified(&self.certificate.provider, certificate)?;
        *self.certificate.key.write() = key;
        Ok(())
    }
}

/// Serves until `shutdown`, then lets requests under way finish for a while; watches and streams are told to end by
/// the same token, which their handlers hold.
pub async fn serve(listener: TcpListener, tls: Arc<Tls>, services: Services, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    let acceptor = TlsAcceptor::from(tls.config.clone());
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, address, slot)) = accepted else { continue };
        let (acceptor, identity, services) = (acceptor.clone(), tls.identity.clone(), services.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let _slot = slot;
            let handshake = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
            let stream = match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%address, %error, "tls handshake failed"),
                Err(_) => return tracing::debug!(%address, "tls handshake timed out"),
            };
            let peer = identity.peer(stream.get_ref().1.peer_certificates());
            let service = hyper::service::service_fn(move |request| dispatch(request, &services, &peer, address));
            let connection = settings().serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
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
) -> Option<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
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

fn settings() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits::HEADER_BYTES_MAX as u32)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(limits::KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT);
    builder
}

fn dispatch(
    request: http::Request<hyper::body::Incoming>,
    services: &Services,
    peer: &Peer,
    address: SocketAddr,
) -> impl Future<Output = Result<http::Response<Body>, std::convert::Infallible>> + use<> {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let router = if is_grpc { services.agents.clone() } else { services.rest.clone() };
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer.clone());
    request.extensions_mut().insert(Remote(address));
    router.oneshot(request)
}

/// Verifies client certificates against both authorities and reads who they are of.
#[derive(Debug)]
struct Identity {
    people: Arc<dyn ClientCertVerifier>,
    agents: Arc<dyn ClientCertVerifier>,
    hub: Uid,
}

impl Identity {
    /// The handshake has proved that the peer holds the key; the chain is checked once more here, to know which
    /// authority signed it.
    fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        let Some((certificate, intermediates)) = chain.and_then(<[_]>::split_first) else { return Peer::Anonymous };
        self.identify(certificate, intermediates, UnixTime::now()).unwrap_or(Peer::Anonymous)
    }

    fn identify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Peer, rustls::Error> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let not_after = Timestamp::from_seconds(parsed.validity().not_after.timestamp());
        let expired = (now.as_secs() as i64 > not_after.seconds()).then_some(not_after);
        // An expired certificate is checked as of its last second: everything else about it must hold.
        let at = match expired {
            Some(end) => UnixTime::since_unix_epoch(Duration::from_secs(end.seconds().max(0) as u64)),
            None => now,
        };
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure);
        if self.people.verify_client_cert(certificate, intermediates, at).is_ok() {
            return person(&parsed, expired).map(Peer::Person).ok_or(unknown);
        }
        self.agents.verify_client_cert(certificate, intermediates, at)?;
        agent(&parsed, &self.hub, expired).map(Peer::Agent).ok_or(unknown)
    }
}

impl ClientCertVerifier for Identity {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the hint would name authorities to anyone who asks, and some clients then send nothing at all.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.identify(certificate, intermediates, now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.people.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.people.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.people.supported_verify_schemes()
    }
}

fn verifier(authority: &Authority, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone())?;
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?)
}

fn person(certificate: &X509Certificate<'_>, expired: Option<Timestamp>) -> Option<Person> {
    let user = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = certificate.subject().iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned));
    (!user.is_empty()).then(|| Person { user, groups: groups.collect(), expired })
}

/// The SAN must be exactly `hanse://HUB_UID/cluster/CLUSTER_UID`: identity is never compared by prefix
/// (CVE-2026-4740 of Open Cluster Management).
fn agent(certificate: &X509Certificate<'_>, hub: &Uid, expired: Option<Timestamp>) -> Option<AgentPeer> {
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
    let cluster = uri.strip_prefix("hanse://")?.strip_prefix(hub.0.as_str())?.strip_prefix("/cluster/")?;
    (!cluster.is_empty() && !cluster.contains('/')).then(|| AgentPeer {
        cluster: Uid(cluster.to_owned()),
        key_fingerprint: Digest::of(certificate.public_key().raw).to_string(),
        serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        expired,
    })
}

/// The certificate shown to clients.
#[derive(Debug)]
struct Shown {
    provider: Arc<CryptoProvider>,
    key: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.read().clone())
    }
}

fn certified(provider: &CryptoProvider, certificate: ServerCertificate) -> Result<Arc<CertifiedKey>, Error> {
    let key = provider.key_provider.load_private_key(certificate.key)?;
    Ok(Arc::new(CertifiedKey::new(certificate.chain, key)))
}

#[cfg(test)]
mod tests;
