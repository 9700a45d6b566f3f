//! Repairs and checks that wait for each other, and an interruption.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::{assert_same, fifo, wait_for_holders};
use crate::signals::ignoring_nothing;
use crate::support::fakes::REAL_OUTPUT;
use crate::support::machine::wait_for;
use crate::support::sandbox::Sandbox;

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
        // A third fix is interrupted while it waits for the lock. The shim begins to catch signals when it
        // starts its first child process. A fix starts a child process before it opens the lock file, so the
        // third fix catches this SIGTERM.
        let third = scope.spawn(|| environment.preflight(["fix"]).run());
        let pids = wait_for_holders(&lock, 3);
        // The new PID need not be the highest, because PIDs start again at low numbers.
        let newest = *pids.iter().find(|pid| !two.contains(pid)).unwrap();
        kill_process(Pid::from_raw(newest).unwrap(), Signal::TERM).unwrap();
        third.join().unwrap().dies_by(15).prints("").says_at_most_that_it_waits();
        environment.installs_by(crate::support::broken_environment::INSTALL);
        // Lets the installation of the first fix continue.
        fs::write(&hold, "").unwrap();
        let first = first.join().unwrap();
        first.exits(0);
        let second = second.join().unwrap();
        second.exits(0).stdout_matches("repair/fix-nothing.txt");
        let waiting = format!("waiting for another repair of this environment to finish (process {holder})");
        second.holds(second.stderr().contains(&waiting), "it says whom it waits for");
    });
    environment.keeps_the_last_one();
}

/// The test holds the lock of an exchange, like a repair that was stopped by Ctrl-Z during its exchange. A
/// check that waits for the lock names the process of the repair.
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
            "pcluster-shim: waiting for another repair of this environment to finish (process 4711)\n"
        );
        drop(exchange);
        check.join().unwrap().exits(0);
    });
    assert_eq!(fs::read_to_string(&errors).unwrap().lines().count(), 1, "it is said once");
}

/// A check is still reading the environment, so the repair waits for the check.
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

/// The repair has exchanged the files, but it has not verified them yet, so a check waits for the repair.
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
        // The FIFO is removed before it is closed, so that no later reader blocks.
        let open = fs::OpenOptions::new().write(true).open(&hold).unwrap();
        fs::remove_file(&hold).unwrap();
        drop(open);
        fix.join().unwrap().exits(0);
        let check = check.join().unwrap();
        check.exits(0).prints(REAL_OUTPUT);
        // The check reports its wait if the wait takes more than a second.
        let is_wait = |line: &str| line.starts_with("pcluster-shim: waiting for another repair");
        check.holds(check.stderr().lines().all(is_wait), "nothing else is reported");
    });
}

/// If a repair is interrupted during its verification, it is rolled back, and the process dies by
/// the signal.
#[test]
fn interrupted_while_it_verifies() {
    for signal in ["TERM", "INT", "HUP"] {
        let sandbox = Sandbox::new();
        let environment = sandbox.broken_environment();
        let before = environment.site();
        // The shim runs the installer's `check` before the exchange, and again in the verification. The new
        // packages are in place only in the verification, so this script sends the signal only then.
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
