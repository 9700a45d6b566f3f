//! `preflight fix lambda-runtime` on real releases: the plan, the exchange, the undo, and what pip makes of
//! it afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::process::Command;

use crate::environment_copy::{BY_PIP, EnvironmentCopy, With, uv};
use crate::environments::{Aws, GOOD};

const STACK: &str = "pcluster/templates/imagebuilder_stack.py";
const UTILS: &str = "pcluster/templates/cdk_builder_utils.py";

/// The ids that a check finds.
#[track_caller]
fn ids(copy: &EnvironmentCopy) -> Vec<String> {
    let (ran, report) = copy.preflight(&[]);
    ran.exits(0);
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["id"].as_str().unwrap().to_owned()).collect()
}

fn has_finding(copy: &EnvironmentCopy) -> bool {
    ids(copy).contains(&"lambda-runtime".to_owned())
}

/// Asserts that RECORD has the digest and the size of every file.
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
    // The launcher names this copy's Python.
    let other = String::from_utf8(output.stdout).unwrap();
    assert_eq!(other.lines().filter(|line| !line.ends_with("bin/pcluster")).collect::<Vec<_>>(), [""; 0]);
}

#[track_caller]
fn is_replaced_and_taken_back(name: &str, runtime: &str) {
    let mut copy = EnvironmentCopy::with_bytecode(name, With::Uv);
    let fixed = copy.fix(&["lambda-runtime", "--format", "json"]);
    fixed.exits(0).is_silent();
    let changes = fixed.json()["changes"].as_array().unwrap().clone();
    assert_eq!((changes.len(), changes[0]["edits"].as_array().unwrap().len()), (1, 2), "{fixed}");
    assert!(!has_finding(&copy), "the finding is gone");
    record_is_true(&copy);

    let aws = Aws::start();
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    let built = copy.pcluster(&["build-image", "-c", "image.yaml", "-i", "my-image"]).run();
    built.exits(0).is_silent();
    let template = aws.template("my-image", "body");
    assert!(template.contains("Runtime: python3.12") && !template.contains(runtime), "{template}");

    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_as_before("undone");
    copy.left_nothing("undone");
}

#[test]
fn release_3_1_3() {
    is_replaced_and_taken_back(GOOD, "python3.8");
}

#[test]
#[ignore = "long"]
fn release_3_9_3() {
    is_replaced_and_taken_back("3.9.3", "python3.9");
}

#[test]
#[ignore = "long"]
fn release_3_13_2() {
    is_replaced_and_taken_back("3.13.2", "python3.9");
}

/// The functions of the template are those of the files: with the CDK of the advisory too, which has to be
/// repaired first.
#[test]
#[ignore = "long"]
fn made_by_pip_after_a_repair_of_its_packages() {
    let copy = EnvironmentCopy::of(BY_PIP, With::Pip);
    let blocked = copy.fix(&["lambda-runtime"]);
    blocked.exits(1);
    assert!(
        blocked.stderr().contains("Run `pcluster preflight fix` first, then `fix lambda-runtime`."),
        "{blocked}"
    );
    copy.is_as_before("blocked");
    copy.fix(&[]).exits(0);
    let repaired = copy.keep_copy();
    let second = copy.fix(&["lambda-runtime"]);
    second.exits(0);
    assert!(second.stdout().contains("takes it back, not the repair before it."), "{second}");
    assert!(!has_finding(&copy));
    record_is_true(&copy);
    let compiled = copy.site().join("pcluster/templates/__pycache__");
    let compiled = fs::read_dir(compiled).unwrap().flatten();
    let names: Vec<_> = compiled.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("imagebuilder_stack.")), "{names:?}");
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_the_same_as(&repaired, "undone");
}

