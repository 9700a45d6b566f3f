//! `preflight images`: the list, the plan with its prompt, and the result. A fake Python gives the answers
//! of AWS.

mod json;

use serde_json::{Value, json};

use crate::support::fakes::Environment;
use crate::support::machine::real_python;
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

const BUCKET: &str = "parallelcluster-0123456789abcdef-v1-do-not-delete";

/// An orphan with a date in the future. For such a date, the text shows no age, so the text does not
/// depend on the clock.
fn ami(number: u8, id: &str, more: &[(&str, Value)]) -> Value {
    let arn = format!("arn:aws:imagebuilder:us-east-1:123456789012:image/parallelclusterimage-{id}/3.1.3/1");
    let mut ami = json!({
        "region": "us-east-1",
        "id": format!("ami-{number:017x}"),
        "name": format!("ParallelClusterImage-{id} 2099-10-26T22-30-05.912619Z"),
        "creationDate": "2099-10-26T23:00:00.000Z",
        "state": "available",
        "description": null,
        "tags": {
            "CreatedBy": "EC2 Image Builder",
            "Ec2ImageBuilderArn": arn,
            "parallelcluster:build_status": "available",
            "parallelcluster:os": "alinux2",
        },
        "public": false,
        "ownerId": "123456789012",
        "deregistrationProtection": null,
        "snapshots": [{"id": format!("snap-{number:017x}"), "volumeGiB": 35}],
        "launchPermission": {"users": [], "groups": [], "organizations": []},
    });
    for (key, value) in more {
        ami[key] = value.clone();
    }
    ami
}

/// The files that a build has left in S3.
fn directory(id: &str) -> Value {
    let place = format!("parallelcluster/3.1.3/images/{id}-0123456789abcdef");
    let tags = json!({"parallelcluster:image_id": id, "parallelcluster:image_name": id});
    let code = json!({"S3Bucket": BUCKET, "S3Key": format!("{place}/custom_resources/artifacts.zip")});
    let template = json!({"Resources": {
        "ImageRecipe": {"Type": "AWS::ImageBuilder::ImageRecipe", "Properties": {"ParentImage": "ami-0", "Tags": tags}},
        "DeleteStackFunction": {"Type": "AWS::Lambda::Function", "Properties": {"Code": code}},
    }});
    let configuration = "Region: us-east-1\nImage:\n  Tags:\n  - {Key: team, Value: hpc}\nDevSettings:\n  \
        DistributionConfiguration:\n    LaunchPermission: '{\"UserIds\": [\"444455556666\"]}'\n";
    json!({
        "bucket": BUCKET, "bucketFrom": "default", "region": "us-east-1", "version": "3.1.3", "directory": place,
        "template": template.to_string(), "templateModified": "2099-10-26T22:00:00Z", "configuration": configuration,
    })
}

/// An account with five orphans. Three can be repaired, and one of these three is in use. Another orphan is
/// tagged to be kept.
fn inventory() -> Value {
    let mut kept = ami(5, "kept", &[]);
    kept["tags"]["pcluster-preflight:keep"] = json!("until the audit");
    let mut healthy = ami(6, "healthy", &[]);
    healthy["tags"]["parallelcluster:image_id"] = json!("healthy");
    json!({
        "kind": "inventory",
        "account": "123456789012",
        "caller": "arn:aws:sts::123456789012:assumed-role/operator/jane",
        "alias": "hpc-production",
        "profile": "hpc",
        "partition": "aws",
        "region": "us-east-1",
        "regions": ["us-east-1"],
        "images": [
            ami(1, "gpu-training", &[]),
            ami(2, "cpu", &[]),
            ami(3, "lost", &[]),
            ami(4, "used", &[]),
            kept,
            healthy,
            ami(7, "running", &[("state", json!("pending"))]),
        ],
        "stacks": [],
        "directories": [directory("gpu-training"), directory("cpu"), directory("used")],
        "buckets": [{"region": "us-east-1", "name": BUCKET}],
        "logGroups": [{"region": "us-east-1", "name": "/aws/imagebuilder/ParallelClusterImage-cpu"}],
        "snapshots": [],
        "uses": [{"region": "us-east-1", "image": "ami-00000000000000004", "by": "lt-0123456789abcdef0"}],
        "skipped": [{
            "source": "ec2:DescribeImageReferences in us-east-1", "why": "boto3 is too old",
            "permission": null, "bucket": null,
        }],
        "remains": [],
    })
}

const DONE: fn() -> Value = || json!({"ok": true, "message": null, "permission": null});

