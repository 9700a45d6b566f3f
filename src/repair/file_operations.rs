//! Operations on the files of an environment: removing, writing and linking them.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::repair::failpoint;
use crate::repair::file_access::{Access, make_directories};
use crate::repair::file_plan::Content;

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a new file, and creates the directories above it. `replaced` describes the file that was at `path`
/// before the exchange.
pub fn place(content: &Content, path: &Path, replaced: Option<&Metadata>) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    make_directories(directory)?;
    // If two staged packages list the same path, they share one staged file, and it is placed twice. The
    // second time, both `path` and the temporary file below can be hard links to the staged file. rename(2)
    // does nothing if both of its paths are hard links to the same file, so the temporary file would stay.
    remove(path)?;
    match content {
        Content::File(source) => {
            // The file gets its final name only when it is complete: a rollback would mistake an incomplete
            // copy for a file that another program has written.
            let temporary = path_beside(path);
            remove(&temporary)?;
            place_file(source, &temporary, directory, replaced)?;
            fs::rename(&temporary, path)
        }
        Content::Text(text) => write_text(text, path, &Access::of_new_file(replaced, directory, false)?),
    }
}

fn place_file(source: &Path, path: &Path, directory: &Path, replaced: Option<&Metadata>) -> io::Result<()> {
    let metadata = source.symlink_metadata()?;
    let access = Access::of_new_file(replaced, directory, metadata.mode() & 0o111 != 0)?;
    if metadata.is_symlink() || access.is_of(&metadata) {
        return link_or_copy(source, path).map(drop);
    }
    // The new file needs another owner, group or mode than the staged file. The staged file may be a hard
    // link to a file in uv's cache, whose owner, group and mode must not change. So the new file is a copy.
    copy(source, &metadata, path)?;
    access.give(path)
}

/// Writes a RECORD to a temporary file and renames it to `path`. Otherwise, a kill could leave an incomplete
/// RECORD at `path`. A rollback would take that RECORD for one that another installer has written, and would
/// not restore the package.
fn write_text(text: &str, path: &Path, access: &Access) -> io::Result<()> {
    let temporary = path_beside(path);
    let mut file = File::create(&temporary)?;
    let (first, rest) = text.as_bytes().split_at(text.len() / 2);
    file.write_all(first)?;
    failpoint::reach("record")?;
    file.write_all(rest)?;
    access.give(&temporary)?;
    fs::rename(&temporary, path)
}

/// The path of a temporary file next to `path`, to be renamed to `path`.
pub fn path_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.pcluster-shim"))
}

/// Makes a hard link to a file or, if that is impossible (for example on another file system), copies the
/// file. A copy keeps the modification time, because Python ignores the bytecode of a source whose
/// modification time has changed. Returns whether the file was copied.
pub fn link_or_copy(source: &Path, path: &Path) -> io::Result<bool> {
    let metadata = source.symlink_metadata()?;
    if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(source)?, path)?;
        return Ok(true);
    }
    if fs::hard_link(source, path).is_ok() {
        return Ok(false);
    }
    copy(source, &metadata, path)?;
    // A failure is ignored: even if the user cannot set the owner or the group, the copy has the
    // right content.
    let _ = Access::of(&metadata).give(path);
    Ok(true)
}

fn copy(source: &Path, metadata: &Metadata, path: &Path) -> io::Result<()> {
    fs::copy(source, path)?;
    let copy = File::options().write(true).open(path).or_else(|_| File::open(path))?;
    copy.set_modified(metadata.modified()?)
}

/// Removes the directories of these files if they are empty, and then their empty parents, up to a directory
/// for which `is_kept` is true. Returns the first failure, because an empty `.dist-info` that remains would
/// be mistaken for a package.
pub fn remove_empty<'a>(
    files: impl Iterator<Item = &'a Path>,
    is_kept: impl Fn(&Path) -> bool,
) -> Option<String> {
    let directories = files.filter_map(Path::parent).collect::<BTreeSet<_>>();
    let mut failure = None;
    let mut remove = |directory: &Path| {
        let removed = if is_kept(directory) { return false } else { fs::remove_dir(directory) };
        if let Err(error) = &removed
            && !matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::DirectoryNotEmpty
            )
        {
            failure.get_or_insert_with(|| format!("cannot remove {}: {error}", directory.display()));
        }
        removed.is_ok()
    };
    for directory in directories.into_iter().rev() {
        for empty in directory.ancestors() {
            // A directory that contains only an empty `__pycache__` is removed too.
            remove(&empty.join("__pycache__"));
            if !remove(empty) {
                break;
            }
        }
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_removed_is_reported_and_one_that_is_gone_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone/file");
        assert_eq!(remove_empty([gone.as_path()].into_iter(), |kept| kept == directory.path()), None);
        // This name is too long for every file system.
        let file = directory.path().join("x".repeat(300)).join("file");
        let failure = remove_empty([file.as_path()].into_iter(), |_| false).unwrap();
        assert!(failure.contains("xxx"), "{failure}");
    }
}
