//! The packages that a repair would install, resolved and installed into a directory of their own.

use crate::environment::packages::Packages;
use crate::error::{Abort, Error, RepairStep};
use crate::repair::context::Repair;
use crate::repair::failpoint;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::installer::InstallOutcome;
use crate::repair::plan::{self, Change, Hold};
use crate::repair::transaction::OVERLAY_PREFIX;

/// Lines of an installer's output that a message quotes: it says at its end why it failed.
const MAX_QUOTED_LINES: usize = 8;

/// A directory with the packages that would be installed, gone when dropped.
#[derive(Debug)]
pub struct Staged {
    pub overlay: tempfile::TempDir,
    pub packages: Packages,
    pub changes: Vec<Change>,
}

/// Resolves and installs; a second time with more freedom where all other packages held in their
/// place leave no solution.
///
/// # Errors
/// Returns an error if there is nothing to move or no solution, or a signal came.
pub fn stage(repair: &Repair) -> Result<Staged, Abort> {
    let progress = repair.request.progress;
    let step = progress.step(&format!("resolving and fetching packages with {}", repair.installer.name()));
    let installed = repair.packages.all();
    let mut failure = String::new();
    for hold in [Hold::All, Hold::Neighbours] {
        let Some(wanted) = plan::wanted(installed, &repair.reasons, repair.options.strategy, hold) else {
            let next = "Report it: the advisory names no installed package.";
            let message = "there is nothing that could be moved".into();
            return Err(Error::repair(RepairStep::Plan, message, next).into());
        };
        let overlay = create_overlay(repair)?;
        let limit = repair.request.settings.timeout;
        match repair.installer.install(&wanted, overlay.path(), repair.target, limit)? {
            InstallOutcome::Installed { output } => {
                drop(step);
                progress.show(&output, repair.options.verbose);
                let packages = Packages::installed(&[overlay.path().to_owned()]);
                let changes = plan::changes(installed, packages.all(), &repair.reasons);
                return Ok(Staged { overlay, packages, changes });
            }
            InstallOutcome::Failed { message, output } => {
                failure = [message, last_lines(&output)].join("\n");
            }
        }
    }
    let next = "Nothing was changed. Correct what the installer names, then run it again.";
    Err(Error::repair(RepairStep::Stage, failure.trim_end().to_owned(), next).into())
}

fn create_overlay(repair: &Repair) -> Result<tempfile::TempDir, Error> {
    let directory = repair.state.directory();
    let created = failpoint::reach(RepairStep::Stage)
        .and_then(|()| tempfile::Builder::new().prefix(OVERLAY_PREFIX).tempdir_in(directory));
    created.map_err(|error| {
        let message = format!("cannot make a directory in {}: {error}", directory.display());
        Error::repair(RepairStep::Stage, message, UNCHANGED_FREE_SPACE)
    })
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(MAX_QUOTED_LINES)..].join("\n")
}
