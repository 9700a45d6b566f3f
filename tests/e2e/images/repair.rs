//! Tags that a repair writes, and what the real pcluster's commands do with the tagged AMIs.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use serde_json::Value;

use super::{World, find, images, words};
use crate::environments::{GOOD, NEWEST};

#[track_caller]
fn is_given_back(environment: &str) {
    let world = World::plant();
    let sandbox = world.sandbox(environment);
    let (id, ami) = (world.id("orphan-deleted-stack"), world.ami("orphan-deleted-stack"));
    let describe = sandbox.real(&["describe-image", "-i", id]).run();
    describe.exits(1);
    assert!(describe.stdout().contains("No image or stack associated"), "{describe}");
    let before = world.state();

    let ran = sandbox.pcluster(&["preflight", "images", "--repair"]).run();
    ran.exits(2);
    assert!(
        ran.stderr()
            .contains("confirmation is required, but standard input or standard error is not a terminal"),
        "{ran}"
    );
    let (ran, _) = images(&sandbox, &["--repair", "--dry-run"]);
    ran.exits(1);
    assert_eq!(world.state(), before, "a plan changes nothing");
    let ran = sandbox.pcluster(&["preflight", "images", "--repair", "--dry-run", "--image", ami]).run();
    let users = world.planted["orphan-deleted-stack"]["launchPermission"]["UserIds"].as_array().unwrap();
    let shared = users.iter().map(|user| format!("{{UserId={}}}", user.as_str().unwrap()));
    let command = format!(
        "aws ec2 modify-image-attribute --region us-east-1 --image-id {ami} --launch-permission 'Add=[{}]'",
        shared.collect::<Vec<_>>().join(",")
    );
    assert!(ran.stdout().contains(&command), "{ran}");

    let (ran, report) = images(&sandbox, &["--repair", "--yes", "--bucket", "another-teams-bucket"]);
    // The repair refuses the twins, and also the AMI whose build left nothing else behind.
    ran.exits(1);
    let after = world.state();
    for label in [
        "orphan-deleted-stack",
        "orphan-live-stack",
        "orphan-s3-only",
        "orphan-custom-bucket",
        "neighbour-orphan",
        "unknown-release",
    ] {
        let planted = &world.planted[label];
        assert_eq!(find(&report, world.ami(label))["repair"], "done", "{label}\n{ran}");
        let tags = &after["us-east-1"]["images"][world.ami(label)];
        for tag in
            planted["expected"].as_object().unwrap().iter().chain(planted["imageTags"].as_object().unwrap())
        {
            assert_eq!(&tags[tag.0], tag.1, "{label} {}\n{ran}", tag.0);
        }
    }
    for label in ["twin-1", "twin-2", "orphan-nothing", "failed-build", "running-build", "foreign-release"] {
        let images = |state: &Value| state["us-east-1"]["images"][world.ami(label)].clone();
        assert_eq!(images(&after), images(&before), "{label}");
    }
    assert_eq!(after["objects"], before["objects"]);

    let named = ["-i", world.id("orphan-nothing"), "--image", world.ami("orphan-nothing")];
    images(&sandbox, &[&["--repair", "--yes"], &named[..]].concat()).0.exits(0);
    images(&sandbox, &["--repair", "--yes", "--image", world.ami("twin-2")]).0.exits(0);

    let listed = sandbox.real(&["list-images", "--image-status", "AVAILABLE"]).run();
    for label in ["orphan-deleted-stack", "orphan-s3-only", "orphan-nothing", "twin-2"] {
        assert!(listed.stdout().contains(world.id(label)), "{label}\n{listed}");
    }
    let described = sandbox.real(&["describe-image", "-i", id]).run();
    described.exits(0);
    assert_eq!(described.json()["ec2AmiInfo"]["amiId"], ami, "{described}");
    let before = world.state();
    sandbox.real(&["delete-image", "-i", id]).run().exits(0);
    let after = world.state();
    assert!(after["us-east-1"]["images"].get(ami).is_none());
    let directory = world.planted["orphan-deleted-stack"]["directory"].as_str().unwrap();
    let others = |state: &Value| -> Vec<Value> {
        let objects = state["objects"].as_array().unwrap().iter();
        objects.filter(|key| !key.as_str().unwrap().contains(directory)).cloned().collect()
    };
    assert_eq!(others(&after), others(&before));
    assert_ne!(after["objects"], before["objects"]);
}

