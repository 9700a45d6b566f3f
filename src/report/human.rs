//! The report for people, and its short form for stderr. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::model::finding::{FIND_LOST, Finding, LOSES_TAGS, Level};
use crate::report::{Check, Decision, Report, Status, TargetInfo, Verdict};
use crate::text::package_name::{IMAGEBUILDER, normalised};
use crate::text::printable::{self, capitalize, escape_line, fill, flatten, name_of, wrap};

/// Renders the report for people. A line is wider than requested only if a single word, path or
/// command is wider.
pub fn render(report: &Report, paint: &Paint) -> String {
    let verdict = wrap(&report.describe_verdict(), paint.width).join("\n");
    let mut text = format!("{}\n", paint.paint_verdict(report.verdict, &verdict));
    if let Some(target_info) = &report.target {
        text += "\n";
        text += &format_target(target_info, &report.packages);
    }
    if !report.checks.is_empty() {
        text += "\n";
    }
    for check in &report.checks {
        text += &format_check(check, paint);
    }
    text += &format_findings(&report.findings, paint);
    if report.findings.iter().any(|finding| finding.is_named(LOSES_TAGS)) {
        let _ = writeln!(text, "\n{}", wrap(FIND_LOST, paint.width).join("\n"));
    }
    text + &format!("\n{}\n", conclude(report, paint.width))
}

/// The conclusion and the next step. They come last, so they stay visible on a terminal even if the report
/// is long.
fn conclude(report: &Report, width: usize) -> String {
    let count = |level: Level, what: &str| {
        let is_counted =
            |finding: &&Finding| finding.level == level && !finding.is_explained() && !finding.is_ignored;
        let number = report.findings.iter().filter(is_counted).count();
        (number > 0).then(|| printable::count(number, what))
    };
    let not_run = report.describe_not_run().count();
    let not_run = (not_run > 0).then(|| format!("{} did not run", printable::count(not_run, "check")));
    let ignored = report.findings.iter().filter(|finding| finding.is_ignored).count();
    let ignored = (ignored > 0).then(|| format!("{ignored} ignored"));
    let counts = [count(Level::Error, "error"), count(Level::Warning, "warning"), not_run, ignored];
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let verdict = name_of(report.verdict);
    let head = if counts.is_empty() { verdict } else { format!("{verdict}: {counts}") };
    let is_next = |finding: &&Finding| {
        (finding.level == Level::Error || finding.fails_build && !finding.is_ignored)
            && !finding.is_explained()
    };
    match report.findings.iter().find(is_next) {
        Some(finding) if finding.has_repair() => {
            let (head, next) = (head + ".", format!("Next: {}.", describe_hint(finding)));
            let lines = fill([head.as_str(), &next].into_iter(), " ", width);
            lines.iter().flat_map(|line| wrap(line, width)).collect::<Vec<_>>().join("\n")
        }
        _ => head,
    }
}

/// The findings, grouped by cause, with an empty line before each group. A finding that an advisory explains
/// is shown with that advisory, as evidence.
pub(crate) fn format_findings(findings: &[Finding], paint: &Paint) -> String {
    let explained_by = |advisory: &Finding| -> Vec<&Finding> {
        findings.iter().filter(|finding| finding.evidence["explainedBy"] == advisory.id.as_str()).collect()
    };
    // A JUnit test case has only the findings of one check. If the advisory that explains a finding belongs
    // to another check, `findings` lacks that advisory, so the finding is shown by itself.
    let is_evidence = |finding: &Finding| {
        findings.iter().any(|advisory| finding.evidence["explainedBy"] == advisory.id.as_str())
    };
    let is_shown = |finding: &&Finding| !is_evidence(finding) && !finding.is_ignored;
    let own: Vec<Finding> = findings.iter().filter(is_shown).cloned().collect();
    let groups: Vec<&[Finding]> = group_by_cause(&own).collect();
    let mut text = String::new();
    for (index, group) in groups.iter().enumerate() {
        let next = groups.get(index + 1).map(|group| &group[0]);
        let shown_by = explained_by(&group[0]);
        // If several findings share their cost and fix, cost and fix appear only below the last finding.
        let is_shared = shown_by.is_empty() && next.is_some_and(|next| have_one_fix(next, &group[0]));
        text += "\n";
        text += &format_group(group, is_shared, &shown_by, paint);
    }
    text
}

