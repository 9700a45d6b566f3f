//! The target of a call: the Python that a launcher starts, and its environment.
//!
//! A console script names its interpreter, which is asked with the script's own flags and environment
//! (never with `-I`, which hides the user site). The answer is cached, because the files that it depends
//! on are known. Any other launcher is asked itself, at every call.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Fingerprint};
use crate::environment::interpreter::{
    INTERPRETER_PY, IdentifyError, Interpreter, InterpreterAnswer, python_path, read_answer,
};
use crate::environment::launcher::{ConsoleScript, Launcher};
use crate::environment::locate::Real;
use crate::environment::question;
use crate::system::child::{Child, ChildError, framed, sentinel, set};
use crate::system::files;
use crate::system::scratch::Scratch;

/// The real pcluster, as it will run.
#[derive(Debug, Clone)]
pub struct Target {
    pub launcher: &'static str,
    pub interpreter: Interpreter,
    /// The variables that the launcher changes, to be changed for every child that runs in its place.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// The launcher runs pcluster in the directory, with the arguments and as the user of its call.
    pub keeps_call: bool,
    /// The packages that are put in front of the environment's.
    pub overlay: Option<PathBuf>,
}

impl Target {
    /// PATH as the real pcluster sees it.
    #[must_use]
    pub fn path(&self) -> OsString {
        let changed = self.environment.iter().find(|(name, _)| name == "PATH");
        changed.map_or_else(|| env::var_os("PATH"), |(_, value)| value.clone()).unwrap_or_default()
    }
}

/// Identifies the target of a launcher, with the packages of `overlay` put in front by PYTHONPATH where
/// there is one.
///
/// # Errors
/// Returns an error if the environment is unknown, or a signal came.
pub fn identify(
    real: &Real,
    overlay: Option<&Path>,
    limit: Duration,
    cache: &Cache,
) -> Result<Target, IdentifyError> {
    let launcher = Launcher::read(&real.path)
        .map_err(|source| IdentifyError::Unreadable { file: real.path.clone(), source })?;
    let python_path = overlay.map(|overlay| python_path(overlay, env::var_os("PYTHONPATH")));
    let (answer, keeps_call) = match &launcher {
        Launcher::ConsoleScript(script) => ask_console_script(&real.path, script, python_path, limit, cache)?,
        Launcher::Other => question::ask(&real.path, python_path, limit)?,
    };
    let (interpreter, environment) = (answer.interpreter(), answer.changes());
    let overlay = overlay.map(Path::to_owned);
    Ok(Target { launcher: launcher.name(), interpreter, environment, keeps_call, overlay })
}

impl Target {
    /// The target as it is with the packages of a directory in front of the environment's.
    #[must_use]
    pub fn with_overlay(&self, overlay: &Path) -> Self {
        let mut target = self.clone();
        target.interpreter.sys_path.insert(0, overlay.to_owned());
        target.overlay = Some(overlay.to_owned());
        target
    }

    /// Whether CDK's bytecode is beside its sources, where pip writes it, and Python reads it there.
    #[must_use]
    pub fn has_bytecode(&self) -> bool {
        let Some(tag) = &self.interpreter.cache_tag else { return false };
        let compiled = PathBuf::from(format!("aws_cdk/core/__pycache__/__init__.{tag}.pyc"));
        let is_there = |directory: &PathBuf| directory.join(&compiled).exists();
        env::var_os("PYTHONPYCACHEPREFIX").is_none() && self.interpreter.sys_path.iter().any(is_there)
    }
}

/// A question to the interpreter that a console script names.
struct InterpreterQuestion<'a> {
    program: &'a Path,
    /// The arguments before the script's name.
    flags: &'a [OsString],
    script: &'a Path,
    requires: Option<&'a str>,
    /// Absent where it is this process's.
    python_path: Option<OsString>,
}

