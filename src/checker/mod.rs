//! One check, in order: interpreter, packages and advisories; start and template; report.
//!
//! The same check is made by the guard, by `preflight check`, and by the proof of a repair. pcluster's
//! behaviour decides: if its start or its template refutes an advisory, the advisory becomes an INFO.
//!
//! - `observation`: what a target does: whether it starts, and which template it builds
//! - `outside`: what AWS says about the parent image, the components and the network
//! - `request`: what is to be checked

pub mod observation;
pub mod outside;
pub mod request;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use pep440_rs::Version;

use crate::checker::observation::{Observed, Observer, Seen};
use crate::checker::request::CheckRequest;
use crate::environment::interpreter::IdentifyError;
use crate::environment::launcher::Launcher;
use crate::environment::locate::Real;
use crate::environment::packages::{is_in_cache_of_uv, read_installed};
use crate::environment::synthesis::Call;
use crate::environment::target::{self, Target};
use crate::error::{Abort, Error, OLD_RELEASE};
use crate::model::distribution::{Distribution, Packages};
use crate::model::finding::{Finding, Shows};
use crate::report::builder::{CheckResult, ReportBuilder};
use crate::report::{Report, Shim, TargetInfo};
use crate::rules::advisories::{self, combinations, releases};
use crate::rules::template::TemplateRules;
use crate::system::child::ChildError;
use crate::system::{self, executables};
use crate::text::package_name::PCLUSTER;

/// The pcluster that will run, if it could be identified.
#[derive(Debug)]
pub enum Identified {
    Target(Box<Target>),
    /// The report on an environment that could not be inspected.
    Unknown(Box<Report>),
}

/// How a check ended.
#[derive(Debug)]
pub enum CheckOutcome {
    Report(Box<Report>),
    /// The real pcluster would refuse this call, or fail on it. The guard then starts the real pcluster,
    /// which prints its own message.
    Refused {
        stage: String,
        message: String,
    },
}

impl CheckOutcome {
    /// Returns the report, or an error if the real pcluster would refuse the call.
    pub fn into_report(self) -> Result<Report, Error> {
        match self {
            Self::Report(report) => Ok(*report),
            Self::Refused { stage, message } => Err(Error::rejected(stage, message)),
        }
    }
}

/// Identifies the pcluster that will run, with the packages of `overlay` put in front by PYTHONPATH.
pub fn identify(request: &CheckRequest, overlay: Option<&Path>) -> Result<Identified, Abort> {
    let since = Instant::now();
    let _step = request.progress.step("looking for pcluster's Python");
    // A wrapper may choose its Python by the arguments, so it is started with those of the call.
    match target::identify(request.real, request.call.given(), overlay, request.settings.timeout) {
        Ok(target) => Ok(Identified::Target(Box::new(target))),
        Err(IdentifyError::Child(ChildError::Interrupted(interrupted))) => Err(interrupted.into()),
        Err(IdentifyError::Loop { tried }) => Err(Error::Loop { tried }.into()),
        Err(reason) => {
            let path = request.real.path.display();
            let reason = format!("cannot inspect {path}: {reason}");
            let took = since.elapsed();
            Ok(Identified::Unknown(report_unknown(request.real, None, "environment", took, reason)))
        }
    }
}

/// A report with a single check, which could not run for this reason.
pub fn report_unknown(
    real: &Real,
    target: Option<&Target>,
    check: &'static str,
    took: Duration,
    reason: String,
) -> Box<Report> {
    let mut report = ReportBuilder::new(Some(describe_target(real, target)));
    report.add(check, took, CheckResult::Unknown(reason));
    report.build(shim())
}

/// Checks the environment of a target.
pub fn check(request: &CheckRequest, target: &Target) -> Result<CheckOutcome, Abort> {
    let mut report = ReportBuilder::new(Some(describe_target(request.real, Some(target))));
    let Some(packages) = read_packages(request, target, &mut report) else {
        return Ok(finish(request, report, None));
    };
    if let Some(refused) = refuse_old_release(target, &packages) {
        return Ok(refused);
    }
    let call = call_that_runs(request, target, &mut report);
    // The parent image is known only from a template. The template of a minimal configuration does not count,
    // because its parent image does not exist.
    let asks_for_parent = request.synthesizes && request.asks_for_parent() && matches!(call, Call::Given(_));
    let since = Instant::now();
    let advised = advise(request, target, &report.packages, asks_for_parent);
    let took = since.elapsed();
    if !request.synthesizes {
        report.add("packages", took, CheckResult::Findings(advised));
        let reason = "--no-synth: no template was built to confirm advisories";
        report.add("template", Duration::ZERO, CheckResult::Skipped(reason.into()));
        return Ok(finish(request, report, packages.get(PCLUSTER)));
    }
    let rules = TemplateRules { packages: &packages, advisories: request.advisories, today: system::today() };
    let observer = Observer { request, target, rules: &rules };
    let mut seen = match observer.observe(&call)? {
        Observed::Refused { stage, message } => return Ok(CheckOutcome::Refused { stage, message }),
        Observed::Seen(seen) => *seen,
    };
    if has_open_question(&advised, &seen) {
        observer.observe_minimal(&mut seen)?;
    }
    let advised = advisories::refute(advised, seen.evidence);
    seen.explain_by(&advised);
    report.add("packages", took, CheckResult::Findings(advised));
    let built = seen.add_to(&mut report);
    if asks_for_parent {
        outside::check(request, target, built.as_ref(), &mut report)?;
    }
    Ok(finish(request, report, packages.get(PCLUSTER)))
}

