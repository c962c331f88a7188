//! Real Kubernetes clusters on this machine: API server, controller manager, scheduler, and nodes and
//! pods played by kwok. RBAC is on.
//!
//! There are two ways to get one. [`fleet`] hands out members that all tests of the binary share; they
//! cannot be stopped, and namespaces keep the tests apart. [`Member::create`] makes one for a single
//! test, which may do to it what it likes.
//!
//! All members keep their state in one etcd, each under a prefix of its own, except a member in a
//! network namespace, which brings its own etcd.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::keys::Keys;
use crate::kubectl::Kubectl;
use crate::network::{Namespace, free_port};
use crate::process::Process;
use crate::{assets, run, wait};

/// How long anything may take to come up, on a machine that is busy with something else.
const START_MAX: Duration = Duration::from_secs(120);

/// How many members [`fleet`] can hand out.
pub const FLEET_MAX: usize = 8;

/// Nodes of a shared member: enough for small workloads of many tests at once.
const FLEET_NODES: u32 = 3;

const SERVICE_ADDRESSES: &str = "10.0.0.0/24";
const SERVICE_ADDRESS_FIRST: &str = "10.0.0.1";

/// Left out above all is node-lifecycle: it would evict from nodes whose kubelet, which there is none of,
/// is silent.
const CONTROLLERS: [&str; 17] = [
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
];

/// The first `count` of the members that all tests share, started as needed. Each has three nodes of
/// 8 CPU, 32Gi and 110 pods; a test that counts capacity takes a member of its own.
#[track_caller]
pub fn fleet(count: usize) -> Vec<&'static Member> {
    static FLEET: [OnceLock<Member>; FLEET_MAX] = [const { OnceLock::new() }; FLEET_MAX];
    assert!(count <= FLEET_MAX, "{count} shared members wanted; raise FLEET_MAX");
    let start = |index| {
        let member = Member::create(&format!("shared-{index}"));
        member.add_nodes(FLEET_NODES, "8", "32Gi", &[]);
        member
    };
    FLEET.iter().take(count).enumerate().map(|(index, member)| member.get_or_init(|| start(index))).collect()
}

/// The etcd that members share, for whatever else wants one and keeps to a prefix.
pub fn shared_etcd() -> &'static Etcd {
    static ETCD: OnceLock<Etcd> = OnceLock::new();
    ETCD.get_or_init(|| Etcd::create(None))
}

pub struct Etcd {
    /// Of its clients, plain HTTP.
    pub url: String,
    _process: Process,
}

impl Etcd {
    /// Starts an empty one, inside `namespace` if there is one.
    #[track_caller]
    pub fn create(namespace: Option<&Namespace>) -> Etcd {
        let directory = run::current().new_directory("etcd");
        let url = format!("http://127.0.0.1:{}", free_port());
        let peer_url = format!("http://127.0.0.1:{}", free_port());
        let mut command = command(namespace, &assets::path("etcd"));
        command
            .arg("--data-dir")
            .arg(directory.join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            // The data ends with the run, so no power loss can harm it.
            .arg("--unsafe-no-fsync")
            .args(["--quota-backend-bytes", "2147483648", "--auto-compaction-retention", "1"]);
        let mut process = Process::spawn(command, &directory.join("etcd.log"));
        wait::until("etcd to be healthy", START_MAX, || {
            assert!(process.ended().is_none(), "etcd ended; {}", process.log_tail());
            let mut health = self::command(namespace, &assets::path("etcdctl"));
            let output = health.args(["--endpoints", &url, "endpoint", "health"]).output().expect("run etcdctl");
            if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
        });
        Etcd { url, _process: process }
    }
}

/// The processes a member consists of, in the order they start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    ApiServer,
    ControllerManager,
    Scheduler,
    /// Plays the kubelets.
    Kwok,
}

impl Part {
    const ALL: [Part; 4] = [Part::ApiServer, Part::ControllerManager, Part::Scheduler, Part::Kwok];

    fn program(self) -> &'static str {
        match self {
            Part::ApiServer => "kube-apiserver",
            Part::ControllerManager => "kube-controller-manager",
            Part::Scheduler => "kube-scheduler",
            Part::Kwok => "kwok",
        }
    }
}

/// One cluster. Its processes end with the value.
pub struct Member {
    pub name: String,
    /// Of the admin: may do everything.
    pub kubeconfig: PathBuf,
    /// The API server's URL; for a member in a network namespace, one that is good inside only.
    pub server: String,
    /// Where its processes run, if not beside the tests.
    pub namespace: Option<Namespace>,
    directory: PathBuf,
    keys: Keys,
    port: u16,
    etcd_url: String,
    etcd_prefix: String,
    nodes: AtomicU32,
    // Dropped in this order: the API server goes before its etcd.
    parts: BTreeMap<Part, Process>,
    _own_etcd: Option<Etcd>,
}

