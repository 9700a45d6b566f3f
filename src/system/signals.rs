//! The signals that end a check, and those that the caller has ignored.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::error::Interrupted;

/// The signals that end a check. They are caught from the first child on, until exec (which puts
/// caught signals back to their default) or our own end.
#[derive(Debug)]
pub struct Interrupts(Arc<AtomicUsize>);

static CAUGHT: OnceLock<Interrupts> = OnceLock::new();

impl Interrupts {
    /// The signal that has come since the first child: the last question before exec, which would
    /// otherwise forget it.
    #[must_use]
    pub fn received() -> Option<Interrupted> {
        CAUGHT.get()?.check().err()
    }

    /// Catches them at the first call.
    pub fn caught() -> &'static Self {
        CAUGHT.get_or_init(|| {
            let received = Arc::new(AtomicUsize::new(0));
            for (signal, name) in [(SIGINT, "INT"), (SIGTERM, "TERM"), (SIGHUP, "HUP"), (SIGQUIT, "QUIT")] {
                if !is_ignored(name) {
                    let value = usize::try_from(signal).unwrap_or_default();
                    // Not caught, a signal kills us at once: the children are then left to end
                    // by themselves, which is all that can be had.
                    let _ = signal_hook::flag::register_usize(signal, Arc::clone(&received), value);
                }
            }
            Self(received)
        })
    }

    /// # Errors
    /// A signal has come: nothing more is to be done but to die by it.
    pub fn check(&self) -> Result<(), Interrupted> {
        match i32::try_from(self.0.load(Ordering::SeqCst)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(signal) => Err(Interrupted(signal)),
        }
    }
}

/// Whether we were started with the signal ignored, as under nohup. Then it must stay so: caught,
/// it would have its default action again in the real pcluster. A child inherits it, and safe Rust
/// has no way to ask but to let one try.
fn is_ignored(name: &str) -> bool {
    Command::new("/bin/sh")
        .args(["-c", "kill -$0 $$", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .status()
        .is_ok_and(|status| status.success())
}
