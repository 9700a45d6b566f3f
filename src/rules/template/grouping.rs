//! Findings with the same cause, merged into one with a count and the first paths. Pure.
//!
//! A template of 1 MB has room for some 300,000 incorrect distributions; with a finding for each, the
//! report would be a hundred times as large as the template.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::model::finding::{Finding, Fix, Kind, Level};
use crate::text::printable::{count, is_unsafe};

/// The maximum number of paths in the evidence of one finding.
const MAX_PATHS: usize = 5;
/// The maximum number of findings with the same id, one for each subject (such as a tag). All other subjects
/// share one more finding. The maximum is higher than 50, the number of tags that an AMI can have.
const MAX_SUBJECTS: usize = 60;
/// The maximum number of characters of a text in a message, or of a name in a path.
const MAX_SHOWN: usize = 200;
/// The maximum number of characters of a value in the evidence.
const MAX_EVIDENCE: usize = 500;

/// What a finding takes from the first occurrence of its cause.
pub(super) struct Detail<'a> {
    /// The predicate of a sentence whose subject is "the template", without the full stop.
    pub(super) message: String,
    pub(super) found: Option<&'a Value>,
    /// The value that was expected; `None` if the path alone shows what is wrong.
    pub(super) expected: Option<String>,
}

/// One cause, its first occurrence, and the number of occurrences.
struct Group {
    id: &'static str,
    message: String,
    found: Value,
    expected: Option<String>,
    count: usize,
    paths: Vec<String>,
}

/// Occurrences, grouped by their cause. A cause is an id and a subject, such as the key of a tag.
#[derive(Default)]
pub(super) struct Grouping<'a> {
    groups: Vec<Group>,
    by_cause: HashMap<(&'static str, Option<&'a str>), usize>,
    subjects: HashMap<&'static str, usize>,
}

impl<'a> Grouping<'a> {
    /// Adds an occurrence; its path and its detail are computed only if they are reported.
    pub(super) fn add<'d>(
        &mut self,
        id: &'static str,
        subject: &'a str,
        path: impl FnOnce() -> String,
        detail: impl FnOnce() -> Detail<'d>,
    ) {
        let mut cause = (id, Some(subject));
        // After MAX_SUBJECTS, all other subjects of an id form one group.
        if !self.by_cause.contains_key(&cause) && self.subjects.get(id) >= Some(&MAX_SUBJECTS) {
            cause.1 = None;
        }
        if let Some(index) = self.by_cause.get(&cause) {
            let group = &mut self.groups[*index];
            group.count += 1;
            if group.paths.len() < MAX_PATHS {
                group.paths.push(path());
            }
            return;
        }
        *self.subjects.entry(id).or_default() += 1;
        self.by_cause.insert(cause, self.groups.len());
        let Detail { message, found, expected } = detail();
        let found = found.map_or(Value::Null, limit);
        self.groups.push(Group { id, message, found, expected, count: 1, paths: vec![path()] });
    }

    pub(super) fn into_findings(self, cost: &str, fix: &Fix) -> Vec<Finding> {
        self.groups.into_iter().map(|group| group.into_finding(cost, fix)).collect()
    }
}

impl Group {
    fn into_finding(self, cost: &str, fix: &Fix) -> Finding {
        let mut evidence = json!({"path": self.paths[0], "found": self.found});
        if let Some(expected) = self.expected {
            evidence["expected"] = json!(shorten(&expected, MAX_EVIDENCE));
        }
        let others = match self.count {
            1 => String::new(),
            number => format!(" (here and in {})", count(number - 1, "more place")),
        };
        if self.count > 1 {
            evidence["count"] = json!(self.count);
            evidence["paths"] = json!(self.paths);
        }
        let message = format!("the template {}{others}", self.message);
        Finding {
            cost: Some(cost.to_owned()),
            evidence,
            fix: Some(fix.clone()),
            ..Finding::new(self.id, Level::Error, Kind::ImageBuilderTemplate, message)
        }
    }
}

/// Shortens a long value of the evidence to the beginning of its JSON.
fn limit(value: &Value) -> Value {
    let text = value.to_string();
    if text.chars().count() <= MAX_EVIDENCE { value.clone() } else { json!(shorten(&text, MAX_EVIDENCE)) }
}

