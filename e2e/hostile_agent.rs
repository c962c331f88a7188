//! A compromised agent tries every call on what is not its own; every answer is a denial, and the hub stays up.
//!
//! The hub is whole, with its port, its authorities and its store, but runs in this process, so that the test can look
//! at both sides. The agents are bare: they speak the protocol by hand and do what no honest one would.

use std::time::Duration;

use bytes::Bytes;
use hanse::{
    agent::{
        dial::{Trust, dial},
        identity::{Identity, Key, Memory},
        join::{self, Token},
    },
    hub::{Config, Hub, Storage},
    model::{
        Digest, Report, Timestamp, Uid,
        cluster::Facts,
        protocol::{Hello, ToHub},
    },
    store::{Key as StoreKey, Operation, Transaction, object},
    wire::{
        RenewCall, limits,
        proto::{self, agents_client::AgentsClient, joining_client::JoiningClient},
    },
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::run;

const SOON: Duration = Duration::from_secs(60);

struct Target {
    hub: Hub,
}

impl Target {
    async fn start() -> Self {
        Self::with_certificates_of(Duration::from_secs(3600)).await
    }

    async fn with_certificates_of(lifetime: Duration) -> Self {
        let config = Config {
            listen: "127.0.0.1:0".into(),
            agent_certificate_lifetime: lifetime,
            storage: Storage::Memory,
            ..Config::new(run::current().new_directory("hostile"))
        };
        Self { hub: Hub::start(config).await.expect("a hub") }
    }

    /// A token as `hanse token create` makes it.
    async fn token(&self, cluster: &str, spec: Value) -> Token {
        let name = format!("t-{}", uuid::Uuid::new_v4());
        let token = Token::new(&name, "secret", self.hub.pki.pin());
        let mut all = json!({
            "secretDigest": token.secret_digest(),
            "cluster": cluster,
            "autoApprove": true,
            "expiresAt": now().plus_seconds(600),
        });
        all.as_object_mut().expect("a map").extend(spec.as_object().expect("a map").clone());
        let object = json!({
            "apiVersion": "hub.hanse.dev/v1alpha1",
            "kind": "JoinToken",
            "metadata": {"name": name, "uid": uuid::Uuid::new_v4()},
            "spec": all,
        });
        let key = StoreKey::object("hub.hanse.dev", "jointokens", "", &name);
        self.hub.store.commit(Transaction::put(key, object::encode(&object))).await.expect("a stored token");
        token
    }

    async fn join_with(&self, token: Token, keep: &Memory, system_uid: &str) -> Result<Identity, join::Error> {
        let request = join::Request {
            urls: vec![self.hub.url.clone()],
            token,
            cluster: String::new(),
            system_uid: system_uid.into(),
        };
        tokio::time::timeout(SOON, join::join(&request, keep, |_| {})).await.expect("an answer in time")
    }

    async fn join(&self, cluster: &str) -> (Identity, Memory) {
        let keep = Memory::default();
        let token = self.token(cluster, json!({})).await;
        let identity = self.join_with(token, &keep, &format!("system-{cluster}")).await.expect("an identity");
        (identity, keep)
    }

    async fn dial(&self, identity: Option<&Identity>) -> Channel {
        let authority = Bytes::copy_from_slice(&self.hub.pki.serving.certificate);
        dial(&self.hub.url, &Trust::Authorities(vec![authority]), identity).await.expect("a connection")
    }

    async fn cluster(&self, name: &str) -> Option<Value> {
        let key = StoreKey::object("hub.hanse.dev", "clusters", "", name);
        let entry = self.hub.store.get(&key).await.expect("the store")?;
        Some(object::decode(&entry.value).expect("an object"))
    }

    async fn change_cluster(&self, name: &str, change: impl Fn(&mut Value)) {
        let key = StoreKey::object("hub.hanse.dev", "clusters", "", name);
        let mut object = self.cluster(name).await.expect("the cluster");
        change(&mut object);
        self.hub.store.commit(Transaction::put(key, object::encode(&object))).await.expect("a stored cluster");
    }

    /// Whatever was done to it, it answers.
    async fn assert_well(&self) {
        let (identity, _) = self.join(&format!("probe-{}", &uuid::Uuid::new_v4().to_string()[..8])).await;
        let mut stream = Wire::open(self, Some(&identity)).await.expect("a stream");
        stream.welcome(&identity.cluster_name).await;
    }
}

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now())
}

