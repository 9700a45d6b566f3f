//! Locks of flock(2), which end with their holder, and the wait for one.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::error::{Abort, Error, RepairStep};
use crate::progress::Progress;
use crate::system::files;
use crate::system::signals::Interrupts;

/// The time between two attempts to take a lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A lock that is released when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    /// The lock that this open file holds.
    pub fn new(locked: File) -> Self {
        Self(locked)
    }
}

/// Tries to take a lock until it is free. A call that blocks is resumed after a signal, so Ctrl-C would
/// have no effect before the lock is free.
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
/// where uv has made that file. Elsewhere uv locks a file in TMPDIR whose name differs between its
/// versions, and pip has no lock: changes of theirs are found by comparing the installed packages.
pub fn lock_against_uv(prefix: &Path, progress: Progress) -> Result<Option<File>, Abort> {
    if !prefix.join("pyvenv.cfg").is_file() {
        return Ok(None);
    }
    let Ok(file) = files::open(&prefix.join(".lock")) else { return Ok(None) };
    let _step = match file.try_lock() {
        Ok(()) => return Ok(Some(file)),
        // Some file systems have no locks.
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
