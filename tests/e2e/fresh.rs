//! Environments as people install them today, in which pcluster does not start. The shim stops a build, and
//! the message gives the reason. `fix` repairs the environment in place, and `undo` reverts the repair. Mode
//! `fix` repairs the environment before a build.

use std::fs;

use serde_json::Value;

use crate::environment_copy::{EnvironmentCopy, With};
use crate::environments::{Aws, TAGS};
use crate::support::run::Run;

/// 3.0.x has no short options.
const CALL: [&str; 5] = ["build-image", "--image-configuration", "image.yaml", "--image-id", "my-image"];

/// Asserts that a finding reports that pcluster does not start, and returns the finding's message.
#[track_caller]
fn startup(report: &Value, ran: &Run) -> String {
    assert_eq!(report["verdict"], "blocked", "{ran}");
    let findings = report["findings"].as_array().unwrap();
    let startup = findings.iter().find(|finding| finding["id"] == "startup");
    let startup = startup.unwrap_or_else(|| panic!("no finding about the start\n{ran}"));
    assert_eq!(startup["level"], "ERROR", "{ran}");
    assert_eq!(startup["fix"]["command"], "pcluster preflight fix", "{ran}");
    let advised = findings.iter().filter(|finding| finding["type"] == "PackageAdvisory");
    assert!(advised.clone().count() > 0, "an advisory names the package\n{ran}");
    startup["message"].as_str().unwrap().to_owned()
}

/// `name` is RELEASE-PYTHON-INSTALLER; `exception` is the end of the real pcluster's traceback.
#[track_caller]
fn is_stopped_and_repaired(name: &str, with: With, exception: &str) {
    let release = name.split('-').next().unwrap();
    let mut copy = EnvironmentCopy::of(&format!("fresh/{name}"), with);

    let direct = copy.real(&["version"]).run();
    direct.exits(1);
    assert!(direct.stderr().contains(exception), "{direct}");
    // Only `build-image` is guarded. A command such as `version` fails exactly as it does without the shim.
    copy.pcluster(&["version"]).run().is_the_same_as(&direct);

    let (ran, report) = copy.preflight(&[]);
    ran.exits(1);
    let message = startup(&report, &ran);
    assert!(message.contains(exception), "{message}\n{ran}");

    let fixed = copy.fix(&["--format", "json"]);
    fixed.exits(0).is_silent();
    let version = copy.real(&["version"]).run();
    version.exits(0);
    assert_eq!(version.json()["version"], release, "{version}");
    let (ran, report) = copy.preflight(&["--deny", "warnings"]);
    ran.exits(0);
    assert_eq!(report["verdict"], "ready", "{ran}");
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_as_before("undone");
    copy.left_nothing("undone");

    let aws = Aws::start();
    copy.use_aws(&aws);
    copy.write("work/image.yaml", aws.configuration());
    let stopped = copy.pcluster(&CALL).run();
    let errors = stopped.stop();
    assert!(errors.iter().all(|error| error.ends_with("Fix: run `pcluster preflight fix`")), "{stopped}");
    aws.was_not_asked();
    copy.set("PCLUSTER_SHIM_MODE", "fix");
    let built = copy.pcluster(&CALL).run();
    built.exits(0);
    assert!(built.stderr().starts_with("pcluster-shim: repaired: "), "{built}");
    let template = aws.template("my-image", "body");
    for tag in TAGS {
        assert!(template.contains(&format!("parallelcluster:{tag}:")), "{tag} in {template}");
    }
}

const PKG_RESOURCES: &str = "ModuleNotFoundError: No module named 'pkg_resources'";
const FLASK_JSON: &str = "AttributeError: module 'flask.json' has no attribute 'JSONEncoder'";

#[test]
#[ignore = "long"]
fn release_3_0_0_on_python_3_8() {
    is_stopped_and_repaired("3.0.0-3.8-uv", With::Uv, "TypeError: 'type' object is not subscriptable");
}

#[test]
#[ignore = "long"]
fn release_3_0_3_on_python_3_8() {
    is_stopped_and_repaired("3.0.3-3.8-uv", With::Uv, FLASK_JSON);
}

#[test]
#[ignore = "long"]
fn release_3_0_3_on_python_3_9_made_and_repaired_by_pip() {
    is_stopped_and_repaired("3.0.3-3.9-pip", With::Pip, FLASK_JSON);
}

/// Four packages have to change, and their dependencies with them.
#[test]
#[ignore = "long"]
fn release_3_0_0_on_python_3_12() {
    is_stopped_and_repaired("3.0.0-3.12-uv", With::Uv, PKG_RESOURCES);
}

