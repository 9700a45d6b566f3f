//! Source edits on real releases, alone and together with changed packages: the plan, the exchange, the undo,
//! and a later installation over the edited files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::Command;

use crate::environment_copy::{BY_PIP, EnvironmentCopy, With, uv};
use crate::environments::{Aws, GOOD};

const STACK: &str = "pcluster/templates/imagebuilder_stack.py";
const UTILS: &str = "pcluster/templates/cdk_builder_utils.py";

/// The ids of the findings of a check.
#[track_caller]
fn ids(copy: &EnvironmentCopy) -> Vec<String> {
    let (_, report) = copy.preflight(&[]);
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["id"].as_str().unwrap().to_owned()).collect()
}

fn has_finding(copy: &EnvironmentCopy) -> bool {
    ids(copy).contains(&"lambda-runtime".to_owned())
}

/// Asserts that RECORD has the right digest and size for every file.
#[track_caller]
fn record_is_true(copy: &EnvironmentCopy) {
    let code = "import base64, csv, glob, hashlib, os, sys\n\
                site = sys.argv[1]\n\
                record = glob.glob(site + '/aws_parallelcluster-*.dist-info/RECORD')[0]\n\
                for name, digest, size in csv.reader(open(record)):\n\
                \x20   if not digest: continue\n\
                \x20   content = open(os.path.join(site, name), 'rb').read()\n\
                \x20   found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()\n\
                \x20   if (digest, size) != ('sha256=' + found, str(len(content))): print(name)\n";
    let python = copy.environment.bin("python");
    let output = Command::new(python).args(["-c", code]).arg(copy.site()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The launcher differs, because it names this copy's Python.
    let other = String::from_utf8(output.stdout).unwrap();
    assert_eq!(other.lines().filter(|line| !line.ends_with("bin/pcluster")).collect::<Vec<_>>(), [""; 0]);
}

/// Repairs everything at once: installs another CDK or setuptools, and makes the edits that the release
/// needs. Then builds, and undoes the repair.
#[track_caller]
fn all_is_repaired_and_undone(mut copy: EnvironmentCopy, packages: usize, edits: usize) {
    let fixed = copy.fix(&["--format", "json"]);
    fixed.exits(0).is_silent();
    let changes = fixed.json()["changes"].as_array().unwrap().clone();
    let (edited, moved): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.get("edits").is_some());
    assert!(moved.len() >= packages && (packages > 0 || moved.is_empty()), "{fixed}");
    assert_eq!(edited[0]["edits"].as_array().unwrap().len(), edits, "{fixed}");
    assert!(!has_finding(&copy), "the finding is gone");
    record_is_true(&copy);

    let aws = Aws::start();
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    let built = copy.pcluster(&["build-image", "-c", "image.yaml", "-i", "my-image"]).run();
    built.exits(0);
    // stderr is not empty, because setuptools warns about pkg_resources.
    assert!(!built.stderr().contains("pcluster-shim: "), "{built}");
    let template = aws.template("my-image", "body");
    assert!(template.contains("Runtime: python3.12"), "{template}");
    assert!(
        !template.contains("Runtime: python3.8") && !template.contains("Runtime: python3.9"),
        "{template}"
    );
    assert_eq!(template.contains("minitar:0.12"), edits == 3, "{template}");

    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_as_before("undone");
    copy.left_nothing("undone");
}

/// A copy with a setuptools that has no `pkg_resources`, so that pcluster does not start.
fn with_setuptools_82(name: &str) -> EnvironmentCopy {
    let mut copy = EnvironmentCopy::of(name, With::Uv);
    let python = copy.environment.bin("python");
    let install: [std::ffi::OsString; 5] =
        ["pip", "install", "-q", "setuptools==82.0.1", "--python"].map(Into::into);
    copy.call(&uv(), &[&install[..], &[python.into_os_string()]].concat()).run().exits(0);
    copy.is_right_as_it_is();
    copy
}

