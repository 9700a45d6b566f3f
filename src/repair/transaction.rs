//! Files of an environment replaced as one: snapshot, journal, place; restore and recovery.
//!
//! The journal is written before the first change and names every file that will go or come, so
//! whoever finds it can put everything back, as often as need be: a `Drop` does not survive
//! SIGKILL. Nothing is ever finished by somebody else; an open journal is always rolled back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::repair::exchange::{Content, Exchange, Fault, at, bytecode_of};
use crate::repair::fault;
use crate::repair::plan::Change;
use crate::system::trust;

/// A file that goes, and its copy below the snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    pub path: PathBuf,
    copy: String,
}

/// Far more than the journal of any repair: two paths for each file of the packages that move.
const MAX_JOURNAL: u64 = 64 << 20;

/// Everything that is needed to put the old files back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Journal {
    /// Names the snapshot too.
    pub id: String,
    /// The directory that is locked meanwhile.
    pub site: PathBuf,
    pub changes: Vec<Change>,
    removed: Vec<Saved>,
    created: Vec<PathBuf>,
    /// Directories that may go with their last file, parents first, and their modes.
    #[serde(default)]
    directories: Vec<(PathBuf, u32)>,
}

/// The files of one environment's transactions, below the state directory.
#[derive(Debug, Clone)]
pub struct Store {
    pub directory: PathBuf,
}

impl Store {
    fn open_journal(&self) -> PathBuf {
        self.directory.join("journal.json")
    }

    fn last_journal(&self) -> PathBuf {
        self.directory.join("last.json")
    }

    fn snapshot(&self, id: &str) -> PathBuf {
        self.directory.join(format!("snapshot-{id}"))
    }

