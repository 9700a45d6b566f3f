//! The shim's own commands: check, where, advisories, usage; human and JSON, colour, width, status.

use serde_json::{Value, json};

use crate::support::fakes::BAD;
use crate::support::machine::on_this_machine;
use crate::support::run::{Call, Run};
use crate::support::sandbox::Sandbox;

/// An advisory of the user's own, on a package that every fake environment has.
pub(crate) const ADVISORY: &str = "\
- id: own-advisory
  title: The core package is not to be used here
  level: ERROR
  pcluster: '>=3.0'
  package: aws-cdk.core
  affected: '<2'
  effect: is not allowed in this company
  cost: It would cost a talk with the platform team.
  fix:
    packages: aws-cdk.*
    upgrade: '>=2'
    downgrade: '<1'
  references: ['https://example.com/own']
";

fn check(sandbox: &Sandbox) -> Run<'_> {
    sandbox.pcluster(["preflight", "check"]).run()
}

fn json_of(sandbox: &Sandbox) -> (Value, Run<'_>) {
    let run = sandbox.pcluster(["preflight", "--format", "json"]).run();
    (serde_json::from_slice(&run.stdout).unwrap(), run)
}

/// Three verdicts, two forms, one report.
#[test]
fn every_verdict_in_both_forms() {
    type Change = fn(&crate::support::fakes::Environment);
    let verdicts: [(&str, i32, Change); 5] = [
        ("ready", 0, |_| {}),
        ("blocked", 1, |environment| environment.is_broken()),
        ("blocked-template", 1, |environment| environment.builds(BAD)),
        ("unknown", 3, |environment| {
            environment.answers(&json!({"kind": "failed", "stage": "import", "message": "ModuleNotFoundError: No module named 'pkg_resources'"}));
        }),
        ("mixed", 0, |environment| environment.installs("aws-cdk.core", "1.203.0", "")),
    ];
    for (verdict, status, change) in verdicts {
        let sandbox = Sandbox::new();
        change(&sandbox.environment());
        let human = check(&sandbox);
        human.exits(status).is_silent().stdout_matches(&format!("check-{verdict}.txt"));
        let json = sandbox.pcluster(["preflight", "--format", "json"]).run();
        json.exits(status).is_silent().stdout_matches(&format!("check-{verdict}.json"));
        let (report, run) = json_of(&sandbox);
        run.exits(status);
        let line = human.stdout().lines().next().unwrap().to_owned();
        let word = line.split(',').next().unwrap();
        run.holds(report["verdict"] == word, "human and JSON give the same verdict");
        sandbox.pcluster(["preflight"]).run().prints_like(&human);
        let junit = sandbox.pcluster(["preflight", "--format", "junit"]).run();
        junit.exits(status).is_silent().stdout_matches(&format!("check-{verdict}.xml"));
        let github = sandbox.pcluster(["preflight", "--format", "github"]).run();
        github.exits(status).is_silent().stdout_matches(&format!("check-{verdict}.github.txt"));
        sandbox.has_no_scratch();
    }
}

/// A WARNING blocks in every form, and INFO does not.
#[test]
fn denied_warnings_block() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let denied = |format: &str| {
        sandbox.pcluster(["preflight", "check", "--deny", "warnings", "--format", format]).run()
    };
    denied("human").exits(0);
    environment.installs("aws-parallelcluster", "3.17.0", "");
    denied("human").exits(0).is_silent().stdout_matches("check-newer.txt");
    environment.installs("aws-parallelcluster", "3.1.3", "");
    environment.installs("aws-cdk.core", "1.203.0", "");
    for (format, ending) in [("human", "txt"), ("json", "json"), ("junit", "xml"), ("github", "github.txt")] {
        denied(format).exits(1).is_silent().stdout_matches(&format!("check-denied.{ending}"));
    }
    // The packages alone are enough.
    sandbox.pcluster(["preflight", "--no-synth", "--deny=warnings"]).run().exits(1).is_silent();
    sandbox.build_image().run().exits(0);
    let run = sandbox.pcluster(["preflight", "check", "--deny", "infos"]).run();
    run.exits(2).prints("").stderr_matches("usage-deny.txt");
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

