//! The compilation of staged packages.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::environment::target::Target;
use crate::error::{Abort, Error, RepairStep};
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::system::child::{Child, ChildError, framed, sentinel, set};
use crate::system::scratch::Scratch;

const COMPILE_PY: &str = include_str!("compile.py");

/// Compiles files and directories in their order, where the environment has bytecode. Not by uv's
/// `--compile-bytecode`, which fails where a sitecustomize prints anything, nor by pip, of which a full disk
/// leaves a part of a file.
///
/// Failures are ignored, but for that of a full disk: packages without bytecode only start more slowly.
///
/// # Errors
/// Returns an error if the disk is full, or a signal came.
pub fn compile(target: &Target, sources: &[PathBuf], limit: Duration) -> Result<(), Abort> {
    if !target.has_bytecode() {
        return Ok(());
    }
    let scratch = Scratch::new().map_err(|error| describe_full("make a temporary directory", &error))?;
    let script = scratch.write("compile.py", COMPILE_PY);
    let script = script.map_err(|error| describe_full("write compile.py", &error))?;
    let sentinel = sentinel();
    let mut arguments: Vec<OsString> = target.interpreter.flags.iter().map(OsString::from).collect();
    arguments.extend([script.into_os_string(), OsString::from(&sentinel)]);
    arguments.extend(sources.iter().map(OsString::from));
    let program = &target.interpreter.executable;
    let mut environment = target.environment.clone();
    // The bytecode of the modules that the script imports would be written into the environment.
    environment.push(set("PYTHONDONTWRITEBYTECODE", "1"));
    let finished = Child { program, arguments, environment, limit }.run(&scratch);
    match finished.and_then(|finished| framed(&finished, &sentinel, program)) {
        Ok(answer) => match answer["full"].as_str() {
            Some(error) => Err(describe_full("write bytecode", &error).into()),
            None => Ok(()),
        },
        Err(ChildError::Interrupted(signal)) => Err(Abort::Interrupted(signal)),
        Err(_) => Ok(()),
    }
}

fn describe_full(action: &str, error: &dyn std::fmt::Display) -> Error {
    Error::repair(RepairStep::Stage, format!("cannot {action}: {error}"), UNCHANGED_FREE_SPACE)
}
