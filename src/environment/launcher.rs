//! Launchers: whether a file named pcluster is a console script that an installer wrote, and which
//! Python such a script starts.
//!
//! The interpreter is read only from a file whose whole text is known, because a single unknown line could
//! start any program. Any other launcher has to be started to find out which Python it runs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::environment::console_script_text::{Body, read_body};
use crate::system::{executables, files};

/// More than any console script needs: the longest known one is 1.2 kB long, not counting its first lines.
const MAX_SCRIPT: u64 = 16 << 10;

/// What a file named pcluster is.
#[derive(Debug, PartialEq, Eq)]
pub enum Launcher {
    ConsoleScript(ConsoleScript),
    /// Anything else, such as a wrapper, a version manager's shim, an archive or a frozen program.
    Other,
}

/// A console script whose whole text is known.
#[derive(Debug, PartialEq, Eq)]
pub struct ConsoleScript {
    start: Start,
    /// The script's `__requires__`, if the script always imports `pkg_resources`, which reads this variable.
    pub requires: Option<String>,
}

/// How a console script starts its Python.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// `#!/path/to/python [flags]`, as the kernel reads it.
    Shebang { interpreter: PathBuf, flags: Option<OsString> },
    /// `#!/usr/bin/env [-S] python3 [flags]`.
    Env { words: Vec<OsString> },
    /// `#!/bin/sh`, then a line that the shell runs as an `exec`, but that Python reads as a string.
    /// Installers write this if the path of Python is long or contains spaces.
    Trampoline { words: Vec<OsString>, beside_script: bool },
}

impl Launcher {
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&files::read_head(path, MAX_SCRIPT + 1)?))
    }

    pub fn parse(text: &[u8]) -> Self {
        ConsoleScript::parse(text).map_or(Self::Other, Self::ConsoleScript)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::ConsoleScript(script) => match script.start {
                Start::Shebang { .. } => "shebang",
                Start::Env { .. } => "env shebang",
                Start::Trampoline { .. } => "sh trampoline",
            },
            Self::Other => "wrapper",
        }
    }
}

/// Whether a launcher starts its Python with a flag that makes Python ignore PYTHONPATH (`-E`, `-I`) or every
/// sitecustomize (`-S`). Such a launcher works, but it cannot be asked which Python it runs: the question
/// reaches Python as a `sitecustomize` on PYTHONPATH.
pub fn ignores_sitecustomize(path: &Path) -> bool {
    let head = files::read_head(path, MAX_SCRIPT).unwrap_or_default();
    let start = read_start(&head).map(|(start, _)| start);
    start.is_some_and(|start| start.flags().iter().any(|flag| has_letter(flag, b"EIS")))
}

/// Whether a file is a console script of aws-parallelcluster. Such a script never starts `pcluster` again.
pub fn is_console_script(path: &Path) -> bool {
    matches!(Launcher::read(path), Ok(Launcher::ConsoleScript(_)))
}

impl ConsoleScript {
    fn parse(text: &[u8]) -> Option<Self> {
        if text.len() as u64 > MAX_SCRIPT {
            return None;
        }
        let (start, body) = read_start(text)?;
        let Body { requires } = read_body(std::str::from_utf8(body).ok()?)?;
        Some(Self { start, requires })
    }

    /// The interpreter, and its arguments before the script's name; `None` if `env` would find
    /// no interpreter.
    pub fn interpreter(&self, script_directory: &Path) -> Option<(PathBuf, Vec<OsString>)> {
        match &self.start {
            Start::Shebang { interpreter, flags } => {
                Some((interpreter.clone(), flags.iter().cloned().collect()))
            }
            Start::Env { words } => {
                let (program, flags) = words.split_first()?;
                let program = executables::find(program, env::var_os("PATH"))?;
                Some((program, flags.to_vec()))
            }
            Start::Trampoline { words, beside_script } => {
                let (program, flags) = words.split_first()?;
                let base = if *beside_script { script_directory } else { Path::new("") };
                Some((base.join(program), flags.to_vec()))
            }
        }
    }
}

