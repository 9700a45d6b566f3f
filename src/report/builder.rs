//! A report while its checks are made. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::finding::Finding;
use crate::report::{Check, Report, Shim, Status, TargetInfo};

/// The checks that were made so far, and their findings.
#[derive(Debug)]
pub struct ReportBuilder {
    pub target: Option<TargetInfo>,
    /// Normalised name → version.
    pub packages: BTreeMap<String, String>,
    checks: Vec<Check>,
    findings: Vec<Finding>,
}

impl ReportBuilder {
    /// Begins a report; `target` is `None` if no pcluster is involved.
    pub fn new(target: Option<TargetInfo>) -> Self {
        Self { target, packages: BTreeMap::new(), checks: Vec::new(), findings: Vec::new() }
    }

    pub fn build(self, shim: Shim) -> Box<Report> {
        Box::new(Report::new(shim, self.target, self.packages, self.checks, self.findings))
    }

    /// Names another command in the place of `fix`, for an environment that cannot be repaired.
    pub fn replace_fix(&mut self, command: &str) {
        for fix in self.findings.iter_mut().filter_map(|finding| finding.fix.as_mut()) {
            if fix.remedy.is_some() {
                command.clone_into(&mut fix.command);
            }
        }
    }

    /// Adds a check. It has failed if one of its findings is an ERROR.
    pub fn add(&mut self, id: &'static str, took: Duration, result: CheckResult) {
        let (status, reason, findings) = match result {
            CheckResult::Findings(findings) if findings.iter().any(Finding::blocks) => {
                (Status::Failed, None, findings)
            }
            CheckResult::Findings(findings) => (Status::Passed, None, findings),
            CheckResult::Skipped(reason) => (Status::Skipped, Some(reason), Vec::new()),
            CheckResult::Unknown(reason) => (Status::Unknown, Some(reason), Vec::new()),
        };
        let mut check = Check::new(id, status, took, reason);
        check.findings = findings.len();
        self.findings.extend(findings);
        self.checks.push(check);
    }
}

/// How a check ended.
#[derive(Debug)]
pub enum CheckResult {
    Findings(Vec<Finding>),
    /// It could not run, for this reason.
    Unknown(String),
    /// It was not made, for this reason.
    Skipped(String),
}

impl CheckResult {
    /// A check that found nothing.
    pub const PASSED: Self = Self::Findings(Vec::new());
}
