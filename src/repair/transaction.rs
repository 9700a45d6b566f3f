//! The exchange of an environment's files as one transaction: snapshot, journal, exchange, close.
//!
//! A transaction is open from its journal on, and closed by one rename of the journal. An open one is
//! always rolled back, never continued: by the repair itself where a step fails, else by the next call
//! that finds the journal, because a repair that is killed by SIGKILL runs no `Drop`.
//!
//! The first change is the token ([`token`]), without which a later call takes the environment for another
//! one. The last change of a rollback removes it again, after another rename of the journal: from then on there
//! is nothing to restore, and the next call only completes the removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::RepairStep;
use crate::repair::change::Change;
use crate::repair::failpoint;
use crate::repair::file_digest::FileDigest;
use crate::repair::file_operations::{PlacedBy, link_or_copy, place, remove, remove_empty};
use crate::repair::file_plan::{Content, FilePlan};
use crate::repair::journal::{Journal, SavedFile};
use crate::repair::token::{self, TOKEN_FILE};
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
    pub fn open_journal(&self) -> PathBuf {
        self.directory.join("journal.json")
    }

    fn last_journal(&self) -> PathBuf {
        self.directory.join("last.json")
    }

    /// The journal of a transaction that is rolled back, until its token is removed.
    fn rolled_back_journal(&self) -> PathBuf {
        self.directory.join("rolled-back.json")
    }

    /// The journal of a transaction whose environment is gone.
    fn set_aside_journal(&self, id: &str) -> PathBuf {
        self.directory.join(format!("set-aside-{id}.json"))
    }

    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{SNAPSHOT_PREFIX}{id}"))
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
        let copied = copied.iter().map(PathBuf::as_path).collect::<BTreeSet<_>>();
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
            created_digests: digest_additions(plan)?,
            directories: plan.existing_directories(),
            sites: plan.sites(),
            parts: plan.packages.clone(),
            token: Some(self.choose_token().map_err(describe("cannot make a token for", &self.site))?),
        };
        journal.refuse_paths_outside(&self.site)?;
        let path = self.open_journal();
        failpoint::reach(RepairStep::Journal)
            .and_then(|()| disk::write_atomically(&path, &serde_json::to_vec(&journal)?, Durability::Durable))
            .map_err(describe("cannot write", &path))?;
        Ok(journal)
    }

    /// The token of the last repair where it can still be undone, because one environment then serves both; else
    /// a new one.
    fn choose_token(&self) -> io::Result<String> {
        let last = self.last().ok().flatten().filter(|last| last.is_bound() == Ok(true));
        last.and_then(|last| last.token).map_or_else(token::generate, Ok)
    }

    /// Removes an open transaction: one that has changed nothing, or is rolled back.
    pub fn remove(&self, journal: &Journal) {
        // A journal that reappears after a power failure needs its copies and its token, so the rename comes first.
        if disk::rename(&self.open_journal(), &self.rolled_back_journal()).is_ok() {
            self.finish_removal(journal);
        }
    }

    /// Whether the removal of a transaction that is rolled back was interrupted.
    pub fn is_removal_pending(&self) -> bool {
        self.rolled_back_journal().exists()
    }

    /// Completes the removal of a transaction that is rolled back.
    pub fn complete_removal(&self) {
        let rolled_back = read_journal(&self.rolled_back_journal(), &self.site, &[]);
        if let Ok(Some(journal)) = rolled_back {
            self.finish_removal(&journal);
        }
    }

    fn finish_removal(&self, journal: &Journal) {
        // Where the last journal cannot be read, it may name the token.
        let released = self.last().map_err(io::Error::other).and_then(|last| {
            remove_token(journal, last.as_ref())?;
            failpoint::reach(RepairStep::RemoveToken)
        });
        // The next call tries again.
        if released.is_ok() {
            let _ = fs::remove_file(self.rolled_back_journal());
            let _ = fs::remove_dir_all(self.snapshot(&journal.id));
        }
    }

    /// Keeps an open journal and its snapshot, but for people only: its environment is gone.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be renamed; the transaction is still open.
    pub fn set_open_aside(&self, journal: &Journal) -> Result<(), String> {
        let path = self.set_aside_journal(&journal.id);
        disk::rename(&self.open_journal(), &path).map_err(describe("cannot write", &path))
    }

    /// The same for the journal of the last repair.
    pub fn set_last_aside(&self, journal: &Journal) -> Result<(), String> {
        let path = self.set_aside_journal(&journal.id);
        disk::rename(&self.last_journal(), &path).map_err(describe("cannot write", &path))
    }

    /// Exchanges the files, after [`Self::begin`], with the token as the first one.
    ///
    /// # Errors
    /// Returns an error at the first file that cannot be removed or written; the caller has to roll back.
    pub fn exchange(&self, journal: &Journal, plan: &FilePlan) -> Result<(), String> {
        write_token(journal)?;
        let metadata = |path: &PathBuf| Some((path.clone(), path.symlink_metadata().ok()?));
        let replaced = plan.removals.keys().filter_map(metadata).collect::<BTreeMap<_, _>>();
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
        let replaced = self.last().ok().flatten();
        failpoint::reach(RepairStep::Close)
            .and_then(|()| disk::rename(&open, &last))
            .map_err(describe("cannot write", &last))?;
        // Only a kill at this failpoint has an effect: the transaction is closed.
        let _ = failpoint::reach(RepairStep::Closed);
        if let Some(replaced) = replaced {
            let _ = remove_token(&replaced, Some(journal));
        }
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
        for snapshot in self.entries(SNAPSHOT_PREFIX) {
            if Some(&snapshot) != kept.as_ref() && !self.is_set_aside(&snapshot) {
                let _ = fs::remove_dir_all(snapshot);
            }
        }
    }

    fn is_set_aside(&self, snapshot: &Path) -> bool {
        let name = snapshot.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.strip_prefix(SNAPSHOT_PREFIX));
        id.is_some_and(|id| self.set_aside_journal(id).exists())
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

/// The beginning of the name of every directory of copies.
const SNAPSHOT_PREFIX: &str = "snapshot-";

fn digest_additions(plan: &FilePlan) -> Result<Vec<FileDigest>, String> {
    let digest = |content: &Content| match content {
        Content::File(source) => FileDigest::of(source).map_err(describe("cannot read", source)),
        Content::Text(text) => Ok(FileDigest::of_text(text)),
    };
    plan.additions.iter().map(|(_, content)| digest(content)).collect()
}

/// Writes the token of a journal into its directories of packages.
fn write_token(journal: &Journal) -> Result<(), String> {
    let Some(token) = &journal.token else { return Ok(()) };
    for site in journal.all_sites() {
        failpoint::reach(RepairStep::Token)
            .and_then(|()| token::add(site, token))
            .map_err(describe("cannot write", &site.join(TOKEN_FILE)))?;
    }
    Ok(())
}

/// Removes the token of a journal from its directories of packages, but for those in which another journal names
/// the same one.
fn remove_token(journal: &Journal, other: Option<&Journal>) -> io::Result<()> {
    let Some(token) = &journal.token else { return Ok(()) };
    let others =
        other.filter(|other| other.token == journal.token).map(Journal::all_sites).unwrap_or_default();
    for site in journal.all_sites().iter().filter(|site| !others.contains(site)) {
        failpoint::reach(RepairStep::RemoveToken)?;
        token::remove(site, token)?;
    }
    Ok(())
}

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
