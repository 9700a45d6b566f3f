//! The story of one guarded `build-image`, in order. Parses nothing, prints nothing.

use std::ffi::OsString;
use std::path::Path;

use crate::cache::Memory;
use crate::checker::{Examined, Request, read_advisories};
use crate::cli::args::PlainBuildImage;
use crate::cli::settings::{Mode, Settings};
use crate::environment::image_configuration::{find_read_once, is_unreadable};
use crate::environment::launcher::is_console_script;
use crate::environment::locate::{FoundBy, Real, Search};
use crate::environment::synthesis::{Call, IMAGE_ID};
use crate::error::{Abort, Error, Interrupted, on_stderr};
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::repair::{self, Fixed, Ground, Overlay};
use crate::report::{self, Check, Decision, Report, Status};

/// Guards one `pcluster build-image`.
#[must_use]
pub fn build_image(arguments: Vec<OsString>) -> Outcome {
    let (settings, faults) = Settings::read();
    let named = settings.real.clone().map(|path| (path, FoundBy::Config));
    let real = match Search::from_environment(named).real() {
        Ok(real) => real,
        Err(error) => return Outcome::failed(&error),
    };
    if settings.mode == Mode::Off || asks_for_help(&arguments) {
        return Outcome::Exec { exec: real.into_exec(arguments), stderr: String::new() };
    }
    let unread = find_read_once(&arguments);
    // A wrapper may read it in another directory, or as another user.
    let reads_here = is_console_script(&real.path);
    if unread.is_none() && reads_here && has_unreadable_configuration(&arguments) {
        return Outcome::Exec { exec: real.into_exec(arguments), stderr: String::new() };
    }
    let call = match &unread {
        // Not even the region: whatever is parsed here could be read otherwise by the real parser.
        Some(_) => Call::Minimal(vec!["--image-id".into(), IMAGE_ID.into()]),
        None => Call::Given(arguments.clone()),
    };
    let (advisories, more_faults) = read_advisories(&settings);
    let request = Request {
        real: &real,
        settings: &settings,
        advisories: &advisories,
        memory: Memory::from_environment(false),
        call,
        thorough: false,
        synthesize: true,
        progress: Progress::Terminal,
    };
    let warnings = faults.iter().chain(&more_faults).map(warning).collect();
    let unread = unread.as_deref().map(describe_unread);
    let guarded = Guarded { request: &request, arguments, unread, warnings };
    guarded.look().unwrap_or_else(Outcome::Die)
}

struct Guarded<'a> {
    request: &'a Request<'a>,
    arguments: Vec<OsString>,
    /// What is told of a configuration that only the real pcluster may read.
    unread: Option<Check>,
    /// To be said before anything else.
    warnings: String,
}

/// One look at the environment.
enum Look {
    Judged {
        report: Box<Report>,
        overlay: Overlay,
    },
    /// The real pcluster says why in its own words; nothing is to be added.
    Rejected {
        overlay: Overlay,
    },
}

