//! The programs of a control plane: real ones, built once or brought along (`tools/build.sh`).

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/tools/build.sh");

/// The path of one of the files that `tools/build.sh` provides. The first call may build them, which
/// takes minutes.
pub fn path(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(provide).join(name)
}

fn provide() -> PathBuf {
    // stderr goes past the capture of the test harness, straight to whoever wonders why nothing happens.
    let output = Command::new(BUILD).stderr(Stdio::inherit()).output().expect("run e2e/tools/build.sh");
    assert!(output.status.success(), "e2e/tools/build.sh failed; it says why above");
    let stdout = String::from_utf8(output.stdout).expect("a path in UTF-8");
    PathBuf::from(stdout.lines().last().expect("e2e/tools/build.sh prints a directory"))
}
