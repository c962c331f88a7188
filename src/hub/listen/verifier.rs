//! Client certificates that one may leave out, judged by whoever owns the port.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};

/// Says of a certificate whether its holder may connect.
pub trait Judge: fmt::Debug + Send + Sync + 'static {
    fn admits(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error>;

    /// Any of the judge's own: how signatures of the handshake are verified does not depend on authorities.
    fn signatures(&self) -> &Arc<dyn ClientCertVerifier>;
}

#[derive(Debug)]
pub struct Optional<J>(pub Arc<J>);

impl<J: Judge> ClientCertVerifier for Optional<J> {
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
    ) -> Result<ClientCertVerified, Error> {
        self.0.admits(certificate, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.signatures().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.signatures().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signatures().supported_verify_schemes()
    }
}
