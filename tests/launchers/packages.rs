//! A check sees the same packages as the launcher's interpreter.

use std::fs;
use std::path::PathBuf;

use super::{blocked, check, real, venv};
use crate::support::fakes::ENTRY;
use crate::support::machine::real_python;
use crate::support::sandbox::Sandbox;

/// A real Python finds packages in its virtual environment and through a .pth file.
#[test]
fn packages_are_found_wherever_the_interpreter_finds_them() {
    let sandbox = Sandbox::new();
    let real = real(&sandbox);
    let purelib = venv(&sandbox);
    let python = sandbox.path("v/bin/python");
    sandbox.script("venv/bin/pcluster", format!("#!{}\n{ENTRY}", python.display()));
    let (report, run) = check(&sandbox);
    run.exits(3).holds(report["verdict"] == "unknown", "nothing is installed yet");

    // The next steps change neither the launcher nor the interpreter.
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
    // A relative entry is relative to the working directory of the call.
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
    // A flag of the launcher hides the user site as well.
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
    // A wrapper is asked with a sitecustomize of the shim, which comes before the noisy one.
    let wrapper = format!("#!/bin/sh\necho noise\nexec {} \"$0-main.py\" \"$@\"\n", real_python().display());
    sandbox.script("venv/bin/pcluster", wrapper);
    sandbox.write("venv/bin/pcluster-main.py", ENTRY);
    let run = sandbox.pcluster(["preflight", "--no-synth"]).var("PYTHONPATH", &real.site).run();
    run.exits(1).is_silent().holds(!run.stdout().contains("noise"), "the noise is kept apart");
}

/// When a wrapper is asked, the shim's sitecustomize comes first. It then runs the caller's sitecustomize,
/// which could change `sys.path`.
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

/// Directories that did not exist at an earlier call: the user site, and the target of a .pth file.
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
    // A .pth file of the user site names a directory that does not exist yet.
    fs::rename(&user, &real.site).unwrap();
    fs::create_dir(&user).unwrap();
    let later = sandbox.path("later");
    sandbox.write(user.join("x.pth"), format!("# a comment\n\n{}\n", later.display()));
    call().run().exits(3);
    fs::rename(&real.site, &later).unwrap();
    call().run().exits(1).is_silent();
}
