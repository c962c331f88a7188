//! The one TLS port: who is at the other end, and which of the two surfaces a request is for.
//!
//! Owns: the [`Peer`] of a connection, and dispatch by content type (gRPC for agents, REST for all else); [`port`] does the
//! rest. Must never: let a certificate of one authority act on the other's surface.
//!
//! Client certificates are optional (joining agents and token bearers have none). A certificate that was ours but has
//! expired is let through the handshake *as expired*, so that the surfaces can refuse it in words: agents may renew,
//! people are told when it ended.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use self::{
    port::Surface,
    verifier::{Judge, Optional},
};
use super::{
    limits,
    pki::{Authority, Pki, ServerCertificate},
};
use crate::model::{Digest, Timestamp, Uid};

pub mod port;
pub mod verifier;

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
            people: verify_by(&pki.people, &provider)?,
            agents: verify_by(&pki.agents, &provider)?,
            hub: hub.clone(),
        });
        let shown = Arc::new(Shown::new(provider.clone(), certificate)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Optional(identity.clone())))
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
        self.certificate.replace(certificate)
    }
}

/// Serves both surfaces until `shutdown` ([`port::serve`]).
pub async fn serve(listener: TcpListener, tls: Arc<Tls>, services: Services, shutdown: CancellationToken) {
    port::serve(listener, Arc::new(Clients { tls, services }), shutdown).await;
}

struct Clients {
    tls: Arc<Tls>,
    services: Services,
}

impl Surface for Clients {
    type Peer = Peer;

    fn config(&self) -> Arc<ServerConfig> {
        self.tls.config.clone()
    }

    fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        self.tls.identity.peer(chain)
    }

    fn router(&self, request: &http::Request<hyper::body::Incoming>) -> Router {
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        let is_grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        if is_grpc { self.services.agents.clone() } else { self.services.rest.clone() }
    }

    fn http2(&self) -> port::Http2 {
        port::Http2 {
            streams_max: limits::STREAMS_PER_CONNECTION_MAX,
            keep_alive_interval: limits::KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: limits::KEEP_ALIVE_TIMEOUT,
            window_bytes: None,
        }
    }

    fn refused(&self, address: SocketAddr, error: &std::io::Error) {
        tracing::debug!(%address, %error, "tls handshake failed");
    }
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

impl Judge for Identity {
    fn admits(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        self.identify(certificate, intermediates, now).map(drop)
    }

    fn signatures(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.people
    }
}

pub fn verify_by(authority: &Authority, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
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

/// The certificate that a port shows. It can be replaced while the port serves.
#[derive(Debug)]
pub struct Shown {
    provider: Arc<CryptoProvider>,
    key: RwLock<Arc<CertifiedKey>>,
}

impl Shown {
    pub fn new(provider: Arc<CryptoProvider>, certificate: ServerCertificate) -> Result<Self, Error> {
        let key = RwLock::new(certified(&provider, certificate)?);
        Ok(Self { provider, key })
    }

    pub fn replace(&self, certificate: ServerCertificate) -> Result<(), Error> {
        let key = certified(&self.provider, certificate)?;
        *self.key.write() = key;
        Ok(())
    }

    pub fn current(&self) -> Arc<CertifiedKey> {
        self.key.read().clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn certified(provider: &CryptoProvider, certificate: ServerCertificate) -> Result<Arc<CertifiedKey>, Error> {
    let key = provider.key_provider.load_private_key(certificate.key)?;
    Ok(Arc::new(CertifiedKey::new(certificate.chain, key)))
}

#[cfg(test)]
mod tests;