#[test]
#[ignore = "long"]
fn what_is_repaired_is_found_and_deleted_by_the_first_release() {
    is_given_back(GOOD);
}

#[test]
fn what_is_repaired_is_found_and_deleted_by_the_newest_release() {
    is_given_back(NEWEST);
}

/// The only writing call of a repair fails, or the repair is interrupted before or after that call reaches
/// AWS. The next run finds what the previous one has written.
#[test]
#[ignore = "long"]
fn repair_that_is_cut_off_is_ended_by_the_next() {
    let world = World::plant();
    let label = "orphan-deleted-stack";
    let arguments = ["--repair", "--yes", "--image", world.ami(label)];
    let tags = |state: &Value| state["us-east-1"]["images"][world.ami(label)].clone();
    let untagged = tags(&world.state());
    let mut sandbox = world.sandbox(GOOD);
    for (option, is_done) in [("--fail", false), ("--kill-before", false), ("--kill-after", true)] {
        let pid = sandbox.path("pid");
        let proxy = world.proxy(&[option, "1", "--kill-pid-file", pid.to_str().unwrap()]);
        sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
        let all = [&["preflight", "images"], &arguments[..]].concat();
        let mut command = sandbox.pcluster(&all).command();
        command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shim = command.spawn().unwrap();
        fs::write(&pid, shim.id().to_string()).unwrap();
        let status = shim.wait().unwrap();
        assert_eq!(status.code(), (option == "--fail").then_some(1), "{option}");
        let log = fs::read_to_string(&proxy.log).unwrap();
        assert!(log.contains("ec2 CreateTags"), "{option}\n{log}");
        drop(proxy);

        sandbox.set("AWS_ENDPOINT_URL", &world.endpoint);
        let is_tagged = tags(&world.state()) != untagged;
        assert_eq!(is_tagged, is_done, "{option}");
        let (ran, report) = images(&sandbox, &[]);
        let class = find(&report, world.ami(label))["class"].as_str().unwrap().to_owned();
        assert_eq!(class, if is_done { "healthy" } else { "orphan" }, "{option}\n{ran}");
    }
    let (ran, report) = images(&sandbox, &arguments);
    ran.exits(0);
    let image = find(&report, world.ami(label));
    assert_eq!(image["class"], "healthy", "{ran}");
    let after = tags(&world.state());
    for (key, value) in world.planted[label]["expected"].as_object().unwrap() {
        assert_eq!(&after[key], value, "{ran}");
    }
}

#[test]
fn tag_that_ec2_refuses_is_left_out_and_the_rest_is_written() {
    let world = World::plant();
    let mut sandbox = world.sandbox(GOOD);
    let label = "orphan-deleted-stack";
    let proxy = world.proxy(&["--refuse", "0042"]);
    sandbox.set("AWS_ENDPOINT_URL", &proxy.endpoint);
    let ran =
        sandbox.pcluster(&["preflight", "images", "--repair", "--yes", "--image", world.ami(label)]).run();
    ran.exits(0);
    assert!(words(&ran).contains("EC2 refuses these tags, and they were left out: Cost Center"), "{ran}");
    let tags = world.state()["us-east-1"]["images"][world.ami(label)].clone();
    assert_eq!((&tags["team"], tags.get("Cost Center")), (&serde_json::json!("hpc"), None), "{ran}");
    assert_eq!(tags["parallelcluster:image_id"], world.id(label), "{ran}");
}

#[test]
fn copy_in_another_region_is_adopted_with_the_tags_of_its_original() {
    let world = World::plant();
    let sandbox = world.sandbox(GOOD);
    let (ami, id) = (world.ami("copy"), world.id("copy"));
    let ran = sandbox.pcluster(&["preflight", "images", "-r", "eu-west-1", "--image", ami]).run();
    ran.exits(1);
    let command = format!("`pcluster preflight images --repair -i {id} --image {ami} -r eu-west-1`");
    assert!(ran.stdout().contains(&command), "{ran}");
    let printed: Vec<&str> = command.trim_matches('`').split(' ').skip(1).collect();
    sandbox.pcluster(&[&printed[..], &["--yes"]].concat()).run().exits(0);
    let tags = world.state()["eu-west-1"]["images"][ami].clone();
    assert_eq!((&tags["team"], &tags["parallelcluster:image_id"]), (&"hpc".into(), &id.into()), "{tags}");
}
