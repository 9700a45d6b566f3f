//! The exchange of an environment's files as one transaction: snapshot, journal, exchange, close.
//!
//! A transaction is open from its journal on, and closed by one rename of the journal. An open one is
//! always rolled back, never continued: by the repair itself where a step fails, else by the next call
//! that finds the journal, because a repair that is killed by SIGKILL runs no `Drop`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::RepairStep;
use crate::repair::change::Change;
use crate::repair::failpoint;
use crate::repair::file_digest::FileDigest;
use crate::repair::file_operations::{PlacedBy, link_or_copy, place, remove, remove_empty};
use crate::repair::file_plan::FilePlan;
use crate::repair::journal::{Journal, SavedFile};
use crate::sorted::{sorted_map, sorted_set};
use crate::system::disk::{self, Durability};
use crate::system::files::describe;
use crate::system::trust;

/// A file takes some 200 bytes: the journal of the built-in advisory's repair (1,215 files) has 230 kB.
const MAX_JOURNAL: u64 = 64 << 20;

/// The transactions of one environment, and their files below the state directory.
#[derive(Debug, Clone)]
pub struct Transactions {
    pub directory: PathBuf,
    /// The environment's directory of packages: a journal about another one is refused.
    pub site: PathBuf,
}

impl Transactions {
    #[must_use]
    pub fn open_journal(&self) -> PathBuf {
        self.directory.join("journal.json")
    }

    fn last_journal(&self) -> PathBuf {
        self.directory.join("last.json")
    }

