//! `preflight check`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::checker::request::CheckRequest;
use crate::checker::{self, CheckOutcome, Identified};
use crate::cli::args::{CheckArgs, Common, FixArgs};
use crate::environment::image_configuration::is_read_once;
use crate::environment::target::Target;
use crate::error::{Abort, Error, describe_io};
use crate::outcome::Outcome;
use crate::preflight::context::{deny, name_as_called, render_report, repair_options, with_request};
use crate::preflight::fix::describe_repair;
use crate::preflight::iam_policy;
use crate::repair;
use crate::repair::locked_environment::LockedEnvironment;
use crate::repair::overlay::{Overlay, RENEW, STALE};
use crate::report::{Check, Report, Status, Verdict};
use crate::system::files;
use crate::system::scratch::Scratch;

/// Runs every check. With `--fix`, also repairs the environment if a finding blocks the build, or predicts
/// that the build fails.
pub fn run(check: &CheckArgs, common: &Common) -> Result<Outcome, Abort> {
    if check.print_policy {
        return Ok(Outcome::success(iam_policy::render_check()));
    }
    with_configuration(check, |check, given| check_one(check, given, common))
}

/// Calls `then` with the arguments, and with the path of the configuration that the user passed. If the
/// configuration can be read only once, the arguments name a copy, which every child process can read.
pub fn with_configuration<T>(
    check: &CheckArgs,
    then: impl FnOnce(&CheckArgs, Option<&Path>) -> Result<T, Abort>,
) -> Result<T, Abort> {
    let given = check.image_configuration.as_deref();
    if let Some(file) = given {
        refuse_unreadable(file)?;
    }
    let copy = given.filter(|file| is_read_once(file)).map(copy_stream).transpose()?;
    let file = copy.as_ref().map(|copy| copy.path(COPY)).or(check.image_configuration.clone());
    then(&CheckArgs { image_configuration: file, ..check.clone() }, given)
}

fn check_one(check: &CheckArgs, given: Option<&Path>, common: &Common) -> Result<Outcome, Abort> {
    with_request(check, common, |request| {
        let target = match checker::identify(request, None)? {
            Identified::Target(target) => target,
            Identified::Unknown(report) => return Ok(render_report(&report, common)?),
        };
        let mut report = check_target(request, &target, given)?;
        if check.fix && (report.verdict == Verdict::Blocked || report.has_repairable_failure()) {
            let options = repair_options(&FixArgs::default(), request.settings, common);
            let repaired = repair::fix(request, &target, options)?;
            request.progress.write(&name_as_called(&describe_repair(&repaired, "fix")));
            report = check_target(request, &target, given)?;
        }
        deny(&mut report, check.deny);
        Ok(render_report(&report, common)?)
    })
}

const COPY: &str = "image-configuration.yaml";

/// Copies a configuration that can be read only once. Every child then reads the copy. `preflight check` can
/// do this because, unlike in `build-image`, no real pcluster has to read the original afterwards.
fn copy_stream(file: &Path) -> Result<Scratch, Error> {
    let read = || {
        let scratch = Scratch::new()?;
        fs::write(scratch.path(COPY), files::read_stream(fs::File::open(file)?, files::MAX_BYTES)?)?;
        Ok(scratch)
    };
    read().map_err(|error: io::Error| Error::BadFile { file: file.to_owned(), message: describe_io(&error) })
}

/// Refuses a configuration that cannot be read: the real pcluster would only print a traceback or its
/// usage text.
fn refuse_unreadable(file: &Path) -> Result<(), Error> {
    let bad = |message: &str| Err(Error::BadFile { file: file.to_owned(), message: message.into() });
    match file.metadata() {
        Err(error) => Err(Error::of_file(file, &error)),
        Ok(metadata) if metadata.is_dir() => bad("expected a file, found a directory"),
        Ok(_) if is_read_once(file) => Ok(()),
        Ok(_) => match fs::read_to_string(file) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => bad("not UTF-8 text"),
            Err(error) => Err(Error::of_file(file, &error)),
        },
    }
}

/// Locks an identified target against repairs, and checks it.
pub fn check_target(
    request: &CheckRequest,
    target: &Target,
    configuration: Option<&Path>,
) -> Result<Box<Report>, Abort> {
    let environment = match LockedEnvironment::lock(request, target)? {
        Ok(environment) => environment,
        Err(report) => return Ok(report),
    };
    let mut report = match environment.check(request)? {
        CheckOutcome::Report(report) => report,
        CheckOutcome::Refused { stage, message } => {
            let file = configuration.filter(|_| stage == "configuration");
            let stage = file.map_or(stage.clone(), |file| format!("{stage} {}", file.display()));
            return Err(Error::rejected(stage, message).into());
        }
    };
    if let Some(check) = describe_overlay(&environment.overlay) {
        report.add(check);
    }
    Ok(report)
}

fn describe_overlay(overlay: &Overlay) -> Option<Check> {
    let (status, reason) = match overlay {
        Overlay::None => return None,
        Overlay::Bound(directory) => (
            Status::Passed,
            format!("repaired for build-image only, outside the environment, in {}", directory.display()),
        ),
        Overlay::Stale => (Status::Skipped, format!("{STALE}; {RENEW}")),
    };
    Some(Check::new("isolated", status, Duration::ZERO, Some(reason)))
}
