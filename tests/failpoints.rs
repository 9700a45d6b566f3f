//! Repairs that are killed, fail, meet others or are interrupted: at every failpoint, at every file.
//!
//! The failpoints are compiled in by the feature `fault-injection` (src/repair/failpoint.rs).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::signals::ignoring_nothing;
use crate::support::broken_environment::{BrokenEnvironment, TOKEN, Tree};
use crate::support::fakes::REAL_OUTPUT;
use crate::support::machine::{on_this_machine, output};
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

/// Compares, and shows only what differs.
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

/// More often than any step is reached.
const MAX_COUNT: usize = 100;

/// What a repair of this environment makes, and that an undo takes it back.
#[track_caller]
fn repair_and_undo(environment: &BrokenEnvironment) -> Tree {
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.content();
    environment.preflight(["undo"]).run().exits(0);
    assert_same(&environment.site(), &before, "");
    repaired
}

/// Kills a repair at every step, at every file of it; then runs each command that may come next.
fn killed_at_every_step(environment: &BrokenEnvironment) {
    let before = environment.site();
    let repaired = repair_and_undo(environment);
    for step in STEPS {
        let mut count = 0;
        loop {
            count += 1;
            assert!(count < MAX_COUNT, "{step} is reached without end");
            let failure = format!("kill:{step}@{count}");
            let run = environment.preflight(["fix"]).var(FAILPOINT, &failure).run();
            if run.status.code() == Some(0) {
                // The step is not reached that often.
                environment.preflight(["undo"]).run().exits(0);
                break;
            }
            run.dies_by(9);
            environment.sandbox.wait_until_scratch_is_free();
            let kept = environment.kept();
            let interrupted = kept.contains(&"journal.json".to_owned());
            let closed = kept.iter().any(|name| name.starts_with("repair-"));
            let unchanged = kept.contains(&"unchanged.json".to_owned());
            assert_eq!(closed, step == "closed", "{failure}");
            assert!(
                interrupted || closed || unchanged || environment.site() == before,
                "{failure}: touched without a journal"
            );
            let what_next = count % 4;
            let next = match what_next {
                0 => environment.preflight(["fix"]).run(),
                1 => environment.preflight(["--no-synth"]).run(),
                2 => environment.build_image().run(),
                _ => environment.preflight(["undo"]).run(),
            };
            let reported = next.stderr().contains("rolled back an interrupted repair");
            next.holds(
                reported == interrupted,
                &format!("{failure}: a rollback is reported, and nothing else"),
            );
            let expected = match (what_next, closed) {
                (0, _) | (1 | 2, true) => 0,
                (3, closed) => i32::from(!closed && !interrupted),
                (_, false) => 1,
                _ => unreachable!(),
            };
            next.exits(expected);
            if what_next == 0 || (closed && what_next != 3) {
                assert_same(
                    &environment.content(),
                    &repaired,
                    &format!("{failure}: neither repaired nor as before"),
                );
                environment.keeps_the_last_one();
                environment.preflight(["undo"]).run().exits(0);
            }
            assert_same(&environment.site(), &before, &format!("{failure}: not as before"));
            environment.left_nothing(&failure);
        }
        let at_least = if ["snapshot", "remove", "place"].contains(&step) { 10 } else { 1 };
        assert!(count > at_least, "{step} was reached {} times only", count - 1);
    }
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn killed_at_every_step_with_links() {
    let sandbox = Sandbox::new();
    killed_at_every_step(&sandbox.broken_environment());
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn killed_at_every_step_with_copies() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment_across_file_systems();
    environment.is_not_compiled();
    killed_at_every_step(&environment);
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn an_undo_killed_at_every_file_is_completed() {
    let sandbox = Sandbox::new();
    for environment in [sandbox.broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        let before = environment.site();
        for step in ["undo", "restore"] {
            for count in 1..MAX_COUNT {
                let failure = format!("kill:{step}@{count}");
                environment.preflight(["fix"]).run().exits(0);
                let run = environment.preflight(["undo"]).var(FAILPOINT, &failure).run();
                if run.status.code() == Some(0) {
                    break;
                }
                run.dies_by(9);
                environment.sandbox.wait_until_scratch_is_free();
                // Killed twice more while it is completed.
                for more in [1, 2] {
                    let again =
                        environment.preflight([]).var(FAILPOINT, format!("kill:restore@{more}")).run();
                    again.dies_by(9);
                }
                let next = environment.build_image().run();
                next.exits(1).holds(next.stderr().contains("rolled back"), &failure);
                assert_same(&environment.site(), &before, &failure);
                environment.left_nothing(&failure);
            }
        }
    }
}

/// Expects one error that names the step, and no change.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_failure_at_every_step_changes_nothing() {
    let sandbox = Sandbox::new();
    for environment in [sandbox.broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        let before = environment.site();
        for step in &STEPS[..9] {
            for count in 1..MAX_COUNT {
                let failure = format!("fail:{step}@{count}");
                let run = environment.preflight(["fix"]).var(FAILPOINT, &failure).run();
                if run.status.code() == Some(0) {
                    environment.preflight(["undo"]).run().exits(0);
                    break;
                }
                run.exits(1).prefixed().prints("");
                if count == 1 && environment.state == sandbox.path("state") {
                    run.stderr_matches(&format!("failure-{step}.txt"));
                }
                assert_same(&environment.site(), &before, &failure);
                environment.left_nothing(&failure);
            }
        }
    }
}

/// A repair that fails in mode fix stops the build, with the environment as it was.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_failure_in_mode_fix_stops() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let run = environment.build_image().var("PCLUSTER_SHIM_MODE", "fix").var(FAILPOINT, "fail:place@3").run();
    run.exits(1).prefixed().stdout_matches("verdicts/blocked-by-advisory.json");
    run.holds(run.stderr().contains("the repair failed:"), "it says why there is no repair");
    assert_same(&environment.site(), &before, "");
    environment.left_nothing("by a repair that failed");
}

