//! The errors outside a check in one enum, each with its message, its hint and its exit status.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::printable::{escape, flatten};

/// Begins every line that the shim writes to stderr.
pub const PREFIX: &str = "pcluster-shim: ";

#[derive(Debug)]
pub enum Error {
    /// No `pcluster` on PATH but this one.
    NoRealPcluster,
    /// `pcluster-preflight` was called by its path in an environment without a pcluster.
    NothingBeside {
        directory: PathBuf,
    },
    /// `check --all` has found none.
    NothingFound,
    /// A directory of `--root` that cannot be searched.
    BadRoot {
        directory: PathBuf,
        why: String,
    },
    /// Every `pcluster` on PATH starts this shim again.
    Loop {
        tried: Vec<PathBuf>,
    },
    /// The named real pcluster cannot be one; `by` is what named it.
    BadReal {
        path: PathBuf,
        by: &'static str,
        why: &'static str,
    },
    CannotExec {
        program: PathBuf,
        source: io::Error,
    },
    /// A config or advisories file; `message` names line and key.
    BadFile {
        file: PathBuf,
        message: String,
    },
    /// A config or advisories file that another user could have written.
    Untrusted {
        file: PathBuf,
        why: String,
    },
    BadVariable {
        name: &'static str,
        value: String,
        accepted: &'static str,
    },
    /// The image configuration or the arguments of `preflight check`, refused by the real pcluster.
    Rejected {
        stage: String,
        message: String,
    },
    UnknownAdvisory {
        id: String,
        known: String,
    },
    NotATemplate {
        file: String,
        message: String,
    },
    /// AWS cannot be asked.
    Aws(AwsFailure),
    NoStack {
        name: String,
        region: String,
    },
    /// A change in AWS that has to be confirmed, and there is no terminal.
    Unconfirmed,
    /// A change in AWS that cannot be made safely.
    Images {
        message: String,
        next: &'static str,
    },
    /// install.sh cannot be run.
    Install {
        message: String,
    },
    /// A repair stopped at this step; the environment is as before.
    Repair {
        step: RepairStep,
        message: String,
        next: String,
    },
    /// There is no repair of this environment that could be undone.
    NothingToUndo {
        site: PathBuf,
    },
    /// A repair cannot change this environment itself.
    NotInPlace {
        why: String,
        next: String,
    },
}

/// Why AWS cannot be asked, as client.py tells it.
#[derive(Debug, Clone)]
pub struct AwsFailure {
    pub code: String,
    pub message: String,
    pub call: Option<String>,
}

impl AwsFailure {
    /// The client itself failed.
    pub fn of_client(message: String) -> Self {
        Self { code: "client".into(), message, call: None }
    }

    fn hint(&self) -> String {
        let permission = self.call.as_deref().unwrap_or("the call");
        match self.code.as_str() {
            "noboto3" => {
                "Name a pcluster that starts with --real, or repair this one with `pcluster preflight fix`."
                    .into()
            }
            "credentials" => "Log in as for `pcluster list-images`, or name a profile in AWS_PROFILE.".into(),
            "region" => "Name one with -r, or set AWS_DEFAULT_REGION.".into(),
            "network" => {
                "Check the network, the proxy (HTTPS_PROXY) and the endpoint (AWS_ENDPOINT_URL).".into()
            }
            "denied" => format!(
                "It needs {permission}; `pcluster preflight images --print-policy list` prints all that is needed."
            ),
            "throttled" => "Run it again later: nothing was changed by this call.".into(),
            _ => "Run it again; if it stays so, check the endpoint (AWS_ENDPOINT_URL) and the proxy.".into(),
        }
    }
}

/// The steps of a repair: an error names the one at which it stopped, and a failpoint has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairStep {
    Ownership,
    State,
    Lock,
    Plan,
    Installer,
    Stage,
    Proof,
    Isolated,
    Snapshot,
    Journal,
    /// The token in one directory of packages.
    Token,
    Commit,
    /// One file of the old packages.
    Remove,
    /// One file of the new packages.
    Place,
    /// The middle of a RECORD of the new packages.
    Record,
    Verification,
    Close,
    /// After the transaction is closed.
    Closed,
    Undo,
    Rollback,
    /// One file that is put back.
    Restore,
    /// The removal of the token from one directory of packages, and what follows it.
    RemoveToken,
}

