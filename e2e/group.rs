//! Replicas of one hub as processes of the real binary; [`Group`] is three of them with doors between them (`doors.rs`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::doors::Doors;
use crate::federation::{HANSE, SOON, hanse};
use crate::kubectl::{Call, Kubectl, kubectl};
use crate::network::free_port;
use crate::process::Process;
use crate::{run, wait};

pub const REPLICAS: usize = 3;

/// One process of a hub and where it is reached.
pub struct Replica {
    pub directory: PathBuf,
    pub url: String,
    flags: Vec<String>,
    /// For its next start, as the environment says them.
    pub failpoints: String,
    pub process: Option<Process>,
}

impl Replica {
    /// In an empty directory; not started.
    pub fn new() -> Replica {
        Replica::listening_for_others_at(free_port(), &[])
    }

    /// From its next start on the others reach it somewhere else.
    pub fn move_away(&mut self) {
        let port = self.flags.iter().position(|flag| flag == "--peer-listen").expect("it listens for others");
        self.flags[port + 1] = format!("127.0.0.1:{}", free_port());
    }

    /// The others reach it through a door. The second one reads by its lease while it leads, the others ask.
    fn behind(doors: &Doors, at: usize) -> Replica {
        let peer = free_port();
        let door = format!("127.0.0.1:{}", doors.make(at, peer));
        let reads = if at == 1 { "lease" } else { "index" };
        Replica::listening_for_others_at(peer, &["--peer-advertise", &door, "--reads", reads])
    }

    fn listening_for_others_at(peer: u16, more: &[&str]) -> Replica {
        let directory = run::current().new_directory("replica");
        let (address, peer) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{peer}"));
        let flags = [&["--listen", &address, "--peer-listen", &peer], more].concat();
        let flags = flags.into_iter().map(str::to_owned).collect();
        Replica { directory, url: format!("https://{address}"), flags, failpoints: String::new(), process: None }
    }

    /// What the hub keeps.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("admin.kubeconfig")
    }

    /// kubectl as the admin, at this replica.
    pub fn kubectl(&self) -> Kubectl {
        kubectl(&self.kubeconfig())
    }

    pub fn spawn(&self, more: &[&str]) -> Process {
        let mut command = Command::new(HANSE);
        command.args(["hub", "--dir"]).arg(self.data()).args(&self.flags).args(more);
        command.env("FAILPOINTS", &self.failpoints);
        Process::spawn(command, &self.directory.join("hub.log"))
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self, more: &[&str]) {
        self.process = Some(self.spawn(more));
        self.wait_until_ready();
    }

    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        wait::until("the replica to be ready", SOON, || {
            let process = self.process.as_mut().expect("it was started");
            assert!(process.ended().is_none(), "the replica ended; {}", process.log_tail());
            if !self.kubeconfig().exists() {
                return Err("no admin.kubeconfig yet".to_owned());
            }
            let call = self.kubectl().args(["get", "--raw", "/readyz", "--request-timeout=5s"]).call();
            if call.status.success() { Ok(()) } else { Err(call.to_string()) }
        });
    }

    /// It must not start; what it says.
    #[track_caller]
    pub fn refuses_to_start(&self, more: &[&str]) -> String {
        let mut process = self.spawn(more);
        let status = wait::until("the replica to give up", SOON, || process.ended().ok_or("it still runs"));
        assert_eq!(status.code(), Some(1));
        process.log_tail()
    }

    /// Whether it runs: one that a failpoint ended does not.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    #[track_caller]
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// `hanse …` on its directory.
    pub fn hanse(&self, arguments: &[&str]) -> Call {
        let data = self.data();
        hanse(&[arguments, &["--dir", &data.to_string_lossy()]].concat(), None)
    }

    /// A token for one more replica.
    #[track_caller]
    pub fn invite(&self) -> String {
        let call = self.hanse(&["hub", "invite", "-o", "json"]);
        assert!(call.status.success(), "{call}");
        let printed: Value = serde_json::from_str(&call.stdout).unwrap_or_else(|error| panic!("{error} in {call}"));
        printed["token"].as_str().expect("a token").to_owned()
    }

    /// What `hanse hub status` says here.
    pub fn status(&self) -> Value {
        let call = self.hanse(&["hub", "status", "-o", "json"]);
        serde_json::from_str(&call.stdout).unwrap_or_else(|_| Value::String(call.to_string()))
    }

    /// Role of each replica, as this one sees it.
    pub fn roles(&self) -> BTreeMap<String, String> {
        let status = self.status();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let replicas = status["replicas"].as_array().into_iter().flatten();
        replicas.map(|replica| (text(&replica["name"]), text(&replica["status"]["role"]))).collect()
    }

    /// Waits until the replicas are these, one of them leads, the others follow, and all have one state.
    #[track_caller]
    pub fn wait_for_group(&self, names: &[&str]) -> String {
        wait::until(&format!("{names:?} to agree"), SOON, || {
            let status = self.status();
            let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
            let roles = self.roles();
            let healthy = roles.values().filter(|role| *role == "Follower").count() + 1 == names.len();
            let hash = |replica: &Value| replica["status"]["hash"].to_string();
            let agreed = replicas.windows(2).all(|pair| hash(&pair[0]) == hash(&pair[1]));
            let leader = roles.iter().find(|(_, role)| *role == "Leader").map(|(name, _)| name.clone());
            match leader {
                Some(leader) if healthy && agreed && roles.keys().eq(names.iter()) => Ok(leader),
                _ => Err(status.to_string()),
            }
        })
    }
}

/// Three replicas, each behind a door.
pub struct Group {
    pub doors: Doors,
    pub replicas: Vec<Replica>,
}

impl Group {
    /// All three have a vote when this returns.
    #[track_caller]
    pub fn start() -> Group {
        let doors = Doors::new(REPLICAS);
        let mut group = Group { replicas: (0..REPLICAS).map(|at| Replica::behind(&doors, at)).collect(), doors };
        group.begin(0, &[]);
        group.replicas[0].wait_until_ready();
        for at in 1..REPLICAS {
            let token = group.replicas[0].invite();
            group.begin(at, &["--join", &token]);
            group.replicas[at].wait_until_ready();
        }
        group.wait_until_whole();
        group
    }

    /// Starts a replica and does not wait.
    pub fn begin(&mut self, at: usize, more: &[&str]) {
        let process = self.replicas[at].spawn(more);
        self.doors.know(at, process.id());
        self.replicas[at].process = Some(process);
    }

    /// Whoever leads, as far as one of those that run knows.
    pub fn leader(&mut self) -> Option<usize> {
        (0..REPLICAS).filter(|at| self.replicas[*at].runs()).collect::<Vec<_>>().into_iter().find_map(|at| {
            let id = self.replicas[at].status()["leader"].as_u64()?;
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
                self.begin(at, &[]);
            }
        }
        (0..REPLICAS).for_each(|at| self.replicas[at].wait_until_ready());
        self.wait_until_whole();
    }

    /// Until all vote, nobody lags, and the states that were compared are the same.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        wait::until("the group to be whole", SOON, || {
            let status = self.replicas[0].status();
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
