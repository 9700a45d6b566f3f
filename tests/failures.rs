//! Checks that cannot run: one warning line names the check, and the real pcluster runs. With strict, the
//! call stops. The failure of a child is never a failure of the shim.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::fakes::{BAD, REAL, REAL_OUTPUT};
use crate::support::sandbox::Sandbox;

const FRAME: &str = r#"printf '\n%s\n' "$sentinel""#;

/// Asserts that a call prints one warning line and runs the real pcluster, and that with strict the call
/// stops and says why.
#[track_caller]
fn warned(sandbox: &Sandbox, what: &str, snapshot: &str) {
    let run = sandbox.build_image().run();
    run.exits(0).prints(REAL_OUTPUT).warns_once(what).stderr_matches(snapshot);
    assert_eq!(sandbox.log().last().unwrap(), REAL);
    sandbox.clear_log();
    let run = sandbox.build_image().var("PCLUSTER_SHIM_STRICT", "1").run();
    run.exits(1).stops_unchecked(what).holds(!sandbox.log().contains(&REAL.to_owned()), "strict stops");
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

/// A child that hangs is ended, together with everything that it started.
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

/// A check does not wait for a grandchild that outlives its parent.
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

/// In a real environment, a missing Node makes the synthesis fail too, but only one line is printed.
#[test]
fn a_missing_node_is_reported_once() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    std::fs::remove_file(sandbox.path("node/node")).unwrap();
    environment.synthesizes("echo 'Unable to find node executable' >&2; exit 1");
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).warns_once("node");
}

/// After a batch job has ended, TMPDIR can name a directory that no longer exists. Python then uses another
/// directory, and so does a check.
#[test]
fn without_the_directory_for_temporary_files_everything_is_checked() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let call = || sandbox.build_image().var("TMPDIR", "/nonexistent/tmp");
    call().run().exits(0).prints(REAL_OUTPUT).is_silent();
    environment.builds(BAD);
    call().argument("--debug").run().exits(1).prefixed();
    environment.is_broken();
    call().run().exits(1).prefixed();
}

/// Runs `preflight fix`, and returns the directory with the repair state of the sandbox's environment.
fn state_of(sandbox: &Sandbox) -> PathBuf {
    sandbox.pcluster(["preflight", "fix"]).run().exits(0);
    let environments = sandbox.path("state/pcluster-shim/environments");
    environments.read_dir().unwrap().next().unwrap().unwrap().path()
}

const NOT_ROLLED_BACK: &str = "repair: an interrupted repair cannot be rolled back";

/// If a journal cannot be parsed, or a copy that the journal names is gone, advisories and template are
/// still checked.
#[test]
fn a_repair_that_cannot_be_rolled_back_turns_no_check_off() {
    type Damage = fn(&Sandbox, &Path);
    let damages: [(&str, Damage); 2] = [
        ("damaged", |sandbox, state| drop(sandbox.write(state.join("journal.json"), "{\"id\": 3"))),
        ("stuck", |sandbox, state| {
            let gone = sandbox.path("venv/site/gone.py");
            let journal = json!({
                "id": "1", "site": sandbox.path("venv/site"), "changes": [],
                "removed": [{"path": gone, "copy": "0"}], "created": [],
            });
            sandbox.write(state.join("journal.json"), journal.to_string());
        }),
    ];
    for (name, damage) in damages {
        let sandbox = Sandbox::new();
        let environment = sandbox.environment();
        damage(&sandbox, &state_of(&sandbox));

        // Every check that could run has passed, so the real pcluster runs, both times.
        for _ in 0..2 {
            let run = sandbox.build_image().run();
            run.exits(0).prints(REAL_OUTPUT).warns_once(NOT_ROLLED_BACK);
            run.stderr_matches(&format!("journal-{name}-guard.txt"));
        }
        let run = sandbox.build_image().var("PCLUSTER_SHIM_STRICT", "1").run();
        run.exits(1).stops_unchecked("strict").holds(run.stdout().contains("CheckNotRun"), "stdout says so");
        let run = sandbox.pcluster(["preflight", "check"]).run();
        run.exits(3).is_silent().stdout_matches(&format!("journal-{name}-check.txt"));
        // Commands that would change the environment refuse.
        for command in ["fix", "undo"] {
            sandbox.pcluster(["preflight", command]).run().exits(1).prints("").prefixed();
        }

        // The build is blocked, first by the template, then by an advisory.
        environment.builds(BAD);
        let run = sandbox.build_image().argument("--debug").run();
        run.exits(1).prefixed().holds(run.stderr().contains(NOT_ROLLED_BACK), "that is reported too");
        environment.is_broken();
        let run = sandbox.build_image().run();
        run.exits(1).prefixed().stderr_matches(&format!("journal-{name}-blocked.txt"));
        run.holds(
            run.stdout().contains("cdk-imagebuilder-1.153.0") || run.stdout().contains("1.153.0"),
            "named",
        );
        let run = sandbox.build_image().var("PCLUSTER_SHIM_MODE", "fix").run();
        run.exits(1).prefixed().holds(!sandbox.log().contains(&"uv install".to_owned()), "no repair on top");
        sandbox.pcluster(["preflight", "check"]).run().exits(1).is_silent();
        assert_eq!(sandbox.log().iter().filter(|line| line.starts_with("real ")).count(), 2);
    }
}

/// A check needs no state directory. Here, `XDG_STATE_HOME` names a file or a device, or is unset.
#[test]
fn without_a_state_directory_everything_is_checked() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let file = sandbox.write("home/a-file", "");
    let calls = || {
        [
            sandbox.build_image().var("XDG_STATE_HOME", &file),
            sandbox.build_image().var("XDG_STATE_HOME", "/dev/null"),
            sandbox.build_image().without("XDG_STATE_HOME").without("HOME"),
        ]
    };
    for call in calls() {
        call.run().exits(0).prints(REAL_OUTPUT).is_silent();
    }
    environment.is_broken();
    for call in calls() {
        call.run().exits(1).prefixed();
    }
}

/// The lock file in the state directory keeps two repairs from running at once. A check does not need it.
#[test]
fn a_lock_that_cannot_be_opened_turns_no_check_off() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let state = state_of(&sandbox);
    fs::remove_file(state.join("lock")).unwrap();
    fs::create_dir(state.join("lock")).unwrap();
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
    environment.is_broken();
    sandbox.build_image().run().exits(1).prefixed();
}
