//! Which AMIs a deletion removes or refuses to remove, and which snapshots, directories and log groups of a
//! removed AMI it reports as left behind.

use std::fs;

use serde_json::Value;

use super::{World, find, images, python, words};
use crate::environments::{GOOD, NEWEST};

#[test]
fn a_deletion_takes_what_it_may_and_nothing_else() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    let before = world.state();
    let (ran, report) = images(&sandbox, &["--delete", "--yes"]);
    ran.exits(1);
    let after = world.state();
    let gone = [
        "orphan-deleted-stack",
        "orphan-live-stack",
        "orphan-s3-only",
        "orphan-nothing",
        "orphan-custom-bucket",
        "neighbour-orphan",
    ];
    let mut expected = before.clone();
    let remove = |list: &mut Value, is_gone: &dyn Fn(&str) -> bool| {
        list.as_array_mut().unwrap().retain(|entry| !is_gone(entry.as_str().unwrap()));
    };
    for label in gone {
        let planted = &world.planted[label];
        assert_eq!(find(&report, world.ami(label))["delete"], "done", "{label}\n{ran}");
        let region = &mut expected["us-east-1"];
        region["images"].as_object_mut().unwrap().remove(world.ami(label)).unwrap();
        let snapshots = planted["snapshots"].to_string();
        remove(&mut region["snapshots"], &|id| snapshots.contains(id));
        // The directory of `orphan-custom-bucket` is in a bucket that this call does not search, and there is
        // no stack of this build. So nothing proves the image id, and the directory and the log group stay.
        if label != "orphan-custom-bucket" && planted["directory"].is_string() {
            let group = planted["logGroup"].as_str().unwrap_or("none");
            remove(&mut region["logGroups"], &|name| name == group);
            let directory = planted["directory"].as_str().unwrap();
            remove(&mut expected["objects"], &|key| key.contains(directory));
        }
    }
    assert_eq!(after, expected, "{ran}");
    for label in ["in-use-instance", "in-use-template", "shared", "twin-1", "twin-2", "unknown-release"] {
        assert_eq!(find(&report, world.ami(label))["delete"], "refused", "{label}\n{ran}");
    }
    let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--yes", "-i", "sound"]).run();
    ran.exits(1);
    assert!(words(&ran).contains("use `pcluster delete-image`"), "{ran}");
    assert_eq!(world.state(), after);
}

/// A prompt can wait for an answer for hours, and the account can change in the meantime.
#[test]
fn what_changes_after_the_plan_is_seen_before_a_deletion() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    for (label, code, said) in [
        (
            "orphan-deleted-stack",
            "ec2.create_tags(Resources=['AMI'], Tags=[{'Key': 'parallelcluster:image_id', 'Value': 'x'}])",
            "it has been repaired in the meantime",
        ),
        (
            "orphan-live-stack",
            "ec2.run_instances(ImageId='AMI', MinCount=1, MaxCount=1, InstanceType='c5.xlarge')",
            "uses it now",
        ),
        (
            "orphan-s3-only",
            "ec2.modify_image_attribute(ImageId='AMI', LaunchPermission={'Add': [{'UserId': '111122223333'}]})",
            "it has been shared",
        ),
        (
            "neighbour-orphan",
            "ec2.create_tags(Resources=['AMI'], Tags=[{'Key': 'pcluster-preflight:keep', 'Value': ''}])",
            "it has been tagged pcluster-preflight:keep",
        ),
    ] {
        let ami = world.ami(label);
        let before = world.state();
        let arguments = ["images", "--delete", "--image", ami];
        let ran = world.at_prompt(&sandbox, &code.replace("AMI", ami), &arguments);
        ran.exits(1);
        assert!(words(&ran).contains(said), "{label}\n{ran}");
        let after = world.state();
        assert!(after["us-east-1"]["images"].get(ami).is_some(), "{label}\n{ran}");
        for kept in ["snapshots", "logGroups"] {
            assert_eq!(after["us-east-1"][kept], before["us-east-1"][kept], "{label}\n{ran}");
        }
        assert_eq!(after["objects"], before["objects"], "{label}\n{ran}");
    }
}