/// A file that cannot be put back: the others are, it is named, and a later run completes it.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_rollback_goes_on_past_a_file_that_fails() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let run = environment.preflight(["undo"]).var(FAILPOINT, "fail:restore@3").run();
    run.exits(1).prefixed().prints("").stderr_matches("undo-one-file.txt");
    let now = environment.site();
    let other: Vec<&PathBuf> = before.keys().filter(|path| now.get(*path) != before.get(*path)).collect();
    assert_eq!(other.len(), 1, "all but one are back: {other:?}");
    run.holds(run.stderr().contains(other[0].to_str().unwrap()), "the file is named");
    let kept = environment.kept();
    assert!(kept[0] == "journal.json" && kept[1].starts_with("snapshot-"), "the copies are kept: {kept:?}");

    // A second failure, in a check and in a guarded call: reported each time, and nothing is lost.
    let fails = || "fail:restore@2";
    environment.preflight(["--no-synth"]).var(FAILPOINT, fails()).run().exits(1).prefixed();
    let run = environment.build_image().var(FAILPOINT, fails()).var("PCLUSTER_SHIM_STRICT", "1").run();
    run.exits(1).prefixed();
    run.holds(run.stderr().contains("cannot be rolled back"), "the guard says so");

    let next = environment.preflight(["--no-synth"]).run();
    next.exits(1).holds(next.stderr().contains("rolled back"), "the next run completes it");
    assert_same(&environment.site(), &before, "");
    environment.left_nothing("by a rollback");
}

/// An earlier repair stays the last one when the next fails at its end.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_failure_at_the_end_keeps_the_undo_of_before() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix", "--strategy", "downgrade"]).run().exits(0);
    environment.has_an_advisory_on_1_152_0();
    for failure in ["fail:close", "fail:journal", "fail:place@4", "kill:close", "kill:remove@2"] {
        let run = environment.preflight(["fix"]).var(FAILPOINT, failure).run();
        run.holds(run.status.code() != Some(0), failure);
        environment.preflight(["--no-synth"]).run().exits(1);
        environment.keeps_the_last_one();
    }
    environment.preflight(["undo"]).run().exits(0);
    assert_same(&environment.site(), &before, "");
}

/// Processes that have this file open.
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

