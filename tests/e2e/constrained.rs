//! Releases that cannot be installed today without constraints. With the output of `preflight constraints`,
//! the installer succeeds, pcluster starts, and the verdict is ready.

use std::fs;
use std::path::Path;

use crate::environment_copy::{ROOT, uv};
use crate::environments::{Environment, RealSandbox};
use crate::support::run::Run;

/// An empty environment with the Python of another environment.
struct Empty {
    sandbox: RealSandbox,
    // The last field, so that the directory is removed after the sandbox.
    _directory: tempfile::TempDir,
}

impl Empty {
    #[track_caller]
    fn on_python_of(name: &str) -> Self {
        let python = Environment::named(name).bin("python").canonicalize().unwrap();
        let directory =
            tempfile::Builder::new().prefix("empty-").tempdir_in(Path::new(ROOT).join("target")).unwrap();
        let path = directory.path().join("venv");
        let mut sandbox = RealSandbox::in_environment(Environment { directory: path.clone() });
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_uppercase();
            if text.starts_with("UV_") || text.starts_with("SSL_CERT_") || text.ends_with("_PROXY") {
                sandbox.set(&name.to_string_lossy(), value);
            }
        }
        sandbox.set("UV_CACHE_DIR", Path::new(ROOT).join("target/cache/uv"));
        let arguments =
            ["venv".as_ref(), "-q".as_ref(), "--python".as_ref(), python.as_os_str(), path.as_os_str()];
        sandbox.call(&uv(), &arguments).run().exits(0);
        Self { sandbox, _directory: directory }
    }

    fn install(&self, release: &str, more: &[&str]) -> Run {
        let python = self.sandbox.environment.bin("python");
        let requirement = format!("aws-parallelcluster=={release}");
        let mut arguments = vec!["pip", "install", "-q", "--python", python.to_str().unwrap(), &requirement];
        arguments.extend(more);
        self.sandbox.call(&uv(), &arguments).run()
    }
}

/// `python` is the name of the environment whose Python is used.
#[track_caller]
fn is_installed_with_constraints(release: &str, python: &str) {
    let empty = Empty::on_python_of(python);
    let refused = empty.install(release, &[]);
    assert!(!refused.status.success(), "it can be installed without constraints today\n{refused}");
    assert!(refused.stderr().contains("pyyaml==5.4.1"), "{refused}");

    let sandbox = &empty.sandbox;
    let constraints = sandbox.pcluster(&["preflight", "constraints", release]).run();
    constraints.exits(0).is_silent();
    fs::write(sandbox.path("constraints.txt"), constraints.stdout()).unwrap();
    empty.install(release, &["-c", sandbox.path("constraints.txt").to_str().unwrap()]).exits(0);
    let version = sandbox.real(&["version"]).run();
    version.exits(0);
    assert_eq!(version.json()["version"], release, "{version}");
    let (ran, report) = sandbox.preflight(&[]);
    ran.exits(0);
    assert_eq!(report["verdict"], "ready", "{ran}");
}

const PYTHON_3_10: &str = "fresh/3.12.0-3.10-uv";
const PYTHON_3_11: &str = "fresh/3.11.1-3.11-uv";
const PYTHON_3_12: &str = "fresh/3.7.2-3.12-uv";
const PYTHON_3_13: &str = "fresh/3.8.0-3.13-uv";

#[test]
fn release_3_1_3_on_python_3_13() {
    is_installed_with_constraints("3.1.3", PYTHON_3_13);
}

#[test]
#[ignore = "long"]
fn release_3_1_5_on_python_3_10() {
    is_installed_with_constraints("3.1.5", PYTHON_3_10);
}

#[test]
#[ignore = "long"]
fn release_3_2_1_on_python_3_11() {
    is_installed_with_constraints("3.2.1", PYTHON_3_11);
}

#[test]
#[ignore = "long"]
fn release_3_4_1_on_python_3_12() {
    is_installed_with_constraints("3.4.1", PYTHON_3_12);
}

#[test]
#[ignore = "long"]
fn release_3_5_1_on_python_3_10() {
    is_installed_with_constraints("3.5.1", PYTHON_3_10);
}

#[test]
fn release_3_6_1_on_python_3_13() {
    is_installed_with_constraints("3.6.1", PYTHON_3_13);
}
