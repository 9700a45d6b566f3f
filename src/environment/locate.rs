//! PATH → the real pcluster, and how it was found. Knows what "self" is; knows nothing of Python.
//!
//! Self is not a path: the same file has many names, and another build of the shim is still a
//! shim. So a candidate is compared by device and inode, and a binary is searched for [`MARKER`].

use std::env;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::env_vars;
use crate::environment::interpreter::python_path;
use crate::environment::launcher::is_console_script;
use crate::environment::loop_guard::{Identity, Tried};
use crate::error::Error;
use crate::outcome::Exec;
use crate::system::{executables, files};

/// The name that is looked up on PATH.
pub const NAME: &str = "pcluster";

/// Where `install.sh --venv` keeps the launcher that the shim took the place of, beside the shim.
///
/// It is a link, in a directory of its own so that it bears the name that usage texts show, to
/// `pcluster.real` beside the shim, so that a launcher that looks for its Python beside itself
/// finds it.
pub const REPLACED_LAUNCHER: &str = ".pcluster-shim/pcluster";

/// Stands in every build of this program, old and new. Never to be changed.
const MARKER: &str = "pcluster-shim executable 7c1e4d6a-86f5-4f0b-9a0c-2d3b51e6f0aa";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FoundBy {
    Flag,
    Variable,
    Config,
    /// Beside the shim, whose place it had.
    Kept,
    Path,
}

impl FoundBy {
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Flag => "--real",
            Self::Variable => env_vars::REAL,
            Self::Config => "config.yaml's real",
            Self::Kept => "install.sh --venv",
            Self::Path => "PATH",
        }
    }
}

/// The real pcluster.
#[derive(Debug, Clone)]
pub struct Real {
    /// As found, never made canonical: launchers and multicall programs look at their own name.
    pub path: PathBuf,
    pub found_by: FoundBy,
    /// What the real program's environment says about the search, so that a program that starts
    /// `pcluster` again by exec is recognised. A console script of aws-parallelcluster never does
    /// that: it gets exactly the caller's environment.
    tried: Option<(&'static str, Option<OsString>)>,
}

impl Real {
    #[must_use]
    pub fn into_exec(self, arguments: Vec<OsString>) -> Exec {
        Exec { program: self.path, arguments, environment: self.tried.into_iter().collect() }
    }

    /// With the packages of a directory in front of the environment's.
    #[must_use]
    pub fn into_exec_with(self, arguments: Vec<OsString>, overlay: &Path) -> Exec {
        let mut exec = self.into_exec(arguments);
        let python_path = python_path(overlay, env::var_os("PYTHONPATH"));
        exec.environment.push(("PYTHONPATH", Some(python_path)));
        exec
    }
}

/// One search for the real pcluster.
#[derive(Debug)]
pub struct Search {
    path: OsString,
    named: Option<(PathBuf, FoundBy)>,
    tried: Tried,
    own_path: Option<PathBuf>,
    own: Option<Identity>,
}

impl Search {
    /// `named` is a flag's or the config's; the variable stands between the two.
    #[must_use]
    pub fn from_environment(named: Option<(PathBuf, FoundBy)>) -> Self {
        let by_variable = env::var_os(env_vars::REAL)
            .filter(|value| !value.is_empty())
            .map(|value| (PathBuf::from(value), FoundBy::Variable));
        let named = match named {
            Some((path, FoundBy::Flag)) => Some((path, FoundBy::Flag)),
            other => by_variable.or(other),
        };
        let own_path = executables::own_executable();
        let own = own_path.as_deref().and_then(Identity::of);
        let path = env::var_os("PATH").unwrap_or_default();
        Self { path, named, tried: Tried::from_environment(), own_path, own }
    }

    /// The real pcluster that a flag, the variable or the config names.
    #[must_use]
    pub fn named(&self) -> Option<&(PathBuf, FoundBy)> {
        self.named.as_ref()
    }

    /// # Errors
    /// No candidate, only candidates that came back to us, or a named one that cannot be real.
    pub fn real(&self) -> Result<Real, Error> {
        if let Some((path, by)) = &self.named {
            return self.named_real(path, *by);
        }
        let mut looped = Vec::new();
        if let Some(kept) = self.replaced_launcher() {
            match self.standing(&kept) {
                Some(Standing::Usable) => return Ok(self.chosen(kept, FoundBy::Kept)),
                Some(Standing::Tried) => looped.push(kept),
                _ => {}
            }
        }
        for candidate in self.candidates() {
            match candidate.standing {
                Standing::Usable => return Ok(self.chosen(candidate.path, FoundBy::Path)),
                Standing::Tried => looped.push(candidate.path),
                Standing::Shim => {
                    // Another environment's shim in place: its launcher stands in this very entry.
                    let kept = self.replaced_launcher_beside(&candidate.path);
                    match kept.as_deref().and_then(|kept| self.standing(kept)).zip(kept) {
                        Some((Standing::Usable, kept)) => return Ok(self.chosen(kept, FoundBy::Kept)),
                        Some((Standing::Tried, kept)) => looped.push(kept),
                        _ => {}
                    }
                }
                Standing::NotAbsolute => {}
            }
        }
        if looped.is_empty() { Err(Error::NoRealPcluster) } else { Err(Error::Loop { tried: looped }) }
    }

