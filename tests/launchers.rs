//! Every form of launcher leads to its interpreter, asked as pcluster would run it; what leads to
//! none leaves the environment unknown, in one line.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::fakes::{ENTRY, REAL_OUTPUT, node, trampoline};
use crate::support::machine::{on_this_machine, output, real_python};
use crate::support::run::{Call, Run};
use crate::support::sandbox::{Sandbox, not_utf8};

/// `preflight check --no-synth --format json`, which asks the launcher's interpreter and no more.
fn check(sandbox: &Sandbox) -> (Value, Run<'_>) {
    let run = sandbox.pcluster(["preflight", "check", "--no-synth", "--format", "json"]).run();
    let report = serde_json::from_slice(&run.stdout).unwrap_or_default();
    (report, run)
}

/// The fake environment is found through this launcher, in the place of its own.
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
        // The system, too, runs that Python by it.
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

/// pipx and uv tool: a link from a shared directory; uv's relocatable form is meant from its target.
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

/// Two environments: `env python` means the one that PATH names.
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

/// A virtual environment without pip: pyvenv.cfg and a link decide about `sys.path`.
fn venv(sandbox: &Sandbox) -> PathBuf {
    sandbox.write("v/pyvenv.cfg", format!("home = {}\n", real_python().parent().unwrap().display()));
    let python = sandbox.link("v/bin/python", real_python());
    sandbox.write("v/lib/x", "");
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

/// Places in which a real Python finds its packages: a virtual environment, PYTHONPATH, the user
/// site, a .pth.
#[test]
fn packages_are_found_wherever_the_interpreter_finds_them() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    let purelib = venv(&sandbox);
    let python = sandbox.path("v/bin/python");
    sandbox.script("venv/bin/pcluster", format!("#!{}\n{ENTRY}", python.display()));
    let (report, run) = check(&sandbox);
    run.exits(3).holds(report["verdict"] == "unknown", "nothing is installed yet");

    // Everything is cached, and none of this changes the launcher or the interpreter.
    let pth = sandbox.write(purelib.join("x.pth"), real.site.to_str().unwrap());
    blocked(&sandbox, "shebang");
    fs::remove_file(pth).unwrap();
    check(&sandbox).1.exits(3);
    for entry in real.site.read_dir().unwrap().flatten() {
        fs::rename(entry.path(), purelib.join(entry.file_name())).unwrap();
    }
    blocked(&sandbox, "shebang");
}

#[test]
fn trap_22_pythonpath_and_the_user_site_count() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    sandbox.script("venv/bin/pcluster", &real.launcher);
    let call = || sandbox.pcluster(["preflight", "--no-synth"]);
    call().run().exits(3);
    call().var("PYTHONPATH", &real.site).run().exits(1).is_silent();
    call().run().exits(3);
    // A relative entry is meant from where the call is made.
    call().var("PYTHONPATH", "site").directory(&sandbox.root).run().exits(1);
    call().var("PYTHONPATH", "site").run().exits(3);
    let code = "import site; print(site.getusersitepackages())";
    let base = sandbox.path("userbase");
    let user = sandbox.call(real_python(), ["-c", code]).var("PYTHONUSERBASE", &base).run();
    let user = PathBuf::from(user.stdout().trim());
    fs::create_dir_all(user.parent().unwrap()).unwrap();
    fs::rename(&real.site, &user).unwrap();
    call().var("PYTHONUSERBASE", &base).run().exits(1).is_silent();
    call().var("PYTHONUSERBASE", &base).var("PYTHONNOUSERSITE", "1").run().exits(3);
    // A flag of the launcher hides it as well.
    let isolated = format!("#!{} -s\n{ENTRY}", real_python().display());
    sandbox.script("venv/bin/pcluster", isolated);
    call().var("PYTHONUSERBASE", &base).run().exits(3);
}

