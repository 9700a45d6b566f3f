//! A repair that is kept beside its environment: staged packages, put in front by PYTHONPATH.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::environment::packages::read_installed;
use crate::environment::target::Target;
use crate::error::Error;
use crate::model::distribution::Packages;
use crate::repair::change::Change;
use crate::repair::file_digest::sha256_of_bytes;
use crate::repair::hints::SET_STATE_HOME;
use crate::repair::state::RepairState;
use crate::system::disk::{self, Durability};
use crate::system::{files, trust};

/// The status of an overlay that is not used.
pub const STALE: &str = "stale, and not used: the environment has changed";

/// Advice where an overlay is stale.
pub const RENEW: &str = "repeat the `pcluster preflight fix ... --isolated` that made it, or remove it by \
                         `pcluster preflight undo`";

/// Whether an environment has an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    None,
    /// The directory of one that was proven on the environment as it is.
    Bound(PathBuf),
    /// The environment has changed since it was proven.
    Stale,
}

/// The record of an overlay on disk.
#[derive(Debug, Serialize, Deserialize)]
struct OverlayRecord {
    /// The digest of the packages that it was proven on.
    environment: String,
    changes: Vec<Change>,
}

/// Finds the overlay of a target. Nothing is locked, rolled back or removed.
pub fn find_overlay(target: &Target) -> Overlay {
    RepairState::find(target).map_or(Overlay::None, |state| read_overlay(&state, target))
}

/// Reads the overlay of a target from its state.
pub fn read_overlay(state: &RepairState, target: &Target) -> Overlay {
    let Some(record) = read_record(state) else { return Overlay::None };
    let packages = read_installed(&target.interpreter.sys_path);
    let directory = overlay_directory(state);
    if record.environment == environment_key(target, &packages) && directory.is_dir() {
        Overlay::Bound(directory)
    } else {
        Overlay::Stale
    }
}

/// Keeps a proven overlay in the state directory, bound to the environment as it is.
pub fn keep_overlay(
    state: &RepairState,
    staged: tempfile::TempDir,
    target: &Target,
    packages: &Packages,
    changes: &[Change],
) -> Result<(), Error> {
    let failed = |error: io::Error| Error::repair(error.to_string(), SET_STATE_HOME);
    let _ = remove_overlay(state);
    let kept = overlay_directory(state);
    fs::rename(staged.keep(), &kept).map_err(failed)?;
    let record = OverlayRecord { environment: environment_key(target, packages), changes: changes.to_vec() };
    let record = serde_json::to_vec(&record).unwrap_or_default();
    // A record that a power failure leaves incomplete is not used: it is checked before every use.
    disk::write_atomically(&overlay_record(state), &record, Durability::Buffered).map_err(failed)
}

/// Removes the overlay, and returns its changes, if there was one.
pub fn remove_overlay(state: &RepairState) -> Option<Vec<Change>> {
    let record = read_record(state);
    let _ = fs::remove_file(overlay_record(state));
    let _ = fs::remove_dir_all(overlay_directory(state));
    record.map(|record| record.changes)
}

fn read_record(state: &RepairState) -> Option<OverlayRecord> {
    serde_json::from_slice(&trust::read_up_to(&overlay_record(state), files::MAX_BYTES).ok()?).ok()
}

fn overlay_directory(state: &RepairState) -> PathBuf {
    state.directory().join("isolated")
}

fn overlay_record(state: &RepairState) -> PathBuf {
    state.directory().join("isolated.json")
}

/// A digest of the versions of Python and of the packages. What else may have changed, the check with the overlay in
/// front finds out.
fn environment_key(target: &Target, packages: &Packages) -> String {
    let python = [("python".to_owned(), target.interpreter.version.clone())];
    let lines = python.into_iter().chain(packages.versions());
    let lines: Vec<String> = lines.map(|(name, version)| format!("{name}=={version}")).collect();
    sha256_of_bytes(lines.join("\n").as_bytes())
}