/// Returns the findings that follow from the versions of the packages alone, including that of pcluster.
fn advise(
    request: &CheckRequest,
    target: &Target,
    packages: &BTreeMap<String, String>,
    asks_for_parent: bool,
) -> Vec<Finding> {
    let mut advised = advisories::check(packages, &target.interpreter.version, request.advisories);
    let pcluster = packages.get(PCLUSTER).map(String::as_str).unwrap_or_default();
    // `check_release` reports which parent images are known to fail with this release. If the parent image is
    // looked up, `outside` checks that image instead.
    if !asks_for_parent {
        advised.extend(combinations::check_release(pcluster));
    }
    advised.extend(releases::check(pcluster));
    advised
}

/// Whether an advisory of level ERROR says that the template is incomplete, and the template of a minimal
/// configuration could refute that advisory.
fn has_open_question(advised: &[Finding], seen: &Seen) -> bool {
    seen.minimal_may_build
        && advised.iter().any(|finding| finding.shows == Some(Shows::Template) && finding.blocks())
}

fn finish(
    request: &CheckRequest,
    mut report: ReportBuilder,
    pcluster: Option<&Distribution>,
) -> CheckOutcome {
    if let Some(pcluster) = pcluster.filter(|pcluster| is_in_cache_of_uv(&pcluster.metadata)) {
        // uvx recreates its environments, so a repair would not last.
        report.replace_fix(
            &format!(
                "pass `uvx --constraints FILE` the output of `pcluster preflight constraints {}`",
                pcluster.version
            ),
            "install aws-parallelcluster with `uv tool install` or pip, and run `pcluster preflight fix` there",
        );
    }
    let mut report = report.build(shim());
    report.ignore(&request.settings.ignore);
    CheckOutcome::Report(report)
}

/// The version and path of the shim, for reports.
pub fn shim() -> Shim {
    Shim { version: env!("CARGO_PKG_VERSION"), path: executables::own_executable() }
}

fn describe_target(real: &Real, target: Option<&Target>) -> TargetInfo {
    let interpreter = target.map(|target| &target.interpreter);
    TargetInfo {
        path: real.path.clone(),
        found_by: real.found_by,
        launcher: target.map(|target| target.launcher),
        interpreter: interpreter.map(|interpreter| interpreter.executable.clone()),
        python_version: interpreter.map(|interpreter| interpreter.version.clone()),
        pcluster_version: None,
        node: None,
        node_version: None,
    }
}

fn read_packages(request: &CheckRequest, target: &Target, report: &mut ReportBuilder) -> Option<Packages> {
    let since = Instant::now();
    let packages = read_installed(&target.interpreter.sys_path);
    report.packages = packages.versions();
    let Some(pcluster) = packages.get(PCLUSTER) else {
        let (path, python) = (request.real.path.display(), target.interpreter.executable.display());
        let reason = format!("cannot inspect {path}: {python} has no {PCLUSTER}");
        report.add("environment", since.elapsed(), CheckResult::Unknown(reason));
        return None;
    };
    if let Some(info) = &mut report.target {
        info.pcluster_version = Some(pcluster.version.clone());
    }
    Some(packages)
}

/// Refuses releases of pcluster before 3.0.0, because they have no `build-image`. A launcher that is a
/// known console script is not refused, even if metadata of an older release is still there: the script
/// imports `pcluster.cli.entrypoint`, which older releases do not have. (The scripts of `setup.py develop`
/// and of eggs name no module. Such a script may belong to an older release, but is not refused either.)
fn refuse_old_release(target: &Target, packages: &Packages) -> Option<CheckOutcome> {
    if target.launcher != Launcher::Other.name() {
        return None;
    }
    let version = &packages.get(PCLUSTER)?.version;
    let first = Version::new([3]);
    let is_old = Version::from_str(version).is_ok_and(|version| version < first);
    let message = format!("{PCLUSTER} {version} has no build-image command");
    is_old.then(|| CheckOutcome::Refused { stage: OLD_RELEASE.into(), message })
}

/// The call to check: the requested call, unless the launcher changes it before pcluster gets it. In that
/// case, only the environment can be checked, with a minimal configuration.
fn call_that_runs(request: &CheckRequest, target: &Target, report: &mut ReportBuilder) -> Call {
    match &request.call {
        Call::Given(_) if !target.keeps_call => {}
        call => return call.clone(),
    }
    let reason = "the launcher runs pcluster in another directory, with other arguments or as \
                  another user; the environment was checked with a minimal configuration";
    report.add("configuration", Duration::ZERO, CheckResult::Unknown(reason.into()));
    Call::minimal()
}
