//! `check --aws`, `check --parent` and `aws: true`: what AWS, or a file, says about the parent image. AWS is
//! asked only because of `--aws` or `aws: true`.

use serde_json::{Value, json};

use crate::support::fakes::{REAL, REAL_OUTPUT};
use crate::support::machine::real_python;
use crate::support::run::{Call, Run};
use crate::support::sandbox::Sandbox;

const CONFIG: &str = "config/pcluster-shim/config.yaml";

fn debian() -> Value {
    json!({
        "ImageId": "ami-0123456789abcdef0", "Name": "debian-12-amd64-20241110-1927", "OwnerId": "136693071363",
        "Architecture": "x86_64", "State": "available",
    })
}

fn facts(image: &Value, skipped: &Value) -> Value {
    json!({"kind": "parent", "image": image, "scripts": {}, "components": {}, "subnet": null, "skipped": skipped})
}

fn denied() -> Value {
    let reason = "ec2:DescribeImages is denied; to print what is needed, run `pcluster preflight check --aws --print-policy`";
    facts(&Value::Null, &json!({"parent": reason}))
}

fn check(sandbox: &Sandbox, options: &[&str]) -> Run {
    sandbox.build_image();
    let call = sandbox.pcluster(["preflight", "check", "-c", "image.yaml"]);
    options.iter().fold(call, |call, option| call.argument(*option)).run()
}

fn answered(answer: &Value) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.environment().aws_answers(answer);
    sandbox
}

fn count_calls(sandbox: &Sandbox) -> usize {
    sandbox.log().iter().filter(|line| *line == "client").count()
}

#[test]
fn a_parent_in_a_file_is_checked_without_aws() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.write("work/parent.json", json!({"Images": [debian()]}).to_string());
    let run = check(&sandbox, &["--parent", "parent.json"]);
    run.exits(1).is_silent().stdout_matches("file-blocked.txt");
    let mut image = debian();
    image["Name"] = json!("golden");
    sandbox.write("work/parent.json", json!({"Images": [image]}).to_string());
    check(&sandbox, &["--parent", "parent.json"]).exits(0).is_silent().stdout_matches("file-ready.txt");
    for field in ["OwnerId", "Tags", "Platform", "PlatformDetails"] {
        image[field] = json!(null);
    }
    sandbox.write("work/parent.json", json!({"Images": [image]}).to_string());
    check(&sandbox, &["--parent", "parent.json"]).exits(0).is_silent().stdout_matches("file-ready.txt");
    image["Tags"] = json!("none");
    sandbox.write("work/parent.json", json!({"Images": [image]}).to_string());
    check(&sandbox, &["--parent", "parent.json"]).exits(3).is_silent().stdout_matches("file-wrong.txt");
    image["ImageId"] = json!("ami-1");
    sandbox.write("work/parent.json", json!({"Images": [image]}).to_string());
    check(&sandbox, &["--parent", "parent.json"]).exits(3).is_silent().stdout_matches("file-other.txt");
    assert_eq!(count_calls(&sandbox), 0);
}

#[test]
fn a_file_that_is_no_answer_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    for content in ["", "[]", "{\"Images\": 3}", "\u{1}", "{\"Images\": [1]}"] {
        sandbox.write("work/parent.json", content);
        check(&sandbox, &["--parent", "parent.json"]).exits(2).prints("").prefixed();
    }
    let run = check(&sandbox, &["--parent", "parent.json"]);
    run.stderr_matches("file-garbage.txt");
    check(&sandbox, &["--parent", "absent.json"]).exits(2).prints("").stderr_matches("file-absent.txt");
    assert_eq!(sandbox.log(), [""; 0]);
}

#[test]
fn aws_is_asked_about_the_parent() {
    let sandbox = answered(&facts(&debian(), &json!({})));
    check(&sandbox, &["--aws"]).exits(1).is_silent().stdout_matches("aws-blocked.txt");
    assert_eq!(count_calls(&sandbox), 1);
    // Without the flag, AWS is not asked.
    check(&sandbox, &[]).exits(0);
    assert_eq!(count_calls(&sandbox), 1);
}

