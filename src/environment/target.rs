//! The target of a call: the Python that a launcher starts, and its environment.
//!
//! A console script names its interpreter. That interpreter runs interpreter.py, with the script's own flags
//! and environment. `-I` is never added, because it would hide the user's site-packages. Any other launcher
//! has to be started to get an answer from its Python.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment::interpreter::{
    INTERPRETER_PY, IdentifyError, Interpreter, InterpreterAnswer, python_path, read_answer,
};
use crate::environment::launcher::{ConsoleScript, Launcher};
use crate::environment::locate::Real;
use crate::environment::question;
use crate::system::child::{Child, ChildError, MAX_OUTPUT, framed, sentinel, set};
use crate::system::files;
use crate::system::scratch::Scratch;

/// The real pcluster, as it will run.
#[derive(Debug, Clone)]
pub struct Target {
    pub launcher: &'static str,
    pub interpreter: Interpreter,
    /// The variables that the launcher changes. A child that we start without the launcher gets the same
    /// changes of its variables.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Whether Python is started by anything other than a known console script. Whatever starts it may add
    /// module finders that a check does not have.
    pub is_wrapped: bool,
    /// Whether pcluster gets the arguments that the launcher was called with, and runs in the same working
    /// directory and as the same user as this process.
    pub keeps_call: bool,
    /// A directory of packages that is put in front of the environment's packages.
    pub overlay: Option<PathBuf>,
    /// The directory of a jsii package cache that the checks of one repair share, and that is removed after
    /// the repair. Any other check runs without a cache: a check that is killed could leave an incomplete
    /// package in the user's own cache, and jsii would use that package as if it were complete.
    pub jsii_cache: Option<PathBuf>,
}

impl Target {
    /// PATH as the real pcluster sees it.
    pub fn path(&self) -> OsString {
        let changed = self.environment.iter().find(|(name, _)| name == "PATH");
        changed.map_or_else(|| env::var_os("PATH"), |(_, value)| value.clone()).unwrap_or_default()
    }
}

/// Identifies the target of a launcher that is called with the arguments of `call`. If there is an overlay,
/// its packages are put in front with PYTHONPATH.
pub fn identify(
    real: &Real,
    call: &[OsString],
    overlay: Option<&Path>,
    limit: Duration,
) -> Result<Target, IdentifyError> {
    let launcher = Launcher::read(&real.path)
        .map_err(|source| IdentifyError::Unreadable { file: real.path.clone(), source })?;
    let python_path = overlay.map(|overlay| python_path(overlay, env::var_os("PYTHONPATH")));
    let answer = match &launcher {
        Launcher::ConsoleScript(script) => ask_interpreter(&real.path, script, python_path.as_ref(), limit)?,
        Launcher::Other => None,
    };
    let is_wrapped = answer.is_none();
    let (answer, keeps_call) = match answer {
        Some(answer) => (answer, true),
        None => question::ask(&real.path, call, python_path, limit)?,
    };
    let (interpreter, environment) = (answer.interpreter(), answer.changes());
    let overlay = overlay.map(Path::to_owned);
    Ok(Target {
        launcher: launcher.name(),
        interpreter,
        environment,
        is_wrapped,
        keeps_call,
        overlay,
        jsii_cache: None,
    })
}

impl Target {
    /// The same target with the packages of a directory in front of those of the environment.
    pub fn with_overlay(&self, overlay: &Path) -> Self {
        let mut target = self.clone();
        target.interpreter.sys_path.insert(0, overlay.to_owned());
        target.overlay = Some(overlay.to_owned());
        target
    }

    /// Whether CDK's bytecode is next to its sources, where pip writes it and Python reads it.
    pub fn has_bytecode(&self) -> bool {
        let Some(tag) = &self.interpreter.cache_tag else { return false };
        let compiled = PathBuf::from(format!("aws_cdk/core/__pycache__/__init__.{tag}.pyc"));
        let is_there = |directory: &PathBuf| directory.join(&compiled).exists();
        env::var_os("PYTHONPYCACHEPREFIX").is_none() && self.interpreter.sys_path.iter().any(is_there)
    }
}

/// Asks the interpreter that a console script names. Without `python_path`, this process's PYTHONPATH
/// applies. `None` if the interpreter is itself a script (a version manager's shim, a wrapper), because such
/// a script may treat `-c` differently from the name of a file.
fn ask_interpreter(
    path: &Path,
    script: &ConsoleScript,
    python_path: Option<&OsString>,
    limit: Duration,
) -> Result<Option<InterpreterAnswer>, IdentifyError> {
    let directory = script_directory(path);
    let (program, mut arguments) = script.interpreter(&directory).ok_or(IdentifyError::NoAnswer)?;
    match program.metadata() {
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(IdentifyError::Unreadable { file: program, source });
        }
        Err(_) => return Err(IdentifyError::DeadInterpreter { interpreter: program }),
        Ok(_) if is_script(&program) => return Ok(None),
        Ok(_) => {}
    }
    let scratch = Scratch::new().map_err(ChildError::Scratch)?;
    let sentinel = sentinel();
    // No bytecode is written, whatever the flags are: see `Interpreter::run_flags`.
    arguments.extend(["-B".into(), "-c".into(), INTERPRETER_PY.into(), OsString::from(&sentinel)]);
    arguments.push(directory.into_os_string());
    arguments.extend(script.requires.as_ref().map(OsString::from));
    let environment = python_path.iter().map(|value| set("PYTHONPATH", value)).collect();
    let child = Child { program: &program, arguments, environment, limit, max_output: MAX_OUTPUT };
    let answer = framed(&child.run(&scratch)?, &sentinel, &program)?;
    let stdout = answer.to_string().into_bytes();
    let malformed = || ChildError::Malformed { program, stdout };
    read_answer(&answer).map(Some).ok_or_else(|| malformed().into())
}

fn is_script(program: &Path) -> bool {
    files::read_head(program, 2).is_ok_and(|head| head == b"#!")
}

/// The directory that Python puts first on `sys.path` for a script; links are followed.
fn script_directory(script: &Path) -> PathBuf {
    let resolved = script.canonicalize().unwrap_or_else(|_| script.to_owned());
    resolved.parent().unwrap_or(Path::new("/")).to_owned()
}
