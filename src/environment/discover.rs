//! Finds every real pcluster that this user can reach: one that a setting names, those on PATH or where
//! environments are usually kept, and those below the directories that `--root` names.
//!
//! A launcher that a setting names or that is on PATH is trusted, because the user would run it anyway. A
//! launcher that is found anywhere else may belong to another user, so it is run only if nobody but this user
//! or root could have written it.

use std::collections::VecDeque;
use std::env;
use std::io;
use std::path::{Path, PathBuf};

use crate::environment::launcher::Launcher;
use crate::environment::locate::{CandidateStatus, NAME, Real, Search};
use crate::environment::loop_guard::FileId;
use crate::environment::places::{self, Place};
use crate::error::Error;
use crate::model::options::FoundBy;
use crate::system::{files, trust};

/// How deep below a `--root` an environment may be: `/home/USER/work/PROJECT/sub/.venv` is six levels
/// below `/`.
const MAX_DEPTH: usize = 8;

/// At most this many directories are read below one `--root`. A source tree has some thousands.
const MAX_DIRECTORIES: usize = 100_000;

/// Names of directories that contain many directories, but no environment.
const PASSED_OVER: [&str; 6] =
    ["node_modules", ".git", "__pycache__", "site-packages", "dist-packages", ".hg"];

/// Kernel file systems, which contain no environment.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A pcluster that was found.
#[derive(Debug)]
pub struct Found {
    pub real: Real,
    /// Why this pcluster must not be run, if there is a reason.
    pub distrust: Option<String>,
}

/// Everything that was found, and the `--root` directories that were too large to be searched completely.
#[derive(Debug, Default)]
pub struct Discovery {
    pub found: Vec<Found>,
    pub cut_off: Vec<PathBuf>,
    seen: Vec<FileId>,
}

/// Finds every real pcluster, each launcher once, in this order: named, PATH, known places, roots.
pub fn discover(search: &Search, roots: &[PathBuf]) -> Result<Discovery, Error> {
    for root in roots {
        let why = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => "no such directory".into(),
            _ => error.to_string(),
        };
        root.read_dir().map_err(|error| Error::BadRoot { directory: root.clone(), why: why(error) })?;
    }
    let mut discovery = Discovery::default();
    if let Some((path, found_by)) = search.named() {
        discovery.add(search, path, *found_by);
    }
    let (shims, entries): (Vec<_>, Vec<_>) =
        search.entries().filter(|entry| entry.is_absolute()).partition(|entry| leads_elsewhere(entry));
    for entry in entries {
        discovery.add(search, &entry.join(NAME), FoundBy::Path);
    }
    let behind_shims = shims.iter().filter_map(|entry| places::behind_shims(entry)).flatten();
    let places = places::list(|name| env::var_os(name).filter(|value| !value.is_empty()));
    for place in behind_shims.chain(places) {
        for environment in expand(&place) {
            discovery.add(search, &environment.join("bin").join(NAME), FoundBy::Search);
        }
    }
    for environment in read_conda_list() {
        discovery.add(search, &environment.join("bin").join(NAME), FoundBy::Search);
    }
    for root in roots {
        let is_whole = walk(root, MAX_DIRECTORIES, |directory| {
            discovery.add(search, &directory.join("bin").join(NAME), FoundBy::Search);
        });
        if !is_whole {
            discovery.cut_off.push(root.clone());
        }
    }
    Ok(discovery)
}

impl Discovery {
    /// Adds the launcher at `path` or, if `path` is a shim, the launcher that this shim has replaced. Each
    /// launcher is added only once.
    fn add(&mut self, search: &Search, path: &Path, found_by: FoundBy) {
        let path = match search.classify(path) {
            Some(CandidateStatus::Usable) => path.to_owned(),
            Some(CandidateStatus::Shim) => match search.replaced_launcher_beside(path) {
                Some(launcher) if search.classify(&launcher) == Some(CandidateStatus::Usable) => launcher,
                _ => return,
            },
            _ => return,
        };
        let Some(identity) = FileId::of(&path).filter(|identity| !self.seen.contains(identity)) else {
            return;
        };
        self.seen.push(identity);
        let distrust = if found_by == FoundBy::Search { distrust(&path) } else { None };
        self.found.push(Found { real: search.choose(path, found_by), distrust });
    }
}

/// Whether this directory of PATH contains a version manager's shims, which choose one of several
/// environments. `discover` searches those environments instead of the shims.
fn leads_elsewhere(entry: &Path) -> bool {
    places::behind_shims(entry).is_some_and(|places| places.iter().any(|place| !expand(place).is_empty()))
}

