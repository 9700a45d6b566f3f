//! The line that install.sh adds to startup files puts the shim first on PATH in every shell. An uninstall
//! removes the line, and changes no other byte of the files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{Home, SHELLS, STARTS, STARTUP, as_other_user};

/// Each existing startup file gets one line, even from two installations. In each shell that reads the
/// file, the shim is first on PATH and is there only once. The uninstall restores the files byte for byte.
#[test]
fn trap_07_and_30_every_shell_of_the_user_has_the_shim_first_and_loses_it_byte_for_byte() {
    let mut written = BTreeMap::new();
    for installer in SHELLS {
        let home = Home::new();
        let install = || home.installs_in(installer, ["--binary", &home.built]).run();
        install().exits(0).is_silent().stdout_matches("install.txt");
        install().exits(0).is_silent().stdout_matches("install-again.txt");
        for (name, _) in STARTUP {
            let expected = usize::from(!name.contains("aliases"));
            assert_eq!(home.lines_in(name), expected, "{installer}: the shim's line in {name}");
        }
        for name in [".bash_profile", ".bash_login", ".zlogin"] {
            assert!(!home.path("home").join(name).exists(), "{name} was made");
        }
        let first = home.prefix().join("bin").display().to_string();
        let now = home.written();
        let is_first = written.is_empty();
        if is_first {
            written = now;
        } else {
            assert!(now == written, "{installer} writes something else");
        }
        // Whichever shell runs install.sh, it writes the same files. So the user's shells are tried only
        // after the first installation.
        for (shell, flags) in STARTS.iter().filter(|_| is_first) {
            let command = ["-c", "pcluster version; env"];
            let call =
                flags.iter().chain(&command).fold(home.call(shell, []), |call, flag| call.argument(*flag));
            let run = call.run();
            let path = run.stdout().lines().find_map(|line| line.strip_prefix("PATH=").map(str::to_owned));
            let path = path.unwrap_or_default();
            run.exits(0).holds(run.stdout().contains("the real pcluster: version\n"), "it answers");
            run.holds(path.starts_with(&format!("{first}:")), "the shim is first");
            run.holds(path.matches(&first).count() == 1, "once");
        }
        // The env script can run twice: in a login shell, and again in a shell that the login shell starts.
        let env = home.prefix().join("env").display().to_string();
        let again = format!("PATH=/before:$PATH; . '{env}'; . '{env}'; echo \"$PATH\"");
        for shell in ["dash", "bash", "zsh"].into_iter().filter(|_| is_first) {
            let run = home.call(shell, ["-c", &again]).run();
            run.exits(0).holds(run.stdout().starts_with(&format!("{first}:/before:")), "first again");
            run.holds(run.stdout().matches(&first).count() == 1, "once");
        }
        let uninstall = || home.installs_in(installer, ["--uninstall"]).run();
        let run = uninstall();
        run.exits(0).is_silent().stdout_matches("uninstall.txt");
        home.is_as_before(&run);
        let run = uninstall();
        run.exits(0).is_silent().stdout_matches("uninstall-again.txt");
        home.is_as_before(&run);
    }
}

/// Other entries of PATH stay as they are: an empty one, or one whose name contains the shim's directory.
#[test]
fn the_env_script_changes_nothing_else_on_path() {
    let home = Home::new();
    home.install();
    let env = home.prefix().join("env").display().to_string();
    let own = home.prefix().join("bin").display().to_string();
    for (before, after) in [
        (String::new(), own.clone()),
        ("/a".into(), format!("{own}:/a")),
        ("/a::/b".into(), format!("{own}:/a::/b")),
        (":/a".into(), format!("{own}::/a")),
        ("/a:".into(), format!("{own}:/a:")),
        (format!("/a:{own}:{own}:/b"), format!("{own}:/a:/b")),
        (format!("{own}/x:/x{own}"), format!("{own}:{own}/x:/x{own}")),
        (own.clone(), own.clone()),
    ] {
        for shell in ["dash", "bash", "zsh"] {
            let sh = format!("set -eu; PATH='{before}'; . '{env}'; echo \"$PATH\"");
            home.call(shell, ["-c", &sh]).run().exits(0).prints(&format!("{after}\n")).is_silent();
        }
    }
}

