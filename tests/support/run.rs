//! One run of a program in a sandbox, and assertions on it that show all of it when they fail.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::support::machine::spawn;
use crate::support::sandbox::Sandbox;
use crate::support::snapshots;

/// Limit after which a run counts as hung, and the test fails with its details.
const MAX_RUN_TIME: Duration = Duration::from_secs(60);

/// A program with its arguments and environment, to be run.
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
    pub(crate) fn new(
        sandbox: &'a Sandbox,
        program: PathBuf,
        arguments: Vec<OsString>,
        variables: BTreeMap<OsString, OsString>,
    ) -> Self {
        Self { sandbox, program, arguments, variables, directory: sandbox.path("work"), stdin: Vec::new() }
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

    /// This call, made by another program: `sh -c 'exec "$@"' sh PROGRAM …`.
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
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(&self.variables)
            .current_dir(&self.directory)
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
                None if started.elapsed() > MAX_RUN_TIME => {
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
        assert!(!hung, "it hangs\n{}", run.details());
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
    fn details(&self) -> String {
        let call = &self.call;
        let mut details = format!("--- command: {}", call.program.display());
        for argument in &call.arguments {
            let _ = write!(details, " '{}'", argument.display());
        }
        let _ = writeln!(details, "\n--- in {}\n--- environment:", call.directory.display());
        for (name, value) in &call.variables {
            let _ = writeln!(details, "{}={}", name.display(), value.display());
        }
        let _ = write!(details, "--- {}\n--- stdout:\n{}", self.status, self.stdout());
        let _ = write!(details, "--- stderr:\n{}--- the fakes' log:\n", self.stderr());
        let _ = writeln!(details, "{}", call.sandbox.log().join("\n"));
        let _ = writeln!(details, "--- sandbox:\n{}", call.sandbox.tree(""));
        details
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    #[track_caller]
    pub(crate) fn holds(&self, condition: bool, what: &str) -> &Self {
        assert!(condition, "{what}\n{}", self.details());
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

    /// Asserts another run's stdout, but for what differs from run to run.
    #[track_caller]
    pub(crate) fn prints_like(&self, other: &Run) -> &Self {
        let redacted = |run: &Run| snapshots::redacted(&run.stdout(), self.call.sandbox);
        let same = redacted(self) == redacted(other);
        self.holds(same, &format!("expected stdout as in\n{}", other.stdout()))
    }

    /// Asserts that stderr is empty.
    #[track_caller]
    pub(crate) fn is_silent(&self) -> &Self {
        self.holds(self.stderr.is_empty(), "expected nothing on stderr")
    }

    /// Asserts that stderr has nothing, or if it took long, only that it waited.
    #[track_caller]
    pub(crate) fn says_at_most_that_it_waits(&self) -> &Self {
        let stderr = self.stderr();
        let is_wait = |line: &str| line.starts_with("pcluster-shim: waiting for ");
        self.holds(
            stderr.lines().count() <= 1 && stderr.lines().all(is_wait),
            "expected nothing else on stderr",
        )
    }

    /// Asserts exactly one line on stderr, with the shim's prefix and this text in it.
    #[track_caller]
    pub(crate) fn warns_once(&self, text: &str) -> &Self {
        self.prefixed();
        self.holds(self.stderr().lines().count() == 1, "expected one line on stderr");
        self.holds(self.stderr().contains(text), &format!("expected {text:?} on stderr"))
    }

    /// Asserts that every line of stderr begins as the contract says.
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
        snapshots::matches(snapshot, text, self.call.sandbox, || self.details());
    }
}
