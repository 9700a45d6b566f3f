//! install.sh: in dash, bash and busybox sh; for users of bash, zsh, fish and dash; and that an
//! uninstall leaves nothing.
//!
//! Debian packages that this module and `traps` need beside a C compiler, python3 and strace:
//!
//!     apt-get install bash dash busybox zsh fish shellcheck shfmt util-linux binutils

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::machine::{on_this_machine, output, real_python};
use crate::support::run::{Call, Run};
use crate::support::sandbox::{BINARY, Sandbox};

/// Programs that install.sh uses, and the shells that read what it writes.
const PROGRAMS: [&str; 31] = [
    "awk", "chmod", "cp", "cut", "grep", "head", "id", "ln", "ls", "mkdir", "mv", "rm", "rmdir", "sed",
    "setsid", "tail", "tr", "wc", "touch", "dash", "busybox", "zsh", "fish", "find", "uname", "tput",
    "mktemp", "basename", "sort", "kill", "expr",
];

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh")
}

/// The binary under test without its debugging symbols, which are most of it.
fn small_binary() -> &'static Path {
    static SMALL: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SMALL.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("pcluster");
        let arguments = ["-o".as_ref(), path.as_os_str(), BINARY.as_ref()];
        output(&on_this_machine("strip"), &arguments);
        (directory, path)
    });
    path
}

/// A user's home: an environment with a pcluster, and startup files that set PATH as theirs do.
pub(crate) struct Home {
    pub(crate) sandbox: Sandbox,
    /// The path of a built shim, for `--binary`.
    built: String,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

/// The shells that run install.sh.
const SHELLS: [&str; 3] = ["dash", "bash", "busybox"];

/// Startup files: a name below the sandbox and what ends it.
const STARTUP: [(&str, &str); 7] = [
    ("home/.profile", "# ends as it should\n"),
    ("home/.bashrc", "# has no newline at its end, but a blank "),
    ("home/.zshenv", "\n\n"),
    ("home/.zprofile", "#\r\n# lines of Windows\r\n"),
    ("home/.zshrc", "autoload -Uz compinit && compinit -u -D # and no newline"),
    ("config/fish/config.fish", "# no newline here either"),
    ("home/.bash_aliases", "# not a startup file\n"),
];

impl Home {
    pub(crate) fn new() -> Self {
        let sandbox = Sandbox::new();
        for program in PROGRAMS {
            symlink(on_this_machine(program), sandbox.path("tools").join(program)).unwrap();
        }
        sandbox.environment().is_broken();
        fs::copy(small_binary(), sandbox.path("built")).unwrap();
        fs::copy(script(), sandbox.path("install.sh")).unwrap();
        let path =
            ["venv/bin", "node", "tools"].map(|name| sandbox.path(name).display().to_string()).join(":");
        for (name, end) in STARTUP {
            let set = if name.ends_with("fish") {
                format!("set -gx PATH {}\n", path.replace(':', " "))
            } else {
                format!("PATH={path}\nexport PATH\n")
            };
            let text = [set.as_bytes(), b"# a comment that is no UTF-8: \xff\xfe\n", end.as_bytes()].concat();
            sandbox.write(name, text);
        }
        sandbox.build_image();
        let built = sandbox.path("built").display().to_string();
        let mut home = Self { sandbox, built, before: BTreeMap::new() };
        home.before = home.files();
        home
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.sandbox.path(name)
    }

    pub(crate) fn prefix(&self) -> PathBuf {
        self.path("home/.local/share/pcluster-shim")
    }

    /// Any program, as this user calls it. The shim of the harness is not on PATH.
    pub(crate) fn call<const N: usize>(&self, program: &str, arguments: [&str; N]) -> Call<'_> {
        let path = ["venv/bin", "node", "tools"].map(|name| self.path(name));
        let shell = self.path("tools/bash");
        let call = self.sandbox.call(self.path("tools").join(program), arguments).path(&path);
        let call = call.var("SHELL", shell);
        // The directory of fish's history.
        if program == "fish" { call.var("XDG_DATA_HOME", self.path("data")) } else { call }
    }

    /// install.sh in one of [`SHELLS`], and where that is busybox with nothing but busybox's tools.
    pub(crate) fn installs_in<const N: usize>(&self, shell: &str, arguments: [&str; N]) -> Call<'_> {
        let script = self.path("install.sh");
        let script = script.to_str().unwrap();
        let call = match shell {
            "busybox" => self.call(shell, ["sh", script]).path(&self.with_busybox()),
            _ => self.call(shell, [script]),
        };
        arguments.iter().fold(call, |call, argument| call.argument(*argument))
    }

    fn with_busybox(&self) -> Vec<PathBuf> {
        let directory = self.path("busybox");
        if !directory.exists() {
            fs::create_dir(&directory).unwrap();
            let busybox = on_this_machine("busybox");
            for name in output(&busybox, &["--list".as_ref()]).lines() {
                symlink(&busybox, directory.join(name)).unwrap();
            }
            symlink(on_this_machine("zsh"), directory.join("zsh")).unwrap();
        }
        ["venv/bin", "node"].map(|name| self.path(name)).into_iter().chain([directory]).collect()
    }

    #[track_caller]
    pub(crate) fn install(&self) -> Run<'_> {
        let run = self.installs_in("dash", ["--binary", &self.built]).run();
        run.exits(0);
        run
    }

    #[track_caller]
    fn uninstall(&self) -> Run<'_> {
        let run = self.installs_in("dash", ["--uninstall"]).run();
        run.exits(0);
        run
    }

    /// Every file and directory of the user's, with its content; what shells write by themselves
    /// when they start is left out.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for below in ["home", "config", "venv"] {
            collect(&self.path(below), &mut files);
        }
        let own = |path: &Path| {
            [
                "config/fish/fish_variables",
                "config/fish/conf.d",
                "config/fish/functions",
                "config/fish/completions",
            ]
            .iter()
            .any(|name| path.ends_with(name))
        };
        files.retain(|path, _| !own(path));
        files
    }

    /// Compares with the files before, byte for byte.
    #[track_caller]
    pub(crate) fn is_as_before(&self, run: &Run) {
        let now = self.files();
        let changed: Vec<_> = now
            .keys()
            .chain(self.before.keys())
            .filter(|path| now.get(*path) != self.before.get(*path))
            .collect();
        run.holds(changed.is_empty(), &format!("these are not as before: {changed:?}"));
    }

    /// How often the shim's line is in a file.
    fn lines_in(&self, name: &str) -> usize {
        let text = fs::read(self.path(name)).unwrap();
        String::from_utf8_lossy(&text).lines().filter(|line| line.contains("# pcluster-shim")).count()
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in directory.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode().to_string();
        let content = if metadata.is_dir() {
            collect(&path, files);
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        files.insert(path, [mode.as_bytes(), &content].concat());
    }
}

