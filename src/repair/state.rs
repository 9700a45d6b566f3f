//! The state directory of one environment's repairs, and the locks on that environment.
//!
//! There are two locks, both taken with flock(2), so a lock ends with the process that holds it. One is on a
//! file in the state directory and is held during a repair, so that only one repair runs at a time. The other
//! is on the environment's package directory: a check takes it as a shared lock, an exchange as an exclusive
//! lock, so that no check reads an environment that is partly exchanged.

use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::environment::packages::find_distribution;
use crate::environment::target::Target;
use crate::error::{Abort, Error, MAX_NAMED};
use crate::progress::Progress;
use crate::repair::change::{Change, describe_restored};
use crate::repair::file_digest::sha256_of_bytes;
use crate::repair::hints::SET_STATE_HOME;
use crate::repair::history;
use crate::repair::journal::Journal;
use crate::repair::lock::wait_for_lock;
use crate::repair::rollback::{Left, recover};
use crate::repair::transaction::Transactions;
use crate::system::{dirs, trust};
use crate::text::package_name::PCLUSTER;

impl Transactions {
    /// Creates the state directory of an environment.
    pub fn create(target: &Target) -> Result<Self, Error> {
        let Some(site) = find_site(target) else {
            let message = format!("{} has no {PCLUSTER}", target.interpreter.executable.display());
            let next = "With --real, pass the pcluster to repair.";
            return Err(Error::repair(message, next));
        };
        let no_state = |message: String| Error::repair(message, SET_STATE_HOME);
        let state = Self::at(site).ok_or_else(|| no_state(dirs::why_no_state()))?;
        let directory = &state.directory;
        let made = trust::make_directory(directory);
        made.map_err(|error| no_state(format!("cannot create {}: {error}", directory.display())))?;
        Ok(state)
    }

    /// As [`Self::create`], but does not create the state directory, which may be absent.
    pub fn find(target: &Target) -> Option<Self> {
        Self::at(find_site(target)?)
    }

    fn at(site: PathBuf) -> Option<Self> {
        let directory = dirs::state()?.join("environments").join(directory_name(&site));
        Some(Self { directory, site })
    }

    /// Takes the lock of a repair. If another repair holds it, waits for that repair to finish.
    pub fn lock_repair(&self, progress: Progress) -> Result<File, Abort> {
        let path = self.directory.join("lock");
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}", path.display());
            Abort::from(Error::repair(message, SET_STATE_HOME))
        };
        let open =
            File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(failed)?;
        wait_for_lock(progress, || self.describe_holder(), || file.try_lock())?.map_err(failed)?;
        history::adopt_older(&self.directory).map_err(failed)?;
        // The PID in the file is for people to read; the lock does not depend on it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()));
        Ok(file)
    }

    /// The message that is shown while another repair holds the lock. It names the process of that repair.
    fn describe_holder(&self) -> String {
        let holder = fs::read_to_string(self.directory.join("lock")).unwrap_or_default();
        let holder: String = holder.chars().filter(char::is_ascii_digit).collect();
        format!("waiting for another repair of this environment to finish (process {holder})")
    }

    /// Takes the lock of an exchange, which keeps checks and other exchanges out.
    pub fn lock_exclusive(&self, progress: Progress) -> Result<File, Abort> {
        let failed = |error: io::Error| {
            let message = format!("cannot lock {}: {error}", self.site.display());
            Abort::from(Error::repair(message, "Nothing was changed. Try again."))
        };
        let file = File::open(&self.site).map_err(failed)?;
        // The holder can also be a check, but the message names a repair, because only a repair is likely to
        // hold the lock for long.
        wait_for_lock(progress, || self.describe_holder(), || file.try_lock())?.map_err(failed)?;
        Ok(file)
    }

    /// Rolls back an interrupted repair, if there is one, and takes the lock of a check.
    pub fn recover_and_lock_shared(&self, progress: Progress) -> Result<Option<File>, Abort> {
        loop {
            self.recover(progress)?;
            let shared = self.lock_shared(progress)?;
            // Between the rollback and the lock, another repair may have begun and been interrupted.
            if shared.is_none() || self.read_unfinished()?.is_none() {
                return Ok(shared);
            }
        }
    }

    /// Takes the lock of a check, which keeps exchanges out. `None` if the directory cannot be locked; the
    /// check is made anyway.
    pub fn lock_shared(&self, progress: Progress) -> Result<Option<File>, Abort> {
        let Ok(file) = File::open(&self.site) else { return Ok(None) };
        let taken = wait_for_lock(progress, || self.describe_holder(), || file.try_lock_shared())?;
        Ok(taken.ok().map(|()| file))
    }

    /// Rolls back an interrupted repair, if there is one, reports the rollback, and returns the changes that
    /// were reverted. If the environment was recreated since, the repair is reported, but not rolled back.
    pub fn recover(&self, progress: Progress) -> Result<Option<Vec<Change>>, Abort> {
        if self.read_unfinished()?.is_none() && !self.is_removal_pending() {
            return Ok(None);
        }
        let _exclusive = self.lock_exclusive(progress)?;
        self.complete_removal();
        // While we waited for the lock, its holder may have closed the transaction or rolled it back.
        let Some(journal) = self.read_unfinished()? else { return Ok(None) };
        let step = progress.step("rolling back an interrupted repair");
        let recovery = recover(self, &journal)?;
        drop(step);
        match recovery {
            None => {
                let kept = self.snapshot(&journal.id);
                progress.write(&format!(
                    "this environment was recreated after an interrupted repair or undo, so nothing was restored; the old \
                     files are kept in {}",
                    kept.display()
                ));
                Ok(None)
            }
            Some(left) => {
                let mut restored = journal.changes;
                restored.retain(|change| !left.packages.contains(&change.package));
                progress.write(&format!(
                    "rolled back an interrupted repair: {}{}",
                    describe_restored(restored.len()),
                    describe_left(&left)
                ));
                Ok(Some(restored))
            }
        }
    }

    fn read_unfinished(&self) -> Result<Option<Journal>, Error> {
        let next = "Nothing was changed. Restore that file, which is needed to roll back an interrupted repair, or \
                    remove it and create a new environment.";
        self.unfinished().map_err(|message| Error::repair(message, next))
    }

    /// Calls [`Self::remove_leftovers`] if no repair is running.
    pub fn remove_leftovers_if_unlocked(&self) {
        let path = self.directory.join("lock");
        let Ok(file) = File::open(path) else { return };
        if file.try_lock().is_ok() {
            self.remove_leftovers();
        }
    }
}

