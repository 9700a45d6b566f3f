//! The one harness: a sandbox of HOME, PATH, XDG directories and TMPDIR; one run of a program in
//! it; assertions that print the whole scene when they fail; snapshots of what users see.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use snapbox::assert::Action;
use snapbox::data::DataFormat;
use snapbox::{Assert, Data};
use tempfile::TempDir;

use crate::support::fakes::real_python;

/// The binary under test, as cargo built it. What is run is a sandbox's [`Sandbox::binary`].
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pcluster");

/// The binary under test, below a sandbox.
const PROGRAM: &str = "program/pcluster";

/// Past it a run hangs, and the test fails with the scene instead.
const HANGS: Duration = Duration::from_secs(60);

/// What the fake scripts use; nothing else of this machine is on the sandbox's PATH.
const TOOLS: [&str; 9] = ["sh", "bash", "env", "cat", "sleep", "dirname", "realpath", "readlink", "nohup"];

/// Every sandbox's path has this length, so that no snapshot wraps its lines otherwise.
const ROOT_LENGTH: usize = 40;

/// A world of its own for one test.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) root: PathBuf,
    directory: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
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
        for tool in TOOLS {
            symlink(on_this_machine(tool), root.join("tools").join(tool)).unwrap();
        }
        fs::write(root.join("log"), "").unwrap();
        Self { root, directory }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The binary under test. Its path is as long as every other sandbox's, wherever the checkout
    /// lies: messages name it, and are wrapped by its length.
    pub(crate) fn binary(&self) -> PathBuf {
        self.path(PROGRAM)
    }

    pub(crate) fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn script(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
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

    /// What the fakes wrote down: which of them was started, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap()).lines().map(str::to_owned).collect()
    }

    pub(crate) fn clear_log(&self) {
        fs::write(self.path("log"), "").unwrap();
    }

    /// A call of the shim by the name `pcluster`.
    pub(crate) fn pcluster<const N: usize>(&self, arguments: [&str; N]) -> Call<'_> {
        self.call(self.path("shim/pcluster"), arguments)
    }

    pub(crate) fn call<const N: usize>(&self, program: impl Into<PathBuf>, arguments: [&str; N]) -> Call<'_> {
        let variables = [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_STATE_HOME", "state"),
            ("TMPDIR", "tmp"),
        ];
        let variables = variables.map(|(name, below)| (name.into(), self.path(below).into()));
        Call {
            sandbox: self,
            program: program.into(),
            arguments: arguments.map(OsString::from).into(),
            variables: variables.into(),
            directory: self.path("work"),
            stdin: Vec::new(),
        }
        .path(&self.search_path())
    }

    /// Everything below the sandbox but the tools and the binary, a line each.
    pub(crate) fn tree(&self, below: &str) -> String {
        let mut text = String::new();
        tree(&self.path(below), &self.root, &mut text);
        text
    }

    /// No scratch directory was left.
    #[track_caller]
    pub(crate) fn has_no_scratch(&self) {
        assert_eq!(self.tree("tmp"), "", "something is left in TMPDIR");
    }

    /// Keeps the sandbox for a look at it: for debugging a test only.
    #[expect(dead_code, reason = "called while a test is being written")]
    pub(crate) fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

/// A hard link. Where the sandbox lies on another file system it is a copy, made by `cp`: a file
/// that this process itself has open for writing cannot be run while another test's child, forked
/// in that moment, still holds it.
fn place_binary(path: &Path) {
    if fs::hard_link(BINARY, path).is_err() {
        output(&on_this_machine("cp"), &[BINARY.as_ref(), path.as_os_str()]);
    }
}

fn tree(directory: &Path, root: &Path, text: &mut String) {
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
            tree(&path, root, text);
        }
    }
}

/// The absolute path of a program of this machine.
pub(crate) fn on_this_machine(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("this suite needs {name} on PATH"))
}

/// One run to come.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    sandbox: &'a Sandbox,
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
    directory: PathBuf,
    stdin: Vec<u8>,
}

impl<'a> Call<'a> {
    pub(crate) fn var(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.variables.remove(OsStr::new(name));
        self
    }

