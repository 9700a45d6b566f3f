//! The repair of an environment, and its undo.
//!
//! A repair has five steps, with a module for each:
//!
//! 1. [`plan`] uses a check's findings to find the packages that have to move. If the findings name no
//!    packages, or if moving the named ones does not help, [`release`] finds the packages by the release date
//!    of aws-parallelcluster and with a search ([`culprit`]).
//! 2. [`stage`](mod@stage) resolves them with uv or pip, and installs them into a separate directory.
//! 3. [`prove`](mod@prove) runs the check with the staged packages ahead of the environment's own.
//! 4. [`commit`](mod@commit) replaces the files of the installed packages with the staged ones (this is
//!    called the exchange), in a [`transaction`]: a snapshot of the old files and a journal are written
//!    before the exchange.
//! 5. [`verify`] checks the environment itself. The transaction is then closed, or, if anything has
//!    failed, rolled back ([`rollback`]).
//!
//! The third step also makes source edits ([`source_edits`]), in a copy of aws-parallelcluster among the
//! staged packages. They are not made earlier: sometimes only a template shows that an edit is needed, and
//! sometimes no template can be built before this step.
//!
//! Only the fourth step changes the installed packages. If the repair is killed in the fourth or fifth step,
//! the next call finds the journal and rolls the repair back ([`state`]). A repair outside the environment
//! ends with the third step: its staged packages are kept as an [`overlay`].
//!
//! An undo rolls back the last transaction, or removes the overlay.
//!
//! The other modules:
//!
//! - `bytecode`: compiling bytecode for staged packages, and removing damaged bytecode
//! - `change`: how the staged packages differ from the installed ones
//! - `context`: the values that the steps of one repair share
//! - `failpoint`: failures that tests inject at named steps
//! - `file_access`: owner, group and mode of the files that a repair places
//! - `file_digest`: size and SHA-256 of a file
//! - `file_operations`: removing, writing and linking files
//! - `file_plan`: the files that an exchange removes and adds
//! - `history`: the repairs that can be undone, newest first
//! - `hints`: advice that several steps give
//! - `installer`: uv and pip, which resolve and fetch packages
//! - `journal`: the record of an exchange, written before the exchange begins
//! - `lock`: flock(2) locks, including uv's
//! - `locked_environment`: the environment of a check, locked against repairs
//! - `pip_settings`: the settings of pip, passed on to uv or overridden
//! - `refusals`: the directories and packages that a repair in place refuses to change
//! - `requirement`: lines of Requires-Dist
//! - `token`: the file that binds journals to their environment
//! - `undo`: the undo of a repair

pub mod bytecode;
pub mod change;
pub mod commit;
pub mod context;
pub mod culprit;
pub mod failpoint;
pub mod file_access;
pub mod file_digest;
pub mod file_operations;
pub mod file_plan;
pub mod hints;
pub mod history;
pub mod installer;
pub mod journal;
pub mod lock;
pub mod locked_environment;
pub mod overlay;
pub mod pip_settings;
pub mod plan;
pub mod prove;
pub mod refusals;
pub mod release;
pub mod requirement;
pub mod rollback;
pub mod source_edits;
pub mod stage;
pub mod state;
pub mod token;
pub mod transaction;
pub mod undo;
pub mod verify;

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::checker;
use crate::checker::request::CheckRequest;
use crate::environment::packages::read_installed;
use crate::environment::target::Target;
use crate::error::{Abort, Error};
use crate::model::distribution::Packages;
use crate::model::finding::{Finding, Shows};
use crate::model::options::Strategy;
use crate::repair::bytecode::check_and_remove_damaged;
use crate::repair::change::Change;
use crate::repair::commit::commit;
use crate::repair::context::{Options, Repair};
use crate::repair::history::MAX_UNDO;
use crate::repair::installer::{Installer, make_scratch};
use crate::repair::overlay::{Overlay, keep_overlay, read_overlay};
use crate::repair::plan::{Goal, Refusal, WantedEdit};
use crate::repair::prove::{describe_unproven, not_ready, prove};
use crate::repair::refusals::{refuse_another_users, refuse_early};
use crate::repair::release::restore_release;
use crate::repair::source_edits::find_fitting_edits;
use crate::repair::stage::{Staged, stage};
use crate::repair::state::find_site;
use crate::repair::transaction::Transactions;
use crate::report::Report;
use crate::rules::{advisories, edits};
use crate::system::concurrently::concurrently;
use crate::text::package_name::PCLUSTER;