/// Ways to start a shell that read a startup file. A script's bash or dash reads none: its PATH is
/// that of the shell that starts it.
const STARTS: [(&str, &[&str]); 13] = [
    ("bash", &["-i"]),
    ("bash", &["-l"]),
    ("bash", &["-l", "-i"]),
    ("zsh", &[]),
    ("zsh", &["-i"]),
    ("zsh", &["-l"]),
    ("zsh", &["-l", "-i"]),
    ("fish", &[]),
    ("fish", &["-i"]),
    ("fish", &["-l"]),
    ("fish", &["-l", "-i"]),
    ("dash", &["-l"]),
    ("dash", &["-l", "-i"]),
];

/// Traps 7 and 30: one line, once, in what exists; every shell that reads it has the shim first,
/// once; and away again, byte for byte.
#[test]
fn trap_07_and_30_every_shell_of_the_user_has_the_shim_first_and_loses_it_byte_for_byte() {
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
        for (shell, flags) in STARTS {
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
        // A shell in a login shell, and whatever else sources it again.
        let env = home.prefix().join("env").display().to_string();
        let again = format!("PATH=/before:$PATH; . '{env}'; . '{env}'; echo \"$PATH\"");
        for shell in ["dash", "bash", "zsh"] {
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

/// Entries of PATH stay as they were: an empty entry, the shim's directory within another name.
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
            let sh = format!(
                "set -eu; PATH='{before}'; . '{env}'; echo \"$PATH\"; set | grep -c _pcluster_shim_path || :"
            );
            let sh = sh.replace("set | grep -c _pcluster_shim_path || :", ":");
            home.call(shell, ["-c", &sh]).run().exits(0).prints(&format!("{after}\n")).is_silent();
        }
    }
}

/// A function or alias of the user's own is not replaced, and is no syntax error.
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

/// A prefix of every awkward character but those that PATH cannot hold.
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
    // The installed copy of the script finds where it is installed.
    home.installs_in("dash", arguments).run().exits(0);
    let own = prefix.join("install.sh");
    let run = home.call("dash", [own.to_str().unwrap(), "--uninstall"]).run();
    run.exits(0);
    home.is_as_before(&run);
    assert!(!prefix.exists());
}

/// A user whom permission bits bind, which root is not.
fn as_other_user<'a>(home: &'a Home, call: Call<'a>) -> Call<'a> {
    if !rustix::process::geteuid().is_root() {
        return call;
    }
    let mut files = BTreeMap::new();
    collect(&home.sandbox.root, &mut files);
    for path in files.keys().chain([&home.sandbox.root]) {
        std::os::unix::fs::lchown(path, Some(65534), Some(65534)).unwrap();
    }
    let first = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    call.under(on_this_machine("setpriv"), &first)
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
    // Read-only after the installation: the line stays, and does nothing.
    let profile = home.path("home/.profile");
    fs::set_permissions(&profile, fs::Permissions::from_mode(0o444)).unwrap();
    let run = as_other_user(&home, home.installs_in("dash", ["--uninstall"])).run();
    run.exits(0).stderr_matches("uninstall-read-only-warnings.txt");
    assert_eq!(home.lines_in("home/.profile"), 1);
    let run = home.call("bash", ["-l", "-c", "pcluster version"]).run();
    run.exits(0).prints("the real pcluster: version\n").is_silent();
}

/// No prefix that can be written, and one that cannot be: nothing is done.
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

