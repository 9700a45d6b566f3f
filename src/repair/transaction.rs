//! The exchange of an environment's files as one transaction: snapshot, journal, exchange, close.
//!
//! The name of the journal's file says how far a transaction has come:
//!
//! | file                  | the environment's files are | the next call |
//! | --------------------- | --------------------------- | ------------- |
//! | `unchanged.json`      | the old ones: untouched or restored | removes the [`token`] and the snapshot |
//! | `journal.json`        | partly exchanged | rolls the exchange back |
//! | `repair-ID.json`      | the new ones     | does nothing; `undo` rolls back the newest repair |
//! | `interrupted-ID.json` | gone: another environment is at this path | does nothing until they are back |
//!
//! Each step from one of these states to another is a single rename, so a kill always leaves one of these
//! files. An open transaction (`journal.json`) is always rolled back, never continued. If the exchange or
//! the verification fails, the repair itself rolls the transaction back. If the repair is killed, the next
//! call that finds the journal rolls the transaction back. Writing the token ([`token`]) is the first change
//! to the environment and the last one to be reverted, because the token distinguishes the environment from
//! others at the same path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::repair::change::Change;
use crate::repair::failpoint;
use crate::repair::file_digest::FileDigest;
use crate::repair::file_operations::{link_or_copy, place, remove, remove_empty};
use crate::repair::file_plan::{Content, FilePlan};
use crate::repair::history::{self, Entry, IN_PLACE_PREFIX, MAX_UNDO};
use crate::repair::journal::{Journal, SavedFile, read_id, read_journal};
use crate::repair::token::{self, TOKEN_FILE};
use crate::system::disk::{self, Durability};
use crate::system::files::describe;

/// The transactions of one environment, and their files below the state directory.
#[derive(Debug, Clone)]
pub struct Transactions {
    pub directory: PathBuf,
    /// The package directory of the environment: a journal about another directory is refused.
    pub site: PathBuf,
}

impl Transactions {
    pub fn open_journal(&self) -> PathBuf {
        self.directory.join("journal.json")
    }

    /// The path of a transaction's journal as long as the exchange has not begun, and again after the
    /// rollback. In both cases, the environment is unchanged, except that it may contain the token.
    fn unchanged_journal(&self) -> PathBuf {
        self.directory.join("unchanged.json")
    }

    pub fn snapshot(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{SNAPSHOT_PREFIX}{id}"))
    }

    /// The journal of a transaction that is still open. A journal that was set aside is opened again if its
    /// environment is back.
    ///
    /// # Errors
    /// Returns an error if the open journal exists but cannot be read, because we then do not know which
    /// files were changed. Missing permission is no error.
    pub fn unfinished(&self) -> Result<Option<Journal>, String> {
        let open = self.open_journal();
        // A journal that we have no permission to read is no error: it belongs to another user, whose repair
        // may still be running. We leave the journal alone.
        if let Some(journal) = read_journal(&open, &self.site, &[io::ErrorKind::PermissionDenied])? {
            return Ok(Some(journal));
        }
        for path in self.entries(INTERRUPTED_PREFIX) {
            if let Ok(Some(journal)) = read_journal(&path, &self.site, &[])
                && journal.is_bound()?
            {
                disk::rename(&path, &open).map_err(describe("cannot write", &open))?;
                return Ok(Some(journal));
            }
        }
        Ok(None)
    }

    /// The journals of the repairs of this environment that can be undone, the newest first.
    ///
    /// # Errors
    /// Returns an error if one of the journals cannot be read.
    pub fn closed(&self) -> Result<Vec<Journal>, String> {
        let in_place = history::list(&self.directory).into_iter().filter(|entry| !entry.is_isolated);
        let read = in_place.filter_map(|entry| self.read_closed(&entry).transpose());
        read.collect()
    }

