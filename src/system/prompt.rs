//! A question at a terminal.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Interrupted, PREFIX};
use crate::system::signals::Interrupts;

/// How often a wait for the answer asks for a signal.
const SIGNAL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Asks to go on; `None` where there is no terminal to ask at. Everything but y or yes is no.
///
/// # Errors
/// Returns an error if a signal came.
pub fn confirm(question: &str) -> Result<Option<bool>, Interrupted> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let interrupts = Interrupts::caught();
    let _ = write!(io::stderr(), "{PREFIX}{question} [y/N] ");
    let stdin = io::stdin();
    loop {
        interrupts.check()?;
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        // A signal ends the wait with an error, and is seen above.
        if matches!(poll(&mut polled, Some(&SIGNAL_INTERVAL)), Ok(1..)) {
            let mut line = String::new();
            let _ = stdin.lock().read_line(&mut line);
            return Ok(Some(["y", "yes"].contains(&line.trim().to_lowercase().as_str())));
        }
    }
}