/// How a script starts its Python, and the text below the lines that do so.
fn read_start(text: &[u8]) -> Option<(Start, &[u8])> {
    let (first, rest) = split_line(text.strip_prefix(b"#!")?);
    if first.trim_ascii().ends_with(b"/sh") {
        Start::from_trampoline(rest)
    } else {
        Some((Start::from_shebang(first)?, rest))
    }
}

impl Start {
    /// The arguments that Python gets before the script's name.
    fn flags(&self) -> &[OsString] {
        match self {
            Self::Shebang { flags, .. } => flags.as_slice(),
            Self::Env { words } | Self::Trampoline { words, .. } => words.get(1..).unwrap_or_default(),
        }
    }

    fn from_shebang(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        let (interpreter, argument) = match line.iter().position(u8::is_ascii_whitespace) {
            Some(end) => (&line[..end], Some(line[end..].trim_ascii())),
            None => (line, None),
        };
        let interpreter = PathBuf::from(OsStr::from_bytes(interpreter));
        if is_python(&interpreter) && interpreter.is_absolute() {
            let flags = argument.map(|text| OsStr::from_bytes(text).to_owned());
            return flags.iter().all(|flag| is_flag(flag)).then_some(Self::Shebang { interpreter, flags });
        }
        // A file named env in any other directory could be another program.
        let is_env = ["/usr/bin/env", "/bin/env"].iter().any(|env| interpreter == Path::new(env));
        if is_env { Self::from_env(argument?) } else { None }
    }

    fn from_env(argument: &[u8]) -> Option<Self> {
        let words: Vec<&[u8]> = match argument.strip_prefix(b"-S") {
            Some(rest) => rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect(),
            None => vec![argument],
        };
        // Quotes, escapes, and the setting or expansion of variables are not parsed here.
        if words.iter().any(|word| word.iter().any(|byte| b"'\"\\$=".contains(byte))) {
            return None;
        }
        let words: Vec<OsString> = words.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
        starts_python(&words).then_some(Self::Env { words })
    }

    /// Reads the line `'''exec' PYTHON [FLAGS] "$0" "$@"`. To Python, its `'''` begins a string. The string
    /// ends on the next line, or, in conda's form, after a comment sign on the same line. Also returns the
    /// text after the string.
    fn from_trampoline(text: &[u8]) -> Option<(Self, &[u8])> {
        const BESIDE: &str = r#""$(dirname -- "$(realpath -- "$0")")"/"#;
        let (line, rest) = split_line(text);
        let line = std::str::from_utf8(line).ok()?.strip_prefix("'''exec' ")?;
        let (command, body) = if let Some(command) = line.strip_suffix(r#" "$0" "$@" #'''"#) {
            (command, rest)
        } else {
            let (end, body) = split_line(rest);
            (line.strip_suffix(r#" "$0" "$@""#).filter(|_| end == b"' '''")?, body)
        };
        let (command, beside_script) = match command.strip_prefix(BESIDE) {
            Some(rest) => (rest, true),
            None => (command, false),
        };
        let words = split_shell_words(command)?;
        // A bare word is not accepted: the shell would look it up on PATH, but we would take it for a file in
        // the current directory.
        let is_placed = beside_script || Path::new(words.first()?).is_absolute();
        (is_placed && starts_python(&words)).then_some((Self::Trampoline { words, beside_script }, body))
    }
}

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, &[]),
    }
}

fn starts_python(words: &[OsString]) -> bool {
    words.split_first().is_some_and(|(program, flags)| {
        is_python(Path::new(program)) && flags.iter().all(|flag| is_flag(flag))
    })
}

fn is_python(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"python") || name.as_bytes().starts_with(b"pypy"))
}

/// Whether an argument is a known flag with which Python still runs the script. With `-m` or `-c`, Python
/// would run something else.
fn is_flag(argument: &OsStr) -> bool {
    match argument.as_bytes() {
        [b'-', b'W' | b'X', value @ ..] => !value.is_empty(),
        [b'-', letters @ ..] => {
            !letters.is_empty() && letters.iter().all(|letter| b"BbdEIOPqRSsuv".contains(letter))
        }
        _ => false,
    }
}

