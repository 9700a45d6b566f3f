//! Finds out which Python a launcher runs, if it isn't a console script: the launcher is started with
//! interpreter.py as its `sitecustomize`, which answers just before pcluster is imported. If a launcher that
//! is started in this way starts a shim, that shim makes no check.
//!
//! For each question, there is a scratch directory, which the asking process has locked. An environment
//! variable names this directory, so that a shim which the launcher starts can recognise the question. The
//! lock ends with the asking process, so a value of the variable that is left over, or set by hand, does not
//! count as a question.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::environment::interpreter::{
    INTERPRETER_PY, IdentifyError, InterpreterAnswer, python_path, read_answer,
};
use crate::environment::launcher;
use crate::model::env_vars;
use crate::system::child::{Child, ChildError, Finished, MAX_OUTPUT, set};
use crate::system::scratch::Scratch;

const ANSWERS: &str = "answers";

/// A launcher that is asked may start a shim, and that shim may find only programs that start the shim again.
/// The shim's answer lists these programs under this key.
const LOOPED: &str = "looped";

/// The arguments for the launcher: those of the call, because what a wrapper does may depend on them.
/// `--help` is put before the options, so that no image is built if no Python answers.
pub fn arguments(call: &[OsString]) -> Vec<OsString> {
    let options = call.get(1..).unwrap_or_default();
    [&["build-image".into(), "--help".into()], options].concat()
}

/// What the real pcluster prints if it runs without interpreter.py. In that case, we do not know which Python
/// runs pcluster, even if another Python has answered.
const USAGE: &[u8] = b"usage: pcluster build-image";

/// Asks a launcher which Python it runs. Returns the answer, and whether the launcher passes on the call
/// unchanged. The launcher's PYTHONPATH is the directory of the question's `sitecustomize`, followed by
/// `rest_path`, or by this process's PYTHONPATH if `rest_path` is `None`.
pub fn ask(
    launcher: &Path,
    call: &[OsString],
    rest_path: Option<OsString>,
    limit: Duration,
) -> Result<(InterpreterAnswer, bool), IdentifyError> {
    if launcher::ignores_sitecustomize(launcher) {
        return Err(IdentifyError::NoAnswer);
    }
    let (answers, finished) = start_launcher(launcher, call, rest_path, Subject::Interpreter, limit)?;
    if let Some(tried) = answers.iter().find_map(|answer| answer.get(LOOPED)) {
        return Err(IdentifyError::Loop { tried: serde_json::from_value(tried.clone()).unwrap_or_default() });
    }
    if memchr::memmem::find(&finished.stdout, USAGE).is_some() {
        return Err(IdentifyError::NoAnswer);
    }
    let valid_answers: Vec<InterpreterAnswer> = answers.iter().filter_map(read_answer).collect();
    match agree(&valid_answers, call)? {
        Some(agreed) => Ok(agreed),
        None if finished.status.success() => Err(IdentifyError::NoAnswer),
        None => {
            let (status, stderr) = (finished.status, finished.stderr);
            Err(ChildError::Failed { program: launcher.to_owned(), status, stderr }.into())
        }
    }
}

/// Whether pcluster starts through its launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    Starts,
    /// The class of the exception that importing pcluster raises.
    Fails(String),
    /// The launcher does not get as far as importing pcluster.
    Unknown,
}

/// Asks a launcher whether pcluster starts through it. Even if pcluster does not start in a check, it can
/// start through the launcher: the launcher may add things that a check does not have, such as
/// module finders.
pub fn ask_for_start(
    launcher: &Path,
    call: &[OsString],
    rest_path: Option<OsString>,
    limit: Duration,
) -> Result<Start, ChildError> {
    let (answers, _) = start_launcher(launcher, call, rest_path, Subject::Start, limit)?;
    Ok(match answers.first().and_then(|answer| answer.get("start")) {
        Some(Value::Null) => Start::Starts,
        Some(Value::String(exception)) => Start::Fails(exception.clone()),
        _ => Start::Unknown,
    })
}

/// What a launcher is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Interpreter,
    Start,
}

/// Starts a launcher with interpreter.py, and returns the answers and how the launcher finished.
/// The launcher's Python cannot be given `-B`, so PYTHONDONTWRITEBYTECODE keeps that Python from
/// writing bytecode.
fn start_launcher(
    launcher: &Path,
    call: &[OsString],
    rest_path: Option<OsString>,
    subject: Subject,
    limit: Duration,
) -> Result<(Vec<Value>, Finished), ChildError> {
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let directory = prepare(&scratch, subject).map_err(ChildError::Scratch)?;
    let rest_path = rest_path.or_else(|| env::var_os("PYTHONPATH"));
    let environment = vec![
        set("PYTHONPATH", python_path(&directory.join("site"), rest_path)),
        set("PYTHONDONTWRITEBYTECODE", "1"),
        set(env_vars::QUESTION, &directory),
    ];
    let arguments = arguments(call);
    let finished =
        Child { program: launcher, arguments, environment, limit, max_output: MAX_OUTPUT }.run(&scratch)?;
    Ok((read_answers(&directory), finished))
}

/// The answer that all of `answers` agree on, and whether each of them shows that the launcher does not
/// change the call. `None` without answers.
pub fn agree(
    answers: &[InterpreterAnswer],
    call: &[OsString],
) -> Result<Option<(InterpreterAnswer, bool)>, IdentifyError> {
    let Some((answer, others)) = answers.split_first() else { return Ok(None) };
    let interpreter = answer.interpreter();
    if others.iter().all(|other| other.interpreter() == interpreter) {
        let arguments = arguments(call);
        let keeps_call = answers.iter().all(|answer| answer.keeps_call(&arguments));
        return Ok(Some((answer.clone(), keeps_call)));
    }
    let executables = answers.iter().map(|answer| answer.interpreter().executable);
    // Each Python appears once, sorted. The answers are in the order of process ids, which means nothing.
    let interpreters = executables.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    Err(IdentifyError::Ambiguous { interpreters })
}

/// Writes the files of a question, and returns its directory.
fn prepare(scratch: &Scratch, subject: Subject) -> io::Result<PathBuf> {
    scratch.directory("site")?;
    scratch.directory(ANSWERS)?;
    scratch.write("site/sitecustomize.py", INTERPRETER_PY)?;
    if subject == Subject::Start {
        scratch.write("start", "")?;
    }
    Ok(scratch.path(""))
}

fn read_answers(directory: &Path) -> Vec<Value> {
    let entries = directory.join(ANSWERS).read_dir().into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort_unstable();
    let complete = files.iter().filter(|path| path.extension().is_none());
    complete.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

/// The directory of the question that this process was started to answer, if there is one.
pub fn pending() -> Option<PathBuf> {
    let directory = env::var_os(env_vars::QUESTION).map(PathBuf::from)?;
    Scratch::is_in_use(&directory).then_some(directory)
}

/// Answers a question by reporting a loop: the launcher only starts this shim again.
pub fn answer_with_loop(question: &Path, tried: &[PathBuf]) {
    let tried: Vec<_> = tried.iter().map(|path| path.to_string_lossy()).collect();
    // If the answer cannot be written, the launcher counts as one that gives no answer.
    let _ = fs::write(question.join(ANSWERS).join("loop"), json!({ LOOPED: tried }).to_string());
}