#[test]
fn a_plan_shows_the_lines_and_a_second_fix_has_nothing_to_do() {
    let copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    let unknown = copy.fix(&["cleanup-role-5914"]);
    unknown.exits(1);
    assert!(unknown.stderr().contains("no repair is known for cleanup-role-5914"), "{unknown}");
    assert!(unknown.stderr().contains("Build.Iam.CleanupLambdaRole"), "{unknown}");
    let planned = copy.fix(&["lambda-runtime", "--dry-run", "--isolated"]);
    assert!(
        planned.stdout().contains("`pcluster preflight fix lambda-runtime --isolated` would change 2 lines"),
        "{planned}"
    );
    planned.exits(0).is_silent();
    for file in [STACK, UTILS] {
        assert!(planned.stdout().contains(file), "{planned}");
    }
    assert!(planned.stdout().contains("python3.9 -> python3.12"), "{planned}");
    copy.is_as_before("planned");
    copy.fix(&["lambda-runtime"]).exits(0);
    // Again there is nothing to do.
    let again = copy.fix(&["lambda-runtime"]);
    again.exits(0);
    assert_eq!(again.stdout(), "ready: there is nothing to repair\n", "{again}");
}

/// What was installed anew since is not for an undo to change.
#[test]
#[ignore = "long"]
fn an_installation_over_it_stays() {
    let copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    copy.fix(&["lambda-runtime"]).exits(0);
    let index =
        ["pip", "install", "-q", "--reinstall", "--no-deps", "aws-parallelcluster==3.9.3", "--python"];
    let python = copy.environment.bin("python");
    let ran = copy.call(&uv(), &[&index.map(Into::into)[..], &[python.into_os_string()]].concat()).run();
    ran.exits(0);
    assert!(has_finding(&copy), "the release is as it was");
    let refused = copy.pcluster(&["preflight", "undo"]).run();
    refused.exits(1);
    assert!(refused.stderr().contains("was installed anew since"), "{refused}");
    copy.fix(&["lambda-runtime"]).exits(0);
    assert!(!has_finding(&copy));
}

/// Others read an environment by its group: what a repair writes is theirs to read too.
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
    // Root may give files to any group, others to those that they are in.
    let group = if all().all(|(uid, ..)| uid == 0) { Some(65534) } else { None };
    for path in files.iter().chain([&record]) {
        chown(path, None, group).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let before: Vec<_> = all().collect();
    copy.fix(&["lambda-runtime"]).exits(0);
    assert_eq!(all().collect::<Vec<_>>(), before);
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    assert_eq!(all().collect::<Vec<_>>(), before);
}

/// What was edited after the repair is not for an undo to throw away.
#[test]
#[ignore = "long"]
fn an_edit_since_is_not_undone() {
    let copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    copy.fix(&["lambda-runtime-python3.9"]).exits(0);
    let file = copy.site().join(STACK);
    let text = fs::read_to_string(&file).unwrap() + "\n# a site's own change\n";
    fs::remove_file(&file).unwrap();
    fs::write(&file, &text).unwrap();
    let refused = copy.pcluster(&["preflight", "undo"]).run();
    refused.exits(1);
    assert!(refused.stderr().contains("imagebuilder_stack.py was changed since"), "{refused}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

/// Code that differs from its RECORD is not edited further.
#[test]
fn an_edited_file_is_refused() {
    let copy = EnvironmentCopy::with_bytecode("3.13.2", With::Uv);
    let file = copy.site().join(UTILS);
    let text = fs::read_to_string(&file).unwrap() + "\n# a site's own change\n";
    fs::remove_file(&file).unwrap();
    fs::write(&file, &text).unwrap();
    let refused = copy.fix(&["lambda-runtime"]);
    refused.exits(1);
    assert!(refused.stderr().contains("RECORD does not have its digest"), "{refused}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    copy.left_nothing("refused");
}

#[test]
#[ignore = "long"]
fn beside_an_environment() {
    let mut copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    copy.fix(&["lambda-runtime", "--isolated"]).exits(0);
    copy.is_as_before("beside it");
    assert!(!has_finding(&copy));
    let aws = Aws::start();
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    copy.pcluster(&["build-image", "-c", "image.yaml", "-i", "beside"]).run().exits(0);
    assert!(aws.template("beside", "body").contains("Runtime: python3.12"));
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    assert!(has_finding(&copy));
    copy.left_nothing("undone");
}

/// SIGKILL at these steps: the next call rolls it back.
fn killed_at(steps: &[&str]) {
    let mut copy = EnvironmentCopy::with_bytecode("3.9.3", With::Uv);
    for step in steps {
        copy.set("PCLUSTER_SHIM_FAULT", format!("kill:{step}"));
        let killed = copy.fix(&["lambda-runtime"]);
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
