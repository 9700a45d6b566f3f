//! Environments that were replaced, restored or changed after a kill.

use std::fs;
use std::path::Path;

use super::{FAILPOINT, assert_same};
use crate::support::broken_environment::TOKEN;
use crate::support::fakes::REAL_OUTPUT;
use crate::support::sandbox::Sandbox;

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

/// A killed undo leaves an open journal, as a killed repair does.
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

/// After `cp -a`, rsync or a restore from a backup, the environment is the same, but its inodes differ.
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

/// The user has changed a file by hand, so the package's metadata does not show the change.
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