    #[must_use]
    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.directory.join(format!("snapshot-{id}"))
    }

    /// The journal of a transaction that is still open.
    ///
    /// # Errors
    /// Returns an error if there is one that cannot be read: which files were changed is not known.
    pub fn unfinished(&self) -> Result<Option<Journal>, String> {
        // A journal that may not be opened is another user's, whose repair may still be at work.
        read_journal(&self.open_journal(), &self.site, &[io::ErrorKind::PermissionDenied])
    }

    /// The journal of the last repair, for an undo.
    ///
    /// # Errors
    /// Returns an error if there is one that cannot be read.
    pub fn last(&self) -> Result<Option<Journal>, String> {
        read_journal(&self.last_journal(), &self.site, &[])
    }

    /// Takes the snapshot of the files to be removed, then writes the journal. The environment is not
    /// changed.
    ///
    /// # Errors
    /// Returns an error if a file cannot be copied or the journal cannot be written; the snapshot is
    /// removed.
    pub fn begin(&self, id: String, plan: &FilePlan, changes: Vec<Change>) -> Result<Journal, String> {
        let snapshot = self.snapshot(&id);
        let begun = self.copy_and_write(id, plan, changes);
        if begun.is_err() {
            let _ = fs::remove_dir_all(snapshot);
        }
        begun
    }

    fn copy_and_write(&self, id: String, plan: &FilePlan, changes: Vec<Change>) -> Result<Journal, String> {
        let snapshot = self.snapshot(&id);
        fs::create_dir(&snapshot).map_err(describe("cannot make", &snapshot))?;
        let mut removed = Vec::new();
        let mut copied = BTreeSet::new();
        for (number, (path, package)) in plan.removals.iter().enumerate() {
            let name = number.to_string();
            let copy = snapshot.join(&name);
            let linked = failpoint::reach(RepairStep::Snapshot).and_then(|()| link_or_copy(path, &copy));
            let (placed_by, digest) = linked
                .and_then(|placed_by| Ok((placed_by, FileDigest::of(&copy)?)))
                .map_err(describe("cannot keep a copy of", path))?;
            if placed_by == PlacedBy::Copy {
                copied.insert(copy);
            }
            removed.push(SavedFile {
                path: path.clone(),
                copy: name,
                size: Some(digest.size),
                sha256: Some(digest.sha256),
                part: Some(*package),
            });
        }
        // The journal relies on its copies. Of a hard link only the name is new, so the directory is enough.
        let copied = sorted_set(copied.iter().map(PathBuf::as_path));
        let synced = if copied.is_empty() {
            disk::sync_directory(&snapshot)
        } else {
            disk::sync(&copied, std::slice::from_ref(&snapshot))
        };
        synced.map_err(describe("cannot write", &snapshot))?;
        let journal = Journal {
            id,
            site: self.site.clone(),
            changes,
            removed,
            created: plan.additions.iter().map(|(path, _)| path.clone()).collect(),
            directories: plan.existing_directories(),
            sites: plan.sites(),
            parts: plan.packages.clone(),
        };
        journal.refuse_paths_outside(&self.site)?;
        let path = self.open_journal();
        failpoint::reach(RepairStep::Journal)
            .and_then(|()| disk::write_atomically(&path, &serde_json::to_vec(&journal)?, Durability::Durable))
            .map_err(describe("cannot write", &path))?;
        Ok(journal)
    }

    /// Removes an open transaction: one that has changed nothing, or is rolled back.
    pub fn remove(&self, journal: &Journal) {
        let _ = fs::remove_file(self.open_journal());
        // A journal that reappears after a power failure needs its copies, so they are removed last.
        let _ = disk::sync_directory(&self.directory);
        let _ = fs::remove_dir_all(self.snapshot(&journal.id));
    }

    /// Exchanges the files, after [`Self::begin`].
    ///
    /// # Errors
    /// Returns an error at the first file that cannot be removed or written; the caller has to roll back.
    pub fn exchange(&self, plan: &FilePlan) -> Result<(), String> {
        let metadata = |path: &PathBuf| Some((path.clone(), path.symlink_metadata().ok()?));
        let replaced = sorted_map(plan.removals.keys().filter_map(metadata));
        for path in plan.removals.keys() {
            failpoint::reach(RepairStep::Remove)
                .and_then(|()| remove(path))
                .map_err(describe("cannot remove", path))?;
        }
        for (path, content) in &plan.additions {
            failpoint::reach(RepairStep::Place)
                .and_then(|()| place(content, path, replaced.get(path)))
                .map_err(describe("cannot write", path))?;
        }
        remove_empty(plan.removals.keys().map(PathBuf::as_path), |directory| plan.keeps(directory));
        Ok(())
    }

    /// Brings an exchange to the disk, on which [`Self::close`] relies: the next call does not roll a closed
    /// transaction back.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written to the disk.
    pub fn sync(&self, plan: &FilePlan) -> Result<(), String> {
        disk::sync(&plan.paths(), &plan.prefixes()).map_err(describe("cannot write", &self.site))
    }

    /// Closes this transaction, after [`Self::sync`]. It is then the one that an undo rolls back, in place of
    /// the one before. One rename does it, so a kill leaves the transaction either open or closed.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be renamed; the transaction is still open.
    pub fn close(&self, journal: &Journal) -> Result<(), String> {
        let (open, last) = (self.open_journal(), self.last_journal());
        failpoint::reach(RepairStep::Close)
            .and_then(|()| disk::rename(&open, &last))
            .map_err(describe("cannot write", &last))?;
        // Only a kill at this failpoint has an effect: the transaction is closed.
        let _ = failpoint::reach(RepairStep::Closed);
        self.remove_snapshots_but(Some(&journal.id));
        Ok(())
    }

    /// Opens the last transaction again, so that the next call completes an undo that is interrupted.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be renamed; the transaction is still closed.
    pub fn reopen(&self) -> Result<(), String> {
        disk::rename(&self.last_journal(), &self.open_journal())
            .map_err(describe("cannot write", &self.open_journal()))
    }

    /// Removes the files of interrupted repairs: overlays, and snapshots that no journal names.
    pub fn remove_leftovers(&self) {
        // An open transaction needs its snapshot for the rollback. Where the last journal cannot be read,
        // its snapshot is not known, and all are kept.
        if let (false, Ok(last)) = (self.open_journal().exists(), self.last_id()) {
            self.remove_snapshots_but(last.as_deref());
        }
        for overlay in self.entries(OVERLAY_PREFIX) {
            let _ = fs::remove_dir_all(overlay);
        }
    }

    /// The id of the last transaction. Its paths are not checked, because they are not used here.
    fn last_id(&self) -> io::Result<Option<String>> {
        #[derive(Deserialize)]
        struct JournalId {
            id: String,
        }
        match trust::read_up_to(&self.last_journal(), MAX_JOURNAL) {
            Ok(text) => Ok(Some(serde_json::from_slice::<JournalId>(&text)?.id)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remove_snapshots_but(&self, id: Option<&str>) {
        let kept = id.map(|id| self.snapshot(id));
        for snapshot in self.entries("snapshot-").into_iter().filter(|path| Some(path) != kept.as_ref()) {
            let _ = fs::remove_dir_all(snapshot);
        }
    }

    fn entries(&self, prefix: &str) -> Vec<PathBuf> {
        let entries = self.directory.read_dir().into_iter().flatten().flatten();
        let named =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
        named.map(|entry| entry.path()).collect()
    }
}

/// The beginning of the name of every directory into which a repair is staged.
pub const OVERLAY_PREFIX: &str = "overlay-";

/// Reads a journal on the packages in `site`; `None` where there is no file, or reading it fails with an
/// error that is `ignored`.
fn read_journal(path: &Path, site: &Path, ignored: &[io::ErrorKind]) -> Result<Option<Journal>, String> {
    let text = match trust::read_up_to(path, MAX_JOURNAL) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) if ignored.contains(&error.kind()) => return Ok(None),
        Err(error) => return Err(describe("cannot read", path)(error)),
    };
    let journal: Journal =
        serde_json::from_slice(&text).map_err(|error| describe("cannot read", path)(error.into()))?;
    let refused = journal.refuse_paths_outside(site);
    refused.map_err(|why| format!("{} is refused: {why}", path.display()))?;
    Ok(Some(journal))
}
