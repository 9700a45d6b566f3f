//! Steps that fail. A failed repair changes nothing, and a rollback restores as many files as it can.

use std::fs;
use std::path::{Path, PathBuf};

use super::{FAILPOINT, MAX_COUNT, STEPS, assert_same};
use crate::support::broken_environment::BrokenEnvironment;
use crate::support::machine::{on_this_machine, output};
use crate::support::sandbox::Sandbox;

/// Runs a repair for each step before the transaction is closed, and for every `nth` file. Each run fails
/// in this step, at this file: one error names the step, and nothing is changed.
fn a_failure_at_every_step_changes_nothing(environment: &BrokenEnvironment, nth: usize) {
    let before = environment.site();
    for step in &STEPS[..9] {
        for count in (1..MAX_COUNT).step_by(nth) {
            let failure = format!("fail:{step}@{count}");
            let run = environment.preflight(["fix"]).var(FAILPOINT, &failure).run();
            if run.status.code() == Some(0) {
                environment.preflight(["undo"]).run().exits(0);
                break;
            }
            run.exits(1).prefixed().prints("");
            if count == 1 && environment.state == environment.sandbox.path("state") {
                run.stderr_matches(&format!("failure-{step}.txt"));
            }
            assert_same(&environment.site(), &before, &failure);
            environment.left_nothing(&failure);
        }
    }
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_failure_at_every_step_changes_nothing_with_links() {
    a_failure_at_every_step_changes_nothing(&Sandbox::new().broken_environment(), 5);
}

#[test]
#[cfg(feature = "fault-injection")]
#[ignore = "long"]
fn a_failure_at_every_file_changes_nothing_with_links() {
    a_failure_at_every_step_changes_nothing(&Sandbox::new().broken_environment(), 1);
}

#[test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
fn a_failure_at_every_step_changes_nothing_with_copies() {
    a_failure_at_every_step_changes_nothing(&Sandbox::new().broken_environment_across_file_systems(), 5);
}

#[test]
#[cfg(feature = "fault-injection")]
#[ignore = "long"]
fn a_failure_at_every_file_changes_nothing_with_copies() {
    a_failure_at_every_step_changes_nothing(&Sandbox::new().broken_environment_across_file_systems(), 1);
}

/// A repair that fails in mode fix stops the build and leaves the environment unchanged.
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

/// If a file cannot be restored, it is named, all other files are restored, and a later run completes
/// the undo.
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

    // A check and a guarded call try to complete the undo, and fail. Both report that, and nothing is lost.
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

/// If a repair fails or is killed, even at its end, the previous repair can still be undone.
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

/// If a copy that a rollback needs is gone, the rollback removes nothing. Once the copy is back, the next run
/// completes the rollback.
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
            // A check continues with the environment as it is, and reports the failed rollback.
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
            // The interrupted undo has already restored some files. To complete the undo, the copies of these
            // files are not needed.
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

/// After a repair was killed, the user ran pip. The next command does not touch what pip has written.
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
