//! argv → the invocation: a pass-through, a guarded `build-image`, or a command of `preflight`.
//!
//! - `args`: the command line of `preflight`
//! - `settings`: config.yaml, variables, and their precedence

pub mod args;
pub mod settings;

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{self, Path, PathBuf};

/// The three kinds of calls.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    PassThrough(Vec<OsString>),
    BuildImage(Vec<OsString>),
    /// The arguments after `preflight`.
    Preflight(Vec<OsString>),
}

impl Invocation {
    /// The first argument that isn't an option counts as pcluster's subcommand. It has to be written in full,
    /// because pcluster's argparse accepts no abbreviated subcommands. If pcluster's own parser refuses a
    /// guarded call, the user sees pcluster's usage error, as without the guard.
    pub fn read(command_line: Vec<OsString>) -> Self {
        let mut command_line = command_line.into_iter();
        let name = command_line.next().unwrap_or_default();
        let arguments: Vec<OsString> = command_line.collect();
        if is_preflight(&name) {
            return Self::Preflight(arguments);
        }
        let is_option = |argument: &&OsString| argument.as_bytes().starts_with(b"-");
        match arguments.iter().find(|argument| !is_option(argument)) {
            Some(command) if command == "build-image" => Self::BuildImage(arguments),
            Some(command) if command == "preflight" && arguments[0] == "preflight" => {
                Self::Preflight(arguments[1..].to_vec())
            }
            _ => Self::PassThrough(arguments),
        }
    }
}

/// Whether a program was called as `pcluster-preflight`, by name or by path. Under this name, the shim has
/// only the commands of `preflight`.
pub fn is_preflight(name: &OsStr) -> bool {
    Path::new(name).file_name() == Some(OsStr::new("pcluster-preflight"))
}

pub fn is_called_preflight() -> bool {
    env::args_os().next().is_some_and(|name| is_preflight(&name))
}

/// The directory in the path by which the user called `pcluster-preflight`. The user means the `pcluster` in
/// that directory. `None` if the call has no path, or if the program was called as `pcluster`.
pub fn called_directory() -> Option<PathBuf> {
    called_path().filter(|_| is_called_preflight())?.parent().map(Path::to_owned)
}

/// The path by which this program was called. `None` for a bare name.
pub fn called_path() -> Option<PathBuf> {
    let name = env::args_os().next().filter(|name| name.as_bytes().contains(&b'/'))?;
    path::absolute(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_first_argument_that_is_no_option_names_the_command() {
        let call = |line| Invocation::read(split(line));
        assert!(matches!(call("pcluster build-image -c x"), Invocation::BuildImage(_)));
        assert!(matches!(call("pcluster --debug build-image"), Invocation::BuildImage(_)));
        assert!(
            matches!(call("/a/pcluster-preflight -q"), Invocation::Preflight(rest) if rest == split("-q"))
        );
        assert!(
            matches!(call("pcluster preflight where"), Invocation::Preflight(rest) if rest == split("where"))
        );
        assert!(matches!(call("pcluster -h preflight"), Invocation::PassThrough(_)));
        assert!(matches!(call("pcluster build-imag"), Invocation::PassThrough(_)));
        assert!(matches!(call("pcluster list-images --x build-image"), Invocation::PassThrough(_)));
        assert!(matches!(call("pcluster"), Invocation::PassThrough(_)));
        assert!(matches!(Invocation::read(Vec::new()), Invocation::PassThrough(_)));
    }
}
