//! Findings, checks, verdict, decision, and their three renderings as text. Pure.
//!
//! One [`Report`]: its JSON is its own serialization; the human form and the pcluster-shaped stop
//! are other renderings of the same value. No rendering decides anything.

pub mod builder;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::settings::Mode;
use crate::environment::locate::FoundBy;
use crate::package_name::{IMAGEBUILDER, normalised};
use crate::printable::{escape, escape_line, flatten, serialize_optional_path, serialize_path};
use crate::rules::{Finding, Kind, Level};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Passed,
    Failed,
    Skipped,
    Unknown,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub id: &'static str,
    pub status: Status,
    pub duration_ms: u64,
    /// Answered from the cache.
    pub cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    #[must_use]
    pub fn new(id: &'static str, status: Status, took: Duration, reason: Option<String>) -> Self {
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { id, status, duration_ms, cached: false, reason }
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
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Blocked => 1,
            Self::Unknown => 3,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Shim {
    pub version: &'static str,
    #[serde(serialize_with = "serialize_optional_path")]
    pub path: Option<PathBuf>,
}

/// What is checked; what could not be found out is null.
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
    /// Null where no pcluster is involved: `preflight template`.
    pub target: Option<TargetInfo>,
    pub packages: BTreeMap<String, String>,
    pub checks: Vec<Check>,
    pub findings: Vec<Finding>,
}

impl Report {
    #[must_use]
    pub fn new(
        shim: Shim,
        target: Option<TargetInfo>,
        packages: BTreeMap<String, String>,
        checks: Vec<Check>,
        findings: Vec<Finding>,
    ) -> Self {
        let verdict = verdict(&checks, &findings);
        Self { schema_version: 1, verdict, shim, target, packages, checks, findings }
    }

    /// One more check, which counts for the verdict like every other.
    pub fn add(&mut self, check: Check) {
        self.checks.push(check);
        self.verdict = verdict(&self.checks, &self.findings);
    }

    /// Every reason why the verdict is not ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.errors().map(Finding::located).chain(self.not_run()).collect()
    }

    /// Whether the environment itself passed, so that what is unknown is beside it.
    fn environment_passed(&self) -> bool {
        let passed = |id| self.checks.iter().any(|check| check.id == id && check.status == Status::Passed);
        passed("node") && passed("template")
    }

    fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.level == Level::Error)
    }

    /// `packages: why`, for every check that could not run.
    fn not_run(&self) -> impl Iterator<Item = String> {
        self.checks
            .iter()
            .filter(|check| check.status == Status::Unknown)
            .map(|check| format!("{}: {}", check.id, check.reason.as_deref().unwrap_or("no reason known")))
    }
}

