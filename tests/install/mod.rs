//! install.sh in dash, bash and busybox sh, for users of bash, zsh, fish and dash. An uninstall leaves
//! nothing behind.
//!
//! Debian packages that this module and `traps` need in addition to a C compiler, python3 and strace:
//!
//!     apt-get install bash dash busybox zsh fish shellcheck shfmt util-linux binutils

mod in_place; // the shim in the place of an environment's launcher (`--venv`)
mod interrupted; // killed runs of install.sh, a truncated install.sh, and calls while the shim is replaced
mod live_shells; // installation and uninstallation while a shell is running; completion; the manual page
mod program; // lints, a checkout, the program as its own installer, and settings that install.sh tolerates
mod refused; // places and calls that are refused, with nothing written
mod startup_files; // the line in startup files puts the shim first; an uninstall removes the line
mod uninstall; // only the shim's own files are removed, including those of older versions and of repairs

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::machine::{on_this_machine, output};
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

/// The binary under test without its debugging symbols, which are most of the file.
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

/// A user's home: an environment with a pcluster, and startup files that set PATH as users' files do.
pub(crate) struct Home {
    pub(crate) sandbox: Sandbox,
    /// The path of a built shim, for `--binary`.
    built: String,
    before: BTreeMap<PathBuf, Vec<u8>>,
}

/// The shells that run install.sh.
const SHELLS: [&str; 3] = ["dash", "bash", "busybox"];

/// Startup files: a path below the sandbox, and the end of the file's content.
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

    /// A call of any program, as this user makes it. The shim that each sandbox has is not on PATH.
    pub(crate) fn call<const N: usize>(&self, program: &str, arguments: [&str; N]) -> Call {
        let path = ["venv/bin", "node", "tools"].map(|name| self.path(name));
        let shell = self.path("tools/bash");
        let call = self.sandbox.call(self.path("tools").join(program), arguments).path(&path);
        let call = call.var("SHELL", shell);
        // fish writes its history below XDG_DATA_HOME. By default, the history would be among the user's
        // files, and the tests compare these files.
        if program == "fish" { call.var("XDG_DATA_HOME", self.path("data")) } else { call }
    }

    /// install.sh in one of [`SHELLS`]; if that is busybox, PATH has only busybox's tools.
    pub(crate) fn installs_in<const N: usize>(&self, shell: &str, arguments: [&str; N]) -> Call {
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
    pub(crate) fn install(&self) -> Run {
        let run = self.installs_in("dash", ["--binary", &self.built]).run();
        run.exits(0);
        run
    }

    #[track_caller]
    fn uninstall(&self) -> Run {
        let run = self.installs_in("dash", ["--uninstall"]).run();
        run.exits(0);
        run
    }

    /// Every file and directory of the user, with its content, except for those that shells write by
    /// themselves when they start.
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

    /// The user's files by their paths below the sandbox. In their content, the path of the sandbox
    /// is replaced.
    fn written(&self) -> BTreeMap<PathBuf, String> {
        let root = self.sandbox.root.to_str().unwrap();
        let below = |(path, content): (PathBuf, Vec<u8>)| {
            let path = path.strip_prefix(root).unwrap().to_owned();
            (path, String::from_utf8_lossy(&content).replace(root, "SANDBOX"))
        };
        self.files().into_iter().map(below).collect()
    }

    /// Asserts that the user's files are the same as before, byte for byte.
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

/// Ways to start a shell so that it reads a startup file. A bash or dash that runs a script reads none: it
/// gets the PATH of the shell that starts it.
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

/// Makes the call as a user who is not root, because permission bits do not stop root.
fn as_other_user(home: &Home, call: Call) -> Call {
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

/// Runs install.sh with `--venv` on the home's environment.
#[track_caller]
fn in_place(home: &Home, more: &[&str]) {
    let venv = home.path("venv");
    let call = home.installs_in("dash", ["--venv", venv.to_str().unwrap()]);
    more.iter().fold(call, |call, word| call.argument(*word)).run().exits(0).is_silent();
}