/// S3 lists and deletes at most a thousand objects per call.
#[test]
fn directory_with_thousands_of_objects_is_deleted_in_one_run() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    let planted = &world.planted["orphan-s3-only"];
    let (bucket, directory) = (planted["bucket"].as_str().unwrap(), planted["directory"].as_str().unwrap());
    let code = "import boto3, sys\ns3 = boto3.client('s3', 'us-east-1', endpoint_url=sys.argv[1], \
        aws_access_key_id='x', aws_secret_access_key='x')\nfor number in range(2100):\n    \
        s3.put_object(Bucket=sys.argv[2], Key='{}/{}'.format(sys.argv[3], number), Body=b'')";
    assert!(python().args(["-c", code, &world.endpoint, bucket, directory]).status().unwrap().success());
    let ran = sandbox
        .pcluster(&["preflight", "images", "--delete", "--yes", "--image", world.ami("orphan-s3-only")])
        .run();
    ran.exits(0);
    assert!(!world.state()["objects"].to_string().contains(directory), "{ran}");
}

/// The AMI has a copy in another region, and somebody has tagged the copy by hand. The tags of the copy name
/// the S3 directory of the build. Only a listing of the other region shows these tags.
#[test]
fn a_directory_that_an_ami_of_another_region_has_stays() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let planted = &world.planted["orphan-deleted-stack"];
    let tags = planted["expected"].as_object().unwrap().iter();
    let tags: Vec<Value> = tags.map(|(key, value)| serde_json::json!({"Key": key, "Value": value})).collect();
    let code = format!(
        "import boto3, json, sys\nboto3.client('ec2', 'eu-west-1', endpoint_url=sys.argv[1], aws_access_key_id='x', \
         aws_secret_access_key='x').create_tags(Resources=['{}'], Tags=json.loads(sys.argv[2]))",
        world.ami("copy")
    );
    let tagged = python().args(["-c", &code, &world.endpoint, &serde_json::json!(tags).to_string()]).status();
    assert!(tagged.unwrap().success());
    let before = world.state();
    let ran = sandbox
        .pcluster(&["preflight", "images", "--delete", "--yes", "-i", world.id("orphan-deleted-stack")])
        .run();
    ran.exits(1);
    let place =
        format!("s3://{}/{}/", planted["bucket"].as_str().unwrap(), planted["directory"].as_str().unwrap());
    let said = format!("left behind: {place}: {} in eu-west-1 uses this directory", world.ami("copy"));
    assert!(words(&ran).contains(&said) && !words(&ran).contains("files in S3"), "{ran}");
    assert_eq!(world.state()["objects"], before["objects"], "{ran}");
    // The deletion is not listed as unfinished, because no later run could delete the directory either.
    let (ran, report) = images(&sandbox, &[]);
    assert_eq!(report["unfinished"], serde_json::json!([]), "{ran}");

    // Now AWS denies requests to eu-west-1, as a policy of an organization can.
    let proxy = world.proxy(&["--deny", "ec2:DescribeImages@eu-west-1"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let (ran, report) = images(&sandbox, &["--delete", "--yes", "-i", world.id("orphan-s3-only")]);
    ran.exits(1);
    let left = report["images"][0]["left"][0].as_str().unwrap();
    assert!(
        left.starts_with("s3://") && left.contains("cannot find out whether an AMI in eu-west-1"),
        "{ran}"
    );
    assert_eq!(world.state()["objects"], before["objects"], "{ran}");
    let logs = world.planted["orphan-s3-only"]["logGroup"].as_str().unwrap();
    assert!(!world.state()["us-east-1"]["logGroups"].to_string().contains(logs), "{ran}");
}

/// EC2 refuses to delete a snapshot that another AMI uses, perhaps an AMI of another account.
#[test]
fn snapshot_that_another_ami_needs_stays_and_is_reported() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let snapshot = world.planted[label]["snapshots"][0].as_str().unwrap().to_owned();
    let proxy = world.proxy(&["--answer", "ec2:DeleteSnapshot=InvalidSnapshot.InUse"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let named = ["preflight", "images", "--delete", "--yes", "--image", world.ami(label)];
    let ran = sandbox.pcluster(&named).run();
    ran.exits(1);
    assert!(
        ran.stdout().contains(&format!("left behind: snapshot {snapshot}: another AMI needs it")),
        "{ran}"
    );
    let state = world.state();
    assert!(state["us-east-1"]["snapshots"].to_string().contains(&snapshot), "{ran}");
    assert!(state["us-east-1"]["images"].get(world.ami(label)).is_none(), "{ran}");
    sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
    let (ran, report) = images(&sandbox, &[]);
    assert_eq!(report["unfinished"], serde_json::json!([]), "{ran}");
}

/// The proxy gives answers that moto cannot give: protection, references, a stack that could not be deleted.
#[test]
fn ami_that_is_protected_or_referenced_is_not_deleted() {
    let world = World::plant();
    let mut sandbox = world.sandbox(NEWEST);
    let (ami, id) = (world.ami("orphan-live-stack"), world.id("orphan-live-stack"));
    let protected = "ec2:DescribeImages=<imageState>=><deregistrationProtection>enabled</deregistrationProtection><imageState>";
    let references = format!(
        "<DescribeImageReferencesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><imageReferenceSet><item>\
         <imageId>{ami}</imageId><resourceType>ssm:Parameter</resourceType>\
         <arn>arn:aws:ssm:us-east-1:123456789012:parameter/golden</arn></item></imageReferenceSet>\
         </DescribeImageReferencesResponse>"
    );
    let file = world.directory.path().join("references.xml");
    fs::write(&file, references).unwrap();
    let option = format!("ec2:DescribeImageReferences={}", file.display());
    let failed = "cloudformation:DescribeStacks=CREATE_COMPLETE=>DELETE_FAILED";
    let before = world.state();
    for (options, said) in [
        (["--rewrite", protected], "it is protected from deregistration (enabled)"),
        (["--body", &option], "it is in use by arn:aws:ssm:us-east-1:123456789012:parameter/golden"),
    ] {
        let proxy = world.proxy(&options);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--yes", "-i", id]).run();
        ran.exits(1);
        assert!(words(&ran).contains(said), "{ran}");
        assert_eq!(world.state(), before, "{ran}");
    }
    let proxy = world.proxy(&["--rewrite", failed]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran = sandbox.pcluster(&["preflight", "stack", id]).run();
    ran.exits(1);
    assert!(ran.stdout().contains("restore the tags with `pcluster preflight images --repair`"), "{ran}");
}

#[test]
fn ami_of_a_launch_configuration_is_not_deleted() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let ami = world.ami("orphan-s3-only");
    let code = "import boto3, sys\nboto3.client('autoscaling', 'us-east-1', endpoint_url=sys.argv[1], \
        aws_access_key_id='x', aws_secret_access_key='x').create_launch_configuration(\
        LaunchConfigurationName='old-workers', ImageId=sys.argv[2], InstanceType='c5.xlarge')";
    assert!(python().args(["-c", code, &world.endpoint, ami]).status().unwrap().success());
    let delete = ["preflight", "images", "--delete", "--yes", "--image", ami];
    let ran = sandbox.pcluster(&delete).run();
    ran.exits(1);
    assert!(ran.stdout().contains("it is in use by old-workers"), "{ran}");
    let proxy = world.proxy(&["--deny", "autoscaling:DescribeLaunchConfigurations"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran = sandbox.pcluster(&delete).run();
    ran.exits(1);
    assert!(words(&ran).contains("cannot find out whether it is in use"), "{ran}");
}

#[test]
fn what_a_deletion_cannot_reach_in_s3_is_listed_and_is_status_1() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let proxy = world.proxy(&["--deny", "s3:ListBucket"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let (ran, report) = images(&sandbox, &["--delete", "--yes", "--image", world.ami(label)]);
    ran.exits(1);
    let planted = &world.planted[label];
    let place =
        format!("s3://{}/{}/", planted["bucket"].as_str().unwrap(), planted["directory"].as_str().unwrap());
    let image = find(&report, world.ami(label));
    assert_eq!(
        (&image["delete"], &image["left"]),
        (&serde_json::json!("done"), &serde_json::json!([place])),
        "{ran}"
    );
    assert!(world.state()["objects"].to_string().contains(planted["directory"].as_str().unwrap()));
}

#[test]
fn orphan_of_unknown_release_is_deleted_only_by_its_ami() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    let (ami, id) = (world.ami("unknown-release"), world.id("unknown-release"));
    let ran = sandbox.pcluster(&["preflight", "images", "--delete", "--yes", "-i", id]).run();
    ran.exits(1);
    assert!(words(&ran).contains("pass it with --image"), "{ran}");
    images(&sandbox, &["--delete", "--yes", "--image", ami]).0.exits(0);
    assert!(!world.state().to_string().contains(ami));
}
