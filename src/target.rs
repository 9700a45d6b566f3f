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
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::child::{Child, ChildError, Scratch, framed, sentinel, set};
use crate::cli::variable;
use crate::error::Error;
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
    let launcher = read_launcher(&real.path)?;
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

/// The forms of launchers.
#[derive(Debug, PartialEq, Eq)]
enum Launcher {
    /// `#!/path/to/python [argument]`, as the kernel reads it.
    Shebang { interpreter: PathBuf, argument: Option<OsString> },
    /// `#!/usr/bin/env [-S] python3 [arguments]`.
    Env { words: Vec<OsString> },
    /// `#!/bin/sh`, and an exec that Python reads as a string: for long paths and paths with spaces.
    Trampoline { words: Vec<OsString>, beside_script: bool },
    /// A wrapper, a shim of a version manager, a frozen program.
    Other,
}

fn read_launcher(path: &Path) -> Result<Launcher, Unidentified> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4096).read_to_end(&mut head))
        .map_err(|source| Unidentified::Unreadable { launcher: path.to_owned(), source })?;
    Ok(Launcher::parse(&head))
}

impl Launcher {
    fn name(&self) -> &'static str {
        match self {
            Self::Shebang { .. } => "shebang",
            Self::Env { .. } => "env shebang",
            Self::Trampoline { .. } => "sh trampoline",
            Self::Other => "wrapper",
        }
    }

    fn parse(head: &[u8]) -> Self {
        let mut lines = head.split(|byte| *byte == b'\n');
        let Some(shebang) = lines.next().and_then(|line| line.strip_prefix(b"#!")) else {
            return Self::Other;
        };
        let shebang = shebang.trim_ascii();
        let (interpreter, argument) = match shebang.iter().position(u8::is_ascii_whitespace) {
            Some(end) => (&shebang[..end], Some(shebang[end..].trim_ascii())),
            None => (shebang, None),
        };
        let interpreter = PathBuf::from(OsStr::from_bytes(interpreter));
        if is_python(&interpreter) && interpreter.is_absolute() {
            return Self::Shebang {
                interpreter,
                argument: argument.map(|text| OsStr::from_bytes(text).to_owned()),
            };
        }
        match interpreter.file_name().and_then(OsStr::to_str) {
            Some("env") => Self::parse_env(argument.unwrap_or_default()),
            Some("sh") => lines.next().and_then(Self::parse_trampoline).unwrap_or(Self::Other),
            _ => Self::Other,
        }
    }

    fn parse_env(argument: &[u8]) -> Self {
        let words: Vec<&[u8]> = match argument.strip_prefix(b"-S") {
            Some(rest) => rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect(),
            None => vec![argument],
        };
        // Quotes, escapes, and variables to set or to expand: left to env itself.
        if words.iter().any(|word| word.iter().any(|byte| b"'\"\\$=".contains(byte))) {
            return Self::Other;
        }
        let words: Vec<OsString> = words.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
        match words.first() {
            Some(program) if is_python(Path::new(program)) => Self::Env { words },
            _ => Self::Other,
        }
    }

    /// `'''exec' PYTHON [FLAGS] "$0" "$@"`, perhaps with a comment behind it.
    fn parse_trampoline(line: &[u8]) -> Option<Self> {
        const BESIDE: &str = r#""$(dirname -- "$(realpath -- "$0")")"/"#;
        let line = std::str::from_utf8(line).ok()?;
        let command = line.strip_prefix("'''exec' ")?.split_once(r#" "$0" "$@""#)?.0.trim();
        let (command, beside_script) = match command.strip_prefix(BESIDE) {
            Some(rest) => (rest, true),
            None => (command, false),
        };
        let words = shell_words(command)?;
        is_python(Path::new(words.first()?)).then_some(Self::Trampoline { words, beside_script })
    }

    /// The program to ask and the arguments before the script's name.
    fn interpreter(&self, script_directory: &Path) -> Option<(PathBuf, Vec<OsString>)> {
        match self {
            Self::Shebang { interpreter, argument } => {
                Some((interpreter.clone(), argument.iter().cloned().collect()))
            }
            Self::Env { words } => {
                let (program, arguments) = words.split_first()?;
                let program = which::which_in(program, env::var_os("PATH"), env::current_dir().ok()?).ok()?;
                Some((program, arguments.to_vec()))
            }
            Self::Trampoline { words, beside_script } => {
                let (program, arguments) = words.split_first()?;
                let base = if *beside_script { script_directory } else { Path::new("") };
                Some((base.join(program), arguments.to_vec()))
            }
            Self::Other => None,
        }
    }
}