/// The keys that the contract names, with their kinds.
#[test]
fn the_json_has_every_key_of_the_contract() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let (report, _) = json_of(&sandbox);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&report),
        ["schemaVersion", "verdict", "shim", "target", "packages", "checks", "findings"]
    );
    assert_eq!(report["schemaVersion"], 1);
    assert_eq!(keys(&report["shim"]), ["version", "path"]);
    let target = [
        "path",
        "foundBy",
        "launcher",
        "interpreter",
        "pythonVersion",
        "pclusterVersion",
        "node",
        "nodeVersion",
    ];
    assert_eq!(keys(&report["target"]), target);
    assert_eq!(report["packages"]["aws-cdk-aws-imagebuilder"], "1.153.0");
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(keys(check)[..3], ["id", "status", "durationMs"]);
        assert!(check["durationMs"].is_u64());
        assert!(["passed", "failed", "skipped", "unknown"].contains(&check["status"].as_str().unwrap()));
    }
    for finding in report["findings"].as_array().unwrap() {
        for key in ["id", "level", "type", "message", "evidence", "references"] {
            assert!(finding.get(key).is_some(), "{key}: {finding}");
        }
        let kind = finding["type"].as_str().unwrap();
        assert!(kind.ends_with("Advisory") || kind.ends_with("Template"), "{kind}");
        assert!(finding["fix"]["command"].is_string());
    }
    assert_eq!(report["findings"][0]["id"], "cdk-imagebuilder-1.153.0");
}

/// 80 columns, but for a single word that is longer; and no trailing space.
#[test]
fn no_line_is_wider_than_a_terminal() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.is_broken();
    environment.installs("aws-cdk.core", "1.152.0", "");
    sandbox.write("work/template", BAD);
    let mut runs = vec![check(&sandbox), sandbox.pcluster(["preflight", "template", "template"]).run()];
    for more in ["cdk-imagebuilder-1.153.0", "cdk-mixed-versions"] {
        runs.push(sandbox.pcluster(["preflight", "advisories", more]).run());
    }
    environment.identifies(
        "echo a long complaint of a Python that has a lot to say about what it has not got >&2; exit 1",
    );
    runs.push(check(&sandbox));
    runs.push(sandbox.pcluster(["preflight", "advisories"]).run());
    for run in runs {
        for line in run.stdout().lines() {
            let label_and_word = line.split_whitespace().count() <= 2;
            let names_a_path = line.contains(sandbox.root.to_str().unwrap());
            run.holds(
                line.chars().count() <= 80 || label_and_word || names_a_path,
                &format!("too wide: {line}"),
            );
            run.holds(line.trim_end() == line, &format!("a trailing space: {line:?}"));
        }
    }
}

#[test]
fn colour_is_for_terminals_and_for_those_who_ask() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let run = |color: &str| sandbox.pcluster(["preflight", "check", "--color", color]).run();
    run("always").exits(1).stdout_matches("check-blocked-colour.txt");
    let plain = check(&sandbox);
    for color in ["auto", "never"] {
        run(color).exits(1).prints_like(&plain);
    }
    plain.holds(!plain.stdout().contains('\x1b'), "no colour on a pipe");
    let asked = sandbox.pcluster(["preflight", "check", "--color", "always"]).var("NO_COLOR", "1").run();
    asked.prints_like(&run("always"));
}

/// On a terminal there is colour, unless `NO_COLOR` says otherwise.
#[test]
fn no_color_is_honoured_on_a_terminal() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let terminal = "import pty, sys; pty.spawn(sys.argv[1:])";
    let call = || {
        let call = sandbox.pcluster(["preflight", "check", "--no-synth"]);
        call.under(crate::support::machine::real_python(), &["-c", terminal]).var("TERM", "xterm")
    };
    let coloured = |run: &Run| run.stdout().contains("\x1b[1;31m");
    let run = call().run();
    run.holds(coloured(&run), "colour on a terminal");
    let run = call().var("NO_COLOR", "1").run();
    run.holds(!coloured(&run), "NO_COLOR");
    let run = call().var("TERM", "dumb").run();
    run.holds(!coloured(&run), "a dumb terminal");
    let run = call().var("NO_COLOR", "").run();
    run.holds(coloured(&run), "an empty NO_COLOR counts as not set");
}

