//! One check, in order: interpreter → packages → advisories → cache → template and Node.js → report.
//!
//! The guard, `preflight check` and the proof of a repair make the same check. The guard stops at the
//! first reason to stop; the others go to the end, because a person wants to know everything.

pub mod request;
pub mod template_check;

use std::path::Path;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use pep440_rs::Version;

use crate::cache_key;
use crate::cached_verdict::CachedVerdict;
use crate::checker::request::CheckRequest;
use crate::checker::template_check::{
    Built, add_failed_startup, add_template, build_again_if_short, synthesize,
};
use crate::cli::build_image::PlainBuildImage;
use crate::environment::interpreter::IdentifyError;
use crate::environment::launcher::Launcher;
use crate::environment::locate::Real;
use crate::environment::node::{self, Node, NodeError};
use crate::environment::packages::Packages;
use crate::environment::synthesis::{self, Answer, Call, StartupStage, Synthesis};
use crate::environment::target::{self, Target};
use crate::error::{Abort, Error};
use crate::package_name::PCLUSTER;
use crate::report::builder::ReportBuilder;
use crate::report::{Report, Shim, TargetInfo};
use crate::rules::advisory;
use crate::rules::runtimes;
use crate::rules::template_rules::TemplateRules;
use crate::system::child::ChildError;
use crate::system::{date, executables, files};
use crate::yaml;

/// Who will run.
#[derive(Debug)]
pub enum Identified {
    Target(Box<Target>),
    /// The report of an environment that stays unknown.
    Unknown(Box<Report>),
}

/// How a check ended.
#[derive(Debug)]
pub enum CheckOutcome {
    Report(Box<Report>),
    /// The real pcluster refuses the call itself, in its own words.
    Refused {
        stage: String,
        message: String,
    },
}

/// Who will run, with the packages of `overlay` in front as PYTHONPATH puts them there.
///
/// # Errors
/// Returns an error if a signal came, or the launcher only starts this shim again.
pub fn identify(request: &CheckRequest, overlay: Option<&Path>) -> Result<Identified, Abort> {
    let since = Instant::now();
    let _step = request.progress.step("looking for pcluster's Python");
    match target::identify(request.real, overlay, request.settings.timeout, &request.cache) {
        Ok(target) => Ok(Identified::Target(Box::new(target))),
        Err(IdentifyError::Child(ChildError::Interrupted(interrupted))) => Err(interrupted.into()),
        Err(IdentifyError::Loop { tried }) => Err(Error::Loop { tried }.into()),
        Err(reason) => {
            let path = request.real.path.display();
            let reason = format!("the environment of {path} is unknown: {reason}");
            let took = since.elapsed();
            Ok(Identified::Unknown(report_unknown(request.real, None, "environment", took, reason)))
        }
    }
}

/// The report of a pcluster of which nothing more is known.
#[must_use]
pub fn report_unknown(
    real: &Real,
    target: Option<&Target>,
    check: &'static str,
    took: Duration,
    reason: String,
) -> Box<Report> {
    let mut report = ReportBuilder::new(Some(describe_target(real, target)));
    report.add_unknown(check, took, reason);
    report.build(shim())
}

/// Checks the environment of a target.
///
/// # Errors
/// Returns an error if a signal came.
pub fn check(request: &CheckRequest, target: &Target) -> Result<CheckOutcome, Abort> {
    let mut report = ReportBuilder::new(Some(describe_target(request.real, Some(target))));
    let Some(packages) = read_packages(request, target, &mut report) else { return Ok(finish(report)) };
    if let Some(refused) = refuse_old_release(target, &packages) {
        return Ok(refused);
    }
    let call = call_that_runs(request, target, &mut report);
    let since = Instant::now();
    let advised = advisory::check(&report.packages, &target.interpreter.version, request.advisories);
    let is_blocked = report.add_findings("packages", since.elapsed(), advised);
    if is_blocked && !request.is_thorough && is_plain(&call, &packages) {
        report.add_skipped("template", "an advisory blocks already");
        return Ok(finish(report));
    }
    if !request.synthesizes {
        report.add_skipped("template", "--no-synth");
        return Ok(finish(report));
    }
    let (limit, cache) = (request.settings.timeout, &request.cache);
    let today = date::today();
    let rules = runtimes::describe_dependencies(request.advisories, &today);
    let before = cache_key::fingerprint(&call, target, &packages, &rules);
    // A Node.js that is seen for the first time is asked while the template is built: no cached
    // verdict can depend on it.
    let since = Instant::now();
    let pending = node::is_new(target, cache).then(|| node::ask(target, limit));
    let mut node = None;
    if pending.is_none() {
        node = add_node(node::find(target, limit, cache), since, &mut report)?;
    }
    let key = node.as_ref().map(|node| cache_key::verdict_key(&before, node));
    let cached = key.and_then(|key| cache.get(VERDICTS, &key));
    if let Some(verdict) = cached.and_then(|entry| serde_json::from_value::<CachedVerdict>(entry).ok()) {
        report.add_cached("startup", Vec::new());
        report.add_cached("template", verdict.into_findings());
        return Ok(finish(report));
    }
    let since = Instant::now();
    let synthesized = synthesize(request, &call, target)?;
    if let Some(pending) = pending {
        let since = Instant::now();
        node = add_node(pending.and_then(|pending| pending.wait(cache)), since, &mut report)?;
    }
    if let Ok(Answer { synthesis: Synthesis::Rejected { stage, message }, .. }) = synthesized {
        return Ok(CheckOutcome::Refused { stage, message });
    }
    let synthesized = match synthesized {
        Ok(Answer { synthesis: Synthesis::Unstartable(failure), .. })
            if failure.stage == StartupStage::Import =>
        {
            add_failed_startup(request, target, &packages, &failure, since, &mut report)?;
            return Ok(finish(report));
        }
        Ok(Answer { synthesis, startup }) => {
            if let Some(took) = startup {
                report.add_passed("startup", took);
            }
            Ok(synthesis)
        }
        Err(error) => Err(error),
    };
    let rules_of_template =
        TemplateRules { packages: &packages, advisories: request.advisories, today: &today };
    let synthesized = build_again_if_short(synthesized, request, &call, target, &rules_of_template)?;
    let is_console_script = target.launcher != Launcher::Other.name();
    let built = Built { synthesized, has_node: node.is_some(), is_console_script, since };
    let passed = add_template(built, &rules_of_template, &mut report);
    if let (Some(node), Some(findings)) = (node, passed) {
        // A verdict about packages that have changed meanwhile is about neither state.
        let packages = Packages::installed(&target.interpreter.sys_path);
        let key = cache_key::verdict_key(&before, &node);
        let after = cache_key::fingerprint(&call, target, &packages, &rules);
        if cache_key::verdict_key(&after, &node) == key {
            let verdict = CachedVerdict::new(&findings);
            cache.put(VERDICTS, &key, &serde_json::to_value(verdict).unwrap_or_default());
        }
    }
    Ok(finish(report))
}

