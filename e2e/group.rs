//! Three replicas of one hub as processes of the real binary, with doors between them (`doors.rs`).

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::doors::Doors;
use crate::federation::{HANSE, SOON};
use crate::kubectl::{Kubectl, kubectl};
use crate::network::free_port;
use crate::process::Process;
use crate::{run, wait};

pub const REPLICAS: usize = 3;

pub struct Group {
    pub doors: Doors,
    pub replicas: Vec<Replica>,
}

pub struct Replica {
    pub at: usize,
    pub directory: PathBuf,
    flags: Vec<String>,
    /// For its next start, as the environment says them.
    pub failpoints: String,
    pub process: Option<Process>,
}

impl Replica {
    fn new(at: usize, doors: &Doors) -> Replica {
        let (address, peer) = (format!("127.0.0.1:{}", free_port()), free_port());
        let url = format!("https://{address}");
        let door = doors.make(at, peer);
        let listen = [("--listen", address), ("--advertise", url.clone())];
        let peers = [("--peer-listen", format!("127.0.0.1:{peer}")), ("--peer-advertise", format!("127.0.0.1:{door}"))];
        let flags = listen.into_iter().chain(peers).flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let directory = run::current().new_directory(&format!("replica-{at}"));
        Replica { at, directory, flags, failpoints: String::new(), process: None }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("data/admin.kubeconfig")
    }

    /// kubectl as the admin, at this replica.
    pub fn kubectl(&self) -> Kubectl {
        kubectl(&self.kubeconfig())
    }

    /// Starts its process and does not wait.
    #[track_caller]
    pub fn begin(&mut self, doors: &Doors, more: &[String]) {
        let mut command = Command::new(HANSE);
        command.args(["hub", "--dir"]).arg(self.directory.join("data")).args(&self.flags).args(more);
        command.env("FAILPOINTS", &self.failpoints);
        let process = Process::spawn(command, &self.directory.join("hub.log"));
        doors.know(self.at, process.id());
        self.process = Some(process);
    }

    /// Whether it runs: one that a failpoint ended does not.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        wait::until(&format!("replica {} to be ready", self.at), SOON, || {
            let process = self.process.as_mut().expect("it was started");
            assert!(process.ended().is_none(), "it ended; {}", process.log_tail());
            if !self.directory.join("data/admin.kubeconfig").exists() {
                return Err("no admin.kubeconfig yet".to_owned());
            }
            let call = self.kubectl().args(["get", "--raw", "/readyz", "--request-timeout=5s"]).call();
            if call.status.success() { Ok(()) } else { Err(call.to_string()) }
        });
    }
}

impl Group {
    /// All three have a vote when this returns.
    #[track_caller]
    pub fn start() -> Group {
        let doors = Doors::new(REPLICAS);
        let mut group = Group { replicas: (0..REPLICAS).map(|at| Replica::new(at, &doors)).collect(), doors };
        for at in 0..REPLICAS {
            let join = if at == 0 { vec![] } else { vec!["--join".to_owned(), group.invitation()] };
            group.replicas[at].begin(&group.doors, &join);
            group.replicas[at].wait_until_ready();
        }
        group.wait_until_whole();
        group
    }

    #[track_caller]
    fn invitation(&self) -> String {
        let output = Command::new(HANSE)
            .args(["hub", "invite", "-o", "json"])
            .env("KUBECONFIG", self.replicas[0].kubeconfig())
            .output()
            .expect("run hanse");
        let printed: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        printed["token"].as_str().expect("a token").to_owned()
    }

    /// What a replica says of the group.
    pub fn status(&self, at: usize) -> Value {
        let output = Command::new("timeout")
            .args(["10", HANSE, "hub", "status", "-o", "json"])
            .env("KUBECONFIG", self.replicas[at].kubeconfig())
            .output()
            .expect("run hanse");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Whoever leads, as far as one of those that run knows.
    pub fn leader(&mut self) -> Option<usize> {
        (0..REPLICAS).filter(|at| self.replicas[*at].runs()).collect::<Vec<_>>().into_iter().find_map(|at| {
            let id = self.status(at)["leader"].as_u64()?;
            // They joined in this order.
            usize::try_from(id).ok().map(|id| id - 1)
        })
    }

    /// Starts what does not run, opens all doors, and waits until everybody is there with the same state.
    #[track_caller]
    pub fn heal(&mut self) {
        self.doors.open_all();
        for at in 0..REPLICAS {
            if let Some(process) = &mut self.replicas[at].process {
                process.resume();
            }
            // It might still reach the point at which it is to die.
            if !self.replicas[at].failpoints.is_empty()
                && let Some(mut process) = self.replicas[at].process.take()
            {
                process.kill();
            }
            if !self.replicas[at].runs() {
                self.replicas[at].failpoints.clear();
                self.replicas[at].begin(&self.doors, &[]);
            }
        }
        (0..REPLICAS).for_each(|at| self.replicas[at].wait_until_ready());
        self.wait_until_whole();
    }

    /// Until all vote, nobody lags, and the states that were compared are the same.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        wait::until("the group to be whole", SOON, || {
            let status = self.status(0);
            let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
            let voting = |replica: &&Value| matches!(replica["status"]["role"].as_str(), Some("Leader" | "Follower"));
            let level = |replica: &&Value| replica["status"]["lag"] == 0;
            let whole = replicas.len() == REPLICAS
                && replicas.iter().filter(voting).count() == REPLICAS
                && replicas.iter().filter(level).count() == REPLICAS;
            if whole { Ok(()) } else { Err(status.to_string()) }
        });
    }
}
