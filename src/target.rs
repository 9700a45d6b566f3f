//! A launcher → its interpreter, flags, `sys.path`, and Node. The one place that asks an
//! interpreter who it is, and remembers the answer.
//!
//! A launcher that pip, uv, conda or distlib wrote names its interpreter, which is then asked with
//! the same flags and environment (never `-I`: that hides the user site). Any other launcher is
//! asked itself: it is started with a `sitecustomize` of ours, which answers and ends it.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::child::{Child, ChildError, Scratch, framed, sentinel, set};
use crate::cli::variable;
use crate::error::Error;
use crate::launcher::Launcher;
use crate::locate::Real;
use crate::remember::{Fingerprint, Memory};

const INTERPRETER_PY: &str = include_str!("interpreter.py");

/// What a Python says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interpreter {
    pub executable: PathBuf,
    pub version: String,
    /// The infix of its bytecode files: `cpython-311`.
    pub cache_tag: Option<String>,
    /// What makes another run behave like this one.
    pub flags: Vec<String>,
    pub sys_path: Vec<PathBuf>,
    pub prefix: PathBuf,
    /// The marker of PEP 668, where it forbids changes.
    pub externally_managed: Option<PathBuf>,
    /// PATH and a few others, as the interpreter sees them.
    environment: BTreeMap<String, String>,
}

/// The real pcluster, as it will run.
#[derive(Debug, Clone)]
pub struct Target {
    pub launcher: &'static str,
    pub interpreter: Interpreter,
    /// The variables that the launcher changes, for whatever is run in its place.
    pub environment: Vec<(OsString, Option<OsString>)>,
}

impl Target {
    /// PATH as the real pcluster sees it.
    #[must_use]
    pub fn path(&self) -> OsString {
        let changed = self.environment.iter().find(|(name, _)| name == "PATH");
        changed.map_or_else(|| env::var_os("PATH"), |(_, value)| value.clone()).unwrap_or_default()
    }
}

/// Why an environment stays unknown.
#[derive(Debug)]
pub enum Unidentified {
    /// The launcher names an interpreter that is not there.
    DeadInterpreter {
        interpreter: PathBuf,
    },
    Unreadable {
        launcher: PathBuf,
        source: std::io::Error,
    },
    /// It starts this shim again, which finds nothing else.
    Loop {
        tried: Vec<PathBuf>,
    },
    Child(ChildError),
    Scratch(std::io::Error),
}

impl fmt::Display for Unidentified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadInterpreter { interpreter } => {
                write!(f, "its interpreter {} does not exist; reinstall pcluster", interpreter.display())
            }
            Self::Unreadable { launcher, source } => {
                write!(f, "cannot read {}: {source}", launcher.display())
            }
            Self::Loop { tried } => Error::Loop { tried: tried.clone() }.fmt(f),
            Self::Child(error) => error.fmt(f),
            Self::Scratch(source) => write!(f, "no temporary directory: {source}"),
        }
    }
}

impl From<ChildError> for Unidentified {
    fn from(error: ChildError) -> Self {
        Self::Child(error)
    }
}

/// Finds out what will run, from memory where nothing has changed.
///
/// # Errors
/// The environment stays unknown, or we were interrupted.
pub fn identify(real: &Real, limit: Duration, memory: &Memory) -> Result<Target, Unidentified> {
    let launcher = Launcher::read(&real.path)
        .map_err(|source| Unidentified::Unreadable { launcher: real.path.clone(), source })?;
    let directory = script_directory(&real.path);
    let Some((program, arguments)) = launcher.interpreter(&directory) else {
        let interpreter = ask_launcher(&real.path, limit)?;
        return Ok(Target::new(launcher.name(), interpreter));
    };
    if !program.exists() {
        return Err(Unidentified::DeadInterpreter { interpreter: program });
    }
    let key = asked_of(&real.path, &program, &arguments);
    let remembered = memory.recall("interpreters", &key.key());
    if let Some(kept) = remembered.and_then(|kept| serde_json::from_value::<Kept>(kept).ok())
        && kept.seen == seen(&kept.interpreter)
    {
        return Ok(Target::new(launcher.name(), kept.interpreter));
    }
    let interpreter = ask_interpreter(&program, &arguments, &directory, limit)?;
    let kept = Kept { seen: seen(&interpreter), interpreter: interpreter.clone() };
    memory.keep("interpreters", &key.key(), &serde_json::to_value(kept).unwrap_or_default());
    Ok(Target::new(launcher.name(), interpreter))
}

impl Target {
    fn new(launcher: &'static str, interpreter: Interpreter) -> Self {
        let changed = interpreter
            .environment
            .iter()
            .filter(|(name, value)| env::var_os(name).as_deref() != Some(OsStr::new(value)))
            .map(|(name, value)| set(name, value))
            .collect();
        Self { launcher, interpreter, environment: changed }
    }
}

impl Target {
    /// The same with the packages of a directory in front of the environment's.
    #[must_use]
    pub fn with_overlay(&self, overlay: &Path) -> Self {
        let mut target = self.clone();
        target.interpreter.sys_path.insert(0, overlay.to_owned());
        target
    }

    /// Whether CDK's bytecode lies beside its sources, as pip leaves it, and Python looks for it there.
    #[must_use]
    pub fn has_bytecode(&self) -> bool {
        let Some(tag) = &self.interpreter.cache_tag else { return false };
        let compiled = PathBuf::from(format!("aws_cdk/core/__pycache__/__init__.{tag}.pyc"));
        let is_there = |directory: &PathBuf| directory.join(&compiled).exists();
        env::var_os("PYTHONPYCACHEPREFIX").is_none() && self.interpreter.sys_path.iter().any(is_there)
    }
}