/// A finding of level ERROR blocks, whatever else could not be found out.
fn verdict(checks: &[Check], findings: &[Finding]) -> Verdict {
    if findings.iter().any(|finding| finding.level == Level::Error) {
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
    /// Repair, look again, and stop if that is still blocked.
    Repair,
}

/// The only function that chooses between exec, stop and repair.
#[must_use]
pub fn decide(mode: Mode, strict: bool, verdict: Verdict) -> Decision {
    match (mode, verdict) {
        (Mode::Block, Verdict::Blocked) => Decision::Stop,
        (Mode::Fix, Verdict::Blocked) => Decision::Repair,
        (Mode::Block | Mode::Fix, Verdict::Unknown) if strict => Decision::Stop,
        _ => Decision::Exec,
    }
}

/// What the guard says on stderr: nothing where there is nothing to say, otherwise what is wrong,
/// what it costs, what to do; without the prefix.
#[must_use]
pub fn for_stderr(report: &Report, decision: Decision) -> String {
    let mut lines = Vec::new();
    if let Some(first) = report.errors().next() {
        lines.extend(in_lines(first, None));
        for (before, finding) in report.errors().zip(report.errors().skip(1)).take(MAX_FINDINGS - 1) {
            lines.extend(in_lines(finding, Some(before)));
        }
        let hidden = report.errors().count().saturating_sub(MAX_FINDINGS);
        if hidden > 0 {
            lines.push(format!("and {hidden} more findings: `pcluster preflight` shows them"));
        }
        if decision == Decision::Exec {
            lines.push("build-image goes on all the same (mode warn)".into());
        }
        lines.extend(report.not_run().map(|why| format!("not checked: {why}")));
    } else {
        let consequence = match decision {
            Decision::Exec if report.environment_passed() => "build-image goes on",
            Decision::Exec => "build-image goes on unchecked",
            Decision::Stop | Decision::Repair => "build-image is stopped (strict)",
        };
        lines.extend(report.not_run().map(|why| format!("not checked: {why}; {consequence}")));
    }
    lines.iter().map(|line| flatten(line)).collect::<Vec<_>>().join("\n")
}

/// Findings that are told: those of one cause come in numbers (a tag each), and the rest has to
/// stay on one screen.
const MAX_FINDINGS: usize = 4;

/// What is wrong; what it costs and what mends it, where that is not as for the finding before.
fn in_lines(finding: &Finding, before: Option<&Finding>) -> Vec<String> {
    let mut lines = vec![finding.located()];
    if before.is_none_or(|before| !mended_alike(before, finding)) {
        lines.extend(finding.cost.clone());
        lines.push(format!("Fix: {}", mend(finding)));
    }
    lines
}

fn mend(finding: &Finding) -> &str {
    finding.fix.as_ref().map_or("run `pcluster preflight` for the details", |fix| &fix.command)
}

/// What the real pcluster prints when it rejects a configuration, so that scripts keep working.
#[must_use]
pub fn pcluster_shaped(report: &Report) -> String {
    let entry = |kind: Kind, message: String| json!({"level": "ERROR", "type": kind, "message": message});
    let mut errors: Vec<Value> = report
        .errors()
        .map(|finding| {
            let cost = finding.cost.as_deref().map(|cost| format!(" {cost}")).unwrap_or_default();
            entry(finding.kind, format!("{}.{cost} Fix: {}", finding.located(), mend(finding)))
        })
        .collect();
    if errors.is_empty() {
        errors = report
            .not_run()
            .map(|why| {
                let to_do = "Run `pcluster preflight` for the details, or switch strict off";
                entry(Kind::CheckNotRun, format!("Not checked: {why}. Fix: {to_do}"))
            })
            .collect();
    }
    let message = match report.verdict {
        Verdict::Blocked => "pcluster-shim stopped build-image: the image would be unusable.",
        _ => "pcluster-shim stopped build-image: a check could not run, and strict is set.",
    };
    pretty(&json!({"configurationValidationErrors": errors, "message": message}))
}

/// JSON with an indent of 2 and a line feed, as pcluster prints it.
#[must_use]
pub fn pretty(value: &impl Serialize) -> String {
    // Only maps with keys that are no strings fail, and there are none.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// The report for people, at most 80 columns where no single word is longer.
#[must_use]
pub fn human(report: &Report, color: bool) -> String {
    let paint = Paint { color };
    let mut text = format!("{}\n", paint.verdict(report.verdict));
    if let Some(target_info) = &report.target {
        text += "\n";
        text += &subject_rows(target_info, &report.packages);
    }
    if !report.checks.is_empty() {
        text += "\n";
    }
    for check in &report.checks {
        text += &check_rows(check, &paint);
    }
    let groups: Vec<&[Finding]> = report.findings.chunk_by(belong_together).collect();
    for (index, group) in groups.iter().enumerate() {
        let next = groups.get(index + 1).map(|group| &group[0]);
        // Findings of one cause share what they cost and how they are mended.
        let shared = next.is_some_and(|next| mended_alike(next, &group[0]));
        text += "\n";
        text += &group_rows(group, shared, &paint);
    }
    text
}

/// The same fault in several entries of one object, such as a tag each.
fn belong_together(one: &Finding, other: &Finding) -> bool {
    one.id == other.id && one.path().map(parent) == other.path().map(parent) && mended_alike(one, other)
}

fn mended_alike(one: &Finding, other: &Finding) -> bool {
    let command = |finding: &Finding| finding.fix.as_ref().map(|fix| fix.command.clone());
    one.cost == other.cost && command(one) == command(other)
}

/// The path without its last `["key"]`.
fn parent(path: &str) -> &str {
    path.rfind("[\"").map_or(path, |end| &path[..end])
}

fn subject_rows(target_info: &TargetInfo, packages: &BTreeMap<String, String>) -> String {
    let unknown = || "?".to_owned();
    let path =
        |path: Option<&PathBuf>| path.map_or_else(unknown, |path| escape_line(&path.display().to_string()));
    let version = |version: Option<&String>| version.map_or_else(unknown, |version| escape_line(version));
    let cdk = packages.get(&normalised(IMAGEBUILDER));
    let rows = [
        ("pcluster", version(target_info.pcluster_version.as_ref()), path(Some(&target_info.path))),
        ("found by", String::new(), target_info.found_by.words().to_owned()),
        ("python", version(target_info.python_version.as_ref()), path(target_info.interpreter.as_ref())),
        ("node", version(target_info.node_version.as_ref()), path(target_info.node.as_ref())),
        ("CDK", version(cdk), IMAGEBUILDER.to_owned()),
    ];
    rows.into_iter().fold(String::new(), |text, (name, version, what)| {
        text + &format!("  {name:<12}{version:<10} {what}\n")
    })
}

fn check_rows(check: &Check, paint: &Paint) -> String {
    let status = paint.status(check.status, &format!("{:<10}", check.status.word()));
    let detail = match (&check.reason, check.cached) {
        (Some(reason), _) => reason.clone(),
        (None, true) => "remembered".into(),
        (None, false) if check.duration_ms >= 100 => {
            format!("{}.{} s", check.duration_ms / 1000, check.duration_ms % 1000 / 100)
        }
        (None, false) => String::new(),
    };
    let head = format!("  {:<12}{status}", check.id);
    if detail.is_empty() {
        return head.trim_end().to_owned() + "\n";
    }
    let lines = wrapped(&detail, 80 - 25);
    head + " " + &lines.join(&format!("\n{:25}", "")) + "\n"
}

fn group_rows(group: &[Finding], shared: bool, paint: &Paint) -> String {
    let finding = &group[0];
    let count = if group.len() > 1 { format!(" ({})", group.len()) } else { String::new() };
    let mut text = format!("{} {}{count}\n", paint.level(finding.level), escape_line(&finding.id));
    let mut row = |label: &str, lines: Vec<String>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {label:<6}{}", lines.join("\n        "));
    };
    let width = 80 - 8;
    row("what", group.iter().flat_map(|finding| wrapped(&finding.message, width)).collect());
    if let Some(path) = finding.path() {
        let path = if group.len() > 1 { parent(path) } else { path };
        row("at", filled(escape_line(path).split_inclusive('.'), "", width));
    }
    if let Some(cost) = finding.cost.as_ref().filter(|_| !shared) {
        row("cost", wrapped(cost, width));
    }
    if let Some(fix) = finding.fix.as_ref().filter(|_| !shared) {
        row("fix", wrapped(&fix.command, width));
    }
    for reference in &finding.references {
        row("see", vec![escape_line(reference)]);
    }
    text
}

/// Words in lines of at most `width` characters, safe for a terminal; a longer word stands alone.
#[must_use]
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    filled(escape(text).split_whitespace(), " ", width)
}

