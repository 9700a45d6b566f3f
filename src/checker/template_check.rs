//! The template of a check: built, once more where a cache may be damaged, and judged; or why it cannot be.

use std::path::Path;
use std::time::Instant;

use crate::checker::request::CheckRequest;
use crate::environment::jsii_cache::JsiiCache;
use crate::environment::packages::Packages;
use crate::environment::record::find_owner;
use crate::environment::startup::{self, Start};
use crate::environment::synthesis::{self, Answer, Call, StartupFailure, Synthesis};
use crate::environment::target::Target;
use crate::error::Abort;
use crate::report::builder::ReportBuilder;
use crate::rules::startup::Owners;
use crate::rules::template_rules::TemplateRules;
use crate::rules::{self, Finding};
use crate::system::child::ChildError;

/// Builds the template, without Node.js too: what the real pcluster refuses, it refuses before CDK
/// runs.
///
/// # Errors
/// Returns an error if a signal came.
pub fn synthesize(
    request: &CheckRequest,
    call: &Call,
    target: &Target,
) -> Result<Result<Answer, ChildError>, Abort> {
    let _step = request.progress.step("building the template that build-image would submit");
    match synthesis::synthesize(target, call, request.settings.timeout, &request.cache) {
        Err(ChildError::Interrupted(interrupted)) => Err(interrupted.into()),
        synthesized => Ok(synthesized),
    }
}

/// Builds a template that falls short once more without jsii's cache, of which a damaged entry may be the
/// reason; the cache is cleared where it was.
///
/// # Errors
/// Returns an error if a signal came.
pub fn build_again_if_short(
    synthesized: Result<Synthesis, ChildError>,
    request: &CheckRequest,
    call: &Call,
    target: &Target,
    rules: &TemplateRules,
) -> Result<Result<Synthesis, ChildError>, Abort> {
    let falls_short = |synthesized: &Result<Synthesis, ChildError>| match synthesized {
        Ok(Synthesis::Template { template, expectation }) => rules.falls_short(template, expectation),
        _ => false,
    };
    if request.cache.is_fresh() || !falls_short(&synthesized) {
        return Ok(synthesized);
    }
    let Some(packages) = JsiiCache::lock(&request.cache).filter(|packages| !packages.is_empty()) else {
        return Ok(synthesized);
    };
    match synthesis::synthesize_without_cache(target, call, request.settings.timeout, &request.cache) {
        Err(ChildError::Interrupted(interrupted)) => Err(interrupted.into()),
        Ok(Answer { synthesis: again @ Synthesis::Template { .. }, .. }) => {
            let again = Ok(again);
            if falls_short(&again) {
                return Ok(synthesized);
            }
            packages.clear();
            Ok(again)
        }
        _ => Ok(synthesized),
    }
}

/// Adds a start that has failed, if it fails by the launcher too.
///
/// # Errors
/// Returns an error if a signal came.
pub fn add_failed_startup(
    request: &CheckRequest,
    target: &Target,
    packages: &Packages,
    failure: &StartupFailure,
    since: Instant,
    report: &mut ReportBuilder,
) -> Result<(), Abort> {
    let finding = describe_startup(failure, packages);
    let launcher = request.real.path.display();
    let contradicted = match startup::start(request.real, target, failure, request.settings.timeout) {
        Ok(Start::FailsAlike) => None,
        Ok(Start::FailsOtherwise) => Some(format!("{launcher} fails in another way")),
        Ok(Start::Starts) => Some(format!("{launcher} starts pcluster")),
        Err(ChildError::Interrupted(interrupted)) => return Err(interrupted.into()),
        Err(error) => Some(error.to_string()),
    };
    match contradicted {
        None => {
            report.add_findings("startup", since.elapsed(), vec![finding]);
        }
        Some(contradiction) => {
            let exception = rules::startup::write_exception(&failure.exception, &failure.message);
            let reason = format!("{contradiction}, but its import in a check ends in {exception}");
            report.add_unknown("startup", since.elapsed(), reason);
        }
    }
    report.add_skipped("template", "pcluster does not start");
    Ok(())
}

fn describe_startup(failure: &StartupFailure, packages: &Packages) -> Finding {
    let owner = |file: &Option<String>| file.as_ref().and_then(|file| find_owner(packages, Path::new(file)));
    rules::startup::describe(
        failure,
        Owners { file: owner(&failure.file), module: owner(&failure.module_file) },
    )
}

/// The outcome of building a template, and how it was built.
#[derive(Debug)]
pub struct Built {
    pub synthesized: Result<Synthesis, ChildError>,
    pub has_node: bool,
    pub is_console_script: bool,
    pub since: Instant,
}

/// Checks the template. Where it is what was asked for, its other findings are returned.
pub fn add_template(built: Built, rules: &TemplateRules, report: &mut ReportBuilder) -> Option<Vec<Finding>> {
    let Built { synthesized, has_node, is_console_script, since } = built;
    let reason = match synthesized {
        Ok(Synthesis::Template { template, expectation }) => {
            let findings = rules.check(&template, &expectation);
            let has_failed = report.add_findings("template", since.elapsed(), findings.clone());
            return Some(findings).filter(|_| !has_failed);
        }
        // A launcher of another kind may bring finders of modules; there is no second witness here.
        Ok(Synthesis::Unstartable(failure)) if has_node && is_console_script => {
            let finding = describe_startup(&failure, rules.packages);
            report.add_findings("template", since.elapsed(), vec![finding]);
            return None;
        }
        Ok(Synthesis::Unexpected { call }) => {
            format!("building it asks AWS for {call}, which a check does not do")
        }
        // The reason is in the node check.
        _ if !has_node => {
            report.add_skipped("template", "there is no Node.js to build it with");
            return None;
        }
        Ok(Synthesis::Rejected { stage, message } | Synthesis::Failed { stage, message }) => {
            format!("it cannot be built ({stage}): {message}")
        }
        Ok(Synthesis::Unstartable(StartupFailure { exception, message, .. })) => {
            let exception = rules::startup::write_exception(&exception, &message);
            format!("it cannot be built (template): {exception}")
        }
        Ok(Synthesis::Started) => "it was not built".into(),
        Err(reason) => reason.to_string(),
    };
    report.add_unknown("template", since.elapsed(), reason);
    None
}