/// sudo keeps HOME on some systems.
#[test]
fn a_home_of_another_user_is_refused() {
    let home = Home::new();
    if !rustix::process::geteuid().is_root() {
        // Only root can make such a home; for others the directory cannot be written at all.
        return;
    }
    chown(home.path("home"), Some(65534), None).unwrap();
    let run = home.installs_in("dash", ["--binary", &home.built]).run();
    chown(home.path("home"), Some(0), None).unwrap();
    run.exits(1).prints("").stderr_matches("install-other-home.txt");
    home.is_as_before(&run);
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that does not run says so")]
fn a_prefix_from_which_no_program_runs_is_refused() {
    let home = Home::new();
    let prefix = home.path("home/mounted");
    fs::create_dir(&prefix).unwrap();
    let mount = on_this_machine("mount");
    let mounted =
        format!("{} -t tmpfs -o noexec none '{}' && exec \"$@\"", mount.display(), prefix.display());
    let unshare = on_this_machine("unshare");
    let may_mount =
        std::process::Command::new(&unshare).args(["-m", "sh", "-c", &mounted, "sh", "true"]).status();
    if !may_mount.is_ok_and(|status| status.success()) {
        println!("not tested: this user may not mount a file system");
        return;
    }
    let below = prefix.join("shim");
    let call = home.installs_in("dash", ["--binary", &home.built, "--prefix", below.to_str().unwrap()]);
    let run =
        call.under(unshare, &["-m", on_this_machine("sh").to_str().unwrap(), "-c", &mounted, "sh"]).run();
    run.exits(1).prints("").stderr_matches("install-noexec.txt");
    fs::remove_dir(&prefix).unwrap();
    home.is_as_before(&run);
}

#[test]
fn a_working_directory_that_is_gone_is_no_place_for_a_prefix() {
    let home = Home::new();
    let gone = ["-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"", "sh"];
    let sh = on_this_machine("sh");
    for shell in SHELLS {
        let call = home.installs_in(shell, ["--binary", &home.built, "--prefix", "below"]);
        let run = call.under(&sh, &gone).run();
        // The shells themselves complain too, each in its words.
        let told = "install.sh: the current directory is gone\ninstall.sh: Name the whole path of below.\n";
        run.exits(2).prints("").holds(run.stderr().ends_with(told), "stderr ends in the refusal");
        home.is_as_before(&run);
    }
    let call = home.installs_in("dash", ["--binary", &home.built]);
    call.under(&sh, &gone).run().exits(0);
}

/// Permissions stop other users; root is stopped by nothing.
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

/// A container that runs as any user has a HOME of root's that its group may write.
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

/// Text that the user wrote after the shim's line stays, as do the lines around it.
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

/// Trap 28: odd and empty values, other people's files, directories that are not the shim's.
#[test]
fn trap_28_only_the_shims_own_files_are_removed_and_only_by_their_names() {
    let home = Home::new();
    let prefix = home.prefix();
    home.install();
    let theirs = ["bin/other", "completions/_other", "notes", "share/man/man1/other.1"];
    for name in theirs {
        home.sandbox.write(prefix.join(name), "theirs");
    }
    let run = home.uninstall();
    run.stderr_matches("uninstall-theirs.txt");
    let mut left = BTreeMap::new();
    collect(&prefix, &mut left);
    let left: Vec<_> = left.into_iter().filter(|(path, _)| path.is_file()).map(|(path, _)| path).collect();
    let mut expected = theirs.map(|name| prefix.join(name));
    expected.sort();
    assert_eq!(left, expected);
    fs::remove_dir_all(home.path("home/.local")).unwrap();
    home.is_as_before(&run);

    // The shim's names, the user's content.
    let project = home.path("home/project");
    for name in ["env", "env.fish", "install.sh", "made", "completions/_pcluster"] {
        home.sandbox.write(project.join(name), "their own\n");
    }
    let project = project.to_str().unwrap().to_owned();
    let home = Home { before: home.files(), ..home };
    let arguments = ["--binary", &home.built, "--prefix"];
    let uninstall = |prefix: &str| home.installs_in("dash", ["--uninstall", "--prefix", prefix]).run();
    let install = |prefix: &str| home.installs_in("dash", arguments).argument(prefix).run();
    home.is_as_before(&uninstall(&project));
    for (prefix, status, snapshot) in [
        ("", 2, "install-empty-value.txt"),
        ("/", 2, "install-root.txt"),
        ("///", 2, "install-root.txt"),
        ("/a:b", 2, "install-colon.txt"),
    ] {
        for run in [uninstall(prefix), install(prefix)] {
            run.exits(status).prints("").stderr_matches(snapshot);
            home.is_as_before(&run);
        }
    }
    let venv = home.path("venv").display().to_string();
    for run in [install(&venv), uninstall(&venv)] {
        run.exits(1).holds(run.stderr().contains("not"), "it is refused");
        home.is_as_before(&run);
    }
    uninstall("/nonexistent/x").exits(0).is_silent();
    for (name, value) in [("XDG_DATA_HOME", ""), ("XDG_DATA_HOME", "relative"), ("CDPATH", "/"), ("IFS", "/")]
    {
        let run = home.installs_in("dash", ["--uninstall"]).var(name, value).run();
        run.exits(0);
        home.is_as_before(&run);
    }
}

#[test]
fn an_upgrade_removes_the_cache_that_an_older_version_has_left() {
    let home = Home::new();
    home.sandbox.write("cache/pcluster-shim/verdicts/one", "{}");
    home.install();
    assert!(!home.path("cache/pcluster-shim").exists());
}

/// The cache that an older version has left goes with the shim; what an undo needs stays, and is reported.
#[test]
fn what_the_shim_has_written_goes_unless_an_undo_needs_it() {
    let home = Home::new();
    home.install();
    home.sandbox.write("cache/pcluster-shim/verdicts/one", "{}");
    home.sandbox.write("state/pcluster-shim/environments/one/lock", "");
    home.uninstall().stdout_matches("uninstall.txt");
    assert!(!home.path("cache/pcluster-shim").exists() && !home.path("state/pcluster-shim").exists());

    home.install();
    home.sandbox.write("state/pcluster-shim/environments/one/lock", "");
    let last = home.sandbox.write("state/pcluster-shim/environments/two/last.json", "{}");
    fs::create_dir(home.path("elsewhere")).unwrap();
    symlink(home.path("elsewhere"), home.path("cache/pcluster-shim")).unwrap();
    home.uninstall().stdout_matches("uninstall-keeps.txt");
    assert!(last.is_file() && !home.path("state/pcluster-shim/environments/one").exists());
    assert!(home.path("elsewhere").is_dir() && home.path("cache/pcluster-shim").is_symlink());
}

/// A `mv` or `rm` that kills the whole run, which is a process group, at the n-th time that it is
/// called.
fn killing(home: &Home, tool: &str, at: usize) -> PathBuf {
    let directory = home.path("killing");
    let _ = fs::remove_dir_all(&directory);
    let (real, count) = (on_this_machine(tool), directory.join("count"));
    let text = format!(
        "#!/bin/sh\necho >>'{count}'\nif [ \"$(wc -l <'{count}')\" -ge {at} ]; then kill -KILL 0; fi\nexec {real} \"$@\"\n",
        count = count.display(),
        real = real.display()
    );
    home.sandbox.script(directory.join(tool), text);
    directory
}

/// A run killed at any step: nothing is broken, the next run completes it, and nothing is left after.
#[test]
fn a_run_that_is_killed_half_way_is_completed_by_the_next() {
    let home = Home::new();
    for tool in ["mv", "chmod", "mkdir"] {
        // Files come by `mv`: the other tools' steps lie between those.
        for at in (1..30).step_by(if tool == "mv" { 1 } else { 2 }) {
            let path = [killing(&home, tool, at), home.path("venv/bin"), home.path("tools")];
            let run = home.installs_in("dash", ["--binary", &home.built]).path(&path).run();
            if run.status.success() {
                assert!(at > 1, "{tool} is never called");
                home.is_as_before(&home.uninstall());
                break;
            }
            run.dies_by(9);
            let version = home.call("bash", ["-l", "-i", "-c", "pcluster version"]).run();
            version.exits(0).prints("the real pcluster: version\n");
            if at % 4 < 2 {
                home.install();
                home.call("bash", ["-i", "-c", "pcluster preflight where -q"]).run().exits(0);
            }
            uninstall_after_kill(&home);
        }
    }
}

/// An uninstall killed at any step: the next one completes it.
#[test]
fn an_uninstall_that_is_killed_half_way_is_completed_by_the_next() {
    let home = Home::new();
    for tool in ["mv", "rm", "rmdir"] {
        // `rm` is called twice for each file: one step in eight is enough of it.
        for at in (1..80).step_by(if tool == "rm" { 8 } else { 1 }) {
            home.install();
            let path = [killing(&home, tool, at), home.path("venv/bin"), home.path("tools")];
            let run = home.installs_in("dash", ["--uninstall"]).path(&path).run();
            if run.status.success() {
                assert!(at > 1, "{tool} is never called");
                break;
            }
            run.dies_by(9);
            let version = home.call("bash", ["-l", "-i", "-c", "pcluster version"]).run();
            version.exits(0).prints("the real pcluster: version\n");
            uninstall_after_kill(&home);
        }
    }
}

/// Two empty directories may stay where a run was killed before it wrote down that it made them, or
/// after it removed that note.
fn uninstall_after_kill(home: &Home) {
    let run = home.uninstall();
    for made in ["home/.local/share", "home/.local"] {
        let _ = fs::remove_dir(home.path(made));
    }
    home.is_as_before(&run);
}

/// Reads the script piece by piece, `L` for a line and `C` for a character, runs what it has so far
/// in a shell of its own, and prints where that has installed something. Lines that are complete
/// commands it takes over itself, as a shell does that reads from a pipe.
const CUT_OFF: &str = r#"
line='
'
text=
taken=0
while IFS= read -r piece; do
    case $piece in
        L*) text=$text${piece#L}$line ;;
        C*) text=$text${piece#C} ;;
    esac
    (eval "$text") </dev/null >/dev/null 2>&1
    status=$?
    if [ -e "$4" ]; then
        echo "$((taken + ${#text}))"
        exit
    fi
    case $status$piece in
        0L*) eval "$text"; taken=$((taken + ${#text})); text= ;;
    esac
done
"#;

/// Trap 29: cut off at any byte, it does nothing; whole, with or without the last newline,
/// everything.
#[test]
fn trap_29_a_script_that_is_cut_off_does_nothing() {
    let text = fs::read_to_string(script()).unwrap();
    assert!(text.is_ascii(), "the bytes are its characters");
    std::thread::scope(|scope| {
        for shell in SHELLS {
            let text = &text;
            scope.spawn(move || {
                let home = Home::new();
                let prefix = home.path("cut");
                // dash is fast enough for every byte. bash and busybox get every line, and every
                // byte of the last function and the call.
                let bytes_from = if shell == "dash" { 0 } else { text.find("\nmain() {").unwrap() + 1 };
                let (lines, bytes) = text.split_at(bytes_from);
                let mut pieces: Vec<String> = lines.lines().map(|line| format!("L{line}")).collect();
                let piece = |byte| if byte == '\n' { "L".into() } else { format!("C{byte}") };
                pieces.extend(bytes.chars().map(piece));
                let file = home.sandbox.write("cut-off.sh", CUT_OFF);
                let shell_and_file = if shell == "busybox" { vec!["sh"] } else { vec![] };
                let call =
                    shell_and_file.iter().fold(home.call(shell, []), |call, word| call.argument(*word));
                let call = call.argument(file).argument("--binary").argument(&home.built);
                let call = call.argument("--prefix").argument(&prefix).argument("--no-modify-path");
                let run = call.stdin(pieces.join("\n") + "\n").run();
                run.exits(0).prints(&format!("{}\n", text.len() - 1));
                home.is_as_before(&run);
            });
        }
    });
    let home = Home::new();
    for length in [text.len() - 1, text.len()] {
        for shell in SHELLS {
            let call = if shell == "busybox" {
                home.call(shell, ["sh", "-s", "--", "--binary"])
            } else {
                home.call(shell, ["-s", "--", "--binary"])
            };
            let run = call.argument(home.path("built")).stdin(&text[..length]).run();
            run.exits(0).is_silent();
            assert!(home.prefix().join("env").exists());
            home.is_as_before(&home.uninstall());
        }
    }
    // A script from a pipe has neither a checkout nor a program.
    let run = home.call("dash", ["-s"]).stdin(text).run();
    run.exits(1).prints("").stderr_matches("install-no-program.txt");
}

#[test]
fn what_is_asked_for_wrongly_is_said_and_nothing_is_done() {
    let home = Home::new();
    home.sandbox.write("other-program", "#!/bin/sh\n");
    let mut foreign = fs::read(small_binary()).unwrap();
    foreign[18] ^= 0x5a; // another machine's
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
        let call = arguments.iter().fold(home.installs_in("dash", []), super::support::run::Call::argument);
        let run = call.run();
        run.exits(status).prints("").stderr_matches(snapshot);
        home.is_as_before(&run);
    }
    let run = home.installs_in("dash", ["--help"]).run();
    run.exits(0).is_silent().stdout_matches("install-help.txt");
}

/// A checkout is built with cargo, whose failure installs nothing.
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
    // The env file is sh, too.
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

/// Types each step's line into a shell in a terminal of its own, and prints what each shows.
const DRIVER: &str = r#"
import json, os, pty, select, struct, sys, fcntl, termios

shell, steps = sys.argv[1], json.load(open(sys.argv[2]))
pid, terminal = pty.fork()
if pid == 0:
    os.execv(shell, [shell, "-i"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
seen = b""


def until(word):
    """What comes until the word, at most a minute."""
    global seen
    while word not in seen:
        if not select.select([terminal], [], [], 60)[0]:
            sys.exit(f"no {word!r} in {seen!r}")
        seen += os.read(terminal, 65536)
    before, seen = seen.split(word, 1)
    return before


def ask(line):
    # The word is put together by printf, so that its echo is not taken for it.
    os.write(terminal, line.encode() + b"\r")
    os.write(terminal, b"printf 'STEP%s\\n' END\r")
    return until(b"STEPEND").decode(errors="replace")


ask(":")
answers = {}
for name, line in steps:
    if line == "NEXT":
        said = answers["install"].split("or run this: ", 1)[1]
        line = said.splitlines()[0].strip()
    answers[name] = ask(line)
os.write(terminal, b"exit\r")
json.dump(answers, sys.stdout)
"#;

/// The output of a live interactive shell for each of these lines, by name.
fn live(home: &Home, shell: &str, steps: &[(&str, String)]) -> (Value, String) {
    let driver = home.sandbox.write("driver.py", DRIVER);
    let file = home.sandbox.write("steps.json", json!(steps).to_string());
    let shell = home.path("tools").join(shell);
    let call = home.sandbox.call(real_python(), []).argument(driver).argument(&shell).argument(file);
    let path = ["venv/bin", "node", "tools"].map(|name| home.path(name));
    let call = call
        .path(&path)
        .var("SHELL", &shell)
        .var("TERM", "xterm")
        .var("HISTFILE", "/dev/null")
        .var("XDG_DATA_HOME", home.path("data"));
    let run = call.run();
    run.exits(0);
    (serde_json::from_slice(&run.stdout).unwrap(), run.stdout())
}

/// Traps 6 and 8: one live shell, from before the installation to after it is taken away, and an
/// environment activated and deactivated in between.
#[test]
fn trap_06_and_08_one_live_shell_through_install_activate_deactivate_and_uninstall() {
    for shell in ["bash", "zsh", "fish"] {
        let home = Home::new();
        fs::create_dir(home.path("data")).unwrap();
        let other = home.sandbox.environment_in("other");
        other.is_broken();
        other.really("echo \"the other pcluster: $*\"");
        let (venv, fish) = (home.path("other"), if shell == "fish" { ".fish" } else { "" });
        let launcher = fs::read(venv.join("bin/pcluster")).unwrap();
        // Its scripts of activation are those of a real one.
        output(
            real_python(),
            &["-m", "venv", "--without-pip", home.path("v").to_str().unwrap()].map(AsRef::as_ref),
        );
        for name in ["activate", "activate.fish"] {
            let text = fs::read_to_string(home.path("v/bin").join(name)).unwrap();
            let text = text.replace(home.path("v").to_str().unwrap(), venv.to_str().unwrap());
            home.sandbox.write(venv.join("bin").join(name), text);
        }
        let install = format!("sh '{}'", home.path("install.sh").display());
        let build = "pcluster build-image --image-configuration image.yaml --image-id my-image".to_owned();
        let version = "pcluster version".to_owned();
        let steps = [
            ("before", version.clone()),
            ("install", format!("{install} --binary '{}'", home.path("built").display())),
            ("activate-shim", "NEXT".into()),
            ("version", version.clone()),
            ("guarded", build.clone()),
            ("activate", format!(". '{}{fish}'", venv.join("bin/activate").display())),
            ("other-version", version.clone()),
            ("other-guarded", build.clone()),
            ("where", "pcluster preflight where".into()),
            ("deactivate", "deactivate".into()),
            ("version-again", version.clone()),
            ("guarded-again", build.clone()),
            ("uninstall", format!("{install} --uninstall")),
            ("version-after", version.clone()),
            ("build-after", build.clone()),
            (
                "rehash",
                if shell == "fish" { "functions -e pcluster" } else { "unset -f pcluster; hash -r" }.into(),
            ),
            ("version-rehashed", version),
            ("build-rehashed", build),
        ];
        let (answers, all) = live(&home, shell, &steps);
        let says = |step: &str, text: &str| {
            let answer = answers[step].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                answer.contains(text),
                "{shell}: {step} has no {text:?}:
{all}"
            );
        };
        for step in ["before", "version", "version-again", "version-after", "version-rehashed"] {
            says(step, "the real pcluster: version");
        }
        for step in ["guarded", "other-guarded", "guarded-again"] {
            says(step, "pcluster-shim stopped build-image");
        }
        for step in ["build-after", "build-rehashed"] {
            says(step, "the real pcluster: build-image");
        }
        says("other-version", "the other pcluster: version");
        says("where", "guards the environment itself");
        says("where", &format!("real {}", venv.join("bin/pcluster").display()));
        assert_eq!(fs::read(venv.join("bin/pcluster")).unwrap(), launcher);
        home.is_as_before(&home.uninstall());
    }
}

/// Completion in live shells: the shim's own command is completed under both its names, and
/// everything else as files, as without the shim.
#[test]
fn completion_in_live_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let home = Home::new();
        fs::create_dir(home.path("data")).unwrap();
        home.install();
        let steps = [
            ("command", "pcluster preflight wh\t"),
            ("own name", "pcluster-preflight wh\t"),
            ("option", "pcluster preflight advisories --form\t js\t"),
            ("own option", "pcluster-preflight advisories --form\t js\t"),
            ("advisory", "pcluster preflight advisories marsh\t"),
            ("after options", "pcluster preflight -q --color never wh\t"),
            ("word", "pcluster prefl\t where"),
            ("file", "pcluster imag\t"),
            ("later file", "pcluster create-cluster -c imag\t"),
            ("file of preflight", "pcluster preflight template imag\t"),
        ];
        let (answers, all) = live(&home, shell, &steps.map(|(name, line)| (name, line.to_owned())));
        let says = |step: &str, text: &str| {
            let answer = answers[step].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                answer.contains(text),
                "{shell}: {step} has no {text:?}:
{all}"
            );
        };
        for step in ["command", "own name", "word"] {
            says(step, "on PATH ");
        }
        for step in ["option", "own option"] {
            says(step, "\"schemaVersion\": 1");
        }
        assert!(!answers["after options"].as_str().unwrap().contains("unrecognized"), "{shell}:\n{all}");
        says("advisory", "marshmallow-4");
        says("file", "the real pcluster: image.yaml");
        says("later file", "the real pcluster: create-cluster -c image.yaml");
        says("file of preflight", "image.yaml");
    }
}

/// The page is well formed, and `man` finds it through PATH alone.
#[test]
fn the_manual_page_is_installed() {
    let home = Home::new();
    home.install();
    let page = fs::read_to_string(home.prefix().join("share/man/man1/pcluster-preflight.1")).unwrap();
    for line in [
        ".SH COMMANDS",
        ".SS \"fix [ID]...\"",
        ".SS \"template FILE\"",
        ".SH \"OPTIONS OF EVERY COMMAND\"",
        ".B PCLUSTER_SHIM_MODE",
        ".I $XDG_STATE_HOME/pcluster\\-shim",
        ".SH EXAMPLES",
    ] {
        assert!(page.lines().any(|own| own == line), "{line}:\n{page}");
    }
    assert!(!page.contains("FORMAT>\\fR\n.SS"), "options that all commands have are described once");
}

/// install.sh on one environment in place.
#[track_caller]
fn in_place(home: &Home, more: &[&str]) {
    let venv = home.path("venv");
    let call = home.installs_in("dash", ["--venv", venv.to_str().unwrap()]);
    more.iter().fold(call, |call, word| call.argument(*word)).run().exits(0).is_silent();
}

/// In place the launcher has the name and the directory that it has without the shim, as far as usage
/// texts, `sys.path` and launchers that search beside themselves depend on them.
#[test]
fn in_place_the_launcher_works_as_before_and_comes_back_byte_for_byte() {
    let python = real_python().display().to_string();
    let beside = r#"#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"#;
    let trampoline = format!("#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n");
    let shebang = format!("#!{python}\n");
    let shows = "import os, sys\nprint(os.path.basename(sys.argv[0]), sys.path[0], *sys.argv[1:])\n";
    for (installer, head) in SHELLS.into_iter().zip([beside, &trampoline, &shebang]) {
        let home = Home::new();
        fs::remove_file(home.path("venv/bin/python")).unwrap();
        home.sandbox.link("venv/bin/python", &python);
        let launcher = format!("{head}# from pcluster.cli.entrypoint import main\n{shows}");
        home.sandbox.script("venv/bin/pcluster", launcher);
        let home = Home { before: home.files(), ..home };
        let call = |program: &str| {
            home.sandbox.call(home.path(program), ["version"]).path(&home.sandbox.search_path()[1..])
        };
        let direct = call("venv/bin/pcluster").run();
        direct.exits(0).holds(direct.stdout().starts_with("pcluster /"), "its name");
        let directory = home.path("venv").display().to_string();
        let install = ["--venv", &directory, "--binary", &home.built];
        for _ in 0..2 {
            let run = home.installs_in(installer, install).run();
            run.exits(0).is_silent().stdout_matches("venv-install.txt");
        }
        // Called by its path, by its name, and by a link to it.
        call("venv/bin/pcluster").run().exits(0).prints(&direct.stdout()).is_silent();
        home.call("bash", ["-c", "cd / && pcluster version"]).run().exits(0).prints(&direct.stdout());
        home.sandbox.link("home/linked", home.path("venv/bin/pcluster"));
        call("home/linked").run().exits(0).prints(&direct.stdout());
        fs::remove_file(home.path("home/linked")).unwrap();
        let uninstall = ["--uninstall", "--venv", &directory];
        let run = home.installs_in(installer, uninstall).run();
        run.exits(0).is_silent().stdout_matches("venv-uninstall.txt");
        home.is_as_before(&run);
        let run = home.installs_in(installer, uninstall).run();
        run.exits(0).is_silent().stdout_matches("venv-uninstall-again.txt");
        home.is_as_before(&run);
    }
}

/// build-image is guarded in place, whatever else is on PATH; `where` says so.
#[test]
fn in_place_the_environment_is_guarded() {
    let home = Home::new();
    in_place(&home, &["--binary", &home.built]);
    let build = "pcluster build-image --image-configuration image.yaml --image-id my-image";
    let run = home.call("dash", ["-c", build]).run();
    run.exits(1).holds(run.stdout().contains("pcluster-shim stopped build-image"), "it is stopped");
    let run = home.call("dash", ["-c", "pcluster preflight where"]).run();
    run.exits(0).is_silent().stdout_matches("where-in-place.txt");
    let run = home.call("dash", ["-c", "pcluster preflight where --format json"]).run();
    run.exits(0).is_silent().stdout_matches("where-in-place.json");
    // Another environment that is first on PATH is the one that is asked for.
    home.sandbox.environment_in("other").really("echo \"the other pcluster: $*\"");
    let both = ["other/bin", "venv/bin", "tools"].map(|name| home.path(name));
    home.call("dash", ["-c", "pcluster version"]).path(&both).run().prints("the other pcluster: version\n");
    // The shim of the user, and in the environment another one: that environment's launcher.
    home.install();
    let run = home.call("bash", ["-i", "-c", "pcluster version && pcluster preflight where"]).run();
    run.exits(0).stdout_matches("where-both.txt");
    let named = home.sandbox.call(home.prefix().join("bin/pcluster"), ["version"]).path(&both);
    let named = named.var("PCLUSTER_SHIM_REAL", home.path("venv/bin/pcluster"));
    named.run().exits(0).prints("the real pcluster: version\n");
    home.uninstall();
    in_place(&home, &["--uninstall"]);
}

/// An installation is checked for whether the shim is reached, not for whether the user has
/// switched it off.
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

/// Trap 27: what pip or uv writes over it later is newer, is used, is reported, and is guarded anew.
#[test]
fn trap_27_what_overwrites_the_shim_in_place_is_reported_and_renewed() {
    let home = Home::new();
    in_place(&home, &["--binary", &home.built]);
    let newer = "#!/bin/sh\n# from pcluster.cli.entrypoint import main\necho newer \"$@\"\n";
    fs::remove_file(home.path("venv/bin/pcluster")).unwrap();
    home.sandbox.script("venv/bin/pcluster", newer);
    let asked = || home.call("dash", ["-c", "pcluster-preflight where"]).run();
    asked().exits(1).stdout_matches("where-overwritten.txt");
    home.call("dash", ["-c", "pcluster version"]).run().exits(0).prints("newer version\n");
    // The command that `where` gives, with the files of the environment alone.
    let (own, venv) = (home.path("venv/bin/.pcluster-shim/install.sh"), home.path("venv"));
    let renew = [own.to_str().unwrap(), "--venv", venv.to_str().unwrap()];
    home.call("dash", renew).run().exits(0).is_silent();
    asked().exits(0);
    home.call("dash", ["-c", "pcluster version"]).run().exits(0).prints("newer version\n");
    // Removed by pip, then uninstalled: nothing old comes back.
    fs::remove_file(home.path("venv/bin/pcluster")).unwrap();
    asked().exits(127).stdout_matches("where-removed.txt");
    in_place(&home, &["--uninstall"]);
    for left in ["pcluster", "pcluster.real", "pcluster-preflight", ".pcluster-shim"] {
        assert!(home.path("venv/bin").join(left).symlink_metadata().is_err(), "{left}");
    }
    // The shim of the user is in a directory of its own, which no other installer writes into.
    home.install();
    home.sandbox.script("venv/bin/pcluster", newer);
    home.call("bash", ["-i", "-c", "pcluster preflight where -q"]).run().exits(0);
}

/// The launcher that it would put back is gone, or something of the user's is in the way.
#[test]
fn in_place_nothing_is_lost_where_files_are_not_as_expected() {
    let home = Home::new();
    let venv = home.path("venv").display().to_string();
    in_place(&home, &["--binary", &home.built]);
    fs::remove_file(home.path("venv/bin/pcluster.real")).unwrap();
    let run = home.installs_in("dash", ["--uninstall", "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-no-launcher-uninstall.txt");
    let run = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-no-launcher.txt");
    let home = Home::new();
    let venv = home.path("venv").display().to_string();
    home.sandbox.write("venv/bin/pcluster.real", "theirs");
    let home = Home { before: home.files(), ..home };
    let run = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-in-the-way.txt");
    home.is_as_before(&run);
}

/// Another installation comes in between the look at the launcher and its copy: the launcher is not lost.
#[test]
fn in_place_another_installation_at_the_same_time_keeps_the_launcher() {
    let home = Home::new();
    let launcher = fs::read(home.path("venv/bin/pcluster")).unwrap();
    let venv = home.path("venv").display().to_string();
    let (real, script) = (on_this_machine("cp"), home.path("install.sh"));
    let tool = home.path("tools/cp");
    fs::remove_file(&tool).unwrap();
    let other = format!("{} --binary {} --venv {venv}", script.display(), home.built);
    let (cp, real, log) = (tool.display(), real.display(), home.path("other"));
    let text = format!(
        "#!/bin/sh\nrm {cp}\nln -s {real} {cp}\nsh {other} >{} 2>&1\nexec {real} \"$@\"\n",
        log.display()
    );
    home.sandbox.script("tools/cp", text);
    let run = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]).run();
    run.exits(0).is_silent();
    let said = fs::read_to_string(home.path("other")).unwrap();
    assert!(said.starts_with("guarded "), "{said}");
    assert_eq!(fs::read(home.path("venv/bin/pcluster.real")).unwrap(), launcher);
    in_place(&home, &["--uninstall"]);
    home.is_as_before(&run);
    // Where it was lost nevertheless, an uninstallation says so and changes nothing.
    in_place(&home, &["--binary", &home.built]);
    fs::copy(home.path("venv/bin/pcluster"), home.path("venv/bin/pcluster.real")).unwrap();
    let run = home.installs_in("dash", ["--uninstall", "--venv", &venv]).run();
    run.exits(1).prints("").stderr_matches("venv-no-launcher-uninstall.txt");
}