/// A function or alias that the user has defined is not replaced, and causes no syntax error.
#[test]
fn what_the_user_has_named_pcluster_stays() {
    let home = Home::new();
    home.install();
    let env = home.prefix().join("env").display().to_string();
    for shell in ["bash", "zsh", "dash"] {
        for own in ["alias pcluster='echo mine --really'", "pcluster() { echo mine --really \"$@\"; }"] {
            let sh = format!("{own}\n. '{env}'\neval pcluster version\n");
            let file = home.sandbox.write("rc", sh);
            let alias = if shell == "bash" { "shopt -s expand_aliases; " } else { "" };
            let line = format!("{alias}. {}", file.display());
            let run = home.call(shell, ["-i", "-c", &line]).run();
            run.holds(run.stdout().ends_with("mine --really version\n"), &format!("{shell}: {own}"));
        }
    }
    let fish = format!("function pcluster; echo mine $argv; end; source '{env}.fish'; pcluster version");
    let run = home.call("fish", ["-i", "-c", &fish]).run();
    run.holds(run.stdout().ends_with("mine version\n"), "fish");
}

/// A prefix with every awkward character except those that PATH cannot contain.
#[test]
fn a_prefix_with_awkward_characters() {
    let home = Home::new();
    let prefix = home.path("a b'c\"d$e`f\\g*[x]?;&(é");
    let arguments = ["--binary", &home.built, "--prefix", prefix.to_str().unwrap()];
    home.installs_in("dash", arguments).run().exits(0).is_silent();
    for (shell, flags) in STARTS {
        let call = flags.iter().chain(&["-c", "pcluster preflight where -q; pcluster version"]);
        let run = call.fold(home.call(shell, []), |call, flag| call.argument(*flag)).run();
        run.exits(0).holds(run.stdout().ends_with("the real pcluster: version\n"), shell);
        run.holds(!run.stderr().contains("pcluster"), "nothing is said of it");
    }
    let run = home.installs_in("dash", ["--uninstall", "--prefix", prefix.to_str().unwrap()]).run();
    run.exits(0);
    home.is_as_before(&run);
    assert!(!prefix.exists());
    // The installed copy of the script finds its own prefix.
    home.installs_in("dash", arguments).run().exits(0);
    let own = prefix.join("install.sh");
    let run = home.call("dash", [own.to_str().unwrap(), "--uninstall"]).run();
    run.exits(0);
    home.is_as_before(&run);
    assert!(!prefix.exists());
}

/// A bash that is not a login shell reads only `~/.bashrc`. A login shell does not read that file. So if bash
/// has no other startup file, install.sh prints a warning, even if there is no pcluster.
#[test]
fn bash_with_only_a_bashrc_is_warned_about_login_shells() {
    let home = Home::new();
    fs::remove_file(home.path("home/.profile")).unwrap();
    fs::remove_file(home.path("venv/bin/pcluster")).unwrap();
    let run = home.installs_in("dash", ["--binary", &home.built]).run();
    run.exits(0).stdout_matches("install-only-bashrc.txt").stderr_matches("install-only-bashrc-warnings.txt");
    // With the line that the warning shows, a login shell finds the shim, and the next run prints no warning.
    let line = run.stderr().lines().last().unwrap().trim_start_matches("install.sh: ").to_owned();
    home.sandbox.write("home/.profile", line);
    let run = home.call("bash", ["-l", "-c", "command -v pcluster"]).run();
    run.exits(0).holds(run.stdout().contains("/pcluster-shim/"), "the shim is on PATH");
    home.installs_in("dash", ["--binary", &home.built]).run().exits(0).is_silent();
}

#[test]
fn a_startup_file_that_is_read_only_costs_a_warning() {
    let home = Home::new();
    let files = ["home/.bashrc", "config/fish/config.fish"].map(|name| home.path(name));
    for file in &files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o444)).unwrap();
    }
    let call = home.installs_in("dash", ["--binary", &home.built]);
    let run = as_other_user(&home, call).run();
    run.exits(0).stdout_matches("install-read-only.txt").stderr_matches("install-read-only-warnings.txt");
    for file in &files {
        assert_eq!(fs::read(file).unwrap(), home.before[file][5..], "{}", file.display());
    }
    // `~/.profile` becomes read-only after the installation, so the uninstall cannot remove the shim's line.
    // The line that stays has no effect.
    let profile = home.path("home/.profile");
    fs::set_permissions(&profile, fs::Permissions::from_mode(0o444)).unwrap();
    let run = as_other_user(&home, home.installs_in("dash", ["--uninstall"])).run();
    run.exits(0).stderr_matches("uninstall-read-only-warnings.txt");
    assert_eq!(home.lines_in("home/.profile"), 1);
    let run = home.call("bash", ["-l", "-c", "pcluster version"]).run();
    run.exits(0).prints("the real pcluster: version\n").is_silent();
}

