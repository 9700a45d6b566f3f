//! Files of an environment replaced as one: snapshot, journal, place; restore and recovery.
//!
//! The journal is written before the first change and names every file that will go or come, so
//! whoever finds it can put everything back, as often as need be: a `Drop` does not survive
//! SIGKILL. Nothing is ever finished by somebody else; an open journal is always rolled back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, RepairStep};
use crate::repair::failpoint;
use crate::repair::file_plan::{Content, FilePlan};
use crate::repair::journal::{FileDigest, Journal, Saved};
use crate::repair::plan::Change;
use crate::repair::record::bytecode_of;
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

/// Why old files are not back in their place.
#[derive(Debug)]
pub enum RestoreError {
    /// Copies that are gone or damaged: nothing was changed.
    CopiesMissing { journal: PathBuf, failures: Vec<String> },
    /// Files that could not be put back: the others are.
    Files(Vec<String>),
}

impl From<RestoreError> for Error {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::CopiesMissing { journal, failures } => {
                let next = format!(
                    "Nothing was changed. Restore that copy from a backup; without one make the environment \
                     anew and remove {}.",
                    journal.display()
                );
                Self::repair(RepairStep::Rollback, first_of(&failures), &next)
            }
            RestoreError::Files(failures) => Self::not_restored(&failures),
        }
    }
}

/// The first one and how many more: a snapshot has thousands of files.
#[must_use]
pub fn first_of(failures: &[String]) -> String {
    let more = failures.len().saturating_sub(1);
    let more = if more > 0 { format!("; and {more} more like it") } else { String::new() };
    failures.first().cloned().unwrap_or_default() + &more
}

impl Transactions {
    fn open_journal(&self) -> PathBuf {
        self.directory.join("journal.json")
    }

    fn last_journal(&self) -> PathBuf {
        self.directory.join("last.json")
    }

    fn snapshot(&self, id: &str) -> PathBuf {
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

    /// Says whether all is there that [`Self::restore`] needs.
    ///
    /// # Errors
    /// Returns an error if copies are gone or are not what was saved.
    pub fn check(&self, journal: &Journal) -> Result<(), Vec<String>> {
        let failures = journal.missing(&self.snapshot(&journal.id));
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Puts everything back as it was, goes on past what fails, and forgets the transaction when
    /// nothing did. Gives the packages that another installer has written since: those are left as
    /// they are now, without the repair's files.
    ///
    /// # Errors
    /// Returns an error if copies are missing, before anything is changed, or files could not be put
    /// back; the snapshot and the journal stay.
    pub fn restore(&self, journal: &Journal) -> Result<Vec<String>, RestoreError> {
        let snapshot = self.snapshot(&journal.id);
        self.check(journal)
            .map_err(|failures| RestoreError::CopiesMissing { journal: self.open_journal(), failures })?;
        let taken = journal.taken();
        let back: Vec<&Saved> =
            journal.removed.iter().filter(|saved| !taken.leave.contains(&saved.path)).collect();
        let mut failures = remove_new(journal, &back, &taken.keep);
        let above: BTreeSet<&Path> = back.iter().flat_map(|saved| saved.path.ancestors().skip(1)).collect();
        let needed = journal.directories.iter().filter(|(directory, _)| above.contains(directory.as_path()));
        needed.for_each(|(directory, mode)| make_directory(directory, *mode));
        failures.extend(put_all_back(&snapshot, &back));
        remove_empty(journal.created.iter().map(PathBuf::as_path));
        let changed = back.iter().map(|saved| &saved.path).chain(&journal.created);
        if let Err(error) = disk::sync(&changed.map(PathBuf::as_path).collect(), &journal.roots()) {
            failures.push(describe("cannot write", &journal.site)(error));
        }
        if !failures.is_empty() {
            return Err(RestoreError::Files(failures));
        }
        // Without its journal first: one that comes back after a loss of power needs its copies.
        let _ = fs::remove_file(self.open_journal());
        let _ = disk::sync_directory(&self.directory);
        let _ = fs::remove_dir_all(snapshot);
        Ok(taken.packages)
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

/// Removes what came and was not there before, and gives the failures. What Python has compiled of
/// the new files goes with them: an old file of the same size and time would be taken for its source.
fn remove_new(journal: &Journal, back: &[&Saved], keep: &BTreeSet<PathBuf>) -> Vec<String> {
    let old: BTreeSet<&Path> = back.iter().map(|saved| saved.path.as_path()).collect();
    let created = || journal.created.iter().filter(|path| !keep.contains(*path));
    let compiled: Vec<PathBuf> = created().flat_map(|path| bytecode_of(path)).collect();
    let new = compiled
        .iter()
        .chain(created())
        .filter(|path| !old.contains(path.as_path()) && !keep.contains(*path));
    new.filter_map(|path| remove(path).err().map(describe("cannot remove", path))).collect()
}

fn put_all_back(snapshot: &Path, back: &[&Saved]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut room_made = false;
    for saved in back {
        let copy = snapshot.join(&saved.copy);
        let put = || failpoint::reach(RepairStep::Restore).and_then(|()| put_back(&copy, &saved.path));
        let mut done = put();
        if is_full(&done) && !room_made {
            // The new files have taken the room of the old ones.
            room_made = true;
            for saved in back {
                make_room(&snapshot.join(&saved.copy), &saved.path);
            }
            done = put();
        }
        if let Err(error) = done {
            failures.push(describe("cannot put back", &saved.path)(error));
        }
    }
    failures
}

/// Gone afterwards, whether or not it was there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn place(content: &Content, path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Two packages may bring one file. Writing into it would reach its other names: the first
    // package's in the installer's cache.
    remove(path)?;
    match content {
        Content::File(source) => link_or_copy(source, path).map(drop),
        Content::Text(text) => fs::write(path, text),
    }
}

/// How a file came to have another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Link,
    Copy,
}

/// A hard link costs nothing and cannot differ; across file systems it takes a copy, with its time:
/// bytecode is only valid for the source file's.
fn link_or_copy(source: &Path, path: &Path) -> io::Result<Made> {
    let metadata = source.symlink_metadata()?;
    if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(source)?, path)?;
        return Ok(Made::Copy);
    }
    if fs::hard_link(source, path).is_ok() {
        return Ok(Made::Link);
    }
    fs::copy(source, path)?;
    let copy = File::options().write(true).open(path).or_else(|_| File::open(path))?;
    copy.set_modified(metadata.modified()?)?;
    Ok(Made::Copy)
}

