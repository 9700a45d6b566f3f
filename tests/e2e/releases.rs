//! `preflight check` on release after release, with the right verdict, in the JSON and in the human form of
//! the report.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::environment_copy::{EnvironmentCopy, With};
use crate::environments::{BROKEN, GOOD, NEWEST, RENUMBERED, RealSandbox};
use crate::support::machine::on_this_machine;
use crate::support::run::Run;

fn is_ready(environment: &str, release: &str) {
    let sandbox = RealSandbox::of(environment);
    let (ran, report) = sandbox.preflight(&[]);
    ran.exits(0).is_silent();
    assert_eq!(report["schemaVersion"], 1, "{ran}");
    assert_eq!(report["verdict"], "ready", "{ran}");
    let levels = report["findings"].as_array().unwrap().iter().map(|finding| &finding["level"]);
    assert!(levels.clone().all(|level| level != "ERROR"), "{ran}");
    let ids: Vec<&str> =
        report["findings"].as_array().unwrap().iter().filter_map(|finding| finding["id"].as_str()).collect();
    assert_eq!(ids, known(release), "{ran}");
    let checks = report["checks"].as_array().unwrap();
    let passed: Vec<_> = checks.iter().map(|check| (check["id"].as_str(), &check["status"])).collect();
    let all = json!("passed");
    let expected = ["packages", "node", "startup", "template"].map(|id| (Some(id), &all));
    assert_eq!(passed, expected, "{ran}");

    let target = &report["target"];
    assert_eq!(target["path"], json!(sandbox.environment.bin("pcluster")), "{ran}");
    assert_eq!(target["foundBy"], "path", "{ran}");
    assert_eq!(target["interpreter"], json!(sandbox.environment.bin("python")), "{ran}");
    assert_eq!(target["pclusterVersion"], release, "{ran}");
    assert_eq!(
        target["pythonVersion"],
        json!(version_of(&sandbox, &sandbox.environment.bin("python"))),
        "{ran}"
    );
    assert_eq!(target["node"], json!(sandbox.path("node/node")), "{ran}");
    assert_eq!(target["nodeVersion"], json!(version_of(&sandbox, &on_this_machine("node"))), "{ran}");
    assert_eq!(report["packages"]["aws-parallelcluster"], release, "{ran}");
    assert_eq!(report["packages"], installed(&sandbox), "{ran}");
    human_form_fits(&sandbox, &report);
}

/// The ids of the known upstream issues that a check of `release` reports.
fn known(release: &str) -> Vec<&'static str> {
    let minor: u32 = release.split('.').nth(1).unwrap().parse().unwrap();
    match (minor, release) {
        (14.., _) => vec!["cleanup-role-log-group"],
        (0, _) => vec!["lambda-runtime", "cleanup-role-3867", "cleanup-role-5914", "cleanup-role-log-group"],
        (3 | 4, _) => {
            vec!["ubuntu-20.04-mysql", "lambda-runtime", "cleanup-role-5914", "cleanup-role-log-group"]
        }
        _ => vec!["lambda-runtime", "cleanup-role-5914", "cleanup-role-log-group"],
    }
}

/// If the configuration names a clean-up role, the stack does not create one. So the known issues of the role
/// that pcluster creates are not reported.
#[test]
fn a_role_of_ones_own_has_no_known_issue() {
    let role = "arn:aws:iam::123456789012:role/cleanup";
    for environment in ["3.0.3", GOOD, "3.13.2", NEWEST] {
        let sandbox = RealSandbox::of(environment);
        let configuration = format!(
            "Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n  \
             Iam:\n    CleanupLambdaRole: {role}\n"
        );
        sandbox.write("work/image.yaml", configuration);
        let (ran, report) = sandbox.preflight(&["-c", "image.yaml"]);
        ran.exits(0);
        let findings = report["findings"].as_array().unwrap();
        let ids: Vec<_> = findings.iter().filter_map(|finding| finding["id"].as_str()).collect();
        assert!(!ids.iter().any(|id| id.starts_with("cleanup-role")), "{environment}: {ids:?}");
        // The stack still has its Lambda function. AWS refuses the function's runtime in all these releases
        // except the newest.
        assert_eq!(ids.contains(&"lambda-runtime"), environment != NEWEST, "{environment}: {ids:?}");
    }
}

/// The version that a program prints (`Python 3.9.18`, `v20.1.0`), without the text before the number.
fn version_of(sandbox: &RealSandbox, program: &Path) -> String {
    let said = sandbox.call(program, &["--version"]).run().stdout();
    said.trim().trim_start_matches("Python ").trim_start_matches('v').to_owned()
}

/// The distributions that Python itself finds.
fn installed(sandbox: &RealSandbox) -> Value {
    let code = "
import json, re
from importlib.metadata import distributions
found = {}
for one in distributions():
    name = re.sub('[-_.]+', '-', one.metadata['Name']).lower()
    found.setdefault(name, one.version)
print(json.dumps(found))";
    let ran = sandbox.call(&sandbox.environment.bin("python"), &["-c", code]).run();
    ran.exits(0);
    ran.json()
}

