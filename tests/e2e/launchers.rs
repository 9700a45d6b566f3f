//! The ways in which pcluster is installed: each launcher is recognised, and the interpreter that the shim
//! finds is the one that runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::environments::{Environment, GOOD, RealSandbox, find};
use crate::support::machine::{on_this_machine, write_script};

/// The interpreter that a launcher really runs, and its `sys.argv[0]`. A `sitecustomize` records both when
/// the interpreter exits.
fn really_runs(sandbox: &mut RealSandbox, launcher: &Path) -> (PathBuf, PathBuf) {
    const SPY: &str = "import atexit, os, sys
if 'SPY' in os.environ:
    note = lambda: open(os.environ['SPY'], 'w').write(sys.executable + '\\n' + sys.argv[0])
    atexit.register(note)
";
    fs::create_dir_all(sandbox.path("spy")).unwrap();
    let note = sandbox.path("spy/noted");
    fs::write(sandbox.path("spy/sitecustomize.py"), SPY).unwrap();
    let call = sandbox.call(launcher, &["version"]).var("PYTHONPATH", sandbox.path("spy"));
    let ran = call.var("SPY", &note).run();
    ran.exits(0);
    assert_eq!(ran.json(), json!({"version": "3.1.3"}), "{ran}");
    let noted = fs::read_to_string(note).unwrap();
    let (executable, name) = noted.split_once('\n').unwrap();
    (executable.into(), name.into())
}

/// Asserts that `preflight` reports what the launcher really runs, and that a call through the shim has the
/// same result as a direct call.
fn is_known(sandbox: &mut RealSandbox, launcher: &Path, form: &str, arguments: &[&str]) {
    let (real, name) = really_runs(sandbox, launcher);
    let (ran, report) = sandbox.preflight(arguments);
    ran.exits(0).is_silent();
    assert_eq!(report["verdict"], "ready", "{ran}");
    let target = &report["target"];
    assert_eq!(target["path"], json!(launcher), "{ran}");
    assert_eq!(target["launcher"], form, "{ran}");
    assert_eq!(target["interpreter"], json!(real), "{ran}");
    assert_eq!(target["pclusterVersion"], "3.1.3", "{ran}");
    assert_eq!(report["packages"]["aws-cdk-aws-imagebuilder"], "1.204.0", "{ran}");
    // The real pcluster is called by the same name as without the shim.
    let shim = sandbox.path("shim/pcluster");
    assert_eq!(really_runs(sandbox, &shim), (real, name));
    let direct = sandbox.call(launcher, &["no-such-command"]).run();
    assert!(direct.stderr().contains("usage: pcluster"), "{direct}");
    sandbox.pcluster(&["no-such-command"]).run().is_the_same_as(&direct);
}

fn directory_is_known(name: &str, form: &str, arguments: &[&str]) {
    let mut sandbox = RealSandbox::in_environment(Environment::named(&format!("launchers/{name}")));
    let launcher = sandbox.environment.bin("pcluster");
    is_known(&mut sandbox, &launcher, form, arguments);
}

/// A directory name that scripts/environments uses too. A `#!` line with this name would be longer than 127
/// characters, so installers write a launcher in sh instead.
pub(crate) const LONG: &str = "a-directory-whose-name-is-so-long-that-the-path-of-the-interpreter-in-it-does-not-\
                    fit-into-the-127-characters-that-a-kernel-reads-of-a-script";

const QUICK: &[&str] = &["--no-synth"];

#[test]
fn a_venv_by_pip() {
    directory_is_known("pip", "shebang", QUICK);
}

#[test]
fn a_venv_by_uv() {
    let mut sandbox = RealSandbox::of(GOOD);
    let launcher = sandbox.environment.bin("pcluster");
    is_known(&mut sandbox, &launcher, "shebang", QUICK);
}

#[test]
#[ignore = "long"]
fn a_venv_by_pip_in_a_path_with_spaces() {
    directory_is_known("pip with spaces", "sh trampoline", &[]);
}

#[test]
#[ignore = "long"]
fn a_venv_by_uv_in_a_path_with_spaces() {
    directory_is_known("uv with spaces", "sh trampoline", QUICK);
}

#[test]
fn a_venv_by_pip_in_a_path_over_127_characters() {
    directory_is_known(&format!("pip-{LONG}"), "sh trampoline", QUICK);
}

#[test]
#[ignore = "long"]
fn a_venv_by_uv_in_a_path_over_127_characters() {
    directory_is_known(&format!("uv-{LONG}"), "sh trampoline", &[]);
}

#[test]
fn pip_install_user() {
    let mut sandbox = RealSandbox::in_environment(Environment::named("launchers/user"));
    sandbox.set("PYTHONUSERBASE", sandbox.environment.directory.clone());
    let launcher = sandbox.environment.bin("pcluster");
    is_known(&mut sandbox, &launcher, "shebang", &[]);
}

#[test]
fn uv_tool_install() {
    directory_is_known("uv-tool", "shebang", QUICK);
}

#[test]
fn pipx_install() {
    directory_is_known("pipx", "shebang", &[]);
}

/// Runs only if the machine has pyenv. scripts/environments cannot install pyenv, because no package index
/// has pyenv. If pyenv is missing, scripts/environments reports that.
#[test]
#[expect(clippy::print_stdout, reason = "a test that does not run says so")]
fn pyenv() {
    if find("pyenv").is_none() {
        println!("not tested: pyenv is not on PATH");
        return;
    }
    let mut sandbox = RealSandbox::in_environment(Environment::named("launchers/pyenv"));
    // pyenv's shims are bash scripts.
    sandbox.put_on_path("/usr/bin");
    sandbox.put_on_path("/bin");
    let launcher = sandbox.environment.bin("pcluster");
    is_known(&mut sandbox, &launcher, "wrapper", &[]);
}

#[test]
#[ignore = "long"]
fn a_wrapper_script_as_pyenv_makes_it() {
    let mut sandbox = RealSandbox::of(GOOD);
    let launcher = on_path_alone(&mut sandbox);
    let (bash, real) = (on_this_machine("bash"), sandbox.environment.bin("pcluster"));
    let code = format!(
        "#!{}\nset -e\nprogram=\"${{0##*/}}\"\nexport WRAPPED=1\nexec \"{}/$program\" \"$@\"\n",
        bash.display(),
        real.parent().unwrap().display()
    );
    write_script(&launcher, code);
    is_known(&mut sandbox, &launcher, "wrapper", &[]);
}

/// Replaces the environment's directory on PATH with one for the test's own launcher. Returns the
/// launcher's path.
fn on_path_alone(sandbox: &mut RealSandbox) -> PathBuf {
    fs::create_dir(sandbox.path("bin")).unwrap();
    let path = [sandbox.path("shim"), sandbox.path("bin"), sandbox.path("node")];
    sandbox.set("PATH", std::env::join_paths(path).unwrap());
    sandbox.path("bin/pcluster")
}
