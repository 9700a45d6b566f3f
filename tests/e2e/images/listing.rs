//! What a listing contains, for example the class of each AMI. Also tests `preflight stack`, and the name of
//! the account in the first line of a plan.

use std::fs;

use serde_json::Value;

use super::{World, find, images, python};
use crate::environments::{GOOD, NEWEST, RealSandbox};

/// The beginnings of the names of calls that change something. A listing must not make such a call.
const WRITES: [&str; 7] = ["Create", "Modify", "Delete", "Deregister", "Put", "Tag", "Run"];

const ORPHANS: [&str; 13] = [
    "orphan-deleted-stack",
    "orphan-live-stack",
    "orphan-s3-only",
    "orphan-nothing",
    "orphan-custom-bucket",
    "in-use-instance",
    "in-use-template",
    "shared",
    "twin-1",
    "twin-2",
    "neighbour-orphan",
    "unknown-release",
    "copy",
];

/// Asserts that each AMI is classified, that a listing writes nothing, and that one AMI can be repaired and
/// one deleted. The shim uses the boto3 of `environment`. The argument `boto3` is the beginning of boto3's
/// version. Returns the listing.
#[track_caller]
fn each_is_classed_by(environment: &str, boto3: &str) -> Value {
    let world = World::plant();
    let before = world.state();
    let proxy = world.proxy(&[]);
    let mut sandbox = world.sandbox(environment);
    let site = sandbox.environment.site_packages().read_dir().unwrap().flatten();
    let names = site.map(|entry| entry.file_name().into_string().unwrap());
    let installed: Vec<String> = names.filter(|name| name.starts_with("boto3-")).collect();
    assert!(installed[0].starts_with(&format!("boto3-{boto3}")), "{installed:?}");
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let (ran, report) = images(&sandbox, &["--all-regions", "--bucket", "another-teams-bucket"]);
    ran.exits(1);
    assert_eq!(report["account"], "123456789012");
    let class = |label: &str| find(&report, world.ami(label))["class"].as_str().unwrap().to_owned();
    for label in ORPHANS {
        assert_eq!(class(label), "orphan", "{label}\n{ran}");
    }
    assert_eq!(class("healthy"), "healthy");
    assert_eq!(class("neighbour"), "healthy");
    assert_eq!(class("failed-build"), "failed-build");
    assert_eq!(class("running-build"), "in-progress");
    for label in ["foreign-hardened", "foreign-other-account", "foreign-release", "foreign-nothing"] {
        assert!(!ran.stdout().contains(world.ami(label)), "{label} is shown\n{ran}");
    }
    let source = |label: &str| find(&report, world.ami(label))["source"].as_str().unwrap().to_owned();
    assert_eq!(source("orphan-deleted-stack"), "deleted-stack");
    assert_eq!(source("orphan-live-stack"), "stack");
    assert_eq!(source("orphan-s3-only"), "s3");
    assert_eq!(source("orphan-custom-bucket"), "s3");
    assert_eq!(source("orphan-nothing"), "none");
    let image = find(&report, world.ami("orphan-s3-only"));
    assert_eq!(image["imageId"], world.planted["orphan-s3-only"]["id"], "{ran}");
    assert_eq!(find(&report, world.ami("twin-1"))["conflictsWith"], serde_json::json!([world.ami("twin-2")]));
    assert_eq!(
        find(&report, world.ami("in-use-instance"))["inUseBy"][0],
        world.planted["in-use-instance"]["usedBy"]
    );
    assert_eq!(
        find(&report, world.ami("in-use-template"))["inUseBy"][0],
        world.planted["in-use-template"]["usedBy"]
    );
    assert_eq!(find(&report, world.ami("shared"))["sharedWith"][0], "111122223333");
    let log = fs::read_to_string(&proxy.log).unwrap();
    let written: Vec<&str> = log
        .lines()
        .filter(|line| {
            WRITES.iter().any(|write| line.split(' ').nth(1).is_some_and(|call| call.starts_with(write)))
        })
        .collect();
    assert_eq!(written, Vec::<&str>::new(), "\n{log}");
    assert!(log.contains("DescribeImages"), "{log}");
    assert_eq!(world.state(), before);

    let repaired = images(&sandbox, &["--repair", "--yes", "--image", world.ami("orphan-deleted-stack")]).0;
    repaired.exits(0);
    let deleted = images(&sandbox, &["--delete", "--yes", "--image", world.ami("orphan-s3-only")]).0;
    deleted.exits(0);
    let after = world.state();
    let tags = &after["us-east-1"]["images"][world.ami("orphan-deleted-stack")];
    assert_eq!(tags["parallelcluster:image_id"], world.id("orphan-deleted-stack"), "{repaired}");
    assert!(!after.to_string().contains(world.ami("orphan-s3-only")), "{deleted}");
    assert!(
        !after.to_string().contains(world.planted["orphan-s3-only"]["directory"].as_str().unwrap()),
        "{deleted}"
    );
    report
}

