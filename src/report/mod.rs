//! A report: the checks that were made and their findings, the verdict, and the decision that follows. Pure.
//!
//! The JSON is the [`Report`]'s own serialization; every other form is a rendering of the same [`Report`]. No
//! rendering decides anything.
//!
//! - `builder`: a report while its checks are made
//! - `github`: reports as workflow commands of GitHub Actions
//! - `human`: the report for people, and its lines on stderr
//! - `junit`: reports as `JUnit` XML
//! - `list`: one line for each of several reports
//! - `pcluster`: the report of a stopped build-image, in the form in which pcluster rejects a configuration

pub mod builder;
pub mod github;
pub mod human;
pub mod junit;
pub mod list;
pub mod pcluster;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::model::finding::{Finding, Level};
use crate::model::options::FoundBy;
use crate::model::options::Mode;
use crate::text::printable::{count, is_unsafe, lossy, name_of, serialize_optional_path, serialize_path};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Passed,
    Failed,
    Skipped,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub id: &'static str,
    pub status: Status,
    pub duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many of the report's findings belong to this check. The report's findings are in the order
    /// of its checks.
    #[serde(skip)]
    pub findings: usize,
}

impl Check {
    pub fn new(id: &'static str, status: Status, took: Duration, reason: Option<String>) -> Self {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { id, status, duration_ms, reason, findings: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ready,
    Blocked,
    Unknown,
}

impl Verdict {
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Blocked => 1,
            Self::Unknown => 3,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Shim {
    pub version: &'static str,
    #[serde(serialize_with = "serialize_optional_path")]
    pub path: Option<PathBuf>,
}

/// The target of a check; what could not be determined is null.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetInfo {
    #[serde(serialize_with = "serialize_path")]
    pub path: PathBuf,
    pub found_by: FoundBy,
    pub launcher: Option<&'static str>,
    #[serde(serialize_with = "serialize_optional_path")]
    pub interpreter: Option<PathBuf>,
    pub python_version: Option<String>,
    pub pcluster_version: Option<String>,
    #[serde(serialize_with = "serialize_optional_path")]
    pub node: Option<PathBuf>,
    pub node_version: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub schema_version: u32,
    pub verdict: Verdict,
    pub shim: Shim,
    /// Null if no pcluster is involved, as in `preflight template`.
    pub target: Option<TargetInfo>,
    pub packages: BTreeMap<String, String>,
    pub checks: Vec<Check>,
    pub findings: Vec<Finding>,
    /// Whether a WARNING blocks too.
    #[serde(skip)]
    denies_warnings: bool,
}

impl Report {
    pub fn new(
        shim: Shim,
        target: Option<TargetInfo>,
        packages: BTreeMap<String, String>,
        checks: Vec<Check>,
        findings: Vec<Finding>,
    ) -> Self {
        let verdict = derive_verdict(&checks, &findings, Level::Error);
        Self { schema_version: 1, verdict, shim, target, packages, checks, findings, denies_warnings: false }
    }

    /// Makes WARNINGs block, as ERRORs do, and sets the status of their checks to failed. An ignored WARNING
    /// still does not block.
    pub fn deny_warnings(&mut self) {
        self.denies_warnings = true;
        let mut rest = self.findings.as_slice();
        for check in &mut self.checks {
            let (own, others) = rest.split_at(check.findings.min(rest.len()));
            rest = others;
            if own.iter().any(|finding| finding.level == Level::Warning && !finding.is_ignored) {
                check.status = Status::Failed;
            }
        }
        self.verdict = derive_verdict(&self.checks, &self.findings, self.blocking_level());
    }

    /// The lowest level that blocks.
    fn blocking_level(&self) -> Level {
        if self.denies_warnings { Level::Warning } else { Level::Error }
    }

    /// The verdict for people; `ready` is followed by the number of warnings, if there are any.
    pub(crate) fn describe_verdict(&self) -> String {
        match (self.verdict, self.describe_warnings()) {
            (Verdict::Ready, Some(warnings)) => format!("ready: {warnings}"),
            (verdict, _) => name_of(verdict),
        }
    }

    /// `1 warning`; `None` if there are no warnings.
    pub(crate) fn describe_warnings(&self) -> Option<String> {
        let number = self.warnings().count();
        (number > 0).then(|| count(number, "warning"))
    }

