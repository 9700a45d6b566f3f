//! Finds executable files by path and by name, without calling the name service (NSS).
//!
//! `~` in PATH means a directory of that name, as in execvp(3), so no home directory is looked up. If HOME is
//! not set, `std::env::home_dir` would call `getpwuid_r`, and a static glibc then loads the name service
//! modules of whatever machine it runs on, and crashes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use which::WhichConfig;
use which::sys::Sys;

/// Whether a path leads to a regular file that this user may execute.
pub fn is_executable(path: &Path) -> bool {
    executable(path).is_some()
}

/// The metadata of a regular file that this user may execute.
pub fn executable(path: &Path) -> Option<Metadata> {
    let metadata = path.metadata().ok().filter(Metadata::is_file)?;
    access(path, Access::EXEC_OK).is_ok().then_some(metadata)
}

/// Finds a program in the entries of a PATH; relative entries are relative to the current directory.
pub fn find(name: impl Into<OsString>, path: Option<OsString>) -> Option<PathBuf> {
    let here = env::current_dir().unwrap_or_else(|_| "/".into());
    let search = WhichConfig::new_with_sys(WithoutNameService).binary_name(name.into()).custom_cwd(here);
    search.custom_path_list(path?).first_result().ok()
}

/// The executable of this process, with links resolved, for comparison and display. Linux reports it with
/// links resolved, macOS under the path by which it was called. On Linux `current_exe` reads `/proc`; without
/// `/proc`, we use the name that the process was called by.
pub fn own_executable() -> Option<PathBuf> {
    let called = || {
        let name = env::args_os().next()?;
        if Path::new(&name).components().count() > 1 {
            Some(PathBuf::from(name))
        } else {
            find(name, env::var_os("PATH"))
        }
    };
    match env::current_exe() {
        Ok(path) if cfg!(target_os = "linux") => Some(path),
        path => Some(without_links(path.ok().or_else(called)?)),
    }
}

/// The path, with its links resolved. If the path does not exist, for example because the running program was
/// replaced, it is returned unchanged.
pub fn without_links(path: PathBuf) -> PathBuf {
    path.canonicalize().unwrap_or(path)
}

struct WithoutNameService;

impl Sys for WithoutNameService {
    type ReadDirEntry = DirEntry;
    type Metadata = Metadata;

    fn is_windows(&self) -> bool {
        false
    }

    fn current_dir(&self) -> io::Result<PathBuf> {
        env::current_dir()
    }

    fn home_dir(&self) -> Option<PathBuf> {
        None
    }

    fn env_split_paths(&self, paths: &OsStr) -> Vec<PathBuf> {
        env::split_paths(paths).collect()
    }

    fn env_path(&self) -> Option<OsString> {
        env::var_os("PATH")
    }

    fn env_path_ext(&self) -> Option<OsString> {
        None
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        path.metadata()
    }

    fn symlink_metadata(&self, path: &Path) -> io::Result<Metadata> {
        path.symlink_metadata()
    }

    fn read_dir(&self, path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<DirEntry>>>> {
        Ok(Box::new(fs::read_dir(path)?))
    }

    fn is_valid_executable(&self, path: &Path) -> io::Result<bool> {
        Ok(access(path, Access::EXEC_OK).map(|()| true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_with_a_run_bit_is_executable() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(!is_executable(&file));
        assert!(!is_executable(directory.path()));
        assert!(!is_executable(&directory.path().join("absent")));
        assert!(is_executable(Path::new("/bin/sh")));
    }

    #[test]
    fn a_program_is_found_in_the_first_entry_that_has_it() {
        let path = |text: &str| Some(OsString::from(text));
        assert_eq!(find("sh", path("/absent:~:~/bin:/bin:/usr/bin")), Some("/bin/sh".into()));
        assert_eq!(find("sh", path("/absent")), None);
        assert_eq!(find("sh", None), None);
    }
}
