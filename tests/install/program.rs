//! Lints install.sh. Tests an installation from a checkout and one by the program itself, and settings that
//! do not make an installation fail.

use std::fs;

use super::{Home, script, small_binary};
use crate::support::machine::{on_this_machine, output, real_python};

/// A checkout is built with cargo. If the build fails, nothing is installed.
#[test]
fn a_checkout_is_built() {
    let home = Home::new();
    home.sandbox.write("checkout/Cargo.toml", "[package]\nname = \"pcluster-shim\"\n");
    fs::copy(script(), home.path("checkout/install.sh")).unwrap();
    let installer = home.path("checkout/install.sh").display().to_string();
    let run = home.call("dash", [&installer]).run();
    run.exits(1).prints("").stderr_matches("install-no-cargo.txt");
    home.sandbox.script("tools/cargo", "#!/bin/sh\necho 'error: linker not found' >&2; exit 101\n");
    let run = home.call("dash", [&installer]).run();
    run.exits(1).stderr_matches("install-build-fails.txt");
    home.is_as_before(&run);
    let builds = format!(
        "#!/bin/sh\nwhile [ \"$1\" != --target-dir ]; do shift; done\nmkdir -p \"$2/release\" && cp '{}' \"$2/release/pcluster\"\n",
        home.path("built").display()
    );
    home.sandbox.script("tools/cargo", builds);
    home.call("dash", [&installer]).run().exits(0).is_silent().stdout_matches("install-built.txt");
    home.is_as_before(&home.uninstall());
}

/// A build takes minutes, so the user has to see its progress.
#[test]
fn cargo_shows_its_progress_on_a_terminal() {
    let home = Home::new();
    home.sandbox.write("checkout/Cargo.toml", "[package]\nname = \"pcluster-shim\"\n");
    fs::copy(script(), home.path("checkout/install.sh")).unwrap();
    home.sandbox.script("tools/cargo", "#!/bin/sh\necho \"$*\" >\"$HOME/called\"; exit 101\n");
    let installer = home.path("checkout/install.sh").display().to_string();
    let is_quiet = || fs::read_to_string(home.path("home/called")).unwrap().contains("--quiet");
    home.call("dash", [&installer]).run().exits(1);
    assert!(is_quiet());
    let terminal = ["-c", "import pty, sys; pty.spawn(sys.argv[1:])"];
    home.call("dash", [&installer]).under(real_python(), &terminal).run();
    assert!(!is_quiet());
}

#[test]
fn a_full_disk_is_named() {
    let home = Home::new();
    let tool = home.path("tools/cat");
    fs::remove_file(&tool).unwrap();
    home.sandbox.script(&tool, "#!/bin/sh\necho 'cat: write error: No space left on device' >&2; exit 1\n");
    let run = home.installs_in("dash", ["--binary", &home.built]).run();
    run.exits(1).stderr_matches("install-full-disk.txt");
}

#[test]
fn the_script_is_as_its_linters_want_it() {
    let script = script();
    output(&on_this_machine("shellcheck"), &[script.as_os_str()]);
    let difference = output(
        &on_this_machine("shfmt"),
        &["-d", "-i", "4", "-ci"]
            .map(AsRef::as_ref)
            .iter()
            .copied()
            .chain([script.as_os_str()])
            .collect::<Vec<_>>(),
    );
    assert_eq!(difference, "");
    // The env file is an sh script too.
    let home = Home::new();
    home.install();
    let env = home.prefix().join("env");
    let arguments = ["--shell=dash", "--exclude=SC3044,SC1090,SC1091"].map(AsRef::as_ref);
    output(
        &on_this_machine("shellcheck"),
        &arguments.iter().copied().chain([env.as_os_str()]).collect::<Vec<_>>(),
    );
    assert!(real_python().exists());
}

#[test]
fn the_program_installs_itself_as_install_sh_does() {
    let home = Home::new();
    let call = |program: &str, arguments: &[&str]| {
        let call = home.sandbox.call(home.path(program), []).path(&home.with_busybox());
        let call = call.var("SHELL", home.path("tools/bash"));
        ["install"].iter().chain(arguments).fold(call, |call, argument| call.argument(*argument)).run()
    };
    fs::copy(small_binary(), home.path("pcluster-preflight")).unwrap();
    call("pcluster-preflight", &["--help"]).exits(0).is_silent().stdout_matches("install-help.txt");
    call("pcluster-preflight", &["--nonsense"]).exits(2).stderr_matches("install-unknown.txt");
    call("pcluster-preflight", &[]).exits(0).is_silent();
    assert_eq!(fs::read(home.prefix().join("bin/pcluster")).unwrap(), fs::read(small_binary()).unwrap());
    assert_eq!(fs::read(home.prefix().join("install.sh")).unwrap(), fs::read(script()).unwrap());
    let run = call("pcluster-preflight", &["--uninstall"]);
    home.is_as_before(run.exits(0).is_silent());

    let venv = home.path("venv");
    call("pcluster-preflight", &["--venv", venv.to_str().unwrap()]).exits(0).is_silent();
    assert_eq!(fs::read(venv.join("bin/pcluster")).unwrap(), fs::read(small_binary()).unwrap());
    let run = call("pcluster-preflight", &["--venv", venv.to_str().unwrap(), "--uninstall"]);
    home.is_as_before(run.exits(0).is_silent());
    home.sandbox.has_no_scratch();
}

/// The check of an installation asks whether the shim is reached, not whether the user has switched it off.
#[test]
fn a_mode_that_is_off_is_no_fault_of_the_installation() {
    let home = Home::new();
    let venv = home.path("venv").display().to_string();
    for place in [&["--binary", home.built.as_str()][..], &["--binary", &home.built, "--venv", &venv]] {
        let install = || place.iter().fold(home.installs_in("dash", []), |call, word| call.argument(*word));
        install().run().exits(0);
        let expected = install().run();
        let run = install().var("PCLUSTER_SHIM_MODE", "off").run();
        run.exits(0).is_silent().prints_like(&expected);
    }
}

/// The installation is complete, but install.sh cannot check it, because the config file has an error.
#[test]
fn a_configuration_in_error_is_named_and_is_no_fault_of_the_installation() {
    let home = Home::new();
    home.sandbox.write("config/pcluster-shim/config.yaml", "mode: [bad\n");
    let venv = home.path("venv").display().to_string();
    for (arguments, said) in [(vec![], "next: open a new shell"), (vec!["--venv", &venv], "guarded ")] {
        let call = home.installs_in("dash", ["--binary", &home.built]);
        let run = arguments.iter().fold(call, |call, argument| call.argument(*argument)).run();
        run.exits(0).stderr_matches("config-in-error.txt");
        run.holds(run.stdout().contains(said), said);
    }
}
