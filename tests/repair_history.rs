//! The stack of repairs that can be undone: in place and outside the environment, newest first.

use std::fs;

use serde_json::Value;

use crate::support::sandbox::Sandbox;

#[test]
fn two_fixes_are_undone_by_two_undos() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix", "--isolated"]).run().exits(0);
    environment.preflight(["fix"]).run().exits(0);
    // After the repair in place, the overlay of the first fix is neither used nor reported as stale.
    environment.build_image().run().exits(0).is_silent();
    let list = environment.preflight(["undo", "--list", "--format", "json"]).run();
    let list: Value = serde_json::from_str(&list.exits(0).stdout()).unwrap();
    let isolated: Vec<_> =
        list["repairs"].as_array().unwrap().iter().map(|repair| &repair["isolated"]).collect();
    assert_eq!(isolated, [false, true], "{list}");
    assert_ne!(environment.site(), before);
    environment.preflight(["undo"]).run().exits(0).stdout_matches("repair/undo.txt");
    assert_eq!(environment.site(), before);
    // The overlay is used again.
    environment.build_image().run().exits(0);
    environment.preflight(["undo"]).run().exits(0).stdout_matches("repair/undo-isolated.txt");
    environment.build_image().run().exits(1);
    environment.preflight(["undo"]).run().exits(1).stderr_matches("repair/undo-nothing.txt");
    environment.left_nothing("by two undos");
}

#[test]
fn the_list_of_repairs_is_printed_with_their_changes() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["undo", "--list"]).run().exits(0).prints("there is no repair to undo\n");
    environment.preflight(["fix"]).run().exits(0);
    let run = environment.preflight(["undo", "--list"]).run();
    let stdout = run.exits(0).stdout();
    let (first, rest) = stdout.split_once('\n').unwrap();
    run.holds(first.starts_with("20") && first.ends_with(" UTC: 3 packages"), "the moment and the count");
    sandbox.matches("repair_history/list.txt", rest);
}

#[test]
fn a_second_isolated_fix_has_nothing_to_do() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix", "--isolated"]).run().exits(0);
    let kept = environment.kept();
    environment.preflight(["fix", "--isolated"]).run().exits(0).stdout_matches("repair/fix-nothing.txt");
    assert_eq!(environment.kept(), kept);
}

/// Every repair that is kept takes space on the disk, so at most five are kept.
#[test]
fn only_five_repairs_are_kept_and_the_loss_of_one_is_said_before() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0).is_silent();
    let newest = environment.closed_journal();
    let directory = newest.parent().unwrap().to_owned();
    for number in 1..=4 {
        fs::write(directory.join(format!("isolated-0{number}.json")), "{}").unwrap();
        fs::create_dir(directory.join(format!("isolated-0{number}"))).unwrap();
    }
    let site = environment.keep_copy("broken");
    let undone = environment.preflight(["undo"]).run();
    undone.exits(0);
    fs::remove_dir_all(site).unwrap();
    fs::write(directory.join("isolated-05.json"), "{}").unwrap();
    environment.preflight(["fix"]).run().exits(0).stderr_matches("repair_history/oldest.txt");
    assert!(!directory.join("isolated-01.json").exists() && !directory.join("isolated-01").exists());
    assert!(directory.join("isolated-02.json").exists());
}

#[test]
fn a_dry_run_names_the_command_that_does_the_same() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let run = environment.preflight(["fix", "--strategy", "downgrade", "--isolated", "--dry-run"]).run();
    let command = "`pcluster preflight fix --strategy downgrade --isolated`";
    run.exits(0).holds(run.stdout().contains(command), "it can be pasted");
}