/// The result of a repair.
#[derive(Debug)]
pub enum RepairOutcome {
    /// Nothing was repaired. These warnings, if there are any, cannot be repaired.
    NothingToDo(Vec<String>),
    /// These damaged bytecode files were removed; Python compiles them again. No other repair was needed.
    Recompiled(Vec<PathBuf>),
    /// In a dry run: a repair would first remove this damaged bytecode file.
    Damaged(PathBuf),
    /// In a dry run: the changes that a repair would make.
    Proven(Repaired),
    /// The environment was changed.
    InPlace(Repaired),
    /// The changes are kept outside the environment, for build-image only.
    Isolated(Repaired),
}

/// What a repair changes, and the warnings that remain after it.
#[derive(Debug)]
pub struct Repaired {
    pub changes: Vec<Change>,
    pub left: Vec<String>,
}

/// Repairs the environment of a target, or, with `dry_run`, proves that it can be repaired.
///
/// # Errors
/// Returns an error if a step fails, or a signal arrives. The packages are then unchanged, except as
/// described at [`commit`](fn@commit). Damaged bytecode may have been removed before the error: each removal
/// was reported on `request.progress`.
pub fn fix(request: &CheckRequest, target: &Target, options: Options) -> Result<RepairOutcome, Abort> {
    if options.changes_environment() {
        refuse_another_users(find_site(target).as_deref(), &options.command(), &request.real.path)?;
    }
    let state = Transactions::create(target)?;
    let _lock = state.lock_repair(request.progress)?;
    state.recover(request.progress)?;
    state.remove_leftovers();
    if let Err(message) = state.closed() {
        request.progress.write(&format!("warning: {message}; earlier repairs cannot be undone"));
    }
    let scratch = make_scratch()?;
    let target = &Target { jsii_cache: Some(scratch.path("jsii")), ..target.clone() };
    // A template is built even with --no-synth, because a repair is proven with one.
    let request = &CheckRequest { synthesizes: true, ..request.clone() };
    let overlay = if options.isolated { read_overlay(&state, target) } else { Overlay::None };
    let overlaid = overlay.directory().map(|directory| target.with_overlay(directory));
    let packages = &read_installed(&target.interpreter.sys_path);
    let (checked, ahead) = concurrently(
        || check_and_remove_damaged(request, overlaid.as_ref().unwrap_or(target), &options),
        || stage_ahead(request, target, packages, &state, &options),
    );
    let (mut before, recompiled) = checked?;
    if overlaid.is_some() && !matches!(choose_goal(request, &before, &options), Ok(None)) {
        // The new overlay will replace the old one, so the new one also has to fix what the old one fixed.
        // This check shows the environment without the old overlay.
        before = checker::check(request, target)?.into_report()?;
    }
    let goal = match choose_goal(request, &before, &options) {
        Ok(Some(goal)) => goal,
        Ok(None) if recompiled.is_empty() => return Ok(RepairOutcome::NothingToDo(Vec::new())),
        Ok(None) => return Ok(RepairOutcome::Recompiled(recompiled)),
        Err(Refusal::Bytecode(file)) if options.dry_run => return Ok(RepairOutcome::Damaged(file.into())),
        Err(refusal) => return Err(describe_refusal(refusal, &before, &options).into()),
    };
    let installer = Installer::choose(options.installer, target, packages, request.settings.timeout)?;
    let repair = &Repair { request, options, target, packages, installer, goal, state: &state };
    if repair.options.changes_environment() {
        refuse_early(repair)?;
    }
    let staged = match ahead {
        Some(ahead) if ahead.is_for(&repair.goal) => ahead.staged?,
        _ => stage_proven(repair)?,
    };
    // No edit could be made; `make_edits` has reported why.
    if staged.changes.is_empty() {
        return Ok(RepairOutcome::NothingToDo(staged.left));
    }
    if repair.options.dry_run {
        return Ok(RepairOutcome::Proven(Repaired { changes: staged.changes, left: staged.left }));
    }
    if history::list(&state.directory).len() >= MAX_UNDO {
        request
            .progress
            .write(&format!("only the last {MAX_UNDO} repairs can be undone; this one replaces the oldest"));
    }
    if repair.options.isolated {
        let removed = keep_overlay(&state, staged.overlay, target, packages, &staged.changes)?;
        if removed > 0 {
            request.progress.write(&format!(
                "removed {removed} earlier isolated {}, because the environment has changed since then",
                if removed == 1 { "repair" } else { "repairs" }
            ));
        }
        return Ok(RepairOutcome::Isolated(Repaired { changes: staged.changes, left: staged.left }));
    }
    Ok(RepairOutcome::InPlace(commit(repair, staged)?))
}

