//! What callers prove: that they hold the key they ask a certificate for, and the key of the one they have.

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use tonic::Code;
use x509_parser::{prelude::FromDer, x509::SubjectPublicKeyInfo};

use super::decide::Refusal;
use crate::{hub::pki, model::Digest, wire::RenewCall};

/// An uncompressed point on P-256: what every agent's key is, so that renewal has one signature to check.
const P256_POINT_BYTES: usize = 65;
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";

fn invalid(message: String) -> Refusal {
    Refusal { code: Code::InvalidArgument, reason: "RequestInvalid", message }
}

/// SHA-256 of the public key that signed the request, hex.
pub fn key_of_request(csr: &[u8]) -> Result<String, Refusal> {
    let spki = pki::request_key(csr).map_err(|error| invalid(error.to_string()))?;
    p256(&spki).ok_or_else(|| invalid("the request's key is not ECDSA P-256".into()))?;
    Ok(Digest::of(&spki).to_string())
}

/// Whether the key of the old certificate signed for the new one.
pub fn check_renewal(call: &RenewCall) -> Result<(), Refusal> {
    let certificate = CertificateDer::from(&call.certificate[..]);
    let parsed = x509_parser::parse_x509_certificate(&certificate);
    let (_, parsed) = parsed.map_err(|_| invalid("the certificate is not X.509 in DER".into()))?;
    let point =
        p256(parsed.public_key().raw).ok_or_else(|| invalid("the certificate's key is not ECDSA P-256".into()))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(&RenewCall::signed_bytes(&call.csr), &call.signature)
        .map_err(|_| Refusal {
            code: Code::PermissionDenied,
            reason: "ProofInvalid",
            message: "the request is not signed by the key of the certificate it shows".into(),
        })
}

fn p256(spki: &[u8]) -> Option<Vec<u8>> {
    let (rest, parsed) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let point = parsed.subject_public_key.data;
    let fits = rest.is_empty()
        && point.len() == P256_POINT_BYTES
        && parsed.algorithm.algorithm.to_id_string() == EC_PUBLIC_KEY;
    fits.then(|| point.into_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rcgen::{CertificateParams, KeyPair, SigningKey};

    use super::*;
    use crate::model::Timestamp;

    fn call(signer: &KeyPair) -> RenewCall {
        let old = KeyPair::generate().expect("key");
        let certificate = CertificateParams::default().self_signed(&old).expect("certificate");
        let next = KeyPair::generate().expect("key");
        let csr = Bytes::copy_from_slice(CertificateParams::default().serialize_request(&next).expect("request").der());
        let signer = if signer.is_compatible(&rcgen::PKCS_ED25519) { &old } else { signer };
        RenewCall {
            certificate: Bytes::copy_from_slice(certificate.der()),
            signature: signer.sign(&RenewCall::signed_bytes(&csr)).expect("signature").into(),
            csr,
            agent_time: Timestamp::from_seconds(0),
        }
    }

    #[test]
    fn only_the_old_key_signs_for_the_next_and_only_for_that_very_one() {
        let own = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("marker");
        let good = call(&own);
        assert_eq!(check_renewal(&good), Ok(()));
        let other = KeyPair::generate().expect("key");
        assert_eq!(check_renewal(&call(&other)).expect_err("stranger").reason, "ProofInvalid");
        let swapped = RenewCall { csr: call(&own).csr, ..good.clone() };
        assert_eq!(check_renewal(&swapped).expect_err("another request").reason, "ProofInvalid");
        let garbage = RenewCall { certificate: Bytes::from_static(b"x"), ..good };
        assert_eq!(check_renewal(&garbage).expect_err("garbage").reason, "RequestInvalid");
    }

    #[test]
    fn a_request_proves_its_key_and_other_kinds_of_keys_are_refused() {
        let key = KeyPair::generate().expect("key");
        let csr = CertificateParams::default().serialize_request(&key).expect("request");
        let mut der = csr.der().to_vec();
        assert!(key_of_request(&der).is_ok());
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(key_of_request(&der).is_err(), "a broken signature");
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let csr = CertificateParams::default().serialize_request(&other).expect("request");
        assert!(key_of_request(csr.der()).is_err());
    }
}