fn ask_console_script(
    path: &Path,
    script: &ConsoleScript,
    python_path: Option<OsString>,
    limit: Duration,
    cache: &Cache,
) -> Result<(InterpreterAnswer, bool), IdentifyError> {
    let Some((program, flags)) = script.interpreter(&script_directory(path)) else {
        return Err(IdentifyError::NoAnswer);
    };
    match program.metadata() {
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(IdentifyError::Unreadable { file: program, source });
        }
        Err(_) => return Err(IdentifyError::DeadInterpreter { interpreter: program }),
        Ok(_) => {}
    }
    // A script that stands for an interpreter (a version manager's shim, a wrapper) may treat `-c`
    // differently from a file.
    if is_script(&program) {
        return question::ask(path, python_path, limit);
    }
    let requires = script.requires.as_deref();
    let question =
        InterpreterQuestion { program: &program, flags: &flags, script: path, requires, python_path };
    let key = question.key();
    let entry = cache.get("interpreters", &key);
    if let Some(cached) = entry.and_then(|entry| serde_json::from_value::<CachedAnswer>(entry).ok())
        && cached.dependencies == cached.answer.dependencies()
    {
        return Ok((cached.answer, true));
    }
    let answer = question.ask(limit)?;
    // Where another program than the named one answers, the named one is a version manager's shim, which
    // may start a third one at the next call.
    if answer.interpreter().executable.canonicalize().ok() == program.canonicalize().ok() {
        let cached = CachedAnswer { dependencies: answer.dependencies(), answer: answer.clone() };
        cache.put("interpreters", &key, &serde_json::to_value(cached).unwrap_or_default());
    }
    Ok((answer, true))
}

/// An answer in the cache, with the digest of the files that it depends on and that only it names.
#[derive(Serialize, Deserialize)]
struct CachedAnswer {
    #[serde(rename = "seen")]
    dependencies: String,
    #[serde(rename = "interpreter")]
    answer: InterpreterAnswer,
}

/// Prefixes of the variables that, with HOME and PATH, decide about `sys.path`.
const DECISIVE: [&str; 6] =
    ["PYTHON", "LD_LIBRARY_PATH", "DYLD_", "VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__"];

impl InterpreterQuestion<'_> {
    fn ask(&self, limit: Duration) -> Result<InterpreterAnswer, IdentifyError> {
        let scratch = Scratch::new().map_err(ChildError::Scratch)?;
        let sentinel = sentinel();
        let mut arguments = self.flags.to_vec();
        let directory = script_directory(self.script).into_os_string();
        arguments.extend(["-c".into(), INTERPRETER_PY.into(), OsString::from(&sentinel), directory]);
        arguments.extend(self.requires.map(OsString::from));
        let environment = self.python_path.iter().map(|value| set("PYTHONPATH", value)).collect();
        let child = Child { program: self.program, arguments, environment, limit };
        let finished = child.run(&scratch)?;
        let answer = framed(&finished, &sentinel, self.program)?;
        let malformed = || ChildError::Malformed {
            program: self.program.to_owned(),
            stdout: answer.to_string().into_bytes(),
        };
        read_answer(&answer).ok_or_else(|| malformed().into())
    }

    /// The key of the answer: all that it depends on and that is known before the question.
    fn key(&self) -> String {
        let mut key = Fingerprint::new();
        key.field(INTERPRETER_PY).file(self.script).file(self.program);
        for flag in self.flags {
            key.field(flag.as_bytes());
        }
        let is_decisive = |name: &OsString| {
            name == "HOME"
                || name == "PATH"
                || DECISIVE.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
        };
        let mut variables: Vec<_> = env::vars_os().filter(|(name, _)| is_decisive(name)).collect();
        variables.sort_unstable();
        for (name, value) in variables {
            key.field(name.as_bytes()).field(value.as_bytes());
        }
        if let Some(python_path) = &self.python_path {
            key.field("PYTHONPATH").field(python_path.as_bytes());
        }
        if env::var_os("PYTHONPATH").is_some() {
            // Relative entries of PYTHONPATH depend on the current directory.
            key.field(env::current_dir().unwrap_or_default().as_os_str().as_bytes());
        }
        key.key()
    }
}

fn is_script(program: &Path) -> bool {
    files::read_head(program, 2).is_ok_and(|head| head == b"#!")
}

/// The directory of a script that Python puts first on `sys.path`, for which it follows links.
fn script_directory(script: &Path) -> PathBuf {
    let resolved = script.canonicalize().unwrap_or_else(|_| script.to_owned());
    resolved.parent().unwrap_or(Path::new("/")).to_owned()
}
