//! One run of a program in a sandbox, and assertions that show the whole run if they fail.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::machine::{real_python, spawn};
use crate::support::sandbox::{log, tree};
use crate::support::snapshots;

/// Time limit of a run. A longer run counts as hung, and the test fails.
const MAX_RUN_TIME: Duration = Duration::from_secs(60);

/// How many lines a failed test shows about the files in its sandbox.
const MAX_TREE_LINES: usize = 200;

/// Python code that runs a program with its streams on a terminal of the given width, and prints what the
/// terminal shows, without control sequences.
const TERMINAL: &str = r#"
import fcntl, os, pty, re, struct, sys, termios

pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, int(sys.argv[1]), 0, 0))
    os.execvp(sys.argv[2], sys.argv[2:])
shown = b""
while True:
    try:
        part = os.read(terminal, 65536)
    except OSError:
        break
    if not part:
        break
    shown += part
shown = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown.replace(b"\r\n", b"\n"))
lines = [line.rsplit(b"\r", 1)[-1] for line in shown.split(b"\n")]
sys.stdout.buffer.write(b"\n".join(lines))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// A program with its arguments and environment, to be run.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The sandbox's directory.
    root: PathBuf,
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
    directory: PathBuf,
    stdin: Vec<u8>,
    limit: Duration,
    /// Lines of stderr that begin with this are moved to [`Run::aside`].
    aside: Option<&'static str>,
}

impl Call {
    pub(crate) fn new(
        root: PathBuf,
        program: PathBuf,
        arguments: Vec<OsString>,
        variables: BTreeMap<OsString, OsString>,
    ) -> Self {
        let directory = root.join("work");
        let (stdin, limit, aside) = (Vec::new(), MAX_RUN_TIME, None);
        Self { root, program, arguments, variables, directory, stdin, limit, aside }
    }

    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Moves the lines of stderr that begin with this to [`Run::aside`].
    pub(crate) fn keeping_aside(mut self, begins: &'static str) -> Self {
        self.aside = Some(begins);
        self
    }

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

    /// This call, made by another program, for example `sh -c 'exec "$@"' sh PROGRAM …`.
    pub(crate) fn under(mut self, program: impl Into<PathBuf>, first: &[&str]) -> Self {
        let call = std::mem::replace(&mut self.program, program.into());
        let arguments = std::mem::take(&mut self.arguments);
        self.arguments = first.iter().map(OsString::from).chain([call.into()]).chain(arguments).collect();
        self
    }

    /// This call with its streams on a terminal. `redirections` is sh code, such as `2>/dev/null`, that sends
    /// some streams elsewhere.
    pub(crate) fn on_terminal(self, columns: &str, redirections: &str) -> Self {
        let sh = format!("exec \"$@\" {redirections}");
        let shell = self.root.join("tools/sh");
        let call = self.under(shell, &["-c", &sh, "sh"]);
        call.under(real_python(), &["-c", TERMINAL, columns]).var("TERM", "xterm")
    }

