//! The one way to run a child process: its own process group, a time limit, both streams kept,
//! stdin from /dev/null, and gone when we are interrupted.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use tempfile::TempDir;

use crate::error::{Error, Stop};

/// How often a wait looks for a signal; the end of the child itself is seen at once.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(50);

/// More than any answer holds; a child that prints without end is not kept in memory.
const MOST_OUTPUT: u64 = 32 << 20;

/// What a child left behind when it ended by itself.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why there is no answer of a child. Its status is never ours.
#[derive(Debug)]
pub enum ChildError {
    Spawn {
        program: PathBuf,
        source: io::Error,
    },
    TimedOut {
        program: PathBuf,
        limit: Duration,
        stderr: Vec<u8>,
    },
    Failed {
        program: PathBuf,
        status: ExitStatus,
        stderr: Vec<u8>,
    },
    Malformed {
        program: PathBuf,
        stdout: Vec<u8>,
    },
    /// Not the child's fault: we got this signal while it ran.
    Interrupted(i32),
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { program, source } => write!(f, "cannot run {}: {source}", program.display()),
            Self::TimedOut { program, limit, .. } => write!(
                f,
                "{} gave no answer in {} s (PCLUSTER_SHIM_TIMEOUT sets the limit)",
                program.display(),
                limit.as_secs()
            ),
            Self::Failed { program, status, stderr } => {
                write!(f, "{} {}", program.display(), ended(*status))?;
                match last_line(stderr) {
                    Some(line) => write!(f, ": {line}"),
                    None => Ok(()),
                }
            }
            Self::Malformed { program, stdout } => {
                write!(f, "{} gave no answer that can be read", program.display())?;
                match last_line(stdout) {
                    Some(line) => write!(f, ": {line:?}"),
                    None => Ok(()),
                }
            }
            Self::Interrupted(signal) => write!(f, "interrupted by signal {signal}"),
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// The line of an output that says most: Python's and Node's errors end with it.
fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?.trim();
    let shown: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    Some(shown)
}

/// One child to run.
#[derive(Debug)]
pub struct Child<'a> {
    pub program: &'a Path,
    pub arguments: Vec<OsString>,
    /// Set, or removed where the value is `None`.
    pub environment: Vec<(OsString, Option<OsString>)>,
    pub limit: Duration,
}

