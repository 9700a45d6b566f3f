//! With the real pcluster, a check reports each error that a configuration, a parent image or a template
//! can cause. The errors of advisories are tested in `advisories`. A test in `tests/source_rules.rs`
//! requires a case for each error.

use std::fs;

use serde_json::{Value, json};

use crate::environment_copy::{EnvironmentCopy, With};
use crate::environments::{GOOD, RealSandbox};

const CONFIGURATION: &str =
    "Region: us-east-1\nBuild:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n";

/// Runs a check, and returns the ids of its findings of level ERROR.
#[track_caller]
fn errors(sandbox: &RealSandbox, configuration: &str, more: &[&str]) -> Vec<String> {
    sandbox.write("work/image.yaml", format!("{CONFIGURATION}{configuration}"));
    let (ran, report) = sandbox.preflight(&[&["check", "-c", "image.yaml"], more].concat());
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{ran}")).iter();
    let errors = findings.filter(|finding| finding["level"] == "ERROR");
    let ids: Vec<String> = errors.map(|finding| finding["id"].as_str().unwrap().to_owned()).collect();
    ran.exits(i32::from(!ids.is_empty()));
    ids
}

/// Configurations that the real parser accepts, but that AWS is certain to refuse.
#[test]
#[ignore = "long"]
fn of_configurations() {
    let sandbox = RealSandbox::of(GOOD);
    let tags = |tags: &str| format!("Image:\n  Tags:\n{tags}");
    let tag = |key: &str, value: &str| tags(&format!("    - {{Key: '{key}', Value: '{value}'}}\n"));
    let many =
        (0..51).map(|number| format!("    - {{Key: k{number}, Value: v}}\n")).collect::<Vec<_>>().concat();
    let component = |region: &str| {
        format!(
            "  Components:\n    - Type: arn\n      Value: arn:aws:imagebuilder:{region}:aws:component/x/1.0.0/1\n"
        )
    };
    let shared = |key: &str| {
        format!(
            "Image:\n  RootVolume: {{Size: 50, Encrypted: true, KmsKeyId: {key}}}\nDevSettings:\n  DistributionConfiguration:\n    Regions: us-east-1\n    \
             LaunchPermission: '{{\"UserIds\": [\"111122223333\"]}}'\n"
        )
    };
    for (id, breaks, passes) in [
        ("ami-name-characters", "Image:\n  Name: a$b\n".into(), "Image:\n  Name: a-b\n".into()),
        ("ami-tags-number", tags(&many), tag("k", "v")),
        ("ami-tag-reserved", tag("aws:x", "v"), tag("x:aws:", "v")),
        ("component-region", component("eu-west-1"), component("us-east-1")),
        ("sharing-encrypted", shared("alias/aws/ebs"), shared("alias/mine")),
    ] {
        let found = errors(&sandbox, &breaks, &[]);
        assert!(found.iter().any(|own| own == id), "{id}: {found:?}");
        assert_eq!(errors(&sandbox, &passes, &[]), [""; 0], "{id}");
    }
    for (length, id) in [(120, Some("ami-name-length")), (20, None)] {
        let found = errors(&sandbox, "", &["-i", &"n".repeat(length)]);
        assert_eq!(found.first().map(String::as_str), id, "{length}");
    }
}

/// Parent images as `aws ec2 describe-images` prints them.
#[test]
#[ignore = "long"]
fn of_parent_images() {
    let image = |name: &str, owner: &str| {
        json!({"ImageId": "ami-0123456789abcdef0", "Name": name, "Architecture": "x86_64", "State": "available",
               "OwnerId": "309956199498", "ImageOwnerAlias": owner})
    };
    let el = |version: &str| image(&format!("RHEL-{version}.0_HVM-20240523-x86_64-88-Hourly2-GP3"), "amazon");
    let own = |version: &str| image(&format!("aws-parallelcluster-{version}-amzn2-hvm-x86_64-1"), "amazon");
    for (id, environment, breaks, passes) in [
        ("el-8.10-version", "3.9.3", el("8.10"), el("8.9")),
        ("parent-os-unsupported", "3.9.3", el("10.0"), el("8.9")),
        ("parent-parallelcluster", "3.9.3", own("3.9.2"), own("3.9.3")),
    ] {
        let sandbox = RealSandbox::of(environment);
        let found = |image: &Value| {
            sandbox.write("work/parent.json", json!({"Images": [image]}).to_string());
            errors(&sandbox, "", &["--parent", "parent.json"])
        };
        // A check of 3.9.3 also finds the error `minitar-1.0`, unless ParallelCluster made the parent image.
        // So the assertions look only for `id`.
        let others: Vec<String> = found(&passes);
        assert!(!others.iter().any(|own| own == id), "{id}: {others:?}");
        assert!(found(&breaks).iter().any(|own| own == id), "{id}");
    }
}

/// The beginning of the Python code that edits a template. It defines a variable for each part of the
/// template that an edit in `of_templates` changes. The code runs after the real code has built the template.
const MUTATION: &str = "
resources = generated_template['Resources']
image = next(one['Properties'] for one in resources.values() if one['Type'] == 'AWS::ImageBuilder::Image')
distribution = resources['DistributionConfiguration']['Properties']['Distributions'][0]
ami = distribution['AmiDistributionConfiguration']
tags = ami['AmiTags']
";

/// Imitates a pcluster or a CDK that writes a wrong template.
#[test]
#[ignore = "long"]
fn of_templates() {
    let copy = EnvironmentCopy::of(GOOD, With::Uv);
    let file = copy.site().join("pcluster/templates/cdk_builder.py");
    let code = fs::read_to_string(&file).unwrap();
    let (before, after) = code.rsplit_once("        return generated_template\n").unwrap();
    let mutation = copy.write("work/mutation.py", "");
    let call = format!(
        "        exec(open({:?}).read())\n        return generated_template\n",
        mutation.to_str().unwrap()
    );
    fs::write(&file, [before, &call, after].concat()).unwrap();
    let shared = "DevSettings:\n  DistributionConfiguration:\n    Regions: us-east-1\n    LaunchPermission: '{\"UserIds\": [\"111122223333\"]}'\n";
    assert_eq!(errors(&copy, shared, &[]), [""; 0]);
    for (id, edit) in [
        ("template-no-distribution", "del resources['DistributionConfiguration']"),
        ("template-region-missing", "distribution['Region'] = ''"),
        ("template-ami-configuration-missing", "del distribution['AmiDistributionConfiguration']"),
        ("template-ami-configuration-empty", "ami.clear()"),
        ("template-ami-name", "ami['Name'] = 'name'"),
        ("template-ami-tag-missing", "del tags['parallelcluster:version']"),
        ("template-ami-tag-empty", "tags['parallelcluster:version'] = ''"),
        ("template-ami-tag-differs", "tags['parallelcluster:version'] = '3.1.2'"),
        ("template-launch-permission", "del ami['LaunchPermissionConfiguration']"),
        (
            "template-no-image",
            "for name, one in list(resources.items()):\n    if one['Type'] == 'AWS::ImageBuilder::Image': del resources[name]",
        ),
        ("template-image-unlinked", "del image['DistributionConfigurationArn']"),
        // In a configuration, the schema of this release would refuse these two tags.
        ("ami-tag-key-length", "tags['k' * 129] = 'v'"),
        ("ami-tag-value-length", "tags['k'] = 'v' * 257"),
    ] {
        copy.write("work/mutation.py", format!("{MUTATION}{edit}\n"));
        let found = errors(&copy, shared, &[]);
        assert!(found.iter().any(|own| own == id), "{id}: {found:?}");
    }
}
