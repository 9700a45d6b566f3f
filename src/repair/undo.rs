//! The undo of a repair. If there is an interrupted repair, that one is undone, otherwise the newest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::checker::request::CheckRequest;
use crate::environment::packages::read_installed;
use crate::environment::target::Target;
use crate::error::{Abort, Error, join_first};
use crate::repair::change::Change;
use crate::repair::failpoint;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::history::{self, Entry};
use crate::repair::journal::{Journal, find_outside};
use crate::repair::lock::lock_against_uv;
use crate::repair::overlay::{read_changes, remove_overlay};
use crate::repair::refusals::{is_writable, refuse_another_users};
use crate::repair::rollback::roll_back;
use crate::repair::source_edits::find_changed_file;
use crate::repair::state::{describe_left, find_site};
use crate::repair::transaction::Transactions;

/// The repair that was undone.
#[derive(Debug)]
pub struct Undone {
    pub changes: Vec<Change>,
    pub isolated: bool,
}

/// Undoes one repair of a target's environment: the interrupted repair if there is one, otherwise the
/// newest repair.
pub fn undo(request: &CheckRequest, target: &Target) -> Result<Undone, Abort> {
    refuse_another_users(find_site(target).as_deref(), "undo", &request.real.path)?;
    let state = Transactions::create(target)?;
    let _lock = state.lock_repair(request.progress)?;
    let rolled_back = state.recover(request.progress)?;
    state.remove_leftovers();
    if let Some(changes) = rolled_back {
        return Ok(Undone { changes, isolated: false });
    }
    for entry in history::list(&state.directory) {
        if entry.is_isolated {
            return Ok(Undone { changes: remove_overlay(&entry), isolated: true });
        }
        let journal = state.read_closed(&entry);
        if let Some(journal) = journal.map_err(|message| Error::undo(&message, UNREADABLE))? {
            return Ok(Undone {
                changes: undo_in_place(request, target, &state, &entry, journal)?,
                isolated: false,
            });
        }
    }
    Err(describe_nothing(&state).into())
}

/// A repair that can be undone.
#[derive(Debug)]
pub struct Undoable {
    pub entry: Entry,
    pub changes: Vec<Change>,
}

/// The repairs that are recorded for the path of an environment.
#[derive(Debug, Default)]
pub struct Kept {
    /// The repairs of the target's environment, the newest first.
    pub undoable: Vec<Undoable>,
    /// The directory of the recorded repairs, if some of them are of an earlier environment at the same path.
    pub others: Option<PathBuf>,
}

/// Lists the repairs that are kept for a target's path. Nothing is locked or rolled back.
pub fn list_kept(target: &Target) -> Result<Kept, Error> {
    let Some(state) = Transactions::find(target) else { return Ok(Kept::default()) };
    let mut kept = Kept::default();
    for entry in history::list(&state.directory) {
        let changes = if entry.is_isolated {
            read_changes(&entry)
        } else {
            let journal = state.read_closed(&entry);
            let Some(journal) = journal.map_err(|message| Error::undo(&message, UNREADABLE))? else {
                kept.others = Some(state.directory.clone());
                continue;
            };
            journal.changes
        };
        kept.undoable.push(Undoable { entry, changes });
    }
    Ok(kept)
}

fn undo_in_place(
    request: &CheckRequest,
    target: &Target,
    state: &Transactions,
    entry: &Entry,
    journal: Journal,
) -> Result<Vec<Change>, Abort> {
    let _uv_lock = lock_against_uv(&target.interpreter.prefix, request.progress)?;
    let _exclusive = state.lock_exclusive(request.progress)?;
    refuse_changed_since(target, &journal)?;
    let missing = journal.find_missing_copies(&state.snapshot(&journal.id));
    if !missing.is_empty() {
        return Err(Error::undo(&join_first(&missing, 1, " like it"), STAYS_REPAIRED).into());
    }
    refuse_unwritable(&journal)?;
    // The repair's transaction is opened again before the undo begins. If this process is killed during the
    // undo, the next call finds the open transaction, and its rollback completes the undo.
    state.reopen(entry).map_err(|message| Error::undo(&message, UNCHANGED_FREE_SPACE))?;
    failpoint::reach("undo").map_err(|error| Error::undo(&error.to_string(), "Try again."))?;
    let left = roll_back(state, &journal)?;
    if !left.is_empty() {
        request.progress.write(&format!("the environment was restored{}", describe_left(&left)));
    }
    Ok(journal.changes)
}

