//! `preflight fix` and `preflight undo`.

use crate::cli::args::{CheckArgs, Common, FixArgs, Format};
use crate::error::{Abort, Error, RepairStep};
use crate::model::finding::{FIND_LOST, LOSES_TAGS};
use crate::outcome::Outcome;
use crate::preflight::context::{identify, repair_options, with_request};
use crate::repair::change::{self, Change, count_packages, describe_restored};
use crate::repair::prove::not_ready;
use crate::repair::undo::{Undone, undo};
use crate::repair::{self, RepairOutcome, as_json};
use crate::report::{self, Report};
use crate::text::printable::{escape, escape_line, lossy};

/// Repairs the environment, or proves that it could be.
pub fn run(fix: &FixArgs, common: &Common) -> Result<Outcome, Abort> {
    with_request(&CheckArgs::default(), common, |request| {
        let target = identify(request, not_ready)?;
        let options = repair_options(fix, request.settings, common);
        let command = format!("{}{}", options.command(), if fix.isolated { " --isolated" } else { "" });
        let repaired = repair::fix(request, &target, options)?;
        if let (RepairOutcome::Proven(changes), true) = (&repaired, fix.print_requirements)
            && count_edits(changes) > 0
        {
            let message = "no requirement stands for lines that change".into();
            return Err(Error::repair(RepairStep::Plan, message, "Run it with --dry-run instead.").into());
        }
        let stdout = match (&repaired, common.format) {
            (RepairOutcome::Proven(changes), _) if fix.print_requirements => {
                escape(&change::requirements_file(changes)).into_owned()
            }
            _ if common.quiet => String::new(),
            (RepairOutcome::NothingToDo, Format::Json) => report::format_json(&as_json(&[], "ready", false)),
            (RepairOutcome::Damaged(_), Format::Json) => report::format_json(&as_json(&[], "planned", false)),
            (RepairOutcome::Recompiled(_), Format::Json) => {
                report::format_json(&as_json(&[], "repaired", false))
            }
            (RepairOutcome::Proven(changes), Format::Json) => {
                report::format_json(&as_json(changes, "planned", fix.isolated))
            }
            (RepairOutcome::Repaired { changes, isolated }, Format::Json) => {
                report::format_json(&as_json(changes, "repaired", *isolated))
            }
            _ => describe_repair(&repaired, &command),
        };
        Ok(Outcome::success(stdout))
    })
}

/// The result of a repair for people.
pub fn describe_repair(repaired: &RepairOutcome, command: &str) -> String {
    match repaired {
        RepairOutcome::NothingToDo => "ready: there is nothing to repair\n".into(),
        RepairOutcome::Damaged(file) => {
            let file = escape_line(&lossy(file));
            format!(
                "`pcluster preflight {command}` would remove damaged bytecode, which Python compiles again:\n  {file}\n"
            )
        }
        RepairOutcome::Recompiled(_) => "repaired: the environment is ready\n".into(),
        RepairOutcome::Proven(changes) => {
            let count = match count_edits(changes) {
                0 => format!("move {}", count_packages(changes.len())),
                edits => format!("change {}", count_lines(edits)),
            };
            format!("proven; `pcluster preflight {command}` would {count}:\n{}", format_changes(changes))
        }
        RepairOutcome::Repaired { changes, isolated } => {
            let place = if *isolated { ", beside the environment, for build-image" } else { "" };
            let undo = "To revert, run `pcluster preflight undo`.\n";
            let count = match count_edits(changes) {
                0 => format!("{} moved", count_packages(changes.len())),
                edits => format!("{} changed", count_lines(edits)),
            };
            let has_lost = changes.iter().any(|change| change.why == LOSES_TAGS);
            let lost = if has_lost { format!("{FIND_LOST}\n") } else { String::new() };
            format!("repaired{place}: {count}\n{}{undo}{lost}", format_changes(changes))
        }
    }
}

fn count_edits(changes: &[Change]) -> usize {
    changes.iter().map(|change| change.edits.len()).sum()
}

fn count_lines(count: usize) -> String {
    format!("{count} line{}", if count == 1 { "" } else { "s" })
}

fn format_changes(changes: &[Change]) -> String {
    let rows = change::summary(changes);
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or_default().max(18);
    rows.into_iter().fold(String::new(), |text, (name, step, why)| {
        let row = format!("  {name:<width$} {step:<20} {why}");
        text + &escape(row.trim_end()) + "\n"
    })
}

/// Takes the last repair back.
pub fn run_undo(common: &Common) -> Result<Outcome, Abort> {
    with_request(&CheckArgs::default(), common, |request| {
        let target = identify(request, |report: &Report| {
            let next = "Name the pcluster that was repaired with --real.";
            Error::repair(RepairStep::Undo, report.reasons().join("; "), next)
        })?;
        let Undone { changes, isolated } = undo(request, &target)?;
        let stdout = match common.format {
            _ if common.quiet => String::new(),
            Format::Json => report::format_json(&as_json(&changes, "undone", isolated)),
            _ if isolated => "undone: the repair beside the environment is removed\n".into(),
            _ => match count_edits(&changes) {
                0 => format!("undone: {}\n", describe_restored(changes.len())),
                edits => format!("undone: {} as before\n", count_lines(edits)),
            },
        };
        Ok(Outcome::success(stdout))
    })
}
