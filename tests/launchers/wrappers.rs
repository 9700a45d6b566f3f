//! Launchers that are not console scripts. The shim starts such a launcher to find out which Python it runs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{blocked, check, real, venv, venv_with};
use crate::support::fakes::{ENTRY, REAL_OUTPUT};
use crate::support::machine::real_python;
use crate::support::run::Call;
use crate::support::sandbox::Sandbox;

#[test]
fn wrappers_are_asked_themselves() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    let purelib = venv(&sandbox);
    for entry in real.site.read_dir().unwrap().flatten() {
        fs::rename(entry.path(), purelib.join(entry.file_name())).unwrap();
    }
    let python = sandbox.path("v/bin/python");
    let script = sandbox.script("v/bin/pcluster", format!("#!{}\n{ENTRY}", python.display()));
    let pyenv = format!(
        "#!/usr/bin/env bash\nset -e\n[ -n \"$PYENV_DEBUG\" ] && set -x\nprogram=\"${{0##*/}}\"\nexport PYENV_ROOT=/x\nexec {}/\"$program\" \"$@\"\n",
        script.parent().unwrap().display()
    );
    for wrapper in [
        format!("#!/bin/bash\nexec {} \"$@\"\n", script.display()),
        format!("#!/bin/sh\n{} \"$@\"\n", script.display()),
        format!("#!/bin/sh\nexec {} -m pcluster.cli.entrypoint \"$@\"\n", python.display()),
        format!("#!/bin/sh\ncd /\nunset LANG\nexec {} \"$@\"\n", script.display()),
        pyenv,
    ] {
        sandbox.script("venv/bin/pcluster", &wrapper);
        let report = blocked(&sandbox, "wrapper");
        assert_eq!(report["target"]["interpreter"], json!(python), "{wrapper}");
    }
}

/// Each launcher starts the pcluster of the environment `behind`, and most launchers also name the Python of
/// the environment `front`. The shim judges `behind`.
#[test]
fn scripts_of_python_are_asked_where_they_lead() {
    for (cdk_behind, cdk_of_script, status) in [("1.153.0", "1.204.0", 1), ("1.204.0", "1.153.0", 0)] {
        let sandbox = Sandbox::new();
        let (behind, script) = venv_with(&sandbox, "behind", cdk_behind);
        venv_with(&sandbox, "front", cdk_of_script);
        let front = sandbox.path("front/bin/python");
        let (front, behind, script) = (front.display(), behind.display(), script.display());
        let zipped = sandbox.write(
            "app/__main__.py",
            format!("import sys\nsys.path.insert(0, {:?})\n{ENTRY}", behind.to_string()),
        );
        let archive = sandbox.path("app.pyz");
        let zipapp = ["-m", "zipapp", zipped.parent().unwrap().to_str().unwrap()];
        let call = sandbox.call(real_python(), zipapp);
        let call = ["-o", archive.to_str().unwrap(), "-p", &front.to_string()]
            .into_iter()
            .fold(call, Call::argument);
        call.run().exits(0);
        let launchers = [
            format!("#!{front}\nimport os, sys\nos.execv('{script}', ['{script}'] + sys.argv[1:])\n"),
            format!(
                "#!{front}\nimport subprocess, sys\nsys.exit(subprocess.call(['{script}'] + sys.argv[1:]))\n"
            ),
            format!("#!{front}\nimport sys\nsys.path.insert(0, '{behind}')\n{ENTRY}"),
            format!(
                "#!{front}\nimport sys; sys.path[:0] = ['{behind}']\nimport runpy\nrunpy.run_module('pcluster.cli.entrypoint')\n"
            ),
            // Finding a module does not import it.
            format!(
                "#!{front}\nimport importlib.util, os, sys\nif importlib.util.find_spec('pcluster'):\n    os.execv('{script}', ['{script}'] + sys.argv[1:])\n"
            ),
            // Importing only the package, for example for its version, does not start pcluster.
            format!(
                "#!{front}\nimport pcluster, os, sys\nos.execv('{script}', ['{script}'] + sys.argv[1:])\n"
            ),
            // The launcher starts another Python first, for something else.
            format!(
                "#!/bin/sh\nversion=$({front} -c 'print(1)')\n[ \"$version\" = 1 ] && exec {script} \"$@\"\n"
            ),
            // The launcher chooses an environment by its arguments. If it were asked with `version`, it would
            // choose the other one.
            format!(
                "#!/bin/sh\n[ \"$1\" = build-image ] && exec {script} \"$@\"\nexec {front} -m pcluster.cli.entrypoint\n"
            ),
            // The launcher redirects the output.
            format!("#!/bin/bash\nexec {script} \"$@\" >/dev/null 2>&1\n"),
        ];
        for launcher in launchers {
            sandbox.script("venv/bin/pcluster", &launcher);
            let (report, run) = check(&sandbox);
            run.exits(status).is_silent().holds(report["target"]["launcher"] == "wrapper", &launcher);
            run.holds(report["packages"]["aws-cdk-aws-imagebuilder"] == cdk_behind, &launcher);
            sandbox.has_no_scratch();
        }
        fs::remove_file(sandbox.path("venv/bin/pcluster")).unwrap();
        fs::rename(archive, sandbox.path("venv/bin/pcluster")).unwrap();
        let (report, run) = check(&sandbox);
        run.exits(status).is_silent().holds(report["target"]["launcher"] == "wrapper", "an archive");
    }
}

