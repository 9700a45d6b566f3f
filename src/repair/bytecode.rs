//! Compiles bytecode for staged packages, and removes damaged bytecode files.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checker;
use crate::checker::request::CheckRequest;
use crate::environment::record::{is_bytecode, prefix_of};
use crate::environment::target::Target;
use crate::error::{Abort, Error};
use crate::repair::context::Options;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::plan;
use crate::repair::refusals::refuse_another_users;
use crate::repair::state::find_site;
use crate::report::Report;
use crate::system::child::{Child, ChildError, MAX_OUTPUT, framed, sentinel};
use crate::system::scratch::Scratch;
use crate::text::printable::lossy;

const COMPILE_PY: &str = include_str!("compile.py");

/// Compiles files and directories in the given order, if the environment contains bytecode. We use neither
/// uv's `--compile-bytecode`, which fails if a sitecustomize prints anything, nor pip, which leaves an
/// incomplete file if the disk is full.
///
/// Failures other than a full disk are ignored: without bytecode, packages only start more slowly.
pub fn compile(target: &Target, sources: &[PathBuf], limit: Duration) -> Result<(), Abort> {
    if !target.has_bytecode() {
        return Ok(());
    }
    let scratch = Scratch::new().map_err(|error| describe_full("create a temporary directory", &error))?;
    let script = scratch.write("compile.py", COMPILE_PY);
    let script = script.map_err(|error| describe_full("write compile.py", &error))?;
    let sentinel = sentinel();
    // The flags include `-B`. Without it, Python would write bytecode into the environment when the script
    // imports modules.
    let mut arguments = target.interpreter.run_flags();
    arguments.extend([script.into_os_string(), OsString::from(&sentinel)]);
    arguments.extend(sources.iter().map(OsString::from));
    let program = &target.interpreter.executable;
    let environment = target.environment.clone();
    let finished = Child { program, arguments, environment, limit, max_output: MAX_OUTPUT }.run(&scratch);
    match finished.and_then(|finished| framed(&finished, &sentinel, program)) {
        Ok(answer) => match answer["full"].as_str() {
            Some(error) => Err(describe_full("write bytecode", &error).into()),
            None => Ok(()),
        },
        Err(ChildError::Interrupted(signal)) => Err(Abort::Interrupted(signal)),
        Err(_) => Ok(()),
    }
}

/// The maximum number of damaged files to remove. Each check reports only one of them, and a full disk
/// damages only a few.
const MAX_DAMAGED: usize = 50;

/// Checks the target. If a finding to repair is about a damaged bytecode file, removes the file and checks
/// again. Returns the last report and the removed files. Undo does not restore these files, because Python
/// compiles them again.
pub fn check_and_remove_damaged(
    request: &CheckRequest,
    target: &Target,
    options: &Options,
) -> Result<(Report, Vec<PathBuf>), Abort> {
    let mut removed = Vec::new();
    loop {
        let report = checker::check(request, target)?.into_report()?;
        let chosen = report.findings.iter().filter(|finding| plan::is_chosen(finding, &options.ids));
        let damaged = chosen.filter_map(|finding| finding.fix.as_ref()?.bytecode()).map(PathBuf::from).next();
        match damaged.filter(|_| options.changes_environment() && removed.len() < MAX_DAMAGED) {
            Some(file) if is_of_environment(&file, target) && !removed.contains(&file) => {
                refuse_another_users(file.parent(), &options.command(), &request.real.path)?;
                fs::remove_file(&file).map_err(|error| describe_kept(&file, &error))?;
                let message =
                    format!("removed damaged bytecode, which Python compiles again: {}", lossy(&file));
                request.progress.write(&message);
                removed.push(file);
            }
            _ => return Ok((report, removed)),
        }
    }
}

/// Whether a file is bytecode in the prefix of the environment. Symbolic links on the way to the file are
/// followed, but the file itself must not be a link.
fn is_of_environment(file: &Path, target: &Target) -> bool {
    let site = find_site(target);
    let prefixes = [Some(target.interpreter.prefix.as_path()), site.as_deref().map(prefix_of)];
    let directory = file.parent().and_then(|directory| directory.canonicalize().ok());
    let is_below = |prefix: &Path| {
        let prefix = prefix.canonicalize().ok();
        prefix.is_some_and(|prefix| directory.as_ref().is_some_and(|directory| directory.starts_with(prefix)))
    };
    let is_file = file.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    is_file && is_bytecode(file) && prefixes.into_iter().flatten().any(is_below)
}

fn describe_kept(file: &Path, error: &std::io::Error) -> Error {
    let message = format!("{} is damaged, and cannot be removed: {error}", file.display());
    Error::repair(message, "Nothing was changed. Remove that file; Python compiles it again.")
}

fn describe_full(action: &str, error: &dyn std::fmt::Display) -> Error {
    Error::repair(format!("cannot {action}: {error}"), UNCHANGED_FREE_SPACE)
}
