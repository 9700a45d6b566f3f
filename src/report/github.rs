//! Reports as workflow commands of GitHub Actions, which annotate a run. Pure.
//!
//! Source: GitHub Docs, "Workflow commands for GitHub Actions"; the escapes are those of `@actions/core`.

use crate::model::finding::{Finding, Level};
use crate::report::human::{describe_hint, group_by_cause};
use crate::report::{Report, Status};
use crate::text::printable::{escape, name_of};

/// Renders an annotation for each cause and for each check that could not run, then a line with the verdict.
/// Findings with the same cause share one annotation, because GitHub shows only ten annotations of each level
/// in a step.
pub fn render(reports: &[Report]) -> String {
    reports.iter().map(render_one).collect()
}

/// Breaks up the older form of a workflow command, `##[command]`. GitHub's runner detects this form anywhere
/// in a line, unless the line is a `::` command (actions/runner, `ActionCommand.TryParse`).
pub fn without_commands(text: &str) -> String {
    text.replace("##[", "# #[")
}

/// Renders an error that prevented a report.
pub fn render_error(message: &str, hint: &str) -> String {
    annotate("error", "pcluster preflight", &format!("{message}\n{hint}"))
}

fn render_one(report: &Report) -> String {
    let subject = report.subject();
    // The last line of each annotation names the environment: if a job checks several environments, no
    // other part of an annotation shows which of them it is about.
    let of = report.target.as_ref().map(|_| format!("pcluster: {subject}"));
    let groups = group_by_cause(&report.findings).filter(|group| !group[0].is_ignored);
    let mut text: String = groups.map(|group| annotate_group(group, of.clone())).collect();
    for check in report.checks.iter().filter(|check| check.status == Status::Unknown) {
        let reason = check.reason.as_deref().unwrap_or("no reason known");
        let lines = [format!("not checked: {reason}")].into_iter().chain(of.clone());
        text += &annotate("error", check.id, &lines.collect::<Vec<_>>().join("\n"));
    }
    text + &name_of(report.verdict) + " " + &without_commands(&escape_data(&subject)) + "\n"
}

fn annotate_group(group: &[Finding], of: Option<String>) -> String {
    let first = &group[0];
    let command = match first.level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Info => "notice",
    };
    let messages = group.iter().map(|finding| match group.len() {
        1 => finding.describe_with_path(),
        _ => finding.message.clone(),
    });
    let fix = first.fix.as_ref().map(|_| format!("Fix: {}", describe_hint(first)));
    let lines = messages.chain(first.cost.clone()).chain(fix).chain(of);
    annotate(command, &first.id, &lines.collect::<Vec<_>>().join("\n"))
}

fn annotate(command: &str, title: &str, message: &str) -> String {
    let title = escape_data(title).replace(':', "%3A").replace(',', "%2C");
    format!("::{command} title={title}::{}\n", escape_data(message))
}

fn escape_data(text: &str) -> String {
    escape(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an annotation as GitHub's runner does: command, title and message.
    fn read(line: &str) -> Option<(String, String, String)> {
        let (command, message) = line.strip_prefix("::")?.split_once("::")?;
        let (command, properties) = command.split_once(' ')?;
        let title = properties.split(',').find_map(|property| property.strip_prefix("title="))?;
        let data = |text: &str| text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%");
        let title = data(&title.replace("%3A", ":").replace("%2C", ","));
        Some((command.to_owned(), title, data(message)))
    }

    #[test]
    fn no_older_command_is_left() {
        assert_eq!(
            without_commands("a ###[stop-commands]x ##[add-mask]y"),
            "a ## #[stop-commands]x # #[add-mask]y"
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_annotated_is_read_back(title in ".*", message in "(.|\n|\r|%0A|::|,)*") {
            let text = annotate("error", &title, &message);
            proptest::prop_assert_eq!(text.lines().count(), 1);
            let read = read(text.trim_end_matches('\n'));
            let expected = ("error".to_owned(), escape(&title).into_owned(), escape(&message).into_owned());
            proptest::prop_assert_eq!(read, Some(expected));
        }
    }
}