/// If a launcher starts the pclusters of two environments, the shim does not know which one to judge.
#[test]
fn a_launcher_of_several_pclusters_is_unknown() {
    let sandbox = Sandbox::new();
    let (_, one) = venv_with(&sandbox, "one", "1.204.0");
    let (_, other) = venv_with(&sandbox, "other", "1.153.0");
    let wrapper = |one: &Path, other: &Path| {
        format!("#!/bin/sh\n{} \"$@\"; {} \"$@\"\n", one.display(), other.display())
    };
    sandbox.script("venv/bin/pcluster", wrapper(&one, &other));
    let run = sandbox.pcluster(["preflight", "--no-synth"]).run();
    run.exits(3).is_silent().stdout_matches("unknown-ambiguous.txt");
    sandbox.script("venv/bin/pcluster", wrapper(&one, &one));
    check(&sandbox).1.exits(0);
}

/// To ask a launcher, the shim starts the launcher with build-image. If the launcher then starts a shim, a
/// variable tells that shim not to guard the call. If the variable is left over, or the caller has set it,
/// build-image is guarded anyway.
#[test]
fn only_a_question_of_this_very_moment_turns_the_guard_off() {
    let sandbox = Sandbox::new();
    sandbox.environment().is_broken();
    let asked = sandbox.path("asked");
    sandbox.write("asked/pcluster-shim.lock", "");
    fs::create_dir(asked.join("answers")).unwrap();
    for (name, value) in [
        ("PCLUSTER_SHIM_QUESTION", asked.as_os_str()),
        ("PCLUSTER_SHIM_QUESTION", "1".as_ref()),
        ("PCLUSTER_SHIM_QUESTION", "".as_ref()),
        ("PCLUSTER_SHIM_SENTINEL", "1".as_ref()),
    ] {
        sandbox.build_image().var(name, value).run().exits(1);
    }
    // The variable counts only while a process holds the lock, as the process that asks a launcher does.
    let lock = fs::File::open(asked.join("pcluster-shim.lock")).unwrap();
    lock.lock().unwrap();
    sandbox.build_image().var("PCLUSTER_SHIM_QUESTION", &asked).run().exits(0).prints(REAL_OUTPUT);
    drop(lock);
    sandbox.build_image().var("PCLUSTER_SHIM_QUESTION", &asked).run().exits(1);
}

/// Variables that a wrapper sets apply to the check: Node is only on the wrapper's PATH.
#[test]
fn what_a_wrapper_changes_counts_for_the_check() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    fs::rename(sandbox.path("node"), sandbox.path("hidden")).unwrap();
    sandbox.write("hidden/../log", "");
    sandbox.write(real.site.join("pcluster/__init__.py"), "");
    let wrapper = format!(
        "#!/bin/sh\nexport PATH=\"{}:$PATH\" PYTHONPATH={}${{PYTHONPATH:+:$PYTHONPATH}} NODE_OPTIONS=--x\nexec {} \"$0-main.py\" \"$@\"\n",
        sandbox.path("hidden").display(),
        real.site.display(),
        real_python().display()
    );
    sandbox.script("venv/bin/pcluster", wrapper);
    sandbox.write("venv/bin/pcluster-main.py", ENTRY);
    let run = sandbox.pcluster(["preflight", "--format", "json"]).run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.holds(report["target"]["node"] == json!(sandbox.path("hidden/node")), "the wrapper's node");
    run.holds(report["packages"]["aws-cdk-aws-imagebuilder"] == "1.153.0", "the wrapper's PYTHONPATH");
    // Without the wrapper's PATH there is no Node.
    sandbox.script("venv/bin/pcluster", &real.launcher);
    let run = sandbox.pcluster(["preflight", "--format", "json"]).var("PYTHONPATH", &real.site).run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.holds(report["target"]["node"] == Value::Null, "no node");
}

