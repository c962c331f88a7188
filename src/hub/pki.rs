//! The hub's four certificate authorities and what they sign.
//!
//! Owns: the keys under `DIR/pki`, the server certificate, people's and agents' client certificates, those of replicas,
//! `admin.kubeconfig`. Must never: hand out a key but to a replica that joins ([`secrets`]), or derive an identity from
//! what a request *says*: the subject of an agent's certificate is the caller's to give (the cluster the hub knows), and
//! only the public key is taken from a signing request.
//!
//! Four authorities, so that a certificate is worth nothing outside its own surface: `serving` is what clients trust,
//! `people` signs REST clients, `agents` signs gRPC clients, `peers` signs the replicas for each other. All replicas of a
//! hub have all of them.

use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::prelude::FromDer;

use crate::model::{Digest, Timestamp, Uid};

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
pub const SERVER_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// Each replica signs its own, and again when half of it is over.
pub const REPLICA_LIFETIME: Duration = Duration::from_secs(86_400);
pub const ADMIN_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Files of `DIR/pki` that all replicas share. A key comes after its certificate: an authority exists once its key does.
const SECRETS: [&str; 9] = [
    "serving.crt",
    "serving.key",
    "people.crt",
    "people.key",
    "agents.crt",
    "agents.key",
    "peers.crt",
    "peers.key",
    RESUME_KEY,
];
pub const RESUME_KEY: &str = "resume.key";
const SECRET_BYTES_MAX: usize = 16 << 10;
/// Certificates begin this much before they are signed, so that a client whose clock is a little behind is let in.
const SKEW: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read or write {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} does not hold what belongs there: {detail}")]
    Malformed { path: PathBuf, detail: String },
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("the certificate signing request is refused: {0}")]
    Request(String),
    #[error("what the hub sent for {0} is not what belongs there")]
    Secret(String),
}

pub struct Pki {
    pub serving: Authority,
    pub people: Authority,
    pub agents: Authority,
    pub peers: Authority,
}

/// One certificate authority with its key.
pub struct Authority {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate for an agent; the key is the agent's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCertificate {
    pub der: Vec<u8>,
    pub pem: String,
    /// Hex.
    pub serial: String,
    /// SHA-256 of the public key (SubjectPublicKeyInfo), hex.
    pub key_fingerprint: String,
    pub not_after: Timestamp,
}

/// A certificate and key for a person.
#[derive(Debug, Clone)]
pub struct PersonCertificate {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What the TLS port shows.
#[derive(Debug)]
pub struct ServerCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub not_after: Timestamp,
}

impl Pki {
    /// Reads the authorities under `directory`, making those that are missing.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, Error> {
        let io = |source| Error::Io { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        Ok(Self {
            serving: Authority::open(directory, "serving", now)?,
            people: Authority::open(directory, "people", now)?,
            agents: Authority::open(directory, "agents", now)?,
            peers: Authority::open(directory, "peers", now)?,
        })
    }

    /// What join tokens carry: SHA-256 of the serving authority's SubjectPublicKeyInfo, so that a joining agent knows
    /// the hub before it has its bundle.
    pub fn pin(&self) -> Digest {
        self.serving.pin()
    }

