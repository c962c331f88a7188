//! A hub and the agents that joined it: processes of the real binary, used as a person would use them.
//!
//! Every scenario has a hub of its own, which costs little. Agents of many hubs may act in one shared member; then
//! namespaces keep them apart, as they keep tests apart.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::control_plane::Member;
use crate::kubectl::{Call, Kubectl, kubectl};
use crate::network::free_port;
use crate::process::Process;
use crate::{run, wait};

pub const HANSE: &str = env!("CARGO_BIN_EXE_hanse");

/// How long anything may take that is asked for, on a machine that is busy with something else.
pub const SOON: Duration = Duration::from_secs(120);

/// A call of the command line that hangs must not hang the suite.
const SECONDS_MAX: &str = "60";

pub struct Federation {
    /// What people and agents call the hub.
    pub url: String,
    /// Written by the hub at its first start.
    pub kubeconfig: PathBuf,
    directory: PathBuf,
    flags: Vec<String>,
    hub: Option<Process>,
}

/// An invitation as `hanse token create -o json` prints it.
#[derive(Clone)]
pub struct Invitation {
    pub hub: String,
    pub token: String,
}

/// An agent's process. It never outlives its value.
pub struct Agent {
    pub cluster: String,
    pub directory: PathBuf,
    invitation: Invitation,
    process: Option<Process>,
    log: PathBuf,
}