fn choose_goal<'a>(
    request: &CheckRequest,
    before: &'a Report,
    options: &'a Options,
) -> Result<Option<Goal>, Refusal<'a>> {
    // It is not an error to name a finding that the check no longer reports, if its id is known: users
    // sometimes run a command twice.
    let is_known =
        |id: &str| edits::is_known(id) || request.advisories.iter().any(|advisory| advisory.id == id);
    plan::choose_goal(before, &options.ids, is_known)
}

fn describe_refusal(refusal: Refusal, before: &Report, options: &Options) -> Error {
    match refusal {
        Refusal::Unknown(id) => describe_unknown(id, before),
        Refusal::Unrepairable(findings) => describe_unrepairable(&findings),
        Refusal::Bytecode(file) => describe_damaged(file),
        Refusal::OtherBlocks => describe_blocked(before, options),
        Refusal::NotReady => not_ready(before),
    }
}

fn describe_unknown(id: &str, report: &Report) -> Error {
    let known = report.findings.iter().map(|finding| finding.id.as_str()).collect::<BTreeSet<_>>();
    let known = if known.is_empty() { "none".into() } else { Vec::from_iter(known).join(", ") };
    let message = format!("the check found no {id:?}; it found: {known}");
    Error::repair(message, "Nothing was changed. To list the findings, run `pcluster preflight`.")
}

/// The error for damaged bytecode that this repair does not remove: the file is outside the environment, or
/// `--isolated` was given.
fn describe_damaged(file: &str) -> Error {
    let message = format!("the bytecode {file} is damaged");
    let next = "No package was changed. Remove that file; Python compiles it again.";
    Error::repair(message, next)
}

fn describe_unrepairable(findings: &[&Finding]) -> Error {
    let each = findings.iter().map(|finding| format!("{}: {}", finding.id, finding.describe_with_path()));
    let message = format!("no repair is known for {}", each.collect::<Vec<_>>().join("; "));
    let fixes: Vec<&str> = findings.iter().map(|finding| finding.describe_fix()).collect();
    let next = format!("Nothing was changed. To fix it manually: {}.", fixes.join("; "));
    Error::repair(message, &next)
}

fn describe_blocked(report: &Report, options: &Options) -> Error {
    let reasons = report.reasons();
    let message =
        format!("another problem has to be fixed first: {}", reasons.first().map_or("", String::as_str));
    let next = format!(
        "Nothing was changed. Run `pcluster preflight fix` first, then `pcluster preflight {}`.",
        options.command()
    );
    Error::repair(message, &next)
}

/// What the advisories ask for, staged and proven while the check is still running. The check usually
/// confirms the advisories; the repair then takes a third less time.
struct Ahead {
    goal: Goal,
    staged: Result<Staged, Abort>,
}

