//! Reports as `JUnit` XML: a suite for each environment, a case for each check. Pure.

use crate::model::finding::Finding;
use crate::report::human::{Paint, format_findings};
use crate::report::{Check, Report, Status};
use crate::text::printable::{escape, flatten};

/// Renders the reports. All text that is meant for people is in the body of an element, because GitLab does
/// not show the attribute `message`.
pub fn render(reports: &[Report]) -> String {
    format_suites(&reports.iter().map(format_suite).collect::<String>())
}

/// Renders an error that prevented a report.
pub fn render_error(message: &str, hint: &str) -> String {
    let case = format_case(
        "pcluster preflight",
        "preflight",
        0,
        &format_element("error", message, &format!("{message}\n{hint}")),
    );
    format_suites(&format!("{}{case}  </testsuite>\n", open_suite("pcluster preflight", 1, [0, 1, 0], 0)))
}

fn format_suites(suites: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n{suites}</testsuites>\n")
}

fn format_suite(report: &Report) -> String {
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let counts = [Status::Failed, Status::Unknown, Status::Skipped].map(count);
    let took = report.checks.iter().map(|check| check.duration_ms).sum();
    let subject = report.subject();
    let cases = report.checks_with_findings().map(|(check, findings)| {
        format_case(&subject, check.id, check.duration_ms, &format_result(check, findings))
    });
    let opened = open_suite(&subject, report.checks.len(), counts, took);
    format!("{opened}{}  </testsuite>\n", cases.collect::<String>())
}

/// `counts` contains the numbers of failures, errors and skipped cases.
fn open_suite(name: &str, tests: usize, counts: [usize; 3], milliseconds: u64) -> String {
    let (name, [failures, errors, skipped]) = (format_text(&flatten(name)), counts);
    format!(
        "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" \
         skipped=\"{skipped}\" time=\"{}\">\n",
        format_seconds(milliseconds)
    )
}

fn format_case(class: &str, name: &str, milliseconds: u64, result: &str) -> String {
    let (class, time) = (format_text(&flatten(class)), format_seconds(milliseconds));
    format!("    <testcase classname=\"{class}\" name=\"{name}\" time=\"{time}\">{result}</testcase>\n")
}

fn format_result(check: &Check, findings: &[Finding]) -> String {
    let text = format_findings(findings, &Paint { is_colored: false, width: 80 });
    let reason = check.reason.as_deref().unwrap_or_default();
    match check.status {
        Status::Failed => {
            let first = findings.iter().find(|finding| !finding.is_ignored);
            let first = first.map_or(reason, |finding| &finding.message);
            format_element("failure", first, text.trim_start())
        }
        Status::Unknown => format_element("error", reason, reason),
        Status::Skipped => format_element("skipped", reason, reason),
        Status::Passed if text.is_empty() => String::new(),
        Status::Passed => format!("<system-out>{}</system-out>", format_text(text.trim_start())),
    }
}

fn format_element(name: &str, message: &str, body: &str) -> String {
    let (message, body) = (format_text(&flatten(message)), format_text(body));
    format!("<{name} message=\"{message}\">{body}</{name}>")
}

fn format_seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// Formats text for an element or an attribute in XML 1.0. Control characters are escaped first, because XML
/// cannot represent them.
fn format_text(text: &str) -> String {
    let mut formatted = String::with_capacity(text.len());
    for letter in escape(text).chars() {
        match letter {
            '&' => formatted += "&amp;",
            '<' => formatted += "&lt;",
            '>' => formatted += "&gt;",
            '"' => formatted += "&quot;",
            '\u{fffe}' | '\u{ffff}' => formatted.push('\u{fffd}'),
            _ => formatted.push(letter),
        }
    }
    formatted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let marks = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")];
        marks.iter().fold(text.to_owned(), |text, (mark, letter)| text.replace(mark, letter))
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_text_of_xml(text in proptest::collection::vec(proptest::char::any(), 0..50)) {
            let text = String::from_iter(text).replace(['\u{fffe}', '\u{ffff}'], "");
            let formatted = format_text(&text);
            let is_legal = |letter: char| letter >= ' ' || matches!(letter, '\n' | '\t');
            proptest::prop_assert!(formatted.chars().all(is_legal) && !formatted.contains(['<', '>', '"']));
            proptest::prop_assert_eq!(read(&formatted), escape(&text).into_owned());
        }
    }
}
