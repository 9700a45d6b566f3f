//! The shim reads a command line as the real parser does. If the real pcluster refuses a call, the user sees
//! the real pcluster's own message, with nothing added.

use std::fs;

use crate::environments::{BROKEN, GOOD, NEWEST, RENUMBERED, RealSandbox};

/// A configuration with one tag. The findings name the tag, which shows which file was read.
fn tagged(tag: &str) -> String {
    format!(
        "Image:\n  Tags:\n    - Key: {tag}\n      Value: x\n\
         Build:\n  InstanceType: c5.xlarge\n  ParentImage: ami-0123456789abcdef0\n"
    )
}

#[test]
fn every_form_of_an_option_is_checked_with_what_the_real_parser_takes() {
    let sandbox = RealSandbox::of(RENUMBERED);
    sandbox.write("work/a.yaml", tagged("from-a"));
    sandbox.write("work/b.yaml", tagged("from-b"));
    for form in [
        "--image-conf=b.yaml --image-i=my-image --reg=us-east-1",
        "-cb.yaml -imy-image -rus-east-1",
        "-c=b.yaml -i my-image",
        "-c a.yaml -c b.yaml -i my-image",
        "--image-configuration a.yaml -i my-image -c b.yaml -i another",
        "--debug --image-c b.yaml --image-id my-image --suppress-validators ALL type:B",
    ] {
        let words: Vec<&str> = ["build-image"].into_iter().chain(form.split(' ')).collect();
        let ran = sandbox.pcluster(&words).run();
        let errors = ran.stop();
        assert!(errors.iter().any(|error| error.contains("lacks the AMI tag from-b ")), "{form}\n{ran}");
        assert!(!errors.iter().any(|error| error.contains("from-a")), "{form}\n{ran}");
    }
}

/// Calls that the real pcluster answers without AWS, and the exit status of each.
const REFUSED: &[(&str, i32)] = &[
    ("build-image --help", 0),
    ("build-image -h -c absent.yaml", 0),
    ("build-image", 2),
    ("build-image -i my-image", 2),
    ("build-image -c good.yaml", 2),
    ("build-image -c absent.yaml -i my-image", 1),
    ("build-image -c directory -i my-image", 1),
    // A symbolic link to itself, which not even root can read.
    ("build-image -c loop.yaml -i my-image", 1),
    ("build-image -c latin1.yaml -i my-image", 2),
    ("build-image -c invalid.yaml -i my-image", 1),
    ("build-image -c empty.yaml -i my-image", 1),
    ("build-image -c good.yaml -i 1-image", 1),
    ("build-image -c good.yaml -i my-image --no-such-option", 1),
    ("build-image -c good.yaml -i my-image --dryrun maybe", 1),
    ("build-image -c good.yaml -c absent.yaml -i my-image", 1),
];

/// Calls with a configuration that the schema rejects, or that names another region than the call.
const REFUSED_IN_FULL: &[(&str, i32)] = &[
    ("build-image -c rejected.yaml -i my-image", 1),
    ("build-image -c region.yaml -i my-image --reg=us-east-1", 1),
    ("build-image -c good.yaml -c=region.yaml -i my-image -r us-east-1", 1),
];

fn is_refused_in_pcluster_s_own_words(environment: &str, calls: &[(&str, i32)]) {
    let sandbox = RealSandbox::of(environment);
    let good = tagged("x");
    sandbox.write("work/good.yaml", &good);
    sandbox.write("work/latin1.yaml", b"Image: {Name: caf\xe9}\n");
    sandbox.write("work/invalid.yaml", "Build: [\n");
    sandbox.write("work/empty.yaml", "");
    sandbox.write("work/rejected.yaml", good.replace("InstanceType", "InstanceKind"));
    sandbox.write("work/region.yaml", format!("Region: eu-west-1\n{good}"));
    fs::create_dir(sandbox.path("work/directory")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", sandbox.path("work/loop.yaml")).unwrap();
    for (call, status) in calls {
        let words: Vec<&str> = call.split(' ').collect();
        let direct = sandbox.real(&words).run();
        direct.exits(*status);
        sandbox.pcluster(&words).run().is_the_same_as(&direct);
    }
}

#[test]
fn what_schema_and_region_refuse_is_refused_in_pcluster_s_own_words() {
    is_refused_in_pcluster_s_own_words(GOOD, REFUSED_IN_FULL);
}

#[test]
#[ignore = "long"]
fn what_the_newest_release_refuses_is_refused_in_its_own_words() {
    is_refused_in_pcluster_s_own_words(NEWEST, REFUSED);
    is_refused_in_pcluster_s_own_words(NEWEST, REFUSED_IN_FULL);
}

#[test]
#[ignore = "long"]
fn help_and_errors_of_usage_are_pcluster_s_own_on_the_broken_release_too() {
    is_refused_in_pcluster_s_own_words(BROKEN, REFUSED);
}
