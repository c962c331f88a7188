//! Connections to the hub: TLS that knows the hub by its authorities, or by the pin of a join token, and nothing else.
//!
//! Owns: how a hub is authenticated, and what a failed connection is called in words. Must never: send anything before
//! the hub is verified, or fall back to another way of trusting it.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::identity::Identity;
use crate::model::{Digest, Timestamp};

/// Short, because another replica may answer where one does not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is no address of a hub (expected https://HOST:PORT)")]
    Url(String),
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("cannot reach the hub at {url}: {why}")]
    Unreachable { url: String, why: String },
}

/// How to tell the hub from anybody else.
#[derive(Debug, Clone)]
pub enum Trust {
    /// SHA-256 of the public key of the authority that must be in the chain the hub shows.
    Pin(Digest),
    /// The hub's authorities (DER).
    Authorities(Vec<bytes::Bytes>),
}

/// Connects once to `https://HOST:PORT`. With an identity the agent's certificate is shown.
pub async fn dial(url: &str, trust: &Trust, identity: Option<&Identity>) -> Result<Channel, Error> {
    let address = Address::parse(url).ok_or_else(|| Error::Url(url.to_owned()))?;
    let connector = TlsConnector::from(Arc::new(tls(trust, identity)?));
    let failed = |why: String| Error::Unreachable { url: url.to_owned(), why };
    // TLS is ours, so that a pin can be checked; tonic is told of plain HTTP on top of it.
    let endpoint = Endpoint::from_shared(format!("http://{}:{}", address.authority_host(), address.port))
        .map_err(|_| Error::Url(url.to_owned()))?
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20);
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, open(&address, connector))
        .await
        .map_err(|_| failed(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
        .map_err(|error| failed(in_words(&error)))?;
    let mut stream = Some(TokioIo::new(stream));
    let take = tower::service_fn(move |_: http::Uri| {
        // One connection, once: connecting again is the link's to decide.
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset));
        std::future::ready(stream)
    });
    endpoint.connect_with_connector(take).await.map_err(|error| failed(chain(&error)))
}

async fn open(address: &Address, connector: TlsConnector) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is no host name", address.host)))?;
    connector.connect(name, stream).await
}

struct Address {
    host: String,
    port: u16,
}

impl Address {
    fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let host = uri.host().filter(|host| !host.is_empty())?.trim_matches(['[', ']']).to_owned();
        (uri.scheme_str() == Some("https") && plain).then(|| Self { host, port: uri.port_u16().unwrap_or(443) })
    }

    fn authority_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

fn tls(trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Authorities(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(CertificateDer::from(authority.to_vec()))?;
            }
            builder.with_root_certificates(roots)
        }
        Trust::Pin(pin) => {
            let verifier = Arc::new(Pinned { pin: *pin, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut config = match identity {
        Some(identity) => {
            let chain = vec![CertificateDer::from(identity.certificate.0.to_vec())];
            builder.with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(identity.key.pkcs8().to_vec()).into())?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Takes the authority out of the chain that the hub shows, if its key is the pinned one, and then verifies the hub's
/// certificate against it in full: chain, time and name.
#[derive(Debug)]
struct Pinned {
    pin: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_pinned = |candidate: &&CertificateDer<'_>| Digest::of_key(candidate) == Some(self.pin);
        let Some(authority) = intermediates.iter().find(is_pinned) else {
            return Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What went wrong, for whoever has to put it right.
fn in_words(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(certificate)) = tls else { return chain(error) };
    let at = |time: &UnixTime| Timestamp::from_seconds(time.as_secs() as i64);
    match certificate {
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the hub's certificate is valid from {} on, this machine's clock says {}: the clock is behind, or the hub's is \
             ahead; set it right and try again",
            at(not_before),
            at(time)
        ),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the hub's certificate ended at {}, this machine's clock says {}: the clock is ahead, or the hub's certificate is \
             out of date",
            at(not_after),
            at(time)
        ),
        CertificateError::UnknownIssuer => {
            "its certificate is not signed by the authority that this agent trusts (by the pin in the token, or since it \
             joined): this is another hub, or somebody in between; nothing was sent"
                .into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is for {}, not for {}: use one of those, or start the hub with --tls-san",
            presented.join(", "),
            expected.to_str()
        ),
        other => format!("its certificate is not good: {other}"),
    }
}

/// An error with its causes in one line, none of them twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_addresses_without_a_path_are_hubs() {
        for good in ["https://hub.example:7443", "https://10.0.0.1", "https://[::1]:7443/"] {
            assert!(Address::parse(good).is_some(), "{good}");
        }
        for bad in ["hub.example:7443", "http://hub", "https://", "https://hub/path", "https://hub?x=1", ""] {
            assert!(Address::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(Address::parse("https://[::1]:7443").map(|a| a.host), Some("::1".into()));
    }

    #[test]
    fn a_skewed_clock_is_named_with_both_times() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let early = CertificateError::NotValidYetContext { time: at(0), not_before: at(86_400) };
        let text = in_words(&io::Error::other(rustls::Error::InvalidCertificate(early)));
        assert!(text.contains("1970-01-02T00:00:00Z") && text.contains("1970-01-01T00:00:00Z"), "{text}");
    }
}
