//! The ways in which pcluster is installed in real life: each launcher is read as what it is, and
//! the interpreter that is found is the one that runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::environments::{Environment, GOOD, Scene, program};

/// The interpreter that a launcher really runs, from a sitecustomize that notes it.
fn really_runs(scene: &mut Scene, launcher: &Path) -> PathBuf {
    fs::create_dir_all(scene.path("spy")).unwrap();
    let note = scene.path("spy/executable");
    let code =
        "import os, sys\nif 'SPY' in os.environ:\n    open(os.environ['SPY'], 'w').write(sys.executable)\n";
    fs::write(scene.path("spy/sitecustomize.py"), code).unwrap();
    let mut command = scene.command(launcher, &["version"]);
    command.env("PYTHONPATH", scene.path("spy")).env("SPY", &note);
    let ran = scene.finish(command);
    ran.ends_with(0);
    assert_eq!(ran.json(), json!({"version": "3.1.3"}), "{ran}");
    fs::read_to_string(note).unwrap().into()
}

/// `preflight` on the pcluster that PATH gives, and the real one through the shim.
fn is_known(scene: &mut Scene, launcher: &Path, form: &str, arguments: &[&str]) {
    let real = really_runs(scene, launcher);
    let (ran, report) = scene.preflight(arguments);
    ran.ends_with(0).is_silent_on_stderr();
    assert_eq!(report["verdict"], "ready", "{ran}");
    let target = &report["target"];
    assert_eq!(target["path"], json!(launcher), "{ran}");
    assert_eq!(target["launcher"], form, "{ran}");
    assert_eq!(target["interpreter"], json!(real), "{ran}");
    assert_eq!(target["pclusterVersion"], "3.1.3", "{ran}");
    assert_eq!(report["packages"]["aws-cdk-aws-imagebuilder"], "1.204.0", "{ran}");
    let direct = scene.run(launcher, &["version"]);
    scene.shim(&["version"]).is_the_same_as(&direct);
}

fn directory_is_known(name: &str, form: &str, arguments: &[&str]) {
    let mut scene = Scene::in_environment(Environment::named(&format!("launchers/{name}")));
    let launcher = scene.environment.bin("pcluster");
    is_known(&mut scene, &launcher, form, arguments);
}

/// As tests/real/prepare names it: past 127 characters a `#!` line is not relied on.
const LONG: &str = "a-directory-whose-name-is-so-long-that-the-path-of-the-interpreter-in-it-does-not-\
                    fit-into-the-127-characters-that-a-kernel-reads-of-a-script";

const QUICK: &[&str] = &["--no-synth"];

#[test]
fn a_venv_by_pip() {
    directory_is_known("pip", "shebang", QUICK);
}

#[test]
fn a_venv_by_uv() {
    let mut scene = Scene::of(GOOD);
    let launcher = scene.environment.bin("pcluster");
    is_known(&mut scene, &launcher, "shebang", QUICK);
}

#[test]
fn a_venv_by_pip_in_a_path_with_spaces() {
    directory_is_known("pip with spaces", "sh trampoline", &[]);
}

#[test]
fn a_venv_by_uv_in_a_path_with_spaces() {
    directory_is_known("uv with spaces", "sh trampoline", QUICK);
}

#[test]
fn a_venv_by_pip_in_a_path_over_127_characters() {
    directory_is_known(&format!("pip-{LONG}"), "sh trampoline", QUICK);
}

#[test]
fn a_venv_by_uv_in_a_path_over_127_characters() {
    directory_is_known(&format!("uv-{LONG}"), "sh trampoline", &[]);
}

#[test]
fn pip_install_user() {
    let mut scene = Scene::in_environment(Environment::named("launchers/user"));
    scene.set("PYTHONUSERBASE", scene.environment.directory.clone());
    let launcher = scene.environment.bin("pcluster");
    is_known(&mut scene, &launcher, "shebang", &[]);
}

#[test]
fn uv_tool_install() {
    directory_is_known("uv-tool", "shebang", QUICK);
}

#[test]
fn a_link_as_pipx_makes_it() {
    let mut scene = Scene::of(GOOD);
    let launcher = on_path_alone(&mut scene);
    symlink(scene.environment.bin("pcluster"), &launcher).unwrap();
    is_known(&mut scene, &launcher, "shebang", QUICK);
}

#[test]
fn a_wrapper_script_as_pyenv_makes_it() {
    let mut scene = Scene::of(GOOD);
    let launcher = on_path_alone(&mut scene);
    let (bash, real) = (program("bash"), scene.environment.bin("pcluster"));
    let code = format!(
        "#!{}\nset -e\nprogram=\"${{0##*/}}\"\nexport WRAPPED=1\nexec \"{}/$program\" \"$@\"\n",
        bash.display(),
        real.parent().unwrap().display()
    );
    fs::write(&launcher, code).unwrap();
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).unwrap();
    is_known(&mut scene, &launcher, "wrapper", &[]);
}

/// Where a launcher of the test's own goes, in place of the environment's.
fn on_path_alone(scene: &mut Scene) -> PathBuf {
    fs::create_dir(scene.path("bin")).unwrap();
    let path = [scene.path("shim"), scene.path("bin"), scene.path("node")];
    scene.set("PATH", std::env::join_paths(path).unwrap());
    scene.path("bin/pcluster")
}
