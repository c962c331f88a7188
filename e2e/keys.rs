//! The keys and certificates of one member, as files: a CA, the API server's certificate, the
//! admin's, and the key that signs ServiceAccount tokens.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Paths of PEM files.
pub struct Keys {
    pub authority: PathBuf,
    pub server_certificate: PathBuf,
    pub server_key: PathBuf,
    /// Of group `system:masters`, which RBAC always lets pass.
    pub admin_certificate: PathBuf,
    pub admin_key: PathBuf,
    pub account_key: PathBuf,
    pub account_public_key: PathBuf,
}

impl Keys {
    /// Makes all keys anew, in `directory`. The server's certificate is good for `names`, host names or
    /// addresses.
    pub fn create(directory: &Path, names: &[&str]) -> Keys {
        let authority = authority();
        let server = issue(&authority, "kube-apiserver", None, names, ExtendedKeyUsagePurpose::ServerAuth);
        let admin = issue(&authority, "admin", Some("system:masters"), &[], ExtendedKeyUsagePurpose::ClientAuth);
        let account = new_key();
        Keys {
            authority: write(directory, "ca.crt", &authority.pem()),
            server_certificate: write(directory, "server.crt", &server.certificate),
            server_key: write(directory, "server.key", &server.key),
            admin_certificate: write(directory, "admin.crt", &admin.certificate),
            admin_key: write(directory, "admin.key", &admin.key),
            account_key: write(directory, "account.key", &account.serialize_pem()),
            account_public_key: write(directory, "account.pub", &account.public_key_pem()),
        }
    }
}

struct Issued {
    certificate: String,
    key: String,
}

fn new_key() -> KeyPair {
    // ECDSA P-256, which Kubernetes takes for ServiceAccount tokens as well as RSA.
    KeyPair::generate().expect("generate a key")
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "e2e");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, new_key()).expect("sign the CA's certificate")
}

fn issue(
    authority: &CertifiedIssuer<'static, KeyPair>,
    user: &str,
    group: Option<&str>,
    names: &[&str],
    usage: ExtendedKeyUsagePurpose,
) -> Issued {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names for a certificate");
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![usage];
    let key = new_key();
    let certificate = params.signed_by(&key, authority).expect("sign a certificate");
    Issued { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn write(directory: &Path, name: &str, pem: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, pem).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    path
}
