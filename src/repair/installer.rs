//! The program that resolves and fetches packages. This is uv if it is installed, otherwise the environment's
//! pip. Without either, pip runs from the wheel that comes with Python's `ensurepip`. The installer installs
//! only into a directory that the repair has created, never into the environment.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment::target::Target;
use crate::error::{Abort, Error, describe_io};
use crate::model::distribution::Packages;
use crate::model::options::InstallerChoice;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::pip_settings::{PIP_OVERRIDES, UV_INSTALL_OPTIONS, translate_for_uv};
use crate::repair::plan::InstallRequest;
use crate::system::child::{Child, ChildError, Finished, MAX_OUTPUT, framed, sentinel, set};
use crate::system::executables;
use crate::system::scratch::Scratch;

/// The time limit for an installer, as a multiple of the limit for a child of a check: networks can be slow.
const MAX_TIMEOUTS: u32 = 10;

/// The maximum size of an installer's output. It is this large because an installer that builds a package
/// from source can print a compiler's output.
const MAX_INSTALLER_OUTPUT: u64 = 256 << 20; // bytes

/// An installer for one environment.
#[derive(Debug)]
pub struct Installer<'a> {
    program: Program,
    target: &'a Target,
    /// The time limit for a child of a check. Calls that use the network get `MAX_TIMEOUTS` times as long.
    timeout: Duration,
    /// A temporary cache for a uv that the repair has fetched. The user did not ask for uv, so its cache is
    /// not kept.
    cache: Option<PathBuf>,
}

#[derive(Debug)]
enum Program {
    Uv(PathBuf),
    /// The arguments with which the target's Python runs pip: `-m pip`, or a path in the wheel that
    /// `ensurepip` would install. Python can run code from a wheel, because a wheel is a zip file.
    Pip(Vec<OsString>),
}

const BUNDLED_PIP_PY: &str = include_str!("bundled_pip.py");

#[derive(Debug)]
pub enum InstallOutcome {
    Installed { output: String },
    Failed { message: String, output: String },
}

impl<'a> Installer<'a> {
    /// Chooses uv or pip, depending on the user's choice and on which of them exists.
    pub fn choose(
        choice: InstallerChoice,
        target: &'a Target,
        packages: &Packages,
        timeout: Duration,
    ) -> Result<Self, Abort> {
        let with = |program: Program| Self { program, target, timeout, cache: None };
        let uv = executables::find("uv", Some(target.path())).filter(|_| target.interpreter.is_at_least(8));
        if choice == InstallerChoice::Uv {
            let next = "Nothing was changed. Install uv, or use --installer pip.";
            let missing = || Error::repair("uv is not on PATH".into(), next);
            return uv.map(Program::Uv).map(with).ok_or_else(|| missing().into());
        }
        if let Some(uv) = uv.filter(|_| choice == InstallerChoice::Auto) {
            return Ok(with(Program::Uv(uv)));
        }
        if packages.get("pip").is_some() {
            return Ok(with(Program::Pip(["-m", "pip"].map(OsString::from).into())));
        }
        if let Some(wheel) = find_bundled_pip(target, timeout)? {
            return Ok(with(Program::Pip(vec![wheel.join("pip").into_os_string()])));
        }
        let no_uv = if choice == InstallerChoice::Auto { "uv is not on PATH, " } else { "" };
        let message = format!("{no_uv}the environment has no pip, and its Python has no ensurepip");
        // Debian and Ubuntu have ensurepip in a separate package.
        let next = "Nothing was changed. Install uv, or ensurepip (`apt-get install python3-venv` on Debian and \
                    Ubuntu).";
        Err(Error::repair(message, next).into())
    }

