//! The steps of one guarded `build-image`, in order. This file parses nothing and prints nothing.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::checker::request::{CheckRequest, ParentSource, read_advisories};
use crate::checker::{self, CheckOutcome, Identified};
use crate::cli::settings::Settings;
use crate::environment::image_configuration::find_read_once;
use crate::environment::locate::Search;
use crate::environment::synthesis::Call;
use crate::environment::target::Target;
use crate::error::{Abort, Error, prefix_lines};
use crate::model::env_vars;
use crate::model::options::{FoundBy, Mode};
use crate::outcome::{Exec, Outcome};
use crate::progress::Progress;
use crate::repair::context::Options;
use crate::repair::locked_environment::LockedEnvironment;
use crate::repair::overlay::{self, Overlay};
use crate::repair::{self, RepairOutcome, change};
use crate::report::{self, Check, Decision, Report, Status, Verdict, human, pcluster};
use crate::text::printable::{capitalize, lossy, name_of};

/// Guards one `pcluster build-image`.
pub fn build_image(arguments: Vec<OsString>) -> Outcome {
    let (settings, errors) = Settings::read();
    let named = settings.real.clone().map(|path| (path, FoundBy::Config));
    let real = match Search::from_environment(named).real() {
        Ok(real) => real,
        Err(error) => return Outcome::failed(&error),
    };
    if asks_for_help(&arguments) {
        return Outcome::exec(real.into_exec(arguments));
    }
    if settings.mode == Mode::Off {
        // With mode `off`, the only error in the settings that is reported is a mistyped PCLUSTER_SHIM_MODE.
        // If the variable is mistyped, `off` comes from the config file, and the user probably meant
        // another mode.
        let is_mistyped = |error: &&Error| matches!(error, Error::BadVariable { name: env_vars::MODE, .. });
        let stderr =
            errors.iter().filter(is_mistyped).map(|error| warn_of_settings(error, &settings)).collect();
        return Outcome::Exec { exec: real.into_exec(arguments), stderr };
    }
    let unread = find_read_once(&arguments);
    let call = match &unread {
        // The arguments name a file that the check must not read, so the check gets no arguments, not even
        // the region. To pass the region alone, the shim would have to parse the arguments, and pcluster
        // might parse the arguments differently.
        Some(_) => Call::minimal(),
        None => Call::Given(arguments.clone()),
    };
    let (advisories, more_errors) = read_advisories(&settings);
    let request = CheckRequest {
        real: &real,
        settings: &settings,
        advisories: &advisories,
        call,
        synthesizes: true,
        parent: if settings.aws { ParentSource::Aws } else { ParentSource::NotAsked },
        progress: Progress::Terminal,
    };
    let ignored =
        |error: &Error| prefix_lines(&format!("warning: {}; the file was ignored", error.to_line()));
    let warnings = errors
        .iter()
        .map(|error| warn_of_settings(error, &settings))
        .chain(more_errors.iter().map(ignored))
        .collect();
    let unread_check = unread.as_deref().map(describe_unread);
    match (Guarded { request: &request, arguments, unread_check, warnings }).run() {
        Ok(outcome) => outcome,
        Err(Abort::Interrupted(interrupted)) => Outcome::Die(interrupted),
        Err(Abort::Error(error)) => Outcome::failed(&error),
    }
}

struct Guarded<'a> {
    request: &'a CheckRequest<'a>,
    arguments: Vec<OsString>,
    /// If the configuration can be read only once, it is left to the real pcluster. This check reports that
    /// the shim has not read it.
    unread_check: Option<Check>,
    /// Printed before the findings, but not if the real pcluster rejects the call.
    warnings: String,
}