/// Waits until so many processes keep it open. A child has the files of its parent open for a moment.
#[track_caller]
pub(crate) fn wait_for_holders(path: &Path, count: usize) -> Vec<i32> {
    let mut seen = 0;
    wait_for("processes to wait", || {
        let holders = find_holders(path);
        seen = if holders.len() == count { seen + 1 } else { 0 };
        (seen == 50).then_some(holders)
    })
}

#[track_caller]
fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(there) = ready() {
            return there;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn fifo(sandbox: &Sandbox, path: impl AsRef<Path>) -> PathBuf {
    let path = sandbox.path(path);
    output(&on_this_machine("mkfifo"), &[path.as_os_str()]);
    path
}

#[test]
#[cfg(target_os = "linux")]
fn two_fixes_at_once() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let hold = fifo(&sandbox, "hold");
    let install = format!("cat '{}'\n{}", hold.display(), crate::support::broken_environment::INSTALL);
    environment.installs_by(&install);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| environment.preflight(["fix"]).run());
        wait_for("the first to stage", || sandbox.log().contains(&"uv install".to_owned()).then_some(()));
        let lock = environment.repairs().join("lock");
        let holder = wait_for_holders(&lock, 1)[0];
        let second = scope.spawn(|| environment.preflight(["fix", "-v"]).run());
        let two = wait_for_holders(&lock, 2);
        // A third is interrupted while it waits; it had to ask Python before, so signals are caught.
        let third = scope.spawn(|| environment.preflight(["fix"]).var("PYTHONX", "new").run());
        let pids = wait_for_holders(&lock, 3);
        // The new one, which need not be the highest: PIDs start again from low numbers.
        let newest = *pids.iter().find(|pid| !two.contains(pid)).unwrap();
        kill_process(Pid::from_raw(newest).unwrap(), Signal::TERM).unwrap();
        third.join().unwrap().dies_by(15).prints("").says_at_most_that_it_waits();
        environment.installs_by(crate::support::broken_environment::INSTALL);
        // Read once by each of the first one's installations.
        fs::write(&hold, "").unwrap();
        let first = first.join().unwrap();
        first.exits(0);
        let second = second.join().unwrap();
        second.exits(0).stdout_matches("repair/fix-nothing.txt");
        let waiting = format!("waiting for another repair of this environment to end (process {holder})");
        second.holds(second.stderr().contains(&waiting), "it says whom it waits for");
    });
    environment.keeps_the_last_one();
}

/// Stopped in the middle of its exchange, as by Ctrl-Z: whoever waits says for which process.
#[test]
fn a_check_behind_a_repair_that_is_stopped_says_what_it_waits_for() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    fs::write(environment.repairs().join("lock"), "4711").unwrap();
    let exchange = fs::File::open(environment.path("site")).unwrap();
    exchange.lock().unwrap();
    let errors = sandbox.path("work/errors");
    std::thread::scope(|scope| {
        let call = environment
            .preflight(["--no-synth"])
            .under(sandbox.path("tools/sh"), &["-c", "exec \"$@\" 2>errors", "sh"]);
        let check = scope.spawn(|| call.run());
        let line =
            wait_for("a line", || fs::read_to_string(&errors).ok().filter(|text| text.ends_with('\n')));
        assert_eq!(
            line,
            "pcluster-shim: waiting for another repair of this environment to end (process 4711)\n"
        );
        drop(exchange);
        check.join().unwrap().exits(0);
    });
    assert_eq!(fs::read_to_string(&errors).unwrap().lines().count(), 1, "it is said once");
}

/// The check has read half of the environment: the repair waits for it.
#[test]
#[cfg(target_os = "linux")]
fn a_repair_waits_for_a_check() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let hold = fifo(&sandbox, environment.path("fake/hold"));
    std::thread::scope(|scope| {
        sandbox.write(environment.path("fake/held"), "ALL");
        let guarded = environment.build_image().argument("--suppress-validators").argument("ALL");
        let check = scope.spawn(|| guarded.run());
        wait_for("the check to build", || sandbox.log().contains(&"synth".to_owned()).then_some(()));
        let fix = scope.spawn(|| environment.preflight(["fix"]).run());
        wait_for_holders(&environment.path("site"), 2);
        assert_same(&environment.site(), &before, "touched while a check reads it");
        let released = scope.spawn(|| fs::write(&hold, "").unwrap());
        let check = check.join().unwrap();
        check.exits(1).prefixed();
        check.holds(!check.stderr().contains("half"), "it saw the whole of the old environment");
        check.holds(check.stderr().contains("1.153.0"), "it saw the old environment");
        released.join().unwrap();
        fix.join().unwrap().exits(0);
    });
}

