//! A repair, step by step: plan → stage → prove → commit → verify; and its undo.
//!
//! The repair is proven beside the environment before that is touched, and whatever happens on the
//! way, the environment is at the end either repaired or what it was. Never decides whether to
//! repair.

pub mod commit;
pub mod context;
pub mod failpoint;
pub mod file_digest;
pub mod file_operations;
pub mod file_plan;
pub mod hints;
pub mod installer;
pub mod journal;
pub mod lock;
pub mod locked_environment;
pub mod overlay;
pub mod ownership;
pub mod pip_settings;
pub mod plan;
pub mod prove;
pub mod record;
pub mod refusals;
pub mod rollback;
pub mod stage;
pub mod state;
pub mod transaction;
pub mod verify;

use serde_json::json;

use crate::checker::{self, CheckRequest};
use crate::environment::packages::Packages;
use crate::environment::target::Target;
use crate::error::{Abort, Error, RepairStep};
use crate::repair::commit::commit;
use crate::repair::context::{Options, Repair};
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::installer::Installer;
use crate::repair::journal::Journal;
use crate::repair::lock::lock_against_uv;
use crate::repair::overlay::{keep_overlay, remove_overlay};
use crate::repair::ownership::refuse_another_users;
use crate::repair::plan::Change;
use crate::repair::prove::{expect_report, not_ready, prove};
use crate::repair::refusals::refuse_early;
use crate::repair::rollback::first_of;
use crate::repair::stage::stage;
use crate::repair::state::{RepairState, site_of};
use crate::report::Verdict;

/// How a repair ended.
#[derive(Debug)]
pub enum RepairOutcome {
    NothingToDo,
    /// What a repair would change.
    Proven(Vec<Change>),
    Repaired {
        changes: Vec<Change>,
        isolated: bool,
    },
}

/// What an undo took back.
#[derive(Debug)]
pub struct Undone {
    pub changes: Vec<Change>,
    pub isolated: bool,
}

/// Repairs the environment of a target, or proves that it could be.
///
/// # Errors
/// Returns an error if it could not be done, with the step. The environment is then what it was.
pub fn fix(request: &CheckRequest, target: &Target, options: Options) -> Result<RepairOutcome, Abort> {
    let in_place = !options.dry_run && !options.isolated;
    if in_place {
        refuse_another_users(site_of(target).as_deref(), "fix", &request.real.path)?;
    }
    let state = RepairState::create(target)?;
    let _lock = state.lock_repair(request.progress)?;
    state.recover(request.progress)?;
    state.remove_leftovers(&request.cache);
    if let Err(message) = state.transactions().last() {
        request.progress.tell(&format!("{message}; the repair of before cannot be undone"));
    }
    // A repair is proven by a synthesis, and the first reason is enough to begin.
    let request = &CheckRequest { synthesizes: true, is_thorough: false, ..request.clone() };
    let before = expect_report(checker::check(request, target)?)?;
    let reasons = plan::reasons(&before);
    if reasons.is_empty() {
        return match before.verdict {
            Verdict::Ready => Ok(RepairOutcome::NothingToDo),
            _ => Err(not_ready(&before).into()),
        };
    }
    let packages = &Packages::installed(&target.interpreter.sys_path);
    let installer = Installer::choose(options.installer, target, packages, request.settings.timeout)?;
    let repair = &Repair { request, options, target, packages, reasons, installer, state: &state };
    if in_place {
        refuse_early(repair)?;
    }
    let staged = stage(repair)?;
    let broken_before = prove(repair, &staged)?;
    if options.dry_run {
        return Ok(RepairOutcome::Proven(staged.changes));
    }
    if options.isolated {
        keep_overlay(&state, staged.overlay, target, packages, &staged.changes)?;
        return Ok(RepairOutcome::Repaired { changes: staged.changes, isolated: true });
    }
    let changes = commit(repair, staged, &broken_before)?;
    Ok(RepairOutcome::Repaired { changes, isolated: false })
}

/// Takes the last repair of a target's environment back.
///
/// # Errors
/// Returns an error if there is none, the environment has changed since, or files cannot be put back.
pub fn undo(request: &CheckRequest, target: &Target) -> Result<Undone, Abort> {
    refuse_another_users(site_of(target).as_deref(), "undo", &request.real.path)?;
    let state = RepairState::create(target)?;
    let _lock = state.lock_repair(request.progress)?;
    let rolled_back = state.recover(request.progress)?;
    state.remove_leftovers(&request.cache);
    if let Some(changes) = rolled_back {
        // That was the last repair; the one before it is not meant.
        return Ok(Undone { changes, isolated: false });
    }
    if let Some(changes) = remove_overlay(&state) {
        return Ok(Undone { changes, isolated: true });
    }
    let transactions = state.transactions();
    let last = transactions.last().map_err(|message| refuse_undo(message, UNREADABLE))?;
    let Some(last) = last else {
        return Err(Error::NothingToUndo { site: state.site().to_owned() }.into());
    };
    let _uv_lock = lock_against_uv(&target.interpreter.prefix, request.progress)?;
    let _exclusive = state.lock_exclusive()?;
    refuse_changed_since(target, &last)?;
    transactions.check(&last).map_err(|messages| refuse_undo(first_of(&messages), STAYS_REPAIRED))?;
    transactions.reopen().map_err(|message| refuse_undo(message, UNCHANGED_FREE_SPACE))?;
    failpoint::reach(RepairStep::Undo).map_err(|error| refuse_undo(error.to_string(), "Run it again."))?;
    transactions.restore(&last).map_err(Error::from)?;
    Ok(Undone { changes: last.changes, isolated: false })
}

fn refuse_undo(message: String, next: &str) -> Error {
    Error::repair(RepairStep::Undo, message, next)
}

fn refuse_changed_since(target: &Target, last: &Journal) -> Result<(), Error> {
    let unchanged = "Nothing was changed.";
    let packages = Packages::installed(&target.interpreter.sys_path);
    let version = |package: &str| packages.get(package).map(|package| package.version.as_str());
    let moved = last.changes.iter().find(|change| version(&change.package) != Some(change.to.as_str()));
    if let Some(Change { package, to, .. }) = moved {
        let message = format!("{package} is no longer at {to}: the environment has changed since");
        return Err(refuse_undo(message, unchanged));
    }
    match last.moved() {
        Some(package) => Err(refuse_undo(format!("{package} was installed anew since"), unchanged)),
        None => Ok(()),
    }
}

const UNREADABLE: &str = "Nothing was changed or removed. Restore that file from a backup; without one the copies \
                          beside it cannot be put back.";

const STAYS_REPAIRED: &str = "Nothing was changed; the environment stays repaired. Restore that copy from a backup, or \
                              make an environment anew.";

/// What is said about a repair in JSON.
#[must_use]
pub fn as_json(changes: &[Change], status: &str, isolated: bool) -> serde_json::Value {
    json!({"schemaVersion": 1, "status": status, "isolated": isolated, "changes": changes})
}
