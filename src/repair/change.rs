//! The changes of a repair: how the staged packages differ from the installed ones, as data and as
//! text. Pure.

use serde::{Deserialize, Serialize};

use crate::model::distribution::Distribution;
use crate::repair::plan::Reason;
use crate::repair::requirement::{Installed, Requirement};
use crate::text::package_name::matches;
use crate::text::printable::count;

/// A package that changes: its version, or lines in its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub package: String,
    /// The installed version; `None` if the package was not installed.
    pub from: Option<String>,
    pub to: String,
    pub why: String,
    /// The lines that change in the package's files, if its version stays the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The path of the file, as in RECORD.
    pub file: String,
    /// The number of the line, counted from 1.
    pub line: usize,
    pub from: String,
    pub to: String,
}

/// Compares the staged packages with the installed ones. Returns each staged package that is new or has
/// another version, with the reason for the change.
pub fn compare(installed: &Installed, staged: &Installed, reasons: &[Reason]) -> Vec<Change> {
    staged
        .iter()
        .filter(|(name, distribution)| {
            installed.get(*name).is_none_or(|installed| installed.version != distribution.version)
        })
        .map(|(name, distribution)| Change {
            package: name.clone(),
            from: installed.get(name).map(|installed| installed.version.clone()),
            to: distribution.version.clone(),
            why: explain(name, staged, reasons),
            edits: Vec::new(),
        })
        .collect()
}

fn explain(name: &str, staged: &Installed, reasons: &[Reason]) -> String {
    if let Some(reason) = reasons.iter().find(|reason| matches(&reason.fix.packages, name)) {
        return reason.id.clone();
    }
    let requires = |distribution: &&Distribution| {
        distribution.requires.iter().any(|line| Requirement::read(line).name == name)
    };
    match staged.values().find(requires) {
        Some(distribution) => format!("required by {} {}", distribution.name, distribution.version),
        None => "required by another package".into(),
    }
}

/// `1 package was restored`, `2 packages were restored`.
pub fn describe_restored(number: usize) -> String {
    let are = if number == 1 { "was restored" } else { "were restored" };
    format!("{} {are}", count(number, "package"))
}

/// The text of a requirements file with the exact version of each package that changes, for a repair by hand.
/// Source edits appear as comments.
pub fn requirements_file(changes: &[Change]) -> String {
    let lines = changes.iter().flat_map(|change| match change.edits.as_slice() {
        [] => vec![format!("{}=={}", change.package, change.to)],
        edits => edits
            .iter()
            .map(|edit| {
                format!(
                    "# not a package: {}:{} has to be edited ({})",
                    edit.file,
                    edit.line,
                    describe_edit(edit)
                )
            })
            .collect(),
    });
    lines.fold(String::new(), |text, line| text + &line + "\n")
}

/// Describes an edit. If the edit only inserts text before the old text, the description is the inserted
/// text. Otherwise, the description is the first quoted value of the old line and of the new line. A line
/// without quotes is shown whole.
fn describe_edit(edit: &Edit) -> String {
    let value = |code: &str| code.split('"').nth(1).unwrap_or(code.trim()).to_owned();
    match edit.to.strip_suffix(edit.from.as_str()) {
        Some(inserted) => format!("+ {}", inserted.trim()),
        None => format!("{} -> {}", value(&edit.from), value(&edit.to)),
    }
}

/// What the names of the CDK packages begin with, as people write them.
const CDK: &str = "aws-cdk.";

/// Summarizes changes in rows of name, versions and reason. Each edited line has a row, and so has each
/// package whose version changes. CDK packages with the same old and the same new version share a row.
pub fn summary(changes: &[Change]) -> Vec<(String, String, &str)> {
    let mut rows: Vec<(String, usize, String, &str)> = Vec::new();
    for change in changes {
        for edit in &change.edits {
            rows.push((format!("{}:{}", edit.file, edit.line), 1, describe_edit(edit), ""));
        }
        if !change.edits.is_empty() {
            continue;
        }
        let name = change.package.replacen("aws-cdk-", CDK, 1);
        let step = format!("{} -> {}", change.from.as_deref().unwrap_or("(new)"), change.to);
        match rows.iter_mut().find(|row| row.2 == step && row.0.starts_with(CDK) && name.starts_with(CDK)) {
            Some(row) => row.1 += 1,
            None => rows.push((name, 1, step, &change.why)),
        }
    }
    let counted = |(name, count, step, why): (String, usize, String, _)| {
        (if count > 1 { format!("{CDK}* ({count})") } else { name }, step, why)
    };
    rows.into_iter().map(counted).collect()
}

/// Summarizes changes in one line: `aws-cdk.* (2) 1.153.0 -> 1.204.0, jsii 1.85.0 -> 1.132.0`.
pub fn list_moves(changes: &[Change]) -> String {
    let moves = summary(changes).into_iter().map(|(name, step, _)| format!("{name} {step}"));
    moves.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::advisories::file::built_in;
    use crate::text::package_name::normalised;

    fn packages(distributions: &[(&str, &str, &[&str])]) -> Installed {
        let distribution = |(name, version, requires): &(&str, &str, &[&str])| Distribution {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            metadata: "/x".into(),
            requires: requires.iter().map(|line| (*line).to_owned()).collect(),
        };
        distributions.iter().map(|written| (normalised(written.0), distribution(written))).collect()
    }

    #[test]
    fn a_source_edit_is_a_comment_among_requirements() {
        let change = |package: &str, edits| Change {
            package: package.into(),
            from: None,
            to: "1".into(),
            why: String::new(),
            edits,
        };
        let edit = Edit { file: "a.py".into(), line: 2, from: "r=\"x\"".into(), to: "r=\"y\"".into() };
        let text =
            requirements_file(&[change("jsii", Vec::new()), change("aws-parallelcluster", vec![edit])]);
        assert_eq!(text, "jsii==1\n# not a package: a.py:2 has to be edited (x -> y)\n");
    }

    #[test]
    fn changes_say_why() {
        let installed = packages(&[
            ("aws-cdk.core", "1.153.0", &[]),
            ("aws-cdk.assets", "1.153.0", &[]),
            ("jsii", "1.57.0", &[]),
            ("attrs", "21.4.0", &[]),
        ]);
        let staged = packages(&[
            ("aws-cdk.core", "1.204.0", &["jsii<2.0.0,>=1.84.0"]),
            ("aws-cdk.assets", "1.204.0", &[]),
            ("jsii", "1.132.0", &[]),
            ("attrs", "21.4.0", &[]),
            ("importlib-resources", "6.0", &[]),
        ]);
        let advisory = &built_in()[0];
        let fix = advisory.fix.package_move().unwrap().clone();
        let changes = compare(&installed, &staged, &[Reason { id: advisory.id.clone(), fix }]);
        let rows: Vec<_> =
            changes.iter().map(|change| (change.package.as_str(), change.why.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("aws-cdk-assets", "cdk-imagebuilder-1.153.0"),
                ("aws-cdk-core", "cdk-imagebuilder-1.153.0"),
                ("importlib-resources", "required by another package"),
                ("jsii", "required by aws-cdk.core 1.204.0"),
            ]
        );
        assert_eq!(
            summary(&changes)[0],
            ("aws-cdk.* (2)".into(), "1.153.0 -> 1.204.0".into(), "cdk-imagebuilder-1.153.0")
        );
        assert!(requirements_file(&changes).contains("jsii==1.132.0\n"));
    }
}
