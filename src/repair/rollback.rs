//! The rollback of an exchange: the old files are restored from the copies in the snapshot.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::environment::record::bytecode_of;
use crate::error::{Error, join_first};
use crate::repair::failpoint;
use crate::repair::file_operations::{link_or_copy, path_beside, remove, remove_empty};
use crate::repair::journal::{Journal, SavedDirectory, SavedFile};
use crate::repair::transaction::Transactions;
use crate::system::disk;
use crate::system::files::describe;
use crate::system::signals::Interrupts;

/// What a rollback did not restore, because others have written it since the repair.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Packages that another installer has replaced. Of their files, the rollback removes only those that the
    /// repair added and that the other installer has not recorded.
    pub packages: Vec<String>,
    /// Single files of packages that are not in `packages`.
    pub files: Vec<PathBuf>,
}

impl Left {
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.files.is_empty()
    }
}

/// Rolls back an interrupted repair. If another environment is now at the same path, its files are not
/// touched, the journal is set aside, and the result is `None`.
pub fn recover(transactions: &Transactions, journal: &Journal) -> Result<Option<Left>, Error> {
    let failed = |message| Error::not_restored(&[message]);
    if journal.is_bound().map_err(failed)? {
        return roll_back(transactions, journal).map(Some);
    }
    transactions.set_aside(journal).map_err(failed)?;
    Ok(None)
}

/// Restores the old files, removes the transaction, and returns what it did not restore.
///
/// If a file cannot be restored, the rollback continues with the others. The rollback can be repeated after
/// any interruption.
///
/// # Errors
/// Returns an error, before anything is changed, if copies are missing. Also returns an error if files could
/// not be restored. In both cases, the snapshot and the journal are kept.
pub fn roll_back(transactions: &Transactions, journal: &Journal) -> Result<Left, Error> {
    // Signals have to wait: pcluster could not run in a half-restored environment, and a rollback takes less
    // than a second.
    Interrupts::caught();
    let snapshot = transactions.snapshot(&journal.id);
    let missing = journal.find_missing_copies(&snapshot);
    if !missing.is_empty() {
        let next = format!(
            "Nothing was changed. Restore that copy from a backup. If you have none, create a new environment and \
             remove {}.",
            transactions.open_journal().display()
        );
        return Err(Error::repair(join_first(&missing, 1, " like it"), &next));
    }
    let mut foreign = journal.find_foreign_packages();
    let files = foreign.add_files(journal.find_foreign_files());
    let old: Vec<&SavedFile> =
        journal.removed.iter().filter(|saved| !foreign.not_restored.contains(&saved.path)).collect();
    let mut failures = remove_created(journal, &old, &foreign.not_removed);
    let above = old.iter().flat_map(|saved| saved.path.ancestors().skip(1)).collect::<BTreeSet<_>>();
    let needed = journal.directories.iter().filter(|directory| above.contains(directory.path.as_path()));
    needed.for_each(make_directory);
    // If an old file has no copy, the file itself is in place: otherwise `find_missing_copies` would have
    // reported it.
    let copied: Vec<&SavedFile> = old.iter().copied().filter(|saved| saved.has_copy_in(&snapshot)).collect();
    failures.extend(put_files_back(&snapshot, &copied));
    // The directories of the added files may be empty now. If another installer has replaced a package, the
    // directories of the package's old files may be empty too: the repair removed these files, and the other
    // installer does not remove the directories.
    let gone = journal.created.iter().chain(&foreign.not_restored).map(PathBuf::as_path);
    failures.extend(remove_empty(gone, |directory| was_empty(journal, directory)));
    let changed = old.iter().map(|saved| &saved.path).chain(&journal.created);
    if let Err(error) = disk::sync(&changed.map(PathBuf::as_path).collect::<BTreeSet<_>>(), &journal.roots())
    {
        failures.push(describe("cannot write", &journal.site)(error));
    }
    if !failures.is_empty() {
        return Err(Error::not_restored(&failures));
    }
    transactions.remove(journal);
    Ok(Left { packages: foreign.names, files })
}