fn filled<'a>(pieces: impl Iterator<Item = &'a str>, joint: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        match lines.last_mut() {
            Some(line) if line.chars().count() + joint.len() + piece.chars().count() <= width => {
                line.push_str(joint);
                line.push_str(piece);
            }
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
}

struct Paint {
    color: bool,
}

impl Paint {
    const RED: &'static str = "31";
    const GREEN: &'static str = "32";
    const YELLOW: &'static str = "33";

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn verdict(&self, verdict: Verdict) -> String {
        let code = match verdict {
            Verdict::Ready => Self::GREEN,
            Verdict::Blocked => Self::RED,
            Verdict::Unknown => Self::YELLOW,
        };
        self.paint(code, verdict.word())
    }

    fn status(&self, status: Status, text: &str) -> String {
        match status {
            Status::Passed | Status::Skipped => text.to_owned(),
            Status::Failed => self.paint(Self::RED, text),
            Status::Unknown => self.paint(Self::YELLOW, text),
        }
    }

    fn level(&self, level: Level) -> String {
        match level {
            Level::Error => self.paint(Self::RED, level.word()),
            Level::Warning => self.paint(Self::YELLOW, level.word()),
            Level::Info => level.word().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(decide(mode, strict, verdict), decision, "{mode:?} {strict} {verdict:?}");
        }
    }