fn account(sandbox: &Sandbox) -> Environment<'_> {
    let environment = sandbox.environment();
    environment.has_in_aws(&inventory(), &json!([DONE(), DONE(), DONE(), DONE()]));
    environment
}

fn images(sandbox: &Sandbox, arguments: &[&str]) -> Call {
    let call = sandbox.pcluster(["preflight", "images"]);
    arguments.iter().fold(call, |call, argument| call.argument(*argument))
}

#[test]
fn list_has_four_lines_for_each_and_a_summary() {
    let sandbox = Sandbox::new();
    account(&sandbox);
    for (arguments, name) in [(&[][..], "list"), (&["-v", "-r", "us-east-1"], "list-verbose")] {
        let run = images(&sandbox, arguments).run();
        run.exits(1).stdout_matches(&format!("{name}.txt"));
    }
    images(&sandbox, &["--format", "json"]).run().exits(1).is_silent().stdout_matches("list.json");
}

#[test]
fn plan_shows_account_and_caller_and_what_is_refused() {
    let sandbox = Sandbox::new();
    account(&sandbox);
    for change in ["repair", "delete"] {
        let flag = format!("--{change}");
        let run = images(&sandbox, &[&flag, "--dry-run"]).run();
        run.exits(1).is_silent().stdout_matches(&format!("plan-{change}.txt"));
        let run = images(&sandbox, &[&flag, "--dry-run", "-v", "--image", "ami-00000000000000002"]).run();
        run.exits(0).stdout_matches(&format!("plan-{change}-verbose.txt"));
    }
}

#[test]
fn a_narrow_terminal_folds_list_and_plan() {
    let sandbox = Sandbox::new();
    account(&sandbox);
    for (arguments, name) in [(&["-v"][..], "list"), (&["--repair", "--dry-run"], "plan")] {
        let run = images(&sandbox, arguments).on_terminal("60", "2>/dev/null").run();
        run.is_folded(60, &[]).stdout_matches(&format!("narrow-{name}.txt"));
    }
}

/// Python code that runs a command on a terminal, and passes its own stdin on to the command.
const AT_TERMINAL: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

#[test]
fn prompt_names_numbers_account_and_region() {
    let sandbox = Sandbox::new();
    account(&sandbox);
    for change in ["repair", "delete"] {
        let call = images(&sandbox, &[&format!("--{change}"), "-q"]).stdin("n\n");
        let run = call.under(real_python(), &["-c", AT_TERMINAL]).run();
        run.exits(1);
        let shown = run.stdout().replace("\r\n", "\n");
        sandbox.matches(&format!("images/prompt-{change}.txt"), &shown);
    }
    let run = images(&sandbox, &["--delete"]).run();
    run.exits(2).prints("").stderr_matches("no-terminal.txt");
}

#[test]
fn result_names_what_is_done_left_and_refused() {
    let sandbox = Sandbox::new();
    let environment = account(&sandbox);
    let run = images(&sandbox, &["--delete", "--yes", "-q", "--format", "json"]).run();
    run.exits(1).is_silent();
    for change in ["repair", "delete"] {
        let run = images(&sandbox, &[&format!("--{change}"), "--yes"]).run();
        run.exits(1).stdout_matches(&format!("result-{change}.txt"));
    }
    let denied = json!({"ok": false, "message": "denied: no", "permission": "ec2:DeleteSnapshot"});
    environment.has_in_aws(&inventory(), &json!([DONE(), denied]));
    let run = images(&sandbox, &["--delete", "--yes", "--image", "ami-00000000000000002"]).run();
    run.exits(1).stdout_matches("result-failed.txt");
    // EC2 refused one tag, and the others were written.
    let note = json!({"ok": true, "message": "EC2 refuses these tags, and they were left out: team (no)", "permission": null});
    environment.has_in_aws(&inventory(), &json!([note]));
    let run = images(&sandbox, &["--repair", "--yes", "--image", "ami-00000000000000002"]).run();
    run.exits(0).stdout_matches("result-tag-left-out.txt");
    let json =
        images(&sandbox, &["--repair", "--yes", "--image", "ami-00000000000000002", "--format", "json"])
            .run();
    json.exits(0).stdout_matches("result-repair.json");
}

