//! `check --aws` against moto, and through a proxy that denies requests, or answers with an error or
//! with HTML.

use serde_json::{Value, json};

use super::World;
use crate::environments::{NEWEST, RealSandbox};
use crate::support::run::Run;

/// Images in moto's own list.
const WINDOWS: &str = "ami-03cf127a";
const AMAZON_LINUX_2: &str = "ami-04681a1dbd79675a5";
/// An image whose description does not show the operating system.
const LINUX: &str = "ami-ekslinux";

fn configuration(parent: &str, more: &str) -> String {
    format!("Region: us-east-1\nBuild:\n  InstanceType: c5.xlarge\n  ParentImage: {parent}\n{more}")
}

#[track_caller]
fn check(sandbox: &RealSandbox, arguments: &[&str]) -> (Run, Value) {
    let all = [&["preflight", "check", "-c", "image.yaml", "--format", "json"], arguments].concat();
    let ran = sandbox.pcluster(&all).run();
    let report = ran.json();
    (ran, report)
}

fn ids(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["level"] != "INFO")
        .filter_map(|finding| finding["id"].as_str())
        .collect()
}

fn status<'r>(report: &'r Value, check: &str) -> &'r str {
    let checks = report["checks"].as_array().unwrap().iter();
    checks.filter(|one| one["id"] == check).find_map(|one| one["status"].as_str()).unwrap_or("none")
}

#[test]
fn aws_is_asked_about_parent_components_and_subnet() {
    let world = World::plant();
    let proxy = world.proxy(&[]);
    let mut sandbox = world.sandbox(NEWEST);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    sandbox.write("work/image.yaml", configuration(LINUX, ""));
    let (ran, report) = check(&sandbox, &[]);
    ran.exits(0);
    assert_eq!(std::fs::read_to_string(&proxy.log).unwrap(), "", "nothing is asked without --aws");
    assert_eq!(status(&report, "parent"), "none", "{ran}");

    let (ran, report) = check(&sandbox, &["--aws"]);
    ran.exits(0);
    assert_eq!((status(&report, "parent"), ids(&report)), ("passed", vec![]), "{ran}");

    for parent in [WINDOWS, AMAZON_LINUX_2] {
        sandbox.write("work/image.yaml", configuration(parent, ""));
        let (ran, report) = check(&sandbox, &["--aws"]);
        ran.exits(1);
        assert_eq!(
            (status(&report, "parent"), ids(&report)),
            ("failed", vec!["parent-os-unsupported"]),
            "{ran}"
        );
    }

    let components = "  Components:\n    - Type: script\n      Value: s3://another-teams-bucket/absent.sh\n";
    sandbox.write("work/image.yaml", configuration(LINUX, components));
    let (ran, report) = check(&sandbox, &["--aws"]);
    ran.exits(1);
    assert_eq!((status(&report, "components"), ids(&report)), ("failed", vec!["script-missing"]), "{ran}");

    let log = std::fs::read_to_string(&proxy.log).unwrap();
    let absent = world.proxy(&["--answer", "imagebuilder:GetComponent=ResourceNotFoundException"]);
    sandbox.set("AWS_ENDPOINT_URL", &absent.endpoint);
    let arn = "arn:aws:imagebuilder:us-east-1:123456789012:component/absent/1.0.0/1";
    let components = format!("  Components:\n    - Type: arn\n      Value: {arn}\n");
    sandbox.write("work/image.yaml", configuration(LINUX, &components));
    let (ran, report) = check(&sandbox, &["--aws"]);
    ran.exits(1);
    assert_eq!((status(&report, "components"), ids(&report)), ("failed", vec!["component-missing"]), "{ran}");
    for line in log.lines() {
        let call = line.split(' ').nth(1).unwrap_or_default();
        assert!(call.starts_with("Describe") || call.starts_with("Get") || call == "HEAD", "{line}");
    }
}

#[test]
#[ignore = "long"]
fn an_aws_that_denies_or_breaks_leaves_the_parent_unchecked() {
    let world = World::plant();
    for options in [
        &["--deny", "ec2:DescribeImages"][..],
        &["--answer", "ec2:DescribeImages=html"],
        &["--answer", "ec2:DescribeImages=InvalidAMIID.NotFound"],
        &["--answer", "ec2:DescribeImages=RequestLimitExceeded"],
    ] {
        let proxy = world.proxy(options);
        let mut sandbox = world.sandbox(NEWEST);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        sandbox.write("work/image.yaml", configuration(WINDOWS, ""));
        let (ran, report) = check(&sandbox, &["--aws"]);
        ran.exits(3);
        assert_eq!((status(&report, "parent"), ids(&report)), ("unknown", vec![]), "{options:?}\n{ran}");
        assert_eq!(status(&report, "template"), "passed", "{options:?}\n{ran}");
    }
}

#[test]
fn the_facts_of_a_file_reach_the_synthesis() {
    let sandbox = RealSandbox::of(NEWEST);
    sandbox.write("work/image.yaml", configuration("ami-0a1b2c3d4e5f60718", ""));
    let image = json!({
        "ImageId": "ami-0a1b2c3d4e5f60718", "Name": "debian-12-amd64-20241110-1927", "OwnerId": "136693071363",
        "Architecture": "x86_64", "State": "available", "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8}}],
    });
    sandbox.write("work/parent.json", json!({"Images": [image]}).to_string());
    let (ran, report) = check(&sandbox, &["--parent", "parent.json"]);
    ran.exits(1);
    assert_eq!(ids(&report), ["parent-os-unsupported"], "{ran}");
}
