//! Replicas that reach each other over real sockets and real TLS, with a store that only takes notes.

use std::{net::SocketAddr, time::Duration};

use parking_lot::Mutex;
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{
    dial::dial,
    joining::{Addresses, Invitation},
    members::{Belonging, Member},
    proto::peers_client::PeersClient,
    *,
};
use crate::{
    hub::pki::{self, Pki, REPLICA_LIFETIME},
    model::{Timestamp, Uid},
    store::{
        self, Error, Transaction,
        command::Command,
        mvcc::StateHash,
        raft::{Body, MemberStatus, Role},
    },
};

const HUB: &str = "hub-1";

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now())
}

struct Notes {
    id: ReplicaId,
    received: mpsc::UnboundedSender<Message>,
    lost: Mutex<Vec<ReplicaId>>,
    store: Arc<dyn Store>,
    leads: bool,
    /// Commands are taken and never answered.
    hangs: bool,
    taken: AtomicU64,
    changes: Mutex<Vec<Change>>,
    leadership: watch::Sender<Leadership>,
}

#[async_trait]
impl Local for Notes {
    fn receive(&self, message: Message) {
        let _ = self.received.send(message);
    }

    fn unreachable(&self, id: ReplicaId) {
        self.lost.lock().push(id);
    }

    async fn status(&self) -> Result<Status, Error> {
        Ok(Status {
            id: self.id,
            role: Role::Follower,
            leadership: *self.leadership.borrow(),
            committed: 5,
            applied: 4,
            revision: 3,
            hash: (2, StateHash(1)),
            checkpoint: 1,
            members: [(self.id, MemberStatus::default())].into(),
            stopped: None,
        })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    async fn commit_here(&self, command: Bytes) -> Result<Outcome, Refusal> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        match Command::decode(&command) {
            _ if !self.leads => Err(Refusal::NotLeader(self.id)),
            Ok(Command::Commit(transaction)) => Ok(self.store.commit(transaction).await?),
            Ok(Command::Compact(_)) => panic!("nobody compacts here"),
            Err(invalid) => Err(Error::Malformed(invalid.to_string()).into()),
        }
    }

    fn chunk(&self, snapshot: &SnapshotId, after: Option<&Key>) -> Result<Chunk, Refusal> {
        match snapshot.index {
            1 => Ok(Chunk { rows: vec![7; 3 << 20].into(), next: after.cloned() }),
            _ => Err(Refusal::SnapshotGone),
        }
    }

    async fn change(&self, change: Change) -> Result<(), Refusal> {
        self.changes.lock().push(change);
        Ok(())
    }

    async fn hand_over(&self) -> bool {
        false
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }
}

/// The keys of one hub.
struct Keys {
    pki: Arc<Pki>,
    _directory: tempfile::TempDir,
}

fn keys() -> Keys {
    let directory = tempfile::tempdir().expect("a directory");
    let pki = Pki::open(directory.path(), now()).expect("authorities");
    Keys { pki: Arc::new(pki), _directory: directory }
}

struct Replica {
    network: Arc<Network>,
    local: Arc<Notes>,
    received: mpsc::UnboundedReceiver<Message>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Replica {
    async fn start(pki: &Arc<Pki>, id: ReplicaId) -> Self {
        Self::with(Tls::new(pki.clone(), &HUB.into(), id, now()).expect("TLS"), "127.0.0.1:0", |_| ()).await
    }

    async fn with(tls: Tls, listen: &str, adjust: impl FnOnce(&mut Notes)) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let (id, stop) = (tls.replica(), CancellationToken::new());
        let mut notes = Notes {
            id,
            received: sender,
            lost: Mutex::default(),
            store: store::memory::open(),
            leads: true,
            hangs: false,
            taken: AtomicU64::new(0),
            changes: Mutex::default(),
            leadership: watch::channel(Leadership::default()).0,
        };
        adjust(&mut notes);
        let (network, local) = (Network::new(stop.clone()), Arc::new(notes));
        let tls = Arc::new(tls);
        let listener = TcpListener::bind(listen).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        network.identify(tls.clone(), &address.to_string());
        let weak: Weak<Notes> = Arc::downgrade(&local);
        network.attach(weak);
        tokio::spawn(service::serve(listener, network.clone(), tls, Default::default(), stop.clone()));
        Self { network, local, received, address, stop }
    }

