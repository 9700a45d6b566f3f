//! Asking a launcher itself: it is started with interpreter.py as its `sitecustomize`, which answers
//! when pcluster is about to be imported. And the other side: a shim that such a launcher starts
//! checks nothing.
//!
//! A question is a scratch directory that the asking process holds. Its lock dies with that process, so
//! a variable that is left over, or set by hand, is no question.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::env_vars;
use crate::environment::interpreter::{
    INTERPRETER_PY, IdentifyError, InterpreterAnswer, python_path, read_answer,
};
use crate::system::child::{Child, ChildError, set};
use crate::system::scratch::Scratch;

const ANSWERS: &str = "answers";

/// The key of the answer that a shim gives which a launcher has started, and which finds no other
/// pcluster.
const LOOPED: &str = "looped";

/// What a launcher is called with. A wrapper may treat `build-image` in its own way, so the question
/// is that command; with `--help`, nothing is built where no Python answers.
const ARGUMENTS: [&str; 2] = ["build-image", "--help"];

/// What the real pcluster prints where it was started without being asked: whatever another one has
/// answered on the way, this one is unknown.
const USAGE: &[u8] = b"usage: pcluster build-image";

/// Asks a launcher: the answer, and whether it hands on what it is called with. `rest` is the PYTHONPATH of the answer, where it is not this process's.
///
/// # Errors
/// It gives no answer, several that differ, or the check is interrupted.
pub fn ask(
    launcher: &Path,
    rest: Option<OsString>,
    limit: Duration,
) -> Result<(InterpreterAnswer, bool), IdentifyError> {
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let directory = prepare(&scratch).map_err(ChildError::Scratch)?;
    let rest = rest.or_else(|| env::var_os("PYTHONPATH"));
    let environment = vec![
        set("PYTHONPATH", python_path(&directory.join("site"), rest)),
        set(env_vars::QUESTION, &directory),
    ];
    let arguments = ARGUMENTS.map(OsString::from).into();
    let finished = Child { program: launcher, arguments, environment, limit }.run(&scratch)?;
    let answers = read_answers(&directory);
    if let Some(tried) = answers.iter().find_map(|answer| answer.get(LOOPED)) {
        return Err(IdentifyError::Loop { tried: serde_json::from_value(tried.clone()).unwrap_or_default() });
    }
    if memchr::memmem::find(&finished.stdout, USAGE).is_some() {
        return Err(IdentifyError::SynthesisError);
    }
    let understood: Vec<InterpreterAnswer> = answers.iter().filter_map(read_answer).collect();
    match understood.split_first() {
        Some((answer, others)) => {
            let interpreter = answer.interpreter();
            if others.iter().all(|other| other.interpreter() == interpreter) {
                let arguments = ARGUMENTS.map(OsString::from);
                let keeps_call = understood.iter().all(|answer| answer.keeps_call(&arguments));
                return Ok((answer.clone(), keeps_call));
            }
            let interpreters = understood.iter().map(|answer| answer.interpreter().executable).collect();
            Err(IdentifyError::Ambiguous { interpreters })
        }
        None if finished.status.success() => Err(IdentifyError::SynthesisError),
        None => {
            let (status, stderr) = (finished.status, finished.stderr);
            Err(ChildError::Failed { program: launcher.to_owned(), status, stderr }.into())
        }
    }
}

/// The directory of a question.
fn prepare(scratch: &Scratch) -> io::Result<PathBuf> {
    scratch.directory("site")?;
    scratch.directory(ANSWERS)?;
    scratch.write("site/sitecustomize.py", INTERPRETER_PY)?;
    Ok(scratch.path(""))
}

fn read_answers(directory: &Path) -> Vec<Value> {
    let entries = directory.join(ANSWERS).read_dir().into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let whole = files.iter().filter(|path| path.extension().is_none());
    whole.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

/// The question that this process was started to answer, if there is one.
#[must_use]
pub fn pending() -> Option<PathBuf> {
    let directory = env::var_os(env_vars::QUESTION).map(PathBuf::from)?;
    Scratch::is_in_use(&directory).then_some(directory)
}

/// Answers a question with a loop: the launcher only starts this shim again.
pub fn answer_with_loop(question: &Path, tried: &[PathBuf]) {
    let tried: Vec<_> = tried.iter().map(|path| path.to_string_lossy()).collect();
    // Without the answer, the launcher is one that gives none.
    let _ = fs::write(question.join(ANSWERS).join("loop"), json!({ LOOPED: tried }).to_string());
}
