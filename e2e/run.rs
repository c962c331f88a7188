//! One run of the test binary: its directory, and the promise that nothing survives it.
//!
//! Rust never drops statics, so members shared by all tests would outlive the process. And no code
//! of ours runs after Ctrl-C or SIGKILL. Therefore a run records every process and network namespace
//! it makes as a file in its directory, and a small script waits for the run's end to remove them
//! (`reap.sh`, which tells how). Whatever escapes that is removed at the start of the next run.
//!
//! The directory also takes all logs. It stays after the run, and the next run deletes it.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable that marks a process as started by a run; its value is the directory.
pub const MARK: &str = "HANSE_E2E_RUN";

const REAPER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/reap.sh");

pub struct Run {
    pub directory: PathBuf,
    directories: AtomicU32,
    /// Held locked for life: that is how the next run knows this one is alive.
    _lock: File,
    /// Its stdin is a pipe that nothing is ever written to; the reaper waits for it to close.
    _reaper: Child,
}

/// The run this process is, begun at the first call.
pub fn current() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let run = Run::begin(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e"));
        tell_logs_on_panic(run.directory.clone());
        run
    })
}

impl Run {
    fn begin(runs: &Path) -> Run {
        fs::create_dir_all(runs).expect("create the directory of all runs");
        // Two runs beginning at once must not take each other's half-made directory for a dead one.
        let beginning = lockable(&runs.join("lock"));
        beginning.lock().expect("lock the directory of all runs");
        remove_dead_runs(runs);

        let directory = runs.join(format!("run-{}", std::process::id()));
        for records in ["processes", "namespaces"] {
            fs::create_dir_all(directory.join(records)).expect("create the run's directory");
        }
        let lock = lockable(&directory.join("lock"));
        lock.lock().expect("lock the run's directory");
        Run { _reaper: start_reaper(&directory), _lock: lock, directories: AtomicU32::new(0), directory }
    }

    /// A new directory for the files of `name`; names may repeat.
    pub fn new_directory(&self, name: &str) -> PathBuf {
        let number = self.directories.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join(format!("{number:02}-{name}"));
        fs::create_dir(&directory).expect("create a directory in the run's");
        directory
    }

    /// Notes a process group to be killed when the run ends.
    pub fn record_process(&self, pid: u32) {
        record(&self.directory.join("processes").join(pid.to_string()));
    }

    pub fn forget_process(&self, pid: u32) {
        forget(&self.directory.join("processes").join(pid.to_string()));
    }

    /// Notes a network namespace to be deleted when the run ends.
    pub fn record_namespace(&self, name: &str) {
        record(&self.directory.join("namespaces").join(name));
    }

    pub fn forget_namespace(&self, name: &str) {
        forget(&self.directory.join("namespaces").join(name));
    }
}

fn record(path: &Path) {
    File::create(path).unwrap_or_else(|error| panic!("record {}: {error}", path.display()));
}

/// Called from destructors, so it must not panic. A record too many does no harm.
fn forget(path: &Path) {
    let _ = fs::remove_file(path);
}

fn lockable(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()))
}

fn start_reaper(directory: &Path) -> Child {
    Command::new("sh")
        .args([OsStr::new(REAPER), directory.as_os_str()])
        // In a group of its own, or Ctrl-C would end it together with the tests.
        .process_group(0)
        .stdin(Stdio::piped())
        // Not the run's own: whoever reads that to its end would wait for the reaper.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start the reaper")
}

fn remove_dead_runs(runs: &Path) {
    for entry in fs::read_dir(runs).expect("list the runs").flatten() {
        let directory = entry.path();
        if !directory.is_dir() {
            continue;
        }
        match lockable(&directory.join("lock")).try_lock() {
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => panic!("lock {}: {error}", directory.display()),
            Ok(()) => {}
        }
        reap(&directory);
        // What a dying process still writes may win against the removal. The run after this one
        // tries again, so it is no reason to fail.
        let _ = fs::remove_dir_all(&directory);
    }
}

/// Ends at once what the run in `directory` left behind.
fn reap(directory: &Path) {
    Command::new("sh")
        .args([OsStr::new(REAPER), directory.as_os_str()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("run the reaper");
}

fn tell_logs_on_panic(directory: PathBuf) {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        earlier(panic);
        eprintln!("logs of all processes, until the next run: {}", directory.display());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process in a group of its own, marked as of the run in `mark`.
    fn sleeper(mark: &Path) -> Child {
        Command::new("sleep").arg("600").env(MARK, mark).process_group(0).spawn().expect("start sleep")
    }

    #[test]
    fn the_reaper_ends_what_carries_the_mark_of_its_run_and_nothing_else() {
        let run = tempfile::tempdir().expect("create a directory");
        let processes = run.path().join("processes");
        fs::create_dir(&processes).expect("create a directory");
        let mut ours = sleeper(run.path());
        let mut reused_number = sleeper(Path::new("/another/run"));
        for pid in [ours.id(), reused_number.id()] {
            record(&processes.join(pid.to_string()));
        }

        reap(run.path());

        assert!(!ours.wait().expect("wait for sleep").success());
        let survivor = reused_number.try_wait().expect("look at sleep");
        reused_number.kill().expect("end sleep");
        reused_number.wait().expect("wait for sleep");
        assert_eq!(survivor, None, "a process of another run must be left alone");
    }

    #[test]
    fn a_run_removes_dead_runs_and_spares_living_ones() {
        let runs = tempfile::tempdir().expect("create a directory");
        let dead = runs.path().join("run-dead");
        let living = runs.path().join("run-living");
        for directory in [&dead, &living] {
            fs::create_dir(directory).expect("create a directory");
        }
        let lock = lockable(&living.join("lock"));
        lock.lock().expect("lock");

        remove_dead_runs(runs.path());

        assert!(!dead.exists());
        assert!(living.exists());
    }
}
