//! Trusted files: those that only root or the caller (the user who runs the shim) could have written.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::system::{dirs, files};

/// Reads a text from the program's own directories, if only the caller or root could have written it.
///
/// # Errors
/// Returns an error if the file cannot be read, or if others could have written it. In the second case, the
/// error's kind is `PermissionDenied`. An error of the operating system can have this kind too, but
/// [`find_refused_place`] returns a path only for an error of this module.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    files::check_regular(path)?;
    refuse(path)?;
    files::read_to_string(path)
}

/// Reads one of the program's own files, of at most `max` bytes, under the same conditions
/// as [`read_to_string`].
pub fn read_up_to(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    files::check_regular(path)?;
    refuse(path)?;
    files::read_up_to(path, max)
}

/// The file or directory that is not trusted, if an error is a refusal from this module.
pub fn find_refused_place(error: &io::Error) -> Option<PathBuf> {
    error.get_ref()?.downcast_ref::<UntrustedError>().map(|refusal| refusal.place.clone())
}

/// The error about a config or advisories file that cannot or must not be read.
pub fn unreadable(file: &Path, error: &io::Error) -> Error {
    if let Some(place) = find_refused_place(error) {
        Error::Untrusted { file: file.to_owned(), place, why: error.to_string() }
    } else {
        Error::of_file(file, error)
    }
}

/// Why a file is not trusted, as a text that follows its name.
#[derive(Debug)]
struct UntrustedError {
    /// The file, or the directory above it that is at fault.
    place: PathBuf,
    why: String,
}

impl std::fmt::Display for UntrustedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for UntrustedError {}

/// Returns an error if a file, or one of the program's own directories above that file, is not trusted.
pub fn refuse(path: &Path) -> io::Result<()> {
    let owned: Vec<PathBuf> = dirs::all().collect();
    let is_own = |directory: &&Path| owned.iter().any(|own| directory.starts_with(own));
    let above = path.ancestors().skip(1).take_while(is_own);
    for place in [path].into_iter().chain(above) {
        // The owner of a link is checked first, because another user's link may lead to a file of the caller.
        let link = distrust_owner(&place.symlink_metadata()?);
        if let Some(why) =
            link.map_or_else(|| place.metadata().map(|found| distrust(&found, 0o022)), |why| Ok(Some(why)))?
        {
            let why = if place == path { why } else { format!("is in {}, which {why}", place.display()) };
            let refusal = UntrustedError { place: place.to_owned(), why };
            return Err(io::Error::new(ErrorKind::PermissionDenied, refusal));
        }
    }
    Ok(())
}

fn distrust_owner(metadata: &Metadata) -> Option<String> {
    let (owner, caller) = (metadata.uid(), rustix::process::geteuid().as_raw());
    (owner != caller && owner != 0).then(|| format!("belongs to another user (uid {owner})"))
}

/// Why others could have written a file: another user owns it, or it has one of the permissions
/// in `writable`.
fn distrust(metadata: &Metadata, writable: u32) -> Option<String> {
    let mode = metadata.permissions().mode() & 0o777;
    let is_open = || (mode & writable != 0).then(|| format!("is writable by others (mode {mode:o})"));
    distrust_owner(metadata).or_else(is_open)
}

/// Why a file must not be run: another user owns it or could write to it. For a link, only the owner counts.
/// `None` for a missing file.
///
/// On Fedora, RHEL and Amazon Linux, each user has a private group with the same number as the user, and the
/// umask is 002. So this group can write to what the user installs, which is accepted here.
pub fn why_not(path: &Path) -> Option<String> {
    let metadata = path.symlink_metadata().ok()?;
    if metadata.is_symlink() {
        return distrust_owner(&metadata);
    }
    let writable = if metadata.gid() == metadata.uid() { 0o002 } else { 0o022 };
    distrust(&metadata, writable)
}

/// Creates one of the program's own directories, and any missing directories above it, for the caller alone,
/// whatever the umask is.
pub fn make_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    refuse(path)?;
    // This directory has to be closed to others, because Python creates directories below it with the
    // permissions that the umask allows.
    if path.metadata()?.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A file or directory of the program that is not trusted.
#[derive(Debug)]
pub struct Refused {
    pub path: PathBuf,
    /// The path, or the directory above it that is at fault.
    pub place: PathBuf,
    /// The reason, as a text that follows the path.
    pub why: String,
}

/// Which of these files and directories of the program exist and are not trusted.
pub fn passed_over(files: impl IntoIterator<Item = PathBuf>) -> Vec<Refused> {
    let refused = |path: PathBuf| {
        let error = refuse(&path).err()?;
        let place = find_refused_place(&error)?;
        Some(Refused { path, place, why: error.to_string() })
    };
    files.into_iter().filter_map(refused).collect()
}
