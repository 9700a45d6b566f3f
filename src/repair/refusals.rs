//! What a repair in place refuses: directories and packages that belong to others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::environment::packages::Distribution;
use crate::error::Error;
use crate::package_name::{PCLUSTER, matches};
use crate::repair::context::Repair;
use crate::repair::hints::ISOLATED;
use crate::repair::ownership::{marker_over, refuse_another_users, spack_prefix};
use crate::repair::plan::Change;

/// Refuses what is known before anything is fetched: directories that belong to others, and packages
/// that this user may not write.
///
/// # Errors
/// Returns an error if the environment cannot be repaired in place.
pub fn refuse_early(repair: &Repair) -> Result<(), Error> {
    let is_moving = |name: &str| repair.reasons.iter().any(|reason| matches(&reason.fix.packages, name));
    let moving: Vec<&Distribution> =
        repair.packages.iter().filter(|(name, _)| is_moving(name)).map(|(_, package)| package).collect();
    if moving.iter().any(|package| is_condas(package) || spack_prefix(package).is_some()) {
        // The command to run names versions, which are not known yet.
        return Ok(());
    }
    let parents = moving.iter().filter_map(|package| package.metadata.parent());
    let mut sites: BTreeSet<PathBuf> = parents.map(Path::to_owned).collect();
    if sites.is_empty() {
        // What is new comes beside aws-parallelcluster.
        sites.insert(repair.state.site().to_owned());
    }
    refuse_directories(repair, &sites.iter().cloned().collect::<Vec<_>>(), &sites)
}

/// Refuses directories that are the system's, another user's, or cannot be written. `sites` are
/// directories of packages, `all` those in which files change.
///
/// # Errors
/// Returns an error if one of them is.
pub fn refuse_directories(repair: &Repair, sites: &[PathBuf], all: &BTreeSet<PathBuf>) -> Result<(), Error> {
    let marked = |site: &PathBuf| Some((site.clone(), marker_over(site, &repair.target.interpreter)?));
    if let Some((site, marker)) = sites.iter().find_map(marked) {
        let why = format!("{} belongs to the system ({} says so)", site.display(), marker.display());
        return Err(Error::NotInPlace { why, next: ISOLATED.into() });
    }
    let every = sites.iter().chain(all).map(PathBuf::as_path);
    refuse_another_users(every, "fix", &repair.request.real.path)?;
    match all.iter().find(|directory| !is_writable(directory)) {
        Some(directory) => {
            let why = format!("{} cannot be written", directory.display());
            Err(Error::NotInPlace { why, next: ISOLATED.into() })
        }
        None => Ok(()),
    }
}

/// Refuses packages of conda's and Spack's, with the command of theirs that does it.
///
/// # Errors
/// Returns an error if one of the packages that move is theirs.
pub fn refuse_managed_packages(repair: &Repair, changes: &[Change]) -> Result<(), Error> {
    let of = |is_its: fn(&Distribution) -> bool| -> Vec<&Change> {
        let is_its = |change: &&Change| repair.packages.get(&change.package).is_some_and(is_its);
        changes.iter().filter(is_its).collect()
    };
    let condas = of(is_condas);
    if !condas.is_empty() {
        return Err(refuse_condas(repair, &condas));
    }
    let spacks = of(|package| spack_prefix(package).is_some());
    let prefix = spacks.iter().find_map(|change| spack_prefix(repair.packages.get(&change.package)?));
    prefix.map_or(Ok(()), |prefix| Err(refuse_spacks(repair, &spacks, &prefix)))
}

fn refuse_condas(repair: &Repair, changes: &[&Change]) -> Error {
    let name = |package: &str| {
        repair.packages.get(package).map_or_else(|| package.to_owned(), |old| old.name.to_lowercase())
    };
    let specs = changes.iter().map(|change| format!("'{}={}'", name(&change.package), change.to));
    let specs = specs.collect::<Vec<_>>().join(" ");
    let prefix = repair.target.interpreter.prefix.display();
    let why = "its packages were installed by conda, and pip must not change them behind its back";
    let next = format!("Run `conda install --prefix {prefix} {specs}`.");
    Error::NotInPlace { why: why.into(), next }
}

fn refuse_spacks(repair: &Repair, changes: &[&Change], prefix: &Path) -> Error {
    // Spack calls a Python package py-NAME.
    let specs = changes.iter().map(|change| format!(" ^py-{}@{}", change.package, change.to));
    let version = repair.packages.get(PCLUSTER).map(|pcluster| format!("@{}", pcluster.version));
    let why = format!("{} was installed by Spack, which knows its files by their digests", prefix.display());
    let next = format!(
        "Run `spack install {PCLUSTER}{}{}`, or `pcluster preflight fix --isolated`, which keeps the repair \
         beside it.",
        version.unwrap_or_default(),
        specs.collect::<String>()
    );
    Error::NotInPlace { why, next }
}

fn is_condas(distribution: &Distribution) -> bool {
    distribution.installer().as_deref() == Some("conda")
}

fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}
