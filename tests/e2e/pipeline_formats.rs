//! `--format junit`, read by junitparser, and `--format github`: both report what the JSON reports.

use serde_json::Value;

use crate::environments::{BROKEN, Environment, GOOD, RENUMBERED, RealSandbox};
use crate::support::machine::on_this_machine;

/// Reads a `JUnit` file, and prints for each test case its class, its name, and the kinds and texts of
/// its results.
const READER: &str = "\
import json, sys
from junitparser import JUnitXml
results = JUnitXml.fromfile(sys.argv[1])
print(json.dumps([
    [case.classname, case.name, [type(one).__name__ for one in case.result], [one.text for one in case.result]]
    for suite in results for case in suite
]))
";

#[track_caller]
fn give_the_same(sandbox: &RealSandbox, arguments: &[&str]) {
    let (ran, report) = sandbox.preflight(arguments);
    let status = ran.status.code().unwrap();
    let call = |form| sandbox.pcluster(&[&["preflight", "--format", form], arguments].concat()).run();
    let subject = report["target"]["path"].as_str().unwrap_or("template");

    let junit = call("junit");
    junit.exits(status).is_silent();
    let file = sandbox.write("work/results.xml", &junit.stdout);
    let python = Environment::named("junitparser").bin("python");
    let read = sandbox.call(&python, &["-c", READER, file.to_str().unwrap()]).run();
    read.exits(0);
    let cases = read.json();
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(cases.as_array().unwrap().len(), checks.len(), "{junit}");
    for (case, check) in cases.as_array().unwrap().iter().zip(checks) {
        assert_eq!((&case[0], &case[1]), (&Value::from(subject), &check["id"]), "{junit}");
        let kind = match check["status"].as_str().unwrap() {
            "failed" => serde_json::json!(["Failure"]),
            "unknown" => serde_json::json!(["Error"]),
            "skipped" => serde_json::json!(["Skipped"]),
            _ => serde_json::json!([]),
        };
        assert_eq!(case[2], kind, "{junit}");
        if let (Some(reason), false) = (check["reason"].as_str(), kind == serde_json::json!([])) {
            assert!(case[3][0].as_str().unwrap().contains(reason), "{junit}");
        }
    }
    let findings = report["findings"].as_array().unwrap();
    for finding in findings {
        assert!(junit.stdout().contains(finding["id"].as_str().unwrap()), "{junit}");
    }

    let github = call("github");
    github.exits(status).is_silent();
    let text = github.stdout();
    let annotations: Vec<&str> = text.lines().filter(|line| line.starts_with("::")).collect();
    for finding in findings {
        let command = match finding["level"].as_str().unwrap() {
            "ERROR" => "error",
            "WARNING" => "warning",
            _ => "notice",
        };
        let begin = format!("::{command} title={}::", finding["id"].as_str().unwrap());
        assert!(annotations.iter().any(|line| line.starts_with(&begin)), "{begin}\n{github}");
    }
    let unknown = checks.iter().filter(|check| check["status"] == "unknown").count();
    let errors = annotations.iter().filter(|line| line.contains("::not checked: ")).count();
    assert_eq!(errors, unknown, "{github}");
    assert_eq!(text.lines().last(), Some(&*format!("{} {subject}", report["verdict"].as_str().unwrap())));
}

#[test]
#[ignore = "long"]
fn of_every_verdict() {
    for (environment, status) in [(GOOD, 0), (BROKEN, 1), (RENUMBERED, 1)] {
        let sandbox = RealSandbox::of(environment);
        assert_eq!(sandbox.preflight(&[]).0.status.code(), Some(status), "{environment}");
        give_the_same(&sandbox, &[]);
    }
    let mut sandbox = RealSandbox::of(GOOD);
    let broken = sandbox.path("node");
    std::fs::remove_file(broken.join("node")).unwrap();
    std::os::unix::fs::symlink(on_this_machine("false"), broken.join("node")).unwrap();
    sandbox.set("PCLUSTER_SHIM_TIMEOUT", "100");
    sandbox.preflight(&[]).0.exits(3);
    give_the_same(&sandbox, &[]);
}
