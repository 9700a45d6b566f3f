//! Journals and snapshots that are damaged, forged or of an older version.

use std::fs;

use serde_json::{Value, json};

use super::{edit, without_times};
use crate::support::broken_environment::{TOKEN, set_mode};
use crate::support::sandbox::Sandbox;

/// If a journal is damaged or of a later version, the state of the repair is not known.
#[test]
fn a_journal_that_cannot_be_read_is_reported() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix", "--dry-run"]).run().exits(0);
    let journal = environment.repairs().join("journal.json");
    fs::write(&journal, "{\"id\": 3").unwrap();
    set_mode(&journal, 0o644);
    for arguments in [["fix"], ["undo"]] {
        environment.preflight(arguments).run().exits(1).prefixed().stderr_matches("journal-damaged.txt");
    }
}

/// If a copy is gone, is shorter, or has other content of the same size, nothing is removed.
#[test]
fn an_undo_with_a_damaged_copy_changes_nothing() {
    let sandbox = Sandbox::new();
    for environment in [sandbox.broken_environment(), Sandbox::new().broken_environment_across_file_systems()]
    {
        let before = environment.site();
        environment.preflight(["fix"]).run().exits(0);
        let repaired = environment.site();
        // The content of this file is the version of the CDK release. In the copy, this is 1.153.0, which has
        // the same size as 1.999.9 below.
        let core = "venv/site/aws_cdk/core/__init__.py";
        let journal = fs::read_to_string(environment.closed_journal()).unwrap();
        let journal: Value = serde_json::from_str(&journal).unwrap();
        let saved = journal["removed"].as_array().unwrap().iter();
        let saved = saved.into_iter().find(|saved| saved["path"].as_str().unwrap().ends_with(core)).unwrap();
        let copy = environment.snapshot().join(saved["copy"].as_str().unwrap());
        let content = fs::read(&copy).unwrap();
        let kept = environment.kept();
        for (damage, name) in [(None, "gone"), (Some("1.1"), "shorter"), (Some("1.999.9"), "other")] {
            fs::remove_file(&copy).unwrap();
            if let Some(text) = damage {
                fs::write(&copy, text).unwrap();
            }
            let run = environment.preflight(["undo"]).run();
            run.exits(1).prefixed();
            run.holds(run.stderr().contains(copy.to_str().unwrap()), "the copy is named");
            if environment.state == sandbox.path("state") {
                run.stderr_matches(&format!("undo-copy-{name}.txt"));
            }
            assert!(environment.site() == repaired, "{name}: something was changed");
            assert_eq!(environment.kept(), kept, "{name}");
            environment.preflight([]).run().exits(0).is_silent();
            fs::write(&copy, &content).unwrap();
        }
        environment.preflight(["undo"]).run().exits(0);
        assert_eq!(environment.content(), without_times(&before));
    }
}

