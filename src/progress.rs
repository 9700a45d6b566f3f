//! Shows on stderr which step is being done. On a terminal, the step has a spinner and the elapsed time.
//! Elsewhere, the step is a plain line, and only with `-v`.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{PREFIX, prefix_lines};
use crate::system::terminal::fold_for;
use crate::text::printable::{escape, escape_line};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A spinner if stderr is a terminal, otherwise nothing.
    Terminal,
    /// A spinner if stderr is a terminal, otherwise plain lines.
    Lines,
    Silent,
}

/// One step. Its spinner disappears when the step is dropped. A step inside another step has no spinner,
/// because two spinners would overwrite each other.
#[derive(Debug)]
pub struct Step(Option<ProgressBar>);

static IS_SHOWN: AtomicBool = AtomicBool::new(false);

impl Progress {
    pub fn step(self, what: &str) -> Step {
        let what = &escape_line(what);
        match self {
            Self::Silent => Step(None),
            _ if std::io::stderr().is_terminal() => {
                Step((!IS_SHOWN.swap(true, Ordering::SeqCst)).then(|| start_spinner(what)))
            }
            Self::Terminal => Step(None),
            Self::Lines => {
                // An error is ignored: a check must not fail because a reader has closed stderr.
                let _ = writeln!(std::io::stderr(), "{PREFIX}{what}");
                Step(None)
            }
        }
    }

    /// Whether [`Self::step`] shows nothing, although [`Self::write`] writes messages.
    pub fn is_hidden(self) -> bool {
        self == Self::Terminal && !std::io::stderr().is_terminal()
    }

    /// Writes a message immediately, because the steps that follow may fail.
    pub fn write(self, message: &str) {
        if self != Self::Silent {
            write_stderr(&prefix_lines(message));
        }
    }

    /// Writes the output of a child if the user wants it.
    pub fn write_output(self, output: &str, is_wanted: bool) {
        if is_wanted && self != Self::Silent {
            let _ = std::io::stderr().write_all(escape(output).as_bytes());
        }
    }
}

/// Writes lines to stderr, folded if stderr is a terminal. An error is ignored, because there is nowhere else
/// to report it.
pub fn write_stderr(lines: &str) {
    let stderr = std::io::stderr();
    let _ = stderr.lock().write_all(fold_for(&stderr, lines, PREFIX).as_bytes());
}

fn start_spinner(what: &str) -> ProgressBar {
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
            IS_SHOWN.store(false, Ordering::SeqCst);
        }
    }
}
