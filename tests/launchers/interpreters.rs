//! Interpreters that are scripts, that lead to another interpreter, or that do not run.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{check, real, venv_with};
use crate::support::fakes::ENTRY;
use crate::support::machine::{on_this_machine, output, real_python};
use crate::support::sandbox::Sandbox;

/// `env python3` can find the shim of a version manager. That shim is a script, and could lead to another
/// Python at the next call.
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

/// A script in the place of an interpreter could treat `-c` differently from a file. So the shim does not run
/// code with `-c`: it starts the launcher to find out which Python the launcher runs.
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

/// Some version managers put a compiled program, not a script, in the place of an interpreter.
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

/// A Python that is started under the name `pcluster` looks for that name on PATH, finds the shim, and takes
/// it for its own executable.
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

/// If a launcher leads to no Python, the shim does not guess one.
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
        sandbox.build_image().var("PCLUSTER_SHIM_STRICT", "1").run().exits(1).stops_unchecked("environment");
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

/// If the base Python of a venv is gone, the shim reports that. The kernel would report something else.
#[test]
fn trap_20_a_dead_interpreter_is_reported() {
    let sandbox = Sandbox::new();
    sandbox.environment();
    fs::remove_file(sandbox.path("venv/bin/python")).unwrap();
    sandbox.link("venv/bin/python", "/nonexistent/python3.9");
    let run = sandbox.pcluster(["preflight"]).run();
    run.exits(3).stdout_matches("preflight-dead-interpreter.txt");
    let run = sandbox.build_image().run();
    let own = "pcluster's interpreter";
    run.holds(run.stderr().contains(own), "the shim says what is wrong");
    assert!(Path::new("/nonexistent/python3.9").symlink_metadata().is_err());
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