#[test]
fn release_3_1_3_on_python_3_9() {
    is_stopped_and_repaired("3.1.3-3.9-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_2_1_on_python_3_8() {
    is_stopped_and_repaired("3.2.1-3.8-uv", With::Uv, FLASK_JSON);
}

#[test]
#[ignore = "long"]
fn release_3_5_1_on_python_3_9() {
    is_stopped_and_repaired("3.5.1-3.9-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_6_1_on_python_3_9() {
    is_stopped_and_repaired("3.6.1-3.9-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_7_2_on_python_3_12() {
    is_stopped_and_repaired("3.7.2-3.12-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_8_0_on_python_3_13() {
    is_stopped_and_repaired("3.8.0-3.13-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_11_1_on_python_3_11() {
    is_stopped_and_repaired("3.11.1-3.11-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_12_0_on_python_3_10() {
    is_stopped_and_repaired("3.12.0-3.10-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_13_2_on_python_3_13() {
    is_stopped_and_repaired("3.13.2-3.13-uv", With::Uv, PKG_RESOURCES);
}

#[test]
#[ignore = "long"]
fn release_3_13_2_on_python_3_12_made_and_repaired_by_pip() {
    is_stopped_and_repaired("3.13.2-3.12-pip", With::Pip, PKG_RESOURCES);
}

/// Breaks a package that no advisory names, so that pcluster does not start.
fn break_package(copy: &EnvironmentCopy, name: &str, module: &str) {
    let site = copy.site();
    let named = |entry: &fs::DirEntry| {
        let file_name = entry.file_name().into_string().unwrap();
        file_name.starts_with(&format!("{name}-")) && file_name.ends_with(".dist-info")
    };
    let old = site.read_dir().unwrap().flatten().find(named).unwrap().path();
    let new = site.join(format!("{name}-99.0.dist-info"));
    let old_name = old.file_name().unwrap().to_str().unwrap().to_owned();
    fs::rename(&old, &new).unwrap();
    for file in ["METADATA", "RECORD"] {
        let text = fs::read_to_string(new.join(file)).unwrap();
        let version =
            text.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap_or("none").to_owned();
        let text = text.replace(&format!("Version: {version}"), "Version: 99.0");
        fs::write(new.join(file), text.replace(&old_name, &format!("{name}-99.0.dist-info"))).unwrap();
    }
    fs::write(site.join(module), format!("raise ImportError('{name} of the future')\n")).unwrap();
}

/// For the packages at fault, the repair installs the versions available when the pcluster release was
/// published. It moves no other package.
#[track_caller]
fn is_repaired_without_an_advisory(with: With, broken: &[(&str, &str)], options: &[&str]) {
    let mut copy = EnvironmentCopy::of("3.13.2", with);
    for (name, module) in broken {
        break_package(&copy, name, module);
    }
    copy.is_right_as_it_is();
    let (ran, report) = copy.preflight(&[]);
    ran.exits(1);
    let finding = &report["findings"][0];
    assert_eq!(finding["id"], "startup", "{ran}");
    let message = finding["message"].as_str().unwrap();
    let of_one = |name: &&str| {
        message.contains(&format!("{name} of the future")) && message.contains(&format!(" {name} 99.0"))
    };
    assert!(broken.iter().map(|(name, _)| *name).any(|name| of_one(&name)), "{message}\n{ran}");

    let fixed = copy.fix(&[&["--format", "json"], options].concat());
    fixed.exits(0).is_silent();
    let mut changes = fixed.json()["changes"].as_array().unwrap().clone();
    changes.retain(|change| change["why"] != "lambda-runtime");
    let moved: Vec<&str> = changes.iter().map(|change| change["package"].as_str().unwrap()).collect();
    assert_eq!(moved, broken.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{fixed}");
    for change in &changes {
        let why = format!("99.0 breaks pcluster, {} does not", change["to"].as_str().unwrap());
        assert_eq!(change["why"], why, "{fixed}");
    }
    copy.real(&["version"]).run().exits(0);
    copy.preflight(&[]).0.exits(0);
    copy.pcluster(&["preflight", "undo"]).run().exits(0);
    copy.is_as_before("undone");
    copy.left_nothing("undone");
}

#[test]
#[ignore = "long"]
fn a_fault_that_no_advisory_names_is_found_and_repaired() {
    is_repaired_without_an_advisory(With::Uv, &[("inflection", "inflection/__init__.py")], &[]);
}

#[test]
#[ignore = "long"]
fn two_faults_that_no_advisory_names_are_found_and_repaired() {
    let broken = [("inflection", "inflection/__init__.py"), ("publication", "publication.py")];
    is_repaired_without_an_advisory(With::Uv, &broken, &["--strategy", "release"]);
}

/// If there is only pip, the repair uses it to fetch uv into a private directory, because uv can limit
/// packages by date.
#[test]
#[ignore = "long"]
fn pip_fetches_what_limits_dates() {
    is_repaired_without_an_advisory(With::Pip, &[("inflection", "inflection/__init__.py")], &[]);
}