fn is_python(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"python") || name.as_bytes().starts_with(b"pypy"))
}

/// The directory that Python puts first on `sys.path` for a script: links are followed.
fn script_directory(script: &Path) -> PathBuf {
    let resolved = script.canonicalize().unwrap_or_else(|_| script.to_owned());
    resolved.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Words as a shell reads them; `None` where it would expand something.
fn shell_words(text: &str) -> Option<Vec<OsString>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in text.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (Some('"') | None, '$' | '`' | '\\') => return None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then(|| words.into_iter().map(OsString::from).collect())
}

/// The Node that CDK will run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub path: PathBuf,
    pub version: Version,
}

/// Why there is no usable Node.
#[derive(Debug)]
pub enum NoNode {
    NotFound,
    /// Its `--version` is no version.
    Odd {
        path: PathBuf,
        said: String,
    },
    Child(ChildError),
    Scratch(std::io::Error),
}

impl fmt::Display for NoNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => write!(f, "no node on PATH, and CDK needs Node.js; install it or extend PATH"),
            Self::Odd { path, said } => write!(f, "{} --version said {said:?}", path.display()),
            Self::Child(error) => error.fmt(f),
            Self::Scratch(source) => write!(f, "no temporary directory: {source}"),
        }
    }
}

/// The `node` on the target's PATH and its version, from memory where the file is the same.
///
/// # Errors
/// There is none, it does not say its version, or we were interrupted.
pub fn node(target: &Target, limit: Duration, memory: &Memory) -> Result<Node, NoNode> {
    let here = env::current_dir().unwrap_or_else(|_| "/".into());
    let path = which::which_in("node", Some(target.path()), here).map_err(|_| NoNode::NotFound)?;
    let key = is_plain_node(&path).then(|| Fingerprint::new().file(&path).key());
    let recalled = key.as_ref().and_then(|key| memory.recall("node", key));
    if let Some(version) = recalled.and_then(|kept| serde_json::from_value(kept).ok()) {
        return Ok(Node { path, version });
    }
    let version = ask_node(&path, target, limit)?;
    if let Some(key) = key {
        memory.keep("node", &key, &serde_json::to_value(&version).unwrap_or_default());
    }
    Ok(Node { path, version })
}

/// A version manager's shim under the name of node answers by the directory it is called in, so
/// only a binary that really is called node may be remembered.
fn is_plain_node(path: &Path) -> bool {
    let resolved = path.canonicalize().unwrap_or_default();
    let named = matches!(resolved.file_name().and_then(OsStr::to_str), Some("node" | "nodejs"));
    let mut head = [0; 2];
    named && File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head != *b"#!"
}

