//! The story of one guarded `build-image`, in order. Parses nothing, prints nothing.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use crate::Outcome;
use crate::cli::PlainBuildImage;
use crate::config::{Mode, Settings};
use crate::error::{Error, Stop, on_stderr};
use crate::examine::{Examined, Request, examine, read_advisories};
use crate::locate::{FoundBy, Real, Search};
use crate::progress::Progress;
use crate::remember::Memory;
use crate::repair::{self, Fixed, Ground, Overlay};
use crate::report::{self, Decision, Report};
use crate::synth::Call;
use crate::system::files;

/// Guards one `pcluster build-image`.
#[must_use]
pub fn build_image(arguments: Vec<OsString>) -> Outcome {
    let (settings, faults) = Settings::read();
    let named = settings.real.clone().map(|path| (path, FoundBy::Config));
    let real = match Search::from_environment(named).real() {
        Ok(real) => real,
        Err(error) => return Outcome::failed(&error),
    };
    if settings.mode == Mode::Off || is_refused_at_once(&arguments) {
        return real.become_it(arguments, String::new());
    }
    let (advisories, more_faults) = read_advisories(&settings);
    let request = Request {
        real: &real,
        settings: &settings,
        advisories: &advisories,
        memory: Memory::from_environment(false),
        call: Call::Given(arguments.clone()),
        thorough: false,
        synthesize: true,
        progress: Progress::Terminal,
    };
    let warnings = faults.iter().chain(&more_faults).map(warning).collect();
    let guarded = Guarded { request: &request, arguments, warnings };
    guarded.look().unwrap_or_else(|signal| Outcome::Die { signal })
}

/// The signal that interrupted us.
type Interrupted = i32;

struct Guarded<'a> {
    request: &'a Request<'a>,
    arguments: Vec<OsString>,
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
            Err(stop) => self.unknown(stop),
        }
    }

    fn at_environment(&mut self) -> Result<Look, Stop> {
        let ground = match Ground::find(self.request)? {
            Ok(ground) => ground,
            Err(report) => return Ok(Look::Judged { report, overlay: Overlay::None }),
        };
        let overlay = ground.overlay.clone();
        if overlay == Overlay::Stale {
            self.warnings += &on_stderr(STALE);
        }
        Ok(match examine(self.request, &ground.target)? {
            Examined::Judged(report) => Look::Judged { report, overlay },
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
            Err(Stop::Error(Error::NotInPlace { .. })) => self.fix(true),
            other => other,
        };
        match fixed {
            Err(Stop::Interrupted(signal)) => Err(signal),
            Err(Stop::Error(error)) => Ok(self.stop(before, &error.on_stderr())),
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
                    Err(stop) => self.unknown(stop),
                }
            }
        }
    }

    fn fix(&self, isolated: bool) -> Result<Fixed, Stop> {
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
        match overlay {
            Overlay::Bound(directory) => real.become_with(self.arguments, directory, stderr),
            Overlay::None | Overlay::Stale => real.become_it(self.arguments, stderr),
        }
    }

    /// Our own trouble stops nobody who has not asked for it.
    fn unknown(self, stop: Stop) -> Result<Outcome, Interrupted> {
        match stop {
            Stop::Interrupted(signal) => Err(signal),
            // There is nothing that could go on.
            Stop::Error(error @ Error::Loop { .. }) => Ok(Outcome::failed(&error)),
            Stop::Error(error) => {
                let stderr = self.warnings.clone() + &error.on_stderr();
                let stops = self.request.settings.strict && self.request.settings.mode != Mode::Warn;
                Ok(if stops {
                    let stdout = report::pcluster_shaped_error(&error.to_string(), &error.hint());
                    Outcome::Exit { status: 1, stdout, stderr }
                } else {
                    self.exec(&Overlay::None, stderr)
                })
            }
        }
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
    on_stderr(&format!("{fault}; ignored, the default is used"))
}

/// What is no regular file, or large, is not read here: there is more to be said about it.
fn is_unreadable(configuration: &Path) -> bool {
    configuration.metadata().map_or(true, |metadata| metadata.is_file() || metadata.is_dir())
        && files::read_to_string(configuration).is_err_and(|error| error.kind() != ErrorKind::FileTooLarge)
}

/// `-h` and `--help`, wherever they stand, end in help or in a usage error; a file that cannot be
/// read ends in an error. Neither is worth a Python.
fn is_refused_at_once(arguments: &[OsString]) -> bool {
    let asks_for_help = arguments.iter().any(|argument| argument == "-h" || argument == "--help");
    let plain = PlainBuildImage::read(arguments, true);
    asks_for_help || plain.is_some_and(|plain| is_unreadable(&plain.configuration))
}
