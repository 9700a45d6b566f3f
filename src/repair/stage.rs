//! The packages of a repair, resolved and installed into a separate directory.

use std::collections::BTreeSet;

use crate::environment::packages::read_installed;
use crate::error::{Abort, Error};
use crate::model::distribution::Packages;
use crate::repair::change::{self, Change};
use crate::repair::context::Repair;
use crate::repair::failpoint;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::installer::{InstallOutcome, quote_last_lines};
use crate::repair::plan::{self, Pinned, Reason, WantedEdit};
use crate::repair::source_edits::stage_edits;
use crate::repair::transaction::OVERLAY_PREFIX;
use crate::text::package_name::PCLUSTER;

/// What uv and pip print if not all requirements can be met. pip also prints "No matching distribution" if it
/// cannot reach the index. `Installer::install` then returns an error, so nothing searches pip's output for
/// these texts.
pub const UNSOLVABLE: [&str; 3] = ["No solution found", "ResolutionImpossible", "No matching distribution"];

/// The packages of a repair in a separate directory, which is removed when this value is dropped.
#[derive(Debug)]
pub struct Staged {
    pub overlay: tempfile::TempDir,
    pub packages: Packages,
    pub changes: Vec<Change>,
    /// The ids of the source edits that were made.
    pub edits: Vec<String>,
    /// The warnings that the repair does not fix, according to the proof.
    pub left: Vec<String>,
    /// The requirements that are unmet in the environment before the repair changes it. Empty if the repair
    /// will not change it.
    pub broken_before: BTreeSet<String>,
}

impl Staged {
    /// A directory without packages, for a repair that makes only source edits.
    pub fn empty(repair: &Repair) -> Result<Self, Error> {
        Ok(Self::new(create_overlay(repair)?, Packages::default(), Vec::new()))
    }

    fn new(overlay: tempfile::TempDir, packages: Packages, changes: Vec<Change>) -> Self {
        let (edits, left, broken_before) = Default::default();
        Self { overlay, packages, changes, edits, left, broken_before }
    }

    /// Makes source edits in a copy of aws-parallelcluster in this directory, in addition to the edits that
    /// were made earlier. An edit that cannot be made is skipped if it is not required.
    pub fn make_edits(&mut self, repair: &Repair, wanted: &[WantedEdit]) -> Result<(), Error> {
        let Some(pcluster) = repair.packages.get(PCLUSTER) else { return Ok(()) };
        for WantedEdit { id, is_required } in wanted {
            let ids = [&self.edits[..], std::slice::from_ref(id)].concat();
            match stage_edits(pcluster, &ids, self.overlay.path()) {
                Ok(change) => {
                    self.changes.retain(|change| change.package != PCLUSTER);
                    self.changes.push(change);
                    self.edits = ids;
                }
                Err(error) if *is_required => return Err(error),
                Err(error) => {
                    repair
                        .request
                        .progress
                        .write(&format!("warning: {id} was not fixed: {}", error.to_line()));
                }
            }
        }
        self.packages = read_installed(&[self.overlay.path().to_owned()]);
        Ok(())
    }
}

/// Resolves and installs the packages that have to move. At first, all other packages are pinned. If the
/// installer then fails, it runs again with fewer pins, in the order of [`Pinned`]. The inner error means
/// that the installer found no solution.
pub fn stage(repair: &Repair, reasons: &[Reason]) -> Result<Result<Staged, Error>, Abort> {
    let progress = repair.request.progress;
    let step = progress.step(&format!("resolving and fetching packages with {}", repair.installer.name()));
    let installed = repair.packages.all();
    let (mut failure, mut is_unsolvable) = (String::new(), false);
    for pinned in [Pinned::All, Pinned::AllButDependencies, Pinned::AllButDependenciesAndTheirs] {
        let Some(request) = plan::plan_install(installed, reasons, repair.options.strategy, pinned) else {
            let (message, next) = if reasons.is_empty() {
                ("it would change no package", "Nothing was changed. Try another --strategy, or report this.")
            } else {
                let next = "Nothing was changed. Report this: the advisory names no installed package.";
                ("no installed package matches this fix", next)
            };
            return Err(Error::repair(message.into(), next).into());
        };
        let overlay = create_overlay(repair)?;
        match repair.installer.install(&request, overlay.path())? {
            InstallOutcome::Installed { output } => {
                drop(step);
                progress.write_output(&output, repair.options.verbose);
                let packages = read_installed(&[overlay.path().to_owned()]);
                let changes = change::compare(installed, packages.all(), reasons);
                return Ok(Ok(Staged::new(overlay, packages, changes)));
            }
            InstallOutcome::Failed { message, output } => {
                is_unsolvable = UNSOLVABLE.iter().any(|sign| output.contains(sign));
                failure = [message, quote_last_lines(&output)].join("\n");
            }
        }
    }
    let next = "Nothing was changed. Fix what the installer reports, then try again.";
    let error = Error::repair(failure.trim_end().to_owned(), next);
    if is_unsolvable { Ok(Err(error)) } else { Err(error.into()) }
}

/// Creates a directory for staged packages, in the state directory. If the state directory is on the
/// environment's file system, an exchange can link the files instead of copying them.
pub fn create_overlay(repair: &Repair) -> Result<tempfile::TempDir, Error> {
    let directory = &repair.state.directory;
    let created = failpoint::reach("stage")
        .and_then(|()| tempfile::Builder::new().prefix(OVERLAY_PREFIX).tempdir_in(directory));
    created.map_err(|error| {
        let message = format!("cannot create a directory in {}: {error}", directory.display());
        Error::repair(message, UNCHANGED_FREE_SPACE)
    })
}
