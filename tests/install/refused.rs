//! Places and calls that are refused, with nothing written.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use super::{Home, SHELLS, as_other_user, small_binary};
use crate::support::machine::on_this_machine;
use crate::support::run::{Call, Run};

/// The default prefix cannot be written, so nothing is done.
#[test]
fn where_nothing_can_be_written_nothing_is_done() {
    let home = Home::new();
    fs::set_permissions(home.path("home"), fs::Permissions::from_mode(0o555)).unwrap();
    let call = home.installs_in("dash", ["--binary", &home.built]);
    let run = as_other_user(&home, call).run();
    fs::set_permissions(home.path("home"), fs::Permissions::from_mode(0o755)).unwrap();
    run.exits(1).prints("").stderr_matches("install-no-place.txt");
    home.is_as_before(&run);
}

#[test]
fn without_home_a_prefix_has_to_be_named() {
    let home = Home::new();
    for value in [None, Some(""), Some("relative")] {
        for shell in SHELLS {
            let call = home.installs_in(shell, ["--binary", &home.built]);
            let call = match value {
                None => call.without("HOME"),
                Some(value) => call.var("HOME", value),
            };
            let run = call.run();
            run.exits(2).prints("").stderr_matches("install-no-home.txt");
            home.is_as_before(&run);
        }
    }
    let prefix = home.path("prefix");
    let arguments = ["--binary", &home.built, "--prefix", prefix.to_str().unwrap()];
    let run = home.installs_in("dash", arguments).without("HOME").run();
    run.exits(0).is_silent().stdout_matches("install-no-startup-files.txt");
    home.is_as_before(&run);
    let arguments = ["--uninstall", "--prefix", prefix.to_str().unwrap()];
    let call = home.installs_in("dash", arguments).without("HOME");
    call.without("XDG_CACHE_HOME").without("XDG_STATE_HOME").run().exits(0).is_silent();
    assert!(!prefix.exists());
}

/// On some systems `sudo` keeps HOME, so root has the HOME of another user.
#[test]
fn a_home_of_another_user_is_refused() {
    let home = Home::new();
    if !rustix::process::geteuid().is_root() {
        // Only root can give a home to another user. Other users could not write to such a home anyway.
        return;
    }
    chown(home.path("home"), Some(65534), None).unwrap();
    let run = home.installs_in("dash", ["--binary", &home.built]).run();
    chown(home.path("home"), Some(0), None).unwrap();
    run.exits(1).prints("").stderr_matches("install-other-home.txt");
    home.is_as_before(&run);
}

#[test]
fn a_prefix_from_which_no_program_runs_is_refused() {
    let home = Home::new();
    let prefix = home.path("home/mounted");
    fs::create_dir(&prefix).unwrap();
    let below = prefix.join("shim");
    let call = home.installs_in("dash", ["--binary", &home.built, "--prefix", below.to_str().unwrap()]);
    let Some(run) = run_on_tmpfs(call, "noexec", &prefix) else { return };
    run.exits(1).prints("").stderr_matches("install-noexec.txt");
    fs::remove_dir(&prefix).unwrap();
    home.is_as_before(&run);
}

/// `preflight install` writes install.sh into a temporary directory.
#[test]
fn a_full_directory_for_temporary_files_is_named() {
    let home = Home::new();
    let full = home.path("full");
    fs::create_dir(&full).unwrap();
    let call = home.sandbox.pcluster(["preflight", "install"]).var("TMPDIR", &full);
    // The file system has only one inode, and its root directory uses it.
    let Some(run) = run_on_tmpfs(call, "nr_inodes=1", &full) else { return };
    run.exits(1).prints("").stderr_matches("install-full-tmpdir.txt");
}

/// Runs a call with a separate file system mounted at a directory, if this user may mount one.
#[expect(clippy::print_stdout, reason = "a test that does not run says so")]
fn run_on_tmpfs(call: Call, options: &str, directory: &Path) -> Option<Run> {
    let (mount, directory) = (on_this_machine("mount"), directory.display());
    let mounted = format!("{} -t tmpfs -o {options} none '{directory}' && exec \"$@\"", mount.display());
    let (unshare, sh) = (on_this_machine("unshare"), on_this_machine("sh"));
    let in_shell = ["-m", sh.to_str().unwrap(), "-c", &mounted, "sh"];
    let may_mount = Command::new(&unshare).args(in_shell).arg("true").status();
    if !may_mount.is_ok_and(|status| status.success()) {
        println!("not tested: this user may not mount a file system");
        return None;
    }
    Some(call.under(unshare, &in_shell).run())
}