#[test]
fn startup_files_are_left_alone_where_that_is_asked_for() {
    let home = Home::new();
    let arguments = ["--no-modify-path", "--binary", &home.built];
    let run = home.installs_in("dash", arguments).run();
    run.exits(0).is_silent().stdout_matches("install-no-modify-path.txt");
    for (name, _) in STARTUP {
        assert_eq!(home.lines_in(name), 0, "{name}");
    }
    home.is_as_before(&home.uninstall());
}

/// ZDOTDIR from the environment and from .zshenv; links, as managers of dotfiles make them.
#[test]
fn startup_files_elsewhere_and_behind_links() {
    let home = Home::new();
    let zdotdir = home.path("home/zsh dir");
    for (name, at) in [(".zshrc", "zsh dir/.zshrc"), (".bashrc", "dotfiles/bashrc")] {
        let to = home.path("home").join(at);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(home.path("home").join(name), to).unwrap();
    }
    home.sandbox.link("home/.bashrc", "dotfiles/../dotfiles/bashrc");
    fs::set_permissions(home.path("home/dotfiles/bashrc"), fs::Permissions::from_mode(0o640)).unwrap();
    let mut zshenv = fs::read(home.path("home/.zshenv")).unwrap();
    zshenv.extend_from_slice(format!("ZDOTDIR='{}'\n", zdotdir.display()).as_bytes());
    fs::write(home.path("home/.zshenv"), zshenv).unwrap();
    let home = Home { before: home.files(), ..home };
    home.install();
    assert_eq!(home.lines_in("home/zsh dir/.zshrc"), 1);
    assert_eq!(home.lines_in("home/dotfiles/bashrc"), 1);
    for (shell, flags) in STARTS {
        let call = flags.iter().chain(&["-c", "pcluster preflight where -q"]);
        call.fold(home.call(shell, []), |call, flag| call.argument(*flag)).run().exits(0);
    }
    home.is_as_before(&home.uninstall());
    let run = home.installs_in("dash", ["--binary", &home.built]);
    run.var("ZDOTDIR", &zdotdir).run().exits(0);
    assert_eq!(home.lines_in("home/zsh dir/.zshrc"), 1);
    let run = home.installs_in("dash", ["--uninstall"]).var("ZDOTDIR", &zdotdir).run();
    home.is_as_before(&run);
}

/// Text that the user added after the shim's line stays, and so do all other lines of the file.
#[test]
fn what_was_written_after_the_shims_line_stays() {
    let home = Home::new();
    home.install();
    for name in ["home/.bashrc", "home/.profile"] {
        let mut text = fs::read(home.path(name)).unwrap();
        text.extend_from_slice(b"later=1");
        fs::write(home.path(name), text).unwrap();
    }
    home.uninstall();
    for (name, between) in [("home/.bashrc", "\n"), ("home/.profile", "")] {
        let before = &home.before[&home.path(name)][5..];
        let expected = [before, between.as_bytes(), b"later=1"].concat();
        assert_eq!(fs::read(home.path(name)).unwrap(), expected, "{name}");
    }
}

/// Installations that run at the same time can each add the line, so a file can have it twice.
#[test]
fn every_line_of_the_shims_is_removed() {
    let home = Home::new();
    home.install();
    let text = fs::read(home.path("home/.profile")).unwrap();
    let shown = String::from_utf8_lossy(&text).into_owned();
    let line = shown.lines().find(|line| line.contains("# pcluster-shim")).unwrap();
    fs::write(home.path("home/.profile"), [text.as_slice(), line.as_bytes(), b"\n"].concat()).unwrap();
    assert_eq!(home.lines_in("home/.profile"), 2);
    let run = home.uninstall();
    home.is_as_before(&run);
}