    /// The journal of a transaction that nobody has closed.
    ///
    /// # Errors
    /// There is one that cannot be read: what it had begun is not known.
    pub fn unfinished(&self) -> Result<Option<Journal>, Fault> {
        let path = self.open_journal();
        match trust::read_up_to(&path, MAX_JOURNAL) {
            Err(error) if !may_be_others(&error) => Err(format!("cannot read {}: {error}", path.display())),
            // What cannot be opened is somebody else's, or not there.
            Err(_) => Ok(None),
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| format!("cannot read {}: {error}", path.display())),
        }
    }

    /// The journal of the last repair, for an undo.
    #[must_use]
    pub fn last(&self) -> Option<Journal> {
        read(&self.last_journal())
    }

    /// Copies all that goes, then writes the journal. The environment is not touched yet.
    ///
    /// # Errors
    /// Something cannot be copied or written; what was is gone again.
    pub fn begin(
        &self,
        id: String,
        site: &Path,
        exchange: &Exchange,
        changes: Vec<Change>,
    ) -> Result<Journal, Fault> {
        let snapshot = self.snapshot(&id);
        let begun = self.copy_and_write(id, site, exchange, changes);
        if begun.is_err() {
            let _ = fs::remove_dir_all(snapshot);
        }
        begun
    }

    fn copy_and_write(
        &self,
        id: String,
        site: &Path,
        exchange: &Exchange,
        changes: Vec<Change>,
    ) -> Result<Journal, Fault> {
        let snapshot = self.snapshot(&id);
        fs::create_dir(&snapshot).map_err(at(&snapshot, "cannot make"))?;
        let mut removed = Vec::new();
        for (number, path) in exchange.go.iter().enumerate() {
            let copy = number.to_string();
            fault::at("snapshot")
                .and_then(|()| link_or_copy(path, &snapshot.join(&copy)))
                .map_err(at(path, "cannot keep a copy of"))?;
            removed.push(Saved { path: path.clone(), copy });
        }
        let created = exchange.come.iter().map(|(path, _)| path.clone()).collect();
        let directories = exchange.directories_of_old();
        let journal = Journal { id, site: site.to_owned(), changes, removed, created, directories };
        write(&self.open_journal(), &journal)?;
        Ok(journal)
    }

    /// Makes the exchange, after [`Self::begin`].
    ///
    /// # Errors
    /// The first file that cannot be removed or written; [`Self::restore`] is then due.
    pub fn exchange(&self, exchange: &Exchange) -> Result<(), Fault> {
        for path in &exchange.go {
            fault::at("remove").and_then(|()| remove(path)).map_err(at(path, "cannot remove"))?;
        }
        for (path, content) in &exchange.come {
            fault::at("place").and_then(|()| place(content, path)).map_err(at(path, "cannot write"))?;
        }
        remove_empty(exchange.go.iter().map(PathBuf::as_path));
        Ok(())
    }

    /// Makes this transaction the last one, which an undo takes back, and forgets the one before.
    /// One rename, so it is either open or closed, whenever we are killed.
    ///
    /// # Errors
    /// The transaction is still open.
    pub fn close(&self, journal: &Journal) -> Result<(), Fault> {
        let (open, last) = (self.open_journal(), self.last_journal());
        fault::at("close").and_then(|()| fs::rename(open, &last)).map_err(at(&last, "cannot write"))?;
        // Closed it is, whatever happens now.
        let _ = fault::at("closed");
        self.forget_but(Some(&journal.id));
        Ok(())
    }

    /// Opens a closed transaction again, so that an undo that is cut off is finished later.
    ///
    /// # Errors
    /// It is still closed.
    pub fn reopen(&self) -> Result<(), Fault> {
        fs::rename(self.last_journal(), self.open_journal()).map_err(at(&self.open_journal(), "cannot write"))
    }

    /// Puts everything back as it was, goes on past what fails, and forgets the transaction when
    /// nothing did.
    ///
    /// # Errors
    /// Every file that could not be put back; the snapshot and the journal stay.
    pub fn restore(&self, journal: &Journal) -> Result<(), Vec<Fault>> {
        let snapshot = self.snapshot(&journal.id);
        let mut faults = Vec::new();
        let old: BTreeSet<&Path> = journal.removed.iter().map(|saved| saved.path.as_path()).collect();
        // What Python has compiled of the new files goes with them: an old file of the same size and
        // time would be taken for its source.
        let compiled: Vec<PathBuf> = journal.created.iter().flat_map(|path| bytecode_of(path)).collect();
        let new = compiled.iter().chain(&journal.created).filter(|path| !old.contains(path.as_path()));
        for path in new {
            if let Err(error) = remove(path) {
                faults.push(at(path, "cannot remove")(error));
            }
        }
        journal.directories.iter().for_each(|(directory, mode)| make_directory(directory, *mode));
        let mut room_made = false;
        for saved in &journal.removed {
            let copy = snapshot.join(&saved.copy);
            let put = || fault::at("restore").and_then(|()| put_back(&copy, &saved.path));
            let mut done = put();
            if is_full(&done) && !room_made {
                // The new files have taken the room of the old ones.
                room_made = true;
                journal.removed.iter().for_each(|saved| make_room(&snapshot.join(&saved.copy), &saved.path));
                done = put();
            }
            if let Err(error) = done {
                faults.push(at(&saved.path, "cannot put back")(error));
            }
        }
        remove_empty(journal.created.iter().map(PathBuf::as_path));
        if faults.is_empty() {
            let _ = fs::remove_file(self.open_journal());
            let _ = fs::remove_dir_all(snapshot);
            Ok(())
        } else {
            Err(faults)
        }
    }

    /// Removes what interrupted repairs left behind: overlays, each after `before`, and snapshots
    /// that no journal names.
    pub fn tidy(&self, before: impl Fn(&Path)) {
        let last = self.last().map(|journal| journal.id);
        // An open journal is rolled back first; one that cannot be read keeps its snapshot.
        if !self.open_journal().exists() {
            self.forget_but(last.as_deref());
        }
        for overlay in self.entries(OVERLAY_PREFIX) {
            before(&overlay);
            let _ = fs::remove_dir_all(overlay);
        }
    }

    fn forget_but(&self, id: Option<&str>) {
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

fn may_be_others(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

fn read(path: &Path) -> Option<Journal> {
    serde_json::from_slice(&trust::read_up_to(path, MAX_JOURNAL).ok()?).ok()
}

/// To a temporary name, to the disk, and renamed.
fn write(path: &Path, journal: &Journal) -> Result<(), Fault> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let written = || -> io::Result<()> {
        fault::at("journal")?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec(journal)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(directory)?.sync_all()
    };
    written().map_err(at(path, "cannot write"))
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
        Content::File(source) => link_or_copy(source, path),
        Content::Text(text) => fs::write(path, text),
    }
}

