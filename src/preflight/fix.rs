//! `preflight fix` and `preflight undo`.

use std::io;

use serde_json::json;

use crate::cli::args::{CheckArgs, Common, FixArgs, Format};
use crate::error::{Abort, Error};
use crate::model::finding::{FIND_LOST, LOSES_TAGS};
use crate::outcome::Outcome;
use crate::preflight::context::{identify, repair_options, with_request};
use crate::repair::change::{self, Change};
use crate::repair::history::moment;
use crate::repair::prove::not_ready;
use crate::repair::undo::{Kept, Undoable, Undone, list_kept, undo};
use crate::repair::{self, RepairOutcome, Repaired};
use crate::report::{self, Report};
use crate::system::terminal::fold_for;
use crate::text::printable::{count, escape, escape_line, lossy, name_of};

/// Repairs the environment, or proves that it can be repaired.
pub fn run(fix: &FixArgs, common: &Common) -> Result<Outcome, Abort> {
    with_request(&CheckArgs::default(), common, |request| {
        let target = identify(request, not_ready)?;
        let options = repair_options(fix, request.settings, common);
        let command = options.command() + &format_flags(fix);
        let repaired = repair::fix(request, &target, options)?;
        if let (RepairOutcome::Proven(repaired), true) = (&repaired, fix.print_requirements)
            && repaired.changes.iter().all(|change| !change.edits.is_empty())
        {
            let message = "source edits cannot be expressed as requirements".into();
            return Err(Error::repair(message, "Run it with --dry-run instead.").into());
        }
        let stdout = match (&repaired, common.format) {
            (RepairOutcome::Proven(repaired), _) if fix.print_requirements => {
                escape(&change::requirements_file(&repaired.changes)).into_owned()
            }
            _ if common.quiet => String::new(),
            (_, Format::Json) => report::format_json(&to_json(&repaired, fix.isolated)),
            _ => fold_for(io::stdout(), &describe_repair(&repaired, &command), "").into_owned(),
        };
        Ok(Outcome::success(stdout))
    })
}

/// The flags of this call that change the repair. The command that a dry run suggests has the same flags.
fn format_flags(fix: &FixArgs) -> String {
    let strategy = fix.strategy.map(|strategy| format!(" --strategy {}", name_of(strategy)));
    let installer = fix.installer.map(|installer| format!(" --installer {}", name_of(installer)));
    let isolated = fix.isolated.then(|| " --isolated".to_owned());
    [strategy, installer, isolated].into_iter().flatten().collect()
}

fn to_json(repaired: &RepairOutcome, isolated: bool) -> serde_json::Value {
    let nothing = Repaired { changes: Vec::new(), left: Vec::new() };
    let (status, repaired) = match repaired {
        RepairOutcome::NothingToDo(left) => {
            return as_json(&[], "ready", false, left);
        }
        RepairOutcome::Damaged(_) => ("planned", &nothing),
        RepairOutcome::Recompiled(_) => ("repaired", &nothing),
        RepairOutcome::Proven(repaired) => ("planned", repaired),
        RepairOutcome::InPlace(repaired) | RepairOutcome::Isolated(repaired) => ("repaired", repaired),
    };
    as_json(&repaired.changes, status, isolated && !repaired.changes.is_empty(), &repaired.left)
}

/// The result of a repair or of an undo under `--format json`.
fn as_json(changes: &[Change], status: &str, isolated: bool, left: &[String]) -> serde_json::Value {
    json!({"schemaVersion": 1, "status": status, "isolated": isolated, "changes": changes, "left": left})
}

/// The result of a repair as text for people.
pub fn describe_repair(outcome: &RepairOutcome, command: &str) -> String {
    let (head, repaired, is_done) = match outcome {
        RepairOutcome::NothingToDo(left) if left.is_empty() => {
            return "ready: there is nothing to repair\n".into();
        }
        RepairOutcome::NothingToDo(left) => return format!("nothing was repaired; {}", describe_left(left)),
        RepairOutcome::Damaged(file) => {
            let file = escape_line(&lossy(file));
            return format!(
                "`pcluster preflight {command}` would remove damaged bytecode, which Python compiles again:\n  {file}\n"
            );
        }
        RepairOutcome::Recompiled(_) => return "repaired: the environment is ready\n".into(),
        RepairOutcome::Proven(repaired) => (
            format!("the repair works; `pcluster preflight {command}` would make these changes"),
            repaired,
            false,
        ),
        RepairOutcome::InPlace(repaired) => ("repaired".into(), repaired, true),
        RepairOutcome::Isolated(repaired) => {
            ("repaired for build-image only, outside the environment".into(), repaired, true)
        }
    };
    let changes = &repaired.changes;
    let mut text = format!("{head}: {}\n{}", count_changes(changes), format_changes(changes));
    text += &describe_left(&repaired.left);
    if is_done {
        text += "To revert, run `pcluster preflight undo`.\n";
        if changes.iter().any(|change| change.why == LOSES_TAGS) {
            text += FIND_LOST;
            text.push('\n');
        }
    }
    text
}

