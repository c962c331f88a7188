//! The real kubectl, as tests call it.
//!
//! Nothing of the caller's home reaches it: neither preferences nor a discovery cache, which would be
//! one of another cluster that once had the same port.

use std::fmt::{self, Display};
use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::{assets, run};

/// A call that hangs must not hang the suite.
const SECONDS_MAX: &str = "90";

/// One call in the making.
pub struct Kubectl {
    command: Command,
    arguments: Vec<String>,
    stdin: Option<String>,
}

/// A call that was made.
pub struct Call {
    pub arguments: Vec<String>,
    pub stdin: Option<String>,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A call against the server of `kubeconfig`, as its user.
pub fn kubectl(kubeconfig: &Path) -> Kubectl {
    Kubectl::through(Command::new("timeout"), kubeconfig)
}

impl Kubectl {
    /// The same, where `timeout` is a command that runs coreutils' timeout, say in another network
    /// namespace.
    pub fn through(mut timeout: Command, kubeconfig: &Path) -> Kubectl {
        timeout
            .args(["--kill-after=5", SECONDS_MAX])
            .arg(assets::path("kubectl"))
            .env("KUBECONFIG", kubeconfig)
            .env("KUBERC", "off")
            .env("HOME", &run::current().directory);
        Kubectl { command: timeout, arguments: Vec::new(), stdin: None }
    }

    pub fn args<Argument: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = Argument>) -> Kubectl {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Acts in this namespace.
    pub fn namespace(self, name: &str) -> Kubectl {
        self.args(["--namespace", name])
    }

    /// What `-f -` reads.
    pub fn stdin(mut self, manifests: impl Display) -> Kubectl {
        self.stdin = Some(manifests.to_string());
        self
    }

    /// Expects success; returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        let call = self.call();
        assert!(call.status.success(), "expected success of {call}");
        call.stdout
    }

    /// Expects failure; returns stderr.
    #[track_caller]
    pub fn fails(self) -> String {
        let call = self.call();
        assert!(!call.status.success(), "expected failure of {call}");
        call.stderr
    }

    /// Expects success with JSON on stdout, and asks for it.
    #[track_caller]
    pub fn json(self) -> Value {
        let call = self.args(["--output=json"]).call();
        assert!(call.status.success(), "expected success of {call}");
        serde_json::from_str(&call.stdout).unwrap_or_else(|error| panic!("expected JSON ({error}) from {call}"))
    }

    /// Expects nothing.
    pub fn call(mut self) -> Call {
        let stdin = match &self.stdin {
            None => Stdio::null(),
            // A file and not a pipe: a pipe fills up when kubectl talks before it has read all.
            Some(text) => {
                let mut file = tempfile::tempfile().expect("create a file for stdin");
                file.write_all(text.as_bytes()).and_then(|()| file.rewind()).expect("write a file for stdin");
                Stdio::from(file)
            }
        };
        let output = self.command.args(&self.arguments).stdin(stdin).output().expect("run kubectl");
        Call {
            arguments: self.arguments,
            stdin: self.stdin,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { arguments, stdin, status, stdout, stderr } = self;
        writeln!(f, "kubectl {} ({status})", arguments.join(" "))?;
        if let Some(stdin) = stdin {
            writeln!(f, "--- stdin\n{stdin}")?;
        }
        write!(f, "--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    /// A server that is not there.
    fn nowhere() -> Kubectl {
        kubectl(Path::new("/dev/null")).args(["--server=http://127.0.0.1:1"])
    }

    #[test]
    fn a_failed_call_tells_command_input_and_output() {
        let manifest = "{ apiVersion: v1, kind: Namespace, metadata: { name: shop } }";
        let panic = catch_unwind(|| nowhere().args(["apply", "-f", "-"]).stdin(manifest).ok());
        let told = *panic.expect_err("a panic").downcast::<String>().expect("a formatted message");
        for part in ["kubectl --server", "apply -f -", manifest, "exit status: 1", "refused"] {
            assert!(told.contains(part), "{part:?} is not in:\n{told}");
        }
    }

    #[test]
    fn an_expected_failure_returns_what_kubectl_says() {
        assert!(nowhere().args(["get", "pods"]).fails().contains("refused"));
        catch_unwind(|| kubectl(Path::new("/dev/null")).args(["options"]).fails()).expect_err("a panic");
    }

    #[test]
    fn json_is_asked_for_and_parsed() {
        let version = kubectl(Path::new("/dev/null")).args(["version", "--client"]).json();
        assert!(version["clientVersion"]["gitVersion"].as_str().unwrap().starts_with("v1."), "{version}");
    }
}