/// What a killed run has left goes, whether or not it had come to its end.
#[test]
fn in_place_what_a_killed_run_left_is_removed() {
    let home = Home::new();
    for finished in [false, true] {
        if finished {
            in_place(&home, &["--binary", &home.built]);
        } else {
            fs::create_dir(home.path("venv/bin/.pcluster-shim")).unwrap();
        }
        for name in ["pcluster", "pcluster.real", "pcluster-preflight", ".pcluster-shim/install.sh"] {
            home.sandbox.write(format!("venv/bin/{name}.pcluster-shim-new.12"), "half");
        }
        let venv = home.path("venv").display().to_string();
        let run = home.installs_in("dash", ["--uninstall", "--venv", &venv]).run();
        run.exits(0);
        home.is_as_before(&run);
    }
}

/// The installation is whole, and the reason why nothing can be said of it is the configuration's.
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

/// Every pcluster of the environment would fail, so the launcher is put back.
#[test]
fn in_place_where_the_launcher_is_not_found_it_is_put_back() {
    let home = Home::new();
    let venv = home.path("venv").display().to_string();
    let launcher = fs::read(home.path("venv/bin/pcluster")).unwrap();
    let call = home.installs_in("dash", ["--binary", &home.built, "--venv", &venv]);
    let run = call.var("PCLUSTER_SHIM_REAL", "/absent/pcluster").run();
    run.exits(1).stderr_matches("in-place-put-back.txt");
    assert_eq!(fs::read(home.path("venv/bin/pcluster")).unwrap(), launcher);
    assert!(!home.path("venv/bin/pcluster.real").exists());
}