/// An answer, and what it was seen to depend on that only the answer tells.
#[derive(Serialize, Deserialize)]
struct Kept {
    seen: String,
    interpreter: Interpreter,
}

/// The variables beside PATH that an answer tells: `SHOWN` of interpreter.py.
const TOLD: [&str; 7] =
    ["PYTHON", "NODE_", "JSII_", "LD_LIBRARY_PATH", "DYLD_", "VIRTUAL_ENV", "CONDA_PREFIX"];

/// What the answer depends on before it is asked for.
fn asked_of(launcher: &Path, program: &Path, arguments: &[OsString]) -> Fingerprint {
    let mut key = Fingerprint::new();
    key.field(INTERPRETER_PY).file(launcher).file(program);
    for argument in arguments {
        key.field(argument.as_bytes());
    }
    // What decides about `sys.path`, and what the answer tells: a variable that has changed since
    // must not be taken for one that the launcher changes.
    let told = |name: &OsStr| TOLD.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()));
    let mut variables: Vec<_> =
        env::vars_os().filter(|(name, _)| name == "HOME" || name == "PATH" || told(name)).collect();
    variables.sort();
    for (name, value) in variables {
        key.field(name.as_bytes()).field(value.as_bytes());
    }
    if env::var_os("PYTHONPATH").is_some() {
        // Its relative entries are meant from here.
        key.field(env::current_dir().unwrap_or_default().as_os_str().as_bytes());
    }
    key
}

/// The files that decide about `sys.path`: pyvenv.cfg, and the `.pth` files in its directories.
fn seen(interpreter: &Interpreter) -> String {
    let mut digest = Fingerprint::new();
    digest.file(&interpreter.executable);
    if let Some(prefix) = interpreter.executable.parent().and_then(Path::parent) {
        digest.file(&prefix.join("pyvenv.cfg"));
    }
    for directory in &interpreter.sys_path {
        digest.field(directory.as_os_str().as_bytes());
        let mut files: Vec<PathBuf> = directory
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "pth") || is_customize(path))
            .collect();
        files.sort();
        for file in files {
            digest.file(&file);
        }
    }
    digest.key()
}

fn is_customize(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "sitecustomize" || stem == "usercustomize")
}

fn ask_interpreter(
    program: &Path,
    arguments: &[OsString],
    script_directory: &Path,
    limit: Duration,
) -> Result<Interpreter, Unidentified> {
    let scratch = Scratch::new().map_err(Unidentified::Scratch)?;
    let sentinel = sentinel();
    let mut arguments = arguments.to_vec();
    arguments.extend([
        "-c".into(),
        INTERPRETER_PY.into(),
        OsString::from(&sentinel),
        script_directory.as_os_str().to_owned(),
    ]);
    let child = Child { program, arguments, environment: Vec::new(), limit };
    answer(child, &scratch, &sentinel)
}

fn ask_launcher(launcher: &Path, limit: Duration) -> Result<Interpreter, Unidentified> {
    let scratch = Scratch::new().map_err(Unidentified::Scratch)?;
    let sentinel = sentinel();
    let directory = scratch.directory("site").map_err(Unidentified::Scratch)?;
    scratch.write("site/sitecustomize.py", INTERPRETER_PY).map_err(Unidentified::Scratch)?;
    let mut python_path = directory.into_os_string();
    if let Some(rest) = env::var_os("PYTHONPATH").filter(|rest| !rest.is_empty()) {
        python_path.push(":");
        python_path.push(rest);
    }
    let child = Child {
        program: launcher,
        // Where there is no Python behind it, this is what it is least likely to do harm with.
        arguments: vec!["version".into()],
        environment: vec![set("PYTHONPATH", python_path), set(variable::SENTINEL, &sentinel)],
        limit,
    };
    answer(child, &scratch, &sentinel)
}

fn answer(child: Child, scratch: &Scratch, sentinel: &str) -> Result<Interpreter, Unidentified> {
    let program = child.program.to_owned();
    let finished = child.run(scratch)?;
    let answer = framed(&finished, sentinel, &program)?;
    if let Some(tried) = answer.get(LOOPED) {
        return Err(Unidentified::Loop { tried: serde_json::from_value(tried.clone()).unwrap_or_default() });
    }
    let malformed = ChildError::Malformed { program, stdout: answer.to_string().into_bytes() };
    match serde_json::from_value::<Interpreter>(answer) {
        Ok(interpreter) if interpreter.executable.is_absolute() => Ok(interpreter),
        _ => Err(malformed.into()),
    }
}

/// The key of the answer that the shim itself gives, where a launcher that is asked starts it again.
const LOOPED: &str = "looped";

/// The shim's own answer to [`ask_launcher`], on stdout.
#[must_use]
pub fn answer_of_a_loop(error: &Error, sentinel: &str) -> Option<String> {
    let Error::Loop { tried } = error else { return None };
    let tried: Vec<_> = tried.iter().map(|path| path.to_string_lossy()).collect();
    Some(format!("\n{sentinel}\n{}\n{sentinel}\n", json!({ LOOPED: tried })))
}

/// The directory that Python puts first on `sys.path` for a script: links are followed.
fn script_directory(script: &Path) -> PathBuf {
    let resolved = script.canonicalize().unwrap_or_else(|_| script.to_owned());
    resolved.parent().unwrap_or(Path::new("/")).to_owned()
}