/// A stream, by hand.
struct Wire {
    outbox: mpsc::Sender<proto::ToHub>,
    inbox: Streaming<proto::ToAgent>,
}

/// How a stream ended.
#[derive(Debug)]
struct Ended {
    refuse: Option<proto::Refuse>,
    status: Option<Status>,
}

impl Wire {
    async fn open(target: &Target, identity: Option<&Identity>) -> Result<Self, Status> {
        let mut client = AgentsClient::new(target.dial(identity).await).max_encoding_message_size(64 << 20);
        let (outbox, queue) = mpsc::channel(64);
        let inbox = client.session(ReceiverStream::new(queue)).await?.into_inner();
        Ok(Self { outbox, inbox })
    }

    async fn say(&self, message: ToHub) {
        self.say_raw(proto::ToHub::from(&message)).await;
    }

    async fn say_raw(&self, message: proto::ToHub) {
        // The hub may have closed already; what it said then is what counts.
        let _ = self.outbox.send(message).await;
    }

    async fn greet(&self, cluster: &str, instance: &str, epoch: u64) {
        let facts = Facts { system_uid: format!("system-{cluster}"), ..Facts::default() };
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            instance: instance.into(),
            session_epoch: epoch,
            facts,
            ..Hello::default()
        };
        self.say(ToHub::Hello(Box::new(hello))).await;
    }

    async fn welcome(&mut self, cluster: &str) {
        self.greet(cluster, "one", 1).await;
        let message = self.next().await.expect("a welcome");
        assert!(matches!(message, proto::to_agent::Message::Welcome(_)), "{message:?}");
    }

    async fn next(&mut self) -> Option<proto::to_agent::Message> {
        let message = tokio::time::timeout(SOON, self.inbox.next()).await.expect("a message in time");
        message?.ok()?.message
    }

    /// All that comes until the end is let pass to `look`.
    async fn end(mut self, mut look: impl FnMut(&proto::to_agent::Message)) -> Ended {
        let mut ended = Ended { refuse: None, status: None };
        let drained = async {
            while let Some(message) = self.inbox.next().await {
                match message {
                    Ok(proto::ToAgent { message: Some(proto::to_agent::Message::Refuse(refuse)) }) => {
                        ended.refuse = Some(refuse)
                    }
                    Ok(message) => message.message.iter().for_each(&mut look),
                    Err(status) => ended.status = Some(status),
                }
            }
        };
        tokio::time::timeout(SOON, drained).await.expect("the end in time");
        ended
    }

    async fn refused(self) -> String {
        let ended = self.end(|message| assert!(!matches!(message, proto::to_agent::Message::Work(_)))).await;
        ended.refuse.unwrap_or_else(|| panic!("no reason in {:?}", ended.status)).reason
    }
}

