//! Repairs that are killed or that fail at a failpoint, that run at the same time as other repairs or checks,
//! or that are interrupted.
//!
//! The failpoints are compiled in by the feature `fault-injection` (src/repair/failpoint.rs).

mod disk; // what is synced to the disk before a later step relies on it, and a disk that fails
mod failing; // steps that fail: a failed repair changes nothing, and a rollback restores what it can
mod killed; // repairs and undos that are killed; the next call rolls back a repair, or completes an undo
mod locks; // repairs and checks that wait for each other, and an interruption
mod recreated; // environments that were replaced, restored or changed after a kill

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::broken_environment::{BrokenEnvironment, Tree};
use crate::support::machine::{on_this_machine, output, wait_for};
use crate::support::sandbox::Sandbox;

const FAILPOINT: &str = "PCLUSTER_SHIM_FAULT";

const STEPS: [&str; 11] = [
    "stage",
    "proof",
    "snapshot",
    "journal",
    "token",
    "remove",
    "place",
    "record",
    "verification",
    "close",
    "closed",
];

/// Asserts that two trees are equal. The message shows only what differs.
#[track_caller]
fn assert_same(now: &Tree, expected: &Tree, when: &str) {
    let paths: std::collections::BTreeSet<_> = now.keys().chain(expected.keys()).collect();
    let other: Vec<_> = paths
        .into_iter()
        .filter(|path| now.get(*path) != expected.get(*path))
        .map(|path| format!("{}: {:?}, not {:?}", path.display(), now.get(path), expected.get(path)))
        .collect();
    assert!(other.is_empty(), "{when}:\n{}", other.join("\n"));
}

/// No step is reached as often as this in one repair.
const MAX_COUNT: usize = 100;

/// Repairs the environment, and returns its packages. Asserts that an undo reverts the repair.
#[track_caller]
fn repair_and_undo(environment: &BrokenEnvironment) -> Tree {
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.content();
    environment.preflight(["undo"]).run().exits(0);
    assert_same(&environment.site(), &before, "");
    repaired
}

/// The processes that have this file open.
fn find_holders(path: &Path) -> Vec<i32> {
    let path = path.canonicalize().unwrap();
    let processes = Path::new("/proc").read_dir().unwrap().flatten();
    let has = |process: &Path| {
        let open = process.join("fd").read_dir().into_iter().flatten().flatten();
        open.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == path))
    };
    processes
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, process)| has(process))
        .map(|(pid, _)| pid)
        .collect()
}

/// Waits until the number of processes that have the file open stays at `count`. Reaching `count` once is not
/// enough: for a moment, a new child has its parent's files open too.
#[track_caller]
pub(crate) fn wait_for_holders(path: &Path, count: usize) -> Vec<i32> {
    let mut seen = 0;
    wait_for("processes to wait", || {
        let holders = find_holders(path);
        seen = if holders.len() == count { seen + 1 } else { 0 };
        (seen == 50).then_some(holders)
    })
}

fn fifo(sandbox: &Sandbox, path: impl AsRef<Path>) -> PathBuf {
    let path = sandbox.path(path);
    output(&on_this_machine("mkfifo"), &[path.as_os_str()]);
    path
}
