//! The story of a repair: plan → stage → prove → commit → verify, and its undo.
//!
//! The repair is proven on the side before the environment is touched, and whatever happens on the
//! way, the environment is at the end either repaired or what it was. Never decides whether to
//! repair.

pub mod exchange;
pub mod fault;
pub mod ground;
pub mod installer;
pub mod plan;
pub mod transaction;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::json;

use crate::advisory::names;
use crate::config::{InstallerChoice, Strategy};
use crate::error::{Error, Stop};
use crate::examine::{self, Examined, Request};
use crate::packages::{Distribution, PCLUSTER, Packages};
use crate::report::{Report, Verdict};
use crate::target::Target;

use exchange::Exchange;
pub use ground::{Ground, Home, Overlay, find_overlay};
use installer::{FREE_SPACE, Installed, Installer, NOTHING_CHANGED};
use plan::{Change, Hold, Reason};
use transaction::OVERLAY_PREFIX;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Stage and prove, then say what would be done.
    pub dry_run: bool,
    pub strategy: Strategy,
    pub isolated: bool,
    pub installer: InstallerChoice,
    /// Show the installer's own output.
    pub verbose: bool,
}

/// How a repair ended.
#[derive(Debug)]
pub enum Fixed {
    Nothing,
    Planned(Vec<Change>),
    Done { changes: Vec<Change>, isolated: bool },
}

/// Repairs the environment of `request`, or proves that it could be.
///
/// # Errors
/// The step at which it could not be done. The environment is then what it was.
pub fn fix(request: &Request, options: Options) -> Result<Fixed, Stop> {
    let target = examine::identify(request, None)?.map_err(|report| not_proven(&report))?;
    let home = Home::of(&target)?;
    let _alone = home.alone(request.progress)?;
    home.recover(request.progress)?;
    home.tidy(&request.memory);
    // Whatever the caller wanted to know: a repair is proven by a synthesis, and the first reason
    // is enough to begin.
    let request = &Request { synthesize: true, thorough: false, ..request.clone() };
    let before = judged(examine::examine(request, &target)?)?;
    let reasons = examine::reasons(&before);
    if reasons.is_empty() {
        return match before.verdict {
            Verdict::Ready => Ok(Fixed::Nothing),
            _ => Err(not_proven(&before).into()),
        };
    }
    let packages = Packages::installed(&target.interpreter.sys_path);
    let installer = Installer::choose(options.installer, &target, &packages)?;
    let repair =
        Repair { request, options, target: &target, packages: &packages, reasons, installer, home: &home };
    if !options.dry_run && !options.isolated {
        repair.refuse_at_once()?;
    }
    let staged = repair.stage()?;
    let broken_before = repair.prove(&staged)?;
    if options.dry_run {
        return Ok(Fixed::Planned(staged.changes));
    }
    if options.isolated {
        return repair.keep_overlay(staged);
    }
    repair.commit(staged, &broken_before)
}

fn judged(examined: Examined) -> Result<Report, Error> {
    match examined {
        Examined::Judged(report) => Ok(*report),
        Examined::Rejected { stage, message } => Err(Error::Rejected { stage, message }),
    }
}

fn not_proven(report: &Report) -> Error {
    Error::repair(
        "proof",
        first_of(&report.reasons()),
        "Nothing was changed. Mend that first; no move of packages does.",
    )
}

/// A directory with the packages that would be installed, gone when dropped.
struct Staged {
    overlay: tempfile::TempDir,
    packages: Packages,
    changes: Vec<Change>,
}

struct Repair<'a> {
    request: &'a Request<'a>,
    options: Options,
    target: &'a Target,
    packages: &'a Packages,
    reasons: Vec<Reason>,
    installer: Installer,
    home: &'a Home,
}

