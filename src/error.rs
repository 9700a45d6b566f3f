//! The errors that users see outside of reports, in one enum: each has a message, a hint and an exit status.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::text::printable::{escape, flatten};

/// The beginning of each line on stderr that reports an error, a warning, a finding or progress.
pub const PREFIX: &str = "pcluster-shim: ";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PATH contains no `pcluster` other than the shim.
    #[error("no real pcluster was found on PATH")]
    NoRealPcluster,
    /// `pcluster-preflight` was called by its path, in an environment without a pcluster.
    #[error("there is no pcluster in {directory}, the directory of this program")]
    NothingBeside { directory: PathBuf },
    /// `check --all` found no pcluster.
    #[error("no pcluster was found on PATH or in the usual places for environments")]
    NothingFound,
    /// A directory that was given with `--root` and cannot be searched.
    #[error("--root {directory}: {why}")]
    BadRoot { directory: PathBuf, why: String },
    /// Every `pcluster` that was found only starts this shim again.
    #[error("no real pcluster was found, only programs that start this shim again: {}", join(tried))]
    Loop { tried: Vec<PathBuf> },
    /// `path` cannot be the real pcluster; `by` is the option or setting that contains the path.
    #[error("{by} points to {path}, {why}")]
    BadReal { path: PathBuf, by: &'static str, why: &'static str },
    #[error("cannot run {program}: {source}")]
    CannotExec { program: PathBuf, source: io::Error },
    #[error("no such file: {file}")]
    NoFile { file: PathBuf },
    /// A file that cannot be read, or that is invalid. For an invalid config or advisories file, `message`
    /// names the line and the key.
    #[error("{file}: {message}")]
    BadFile { file: PathBuf, message: String },
    /// A config or advisories file that another user could have written. `place` is what that user can write
    /// to: the file itself or a directory above it.
    #[error("{file} {why}")]
    Untrusted { file: PathBuf, place: PathBuf, why: String },
    #[error("invalid value {value:?} for {name}")]
    BadVariable { name: &'static str, value: String, accepted: &'static str },
    /// The real pcluster would reject the image configuration or the arguments of `preflight check`.
    #[error("pcluster rejects the {stage}: {message}")]
    Rejected { stage: String, message: String },
    #[error("unknown advisory {id:?}")]
    UnknownAdvisory { id: String },
    /// The file that was given with `--output` cannot be written.
    #[error("cannot write {file}: {why}")]
    CannotWrite { file: PathBuf, why: String },
    /// The output of `preflight config` was redirected to the config file itself.
    #[error(
        "{file}: the shell emptied this file, because the output of `pcluster preflight config` was redirected to it"
    )]
    Emptied { file: PathBuf },
    /// `preflight constraints` was called without a version, and the installed version cannot be found.
    #[error("cannot read the installed version of aws-parallelcluster without starting pcluster")]
    NoVersion,
    /// The release of pcluster is older than 3.0.0, so it has no `build-image`.
    #[error("{message}")]
    NoBuildImage { message: String },
    #[error("{file}: {message}")]
    NotATemplate { file: String, message: String },
    #[error("cannot query AWS{}: {}", .0.describe_call(), .0.message)]
    Aws(AwsFailure),
    #[error("there is no stack {name:?} in {region}")]
    NoStack { name: String, region: String },
    /// A change in AWS has to be confirmed, but there is no terminal.
    #[error("confirmation is required, but standard input or standard error is not a terminal")]
    Unconfirmed,
    /// A failure whose hint depends on where it happened.
    #[error("{message}")]
    Failed { message: String, next: String },
    /// A repair or a rollback failed.
    #[error("{message}")]
    Repair { message: String, next: String },
    /// A repair cannot change the environment's own files.
    #[error("the environment cannot be repaired in place: {why}")]
    NotInPlace { why: String, next: String },
}

/// Why AWS cannot be queried, as client.py reports it.
#[derive(Debug, Clone)]
pub struct AwsFailure {
    pub code: String,
    pub message: String,
    pub call: Option<String>,
}

impl AwsFailure {
    fn describe_call(&self) -> String {
        self.call.as_ref().map(|call| format!(" ({call})")).unwrap_or_default()
    }

    /// A failure of the client, not of AWS.
    pub fn of_client(message: String) -> Self {
        Self { code: "client".into(), message, call: None }
    }

