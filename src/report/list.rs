//! A list of several reports, with one line for each. Pure.

use std::fmt::Write as _;

use crate::report::human::Paint;
use crate::report::{Report, Status, Verdict};
use crate::text::printable::{count, escape_line, name_of};

/// The minimum width of the reason at the end of a line. If the path in the line is long, the line is wider
/// than requested.
const MIN_REASON: usize = 40;

/// Renders a line for each report (verdict, versions of pcluster and Python, path, and the first reason in
/// short form), then the number of reports with each verdict.
pub fn render(reports: &[Report], paint: &Paint) -> String {
    let mut text: String = reports.iter().map(|report| render_line(report, paint)).collect();
    let _ = writeln!(text, "\n{}", count_verdicts(reports));
    if reports.iter().any(|report| report.verdict != Verdict::Ready) {
        text += "To see everything about one of them, run `pcluster preflight --real PATH`.\n";
    }
    text
}

/// `12 environments: 10 ready, 2 blocked`.
fn count_verdicts(reports: &[Report]) -> String {
    let counts = [Verdict::Ready, Verdict::Blocked, Verdict::Unknown].map(|verdict| {
        let number = reports.iter().filter(|report| report.verdict == verdict).count();
        (number > 0).then(|| format!("{number} {}", name_of(verdict)))
    });
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    format!("{}: {counts}", count(reports.len(), "environment"))
}

fn render_line(report: &Report, paint: &Paint) -> String {
    let target = report.target.as_ref();
    let version =
        |version: Option<&String>| version.map_or_else(|| "?".into(), |version| escape_line(version));
    let pcluster = version(target.and_then(|target| target.pcluster_version.as_ref()));
    let python = version(target.and_then(|target| target.python_version.as_ref()));
    let path = target.map_or_else(String::new, |target| escape_line(&target.path.display().to_string()));
    let verdict = name_of(report.verdict);
    let padding = " ".repeat("blocked".len() - verdict.len());
    let rest = format!("{pcluster:<8} {python:<8} {path}");
    let used = "blocked  ".len() + rest.chars().count() + 2;
    let reason = shorten(&first_reason(report), paint.width.saturating_sub(used).max(MIN_REASON));
    let verdict = paint.paint_verdict(report.verdict, &verdict);
    let line = format!("{verdict}{padding}  {rest}  {reason}");
    line.trim_end().to_owned() + "\n"
}

/// The id of the first finding that blocks. If no finding blocks, the reason why a check could not run. If
/// all checks ran, the number of warnings.
fn first_reason(report: &Report) -> String {
    let blocking = report.errors().next().map(|finding| finding.id.clone());
    let not_run = || {
        let check = report.checks.iter().find(|check| check.status == Status::Unknown)?;
        let reason = check.reason.as_deref().unwrap_or(check.id);
        // The line already contains the path.
        let path = report.target.as_ref()?.path.display();
        let known = format!("cannot inspect {path}: ");
        Some(reason.strip_prefix(&known).unwrap_or(reason).to_owned())
    };
    shorten_paths(&escape_line(
        &blocking.or_else(not_run).or_else(|| report.describe_warnings()).unwrap_or_default(),
    ))
}

/// Shortens each path to its last component, so that there is room for the other words.
fn shorten_paths(text: &str) -> String {
    let short = |word: &str| match word.rsplit_once('/') {
        Some((_, name)) if word.starts_with('/') && !name.is_empty() => format!(".../{name}"),
        _ => word.to_owned(),
    };
    text.split(' ').map(short).collect::<Vec<_>>().join(" ")
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(3)).collect();
    kept.trim_end().to_owned() + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_reason_keeps_its_last_name() {
        assert_eq!(shorten_paths("its /v/bin/python is gone"), "its .../python is gone");
        assert_eq!(shorten_paths("and/or / /a/"), "and/or / /a/");
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        assert_eq!(shorten("häßlich", 7), "häßlich");
        assert_eq!(shorten("häßlich", 4), "h...");
        assert_eq!(shorten("", 0), "");
    }
}
