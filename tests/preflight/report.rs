//! The report of a check, for people and as JSON.

use serde_json::{Value, json};

use super::{check, json_of};
use crate::support::fakes::BAD;
use crate::support::sandbox::Sandbox;

/// Every verdict, in the form for people and in every format for programs.
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
        let word = line.split(':').next().unwrap();
        run.holds(report["verdict"] == word, "human and JSON give the same verdict");
        sandbox.pcluster(["preflight"]).run().prints_like(&human);
        let junit = sandbox.pcluster(["preflight", "--format", "junit"]).run();
        junit.exits(status).is_silent().stdout_matches(&format!("check-{verdict}.xml"));
        let github = sandbox.pcluster(["preflight", "--format", "github"]).run();
        github.exits(status).is_silent().stdout_matches(&format!("check-{verdict}.github.txt"));
        sandbox.has_no_scratch();
    }
}

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

#[test]
fn no_synth_starts_only_the_interpreter() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let call = sandbox.pcluster(["preflight", "check", "--no-synth"]);
    call.run().exits(0).is_silent().stdout_matches("check-no-synth.txt");
    assert_eq!(sandbox.log(), ["identity"]);
}

/// uvx recreates its environments, so a repair there would not last.
#[test]
fn no_synth_names_constraints_for_an_environment_of_uvx() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment_in("uv/archive-v0/one");
    sandbox.write("uv/CACHEDIR.TAG", "");
    environment.is_broken();
    let path = [sandbox.path("shim"), environment.path("bin"), sandbox.path("tools")];
    let run = sandbox.pcluster(["preflight", "check", "--no-synth"]).path(&path).run();
    run.exits(1).holds(run.stdout().contains("preflight constraints 3.1.3"), "it names constraints");
    run.holds(!run.stdout().contains("preflight fix"), "it does not name fix");
}

/// The user's own configuration, id and region reach the real parser unchanged.
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

/// A call that the real pcluster would refuse is the caller's error, not a verdict.
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

/// The error is reported before any Python is started, and it names the file.
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

/// `preflight` does not run the real pcluster afterwards, so it may read a configuration that can be read
/// only once.
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

/// With `--deny warnings`, a WARNING blocks in every output format, and an INFO does not.
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
    // With `--no-synth`, a WARNING blocks too.
    sandbox.pcluster(["preflight", "--no-synth", "--deny=warnings"]).run().exits(1).is_silent();
    sandbox.build_image().run().exits(0);
    let run = sandbox.pcluster(["preflight", "check", "--deny", "infos"]).run();
    run.exits(2).prints("").stderr_matches("usage-deny.txt");
}

/// With `--output`, the report for people is still printed.
#[test]
fn a_report_is_written_to_a_file_in_its_format() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let human = sandbox.pcluster(["preflight"]).run();
    let run = sandbox.pcluster(["preflight", "--format", "json", "--output", "report.json"]).run();
    run.exits(0).is_silent();
    run.holds(run.stdout().lines().next() == human.stdout().lines().next(), "people read it too");
    let report: Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("work/report.json")).unwrap()).unwrap();
    assert_eq!(report["verdict"], "ready");
    let run = sandbox.pcluster(["preflight", "--output", "absent/report"]).run();
    run.exits(2).prints("").holds(run.stderr().contains("absent/report: No such file"), "the file is named");
    let run = sandbox.pcluster(["preflight", "where", "--output", "x"]).run();
    run.exits(2)
        .prints("")
        .holds(run.stderr().contains("'--output <FILE>' can only be used with check"), "it is refused");
}

/// `ignore` means the same as in cargo-audit: the warning is only counted.
#[test]
fn a_warning_that_is_ignored_is_only_counted() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.installs("aws-cdk.core", "1.203.0", "");
    let warned = sandbox.pcluster(["preflight", "--deny", "warnings"]).run();
    warned.exits(1).holds(warned.stdout().contains("cdk-mixed-versions"), "the warning is printed");
    sandbox.write("config/pcluster-shim/config.yaml", "ignore: [cdk-mixed-versions]\n");
    let run = sandbox.pcluster(["preflight", "--deny", "warnings"]).run();
    run.exits(0).is_silent();
    run.holds(!run.stdout().contains("cdk-mixed-versions"), "it is not printed");
    run.holds(run.stdout().ends_with("1 ignored\n"), "it is counted");
    let (report, _) = json_of(&sandbox);
    let ignored = report["findings"].as_array().unwrap().iter().filter(|finding| finding["ignored"] == true);
    assert_eq!(ignored.count(), 1, "{report}");
    let github = sandbox.pcluster(["preflight", "--format", "github"]).run();
    github.exits(0).holds(!github.stdout().contains("::"), "no annotation");
    let junit = sandbox.pcluster(["preflight", "--format", "junit", "--deny", "warnings"]).run();
    junit.exits(0).holds(!junit.stdout().contains("failure message"), "no failure");
    junit.holds(!junit.stdout().contains("system-out"), "no text");
}

#[test]
fn an_error_cannot_be_ignored() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    sandbox.write("config/pcluster-shim/config.yaml", "ignore: [cdk-imagebuilder-1.153.0]\n");
    sandbox.build_image().run().exits(1);
    sandbox.pcluster(["preflight"]).run().exits(1);
}
