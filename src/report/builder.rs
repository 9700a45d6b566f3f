//! A report while its checks are made. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::report::{Check, Report, Shim, Status, TargetInfo};
use crate::rules::{Finding, Level};

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
    /// Begins a report; `target` is `None` where no pcluster is involved.
    #[must_use]
    pub fn new(target: Option<TargetInfo>) -> Self {
        Self { target, packages: BTreeMap::new(), checks: Vec::new(), findings: Vec::new() }
    }

    #[must_use]
    pub fn build(self, shim: Shim) -> Box<Report> {
        Box::new(Report::new(shim, self.target, self.packages, self.checks, self.findings))
    }

    pub fn add_passed(&mut self, id: &'static str, took: Duration) {
        self.add(id, Status::Passed, took, None);
    }

    /// Adds a check that has passed according to the cache, with its findings.
    pub fn add_cached(&mut self, id: &'static str, findings: Vec<Finding>) {
        self.add_with(id, Status::Passed, Duration::ZERO, findings);
        if let Some(check) = self.checks.last_mut() {
            check.cached = true;
        }
    }

    pub fn add_skipped(&mut self, id: &'static str, reason: &str) {
        self.add(id, Status::Skipped, Duration::ZERO, Some(reason.to_owned()));
    }

    pub fn add_unknown(&mut self, id: &'static str, took: Duration, reason: String) {
        self.add(id, Status::Unknown, took, Some(reason));
    }

    /// Adds a check that has ended in findings, or in none. It has failed where one of them is an ERROR;
    /// whether it has is returned.
    pub fn add_findings(&mut self, id: &'static str, took: Duration, findings: Vec<Finding>) -> bool {
        let has_failed = findings.iter().any(|finding| finding.level == Level::Error);
        self.add_with(id, if has_failed { Status::Failed } else { Status::Passed }, took, findings);
        has_failed
    }

    fn add_with(&mut self, id: &'static str, status: Status, took: Duration, findings: Vec<Finding>) {
        let mut check = Check::new(id, status, took, None);
        check.findings = findings.len();
        self.findings.extend(findings);
        self.checks.push(check);
    }

    fn add(&mut self, id: &'static str, status: Status, took: Duration, reason: Option<String>) {
        self.checks.push(Check::new(id, status, took, reason));
    }
}