const VERDICTS: &str = "verdicts";

fn finish(report: ReportBuilder) -> CheckOutcome {
    CheckOutcome::Report(report.build(shim()))
}

/// This program, as reports name it.
#[must_use]
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
    let packages = Packages::installed(&target.interpreter.sys_path);
    report.packages = packages.versions();
    let Some(pcluster) = packages.get(PCLUSTER) else {
        let (path, python) = (request.real.path.display(), target.interpreter.executable.display());
        let reason = format!("the environment of {path} is unknown: {python} has no {PCLUSTER}");
        report.add_unknown("environment", since.elapsed(), reason);
        return None;
    };
    if let Some(info) = &mut report.target {
        info.pcluster_version = Some(pcluster.version.clone());
    }
    Some(packages)
}

/// `build-image` came with 3.0.0; before it, the real parser does not know the word. A console script
/// that is known is one of 3.0.0 or later, whatever is left of another release.
fn refuse_old_release(target: &Target, packages: &Packages) -> Option<CheckOutcome> {
    if target.launcher != Launcher::Other.name() {
        return None;
    }
    let version = &packages.get(PCLUSTER)?.version;
    let first = Version::new([3]);
    let is_old = Version::from_str(version).is_ok_and(|version| version < first);
    let message = format!("{PCLUSTER} {version} has no build-image");
    is_old.then(|| CheckOutcome::Refused { stage: "arguments".into(), message })
}

/// The call as pcluster will get it. A launcher that changes it leaves only the environment to be
/// checked.
fn call_that_runs(request: &CheckRequest, target: &Target, report: &mut ReportBuilder) -> Call {
    if target.keeps_call || !matches!(request.call, Call::Given(_)) {
        return request.call.clone();
    }
    let reason = "the launcher runs pcluster in another directory, with other arguments or as \
                  another user; the environment was checked with a minimal configuration";
    report.add_unknown("configuration", Duration::ZERO, reason.into());
    Call::Minimal(vec!["--image-id".into(), synthesis::IMAGE_ID.into()])
}

fn is_mapping(configuration: &str) -> bool {
    /// Nothing of it counts. An empty document would be one too, without the `Option`.
    #[derive(serde::Deserialize)]
    struct Mapping {}
    yaml::parse::<Option<Mapping>>(configuration).is_ok_and(|mapping| mapping.is_some())
}

/// Whether the call is surely one that the real pcluster takes, as far as can be told at once.
fn is_plain(call: &Call, packages: &Packages) -> bool {
    let Call::Given(arguments) = call else { return true };
    let short_options = packages.get(PCLUSTER).is_some_and(|pcluster| !pcluster.version.starts_with("3.0."));
    let Some(plain) = PlainBuildImage::read(arguments, short_options) else { return false };
    let configuration = files::read_to_string(&plain.configuration).unwrap_or_default();
    is_mapping(&configuration)
}

/// The Node.js that CDK will run, if there is one that answers.
fn add_node(
    found: Result<Node, NodeError>,
    since: Instant,
    report: &mut ReportBuilder,
) -> Result<Option<Node>, Abort> {
    match found {
        Ok(node) => {
            if let Some(info) = &mut report.target {
                info.node = Some(node.path.clone());
                info.node_version = Some(node.version.to_string());
            }
            report.add_passed("node", since.elapsed());
            Ok(Some(node))
        }
        Err(NodeError::Child(ChildError::Interrupted(interrupted))) => Err(interrupted.into()),
        Err(reason) => {
            report.add_unknown("node", since.elapsed(), reason.to_string());
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_a_mapping() {
        for mapping in ["Build: {}", "{}", "1.5: x", "~: x", "a: !b c", "a: &a x\nb: *a"] {
            assert!(is_mapping(mapping), "{mapping}");
        }
        for other in ["", "~", "# nothing", "[a]", "text", "!tag a", "a: [", "a: 1\n---\nb: 2"] {
            assert!(!is_mapping(other), "{other}");
        }
    }
}
