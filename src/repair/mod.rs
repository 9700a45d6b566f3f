//! The story of a repair: plan → stage → prove → commit → verify, and its undo.
//!
//! The repair is proven on the side before the environment is touched, and whatever happens on the
//! way, the environment is at the end either repaired or what it was. Never decides whether to
//! repair.

pub mod failpoint;
pub mod file_plan;
pub mod installer;
pub mod journal;
pub mod ownership;
pub mod plan;
pub mod record;
pub mod state;
pub mod transaction;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::json;

use crate::checker::{self, Examined, Request};
use crate::cli::settings::{InstallerChoice, Strategy};
use crate::environment::packages::{Distribution, Packages};
use crate::environment::target::Target;
use crate::error::{Abort, Error};
use crate::package_name::{PCLUSTER, matches};
use crate::report::{Report, Verdict};

use file_plan::Exchange;
use installer::{FREE_SPACE, Installed, Installer, NOTHING_CHANGED, keep_uv_away};
use ownership::{marker_over, refuse_another_users, spack_prefix};
use plan::{Change, Hold, Reason};
pub use state::{Ground, Home, Overlay, find_overlay};
use state::{site_of, taken_words};
use transaction::{OVERLAY_PREFIX, first_of as first_fault};

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
pub fn fix(request: &Request, options: Options) -> Result<Fixed, Abort> {
    let target = checker::identify(request, None)?.map_err(|report| not_proven(&report))?;
    if !options.dry_run && !options.isolated {
        refuse_another_users(site_of(&target).as_deref(), "fix", &request.real.path)?;
    }
    let home = Home::of(&target)?;
    let _alone = home.alone(request.progress)?;
    home.recover(request.progress)?;
    home.tidy(&request.memory);
    if let Err(fault) = home.store().last() {
        request.progress.tell(&format!("{fault}; the repair of before cannot be undone"));
    }
    // Whatever the caller wanted to know: a repair is proven by a synthesis, and the first reason
    // is enough to begin.
    let request = &Request { synthesize: true, thorough: false, ..request.clone() };
    let before = judged(checker::examine(request, &target)?)?;
    let reasons = plan::reasons(&before);
    if reasons.is_empty() {
        return match before.verdict {
            Verdict::Ready => Ok(Fixed::Nothing),
            _ => Err(not_proven(&before).into()),
        };
    }
    let packages = Packages::installed(&target.interpreter.sys_path);
    let installer = Installer::choose(options.installer, &target, &packages, request.settings.timeout)?;
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
    fn stage(&self) -> Result<Staged, Abort> {
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
        let made = failpoint::at("stage")
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
    fn prove(&self, staged: &Staged) -> Result<BTreeSet<String>, Abort> {
        failpoint::at("prove")
            .map_err(|error| Error::repair("proof", error.to_string(), "Nothing was changed."))?;
        let _step = self.request.progress.step("proving the repair beside the environment");
        let target = self.with_overlay(staged.overlay.path())?;
        let (examined, broken) = at_once(
            || checker::examine(self.request, &target),
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
    fn with_overlay(&self, overlay: &Path) -> Result<Target, Abort> {
        if !self.options.isolated {
            return Ok(self.target.with_overlay(overlay));
        }
        let target = checker::identify(self.request, Some(overlay))?.map_err(|report| not_proven(&report))?;
        let is_overlay = |entry: &PathBuf| entry.canonicalize().ok() == overlay.canonicalize().ok();
        if target.interpreter.sys_path.iter().any(is_overlay) {
            return Ok(target);
        }
        let message = "its launcher or its interpreter ignores PYTHONPATH".to_owned();
        Err(Error::repair("isolated", message, "Repair a virtual environment instead.").into())
    }

    /// Binds the proven overlay to the environment as it is now.
    fn keep_overlay(&self, staged: Staged) -> Result<Fixed, Abort> {
        let changes = staged.changes;
        self.home.keep_overlay(staged.overlay, self.target, self.packages, &changes)?;
        Ok(Fixed::Done { changes, isolated: true })
    }

    fn commit(&self, staged: Staged, broken_before: &BTreeSet<String>) -> Result<Fixed, Abort> {
        self.refuse_anothers_packages(&staged.changes)?;
        let _uv_stays_away = keep_uv_away(&self.target.interpreter.prefix, self.request.progress)?;
        let _exclusive = self.home.exclusive()?;
        self.refuse_where_changed()?;
        let exchange = self.exchange(&staged)?;
        self.refuse_directories(&exchange.sites(), &exchange.directories())?;
        let step = self.request.progress.step(&format!(
            "exchanging {} files of {} packages",
            exchange.go.len() + exchange.come.len(),
            staged.changes.len()
        ));
        let store = self.home.store();
        let id = format!("{}-{}", std::process::id(), chrono());
        let unchanged = |fault: String| Error::repair("snapshot", fault, NOTHING_CHANGED);
        let journal =
            store.begin(id, self.home.site(), &exchange, staged.changes.clone()).map_err(unchanged)?;
        // The last moment: to take the snapshot has taken time.
        let unmoved = if journal.taken().packages.is_empty() {
            self.refuse_where_changed()
        } else {
            Err(changed_meanwhile())
        };
        unmoved.inspect_err(|_| store.abandon(&journal))?;
        let exchanged = store.exchange(&exchange).map_err(|fault| {
            Abort::from(Error::repair(
                "commit",
                fault,
                "The environment is as it was. Mend that, then run it again.",
            ))
        });
        drop(step);
        let done = exchanged
            .and_then(|()| self.verify_and_sync(broken_before, &exchange))
            .and_then(|()| journal.moved().map_or(Ok(()), |package| Err(moved(package).into())))
            .and_then(|()| store.close(&journal).map_err(not_written));
        match done {
            Ok(()) => {
                // One that was kept beside the environment is not needed any more.
                let _ = self.home.forget_overlay();
                Ok(Fixed::Done { changes: staged.changes, isolated: false })
            }
            Err(reason) => Err(match (store.restore(&journal), reason) {
                (Ok(taken), Abort::Error(_)) if !taken.is_empty() => left_to_another(&taken).into(),
                (Ok(_), reason) => reason,
                (Err(failed), _) => Error::from(failed).into(),
            }),
        }
    }

    /// Both at once: what the disk does takes no processor.
    fn verify_and_sync(&self, broken_before: &BTreeSet<String>, exchange: &Exchange) -> Result<(), Abort> {
        let (verified, synced) = at_once(|| self.verify(broken_before), || self.home.store().sync(exchange));
        verified?;
        synced.map_err(not_written)
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
        let twice = exchange.parts.iter().find_map(|part| Some((&part.package, part.foreign().pop()?)));
        if let Some((package, other)) = twice {
            let why = format!("{package} is installed twice: {} is there too", other.display());
            return Err(Error::NotInPlace { why, next: ISOLATED.into() });
        }
        match exchange.conflict() {
            Some(path) => {
                let why = format!("{} is in the way, and no package that moves owns it", path.display());
                Err(Error::NotInPlace { why, next: ISOLATED.into() })
            }
            None => Ok(exchange),
        }
    }

    /// What is known before anything is fetched: directories that belong to others, and packages
    /// that this user may not write.
    fn refuse_at_once(&self) -> Result<(), Error> {
        let at_fault = self.reasons.iter().map(|reason| reason.fix.packages.as_str());
        let at_fault: Vec<&str> = at_fault.collect();
        let moving = self.packages.iter().filter(|(name, _)| at_fault.iter().any(|fix| matches(fix, name)));
        let moving: Vec<&Distribution> = moving.map(|(_, distribution)| distribution).collect();
        if moving.iter().any(|distribution| is_condas(distribution) || spack_prefix(distribution).is_some()) {
            // The command to run names versions, which are not known yet.
            return Ok(());
        }
        let parents = moving.iter().filter_map(|package| package.metadata.parent());
        let mut sites: BTreeSet<PathBuf> = parents.map(Path::to_owned).collect();
        if sites.is_empty() {
            // What is new comes beside aws-parallelcluster.
            sites.insert(self.home.site().to_owned());
        }
        self.refuse_directories(&sites.iter().cloned().collect::<Vec<_>>(), &sites)
    }

    /// `sites` are directories of packages, `all` those in which files change.
    fn refuse_directories(&self, sites: &[PathBuf], all: &BTreeSet<PathBuf>) -> Result<(), Error> {
        let marker = |site: &PathBuf| Some((site.clone(), marker_over(site, &self.target.interpreter)?));
        if let Some((site, marker)) = sites.iter().find_map(marker) {
            let why = format!("{} belongs to the system ({} says so)", site.display(), marker.display());
            return Err(Error::NotInPlace { why, next: ISOLATED.into() });
        }
        let every = sites.iter().chain(all).map(PathBuf::as_path);
        refuse_another_users(every, "fix", &self.request.real.path)?;
        refuse_unwritable(all.iter().cloned())
    }

    /// Packages of conda's and Spack's, with the command that does it.
    fn refuse_anothers_packages(&self, changes: &[Change]) -> Result<(), Error> {
        let of = |is_its: fn(&Distribution) -> bool| -> Vec<&Change> {
            let is_its = |change: &&Change| self.packages.get(&change.package).is_some_and(is_its);
            changes.iter().filter(is_its).collect()
        };
        let condas = of(is_condas);
        if !condas.is_empty() {
            let specs =
                condas.iter().map(|change| format!("'{}={}'", self.name_of(&change.package), change.to));
            let specs = specs.collect::<Vec<_>>().join(" ");
            let prefix = self.target.interpreter.prefix.display();
            let why = "its packages were installed by conda, and pip must not change them behind its back";
            let next = format!("Run `conda install --prefix {prefix} {specs}`.");
            return Err(Error::NotInPlace { why: why.into(), next });
        }
        let spacks = of(|distribution| spack_prefix(distribution).is_some());
        let Some(prefix) = spacks.iter().find_map(|change| spack_prefix(self.packages.get(&change.package)?))
        else {
            return Ok(());
        };
        // Spack calls a Python package py-NAME.
        let specs = spacks.iter().map(|change| format!(" ^py-{}@{}", change.package, change.to));
        let version = self.packages.get(PCLUSTER).map(|pcluster| format!("@{}", pcluster.version));
        let why =
            format!("{} was installed by Spack, which knows its files by their digests", prefix.display());
        let next = format!(
            "Run `spack install {PCLUSTER}{}{}`, or `pcluster preflight fix --isolated`, which keeps the repair \
             beside it.",
            version.unwrap_or_default(),
            specs.collect::<String>()
        );
        Err(Error::NotInPlace { why, next })
    }

    fn name_of(&self, package: &str) -> String {
        self.packages.get(package).map_or_else(|| package.to_owned(), |old| old.name.to_lowercase())
    }

    /// Between the plan and the lock another installer may have been here.
    fn refuse_where_changed(&self) -> Result<(), Error> {
        let now = Packages::installed(&self.target.interpreter.sys_path);
        if now.all() == self.packages.all() {
            return Ok(());
        }
        Err(changed_meanwhile())
    }

    fn broken_requirements(&self, step: &'static str) -> Result<BTreeSet<String>, Abort> {
        self.installer.broken_requirements(self.target, self.request.settings.timeout, step)
    }

    /// The environment itself, as it is now: no requirement newly broken, and ready.
    fn verify(&self, broken_before: &BTreeSet<String>) -> Result<(), Abort> {
        let undone = "The environment was put back as it was.";
        failpoint::at("verify").map_err(|error| Error::repair("verification", error.to_string(), undone))?;
        let _step = self.request.progress.step("verifying the repaired environment");
        let (examined, broken) = at_once(
            || checker::examine(self.request, self.target),
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

fn is_condas(distribution: &Distribution) -> bool {
    distribution.installer().as_deref() == Some("conda")
}

fn changed_meanwhile() -> Error {
    let next = "The repair has changed nothing. Wait until the other installer has ended, then run it again.";
    Error::repair("commit", "another installer has changed the environment meanwhile".into(), next)
}

fn moved(package: &str) -> Error {
    let message = format!("another installer has changed {package} meanwhile");
    let next = "The environment was put back as it was. Wait until the other installer has ended, then run it again.";
    Error::repair("commit", message, next)
}

/// The rollback destroys nothing that another installer has written in the meantime.
fn left_to_another(packages: &[String]) -> Error {
    let message = format!("another installer has changed {} meanwhile", packages.join(", "));
    let next = format!(
        "The environment was put back as it was{}. Wait until the other installer has ended, then run it again.",
        taken_words(packages)
    );
    Error::repair("commit", message, &next)
}

fn not_written(fault: String) -> Abort {
    let next = format!("The environment was put back as it was. {FREE_SPACE}");
    Error::repair("commit", fault, &next).into()
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
pub fn undo(request: &Request) -> Result<Undone, Abort> {
    let target = checker::identify(request, None)?.map_err(|report| {
        Error::repair("undo", report.reasons().join("; "), "Name the pcluster that was repaired with --real.")
    })?;
    refuse_another_users(site_of(&target).as_deref(), "undo", &request.real.path)?;
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
    let refused = |message: String, next: &str| Error::repair("undo", message, next);
    let last = store.last().map_err(|fault| refused(fault, UNREADABLE))?;
    let Some(last) = last else {
        return Err(Error::NothingToUndo { site: home.site().to_owned() }.into());
    };
    let _uv_stays_away = keep_uv_away(&target.interpreter.prefix, request.progress)?;
    let _exclusive = home.exclusive()?;
    let packages = Packages::installed(&target.interpreter.sys_path);
    let moved = last.changes.iter().find(|change| {
        packages.get(&change.package).map(|package| package.version.as_str()) != Some(change.to.as_str())
    });
    if let Some(change) = moved {
        let message =
            format!("{} is no longer at {}: the environment has changed since", change.package, change.to);
        return Err(refused(message, "Nothing was changed.").into());
    }
    if let Some(package) = last.moved() {
        let message = format!("{package} was installed anew since");
        return Err(refused(message, "Nothing was changed.").into());
    }
    store.check(&last).map_err(|faults| refused(first_fault(&faults), STAYS_REPAIRED))?;
    let unchanged = |fault| Error::repair("undo", fault, NOTHING_CHANGED);
    store.reopen().map_err(unchanged)?;
    failpoint::at("undo").map_err(|error| Error::repair("undo", error.to_string(), "Run it again."))?;
    store.restore(&last).map_err(Error::from)?;
    Ok(Undone::InPlace(last.changes))
}

const UNREADABLE: &str = "Nothing was changed or removed. Restore that file from a backup; without one the copies \
                          beside it cannot be put back.";

const STAYS_REPAIRED: &str = "Nothing was changed; the environment stays repaired. Restore that copy from a backup, or \
                              make an environment anew.";

/// What is said about a repair in JSON.
#[must_use]
pub fn as_json(changes: &[Change], status: &str, isolated: bool) -> serde_json::Value {
    json!({"schemaVersion": 1, "status": status, "isolated": isolated, "changes": changes})
}