    /// The journal of a repair in place; `None` if it belongs to another environment.
    pub fn read_closed(&self, entry: &Entry) -> Result<Option<Journal>, String> {
        let Some(journal) = read_journal(&entry.file, &self.site, &[])? else { return Ok(None) };
        Ok(journal.is_bound()?.then_some(journal))
    }

    /// The path of every file that says what to undo or roll back; `journal.json` and `unchanged.json` are
    /// always included, even if they do not exist.
    pub fn journals(&self) -> Vec<PathBuf> {
        let kept = history::list(&self.directory).into_iter().map(|entry| entry.file);
        let interrupted = self.entries(INTERRUPTED_PREFIX);
        kept.chain(interrupted).chain([self.open_journal(), self.unchanged_journal()]).collect()
    }

    /// Takes the snapshot of the files to remove, then writes the journal. The environment is not changed.
    ///
    /// # Errors
    /// Returns an error if a file cannot be copied or the journal cannot be written. The snapshot is
    /// then removed.
    pub fn begin(&self, id: String, plan: &FilePlan, changes: Vec<Change>) -> Result<Journal, String> {
        let snapshot = self.snapshot(&id);
        self.copy_and_write(id, plan, changes).inspect_err(|_| {
            let _ = fs::remove_dir_all(snapshot);
        })
    }