/// If AWS gives no usable answer, only the check `parent` is unknown. The other checks are reported as usual.
#[test]
fn what_aws_does_not_tell_is_not_checked() {
    let message = "ExpiredToken: the token is expired";
    let expired =
        json!({"kind": "failed", "code": "credentials", "message": message, "call": "ec2:DescribeImages"});
    let absent = "AWS has no image ami-0123456789abcdef0 in eu-west-1 (ec2:DescribeImages)";
    for (snapshot, answer) in [
        ("denied", denied()),
        ("credentials", expired),
        ("empty", facts(&Value::Null, &json!({"parent": absent}))),
        ("incomplete", json!({"kind": "parent"})),
    ] {
        let sandbox = answered(&answer);
        check(&sandbox, &["--aws"]).exits(3).is_silent().stdout_matches(&format!("aws-{snapshot}.txt"));
    }
    for (snapshot, sh) in [("garbage", "echo nonsense"), ("slow", "sleep 100")] {
        let sandbox = Sandbox::new();
        sandbox.environment().asks_aws(sh);
        sandbox.build_image();
        let call = sandbox.pcluster(["preflight", "check", "-c", "image.yaml", "--aws"]);
        let run = call.var("PCLUSTER_SHIM_TIMEOUT", "4").run();
        run.exits(3).is_silent().stdout_matches(&format!("aws-{snapshot}.txt"));
        sandbox.has_no_scratch();
    }
}

/// Runs `client_parent.py` on web pages of 127.0.0.1, and on a subnet in a made-up AWS. If a page is not
/// found, the result is `hidden`, not `absent`: 127.0.0.1 is not a public host, and from such a host, the
/// instance of a build might get another answer.
#[test]
fn pages_and_subnets_are_read() {
    let sandbox = Sandbox::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/outside.py");
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src/images");
    let call = sandbox.call(real_python(), ["-B", script, sources]).var("NO_PROXY", "127.0.0.1");
    call.run().exits(0).is_silent().stdout_matches("pages-and-subnets.txt");
}

#[test]
fn the_guard_asks_only_if_the_config_says_so() {
    let sandbox = answered(&facts(&debian(), &json!({})));
    sandbox.build_image().run().exits(0).prints(REAL_OUTPUT).is_silent();
    assert_eq!(sandbox.log(), ["identity", "node", "synth", REAL]);
    sandbox.write(CONFIG, "aws: true\n");
    let run = sandbox.build_image().run();
    run.exits(1).prefixed().stdout_matches("guard-blocked.json").stderr_matches("guard-blocked.txt");
    let call = sandbox.build_image().var("PCLUSTER_SHIM_MODE", "warn");
    call.run().exits(0).prints(REAL_OUTPUT).prefixed();
}

/// If the configuration is a stream, a minimal configuration is checked instead. The parent image of the
/// minimal configuration does not exist, so AWS is not asked.
#[test]
fn a_configuration_that_is_not_read_has_no_parent() {
    let sandbox = answered(&facts(&debian(), &json!({})));
    sandbox.write(CONFIG, "aws: true\n");
    let call = sandbox.pcluster(["build-image", "-c", "/dev/stdin", "-i", "my-image"]).stdin("Build: {}\n");
    call.run().exits(0).prefixed();
    assert_eq!(count_calls(&sandbox), 0);
}

#[test]
fn the_guard_continues_if_aws_denies() {
    let sandbox = answered(&denied());
    sandbox.write(CONFIG, "aws: true\n");
    let run = sandbox.build_image().run();
    run.exits(0).prints(REAL_OUTPUT).prefixed().stderr_matches("guard-denied.txt");
    let strict = sandbox.build_image().var("PCLUSTER_SHIM_STRICT", "1").run();
    strict.exits(1).prefixed().stderr_matches("guard-denied-strict.txt");
}

/// Without a template, the parent image is not known. Findings that depend only on the release of
/// aws-parallelcluster are still reported.
#[test]
fn no_synth_judges_the_release_even_if_the_config_has_aws() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    environment.installs("aws-parallelcluster", "3.3.0", "");
    for config in ["", "aws: true\n"] {
        sandbox.write(CONFIG, config);
        let run = check(&sandbox, &["--no-synth"]);
        run.holds(run.stdout().contains("ubuntu-20.04-mysql"), "the release has a finding");
    }
    assert_eq!(count_calls(&sandbox), 0);
}

#[test]
fn the_options_need_a_configuration() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let run = sandbox.pcluster(["preflight", "--aws"]).run();
    run.exits(2).prints("").stderr_matches("usage-no-configuration.txt");
    for arguments in ["--parent x", "--print-policy", "-c x --aws --no-synth", "-c x --aws --parent y"] {
        let call = sandbox.pcluster(["preflight", "check"]);
        arguments.split(' ').fold(call, Call::argument).run().exits(2).prints("");
    }
}
