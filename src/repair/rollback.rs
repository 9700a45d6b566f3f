//! An exchange taken back: the old files put in their place from the copies of the snapshot.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, RepairStep};
use crate::repair::failpoint;
use crate::repair::file_operations::{link_or_copy, remove, remove_empty};
use crate::repair::journal::{Journal, Saved};
use crate::repair::record::bytecode_of;
use crate::repair::transaction::Transactions;
use crate::system::disk;
use crate::system::files::describe;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::packages::Distribution;
    use crate::repair::file_operations::place;
    use crate::repair::file_plan::FilePlan;

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
