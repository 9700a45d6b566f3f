//! Files of an environment replaced as one: snapshot, journal, place; restore and recovery.
//!
//! The journal is written before the first change and names every file that will go or come, so
//! whoever finds it can put everything back, as often as need be: a `Drop` does not survive
//! SIGKILL. Nothing is ever finished by somebody else; an open journal is always rolled back.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::RepairStep;
use crate::repair::failpoint;
use crate::repair::file_digest::FileDigest;
use crate::repair::file_operations::{Made, link_or_copy, place, remove, remove_empty};
use crate::repair::file_plan::FilePlan;
use crate::repair::journal::{Journal, Saved};
use crate::repair::plan::Change;
use crate::system::disk::{self, Durability};
use crate::system::files::describe;
use crate::system::trust;

/// A file that goes or comes takes some 200 bytes: the advisory's repair (1,215 files) has 230 kB.
const MAX_JOURNAL: u64 = 64 << 20;

/// The files of one environment's transactions, below the state directory.
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
    /// Returns an error if there is one that cannot be read: what it had begun is not known.
    pub fn unfinished(&self) -> Result<Option<Journal>, String> {
        // What may not be opened is another user's, who may be at work: locks tell.
        read(&self.open_journal(), &self.site, &[io::ErrorKind::PermissionDenied])
    }

    /// The journal of the last repair, for an undo.
    ///
    /// # Errors
    /// Returns an error if there is one that cannot be read.
    pub fn last(&self) -> Result<Option<Journal>, String> {
        read(&self.last_journal(), &self.site, &[])
    }

    /// Copies all that goes, then writes the journal. The environment is not touched yet.
    ///
    /// # Errors
    /// Something cannot be copied or written; what was is gone again.
    pub fn begin(
        &self,
        id: String,
        site: &Path,
        plan: &FilePlan,
        changes: Vec<Change>,
    ) -> Result<Journal, String> {
        let snapshot = self.snapshot(&id);
        let begun = self.copy_and_write(id, site, plan, changes);
        if begun.is_err() {
            let _ = fs::remove_dir_all(snapshot);
        }
        begun
    }

    fn copy_and_write(
        &self,
        id: String,
        site: &Path,
        plan: &FilePlan,
        changes: Vec<Change>,
    ) -> Result<Journal, String> {
        let snapshot = self.snapshot(&id);
        fs::create_dir(&snapshot).map_err(describe("cannot make", &snapshot))?;
        let mut removed = Vec::new();
        let mut copied = BTreeSet::new();
        for (number, (path, part)) in plan.removals.iter().enumerate() {
            let name = number.to_string();
            let copy = snapshot.join(&name);
            let made = failpoint::reach(RepairStep::Snapshot).and_then(|()| link_or_copy(path, &copy));
            let (made, mark) = made
                .and_then(|made| Ok((made, FileDigest::of(&copy)?)))
                .map_err(describe("cannot keep a copy of", path))?;
            if made == Made::Copy {
                copied.insert(copy);
            }
            removed.push(Saved {
                path: path.clone(),
                copy: name,
                size: Some(mark.size),
                sha256: Some(mark.sha256),
                part: Some(*part),
            });
        }
        // The journal is only good with its copies. A link is the old file itself: its name is new.
        let copied: BTreeSet<&Path> = copied.iter().map(PathBuf::as_path).collect();
        let synced = if copied.is_empty() {
            disk::sync_directory(&snapshot)
        } else {
            disk::sync(&copied, std::slice::from_ref(&snapshot))
        };
        synced.map_err(describe("cannot write", &snapshot))?;
        let journal = Journal {
            id,
            site: site.to_owned(),
            changes,
            removed,
            created: plan.additions.iter().map(|(path, _)| path.clone()).collect(),
            directories: plan.directories_of_old(),
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

    /// Forgets an open transaction of which nothing has been done.
    pub fn abandon(&self, journal: &Journal) {
        let _ = fs::remove_file(self.open_journal());
        let _ = fs::remove_dir_all(self.snapshot(&journal.id));
    }

    /// Makes the exchange, after [`Self::begin`].
    ///
    /// # Errors
    /// The first file that cannot be removed or written; [`Self::restore`] is then due.
    pub fn exchange(&self, plan: &FilePlan) -> Result<(), String> {
        for path in plan.removals.keys() {
            failpoint::reach(RepairStep::Remove)
                .and_then(|()| remove(path))
                .map_err(describe("cannot remove", path))?;
        }
        for (path, content) in &plan.additions {
            failpoint::reach(RepairStep::Place)
                .and_then(|()| place(content, path))
                .map_err(describe("cannot write", path))?;
        }
        remove_empty(plan.removals.keys().map(PathBuf::as_path));
        Ok(())
    }

    /// Brings an exchange to the disk, on which [`Self::close`] relies: a closed transaction is not
    /// rolled back any more.
    ///
    /// # Errors
    /// Returns an error if something cannot be written to the disk.
    pub fn sync(&self, plan: &FilePlan) -> Result<(), String> {
        disk::sync(&plan.paths(), &plan.sites()).map_err(describe("cannot write", &self.site))
    }

    /// Makes this transaction the last one, which an undo takes back, and forgets the one before,
    /// after [`Self::sync`]. One rename, so it is either open or closed, whenever we are killed.
    ///
    /// # Errors
    /// The transaction is still open.
    pub fn close(&self, journal: &Journal) -> Result<(), String> {
        let (open, last) = (self.open_journal(), self.last_journal());
        failpoint::reach(RepairStep::Close)
            .and_then(|()| disk::rename(&open, &last))
            .map_err(describe("cannot write", &last))?;
        // Closed it is, whatever happens now.
        let _ = failpoint::reach(RepairStep::Closed);
        self.remove_snapshots_but(Some(&journal.id));
        Ok(())
    }

    /// Opens a closed transaction again, so that an undo that is cut off is finished later.
    ///
    /// # Errors
    /// It is still closed.
    pub fn reopen(&self) -> Result<(), String> {
        disk::rename(&self.last_journal(), &self.open_journal())
            .map_err(describe("cannot write", &self.open_journal()))
    }

    /// Removes what interrupted repairs left behind: overlays, each after `before`, and snapshots
    /// that no journal names.
    pub fn remove_leftovers(&self, before: impl Fn(&Path)) {
        // An open journal is rolled back first. One that cannot be read keeps its snapshot: which one
        // that is, is not known.
        if let (false, Ok(last)) = (self.open_journal().exists(), self.last_id()) {
            self.remove_snapshots_but(last.as_deref());
        }
        for overlay in self.entries(OVERLAY_PREFIX) {
            before(&overlay);
            let _ = fs::remove_dir_all(overlay);
        }
    }

    /// All that every check has to know of a last repair: its paths are checked when they are used.
    fn last_id(&self) -> io::Result<Option<String>> {
        #[derive(Deserialize)]
        struct Named {
            id: String,
        }
        match trust::read_up_to(&self.last_journal(), MAX_JOURNAL) {
            Ok(text) => Ok(Some(serde_json::from_slice::<Named>(&text)?.id)),
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
        let ours =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
        ours.map(|entry| entry.path()).collect()
    }
}

/// Begins the names of the directories into which repairs are staged.
pub const OVERLAY_PREFIX: &str = "overlay-";

/// The journal in a file about the packages in `site`; `None` where there is no file, or for the
/// errors that are `passed_over`.
fn read(path: &Path, site: &Path, passed_over: &[io::ErrorKind]) -> Result<Option<Journal>, String> {
    let text = match trust::read_up_to(path, MAX_JOURNAL) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) if passed_over.contains(&error.kind()) => return Ok(None),
        Err(error) => return Err(describe("cannot read", path)(error)),
    };
    let journal: Journal =
        serde_json::from_slice(&text).map_err(|error| describe("cannot read", path)(error.into()))?;
    let refused = journal.refuse_paths_outside(site);
    refused.map_err(|why| format!("{} is refused: {why}", path.display()))?;
    Ok(Some(journal))
}