    fn hint(&self) -> String {
        let permission = self.call.as_deref().unwrap_or("this call");
        match self.code.as_str() {
            "noboto3" => {
                "Repair this environment with `pcluster preflight fix`, or use --real to pass a pcluster that starts."
                    .into()
            }
            "credentials" => "Log in as you would for `pcluster list-images`, or set AWS_PROFILE.".into(),
            "sso" => "Run `aws sso login` (with --profile if AWS_PROFILE is set), then try again.".into(),
            "clock" => "The clock of this machine is wrong. Set it, then try again.".into(),
            "region" => "Pass a region with -r, or set AWS_DEFAULT_REGION.".into(),
            "network" => {
                "Check the network, the proxy (HTTPS_PROXY) and the endpoint (AWS_ENDPOINT_URL).".into()
            }
            "denied" => format!(
                "Allow {permission}. For the full policy, run `pcluster preflight images --print-policy list`."
            ),
            "throttled" => "Try again later. The refused call changed nothing.".into(),
            _ => "Try again. If the error persists, check the endpoint (AWS_ENDPOINT_URL) and the proxy."
                .into(),
        }
    }
}

/// A signal has arrived, and the process is about to die by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by signal {0}")]
pub struct Interrupted(pub i32);

/// The reason why a function has no result.
#[derive(Debug, thiserror::Error)]
pub enum Abort {
    #[error(transparent)]
    Error(#[from] Error),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The `stage` of [`Error::rejected`] if a call is refused because pcluster is older than 3.0.0.
pub const OLD_RELEASE: &str = "release";

/// A message names at most this many files: a directory that cannot be written to may contain thousands.
pub const MAX_NAMED: usize = 5;

impl Error {
    pub fn repair(message: String, next: &str) -> Self {
        Self::Repair { message, next: next.to_owned() }
    }

    /// A call that pcluster refuses; `stage` names what is wrong with the call.
    pub fn rejected(stage: String, message: String) -> Self {
        if stage == OLD_RELEASE { Self::NoBuildImage { message } } else { Self::Rejected { stage, message } }
    }

    pub fn undo(message: &str, next: &str) -> Self {
        let message = format!("the repair cannot be undone: {message}");
        Self::Failed { message, next: next.to_owned() }
    }

    /// A file that cannot be read or written.
    pub fn of_file(file: &Path, error: &io::Error) -> Self {
        let file = file.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoFile { file },
            _ => Self::BadFile { file, message: describe_io(error) },
        }
    }

    /// Adds `second` to `self`. `self` is the error of a repair's first attempt, and `second` is the error of
    /// its second attempt, which used `--strategy release`.
    pub fn with_second(self, second: &Self) -> Self {
        match self {
            Self::Repair { message, .. } => {
                let second_message = second.to_string();
                let tried = if second_message == message {
                    ", with the same result".to_owned()
                } else {
                    format!(": {second_message}")
                };
                let message = format!("{message}\n--strategy release was tried too{tried}");
                Self::Repair { message, next: second.hint() }
            }
            other => other,
        }
    }

    /// The error if a rollback could not restore some files; `failures` has a message for each.
    pub fn not_restored(failures: &[String]) -> Self {
        let next = "Fix that, then run `pcluster preflight` to continue the rollback. The copies are kept.";
        let noun = if failures.len() == MAX_NAMED + 1 { " file" } else { " files" };
        Self::repair(join_first(failures, MAX_NAMED, noun), next)
    }

    /// 1: not done; 2: usage or configuration error; 3: AWS cannot be queried. As in a shell, 127 means that
    /// the real pcluster was not found, and 126 that it cannot be executed.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NoRealPcluster
            | Self::NothingBeside { .. }
            | Self::NothingFound
            | Self::Loop { .. }
            | Self::BadReal { .. } => 127,
            Self::CannotExec { .. } => 126,
            Self::NoFile { .. }
            | Self::BadFile { .. }
            | Self::Untrusted { .. }
            | Self::BadVariable { .. }
            | Self::Rejected { .. }
            | Self::UnknownAdvisory { .. }
            | Self::CannotWrite { .. }
            | Self::Emptied { .. }
            | Self::NoVersion
            | Self::NoBuildImage { .. }
            | Self::NotATemplate { .. }
            | Self::NoStack { .. }
            | Self::Unconfirmed
            | Self::BadRoot { .. } => 2,
            Self::Aws(_) => 3,
            Self::Failed { .. } | Self::Repair { .. } | Self::NotInPlace { .. } => 1,
        }
    }

    /// The next step for the user.
    pub fn hint(&self) -> String {
        match self {
            Self::NoRealPcluster => "Install aws-parallelcluster, activate its environment, or set \
                                     PCLUSTER_SHIM_REAL to the real pcluster."
                .into(),
            Self::NothingBeside { .. } => {
                "Install aws-parallelcluster there, or pass another pcluster with --real. To check the pcluster on \
                 PATH, call this program by its name alone: `pcluster-preflight`."
                    .into()
            }
            Self::NothingFound => {
                "Pass a directory of environments with --root, or install aws-parallelcluster.".into()
            }
            Self::BadRoot { .. } => "Pass a readable directory with --root.".into(),
            Self::Loop { .. } => {
                "Set PCLUSTER_SHIM_REAL to the absolute path of the real pcluster, or remove the programs above \
                 from PATH."
                    .into()
            }
            Self::BadReal { by, .. } if by.starts_with("--") => {
                format!("With {by}, pass the path of the pcluster that pip installed.")
            }
            Self::BadReal { by, .. } => {
                format!("Set {by} to the absolute path of the pcluster that pip installed.")
            }
            Self::CannotExec { .. } => {
                "Its interpreter may be gone: reinstall aws-parallelcluster in that environment.".into()
            }
            Self::NoFile { file } if file.is_absolute() => {
                "Check the path. It comes from the command line, config.yaml or PCLUSTER_SHIM_CONFIG.".into()
            }
            Self::NoFile { .. } => "Check the name and the current directory.".into(),
            Self::BadFile { .. } => "Fix the file, or use another one.".into(),
            Self::Untrusted { place, .. } => advise_to_take(place),
            Self::BadVariable { accepted, .. } => format!("Accepted values: {accepted}."),
            Self::Rejected { stage, .. } => {
                format!("Correct the {stage} and try again; `pcluster build-image` would reject this as well.")
            }
            Self::NoBuildImage { .. } => {
                "Install aws-parallelcluster 3.0.0 or later, or pass another pcluster with --real.".into()
            }
            Self::UnknownAdvisory { .. } => {
                "To list all advisories, run `pcluster preflight advisories`.".into()
            }
            Self::CannotWrite { .. } => "Pass another file with --output.".into(),
            Self::Emptied { .. } => {
                "Restore the file from a backup, or write its settings again. Next time, redirect the output to \
                 another file, then move that file to this path."
                    .into()
            }
            Self::NoVersion => "Pass the version, as in `pcluster preflight constraints 3.13.2`.".into(),
            Self::NotATemplate { .. } => {
                "Pass a template in JSON or YAML, or the output of `aws cloudformation \
                 get-template`."
                    .into()
            }
            Self::Aws(failure) => failure.hint(),
            Self::NoStack { .. } => "Check the region (-r). AWS keeps deleted stacks for 90 days.".into(),
            Self::Unconfirmed => "Nothing was changed. Review the plan with --dry-run, then pass --yes.".into(),
            Self::NotInPlace { next, .. } => format!("Nothing was changed. {next}"),
            Self::Failed { next, .. } | Self::Repair { next, .. } => next.clone(),
        }
    }

    /// The message and the hint, one line each, with the prefix. The message of a repair keeps its line
    /// breaks, because it may contain the output of an installer.
    pub fn render_for_stderr(&self) -> String {
        let message = match self {
            Self::Repair { .. } => self.to_string(),
            _ => self.to_line(),
        };
        prefix_lines(&format!("error: {message}\nhint: {}", flatten(&self.hint())))
    }

    /// The message without the line breaks that files, children and the real pcluster put into it.
    pub fn to_line(&self) -> String {
        flatten(&self.to_string()).into_owned()
    }

    /// This error as `--format json` prints it.
    pub fn to_json(&self) -> Value {
        describe_in_json(&self.to_line(), &self.hint())
    }
}

/// Advice if other users could write to a file or directory.
pub fn advise_to_take(place: &Path) -> String {
    let place = place.display();
    format!("Take ownership of {place} and run `chmod go-w {place}`.")
}

/// Describes an error of the operating system. A full disk and an exhausted quota are described in plain
/// words, without the number of the error.
pub fn describe_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full".into(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up".into(),
        _ => error.to_string(),
    }
}

pub fn describe_in_json(message: &str, hint: &str) -> Value {
    json!({"schemaVersion": 1, "error": {"message": message, "hint": hint}})
}

/// Makes a message safe for a terminal, and adds the prefix for stderr to each of its lines.
pub fn prefix_lines(message: &str) -> String {
    escape(message).lines().fold(String::new(), |text, line| text + PREFIX + line + "\n")
}

/// Joins the first `max` messages, and counts the others, because there can be thousands.
pub fn join_first(messages: &[String], max: usize, noun: &str) -> String {
    let more = messages.len().saturating_sub(max);
    let more = (more > 0).then(|| format!("and {more} more{noun}"));
    messages.iter().take(max).cloned().chain(more).collect::<Vec<_>>().join("; ")
}

pub fn join(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