#[test]
fn release_3_1_3_with_the_broken_cdk() {
    all_is_repaired_and_undone(EnvironmentCopy::of(BY_PIP, With::Pip), 40, 2);
}

#[test]
#[ignore = "long"]
fn release_3_1_3_with_the_newest_setuptools() {
    all_is_repaired_and_undone(with_setuptools_82(GOOD), 1, 2);
}

/// Whoever installs 3.8.0 today gets a setuptools that is so new that pcluster does not start.
#[test]
#[ignore = "long"]
fn release_3_8_0_as_installed_today() {
    all_is_repaired_and_undone(EnvironmentCopy::of("fresh/3.8.0-3.13-uv", With::Uv), 1, 3);
}

#[test]
fn release_3_9_3_with_the_newest_setuptools() {
    all_is_repaired_and_undone(with_setuptools_82("3.9.3"), 1, 3);
}

#[test]
#[ignore = "long"]
fn release_3_13_2_with_the_newest_setuptools() {
    all_is_repaired_and_undone(with_setuptools_82("3.13.2"), 1, 2);
}

#[test]
fn a_plan_shows_the_lines_and_a_second_fix_has_nothing_to_do() {
    let copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    let unknown = copy.fix(&["cleanup-role-5914"]);
    unknown.exits(1);
    assert!(unknown.stderr().contains("no repair is known for cleanup-role-5914"), "{unknown}");
    assert!(unknown.stderr().contains("Build.Iam.CleanupLambdaRole"), "{unknown}");
    let planned = copy.fix(&["--dry-run", "--isolated"]);
    let head = "the repair works; `pcluster preflight fix --isolated` would make these changes: 3 lines\n";
    assert!(planned.stdout().starts_with(head), "{planned}");
    planned.exits(0).is_silent();
    for file in [STACK, UTILS, "pcluster/resources/imagebuilder/parallelcluster.yaml"] {
        assert!(planned.stdout().contains(file), "{planned}");
    }
    assert!(planned.stdout().contains("python3.9 -> python3.12"), "{planned}");
    copy.is_as_before("planned");
    copy.fix(&[]).exits(0);
    let again = copy.fix(&[]);
    again.exits(0);
    assert_eq!(again.stdout(), "ready: there is nothing to repair\n", "{again}");
}

