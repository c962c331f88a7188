//! How replicas know each other: certificates of the hub's authority for peers, on both sides of every connection.
//!
//! Owns: whom a connection is of, and what a failed one is called in words. Must never: take a certificate of another
//! authority or another hub, or one whose time is over; compare an identity in part; or send anything to a replica that
//! is not the one meant.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::CryptoProvider,
    server::{ParsedCertificate, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{
    hub::{
        listen::{
            self, Shown,
            verifier::{Judge, Optional},
        },
        pki::{self, Pki, ServerCertificate},
    },
    model::{Digest, Timestamp, Uid},
    store::raft::ReplicaId,
};

/// Who is at the other end of a connection of the peers' port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// No certificate: it may join, with a token.
    Stranger,
    Replica(ReplicaId),
}

/// This replica's side of all connections to others, dialled or taken.
pub struct Tls {
    hub: Uid,
    replica: ReplicaId,
    pki: Arc<Pki>,
    provider: Arc<CryptoProvider>,
    shown: Arc<Shown>,
    replicas: Arc<Replicas>,
    server: Arc<ServerConfig>,
}

impl Tls {
    pub fn new(pki: Arc<Pki>, hub: &Uid, replica: ReplicaId, now: Timestamp) -> anyhow::Result<Self> {
        let certificate = pki.replica_certificate(hub, replica, pki::REPLICA_LIFETIME, now)?;
        Ok(Self::with_certificate(pki, hub, replica, certificate)?)
    }

    pub fn with_certificate(
        pki: Arc<Pki>,
        hub: &Uid,
        replica: ReplicaId,
        certificate: ServerCertificate,
    ) -> Result<Self, listen::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let shown = Arc::new(Shown::new(provider.clone(), certificate)?);
        let replicas = Arc::new(Replicas { authority: listen::verify_by(&pki.peers, &provider)?, hub: hub.clone() });
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Optional(replicas.clone())))
            .with_cert_resolver(shown.clone());
        server.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { hub: hub.clone(), replica, pki, provider, shown, replicas, server: Arc::new(server) })
    }

    /// Shows a new certificate from now on.
    pub fn renew(&self, now: Timestamp) -> anyhow::Result<()> {
        let certificate = self.pki.replica_certificate(&self.hub, self.replica, pki::REPLICA_LIFETIME, now)?;
        Ok(self.shown.replace(certificate)?)
    }

    #[cfg(test)]
    pub fn shown(&self) -> Arc<Shown> {
        self.shown.clone()
    }

    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    pub fn hub(&self) -> &Uid {
        &self.hub
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The handshake has proved that the peer holds the key. The certificate is judged again all the same: a resumed
    /// session brings the one it began with, which may have ended since.
    pub fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Peer {
        let Some((certificate, intermediates)) = chain.and_then(<[_]>::split_first) else { return Peer::Stranger };
        match self.replicas.identify(certificate, intermediates, UnixTime::now()) {
            Ok(replica) => Peer::Replica(replica),
            Err(_) => Peer::Stranger,
        }
    }

    /// For a connection to one other replica.
    pub fn client(&self, to: ReplicaId) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.pki.peers.certificate.clone())?;
        let trust = Trust::Replica { roots, hub: self.hub.clone(), replica: to };
        let verifier = Arc::new(Other { trust, provider: self.provider.clone() });
        let builder = ClientConfig::builder_with_provider(self.provider.clone());
        let mut config = builder
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// For somebody who has nothing yet but the pin of a token: SHA-256 of the public key of the authority for peers.
pub fn pinned(pin: Digest) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Other { trust: Trust::Pin(pin), provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider);
    let mut config = builder
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// What went wrong with a connection, for whoever has to put it right.
pub fn in_words(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|source| source.downcast_ref::<TlsError>()) else {
        return error.to_string();
    };
    let at = |time: &UnixTime| Timestamp::from_seconds(time.as_secs() as i64);
    match tls {
        TlsError::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            format!("its certificate ended at {}, and this machine's clock says {}", at(not_after), at(time))
        }
        TlsError::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            format!("its certificate begins at {}, and this machine's clock says {}", at(not_before), at(time))
        }
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is not signed by this hub's authority for peers: it is another hub, or no replica".into()
        }
        TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "its certificate is that of another hub, or of another replica than the one at this address".into()
        }
        TlsError::AlertReceived(alert) => format!("the other side refused this replica's certificate ({alert:?})"),
        other => other.to_string(),
    }
}

/// Certificates that peers show when they dial.
#[derive(Debug)]
struct Replicas {
    authority: Arc<dyn ClientCertVerifier>,
    hub: Uid,
}

impl Replicas {
    fn identify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ReplicaId, TlsError> {
        self.authority.verify_client_cert(certificate, intermediates, now)?;
        let (hub, replica) = identity(certificate)?;
        if hub == self.hub { Ok(replica) } else { Err(another()) }
    }
}

impl Judge for Replicas {
    fn admits(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        self.identify(certificate, intermediates, now).map(drop)
    }

    fn signatures(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.authority
    }
}

fn another() -> TlsError {
    TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// The SAN must be exactly `hanse://HUB_UID/replica/ID`, the id as it is written and no other way.
fn identity(certificate: &CertificateDer<'_>) -> Result<(Uid, ReplicaId), TlsError> {
    let parse = || {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
        let (hub, replica) = uri.strip_prefix("hanse://")?.split_once("/replica/")?;
        let id: ReplicaId = replica.parse().ok()?;
        (!hub.is_empty() && id > 0 && id.to_string() == replica).then(|| (Uid::from(hub), id))
    };
    parse().ok_or_else(another)
}

/// How to tell a replica that is dialled.
#[derive(Debug)]
enum Trust {
    Replica {
        roots: RootCertStore,
        hub: Uid,
        replica: ReplicaId,
    },
    /// The authority in the chain that is shown has this key; which replica it is does not matter.
    Pin(Digest),
}

#[derive(Debug)]
struct Other {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Other {
    /// Names and addresses say nothing: replicas move, and their identity stands in the certificate.
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(certificate)?;
        let chains_to =
            |roots| verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms);
        let found = match &self.trust {
            Trust::Replica { roots, hub, replica } => {
                chains_to(roots)?;
                identity(certificate)? == (hub.clone(), *replica)
            }
            Trust::Pin(pin) => {
                let mut roots = RootCertStore::empty();
                if let Some(authority) = intermediates.iter().find(|candidate| Digest::of_key(candidate) == Some(*pin))
                {
                    roots.add(authority.clone().into_owned())?;
                }
                chains_to(&roots)?;
                identity(certificate).is_ok()
            }
        };
        if found { Ok(ServerCertVerified::assertion()) } else { Err(another()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
