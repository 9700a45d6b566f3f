//! What the steps of one repair share.

use std::collections::BTreeSet;

use crate::checker::CheckRequest;
use crate::cli::settings::{InstallerChoice, Strategy};
use crate::environment::packages::Packages;
use crate::environment::target::Target;
use crate::error::{Abort, RepairStep};
use crate::repair::installer::Installer;
use crate::repair::plan::Reason;
use crate::repair::state::RepairState;

/// How an environment is to be repaired.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Stage and prove, then say what would be done.
    pub dry_run: bool,
    pub strategy: Strategy,
    /// Keep the repair beside the environment.
    pub isolated: bool,
    pub installer: InstallerChoice,
    /// Show the installer's own output.
    pub verbose: bool,
}

/// One repair.
#[derive(Debug)]
pub struct Repair<'a> {
    pub request: &'a CheckRequest<'a>,
    pub options: Options,
    pub target: &'a Target,
    /// As they were before the first step.
    pub packages: &'a Packages,
    pub reasons: Vec<Reason>,
    pub installer: Installer,
    pub state: &'a RepairState,
}

/// Requirements of installed packages that are not met.
pub type BrokenRequirements = BTreeSet<String>;

impl Repair<'_> {
    /// # Errors
    /// Returns an error if the installer cannot be run, or a signal came.
    pub fn broken_requirements(&self, step: RepairStep) -> Result<BrokenRequirements, Abort> {
        self.installer.broken_requirements(self.target, self.request.settings.timeout, step)
    }
}