    /// An installer that can limit packages to those available on a certain date. That is always uv: if
    /// `self` is pip, pip fetches uv into `directory`. pip itself can limit packages by date only from
    /// release 26 on, and few environments have that release.
    pub fn limiting_dates(&self, directory: &Path) -> Result<Self, Abort> {
        let (uv, cache) = match &self.program {
            Program::Uv(uv) => (uv.clone(), None),
            Program::Pip(_) => (self.fetch_uv(directory)?, Some(directory.join("cache"))),
        };
        Ok(Self { program: Program::Uv(uv), target: self.target, timeout: self.timeout, cache })
    }

    fn fetch_uv(&self, directory: &Path) -> Result<PathBuf, Abort> {
        let no_uv = |message: String| {
            let next = "Nothing was changed. Install uv, or create a new environment with a newer Python.";
            Error::repair(message, next)
        };
        if !self.target.interpreter.is_at_least(8) {
            let version = &self.target.interpreter.version;
            return Err(no_uv(format!(
                "only uv can resolve packages as of a past date, and it does not support Python {version}"
            ))
            .into());
        }
        let scratch = make_scratch()?;
        let options = ["install", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:"];
        let mut arguments: Vec<OsString> = options.map(OsString::from).into();
        arguments.extend(["--no-deps".into(), "--no-compile".into(), "--target".into(), directory.into()]);
        arguments.push("uv".into());
        let finished = self.run(arguments, self.timeout * MAX_TIMEOUTS, &scratch)?;
        let uv = directory.join("bin/uv");
        if finished.status.success() && uv.is_file() {
            return Ok(uv);
        }
        let output = format!("{}{}", decode(&finished.stdout), decode(&finished.stderr));
        if is_unreachable(&output) {
            return Err(describe_unreachable(&output).into());
        }
        let message = "only uv can resolve packages as of a past date, and pip could not install it";
        Err(no_uv(format!("{message}\n{}", quote_last_lines(&output))).into())
    }

    /// The time at which the last file of a release was uploaded (RFC 3339), as the index reports it to uv;
    /// `None` if the index does not report it, or if this uv is too old to show it.
    pub fn find_upload_time(&self, requirement: &str) -> Result<Option<String>, Abort> {
        let scratch = make_scratch()?;
        let file = write(&scratch, "requirements.txt", &[requirement.to_owned()])?;
        let options = ["pip", "compile", "--no-deps", "--no-header", "--format", "pylock.toml"];
        let mut arguments: Vec<OsString> = options.map(OsString::from).into();
        arguments.push(file.into());
        let finished = self.run(arguments, self.timeout * MAX_TIMEOUTS, &scratch)?;
        Ok(read_upload_times(&decode(&finished.stdout)).max().map(str::to_owned))
    }

    pub fn name(&self) -> &'static str {
        match self.program {
            Program::Uv(_) => "uv",
            Program::Pip(_) => "pip",
        }
    }

    /// Resolves the requirements and installs the packages into `directory`, without bytecode.
    ///
    /// # Errors
    /// Returns an error if the installer cannot be run or cannot reach the package index, or if a signal
    /// arrives. Any other failure of the installer is returned as an outcome.
    pub fn install(&self, request: &InstallRequest, directory: &Path) -> Result<InstallOutcome, Abort> {
        let scratch = make_scratch()?;
        let requirements = write(&scratch, "requirements.txt", &request.requirements)?;
        let constraints = write(&scratch, "constraints.txt", &request.constraints)?;
        let mut arguments: Vec<OsString> = match self.program {
            Program::Uv(_) => {
                let options = ["pip", "install", "--no-progress", "--color", "never"].into_iter();
                options.chain(UV_INSTALL_OPTIONS).map(OsString::from).collect()
            }
            Program::Pip(_) => {
                let options = ["install", "--no-input", "--disable-pip-version-check", "--no-compile"];
                options.map(OsString::from).into()
            }
        };
        arguments.extend(["--target".into(), directory.into(), "-r".into(), requirements.into()]);
        arguments.extend(["-c".into(), constraints.into()]);
        if let Some(moment) = &request.uploaded_before {
            arguments.extend(["--exclude-newer".into(), moment.into()]);
        }
        let finished = self.run(arguments, self.timeout * MAX_TIMEOUTS, &scratch)?;
        let output = format!("{}{}", decode(&finished.stdout), decode(&finished.stderr));
        if finished.status.success() {
            return Ok(InstallOutcome::Installed { output });
        }
        if is_unreachable(&output) {
            return Err(describe_unreachable(&output).into());
        }
        Ok(InstallOutcome::Failed { message: format!("{} {}", self.name(), describe_end(&finished)), output })
    }

