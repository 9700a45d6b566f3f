//! A report while its checks are being made. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::finding::{Finding, Level, Remedy};
use crate::report::{Check, Report, Shim, Status, TargetInfo};

/// The checks made so far, and their findings.
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

    /// Turns each ERROR with this id into a WARNING, because a later check has found a reason for doubt.
    /// `doubt` is added to the message.
    pub fn soften(&mut self, id: &str, doubt: &str) {
        for finding in self.findings.iter_mut().filter(|finding| finding.id == id && finding.blocks()) {
            finding.level = Level::Warning;
            finding.fails_build = true;
            finding.message += doubt;
        }
        let mut findings = &self.findings[..];
        for check in &mut self.checks {
            let (own, others) = findings.split_at(check.findings);
            if check.status == Status::Failed && !own.iter().any(Finding::blocks) {
                check.status = Status::Passed;
            }
            findings = others;
        }
    }

    /// Replaces the advice to run `preflight fix`, for an environment that `fix` cannot repair. The
    /// new advice is `for_packages` if the repair would replace packages, and `for_files` if it
    /// would change files.
    pub fn replace_fix(&mut self, for_packages: &str, for_files: &str) {
        for fix in self.findings.iter_mut().filter_map(|finding| finding.fix.as_mut()) {
            match fix.remedy {
                Some(Remedy::Move(_) | Remedy::Release) => for_packages.clone_into(&mut fix.command),
                Some(Remedy::Edit(_) | Remedy::Bytecode(_)) => for_files.clone_into(&mut fix.command),
                None => {}
            }
        }
    }

    /// Adds a check. The check has failed if one of its findings is an ERROR.
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
    /// The check could not run, for this reason.
    Unknown(String),
    /// The check was left out, for this reason.
    Skipped(String),
}

impl CheckResult {
    /// A check that found nothing.
    pub const PASSED: Self = Self::Findings(Vec::new());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::{Fix, Kind};
    use crate::report::Verdict;

    fn error(id: &str) -> Finding {
        Finding::new(id, Level::Error, Kind::BuildComponent, "it fails".into())
    }

    fn softened(found: &[&str]) -> Box<Report> {
        let mut builder = ReportBuilder::new(None);
        builder.add("packages", Duration::ZERO, CheckResult::PASSED);
        let found = found.iter().map(|id| error(id)).collect();
        builder.add("template", Duration::ZERO, CheckResult::Findings(found));
        builder.soften("one", ", unless it does not");
        builder.build(Shim { version: "0", path: None })
    }

    #[test]
    fn a_softened_error_is_a_warning_and_its_check_has_passed() {
        let report = softened(&["one"]);
        assert_eq!((report.verdict, report.checks[1].status), (Verdict::Ready, Status::Passed));
        assert_eq!(report.findings[0].message, "it fails, unless it does not");
        assert!(report.findings[0].fails_build);
    }

    #[test]
    fn a_fix_that_edits_files_is_not_replaced_by_constraints() {
        let mut builder = ReportBuilder::new(None);
        let remedies = [Remedy::Release, Remedy::Edit("lambda-runtime".into())];
        let found = remedies.map(|remedy| Finding { fix: Some(Fix::by_command(remedy)), ..error("one") });
        builder.add("template", Duration::ZERO, CheckResult::Findings(found.into()));
        builder.replace_fix("pass constraints", "install it elsewhere");
        let report = builder.build(Shim { version: "0", path: None });
        let fixes: Vec<_> = report.findings.iter().map(Finding::describe_fix).collect();
        assert_eq!(fixes, ["pass constraints", "install it elsewhere"]);
    }

    #[test]
    fn another_error_of_the_check_still_blocks() {
        let report = softened(&["one", "other"]);
        assert_eq!((report.verdict, report.checks[1].status), (Verdict::Blocked, Status::Failed));
    }
}
