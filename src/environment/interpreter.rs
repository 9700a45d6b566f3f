//! The answer of interpreter.py: a Python's executable, version, `sys.path` and environment.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, join};
use crate::model::env_vars;
use crate::system::child::ChildError;
use crate::system::executables;

pub const INTERPRETER_PY: &str = include_str!("interpreter.py");

/// The Python that runs pcluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    pub executable: PathBuf,
    pub version: String,
    /// The infix in the names of this Python's bytecode files: `cpython-311`.
    pub cache_tag: Option<String>,
    /// The flags of this Python when it runs pcluster. `-B` is left out.
    pub flags: Vec<OsString>,
    pub sys_path: Vec<PathBuf>,
    pub prefix: PathBuf,
}

impl Interpreter {
    /// The flags for a child that runs this Python: those that Python has when it runs pcluster, and `-B`, so
    /// that the child writes no bytecode into the environment. `-B` is used rather than
    /// PYTHONDONTWRITEBYTECODE, because `-I` and `-E` make Python ignore that variable.
    pub fn run_flags(&self) -> Vec<OsString> {
        self.flags.iter().cloned().chain(["-B".into()]).collect()
    }

    /// Whether it is Python 3.`minor` or later.
    pub fn is_at_least(&self, minor: u32) -> bool {
        let own = self.version.split('.').nth(1).and_then(|own| own.parse::<u32>().ok());
        own.is_none_or(|own| own >= minor)
    }
}

/// The answer of interpreter.py. Each character in its strings is one byte.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterpreterAnswer {
    executable: String,
    version: String,
    cache_tag: Option<String>,
    flags: Vec<String>,
    sys_path: Vec<String>,
    prefix: String,
    /// All variables of this Python's environment; after `keep_changes`, only those that the launcher
    /// has changed.
    #[serde(default)]
    environment: Option<BTreeMap<String, String>>,
    #[serde(default)]
    unset: Vec<String>,
    /// The directory in which a launcher runs pcluster. The fields `arguments` and `user` say with which
    /// arguments and as which user the launcher runs pcluster. These three fields and `running` are missing
    /// from the answer of a console script's interpreter.
    #[serde(default)]
    directory: Option<String>,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    user: Option<u32>,
    /// The path of the program that ran interpreter.py, if the system has `/proc/self/exe`.
    #[serde(default)]
    running: Option<String>,
}

/// Changes to these variables do not count. Shells set some of them for themselves. We set the last two when
/// we ask a launcher: PYTHONDONTWRITEBYTECODE, because no check may write bytecode, and the variable that
/// names the directory of the question.
const IRRELEVANT: [&str; 7] =
    ["_", "PWD", "OLDPWD", "SHLVL", "__CF_USER_TEXT_ENCODING", "PYTHONDONTWRITEBYTECODE", env_vars::QUESTION];

impl InterpreterAnswer {
    /// Reduces the environment to the variables that differ from this process's.
    pub fn keep_changes(&mut self) {
        let Some(mut variables) = self.environment.take() else { return };
        let own = env::vars_os()
            .map(|(name, value)| (to_latin1(&name), to_latin1(&value)))
            .collect::<BTreeMap<_, _>>();
        let counts = |name: &String| !IRRELEVANT.contains(&name.as_str());
        self.unset =
            own.keys().filter(|name| counts(name) && !variables.contains_key(*name)).cloned().collect();
        variables.retain(|name, value| counts(name) && own.get(name) != Some(value));
        self.environment = Some(variables);
    }

    /// The variables that the launcher sets, and those that it unsets.
    pub fn changes(&self) -> Vec<(OsString, Option<OsString>)> {
        let changed = self.environment.iter().flatten();
        let changed = changed.map(|(name, value)| (from_latin1(name), Some(from_latin1(value))));
        changed.chain(self.unset.iter().map(|name| (from_latin1(name), None))).collect()
    }

    /// Replaces the executable that Python reported with the program that really ran (`running`), if that is
    /// known; returns whether it is known.
    pub fn take_running(&mut self) -> bool {
        let running = self.running.take();
        let is_known = running.is_some();
        self.executable = running.unwrap_or_else(|| self.executable.clone());
        is_known
    }

