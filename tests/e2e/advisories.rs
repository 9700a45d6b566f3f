//! For every advisory about a package that keeps pcluster from starting: a real environment that the advisory
//! blocks, and a similar environment that it does not block. These tests use only a few releases of pcluster;
//! `tests/startup_table.rs` compares the advisories with what was measured on all releases. Releases that
//! cannot be installed without constraints are tested in `constrained`, the broken CDK in `blocked`, runtimes
//! and known issues in `releases`.

use crate::environment_copy::{EnvironmentCopy, With, uv};
use crate::environments::GOOD;

/// The environment of this release has Python 3.12.
const RELEASE_3_0_3: &str = "3.0.3";

struct Case {
    advisory: &'static str,
    /// The packages to install, as `NAME==VERSION` separated by spaces, or `-NAME` for a package to remove.
    breaks: &'static str,
    starts: &'static str,
}

const fn case(advisory: &'static str, breaks: &'static str, starts: &'static str) -> Case {
    Case { advisory, breaks, starts }
}

/// Uses uv to install or remove packages in a copy.
#[track_caller]
fn change(copy: &EnvironmentCopy, package: &str) {
    let python = copy.environment.bin("python");
    let python = python.to_str().unwrap();
    let (command, packages) = match package.strip_prefix('-') {
        Some(name) => (&["uninstall"][..], name),
        None => (&["install", "--no-deps"][..], package),
    };
    let mut arguments = [&["pip"], command, &["-q", "--python", python]].concat();
    arguments.extend(packages.split(' '));
    let ran = copy.call(&uv(), &arguments).run();
    ran.exits(0);
}

/// The requirement that restores the present version of a package, or `None` if the package is not installed.
fn requirement_of(copy: &EnvironmentCopy, package: &str) -> Option<String> {
    let name = package.trim_start_matches('-').split('=').next().unwrap();
    let versions = copy.versions();
    let is_it = |installed: &&String| installed.to_lowercase() == name.replace('-', "_");
    let installed = versions.keys().find(is_it)?;
    Some(format!("{name}=={}", versions[installed]))
}

/// Returns whether pcluster starts, and the ids of the findings of a check.
#[track_caller]
fn look_at(copy: &EnvironmentCopy) -> (bool, Vec<String>) {
    let starts = copy.real(&["version"]).run().status.success();
    let (_, report) = copy.preflight(&["--no-synth"]);
    let findings = report["findings"].as_array().unwrap();
    let ids = findings.iter().map(|finding| finding["id"].as_str().unwrap().to_owned());
    (starts, ids.collect())
}

#[track_caller]
fn stops_one_and_passes_the_other(environment: &str, cases: &[Case]) {
    let copy = EnvironmentCopy::of(environment, With::Uv);
    for Case { advisory, breaks, starts } in cases {
        let before: Vec<String> = breaks
            .split(' ')
            .chain(starts.split(' '))
            .filter_map(|package| requirement_of(&copy, package))
            .collect();
        change(&copy, breaks);
        let (started, ids) = look_at(&copy);
        assert!(!started, "{breaks} starts");
        assert!(ids.contains(&(*advisory).to_owned()), "{breaks}: {ids:?}");
        change(&copy, starts);
        let (started, ids) = look_at(&copy);
        assert!(started, "{starts} does not start");
        assert!(!ids.contains(&(*advisory).to_owned()), "{starts}: {ids:?}");
        change(&copy, &before.join(" "));
    }
}

#[test]
fn on_release_3_1_3() {
    stops_one_and_passes_the_other(
        GOOD,
        &[
            case("setuptools-82", "setuptools==82.0.0", "setuptools==81.0.0"),
            case("setuptools-70", "setuptools==70.0.0", "setuptools==71.0.0"),
            case("setuptools-absent", "-setuptools", "setuptools==69.5.1"),
            case("flask-2.3", "flask==2.3.0", "flask==2.2.5 werkzeug==2.2.3"),
            case(
                "openapi-spec-validator-0.5",
                "openapi-spec-validator==0.7.1",
                "openapi-spec-validator==0.4.0",
            ),
            case("jsonschema-4.18", "jsonschema==4.23.0", "jsonschema==4.17.3"),
            case("werkzeug-3", "werkzeug==3.0.6", "werkzeug==2.3.8"),
            case("connexion-3", "connexion==3.0.5", "connexion==2.14.2"),
        ],
    );
}

#[test]
fn on_release_3_9_3() {
    stops_one_and_passes_the_other(
        "3.9.3",
        &[case("marshmallow-4", "marshmallow==4.0.0", "marshmallow==3.20.2")],
    );
}

#[test]
fn on_python_3_12() {
    stops_one_and_passes_the_other(
        RELEASE_3_0_3,
        &[case("setuptools-66-python-3.12", "setuptools==65.5.1", "setuptools==66.1.0")],
    );
}

#[test]
fn what_breaks_another_release_is_let_pass() {
    let copy = EnvironmentCopy::of(GOOD, With::Uv);
    change(&copy, "marshmallow==4.0.0");
    let (started, ids) = look_at(&copy);
    assert!(started && !ids.contains(&"marshmallow-4".to_owned()), "{ids:?}");
    let copy = EnvironmentCopy::of("3.9.3", With::Uv);
    for package in ["werkzeug==3.0.6", "jsonschema==4.23.0"] {
        let name = package.split('=').next().unwrap();
        let before = requirement_of(&copy, package).unwrap();
        change(&copy, package);
        let (started, ids) = look_at(&copy);
        assert!(started && ids.iter().all(|id| !id.starts_with(name)), "{package}: {ids:?}");
        change(&copy, &before);
    }
}

#[test]
fn mixed_releases_of_cdk() {
    let copy = EnvironmentCopy::of(GOOD, With::Uv);
    change(&copy, "aws-cdk.aws-sns==1.203.0");
    let (_, ids) = look_at(&copy);
    assert!(ids.contains(&"cdk-mixed-versions".to_owned()), "{ids:?}");
    change(&copy, "aws-cdk.aws-sns==1.204.0");
    assert!(!look_at(&copy).1.contains(&"cdk-mixed-versions".to_owned()));
}