impl Child<'_> {
    /// Runs it to its end. `scratch` holds its output: files, because a grandchild that outlives
    /// the child would keep a pipe open.
    ///
    /// # Errors
    /// It cannot be started, takes too long, or we are interrupted. Its status is the caller's.
    pub fn run(self, scratch: &Scratch) -> Result<Finished, ChildError> {
        let spawn_error = |source| ChildError::Spawn { program: self.program.to_owned(), source };
        let interrupts = Interrupts::caught();
        interrupts.check()?;
        let (stdout, stderr) = (scratch.path("stdout"), scratch.path("stderr"));
        let handle = self.expression(&stdout, &stderr).start().map_err(spawn_error)?;
        let group = Group::of(&handle.pids());
        let deadline = Instant::now() + self.limit;
        loop {
            let waited = handle.wait_timeout(LOOK_FOR_SIGNALS);
            interrupts.check().inspect_err(|_| group.kill(&handle))?;
            if let Some(output) = waited.map_err(spawn_error)? {
                let status = output.status;
                // What it left running must not outlive the check either.
                group.kill(&handle);
                return Ok(Finished { status, stdout: read(&stdout), stderr: read(&stderr) });
            }
            if Instant::now() >= deadline {
                group.kill(&handle);
                let (program, limit) = (self.program.to_owned(), self.limit);
                return Err(ChildError::TimedOut { program, limit, stderr: read(&stderr) });
            }
        }
    }

    fn expression(&self, stdout: &Path, stderr: &Path) -> duct::Expression {
        let mut expression = duct::cmd(self.program, &self.arguments)
            .stdin_null()
            .stdout_path(stdout)
            .stderr_path(stderr)
            .unchecked()
            .before_spawn(|command| {
                command.process_group(0);
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

fn read(path: &Path) -> Vec<u8> {
    let mut output = Vec::new();
    // What cannot be read is an answer that cannot be read: the caller says so.
    let _ = File::open(path).and_then(|file| file.take(MOST_OUTPUT).read_to_end(&mut output));
    output
}

/// The child's process group: itself and all that it started.
struct Group(Option<Pid>);

impl Group {
    fn of(pids: &[u32]) -> Self {
        Self(pids.first().and_then(|pid| i32::try_from(*pid).ok()).and_then(Pid::from_raw))
    }

    fn kill(&self, handle: &duct::Handle) {
        if let Some(group) = self.0 {
            // An error means that nobody is left in it.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = handle.kill();
    }
}

impl From<ChildError> for Stop {
    /// For [`Interrupts::check`]; every other error of a child is told with what it was for.
    fn from(error: ChildError) -> Self {
        match error {
            ChildError::Interrupted(signal) => Self::Interrupted(signal),
            other => Error::repair("a child process", other.to_string(), "Run it again.").into(),
        }
    }
}

/// Where temporary files go if the directory that TMPDIR names is gone or full, as Python has it.
const OTHER_DIRECTORIES: [&str; 2] = ["/tmp", "/var/tmp"];

/// A private directory for one check, gone with it.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// # Errors
    /// No directory for temporary files can be written.
    pub fn new() -> io::Result<Self> {
        let others = OTHER_DIRECTORIES.map(PathBuf::from);
        Self::in_first_of(std::iter::once(std::env::temp_dir()).chain(others))
    }

    fn in_first_of(directories: impl Iterator<Item = PathBuf>) -> io::Result<Self> {
        let mut first_fault = None;
        for directory in directories {
            match tempfile::Builder::new().prefix("pcluster-shim-").tempdir_in(directory) {
                Ok(made) => return Ok(Self(made)),
                Err(fault) => first_fault = first_fault.or(Some(fault)),
            }
        }
        Err(first_fault.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// # Errors
    /// As of writing a file.
    pub fn write(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    /// # Errors
    /// As of making a directory.
    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

/// The signals that end a check. They are caught from the first child on, until exec (which puts
/// caught signals back to their default) or our own end.
#[derive(Debug)]
pub struct Interrupts(Arc<AtomicUsize>);

static CAUGHT: OnceLock<Interrupts> = OnceLock::new();

impl Interrupts {
    /// The signal that has come since the first child: the last question before exec, which would
    /// otherwise forget it.
    #[must_use]
    pub fn received() -> Option<i32> {
        match CAUGHT.get()?.check() {
            Err(ChildError::Interrupted(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Catches them at the first call.
    pub fn caught() -> &'static Self {
        CAUGHT.get_or_init(|| {
            let received = Arc::new(AtomicUsize::new(0));
            for (signal, name) in [(SIGINT, "INT"), (SIGTERM, "TERM"), (SIGHUP, "HUP"), (SIGQUIT, "QUIT")] {
                if !is_ignored(name) {
                    let value = usize::try_from(signal).unwrap_or_default();
                    // Not caught, a signal kills us at once: the children are then left to end
                    // by themselves, which is all that can be had.
                    let _ = signal_hook::flag::register_usize(signal, Arc::clone(&received), value);
                }
            }
            Self(received)
        })
    }

    /// # Errors
    /// A signal has come: nothing more is to be done but to die by it.
    pub fn check(&self) -> Result<(), ChildError> {
        match i32::try_from(self.0.load(Ordering::SeqCst)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(signal) => Err(ChildError::Interrupted(signal)),
        }
    }
}

/// Whether we were started with the signal ignored, as under nohup. Then it must stay so: caught,
/// it would have its default action again in the real pcluster. A child inherits it, and safe Rust
/// has no way to ask but to let one try.
fn is_ignored(name: &str) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "kill -$0 $$", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .status()
        .is_ok_and(|status| status.success())
}

/// The JSON between two lines of the sentinel, whatever stands around them.
///
/// # Errors
/// There is none.
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
#[must_use]
pub fn sentinel() -> String {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_nanos());
    format!("pcluster-shim:{}:{nanoseconds:x}", std::process::id())
}

/// A variable to set, in the form of [`Child::environment`].
#[must_use]
pub fn set(name: &str, value: impl AsRef<OsStr>) -> (OsString, Option<OsString>) {
    (name.into(), Some(value.as_ref().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_directory_is_taken_for_one_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let gone = || directory.path().join("gone");
        let scratch = Scratch::in_first_of([gone(), directory.path().to_owned()].into_iter()).unwrap();
        assert!(scratch.path("x").starts_with(directory.path()));
        let fault = Scratch::in_first_of([gone(), gone().join("too")].into_iter()).unwrap_err();
        assert!(fault.to_string().contains("gone/pcluster-shim-"), "the first fault is told: {fault}");
    }
}
