//! The report for people, and its short form for stderr. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::package_name::{IMAGEBUILDER, normalised};
use crate::printable::{escape_line, filled, flatten, wrapped};
use crate::report::{Check, Decision, Report, Status, TargetInfo, Verdict};
use crate::rules::{Finding, Level};

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

pub(crate) fn mend(finding: &Finding) -> &str {
    finding.fix.as_ref().map_or("run `pcluster preflight` for the details", |fix| &fix.command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::locate::FoundBy;
    use crate::printable::escape;
    use crate::report::Shim;
    use crate::rules::{Fix, Kind};
    use serde_json::json;

    fn finding_of(text: &str) -> Finding {
        Finding {
            id: text.into(),
            level: Level::Error,
            kind: Kind::ImageBuilderTemplate,
            message: text.into(),
            cost: Some(text.into()),
            evidence: json!({"path": format!("$.Resources.{text}")}),
            fix: Some(Fix { command: text.into(), package_move: None }),
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
}
