//! The records of deletions. Each deletion has a file from before its first call to AWS until after its last
//! one. As soon as an AMI is deregistered, AWS forgets which snapshots the AMI had. Without the file, an
//! interrupted deletion could not be finished.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::images::deletion_rules::has_logs_alone;
use crate::images::inventory::{BuildArn, Deletion, Inventory, Remains, Unfinished};
use crate::system::dirs;
use crate::system::disk::{self, Durability};
use crate::system::trust;

/// No record of a single deletion is larger than this.
const MAX_BYTES: u64 = 1 << 20;

/// The directory with the records of this user's deletions.
#[derive(Debug)]
pub struct Deletions {
    directory: PathBuf,
}

impl Deletions {
    /// Finds the directory of the records, which need not exist.
    pub fn find() -> Result<Self, String> {
        let state = dirs::state().ok_or_else(dirs::why_no_state)?;
        Ok(Self { directory: state.join("deletions") })
    }

    /// Reads the deletions that have begun but not ended, of every account.
    ///
    /// # Errors
    /// Returns an error if a record cannot be read, because nothing else shows which snapshots that deletion
    /// left behind.
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

    /// Keeps other deletions out. Otherwise, another deletion could remove the record of this deletion, which
    /// is still running.
    pub fn lock(&self) -> Result<File, Error> {
        self.try_lock().ok_or_else(|| Error::Failed {
            message: format!(
                "another deletion is running, or the lock file in {} cannot be created",
                self.directory.display()
            ),
            next: "Nothing was changed. Try again when the other deletion has ended, or set XDG_STATE_HOME to a \
                   writable directory."
                .into(),
        })
    }

    /// Takes the lock that a deletion holds while it runs. `None` if another deletion holds the lock, or if
    /// the lock file cannot be created.
    pub fn try_lock(&self) -> Option<File> {
        trust::make_directory(&self.directory).ok()?;
        let options = File::options().write(true).create(true).truncate(false).mode(0o600).to_owned();
        let lock = options.open(self.directory.join("lock")).ok()?;
        lock.try_lock().is_ok().then_some(lock)
    }

    /// Writes the record of a deletion to the disk, before the first call to AWS.
    pub fn begin(&self, deletion: &Deletion) -> Result<(), String> {
        let path = self.path(deletion);
        let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
        trust::make_directory(&self.directory).map_err(failed)?;
        let text = serde_json::to_vec(deletion).map_err(|error| failed(error.into()))?;
        disk::write_atomically(&path, &text, Durability::Durable).map_err(failed)
    }

    /// Removes the record of a deletion that has ended.
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

/// Finds the deletions whose AMI is gone and that have left something behind. If a deletion has left nothing,
/// its record is removed from `ended`, the directory of the records. Only `images --delete` passes this
/// directory. A listing or a repair passes `None`, and so removes no record.
pub fn find_unfinished(
    inventory: &Inventory,
    begun: Vec<Deletion>,
    ended: Option<&Deletions>,
) -> Vec<Unfinished> {
    // The record of a running deletion must not be removed.
    let lock = ended.filter(|_| !begun.is_empty()).and_then(Deletions::try_lock);
    let mut unfinished = Vec::new();
    let is_asked = |deletion: &Deletion| {
        deletion.account == inventory.account && inventory.regions.contains(&deletion.region)
    };
    for deletion in begun.into_iter().filter(is_asked) {
        let is_same = |remains: &&Remains| remains.ami == deletion.ami && remains.region == deletion.region;
        let Some(remains) = inventory.remains.iter().find(is_same) else { continue };
        if remains.image {
            // The AMI was not deleted yet, or was restored: the next deletion makes a new plan.
            continue;
        }
        let left = leave(inventory, deletion.clone(), remains);
        if !left.list().is_empty() {
            unfinished.push(left);
        } else if let (Some(deletions), Some(_)) = (ended, &lock) {
            deletions.end(&deletion);
        }
    }
    unfinished
}

/// What an interrupted deletion has left behind. A log group that another build may use now is not included.
fn leave(inventory: &Inventory, mut deletion: Deletion, remains: &Remains) -> Unfinished {
    let stack = deletion.stack_id.clone();
    let is_alone = |build: BuildArn| {
        inventory.find_skipped("cloudformation:ListStacks", &build.region).is_none()
            && has_logs_alone(inventory, &build, stack.as_deref(), 0)
    };
    if !remains.directory {
        deletion.directory = None;
    }
    if !remains.log_group || !deletion.build().is_some_and(is_alone) {
        deletion.log_group = None;
    }
    Unfinished { snapshots: remains.snapshots.clone(), deletion }
}