/// Removes the files that the repair added and that have no old version, and returns the failures.
///
/// The bytecode of all new files is removed too, even if a new file replaced an old one. Otherwise, if both
/// files have the same size and modification time, Python would use the bytecode of the new file for the
/// restored old file.
fn remove_created(journal: &Journal, old: &[&SavedFile], not_removed: &BTreeSet<PathBuf>) -> Vec<String> {
    let old = old.iter().map(|saved| saved.path.as_path()).collect::<BTreeSet<_>>();
    let created = || journal.created.iter().filter(|path| !not_removed.contains(*path));
    let compiled = created().flat_map(|path| bytecode_of(path));
    // A repair that was killed while it wrote a file has left a temporary file next to that file.
    let temporary = created().map(|path| path_beside(path));
    let more: Vec<PathBuf> = compiled.chain(temporary).collect();
    let new = more
        .iter()
        .chain(created())
        .filter(|path| !old.contains(path.as_path()) && !not_removed.contains(*path));
    new.filter_map(|path| remove(path).err().map(describe("cannot remove", path))).collect()
}

/// Restores files from their copies, and returns the failures.
fn put_files_back(snapshot: &Path, old: &[&SavedFile]) -> Vec<String> {
    let mut failures = Vec::new();
    let mut space_is_freed = false;
    for saved in old {
        let copy = snapshot.join(&saved.copy);
        let put = || failpoint::reach("restore").and_then(|()| put_back(&copy, &saved.path));
        let mut result = put();
        if is_full(&result) && !space_is_freed {
            // New files at the paths of the old ones may take up the space that the old ones need.
            space_is_freed = true;
            for saved in old {
                free_space(&snapshot.join(&saved.copy), &saved.path);
            }
            result = put();
        }
        if let Err(error) = result {
            failures.push(describe("cannot restore", &saved.path)(error));
        }
    }
    failures
}

/// Creates a directory with its old group and mode, if it is missing.
fn make_directory(SavedDirectory { path, mode, group }: &SavedDirectory) {
    // A failure is reported when the files of the directory are restored.
    if fs::create_dir(path).is_ok() {
        let _ = chown(path, None, *group);
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(*mode));
    }
}

/// Whether a directory existed before the repair, but without any file of the old packages in it.
fn was_empty(journal: &Journal, directory: &Path) -> bool {
    journal.directories.iter().any(|saved| saved.path == directory)
        && !journal.removed.iter().any(|saved| saved.path.starts_with(directory))
}

fn is_full(result: &io::Result<()>) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    result.as_ref().is_err_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
}

/// Removes the new file at the path of an old one, if the copy of the old one exists.
fn free_space(copy: &Path, path: &Path) {
    if copy.symlink_metadata().is_ok() && !is_in_place(copy, path) {
        // A failure is reported when the old file is restored.
        let _ = remove(path);
    }
}

/// Whether the old file is already at its path: `path` and `copy` are the same file, or they are equal in
/// mode, size, modification time and content.
fn is_in_place(copy: &Path, path: &Path) -> bool {
    let (Ok(old), Ok(now)) = (copy.symlink_metadata(), path.symlink_metadata()) else { return false };
    let is_same_file = old.dev() == now.dev() && old.ino() == now.ino();
    let has_same_metadata =
        || old.mode() == now.mode() && old.len() == now.len() && old.modified().ok() == now.modified().ok();
    let has_same_content = || match (fs::read(copy), fs::read(path)) {
        (Ok(old), Ok(now)) => old == now,
        _ => false,
    };
    is_same_file || (old.is_file() && has_same_metadata() && has_same_content())
}

