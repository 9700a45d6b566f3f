//! Failpoints: failures that tests inject at the named steps of a repair. Release builds do not have the
//! feature `fault-injection`, so they contain no failpoints.

use std::io;

/// If `PCLUSTER_SHIM_FAULT` is `fail:STEP`, returns an error at this step. If it is `kill:STEP`,
/// `interrupt:STEP` or `stop:STEP`, sends SIGKILL, SIGINT or SIGSTOP to this process. With `@N` appended,
/// this happens when the step is reached for the Nth time. Without `@N`, it happens the first time.
#[cfg(feature = "fault-injection")]
pub fn reach(step: &str) -> io::Result<()> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let failure = std::env::var("PCLUSTER_SHIM_FAULT").unwrap_or_default();
    let Some((action, rest)) = failure.split_once(':') else { return Ok(()) };
    let (name, count) = rest.split_once('@').unwrap_or((rest, "1"));
    if name != step || REACHED.fetch_add(1, Ordering::SeqCst) + 1 != count.parse().unwrap_or(1) {
        return Ok(());
    }
    let send = |signal| {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    };
    match action {
        "kill" => send(rustix::process::Signal::KILL),
        "interrupt" => send(rustix::process::Signal::INT),
        "stop" => send(rustix::process::Signal::STOP),
        _ => {}
    }
    if ["interrupt", "stop"].contains(&action) {
        return Ok(());
    }
    Err(io::Error::other(format!("the test's failure at {step}")))
}

/// Does nothing.
#[cfg(not(feature = "fault-injection"))]
pub fn reach(_step: &str) -> io::Result<()> {
    Ok(())
}
