//! The exchange of the installed packages for the proven ones, under locks. The snapshot and the journal
//! are written first. After the exchange, the environment is verified. If any step fails, the exchange is
//! rolled back.

use crate::environment::packages::read_installed;
use crate::error::{Abort, Error};
use crate::repair::Repaired;
use crate::repair::context::Repair;
use crate::repair::file_plan::FilePlan;
use crate::repair::hints::{FREE_SPACE, UNCHANGED_FREE_SPACE, keep_beside};
use crate::repair::journal::find_outside;
use crate::repair::lock::lock_against_uv;
use crate::repair::refusals::{refuse_directories, refuse_managed_packages};
use crate::repair::rollback::{Left, roll_back};
use crate::repair::stage::Staged;
use crate::repair::state::{describe_left, list_files, make_id};
use crate::repair::verify::verify;
use crate::system::concurrently::concurrently;
use crate::text::package_name::PCLUSTER;
use crate::text::printable::count;

/// Exchanges the files of the installed packages for the staged ones.
///
/// # Errors
/// Returns an error if a step fails or a signal arrives. The environment is then unchanged, except for what
/// other programs wrote during the exchange, and for files that could not be restored.
pub fn commit(repair: &Repair, staged: Staged) -> Result<Repaired, Abort> {
    refuse_managed_packages(repair, &staged.changes)?;
    let _uv_lock = lock_against_uv(&repair.target.interpreter.prefix, repair.request.progress)?;
    let _exclusive = repair.state.lock_exclusive(repair.request.progress)?;
    refuse_if_changed(repair)?;
    let plan = plan_files(repair, &staged)?;
    let Staged { overlay, changes, edits, left, broken_before, .. } = staged;
    refuse_directories(repair, &plan.sites(), &plan.directories())?;
    let step = repair.request.progress.step(&format!(
        "replacing {} ({} removed, {} added)",
        count(changes.len(), "package"),
        count(plan.removals.len(), "file"),
        plan.additions.len()
    ));
    let transactions = repair.state;
    let journal = transactions
        .begin(make_id(), &plan, changes.clone())
        .map_err(|message| Error::repair(message, UNCHANGED_FREE_SPACE))?;
    // Another installer may have ignored our locks and run while the snapshot was made.
    let unchanged = if journal.find_foreign_packages().names.is_empty() {
        refuse_if_changed(repair)
    } else {
        Err(describe_changed_environment())
    };
    unchanged.inspect_err(|_| transactions.remove(&journal))?;
    let exchanged = transactions.exchange(&journal, &plan).map_err(describe_failed_exchange);
    drop(step);
    // The staged files are in the environment now, so the directory of the staged packages is removed.
    let remove_and_sync = || {
        drop(overlay);
        transactions.sync(&plan)
    };
    let committed = exchanged
        .and_then(|()| {
            let (verified, synced) = concurrently(|| verify(repair, &edits, &broken_before), remove_and_sync);
            verified?;
            synced.map_err(describe_failed_write)
        })
        .and_then(|()| {
            journal
                .find_changed_package()
                .map_or(Ok(()), |package| Err(describe_changed_package(package).into()))
        })
        .and_then(|()| transactions.close(&journal).map_err(describe_failed_write));
    let Err(reason) = committed else { return Ok(Repaired { changes, left }) };
    Err(match (roll_back(transactions, &journal), reason) {
        (Ok(left), Abort::Error(_)) if !left.is_empty() => describe_meanwhile(&left).into(),
        (Ok(_), reason) => reason,
        (Err(error), _) => error.into(),
    })
}

fn plan_files(repair: &Repair, staged: &Staged) -> Result<FilePlan, Error> {
    let not_in_place = |why| Error::NotInPlace { why, next: keep_beside(&repair.options.command()) };
    let mut plan = FilePlan::default();
    for change in &staged.changes {
        let old = repair.packages.get(&change.package);
        // If possible, `site` is spelled as in `sys.path`: a plan compares paths without resolving links.
        let pcluster = repair.packages.get(PCLUSTER);
        let site = old.or(pcluster).and_then(|package| package.metadata.parent());
        let site = site.unwrap_or(&repair.state.site);
        let overlay = staged.overlay.path();
        let planned = match (old, staged.packages.get(&change.package)) {
            (_, None) => Ok(()),
            (Some(old), _) if !change.edits.is_empty() => {
                plan.edit(old, change.edits.iter().map(|edit| edit.file.as_str()), overlay, site)
            }
            (old, Some(new)) => plan.replace(old, new, overlay, site),
        };
        planned.map_err(not_in_place)?;
    }
    let installed_twice = plan
        .packages
        .iter()
        .find_map(|package| Some((&package.package, package.find_foreign_dist_infos().pop()?)));
    if let Some((package, other)) = installed_twice {
        return Err(not_in_place(format!("{package} is installed twice: {} also exists", other.display())));
    }
    if let Some(path) = find_outside(&plan.prefixes(), plan.paths()) {
        return Err(not_in_place(format!(
            "{} leads out of the environment through a symbolic link",
            path.display()
        )));
    }
    match plan.find_conflict() {
        Some(path) => Err(not_in_place(format!(
            "{} is in the way, and belongs to none of the packages to replace",
            path.display()
        ))),
        None => Ok(plan),
    }
}

/// Returns an error if the installed packages are not the same as at the start of the repair: another
/// installer may have run since.
fn refuse_if_changed(repair: &Repair) -> Result<(), Error> {
    let now = read_installed(&repair.target.interpreter.sys_path);
    if now.all() == repair.packages.all() { Ok(()) } else { Err(describe_changed_environment()) }
}

/// Advice if another installer was running.
const WAIT: &str = "Wait for the other installer to finish, then try again.";

fn describe_changed_environment() -> Error {
    let message = "another installer changed the environment in the meantime".into();
    Error::repair(message, &format!("The repair changed nothing. {WAIT}"))
}

fn describe_changed_package(package: &str) -> Error {
    let message = format!("another installer changed {package} in the meantime");
    Error::repair(message, &format!("The environment was restored. {WAIT}"))
}

/// The error if the rollback did not restore some packages or files, because other programs have written
/// them.
fn describe_meanwhile(left: &Left) -> Error {
    let message = match left.packages.as_slice() {
        [] => format!("another program changed {} in the meantime", list_files(&left.files)),
        packages => format!("another installer changed {} in the meantime", packages.join(", ")),
    };
    let next = format!("The environment was restored{}. {WAIT}", describe_left(left));
    Error::repair(message, &next)
}

fn describe_failed_exchange(message: String) -> Abort {
    let next = "The environment was restored. Fix that, then try again.";
    Error::repair(message, next).into()
}

fn describe_failed_write(message: String) -> Abort {
    let next = format!("The environment was restored. {FREE_SPACE}");
    Error::repair(message, &next).into()
}