/// As it was, where it has gone.
fn make_directory(directory: &Path, mode: u32) {
    // A failure shows when its files are put back.
    if fs::create_dir(directory).is_ok() {
        let _ = fs::set_permissions(directory, fs::Permissions::from_mode(mode));
    }
}

fn is_full(done: &io::Result<()>) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    done.as_ref().is_err_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
}

/// Removes what stands in the place of an old file, as long as its copy is there.
fn make_room(copy: &Path, path: &Path) {
    if copy.symlink_metadata().is_ok() && !is_back(copy, path) {
        // A failure shows when the old one is put back.
        let _ = remove(path);
    }
}

/// Whether a file is the one that the copy was made of: its other name, or the same in all things.
fn is_back(copy: &Path, path: &Path) -> bool {
    let (Ok(was), Ok(is)) = (copy.symlink_metadata(), path.symlink_metadata()) else { return false };
    let same_file = was.dev() == is.dev() && was.ino() == is.ino();
    let same_marks =
        || was.mode() == is.mode() && was.len() == is.len() && was.modified().ok() == is.modified().ok();
    let same_content = || match (fs::read(copy), fs::read(path)) {
        (Ok(was), Ok(is)) => was == is,
        _ => false,
    };
    same_file || (was.is_file() && same_marks() && same_content())
}

/// Beside it and renamed over it, so that the file is never missing. What was not touched is left
/// alone: its directory may be the one that cannot be written.
fn put_back(copy: &Path, path: &Path) -> io::Result<()> {
    if is_back(copy, path) {
        return Ok(());
    }
    if copy.symlink_metadata().is_err() {
        // A check has found that it is in its place already.
        return path.symlink_metadata().map(drop);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let beside =
        directory.join(format!(".{}.pcluster-shim", path.file_name().unwrap_or_default().to_string_lossy()));
    remove(&beside)?;
    link_or_copy(copy, &beside).and_then(|_| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = remove(&beside);
    })
}

