//! The environment of a check, locked so that no repair replaces its files during the check.

use std::fs::File;
use std::time::Duration;

use crate::checker::request::CheckRequest;
use crate::checker::{self, CheckOutcome, Identified};
use crate::environment::target::Target;
use crate::error::{Abort, Error};
use crate::repair::overlay::{Overlay, read_overlay};
use crate::repair::transaction::Transactions;
use crate::report::{Check, Report, Status};

/// A target that is locked against repairs as long as this value exists.
#[derive(Debug)]
pub struct LockedEnvironment {
    /// The target. If there is an overlay that is not stale, its packages are ahead of the installed ones.
    target: Target,
    pub overlay: Overlay,
    /// If an interrupted repair could not be rolled back, the check that reports this. The environment is
    /// then checked in its present state.
    failed_rollback: Option<Check>,
    _shared: Option<File>,
}

impl LockedEnvironment {
    /// Rolls back an interrupted repair, locks the environment, and puts the packages of its overlay ahead
    /// of the installed ones. The inner error is the report if the environment cannot be inspected with
    /// the overlay.
    pub fn lock(request: &CheckRequest, target: &Target) -> Result<Result<Self, Box<Report>>, Abort> {
        let Some(state) = Transactions::find(target) else {
            let (target, overlay) = (target.clone(), Overlay::None);
            return Ok(Ok(Self { target, overlay, failed_rollback: None, _shared: None }));
        };
        let (shared, failed_rollback) = match state.recover_and_lock_shared(request.progress) {
            Ok(shared) => (shared, None),
            Err(Abort::Error(error)) => {
                (state.lock_shared(request.progress)?, Some(describe_failed_rollback(&error)))
            }
            Err(interrupted) => return Err(interrupted),
        };
        state.remove_leftovers_if_unlocked();
        let overlay = read_overlay(&state, target);
        let target = match &overlay {
            Overlay::None | Overlay::Stale => target.clone(),
            // The launcher may change or ignore PYTHONPATH, so the target is identified again, with
            // the overlay.
            Overlay::Bound(directory) => match checker::identify(request, Some(directory))? {
                Identified::Target(target) => *target,
                Identified::Unknown(report) => return Ok(Err(report)),
            },
        };
        Ok(Ok(Self { target, overlay, failed_rollback, _shared: shared }))
    }

    /// Checks the environment. If an interrupted repair could not be rolled back, the report also has a check
    /// that says so, with the status unknown.
    pub fn check(&self, request: &CheckRequest) -> Result<CheckOutcome, Abort> {
        let mut outcome = checker::check(request, &self.target)?;
        if let (CheckOutcome::Report(report), Some(check)) = (&mut outcome, &self.failed_rollback) {
            report.add(check.clone());
        }
        Ok(outcome)
    }
}

fn describe_failed_rollback(error: &Error) -> Check {
    let reason = format!(
        "an interrupted repair cannot be rolled back ({error}); to see what to do, run `pcluster preflight undo`"
    );
    Check::new("repair", Status::Unknown, Duration::ZERO, Some(reason))
}
