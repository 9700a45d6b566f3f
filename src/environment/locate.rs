//! The real pcluster: found on PATH, or named by a flag, a variable or the config.
//!
//! A shim is not recognised by its path: one file can have several paths, and other builds of this program
//! are shims too. Instead, a candidate's device and inode are compared with those of our own executable. If
//! the candidate is a binary, we also look for `MARKER` in it.

use std::env;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::model::options::FoundBy;
use memchr::memmem;

use crate::cli::called_directory;
use crate::environment::interpreter::python_path;
use crate::environment::launcher::is_console_script;
use crate::environment::loop_guard::{FileId, LoopGuard};
use crate::error::Error;
use crate::model::env_vars;
use crate::outcome::Exec;
use crate::system::{executables, files};

/// The name that is searched for on PATH.
pub const NAME: &str = "pcluster";

/// The path of the launcher that `install.sh --venv` has replaced with the shim,
/// relative to the shim's directory.
///
/// The file at this path is a link to `pcluster.real`, which is next to the shim. The link is in a separate
/// directory so that it can be named `pcluster`, the name that usage texts show. The link's target is next to
/// the shim because some launchers search for their Python in their own directory.
pub const REPLACED_LAUNCHER: &str = ".pcluster-shim/pcluster";

/// A text in every build of this program, old and new. It must never be changed.
const MARKER: &str = "pcluster-shim executable 7c1e4d6a-86f5-4f0b-9a0c-2d3b51e6f0aa";

/// The real pcluster.
#[derive(Debug, Clone)]
pub struct Real {
    /// The path as found, never made canonical: launchers and multicall programs depend on the name by which
    /// they are called.
    pub path: PathBuf,
    pub found_by: FoundBy,
    /// How the exec changes `PCLUSTER_SHIM_TRIED`, the variable of [`LoopGuard`]. With this variable, the
    /// shim recognises a program that starts `pcluster` again. A console script of aws-parallelcluster
    /// never does that, so the exec of a console script removes the variable. `None` if there is no
    /// variable to remove.
    guard_variable: Option<(&'static str, Option<OsString>)>,
}

impl Real {
    pub fn into_exec(self, arguments: Vec<OsString>) -> Exec {
        Exec { program: self.path, arguments, environment: self.guard_variable.into_iter().collect() }
    }

    /// Like [`Real::into_exec`], but with the packages of `overlay` in front of those of the environment.
    pub fn into_exec_with(self, arguments: Vec<OsString>, overlay: &Path) -> Exec {
        let mut exec = self.into_exec(arguments);
        let python_path = python_path(overlay, env::var_os("PYTHONPATH"));
        exec.environment.push(("PYTHONPATH", Some(python_path)));
        exec
    }
}

/// A search for the real pcluster.
#[derive(Debug)]
pub struct Search {
    path: OsString,
    /// If `pcluster-preflight` was called by a path: the directory that this path names. It is searched
    /// before PATH.
    first: Option<PathBuf>,
    named: Option<(PathBuf, FoundBy)>,
    loop_guard: LoopGuard,
    own_path: Option<PathBuf>,
    own: Option<FileId>,
}

impl Search {
    /// Uses this process's environment for the search. `named` is the path from a flag or from the config.
    /// `PCLUSTER_SHIM_REAL` overrides the config, and a flag overrides `PCLUSTER_SHIM_REAL`.
    pub fn from_environment(named: Option<(PathBuf, FoundBy)>) -> Self {
        let by_variable = env::var_os(env_vars::REAL)
            .filter(|value| !value.is_empty())
            .map(|value| (PathBuf::from(value), FoundBy::Variable));
        let named = match named {
            Some((path, FoundBy::Flag)) => Some((path, FoundBy::Flag)),
            other => by_variable.or(other),
        };
        let own_path = executables::own_executable();
        let own = own_path.as_deref().and_then(FileId::of);
        let path = env::var_os("PATH").unwrap_or_default();
        Self {
            path,
            first: called_directory(),
            named,
            loop_guard: LoopGuard::from_environment(),
            own_path,
            own,
        }
    }

    /// The real pcluster that a flag, `PCLUSTER_SHIM_REAL` or the config names.
    pub fn named(&self) -> Option<&(PathBuf, FoundBy)> {
        self.named.as_ref()
    }

