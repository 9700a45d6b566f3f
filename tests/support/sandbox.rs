//! A sandbox of HOME, PATH, XDG directories and TMPDIR for one test.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::machine::{on_this_machine, output, write_program, write_script};
use crate::support::run::Call;
use crate::support::snapshots;

/// The binary under test, where cargo built it. Tests run [`Sandbox::binary`] instead.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pcluster");

/// The path of the binary under test, relative to a sandbox.
pub(crate) const PROGRAM: &str = "program/pcluster";

/// Programs that the fake scripts use; nothing else of this machine is on the sandbox's PATH.
const TOOLS: [&str; 9] = ["sh", "bash", "env", "cat", "sleep", "dirname", "realpath", "readlink", "nohup"];

/// Every sandbox's path has this length, so that messages are wrapped at the same places in every run.
const ROOT_LENGTH: usize = 40;

/// The directories of one test.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) root: PathBuf,
    directory: TempDir,
}

impl Sandbox {
    /// A sandbox with the programs that the fake scripts use, and with an empty log.
    pub(crate) fn new() -> Self {
        let new = Self::empty();
        for tool in TOOLS {
            symlink(on_this_machine(tool), new.path("tools").join(tool)).unwrap();
        }
        new.clear_log();
        new
    }

    /// A sandbox with only the directories and the binary.
    pub(crate) fn empty() -> Self {
        let base = std::env::temp_dir().canonicalize().unwrap();
        let base = if base.as_os_str().len() > 20 { Path::new("/tmp").canonicalize().unwrap() } else { base };
        let random = ROOT_LENGTH - base.as_os_str().len() - "/pcs-".len();
        let directory = tempfile::Builder::new().prefix("pcs-").rand_bytes(random).tempdir_in(base).unwrap();
        let root = directory.path().to_owned();
        for name in ["home", "config", "cache", "state", "tmp", "work", "shim", "program", "tools"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        place_binary(&root.join(PROGRAM));
        symlink(root.join(PROGRAM), root.join("shim/pcluster")).unwrap();
        Self { root, directory }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The binary under test.
    pub(crate) fn binary(&self) -> PathBuf {
        self.path(PROGRAM)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_program(&path, content.as_ref());
        path
    }

    pub(crate) fn script(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        write_script(&path, content);
        path
    }

    pub(crate) fn link(&self, name: impl AsRef<Path>, target: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, &path).unwrap();
        path
    }

    /// The default PATH: the shim first, then the environment, Node and the tools.
    pub(crate) fn search_path(&self) -> Vec<PathBuf> {
        ["shim", "venv/bin", "node", "tools"].map(|name| self.path(name)).into()
    }

    /// The fakes' log: a line for each start of a fake program, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        log(&self.root)
    }

    pub(crate) fn clear_log(&self) {
        fs::write(self.path("log"), "").unwrap();
    }

    /// A call of the shim by the name `pcluster`.
    pub(crate) fn pcluster<const N: usize>(&self, arguments: [&str; N]) -> Call {
        self.call(self.path("shim/pcluster"), arguments)
    }

    pub(crate) fn call<const N: usize>(&self, program: impl Into<PathBuf>, arguments: [&str; N]) -> Call {
        let variables = [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_STATE_HOME", "state"),
            ("TMPDIR", "tmp"),
        ];
        let variables: BTreeMap<OsString, OsString> =
            variables.map(|(name, below)| (name.into(), self.path(below).into())).into();
        let arguments = arguments.map(OsString::from).into();
        Call::new(self.root.clone(), program.into(), arguments, variables)
            .path(&self.search_path())
            .var("LANG", "C.UTF-8")
    }

    /// One line for each file and directory below this directory of the sandbox, except for the tools and
    /// the binary.
    pub(crate) fn tree(&self, below: &str) -> String {
        tree(&self.root, below)
    }

    /// Compares a snapshot with a text that a test has composed.
    #[track_caller]
    pub(crate) fn matches(&self, snapshot: &str, text: &str) {
        snapshots::matches(snapshot, text, &self.root, String::new);
    }

    /// Waits until no process locks a scratch directory. If a shim is killed just after it has forked a
    /// child, the child holds the shim's locks until the child's exec.
    pub(crate) fn wait_until_scratch_is_free(&self) {
        let is_held = |lock: PathBuf| fs::File::open(lock).is_ok_and(|lock| lock.try_lock_shared().is_err());
        let any_is_held = || {
            let entries = self.path("tmp").read_dir().into_iter().flatten().flatten();
            entries.map(|entry| entry.path().join("pcluster-shim.lock")).any(is_held)
        };
        while any_is_held() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Asserts that no scratch directory was left.
    #[track_caller]
    pub(crate) fn has_no_scratch(&self) {
        assert_eq!(self.tree("tmp"), "", "something is left in TMPDIR");
    }

    /// Keeps the directories after the test. Only for debugging.
    #[expect(dead_code, reason = "called while a test is being written")]
    pub(crate) fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

/// Makes a hard link to the binary. If the sandbox is on another file system, `cp` makes a copy. This process
/// does not write the copy itself, because another test could fork a child at that time. Until its exec, the
/// child would have the copy open for writing, and the copy could not be run (ETXTBSY).
fn place_binary(path: &Path) {
    if fs::hard_link(BINARY, path).is_err() {
        output(&on_this_machine("cp"), &[BINARY.as_ref(), path.as_os_str()]);
    }
}

/// The log of the fakes in a sandbox; empty if there is no log.
pub(crate) fn log(root: &Path) -> Vec<String> {
    let text = fs::read(root.join("log")).unwrap_or_default();
    let mut lines: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
    // Node and synthesis.py are started in parallel, so they can be logged in either order.
    for index in 1..lines.len() {
        if lines[index] == "node" && lines[index - 1].starts_with("synth") {
            lines.swap(index, index - 1);
        }
    }
    lines
}

/// One line for each file and directory below a directory of a sandbox, except for the tools and the binary.
pub(crate) fn tree(root: &Path, below: &str) -> String {
    let mut text = String::new();
    add_tree(&root.join(below), root, &mut text);
    text
}

fn add_tree(directory: &Path, root: &Path, text: &mut String) {
    let mut entries: Vec<_> = directory.read_dir().into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let shown = path.strip_prefix(root).unwrap().display();
        if ["tools", "program"].contains(&shown.to_string().as_str()) {
            continue;
        }
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let mode = metadata.permissions().mode() & 0o7777;
        let _ = match fs::read_link(&path) {
            Ok(target) => writeln!(text, "{shown} -> {}", target.display()),
            Err(_) if metadata.is_dir() => writeln!(text, "{shown}/ {mode:o}"),
            Err(_) => writeln!(text, "{shown} {mode:o} {} bytes", metadata.len()),
        };
        if metadata.is_dir() {
            add_tree(&path, root, text);
        }
    }
}

/// A text that begins with `before` and is not UTF-8.
pub(crate) fn not_utf8(before: &str) -> OsString {
    OsString::from_vec([before.as_bytes(), b"\xff"].concat())
}
