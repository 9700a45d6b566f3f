//! `preflight check --all`: which environments are found, and which are listed without being run. Each
//! environment has one line, and the worst one decides the exit status.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::Value;

use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

fn all(sandbox: &Sandbox, root: &str) -> Call {
    sandbox.pcluster(["preflight", "check", "--all", "--root"]).argument(sandbox.path(root))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The reported paths that are below the sandbox. Others are left out, because this machine could have
/// another pcluster below /usr or /opt.
fn paths(sandbox: &Sandbox, json: &[u8]) -> Vec<String> {
    let reports: Value = serde_json::from_slice(json).unwrap();
    let root = sandbox.root.to_str().unwrap();
    let path = |report: &Value| report["target"]["path"].as_str().unwrap().to_owned();
    let found = reports.as_array().unwrap().iter().map(path);
    found.filter_map(|path| path.strip_prefix(&format!("{root}/")).map(str::to_owned)).collect()
}

#[test]
fn each_environment_has_its_line_and_the_worst_decides() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.environment_in("home/.virtualenvs/ready");
    all(&sandbox, "work").run().exits(0).is_silent().stdout_matches("ready.txt");
    let unknown = sandbox.environment_in("work/unknown/.venv");
    fs::remove_file(unknown.path("bin/python")).unwrap();
    all(&sandbox, "work").run().exits(3).is_silent().stdout_matches("unknown.txt");
    sandbox.environment_in("work/blocked").is_broken();
    let human = all(&sandbox, "work").run();
    human.exits(1).is_silent().stdout_matches("blocked.txt");
    let json = all(&sandbox, "work").argument("--format").argument("json").run();
    json.exits(1).is_silent();
    let expected = [
        "venv/bin/pcluster",
        "home/.virtualenvs/ready/bin/pcluster",
        "work/blocked/bin/pcluster",
        "work/unknown/.venv/bin/pcluster",
    ];
    assert_eq!(paths(&sandbox, &json.stdout), expected);
    sandbox.environment_in("home/.virtualenvs/ready").installs("aws-cdk.core", "1.203.0", "");
    all(&sandbox, "work").run().exits(1).is_silent().stdout_matches("warning.txt");
    let denied = all(&sandbox, "work").argument("--deny").argument("warnings").run();
    denied.exits(1).is_silent().stdout_matches("denied.txt");
    let quiet = all(&sandbox, "work").argument("-q").run();
    quiet.exits(1).is_silent().stdout_matches("quiet.txt");
    sandbox.has_no_scratch();
}

#[test]
fn the_json_is_a_list_of_the_reports_of_check() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let json = all(&sandbox, "work").argument("--format").argument("json").run();
    let mut listed: Value = serde_json::from_slice(&json.stdout).unwrap();
    let one = sandbox.pcluster(["preflight", "check", "--format", "json"]).run();
    let mut one: Value = serde_json::from_slice(&one.stdout).unwrap();
    for report in [&mut listed[0], &mut one] {
        for check in report["checks"].as_array_mut().unwrap() {
            check["durationMs"] = Value::Null;
        }
    }
    assert_eq!(listed[0], one);
}

#[test]
fn an_environment_that_several_paths_lead_to_is_listed_once() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    sandbox.link("home/.local/bin/pcluster", environment.path("bin/pcluster"));
    sandbox.link("home/venvs", sandbox.path("venv"));
    let twice = [sandbox.search_path(), sandbox.search_path()].concat();
    let json = all(&sandbox, "").argument("--format").argument("json").path(&twice).run();
    assert_eq!(paths(&sandbox, &json.stdout), ["venv/bin/pcluster"]);
}

#[test]
fn the_versions_of_pyenv_are_found_and_not_its_shims() {
    let sandbox = Sandbox::new();
    sandbox.environment_in("pyenv/versions/3.9.7");
    crate::support::fakes::node(&sandbox);
    sandbox.script("pyenv/shims/pcluster", "#!/bin/sh\nexit 9\n");
    let path = ["shim", "pyenv/shims", "node", "tools"].map(|name| sandbox.path(name));
    let json = all(&sandbox, "work").argument("--format").argument("json").path(&path).run();
    assert_eq!(paths(&sandbox, &json.stdout), ["pyenv/versions/3.9.7/bin/pcluster"]);
}

#[test]
fn a_directory_that_is_only_called_shims_is_searched() {
    let sandbox = Sandbox::new();
    sandbox.environment_in("other");
    sandbox.link("plain/shims/pcluster", "../../other/bin/pcluster");
    let path = ["shim", "plain/shims", "node", "tools"].map(|name| sandbox.path(name));
    let json = all(&sandbox, "work").argument("--format").argument("json").path(&path).run();
    assert_eq!(paths(&sandbox, &json.stdout), ["plain/shims/pcluster"]);
}

#[test]
fn what_others_could_have_written_is_listed_and_not_run() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let environment = sandbox.environment_in("work/shared");
    for (name, changed, mode) in
        [("launcher", "bin/pcluster", 0o777), ("bin", "bin", 0o777), ("python", "bin/python", 0o777)]
    {
        sandbox.clear_log();
        set_mode(&environment.path(changed), mode);
        let run = all(&sandbox, "work").run();
        run.exits(3).is_silent().stdout_matches(&format!("distrust-{name}.txt"));
        let asked = sandbox.log().iter().filter(|line| *line == "identity").count();
        assert!(asked <= 1, "the one on PATH only: {:?}", sandbox.log());
        set_mode(&environment.path(changed), 0o755);
    }
    all(&sandbox, "work").run().exits(0);
}

/// With umask 002, files that a user installs are writable by the group with the user's own number. This does
/// not make the files untrusted.
#[test]
fn the_group_of_a_users_own_number_is_the_user() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let environment = sandbox.environment_in("work/shared");
    let launcher = environment.path("bin/pcluster");
    set_mode(&launcher, 0o775);
    let metadata = fs::metadata(&launcher).unwrap();
    let expected = if metadata.gid() == metadata.uid() { 0 } else { 3 };
    all(&sandbox, "work").run().exits(expected);
}

#[test]
fn usage_errors_are_told() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    let run = |arguments: &[&str]| {
        let call = arguments.iter().fold(sandbox.pcluster(["preflight"]), Call::argument);
        call.run()
    };
    for (snapshot, arguments) in [
        ("usage-root.txt", &["check", "--root", "."][..]),
        ("usage-fix.txt", &["check", "--all", "--fix"]),
        ("usage-real.txt", &["check", "--all", "--real", "/x"]),
        ("usage-real.txt", &["--all", "--real", "/x"]),
        ("usage-real.txt", &["--real", "/x", "check", "--all"]),
        ("usage-absent.txt", &["check", "--all", "--root", "absent"]),
        ("usage-no-directory.txt", &["check", "--all", "--root", "/dev/null"]),
    ] {
        run(arguments).exits(2).stderr_matches(snapshot);
    }
}

#[test]
fn none_found_is_status_127() {
    let sandbox = Sandbox::new();
    let path = [sandbox.path("shim"), sandbox.path("tools")];
    all(&sandbox, "work").path(&path).run().exits(127).stderr_matches("none.txt");
}