/// The repair has exchanged the files and not yet verified them: a check waits for it.
#[test]
#[cfg(target_os = "linux")]
fn a_check_waits_for_a_repair() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let hold = fifo(&sandbox, environment.path("fake/hold"));
    sandbox.write(environment.path("fake/held"), "1.204.0");
    std::thread::scope(|scope| {
        let fix = scope.spawn(|| environment.preflight(["fix"]).run());
        let verifying = || sandbox.log().iter().filter(|line| *line == "synth").count() == 3;
        wait_for("the repair to verify", || verifying().then_some(()));
        let check = scope.spawn(|| environment.build_image().run());
        wait_for_holders(&environment.path("site"), 2);
        let log = sandbox.log();
        assert_eq!(log.iter().filter(|line| *line == "synth").count(), 3, "it went on: {log:?}");
        // The name is removed first, so that no later reader blocks.
        let open = fs::OpenOptions::new().write(true).open(&hold).unwrap();
        fs::remove_file(&hold).unwrap();
        drop(open);
        fix.join().unwrap().exits(0);
        check.join().unwrap().exits(0).prints(REAL_OUTPUT).says_at_most_that_it_waits();
    });
}

/// A repair that is interrupted between its steps is rolled back, and dies by the signal.
#[test]
fn interrupted_while_it_verifies() {
    for signal in ["TERM", "INT", "HUP"] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        let before = environment.site();
        // The second check of requirements is the verification's.
        let check = format!(
            "[ -d '{}' ] && {{ kill -{signal} $PPID; exec sleep 1000; }}",
            environment.path("site/aws_cdk.core-1.204.0.dist-info").display()
        );
        sandbox.write("installer/check", check);
        let number = match signal {
            "HUP" => 1,
            "INT" => 2,
            _ => 15,
        };
        ignoring_nothing(environment.preflight(["fix"])).run().dies_by(number).prints("").is_silent();
        assert_same(&environment.site(), &before, signal);
        environment.left_nothing(signal);
    }
}

/// The calls of one run that write to the disk or decide what counts, in order: the call and the
/// names that it is about, without the sandbox.
#[cfg(target_os = "linux")]
fn disk_calls(environment: &BrokenEnvironment, arguments: [&str; 1]) -> Vec<String> {
    let file = environment.sandbox.path("trace");
    let calls =
        "trace=fsync,fdatasync,syncfs,sync_file_range,rename,renameat,renameat2,link,linkat,unlink,unlinkat";
    // -s: paths in full.
    let first = ["-f", "-y", "-s", "300", "-e", calls, "-o", file.to_str().unwrap()];
    let run = environment.preflight(arguments).under(on_this_machine("strace"), &first).run();
    run.exits(0);
    fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect()
}

/// The index of the first call that names all of these.
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

/// Order of what reaches the disk, because each step relies on the one before: the copies before
/// their journal, the journal before the first removal, the new files before the journal is closed,
/// the token before the first removal and until the journal is no longer open, the old files before an undo removes
/// its copies.
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
        // A kill leaves no part of a file at its path.
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