/// A reader that has seen enough, as `head` has, does not end it half-way.
#[test]
fn a_reader_that_goes_away_stops_nothing() {
    let home = Home::new();
    let line = format!("{} --binary {} | :", home.path("install.sh").display(), home.built);
    home.call("dash", ["-c", &line]).run().exits(0).is_silent();
    assert_eq!(home.lines_in("home/.bashrc"), 1);
    assert!(home.prefix().join("env").is_file());
}

/// Installations at the same time may each have added the line.
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

/// Trap 26: a hundred calls while the shim is exchanged without a pause: none fails.
#[test]
fn trap_26_the_shim_is_replaced_while_it_runs() {
    let home = Home::new();
    home.install();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (home, done) = (&home, &done);
        let replacing = scope.spawn(move || {
            let mut times = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                home.installs_in("dash", ["--no-modify-path", "--binary", &home.built]).run().exits(0);
                times += 1;
            }
            times
        });
        let path = [home.prefix().join("bin"), home.path("venv/bin"), home.path("node"), home.path("tools")];
        let shim = home.prefix().join("bin/pcluster");
        let runs: Vec<_> =
            (0..100).map(|_| home.sandbox.call(&shim, ["version"]).path(&path).run()).collect();
        // Before any assertion, which would leave the other thread running for ever.
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        for run in runs {
            run.exits(0).prints("the real pcluster: version\n").is_silent();
        }
        assert!(replacing.join().unwrap() > 1, "it was replaced meanwhile");
    });
}

