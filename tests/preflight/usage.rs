//! Help, wrong usage, and the forms of an error.

use serde_json::{Value, json};

use crate::support::run::{Call, Run};
use crate::support::sandbox::Sandbox;

/// Options that all commands have may also precede the name of the command. Options of `check` are refused
/// there, because the command would not get them.
#[test]
fn common_options_may_stand_before_the_command() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let json = sandbox.pcluster(["preflight", "advisories", "--format", "json"]).run();
    sandbox.pcluster(["preflight", "--format", "json", "advisories"]).run().exits(0).prints(&json.stdout());
    let lost = sandbox.pcluster(["preflight", "-c", "image.yaml", "where"]).run();
    lost.exits(2).prints("").stderr_matches("usage-lost.txt");
}

#[test]
fn usage_errors_say_what_is_wrong() {
    let sandbox = Sandbox::new();
    for (snapshot, arguments) in [
        ("option", ["preflight", "--nonsense"]),
        ("command", ["preflight", "chekc"]),
        ("value", ["preflight", "--format=xml"]),
        ("missing", ["preflight", "template"]),
    ] {
        let run = sandbox.pcluster(arguments).run();
        run.exits(2).prints("").stderr_matches(&format!("usage-{snapshot}.txt"));
    }
    let run = sandbox.pcluster(["preflight", "where", "--format=junit"]).run();
    run.exits(2).prints("").stderr_matches("usage-format.txt");
    // The second time, the file exists.
    for _ in 0..2 {
        let run = sandbox.pcluster(["preflight", "image.yaml"]).run();
        run.exits(2).prints("").stderr_matches("usage-file-as-command.txt");
        sandbox.write("work/image.yaml", "");
    }
    let run = sandbox.pcluster(["preflight", "check", "image.yaml"]).run();
    run.exits(2).prints("").stderr_matches("usage-file-as-argument.txt");
}

#[test]
pub(super) fn help() {
    let sandbox = Sandbox::new();
    let fits = |run: &Run| {
        run.holds(run.stdout().lines().all(|line| line.chars().count() <= 80), "no line is over 80 columns");
    };
    let run = sandbox.pcluster(["preflight", "--help"]).run();
    run.exits(0).is_silent().stdout_matches("help.txt");
    fits(&run);
    sandbox.pcluster(["preflight", "-h"]).run().exits(0).is_silent();
    sandbox.pcluster(["preflight", "help"]).run().exits(0).is_silent().prints(&run.stdout());
    for command in [
        "check",
        "fix",
        "undo",
        "template",
        "stack",
        "images",
        "where",
        "advisories",
        "completions",
        "man",
        "version",
    ] {
        let run = sandbox.pcluster(["preflight", command, "--help"]).run();
        run.exits(0).is_silent().stdout_matches(&format!("help-{command}.txt"));
        fits(&run);
        sandbox.pcluster(["preflight", "help", command]).run().exits(0).is_silent().prints(&run.stdout());
    }
    for version in ["--version", "-V", "version"] {
        let run = sandbox.pcluster(["preflight", version]).run();
        run.exits(0).is_silent().prints(concat!("pcluster preflight ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    let run = sandbox.pcluster(["preflight", "help", "nonsense"]).run();
    run.exits(2).prints("").stderr_matches("help-nonsense.txt");
}

#[test]
fn a_policy_is_printed_without_a_pcluster() {
    let sandbox = Sandbox::new();
    for policy in ["list", "repair", "delete"] {
        let run = sandbox.pcluster(["preflight", "images", "--print-policy", policy]).run();
        run.exits(0).is_silent().stdout_matches(&format!("policy-{policy}.json"));
        assert!(serde_json::from_slice::<Value>(&run.stdout).is_ok());
    }
    let run = sandbox.pcluster(["preflight", "check", "--aws", "--print-policy"]).run();
    run.exits(0).is_silent().stdout_matches("policy-check.json");
}

#[test]
fn contradictory_options_of_images_are_refused() {
    let sandbox = Sandbox::new();
    for (first, second, name) in [
        ("--repair", "--delete", "images-repair-delete"),
        ("--all-regions", "--region=us-east-1", "images-regions"),
    ] {
        let run = sandbox.pcluster(["preflight", "images", first, second]).run();
        run.exits(2).prints("").stderr_matches(&format!("{name}.txt"));
    }
}

/// For each kind of error, `--format json` prints the error as JSON. The exit status is the same as without
/// `--format`, and stderr has the message in one line.
#[test]
fn every_error_has_a_json_form() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.answers(&json!({"kind": "rejected", "stage": "configuration", "message": "no\n such"}));
    sandbox.write("work/words", "just words\n");
    sandbox.build_image();
    for (status, arguments) in [
        (2, "advisories nonsense"),
        (2, "template absent"),
        (2, "template words"),
        (2, "check -c absent.yaml"),
        (2, "check -c image.yaml -i my-image"),
        (127, "check --real absent"),
        (127, "fix --real ."),
        (1, "undo"),
        (2, "-q advisories nonsense"),
        (2, "nonsense"),
        (2, "template"),
        (2, "--color blue"),
        (2, "help nonsense"),
    ] {
        let run = |more: &[&str]| {
            let words = arguments.split(' ').chain(more.iter().copied());
            words.fold(sandbox.pcluster(["preflight"]), Call::argument).run()
        };
        let human = run(&[]);
        human.exits(status).prints("");
        for more in [&["--format", "json"][..], &["--format=json"]] {
            let run = run(more);
            run.exits(status).prefixed();
            let error: Value = serde_json::from_slice(&run.stdout).unwrap();
            let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&error), ["schemaVersion", "error"], "{arguments}");
            assert_eq!(keys(&error["error"]), ["message", "hint"], "{arguments}");
            let message = error["error"]["message"].as_str().unwrap();
            assert!(!message.contains('\n') && !error["error"]["hint"].as_str().unwrap().is_empty());
            run.holds(
                run.stderr() == format!("pcluster-shim: error: {message}\n"),
                "the message in one line",
            );
        }
    }
    let run = sandbox.pcluster(["preflight", "chekc", "--format=json"]).run();
    run.exits(2).stdout_matches("usage-command.json");
    // Help has no JSON form: `--format=json` does not change the output.
    let help = sandbox.pcluster(["preflight", "--help"]).run();
    sandbox.pcluster(["preflight", "--help", "--format=json"]).run().exits(0).prints(&help.stdout());
    // The report of `where` contains both what was found and the error.
    let call = sandbox.pcluster(["preflight", "where", "--format=json"]).path(&[sandbox.path("shim")]);
    let run = call.run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.exits(127).holds(report["error"]["message"].is_string() && report["real"].is_null(), "both");
}