/// For example `1 warning remains: ...`.
fn describe_left(left: &[String]) -> String {
    if left.is_empty() {
        return String::new();
    }
    let lines = left.iter().map(|warning| escape_line(warning)).collect::<Vec<_>>().join("; ");
    let remain = if left.len() == 1 { "warning remains" } else { "warnings remain" };
    format!("{} {remain}: {lines}\n", left.len())
}

/// For example `17 packages, 2 lines`.
fn count_changes(changes: &[Change]) -> String {
    let packages = changes.iter().filter(|change| change.edits.is_empty()).count();
    let counts = [(packages, "package"), (count_edits(changes), "line")].into_iter();
    let counts = counts.filter(|(number, _)| *number > 0).map(|(number, what)| count(number, what));
    counts.collect::<Vec<_>>().join(", ")
}

fn count_edits(changes: &[Change]) -> usize {
    changes.iter().map(|change| change.edits.len()).sum()
}

fn format_changes(changes: &[Change]) -> String {
    let rows = change::summary(changes);
    // In the rows of edited lines, the reason is empty, and the first column contains a path. A path is
    // longer than the name of a package, so the first column of these rows has a width of its own.
    let is_edit = |why: &str| why.is_empty();
    let widest = |edits: bool| {
        let rows = rows.iter().filter(|(_, _, why)| is_edit(why) == edits);
        rows.map(|(name, ..)| name.len()).max().unwrap_or_default()
    };
    let (of_packages, of_edits) = (widest(false).max(18), widest(true));
    rows.iter().fold(String::new(), |text, (name, step, why)| {
        let width = if is_edit(why) { of_edits } else { of_packages };
        let row = format!("  {name:<width$} {step:<20} {why}");
        text + &escape(row.trim_end()) + "\n"
    })
}

/// Undoes the last repair, or lists the repairs that can be undone.
pub fn run_undo(list: bool, common: &Common) -> Result<Outcome, Abort> {
    with_request(&CheckArgs::default(), common, |request| {
        let target = identify(request, |report: &Report| {
            let next = "With --real, pass the pcluster that was repaired.";
            Error::undo(&report.reasons().join("; "), next)
        })?;
        if list {
            return Ok(Outcome::success(show_kept(&list_kept(&target)?, common)));
        }
        let Undone { changes, isolated } = undo(request, &target)?;
        let stdout = match common.format {
            _ if common.quiet => String::new(),
            Format::Json => report::format_json(&as_json(&changes, "undone", isolated, &[])),
            _ if isolated => "undone: the repair outside the environment was removed\n".into(),
            _ => format!("undone: {} restored\n", count_changes(&changes)),
        };
        Ok(Outcome::success(stdout))
    })
}

fn show_kept(Kept { undoable, others }: &Kept, common: &Common) -> String {
    if common.format == Format::Json {
        let repairs: Vec<_> = undoable.iter().map(describe_in_json).collect();
        return report::format_json(&json!({"schemaVersion": 1, "repairs": repairs, "others": others}));
    }
    let others = others.as_ref().map_or_else(String::new, |directory| {
        let directory = directory.display().to_string();
        format!("Repairs of an earlier environment at this path are kept in {}.\n", escape(&directory))
    });
    if undoable.is_empty() {
        return format!("there is no repair to undo\n{others}");
    }
    let text = undoable.iter().fold(String::new(), |text, Undoable { entry, changes }| {
        let moment = moment(entry).map_or("at an unknown time".into(), |moment| {
            moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
        });
        let place = if entry.is_isolated { ", outside the environment" } else { "" };
        text + &format!("{moment}{place}: {}\n{}", count_changes(changes), format_changes(changes))
    });
    text + &others
        + "To undo the newest repair, which is the first in this list, run `pcluster preflight undo`.\n"
}

fn describe_in_json(Undoable { entry, changes }: &Undoable) -> serde_json::Value {
    let moment = moment(entry).map(|moment| moment.to_string());
    json!({"repairedAt": moment, "isolated": entry.is_isolated, "changes": changes})
}
