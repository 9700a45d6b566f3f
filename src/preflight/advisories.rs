//! `preflight advisories`.

use std::fmt::Write as _;

use serde_json::json;

use crate::cli::args::{Common, Format};
use crate::error::{Abort, Error};
use crate::outcome::Outcome;
use crate::preflight::context::{read_all_advisories, read_settings};
use crate::report;
use crate::rules::advisories::{Advisory, Subject};
use crate::text::printable::{escape_line, wrap};

/// Lists the advisories, or shows one.
pub fn run(id: Option<&str>, common: &Common) -> Result<Outcome, Abort> {
    let advisories = read_all_advisories(&read_settings()?)?;
    let shown: Vec<&Advisory> =
        advisories.iter().filter(|advisory| id.is_none_or(|id| advisory.id == id)).collect();
    if let (Some(id), true) = (id, shown.is_empty()) {
        let known = advisories.iter().map(|advisory| advisory.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::UnknownAdvisory { id: id.to_owned(), known }.into());
    }
    let stdout = match (common.format, id) {
        _ if common.quiet => String::new(),
        (Format::Json, _) => report::format_json(&json!({"schemaVersion": 1, "advisories": shown})),
        (_, None) => shown.iter().map(|advisory| format_title(advisory)).collect(),
        (_, Some(_)) => shown.iter().map(|advisory| format_advisory(advisory)).collect(),
    };
    Ok(Outcome::success(stdout))
}

/// Two lines of the list.
pub fn format_title(advisory: &Advisory) -> String {
    format!("{:<8} {}\n         {}\n", advisory.level.name(), advisory.id, escape_line(&advisory.title))
}

/// All of one advisory, for people.
pub fn format_advisory(advisory: &Advisory) -> String {
    let mut text = format_title(advisory);
    let mut row = |label: &str, content: String| {
        let lines = wrap(&content, 80 - 11);
        let _ = writeln!(text, "{label:<11}{}", lines.join("\n           "));
    };
    row("pcluster", advisory.pcluster.to_string());
    if let Some(python) = &advisory.python {
        row("python", python.to_string());
    }
    match &advisory.subject {
        Subject::Package { package, affected } => row("package", format!("{package} {affected}")),
        Subject::Runtime { runtime, refused_from } => {
            row("runtime", format!("{runtime}, refused by AWS from {refused_from} on"));
        }
    }
    row("effect", advisory.effect.clone());
    row("cost", advisory.cost.clone());
    row("fix", advisory.fix.to_string());
    if advisory.only_constraints {
        row("note", "affects installations only: `pcluster preflight constraints` excludes it".into());
    }
    for reference in &advisory.references {
        row("see", reference.clone());
    }
    text
}