impl Guarded<'_> {
    fn run(mut self) -> Result<Outcome, Abort> {
        let target = match checker::identify(self.request, None)? {
            Identified::Target(target) => target,
            Identified::Unknown(report) => return Ok(self.act(CheckOutcome::Report(report), &Overlay::None)),
        };
        let (outcome, overlay) = self.check(&target)?;
        if overlay == Overlay::Stale {
            self.warnings += &prefix_lines(&format!(
                "warning: the repair that is kept outside the environment is {}\nhint: {}.",
                overlay::STALE,
                capitalize(overlay::RENEW)
            ));
        }
        match outcome {
            CheckOutcome::Report(report) if self.decide(&report) == Decision::Repair => {
                self.repair(&target, &report, &overlay)
            }
            outcome => Ok(self.act(outcome, &overlay)),
        }
    }

    /// Locks a target against repairs, checks it, and adds `unread_check` to the report.
    fn check(&self, target: &Target) -> Result<(CheckOutcome, Overlay), Abort> {
        let environment = match LockedEnvironment::lock(self.request, target)? {
            Ok(environment) => environment,
            Err(report) => return Ok((CheckOutcome::Report(report), Overlay::None)),
        };
        let mut outcome = environment.check(self.request)?;
        if let (CheckOutcome::Report(report), Some(check)) = (&mut outcome, &self.unread_check) {
            report.add(check.clone());
        }
        Ok((outcome, environment.overlay))
    }

    fn decide(&self, report: &Report) -> Decision {
        let settings = self.request.settings;
        report::decide(settings.mode, settings.strict, report)
    }

    /// Repairs the environment, or makes a repair outside it if the environment cannot be changed; then
    /// checks again. If the repair fails, the build is stopped only if the verdict was blocked. If the
    /// verdict was ready, the repair was for a warning, and a warning does not stop a build.
    fn repair(mut self, target: &Target, before: &Report, overlay: &Overlay) -> Result<Outcome, Abort> {
        let repaired = match self.fix(target, false) {
            Err(Abort::Error(Error::NotInPlace { .. })) => self.fix(target, true),
            other => other,
        };
        let repaired = match repaired {
            Ok(repaired) => repaired,
            Err(Abort::Error(error)) => {
                let failed = |level: &str| {
                    error.render_for_stderr().replacen("error: ", &format!("{level}: the repair failed: "), 1)
                };
                if before.verdict == Verdict::Blocked {
                    return Ok(self.stop(before, &failed("error")));
                }
                self.warnings += &failed("warning");
                return Ok(self.exec(before, overlay));
            }
            Err(interrupted) => return Err(interrupted),
        };
        let (outcome, overlay) = self.check(target)?;
        self.warnings += &describe_repair(&repaired);
        Ok(self.act(outcome, &overlay))
    }

    fn fix(&self, target: &Target, isolated: bool) -> Result<RepairOutcome, Abort> {
        let settings = self.request.settings;
        let (strategy, installer) = (settings.strategy, settings.installer);
        let options =
            Options { ids: Vec::new(), dry_run: false, strategy, isolated, installer, verbose: false };
        repair::fix(self.request, target, options)
    }

    /// Returns the outcome: the real pcluster is started, or the build is stopped. If the real pcluster is
    /// going to reject the call, it prints its own message, so the shim prints nothing.
    fn act(self, outcome: CheckOutcome, overlay: &Overlay) -> Outcome {
        let CheckOutcome::Report(report) = outcome else {
            return Outcome::exec(self.into_exec(overlay));
        };
        match self.decide(&report) {
            Decision::Exec => self.exec(&report, overlay),
            // The repair has been made already, and a warning that remains does not stop the build.
            Decision::Repair if report.verdict == Verdict::Ready => self.exec(&report, overlay),
            Decision::Stop | Decision::Repair => self.stop(&report, ""),
        }
    }

    fn exec(self, report: &Report, overlay: &Overlay) -> Outcome {
        let findings = prefix_lines(&human::render_for_stderr(report, Decision::Exec));
        let stderr = self.warnings.clone() + &findings;
        Outcome::Exec { exec: self.into_exec(overlay), stderr }
    }

    fn stop(&self, report: &Report, why_not_repaired: &str) -> Outcome {
        // With the decision `Repair`, the text does not advise a repair: the repair has just failed.
        let decision = if why_not_repaired.is_empty() { Decision::Stop } else { Decision::Repair };
        let findings = prefix_lines(&human::render_for_stderr(report, decision));
        let stderr = format!("{}{findings}{why_not_repaired}", self.warnings);
        Outcome::Exit { status: 1, stdout: pcluster::render_stop(report), stderr }
    }

    fn into_exec(self, overlay: &Overlay) -> Exec {
        let real = self.request.real.clone();
        match overlay {
            Overlay::Bound(directory) => real.into_exec_with(self.arguments, directory),
            Overlay::None | Overlay::Stale => real.into_exec(self.arguments),
        }
    }
}

fn describe_repair(outcome: &RepairOutcome) -> String {
    let (head, repaired) = match outcome {
        RepairOutcome::InPlace(repaired) => ("repaired", repaired),
        RepairOutcome::Isolated(repaired) => {
            ("repaired for build-image only, outside the environment", repaired)
        }
        // There is no change to report: removed bytecode was reported earlier, and this is not a dry run.
        _ => return String::new(),
    };
    let moves = change::list_moves(&repaired.changes);
    prefix_lines(&format!("{head}: {moves}\nTo revert, run `pcluster preflight undo`."))
}

fn warn_of_settings(error: &Error, settings: &Settings) -> String {
    let what = error.to_line();
    prefix_lines(&match error {
        Error::BadVariable { name, accepted, .. } => {
            let value = settings.describe_value_of(name);
            format!("warning: {what} (accepted: {accepted}); using {value}")
        }
        _ => format!("warning: {what}; the file was ignored, and the mode is {}", name_of(settings.mode)),
    })
}

fn describe_unread(configuration: &Path) -> Check {
    let name = lossy(configuration);
    let reason = format!("{name} is not a regular file; only the environment was checked");
    Check::new("configuration", Status::Unknown, Duration::ZERO, Some(reason))
}

/// Whether the call asks for help. Wherever these arguments appear, the real pcluster prints help or a usage
/// error, so there is nothing to check.
fn asks_for_help(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "-h" || argument == "--help")
}