/// A hard link costs nothing and cannot differ; across file systems it takes a copy, with its time:
/// bytecode is only valid for the source file's.
fn link_or_copy(source: &Path, path: &Path) -> io::Result<()> {
    let metadata = source.symlink_metadata()?;
    if metadata.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(source)?, path);
    }
    if fs::hard_link(source, path).is_ok() {
        return Ok(());
    }
    fs::copy(source, path)?;
    File::options().write(true).open(path).or_else(|_| File::open(path))?.set_modified(metadata.modified()?)
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
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let beside =
        directory.join(format!(".{}.pcluster-shim", path.file_name().unwrap_or_default().to_string_lossy()));
    remove(&beside)?;
    link_or_copy(copy, &beside).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
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
    use crate::packages::Distribution;

    /// An environment with one distribution, and a staged successor.
    struct Scene {
        root: tempfile::TempDir,
        exchange: Exchange,
        store: Store,
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
        let mut exchange = Exchange::default();
        exchange
            .replace(
                Some(&distribution("site", "1")),
                &distribution("overlay", "2"),
                &at("overlay"),
                &at("site"),
            )
            .unwrap();
        let store = Store { directory: at("state") };
        Scene { root, exchange, store }
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
        let journal = scene.store.begin("1".into(), &site, &scene.exchange, Vec::new()).unwrap();
        scene.store.exchange(&scene.exchange).unwrap();
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
        scene.store.close(&journal).unwrap();
        assert!(scene.store.unfinished().unwrap().is_none());
        let last = scene.store.last().unwrap();
        scene.store.reopen().unwrap();
        scene.store.restore(&last).unwrap();
        assert_eq!(tree(&site), before);
        assert_eq!(tree(&scene.store.directory), []);
    }

    #[test]
    fn whatever_was_done_a_restore_puts_it_back() {
        let steps = scene().exchange.go.len() + scene().exchange.come.len();
        for done in 0..=steps {
            let mut scene = scene();
            let site = scene.root.path().join("site");
            let before = tree(&site);
            scene.store.begin("1".into(), &site, &scene.exchange, Vec::new()).unwrap();
            // As if killed after so many steps.
            let going = scene.exchange.go.len().min(done);
            for path in scene.exchange.go.iter().take(going) {
                remove(path).unwrap();
            }
            scene.exchange.come.truncate(done - going);
            for (path, content) in &scene.exchange.come {
                place(content, path).unwrap();
            }
            let journal = scene.store.unfinished().unwrap().unwrap();
            scene.store.restore(&journal).unwrap();
            assert_eq!(tree(&site), before, "after {done} steps");
            scene.store.tidy(|_| ());
            assert_eq!(tree(&scene.store.directory), []);
        }
    }

    #[test]
    fn a_file_of_somebody_else_in_the_way_is_seen() {
        let scene = scene();
        assert_eq!(scene.exchange.conflict(), None);
        let way = scene.root.path().join("site/p/fresh/only_new.py");
        fs::create_dir_all(way.parent().unwrap()).unwrap();
        fs::write(&way, "").unwrap();
        assert_eq!(scene.exchange.conflict(), Some(way.as_path()));
    }

    #[test]
    fn a_restore_goes_on_past_a_file_that_fails_and_keeps_the_snapshot() {
        let scene = scene();
        let site = scene.root.path().join("site");
        let journal = scene.store.begin("1".into(), &site, &scene.exchange, Vec::new()).unwrap();
        scene.store.exchange(&scene.exchange).unwrap();
        // A directory with something in it is in the way.
        fs::create_dir_all(site.join("p/gone/only_old.py/x")).unwrap();
        let faults = scene.store.restore(&journal).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("only_old.py"), "{}", faults[0]);
        assert_eq!(fs::read_to_string(site.join("p/__init__.py")).unwrap(), "old");
        fs::remove_dir_all(site.join("p/gone/only_old.py")).unwrap();
        scene.store.restore(&scene.store.unfinished().unwrap().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(site.join("p/gone/only_old.py")).unwrap(), "old");
    }
}