    pub(crate) fn path(self, directories: &[PathBuf]) -> Self {
        let mut joined = OsString::new();
        for (index, directory) in directories.iter().enumerate() {
            joined.push(if index == 0 { "" } else { ":" });
            joined.push(directory);
        }
        self.var("PATH", joined)
    }

    /// One more argument, of any bytes.
    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    pub(crate) fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// The same call, made by another program: `sh -c 'exec "$@"' sh PROGRAM …`.
    pub(crate) fn under(mut self, program: impl Into<PathBuf>, first: &[&str]) -> Self {
        let call = std::mem::replace(&mut self.program, program.into());
        let arguments = std::mem::take(&mut self.arguments);
        self.arguments = first.iter().map(OsString::from).chain([call.into()]).chain(arguments).collect();
        self
    }

    #[track_caller]
    pub(crate) fn run(self) -> Run<'a> {
        let streams = TempDir::new().unwrap();
        let [stdin, stdout, stderr] = ["stdin", "stdout", "stderr"].map(|name| streams.path().join(name));
        fs::write(&stdin, &self.stdin).unwrap();
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(&self.variables)
            .current_dir(&self.directory)
            .stdin(File::open(&stdin).unwrap())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.program.display()));
        let pid = child.id();
        let started = Instant::now();
        let (status, hung) = loop {
            match child.try_wait().unwrap() {
                Some(status) => break (status, false),
                None if started.elapsed() > HANGS => {
                    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                    break (child.wait().unwrap(), true);
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let run = Run {
            status,
            pid,
            stdout: fs::read(&stdout).unwrap(),
            stderr: fs::read(&stderr).unwrap(),
            call: self,
        };
        assert!(!hung, "it hangs\n{}", run.scene());
        run
    }
}

/// One run that has ended.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) status: ExitStatus,
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    call: Call<'a>,
}

impl Run<'_> {
    fn scene(&self) -> String {
        let call = &self.call;
        let mut scene = format!("--- command: {}", call.program.display());
        for argument in &call.arguments {
            let _ = write!(scene, " '{}'", argument.display());
        }
        let _ = writeln!(scene, "\n--- in {}\n--- environment:", call.directory.display());
        for (name, value) in &call.variables {
            let _ = writeln!(scene, "{}={}", name.display(), value.display());
        }
        let _ = write!(scene, "--- {}\n--- stdout:\n{}", self.status, self.stdout());
        let _ = write!(scene, "--- stderr:\n{}--- the fakes' log:\n", self.stderr());
        let _ = writeln!(scene, "{}", call.sandbox.log().join("\n"));
        let _ = writeln!(scene, "--- sandbox:\n{}", call.sandbox.tree(""));
        scene
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    #[track_caller]
    pub(crate) fn holds(&self, condition: bool, what: &str) -> &Self {
        assert!(condition, "{what}\n{}", self.scene());
        self
    }

    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        self.holds(self.status.code() == Some(code), &format!("expected exit status {code}"))
    }

    #[track_caller]
    pub(crate) fn dies_by(&self, signal: i32) -> &Self {
        self.holds(self.status.signal() == Some(signal), &format!("expected death by signal {signal}"))
    }

    #[track_caller]
    pub(crate) fn prints(&self, stdout: &str) -> &Self {
        self.holds(self.stdout() == stdout, &format!("expected stdout {stdout:?}"))
    }

    /// The same text as another run, but for what differs from run to run.
    #[track_caller]
    pub(crate) fn prints_like(&self, other: &Run) -> &Self {
        let root = &self.call.sandbox.root;
        let same = redacted(&self.stdout(), root) == redacted(&other.stdout(), root);
        self.holds(same, &format!("expected stdout as in\n{}", other.stdout()))
    }

    /// stderr is empty.
    #[track_caller]
    pub(crate) fn is_silent(&self) -> &Self {
        self.holds(self.stderr.is_empty(), "expected nothing on stderr")
    }

    /// Exactly one line on stderr, with the shim's prefix and this text in it.
    #[track_caller]
    pub(crate) fn warns_once(&self, text: &str) -> &Self {
        self.prefixed();
        self.holds(self.stderr().lines().count() == 1, "expected one line on stderr");
        self.holds(self.stderr().contains(text), &format!("expected {text:?} on stderr"))
    }

    /// Every line of stderr begins as the contract says.
    #[track_caller]
    pub(crate) fn prefixed(&self) -> &Self {
        let prefixed = self.stderr().lines().all(|line| line.starts_with("pcluster-shim: "));
        self.holds(prefixed, "every line of stderr has to begin with `pcluster-shim: `")
    }

    #[track_caller]
    pub(crate) fn stdout_matches(&self, snapshot: &str) -> &Self {
        self.matches(snapshot, &self.stdout());
        self
    }

    #[track_caller]
    pub(crate) fn stderr_matches(&self, snapshot: &str) -> &Self {
        self.matches(snapshot, &self.stderr());
        self
    }

    #[track_caller]
    fn matches(&self, snapshot: &str, text: &str) {
        let text = redacted(text, &self.call.sandbox.root);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(snapshot);
        let assert = Assert::new().action_env("SNAPSHOTS").normalize_paths(false);
        let expected = Data::read_from(&file, Some(DataFormat::Text));
        let Err(difference) = assert.try_eq(Some(&snapshot), text.clone().into(), expected) else { return };
        if assert.selected_action() == Action::Overwrite {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
        } else {
            panic!("SNAPSHOTS=overwrite takes it over:\n{difference}\n{}", self.scene());
        }
    }
}

