//! Overlays. An overlay contains the staged packages of a repair outside the environment; PYTHONPATH puts
//! them in front of the environment's own packages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::environment::packages::read_installed;
use crate::environment::record::{is_bytecode, recorded_paths};
use crate::environment::target::Target;
use crate::error::Error;
use crate::model::distribution::Packages;
use crate::repair::change::Change;
use crate::repair::file_digest::{sha256_of, sha256_of_bytes};
use crate::repair::hints::SET_STATE_HOME;
use crate::repair::history::{self, Entry, ISOLATED_PREFIX};
use crate::repair::state::make_id;
use crate::repair::transaction::Transactions;
use crate::system::disk::{self, Durability};
use crate::system::{files, trust};

pub const STALE: &str = "out of date and not used: the environment has changed";

/// Advice if an overlay is stale.
pub const RENEW: &str = "repeat the `pcluster preflight fix ... --isolated` that made it, or remove it \
                         with `pcluster preflight undo`";

/// Whether an environment has an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    None,
    /// The directory of an overlay. The environment has not changed since the overlay was proven.
    Bound(PathBuf),
    /// The environment has changed since the overlay was proven.
    Stale,
}

impl Overlay {
    /// The directory of an overlay that can be used.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Bound(directory) => Some(directory),
            Self::None | Self::Stale => None,
        }
    }
}

/// The content of the file that describes an overlay.
#[derive(Debug, Serialize, Deserialize)]
struct OverlayRecord {
    /// What [`environment_key`] returned when the overlay was proven.
    environment: String,
    changes: Vec<Change>,
}

/// Finds the overlay of a target. Nothing is locked, rolled back or removed.
pub fn find_overlay(target: &Target) -> Overlay {
    Transactions::find(target).map_or(Overlay::None, |state| read_overlay(&state, target))
}

/// Reads the overlay of a target: the newest repair, if that repair is outside the environment. Repairs of
/// another environment at the same path do not count.
pub fn read_overlay(state: &Transactions, target: &Target) -> Overlay {
    let is_of_another = |entry: &Entry| !entry.is_isolated && matches!(state.read_closed(entry), Ok(None));
    let newest = history::list(&state.directory).into_iter().find(|entry| !is_of_another(entry));
    let Some(record) = newest.as_ref().and_then(read_record) else { return Overlay::None };
    let directory = newest.map(|entry| entry.file.with_extension("")).unwrap_or_default();
    let packages = read_installed(&target.interpreter.sys_path);
    if record.environment == environment_key(&target.interpreter.version, &packages, &record.changes)
        && directory.is_dir()
    {
        Overlay::Bound(directory)
    } else {
        Overlay::Stale
    }
}

/// Keeps staged and proven packages as an overlay, which is used only until the environment changes. Removes
/// the stale overlays, and returns how many there were.
pub fn keep_overlay(
    state: &Transactions,
    staged: tempfile::TempDir,
    target: &Target,
    packages: &Packages,
    changes: &[Change],
) -> Result<usize, Error> {
    let failed = |error: io::Error| {
        let directory = state.directory.display();
        Error::repair(format!("cannot write in {directory}: {error}"), SET_STATE_HOME)
    };
    let environment = environment_key(&target.interpreter.version, packages, changes);
    let removed = remove_stale(state, target, packages);
    let file = state.directory.join(format!("{ISOLATED_PREFIX}{}.json", make_id()));
    fs::rename(staged.keep(), file.with_extension("")).map_err(failed)?;
    let record = OverlayRecord { environment, changes: changes.to_vec() };
    let record = serde_json::to_vec(&record).unwrap_or_default();
    // The record need not be synced: if a power failure leaves it incomplete, it cannot be parsed, and its
    // overlay is not used.
    disk::write_atomically(&file, &record, Durability::Buffered).map_err(failed)?;
    state.remove_oldest();
    Ok(removed)
}

