//! The port as clients meet it: who they are to it, and which surface answers.

use axum::{Extension, routing::any};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Port {
    pki: Pki,
    address: SocketAddr,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now())
}

async fn port() -> Port {
    let directory = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(directory.path(), now()).expect("authorities");
    let names = ["localhost".to_owned()];
    let certificate = pki.server_certificate(&names, now()).expect("a certificate");
    let tls = Tls::new(&pki, &Uid::from("hub"), certificate).expect("TLS");
    let says = |surface: &'static str| {
        any(move |Extension(peer): Extension<Peer>| async move { format!("{surface} {peer:?}") })
    };
    let services = Services {
        rest: Router::new().fallback_service(says("rest")),
        agents: Router::new().fallback_service(says("agents")),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, Arc::new(tls), services, stop.clone()));
    Port { pki, address, stop, _directory: directory }
}

impl Port {
    /// The whole answer to one request over HTTP/1.1, or what the handshake failed with.
    async fn ask(&self, identity: Option<Identity>, content_type: &str) -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.pki.serving.certificate.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("an identity"),
            None => builder.with_no_client_auth(),
        };
        let stream = tokio::net::TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let request = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\ncontent-type: {content_type}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
    }

    fn person(&self, since: Timestamp, lifetime: Duration) -> Identity {
        let signed = self.pki.sign_person("ann", &["dev"], lifetime, since).expect("signed");
        let chain = CertificateDer::from_pem_slice(signed.certificate_pem.as_bytes()).expect("a certificate");
        (vec![chain], PrivateKeyDer::from_pem_slice(signed.key_pem.as_bytes()).expect("a key"))
    }

    fn agent(&self, hub: &str, since: Timestamp, lifetime: Duration) -> (Identity, String) {
        let key = KeyPair::generate().expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
        let signed = self.pki.sign_agent(request.der(), &Uid::from(hub), &Uid::from("c1"), lifetime, since);
        let identity = (
            vec![CertificateDer::from(signed.expect("signed").der)],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        );
        (identity, Digest::of(&key.subject_public_key_info()).to_string())
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_authority_that_signed_decides_who_a_peer_is_and_the_content_type_what_answers() {
    let port = port().await;
    assert_eq!(port.ask(None, "application/json").await.expect("an answer"), "rest Anonymous");
    assert_eq!(port.ask(None, "application/grpc+proto").await.expect("an answer"), "agents Anonymous");
    let person = port.ask(Some(port.person(now(), HOUR)), "application/json").await.expect("an answer");
    assert_eq!(person, "rest Person(Person { user: \"ann\", groups: [\"dev\"], expired: None })");
    let (agent, fingerprint) = port.agent("hub", now(), HOUR);
    let agent = port.ask(Some(agent), "application/grpc").await.expect("an answer");
    assert!(agent.starts_with("agents Agent(AgentPeer { cluster: Uid(\"c1\")"), "{agent}");
    assert!(agent.contains(&fingerprint) && agent.ends_with("expired: None })"), "{agent}");
    port.stop.cancel();
}

#[tokio::test]
async fn an_expired_certificate_is_let_in_as_expired() {
    let port = port().await;
    let since = now().plus_seconds(-7200);
    let person = port.ask(Some(port.person(since, HOUR)), "application/json").await.expect("an answer");
    assert!(person.contains("expired: Some("), "{person}");
    let agent = port.ask(Some(port.agent("hub", since, HOUR).0), "application/grpc").await.expect("an answer");
    assert!(agent.contains("expired: Some("), "{agent}");
    port.stop.cancel();
}

#[tokio::test]
async fn foreign_certificates_do_not_pass_the_handshake() {
    let (here, elsewhere) = (port().await, port().await);
    assert!(here.ask(Some(elsewhere.person(now(), HOUR)), "application/json").await.is_err(), "another hub's person");
    assert!(here.ask(Some(elsewhere.agent("hub", now(), HOUR).0), "application/grpc").await.is_err());
    assert!(here.ask(Some(here.agent("hub2", now(), HOUR).0), "application/grpc").await.is_err(), "another hub's uid");
    assert!(here.ask(Some(here.agent("hub/cluster/x", now(), HOUR).0), "application/grpc").await.is_err());
    let early = here.person(now().plus_seconds(7200), HOUR);
    assert!(here.ask(Some(early), "application/json").await.is_err(), "not valid yet");
    assert_eq!(here.ask(None, "application/json").await.expect("an answer"), "rest Anonymous", "it goes on serving");
}

#[tokio::test]
async fn silence_and_noise_do_not_keep_others_out() {
    let port = port().await;
    let _silent = tokio::net::TcpStream::connect(port.address).await.expect("connected");
    let mut noisy = tokio::net::TcpStream::connect(port.address).await.expect("connected");
    noisy.write_all(&[0xff; 4096]).await.expect("written");
    assert_eq!(port.ask(None, "application/json").await.expect("an answer"), "rest Anonymous");
}
