//! Where repairs of one environment keep their files, who may work on it, and which overlay counts.
//!
//! Two locks, both of flock(2), which die with their holder. `alone` is a file of ours: one repair
//! at a time, for the whole of it. The other is on the environment's own directory: shared by checks,
//! exclusive while files are exchanged, so that no check ever sees half an environment.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::{Fingerprint, Memory};
use crate::checker::{self, Examined, Request};
use crate::environment::packages::Packages;
use crate::environment::target::Target;
use crate::error::{Abort, Error};
use crate::package_name::PCLUSTER;
use crate::progress::Progress;
use crate::repair::journal::Journal;
use crate::repair::plan::Change;
use crate::repair::transaction::Store;
use crate::report::{Check, Report, Status};
use crate::system::disk::{self, Durability};
use crate::system::signals::Interrupts;
use crate::system::{dirs, files, trust};

/// The state of one environment's repairs.
#[derive(Debug)]
pub struct Home {
    store: Store,
    site: PathBuf,
}

/// A lock that is given up when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

const STATE: &str = "Set XDG_STATE_HOME to a directory that can be written.";

impl Home {
    /// Makes the state directory of this environment.
    ///
    /// # Errors
    /// There is no pcluster, or no place for state.
    pub fn of(target: &Target) -> Result<Self, Error> {
        let Some(site) = site_of(target) else {
            let message = format!("{} has no {PCLUSTER}", target.interpreter.executable.display());
            return Err(Error::repair("plan", message, "Name the pcluster to be repaired with --real."));
        };
        let no_state = |message: String| Error::repair("state", message, STATE);
        let home = Self::at(site).ok_or_else(|| no_state(dirs::why_no_state()))?;
        let directory = home.directory();
        let made = trust::make_directory(directory);
        made.map_err(|error| no_state(format!("cannot make {}: {error}", directory.display())))?;
        Ok(home)
    }

    /// The same without making anything.
    fn find(target: &Target) -> Option<Self> {
        Self::at(site_of(target)?)
    }

    fn at(site: PathBuf) -> Option<Self> {
        let state = dirs::state()?;
        let mut key = Fingerprint::environment();
        key.field(site.as_os_str().as_encoded_bytes());
        let directory = state.join("environments").join(&key.key()[..16]);
        Some(Self { store: Store { directory, site: site.clone() }, site })
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.store.directory
    }

