//! A check that cannot run: one line names the check and the reason, and the call continues. In strict mode,
//! the shim stops the call.

use std::fs;
use std::path::Path;

use crate::environments::{Aws, GOOD, RealSandbox, normalised};
use crate::support::run::Run;

const CALL: [&str; 5] = ["build-image", "-c", "image.yaml", "-i", "my-image"];

#[track_caller]
fn warns_in_one_line(ran: &Run, direct: &Run, parts: &[&str]) {
    let stderr = ran.stderr();
    let (first, rest) = stderr.split_once('\n').unwrap_or_else(|| panic!("no warning\n{ran}"));
    assert!(first.starts_with("pcluster-shim: warning: not checked: "), "{ran}");
    for part in parts {
        assert!(first.contains(part), "{part:?} is not reported\n{ran}");
    }
    assert_eq!(rest, direct.stderr(), "one line and what pcluster says itself\n{ran}");
    assert_eq!(ran.status, direct.status, "{ran}");
}

#[track_caller]
fn strict_stops(sandbox: &mut RealSandbox, parts: &[&str]) {
    sandbox.set("PCLUSTER_SHIM_STRICT", "1");
    let ran = sandbox.pcluster(&CALL).run();
    let errors = ran.stop();
    assert_eq!(errors.len(), 1, "{ran}");
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not reported\n{ran}");
    }
    assert!(ran.stderr().lines().all(|line| line.starts_with("pcluster-shim: ")), "{ran}");
}

#[test]
fn without_node_it_is_said_once_and_the_call_goes_on() {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(GOOD);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    sandbox.take_off_path("node");

    let direct = sandbox.real(&CALL).run();
    let ran = sandbox.pcluster(&CALL).run();
    let parts = ["`node` is not on PATH"];
    warns_in_one_line(&ran, &direct, &parts);
    assert_eq!(ran.stdout, direct.stdout, "{ran}");

    // A call that the real parser refuses is still refused, and the shim prints nothing.
    let refused = ["build-image", "-c", "image.yaml", "-i", "1-image", "--dryrun", "maybe"];
    sandbox.pcluster(&refused).run().is_the_same_as(&sandbox.real(&refused).run());

    strict_stops(&mut sandbox, &parts);
    aws.was_not_asked();
}

#[test]
fn a_pcluster_whose_api_changed_is_said_once_and_the_call_goes_on() {
    let aws = Aws::start();
    let mut sandbox = RealSandbox::of(GOOD);
    sandbox.use_aws(&aws);
    sandbox.write("work/image.yaml", aws.configuration());
    // A copy of the environment's pcluster, with a function renamed throughout, comes first on sys.path.
    let copy = sandbox.path("changed");
    let changed =
        copy_renaming(&sandbox.environment.site_packages().join("pcluster"), &copy.join("pcluster"));
    assert!(changed > 1, "a definition and a call of the function were to be renamed");
    sandbox.set("PYTHONPATH", copy);

    let direct = sandbox.real(&["build-image", "-c", "image.yaml", "-i", "called-directly"]).run();
    direct.exits(0);
    let ran = sandbox.pcluster(&CALL).run();
    let parts = ["template: ", "build_imagebuilder_template"];
    warns_in_one_line(&ran, &direct, &parts);
    assert_eq!(normalised(&ran, "my-image"), normalised(&direct, "called-directly"), "{ran}");

    let before = aws.requests();
    strict_stops(&mut sandbox, &parts);
    assert_eq!(aws.requests(), before, "the stopped call reached AWS");
}

/// Copies a package and renames a function in it; returns how often the name occurred.
fn copy_renaming(from: &Path, to: &Path) -> usize {
    fs::create_dir_all(to).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            if entry.file_name() != "__pycache__" {
                count += copy_renaming(&source, &target);
            }
        } else if source.extension().is_some_and(|ending| ending == "py") {
            let code = fs::read_to_string(&source).unwrap();
            count += code.matches("build_imagebuilder_template").count();
            fs::write(&target, code.replace("build_imagebuilder_template", "imagebuilder_template")).unwrap();
        } else {
            fs::copy(&source, &target).unwrap();
        }
    }
    count
}