fn refusal(error: join::Error) -> String {
    match error {
        join::Error::Refused(message) => message,
        other => panic!("not refused: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_opens_no_stream() {
    let target = Target::start().await;
    let status = Wire::open(&target, None).await.err().expect("a refusal");
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_key_one_name_and_its_time() {
    let target = Target::start().await;
    let token = target.token("eu", json!({})).await;
    target.join_with(token.clone(), &Memory::default(), "system-eu").await.expect("the first use");
    let reused = target.join_with(token, &Memory::default(), "system-thief").await.expect_err("a reused token");
    assert!(refusal(reused).contains("was used"));

    let stale = target.token("us", json!({"expiresAt": now().plus_seconds(-1)})).await;
    assert!(refusal(target.join_with(stale, &Memory::default(), "s1").await.expect_err("stale")).contains("expired"));

    let taken = target.token("eu", json!({})).await;
    assert!(refusal(target.join_with(taken, &Memory::default(), "s2").await.expect_err("taken")).contains("--replace"));

    let twin = target.token("eu-2", json!({})).await;
    let twice = target.join_with(twin, &Memory::default(), "system-eu").await.expect_err("one cluster, two names");
    assert!(refusal(twice).contains("joined already, as eu"));

    let real = target.token("ap", json!({})).await;
    let guessed = Token::new(&real.name, "guess", target.hub.pki.pin());
    assert!(
        refusal(target.join_with(guessed, &Memory::default(), "s3").await.expect_err("guessed"))
            .contains("no such join token")
    );
    assert!(target.cluster("ap").await.is_none() && target.cluster("us").await.is_none());
    target.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_agents_with_one_token_make_one_cluster() {
    let target = Target::start().await;
    let token = target.token("", json!({})).await;
    let attempts = (0..16).map(|number| {
        let request = join::Request {
            urls: vec![target.hub.url.clone()],
            token: token.clone(),
            cluster: format!("c{number}"),
            system_uid: format!("s{number}"),
        };
        tokio::spawn(async move { join::join(&request, &Memory::default(), |_| {}).await.is_ok() })
    });
    let mut joined = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        joined += usize::from(tokio::time::timeout(SOON, attempt).await.expect("in time").expect("no panic"));
    }
    assert_eq!(joined, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_sends_nothing_to_a_hub_that_its_token_does_not_pin() {
    let (target, other) = (Target::start().await, Target::start().await);
    let token = target.token("eu", json!({})).await;
    let request =
        join::Request { urls: vec![other.hub.url.clone()], token, cluster: String::new(), system_uid: "s".into() };
    let mut told = Vec::new();
    let (keep, mut tell) = (Memory::default(), |waiting: &str| told.push(waiting.to_owned()));
    let joining = join::join(&request, &keep, &mut tell);
    assert!(tokio::time::timeout(Duration::from_secs(3), joining).await.is_err(), "it must not get an answer");
    assert!(told.iter().all(|line| line.contains("nothing was sent")) && !told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_compromised_agent_gets_no_blob_that_its_own_works_do_not_list() {
    let target = Target::start().await;
    let secret = Bytes::from_static(br#"{"kind":"Secret","of":"another cluster"}"#);
    let digest = Digest::of(&secret);
    let put =
        Transaction { compares: vec![], operations: vec![Operation::Put(StoreKey::blob(&digest), secret.clone())] };
    target.hub.store.commit(put).await.expect("a stored blob");
    let (identity, _) = target.join("eu").await;
    let mut wire = Wire::open(&target, Some(&identity)).await.expect("a stream");
    wire.welcome("eu").await;
    for _ in 0..20 {
        wire.say(ToHub::FetchBlobs(vec![digest, Digest::of(b"guess")])).await;
    }
    let ended = wire.end(|message| assert!(!matches!(message, proto::to_agent::Message::Blob(_)), "{message:?}")).await;
    assert_eq!(ended.refuse.expect("a reason").reason, "PermissionDenied");
    assert_eq!(ended.status.expect("a status").code(), Code::PermissionDenied);
    target.assert_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_compromised_agent_reports_for_no_other_cluster() {
    let target = Target::start().await;
    let (eu, _) = target.join("eu").await;
    let (us, _) = target.join("us").await;
    let extended = Uid(format!("{}0", eu.cluster));
    let shortened = Uid(eu.cluster.0[..35].to_owned());
    for victim in [us.cluster.clone(), extended, shortened] {
        let mut wire = Wire::open(&target, Some(&eu)).await.expect("a stream");
        wire.welcome("eu").await;
        let report = Report { application: "app".into(), cluster: victim, generation: 1, ..Report::default() };
        wire.say(ToHub::Report(Box::new(report))).await;
        assert_eq!(wire.refused().await, "PermissionDenied");
    }
    // Unknown Applications of its own are heard by nobody, and end nothing.
    let mut wire = Wire::open(&target, Some(&eu)).await.expect("a stream");
    wire.welcome("eu").await;
    let report = Report { application: "made-up".into(), cluster: eu.cluster.clone(), ..Report::default() };
    wire.say(ToHub::Report(Box::new(report))).await;
    wire.say(ToHub::Beat).await;
    while !matches!(wire.next().await.expect("an answer"), proto::to_agent::Message::BeatAck(_)) {}
    let reports = hanse::store::List { prefix: "/hanse/internal/reports/".into(), after: None, limit: 0, at: None };
    assert_eq!(target.hub.store.list(reports).await.expect("a listing").entries, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_worth_nothing_on_the_other_surface() {
    let target = Target::start().await;
    let (agent, _) = target.join("eu").await;
    let rest = |identity: Option<Identity>| {
        let (url, authority) = (target.hub.url.clone(), target.hub.pki.serving.certificate.clone());
        async move { get(&url, &authority, identity.as_ref(), "/apis/hub.hanse.dev/v1alpha1/clusters").await }
    };
    for nobody in [None, Some(agent.clone())] {
        let status = rest(nobody).await;
        assert!(status == 401 || status == 403, "{status}");
    }

    let person =
        target.hub.pki.sign_person("ann", &["system:masters"], Duration::from_secs(600), now()).expect("a person");
    let admin = person_identity(&person, &agent);
    assert_eq!(rest(Some(admin.clone())).await, 200, "the person is one");
    let status = Wire::open(&target, Some(&admin)).await.err().expect("a refusal");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("person"), "{status}");
}

/// A person's certificate in the shape that the agent's dialler takes.
fn person_identity(person: &hanse::hub::pki::PersonCertificate, like: &Identity) -> Identity {
    use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_slice(person.certificate_pem.as_bytes()).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from_pem_slice(person.key_pem.as_bytes()).expect("a key");
    with_certificate(like, &certificate, key.secret_pkcs8_der())
}

fn with_certificate(like: &Identity, certificate: &[u8], key: &[u8]) -> Identity {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let key: Key = serde_json::from_value(json!(BASE64_STANDARD.encode(key))).expect("a key");
    let certificate = serde_json::from_value(json!(BASE64_STANDARD.encode(certificate))).expect("a certificate");
    Identity { key, certificate, ..like.clone() }
}

/// The HTTP status of a GET.
async fn get(url: &str, authority: &[u8], identity: Option<&Identity>, path: &str) -> u16 {
    let trust = Trust::Authorities(vec![Bytes::copy_from_slice(authority)]);
    let mut channel = dial(url, &trust, identity).await.expect("a connection");
    let request = http::Request::get(path).body(tonic::body::Body::empty()).expect("a request");
    tower::ServiceExt::ready(&mut channel).await.expect("ready");
    tower::Service::call(&mut channel, request).await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_only_begins_like_another_is_nobody() {
    let target = Target::start().await;
    let (eu, _) = target.join("eu").await;
    let key = Key::generate().expect("a key");
    for uid in [Uid(format!("{}1", eu.cluster)), Uid(eu.cluster.0[..20].to_owned()), Uid("eu".into())] {
        let signed = target
            .hub
            .pki
            .sign_agent(&key.request().expect("csr"), &target.hub.uid, &uid, SOON, now())
            .expect("signed");
        let forged = with_certificate(&eu, &signed.der, key.pkcs8());
        let wire = Wire::open(&target, Some(&forged)).await.expect("a stream");
        wire.greet("eu", "one", 1).await;
        assert_eq!(wire.refused().await, "Revoked");
        let renewed = renew(&target, &forged, &Key::generate().expect("a key")).await;
        assert_eq!(renewed.expect_err("no renewal").code(), Code::PermissionDenied);
    }
    // The right uid with a key that the hub did not certify last.
    let signed = target
        .hub
        .pki
        .sign_agent(&key.request().expect("csr"), &target.hub.uid, &eu.cluster, SOON, now())
        .expect("signed");
    let forged = with_certificate(&eu, &signed.der, key.pkcs8());
    let wire = Wire::open(&target, Some(&forged)).await.expect("a stream");
    assert_eq!(wire.refused().await, "Revoked");
}

async fn renew(target: &Target, old: &Identity, next: &Key) -> Result<proto::RenewReply, Status> {
    replay(target, renewal(old, next)).await
}

fn renewal(old: &Identity, next: &Key) -> proto::RenewRequest {
    let csr = next.request().expect("csr");
    let signature = old.key.sign(&RenewCall::signed_bytes(&csr)).expect("a signature");
    proto::RenewRequest::from(&RenewCall { certificate: old.certificate.0.clone(), csr, signature, agent_time: now() })
}

async fn replay(target: &Target, request: proto::RenewRequest) -> Result<proto::RenewReply, Status> {
    JoiningClient::new(target.dial(None).await).renew(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_repeated_only_until_its_answer_is_used() {
    let target = Target::start().await;
    let (old, keep) = target.join("eu").await;
    let next = Key::generate().expect("a key");
    let request = renewal(&old, &next);
    let first = replay(&target, request.clone()).await.expect("renewed");
    let again = replay(&target, request.clone()).await.expect("the answer was lost");
    assert_eq!(first.identity.expect("identity").cluster, again.identity.clone().expect("identity").cluster);
    let new = Identity::new(next, again.identity.expect("identity").try_into().expect("valid"));
    let mut wire = Wire::open(&target, Some(&new)).await.expect("a stream");
    wire.welcome("eu").await;
    let status = replay(&target, request).await.expect_err("a replay");
    assert_eq!(status.code(), Code::PermissionDenied);
    let stale = Wire::open(&target, Some(&old)).await.expect("a stream");
    assert_eq!(stale.refused().await, "Revoked", "the old key is void");
    drop(keep);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_needs_the_old_key() {
    let target = Target::start().await;
    let (old, _) = target.join("eu").await;
    let thief = Key::generate().expect("a key");
    let csr = thief.request().expect("csr");
    let forged = RenewCall {
        certificate: old.certificate.0.clone(),
        signature: thief.sign(&RenewCall::signed_bytes(&csr)).expect("a signature"),
        csr,
        agent_time: now(),
    };
    let status = replay(&target, (&forged).into()).await.expect_err("a stolen certificate");
    assert_eq!(status.code(), Code::PermissionDenied);
    let other = Target::start().await;
    let status = renew(&other, &old, &Key::generate().expect("a key")).await.expect_err("another hub's certificate");
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_does_nothing_but_renew() {
    let target = Target::with_certificates_of(Duration::from_secs(1)).await;
    let (old, keep) = target.join("eu").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let status = Wire::open(&target, Some(&old)).await.err().expect("a refusal");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("ended at"), "{status}");
    let renewed = join::renew(&target.hub.url, &keep).await.expect("renewed");
    assert_eq!(renewed.cluster, old.cluster);
    assert!(Wire::open(&target, Some(&renewed)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_cuts_the_stream_and_the_way_back() {
    let target = Target::start().await;
    let (eu, keep) = target.join("eu").await;
    let mut wire = Wire::open(&target, Some(&eu)).await.expect("a stream");
    wire.welcome("eu").await;
    target.change_cluster("eu", |cluster| cluster["spec"]["accepted"] = json!(false)).await;
    assert_eq!(wire.refused().await, "NotAccepted");
    let again = Wire::open(&target, Some(&eu)).await.expect("a stream");
    assert_eq!(again.refused().await, "NotAccepted");
    assert!(refusal(join::renew(&target.hub.url, &keep).await.expect_err("no renewal")).contains("does not accept"));

    target.change_cluster("eu", |cluster| cluster["spec"]["accepted"] = json!(true)).await;
    let mut wire = Wire::open(&target, Some(&eu)).await.expect("a stream");
    wire.welcome("eu").await;
    let key = StoreKey::object("hub.hanse.dev", "clusters", "", "eu");
    let delete = Transaction { compares: vec![], operations: vec![Operation::Delete(key)] };
    target.hub.store.commit(delete).await.expect("deleted");
    assert_eq!(wire.refused().await, "Revoked");
    assert!(refusal(join::renew(&target.hub.url, &keep).await.expect_err("no renewal")).contains("deleted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_identity_is_frozen_until_a_person_decides() {
    let target = Target::start().await;
    let (eu, _) = target.join("eu").await;
    let mut first = Wire::open(&target, Some(&eu)).await.expect("a stream");
    first.welcome("eu").await;
    let clone = Wire::open(&target, Some(&eu)).await.expect("a stream");
    clone.greet("eu", "two", 1).await;
    let beating = first.outbox.clone();
    tokio::spawn(async move {
        // Alive beyond any doubt.
        while beating.send(proto::ToHub::from(&ToHub::Beat)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let (one, two) = tokio::join!(first.refused(), clone.refused());
    assert_eq!((one.as_str(), two.as_str()), ("IdentityFrozen", "IdentityFrozen"));
    let third = Wire::open(&target, Some(&eu)).await.expect("a stream");
    assert_eq!(third.refused().await, "IdentityFrozen", "nobody gets in");
    let frozen = |cluster: &Value| cluster["metadata"]["annotations"]["hanse.dev/identity-frozen"].is_string();
    assert!(frozen(&target.cluster("eu").await.expect("the cluster")), "and nothing was deleted");

    target.change_cluster("eu", |cluster| cluster["metadata"]["annotations"] = json!({})).await;
    let mut wire = Wire::open(&target, Some(&eu)).await.expect("a stream");
    wire.welcome("eu").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_stream_and_nothing_else() {
    let target = Target::start().await;
    let (eu, _) = target.join("eu").await;
    let (us, _) = target.join("us").await;
    let mut bystander = Wire::open(&target, Some(&us)).await.expect("a stream");
    bystander.welcome("us").await;

    let empty = Wire::open(&target, Some(&eu)).await.expect("a stream");
    empty.say_raw(proto::ToHub { message: None }).await;
    assert_eq!(empty.refused().await, "Invalid");

    let mut unknown = Wire::open(&target, Some(&eu)).await.expect("a stream");
    unknown.welcome("eu").await;
    let digests = vec![Bytes::from_static(&[0; 32]); limits::FETCH_MAX + 1];
    unknown
        .say_raw(proto::ToHub { message: Some(proto::to_hub::Message::FetchBlobs(proto::FetchBlobs { digests })) })
        .await;
    assert_eq!(unknown.refused().await, "Invalid");

    // Larger than a message may be.
    let mut large = Wire::open(&target, Some(&eu)).await.expect("a stream");
    large.welcome("eu").await;
    let facts = proto::Facts { region: "x".repeat(limits::MESSAGE_BYTES_MAX + 1), ..proto::Facts::default() };
    large.say_raw(proto::ToHub { message: Some(proto::to_hub::Message::Facts(facts)) }).await;
    let ended = large.end(|_| {}).await;
    assert!(ended.refuse.is_none(), "it is cut off: {ended:?}");

    for seed in 0..32u8 {
        let status = raw(&target, Some(&eu), "/hanse.v1.Agents/Session", garbage(seed)).await;
        assert!(status == 200 || status >= 400, "{status}");
        let status = raw(&target, None, "/hanse.v1.Joining/Join", garbage(seed)).await;
        assert!(status == 200 || status >= 400, "{status}");
        raw(&target, Some(&eu), "/hanse.v1.Agents/NoSuchCall", garbage(seed)).await;
    }
    bystander.say(ToHub::Beat).await;
    while !matches!(bystander.next().await.expect("an answer"), proto::to_agent::Message::BeatAck(_)) {}
    target.assert_well().await;
}

/// Bytes that are a frame, half a frame, a frame that lies about its length, or nothing of the kind.
fn garbage(seed: u8) -> Bytes {
    let noise: Vec<u8> = (0..200u16).map(|at| (at as u8).wrapping_mul(seed | 1).wrapping_add(seed)).collect();
    let frame = |length: u32| [&[0][..], &length.to_be_bytes(), &noise].concat();
    match seed % 4 {
        0 => frame(200).into(),
        1 => frame(u32::MAX).into(),
        2 => frame(3).into(),
        _ => noise.into(),
    }
}

/// The HTTP status of a gRPC call with these bytes for a body.
async fn raw(target: &Target, identity: Option<&Identity>, path: &str, body: Bytes) -> u16 {
    let mut channel = target.dial(identity).await;
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(http_body_util::Full::new(body)))
        .expect("a request");
    tower::ServiceExt::ready(&mut channel).await.expect("ready");
    let answer = tokio::time::timeout(SOON, tower::Service::call(&mut channel, request)).await.expect("in time");
    answer.map_or(500, |answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_of_itself_becomes_no_label() {
    let target = Target::start().await;
    let (eu, _) = target.join("eu").await;
    let mut wire = Wire::open(&target, Some(&eu)).await.expect("a stream");
    wire.welcome("eu").await;
    let facts = Facts { region: "attractive".into(), system_uid: "system-eu".into(), ..Facts::default() };
    wire.say(ToHub::Facts(facts)).await;
    wire.say(ToHub::Beat).await;
    while !matches!(wire.next().await.expect("an answer"), proto::to_agent::Message::BeatAck(_)) {}
    tokio::time::sleep(Duration::from_millis(500)).await;
    let cluster = target.cluster("eu").await.expect("the cluster");
    assert_eq!(cluster["metadata"]["labels"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_a_day_off_is_said_on_both_sides() {
    let target = Target::start().await;
    let token = target.token("eu", json!({})).await;
    let call = hanse::wire::JoinCall {
        token: token.name.clone(),
        secret: Bytes::from_static(b"secret"),
        csr: Key::generate().expect("a key").request().expect("csr"),
        cluster: String::new(),
        system_uid: "system-eu".into(),
        agent_version: String::new(),
        agent_time: now().plus_seconds(86_400 + 60),
    };
    let mut client = JoiningClient::new(target.dial(None).await);
    let status = client.join(proto::JoinRequest::from(&call)).await.expect_err("a day off");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("24 hours ahead of the hub's"), "{status}");
    let audit = std::fs::read_to_string(target.hub.kubeconfig.with_file_name("audit.log")).expect("the audit log");
    assert!(audit.lines().any(|line| line.contains("24 hours ahead of the hub's")), "{audit}");
    assert!(target.cluster("eu").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_cluster_has_a_new_uid_and_its_old_identity_is_worth_nothing() {
    let target = Target::start().await;
    let (old, keep) = target.join("eu").await;
    let mut wire = Wire::open(&target, Some(&old)).await.expect("a stream");
    wire.welcome("eu").await;
    let token = target.token("eu", json!({"replace": true})).await;
    let new = target.join_with(token.clone(), &Memory::default(), "system-rebuilt").await.expect("joined again");
    assert_ne!(new.cluster, old.cluster);
    assert_eq!(wire.refused().await, "Revoked");
    assert!(refusal(join::renew(&target.hub.url, &keep).await.expect_err("no renewal")).contains("replaced"));
    let again = target.join_with(token, &Memory::default(), "system-thief").await.expect_err("a spent token");
    assert!(refusal(again).contains("was used"));
    let mut wire = Wire::open(&target, Some(&new)).await.expect("a stream");
    wire.greet("rebuilt", "one", 1).await;
    assert!(matches!(wire.next().await, Some(proto::to_agent::Message::Welcome(_))));
}

/// The whole of a real work: what one cluster is sent, the other cannot fetch.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_one_clusters_works_never_reach_another() {
    let target = Target::start().await;
    let (eu, _) = target.join("eu").await;
    let (us, _) = target.join("us").await;
    let mut victim = Wire::open(&target, Some(&us)).await.expect("a stream");
    victim.welcome("us").await;
    let mut thief = Wire::open(&target, Some(&eu)).await.expect("a stream");
    thief.welcome("eu").await;
    let application = json!({
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": {"name": "secret", "namespace": "default", "uid": uuid::Uuid::new_v4(), "generation": 1},
        "spec": {
            "components": [{"name": "config", "type": "k8s-objects", "properties": {"objects": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "secret"}, "data": {"of": "us"}},
            ]}}],
            "policies": [{"name": "there", "type": "topology", "properties": {"clusters": ["us"]}}],
        },
    });
    let key = StoreKey::object("core.oam.dev", "applications", "default", "secret");
    target.hub.store.commit(Transaction::put(key, object::encode(&application))).await.expect("a stored application");
    let work = loop {
        match victim.next().await.expect("a work") {
            proto::to_agent::Message::Work(work) => break work,
            _ => continue,
        }
    };
    let digests: Vec<Bytes> =
        work.manifests.iter().map(|manifest| manifest.blob.clone()).chain([work.application_blob.clone()]).collect();
    let fetch = proto::ToHub { message: Some(proto::to_hub::Message::FetchBlobs(proto::FetchBlobs { digests })) };
    victim.say_raw(fetch.clone()).await;
    while !matches!(victim.next().await.expect("its own blob"), proto::to_agent::Message::Blob(_)) {}
    for _ in 0..20 {
        thief.say_raw(fetch.clone()).await;
    }
    let nothing = |message: &proto::to_agent::Message| {
        let leaks = matches!(message, proto::to_agent::Message::Blob(_) | proto::to_agent::Message::Work(_));
        assert!(!leaks, "{message:?}");
    };
    assert_eq!(thief.end(nothing).await.refuse.expect("a reason").reason, "PermissionDenied");
}
