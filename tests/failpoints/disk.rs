//! What is synced to the disk before a later step relies on it, and a disk that fails.

use std::fs;
use std::path::Path;

use super::assert_same;
use crate::support::broken_environment::{BrokenEnvironment, TOKEN};
use crate::support::machine::on_this_machine;
use crate::support::sandbox::Sandbox;

/// The system calls by which one run syncs, renames, links or removes files, in order, as strace prints them.
#[cfg(target_os = "linux")]
fn disk_calls(environment: &BrokenEnvironment, arguments: [&str; 1]) -> Vec<String> {
    let file = environment.sandbox.path("trace");
    let calls =
        "trace=fsync,fdatasync,syncfs,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat";
    // `-s 300` prints paths in full.
    let first = ["-f", "-y", "-s", "300", "-e", calls, "-o", file.to_str().unwrap()];
    let run = environment.preflight(arguments).under(on_this_machine("strace"), &first).run();
    run.exits(0);
    fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect()
}

/// The index of the first call that contains all of `names`.
#[cfg(target_os = "linux")]
#[track_caller]
fn position(calls: &[String], names: &[&str]) -> usize {
    let found = calls.iter().position(|call| names.iter().all(|name| call.contains(name)));
    found.unwrap_or_else(|| panic!("no call has {names:?}:\n{}", calls.join("\n")))
}

#[cfg(target_os = "linux")]
#[track_caller]
fn last_position(calls: &[String], names: &[&str]) -> usize {
    let found = calls.iter().rposition(|call| names.iter().all(|name| call.contains(name)));
    found.unwrap_or_else(|| panic!("no call has {names:?}:\n{}", calls.join("\n")))
}

/// Files are on the disk before a step relies on them: the snapshot before the journal is written, the
/// journal and the token (src/repair/token.rs) before the first old file is removed, the new files before the
/// journal is closed, and the restored old files before an undo removes the snapshot. The token stays until
/// the journal is no longer open.
#[test]
#[cfg(target_os = "linux")]
fn what_counts_is_on_the_disk_before_it_counts() {
    let sandbox = Sandbox::new();
    for (copies, environment) in [
        (false, sandbox.broken_environment()),
        (true, Sandbox::new().broken_environment_across_file_systems()),
    ] {
        let site = environment.path("site").display().to_string();
        let prefix = environment.root.display().to_string();
        let state = environment.state.display().to_string();
        let calls = disk_calls(&environment, ["fix"]);
        let at = |names: &[&str]| position(&calls, names);
        let snapshot =
            if copies { at(&["syncfs(", &state, "snapshot-"]) } else { at(&["fsync(", &state, "snapshot-"]) };
        let content = at(&["fsync(", &state, "/.tmp"]);
        let journal = at(&["rename", &state, "unchanged.json"]);
        let name = journal + 1 + position(&calls[journal + 1..], &["fsync(", &state]);
        let bound = at(&["rename", &site, TOKEN]);
        let bound_name = bound + 1 + position(&calls[bound + 1..], &["fsync(", &site]);
        let opened = at(&["rename", &state, "unchanged.json", "journal.json"]);
        let opened_name = opened + 1 + position(&calls[opened + 1..], &["fsync(", &state]);
        let removal = at(&["unlink", &site, "aws_cdk"]);
        let placed = last_position(&calls, &["link", &format!("\"{site}/")]);
        // A file is renamed into place, so that a kill never leaves a partial file there.
        at(&["rename", ".__init__.py.pcluster-shim\"", "/aws_cdk/core/__init__.py\""]);
        let new = at(&["syncfs(", &prefix]);
        let closed = at(&["rename", &state, "journal.json", "repair-"]);
        let order = [
            snapshot,
            content,
            journal,
            name,
            bound,
            bound_name,
            opened,
            opened_name,
            removal,
            placed,
            new,
            closed,
        ];
        assert!(order.is_sorted(), "copies {copies}: {order:?}\n{}", calls.join("\n"));
        let synced = calls.iter().filter(|call| call.contains("sync")).count();
        assert!(synced <= 9, "nothing more is synced: {synced}\n{}", calls.join("\n"));

        let calls = disk_calls(&environment, ["undo"]);
        let at = |names: &[&str]| position(&calls, names);
        let opened = at(&["rename", &state, "repair-", "journal.json"]);
        let name = opened + 1 + position(&calls[opened + 1..], &["fsync(", &state]);
        let removal = at(&["unlink", &site, "1.204.0"]);
        let back = last_position(&calls, &["rename", &site]);
        let old = at(&["syncfs(", &prefix]);
        let closed = at(&["rename", &state, "journal.json", "unchanged.json"]);
        let name_gone = closed + 1 + position(&calls[closed + 1..], &["fsync(", &state]);
        let unbound = at(&["unlink", &site, TOKEN]);
        let unbound_name = unbound + 1 + position(&calls[unbound + 1..], &["fsync(", &site]);
        let forgotten = at(&["unlink", &state, "unchanged.json"]);
        let removed = closed + 1 + position(&calls[closed + 1..], &["unlink", "snapshot-"]);
        let order =
            [opened, name, removal, back, old, closed, name_gone, unbound, unbound_name, forgotten, removed];
        assert!(order.is_sorted(), "copies {copies}: {order:?}\n{}", calls.join("\n"));
    }
}

/// If a sync fails, the repair fails. If the system has no syncfs, files are synced one by one.
#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fails_to_write() {
    let sandbox = Sandbox::new();
    for (copies, environment) in [
        (false, sandbox.broken_environment()),
        (true, Sandbox::new().broken_environment_across_file_systems()),
    ] {
        let before = environment.site();
        // The first syncfs of each thread fails. If the snapshot consists of copies, the sync of the snapshot
        // fails. A snapshot of hard links needs no syncfs, so the sync of the exchange fails instead, and a
        // rollback begins. The rollback runs in another thread than the sync of the exchange, so the first
        // syncfs of the rollback fails too, and the transaction stays open.
        let first = ["-f", "-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO:when=1", "-o", "/dev/null"];
        let run = environment.preflight(["fix"]).under(on_this_machine("strace"), &first).run();
        run.exits(1).prefixed();
        run.holds(run.stderr().contains("os error 5"), "the disk's error is reported");
        let mut now = environment.site();
        // The token stays as long as the journal is open.
        assert_eq!(now.remove(Path::new(TOKEN)).is_some(), !copies);
        assert_same(&now, &before, "");
        if !copies {
            let next = environment.preflight(["--no-synth"]).run();
            next.exits(1).holds(next.stderr().contains("rolled back"), "it is completed");
            assert_same(&environment.site(), &before, "");
        }
        environment.left_nothing("by a disk that fails");
        let trace = sandbox.path("trace");
        let first = [
            "-f",
            "-y",
            "-s",
            "300",
            "-e",
            "trace=syncfs,fsync",
            "-e",
            "inject=syncfs:error=ENOSYS",
            "-o",
            trace.to_str().unwrap(),
        ];
        environment.preflight(["fix"]).under(on_this_machine("strace"), &first).run().exits(0);
        let calls: Vec<String> = fs::read_to_string(&trace).unwrap().lines().map(str::to_owned).collect();
        for name in ["aws_cdk/core/__init__.py", "aws_cdk/aws_imagebuilder/only_in_1.204.0>", "/venv/site>"] {
            position(&calls, &["fsync(", name]);
        }
        if copies {
            position(&calls, &["fsync(", "/snapshot-", "/0>"]);
        }
        environment.preflight(["undo"]).run().exits(0);
        assert_same(&environment.site(), &before, "");
    }
}