#[test]
fn a_noisy_sitecustomize_does_not_change_the_answer() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    sandbox.script("venv/bin/pcluster", &real.launcher);
    let noise = "import os, sys\nprint('noise', flush=True)\nprint('noise', file=sys.stderr)\nos.write(1, b'\\xff{}\\n')\n";
    sandbox.write(real.site.join("sitecustomize.py"), noise);
    let run = sandbox.pcluster(["preflight", "--no-synth"]).var("PYTHONPATH", &real.site).run();
    run.exits(1).is_silent().holds(!run.stdout().contains("noise"), "the noise is kept apart");
    // Behind a wrapper the question's own sitecustomize comes before that one.
    let wrapper = format!("#!/bin/sh\necho noise\nexec {} \"$0-main.py\" \"$@\"\n", real_python().display());
    sandbox.script("venv/bin/pcluster", wrapper);
    sandbox.write("venv/bin/pcluster-main.py", ENTRY);
    let run = sandbox.pcluster(["preflight", "--no-synth"]).var("PYTHONPATH", &real.site).run();
    run.exits(1).is_silent().holds(!run.stdout().contains("noise"), "the noise is kept apart");
}

/// The question's own sitecustomize comes first, and lets it run: it may decide about `sys.path`.
#[test]
fn a_sitecustomize_behind_a_wrapper_counts() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    let wrapper = format!("#!/bin/sh\nexec {} \"$0-main.py\" \"$@\"\n", real_python().display());
    sandbox.script("venv/bin/pcluster", wrapper);
    sandbox.write("venv/bin/pcluster-main.py", ENTRY);
    let extends = format!("import sys\nsys.path.append({:?})\n", real.site.to_str().unwrap());
    sandbox.write("custom/sitecustomize.py", extends);
    let call = || sandbox.pcluster(["preflight", "--no-synth"]);
    call().run().exits(3);
    call().var("PYTHONPATH", sandbox.path("custom")).run().exits(1).is_silent();
}

/// Shims of version managers, and wrappers: the launcher itself is asked.
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

/// A virtual environment with these distributions in it; its Python, and its own console script.
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

/// Scripts with a Python shebang that lead elsewhere: what they lead to is judged, and what their
/// own Python holds is not.
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
            // Finding a module is no import.
            format!(
                "#!{front}\nimport importlib.util, os, sys\nif importlib.util.find_spec('pcluster'):\n    os.execv('{script}', ['{script}'] + sys.argv[1:])\n"
            ),
            // The import of the package alone, as for its version, is no start of pcluster.
            format!(
                "#!{front}\nimport pcluster, os, sys\nos.execv('{script}', ['{script}'] + sys.argv[1:])\n"
            ),
            // Python is started before, for something else.
            format!(
                "#!/bin/sh\nversion=$({front} -c 'print(1)')\n[ \"$version\" = 1 ] && exec {script} \"$@\"\n"
            ),
            // A choice by its arguments, which a question with `version` would not show.
            format!(
                "#!/bin/sh\n[ \"$1\" = build-image ] && exec {script} \"$@\"\nexec {front} -m pcluster.cli.entrypoint\n"
            ),
            // Output that goes to another place.
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

/// One that starts pcluster of several environments leads to none for sure.
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

/// The variable of a question is left over, or set by the caller: build-image is guarded nevertheless.
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
    // It is one for as long as the asking process holds the lock.
    let lock = fs::File::open(asked.join("pcluster-shim.lock")).unwrap();
    lock.lock().unwrap();
    sandbox.build_image().var("PCLUSTER_SHIM_QUESTION", &asked).run().exits(0).prints(REAL_OUTPUT);
    drop(lock);
    sandbox.build_image().var("PCLUSTER_SHIM_QUESTION", &asked).run().exits(1);
}

/// Directories that were not there when the interpreter was asked: the user site, the target of a
/// .pth file.
#[test]
fn directories_that_appear_later_count() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    sandbox.script("venv/bin/pcluster", &real.launcher);
    let call = || sandbox.pcluster(["preflight", "--no-synth"]);
    call().run().exits(3);
    let code = "import site; print(site.getusersitepackages())";
    let user = PathBuf::from(sandbox.call(real_python(), ["-c", code]).run().stdout().trim());
    assert!(user.starts_with(&sandbox.root), "{}", user.display());
    fs::create_dir_all(user.parent().unwrap()).unwrap();
    fs::rename(&real.site, &user).unwrap();
    call().run().exits(1).is_silent();
    // A .pth file of the user site names what does not exist yet.
    fs::rename(&user, &real.site).unwrap();
    fs::create_dir(&user).unwrap();
    let later = sandbox.path("later");
    sandbox.write(user.join("x.pth"), format!("# a comment\n\n{}\n", later.display()));
    call().run().exits(3);
    fs::rename(&real.site, &later).unwrap();
    call().run().exits(1).is_silent();
}

