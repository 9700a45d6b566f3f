//! Strategy `release`: moves packages to the versions that were available when the installed release of
//! aws-parallelcluster came out. As few packages as possible are moved. This code names no packages except
//! aws-parallelcluster and CDK.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::checker::{self, CheckOutcome};
use crate::environment::packages::read_installed;
use crate::environment::record::recorded_paths;
use crate::environment::synthesis::{self, Synthesis};
use crate::environment::target::Target;
use crate::error::{Abort, Error};
use crate::model::distribution::Packages;
use crate::repair::change::{Change, compare};
use crate::repair::context::Repair;
use crate::repair::culprit::minimize;
use crate::repair::hints::UNCHANGED_FREE_SPACE;
use crate::repair::installer::{InstallOutcome, Installer, quote_last_lines};
use crate::repair::plan::{InstallRequest, Reason, move_to};
use crate::repair::prove::{describe_unproven, prove};
use crate::repair::requirement::is_requirement;
use crate::repair::stage::{Staged, UNSOLVABLE, create_overlay, stage};
use crate::report::Verdict;
use crate::rules::advisories::releases::read_dates;
use crate::system::child::ChildError;
use crate::system::files::describe;
use crate::text::package_name::PCLUSTER;

/// The time limit for finding the packages at fault. Packages that are not ruled out by then are moved too.
const MAX_SEARCH: Duration = Duration::from_secs(180);

/// Advice if the packages that were available at the time of the release do not help.
const ANEW: &str = "Nothing was changed. Create a new environment; to print what it needs, run `pcluster preflight constraints`.";

/// Packages that move together: all CDK packages, which pin one another, or a single other package.
#[derive(Debug)]
struct Group {
    changes: Vec<Change>,
    /// The directory that contains the packages of this group, and no others.
    directory: PathBuf,
}

/// The packages that were available when the installed release came out. Only those that differ from the
/// installed packages are in a group.
#[derive(Debug)]
struct DatedPackages {
    groups: Vec<Group>,
    /// The time when the release came out.
    moment: String,
    /// Contains the directories of the groups.
    _root: TempDir,
}

/// How the search tests packages: by only starting pcluster, which is quick, or by the whole check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Start,
    Check,
}

/// Finds as few packages as possible that make the environment ready if they move to the versions available
/// when the installed release came out. Then stages and proves these packages.
pub fn restore_release(repair: &Repair) -> Result<Staged, Abort> {
    let dated = fetch_dated_packages(repair)?;
    let all: Vec<usize> = (0..dated.groups.len()).collect();
    let deadline = Instant::now() + MAX_SEARCH;
    let search = |background: &[usize], test| {
        let others: Vec<usize> = all.iter().filter(|index| !background.contains(index)).copied().collect();
        let mut count = 0;
        let mut passes = |moved: &[usize]| {
            if Instant::now() > deadline {
                return Ok(None);
            }
            count += 1;
            let of = format!("finding out which of {} packages are at fault (test {count})", all.len());
            let _step = repair.request.progress.step(&of);
            run_test(repair, &dated, moved, test).map(Some)
        };
        minimize(background, &others, &mut passes).map(|found| [background, &found].concat())
    };
    let mut moved = Vec::new();
    if !run_test(repair, &dated, &moved, Test::Start)? {
        if !run_test(repair, &dated, &all, Test::Start)? {
            return Err(describe_useless(&dated).into());
        }
        moved = search(&moved, Test::Start)?;
        if let Ok(proven) = stage_and_prove(repair, &dated, &moved)? {
            return Ok(proven);
        }
    }
    moved = search(&moved, Test::Check)?;
    Ok(match stage_and_prove(repair, &dated, &moved)? {
        Err(error) if moved.len() == all.len() => return Err(error.into()),
        Err(_) => stage_and_prove(repair, &dated, &all)??,
        Ok(proven) => proven,
    })
}