/// If the journal of the last repair is damaged or empty, that is reported, and nothing is deleted.
#[test]
fn a_last_journal_that_cannot_be_read_deletes_nothing() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    let last = environment.closed_journal();
    let content = fs::read(&last).unwrap();
    // The lock file contains the PID of its last holder.
    let without_lock = |tree: String| {
        tree.lines().filter(|line| !line.contains("/lock ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let state = without_lock(sandbox.tree("state"));
    for (damage, name) in [("{}", "empty-object"), ("", "empty"), ("{\"id\": 3", "half")] {
        fs::write(&last, damage).unwrap();
        environment
            .preflight(["undo"])
            .run()
            .exits(1)
            .prefixed()
            .stderr_matches(&format!("undo-last-{name}.txt"));
        environment.preflight([]).run().exits(0).is_silent();
        let run = environment.preflight(["fix"]).run();
        run.exits(0).stdout_matches("fix-nothing.txt");
        run.warns_once("/repair-");
        assert!(environment.site() == repaired, "{name}: something was changed");
        fs::write(&last, &content).unwrap();
        assert_eq!(without_lock(sandbox.tree("state")), state, "{name}");
    }
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// A journal is not trusted: files that it names outside the environment's packages are not touched.
#[test]
fn a_journal_that_names_files_outside_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    let mine = sandbox.write("home/mine", "mine");
    let last = environment.closed_journal();
    let content = fs::read(&last).unwrap();
    let site = environment.path("site");
    sandbox.link(site.join("elsewhere"), sandbox.path("home"));
    let outside = [
        json!(mine),
        json!(site.join("../../home/mine")),
        json!(site.join("elsewhere/mine")),
        json!("relative/mine"),
    ];
    for (number, path) in outside.iter().enumerate() {
        for list in ["created", "removed"] {
            edit(&last, |journal| match list {
                "created" => journal["created"][0] = path.clone(),
                _ => journal["removed"][0]["path"] = path.clone(),
            });
            let run = environment.preflight(["undo"]).run();
            run.exits(1).prefixed();
            if list == "created" && number == 0 {
                run.stderr_matches("undo-outside.txt");
            }
            run.holds(run.stderr().contains("was rejected"), &format!("{list} {path}"));
            assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
            fs::write(&last, &content).unwrap();
        }
    }
    edit(&last, |journal| journal["removed"][0]["copy"] = json!("../../mine"));
    environment.preflight(["undo"]).run().exits(1).prefixed();
    fs::write(&last, &content).unwrap();
    edit(&last, |journal| journal["site"] = json!("/"));
    environment.preflight(["undo"]).run().exits(1).prefixed();
    // A `journal.json` belongs to an interrupted repair, and commands roll that repair back. They do not roll
    // back this one, because its journal names `mine`.
    edit(&last, |journal| journal["created"][0] = json!(mine));
    fs::rename(&last, last.with_file_name("journal.json")).unwrap();
    environment.preflight([]).run();
    environment.preflight(["undo"]).run().exits(1).prefixed().stderr_matches("journal-outside.txt");
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
    fs::write(&last, &content).unwrap();
    fs::remove_file(last.with_file_name("journal.json")).unwrap();
    fs::remove_file(site.join("elsewhere")).unwrap();
    assert!(environment.site() == repaired, "something was changed");
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}

/// A token is a line of the environment's token file. An empty token would match any empty line.
#[test]
fn a_journal_with_an_impossible_token_is_refused() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    environment.preflight(["fix"]).run().exits(0);
    let repaired = environment.site();
    edit(&environment.closed_journal(), |journal| journal["token"] = json!(""));
    let run = environment.preflight(["undo"]).run();
    run.exits(1).prefixed().holds(run.stderr().contains("was rejected"), "it says so");
    assert!(environment.site() == repaired, "something was changed");
}

/// A journal as version 0.1.0 wrote it: without sizes, digests, packages and token.
#[test]
fn a_journal_of_before_is_undone() {
    let sandbox = Sandbox::new();
    let environment = sandbox.broken_environment();
    let before = environment.site();
    environment.preflight(["fix"]).run().exits(0);
    fs::remove_file(environment.path("site").join(TOKEN)).unwrap();
    let repaired = environment.site();
    let last = environment.closed_journal();
    edit(&last, |journal| {
        for field in ["sites", "parts", "created_digests", "token"] {
            journal.as_object_mut().unwrap().remove(field).unwrap();
        }
        for saved in journal["removed"].as_array_mut().unwrap() {
            *saved = json!({"path": saved["path"], "copy": saved["copy"]});
        }
        for saved in journal["directories"].as_array_mut().unwrap() {
            *saved = json!([saved["path"], saved["mode"]]);
        }
    });
    fs::rename(&last, last.with_file_name("last.json")).unwrap();
    let copy = environment.snapshot().join("0");
    let aside = sandbox.path("aside");
    fs::rename(&copy, &aside).unwrap();
    let run = environment.preflight(["undo"]).run();
    run.exits(1).holds(run.stderr().contains("snapshot-"), "the copy that is gone is named");
    assert!(environment.site() == repaired, "something was changed");
    fs::rename(&aside, &copy).unwrap();
    environment.preflight(["undo"]).run().exits(0);
    assert_eq!(environment.site(), before);
}