    /// Adds a check, which counts towards the verdict like every other check.
    pub fn add(&mut self, check: Check) {
        self.checks.push(check);
        self.verdict = derive_verdict(&self.checks, &self.findings, self.blocking_level());
    }

    /// Ignores the findings with these ids. Errors are never ignored.
    pub fn ignore(&mut self, ids: &[String]) {
        for finding in &mut self.findings {
            finding.is_ignored = !finding.blocks() && ids.iter().any(|id| finding.is_named(id));
        }
        self.verdict = derive_verdict(&self.checks, &self.findings, self.blocking_level());
    }

    /// Whether the report has a warning that the build will fail, and a repair for that warning is known.
    pub fn has_repairable_failure(&self) -> bool {
        self.warnings().any(|warning| warning.fails_build && warning.has_repair())
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.level == Level::Warning && !finding.is_ignored)
    }

    /// The reasons why the verdict is not ready.
    pub fn reasons(&self) -> Vec<String> {
        self.causes().map(Finding::describe_with_path).chain(self.describe_not_run()).collect()
    }

    /// Whether the environment has passed its checks. If so, a check that could not run is about something
    /// else, such as the parent image.
    pub(crate) fn has_environment_passed(&self) -> bool {
        let passed = |id| self.checks.iter().any(|check| check.id == id && check.status == Status::Passed);
        passed("node") && passed("template")
    }

    /// Each check with its findings.
    pub(crate) fn checks_with_findings(&self) -> impl Iterator<Item = (&Check, &[Finding])> {
        let mut rest = self.findings.as_slice();
        self.checks.iter().map(move |check| {
            let (own, others) = rest.split_at(check.findings.min(rest.len()));
            rest = others;
            (check, own)
        })
    }

    /// What the report is about: the path of a launcher, or `template` for a template on its own.
    pub(crate) fn subject(&self) -> String {
        self.target.as_ref().map_or_else(|| "template".into(), |target| lossy(&target.path))
    }

    /// The findings that block.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.level >= self.blocking_level() && !finding.is_ignored)
    }

    /// The findings that block, except those that another finding explains.
    pub(crate) fn causes(&self) -> impl Iterator<Item = &Finding> {
        self.errors().filter(|finding| !finding.is_explained())
    }

    /// The id of every check that could not run, with the reason: `packages: reason`.
    pub(crate) fn describe_not_run(&self) -> impl Iterator<Item = String> {
        self.checks
            .iter()
            .filter(|check| check.status == Status::Unknown)
            .map(|check| format!("{}: {}", check.id, check.reason.as_deref().unwrap_or("no reason known")))
    }
}