impl Member {
    /// A new, running cluster without nodes. Names may repeat.
    #[track_caller]
    pub fn create(name: &str) -> Member {
        Member::new(name, None)
    }

    /// The same inside `namespace`, listening on nothing but its loopback: a cluster that can call
    /// out and cannot be called.
    #[track_caller]
    pub fn create_within(namespace: Namespace, name: &str) -> Member {
        Member::new(name, Some(namespace))
    }

    #[track_caller]
    fn new(name: &str, namespace: Option<Namespace>) -> Member {
        let directory = run::current().new_directory(name);
        let names = ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default.svc", SERVICE_ADDRESS_FIRST];
        let keys = Keys::create(&directory, &names);
        let port = free_port();
        let server = format!("https://127.0.0.1:{port}");
        let kubeconfig = write_kubeconfig(&directory, name, &server, &keys);
        let own_etcd = namespace.as_ref().map(|namespace| Etcd::create(Some(namespace)));
        let etcd_url = own_etcd.as_ref().map_or_else(|| shared_etcd().url.clone(), |etcd| etcd.url.clone());
        // The directory's name has a number in it, so it is good as a prefix of our own.
        let etcd_prefix = format!("/{}", directory.file_name().expect("a directory's name").to_string_lossy());
        let mut member = Member {
            name: name.to_owned(),
            kubeconfig,
            server,
            namespace,
            directory,
            keys,
            port,
            etcd_url,
            etcd_prefix,
            nodes: AtomicU32::new(0),
            parts: BTreeMap::new(),
            _own_etcd: own_etcd,
        };
        member.start();
        member
    }

    /// Starts what does not run, all of it or a part that was killed, and waits until the cluster works.
    #[track_caller]
    pub fn start(&mut self) {
        // Starting is bound by the CPU: two at a time take as long each as both in turn.
        static STARTING: Mutex<()> = Mutex::new(());
        let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        self.parts.retain(|_, process| process.ended().is_none());
        for part in Part::ALL {
            if self.parts.contains_key(&part) {
                continue;
            }
            let log = self.directory.join(part.program()).with_extension("log");
            self.parts.insert(part, Process::spawn(self.command_of(part), &log));
            if part == Part::ApiServer {
                // Includes the roles that RBAC starts with. The other parts give up without a server.
                self.wait_for(&["get", "--raw", "/readyz"]);
            }
        }
        // Made by the controller manager; without it no pod is admitted.
        self.wait_for(&["get", "serviceaccount", "default"]);
    }

    /// Stops all of it in good order. What it holds stays, and so does its address.
    #[track_caller]
    pub fn stop(&mut self) {
        while let Some((_, mut process)) = self.parts.pop_last() {
            process.stop();
        }
    }

    /// SIGKILL for one part; [`Member::start`] brings it back.
    #[track_caller]
    pub fn kill(&mut self, part: Part) {
        self.process(part).kill();
        self.parts.remove(&part);
    }

    /// SIGSTOP for one part: its connections stay open and nothing answers.
    #[track_caller]
    pub fn pause(&mut self, part: Part) {
        self.process(part).pause();
    }

    #[track_caller]
    pub fn resume(&mut self, part: Part) {
        self.process(part).resume();
    }

