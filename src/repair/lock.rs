//! Takes locks with flock(2), and waits for them. When the process that holds such a lock ends, the lock
//! is released.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Interrupted;
use crate::progress::Progress;
use crate::system::files;
use crate::system::signals::Interrupts;

/// The time between two attempts to take a lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// If the steps of the progress are hidden, a wait is reported only after this time. Waiting for an exchange
/// of files usually takes less time.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tries to take a lock until that succeeds, and reports the text of `waiting` meanwhile. It does not block
/// in flock(2): that system call would be resumed after a signal, so Ctrl-C would have no effect until the
/// lock is free.
pub fn wait_for_lock(
    progress: Progress,
    waiting: impl FnOnce() -> String,
    lock: impl Fn() -> Result<(), TryLockError>,
) -> Result<io::Result<()>, Interrupted> {
    let mut taken = lock();
    if matches!(taken, Err(TryLockError::WouldBlock)) {
        let what = waiting();
        let _step = progress.step(&what);
        let patience = Instant::now() + PATIENCE;
        let mut is_reported = !progress.is_hidden();
        while matches!(taken, Err(TryLockError::WouldBlock)) {
            Interrupts::caught().check()?;
            thread::sleep(RETRY_INTERVAL);
            if !is_reported && Instant::now() > patience {
                progress.write(&what);
                is_reported = true;
            }
            taken = lock();
        }
    }
    Ok(taken.map_err(io::Error::from))
}

/// Takes the lock that uv takes before it changes a virtual environment: flock(2) of the environment's
/// `.lock`, if uv has created that file. This lock does not prevent all changes: without `.lock`, uv locks a
/// file in TMPDIR whose name depends on uv's version, and pip never takes a lock. Such changes are detected
/// by comparing the installed packages.
pub fn lock_against_uv(prefix: &Path, progress: Progress) -> Result<Option<File>, Interrupted> {
    if !prefix.join("pyvenv.cfg").is_file() {
        return Ok(None);
    }
    let Ok(file) = files::open(&prefix.join(".lock")) else { return Ok(None) };
    let waiting = || "waiting for uv, which is changing this environment".to_owned();
    // Some file systems have no locks. The repair then continues without this lock.
    Ok(wait_for_lock(progress, waiting, || file.try_lock())?.ok().map(|()| file))
}
