//! Where repairs of one environment keep their files, and the locks on it.
//!
//! Two locks, both of flock(2), which die with their holder. One is on a file of the state: one
//! repair at a time, for the whole of it. The other is on the environment's own directory: shared by
//! checks, exclusive while files are exchanged, so that no check ever sees half an environment.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Fingerprint};
use crate::environment::packages::Packages;
use crate::environment::target::Target;
use crate::error::{Abort, Error, RepairStep};
use crate::package_name::PCLUSTER;
use crate::progress::Progress;
use crate::repair::hints::SET_STATE_HOME;
use crate::repair::journal::Journal;
use crate::repair::lock::{Lock, wait_for_lock};
use crate::repair::plan::Change;
use crate::repair::transaction::Transactions;
use crate::system::{dirs, trust};

/// The state of one environment's repairs.
#[derive(Debug)]
pub struct RepairState {
    transactions: Transactions,
    site: PathBuf,
}

impl RepairState {
    /// Makes the state directory of this environment.
    ///
    /// # Errors
    /// Returns an error if there is no pcluster, or no place for state.
    pub fn create(target: &Target) -> Result<Self, Error> {
        let Some(site) = site_of(target) else {
            let message = format!("{} has no {PCLUSTER}", target.interpreter.executable.display());
            let next = "Name the pcluster to be repaired with --real.";
            return Err(Error::repair(RepairStep::Plan, message, next));
        };
        let no_state = |message: String| Error::repair(RepairStep::State, message, SET_STATE_HOME);
        let state = Self::at(site).ok_or_else(|| no_state(dirs::why_no_state()))?;
        let directory = state.directory();
        let made = trust::make_directory(directory);
        made.map_err(|error| no_state(format!("cannot make {}: {error}", directory.display())))?;
        Ok(state)
    }

    /// The state of this environment, which need not be there.
    #[must_use]
    pub fn find(target: &Target) -> Option<Self> {
        Self::at(site_of(target)?)
    }

    fn at(site: PathBuf) -> Option<Self> {
        let state = dirs::state()?;
        let mut key = Fingerprint::environment();
        key.field(site.as_os_str().as_encoded_bytes());
        let directory = state.join("environments").join(&key.key()[..16]);
        Some(Self { transactions: Transactions { directory, site: site.clone() }, site })
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.transactions.directory
    }

    #[must_use]
    pub fn site(&self) -> &Path {
        &self.site
    }

    #[must_use]
    pub fn transactions(&self) -> &Transactions {
        &self.transactions
    }

    /// Waits until no other repair of this environment is at work, saying which one is.
    ///
    /// # Errors
    /// Returns an error if the lock file cannot be written, or a signal came.
    pub fn lock_repair(&self, progress: Progress) -> Result<Lock, Abort> {
        let path = self.directory().join("lock");
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}", path.display());
            Abort::from(Error::repair(RepairStep::Lock, message, SET_STATE_HOME))
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
                wait_for_lock(|| file.try_lock(), failed)?;
            }
        }
        // Who holds it is for people to read; the lock itself does not depend on it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Lock::new(file))
    }

    /// Keeps checks and repairs away, for as long as files are exchanged.
    ///
    /// # Errors
    /// Returns an error if the environment's directory cannot be opened, or a signal came.
    pub fn lock_exclusive(&self) -> Result<Lock, Abort> {
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}", self.site.display());
            Abort::from(Error::repair(RepairStep::Lock, message, "Nothing was changed."))
        };
        let file = File::open(&self.site).map_err(failed)?;
        wait_for_lock(|| file.try_lock(), failed)?;
        Ok(Lock::new(file))
    }

    /// Rolls back what was cut off and keeps repairs away, for as long as the environment is read.
    ///
    /// # Errors
    /// Returns an error if files cannot be put back, or a signal came.
    pub fn recover_and_lock_shared(&self, progress: Progress) -> Result<Option<Lock>, Abort> {
        loop {
            self.recover(progress)?;
            let shared = self.lock_shared()?;
            // Between the two a repair may have begun and been cut off.
            if shared.is_none() || self.unfinished()?.is_none() {
                return Ok(shared);
            }
        }
    }

    /// Keeps repairs away, for as long as the environment is read. Without a lock where none can be
    /// had: reading goes on.
    ///
    /// # Errors
    /// Returns an error if a signal came while a repair was at work.
    pub fn lock_shared(&self) -> Result<Option<Lock>, Abort> {
        let Ok(file) = File::open(&self.site) else { return Ok(None) };
        // Any error will do: it is not told.
        let without = |_| Abort::Error(Error::NoRealPcluster);
        match wait_for_lock(|| file.try_lock_shared(), without) {
            Ok(()) => Ok(Some(Lock::new(file))),
            Err(Abort::Interrupted(interrupted)) => Err(interrupted.into()),
            Err(Abort::Error(_)) => Ok(None),
        }
    }

    /// Rolls an unfinished exchange back, says so, and returns what it had changed.
    ///
    /// # Errors
    /// Returns an error if files cannot be put back, or a signal came.
    pub fn recover(&self, progress: Progress) -> Result<Option<Vec<Change>>, Abort> {
        if self.unfinished()?.is_none() {
            return Ok(None);
        }
        let _exclusive = self.lock_exclusive()?;
        // Whoever had the lock may have finished in the meantime.
        let Some(journal) = self.unfinished()? else { return Ok(None) };
        let step = progress.step("rolling back a repair that was cut off");
        let taken = self.transactions.restore(&journal).map_err(Error::from)?;
        drop(step);
        let count = journal.changes.len() - taken.len();
        let left = describe_taken(&taken);
        progress.tell(&format!(
            "a repair that was cut off is rolled back: {count} packages are as they were{left}"
        ));
        Ok(Some(journal.changes))
    }

    fn unfinished(&self) -> Result<Option<Journal>, Error> {
        let next = "It tells how to take back a repair that was cut off. Restore that file, or make the \
                    environment anew.";
        let unfinished = self.transactions.unfinished();
        unfinished.map_err(|message| Error::repair(RepairStep::Rollback, message, next))
    }

    /// Removes what repairs that were cut off have left beside the environment. To be called with
    /// [`Self::lock_repair`] held: another repair would lose what it works with.
    pub fn remove_leftovers(&self, cache: &Cache) {
        self.transactions.remove_leftovers(|overlay| cache.remove_bytecode(overlay));
    }

    /// Removes leftovers where no repair is at work.
    pub fn remove_leftovers_if_unlocked(&self, cache: &Cache) {
        let path = self.directory().join("lock");
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        if file.try_lock().is_ok() {
            self.remove_leftovers(cache);
        }
    }
}

/// Behind "as it was": the packages that a rollback has left to another installer.
#[must_use]
pub fn describe_taken(packages: &[String]) -> String {
    match packages {
        [] => String::new(),
        [package] => format!(", but {package} is left as the other installer has written it"),
        packages => format!(", but {} are left as the other installer has written them", packages.join(", ")),
    }
}

/// Where aws-parallelcluster is installed: the directory that is locked, and that new packages
/// go to.
#[must_use]
pub fn site_of(target: &Target) -> Option<PathBuf> {
    let pcluster = Packages::find(&target.interpreter.sys_path, PCLUSTER)?;
    let directory = pcluster.metadata.parent()?.to_owned();
    Some(fs::canonicalize(&directory).unwrap_or(directory))
}