/// If a wrapper changes the call in an unknown way, the environment is judged anyway, and what was not
/// checked is reported.
#[test]
fn a_wrapper_that_changes_the_call_is_judged_by_its_environment() {
    for (cdk, status) in [("1.153.0", 1), ("1.204.0", 0)] {
        let sandbox = Sandbox::new();
        let (_, script) = venv_with(&sandbox, "v", cdk);
        let (script, elsewhere) = (script.display(), sandbox.path("state"));
        for wrapper in [
            format!("cd {}\nexec {script} \"$@\"", elsewhere.display()),
            format!("exec {script} \"$@\" --region eu-west-1"),
            format!("exec {script} build-image -c other.yaml \"$@\""),
        ] {
            sandbox.script("venv/bin/pcluster", format!("#!/bin/sh\n{wrapper}\n"));
            // Even if the configuration is missing here, it could exist in the directory to which the
            // wrapper changes.
            for file in ["image.yaml", "absent.yaml"] {
                let run = sandbox.build_image().argument("--image-configuration").argument(file).run();
                run.exits(status).prefixed();
                run.holds(run.stderr().contains("not checked: configuration: the launcher"), &wrapper);
                run.holds(run.stdout().contains("main ran") == (status == 0), &wrapper);
            }
        }
        // A wrapper that passes the call on unchanged is not reported.
        sandbox.script("venv/bin/pcluster", format!("#!/bin/sh\nexec {script} \"$@\"\n"));
        let run = sandbox.build_image().run();
        run.holds(!run.stderr().contains("the launcher"), "handed on");
    }
}

/// The wrapper is asked with the arguments of the call, so the answer comes from the environment that
/// will run.
#[test]
fn a_wrapper_that_chooses_an_environment_by_an_argument_is_judged_by_its_choice() {
    let sandbox = Sandbox::new();
    let (_, good) = venv_with(&sandbox, "good", "1.204.0");
    let (_, bad) = venv_with(&sandbox, "bad", "1.153.0");
    let wrapper = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" eu-west-1 \"*) exec {} \"$@\" ;;\n*) exec {} \"$@\" ;;\nesac\n",
        bad.display(),
        good.display()
    );
    sandbox.script("venv/bin/pcluster", wrapper);
    let call = |region: &str| sandbox.build_image().argument("--region").argument(region);
    call("us-east-1").run().exits(0);
    let run = call("eu-west-1").run();
    run.exits(1).holds(run.stdout().contains("1.153.0"), "the other environment is judged");
}

/// The launcher runs two pclusters. The first pcluster answers. Then the launcher unsets PYTHONPATH, so the
/// Python of the second pcluster does not load the shim's sitecustomize, which would answer.
#[test]
fn a_pcluster_that_ran_without_being_asked_is_unknown() {
    let sandbox = Sandbox::new();
    let (_, good) = venv_with(&sandbox, "good", "1.204.0");
    let (purelib, other) = venv_with(&sandbox, "other", "1.153.0");
    let help = "def main():\n    print('usage: pcluster build-image [-h]')\n";
    sandbox.write(purelib.join("pcluster/cli/entrypoint.py"), help);
    let wrapper = format!(
        "#!/bin/sh\n{} version >/dev/null\nunset PYTHONPATH\nexec {} \"$@\"\n",
        good.display(),
        other.display()
    );
    sandbox.script("venv/bin/pcluster", wrapper);
    check(&sandbox).1.exits(3);
}

/// A launcher is asked by starting it. If the launcher starts the shim, that shim does not ask the launcher
/// again: otherwise checks would be nested without end.
#[test]
fn no_check_is_started_inside_a_check() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("log");
    let wrapper = format!(
        "#!/bin/sh\nPATH='{}'\necho \"$*\" >> '{}'\n[ \"$2\" != --help ] || exec '{}' build-image nested\n",
        std::env::var("PATH").unwrap(),
        log.display(),
        sandbox.path("shim/pcluster").display(),
    );
    let wrapper = sandbox.script("wrapped/pcluster", wrapper);
    let run = sandbox.build_image().var("PCLUSTER_SHIM_REAL", &wrapper).run();
    run.exits(0).warns_once("environment");
    let last = "build-image --image-configuration image.yaml --image-id my-image";
    assert_eq!(
        sandbox.log(),
        [
            "build-image --help --image-configuration image.yaml --image-id my-image",
            "build-image nested",
            last
        ]
    );
}