/// A failing sync fails the repair; where the system has no syncfs, files are synced one by one.
#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_fails_to_write() {
    let sandbox = Sandbox::new();
    for (copies, environment) in [
        (false, sandbox.broken_environment()),
        (true, Sandbox::new().broken_environment_across_file_systems()),
    ] {
        let before = environment.site();
        // The first of each thread: with copies the snapshot's; with links the exchange's, and the
        // rollback's, which is then still open.
        let first = ["-f", "-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO:when=1", "-o", "/dev/null"];
        let run = environment.preflight(["fix"]).under(on_this_machine("strace"), &first).run();
        run.exits(1).prefixed();
        run.holds(run.stderr().contains("os error 5"), "the disk's error is reported");
        let mut now = environment.site();
        // The token stays with the journal.
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

/// A rollback without one of its copies removes nothing; with the copy back it is completed.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_rollback_without_a_copy_changes_nothing() {
    let sandbox = Sandbox::new();
    for environment in [sandbox.broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        let before = environment.site();
        // A fix with half of its files placed, and an undo that is half done.
        for (command, failure) in [("fix", "kill:place@5"), ("undo", "kill:restore@8")] {
            if command == "undo" {
                environment.preflight(["fix"]).run().exits(0);
            }
            environment.preflight([command]).var(FAILPOINT, failure).run().dies_by(9);
            let half = environment.site();
            let text = fs::read_to_string(environment.repairs().join("journal.json")).unwrap();
            let journal: serde_json::Value = serde_json::from_str(&text).unwrap();
            let removed = journal["removed"].as_array().unwrap();
            let is_back = |saved: &&serde_json::Value| {
                let path = Path::new(saved["path"].as_str().unwrap())
                    .strip_prefix(environment.path("site"))
                    .unwrap();
                half.get(path) == before.get(path)
            };
            let copy =
                |saved: &serde_json::Value| environment.snapshot().join(saved["copy"].as_str().unwrap());
            let missing = copy(removed.iter().rfind(|saved| !is_back(saved)).unwrap());
            let needless = removed.iter().find(is_back).map(copy);
            let aside = environment.state.join("aside");
            fs::rename(&missing, &aside).unwrap();
            // A check goes on with the environment as it is, and says so.
            let check = environment.preflight(["--no-synth"]).run();
            check.holds(check.status.code() != Some(0), "it is not ready");
            check.holds(check.stdout().contains("cannot be rolled back"), "it says why");
            for run in [environment.preflight(["fix"]).run(), environment.preflight(["undo"]).run()] {
                run.exits(1).prefixed();
                run.holds(run.stderr().contains(missing.to_str().unwrap()), "the copy is named");
                if command == "fix" && environment.state == sandbox.path("state") {
                    run.stderr_matches("rollback-copy-gone.txt");
                }
            }
            assert_same(&environment.site(), &half, failure);
            fs::rename(&aside, &missing).unwrap();
            // A file that is in its place already needs no copy.
            if command == "undo" {
                fs::remove_file(needless.unwrap()).unwrap();
            }
            let next = environment.preflight(["--no-synth"]).run();
            next.exits(1).holds(next.stderr().contains("rolled back"), failure);
            assert_same(&environment.site(), &before, failure);
            environment.left_nothing(failure);
        }
    }
}

/// Cut off, and repaired by hand with pip before the next command: what pip has written stays.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_rollback_leaves_what_pip_has_installed_since() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).var(FAILPOINT, "kill:verification").run().dies_by(9);
    let site = environment.path("site");
    for name in ["aws_cdk/core", "aws_cdk.core-1.204.0.dist-info"] {
        fs::remove_dir_all(site.join(name)).unwrap();
    }
    for name in ["aws_cdk/core", "aws_cdk.core-1.152.0.dist-info"] {
        let from = sandbox.path("installer/1.152.0").join(name);
        output(&on_this_machine("cp"), &["-Rp".as_ref(), from.as_os_str(), site.join(name).as_os_str()]);
    }
    let run = environment.preflight(["--no-synth"]).run();
    run.stderr_matches("rollback-taken.txt");
    let has = |name: &str| site.join(name).exists();
    assert!(has("aws_cdk.core-1.152.0.dist-info") && !has("aws_cdk.core-1.153.0.dist-info"));
    assert_eq!(fs::read_to_string(site.join("aws_cdk/core/__init__.py")).unwrap(), "1.152.0");
    assert!(has("aws_cdk.aws-imagebuilder-1.153.0.dist-info") && has("jsii-1.57.0.dist-info"));
    environment.left_nothing("by a rollback");
}

