//! Undo in an environment that has changed since its repair.

use std::fs;

use serde_json::json;

use super::{REPAIRED, versions, without_times, without_token};
use crate::support::broken_environment::INSTALL;
use crate::support::sandbox::Sandbox;

#[test]
fn undo_without_a_repair() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-nothing.txt");
    environment.left_nothing("by an undo of nothing");
}

#[test]
fn undo_after_the_environment_has_changed() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    environment.installs("jsii", "1.133.0", "");
    let changed = environment.site();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-changed.txt");
    assert_eq!(environment.site(), changed);
}

/// pip ran after the repair. An undo would remove pip's files, so the shim refuses it.
#[test]
fn undo_after_a_reinstallation() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let record = environment.path("site/aws_cdk.core-1.204.0.dist-info/RECORD");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text + "aws_cdk/core/more.py,,\n").unwrap();
    let now = environment.site();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-reinstalled.txt");
    assert_eq!(environment.site(), now);
}

/// `rm -rf`, and a new environment at the same path.
#[test]
fn undo_in_a_recreated_environment_changes_nothing() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let packages = environment.keep_copy("packages");
    environment.preflight(["fix"]).run().exits(0);
    let recreated = environment.recreate(&packages);
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-recreated.txt");
    environment.preflight(["undo", "--list"]).run().exits(0).stdout_matches("undo-list-recreated.txt");
    assert_eq!(environment.site(), recreated);
    let kept = environment.kept();
    let is_kept = matches!(kept.as_slice(), [journal, snapshot]
        if journal.starts_with("repair-") && snapshot.starts_with("snapshot-"));
    assert!(is_kept, "the old files are kept: {kept:?}");
    // The new environment can be repaired like any other, and the old files are still kept.
    environment.preflight(["fix"]).run().exits(0).is_silent();
    environment.preflight(["undo"]).run().exits(0).is_silent();
    assert_eq!(environment.site(), recreated);
    assert_eq!(environment.kept(), kept);
}

/// An environment was repaired, moved away and moved back. Its repair can still be undone.
#[test]
fn undo_in_an_environment_that_is_back_at_its_path() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let packages = environment.keep_copy("packages");
    environment.preflight(["fix"]).run().exits(0);
    let aside = environment.keep_copy("aside");
    environment.recreate(&packages);
    environment.preflight(["undo"]).run().exits(1);
    environment.preflight(["fix"]).run().exits(0);
    environment.recreate(&aside);
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// After `cp -a`, rsync or a restore from a backup, the environment is the same, but its inodes differ.
#[test]
fn undo_in_a_restored_environment() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    environment.recreate(&environment.keep_copy("backup"));
    environment.preflight(["undo"]).run().exits(0).is_silent();
    assert_eq!(environment.content(), without_times(&before));
    environment.left_nothing("by an undo");
}

#[test]
fn undo_after_new_files_are_gone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let site = environment.path("site");
    for gone in ["aws_cdk/core", "aws_cdk.core-1.204.0.dist-info", "jsii"] {
        fs::remove_dir_all(site.join(gone)).unwrap();
    }
    fs::remove_file(site.join("aws_cdk.aws-imagebuilder-1.204.0.dist-info/RECORD")).unwrap();
    environment.preflight(["undo"]).run().exits(0).is_silent().stdout_matches("undo.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an undo");
}

/// The new `.dist-info` of aws-cdk.core is gone. Another release of aws-cdk.core is further back on
/// `sys.path`, in a directory where the repair has changed nothing.
#[test]
fn undo_after_new_files_are_gone_that_the_system_has_too() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    let system = sandbox.path("usr/lib/python3/dist-packages");
    environment.is(&[("sysPath", json!([environment.path("site"), system]))]);
    environment.wheel(&system, "aws-cdk.core", "1.100.0", "", &[]);
    environment.preflight(["fix"]).run().exits(0);
    fs::remove_dir_all(environment.path("site/aws_cdk.core-1.204.0.dist-info")).unwrap();
    environment.preflight(["undo"]).run().exits(0).is_silent();
    assert_eq!(environment.site(), before);
}

/// The new files are links to the installer's cache, which is then removed, as by `uv cache clean`.
#[test]
fn undo_after_links_to_the_new_files_are_dead() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.installs_by(&INSTALL.replace("cp -Rp", "cp -Rs"));
    environment.preflight(["fix"]).run().exits(0);
    fs::remove_dir_all(sandbox.path("installer/1.204.0")).unwrap();
    environment.preflight(["undo"]).run().exits(0).is_silent().stdout_matches("undo.txt");
    assert_eq!(environment.site(), before);
    environment.left_nothing("by an undo");
}

#[test]
fn undo_after_a_new_file_was_changed_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    fs::write(environment.path("site/aws_cdk/aws_imagebuilder/__init__.py"), "1.204.1").unwrap();
    let changed = environment.site();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("undo-changed-file.txt");
    assert_eq!(environment.site(), changed);
    environment.keeps_the_last_one();
}

/// Another file now has the path of an old file that the repair removed and did not replace.
#[test]
fn undo_where_another_file_is_in_the_way_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let old = environment.path("site/aws_cdk/aws_imagebuilder/only_in_1.153.0/a, b.py");
    fs::create_dir_all(old.parent().unwrap()).unwrap();
    fs::write(&old, "mine").unwrap();
    let run = environment.preflight(["undo"]).run();
    run.exits(1)
        .prefixed()
        .holds(run.stderr().contains("a, b.py was changed after the repair"), "it is named");
    assert_eq!(fs::read_to_string(&old).unwrap(), "mine");
}

/// Each user has their own state directory.
#[test]
fn users_who_share_an_environment_undo_their_own_repairs() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix", "--strategy", "downgrade"]).run().exits(0);
    let downgraded = environment.site();
    environment.has_an_advisory_on_1_152_0();
    let other = sandbox.path("state-of-another");
    environment.preflight(["fix"]).var("XDG_STATE_HOME", &other).run().exits(0);
    assert_eq!(versions(&environment), REPAIRED);
    environment.preflight(["undo"]).var("XDG_STATE_HOME", &other).run().exits(0);
    assert_eq!(environment.content(), without_times(&without_token(downgraded)));
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}