/// The program itself is the installer, under either of its names.
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

/// What a wheel has put into an environment stays the wheel's.
#[test]
fn a_preflight_that_a_wheel_has_installed_stays() {
    let home = Home::new();
    let venv = home.path("venv");
    let preflight = venv.join("bin/pcluster-preflight");
    fs::copy(small_binary(), &preflight).unwrap();
    let record = "lib/python3.9/site-packages/pcluster_preflight-0.1.0.dist-info/RECORD";
    home.sandbox.write(format!("venv/{record}"), "../../../bin/pcluster-preflight,sha256=x,1\n");
    let call = |arguments: &[&str]| {
        let call = home.sandbox.call(&preflight, []).path(&home.with_busybox());
        ["install", "--venv", venv.to_str().unwrap()]
            .iter()
            .chain(arguments)
            .fold(call, |call, argument| call.argument(*argument))
            .run()
    };
    for _ in 0..2 {
        call(&[]).exits(0).is_silent();
    }
    assert!(venv.join("bin/pcluster.real").is_file());
    call(&["--uninstall"]).exits(0).is_silent();
    assert_eq!(fs::read(&preflight).unwrap(), fs::read(small_binary()).unwrap());
    assert!(!venv.join("bin/pcluster.real").exists());
    // Without the wheel it is in the way of the first call, and its own from then on.
    fs::remove_file(venv.join(record)).unwrap();
    let run = home.sandbox.call(home.path("tools/dash"), []).path(&home.with_busybox());
    let (script, built) = (home.path("install.sh"), home.path("built"));
    let all =
        [script.to_str().unwrap(), "--venv", venv.to_str().unwrap(), "--binary", built.to_str().unwrap()];
    all.iter().fold(run, |call, argument| call.argument(*argument)).run().exits(1);
}