/// Removes the overlays that were proven before the environment changed. Returns how many were removed.
fn remove_stale(state: &Transactions, target: &Target, packages: &Packages) -> usize {
    let is_bound = |record: OverlayRecord| {
        record.environment == environment_key(&target.interpreter.version, packages, &record.changes)
    };
    let mut removed = 0;
    for entry in history::list(&state.directory).into_iter().filter(|entry| entry.is_isolated) {
        if !read_record(&entry).is_some_and(is_bound) {
            remove_overlay(&entry);
            removed += 1;
        }
    }
    removed
}

/// Removes an overlay, and returns the package changes that it contained.
pub fn remove_overlay(entry: &Entry) -> Vec<Change> {
    let changes = read_changes(entry);
    let _ = fs::remove_file(&entry.file);
    let _ = fs::remove_dir_all(entry.file.with_extension(""));
    changes
}

/// The package changes that an overlay makes.
pub fn read_changes(entry: &Entry) -> Vec<Change> {
    read_record(entry).map(|record| record.changes).unwrap_or_default()
}

fn read_record(entry: &Entry) -> Option<OverlayRecord> {
    let text = trust::read_up_to(&entry.file, files::MAX_BYTES).ok().filter(|_| entry.is_isolated)?;
    serde_json::from_slice(&text).ok()
}

/// A digest of the versions of Python and of the packages. If the overlay contains an edited copy of a
/// package, the digest also covers the package's installed files, because the copy would hide changes
/// to them.
fn environment_key(python: &str, packages: &Packages, changes: &[Change]) -> String {
    let python = [("python".to_owned(), python.to_owned())];
    let lines = python.into_iter().chain(packages.versions());
    let mut lines: Vec<String> = lines.map(|(name, version)| format!("{name}=={version}")).collect();
    let edited = changes.iter().filter(|change| !change.edits.is_empty());
    for distribution in edited.filter_map(|change| packages.get(&change.package)) {
        let site = distribution.metadata.parent().unwrap_or(&distribution.metadata);
        let files = recorded_paths(site, &distribution.metadata).unwrap_or_default();
        let sources = files.iter().filter(|file| !is_bytecode(file));
        lines.extend(sources.map(|file| sha256_of(file).unwrap_or_default()));
    }
    sha256_of_bytes(lines.join("\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::change::Edit;

    #[test]
    fn the_key_follows_versions_and_the_files_that_were_edited() {
        let site = tempfile::tempdir().unwrap();
        let metadata = site.path().join("aws_parallelcluster-3.9.3.dist-info");
        fs::create_dir(&metadata).unwrap();
        fs::write(metadata.join("METADATA"), "Name: aws-parallelcluster\nVersion: 3.9.3\n").unwrap();
        fs::write(metadata.join("RECORD"), "stack.py,,\nstack.pyc,,\n").unwrap();
        let write = |file: &str, text: &str| fs::write(site.path().join(file), text).unwrap();
        let line = Edit { file: "stack.py".into(), line: 1, from: "one".into(), to: "1".into() };
        let (package, version, why) = ("aws-parallelcluster".into(), "3.9.3", "test".into());
        let edit = Change { package, from: Some(version.into()), to: version.into(), why, edits: vec![line] };
        let key = |python: &str, changes: &[Change]| {
            environment_key(python, &read_installed(&[site.path().to_owned()]), changes)
        };
        write("stack.py", "one");
        let (edited, moved) = (key("3.9.18", std::slice::from_ref(&edit)), key("3.9.18", &[]));
        assert_ne!(key("3.10.1", &[]), moved);
        write("stack.pyc", "compiled");
        assert_eq!(key("3.9.18", std::slice::from_ref(&edit)), edited);
        write("stack.py", "two");
        assert_ne!(key("3.9.18", std::slice::from_ref(&edit)), edited);
        assert_eq!(key("3.9.18", &[]), moved);
    }
}
