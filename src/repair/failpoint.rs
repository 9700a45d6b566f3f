//! Failures that tests ask for, at the named steps of a repair. Without the feature
//! `fault-injection`, which no release is built with, there are none.

use std::io;

use crate::error::RepairStep;

/// Passes, fails, or dies by SIGKILL, as `PCLUSTER_SHIM_FAULT` says: `fail:STEP` or `kill:STEP`,
/// with `@N` behind it for the Nth time that the step is reached (1 by default).
///
/// # Errors
/// Returns an error if that was asked for.
#[cfg(feature = "fault-injection")]
pub fn reach(step: RepairStep) -> io::Result<()> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let step = step.name();
    let wanted = std::env::var("PCLUSTER_SHIM_FAULT").unwrap_or_default();
    let Some((action, rest)) = wanted.split_once(':') else { return Ok(()) };
    let (name, count) = rest.split_once('@').unwrap_or((rest, "1"));
    if name != step || REACHED.fetch_add(1, Ordering::SeqCst) + 1 != count.parse().unwrap_or(1) {
        return Ok(());
    }
    if action == "kill" {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    Err(io::Error::other(format!("the test's failure at {step}")))
}

/// There are no failures.
///
/// # Errors
/// Returns no error.
#[cfg(not(feature = "fault-injection"))]
pub fn reach(_step: RepairStep) -> io::Result<()> {
    Ok(())
}