impl Repair<'_> {
    /// Resolves and installs on the side; a second time with more freedom where all others held in
    /// their place leave no solution.
    fn stage(&self) -> Result<Staged, Stop> {
        let step = self
            .request
            .progress
            .step(&format!("resolving and fetching packages with {}", self.installer.name()));
        let mut said = String::new();
        for hold in [Hold::All, Hold::Neighbours] {
            let installed = self.packages.all();
            let Some(wanted) = plan::wanted(installed, &self.reasons, self.options.strategy, hold) else {
                let next = "Report it: the advisory names no installed package.";
                return Err(Error::repair("plan", "there is nothing that could be moved".into(), next).into());
            };
            let overlay = self.new_overlay()?;
            match self.installer.install(
                &wanted,
                overlay.path(),
                self.target,
                self.request.settings.timeout,
            )? {
                Installed::Done { output } => {
                    drop(step);
                    self.request.progress.show(&output, self.options.verbose);
                    let packages = Packages::installed(&[overlay.path().to_owned()]);
                    let changes = plan::changes(installed, packages.all(), &self.reasons);
                    return Ok(Staged { overlay, packages, changes });
                }
                Installed::Failed { message, output } => {
                    said = [message, last_lines(&output)].join("\n");
                }
            }
        }
        let next = "Nothing was changed. Mend what the installer says, then run it again.";
        Err(Error::repair("stage", said.trim_end().to_owned(), next).into())
    }

    fn new_overlay(&self) -> Result<tempfile::TempDir, Error> {
        let made = fault::at("stage")
            .and_then(|()| tempfile::Builder::new().prefix(OVERLAY_PREFIX).tempdir_in(self.home.directory()));
        made.map_err(|error| {
            let directory = self.home.directory().display().to_string();
            Error::repair(
                "stage",
                format!("cannot make a directory in {directory}: {error}"),
                NOTHING_CHANGED,
            )
        })
    }

    /// The whole walk with the overlay in front of the environment. What else takes seconds is done
    /// meanwhile: the overlay's bytecode, and which requirements are broken already.
    fn prove(&self, staged: &Staged) -> Result<BTreeSet<String>, Stop> {
        fault::at("prove")
            .map_err(|error| Error::repair("proof", error.to_string(), "Nothing was changed."))?;
        let _step = self.request.progress.step("proving the repair beside the environment");
        let target = self.with_overlay(staged.overlay.path())?;
        let (examined, broken) = at_once(
            || examine::examine(self.request, &target),
            || {
                self.installer.compile(staged.overlay.path(), self.target, self.request.settings.timeout)?;
                self.broken_requirements("proof")
            },
        );
        self.request.memory.forget_bytecode(staged.overlay.path());
        let report = judged(examined?)?;
        if report.verdict == Verdict::Ready {
            return broken;
        }
        let tried =
            plan::summary(&staged.changes).into_iter().map(|(name, step, _)| format!("{name} {step}"));
        let tried = tried.collect::<Vec<_>>().join(", ");
        let message = if tried.is_empty() {
            format!("{} brought no other packages", self.installer.name())
        } else {
            format!("with {tried} it is not ready either: {}", first_of(&report.reasons()))
        };
        let next = "Nothing was changed. Try the other --strategy, or report it.";
        Err(Error::repair("proof", message, next).into())
    }

    /// The target with the staged packages in front: as they will be installed, or where the repair is
    /// kept beside the environment, as the launcher lets PYTHONPATH put them there.
    fn with_overlay(&self, overlay: &Path) -> Result<Target, Stop> {
        if !self.options.isolated {
            return Ok(self.target.with_overlay(overlay));
        }
        let target = examine::identify(self.request, Some(overlay))?.map_err(|report| not_proven(&report))?;
        let is_overlay = |entry: &PathBuf| entry.canonicalize().ok() == overlay.canonicalize().ok();
        if target.interpreter.sys_path.iter().any(is_overlay) {
            return Ok(target);
        }
        let message = "its launcher or its interpreter ignores PYTHONPATH".to_owned();
        Err(Error::repair("isolated", message, "Repair a virtual environment instead.").into())
    }

    /// Binds the proven overlay to the environment as it is now.
    fn keep_overlay(&self, staged: Staged) -> Result<Fixed, Stop> {
        let changes = staged.changes;
        self.home.keep_overlay(staged.overlay, self.target, self.packages, &changes)?;
        Ok(Fixed::Done { changes, isolated: true })
    }

    fn commit(&self, staged: Staged, broken_before: &BTreeSet<String>) -> Result<Fixed, Stop> {
        self.refuse_condas(&staged.changes)?;
        let exchange = self.exchange(&staged)?;
        refuse_unwritable(exchange.directories())?;
        let step = self.request.progress.step(&format!(
            "exchanging {} files of {} packages",
            exchange.go.len() + exchange.come.len(),
            staged.changes.len()
        ));
        let _exclusive = self.home.exclusive()?;
        self.refuse_where_changed()?;
        let store = self.home.store();
        let id = format!("{}-{}", std::process::id(), chrono());
        let unchanged = |fault: String| Error::repair("snapshot", fault, NOTHING_CHANGED);
        let journal =
            store.begin(id, self.home.site(), &exchange, staged.changes.clone()).map_err(unchanged)?;
        let done = store.exchange(&exchange).map_err(|fault| {
            Stop::from(Error::repair(
                "commit",
                fault,
                "The environment is as it was. Mend that, then run it again.",
            ))
        });
        drop(step);
        let done = done.and_then(|()| self.verify(broken_before)).and_then(|()| {
            let closed = store.close(&journal);
            closed.map_err(|fault| {
                let next = format!("The environment was put back as it was. {FREE_SPACE}");
                Error::repair("commit", fault, &next).into()
            })
        });
        match done {
            Ok(()) => {
                // One that was kept beside the environment is not needed any more.
                let _ = self.home.forget_overlay();
                Ok(Fixed::Done { changes: staged.changes, isolated: false })
            }
            Err(error) => Err(match store.restore(&journal) {
                Ok(()) => error,
                Err(faults) => Error::not_restored(&faults).into(),
            }),
        }
    }

    fn exchange(&self, staged: &Staged) -> Result<Exchange, Error> {
        let mut exchange = Exchange::default();
        for change in &staged.changes {
            let old = self.packages.get(&change.package);
            // Spelled as `sys.path` does: one file must not have two names here.
            let beside = self.packages.get(PCLUSTER);
            let site = old.or(beside).and_then(|package| package.metadata.parent());
            let site = site.unwrap_or(self.home.site());
            let Some(new) = staged.packages.get(&change.package) else { continue };
            let replaced = exchange.replace(old, new, staged.overlay.path(), site);
            replaced.map_err(|why| Error::NotInPlace { why, next: ISOLATED.into() })?;
        }
        match exchange.conflict() {
            Some(path) => {
                let why = format!("{} is in the way, and no package that moves owns it", path.display());
                Err(Error::NotInPlace { why, next: ISOLATED.into() })
            }
            None => Ok(exchange),
        }
    }

    /// What is known before anything is fetched: a Python that belongs to the system, and packages
    /// that this user may not write.
    fn refuse_at_once(&self) -> Result<(), Error> {
        if let Some(marker) = self.target.interpreter.externally_managed.as_ref() {
            let why = format!("its Python belongs to the system ({} says so)", marker.display());
            return Err(Error::NotInPlace { why, next: ISOLATED.into() });
        }
        let at_fault = self.reasons.iter().map(|reason| reason.fix.packages.as_str());
        let at_fault: Vec<&str> = at_fault.collect();
        let moving = self.packages.iter().filter(|(name, _)| at_fault.iter().any(|fix| names(fix, name)));
        let moving: Vec<&Distribution> = moving.map(|(_, distribution)| distribution).collect();
        if moving.iter().any(|distribution| distribution.installer().as_deref() == Some("conda")) {
            // The command to run names versions, which are not known yet.
            return Ok(());
        }
        refuse_unwritable(moving.iter().filter_map(|package| package.metadata.parent()).map(Path::to_owned))
    }

    fn refuse_condas(&self, changes: &[Change]) -> Result<(), Error> {
        let by_conda = |change: &&Change| {
            let old = self.packages.get(&change.package);
            old.and_then(Distribution::installer).as_deref() == Some("conda")
        };
        let specs = changes
            .iter()
            .filter(by_conda)
            .map(|change| format!("'{}={}'", self.name_of(&change.package), change.to))
            .collect::<Vec<_>>()
            .join(" ");
        if specs.is_empty() {
            return Ok(());
        }
        let prefix = self.target.interpreter.prefix.display();
        let why = "its packages were installed by conda, and pip must not change them behind its back";
        let next = format!("Run `conda install --prefix {prefix} {specs}`.");
        Err(Error::NotInPlace { why: why.into(), next })
    }

    fn name_of(&self, package: &str) -> String {
        self.packages.get(package).map_or_else(|| package.to_owned(), |old| old.name.to_lowercase())
    }

    /// Between the plan and the lock somebody else may have been here.
    fn refuse_where_changed(&self) -> Result<(), Error> {
        let now = Packages::installed(&self.target.interpreter.sys_path);
        if now.all() == self.packages.all() {
            return Ok(());
        }
        Err(Error::repair(
            "commit",
            "the environment was changed meanwhile".into(),
            "Nothing was changed. Run it again.",
        ))
    }

    fn broken_requirements(&self, step: &'static str) -> Result<BTreeSet<String>, Stop> {
        self.installer.broken_requirements(self.target, self.request.settings.timeout, step)
    }

    /// The environment itself, as it is now: no requirement newly broken, and ready.
    fn verify(&self, broken_before: &BTreeSet<String>) -> Result<(), Stop> {
        let undone = "The environment was put back as it was.";
        fault::at("verify").map_err(|error| Error::repair("verification", error.to_string(), undone))?;
        let _step = self.request.progress.step("verifying the repaired environment");
        let (examined, broken) = at_once(
            || examine::examine(self.request, self.target),
            || self.broken_requirements("verification"),
        );
        let broken = broken?;
        let newly: Vec<&str> = broken.difference(broken_before).map(String::as_str).collect();
        if !newly.is_empty() {
            return Err(Error::repair("verification", newly.join("; "), undone).into());
        }
        let report = judged(examined?)?;
        if report.verdict == Verdict::Ready {
            return Ok(());
        }
        Err(Error::repair("verification", report.reasons().join("; "), undone).into())
    }
}

