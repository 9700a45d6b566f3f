//! Edits of aws-parallelcluster's own files, by release. The edits let builds succeed. Pure.

use pep440_rs::VersionSpecifiers;
use serde::Deserialize;

use crate::model::fields::{read_identifier, read_specifiers, read_text};
use crate::rules::advisories::contains;
use crate::text::yaml;

const BUILT_IN: &str = include_str!("edits.yaml");

/// One text that is replaced in one file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEdit {
    /// Edits that have to be made together have the same id.
    #[serde(deserialize_with = "read_identifier")]
    pub id: String,
    /// The releases of aws-parallelcluster whose file contains `before`.
    #[serde(deserialize_with = "read_specifiers")]
    pub pcluster: VersionSpecifiers,
    /// The path of the file, as in RECORD.
    #[serde(deserialize_with = "read_text")]
    pub file: String,
    pub before: String,
    pub after: String,
}

fn built_in() -> Vec<SourceEdit> {
    // If edits.yaml could not be read, the tests below would fail.
    yaml::parse(BUILT_IN).unwrap_or_default()
}

/// The edits for a release of aws-parallelcluster.
pub fn select(release: &str) -> Vec<SourceEdit> {
    built_in().into_iter().filter(|edit| contains(&edit.pcluster, release)).collect()
}

/// Whether any edit has this id.
pub fn is_known(id: &str) -> bool {
    built_in().iter().any(|edit| edit.id == id)
}

impl SourceEdit {
    /// Replaces `before` in the text of a file. Returns the new text and the number of the changed line,
    /// counted from 1; `None` if `before` does not occur exactly once.
    pub fn apply(&self, text: &str) -> Option<(String, usize)> {
        let (head, tail) = text.split_once(&self.before)?;
        let line = head.matches('\n').count() + 1;
        (!tail.contains(&self.before)).then(|| (format!("{head}{}{tail}", self.after), line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(release: &str) -> Vec<String> {
        select(release).into_iter().map(|edit| edit.id).collect()
    }

    #[test]
    fn each_release_has_its_own() {
        assert_eq!(ids("3.1.3"), ["lambda-runtime", "lambda-runtime"]);
        assert_eq!(ids("3.9.3"), ["lambda-runtime", "lambda-runtime", "minitar-1.0"]);
        assert_eq!(ids("3.13.2"), ["lambda-runtime", "lambda-runtime"]);
        assert!(ids("3.14.0").is_empty() && ids("not a version").is_empty());
        assert!(select("3.2.1").iter().all(|edit| edit.before.contains("python3.8")));
        assert!(select("3.3.0").iter().all(|edit| edit.before.contains("python3.9")));
    }

    #[test]
    fn a_text_is_replaced_only_if_it_is_there_exactly_once() {
        let edit = &select("3.9.3")[0];
        let code = "f(\n    runtime=\"python3.9\",\n)\n";
        assert_eq!(edit.apply(code), Some(("f(\n    runtime=\"python3.12\",\n)\n".into(), 2)));
        for other in ["", "runtime = \"python3.9\"", "runtime=\"python3.90\"", &code.repeat(2)] {
            assert_eq!(edit.apply(other), None, "{other}");
        }
    }
}