pub(crate) fn group_by_cause(findings: &[Finding]) -> impl Iterator<Item = &[Finding]> {
    findings.chunk_by(have_one_cause)
}

/// Whether two findings are alike, except that they are about different entries of one object (such as
/// two tags).
fn have_one_cause(one: &Finding, other: &Finding) -> bool {
    one.id == other.id && one.path().map(strip_key) == other.path().map(strip_key) && have_one_fix(one, other)
}

/// Whether two findings have the same cost and the same fix.
fn have_one_fix(one: &Finding, other: &Finding) -> bool {
    let command = |finding: &Finding| finding.fix.as_ref().map(|fix| fix.command.clone());
    one.cost == other.cost && command(one) == command(other)
}

/// The part of the path before the last `["key"]`.
fn strip_key(path: &str) -> &str {
    path.rfind("[\"").map_or(path, |end| &path[..end])
}

fn format_target(target_info: &TargetInfo, packages: &BTreeMap<String, String>) -> String {
    let unknown = || "?".to_owned();
    let path =
        |path: Option<&PathBuf>| path.map_or_else(unknown, |path| escape_line(&path.display().to_string()));
    let version = |version: Option<&String>| version.map_or_else(unknown, |version| escape_line(version));
    let cdk = packages.get(&normalised(IMAGEBUILDER));
    let rows = [
        ("pcluster", version(target_info.pcluster_version.as_ref()), path(Some(&target_info.path))),
        ("found by", String::new(), target_info.found_by.name().to_owned()),
        ("python", version(target_info.python_version.as_ref()), path(target_info.interpreter.as_ref())),
        ("node", version(target_info.node_version.as_ref()), path(target_info.node.as_ref())),
        ("CDK", version(cdk), IMAGEBUILDER.to_owned()),
    ];
    rows.into_iter().fold(String::new(), |text, (name, version, what)| {
        text + &format!("  {name:<12}{version:<10} {what}\n")
    })
}

fn format_check(check: &Check, paint: &Paint) -> String {
    let status = paint.paint_status(check.status, &format!("{:<10}", name_of(check.status)));
    let detail = match &check.reason {
        Some(reason) => reason.clone(),
        None if check.duration_ms >= 100 => {
            format!("{}.{} s", check.duration_ms / 1000, check.duration_ms % 1000 / 100)
        }
        None => String::new(),
    };
    let head = format!("  {:<12}{status}", check.id);
    if detail.is_empty() {
        return head.trim_end().to_owned() + "\n";
    }
    let lines = wrap(&detail, paint.width - 25);
    head + " " + &lines.join(&format!("\n{:25}", "")) + "\n"
}

fn format_group(group: &[Finding], is_shared: bool, shown_by: &[&Finding], paint: &Paint) -> String {
    let finding = &group[0];
    let count = if group.len() > 1 { format!(" ({})", group.len()) } else { String::new() };
    let mut text = format!("{} {}{count}\n", paint.paint_level(finding.level), escape_line(&finding.id));
    let mut row = |label: &str, lines: Vec<String>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {label:<6}{}", lines.join("\n        "));
    };
    let width = paint.width - 8;
    row("what", group.iter().flat_map(|finding| wrap(&finding.message, width)).collect());
    if let Some(path) = finding.path() {
        let path = if group.len() > 1 { strip_key(path) } else { path };
        row("at", fill(escape_line(path).split_inclusive('.'), "", width));
    }
    if let Some(cost) = finding.cost.as_ref().filter(|_| !is_shared) {
        row("cost", wrap(cost, width));
    }
    if let Some(fix) = finding.fix.as_ref().filter(|_| !is_shared) {
        let command = escape_line(&fix.command);
        row("fix", if is_command(finding) { vec![command] } else { wrap(&command, width) });
    }
    for seen in shown_by.iter().take(MAX_SHOWN) {
        row("seen", wrap(&seen.describe_with_path(), width));
    }
    if let Some(more) = shown_by.len().checked_sub(MAX_SHOWN).filter(|more| *more > 0) {
        row("", vec![format!("and {more} more (--format json lists them)")]);
    }
    for reference in &finding.references {
        row("see", vec![escape_line(reference)]);
    }
    text
}

