//! `preflight advisories`: lists advisories about packages, and about combinations of a
//! release and a parent image.

use serde_json::json;

use crate::cli::args::{Common, Format};
use crate::error::{Abort, Error};
use crate::model::finding::Level;
use crate::outcome::Outcome;
use crate::preflight::context::{read_all_advisories, read_settings};
use crate::report;
use crate::rules::advisories::combinations::{self, Combination};
use crate::rules::advisories::{Advisory, Subject};
use crate::system::terminal::width_of_stdout;
use crate::text::printable::{name_of, wrap_behind};

/// Lists the advisories, or shows one.
pub fn run(id: Option<&str>, common: &Common) -> Result<Outcome, Abort> {
    let advisories = read_all_advisories(&read_settings()?)?;
    let combinations = combinations::built_in();
    // If no advisory has exactly this id, every advisory whose id contains it is listed.
    let mut known =
        advisories.iter().map(|advisory| &advisory.id).chain(combinations.iter().map(|one| &one.id));
    let one = id.filter(|id| known.any(|own| own == id));
    let is_shown = |own: &str| one.map_or(id.is_none_or(|part| own.contains(part)), |one| own == one);
    let shown: Vec<&Advisory> = advisories.iter().filter(|advisory| is_shown(&advisory.id)).collect();
    let combined: Vec<&Combination> = combinations.iter().filter(|one| is_shown(&one.id)).collect();
    if let (Some(id), true) = (id, shown.is_empty() && combined.is_empty()) {
        return Err(Error::UnknownAdvisory { id: id.to_owned() }.into());
    }
    let width = width_of_stdout();
    let stdout = match (common.format, one) {
        _ if common.quiet => String::new(),
        (Format::Json, _) => {
            report::format_json(&json!({"schemaVersion": 1, "advisories": shown, "combinations": combined}))
        }
        (_, None) => {
            let titles = shown.iter().map(|advisory| format_title(advisory, width));
            titles
                .chain(combined.iter().map(|one| format_head(one.level, &one.id, &one.title, width)))
                .collect()
        }
        (_, Some(_)) => {
            let whole = shown.iter().map(|advisory| format_advisory(advisory, width));
            whole.chain(combined.iter().map(|one| format_combination(one, width))).collect()
        }
    };
    Ok(Outcome::success(stdout))
}

/// The level and the id of an advisory in one line, and its title below.
pub fn format_title(advisory: &Advisory, width: usize) -> String {
    format_head(advisory.level, &advisory.id, &advisory.title, width)
}

fn format_head(level: Level, id: &str, title: &str, width: usize) -> String {
    format!("{:<8} {id}\n{}", name_of(level), wrap_behind("         ", title, width))
}

/// Formats rows, each a label with its content.
fn format_rows(rows: impl IntoIterator<Item = (&'static str, String)>, width: usize) -> String {
    rows.into_iter().map(|(label, content)| wrap_behind(&format!("{label:<11}"), &content, width)).collect()
}

/// Everything about one combination, as text for people.
fn format_combination(one: &Combination, width: usize) -> String {
    let mut parent: Vec<String> = one.os.clone();
    parent.extend(one.os_version.as_ref().map(ToString::to_string));
    parent.extend(one.architecture.map(|architecture| architecture.name().to_owned()));
    if one.update_os_packages {
        parent.push("with UpdateOsPackages".into());
    }
    let rows = [
        ("pcluster", one.pcluster.to_string()),
        ("parent", parent.join(", ")),
        ("effect", one.effect.clone()),
        ("cost", one.cost.clone()),
        ("fix", one.fix.clone()),
    ];
    let references = one.references.iter().map(|reference| ("see", reference.clone()));
    format_head(one.level, &one.id, &one.title, width)
        + &format_rows(rows.into_iter().chain(references), width)
}

/// Everything about one advisory, as text for people.
pub fn format_advisory(advisory: &Advisory, width: usize) -> String {
    let mut rows = vec![("pcluster", advisory.pcluster.to_string())];
    rows.extend(advisory.python.as_ref().map(|python| ("python", python.to_string())));
    rows.push(match &advisory.subject {
        Subject::Package { package, affected } => ("package", format!("{package} {affected}")),
        Subject::Runtime { runtime, refused_from } => {
            ("runtime", format!("{runtime}, refused by AWS as of {refused_from}"))
        }
    });
    rows.push(("effect", advisory.effect.clone()));
    rows.push(("cost", advisory.cost.clone()));
    rows.push(("fix", advisory.fix.to_string()));
    if advisory.only_constraints {
        rows.push(("note", "affects installation only; `pcluster preflight constraints` excludes it".into()));
    }
    rows.extend(advisory.references.iter().map(|reference| ("see", reference.clone())));
    format_title(advisory, width) + &format_rows(rows, width)
}