fn ask_node(path: &Path, target: &Target, limit: Duration) -> Result<Version, NoNode> {
    let scratch = Scratch::new().map_err(NoNode::Scratch)?;
    let environment = target.environment.clone();
    let child = Child { program: path, arguments: vec!["--version".into()], environment, limit };
    let finished = child.run(&scratch).map_err(NoNode::Child)?;
    if !finished.status.success() {
        let (program, status, stderr) = (path.to_owned(), finished.status, finished.stderr);
        return Err(NoNode::Child(ChildError::Failed { program, status, stderr }));
    }
    let said = String::from_utf8_lossy(&finished.stdout).trim().chars().take(80).collect::<String>();
    let version = said.strip_prefix('v').and_then(|version| Version::parse(version).ok());
    version.ok_or_else(|| NoNode::Odd { path: path.to_owned(), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn every_form_of_launcher_is_told_from_the_others() {
        let shebang = |path: &str, argument: Option<&str>| Launcher::Shebang {
            interpreter: path.into(),
            argument: argument.map(OsString::from),
        };
        let trampoline =
            |line: &str, beside| Launcher::Trampoline { words: vec![line.into()], beside_script: beside };
        for (head, launcher) in [
            ("#!/v/bin/python\nimport sys", shebang("/v/bin/python", None)),
            ("#!/v/bin/python3.9", shebang("/v/bin/python3.9", None)),
            ("#! /v/bin/python3 -sP \n", shebang("/v/bin/python3", Some("-sP"))),
            ("#!/v/bin/pypy3\n", shebang("/v/bin/pypy3", None)),
            ("#!/usr/bin/env python3\n", Launcher::Env { words: words("python3") }),
            ("#!/usr/bin/env -S python3 -s\n", Launcher::Env { words: words("python3 -s") }),
            ("#!/bin/sh\n'''exec' /long/python \"$0\" \"$@\"\n' '''\n", trampoline("/long/python", false)),
            ("#!/bin/sh\n'''exec' \"/a b/python\" \"$0\" \"$@\"\n", trampoline("/a b/python", false)),
            ("#!/bin/sh\n'''exec' '/a b/python' \"$0\" \"$@\"\n", trampoline("/a b/python", false)),
            ("#!/bin/sh\n'''exec' '/it'\"'\"'s/python' \"$0\" \"$@\"\n", trampoline("/it's/python", false)),
            ("#!/bin/sh\n'''exec' \"/c/python\" \"$0\" \"$@\" #'''\n", trampoline("/c/python", false)),
            (
                "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n",
                trampoline("python", true),
            ),
            (
                "#!/bin/sh\n'''exec' /v/python -E \"$0\" \"$@\"\n",
                Launcher::Trampoline { words: words("/v/python -E"), beside_script: false },
            ),
            ("#!/usr/bin/env -S PYTHONPATH=/x python3\n", Launcher::Other),
            ("#!/usr/bin/env -S python3 '-W ignore'\n", Launcher::Other),
            ("#!/usr/bin/env bash\nexec pyenv", Launcher::Other),
            ("#!/bin/sh\nexec /v/bin/python \"$0\" \"$@\"\n", Launcher::Other),
            ("#!/bin/sh\n'''exec' $HOME/python \"$0\" \"$@\"\n", Launcher::Other),
            ("#!python3\n", Launcher::Other),
            ("#!", Launcher::Other),
            ("", Launcher::Other),
            ("\x7fELF", Launcher::Other),
        ] {
            assert_eq!(Launcher::parse(head.as_bytes()), launcher, "{head:?}");
        }
    }

    #[test]
    fn shell_words_gives_up_where_a_shell_would_expand() {
        let expected: Vec<OsString> = ["a", "b c", "de"].map(OsString::from).into();
        assert_eq!(shell_words("a 'b c' \"d\"e"), Some(expected));
        for expanded in ["$x", "`x`", "\"$x\"", "a\\ b", "'open"] {
            assert_eq!(shell_words(expanded), None, "{expanded}");
        }
        assert_eq!(shell_words("'$x'"), Some(vec!["$x".into()]));
    }

    proptest::proptest! {
        #[test]
        fn no_launcher_makes_it_panic(head in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = Launcher::parse(&head);
            let _ = Launcher::parse(&[b"#!/bin/sh\n'''exec' ", head.as_slice()].concat());
        }
    }
}
