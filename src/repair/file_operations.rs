//! Operations on the files of an environment: to remove, write and link them.

use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use crate::error::RepairStep;
use crate::repair::failpoint;
use crate::repair::file_plan::Content;
use crate::sorted::sorted_set;

/// Removes a file, if it is there.
///
/// # Errors
/// Returns an error if it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a new file, with the directories above it.
///
/// # Errors
/// Returns an error if it cannot be written.
pub fn place(content: &Content, path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Two packages may have one file. Writing into it would change the first package's in the installer's
    // cache too, which is the same file by a hard link.
    remove(path)?;
    match content {
        Content::File(source) => link_or_copy(source, path).map(drop),
        Content::Text { text, like } => write_text(text, like.as_deref(), path),
    }
}

/// Writes a RECORD beside its path and renames it. A part of one would be taken for the RECORD of another
/// installer, whose packages a rollback leaves.
fn write_text(text: &str, like: Option<&Path>, path: &Path) -> io::Result<()> {
    let temporary = path_beside(path);
    let mut file = File::create(&temporary)?;
    let (first, rest) = text.as_bytes().split_at(text.len() / 2);
    file.write_all(first)?;
    failpoint::reach(RepairStep::Record)?;
    file.write_all(rest)?;
    if let Some(like) = like {
        take_owner_and_mode(&like.metadata()?, &temporary)?;
    }
    fs::rename(&temporary, path)
}

/// The temporary file beside a path, which is then renamed.
#[must_use]
pub fn path_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.pcluster-shim"))
}

/// The way in which a file was given another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacedBy {
    Link,
    Copy,
}

/// Links a file, or copies it to another file system, with its time: bytecode names the modification
/// time of its source, and is not valid with another one.
///
/// # Errors
/// Returns an error if neither can be made.
pub fn link_or_copy(source: &Path, path: &Path) -> io::Result<PlacedBy> {
    let metadata = source.symlink_metadata()?;
    if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(source)?, path)?;
        return Ok(PlacedBy::Copy);
    }
    if fs::hard_link(source, path).is_ok() {
        return Ok(PlacedBy::Link);
    }
    fs::copy(source, path)?;
    let copy = File::options().write(true).open(path).or_else(|_| File::open(path))?;
    copy.set_modified(metadata.modified()?)?;
    // A user who may not give a file away can still put its content back.
    let _ = take_owner_and_mode(&metadata, path);
    Ok(PlacedBy::Copy)
}

/// Gives a file the owner, the group and the mode of another one.
///
/// # Errors
/// Returns an error if this user may not.
pub fn take_owner_and_mode(like: &Metadata, path: &Path) -> io::Result<()> {
    let is = path.metadata()?;
    let changed = |of: fn(&Metadata) -> u32| Some(of(like)).filter(|wanted| *wanted != of(&is));
    let (owner, group) = (changed(Metadata::uid), changed(Metadata::gid));
    if owner.is_some() || group.is_some() {
        chown(path, owner, group)?;
    }
    fs::set_permissions(path, like.permissions())
}

/// Removes the directories of these files where they are empty, and their parents.
pub fn remove_empty<'a>(files: impl Iterator<Item = &'a Path>) {
    let directories = sorted_set(files.filter_map(Path::parent));
    for directory in directories.into_iter().rev() {
        let mut directory = Some(directory);
        // An empty `__pycache__` does not keep its directory.
        while let Some(empty) = directory {
            let _ = fs::remove_dir(empty.join("__pycache__"));
            if fs::remove_dir(empty).is_err() {
                break;
            }
            directory = empty.parent();
        }
    }
}