/// Stages the packages of these groups and proves them. The inner error says why they are not sufficient.
fn stage_and_prove(
    repair: &Repair,
    dated: &DatedPackages,
    moved: &[usize],
) -> Result<Result<Staged, Error>, Abort> {
    let changes = moved.iter().flat_map(|index| &dated.groups[*index].changes);
    let reasons: Vec<Reason> = changes.filter_map(describe_reason).collect();
    let mut staged = match stage(repair, &reasons)? {
        Err(error) => return Ok(Err(error)),
        Ok(staged) => staged,
    };
    Ok(match prove(repair, &mut staged)? {
        None => Ok(staged),
        Some(report) => Err(describe_unproven(repair, &staged, &report)),
    })
}

/// The reason that is shown next to the change of a package at fault.
fn describe_reason(change: &Change) -> Option<Reason> {
    let id = match &change.from {
        Some(version) => format!("{version} breaks pcluster, {} does not", change.to),
        None => "pcluster needs it".into(),
    };
    Some(Reason { id, fix: move_to(&change.package, &change.to)? })
}

fn run_test(repair: &Repair, dated: &DatedPackages, moved: &[usize], test: Test) -> Result<bool, Abort> {
    let in_front = |target: Target, index: &usize| target.with_overlay(&dated.groups[*index].directory);
    let target = moved.iter().fold(repair.target.clone(), in_front);
    let request = repair.request;
    match test {
        Test::Start => match synthesis::start(&target, request.settings.timeout) {
            Err(ChildError::Interrupted(interrupted)) => Err(interrupted.into()),
            answer => Ok(answer.is_ok_and(|answer| matches!(answer.synthesis, Synthesis::Started))),
        },
        Test::Check => checker::check(request, &target).map(
            |outcome| matches!(outcome, CheckOutcome::Report(report) if report.verdict == Verdict::Ready),
        ),
    }
}

fn fetch_dated_packages(repair: &Repair) -> Result<DatedPackages, Abort> {
    let root = create_overlay(repair)?;
    let directory = |name: &str| {
        let path = root.path().join(name);
        let made = fs::create_dir(&path).map_err(describe("cannot create", &path));
        made.map(|()| path).map_err(|message| Error::repair(message, UNCHANGED_FREE_SPACE))
    };
    let installer = repair.installer.limiting_dates(&directory("uv")?)?;
    let moment = find_moment(repair, &installer)?;
    let whole = directory("whole")?;
    install_dated(repair, &installer, &moment, &whole)?;
    let staged = read_installed(std::slice::from_ref(&whole));
    let mut changes = compare(repair.packages.all(), staged.all(), &[]);
    changes.retain(|change| change.package != PCLUSTER);
    let mut groups: Vec<Group> = Vec::new();
    for (number, changes) in group_changes(changes).into_iter().enumerate() {
        let directory = directory(&number.to_string())?;
        for change in &changes {
            let moved = move_files(&staged, &change.package, &whole, &directory);
            moved.map_err(|message| Error::repair(message, UNCHANGED_FREE_SPACE))?;
        }
        groups.push(Group { changes, directory });
    }
    Ok(DatedPackages { groups, moment, _root: root })
}

/// Groups changes: all changes of CDK packages together, every other change alone.
fn group_changes(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let (cdk, others): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|change| change.package.starts_with("aws-cdk-"));
    let cdk = Some(cdk).filter(|cdk| !cdk.is_empty());
    others.into_iter().map(|change| vec![change]).chain(cdk).collect()
}

/// The time when the installed release came out: from the package index or, if the index does not report it,
/// from the built-in table.
fn find_moment(repair: &Repair, installer: &Installer) -> Result<String, Abort> {
    let version = repair.packages.get(PCLUSTER).map(|pcluster| pcluster.version.as_str()).unwrap_or_default();
    let shipped = read_dates().find(|(release, _)| *release == version).map(|(_, moment)| moment.to_owned());
    let told = installer.find_upload_time(&format!("{PCLUSTER}=={version}"))?;
    told.or(shipped).ok_or_else(|| {
        let message = format!("the release date of {PCLUSTER} {version} is not known");
        let next = "Nothing was changed. Update pcluster-shim, or use an index that reports upload times.";
        Error::repair(message, next).into()
    })
}

