//! The proof of a repair: a check with the staged packages in front of the environment's own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::checker::{self, Identified};
use crate::environment::record::recorded_paths;
use crate::environment::target::Target;
use crate::error::{Abort, Error, join_first};
use crate::model::distribution::Distribution;
use crate::model::finding::{Finding, Level};
use crate::repair::bytecode::compile;
use crate::repair::change;
use crate::repair::context::Repair;
use crate::repair::failpoint;
use crate::repair::plan::{self, WantedEdit};
use crate::repair::stage::Staged;
use crate::report::{Report, Verdict};
use crate::system::concurrently::concurrently;

/// Proves that the staged packages make the environment ready. First makes the source edits of the goal. If
/// the check then asks for more edits, makes them too, and checks again. The check before the repair may have
/// missed these edits: only a template shows that an edit is needed, and sometimes no template can be built
/// before the repair. Returns the report if the repair would not achieve its goal.
pub fn prove(repair: &Repair, staged: &mut Staged) -> Result<Option<Report>, Abort> {
    failpoint::reach("proof").map_err(|error| Error::repair(error.to_string(), "Nothing was changed."))?;
    let _step = repair.request.progress.step("checking the staged packages");
    staged.make_edits(repair, &repair.goal.edits)?;
    let mut report = check_in_front(repair, staged)?;
    let more = plan::find_edits(&report, &repair.options.ids);
    let more: Vec<WantedEdit> =
        more.into_iter().filter(|wanted| !repair.goal.edits.contains(wanted)).collect();
    if !more.is_empty() {
        staged.make_edits(repair, &more)?;
        report = check_in_front(repair, staged)?;
    }
    staged.left = report.warnings().map(Finding::describe_with_path).collect();
    Ok(if is_met(repair, &staged.edits, &report) { None } else { Some(report) })
}

/// Checks the environment with the staged packages in front. Before the check starts, compiles the largest
/// staged sources that the check will import ([`find_imported_sources`]). While the check runs, compiles the
/// other staged sources and, if the repair will change the environment, collects the requirements that are
/// unmet before this change.
fn check_in_front(repair: &Repair, staged: &mut Staged) -> Result<Report, Abort> {
    let request = repair.request;
    let overlay = staged.overlay.path();
    let target = put_in_front(repair, overlay)?;
    let compile = |sources: &[PathBuf]| compile(repair.target, sources, request.settings.timeout);
    compile(&find_imported_sources(repair, staged))?;
    let prepare = || {
        compile(&[overlay.to_owned()])?;
        let changes = repair.options.changes_environment();
        if changes { repair.installer.find_broken_requirements() } else { Ok(BTreeSet::new()) }
    };
    let (checked, prepared) = concurrently(|| checker::check(request, &target), prepare);
    // An error of `prepared` is returned first: if the disk is full, the check fails too, but with a less
    // clear message.
    staged.broken_before = prepared?;
    Ok(checked?.into_report()?)
}

/// The maximum number of sources to compile before the check. More would make the command line long, and the
/// sources that are left out are the smallest ones.
const MAX_SOURCES: usize = 100;

/// The sources of the staged packages that aws-parallelcluster directly requires. The largest come first,
/// because compiling them takes longest.
fn find_imported_sources(repair: &Repair, staged: &Staged) -> Vec<PathBuf> {
    let required = plan::find_required(repair.packages.all());
    let staged = required.iter().filter_map(|name| staged.packages.get(name));
    let site = |distribution: &Distribution| distribution.metadata.parent().map(Path::to_owned);
    let files = staged.filter_map(|found| recorded_paths(&site(found)?, &found.metadata)).flatten();
    let sources = files.filter(|path| path.extension() == Some(OsStr::new("py")));
    let by_size = sources
        .filter_map(|path| Some(((path.metadata().ok()?.len(), path.clone()), path)))
        .collect::<BTreeMap<_, _>>();
    by_size.into_values().rev().take(MAX_SOURCES).collect()
}

/// Whether a report shows that the repair achieves its goal: the verdict is ready, and the report has no
/// finding that was requested or for which edits were made.
pub fn is_met(repair: &Repair, edits: &[String], report: &Report) -> bool {
    report.verdict == Verdict::Ready && find_remaining(repair, edits, report).next().is_none()
}

/// The findings of a report that the repair should have fixed: those that were requested, and those for which
/// edits were made.
fn find_remaining<'a>(
    repair: &'a Repair,
    edits: &'a [String],
    report: &'a Report,
) -> impl Iterator<Item = &'a Finding> {
    let ids = move || repair.options.ids.iter().chain(edits);
    report.findings.iter().filter(move |finding| ids().any(|id| finding.is_named(id)))
}

/// The reasons why the repair does not achieve its goal, according to a report.
pub fn collect_unmet(repair: &Repair, edits: &[String], report: &Report) -> Vec<String> {
    let warnings = find_remaining(repair, edits, report).filter(|finding| finding.level != Level::Error);
    report.reasons().into_iter().chain(warnings.map(Finding::describe_with_path)).collect()
}

/// The maximum number of reasons in one message: a template can have many findings at once.
const MAX_REASONS: usize = 2;

/// The error if the environment is not ready with the staged packages.
pub fn describe_unproven(repair: &Repair, staged: &Staged, report: &Report) -> Error {
    let tried = change::list_moves(&staged.changes);
    let message = if tried.is_empty() {
        format!("{} installed no other versions of the affected packages", repair.installer.name())
    } else {
        format!(
            "the fix would not help: after these changes ({tried}) the check still fails: {}",
            join_first(&collect_unmet(repair, &staged.edits, report), MAX_REASONS, "")
        )
    };
    Error::repair(message, "Nothing was changed. Try another --strategy, or report this.")
}

/// Puts the staged packages in front of the target's own packages. For a repair outside the environment, also
/// starts the launcher, to find out whether it ignores PYTHONPATH.
fn put_in_front(repair: &Repair, overlay: &Path) -> Result<Target, Abort> {
    if !repair.options.isolated {
        return Ok(repair.target.with_overlay(overlay));
    }
    let target = match checker::identify(repair.request, Some(overlay))? {
        Identified::Target(target) => *target,
        Identified::Unknown(report) => return Err(not_ready(&report).into()),
    };
    let is_overlay = |entry: &PathBuf| entry.canonicalize().ok() == overlay.canonicalize().ok();
    if target.interpreter.sys_path.iter().any(is_overlay) {
        return Ok(target);
    }
    let (message, next) = if overlay.as_os_str().as_encoded_bytes().contains(&b':') {
        let message = format!("PYTHONPATH cannot contain {}, which has a colon", overlay.display());
        (message, "Nothing was changed. Set XDG_STATE_HOME to a directory without a colon.")
    } else {
        let message = "a repair cannot be kept outside this environment: pcluster's launcher, or its interpreter, \
                       ignores PYTHONPATH";
        (
            message.to_owned(),
            "Nothing was changed. Install aws-parallelcluster in a virtual environment and use that one.",
        )
    };
    Err(Error::repair(message, next).into())
}

/// The error if changing packages cannot make the environment ready.
pub fn not_ready(report: &Report) -> Error {
    let next = "Nothing was changed. Fix that first: changing packages will not help.";
    Error::repair(join_first(&report.reasons(), MAX_REASONS, ""), next)
}