    /// Finds the real pcluster.
    pub fn real(&self) -> Result<Real, Error> {
        // The config applies to all environments. Anything that selects a single environment overrides the
        // config: a flag, PCLUSTER_SHIM_REAL, a launcher that this shim has replaced, and the directory in
        // the path by which `pcluster-preflight` was called.
        if let Some((path, by)) = self.named.as_ref().filter(|(_, by)| *by != FoundBy::Config) {
            return self.named_real(path, *by);
        }
        let mut looped = Vec::new();
        if let Some(launcher) = self.replaced_launcher() {
            match self.classify(&launcher) {
                Some(CandidateStatus::Usable) => return Ok(self.choose(launcher, FoundBy::Replaced)),
                Some(CandidateStatus::Tried) => looped.push(launcher),
                _ => {}
            }
        }
        if let Some(directory) = &self.first {
            let path = directory.join(NAME);
            let beside = self.classify(&path).map(|status| Candidate { path, status });
            if let Some(real) = beside.and_then(|beside| self.take(beside, FoundBy::Beside, &mut looped)) {
                return Ok(real);
            }
            if looped.is_empty() && is_environment(directory) {
                return Err(Error::NothingBeside { directory: directory.clone() });
            }
        }
        if let Some((path, by)) = &self.named {
            return self.named_real(path, *by);
        }
        for candidate in self.candidates() {
            if let Some(real) = self.take(candidate, FoundBy::Path, &mut looped) {
                return Ok(real);
            }
        }
        if looped.is_empty() { Err(Error::NoRealPcluster) } else { Err(Error::Loop { tried: looped }) }
    }

    /// Accepts a candidate or, if the candidate is a shim, the launcher that the candidate has replaced. A
    /// program that has already started this shim again is added to `looped`.
    fn take(&self, candidate: Candidate, by: FoundBy, looped: &mut Vec<PathBuf>) -> Option<Real> {
        match candidate.status {
            CandidateStatus::Usable => return Some(self.choose(candidate.path, by)),
            CandidateStatus::Tried => looped.push(candidate.path),
            CandidateStatus::Shim => {
                let launcher = self.replaced_launcher_beside(&candidate.path)?;
                match self.classify(&launcher) {
                    Some(CandidateStatus::Usable) => return Some(self.choose(launcher, FoundBy::Replaced)),
                    Some(CandidateStatus::Tried) => looped.push(launcher),
                    _ => {}
                }
            }
            CandidateStatus::NotAbsolute => {}
        }
        None
    }

    fn named_real(&self, path: &Path, by: FoundBy) -> Result<Real, Error> {
        let bad = |why| Error::BadReal { path: path.to_owned(), by: by.name(), why };
        if !path.is_absolute() {
            return Err(bad("which is not an absolute path"));
        }
        match self.classify(path) {
            Some(CandidateStatus::Usable) => Ok(self.choose(path.to_owned(), by)),
            Some(CandidateStatus::Shim) => match self.replaced_launcher_beside(path) {
                Some(launcher) if self.classify(&launcher) == Some(CandidateStatus::Usable) => {
                    Ok(self.choose(launcher, by))
                }
                _ => Err(bad("which is this shim")),
            },
            Some(CandidateStatus::Tried) => Err(Error::Loop { tried: vec![path.to_owned()] }),
            Some(CandidateStatus::NotAbsolute) | None => Err(bad("which is not an executable file")),
        }
    }

    /// The launcher that this shim has replaced. `None` if pip or uv has since overwritten the shim with a
    /// newer launcher.
    fn replaced_launcher(&self) -> Option<PathBuf> {
        let directory = self.own_path.as_deref()?.parent()?;
        let launcher = executable(&directory.join(REPLACED_LAUNCHER))?;
        (self.classify(&directory.join(NAME))? == CandidateStatus::Shim).then_some(launcher)
    }

    /// The launcher that a shim (this one or another) has replaced. `shim` is any path of that shim.
    pub fn replaced_launcher_beside(&self, shim: &Path) -> Option<PathBuf> {
        if FileId::of(shim) == self.own {
            // `shim` can be a hard link to our own executable, in an environment that has its own launcher.
            let beside = shim.parent().and_then(|directory| executable(&directory.join(REPLACED_LAUNCHER)));
            return beside.or_else(|| self.replaced_launcher());
        }
        executable(&shim.canonicalize().ok()?.parent()?.join(REPLACED_LAUNCHER))
    }

    /// Whether a path is this shim.
    pub fn is_self(&self, path: &Path) -> bool {
        self.own.is_some() && FileId::of(path) == self.own
    }

    /// The entries of PATH.
    pub fn entries(&self) -> impl Iterator<Item = PathBuf> {
        env::split_paths(&self.path)
    }

    /// The real pcluster at a path that was found to be usable.
    pub fn choose(&self, path: PathBuf, found_by: FoundBy) -> Real {
        let guard_variable = if is_console_script(&path) {
            // The variable is removed only if it is set, because any change makes std copy the
            // whole environment.
            env::var_os(env_vars::TRIED).map(|_| (env_vars::TRIED, None))
        } else {
            Some((env_vars::TRIED, Some(self.loop_guard.with(&path))))
        };
        Real { path, found_by, guard_variable }
    }

