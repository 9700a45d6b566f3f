//! `preflight check --all`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checker::request::CheckRequest;
use crate::checker::{self, Identified, report_unknown};
use crate::cli::args::{CheckArgs, Common, Format};
use crate::environment::discover;
use crate::environment::locate::Real;
use crate::environment::target::Target;
use crate::error::{Abort, Error, prefix_lines};
use crate::outcome::Outcome;
use crate::preflight::check::{check_target, with_configuration};
use crate::preflight::context::{
    build_request, choose_paint, choose_progress, deny, read_all_advisories, read_parent, read_settings,
    start_search,
};
use crate::report::{self, Report, Verdict, github, junit, list};
use crate::system::concurrently::map_concurrently;
use crate::text::printable::count;

/// Checks every pcluster that can be found, in parallel.
pub fn run(check: &CheckArgs, common: &Common) -> Result<Outcome, Abort> {
    with_configuration(check, |check, given| {
        let settings = read_settings()?;
        let advisories = read_all_advisories(&settings)?;
        let parent = read_parent(check, &settings)?;
        let progress = choose_progress(common);
        let step = progress.step("looking for all installations of pcluster");
        let discovery = discover::discover(&start_search(common, &settings), &check.root)?;
        drop(step);
        if discovery.found.is_empty() {
            return Err(Error::NothingFound.into());
        }
        let installations = count(discovery.found.len(), "installation");
        let _step = progress.step(&format!("checking {installations} of pcluster"));
        let found = discovery.found.iter().map(|found| {
            let request = build_request(check, common, &found.real, &settings, &advisories, &parent);
            (request, found.distrust.as_deref())
        });
        let mut reports = check_all(&found.collect::<Vec<_>>(), given)?;
        for report in &mut reports {
            deny(report, check.deny);
        }
        Ok(render(&reports, &discovery.cut_off, common))
    })
}

/// A pcluster that was found: its target, which has yet to be checked, or its report if it cannot or must not
/// be checked.
enum Known<'a> {
    Target(&'a CheckRequest<'a>, Box<Target>),
    Report(Box<Report>),
}

/// Checks every pcluster in `found`, except those that have a reason why they must not be run. Each pcluster
/// that may be run is identified before the first check begins, so that an environment to which two launchers
/// lead is checked only once.
fn check_all(found: &[(CheckRequest, Option<&str>)], given: Option<&Path>) -> Result<Vec<Report>, Abort> {
    let known = map_concurrently(found, |(request, distrust)| identify(request, *distrust));
    let known = without_repeats(known.into_iter().collect::<Result<_, Abort>>()?);
    map_concurrently(&known, |known| match known {
        Known::Report(report) => Ok((**report).clone()),
        Known::Target(request, target) => check_target(request, target, given)
            .map(|report| *report)
            .or_else(|abort| describe_error(request.real, Some(target), abort)),
    })
    .into_iter()
    .collect()
}

fn identify<'a>(request: &'a CheckRequest<'a>, distrust: Option<&str>) -> Result<Known<'a>, Abort> {
    if let Some(distrust) = distrust {
        let reason = format!("skipped: {distrust}");
        return Ok(Known::Report(report_unknown(request.real, None, "environment", Duration::ZERO, reason)));
    }
    match checker::identify(request, None) {
        Ok(Identified::Target(target)) => Ok(Known::Target(request, target)),
        Ok(Identified::Unknown(report)) => Ok(Known::Report(report)),
        Err(abort) => describe_error(request.real, None, abort).map(|report| Known::Report(Box::new(report))),
    }
}

/// Turns an error that ended a check into a report, so that the reports of the other checks are not lost. A
/// signal ends all checks.
fn describe_error(real: &Real, target: Option<&Target>, abort: Abort) -> Result<Report, Abort> {
    let Abort::Error(error) = abort else { return Err(abort) };
    let check = match &error {
        Error::Rejected { .. } => "configuration",
        _ => "environment",
    };
    Ok(*report_unknown(real, target, check, Duration::ZERO, error.to_line()))
}

/// If several launchers lead to the same environment, keeps only one of them. The launchers can be a console
/// script, its wrapper and a copy of the script, for example. Of the variables that a wrapper changes, only
/// PATH is compared, because PATH decides which Node.js runs. Shells change some of the others, such as PWD,
/// at every start.
fn without_repeats(known: Vec<Known>) -> Vec<Known> {
    let mut kept: Vec<Known> = Vec::new();
    for one in known {
        let is_repeat = |other: &Known| match (&one, other) {
            (Known::Target(_, one), Known::Target(_, other)) => {
                one.interpreter == other.interpreter
                    && one.path() == other.path()
                    && one.keeps_call == other.keeps_call
            }
            _ => false,
        };
        if !kept.iter().any(is_repeat) {
            kept.push(one);
        }
    }
    kept
}

fn render(reports: &[Report], cut_off: &[PathBuf], common: &Common) -> Outcome {
    let stdout = match common.format {
        _ if common.quiet => String::new(),
        Format::Human => list::render(reports, &choose_paint(common)),
        Format::Json => report::format_json(&reports),
        Format::Junit => junit::render(reports),
        Format::Github => github::render(reports),
    };
    let cut_off = cut_off.iter().map(|root| {
        let root = root.display();
        prefix_lines(&format!(
            "warning: --root {root} is too large and was searched only in part\n\
             hint: Pass directories below it instead."
        ))
    });
    Outcome::Exit { status: worst_status(reports), stdout, stderr: cut_off.collect() }
}

/// The exit status of the worst verdict: blocked is the worst, then unknown, then ready.
fn worst_status(reports: &[Report]) -> u8 {
    let has = |verdict| reports.iter().any(|report| report.verdict == verdict);
    let worst = [Verdict::Blocked, Verdict::Unknown].into_iter().find(|verdict| has(*verdict));
    worst.unwrap_or(Verdict::Ready).exit_status()
}