impl RepairStep {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ownership => "ownership",
            Self::State => "state",
            Self::Lock => "lock",
            Self::Plan => "plan",
            Self::Installer => "installer",
            Self::Stage => "stage",
            Self::Proof => "proof",
            Self::Isolated => "isolated",
            Self::Snapshot => "snapshot",
            Self::Journal => "journal",
            Self::Token => "token",
            Self::Commit => "commit",
            Self::Remove => "remove",
            Self::Place => "place",
            Self::Record => "record",
            Self::Verification => "verification",
            Self::Close => "close",
            Self::Closed => "closed",
            Self::Undo => "undo",
            Self::Rollback => "rollback",
            Self::Restore => "restore",
            Self::RemoveToken => "remove-token",
        }
    }
}

/// A signal has come, by which the process is to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted(pub i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by signal {}", self.0)
    }
}

/// The reason why a function has no result.
#[derive(Debug)]
pub enum Abort {
    Error(Error),
    Interrupted(Interrupted),
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Interrupted> for Abort {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

/// Files in one message: a directory that cannot be written has thousands.
pub const MAX_NAMED: usize = 5;

impl Error {
    pub fn repair(step: RepairStep, message: String, next: &str) -> Self {
        Self::Repair { step, message, next: next.to_owned() }
    }

    /// The error of a repair that was tried in a second way too.
    pub fn with_second(self, second: &Self) -> Self {
        match self {
            Self::Repair { step, message, .. } => Self::Repair {
                step,
                message: format!("{message}\nstrategy release: {second}"),
                next: second.hint(),
            },
            other => other,
        }
    }

    /// Files that a rollback could not put back.
    pub fn not_restored(failures: &[String]) -> Self {
        let next =
            "Correct that, then run `pcluster preflight`: the copies are kept, and it goes on from there.";
        let more = failures.len().saturating_sub(MAX_NAMED);
        let more = (more > 0).then(|| format!("and {more} more files"));
        let named = failures.iter().take(MAX_NAMED).cloned().chain(more);
        Self::repair(RepairStep::Rollback, named.collect::<Vec<_>>().join("; "), next)
    }

    /// Status 1: a repair was not done; 2: usage or configuration; 127 and 126 as in a shell: not found, and found but not executable.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NoRealPcluster
            | Self::NothingBeside { .. }
            | Self::NothingFound
            | Self::Loop { .. }
            | Self::BadReal { .. } => 127,
            Self::CannotExec { .. } => 126,
            Self::BadFile { .. }
            | Self::Untrusted { .. }
            | Self::BadVariable { .. }
            | Self::Rejected { .. }
            | Self::UnknownAdvisory { .. }
            | Self::NotATemplate { .. }
            | Self::NoStack { .. }
            | Self::Unconfirmed
            | Self::BadRoot { .. } => 2,
            Self::Aws(_) => 3,
            Self::Images { .. }
            | Self::Install { .. }
            | Self::Repair { .. }
            | Self::NotInPlace { .. }
            | Self::NothingToUndo { .. } => 1,
        }
    }

    /// The next step for the user.
    pub fn hint(&self) -> String {
        match self {
            Self::NoRealPcluster => "Install aws-parallelcluster, activate its environment, or name \
                                     it in PCLUSTER_SHIM_REAL."
                .into(),
            Self::NothingBeside { .. } => {
                "Install aws-parallelcluster there, name another one with --real, or call \
                                           pcluster-preflight by its name alone: that means the one on PATH."
                    .into()
            }
            Self::NothingFound => "Name a directory that holds environments with --root, or install \
                                   aws-parallelcluster."
                .into(),
            Self::BadRoot { .. } => "Give --root a directory that can be read.".into(),
            Self::Loop { .. } => {
                "Name the real pcluster in PCLUSTER_SHIM_REAL, or take the looping one off PATH.".into()
            }
            Self::BadReal { by, .. } if by.starts_with("--") => {
                format!("Give {by} the path of the pcluster that pip installed.")
            }
            Self::BadReal { by, .. } => {
                format!("Set {by} to the absolute path of the pcluster that pip installed.")
            }
            Self::CannotExec { .. } => {
                "Its interpreter may be gone: reinstall aws-parallelcluster in that environment.".into()
            }
            Self::BadFile { .. } => "Correct the file, or name another one.".into(),
            Self::Untrusted { file, .. } => {
                format!("Make it your own, and run `chmod go-w {}`.", file.display())
            }
            Self::BadVariable { accepted, .. } => format!("Accepted: {accepted}."),
            Self::Rejected { .. } => {
                "Correct it; `pcluster build-image` would refuse it in the same way.".into()
            }
            Self::UnknownAdvisory { known, .. } => format!("Known: {known}."),
            Self::NotATemplate { .. } => {
                "Give the template as JSON or YAML, or the output of `aws cloudformation \
                 get-template`."
                    .into()
            }
            Self::NothingToUndo { .. } => {
                "Nothing was changed. If another environment was repaired, name its pcluster with --real."
                    .into()
            }
            Self::Aws(failure) => failure.hint(),
            Self::NoStack { .. } => {
                "Name its region with -r; a stack that was deleted is kept for 90 days.".into()
            }
            Self::Unconfirmed => "Look at the plan with --dry-run, then give --yes.".into(),
            Self::Images { next, .. } => (*next).to_owned(),
            Self::Install { .. } => {
                "Nothing was changed. Set TMPDIR to a directory that can be written.".into()
            }
            Self::Repair { next, .. } | Self::NotInPlace { next, .. } => next.clone(),
        }
    }