/// Both; most machines have a processor for each.
fn at_once<A, B: Send>(here: impl FnOnce() -> A, aside: impl FnOnce() -> B + Send) -> (A, B) {
    thread::scope(|scope| {
        let aside = scope.spawn(aside);
        let here = here();
        (here, aside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

const ISOLATED: &str = "Run `pcluster preflight fix --isolated`: it keeps the repair beside the environment.";

/// Nanoseconds, for names only.
fn chrono() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

fn refuse_unwritable(directories: impl IntoIterator<Item = PathBuf>) -> Result<(), Error> {
    match directories.into_iter().find(|directory| !is_writable(directory)) {
        Some(directory) => {
            let why = format!("{} cannot be written", directory.display());
            Err(Error::NotInPlace { why, next: ISOLATED.into() })
        }
        None => Ok(()),
    }
}

fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// A template has many faults at once; the first ones tell.
fn first_of(reasons: &[String]) -> String {
    const TOLD: usize = 2;
    let more = reasons.len().saturating_sub(TOLD);
    let more = (more > 0).then(|| format!("and {more} more"));
    reasons.iter().take(TOLD).cloned().chain(more).collect::<Vec<_>>().join("; ")
}

/// An installer's output says at its end why it failed.
fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// What an undo took back.
#[derive(Debug)]
pub enum Undone {
    InPlace(Vec<Change>),
    Isolated(Vec<Change>),
}

/// Takes the last repair back.
///
/// # Errors
/// There is none, the environment has changed since, or files cannot be put back.
pub fn undo(request: &Request) -> Result<Undone, Stop> {
    let target = examine::identify(request, None)?.map_err(|report| {
        Error::repair("undo", report.reasons().join("; "), "Name the pcluster that was repaired with --real.")
    })?;
    let home = Home::of(&target)?;
    let _alone = home.alone(request.progress)?;
    let rolled_back = home.recover(request.progress)?;
    home.tidy(&request.memory);
    if let Some(changes) = rolled_back {
        // That was the last one; what stood before it is not meant.
        return Ok(Undone::InPlace(changes));
    }
    if let Some(changes) = home.forget_overlay() {
        return Ok(Undone::Isolated(changes));
    }
    let store = home.store();
    let Some(last) = store.last() else {
        let message = "no repair of this environment is remembered".to_owned();
        return Err(Error::repair("undo", message, "Nothing was changed.").into());
    };
    let _exclusive = home.exclusive()?;
    let packages = Packages::installed(&target.interpreter.sys_path);
    let moved = last.changes.iter().find(|change| {
        packages.get(&change.package).map(|package| package.version.as_str()) != Some(change.to.as_str())
    });
    if let Some(change) = moved {
        let message =
            format!("{} is no longer at {}: the environment has changed since", change.package, change.to);
        return Err(Error::repair("undo", message, "Nothing was changed.").into());
    }
    let unchanged = |fault| Error::repair("undo", fault, NOTHING_CHANGED);
    store.reopen().map_err(unchanged)?;
    fault::at("undo").map_err(|error| Error::repair("undo", error.to_string(), "Run it again."))?;
    store.restore(&last).map_err(|faults| Error::not_restored(&faults))?;
    Ok(Undone::InPlace(last.changes))
}

/// What is said about a repair in JSON.
#[must_use]
pub fn as_json(changes: &[Change], status: &str, isolated: bool) -> serde_json::Value {
    json!({"schemaVersion": 1, "status": status, "isolated": isolated, "changes": changes})
}

/// Where aws-parallelcluster is installed: the directory that is locked, and that new packages
/// go to.
fn site_of(target: &Target) -> Option<PathBuf> {
    let pcluster = Packages::find(&target.interpreter.sys_path, PCLUSTER)?;
    let directory = pcluster.metadata.parent()?.to_owned();
    Some(fs::canonicalize(&directory).unwrap_or(directory))
}
