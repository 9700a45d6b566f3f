//! What is being done and for how long, on stderr: a spinner on a terminal, plain lines with `-v`.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{PREFIX, on_stderr};
use crate::printable::{escape, escape_line};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A spinner where stderr is a terminal, else nothing.
    Terminal,
    /// A spinner where stderr is a terminal, else plain lines.
    Lines,
    Silent,
}

/// One step; what it shows is gone when it is dropped. A step inside another shows nothing: two
/// spinners would write over each other.
#[derive(Debug)]
pub struct Step(Option<ProgressBar>);

static SHOWN: AtomicBool = AtomicBool::new(false);

impl Progress {
    #[must_use]
    pub fn step(self, what: &str) -> Step {
        let what = &escape_line(what);
        match self {
            Self::Silent => Step(None),
            _ if std::io::stderr().is_terminal() => {
                Step((!SHOWN.swap(true, Ordering::SeqCst)).then(|| spinner(what)))
            }
            Self::Terminal => Step(None),
            Self::Lines => {
                // A reader that went away is no failure of ours.
                let _ = writeln!(std::io::stderr(), "{PREFIX}{what}");
                Step(None)
            }
        }
    }
}

impl Progress {
    /// Says at once what happened: what comes after may fail.
    pub fn tell(self, message: &str) {
        if self != Self::Silent {
            let _ = std::io::stderr().write_all(on_stderr(message).as_bytes());
        }
    }

    /// What a child said, where that is wanted.
    pub fn show(self, output: &str, wanted: bool) {
        if wanted && self != Self::Silent {
            let _ = std::io::stderr().write_all(escape(output).as_bytes());
        }
    }
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template(&format!("{PREFIX}{{spinner}} {{msg}} ({{elapsed}})")) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
            SHOWN.store(false, Ordering::SeqCst);
        }
    }
}
