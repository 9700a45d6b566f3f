//! Known failures of PATH shims and their installers in other projects. Each of the 31 rows except row 18 has
//! at least one test with the row's number in its name, here or in the module of its subject.
//!
//! | row | trap | row | trap |
//! | --- | --- | --- | --- |
//! | 1 | the shim finds itself | 17 | empty or relative entries of PATH |
//! | 2 | a copy or another build of the shim | 18 | world-writable entries of PATH |
//! | 3 | a loop of execs | 19 | directories and debris named pcluster |
//! | 4 | two managers of shims | 20 | dead interpreters |
//! | 5 | the guard against loops leaks to grandchildren | 21 | forms of launchers |
//! | 6 | an activated environment comes first | 22 | the check sees another Python |
//! | 7 | the shim is on PATH already, but not first | 23 | slow shims (and `scripts/bench`) |
//! | 8 | the shell's hash of commands | 24 | no real pcluster |
//! | 9 | `argv[0]` | 25 | many checks at once |
//! | 10 | bytes that are not UTF-8 | 26 | the shim is replaced while it runs |
//! | 11 | exit status and signals | 27 | another installer overwrites the shim |
//! | 12 | dispositions of signals | 28 | uninstall removes too much or too little |
//! | 13 | ^C during a check | 29 | an install script that is cut off |
//! | 14 | stdin and the terminal | 30 | edits of startup files |
//! | 15 | stdout polluted | 31 | the shim's own failures block every build |
//! | 16 | the environment leaks | | |
//!
//! The shim avoids every trap, except for row 18 and one case of row 12. Row 18: the shim runs a pcluster
//! from a world-writable entry of PATH, as a shell does. Row 12: if the caller ignores SIGPIPE, the real
//! program starts with the default action of SIGPIPE. Rust's start-up ignores SIGPIPE before `main`, and the
//! standard library's `exec` resets it to the default. The earlier disposition cannot be found out
//! afterwards: `/proc` shows only the current one. Reading it before `main`, or keeping it, would take more
//! unsafe code than the signal handlers need, or an unstable compiler flag (`-Zon-broken-pipe`). Python does
//! not notice, because it ignores SIGPIPE itself when it starts. The mask of blocked signals and every other
//! disposition are kept.

use std::fs;

use crate::support::fakes::REAL_OUTPUT;
use crate::support::sandbox::Sandbox;

/// Trap 17: `where` warns, but refuses nothing.
#[test]
fn entries_that_depend_on_the_current_directory_are_reported() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let shim = sandbox.path("shim").display().to_string();
    let rest = ["venv/bin", "node", "tools"].map(|name| sandbox.path(name).display().to_string()).join(":");
    let call = |path: String| sandbox.pcluster(["preflight", "where"]).var("PATH", path);
    let json = |path: String| call(path).argument("--format").argument("json").run();
    let run = json(format!("{shim}:{rest}"));
    run.exits(0).is_silent().holds(run.stdout().contains("\"warnings\": []"), "nothing to warn of");
    call(format!("{shim}::bin:{rest}")).run().exits(0).is_silent().stdout_matches("where-entries.txt");
    json(format!("{shim}::bin:{rest}")).exits(0).is_silent().stdout_matches("where-entries.json");
}

/// If the config, the advisories or the state of the shim are damaged, the shim at most warns, and the build
/// continues. With mode off, the shim does not even warn.
#[test]
fn trap_31_no_fault_of_the_shims_own_stops_a_build() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    sandbox.write("advisories.yaml", b"\xff: [not yaml");
    let advisories = format!("advisories: [{}]\n", sandbox.path("advisories.yaml").display());
    for config in [&b"\xff: ["[..], b"mode: loud\n", b"nonsense: 1\n", advisories.as_bytes(), b""] {
        sandbox.write("config/pcluster-shim/config.yaml", config);
        let run = sandbox.build_image().run();
        run.exits(0).prints(REAL_OUTPUT).prefixed();
        run.holds(run.stderr().is_empty() == config.is_empty(), "a warning where there is damage");
    }
    let _ = fs::remove_dir_all(sandbox.path("state/pcluster-shim"));
    sandbox.write("state/pcluster-shim", "a file in the place of the directory");
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
    let nowhere = "/proc/nonexistent";
    let call = sandbox.build_image().var("HOME", nowhere).var("XDG_STATE_HOME", nowhere);
    call.run().exits(0).prints(REAL_OUTPUT);
    // Mode off works with malformed settings, and in an environment that would be blocked.
    environment.is_broken();
    sandbox.write("config/pcluster-shim/config.yaml", b"\xff: [");
    sandbox.build_image().run().exits(1);
    sandbox.clear_log();
    let run = sandbox.build_image().var("PCLUSTER_SHIM_MODE", "off").run();
    run.exits(0).prints(REAL_OUTPUT).prefixed();
    assert_eq!(sandbox.log(), [crate::support::fakes::REAL], "nothing else was started");
}