#[test]
fn a_working_directory_that_is_gone_is_no_place_for_a_prefix() {
    let home = Home::new();
    let gone = ["-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"", "sh"];
    let sh = on_this_machine("sh");
    for shell in SHELLS {
        let call = home.installs_in(shell, ["--binary", &home.built, "--prefix", "below"]);
        let run = call.under(&sh, &gone).run();
        // The shells complain too, each in its own words.
        let told = "install.sh: error: the current directory no longer exists\n\
                    install.sh: hint: Pass below as an absolute path.\n";
        run.exits(2).prints("").holds(run.stderr().ends_with(told), "stderr ends in the refusal");
        home.is_as_before(&run);
    }
    let call = home.installs_in("dash", ["--binary", &home.built]);
    call.under(&sh, &gone).run().exits(0);
}

/// Permissions do not stop root, so install.sh itself checks who owns a file or directory.
#[test]
fn root_writes_nothing_of_another_users() {
    let home = Home::new();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let [data, environment] = ["home/data", "venv"].map(|name| home.path(name));
    fs::create_dir(&data).unwrap();
    let startup =
        [".profile", ".bashrc", ".zshenv", ".zprofile", ".zshrc"].map(|name| format!("home/{name}"));
    let give = |user| {
        for path in [data.clone(), environment.join("bin")]
            .into_iter()
            .chain(startup.iter().map(|name| home.path(name)))
        {
            chown(path, Some(user), None).unwrap();
        }
    };
    give(65534);
    let venv = environment.to_str().unwrap();
    let in_venv = ["--binary", &home.built, "--venv", venv];
    let run = home.installs_in("dash", in_venv).run();
    run.exits(1).prints("").stderr_matches("install-other-venv.txt");
    home.installs_in("busybox", ["--uninstall", "--venv", venv]).run().exits(1);
    let below = data.join("not/yet");
    let run = home.installs_in("dash", ["--binary", &home.built]).var("XDG_DATA_HOME", &below).run();
    run.exits(1).prints("").stderr_matches("install-other-data.txt");
    fs::remove_dir(&data).unwrap();
    home.is_as_before(&run);
    let prefix = home.path("prefix");
    let in_prefix = ["--binary", &home.built, "--prefix", prefix.to_str().unwrap()];
    let run = home.installs_in("busybox", in_prefix).run();
    run.exits(0).stderr_matches("install-other-startup.txt");
    assert_eq!(startup.each_ref().map(|name| home.lines_in(name)), [0; 5]);
    let below = prefix.join("below");
    chown(&prefix, Some(65534), None).unwrap();
    let below = ["--binary", &home.built, "--prefix", below.to_str().unwrap()];
    let run = home.installs_in("dash", below).run();
    run.exits(1).prints("").holds(run.stderr().contains("/prefix belongs to another user"), "why");
    fs::create_dir(&data).unwrap();
    give(0);
    fs::remove_dir(&data).unwrap();
    home.installs_in("dash", in_venv).run().exits(0);
}

/// In a container that runs as an arbitrary user, HOME belongs to root and is writable by its group.
#[test]
fn a_home_that_is_not_ones_own_but_can_be_written_is_installed_in() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = Home::new();
    for path in ["home", "work", "cache", "tmp"] {
        fs::set_permissions(home.path(path), fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::set_permissions(&home.sandbox.root, fs::Permissions::from_mode(0o755)).unwrap();
    let call = home.installs_in("dash", ["--no-modify-path", "--binary", &home.built]);
    let run =
        call.under(on_this_machine("setpriv"), &["--reuid", "65534", "--regid", "0", "--clear-groups"]).run();
    run.exits(0).is_silent();
    assert!(home.prefix().join("bin/pcluster").is_file());
}

#[test]
fn a_link_in_the_place_of_its_directory_is_refused() {
    let home = Home::new();
    let elsewhere = home.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("install.sh"), "precious").unwrap();
    symlink(&elsewhere, home.path("venv/bin/.pcluster-shim")).unwrap();
    let venv = home.path("venv");
    let run = home.installs_in("dash", ["--binary", &home.built, "--venv", venv.to_str().unwrap()]).run();
    run.exits(1).prints("").stderr_matches("install-venv-link.txt");
    assert_eq!(fs::read(elsewhere.join("install.sh")).unwrap(), b"precious");
    fs::remove_file(home.path("venv/bin/.pcluster-shim")).unwrap();
    home.is_as_before(&run);
}

#[test]
fn what_is_asked_for_wrongly_is_said_and_nothing_is_done() {
    let home = Home::new();
    home.sandbox.write("other-program", "#!/bin/sh\n");
    let mut foreign = fs::read(small_binary()).unwrap();
    foreign[18] ^= 0x5a; // now a program for another machine
    home.sandbox.script("other-machine", foreign);
    let at = |name: &str| home.path(name).display().to_string();
    for (arguments, status, snapshot) in [
        (vec!["--loud".to_owned()], 2, "install-unknown-argument.txt"),
        (vec!["--prefix".into()], 2, "install-empty-value.txt"),
        (vec!["--binary".into(), at("absent")], 1, "install-absent.txt"),
        (vec!["--binary".into(), at("other-program")], 1, "install-other-program.txt"),
        (vec!["--binary".into(), at("other-machine")], 1, "install-other-machine.txt"),
        (vec!["--venv".into(), at("home")], 1, "install-no-venv.txt"),
        (vec!["--venv".into(), at("venv"), "--prefix".into(), at("x")], 2, "install-both.txt"),
        (vec!["--venv".into(), at("node/..")], 1, "install-no-venv-2.txt"),
    ] {
        let call = arguments.iter().fold(home.installs_in("dash", []), Call::argument);
        let run = call.run();
        run.exits(status).prints("").stderr_matches(snapshot);
        home.is_as_before(&run);
    }
    let run = home.installs_in("dash", ["--help"]).run();
    run.exits(0).is_silent().stdout_matches("install-help.txt");
}
