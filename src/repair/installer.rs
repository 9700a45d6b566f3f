//! The program that resolves and fetches packages: uv where there is one, else the environment's
//! own pip, else the pip that its Python brings along (`ensurepip`), which runs from its wheel. It
//! only ever writes into a directory of the repair's.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::settings::InstallerChoice;
use crate::environment::packages::Packages;
use crate::environment::target::Target;
use crate::error::{Abort, Error, RepairStep};
use crate::progress::Progress;
use crate::repair::plan::Wanted;
use crate::repair::state::wait_for_lock;
use crate::system::child::{Child, ChildError, Finished, framed, sentinel, set};
use crate::system::scratch::Scratch;
use crate::system::{executables, files};

/// A resolution over a slow network takes longer than one child of a check may.
const LIMIT_FACTOR: u32 = 10;

#[derive(Debug)]
pub enum Installer {
    Uv(PathBuf),
    Pip,
    /// The wheel of pip that the environment's Python brings along.
    BundledPip(PathBuf),
}

const BUNDLED_PIP_PY: &str = include_str!("bundled_pip.py");

/// How one run of an installer ended.
#[derive(Debug)]
pub enum InstallOutcome {
    Installed { output: String },
    Failed { message: String, output: String },
}

impl Installer {
    /// # Errors
    /// Returns an error if the one asked for is not there, none is, or a signal came.
    pub fn choose(
        choice: InstallerChoice,
        target: &Target,
        packages: &Packages,
        limit: Duration,
    ) -> Result<Self, Abort> {
        let uv = executables::find("uv", Some(target.path())).filter(|_| target.interpreter.is_at_least(8));
        if choice == InstallerChoice::Uv {
            let missing = || {
                Error::repair(
                    RepairStep::Installer,
                    "there is no uv on PATH".into(),
                    "Install uv, or use --installer pip.",
                )
            };
            return uv.map(Self::Uv).ok_or_else(|| missing().into());
        }
        if let Some(uv) = uv.filter(|_| choice == InstallerChoice::Auto) {
            return Ok(Self::Uv(uv));
        }
        if packages.get("pip").is_some() {
            return Ok(Self::Pip);
        }
        if let Some(wheel) = bundled_pip(target, limit)? {
            return Ok(Self::BundledPip(wheel));
        }
        let no_uv = if choice == InstallerChoice::Auto { "there is no uv on PATH, and " } else { "" };
        let message = format!("{no_uv}neither the environment nor its Python has a pip");
        // Debian and Ubuntu take ensurepip out of their Python and pack it apart.
        let next =
            "Install uv, or what brings ensurepip (`apt-get install python3-venv` on Debian and Ubuntu).";
        Err(Error::repair(RepairStep::Installer, message, next).into())
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Uv(_) => "uv",
            Self::Pip | Self::BundledPip(_) => "pip",
        }
    }

    fn is_pip(&self) -> bool {
        !matches!(self, Self::Uv(_))
    }

    /// Resolves and installs into `directory`, all that is wanted and what it needs. pip compiles it
    /// at once, where the environment is compiled.
    ///
    /// # Errors
    /// It cannot be run, or we were interrupted. That it fails is an answer.
    pub fn install(
        &self,
        wanted: &Wanted,
        directory: &Path,
        target: &Target,
        limit: Duration,
    ) -> Result<InstallOutcome, Abort> {
        let scratch = scratch()?;
        let file = |name: &str, lines: &[String]| {
            let written = scratch.write(name, &(lines.join("\n") + "\n"));
            written.map_err(|error| {
                Error::repair(
                    RepairStep::Stage,
                    format!("cannot write {name}: {error}"),
                    UNCHANGED_FREE_SPACE,
                )
            })
        };
        let requirements = file("requirements.txt", &wanted.requirements)?;
        let constraints = file("constraints.txt", &wanted.constraints)?;
        let mut arguments: Vec<OsString> = match self {
            Self::Uv(_) => ["pip", "install", "--no-progress", "--color", "never"].map(OsString::from).into(),
            Self::Pip | Self::BundledPip(_) => {
                ["install", "--no-input", "--disable-pip-version-check"].map(OsString::from).into()
            }
        };
        if self.is_pip() && !target.has_bytecode() {
            arguments.push("--no-compile".into());
        }
        arguments.extend(["--target".into(), directory.into(), "-r".into(), requirements.into()]);
        arguments.extend(["-c".into(), constraints.into()]);
        let finished = self.run(arguments, target, limit, &scratch, RepairStep::Stage)?;
        let output = format!("{}{}", text(&finished.stdout), text(&finished.stderr));
        Ok(if finished.status.success() {
            InstallOutcome::Installed { output }
        } else {
            InstallOutcome::Failed { message: format!("{} {}", self.name(), ended(&finished)), output }
        })
    }

    /// As pip does, where the environment is compiled and uv has installed into `directory`. Not
    /// uv's `--compile-bytecode`: it fails where a sitecustomize prints anything. That something
    /// stays without bytecode does no harm.
    ///
    /// # Errors
    /// We were interrupted.
    pub fn compile(&self, directory: &Path, target: &Target, limit: Duration) -> Result<(), Abort> {
        if self.is_pip() || !target.has_bytecode() {
            return Ok(());
        }
        let scratch = scratch()?;
        let mut arguments: Vec<OsString> = target.interpreter.flags.iter().map(OsString::from).collect();
        arguments.extend(["-m", "compileall", "-qq"].map(OsString::from));
        arguments.push(directory.into());
        let program = &target.interpreter.executable;
        let mut environment = target.environment.clone();
        // Nothing of what it imports itself.
        environment.push(set("PYTHONDONTWRITEBYTECODE", "1"));
        match (Child { program, arguments, environment, limit }).run(&scratch) {
            Err(ChildError::Interrupted(signal)) => Err(Abort::Interrupted(signal)),
            _ => Ok(()),
        }
    }

    /// The dependencies of the environment that are not met, a line each.
    ///
    /// # Errors
    /// It cannot be run, or we were interrupted.
    pub fn broken_requirements(
        &self,
        target: &Target,
        limit: Duration,
        step: RepairStep,
    ) -> Result<BTreeSet<String>, Abort> {
        let scratch = scratch()?;
        let arguments = match self {
            Self::Uv(_) => ["pip", "check", "--color", "never"].map(OsString::from).to_vec(),
            Self::Pip | Self::BundledPip(_) => vec!["check".into(), "--disable-pip-version-check".into()],
        };
        let finished = self.run(arguments, target, limit, &scratch, step)?;
        let output = format!("{}{}", text(&finished.stdout), text(&finished.stderr));
        // uv: "The package `x` requires `y`, but `z` is installed"; pip: "x 1 requires y, which is
        // not installed." or "x 1 has requirement y, but you have z."
        let told = |line: &&str| line.contains(" requires ") || line.contains(" has requirement ");
        Ok(output.lines().filter(told).map(str::to_owned).collect())
    }

    fn run(
        &self,
        mut arguments: Vec<OsString>,
        target: &Target,
        limit: Duration,
        scratch: &Scratch,
        step: RepairStep,
    ) -> Result<Finished, Abort> {
        let python = &target.interpreter.executable;
        let mut environment = target.environment.clone();
        let program = match self {
            Self::Uv(uv) => {
                arguments.extend(["--python".into(), python.into()]);
                environment.extend(uv_environment(python));
                uv
            }
            Self::Pip | Self::BundledPip(_) => {
                let program = match self {
                    // A wheel is a zip file, which Python runs code from.
                    Self::BundledPip(wheel) => vec![wheel.join("pip").into_os_string()],
                    _ => ["-m", "pip"].map(OsString::from).into(),
                };
                let flags = target.interpreter.flags.iter().map(OsString::from);
                arguments.splice(0..0, flags.chain(program));
                // Neither goes together with --target.
                environment.extend([set("PIP_USER", "0"), ("PIP_PREFIX".into(), None)]);
                // Nor may pip write what Python compiles of pip itself.
                environment.push(set("PYTHONDONTWRITEBYTECODE", "1"));
                // One that runs from its wheel leaves a certificate file in TMPDIR each time.
                let tmp = scratch.directory("tmp");
                let tmp =
                    tmp.map_err(|error| Error::repair(step, error.to_string(), UNCHANGED_FREE_SPACE))?;
                environment.push(set("TMPDIR", tmp));
                python
            }
        };
        let child = Child { program, arguments, environment, limit: limit * LIMIT_FACTOR };
        child.run(scratch).map_err(|error| match error {
            ChildError::Interrupted(signal) => Abort::Interrupted(signal),
            other => Error::repair(step, other.to_string(), "Nothing was changed; run it again.").into(),
        })
    }
}

