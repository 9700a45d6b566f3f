//! Writes and renames files atomically, and syncs files and directories to the disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Whether a written file has to survive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The file need not survive: the system writes it to the disk at some later time.
    Buffered,
    /// The file has to survive: when [`write_atomically`] returns, the file and its name are on the disk.
    Durable,
}

/// Writes a file under a temporary name in the same directory, and renames it: a reader sees either the old
/// content or all of the new content.
///
/// # Errors
/// Returns an error if the file cannot be written or synced. The previous content is then still there, except
/// if only the sync of the directory has failed.
pub fn write_atomically(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(content)?;
    if durability == Durability::Durable {
        sync_file(file.as_file())?;
    }
    file.persist(path)?;
    if durability == Durability::Durable { sync_directory(directory) } else { Ok(()) }
}

/// Renames a file within one directory, and syncs the directory to the disk.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(to.parent().unwrap_or(Path::new("/")))
}

/// Syncs the names in a directory, not the files that they refer to. Network volumes cannot sync directories,
/// and report an error. We ignore that error, because the server of such a volume keeps the names.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    match sync_file(&File::open(directory)?) {
        Err(error) if is_unsupported(&error) => Ok(()),
        done => done,
    }
}

/// Syncs the content of a file to the disk. On macOS `File::sync_all` uses `F_FULLFSYNC`, which only local
/// volumes support; `fsync` works on other volumes.
pub fn sync_file(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if is_unsupported(&error) => Ok(rustix::fs::fsync(file)?),
        done => done,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [Errno::INVAL, Errno::NOTSUP, Errno::NOTTY];
    Errno::from_io_error(error).is_some_and(|error| unsupported.contains(&error))
}

/// Syncs files to the disk, and also the directories above them, up to `tops`.
///
/// Calls syncfs(2) once for each file system, because thousands of fsync(2) calls take minutes on a
/// slow disk.
pub fn sync(paths: &BTreeSet<&Path>, tops: &[PathBuf]) -> io::Result<()> {
    let directories = directories_of(paths, tops);
    match sync_file_systems(&directories) {
        Some(done) => done,
        None => sync_each(paths, &directories),
    }
}

/// The existing directories above each path, up to and including the first one that is in `tops`.
fn directories_of(paths: &BTreeSet<&Path>, tops: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found: BTreeSet<PathBuf> = BTreeSet::new();
    for path in paths {
        for directory in path.ancestors().skip(1) {
            if found.contains(directory) {
                break;
            }
            if directory.is_dir() {
                found.insert(directory.to_owned());
            }
            if tops.iter().any(|top| top == directory) {
                break;
            }
        }
    }
    found
}

/// Calls syncfs(2) for each file system. `None` if the system has no such call, or a sandbox forbids it.
#[cfg(target_os = "linux")]
fn sync_file_systems(directories: &BTreeSet<PathBuf>) -> Option<io::Result<()>> {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt as _;

    let mut one_of_each: BTreeMap<u64, &Path> = BTreeMap::new();
    for directory in directories {
        if let Ok(metadata) = directory.metadata() {
            one_of_each.entry(metadata.dev()).or_insert(directory);
        }
    }
    for directory in one_of_each.values() {
        let synced = File::open(directory).map(rustix::fs::syncfs);
        match synced {
            Ok(Ok(())) => {}
            Ok(Err(Errno::NOSYS | Errno::PERM)) => return None,
            Ok(Err(error)) => return Some(Err(error.into())),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(()))
}

#[cfg(not(target_os = "linux"))]
fn sync_file_systems(_directories: &BTreeSet<PathBuf>) -> Option<io::Result<()>> {
    None
}

/// Calls fsync(2) for each file and directory. On macOS, fsync(2) only sends the data to the drive, and the
/// drive's cache loses the data if the power fails. So at the end, `sync_directory` calls `File::sync_all`,
/// which makes the drive write everything in its cache (`F_FULLFSYNC`).
fn sync_each(paths: &BTreeSet<&Path>, directories: &BTreeSet<PathBuf>) -> io::Result<()> {
    let is_file = |path: &&&Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
    for path in paths.iter().filter(is_file) {
        rustix::fs::fsync(File::open(path)?)?;
    }
    for directory in directories {
        match rustix::fs::fsync(File::open(directory)?).map_err(io::Error::from) {
            Err(error) if is_unsupported(&error) => {}
            done => done?,
        }
    }
    directories.last().map_or(Ok(()), |directory| sync_directory(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_other() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        for (content, durability) in [("old", Durability::Buffered), ("new", Durability::Durable)] {
            write_atomically(&path, content.as_bytes(), durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        }
        assert!(write_atomically(&root.path().join("no/file"), b"", Durability::Durable).is_err());
    }

    /// Like a directory on a network volume, a character device cannot be synced.
    #[test]
    fn what_cannot_be_synced_is_no_failure() {
        let device = Path::new("/dev/null");
        let refused = File::open(device).unwrap().sync_all().unwrap_err();
        assert!(is_unsupported(&refused), "{refused}");
        sync_directory(device).unwrap();
        sync_each(&BTreeSet::new(), &[device.to_owned()].into()).unwrap();
        assert!(sync_directory(Path::new("/absent")).is_err());
    }

    #[test]
    fn directories_count_up_to_the_top_as_far_as_they_exist() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("site/p/q")).unwrap();
        let (came, gone) = (at("site/p/q/file"), at("site/gone/deep/file"));
        let paths: BTreeSet<&Path> = [came.as_path(), &gone].into();
        let expected: BTreeSet<PathBuf> = ["site", "site/p", "site/p/q"].map(at).into();
        assert_eq!(directories_of(&paths, &[at("site")]), expected);
        sync(&paths, &[at("site")]).unwrap();
        fs::write(&came, "").unwrap();
        sync_each(&paths, &expected).unwrap();
    }
}