    fn knows(&self, others: &[&Replica]) {
        let members = others.iter().map(|other| (other.local.id, other.address.to_string()));
        self.network.know(&members.collect());
    }

    /// Keeps sending until one arrives: what is sent before there is a connection may be lost.
    async fn reaches(&self, other: &mut Replica) -> Message {
        let message =
            || Message { from: self.local.id, to: other.local.id, body: Body::Hash { index: 1, hash: StateHash(2) } };
        loop {
            self.network.send(vec![message()]);
            if let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(50), other.received.recv()).await {
                return message;
            }
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn put(name: &str) -> Bytes {
    Command::Commit(Transaction::put(Key::new(name), Bytes::from_static(b"v"))).encode().into()
}

fn snapshot(index: u64) -> SnapshotId {
    SnapshotId { incarnation: "life".into(), index, term: 1, revision: 1, hash: StateHash(0) }
}

/// A connection that whoever holds this configuration gets, with bytes of its own choice on it.
async fn tls_stream(
    address: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("x").expect("a name");
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test]
async fn messages_and_calls_reach_another_replica() {
    let keys = keys();
    let (one, mut two) = (Replica::start(&keys.pki, 1).await, Replica::start(&keys.pki, 2).await);
    one.knows(&[&one, &two]);
    let message = one.reaches(&mut two).await;
    assert_eq!((message.from, message.to), (1, 2));

    assert_eq!(one.network.commit(2, put("a")).await, Ok(Outcome::Committed(1)));
    let (entry, revision) = one.network.read(2, &Key::new("a")).await.expect("read");
    assert_eq!((entry.expect("an entry").modified, revision), (1, 1));
    assert_eq!(one.network.read(2, &Key::new("")).await.map_err(drop), Err(()));
    let (entry, revision) = one.network.read(2, &Key::new("b")).await.expect("read");
    assert_eq!((entry, revision), (None, 1));

    let chunk = one.network.fetch(2, &snapshot(1), Some(&Key::new("k"))).await.expect("a chunk");
    assert_eq!((chunk.rows.len(), chunk.next), (3 << 20, Some(Key::new("k"))));
    assert_eq!(one.network.fetch(2, &snapshot(2), None).await, Err(Refusal::SnapshotGone));
    let report = one.network.ask(2).await.expect("a report");
    assert_eq!(Ok(report.status), two.local.status().await);
}

#[tokio::test]
async fn a_replica_that_does_not_lead_says_so_and_odd_commands_go_no_further() {
    let keys = keys();
    let one = Replica::start(&keys.pki, 1).await;
    let tls = Tls::new(keys.pki.clone(), &HUB.into(), 2, now()).expect("TLS");
    let two = Replica::with(tls, "127.0.0.1:0", |notes| notes.leads = false).await;
    one.knows(&[&two]);
    assert_eq!(one.network.commit(2, put("a")).await, Err(Refusal::NotLeader(2)));
    let three = Replica::start(&keys.pki, 3).await;
    one.knows(&[&two, &three]);
    let odd = one.network.commit(3, Bytes::from_static(b"garbage")).await;
    assert!(matches!(odd, Err(Refusal::Store(Error::Malformed(_)))), "{odd:?}");
    // Too large to be looked at: there is no answer of the store, so nothing is said of it.
    let large = vec![0; limits::COMMAND_BYTES_MAX + 1].into();
    assert_eq!(one.network.commit(3, large).await, Ok(Outcome::Unknown));
    assert_eq!(one.network.commit(2, put("a")).await, Err(Refusal::NotLeader(2)), "the connection goes on");
}

#[tokio::test]
async fn a_command_is_undone_only_where_nothing_of_it_left() {
    let keys = keys();
    let one = Replica::start(&keys.pki, 1).await;
    let unreachable = |answer: Result<Outcome, Refusal>| match answer {
        Err(Refusal::Unreachable { to, .. }) => to,
        other => panic!("{other:?}"),
    };
    assert_eq!(unreachable(one.network.commit(2, put("a")).await), 2, "nobody knows where it is");
    one.network.know(&[(2, "127.0.0.1:1".to_owned())].into());
    assert_eq!(unreachable(one.network.commit(2, put("a")).await), 2, "nobody listens");

    let tls = Tls::new(keys.pki.clone(), &HUB.into(), 2, now()).expect("TLS");
    let two = Replica::with(tls, "127.0.0.1:0", |notes| notes.hangs = true).await;
    let (between, cut) = proxy(two.address).await;
    one.network.know(&[(2, between.to_string())].into());
    let network = one.network.clone();
    let waiting = tokio::spawn(async move { network.commit(2, put("a")).await });
    while two.local.taken.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cut.cancel();
    assert_eq!(waiting.await.expect("no panic"), Ok(Outcome::Unknown), "it left, and its answer was lost");
    assert_eq!(unreachable(one.network.commit(2, put("a")).await), 2, "the connection is known to be gone");
}

#[tokio::test]
async fn nobody_waits_for_a_leader_that_is_none_any_more() {
    let keys = keys();
    let one = Replica::start(&keys.pki, 1).await;
    let tls = Tls::new(keys.pki.clone(), &HUB.into(), 2, now()).expect("TLS");
    let two = Replica::with(tls, "127.0.0.1:0", |notes| notes.hangs = true).await;
    one.knows(&[&two]);
    let network = one.network.clone();
    let waiting = tokio::spawn(async move { network.commit(2, put("a")).await });
    while two.local.taken.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let leads = |leader| Leadership { term: 2, leader, here: false };
    for same in [None, Some(2)] {
        one.local.leadership.send_replace(leads(same));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished(), "it may still answer");
    }
    one.local.leadership.send_replace(leads(Some(3)));
    // A call that is not answered at all ends by itself in the end: that is not what ends this one.
    let given_up = tokio::time::timeout(limits::PEER_CALL_TIMEOUT / 2, waiting).await.expect("it still waits");
    assert_eq!(given_up.expect("no panic"), Ok(Outcome::Unknown));
}

/// Passes bytes on until it is cut.
async fn proxy(to: SocketAddr) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, cut) = (listener.local_addr().expect("an address"), CancellationToken::new());
    let stop = cut.clone();
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            let (mut near, _) = listener.accept().await.expect("a connection");
            let mut far = TcpStream::connect(to).await.expect("a connection");
            let passing = async move { tokio::io::copy_bidirectional(&mut near, &mut far).await };
            tokio::spawn(stop.clone().run_until_cancelled_owned(passing));
        }
    }));
    (address, cut)
}