    #[test]
    fn a_finding_blocks_whatever_else_is_unknown() {
        let check = |status| Check { id: "node", status, duration_ms: 0, cached: false, reason: None };
        let finding = |level| Finding {
            id: "x".into(),
            level,
            kind: Kind::PackageAdvisory,
            message: String::new(),
            cost: None,
            evidence: Value::Null,
            fix: None,
            references: Vec::new(),
        };
        assert_eq!(verdict(&[check(Status::Unknown)], &[finding(Level::Error)]), Verdict::Blocked);
        assert_eq!(verdict(&[check(Status::Unknown)], &[finding(Level::Warning)]), Verdict::Unknown);
        assert_eq!(verdict(&[check(Status::Skipped)], &[finding(Level::Warning)]), Verdict::Ready);
    }

    fn finding_of(text: &str) -> Finding {
        Finding {
            id: text.into(),
            level: Level::Error,
            kind: Kind::ImageBuilderTemplate,
            message: text.into(),
            cost: Some(text.into()),
            evidence: json!({"path": format!("$.Resources.{text}")}),
            fix: Some(crate::rules::Fix { command: text.into(), package_move: None }),
            references: vec![text.into()],
        }
    }

    fn report_of(text: &str, findings: Vec<Finding>) -> Report {
        let target_info = TargetInfo {
            path: text.into(),
            found_by: FoundBy::Path,
            launcher: None,
            interpreter: Some(text.into()),
            python_version: Some(text.into()),
            pcluster_version: Some(text.into()),
            node: Some(text.into()),
            node_version: Some(text.into()),
        };
        let reason = Some(text.to_owned());
        let check = Check { id: "node", status: Status::Unknown, duration_ms: 0, cached: false, reason };
        let packages = BTreeMap::from([("aws-cdk-aws-imagebuilder".to_owned(), text.to_owned())]);
        Report::new(Shim { version: "0", path: None }, Some(target_info), packages, vec![check], findings)
    }

    proptest::proptest! {
        /// Nor does foreign text begin a line of its own.
        #[test]
        fn no_foreign_text_reaches_a_terminal_as_it_is(
            text in proptest::collection::vec(proptest::char::any(), 0..20)
        ) {
            let text = String::from_iter(text);
            for findings in [vec![], vec![finding_of(&text)], vec![finding_of(&text), finding_of("x")]] {
                let report = report_of(&text, findings);
                let plain = human(&report, false);
                proptest::prop_assert_eq!(escape(&plain), plain.as_str());
                let coloured = human(&report, true);
                let painted = ["\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"];
                let unpainted = painted.iter().fold(coloured, |text, code| text.replace(code, ""));
                proptest::prop_assert_eq!(escape(&unpainted), unpainted.as_str());
                let lines = for_stderr(&report, Decision::Stop).lines().count();
                // Three for each finding, one for the check that could not run.
                proptest::prop_assert!(lines <= 3 * report.findings.len() + 1);
            }
        }
    }

    #[test]
    fn lines_are_as_wide_as_asked_for_and_no_word_is_lost() {
        let text = "one two three four five sixsixsixsixsix seven";
        let lines = wrapped(text, 10);
        assert_eq!(lines.join(" "), text);
        assert!(lines.iter().all(|line| line.len() <= 10 || !line.contains(' ')));
    }
}