#[test]
fn quiet_prints_nothing_but_errors() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    for form in ["human", "json"] {
        sandbox
            .pcluster(["preflight", "check", "-q", "--format", form])
            .run()
            .exits(0)
            .prints("")
            .is_silent();
    }
    environment.is_broken();
    sandbox.pcluster(["preflight", "-q"]).run().exits(1).prints("").is_silent();
    sandbox.pcluster(["preflight", "-q", "where"]).run().exits(0).prints("").is_silent();
    let run = sandbox.pcluster(["preflight", "-q", "advisories", "nonsense"]).run();
    run.exits(2).prints("").prefixed().holds(!run.stderr.is_empty(), "errors are reported");
}

#[test]
fn verbose_reports_each_step_in_a_line() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox
        .pcluster(["preflight", "check", "-v"])
        .run()
        .exits(0)
        .prefixed()
        .stderr_matches("check-verbose.txt");
}

#[test]
fn no_synth_starts_only_the_interpreter() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = sandbox.pcluster(["preflight", "check", "--no-synth"]);
    call.run().exits(0).is_silent().stdout_matches("check-no-synth.txt");
    assert_eq!(sandbox.log(), ["identity"]);
}

/// With the user's own configuration, id and region: exactly these reach the real parser.
#[test]
fn the_options_reach_the_real_parser() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let synth = std::fs::read_to_string(environment.path("fake/synth")).unwrap();
    environment.synthesizes(&format!("echo \"$*\" >>\"$log\"; {synth}"));
    sandbox.build_image();
    sandbox
        .pcluster(["preflight", "-c", "image.yaml", "-i", "my-image"])
        .argument("-r")
        .argument("eu-west-1")
        .run()
        .exits(0);
    let asked = "build-image --image-configuration image.yaml --image-id my-image --region eu-west-1";
    assert!(sandbox.log().contains(&asked.to_owned()), "{:?}", sandbox.log());
    sandbox.clear_log();
    sandbox.pcluster(["preflight"]).run();
    let minimal =
        sandbox.log().iter().any(|line| line.ends_with("image-config.yaml --image-id preflight-check"));
    assert!(minimal, "{:?}", sandbox.log());
}

/// A call that the real pcluster would refuse is an error of the caller's, not a verdict.
#[test]
fn a_refused_configuration_is_an_error_of_configuration() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.answers(
        &json!({"kind": "rejected", "stage": "configuration", "message": "{'Bild': ['Unknown field.']}"}),
    );
    sandbox.build_image();
    let run = sandbox.pcluster(["preflight", "-c", "image.yaml", "-i", "my-image"]).run();
    run.exits(2).prints("").prefixed().stderr_matches("check-rejected.txt");
}

#[test]
fn where_reports_what_is_guarded_and_how_it_was_found() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.script("other/pcluster", "#!/bin/sh\n");
    let path = ["shim", "venv/bin", "other", "tools"].map(|name| sandbox.path(name));
    let call = |more: &[&str]| {
        let call = sandbox.pcluster(["preflight", "where"]).path(&path);
        more.iter().fold(call, |call, argument| call.argument(*argument)).run()
    };
    call(&[]).exits(0).is_silent().stdout_matches("where.txt");
    call(&["--format", "json"]).exits(0).is_silent().stdout_matches("where.json");
}

/// Trap 6: an activated venv stands first.
#[test]
fn where_exits_1_where_the_shim_is_bypassed() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let path = ["venv/bin", "shim", "tools"].map(|name| sandbox.path(name));
    let call = || sandbox.pcluster(["preflight", "where"]).path(&path);
    call().run().exits(1).is_silent().stdout_matches("where-bypassed.txt");
    call().argument("--format").argument("json").run().exits(1).stdout_matches("where-bypassed.json");
    let absent = [sandbox.path("venv/bin"), sandbox.path("tools")];
    sandbox.pcluster(["preflight", "where"]).path(&absent).run().exits(1);
}

/// Trap 8: a shell goes on running what it once found, whatever has come before it on PATH since.
#[test]
fn where_reports_a_stale_hash() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = |order: [&str; 3], script: &str| {
        let path = order.map(|name| sandbox.path(name));
        let call = sandbox.call(on_this_machine("bash"), ["--norc", "-c", script]);
        call.var("SHIM", sandbox.path("shim/pcluster")).path(&path).run()
    };
    let run = call(["venv/bin", "shim", "tools"], "hash -p \"$SHIM\" pcluster; pcluster preflight where");
    run.exits(1).is_silent().stdout_matches("where-stale-hash.txt");
    let json = "pcluster preflight where --format json";
    let run = call(["venv/bin", "shim", "tools"], &format!("hash -p \"$SHIM\" pcluster; {json}"));
    run.exits(1).is_silent().holds(run.stdout().contains("\"stale-hash\""), "the warning's id");
    let run = call(["shim", "venv/bin", "tools"], json);
    run.exits(0).is_silent().holds(!run.stdout().contains("\"stale-hash\""), "found anew");
}