fn shorten(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Shortens and escapes a text for a message: one line, without characters that a terminal acts on. The
/// text is from the template or the configuration.
pub(super) fn escape(text: &str) -> String {
    shorten(text, MAX_SHOWN).chars().fold(String::new(), |mut shown, letter| {
        if letter.is_control() || is_unsafe(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
        shown
    })
}

/// Quotes a text, so that blanks at its ends are visible.
pub(super) fn quote(text: &str) -> String {
    format!("{:?}", shorten(text, MAX_SHOWN))
}

/// Formats a key as a step of a path: `.Name`, or `["…"]` if it is not a word.
pub(super) fn format_step(key: &str) -> String {
    let is_word = !key.is_empty() && key.chars().all(|letter| letter.is_ascii_alphanumeric());
    if is_word && key.len() <= MAX_SHOWN { format!(".{key}") } else { format!("[{}]", quote(key)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(occurrences: &[(&'static str, &str, &str)]) -> Vec<Finding> {
        let mut grouping = Grouping::default();
        for (id, subject, path) in occurrences {
            let detail = || Detail { message: format!("lacks {subject}"), found: None, expected: None };
            grouping.add(id, subject, || (*path).to_owned(), detail);
        }
        grouping.into_findings("cost", &Fix::by_hand("fix".into()))
    }

    #[test]
    fn a_name_in_a_message_is_one_line_and_has_no_direction() {
        assert_eq!(escape("a\n\u{9b}\u{202e}b\u{2028}ä"), r"a\n\u{9b}\u{202e}b\u{2028}ä");
    }

    #[test]
    fn one_cause_is_one_finding_with_a_count_and_the_first_paths() {
        let occurrences: Vec<_> =
            (0..9).map(|index| ("i", "tag", ["a", "b", "c", "d", "e", "f"][index.min(5)])).collect();
        let findings = grouped(&occurrences);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].message, "the template lacks tag (here and in 8 more places)");
        let paths = ["a", "b", "c", "d", "e"];
        assert_eq!(findings[0].evidence, json!({"path": "a", "found": null, "count": 9, "paths": paths}));
    }

    #[test]
    fn what_occurs_once_has_no_count_and_causes_keep_their_order() {
        let findings = grouped(&[("i", "x", "a"), ("j", "x", "b"), ("i", "y", "c")]);
        let found: Vec<_> = findings.iter().map(|finding| (finding.id.as_str(), &finding.evidence)).collect();
        let evidence = |path: &str| json!({"path": path, "found": null});
        assert_eq!(found, [("i", &evidence("a")), ("j", &evidence("b")), ("i", &evidence("c"))]);
    }

    #[test]
    fn subjects_without_end_are_counted_together() {
        let subjects: Vec<String> = (0..1000).map(|index| format!("s{index}")).collect();
        let occurrences: Vec<_> = subjects.iter().map(|subject| ("i", subject.as_str(), "a")).collect();
        let findings = grouped(&occurrences);
        assert_eq!(findings.len(), MAX_SUBJECTS + 1);
        let rest = &findings[MAX_SUBJECTS];
        assert_eq!(rest.message, "the template lacks s60 (here and in 939 more places)");
        assert_eq!(rest.evidence["count"], 940);
    }

    #[test]
    fn texts_are_bounded_and_hold_no_control() {
        assert_eq!(escape("a\u{1b}[31m\u{9b}é"), "a\\u{1b}[31m\\u{9b}é");
        assert_eq!(escape(&"x".repeat(1000)).chars().count(), MAX_SHOWN + 3);
        assert_eq!(format_step("Name"), ".Name");
        assert_eq!(format_step("a\u{7}"), "[\"a\\u{7}\"]");
        assert!(format_step(&"x".repeat(1000)).len() < MAX_SHOWN + 10);
        let long = json!(["x".repeat(1000)]);
        assert_eq!(limit(&json!({"a": 1})), json!({"a": 1}));
        assert!(limit(&long).as_str().is_some_and(|text| text.chars().count() == MAX_EVIDENCE + 3));
    }
}
