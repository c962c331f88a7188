//! Processes under measurement: hub and agents run as processes of their own, so that what they use can be told apart.

use std::{
    fs::File,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

/// Unit of the times in /proc/PID/stat: USER_HZ, which is 100 wherever Linux runs today.
const TICK_MS: u64 = 10;

/// What a process has used since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// In user and system, of all its threads, to 10 ms.
    pub cpu_ms: u64,
    pub rss_bytes: u64,
    /// What it caused to be written to disks.
    pub written_bytes: u64,
}

impl Usage {
    /// Of any process.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        Ok(Self {
            cpu_ms: cpu_ms(&read("stat")?).context("/proc/PID/stat is not as expected")?,
            rss_bytes: rss_bytes(&read("status")?).context("no VmRSS in /proc/PID/status")?,
            written_bytes: written_bytes(&read("io")?).context("no write_bytes in /proc/PID/io")?,
        })
    }

    /// What was used since an earlier look; memory is what it is now.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms - before.cpu_ms,
            rss_bytes: self.rss_bytes,
            written_bytes: self.written_bytes - before.written_bytes,
        }
    }
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms + other.cpu_ms,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }
}

/// A process that ends with its value, at the latest.
#[derive(Debug)]
pub struct Process {
    pub child: Child,
    pid: u32,
    name: &'static str,
}

impl Process {
    /// Starts this same program with `arguments`; its words go to a file `NAME.log` in `directory`.
    pub fn start(name: &'static str, directory: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot tell the path of this program")?;
        Self::spawn(name, directory, Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()))
    }

    /// The same for any command. Where its stdout is not taken by the caller, it goes to the log too.
    pub fn spawn(name: &'static str, directory: &Path, command: &mut Command) -> anyhow::Result<Self> {
        let path = directory.join(name).with_extension("log");
        let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        command.stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start the {name}"))?;
        let pid = child.id().with_context(|| format!("the {name} ended at once; see {}", path.display()))?;
        Ok(Self { child, pid, name })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends it a signal by name, such as `STOP`.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status().await?;
        if !status.success() {
            bail!("cannot send SIG{name} to the {}", self.name);
        }
        Ok(())
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.pid).with_context(|| format!("has the {} ended?", self.name))
    }
}

fn cpu_ms(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may itself hold blanks and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // utime and stime are the fields 14 and 15 of proc(5); the first of `rest` is field 3.
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * TICK_MS)
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn written_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:"))?.trim().parse().ok()
}

/// Looks again and again until it is so.
pub async fn until(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_millis(50);
    let start = Instant::now();
    while !probe().await? {
        if start.elapsed() > within {
            bail!("waited {} s for {what}", within.as_secs());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_past_a_name_with_parentheses() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ms(stat), Some(3000));
        assert_eq!(cpu_ms("42 (a"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(rss_bytes("Name:\thanse\nVmRSS:\t   20480 kB\n"), Some(20 << 20));
    }

    #[test]
    fn what_reached_the_disk_is_read_and_not_what_was_cancelled() {
        assert_eq!(written_bytes("wchar: 9\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n"), Some(4096));
    }

    #[test]
    fn a_process_is_measured_while_it_runs() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let directory = tempfile::tempdir().expect("a directory");
            let mut process =
                Process::spawn("sleeper", directory.path(), Command::new("sleep").arg("600")).expect("sleep runs");
            assert!(process.usage().expect("its usage").rss_bytes > 0);
            process.child.kill().await.expect("it ends");
            assert!(process.usage().is_err());
        });
    }
}