/// `hanse …`, as the admin of a kubeconfig where there is one.
pub fn hanse(arguments: &[&str], kubeconfig: Option<&Path>) -> Call {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", SECONDS_MAX, HANSE]).args(arguments);
    if let Some(kubeconfig) = kubeconfig {
        command.env("KUBECONFIG", kubeconfig);
    }
    let output = command.output().expect("run hanse");
    Call {
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        stdin: None,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Federation {
    /// A running hub on this machine's loopback, empty.
    #[track_caller]
    pub fn start() -> Federation {
        Federation::start_with(Ipv4Addr::LOCALHOST, &[])
    }

    /// A running hub that listens on `host`, with more flags.
    #[track_caller]
    pub fn start_with(host: Ipv4Addr, flags: &[&str]) -> Federation {
        let mut federation = Federation::prepare(host, flags);
        federation.start_hub();
        federation
    }

    /// One more replica of a hub, started on what `hanse hub invite` printed.
    #[track_caller]
    pub fn start_replica(invitation: &str) -> Federation {
        let mut federation = Federation::prepare(Ipv4Addr::LOCALHOST, &[]);
        federation.start_hub_once(&["--join", invitation]);
        federation
    }

    fn prepare(host: Ipv4Addr, flags: &[&str]) -> Federation {
        let directory = run::current().new_directory("hub");
        let address = format!("{host}:{}", free_port());
        let (url, peer) = (format!("https://{address}"), format!("127.0.0.1:{}", free_port()));
        let mut all = ["--listen", &address, "--advertise", &url, "--peer-listen", &peer].map(str::to_owned).to_vec();
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let kubeconfig = directory.join("data/admin.kubeconfig");
        Federation { url, kubeconfig, directory, flags: all, hub: None }
    }

    /// Starts the hub on what it has in its directory, and waits until it is ready.
    #[track_caller]
    pub fn start_hub(&mut self) {
        self.start_hub_once(&[]);
    }

    /// With flags that later starts go without.
    #[track_caller]
    fn start_hub_once(&mut self, flags: &[&str]) {
        let mut command = Command::new(HANSE);
        command.args(["hub", "--dir"]).arg(self.directory.join("data")).args(&self.flags).args(flags);
        let mut process = Process::spawn(command, &self.directory.join("hub.log"));
        wait::until("the hub to be ready", SOON, || {
            assert!(process.ended().is_none(), "the hub ended; {}", process.log_tail());
            if !self.kubeconfig.exists() {
                return Err("no admin.kubeconfig yet".to_owned());
            }
            let call = self.kubectl().args(["get", "--raw", "/readyz", "--request-timeout=5s"]).call();
            if call.status.success() { Ok(()) } else { Err(call.to_string()) }
        });
        self.hub = Some(process);
    }

    /// SIGKILL: as if its machine had lost power.
    #[track_caller]
    pub fn kill_hub(&mut self) {
        self.hub.take().expect("the hub runs").kill();
    }

    /// SIGTERM. Whether it ended well.
    #[track_caller]
    pub fn stop_hub(&mut self) -> bool {
        self.hub.take().expect("the hub runs").stop().success()
    }

    /// What the hub keeps.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// kubectl as the hub's admin.
    pub fn kubectl(&self) -> Kubectl {
        kubectl(&self.kubeconfig)
    }

    /// `hanse …` as the hub's admin.
    pub fn hanse(&self, arguments: &[&str]) -> Call {
        hanse(arguments, Some(&self.kubeconfig))
    }

    /// A token for `cluster`, with more flags.
    #[track_caller]
    pub fn invite(&self, cluster: &str, flags: &[&str]) -> Invitation {
        let call = self.hanse(&[&["token", "create", cluster, "-o", "json"], flags].concat());
        assert!(call.status.success(), "expected success of hanse, not {call}");
        let printed: Value = serde_json::from_str(&call.stdout).unwrap_or_else(|error| panic!("{error} in {call}"));
        let text = |name: &str| printed[name].as_str().unwrap_or_else(|| panic!("no {name} in {call}")).to_owned();
        Invitation { hub: text("hub"), token: text("token") }
    }

    /// Joins `member` as `cluster` and waits until the hub has heard all about it.
    #[track_caller]
    pub fn join(&self, member: &Member, cluster: &str) -> Agent {
        let agent = self.begin_to_join(member, cluster, self.invite(cluster, &["--auto-approve"]));
        self.wait_for_cluster(cluster, "Ready");
        agent
    }

    /// Starts an agent for `member` and does not wait for what becomes of it.
    #[track_caller]
    pub fn begin_to_join(&self, member: &Member, cluster: &str, invitation: Invitation) -> Agent {
        let directory = run::current().new_directory(&format!("agent-{cluster}"));
        let log = directory.join("agent.log");
        let mut agent = Agent { cluster: cluster.to_owned(), directory, invitation, process: None, log };
        agent.start(member);
        agent
    }

    /// Waits until `kubectl get clusters` says this of the cluster; where it is to be ready, until its capacity is
    /// known too.
    #[track_caller]
    pub fn wait_for_cluster(&self, cluster: &str, state: &str) {
        wait::until(&format!("cluster {cluster} to be {state}"), SOON, || {
            let call = self.kubectl().args(["get", "clusters", cluster, "--no-headers"]).call();
            let row: Vec<&str> = call.stdout.split_whitespace().collect();
            if row.get(1) != Some(&state) {
                return Err(call.to_string());
            }
            let sketch = self.kubectl().args(["get", "cluster", cluster]).json()["status"]["sketch"].clone();
            if state == "Ready" && sketch.is_null() { Err("no sketch yet".to_owned()) } else { Ok(()) }
        });
    }

    /// Makes the namespace on the hub.
    #[track_caller]
    pub fn make_namespace(&self, namespace: &str) {
        self.kubectl().args(["create", "namespace", namespace]).ok();
    }

    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.kubectl().args(["apply", "-f", "-"]).stdin(object).ok();
    }

    #[track_caller]
    pub fn application(&self, namespace: &str, name: &str) -> Value {
        self.kubectl().namespace(namespace).args(["get", "application", name]).json()
    }

    /// Waits until the newest spec of the Application runs, healthy everywhere, and returns it.
    #[track_caller]
    pub fn wait_until_running(&self, namespace: &str, name: &str) -> Value {
        self.wait_for_application(namespace, name, "run", |application| {
            let status = &application["status"];
            status["status"] == "running" && status["observedGeneration"] == application["metadata"]["generation"]
        })
    }

    /// Waits until the Application is as `wanted`, and returns it.
    #[track_caller]
    pub fn wait_for_application(
        &self,
        namespace: &str,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait::until(&format!("application {namespace}/{name} to {what}"), SOON, || {
            let application = self.application(namespace, name);
            if wanted(&application) { Ok(application) } else { Err(format!("{:#}", application["status"])) }
        })
    }

    /// Waits until the Application's status has all of `words` in it, wherever, and returns that status.
    #[track_caller]
    pub fn wait_until_status_says(&self, namespace: &str, name: &str, words: &[&str]) -> String {
        let what = format!("say {words:?}");
        let said = |application: &Value| {
            let status = application["status"].to_string();
            words.iter().all(|word| status.contains(word))
        };
        self.wait_for_application(namespace, name, &what, said)["status"].to_string()
    }
}

impl Agent {
    /// Starts the process again on its directory, which has its identity and its ledger in it.
    #[track_caller]
    pub fn start(&mut self, member: &Member) {
        let mut command = member.command(Path::new(HANSE));
        command
            .args(["agent", "--hub", &self.invitation.hub, "--token", &self.invitation.token])
            .arg("--kubeconfig")
            .arg(&member.kubeconfig)
            .arg("--dir")
            .arg(self.directory.join("data"));
        self.process = Some(Process::spawn(command, &self.log));
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.take().expect("the agent runs").kill();
    }

    /// Whether its process runs.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the agent has logged all of `words` in one line.
    #[track_caller]
    pub fn wait_until_it_says(&self, words: &[&str]) {
        wait::until(&format!("the agent of {} to say {words:?}", self.cluster), SOON, || {
            let log = self.log();
            let said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
            if said { Ok(()) } else { Err(log) }
        });
    }
}