/// `env python3` may find a version manager's shim, which is a script: it may lead elsewhere at the
/// next call.
#[test]
fn a_script_in_the_place_of_an_interpreter_is_asked_every_time() {
    let sandbox = Sandbox::new();
    venv_with(&sandbox, "one", "1.204.0");
    venv_with(&sandbox, "other", "1.153.0");
    let chosen = sandbox.write("chosen", "one");
    let shim = format!(
        "#!/bin/sh\nread -r name <'{}'\nexec \"{}/$name/bin/python\" \"$@\"\n",
        chosen.display(),
        sandbox.root.display()
    );
    sandbox.script("tools/python3", shim);
    sandbox.script("venv/bin/pcluster", format!("#!/usr/bin/env python3\n{ENTRY}"));
    let call = || sandbox.pcluster(["preflight", "--no-synth"]);
    call().run().exits(0);
    fs::write(chosen, "other\n").unwrap();
    call().run().exits(1);
}

/// `env -S` may set variables: it is asked itself, and the variable counts.
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
    // Without the wrapper's PATH there is none.
    sandbox.script("venv/bin/pcluster", &real.launcher);
    let run = sandbox.pcluster(["preflight", "--format", "json"]).var("PYTHONPATH", &real.site).run();
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    run.holds(report["target"]["node"] == Value::Null, "no node");
}

/// No interpreter is guessed.
#[test]
fn what_leads_to_no_python_is_unknown_in_one_line() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    for (name, script) in [
        ("wrapper-silent", "#!/bin/sh\n[ \"$2\" = --help ] || echo built\n"),
        ("wrapper-talks", "#!/bin/sh\n[ \"$2\" = --help ] && echo 3.1.3 || echo built\n"),
        (
            "wrapper-fails",
            "#!/bin/sh\n[ \"$2\" = --help ] && { echo no such thing >&2; exit 4; } || echo built\n",
        ),
    ] {
        sandbox.script("venv/bin/pcluster", script);
        let run = sandbox.build_image().run();
        run.exits(0)
            .prints("built\n")
            .warns_once("environment")
            .stderr_matches(&format!("unknown-{name}.txt"));
        sandbox.build_image().var("PCLUSTER_SHIM_STRICT", "1").run().exits(1).warns_once("environment");
        assert_eq!(sandbox.log(), [""; 0], "no Python was guessed");
    }
}

#[test]
fn a_python_without_pcluster_is_unknown() {
    let sandbox = Sandbox::new();
    let environment = sandbox.environment();
    fs::remove_dir_all(environment.path("site")).unwrap();
    let run = sandbox.build_image().run();
    run.exits(0).warns_once("aws-parallelcluster").stderr_matches("unknown-no-pcluster.txt");
}

/// Trap 20: a venv whose base Python is gone says so, before the kernel says something else.
#[test]
fn trap_20_a_dead_interpreter_is_reported() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    fs::remove_file(sandbox.path("venv/bin/python")).unwrap();
    sandbox.link("venv/bin/python", "/nonexistent/python3.9");
    let run = sandbox.pcluster(["preflight"]).run();
    run.exits(3).stdout_matches("preflight-dead-interpreter.txt");
    let run = sandbox.build_image().run();
    let own = "its interpreter";
    run.holds(run.stderr().contains(own), "the shim says what is wrong");
    assert!(Path::new("/nonexistent/python3.9").symlink_metadata().is_err());
}

/// A launcher is asked by starting it; one that starts the shim would be asked again inside that,
/// and so on.
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

/// A path that is no UTF-8 is a path: it is judged, and reported as far as JSON can.
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

/// A release whose console script imports another module, and whose parser has no build-image.
#[test]
fn a_release_without_build_image_is_left_alone() {
    let sandbox = Sandbox::new();
    let (purelib, script) = venv_with(&sandbox, "old", "1.204.0");
    fs::remove_dir_all(purelib.join("aws-parallelcluster-3.16.1.dist-info")).unwrap();
    let metadata = purelib.join("aws-parallelcluster-2.11.9.dist-info/METADATA");
    sandbox.write(metadata, "Name: aws-parallelcluster\nVersion: 2.11.9\n");
    sandbox.write(purelib.join("pcluster/cli/__init__.py"), "def main():\n    print('main ran')\n");
    let text = fs::read_to_string(&script).unwrap().replace("pcluster.cli.entrypoint", "pcluster.cli");
    fs::write(&script, text).unwrap();
    let path = ["shim", "old/bin", "node", "tools"].map(|name| sandbox.path(name));
    sandbox.build_image().path(&path).run().exits(0).prints("main ran\n").is_silent();
    let run = sandbox.pcluster(["preflight"]).path(&path).run();
    run.exits(2).stderr_matches("no-build-image.txt");
}