    /// The command, for tests that start the process themselves.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(&self.variables).current_dir(&self.directory);
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub(crate) fn run(self) -> Run {
        let streams = TempDir::new().unwrap();
        let [stdin, stdout, stderr] = ["stdin", "stdout", "stderr"].map(|name| streams.path().join(name));
        fs::write(&stdin, &self.stdin).unwrap();
        let mut command = self.command();
        command
            .stdin(File::open(&stdin).unwrap())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .process_group(0);
        let mut child = spawn(&mut command)
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.program.display()));
        let pid = child.id();
        let started = Instant::now();
        let (status, hung) = loop {
            match child.try_wait().unwrap() {
                Some(status) => break (status, false),
                None if started.elapsed() > self.limit => {
                    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                    break (child.wait().unwrap(), true);
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let (aside, stderr) = split(&fs::read(&stderr).unwrap(), self.aside);
        let run = Run { status, pid, stdout: fs::read(&stdout).unwrap(), stderr, aside, call: self };
        assert!(!hung, "it hangs\n{run}");
        run
    }
}

/// Separates the lines that begin with `begins` from the others.
fn split(stderr: &[u8], begins: Option<&str>) -> (Vec<String>, Vec<u8>) {
    let is_aside = |line: &&[u8]| begins.is_some_and(|begins| line.starts_with(begins.as_bytes()));
    let (aside, rest): (Vec<_>, Vec<_>) = stderr.split_inclusive(|byte| *byte == b'\n').partition(is_aside);
    let aside = aside.into_iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    (aside, rest.concat())
}

/// One run that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) aside: Vec<String>,
    call: Call,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = &self.call;
        write!(f, "--- command: {}", call.program.display())?;
        for argument in &call.arguments {
            write!(f, " '{}'", argument.display())?;
        }
        writeln!(f, "\n--- in {}\n--- environment:", call.directory.display())?;
        for (name, value) in &call.variables {
            writeln!(f, "{}={}", name.display(), value.display())?;
        }
        write!(f, "--- {}\n--- stdout:\n{}", self.status, self.stdout())?;
        write!(f, "--- stderr:\n{}--- the fakes' log:\n", self.stderr())?;
        writeln!(f, "{}\n--- sandbox:", log(&call.root).join("\n"))?;
        let tree = tree(&call.root, "");
        tree.lines().take(MAX_TREE_LINES).try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Run {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    #[track_caller]
    pub(crate) fn holds(&self, condition: bool, what: &str) -> &Self {
        assert!(condition, "{what}\n{self}");
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

    /// Asserts that stdout is the same as in another run, except for values that differ in every run.
    #[track_caller]
    pub(crate) fn prints_like(&self, other: &Run) -> &Self {
        let redacted = |run: &Run| snapshots::redacted(&run.stdout(), &self.call.root);
        let same = redacted(self) == redacted(other);
        self.holds(same, &format!("expected stdout as in\n{}", other.stdout()))
    }

    /// Asserts that no line of stdout is wider than `columns`, apart from single words, lines with a command
    /// in backquotes, and lines that contain one of `kept_whole`.
    #[track_caller]
    pub(crate) fn is_folded(&self, columns: usize, kept_whole: &[&str]) -> &Self {
        for line in self.stdout().lines() {
            let is_word = line.split_whitespace().count() == 1;
            let is_kept_whole =
                is_word || line.contains('`') || kept_whole.iter().any(|kept| line.contains(kept));
            self.holds(line.chars().count() <= columns || is_kept_whole, &format!("too wide: {line}"));
        }
        self
    }

    /// Asserts that stderr is empty.
    #[track_caller]
    pub(crate) fn is_silent(&self) -> &Self {
        self.holds(self.stderr.is_empty(), "expected nothing on stderr")
    }

    /// Asserts that stderr is empty, or has only the line that the shim prints if it waits long for a lock.
    #[track_caller]
    pub(crate) fn says_at_most_that_it_waits(&self) -> &Self {
        let stderr = self.stderr();
        let is_wait = |line: &str| line.starts_with("pcluster-shim: waiting for ");
        self.holds(
            stderr.lines().count() <= 1 && stderr.lines().all(is_wait),
            "expected nothing else on stderr",
        )
    }

    /// Asserts that stderr has exactly one line, which begins with the shim's prefix and contains this text.
    #[track_caller]
    pub(crate) fn warns_once(&self, text: &str) -> &Self {
        self.prefixed();
        self.holds(self.stderr().lines().count() == 1, "expected one line on stderr");
        self.holds(self.stderr().contains(text), &format!("expected {text:?} on stderr"))
    }

    /// Asserts that stderr has three lines: why strict mode stops the call, what that means, and what to do.
    /// One of the lines has to contain this text.
    #[track_caller]
    pub(crate) fn stops_unchecked(&self, text: &str) -> &Self {
        self.prefixed();
        self.holds(
            self.stderr().lines().count() == 3,
            "expected why, what it means and what to do on stderr",
        );
        self.holds(self.stderr().contains(text), &format!("expected {text:?} on stderr"))
    }

    /// Asserts that every line of stderr begins with the shim's prefix.
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
        snapshots::matches(snapshot, text, &self.call.root, || self.to_string());
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{self}"))
    }

    /// Asserts that status and output are the same as in another run, byte for byte, except for the memory
    /// addresses that Python prints for its functions: they differ in every run.
    #[track_caller]
    pub(crate) fn is_the_same_as(&self, other: &Self) {
        let parts = |run: &Self| (run.status, without_addresses(&run.stdout), without_addresses(&run.stderr));
        let same = parts(self) == parts(other);
        assert!(same, "two runs differ\n{self}\n=== the other\n{other}");
    }

    /// The messages in the JSON that the guard prints on stdout when it stops a call.
    #[track_caller]
    pub(crate) fn stop(&self) -> Vec<String> {
        self.exits(1);
        let stop = self.json();
        let errors = stop["configurationValidationErrors"].as_array();
        let errors = errors.unwrap_or_else(|| panic!("no errors are named\n{self}"));
        for error in errors {
            assert_eq!(error["level"], "ERROR", "{self}");
            assert!(error["type"].is_string() && error["message"].is_string(), "{self}");
        }
        errors.iter().map(|error| error["message"].as_str().unwrap().to_owned()).collect()
    }
}

/// Turns ` at 0x7f16c14895e0>` into ` at 0x>`.
pub(crate) fn without_addresses(output: &[u8]) -> Vec<u8> {
    const BEFORE: &[u8] = b" at 0x";
    let mut rest = output;
    let mut kept = Vec::new();
    while let Some(start) = rest.windows(BEFORE.len()).position(|window| window == BEFORE) {
        let (head, tail) = rest.split_at(start + BEFORE.len());
        kept.extend_from_slice(head);
        let digits = tail.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        rest = &tail[digits..];
    }
    kept.extend_from_slice(rest);
    kept
}
