//! The forms of launchers: how the head of a file named pcluster tells which Python it starts.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::system::{executables, files};

/// The forms of launchers.
#[derive(Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `#!/path/to/python [argument]`, as the kernel reads it.
    Shebang { interpreter: PathBuf, argument: Option<OsString> },
    /// `#!/usr/bin/env [-S] python3 [arguments]`.
    Env { words: Vec<OsString> },
    /// `#!/bin/sh`, and an exec that Python reads as a string: for long paths and paths with spaces.
    Trampoline { words: Vec<OsString>, beside_script: bool },
    /// A wrapper, a shim of a version manager, a frozen program.
    Other,
}

impl Launcher {
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&files::read_head(path, 4096)?))
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
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
    #[must_use]
    pub fn interpreter(&self, script_directory: &Path) -> Option<(PathBuf, Vec<OsString>)> {
        match self {
            Self::Shebang { interpreter, argument } => {
                Some((interpreter.clone(), argument.iter().cloned().collect()))
            }
            Self::Env { words } => {
                let (program, arguments) = words.split_first()?;
                let program = executables::find(program, env::var_os("PATH"))?;
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
