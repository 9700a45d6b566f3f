//! The values that the steps of one repair share.

use crate::checker::request::CheckRequest;
use crate::environment::target::Target;
use crate::model::distribution::Packages;
use crate::model::options::{InstallerChoice, Strategy};
use crate::repair::installer::Installer;
use crate::repair::plan::Goal;
use crate::repair::transaction::Transactions;

/// The options of a repair.
#[derive(Debug, Clone)]
pub struct Options {
    /// The ids of the findings to repair. If there are none, the repair includes all findings that block the
    /// build or predict that it fails.
    pub ids: Vec<String>,
    /// Only stage and prove the repair.
    pub dry_run: bool,
    pub strategy: Strategy,
    /// Keep the repair outside the environment.
    pub isolated: bool,
    pub installer: InstallerChoice,
    /// Print the installer's output.
    pub verbose: bool,
}

impl Options {
    /// Whether the environment itself is repaired.
    pub fn changes_environment(&self) -> bool {
        !self.dry_run && !self.isolated
    }

    /// The command for a repair of the same findings: `fix`, followed by their ids.
    pub fn command(&self) -> String {
        [&["fix".to_owned()], &self.ids[..]].concat().join(" ")
    }
}

/// One repair of one environment.
#[derive(Debug)]
pub struct Repair<'a> {
    pub request: &'a CheckRequest<'a>,
    pub options: Options,
    pub target: &'a Target,
    /// The installed packages, as read before the first step.
    pub packages: &'a Packages,
    pub installer: Installer<'a>,
    pub goal: Goal,
    pub state: &'a Transactions,
}
