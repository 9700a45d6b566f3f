//! Private directories for temporary files. A later check removes the directories of checks that were killed.

use std::env;
use std::fs::{self, DirEntry, File, Metadata, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

use crate::system::files;

/// Where temporary files go if the directory in TMPDIR is gone or full, in the order in which Python
/// tries them.
const OTHER_DIRECTORIES: [&str; 2] = ["/tmp", "/var/tmp"];

/// A private directory for one check, removed when the check ends. If SIGKILL ends the check, the directory
/// remains, and the next check that creates a `Scratch` removes the old one. The lock shows whether a
/// directory is in use, because a lock ends with the process that holds it.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    #[expect(dead_code, reason = "held for its lock")]
    lock: File,
}

const SCRATCH_PREFIX: &str = "pcluster-shim-";
const SCRATCH_RANDOM: usize = 6;

/// The name of the file that marks a directory as a [`Scratch`], and that is locked while the directory is
/// in use.
const SCRATCH_LOCK: &str = "pcluster-shim.lock";

/// The maximum number of attempts to create a directory: until a new directory is locked, another check may
/// take it for a leftover and remove it.
const MAX_SCRATCH_TRIES: usize = 20;

impl Scratch {
    pub fn new() -> io::Result<Self> {
        let others = OTHER_DIRECTORIES.map(PathBuf::from);
        Self::in_first_of(std::iter::once(std::env::temp_dir()).chain(others))
    }

    fn in_first_of(directories: impl Iterator<Item = PathBuf>) -> io::Result<Self> {
        let mut first_error = None;
        for directory in directories {
            match Self::within(&directory) {
                Ok(made) => return Ok(made),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn within(base: &Path) -> io::Result<Self> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep_scratch(base));
        for _ in 0..MAX_SCRATCH_TRIES {
            if let Some(scratch) = Self::locked(base)? {
                return Ok(scratch);
            }
        }
        Err(io::Error::other("every directory that was created there was removed immediately"))
    }

    /// Creates and locks a directory; `None` if another check has begun to remove it.
    fn locked(base: &Path) -> io::Result<Option<Self>> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(SCRATCH_PREFIX).rand_bytes(SCRATCH_RANDOM).permissions(Permissions::from_mode(0o700));
        let directory = builder.tempdir_in(base)?;
        let path = directory.path().join(SCRATCH_LOCK);
        let lock = match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) || !path.exists() {
            return Ok(None);
        }
        Ok(Some(Self { directory, lock }))
    }

    /// Whether `directory` is a scratch directory that belongs to this user and is in use by another process.
    pub fn is_in_use(directory: &Path) -> bool {
        let is_own = |file: &File| {
            file.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
        };
        let lock = files::open(&directory.join(SCRATCH_LOCK)).ok().filter(is_own);
        let lock = lock.filter(|_| directory.is_absolute());
        lock.is_some_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The variable and value that make a child put its temporary files into this directory. A check has to
    /// fail if the real pcluster would fail. jsii fails with a relative TMPDIR, so if the TMPDIR of this
    /// process is relative, the value is relative too.
    ///
    /// If the directory in TMPDIR cannot be used, Node.js fails in the real pcluster, and has to fail in the
    /// check too. So the child keeps that TMPDIR, and the variable is TEMP, which Python tries after TMPDIR.
    pub fn temporary_files(&self) -> io::Result<(&'static str, PathBuf)> {
        let private = self.directory("tmp")?;
        let given = env::var_os("TMPDIR").map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
        let Some(given) = given else { return Ok(("TMPDIR", private)) };
        let in_form = given.join(self.directory.path().file_name().unwrap_or_default()).join("tmp");
        let is_usable = in_form.canonicalize().ok() == private.canonicalize().ok();
        Ok(if is_usable { ("TMPDIR", in_form) } else { ("TEMP", private) })
    }

    pub fn write(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_scratch(self.directory.path());
    }
}