/// Creates an id that no earlier repair has. The id begins with the time, so that repairs can be sorted.
pub fn make_id() -> String {
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{nanoseconds}-{}", process::id())
}

/// The name of an environment's state directory. The name is a digest of two values: the length and the text
/// of the package directory's path. Every version of this program computes the name in this way, so each
/// version finds the repairs of the others.
fn directory_name(site: &Path) -> String {
    let path = site.as_os_str().as_encoded_bytes();
    let length = (path.len() as u64).to_le_bytes();
    let mut name = sha256_of_bytes(&[&length[..], path].concat());
    name.truncate(16);
    name
}

/// Names the packages and files that a rollback did not restore because others have written them. The caller
/// appends the returned text to a sentence about what was restored.
pub fn describe_left(left: &Left) -> String {
    let packages = match left.packages.as_slice() {
        [] => String::new(),
        [package] => {
            format!(", but another installer has changed {package} in the meantime, so it was left as it is")
        }
        packages => format!(
            ", but another installer has changed {} in the meantime, so they were left as they are",
            packages.join(", ")
        ),
    };
    let but = if packages.is_empty() { ", but" } else { ";" };
    let files = match left.files.as_slice() {
        [] => String::new(),
        [file] => format!("{but} {} has changed since then, so it was left as it is", file.display()),
        files => {
            format!("{but} {} have changed since then, so they were left as they are", list_files(files))
        }
    };
    packages + &files
}

/// Lists up to `MAX_NAMED` files, and counts the others.
pub fn list_files(files: &[PathBuf]) -> String {
    let named = files.iter().take(MAX_NAMED).map(|file| file.display().to_string());
    let named = named.collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(MAX_NAMED) {
        0 => named,
        1 => format!("{named} and 1 more file"),
        more => format!("{named} and {more} more files"),
    }
}

/// Finds the directory that contains aws-parallelcluster. A repair locks this directory, and installs new
/// packages into it.
pub fn find_site(target: &Target) -> Option<PathBuf> {
    let pcluster = find_distribution(&target.interpreter.sys_path, PCLUSTER)?;
    let directory = pcluster.metadata.parent()?.to_owned();
    Some(fs::canonicalize(&directory).unwrap_or(directory))
}
