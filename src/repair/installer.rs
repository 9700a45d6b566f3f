//! The program that resolves and fetches packages: uv where there is one, else the environment's
//! own pip, else the pip that its Python brings along (`ensurepip`), which runs from its wheel. It
//! only ever writes into a directory of the repair's.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::settings::InstallerChoice;
use crate::environment::packages::Packages;
use crate::environment::target::Target;
use crate::error::{Abort, Error, RepairStep};
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::pip_settings::uv_environment;
use crate::repair::plan::Wanted;
use crate::system::child::{Child, ChildError, Finished, framed, sentinel, set};
use crate::system::executables;
use crate::system::scratch::Scratch;

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