/// What to do about a directory that cannot be written.
pub const UNCHANGED_FREE_SPACE: &str =
    "Nothing was changed. Free some space, or set TMPDIR and XDG_STATE_HOME to a place that has some.";

/// The same, where it has been said what became of the environment.
pub const FREE_SPACE: &str = "Free some space, or set TMPDIR and XDG_STATE_HOME to a place that has some.";

/// Takes the lock that uv takes before it changes a virtual environment: flock(2) of `.lock` in it,
/// where uv has been there. Elsewhere uv locks a file in TMPDIR whose name is another one in each
/// of its versions, and pip has no lock: what those do is seen by comparing.
///
/// # Errors
/// Returns an error if a signal came while uv was at work.
pub fn lock_against_uv(prefix: &Path, progress: Progress) -> Result<Option<File>, Abort> {
    if !prefix.join("pyvenv.cfg").is_file() {
        return Ok(None);
    }
    let Ok(file) = files::open(&prefix.join(".lock")) else { return Ok(None) };
    let _step = match file.try_lock() {
        Ok(()) => return Ok(Some(file)),
        // A file system without locks.
        Err(TryLockError::Error(_)) => return Ok(None),
        Err(TryLockError::WouldBlock) => progress.step("waiting for uv, which is changing this environment"),
    };
    let failed = |error| {
        Error::repair(
            RepairStep::Lock,
            format!("cannot lock {}/.lock: {error}", prefix.display()),
            "Nothing was changed.",
        )
    };
    wait_for_lock(|| file.try_lock(), |error| failed(error).into())?;
    Ok(Some(file))
}