/// The error if there is nothing to undo. If repairs of an earlier environment at the same path are kept, the
/// message says where they are.
fn describe_nothing(state: &Transactions) -> Error {
    let site = state.site.display();
    if history::list(&state.directory).is_empty() {
        return Error::Failed {
            message: format!("there is no repair of {site} to undo"),
            next: "Nothing was changed. If another environment was repaired, pass its pcluster with --real."
                .into(),
        };
    }
    let message = format!("the environment at {site} was recreated after the last repair");
    let kept = state.directory.display();
    Error::undo(&message, &format!("Nothing was changed. The old files are kept in {kept}."))
}

/// Refuses an undo that would stop half-way, because a directory is not writable, or because there is now a
/// directory at the path of a file that the undo would restore or remove.
fn refuse_unwritable(journal: &Journal) -> Result<(), Error> {
    let paths = || journal.removed.iter().map(|saved| &saved.path).chain(&journal.created);
    if let Some(path) = paths().find(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())) {
        let message = format!("{} is a directory now", path.display());
        return Err(Error::undo(&message, "Nothing was changed. Move that directory away, then try again."));
    }
    let directories = paths().filter_map(|path| path.ancestors().skip(1).find(|above| above.is_dir()));
    let directories: BTreeSet<&Path> = directories.collect();
    match directories.into_iter().find(|directory| !is_writable(directory)) {
        Some(directory) => {
            let message = format!("{} is not writable", directory.display());
            Err(Error::undo(&message, "Nothing was changed. Make it writable, then try again."))
        }
        None => Ok(()),
    }
}

/// Advice if the journal of a repair cannot be read.
const UNREADABLE: &str = "Nothing was changed or removed. Fix that file, or restore it from a backup; the \
                          saved copies cannot be restored without it.";

/// Advice if a copy of an old file is missing or damaged.
const STAYS_REPAIRED: &str = "Nothing was changed; the environment stays repaired. Restore that copy from \
                              a backup, or create a new environment.";

/// Refuses an undo if packages were changed or reinstalled after the repair. It does not matter if files that
/// the repair added are missing now: the undo would remove them anyway.
fn refuse_changed_since(target: &Target, journal: &Journal) -> Result<(), Error> {
    let unchanged =
        "Nothing was changed. To see what the repair replaced, run `pcluster preflight undo --list`.";
    let packages = read_installed(&target.interpreter.sys_path);
    // If a package is gone from the repaired directories, Python may find the package elsewhere on
    // `sys.path`. The undo would not change that other directory, so the version in it does not matter.
    let sites = journal.roots();
    let is_other = |change: &&Change| {
        packages.get(&change.package).is_some_and(|found| {
            found.version != change.to && find_outside(&sites, [found.metadata.as_path()]).is_none()
        })
    };
    if let Some(Change { package, to, .. }) = journal.changes.iter().find(is_other) {
        let message = format!("{package} is no longer at {to}: the environment has changed since");
        return Err(Error::undo(&message, unchanged));
    }
    if let Some(file) = journal.parts.iter().find_map(|part| find_changed_file(part, &journal.changes)) {
        return Err(Error::undo(&format!("{} was changed after the repair", file.display()), unchanged));
    }
    if let Some(package) = journal.find_reinstalled_package() {
        return Err(Error::undo(&format!("{package} was reinstalled after the repair"), unchanged));
    }
    match journal.find_changed_files().first() {
        Some(file) => {
            Err(Error::undo(&format!("{} was changed after the repair", file.display()), unchanged))
        }
        None => Ok(()),
    }
}