    /// The message and the hint, a line each, with the prefix. The message of a repair keeps its lines:
    /// it may hold the output of an installer.
    pub fn render_for_stderr(&self) -> String {
        let message = match self {
            Self::Repair { .. } => self.to_string(),
            _ => self.to_line(),
        };
        prefix_lines(&format!("{message}\n{}", flatten(&self.hint())))
    }

    /// The message without its line breaks, which come from files, children and the real pcluster.
    pub fn to_line(&self) -> String {
        flatten(&self.to_string()).into_owned()
    }

    /// The form of every error under `--format json`.
    pub fn to_json(&self) -> Value {
        describe_in_json(&self.to_line(), &self.hint())
    }
}

/// An error under `--format json`.
pub fn describe_in_json(message: &str, hint: &str) -> Value {
    json!({"schemaVersion": 1, "error": {"message": message, "hint": hint}})
}

/// Prefixes each line of a message for stderr, and makes it safe for a terminal.
pub fn prefix_lines(message: &str) -> String {
    escape(message).lines().fold(String::new(), |text, line| text + PREFIX + line + "\n")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRealPcluster => write!(f, "no real pcluster was found on PATH"),
            Self::NothingBeside { directory } => {
                write!(f, "there is no pcluster in {}, where this program was called", directory.display())
            }
            Self::NothingFound => {
                write!(f, "no pcluster was found on PATH or where environments are kept")
            }
            Self::BadRoot { directory, why } => write!(f, "--root {}: {why}", directory.display()),
            Self::Loop { tried } => {
                let tried: Vec<_> = tried.iter().map(|path| path.display().to_string()).collect();
                write!(f, "there is no real pcluster behind {}: this shim is started again", tried.join(", "))
            }
            Self::BadReal { path, by, why } => write!(f, "{by} names {}, {why}", path.display()),
            Self::CannotExec { program, source } => {
                write!(f, "cannot run {}: {source}", program.display())
            }
            Self::BadFile { file, message } => write!(f, "{}: {message}", file.display()),
            Self::Untrusted { file, why } => write!(f, "{}: {why}", file.display()),
            Self::BadVariable { name, value, .. } => write!(f, "{name} cannot be {value:?}"),
            Self::Rejected { stage, message } => write!(f, "pcluster refuses the {stage}: {message}"),
            Self::UnknownAdvisory { id, .. } => write!(f, "no advisory is called {id:?}"),
            Self::NotATemplate { file, message } => write!(f, "{file}: {message}"),
            Self::NothingToUndo { site } => write!(f, "there is no repair of {} to undo", site.display()),
            Self::Aws(AwsFailure { message, call: Some(call), .. }) => {
                write!(f, "AWS cannot be asked ({call}): {message}")
            }
            Self::Aws(failure) => write!(f, "AWS cannot be asked: {}", failure.message),
            Self::NoStack { name, region } => write!(f, "there is no stack {name:?} in {region}"),
            Self::Unconfirmed => f.write_str("nothing was changed: there is no terminal to ask at"),
            Self::Images { message, .. } => f.write_str(message),
            Self::Install { message } => write!(f, "the installer cannot be started: {message}"),
            Self::Repair { step: RepairStep::Undo, message, .. } => {
                write!(f, "the repair cannot be undone: {message}")
            }
            Self::Repair { step, message, .. } => {
                write!(f, "the repair stopped at {}: {message}", step.name())
            }
            Self::NotInPlace { why, .. } => write!(f, "the environment cannot be repaired in place: {why}"),
        }
    }
}

impl std::error::Error for Error {}
