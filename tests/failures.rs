//! Checks that cannot run: each one warning line that says which, then the real pcluster; strict
//! stops. A child's failure is never ours.

use crate::fakes::{REAL, REAL_OUTPUT};
use crate::harness::Sandbox;

const FRAME: &str = r#"printf '\n%s\n' "$sentinel""#;

/// One line, delegated; and with strict, the same and a stop.
#[track_caller]
fn warned(sandbox: &Sandbox, what: &str, snapshot: &str) {
    let run = sandbox.build_image().run();
    run.exits(0).prints(REAL_OUTPUT).warns_once(what).stderr_matches(snapshot);
    assert_eq!(sandbox.log().last().unwrap(), REAL);
    sandbox.clear_log();
    let run = sandbox.build_image().var("PCLUSTER_SHIM_STRICT", "1").run();
    run.exits(1).warns_once(what).holds(!sandbox.log().contains(&REAL.to_owned()), "strict stops");
    run.holds(run.stdout().contains("CheckNotRun"), "stdout says so in pcluster's shape");
    sandbox.has_no_scratch();
}

#[test]
fn a_python_that_fails_to_say_who_it_is() {
    for (snapshot, sh) in [
        ("identity-exits.txt", "echo Fatal Python error >&2; exit 3".to_owned()),
        ("identity-dies.txt", "kill -9 $$".to_owned()),
        ("identity-silent.txt", "exit 0".to_owned()),
        ("identity-garbage.txt", "printf 'garbage \\377\\n'".to_owned()),
        ("identity-no-json.txt", format!("{FRAME}; echo '{{'; {FRAME}")),
        ("identity-half.txt", format!("{FRAME}; echo '{{\"executable\": \"/x'")),
        ("identity-other.txt", format!("{FRAME}; echo '{{\"executable\": 3}}'; {FRAME}")),
    ] {
        let sandbox = Sandbox::new();
        sandbox.environment().identifies(&sh);
        warned(&sandbox, "environment", snapshot);
    }
}

#[test]
fn a_synthesis_that_fails() {
    for (snapshot, sh) in [
        (
            "synth-exits.txt",
            "echo Traceback >&2; echo \"ModuleNotFoundError: No module named 'jsii'\" >&2; exit 1".to_owned(),
        ),
        ("synth-dies.txt", "kill -11 $$".to_owned()),
        ("synth-silent.txt", "exit 0".to_owned()),
        ("synth-garbage.txt", "head -c 100 /dev/zero; echo".to_owned()),
        ("synth-other-kind.txt", format!("{FRAME}; echo '{{\"kind\": \"surprise\"}}'; {FRAME}")),
        ("synth-escapes.txt", "printf '\\033[31mred\\033[0m\\n' >&2; exit 1".to_owned()),
    ] {
        let sandbox = Sandbox::new();
        sandbox.environment().synthesizes(&sh);
        warned(&sandbox, "template", snapshot);
    }
}

/// What hangs is ended with all that it started; the limit is a variable.
#[test]
fn a_hang_ends_at_the_time_limit() {
    for (snapshot, identity) in [("identity-hangs.txt", true), ("synth-hangs.txt", false)] {
        let sandbox = Sandbox::new();
        let environment = sandbox.environment();
        let hangs = "sleep 1000 & sleep 1000";
        if identity {
            environment.identifies(hangs);
        } else {
            environment.synthesizes(hangs);
        }
        let run = sandbox.build_image().var("PCLUSTER_SHIM_TIMEOUT", "1").run();
        run.exits(0).prints(REAL_OUTPUT).warns_once("in 1 s").stderr_matches(snapshot);
        sandbox.has_no_scratch();
    }
}

/// A grandchild that outlives its parent keeps the check waiting for nothing.
#[test]
fn what_a_check_leaves_running_does_not_outlive_it() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.synthesizes(&format!("sleep 1000 & {FRAME}; cat \"$fake/synth.json\"; {FRAME}"));
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
}

#[test]
fn a_node_that_is_absent_or_odd() {
    for (snapshot, node) in [
        ("node-absent.txt", None),
        ("node-says-nothing.txt", Some("#!/bin/sh\n")),
        ("node-odd.txt", Some("#!/bin/sh\necho welcome to node\n")),
        ("node-fails.txt", Some("#!/bin/sh\necho 'GLIBC_2.28 not found' >&2; exit 1\n")),
        ("node-dies.txt", Some("#!/bin/sh\nkill -9 $$\n")),
    ] {
        let sandbox = Sandbox::new();
        sandbox.environment();
        std::fs::remove_file(sandbox.path("node/node")).unwrap();
        if let Some(script) = node {
            sandbox.script("node/node", script);
        }
        warned(&sandbox, "node", snapshot);
    }
}

/// In a real environment the synthesis fails for want of Node as well: that is one reason, not two.
#[test]
fn a_missing_node_is_told_once() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    std::fs::remove_file(sandbox.path("node/node")).unwrap();
    environment.synthesizes("echo 'Unable to find node executable' >&2; exit 1");
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).warns_once("node");
}

#[test]
fn without_a_directory_for_temporary_files_the_check_is_unknown() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let run = sandbox.build_image().var("TMPDIR", "/nonexistent/tmp").run();
    run.exits(0).prints(REAL_OUTPUT).warns_once("temporary").stderr_matches("no-tmpdir.txt");
}