/// What differs from machine to machine, from run to run, and from release to release; and every
/// command that mends something, which is another test's business.
fn redacted(text: &str, root: &Path) -> String {
    let text = text.replace(root.join(PROGRAM).to_str().unwrap(), "[BINARY]");
    let text = text.replace(root.to_str().unwrap(), "[SANDBOX]");
    let text = text.replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
    let text = text.replace(real_python().to_str().unwrap(), "[PYTHON]");
    let mut lines: Vec<String> = Vec::new();
    let mut in_fix = false;
    for line in text.split_inclusive('\n') {
        if in_fix && line.starts_with("        ") {
            continue;
        }
        in_fix = is_fix_row(line);
        lines.push(redacted_line(line));
    }
    lines.concat()
}

/// The row of a finding; `fix` in a list of commands stands in a wider column.
fn is_fix_row(line: &str) -> bool {
    line.strip_prefix("  fix   ").is_some_and(|rest| !rest.starts_with(' '))
}

fn redacted_line(line: &str) -> String {
    let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
    let indent = &line[..line.len() - line.trim_start().len()];
    let line = if is_fix_row(line) {
        "  fix   [FIX]".to_owned()
    } else if line.trim_start().starts_with("\"durationMs\": ") {
        format!("{indent}\"durationMs\": [DURATION],")
    } else if line.trim_start().starts_with("\"command\": ") {
        format!("{indent}\"command\": \"[FIX]\"")
    } else if let Some((before, after)) = line.split_once("Fix: ") {
        let end = after.rfind('"').map_or("", |quote| &after[quote..]);
        format!("{before}Fix: [FIX]{end}")
    } else {
        without_duration(line).to_owned()
    };
    let random = ["pcluster-shim-", "pcluster-shim:", "environments/", "overlay-", "snapshot-"];
    random.into_iter().fold(line, |line, prefix| without_random(&line, prefix)) + end
}

/// Names of temporary directories and sentinels: what follows the prefix.
fn without_random(line: &str, prefix: &str) -> String {
    // A snapshot is called after a PID and a time.
    let more = if prefix == "snapshot-" { '-' } else { ':' };
    let random = |letter: char| letter.is_ascii_alphanumeric() || letter == more;
    let mut pieces = line.split(prefix);
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(|letter| !random(letter)).unwrap_or(piece.len());
        text += prefix;
        text += if end > 0 { "[RANDOM]" } else { "" };
        text += &piece[end..];
    }
    text
}

/// `  template   passed     0.4 s` is shown only where it took long.
fn without_duration(line: &str) -> &str {
    let Some(rest) = line.strip_suffix(" s") else { return line };
    let digits = rest.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    if digits.len() < rest.len() && digits.ends_with(' ') { digits.trim_end() } else { line }
}

/// Bytes that are no UTF-8.
pub(crate) fn not_utf8(before: &str) -> OsString {
    OsString::from_vec([before.as_bytes(), b"\xff"].concat())
}

/// A program of this machine, to its end, its stdout.
#[track_caller]
pub(crate) fn output(program: &Path, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{} {arguments:?}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
