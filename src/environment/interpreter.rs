//! The answer of interpreter.py: a Python's executable, version, `sys.path` and environment; and the files
//! that the answer depends on.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::Fingerprint;
use crate::cli::env_vars;
use crate::error::Error;
use crate::sorted::sorted_map;
use crate::system::child::ChildError;
use crate::system::executables;

pub const INTERPRETER_PY: &str = include_str!("interpreter.py");

/// The Python that runs pcluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    pub executable: PathBuf,
    pub version: String,
    /// The infix of its bytecode files: `cpython-311`.
    pub cache_tag: Option<String>,
    /// The flags with which another run behaves like this one.
    pub flags: Vec<OsString>,
    pub sys_path: Vec<PathBuf>,
    /// The directories of the packages whose code decides about the template. An editable installation may
    /// have them outside of `sys_path`.
    pub sources: Vec<PathBuf>,
    pub prefix: PathBuf,
}

impl Interpreter {
    /// Whether it is Python 3.`minor` or later.
    #[must_use]
    pub fn is_at_least(&self, minor: u32) -> bool {
        let own = self.version.split('.').nth(1).and_then(|own| own.parse::<u32>().ok());
        own.is_none_or(|own| own >= minor)
    }
}

/// The answer of interpreter.py. Its strings are byte strings, a character for each byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterpreterAnswer {
    executable: String,
    version: String,
    cache_tag: Option<String>,
    flags: Vec<String>,
    sys_path: Vec<String>,
    /// Directories that would be on `sys.path` if they existed.
    #[serde(default)]
    candidates: Vec<String>,
    #[serde(default)]
    sources: Vec<String>,
    prefix: String,
    /// Every variable; after `keep_changes` those that the launcher has changed.
    #[serde(default)]
    environment: Option<BTreeMap<String, String>>,
    #[serde(default)]
    unset: Vec<String>,
    /// The directory, the arguments and the user with which a launcher runs pcluster. Absent in the answer of
    /// a console script's interpreter.
    #[serde(default)]
    directory: Option<String>,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    user: Option<u32>,
    /// The program that is running, where the system names it.
    #[serde(default)]
    running: Option<String>,
}

/// Variables that shells set for themselves, and the one that only the question sets.
const IRRELEVANT: [&str; 6] = ["_", "PWD", "OLDPWD", "SHLVL", "__CF_USER_TEXT_ENCODING", env_vars::QUESTION];

impl InterpreterAnswer {
    /// Reduces the environment to the variables that differ from this process's.
    pub fn keep_changes(&mut self) {
        let Some(mut variables) = self.environment.take() else { return };
        let own = sorted_map(env::vars_os().map(|(name, value)| (to_latin1(&name), to_latin1(&value))));
        let counts = |name: &String| !IRRELEVANT.contains(&name.as_str());
        self.unset =
            own.keys().filter(|name| counts(name) && !variables.contains_key(*name)).cloned().collect();
        variables.retain(|name, value| counts(name) && own.get(name) != Some(value));
        self.environment = Some(variables);
    }

    /// The variables that the launcher sets, and those that it unsets.
    #[must_use]
    pub fn changes(&self) -> Vec<(OsString, Option<OsString>)> {
        let changed = self.environment.iter().flatten();
        let changed = changed.map(|(name, value)| (from_latin1(name), Some(from_latin1(value))));
        changed.chain(self.unset.iter().map(|name| (from_latin1(name), None))).collect()
    }

    /// Takes the program that is running for the executable, and returns whether it is known.
    pub fn take_running(&mut self) -> bool {
        let running = self.running.take();
        let is_known = running.is_some();
        self.executable = running.unwrap_or_else(|| self.executable.clone());
        is_known
    }

    /// Whether a launcher that was called with these arguments runs pcluster with them, in the directory and
    /// as the user of this process.
    #[must_use]
    pub fn keeps_call(&self, arguments: &[OsString]) -> bool {
        let directory = self.directory.as_deref().map(|text| PathBuf::from(from_latin1(text)));
        let directory = directory.and_then(|path| path.canonicalize().ok());
        directory.is_some_and(|there| env::current_dir().is_ok_and(|here| here == there))
            && self.arguments.iter().map(|text| from_latin1(text)).eq(arguments.iter().cloned())
            && self.user == Some(rustix::process::geteuid().as_raw())
    }

    #[must_use]
    pub fn interpreter(&self) -> Interpreter {
        let path = |text: &String| PathBuf::from(from_latin1(text));
        Interpreter {
            executable: path(&self.executable),
            version: self.version.clone(),
            cache_tag: self.cache_tag.clone(),
            flags: self.flags.iter().map(|flag| from_latin1(flag)).collect(),
            sys_path: self.sys_path.iter().map(path).collect(),
            sources: self.sources.iter().map(path).collect(),
            prefix: path(&self.prefix),
        }
    }
}