    fn named_real(&self, path: &Path, by: FoundBy) -> Result<Real, Error> {
        let bad = |why| Error::BadReal { path: path.to_owned(), by: by.words(), why };
        if !path.is_absolute() {
            return Err(bad("which is not an absolute path"));
        }
        match self.standing(path) {
            Some(Standing::Usable) => Ok(self.chosen(path.to_owned(), by)),
            Some(Standing::Shim) => match self.replaced_launcher_beside(path) {
                Some(kept) if self.standing(&kept) == Some(Standing::Usable) => Ok(self.chosen(kept, by)),
                _ => Err(bad("which is this shim")),
            },
            Some(Standing::Tried) => Err(Error::Loop { tried: vec![path.to_owned()] }),
            Some(Standing::NotAbsolute) | None => Err(bad("which is not a file that can be executed")),
        }
    }

    /// The launcher that we took the place of, while we have that place: what pip or uv has put
    /// there since is newer than what was kept.
    fn replaced_launcher(&self) -> Option<PathBuf> {
        // Where the system does not tell the running executable, this is the name it was called by,
        // which may be a link.
        let own = self.own_path.as_deref()?.canonicalize().ok()?;
        let directory = own.parent()?;
        let kept = executable(&directory.join(REPLACED_LAUNCHER))?;
        (self.standing(&directory.join(NAME))? == Standing::Shim).then_some(kept)
    }

    /// The same for another shim, under whatever name PATH leads to it.
    #[must_use]
    pub fn replaced_launcher_beside(&self, shim: &Path) -> Option<PathBuf> {
        if Identity::of(shim) == self.own {
            return self.replaced_launcher();
        }
        executable(&shim.canonicalize().ok()?.parent()?.join(REPLACED_LAUNCHER))
    }

    #[must_use]
    pub fn is_self(&self, path: &Path) -> bool {
        self.own.is_some() && Identity::of(path) == self.own
    }

    /// The entries of PATH.
    pub fn entries(&self) -> impl Iterator<Item = PathBuf> {
        env::split_paths(&self.path)
    }

    fn chosen(&self, path: PathBuf, found_by: FoundBy) -> Real {
        let tried = if is_console_script(&path) {
            // Removed only where it is there: std would copy the environment for it.
            env::var_os(env_vars::TRIED).map(|_| (env_vars::TRIED, None))
        } else {
            Some((env_vars::TRIED, Some(self.tried.with(&path))))
        };
        Real { path, found_by, tried }
    }

    /// Every executable `pcluster` on PATH, in order, and whether it may be the real one.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        env::split_paths(&self.path).filter_map(|directory| {
            let path = directory.join(NAME);
            let standing = if directory.is_absolute() {
                self.standing(&path)?
            } else {
                // An empty or relative entry would run whatever lies in the current directory.
                executable(&env::current_dir().ok()?.join(&path))?;
                Standing::NotAbsolute
            };
            Some(Candidate { path, standing })
        })
    }

    /// `None`: not an executable file at all.
    #[must_use]
    pub fn standing(&self, path: &Path) -> Option<Standing> {
        let path = executable(path)?;
        let identity = Identity::of(&path)?;
        Some(if self.own == Some(identity) || is_shim(&path) {
            Standing::Shim
        } else if self.tried.holds(identity) {
            Standing::Tried
        } else {
            Standing::Usable
        })
    }
}

#[derive(Debug)]
pub struct Candidate {
    pub path: PathBuf,
    pub standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Usable,
    Shim,
    /// It was run, and ran us again.
    Tried,
    NotAbsolute,
}

fn executable(path: &Path) -> Option<PathBuf> {
    executables::is_executable(path).then(|| path.to_owned())
}

fn is_shim(path: &Path) -> bool {
    let Ok(mut file) = files::open(path) else { return false };
    let mut content = vec![0; 2];
    if file.read_exact(&mut content).is_err() || content == b"#!" {
        return false;
    }
    // Frozen programs are read whole: a few milliseconds, once a call, for those who have them.
    file.read_to_end(&mut content).is_ok() && memchr::memmem::find(&content, MARKER.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some systems tell the name that a program was started by, which may be a link from elsewhere.
    #[test]
    fn the_launcher_that_was_replaced_is_found_through_a_link() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("venv/bin");
        std::fs::create_dir_all(bin.join(".pcluster-shim")).unwrap();
        for name in [NAME, REPLACED_LAUNCHER] {
            std::fs::write(bin.join(name), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let link = root.path().join("linked");
        symlink(bin.join(NAME), &link).unwrap();
        let own = Identity::of(&link);
        let search =
            Search { path: OsString::new(), named: None, tried: Tried::default(), own_path: Some(link), own };
        let found = search.real().unwrap();
        assert_eq!(found.path, bin.canonicalize().unwrap().join(REPLACED_LAUNCHER));
        assert_eq!(found.found_by, FoundBy::Kept);
    }
}