/// Whether a group of flags, such as `-sP`, contains one of these letters.
fn has_letter(flag: &OsStr, letters: &[u8]) -> bool {
    match flag.as_bytes() {
        [b'-', b'W' | b'X', ..] => false,
        flag => flag.iter().any(|letter| letters.contains(letter)),
    }
}

/// Splits a text into words as a shell does; `None` if a shell would expand something or end the command.
fn split_shell_words(text: &str) -> Option<Vec<OsString>> {
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
            (None, other) if other.is_ascii() && !is_plain(other) => return None,
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then(|| words.into_iter().map(OsString::from).collect())
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "/-_.+,:@%".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::console_script_text::{BODIES, ENCODING};

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    /// The text that distlib writes below the lines that start Python.
    fn body() -> String {
        format!("{ENCODING}\n{}\n", BODIES[0])
    }

    fn started(head: &str) -> Option<Start> {
        match Launcher::parse((head.to_owned() + &body()).as_bytes()) {
            Launcher::ConsoleScript(script) => Some(script.start),
            Launcher::Other => None,
        }
    }

    #[test]
    fn every_way_to_start_python_is_recognised() {
        let shebang = |path: &str, flags: Option<&str>| {
            Some(Start::Shebang { interpreter: path.into(), flags: flags.map(OsString::from) })
        };
        let env = |line: &str| Some(Start::Env { words: words(line) });
        let trampoline =
            |line: &str, beside_script| Some(Start::Trampoline { words: vec![line.into()], beside_script });
        for (head, start) in [
            ("#!/v/bin/python\n", shebang("/v/bin/python", None)),
            ("#!/v/bin/python3.9\n", shebang("/v/bin/python3.9", None)),
            ("#! /v/bin/python3 -sP \n", shebang("/v/bin/python3", Some("-sP"))),
            ("#!/v/bin/python3 -Wignore\n", shebang("/v/bin/python3", Some("-Wignore"))),
            ("#!/v/bin/pypy3\n", shebang("/v/bin/pypy3", None)),
            ("#!/usr/bin/env python3\n", env("python3")),
            ("#!/usr/bin/env -S python3 -s\n", env("python3 -s")),
            ("#!/bin/sh\n'''exec' /long/python \"$0\" \"$@\"\n' '''\n", trampoline("/long/python", false)),
            ("#!/bin/sh\n'''exec' \"/a b/python\" \"$0\" \"$@\"\n' '''\n", trampoline("/a b/python", false)),
            ("#!/bin/sh\n'''exec' '/a b/python' \"$0\" \"$@\"\n' '''\n", trampoline("/a b/python", false)),
            (
                "#!/bin/sh\n'''exec' '/it'\"'\"'s/python' \"$0\" \"$@\"\n' '''\n",
                trampoline("/it's/python", false),
            ),
            ("#!/bin/sh\n'''exec' \"/c/python\" \"$0\" \"$@\" #'''\n", trampoline("/c/python", false)),
            (
                "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python' \"$0\" \"$@\"\n' '''\n",
                trampoline("python", true),
            ),
            (
                "#!/bin/sh\n'''exec' /v/python -E \"$0\" \"$@\"\n' '''\n",
                Some(Start::Trampoline { words: words("/v/python -E"), beside_script: false }),
            ),
            ("#!/v/bin/python3 -m\n", None),
            ("#!/v/bin/python3 -cprint()\n", None),
            ("#!/v/bin/python3 other.py\n", None),
            ("#!/usr/bin/env -S PYTHONPATH=/x python3\n", None),
            ("#!/usr/bin/env -S python3 '-W ignore'\n", None),
            ("#!/usr/bin/env -S python3 -m x\n", None),
            ("#!/usr/bin/env bash\n", None),
            ("#!/bin/sh\nexec /v/bin/python \"$0\" \"$@\"\n", None),
            ("#!/bin/sh\n'''exec' $HOME/python \"$0\" \"$@\"\n' '''\n", None),
            ("#!/bin/sh\n'''exec' /v/python;x \"$0\" \"$@\"\n' '''\n", None),
            ("#!/bin/sh\n'''exec' /v/python \"$0\" x \"$@\"\n' '''\n", None),
            ("#!/bin/sh\n'''exec' /v/python \"$0\" \"$@\" || x\n' '''\n", None),
            ("#!/bin/sh\n'''exec' /v/python \"$0\" \"$@\"\n'; x '''\n", None),
            ("#!/bin/sh\n'''exec' /v/python \"$0\" \"$@\"\n", None),
            ("#!/bin/sh\n'''exec' python3 \"$0\" \"$@\"\n' '''\n", None),
            ("#!/home/user/bin/env python3\n", None),
            ("#!python3\n", None),
            ("#!", None),
            ("", None),
            ("\x7fELF", None),
        ] {
            assert_eq!(started(head), start, "{head:?}");
        }
    }

    /// A single unknown line could start any program.
    #[test]
    fn only_a_whole_known_text_is_a_console_script() {
        let script = |body: &str| match Launcher::parse(format!("#!/v/bin/python\n{body}").as_bytes()) {
            Launcher::ConsoleScript(script) => Some(script.requires),
            Launcher::Other => None,
        };
        let requirement = "aws-parallelcluster==3.1.3";
        for known in BODIES {
            let text = known.replace('*', requirement);
            let requires = known.contains("\nfrom pkg_resources").then(|| requirement.to_owned());
            assert_eq!(script(&text), Some(requires.clone()), "{text}");
            let other_quotes =
                format!("{ENCODING}\n\n{}\n\n", text.replace('\'', "\"").replace("sys\n", "sys\n\n"));
            assert_eq!(script(&other_quotes), Some(requires), "{other_quotes}");
            for line in ["import os", "import site; site.addsitedir('/x')", "# -*- coding: rot13 -*-"] {
                for place in 0..=text.lines().count() {
                    let mut lines: Vec<&str> = text.lines().collect();
                    lines.insert(place, line);
                    assert_eq!(script(&lines.join("\n")), None, "{line} at {place}");
                }
            }
            for missing in 0..text.lines().count() {
                let mut lines: Vec<&str> = text.lines().collect();
                lines.remove(missing);
                let shorter = lines.join("\n");
                let is_known = BODIES.iter().any(|body| body.replace('*', requirement) == shorter);
                assert_eq!(script(&shorter).is_some(), is_known, "without line {missing} of\n{text}");
            }
        }
        let two_requirements = BODIES[8].replacen('*', requirement, 2).replace('*', "other==1");
        assert_eq!(script(&two_requirements), None);
        assert_eq!(script(&BODIES[8].replace('*', "x'; import os; '")), None);
        assert_eq!(script(&(BODIES[0].to_owned() + &"\n".repeat(20_000))), None, "too long");
    }

    #[test]
    fn no_words_are_split_where_a_shell_would_expand() {
        let expected: Vec<OsString> = ["a", "b c", "de"].map(OsString::from).into();
        assert_eq!(split_shell_words("a 'b c' \"d\"e"), Some(expected));
        for expanded in ["$x", "`x`", "\"$x\"", "a\\ b", "'open", "a;b", "a*", "~", "a&"] {
            assert_eq!(split_shell_words(expanded), None, "{expanded}");
        }
        assert_eq!(split_shell_words("'$x;'"), Some(vec!["$x;".into()]));
    }

    proptest::proptest! {
        #[test]
        fn no_launcher_makes_it_panic(head in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = Launcher::parse(&head);
            let _ = Launcher::parse(&[b"#!/bin/sh\n'''exec' ", head.as_slice()].concat());
            let _ = Launcher::parse(&[b"#!/v/python\n", head.as_slice()].concat());
        }
    }
}