#[test]
fn where_names_a_dead_interpreter_and_an_unknown_environment() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    std::fs::remove_file(environment.path("bin/python")).unwrap();
    sandbox.pcluster(["preflight", "where"]).run().exits(0).is_silent().stdout_matches("where-dead.txt");
}

#[test]
fn the_advisories_are_listed() {
    let sandbox = Sandbox::new();
    let call = |more: &[&str]| {
        more.iter()
            .fold(sandbox.pcluster(["preflight", "advisories"]), |call, word| call.argument(*word))
            .run()
    };
    call(&[]).exits(0).is_silent().stdout_matches("advisories.txt");
    call(&["cdk-imagebuilder-1.153.0"]).exits(0).is_silent().stdout_matches("advisories-one.txt");
    let run = call(&["cdk-imagebuilder-1.153.0", "--format", "json"]);
    let list: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.exits(0).is_silent().holds(list["advisories"].as_array().unwrap().len() == 1, "the one");
    for key in
        ["id", "title", "level", "pcluster", "package", "affected", "effect", "cost", "fix", "references"]
    {
        run.holds(list["advisories"][0].get(key).is_some(), key);
    }
    call(&["nonsense"]).exits(2).prints("").prefixed().stderr_matches("advisories-unknown.txt");
    let twice = ADVISORY.replace("'>=2'", "'!=1.5'").replace("'<1'", "'!=1.5'");
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [more.yaml]\n");
    sandbox.write("config/pcluster-shim/more.yaml", twice);
    let run = call(&["own-advisory"]);
    run.exits(0).holds(run.stdout().contains("fix        aws-cdk.* !=1.5\n"), "the range once");
}

#[test]
fn an_advisory_of_the_users_own_blocks() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [own/more.yaml]\n");
    sandbox.write("config/pcluster-shim/own/more.yaml", ADVISORY);
    check(&sandbox).exits(1).is_silent().stdout_matches("check-own-advisory.txt");
    sandbox
        .pcluster(["preflight", "advisories", "own-advisory"])
        .run()
        .exits(0)
        .stdout_matches("advisories-own.txt");
    sandbox.build_image().run().exits(1).prefixed().stderr_matches("blocked-own-advisory.txt");
}

/// The file, the line and the key, for preflight; a warning and the rest of them for the guard.
#[test]
fn a_faulty_file_of_advisories_is_reported() {
    for (snapshot, from, to, words) in [
        ("level", "level: ERROR", "level: LOUD", &["LOUD", "line 3"][..]),
        ("range", "'<2'", "'two'", &["two", "line 6"]),
        ("key", "affected:", "effected:", &["effected", "line 6"]),
        ("missing", "  package: aws-cdk.core\n", "", &["package", "line 1"]),
        ("yaml", "- id:", "- [id:", &["line"]),
    ] {
        let sandbox = Sandbox::new();
        let environment = sandbox.environment();
        sandbox.write("config/pcluster-shim/config.yaml", "advisories: [more.yaml]\n");
        let malformed = ADVISORY.replacen(from, to, 1);
        assert_ne!(malformed, ADVISORY);
        sandbox.write("config/pcluster-shim/more.yaml", malformed);
        let run = check(&sandbox);
        run.exits(2).prints("").prefixed().stderr_matches(&format!("malformed-advisory-{snapshot}.txt"));
        for word in words.iter().chain(&["more.yaml"]) {
            run.holds(run.stderr().contains(word), &format!("{word} is named"));
        }
        sandbox.build_image().run().exits(0).warns_once("more.yaml");
        environment.is_broken();
        sandbox.build_image().run().exits(1).prefixed();
    }
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("config/pcluster-shim/config.yaml", "advisories: [absent.yaml]\n");
    check(&sandbox).exits(2).prefixed().stderr_matches("malformed-advisory-absent.txt");
}

/// Options of every command may precede its name as well; those that would be lost may not.
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
    sandbox.write("work/image.yaml", "");
    let run = sandbox.pcluster(["preflight", "image.yaml"]).run();
    run.exits(2).prints("").stderr_matches("usage-file-as-command.txt");
    let run = sandbox.pcluster(["preflight", "check", "image.yaml"]).run();
    run.exits(2).prints("").stderr_matches("usage-file-as-argument.txt");
}