#[test]
fn what_stays_in_s3_is_named_and_is_status_1() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let mut account = inventory();
    account["images"] = json!([ami(1, "cpu", &[])]);
    account["directories"] = json!([]);
    account["uses"] = json!([]);
    account["skipped"] = json!([{
        "source": format!("s3:ListObjectsV2 of {BUCKET} in us-east-1"), "why": "denied: Access Denied",
        "permission": "s3:ListBucket", "bucket": BUCKET,
    }]);
    environment.has_in_aws(&account, &json!([DONE(), DONE(), DONE()]));
    let run = images(&sandbox, &["--delete", "--yes"]).run();
    run.exits(1).stdout_matches("result-left.txt").stderr_matches("plan-left.txt");
    let run = images(&sandbox, &["--delete", "--yes", "--format", "json"]).run();
    run.exits(1);
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let place = format!("s3://{BUCKET}/parallelcluster/3.1.3/images/cpu-*/");
    let left = json!([place, "log group /aws/imagebuilder/ParallelClusterImage-cpu"]);
    run.holds(report["images"][0]["left"] == left, &left.to_string());
}

#[test]
fn selection_by_names_and_age() {
    let sandbox = Sandbox::new();
    let environment = account(&sandbox);
    let listed = |arguments: &[&str], status: i32| -> Vec<String> {
        let run = images(&sandbox, &[&["--format", "json"], arguments].concat()).run();
        run.exits(status);
        let report: Value = serde_json::from_slice(&run.stdout).unwrap();
        let images = report["images"].as_array().unwrap().iter();
        images
            .map(|image| {
                image["ami"].as_str().unwrap().trim_start_matches("ami-0").trim_start_matches('0').to_owned()
            })
            .collect()
    };
    assert_eq!(listed(&["-i", "cpu", "-i", "lost"], 1), ["2", "3"]);
    let both = ["--image", "ami-00000000000000004", "--image", "ami-00000000000000001"];
    assert_eq!(listed(&both, 1), ["1", "4"]);
    let run = images(&sandbox, &["-i", "cpu", "-i", "no-such", "--image", "ami-0ffffffffffffffff"]).run();
    run.exits(1).stdout_matches("not-found.txt");
    let mut account = inventory();
    account["images"][0]["creationDate"] = json!("2022-10-26T23:00:00.000Z");
    environment.has_in_aws(&account, &json!([]));
    assert_eq!(listed(&["--older-than", "90d"], 1), ["1"]);
    assert_eq!(listed(&["--older-than", "12w"], 1), ["1"]);
    assert_eq!(listed(&["--older-than", "65000d"], 0), Vec::<String>::new());
    let says = |age: &str, text: &str| {
        let run = images(&sandbox, &["--older-than", age]).run();
        run.holds(run.stdout().contains(text), text);
        assert!(!run.stdout().contains("pcluster finds"), "not all of these are known\n{run}");
    };
    says("90d", "1 orphan older than 90 days in us-east-1 that no pcluster command finds: 35 GiB");
    says("65000d", "No orphans older than 65000 days in us-east-1.");
    let run = images(&sandbox, &["--older-than", "90d", "--format", "json"]).run();
    assert_eq!(run.json()["olderThanDays"], 90);
    let run = images(&sandbox, &["--older-than", "soon"]).run();
    run.exits(2).stderr_matches("older-than.txt");
}

/// The first deletion deregisters the AMI, then stops, because AWS denies the next step.
#[test]
fn interrupted_deletion_is_finished_by_the_same_command() {
    let sandbox = Sandbox::new();
    let environment = account(&sandbox);
    let denied = json!({"ok": false, "message": "denied: no", "permission": null});
    environment.has_in_aws(&inventory(), &json!([DONE(), denied]));
    images(&sandbox, &["--delete", "--yes", "-i", "cpu"]).run().exits(1);

    let mut account = inventory();
    account["images"].as_array_mut().unwrap().remove(1);
    account["remains"] = json!([{
        "region": "us-east-1", "ami": "ami-00000000000000002", "image": false,
        "snapshots": ["snap-00000000000000002"], "directory": true, "logGroup": true,
    }]);
    environment.has_in_aws(&account, &json!([DONE(), DONE(), DONE()]));
    images(&sandbox, &["-i", "cpu"]).run().exits(1).stdout_matches("interrupted.txt");
    let other = images(&sandbox, &["--delete", "--yes", "--image", "ami-00000000000000001"]).run();
    other.exits(0).holds(!other.stdout().contains("ami-00000000000000002"), "it was not asked for");
    let run = images(&sandbox, &["--delete", "--yes", "-i", "cpu"]).run();
    run.exits(0).stdout_matches("interrupted-finished.txt").stderr_matches("interrupted-plan.txt");
    images(&sandbox, &["--delete", "--yes", "-i", "cpu"]).run().exits(1);
}
