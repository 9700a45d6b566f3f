//! The only way to run a child process: in its own session, with limits on time and output, with stdout and
//! stderr kept, and with stdin from /dev/null or an empty pipe. If a signal arrives, the child is killed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Interrupted, describe_io};
use crate::system::scratch::Scratch;
use crate::system::signals::{Interrupts, in_own_session};
use crate::text::printable::flatten;

/// The interval at which we look for a signal while we wait for a child. The child's end is
/// noticed immediately.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// The usual limit for the output of a child: more than any answer needs. Without a limit, a child that
/// prints endlessly would fill the disk.
pub const MAX_OUTPUT: u64 = 32 << 20; // bytes

/// The status and the output of a child that ended by itself.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why a child gave no answer. The exit status of the child never becomes that of this program.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("cannot run {program}: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("{program} did not answer within {} s (PCLUSTER_SHIM_TIMEOUT sets the limit)", limit.as_secs())]
    TimedOut { program: PathBuf, limit: Duration, stderr: Vec<u8> },
    #[error("{program} printed more than {} MiB and was stopped", limit >> 20)]
    TooMuchOutput {
        program: PathBuf,
        /// In bytes.
        limit: u64,
    },
    #[error("{program} {}{}", ended(*status), last_line(stderr))]
    Failed { program: PathBuf, status: ExitStatus, stderr: Vec<u8> },
    #[error("{program} printed {} instead of the expected answer", beginning(stdout))]
    Malformed { program: PathBuf, stdout: Vec<u8> },
    /// There is no place for the child's files.
    #[error("cannot create a temporary directory: {}", describe_io(.0))]
    Scratch(io::Error),
    /// This signal arrived while the child ran.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// The number of characters of an output that a message quotes.
const MAX_QUOTED: usize = 200;

/// The beginning of an output, on one line.
fn beginning(output: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(output).chars().take(MAX_QUOTED).collect();
    match flatten(&text).trim() {
        "" => "nothing".into(),
        line => format!("`{line}`"),
    }
}

/// The last non-blank line of an output. In errors from Python and Node.js, this line is the most
/// informative one.
fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line: String = line.chars().take(MAX_QUOTED).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// One child to run.
#[derive(Debug)]
pub struct Child<'a> {
    pub program: &'a Path,
    pub arguments: Vec<OsString>,
    pub environment: Vec<Variable>,
    pub limit: Duration,
    /// The child is killed if both streams together exceed this number of bytes.
    pub max_output: u64,
}

/// An environment variable of a child: set, or removed if the value is `None`.
pub type Variable = (OsString, Option<OsString>);