    #[must_use]
    pub fn site(&self) -> &Path {
        &self.site
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Waits until no other repair of this environment is at work, saying who holds it up.
    ///
    /// # Errors
    /// The lock file cannot be written, or we were interrupted.
    pub fn alone(&self, progress: Progress) -> Result<Lock, Abort> {
        let path = self.directory().join("lock");
        let failed = |error: io::Error| {
            Abort::from(Error::repair("lock", format!("cannot lock {}: {error}", path.display()), STATE))
        };
        let open =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let _step = progress
                    .step(&format!("waiting for another repair of this environment (PID {})", holder.trim()));
                wait(|| file.try_lock(), failed)?;
            }
        }
        // Who holds it is for people to read; the lock itself does not depend on it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Lock(file))
    }

    /// For as long as files are exchanged.
    ///
    /// # Errors
    /// The environment's directory cannot be opened, or we were interrupted.
    pub fn exclusive(&self) -> Result<Lock, Abort> {
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}", self.site.display());
            Abort::from(Error::repair("lock", message, "Nothing was changed."))
        };
        let file = File::open(&self.site).map_err(failed)?;
        wait(|| file.try_lock(), failed)?;
        Ok(Lock(file))
    }

    /// For as long as the environment is read, which no repair has half changed.
    ///
    /// # Errors
    /// Files cannot be put back, or we were interrupted.
    pub fn whole(&self, progress: Progress) -> Result<Option<Lock>, Abort> {
        loop {
            self.recover(progress)?;
            let shared = self.shared()?;
            // Between the two a repair may have begun and been cut off.
            if shared.is_none() || self.unfinished()?.is_none() {
                return Ok(shared);
            }
        }
    }

    /// For as long as the environment is read. Where it cannot be had, reading goes on without.
    ///
    /// # Errors
    /// We were interrupted while a repair was at work.
    fn shared(&self) -> Result<Option<Lock>, Abort> {
        let Ok(file) = File::open(&self.site) else { return Ok(None) };
        let without = |_| Abort::Error(Error::NoRealPcluster);
        match wait(|| file.try_lock_shared(), without) {
            Ok(()) => Ok(Some(Lock(file))),
            Err(Abort::Interrupted(signal)) => Err(Abort::Interrupted(signal)),
            Err(Abort::Error(_)) => Ok(None),
        }
    }

    /// Rolls an unfinished exchange back, says so, and returns what it had changed.
    ///
    /// # Errors
    /// Files cannot be put back, or we were interrupted.
    pub fn recover(&self, progress: Progress) -> Result<Option<Vec<Change>>, Abort> {
        if self.unfinished()?.is_none() {
            return Ok(None);
        }
        let _exclusive = self.exclusive()?;
        // Whoever had the lock may have finished in the meantime.
        let Some(journal) = self.unfinished()? else { return Ok(None) };
        let step = progress.step("rolling back a repair that was cut off");
        let taken = self.store.restore(&journal).map_err(Error::from)?;
        drop(step);
        let count = journal.changes.len() - taken.len();
        let left = taken_words(&taken);
        progress.tell(&format!(
            "a repair that was cut off is rolled back: {count} packages are as they were{left}"
        ));
        Ok(Some(journal.changes))
    }

    fn unfinished(&self) -> Result<Option<Journal>, Error> {
        let next = "It tells how to take back a repair that was cut off. Restore that file, or make the \
                    environment anew.";
        self.store.unfinished().map_err(|fault| Error::repair("rollback", fault, next))
    }

    /// Removes what repairs that were cut off have left beside the environment. For whoever is
    /// alone here: another repair would lose what it works with.
    pub fn tidy(&self, memory: &Memory) {
        self.store.tidy(|overlay| memory.forget_bytecode(overlay));
    }

    /// The same, where nobody is at work.
    fn tidy_if_alone(&self, memory: &Memory) {
        let path = self.directory().join("lock");
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        if file.try_lock().is_ok() {
            self.tidy(memory);
        }
    }

    /// Keeps a proven overlay, bound to the environment as it is.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_overlay(
        &self,
        overlay: tempfile::TempDir,
        target: &Target,
        packages: &Packages,
        changes: &[Change],
    ) -> Result<(), Error> {
        let failed = |error: io::Error| Error::repair("isolated", error.to_string(), STATE);
        let _ = self.forget_overlay();
        let kept = self.overlay_directory();
        fs::rename(overlay.keep(), &kept).map_err(failed)?;
        let record = Isolated { environment: environment_key(target, packages), changes: changes.to_vec() };
        let record = serde_json::to_vec(&record).unwrap_or_default();
        // What a loss of power leaves of it is checked before every use.
        disk::write_atomically(&self.overlay_record(), &record, Durability::Cached).map_err(failed)
    }

    /// Removes the overlay; what it had changed, if there was one.
    #[must_use]
    pub fn forget_overlay(&self) -> Option<Vec<Change>> {
        let record = self.read_overlay();
        let _ = fs::remove_file(self.overlay_record());
        let _ = fs::remove_dir_all(self.overlay_directory());
        record.map(|record| record.changes)
    }

    fn overlay(&self, target: &Target) -> Overlay {
        let Some(record) = self.read_overlay() else { return Overlay::None };
        let packages = Packages::installed(&target.interpreter.sys_path);
        if record.environment == environment_key(target, &packages) && self.overlay_directory().is_dir() {
            Overlay::Bound(self.overlay_directory())
        } else {
            Overlay::Stale
        }
    }

    fn overlay_directory(&self) -> PathBuf {
        self.directory().join("isolated")
    }

    fn overlay_record(&self) -> PathBuf {
        self.directory().join("isolated.json")
    }

    fn read_overlay(&self) -> Option<Isolated> {
        serde_json::from_slice(&trust::read_up_to(&self.overlay_record(), files::MAX_BYTES).ok()?).ok()
    }
}

/// A repair that is kept beside its environment.
#[derive(Debug, Serialize, Deserialize)]
struct Isolated {
    /// The fingerprint of the environment that it was proven on.
    environment: String,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    None,
    Bound(PathBuf),
    /// The environment has changed since.
    Stale,
}

