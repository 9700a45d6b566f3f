//! The exchange of the proven packages for the installed ones: under locks, behind a journal and a
//! snapshot, verified, and put back as it was where anything fails.

use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::environment::packages::Packages;
use crate::error::{Abort, Error, RepairStep};
use crate::package_name::PCLUSTER;
use crate::repair::context::{BrokenRequirements, Repair};
use crate::repair::file_plan::FilePlan;
use crate::repair::hints::{FREE_SPACE, ISOLATED, UNCHANGED_FREE_SPACE};
use crate::repair::lock::lock_against_uv;
use crate::repair::overlay::remove_overlay;
use crate::repair::plan::Change;
use crate::repair::refusals::{refuse_directories, refuse_managed_packages};
use crate::repair::stage::Staged;
use crate::repair::state::describe_taken;
use crate::repair::verify::verify;
use crate::system::concurrently::concurrently;

/// Exchanges the files of the environment for the staged ones, and returns what has changed.
///
/// # Errors
/// Returns an error if it cannot be done or verified, or a signal came. The environment is then what
/// it was, but for packages that another installer has written meanwhile.
pub fn commit(
    repair: &Repair,
    staged: Staged,
    broken_before: &BrokenRequirements,
) -> Result<Vec<Change>, Abort> {
    refuse_managed_packages(repair, &staged.changes)?;
    let _uv_lock = lock_against_uv(&repair.target.interpreter.prefix, repair.request.progress)?;
    let _exclusive = repair.state.lock_exclusive()?;
    refuse_if_changed(repair)?;
    let plan = plan_files(repair, &staged)?;
    refuse_directories(repair, &plan.sites(), &plan.directories())?;
    let step = repair.request.progress.step(&format!(
        "exchanging {} files of {} packages",
        plan.removals.len() + plan.additions.len(),
        staged.changes.len()
    ));
    let transactions = repair.state.transactions();
    let journal = transactions
        .begin(unique_id(), repair.state.site(), &plan, staged.changes.clone())
        .map_err(|message| Error::repair(RepairStep::Snapshot, message, UNCHANGED_FREE_SPACE))?;
    // Once more: to take the snapshot has taken time.
    let unchanged = if journal.taken().packages.is_empty() {
        refuse_if_changed(repair)
    } else {
        Err(changed_meanwhile())
    };
    unchanged.inspect_err(|_| transactions.abandon(&journal))?;
    let exchanged = transactions.exchange(&plan).map_err(exchange_failed);
    drop(step);
    let done = exchanged
        .and_then(|()| verify_and_sync(repair, broken_before, &plan))
        .and_then(|()| journal.moved().map_or(Ok(()), |package| Err(moved_meanwhile(package).into())))
        .and_then(|()| transactions.close(&journal).map_err(not_written));
    let Err(reason) = done else {
        // A repair that was kept beside the environment is not needed any more.
        let _ = remove_overlay(repair.state);
        return Ok(staged.changes);
    };
    Err(match (transactions.restore(&journal), reason) {
        (Ok(taken), Abort::Error(_)) if !taken.is_empty() => left_to_another(&taken).into(),
        (Ok(_), reason) => reason,
        (Err(failed), _) => Error::from(failed).into(),
    })
}

fn plan_files(repair: &Repair, staged: &Staged) -> Result<FilePlan, Error> {
    let refused = |why| Error::NotInPlace { why, next: ISOLATED.into() };
    let mut plan = FilePlan::default();
    for change in &staged.changes {
        let old = repair.packages.get(&change.package);
        // Spelled as `sys.path` does: one file must not have two names here.
        let beside = repair.packages.get(PCLUSTER);
        let site = old.or(beside).and_then(|package| package.metadata.parent());
        let site = site.unwrap_or(repair.state.site());
        let Some(new) = staged.packages.get(&change.package) else { continue };
        plan.replace(old, new, staged.overlay.path(), site).map_err(refused)?;
    }
    let twice = plan.packages.iter().find_map(|package| Some((&package.package, package.foreign().pop()?)));
    if let Some((package, other)) = twice {
        return Err(refused(format!("{package} is installed twice: {} is there too", other.display())));
    }
    match plan.conflict() {
        Some(path) => {
            Err(refused(format!("{} is in the way, and no package that moves owns it", path.display())))
        }
        None => Ok(plan),
    }
}

/// Between the plan and the lock another installer may have been here.
fn refuse_if_changed(repair: &Repair) -> Result<(), Error> {
    let now = Packages::installed(&repair.target.interpreter.sys_path);
    if now.all() == repair.packages.all() { Ok(()) } else { Err(changed_meanwhile()) }
}

fn verify_and_sync(
    repair: &Repair,
    broken_before: &BrokenRequirements,
    plan: &FilePlan,
) -> Result<(), Abort> {
    let (verified, synced) =
        concurrently(|| verify(repair, broken_before), || repair.state.transactions().sync(plan));
    verified?;
    synced.map_err(not_written)
}

/// For names only.
fn unique_id() -> String {
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{}-{nanoseconds}", process::id())
}

const WAIT: &str = "Wait until the other installer has ended, then run it again.";

fn changed_meanwhile() -> Error {
    let message = "another installer has changed the environment meanwhile".into();
    Error::repair(RepairStep::Commit, message, &format!("The repair has changed nothing. {WAIT}"))
}

fn moved_meanwhile(package: &str) -> Error {
    let message = format!("another installer has changed {package} meanwhile");
    Error::repair(RepairStep::Commit, message, &format!("The environment was put back as it was. {WAIT}"))
}

/// The rollback destroys nothing that another installer has written in the meantime.
fn left_to_another(packages: &[String]) -> Error {
    let message = format!("another installer has changed {} meanwhile", packages.join(", "));
    let next = format!("The environment was put back as it was{}. {WAIT}", describe_taken(packages));
    Error::repair(RepairStep::Commit, message, &next)
}

fn exchange_failed(message: String) -> Abort {
    let next = "The environment is as it was. Correct that, then run it again.";
    Error::repair(RepairStep::Commit, message, next).into()
}

fn not_written(message: String) -> Abort {
    let next = format!("The environment was put back as it was. {FREE_SPACE}");
    Error::repair(RepairStep::Commit, message, &next).into()
}