/// A wrapper may change the call in an unknown way: the environment is judged nevertheless, and the
/// rest is said.
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
            // The configuration may be absent here, and be there where the wrapper goes.
            for file in ["image.yaml", "absent.yaml"] {
                let run = sandbox.build_image().argument("--image-configuration").argument(file).run();
                run.exits(status).prefixed();
                run.holds(run.stderr().contains("not checked: configuration: the launcher"), &wrapper);
                run.holds(run.stdout().contains("main ran") == (status == 0), &wrapper);
            }
        }
        // One that hands the call on as it is: nothing is said of it.
        sandbox.script("venv/bin/pcluster", format!("#!/bin/sh\nexec {script} \"$@\"\n"));
        let run = sandbox.build_image().run();
        run.holds(!run.stderr().contains("the launcher"), "handed on");
    }
}

/// Asked with the arguments of the call, it answers for the environment that will run.
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

/// One pcluster answers, and another runs after it without being asked.
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

/// A version manager's program in the place of an interpreter, which is no script.
#[test]
fn an_interpreter_that_leads_to_another_one_is_asked_every_time() {
    let sandbox = Sandbox::new();
    venv_with(&sandbox, "one", "1.204.0");
    venv_with(&sandbox, "other", "1.153.0");
    let source = format!(
        "#include <unistd.h>\nint main(int c, char **v) {{ (void)c; v[0] = access(\"{0}/flag\", F_OK) ? \
         \"{0}/one/bin/python\" : \"{0}/other/bin/python\"; execv(v[0], v); return 126; }}\n",
        sandbox.root.display()
    );
    let (file, program) = (sandbox.write("manager.c", source), sandbox.path("tools/python3"));
    output(&on_this_machine("cc"), &["-o".as_ref(), program.as_os_str(), file.as_os_str()]);
    sandbox.script("venv/bin/pcluster", format!("#!/usr/bin/env python3\n{ENTRY}"));
    let call = || sandbox.pcluster(["preflight", "--no-synth"]);
    call().run().exits(0);
    sandbox.write("flag", "");
    call().run().exits(1);
}

/// `env` takes a `~` in PATH for a directory of that name.
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

/// A Python under the name of pcluster searches PATH for itself, and finds the shim there.
#[test]
#[cfg(target_os = "linux")]
fn a_python_that_takes_the_shim_for_itself_is_the_one_that_runs() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    let main = sandbox.write("main.py", ENTRY);
    let wrapper = format!(
        "#!/bin/bash\nexport PYTHONPATH=\"$PYTHONPATH:{}\"\nexec -a pcluster {} {} \"$@\"\n",
        real.site.display(),
        real_python().display(),
        main.display()
    );
    sandbox.script("venv/bin/pcluster", wrapper);
    let (report, run) = check(&sandbox);
    run.exits(1);
    let python = real_python().canonicalize().unwrap();
    run.holds(report["target"]["interpreter"] == json!(python), "not the shim");
}

/// A script may treat `-c` in another way than a file, so the launcher is asked itself.
#[test]
fn a_script_in_the_place_of_an_interpreter_is_not_asked_by_code() {
    let sandbox = Sandbox::new();
    venv_with(&sandbox, "one", "1.204.0");
    venv_with(&sandbox, "other", "1.153.0");
    let choice = format!(
        "#!/bin/sh\ncase $1 in */*) exec {0}/other/bin/python \"$@\" ;; esac\nexec {0}/one/bin/python \"$@\"\n",
        sandbox.root.display()
    );
    sandbox.script("tools/python3", choice);
    sandbox.script("venv/bin/pcluster", format!("#!/usr/bin/env python3\n{ENTRY}"));
    sandbox.pcluster(["preflight", "--no-synth"]).run().exits(1);
}