    /// Every executable `pcluster` on PATH, in order, and whether it could be the real pcluster.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        env::split_paths(&self.path).filter_map(|directory| {
            let path = directory.join(NAME);
            let status = if directory.is_absolute() {
                self.classify(&path)?
            } else {
                // An empty or relative entry depends on the current directory, so its `pcluster` is listed,
                // but never run.
                executable(&env::current_dir().ok()?.join(&path))?;
                CandidateStatus::NotAbsolute
            };
            Some(Candidate { path, status })
        })
    }

    /// Classifies a file; `None` if it is not executable.
    pub fn classify(&self, path: &Path) -> Option<CandidateStatus> {
        let identity = FileId::from(&executables::executable(path)?);
        Some(if self.own == Some(identity) || is_shim(path) {
            CandidateStatus::Shim
        } else if self.loop_guard.contains(identity) {
            CandidateStatus::Tried
        } else {
            CandidateStatus::Usable
        })
    }
}

/// An executable `pcluster` on PATH.
#[derive(Debug)]
pub struct Candidate {
    pub path: PathBuf,
    pub status: CandidateStatus,
}

/// Whether a candidate could be the real pcluster, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateStatus {
    Usable,
    Shim,
    /// The shim started this candidate before, and the candidate started the shim again.
    Tried,
    NotAbsolute,
}

/// Whether the parent directory of `programs` is a virtual environment (PEP 405).
pub fn is_environment(programs: &Path) -> bool {
    programs.parent().is_some_and(|directory| directory.join("pyvenv.cfg").is_file())
}

fn executable(path: &Path) -> Option<PathBuf> {
    executables::is_executable(path).then(|| path.to_owned())
}

fn is_shim(path: &Path) -> bool {
    let Ok(mut file) = files::open(path) else { return false };
    let mut start = [0; 2];
    file.read_exact(&mut start).is_ok() && start != *b"#!" && contains_marker(file)
}

/// Searches a program for `MARKER`, piece by piece. For a frozen program of about ten MB, this takes a few
/// milliseconds, once in each call of `pcluster`.
fn contains_marker(mut program: impl Read) -> bool {
    const PIECE: usize = 256 << 10;
    let marker = memmem::Finder::new(MARKER);
    let mut piece = Vec::with_capacity(PIECE + MARKER.len());
    loop {
        let read = program.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        if marker.find(&piece).is_some() {
            return true;
        }
        if !read.is_ok_and(|read| read > 0) {
            return false;
        }
        // The end of a piece is kept, because the marker may begin there.
        piece.drain(..piece.len().saturating_sub(MARKER.len() - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that replaces identical files with hard links can create a hard link to a shim.
    #[test]
    fn a_hard_link_to_the_shim_of_an_environment_finds_its_launcher() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let root = tempfile::tempdir().unwrap();
        let [bin, prefix] = ["venv/bin", "prefix"].map(|name| root.path().join(name));
        std::fs::create_dir_all(bin.join(".pcluster-shim")).unwrap();
        std::fs::create_dir(&prefix).unwrap();
        for name in [NAME, "pcluster.real"] {
            std::fs::write(bin.join(name), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("../pcluster.real", bin.join(REPLACED_LAUNCHER)).unwrap();
        let own_path = prefix.join(NAME);
        std::fs::hard_link(bin.join(NAME), &own_path).unwrap();
        let search = Search {
            path: env::join_paths([&prefix, &bin]).unwrap(),
            first: None,
            named: None,
            loop_guard: LoopGuard::default(),
            own: FileId::of(&own_path),
            own_path: Some(own_path),
        };
        assert_eq!(search.real().unwrap().path, bin.join(REPLACED_LAUNCHER));
        let named = Search { named: Some((bin.join(NAME), FoundBy::Variable)), ..search };
        assert_eq!(named.real().unwrap().path, bin.join(REPLACED_LAUNCHER));
    }

    #[test]
    fn the_marker_is_found_wherever_it_stands() {
        for before in [0, 1, (256 << 10) - 1, (256 << 10) - MARKER.len(), (256 << 10) - 10, 600_000] {
            let program = [&vec![b'p'; before], MARKER.as_bytes(), b"rest"].concat();
            assert!(contains_marker(program.as_slice()), "{before}");
            let other = &program[..before + MARKER.len() - 1];
            assert!(!contains_marker(other), "{before}");
        }
    }

    /// Some systems report the running executable by the path that was called, which may be a link.
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
        let own = FileId::of(&link);
        let search = Search {
            path: OsString::new(),
            first: None,
            named: None,
            loop_guard: LoopGuard::default(),
            own_path: Some(executables::without_links(link)),
            own,
        };
        let found = search.real().unwrap();
        assert_eq!(found.path, bin.canonicalize().unwrap().join(REPLACED_LAUNCHER));
        assert_eq!(found.found_by, FoundBy::Replaced);
    }
}
