//! Every form of launcher leads to its interpreter.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{blocked, check, real, venv_with};
use crate::support::fakes::{ENTRY, node, trampoline};
use crate::support::machine::real_python;
use crate::support::run::Call;
use crate::support::sandbox::{Sandbox, not_utf8};

/// Asserts that the fake environment is found through this launcher, which has replaced the environment's
/// own launcher.
#[track_caller]
fn found_through(sandbox: &Sandbox, launcher: &str, form: &str) {
    let (report, run) = check(sandbox);
    run.exits(0);
    run.holds(report["target"]["launcher"] == form, &format!("the form {form} of {launcher:?}"));
    let python = sandbox.path("venv/bin/python");
    run.holds(report["target"]["interpreter"] == json!(python), "its interpreter");
    run.holds(report["target"]["pclusterVersion"] == "3.1.3", "its packages");
    assert_eq!(sandbox.log(), ["identity"], "asked once, and nothing else run");
    sandbox.clear_log();
}

#[test]
fn trap_21_every_form_of_launcher_leads_to_its_interpreter() {
    for (template, form) in [
        ("#!/bin/sh\n'''exec' PYTHON \"$0\" \"$@\"\n' '''\n", "sh trampoline"),
        ("#!/bin/sh\n'''exec' \"PYTHON\" \"$0\" \"$@\"\n' '''\n", "sh trampoline"),
        ("#!/bin/sh\n'''exec' 'PYTHON' \"$0\" \"$@\"\n' '''\n", "sh trampoline"),
        ("#!/bin/sh\n'''exec' \"PYTHON\" -E -s \"$0\" \"$@\"\n' '''\n", "sh trampoline"),
        ("#!/bin/sh\n'''exec' \"PYTHON\" \"$0\" \"$@\" #'''\n", "sh trampoline"),
        (
            "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n' '''\n",
            "sh trampoline",
        ),
        ("#!PYTHON\n", "shebang"),
        ("#! PYTHON -sE\n", "shebang"),
        ("#!/usr/bin/env python\n", "env shebang"),
        ("#!/usr/bin/env -S python -s -E\n", "env shebang"),
        ("#!/usr/bin/env -Spython -s\n", "env shebang"),
    ] {
        let sandbox = Sandbox::new();
        let environment = sandbox.environment();
        let python = environment.path("bin/python");
        let launcher = template.replace("PYTHON", python.to_str().unwrap()) + ENTRY;
        sandbox.script("venv/bin/pcluster", &launcher);
        found_through(&sandbox, &launcher, form);
        // Called directly, the launcher runs that Python too.
        if !launcher.contains("env -S") || cfg!(target_os = "linux") {
            let run = sandbox.call(sandbox.path("venv/bin/pcluster"), ["version"]).run();
            run.exits(0).prints("the real pcluster: version\n");
        }
    }
}

/// Launchers as distlib and uv write them for paths over 127 characters or with spaces.
#[test]
fn long_paths_and_spaces_lead_to_the_interpreter() {
    let long = "a-directory-name-that-is-long/".repeat(5);
    for (directory, quote) in
        [(long.as_str(), "\""), ("with some spaces", "\""), ("with some spaces", "'"), (&long, "")]
    {
        let sandbox = Sandbox::new();
        node(&sandbox);
        let environment = sandbox.environment_in(directory);
        let python = environment.path("bin/python");
        let line =
            format!("#!/bin/sh\n'''exec' {quote}{}{quote} \"$0\" \"$@\"\n' '''\n{ENTRY}", python.display());
        sandbox.script(environment.path("bin/pcluster"), line);
        let path =
            [sandbox.path("shim"), environment.path("bin"), sandbox.path("node"), sandbox.path("tools")];
        let run = sandbox.build_image().path(&path).run();
        run.exits(0).is_silent();
        assert_eq!(sandbox.log()[..3], ["identity", "node", "synth"]);
    }
}

/// pipx and `uv tool` put links into a shared directory. In uv's relocatable form, the path of the
/// interpreter is relative to the target of the link.
#[test]
fn links_to_launchers_are_followed_for_the_interpreter_only() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    let relocatable =
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n' '''\n";
    for launcher in [relocatable.to_owned() + ENTRY, trampoline(&environment.path("bin/python"))] {
        sandbox.script("venv/bin/pcluster", launcher);
        let _ = fs::remove_file(sandbox.path("local/pcluster"));
        sandbox.link("local/pcluster", "../venv/bin/pcluster");
        let path = ["shim", "local", "node", "tools"].map(|name| sandbox.path(name));
        sandbox.build_image().path(&path).run().exits(0).is_silent();
    }
}