/// A running child. If this value is dropped, the child is killed, together with everything that it
/// has started.
#[derive(Debug)]
pub struct Running {
    program: PathBuf,
    handle: duct::Handle,
    /// The process group of the child and of everything that it has started. The whole group is killed,
    /// because processes that the child leaves running must not outlive the check.
    group: Option<Pid>,
    limit: Duration,
    deadline: Instant,
    max_output: u64,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Waits for the child to end.
    ///
    /// # Errors
    /// Returns an error if the child takes too long, prints too much, or a signal arrives. If the child
    /// itself fails, that is not an error here: the caller has to check the exit status.
    pub fn wait(self) -> Result<Finished, ChildError> {
        let interrupts = Interrupts::caught();
        loop {
            let waited = self.handle.wait_timeout(SIGNAL_INTERVAL);
            interrupts.check()?;
            let spawn_error = |source| ChildError::Spawn { program: self.program.clone(), source };
            if let Some(output) = waited.map_err(spawn_error)? {
                let status = output.status;
                let (stdout, stderr) =
                    (read(&self.stdout, self.max_output), read(&self.stderr, self.max_output));
                return Ok(Finished { status, stdout, stderr });
            }
            if length(&self.stdout) + length(&self.stderr) > self.max_output {
                return Err(ChildError::TooMuchOutput {
                    program: self.program.clone(),
                    limit: self.max_output,
                });
            }
            if Instant::now() >= self.deadline {
                let (program, limit) = (self.program.clone(), self.limit);
                let stderr = read(&self.stderr, self.max_output);
                return Err(ChildError::TimedOut { program, limit, stderr });
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // An error means that no process is left in the group.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.handle.kill();
    }
}

impl Child<'_> {
    /// Runs the child to its end.
    pub fn run(self, scratch: &Scratch) -> Result<Finished, ChildError> {
        self.start(scratch)?.wait()
    }

    /// Runs the child to its end. Its stdin is a pipe that closes when this process ends, even if SIGKILL
    /// ends it.
    pub fn run_tied(self, scratch: &Scratch) -> Result<Finished, ChildError> {
        let program = self.program.to_owned();
        let (reader, _writer) = io::pipe().map_err(|source| ChildError::Spawn { program, source })?;
        self.spawn(scratch, |expression| expression.stdin_file(reader))?.wait()
    }

    /// Starts the child. Its output goes to files in `scratch`, which has to live as long as the child. If
    /// the output went to a pipe, a process that the child left running could keep the pipe open, and the
    /// output would not end.
    pub fn start(self, scratch: &Scratch) -> Result<Running, ChildError> {
        self.spawn(scratch, |expression| expression.stdin_null())
    }

    fn spawn(
        self,
        scratch: &Scratch,
        give_stdin: impl FnOnce(duct::Expression) -> duct::Expression,
    ) -> Result<Running, ChildError> {
        let program = self.program.to_owned();
        Interrupts::caught().check()?;
        let (stdout, stderr) = (scratch.path("stdout"), scratch.path("stderr"));
        let started = give_stdin(self.expression(&stdout, &stderr)).start();
        let handle = started.map_err(|source| ChildError::Spawn { program: program.clone(), source })?;
        let group = handle.pids().first().and_then(|pid| Pid::from_raw(i32::try_from(*pid).ok()?));
        let (limit, deadline, max_output) = (self.limit, Instant::now() + self.limit, self.max_output);
        Ok(Running { program, handle, group, limit, deadline, max_output, stdout, stderr })
    }

    fn expression(&self, stdout: &Path, stderr: &Path) -> duct::Expression {
        let mut expression = duct::cmd(self.program, &self.arguments)
            .stdout_path(stdout)
            .stderr_path(stderr)
            .unchecked()
            .before_spawn(|command| {
                in_own_session(command);
                Ok(())
            });
        for (name, value) in &self.environment {
            expression = match value {
                Some(value) => expression.env(name, value),
                None => expression.env_remove(name),
            };
        }
        expression
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn read(path: &Path, max: u64) -> Vec<u8> {
    let mut output = Vec::new();
    // If the output cannot be read, there is no answer, and the caller reports that.
    let _ = File::open(path).and_then(|file| file.take(max).read_to_end(&mut output));
    output
}

/// The JSON between two sentinel lines, whatever is printed before and after them.
pub fn framed(finished: &Finished, sentinel: &str, program: &Path) -> Result<serde_json::Value, ChildError> {
    let text = String::from_utf8_lossy(&finished.stdout);
    let frame = format!("\n{sentinel}\n");
    if let Some((_, rest)) = text.split_once(&frame)
        && let Some((answer, _)) = rest.split_once(&frame)
        && let Ok(answer) = serde_json::from_str(answer)
    {
        return Ok(answer);
    }
    let program = program.to_owned();
    Err(if finished.status.success() {
        ChildError::Malformed { program, stdout: finished.stdout.clone() }
    } else {
        ChildError::Failed { program, status: finished.status, stderr: finished.stderr.clone() }
    })
}

/// A line that no other program prints.
pub fn sentinel() -> String {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos());
    format!("pcluster-shim:{}:{nanoseconds:x}", std::process::id())
}

/// A variable to set, in the form of [`Child::environment`].
pub fn set(name: &str, value: impl AsRef<OsStr>) -> Variable {
    (name.into(), Some(value.as_ref().to_owned()))
}