/// Asserts that the human form has the JSON's verdict and findings, and that no line has more than 80 columns
/// unless a single word is longer.
fn human_form_fits(sandbox: &RealSandbox, report: &Value) {
    let ran = sandbox.pcluster(&["preflight"]).run();
    let text = ran.stdout();
    let verdict = text.lines().next().and_then(|line| line.split(':').next());
    assert_eq!(verdict, report["verdict"].as_str(), "{ran}");
    // A finding that an advisory explains is shown as evidence of the advisory, without an id of its own.
    let own = report["findings"].as_array().unwrap().iter();
    for finding in own.filter(|finding| finding["evidence"].get("explainedBy").is_none()) {
        assert!(text.contains(finding["id"].as_str().unwrap()), "{ran}");
    }
    for line in text.lines() {
        // Two spaces separate a label from the text after it. A line may be longer if that text is a
        // single word.
        let unbreakable = line.trim_start().split("  ").last().is_some_and(|rest| !rest.trim().contains(' '));
        assert!(line.chars().count() <= 80 || unbreakable, "{line:?} is too long\n{ran}");
    }
}

#[test]
fn release_3_0_3() {
    is_ready("3.0.3", "3.0.3");
}

#[test]
fn release_3_1_3() {
    is_ready(GOOD, "3.1.3");
}

#[test]
#[ignore = "long"]
fn release_3_1_4() {
    is_ready("3.1.4", "3.1.4");
}

#[test]
#[ignore = "long"]
fn release_3_5_1() {
    is_ready("3.5.1", "3.5.1");
}

/// Checks 3.9.3 with its parallelcluster.yaml as installed, and with the file as people correct it by hand.
#[test]
fn minitar_blocks_release_3_9_3_until_its_file_is_corrected() {
    let copy = EnvironmentCopy::of("3.9.3", With::Uv);
    let (ran, report) = copy.preflight(&[]);
    ran.exits(1);
    assert_eq!(report["findings"][0]["id"], "minitar-1.0", "{ran}");

    // A parent image that ParallelCluster has made can contain an older minitar, so the finding is only
    // a warning.
    let image = "ami-0123456789abcdef0";
    copy.write("work/image.yaml", format!("Build:\n  InstanceType: c5.xlarge\n  ParentImage: {image}\n"));
    let tags = json!([{"Key": "parallelcluster:version", "Value": "3.9.3"}]);
    copy.write("work/parent.json", json!({"Images": [{"ImageId": image, "Tags": tags}]}).to_string());
    let (ran, report) = copy.preflight(&["-c", "image.yaml", "--parent", "parent.json"]);
    ran.exits(0);
    let minitar = &report["findings"][0];
    assert_eq!((&minitar["id"], &minitar["level"]), (&json!("minitar-1.0"), &json!("WARNING")), "{ran}");

    let file = copy.site().join("pcluster/resources/imagebuilder/parallelcluster.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let install = "/opt/cinc/embedded/bin/gem install --no-document ";
    let corrected = format!("{install}minitar:0.12 && {install}berkshelf");
    fs::remove_file(&file).unwrap();
    fs::write(&file, text.replace(&format!("{install}berkshelf"), &corrected)).unwrap();
    let (ran, report) = copy.preflight(&[]);
    ran.exits(0);
    let ids: Vec<_> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["id"]).collect();
    assert_eq!(ids, known("3.9.3"), "{ran}");
}

#[test]
fn release_3_13_2() {
    is_ready("3.13.2", "3.13.2");
}

#[test]
fn release_3_16_1() {
    is_ready(NEWEST, "3.16.1");
}

fn is_blocked(environment: &str, first: &str) -> (Run, Value) {
    let sandbox = RealSandbox::of(environment);
    let (ran, report) = sandbox.preflight(&[]);
    ran.exits(1).is_silent();
    assert_eq!(report["verdict"], "blocked", "{ran}");
    for key in ["schemaVersion", "verdict", "shim", "target", "packages", "checks", "findings"] {
        assert!(!report[key].is_null(), "{key}\n{ran}");
    }
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings[0]["id"], first, "{ran}");
    for finding in findings {
        let is_known = known("3.1.3").contains(&finding["id"].as_str().unwrap());
        assert_eq!(finding["level"] != "ERROR", is_known, "{ran}");
        assert!(finding["evidence"].is_object() && finding["references"].is_array(), "{ran}");
        for text in [&finding["id"], &finding["type"], &finding["message"], &finding["fix"]["command"]] {
            assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{finding}\n{ran}");
        }
    }
    human_form_fits(&sandbox, &report);
    (ran, report)
}

#[test]
fn the_broken_release_is_blocked_by_advisory_and_template() {
    let (ran, report) = is_blocked(BROKEN, "cdk-imagebuilder-1.153.0");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings[0]["type"].as_str().unwrap().ends_with("Advisory"), "{ran}");
    assert!(findings[1]["type"].as_str().unwrap().ends_with("Template"), "{ran}");
    assert_eq!(findings[0]["evidence"]["installed"], json!({"aws-cdk-aws-imagebuilder": "1.153.0"}), "{ran}");
    assert!(!findings[0]["references"].as_array().unwrap().is_empty(), "{ran}");
}

#[test]
fn the_fault_under_another_number_is_blocked_by_the_template_alone() {
    let (ran, report) = is_blocked(RENUMBERED, "template-ami-configuration-empty");
    let findings = report["findings"].as_array().unwrap();
    let mut errors = findings.iter().filter(|finding| finding["level"] == "ERROR");
    assert!(errors.all(|finding| finding["type"].as_str().unwrap().ends_with("Template")), "{ran}");
}