    /// kubectl as this cluster's admin.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::through(self.command(Path::new("timeout")), &self.kubeconfig)
    }

    /// A command that runs where this cluster runs, such as its agent.
    pub fn command(&self, program: &Path) -> Command {
        command(self.namespace.as_ref(), program)
    }

    /// Adds `count` nodes with so much to allocate each and room for 110 pods, and waits until they are
    /// ready. Returns their names.
    #[track_caller]
    pub fn add_nodes(&self, count: u32, cpu: &str, memory: &str, labels: &[(&str, &str)]) -> Vec<String> {
        let first = self.nodes.fetch_add(count, Ordering::Relaxed);
        let names: Vec<String> = (first..first + count).map(|number| format!("node-{number}")).collect();
        let nodes: Vec<_> = names.iter().map(|name| node(name, cpu, memory, labels)).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": nodes });
        self.kubectl().args(["create", "-f", "-"]).stdin(list).ok();
        let wait = ["wait", "--for=condition=Ready", "--timeout=60s", "node"];
        self.kubectl().args(wait).args(&names).ok();
        names
    }

    #[track_caller]
    fn process(&mut self, part: Part) -> &mut Process {
        let name = &self.name;
        self.parts.get_mut(&part).unwrap_or_else(|| panic!("{part:?} of {name} does not run"))
    }

    #[track_caller]
    fn wait_for(&mut self, arguments: &[&str]) {
        let what = format!("{} to answer kubectl {}", self.name, arguments.join(" "));
        wait::until(&what, START_MAX, || {
            for process in self.parts.values_mut() {
                assert!(process.ended().is_none(), "a part of {} ended; {}", self.name, process.log_tail());
            }
            // Without --request-timeout a server that hangs would use up the deadline in one call.
            let call = Kubectl::through(command(self.namespace.as_ref(), Path::new("timeout")), &self.kubeconfig)
                .args(arguments)
                .args(["--request-timeout=5s"])
                .call();
            if call.status.success() { Ok(()) } else { Err(call) }
        });
    }

    fn command_of(&self, part: Part) -> Command {
        let mut command = self.command(&assets::path(part.program()));
        command.args(match part {
            Part::ApiServer => self.api_server_flags(),
            Part::ControllerManager => self.controller_manager_flags(),
            Part::Scheduler => vec![self.kubeconfig_flag(), flag("leader-elect", false), flag("secure-port", 0)],
            Part::Kwok => self.kwok_flags(),
        });
        // kwok reads a configuration from home when there is one.
        command.env("HOME", &self.directory);
        command
    }

    fn kubeconfig_flag(&self) -> String {
        flag("kubeconfig", self.kubeconfig.display())
    }

    fn api_server_flags(&self) -> Vec<String> {
        vec![
            flag("etcd-servers", &self.etcd_url),
            flag("etcd-prefix", &self.etcd_prefix),
            flag("bind-address", "127.0.0.1"),
            flag("secure-port", self.port),
            // Else it looks up the default route, and a network namespace has none.
            flag("advertise-address", "127.0.0.1"),
            flag("endpoint-reconciler-type", "none"),
            flag("tls-cert-file", self.keys.server_certificate.display()),
            flag("tls-private-key-file", self.keys.server_key.display()),
            flag("client-ca-file", self.keys.authority.display()),
            flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            flag("service-account-key-file", self.keys.account_public_key.display()),
            flag("service-account-signing-key-file", self.keys.account_key.display()),
            flag("service-cluster-ip-range", SERVICE_ADDRESSES),
            flag("authorization-mode", "RBAC"),
            flag("allow-privileged", true),
            // Without the node-lifecycle controller nobody would take the not-ready taint off again.
            flag("disable-admission-plugins", "TaintNodesByCondition"),
            // The tests are the only clients, and none is to wait for another.
            flag("enable-priority-and-fairness", false),
            flag("max-requests-inflight", 0),
            flag("max-mutating-requests-inflight", 0),
            flag("profiling", false),
        ]
    }

    fn controller_manager_flags(&self) -> Vec<String> {
        vec![
            self.kubeconfig_flag(),
            flag("leader-elect", false),
            flag("secure-port", 0),
            flag("root-ca-file", self.keys.authority.display()),
            flag("service-account-private-key-file", self.keys.account_key.display()),
            flag("use-service-account-credentials", false),
            flag("kube-api-qps", 500),
            flag("kube-api-burst", 1000),
            flag("controllers", CONTROLLERS.join(",")),
            flag("horizontal-pod-autoscaler-sync-period", "1s"),
        ]
    }

    fn kwok_flags(&self) -> Vec<String> {
        vec![
            self.kubeconfig_flag(),
            flag("manage-all-nodes", true),
            flag("config", assets::path("kwok-stages.yaml").display()),
            flag("node-ip", "127.0.0.1"),
            // Nobody looks at node leases here.
            flag("node-lease-duration-seconds", 0),
        ]
    }
}

fn flag(name: &str, value: impl Display) -> String {
    format!("--{name}={value}")
}

fn command(namespace: Option<&Namespace>, program: &Path) -> Command {
    namespace.map_or_else(|| Command::new(program), |namespace| namespace.command(program))
}

fn write_kubeconfig(directory: &Path, name: &str, server: &str, keys: &Keys) -> PathBuf {
    let cluster = json!({ "server": server, "certificate-authority": keys.authority });
    let user = json!({ "client-certificate": keys.admin_certificate, "client-key": keys.admin_key });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": cluster }],
        "users": [{ "name": "admin", "user": user }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": "admin" } }],
        "current-context": name,
    });
    let path = directory.join("kubeconfig");
    fs::write(&path, config.to_string()).expect("write a kubeconfig");
    path
}

fn node(name: &str, cpu: &str, memory: &str, labels: &[(&str, &str)]) -> serde_json::Value {
    let mut all_labels = BTreeMap::from([("kubernetes.io/hostname", name), ("kubernetes.io/os", "linux")]);
    all_labels.extend(labels.iter().copied());
    let capacity = json!({ "cpu": cpu, "memory": memory, "pods": "110" });
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": all_labels },
        "status": { "capacity": capacity, "allocatable": capacity },
    })
}