fn environment_key(target: &Target, packages: &Packages) -> String {
    let mut key = Fingerprint::environment();
    key.file(&target.interpreter.executable).field(&target.interpreter.version);
    packages.fingerprint(&target.interpreter, &mut key);
    key.key()
}

/// Behind "as it was": the packages that a rollback has left to another installer.
pub(super) fn taken_words(packages: &[String]) -> String {
    match packages {
        [] => String::new(),
        [package] => format!(", but {package} is left as the other installer has written it"),
        packages => format!(", but {} are left as the other installer has written them", packages.join(", ")),
    }
}

/// Where aws-parallelcluster is installed: the directory that is locked, and that new packages
/// go to.
pub(super) fn site_of(target: &Target) -> Option<PathBuf> {
    let pcluster = Packages::find(&target.interpreter.sys_path, PCLUSTER)?;
    let directory = pcluster.metadata.parent()?.to_owned();
    Some(fs::canonicalize(&directory).unwrap_or(directory))
}

/// Asks again and again: a call that blocks is taken up again after a signal, and Ctrl-C would have
/// to wait for the lock.
pub(super) fn wait(
    lock: impl Fn() -> Result<(), TryLockError>,
    failed: impl FnOnce(io::Error) -> Abort,
) -> Result<(), Abort> {
    loop {
        match lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                Interrupts::caught().check()?;
                thread::sleep(LOOK_AGAIN);
            }
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a check stands on: an environment that nobody is exchanging files of.
#[derive(Debug)]
pub struct Ground {
    /// With the overlay in front where there is one that counts.
    pub target: Target,
    pub overlay: Overlay,
    /// What could not be prepared: a repair that was cut off and cannot be rolled back. The
    /// environment is examined all the same, as it is.
    unprepared: Option<Check>,
    _shared: Option<Lock>,
}

impl Ground {
    /// Identifies the target, rolls back what was cut off, and keeps repairs away while it lives.
    ///
    /// # Errors
    /// Returns an error if a signal came or nothing real is behind the launcher. The inner error is
    /// the report of an environment that stays unknown.
    pub fn find(request: &Request) -> Result<Result<Self, Box<Report>>, Abort> {
        let target = match checker::identify(request, None)? {
            Ok(target) => target,
            Err(report) => return Ok(Err(report)),
        };
        let Some(home) = Home::find(&target) else {
            return Ok(Ok(Self { target, overlay: Overlay::None, unprepared: None, _shared: None }));
        };
        let (shared, unprepared) = match home.whole(request.progress) {
            Ok(shared) => (shared, None),
            Err(Abort::Error(error)) => (home.shared()?, Some(describe_failed_rollback(&error))),
            Err(interrupted) => return Err(interrupted),
        };
        home.tidy_if_alone(&request.memory);
        let overlay = home.overlay(&target);
        // The launcher decides what becomes of PYTHONPATH.
        let identified = match &overlay {
            Overlay::Bound(directory) => checker::identify(request, Some(directory))?,
            Overlay::None | Overlay::Stale => Ok(target),
        };
        let target = match identified {
            Ok(target) => target,
            Err(report) => return Ok(Err(report)),
        };
        Ok(Ok(Self { target, overlay, unprepared, _shared: shared }))
    }

    /// Examines the environment as it is; what could not be prepared is unknown.
    ///
    /// # Errors
    /// Returns an error if a signal came.
    pub fn examine(&self, request: &Request) -> Result<Examined, Abort> {
        let mut examined = checker::examine(request, &self.target)?;
        if let (Examined::Judged(report), Some(check)) = (&mut examined, &self.unprepared) {
            report.add(check.clone());
        }
        Ok(examined)
    }
}

fn describe_failed_rollback(error: &Error) -> Check {
    let why = match error {
        Error::Repair { message, .. } => message.clone(),
        other => other.to_string(),
    };
    let reason = format!(
        "a repair that was cut off cannot be rolled back ({why}); `pcluster preflight undo` says what to do"
    );
    Check { id: "repair", status: Status::Unknown, duration_ms: 0, cached: false, reason: Some(reason) }
}

/// The repair that is kept beside an environment. Nothing is locked, rolled back or removed.
#[must_use]
pub fn find_overlay(target: &Target) -> Overlay {
    Home::find(target).map_or(Overlay::None, |home| home.overlay(target))
}