/// With two environments, `env python` means the first python on PATH.
#[test]
fn an_env_shebang_means_the_python_of_path() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    sandbox.environment_in("other").installs("aws-parallelcluster", "3.9.9", "");
    sandbox.script("venv/bin/pcluster", format!("#!/usr/bin/env python\n{ENTRY}"));
    fs::remove_file(sandbox.path("other/bin/pcluster")).unwrap();
    let path = ["shim", "other/bin", "venv/bin", "tools"].map(|name| sandbox.path(name));
    let run = sandbox.pcluster(["preflight", "--no-synth", "--format", "json"]).path(&path).run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.exits(0).holds(report["target"]["pclusterVersion"] == "3.9.9", "the first python on PATH");
}

/// `env -S` can set variables, so the launcher itself is asked, and the variable takes effect.
#[test]
#[cfg(target_os = "linux")]
fn an_env_shebang_that_sets_a_variable_is_asked_itself() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    let base = sandbox.path("userbase");
    let code = "import site; print(site.getusersitepackages())";
    let user = sandbox.call(real_python(), ["-c", code]).var("PYTHONUSERBASE", &base).run();
    let user = PathBuf::from(user.stdout().trim());
    fs::create_dir_all(user.parent().unwrap()).unwrap();
    fs::rename(&real.site, &user).unwrap();
    sandbox.link("tools/python3", real_python());
    let launcher = format!("#!/usr/bin/env -S PYTHONUSERBASE={} python3\n{ENTRY}", base.display());
    sandbox.script("venv/bin/pcluster", launcher);
    blocked(&sandbox, "wrapper");
}

/// An environment in a path that is not UTF-8 is judged too, and its path is reported as exactly as
/// JSON allows.
#[test]
fn an_environment_in_a_path_of_any_bytes_is_judged() {
    use std::os::unix::ffi::OsStrExt as _;
    let sandbox = Sandbox::new();
    let (_, script) = venv_with(&sandbox, "plain", "1.153.0");
    let odd = sandbox.path(not_utf8("venv-"));
    fs::rename(sandbox.path("plain"), &odd).unwrap();
    let head = [b"#!", odd.join("bin/python").as_os_str().as_bytes(), b"\n", ENTRY.as_bytes()].concat();
    sandbox.script(odd.join("bin").join(script.file_name().unwrap()), head);
    let path = [sandbox.path("shim"), odd.join("bin"), sandbox.path("tools")];
    for (arguments, status) in [(["check", "--no-synth"], 1), (["where", "-v"], 0)] {
        let call = sandbox.pcluster(["preflight", "--format", "json"]).path(&path);
        let run = arguments.into_iter().fold(call, Call::argument).run();
        run.exits(status).is_silent();
        let report: Value = serde_json::from_slice(&run.stdout).unwrap();
        run.holds(report["packages"]["aws-cdk-aws-imagebuilder"] == "1.153.0", "its packages");
        run.holds(report.to_string().contains("venv-\u{fffd}/bin/python"), "its path");
    }
    sandbox.build_image().path(&path).run().exits(1).prefixed();
}

/// To `env`, a `~` in PATH is a directory with the name `~`, not HOME.
#[test]
fn a_tilde_in_path_means_what_it_means_to_env() {
    let sandbox = Sandbox::new();
    venv_with(&sandbox, "one", "1.204.0");
    venv_with(&sandbox, "other", "1.153.0");
    sandbox.link("home/bin/python3", sandbox.path("one/bin/python"));
    sandbox.script("venv/bin/pcluster", format!("#!/usr/bin/env python3\n{ENTRY}"));
    sandbox.script(
        "last/python3",
        format!("#!/bin/sh\nexec {} \"$@\"\n", sandbox.path("other/bin/python").display()),
    );
    let path = [
        sandbox.path("shim"),
        sandbox.path("venv/bin"),
        "~/bin".into(),
        sandbox.path("last"),
        sandbox.path("tools"),
    ];
    sandbox.pcluster(["preflight", "--no-synth"]).path(&path).run().exits(1);
}