    fn copy_and_write(&self, id: String, plan: &FilePlan, changes: Vec<Change>) -> Result<Journal, String> {
        let snapshot = self.snapshot(&id);
        fs::create_dir(&snapshot).map_err(describe("cannot create", &snapshot))?;
        let mut removed = Vec::new();
        let mut copied = BTreeSet::new();
        for (number, (path, package)) in plan.removals.iter().enumerate() {
            let name = number.to_string();
            let copy = snapshot.join(&name);
            let linked = failpoint::reach("snapshot").and_then(|()| link_or_copy(path, &copy));
            let (is_copy, digest) = linked
                .and_then(|is_copy| Ok((is_copy, FileDigest::of(&copy)?)))
                .map_err(describe("cannot keep a copy of", path))?;
            if is_copy {
                copied.insert(copy);
            }
            removed.push(SavedFile {
                path: path.clone(),
                copy: name,
                digest: Some(digest),
                part: Some(*package),
            });
        }
        // The journal relies on the copies in the snapshot, so the copies are synced first. If they are hard
        // links, it is enough to sync the directory, because only their names are new.
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
            token: Some(self.choose_token().map_err(describe("cannot create a token for", &self.site))?),
        };
        journal.refuse_paths_outside(&self.site)?;
        let path = self.unchanged_journal();
        failpoint::reach("journal")
            .and_then(|()| disk::write_atomically(&path, &serde_json::to_vec(&journal)?, Durability::Durable))
            .map_err(describe("cannot write", &path))?;
        Ok(journal)
    }

    /// Returns the token of an earlier repair, because all repairs of an environment can share one. If there
    /// is no such token, creates a new one.
    fn choose_token(&self) -> io::Result<String> {
        let earlier = self.closed().unwrap_or_default().into_iter().find_map(|journal| journal.token);
        earlier.map_or_else(token::generate, Ok)
    }

    /// Removes a transaction that has changed nothing or was rolled back.
    pub fn remove(&self, journal: &Journal) {
        let (open, unchanged) = (self.open_journal(), self.unchanged_journal());
        // The copies and the token are removed only when the rename is on the disk: if a power failure
        // brought the open journal back, its rollback would need both.
        if !open.exists() || disk::rename(&open, &unchanged).is_ok() {
            self.finish_removal(journal);
        }
    }

    /// Whether there is a transaction that changed nothing or was rolled back, and that is not removed yet.
    pub fn is_removal_pending(&self) -> bool {
        self.unchanged_journal().exists()
    }

    /// Completes the removal of a transaction.
    pub fn complete_removal(&self) {
        if let Ok(Some(journal)) = read_journal(&self.unchanged_journal(), &self.site, &[]) {
            self.finish_removal(&journal);
        }
    }

    fn finish_removal(&self, journal: &Journal) {
        // If another journal cannot be read, nothing is removed yet, because that journal may name the
        // same token.
        let released = self.closed().map_err(io::Error::other).and_then(|others| {
            remove_token(journal, &others)?;
            failpoint::reach("remove-token")
        });
        // If the token could not be removed, the next call tries again.
        if released.is_ok() {
            let _ = fs::remove_file(self.unchanged_journal());
            let _ = fs::remove_dir_all(self.snapshot(&journal.id));
        }
    }

    /// Sets an open journal aside, because its environment was replaced by another one at the same path. The
    /// journal's snapshot is kept.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be renamed; the transaction is still open.
    pub fn set_aside(&self, journal: &Journal) -> Result<(), String> {
        let path = self.directory.join(format!("{INTERRUPTED_PREFIX}{}.json", journal.id));
        disk::rename(&self.open_journal(), &path).map_err(describe("cannot write", &path))
    }

    /// Exchanges the files, after [`Self::begin`]; the token is written first.
    ///
    /// # Errors
    /// Returns an error at the first file that cannot be removed or written; the caller has to roll back.
    pub fn exchange(&self, journal: &Journal, plan: &FilePlan) -> Result<(), String> {
        write_token(journal)?;
        self.open()?;
        let metadata = |path: &PathBuf| Some((path.clone(), path.symlink_metadata().ok()?));
        let replaced = plan.removals.keys().filter_map(metadata).collect::<BTreeMap<_, _>>();
        for path in plan.removals.keys() {
            failpoint::reach("remove")
                .and_then(|()| remove(path))
                .map_err(describe("cannot remove", path))?;
        }
        for (path, content) in &plan.additions {
            failpoint::reach("place")
                .and_then(|()| place(content, path, replaced.get(path)))
                .map_err(describe("cannot write", path))?;
        }
        let removed = plan.removals.keys().map(PathBuf::as_path);
        remove_empty(removed, |directory| plan.keeps(directory)).map_or(Ok(()), Err)
    }

    /// Opens a transaction whose token has been written: from now on, its files may be exchanged.
    pub fn open(&self) -> Result<(), String> {
        let open = self.open_journal();
        disk::rename(&self.unchanged_journal(), &open).map_err(describe("cannot write", &open))
    }

    /// Syncs an exchange to the disk. The caller does this before [`Self::close`], because a closed
    /// transaction is not rolled back automatically, even if a power failure has lost some of the new files.
    pub fn sync(&self, plan: &FilePlan) -> Result<(), String> {
        disk::sync(&plan.paths(), &plan.prefixes()).map_err(describe("cannot write", &self.site))
    }

    /// Closes a transaction, after [`Self::sync`]; from then on, an undo can roll it back. Closing takes a
    /// single rename, so a kill leaves the transaction either open or closed. If there are more than
    /// [`MAX_UNDO`] repairs, the oldest can no longer be undone.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be renamed; the transaction is still open.
    pub fn close(&self, journal: &Journal) -> Result<(), String> {
        let closed = self.directory.join(format!("{IN_PLACE_PREFIX}{}.json", journal.id));
        failpoint::reach("close")
            .and_then(|()| disk::rename(&self.open_journal(), &closed))
            .map_err(describe("cannot write", &closed))?;
        // Only a kill at this failpoint has an effect, because the transaction is already closed.
        let _ = failpoint::reach("closed");
        self.remove_oldest();
        Ok(())
    }

    /// If there are more than [`MAX_UNDO`] repairs, removes the journals and snapshots (or the overlays) of
    /// the oldest repairs, which can then no longer be undone.
    pub fn remove_oldest(&self) {
        for Entry { is_isolated, file, .. } in history::list(&self.directory).into_iter().skip(MAX_UNDO) {
            if is_isolated {
                let _ = fs::remove_file(&file);
                let _ = fs::remove_dir_all(file.with_extension(""));
                continue;
            }
            let dropped = read_journal(&file, &self.site, &[]);
            if fs::remove_file(file).is_ok()
                && let (Ok(Some(dropped)), Ok(others)) = (dropped, self.closed())
            {
                let _ = remove_token(&dropped, &others);
            }
        }
        self.remove_snapshots();
    }

    /// Opens a closed transaction again. If the undo that follows is interrupted, the next call completes it.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be renamed; the transaction is still closed.
    pub fn reopen(&self, entry: &Entry) -> Result<(), String> {
        disk::rename(&entry.file, &self.open_journal())
            .map_err(describe("cannot write", &self.open_journal()))
    }

    /// Removes what interrupted repairs left: snapshots that no journal names, and directories of staged
    /// packages. The names of these directories begin with [`OVERLAY_PREFIX`]; the name of a kept overlay
    /// begins with another prefix. The caller holds the lock of [`Self::lock_repair`], so none of these files
    /// belongs to a running repair.
    pub fn remove_leftovers(&self) {
        // An open transaction needs its snapshot for the rollback, but `remove_snapshots` does not know
        // that snapshot, because it does not read the open journal.
        if !self.open_journal().exists() {
            self.remove_snapshots();
        }
        for overlay in self.entries(OVERLAY_PREFIX) {
            let _ = fs::remove_dir_all(overlay);
        }
    }

    /// Removes the snapshots that belong neither to a closed transaction nor to a journal that was set aside.
    /// If such a journal cannot be read, nothing is removed, because we do not know which snapshot it names.
    /// Must not be called while a transaction is open.
    fn remove_snapshots(&self) {
        let in_place = history::list(&self.directory).into_iter().filter(|entry| !entry.is_isolated);
        let journals = in_place.map(|entry| entry.file).chain(self.entries(INTERRUPTED_PREFIX));
        let Ok(ids) = journals.map(|path| read_id(&path)).collect::<io::Result<Vec<_>>>() else { return };
        let kept: Vec<PathBuf> = ids.iter().map(|id| self.snapshot(id)).collect();
        for snapshot in self.entries(SNAPSHOT_PREFIX).iter().filter(|snapshot| !kept.contains(snapshot)) {
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

/// The prefix of the name of every directory into which a repair is staged.
pub const OVERLAY_PREFIX: &str = "overlay-";

/// The prefix of the name of every snapshot's directory.
const SNAPSHOT_PREFIX: &str = "snapshot-";

/// The prefix of the name of every journal that was set aside.
const INTERRUPTED_PREFIX: &str = "interrupted-";

fn digest_additions(plan: &FilePlan) -> Result<Vec<FileDigest>, String> {
    let digest = |content: &Content| match content {
        Content::File(source) => FileDigest::of(source).map_err(describe("cannot read", source)),
        Content::Text(text) => Ok(FileDigest::of_text(text)),
    };
    plan.additions.iter().map(|(_, content)| digest(content)).collect()
}

/// Writes the token of a journal into the package directories that the journal names.
fn write_token(journal: &Journal) -> Result<(), String> {
    let Some(token) = &journal.token else { return Ok(()) };
    for site in journal.all_sites() {
        failpoint::reach("token")
            .and_then(|()| token::add(site, token))
            .map_err(describe("cannot write", &site.join(TOKEN_FILE)))?;
    }
    Ok(())
}

/// Removes the token of a journal from the package directories that the journal names. A directory keeps the
/// token if another journal with the same token names that directory.
fn remove_token(journal: &Journal, others: &[Journal]) -> io::Result<()> {
    let Some(token) = &journal.token else { return Ok(()) };
    let named = others.iter().filter(|other| other.token == journal.token);
    let named: Vec<&PathBuf> = named.flat_map(Journal::all_sites).collect();
    for site in journal.all_sites().iter().filter(|site| !named.contains(site)) {
        failpoint::reach("remove-token")?;
        token::remove(site, token)?;
    }
    Ok(())
}