/// Somebody has changed a file of the release, but not the line that is edited.
#[test]
#[ignore = "long"]
fn a_line_is_edited_in_a_file_that_was_changed_elsewhere() {
    let copy = EnvironmentCopy::of("3.13.2", With::Uv);
    let file = copy.site().join(UTILS);
    let text = fs::read_to_string(&file).unwrap() + "\n# a site's own change\n";
    fs::remove_file(&file).unwrap();
    fs::write(&file, &text).unwrap();
    copy.fix(&[]).exits(0);
    assert_eq!(fs::read_to_string(&file).unwrap(), text.replace("python3.9", "python3.12"));
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

/// The text that the edit replaces occurs twice here, but once in the release, so it is not known what the
/// edit would do.
#[test]
fn an_edit_that_does_not_fit_is_left_unless_it_is_asked_for() {
    let copy = EnvironmentCopy::of("3.13.2", With::Uv);
    let file = copy.site().join(UTILS);
    let text = fs::read_to_string(&file).unwrap() + "\n# runtime=\"python3.9\"\n";
    fs::remove_file(&file).unwrap();
    fs::write(&file, &text).unwrap();
    let refused = copy.fix(&["lambda-runtime"]);
    refused.exits(1);
    assert!(refused.stderr().contains("does not contain `runtime=\"python3.9\"` exactly once"), "{refused}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    let left = copy.fix(&[]);
    left.exits(0);
    assert!(left.stdout().starts_with("nothing was repaired; 1 warning remains: "), "{left}");
    assert!(left.stderr().starts_with("pcluster-shim: warning: lambda-runtime was not fixed: "), "{left}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    copy.left_nothing("refused");
}

/// An undo does not change what was reinstalled after the repair.
#[test]
#[ignore = "long"]
fn an_installation_over_it_stays() {
    let copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    copy.fix(&[]).exits(0);
    let index =
        ["pip", "install", "-q", "--reinstall", "--no-deps", "aws-parallelcluster==3.9.3", "--python"];
    let python = copy.environment.bin("python");
    let ran = copy.call(&uv(), &[&index.map(Into::into)[..], &[python.into_os_string()]].concat()).run();
    ran.exits(0);
    assert!(has_finding(&copy), "the release is as it was");
    let refused = copy.pcluster(&["preflight", "undo"]).run();
    refused.exits(1);
    assert!(refused.stderr().contains("was reinstalled after the repair"), "{refused}");
    copy.fix(&[]).exits(0);
    assert!(!has_finding(&copy));
}

/// Other users can have access to an environment through its group, so they must be able to read what a
/// repair writes.
#[test]
#[ignore = "long"]
fn owner_group_and_mode_stay() {
    let copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    let files = ["imagebuilder_stack.py", "cdk_builder_utils.py"]
        .map(|name| copy.site().join("pcluster/templates").join(name));
    let record = copy.site().join("aws_parallelcluster-3.9.3.dist-info/RECORD");
    let all = || {
        files.iter().chain([&record]).map(|path| {
            let metadata = path.metadata().unwrap();
            (metadata.uid(), metadata.gid(), metadata.mode())
        })
    };
    // Root can give files to any group. Other users can give files only to their own groups.
    let group = if all().all(|(uid, ..)| uid == 0) { Some(65534) } else { None };
    for path in files.iter().chain([&record]) {
        chown(path, None, group).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let before: Vec<_> = all().collect();
    copy.fix(&[]).exits(0);
    assert_eq!(all().collect::<Vec<_>>(), before);
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    assert_eq!(all().collect::<Vec<_>>(), before);
}

/// An undo does not discard an edit that was made after the repair.
#[test]
#[ignore = "long"]
fn an_edit_since_is_not_undone() {
    let copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    copy.fix(&[]).exits(0);
    let file = copy.site().join(STACK);
    let text = fs::read_to_string(&file).unwrap() + "\n# a site's own change\n";
    fs::remove_file(&file).unwrap();
    fs::write(&file, &text).unwrap();
    let refused = copy.pcluster(&["preflight", "undo"]).run();
    refused.exits(1);
    assert!(refused.stderr().contains("imagebuilder_stack.py was changed after the repair"), "{refused}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
#[ignore = "long"]
fn outside_an_environment() {
    let mut copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    copy.fix(&["--isolated"]).exits(0);
    copy.is_as_before("outside of it");
    assert!(!has_finding(&copy));
    let aws = Aws::start();
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    copy.pcluster(&["build-image", "-c", "image.yaml", "-i", "outside"]).run().exits(0);
    assert!(aws.template("outside", "body").contains("Runtime: python3.12"));
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    assert!(has_finding(&copy));
    copy.left_nothing("undone");
}

/// SIGKILL at each of these steps: the next call rolls the repair back.
fn killed_at(steps: &[&str]) {
    let mut copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    for step in steps {
        copy.set("PCLUSTER_SHIM_FAULT", format!("kill:{step}"));
        let killed = copy.fix(&[]);
        assert_eq!(killed.status.code(), None, "{step}\n{killed}");
        copy.unset("PCLUSTER_SHIM_FAULT");
        assert!(has_finding(&copy), "{step}");
        copy.is_as_before(step);
    }
}

#[test]
fn killed_while_it_places_files() {
    killed_at(&["place@2"]);
}

#[test]
#[ignore = "long"]
fn killed_at_every_step() {
    killed_at(&["journal", "remove@2", "place@2", "record", "close"]);
}