/// Reads an answer of interpreter.py, and reduces its environment to the changes.
#[must_use]
pub fn read_answer(answer: &serde_json::Value) -> Option<InterpreterAnswer> {
    let mut answer = InterpreterAnswer::deserialize(answer).ok()?;
    answer.keep_changes();
    // A Python that was started by the name of pcluster finds this shim under that name on PATH.
    let own = executables::own_executable();
    let is_shim = own.is_some() && answer.interpreter().executable.canonicalize().ok() == own;
    if is_shim && !answer.take_running() {
        return None;
    }
    Some(answer).filter(|answer| answer.interpreter().executable.is_absolute())
}

/// Why an environment is unknown.
#[derive(Debug)]
pub enum IdentifyError {
    /// The launcher names an interpreter that does not exist.
    DeadInterpreter {
        interpreter: PathBuf,
    },
    /// The launcher or the interpreter.
    Unreadable {
        file: PathBuf,
        source: io::Error,
    },
    /// It starts this shim again, which finds no other pcluster.
    Loop {
        tried: Vec<PathBuf>,
    },
    /// It has ended and no Python that heeds PYTHONPATH has imported pcluster.
    NoAnswer,
    /// Several Pythons have imported pcluster.
    Ambiguous {
        interpreters: Vec<PathBuf>,
    },
    Child(ChildError),
}

impl fmt::Display for IdentifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadInterpreter { interpreter } => {
                write!(f, "its interpreter {} does not exist; reinstall pcluster", interpreter.display())
            }
            Self::Unreadable { file, source } => {
                write!(f, "cannot read {}: {source}", file.display())
            }
            Self::NoAnswer => f.write_str(
                "it does not tell which Python it starts; it may replace PYTHONPATH, or start none",
            ),
            Self::Ambiguous { interpreters } => {
                let names: Vec<_> = interpreters.iter().map(|path| path.display().to_string()).collect();
                write!(f, "it starts pcluster in more than one way: {}", names.join(", "))
            }
            Self::Loop { tried } => Error::Loop { tried: tried.clone() }.fmt(f),
            Self::Child(error) => error.fmt(f),
        }
    }
}

impl From<ChildError> for IdentifyError {
    fn from(error: ChildError) -> Self {
        Self::Child(error)
    }
}

/// Converts bytes to text, a character for each: a string of JSON cannot hold every byte string.
#[must_use]
pub fn to_latin1(bytes: &OsStr) -> String {
    bytes.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

fn from_latin1(text: &str) -> OsString {
    let byte = |letter: char| u8::try_from(u32::from(letter)).unwrap_or(b'?');
    OsString::from_vec(text.chars().map(byte).collect())
}

/// The value of PYTHONPATH with one more directory in front.
#[must_use]
pub fn python_path(first: &Path, rest: Option<OsString>) -> OsString {
    let mut joined = first.as_os_str().to_owned();
    if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
        joined.push(":");
        joined.push(rest);
    }
    joined
}

impl InterpreterAnswer {
    /// A digest of the files that decide about `sys.path`: pyvenv.cfg, the directories that would be on it
    /// if they existed, and in each directory the files that Python acts on.
    #[must_use]
    pub fn dependencies(&self) -> String {
        let mut digest = Fingerprint::new();
        let executable = PathBuf::from(from_latin1(&self.executable));
        digest.file(&executable);
        for directory in executable.ancestors().skip(1).take(2) {
            digest.file(&directory.join("pyvenv.cfg"));
        }
        for directory in self.sys_path.iter().chain(&self.candidates) {
            let directory = PathBuf::from(from_latin1(directory));
            digest.field(directory.as_os_str().as_bytes());
            digest.field(if directory.exists() { "there" } else { "absent" });
            for file in find_path_files(&directory) {
                digest.file(&file);
            }
        }
        digest.key()
    }
}

/// Finds the files of a directory that change how Python finds modules.
fn find_path_files(directory: &Path) -> Vec<PathBuf> {
    let names = directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut files: Vec<PathBuf> =
        names.filter(|name| is_path_file(name)).map(|name| directory.join(name)).collect();
    files.sort_unstable();
    // A package of one of these names is a directory.
    let packages: Vec<PathBuf> = files.iter().map(|path| path.join("__init__.py")).collect();
    files.extend(packages.into_iter().filter(|path| path.exists()));
    files
}

fn is_path_file(name: &OsStr) -> bool {
    let name = name.as_bytes();
    [&b".pth"[..], b".egg", b".egg-link"].iter().any(|ending| name.ends_with(ending))
        || [&b"sitecustomize"[..], b"usercustomize", b"__editable__"]
            .iter()
            .any(|stem| name.starts_with(stem))
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
        // A cached answer is not reduced again.
        let cached = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<InterpreterAnswer>(&cached).unwrap().changes(), changes);
    }

    #[test]
    fn a_candidate_that_appears_changes_the_digest() {
        let root = tempfile::tempdir().unwrap();
        let mut answer = answer();
        answer.candidates = vec![to_latin1(root.path().join("user-site").as_os_str())];
        let before = answer.dependencies();
        assert_eq!(answer.dependencies(), before);
        std::fs::create_dir(root.path().join("user-site")).unwrap();
        let there = answer.dependencies();
        assert_ne!(there, before);
        std::fs::write(root.path().join("user-site/x.pth"), "/x").unwrap();
        assert_ne!(answer.dependencies(), there);
    }
}