/// A pipeline reads the output even after an error, so the error has the format that `--format` names.
#[test]
fn an_error_has_the_form_of_a_pipeline() {
    let sandbox = Sandbox::new();
    let call = |form: &str| {
        let call = sandbox.pcluster(["preflight", "check", "-c", "no:such, 100%.yaml", "--format", form]);
        call.run()
    };
    call("junit").exits(2).stdout_matches("error.xml").stderr_matches("error-in-form.txt");
    call("github").exits(2).stdout_matches("error.github.txt").stderr_matches("error-in-form.txt");
}

/// With `--all`, the reports of all environments are in one document.
#[test]
fn every_report_of_all_is_in_the_form_of_a_pipeline() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = |form: &str| sandbox.pcluster(["preflight", "check", "--all", "--format", form]).run();
    call("junit").exits(0).stdout_matches("all.xml");
    call("github").exits(0).stdout_matches("all.github.txt");
}

#[test]
fn constraints_that_cannot_work_are_refused() {
    let sandbox = Sandbox::new();
    let constraints = |arguments: &str| {
        arguments.split(' ').fold(sandbox.pcluster(["preflight", "constraints"]), Call::argument).run()
    };
    for (arguments, snapshot) in [
        ("3.1.0", "constraints-unpublished"),
        ("3.16.1 --python 3.8", "constraints-python"),
        ("3.1.3 --python 3.5", "constraints-python-old"),
    ] {
        constraints(arguments).exits(1).prints("").prefixed().stderr_matches(&format!("{snapshot}.txt"));
    }
    let json = constraints("3.1.0 --format json");
    json.exits(1).holds(json.stdout().contains("never published"), "as JSON too");
    constraints("3.13.2 --python 3.9").exits(0).is_silent();
    constraints("3.13.2+ours").exits(0).is_silent();
    constraints("3.17.0").exits(0).is_silent().stdout_matches("constraints-newer.txt");
    constraints("3.16.3").exits(0).is_silent().stdout_matches("constraints-unmeasured.txt");
}

#[test]
fn real_takes_the_environment_of_a_pcluster() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let run = sandbox
        .pcluster(["preflight", "--format", "json"])
        .argument("--real")
        .argument(sandbox.path("venv"))
        .run();
    run.exits(0).is_silent();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["target"]["path"], json!(sandbox.path("venv/bin/pcluster")));
}

#[test]
fn constraints_can_pin_pcluster_itself() {
    let sandbox = Sandbox::new();
    let run = sandbox.pcluster(["preflight", "constraints", "3.13.2", "--pin"]).run();
    run.exits(0).holds(run.stdout().ends_with("aws-parallelcluster==3.13.2\n"), "the last line");
}