impl Guarded<'_> {
    fn look(mut self) -> Result<Outcome, Interrupted> {
        match self.at_environment() {
            Ok(Look::Rejected { overlay }) => Ok(self.exec(&overlay, String::new())),
            Ok(Look::Judged { report, overlay }) => match self.decided(&report) {
                Decision::Repair => self.repair(&report),
                decision => Ok(self.act(&report, decision, &overlay)),
            },
            Err(stop) => end(stop),
        }
    }

    /// # Errors
    /// Returns an error if a signal came or there is no real pcluster. Whatever else goes wrong is a
    /// check of the report that is unknown, beside those that could be made.
    fn at_environment(&mut self) -> Result<Look, Abort> {
        let ground = match Ground::find(self.request)? {
            Ok(ground) => ground,
            Err(report) => return Ok(Look::Judged { report, overlay: Overlay::None }),
        };
        let overlay = ground.overlay.clone();
        if overlay == Overlay::Stale {
            self.warnings += &on_stderr(STALE);
        }
        Ok(match ground.examine(self.request)? {
            Examined::Judged(mut report) => {
                if let Some(check) = &self.unread {
                    report.add(check.clone());
                }
                Look::Judged { report, overlay }
            }
            Examined::Rejected { .. } => Look::Rejected { overlay },
        })
    }

    fn decided(&self, report: &Report) -> Decision {
        let settings = self.request.settings;
        report::decide(settings.mode, settings.strict, report.verdict)
    }

    /// In place, or beside the environment where that cannot be; then another look.
    fn repair(mut self, before: &Report) -> Result<Outcome, Interrupted> {
        let fixed = match self.fix(false) {
            Err(Abort::Error(Error::NotInPlace { .. })) => self.fix(true),
            other => other,
        };
        match fixed {
            Err(Abort::Interrupted(signal)) => Err(signal),
            Err(Abort::Error(error)) => Ok(self.stop(before, &error.on_stderr())),
            Ok(fixed) => {
                let said = said(&fixed);
                match self.at_environment() {
                    Ok(Look::Rejected { overlay }) => Ok(self.exec(&overlay, String::new())),
                    Ok(Look::Judged { report, overlay }) => {
                        self.warnings += &said;
                        let decision = match self.decided(&report) {
                            Decision::Repair => Decision::Stop,
                            other => other,
                        };
                        Ok(self.act(&report, decision, &overlay))
                    }
                    Err(stop) => end(stop),
                }
            }
        }
    }

    fn fix(&self, isolated: bool) -> Result<Fixed, Abort> {
        let settings = self.request.settings;
        let options = repair::Options {
            dry_run: false,
            strategy: settings.strategy,
            isolated,
            installer: settings.installer,
            verbose: false,
        };
        repair::fix(self.request, options)
    }

    fn act(self, report: &Report, decision: Decision, overlay: &Overlay) -> Outcome {
        match decision {
            Decision::Exec => {
                let stderr = on_stderr(&report::for_stderr(report, decision));
                let stderr = self.warnings.clone() + &stderr;
                self.exec(overlay, stderr)
            }
            Decision::Stop | Decision::Repair => self.stop(report, ""),
        }
    }

    fn stop(&self, report: &Report, why_not_repaired: &str) -> Outcome {
        let findings = on_stderr(&report::for_stderr(report, Decision::Stop));
        let stderr = format!("{}{why_not_repaired}{findings}", self.warnings);
        Outcome::Exit { status: 1, stdout: report::pcluster_shaped(report), stderr }
    }

    fn exec(self, overlay: &Overlay, stderr: String) -> Outcome {
        let real: Real = self.request.real.clone();
        let exec = match overlay {
            Overlay::Bound(directory) => real.into_exec_with(self.arguments, directory),
            Overlay::None | Overlay::Stale => real.into_exec(self.arguments),
        };
        Outcome::Exec { exec, stderr }
    }
}

fn end(stop: Abort) -> Result<Outcome, Interrupted> {
    match stop {
        Abort::Interrupted(signal) => Err(signal),
        Abort::Error(error) => Ok(Outcome::failed(&error)),
    }
}

const STALE: &str = "the repair kept beside the environment is stale (the environment has changed) and not used\n\
                     `pcluster preflight fix --isolated` makes it anew, `pcluster preflight undo` removes it";

fn said(fixed: &Fixed) -> String {
    match fixed {
        Fixed::Done { changes, isolated } => {
            let moves =
                repair::plan::summary(changes).into_iter().map(|(name, step, _)| format!("{name} {step}"));
            let moves = moves.collect::<Vec<_>>().join(", ");
            let place = if *isolated { "repaired beside the environment" } else { "repaired" };
            on_stderr(&format!("{place}: {moves}; `pcluster preflight undo` takes it back"))
        }
        Fixed::Nothing | Fixed::Planned(_) => String::new(),
    }
}

fn warning(fault: &Error) -> String {
    on_stderr(&format!("{}; ignored, the default is used", fault.in_one_line()))
}

fn describe_unread(configuration: &Path) -> Check {
    let name: String =
        configuration.to_string_lossy().chars().filter(|letter| !letter.is_control()).collect();
    let reason = format!(
        "{name} is no regular file and is left for the real pcluster to read; \
         the environment was checked with a minimal configuration"
    );
    Check {
        id: "configuration",
        status: Status::Unknown,
        duration_ms: 0,
        cached: false,
        reason: Some(reason),
    }
}

/// Wherever they stand, they end in help or in a usage error, which is not worth a Python.
fn asks_for_help(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "-h" || argument == "--help")
}

/// A file that cannot be read ends in an error of the real pcluster's.
fn has_unreadable_configuration(arguments: &[OsString]) -> bool {
    PlainBuildImage::read(arguments, true).is_some_and(|plain| is_unreadable(&plain.configuration))
}
