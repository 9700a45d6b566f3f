//! Locks of flock(2), which die with their holder, and the wait for one.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::error::{Abort, Error, RepairStep};
use crate::progress::Progress;
use crate::system::files;
use crate::system::signals::Interrupts;

/// How often a wait for a lock tries again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A lock that is given up when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    /// The lock that is held through this open file.
    #[must_use]
    pub fn new(locked: File) -> Self {
        Self(locked)
    }
}

/// Tries again and again: a call that blocks is taken up again after a signal, and Ctrl-C would have
/// to wait for the lock.
///
/// # Errors
/// Returns an error if there is no lock to be had, or a signal came.
pub fn wait_for_lock(
    lock: impl Fn() -> Result<(), TryLockError>,
    failed: impl FnOnce(io::Error) -> Abort,
) -> Result<(), Abort> {
    loop {
        match lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                Interrupts::caught().check()?;
                thread::sleep(RETRY_INTERVAL);
            }
        }
    }
}

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