#[test]
fn help() {
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

/// Commands that print something where nothing is wrong.
const PRINTERS: [&str; 9] = [
    "man",
    "completions bash",
    "where",
    "advisories",
    "check",
    "check --format json",
    "version",
    "--help",
    "help fix",
];

/// A full disk is a failure; a reader that went away, as `head` does, is none.
#[test]
fn an_answer_that_cannot_be_written_is_an_error_unless_its_reader_went_away() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    sandbox.pcluster(["preflight"]).run().exits(0);
    let sh = |line: String| sandbox.call(sandbox.path("tools/sh"), ["-c", &line]).run();
    for printer in PRINTERS.into_iter().chain(["nonsense --format json", "advisories nonsense --format=json"])
    {
        let run = sh(format!("pcluster preflight {printer} >/dev/full"));
        run.exits(1).prefixed().holds(run.stderr().ends_with(FULL), printer);
    }
    // The reader is gone before the first word is written.
    let gone = "import os, subprocess, sys\nreader, writer = os.pipe()\nos.close(reader)\nsys.exit(subprocess.call(sys.argv[1:], stdout=writer))";
    for printer in PRINTERS {
        let words = printer.split(' ');
        let call = words.fold(sandbox.pcluster(["preflight"]), Call::argument);
        call.under(crate::support::machine::real_python(), &["-c", gone]).run().exits(0).is_silent();
    }
    environment.is_broken();
    sandbox.build_image();
    let run = sh("pcluster build-image -c image.yaml -i my-image >/dev/full".into());
    run.exits(1).prefixed().holds(run.stderr().ends_with(FULL), "the guard's stop");
}

const FULL: &str = "pcluster-shim: cannot write to standard output: No space left on device (os error 28)\n";

/// Errors of every kind, with the exit status of the human form; stderr has the message in one line.
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
            run.holds(run.stderr() == format!("pcluster-shim: {message}\n"), "the message in one line");
        }
    }
    let run = sandbox.pcluster(["preflight", "chekc", "--format=json"]).run();
    run.exits(2).stdout_matches("usage-command.json");
    // Help and the version are no errors: their output has no JSON form.
    let help = sandbox.pcluster(["preflight", "--help"]).run();
    sandbox.pcluster(["preflight", "--help", "--format=json"]).run().exits(0).prints(&help.stdout());
    // A report of what was found has the error beside it.
    let call = sandbox.pcluster(["preflight", "where", "--format=json"]).path(&[sandbox.path("shim")]);
    let run = call.run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.exits(127).holds(report["error"]["message"].is_string() && report["real"].is_null(), "both");
}

/// A pipeline reads the file of results, whatever has happened.
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

/// All environments in one file.
#[test]
fn every_report_of_all_is_in_the_form_of_a_pipeline() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = |form: &str| sandbox.pcluster(["preflight", "check", "--all", "--format", form]).run();
    call("junit").exits(0).stdout_matches("all.xml");
    call("github").exits(0).stdout_matches("all.github.txt");
}

#[test]
fn a_flag_is_meant_from_the_current_directory_and_keeps_links() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.link("work/linked", "../venv");
    let real = |named: &str| sandbox.pcluster(["preflight", "--format=json", "--real", named]).run();
    for (named, path) in [
        ("linked/bin/pcluster", "work/linked/bin/pcluster"),
        ("./linked/bin/pcluster", "work/linked/bin/pcluster"),
        ("../venv/bin/pcluster", "work/../venv/bin/pcluster"),
    ] {
        let run = real(named);
        let report: Value = serde_json::from_slice(&run.stdout).unwrap();
        run.exits(0).holds(report["target"]["path"] == json!(sandbox.path(path)), path);
    }
    let run = sandbox.pcluster(["preflight", "--real", "bin/pcluster"]).run();
    run.exits(127).prints("").prefixed().stderr_matches("real-flag-absent.txt");
}

/// Reported before any Python is started, with the file's name.
#[test]
fn a_configuration_that_cannot_be_read() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    std::fs::create_dir(sandbox.path("work/directory")).unwrap();
    sandbox.write("work/latin-1", b"Build: \xe4\n");
    for name in ["absent", "directory", "latin-1"] {
        let run = sandbox.pcluster(["preflight", "-c", name]).run();
        run.exits(2).prints("").prefixed().stderr_matches(&format!("configuration-{name}.txt"));
    }
    assert_eq!(sandbox.log(), [""; 0]);
}