    /// Whether a launcher that was called with these arguments passes them on unchanged, and runs pcluster in
    /// the same directory and as the same user as this process.
    pub fn keeps_call(&self, arguments: &[OsString]) -> bool {
        let directory = self.directory.as_deref().map(|text| PathBuf::from(from_latin1(text)));
        let directory = directory.and_then(|path| path.canonicalize().ok());
        directory.is_some_and(|there| env::current_dir().is_ok_and(|here| here == there))
            && self.arguments.iter().map(|text| from_latin1(text)).eq(arguments.iter().cloned())
            && self.user == Some(rustix::process::geteuid().as_raw())
    }

    pub fn interpreter(&self) -> Interpreter {
        let path = |text: &String| PathBuf::from(from_latin1(text));
        Interpreter {
            executable: path(&self.executable),
            version: self.version.clone(),
            cache_tag: self.cache_tag.clone(),
            flags: self.flags.iter().map(|flag| from_latin1(flag)).collect(),
            sys_path: self.sys_path.iter().map(path).collect(),
            prefix: path(&self.prefix),
        }
    }
}

/// Reads an answer of interpreter.py, and reduces its environment to the variables that the launcher
/// has changed.
pub fn read_answer(answer: &serde_json::Value) -> Option<InterpreterAnswer> {
    let mut answer = InterpreterAnswer::deserialize(answer).ok()?;
    answer.keep_changes();
    // A launcher may start Python under the name `pcluster` (`argv[0]`). Python then looks for this name on
    // PATH, finds this shim, and reports the shim as its own executable.
    let own = executables::own_executable();
    let is_shim = own.is_some() && answer.interpreter().executable.canonicalize().ok() == own;
    if is_shim && !answer.take_running() {
        return None;
    }
    Some(answer).filter(|answer| answer.interpreter().executable.is_absolute())
}

/// Why the target of a launcher cannot be identified.
#[derive(Debug, thiserror::Error)]
pub enum IdentifyError {
    /// The launcher names an interpreter that does not exist.
    #[error("pcluster's interpreter {interpreter} does not exist; reinstall aws-parallelcluster")]
    DeadInterpreter { interpreter: PathBuf },
    /// The launcher or the interpreter cannot be read.
    #[error("cannot read {file}: {source}")]
    Unreadable { file: PathBuf, source: io::Error },
    /// The launcher starts this shim again, and the shim finds no other pcluster.
    #[error("{}", Error::Loop { tried: tried.clone() })]
    Loop { tried: Vec<PathBuf> },
    /// The launcher has ended, and no Python that respects PYTHONPATH has imported pcluster.
    #[error(
        "cannot determine which Python this launcher runs: it may override PYTHONPATH, or not run Python at all"
    )]
    NoAnswer,
    /// Several Pythons have imported pcluster.
    #[error("it runs pcluster with more than one Python: {}", join(interpreters))]
    Ambiguous { interpreters: Vec<PathBuf> },
    #[error(transparent)]
    Child(#[from] ChildError),
}

/// Converts bytes to text, one character for each byte, because a JSON string cannot contain arbitrary bytes.
pub fn to_latin1(bytes: &OsStr) -> String {
    bytes.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

fn from_latin1(text: &str) -> OsString {
    let byte = |letter: char| u8::try_from(u32::from(letter)).unwrap_or(b'?');
    OsString::from_vec(text.chars().map(byte).collect())
}

/// A value for PYTHONPATH: the directory `first`, then the entries of `rest`.
pub fn python_path(first: &Path, rest: Option<OsString>) -> OsString {
    let mut joined = first.as_os_str().to_owned();
    if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
        joined.push(":");
        joined.push(rest);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> InterpreterAnswer {
        let text = r#"{"executable": "/v/bin/python", "version": "3.9.7", "cacheTag": null, "flags": [],
                       "sysPath": [], "prefix": "/v"}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_preserved() {
        let bytes = OsString::from_vec((0..=255).collect());
        assert_eq!(from_latin1(&to_latin1(&bytes)), bytes);
    }

    #[test]
    fn only_what_the_launcher_changed_is_kept() {
        let mut answer = answer();
        let mut variables: BTreeMap<String, String> =
            env::vars_os().map(|(name, value)| (to_latin1(&name), to_latin1(&value))).collect();
        variables.remove("PATH");
        variables.insert("NEW".into(), "caf\u{c3}\u{a9}".into());
        variables.insert("SHLVL".into(), "99".into());
        answer.environment = Some(variables);
        answer.keep_changes();
        let changes = answer.changes();
        assert_eq!(changes, [("NEW".into(), Some("café".into())), ("PATH".into(), None)]);
    }
}