/// Why a launcher that a search found must not be run: another user could have changed the launcher, the
/// Python that it names, or the directory of either.
fn distrust(launcher: &Path) -> Option<String> {
    let python = match Launcher::read(launcher) {
        Ok(Launcher::ConsoleScript(script)) => {
            let resolved = launcher.canonicalize().ok();
            let directory = resolved.as_deref().and_then(Path::parent).unwrap_or(Path::new("/"));
            script.interpreter(directory).map(|(program, _)| program)
        }
        _ => None,
    };
    [launcher.to_owned()].into_iter().chain(python).find_map(|program| {
        let resolved = program.canonicalize().ok();
        let directories = [program.parent(), resolved.as_deref().and_then(Path::parent)];
        let places = [Some(program.as_path()), resolved.as_deref()].into_iter().chain(directories).flatten();
        places.into_iter().find_map(|place| Some(format!("{} {}", place.display(), trust::why_not(place)?)))
    })
}

/// The directories that match a pattern. Links are followed. They cannot cause an endless loop, because a
/// pattern has a fixed number of levels.
fn expand(place: &Place) -> Vec<PathBuf> {
    let names = place.below.split('/').filter(|name| !name.is_empty());
    names.fold(vec![place.base.clone()], |directories, name| match name {
        "*" => directories.iter().flat_map(|directory| list(directory)).collect(),
        name => {
            directories.iter().map(|directory| directory.join(name)).filter(|path| path.is_dir()).collect()
        }
    })
}

/// The directories in a directory, including links to directories, sorted by name.
fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    let mut directories: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    directories.sort_unstable();
    directories
}

fn read_conda_list() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let text = home.and_then(|home| files::read_to_string(&home.join(".conda/environments.txt")).ok());
    places::read_conda_list(&text.unwrap_or_default())
}

/// Visits a directory and those below it, parents first, without following links. Returns false if it stopped
/// after `max_directories`.
fn walk(root: &Path, max_directories: usize, mut visit: impl FnMut(&Path)) -> bool {
    let mut waiting = VecDeque::from([(root.to_owned(), 0)]);
    let mut count = 0;
    while let Some((directory, depth)) = waiting.pop_front() {
        if count == max_directories {
            return false;
        }
        count += 1;
        visit(&directory);
        if depth == MAX_DEPTH {
            continue;
        }
        // An unreadable directory is skipped, for example another user's in /home.
        let entries = directory.read_dir().into_iter().flatten().flatten();
        let mut below: Vec<_> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter(|entry| !PASSED_OVER.iter().any(|name| entry.file_name() == *name))
            .map(|entry| entry.path())
            .filter(|path| !KERNEL.iter().any(|kernel| path == Path::new(kernel)))
            .collect();
        below.sort_unstable();
        waiting.extend(below.into_iter().map(|path| (path, depth + 1)));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn visited(root: &Path, max_directories: usize) -> (Vec<String>, bool) {
        let mut visited = Vec::new();
        let is_whole = walk(root, max_directories, |directory| {
            visited.push(directory.strip_prefix(root).unwrap().display().to_string());
        });
        (visited, is_whole)
    }

    #[test]
    fn a_walk_is_bounded_in_depth_and_number_and_follows_no_link() {
        let root = tempfile::tempdir().unwrap();
        for path in ["a/b", "node_modules/x", ".git/x", "1/2/3/4/5/6/7/8/9"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        symlink(root.path(), root.path().join("a/loop")).unwrap();
        let (all, is_whole) = visited(root.path(), 100);
        assert!(is_whole);
        let expected = ["", "1", "a", "1/2", "a/b", "1/2/3", "1/2/3/4", "1/2/3/4/5", "1/2/3/4/5/6"];
        assert_eq!(all[..9], expected);
        assert_eq!(all[9..], ["1/2/3/4/5/6/7", "1/2/3/4/5/6/7/8"]);
        assert_eq!(visited(root.path(), 3), (vec![String::new(), "1".into(), "a".into()], false));
        assert!(visited(root.path(), 11).1);
    }

    #[test]
    fn a_pattern_leads_to_directories_only() {
        let root = tempfile::tempdir().unwrap();
        for path in ["versions/3.9/envs/x", "versions/3.10"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        fs::write(root.path().join("versions/file"), "").unwrap();
        let expanded = |below| expand(&Place { base: root.path().to_owned(), below });
        let in_root = |path: &str| root.path().join(path);
        assert_eq!(expanded(""), [root.path()]);
        assert_eq!(expanded("versions/*"), [in_root("versions/3.10"), in_root("versions/3.9")]);
        assert_eq!(expanded("versions/*/envs/*"), [in_root("versions/3.9/envs/x")]);
        assert_eq!(expanded("absent/*"), [] as [PathBuf; 0]);
    }
}