/// With a finding of the level `blocking` or above, the verdict is blocked even if some check could not run.
fn derive_verdict(checks: &[Check], findings: &[Finding], blocking: Level) -> Verdict {
    if findings.iter().any(|finding| finding.level >= blocking && !finding.is_ignored) {
        Verdict::Blocked
    } else if checks.iter().any(|check| check.status == Status::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Ready
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Exec,
    Stop,
    /// Repair, check again, and stop if the verdict is still blocked.
    Repair,
}

/// The only function that chooses between exec, stop and repair.
pub fn decide(mode: Mode, strict: bool, report: &Report) -> Decision {
    match (mode, report.verdict) {
        (Mode::Block, Verdict::Blocked) => Decision::Stop,
        (Mode::Fix, Verdict::Blocked) => Decision::Repair,
        (Mode::Fix, Verdict::Ready) if report.has_repairable_failure() => Decision::Repair,
        (Mode::Block | Mode::Fix, Verdict::Unknown) if strict => Decision::Stop,
        _ => Decision::Exec,
    }
}

/// JSON with an indent of 2 and a final line feed, as pcluster prints it.
pub fn format_json(value: &impl Serialize) -> String {
    // Serialization fails only for maps whose keys are not strings, and there are no such maps.
    escape_json(serde_json::to_string_pretty(value).unwrap_or_default() + "\n")
}

/// Escapes every character that could control a terminal, because the JSON may be shown on a terminal. A JSON
/// parser still reads the same values.
pub fn escape_json(json: String) -> String {
    if !json.contains(is_unsafe) {
        return json;
    }
    json.chars().fold(String::with_capacity(json.len()), |mut safe, letter| {
        if is_unsafe(letter) {
            // Each of these characters takes 4 digits, and writing to a String cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(letter));
        } else {
            safe.push(letter);
        }
        safe
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::{Fix, Kind, Remedy};

    #[test]
    fn every_mode_and_verdict_is_decided_as_the_contract_says() {
        use Decision::{Exec, Repair, Stop};
        use Verdict::{Blocked, Ready, Unknown};
        for (mode, strict, verdict, decision) in [
            (Mode::Block, false, Ready, Exec),
            (Mode::Block, false, Blocked, Stop),
            (Mode::Block, false, Unknown, Exec),
            (Mode::Block, true, Unknown, Stop),
            (Mode::Block, true, Ready, Exec),
            (Mode::Fix, false, Blocked, Repair),
            (Mode::Fix, true, Blocked, Repair),
            (Mode::Fix, false, Unknown, Exec),
            (Mode::Fix, true, Unknown, Stop),
            (Mode::Fix, true, Ready, Exec),
            (Mode::Warn, false, Blocked, Exec),
            (Mode::Warn, true, Unknown, Exec),
            (Mode::Off, true, Blocked, Exec),
        ] {
            let report = Report { verdict, ..report(Vec::new()) };
            assert_eq!(decide(mode, strict, &report), decision, "{mode:?} {strict} {verdict:?}");
        }
    }

    fn report(findings: Vec<Finding>) -> Report {
        Report::new(Shim { version: "1", path: None }, None, BTreeMap::new(), Vec::new(), findings)
    }

    #[test]
    fn mode_fix_repairs_a_warning_of_a_failed_build_that_has_a_repair() {
        let warning = |fails_build, fix| Finding { fix, fails_build, ..finding(Level::Warning) };
        let edit = || Some(Fix::by_command(Remedy::Edit("minitar-1.0".into())));
        for (finding, decision) in [
            (warning(true, edit()), Decision::Repair),
            (warning(false, edit()), Decision::Exec),
            (warning(true, Some(Fix::by_hand("wait".into()))), Decision::Exec),
            (Finding { level: Level::Info, ..warning(true, edit()) }, Decision::Exec),
        ] {
            let report = report(vec![finding]);
            assert_eq!(decide(Mode::Fix, false, &report), decision, "{report:?}");
            assert_eq!(decide(Mode::Block, true, &report), Decision::Exec);
        }
    }

    fn finding(level: Level) -> Finding {
        Finding::new("x", level, Kind::PackageAdvisory, String::new())
    }

    #[test]
    fn a_denied_warning_fails_its_check_unless_it_is_ignored() {
        for (ignored, status, verdict) in
            [("x", Status::Passed, Verdict::Ready), ("y", Status::Failed, Verdict::Blocked)]
        {
            let mut report = report(vec![finding(Level::Warning)]);
            report.checks =
                vec![Check { findings: 1, ..Check::new("c", Status::Passed, Duration::ZERO, None) }];
            report.ignore(&[ignored.to_owned()]);
            report.deny_warnings();
            assert_eq!((report.checks[0].status, report.verdict), (status, verdict), "{ignored}");
        }
    }

    #[test]
    fn json_has_nothing_that_a_terminal_acts_on() {
        let text = "a\n\t\x1b\u{7f}\u{9b}\u{61c}\u{202e}\u{2069}\u{2028}ä😀";
        let json = format_json(&text);
        assert_eq!(crate::text::printable::escape(&json), json);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn an_error_blocks_whatever_check_is_unknown() {
        let check = |status| Check::new("node", status, Duration::ZERO, None);
        let derive = |status, level| derive_verdict(&[check(status)], &[finding(level)], Level::Error);
        assert_eq!(derive(Status::Unknown, Level::Error), Verdict::Blocked);
        assert_eq!(derive(Status::Unknown, Level::Warning), Verdict::Unknown);
        assert_eq!(derive(Status::Skipped, Level::Warning), Verdict::Ready);
        let denied = |level| derive_verdict(&[check(Status::Unknown)], &[finding(level)], Level::Warning);
        assert_eq!((denied(Level::Warning), denied(Level::Info)), (Verdict::Blocked, Verdict::Unknown));
    }
}
