//! Which calls of `pcluster` from here start the guard: by name, by path, or through a shell function.

use std::env;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::{called_directory, called_path, is_called_preflight};
use crate::environment::locate::{Candidate, CandidateStatus, NAME, Search};
use crate::model::env_vars;
use crate::system::dirs;
use crate::text::printable::{lossy, quote_for_shell};

/// A way to call pcluster.
#[derive(Debug, Serialize)]
pub(crate) struct Call {
    /// The call in words for the user: a path, or for example `pcluster in a script`.
    pub(crate) program: String,
    pub(crate) guarded: bool,
    #[serde(skip)]
    pub(crate) why: String,
}

/// How `preflight where` was called, and what that shows about calls of pcluster.
#[derive(Debug)]
pub(crate) struct Calls {
    /// The first `pcluster` on PATH.
    pub(crate) first: Option<PathBuf>,
    pub(crate) is_first_guarded: bool,
    /// Whether this program was called by the function that install.sh defines in interactive shells.
    pub(crate) is_function: bool,
    /// If this program was called by a path: the `pcluster` in the directory of that path. `true` means that
    /// this `pcluster` is a shim that replaced a launcher, `false` that this `pcluster` is no shim.
    by_path: Option<(PathBuf, bool)>,
    /// Whether this program was installed by a wheel and there is no guard, neither next to this program nor
    /// on PATH.
    pub(crate) is_wheel_alone: bool,
}

impl Calls {
    pub(crate) fn find(search: &Search, candidates: &[Candidate], own: Option<&Path>) -> Self {
        let is_shim = |path: &Path| search.classify(path) == Some(CandidateStatus::Shim);
        let first = candidates.iter().find(|candidate| candidate.status != CandidateStatus::NotAbsolute);
        let called = match called_directory() {
            Some(directory) => Some(directory.join(NAME)),
            None => called_path().filter(|_| !is_called_preflight()),
        };
        let by_path = called.and_then(|path| match search.classify(&path)? {
            CandidateStatus::Usable => Some((path, false)),
            CandidateStatus::Shim => search.replaced_launcher_beside(&path).map(|_| (path, true)),
            _ => None,
        });
        let is_guard = own.is_some_and(|own| is_shim(&own.with_file_name(NAME)));
        Self {
            is_first_guarded: first.is_some_and(|first| first.status == CandidateStatus::Shim),
            first: first.map(|first| first.path.clone()),
            is_function: env::var_os(env_vars::FUNCTION).is_some(),
            by_path,
            is_wheel_alone: is_called_preflight()
                && !is_guard
                && candidates.iter().all(|candidate| candidate.status != CandidateStatus::Shim),
        }
    }

    /// Whether the `pcluster` in `by_path` is guarded in place.
    pub(crate) fn is_path_guarded(&self) -> bool {
        self.by_path.as_ref().is_some_and(|(_, is_guarded)| *is_guarded)
    }

    /// Whether at least one of the calls in [`Self::list`] starts the guard.
    pub(crate) fn is_guarded(&self) -> bool {
        self.is_first_guarded || self.is_function || self.is_path_guarded()
    }

    pub(crate) fn list(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        if self.is_function {
            let (program, why) = ("pcluster in this shell".into(), " by install.sh's function".into());
            calls.push(Call { program, guarded: true, why });
        }
        if let Some((path, guarded)) =
            self.by_path.as_ref().filter(|(path, _)| self.first.as_ref() != Some(path))
        {
            calls.push(Call { program: lossy(path), guarded: *guarded, why: String::new() });
        }
        let program = if self.is_function { "pcluster in a script" } else { "pcluster, called by its name" };
        let why = match &self.first {
            _ if self.is_first_guarded => String::new(),
            Some(first) => format!("; {} is first on PATH", first.display()),
            None => "; there is no pcluster on PATH".into(),
        };
        calls.push(Call { program: program.into(), guarded: self.is_first_guarded, why });
        calls
    }
}

/// The command that installs a guard. If the user called `pcluster-preflight` by a path, the command contains
/// that path, because the name alone may not be found on PATH.
pub(crate) fn install_command() -> String {
    let path = called_path().filter(|_| is_called_preflight());
    let program = path.map_or("pcluster preflight".into(), |path| quote_for_shell(&lossy(&path)));
    format!("{program} install")
}

/// The line that puts a shim first on PATH in this shell.
pub(crate) fn activate_line(prefix: &Path) -> Option<String> {
    let is_fish = env::var_os("SHELL").is_some_and(|shell| Path::new(&shell).ends_with("fish"));
    let (command, name) = if is_fish { ("source", "env.fish") } else { (".", "env") };
    let file = prefix.join(name);
    file.is_file().then(|| format!("{command} {}", quote_for_shell(&lossy(&file))))
}

/// The prefix of a shim that is installed in install.sh's default place.
pub(crate) fn installed_prefix(search: &Search) -> Option<PathBuf> {
    let prefix = dirs::prefix()?;
    let is_shim = search.classify(&prefix.join("bin").join(NAME)) == Some(CandidateStatus::Shim);
    is_shim.then_some(prefix)
}