#[tokio::test]
async fn a_connection_is_made_again_and_its_loss_is_told() {
    let keys = keys();
    let one = Replica::start(&keys.pki, 1).await;
    let mut two = Replica::start(&keys.pki, 2).await;
    one.knows(&[&two]);
    one.reaches(&mut two).await;
    assert_eq!(one.network.commit(2, put("a")).await, Ok(Outcome::Committed(1)));
    let address = two.address.to_string();
    two.stop.cancel();
    drop(two);
    while one.local.lost.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = loop {
        let tls = Tls::new(keys.pki.clone(), &HUB.into(), 2, now()).expect("TLS");
        // Its port may take a moment to be free.
        if let Ok(listener) = TcpListener::bind(&address).await {
            drop(listener);
            break Replica::with(tls, &address, |_| ()).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let mut again = again;
    one.reaches(&mut again).await;
    // The calls' connection was lost as well: nothing is sent on it, so nothing is unknown.
    let answer = loop {
        match one.network.commit(2, put("a")).await {
            Err(Refusal::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            answer => break answer,
        }
    };
    assert_eq!(answer, Ok(Outcome::Committed(1)));
}

#[tokio::test]
async fn reproduce_a_replica_that_moved_is_never_found_again() {
    let keys = keys();
    let (mut one, mut two) = (Replica::start(&keys.pki, 1).await, Replica::start(&keys.pki, 2).await);
    let before: BTreeMap<_, _> = [(1, one.address.to_string()), (2, "127.0.0.1:1".to_owned())].into();
    one.network.know(&before);
    two.knows(&[&one]);
    two.reaches(&mut one).await;
    one.reaches(&mut two).await;
    one.network.know(&before);
    assert_eq!(one.network.address(2), Some(two.address.to_string()), "what is stored is still the old one");
    one.network.know(&[(2, "127.0.0.1:2".to_owned())].into());
    assert_eq!(one.network.address(2).as_deref(), Some("127.0.0.1:2"), "it has moved once more");
}

#[tokio::test]
async fn replicas_of_another_hub_expired_ones_and_impostors_are_kept_out() {
    let (here, elsewhere) = (keys(), keys());
    let mut two = Replica::start(&here.pki, 2).await;
    let long_ago = now().plus_seconds(-2 * REPLICA_LIFETIME.as_secs() as i64);
    let expired = |id| here.pki.replica_certificate(&HUB.into(), id, REPLICA_LIFETIME, long_ago).expect("signed");
    let strangers = [
        ("another hub's authority", Tls::new(elsewhere.pki.clone(), &HUB.into(), 1, now()).expect("TLS")),
        ("another hub's uid", Tls::new(here.pki.clone(), &"hub-2".into(), 1, now()).expect("TLS")),
        ("expired", Tls::with_certificate(here.pki.clone(), &HUB.into(), 1, expired(1)).expect("TLS")),
        ("one of ours", Tls::new(here.pki.clone(), &HUB.into(), 1, now()).expect("TLS")),
        ("the id of the one it talks to", Tls::new(here.pki.clone(), &HUB.into(), 2, now()).expect("TLS")),
    ];
    for (what, tls) in strangers {
        // Whatever it thinks of the other one's certificate, it goes on.
        let mut config = pinned_to(&here.pki);
        config.client_auth_cert_resolver = tls.shown();
        let answer = match dial(&two.address.to_string(), config).await {
            Ok(channel) => PeersClient::new(channel).status(proto::StatusRequest {}).await.map(drop).map_err(|_| ()),
            Err(_) => Err(()),
        };
        assert_eq!(answer, if what == "one of ours" { Ok(()) } else { Err(()) }, "{what}");
    }
    let good = Replica::start(&here.pki, 1).await;
    good.knows(&[&two]);
    good.reaches(&mut two).await;
}

fn pinned_to(pki: &Pki) -> ClientConfig {
    tls::pinned(pki.peers.pin()).expect("TLS")
}

#[tokio::test]
async fn nothing_is_sent_to_a_replica_that_is_not_the_one_meant() {
    let (here, elsewhere) = (keys(), keys());
    let one = Replica::start(&here.pki, 1).await;
    let long_ago = now().plus_seconds(-2 * REPLICA_LIFETIME.as_secs() as i64);
    let expired = here.pki.replica_certificate(&HUB.into(), 2, REPLICA_LIFETIME, long_ago).expect("signed");
    let others = [
        (Tls::new(elsewhere.pki.clone(), &HUB.into(), 2, now()).expect("TLS"), "authority"),
        (Tls::new(here.pki.clone(), &"hub-2".into(), 2, now()).expect("TLS"), "another hub"),
        (Tls::new(here.pki.clone(), &HUB.into(), 3, now()).expect("TLS"), "another replica"),
        (Tls::with_certificate(here.pki.clone(), &HUB.into(), 2, expired).expect("TLS"), "ended at"),
    ];
    for (tls, word) in others {
        let other = Replica::with(tls, "127.0.0.1:0", |_| ()).await;
        one.network.know(&[(2, other.address.to_string())].into());
        match one.network.commit(2, put("a")).await {
            Err(Refusal::Unreachable { why, .. }) => assert!(why.contains(word), "{why}"),
            other => panic!("{word}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stranger_may_ask_for_nothing_but_to_join() {
    let keys = keys();
    let two = Replica::start(&keys.pki, 2).await;
    let channel = dial(&two.address.to_string(), pinned_to(&keys.pki)).await.expect("a connection");
    let mut client = PeersClient::new(channel);
    let refused = |status: tonic::Status| assert_eq!(status.code(), tonic::Code::Unauthenticated, "{status}");
    refused(client.messages(futures::stream::empty()).await.expect_err("messages"));
    refused(client.commit(proto::CommitRequest { command: put("a") }).await.expect_err("commit"));
    refused(client.read(proto::ReadRequest { key: "a".into() }).await.expect_err("read"));
    refused(client.fetch(proto::FetchRequest::default()).await.expect_err("fetch"));
    refused(client.status(proto::StatusRequest {}).await.expect_err("status"));
    assert_eq!(two.local.store.revision().await, Ok(0));
}

#[tokio::test]
async fn certificates_of_people_and_agents_are_worth_nothing_here() {
    let keys = keys();
    let two = Replica::start(&keys.pki, 2).await;
    let person = keys.pki.sign_person("ann", &["hanse:admins"], Duration::from_secs(3600), now()).expect("signed");
    let person = (
        CertificateDer::from_pem_slice(person.certificate_pem.as_bytes()).expect("a certificate"),
        PrivateKeyDer::from_pem_slice(person.key_pem.as_bytes()).expect("a key"),
    );
    let key = KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default().serialize_request(&key).expect("a request");
    // A cluster whose uid makes its name look like a replica's.
    let agent = keys.pki.sign_agent(request.der(), &HUB.into(), &Uid::from("x"), Duration::from_secs(3600), now());
    let agent = (
        CertificateDer::from(agent.expect("signed").der),
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
    );
    for (certificate, key) in [person, agent] {
        let mut config = pinned_to(&keys.pki);
        let signing = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
        let certified = rustls::sign::CertifiedKey::new(vec![certificate], signing);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        let stranger = match dial(&two.address.to_string(), config).await {
            Ok(channel) => PeersClient::new(channel).status(proto::StatusRequest {}).await.is_err(),
            Err(_) => true,
        };
        assert!(stranger);
    }
}

#[tokio::test]
async fn garbage_cut_and_oversized_frames_harm_nobody_else() {
    let keys = keys();
    let (one, mut two) = (Replica::start(&keys.pki, 1).await, Replica::start(&keys.pki, 2).await);
    one.knows(&[&two]);
    one.reaches(&mut two).await;

    let mut noise = TcpStream::connect(two.address).await.expect("connected");
    noise.write_all(&[0xff; 4096]).await.expect("written");
    let third = || Tls::new(keys.pki.clone(), &HUB.into(), 3, now()).expect("TLS").client(2).expect("TLS");
    let mut noise = tls_stream(two.address, third()).await.expect("a connection");
    noise.write_all(&[0xff; 4096]).await.expect("written");
    let mut rest = Vec::new();
    let _ended_by_the_other_side = noise.read_to_end(&mut rest).await;

    let client = async || {
        let channel = dial(&two.address.to_string(), third()).await.expect("a connection");
        PeersClient::new(channel)
    };
    let one_of = |message| proto::Batch { messages: vec![message], ..proto::Batch::default() };
    let batch = |from, to| {
        let body = Some(proto::message::Body::SnapshotFailed(proto::SnapshotFailed {}));
        one_of(proto::Message { from, to, body })
    };
    let refusal = async |batch: proto::Batch| {
        let sent = futures::stream::iter([batch]);
        client().await.messages(sent).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(refusal(batch(3, 2)).await, Ok(()));
    assert_eq!(two.received.recv().await.map(|message| message.from), Some(3));
    assert_eq!(refusal(batch(1, 2)).await, Err(tonic::Code::InvalidArgument), "in another one's name");
    assert_eq!(refusal(batch(3, 1)).await, Err(tonic::Code::InvalidArgument), "for another one");
    let nothing = one_of(proto::Message { from: 3, to: 2, body: None });
    assert_eq!(refusal(nothing).await, Err(tonic::Code::InvalidArgument));
    let raft = proto::Raft { context: vec![0; limits::PEER_MESSAGE_BYTES_MAX].into(), ..Default::default() };
    let body = Some(proto::message::Body::Raft(raft));
    let oversized = one_of(proto::Message { from: 3, to: 2, body });
    assert_eq!(refusal(oversized).await, Err(tonic::Code::OutOfRange));
    for address in ["https://two:1", "two", &"two".repeat(1000)] {
        let lost = proto::Batch { address: address.into(), ..proto::Batch::default() };
        assert_eq!(refusal(lost).await, Err(tonic::Code::InvalidArgument));
    }

    // A stream that is cut in the middle of a message.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut cut = tls_stream(two.address, third()).await.expect("a connection");
    cut.write_all(preface).await.expect("written");
    cut.write_all(&[0, 0x40, 0, 0, 0, 0, 0, 0, 1, 0, 0]).await.expect("written");
    drop(cut);

    one.reaches(&mut two).await;
    assert!(one.local.lost.lock().is_empty(), "its connection was never lost");
}

/// A replica that others can join: it knows itself, and the tokens that are made in its store.
async fn open_to_joiners(keys: &Keys, dir: &std::path::Path) -> Replica {
    let one = Replica::start(&keys.pki, 1).await;
    let address = one.address.to_string();
    let here = Member { id: 1, peer_address: address, url: "https://a:1".into(), peer_authority: keys.pki.peers.pin() };
    members::announce(&*one.local.store, &here, now()).await.expect("announced");
    std::fs::write(dir.join(pki::RESUME_KEY), [7; 32]).expect("a key");
    let audit = Arc::new(|_: crate::hub::join::Called| ());
    one.network.admit(Joining::new(HUB.into(), dir, keys.pki.peers.pin(), audit));
    one
}

async fn invite(one: &Replica, keys: &Keys, name: &str, seconds: i64) -> Invitation {
    let invitation = Invitation::new(name, "secret", keys.pki.peers.pin(), vec![one.address.to_string()]);
    let token = serde_json::json!({
        "metadata": {"name": name, "uid": name},
        "spec": {"secretDigest": invitation.secret_digest(), "replica": true, "expiresAt": now().plus_seconds(seconds)},
    });
    let key = crate::hub::keys::key(&crate::kinds::JOIN_TOKEN, "", name);
    one.local.store.commit(Transaction::put(key, store::object::encode(&token))).await.expect("committed");
    invitation
}

fn addresses() -> Addresses {
    Addresses { peer: "127.0.0.1:9".into(), url: "https://127.0.0.1:10".into() }
}

#[tokio::test]
async fn a_replica_joins_with_a_token_and_gets_all_it_needs_once() {
    let keys = keys();
    let one = open_to_joiners(&keys, keys._directory.path()).await;
    let invitation = invite(&one, &keys, "t", 60).await;
    let (first, second) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let joined = joining::join(&invitation, first.path(), &addresses()).await.expect("joined");
    assert_eq!((joined.replica, &joined.hub, joined.opened), (2, &Uid::from(HUB), false));
    assert_eq!(joined.members, [(1, one.address.to_string()), (2, "127.0.0.1:9".to_owned())].into());
    assert_eq!(Belonging::read(first.path()).expect("read"), Some(joined));
    let copy = Pki::open(&first.path().join("pki"), now()).expect("authorities");
    assert_eq!((copy.pin(), copy.peers.pin()), (keys.pki.pin(), keys.pki.peers.pin()));

    let used = joining::join(&invitation, second.path(), &addresses()).await.expect_err("used");
    assert!(used.to_string().contains("was used, for replica 2"), "{used}");
    assert!(!second.path().join("pki").exists(), "nothing was given");
    let next = invite(&one, &keys, "t2", 60).await;
    let joined = joining::join(&next, second.path(), &addresses()).await.expect("joined");
    assert_eq!(joined.replica, 3, "each number is given once");
}

#[tokio::test]
async fn a_lost_answer_is_given_again_to_the_same_directory() {
    let keys = keys();
    let one = open_to_joiners(&keys, keys._directory.path()).await;
    let invitation = invite(&one, &keys, "t", 60).await;
    let dir = tempfile::tempdir().expect("a directory");
    let key = [9; 32];
    std::fs::write(dir.path().join("join.key"), key).expect("written");
    let channel = dial(&one.address.to_string(), pinned_to(&keys.pki)).await.expect("a connection");
    let request = proto::JoinRequest {
        token: "t".into(),
        secret: "secret".into(),
        peer_address: addresses().peer,
        url: addresses().url,
        key: Bytes::copy_from_slice(&key),
    };
    let lost = PeersClient::new(channel).join(request).await.expect("an answer").into_inner();
    let joined = joining::join(&invitation, dir.path(), &addresses()).await.expect("joined");
    assert_eq!(joined.replica, lost.replica);
}

#[tokio::test]
async fn tokens_that_are_wrong_late_or_for_clusters_open_nothing() {
    let keys = keys();
    let one = open_to_joiners(&keys, keys._directory.path()).await;
    let late = invite(&one, &keys, "late", -1).await;
    let good = invite(&one, &keys, "good", 60).await;
    let addresses_of_one = vec![one.address.to_string()];
    let wrong = Invitation::new("good", "guess", keys.pki.peers.pin(), addresses_of_one.clone());
    let unknown = Invitation::new("none", "secret", keys.pki.peers.pin(), addresses_of_one);
    let for_cluster = serde_json::json!({
        "metadata": {"name": "cluster", "uid": "c"},
        "spec": {"secretDigest": good.secret_digest(), "expiresAt": now().plus_seconds(60)},
    });
    let key = crate::hub::keys::key(&crate::kinds::JOIN_TOKEN, "", "cluster");
    one.local.store.commit(Transaction::put(key, store::object::encode(&for_cluster))).await.expect("committed");
    let cluster = Invitation::new("cluster", "secret", keys.pki.peers.pin(), good.addresses.clone());
    let before = one.local.store.revision().await;
    for (invitation, words) in
        [(late, "expired"), (wrong, "no such join token"), (unknown, "no such join token"), (cluster, "for a cluster")]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let refused = joining::join(&invitation, dir.path(), &addresses()).await.expect_err("refused").to_string();
        assert!(refused.contains(words), "{refused}");
        assert_eq!(Belonging::read(dir.path()).expect("read"), None);
        assert!(!dir.path().join("pki").exists());
    }
    let dir = tempfile::tempdir().expect("a directory");
    let nowhere = Addresses { peer: "nowhere".into(), ..addresses() };
    let refused = joining::join(&good, dir.path(), &nowhere).await.expect_err("refused").to_string();
    assert!(refused.contains("HOST:PORT"), "{refused}");
    assert_eq!(one.local.store.revision().await, before, "nothing was written");
}

#[tokio::test]
async fn what_is_left_of_an_earlier_life_is_no_order_to_add_anybody() {
    let keys = keys();
    let one = Replica::start(&keys.pki, 1).await;
    let store = &one.local.store;
    let member = |id| Member {
        id,
        peer_address: format!("127.0.0.1:{id}"),
        url: "https://a:1".into(),
        peer_authority: keys.pki.peers.pin(),
    };
    let old = members::Group { incarnation: "life-0".into(), next: 3 };
    for (key, value) in [
        (Key::new("/hanse/internal/replicas"), old.encode()),
        (
            crate::hub::keys::key(&crate::kinds::REPLICA, "", "2"),
            store::object::encode(&member(2).object("uid-2", now())),
        ),
    ] {
        store.commit(Transaction::put(key, value)).await.expect("committed");
    }
    let leading = Leadership { term: 1, leader: Some(1), here: true };
    one.local.leadership.send_replace(leading);
    tokio::spawn(members::lead(one.local.clone(), |_| (), one.stop.clone()));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(*one.local.changes.lock(), []);

    members::announce(&**store, &member(1), now()).await.expect("announced");
    let three = crate::hub::keys::key(&crate::kinds::REPLICA, "", "3");
    let object = store::object::encode(&member(3).object("uid-3", now()));
    store.commit(Transaction::put(three, object)).await.expect("committed");
    while one.local.changes.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(one.local.changes.lock()[0], Change::Add(3), "in this life it is");
}
