//! Every form of launcher leads to its interpreter. The shim starts the interpreter with the flags and
//! variables that pcluster would get. If no interpreter is found for a launcher, the verdict is unknown,
//! and one line says so.

mod forms; // every form of launcher leads to its interpreter
mod interpreters; // interpreters that are scripts, that lead to another interpreter, or that do not run
mod packages; // a check sees the same packages as the launcher's interpreter
mod wrappers; // launchers that are not console scripts: the shim starts them to find their Python

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::fakes::{ENTRY, node};
use crate::support::machine::real_python;
use crate::support::run::Run;
use crate::support::sandbox::Sandbox;

/// `preflight check --no-synth --format json`, which only asks the launcher's interpreter.
fn check(sandbox: &Sandbox) -> (Value, Run) {
    let run = sandbox.pcluster(["preflight", "check", "--no-synth", "--format", "json"]).run();
    let report = serde_json::from_slice(&run.stdout).unwrap_or_default();
    (report, run)
}

/// A real Python, with fake distributions in a directory of the sandbox.
struct Real {
    site: PathBuf,
    launcher: String,
}

fn real(sandbox: &Sandbox) -> Real {
    node(sandbox);
    let site = sandbox.path("site");
    for (name, version) in [("aws-parallelcluster", "3.1.3"), ("aws-cdk.aws-imagebuilder", "1.153.0")] {
        let metadata = site.join(format!("{name}-{version}.dist-info/METADATA"));
        sandbox.write(metadata, format!("Name: {name}\nVersion: {version}\n"));
    }
    sandbox.write(site.join("pcluster/cli/entrypoint.py"), "def main():\n    print('main ran')\n");
    let launcher = format!("#!{}\n{ENTRY}", real_python().display());
    Real { site, launcher }
}

/// Makes a virtual environment without pip, and returns its package directory. Python takes `v` for a
/// virtual environment because of the file `v/pyvenv.cfg` and the link `v/bin/python`.
fn venv(sandbox: &Sandbox) -> PathBuf {
    sandbox.write("v/pyvenv.cfg", format!("home = {}\n", real_python().parent().unwrap().display()));
    let python = sandbox.link("v/bin/python", real_python());
    let code = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let run = sandbox.call(&python, ["-c", code]).run();
    let purelib = PathBuf::from(run.stdout().trim());
    assert!(purelib.starts_with(&sandbox.root), "{}", purelib.display());
    fs::create_dir_all(&purelib).unwrap();
    purelib
}

#[track_caller]
fn blocked(sandbox: &Sandbox, form: &str) -> Value {
    let (report, run) = check(sandbox);
    run.exits(1).is_silent();
    run.holds(report["packages"]["aws-cdk-aws-imagebuilder"] == "1.153.0", "the fake distributions");
    run.holds(report["target"]["launcher"] == form, form);
    run.holds(!run.stdout().contains("main ran"), "pcluster's own code was run");
    sandbox.has_no_scratch();
    report
}

/// Makes a virtual environment with distributions, and returns its package directory and console script.
fn venv_with(sandbox: &Sandbox, name: &str, cdk: &str) -> (PathBuf, PathBuf) {
    sandbox.write(
        format!("{name}/pyvenv.cfg"),
        format!("home = {}\n", real_python().parent().unwrap().display()),
    );
    let python = sandbox.link(format!("{name}/bin/python"), real_python());
    let code = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let purelib = PathBuf::from(sandbox.call(&python, ["-c", code]).run().stdout().trim());
    for (distribution, version) in [("aws-parallelcluster", "3.16.1"), ("aws-cdk.aws-imagebuilder", cdk)] {
        let metadata = purelib.join(format!("{distribution}-{version}.dist-info/METADATA"));
        sandbox.write(metadata, format!("Name: {distribution}\nVersion: {version}\n"));
    }
    sandbox.write(purelib.join("pcluster/__init__.py"), "");
    sandbox.write(purelib.join("pcluster/cli/__init__.py"), "");
    sandbox.write(purelib.join("pcluster/cli/entrypoint.py"), "def main():\n    print('main ran')\n");
    let script = sandbox.script(format!("{name}/bin/pcluster"), format!("#!{}\n{ENTRY}", python.display()));
    (purelib, script)
}