/// Removes the directories of these files that are empty now, and their parents.
fn remove_empty<'a>(files: impl Iterator<Item = &'a Path>) {
    let directories: BTreeSet<&Path> = files.filter_map(Path::parent).collect();
    for directory in directories.into_iter().rev() {
        let mut directory = Some(directory);
        // Bytecode directories stand inside the one that they belong to.
        while let Some(empty) = directory {
            let _ = fs::remove_dir(empty.join("__pycache__"));
            if fs::remove_dir(empty).is_err() {
                break;
            }
            directory = empty.parent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::packages::Distribution;

    /// An environment with one distribution, and a staged successor.
    struct Scene {
        root: tempfile::TempDir,
        plan: FilePlan,
        transactions: Transactions,
    }

    fn scene() -> Scene {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let file = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        file("site/p/__init__.py", "old");
        file("site/p/__pycache__/__init__.cpython-39.pyc", "compiled");
        file("site/p/gone/only_old.py", "old");
        file("site/p-1.dist-info/METADATA", "Name: p\nVersion: 1\n");
        file(
            "site/p-1.dist-info/RECORD",
            "p/__init__.py,,\np/gone/only_old.py,,\np-1.dist-info/METADATA,,\np-1.dist-info/RECORD,,\n",
        );
        file("site/other.py", "not ours");
        file("overlay/p/__init__.py", "new");
        file("overlay/p/fresh/only_new.py", "new");
        file("overlay/p-2.dist-info/METADATA", "Name: p\nVersion: 2\n");
        file("overlay/p-2.dist-info/REQUESTED", "");
        file(
            "overlay/p-2.dist-info/RECORD",
            "p/__init__.py,,\np/fresh/only_new.py,,\np-2.dist-info/METADATA,,\np-2.dist-info/REQUESTED,,\np-2.dist-info/RECORD,,\n",
        );
        fs::create_dir(at("state")).unwrap();
        let distribution = |directory: &str, version: &str| Distribution {
            name: "p".into(),
            version: version.into(),
            metadata: at(directory).join(format!("p-{version}.dist-info")),
            requires: Vec::new(),
        };
        let mut plan = FilePlan::default();
        plan.replace(
            Some(&distribution("site", "1")),
            &distribution("overlay", "2"),
            &at("overlay"),
            &at("site"),
        )
        .unwrap();
        let transactions = Transactions { directory: at("state"), site: at("site") };
        Scene { root, plan, transactions }
    }

    fn tree(directory: &Path) -> Vec<(PathBuf, String)> {
        let mut files = Vec::new();
        for entry in directory.read_dir().unwrap().flatten() {
            if entry.path().is_dir() {
                files.push((entry.path(), "directory".into()));
                files.extend(tree(&entry.path()));
            } else {
                files.push((entry.path(), fs::read_to_string(entry.path()).unwrap()));
            }
        }
        files.sort();
        files
    }

    #[test]
    fn an_exchange_leaves_the_new_files_only_and_its_undo_the_old_ones() {
        let scene = scene();
        let site = scene.root.path().join("site");
        let before = tree(&site);
        let journal = scene.transactions.begin("1".into(), &site, &scene.plan, Vec::new()).unwrap();
        scene.transactions.exchange(&scene.plan).unwrap();
        let names: Vec<String> = tree(&site)
            .iter()
            .map(|(path, _)| path.strip_prefix(&site).unwrap().display().to_string())
            .collect();
        let expected = [
            "other.py",
            "p",
            "p/__init__.py",
            "p/fresh",
            "p/fresh/only_new.py",
            "p-2.dist-info",
            "p-2.dist-info/METADATA",
            "p-2.dist-info/RECORD",
        ];
        let mut expected = expected.map(str::to_owned);
        let mut names = names;
        names.sort();
        expected.sort();
        assert_eq!(names, expected);
        assert!(!fs::read_to_string(site.join("p-2.dist-info/RECORD")).unwrap().contains("REQUESTED"));
        scene.transactions.close(&journal).unwrap();
        assert!(scene.transactions.unfinished().unwrap().is_none());
        let last = scene.transactions.last().unwrap().unwrap();
        scene.transactions.reopen().unwrap();
        scene.transactions.restore(&last).unwrap();
        assert_eq!(tree(&site), before);
        assert_eq!(tree(&scene.transactions.directory), []);
    }

    #[test]
    fn whatever_was_done_a_restore_puts_it_back() {
        let steps = scene().plan.removals.len() + scene().plan.additions.len();
        for done in 0..=steps {
            let mut scene = scene();
            let site = scene.root.path().join("site");
            let before = tree(&site);
            scene.transactions.begin("1".into(), &site, &scene.plan, Vec::new()).unwrap();
            // As if killed after so many steps.
            let going = scene.plan.removals.len().min(done);
            for path in scene.plan.removals.keys().take(going) {
                remove(path).unwrap();
            }
            scene.plan.additions.truncate(done - going);
            for (path, content) in &scene.plan.additions {
                place(content, path).unwrap();
            }
            let journal = scene.transactions.unfinished().unwrap().unwrap();
            scene.transactions.restore(&journal).unwrap();
            assert_eq!(tree(&site), before, "after {done} steps");
            scene.transactions.remove_leftovers(|_| ());
            assert_eq!(tree(&scene.transactions.directory), []);
        }
    }

    #[test]
    fn a_file_of_somebody_else_in_the_way_is_seen() {
        let scene = scene();
        assert_eq!(scene.plan.conflict(), None);
        let way = scene.root.path().join("site/p/fresh/only_new.py");
        fs::create_dir_all(way.parent().unwrap()).unwrap();
        fs::write(&way, "").unwrap();
        assert_eq!(scene.plan.conflict(), Some(way.as_path()));
    }

    #[test]
    fn a_restore_goes_on_past_a_file_that_fails_and_keeps_the_snapshot() {
        let scene = scene();
        let site = scene.root.path().join("site");
        let journal = scene.transactions.begin("1".into(), &site, &scene.plan, Vec::new()).unwrap();
        scene.transactions.exchange(&scene.plan).unwrap();
        // A directory with something in it is in the way.
        fs::create_dir_all(site.join("p/gone/only_old.py/x")).unwrap();
        let RestoreError::Files(failures) = scene.transactions.restore(&journal).unwrap_err() else {
            panic!()
        };
        assert_eq!(failures.len(), 1);
        assert!(failures[0].contains("only_old.py"), "{}", failures[0]);
        assert_eq!(fs::read_to_string(site.join("p/__init__.py")).unwrap(), "old");
        fs::remove_dir_all(site.join("p/gone/only_old.py")).unwrap();
        scene.transactions.restore(&scene.transactions.unfinished().unwrap().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(site.join("p/gone/only_old.py")).unwrap(), "old");
    }
}