    /// Finds the unmet requirements of installed packages. Returns the installer's line about each of them.
    pub fn find_broken_requirements(&self) -> Result<BTreeSet<String>, Abort> {
        let scratch = make_scratch()?;
        let arguments = match self.program {
            Program::Uv(_) => ["pip", "check", "--color", "never"].map(OsString::from).to_vec(),
            Program::Pip(_) => vec!["check".into(), "--disable-pip-version-check".into()],
        };
        let finished = self.run(arguments, self.timeout, &scratch)?;
        if finished.status.code().is_none() {
            let uv = if self.name() == "uv" { "uv " } else { "" };
            let message = format!("`{uv}pip check` was killed by a signal");
            return Err(Error::repair(message, "Nothing was changed. Try again.").into());
        }
        let output = format!("{}{}", decode(&finished.stdout), decode(&finished.stderr));
        // uv: "The package `x` requires `y`, but `z` is installed"; pip: "x 1 requires y, which is
        // not installed." or "x 1 has requirement y, but you have z."
        let is_broken = |line: &&str| line.contains(" requires ") || line.contains(" has requirement ");
        Ok(output.lines().filter(is_broken).map(str::to_owned).collect::<BTreeSet<_>>())
    }

    fn run(
        &self,
        mut arguments: Vec<OsString>,
        limit: Duration,
        scratch: &Scratch,
    ) -> Result<Finished, Abort> {
        let target = self.target;
        let python = &target.interpreter.executable;
        let mut environment = target.environment.clone();
        let program = match &self.program {
            Program::Uv(uv) => {
                arguments.extend(["--python".into(), python.into()]);
                environment.extend(translate_for_uv(python));
                // uv refuses this variable together with `--no-compile-bytecode`.
                environment.push(("UV_COMPILE_BYTECODE".into(), None));
                environment.extend(self.cache.as_ref().map(|cache| set("UV_CACHE_DIR", cache)));
                uv
            }
            Program::Pip(pip) => {
                // Without these flags, pip's own bytecode would be written into the environment.
                let flags = target.interpreter.run_flags();
                arguments.splice(0..0, flags.into_iter().chain(pip.iter().cloned()));
                environment
                    .extend(PIP_OVERRIDES.map(|(name, value)| (name.into(), value.map(OsString::from))));
                // To build a package, pip starts another Python, which must not write bytecode either.
                environment.push(set("PYTHONDONTWRITEBYTECODE", "1"));
                python
            }
        };
        // TMPDIR is set to a private directory, because the installers leave files in it. pip leaves a
        // certificate file if it runs from its wheel. uv leaves a lock file if it builds a package
        // with setuptools.
        let tmp = scratch.directory("tmp");
        let failed = |error| format!("cannot create a temporary directory: {error}");
        let tmp = tmp.map_err(|error| Error::repair(failed(error), UNCHANGED_FREE_SPACE))?;
        environment.push(set("TMPDIR", tmp));
        let child = Child { program, arguments, environment, limit, max_output: MAX_INSTALLER_OUTPUT };
        child.run(scratch).map_err(|error| match error {
            ChildError::Interrupted(signal) => Abort::Interrupted(signal),
            other => {
                let next = "Nothing was changed. Try again, or use another installer with --installer.";
                Error::repair(other.to_string(), next).into()
            }
        })
    }
}

