//! A process that a test started: its signals, its log, its end.
//!
//! Each runs in a process group of its own, so that Ctrl-C in the terminal reaches the tests alone and
//! what the process started itself goes with it. It never outlives its value here, and never the
//! run (`run.rs`).

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::{run, wait};

/// How long a process may take to follow a SIGTERM.
const TERM_MAX: Duration = Duration::from_secs(20);

/// How much of a log a message quotes.
const TAIL_LINES: usize = 20;

pub struct Process {
    name: String,
    pub log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`, with stdout and stderr appended to `log`; the log's file name, less its ending, names
    /// the process in messages.
    #[track_caller]
    pub fn spawn(mut command: Command, log: &Path) -> Process {
        let name = log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let run = run::current();
        let output = OpenOptions::new().create(true).append(true).open(log).expect("open a log");
        let child = command
            .env(run::MARK, &run.directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("share the log"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}\n  {command:?}"));
        run.record_process(child.id());
        Process { name, log: log.to_owned(), child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; nothing while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("look at {}: {error}", self.name))
    }

    /// SIGTERM, and waits until it has ended. A process that does not follow is a failure of the test.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        // A paused process sees no other signal before this one.
        self.signal("CONT");
        let what = format!("{} to end after SIGTERM", self.name);
        let status = wait::until(&what, TERM_MAX, || self.ended().ok_or("it still runs"));
        run::current().forget_process(self.id());
        status
    }

    /// SIGKILL: as if the machine had lost it.
    pub fn kill(&mut self) {
        self.signal("KILL");
        // Fails only when it has been waited for, and then it has ended.
        let _ = self.child.wait();
        run::current().forget_process(self.id());
    }

    /// SIGSTOP: it keeps its connections and its memory, and does nothing. So does a process whose
    /// machine is starved or asleep.
    pub fn pause(&mut self) {
        self.signal("STOP");
    }

    pub fn resume(&mut self) {
        self.signal("CONT");
    }

    /// The end of its log, for messages.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("end of {}:\n{tail}", self.log.display())
    }

    /// Signals the group, unless the process has been waited for: from then on its number may be
    /// somebody else's.
    fn signal(&mut self, signal: &str) {
        if let Ok(None) = self.child.try_wait() {
            // The standard library sends SIGKILL only, and to one process only.
            let group = format!("-{}", self.child.id());
            let _ = Command::new("sh").args(["-c", r#"kill -s "$0" -- "$1""#, signal, &group]).status();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn(command, &run::current().new_directory("process").join("shell.log"))
    }

    fn exists(pid: &str) -> bool {
        Path::new("/proc").join(pid.trim()).exists()
    }

    #[test]
    fn dropping_a_process_ends_what_it_started_too() {
        let process = shell("sleep 600 & echo $!; wait");
        let grandchild = wait::until("the number of the grandchild", Duration::from_secs(10), || {
            let log = fs::read_to_string(&process.log).expect("read the log");
            if log.ends_with('\n') { Ok(log) } else { Err(log) }
        });
        assert!(exists(&grandchild));
        drop(process);
        wait::until("the grandchild to end", Duration::from_secs(10), || match exists(&grandchild) {
            true => Err("it runs"),
            false => Ok(()),
        });
    }

    #[test]
    fn a_paused_process_can_be_stopped() {
        let mut process = shell("exec sleep 600");
        process.pause();
        assert!(!process.stop().success());
        assert!(process.ended().is_some());
    }

    #[test]
    fn a_resumed_process_goes_on() {
        let mut process = shell("sleep 0.2; exit 7");
        process.pause();
        wait::throughout("the process does nothing", Duration::from_millis(500), || match process.ended() {
            None => Ok(()),
            Some(status) => Err(status),
        });
        process.resume();
        let status = wait::until("the process to end", Duration::from_secs(10), || process.ended().ok_or("it runs"));
        assert_eq!(status.code(), Some(7));
    }
}
