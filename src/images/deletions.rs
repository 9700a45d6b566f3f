//! Deletions that have begun: a file for each AMI, from before its first call to after its last. AWS forgets
//! which snapshots an AMI had as soon as it is deregistered, so a deletion that is cut off could not be ended.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::images::inventory::Deletion;
use crate::system::dirs;
use crate::system::disk::{self, Durability};
use crate::system::trust;

/// More than any file of one AMI has.
const MAX_BYTES: u64 = 1 << 20;

/// The deletions of this user.
#[derive(Debug)]
pub struct Deletions {
    directory: PathBuf,
}

impl Deletions {
    /// Finds their directory, which need not exist.
    pub fn find() -> Result<Self, String> {
        let state = dirs::state().ok_or_else(dirs::why_no_state)?;
        Ok(Self { directory: state.join("deletions") })
    }

    /// Reads those that have begun and not ended, of every account.
    ///
    /// # Errors
    /// Returns an error if one cannot be read: which snapshots are left is not known.
    pub fn read(&self) -> Result<Vec<Deletion>, String> {
        let entries = match self.directory.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(format!("cannot read {}: {error}", self.directory.display())),
        };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut paths: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect();
        paths.sort_unstable();
        paths.iter().map(|path| read_file(path)).collect()
    }

    /// Takes the lock of a deletion; `None` where another holds it, or it cannot be made.
    pub fn try_lock(&self) -> Option<File> {
        trust::make_directory(&self.directory).ok()?;
        let options = File::options().write(true).create(true).truncate(false).mode(0o600).to_owned();
        let lock = options.open(self.directory.join("lock")).ok()?;
        lock.try_lock().is_ok().then_some(lock)
    }

    /// Writes one to the disk, before its first call.
    pub fn begin(&self, deletion: &Deletion) -> Result<(), String> {
        let path = self.path(deletion);
        let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
        trust::make_directory(&self.directory).map_err(failed)?;
        let text = serde_json::to_vec(deletion).map_err(|error| failed(error.into()))?;
        disk::write_atomically(&path, &text, Durability::Durable).map_err(failed)
    }

    /// Removes one that has ended.
    pub fn end(&self, deletion: &Deletion) {
        let _ = fs::remove_file(self.path(deletion));
    }

    fn path(&self, deletion: &Deletion) -> PathBuf {
        let Deletion { account, region, ami, .. } = deletion;
        self.directory.join(format!("{account}-{region}-{ami}.json"))
    }
}

fn read_file(path: &Path) -> Result<Deletion, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let text = trust::read_up_to(path, MAX_BYTES).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}