    /// Signs a fresh key for the TLS port; it is never written to disk. `names` are DNS names or addresses.
    pub fn server_certificate(&self, names: &[String], now: Timestamp) -> Result<ServerCertificate, Error> {
        let key = KeyPair::generate()?;
        let mut parameters = client_or_server("hanse hub", ExtendedKeyUsagePurpose::ServerAuth, now, SERVER_LIFETIME)?;
        for name in names {
            parameters.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        let certificate = parameters.signed_by(&key, &self.serving.issuer)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), self.serving.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            not_after: end(now, SERVER_LIFETIME),
        })
    }

    /// Signs the public key of an agent's request (PKCS#10, DER) for the cluster the hub knows it as. The request must
    /// be signed by that key; its names and extensions are ignored.
    pub fn sign_agent(
        &self,
        request: &[u8],
        hub: &Uid,
        cluster: &Uid,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<AgentCertificate, Error> {
        let spki = request_key(request)?;
        let key = SubjectPublicKeyInfo::from_der(&spki)
            .map_err(|error| Error::Request(format!("its key is of no kind the hub takes ({error})")))?;
        let mut parameters = client_or_server(&cluster.0, ExtendedKeyUsagePurpose::ClientAuth, now, lifetime)?;
        parameters.subject_alt_names.push(SanType::URI(agent_uri(hub, cluster).as_str().try_into()?));
        let serial = parameters.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let certificate = parameters.signed_by(&key, &self.agents.issuer)?;
        Ok(AgentCertificate {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            key_fingerprint: Digest::of(&spki).to_string(),
            not_after: end(now, lifetime),
        })
    }

    /// What a replica shows the others, whichever of the two dials. Its key is never written to disk.
    pub fn replica_certificate(
        &self,
        hub: &Uid,
        replica: u64,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<ServerCertificate, Error> {
        let key = KeyPair::generate()?;
        let name = format!("hanse hub replica {replica}");
        let mut parameters = client_or_server(&name, ExtendedKeyUsagePurpose::ServerAuth, now, lifetime)?;
        parameters.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        parameters.subject_alt_names.push(SanType::URI(replica_uri(hub, replica).as_str().try_into()?));
        let certificate = parameters.signed_by(&key, &self.peers.issuer)?;
        Ok(ServerCertificate {
            chain: vec![certificate.der().clone(), self.peers.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            not_after: end(now, lifetime),
        })
    }

    /// A key and certificate for a REST client: CN is the user, O are the groups.
    pub fn sign_person(
        &self,
        user: &str,
        groups: &[&str],
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<PersonCertificate, Error> {
        let key = KeyPair::generate()?;
        let mut parameters = client_or_server(user, ExtendedKeyUsagePurpose::ClientAuth, now, lifetime)?;
        // One attribute per type is all a `DistinguishedName` holds; more groups come with tokens.
        if let Some(group) = groups.first() {
            parameters.distinguished_name.push(DnType::OrganizationName, *group);
        }
        let certificate = parameters.signed_by(&key, &self.people.issuer)?;
        Ok(PersonCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A kubeconfig with everything embedded.
    pub fn kubeconfig(&self, server: &str, user: &str, credentials: &PersonCertificate) -> String {
        let (ca, certificate) = (encode_pem(&self.serving.pem), encode_pem(&credentials.certificate_pem));
        let key = encode_pem(&credentials.key_pem);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: hanse\nclusters:\n- name: hanse\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\ncontexts:\n- name: hanse\n  context:\n    cluster: hanse\n    user: {user}\nusers:\n\
             - name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        )
    }
}

impl Authority {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn pin(&self) -> Digest {
        Digest::of(&self.issuer.key().subject_public_key_info())
    }

    fn open(directory: &Path, name: &str, now: Timestamp) -> Result<Self, Error> {
        let (key_path, certificate_path) =
            (directory.join(format!("{name}.key")), directory.join(format!("{name}.crt")));
        // The key is written last: an authority exists once its key does.
        if !key_path.try_exists().map_err(|source| Error::Io { path: key_path.clone(), source })? {
            let key = KeyPair::generate()?;
            let pem = authority_parameters(name, now)?.self_signed(&key)?.pem();
            write_durably(&certificate_path, pem.as_bytes(), 0o644)?;
            write_durably(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        }
        let read = |path: &Path| fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source });
        let malformed = |path: &Path, detail: String| Error::Malformed { path: path.to_owned(), detail };
        let pem = read(&certificate_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| malformed(&key_path, e.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| malformed(&certificate_path, error.to_string()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|error| malformed(&certificate_path, error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(malformed(&certificate_path, "it is not the certificate of the key beside it".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, pem, issuer })
    }
}

/// All that makes a replica of this hub, by file name: for one that proved a token, over TLS, and nobody else.
pub fn secrets(directory: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
    let read = |name: &'static str| {
        let path = directory.join(name);
        let content = fs::read(&path).map_err(|source| Error::Io { path, source })?;
        Ok((name, content))
    };
    SECRETS.into_iter().map(read).collect()
}

/// Keeps what another replica's [`secrets`] gave, all of it or none that would be taken for whole: keys come last.
pub fn write_secrets(directory: &Path, given: &[(String, bytes::Bytes)]) -> Result<(), Error> {
    let find = |name: &str| {
        let found = given.iter().find(|(given, _)| given == name).map(|(_, content)| content);
        found.filter(|content| (1..=SECRET_BYTES_MAX).contains(&content.len()))
    };
    if let Some(missing) = SECRETS.into_iter().find(|name| find(name).is_none()) {
        return Err(Error::Secret(missing.into()));
    }
    let io = |source| Error::Io { path: directory.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    for name in SECRETS {
        let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
        write_durably(&directory.join(name), find(name).map(|content| &content[..]).unwrap_or_default(), mode)?;
    }
    Ok(())
}

/// Writes a file so that after a crash it is there whole or not at all.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let write = || {
        let draft = path.with_extension("draft");
        let _ = fs::remove_file(&draft);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// As kubeconfigs embed it.
pub fn encode_pem(pem: &str) -> String {
    BASE64_STANDARD.encode(pem)
}

pub fn decode_pem(text: &str) -> Option<String> {
    String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()
}

/// The end of a certificate's life.
pub fn not_after(pem: &str) -> Option<Timestamp> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    Some(Timestamp::from_seconds(parsed.validity().not_after.timestamp()))
}

/// The identity of an agent, as its certificate says it.
pub fn agent_uri(hub: &Uid, cluster: &Uid) -> String {
    format!("hanse://{hub}/cluster/{cluster}")
}

/// The identity of a replica, as its certificate says it.
pub fn replica_uri(hub: &Uid, replica: u64) -> String {
    format!("hanse://{hub}/replica/{replica}")
}

/// The SubjectPublicKeyInfo (DER) of a signing request that is signed by that very key.
pub fn request_key(request: &[u8]) -> Result<Vec<u8>, Error> {
    use x509_parser::certification_request::X509CertificationRequest;
    let (rest, parsed) = X509CertificationRequest::from_der(request)
        .map_err(|_| Error::Request("it is not a PKCS#10 request in DER".into()))?;
    if !rest.is_empty() {
        return Err(Error::Request("bytes follow it".into()));
    }
    parsed.verify_signature().map_err(|_| Error::Request("it is not signed by its own key".into()))?;
    Ok(parsed.certification_request_info.subject_pki.raw.to_vec())
}

fn authority_parameters(name: &str, now: Timestamp) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::default();
    // A part of the serial in the name: authorities of different hubs must not look alike to a client with many.
    let serial = random_serial()?;
    let suffix: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, format!("hanse {name} authority {suffix}"));
    parameters.serial_number = Some(SerialNumber::from(serial));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    limit(&mut parameters, now, CA_LIFETIME);
    Ok(parameters)
}

fn client_or_server(
    name: &str,
    usage: ExtendedKeyUsagePurpose,
    now: Timestamp,
    lifetime: Duration,
) -> Result<CertificateParams, Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.serial_number = Some(SerialNumber::from(random_serial()?));
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![usage];
    parameters.use_authority_key_identifier_extension = true;
    limit(&mut parameters, now, lifetime);
    Ok(parameters)
}

fn random_serial() -> Result<Vec<u8>, Error> {
    use ring::rand::SecureRandom;
    let mut serial = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive and of full length, whatever the dice say.
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial.into())
}

fn end(now: Timestamp, lifetime: Duration) -> Timestamp {
    now.plus_seconds(lifetime.as_secs() as i64)
}

fn limit(parameters: &mut CertificateParams, now: Timestamp, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |at: Timestamp| Duration::from_secs(at.seconds().max(0) as u64);
    parameters.not_before = epoch + seconds(now).saturating_sub(SKEW);
    parameters.not_after = epoch + seconds(end(now, lifetime));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Timestamp = Timestamp(jiff::Timestamp::constant(1_800_000_000, 0));

    fn request(key: &KeyPair) -> Vec<u8> {
        let mut parameters = CertificateParams::new(vec!["evil.example".to_owned()]).expect("parameters");
        parameters.distinguished_name.push(DnType::CommonName, "somebody else");
        parameters.serialize_request(key).expect("a request").der().to_vec()
    }

    #[test]
    fn authorities_are_made_once_and_their_keys_are_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = Pki::open(directory.path(), NOW).expect("authorities");
        let again = Pki::open(directory.path(), NOW).expect("authorities");
        assert_eq!((first.pin(), &first.agents.pem), (again.pin(), &again.agents.pem));
        for name in ["serving", "people", "agents", "peers"] {
            let mode = fs::metadata(directory.path().join(format!("{name}.key"))).expect("a key").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        fs::copy(directory.path().join("people.crt"), directory.path().join("agents.crt")).expect("copied");
        assert!(
            matches!(Pki::open(directory.path(), NOW), Err(Error::Malformed { .. })),
            "a certificate of another key"
        );
    }

    #[test]
    fn an_agents_certificate_says_what_the_hub_says_and_nothing_of_the_request() {
        let directory = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(directory.path(), NOW).expect("authorities");
        let key = KeyPair::generate().expect("a key");
        let (hub, cluster) = (Uid::from("hub"), Uid::from("cluster-1"));
        let signed = pki.sign_agent(&request(&key), &hub, &cluster, Duration::from_secs(3600), NOW).expect("signed");
        let (_, parsed) = x509_parser::parse_x509_certificate(&signed.der).expect("a certificate");
        let names = parsed.subject_alternative_name().expect("well formed").expect("names");
        assert_eq!(
            names.value.general_names,
            [x509_parser::extensions::GeneralName::URI("hanse://hub/cluster/cluster-1")]
        );
        assert_eq!(parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()), Some("cluster-1"));
        assert_eq!(parsed.validity().not_after.timestamp(), NOW.seconds() + 3600);
        assert_eq!(signed.not_after, NOW.plus_seconds(3600));
        assert_eq!(signed.key_fingerprint, Digest::of(&key.subject_public_key_info()).to_string());
    }

    #[test]
    fn another_replica_gets_all_or_nothing() {
        let (here, there) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let pki = Pki::open(here.path(), NOW).expect("authorities");
        fs::write(here.path().join(RESUME_KEY), [7; 32]).expect("a key");
        let given: Vec<_> = secrets(here.path()).expect("secrets").into_iter().collect();
        let given: Vec<_> = given.into_iter().map(|(name, content)| (name.to_owned(), content.into())).collect();
        let target = there.path().join("pki");
        assert!(matches!(write_secrets(&target, &given[1..]), Err(Error::Secret(name)) if name == "serving.crt"));
        assert!(!target.exists());
        write_secrets(&target, &given).expect("written");
        let copy = Pki::open(&target, NOW).expect("authorities");
        assert_eq!((copy.pin(), copy.peers.pin(), &copy.people.pem), (pki.pin(), pki.peers.pin(), &pki.people.pem));
        assert_eq!(secrets(&target).expect("secrets"), secrets(here.path()).expect("secrets"));
        let mode = fs::metadata(target.join("peers.key")).expect("a key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn requests_that_prove_nothing_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let pki = Pki::open(directory.path(), NOW).expect("authorities");
        let good = request(&KeyPair::generate().expect("a key"));
        let mut forged = good.clone();
        *forged.last_mut().expect("bytes") ^= 1;
        let longer = [&good[..], b"x"].concat();
        for bytes in [&b""[..], b"garbage", &forged, &longer, &good[..good.len() - 1]] {
            let hub = Uid::from("hub");
            let refused = pki.sign_agent(bytes, &hub, &Uid::from("c"), Duration::from_secs(1), NOW);
            assert!(matches!(refused, Err(Error::Request(_))));
        }
    }
}