/// Finds the wheel that `ensurepip` would install; `None` if this Python has none.
fn find_bundled_pip(target: &Target, timeout: Duration) -> Result<Option<PathBuf>, Abort> {
    let scratch = make_scratch()?;
    let written = scratch.write("bundled_pip.py", BUNDLED_PIP_PY);
    let script = written.map_err(|error| {
        Error::repair(format!("cannot write bundled_pip.py: {error}"), UNCHANGED_FREE_SPACE)
    })?;
    let sentinel = sentinel();
    let mut arguments = target.interpreter.run_flags();
    arguments.extend([script.into_os_string(), OsString::from(&sentinel)]);
    let program = &target.interpreter.executable;
    let environment = target.environment.clone();
    let child = Child { program, arguments, environment, limit: timeout, max_output: MAX_OUTPUT };
    let answer = child.run(&scratch).and_then(|finished| framed(&finished, &sentinel, program));
    match answer {
        Ok(answer) => Ok(answer["wheel"].as_str().map(PathBuf::from)),
        Err(ChildError::Interrupted(signal)) => Err(Abort::Interrupted(signal)),
        // A Python that cannot run the script counts as one without a wheel.
        Err(_) => Ok(None),
    }
}

/// A private directory for one step.
pub fn make_scratch() -> Result<Scratch, Error> {
    Scratch::new().map_err(|error| {
        let why = describe_io(&error);
        Error::repair(format!("cannot create a temporary directory: {why}"), UNCHANGED_FREE_SPACE)
    })
}

/// Writes a requirements file, one requirement per line.
fn write(scratch: &Scratch, name: &str, lines: &[String]) -> Result<PathBuf, Error> {
    scratch.write(name, &(lines.join("\n") + "\n")).map_err(|error| {
        let message = format!("cannot write {name}: {error}");
        Error::repair(message, UNCHANGED_FREE_SPACE)
    })
}

/// The upload times in a pylock.toml (PEP 751): `upload-time = 2025-06-24T21:27:57Z`.
fn read_upload_times(lock: &str) -> impl Iterator<Item = &str> {
    let times = lock.split("upload-time = ").skip(1);
    times.map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && !"-:.+".contains(letter));
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// The maximum number of lines of an installer's output that a message quotes. The last lines are quoted,
/// because they contain the reason for a failure.
const MAX_QUOTED_LINES: usize = 8;

pub fn quote_last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let quoted = lines[lines.len().saturating_sub(MAX_QUOTED_LINES)..].iter();
    quoted.map(|line| format!("| {line}")).collect::<Vec<_>>().join("\n")
}

/// What pip and uv print if they cannot reach an index. pip then also prints "No matching distribution", as
/// if the package did not exist.
const UNREACHABLE: [&str; 12] = [
    "Failed to establish a new connection",
    "Max retries exceeded",
    "ConnectTimeoutError",
    "NameResolutionError",
    "ProxyError",
    "Read timed out",
    "Temporary failure in name resolution",
    "dns error",
    "error sending request",
    "operation timed out",
    "tcp connect error",
    "client error (Connect)",
];

fn is_unreachable(output: &str) -> bool {
    UNREACHABLE.iter().any(|sign| output.contains(sign))
}

fn describe_unreachable(output: &str) -> Error {
    let line = output.lines().find(|line| UNREACHABLE.iter().any(|sign| line.contains(sign)));
    let line: String = line.unwrap_or_default().trim().chars().take(MAX_REASON).collect();
    let next = "Nothing was changed. Check the network, the proxy, and the index that pip or uv uses. To print \
                what to install, run `pcluster preflight fix --print-requirements` on a machine that can reach \
                the index.";
    Error::repair(format!("the package index cannot be reached: {line}"), next)
}

/// The maximum length, in characters, of the line that the message about an unreachable index quotes.
const MAX_REASON: usize = 160;

fn decode(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn describe_end(finished: &Finished) -> String {
    match finished.status.code() {
        Some(code) => format!("exited with status {code}"),
        None => "was killed by a signal".into(),
    }
}