/// The maximum number of findings shown as evidence: an incomplete template can have findings in
/// twenty places.
const MAX_SHOWN: usize = 3;

/// Whether text is coloured, and the width of a line.
#[derive(Debug)]
pub struct Paint {
    pub is_colored: bool,
    pub width: usize,
}

impl Paint {
    const RED: &'static str = "31";
    const GREEN: &'static str = "32";
    const YELLOW: &'static str = "33";

    fn paint(&self, code: &str, text: &str) -> String {
        if self.is_colored { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn paint_verdict(&self, verdict: Verdict, text: &str) -> String {
        let code = match verdict {
            Verdict::Ready => Self::GREEN,
            Verdict::Blocked => Self::RED,
            Verdict::Unknown => Self::YELLOW,
        };
        self.paint(code, text)
    }

    fn paint_status(&self, status: Status, text: &str) -> String {
        match status {
            Status::Passed | Status::Skipped => text.to_owned(),
            Status::Failed => self.paint(Self::RED, text),
            Status::Unknown => self.paint(Self::YELLOW, text),
        }
    }

    fn paint_level(&self, level: Level) -> String {
        let name = name_of(level);
        match level {
            Level::Error => self.paint(Self::RED, &name),
            Level::Warning => self.paint(Self::YELLOW, &name),
            Level::Info => name,
        }
    }
}

/// Renders the report for the guard's stderr, without the prefix `pcluster-shim:`. First come the findings of
/// level ERROR: what is wrong, what it costs and what to do. Then come the checks that could not run. If
/// there is no ERROR, the warnings with `fails_build` come last. If the report has none of these findings and
/// checks, the text is empty.
pub fn render_for_stderr(report: &Report, decision: Decision) -> String {
    let level = if decision == Decision::Exec { "warning" } else { "error" };
    let mut lines = Vec::new();
    if let Some(first) = report.causes().next() {
        let is_advised = |finding: &Finding| decision != Decision::Repair || !finding.has_repair();
        lines.extend(describe_finding(level, first, None, is_advised(first)));
        for (before, finding) in report.causes().zip(report.causes().skip(1)).take(MAX_FINDINGS - 1) {
            lines.extend(describe_finding(level, finding, Some(before), is_advised(finding)));
        }
        let hidden = report.causes().count().saturating_sub(MAX_FINDINGS);
        if hidden > 0 {
            lines.push(format!("and {hidden} more; to see them, run `pcluster preflight -c FILE`"));
        }
        if decision == Decision::Exec {
            lines.push("continuing anyway (mode: warn)".into());
        }
        lines.extend(report.describe_not_run().map(|why| format!("warning: not checked: {why}")));
    } else {
        let continues = match decision {
            Decision::Exec if report.has_environment_passed() => "; build-image continues",
            Decision::Exec => "; build-image continues anyway",
            Decision::Stop | Decision::Repair => "",
        };
        let not_run = report.describe_not_run();
        lines.extend(not_run.map(|why| format!("{level}: not checked: {why}{continues}")));
        if decision != Decision::Exec {
            lines.extend(STRICT.map(str::to_owned));
        }
        let failing = report.findings.iter().filter(|finding| finding.fails_build && !finding.is_ignored);
        lines.extend(
            failing.map(|finding| format!("warning: {}; {}", finding.message, describe_hint(finding))),
        );
    }
    lines.iter().map(|line| flatten(line)).collect::<Vec<_>>().join("\n")
}

/// What stderr says if build-image was stopped only because strict is set and a check could not run.
const STRICT: [&str; 2] = [
    "build-image was stopped, because strict is set.",
    "hint: For details, run `pcluster preflight -c FILE`. To continue anyway, set \
     PCLUSTER_SHIM_STRICT=0.",
];

/// What to do about a finding: the command to run, in backquotes, or advice.
pub(crate) fn describe_hint(finding: &Finding) -> String {
    let fix = finding.describe_fix();
    if is_command(finding) { format!("run `{fix}`") } else { fix.to_owned() }
}

/// Whether a finding's fix is a command. In an environment of uvx, the fix is advice in words, even if a
/// repair is known.
fn is_command(finding: &Finding) -> bool {
    finding.has_repair() && finding.describe_fix().starts_with("pcluster ")
}

/// The maximum number of findings on stderr: one cause can have many findings (for example, one for each
/// tag), and what is shown has to fit on one screen.
const MAX_FINDINGS: usize = 3;

/// Describes a finding: the message, then the cost and, if `is_advised`, what to do. Cost and advice are left
/// out if the previous finding has the same cost and fix.
fn describe_finding(
    level: &str,
    finding: &Finding,
    before: Option<&Finding>,
    is_advised: bool,
) -> Vec<String> {
    let mut lines = vec![format!("{level}: {}", finding.describe_with_path())];
    if before.is_none_or(|before| !have_one_fix(before, finding)) {
        lines.extend(finding.cost.clone());
        lines.extend(is_advised.then(|| format!("hint: {}.", capitalize(&describe_hint(finding)))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::{Fix, Kind, Remedy};
    use crate::model::options::FoundBy;
    use crate::report::Shim;
    use crate::text::printable::escape;
    use serde_json::json;

    fn finding_of(text: &str) -> Finding {
        Finding {
            cost: Some(text.into()),
            evidence: json!({"path": format!("$.Resources.{text}")}),
            fix: Some(Fix::by_hand(text.into())),
            references: vec![text.into()],
            ..Finding::new(text, Level::Error, Kind::ImageBuilderTemplate, text.into())
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
        let check = Check::new("node", Status::Unknown, std::time::Duration::ZERO, reason);
        let packages = BTreeMap::from([("aws-cdk-aws-imagebuilder".to_owned(), text.to_owned())]);
        Report::new(Shim { version: "0", path: None }, Some(target_info), packages, vec![check], findings)
    }

    #[test]
    fn a_next_step_that_is_a_sentence_is_folded() {
        let command =
            "install it with `uv tool install` or pip, and run `pcluster preflight fix` there".into();
        let fix = Some(Fix { command, ..Fix::by_command(Remedy::Release) });
        let report = report_of("x", vec![Finding { fix, ..finding_of("x") }]);
        let end = conclude(&report, 60);
        assert!(end.lines().all(|line| line.chars().count() <= 60), "{end}");
        assert!(end.contains("`pcluster preflight fix`"), "{end}");
    }

    proptest::proptest! {
        /// Foreign text is escaped, and cannot start a new line.
        #[test]
        fn no_foreign_text_reaches_a_terminal_as_it_is(
            text in proptest::collection::vec(proptest::char::any(), 0..20)
        ) {
            let text = String::from_iter(text);
            for findings in [vec![], vec![finding_of(&text)], vec![finding_of(&text), finding_of("x")]] {
                let report = report_of(&text, findings);
                let render_in = |is_colored| render(&report, &Paint { is_colored, width: 80 });
                let plain = render_in(false);
                proptest::prop_assert_eq!(escape(&plain), plain.as_str());
                let coloured = render_in(true);
                let painted = ["\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"];
                let unpainted = painted.iter().fold(coloured, |text, code| text.replace(code, ""));
                proptest::prop_assert_eq!(escape(&unpainted), unpainted.as_str());
                let lines = render_for_stderr(&report, Decision::Stop).lines().count();
                // Three lines for each finding, and three for the check that could not run.
                proptest::prop_assert!(lines <= 3 * report.findings.len() + 3);
            }
        }
    }
}
