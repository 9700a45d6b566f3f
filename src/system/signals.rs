//! The signals that end a check, those that the shim's caller ignores, and the session of a child. This is
//! the only file with unsafe code.

use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::error::Interrupted;

/// The signals that end a check. They are caught from the first child on, until exec (which puts
/// caught signals back to their default) or the end of the process.
#[derive(Debug)]
pub struct Interrupts(Arc<AtomicUsize>);

static CAUGHT: OnceLock<Interrupts> = OnceLock::new();

impl Interrupts {
    /// The signal that has arrived since the first child was started. Callers ask for it right before exec,
    /// because exec would lose it.
    pub fn received() -> Option<Interrupted> {
        CAUGHT.get()?.check().err()
    }

    /// Catches the signals when called for the first time.
    pub fn caught() -> &'static Self {
        CAUGHT.get_or_init(|| {
            let received = Arc::new(AtomicUsize::new(0));
            for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT].into_iter().filter(|signal| !is_ignored(*signal))
            {
                let value = usize::try_from(signal).unwrap_or_default();
                // If the registration fails, the signal ends this process immediately. Linux then kills the
                // children (see `end_with`). On other systems, the children run to their end.
                let _ = signal_hook::flag::register_usize(signal, Arc::clone(&received), value);
            }
            Self(received)
        })
    }

    /// # Errors
    /// Returns an error if a signal has arrived. The process then has to end by that signal.
    pub fn check(&self) -> Result<(), Interrupted> {
        match i32::try_from(self.0.load(Ordering::SeqCst)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(signal) => Err(Interrupted(signal)),
        }
    }
}

/// Makes a program start in its own session, without a terminal: if it tries to read an answer from
/// `/dev/tty`, it fails instead of being stopped by SIGTTIN. Its PID is also the ID of its process group.
/// Linux kills the program if this process ends.
#[expect(unsafe_code, reason = "the standard library has no safe interface to setsid")]
pub fn in_own_session(command: &mut Command) {
    let shim = rustix::process::getpid();
    // SAFETY: the closure runs between fork and exec, and makes only system calls that are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            end_with(shim)
        });
    }
}

/// Makes this child end with its parent, or right now if the parent has already ended.
#[cfg(target_os = "linux")]
fn end_with(parent: rustix::process::Pid) -> std::io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // If this child is the first process of a PID namespace, its parent is outside the namespace, and getppid
    // returns `None`. Then we cannot know whether the parent has ended, and let the child start.
    let is_orphan = getppid().is_some_and(|now| now != parent);
    if is_orphan { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn end_with(_parent: rustix::process::Pid) -> std::io::Result<()> {
    Ok(())
}

/// Whether the process was started with a signal ignored, as under nohup. Such a signal has to stay ignored:
/// if it were caught, it would have its default action again in the real pcluster.
#[expect(unsafe_code, reason = "no safe interface asks for a disposition without changing it")]
fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, sigaction(2) only writes the current action to the buffer that the
    // pointer refers to, which is large enough. If the call fails, the action stays zeroed, which is a
    // valid value.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_told_from_others() {
        // Rust's runtime ignores SIGPIPE before main.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGUSR2));
    }
}