/// Restores one file. The file is written next to its path and then renamed, so an existing file at the
/// path is replaced in one step. A file that is already in place is not written, because its directory may
/// be read-only.
fn put_back(copy: &Path, path: &Path) -> io::Result<()> {
    if is_in_place(copy, path) {
        return Ok(());
    }
    if copy.symlink_metadata().is_err() {
        // `find_missing_copies` accepts a missing copy only if the old file is already at its path.
        return path.symlink_metadata().map(drop);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let beside = path_beside(path);
    remove(&beside)?;
    link_or_copy(copy, &beside).and_then(|_| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = remove(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::distribution::Distribution;
    use crate::repair::file_operations::place;
    use crate::repair::file_plan::FilePlan;
    use crate::repair::history::{self, MAX_UNDO};
    use crate::repair::token::{self, TOKEN_FILE};

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
        file("site/other.py", "of another package");
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
    fn a_file_is_in_place_if_mode_size_time_and_content_are_those_of_its_copy() {
        let root = tempfile::tempdir().unwrap();
        let [copy, path] = ["copy", "path"].map(|name| root.path().join(name));
        let write = |text: &str, mode: u32, seconds: u64| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        write("old", 0o644, 1);
        fs::rename(&path, &copy).unwrap();
        for (text, mode, seconds, is_same) in [
            ("old", 0o644, 1, true),
            ("new", 0o644, 1, false),
            ("older", 0o644, 1, false),
            ("old", 0o600, 1, false),
            ("old", 0o644, 2, false),
        ] {
            write(text, mode, seconds);
            assert_eq!(is_in_place(&copy, &path), is_same, "{text} {mode:o} {seconds}");
        }
        fs::hard_link(&copy, root.path().join("linked")).unwrap();
        assert!(is_in_place(&copy, &root.path().join("linked")));
    }

    #[test]
    fn an_exchange_leaves_only_the_new_files_and_its_rollback_only_the_old_ones() {
        let scene = scene();
        let site = scene.root.path().join("site");
        let before = tree(&site);
        let journal = scene.transactions.begin("1".into(), &scene.plan, Vec::new()).unwrap();
        scene.transactions.exchange(&journal, &scene.plan).unwrap();
        let names: Vec<String> = tree(&site)
            .iter()
            .map(|(path, _)| path.strip_prefix(&site).unwrap().display().to_string())
            .collect();
        let expected = [
            TOKEN_FILE,
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
        let last = scene.transactions.closed().unwrap().pop().unwrap();
        scene.transactions.reopen(&history::list(&scene.transactions.directory)[0]).unwrap();
        roll_back(&scene.transactions, &last).unwrap();
        assert_eq!(tree(&site), before);
        assert_eq!(tree(&scene.transactions.directory), []);
    }

    #[test]
    fn a_rollback_restores_the_files_after_any_number_of_steps() {
        let steps = 1 + scene().plan.removals.len() + scene().plan.additions.len();
        for done in 0..=steps {
            let mut scene = scene();
            let site = scene.root.path().join("site");
            let before = tree(&site);
            let journal = scene.transactions.begin("1".into(), &scene.plan, Vec::new()).unwrap();
            // Makes the changes of a repair that is killed after `done` steps. The first step writes
            // the token.
            if done > 0 {
                token::add(&site, journal.token.as_ref().unwrap()).unwrap();
                scene.transactions.open().unwrap();
            }
            let removed = scene.plan.removals.len().min(done.saturating_sub(1));
            for path in scene.plan.removals.keys().take(removed) {
                remove(path).unwrap();
            }
            scene.plan.additions.truncate(done.saturating_sub(1 + removed));
            for (path, content) in &scene.plan.additions {
                place(content, path, None).unwrap();
            }
            match scene.transactions.unfinished().unwrap() {
                Some(journal) => {
                    let recovery = recover(&scene.transactions, &journal).unwrap();
                    assert_eq!(recovery, Some(Left::default()), "after {done} steps");
                }
                None => scene.transactions.complete_removal(),
            }
            assert_eq!(tree(&site), before, "after {done} steps");
            scene.transactions.remove_leftovers();
            assert_eq!(tree(&scene.transactions.directory), []);
        }
    }

    /// A scene after the exchange of its files, and its open journal.
    fn exchanged_scene() -> (Scene, Journal) {
        let scene = scene();
        let journal = scene.transactions.begin("1".into(), &scene.plan, Vec::new()).unwrap();
        scene.transactions.exchange(&journal, &scene.plan).unwrap();
        (scene, journal)
    }

    #[test]
    fn an_environment_without_the_token_is_not_touched() {
        let (scene, journal) = exchanged_scene();
        let site = scene.root.path().join("site");
        fs::remove_file(site.join(TOKEN_FILE)).unwrap();
        let before = tree(&site);
        assert_eq!(recover(&scene.transactions, &journal).unwrap(), None);
        assert_eq!(tree(&site), before);
        assert!(scene.transactions.unfinished().unwrap().is_none());
        scene.transactions.remove_leftovers();
        assert!(scene.transactions.snapshot("1").join("0").is_file(), "the copies are kept");
        assert!(scene.root.path().join("state/interrupted-1.json").is_file());
    }

    #[test]
    fn an_environment_that_is_back_at_its_path_is_rolled_back() {
        let scene = scene();
        let at = |name: &str| scene.root.path().join(name);
        let before = tree(&at("site"));
        let journal = scene.transactions.begin("1".into(), &scene.plan, Vec::new()).unwrap();
        scene.transactions.exchange(&journal, &scene.plan).unwrap();
        fs::rename(at("site"), at("aside")).unwrap();
        // Creates a new environment whose files are the same as those before the repair.
        for (path, content) in &before {
            if content == "directory" {
                fs::create_dir_all(path)
            } else {
                fs::create_dir_all(path.parent().unwrap())
            }
            .unwrap();
            if content != "directory" {
                fs::write(path, content).unwrap();
            }
        }
        assert_eq!(recover(&scene.transactions, &journal).unwrap(), None);
        assert!(scene.transactions.unfinished().unwrap().is_none());
        assert_eq!(tree(&at("site")), before);
        fs::remove_dir_all(at("site")).unwrap();
        fs::rename(at("aside"), at("site")).unwrap();
        scene.transactions.remove_leftovers();
        let journal = scene.transactions.unfinished().unwrap().unwrap();
        assert_eq!(recover(&scene.transactions, &journal).unwrap(), Some(Left::default()));
        assert_eq!(tree(&at("site")), before);
    }

    #[test]
    fn a_directory_that_the_repair_has_emptied_goes_though_another_installer_has_the_package() {
        let (scene, journal) = exchanged_scene();
        let site = scene.root.path().join("site");
        fs::create_dir_all(site.join("p-1.dist-info")).unwrap();
        fs::create_dir(site.join("p-3.dist-info")).unwrap();
        fs::write(site.join("p-3.dist-info/RECORD"), "p-3.dist-info/RECORD,,\n").unwrap();
        let left = roll_back(&scene.transactions, &journal).unwrap();
        assert_eq!(left.packages, ["p"]);
        let names: Vec<_> = site.read_dir().unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(
            !names.contains(&"p-1.dist-info".into()) && !names.contains(&"p-2.dist-info".into()),
            "{names:?}"
        );
    }

    #[test]
    fn the_token_of_another_repair_is_not_enough() {
        let (scene, journal) = exchanged_scene();
        fs::write(scene.root.path().join("site").join(TOKEN_FILE), token::generate().unwrap() + "\n")
            .unwrap();
        assert_eq!(recover(&scene.transactions, &journal).unwrap(), None);
    }

    #[test]
    fn every_directory_of_packages_has_to_have_the_token() {
        let (scene, mut journal) = exchanged_scene();
        let other = scene.root.path().join("other");
        fs::create_dir(&other).unwrap();
        journal.sites.push(other.clone());
        assert_eq!(journal.is_bound(), Ok(false));
        token::add(&other, journal.token.as_ref().unwrap()).unwrap();
        assert_eq!(journal.is_bound(), Ok(true));
    }

    #[test]
    fn a_file_that_somebody_has_written_since_stays() {
        let (scene, journal) = exchanged_scene();
        let site = scene.root.path().join("site");
        // The repair replaced the first file, added the second, and removed the third.
        let changed =
            ["p/__init__.py", "p/fresh/only_new.py", "p/gone/only_old.py"].map(|path| site.join(path));
        for path in &changed {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "mine").unwrap();
        }
        let left = roll_back(&scene.transactions, &journal).unwrap();
        assert_eq!(left, Left { packages: Vec::new(), files: changed.to_vec() });
        for path in &changed {
            assert_eq!(fs::read_to_string(path).unwrap(), "mine");
        }
        assert!(site.join("p-1.dist-info/METADATA").is_file() && !site.join("p-2.dist-info").exists());
    }

    #[test]
    fn an_old_file_that_is_back_already_is_not_taken_for_another() {
        let (scene, journal) = exchanged_scene();
        fs::write(scene.root.path().join("site/p/__init__.py"), "old").unwrap();
        assert_eq!(roll_back(&scene.transactions, &journal).unwrap(), Left::default());
    }

    #[test]
    fn bytecode_that_python_has_written_since_goes_with_its_source() {
        let (scene, journal) = exchanged_scene();
        let site = scene.root.path().join("site");
        let compiled = site.join("p/__pycache__/__init__.cpython-39.pyc");
        fs::create_dir_all(compiled.parent().unwrap()).unwrap();
        fs::write(&compiled, "compiled again").unwrap();
        assert_eq!(roll_back(&scene.transactions, &journal).unwrap(), Left::default());
        assert_eq!(fs::read_to_string(&compiled).unwrap(), "compiled");
    }

    #[test]
    fn a_file_that_a_loss_of_power_has_cut_off_is_restored() {
        let (scene, journal) = exchanged_scene();
        let path = scene.root.path().join("site/p/__init__.py");
        fs::write(&path, "").unwrap();
        assert_eq!(roll_back(&scene.transactions, &journal).unwrap(), Left::default());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn a_token_stays_while_the_last_journal_names_it() {
        let (scene, journal) = exchanged_scene();
        let site = scene.root.path().join("site");
        scene.transactions.close(&journal).unwrap();
        let repaired = tree(&site);
        let second = scene.transactions.begin("2".into(), &FilePlan::default(), Vec::new()).unwrap();
        assert_eq!(second.token, journal.token, "one environment, one token");
        scene.transactions.exchange(&second, &FilePlan::default()).unwrap();
        roll_back(&scene.transactions, &second).unwrap();
        assert_eq!(tree(&site), repaired);
    }

    #[test]
    fn a_repair_after_the_environment_was_recreated_has_a_token_of_its_own() {
        let (scene, journal) = exchanged_scene();
        scene.transactions.close(&journal).unwrap();
        fs::remove_file(scene.root.path().join("site").join(TOKEN_FILE)).unwrap();
        let second = scene.transactions.begin("2".into(), &FilePlan::default(), Vec::new()).unwrap();
        assert_ne!(second.token, journal.token);
    }

    #[test]
    fn a_token_goes_from_directories_that_only_the_dropped_journal_names() {
        let (scene, mut journal) = exchanged_scene();
        let other = scene.root.path().join("other");
        fs::create_dir(&other).unwrap();
        token::add(&other, journal.token.as_ref().unwrap()).unwrap();
        journal.sites.push(other.clone());
        fs::write(scene.transactions.open_journal(), serde_json::to_vec(&journal).unwrap()).unwrap();
        scene.transactions.close(&journal).unwrap();
        for id in 2..=MAX_UNDO + 1 {
            assert_ne!(tree(&other), []);
            let next = scene.transactions.begin(id.to_string(), &FilePlan::default(), Vec::new()).unwrap();
            scene.transactions.exchange(&next, &FilePlan::default()).unwrap();
            scene.transactions.close(&next).unwrap();
            assert_eq!(next.is_bound(), Ok(true));
        }
        assert_eq!(tree(&other), []);
        assert_eq!(scene.transactions.closed().unwrap().len(), MAX_UNDO);
        assert!(!scene.transactions.snapshot("1").exists() && scene.transactions.snapshot("2").exists());
    }

    #[test]
    fn a_file_of_tokens_that_cannot_be_read_changes_nothing() {
        let (scene, journal) = exchanged_scene();
        let site = scene.root.path().join("site");
        fs::remove_file(site.join(TOKEN_FILE)).unwrap();
        fs::create_dir(site.join(TOKEN_FILE)).unwrap();
        let before = tree(&site);
        let error = recover(&scene.transactions, &journal).unwrap_err().to_string();
        assert!(error.contains(TOKEN_FILE), "{error}");
        assert_eq!(tree(&site), before);
        assert!(scene.transactions.unfinished().unwrap().is_some());
    }

    #[test]
    fn a_damaged_copy_is_not_put_over_a_file_that_is_right() {
        let scene = scene();
        let site = scene.root.path().join("site");
        let before = tree(&site);
        let journal = scene.transactions.begin("1".into(), &scene.plan, Vec::new()).unwrap();
        scene.transactions.open().unwrap();
        for copy in scene.transactions.snapshot("1").read_dir().unwrap().flatten() {
            // The copy is a hard link to the old file, so writing into the copy would change that file too.
            fs::remove_file(copy.path()).unwrap();
            fs::write(copy.path(), "junk").unwrap();
        }
        roll_back(&scene.transactions, &journal).unwrap();
        assert_eq!(tree(&site), before);
    }

    /// A loss of power can leave a file without its content.
    #[test]
    fn an_empty_record_is_not_taken_for_another_installers() {
        let scene = scene();
        let site = scene.root.path().join("site");
        let before = tree(&site);
        let journal = scene.transactions.begin("1".into(), &scene.plan, Vec::new()).unwrap();
        scene.transactions.exchange(&journal, &scene.plan).unwrap();
        fs::write(site.join("p-2.dist-info/RECORD"), "").unwrap();
        let journal = scene.transactions.unfinished().unwrap().unwrap();
        assert_eq!(roll_back(&scene.transactions, &journal).unwrap(), Left::default());
        assert_eq!(tree(&site), before);
    }

    #[test]
    fn a_foreign_file_at_a_new_path_is_found() {
        let scene = scene();
        assert_eq!(scene.plan.find_conflict(), None);
        let foreign = scene.root.path().join("site/p/fresh/only_new.py");
        fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        fs::write(&foreign, "").unwrap();
        assert_eq!(scene.plan.find_conflict(), Some(foreign.as_path()));
    }

    #[test]
    fn a_file_that_cannot_be_put_back_stops_no_others_and_keeps_the_snapshot() {
        let scene = scene();
        let site = scene.root.path().join("site");
        let journal = scene.transactions.begin("1".into(), &scene.plan, Vec::new()).unwrap();
        scene.transactions.exchange(&journal, &scene.plan).unwrap();
        // A directory that is not empty cannot be replaced by a file.
        fs::create_dir_all(site.join("p/gone/only_old.py/x")).unwrap();
        let error = roll_back(&scene.transactions, &journal).unwrap_err().to_string();
        assert!(error.contains("only_old.py") && !error.contains("; "), "{error}");
        assert_eq!(fs::read_to_string(site.join("p/__init__.py")).unwrap(), "old");
        fs::remove_dir_all(site.join("p/gone/only_old.py")).unwrap();
        roll_back(&scene.transactions, &scene.transactions.unfinished().unwrap().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(site.join("p/gone/only_old.py")).unwrap(), "old");
    }
}