/// Removes the directories that checks left behind when they were killed. These directories belong to this
/// user and are named like a [`Scratch`]. They are empty, or no process has locked their lock file.
fn sweep_scratch(base: &Path) {
    for entry in base.read_dir().into_iter().flatten().flatten().filter(is_scratch) {
        let lock = entry.path().join(SCRATCH_LOCK);
        let is_left = |lock: &File| lock.try_lock().is_ok();
        // `remove_dir` removes only an empty directory. If a directory is empty, either a check was killed
        // before it created the lock file, or a running check has just created the directory and has not yet
        // created the lock file. If the directory of a running check is removed, that check creates another.
        let _ = fs::remove_dir(entry.path());
        // This process holds the lock until the directory is removed. If a running check has just created the
        // directory, that check cannot lock the file, and creates another directory.
        if let Some(_held) = files::open(&lock).ok().filter(is_left) {
            remove_scratch(&entry.path());
        }
    }
}

/// Removes a scratch directory, its lock file last. If this process is killed, or if a child that is still
/// running creates more files, the next check finds the rest by the lock file.
fn remove_scratch(directory: &Path) {
    let entries = || directory.read_dir().into_iter().flatten().flatten();
    for entry in entries().filter(|entry| entry.file_name() != SCRATCH_LOCK) {
        let path = entry.path();
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    if entries().count() == 1 {
        let _ = fs::remove_dir_all(directory);
    }
}

fn is_scratch(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let random = name.to_str().and_then(|name| name.strip_prefix(SCRATCH_PREFIX)).unwrap_or_default();
    let is_named = random.len() == SCRATCH_RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    // `DirEntry::metadata` does not follow links.
    let is_own =
        |metadata: Metadata| metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    is_named && entry.metadata().is_ok_and(is_own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_directory_is_taken_for_one_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let gone = || directory.path().join("gone");
        let scratch = Scratch::in_first_of([gone(), directory.path().to_owned()].into_iter()).unwrap();
        assert!(scratch.path("x").starts_with(directory.path()));
        let error = Scratch::in_first_of([gone(), gone().join("too")].into_iter()).unwrap_err();
        assert!(error.to_string().contains("gone/pcluster-shim-"), "the first error is returned: {error}");
    }

    #[test]
    fn only_what_checks_have_left_behind_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let scratch = |name: &str, has_lock: bool| {
            let directory = base.path().join(name);
            fs::create_dir_all(directory.join("below")).unwrap();
            if has_lock {
                fs::write(directory.join(SCRATCH_LOCK), "").unwrap();
            }
            directory
        };
        let left = scratch("pcluster-shim-aB3dE6", true);
        let in_use = scratch("pcluster-shim-aB3dE7", true);
        let lock = File::open(in_use.join(SCRATCH_LOCK)).unwrap();
        lock.lock().unwrap();
        let elsewhere = scratch("elsewhere", true);
        std::os::unix::fs::symlink(&elsewhere, base.path().join("pcluster-shim-aB3dE8")).unwrap();
        let empty = base.path().join("pcluster-shim-aB3dE9");
        fs::create_dir(&empty).unwrap();
        let others = [
            scratch("pcluster-shim-backup", false),
            scratch("pcluster-shim-aB3dE6x", true),
            scratch("pcluster-shim-aB3d.6", true),
            scratch("other-shim-aB3dE6", true),
            elsewhere,
            in_use.clone(),
        ];
        sweep_scratch(base.path());
        assert!(!left.exists() && !empty.exists());
        for other in others {
            assert!(other.join("below").is_dir(), "{}", other.display());
        }
        drop(lock);
        sweep_scratch(base.path());
        assert!(!in_use.exists());
    }

    #[test]
    fn a_directory_in_use_is_private_and_not_swept() {
        let scratch = Scratch::new().unwrap();
        let directory = scratch.directory.path().to_owned();
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        sweep_scratch(directory.parent().unwrap());
        assert!(directory.is_dir());
        drop(scratch);
        assert!(!directory.exists());
    }
}
