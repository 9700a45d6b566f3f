//! With the broken CDK: the shim stops calls before they reach AWS. The tests show what the findings name,
//! and what each mode does.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::environments::{Aws, BROKEN, GOOD, RENUMBERED, RealSandbox, TAGS, normalised};

const DISTRIBUTIONS: &str = "$.Resources.DistributionConfiguration.Properties.Distributions";

/// The command that every finding here names.
const FIX: &str = "pcluster preflight fix";

#[test]
fn the_broken_release_is_stopped_before_anything_reaches_aws() {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(BROKEN);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    let call = ["build-image", "-c", "image.yaml", "-i", "my-image"];

    let first = sandbox.pcluster(&call).run();
    let message = "aws-cdk.aws-imagebuilder 1.153.0 writes AmiDistributionConfiguration as {}, so the \
                   AMI gets no name and no tags. The build wastes an hour of EC2 on an AMI that \
                   describe-image, list-images and delete-image cannot find. Fix: ";
    let stop = json!({
        "configurationValidationErrors": [
            {"level": "ERROR", "type": "PackageAdvisory", "message": format!("{message}run `{FIX}`")}
        ],
        "message": "pcluster-shim stopped build-image: it would fail, or its image would be unusable.",
    });
    first.exits(1);
    assert_eq!(first.stdout(), serde_json::to_string_pretty(&stop).unwrap() + "\n", "{first}");
    let stderr = first.stderr();
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{first}");
    assert!(lines.iter().all(|line| line.starts_with("pcluster-shim: ")), "{first}");
    assert!(lines[0].contains("aws-cdk.aws-imagebuilder 1.153.0"), "{first}");
    assert!(lines[1].contains("an hour of EC2"), "{first}");
    assert_eq!(lines[2], format!("pcluster-shim: hint: Run `{FIX}`."), "{first}");

    aws.was_not_asked();
}

#[test]
fn the_fault_under_another_number_is_found_in_the_template() {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(RENUMBERED);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());

    let ran = sandbox.pcluster(&["build-image", "-c", "image.yaml", "-i", "my-image"]).run();
    let errors = ran.stop();
    let path = format!("{DISTRIBUTIONS}[0].AmiDistributionConfiguration");
    let empty = "the template has an empty AmiDistributionConfiguration";
    assert!(errors[0].starts_with(empty) && errors[0].contains(&format!("(at {path})")), "{ran}");
    assert!(errors.iter().all(|error| error.ends_with(&format!(" Fix: run `{FIX}`"))), "{ran}");
    assert_eq!(errors.len(), 2 + TAGS.len(), "{ran}");
    assert!(ran.stderr().lines().next().unwrap().contains(empty), "{ran}");
    aws.was_not_asked();

    let (ran, report) = sandbox.preflight(&["-c", "image.yaml"]);
    ran.exits(1);
    assert_eq!(report["packages"]["aws-cdk-aws-imagebuilder"], "1.152.0");
    assert_eq!(status(&report, "packages"), "passed", "{ran}");
    assert_eq!(status(&report, "template"), "failed", "{ran}");
}

fn status<'a>(report: &'a Value, check: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|entry| entry["id"] == check).unwrap()["status"].as_str().unwrap()
}

const RICH: &str = "\
Image:
  Name: custom-name
  Tags:
    - {Key: team, Value: hpc}
    - {Key: cost centre, Value: '42'}
Build:
  InstanceType: c5.xlarge
  ParentImage: ami-0123456789abcdef0
DevSettings:
  DistributionConfiguration:
    Regions: eu-west-1,us-east-1
";

/// The findings of level ERROR. Each release also has known issues, which have a lower level.
fn errors(report: &Value) -> Vec<&Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == "ERROR").collect()
}

#[test]
fn every_missing_piece_of_a_rich_configuration_is_named_for_every_region() {
    let good = RealSandbox::of(GOOD);
    good.write("work/rich.yaml", RICH);
    let (ran, report) = good.preflight(&["-c", "rich.yaml", "-i", "my-image"]);
    ran.exits(0).is_silent();
    assert_eq!((&report["verdict"], errors(&report)), (&json!("ready"), Vec::new()), "{ran}");
    assert_eq!(status(&report, "template"), "passed", "{ran}");

    let bad = RealSandbox::of(RENUMBERED);
    bad.write("work/rich.yaml", RICH);
    let (ran, report) = bad.preflight(&["-c", "rich.yaml", "-i", "my-image"]);
    ran.exits(1);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut named = BTreeSet::new();
    for finding in errors(&report) {
        let evidence = &finding["evidence"];
        // Each finding covers both regions, and lists its path in each region.
        assert_eq!((&evidence["count"], &evidence["paths"][0]), (&json!(2), &evidence["path"]), "{ran}");
        for path in evidence["paths"].as_array().unwrap() {
            named.insert((text(&finding["id"]), text(path), text(&evidence["expected"])));
        }
    }
    let mut expected = BTreeSet::new();
    for region in 0..2 {
        let path = format!("{DISTRIBUTIONS}[{region}].AmiDistributionConfiguration");
        let mut piece = |id: &str, path: String, value: &str| {
            expected.insert((id.to_owned(), path, value.to_owned()));
        };
        piece("template-ami-configuration-empty", path.clone(), "");
        piece("template-ami-name", format!("{path}.Name"), "custom-name {{ imagebuilder:buildDate }}");
        for tag in TAGS {
            let value = match tag {
                "image_id" => "my-image",
                "image_name" => "custom-name",
                "version" => "3.1.3",
                _ => "",
            };
            piece("template-ami-tag-missing", format!("{path}.AmiTags[\"parallelcluster:{tag}\"]"), value);
        }
        piece("template-ami-tag-missing", format!("{path}.AmiTags[\"team\"]"), "hpc");
        piece("template-ami-tag-missing", format!("{path}.AmiTags[\"cost centre\"]"), "42");
    }
    assert_eq!(named, expected, "{ran}");
    assert_eq!(errors(&report).len() * 2, expected.len(), "{ran}");
}

#[test]
fn warn_reports_and_goes_on_and_off_does_not_check() {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(BROKEN);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    let call = |id: &'static str| ["build-image", "-c", "image.yaml", "-i", id];
    let direct = sandbox.real(&call("by-hand")).run();
    direct.exits(0).is_silent();

    sandbox.set("PCLUSTER_SHIM_MODE", "warn");
    let warned = sandbox.pcluster(&call("warned")).run();
    warned.exits(0);
    assert_eq!(normalised(&warned, "warned"), normalised(&direct, "by-hand"), "{warned}");
    let stderr = warned.stderr();
    assert!(stderr.lines().all(|line| line.starts_with("pcluster-shim: ")), "{warned}");
    assert!(stderr.contains("aws-cdk.aws-imagebuilder 1.153.0"), "{warned}");
    assert!(stderr.contains(&format!("hint: Run `{FIX}`.")), "{warned}");
    assert!(stderr.ends_with("continuing anyway (mode: warn)\n"), "{warned}");
    assert!(aws.template("warned", "body").contains("AmiDistributionConfiguration: {}"), "{warned}");

    let mut sandbox = RealSandbox::of(BROKEN);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    sandbox.set("PCLUSTER_SHIM_MODE", "off");
    let (off, trace) = sandbox.traced("execve", &call("unchecked"));
    off.exits(0).is_silent();
    assert_eq!(normalised(&off, "unchecked"), normalised(&direct, "by-hand"), "{off}");
    let real = sandbox.environment.bin("pcluster");
    assert_eq!(trace.executed()[..2], [sandbox.path("shim/pcluster"), real], "{trace}");
}