/// The wheel that `ensurepip` would install; `None` where this Python has none.
fn bundled_pip(target: &Target, limit: Duration) -> Result<Option<PathBuf>, Abort> {
    let scratch = scratch()?;
    let written = scratch.write("bundled_pip.py", BUNDLED_PIP_PY);
    let script = written.map_err(|error| {
        Error::repair(
            RepairStep::Installer,
            format!("cannot write bundled_pip.py: {error}"),
            UNCHANGED_FREE_SPACE,
        )
    })?;
    let sentinel = sentinel();
    let mut arguments: Vec<OsString> = target.interpreter.flags.iter().map(OsString::from).collect();
    arguments.extend([script.into_os_string(), OsString::from(&sentinel)]);
    let program = &target.interpreter.executable;
    let child = Child { program, arguments, environment: target.environment.clone(), limit };
    let answer = child.run(&scratch).and_then(|finished| framed(&finished, &sentinel, program));
    match answer {
        Ok(answer) => Ok(answer["wheel"].as_str().map(PathBuf::from)),
        Err(ChildError::Interrupted(signal)) => Err(Abort::Interrupted(signal)),
        // A Python that cannot say it has none.
        Err(_) => Ok(None),
    }
}

fn scratch() -> Result<Scratch, Error> {
    Scratch::new().map_err(|error| {
        Error::repair(RepairStep::Stage, format!("no temporary directory: {error}"), UNCHANGED_FREE_SPACE)
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ended(finished: &Finished) -> String {
    match finished.status.code() {
        Some(code) => format!("ended with status {code}"),
        None => "was killed by a signal".into(),
    }
}

/// pip's index settings, as uv understands them: uv does not read pip.conf, and a user whose
/// packages come from a private index has said so once. What is said to uv itself wins.
fn uv_environment(python: &Path) -> Vec<(OsString, Option<OsString>)> {
    let settings = pip_settings(python);
    let named = [
        ("index-url", &["UV_DEFAULT_INDEX", "UV_INDEX_URL"][..]),
        ("extra-index-url", &["UV_INDEX", "UV_EXTRA_INDEX_URL"]),
        ("find-links", &["UV_FIND_LINKS"]),
        ("trusted-host", &["UV_INSECURE_HOST"]),
        ("no-index", &["UV_NO_INDEX"]),
        ("cert", &["SSL_CERT_FILE"]),
    ];
    let mut variables = Vec::new();
    for (setting, names) in named {
        let said = names.iter().any(|name| env::var_os(name).is_some());
        if let Some(value) = settings.iter().rev().find(|(name, _)| name == setting).filter(|_| !said) {
            let separator = if setting == "find-links" { "," } else { " " };
            let value = value.1.split_whitespace().collect::<Vec<_>>().join(separator);
            variables.push(set(names[0], value));
        }
    }
    variables
}

/// pip's settings, later ones stronger: its files in the order in which pip reads them, then
/// `PIP_*` variables.
fn pip_settings(python: &Path) -> Vec<(String, String)> {
    let state = |below: &str| env::var_os("HOME").map(|state| PathBuf::from(state).join(below));
    let config_home = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| state(".config"));
    let prefix = python.parent().and_then(Path::parent);
    let mut files = vec![
        Some(PathBuf::from("/etc/pip.conf")),
        state(".pip/pip.conf"),
        config_home.map(|base| base.join("pip/pip.conf")),
        prefix.map(|prefix| prefix.join("pip.conf")),
    ];
    if let Some(named) = env::var_os("PIP_CONFIG_FILE") {
        // /dev/null turns all of them off.
        files = if named == "/dev/null" { Vec::new() } else { [files, vec![Some(named.into())]].concat() };
    }
    let mut settings: Vec<(String, String)> = files
        .into_iter()
        .flatten()
        .filter_map(|file| files::read_to_string(&file).ok())
        .flat_map(|text| ini_settings(&text))
        .collect();
    for (name, value) in env::vars() {
        if let Some(name) = name.strip_prefix("PIP_") {
            settings.push((name.to_lowercase().replace('_', "-"), value));
        }
    }
    settings
}

/// `name = value` of the sections that count for `pip install`; lines that begin with a space go on.
fn ini_settings(text: &str) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut counts = false;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(section) = line.trim().strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            counts = section == "global" || section == "install";
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = settings.last_mut().filter(|_| counts) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(['=', ':']).filter(|_| counts) {
            settings.push((name.trim().to_lowercase().replace('_', "-"), value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_conf_is_read_as_pip_reads_it() {
        let text = "[global]\nindex_url = https://a/simple\n# x\n[freeze]\nindex-url=no\n[install]\n\
                    find-links =\n  /one\n  /two\nextra-index-url: https://b\n";
        let settings = ini_settings(text);
        let expected = [
            ("index-url", "https://a/simple"),
            ("find-links", " /one /two"),
            ("extra-index-url", "https://b"),
        ];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