/// Installs the requirements of the installed aws-parallelcluster into `directory`, in the versions that were
/// available at `moment`.
fn install_dated(
    repair: &Repair,
    installer: &Installer,
    moment: &str,
    directory: &Path,
) -> Result<(), Abort> {
    let progress = repair.request.progress;
    let step = progress.step(&format!("fetching the packages available on {}", day(moment)));
    let requires = repair.packages.get(PCLUSTER).map(|pcluster| pcluster.requires.as_slice());
    let requirements = requires.unwrap_or_default().iter().filter(|line| is_requirement(line));
    let request = InstallRequest {
        requirements: requirements.cloned().collect(),
        constraints: Vec::new(),
        uploaded_before: Some(moment.to_owned()),
    };
    let outcome = installer.install(&request, directory)?;
    drop(step);
    match outcome {
        InstallOutcome::Installed { output } => {
            progress.write_output(&output, repair.options.verbose);
            Ok(())
        }
        InstallOutcome::Failed { message, output } => {
            let python = &repair.target.interpreter.version;
            let what =
                format!("the packages available on {} cannot be installed for Python {python}", day(moment));
            let message = format!("{what}: {message}\n{}", quote_last_lines(&output));
            let is_for_another_python = UNSOLVABLE
                .iter()
                .chain(&["Failed to build", "Build failures"])
                .any(|sign| output.contains(sign));
            let next = if is_for_another_python {
                ANEW
            } else {
                "Nothing was changed. Fix what the installer reports, then try again."
            };
            Err(Error::repair(message.trim_end().to_owned(), next).into())
        }
    }
}

fn day(moment: &str) -> &str {
    moment.split('T').next().unwrap_or(moment)
}

/// Moves the files of a package from one directory to another.
fn move_files(staged: &Packages, package: &str, from: &Path, to: &Path) -> Result<(), String> {
    let Some(distribution) = staged.get(package) else { return Ok(()) };
    let files = recorded_paths(from, &distribution.metadata)
        .ok_or_else(|| format!("{} {} has no RECORD", distribution.name, distribution.version))?;
    for file in files.iter().filter(|file| file.symlink_metadata().is_ok()) {
        let Ok(name) = file.strip_prefix(from) else { continue };
        let path = to.join(name);
        let parent = path.parent().unwrap_or(to);
        fs::create_dir_all(parent).map_err(describe("cannot create", parent))?;
        fs::rename(file, &path).map_err(describe("cannot write", &path))?;
    }
    Ok(())
}

fn describe_useless(dated: &DatedPackages) -> Error {
    let message =
        format!("pcluster does not start with the packages available on {} either", day(&dated.moment));
    Error::repair(message, ANEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(package: &str) -> Change {
        Change {
            package: package.into(),
            from: Some("2".into()),
            to: "1".into(),
            why: String::new(),
            edits: Vec::new(),
        }
    }

    #[test]
    fn the_packages_of_cdk_move_together() {
        let groups = group_changes(["aws-cdk-core", "flask", "aws-cdk-aws-ec2", "jsii"].map(change).into());
        let names: Vec<Vec<&str>> =
            groups.iter().map(|group| group.iter().map(|change| change.package.as_str()).collect()).collect();
        assert_eq!(names, [vec!["flask"], vec!["jsii"], vec!["aws-cdk-core", "aws-cdk-aws-ec2"]]);
        assert!(group_changes(Vec::new()).is_empty());
    }

    #[test]
    fn a_culprit_is_named_with_both_versions() {
        let reason = describe_reason(&change("setuptools")).unwrap();
        assert_eq!(reason.id, "2 breaks pcluster, 1 does not");
        assert_eq!(reason.fix.upgrade.to_string(), "==1");
        let absent = Change { from: None, ..change("setuptools") };
        assert_eq!(describe_reason(&absent).unwrap().id, "pcluster needs it");
    }
}