/// Why the shim did not call EC2's `DescribeImageReferences`; empty if the shim made the call.
fn why_no_references(report: &Value) -> &str {
    let skipped = report["skipped"].as_array().unwrap().iter();
    let of_references = |entry: &&Value| entry["source"] == "ec2:DescribeImageReferences in us-east-1";
    skipped.into_iter().find(of_references).map_or("", |entry| entry["why"].as_str().unwrap())
}

#[test]
#[ignore = "long"]
fn each_is_classed_by_the_last_boto3_of_python_3_8() {
    let report = each_is_classed_by("fresh/3.2.1-3.8-uv", "1.37.38");
    assert_eq!(why_no_references(&report), "boto3 is too old");
}

#[test]
fn each_is_classed_by_the_newest_boto3() {
    let report = each_is_classed_by(NEWEST, "1.4");
    assert_ne!(why_no_references(&report), "boto3 is too old");
}

#[test]
fn name_that_does_not_exist_is_reported() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    for arguments in [["-i", "no-such-image"], ["--image", "ami-0123456789abcdef0"]] {
        let ran = sandbox.pcluster(&[&["preflight", "images"], &arguments[..]].concat()).run();
        ran.exits(1);
        assert!(ran.stdout().contains("Not found among the AMIs that pcluster built in us-east-1"), "{ran}");
    }
    sandbox.pcluster(&["preflight", "images", "-i", world.id("healthy")]).run().exits(0);
}

#[test]
fn the_template_of_a_stack_is_checked_live_and_deleted() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    for label in ["orphan-live-stack", "orphan-deleted-stack"] {
        let ran = sandbox.pcluster(&["preflight", "stack", world.id(label)]).run();
        ran.exits(1);
        assert!(ran.stdout().contains("AmiDistributionConfiguration"), "{ran}");
        assert!(ran.stdout().contains("restore the tags with `pcluster preflight images --repair`"), "{ran}");
        let command = format!("`pcluster preflight images --repair -i {} -r us-east-1`", world.id(label));
        assert!(ran.stderr().contains(&command), "{ran}");
    }
    let stack = world.planted["running-build"]["stack"].as_str().unwrap();
    for name in [stack, world.id("running-build")] {
        let ran = sandbox.pcluster(&["preflight", "stack", name]).run();
        ran.exits(1);
        let command = "aws cloudformation delete-stack --stack-name running --region us-east-1";
        let repair = "To keep the build, let it finish, then restore the tags of its AMI with `pcluster preflight images --repair -i running";
        assert!(ran.stderr().contains(command) && ran.stderr().contains(repair), "{ran}");
    }
    let ran = sandbox.pcluster(&["preflight", "stack", "no-such-stack"]).run();
    ran.exits(2);
    assert!(ran.stderr().contains("there is no stack \"no-such-stack\" in us-east-1"), "{ran}");
}

#[test]
fn plan_has_the_alias_of_the_account_if_the_caller_may_ask_for_it() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let code = "import boto3, sys\nboto3.client('iam', 'us-east-1', endpoint_url=sys.argv[1], aws_access_key_id='x', \
        aws_secret_access_key='x').create_account_alias(AccountAlias='hpc-production')";
    assert!(python().args(["-c", code, &world.endpoint]).status().unwrap().success());
    let head = |sandbox: &RealSandbox| {
        let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--dry-run"]).run();
        ran.stdout().lines().next().unwrap().to_owned()
    };
    assert_eq!(head(&sandbox), "account 123456789012 (hpc-production), us-east-1");
    let proxy = world.proxy(&["--deny", "iam:ListAccountAliases"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    assert_eq!(head(&sandbox), "account 123456789012, us-east-1");
}
