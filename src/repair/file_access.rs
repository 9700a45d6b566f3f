//! Owner, group and mode of the files that a repair creates. As far as the system permits, group and mode do
//! not depend on who runs the repair, or under which umask, because other users use the environment too. If
//! root runs the repair, a file that replaces another also gets that file's owner.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

/// Who may do what with a file or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// `None` if the owner is the user who runs the repair.
    owner: Option<u32>,
    group: u32,
    mode: u32,
}

impl Access {
    /// The access of an existing file or directory.
    pub fn of(metadata: &Metadata) -> Self {
        Self { owner: Some(metadata.uid()), group: metadata.gid(), mode: metadata.mode() & 0o7777 }
    }

    /// The access for a new file, taken from the file that it replaces or, if it replaces none, from its
    /// directory. If the new file is executable, everyone who may read it may also run it.
    pub fn of_new_file(
        replaced: Option<&Metadata>,
        directory: &Path,
        is_executable: bool,
    ) -> io::Result<Self> {
        let mut access = if let Some(old) = replaced.filter(|old| old.is_file()) {
            Self::of(old)
        } else {
            let above = directory.metadata()?;
            Self { owner: None, group: above.gid(), mode: above.mode() & 0o666 }
        };
        if is_executable {
            access.mode |= (access.mode & 0o444) >> 2;
        }
        Ok(access)
    }

    /// Whether a file has this access already.
    pub fn is_of(&self, metadata: &Metadata) -> bool {
        let is = Self::of(metadata);
        self.owner.is_none_or(|owner| is.owner == Some(owner))
            && (self.group, self.mode) == (is.group, is.mode)
    }

    /// Gives a file or a directory this access.
    ///
    /// Only root can give a file to another owner. Any other caller stays the owner, which works just as
    /// well. Users cannot give a file to a group that they are not in. The file then keeps its present group,
    /// and that group gets only the permissions that everybody has. The members of `self.group` also get only
    /// the permissions that everybody has, because the file does not belong to their group.
    ///
    /// # Errors
    /// Returns an error if the mode cannot be set, or if the members of `self.group` could no longer read or
    /// run the file.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        let is = path.metadata()?;
        if let Some(owner) = self.owner.filter(|owner| *owner != is.uid()) {
            let _ = chown(path, Some(owner), None);
        }
        let mut mode = self.mode;
        if self.group != is.gid() && chown(path, None, Some(self.group)).is_err() {
            mode = mode_without_group(mode).ok_or_else(|| {
                let message =
                    format!("only a member of the group {} can make it readable to that group", self.group);
                io::Error::new(io::ErrorKind::PermissionDenied, message)
            })?;
        }
        // The mode is set last, because changing the owner clears set-group-ID.
        fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

/// The mode for a file that cannot get the intended group; `None` if the members of the intended group could
/// then no longer read or run the file.
fn mode_without_group(mode: u32) -> Option<u32> {
    const READ_AND_RUN: u32 = 0o5;
    let (group, others) = (mode >> 3 & 0o7, mode & 0o7);
    (group & READ_AND_RUN & !others == 0).then_some(mode & !0o2070 | others << 3)
}

/// Creates a directory and its missing parents, each with the group and mode of the directory above it.
pub fn make_directories(directory: &Path) -> io::Result<()> {
    let Some(above) = directory.parent().filter(|_| !directory.is_dir()) else { return Ok(()) };
    make_directories(above)?;
    fs::create_dir(directory)?;
    Access { owner: None, ..Access::of(&above.metadata()?) }.give(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_mode(path: &Path, mode: u32) -> Metadata {
        if !path.exists() {
            fs::write(path, "").unwrap();
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        path.metadata().unwrap()
    }

    fn mode_of(replaced: Option<&Metadata>, directory: &Path, is_executable: bool) -> u32 {
        Access::of_new_file(replaced, directory, is_executable).unwrap().mode
    }

    #[test]
    fn a_file_takes_the_mode_of_the_one_that_it_replaces() {
        let root = tempfile::tempdir().unwrap();
        with_mode(root.path(), 0o775);
        let old = with_mode(&root.path().join("old"), 0o640);
        assert_eq!(mode_of(Some(&old), root.path(), false), 0o640);
        assert_eq!(mode_of(Some(&old), root.path(), true), 0o750);
    }

    #[test]
    fn a_file_that_replaces_none_takes_the_mode_of_its_directory() {
        let root = tempfile::tempdir().unwrap();
        with_mode(root.path(), 0o2775);
        assert_eq!(mode_of(None, root.path(), false), 0o664);
        assert_eq!(mode_of(None, root.path(), true), 0o775);
        with_mode(root.path(), 0o700);
        assert_eq!(mode_of(None, root.path(), false), 0o600);
        assert_eq!(mode_of(None, root.path(), true), 0o700);
    }

    #[test]
    fn directories_take_the_mode_of_the_one_above() {
        let root = tempfile::tempdir().unwrap();
        with_mode(root.path(), 0o2775);
        make_directories(&root.path().join("a/b")).unwrap();
        for directory in ["a", "a/b"] {
            assert_eq!(root.path().join(directory).metadata().unwrap().mode() & 0o7777, 0o2775);
        }
    }

    #[test]
    fn another_group_is_accepted_if_everybody_may_read() {
        assert_eq!(mode_without_group(0o644), Some(0o644));
        assert_eq!(mode_without_group(0o2664), Some(0o644), "the other group may not write");
        assert_eq!(mode_without_group(0o600), Some(0o600));
        assert_eq!(mode_without_group(0o640), None);
        assert_eq!(mode_without_group(0o754), None, "the group could no longer run it");
    }
}