/// The undo is complete but for the token and its own files.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn an_undo_killed_at_its_end_is_completed() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    // Before and after the removal of the token.
    for failure in ["kill:remove-token", "kill:remove-token@2"] {
        environment.preflight(["fix"]).run().exits(0);
        environment.preflight(["undo"]).var(FAILPOINT, failure).run().dies_by(9);
        assert!(environment.kept().contains(&"unchanged.json".to_owned()), "{failure}");
        // Killed once more while it is completed.
        environment.preflight(["--no-synth"]).var(FAILPOINT, "kill:remove-token").run();
        environment.preflight(["--no-synth"]).run().exits(1).is_silent();
        assert_same(&environment.site(), &before, failure);
        environment.left_nothing(failure);
    }
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_token_that_cannot_be_removed_is_removed_by_the_next_call() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    environment.preflight(["undo"]).var(FAILPOINT, "fail:remove-token").run().exits(0);
    environment.preflight(["fix", "--dry-run"]).run().exits(0);
    assert_same(&environment.site(), &before, "");
    environment.left_nothing("by the next call");
}

/// `rm -rf` after a kill, and a new environment at the same path.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_recreated_environment_is_not_touched_after_a_kill() {
    for failure in ["kill:remove@2", "kill:place@5", "kill:verification"] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        environment.preflight(["fix"]).run().exits(0);
        let good = environment.keep_copy("good");
        fs::remove_file(good.join(TOKEN)).unwrap();
        environment.preflight(["undo"]).run().exits(0);
        environment.preflight(["fix"]).var(FAILPOINT, failure).run().dies_by(9);
        let recreated = environment.recreate(&good);
        let run = environment.build_image().run();
        run.exits(0).prints(REAL_OUTPUT).prefixed().stderr_matches("rollback-recreated.txt");
        environment.build_image().run().exits(0).is_silent();
        environment.preflight(["fix"]).run().exits(0).is_silent();
        environment.preflight(["undo"]).run().exits(1);
        assert_same(&environment.site(), &recreated, failure);
        let kept = environment.kept();
        assert!(kept.len() == 2 && kept[0].starts_with("interrupted-"), "{failure}: {kept:?}");
        assert!(environment.snapshot().join("0").is_file(), "{failure}: the old files are kept");
    }
}

/// Killed during an undo, which has opened the journal again.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_recreated_environment_is_not_touched_after_a_killed_undo() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let good = environment.keep_copy("good");
    fs::remove_file(good.join(TOKEN)).unwrap();
    environment.preflight(["undo"]).var(FAILPOINT, "kill:restore@5").run().dies_by(9);
    let recreated = environment.recreate(&good);
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-recreated.txt");
    assert_same(&environment.site(), &recreated, "");
}

/// As after `cp -a`, rsync or from a backup: other inodes, the same environment.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_restored_environment_is_rolled_back_after_a_kill() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.content();
    environment.preflight(["fix"]).var(FAILPOINT, "kill:place@5").run().dies_by(9);
    environment.recreate(&environment.keep_copy("backup"));
    let run = environment.preflight(["--no-synth"]).run();
    run.exits(1).holds(run.stderr().contains("rolled back"), "it is the same environment");
    assert_same(&environment.content(), &before, "");
    environment.left_nothing("by a rollback");
}

/// No package manager has written it, so its package does not show it.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_file_that_was_changed_after_a_kill_stays_and_is_named() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let mut before = environment.content();
    environment.preflight(["fix"]).var(FAILPOINT, "kill:verification").run().dies_by(9);
    let changed = "aws_cdk/core/__init__.py";
    fs::write(environment.path("site").join(changed), "mine").unwrap();
    let run = environment.preflight(["--no-synth"]).run();
    run.exits(1).stderr_matches("rollback-changed-file.txt");
    let mut now = environment.content();
    assert!(now.remove(Path::new(changed)).unwrap().contains("mine"));
    before.remove(Path::new(changed));
    assert_same(&now, &before, "all others are as they were");
    environment.left_nothing("by a rollback");
}

/// Ctrl-C in the middle of it: an undo takes no second, and half of it is a mixture of two environments.
#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn an_undo_is_finished_whatever_signal_comes() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let run = environment.preflight(["undo"]).var(FAILPOINT, "interrupt:restore@3").run();
    run.exits(0).is_silent();
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an undo");
}