impl Ahead {
    /// Whether a repair with this goal would do what was staged and proven while the check was still
    /// running. It does not matter which edits are required, because all wanted edits have been made,
    /// required or not.
    fn is_for(&self, goal: &Goal) -> bool {
        let edits = |goal: &Goal| goal.edits.iter().map(|wanted| wanted.id.clone()).collect::<BTreeSet<_>>();
        self.goal.reasons == goal.reasons
            && self.goal.restores_release == goal.restores_release
            && edits(&self.goal) == edits(goal)
    }
}

/// Stages and proves a repair while the check is still running; `None` if that is not possible.
fn stage_ahead(
    request: &CheckRequest,
    target: &Target,
    packages: &Packages,
    state: &Transactions,
    options: &Options,
) -> Option<Ahead> {
    // With -v the steps are shown one after another, so they must not run at the same time.
    let is_plain = options.ids.is_empty() && options.strategy != Strategy::Release && !options.verbose;
    if !is_plain {
        return None;
    }
    let advised = advisories::check(&packages.versions(), &target.interpreter.version, request.advisories);
    let findings: Vec<&Finding> = advised.iter().filter(|finding| finding.blocks()).collect();
    // When the check has built a template, it will ask for the edits that fit the installed files. If an
    // advisory says that pcluster does not start, the check builds no template and asks for no edits, so no
    // edits are made ahead.
    let builds = findings.iter().all(|finding| finding.shows == Some(Shows::Template));
    let edits = packages.get(PCLUSTER).filter(|_| builds).map(find_fitting_edits).unwrap_or_default();
    let edits = edits.into_iter().map(|id| WantedEdit { id, is_required: true }).collect();
    let goal = Goal { reasons: plan::collect_reasons(&findings), edits, ..Goal::default() };
    if goal.reasons.is_empty() || !plan::are_of_packages(findings.iter().copied()) {
        return None;
    }
    let installer = Installer::choose(options.installer, target, packages, request.settings.timeout).ok()?;
    let options = options.clone();
    let repair = &Repair { request, options, target, packages, installer, goal: goal.clone(), state };
    if repair.options.changes_environment() {
        refuse_early(repair).ok()?;
    }
    let staged = match stage_goal(repair) {
        Ok(Ok(mut staged)) => match prove(repair, &mut staged) {
            Ok(None) => Ok(staged),
            // `fix` tries again after the check, because the goal may be different then.
            Ok(Some(_)) | Err(_) => return None,
        },
        Ok(Err(_)) => return None,
        Err(error) => Err(error),
    };
    Some(Ahead { goal, staged })
}

fn stage_goal(repair: &Repair) -> Result<Result<Staged, Error>, Abort> {
    match repair.goal.reasons.as_slice() {
        [] => Ok(Ok(Staged::empty(repair)?)),
        reasons => stage(repair, reasons),
    }
}

/// Stages and proves the moves and the source edits that the findings ask for. If those moves do not help,
/// stages and proves the packages that were available when the installed release of aws-parallelcluster
/// came out.
fn stage_proven(repair: &Repair) -> Result<Staged, Abort> {
    let goal = &repair.goal;
    if goal.moves_packages() && (goal.reasons.is_empty() || repair.options.strategy == Strategy::Release) {
        return restore_release(repair);
    }
    let error = match stage_goal(repair)? {
        Err(error) => error,
        Ok(mut staged) => match prove(repair, &mut staged)? {
            None => return Ok(staged),
            Some(report) => {
                let error = describe_unproven(repair, &staged, &report);
                if !plan::are_of_packages(report.errors()) {
                    return Err(error.into());
                }
                error
            }
        },
    };
    if repair.options.verbose {
        repair.request.progress.write(&format!("{}; trying strategy release", error.to_line()));
    }
    match restore_release(repair) {
        Err(Abort::Error(other)) => Err(error.with_second(&other).into()),
        restored => restored,
    }
}