/// Text from a package, a template, a child, a path, an argument.
#[test]
fn nothing_that_a_terminal_obeys_reaches_it() {
    const EVIL: &str = "\x1b[2J\u{9b}31m\u{202e}\x07\u{7f}\r";
    let sandbox = Sandbox::new();
    let environment = sandbox.environment_in(&format!("venv{EVIL}"));
    crate::support::fakes::node(&sandbox);
    environment.installs("aws-cdk.core", &format!("1.2.3{EVIL}"), "");
    let template = BAD.replace("\"DistributionConfiguration\"", &json!(format!("Evil{EVIL}")).to_string());
    assert_ne!(template, BAD);
    environment.builds(&template);
    sandbox.write("work/template", &template);
    sandbox.build_image();
    let bin = environment.path("bin");
    let path = [sandbox.path("shim"), bin, sandbox.path("node"), sandbox.path("tools")];
    let run = |arguments: &[&str]| {
        let call = arguments.iter().fold(sandbox.pcluster([]), |call, word| call.argument(*word));
        let run = call.path(&path).run();
        let obeyed = |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
        run.holds(!run.stderr().contains(obeyed), "stderr is safe");
        let json = arguments.contains(&"json") || arguments[0] == "build-image";
        run.holds(json || !run.stdout().contains(obeyed), "stdout is safe");
        run.holds(!run.stdout().contains('\x1b'), "no escape, in JSON either");
        format!("{}{}", run.stdout(), run.stderr())
    };
    let evil = |text: &str| assert!(text.contains("u{1b}"), "what was given is reported: {text}");
    evil(&run(&["preflight", "check"]));
    evil(&run(&["preflight", "template", "template"]));
    evil(&run(&["preflight", "where"]));
    evil(&run(&["preflight", "advisories", EVIL]));
    evil(&run(&["preflight", EVIL]));
    evil(&run(&["preflight", "--color", EVIL]));
    evil(&run(&["preflight", "template", EVIL]));
    evil(&run(&["preflight", "check", "--real", EVIL]));
    evil(&run(&["build-image", "-c", "image.yaml", "-i", "my-image"]));
    run(&["preflight", EVIL, "--format", "json"]);
    environment.answers(&json!({"kind": "rejected", "stage": "configuration", "message": EVIL}));
    evil(&run(&["preflight", "-c", "image.yaml", "-i", "my-image"]));
    environment.answers(&json!({"kind": "failed", "stage": "import", "message": EVIL}));
    evil(&run(&["preflight", "check"]));
    environment.synthesizes("printf '\\033[2J' >&2; exit 1");
    evil(&run(&["build-image", "-c", "image.yaml", "-i", "my-image"]));
    environment.identifies("printf '\\033[2J'");
    evil(&run(&["build-image", "-c", "image.yaml", "-i", "my-image"]));
}

/// No real pcluster follows, so a configuration that can be read once is read.
#[test]
fn a_configuration_that_can_be_read_once_is_checked() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let synth = std::fs::read_to_string(environment.path("fake/synth")).unwrap();
    environment.synthesizes(&format!("echo \"read $(cat \"$3\")\" >>\"$log\"; {synth}"));
    sandbox.write("work/content", "Build: from a pipe");
    let bash = sandbox.path("tools/bash");
    let run = sandbox
        .pcluster(["preflight", "check"])
        .under(&bash, &["-c", "\"$@\" -c <(cat content)", "bash"])
        .run();
    run.exits(0).is_silent();
    let run = sandbox.pcluster(["preflight", "-c", "/dev/stdin"]).stdin("Build: from a file").run();
    run.exits(0).is_silent();
    let read: Vec<String> = sandbox.log().into_iter().filter(|line| line.starts_with("read ")).collect();
    assert_eq!(read, ["read Build: from a pipe", "read Build: from a file"]);
    sandbox.clear_log();
    let endless = sandbox.pcluster(["preflight", "-c", "/dev/zero"]).run();
    endless.exits(2).prints("").prefixed().stderr_matches("check-endless.txt");
    assert_eq!(sandbox.log(), [""; 0]);
    sandbox.has_no_scratch();
}
